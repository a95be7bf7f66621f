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
# Firmware.
for c in run compare; do
	refused 'no kernel, initrd and command line' $c --kernel "$dir/exit" --firmware "$dir/zeros"
	refused 'no kernel, initrd and command line' $c --append x --firmware "$dir/zeros"
	refused "firmware '$dir/none'" $c --firmware "$dir/none"
	refused '100000 bytes: not a multiple of 64 KiB up to 1 MiB' $c --firmware "$dir/zeros"
	refused 'the file is empty' $c --firmware /dev/null
	head -c 1114112 /dev/zero >"$dir/large"
	refused "firmware '$dir/large'" $c --firmware "$dir/large"
done
head -c 65536 /dev/zero >"$dir/rom"
refused "firmware log '$dir/none/log'" run --firmware "$dir/rom" --firmware-log "$dir/none/log"
# Devices.
head -c 65536 /dev/zero >"$dir/disk.img"
for c in run compare; do
	refused "$dir/none: cannot open" $c --kernel "$dir/exit" --disk "$dir/none"
	refused 'no file name' $c --kernel "$dir/exit" --disk ,ro
	refused "'rw': after the file come" $c --kernel "$dir/exit" --disk "$dir/disk.img,rw"
	refused 'at most 20 bytes' $c --kernel "$dir/exit" --disk "$dir/disk.img,serial=123456789012345678901"
	refused 'at most 8' $c --kernel "$dir/exit" $(printf -- "--disk $dir/disk.img,ro %.0s" 1 2 3 4 5 6 7 8 9)
	refused "'bridge': one of user" $c --kernel "$dir/exit" --net bridge
	refused "'user,none'" $c --kernel "$dir/exit" --net user,none,mac=02:00:00:00:00:01
	refused "mac '02:00'" $c --kernel "$dir/exit" --net none,mac=02:00
	refused 'a group address' $c --kernel "$dir/exit" --net none,mac=01:00:00:00:00:01
	refused "--balloon 'lots'" $c --kernel "$dir/exit" --balloon lots
done
refused "--net tap:no/such" run --kernel "$dir/exit" --net tap:no/such
refused "--net socket:" run --kernel "$dir/exit" --net "socket:/nonexistent/wire"
refused "'/nonexistent/log'" run --kernel "$dir/exit" --virtio-console /nonexistent/log
refused 'runs with a network are never equal' compare --kernel "$dir/exit" --net user
refused '--virtio-console: one file' compare --kernel "$dir/exit" --virtio-console "$dir/hvc"
refused 'in use' run --kernel "$dir/exit" --memory 16M --disk "$dir/disk.img" --disk "$dir/disk.img"
ends 67 run --kernel "$dir/exit" --memory 16M --disk "$dir/disk.img,serial=A" --net none --net user --rng --balloon 1 --virtio-console "$dir/hvc"
ends 0 compare --kernel "$dir/exit" --memory 16M --disk "$dir/disk.img" --rng --net none --mmu native,ept
rm -f "$dir/hvc"

# Moving a VM: what is refused before anybody is listened to or asked.
refused 'an address is tcp:HOST:PORT' serve --listen nonsense
refused 'without TLS everybody' serve --listen tcp:0.0.0.0:0
refused 'needs three files' serve --tls-ca "$dir/ca"
refused 'by a key file or by certificates' serve --tls-psk "$dir/none" --tls-ca "$dir/none"
refused "'$dir/none': cannot open" serve --tls-psk "$dir/none" --listen tcp:127.0.0.1:0
refused 'seconds, from 0.1' serve --stall never
ends 0 migrate --make-key "$dir/key"
refused "'$dir/key': cannot make it: File exists" migrate --make-key "$dir/key"
chmod 644 "$dir/key"
refused 'others may read or write this key' serve --tls-psk "$dir/key" --listen tcp:127.0.0.1:0
rm -f "$dir/key"
refused 'SOCKET and ADDRESS are wanted' migrate
refused 'an address is tcp:HOST:PORT' migrate "$dir/none" here
refused "'$dir/none'" migrate "$dir/none" tcp:127.0.0.1:1
refused 'at a time' migrate "$dir/none" --status --cancel

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

for mmu in native native-dmt brute shadow ept hugegpt dmt pvdmt agile nested nested-pvdmt; do
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

# VM files: what is refused says where and why.
vm() { printf "$1" >"$dir/$2.vm"; } # text, name
says() { # text, what is said of bad.vm
	vm "$1" bad
	refused "bad.vm:$2" run --vm "$dir/bad.vm"
}
ok='kernel = "exit"; memory = "16M";\n'
says '# nothing\n' '1: kernel: missing'
says "$ok\nfrobnicate = 1;" '3: frobnicate: no such key'
says "$ok memory = 32;" '2: duplicate setting name'
says "$ok append = " '2: syntax error'
says "$ok append = 7;" '2: append: a string is wanted'
says "$ok seed = -1;" '2: seed: not below 0'
says "$ok seed = 1.5;" '2: seed: a number or a string is wanted'
says "$ok seed = [ 1 ];" '2: seed: a number or a string is wanted'
says "$ok seed = \"many\";" "2: seed: 'many': not a number"
says "$ok seed = \"a\\\\nb\";" "2: seed: 'a?b': not a number"
says "$ok disk = [ \"disk.img\", \"none.img\" ];" ' '"$dir/none.img: cannot open"
says "$ok disk = [ \"disk.img,x\" ];" "2: disk: 'x': after the file"
says "$ok disk = [ 1 ];" '2: disk: a string is wanted'
says "$ok net = ( \"none\", \"wire\" );" "2: net: 'wire': one of"
says "$ok audit = 1;" '2: audit: true or false is wanted'
says "$ok mmu = \"magic\";" "2: mmu: 'magic': one of"
says "$ok mmu = \"native\";" '2: mmu: native has no hypervisor'
says "$ok clock = \"wall\";" '2: clock: VMs on one processor'
says "$ok name = \"two words\";" "2: name: 'two words'"
says "kernel = \"exit\";\nmemory = 1;" '2: memory: 1024 KiB is too small'
says "$ok@include \"x\"" '2: @include:'
says "$ok\\000" '2: a NUL byte'
says "kernel = \"nothing\";" " kernel '$dir/nothing': No such file"
for option in hw data-cache no-vpid no-fast-path cpu-features maxphyaddr mitigations; do
	says "$ok $option = \"x\";" "2: --$option belongs to the processor"
done
head -c 70000 /dev/zero | tr '\0' ' ' >"$dir/bad.vm"
refused 'bad.vm:1: larger than' run --vm "$dir/bad.vm"
refused "No such file" run --vm "$dir/none.vm"
refused "Is a directory" run --vm "$dir"
vm "$ok" one
refused "'--memory' describes a guest" run --vm "$dir/one.vm" --memory 16M
refused "'--report' describes a guest" run --report "$dir/report" --vm "$dir/one.vm"
refused "'--slice' is for several VMs" run --kernel "$dir/exit" --slice 100
refused "--slice '0'" run --vm "$dir/one.vm" --slice 0
refused "'one' is the name of the VM in" run --vm "$dir/one.vm" --vm "$dir/one.vm"
vm "$ok serial = \"stdio\";" bad
vm "$ok serial = \"stdio\";" worse
refused 'worse.vm: serial: ' run --vm "$dir/bad.vm" --vm "$dir/worse.vm"

# ... and what is not refused runs: the first status that is not 0, a report for each, paths as the file has them.
ends 67 run --vm "$dir/one.vm"
vm 'kernel = "spin"; memory = 16; mmu = "shadow"; limit-insns = 1234; report = "two.json"; audit = true; serial = "two.log";' two
vm 'kernel = "halt"; memory = 16; mmu = "brute"; disk = [ "disk.img,snapshot", "disk.img,ro" ]; rng = true; name = "third"; report = "three.json"; audit = false;' three
ends 67 run --vm "$dir/two.vm" --vm "$dir/one.vm" --vm "$dir/three.vm" --slice 100 --hw zen --no-vpid
grep -q '^gnomon run: two: shadow: limit after 1234 instructions' "$kept/.err" || fail "run --vm: $(cat "$kept/.err")"
grep -q '^gnomon run: third: brute: halted after' "$kept/.err" || fail "run --vm: $(cat "$kept/.err")"
grep -q '^gnomon run: 3 VMs, [0-9]* slices, [0-9]* world switches$' "$kept/.err" || fail "run --vm: $(cat "$kept/.err")"
grep -q '"instructions": 1234,' "$dir/two.json" || fail "run --vm: no report"
grep -q '"exit": "halted"' "$dir/three.json" || fail "run --vm: no second report"
[ -e "$dir/two.log" ] || fail "run --vm: no serial log"
vm 'kernel = "spin"; memory = 16; report = "two.json";' two
vm 'kernel = "spin"; memory = 16; report = "three.json"; mmu = "shadow";' three
timeout -s INT 1 "$gnomon" run --vm "$dir/two.vm" --vm "$dir/three.vm" </dev/null >/dev/null 2>&1
for n in two three; do
	grep -q '"exit": "interrupted"' "$dir/$n.json" || fail "run --vm: no report of $n after a signal"
done
rm -f "$dir"/*.vm "$dir"/*.json "$dir/two.log"

# Tracking of pages.
ends 2 run --kernel "$dir/exit" --memory 16M --dirty none
ends 2 run --kernel "$dir/exit" --memory 16M --dirty wp
ends 2 run --kernel "$dir/exit" --memory 16M --mmu shadow --dirty pml
ends 2 run --kernel "$dir/exit" --memory 16M --mmu ept --dirty wp --dirty-interval 999
ends 2 run --kernel "$dir/exit" --memory 16M --mmu ept --dirty-interval 1M
ends 2 run --kernel "$dir/exit" --memory 16M --mmu ept --dirty pml --wss 1M
ends 2 run --kernel "$dir/exit" --memory 16M --mmu ept --wss x
ends 0 run --kernel "$dir/spin" --memory 16M --mmu ept --limit-insns 10000 --audit --dirty pml --dirty-interval 1000 --report "$dir/report"
grep -q 'pages written: 1[01] intervals of 1000 instructions' "$kept/.err" || fail "run --dirty: $(cat "$kept/.err")"
grep -q '"tracker": "pml"' "$dir/report" || fail "run --dirty: not in the report"
ends 0 run --kernel "$dir/spin" --memory 16M --mmu shadow --limit-insns 10000 --wss 5000
grep -q 'working set: [1-9][0-9]* pages' "$kept/.err" || fail "run --wss: $(cat "$kept/.err")"
rm -f "$dir/report"

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
