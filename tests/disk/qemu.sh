#!/bin/bash
# Images that QEMU writes, with every feature of version 3, read here as QEMU reads them; written here, they are still
# in order for both; what cannot be supported is refused by name.
#	qemu.sh GNOMON
set -uo pipefail

gnomon=$(realpath "$1")
dir=$(mktemp -d -p "${TMPDIR:-$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)}") || exit 1
cd "$dir" || exit 1
trap 'rm -rf "$dir"' EXIT
failures=0
fail() { echo "disk qemu: $*" >&2; failures=$((failures + 1)); }
quiet() { "$@" >log 2>&1 || fail "$*: $(head -n 3 log)"; }

# The same contents by both programs; @1: image, @2...: to qemu-img convert.
same() {
	local image=$1
	shift
	rm -f ours theirs
	quiet "$gnomon" disk convert "$image" ours --format raw
	quiet qemu-img convert -O raw "$@" "$image" theirs
	cmp -s ours theirs || fail "$image: read otherwise than by QEMU ($*)"
}

orderly() {
	"$gnomon" disk check "$1" >log 2>&1 || fail "gnomon disk check $1: $(cat log)"
	qemu-img check -q "$1" >log 2>&1 || fail "qemu-img check $1: $(cat log)"
}

# Patterns, discards and zeroes all over a disk of 8 MiB or more, in pieces of about a cluster.
scribble() {
	local image=$1 cluster=$2 i commands=()
	for i in $(seq 24); do
		at=$((i * 2654435761 % 8000000 / 512 * 512)) n=$(((i * 40503 % (2 * cluster) / 512 + 1) * 512))
		[ $n -lt 300000 ] || n=300032
		[ $((at + n)) -lt 8388608 ] || continue
		case $((i % 8)) in
		3) commands+=(-c "write -z $at $n") ;;
		5) commands+=(-c "write -z -u $at $n") ;;
		6) commands+=(-c "discard $at $n") ;;
		*) commands+=(-c "write -P $((i + 1)) $at $n") ;;
		esac
	done
	quiet qemu-io "${commands[@]}" "$image"
}

for options in cluster_size=512 cluster_size=1024,refcount_bits=1 cluster_size=4096,refcount_bits=2 refcount_bits=4 \
	refcount_bits=8,lazy_refcounts=on refcount_bits=32 refcount_bits=64,cluster_size=2M compat=0.10 \
	compat=0.10,cluster_size=4096 preallocation=metadata preallocation=falloc,cluster_size=128k \
	compression_type=zstd extended_l2=on extended_l2=on,cluster_size=16k,preallocation=metadata; do
	rm -f image
	quiet qemu-img create -q -f qcow2 -o "$options" image 8388608
	size=$(qemu-img info image | sed -n 's/^cluster_size: //p')
	scribble image "$size"
	same image
	orderly image
	case $options in
	*extended*) # read, not written
		"$gnomon" disk bench image --write >log 2>&1 && fail "$options: was written"
		grep -q subclusters log || fail "$options: $(cat log)"
		continue ;;
	*refcount_bits=1) ;;
	*)
		quiet qemu-img snapshot -c one image
		scribble image $((size / 2 + 512))
		quiet qemu-img snapshot -c two image
		same image
		orderly image ;;
	esac
	# Written here: still in order, and QEMU reads the same.
	quiet "$gnomon" disk bench image --write --random --block 3K --total 512K --flush-every 30
	orderly image
	same image
	for s in two one; do
		qemu-img snapshot -l image | grep -qw $s || continue
		qemu-img convert -O raw -l snapshot.name=$s image theirs
		quiet "$gnomon" disk snapshot apply image $s
		quiet "$gnomon" disk convert image ours2 --format raw
		cmp -s ours2 theirs || fail "$options: snapshot $s differs"
		quiet "$gnomon" disk snapshot delete image $s
		quiet "$gnomon" disk bench image --write --random --total 128K --seed 7
		orderly image
		same image
		rm -f ours2
	done
done

# Compressed: both kinds, and clusters of several sizes; then overwritten in part.
rm -f plain
quiet qemu-img create -q -f qcow2 plain 8388608
scribble plain 65536
for type in zlib zstd; do
	for size in 512 4096 65536 2097152; do
		rm -f packed
		quiet qemu-img convert -c -O qcow2 -o compression_type=$type,cluster_size=$size plain packed
		"$gnomon" disk check packed --json | grep -q '"compressed_clusters": [1-9]' || fail "$type $size: nothing compressed"
		same packed
		orderly packed
		quiet "$gnomon" disk snapshot take packed s
		quiet "$gnomon" disk bench packed --write --random --block 1K --total 256K
		same packed
		orderly packed
		quiet "$gnomon" disk snapshot apply packed s
		quiet qemu-img compare packed plain
		quiet "$gnomon" disk snapshot delete packed s
		orderly packed
	done
done

# Chains: of formats, of sizes, of cluster sizes; an overlay shorter or longer than what is below.
truncate -s 5M bottom.raw
quiet qemu-io -f raw -c "write -P 9 100k 3M" bottom.raw
quiet qemu-img create -q -f qcow2 -b bottom.raw -F raw -o cluster_size=4k one 7M
quiet qemu-io -c "write -P 8 1M 100k" -c "write -z 2M 1M" one
quiet qemu-img create -q -f qcow2 -b one -F qcow2 two 3M
quiet qemu-io -c "write -P 7 1050k 10k" two
quiet qemu-img create -q -f qcow2 -b two -F qcow2 -o compat=0.10,cluster_size=512 three 9M
quiet qemu-io -c "write -P 6 2000k 10k" -c "write -P 5 8M 5k" three
for image in one two three; do
	same $image
	orderly $image
done
quiet "$gnomon" disk bench three --write --random --block 2K --total 200K
same three
orderly three
quiet "$gnomon" disk branch three four
quiet "$gnomon" disk resize four 12M
quiet "$gnomon" disk bench four --write --random --total 200K --seed 3
same four
orderly four
cp theirs before
quiet "$gnomon" disk commit four
same three
cmp -s before theirs || fail "commit changed the contents"
orderly three

# Bitmaps are kept by readers; a writer that does not know them says that they are out of date.
quiet qemu-img create -q -f qcow2 marked 8M
quiet qemu-img bitmap --add marked b0
orderly marked
quiet "$gnomon" disk bench marked --write --random --total 64K
"$gnomon" disk check marked >log 2>&1
[ $? -eq 14 ] || fail "bitmaps: $(cat log)"
quiet "$gnomon" disk check marked --repair leaks
orderly marked

# Not closed in order, with refcounts that were never written: made anew when it is opened for writing.
quiet qemu-img create -q -f qcow2 -o lazy_refcounts=on lazy 8M
qemu-io -c "write -P 3 0 1M" -c "sigraise 9" lazy >/dev/null 2>&1 &
wait $! 2>/dev/null
"$gnomon" disk info lazy --json | grep -q '"dirty": true' || fail "lazy: not dirty"
quiet "$gnomon" disk bench lazy --write --total 64K
orderly lazy
same lazy

# Refused, by name.
refused() {
	local says=$1
	shift
	"$gnomon" disk info "$@" >log 2>&1 && fail "$*: not refused"
	grep -qF -- "$says" log && [ "$(wc -l <log)" -eq 1 ] || fail "$*: $(cat log)"
}
quiet qemu-img create -q -f qcow2 -o data_file=payload,data_file_raw=on outside 1M
refused "external data file" outside
cp one locked
printf '\0\0\0\1' | dd of=locked bs=1 seek=32 conv=notrunc status=none
refused "encrypted" locked
cp one odd
printf '\200' | dd of=odd bs=1 seek=72 conv=notrunc status=none # incompatible feature 63
refused "bit 63" odd
cp one odd
printf '\0\0\0\4' | dd of=odd bs=1 seek=4 conv=notrunc status=none
refused "version 4" odd

# QEMU's chains absorbed from the top: the same contents, and each time one image less below.
for compat in 0.10 1.1; do
	rm -f low mid high want
	quiet qemu-img create -f raw low 10M
	quiet qemu-io -f raw -c "write -P 1 0 6M" low
	quiet qemu-img create -f qcow2 -o compat=$compat -b low -F raw mid
	scribble mid 65536
	quiet qemu-img create -f qcow2 -o compat=$compat -b mid -F qcow2 high
	quiet qemu-io -c "write -P 3 5M 100k" high
	quiet qemu-img convert -O raw high want
	for below in low ""; do
		quiet "$gnomon" disk absorb high
		[ "$(qemu-img info high | sed -n 's/^backing file: //p')" = "$below" ] || fail "absorb $compat: $(qemu-img info high)"
		quiet qemu-img compare high want -F raw
		orderly high
	done
done

# Both ways: what is open for writing here is refused there.
mkfifo hold
quiet "$gnomon" disk create busy 64M
"$gnomon" disk bench busy --write --total 100G --flush-every 10 >/dev/null 2>&1 &
holder=$!
sleep 0.3
qemu-io -c "read 0 512" busy >log 2>&1 && fail "QEMU opens what is being written here"
grep -q lock log || fail "QEMU: $(cat log)"
kill $holder
wait $holder 2>/dev/null
quiet qemu-io -c "read 0 512" busy
"$gnomon" disk check busy >/dev/null
[ $? -eq 0 ] || [ $? -eq 14 ] || fail "a killed writer left damage"
[ $failures -eq 0 ]
