#!/bin/bash
# Gets Debian's Xen and what its tools need into the build folder, without installing any of it: fetch-xen.sh OUTDIR
# leaves
#   OUTDIR/xen/tree          the unpacked packages
#   OUTDIR/xen/hypervisor    Xen itself, a multiboot image
#   OUTDIR/xen/dom0.cpio     the initial ramdisk of domain 0: xl and its daemons, the kernel's modules for Xen, a guest
#                            (guest/xen/init)
# It needs the cloud and the generic kernel and initramfs.cpio in OUTDIR (fetch-kernel.sh, make-initramfs.sh). Does nothing, and
# needs no network, when all is there and newer than what it is made from.
set -euo pipefail

die() { echo "fetch-xen: $*" >&2; exit 1; }
[ $# -eq 1 ] || die "usage: fetch-xen.sh OUTDIR"
top=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1/xen"
kit=$(cd "$1" && pwd)
out=$kit/xen
busybox=/bin/busybox
version=4.17
packages="xen-hypervisor-$version-amd64 xen-utils-$version libxenmisc$version libxencall1 libxendevicemodel1 libxenevtchn1
	libxenforeignmemory1 libxengnttab1 libxenhypfs1 libxenstore4 libxentoolcore1 libxentoollog1 xenstore-utils
	libc6 libgcc-s1 libyajl2 liblzma5 libzstd1 zlib1g libuuid1"
tools="xl xenstored xenconsoled xen-init-dom0 libxl-save-helper xentrace"
modules="xen-evtchn xen-privcmd xen-gntdev xen-gntalloc xenfs"

update_lists() {
	[ "$(id -u)" -eq 0 ] || return 0
	LC_ALL=C apt-get update -qq || echo "fetch-xen: apt-get update failed; going on with the lists there are" >&2
}

# Into the present folder; newer package lists may be needed when the mirror has moved on.
download() {
	local attempt
	for attempt in 1 2 3; do
		# shellcheck disable=SC2086 # a list
		LC_ALL=C apt-get download -qq -o APT::Sandbox::User=root $packages && return 0
		[ "$attempt" -eq 3 ] || { sleep $((attempt * 2)); update_lists; }
	done
	die "cannot download Xen after 3 attempts; is there a network? ('apt-get update' as root may help)"
}

fetch() {
	local deb
	echo "  FETCH   xen-$version"
	mkdir "$temp/debs" "$temp/tree"
	(cd "$temp/debs" && download) || exit 1
	for deb in "$temp"/debs/*.deb; do
		dpkg-deb -x "$deb" "$temp/tree" || die "$(basename "$deb") cannot be unpacked"
	done
	rm -rf "$temp"/tree/usr/share/{doc,man,locale,lintian} "$out/tree"
	mv "$temp/tree" "$out/tree"
}

# Copies a file of the packages to the same place, following links: usr/bin/xl
take() {
	mkdir -p "$root/$(dirname "$1")"
	cp -L "$out/tree/$1" "$root/$1" || die "the packages have no $1"
}

needs() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }

# A library and those that it needs.
take_library() {
	local file
	[ ! -e "$root/lib/$1" ] || return 0
	file=$(find "$out/tree/lib" "$out/tree/usr/lib/x86_64-linux-gnu" -name "$1" | head -n 1)
	[ -n "$file" ] || die "none of the packages has $1"
	cp -L "$file" "$root/lib/$1"
	take_libraries "$root/lib/$1"
}

take_libraries() { # of a program
	local lib
	for lib in $(needs "$1"); do
		take_library "$lib"
	done
}

add_modules() {
	local n=10 m file
	mkdir "$root/modules"
	for m in $modules; do
		file=$(find "$kit/kernel-generic/lib/modules" -name "$m.ko")
		[ -n "$file" ] || die "the generic kernel has no module $m"
		cp "$file" "$root/modules/$((n++))-$m.ko"
	done
}

make_dom0() {
	local tool
	echo "  CPIO    xen/dom0.cpio"
	root=$temp/root
	mkdir -p "$root"/{bin,dev,etc/xen,guest,lib,lib64,proc,root,run,sys,tmp,var/{lib,log}}
	ln -s ../run "$root/var/run"
	cp "$busybox" "$root/bin/busybox"
	ln -s busybox "$root/bin/sh"
	install -m 755 "$top/guest/xen/init" "$root/init"
	${CC:-gcc} -std=gnu11 -D_GNU_SOURCE -O2 -march=x86-64 -static -s -Wall -Wextra -Wl,--build-id=none -fno-pie -no-pie \
		-o "$root/bin/xen-stream" "$top/guest/xen/stream.c"
	for tool in $tools; do
		take "usr/lib/xen-$version/bin/$tool"
		take_libraries "$root/usr/lib/xen-$version/bin/$tool"
		ln -s "../usr/lib/xen-$version/bin/$tool" "$root/bin/$tool"
	done
	for tool in xenstore-ls xenstore-read; do
		take usr/bin/$tool
		take_libraries "$root/usr/bin/$tool"
	done
	take_library libgcc_s.so.1 # the C library loads it when a thread ends
	cp -L "$out/tree/lib64/ld-linux-x86-64.so.2" "$root/lib64/"
	add_modules
	cp "$kit/vmlinux-cloud" "$root/guest/kernel"
	cp "$kit/initramfs.cpio" "$root/guest/ramdisk"
	find "$root" -type d -exec chmod 755 {} +
	find "$root" -exec touch -h -d @0 {} +
	(cd "$root" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc --reproducible -R 0:0) >"$temp/dom0.cpio"
	mv "$temp/dom0.cpio" "$out/dom0.cpio"
}

newest() { # true if dom0.cpio is newer than everything that goes into it
	local f
	for f in "$top"/guest/xen/* "$0" "$busybox" "$out/tree" "$kit/vmlinux-cloud" "$kit/initramfs.cpio" "$kit/kernel-generic"; do
		[ "$out/dom0.cpio" -nt "$f" ] || return 1
	done
}

[ -x "$busybox" ] || die "no $busybox; install busybox-static"
for file in vmlinux-cloud vmlinux-generic initramfs.cpio kernel-generic/lib/modules; do
	[ -e "$kit/$file" ] || die "no $kit/$file: fetch-kernel.sh and make-initramfs.sh come first"
done
temp=$(mktemp -d "$out/.fetch.XXXXXX")
trap 'rm -rf "$temp"' EXIT
[ -d "$out/tree" ] || fetch
if [ ! -e "$out/hypervisor" ] || [ "$out/tree" -nt "$out/hypervisor" ]; then
	gunzip -c "$out/tree/boot/xen-$version-amd64.gz" >"$temp/hypervisor" || die "Xen's image cannot be unpacked"
	mv "$temp/hypervisor" "$out/hypervisor"
fi
[ -e "$out/dom0.cpio" ] && newest || make_dom0
