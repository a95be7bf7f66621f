#!/bin/bash
# Saving and resuming a large VM: saved.sh GNOMON KIT [RUNS]
# A guest of 4 GiB (MEMORY) fills most of its memory with what does not compress. Then:
#   - it is suspended, and resumed under each scheme: time until its next instruction
#   - checkpoints are taken while it writes about one page in a hundred between two of them: how long it stands still
# Milliseconds, least and median of RUNS.
set -euo pipefail

gnomon=$1 kit=$2 runs=${3:-${RUNS:-5}}
memory=${MEMORY:-4096}
fill=$((memory * 7 / 8))

die() { echo "bench: $*" >&2; exit 1; }
[ -x "$gnomon" ] || die "no $gnomon; run 'make'"
[ -e "$kit/vmlinux-cloud" ] && [ -e "$kit/initramfs.cpio" ] || die "no guest kit in $kit; run 'make guest'"
temp=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; rm -rf "$temp"' EXIT
need=$((memory * 3))
[ "$(df -m --output=avail "$temp" | tail -1)" -ge "$need" ] || die "$temp: $need MiB of room are needed (TMPDIR)"

least_median() { sort -n "$1" | awk '{ v[NR] = $1 } END { printf "least %.1f ms, median %.1f ms\n", v[1], v[int((NR + 1) / 2)] }'; }

# The table is filled, and then written at random: 4 KiB pages, one at a time.
guest=(--kernel "$kit/vmlinux-cloud" --initrd "$kit/initramfs.cpio" --memory "${memory}M"
       --append "console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work=gups:1000000000:$fill")
"$gnomon" run "${guest[@]}" --mmu ept --control "$temp/sock" --serial "$temp/log" </dev/null >/dev/null 2>"$temp/err" &
pid=$!
echo "a guest of $memory MiB fills $fill MiB ..." >&2
field() { "$gnomon" control "$temp/sock" --json query-stats | jq "$1"; }
while [ "$(field ".tables.guest_frames * 4" 2>/dev/null || echo 0)" -lt $((fill * 1024)) ]; do
	kill -0 "$pid" || { cat "$temp/err" >&2; die "the guest ended"; }
	sleep 0.5
done

"$gnomon" control "$temp/sock" stop >/dev/null
"$gnomon" checkpoint take "$temp/sock" "$temp/first" >&2
echo "one page in a hundred is $((memory * 256 / 100)); between two checkpoints the guest runs for a moment ..." >&2
for run in $(seq "$runs"); do
	"$gnomon" control "$temp/sock" cont >/dev/null
	"$gnomon" control "$temp/sock" stop >/dev/null
	line=$("$gnomon" checkpoint take "$temp/sock" "$temp/c$run")
	echo "  $line" >&2
	echo "$line" | sed 's/.*stood still for \([0-9.]*\) ms.*/\1/' >>"$temp/pause"
done
echo "a checkpoint holds the guest up: $(least_median "$temp/pause")"

rm "$temp"/first "$temp"/c[0-9]*
"$gnomon" suspend "$temp/sock" "$temp/suspended" >&2
wait "$pid" || true
pid=
echo "suspended: $(stat -c %s "$temp/suspended" | numfmt --to=iec) in a file" >&2
for scheme in native shadow ept; do
	for run in $(seq "$runs"); do
		at=$("$gnomon" checkpoint list --json "$temp" | jq '.[] | select(.name == "suspended") | .instructions')
		"$gnomon" resume "$temp/suspended" --mmu "$scheme" --limit-insns $((at + 1)) --report "$temp/r.json" --serial none \
			</dev/null 2>/dev/null >&2
		jq '.host.ready_seconds * 1000' "$temp/r.json" >>"$temp/ready-$scheme"
	done
	echo "resumed under $scheme: next instruction after $(least_median "$temp/ready-$scheme")"
done
