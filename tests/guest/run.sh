#!/bin/sh
# Runs a bare-metal test under Gnomon or QEMU: run.sh STATUS COMMAND...
# The exit status has to be STATUS: 1 is a guest that wrote 0, "all well", to the
# debug-exit port. A message is expected with any other status.
want=$1
shift
"$@" </dev/null
got=$?
[ "$got" -eq "$want" ] && exit 0
echo "exit status $got, expected $want: $*" >&2
exit 1
