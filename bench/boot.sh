#!/bin/bash
# CPU time of a boot, beside QEMU's translator: boot.sh GNOMON KIT [RUNS]
# The same kernel (through its PVH entry), initramfs and command line for all; the
# guest powers off at the first line of init, so that a whole run is what it takes
# to get there. Runs are interleaved, so that what else the machine does falls on
# all alike. User CPU seconds, of all threads.
set -euo pipefail

gnomon=$1 kit=$2 runs=${3:-${RUNS:-3}}
memory=${MEMORY:-256M}
append="console=ttyS0 panic=-1 cryptomgr.notests gnomon.work=none"
subjects="qemu native shadow ept brute"
limit=0.96 # times QEMU's, in every scheme but brute force

die() { echo "bench: $*" >&2; exit 1; }
command -v qemu-system-x86_64 >/dev/null || die "no qemu-system-x86_64; install qemu-system-x86"
[ -x "$gnomon" ] || die "no $gnomon; run 'make'"
[ -e "$kit/vmlinux-cloud" ] && [ -e "$kit/initramfs.cpio" ] || die "no guest kit in $kit; run 'make guest'"
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT

boot() { # subject
	if [ "$1" = qemu ]; then
		qemu-system-x86_64 -accel tcg -cpu max -m "${memory%M}" -nodefaults -display none -serial stdio -monitor none \
			-no-reboot -kernel "$kit/vmlinux-cloud" -initrd "$kit/initramfs.cpio" -append "$append"
	else
		"$gnomon" run --mmu "$1" --memory "$memory" --kernel "$kit/vmlinux-cloud" --initrd "$kit/initramfs.cpio" \
			--append "$append"
	fi
}

measure() { # subject: appends user seconds to its file
	local log=$temp/log TIMEFORMAT=%U
	{ time boot "$1" </dev/null >"$log" 2>"$temp/err"; } 2>>"$temp/$1" || { cat "$temp/err" >&2; die "$1: run failed"; }
	grep -q GNOMON-INIT "$log" || { tail "$log" >&2; die "$1: init was not reached"; }
}

for run in $(seq "$runs"); do
	for subject in $subjects; do
		measure "$subject"
		echo "run $run: $subject $(tail -n 1 "$temp/$subject") s" >&2
	done
done

least() { sort -n "$temp/$1" | head -n 1; }
median() { sort -n "$temp/$1" | sed -n "$(((runs + 1) / 2))p"; }

echo
echo "User CPU seconds to the first line of init, $runs runs each"
printf '%-8s %8s %8s %10s\n' "" least median "of QEMU's"
over=
for subject in $subjects; do
	ratio=$(awk -v a="$(median "$subject")" -v b="$(median qemu)" 'BEGIN { printf "%.2f", a / b }')
	printf '%-8s %8s %8s %10s\n' "$subject" "$(least "$subject")" "$(median "$subject")" "$ratio"
	if [ "$subject" != brute ] && awk -v r="$ratio" -v l=$limit 'BEGIN { exit !(r > l) }'; then
		over="$over $subject"
	fi
done
[ -z "$over" ] || echo "More than $limit times QEMU's:$over"
