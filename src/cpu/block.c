#include "cpu/block.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "cpu/lower.h"
#include "cpu/xlate.h"

#define HASH_SLOTS  (1u << 17)
#define PAGE_SLOTS  (1u << 14)
#define ARENA_BYTES ((size_t)256 << 20)

struct blocks {
	struct block *hash[HASH_SLOTS];
	struct block *page[PAGE_SLOTS]; /* blocks with bytes in a frame, chained by page_next or page2_next */
	uint8_t *arena;
	size_t arena_used;
};

static unsigned hash_slot(uint64_t hpa, unsigned bits)
{
	return (unsigned)((hpa * 0x9e3779b97f4a7c15ull >> 40 ^ bits) & (HASH_SLOTS - 1));
}

static unsigned page_slot(uint64_t frame) { return (unsigned)(frame & (PAGE_SLOTS - 1)); }

int blocks_create(struct cpu *cpu, struct error *err)
{
	struct blocks *bs = calloc(1, sizeof(*bs));

	if (bs) {
		bs->arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (bs->arena == MAP_FAILED) {
			free(bs);
			bs = NULL;
		}
	}
	cpu->blocks = bs;
	return bs ? 0 : error_set(err, -ENOMEM, "processor: no memory for the block cache");
}

void blocks_destroy(struct cpu *cpu)
{
	if (!cpu->blocks)
		return;
	munmap(cpu->blocks->arena, ARENA_BYTES);
	free(cpu->blocks);
	cpu->blocks = NULL;
}

struct block *blocks_find(struct blocks *bs, uint64_t hpa, unsigned bits)
{
	for (struct block *b = bs->hash[hash_slot(hpa, bits)]; b; b = b->hash_next)
		if (b->hpa == hpa && b->bits == bits)
			return b;
	return NULL;
}

static bool block_in_frame(const struct block *b, uint64_t frame)
{
	return b->hpa >> PAGE_SHIFT == frame || (b->hpa2 != BLOCK_NO_HPA && b->hpa2 >> PAGE_SHIFT == frame);
}

/* The chain pointer that continues @frame's list after @b. */
static struct block **page_link(struct block *b, uint64_t slot)
{
	return page_slot(b->hpa >> PAGE_SHIFT) == slot ? &b->page_next : &b->page2_next;
}

void blocks_flush(struct cpu *cpu)
{
	struct blocks *bs = cpu->blocks;

	for (unsigned i = 0; i < PAGE_SLOTS; i++) {
		for (struct block *b = bs->page[i]; b; b = *page_link(b, i)) {
			if (b->hpa != BLOCK_NO_HPA)
				cpu->mmu.mem->code_map[b->hpa >> PAGE_SHIFT] = 0;
			if (b->hpa2 != BLOCK_NO_HPA)
				cpu->mmu.mem->code_map[b->hpa2 >> PAGE_SHIFT] = 0;
		}
	}
	memset(bs->hash, 0, sizeof(bs->hash));
	memset(bs->page, 0, sizeof(bs->page));
	bs->arena_used = 0;
	xlate_flush(cpu);
	mmu_fast_flush(&cpu->mmu);
}

static uint64_t chunk_mask(unsigned first, unsigned bytes)
{
	unsigned lo = first / 64, hi = (first + bytes - 1) / 64;

	return (~0ull >> (63 - (hi - lo))) << lo;
}

/* Bits of the 64-byte chunks of @frame that @b was decoded from. */
static uint64_t block_mask(const struct block *b, uint64_t frame)
{
	unsigned off = (unsigned)(b->hpa & ~PAGE_MASK), in_first = (unsigned)PAGE_SIZE - off;

	if (b->hpa >> PAGE_SHIFT == frame)
		return chunk_mask(off, b->bytes < in_first ? b->bytes : in_first);
	return chunk_mask(0, b->bytes - in_first);
}

static void code_map_set(struct cpu *cpu, const struct block *b, uint64_t frame)
{
	uint64_t *map = &cpu->mmu.mem->code_map[frame];

	/* Fast writes to the page end when it gets its first code. */
	if (*map == 0)
		mmu_fast_flush_host_page(&cpu->mmu, hpa(frame << PAGE_SHIFT));
	*map |= block_mask(b, frame);
}

static void block_insert(struct cpu *cpu, struct block *b)
{
	struct blocks *bs = cpu->blocks;
	struct block **head = &bs->hash[hash_slot(b->hpa, b->bits)];
	unsigned slot = page_slot(b->hpa >> PAGE_SHIFT);

	b->hash_next = *head;
	*head = b;
	b->page_next = bs->page[slot];
	bs->page[slot] = b;
	code_map_set(cpu, b, b->hpa >> PAGE_SHIFT);
	if (b->hpa2 == BLOCK_NO_HPA)
		return;
	code_map_set(cpu, b, b->hpa2 >> PAGE_SHIFT);
	if (page_slot(b->hpa2 >> PAGE_SHIFT) != slot) {
		slot = page_slot(b->hpa2 >> PAGE_SHIFT);
		b->page2_next = bs->page[slot];
		bs->page[slot] = b;
	}
}

static int exec_stale(struct cpu *cpu, const struct uop *u)
{
	(void)cpu;
	(void)u;
	return EXEC_STALE;
}

static void hash_remove(struct blocks *bs, struct block *b)
{
	struct block **p = &bs->hash[hash_slot(b->hpa, b->bits)];

	while (*p != b)
		p = &(*p)->hash_next;
	*p = b->hash_next;
}

static void page_remove(struct blocks *bs, struct block *b, uint64_t frame)
{
	unsigned slot = page_slot(frame);
	struct block **p = &bs->page[slot];

	while (*p && *p != b)
		p = page_link(*p, slot);
	if (*p)
		*p = *page_link(b, slot);
}

static void block_invalidate(struct cpu *cpu, struct block *b)
{
	struct blocks *bs = cpu->blocks;

	xlate_forget(cpu, b);
	hash_remove(bs, b);
	page_remove(bs, b, b->hpa >> PAGE_SHIFT);
	if (b->hpa2 != BLOCK_NO_HPA && page_slot(b->hpa2 >> PAGE_SHIFT) != page_slot(b->hpa >> PAGE_SHIFT))
		page_remove(bs, b, b->hpa2 >> PAGE_SHIFT);
	b->hpa = BLOCK_NO_HPA;
	b->hpa2 = BLOCK_NO_HPA;
	for (unsigned i = 0; i < b->uops; i++)
		b->uop[i].exec = exec_stale;
	cpu->stats.blocks_invalidated++;
}

void blocks_note_write(struct cpu *cpu, uint64_t at, unsigned bytes)
{
	struct blocks *bs = cpu->blocks;
	uint64_t frame = at >> PAGE_SHIFT, left = 0;
	uint64_t hit = chunk_mask((unsigned)(at & ~PAGE_MASK), bytes);
	unsigned slot = page_slot(frame);

	if (!(cpu->mmu.mem->code_map[frame] & hit))
		return;
	for (struct block *b = bs->page[slot], *next; b; b = next) {
		next = *page_link(b, slot);
		if (!block_in_frame(b, frame))
			continue;
		if (block_mask(b, frame) & hit)
			block_invalidate(cpu, b);
		else
			left |= block_mask(b, frame);
	}
	cpu->mmu.mem->code_map[frame] = left;
}

/* ---- decoding ---- */

struct source {
	const uint8_t *bytes; /* from the block's first byte */
	unsigned avail;       /* bytes that may be looked at */
	unsigned page_left;   /* bytes up to the end of the first frame */
	uint8_t joined[32];   /* the end of the first frame and the start of the second, for a crossing instruction */
};

static void source_of(struct cpu *cpu, struct source *s, uint64_t at, uint64_t hpa2)
{
	const struct machmem *mm = cpu->mmu.mem;

	s->page_left = (unsigned)(PAGE_SIZE - (at & ~PAGE_MASK));
	s->bytes = machmem_ptr(mm, hpa(at));
	s->avail = s->page_left;
	if (s->page_left >= 15 || hpa2 == BLOCK_NO_HPA)
		return;
	memcpy(s->joined, s->bytes, s->page_left);
	memcpy(s->joined + s->page_left, machmem_ptr(mm, hpa(hpa2)), 15);
	s->bytes = s->joined;
	s->avail = s->page_left + 15;
}

static struct block *block_alloc(struct cpu *cpu)
{
	struct blocks *bs = cpu->blocks;
	size_t most = sizeof(struct block) + (BLOCK_INSNS_MAX + 1) * sizeof(struct uop);
	struct block *b;

	if (bs->arena_used + most > ARENA_BYTES)
		blocks_flush(cpu);
	b = (struct block *)(void *)(bs->arena + bs->arena_used);
	memset(b, 0, sizeof(*b));
	return b;
}

struct block *blocks_decode(struct cpu *cpu, uint64_t at, uint64_t hpa2, unsigned bits)
{
	struct block *b = block_alloc(cpu);
	struct source s;
	unsigned off = 0;
	enum block_place place = PLACE_ANY;

	source_of(cpu, &s, at, hpa2);
	while (b->insns < BLOCK_INSNS_MAX && place == PLACE_ANY && off < s.page_left) {
		struct uop *u = &b->uop[b->insns];
		int len = lower_one(cpu, s.bytes + off, s.avail - off, bits, off, u, &place);

		/* An instruction that crosses into the next frame is a block of its own. */
		if (len == 0 || off + (unsigned)len > s.page_left) {
			if (b->insns > 0)
				break;
			if (len == 0)
				return NULL;
			b->hpa2 = hpa2;
			place = PLACE_ALONE;
		}
		if (place == PLACE_ALONE && b->insns > 0)
			break;
		off += (unsigned)len;
		b->insns++;
	}
	if (!b->hpa2)
		b->hpa2 = BLOCK_NO_HPA;
	b->hpa = at;
	b->bits = (uint16_t)bits;
	b->bytes = (uint16_t)off;
	b->uops = b->insns;
	if (!(b->uop[b->insns - 1].flags & UOP_SETS_RIP))
		lower_fallthrough(&b->uop[b->uops++], off);
	cpu->blocks->arena_used += sizeof(*b) + b->uops * sizeof(struct uop);
	cpu->stats.blocks_decoded++;
	cpu->stats.insns_decoded += b->insns;
	block_insert(cpu, b);
	return b;
}
