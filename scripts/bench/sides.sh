# Sourced by run.sh and ops.sh: what the environment may set, and the sides as processes that take turns, with their
# files in $out.
# shellcheck shell=bash disable=SC2034,SC2154
export LC_ALL=C
build=${BUILD:-build}
rounds=${ROUNDS:-15}
threads=${THREADS:-2}
python=${PYTHON:-python3}
each=${SECONDS_EACH:-0.3}
export OMP_NUM_THREADS=$threads OPENBLAS_NUM_THREADS=$threads

say() { echo "$*" >&2; }

# installed PEER MODULES: whether Python has these modules; says what to install if it does not.
installed() {
  "$python" -c "import ${2// /, }" >/dev/null 2>&1 || { say "$1: not installed, skipped (pip install $2)"; return 1; }
}

# As many cores as threads, no two of them on one physical core.
pin=()
if command -v taskset >/dev/null && command -v lscpu >/dev/null; then
  cores=$(lscpu -p=CPU,CORE,SOCKET | awk -F, '!/^#/ && !seen[$2, $3]++ {print $1}' | head -n "$threads" | paste -sd, -)
  if taskset -c "$cores" true 2>/dev/null; then pin=(taskset -c "$cores"); fi
fi

# ---- turns.  Processors of shared machines change their speed within seconds: turns are short, and a ratio is taken
# between neighbours.  A side is a process that answers each name on its standard input with a line: name, figure, unit,
# peak memory, tab-separated.
sides=()
declare -A to=() from=()
trap '' PIPE

# start SIDE COMMAND ...
start() {
  local side=$1 input output
  shift
  rm -f "$out/$side".{in,out}
  mkfifo "$out/$side".{in,out}
  "${pin[@]}" "$@" --serve --threads "$threads" --seconds "$each" \
    <"$out/$side.in" >"$out/$side.out" 2>>"$out/errors.log" &
  exec {input}>"$out/$side.in" {output}<"$out/$side.out"
  to[$side]=$input from[$side]=$output
  sides+=("$side")
}

# send SIDE NAME; receive SIDE NAME ROUND, which keeps the figure.  Both are false for a side that has failed.
send() { [ -n "${to[$1]}" ] && { echo "$2" >&"${to[$1]}"; } 2>/dev/null; }
receive() {
  local line
  [ -n "${from[$1]}" ] || return
  if IFS= read -r line <&"${from[$1]}"; then
    printf '%s\t%s\t%s\n' "$3" "$1" "$line" >>"$out/turns.tsv"
  else
    say "$1: $2 failed, see $out/errors.log"
    to[$1]="" from[$1]=""
    return 1
  fi
}

# take_turns NAME: one after the other; in round 0 they get ready.
take_turns() {
  local side round
  for round in $(seq 0 "$rounds"); do
    for side in "${sides[@]}"; do send "$side" "$1" && receive "$side" "$1" "$round"; done
  done
}

# stop: every side sees the end of its input, the last one first.
stop() {
  local side fd
  for side in "${sides[@]}"; do
    fd=${to[$side]} && [ -n "$fd" ] && exec {fd}>&-
    fd=${from[$side]} && [ -n "$fd" ] && exec {fd}<&-
    rm -f "$out/$side".{in,out}
  done
  sides=() to=() from=()
  wait
}
