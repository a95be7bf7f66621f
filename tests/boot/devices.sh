#!/bin/bash
# Boots Debian's kernel with virtio devices, whose stock modules drive them: devices.sh GNOMON KIT CASE
#   disk     reads and writes of a raw disk, verified, and a file system; the same state under native, shadow and ept
#   host     what the guest wrote is in the file on the host; without "snapshot" only
#   errors   a disk that fails: the guest goes on, the user has one line
#   pin      interrupts by the pin, and without ACPI the bus is found by its ports
set -uo pipefail

gnomon=$1 kit=$2 case=$3
append="console=ttyS0 panic=-1 quiet cryptomgr.notests"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() { echo "devices.sh: $*" >&2; exit 1; }
[ -e "$kit/vmlinux-cloud" ] && [ -e "$kit/initramfs-dev.cpio" ] || { echo "devices.sh: no guest kit; run 'make guest'" >&2; exit 77; }

guest=(--kernel "$kit/vmlinux-cloud" --initrd "$kit/initramfs-dev.cpio" --memory 128M)

new_disk() { rm -f "$1"; truncate -s "$2" "$1"; }

boot() { # work, options
	local work=$1
	shift
	"$gnomon" run "${guest[@]}" --append "$append gnomon.work=$work" --serial "$dir/serial" --report "$dir/report" "$@" \
		</dev/null 2>"$dir/err" || { cat "$dir/err" "$dir/serial" >&2; fail "run failed: $*"; }
}

done_ok() { grep -q '^GNOMON-DONE ok' "$dir/serial" || { tail -n 20 "$dir/serial" "$dir/err" >&2; fail "the guest did not finish its work: $*"; }; }

case $case in
disk)
	new_disk "$dir/a" 16M
	new_disk "$dir/b" 32M
	mkfs.ext4 -q -F "$dir/b" || fail "mkfs.ext4"
	sum=$(cat "$dir/a" "$dir/b" | sha256sum)
	"$gnomon" compare --mmu native,shadow,ept "${guest[@]}" --append "$append gnomon.work=disk:4,fs:512:1,rng:16" \
		--disk "$dir/a,serial=FIRST" --disk "$dir/b" --rng --logs "$dir/logs" </dev/null || fail "compare failed"
	for log in "$dir"/logs/*.log; do
		grep -q '^GNOMON-DONE ok' "$log" || { tail -n 20 "$log" >&2; fail "$log"; }
	done
	[ "$(cat "$dir/a" "$dir/b" | sha256sum)" = "$sum" ] || fail "compare changed the disks"
	;;
host)
	new_disk "$dir/a" 16M
	boot disk:4 --mmu ept --disk "$dir/a,snapshot"
	done_ok
	cmp "$dir/a" <(head -c 16M /dev/zero) || fail "a snapshot reached the file"
	boot disk:4 --mmu ept --disk "$dir/a"
	done_ok
	# The guest's data is a function of its place: quadword n is 8n * 0x9e3779b97f4a7c15 + 1.
	python3 - "$dir/a" <<-'END' || fail "the file is not what the guest wrote"
	import struct, sys
	data = open(sys.argv[1], 'rb').read()
	half, zeros = 2 << 20, 1 << 20
	want = b''.join(struct.pack('<Q', (at * 0x9e3779b97f4a7c15 + 1) % 2**64) for at in range(0, half, 8))
	assert len(data) == 16 << 20 and data[:half] == want and not any(data[half:half + zeros]) and not any(data[4 << 20:])
	END
	# Read-only: the sum is the same, a write fails.
	boot sum:4 --mmu ept --disk "$dir/a,ro"
	done_ok
	boot disk:1 --mmu ept --disk "$dir/a,ro"
	grep -q '^GNOMON-WORK disk 1 FAILED' "$dir/serial" || fail "a read-only disk was written"
	;;
errors)
	# Where the host allows no file to be that large: a failing disk that can be had without rights.
	new_disk "$dir/a" 512M
	(ulimit -f $((256 << 10)); trap '' XFSZ; boot end:1 --mmu ept --disk "$dir/a") || exit 1
	grep -q '^GNOMON-WORK end 1 FAILED' "$dir/serial" || fail "the guest noticed nothing"
	[ "$(grep -c 'virtio-blk .*I/O error' "$dir/err")" -eq 1 ] || { cat "$dir/err" >&2; fail "not one line about it"; }
	;;
pin)
	new_disk "$dir/a" 8M
	append="$append pci=nomsi"
	boot disk:2 --mmu shadow --disk "$dir/a"
	done_ok
	;;
*) fail "unknown case $case" ;;
esac
