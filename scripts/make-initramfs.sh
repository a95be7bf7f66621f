#!/bin/bash
# Builds the guest's initramfs, the same bytes every time: make-initramfs.sh OUTDIR
# leaves OUTDIR/initramfs.cpio (uncompressed newc: unpacking it costs the guest least).
set -euo pipefail

die() { echo "make-initramfs: $*" >&2; exit 1; }
[ $# -eq 1 ] || die "usage: make-initramfs.sh OUTDIR"
top=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
busybox=/bin/busybox
[ -x "$busybox" ] || die "no $busybox; install busybox-static"

newest() { # true if the initramfs is newer than everything that goes into it
	local f
	for f in "$top"/guest/*.c "$busybox" "$0"; do
		[ "$out/initramfs.cpio" -nt "$f" ] || return 1
	done
}
[ -e "$out/initramfs.cpio" ] && newest && exit 0

temp=$(mktemp -d "$out/.initramfs.XXXXXX")
trap 'rm -rf "$temp"' EXIT
root=$temp/root
mkdir -p "$root"/{bin,dev,proc,sys,root,tmp}
echo "  GUEST   init gnomon-work"
cflags=(-std=gnu11 -D_GNU_SOURCE -O2 -march=x86-64 -static -s -Wall -Wextra -Wl,--build-id=none -fno-pie -no-pie)
${CC:-gcc} "${cflags[@]}" -o "$root/init" "$top/guest/init.c"
${CC:-gcc} "${cflags[@]}" -o "$root/bin/gnomon-work" "$top/guest/work.c"
cp "$busybox" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
find "$root" -type d -exec chmod 755 {} +
find "$root" -type f -exec chmod 755 {} +
find "$root" -exec touch -h -d @0 {} +
echo "  CPIO    initramfs.cpio"
(cd "$root" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc --reproducible -R 0:0) >"$temp/initramfs.cpio"
mv "$temp/initramfs.cpio" "$out/initramfs.cpio"
