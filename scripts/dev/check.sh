#!/usr/bin/env bash
# Runs checks part by part, keeps their logs, and ends with one line "N passed, N failed".
#
#   scripts/dev/check.sh fast|full      fast is what continuous integration runs
set -u
cd "$(dirname "$0")/../.." || exit 1
level=${1:-fast}
logs=build/check
mkdir -p "$logs"
passed=0
failed=0

# part NAME COMMAND...: counts what a spec runner reports, else the command itself as one check.
part() {
  local name=$1 log="$logs/$1.log" start=$SECONDS status p f e line
  shift
  "$@" >"$log" 2>&1
  status=$?
  p=0; f=0; e=0
  if line=$(grep -aoE '[0-9]+ success(es)? / [0-9]+ failures? / [0-9]+ errors?' "$log" | tail -n 1) && [ -n "$line" ]; then
    read -r p _ _ f _ _ e _ <<<"$line"
    f=$((f + e))
  elif line=$(grep -aoE '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1) && [ -n "$line" ]; then
    read -r p _ f _ <<<"$line"
  elif [ $status -eq 0 ]; then p=1; fi
  if [ $status -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
  passed=$((passed + p))
  failed=$((failed + f))
  printf '%-28s %5d passed %4d failed %5d s\n' "$name" "$p" "$f" $((SECONDS - start))
  if [ "$f" -ne 0 ]; then
    echo "---- end of $log"
    grep -aE -A12 '^(Failure|Error) |error:|FAIL|ERROR: |WARNING: Thread' "$log" | head -n 120
    tail -n 15 "$log"
    echo "----"
  fi
}

specs() { scripts/dev/specs.sh "$@"; }
jobs=$(nproc)

part build           make -s -j"$jobs" all
part bench-programs  make -s bench-programs
part includes        make -s deps
part symbols         scripts/dev/symbols.sh build/libnnlua.so
part lint            make -s lint
part specs           specs build spec
part c-programs      make -s c-specs
part isa-base        env NNLUA_ISA=base   bash scripts/dev/specs.sh build spec/golden_spec.lua
part isa-avx2        env NNLUA_ISA=avx2   bash scripts/dev/specs.sh build spec/golden_spec.lua
part ulp-sample      make -s ulp ULP="--stride 40009"
part asan-build      make -s -j"$jobs" asan-build
part asan-c-programs make -s asan-c-specs
part asan-specs      scripts/dev/asan.sh build/asan
if [ "$level" = full ]; then
  part clang-build     make -s -j"$jobs" BUILD=build/clang CC=clang all
  part clang-specs     bash scripts/dev/specs.sh build/clang spec
  part tsan            make -s tsan
  part valgrind        make -s valgrind
  part oom             make -s oom
  part ulp             make -s ulp
fi
echo
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
