#!/bin/bash
# What counting costs: counting.sh GNOMON KIT [RUNS]
# Boots the same guest with the whole Skylake model (two levels of set-associative
# TLBs with true LRU, walk caches in both dimensions, three levels of memory caches)
# and with the smallest model there is (direct-mapped TLBs and nothing behind them).
# Runs are interleaved; user CPU seconds, and their ratio by the medians.
set -euo pipefail

gnomon=$1 kit=$2 runs=${3:-${RUNS:-5}}
schemes=${SCHEMES:-native shadow ept}
models="smallest textbook skylake"
limit=1.15

die() { echo "bench: $*" >&2; exit 1; }
[ -x "$gnomon" ] || die "no $gnomon; run 'make'"
[ -e "$kit/vmlinux-cloud" ] && [ -e "$kit/initramfs.cpio" ] || die "no guest kit in $kit; run 'make guest'"
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT

measure() { # scheme model: appends user seconds to their file
	local TIMEFORMAT=%U
	{ time "$gnomon" run --mmu "$1" --hw "$2" --memory 256M --kernel "$kit/vmlinux-cloud" --initrd "$kit/initramfs.cpio" \
		--append "console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work=none" </dev/null >"$temp/log" \
		2>"$temp/err"; } 2>>"$temp/$1-$2" || { cat "$temp/err" >&2; die "$1, $2: run failed"; }
	grep -q GNOMON-INIT "$temp/log" || { tail "$temp/log" >&2; die "$1, $2: init was not reached"; }
}

for run in $(seq "$runs"); do
	for scheme in $schemes; do
		for model in $models; do
			measure "$scheme" "$model"
			echo "run $run: $scheme $model $(tail -n 1 "$temp/$scheme-$model") s" >&2
		done
	done
done

median() { sort -n "$temp/$1" | sed -n "$(((runs + 1) / 2))p"; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

echo
echo "User CPU seconds of a boot by hardware model, medians of $runs"
printf '%-8s %10s %10s %10s %18s\n' "" $models skylake/smallest
over=
for scheme in $schemes; do
	least=$(median "$scheme-smallest") whole=$(median "$scheme-skylake")
	r=$(ratio "$whole" "$least")
	printf '%-8s %10s %10s %10s %18s\n' "$scheme" "$least" "$(median "$scheme-textbook")" "$whole" "$r"
	awk -v r="$r" -v l="$limit" 'BEGIN { exit !(r > l) }' && over="$over $scheme"
done
[ -z "$over" ] || echo "More than $limit times the smallest model's:$over"
