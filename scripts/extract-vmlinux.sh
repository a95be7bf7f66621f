#!/bin/bash
# Takes the ELF kernel out of a bzImage: extract-vmlinux.sh VMLINUZ OUT
# The setup header (Linux's "x86 boot protocol", 2.08 on) says where the
# compressed payload lies. OUT appears whole or not at all.
set -euo pipefail

die() { echo "extract-vmlinux: $*" >&2; exit 1; }
[ $# -eq 2 ] || die "usage: extract-vmlinux.sh VMLINUZ OUT"
image=$1 out=$2

field() { od -An -v -t "u$2" -j "$1" -N "$2" "$image" | tr -d ' '; }

[ -r "$image" ] || die "$image: cannot be read"
[ "$(od -An -c -j 514 -N 4 "$image" | tr -d ' \n')" = HdrS ] || die "$image: no Linux kernel image"
sectors=$(field 497 1)
[ "$sectors" -ne 0 ] || sectors=4
payload=$(((sectors + 1) * 512 + $(field 584 4)))
length=$(field 588 4)
size=$(stat -c %s "$image")
[ "$length" -gt 4 ] && [ $((payload + length)) -le "$size" ] || die "$image: truncated"

magic=$(od -An -v -t x1 -j "$payload" -N 4 "$image" | tr -d ' \n')
# All but gzip carry the length of the kernel in four bytes behind the payload.
case $magic in
02214c18) unpack='lz4 -dc' trailer=4 ;;
fd377a58) unpack='xz -dc' trailer=4 ;;
28b52ffd) unpack='zstd -dcq' trailer=4 ;;
1f8b*) unpack='gzip -dc' trailer=0 ;;
*) die "$image: payload of unknown compression ($magic)" ;;
esac

temp=$(mktemp "$out.XXXXXX")
trap 'rm -f "$temp"' EXIT
dd if="$image" bs=1M iflag=skip_bytes,count_bytes skip="$payload" count=$((length - trailer)) status=none |
	$unpack >"$temp" 2>/dev/null || die "$image: ${unpack%% *} cannot unpack the kernel (is it installed?)"
[ "$(od -An -v -t x1 -N 4 "$temp" | tr -d ' \n')" = 7f454c46 ] || die "$image: payload is no ELF file"
chmod 644 "$temp"
mv "$temp" "$out"
