# Sourced by run.sh and ops.sh: what the environment may set, and the same cores for every side.
# shellcheck shell=bash disable=SC2034
export LC_ALL=C
build=${BUILD:-build}
rounds=${ROUNDS:-3}
threads=${THREADS:-2}
python=${PYTHON:-python3}
each=${SECONDS_EACH:-2}
export OMP_NUM_THREADS=$threads OPENBLAS_NUM_THREADS=$threads

say() { echo "$*" >&2; }

# As many cores as threads, no two of them on one physical core.
pin=()
if command -v taskset >/dev/null && command -v lscpu >/dev/null; then
  cores=$(lscpu -p=CPU,CORE,SOCKET | awk -F, '!/^#/ && !seen[$2, $3]++ {print $1}' | head -n "$threads" | paste -sd, -)
  if taskset -c "$cores" true 2>/dev/null; then pin=(taskset -c "$cores"); fi
fi
