#!/bin/sh
# Saving a guest in VMX operation: vmx_saved.sh GNOMON ELF
# On the bare machine it goes on as if nothing had been; a hypervisor's is refused in one line, and goes on running.
gnomon=$1 elf=$2
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
fail() { echo "vmx_saved.sh: $*" >&2; exit 1; }
run() { "$gnomon" run --cpu-features +vmx --kernel "$elf" --memory 64M "$@" >"$dir/out" 2>"$dir/err" </dev/null; }

run --mmu native --suspend "$dir/bare" --suspend-at 3000000 || fail "bare: $(cat "$dir/err")"
"$gnomon" resume "$dir/bare" --mmu ept >/dev/null 2>"$dir/err" </dev/null && fail "a bare machine's was resumed under EPT"
grep -q 'cannot be loaded: the guest is in VMX operation' "$dir/err" || fail "resume: $(cat "$dir/err")"
"$gnomon" resume "$dir/bare" >"$dir/out" 2>&1 </dev/null
[ $? -eq 1 ] || fail "resume: $(tail -n 3 "$dir/out")"
run --mmu ept --suspend "$dir/nested" --suspend-at 3000000
grep -q 'cannot be saved: the guest is in VMX operation' "$dir/err" || fail "ept: $(cat "$dir/err")"
[ ! -e "$dir/nested" ] || fail "a file is left"
grep -q ' 0 failed' "$dir/out" || fail "the guest did not go on: $(tail -n 3 "$dir/out")"
