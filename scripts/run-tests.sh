#!/bin/bash
# Runs every test: run-tests.sh BUILD ASAN-BUILD. The optimised build runs them
# all; the sanitized one those that finish in reasonable time under it. The last
# line says how many passed and failed.
set -uo pipefail

build=$1 asan=$2
passed=0 failed=0

# Adds up what `meson test` says at its end.
tally() {
	local n
	n=$(sed -n 's/^\(Ok\|Expected Fail\): *\([0-9]*\) *$/\2/p' "$1" | paste -sd+ | sed 's/^$/0/')
	passed=$((passed + n))
	n=$(sed -n 's/^\(Fail\|Unexpected Pass\|Timeout\): *\([0-9]*\) *$/\2/p' "$1" | paste -sd+ | sed 's/^$/0/')
	failed=$((failed + n))
}

run() { # directory, further arguments of meson test
	local dir=$1 log status
	shift
	log=$(mktemp)
	meson test -C "$dir" --print-errorlogs "$@" 2>&1 | tee "$log"
	status=${PIPESTATUS[0]}
	tally "$log"
	# A build that fails runs no test; it must not look like success.
	if [ "$status" -ne 0 ] && ! grep -q '^Fail: *[1-9]\|^Timeout: *[1-9]\|^Unexpected Pass: *[1-9]' "$log"; then
		failed=$((failed + 1))
	fi
	rm -f "$log"
}

[ -e "$build/.tests-enabled" ] || meson setup --reconfigure -Dtests=enabled "$build" >/dev/null || exit 1
touch "$build/.tests-enabled"
run "$build"
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
run "$asan" --no-suite long --timeout-multiplier 4
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
