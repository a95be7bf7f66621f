#!/bin/bash
# Boots Debian's kernel with virtio devices, whose stock modules drive them: devices.sh GNOMON KIT CASE
#   disk     reads and writes of a raw disk, verified, and a file system; the same state under native, shadow and ept
#   same     ... by host code and by interpretation, alone and in slices beside another VM
#   root     a system on a disk is started
#   typed    ... and reads the terminal through the virtio console
#   host     what the guest wrote is in the file on the host; without "snapshot" only
#   errors   a disk that fails: the guest goes on, the user has one line
#   net      a user-mode network to a server on the host; socket: two VMs on a cable, as two processes and as one
#   packed   packed rings: the same state under all schemes, and a network
#   small    console, balloon and entropy: the same state under all schemes
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

# A disk with a root file system that executes commands and powers off.
small_root() {
	mkdir -p "$dir/tree"/{bin,dev,proc,sys,sbin,etc}
	cp "$(command -v busybox)" "$dir/tree/bin/busybox" || fail "no busybox"
	ln -s busybox "$dir/tree/bin/sh"
	printf '#!/bin/sh\nPATH=/bin\n%s\nbusybox poweroff -f\n' "$1" >"$dir/tree/sbin/init"
	chmod +x "$dir/tree/sbin/init"
	new_disk "$dir/a" 32M
	mkfs.ext4 -q -F -d "$dir/tree" "$dir/a" || fail "mkfs.ext4"
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
same)
	new_disk "$dir/a" 16M
	state() { sed -n 's/.*"\(instructions\|state_hash\)": *\(.*\),/\1 \2/p' "$1" | head -n 2; }
	boot disk:4,rng:16 --mmu ept --disk "$dir/a,snapshot" --rng
	want=$(state "$dir/report")
	[ "$(echo "$want" | wc -l)" -eq 2 ] || fail "the report lacks instructions or state_hash"
	boot disk:4,rng:16 --mmu ept --disk "$dir/a,snapshot" --rng --cpu interp
	[ "$(state "$dir/report")" = "$want" ] || fail "interpreted: $(state "$dir/report") instead of $want"
	boot disk:4,rng:16 --mmu brute --disk "$dir/a,snapshot" --rng
	[ "$(state "$dir/report")" = "$want" ] || fail "brute: $(state "$dir/report") instead of $want"
	for n in 1 2; do
		printf 'name = "vm%d"; mmu = "%s"; kernel = "%s"; initrd = "%s"; memory = 128; append = "%s"; disk = [ "%s" ]; rng = true; report = "%s"; serial = "none";\n' \
			$n "$([ $n = 1 ] && echo ept || echo shadow)" "$(realpath "$kit/vmlinux-cloud")" "$(realpath "$kit/initramfs-dev.cpio")" \
			"$append gnomon.work=disk:4,rng:16" "$dir/a,snapshot" "$dir/report$n" >"$dir/$n.vm"
	done
	"$gnomon" run --vm "$dir/1.vm" --vm "$dir/2.vm" --slice 77777 </dev/null 2>"$dir/err" || { cat "$dir/err" >&2; fail "two VMs"; }
	for n in 1 2; do
		[ "$(state "$dir/report$n")" = "$want" ] || fail "VM $n of two: $(state "$dir/report$n") instead of $want"
	done
	;;
root)
	small_root 'busybox mount -t proc proc /proc; busybox grep " / " /proc/mounts; echo written >/file; echo GNOMON-DONE ok; busybox sync'
	append="$append gnomon.root=/dev/vda"
	boot none --mmu ept --disk "$dir/a"
	done_ok
	grep -q '^/dev/\(root\|vda\) / ext4 rw' "$dir/serial" || { cat "$dir/serial" >&2; fail "the root is not the disk"; }
	debugfs -R 'cat /file' "$dir/a" 2>/dev/null | grep -q '^written' || fail "what the system wrote is not on the disk"
	e2fsck -fn "$dir/a" >/dev/null 2>&1 || [ $? -lt 4 ] || fail "the file system is damaged"
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
net)
	cat >"$dir/echo.py" <<-'END'
	import socket
	s = socket.socket()
	s.bind(('127.0.0.1', 0))
	s.listen(1)
	s.settimeout(120)
	print(s.getsockname()[1], flush=True)
	c, _ = s.accept()
	while data := c.recv(65536):
	    c.sendall(data)
	END
	for clock in icount wall; do
		rm -f "$dir/port"
		python3 "$dir/echo.py" >"$dir/port" &
		server=$!
		for _ in $(seq 50); do [ -s "$dir/port" ] && break; sleep 0.1; done
		boot "net:$(cat "$dir/port"):512" --mmu ept --clock $clock --net user
		kill $server 2>/dev/null
		done_ok
	done
	;;
socket)
	# Two processes.
	"$gnomon" run --mmu shadow "${guest[@]}" --append "$append gnomon.work=peer:1" --serial "$dir/one" --net "socket:$dir/wire" \
		--seed 1 </dev/null 2>"$dir/one.err" &
	boot peer:2:256 --mmu ept --net "socket:$dir/wire" --seed 2
	done_ok
	wait $! || { cat "$dir/one.err" >&2; fail "the other VM failed"; }
	grep -q '^GNOMON-DONE ok' "$dir/one" || { cat "$dir/one" >&2; fail "the other VM did not finish"; }
	[ ! -e "$dir/wire" ] || fail "the socket was left behind"
	# Two VMs of one process.
	for n in 1 2; do
		printf 'name = "vm%d"; mmu = "ept"; kernel = "%s"; initrd = "%s"; memory = 128; append = "%s"; net = "%s"; seed = %d; serial = "%s";\n' \
			$n "$(realpath "$kit/vmlinux-cloud")" "$(realpath "$kit/initramfs-dev.cpio")" \
			"$append gnomon.work=peer:$n:64" "socket:$dir/wire" $n "$dir/serial$n" >"$dir/$n.vm"
	done
	"$gnomon" run --vm "$dir/1.vm" --vm "$dir/2.vm" </dev/null 2>"$dir/err" || { cat "$dir/err" >&2; fail "two VMs of one process"; }
	grep -q '^GNOMON-DONE ok' "$dir/serial1" && grep -q '^GNOMON-DONE ok' "$dir/serial2" || { tail "$dir"/serial? >&2; fail "two VMs"; }
	;;
packed)
	new_disk "$dir/a" 16M
	"$gnomon" compare --mmu native,shadow,ept "${guest[@]}" --append "$append gnomon.work=disk:4,rng:16,balloon:40" \
		--disk "$dir/a" --rng --balloon 64 --net none --virtio-packed --logs "$dir/logs" </dev/null || fail "compare failed"
	for log in "$dir"/logs/*.log; do
		grep -q '^GNOMON-DONE ok' "$log" || { tail -n 20 "$log" >&2; fail "$log"; }
	done
	"$gnomon" run --mmu shadow "${guest[@]}" --append "$append gnomon.work=peer:1" --serial "$dir/one" --net "socket:$dir/wire" \
		--seed 1 --virtio-packed </dev/null 2>"$dir/one.err" &
	boot peer:2:256 --mmu ept --net "socket:$dir/wire" --seed 2 --virtio-packed
	done_ok
	wait $! || { cat "$dir/one.err" >&2; fail "the other VM failed"; }
	;;
typed)
	small_root 'exec 3<>/dev/hvc0; echo listening; read a <&3; read b <&3; echo "had $a and $b" >&3; echo GNOMON-DONE ok'
	# What comes before anybody listens is the driver's to drop.
	: >"$dir/serial"
	{ for _ in $(seq 600); do grep -q listening "$dir/serial" && break; sleep 0.1; done; printf 'first line\nsecond\n'; } |
		"$gnomon" run "${guest[@]}" --append "$append gnomon.root=/dev/vda" --disk "$dir/a" --virtio-console - \
		--limit-insns 60G >"$dir/serial" 2>"$dir/err" || { cat "$dir/err" "$dir/serial" >&2; fail "run failed"; }
	done_ok
	grep -q '^had first line and second' <(tr -d '\r' <"$dir/serial") || { cat "$dir/serial" >&2; fail "the guest has not read what was typed"; }
	;;
small)
	"$gnomon" compare --mmu native,shadow,ept "${guest[@]}" --append "$append gnomon.work=rng:16,balloon:40" --rng --balloon 64 \
		--net none --logs "$dir/logs" </dev/null || fail "compare failed"
	for log in "$dir"/logs/*.log; do
		grep -q '^GNOMON-DONE ok' "$log" || { tail -n 20 "$log" >&2; fail "$log"; }
	done
	boot console:3,balloon:40 --mmu ept --virtio-console "$dir/hvc0" --balloon 64
	done_ok
	printf 'line %d of 3\n' 1 2 3 | cmp - <(tr -d '\r' <"$dir/hvc0") || fail "the virtio console"
	[ "$(sed -n 's/.*balloon: \([0-9]*\) MiB with the host.*/\1/p' "$dir/err")" -ge 40 ] || { cat "$dir/err" >&2; fail "the balloon"; }
	;;
pin)
	new_disk "$dir/a" 8M
	append="$append pci=nomsi"
	boot disk:2 --mmu shadow --disk "$dir/a"
	done_ok
	;;
*) fail "unknown case $case" ;;
esac
