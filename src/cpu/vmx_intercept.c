/*
 * Does this instruction or event cause a VM exit? One function a kind; each
 * prepares cpu->vmx.exit with exactly the information the manual defines for the
 * exit. Left out: APIC-access and virtual-interrupt exits, SMIs, machine checks.
 *
 * Source: SDM volume 3, "VMX Non-Root Operation" and, for the formats,
 * "Recording VM-Exit Information and Updating VM-entry Control Fields".
 */
#include "cpu/vmx_vmcs.h"

/* ---- preparing exits ---- */

static int stop_for_exit(struct cpu *cpu, const struct vmx_exit *exit)
{
	cpu->vmx.exit = *exit;
	cpu->stop = (struct stop){.kind = STOP_VMEXIT};
	return EXEC_STOP;
}

/* An instruction that is not executed. */
static int exit_insn(struct cpu *cpu, const struct uop *u, uint32_t reason, uint64_t qualification)
{
	return stop_for_exit(cpu, &(struct vmx_exit){.reason = reason, .rf = VMX_RF_CLEAR,
						      .qualification = qualification, .insn_len = u->len});
}

/* Something between two instructions. */
static int exit_between(struct cpu *cpu, uint32_t reason)
{
	return stop_for_exit(cpu, &(struct vmx_exit){.reason = reason});
}

/* ---- instructions under one control, or none ---- */

static bool intercepted(const struct cpu *cpu, uint32_t reason)
{
	uint32_t proc = cpu->vmx.proc, proc2 = cpu->vmx.proc2;

	switch (reason) {
	case EXIT_REASON_HLT: return proc & PROC_HLT;
	case EXIT_REASON_INVLPG:
	case EXIT_REASON_INVPCID: return proc & PROC_INVLPG;
	case EXIT_REASON_RDPMC: return proc & PROC_RDPMC;
	case EXIT_REASON_RDTSC:
	case EXIT_REASON_RDTSCP: return proc & PROC_RDTSC;
	case EXIT_REASON_MWAIT: return proc & PROC_MWAIT;
	case EXIT_REASON_MONITOR: return proc & PROC_MONITOR;
	case EXIT_REASON_PAUSE: return proc & PROC_PAUSE;
	case EXIT_REASON_GDTR_IDTR:
	case EXIT_REASON_LDTR_TR: return proc2 & PROC2_DESCRIPTOR_TABLE;
	case EXIT_REASON_WBINVD: return proc2 & PROC2_WBINVD;
	case EXIT_REASON_RDRAND: return proc2 & PROC2_RDRAND;
	case EXIT_REASON_RDSEED: return proc2 & PROC2_RDSEED;
	default: return true; /* CPUID, GETSEC, INVD, XSETBV and the VMX instructions */
	}
}

int vmx_intercept(struct cpu *cpu, const struct uop *u, uint32_t reason, uint64_t qualification)
{
	if (!cpu->vmx.nonroot || !intercepted(cpu, reason))
		return 0;
	return exit_insn(cpu, u, reason, qualification);
}

int vmx_intercept_insn_info(struct cpu *cpu, const struct uop *u, uint32_t reason, uint64_t qualification,
			    uint32_t insn_info)
{
	int r = vmx_intercept(cpu, u, reason, qualification);

	if (r)
		cpu->vmx.exit.insn_info = insn_info;
	return r;
}

/* Address size as instruction-information fields have it: 0, 1, 2 for 16, 32, 64 bits. */
static uint32_t info_address_size(const struct uop *u)
{
	return (u->addrsize == 8 ? 2u : u->addrsize == 4 ? 1u : 0u) << INSN_INFO_ADDR_SHIFT;
}

static uint32_t info_segment(const struct uop *u)
{
	uint32_t seg = u->seg < SEG_COUNT ? u->seg : u->flags & UOP_SEG_STACK ? SEG_SS : SEG_DS;

	return seg << INSN_INFO_SEG_SHIFT;
}

uint32_t vmx_insn_info_mem(const struct uop *u)
{
	uint32_t info = info_address_size(u) | info_segment(u);

	if (u->index / 8 < 16)
		info |= (uint32_t)u->scale << INSN_INFO_SCALE_SHIFT | (uint32_t)(u->index / 8)
									      << INSN_INFO_INDEX_SHIFT;
	else
		info |= INSN_INFO_INDEX_INVALID;
	return info |
	       (u->base / 8 < 16 ? (uint32_t)(u->base / 8) << INSN_INFO_BASE_SHIFT : INSN_INFO_BASE_INVALID);
}

uint64_t vmx_insn_displacement(const struct cpu *cpu, const struct uop *u)
{
	return (uint64_t)u->disp + (u->base == REG_OFF(REG_RIP) ? cpu->gpr[REG_RIP] : 0);
}

/* ---- control and debug registers ---- */

static uint64_t cr_qualification(unsigned cr, unsigned type, unsigned gpr)
{
	return cr | (uint64_t)type << CR_QUAL_TYPE_SHIFT | (uint64_t)gpr << CR_QUAL_GPR_SHIFT;
}

static bool is_cr3_target(const struct vmx_state *x, uint64_t value)
{
	for (uint32_t i = 0; i < x->cr3_target_count && i < ARRAY_SIZE(x->cr3_target); i++)
		if (x->cr3_target[i] == value)
			return true;
	return false;
}

static bool cr_write_exits(const struct vmx_state *x, unsigned cr, uint64_t value)
{
	switch (cr) {
	case 0: return (value ^ x->cr0_shadow) & x->cr0_mask;
	case 3: return x->proc & PROC_CR3_LOAD && !is_cr3_target(x, value);
	case 4: return (value ^ x->cr4_shadow) & x->cr4_mask;
	case 8: return x->proc & PROC_CR8_LOAD;
	default: return false;
	}
}

int vmx_intercept_cr_write(struct cpu *cpu, const struct uop *u, unsigned cr, unsigned gpr, uint64_t value)
{
	if (!cpu->vmx.nonroot || !cr_write_exits(&cpu->vmx, cr, value))
		return 0;
	return exit_insn(cpu, u, EXIT_REASON_CR_ACCESS, cr_qualification(cr, CR_QUAL_MOV_TO, gpr));
}

int vmx_intercept_cr_read(struct cpu *cpu, const struct uop *u, unsigned cr, unsigned gpr)
{
	uint32_t control = cr == 3 ? PROC_CR3_STORE : cr == 8 ? PROC_CR8_STORE : 0;

	if (!vmx_proc(cpu, control))
		return 0;
	return exit_insn(cpu, u, EXIT_REASON_CR_ACCESS, cr_qualification(cr, CR_QUAL_MOV_FROM, gpr));
}

int vmx_intercept_clts(struct cpu *cpu, const struct uop *u)
{
	if (!cpu->vmx.nonroot || !(cpu->vmx.cr0_mask & cpu->vmx.cr0_shadow & CR0_TS))
		return 0;
	return exit_insn(cpu, u, EXIT_REASON_CR_ACCESS, cr_qualification(0, CR_QUAL_CLTS, 0));
}

int vmx_intercept_lmsw(struct cpu *cpu, const struct uop *u, uint16_t source, bool mem, uint64_t lin)
{
	const struct vmx_state *x = &cpu->vmx;
	uint64_t changes = (source ^ x->cr0_shadow) & x->cr0_mask & (CR0_PE | CR0_MP | CR0_EM | CR0_TS);
	uint64_t qualification = cr_qualification(0, CR_QUAL_LMSW, 0) | (mem ? CR_QUAL_LMSW_MEM : 0) |
				 (uint64_t)source << CR_QUAL_SOURCE_SHIFT;

	/* LMSW cannot clear PE, so an attempt to is none. */
	if (!(source & CR0_PE))
		changes &= ~CR0_PE;
	if (!x->nonroot || !changes)
		return 0;
	exit_insn(cpu, u, EXIT_REASON_CR_ACCESS, qualification);
	cpu->vmx.exit.guest_linear = mem ? lin : 0;
	return EXEC_STOP;
}

uint64_t vmx_cr_read_value(const struct cpu *cpu, unsigned cr, uint64_t real)
{
	const struct vmx_state *x = &cpu->vmx;
	uint64_t mask = cr == 0 ? x->cr0_mask : x->cr4_mask;

	if (!x->nonroot || (cr != 0 && cr != 4))
		return real;
	return (real & ~mask) | ((cr == 0 ? x->cr0_shadow : x->cr4_shadow) & mask);
}

uint64_t vmx_cr_write_value(const struct cpu *cpu, unsigned cr, uint64_t old, uint64_t value)
{
	uint64_t mask = cr == 0 ? cpu->vmx.cr0_mask : cpu->vmx.cr4_mask;

	if (!cpu->vmx.nonroot || (cr != 0 && cr != 4))
		return value;
	return (old & mask) | (value & ~mask);
}

int vmx_intercept_dr(struct cpu *cpu, const struct uop *u, unsigned dr, unsigned gpr, bool read)
{
	if (!vmx_proc(cpu, PROC_MOV_DR))
		return 0;
	return exit_insn(cpu, u, EXIT_REASON_DR_ACCESS,
			 dr | (read ? DR_QUAL_FROM : 0) | (uint64_t)gpr << DR_QUAL_GPR_SHIFT);
}

/* ---- bitmaps: ports, MSRs, fields ---- */

static bool bitmap_bit(const struct cpu *cpu, uint64_t bitmap, unsigned bit)
{
	const uint8_t *at = cpu_phys_ptr(cpu, bitmap + bit / 8);

	return !at || *at >> (bit & 7) & 1; /* where nothing answers: all ones */
}

/* Bitmap A covers ports 0-7fff, B the rest. An access that wraps around the port space always exits. */
static bool io_bitmap_exits(const struct cpu *cpu, uint16_t port, unsigned bytes)
{
	if (port + bytes > 0x10000)
		return true;
	for (unsigned p = port; p < port + bytes; p++)
		if (bitmap_bit(cpu, p < 0x8000 ? cpu->vmx.io_bitmap_a : cpu->vmx.io_bitmap_b, p & 0x7fff))
			return true;
	return false;
}

int vmx_intercept_io(struct cpu *cpu, const struct uop *u, uint16_t port, unsigned bytes, bool in,
		     bool string, bool rep, bool imm, uint64_t lin)
{
	uint64_t qualification = (bytes - 1) | (in ? IO_QUAL_IN : 0) | (string ? IO_QUAL_STRING : 0) |
				 (rep ? IO_QUAL_REP : 0) | (imm ? IO_QUAL_IMM : 0) |
				 (uint64_t)port << IO_QUAL_PORT_SHIFT;

	/* With bitmaps, unconditional exiting is ignored. */
	if (!cpu->vmx.nonroot || !(cpu->vmx.proc & PROC_IO_BITMAPS ? io_bitmap_exits(cpu, port, bytes)
								   : (cpu->vmx.proc & PROC_UNCOND_IO) != 0))
		return 0;
	exit_insn(cpu, u, EXIT_REASON_IO, qualification);
	if (string) {
		cpu->vmx.exit.guest_linear = lin;
		cpu->vmx.exit.insn_info = info_address_size(u) |
					  (in ? (uint32_t)SEG_ES << INSN_INFO_SEG_SHIFT : info_segment(u));
	}
	return EXEC_STOP;
}

/* The bitmap page: reads of low MSRs, of high MSRs, writes of low, of high, 1 KiB each. */
static bool msr_exits(const struct cpu *cpu, uint32_t msr, bool write)
{
	uint64_t at = cpu->vmx.msr_bitmap + (write ? 0x800 : 0);

	if (!(cpu->vmx.proc & PROC_MSR_BITMAPS) || msr == MSR_PV_REQUEST)
		return true;
	if (msr <= 0x1fff)
		return bitmap_bit(cpu, at, msr);
	if (msr - 0xc0000000u <= 0x1fff)
		return bitmap_bit(cpu, at + 0x400, msr - 0xc0000000u);
	return true;
}

bool vmx_field_exits(const struct cpu *cpu, bool write, uint64_t field)
{
	const struct vmx_state *x = &cpu->vmx;

	return !(x->proc2 & PROC2_SHADOW_VMCS) || field >> 15 ||
	       bitmap_bit(cpu, write ? x->vmwrite_bitmap : x->vmread_bitmap, (unsigned)field);
}

int vmx_intercept_rdmsr(struct cpu *cpu, const struct uop *u, uint32_t msr)
{
	if (!cpu->vmx.nonroot || !msr_exits(cpu, msr, false))
		return 0;
	return exit_insn(cpu, u, EXIT_REASON_RDMSR, 0);
}

int vmx_intercept_wrmsr(struct cpu *cpu, const struct uop *u, uint32_t msr)
{
	if (!cpu->vmx.nonroot || !msr_exits(cpu, msr, true))
		return 0;
	return exit_insn(cpu, u, EXIT_REASON_WRMSR, 0);
}

/* ---- events ---- */

static bool exception_exits(const struct vmx_state *x, const struct event *ev)
{
	bool selected = x->exception_bitmap >> (ev->vector & 31) & 1;

	/* For page faults the bit says which outcome of the comparison exits. */
	if (ev->vector == EXC_PF)
		return selected == ((ev->error & x->pf_mask) == x->pf_match);
	return selected;
}

/* RFLAGS.RF as the stack gets it when an event is delivered. @general_detect: #DB for an access to a DR */
static enum vmx_rf event_rf(unsigned type, unsigned vector, bool general_detect)
{
	if (type >= EVENT_SOFT_INT || (type == EVENT_HW_EXCEPTION && vector == EXC_DF))
		return VMX_RF_CLEAR;
	if (type != EVENT_HW_EXCEPTION || vector == EXC_MC)
		return VMX_RF_KEEP;
	return vector != EXC_DB || general_detect ? VMX_RF_SET : VMX_RF_KEEP;
}

/* The same for an event that is being delivered; an injected one is pushed with the flags as they are. */
static enum vmx_rf vectoring_rf(const struct vmx_state *x)
{
	unsigned type = (x->vectoring_info & INTR_INFO_TYPE) >> INTR_INFO_TYPE_SHIFT;

	return x->injecting ? VMX_RF_KEEP : event_rf(type, x->vectoring_info & INTR_INFO_VECTOR, x->vectoring_detect);
}

/* A double or triple fault is not reported as happening during the delivery of the events that led to it. */
static void forget_vectoring(struct cpu *cpu)
{
	cpu->vmx.vectoring = cpu->vmx.injecting = false;
}

int vmx_intercept_exception(struct cpu *cpu, const struct event *ev)
{
	struct vmx_exit e = {.reason = EXIT_REASON_EXCEPTION_NMI};
	bool unblocked = cpu->vmx.nmi_unblocking_iret && ev->vector != EXC_DF;
	bool error = ev->has_error && cpu->cr0 & CR0_PE; /* real mode has no error codes */

	if (!cpu->vmx.nonroot || cpu->vmx.injecting || ev->type < EVENT_HW_EXCEPTION ||
	    ev->type == EVENT_SOFT_INT || !exception_exits(&cpu->vmx, ev))
		return 0;
	if (ev->vector == EXC_DF)
		forget_vectoring(cpu);
	if (ev->vector == EXC_DB)
		cpu->db_pending = 0; /* it is reported, so it is pending no more */
	e.rf = event_rf(ev->type, ev->vector, ev->payload & DR6_BD);
	e.qualification = ev->vector == EXC_PF || ev->vector == EXC_DB ? ev->payload : 0;
	e.intr_info = INTR_INFO_VALID | (uint32_t)ev->type << INTR_INFO_TYPE_SHIFT | ev->vector |
		      (error ? INTR_INFO_ERROR : 0) |
		      (unblocked && !cpu->vmx.vectoring ? INTR_INFO_NMI_UNBLOCK : 0);
	e.intr_error = error ? ev->error : 0;
	e.insn_len = ev->type == EVENT_HW_EXCEPTION ? 0 : ev->insn_len;
	return stop_for_exit(cpu, &e);
}

static int exit_external(struct cpu *cpu, uint8_t vector)
{
	exit_between(cpu, EXIT_REASON_EXTERNAL_INTERRUPT);
	if (cpu->vmx.exit_ctl & EXIT_ACK_INTERRUPT)
		cpu->vmx.exit.intr_info = INTR_INFO_VALID | EVENT_EXTERNAL << INTR_INFO_TYPE_SHIFT | vector;
	return EXEC_STOP;
}

static bool extint_pending(const struct cpu *cpu)
{
	return cpu->vmx.nonroot && cpu->vmx.pin & PIN_EXTERNAL_INTERRUPT && cpu->extint &&
	       lapic_accepts_extint(&cpu->lapic);
}

bool vmx_wants_extint(const struct cpu *cpu)
{
	return extint_pending(cpu) && cpu->vmx.exit_ctl & EXIT_ACK_INTERRUPT && !cpu->extint_ack &&
	       !cpu->shadow_sti && !cpu->shadow_movss;
}

int vmx_intercept_external(struct cpu *cpu)
{
	bool ack = cpu->vmx.exit_ctl & EXIT_ACK_INTERRUPT;

	if (!cpu->vmx.nonroot || !(cpu->vmx.pin & PIN_EXTERNAL_INTERRUPT))
		return 0;
	if (cpu->extint_ack) {
		cpu->extint_ack = false;
		return exit_external(cpu, cpu->extint_vector);
	}
	if (extint_pending(cpu))
		return ack ? 0 : exit_external(cpu, 0);
	if (lapic_pending(&cpu->lapic) >= 0)
		return exit_external(cpu, ack ? lapic_ack(&cpu->lapic) : 0);
	return 0;
}

int vmx_exit_probe(struct cpu *cpu) { return exit_between(cpu, EXIT_REASON_EXTERNAL_INTERRUPT); }

int vmx_intercept_nmi(struct cpu *cpu)
{
	if (!cpu->vmx.nonroot || !(cpu->vmx.pin & PIN_NMI))
		return 0;
	cpu->nmi_pending = false;
	exit_between(cpu, EXIT_REASON_EXCEPTION_NMI);
	cpu->vmx.exit.intr_info = INTR_INFO_VALID | EVENT_NMI << INTR_INFO_TYPE_SHIFT | EXC_NMI;
	return EXEC_STOP;
}

int vmx_exit_triple_fault(struct cpu *cpu)
{
	if (!cpu->vmx.nonroot)
		return 0;
	forget_vectoring(cpu);
	cpu->rflags &= ~RF_RF; /* as in shutdown, however the faults came about */
	return exit_between(cpu, EXIT_REASON_TRIPLE_FAULT);
}

int vmx_exit_task_switch(struct cpu *cpu, uint64_t qualification, unsigned insn_len)
{
	if (!cpu->vmx.nonroot)
		return 0;
	return stop_for_exit(cpu, &(struct vmx_exit){.reason = EXIT_REASON_TASK_SWITCH, .insn_len = insn_len,
						      .qualification = qualification,
						      .rf = cpu->vmx.vectoring ? vectoring_rf(&cpu->vmx) :
										 VMX_RF_KEEP});
}

int vmx_raise_page_fault(struct cpu *cpu, uint64_t lin, const struct xlate *x)
{
	struct vmx_exit e = {.reason = EXIT_REASON_EXCEPTION_NMI, .qualification = lin, .intr_error = x->error_code};

	if (likely(!x->shadow))
		return raise_pf(cpu, lin, x->error_code);
	e.intr_info = INTR_INFO_VALID | EVENT_HW_EXCEPTION << INTR_INFO_TYPE_SHIFT | INTR_INFO_ERROR | EXC_PF;
	if (cpu->vmx.nmi_unblocking_iret && !cpu->vmx.vectoring)
		e.intr_info |= INTR_INFO_NMI_UNBLOCK;
	e.rf = cpu->vmx.vectoring ? vectoring_rf(&cpu->vmx) : VMX_RF_SET;
	return stop_for_exit(cpu, &e);
}

int vmx_exit_ept(struct cpu *cpu, enum xlate_event ev, const struct xlate *x, uint64_t lin, bool lin_valid)
{
	struct vmx_exit e = {.reason = EXIT_REASON_EPT_MISCONFIG, .guest_physical = x->gpa.v};

	e.rf = cpu->vmx.vectoring ? vectoring_rf(&cpu->vmx) : VMX_RF_SET;
	if (ev == XLATE_EPT_VIOLATION) {
		e.reason = EXIT_REASON_EPT_VIOLATION;
		e.qualification =
			lin_valid ? x->qualification | EPT_VIOL_LINEAR : x->qualification & ~EPT_VIOL_FINAL;
		e.guest_linear = lin_valid ? lin : 0;
		if (cpu->vmx.nmi_unblocking_iret && !cpu->vmx.vectoring)
			e.qualification |= EPT_VIOL_NMI_UNBLOCK;
	}
	if (ev == XLATE_PML_FULL) {
		bool unblocked = cpu->vmx.nmi_unblocking_iret && !cpu->vmx.vectoring;

		e = (struct vmx_exit){.reason = EXIT_REASON_PML_FULL, .rf = e.rf,
				      .qualification = unblocked ? PML_QUAL_NMI_UNBLOCK : 0};
	}
	return stop_for_exit(cpu, &e);
}

/* ---- between instructions ---- */

static int check_nmi(struct cpu *cpu)
{
	bool held = cpu->shadow_movss || cpu->shadow_sti;

	if (cpu->vmx.proc & PROC_NMI_WINDOW && !cpu->nmi_blocked && !held)
		return exit_between(cpu, EXIT_REASON_NMI_WINDOW);
	/* With virtual NMIs, nmi_blocked is about virtual ones: a real one always exits. */
	if (cpu->nmi_pending && !held && (!cpu->nmi_blocked || cpu->vmx.pin & PIN_VIRTUAL_NMI))
		return vmx_intercept_nmi(cpu);
	return 0;
}

int vmx_check_windows(struct cpu *cpu)
{
	const struct vmx_state *x = &cpu->vmx;
	bool shadow = cpu->shadow_sti || cpu->shadow_movss;
	int r;

	if (!x->nonroot)
		return 0;
	if (cpu->init_pending || cpu->lapic.init) {
		cpu->init_pending = cpu->lapic.init = false;
		return exit_between(cpu, EXIT_REASON_INIT);
	}
	/* It has been acknowledged: there is no way back. */
	if (cpu->extint_ack && vmx_external_exits(cpu))
		return vmx_intercept_external(cpu);
	if (x->tpr_below)
		return exit_between(cpu, EXIT_REASON_TPR_BELOW_THRESHOLD);
	if (x->mtf_pending)
		return exit_between(cpu, EXIT_REASON_MONITOR_TRAP);
	if (cpu->db_pending && !cpu->shadow_movss)
		return 0;
	if (x->pin & PIN_PREEMPTION_TIMER && cpu_tsc(cpu) >= x->preemption_deadline)
		return exit_between(cpu, EXIT_REASON_PREEMPTION_TIMER);
	r = check_nmi(cpu);
	if (r)
		return r;
	/* An NMI that is delivered through the IDT comes before what follows. */
	if (cpu->nmi_pending && !cpu->nmi_blocked && !shadow)
		return 0;
	if (shadow)
		return 0;
	if (x->proc & PROC_INTERRUPT_WINDOW && cpu->rflags & RF_IF)
		return exit_between(cpu, EXIT_REASON_INTERRUPT_WINDOW);
	return vmx_intercept_external(cpu);
}
