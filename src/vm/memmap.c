/*
 * The memory map of a PC without legacy devices: RAM below 640 KiB, the table
 * area below 1 MiB, RAM up to the device hole at 3 GiB, the rest from 4 GiB.
 */
#include "vm/memmap.h"
#include "engine/engine.h"
#include <errno.h>
#include <inttypes.h>

int memmap_check_memory(uint64_t memory, unsigned maxphyaddr, struct error *err)
{
	struct machmem_range range[2];
	unsigned n;

	if (memory % PAGE_SIZE)
		return error_set(err, -EINVAL, "--memory %" PRIu64 ": not a multiple of 4 KiB", memory);
	if (memory < MEMMAP_MEMORY_MIN)
		return error_set(err, -EINVAL, "--memory: %" PRIu64 " KiB is too small, the least is %" PRIu64 " MiB",
				 memory >> 10, (uint64_t)MEMMAP_MEMORY_MIN >> 20);
	if (memory > MEMMAP_MEMORY_MAX)
		return error_set(err, -EINVAL, "--memory: %" PRIu64 " MiB is too large, the most is %" PRIu64 " GiB",
				 memory >> 20, (uint64_t)MEMMAP_MEMORY_MAX >> 30);
	n = engine_ram_layout(memory, range);
	if (range[n - 1].base + range[n - 1].bytes > (uint64_t)1 << maxphyaddr)
		return error_set(err, -EINVAL, "--memory: %" PRIu64 " MiB do not fit in %u physical-address bits",
				 memory >> 20, maxphyaddr);
	return 0;
}

static void memmap_add(struct memmap *map, uint64_t base, uint64_t end, uint32_t type)
{
	if (end > base)
		map->entry[map->count++] = (struct memmap_entry){base, end - base, type};
}

void memmap_build(struct memmap *map, uint64_t memory)
{
	struct machmem_range range[2];
	unsigned n = engine_ram_layout(memory, range);

	map->count = 0;
	memmap_add(map, 0, MEMMAP_LOW_END, MEMMAP_USABLE);
	memmap_add(map, MEMMAP_LOW_END, 0xa0000, MEMMAP_RESERVED);
	memmap_add(map, MEMMAP_ROM_START, MEMMAP_ROM_END, MEMMAP_RESERVED);
	memmap_add(map, MEMMAP_ROM_END, range[0].base + range[0].bytes, MEMMAP_USABLE);
	if (n > 1)
		memmap_add(map, range[1].base, range[1].base + range[1].bytes, MEMMAP_USABLE);
}
