#!/usr/bin/env bash
# What must not be in the library: mutable globals, Lua symbols, ways to end the process or to print, and
# exported names that are not the interface's.
set -u
library=$1
bad=0
report() {
  if [ -n "$2" ]; then
    printf '%s:\n%s\n' "$1" "$2"
    bad=1
  fi
}
# Constants that hold addresses lie in .data.rel.ro, which is read-only once loaded: only .data, .bss, .tdata and
# .tbss are mutable.
objects=$(find "$(dirname "$library")/obj/runtime" "$(dirname "$library")/obj/kernels" -name '*.o' 2>/dev/null)
# shellcheck disable=SC2086
report "mutable globals" "$(nm -A -f sysv $objects 2>/dev/null | grep -E '\|(\.data|\.bss|\.tdata|\.tbss|\*COM\*)(\.[a-zA-Z_0-9.]*)?$' | grep -vE '\|\.data\.rel\.ro' | grep -v '|SECTION' || true)"
report "Lua symbols" "$(nm -D --undefined-only "$library" | grep -E ' (lua_|luaL_)' || true)"
report "calls that end the process or print" \
  "$(nm -D --undefined-only "$library" | grep -wE 'exit|_exit|_Exit|quick_exit|abort|raise|kill|printf|puts|putchar|putc|fputs|fputc|fwrite|fprintf|vfprintf|vprintf|perror|__printf_chk|__fprintf_chk|__vfprintf_chk|__assert_fail|stdout|stderr|signal|sigaction|setlocale|longjmp' || true)"
report "exported names outside the interface" "$(nm -D --defined-only "$library" | awk '{print $3}' | grep -vE '^nnl_' || true)"
exit $bad
