/*
 * What a run would have cost on the processor of a hardware description, in
 * cycles: an account beside the run, never a clock of the guest. Linear in exact
 * counts, so the same run has the same cost whatever the host does, and the parts
 * add up to the total. What is charged for what, and what is left out:
 * docs/COST-MODEL.md.
 */
#ifndef GNOMON_LAB_COST_H
#define GNOMON_LAB_COST_H

#include "base/obs.h"
#include "mmu/hw.h"

/* Cycles, by part. */
struct cost {
	double instructions;
	/* translation */
	double l2_tlb;       /* first-level misses that hit in the second level */
	double walks;        /* beginning walks */
	double references;   /* reading paging-structure entries, by where they hit */
	double walk_caches;  /* hits in walk caches and nested TLB */
	double registers;    /* direct translation: lookups of registers, and reading them from memory */
	/* what programs have natively too */
	double data;         /* data accesses beyond L1, with the data cache modelled */
	double events;       /* exceptions and interrupts through the IDT */
	/* the hypervisor */
	double exits, entries;
	double dispatch;     /* finding the handler of an exit */
	double vmcs;         /* VMREAD, VMWRITE */
	double invalidations; /* INVEPT, INVVPID */
	double emulation;    /* instructions emulated */
	double tables;       /* entries of guest, shadow and EPT tables read and written */

	double total;        /* of all above */
	double translation, hypervisor; /* of the groups above */
};

/* Latency of a reference that hits at @place. */
uint32_t cost_latency(const struct hw *hw, enum hw_place place);
/* @insns: guest instructions completed */
void cost_account(const struct hw *hw, const struct obs *obs, uint64_t insns, struct cost *out);

#endif
