/*
 * VT-x: the narrow door.
 *
 * The first half is what software in VMX root operation may do. A hypervisor
 * written in host C reaches the processor through these functions only; they are
 * the semantics of the VMX instructions themselves, with VMXON region and VMCS
 * in machine memory, so that software running on the machine can be given the
 * same instructions. The second half is for the processor's own execute
 * functions: does this instruction or event cause a VM exit?
 *
 * Source: SDM volume 3, "Virtual Machine Control Structures" to "VM Exits".
 */
#ifndef GNOMON_CPU_VMX_H
#define GNOMON_CPU_VMX_H

#include "arch/vmx.h"
#include "cpu/cpu.h"

/* RFLAGS outcome of a VMX instruction (SDM "Conventions", VMsucceed / VMfail). */
enum vmx_result {
	VMX_SUCCEED,
	VMX_FAIL_INVALID,
	VMX_FAIL_VALID, /* error number in VMCS_VM_INSTRUCTION_ERROR */
};

/*
 * What a boot loader does before VMXON: puts the processor into 64-bit mode at CPL 0 with
 * flat segments, a TSS selector, interrupts off, VMX allowed in IA32_FEATURE_CONTROL and CR4.VMXE
 * set, so that VMXON and the host-state checks of VM entry can succeed.
 * @cr3: host-physical address of a PML4 table (never walked if the software in root operation is host C)
 * Leaves general-purpose, FPU and debug-address registers, other MSRs and the local APIC alone.
 * From then on until RESET root operation is the caller's, in host C: cpu_run() returns CPU_RUN_VMEXIT after a VM exit.
 * Without this, root operation is the machine's own software, and cpu_run() goes on there.
 */
void vmx_setup_root(struct cpu *cpu, hpa_t cr3);
/* Selectors that vmx_setup_root() loads: good values for the host-state area. */
#define VMX_ROOT_CS 0x08
#define VMX_ROOT_DS 0x10
#define VMX_ROOT_TR 0x18

/* The exception that VMXON raises in the present state (EXC_UD, EXC_GP), or -1. In VMX operation too. */
int vmx_vmxon_fault(const struct cpu *cpu);
/*
 * VMXON. Where the instruction would fault (vmx_vmxon_fault()) this is VMX_FAIL_INVALID.
 * @region: 4 KiB of machine memory that begin with the revision identifier of IA32_VMX_BASIC
 */
enum vmx_result vmx_vmxon(struct cpu *cpu, hpa_t region);
enum vmx_result vmx_vmxoff(struct cpu *cpu);
/* VMCLEAR, VMPTRLD, VMPTRST of a VMCS region: 4 KiB of machine memory. */
enum vmx_result vmx_vmclear(struct cpu *cpu, hpa_t region);
enum vmx_result vmx_vmptrld(struct cpu *cpu, hpa_t region);
static inline uint64_t vmx_vmptrst(const struct cpu *cpu) { return cpu->vmx.current.v; }
/*
 * VMREAD, VMWRITE of the current VMCS. @field: an encoding, "high" halves of 64-bit fields included.
 * On failure *v and the VMCS are unchanged (but for the VM-instruction error).
 */
enum vmx_result vmx_vmread(struct cpu *cpu, uint32_t field, uint64_t *v);
enum vmx_result vmx_vmwrite(struct cpu *cpu, uint32_t field, uint64_t v);
/* INVEPT and INVVPID with the parts of their descriptors (whose reserved bits the caller has checked). */
enum vmx_result vmx_invept(struct cpu *cpu, uint64_t type, uint64_t eptp);
enum vmx_result vmx_invvpid(struct cpu *cpu, uint64_t type, uint16_t vpid, gva_t addr);

/*
 * VMLAUNCH / VMRESUME. On VMX_SUCCEED the processor is in non-root operation and
 * cpu_run() executes the guest, or the entry itself ended in a VM exit (invalid
 * guest state, or an event whose injection exits): *exited is set, the exit fields
 * say so, and the processor is in root operation again.
 */
enum vmx_result vmx_enter(struct cpu *cpu, bool launch, bool *exited);

/*
 * What VM entry and exit do not switch stays live in the processor's registers in
 * root operation: software saves and loads it itself. (RSP, RIP, CR0, CR3, CR4 are in the VMCS.)
 */
static inline uint64_t *vmx_gprs(struct cpu *cpu) { return cpu->gpr; }
static inline struct fpu *vmx_fpu(struct cpu *cpu) { return &cpu->fpu; }
static inline uint64_t *vmx_cr2(struct cpu *cpu) { return &cpu->cr2; }
static inline uint64_t *vmx_xcr0(struct cpu *cpu) { return &cpu->xcr0; } /* only what XSETBV accepts */
static inline uint32_t *vmx_pkru(struct cpu *cpu) { return &cpu->pkru; }
static inline uint64_t *vmx_dr(struct cpu *cpu, unsigned n) { return &cpu->dr[n]; } /* 0-3 */
static inline uint64_t *vmx_dr6(struct cpu *cpu) { return &cpu->dr6; }
static inline uint64_t *vmx_random(struct cpu *cpu) { return &cpu->rng; } /* where the sequence of RDRAND stands */

/*
 * Direct translation and agile paging. What is set here is in force from the next VM entry on, with EPT, and belongs
 * to the guest: vmx_save_live() and vmx_load_live() switch it. Nothing is invalidated: that is software's business,
 * as after any change of what an address translates to.
 */
/* Host stages in use: 0: none, the tables alone; 2 counting the guest's; 3: two hosts. */
void vmx_set_dmt_stages(struct cpu *cpu, unsigned stages);
/*
 * The @n registers (at most DMT_REGISTERS) of host stage 1 or 2: addresses guest-physical, TEAs of EPT entries by
 * machine address.
 */
void vmx_set_dmt(struct cpu *cpu, unsigned stage, const struct dmt_entry *e, unsigned n);
/*
 * The table of the guest's gTEAs, by identifier - 1; it stays the caller's, who calls again after each change. NULL:
 * none, identifiers in the guest's registers mean nothing. While a gTEA is in it EPT must not deny reading it there
 * (it may have no entry yet).
 */
void vmx_set_gteas(struct cpu *cpu, const struct dmt_gtea *gtea, unsigned n);
/*
 * Agile paging: @root is the machine address of the shadow table of the highest level; with PTE_SWITCH, of the
 * guest's.
 */
void vmx_set_agile(struct cpu *cpu, bool on, uint64_t root);
/* The guest's own registers and MSR_DMT_LOAD, which is live: for who intercepts it. @e: as many as @load says */
void vmx_set_guest_dmt(struct cpu *cpu, uint64_t load, const struct dmt_entry *e);
static inline const struct dmt_entry *vmx_guest_dmt(const struct cpu *cpu) { return cpu->mmu.dmt.loaded; }
static inline uint64_t vmx_guest_dmt_load(const struct cpu *cpu) { return cpu->pv.load; }

/* Counters of the above; software may set them. */
static inline struct vmx_counts *vmx_counts(struct cpu *cpu) { return &cpu->vmx.counts; }

/*
 * All of it that a guest can have changed: what software saves when it gives the processor to another guest.
 * @random: the machine's source of random numbers is a sequence, and a guest that has the processor
 * again is to go on where it was.
 */
struct vmx_live {
	struct fpu fpu;
	uint64_t gpr[16];
	uint64_t cr2, xcr0, dr[4], dr6;
	uint64_t star, lstar, cstar, fmask, kernel_gs_base, tsc_aux;
	uint64_t random;
	uint32_t pkru;
	uint64_t dmt_load;
	struct dmt_entry dmt[DMT_REGISTERS];
	struct vmx_walk walk;
};

static inline void vmx_save_live(const struct cpu *cpu, struct vmx_live *l)
{
	l->fpu = cpu->fpu;
	memcpy(l->gpr, cpu->gpr, sizeof(l->gpr));
	memcpy(l->dr, cpu->dr, sizeof(l->dr));
	l->cr2 = cpu->cr2, l->xcr0 = cpu->xcr0, l->dr6 = cpu->dr6, l->pkru = cpu->pkru;
	l->star = cpu->msr.star, l->lstar = cpu->msr.lstar, l->cstar = cpu->msr.cstar, l->fmask = cpu->msr.fmask;
	l->kernel_gs_base = cpu->msr.kernel_gs_base, l->tsc_aux = cpu->msr.tsc_aux;
	l->random = cpu->rng;
	l->dmt_load = cpu->pv.load;
	memcpy(l->dmt, cpu->mmu.dmt.loaded, sizeof(l->dmt));
	l->walk = cpu->vmx.walk;
}

/* What vmx_set_dmt() and its neighbours set, all at once. */
void vmx_set_walk(struct cpu *cpu, const struct vmx_walk *w);
static inline const struct vmx_walk *vmx_walk(const struct cpu *cpu) { return &cpu->vmx.walk; }

static inline void vmx_load_live(struct cpu *cpu, const struct vmx_live *l)
{
	cpu->fpu = l->fpu;
	memcpy(cpu->gpr, l->gpr, sizeof(l->gpr));
	memcpy(cpu->dr, l->dr, sizeof(l->dr));
	cpu->cr2 = l->cr2, cpu->xcr0 = l->xcr0, cpu->dr6 = l->dr6, cpu->pkru = l->pkru;
	cpu->msr.star = l->star, cpu->msr.lstar = l->lstar, cpu->msr.cstar = l->cstar, cpu->msr.fmask = l->fmask;
	cpu->msr.kernel_gs_base = l->kernel_gs_base, cpu->msr.tsc_aux = l->tsc_aux;
	cpu->rng = l->random;
	vmx_set_walk(cpu, &l->walk);
	vmx_set_guest_dmt(cpu, l->dmt_load, l->dmt);
}

/* The processor's performance counters, saved and loaded with the guest that they count for. */
struct vmx_counters {
	struct mmu_stats mmu;
	struct cpu_stats cpu;
	struct vmx_counts door;
};

static inline void vmx_save_counters(const struct cpu *cpu, struct vmx_counters *c)
{
	c->mmu = cpu->mmu.stats;
	c->cpu = cpu->stats;
	c->door = cpu->vmx.counts;
}

static inline void vmx_load_counters(struct cpu *cpu, const struct vmx_counters *c)
{
	cpu->mmu.stats = c->mmu;
	cpu->stats = c->cpu;
	cpu->vmx.counts = c->door;
}

/* RDMSR of a capability MSR 0x480-0x491. Returns 0, or -1: no such MSR. */
int vmx_read_capability(const struct cpu *cpu, uint32_t msr, uint64_t *v);

/* ---- for the processor itself ---- */

/*
 * Intercept checks. Each returns 0 if execution goes on, or EXEC_STOP with
 * cpu->stop.kind == STOP_VMEXIT and cpu->vmx.exit filled in. All are no-ops
 * outside non-root operation; call them where the manual orders them between
 * the instruction's other checks (SDM "Relative Priority of Faults and VM Exits").
 */
/*
 * Instructions that exit always or under one control bit (found from the reason; INVPCID exits under
 * "INVLPG exiting", RDTSCP under "RDTSC exiting"); @qualification as defined for it.
 */
int vmx_intercept(struct cpu *cpu, const struct uop *u, uint32_t reason, uint64_t qualification);
int vmx_intercept_insn_info(struct cpu *cpu, const struct uop *u, uint32_t reason, uint64_t qualification,
			    uint32_t insn_info);
int vmx_intercept_cr_write(struct cpu *cpu, const struct uop *u, unsigned cr, unsigned gpr, uint64_t value);
int vmx_intercept_cr_read(struct cpu *cpu, const struct uop *u, unsigned cr, unsigned gpr);
int vmx_intercept_clts(struct cpu *cpu, const struct uop *u);
int vmx_intercept_lmsw(struct cpu *cpu, const struct uop *u, uint16_t source, bool mem, uint64_t lin);
int vmx_intercept_dr(struct cpu *cpu, const struct uop *u, unsigned dr, unsigned gpr, bool read);
int vmx_intercept_io(struct cpu *cpu, const struct uop *u, uint16_t port, unsigned bytes, bool in,
		     bool string, bool rep, bool imm, uint64_t lin);
/* VMREAD, VMWRITE in non-root operation: do they exit, by the bitmaps for VMCS shadowing? @field: all of the operand */
bool vmx_field_exits(const struct cpu *cpu, bool write, uint64_t field);
/* If not: they are of the shadow VMCS that the VMCS link pointer names. */
enum vmx_result vmx_shadow_read(struct cpu *cpu, uint32_t field, uint64_t *v);
enum vmx_result vmx_shadow_write(struct cpu *cpu, uint32_t field, uint64_t v);
/* VM function @function with its argument (ECX), in non-root operation. False: the VMFUNC exits, nothing is changed. */
bool vmx_function(struct cpu *cpu, uint32_t function, uint32_t argument);
/* CR8 with the TPR shadow. A write may be followed by a VM exit (vmx_check_windows()). */
uint8_t vmx_virtual_cr8(const struct cpu *cpu);
void vmx_set_virtual_cr8(struct cpu *cpu, uint8_t v);
int vmx_intercept_rdmsr(struct cpu *cpu, const struct uop *u, uint32_t msr);
int vmx_intercept_wrmsr(struct cpu *cpu, const struct uop *u, uint32_t msr);
/*
 * Instruction-information field of an instruction with a memory operand: address size, segment, index,
 * base, scale. Or in registers, identity and operand size yourself (INSN_INFO_*).
 */
uint32_t vmx_insn_info_mem(const struct uop *u);
/* The displacement, as the exit qualification of such instructions has it (for RIP-relative: the address). */
uint64_t vmx_insn_displacement(const struct cpu *cpu, const struct uop *u);
/* CR0/CR4 as a MOV from CR in non-root operation reads them (mask and shadow). */
uint64_t vmx_cr_read_value(const struct cpu *cpu, unsigned cr, uint64_t real);
/* Value that reaches the register when software writes @value (host-owned bits keep). */
uint64_t vmx_cr_write_value(const struct cpu *cpu, unsigned cr, uint64_t old, uint64_t value);
/* Bits of CR0 / CR4 that VMX operation fixes: a MOV to CR that violates them is #GP. */
bool vmx_cr_fixed_ok(const struct cpu *cpu, unsigned cr, uint64_t value);

/*
 * Events. Called before delivery through the IDT, before the event has changed CR2, DR6 or DR7.
 * The event that VM entry injects is let through, and so is an INT n.
 */
int vmx_intercept_exception(struct cpu *cpu, const struct event *ev);
/*
 * Exits if an external interrupt is pending and such are intercepted (RFLAGS.IF does not matter then). If
 * the exit acknowledges it, the vector comes from the local APIC, or was given with cpu_give_extint().
 */
int vmx_intercept_external(struct cpu *cpu);
/* Such an exit waits for the vector of the external controller: CPU_RUN_EXTINT. */
bool vmx_wants_extint(const struct cpu *cpu);
int vmx_intercept_nmi(struct cpu *cpu);
int vmx_exit_triple_fault(struct cpu *cpu);
/* The machine's debugging probe wants the processor (cpu_set_stop()): an external-interrupt exit at this boundary. */
int vmx_exit_probe(struct cpu *cpu);
int vmx_exit_task_switch(struct cpu *cpu, uint64_t qualification, unsigned insn_len);
/*
 * The page fault that translating @lin found. In the shadow part of an agile walk (docs/agile-paging.md) it is a VM
 * exit, whatever the exception bitmap says: no table of the guest's is to blame yet.
 */
int vmx_raise_page_fault(struct cpu *cpu, uint64_t lin, const struct xlate *x);
int vmx_exit_ept(struct cpu *cpu, enum xlate_event ev, const struct xlate *x, uint64_t lin, bool lin_valid);
/*
 * Exits that come between instructions. To be called in non-root operation at every boundary where
 * something may have changed or preemption_deadline is reached, when halted too. Order: INIT, TPR below
 * its threshold, monitor trap, (pending debug trap: returns 0, deliver it), preemption timer, NMI window, NMI, interrupt
 * window, external interrupt.
 * Returns 0 or EXEC_STOP.
 */
int vmx_check_windows(struct cpu *cpu);

/* Delivery of @ev begins / is complete: what an exit in between reports as IDT-vectoring information. */
static inline void vmx_vectoring_begin(struct cpu *cpu, const struct event *ev)
{
	bool error = ev->has_error && cpu->cr0 & CR0_PE; /* real mode has no error codes */

	cpu->vmx.vectoring = true;
	cpu->vmx.vectoring_info = INTR_INFO_VALID | (uint32_t)ev->type << INTR_INFO_TYPE_SHIFT | ev->vector |
				  (error ? INTR_INFO_ERROR : 0);
	cpu->vmx.vectoring_error = error ? ev->error : 0;
	cpu->vmx.vectoring_detect = ev->payload & DR6_BD;
	cpu->vmx.vectoring_insn_len = ev->type >= EVENT_SOFT_INT ? ev->insn_len : 0;
}
static inline void vmx_vectoring_end(struct cpu *cpu) { cpu->vmx.vectoring = false; }

/* Does IRET end blocking by NMI (virtual or not)? With NMI exiting alone it does not. */
static inline bool vmx_iret_unblocks_nmi(const struct cpu *c)
{
	return !c->vmx.nonroot || (c->vmx.pin & (PIN_NMI | PIN_VIRTUAL_NMI)) != PIN_NMI;
}

/* TSC value at which the preemption timer expires; UINT64_MAX: it does not. */
static inline uint64_t vmx_preemption_deadline(const struct cpu *c)
{
	return c->vmx.nonroot && c->vmx.pin & PIN_PREEMPTION_TIMER ? c->vmx.preemption_deadline : UINT64_MAX;
}
/* Do external interrupts cause VM exits now, and are not delivered? */
static inline bool vmx_external_exits(const struct cpu *c)
{
	return c->vmx.nonroot && c->vmx.pin & PIN_EXTERNAL_INTERRUPT;
}

/*
 * Performs the exit in cpu->vmx.exit: saves guest state, loads host state.
 * gpr[REG_RIP] is the RIP to save (of the instruction for fault-like exits, of
 * the next for exits between instructions). After a VMX abort cpu->shutdown is set.
 */
void vmx_do_exit(struct cpu *cpu);
/* Could VM entry have accepted the controls in @x, which are from anywhere? Nothing but numbers is looked at. */
bool vmx_controls_ok(const struct cpu *cpu, const struct vmx_state *x);
/* Is control @bit of the primary / secondary processor-based controls in force (in non-root operation)? */
static inline bool vmx_proc(const struct cpu *c, uint32_t bit)
{
	return c->vmx.nonroot && (c->vmx.proc & bit);
}
static inline bool vmx_proc2(const struct cpu *c, uint32_t bit)
{
	return c->vmx.nonroot && (c->vmx.proc2 & bit);
}
/* RDTSCP and INVPCID are undefined in non-root operation unless their control enables them. */
static inline bool vmx_insn_enabled(const struct cpu *c, uint32_t bit)
{
	return !c->vmx.nonroot || (c->vmx.proc2 & bit);
}

#endif
