/*
 * The guest-physical memory map as firmware would report it (E820), shared by
 * every loader: which parts of RAM a kernel may use. What is device space is
 * simply not listed. Types are those of ACPI "Address Range Types".
 */
#ifndef GNOMON_VM_MEMMAP_H
#define GNOMON_VM_MEMMAP_H

#include "base/error.h"
#include <stdint.h>

#define MEMMAP_USABLE   1u
#define MEMMAP_RESERVED 2u
#define MEMMAP_MAX      8

#define MEMMAP_LOW_END   0x9fc00ull  /* where the extended BIOS data area of a PC begins */
#define MEMMAP_ROM_START 0xe0000ull  /* ACPI tables live from here ... */
#define MEMMAP_ROM_END   0x100000ull /* ... to here */

/* Limits of --memory, in bytes. */
#define MEMMAP_MEMORY_MIN ((uint64_t)4 << 20)
#define MEMMAP_MEMORY_MAX ((uint64_t)64 << 30)

struct memmap {
	struct memmap_entry {
		uint64_t base, bytes; /* in bytes */
		uint32_t type;
	} entry[MEMMAP_MAX];
	unsigned count;
};

/*
 * Is @memory (bytes) an amount of RAM a guest can have on a processor with
 * @maxphyaddr address bits? 0, or -EINVAL with @err.
 */
int memmap_check_memory(uint64_t memory, unsigned maxphyaddr, struct error *err);

/* The map of a guest with @memory bytes of RAM, ascending. */
void memmap_build(struct memmap *map, uint64_t memory);

#endif
