#!/bin/bash
# CPU time of workloads, beside QEMU's translator: work.sh GNOMON KIT [RUNS] [SUBJECTS...]
# Each workload runs in a boot of its own: the same kernel (through its PVH entry), initramfs, command line and
# memory for all; ours count with the Skylake model. User CPU seconds of all threads; of a workload, less those of
# the boot alone. Runs are interleaved, so that what else the machine does falls on all alike; what is
# compared is the least of each, since whatever disturbs only adds. A ratio above its limit is marked with '!'.
#
# Environment: WORKS="name[:N[:M]] ..." instead of the list below (none: the boot alone), MEMORY, OPTIONS for gnomon.
set -euo pipefail

usage() { echo "usage: work.sh GNOMON KIT [RUNS] [native|shadow|ept|brute|interp...]" >&2; exit 2; }
die() { echo "bench: $*" >&2; exit 1; }

[ $# -ge 2 ] || usage
gnomon=$1 kit=$2 runs=${3:-${RUNS:-3}}
shift $(($# < 3 ? $# : 3))
subjects="qemu ${*:-native ept shadow}"
memory=${MEMORY:-256M}
# What it is: work, limit of native and EPT, of shadow ('-': page tables are what it is about; its exits are reported).
rows="boot to init|none|0.8|0.96
compiled code|mixed:1200000|0.5|0.6
integer loop|intloop:700000000|1.1|1.32
GUPS, 64 MiB|gups:2500000:64|0.5|0.6
touch and unmap|pftouch:60:1024|0.5|-
fork, exit, wait|forkwait:1000|0.7|-
system calls|syscall:2500000|0.7|0.84
REP MOVS|memcpy:40:1024|0.2|0.24"
if [ -n "${WORKS:-}" ]; then
	rows=$(for work in none ${WORKS//none/}; do echo "$work|$work|-|-"; done)
fi

[[ $runs =~ ^[1-9][0-9]*$ ]] || usage
for subject in $subjects; do
	case $subject in qemu|native|shadow|ept|brute|interp) ;; *) usage ;; esac
done
command -v qemu-system-x86_64 >/dev/null || die "no qemu-system-x86_64; install qemu-system-x86"
[ -x "$gnomon" ] || die "no $gnomon; run 'make'"
[ -e "$kit/vmlinux-cloud" ] && [ -e "$kit/initramfs.cpio" ] || die "no guest kit in $kit; run 'make guest'"
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT

boot() { # subject work
	local append="console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work=$2" mmu=$1

	if [ "$1" = qemu ]; then
		qemu-system-x86_64 -accel tcg -cpu max -m "${memory%M}" -nodefaults -display none -serial stdio -monitor none \
			-no-reboot -kernel "$kit/vmlinux-cloud" -initrd "$kit/initramfs.cpio" -append "$append"
		return
	fi
	[ "$1" != interp ] || mmu="native --cpu interp"
	# shellcheck disable=SC2086 # several words
	"$gnomon" run --mmu $mmu --memory "$memory" --kernel "$kit/vmlinux-cloud" --initrd "$kit/initramfs.cpio" \
		--append "$append" --report "$temp/report" ${OPTIONS:-}
}

exits() { sed -n '/"exits"/,/}/s/.*"total": *\([0-9]*\).*/\1/p' "$temp/report" | head -n 1; }

measure() { # subject, row's number, work: appends user seconds to their file
	local TIMEFORMAT=%U
	{ time boot "$1" "$3" </dev/null >"$temp/log" 2>"$temp/err"; } 2>>"$temp/$1.$2" || {
		cat "$temp/err" >&2
		die "$1, $3: run failed"
	}
	grep -q 'GNOMON-DONE ok' "$temp/log" || { tail -n 5 "$temp/log" >&2; die "$1, $3: the work was not done"; }
	[ "$1" != shadow ] || exits >"$temp/exits.$2"
	echo "run $run: $1 $3 $(tail -n 1 "$temp/$1.$2") s" >&2
}

for run in $(seq "$runs"); do
	row=0
	while IFS='|' read -r _ work _; do
		row=$((row + 1))
		for subject in $subjects; do
			measure "$subject" $row "$work"
		done
	done <<<"$rows"
done

# Seconds of a work, without those of the boot, which is the first row.
seconds() { # subject, row
	local least boot=0
	least=$(sort -n "$temp/$1.$2" | head -n 1)
	[ "$2" = 1 ] || boot=$(sort -n "$temp/$1.1" | head -n 1)
	awk -v a="$least" -v b="$boot" 'BEGIN { d = a - b; printf "%.2f", (d > 0.01 ? d : 0.01) }'
}

ratio() { # seconds, QEMU's, limit
	awk -v a="$1" -v b="$2" -v l="$3" 'BEGIN { r = a / b; printf "%.2f%s", r, (l != "-" && r > l + 0 ? "!" : " ") }'
}

count=$(wc -l <<<"$rows")
echo
echo "User CPU seconds beside QEMU's translator, and what multiple of its; the least of $runs runs each"
printf '%-17s %-18s' "" work
for subject in $subjects; do
	printf '%8s' "$subject"
	[ "$subject" = qemu ] || printf '%8s' "ratio"
done
printf '%8s %13s\n' limit "shadow: exits"
row=0 over=
while IFS='|' read -r what work limit shadow_limit; do
	row=$((row + 1))
	printf '%-17s %-18s' "$what" "$work"
	for subject in $subjects; do
		s=$(seconds "$subject" $row)
		printf '%8s' "$s"
		case $subject in
		qemu) qemu=$s; continue ;;
		native|ept) l=$limit ;;
		shadow) l=$shadow_limit ;;
		*) l=- ;;
		esac
		r=$(ratio "$s" "$qemu" "$l")
		printf '%8s' "$r"
		[[ $r != *! ]] || over="$over, $what ($subject)"
	done
	e=-
	[ ! -s "$temp/exits.$row" ] || e=$(cat "$temp/exits.$row")
	[ "$row" = 1 ] || [ "$e" = - ] || e=$((e - $(cat "$temp/exits.1")))
	printf '%8s %13s\n' "$limit" "$e"
done <<<"$rows"
echo "limit: of native and EPT; shadow's is 1.2 times that, and none where page tables are the work"
[ -z "$over" ] || echo "Above the limit (!): ${over#, }"
