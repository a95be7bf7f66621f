#!/bin/bash
# Each workload comes to the sum it always comes to, with small pages and with large ones:
#   works.sh PROGRAM               on this machine
#   works.sh GNOMON KIT SCHEME     in a guest, where the large ones are really there
set -uo pipefail

# NAME:N:M and the sum. No layout of memory changes it, and no scheme.
sums="gups:2000:4 447519f407f1ce00
sparse:2000:4096 3d6d917ae63b877d
btree:2000:4 263f61fd54565029
store:2000:4 7820808960188624
xsection:300:4 0000000000000382
graph:2:2 8e807d9daaa50b0e
anneal:2000:4 0a3651fb972ebb1a
compile:200:4 7819b6ed09396cf5"

fail() { echo "works.sh: $*" >&2; exit 1; }

# Is the line of @work in the text as it should be, as often as it was run?
check() { # text work sum
	local name n
	IFS=: read -r name n _ <<<"$2"
	[ "$(grep -c "^$name $n: sum $3" <<<"$1")" -eq 2 ] || fail "$2: not twice the sum $3 in: $1"
	[ "$(grep -c "^GNOMON-READY $name" <<<"$1")" -eq 2 ] || fail "$2: does not say that it is ready"
}

if [ $# -eq 1 ]; then
	while read -r work sum; do
		IFS=: read -r name n m <<<"$work"
		check "$("$1" "$name" "$n" "$m" small; "$1" "$name" "$n" "$m" huge)" "$work" "$sum"
	done <<<"$sums"
	"$1" btree 10 4 middling >/dev/null && fail "pages of no size"
	"$1" btree 10 0 >/dev/null && fail "no memory"
	exit 0
fi
[ -e "$2/vmlinux-cloud" ] && [ -e "$2/initramfs.cpio" ] || { echo "works.sh: no guest kit; run 'make guest'" >&2; exit 77; }
report=$(mktemp)
trap 'rm -f "$report"' EXIT

run() { # gnomon kit scheme work
	"$1" run --mmu "$3" --kernel "$2/vmlinux-cloud" --initrd "$2/initramfs.cpio" --memory 576M --host-pages 2m --report "$report" \
		--append "console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work=$4" </dev/null 2>&1 | tr -d '\r'
}

walks() { sed -n 's/.*"walks": *\([0-9]*\).*/\1/p' "$report" | head -n 1; }

small=$(cut -d' ' -f1 <<<"$sums" | paste -sd,)
console=$(run "$1" "$2" "$3" "$small,${small//,/:huge,}:huge")
while read -r work sum; do
	check "$console" "$work" "$sum"
done <<<"$sums"
# Each update of the table is a walk, unless it has large pages (the hypervisor's are large, too).
run "$1" "$2" "$3" gups:40000:32 >/dev/null
many=$(walks)
run "$1" "$2" "$3" gups:40000:32:huge >/dev/null
[ "$(walks)" -lt $((many - 20000)) ] || fail "$3: $many walks with small pages, $(walks) with large ones"
