#!/usr/bin/env bash
# C programs and the golden specs under valgrind, on avx2 (valgrind knows no AVX-512).
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$1
export NNLUA_ISA=avx2 NNLUA_BUILD=$build
bad=0
run() { valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite "$@" >/dev/null || { echo "FAIL valgrind $*"; bad=1; }; }
run "$build/nnlua" scripts/simple_network.lua --epochs 20
run "$build/nnlua" scripts/xor.lua
run "$build/spec/oom"
run "$build/spec/embed_lua"
exit $bad
