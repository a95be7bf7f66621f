#!/bin/bash
# Builds the guest kernel that takes part in HugeGPT and DMT from Debian's source package, which is not installed:
#   make-guest-kernel.sh OUTDIR
# leaves OUTDIR/vmlinux-gnomon. Does nothing, and needs no network, while guest/linux/ is what it was built from. The
# package stays in OUTDIR/linux-source; the tree it was built in does not.
# NICE=N builds at that niceness, JOBS=N with that many jobs.
set -euo pipefail

die() { echo "make-guest-kernel: $*" >&2; exit 1; }
[ $# -eq 1 ] || die "usage: make-guest-kernel.sh OUTDIR"
top=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
package=linux-source-6.1
kernel=$out/vmlinux-gnomon
jobs=${JOBS:-$(nproc)}

# What the kernel is a function of, but for the compiler and the day's source package.
inputs() {
	(cd "$top" && find guest/linux scripts/make-guest-kernel.sh -type f | LC_ALL=C sort | xargs sha256sum) |
		sha256sum | cut -d ' ' -f 1
}

update_lists() {
	[ "$(id -u)" -eq 0 ] || return 0
	LC_ALL=C apt-get update -qq || echo "make-guest-kernel: apt-get update failed; going on with the lists there are" >&2
}

# Into the present folder; newer package lists may be needed when the mirror has moved on.
download() {
	local attempt
	for attempt in 1 2 3; do
		LC_ALL=C apt-get download -qq -o APT::Sandbox::User=root "$package" && return 0
		[ "$attempt" -eq 3 ] || { sleep $((attempt * 2)); update_lists; }
	done
	die "cannot download $package after 3 attempts; is there a network? ('apt-get update' as root may help)"
}

fetch() {
	compgen -G "$out/linux-source/*.deb" >/dev/null && return 0
	echo "  FETCH   $package"
	mkdir "$temp/fetch"
	(cd "$temp/fetch" && download) || exit 1
	rm -rf "$out/linux-source"
	mv "$temp/fetch" "$out/linux-source"
}

# Without the code of drivers and processors that no configuration of ours has; Kconfig wants their menus.
unpack() {
	local part skip=()
	for part in drivers/gpu drivers/media drivers/net drivers/staging drivers/infiniband drivers/scsi drivers/usb sound; do
		skip+=(--exclude="$package/$part/*.[chS]" --exclude="$package/$part/*.fw")
	done
	for part in Documentation "arch/[!x]*/*" tools/testing tools/perf samples; do
		skip+=(--exclude="$package/$part/*.[!K]*")
	done
	echo "  UNPACK  $package"
	mkdir "$temp/tree"
	dpkg-deb --fsys-tarfile "$out"/linux-source/*.deb | tar -xO "./usr/src/$package.tar.xz" |
		tar -xJ -C "$temp/tree" --strip-components=1 "${skip[@]}" || die "the source package cannot be unpacked"
}

apply() {
	cp -r "$top/guest/linux/tree/." "$temp/tree"
	patch -d "$temp/tree" -p1 -s -f --no-backup-if-mismatch <"$top/guest/linux/hooks.patch" >"$temp/log" 2>&1 || {
		cat "$temp/log" >&2
		die "hooks.patch does not fit $(basename "$out"/linux-source/*.deb)"
	}
}

build_make() { # targets; the same names in every build, so that the kernel is the same
	nice -n "${NICE:-0}" make -C "$temp/tree" ARCH=x86_64 KBUILD_BUILD_USER=gnomon KBUILD_BUILD_HOST=gnomon \
		KBUILD_BUILD_VERSION=1 KBUILD_BUILD_TIMESTAMP='1970-01-01' "$@" >"$temp/log" 2>&1 || {
		tail -n 30 "$temp/log" >&2
		die "the kernel cannot be built"
	}
}

configure() {
	local line
	build_make KCONFIG_ALLCONFIG="$top/guest/linux/config" allnoconfig
	while IFS= read -r line; do
		case $line in
		"# CONFIG_"*" is not set")
			line=${line#\# } line=${line% is not set}
			! grep -q "^$line=" "$temp/tree/.config" || die "$line cannot be turned off"
			;;
		CONFIG_*) grep -qxF "$line" "$temp/tree/.config" || die "$line was not taken" ;;
		esac
	done <"$top/guest/linux/config"
}

wanted=$(inputs)
if [ -e "$kernel" ] && [ "$(cat "$kernel.inputs" 2>/dev/null)" = "$wanted" ]; then
	exit 0
fi
temp=$(mktemp -d "$out/.linux.XXXXXX")
trap 'rm -rf "$temp"' EXIT
fetch
unpack
apply
echo "  KERNEL  vmlinux-gnomon (takes minutes)"
configure
build_make -j"$jobs" vmlinux
rm -f "$kernel.inputs"
strip -g -o "$temp/vmlinux" "$temp/tree/vmlinux"
mv "$temp/vmlinux" "$kernel"
echo "$wanted" >"$kernel.inputs"
