#!/bin/bash
# A guest works on a disk: raw, qcow2 and a branch must be the same disk to it, to the bit of its state; the base of
# the branch does not change, and what the guest left is the same everywhere.
#	guest.sh GNOMON KIT
set -uo pipefail

gnomon=$(realpath "$1") kit=$2
dir=$(mktemp -d -p "${TMPDIR:-$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)}") || exit 1
trap 'rm -rf "$dir"' EXIT
fail() { echo "disk guest: $*" >&2; exit 1; }
[ -e "$kit/vmlinux-cloud" ] && [ -e "$kit/initramfs-dev.cpio" ] || { echo "no guest kit; run 'make guest'" >&2; exit 77; }

run() { # image: prints the state hash
	"$gnomon" run --mmu ept --kernel "$kit/vmlinux-cloud" --initrd "$kit/initramfs-dev.cpio" --memory 128M --disk "$1" \
		--append "console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work=disk:4" \
		--serial "$dir/serial" --report "$dir/report" </dev/null 2>"$dir/err" || fail "$1: $(tail -n 5 "$dir/err" "$dir/serial")"
	grep -q '^GNOMON-DONE ok' "$dir/serial" || fail "$1: the guest did not finish: $(tail -n 5 "$dir/serial")"
	grep -o '"state_hash": "[0-9a-f]*"' "$dir/report"
}

# A base with something on it, as raw and as qcow2 with small clusters, and a branch of that.
"$gnomon" disk create "$dir/base" 24M --cluster-size 4K
"$gnomon" disk bench "$dir/base" --write --random --block 3K --total 4M >/dev/null
"$gnomon" disk convert "$dir/base" "$dir/raw" --format raw
"$gnomon" disk branch "$dir/base" "$dir/branch"
cp "$dir/base" "$dir/alone"
sum=$(sha256sum <"$dir/base")
want=$(run "$dir/raw")
[ -n "$want" ] || fail "no state hash"
for image in alone branch; do
	[ "$(run "$dir/$image")" = "$want" ] || fail "$image: the guest ended otherwise than with a raw disk"
	"$gnomon" disk check "$dir/$image" >"$dir/log" || fail "$(cat "$dir/log")"
	"$gnomon" disk convert "$dir/$image" "$dir/flat" --format raw || fail "$image"
	cmp "$dir/flat" "$dir/raw" || fail "$image: not what the guest wrote to a raw disk"
	rm "$dir/flat"
done
[ "$(sha256sum <"$dir/base")" = "$sum" ] || fail "the base changed"
