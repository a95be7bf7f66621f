/*
 * The instruction emulator: a second, private processor that executes one
 * instruction of the guest on memory as the guest sees it. It is the same code as
 * the machine's processor, so an emulated instruction cannot differ from a real
 * one; what is here is only loading and storing the vCPU's state, and what the
 * emulator's memory is: the guest's tables (guest_walk) and the p2m.
 *
 * Loading is the price of every emulated instruction, so nothing is derived that
 * did not change, and only what an instruction can have changed is written back.
 */
#include "hv/core.h"
#include "hv/dirty.h"
#include "hv/nested.h"

#include "cpu/dmt.h"

#include <assert.h>
#include <errno.h>

/* ---- the emulator's memory ---- */

static bool same_mode(const struct hv_guest_regs *g, const struct cpu *e)
{
	return g->cr0 == e->cr0 && g->cr4 == e->cr4 && g->efer == e->efer;
}

/* A task switch goes on in the new task's address space; a VM entry that injects an event in the inner guest's mode, too. */
static void follow_paging(struct hv_vm *vm)
{
	struct hv_guest_regs *g = &vm->guest;
	const struct cpu *e = vm->emul;

	hv_core(vm)->paging_changed |= !same_mode(g, e);
	hv_core(vm)->cr3_followed = true;
	*g = (struct hv_guest_regs){.cr0 = e->cr0, .cr3 = e->cr3, .cr4 = e->cr4, .efer = e->efer};
	memcpy(g->pdpte, e->pdpte, sizeof(g->pdpte));
}

static enum xlate_event translate(void *ctx, struct cpu *cpu, uint64_t lin, enum access_kind kind,
				  enum access_mode mode, struct xlate *out, bool *is_ram, uint64_t *a)
{
	struct hv_vm *vm = ctx;
	struct guest_walk w;
	mfn_t m = mfn(0);
	int r;

	if (unlikely(cpu->cr3 != vm->guest.cr3 || !same_mode(&vm->guest, cpu)))
		follow_paging(vm);
	guest_walk(vm, lin, kind, mode, true, &w);
	if (!w.ok && w.event) {
		*out = w.ept;
		return w.event;
	}
	if (!w.ok) {
		out->error_code = w.error;
		return XLATE_PAGE_FAULT;
	}
	*a = w.gpa;
	r = p2m_get(vm, gfn(w.gpa >> PAGE_SHIFT), &m, NULL);
	*is_ram = r == 0;
	if (r && r != -EFAULT) {
		hv_fail(vm, "no machine memory for guest-physical %llx", (unsigned long long)w.gpa);
		out->gpa = gpa(w.gpa);
		return XLATE_EPT_VIOLATION;
	}
	out->page = mfn_to_hpa(m);
	if (r == 0)
		hv_note_accessed(vm, w.gpa);
	if (r == 0 && kind != ACCESS_FETCH)
		vm->mmu->emulated_access(vm, w.gpa, 1, kind == ACCESS_WRITE);
	return XLATE_OK;
}

static void wrote(void *ctx, uint64_t a, unsigned bytes)
{
	struct hv_vm *vm = ctx;

	hv_ram_written(vm, a, bytes);
}

static bool physical(void *ctx, uint64_t a, hpa_t *out)
{
	struct hv_vm *vm = ctx;
	mfn_t m;

	if (p2m_get(vm, gfn(a >> PAGE_SHIFT), &m, NULL))
		return false;
	*out = hpa(m.v << PAGE_SHIFT | (a & ~PAGE_MASK));
	return true;
}

static enum xlate_event translate_gpa(void *ctx, uint64_t a, enum access_kind kind, struct xlate *out)
{
	struct hv_vm *vm = ctx;
	uint64_t rights;
	hpa_t at;

	if (vm->stage2) {
		enum xlate_event ev = vm->stage2(vm, a, kind, false, true, &a, &rights, out);

		if (ev)
			return ev;
	}
	out->page = physical(ctx, a & PAGE_MASK, &at) ? at : hpa(~0ull << PAGE_SHIFT);
	return XLATE_OK;
}

static bool holds(void *ctx, uint64_t a, uint64_t bytes)
{
	const struct hv_vm *vm = ctx;

	return machmem_holds(vm->ram, vm->rams, a, bytes);
}

static const struct cpu_emul_ops ops = {.translate = translate, .physical = physical,
					 .translate_gpa = translate_gpa, .holds = holds, .wrote = wrote,
					 .invept = nested_invept, .invvpid = nested_invvpid};

int hv_emulator_create(struct hv_vm *vm, struct error *err)
{
	struct cpu_config cfg = vm->cfg.cpu;
	int r;

	cfg.translate = false; /* it executes one instruction at a time */
	r = cpu_create(&vm->emul, vm->mem, &cfg, err);
	if (r)
		return r;
	vm->emul->emul_ops = &ops;
	vm->emul->emul_ctx = vm;
	return 0;
}

void hv_emulator_destroy(struct hv_vm *vm)
{
	if (vm->emul)
		cpu_destroy(vm->emul);
}

bool hv_read_linear(struct hv_vm *vm, uint64_t lin, void *buf, unsigned bytes)
{
	enum access_mode mode = hv_access_mode(vm);
	uint8_t *to = buf;

	while (bytes) {
		unsigned n = (unsigned)min_u64(bytes, PAGE_SIZE - (lin & ~PAGE_MASK));
		struct guest_walk w;
		const void *p;

		guest_walk(vm, lin, ACCESS_READ, mode, false, &w);
		p = w.ok ? p2m_ptr(vm, w.gpa) : NULL;
		if (!p)
			return false;
		memcpy(to, p, n);
		lin += n;
		to += n;
		bytes -= n;
	}
	return true;
}

/* ---- state: VMCS and live registers, to the emulator's processor ---- */

/* The VMCS fields of a segment register, in the order of SEG_*, LDTR, TR: all groups are laid out alike. */
#define SEG_LDTR 6
#define SEG_TR   7
#define FIELD_OF(first, n) ((enum vmcs_field)((first) + 2 * (n)))
static_assert(VMCS_GUEST_TR_SEL == VMCS_GUEST_ES_SEL + 2 * SEG_TR, "selectors in a row");
static_assert(VMCS_GUEST_TR_LIMIT == VMCS_GUEST_ES_LIMIT + 2 * SEG_TR, "limits in a row");
static_assert(VMCS_GUEST_TR_AR == VMCS_GUEST_ES_AR + 2 * SEG_TR, "rights in a row");
static_assert(VMCS_GUEST_TR_BASE == VMCS_GUEST_ES_BASE + 2 * SEG_TR, "bases in a row");

static void load_seg(struct hv_vm *vm, unsigned n, struct seg *s)
{
	s->sel = (uint16_t)hv_read(vm, FIELD_OF(VMCS_GUEST_ES_SEL, n));
	s->limit = (uint32_t)hv_read(vm, FIELD_OF(VMCS_GUEST_ES_LIMIT, n));
	s->attr = (uint32_t)hv_read(vm, FIELD_OF(VMCS_GUEST_ES_AR, n));
	s->base = hv_read(vm, FIELD_OF(VMCS_GUEST_ES_BASE, n));
}

static void store_seg(struct hv_vm *vm, unsigned n, const struct seg *s)
{
	hv_write(vm, FIELD_OF(VMCS_GUEST_ES_SEL, n), s->sel);
	hv_write(vm, FIELD_OF(VMCS_GUEST_ES_LIMIT, n), s->limit);
	hv_write(vm, FIELD_OF(VMCS_GUEST_ES_AR, n), s->attr);
	hv_write(vm, FIELD_OF(VMCS_GUEST_ES_BASE, n), s->base);
}

static bool seg_equal(const struct seg *a, const struct seg *b)
{
	return a->sel == b->sel && a->attr == b->attr && a->limit == b->limit && a->base == b->base;
}

static void load_tables(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	struct cpu *e = vm->emul;

	for (unsigned i = 0; i < SEG_COUNT; i++)
		load_seg(vm, i, &e->seg[i]);
	load_seg(vm, SEG_LDTR, &e->ldtr);
	load_seg(vm, SEG_TR, &e->tr);
	e->gdtr.base = hv_read(vm, VMCS_GUEST_GDTR_BASE);
	e->gdtr.limit = (uint16_t)hv_read(vm, VMCS_GUEST_GDTR_LIMIT);
	e->idtr.base = hv_read(vm, VMCS_GUEST_IDTR_BASE);
	e->idtr.limit = (uint16_t)hv_read(vm, VMCS_GUEST_IDTR_LIMIT);
	memcpy(core->loaded_seg, e->seg, sizeof(e->seg));
	core->loaded_ldtr = e->ldtr;
	core->loaded_tr = e->tr;
	core->loaded_gdtr = e->gdtr;
	core->loaded_idtr = e->idtr;
}

static void store_table(struct hv_vm *vm, enum vmcs_field base, enum vmcs_field limit, const struct dtable *t,
			const struct dtable *loaded, bool all)
{
	if (!all && t->base == loaded->base && t->limit == loaded->limit)
		return;
	hv_write(vm, base, t->base);
	hv_write(vm, limit, t->limit);
}

static void store_tables(struct hv_vm *vm, bool all)
{
	struct hv_core *core = hv_core(vm);
	const struct cpu *e = vm->emul;

	for (unsigned i = 0; i < SEG_COUNT; i++)
		if (all || !seg_equal(&e->seg[i], &core->loaded_seg[i]))
			store_seg(vm, i, &e->seg[i]);
	if (all || !seg_equal(&e->ldtr, &core->loaded_ldtr))
		store_seg(vm, SEG_LDTR, &e->ldtr);
	if (all || !seg_equal(&e->tr, &core->loaded_tr))
		store_seg(vm, SEG_TR, &e->tr);
	store_table(vm, VMCS_GUEST_GDTR_BASE, VMCS_GUEST_GDTR_LIMIT, &e->gdtr, &core->loaded_gdtr, all);
	store_table(vm, VMCS_GUEST_IDTR_BASE, VMCS_GUEST_IDTR_LIMIT, &e->idtr, &core->loaded_idtr, all);
}

/* MSRs that the guest has to itself: VMX switches the SYSENTER ones, the others are live in the processor. */
static void load_msrs(struct hv_vm *vm)
{
	struct cpu *e = vm->emul;
	const struct cpu *c = vm->cpu;

	e->msr.star = c->msr.star;
	e->msr.lstar = c->msr.lstar;
	e->msr.cstar = c->msr.cstar;
	e->msr.fmask = c->msr.fmask;
	e->msr.kernel_gs_base = c->msr.kernel_gs_base;
	e->msr.tsc_aux = c->msr.tsc_aux;
	if (cpu_has(e, CPUF_DMT))
		cpu_set_dmt(e, vmx_guest_dmt_load(c), vmx_guest_dmt(c));
	e->msr.sysenter_cs = hv_read(vm, VMCS_GUEST_SYSENTER_CS);
	e->msr.sysenter_esp = hv_read(vm, VMCS_GUEST_SYSENTER_ESP);
	e->msr.sysenter_eip = hv_read(vm, VMCS_GUEST_SYSENTER_EIP);
}

void hv_settle_requests(struct hv_vm *vm)
{
	struct cpu *e = vm->emul;

	if (e->pv.loaded)
		vmx_set_guest_dmt(vm->cpu, e->pv.load, e->mmu.dmt.loaded);
	if (e->pv.answered && e->pv.last.status == PV_DONE && vm->mmu->pv_done)
		vm->mmu->pv_done(vm, &e->pv.last);
	e->pv.loaded = e->pv.answered = false;
}

void hv_repeat_requests(struct hv_vm *vm)
{
	const struct pv_state *s = &vm->emul->pv.state;

	for (unsigned i = 0; i < PV_HUGE_MAX && vm->mmu->pv_done; i++)
		if (s->huge[i].pages)
			vm->mmu->pv_done(vm, &(struct pv_request){.op = PV_HUGE, .gpa = s->huge[i].gpa,
								   .pages = s->huge[i].pages});
	for (unsigned i = 0; i < PV_TEAS_MAX && vm->mmu->pv_done; i++)
		if (s->tea[i].pages)
			vm->mmu->pv_done(vm, &(struct pv_request){.op = PV_TEA_ALLOC, .gpa = s->tea[i].gpa,
								   .pages = s->tea[i].pages, .id = i + 1});
}

static void store_msrs(struct hv_vm *vm, bool all)
{
	const struct cpu *e = vm->emul;
	struct cpu *c = vm->cpu;

	hv_settle_requests(vm);

	c->msr.kernel_gs_base = e->msr.kernel_gs_base; /* SWAPGS; the others no emulated instruction writes */
	if (!all)
		return;
	c->msr.star = e->msr.star;
	c->msr.lstar = e->msr.lstar;
	c->msr.cstar = e->msr.cstar;
	c->msr.fmask = e->msr.fmask;
	c->msr.tsc_aux = e->msr.tsc_aux;
	vmx_set_guest_dmt(c, e->pv.load, e->mmu.dmt.loaded);
	hv_write(vm, VMCS_GUEST_SYSENTER_CS, e->msr.sysenter_cs);
	hv_write(vm, VMCS_GUEST_SYSENTER_ESP, e->msr.sysenter_esp);
	hv_write(vm, VMCS_GUEST_SYSENTER_EIP, e->msr.sysenter_eip);
	hv_write(vm, VMCS_GUEST_PAT, e->msr.pat);
	/* What a single step is depends on it, and VM entry looks. */
	if (hv_nested_inside(vm))
		hv_write(vm, VMCS_GUEST_DEBUGCTL, e->vmx.debugctl);
}

/* Registers that VMX leaves in the processor. */
static void load_live(struct hv_vm *vm)
{
	struct cpu *e = vm->emul;

	memcpy(e->gpr, vmx_gprs(vm->cpu), 16 * sizeof(e->gpr[0]));
	e->fpu = *vmx_fpu(vm->cpu);
	e->cr2 = *vmx_cr2(vm->cpu);
	e->xcr0 = *vmx_xcr0(vm->cpu);
	e->pkru = *vmx_pkru(vm->cpu);
	e->rng = *vmx_random(vm->cpu);
	for (unsigned i = 0; i < 4; i++)
		e->dr[i] = *vmx_dr(vm->cpu, i);
	e->dr6 = *vmx_dr6(vm->cpu);
}

static void store_live(struct hv_vm *vm)
{
	const struct cpu *e = vm->emul;

	memcpy(vmx_gprs(vm->cpu), e->gpr, 16 * sizeof(e->gpr[0]));
	*vmx_fpu(vm->cpu) = e->fpu;
	*vmx_cr2(vm->cpu) = e->cr2;
	*vmx_xcr0(vm->cpu) = e->xcr0;
	*vmx_pkru(vm->cpu) = e->pkru;
	*vmx_random(vm->cpu) = e->rng;
	for (unsigned i = 0; i < 4; i++)
		*vmx_dr(vm->cpu, i) = e->dr[i];
	*vmx_dr6(vm->cpu) = e->dr6;
}

void hv_load_paging(struct hv_vm *vm)
{
	struct cpu *e = vm->emul;

	hv_sync_guest(vm);
	e->cr0 = vm->guest.cr0;
	e->cr3 = vm->guest.cr3;
	e->cr4 = vm->guest.cr4;
	e->efer = vm->guest.efer;
	memcpy(e->pdpte, vm->guest.pdpte, sizeof(e->pdpte));
}

static void load_control(struct hv_vm *vm)
{
	struct cpu *e = vm->emul;
	uint64_t blocking = hv_read(vm, VMCS_GUEST_INTERRUPTIBILITY);

	hv_load_paging(vm);
	e->dr7 = hv_read(vm, VMCS_GUEST_DR7);
	e->gpr[RSP] = hv_read(vm, VMCS_GUEST_RSP);
	e->gpr[REG_RIP] = hv_read(vm, VMCS_GUEST_RIP);
	e->shadow_sti = blocking & INTERRUPTIBILITY_STI;
	e->shadow_movss = blocking & INTERRUPTIBILITY_MOVSS;
	e->nmi_blocked = blocking & INTERRUPTIBILITY_NMI;
	e->db_pending = 0;
	e->halted = false;
	e->tsc_base = hv_guest_tsc(vm) - e->insns;
	hv_core(vm)->loaded_tsc_base = e->tsc_base;
}

void hv_load_state(struct hv_vm *vm)
{
	struct cpu *e = vm->emul;

	load_live(vm);
	load_tables(vm);
	load_msrs(vm);
	load_control(vm);
	e->stop = (struct stop){0};
	cpu_update_mode(e);
	cpu_set_rflags(e, hv_read(vm, VMCS_GUEST_RFLAGS));
}

static void store_control(struct hv_vm *vm)
{
	const struct cpu *e = vm->emul;

	hv_write(vm, VMCS_GUEST_RSP, e->gpr[RSP]);
	hv_write(vm, VMCS_GUEST_RIP, e->gpr[REG_RIP]);
	hv_write(vm, VMCS_GUEST_RFLAGS, cpu_get_rflags(e));
	hv_write(vm, VMCS_GUEST_DR7, e->dr7);
	hv_write(vm, VMCS_GUEST_INTERRUPTIBILITY,
		 (e->shadow_sti ? INTERRUPTIBILITY_STI : 0) | (e->shadow_movss ? INTERRUPTIBILITY_MOVSS : 0) |
			 (e->nmi_blocked ? INTERRUPTIBILITY_NMI : 0));
	if (e->db_pending & DR6_BT)
		hv_inject_task_trap(vm, e->db_pending);
	else if (e->db_pending) /* besides what MOV SS held back until now */
		hv_write(vm, VMCS_GUEST_PENDING_DEBUG,
			 hv_read(vm, VMCS_GUEST_PENDING_DEBUG) | hv_pending_debug(e->db_pending));
}

static void store_state(struct hv_vm *vm, bool all)
{
	store_live(vm);
	store_tables(vm, all);
	store_msrs(vm, all);
	store_control(vm);
}

void hv_put_registers(struct hv_vm *vm)
{
	vm->emul->db_pending = 0;
	hv_nested_follow(vm);
	store_state(vm, true);
	hv_write(vm, VMCS_GUEST_ACTIVITY, ACTIVITY_ACTIVE);
	hv_write(vm, VMCS_GUEST_PENDING_DEBUG, 0);
	hv_core(vm)->paging_changed = true;
	hv_commit_paging(vm);
	hv_nested_followed(vm);
}

void hv_take_init(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);

	if (likely(!vm->emul->lapic.init) || vm->emul->vmx.on || core->inject.info)
		return;
	hv_load_state(vm);
	cpu_init(vm->emul);
	core->halted = core->nmi_pending = false;
	hv_put_registers(vm);
}

void hv_put_state(struct hv_vm *vm)
{
	struct cpu *e = vm->emul;

	hv_make_current(vm);
	if (e->cr0 & CR0_PG && e->cr4 & CR4_PAE && !(e->efer & EFER_LMA))
		for (unsigned i = 0; i < 4; i++) {
			const void *p = p2m_ptr(vm, (e->cr3 & 0xffffffe0) + 8 * i);

			e->pdpte[i] = p ? get_u64(p) : 0;
		}
	hv_put_registers(vm);
}

/* ---- paging registers ---- */

/* CR0.NE is always set in VMX operation. A guest without it gets no #MF: the emulator executes what would raise it. */
static void intercept_fpu_errors(struct hv_vm *vm)
{
	uint64_t exceptions = hv_read(vm, VMCS_EXCEPTION_BITMAP) & ~(uint64_t)(1u << EXC_MF);

	if (hv_nested_inside(vm)) /* L2 has it set, too; the bit is L1's */
		return;
	hv_write(vm, VMCS_EXCEPTION_BITMAP, exceptions | (vm->guest.cr0 & CR0_NE ? 0 : 1u << EXC_MF));
}

void hv_commit_paging(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	struct hv_guest_regs *g = &vm->guest;
	const struct cpu *e = vm->emul;
	bool mode = core->paging_changed || !same_mode(g, e);
	bool cr3 = core->cr3_written || core->cr3_followed || g->cr3 != e->cr3 || memcmp(g->pdpte, e->pdpte, sizeof(g->pdpte));
	uint32_t entry = (core->entry_ctl & ~ENTRY_IA32E) | (e->efer & EFER_LMA ? ENTRY_IA32E : 0);

	core->paging_changed = core->cr3_written = core->cr3_followed = false;
	if (!mode && !cr3)
		return;
	/* Without "unrestricted guest" the processor executes no real-address mode. */
	core->by_emulation |= !core->sync_efer && !(e->cr0 & CR0_PE);
	*g = (struct hv_guest_regs){.cr0 = e->cr0, .cr3 = e->cr3, .cr4 = e->cr4, .efer = e->efer};
	memcpy(g->pdpte, e->pdpte, sizeof(g->pdpte));
	if (entry != core->entry_ctl) {
		core->entry_ctl = entry;
		hv_write(vm, VMCS_ENTRY_CTL, entry);
	}
	if (mode) {
		hv_write(vm, VMCS_GUEST_EFER, g->efer); /* the backend may want more bits */
		vm->mmu->mode_changed(vm);
		intercept_fpu_errors(vm);
	} else {
		vm->mmu->load_cr3(vm, true);
	}
}

/* ---- running it ---- */

/*
 * What is in force until the instruction is complete, as the processor's own
 * run loop has it: blocking by STI and MOV SS, RF, and the trap that TF makes.
 */
static void boundary_enter(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	struct cpu *e = vm->emul;
	uint64_t rflags = cpu_get_rflags(e);

	core->was_sti = e->shadow_sti;
	core->was_movss = e->shadow_movss;
	core->was_rf = rflags & RF_RF;
	core->was_tf = rflags & RF_TF;
	core->was_monitored = vmx_proc(e, PROC_MTF);
	e->behind_movss = core->was_movss;
	e->shadow_sti = e->shadow_movss = e->tf_after = false;
	if (core->was_rf)
		cpu_set_rflags(e, rflags & ~RF_RF);
}

static void boundary_restore(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	struct cpu *e = vm->emul;

	e->shadow_sti = core->was_sti;
	e->shadow_movss = core->was_movss;
	if (core->was_rf)
		cpu_set_rflags(e, cpu_get_rflags(e) | RF_RF);
}

/* Where every instruction is emulated, there are some that otherwise have exits of their own: HLT, WRMSR. */
static void apply_rare_effects(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	const struct cpu *e = vm->emul;

	core->guest_tsc_base += (int64_t)(e->tsc_base - core->loaded_tsc_base);
	core->halted = e->halted && !hv_debug_trap_due(vm);
}

/* A VMX abort: L1's processor shuts down. */
static void take_abort(struct hv_vm *vm)
{
	if (vm->emul->shutdown)
		hv_shut_down(vm);
	vm->emul->shutdown = false;
}

static enum hv_verdict emulated_completely(struct hv_vm *vm, bool complete, unsigned counted)
{
	struct hv_core *core = hv_core(vm);
	bool all = core->by_emulation;

	if (core->was_tf && !vm->emul->tf_after)
		vm->emul->db_pending |= DR6_BS;
	if (core->was_monitored)
		vm->emul->vmx.mtf_pending = true;
	all |= hv_nested_follow(vm);
	store_state(vm, all);
	if (all)
		apply_rare_effects(vm);
	core->completed = complete;
	vm->emulated_insns += counted;
	hv_commit_paging(vm);
	hv_nested_followed(vm);
	take_abort(vm);
	return HV_RESUME;
}

enum hv_verdict hv_emulated_exit(struct hv_vm *vm)
{
	struct cpu *e = vm->emul;

	e->stop = (struct stop){0};
	vmx_do_exit(e);
	hv_core(vm)->inject = (struct hv_event){0};
	hv_nested_follow(vm);
	store_state(vm, true);
	apply_rare_effects(vm);
	hv_commit_paging(vm);
	hv_nested_followed(vm);
	take_abort(vm);
	return HV_RESUME;
}

/* L2's instruction exits to L1: it is as if it had not been begun. */
static enum hv_verdict emulated_exit(struct hv_vm *vm)
{
	boundary_restore(vm);
	vm->emul->db_pending = hv_pending_traps(vm);
	return hv_nested_reflect(vm);
}

/* An exception of L2's may be L1's business: its processor delivers it, or exits. */
static enum hv_verdict deliver_fault(struct hv_vm *vm, const struct stop *s)
{
	struct event ev = {.vector = s->vector, .type = EVENT_HW_EXCEPTION, .has_error = s->has_error, .error = s->error,
			   .payload = s->payload};

	return hv_deliver(vm, &ev, vm->emul->vmx.nmi_unblocking_iret);
}

/* The emulator stopped at an exception: the state is as the manual has it for the fault. */
static enum hv_verdict emulated_exception(struct hv_vm *vm)
{
	const struct stop *s = &vm->emul->stop;

	boundary_restore(vm);
	vm->emul->db_pending = 0;
	store_state(vm, false);
	hv_core(vm)->cr3_written = false;
	hv_commit_paging(vm); /* faults after a task switch are the new task's */
	if (hv_nested_inside(vm))
		return deliver_fault(vm, s);
	if (s->vector == EXC_PF) {
		hv_inject_page_fault(vm, s->payload, s->error);
		return HV_RESUME;
	}
	if (s->vector == EXC_DB) {
		*vmx_dr6(vm->cpu) = (*vmx_dr6(vm->cpu) & ~0xfull) | s->payload | DR6_FIXED;
		hv_write(vm, VMCS_GUEST_DR7, vm->emul->dr7 & ~DR7_GD);
	}
	hv_inject_exception(vm, s->vector, s->has_error, s->error);
	return HV_RESUME;
}

/* A device access: the local APIC answers at once, others go out to the platform. True if answered. */
static bool answered_by_lapic(struct hv_vm *vm, const struct bus_access *a)
{
	struct lapic *l = &vm->emul->lapic;
	unsigned offset = (unsigned)(a->addr & ~PAGE_MASK);
	uint64_t data = 0;

	if (a->pio || (l->base & (APIC_BASE_EN | APIC_BASE_EXTD)) != APIC_BASE_EN || (l->base ^ a->addr) & PAGE_MASK)
		return false;
	if (a->write)
		lapic_page_write(l, offset, a->size, a->data, hv_guest_tsc(vm));
	else
		data = lapic_page_read(l, offset, hv_guest_tsc(vm));
	cpu_bus_done(vm->emul, data);
	return true;
}

static enum hv_verdict emulated_shutdown(struct hv_vm *vm)
{
	store_state(vm, false);
	hv_commit_paging(vm); /* a task switch may have come so far */
	hv_shut_down(vm);
	return HV_RESUME;
}

static enum hv_verdict emulate(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	unsigned counted = 0;
	enum cpu_emul_result r;

	do
		r = cpu_emulate_one(vm->emul, core->max_iterations, &counted);
	while (r == EMUL_BUS && answered_by_lapic(vm, &vm->emul->bus.want));
	vm->emul->behind_movss = false;

	switch (r) {
	case EMUL_DONE:
	case EMUL_PARTIAL:
		return emulated_completely(vm, r == EMUL_DONE, counted);
	case EMUL_EXCEPTION:
		return emulated_exception(vm);
	case EMUL_BUS:
		/* A string instruction may have made progress; and the caller may ask for the vCPU's state. */
		boundary_restore(vm);
		store_state(vm, false);
		return hv_ask(vm, &vm->emul->bus.want, CONTINUE_EMULATION);
	case EMUL_NESTED:
		if (vm->emul->stop.kind == STOP_VMEXIT && hv_nested_inside(vm))
			return emulated_exit(vm);
		break;
	}
	/* INT n that cannot be delivered, nor what comes of that. */
	if (vm->emul->stop.kind == STOP_SHUTDOWN)
		return emulated_shutdown(vm);
	return hv_fail(vm, "an instruction cannot be emulated");
}

enum hv_verdict hv_emulate(struct hv_vm *vm, unsigned max_iterations)
{
	struct hv_core *core = hv_core(vm);

	vm->obs.shadow.emulated++;
	core->completed = false;
	core->max_iterations = max_iterations;
	hv_load_state(vm);
	boundary_enter(vm);
	cpu_emul_begin(vm->emul);
	return emulate(vm);
}

enum hv_verdict hv_emulate_continue(struct hv_vm *vm)
{
	hv_load_state(vm);
	boundary_enter(vm);
	cpu_bus_done(vm->emul, hv_core(vm)->want.data);
	return emulate(vm);
}

/* Debug traps that were pending when @ev was delivered, as "Delivery of Pending Debug Exceptions after VM Entry" has it. */
static void drop_pending_debug(struct hv_vm *vm, const struct event *ev, bool movss)
{
	bool soft = ev->type == EVENT_SOFT_INT || ev->type == EVENT_SOFT_EXCEPTION;
	uint64_t kept = soft && movss ? PENDING_DEBUG_B | PENDING_DEBUG_ENABLED : 0;

	hv_write(vm, VMCS_GUEST_PENDING_DEBUG, hv_read(vm, VMCS_GUEST_PENDING_DEBUG) & kept);
}

/* @again: it was delivered before, and its effects on CR2 and DR6 came about then. */
static enum hv_verdict deliver(struct hv_vm *vm, const struct event *ev, bool again, bool unblocked)
{
	struct hv_core *core = hv_core(vm);
	uint64_t insns = vm->emul->insns;
	bool movss;

	vm->obs.shadow.emulated++;
	core->inject = (struct hv_event){0};
	hv_load_state(vm);
	cpu_emul_begin(vm->emul);
	vm->emul->vmx.injecting = again;
	vm->emul->vmx.nmi_unblocking_iret = unblocked;
	movss = vm->emul->shadow_movss;
	if (cpu_deliver_event(vm->emul, ev) == EXEC_NEXT) {
		drop_pending_debug(vm, ev, movss);
		store_state(vm, hv_nested_inside(vm));
		vm->emulated_insns += vm->emul->insns - insns;
		core->halted = false;
		hv_commit_paging(vm);
		return HV_RESUME;
	}
	vm->emul->vmx.injecting = vm->emul->vmx.nmi_unblocking_iret = false;
	if (vm->emul->stop.kind == STOP_VMEXIT && hv_nested_inside(vm)) {
		vm->emul->db_pending = hv_pending_traps(vm);
		return hv_nested_reflect(vm);
	}
	if (vm->emul->stop.kind != STOP_SHUTDOWN)
		return hv_fail(vm, "event %u cannot be delivered by emulation", ev->vector);
	return emulated_shutdown(vm);
}

enum hv_verdict hv_emulate_delivery(struct hv_vm *vm)
{
	const struct hv_event *v = &hv_core(vm)->vectoring;
	struct event ev = {
		.vector = (uint8_t)v->info,
		.type = (uint8_t)((v->info & INTR_INFO_TYPE) >> INTR_INFO_TYPE_SHIFT),
		.has_error = v->info & INTR_INFO_ERROR,
		.error = v->error,
		.insn_len = (uint8_t)v->insn_len,
	};

	return deliver(vm, &ev, true, false);
}

enum hv_verdict hv_deliver(struct hv_vm *vm, const struct event *ev, bool unblocked)
{
	return deliver(vm, ev, false, unblocked);
}

/* ---- a guest that the processor cannot execute ---- */

/* SDM "Checks on Guest Segment Registers", for a usable data segment. */
static bool data_segment_enterable(const struct seg *s)
{
	unsigned dpl = s->attr >> SEG_AR_DPL_SHIFT & 3, need = SEG_AR_S | SEG_AR_P | SEG_AR_A;
	bool code = s->attr & SEG_AR_CODE, conforming = code && s->attr & SEG_AR_CE;

	if (s->attr & SEG_AR_UNUSABLE)
		return true;
	if ((s->attr & need) != need || (code && !(s->attr & SEG_AR_RW)) || (!conforming && dpl < (s->sel & 3u)))
		return false;
	return s->attr & SEG_AR_G ? (s->limit & 0xfff) == 0xfff : !(s->limit >> 20);
}

/* May the processor be given the guest? Real mode leaves segments behind that protected mode would not load. */
static bool enterable(struct hv_vm *vm)
{
	struct seg s[SEG_COUNT];
	uint32_t code = SEG_AR_S | SEG_AR_CODE | SEG_AR_A | SEG_AR_P, data = SEG_AR_S | SEG_AR_RW | SEG_AR_A | SEG_AR_P;

	if (!(vm->guest.cr0 & CR0_PE))
		return false;
	if (hv_read(vm, VMCS_GUEST_RFLAGS) & RF_VM)
		return true;
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		load_seg(vm, i, &s[i]);
		if (i != SEG_CS && !data_segment_enterable(&s[i]))
			return false;
	}
	if ((s[SEG_CS].attr & code) != code || ((s[SEG_CS].sel ^ s[SEG_SS].sel) & 3))
		return false;
	return s[SEG_SS].attr & SEG_AR_UNUSABLE || (s[SEG_SS].attr & (data | SEG_AR_CODE)) == data;
}

static enum hv_verdict emulate_debug_trap(struct hv_vm *vm)
{
	struct event ev = {.vector = EXC_DB, .type = EVENT_HW_EXCEPTION,
			   .payload = hv_read(vm, VMCS_GUEST_PENDING_DEBUG) & (PENDING_DEBUG_B | PENDING_DEBUG_BS)};

	hv_write(vm, VMCS_GUEST_PENDING_DEBUG, 0);
	return deliver(vm, &ev, false, false);
}

/* Linear address of the instruction that is to be emulated. */
static uint64_t code_linear(struct hv_vm *vm)
{
	return (uint32_t)(hv_read(vm, VMCS_GUEST_CS_BASE) + hv_read(vm, VMCS_GUEST_RIP));
}

/* What the processor does by itself where it executes the guest: cpu_set_stop(). */
static bool stop_due(struct hv_vm *vm)
{
	const struct hv_core *core = hv_core(vm);

	return core->stop_armed && code_linear(vm) == core->stop_address && hv_insns(vm) != core->stop_passed;
}

/* Breakpoints (DR6 form) on the instruction that is to be emulated. */
static uint64_t instruction_breakpoints(struct hv_vm *vm)
{
	uint64_t dr7 = hv_read(vm, VMCS_GUEST_DR7), hit = 0, lin = code_linear(vm);

	if (!(dr7 & 0xff) || hv_read(vm, VMCS_GUEST_RFLAGS) & RF_RF)
		return 0;
	for (unsigned n = 0; n < 4; n++)
		if ((dr7 >> (2 * n) & 3) && !(dr7 >> (16 + 4 * n) & 3) && *vmx_dr(vm->cpu, n) == lin)
			hit |= DR6_B0 << n;
	return hit;
}

static enum hv_verdict emulate_debug_fault(struct hv_vm *vm, uint64_t hit)
{
	struct event ev = {.vector = EXC_DB, .type = EVENT_HW_EXCEPTION, .payload = hit};

	return deliver(vm, &ev, false, false);
}

void hv_choose_emulation(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);

	core->by_emulation = !core->sync_efer && !enterable(vm);
}

enum hv_verdict hv_emulate_guest(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	uint32_t info = (uint32_t)hv_read(vm, VMCS_ENTRY_INTR_INFO);
	uint64_t hit;

	if (info & INTR_INFO_VALID) {
		hv_write(vm, VMCS_ENTRY_INTR_INFO, 0);
		core->vectoring = (struct hv_event){info, (uint32_t)hv_read(vm, VMCS_ENTRY_EXCEPTION_ERROR),
						    (uint32_t)hv_read(vm, VMCS_ENTRY_INSN_LEN)};
		return hv_emulate_delivery(vm);
	}
	if (hv_debug_trap_due(vm) && !(hv_read(vm, VMCS_GUEST_INTERRUPTIBILITY) & INTERRUPTIBILITY_MOVSS))
		return emulate_debug_trap(vm);
	core->vectoring = (struct hv_event){0};
	if (stop_due(vm)) {
		core->stopped = true;
		return HV_RESUME;
	}
	hit = instruction_breakpoints(vm);
	return hit ? emulate_debug_fault(vm, hit) : hv_emulate(vm, HV_EMULATE_ITERATIONS);
}
