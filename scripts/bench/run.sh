#!/usr/bin/env bash
# The workloads on both sides in turns, several rounds, and their ratios.  Peers that are not installed are
# skipped with a word.
#
#   scripts/bench/run.sh [BUILD]       environment: ROUNDS (3), SECONDS_EACH (2), THREADS (2), PYTHON (python3)
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${1:-build}
rounds=${ROUNDS:-3}
each=${SECONDS_EACH:-2}
threads=${THREADS:-2}
python=${PYTHON:-python3}
out=$build/bench
mkdir -p "$out"
rm -f "$out"/*.tsv

has() { "$python" -c "import $1" >/dev/null 2>&1; }
has numpy || echo "NumPy is not installed: skipped (pip install numpy)"
has torch || echo "PyTorch is not installed: skipped (pip install torch)"

cc -O2 -Iruntime scripts/bench/door.c "$build/libnnlua.a" -lm -pthread $(pkg-config --libs openblas zlib 2>/dev/null) \
  -o "$build/door" 2>/dev/null && "$build/door"

for round in $(seq "$rounds"); do
  echo "round $round of $rounds" >&2
  "$build/nnlua" --threads "$threads" scripts/bench/workloads.lua --seconds "$each" >>"$out/ours.tsv"
  has numpy && "$python" scripts/bench/peers/numpy_peer.py "$each" >>"$out/numpy.tsv"
  has torch && "$python" scripts/bench/peers/torch_peer.py --threads "$threads" --seconds "$each" >>"$out/torch.tsv"
done
exec "$build/nnlua" scripts/bench/table.lua "$out"
