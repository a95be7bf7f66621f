#!/bin/bash
# Builds Xen with shadow paging from Debian's source package, which is not installed: make-xen.sh OUTDIR
# leaves OUTDIR/xen/hypervisor-shadow. The configuration is that of Debian's binary package, which leaves shadow paging out and so
# has no guests with hap=0. Does nothing, and needs no network, when it is there and newer than this script.
# NICE=N builds at that niceness, JOBS=N with that many jobs, DEBIAN_MIRROR: another mirror than deb.debian.org.
set -euo pipefail

die() { echo "make-xen: $*" >&2; exit 1; }
[ $# -eq 1 ] || die "usage: make-xen.sh OUTDIR"
mkdir -p "$1/xen"
out=$(cd "$1/xen" && pwd)
target=$out/hypervisor-shadow
# Of the release itself, so that it is the same from day to day; the tools of its updates work with it.
list="deb-src ${DEBIAN_MIRROR:-http://deb.debian.org/debian} bookworm main"

[ ! -e "$target" ] || [ "$0" -nt "$target" ] || exit 0
for tool in gcc make flex bison python3 ld xz; do
	command -v $tool >/dev/null || die "no $tool; run scripts/setup.sh xen as root"
done
temp=$(mktemp -d "$out/.build.XXXXXX")
trap 'rm -rf "$temp"' EXIT

# With lists of our own: the system's need not name sources.
source_apt() {
	LC_ALL=C apt-get -qq -o Dir::Etc::sourcelist="$temp/sources" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::State::lists="$temp/lists" -o Dir::Cache="$temp/cache" -o APT::Sandbox::User=root \
		-o Acquire::Retries=3 "$@"
}

echo "  FETCH   xen (source)"
mkdir -p "$temp/lists/partial" "$temp/cache/archives/partial" "$temp/tree"
echo "$list" >"$temp/sources"
(cd "$temp" && source_apt update && source_apt source --download-only xen) >"$temp/log" 2>&1 ||
	{ tail -n 5 "$temp/log" >&2; die "cannot download Xen's source package; is there a network?"; }
tar -C "$temp/tree" --strip-components=1 -xJf "$temp"/xen_*.orig.tar.xz || die "the source cannot be unpacked"
tar -C "$temp/tree" -xJf "$temp"/xen_*.debian.tar.xz || die "Debian's part of the source cannot be unpacked"

echo "  BUILD   xen/hypervisor-shadow"
cd "$temp/tree"
{ cat debian/xen-kconfig; echo CONFIG_SHADOW_PAGING=y; } >xen/.config
build() {
	nice -n "${NICE:-0}" make -C xen -j "${JOBS:-$(nproc)}" XEN_TARGET_ARCH=x86_64 XEN_WHOAMI=gnomon XEN_DOMAIN=gnomon \
		XEN_BUILD_HOST=gnomon XEN_BUILD_DATE="$(sed -n 's/^ -- .*>  //p' debian/changelog | head -n 1)" XEN_BUILD_TIME=0 "$@" >>"$temp/log" 2>&1 ||
		{ tail -n 20 "$temp/log" >&2; die "the build failed"; }
}
build olddefconfig
grep -q '^CONFIG_SHADOW_PAGING=y' xen/.config || die "the configuration does not take CONFIG_SHADOW_PAGING"
build
cp xen/xen "$temp/hypervisor"
mv "$temp/hypervisor" "$target"
