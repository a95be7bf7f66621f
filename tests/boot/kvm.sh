#!/bin/bash
# Debian's KVM on the machine, and guests of its own: kvm.sh GNOMON KIT SCHEME COMBINATIONS PROGRAM...
#   COMBINATIONS   of kvm_intel's ept, vpid and pml, separated by commas: 000,111
#   PROGRAM        bare-metal test programs that look at no clock
# One boot of the outer Debian. Under each combination every program has to leave the memory that it leaves without KVM,
# and with ept=1 and ept=0 Debian's kernel has to get the same results of its workloads as without KVM, while it is moved
# from one VM to another.
set -uo pipefail

gnomon=$(realpath "$1") kit=$2 mmu=$3 combinations=${4//,/ }
shift 4
outer=$kit/initramfs-kvm.cpio
append="console=ttyS0 panic=-1 quiet cryptomgr.notests"
inner=forkwait:5,gups:200000:8,forkwait:100,cow:2:16,memcpy:2:64
memory=32 # of programs, in MiB
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() { echo "kvm.sh: $*" >&2; exit 1; }

[ -e "$kit/vmlinux-cloud" ] && [ -e "$outer" ] || { echo "kvm.sh: no guest with KVM; run 'make guest-kvm'" >&2; exit 77; }

# The programs go where the outer guest's other files are: a second archive behind the first.
mkdir "$dir/kvm"
cp "$@" "$dir/kvm"
(cd "$dir" && find kvm | cpio --quiet -o -H newc) >"$dir/programs.cpio" || fail "cpio failed"
cat "$outer" "$dir/programs.cpio" >"$dir/outer.cpio"

work= linuxes=0
for c in $combinations; do
	for program in "$@"; do
		work=$work,kvm:$c:$(basename "$program" .elf):$memory
	done
done
for c in $(for ept in 0 1; do printf '%s\n' $combinations | grep "^$ept" | tail -n 1; done); do
	work=$work,kvm:$c:linux:96 linuxes=$((linuxes + 1))
done
"$gnomon" run --mmu "$mmu" --cpu-features +vmx,+vme --memory 512M --kernel "$kit/vmlinux-cloud" --initrd "$dir/outer.cpio" \
	--append "$append gnomon.work=${work#,} kvm_append=\"$append gnomon.work=$inner\"
		kvm_options=\"--seconds 60 --migrate GNOMON-INIT --rate 8192\"" </dev/null >"$dir/log" 2>"$dir/err" ||
	{ cat "$dir/log" "$dir/err" >&2; fail "the outer guest failed"; }
grep -q '^GNOMON-DONE ok' "$dir/log" || { cat "$dir/log" >&2; fail "the outer guest, or one of its own, did not do its work"; }

# What a run without KVM comes to: the hash of memory of a program, the lines of workloads of Linux.
direct_memory() { # program
	(cd "$dir/kvm" && "$gnomon" run --mmu native --memory "${memory}M" --kernel "$1.elf" --report "$dir/report" \
		</dev/null >"$dir/out" 2>&1)
	[ $? -eq 1 ] || { cat "$dir/out" >&2; fail "$1 fails without KVM"; }
	sed -n 's/.*"memory_hash": "\(.*\)".*/\1/p' "$dir/report"
}
direct_work() {
	"$gnomon" run --mmu native --memory 96M --kernel "$kit/vmlinux-cloud" --initrd "$kit/initramfs.cpio" \
		--append "$append gnomon.work=$inner" </dev/null 2>"$dir/err" | tr -d '\r' | grep -E 'sum|^GNOMON-'
}

# The lines of the @n-th guest's console, or what the monitor said of it.
part() { # n
	awk -v n="$1" '/^KVM-BEGIN/ { i++ } i == n' "$dir/log" | tr -d '\r'
}

n=0
for c in $combinations; do
	for program in "$@"; do
		name=$(basename "$program" .elf) n=$((n + 1))
		want=$(direct_memory "$name") || exit 1
		[ -n "$want" ] || fail "the report lacks memory_hash"
		part $n | grep -q "^KVM-MEMORY $want\$" || { part $n >&2; fail "$name under KVM ($c) leaves another memory than $want"; }
		echo "same memory as without KVM: $name, ept vpid pml $c"
	done
done
want=$(direct_work)
echo "$want" | grep -q '^GNOMON-DONE ok' || fail "Linux does not do its work without KVM"
all=$(grep -c '^KVM-BEGIN' "$dir/log")
[ "$all" -eq $((n + linuxes)) ] || fail "$all guests instead of $((n + linuxes))"
while [ $n -lt "$all" ]; do
	n=$((n + 1))
	got=$(part $n | sed -n 's/^| //p' | grep -E 'sum|^GNOMON-')
	[ "$got" = "$want" ] || { part $n >&2; fail "Linux under KVM comes to other results than without"; }
	part $n | grep -q '^KVM-MIGRATED .* differ 0 ' || { part $n >&2; fail "not moved, or pages were lost"; }
	echo "same results as without KVM: $(part $n | grep -E '^KVM-(BEGIN|MIGRATED)' | tr '\n' ' ')"
done
