/*
 * A machine for the operating-system model's events that believes none of them: it has the memory that they write,
 * walks the tables that it finds there, has a TLB that forgets nothing unless told to, registers of DMT that are read
 * from memory when they are loaded, and a host that answers requests there. What is given to it as possible must be,
 * and what is given as a fault must be one; a stale TLB entry, a register that says something else than the walk, or
 * a store to another place than it says, is an error.
 */
#ifndef GNOMON_TESTS_OS_RIG_H
#define GNOMON_TESTS_OS_RIG_H

#include "arch/dmt.h"
#include "trace/os_model.h"

#define RIG_TLB  4096u
#define RIG_SEEN 8192u

struct rig_entry {
	bool valid, write, exec;
	unsigned pcid, shift;
	uint64_t vpn, frame; /* of 4 KiB */
};

struct os_rig {
	struct osm *osm;
	uint8_t *mem;
	uint64_t span;
	uint64_t cr3, cr4, efer;
	struct rig_entry tlb[RIG_TLB];
	struct dmt_entry reg[DMT_REGISTERS];
	unsigned regs;
	struct pv_state pv;
	uint64_t seen[RIG_SEEN]; /* user pages that were accessed, some of them */
	/* what came */
	uint64_t events, accesses, faults, stores, insns, cr3_loads, flushing_loads, invlpgs, reg_loads, requests;
	uint64_t dmt_hits, dmt_2m_hits, dmt_misses; /* accesses of users that a register knew; that none did */
};

/* The model on a machine of its own. 0, or what osm_create() returned. */
int rig_init(struct os_rig *r, const struct osm_config *cfg, struct error *err);
void rig_destroy(struct os_rig *r);

/*
 * Gives the model an event, and has everything given out that it is held back for. Errors: the model's, and the
 * rig's.
 */
int rig_put(struct os_rig *r, struct trace_event ev, struct error *err);

/* By the tables in memory and the current CR3: the guest-physical address; UINT64_MAX: none. *shift: of the page. */
uint64_t rig_walk(struct os_rig *r, uint64_t va, unsigned *shift);

/* Do the model's books say the same as memory, for all pages seen? @space: is current. 0, or -EINVAL. */
int rig_compare(struct os_rig *r, uint64_t space, struct error *err);

/* Events. An access is the kernel's own, so that it needs no code beside what it accesses. */
struct trace_event rig_access(unsigned kind, uint64_t addr, unsigned size);
struct trace_event rig_map(uint64_t addr, uint64_t bytes, unsigned flags);
struct trace_event rig_event(unsigned kind, uint64_t addr, uint64_t value);

#endif
