#!/bin/bash
# Disk images beside QEMU's: disk.sh GNOMON [RUNS]
# The same accesses to images of the same layout by 'gnomon disk bench' and by 'qemu-img bench' with one request and with
# 64 under way at a time. A ratio above 1 says that Gnomon is faster than the better of these. Writes are timed until they
# are on the disk. Runs are interleaved. In memory (what the format costs) and in DIR (default: /tmp; what a host's disk
# makes of it). Then chains and branches.
set -euo pipefail

[ $# -ge 1 ] && [ $# -le 2 ] && [[ $1 != -* ]] || { echo "usage: disk.sh GNOMON [RUNS]" >&2; exit 2; }
gnomon=$(realpath "$1") runs=${2:-${RUNS:-3}}
size=512M
step_k=162012 step=$((step_k * 1024)) # 40503 blocks of 4 KiB: comes to each block once

die() { echo "bench: $*" >&2; exit 1; }
[ -x "$gnomon" ] || die "no $gnomon; run 'make'"
command -v qemu-img >/dev/null || die "no qemu-img; run 'scripts/setup.sh bench'"
temps=()
trap 'rm -rf "${temps[@]}"' EXIT

# The milliseconds that a bench tells (on a line of its output that matches $1) and, if it writes, those until its process
# is gone: QEMU stops its clock before the last flush, and waits for that when it closes the image.
until_done() { # pattern, arguments of the bench
	local line seconds='' at=0 end
	while IFS= read -r line; do
		[[ $line =~ $1 ]] && seconds=${BASH_REMATCH[1]} at=${EPOCHREALTIME/[.,]/}
	done
	end=${EPOCHREALTIME/[.,]/}
	[ "$seconds" ] || return 1
	[[ " $2 " =~ ' '(-w|--write)' ' ]] || end=$at
	awk -v s="$seconds" -v us=$((end - at)) 'BEGIN { print s * 1000 + us / 1000 }'
}
# Appends wall and CPU milliseconds of a bench to a file.
note() { # file, pattern, command...
	local to=$1 pattern=$2 TIMEFORMAT='%U %S' wall
	shift 2
	wall=$({ time stdbuf -oL "$@"; } 2>$dir/cpu | until_done "$pattern" "$*") || die "$*: $(<$dir/cpu)"
	echo "$wall $(<$dir/cpu)" | awk '{ print $1, ($2 + $3) * 1000 }' >>"$to"
}
ours() { # file, arguments
	note "$1" '"seconds": ([0-9.]+)' "$gnomon" disk bench "${@:2}" --json
}
theirs() { # file, image, arguments
	note "$1" 'completed in ([0-9.]+) seconds' qemu-img bench -f qcow2 -t writeback "${@:3}" "$2"
}
median() { sort -n "$1" | sed -n "$((($(wc -l <"$1") + 1) / 2))p"; }

full() { # a new image with all its clusters
	rm -f "$1"
	"$gnomon" disk create "$1" $size
	"$gnomon" disk bench "$1" --write --total $size --block 1M >/dev/null
}
fresh() { rm -f "$1"; "$gnomon" disk create "$1" $size; }
keep() { :; }

# Name, what to do with the image before each run, our arguments, QEMU's, its number of requests under way.
case_of() {
	local name=$1 before=$2 us=$3 them=$4 deep=${5:-64} run depth
	rm -f $dir/us $dir/them*
	for run in $(seq "$runs"); do
		$before $dir/image
		ours $dir/us $dir/image $us
		for depth in 1 $deep; do
			$before $dir/image
			theirs $dir/them$depth $dir/image -d $depth $them
		done
	done
	{ median $dir/us && median $dir/them1 && median $dir/them$deep; } | awk -v n="$name" '
		{ wall[NR] = $1; cpu[NR] = $2 }
		END {
			best = wall[2] < wall[3] ? wall[2] : wall[3]; least = cpu[2] < cpu[3] ? cpu[2] : cpu[3]
			printf "  %-37s %7.0f %7.0f %7.0f %6.2f   %7.0f %7.0f %6.2f\n", n, wall[1], wall[2], wall[3], best / wall[1],
				cpu[1], least, cpu[1] ? least / cpu[1] : 0
		}'
}

suite() {
	printf '\n%s\n  %-37s %31s   %23s\n' "$1" "" "milliseconds, QEMU: 1 and 64" "CPU milliseconds"
	printf '  %-37s %7s %7s %7s %6s   %7s %7s %6s\n' "" Gnomon QEMU-1 QEMU-64 ratio Gnomon QEMU ratio
	full $dir/image
	case_of "read 4 KiB, scattered (128 MiB)" keep "--step ${step_k}K --total 128M" "-c 32768 -s 4096 -S $step"
	case_of "read 64 KiB, in order (512 MiB)" keep "--block 64K --total 512M" "-c 8192 -s 65536"
	case_of "write 4 KiB, scattered (128 MiB)" keep "--write --step ${step_k}K --total 128M" \
		"-w -c 32768 -s 4096 -S $step --flush-interval=32768"
	case_of "write 64 KiB, in order (512 MiB)" keep "--write --block 64K --total 512M" "-w -c 8192 -s 65536 --flush-interval=8192"
	case_of "new: write 4 KiB, scattered (32 MiB)" fresh "--write --step ${step_k}K --total 32M" \
		"-w -c 8192 -s 4096 -S $step --flush-interval=8192"
	case_of "new: write 64 KiB, in order (256 MiB)" fresh "--write --block 64K --total 256M" \
		"-w -c 4096 -s 65536 --flush-interval=4096"
	case_of "new: write 4 KiB, in order (64 MiB)" fresh "--write --total 64M" "-w -c 16384 -s 4096 --flush-interval=16384"
	case_of "new: flush after 16 writes of 4 KiB" fresh "--write --step ${step_k}K --total 2M --flush-every 16" \
		"-w -c 512 -s 4096 -S $step --flush-interval=16" 16
	rm -f $dir/image
}

# Milliseconds that a command takes, process and all: the median of some.
takes() {
	local i TIMEFORMAT=%R
	rm -f $dir/t
	for i in $(seq 15); do
		{ time "$@" >/dev/null 2>&1; } 2>>$dir/t
	done
	awk -v s="$(median $dir/t)" 'BEGIN { printf "%.0f", s * 1000 }'
}
takes_branch() { # command, base: with a new overlay each time
	local i TIMEFORMAT=%R
	rm -f $dir/t
	for i in $(seq 15); do
		rm -f $dir/overlay
		{ time "$@" $dir/overlay >/dev/null 2>&1; } 2>>$dir/t
	done
	awk -v s="$(median $dir/t)" 'BEGIN { printf "%.0f", s * 1000 }'
}

chains() {
	local i below=$dir/b0
	full $dir/b0
	for i in $(seq 50); do
		"$gnomon" disk branch $below $dir/b$i
		below=$dir/b$i
	done
	printf '\nChains and branches, milliseconds of a whole process\n'
	printf '  %-34s %9s %9s\n' "" Gnomon QEMU
	for i in 0 50; do
		printf '  %-34s %9s %9s\n' "opening an image, $i below it" "$(takes "$gnomon" disk bench $dir/b$i --total 4K)" \
			"$(takes qemu-img bench -f qcow2 -c 1 $dir/b$i)"
	done
	"$gnomon" disk create $dir/huge 8T
	printf '  %-34s %9s %9s\n' "branch of 512 MiB, full" "$(takes_branch "$gnomon" disk branch $dir/b0)" \
		"$(takes_branch qemu-img create -q -f qcow2 -F qcow2 -b $dir/b0)"
	printf '  %-34s %9s %9s\n' "branch of 8 TiB" "$(takes_branch "$gnomon" disk branch $dir/huge)" \
		"$(takes_branch qemu-img create -q -f qcow2 -F qcow2 -b $dir/huge)"
	rm -f $dir/overlay
	"$gnomon" disk branch $dir/huge $dir/overlay
	printf '  a branch of 8 TiB takes %s KiB\n' $(($(stat -c %b $dir/overlay) / 2))
}

for where in /dev/shm "${DIR:-/tmp}"; do
	[ -w "$where" ] || continue
	dir=$(mktemp -d -p "$where")
	temps+=("$dir")
	suite "In $where ($(stat -f -c %T "$where")), medians of $runs"
done
chains
