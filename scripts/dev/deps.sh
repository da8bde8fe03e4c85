#!/usr/bin/env bash
# Includes point only downwards: base, tensor, kernels, ops, engine, program, data and formats, bindings.
set -u
cd "$(dirname "$0")/../.." || exit 1
bad=0
level() {
  case "$1" in
    base) echo 1 ;; tensor) echo 2 ;; kernels) echo 2 ;; ops) echo 3 ;; engine) echo 4 ;; program) echo 5 ;;
    data | formats) echo 6 ;; *) echo 0 ;;
  esac
}
while IFS=: read -r file line; do
  room=$(echo "$file" | cut -d/ -f2)
  target=$(echo "$line" | sed -nE 's/.*"(\.\.\/)?([a-z]+)\/[^"]*".*/\2/p')
  [ -n "$target" ] || continue
  from=$(level "$room"); to=$(level "$target")
  if [ "$to" -gt "$from" ] || { [ "$room" = kernels ] && [ "$target" = tensor ]; }; then
    echo "$file includes $target/, which stands above $room/"
    bad=1
  fi
done < <(grep -HE '^#include "' runtime/*/*.c runtime/*/*.h)
# Kernels know nothing but themselves (the table's select.c apart).
if grep -HnE '^#include "\.\./' runtime/kernels/*.[ch] | grep -v 'kernels/select.c'; then
  echo "kernels include something outside their room"
  bad=1
fi
if grep -HnE '#include <(lua|lauxlib|lualib)\.h>' -r runtime; then
  echo "the runtime includes Lua"
  bad=1
fi
exit $bad
