#!/bin/bash
# What finding out which pages a guest writes costs: tracking.sh GNOMON KIT [INTERVAL]
# Boots of the same work without a tracker and with each, under shadow and nested paging; pages are collected every
# INTERVAL instructions. Counts and modelled cycles, so neither the host nor what else it does matters.
set -euo pipefail

gnomon=$1 kit=$2 interval=${3:-10M}
works=${WORKS:-none forkwait:400 gups:2000000:64 pftouch:100:2048}
memory=${MEMORY:-128M}

die() { echo "tracking: $*" >&2; exit 1; }
[ -x "$gnomon" ] || die "no $gnomon; run 'make'"
[ -e "$kit/vmlinux-cloud" ] && [ -e "$kit/initramfs.cpio" ] || die "no guest kit in $kit; run 'make guest'"
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT

boot() { # scheme, work, pages, tracker or "none"
	local track=()
	[ "$4" = none ] || track=(--dirty "$4" --dirty-interval "$interval")
	"$gnomon" run --mmu "$1" --memory "$memory" --host-pages "$3" --kernel "$kit/vmlinux-cloud" \
		--initrd "$kit/initramfs.cpio" --append "console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work=$2" \
		--report "$temp/$4" "${track[@]}" </dev/null >"$temp/log" 2>"$temp/err" ||
		{ cat "$temp/err" >&2; die "$*: run failed"; }
}

for work in $works; do
	for setup in "ept 4k wp present ad pml" "ept 2m wp present ad pml" "shadow 4k wp present ad"; do
		read -r scheme pages trackers <<<"$setup"
		boot "$scheme" "$work" "$pages" none
		for tracker in $trackers; do
			boot "$scheme" "$work" "$pages" "$tracker"
			python3 - "$work" "$scheme" "$pages" "$tracker" "$temp" <<-'END'
			import json, sys
			work, scheme, pages, tracker, temp = sys.argv[1:]
			a, b = (json.load(open(f'{temp}/{name}')) for name in ('none', tracker))
			assert a['guest']['state_hash_no_accessed'] == b['guest']['state_hash_no_accessed']
			t, cycles = b['tracking'], lambda r: r['cost']['cycles']['total']
			more = lambda part: b['cost']['cycles'][part] - a['cost']['cycles'][part]
			print(f"| {work} | {scheme} {pages} | {tracker} | {len(t['written']['pages'])} | {t['pages']} | "
			      f"{b['exits']['total'] - a['exits']['total']:+} | {t['log_full']} | "
			      f"{(more('exits') + more('entries') + more('dispatch') + more('vmcs')) / 1e6:+.1f} | {more('tables') / 1e6:+.1f} | "
			      f"{more('walks') / 1e6 + more('references') / 1e6:+.1f} | {100 * (cycles(b) / cycles(a) - 1):+.1f} % |")
			END
		done
	done
done
