/* A VM under the hypervisor, on a machine of its own or with others. */
#include "engine/engine_impl.h"


/* Contents go to another frame: what is to be kept is copied before, and who watches the page is to go on watching it. */
static void page_moves(void *ctx, gfn_t g, bool done)
{
	struct engine_vm *vm = ctx;

	if (!done)
		snapshot_keep(vm, engine_page_of(vm, gpa(g.v << PAGE_SHIFT)));
	else if (vm->watch && vm->watch->page.v == g.v << PAGE_SHIFT)
		engine_watch_page(vm, vm->watch);
}

static int hv_engine_create(struct engine_vm *vm, struct error *err)
{
	const struct p2m_watch watch = {.moves = page_moves, .ctx = vm};
	int r;

	vm->cpu = vm->machine->cpu;
	r = hv_create(&vm->hv, &vm->machine->hv, &vm->cfg, vm->ram, vm->rams, err);
	if (!r)
		p2m_set_watch(vm->hv, &watch);
	return r;
}

static void hv_engine_destroy(struct engine_vm *vm) { hv_destroy(vm->hv); }

static uint8_t *hv_engine_page(struct engine_vm *vm, uint64_t gfn_no, bool touch)
{
	if (!touch && !p2m_contents(vm->hv, gfn(gfn_no)))
		return NULL;
	return p2m_ptr(vm->hv, gfn_no << PAGE_SHIFT);
}

static const uint8_t *hv_engine_look(const struct engine_vm *vm, uint64_t gfn_no, bool *absent)
{
	return p2m_look(vm->hv, gfn(gfn_no), absent);
}

static int fetch(void *ctx, gfn_t g, void *page)
{
	struct engine_vm *vm = ctx;

	return vm->source.fetch(vm->source.ctx, engine_page_of(vm, gpa(g.v << PAGE_SHIFT)), page);
}

static int hv_engine_set_source(struct engine_vm *vm, const uint64_t *absent, struct error *err)
{
	const struct p2m_source source = {.fetch = fetch, .ctx = vm};

	p2m_set_source(vm->hv, &source);
	for (uint64_t i = 0; i < (engine_pages(vm) + 63) / 64; i++) {
		for (uint64_t left = absent[i]; left; left &= left - 1) {
			uint64_t page = i * 64 + (unsigned)__builtin_ctzll(left);
			int r = p2m_set_absent(vm->hv, gfn(engine_page_gpa(vm, page).v >> PAGE_SHIFT));

			if (r)
				return error_set(err, r, "memory page %llu is there already", (unsigned long long)page);
		}
	}
	return 0;
}

static bool hv_engine_lost(const struct engine_vm *vm) { return p2m_is_broken(vm->hv); }

static void hv_engine_wrote(struct engine_vm *vm, uint64_t a, unsigned bytes) { hv_ram_written(vm->hv, a, bytes); }

/* ---- registers ---- */

static void hv_engine_get_regs(struct engine_vm *vm, struct engine_regs *r)
{
	engine_cpu_get_regs(hv_get_state(vm->hv), r);
}

static void hv_engine_set_regs(struct engine_vm *vm, const struct engine_regs *r)
{
	engine_cpu_set_regs(hv_get_state(vm->hv), r);
	hv_put_state(vm->hv);
}

static void hv_engine_get_sregs(struct engine_vm *vm, struct engine_sregs *s)
{
	engine_cpu_get_sregs(hv_get_state(vm->hv), s);
}

static void hv_engine_set_sregs(struct engine_vm *vm, const struct engine_sregs *s)
{
	engine_cpu_set_sregs(hv_get_state(vm->hv), s);
	hv_put_state(vm->hv);
}

static void hv_engine_get_fpu(struct engine_vm *vm, struct fpu *fpu) { *fpu = hv_get_state(vm->hv)->fpu; }

static void hv_engine_get_msrs(struct engine_vm *vm, struct engine_msrs *m)
{
	engine_cpu_get_msrs(hv_get_state(vm->hv), m);
}

static void hv_engine_get_dmt(struct engine_vm *vm, struct engine_dmt *d)
{
	engine_cpu_get_dmt(hv_get_state(vm->hv), d);
}

static void hv_engine_get_vmx(struct engine_vm *vm, struct engine_vmx *x)
{
	engine_cpu_get_vmx(hv_get_state(vm->hv), x);
}

/* ---- the whole vCPU ---- */

static bool hv_engine_at_rest(struct engine_vm *vm) { return hv_at_rest(vm->hv); }

static void hv_engine_get_vcpu(struct engine_vm *vm, struct engine_vcpu *v)
{
	engine_cpu_get_vcpu(hv_get_state(vm->hv), v);
	hv_get_between(vm->hv, &v->between);
}

static void hv_engine_set_vcpu(struct engine_vm *vm, const struct engine_vcpu *v)
{
	engine_cpu_set_vcpu(vm->hv->emul, v);
	hv_put_vcpu(vm->hv, &v->between);
}

/* ---- running ---- */

static void hv_engine_run(struct engine_vm *vm, struct engine_run *run) { hv_run(vm->hv, run); }
static void hv_engine_kick(struct engine_vm *vm) { vm->cpu->kick = 1; }
static uint64_t hv_engine_now(const struct engine_vm *vm) { return hv_now(vm->hv); }
static void hv_engine_advance(struct engine_vm *vm, uint64_t to_ns) { hv_advance(vm->hv, to_ns); }
static uint64_t hv_engine_insns(const struct engine_vm *vm) { return hv_insns(vm->hv); }

static void hv_engine_signal_msi(struct engine_vm *vm, uint64_t address, uint32_t data)
{
	lapic_msi(&vm->hv->emul->lapic, address, data);
}

static struct lapic *hv_engine_lapic(const struct engine_vm *vm) { return &vm->hv->emul->lapic; }

static void hv_engine_interrupt(struct engine_vm *vm, uint8_t vector) { hv_interrupt(vm->hv, vector); }
static void hv_engine_nmi(struct engine_vm *vm) { hv_nmi(vm->hv); }

static void hv_engine_observe(const struct engine_vm *vm, struct obs *obs)
{
	hv_make_current(vm->hv); /* with its counters */
	engine_observe_cpu(vm->cpu, obs);
	hv_observe(vm->hv, obs);
}

static void hv_engine_describe(struct engine_vm *vm, char *buf, size_t bytes)
{
	size_t used;

	engine_describe_regs(vm, buf, bytes);
	used = strlen(buf);
	hv_describe(vm->hv, buf + used, bytes - used);
}

const struct engine_ops engine_hv_ops = {
	.create = hv_engine_create,
	.destroy = hv_engine_destroy,
	.page = hv_engine_page,
	.look = hv_engine_look,
	.set_source = hv_engine_set_source,
	.lost = hv_engine_lost,
	.wrote = hv_engine_wrote,
	.get_regs = hv_engine_get_regs,
	.set_regs = hv_engine_set_regs,
	.get_sregs = hv_engine_get_sregs,
	.set_sregs = hv_engine_set_sregs,
	.get_fpu = hv_engine_get_fpu,
	.get_msrs = hv_engine_get_msrs,
	.get_dmt = hv_engine_get_dmt,
	.get_vmx = hv_engine_get_vmx,
	.at_rest = hv_engine_at_rest,
	.get_vcpu = hv_engine_get_vcpu,
	.set_vcpu = hv_engine_set_vcpu,
	.run = hv_engine_run,
	.kick = hv_engine_kick,
	.now = hv_engine_now,
	.advance = hv_engine_advance,
	.insns = hv_engine_insns,
	.signal_msi = hv_engine_signal_msi,
	.lapic = hv_engine_lapic,
	.interrupt = hv_engine_interrupt,
	.nmi = hv_engine_nmi,
	.observe = hv_engine_observe,
	.describe = hv_engine_describe,
};
