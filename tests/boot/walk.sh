#!/bin/bash
# What gnomon walk shows of Debian's kernel: the references the literature counts, under
# each scheme, from one address at the same moment of the same guest: walk.sh GNOMON KIT
#
# The GDT is mapped by a page of 4 KiB, RIP lies in the kernel's text: pages of 2 MiB.
set -uo pipefail

gnomon=$1 kit=$2
initrd=$kit/initramfs.cpio
out=$(mktemp)
trap 'rm -f "$out"' EXIT

[ -e "$kit/vmlinux-cloud" ] && [ -e "$initrd" ] || { echo "walk.sh: no guest kit; run 'make guest'" >&2; exit 77; }

# @1, @2: references of the walks of the GDT and of RIP; @3: kernel; further: options.
expect() {
	local gdt=$1 rip=$2 kernel=$3 got
	shift 3
	"$gnomon" walk --kernel "$kit/$kernel" --initrd "$initrd" --memory 128M \
		--append "console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work=none" --at-console GNOMON \
		--hw textbook --cold --address gdt,rip "$@" >"$out" || { echo "walk.sh: failed: $*" >&2; exit 1; }
	got=$(sed -n 's/^Total: \([0-9]*\) reference.*/\1/p' "$out" | tr '\n' ' ')
	[ "$got" = "$gdt $rip " ] || { echo "walk.sh: $* gives $got instead of $gdt $rip" >&2; cat "$out" >&2; exit 1; }
	[ "$(awk 'length > 100' "$out" | grep -c '^ *[0-9]')" -eq 0 ] || { echo "walk.sh: $*: too wide" >&2; exit 1; }
	echo "$gdt and $rip references: $kernel $*"
}

expect 4 3 vmlinux-cloud --mmu native
expect 4 4 vmlinux-cloud --mmu shadow
expect 4 3 vmlinux-cloud --mmu shadow --host-pages 2m
expect 24 19 vmlinux-cloud --mmu ept
expect 19 15 vmlinux-cloud --mmu ept --host-pages 2m
# The kernel's decompressor is what turns on five levels. EPT stays at four.
expect 5 4 vmlinuz-cloud --mmu native --cpu-features +la57
expect 29 24 vmlinuz-cloud --mmu ept --cpu-features +la57
