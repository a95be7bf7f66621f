/*
 * VM exits: recording the cause, saving guest state, loading host state; the MSR
 * areas and VMX aborts. Left out: SMM, APIC virtualization, machine checks.
 *
 * Source: SDM volume 3, chapter "VM Exits", sections "Recording VM-Exit
 * Information and Updating VM-entry Control Fields", "Saving Guest State",
 * "Saving MSRs", "Loading Host State", "Loading MSRs", "VMX Aborts".
 */
#include "cpu/msr.h"
#include "cpu/vmx_vmcs.h"

/* CR0 bits that neither VM entry nor VM exit changes: ET, NW, CD and the reserved ones. */
#define CR0_UNCHANGED 0x7ffaffd0ull
/* Attributes as the access-rights fields hold them. */
#define AR_SAVED 0x1f0ffu

/* ---- MSR areas ---- */

#define MSR_AREA_MAX 512 /* entries: IA32_VMX_MISC recommends no more; further ones are refused */
#define MSR_AREA_MASK ~15ull
#define MSR_SMM_MONITOR_CTL 0x9bu
#define MSR_BIOS_UPDT_TRIG  0x79u
#define MSR_SMBASE          0x9eu

static bool is_x2apic(uint32_t msr) { return msr >> 8 == MSR_X2APIC_FIRST >> 8; }

static bool msr_loadable(uint32_t msr)
{
	return msr != MSR_FS_BASE && msr != MSR_GS_BASE && msr != MSR_SMM_MONITOR_CTL &&
	       msr != MSR_BIOS_UPDT_TRIG && msr != MSR_BIOS_SIGN_ID && !is_x2apic(msr) && msr != MSR_DMT_LOAD &&
	       msr != MSR_PV_REQUEST;
}

uint32_t vmx_load_msrs(struct cpu *cpu, uint64_t area, uint32_t count)
{
	area &= MSR_AREA_MASK;
	for (uint32_t i = 0; i < count; i++) {
		uint64_t index = cpu_phys_read64(cpu, area + 16ull * i);
		uint64_t value = cpu_phys_read64(cpu, area + 16ull * i + 8);

		if (i == MSR_AREA_MAX || index >> 32 || !msr_loadable((uint32_t)index) ||
		    cpu_wrmsr(cpu, (uint32_t)index, value))
			return i + 1;
	}
	return 0;
}

uint32_t vmx_store_msrs(struct cpu *cpu, uint64_t area, uint32_t count)
{
	area &= MSR_AREA_MASK;
	for (uint32_t i = 0; i < count; i++) {
		uint64_t at = area + 16ull * i, index = cpu_phys_read64(cpu, at), value;

		if (i == MSR_AREA_MAX || index >> 32 || index == MSR_SMBASE || is_x2apic((uint32_t)index) ||
		    cpu_rdmsr(cpu, (uint32_t)index, &value))
			return i + 1;
		/* The index was read from RAM, so this is RAM: both lie in one 16-byte unit. */
		put_u64(cpu_phys_ptr(cpu, at + 8), value);
		cpu_phys_wrote(cpu, at + 8, 8);
	}
	return 0;
}

/* ---- recording why ---- */

static void count_exit(struct cpu *cpu, uint32_t reason, uint64_t qualification)
{
	struct vmx_tally *t = &cpu->vmx.tally;
	uint32_t basic = reason & 0xffff;

	if (basic < VMX_TALLY_REASONS)
		t->exits[basic]++;
	if (cpu->mmu.pml.on)
		t->pml_logged += (uint16_t)(cpu->vmx.pml_from - cpu->mmu.pml.index);
	vmx_tell(cpu, VMX_EVENT_EXIT, reason, qualification);
}

static void record_exit(struct cpu *cpu, uint8_t *v)
{
	const struct vmx_state *x = &cpu->vmx;
	uint32_t length = x->exit.insn_len;

	vmcs_put(v, VMCS_EXIT_REASON, x->exit.reason);
	vmcs_put(v, VMCS_EXIT_QUALIFICATION, x->exit.qualification);
	vmcs_put(v, VMCS_GUEST_LINEAR, x->exit.guest_linear);
	vmcs_put(v, VMCS_GUEST_PHYSICAL, x->exit.guest_physical);
	vmcs_put(v, VMCS_EXIT_INTR_INFO, x->exit.intr_info);
	vmcs_put(v, VMCS_EXIT_INTR_ERROR, x->exit.intr_error);
	vmcs_put(v, VMCS_IDT_VECTORING_INFO, x->vectoring ? x->vectoring_info : 0);
	if (x->vectoring) {
		vmcs_put(v, VMCS_IDT_VECTORING_ERROR, x->vectoring_error);
		length = x->vectoring_insn_len ? x->vectoring_insn_len : length;
	}
	vmcs_put(v, VMCS_EXIT_INSN_LEN, length);
	vmcs_put(v, VMCS_EXIT_INSN_INFO, x->exit.insn_info);
	vmcs_put(v, VMCS_ENTRY_INTR_INFO, vmcs_get(v, VMCS_ENTRY_INTR_INFO) & ~(uint64_t)INTR_INFO_VALID);
}

/* ---- saving guest state ---- */

/* @i: in the order of the VMCS fields, ES to GS, then LDTR and TR. */
static void save_segment(uint8_t *v, unsigned i, const struct seg *s)
{
	vmcs_put(v, VMCS_GUEST_ES_SEL + 2 * i, s->sel);
	vmcs_put(v, VMCS_GUEST_ES_BASE + 2 * i, s->base);
	vmcs_put(v, VMCS_GUEST_ES_LIMIT + 2 * i, s->limit);
	vmcs_put(v, VMCS_GUEST_ES_AR + 2 * i, s->attr & AR_SAVED);
}

static void save_segments(const struct cpu *cpu, uint8_t *v)
{
	uint32_t ss = cpu->seg[SEG_SS].attr & AR_SAVED & ~SEG_AR_DPL;

	for (unsigned i = 0; i < SEG_COUNT; i++)
		save_segment(v, i, &cpu->seg[i]);
	save_segment(v, SEG_COUNT, &cpu->ldtr);
	save_segment(v, SEG_COUNT + 1, &cpu->tr);
	/* The DPL of SS is where the guest's CPL stands, even if SS is unusable. */
	vmcs_put(v, VMCS_GUEST_SS_AR, ss | (uint32_t)cpu->cpl << SEG_AR_DPL_SHIFT);
	vmcs_put(v, VMCS_GUEST_GDTR_BASE, cpu->gdtr.base);
	vmcs_put(v, VMCS_GUEST_GDTR_LIMIT, cpu->gdtr.limit);
	vmcs_put(v, VMCS_GUEST_IDTR_BASE, cpu->idtr.base);
	vmcs_put(v, VMCS_GUEST_IDTR_LIMIT, cpu->idtr.limit);
}

static void save_control_registers(const struct cpu *cpu, uint8_t *v)
{
	const struct vmx_state *x = &cpu->vmx;

	vmcs_put(v, VMCS_GUEST_CR0, cpu->cr0);
	vmcs_put(v, VMCS_GUEST_CR3, cpu->cr3);
	vmcs_put(v, VMCS_GUEST_CR4, cpu->cr4);
	vmcs_put(v, VMCS_GUEST_SYSENTER_CS, cpu->msr.sysenter_cs);
	vmcs_put(v, VMCS_GUEST_SYSENTER_ESP, cpu->msr.sysenter_esp);
	vmcs_put(v, VMCS_GUEST_SYSENTER_EIP, cpu->msr.sysenter_eip);
	if (x->exit_ctl & EXIT_SAVE_DEBUG) {
		vmcs_put(v, VMCS_GUEST_DR7, cpu->dr7);
		vmcs_put(v, VMCS_GUEST_DEBUGCTL, x->debugctl);
	}
	if (x->exit_ctl & EXIT_SAVE_PAT)
		vmcs_put(v, VMCS_GUEST_PAT, cpu->msr.pat);
	if (x->exit_ctl & EXIT_SAVE_EFER)
		vmcs_put(v, VMCS_GUEST_EFER, cpu->efer);
	if (x->proc2 & PROC2_EPT && cpu->cr0 & CR0_PG && cpu->cr4 & CR4_PAE && !(cpu->efer & EFER_LMA))
		for (unsigned i = 0; i < 4; i++)
			vmcs_put(v, VMCS_GUEST_PDPTE0 + 2 * i, cpu->pdpte[i]);
}

/* Software must find the entry control as the guest's mode is now (IA32_VMX_MISC bit 5). */
static void save_entry_mode(struct cpu *cpu, uint8_t *v)
{
	uint32_t ctl = (cpu->vmx.entry_ctl & ~ENTRY_IA32E) | (cpu->efer & EFER_LMA ? ENTRY_IA32E : 0);

	if (ctl != cpu->vmx.entry_ctl) {
		cpu->vmx.entry_ctl = ctl;
		vmcs_put(v, VMCS_ENTRY_CTL, ctl);
	}
}

static uint64_t saved_rflags(const struct cpu *cpu)
{
	uint64_t rf = cpu_get_rflags(cpu);

	switch (cpu->vmx.exit.rf) {
	case VMX_RF_CLEAR: return rf & ~RF_RF;
	case VMX_RF_SET: return rf | RF_RF;
	default: return rf;
	}
}

/* Debug traps that met the end of an instruction but were not delivered. */
static uint64_t saved_pending_debug(const struct cpu *cpu, bool held_back)
{
	uint64_t d = cpu->db_pending & (PENDING_DEBUG_B | PENDING_DEBUG_BS);

	for (unsigned i = 0; i < 4; i++)
		if (d >> i & 1 && cpu->dr7 >> (2 * i) & 3)
			d |= PENDING_DEBUG_ENABLED;
	if (held_back && cpu->rflags & RF_TF && !(cpu->vmx.debugctl & DEBUGCTL_BTF))
		d |= PENDING_DEBUG_BS;
	return d;
}

static void save_nonregister_state(const struct cpu *cpu, uint8_t *v)
{
	uint32_t blocked = (cpu->shadow_sti ? INTERRUPTIBILITY_STI : 0) |
			   (cpu->shadow_movss ? INTERRUPTIBILITY_MOVSS : 0) |
			   (cpu->nmi_blocked ? INTERRUPTIBILITY_NMI : 0);
	uint64_t left = cpu->vmx.preemption_deadline - min_u64(cpu->vmx.preemption_deadline, cpu_tsc(cpu));

	vmcs_put(v, VMCS_GUEST_INTERRUPTIBILITY, blocked);
	vmcs_put(v, VMCS_GUEST_ACTIVITY, cpu->halted ? ACTIVITY_HLT : ACTIVITY_ACTIVE);
	vmcs_put(v, VMCS_GUEST_PENDING_DEBUG,
		 saved_pending_debug(cpu, cpu->shadow_sti || cpu->shadow_movss || cpu->halted));
	if (cpu->vmx.proc2 & PROC2_PML)
		vmcs_put(v, VMCS_GUEST_PML_INDEX, cpu->mmu.pml.index);
	if (cpu->vmx.exit_ctl & EXIT_SAVE_PREEMPTION)
		vmcs_put(v, VMCS_GUEST_PREEMPTION_TIMER, left);
}

static void save_guest_state(struct cpu *cpu, uint8_t *v)
{
	save_segments(cpu, v);
	save_control_registers(cpu, v);
	save_entry_mode(cpu, v);
	save_nonregister_state(cpu, v);
	vmcs_put(v, VMCS_GUEST_RIP, cpu->gpr[REG_RIP]);
	vmcs_put(v, VMCS_GUEST_RSP, cpu->gpr[RSP]);
	vmcs_put(v, VMCS_GUEST_RFLAGS, saved_rflags(cpu));
}

/* ---- loading host state ---- */

/* The processor cannot go on: it shuts down, and the VMCS says why. */
static void vmx_abort(struct cpu *cpu, uint8_t *v, uint32_t why)
{
	put_u32(v + VMCS_OFF_ABORT, why);
	vmcs_wrote(cpu);
	cpu->shutdown = true;
	cpu->stop = (struct stop){.kind = STOP_SHUTDOWN};
}

static void load_host_registers(struct cpu *cpu, const uint8_t *v)
{
	bool host64 = cpu->vmx.exit_ctl & EXIT_HOST_64;
	uint64_t mode = EFER_LMA | EFER_LME;

	cpu->cr0 = (cpu->cr0 & CR0_UNCHANGED) | (vmcs_get(v, VMCS_HOST_CR0) & ~CR0_UNCHANGED & 0xffffffff);
	cpu->cr3 = vmcs_get(v, VMCS_HOST_CR3);
	cpu->cr4 = vmcs_get(v, VMCS_HOST_CR4);
	cpu->cr4 = host64 ? cpu->cr4 | CR4_PAE : cpu->cr4 & ~CR4_PCIDE;
	cpu->dr7 = DR7_FIXED;
	cpu->vmx.debugctl = 0;
	cpu->msr.sysenter_cs = vmcs_get(v, VMCS_HOST_SYSENTER_CS);
	cpu->msr.sysenter_esp = vmcs_get(v, VMCS_HOST_SYSENTER_ESP);
	cpu->msr.sysenter_eip = vmcs_get(v, VMCS_HOST_SYSENTER_EIP);
	cpu->efer = host64 ? cpu->efer | mode : cpu->efer & ~mode;
	if (cpu->vmx.exit_ctl & EXIT_LOAD_EFER)
		cpu->efer = vmcs_get(v, VMCS_HOST_EFER);
	if (cpu->vmx.exit_ctl & EXIT_LOAD_PAT)
		cpu->msr.pat = vmcs_get(v, VMCS_HOST_PAT);
	cpu->gpr[REG_RIP] = vmcs_get(v, VMCS_HOST_RIP);
	cpu->gpr[RSP] = vmcs_get(v, VMCS_HOST_RSP);
	cpu_set_rflags(cpu, RF_ONE);
	cpu->cpl = 0;
}

static void load_host_segments(struct cpu *cpu, const uint8_t *v)
{
	const uint32_t data = SEG_AR_P | SEG_AR_S | SEG_AR_RW | SEG_AR_A | SEG_AR_DB | SEG_AR_G;
	const uint32_t code = SEG_AR_P | SEG_AR_S | SEG_AR_CODE | SEG_AR_RW | SEG_AR_A | SEG_AR_G;
	bool host64 = cpu->vmx.exit_ctl & EXIT_HOST_64;

	for (unsigned i = 0; i < SEG_COUNT; i++) {
		uint16_t sel = (uint16_t)vmcs_get(v, VMCS_HOST_ES_SEL + 2 * i);
		uint32_t attr = i == SEG_CS ? code | (host64 ? SEG_AR_L : SEG_AR_DB) : data;

		if (!sel)
			attr |= SEG_AR_UNUSABLE;
		cpu->seg[i] = (struct seg){.sel = sel, .attr = attr, .limit = 0xffffffff};
	}
	cpu->seg[SEG_FS].base = vmcs_get(v, VMCS_HOST_FS_BASE);
	cpu->seg[SEG_GS].base = vmcs_get(v, VMCS_HOST_GS_BASE);
	cpu->ldtr = (struct seg){.attr = SEG_AR_UNUSABLE};
	cpu->tr = (struct seg){.sel = (uint16_t)vmcs_get(v, VMCS_HOST_TR_SEL), .attr = SEG_AR_P | 11,
			       .limit = 0x67, .base = vmcs_get(v, VMCS_HOST_TR_BASE)};
	cpu->gdtr = (struct dtable){.base = vmcs_get(v, VMCS_HOST_GDTR_BASE), .limit = 0xffff};
	cpu->idtr = (struct dtable){.base = vmcs_get(v, VMCS_HOST_IDTR_BASE), .limit = 0xffff};
}

/* Nothing of the guest's state between instructions is left. */
static void leave_nonroot(struct cpu *cpu)
{
	struct vmx_state *x = &cpu->vmx;

	/* A virtual NMI's blocking stays in the VMCS. */
	if (x->nonroot && x->pin & PIN_VIRTUAL_NMI)
		cpu->nmi_blocked = false;
	x->nonroot = false;
	cpu->mmu.pml.on = false;
	x->mtf_pending = x->tpr_below = false;
	x->vectoring = x->injecting = false;
	x->nmi_unblocking_iret = false;
	x->preemption_deadline = UINT64_MAX;
	cpu->shadow_sti = cpu->shadow_movss = false;
	cpu->db_pending = 0;
	cpu->halted = false;
}

void vmx_load_host_state(struct cpu *cpu)
{
	uint8_t *v = vmcs_region(cpu);
	bool host64 = cpu->vmx.exit_ctl & EXIT_HOST_64, is_ok = cpu->vmx.outside || vmx_host_state_ok(cpu, v);

	leave_nonroot(cpu);
	if (!is_ok) { /* a VMCS is memory, and software may have written to it since the entry checked it */
		vmx_abort(cpu, v, VMX_ABORT_VMCS);
		return;
	}
	load_host_registers(cpu, v);
	load_host_segments(cpu, v);
	if (!cpu->vmx.vpid && !cpu->emul_ops)
		mmu_flush_vpid_all(&cpu->mmu, 0);
	if (!host64 && cpu->cr4 & CR4_PAE && !vmx_read_pdptes(cpu, cpu->cr3, cpu->pdpte))
		vmx_abort(cpu, v, VMX_ABORT_HOST_PDPTE);
	cpu_update_mode(cpu);
	if (vmx_load_msrs(cpu, vmcs_get(v, VMCS_EXIT_MSR_LOAD_ADDR), vmcs_get32(v, VMCS_EXIT_MSR_LOAD_COUNT)))
		vmx_abort(cpu, v, VMX_ABORT_LOAD_MSR);
}

void vmx_do_exit(struct cpu *cpu)
{
	uint8_t *v = vmcs_region(cpu);
	const struct vmx_exit *e = &cpu->vmx.exit;
	const uint32_t nmi = INTR_INFO_VALID | EVENT_NMI << INTR_INFO_TYPE_SHIFT | EXC_NMI;
	bool by_nmi =
		e->reason == EXIT_REASON_EXCEPTION_NMI && (e->intr_info & ~INTR_INFO_NMI_UNBLOCK) == nmi;

	record_exit(cpu, v);
	save_guest_state(cpu, v);
	vmcs_wrote(cpu);
	count_exit(cpu, e->reason, e->qualification);
	if (vmx_store_msrs(cpu, vmcs_get(v, VMCS_EXIT_MSR_STORE_ADDR),
			   vmcs_get32(v, VMCS_EXIT_MSR_STORE_COUNT))) {
		leave_nonroot(cpu);
		vmx_abort(cpu, v, VMX_ABORT_SAVE_MSR);
		return;
	}
	vmx_load_host_state(cpu);
	if (by_nmi)
		cpu->nmi_blocked = true;
}

void vmx_fail_entry(struct cpu *cpu, uint32_t reason, uint64_t qualification)
{
	uint8_t *v = vmcs_region(cpu);

	vmcs_put(v, VMCS_EXIT_REASON, reason | EXIT_REASON_ENTRY_FAILURE);
	vmcs_put(v, VMCS_EXIT_QUALIFICATION, qualification);
	vmcs_wrote(cpu);
	count_exit(cpu, reason | EXIT_REASON_ENTRY_FAILURE, qualification);
	vmx_load_host_state(cpu);
}
