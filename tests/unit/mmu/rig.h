/*
 * A rig for tests of the translation hardware: machine memory, tables built by hand, and
 * questions asked through mmu_translate() and the counters only, so that tests know
 * nothing of how the hardware is written.
 *
 * Tables stand below 16 MiB of machine (and guest-physical) memory; there are 2 GiB of it.
 */
#ifndef GNOMON_TESTS_MMU_RIG_H
#define GNOMON_TESTS_MMU_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "arch/vmx.h"
#include "arch/x86.h"
#include "mmu/mmu.h"

#define RIG_MEMORY (2ull << 30)
#define RIG_TABLES (16ull << 20) /* tables are below, pages from here on */
#define RIG_LEAF   (PTE_P | PTE_W | PTE_U | PTE_A | PTE_D)

struct rig {
	struct machmem mem;
	struct mmu mmu;
	uint64_t next;         /* the next table */
	struct mmu_stats last; /* counters when they were last looked at */
};

/* How a translation was come by. */
enum rig_from { FROM_L1, FROM_L2, FROM_TABLES };

/* Hardware with nothing in it; tests add what they are about. */
struct hw rig_hw(void);
struct hw_array rig_array(uint32_t entries, uint32_t ways);
/* Adds an array to the TLB. */
void rig_tlb(struct hw_tlb *t, uint8_t pages, uint32_t entries, uint32_t ways);
/* Room enough for 4 KiB, 2 MiB and 1 GiB pages at the first level: nothing is ever pushed out. */
void rig_roomy(struct hw *hw);

/* A machine with that hardware, 4-level paging, an empty root table, no EPT. */
void rig_begin(struct rig *r, const struct hw *hw);
void rig_end(struct rig *r);

uint64_t rig_new_table(struct rig *r);
uint64_t rig_get(const struct rig *r, uint64_t at);
void rig_put(struct rig *r, uint64_t at, uint64_t entry);

/* Registers, one change at a time. */
void rig_set_cr3(struct rig *r, uint64_t cr3);
void rig_set_pcid(struct rig *r, unsigned pcid); /* turns CR4.PCIDE on */
void rig_set_vpid(struct rig *r, uint16_t vpid);
void rig_set_ept(struct rig *r, uint64_t eptp); /* 0: none */
enum rig_paging { RIG_UNPAGED, RIG_32BIT, RIG_PAE, RIG_4LEVEL, RIG_5LEVEL };
/* Another paging mode with empty tables. */
void rig_set_paging(struct rig *r, enum rig_paging p);

/*
 * Maps @lin in the current tables by an entry whose page has 2^shift bytes; tables are made as
 * needed, accessed and writable and user's. Returns where the entry stands.
 */
uint64_t rig_map(struct rig *r, uint64_t lin, unsigned shift, uint64_t leaf);
/* Where the entry of @level on the way to @lin stands. */
uint64_t rig_entry(const struct rig *r, uint64_t lin, unsigned level);

/*
 * An EPT of the identity: everything in pages of 2^shift bytes, or with 12 the first 64 MiB.
 * Returns the EPTP.
 */
uint64_t rig_ept(struct rig *r, unsigned shift, unsigned levels);
/* Maps guest-physical @gpa there; returns where the entry stands. */
uint64_t rig_ept_map(struct rig *r, uint64_t eptp, uint64_t gpa, unsigned shift, uint64_t leaf);
#define RIG_EPT_LEAF (7 | EPT_MT_WB << EPT_MT_SHIFT)

/* What the counters have gone up by since this was last asked. */
struct mmu_stats rig_counted(struct rig *r);

/* A supervisor's access that has to succeed: the page it comes to. */
uint64_t rig_page(struct rig *r, uint64_t lin, enum access_kind kind);
/* The same, and where from. */
enum rig_from rig_access(struct rig *r, uint64_t lin, enum access_kind kind);
enum rig_from rig_read(struct rig *r, uint64_t lin);
/* The same: how many references the walk made; 0 if there was none. */
uint64_t rig_refs(struct rig *r, uint64_t lin);
/* Any access. */
enum xlate_event rig_try(struct rig *r, uint64_t lin, enum access_kind kind, enum access_mode mode, struct xlate *x);

#endif
