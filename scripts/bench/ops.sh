#!/usr/bin/env bash
# The ops of ops.txt here and in PyTorch (and oneDNN, OpenBLAS, where they have them) in turns, several rounds; what is
# slower than PyTorch comes first.
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

# side NAME SCRIPT [OPTION ...]: where the module is there, a round's times.
side() {
  local name=$1
  shift
  "${pin[@]}" "$@" --seconds "$each" --threads "$threads" "${names[@]}" \
    >"$out/rounds/$round-$name.tsv" 2>>"$out/errors.log" || say "$name failed, see $out/errors.log"
}

names=("$@")
peers=scripts/bench/peers
has() { "$python" -c "import $1" >/dev/null 2>&1 || { say "$2: not installed, skipped (pip install $2)"; return 1; }; }
torch=$(has torch,numpy "torch numpy" && echo yes)
numpy=$(has numpy numpy && echo yes)
for round in $(seq "$rounds"); do
  say "round $round of $rounds"
  side ours "$build/nnlua" scripts/bench/ops.lua
  [ -z "$torch" ] || side torch "$python" $peers/torch_ops.py
  [ -z "$torch" ] || side onednn "$python" $peers/torch_ops.py --onednn
  [ -z "$numpy" ] || side openblas "$python" $peers/openblas_ops.py
done
grep -h ': skipped' "$out/errors.log" | sort -u >&2
"$build/nnlua" scripts/bench/ops_table.lua "$out" | tee "$out/table.txt"
