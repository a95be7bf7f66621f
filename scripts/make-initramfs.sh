#!/bin/bash
# Builds the guest's initramfs, the same bytes every time: make-initramfs.sh OUTDIR [MONITOR]
# leaves OUTDIR/initramfs.cpio (uncompressed newc: unpacking it costs the guest least)
# and OUTDIR/initramfs-dev.cpio, the same with the modules of virtio devices and
# programs that use those; it needs the cloud kernel in OUTDIR (fetch-kernel.sh). With
# MONITOR (guest/kvm, built) it leaves OUTDIR/initramfs-kvm.cpio instead: a guest that is a
# hypervisor, with the kernel's KVM, the monitor, and the kernel and initramfs of its guest.
set -euo pipefail

die() { echo "make-initramfs: $*" >&2; exit 1; }
[ $# -eq 1 ] || [ $# -eq 2 ] || die "usage: make-initramfs.sh OUTDIR [MONITOR]"
monitor=${2:+$(realpath "$2")}
top=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
busybox=/bin/busybox
[ -x "$busybox" ] || die "no $busybox; install busybox-static"
# In the order they are loaded: each after what it needs.
modules="virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci
	virtio_blk virtio-rng virtio_console virtio_balloon failover net_failover virtio_net"
kernel=$(compgen -G "$out/kernel-cloud/lib/modules/*/kernel" | head -n 1 || true)

newest() { # true if the file is there and newer than everything that goes into it
	local f
	[ -e "$1" ] || return 1
	for f in "$top"/guest/*.[ch] "$busybox" "$0" $(compgen -G "$out/kernel-cloud/lib/modules/*" || true); do
		[ "$1" -nt "$f" ] || return 1
	done
}

newest_kvm() { # ... and what the third is made of besides
	local f
	newest "$1" || return 1
	for f in "$monitor" "$out/vmlinux-cloud" "$out/$small"; do
		[ "$1" -nt "$f" ] || return 1
	done
}

cflags=(-std=gnu11 -D_GNU_SOURCE -O2 -march=x86-64 -static -s -Wall -Wextra -Wl,--build-id=none -fno-pie -no-pie)
compile() { # program source...
	${CC:-gcc} "${cflags[@]}" -o "$root/$1" "${@:2}"
}

# What all have; $1: where the first program goes.
common() {
	mkdir -p "$root"/{bin,dev,proc,sys,root,tmp}
	compile "$1" "$top/guest/init.c"
	compile "$2" "$top"/guest/work{,_lookup,_pointers}.c
	cp "$busybox" "$root/bin/busybox"
	ln -s busybox "$root/bin/sh"
}

add_modules() { # module...
	local n=10 m file
	mkdir -p "$root/modules" "$root/mnt"
	for m in "$@"; do
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

# A guest that is a hypervisor. Its module kvm-intel is loaded by the workload, with parameters.
hypervisor_tree() {
	mkdir -p "$root/kvm"
	common bin/gnomon-init bin/gnomon-work-cpu
	compile init "$top/guest/init_devices.c"
	compile bin/gnomon-work "$top/guest/work_kvm.c"
	cp "$monitor" "$root/bin/gnomon-kvm"
	strip "$root/bin/gnomon-kvm"
	add_modules irqbypass kvm
	cp "$(find "$kernel" -name kvm-intel.ko)" "$out/$small" "$root/kvm/"
	cp "$out/vmlinux-cloud" "$root/kvm/vmlinux"
}

small=initramfs.cpio devices=initramfs-dev.cpio hypervisor=initramfs-kvm.cpio
wanted=
if [ -n "$monitor" ]; then
	[ -n "$kernel" ] && [ -e "$out/vmlinux-cloud" ] && [ -e "$out/$small" ] || die "no kernel, or no initramfs, for the inner guest"
	newest_kvm "$out/$hypervisor" || wanted=$hypervisor
else
	newest "$out/$small" || wanted=$small
	[ -z "$kernel" ] || newest "$out/$devices" || wanted="$wanted $devices"
fi
[ -n "$wanted" ] || exit 0

temp=$(mktemp -d "$out/.initramfs.XXXXXX")
trap 'rm -rf "$temp"' EXIT
echo "  GUEST   init gnomon-work"
for name in $wanted; do
	root=$temp/root-$name
	case $name in
	$small) common init bin/gnomon-work ;;
	$hypervisor) hypervisor_tree ;;
	$devices)
		common bin/gnomon-init bin/gnomon-work-cpu
		compile init "$top/guest/init_devices.c"
		compile bin/gnomon-work "$top/guest/work_devices.c"
		add_modules $modules
		;;
	esac
	pack "$name"
done
