#!/bin/bash
# The architecture as a test: a file of src/ includes only its own storey and those
# below it. storeys.sh SRC. The order is that of docs/ARCHITECTURE.md.
set -euo pipefail

src=$1
declare -A height
n=0
for storey in base arch trace mem mmu cpu hv engine disk dev vm lab cli; do
	height[$storey]=$((++n))
done
# hv.h takes the configuration struct from engine.h: the one exception.
allowed="hv/hv.h engine"
bad=0 seen=0

complain() { echo "storeys: $*" >&2; bad=1; }

for dir in "$src"/*/; do
	dir=${dir%/}
	[ -n "${height[${dir##*/}]-}" ] || complain "$dir is no storey"
done
while read -r file included; do
	seen=$((seen + 1))
	[ "$file $included" != "$allowed" ] || continue
	case $file in # a storey beside the processor: it knows nothing of it
	disk/*) case $included in base|disk) ;; *) complain "$file includes a header of $included/" ;; esac ;;
	esac
	own=${height[${file%%/*}]-0} other=${height[$included]-99}
	[ "$other" -le "$own" ] || complain "$file includes a header of $included/, which is not below it"
done < <(cd "$src" && grep -ro --include='*.[ch]' '^ *# *include *"[a-z_]*/' * | sed 's|: *# *include *"| |; s|/$||')
[ "$seen" -gt 0 ] || complain "no includes found in $src"
echo "$seen includes"
exit $bad
