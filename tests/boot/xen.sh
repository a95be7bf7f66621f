#!/bin/bash
# Debian's Xen on the machine, with a Debian domain 0 whose xl handles a PVH guest: xen.sh GNOMON KIT hap|shadow
#   hap       Debian's binary: the guest has EPT; it is saved, restored and migrated to its own host
#   shadow    the same source built with shadow paging: the guest has Xen's shadow page tables, and is migrated
set -uo pipefail

gnomon=$(realpath "$1") kit=$2 kind=$3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() { echo "xen.sh: $*" >&2; tail -n 30 "$dir/log" >&2; exit 1; }

case $kind in
hap) xen=hypervisor hap=1 steps=start:GNOMON-READY+save+restore+works+migrate+works+stop ;;
shadow) xen=hypervisor-shadow hap=0 steps=start:GNOMON-READY+migrate+works+stop ;;
*) echo "xen.sh: no kind '$kind'" >&2; exit 1 ;;
esac
for file in vmlinux-generic xen/$xen xen/dom0.cpio; do
	[ -e "$kit/$file" ] || { echo "xen.sh: no Xen ($file); run 'make guest-xen'" >&2; exit 77; }
done

"$gnomon" run --mmu native --cpu-features +vmx --memory 1G --kernel "$kit/xen/$xen" \
	--append "com1=115200,8n1 console=com1 no-real-mode noreboot dom0_mem=512M,max:512M" \
	--initrd "${kit//,/,,}/vmlinux-generic console=hvc0 panic=-1 quiet cryptomgr.notests xen.do=$steps xen.hap=$hap xen.work=gups:2000000:4 xen.times=90,${kit//,/,,}/xen/dom0.cpio" \
	--limit-insns 40G --report "$dir/report" </dev/null >"$dir/log" 2>&1 || fail "the machine ended badly"
for step in ${steps//+/ }; do
	grep -q "XEN-LAB end ${step%%:*}" "$dir/log" || fail "domain 0 did not come to the end of '$step'"
done
grep -q 'XEN-LAB done' "$dir/log" || fail "domain 0 did not end well"
grep -Eq 'XEN-STREAM round [1-9]' "$dir/log" || fail "the migration was not live"
# What only the one or the other does.
full=$(sed -n 's/.*"log_full": \([0-9]*\).*/\1/p' "$dir/report")
case $kind in
hap) [ "${full:-0}" -gt 0 ] || fail "no exit for a full page-modification log" ;;
shadow) [ "${full:-0}" -eq 0 ] || fail "a page-modification log without EPT" ;;
esac
