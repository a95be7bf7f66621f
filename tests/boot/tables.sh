#!/bin/bash
# Boots the kernel that places its page tables (docs/guest-kernel.md) and checks that the outcome is the same to the bit
# under all schemes, and that the kernel did what the case is about: tables.sh GNOMON KIT CASE
#   plain hugegpt dmt pvdmt   gnomon.tables=...
#   absent                    the same kernel on a processor without the feature: as plain
set -uo pipefail

gnomon=$1 kit=$2 case=$3
kernel=$kit/vmlinux-gnomon initrd=$kit/initramfs.cpio
schemes=native,native-dmt,brute,shadow,ept,hugegpt,dmt,pvdmt,agile,nested,nested-pvdmt
memory=256M
work=forkwait:3,gups:2000:8,cow:2:16,ctxsw:20,areas:1:4
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

fail() { echo "tables.sh: $*" >&2; exit 1; }

[ -e "$initrd" ] || { echo "tables.sh: no guest kit; run 'make guest'" >&2; exit 77; }
[ -e "$kernel" ] || { echo "tables.sh: no kernel that places page tables; run 'make guest-kernel' (takes minutes)" >&2; exit 77; }

boot() { # gnomon.tables, further options
	local tables=$1 log
	shift
	rm -rf "$logs/run"
	"$gnomon" compare --mmu "$schemes" --kernel "$kernel" --initrd "$initrd" --memory "$memory" --logs "$logs/run" \
		--append "console=ttyS0 panic=-1 quiet gnomon.tables=$tables gnomon.tea_min=2M gnomon.work=$work" \
		"$@" </dev/null || fail "compare failed: $tables $*"
	for log in "$logs"/run/*.log; do
		grep -q '^GNOMON-DONE ok' "$log" || { tail -n 20 "$log" >&2; fail "$log: the guest did not finish its work"; }
	done
	sed -n 's/\r//; /^GNOMON-TABLES/,/^GNOMON-DONE/p' "$log" >"$logs/tables"
	cat "$logs/tables"
}

counted() { # counters that have to be more than 0
	local name
	for name in "$@"; do
		grep -q "^$name [1-9]" "$logs/tables" || fail "$name: did not happen"
	done
}

never() { # counters that have to be 0
	local name
	for name in "$@"; do
		grep -q "^$name 0$" "$logs/tables" || fail "$name: should not have happened"
	done
}

is() { grep -qx "tables $1" "$logs/tables" || fail "tables are not $1"; }

teas() {
	is "$1"
	counted tea_made tea_joined tea_grown tea_moved tea_freed tea_tables_placed tea_tables_moved tea_tables_parked \
		tea_no_memory tea_no_register tea_huge_tables tea_loads
	never tea_no_gtea
}

case $case in
plain)
	boot plain --cpu-features +dmt
	is plain
	;;
hugegpt)
	boot hugegpt --cpu-features +dmt
	is hugegpt
	counted pool_pte pool_pmd pool_pud pool_pgd pool_swept
	grep -q '^pool_regions [2-9]' "$logs/tables" || fail "the pool did not grow"
	never pool_ordinary
	;;
dmt | pvdmt)
	boot "$case" --cpu-features +dmt
	teas "$case"
	# Every translation by registers compared with the tables; huge pages, which Linux has from 512 MiB of memory on.
	schemes=native-dmt memory=640M work=gups:2000:32:huge,areas:1:4
	boot "$case" --cpu-features +dmt --audit-registers
	counted tea_tables_moved tea_tables_parked tea_huge_tables
	;;
absent)
	work=areas:1:2
	boot dmt
	is plain
	;;
*) fail "unknown case $case" ;;
esac
