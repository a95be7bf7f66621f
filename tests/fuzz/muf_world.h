/*
 * Random worlds for mmufuzz: a hardware description, memory with guest tables and
 * EPT tables, and the register contexts that switch between them. Everything comes
 * from one seed.
 */
#ifndef GNOMON_TESTS_MUF_WORLD_H
#define GNOMON_TESTS_MUF_WORLD_H

#include "mmu/mmu.h"

#define MUF_POOL      0x100000ull /* table pages begin here, in gpa and hpa */
#define MUF_GUEST     80u         /* pages for guest tables */
#define MUF_EPT       48u         /* pages for EPT tables, after them */
#define MUF_POOL_BYTES ((MUF_GUEST + MUF_EPT) * PAGE_SIZE)
#define MUF_CONTEXTS  7u
#define MUF_ROOTS     3u          /* EPT */
#define MUF_MEMORIES  2u          /* the model's and the reference model's, always written alike */

/* Formats of guest tables. */
enum muf_mode { MUF_UNPAGED, MUF_32BIT, MUF_PAE, MUF_4LEVEL, MUF_5LEVEL, MUF_MODES };

struct muf_world {
	uint64_t rng;
	struct hw hw;
	struct machmem mem[MUF_MEMORIES];
	unsigned guest_pages, ept_pages;   /* used of the pool */
	unsigned level[MUF_GUEST + MUF_EPT]; /* what a page of the pool is a table of */
	unsigned maxphyaddr;
	bool pages_1g;
	struct muf_context {
		enum muf_mode mode;
		struct mmu_regs regs;
	} context[MUF_CONTEXTS];
	uint64_t eptp[MUF_ROOTS];
	uint8_t *first;  /* [MUF_POOL_BYTES]: the tables as they were at first */
	bool tidy;       /* entries mostly valid and permissive: long lives of what is cached */
};

static inline uint64_t muf_next(struct muf_world *w)
{
	uint64_t x = w->rng;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	w->rng = x;
	return x * 0x2545f4914f6cdd1dull >> 8;
}
static inline unsigned muf_below(struct muf_world *w, unsigned n) { return (unsigned)(muf_next(w) % n); }
/* True in @percent of cases. */
static inline bool muf_chance(struct muf_world *w, unsigned percent) { return muf_below(w, 100) < percent; }

/* 0 or a negative errno. */
int muf_world_init(struct muf_world *w, uint64_t seed);
void muf_world_destroy(struct muf_world *w);

/* A linear address that the context's tables may map: one of few hundred. */
uint64_t muf_address(struct muf_world *w, enum muf_mode mode);
/* A guest-physical address that EPT may map, tables included. */
uint64_t muf_gpa(struct muf_world *w);

/*
 * Changes an entry on the way to @lin in the context, in its guest's tables or, for some address, in EPT's.
 * Returns whether it was in guest tables.
 */
bool muf_edit(struct muf_world *w, const struct muf_context *c, uint64_t lin);

/* A page of tables, or all, as at first: what edits broke works again. */
void muf_repair(struct muf_world *w);

void muf_print_hw(const struct hw *hw);

#endif
