#!/bin/sh
# usage: expect_failure.sh REGEX COMMAND...     exit 0 when COMMAND fails and prints a line that fits REGEX (grep -E)
regex=$1
shift
text=$("$@" 2>&1)
code=$?
printf '%s\n' "$text"
if [ "$code" -eq 0 ]; then
  echo "expect_failure: the command ended well, it should have failed"
  exit 1
fi
if ! printf '%s\n' "$text" | grep -Eq -- "$regex"; then
  echo "expect_failure: no line fits: $regex"
  exit 1
fi
