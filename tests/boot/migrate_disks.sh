#!/bin/bash
# A VM moves to another process and takes its disks along, while it writes to them: migrate_disks.sh GNOMON KIT
# It ends as it does alone, and so do its disks; at a destination that has no place for them it stays where it is.
set -euo pipefail

gnomon=$1 kit=$2
dir=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$dir"' EXIT
fail() { echo "FAILED: $*" >&2; cat "$dir"/*.err >&2; exit 1; }

for f in "$kit/vmlinux-cloud" "$kit/initramfs-dev.cpio"; do
	[ -e "$f" ] || { echo "no $f: make guest"; exit 77; }
done

guest=(--kernel "$kit/vmlinux-cloud" --initrd "$kit/initramfs-dev.cpio" --memory 128M --rng
       --append "console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work=disk:4,disk:600,fs:512:4,disk:200")
mkdir "$dir/there"
for name in alone moving; do
	truncate -s 32M "$dir/$name.img"
	"$gnomon" disk create "$dir/$name.qcow2" 32M >/dev/null
done
"$gnomon" run "${guest[@]}" --disk "$dir/alone.img,serial=A" --disk "$dir/alone.qcow2" --report "$dir/alone.json" \
	--serial none --mmu ept </dev/null 2>"$dir/alone.err" || fail "the run alone"

serve() { # options: a destination, and where it waits
	"$gnomon" serve --listen tcp:127.0.0.1:0 "$@" </dev/null 2>"$dir/serve.err" &
	server=$!
	until grep -q 'waiting for a VM at' "$dir/serve.err"; do sleep 0.05; done
	address=$(sed -n 's/.*waiting for a VM at \([^ ]*\).*/\1/p' "$dir/serve.err" | head -n 1)
}

"$gnomon" run "${guest[@]}" --disk "$dir/moving.img,serial=A" --disk "$dir/moving.qcow2" --serial "$dir/serial" \
	--control "$dir/sock" --mmu ept </dev/null 2>"$dir/run.err" &
until grep -q 'GNOMON-WORK disk' "$dir/serial" 2>/dev/null; do sleep 0.02; done
# It waits for the first attempt, which fails, and for the second one to begin: most of its work is still to come then.
"$gnomon" control "$dir/sock" stop >/dev/null

serve --mmu ept
"$gnomon" migrate "$dir/sock" "$address" --with-disks >"$dir/migrate.err" 2>&1 && fail "it moved without its disks"
grep -q 'no place for them' "$dir/migrate.err" || fail "the reason"
kill "$server"

serve --mmu shadow --disks "$dir/there" --report "$dir/there.json" --serial none
"$gnomon" control "$dir/sock" cont >/dev/null
"$gnomon" migrate "$dir/sock" "$address" --with-disks >"$dir/migrate.err" 2>&1 || fail "it did not move"
wait "$server" || fail "the end there"
hash() { jq -r '.guest | "\(.instructions) \(.state_hash_no_accessed)"' "$1"; }
[ "$(hash "$dir/alone.json")" = "$(hash "$dir/there.json")" ] || fail "it ends otherwise than alone"
cmp "$dir/alone.img" "$dir/there/moving.img" || fail "the raw disk differs"
"$gnomon" disk check "$dir/there/moving.qcow2" >/dev/null || fail "the qcow2 image is damaged"
for f in "$dir/alone.qcow2" "$dir/there/moving.qcow2"; do
	"$gnomon" disk convert "$f" "$f.raw" --format raw >/dev/null
done
cmp "$dir/alone.qcow2.raw" "$dir/there/moving.qcow2.raw" || fail "the qcow2 disk differs"
