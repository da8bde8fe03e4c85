#!/usr/bin/env bash
# The workloads on every side in turns, several rounds: a table of figures, ratios and memory, which also goes to
# $BUILD/bench/table.md, with results.json and chart.svg beside it.  Peers that are not installed are skipped with a word.
#
#   scripts/bench/run.sh [NAME ...]       environment: ROUNDS (3), SECONDS_EACH (2), THREADS (2), PYTHON (python3),
#                                         COMPILE (1: torch.compile too, which takes minutes), BUILD (build)
set -u
cd "$(dirname "$0")/../.." || exit 1
. scripts/bench/settings.sh
out=$build/bench
mkdir -p "$out/rounds"
rm -f "$out"/rounds/*.tsv "$out"/*.tsv "$out/errors.log"

# ---- which peers there are, and which of them have a workload
declare -A needs=([torch]="torch numpy" [jax]=jax [onnx]="onnxruntime onnx" [numpy]=numpy)
installed=" "
for peer in torch jax onnx numpy; do
  if "$python" -c "import ${needs[$peer]// /, }" >/dev/null 2>&1; then
    installed+="$peer "
    if [ $peer = torch ] && [ -n "${COMPILE:-}" ]; then installed+="compile "; fi
  else
    say "$peer: not installed, skipped (pip install ${needs[$peer]})"
  fi
done

peers_of() {
  case $1 in
    seed-2-3-1-formulas) echo numpy ;;
    seed-2-3-1) echo torch compile jax numpy ;;
    door-add-4) echo torch numpy ;;
    *-infer-b1) echo torch compile jax onnx ;;
    *) echo torch compile jax ;;
  esac
}

# measure SIDE WORKLOAD ROUND: a process of its own, so that its peak memory is the workload's.
measure() {
  local command
  case $1 in
    ours) command=("$build/nnlua" scripts/bench/workloads.lua) ;;
    compile) command=("$python" scripts/bench/peers/torch_peer.py --compile) ;;
    *) command=("$python" "scripts/bench/peers/$1_peer.py") ;;
  esac
  "${pin[@]}" "${command[@]}" --threads "$threads" --seconds "$each" "$2" >>"$out/rounds/$3-$1.tsv" 2>>"$out/errors.log" ||
    say "$1: $2 failed, see $out/errors.log"
}

# peak WORKLOAD ROUND: the rate of matrix products right beside it, as shared machines change their speed.
peak() {
  "${pin[@]}" "$build/bench/gemm" peak "$threads" | tee -a "$out/peak.tsv" |
    awk -F '\t' -v name="$1" '$2 > best {best = $2} END {printf "%s/peak\t%s\tGFLOP/s\n", name, best}' >>"$out/rounds/$2-ours.tsv"
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
case $installed in *torch*) startup "import torch" 3 "$python" -c 'import torch' ;; esac
fact "door from C" "$("$build/bench/door" | sed 's/.*: \([0-9.]*\) us/\1/')" us

# ---- the rounds
names=$("$build/nnlua" scripts/bench/workloads.lua --list "$@") || exit 1
for round in $(seq "$rounds"); do
  for name in $names; do
    say "round $round of $rounds: $name"
    measure ours "$name" "$round"
    case $name in *-train-* | *-infer-*) peak "$name" "$round" ;; esac
    for peer in $(peers_of "$name"); do
      case $installed in *" $peer "*) measure "$peer" "$name" "$round" ;; esac
    done
  done
done
"$build/nnlua" scripts/bench/table.lua "$out" | tee "$out/table.md"
