#!/bin/bash
# CPU time of workloads, beside QEMU's translator: work.sh GNOMON KIT [RUNS] [SUBJECTS...]
# Each workload runs in a boot of its own; what the boot alone takes (the least of its runs) is
# subtracted. Runs are interleaved. User CPU seconds, of all threads; the least of the runs, and the ratio of leasts.
set -euo pipefail

gnomon=$1 kit=$2 runs=${3:-3}
shift $(($# < 3 ? $# : 3))
subjects=${*:-qemu native ept shadow}
works=${WORKS:-none intloop:60000000 mixed:100000 gups:1000000 pftouch:200:1024 forkwait:500 syscall:200000 memcpy:1000:1024}
memory=${MEMORY:-256M}
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT

boot() { # subject work
	local append="console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work=$2"

	if [ "$1" = qemu ]; then
		qemu-system-x86_64 -accel tcg -cpu max -m "${memory%M}" -nodefaults -display none -serial stdio -monitor none \
			-no-reboot -kernel "$kit/vmlinux-cloud" -initrd "$kit/initramfs.cpio" -append "$append"
	else
		"$gnomon" run --mmu "$1" --memory "$memory" --kernel "$kit/vmlinux-cloud" --initrd "$kit/initramfs.cpio" \
			--append "$append" ${OPTIONS:-}
	fi
}

measure() { # subject work: appends user seconds to its file
	local TIMEFORMAT=%U
	{ time boot "$1" "$2" </dev/null >"$temp/log" 2>"$temp/err"; } 2>>"$temp/$1.${2%%:*}"
	grep -q GNOMON-DONE "$temp/log" || { tail -n 3 "$temp/log" "$temp/err" >&2; echo "bench: $1 $2: run failed" >&2; exit 1; }
}

for _ in $(seq "$runs"); do
	for work in $works; do
		for subject in $subjects; do
			measure "$subject" "$work"
		done
	done
done

least() { sort -n "$temp/$1.$2" | head -n 1; }
printf '%-22s' "user seconds"
for subject in $subjects; do printf '%9s' "$subject"; done
printf '   of %s\n' "${subjects%% *}"
for work in $works; do
	name=${work%%:*} first=
	printf '%-22s' "$work"
	ratios=
	for subject in $subjects; do
		t=$(least "$subject" "$name")
		[ "$name" = none ] || t=$(awk -v a="$t" -v b="$(least "$subject" none)" 'BEGIN { print a - b }')
		[ -n "$first" ] || first=$t
		printf '%9.2f' "$t"
		ratios="$ratios $(awk -v a="$t" -v b="$first" 'BEGIN { printf "%.2f", a / b }')"
	done
	echo "  $ratios"
done
