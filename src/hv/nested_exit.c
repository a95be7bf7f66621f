/*
 * Exits of L2: whose are they? L0's are those for its own sake: violations of EPT02 or of its own tables that L1's tables do
 * not cause, the end of a stretch of virtual time, windows it asked for. All others come of an instruction or an event:
 * that is given to the emulator's processor, which is in non-root operation by L1's controls, and either does it or exits
 * to L1. So what exits to L1, and what L1 then finds, is decided by the processor's own code.
 *
 * Source: SDM volume 3, "VMX Non-Root Operation".
 */
#include "hv/core.h"
#include "hv/nested.h"

/* ---- reflecting ---- */

static void count_reflected(struct hv_vm *vm, uint32_t reason)
{
	struct obs_levels *count = &vm->nested->count;

	count->reflected++;
	if (reason < OBS_EXIT_REASONS)
		count->reflected_by_reason[reason]++;
}

enum hv_verdict hv_nested_reflect(struct hv_vm *vm)
{
	count_reflected(vm, vm->emul->vmx.exit.reason);
	return hv_emulated_exit(vm);
}

/* The event whose delivery the exit of VMCS02 interrupted, for who is told next. */
static void load_vectoring(struct hv_vm *vm)
{
	struct vmx_state *x = &vm->emul->vmx;
	uint32_t info = (uint32_t)hv_read(vm, VMCS_IDT_VECTORING_INFO);

	x->vectoring = info & INTR_INFO_VALID;
	if (!x->vectoring)
		return;
	x->vectoring_info = info;
	x->vectoring_error = (uint32_t)hv_read(vm, VMCS_IDT_VECTORING_ERROR);
	x->vectoring_insn_len = 0;
	if ((info & INTR_INFO_TYPE) >> INTR_INFO_TYPE_SHIFT >= EVENT_SOFT_INT)
		x->vectoring_insn_len = (uint32_t)hv_read(vm, VMCS_EXIT_INSN_LEN);
}

/* L2's state as the exit left it, in L1's processor. */
static void load_l2(struct hv_vm *vm)
{
	struct cpu *e = vm->emul;

	hv_load_state(vm);
	e->halted = hv_core(vm)->halted;
	e->db_pending = hv_pending_traps(vm);
	load_vectoring(vm);
}

static enum hv_verdict reflect_ept(struct hv_vm *vm, enum xlate_event ev, const struct xlate *x)
{
	uint64_t q = hv_core(vm)->qualification, lin = hv_read(vm, VMCS_GUEST_LINEAR);
	struct cpu *e = vm->emul;

	load_l2(vm);
	e->vmx.nmi_unblocking_iret = q & EPT_VIOL_NMI_UNBLOCK;
	vmx_exit_ept(e, ev, x, lin, q & EPT_VIOL_LINEAR);
	e->vmx.exit.rf = VMX_RF_KEEP; /* the exit that was has seen to it */
	return hv_nested_reflect(vm);
}

/* ---- by reason ---- */

static enum hv_verdict by_l0(struct hv_vm *vm, hv_exit_handler *handler)
{
	hv_take_vectoring(vm);
	return handler(vm);
}

static enum hv_verdict l2_violation(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	enum xlate_event ev;
	enum hv_verdict v;
	struct xlate x = {0};

	if (!vm->nested->now)
		return by_l0(vm, exit_ept_violation);
	v = nested_mmu_violation(vm, hv_read(vm, VMCS_GUEST_PHYSICAL), core->qualification, &ev, &x);
	if (ev)
		return reflect_ept(vm, ev, &x);
	hv_take_vectoring(vm);
	hv_reblock_nmi(vm, core->qualification & EPT_VIOL_NMI_UNBLOCK);
	return v;
}

/* A page fault that exits because L0 has no EPT. If L2's own tables cause it, it is L2's, or L1's if L1 intercepts such. */
static enum hv_verdict page_fault(struct hv_vm *vm, uint32_t info, uint32_t error)
{
	struct event ev = {.vector = EXC_PF, .type = EVENT_HW_EXCEPTION, .has_error = true};
	enum hv_verdict v;

	hv_take_vectoring(vm);
	v = vm->mmu->page_fault(vm, hv_core(vm)->qualification, error);
	if (v != HV_REFLECT) {
		hv_reblock_nmi(vm, info & INTR_INFO_NMI_UNBLOCK);
		return v;
	}
	/* What was being delivered when it came is delivered again, and meets it again. */
	if (hv_core(vm)->vectoring.info)
		return hv_emulate_delivery(vm);
	ev.error = vm->fault.error;
	ev.payload = vm->fault.address;
	return hv_deliver(vm, &ev, info & INTR_INFO_NMI_UNBLOCK);
}

/* L1 asked for it, or it would not have exited. */
static enum hv_verdict exception(struct hv_vm *vm)
{
	uint32_t info = (uint32_t)hv_read(vm, VMCS_EXIT_INTR_INFO);
	uint32_t error = info & INTR_INFO_ERROR ? (uint32_t)hv_read(vm, VMCS_EXIT_INTR_ERROR) : 0;
	struct event ev = {.vector = (uint8_t)info, .type = (uint8_t)((info & INTR_INFO_TYPE) >> INTR_INFO_TYPE_SHIFT),
			   .has_error = info & INTR_INFO_ERROR, .error = error,
			   .payload = hv_core(vm)->qualification};

	if (ev.type == EVENT_NMI)
		return by_l0(vm, exit_exception);
	if (ev.vector == EXC_PF && ev.type == EVENT_HW_EXCEPTION && !vm->nested->ept)
		return page_fault(vm, info, error);
	ev.insn_len = (uint8_t)hv_read(vm, VMCS_EXIT_INSN_LEN);
	load_l2(vm);
	vm->emul->vmx.nmi_unblocking_iret = info & INTR_INFO_NMI_UNBLOCK;
	if (vmx_intercept_exception(vm->emul, &ev))
		return hv_nested_reflect(vm);
	vm->emul->vmx.vectoring = false;
	hv_take_vectoring(vm);
	return hv_core(vm)->vectoring.info ? hv_emulate_delivery(vm) : hv_deliver(vm, &ev, info & INTR_INFO_NMI_UNBLOCK);
}

static enum hv_verdict triple_fault(struct hv_vm *vm)
{
	load_l2(vm);
	vmx_exit_triple_fault(vm->emul);
	return hv_nested_reflect(vm);
}

/* Taken at the boundary that comes now. */
static enum hv_verdict monitor_trap(struct hv_vm *vm)
{
	vm->emul->vmx.mtf_pending = true;
	return HV_RESUME;
}

/* The emulator has no TLB: what INVLPG and INVPCID of L2's drop is the backend's business, if L1 leaves them to L2. */
static enum hv_verdict invalidation(struct hv_vm *vm, uint32_t reason)
{
	if (vm->emul->vmx.proc & PROC_INVLPG)
		return HV_EMULATE;
	return by_l0(vm, reason == EXIT_REASON_INVLPG ? exit_invlpg : exit_invpcid);
}

static enum hv_verdict control_register(struct hv_vm *vm)
{
	uint64_t q = hv_core(vm)->qualification;

	hv_core(vm)->cr3_written = (q & 15) == 3 && (q >> CR_QUAL_TYPE_SHIFT & 3) == CR_QUAL_MOV_TO;
	return HV_EMULATE;
}

enum hv_verdict hv_nested_handle(struct hv_vm *vm, uint32_t reason)
{
	struct obs_levels *count = &vm->nested->count;

	hv_core(vm)->vectoring = (struct hv_event){0}; /* of an earlier exit; who cares for this one's takes it */
	count->exits++;
	if (reason < OBS_EXIT_REASONS)
		count->by_reason[reason]++;
	switch (reason) {
	case EXIT_REASON_EXCEPTION_NMI: return exception(vm);
	case EXIT_REASON_TRIPLE_FAULT: return triple_fault(vm);
	case EXIT_REASON_MONITOR_TRAP: return monitor_trap(vm);
	case EXIT_REASON_EPT_VIOLATION: return l2_violation(vm);
	case EXIT_REASON_EXTERNAL_INTERRUPT:
	case EXIT_REASON_INTERRUPT_WINDOW:
	case EXIT_REASON_NMI_WINDOW:
	case EXIT_REASON_PREEMPTION_TIMER:
	case EXIT_REASON_PML_FULL:
	case EXIT_REASON_TASK_SWITCH:
	case EXIT_REASON_EPT_MISCONFIG: return by_l0(vm, hv_exit_handlers[reason]);
	case EXIT_REASON_INVLPG:
	case EXIT_REASON_INVPCID: return invalidation(vm, reason);
	case EXIT_REASON_CR_ACCESS: return control_register(vm);
	default: return HV_EMULATE;
	}
}

/* ---- between instructions ---- */

static bool lapic_asks(const struct hv_vm *vm)
{
	const struct hv_core *core = hv_core(vm);

	return core->extint_given || (core->extint && lapic_accepts_extint(&vm->emul->lapic)) ||
	       lapic_pending(&vm->emul->lapic) >= 0;
}

/* May L1's processor find something at this boundary that exits? */
static bool may_exit(struct hv_vm *vm)
{
	const struct vmx_state *x = &vm->emul->vmx;
	uint64_t blocking;

	if (x->mtf_pending || vm->emul->init_pending || vm->emul->lapic.init || hv_guest_tsc(vm) >= hv_nested_deadline(vm))
		return true;
	if (x->pin & PIN_NMI && hv_wants_nmi(vm))
		return true;
	if (x->pin & PIN_EXTERNAL_INTERRUPT && lapic_asks(vm))
		return true;
	if (!hv_nested_windows(vm))
		return false;
	blocking = hv_read(vm, VMCS_GUEST_INTERRUPTIBILITY);
	if (blocking & (INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOVSS))
		return false;
	return (x->proc & PROC_INTERRUPT_WINDOW && hv_read(vm, VMCS_GUEST_RFLAGS) & RF_IF) ||
	       (x->proc & PROC_NMI_WINDOW && !(blocking & INTERRUPTIBILITY_NMI));
}

enum hv_boundary hv_nested_boundary(struct hv_vm *vm, enum hv_verdict *v)
{
	struct hv_core *core = hv_core(vm);
	struct cpu *e = vm->emul;
	bool exits, needs_vector;

	if (!hv_nested_inside(vm) || core->inject.info)
		return HV_BOUNDARY_QUIET;
	if (vm->nested->no_memory) {
		*v = hv_fail(vm, "EPT: no memory for the inner guest's tables");
		return HV_BOUNDARY_EXITED;
	}
	if (!may_exit(vm))
		return HV_BOUNDARY_QUIET;
	load_l2(vm);
	e->vmx.vectoring = false;
	e->nmi_pending = core->nmi_pending;
	e->extint = core->extint;
	e->extint_ack = core->extint_given;
	e->extint_vector = core->extint_vector;
	exits = vmx_check_windows(e);
	needs_vector = !exits && vmx_wants_extint(e);
	core->nmi_pending = e->nmi_pending;
	core->extint_given = e->extint_ack;
	e->nmi_pending = e->extint = e->extint_ack = false;
	e->stop = (struct stop){0};
	if (!exits)
		return needs_vector ? HV_BOUNDARY_VECTOR : HV_BOUNDARY_QUIET;
	*v = hv_nested_reflect(vm);
	return HV_BOUNDARY_EXITED;
}
