#!/usr/bin/env bash
# Runs programs that print "N passed, N failed" and prints the sum.
set -u
passed=0; failed=0
for program in "$@"; do
  output=$("$program" 2>&1); status=$?
  line=$(printf '%s\n' "$output" | grep -aE '^[0-9]+ passed, [0-9]+ failed' | tail -n 1)
  read -r p _ f _ <<<"${line:-0 passed, 0 failed}"
  if [ $status -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
  if [ $status -eq 0 ] && [ -z "$line" ]; then p=1; fi
  passed=$((passed + p)); failed=$((failed + f))
  if [ "$f" -ne 0 ]; then printf 'FAIL %s (status %d)\n%s\n' "$program" $status "$(printf '%s\n' "$output" | tail -n 40)"; fi
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
