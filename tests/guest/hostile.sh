#!/bin/sh
# A hostile guest and its neighbour on one machine: hostile.sh GNOMON ELF SCHEME SCHEME [OPTIONS]
# The first scheme is the hostile guest's. Both have to end well: the neighbour's secret was neither
# read nor changed.
gnomon=$1 elf=$(realpath "$2") hostile=$3 neighbour=$4
shift 4
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
for role in hostile neighbour; do
	[ $role = hostile ] && scheme=$hostile || scheme=$neighbour
	cat >"$dir/$role.vm" <<END
kernel = "$elf";
append = "$role ram=32 machine=512"; # the machine has 321 MiB, the guests do not know
memory = "32M";
mmu = "$scheme";
audit-every = 20000;
END
done
"$gnomon" run --vm "$dir/hostile.vm" --vm "$dir/neighbour.vm" --slice 100k "$@" >"$dir/out" </dev/null
status=$?
cat "$dir/out"
for role in hostile neighbour; do
	grep -q "^$role| $role: .* checks, 0 failed" "$dir/out" || { echo "hostile.sh: $role did not end well" >&2; exit 1; }
done
[ $status -eq 1 ] || { echo "hostile.sh: exit status $status" >&2; exit 1; }
