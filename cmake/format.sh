#!/bin/sh
# Formats every C and C++ file as .clang-format says.
#
# usage: cmake/format.sh           rewrite files that differ
#        cmake/format.sh --check   only name them; exit 1 if there are any, 77 if clang-format 14 is not installed
set -eu
cd "$(dirname "$0")/.."

tool=
for candidate in clang-format-14 clang-format; do
    case "$($candidate --version 2>/dev/null || true)" in
    *"version 14."*) tool=$candidate && break ;;
    esac
done
if [ -z "$tool" ]; then
    echo "clang-format 14 not found (other versions format differently): apt-get install clang-format-14" >&2
    exit 77
fi

files() {
    find core proto gateway router expert_worker encoder_worker launch bench tests -type f \
        \( -name '*.c' -o -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.inc' \) 2>/dev/null | sort
}

case "${1:-}" in
--check) files | xargs "$tool" --dry-run -Werror || exit 1 ;;
"") files | xargs "$tool" -i ;;
*) echo "format.sh: unknown argument $1" >&2 && exit 2 ;;
esac
