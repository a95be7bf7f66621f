/*
 * Dumps of page tables as the DMT artifact's kernel module writes them, turned back into tables. A dump is text: a line
 * with a number (the count of rows with zeros before it, or a process number with blanks before it), then a row for
 * each mapped page of 4 KiB, ascending: its address and the frame numbers of the four tables of its walk and of the
 * page, hexadecimal, with commas between them. Large pages are split into rows: of 2 MiB, the "page table" is the first
 * frame of the page; of 1 GiB, the "page directory" is, too.
 *
 * A dump has no rights and flags. Entries made from it are writable, executable, accessed and dirty, user entries in
 * the lower half of the address space.
 */
#ifndef GNOMON_TRACE_PAGE_DUMP_H
#define GNOMON_TRACE_PAGE_DUMP_H

#include "trace/event.h"
#include "trace/import_source.h"

/*
 * Where a machine here has devices, and no memory (engine_ram_layout()). Other machines' memory there can be moved.
 */
#define PAGE_DUMP_HOLE     (3 * SIZE_1G)
#define PAGE_DUMP_HOLE_END (4 * SIZE_1G)

struct page_dump_facts {
	uint64_t root;              /* physical address of the root table */
	uint64_t rows, tables;
	uint64_t pages, pages_2m, pages_1g; /* by the size that they are mapped in */
	uint64_t end;               /* behind the last physical byte that a table or page has outside of the hole */
	uint64_t hole_end;          /* the same within the hole, as the dump says it; 0: there is none */
	uint64_t unbacked;          /* pages of 4 KiB that page_dump_options.within does not have */
};

/* Which frames a dump maps, and which are its tables: bits by frame number, for frames below 1 TiB. */
struct page_dump_map;
struct page_dump_map *page_dump_map_create(void); /* NULL: out of memory */
void page_dump_map_destroy(struct page_dump_map *map);

struct page_dump_options {
	uint64_t move_hole;        /* bytes, whole GiB, by which what lies in the hole is moved up */
	bool byte_addresses;       /* numbers are byte addresses, not frame numbers */
	struct page_dump_map *linear; /* not NULL: receives the pages whose addresses have rows (of a host's dump) */
	const struct page_dump_map *within; /* not NULL: tables must lie in it, and pages are looked for in it */
};

/*
 * Reads a dump to its end. The tables are given to @put as TRACE_PAGE events, each when it is complete (NULL: only
 * checked), which may fail with an error of its own.
 * -EBADMSG with "FILE: line N: why": no dump, cut off, addresses that do not ascend, tables that contradict each other
 * or lie in each other's place, frames beyond 1 TiB; -ENOMEM.
 */
int page_dump_read(struct import_source *source, const struct page_dump_options *options, const struct trace_sink *put,
		   struct page_dump_facts *facts, struct error *err);

/* Do the first bytes look like a dump? */
bool page_dump_detect(const uint8_t *head, size_t n);

#endif
