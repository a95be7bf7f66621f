#!/bin/bash
# Makes a small Debian 12 root file system from Debian's packages: make-rootfs.sh OUTDIR
# leaves OUTDIR/debian-XXXXXXXX.img (raw, ext4, sparse; named by its contents) and the link OUTDIR/debian.img to it.
# Nothing is done, and no network needed, while it is newer than what goes into it. A base whose name changes stays as long
# as there is a branch, OUTDIR/debian.qcow2, that may need it. DEBIAN_MIRROR: another mirror than deb.debian.org.
#
# As root, mmdebstrap installs the packages in a chroot; otherwise it takes user namespaces or fakechroot, and fakeroot does
# the rest. The same packages give the same bytes: times, UUID and hash seed are fixed.
set -euo pipefail

die() { echo "make-rootfs: $*" >&2; exit 1; }
suite=bookworm
packages=mount,procps,redis-server,redis-tools,sqlite3,busybox-static
size=512M
uuid=676e6f6d-6f6e-4000-8000-64656269616e
export SOURCE_DATE_EPOCH=1735689600 E2FSPROGS_FAKE_TIME=1735689600 LC_ALL=C TZ=UTC
top=$(cd "$(dirname "$0")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin

# ---- second part, as root or in fakeroot: from the packages' files to the image ----

install_ours() { # root
	local r=$1
	install -m 755 "$top/guest/debian/gnomon-debian" "$r/usr/local/sbin/gnomon-debian"
	install -m 755 "$top/guest/debian/init" "$r/usr/sbin/init"
	${CC:-gcc} -std=gnu11 -D_GNU_SOURCE -O2 -march=x86-64 -static -s -Wall -Wextra -Wl,--build-id=none -fno-pie -no-pie \
		-o "$r/usr/local/bin/gnomon-mixedio" "$top/guest/debian/mixedio.c"
	install -m 644 "$top/guest/debian/motd" "$r/etc/motd"
	echo gnomon >"$r/etc/hostname"
	echo 'nameserver 10.0.2.3' >"$r/etc/resolv.conf" # that of "--net user"; this host's is of no use there
	printf '127.0.0.1\tlocalhost gnomon\n' >"$r/etc/hosts"
	printf '/dev/vda\t/\text4\tdefaults\t0\t1\n' >"$r/etc/fstab"
	for name in poweroff reboot halt; do
		ln -sf /bin/busybox "$r/usr/local/sbin/$name"
	done
	mkdir -p "$r/usr/local/share/gnomon"
	(cd "$r" && find usr/bin usr/sbin -type f | sort | xargs -d '\n' sha256sum) >"$r/usr/local/share/gnomon/sha256"
}

# Names on standard input; commands for debugfs on standard output.
set_times() {
	local name field
	while read -r name; do
		for field in atime ctime crtime; do
			echo "set_inode_field \"$name\" $field @$SOURCE_DATE_EPOCH"
			echo "set_inode_field \"$name\" ${field}_extra 0"
		done
	done
}

make_image() { # tar, directory
	local root=$2/root
	mkdir "$root"
	tar -C "$root" -xpf "$1" --exclude='./dev/*' --numeric-owner
	install_ours "$root"
	find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	truncate -s "$size" "$2/debian.img"
	mke2fs -q -F -t ext4 -m 0 -N 16384 -U "$uuid" -L gnomon-debian -E "hash_seed=$uuid,lazy_itable_init=0,lazy_journal_init=0" \
		-d "$root" "$2/debian.img"
	# mke2fs took over when our copies were read and made, which cannot be set: say it to the file system.
	find "$root" -printf '/%P\n' | sort | set_times >"$2/times"
	debugfs -w -f "$2/times" "$2/debian.img" >/dev/null 2>"$2/debugfs.log" || die "debugfs failed"
}

if [ "${1-}" = --image ]; then
	make_image "$2" "$3"
	exit
fi

# ---- first part: packages ----

[ $# -eq 1 ] || die "usage: make-rootfs.sh OUTDIR"
mkdir -p "$1"
out=$(cd "$1" && pwd)

newest() {
	local f
	for f in "$top"/guest/debian/* "$0"; do
		[ "$out/debian.img" -nt "$f" ] || return 1
	done
}
if [ -e "$out/debian.img" ] && newest; then
	exit 0
fi
for tool in mmdebstrap mke2fs debugfs; do
	command -v $tool >/dev/null || die "no $tool; run scripts/setup.sh rootfs as root"
done
as_root=
[ "$(id -u)" -eq 0 ] || as_root=fakeroot

temp=$(mktemp -d "$out/.rootfs.XXXXXX")
trap 'rm -rf "$temp"' EXIT
chmod 755 "$temp"
echo "  DEBIAN  $packages"
# Manuals and translations would be half of it. What dpkg leaves out it does not miss.
mmdebstrap --quiet --format=tar --variant=essential --include="$packages" --aptopt='APT::Install-Recommends "false"' \
	--aptopt='Acquire::Retries "3"' \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	--dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-include=/usr/share/doc/*/copyright' \
	"$suite" - ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$temp/root.tar" 2>"$temp/log" ||
	{ tail -n 20 "$temp/log" >&2; die "mmdebstrap failed: it needs a network, and root, user namespaces or fakechroot"; }
echo "  IMAGE   debian.img"
$as_root bash "$0" --image "$temp/root.tar" "$temp"
name=debian-$(sha256sum "$temp/debian.img" | head -c 8).img
mv "$temp/debian.img" "$out/$name"
ln -sfn "$name" "$out/debian.img"
[ -e "$out/debian.qcow2" ] || find "$out" -maxdepth 1 -name 'debian-????????.img' ! -name "$name" -delete
