#!/bin/bash
# Traces from outside: text in and out, pipes, pieces, and what is said of damaged ones.
#	trace.sh GNOMON
set -uo pipefail

gnomon=$(realpath "$1")
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failures=0

fail() { echo "trace.sh: $*" >&2; failures=$((failures + 1)); }

# Ends with status @1 and, if that is not 0, one line on standard error with @2 in it.
ends() {
	local want=$1 says=$2 status
	shift 2
	"$gnomon" trace "$@" >out 2>err </dev/null
	status=$?
	[ $status -eq "$want" ] || fail "trace $*: status $status instead of $want: $(head -n 2 err)"
	[ "$want" -eq 0 ] && return
	grep -qF -- "$says" err || fail "trace $*: does not say '$says': $(cat err)"
}
shows() { grep -qF -- "$1" out || fail "does not show '$1': $(head -n 30 out)"; }

# A guest of three instructions; then the same loop many times.
{
	cat <<-'END'
	gnomon-trace-text 1
	creator by hand
	source three instructions
	cpu-features fpu pse
	memory 16777216
	maxphyaddr 46
	tables yes

	END
	printf 'page 0x1000 0=0x2007\npage 0x2000 0=0x3007\npage 0x3000 0=0x4007\npage 0x4000 5=0x9007\n'
	printf 'wrmsr 0xc0000080 0x500 initial\ncr4 0x20 initial\ncr3 0x1000 initial\ncr0 0x80010001 initial\n'
	printf 'fetch 0x5000 3 user pc=0x5000 insn=3 first\nread 0x5100 8 user pc=0x5000 insn=3\ninsns 1\n'
	printf 'fetch 0x5003 3 user pc=0x5003 insn=3 first\n'
	printf 'write 0xffff888000004030 8 super value=0xa007 gpa=0x4030 pc=0x5003 insn=3\ninsns 1\n'
	printf 'fetch 0x6006 3 user pc=0x5006 insn=3 first\ninsns 1\n'
} >small.txt
{
	sed -n '1,/^$/p' small.txt
	for i in $(seq 20000); do
		echo "fetch 0x401000 4 user pc=0x401000 insn=4 first"
		printf 'read 0x%x 8 user pc=0x401000 insn=4\n' $((0x700000 + i * 64))
		echo "insns 1"
	done
} >loop.txt

for t in small loop; do
	ends 0 '' import $t.txt $t.trace
	ends 0 '' export $t.trace again.txt
	cmp -s $t.txt again.txt || fail "$t: its text is another one"
	[ ! -e $t.trace.part ] || fail "$t: something is left"
done
"$gnomon" trace import --format text - - <loop.txt 2>err | cmp -s - loop.trace || fail 'import through pipes'
"$gnomon" trace export - <loop.trace 2>err | cmp -s - loop.txt || fail 'export through pipes'
[ "$(stat -c %s loop.trace)" -lt 5000 ] || fail "a loop takes $(stat -c %s loop.trace) bytes"

ends 0 '' info small.trace
shows 'three instructions'
shows 'events         16'
ends 0 '' info --json loop.trace
shows '"events": 60000'
shows '"instructions": 20000'
ends 0 '' head --count 2 --at 10000 loop.trace
printf '10000\tread 0x%x 8 user pc=0x401000 insn=4\n10001\tinsns 1\n' $((0x700000 + 3334 * 64)) | cmp -s - out ||
	fail "head: $(cat out)"
ends 0 '' head --at 70000 loop.trace
[ ! -s out ] || fail 'head behind the end'
ends 0 '' stat --json loop.trace
shows '"read_bytes": 160000'
shows '"pages_4k": 314'
shows '"whole": true'
ends 0 '' stat small.trace
shows 'tables         4 pages, 1 stores'

# A piece begins with what the guest's registers and tables are there.
ends 0 '' cut small.trace piece.trace --instructions 2..
ends 0 '' export piece.trace
shows 'source three instructions [instructions 2..]'
shows 'page 0x1000 0=0x2027'
shows 'page 0x4000 5=0x9027 6=0xa007'
shows 'cr3 0x1000 initial'
[ "$(grep -c . out)" -eq 17 ] || fail "the piece: $(cat out)"
ends 0 '' cut loop.trace piece.trace --events 29998..30004
ends 0 '' head piece.trace
printf '0\tfetch' | cmp -s - <(head -c 7 out) || fail "a piece begins with $(head -n 1 out)"
[ "$(wc -l <out)" -eq 6 ] || fail "a piece of two loops: $(cat out)"

# Refused: nothing is written.
ends 2 'nothing is between' cut loop.trace no.trace --events 5..5
ends 2 'FROM..TO' cut loop.trace no.trace --events 5
ends 2 'only one of the two' cut loop.trace no.trace --events 5.. --instructions 6..
ends 2 'is missing' cut loop.trace no.trace
ends 2 'no instruction begins' cut loop.trace no.trace --events 1M..
ends 2 'cannot be opened' info no.trace
ends 2 "'frob'" frob
ends 2 'a verb is missing'
ends 2 'usage: head' head
ends 2 'no such format' import --format frob small.txt no.trace
ends 2 'must be given' import - no.trace
ends 2 'NAME=VALUE' import --option x small.txt no.trace
ends 2 "no option 'x=1'" import --option x=1 small.txt no.trace
ends 2 'of no format' import loop.trace no.trace
ends 16 'no trace' info small.txt
[ ! -e no.trace ] && [ ! -e no.trace.part ] || fail 'something is left of what was refused'

# Cut off: what is there is used, and the offset is named.
bytes=$(stat -c %s loop.trace)
head -c $((bytes - 1)) loop.trace >bad.trace
ends 16 "bad.trace: $((bytes - 1)): the trace is cut off" stat --json bad.trace
shows '"whole": false'
shows '"events": 60000'
ends 16 'cut off' cut bad.trace kept.trace --events 3..
ends 0 '' info --json kept.trace
shows '"events": 59997'
shows '"partial": true'
head -c $((bytes - 200)) loop.trace >bad.trace # in the frame of events
ends 16 "bad.trace: $((bytes - 200)): " head bad.trace
printf '\377' | dd of=loop.trace bs=1 seek=$((bytes / 2)) conv=notrunc status=none
ends 16 'a block is damaged' stat loop.trace
sed -i '20s/.*/read 0x10 8 nobody/' small.txt
ends 16 "small.txt: line 20: mode 'nobody'" import small.txt kept.trace
ends 0 '' info --json kept.trace
shows '"events": 11'

[ $failures -eq 0 ]
