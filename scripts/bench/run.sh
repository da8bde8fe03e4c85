#!/usr/bin/env bash
# The workloads on every side in turns, many short rounds: a table of figures, ratios and memory, which also goes to
# $BUILD/bench/table.md, with results.json and chart.svg beside it.  Peers that are not installed are skipped with a word.
#
#   scripts/bench/run.sh [NAME ...]       environment: ROUNDS (15), SECONDS_EACH (0.3; a turn has a step at least),
#                                         THREADS (2), PYTHON (python3), BUILD (build),
#                                         COMPILE (1: torch.compile too, which takes minutes)
set -u
cd "$(dirname "$0")/../.." || exit 1
. scripts/bench/sides.sh
out=$build/bench
mkdir -p "$out"
rm -f "$out"/*.tsv "$out/errors.log"

declare -A has=()
installed torch "torch numpy" && has[torch]=1 && has[compile]=${COMPILE:-}
installed jax jax && has[jax]=1
installed onnx "onnxruntime onnx" && has[onnx]=1
installed numpy numpy && has[numpy]=1

# The peer to beat stands next to ours.
peers_of() {
  case $1 in
    seed-2-3-1-formulas) echo numpy ;;
    seed-2-3-1) echo numpy torch compile jax ;;
    door-add-4) echo numpy torch ;;
    *-infer-b1) echo onnx torch compile jax ;;
    *) echo torch compile jax ;;
  esac
}

# A workload has processes of its own, so that their peak memory is the workload's.
measure() {
  local peer peers=scripts/bench/peers
  case $1 in *-train-* | *-infer-*) start peak "$build/bench/gemm" ;; esac
  start ours "$build/nnlua" scripts/bench/workloads.lua
  for peer in $(peers_of "$1"); do
    if [ -z "${has[$peer]:-}" ]; then continue; fi
    case $peer in
      compile) start compile "$python" $peers/torch_peer.py --compile ;;
      *) start "$peer" "$python" "$peers/${peer}_peer.py" ;;
    esac
  done
  take_turns "$1"
  stop
}

# ---- facts about the machine and the build
# fact NAME VALUE UNIT
fact() { printf '%s\t%s\t%s\n' "$@" >>"$out/facts.tsv"; }

# startup NAME RUNS COMMAND...: the best of several, in milliseconds.
startup() {
  local name=$1 runs=$2 best=999999999 start time
  shift 2
  for _ in $(seq "$runs"); do
    start=${EPOCHREALTIME/./}
    "$@" >/dev/null 2>&1 || return
    time=$((${EPOCHREALTIME/./} - start))
    if [ $time -lt $best ]; then best=$time; fi
  done
  fact "startup $name" "$(awk "BEGIN {print $best / 1000}")" ms
}

fact processor "$(lscpu 2>/dev/null | sed -n 's/^Model name: *//p')" ""
fact isa "$("$build/nnlua" info | sed -n 's/^instruction set *\([a-z0-9]*\).*/\1/p')" ""
fact threads "$threads" ""
fact rounds "$rounds" ""
fact seconds "$each" s
strip -o "$out/stripped.so" "$build/libnnlua.so" && fact library "$(wc -c <"$out/stripped.so")" bytes
startup nnlua 20 "$build/nnlua" -e ''
startup lua5.4 20 lua5.4 -e ''
if [ -n "${has[torch]:-}" ]; then startup "import torch" 3 "$python" -c 'import torch'; fi
fact "door from C" "$("$build/bench/door" | sed 's/.*: \([0-9.]*\) us/\1/')" us

names=$("$build/nnlua" scripts/bench/workloads.lua --list "$@") || exit 1
for name in $names; do
  say "$name: $rounds rounds"
  measure "$name"
done
"$build/nnlua" scripts/bench/table.lua "$out" | tee "$out/table.md"
