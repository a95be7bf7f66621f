#!/bin/bash
# Gets one of Debian's kernels into the build folder without installing it:
#   fetch-kernel.sh cloud|generic OUTDIR
# leaves OUTDIR/kernel-FLAVOUR/ (the unpacked package), OUTDIR/vmlinuz-FLAVOUR
# and OUTDIR/vmlinux-FLAVOUR; of the cloud kernel's modules those of virtio and KVM stay, of the generic one's those of Xen.
# Does nothing, and needs no network, when they are there.
set -euo pipefail

die() { echo "fetch-kernel: $*" >&2; exit 1; }
[ $# -eq 2 ] || die "usage: fetch-kernel.sh cloud|generic OUTDIR"
flavour=$1 out=$2
scripts=$(dirname "$0")
case $flavour in
cloud) meta=linux-image-cloud-amd64 ;;
generic) meta=linux-image-amd64 ;;
*) die "unknown flavour '$flavour'" ;;
esac
tree=$out/kernel-$flavour

# The metapackage depends on exactly the kernel of the day.
resolve() { LC_ALL=C apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-.*-amd64\)$/\1/p' | head -n 1; }

update_lists() {
	[ "$(id -u)" -eq 0 ] || return 0
	LC_ALL=C apt-get update -qq || echo "fetch-kernel: apt-get update failed; going on with the lists there are" >&2
}

# Downloads into the present folder; newer package lists may be needed when the mirror has moved on.
download() {
	for attempt in 1 2 3; do
		package=$(resolve)
		if [ -n "$package" ] && LC_ALL=C apt-get download -qq -o APT::Sandbox::User=root "$package"; then
			return 0
		fi
		[ "$attempt" -eq 3 ] || { sleep $((attempt * 2)); update_lists; }
	done
	if [ -z "$package" ]; then
		die "apt knows no $meta; run 'apt-get update' as root on Debian 12 and try again"
	fi
	die "cannot download $package after 3 attempts; is there a network? ('apt-get update' as root may help)"
}

fetch() {
	temp=$(mktemp -d "$out/.kernel-$flavour.XXXXXX")
	trap 'rm -rf "${temp-}"' EXIT
	echo "  FETCH   $meta"
	(cd "$temp" && download) || exit 1
	mkdir "$temp/tree"
	dpkg-deb -x "$temp"/linux-image-*.deb "$temp/tree" || die "the downloaded package cannot be unpacked"
	rm -rf "$temp/tree/usr"
	# Modules: nothing loads others.
	if [ "$flavour" = cloud ]; then
		find "$temp/tree/lib/modules" -type f ! -name 'virtio*.ko' ! -name '*failover.ko' \
			! -name kvm.ko ! -name kvm-intel.ko ! -name irqbypass.ko -delete
	else
		find "$temp/tree/lib/modules" -type f ! -name 'xen*.ko' -delete
	fi
	find "$temp/tree/lib" -type d -empty -delete
	chmod 755 "$temp/tree"
	rm -rf "$tree"
	mv "$temp/tree" "$tree"
}

mkdir -p "$out"
scripts=$(cd "$scripts" && pwd)
out=$(cd "$out" && pwd)
tree=$out/kernel-$flavour
# With the module that came last to the list.
case $flavour in
cloud) newest='kernel/arch/x86/kvm/kvm.ko' ;;
generic) newest='kernel/drivers/xen/xen-evtchn.ko' ;;
esac
there() { compgen -G "$tree/boot/vmlinuz-*" >/dev/null && compgen -G "$tree/lib/modules/*/$newest" >/dev/null; }
there || fetch
image=$(compgen -G "$tree/boot/vmlinuz-*" | head -n 1)
if [ ! -e "$out/vmlinux-$flavour" ] || [ "$image" -nt "$out/vmlinux-$flavour" ]; then
	echo "  UNPACK  vmlinux-$flavour"
	"$scripts/extract-vmlinux.sh" "$image" "$out/vmlinux-$flavour"
fi
ln -sfn "${image#"$out"/}" "$out/vmlinuz-$flavour"
