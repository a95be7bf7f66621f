#!/bin/bash
# gnomon disk from outside: what it prints, its statuses, and that interrupted work breaks nothing.
#	cli.sh GNOMON
set -uo pipefail

gnomon=$(realpath "$1")
dir=$(mktemp -d -p "${TMPDIR:-$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)}") || exit 1
cd "$dir" || exit 1
trap 'rm -rf "$dir"' EXIT
failures=0
fail() { echo "disk cli: $*" >&2; failures=$((failures + 1)); }

# Status @1, and text @2 on standard output or error, of which the latter has one line if the status is 2.
gives() {
	local want=$1 says=$2 status
	shift 2
	"$gnomon" disk "$@" >out 2>err </dev/null
	status=$?
	[ $status -eq "$want" ] || fail "$*: status $status instead of $want: $(cat err)"
	[ -z "$says" ] || grep -qF -- "$says" out err || fail "$*: does not say '$says': $(cat out err)"
	[ "$want" -ne 2 ] || [ "$(wc -l <err)" -eq 1 ] || fail "$*: not one line: $(cat err)"
	rm -f out err
}

gives 2 "verb is missing"
gives 2 "'frobnicate'" frobnicate
gives 2 "usage: create FILE SIZE" create a
gives 2 "unknown option '--fast'" create a 1G --fast
gives 2 "'much'" create a much
gives 2 "a raw image has no clusters" create a 1G --format raw --cluster-size 64K
gives 2 "not a power of two" create a 1G --cluster-size 3K
gives 2 "No such file" info none
gives 2 "No such file" branch none b
[ -z "$(ls)" ] || fail "refused commands left something behind: $(ls)"
for verb in create branch info list snapshot commit absorb check resize convert bench; do
	gives 0 "Usage: gnomon disk $verb" $verb --help
done

gives 0 "" create base 64M
gives 2 "File exists" create base 64M
gives 0 "64 MiB (67108864 bytes)" info base
gives 0 '"virtual_bytes": 67108864' info base --json
gives 0 "random writes" bench base --write --random --total 4M
gives 0 "" snapshot take base first
gives 2 "already" snapshot take base first
gives 0 "first" snapshot list base
gives 0 '"name": "first"' snapshot list base --json
gives 0 "sequential writes" bench base --write --total 8M
gives 0 "" snapshot apply base first
gives 0 "" snapshot delete base first
gives 2 "no snapshot 'first'" snapshot apply base first
gives 0 "in order" check base
gives 0 '"errors": 0' check base --json

mkdir sub
gives 0 "" branch base sub/one
gives 0 "" branch sub/one two
gives 0 "sub/../base" list sub/one
[ "$("$gnomon" disk list two | wc -l)" -eq 3 ] || fail "list: not three images"
[ "$(stat -c %b two)" -le 64 ] || fail "a branch takes $(stat -c %b two) blocks"
gives 0 "" resize two 100M
gives 2 "cannot be made smaller" resize two 64M
gives 0 "random writes" bench two --write --random --total 2M --flush-every 100
gives 0 "" convert two flat --format raw
if command -v qemu-img >/dev/null; then
	qemu-img compare -q two flat -F raw || fail "convert: QEMU sees another disk"
	for image in base sub/one two; do
		qemu-img check -q $image || fail "qemu-img check $image"
	done
fi
gives 0 "" branch two three
gives 0 "" absorb three
gives 0 "above          sub/one (qcow2)" info three
gives 0 "" absorb three
gives 0 "above          base (qcow2)" info three
gives 0 "" absorb three
gives 2 "no image below" absorb three
gives 0 "" convert three flat3 --format raw
cmp flat flat3 || fail "absorb changed the contents"
rm three flat3
gives 0 "" commit two
gives 0 "" commit sub/one
gives 0 "104857600" info base
gives 0 "" convert base flat2 --format raw
cmp flat flat2 || fail "commit changed the contents"

# Locks: a reader of the chain excludes writers of its base.
if command -v qemu-io >/dev/null; then
	mkfifo hold
	qemu-io two <hold >/dev/null 2>&1 &
	holder=$!
	exec 9>hold
	for i in $(seq 50); do
		"$gnomon" disk check two >/dev/null 2>&1 || break
		sleep 0.1
	done
	gives 2 "in use for writing (process $holder" check two
	gives 2 "below other images (process $holder" snapshot take base x
	gives 0 "two" list two
	exec 9>&-
	wait $holder
	gives 0 "in order" check two
fi

# Lost clusters, and damage. The refcount block is the third cluster.
gives 0 "" create leaky 1M
printf '\0\1' | dd of=leaky bs=1 seek=$((2 * 65536 + 2 * 100)) conv=notrunc status=none
gives 14 "1 clusters are lost" check leaky
gives 0 "1 lost clusters are free" check leaky --repair leaks
gives 0 "in order" check leaky
gives 0 "" create damaged 1M
gives 0 "" bench damaged --write --total 64K --block 64K
printf '\0\0' | dd of=damaged bs=1 seek=$((2 * 65536 + 2 * 5)) conv=notrunc status=none # the refcount of the data
gives 16 "damaged: " check damaged
gives 16 '"errors": ' check damaged --json --repair leaks
gives 0 "repaired" check damaged --repair all
gives 0 "in order" check damaged

# Interrupted work: the target is gone, what was there is whole.
gives 0 "" create big 2G
gives 0 "" bench big --write --total 256M --block 1M
"$gnomon" disk convert big copy --format raw 2>/dev/null & pid=$!
sleep 0.05
kill -INT $pid 2>/dev/null
wait $pid
case $? in
130) [ ! -e copy ] || fail "an interrupted convert left its target" ;;
0) ;;
*) fail "convert: status $?" ;;
esac
gives 0 "in order" check big
[ $failures -eq 0 ]
