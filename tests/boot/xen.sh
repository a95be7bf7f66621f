#!/bin/bash
# Debian's Xen on the machine, with a Debian domain 0 whose xl handles a PVH guest with EPT: xen.sh GNOMON KIT
# The guest is started, saved, restored and migrated to its own host, and does its work after each.
set -uo pipefail

gnomon=$(realpath "$1") kit=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() { echo "xen.sh: $*" >&2; tail -n 30 "$dir/log" >&2; exit 1; }

steps=start:GNOMON-READY+save+restore+works+migrate+works+stop
for file in vmlinux-generic xen/hypervisor xen/dom0.cpio; do
	[ -e "$kit/$file" ] || { echo "xen.sh: no Xen ($file); run 'make guest-xen'" >&2; exit 77; }
done

dom0="console=hvc0 panic=-1 quiet cryptomgr.notests xen.do=$steps xen.work=gups:2000000:4 xen.times=90"
"$gnomon" run --mmu native --cpu-features +vmx --memory 1G --kernel "$kit/xen/hypervisor" \
	--append "com1=115200,8n1 console=com1 no-real-mode noreboot dom0_mem=512M,max:512M" \
	--initrd "${kit//,/,,}/vmlinux-generic $dom0,${kit//,/,,}/xen/dom0.cpio" \
	--limit-insns 40G --report "$dir/report" </dev/null >"$dir/log" 2>&1 || fail "the machine ended badly"
for step in ${steps//+/ }; do
	grep -q "XEN-LAB end ${step%%:*}" "$dir/log" || fail "domain 0 did not come to the end of '$step'"
done
grep -q 'XEN-LAB done' "$dir/log" || fail "domain 0 did not end well"
grep -Eq 'XEN-STREAM round [1-9]' "$dir/log" || fail "the migration was not live"
# The guest computes the same wherever it is.
[ "$(grep -c '^GNOMON-WORK gups 2000000 done' "$dir/log")" -gt 5 ] || fail "the guest did not work"
[ "$(sed -n 's/^gups 2000000: sum //p' "$dir/log" | tr -d '\r' | sort -u | wc -l)" -eq 1 ] || fail "the guest's results differ"
full=$(sed -n 's/.*"log_full": \([0-9]*\).*/\1/p' "$dir/report")
[ "${full:-0}" -gt 0 ] || fail "no exit for a full page-modification log"
