/*
 * The translation hardware of one processor as data: TLBs, paging-structure
 * caches, nested TLB, the cache hierarchy that page-table references (and, on
 * request, data) go through, and what things cost in cycles. A description is a
 * text file (docs/FORMATS.md, "Hardware description"); the built-in ones are
 * such files too, in mmu/hw/.
 *
 * It says nothing about what software can see: CPUID, the instruction set and
 * virtual time do not depend on it, so that a guest runs the same on all.
 */
#ifndef GNOMON_MMU_HW_H
#define GNOMON_MMU_HW_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

/* Page sizes an array may hold, as bits. */
enum hw_page { HW_4K = 1, HW_2M = 2, HW_1G = 4 };
#define HW_PAGES 3

/* A set-associative array with true LRU replacement. entries == 0: there is none. */
struct hw_array {
	uint32_t entries; /* sets * ways */
	uint32_t ways;    /* sets = entries / ways is a power of two */
	uint8_t pages;    /* TLBs: HW_4K | ... that it holds; 0 for other structures */
};
#define HW_ENTRIES_MAX 65536u

static inline uint32_t hw_array_sets(const struct hw_array *a) { return a->entries ? a->entries / a->ways : 0; }

/* One TLB: a page size is held by at most one of its arrays. */
#define HW_ARRAYS_MAX 3
struct hw_tlb {
	unsigned arrays;
	struct hw_array array[HW_ARRAYS_MAX];
};

/* Levels are numbered as the SDM's tables are nested: 1 = PTE, 2 = PDE, 3 = PDPTE, 4 = PML4E, 5 = PML5E. */
#define HW_LEVELS 6 /* index by level; [0] and [1] unused */

enum hw_walk_caches {
	HW_WALK_NONE,
	/*
	 * Intel's: one translation cache per level, tagged by address prefix; a hit names the next table, and
	 * the walk goes on there. guest[] is tagged by linear address, host[] by guest-physical address.
	 */
	HW_WALK_SPLIT,
	/*
	 * AMD's: one page-table cache tagged by the machine address of an entry; a hit saves the reference to that
	 * entry, and every level is still gone through.
	 */
	HW_WALK_UNIFIED,
};

struct hw_cache {
	uint64_t bytes;  /* 0: none */
	uint32_t ways;
	uint32_t latency; /* cycles of a hit */
};
/* Where a reference can hit. */
enum hw_place { HW_L1, HW_L2, HW_LLC, HW_MEMORY, HW_PLACES };

#define HW_EXIT_REASONS 70 /* basic VM-exit reasons, as in base/obs.h */

#define HW_REGISTER_LOOKUP 1u /* assumed: as a small walk cache */

/* Cycles. What each is charged for: docs/COST-MODEL.md. */
struct hw_cost {
	double instruction;      /* an instruction, its operands in L1 and translated by the first-level TLB */
	uint32_t l2_tlb_hit;     /* a translation found in the second-level TLB only */
	uint32_t l2_tlb_miss;    /* beginning a walk, beside its references */
	uint32_t walk_cache_hit; /* a walk-cache lookup that hit */
	uint32_t nested_tlb_hit;
	/* Direct translation: a lookup of the registers of one stage, all at once. If not said: HW_REGISTER_LOOKUP. */
	uint32_t register_lookup;
	uint32_t exit[HW_EXIT_REASONS]; /* the transition out, by basic reason */
	uint32_t entry;          /* VM entry */
	uint32_t dispatch;       /* software of every exit: registers saved and loaded, the handler found */
	uint32_t vmread, vmwrite, invept, invvpid;
	uint32_t emulated_insn;  /* decoding and executing one guest instruction in software */
	uint32_t table_read, table_write; /* software reads / writes one entry of a guest, shadow or EPT table */
	uint32_t page_fault;     /* delivering an exception or interrupt through the IDT, by hardware */
};

struct hw {
	char name[32];
	char title[96];
	struct hw_tlb l1d, l1i;
	bool l2_split;           /* l2i serves fetches and l2d data; otherwise l2d serves both */
	struct hw_tlb l2d, l2i;
	enum hw_walk_caches walk_caches;
	struct hw_array guest[HW_LEVELS], host[HW_LEVELS]; /* HW_WALK_SPLIT, levels 2 to 5 */
	struct hw_array unified;                           /* HW_WALK_UNIFIED */
	bool unified_guest, unified_host, unified_host_leaf; /* entries it holds; never a guest's leaf */
	struct hw_array nested_tlb; /* guest-physical page of a guest table -> machine page; any organisation */
	uint32_t line;           /* bytes of a cache line */
	struct hw_cache cache[HW_MEMORY]; /* by enum hw_place */
	uint32_t memory_latency;
	struct hw_cost cost;
};

/*
 * Loads a built-in description by name ("skylake") or, if there is none of that name, the file of that path.
 * -EINVAL: the description is refused; @err says file, line and why. -ENOENT ... : the file cannot be read.
 * *hw is unchanged on error.
 */
int hw_load(struct hw *hw, const char *name_or_path, struct error *err);
/* The same of text in memory; @origin is what errors call it. */
int hw_parse(struct hw *hw, const char *text, size_t bytes, const char *origin, struct error *err);
/* The description that is used if none is asked for: "skylake". Cannot fail. */
void hw_default(struct hw *hw);

struct hw_builtin {
	const char *name;
	const char *text; /* as in its file; ends with a NUL */
};
extern const struct hw_builtin hw_builtins[]; /* ends with a NULL name */

#endif
