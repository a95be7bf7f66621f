#!/bin/bash
# gnomon walk and run --stats from outside: refusals, the stops, the table and the
# JSON of small guests, and that looking at a guest changes nothing in it.
#	walk.sh GNOMON HELLO_ELF
set -uo pipefail

gnomon=$1 hello=$2
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
failures=0

fail() { echo "walk.sh: $*" >&2; failures=$((failures + 1)); }

# A multiboot kernel without a file format: 32 bytes of header, then @1 as octal escapes at 1 MiB + 32.
kernel() {
	printf '\002\260\255\033\000\000\001\000\376\117\121\344'       # magic, flags: address fields, checksum
	printf '\000\000\020\000\000\000\020\000\000\000\000\000\000\000\000\000\040\000\020\000'
	printf "$1"
}
kernel '\260\041\346\364\364' >"$dir/exit"                          # mov $0x21, %al; out %al, $0xf4; hlt
kernel '\271\000\001\000\000\342\376\346\364' >"$dir/loop"          # mov $256, %ecx; loop .; out %al, $0xf4

refused() {
	local says=$1 status
	shift
	"$gnomon" "$@" >"$dir/out" 2>"$dir/err" </dev/null
	status=$?
	[ $status -eq 2 ] || fail "gnomon $*: status $status instead of 2"
	[ "$(wc -l <"$dir/err")" -eq 1 ] || fail "gnomon $*: not one line: $(cat "$dir/err")"
	grep -qF -- "$says" "$dir/err" || fail "gnomon $*: does not say '$says': $(cat "$dir/err")"
	[ ! -s "$dir/out" ] || fail "gnomon $*: output"
}

# Ends with status @1 and says @2, on either output.
ends() {
	local want=$1 says=$2 status
	shift 2
	"$gnomon" "$@" >"$dir/out" 2>"$dir/err" </dev/null
	status=$?
	[ $status -eq "$want" ] || fail "gnomon $*: status $status instead of $want: $(head -n 3 "$dir/err")"
	cat "$dir/out" "$dir/err" | grep -qF -- "$says" || fail "gnomon $*: does not say '$says'"
}

refused '--kernel FILE is missing' walk
refused 'where to stop' walk --kernel "$dir/exit"
refused "'frob'" walk --kernel "$dir/exit" --at-insn frob
refused "'1234'" walk --kernel "$dir/exit" --at-address 1234
refused "'0x'" walk --kernel "$dir/exit" --at-address 0x
refused "'0x12345678123456789'" walk --kernel "$dir/exit" --at-address 0x12345678123456789
refused "'0xg'" walk --kernel "$dir/exit" --at-address 0xg
refused 'an empty text' walk --kernel "$dir/exit" --at-console ''
refused "'eax'" walk --kernel "$dir/exit" --at-insn 1 --address rip,eax
refused "''" walk --kernel "$dir/exit" --at-insn 1 --address rip,
refused 'more than 16' walk --kernel "$dir/exit" --at-insn 1 --address "$(seq -s, 20 | sed 's/[0-9]\+/rip/g')"
refused 'read, write, fetch' walk --kernel "$dir/exit" --at-insn 1 --access eat
refused 'native, brute, shadow, ept' walk --kernel "$dir/exit" --at-insn 1 --mmu npt
refused "'/nonexistent/log'" walk --kernel "$dir/exit" --at-insn 1 --serial /nonexistent/log
refused 'seconds from 0.05' run --kernel "$dir/exit" --stats-interval 0
refused 'seconds from 0.05' run --kernel "$dir/exit" --stats-interval nan

ends 0 'Exit status' walk --help
ends 12 'the guest ended (debug-exit, after 1 instructions) before' walk --kernel "$dir/exit" --at-insn 100
ends 12 'before it came to the stop' walk --kernel "$dir/exit" --at-console never
ends 12 'before it came to the stop' walk --kernel "$dir/exit" --at-address 0x12345

for mmu in native native-dmt brute shadow ept hugegpt dmt pvdmt agile nested nested-pvdmt; do
	# Without paging, at an instruction that the hypervisor has to complete.
	ends 0 'rip 100022, cr3' walk --mmu $mmu --kernel "$dir/exit" \
		--at-address 0x100022
	ends 0 'The guest: no paging, guest-physical 100022' walk --mmu $mmu --kernel "$dir/exit" --at-address 0x100022
	ends 0 'stopped (instructions) after 77' walk --mmu $mmu --kernel "$dir/loop" --at-insn 77
	# The loop's own address: at the first time round.
	ends 0 'stopped (address) after 1 instructions' walk --mmu $mmu --kernel "$dir/loop" --at-address 0x100025
	ends 0 '"by": "console"' walk --mmu $mmu --kernel "$hello" --memory 64M --at-console hello \
		--address rip,rsp,0x7f0000000000 --json
	python3 - "$mmu" "$dir/out" <<'PY' || fail "$mmu: the JSON is not as documented"
import json, sys
mmu, path = sys.argv[1:]
w = json.load(open(path))
assert w["schema"] == "gnomon-walk/1" and w["mmu"] == mmu and w["stopped"]["by"] == "console"
assert [x["register"] for x in w["walks"]] == ["rip", "rsp", None]
assert [x["access"] for x in w["walks"]] == ["fetch", "read", "read"]
for x in w["walks"]:
    refs = [s for s in x["steps"] if s["what"] == "reference"]
    assert x["totals"]["refs"] == len(refs) == x["totals"]["guest_refs"] + x["totals"]["host_refs"]
    assert sum(x["totals"]["ref_hits"].values()) == len(refs)
    assert x["totals"]["cycles"] == sum(s["cycles"] for s in x["steps"])
    for s in refs:
        assert int(s["entry_at"], 16) - int(s["table"], 16) == s["index"] * 8
        assert s["bits"]["present" if s["stage"] == "guest" else "read"] == bool(int(s["entry"], 16) & 1)
assert w["walks"][0]["result"]["event"] == "mapped" and w["walks"][0]["result"]["owner"] == "vm"
assert w["walks"][2]["result"]["event"] == "page-fault" and not w["walks"][2]["guest"]["mapped"]
PY
done

# References of the textbook: 4, and with two stages 24.
refs() { "$gnomon" walk --kernel "$hello" --memory 64M --hw textbook --cold --at-console hello "$@" 2>&1 </dev/null; }
for mmu in native shadow; do
	refs --mmu $mmu | grep -q '^Total: [34] references' || fail "$mmu: neither 3 nor 4 references"
done

# The counters do not disturb the guest.
outcome() {
	"$gnomon" run --kernel "$hello" --memory 64M --serial none --report "$dir/report" "$@" >"$dir/out" 2>"$dir/err" </dev/null
	grep -o '"\(instructions\|state_hash\)": *"\?[0-9a-f]*' "$dir/report" | head -n 2
}
for mmu in native ept; do
	[ "$(outcome --mmu $mmu)" = "$(outcome --mmu $mmu --stats-interval 0.05)" ] || fail "$mmu: --stats changes the guest"
done

[ $failures -eq 0 ] || { echo "walk.sh: $failures failures" >&2; exit 1; }
