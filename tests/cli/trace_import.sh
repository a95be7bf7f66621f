#!/bin/bash
# Traces of other tools through the command line: recognised, packed, from pipes; with page tables; cut off.
#	trace_import.sh GNOMON
set -uo pipefail

gnomon=$1
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
failures=0

fail() { echo "trace_import.sh: $*" >&2; failures=$((failures + 1)); }

# The events of trace @1, without instructions' addresses.
events() { "$gnomon" trace export "$1" | grep -v '^#' | sed 's/ user pc=.*first/!/; s/ user pc=.*//; s/ initial//'; }
# Trace @1 has the events @2.
has() { [ "$(events "$1" | grep -E '^(read|write|fetch|insns)')" = "$2" ] || fail "$1: $(events "$1")"; }

printf '==7== Lackey\nI  401000,3\n L 402000,8\nI  401003,2\n M 403000,4\n' >"$dir/log"
want='fetch 0x401000 3!
read 0x402000 8
read 0x403000 4!
write 0x403000 4
insns 2'
"$gnomon" trace import "$dir/log" "$dir/a.trace" || fail "lackey"
has "$dir/a.trace" "$want"
"$gnomon" trace info "$dir/a.trace" | grep -q 'plain trace' || fail "lackey: a machine trace"
gzip -k "$dir/log" && xz -k "$dir/log"
for packed in gz xz; do
	"$gnomon" trace import "$dir/log.$packed" "$dir/$packed.trace" || fail "lackey.$packed"
	has "$dir/$packed.trace" "$want"
done
"$gnomon" trace import --format lackey - - <"$dir/log.xz" | "$gnomon" trace stat - >/dev/null || fail "pipes"
"$gnomon" trace import - "$dir/x.trace" <"$dir/log" 2>/dev/null && fail "standard input without --format"
"$gnomon" trace import <(cat "$dir/log") "$dir/x.trace" 2>/dev/null && fail "a pipe without --format"
"$gnomon" trace import --format lackey <(cat "$dir/log") "$dir/p.trace" || fail "a pipe"
has "$dir/p.trace" "$want"

# Page tables make it a machine trace.
printf '%016d\n0000000000401000,10,11,12,13,80\n0000000000402000,10,11,12,13,81\n' 2 >"$dir/pt_dump"
"$gnomon" trace import "$dir/log" --pt-dump "$dir/pt_dump" "$dir/m.trace" || fail "--pt-dump"
has "$dir/m.trace" "$want"
"$gnomon" trace info "$dir/m.trace" | grep -q 'machine trace' || fail "--pt-dump: no machine trace"
events "$dir/m.trace" | grep -q '^page 0x13000 1=0x80067 2=0x81067' || fail "--pt-dump: $(events "$dir/m.trace")"
"$gnomon" trace import "$dir/pt_dump" "$dir/t.trace" || fail "pt-dump alone"
"$gnomon" trace import "$dir/log" --pt-dump "$dir/pt_dump" --compat dmt-artifact "$dir/x.trace" 2>"$dir/err" &&
	fail "--compat: frame numbers were taken for addresses"
grep -q 'pt_dump: line 2: 0x10 as a byte address' "$dir/err" || fail "--compat: $(cat "$dir/err")"

# Replayed: each page is walked once, by four references natively; what the artifact's processor would read.
"$gnomon" replay "$dir/m.trace" --designs radix --setups native,virt --quiet --sim-log "$dir/sim" >/dev/null ||
	fail "replay of a trace with page tables"
rows() { sed '1,/^~~~~~~~~~/d' "$1"; }
walks() { rows "$1" | awk -F'\t' '{ n += $2 } END { print n }'; }
fields() { rows "$1" | awk -F'[,\t]' '{ print NF }' | sort -u; }
[ "$(fields "$dir/sim.radix-native-4k")" = 7 ] || fail "sim.log: $(cat "$dir/sim.radix-native-4k")"
[ "$(fields "$dir/sim.radix-virt-4k")" = 27 ] || fail "sim.log: $(cat "$dir/sim.radix-virt-4k")"
[ "$(walks "$dir/sim.radix-native-4k")" = 2 ] || fail "sim.log: $(cat "$dir/sim.radix-native-4k")"
rows "$dir/sim.radix-native-4k" | grep -qx 'MEMORY,MEMORY,MEMORY,MEMORY,RANGE_HIT,.1' || fail "sim.log: no cold walk"
grep -q '^by sums, radix : ' "$dir/sim.radix-native-4k" || fail "sim.log: no sums"
"$gnomon" replay "$dir/m.trace" --setups native --quiet --sim-log /dev/full >/dev/null 2>"$dir/err" &&
	fail "sim.log on a full disk"
grep -q "/dev/full" "$dir/err" || fail "sim.log on a full disk: $(cat "$dir/err")"

# Cut off: what is before it is kept, and the status says so.
printf 'I  401000,3\n L 4020' >"$dir/cut"
"$gnomon" trace import "$dir/cut" "$dir/c.trace" 2>"$dir/err"
[ $? -eq 16 ] || fail "cut off: status"
grep -q 'cut: offset 12: ends in the middle of a line' "$dir/err" || fail "cut off: $(cat "$dir/err")"
has "$dir/c.trace" 'fetch 0x401000 3!'
"$gnomon" trace info "$dir/c.trace" | grep -q '^partial ' || fail "cut off: the trace does not say so"
"$gnomon" replay "$dir/c.trace" --setups native --quiet | grep -q '^partial: what the trace was made from' ||
	fail "cut off: a replay does not say so"
"$gnomon" replay - --setups native --quiet --json - <"$dir/c.trace" | grep -A9 '"trace": {' | grep -q '"partial": true' ||
	fail "cut off: a replay of a pipe does not say so"
"$gnomon" trace info --json "$dir/m.trace" | grep -q '"partial": false' || fail "a whole trace is called partial"
printf '\2\0\0\0\0\0\0\300\0\0\0\0\0\0\0\40' >"$dir/raw"
"$gnomon" trace import "$dir/raw" "$dir/x.trace" 2>"$dir/err" && fail "raw records were imported"
grep -q 'needs the traced program' "$dir/err" || fail "raw records: $(cat "$dir/err")"
"$gnomon" trace import "$dir/log" --fetches some "$dir/x.trace" 2>"$dir/err" && fail "--fetches some"
[ ! -e "$dir/x.trace" ] || fail "a refused import left a trace"

[ $failures -eq 0 ] && echo "trace import: all as expected"
[ $failures -eq 0 ]
