/*
 * Machine memory: the host-physical address space, its frames and who owns them.
 *
 * RAM is one or more ranges of the machine's address space, backed lazily by one
 * host mapping, so that untouched memory costs nothing. Every frame has an
 * owner; a hypervisor allocates frames for itself and for its VMs, and the owner
 * is what resource control is checked against.
 */
#ifndef GNOMON_MEM_MACHMEM_H
#define GNOMON_MEM_MACHMEM_H

#include "arch/addr.h"
#include "base/error.h"
#include "base/util.h"

#define MACHMEM_RANGES_MAX 4
#define MACHMEM_SPAN_MAX   ((uint64_t)1 << 40)

/* Who owns a frame. VMs are numbered from OWNER_VM. */
enum { OWNER_NONE = 0, OWNER_MACHINE = 1, OWNER_HYPERVISOR = 2, OWNER_VM = 16 };

struct machmem_range {
	uint64_t base;  /* hpa, page aligned */
	uint64_t bytes; /* page multiple */
};

/*
 * The pages of ascending ranges, numbered in the order of their addresses, what lies between the ranges left out.
 * Also of ranges of guest-physical RAM.
 */
static inline uint64_t machmem_pages(const struct machmem_range *range, unsigned ranges)
{
	uint64_t pages = 0;

	for (unsigned i = 0; i < ranges; i++)
		pages += range[i].bytes >> PAGE_SHIFT;
	return pages;
}

/* Number of the page that @a is in; UINT64_MAX: none. */
static inline uint64_t machmem_page_of(const struct machmem_range *range, unsigned ranges, uint64_t a)
{
	uint64_t before = 0;

	for (unsigned i = 0; i < ranges; i++) {
		if (a - range[i].base < range[i].bytes)
			return before + ((a - range[i].base) >> PAGE_SHIFT);
		before += range[i].bytes >> PAGE_SHIFT;
	}
	return UINT64_MAX;
}

/* Do all @bytes from @a on lie in one of the ranges? Of no bytes: no. */
static inline bool machmem_holds(const struct machmem_range *range, unsigned ranges, uint64_t a, uint64_t bytes)
{
	for (unsigned i = 0; i < ranges; i++)
		if (bytes && a - range[i].base < range[i].bytes && bytes <= range[i].bytes - (a - range[i].base))
			return true;
	return false;
}

/* Address of page number @page, which there is. */
static inline uint64_t machmem_page_at(const struct machmem_range *range, uint64_t page)
{
	for (; page >= range->bytes >> PAGE_SHIFT; range++)
		page -= range->bytes >> PAGE_SHIFT;
	return range->base + (page << PAGE_SHIFT);
}

struct machmem {
	uint8_t *host;      /* host address of hpa 0; only RAM ranges are accessible */
	uint64_t span;      /* bytes of address space from 0 to the end of the last range */
	uint64_t host_bytes; /* bytes mapped at host */
	struct machmem_range range[MACHMEM_RANGES_MAX];
	unsigned ranges;
	uint16_t *owner;    /* [span >> PAGE_SHIFT] */
	uint64_t *free_map; /* one bit a frame, 1 = free; for machmem_alloc */
	uint64_t frames_free;
	uint64_t next_fit[3]; /* where the next search for 2^0, 2^9, 2^18 frames begins */
	/*
	 * One word a frame: bit n is set if a block decoded from bytes
	 * [64n, 64n+63] of the frame may exist. Written by the block cache,
	 * read wherever memory is written.
	 */
	uint64_t *code_map; /* [span >> PAGE_SHIFT] */
};

/*
 * Makes a machine with the given RAM ranges, ascending and disjoint.
 * Returns 0, or -EINVAL / -ENOMEM with @err set; nothing is left allocated on error.
 */
int machmem_init(struct machmem *mm, const struct machmem_range *range, unsigned ranges, struct error *err);
/*
 * Only few pages will have contents, here and there: what is not touched yet comes from the host in small pages, as a
 * large one for each of them would take as much memory as if all had.
 */
void machmem_use_small_pages(struct machmem *mm);
void machmem_destroy(struct machmem *mm);

static inline bool machmem_is_ram(const struct machmem *mm, hpa_t a)
{
	for (unsigned i = 0; i < mm->ranges; i++)
		if (a.v - mm->range[i].base < mm->range[i].bytes)
			return true;
	return false;
}

/* Is it worth the host's huge pages, which take long to clear: for itself, and for tables that are looked up as often as it? */
bool machmem_is_large(const struct machmem *mm);

/* Host address of a machine address that is known to be RAM (up to the end of its frame). */
static inline void *machmem_ptr(const struct machmem *mm, hpa_t a) { return mm->host + a.v; }

/* Naturally aligned 8-byte read; reads of an address that is no RAM give all ones. */
static inline uint64_t machmem_read64(const struct machmem *mm, hpa_t a)
{
	return machmem_is_ram(mm, a) ? get_u64(mm->host + a.v) : ~0ull;
}

static inline uint32_t machmem_read32(const struct machmem *mm, hpa_t a)
{
	return machmem_is_ram(mm, a) ? get_u32(mm->host + a.v) : ~0u;
}

/*
 * Allocates 2^order zeroed frames (order 0, 9 or 18), aligned to their size.
 * Returns 0 and the first frame, or -ENOMEM (nothing changed).
 */
int machmem_alloc(struct machmem *mm, unsigned order, uint16_t owner, mfn_t *first);
/* The same for any number of frames in a row, wherever there is room for them. -EINVAL: none are wanted. */
int machmem_alloc_run(struct machmem *mm, uint64_t frames, uint16_t owner, mfn_t *first);
/* Gives frames back; they must have been allocated. */
void machmem_free(struct machmem *mm, mfn_t first, uint64_t frames);

/* Gives all frames of @owner back. */
void machmem_free_owner(struct machmem *mm, uint16_t owner);

static inline uint16_t machmem_owner(const struct machmem *mm, mfn_t f)
{
	return f.v < mm->span >> PAGE_SHIFT ? mm->owner[f.v] : OWNER_NONE;
}

#endif
