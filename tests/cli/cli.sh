#!/bin/bash
# The command line from outside: bad input is one clear line, a non-zero status and
# nothing left behind; reports appear whole; signals end a run in order.
#	cli.sh GNOMON KIT
set -uo pipefail

gnomon=$1 kit=$2
dir=$(mktemp -d) && kept=$(mktemp -d) || exit 1 # $kept: what a command printed
trap 'rm -rf "$dir" "$kept"' EXIT
export TMPDIR=$dir/tmp
mkdir "$TMPDIR"
failures=0

fail() { echo "cli.sh: $*" >&2; failures=$((failures + 1)); }

# A multiboot kernel without a file format: 32 bytes of header, then @1 as octal escapes at 1 MiB + 32.
kernel() {
	printf '\002\260\255\033\000\000\001\000\376\117\121\344'       # magic, flags: address fields, checksum
	printf '\000\000\020\000\000\000\020\000\000\000\000\000\000\000\000\000\040\000\020\000'
	printf "$1"
}
kernel '\260\041\346\364\364' >"$dir/exit"    # mov $0x21, %al; out %al, $0xf4; hlt
kernel '\353\376' >"$dir/spin"                # jmp .
kernel '\372\364' >"$dir/halt"                # cli; hlt
kernel '\017\013' >"$dir/triple"              # ud2

# Refused: status 2, one line on standard error that contains @1, none on standard output, no new file.
refused() {
	local says=$1 before after status
	shift
	before=$(find "$dir" | sort)
	"$gnomon" "$@" >"$kept/.out" 2>"$kept/.err" </dev/null
	status=$?
	after=$(find "$dir" | sort)
	[ $status -eq 2 ] || fail "gnomon $*: status $status instead of 2"
	[ "$(wc -l <"$kept/.err")" -eq 1 ] || fail "gnomon $*: not one line: $(cat "$kept/.err")"
	grep -qF -- "$says" "$kept/.err" || fail "gnomon $*: does not say '$says': $(cat "$kept/.err")"
	[ ! -s "$kept/.out" ] || fail "gnomon $*: output"
	[ "$before" = "$after" ] || fail "gnomon $*: left something behind"
}

# Ends with status @1.
ends() {
	local want=$1
	shift
	"$gnomon" "$@" >"$kept/.out" 2>"$kept/.err" </dev/null
	local status=$?
	[ $status -eq "$want" ] || fail "gnomon $*: status $status instead of $want: $(head -n 3 "$kept/.err")"
}

refused "'frobnicate'" frobnicate
refused "'--frobnicate'" --frobnicate
for c in run compare; do
	refused '--kernel FILE is missing' $c
	refused "'--frobnicate'" $c --frobnicate
	refused "'stray'" $c --kernel "$dir/exit" stray
	refused '--memory' $c --kernel "$dir/exit" --memory
	refused "'much'" $c --kernel "$dir/exit" --memory much
	refused 'too small' $c --kernel "$dir/exit" --memory 1M
	refused 'too large' $c --kernel "$dir/exit" --memory 1000G
	refused 'do not fit' $c --kernel "$dir/exit" --memory 64G --maxphyaddr 36
	refused '36 to 52' $c --kernel "$dir/exit" --maxphyaddr 60
	refused 'nonsense' $c --kernel "$dir/exit" --cpu-features -nonsense
	refused 'native, brute, shadow, ept' $c --kernel "$dir/exit" --mmu npt
	refused "'$dir/none'" $c --kernel "$dir/none"
	refused 'Is a directory' $c --kernel "$dir"
	refused "'$dir/none'" $c --kernel "$dir/exit" --initrd "$dir/none"
	refused 'the file is empty' $c --kernel /dev/null
	head -c 100000 /dev/zero >"$dir/zeros"
	refused 'no Linux bzImage' $c --kernel "$dir/zeros"
	head -c 30 "$dir/exit" >"$dir/cut"
	refused 'truncated' $c --kernel "$dir/cut"
	head -c 20M /dev/zero >"$dir/large"
	refused 'there is room for' $c --kernel "$dir/exit" --initrd "$dir/large" --memory 16M
	rm "$dir/large"
done
refused "'/nonexistent/report'" run --kernel "$dir/exit" --report /nonexistent/report
refused 'Is a directory' run --kernel "$dir/exit" --report "$dir"
refused "'/nonexistent/log'" run --kernel "$dir/exit" --serial /nonexistent/log
refused "'a b'" compare --kernel "$dir/exit" --work 'a b'
refused '--clock wall' compare --kernel "$dir/exit" --clock wall
refused "no command 'frobnicate'" help frobnicate

if [ -e "$kit/vmlinux-cloud" ]; then
	for image in vmlinux-cloud vmlinuz-cloud; do
		for bytes in 1 100 600 5000 1000000 5000000; do
			head -c $bytes "$kit/$image" >"$dir/cut"
			refused 'truncated' run --kernel "$dir/cut"
		done
		refused "$image" run --kernel "$kit/$image" --memory 24M
	done
	refused 'no room for the initrd' run --kernel "$kit/vmlinuz-cloud" --initrd "$kit/vmlinux-cloud" --memory 100M
fi

for mmu in native brute shadow ept; do
	ends 67 run --mmu $mmu --kernel "$dir/exit" --memory 16M --report "$dir/report"
	grep -q '"exit": "debug-exit"' "$dir/report" || fail "$mmu: no report"
	ends 6 run --mmu $mmu --kernel "$dir/halt" --memory 16M
	grep -q 'interrupts disabled' "$kept/.err" || fail "$mmu: does not say why it halted"
	ends 4 run --mmu $mmu --kernel "$dir/triple" --memory 16M
	grep -q '^rip ' "$kept/.err" || fail "$mmu: a triple fault without registers"
	ends 0 run --mmu $mmu --kernel "$dir/spin" --memory 16M --limit-insns 12345 --report "$dir/report"
	grep -q '"instructions": 12345,' "$dir/report" || fail "$mmu: --limit-insns is not exact"
done
rm "$dir/report"

# Hardware descriptions: what is refused says where and why; variations of three lines run to the same end.
printf 'base = "skylake";\nname = "bad";\nnested_tlb = { entries = 12; ways = 4; };\n' >"$dir/bad.hw"
printf 'base = "textbook";\nname = "good";\nnested_tlb = { entries = 16; ways = "all"; };\n' >"$dir/good.hw"
for c in run compare; do
	refused "bad.hw:3: nested_tlb.ways: 3 sets are no power of two" $c --kernel "$dir/exit" --hw "$dir/bad.hw"
	refused "neither a built-in description nor a file" $c --kernel "$dir/exit" --hw "$dir/none"
	refused "no regular file" $c --kernel "$dir/exit" --hw "$dir"
done
refused "bad.hw:3: nested_tlb.ways" hw check "$dir/bad.hw"
refused 'one of list, show' hw
refused "'frobnicate': not one of" hw frobnicate
ends 0 hw check "$dir/good.hw"
ends 0 hw list
while read -r name _; do
	ends 0 hw show "$name"
	cp "$kept/.out" "$dir/copy.hw"
	ends 0 hw check "$dir/copy.hw"
	ends 0 hw show "$name" --summary
	ends 67 run --mmu ept --kernel "$dir/exit" --memory 16M --hw "$name" --report "$dir/report"
	grep -q "\"hw\": \"$name\"" "$dir/report" || fail "the report does not name --hw $name"
done < <("$gnomon" hw list)
ends 67 run --mmu shadow --kernel "$dir/exit" --memory 16M --hw "$dir/good.hw" --data-cache --no-vpid --report "$dir/report"
for key in '"hw": "good"' '"data_cache": true' '"vpid": false' '"ref_hits"' '"walk_caches"' '"table_reads"' '"cycles"'; do
	grep -qF "$key" "$dir/report" || fail "no $key in the report"
done
rm "$dir/report" "$dir/copy.hw"

# A signal: the report is still written, the status says so.
timeout -s INT 1 "$gnomon" run --kernel "$dir/spin" --memory 16M --report "$dir/report" </dev/null >/dev/null 2>&1
grep -q '"exit": "interrupted"' "$dir/report" 2>/dev/null || fail "no report after a signal"
rm -f "$dir/report"

ends 0 compare --kernel "$dir/exit" --memory 16M --work a:1,b
grep -c 'All runs agree' "$kept/.out" | grep -qx 2 || fail "compare: no verdict for each work"
ends 0 compare --kernel "$dir/exit" --memory 16M --json --mmu native,ept
grep -q '"schema": "gnomon-compare/1"' "$kept/.out" || fail "compare --json"
ends 0 compare --kernel "$dir/exit" --memory 16M --csv --logs "$dir/logs"
[ "$(wc -l <"$kept/.out")" -eq 5 ] || fail "compare --csv"
[ -e "$dir/logs/ept.log" ] || fail "compare --logs"
head -n 1 "$kept/.out" | grep -q ',cost.cycles.total,.*,slowdown,' || fail "compare --csv: no costs"
ends 0 compare --kernel "$dir/exit" --memory 16M --hw "$dir/good.hw" --mmu shadow,ept
grep -q 'modelled cycles' "$kept/.out" || fail "compare: no modelled cycles"
grep -q 'slowdown against shadow' "$kept/.out" || fail "compare: does not say what slowdowns are relative to"

# Interrupting a comparison ends its children and cleans up.
"$gnomon" compare --kernel "$dir/spin" --memory 16M --logs "$dir/logs" </dev/null >/dev/null 2>&1 &
pid=$!
sleep 1
kill -INT $pid
wait $pid
[ $? -eq 130 ] || fail "compare: wrong status after a signal"
[ -z "$(ls -A "$TMPDIR")" ] || fail "compare left $(ls -A "$TMPDIR")"

[ $failures -eq 0 ] && echo "command line: all as expected"
[ $failures -eq 0 ]
