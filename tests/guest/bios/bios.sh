#!/bin/sh
# SeaBIOS boots a disk of ours: bios.sh GNOMON DISK. Under every kind of scheme with the same state at the end and the same
# text on the serial port, and so when the machine is saved within firmware and goes on under another scheme.
gnomon=$1 disk=$2
firmware=/usr/share/seabios
if [ ! -r $firmware/bios-256k.bin ]; then
	echo "bios: no SeaBIOS: the package seabios has it"
	exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cp "$disk" "$dir/disk"
chmod u+w "$dir/disk"

fail() {
	echo "bios: $*" >&2
	exit 1
}

hash() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["guest"]["state_hash"])' "$1"; }

# end NAME COMMAND...: runs it to the program's end, which is well.
end() {
	name=$1
	shift
	"$@" --report "$dir/$name.json" </dev/null >"$dir/$name.out" 2>"$dir/$name.err"
	got=$?
	[ $got -eq 1 ] || { cat "$dir/$name.out" "$dir/$name.err"; fail "$name: status $got"; }
	grep -q 'real mode again: all well' "$dir/$name.out" || fail "$name: not a word of it on the serial port"
	[ "$name" = native ] || [ "$(hash "$dir/$name.json")" = "$(hash "$dir/native.json")" ] || fail "$name: another state"
	[ "$name" = native ] || cmp -s "$dir/$name.out" "$dir/native.out" || fail "$name: another text"
}

boot="--firmware $firmware/bios-256k.bin --memory 64M --disk $dir/disk"
for scheme in native brute shadow ept; do
	end $scheme "$gnomon" run --mmu $scheme $boot,snapshot --firmware-log "$dir/log"
done
grep -q 'using modern (1.0) virtio mode' "$dir/log" || fail "firmware's log: nothing of the disk"
end interp "$gnomon" run --mmu ept --audit-every 1000 --cpu interp $boot,snapshot

# In 16-bit code, in 32-bit code, and within the program.
for at in 1M 4M 7200k; do
	cp "$disk" "$dir/disk"
	"$gnomon" run --mmu native $boot --suspend "$dir/saved" --suspend-at $at </dev/null >"$dir/first" 2>"$dir/err" ||
		{ cat "$dir/err"; fail "cannot be saved after $at"; }
	"$gnomon" resume "$dir/saved" --mmu shadow --report "$dir/resumed.json" </dev/null >"$dir/second" 2>"$dir/err"
	got=$?
	[ $got -eq 1 ] || { cat "$dir/err"; fail "resumed after $at: status $got"; }
	[ "$(hash "$dir/resumed.json")" = "$(hash "$dir/native.json")" ] || fail "resumed after $at: another state"
	cat "$dir/first" "$dir/second" | cmp -s - "$dir/native.out" || fail "resumed after $at: another text"
	rm -rf "$dir/saved"
done

# An older SeaBIOS of 128 KiB, all of whose image is below 1 MiB.
"$gnomon" run --mmu ept --firmware $firmware/bios.bin --memory 64M --disk "$dir/disk,snapshot" </dev/null >"$dir/out" 2>&1
[ $? -eq 1 ] || { cat "$dir/out"; fail "bios.bin"; }
exit 0
