/*
 * VM entry: the checks, loading guest state, injecting an event. Left out: SMM
 * and the dual-monitor treatment, RTM, CET, enclaves.
 *
 * Source: SDM volume 3, chapter "VM Entries". The checks follow the order and
 * grouping of its sections, whose titles stand above the functions. Checks on
 * controls and host state are repeated only when a field they look at was
 * written, which the VMWRITEs note in vmx.dirty.
 */
#include "cpu/vmx_vmcs.h"

#define CR0_UNCHANGED 0x7ffaffd0ull /* bits of CR0 that VM entry leaves alone: ET, NW, CD, reserved ones */
#define DR7_ZERO      0xffffffff0000d000ull /* bits of DR7 that are loaded as zero */

/* ---- loading controls ---- */

static void load_controls(struct vmx_state *x, const uint8_t *v)
{
	x->pin = vmcs_get32(v, VMCS_PIN_CTL);
	x->proc = vmcs_get32(v, VMCS_PROC_CTL);
	x->proc2 = x->proc & PROC_SECONDARY ? vmcs_get32(v, VMCS_PROC_CTL2) : 0;
	x->exit_ctl = vmcs_get32(v, VMCS_EXIT_CTL);
	x->entry_ctl = vmcs_get32(v, VMCS_ENTRY_CTL);
	x->exception_bitmap = vmcs_get32(v, VMCS_EXCEPTION_BITMAP);
	x->pf_mask = vmcs_get32(v, VMCS_PF_ERROR_MASK);
	x->pf_match = vmcs_get32(v, VMCS_PF_ERROR_MATCH);
	x->io_bitmap_a = vmcs_get(v, VMCS_IO_BITMAP_A);
	x->io_bitmap_b = vmcs_get(v, VMCS_IO_BITMAP_B);
	x->msr_bitmap = vmcs_get(v, VMCS_MSR_BITMAP);
	x->cr0_mask = vmcs_get(v, VMCS_CR0_MASK);
	x->cr0_shadow = vmcs_get(v, VMCS_CR0_SHADOW);
	x->cr4_mask = vmcs_get(v, VMCS_CR4_MASK);
	x->cr4_shadow = vmcs_get(v, VMCS_CR4_SHADOW);
	x->cr3_target_count = vmcs_get32(v, VMCS_CR3_TARGET_COUNT);
	for (unsigned i = 0; i < ARRAY_SIZE(x->cr3_target); i++)
		x->cr3_target[i] = vmcs_get(v, VMCS_CR3_TARGET0 + 2 * i);
	x->tsc_offset = x->proc & PROC_TSC_OFFSETTING ? vmcs_get(v, VMCS_TSC_OFFSET) : 0;
	x->vpid = x->proc2 & PROC2_VPID ? (uint16_t)vmcs_get(v, VMCS_VPID) : 0;
	x->eptp = x->proc2 & PROC2_EPT ? vmcs_get(v, VMCS_EPTP) : 0;
	x->virtual_apic = x->proc & PROC_TPR_SHADOW ? vmcs_get(v, VMCS_VIRTUAL_APIC_ADDR) : 0;
	x->tpr_threshold = x->proc & PROC_TPR_SHADOW ? vmcs_get32(v, VMCS_TPR_THRESHOLD) : 0;
	x->vm_functions = x->proc2 & PROC2_VM_FUNCTIONS ? vmcs_get(v, VMCS_VM_FUNCTION_CTL) : 0;
	x->eptp_list = x->vm_functions ? vmcs_get(v, VMCS_EPTP_LIST) : 0;
	x->vmread_bitmap = x->proc2 & PROC2_SHADOW_VMCS ? vmcs_get(v, VMCS_VMREAD_BITMAP) : 0;
	x->vmwrite_bitmap = x->proc2 & PROC2_SHADOW_VMCS ? vmcs_get(v, VMCS_VMWRITE_BITMAP) : 0;
	x->pml_log = x->proc2 & PROC2_PML ? vmcs_get(v, VMCS_PML_ADDRESS) : 0;
}

/* ---- "Checks on VMX Controls" ---- */

static bool control_ok(struct vmx_allowed a, uint32_t v) { return (v & a.must) == a.must && !(v & ~a.may); }

static bool page_pointer_ok(const struct cpu *cpu, uint64_t a)
{
	return !(a & ~PAGE_MASK) && vmx_physical_ok(cpu, a);
}

/* ... of the TPR shadow, VM functions and VMCS shadowing; without them the addresses are 0 */
static bool further_controls_ok(const struct cpu *cpu, const struct vmx_state *x)
{
	if (!page_pointer_ok(cpu, x->virtual_apic) || x->tpr_threshold >> 4)
		return false;
	if (!page_pointer_ok(cpu, x->vmread_bitmap) || !page_pointer_ok(cpu, x->vmwrite_bitmap))
		return false;
	if (x->vm_functions & ~vmx_function_bits(cpu) || (x->vm_functions && !(x->proc2 & PROC2_EPT)))
		return false;
	return page_pointer_ok(cpu, x->eptp_list);
}

/* "VM-Execution Control Fields" */
static bool execution_controls_ok(const struct cpu *cpu, const struct vmx_state *x)
{
	if (!control_ok(vmx_allowed_pin(cpu), x->pin) || !control_ok(vmx_allowed_proc(cpu), x->proc) ||
	    !control_ok(vmx_allowed_proc2(cpu), x->proc2))
		return false;
	if (x->cr3_target_count > ARRAY_SIZE(x->cr3_target))
		return false;
	if (x->proc & PROC_IO_BITMAPS &&
	    (!page_pointer_ok(cpu, x->io_bitmap_a) || !page_pointer_ok(cpu, x->io_bitmap_b)))
		return false;
	if (x->proc & PROC_MSR_BITMAPS && !page_pointer_ok(cpu, x->msr_bitmap))
		return false;
	if (!(x->pin & PIN_NMI) && x->pin & PIN_VIRTUAL_NMI)
		return false;
	if (!(x->pin & PIN_VIRTUAL_NMI) && x->proc & PROC_NMI_WINDOW)
		return false;
	if (x->proc2 & PROC2_VPID && !x->vpid)
		return false;
	if (x->proc2 & PROC2_EPT && !vmx_eptp_ok(cpu, x->eptp))
		return false;
	if (x->proc2 & PROC2_PML && (!(x->proc2 & PROC2_EPT) || !page_pointer_ok(cpu, x->pml_log)))
		return false;
	return (!(x->proc2 & PROC2_UNRESTRICTED) || x->proc2 & PROC2_EPT) && further_controls_ok(cpu, x);
}

static bool msr_area_ok(const struct cpu *cpu, uint64_t area, uint32_t count)
{
	return !count || (!(area & 15) && vmx_physical_ok(cpu, area) &&
			  vmx_physical_ok(cpu, area + 16ull * count - 1));
}

bool vmx_controls_ok(const struct cpu *cpu, const struct vmx_state *x)
{
	return execution_controls_ok(cpu, x) && control_ok(vmx_allowed_exit(cpu), x->exit_ctl) &&
	       control_ok(vmx_allowed_entry(cpu), x->entry_ctl) && (x->proc2 & PROC2_EPT || !x->eptp) &&
	       (x->proc2 & PROC2_VPID || !x->vpid) && (x->proc & PROC_SECONDARY || !x->proc2);
}

/* "VM-Exit Control Fields" */
static bool exit_controls_ok(const struct cpu *cpu, const uint8_t *v)
{
	const struct vmx_state *x = &cpu->vmx;

	if (!control_ok(vmx_allowed_exit(cpu), x->exit_ctl))
		return false;
	if (!(x->pin & PIN_PREEMPTION_TIMER) && x->exit_ctl & EXIT_SAVE_PREEMPTION)
		return false;
	return msr_area_ok(cpu, vmcs_get(v, VMCS_EXIT_MSR_STORE_ADDR),
			   vmcs_get32(v, VMCS_EXIT_MSR_STORE_COUNT)) &&
	       msr_area_ok(cpu, vmcs_get(v, VMCS_EXIT_MSR_LOAD_ADDR),
			   vmcs_get32(v, VMCS_EXIT_MSR_LOAD_COUNT));
}

static unsigned info_type(uint32_t info) { return (info & INTR_INFO_TYPE) >> INTR_INFO_TYPE_SHIFT; }

static bool pushes_error(unsigned vector)
{
	return vector < 32 && (1u << EXC_DF | 1u << EXC_TS | 1u << EXC_NP | 1u << EXC_SS | 1u << EXC_GP |
			       1u << EXC_PF | 1u << EXC_AC) >> vector & 1;
}

static bool injected_vector_ok(unsigned type, unsigned vector)
{
	switch (type) {
	case 1: return false;
	case EVENT_NMI: return vector == EXC_NMI;
	case EVENT_HW_EXCEPTION: return vector <= 31;
	case INTR_TYPE_OTHER: return vector == 0;
	default: return true;
	}
}

static bool injected_error_ok(const struct cpu *cpu, const uint8_t *v, uint32_t info)
{
	bool real = cpu->vmx.proc2 & PROC2_UNRESTRICTED && !(vmcs_get(v, VMCS_GUEST_CR0) & CR0_PE);
	bool wanted = !real && info_type(info) == EVENT_HW_EXCEPTION && pushes_error(info & INTR_INFO_VECTOR);

	if ((info & INTR_INFO_ERROR) != (wanted ? INTR_INFO_ERROR : 0))
		return false;
	return !wanted || !(vmcs_get(v, VMCS_ENTRY_EXCEPTION_ERROR) >> 16);
}

/* "VM-Entry Control Fields", the part about event injection */
static bool injection_ok(const struct cpu *cpu, const uint8_t *v)
{
	uint32_t info = vmcs_get32(v, VMCS_ENTRY_INTR_INFO);
	unsigned type = info_type(info);

	if (!(info & INTR_INFO_VALID))
		return true;
	if (!injected_vector_ok(type, info & INTR_INFO_VECTOR) || !injected_error_ok(cpu, v, info) ||
	    info & 0x7ffff000)
		return false;
	if (type == EVENT_SOFT_INT || type == EVENT_SOFT_EXCEPTION || type == EVENT_PRIV_SOFT_EXCEPTION)
		return vmcs_get(v, VMCS_ENTRY_INSN_LEN) <= 15;
	return true;
}

/* "VM-Entry Control Fields", the rest */
static bool entry_controls_ok(const struct cpu *cpu, const uint8_t *v)
{
	return control_ok(vmx_allowed_entry(cpu), cpu->vmx.entry_ctl) &&
	       msr_area_ok(cpu, vmcs_get(v, VMCS_ENTRY_MSR_LOAD_ADDR),
			   vmcs_get32(v, VMCS_ENTRY_MSR_LOAD_COUNT));
}

static bool check_controls(struct cpu *cpu, const uint8_t *v)
{
	if (cpu->vmx.dirty & VMX_DIRTY_CONTROLS) {
		load_controls(&cpu->vmx, v);
		if (!execution_controls_ok(cpu, &cpu->vmx) || !exit_controls_ok(cpu, v) || !entry_controls_ok(cpu, v))
			return false;
	}
	/* The virtual TPR is not in the VMCS: looked at each time. */
	if (cpu->vmx.proc & PROC_TPR_SHADOW && vmx_virtual_cr8(cpu) < cpu->vmx.tpr_threshold)
		return false;
	return injection_ok(cpu, v);
}

/* ---- "Checks on Host-State Area" ---- */

static bool cr0_ok(uint64_t cr0, bool unrestricted)
{
	uint64_t must = CR0_NE | (unrestricted ? 0 : CR0_PE | CR0_PG);

	return !(cr0 >> 32) && (cr0 & must) == must;
}

static bool cr4_ok(const struct cpu *cpu, uint64_t cr4)
{
	return cr4 & CR4_VMXE && !(cr4 & ~vmx_cr4_bits(cpu));
}

/* "Checks on Host Control Registers, MSRs, and SSP" */
static bool host_registers_ok(const struct cpu *cpu, const uint8_t *v)
{
	uint32_t ctl = cpu->vmx.exit_ctl;
	uint64_t mode = ctl & EXIT_HOST_64 ? EFER_LMA | EFER_LME : 0, efer = vmcs_get(v, VMCS_HOST_EFER);

	if (!cr0_ok(vmcs_get(v, VMCS_HOST_CR0), false) || !cr4_ok(cpu, vmcs_get(v, VMCS_HOST_CR4)) ||
	    !vmx_physical_ok(cpu, vmcs_get(v, VMCS_HOST_CR3)) ||
	    !vmx_canonical(cpu, vmcs_get(v, VMCS_HOST_SYSENTER_ESP)) ||
	    !vmx_canonical(cpu, vmcs_get(v, VMCS_HOST_SYSENTER_EIP)))
		return false;
	if (ctl & EXIT_LOAD_PAT && !vmx_pat_ok(vmcs_get(v, VMCS_HOST_PAT)))
		return false;
	return !(ctl & EXIT_LOAD_EFER) ||
	       (!(efer & ~vmx_efer_bits(cpu)) && (efer & (EFER_LMA | EFER_LME)) == mode);
}

/* "Checks on Host Segment and Descriptor-Table Registers" */
static bool host_segments_ok(const struct cpu *cpu, const uint8_t *v)
{
	static const uint16_t base[] = {VMCS_HOST_FS_BASE, VMCS_HOST_GS_BASE, VMCS_HOST_TR_BASE,
					VMCS_HOST_GDTR_BASE, VMCS_HOST_IDTR_BASE};

	for (uint32_t f = VMCS_HOST_ES_SEL; f <= VMCS_HOST_TR_SEL; f += 2)
		if (vmcs_get(v, f) & 7)
			return false;
	if (!vmcs_get(v, VMCS_HOST_CS_SEL) || !vmcs_get(v, VMCS_HOST_TR_SEL))
		return false;
	if (!(cpu->vmx.exit_ctl & EXIT_HOST_64) && !vmcs_get(v, VMCS_HOST_SS_SEL))
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(base); i++)
		if (!vmx_canonical(cpu, vmcs_get(v, base[i])))
			return false;
	return true;
}

/* "Checks Related to Address-Space Size": the host's */
static bool host_address_space_ok(const struct cpu *cpu, const uint8_t *v)
{
	uint64_t cr4 = vmcs_get(v, VMCS_HOST_CR4), rip = vmcs_get(v, VMCS_HOST_RIP);

	if (cpu->vmx.exit_ctl & EXIT_HOST_64)
		return cr4 & CR4_PAE && vmx_canonical(cpu, rip);
	return !(cr4 & CR4_PCIDE) && !(rip >> 32);
}

/* These depend on the processor's own mode, too: made at every entry. */
static bool address_space_ok(const struct cpu *cpu, const uint8_t *v)
{
	bool host64 = cpu->vmx.exit_ctl & EXIT_HOST_64, guest64 = cpu->vmx.entry_ctl & ENTRY_IA32E;

	return host64 == !!(cpu->efer & EFER_LMA) && (host64 || !guest64) && host_address_space_ok(cpu, v);
}

bool vmx_host_state_ok(const struct cpu *cpu, const uint8_t *v)
{
	return host_registers_ok(cpu, v) && host_segments_ok(cpu, v) && host_address_space_ok(cpu, v);
}

static bool check_host_state(struct cpu *cpu, const uint8_t *v)
{
	if (cpu->vmx.dirty & VMX_DIRTY_HOST && (!host_registers_ok(cpu, v) || !host_segments_ok(cpu, v)))
		return false;
	return address_space_ok(cpu, v);
}

/* ---- "Checks on the Guest-State Area" ---- */

enum { GUEST_LDTR = SEG_COUNT, GUEST_TR, GUEST_SEGMENTS };

/* Guest state being checked, as read from the VMCS once. */
struct guest {
	struct seg seg[GUEST_SEGMENTS]; /* ES, CS, SS, DS, FS, GS, LDTR, TR */
	uint64_t cr0, cr3, cr4, efer, pat, dr7, debugctl;
	uint64_t rip, rflags, pending_debug;
	uint64_t gdtr_base, idtr_base;
	uint64_t sysenter_esp, sysenter_eip;
	uint64_t pdpte[4];
	uint32_t gdtr_limit, idtr_limit;
	uint32_t interruptibility, activity;
	uint32_t intr_info;             /* the event to inject */
	bool ia32e, v86, pae, unrestricted;
	uint64_t qualification;         /* of the exit if a check fails */
};

static void read_guest(const struct cpu *cpu, const uint8_t *v, struct guest *g)
{
	for (unsigned i = 0; i < GUEST_SEGMENTS; i++)
		g->seg[i] = (struct seg){.sel = (uint16_t)vmcs_get(v, VMCS_GUEST_ES_SEL + 2 * i),
					 .attr = vmcs_get32(v, VMCS_GUEST_ES_AR + 2 * i),
					 .limit = vmcs_get32(v, VMCS_GUEST_ES_LIMIT + 2 * i),
					 .base = vmcs_get(v, VMCS_GUEST_ES_BASE + 2 * i)};
	g->cr0 = vmcs_get(v, VMCS_GUEST_CR0);
	g->cr3 = vmcs_get(v, VMCS_GUEST_CR3);
	g->cr4 = vmcs_get(v, VMCS_GUEST_CR4);
	g->efer = vmcs_get(v, VMCS_GUEST_EFER);
	g->pat = vmcs_get(v, VMCS_GUEST_PAT);
	g->dr7 = vmcs_get(v, VMCS_GUEST_DR7);
	g->debugctl = vmcs_get(v, VMCS_GUEST_DEBUGCTL);
	g->rip = vmcs_get(v, VMCS_GUEST_RIP);
	g->rflags = vmcs_get(v, VMCS_GUEST_RFLAGS);
	g->pending_debug = vmcs_get(v, VMCS_GUEST_PENDING_DEBUG);
	g->gdtr_base = vmcs_get(v, VMCS_GUEST_GDTR_BASE);
	g->idtr_base = vmcs_get(v, VMCS_GUEST_IDTR_BASE);
	g->gdtr_limit = vmcs_get32(v, VMCS_GUEST_GDTR_LIMIT);
	g->idtr_limit = vmcs_get32(v, VMCS_GUEST_IDTR_LIMIT);
	g->sysenter_esp = vmcs_get(v, VMCS_GUEST_SYSENTER_ESP);
	g->sysenter_eip = vmcs_get(v, VMCS_GUEST_SYSENTER_EIP);
	g->interruptibility = vmcs_get32(v, VMCS_GUEST_INTERRUPTIBILITY);
	g->activity = vmcs_get32(v, VMCS_GUEST_ACTIVITY);
	g->intr_info = vmcs_get32(v, VMCS_ENTRY_INTR_INFO);
	g->ia32e = cpu->vmx.entry_ctl & ENTRY_IA32E;
	g->v86 = g->rflags & RF_VM;
	g->pae = g->cr0 & CR0_PG && g->cr4 & CR4_PAE && !g->ia32e;
	g->unrestricted = cpu->vmx.proc2 & PROC2_UNRESTRICTED;
	g->qualification = ENTRY_FAIL_DEFAULT;
}

static bool injects(const struct guest *g) { return g->intr_info & INTR_INFO_VALID; }
static bool injects_type(const struct guest *g, unsigned type)
{
	return injects(g) && info_type(g->intr_info) == type;
}
static bool usable(const struct seg *s) { return !(s->attr & SEG_AR_UNUSABLE); }
static unsigned seg_type(const struct seg *s) { return s->attr & SEG_AR_TYPE; }
static unsigned seg_level(const struct seg *s) { return s->attr >> SEG_AR_DPL_SHIFT & 3; }

/* "Checks on Guest Control Registers, Debug Registers, and MSRs" */
static bool guest_cr_ok(const struct cpu *cpu, const struct guest *g)
{
	if (!cr0_ok(g->cr0, g->unrestricted) || (g->cr0 & CR0_PG && !(g->cr0 & CR0_PE)))
		return false;
	if (!cr4_ok(cpu, g->cr4))
		return false;
	if (g->ia32e && !(g->cr0 & CR0_PG && g->cr4 & CR4_PAE))
		return false;
	if (!g->ia32e && g->cr4 & CR4_PCIDE)
		return false;
	return vmx_physical_ok(cpu, g->cr3);
}

static bool guest_msrs_ok(const struct cpu *cpu, const struct guest *g)
{
	uint32_t ctl = cpu->vmx.entry_ctl;
	bool lma = g->efer & EFER_LMA, lme = g->efer & EFER_LME;

	if (ctl & ENTRY_LOAD_DEBUG && (g->debugctl & ~DEBUGCTL_VALID || g->dr7 >> 32))
		return false;
	if (!vmx_canonical(cpu, g->sysenter_esp) || !vmx_canonical(cpu, g->sysenter_eip))
		return false;
	if (ctl & ENTRY_LOAD_PAT && !vmx_pat_ok(g->pat))
		return false;
	return !(ctl & ENTRY_LOAD_EFER) || (!(g->efer & ~vmx_efer_bits(cpu)) && lma == g->ia32e &&
					    (lma == lme || !(g->cr0 & CR0_PG)));
}

/* "Checks on Guest Segment Registers": selectors and bases */
static bool guest_selectors_ok(const struct guest *g)
{
	const struct seg *ldtr = &g->seg[GUEST_LDTR];

	if (g->seg[GUEST_TR].sel & 4 || (usable(ldtr) && ldtr->sel & 4))
		return false;
	return g->v86 || g->unrestricted || (g->seg[SEG_SS].sel & 3) == (g->seg[SEG_CS].sel & 3);
}

static bool guest_bases_ok(const struct cpu *cpu, const struct guest *g)
{
	const struct seg *ldtr = &g->seg[GUEST_LDTR];

	if (!vmx_canonical(cpu, g->seg[GUEST_TR].base) || !vmx_canonical(cpu, g->seg[SEG_FS].base) ||
	    !vmx_canonical(cpu, g->seg[SEG_GS].base) || (usable(ldtr) && !vmx_canonical(cpu, ldtr->base)))
		return false;
	for (unsigned i = SEG_ES; i <= SEG_DS; i++)
		if (g->seg[i].base >> 32 && (i == SEG_CS || usable(&g->seg[i])))
			return false;
	return true;
}

static bool segment_v86_ok(const struct seg *s)
{
	return s->base == (uint64_t)s->sel << 4 && s->limit == 0xffff && s->attr == 0xf3;
}

/* What the access rights of every usable segment must satisfy: presence, reserved bits, granularity. */
static bool rights_common_ok(const struct seg *s)
{
	bool g = s->attr & SEG_AR_G;

	if (!(s->attr & SEG_AR_P) || s->attr & 0xfffe0f00)
		return false;
	return g ? (s->limit & 0xfff) == 0xfff : !(s->limit >> 20);
}

static bool cs_ok(const struct guest *g)
{
	const struct seg *cs = &g->seg[SEG_CS];
	unsigned level = seg_level(cs), ss_level = seg_level(&g->seg[SEG_SS]);

	switch (seg_type(cs)) {
	case 3:
		if (!g->unrestricted || level != 0)
			return false;
		break;
	case 9: case 11:
		if (level != ss_level)
			return false;
		break;
	case 13: case 15:
		if (level > ss_level)
			return false;
		break;
	default:
		return false;
	}
	if (!(cs->attr & SEG_AR_S) || (g->ia32e && cs->attr & SEG_AR_L && cs->attr & SEG_AR_DB))
		return false;
	return rights_common_ok(cs);
}

static bool ss_ok(const struct guest *g)
{
	const struct seg *ss = &g->seg[SEG_SS];

	if (!g->unrestricted && seg_level(ss) != (ss->sel & 3u))
		return false;
	if ((seg_type(&g->seg[SEG_CS]) == 3 || !(g->cr0 & CR0_PE)) && seg_level(ss))
		return false;
	if (!usable(ss))
		return true;
	return (seg_type(ss) == 3 || seg_type(ss) == 7) && ss->attr & SEG_AR_S && rights_common_ok(ss);
}

static bool data_segment_ok(const struct guest *g, const struct seg *s)
{
	if (!usable(s))
		return true;
	if (!(s->attr & SEG_AR_A) || (s->attr & SEG_AR_CODE && !(s->attr & SEG_AR_RW)) ||
	    !(s->attr & SEG_AR_S))
		return false;
	if (!g->unrestricted && seg_type(s) <= 11 && seg_level(s) < (s->sel & 3u))
		return false;
	return rights_common_ok(s);
}

static bool system_segments_ok(const struct guest *g)
{
	const struct seg *tr = &g->seg[GUEST_TR], *ldtr = &g->seg[GUEST_LDTR];

	if (!usable(tr) || tr->attr & SEG_AR_S || !rights_common_ok(tr))
		return false;
	if (seg_type(tr) != 11 && (g->ia32e || seg_type(tr) != 3))
		return false;
	return !usable(ldtr) || (seg_type(ldtr) == 2 && !(ldtr->attr & SEG_AR_S) && rights_common_ok(ldtr));
}

static bool guest_segments_ok(const struct cpu *cpu, const struct guest *g)
{
	if (!guest_selectors_ok(g) || !guest_bases_ok(cpu, g) || !system_segments_ok(g))
		return false;
	if (g->v86) {
		for (unsigned i = 0; i < SEG_COUNT; i++)
			if (!segment_v86_ok(&g->seg[i]))
				return false;
		return true;
	}
	return cs_ok(g) && ss_ok(g) && data_segment_ok(g, &g->seg[SEG_ES]) &&
	       data_segment_ok(g, &g->seg[SEG_DS]) && data_segment_ok(g, &g->seg[SEG_FS]) &&
	       data_segment_ok(g, &g->seg[SEG_GS]);
}

/* "Checks on Guest Descriptor-Table Registers" */
static bool guest_tables_ok(const struct cpu *cpu, const struct guest *g)
{
	return vmx_canonical(cpu, g->gdtr_base) && vmx_canonical(cpu, g->idtr_base) &&
	       !(g->gdtr_limit >> 16) && !(g->idtr_limit >> 16);
}

/* Behind the last canonical address is a RIP that an instruction may end at: the highest bit may differ from the rest. */
static bool guest_rip64_ok(const struct cpu *cpu, uint64_t rip)
{
	uint64_t high = rip >> (cpu_has(cpu, CPUF_LA57) ? 57 : 48);

	return !high || high == UINT64_MAX >> (cpu_has(cpu, CPUF_LA57) ? 57 : 48);
}

/* "Checks on Guest RIP, RFLAGS, and SSP" */
static bool guest_rip_rflags_ok(const struct cpu *cpu, const struct guest *g)
{
	bool code64 = g->ia32e && g->seg[SEG_CS].attr & SEG_AR_L;

	if (code64 ? !guest_rip64_ok(cpu, g->rip) : g->rip >> 32 != 0)
		return false;
	if (g->rflags & 0xffffffffffc08028ull || !(g->rflags & RF_ONE))
		return false;
	if (g->v86 && (g->ia32e || !(g->cr0 & CR0_PE)))
		return false;
	return g->rflags & RF_IF || !injects_type(g, EVENT_EXTERNAL);
}

/* "Checks on Guest Non-Register State": activity state */
static bool guest_activity_ok(const struct guest *g)
{
	unsigned vector = g->intr_info & INTR_INFO_VECTOR;

	if (g->activity == ACTIVITY_ACTIVE)
		return true;
	if (g->activity != ACTIVITY_HLT || seg_level(&g->seg[SEG_SS]) ||
	    g->interruptibility & (INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOVSS))
		return false;
	if (!injects(g) || injects_type(g, EVENT_EXTERNAL) || injects_type(g, EVENT_NMI) ||
	    injects_type(g, INTR_TYPE_OTHER))
		return true;
	return injects_type(g, EVENT_HW_EXCEPTION) && (vector == EXC_DB || vector == EXC_MC);
}

/* interruptibility state */
static bool guest_interruptibility_ok(const struct cpu *cpu, struct guest *g)
{
	uint32_t s = g->interruptibility, shadow = s & (INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOVSS);
	bool nmi = injects_type(g, EVENT_NMI);

	if (s & ~15u || shadow == (INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOVSS) || s & INTERRUPTIBILITY_SMI)
		return false;
	if (s & INTERRUPTIBILITY_STI && !(g->rflags & RF_IF))
		return false;
	if (shadow && injects_type(g, EVENT_EXTERNAL))
		return false;
	if (nmi &&
	    (s & INTERRUPTIBILITY_MOVSS || (s & INTERRUPTIBILITY_NMI && cpu->vmx.pin & PIN_VIRTUAL_NMI)))
		return false;
	if (nmi && s & INTERRUPTIBILITY_STI) {
		g->qualification = ENTRY_FAIL_NMI_STI;
		return false;
	}
	return true;
}

/* pending debug exceptions */
static bool guest_pending_debug_ok(const struct cpu *cpu, const struct guest *g)
{
	uint64_t debugctl = cpu->vmx.entry_ctl & ENTRY_LOAD_DEBUG ? g->debugctl : cpu->vmx.debugctl;
	bool step = g->rflags & RF_TF && !(debugctl & DEBUGCTL_BTF);

	if (g->pending_debug & ~(PENDING_DEBUG_B | PENDING_DEBUG_ENABLED | PENDING_DEBUG_BS))
		return false;
	if (!(g->interruptibility & (INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOVSS)) &&
	    g->activity != ACTIVITY_HLT)
		return true;
	return step == !!(g->pending_debug & PENDING_DEBUG_BS);
}

/* VMCS link pointer: a shadow VMCS with VMCS shadowing, else an ordinary one. */
static bool guest_link_ok(const struct cpu *cpu, const uint8_t *v, struct guest *g)
{
	uint32_t revision = VMCS_REVISION | (cpu->vmx.proc2 & PROC2_SHADOW_VMCS ? VMCS_SHADOW : 0);
	uint64_t link = vmcs_get(v, VMCS_GUEST_VMCS_LINK);

	if (link == VMCS_NONE || (page_pointer_ok(cpu, link) && link != cpu->vmx.current.v &&
				  cpu_phys_read32(cpu, link) == revision))
		return true;
	g->qualification = ENTRY_FAIL_LINK_POINTER;
	return false;
}

bool vmx_pdptes_ok(const struct cpu *cpu, const uint64_t pdpte[4])
{
	for (unsigned i = 0; i < 4; i++)
		if (pdpte[i] & PTE_P && (pdpte[i] & 0x1e6 || !vmx_physical_ok(cpu, pdpte[i])))
			return false;
	return true;
}

bool vmx_read_pdptes(const struct cpu *cpu, uint64_t cr3, uint64_t pdpte[4])
{
	for (unsigned i = 0; i < 4; i++)
		pdpte[i] = cpu_phys_read64(cpu, (cr3 & 0xffffffe0) + 8 * i);
	return vmx_pdptes_ok(cpu, pdpte);
}

/* "Checks on Guest Page-Directory-Pointer-Table Entries"; with EPT they are in the VMCS. */
static bool guest_pdptes_ok(const struct cpu *cpu, const uint8_t *v, struct guest *g)
{
	bool ok;

	if (!g->pae)
		return true;
	if (cpu->vmx.proc2 & PROC2_EPT) {
		for (unsigned i = 0; i < 4; i++)
			g->pdpte[i] = vmcs_get(v, VMCS_GUEST_PDPTE0 + 2 * i);
		ok = vmx_pdptes_ok(cpu, g->pdpte);
	} else {
		ok = vmx_read_pdptes(cpu, g->cr3, g->pdpte);
	}
	if (!ok)
		g->qualification = ENTRY_FAIL_PDPTE;
	return ok;
}

static bool check_guest_state(const struct cpu *cpu, const uint8_t *v, struct guest *g)
{
	return guest_cr_ok(cpu, g) && guest_msrs_ok(cpu, g) && guest_segments_ok(cpu, g) &&
	       guest_tables_ok(cpu, g) && guest_rip_rflags_ok(cpu, g) && guest_activity_ok(g) &&
	       guest_interruptibility_ok(cpu, g) && guest_pending_debug_ok(cpu, g) &&
	       guest_link_ok(cpu, v, g) && guest_pdptes_ok(cpu, v, g);
}

/* ---- "Loading Guest State" ---- */

static void load_guest_controls(struct cpu *cpu, const uint8_t *v, const struct guest *g)
{
	uint32_t ctl = cpu->vmx.entry_ctl;

	cpu->cr0 = (cpu->cr0 & CR0_UNCHANGED) | (g->cr0 & ~CR0_UNCHANGED);
	cpu->cr3 = g->cr3;
	cpu->cr4 = g->cr4;
	if (g->pae)
		memcpy(cpu->pdpte, g->pdpte, sizeof(cpu->pdpte));
	if (ctl & ENTRY_LOAD_DEBUG) {
		cpu->dr7 = (g->dr7 & ~DR7_ZERO) | DR7_FIXED;
		cpu->vmx.debugctl = g->debugctl;
	}
	cpu->msr.sysenter_cs = vmcs_get(v, VMCS_GUEST_SYSENTER_CS);
	cpu->msr.sysenter_esp = g->sysenter_esp;
	cpu->msr.sysenter_eip = g->sysenter_eip;
	cpu->efer = (cpu->efer & ~EFER_LMA) | (g->ia32e ? EFER_LMA : 0);
	if (g->cr0 & CR0_PG)
		cpu->efer = (cpu->efer & ~EFER_LME) | (g->ia32e ? EFER_LME : 0);
	if (ctl & ENTRY_LOAD_EFER)
		cpu->efer = g->efer;
	if (ctl & ENTRY_LOAD_PAT)
		cpu->msr.pat = g->pat;
}

static void load_guest_registers(struct cpu *cpu, const uint8_t *v, const struct guest *g)
{
	memcpy(cpu->seg, g->seg, sizeof(cpu->seg));
	cpu->ldtr = g->seg[GUEST_LDTR];
	cpu->tr = g->seg[GUEST_TR];
	cpu->gdtr = (struct dtable){.base = g->gdtr_base, .limit = (uint16_t)g->gdtr_limit};
	cpu->idtr = (struct dtable){.base = g->idtr_base, .limit = (uint16_t)g->idtr_limit};
	cpu->gpr[REG_RIP] = g->rip;
	cpu->gpr[RSP] = vmcs_get(v, VMCS_GUEST_RSP);
	cpu_set_rflags(cpu, g->rflags);
	cpu->cpl = (uint8_t)seg_level(&g->seg[SEG_SS]);
}

/* "Delivery of Pending Debug Exceptions after VM Entry" */
static uint64_t pending_debug(const struct guest *g)
{
	unsigned type = info_type(g->intr_info);
	bool soft = type == EVENT_SOFT_INT || type == EVENT_SOFT_EXCEPTION;

	if (injects(g) && type != INTR_TYPE_OTHER && !(soft && g->interruptibility & INTERRUPTIBILITY_MOVSS))
		return 0;
	if (!(g->pending_debug & (PENDING_DEBUG_ENABLED | PENDING_DEBUG_BS)))
		return 0;
	/* As with INT n behind MOV SS itself: a breakpoint comes after it, a single step never. */
	if (injects(g) && soft)
		return g->pending_debug & PENDING_DEBUG_B;
	return g->pending_debug & (PENDING_DEBUG_B | PENDING_DEBUG_BS);
}

static void load_guest_nonregister(struct cpu *cpu, const uint8_t *v, const struct guest *g)
{
	struct vmx_state *x = &cpu->vmx;

	/* Without accessed and dirty flags for EPT nothing is ever logged; the index is not checked. */
	cpu->mmu.pml = (struct mmu_pml){.on = x->proc2 & PROC2_PML && x->eptp & EPTP_AD,
					.log = x->pml_log,
					.index = (uint16_t)vmcs_get(v, VMCS_GUEST_PML_INDEX)};
	x->pml_from = cpu->mmu.pml.index;
	x->link = x->proc2 & PROC2_SHADOW_VMCS ? vmcs_get(v, VMCS_GUEST_VMCS_LINK) : VMCS_NONE;
	cpu->shadow_sti = g->interruptibility & INTERRUPTIBILITY_STI;
	cpu->shadow_movss = g->interruptibility & INTERRUPTIBILITY_MOVSS;
	cpu->nmi_blocked = g->interruptibility & INTERRUPTIBILITY_NMI;
	cpu->halted = g->activity == ACTIVITY_HLT;
	cpu->db_pending = pending_debug(g);
	x->preemption_deadline = UINT64_MAX;
	if (x->pin & PIN_PREEMPTION_TIMER)
		x->preemption_deadline = cpu_tsc(cpu) + vmcs_get(v, VMCS_GUEST_PREEMPTION_TIMER);
}

/* Enters non-root operation with the guest's registers, before MSRs are loaded. */
static void load_guest_state(struct cpu *cpu, const uint8_t *v, const struct guest *g)
{
	struct vmx_state *x = &cpu->vmx;

	x->nonroot = true;
	x->mtf_pending = x->tpr_below = x->vectoring = x->injecting = x->nmi_unblocking_iret = false;
	load_guest_controls(cpu, v, g);
	load_guest_registers(cpu, v, g);
	load_guest_nonregister(cpu, v, g);
	if (!x->vpid && !cpu->emul_ops)
		mmu_flush_vpid_all(&cpu->mmu, 0);
	cpu_update_mode(cpu);
}

/* ---- "Event Injection" ---- */

/*
 * Delivers the event through the guest's IDT. It is not intercepted, and changes neither CR2 nor DR6;
 * what goes wrong in its delivery is. True if that ended in an exit, which is then complete.
 */
static bool inject(struct cpu *cpu, const uint8_t *v, uint32_t info)
{
	struct event ev = {.vector = (uint8_t)(info & INTR_INFO_VECTOR), .type = (uint8_t)info_type(info),
			   .has_error = info & INTR_INFO_ERROR};
	int r;

	if (ev.type == INTR_TYPE_OTHER) {
		cpu->vmx.mtf_pending = true;
		return false;
	}
	ev.error = vmcs_get32(v, VMCS_ENTRY_EXCEPTION_ERROR);
	ev.insn_len = (uint8_t)(ev.type >= EVENT_SOFT_INT ? vmcs_get(v, VMCS_ENTRY_INSN_LEN) : 0);
	cpu->halted = false;
	cpu->vmx.injecting = true;
	r = cpu_deliver_event(cpu, &ev);
	cpu->vmx.injecting = false;
	if (r == EXEC_STOP) {
		assert(cpu->stop.kind == STOP_VMEXIT);
		vmx_do_exit(cpu);
		return true;
	}
	return false;
}

/* ---- VMLAUNCH, VMRESUME ---- */

static enum vmx_result check_basics(struct cpu *cpu, bool launch)
{
	bool launched;

	if (!cpu->vmx.on || cpu->vmx.nonroot || cpu->vmx.current.v == VMCS_NONE || cpu->vmx.current_shadow)
		return VMX_FAIL_INVALID;
	if (cpu->shadow_movss)
		return vmx_fail(cpu, VMXERR_ENTRY_MOVSS);
	launched = get_u32(vmcs_region(cpu) + VMCS_OFF_LAUNCHED) != 0;
	if (launch && launched)
		return vmx_fail(cpu, VMXERR_VMLAUNCH_NOT_CLEAR);
	if (!launch && !launched)
		return vmx_fail(cpu, VMXERR_VMRESUME_NOT_LAUNCHED);
	return VMX_SUCCEED;
}

enum vmx_result vmx_enter(struct cpu *cpu, bool launch, bool *exited)
{
	enum vmx_result r = check_basics(cpu, launch);
	struct guest g;
	uint32_t bad;
	uint8_t *v;

	*exited = false;
	if (r != VMX_SUCCEED)
		return r;
	v = vmcs_region(cpu);
	if (!check_controls(cpu, v))
		return vmx_fail(cpu, VMXERR_ENTRY_CONTROLS);
	if (!check_host_state(cpu, v))
		return vmx_fail(cpu, VMXERR_ENTRY_HOST_STATE);
	cpu->vmx.dirty = 0;
	cpu->vmx.counts.entries++;

	read_guest(cpu, v, &g);
	vmx_tell(cpu, VMX_EVENT_ENTRY, g.rip, g.intr_info);
	*exited = true;
	if (!check_guest_state(cpu, v, &g)) {
		vmx_fail_entry(cpu, EXIT_REASON_ENTRY_GUEST_STATE, g.qualification);
		return VMX_SUCCEED;
	}
	load_guest_state(cpu, v, &g);
	bad = vmx_load_msrs(cpu, vmcs_get(v, VMCS_ENTRY_MSR_LOAD_ADDR),
			    vmcs_get32(v, VMCS_ENTRY_MSR_LOAD_COUNT));
	if (bad) {
		vmx_fail_entry(cpu, EXIT_REASON_ENTRY_MSR_LOAD, bad);
		return VMX_SUCCEED;
	}
	if (launch) {
		put_u32(v + VMCS_OFF_LAUNCHED, 1);
		vmcs_wrote(cpu);
	}
	*exited = injects(&g) && inject(cpu, v, g.intr_info);
	return VMX_SUCCEED;
}
