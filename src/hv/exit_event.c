/*
 * Events: exceptions the guest raised and the hypervisor intercepted, what the
 * hypervisor injects, interrupt and NMI windows, events whose delivery an exit
 * interrupted.
 *
 * What is taken at an instruction boundary, and in which order, is what the bare
 * machine does (SDM "Prioritization of Concurrent Events"): debug traps, NMI,
 * then external interrupts; otherwise the two could not execute the same stream.
 */
#include "hv/core.h"

#define VALID_EVENT(type, vector) (INTR_INFO_VALID | (uint32_t)(type) << INTR_INFO_TYPE_SHIFT | (vector))
#define BLOCKS_INTERRUPTS         (INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOVSS)

static unsigned event_type(uint32_t info) { return (info & INTR_INFO_TYPE) >> INTR_INFO_TYPE_SHIFT; }

static void set_nmi_blocking(struct hv_vm *vm, bool blocked)
{
	uint64_t v = hv_read(vm, VMCS_GUEST_INTERRUPTIBILITY) & ~(uint64_t)INTERRUPTIBILITY_NMI;

	hv_write(vm, VMCS_GUEST_INTERRUPTIBILITY, v | (blocked ? INTERRUPTIBILITY_NMI : 0));
}

/* ---- what an exit interrupted ---- */

static void set_rf(struct hv_vm *vm, bool rf)
{
	uint64_t rflags = hv_read(vm, VMCS_GUEST_RFLAGS) & ~RF_RF;

	hv_write(vm, VMCS_GUEST_RFLAGS, rflags | (rf ? RF_RF : 0));
}

/* What the instruction at RIP is, as far as RF asks. */
enum at_rip { AT_OTHER, AT_REPEAT /* a string instruction with REP */, AT_MOV_DR };

static enum at_rip at_rip(struct hv_vm *vm)
{
	uint64_t ar = hv_read(vm, VMCS_GUEST_CS_AR), lin = hv_read(vm, VMCS_GUEST_RIP);
	bool code64 = ar & SEG_AR_L && hv_core(vm)->entry_ctl & ENTRY_IA32E, rep = false, escape = false;

	if (!code64)
		lin += hv_read(vm, VMCS_GUEST_CS_BASE);
	hv_sync_guest(vm);
	for (unsigned i = 0; i < 15; i++) {
		struct guest_walk w;
		const uint8_t *p;
		uint8_t b;

		guest_walk(vm, code64 ? lin + i : (uint32_t)(lin + i), ACCESS_FETCH, hv_access_mode(vm), false, &w);
		p = w.ok ? p2m_ptr(vm, w.gpa) : NULL;
		if (!p)
			return AT_OTHER;
		b = *p;
		if (escape)
			return (b & 0xfd) == 0x21 ? AT_MOV_DR : AT_OTHER;
		if ((b & 0xfe) == 0xf2)
			rep = true;
		else if (b == 0x0f)
			escape = true;
		else if ((b & 0xfc) == 0x6c || (b & 0xfc) == 0xa4 || (b & 0xfe) == 0xaa || (b & 0xfc) == 0xac)
			return rep ? AT_REPEAT : AT_OTHER;
		else if ((b & 0xe7) != 0x26 && (b & 0xfc) != 0x64 && b != 0xf0 && !(code64 && (b & 0xf0) == 0x40))
			return AT_OTHER;
	}
	return AT_OTHER;
}

/* Would a #DB that the processor itself came to deliver have pushed RF set? */
static bool pushes_rf(struct hv_vm *vm)
{
	const struct hv_core *core = hv_core(vm);
	enum at_rip at = at_rip(vm);

	if (at == AT_REPEAT)
		return hv_read(vm, VMCS_GUEST_RIP) == core->entered_rip;
	/* DR6.BD may be an old one: under TF a single step came here unless GD was set. */
	return at == AT_MOV_DR && *vmx_dr6(vm->cpu) & DR6_BD &&
	       (core->entered_gd || !(hv_read(vm, VMCS_GUEST_RFLAGS) & RF_TF));
}

/*
 * The exit was for an exception that the delivery of the event in @info caused:
 * RF was saved as that exception would have pushed it, set. Faults push it so too.
 * What came with VM entry found RF as it was then; a trap or interrupt after an
 * instruction found it clear, and set between the iterations of a REP instruction;
 * #DB for MOV DR under DR7.GD is a fault. Nothing tells of RF set by an IRET under TF.
 */
static void restore_rf(struct hv_vm *vm, uint32_t info)
{
	const struct hv_core *core = hv_core(vm);
	bool exception = event_type(info) == EVENT_HW_EXCEPTION;
	uint32_t vector = info & INTR_INFO_VECTOR;

	if (exception && vector == EXC_DF)
		set_rf(vm, false);
	if (exception && vector != EXC_DB)
		return;
	if (core->entered_event && hv_insns(vm) == core->entered_insns)
		set_rf(vm, core->entered_rf);
	else
		set_rf(vm, pushes_rf(vm));
}

void hv_take_vectoring(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	uint32_t info = (uint32_t)hv_read(vm, VMCS_IDT_VECTORING_INFO);

	core->vectoring = (struct hv_event){0};
	if (!(info & INTR_INFO_VALID))
		return;
	core->vectoring.info = info & (INTR_INFO_VALID | INTR_INFO_ERROR | INTR_INFO_TYPE | INTR_INFO_VECTOR);
	if (info & INTR_INFO_ERROR)
		core->vectoring.error = (uint32_t)hv_read(vm, VMCS_IDT_VECTORING_ERROR);
	if (event_type(info) >= EVENT_SOFT_INT)
		core->vectoring.insn_len = (uint32_t)hv_read(vm, VMCS_EXIT_INSN_LEN);
	core->inject = core->vectoring;
	if (core->exit_reason == EXIT_REASON_EXCEPTION_NMI)
		restore_rf(vm, info);
	if (event_type(info) == EVENT_NMI)
		set_nmi_blocking(vm, false); /* injecting it will block again */
}

/* ---- exceptions ---- */

enum exc_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum exc_class classify(uint32_t info)
{
	if (event_type(info) != EVENT_HW_EXCEPTION)
		return BENIGN;
	switch (info & INTR_INFO_VECTOR) {
	case EXC_DE: case EXC_TS: case EXC_NP: case EXC_SS: case EXC_GP:
		return CONTRIBUTORY;
	case EXC_PF:
		return PAGE_FAULT;
	case EXC_DF:
		return DOUBLE_FAULT;
	default:
		return BENIGN;
	}
}

/* As the bare machine has it: RF as if no fault had been on its way. */
void hv_shut_down(struct hv_vm *vm)
{
	hv_core(vm)->shutdown = true;
	hv_write(vm, VMCS_GUEST_RFLAGS, hv_read(vm, VMCS_GUEST_RFLAGS) & ~RF_RF);
}

/* SDM "Interrupt 8—Double Fault Exception": what comes of a fault during the delivery of another event. */
static void combine(struct hv_vm *vm, struct hv_event *second)
{
	struct hv_core *core = hv_core(vm);
	enum exc_class a = classify(core->inject.info), b = classify(second->info);

	if (event_type(core->inject.info) == EVENT_NMI)
		set_nmi_blocking(vm, true); /* the NMI itself is gone, its blocking is not */
	if (a == BENIGN || b == BENIGN || (a == CONTRIBUTORY && b == PAGE_FAULT))
		return;
	if (a == DOUBLE_FAULT) {
		hv_shut_down(vm);
		*second = (struct hv_event){0};
		return;
	}
	*second = (struct hv_event){.info = VALID_EVENT(EVENT_HW_EXCEPTION, EXC_DF) | INTR_INFO_ERROR};
}

void hv_inject_exception(struct hv_vm *vm, uint8_t vector, bool has_error, uint32_t error)
{
	struct hv_core *core = hv_core(vm);
	struct hv_event ev = {.info = VALID_EVENT(EVENT_HW_EXCEPTION, vector), .error = error};
	uint64_t rflags = hv_read(vm, VMCS_GUEST_RFLAGS);

	/* Real mode pushes no error codes, and VM entry insists on that. */
	if (has_error && hv_read(vm, VMCS_GUEST_CR0) & CR0_PE)
		ev.info |= INTR_INFO_ERROR;
	if (core->inject.info)
		combine(vm, &ev);
	core->inject = ev;
	if (core->shutdown)
		return;
	/* A fault pushes RF set, a double fault clear; VM entry pushes what it finds. */
	if (!(rflags & RF_RF) != ((ev.info & INTR_INFO_VECTOR) == EXC_DF))
		set_rf(vm, !(rflags & RF_RF));
}

void hv_inject_task_trap(struct hv_vm *vm, uint64_t dr6)
{
	uint64_t *reg = vmx_dr6(vm->cpu);

	*reg = (*reg & ~PENDING_DEBUG_B) | dr6 | DR6_FIXED;
	hv_write(vm, VMCS_GUEST_DR7, hv_read(vm, VMCS_GUEST_DR7) & ~DR7_GD);
	hv_core(vm)->inject = (struct hv_event){.info = VALID_EVENT(EVENT_HW_EXCEPTION, EXC_DB)};
}

void hv_inject_page_fault(struct hv_vm *vm, uint64_t address, uint32_t error)
{
	*vmx_cr2(vm->cpu) = address; /* injection leaves CR2 alone */
	hv_inject_exception(vm, EXC_PF, true, error);
}

void hv_reblock_nmi(struct hv_vm *vm, bool unblocked_by_iret)
{
	if (unblocked_by_iret && !hv_core(vm)->vectoring.info)
		set_nmi_blocking(vm, true);
}

enum hv_verdict exit_exception(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	uint32_t info = (uint32_t)hv_read(vm, VMCS_EXIT_INTR_INFO);
	uint32_t error = info & INTR_INFO_ERROR ? (uint32_t)hv_read(vm, VMCS_EXIT_INTR_ERROR) : 0;

	hv_reblock_nmi(vm, info & INTR_INFO_NMI_UNBLOCK);
	if (event_type(info) == EVENT_NMI)
		return HV_RESUME; /* the machine has nobody to send one */
	if (event_type(info) == EVENT_HW_EXCEPTION && (info & INTR_INFO_VECTOR) == EXC_PF)
		return vm->mmu->page_fault(vm, core->qualification, error);
	if (event_type(info) == EVENT_HW_EXCEPTION && (info & INTR_INFO_VECTOR) == EXC_MF)
		return HV_EMULATE;
	return hv_fail(vm, "exception %u was intercepted", info & INTR_INFO_VECTOR);
}

enum hv_verdict exit_ept_violation(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);

	vm->obs.faults.ept_violations++;
	hv_reblock_nmi(vm, core->qualification & EPT_VIOL_NMI_UNBLOCK);
	return vm->mmu->ept_violation(vm, hv_read(vm, VMCS_GUEST_PHYSICAL), core->qualification);
}

enum hv_verdict exit_ept_misconfig(struct hv_vm *vm)
{
	return hv_fail(vm, "EPT misconfiguration at guest-physical %llx",
		       (unsigned long long)hv_read(vm, VMCS_GUEST_PHYSICAL));
}

/* The log was emptied as at every exit; the access that found it full is made again. */
enum hv_verdict exit_pml_full(struct hv_vm *vm)
{
	hv_reblock_nmi(vm, hv_core(vm)->qualification & PML_QUAL_NMI_UNBLOCK);
	return HV_RESUME;
}

enum hv_verdict exit_triple_fault(struct hv_vm *vm)
{
	hv_shut_down(vm);
	return HV_RESUME;
}

enum hv_verdict exit_external_interrupt(struct hv_vm *vm)
{
	vm->cpu->extint = false; /* hv_run() looks at core->kicked and core->stopped */
	hv_core(vm)->stopped = cpu_take_stop(vm->cpu);
	return HV_RESUME;
}

/* The guest can take what it could not before, or time is up: hv_run() looks at both before the next entry. */
enum hv_verdict exit_window(struct hv_vm *vm)
{
	hv_update_proc(vm, 0, PROC_INTERRUPT_WINDOW | PROC_NMI_WINDOW);
	return HV_RESUME;
}

enum hv_verdict exit_preemption_timer(struct hv_vm *vm)
{
	(void)vm;
	return HV_RESUME;
}

/* VMX does not switch tasks: the emulator does, for the instruction or the event that asked for it. */
enum hv_verdict exit_task_switch(struct hv_vm *vm)
{
	hv_core(vm)->cr3_written = true; /* the new task's PDPTEs are loaded even if its CR3 is the same */
	return HV_EMULATE;
}

/* ---- injection ---- */

static bool wants_extint(const struct hv_vm *vm)
{
	const struct hv_core *core = hv_core(vm);

	return core->extint_given || (core->extint && lapic_accepts_extint(&vm->emul->lapic));
}

bool hv_wants_nmi(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);

	if (vm->emul->lapic.nmi) {
		vm->emul->lapic.nmi = false;
		core->nmi_pending = true;
	}
	return core->nmi_pending;
}

static void write_event(struct hv_vm *vm, const struct hv_event *ev)
{
	hv_write(vm, VMCS_ENTRY_INTR_INFO, ev->info);
	if (ev->info & INTR_INFO_ERROR)
		hv_write(vm, VMCS_ENTRY_EXCEPTION_ERROR, ev->error);
	if (event_type(ev->info) >= EVENT_SOFT_INT)
		hv_write(vm, VMCS_ENTRY_INSN_LEN, ev->insn_len);
}

static void inject_interrupt(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	uint8_t vector = core->extint_given ? core->extint_vector : lapic_ack(&vm->emul->lapic);
	struct hv_event ev = {.info = VALID_EVENT(EVENT_EXTERNAL, vector)};

	core->extint_given = false;
	write_event(vm, &ev);
}

static void inject_nmi(struct hv_vm *vm)
{
	struct hv_event ev = {.info = VALID_EVENT(EVENT_NMI, EXC_NMI)};

	hv_core(vm)->nmi_pending = false;
	write_event(vm, &ev);
}

bool hv_wakes(struct hv_vm *vm)
{
	if (hv_wants_nmi(vm) && !(hv_read(vm, VMCS_GUEST_INTERRUPTIBILITY) & INTERRUPTIBILITY_NMI))
		return true;
	return (wants_extint(vm) || lapic_pending(&vm->emul->lapic) >= 0) &&
	       hv_read(vm, VMCS_GUEST_RFLAGS) & RF_IF;
}

/* May an interrupt be injected at this boundary? */
static bool interruptible(struct hv_vm *vm, uint64_t blocking)
{
	return !(blocking & BLOCKS_INTERRUPTS) && hv_read(vm, VMCS_GUEST_RFLAGS) & RF_IF;
}

/*
 * Injects what is first in order of NMI, interrupt, if nothing else is being
 * injected (@available) and the guest allows; asks for windows for the rest.
 */
static bool choose(struct hv_vm *vm, bool nmi, bool irq, bool available)
{
	struct hv_core *core = hv_core(vm);
	uint64_t blocking = hv_read(vm, VMCS_GUEST_INTERRUPTIBILITY);

	if (hv_debug_trap_due(vm))
		available = false; /* the debug trap comes first */
	if (nmi && available && !(blocking & (BLOCKS_INTERRUPTS | INTERRUPTIBILITY_NMI))) {
		inject_nmi(vm);
		nmi = available = false;
	}
	if (irq && available && interruptible(vm, blocking)) {
		if (!core->extint_given && wants_extint(vm))
			return true;
		inject_interrupt(vm);
		irq = wants_extint(vm) || lapic_pending(&vm->emul->lapic) >= 0;
	}
	hv_update_proc(vm, (nmi ? PROC_NMI_WINDOW : 0) | (irq ? PROC_INTERRUPT_WINDOW : 0),
		       (nmi ? 0 : PROC_NMI_WINDOW) | (irq ? 0 : PROC_INTERRUPT_WINDOW));
	return false;
}

bool hv_prepare_events(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	bool nmi = hv_wants_nmi(vm) && !hv_nested_takes_nmis(vm), irq = wants_extint(vm) || lapic_pending(&vm->emul->lapic) >= 0;
	bool available = !core->inject.info;

	if (!available) {
		write_event(vm, &core->inject);
		core->inject = (struct hv_event){0};
	}
	if (!nmi && !irq) {
		hv_update_proc(vm, 0, PROC_NMI_WINDOW | PROC_INTERRUPT_WINDOW);
		return false;
	}
	return choose(vm, nmi, irq, available);
}
