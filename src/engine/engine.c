/*
 * The seam's common part: choosing an engine, guest memory in pieces of a page,
 * and the description of the vCPU for messages. What differs between the bare
 * machine and the hypervisor is behind struct engine_ops.
 */
#include "engine/engine_impl.h"

#include "cpu/record.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

const char *const engine_mmu_name[ENGINE_MMU_COUNT] = {
	[ENGINE_NATIVE] = "native",
	[ENGINE_BRUTE] = "brute",
	[ENGINE_SHADOW] = "shadow",
	[ENGINE_EPT] = "ept",
	[ENGINE_HUGEGPT] = "hugegpt",
	[ENGINE_DMT] = "dmt",
	[ENGINE_PVDMT] = "pvdmt",
	[ENGINE_AGILE] = "agile",
	[ENGINE_NESTED] = "nested",
	[ENGINE_NESTED_PVDMT] = "nested-pvdmt",
	[ENGINE_NATIVE_DMT] = "native-dmt",
};

unsigned engine_guest_layout(const struct engine_config *cfg, struct machmem_range range[ENGINE_RANGES_MAX])
{
	unsigned n = engine_ram_layout(cfg->memory, range);

	if (!cfg->rom)
		return n;
	range[2] = range[1];
	range[1] = (struct machmem_range){ENGINE_ROM_BASE, ENGINE_ROM_BYTES};
	return n + 1;
}

int engine_config_check(const struct engine_config *cfg, struct error *err)
{
	if (cfg->mmu >= ENGINE_MMU_COUNT)
		return error_set(err, -EINVAL, "engine: no MMU scheme number %d", (int)cfg->mmu);
	if (!cfg->memory || cfg->memory & ~PAGE_MASK || cfg->memory > MACHMEM_SPAN_MAX / 2)
		return error_set(err, -EINVAL, "engine: %llu bytes of guest memory: not possible",
				 (unsigned long long)cfg->memory);
	return 0;
}

/* @machine: NULL for native */
static int make_vm(struct engine_vm **out, struct engine_machine *machine, const struct engine_config *cfg,
		   struct error *err)
{
	struct engine_vm *vm = aligned_alloc(64, (sizeof(*vm) + 63) & ~(size_t)63);
	int r;

	if (!vm)
		return error_set(err, -ENOMEM, "engine: out of memory");
	memset(vm, 0, sizeof(*vm));
	vm->cfg = *cfg;
	pthread_mutex_init(&vm->snapshot_lock, NULL);
	vm->machine = machine;
	vm->rams = engine_guest_layout(cfg, vm->ram);
	vm->ops = engine_mmu_is_bare(cfg->mmu) ? &engine_native_ops : &engine_hv_ops;
	r = vm->ops->create(vm, err);
	if (r) {
		free(vm);
		return r;
	}
	vm->cpu->mmu.dmt.audit |= cfg->audit_registers;
	/* Firmware hands a PC over in virtual-wire mode: the PIC's interrupts pass through the local APIC. */
	if (!cfg->rom)
		lapic_virtual_wire(vm->ops->lapic(vm));
	*out = vm;
	return 0;
}

/*
 * Makes a VM with one vCPU after RESET.
 * -EINVAL: bad size or options; -ENOMEM. Nothing is left behind on error.
 */
int engine_create(struct engine_vm **out, const struct engine_config *cfg, struct error *err)
{
	struct engine_machine *machine = NULL;
	int r = engine_config_check(cfg, err);

	if (!r && !engine_mmu_is_bare(cfg->mmu))
		r = engine_machine_create(&machine, cfg, 1, err);
	if (!r)
		r = make_vm(out, machine, cfg, err);
	if (r)
		engine_machine_destroy(machine);
	else
		(*out)->own_machine = machine;
	return r;
}

int engine_create_on(struct engine_machine *machine, struct engine_vm **out, const struct engine_config *cfg,
		     struct error *err)
{
	int r = engine_config_check(cfg, err);

	if (!r)
		r = engine_machine_admit(machine, cfg, err);
	return r ? r : make_vm(out, machine, cfg, err);
}

void engine_destroy(struct engine_vm *vm)
{
	struct error ignored = {0};

	if (!vm)
		return;
	engine_snapshot_end(vm->snapshot);
	if (vm->watch)
		engine_watch_page(vm, NULL);
	if (vm->cpu->recorder && !vm->hv)
		recorder_end(vm->cpu, &ignored);
	vm->ops->destroy(vm);
	replay_destroy(vm->replay);
	if (vm->own_machine)
		engine_machine_destroy(vm->machine);
	pthread_mutex_destroy(&vm->snapshot_lock);
	free(vm);
}

bool engine_is_ram(const struct engine_vm *vm, gpa_t a)
{
	for (unsigned i = 0; i < vm->rams; i++)
		if (a.v - vm->ram[i].base < vm->ram[i].bytes)
			return true;
	return false;
}

/* Bytes from @a to the end of its page, at most @left. */
static unsigned piece_of(uint64_t a, uint64_t left)
{
	return (unsigned)min_u64(left, PAGE_SIZE - (a & ~PAGE_MASK));
}

int engine_mem_read(struct engine_vm *vm, gpa_t a, void *buf, uint64_t bytes)
{
	uint8_t *to = buf;

	while (bytes) {
		unsigned n = piece_of(a.v, bytes);
		const uint8_t *page;

		if (!engine_is_ram(vm, a))
			return -EFAULT;
		page = vm->ops->page(vm, a.v >> PAGE_SHIFT, false);
		if (page)
			memcpy(to, page + (a.v & ~PAGE_MASK), n);
		else
			memset(to, 0, n);
		a.v += n;
		to += n;
		bytes -= n;
	}
	return vm->ops->lost(vm) ? -EIO : 0; /* zeros are not what the guest had */
}

void engine_written(struct engine_vm *vm, uint64_t gpa, unsigned bytes) { vm->ops->wrote(vm, gpa, bytes); }

int engine_mem_write(struct engine_vm *vm, gpa_t a, const void *buf, uint64_t bytes)
{
	const uint8_t *from = buf;

	while (bytes) {
		unsigned n = piece_of(a.v, bytes);
		uint8_t *page;

		if (!engine_is_ram(vm, a))
			return -EFAULT;
		page = vm->ops->page(vm, a.v >> PAGE_SHIFT, true);
		if (!page)
			return -ENOMEM;
		memcpy(page + (a.v & ~PAGE_MASK), from, n);
		engine_written(vm, a.v, n);
		a.v += n;
		from += n;
		bytes -= n;
	}
	return 0;
}

/* ---- what only dispatches ---- */

void engine_get_regs(struct engine_vm *vm, struct engine_regs *r) { vm->ops->get_regs(vm, r); }
void engine_set_regs(struct engine_vm *vm, const struct engine_regs *r) { vm->ops->set_regs(vm, r); }
void engine_get_sregs(struct engine_vm *vm, struct engine_sregs *s) { vm->ops->get_sregs(vm, s); }
void engine_set_sregs(struct engine_vm *vm, const struct engine_sregs *s) { vm->ops->set_sregs(vm, s); }
void engine_get_fpu(struct engine_vm *vm, struct fpu *fpu) { vm->ops->get_fpu(vm, fpu); }
/* What registers led to and the tables do not is somebody's broken promise, or a fault in the machine. */
static void fail_if_misled(const struct engine_vm *vm, struct engine_run *run)
{
	const struct mmu_dmt *d = &vm->cpu->mmu.dmt;

	if (likely(!d->wrong))
		return;
	run->exit = ENGINE_EXIT_FAIL;
	snprintf(run->fail.text, sizeof(run->fail.text),
		 "audit: registers of direct translation and tables differ about address %llx",
		 (unsigned long long)d->wrong_at);
}

void engine_run(struct engine_vm *vm, struct engine_run *run)
{
	vm->ops->run(vm, run);
	fail_if_misled(vm, run);
}

void engine_kick(struct engine_vm *vm) { vm->ops->kick(vm); }
uint64_t engine_now(const struct engine_vm *vm) { return vm->ops->now(vm); }
void engine_advance(struct engine_vm *vm, uint64_t to_ns) { vm->ops->advance(vm, to_ns); }
uint64_t engine_insns(const struct engine_vm *vm) { return vm->ops->insns(vm); }
bool engine_accepts_extint(const struct engine_vm *vm) { return lapic_accepts_extint(vm->ops->lapic(vm)); }
void engine_interrupt(struct engine_vm *vm, uint8_t vector) { vm->ops->interrupt(vm, vector); }
void engine_nmi(struct engine_vm *vm) { vm->ops->nmi(vm); }
void engine_describe(struct engine_vm *vm, char *buf, size_t bytes) { vm->ops->describe(vm, buf, bytes); }

void engine_signal_msi(struct engine_vm *vm, uint64_t address, uint32_t data)
{
	vm->ops->signal_msi(vm, address, data);
}

void engine_observe(const struct engine_vm *vm, struct obs *obs)
{
	*obs = (struct obs){0};
	vm->ops->observe(vm, obs);
}

static void observe_walks(const struct mmu_stats *s, struct obs *obs)
{
	static_assert(OBS_REFS_MAX == WALK_REFS_MAX && OBS_PLACES == HW_PLACES && OBS_LEVELS == HW_LEVELS,
		      "one bucket each");
	obs->translation.walks = s->walks;
	obs->translation.refs = s->refs;
	obs->translation.refs_max = s->refs_max;
	memcpy(obs->translation.by_refs, s->by_refs, sizeof(s->by_refs));
	obs->translation.guest_refs = s->stage_refs[STAGE_GUEST];
	obs->translation.host_refs = s->stage_refs[STAGE_HOST];
	memcpy(obs->translation.ref_hits, s->ref_hits, sizeof(s->ref_hits));
	memcpy(obs->translation.guest_cache_hits, s->walk_cache_hits[STAGE_GUEST], sizeof(s->walk_cache_hits[0]));
	memcpy(obs->translation.host_cache_hits, s->walk_cache_hits[STAGE_HOST], sizeof(s->walk_cache_hits[0]));
	obs->translation.guest_cache_misses = s->walk_cache_misses[STAGE_GUEST];
	obs->translation.host_cache_misses = s->walk_cache_misses[STAGE_HOST];
	obs->translation.nested_tlb_hits = s->nested_tlb_hits;
	obs->translation.nested_tlb_misses = s->nested_tlb_misses;
	obs->translation.repeated = s->repeated;
	memcpy(obs->translation.agile, s->agile, sizeof(s->agile));
}

static void observe_dmt(const struct dmt_stats *s, struct obs *obs)
{
	static_assert(sizeof(obs->translation.dmt) == sizeof(*s), "the same counters");
	obs->translation.dmt.lookups = s->lookups;
	memcpy(obs->translation.dmt.hits, s->hits, sizeof(s->hits));
	obs->translation.dmt.misses = s->misses;
	obs->translation.dmt.translations = s->translations;
	obs->translation.dmt.fallbacks = s->fallbacks;
	obs->translation.dmt.reloads = s->reloads;
	obs->translation.dmt.reload_refs = s->reload_refs;
	memcpy(obs->translation.dmt.reload_hits, s->reload_hits, sizeof(s->reload_hits));
	obs->translation.dmt.refused = s->refused;
}

void engine_observe_cpu(const struct cpu *cpu, struct obs *obs)
{
	const struct mmu_stats *s = &cpu->mmu.stats;

	observe_walks(s, obs);
	observe_dmt(&s->dmt, obs);
	obs->translation.splintered = s->splintered;
	obs->translation.flushes = s->flushes;
	obs->translation.l1d_misses = s->l1d_misses;
	obs->translation.l1i_misses = s->l1i_misses;
	obs->translation.l2d_hits = s->l2d_hits;
	obs->translation.l2d_misses = s->l2d_misses;
	obs->translation.l2i_hits = s->l2i_hits;
	obs->translation.l2i_misses = s->l2i_misses;
	memcpy(obs->translation.data_hits, s->data_hits, sizeof(s->data_hits));
	obs->cpu.blocks_decoded = cpu->stats.blocks_decoded;
	obs->cpu.insns_decoded = cpu->stats.insns_decoded;
	obs->cpu.blocks_invalidated = cpu->stats.blocks_invalidated;
	obs->cpu.interrupts = cpu->stats.interrupts;
	obs->cpu.exceptions = cpu->stats.exceptions;
	obs->faults.guest = cpu->stats.page_faults;
	obs->pv.requests = cpu->stats.requests;
	obs->pv.refused = cpu->stats.requests_refused;
}

/* Appends to the text in @buf; what does not fit is cut off. */
static void append(char *buf, size_t bytes, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void append(char *buf, size_t bytes, const char *fmt, ...)
{
	size_t used = strlen(buf);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(buf + used, bytes - used, fmt, ap);
	va_end(ap);
}

void engine_describe_regs(struct engine_vm *vm, char *buf, size_t bytes)
{
	static const char *const gpr_name[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
						 "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14", "r15"};
	static const char *const seg_name[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs"};
	struct engine_regs r;
	struct engine_sregs s;

	if (!bytes)
		return;
	buf[0] = 0;
	engine_get_regs(vm, &r);
	engine_get_sregs(vm, &s);
	append(buf, bytes, "rip %016llx rflags %08llx  instructions %llu\n", (unsigned long long)r.rip,
	       (unsigned long long)r.rflags, (unsigned long long)engine_insns(vm));
	for (unsigned i = 0; i < 16; i++)
		append(buf, bytes, "%s %016llx%s", gpr_name[i], (unsigned long long)r.gpr[i], i % 4 == 3 ? "\n" : " ");
	for (unsigned i = 0; i < SEG_COUNT; i++)
		append(buf, bytes, "%s %04x:%llx%s", seg_name[i], s.seg[i].sel, (unsigned long long)s.seg[i].base,
		       i == SEG_COUNT - 1 ? "\n" : " ");
	append(buf, bytes, "cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx efer %04llx\n", (unsigned long long)s.cr0,
	       (unsigned long long)s.cr2, (unsigned long long)s.cr3, (unsigned long long)s.cr4,
	       (unsigned long long)s.efer);
	append(buf, bytes, "gdt %016llx+%x idt %016llx+%x tr %04x ldt %04x\n", (unsigned long long)s.gdt.base,
	       s.gdt.limit, (unsigned long long)s.idt.base, s.idt.limit, s.tr.sel, s.ldt.sel);
}
