/* Random whole guests for machfuzz: memory, registers and what the world outside does to them. */
#ifndef GNOMON_MF_GEN_H
#define GNOMON_MF_GEN_H

#include "engine/engine.h"
#include "mf_layout.h"

enum mf_mode { MF_FLAT32, MF_PAGED32, MF_PAE, MF_LONG, MF_LA57, MF_COMPAT, MF_REAL, MF_MODES };
extern const char *const mf_mode_name[MF_MODES];

#define MF_TABLES_MAX 64

/* A table whose entries from @first on the guest may change. */
struct mf_table {
	uint32_t window; /* linear address of a writable alias */
	unsigned level, first, count;
};

struct mf_guest {
	uint64_t seed, rng;
	enum mf_mode mode;
	bool wild;         /* anything goes: what it computes may depend on the TLB */
	bool store_flush;  /* strict: tables can be hit by any store, so a flush follows each */
	bool pcid;         /* strict: may set CR4.PCIDE; then no page is global */
	unsigned flush;    /* MF_FLUSH_* of strict guests */
	struct cpu_config cpu;
	struct engine_regs regs;
	struct engine_sregs sregs;
	uint64_t insns;    /* how long it is to run */
	uint64_t period;   /* mean time between events from outside, ns */
	uint32_t root[2];
	unsigned tables;   /* allocated from MF_TABLES */
	struct mf_table play[MF_TABLES_MAX];
	unsigned plays;
	uint8_t *mem;      /* MF_MEMORY bytes */
};

static inline uint64_t mf_next(uint64_t *s)
{
	uint64_t x = *s;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*s = x;
	return x * 0x2545f4914f6cdd1dull;
}

/* Makes the guest of @seed. @mode: MF_MODES lets the seed choose. @wild: 0, 1 or -1, likewise. -ENOMEM. */
int mf_generate(struct mf_guest *g, uint64_t seed, enum mf_mode mode, int wild);
void mf_free(struct mf_guest *g);

#endif
