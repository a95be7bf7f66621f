#!/bin/bash
# Builds the guest's initramfs, the same bytes every time: make-initramfs.sh OUTDIR
# leaves OUTDIR/initramfs.cpio (uncompressed newc: unpacking it costs the guest least)
# and OUTDIR/initramfs-dev.cpio, the same with the modules of virtio devices and
# programs that use those; it needs the cloud kernel in OUTDIR (fetch-kernel.sh).
set -euo pipefail

die() { echo "make-initramfs: $*" >&2; exit 1; }
[ $# -eq 1 ] || die "usage: make-initramfs.sh OUTDIR"
top=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
busybox=/bin/busybox
[ -x "$busybox" ] || die "no $busybox; install busybox-static"
# In the order they are loaded: each after what it needs.
modules="virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci
	virtio_blk virtio-rng virtio_console virtio_balloon failover net_failover virtio_net"
kernel=$(compgen -G "$out/kernel-cloud/lib/modules/*/kernel" | head -n 1 || true)

newest() { # true if the file is newer than everything that goes into it
	local f
	for f in "$top"/guest/*.[ch] "$busybox" "$0" $(compgen -G "$out/kernel-cloud/lib/modules/*" || true); do
		[ "$1" -nt "$f" ] || return 1
	done
}

cflags=(-std=gnu11 -D_GNU_SOURCE -O2 -march=x86-64 -static -s -Wall -Wextra -Wl,--build-id=none -fno-pie -no-pie)
compile() { # program source...
	${CC:-gcc} "${cflags[@]}" -o "$root/$1" "${@:2}"
}

# What both have; $1: where the first program goes.
common() {
	mkdir -p "$root"/{bin,dev,proc,sys,root,tmp}
	compile "$1" "$top/guest/init.c"
	compile "$2" "$top"/guest/work{,_lookup,_pointers}.c
	cp "$busybox" "$root/bin/busybox"
	ln -s busybox "$root/bin/sh"
}

add_modules() {
	local n=10 m file
	mkdir -p "$root/modules" "$root/mnt"
	for m in $modules; do
		file=$(find "$kernel" -name "$m.ko")
		[ -n "$file" ] || die "the kernel has no module $m"
		cp "$file" "$root/modules/$((n++))-$m.ko"
	done
}

pack() { # file
	find "$root" -type d -exec chmod 755 {} +
	find "$root" -type f -exec chmod 755 {} +
	find "$root" -exec touch -h -d @0 {} +
	echo "  CPIO    $1"
	(cd "$root" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc --reproducible -R 0:0) >"$temp/$1"
	mv "$temp/$1" "$out/$1"
}

small=initramfs.cpio devices=initramfs-dev.cpio
wanted=
[ -e "$out/$small" ] && newest "$out/$small" || wanted=$small
if [ -n "$kernel" ]; then
	[ -e "$out/$devices" ] && newest "$out/$devices" || wanted="$wanted $devices"
fi
[ -n "$wanted" ] || exit 0

temp=$(mktemp -d "$out/.initramfs.XXXXXX")
trap 'rm -rf "$temp"' EXIT
echo "  GUEST   init gnomon-work"
for name in $wanted; do
	root=$temp/root-$name
	if [ "$name" = $small ]; then
		common init bin/gnomon-work
	else
		common bin/gnomon-init bin/gnomon-work-cpu
		compile init "$top/guest/init_devices.c"
		compile bin/gnomon-work "$top/guest/work_devices.c"
		add_modules
	fi
	pack "$name"
done
