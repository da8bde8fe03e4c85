#!/usr/bin/env bash
# The ops of ops.txt here and in PyTorch (and oneDNN, OpenBLAS, where they have them) in turns, many short rounds; what is
# slower than PyTorch comes first.
#
#   scripts/bench/ops.sh [BEGINNING OF A NAME ...]      environment: ROUNDS (15), SECONDS_EACH (0.03), THREADS (2),
#                                                       PYTHON (python3), BUILD (build)
set -u
cd "$(dirname "$0")/../.." || exit 1
SECONDS_EACH=${SECONDS_EACH:-0.03}
. scripts/bench/sides.sh
out=$build/bench/ops
mkdir -p "$out"
rm -f "$out"/*.tsv "$out/errors.log"

peers=scripts/bench/peers
start ours "$build/nnlua" scripts/bench/ops.lua
if installed torch "torch numpy"; then
  start torch "$python" $peers/torch_ops.py
  start onednn "$python" $peers/torch_ops.py --onednn
fi
if installed numpy numpy; then start openblas "$python" $peers/openblas_ops.py; fi
"$build/nnlua" scripts/bench/ops.lua --list "$@" >"$out/names"
while IFS= read -r name; do
  say "$name"
  take_turns "$name"
done <"$out/names"
stop
"$build/nnlua" scripts/bench/ops_table.lua "$out" | tee "$out/table.txt"
