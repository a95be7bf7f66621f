#!/bin/bash
# Boots Debian's kernel and checks that the outcome is the same to the bit, or
# that it ends at all: boot.sh GNOMON KIT CASE
#   schemes      the schemes: same instructions, same state
#   designs      variants of the research designs, each against native; audits
#   shadow ept la57 ...   variants of a scheme, each against native
#   generic      Debian's generic kernel under shadow and EPT
#   bzimage      the compressed kernel through the 64-bit boot protocol
#   audit        a boot whose tables are checked after every exit (brute force: every 64th)
#   hw           other translation hardware, and no VPIDs: the same instructions, the same state
#   fast-path    every access through the TLB model: the same walks, references and misses
#   translate    host code and the interpreter: every counter the same; translate-all: on all hardware
# `gnomon compare` exits with 0 only if all runs agree.
set -uo pipefail

gnomon=$1 kit=$2 case=$3
# Nothing that only takes time: no self-tests, no messages, one short workload of each kind.
append="console=ttyS0 panic=-1 quiet cryptomgr.notests"
work=forkwait:5,gups:2000:4,pftouch:2:16,cow:2:16,ctxsw:20,memcpy:2:64
memory=128M
initrd=$kit/initramfs.cpio
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

fail() { echo "boot.sh: $*" >&2; exit 1; }

[ -e "$kit/vmlinux-cloud" ] && [ -e "$initrd" ] || { echo "boot.sh: no guest kit; run 'make guest'" >&2; exit 77; }

# The guest said that it was done: power-off alone could be an early one.
check_logs() {
	local log found=0
	for log in "$1"/*.log; do
		grep -q '^GNOMON-DONE ok' "$log" || { tail -n 20 "$log" >&2; fail "$log: the guest did not finish its work"; }
		found=$((found + 1))
	done
	[ "$found" -gt 0 ] || fail "no console logs"
}

compare() { # kernel, schemes, further options
	local kernel=$1 mmu=$2
	shift 2
	rm -rf "$logs/run"
	"$gnomon" compare --mmu "$mmu" --kernel "$kernel" --initrd "$initrd" --memory "$memory" \
		--append "$append gnomon.work=$work" --logs "$logs/run" "$@" </dev/null || fail "compare failed: $mmu $*"
	check_logs "$logs/run"
}

# Instructions and state of one run, as the report has them.
outcome() { # options
	rm -f "$logs/report"
	"$gnomon" run --kernel "$kit/vmlinux-cloud" --initrd "$initrd" --memory "$memory" \
		--append "$append gnomon.work=$work" --serial "$logs/serial" --report "$logs/report" "$@" </dev/null 2>"$logs/err" || {
		cat "$logs/err" >&2
		fail "run failed: $*"
	}
	grep -q '^GNOMON-DONE ok' "$logs/serial" || fail "the guest did not finish its work: $*"
	grep -o '"\(instructions\|state_hash\)": *"\?[0-9a-fA-Fx]*' "$logs/report" | head -n 2
}

# What the translation hardware counted in the last run.
counters() {
	local section
	section=$(sed -n '/"translation"/,/^  }/p' "$logs/report")
	[ "$(echo "$section" | grep -c '"\(walks\|refs\|l1d_misses\|l1i_misses\|l2d_hits\)"')" -eq 5 ] || fail "the report lacks counters"
	echo "$section"
}

# Every argument is a word list of options; the interpreter and host code have to agree in everything.
same_by_host_code() {
	local options
	for options in "$@"; do
		"$(dirname "$0")/../guest/same_by_host_code.py" 0 "$gnomon" run --kernel "$kit/vmlinux-cloud" --initrd "$initrd" \
			--memory "$memory" --append "$append gnomon.work=$work" $options >"$logs/both" || fail "$options"
		grep -q '^GNOMON-DONE ok' "$logs/both" || fail "the guest did not finish its work: $options"
		echo "$options: $(tail -n 1 "$logs/both")"
	done
}

# Every further argument is a word list of options; all have to come out as native does.
same_as_native() {
	local options want got
	want=$(outcome --mmu native) || exit 1
	[ "$(echo "$want" | wc -l)" -eq 2 ] || fail "the report lacks instructions or state_hash"
	for options in "$@"; do
		got=$(outcome $options) || exit 1
		[ "$got" = "$want" ] || fail "$options differs from native:" $got "instead of" $want
		echo "same as native: $options"
	done
}

case $case in
schemes) compare "$kit/vmlinux-cloud" native,brute,shadow,ept,agile,nested ;;
designs)
	work=forkwait:5,cow:2:16,ctxsw:20
	same_as_native "--mmu agile --host-pages 2m" "--mmu agile --shadow-memory 256K" "--mmu agile --no-vpid --hw zen" \
		"--mmu nested --host-pages 2m" "--mmu nested --no-vpid" "--mmu dmt --host-pages 2m" "--mmu hugegpt --hw zen" \
		"--mmu nested-pvdmt --host-pages 1g"
	# The policy is at work: tables go over, come back, and save exits.
	outcome --mmu shadow --shadow-sync always >/dev/null || exit 1
	always=$(sed -n 's/.*"traced_writes": *\([0-9]*\).*/\1/p' "$logs/report")
	outcome --mmu agile >/dev/null || exit 1
	grep -q '"to_nested": [1-9]' "$logs/report" && grep -q '"to_shadow": [1-9]' "$logs/report" || fail "no table became nested, or none came back"
	[ "$(sed -n 's/.*"traced_writes": *\([0-9]*\).*/\1/p' "$logs/report")" -lt $((always / 10)) ] || fail "agile paging traces as shadow paging does"
	work=forkwait:2
	compare "$kit/vmlinux-cloud" native,agile,nested-pvdmt --audit --audit-every 50
	;;
la57)
	# The kernel's decompressor is what turns on five levels: a vmlinux, entered by PVH, stays at four.
	# Without walk caches the counts are those of the levels.
	compare "$kit/vmlinuz-cloud" native,brute,shadow,agile,ept --cpu-features +la57 --hw textbook | tee "$logs/table"
	[ "${PIPESTATUS[0]}" -eq 0 ] || exit 1
	grep -q 'references a walk, most .* 29$' "$logs/table" || fail "the guest did not use five levels"
	;;
no-la57) compare "$kit/vmlinux-cloud" native,shadow,ept --cpu-features -la57 ;;
shadow) same_as_native "--mmu shadow --shadow-sync always" "--mmu shadow --shadow-sync lazy" \
	"--mmu shadow --shadow-memory 256K" "--mmu shadow --host-pages 2m" "--mmu shadow --host-pages 1g" ;;
ept) same_as_native "--mmu ept --host-pages 4k" "--mmu ept --host-pages 2m" "--mmu ept --host-pages 1g" ;;
generic)
	[ -e "$kit/vmlinux-generic" ] || { echo "boot.sh: no generic kernel; run 'make guest-generic'" >&2; exit 77; }
	memory=256M work=forkwait:2
	compare "$kit/vmlinux-generic" shadow,ept
	;;
bzimage)
	work=forkwait:2
	compare "$kit/vmlinuz-cloud" native,ept
	;;
audit)
	work=forkwait:2
	compare "$kit/vmlinux-cloud" native,shadow,ept --audit
	compare "$kit/vmlinux-cloud" native,brute --audit-every 64
	;;
hw)
	work=forkwait:5,cow:2:16,ctxsw:20
	keeper=$(dirname "$0")/../guest/hw/keeper.hw
	variants=()
	for mmu in native brute shadow ept; do
		for hw in zen textbook smallest; do
			variants+=("--mmu $mmu --hw $hw")
		done
	done
	for mmu in native shadow ept; do
		variants+=("--mmu $mmu --hw icelake" "--mmu $mmu --hw $keeper")
	done
	for mmu in brute shadow ept; do
		variants+=("--mmu $mmu --no-vpid")
	done
	same_as_native "${variants[@]}"
	;;
fast-path)
	work=forkwait:2
	for mmu in native ept; do
		outcome --mmu "$mmu" >/dev/null || exit 1
		want=$(counters) || exit 1
		outcome --mmu "$mmu" --no-fast-path >/dev/null || exit 1
		[ "$(counters)" = "$want" ] || fail "$mmu: counters differ without the fast path"
		echo "same counters: $mmu"
	done
	;;
translate | translate-all)
	work=forkwait:3,gups:1000:4,cow:1:16
	files=$(dirname "$0")/../guest/hw
	variants=()
	if [ "$case" = translate-all ]; then
		for mmu in native brute shadow ept; do
			for hw in skylake icelake zen p4 bhargava textbook smallest "$files/tiny.hw" "$files/keeper.hw"; do
				variants+=("--mmu $mmu --hw $hw")
			done
		done
	else
		variants=("--mmu native --hw skylake" "--mmu brute --hw skylake" "--mmu shadow --hw zen" "--mmu ept --hw zen"
			"--mmu ept --hw $files/tiny.hw --no-vpid")
	fi
	same_by_host_code "${variants[@]}"
	;;
*) fail "unknown case $case" ;;
esac
