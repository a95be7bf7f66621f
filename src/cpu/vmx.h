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
enum vmx_result { VMX_SUCCEED, VMX_FAIL_INVALID, VMX_FAIL_VALID /* error number in VMCS_VM_INSTRUCTION_ERROR */ };

enum vmx_result vmx_vmxon(struct cpu *cpu, hpa_t region);
enum vmx_result vmx_vmxoff(struct cpu *cpu);
enum vmx_result vmx_vmclear(struct cpu *cpu, hpa_t region);
enum vmx_result vmx_vmptrld(struct cpu *cpu, hpa_t region);
enum vmx_result vmx_vmread(struct cpu *cpu, uint32_t field, uint64_t *v);
enum vmx_result vmx_vmwrite(struct cpu *cpu, uint32_t field, uint64_t v);
enum vmx_result vmx_invept(struct cpu *cpu, uint64_t type, uint64_t eptp);
enum vmx_result vmx_invvpid(struct cpu *cpu, uint64_t type, uint16_t vpid, gva_t addr);

/*
 * VMLAUNCH / VMRESUME. On VMX_SUCCEED the processor is in non-root operation and
 * cpu_run() executes the guest, or the entry itself ended in a VM exit (invalid
 * guest state: *exited is set and the exit fields say so).
 */
enum vmx_result vmx_enter(struct cpu *cpu, bool launch, bool *exited);

/* What is live in registers in root operation after an exit: software must save it itself. */
static inline uint64_t *vmx_gprs(struct cpu *cpu) { return cpu->gpr; } /* RSP and RIP are in the VMCS */
static inline struct fpu *vmx_fpu(struct cpu *cpu) { return &cpu->fpu; }

/* RDMSR of a capability MSR 0x480-0x491. Returns 0, or -1: no such MSR. */
int vmx_read_capability(const struct cpu *cpu, uint32_t msr, uint64_t *v);

/* ---- for the processor itself ---- */

/*
 * Intercept checks. Each returns 0 if execution goes on, or EXEC_STOP with
 * cpu->stop.kind == STOP_VMEXIT and cpu->vmx.exit filled in. All are no-ops
 * outside non-root operation; call them where the manual orders them between
 * the instruction's other checks (SDM "Relative Priority of Faults and VM Exits").
 */
/* Instructions that exit always or under one control bit; @qualification as defined for it. */
int vmx_intercept(struct cpu *cpu, const struct uop *u, uint32_t reason, uint64_t qualification);
int vmx_intercept_insn_info(struct cpu *cpu, const struct uop *u, uint32_t reason, uint64_t qualification,
			    uint32_t insn_info);
int vmx_intercept_cr_write(struct cpu *cpu, const struct uop *u, unsigned cr, unsigned gpr, uint64_t value);
int vmx_intercept_cr_read(struct cpu *cpu, const struct uop *u, unsigned cr, unsigned gpr);
int vmx_intercept_clts(struct cpu *cpu, const struct uop *u);
int vmx_intercept_lmsw(struct cpu *cpu, const struct uop *u, uint16_t source, bool mem, uint64_t lin);
int vmx_intercept_dr(struct cpu *cpu, const struct uop *u, unsigned dr, unsigned gpr, bool read);
int vmx_intercept_io(struct cpu *cpu, const struct uop *u, uint16_t port, unsigned bytes, bool in, bool string,
		     bool rep, bool imm, uint64_t lin);
int vmx_intercept_rdmsr(struct cpu *cpu, const struct uop *u, uint32_t msr);
int vmx_intercept_wrmsr(struct cpu *cpu, const struct uop *u, uint32_t msr);
/* CR0/CR4 as a MOV from CR in non-root operation reads them (mask and shadow). */
uint64_t vmx_cr_read_value(const struct cpu *cpu, unsigned cr, uint64_t real);
/* Value that reaches the register when software writes @value (host-owned bits keep). */
uint64_t vmx_cr_write_value(const struct cpu *cpu, unsigned cr, uint64_t old, uint64_t value);
/* Bits of CR0 / CR4 that VMX operation fixes: a MOV to CR that violates them is #GP. */
bool vmx_cr_fixed_ok(const struct cpu *cpu, unsigned cr, uint64_t value);

/* Events. Called before delivery through the IDT. */
int vmx_intercept_exception(struct cpu *cpu, const struct event *ev);
int vmx_intercept_external(struct cpu *cpu);      /* external interrupt pending and deliverable */
int vmx_intercept_nmi(struct cpu *cpu);
int vmx_exit_triple_fault(struct cpu *cpu);
int vmx_exit_task_switch(struct cpu *cpu, uint64_t qualification, unsigned insn_len);
int vmx_exit_ept(struct cpu *cpu, enum xlate_event ev, const struct xlate *x, uint64_t lin, bool lin_valid);
/* Exits that the run loop asks for between instructions: windows, preemption timer, monitor trap. 0 or EXEC_STOP. */
int vmx_check_windows(struct cpu *cpu);

/*
 * Performs the exit in cpu->vmx.exit: saves guest state, loads host state.
 * gpr[REG_RIP] is the RIP to save (of the instruction for fault-like exits).
 */
void vmx_do_exit(struct cpu *cpu);
/* Is control @bit of the primary / secondary processor-based controls in force (in non-root operation)? */
static inline bool vmx_proc(const struct cpu *c, uint32_t bit) { return c->vmx.nonroot && (c->vmx.proc & bit); }
static inline bool vmx_proc2(const struct cpu *c, uint32_t bit) { return c->vmx.nonroot && (c->vmx.proc2 & bit); }

#endif
