/*
 * The bare machine: the guest runs directly on the processor, guest-physical
 * addresses are machine addresses, and no hypervisor is there. What the other
 * schemes are compared with. Under native-dmt its MMU goes by the guest's registers (docs/dmt.md).
 *
 * Virtual time is the processor's instruction count plus idle time. It is kept
 * here and not read from the TSC, which the guest may write.
 */
#include "cpu/block.h"
#include "cpu/record.h"
#include "engine/engine_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t native_now(const struct engine_vm *vm) { return vm->cpu->insns + vm->skipped; }
static uint64_t native_insns(const struct engine_vm *vm) { return vm->cpu->insns; }

static int native_create(struct engine_vm *vm, struct error *err)
{
	int r = machmem_init(&vm->mem, vm->ram, vm->rams, err);

	if (r)
		return r;
	r = cpu_create(&vm->cpu, &vm->mem, &vm->cfg.cpu, err);
	if (r)
		machmem_destroy(&vm->mem);
	else if (vm->cfg.mmu == ENGINE_NATIVE_DMT)
		mmu_dmt_set_stages(&vm->cpu->mmu, 1);
	return r;
}

static void native_destroy(struct engine_vm *vm)
{
	lazy_destroy(vm->lazy);
	cpu_destroy(vm->cpu);
	machmem_destroy(&vm->mem);
}

static uint8_t *native_page(struct engine_vm *vm, uint64_t gfn_no, bool touch)
{
	(void)touch; /* reading a page the host never gave out maps its shared zero page */
	return machmem_ptr(&vm->mem, hpa(gfn_no << PAGE_SHIFT));
}

static const uint8_t *native_look(const struct engine_vm *vm, uint64_t gfn_no, bool *absent)
{
	(void)absent; /* who touches it waits for it */
	return machmem_ptr(&vm->mem, hpa(gfn_no << PAGE_SHIFT));
}

static int native_set_source(struct engine_vm *vm, const uint64_t *absent, struct error *err)
{
	return lazy_create(vm, absent, err);
}

static bool native_lost(const struct engine_vm *vm) { return __atomic_load_n(&vm->lost, __ATOMIC_ACQUIRE); }

static void native_wrote(struct engine_vm *vm, uint64_t a, unsigned bytes)
{
	blocks_note_write(vm->cpu, a, bytes);
	if (vm->cpu->recorder)
		record_outside(vm->cpu, a, bytes);
}

/* ---- registers ---- */

static void native_get_regs(struct engine_vm *vm, struct engine_regs *r) { engine_cpu_get_regs(vm->cpu, r); }
static void native_set_regs(struct engine_vm *vm, const struct engine_regs *r) { engine_cpu_set_regs(vm->cpu, r); }
static void native_get_sregs(struct engine_vm *vm, struct engine_sregs *s) { engine_cpu_get_sregs(vm->cpu, s); }
static void native_get_fpu(struct engine_vm *vm, struct fpu *fpu) { *fpu = vm->cpu->fpu; }
static void native_get_msrs(struct engine_vm *vm, struct engine_msrs *m) { engine_cpu_get_msrs(vm->cpu, m); }
static void native_get_dmt(struct engine_vm *vm, struct engine_dmt *d) { engine_cpu_get_dmt(vm->cpu, d); }

static void native_get_vmx(struct engine_vm *vm, struct engine_vmx *x) { engine_cpu_get_vmx(vm->cpu, x); }

static void native_set_sregs(struct engine_vm *vm, const struct engine_sregs *s)
{
	struct cpu *c = vm->cpu;

	if (s->cr0 & CR0_PG && s->cr4 & CR4_PAE && !(s->efer & EFER_LMA))
		for (unsigned i = 0; i < 4; i++)
			c->pdpte[i] = machmem_read64(&vm->mem, hpa((s->cr3 & 0xffffffe0) + 8 * i));
	engine_cpu_set_sregs(c, s);
	mmu_flush_everything(&c->mmu);
}

/* ---- the whole vCPU ---- */

static bool native_at_rest(struct engine_vm *vm) { return !vm->bus_pending && !vm->cpu->bus.done_count && !vm->cpu->shutdown; }

static void native_get_vcpu(struct engine_vm *vm, struct engine_vcpu *v)
{
	const struct cpu *c = vm->cpu;

	engine_cpu_get_vcpu(c, v);
	v->between.insns = native_insns(vm);
	v->between.now_ns = native_now(vm);
	v->between.tsc = cpu_tsc(c);
	v->between.db_pending = c->db_pending;
	v->between.nmi_pending = c->nmi_pending;
	v->between.halted = c->halted;
	v->between.extint_given = c->extint_ack;
	v->between.extint_vector = c->extint_ack ? c->extint_vector : 0;
}

static void native_set_vcpu(struct engine_vm *vm, const struct engine_vcpu *v)
{
	const struct engine_between *b = &v->between;
	struct cpu *c = vm->cpu;

	c->insns = b->insns;
	c->tsc_base = b->tsc - b->insns;
	vm->skipped = b->now_ns - b->insns;
	c->db_pending = b->db_pending;
	c->nmi_pending = b->nmi_pending;
	c->halted = b->halted;
	c->extint_ack = b->extint_given;
	c->extint_vector = b->extint_vector;
	engine_cpu_set_vcpu(c, v);
	mmu_flush_everything(&c->mmu);
}

/* ---- running ---- */

/* A device access: the caller performs it, a read's value comes back in run->io.data. */
static void exit_bus(struct engine_vm *vm, struct engine_run *run)
{
	const struct bus_access *b = &vm->cpu->bus.want;

	run->exit = b->pio ? ENGINE_EXIT_IO : ENGINE_EXIT_MMIO;
	run->io.write = b->write;
	run->io.size = b->size;
	run->io.addr = b->addr;
	run->io.data = b->write ? b->data : 0;
	vm->bus_pending = true;
}

static void finish_bus(struct engine_vm *vm, const struct engine_run *run)
{
	if (vm->bus_pending)
		cpu_bus_done(vm->cpu, run->io.data);
	vm->bus_pending = false;
}

static void exit_halted(struct engine_vm *vm, struct engine_run *run)
{
	uint64_t tick = cpu_wake_tsc(vm->cpu), tsc = cpu_tsc(vm->cpu);

	run->exit = ENGINE_EXIT_HLT;
	run->hlt.wake_ns = tick == UINT64_MAX ? UINT64_MAX : native_now(vm) + (tick > tsc ? tick - tsc : 0);
}

static bool give_eoi(struct engine_vm *vm, struct engine_run *run)
{
	int vector = lapic_take_eoi(&vm->cpu->lapic);

	if (vector < 0)
		return false;
	run->exit = ENGINE_EXIT_IOAPIC_EOI;
	run->eoi.vector = (uint8_t)vector;
	return true;
}

static bool limit_reached(struct engine_vm *vm, struct engine_run *run)
{
	if (cpu_debug_trap_due(vm->cpu))
		return false;
	if (native_insns(vm) >= run->insn_limit)
		run->exit = ENGINE_EXIT_LIMIT;
	else if (native_now(vm) >= run->deadline_ns)
		run->exit = ENGINE_EXIT_DEADLINE;
	else
		return false;
	return true;
}

/* Translates the processor's reason to return. False: run on. */
static bool exit_from_status(struct engine_vm *vm, struct engine_run *run, enum cpu_run_status status)
{
	switch (status) {
	case CPU_RUN_BUS:
		exit_bus(vm, run);
		return true;
	case CPU_RUN_HALTED:
		exit_halted(vm, run);
		return true;
	case CPU_RUN_EXTINT:
		run->exit = ENGINE_EXIT_IRQ_WINDOW;
		return true;
	case CPU_RUN_STOP:
		run->exit = ENGINE_EXIT_STOP;
		return true;
	case CPU_RUN_SHUTDOWN:
		run->exit = ENGINE_EXIT_SHUTDOWN;
		return true;
	case CPU_RUN_KICKED:
		run->exit = ENGINE_EXIT_INTR;
		return true;
	case CPU_RUN_VMEXIT: /* not here: root operation is the guest's own */
	case CPU_RUN_EOI:    /* native_run() looks for one before the next stretch */
	case CPU_RUN_DEADLINE:
		break;
	}
	return false;
}

/* What the guest did with zeros instead of its memory leads nowhere. */
static bool fail_if_lost(const struct engine_vm *vm, struct engine_run *run)
{
	if (likely(!native_lost(vm)))
		return false;
	run->exit = ENGINE_EXIT_FAIL;
	snprintf(run->fail.text, sizeof(run->fail.text), "contents of the guest's memory could not be had");
	return true;
}

static void native_run(struct engine_vm *vm, struct engine_run *run)
{
	struct cpu *c = vm->cpu;

	finish_bus(vm, run);
	c->extint = run->request_irq_window;
	cpu_set_stop(c, run->stop_at_address, run->stop_address, c->probe.passed);
	for (;;) {
		uint64_t left;
		enum cpu_run_status status;

		if (fail_if_lost(vm, run) || give_eoi(vm, run) || limit_reached(vm, run))
			return;
		left = min_u64(run->deadline_ns - min_u64(native_now(vm), run->deadline_ns),
			       run->insn_limit - min_u64(native_insns(vm), run->insn_limit));
		left = min_u64(left, INT64_MAX - 1);
		status = cpu_run_to(c, native_insns(vm) + left);
		if (fail_if_lost(vm, run) || exit_from_status(vm, run, status))
			return;
	}
}

static void native_kick(struct engine_vm *vm) { vm->cpu->kick = 1; }

static void native_advance(struct engine_vm *vm, uint64_t to_ns)
{
	uint64_t now = native_now(vm);

	if (to_ns <= now)
		return;
	cpu_skip_time(vm->cpu, cpu_tsc(vm->cpu) + (to_ns - now));
	vm->skipped += to_ns - now;
}

static void native_signal_msi(struct engine_vm *vm, uint64_t address, uint32_t data)
{
	lapic_msi(&vm->cpu->lapic, address, data);
}

static struct lapic *native_lapic(const struct engine_vm *vm) { return &vm->cpu->lapic; }
static void native_interrupt(struct engine_vm *vm, uint8_t vector) { cpu_give_extint(vm->cpu, vector); }

static void native_nmi(struct engine_vm *vm)
{
	vm->cpu->nmi_pending = true;
}

/* The hypervisor that is counted is the guest's own, if it is one. */
static void native_observe(const struct engine_vm *vm, struct obs *obs)
{
	const struct vmx_state *x = &vm->cpu->vmx;

	static_assert(OBS_EXIT_REASONS == VMX_TALLY_REASONS, "copied one by one");
	engine_observe_cpu(vm->cpu, obs);
	for (unsigned i = 0; i < VMX_TALLY_REASONS; i++)
		obs->exits.total += obs->exits.by_reason[i] = x->tally.exits[i];
	obs->hypervisor.entries = x->counts.entries;
	obs->hypervisor.vmreads = x->counts.vmreads;
	obs->hypervisor.vmwrites = x->counts.vmwrites;
	obs->hypervisor.invepts = x->counts.invepts;
	obs->hypervisor.invvpids = x->counts.invvpids;
	obs->tracking.logged = x->tally.pml_logged;
}

int engine_watch_vmx(struct engine_vm *vm, const struct vmx_watch *watch)
{
	if (vm->hv)
		return -ENOTSUP;
	vm->cpu->vmx_watch = watch;
	return 0;
}

static void native_describe(struct engine_vm *vm, char *buf, size_t bytes)
{
	const struct vmx_state *x = &vm->cpu->vmx;
	size_t used;

	engine_describe_regs(vm, buf, bytes);
	used = strlen(buf);
	if (bytes && x->on)
		snprintf(buf + used, bytes - used, "VMX %sroot operation, VMCS %llx, last exit %u\n", x->nonroot ? "non-" : "",
			 (unsigned long long)x->current.v, x->exit.reason);
}

const struct engine_ops engine_native_ops = {
	.create = native_create,
	.destroy = native_destroy,
	.page = native_page,
	.look = native_look,
	.set_source = native_set_source,
	.lost = native_lost,
	.wrote = native_wrote,
	.get_regs = native_get_regs,
	.set_regs = native_set_regs,
	.get_sregs = native_get_sregs,
	.set_sregs = native_set_sregs,
	.get_fpu = native_get_fpu,
	.get_msrs = native_get_msrs,
	.get_dmt = native_get_dmt,
	.get_vmx = native_get_vmx,
	.at_rest = native_at_rest,
	.get_vcpu = native_get_vcpu,
	.set_vcpu = native_set_vcpu,
	.run = native_run,
	.kick = native_kick,
	.now = native_now,
	.advance = native_advance,
	.insns = native_insns,
	.signal_msi = native_signal_msi,
	.lapic = native_lapic,
	.interrupt = native_interrupt,
	.nmi = native_nmi,
	.observe = native_observe,
	.describe = native_describe,
};
