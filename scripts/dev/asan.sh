#!/usr/bin/env bash
# The specs on a build with AddressSanitizer and UndefinedBehaviorSanitizer:  scripts/dev/asan.sh BUILD [SPEC...]
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$1
shift
[ $# -gt 0 ] || set -- spec/golden_spec.lua spec/files_spec.lua spec/modules_spec.lua spec/tensor_spec.lua \
    spec/views_spec.lua spec/autograd_spec.lua spec/compile_spec.lua spec/compile_passes_spec.lua \
    spec/compile_calls_spec.lua spec/compile_random_spec.lua spec/winograd_spec.lua
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
# Stock Lua does not free its own state at os.exit; the leak check belongs to the C programs.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
exec bash scripts/dev/specs.sh "$build" "$@"
