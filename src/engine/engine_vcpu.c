/*
 * A vCPU's state as it is saved: its table of fields, getting it from whoever executes it, and giving it to another.
 *
 * State that is loaded may be anybody's. What is checked here is what the processor relies on: registers hold values
 * that software could have written, one by one and together. Under a hypervisor VM entry checks once more.
 */
#include "engine/engine_impl.h"

#include "cpu/block.h"
#include "cpu/cpuid.h"
#include "cpu/dmt.h"
#include "cpu/msr.h"
#include "cpu/segment.h"
#include "cpu/vmx_vmcs.h"

#include <errno.h>

#define TIME_MAX     (1ull << 62) /* ns: 146 years */
#define MXCSR_VALID  0xffffu
#define CR0_BITS     (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define RFLAGS_ZERO  0xffffffffffc08028ull
#define SEG_AR_ZERO  0xfffe0f00u
#define DR7_ZERO     0xffffffff0000d000ull
#define PDPTE_ZERO   0x1e6ull

/* ---- the table ---- */

static const struct state_field seg_fields[] = {
	STATE_U(struct seg, sel), STATE_U_MAX(struct seg, attr, SEG_AR_UNUSABLE | 0xf0ff), STATE_U(struct seg, limit),
	STATE_U(struct seg, base),
};
static const struct state_desc seg_desc = STATE_DESC("segment", 1, seg_fields);

static const struct state_field dtable_fields[] = {STATE_U(struct dtable, base), STATE_U(struct dtable, limit)};
static const struct state_desc dtable_desc = STATE_DESC("descriptor-table", 1, dtable_fields);

#define MSR_FIELD(m) STATE_U(struct engine_msr_state, m)
static const struct state_field msr_fields[] = {
	MSR_FIELD(star), MSR_FIELD(lstar), MSR_FIELD(cstar), MSR_FIELD(fmask), MSR_FIELD(kernel_gs_base),
	MSR_FIELD(sysenter_cs), MSR_FIELD(sysenter_esp), MSR_FIELD(sysenter_eip), MSR_FIELD(pat), MSR_FIELD(tsc_aux),
	MSR_FIELD(misc_enable), MSR_FIELD(spec_ctrl), MSR_FIELD(debugctl), MSR_FIELD(mcg_status),
	MSR_FIELD(tsc_adjust), MSR_FIELD(mtrr_def_type), STATE_UV(struct engine_msr_state, mtrr_fixed),
	STATE_UV(struct engine_msr_state, mtrr_base), STATE_UV(struct engine_msr_state, mtrr_mask),
};
static const struct state_desc msr_desc = STATE_DESC("msr", 1, msr_fields);

static const struct state_field between_fields[] = {
	STATE_U_MAX(struct engine_between, insns, TIME_MAX), STATE_U_MAX(struct engine_between, now_ns, TIME_MAX),
	STATE_U(struct engine_between, tsc), STATE_U_MAX(struct engine_between, db_pending, 0xffff),
	STATE_B(struct engine_between, shadow_sti), STATE_B(struct engine_between, shadow_movss),
	STATE_B(struct engine_between, nmi_blocked), STATE_B(struct engine_between, nmi_pending),
	STATE_B(struct engine_between, halted), STATE_B(struct engine_between, extint_given),
	STATE_U(struct engine_between, extint_vector),
};
static const struct state_desc between_desc = STATE_DESC("between", 1, between_fields);

static const struct state_field dmt_fields[] = {
	STATE_U(struct engine_dmt, load), STATE_U(struct engine_dmt, request),
	STATE_UV_USED(struct engine_dmt, registers, register_words), STATE_UV_USED(struct engine_dmt, gteas, gtea_words),
	STATE_UV_USED(struct engine_dmt, huge, huge_words),
};
static const struct state_desc dmt_desc = STATE_DESC("dmt", 1, dmt_fields);

#define VMX_FIELD(m) STATE_U(struct vmx_state, m)
static const struct state_field vmx_state_fields[] = {
	STATE_B(struct vmx_state, on), STATE_B(struct vmx_state, nonroot), VMX_FIELD(dirty), VMX_FIELD(vmxon), VMX_FIELD(current),
	STATE_B(struct vmx_state, current_shadow), VMX_FIELD(virtual_apic), VMX_FIELD(tpr_threshold),
	VMX_FIELD(vmread_bitmap), VMX_FIELD(vmwrite_bitmap), VMX_FIELD(vm_functions), VMX_FIELD(eptp_list),
	VMX_FIELD(link), STATE_B(struct vmx_state, tpr_below),
	VMX_FIELD(pin), VMX_FIELD(proc), VMX_FIELD(proc2), VMX_FIELD(exit_ctl), VMX_FIELD(entry_ctl),
	VMX_FIELD(exception_bitmap), VMX_FIELD(pf_mask), VMX_FIELD(pf_match), VMX_FIELD(io_bitmap_a),
	VMX_FIELD(io_bitmap_b), VMX_FIELD(msr_bitmap), VMX_FIELD(cr0_mask), VMX_FIELD(cr0_shadow), VMX_FIELD(cr4_mask),
	VMX_FIELD(cr4_shadow), STATE_UV(struct vmx_state, cr3_target), VMX_FIELD(cr3_target_count), VMX_FIELD(tsc_offset),
	VMX_FIELD(eptp), VMX_FIELD(pml_log), VMX_FIELD(vpid), VMX_FIELD(preemption_deadline),
	STATE_B(struct vmx_state, mtf_pending),
};
static const struct state_desc vmx_state_desc = STATE_DESC("vmx-operation", 1, vmx_state_fields);

static const struct state_field pml_fields[] = {
	STATE_B(struct mmu_pml, on), STATE_U(struct mmu_pml, index), STATE_U(struct mmu_pml, log),
};
static const struct state_desc pml_desc = STATE_DESC("pml", 1, pml_fields);

static const struct state_field vmx_fields[] = {
	STATE_U(struct engine_vmx, feature_control), STATE_S(struct engine_vmx, state, &vmx_state_desc),
	STATE_S(struct engine_vmx, pml, &pml_desc),
};
static const struct state_desc vmx_desc = STATE_DESC("vmx", 1, vmx_fields);

#define VCPU_FIELD(m) STATE_U(struct engine_vcpu, m)
static const struct state_field vcpu_fields[] = {
	STATE_UV(struct engine_vcpu, gpr), VCPU_FIELD(rip), VCPU_FIELD(rflags),
	STATE_SV(struct engine_vcpu, seg, &seg_desc), STATE_S(struct engine_vcpu, ldtr, &seg_desc),
	STATE_S(struct engine_vcpu, tr, &seg_desc), STATE_S(struct engine_vcpu, gdtr, &dtable_desc),
	STATE_S(struct engine_vcpu, idtr, &dtable_desc), VCPU_FIELD(cr0), VCPU_FIELD(cr2), VCPU_FIELD(cr3),
	VCPU_FIELD(cr4), VCPU_FIELD(xcr0), VCPU_FIELD(efer), VCPU_FIELD(pkru), STATE_UV(struct engine_vcpu, dr),
	VCPU_FIELD(dr6), VCPU_FIELD(dr7), STATE_UV(struct engine_vcpu, pdpte), STATE_DATA(struct engine_vcpu, fx),
	STATE_DATA(struct engine_vcpu, ymm_hi), STATE_S(struct engine_vcpu, msr, &msr_desc),
	STATE_S(struct engine_vcpu, dmt, &dmt_desc), STATE_S(struct engine_vcpu, vmx, &vmx_desc), VCPU_FIELD(rng),
	STATE_S(struct engine_vcpu, between, &between_desc),
};
const struct state_desc engine_vcpu_desc = STATE_DESC("vcpu", 3, vcpu_fields);

/* ---- from a processor that holds the guest's registers, and to one ---- */

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return cr0 & CR0_PG && cr4 & CR4_PAE && !(efer & EFER_LMA);
}

static void get_msrs(const struct cpu *c, struct engine_msr_state *m)
{
	*m = (struct engine_msr_state){
		.star = c->msr.star, .lstar = c->msr.lstar, .cstar = c->msr.cstar, .fmask = c->msr.fmask,
		.kernel_gs_base = c->msr.kernel_gs_base, .sysenter_cs = c->msr.sysenter_cs,
		.sysenter_esp = c->msr.sysenter_esp, .sysenter_eip = c->msr.sysenter_eip, .pat = c->msr.pat,
		.tsc_aux = c->msr.tsc_aux, .misc_enable = c->msr.misc_enable, .spec_ctrl = c->msr.spec_ctrl,
		.debugctl = c->vmx.debugctl, .mcg_status = c->msr.mcg_status, .tsc_adjust = c->msr.tsc_adjust,
		.mtrr_def_type = c->msr.mtrr_def_type,
	};
	static_assert(sizeof(m->mtrr_fixed) == sizeof(c->msr.mtrr_fixed), "all fixed ranges");
	memcpy(m->mtrr_fixed, c->msr.mtrr_fixed, sizeof(m->mtrr_fixed));
	memcpy(m->mtrr_base, c->msr.mtrr_base, sizeof(m->mtrr_base));
	memcpy(m->mtrr_mask, c->msr.mtrr_mask, sizeof(m->mtrr_mask));
}

static_assert(sizeof(struct dmt_entry) == 4 * 8 && sizeof(struct pv_range) == 2 * 8, "saved as words");

/* Words of ranges up to the last that there is. */
static uint32_t range_words(const struct pv_range *r, unsigned n)
{
	while (n && !r[n - 1].pages)
		n--;
	return 2 * n;
}

void engine_cpu_get_dmt(const struct cpu *c, struct engine_dmt *d)
{
	const struct pv_state *s = &c->pv.state;

	d->load = c->pv.load;
	d->request = c->pv.request;
	d->register_words = 4 * cpu_dmt_count(c->pv.load);
	memcpy(d->registers, c->mmu.dmt.loaded, d->register_words * sizeof(d->registers[0]));
	d->gtea_words = range_words(s->tea, PV_TEAS_MAX);
	memcpy(d->gteas, s->tea, d->gtea_words * sizeof(d->gteas[0]));
	d->huge_words = range_words(s->huge, PV_HUGE_MAX);
	memcpy(d->huge, s->huge, d->huge_words * sizeof(d->huge[0]));
}

static void set_dmt(struct cpu *c, const struct engine_dmt *d)
{
	struct dmt_entry e[DMT_REGISTERS] = {{0}};

	memcpy(e, d->registers, d->register_words * sizeof(d->registers[0]));
	cpu_set_dmt(c, d->load, e);
	c->pv.request = d->request;
	memset(&c->pv.state, 0, sizeof(c->pv.state));
	memcpy(c->pv.state.tea, d->gteas, d->gtea_words * sizeof(d->gteas[0]));
	memcpy(c->pv.state.huge, d->huge, d->huge_words * sizeof(d->huge[0]));
}

void engine_cpu_get_vmx(const struct cpu *c, struct engine_vmx *x)
{
	if (!cpu_has(c, CPUF_VMX))
		return;
	x->feature_control = c->msr.feature_control;
	if (!c->vmx.on)
		return;
	x->state = c->vmx;
	if (c->vmx.nonroot)
		x->pml = c->mmu.pml;
	else
		x->state.preemption_deadline = 0;
}

/* What is no state, like counters and who is told, stays @c's. */
static void set_vmx(struct cpu *c, const struct engine_vmx *x)
{
	struct vmx_state s = x->state;

	s.outside = c->vmx.outside;
	s.walk = c->vmx.walk;
	s.counts = c->vmx.counts;
	s.tally = c->vmx.tally;
	s.debugctl = c->vmx.debugctl;
	if (!s.on)
		s.current.v = VMCS_NONE;
	if (!s.nonroot)
		s.preemption_deadline = UINT64_MAX;
	s.pml_from = x->pml.index;
	c->vmx = s;
	c->msr.feature_control = x->feature_control;
	c->mmu.pml = x->pml;
}

void engine_cpu_get_vcpu(const struct cpu *c, struct engine_vcpu *v)
{
	memset(v, 0, sizeof(*v));
	memcpy(v->gpr, c->gpr, sizeof(v->gpr));
	v->rip = c->gpr[REG_RIP];
	v->rflags = cpu_get_rflags(c);
	memcpy(v->seg, c->seg, sizeof(v->seg));
	v->ldtr = c->ldtr;
	v->tr = c->tr;
	v->gdtr = c->gdtr;
	v->idtr = c->idtr;
	v->cr0 = c->cr0;
	v->cr2 = c->cr2;
	v->cr3 = c->cr3;
	v->cr4 = c->cr4;
	v->xcr0 = c->xcr0;
	v->efer = c->efer;
	v->pkru = c->pkru;
	memcpy(v->dr, c->dr, sizeof(v->dr));
	v->dr6 = c->dr6;
	v->dr7 = c->dr7;
	if (pae_paging(c->cr0, c->cr4, c->efer))
		memcpy(v->pdpte, c->pdpte, sizeof(v->pdpte));
	memcpy(v->fx, c->fpu.fx, sizeof(v->fx));
	memcpy(v->ymm_hi, c->fpu.ymm_hi, sizeof(v->ymm_hi));
	get_msrs(c, &v->msr);
	engine_cpu_get_dmt(c, &v->dmt);
	engine_cpu_get_vmx(c, &v->vmx);
	v->rng = c->rng;
	v->between.shadow_sti = c->shadow_sti;
	v->between.shadow_movss = c->shadow_movss;
	v->between.nmi_blocked = c->nmi_blocked;
	v->lapic = c->lapic;
}

static void set_msrs(struct cpu *c, const struct engine_msr_state *m)
{
	c->msr.star = m->star;
	c->msr.lstar = m->lstar;
	c->msr.cstar = m->cstar;
	c->msr.fmask = m->fmask;
	c->msr.kernel_gs_base = m->kernel_gs_base;
	c->msr.sysenter_cs = m->sysenter_cs;
	c->msr.sysenter_esp = m->sysenter_esp;
	c->msr.sysenter_eip = m->sysenter_eip;
	c->msr.pat = m->pat;
	c->msr.tsc_aux = m->tsc_aux;
	c->msr.misc_enable = m->misc_enable;
	c->msr.spec_ctrl = m->spec_ctrl;
	c->vmx.debugctl = m->debugctl;
	c->msr.mcg_status = m->mcg_status;
	c->msr.tsc_adjust = m->tsc_adjust;
	c->msr.mtrr_def_type = m->mtrr_def_type;
	memcpy(c->msr.mtrr_fixed, m->mtrr_fixed, sizeof(m->mtrr_fixed));
	memcpy(c->msr.mtrr_base, m->mtrr_base, sizeof(m->mtrr_base));
	memcpy(c->msr.mtrr_mask, m->mtrr_mask, sizeof(m->mtrr_mask));
}

void engine_cpu_set_vcpu(struct cpu *c, const struct engine_vcpu *v)
{
	memcpy(c->gpr, v->gpr, sizeof(v->gpr));
	c->gpr[REG_RIP] = v->rip;
	memcpy(c->seg, v->seg, sizeof(v->seg));
	c->ldtr = v->ldtr;
	c->tr = v->tr;
	c->gdtr = v->gdtr;
	c->idtr = v->idtr;
	c->cr0 = v->cr0;
	c->cr2 = v->cr2;
	c->cr3 = v->cr3;
	c->cr4 = v->cr4;
	c->xcr0 = v->xcr0;
	c->efer = v->efer;
	c->pkru = v->pkru;
	memcpy(c->dr, v->dr, sizeof(v->dr));
	c->dr6 = v->dr6;
	c->dr7 = v->dr7;
	memcpy(c->pdpte, v->pdpte, sizeof(v->pdpte));
	memcpy(c->fpu.fx, v->fx, sizeof(v->fx));
	memcpy(c->fpu.ymm_hi, v->ymm_hi, sizeof(v->ymm_hi));
	set_msrs(c, &v->msr);
	set_dmt(c, &v->dmt);
	if (cpu_has(c, CPUF_VMX))
		set_vmx(c, &v->vmx);
	c->rng = v->rng;
	c->shadow_sti = v->between.shadow_sti;
	c->shadow_movss = v->between.shadow_movss;
	c->nmi_blocked = v->between.nmi_blocked;
	c->lapic = v->lapic;
	cpu_update_mode(c);
	cpu_set_rflags(c, v->rflags);
}

/* ---- is it possible? ---- */

static int impossible(struct error *err, const char *what)
{
	return error_set(err, -EINVAL, "state of vcpu: %s: no software can have brought that about", what);
}

static bool control_registers_ok(const struct cpu *c, const struct engine_vcpu *v)
{
	bool lma = v->efer & EFER_LMA, paging = v->cr0 & CR0_PG;

	if (v->cr0 & ~CR0_BITS || !(v->cr0 & CR0_ET) || (paging && !(v->cr0 & CR0_PE)) ||
	    (v->cr0 & CR0_NW && !(v->cr0 & CR0_CD)))
		return false;
	if (v->cr4 & ~(vmx_cr4_bits(c) & ~(cpu_has(c, CPUF_VMX) ? 0 : CR4_VMXE)) || v->efer & ~vmx_efer_bits(c))
		return false;
	if (lma != (paging && v->efer & EFER_LME) || (lma && !(v->cr4 & CR4_PAE)) || (v->cr4 & CR4_PCIDE && !lma))
		return false;
	return !(v->cr3 >> c->cfg.maxphyaddr);
}

static bool pdptes_ok(const struct cpu *c, const struct engine_vcpu *v)
{
	bool pae = pae_paging(v->cr0, v->cr4, v->efer);

	for (unsigned i = 0; i < 4; i++)
		if (pae ? v->pdpte[i] & PTE_P && (v->pdpte[i] & PDPTE_ZERO || v->pdpte[i] >> c->cfg.maxphyaddr)
			: v->pdpte[i])
			return false;
	return true;
}

static bool flags_ok(const struct engine_vcpu *v)
{
	const struct engine_between *b = &v->between;

	if (v->rflags & RFLAGS_ZERO || !(v->rflags & RF_ONE))
		return false;
	if (v->rflags & RF_VM && (!(v->cr0 & CR0_PE) || v->efer & EFER_LMA))
		return false;
	if ((b->shadow_sti && (b->shadow_movss || !(v->rflags & RF_IF))) ||
	    (b->halted && (b->shadow_sti || b->shadow_movss)))
		return false;
	return !(b->db_pending & ~(PENDING_DEBUG_B | DR6_BD | DR6_BS | DR6_BT));
}

static bool segments_ok(const struct cpu *c, const struct engine_vcpu *v)
{
	for (unsigned i = 0; i < SEG_COUNT; i++)
		if (v->seg[i].attr & SEG_AR_ZERO ||
		    (i >= SEG_FS ? !cpu_canonical_base(c, v->seg[i].base)
				 : v->seg[i].base >> 32 && !(v->seg[i].attr & SEG_AR_UNUSABLE)))
			return false;
	/* Privilege is where the hardware has it: none in real mode, 3 in virtual-8086 mode. */
	if (!(v->cr0 & CR0_PE) && seg_dpl(&v->seg[SEG_SS]))
		return false;
	if (v->rflags & RF_VM && seg_dpl(&v->seg[SEG_SS]) != 3)
		return false;
	return !(v->ldtr.attr & SEG_AR_ZERO) && !(v->tr.attr & SEG_AR_ZERO) && cpu_canonical_base(c, v->ldtr.base) &&
	       cpu_canonical_base(c, v->tr.base) && cpu_canonical_base(c, v->gdtr.base) &&
	       cpu_canonical_base(c, v->idtr.base);
}

static bool other_registers_ok(const struct cpu *c, const struct engine_vcpu *v)
{
	if (!(v->xcr0 & XCR0_X87) || v->xcr0 & ~cpu_xcr0_bits(&c->cfg) || (v->xcr0 & XCR0_AVX && !(v->xcr0 & XCR0_SSE)))
		return false;
	if (v->dr6 >> 32 || (v->dr6 & DR6_FIXED) != DR6_FIXED || v->dr7 & DR7_ZERO || !(v->dr7 & DR7_FIXED))
		return false;
	return !(get_u32(v->fx + FX_MXCSR) & ~MXCSR_VALID) && v->between.insns <= v->between.now_ns;
}

/* An MSR that is not as after RESET: WRMSR must take the value. @c becomes none the wiser: it is set afterwards. */
static bool msr_ok(struct cpu *c, uint32_t msr, uint64_t reset, uint64_t v)
{
	return v == reset || cpu_wrmsr(c, msr, v) == 0;
}

static bool mtrrs_ok(struct cpu *c, const struct engine_msr_state *m)
{
	for (unsigned i = 0; i < ARRAY_SIZE(m->mtrr_base); i++)
		if (!msr_ok(c, MSR_MTRR_PHYSBASE0 + 2 * i, 0, m->mtrr_base[i]) ||
		    !msr_ok(c, MSR_MTRR_PHYSBASE0 + 2 * i + 1, 0, m->mtrr_mask[i]))
			return false;
	for (unsigned i = 0; i < ARRAY_SIZE(m->mtrr_fixed); i++) {
		uint32_t msr = i == 0 ? MSR_MTRR_FIX64K_00000 : i < 3 ? MSR_MTRR_FIX16K_80000 + i - 1
								      : MSR_MTRR_FIX4K_C0000 + i - 3;

		if (!msr_ok(c, msr, 0, m->mtrr_fixed[i]))
			return false;
	}
	return msr_ok(c, MSR_MTRR_DEF_TYPE, 0, m->mtrr_def_type);
}

static bool msrs_ok(struct cpu *c, const struct engine_msr_state *m)
{
	return msr_ok(c, MSR_STAR, 0, m->star) && msr_ok(c, MSR_LSTAR, 0, m->lstar) && msr_ok(c, MSR_CSTAR, 0, m->cstar) &&
	       msr_ok(c, MSR_FMASK, 0, m->fmask) && msr_ok(c, MSR_KERNEL_GS_BASE, 0, m->kernel_gs_base) &&
	       m->sysenter_cs <= UINT32_MAX && msr_ok(c, MSR_SYSENTER_CS, 0, m->sysenter_cs) &&
	       msr_ok(c, MSR_SYSENTER_ESP, 0, m->sysenter_esp) && msr_ok(c, MSR_SYSENTER_EIP, 0, m->sysenter_eip) &&
	       msr_ok(c, MSR_PAT, c->msr.pat, m->pat) && msr_ok(c, MSR_TSC_AUX, 0, m->tsc_aux) &&
	       msr_ok(c, MSR_MISC_ENABLE, c->msr.misc_enable, m->misc_enable) &&
	       msr_ok(c, MSR_SPEC_CTRL, 0, m->spec_ctrl) && !(m->debugctl & ~DEBUGCTL_VALID) &&
	       msr_ok(c, MSR_MCG_STATUS, 0, m->mcg_status) && (cpu_has(c, CPUF_TSC_ADJUST) || cpu_has(c, CPUF_TSC) ||
	       !m->tsc_adjust) && mtrrs_ok(c, m);
}

/* As pv_serve() leaves them: whole, in RAM, and gTEAs apart from each other. */
static bool ranges_ok(const struct engine_vm *vm, const uint64_t *words, uint32_t n, bool apart)
{
	for (uint32_t i = 0; i < n; i += 2) {
		struct pv_range r = {words[i], words[i + 1]};
		struct pv_request asked = {.gpa = r.gpa, .pages = r.pages};

		if (!r.pages ? r.gpa != 0 : !machmem_holds(vm->ram, vm->rams, r.gpa, pv_range_bytes(&asked)))
			return false;
		for (uint32_t j = 0; j < i && apart; j += 2)
			if (pv_overlap(&r, &(struct pv_range){words[j], words[j + 1]}))
				return false;
	}
	return true;
}

static bool dmt_ok(const struct engine_vm *vm, const struct cpu *c, const struct engine_dmt *d)
{
	if (!cpu_has(c, CPUF_DMT))
		return !(d->load | d->request | d->gtea_words | d->huge_words | d->register_words);
	if (cpu_dmt_count(d->load) > DMT_REGISTERS || d->register_words != 4 * cpu_dmt_count(d->load) ||
	    (d->load | d->request) >> c->cfg.maxphyaddr || d->request & (sizeof(struct pv_request) - 1))
		return false;
	if (d->gtea_words % 2 || d->huge_words % 2 || !ranges_ok(vm, d->gteas, d->gtea_words, true))
		return false;
	for (uint32_t i = 0; i < d->huge_words; i += 2) /* in a row, and of 2 MiB */
		if (!d->huge[i + 1] || (d->huge[i] | d->huge[i + 1] << PAGE_SHIFT) & (SIZE_2M - 1))
			return false;
	return ranges_ok(vm, d->huge, d->huge_words, false);
}

static bool region_ok(const struct engine_vm *vm, hpa_t a)
{
	return !(a.v & ~PAGE_MASK) && machmem_holds(vm->ram, vm->rams, a.v, PAGE_SIZE);
}

/* Software in VMX operation, and a guest of its that VM entry can have let in. Addresses are looked at when used. */
static bool vmx_ok(const struct engine_vm *vm, const struct cpu *c, const struct engine_vcpu *v)
{
	const uint64_t enabled = FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMXON;
	const struct vmx_state *s = &v->vmx.state;

	if (v->vmx.feature_control & ~enabled || (v->vmx.feature_control && !cpu_has(c, CPUF_VMX)))
		return false;
	if (!s->on)
		return !s->nonroot && !v->vmx.pml.on;
	if (v->vmx.feature_control != enabled || !(v->cr4 & CR4_VMXE) || !(v->cr0 & CR0_NE))
		return false;
	if (s->current.v != VMCS_NONE && !region_ok(vm, s->current))
		return false;
	if (!s->nonroot)
		return v->cr0 & CR0_PE && v->cr0 & CR0_PG && !v->vmx.pml.on && !s->mtf_pending;
	if (s->link != VMCS_NONE && !region_ok(vm, hpa(s->link)))
		return false;
	return s->current.v != VMCS_NONE && !s->dirty && (!v->vmx.pml.on || s->proc2 & PROC2_PML);
}

/* Controls that are in force, or will be without being checked again. */
static bool vmx_controls_offered(const struct cpu *c, const struct vmx_state *s)
{
	return !s->on || s->current.v == VMCS_NONE || s->dirty & VMX_DIRTY_CONTROLS || vmx_controls_ok(c, s);
}

/* @c: the processor that is to have it */
static int check(const struct engine_vm *vm, struct cpu *c, const struct engine_vcpu *v, struct error *err)
{
	if (!control_registers_ok(c, v))
		return impossible(err, "CR0, CR3, CR4, EFER");
	if (!pdptes_ok(c, v))
		return impossible(err, "PDPTEs");
	if (!flags_ok(v))
		return impossible(err, "RFLAGS and what waits for the next instruction");
	if (!segments_ok(c, v))
		return impossible(err, "segment registers");
	if (!other_registers_ok(c, v))
		return impossible(err, "XCR0, MXCSR, debug registers, or the time");
	if (!dmt_ok(vm, c, &v->dmt))
		return impossible(err, "direct translation's registers, or requests");
	if (!vmx_ok(vm, c, v))
		return impossible(err, "VMX operation");
	if (!vmx_controls_offered(c, &v->vmx.state))
		return error_set(err, -EINVAL, "state of vcpu: VMX controls are set that this scheme does not offer its guests");
	return msrs_ok(c, &v->msr) ? 0 : impossible(err, "an MSR");
}

/* ---- for the owner ---- */

static struct cpu *guest_cpu(const struct engine_vm *vm) { return vm->hv ? vm->hv->emul : vm->cpu; }

bool engine_at_rest(struct engine_vm *vm) { return vm->ops->at_rest(vm); }

void engine_get_vcpu(struct engine_vm *vm, struct engine_vcpu *v)
{
	struct engine_between *b = &v->between;

	vm->ops->get_vcpu(vm, v);
	/* What the next look at the local APIC would find, whenever it comes. */
	lapic_advance(&v->lapic, b->tsc);
	b->nmi_pending |= v->lapic.nmi;
	v->lapic.nmi = false;
	/* An interrupt that has been acknowledged ends HLT whatever else happens. */
	b->halted &= !b->extint_given;
}

int engine_set_vcpu(struct engine_vm *vm, const struct engine_vcpu *v, struct error *err)
{
	int ret = check(vm, guest_cpu(vm), v, err);

	if (!ret)
		vm->ops->set_vcpu(vm, v);
	return ret;
}
