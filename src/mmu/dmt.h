/*
 * Direct memory translation (docs/dmt.md): registers that map a range of addresses to the array of leaf entries that
 * translates it, so that a walk reads the leaf entry alone. Stage 0 is the guest's; the host's stages follow, two of
 * them if there are two hypervisors. mmu->dmt; what it does is part of mmu_translate().
 *
 * What does not end in a present translation that permits the access is walked as ever: all faults are the walk's. What
 * the registers know nothing of are the upper levels. Whoever loads them promises that over their range
 * those are present, accessed, writable, for users and executable, and that tables and registers lead to the same
 * entries. A guest that breaks its promise gets other translations than by its tables; the host's stage
 * confines them as it confines its tables. The audit finds it.
 */
#ifndef GNOMON_MMU_DMT_H
#define GNOMON_MMU_DMT_H

#include "arch/dmt.h"

#define DMT_STAGES 3

/* A register in use. */
struct dmt_register {
	uint64_t start, end;
	uint64_t tea;
	bool machine; /* tea is a machine address; else one that the next stage translates */
};

/* What the host made of a gTEA. */
struct dmt_gtea {
	uint64_t gpa, pages; /* as the guest asked for it; pages == 0: there is no such gTEA */
	uint64_t machine;    /* machine address of the first page, all being contiguous; ~0: could not be done */
};
#define DMT_SCATTERED (~0ull)

enum dmt_size { DMT_SMALL, DMT_LARGE, DMT_SIZES }; /* registers for 4 KiB and for 2 MiB pages */

struct dmt_stage {
	unsigned count[DMT_SIZES];
	struct dmt_register reg[DMT_SIZES][DMT_REGISTERS]; /* in the order in which they were loaded */
};

struct mmu_dmt {
	unsigned stages;     /* in use: 0 none; 1 on the bare machine; 2 or 3 under EPT */
	struct dmt_stage stage[DMT_STAGES];
	struct dmt_entry loaded[DMT_REGISTERS]; /* what software loaded stage 0 with */
	unsigned loads;      /* ... so many */
	/* [gteas], by id - 1, or NULL: identifiers mean nothing, all goes through the next stage */
	const struct dmt_gtea *gtea;
	unsigned gteas;
	/* Compares every translation by registers with the tables. */
	bool audit;
	uint64_t audited, wrong; /* translations compared; those that differ */
	uint64_t wrong_at;   /* ... the address of the first */
};

struct dmt_stats {
	uint64_t lookups;          /* of the register file of a stage */
	uint64_t hits[DMT_STAGES]; /* lookups that found a register, by stage */
	uint64_t misses;           /* walks of linear addresses for which the guest's stage had none */
	uint64_t translations;     /* walks that ended in a translation by registers */
	/* Of linear addresses that a register covers, and of guest-physical ones: made through the tables all the same. */
	uint64_t fallbacks;
	uint64_t reloads, reload_refs; /* loads of stage 0; registers read from memory for them */
	uint64_t reload_hits[4];   /* ... by place */
	uint64_t refused;          /* registers present, but malformed, or not within a gTEA of that identifier */
};

#endif
