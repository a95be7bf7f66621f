/*
 * VMX for a guest that is a hypervisor itself: L0 is this one, L1 the guest, L2 the guest's guest. The story is in
 * docs/nested-vmx.md.
 *
 * L1's VMX is that of the emulator's processor (vm->emul->vmx), whose VMX instructions, VM entry and VM exits are the
 * machine's own code. L1's VMCS lies in L1's memory, in the format that the machine's processor has for it. What is here is
 * how L2 comes to be executed by the machine: by a VMCS of its own, VMCS02, that combines what L1 and L0 want.
 *
 *   nested.c       VMCS02, and going from level to level
 *   nested_exit.c  exits of L2: whose they are
 *   nested_mmu.c   the MMU backend while there is an L2: registers, TLB tags, tables made from L1's EPT
 *   nested_ept.c   L1's EPT, walked by software
 */
#ifndef GNOMON_HV_NESTED_H
#define GNOMON_HV_NESTED_H

#include "hv/ept.h"
#include "hv/hv.h"

#define NESTED_EPTS  4u /* of L1's EPTs, tables are kept for so many */
#define NESTED_VPIDS 8u /* of L1's VPIDs, with tags of their own */

/* EPT02: what L1's EPT and the p2m say together. */
struct nested_ept {
	uint64_t eptp12; /* L1's pointer as VM entry had it */
	bool used;       /* there is one, with tables */
	bool suspect;    /* L1 executed INVEPT: what L2 finds when it is entered is what L1's tables say then */
	uint64_t stamp;  /* larger: used more recently */
	struct ept_tables tables;
};

/* What struct hv_core keeps of the VMCS that is not the current one. */
struct nested_vmcs {
	bool launched, sync_cr3, sync_efer;
	uint32_t proc, entry_ctl;
	uint64_t tsc_offset;
};

struct hv_nested {
	const struct hv_mmu_ops *base; /* the scheme's */
	struct hv_mmu_ops ops;         /* the same with L2 in mind: vm->mmu */
	bool ept;                      /* guests run on EPT, and L1 is offered it */
	struct vmx_limits limits;
	/* VMCS02 */
	hpa_t vmcs, msr_bitmap;
	bool made;
	bool inside;                   /* L2 is the one that runs: VMCS02 is current */
	bool no_memory;                /* for tables that L2 would run on: the VM cannot go on */
	bool crossing;                 /* the registers change because the level did */
	struct nested_vmcs other;
	/* What VMCS01 holds that VMCS02 is made from */
	struct {
		uint32_t proc, proc2, exceptions;
		uint64_t pin, cr0_mask, cr4_mask, eptp, pml;
	} l0;
	struct vmx_walk walk;          /* of L1, while L2 runs */
	/* nested_mmu.c */
	struct nested_ept ept02[NESTED_EPTS];
	struct nested_ept *now;        /* that L2 runs on; NULL: on L1's own */
	uint64_t tables_max;           /* frames for all of them */
	uint16_t vpid[NESTED_VPIDS];   /* L1's, by slot; 0: none */
	unsigned vpid_next, vpid_now;
	uint64_t clock;
	struct obs_levels count;
};

/* A page of L1's EPT, or why there is none. */
struct nested_page {
	uint64_t l1;     /* L1's physical address of what was asked for */
	uint64_t rights; /* EPT_R | ... of all levels */
	unsigned level;
	bool settled;    /* all flags that a read sets are set */
	bool dirty;      /* so is the last entry's dirty flag, or there are none */
};

/* ---- nested.c ---- */

/* Does the vCPU run L2? */
static inline bool hv_nested_inside(const struct hv_vm *vm) { return unlikely(vm->nested != NULL) && vm->nested->inside; }
/* Controls of VMCS02 anew, from VMCS01's and L1's. */
void nested_write_controls(struct hv_vm *vm);

/* ---- nested_ept.c ---- */

/*
 * L1's EPT, asked for L2's physical address @a as the processor would.
 * @need: EPT_VIOL_READ | ...; @table: for an entry of L2's tables; @set: sets accessed and dirty flags, and logs
 * XLATE_OK with *p, or the event with gpa and qualification in *x.
 */
enum xlate_event nested_ept_walk(struct hv_vm *vm, uint64_t a, uint64_t need, bool table, bool set,
				 struct nested_page *p, struct xlate *x);
/* An EPT pointer of L1's other than the one in force; without effects. */
enum xlate_event nested_ept_look(struct hv_vm *vm, uint64_t eptp, uint64_t a, struct nested_page *p);
/*
 * vm->stage2 of a VM whose L1 is offered EPT: L1's EPT as long as L1's processor is in non-root operation with one. That begins
 * within VM entry, which may inject an event.
 */
enum xlate_event nested_stage2(struct hv_vm *vm, uint64_t a, enum access_kind kind, bool table, bool set, uint64_t *out,
			       uint64_t *rights, struct xlate *x);

/* ---- nested_mmu.c ---- */

void nested_mmu_init(struct hv_vm *vm);
void nested_mmu_destroy(struct hv_vm *vm);
/* VM entry to L2: chooses the tag of its translations and the tables it runs on. 0; -ENOMEM. */
int nested_mmu_enter(struct hv_vm *vm);
/* L2 has exited to L1. */
void nested_mmu_leave(struct hv_vm *vm);
/* The tables of L1's EPT pointer that is in force. -ENOMEM. */
int nested_mmu_choose(struct hv_vm *vm);
uint64_t nested_eptp(const struct nested_ept *e);
uint16_t nested_vpid(const struct hv_vm *vm, unsigned slot);
/* L2's own violation of EPT02: fills it, or says with *event what L1 is to be told. */
enum hv_verdict nested_mmu_violation(struct hv_vm *vm, uint64_t a, uint64_t qualification, enum xlate_event *event,
				     struct xlate *x);
/* All that was made from L1's EPTs goes. */
void nested_mmu_drop(struct hv_vm *vm);
/* L1 executed INVEPT, INVVPID. */
void nested_invept(void *ctx, uint64_t type, uint64_t eptp);
void nested_invvpid(void *ctx, uint64_t type, uint16_t vpid, uint64_t lin);

#endif
