#include "mem/machmem.h"

#include <assert.h>
#include <errno.h>
#include <sys/mman.h>

static void *map_lazily(uint64_t bytes, int prot)
{
	void *p = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void unmap(void *p, uint64_t bytes)
{
	if (p)
		munmap(p, bytes);
}

/*
 * Accesses that miss the guest's TLB would miss the host's too: large memories get the host's huge
 * pages, if it has any to spare. Small ones (of tests) would only pay for clearing them.
 */
#define HUGE_PAGES_FROM (64ull << 20)

static void want_huge_pages(void *p, uint64_t bytes)
{
	if (bytes >= HUGE_PAGES_FROM)
		madvise(p, bytes, MADV_HUGEPAGE);
}

void machmem_use_small_pages(struct machmem *mm)
{
	for (unsigned i = 0; i < mm->ranges; i++)
		madvise(mm->host + mm->range[i].base, mm->range[i].bytes, MADV_NOHUGEPAGE);
}

bool machmem_is_large(const struct machmem *mm)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < mm->ranges; i++)
		bytes += mm->range[i].bytes;
	return bytes >= HUGE_PAGES_FROM;
}

static uint64_t span_frames(const struct machmem *mm) { return mm->span >> PAGE_SHIFT; }
static uint64_t free_map_bytes(const struct machmem *mm) { return (span_frames(mm) / 64 + 1) * 8; }

static int check_ranges(const struct machmem_range *range, unsigned ranges, struct error *err)
{
	uint64_t end = 0;

	if (ranges == 0 || ranges > MACHMEM_RANGES_MAX)
		return error_set(err, -EINVAL, "machine memory: %u RAM ranges, 1 to %d are possible", ranges,
				 MACHMEM_RANGES_MAX);
	for (unsigned i = 0; i < ranges; i++) {
		uint64_t bytes = range[i].bytes;

		if (bytes == 0 || (range[i].base | bytes) & ~PAGE_MASK || range[i].base < end ||
		    range[i].base + bytes > MACHMEM_SPAN_MAX)
			return error_set(err, -EINVAL, "machine memory: bad RAM range %#llx+%#llx",
					 (unsigned long long)range[i].base, (unsigned long long)bytes);
		end = range[i].base + bytes;
	}
	return 0;
}

static void mark_free(struct machmem *mm, uint64_t frame, bool is_free)
{
	uint64_t bit = 1ull << (frame % 64);

	if (is_free)
		mm->free_map[frame / 64] |= bit;
	else
		mm->free_map[frame / 64] &= ~bit;
}

int machmem_init(struct machmem *mm, const struct machmem_range *range, unsigned ranges, struct error *err)
{
	int r = check_ranges(range, ranges, err);

	if (r)
		return r;
	*mm = (struct machmem){.ranges = ranges};
	memcpy(mm->range, range, ranges * sizeof(*range));
	mm->span = range[ranges - 1].base + range[ranges - 1].bytes;
	mm->host_bytes = mm->span;
	mm->host = map_lazily(mm->host_bytes, PROT_NONE);
	mm->owner = map_lazily(span_frames(mm) * sizeof(*mm->owner), PROT_READ | PROT_WRITE);
	mm->free_map = map_lazily(free_map_bytes(mm), PROT_READ | PROT_WRITE);
	mm->code_map = map_lazily(span_frames(mm) * sizeof(*mm->code_map), PROT_READ | PROT_WRITE);
	if (!mm->host || !mm->owner || !mm->free_map || !mm->code_map)
		goto no_memory;
	for (unsigned i = 0; i < ranges; i++) {
		if (mprotect(mm->host + range[i].base, range[i].bytes, PROT_READ | PROT_WRITE))
			goto no_memory;
		want_huge_pages(mm->host + range[i].base, range[i].bytes);
		for (uint64_t f = 0; f < range[i].bytes >> PAGE_SHIFT; f++)
			mark_free(mm, (range[i].base >> PAGE_SHIFT) + f, true);
		mm->frames_free += range[i].bytes >> PAGE_SHIFT;
	}
	return 0;
no_memory:
	machmem_destroy(mm);
	return error_set(err, -ENOMEM, "machine memory: cannot reserve %llu MiB of address space",
			 (unsigned long long)(range[ranges - 1].base + range[ranges - 1].bytes) >> 20);
}

void machmem_destroy(struct machmem *mm)
{
	unmap(mm->host, mm->host_bytes);
	unmap(mm->owner, span_frames(mm) * sizeof(*mm->owner));
	unmap(mm->free_map, free_map_bytes(mm));
	unmap(mm->code_map, span_frames(mm) * sizeof(*mm->code_map));
	*mm = (struct machmem){0};
}

static bool run_is_free(const struct machmem *mm, uint64_t first, uint64_t frames)
{
	if (frames == 1)
		return mm->free_map[first / 64] >> (first % 64) & 1;
	for (uint64_t w = first / 64; w < (first + frames) / 64; w++)
		if (mm->free_map[w] != ~0ull)
			return false;
	return true;
}

static bool find_run(const struct machmem *mm, uint64_t from, uint64_t to, uint64_t frames, uint64_t *first)
{
	for (uint64_t f = from; f + frames <= to; f += frames) {
		if (frames == 1 && mm->free_map[f / 64] == 0) {
			f |= 63;
			continue;
		}
		if (run_is_free(mm, f, frames)) {
			*first = f;
			return true;
		}
	}
	return false;
}

static void take_run(struct machmem *mm, uint64_t first, uint64_t frames, uint16_t owner)
{
	for (uint64_t f = first; f < first + frames; f++) {
		mark_free(mm, f, false);
		mm->owner[f] = owner;
	}
	mm->frames_free -= frames;
}

int machmem_alloc(struct machmem *mm, unsigned order, uint16_t owner, mfn_t *first)
{
	uint64_t frames = 1ull << order, f, *next;

	assert(order == 0 || order == 9 || order == 18);
	next = &mm->next_fit[order / 9];
	if (!find_run(mm, *next, span_frames(mm), frames, &f) && !find_run(mm, 0, *next, frames, &f))
		return -ENOMEM;
	*next = f + frames;
	take_run(mm, f, frames, owner);
	*first = mfn(f);
	return 0;
}

/* The first run of free frames that is long enough; words of the map without any are passed at once. */
static bool find_row(const struct machmem *mm, uint64_t frames, uint64_t *first)
{
	uint64_t row = 0;

	for (uint64_t f = 0; f < span_frames(mm); f++) {
		if (f % 64 == 0 && mm->free_map[f / 64] == 0) {
			row = 0;
			f |= 63;
			continue;
		}
		row = mm->free_map[f / 64] >> (f % 64) & 1 ? row + 1 : 0;
		if (row == frames) {
			*first = f + 1 - frames;
			return true;
		}
	}
	return false;
}

int machmem_alloc_run(struct machmem *mm, uint64_t frames, uint16_t owner, mfn_t *first)
{
	uint64_t f;

	if (!frames)
		return -EINVAL;
	if (!find_row(mm, frames, &f))
		return -ENOMEM;
	take_run(mm, f, frames, owner);
	*first = mfn(f);
	return 0;
}

void machmem_free_owner(struct machmem *mm, uint16_t owner)
{
	for (uint64_t f = 0, run; f < span_frames(mm); f += run + 1) {
		for (run = 0; f + run < span_frames(mm) && mm->owner[f + run] == owner; run++)
			;
		if (run)
			machmem_free(mm, mfn(f), run);
	}
}

void machmem_free(struct machmem *mm, mfn_t first, uint64_t frames)
{
	for (uint64_t f = first.v; f < first.v + frames; f++) {
		assert(mm->owner[f] != OWNER_NONE);
		mm->owner[f] = OWNER_NONE;
		mark_free(mm, f, true);
	}
	mm->frames_free += frames;
	/* The next owner must find zeroes; dropping the backing also gives the memory back. */
	madvise(mm->host + (first.v << PAGE_SHIFT), frames << PAGE_SHIFT, MADV_DONTNEED);
}
