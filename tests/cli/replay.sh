#!/bin/bash
# gnomon replay from outside: pipes, threads, designs, what is damaged or interrupted.
#	replay.sh GNOMON GUEST
set -uo pipefail

gnomon=$(realpath "$1") guest=$(realpath "$2")
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failures=0

fail() { echo "replay.sh: $*" >&2; failures=$((failures + 1)); }

# Ends with status @1 and, if @2 is not empty, a line on standard error with it.
ends() {
	local want=$1 says=$2 status
	shift 2
	timeout 60 "$gnomon" replay --quiet "$@" >out 2>err </dev/null
	status=$?
	[ $status -eq "$want" ] || fail "replay $*: status $status instead of $want: $(head -n 2 err)"
	[ -z "$says" ] || grep -qF -- "$says" err || fail "replay $*: does not say '$says': $(cat err)"
}
# The same but for how long it took.
results() { grep -v host_seconds "$1"; }

record() { "$gnomon" run --mmu native --kernel "$guest" --memory 64M --serial none "$@" </dev/null 2>err; }
record --trace t.trace
[ $? -eq 1 ] || fail "recording: $(cat err)"
[ ! -e t.trace.part ] || fail 'recording leaves something'

all='--designs radix,shadow,hugegpt --setups native,virt'
ends 0 '' t.trace $all --json one.json --jobs 1
ends 0 '' t.trace $all --json four.json --jobs 4
results one.json >one; results four.json >four
cmp -s one four || fail 'threads change results'
ends 0 '' t.trace $all --csv -
[ "$(wc -l <out)" -eq 5 ] || fail "CSV: $(cat out)"
ends 0 '' t.trace --setups native --tables model --designs radix,dmt --memory 256M --json model.json
grep -q '"tables": "model"' model.json || fail 'no tables of the model'

"$gnomon" run --mmu native --kernel "$guest" --memory 64M --trace - </dev/null 2>/dev/null |
	"$gnomon" replay - $all --json pipe.json --quiet >out 2>err || [ "${PIPESTATUS[1]}" -eq 0 ] || fail "pipe: $(cat err)"
sed 's/"path": "-"/"path": "t.trace"/' pipe.json >p.json
results p.json >p; cmp -s one p || fail 'a pipe changes results'

# Cut off: what came before counts, and is marked.
head -c $(($(stat -c %s t.trace) * 2 / 3)) t.trace >cut.trace
ends 16 cut.trace cut.trace --json cut.json
grep -q '"partial": true' cut.json || fail 'a damaged trace: not marked partial'
ends 0 '' t.trace --limit-events 1000 --json -
grep -q '"events": 1000' out || fail '--limit-events'

ends 2 'one trace is wanted'
ends 2 'none of them' t.trace --designs radix,hyper
ends 2 'none of these designs' t.trace --designs shadow --setups native
ends 2 'nothing in it' t.trace --pages ''
ends 2 'trace or model' t.trace --tables none
ends 2 'nothing.trace' nothing.trace
ends 16 '' "$guest"
printf 'gnomon-trace-text 1\ncreator by hand\nsource one access\nmemory 67108864\nmaxphyaddr 46\ntables no\n\nread 0x5000 8 user pc=0x4000 insn=3 first\n' >plain.txt
"$gnomon" trace import plain.txt plain.trace 2>err || fail "import: $(cat err)"
ends 2 'no page tables of its own' plain.trace --tables trace
# Memory that the machine does not have.
printf 'gnomon-trace-text 1\ncreator by hand\nsource lies\nmemory 67108864\nmaxphyaddr 46\ntables yes\n\nstore 0x40000000 8 0x1\n' >lies.txt
"$gnomon" trace import lies.txt lies.trace 2>err || fail "import: $(cat err)"
ends 8 'no memory there' lies.trace --setups native,virt

for bad in '--mmu ept --trace x' '--trace-from A' '--mmu native --trace' '--count-from' ; do
	"$gnomon" run --kernel "$guest" --memory 64M --serial none $bad </dev/null >out 2>err
	[ $? -eq 2 ] || fail "run $bad: $(cat err)"
done
record --trace no/such/directory && fail 'a trace that cannot be written'
record --trace-from NEVER --trace n.trace && fail 'an interval that never begins'
[ ! -e n.trace ] || fail 'a trace of nothing'
[ $failures -eq 0 ]
