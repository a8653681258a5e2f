#!/bin/sh
# tests/run with a cmake that only pretends: every workflow is run whatever became of the one before, the totals are right, and the
# exit code says whether any failed.
#
# usage: check_run.sh SOURCE
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/tree/tests" "$dir/tree/launch" "$dir/bin"
cp "$1/tests/run" "$dir/tree/tests/"
printf 'exit 0\n' >"$dir/tree/launch/install-packages"
touch "$dir/tree/tests/requirements.txt"
printf '#!/bin/sh\nexit 1\n' >"$dir/bin/python3" # no PyPI
cat >"$dir/bin/cmake" <<'END'
#!/bin/sh
case $3 in
some) # two fail, one is skipped
    printf ' 1/77 Test  #47: one ...........***Failed   18.03 sec\n 2/77 Test   #9: two ......***Skipped   0.94 sec\n'
    printf '97%% tests passed, 2 tests failed out of 77\n\nThe following tests did not run:\n\t  9 - two (Skipped)\n\n'
    printf 'The following tests FAILED:\n\t 47 - one (Failed)\n\t 51 - three (Timeout)\nErrors while running CTest\n'
    exit 8
    ;;
all) printf '100%% tests passed, 0 tests failed out of 30\n' ;;
new) printf '100%% tests passed out of 3\n' ;; # as CMake 4 says it
unbuilt) printf 'ninja: build stopped\n' && exit 1 ;;
esac
END
chmod +x "$dir/bin/cmake" "$dir/bin/python3"

expect() { # CODE LAST_LINE WORKFLOW...
    code=0
    want_code=$1 want=$2
    shift 2
    PATH=$dir/bin:$PATH bash "$dir/tree/tests/run" "$@" >"$dir/out" 2>&1 || code=$?
    last=$(tail -n 1 "$dir/out")
    if [ "$code" != "$want_code" ] || [ "$last" != "$want" ]; then
        cat "$dir/out"
        echo "check_run: $*: exit $code, \"$last\"; wanted $want_code, \"$want\""
        exit 1
    fi
}
expect 1 "tests: 107 passed, 3 failed, 1 skipped" some all new unbuilt
grep -q '51 - three (Timeout)\|^ *three (Timeout)' "$dir/out"
expect 0 "tests: 33 passed, 0 failed, 0 skipped" all new
expect 1 "tests: 0 passed, 1 failed, 0 skipped" unbuilt
