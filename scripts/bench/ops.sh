#!/usr/bin/env bash
# The ops of ops.txt here and in PyTorch in turns, several rounds; what is slower here comes first.
#
#   scripts/bench/ops.sh [BEGINNING OF A NAME ...]      environment: ROUNDS (3), SECONDS_EACH (0.2), THREADS (2),
#                                                       PYTHON (python3), BUILD (build)
set -u
cd "$(dirname "$0")/../.." || exit 1
SECONDS_EACH=${SECONDS_EACH:-0.2}
. scripts/bench/settings.sh
out=$build/bench/ops
mkdir -p "$out/rounds"
rm -f "$out"/rounds/*.tsv "$out/errors.log"

"$python" -c 'import torch' >/dev/null 2>&1 || say "torch: not installed, skipped (pip install torch)"
options=(--threads "$threads")
for round in $(seq "$rounds"); do
  say "round $round of $rounds"
  "${pin[@]}" "$build/nnlua" "${options[@]}" scripts/bench/ops.lua --seconds "$each" "$@" \
    >"$out/rounds/$round-ours.tsv" 2>>"$out/errors.log"
  "${pin[@]}" "$python" scripts/bench/peers/torch_ops.py "${options[@]}" --seconds "$each" "$@" \
    >"$out/rounds/$round-torch.tsv" 2>>"$out/errors.log"
done
grep -h ': skipped' "$out/errors.log" | sort -u >&2
"$build/nnlua" scripts/bench/ops_table.lua "$out" | tee "$out/table.txt"
