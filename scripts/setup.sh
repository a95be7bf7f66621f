#!/bin/bash
# Sees to the Debian packages that Gnomon needs: setup.sh [--check] GROUP...
# As root, what is missing is installed; otherwise, or with --check, it is named
# in one line that can be pasted, and the script fails.
set -euo pipefail

packages() {
	case $1 in
	build) echo gcc libc6-dev meson ninja-build pkg-config libzydis-dev libjansson-dev libxxhash-dev libconfig-dev libslirp-dev libgnutls28-dev zlib1g-dev libzstd-dev liblzma-dev libjs-chart.js python3 ;;
	guest) echo gcc libc6-dev busybox-static cpio lz4 xz-utils ;;
	kernel) echo gcc libc6-dev make flex bison bc libelf-dev xz-utils patch binutils ;;
	xen) echo gcc libc6-dev make flex bison python3 binutils busybox-static cpio xz-utils ;;
	rootfs) echo mmdebstrap e2fsprogs fakeroot fakechroot ;;
	test) echo libcmocka-dev qemu-system-x86 qemu-utils e2fsprogs patch seabios ;;
	bench) echo gcc libc6-dev qemu-system-x86 qemu-utils valgrind ;;
	*) echo "setup: unknown group '$1' (build, guest, kernel, xen, rootfs, test, bench)" >&2; exit 2 ;;
	esac
}

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

check=false
[ "${1-}" != --check ] || { check=true; shift; }
[ $# -gt 0 ] || { echo "usage: setup.sh [--check] build|guest|kernel|xen|rootfs|test|bench..." >&2; exit 2; }
wanted=
for group in "$@"; do
	list=$(packages "$group")
	wanted="$wanted $list"
done
if ! command -v dpkg-query >/dev/null; then
	echo "setup: no Debian system; these Debian packages are needed in some form:$wanted" >&2
	exit 0
fi
missing=
for package in $(printf '%s\n' $wanted | sort -u); do
	installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

install="apt-get install -y --no-install-recommends$missing"
if $check || [ "$(id -u)" -ne 0 ]; then
	echo "Packages are missing. As root, run: apt-get update && $install" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
echo "  INSTALL$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" >>"$log" 2>&1; }
apt update || echo "setup: apt-get update failed; going on with the package lists there are" >&2
if ! apt install -y --no-install-recommends $missing; then
	tail -n 20 "$log" >&2
	echo "setup: cannot install the packages; failed: $install" >&2
	exit 1
fi
