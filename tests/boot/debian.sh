#!/bin/bash
# Boots Debian from a branch of the disk image that make-rootfs.sh made, with its workloads: debian.sh GNOMON KIT
# Under native, shadow and ept the run ends in the same state, and no byte of the image is changed; on a branch that keeps
# its changes, the file system is sound afterwards.
set -uo pipefail

gnomon=$1 kit=$2
PATH=$PATH:/usr/sbin:/sbin
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() { echo "debian.sh: $*" >&2; exit 1; }
for file in vmlinux-cloud initramfs-dev.cpio debian.img; do
	[ -e "$kit/$file" ] || { echo "debian.sh: no $file; run 'make guest rootfs'" >&2; exit 77; }
done
image=$(realpath "$kit/debian.img")
guest=(--kernel "$kit/vmlinux-cloud" --initrd "$kit/initramfs-dev.cpio" --memory 256M --limit-insns 20000000000)
append="console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.root=/dev/vda gnomon.work="

sum=$(sha256sum "$image")
"$gnomon" disk branch "$image" "$dir/debian.qcow2" || fail "cannot make a branch"
"$gnomon" compare --mmu native,shadow,ept "${guest[@]}" --append "${append}all" --disk "$dir/debian.qcow2" --rng \
	--logs "$dir/logs" </dev/null || fail "compare failed"
for log in "$dir"/logs/*.log; do
	for work in mixed verify sums sqlite redis; do
		grep -q "^GNOMON-WORK $work [0-9]* done" "$log" || { tail -n 40 "$log" >&2; fail "$log: $work"; }
	done
	grep -q '^GNOMON-DONE ok' "$log" || { tail -n 20 "$log" >&2; fail "$log"; }
done
[ "$(ls "$dir"/logs/*.log | wc -l)" -eq 3 ] || fail "not three runs"

"$gnomon" run --mmu ept "${guest[@]}" --append "${append}mixed:1" --disk "$dir/debian.qcow2" --serial "$dir/serial" </dev/null ||
	fail "run failed"
grep -q '^GNOMON-DONE ok' "$dir/serial" || { tail -n 20 "$dir/serial" >&2; fail "mixed I/O on a branch"; }
"$gnomon" disk check "$dir/debian.qcow2" || fail "the branch is damaged"
"$gnomon" disk convert --format raw "$dir/debian.qcow2" "$dir/raw" || fail "cannot read the branch"
e2fsck -fn "$dir/raw" >"$dir/fsck" 2>&1 || { cat "$dir/fsck" >&2; fail "the file system is damaged"; }
[ "$(sha256sum "$image")" = "$sum" ] || fail "the image was changed"
