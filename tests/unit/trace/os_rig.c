/* The machine that executes what the operating-system model says. */
#include "os_rig.h"

#include "base/util.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>

#define USER_END 0x800000000000ull

struct translation {
	uint64_t pa;
	unsigned shift;
	bool write, exec;
};

static int wrong(struct error *err, const char *what, uint64_t x, uint64_t y)
{
	return error_set(err, -EINVAL, "rig: %s: %#" PRIx64 ", %#" PRIx64, what, x, y);
}

static bool in_ram(const struct os_rig *r, uint64_t pa, uint64_t bytes)
{
	return pa < r->span && bytes <= r->span - pa;
}

/* ---- walking ---- */

static bool permitted(const struct translation *t, unsigned kind)
{
	return kind == TRACE_WRITE ? t->write : kind == TRACE_FETCH ? t->exec : true;
}

/*
 * The translation of @va for the user, or the system; with @touch sets flags as a processor does, if @kind is
 * permitted.
 */
static bool walk(struct os_rig *r, uint64_t va, bool user, unsigned kind, bool touch, struct translation *t)
{
	uint64_t table = r->cr3 & PTE_ADDR_MASK, at[4], e = 0;
	unsigned n = 0;

	t->write = t->exec = true;
	for (t->shift = 39;; t->shift -= 9) {
		at[n] = table + 8 * (va >> t->shift & 511);
		if (!in_ram(r, at[n], 8))
			return false;
		e = get_u64(r->mem + at[n++]);
		if (!(e & PTE_P) || (user && !(e & PTE_U)))
			return false;
		t->write &= !!(e & PTE_W);
		t->exec &= !(e & PTE_NX);
		table = e & PTE_ADDR_MASK;
		if (t->shift == 12 || e & PTE_PS)
			break;
	}
	t->pa = (table & ~((1ull << t->shift) - 1)) | (va & ((1ull << t->shift) - 1));
	if (!touch || !permitted(t, kind))
		return true;
	for (unsigned i = 0; i < n; i++) {
		e = get_u64(r->mem + at[i]) | PTE_A;
		put_u64(r->mem + at[i], i + 1 == n && kind == TRACE_WRITE ? e | PTE_D : e);
	}
	return true;
}

uint64_t rig_walk(struct os_rig *r, uint64_t va, unsigned *shift)
{
	struct translation t;

	if (!walk(r, va, va < USER_END, TRACE_READ, false, &t))
		return UINT64_MAX;
	*shift = t.shift;
	return t.pa;
}

/* ---- the TLB ---- */

static unsigned pcid(const struct os_rig *r) { return r->cr4 & CR4_PCIDE ? r->cr3 & CR3_PCID_MASK : 0; }

static struct rig_entry *slot(struct os_rig *r, uint64_t va)
{
	uint64_t key = (va >> PAGE_SHIFT) * 8 + pcid(r);

	return &r->tlb[key * 0x9e3779b97f4a7c15ull >> 52];
}

static bool holds(const struct os_rig *r, const struct rig_entry *e, uint64_t va)
{
	return e->valid && e->vpn == va >> PAGE_SHIFT && e->pcid == pcid(r);
}

static void invlpg(struct os_rig *r, uint64_t va)
{
	for (unsigned i = 0; i < RIG_TLB; i++)
		if (r->tlb[i].valid && r->tlb[i].pcid == pcid(r) &&
		    r->tlb[i].vpn >> (r->tlb[i].shift - 12) == va >> r->tlb[i].shift)
			r->tlb[i].valid = false;
}

static int load_cr3(struct os_rig *r, uint64_t value, struct error *err)
{
	bool keep = value >> 63;

	if (keep && !(r->cr4 & CR4_PCIDE))
		return wrong(err, "CR3 with bit 63, without PCIDs", value, r->cr4);
	r->cr3 = value & ~CR3_NOFLUSH;
	r->cr3_loads++;
	r->flushing_loads += !keep;
	for (unsigned i = 0; i < RIG_TLB && !keep; i++)
		if (r->tlb[i].pcid == pcid(r))
			r->tlb[i].valid = false;
	return 0;
}

/* ---- DMT ---- */

/* What register @e says of @va: false: nothing. */
static bool dmt_says(const struct os_rig *r, const struct dmt_entry *e, uint64_t va, struct translation *t)
{
	uint64_t leaf;

	if (va < e->start || va >= e->end)
		return false;
	t->shift = dmt_shift(e);
	leaf = get_u64(r->mem + dmt_entry_of(e, va));
	if (!(leaf & PTE_P) || !(leaf & PTE_U) || (t->shift == 21 && !(leaf & PTE_PS)))
		return false;
	t->pa = (leaf & PTE_ADDR_MASK & ~((1ull << t->shift) - 1)) | (va & ((1ull << t->shift) - 1));
	t->write = leaf & PTE_W;
	t->exec = !(leaf & PTE_NX);
	return true;
}

/* @t: what the walk says; NULL: there is no translation. */
static int check_registers(struct os_rig *r, uint64_t va, const struct translation *t, struct error *err)
{
	struct translation d;
	bool hit = false;

	for (unsigned i = 0; i < r->regs; i++) {
		if (!dmt_says(r, &r->reg[i], va, &d))
			continue;
		if (!t || d.pa != t->pa || d.shift != t->shift || d.write != t->write || d.exec != t->exec)
			return wrong(err, "a register says something else than the walk", va, d.pa);
		hit = true;
		r->dmt_2m_hits += d.shift == 21;
	}
	r->dmt_hits += hit;
	r->dmt_misses += t && !hit;
	return 0;
}

static int load_registers(struct os_rig *r, uint64_t value, struct error *err)
{
	uint64_t pa = value & ~DMT_COUNT_MASK;

	r->regs = value & DMT_COUNT_MASK;
	r->reg_loads++;
	if (r->regs > DMT_REGISTERS || !in_ram(r, pa, r->regs * sizeof(r->reg[0])))
		return wrong(err, "registers", pa, r->regs);
	memcpy(r->reg, r->mem + pa, r->regs * sizeof(r->reg[0]));
	for (unsigned i = 0; i < r->regs; i++) {
		const struct dmt_entry *e = &r->reg[i];
		struct pv_range in = {e->tea, (dmt_bytes(e) + PAGE_SIZE - 1) >> PAGE_SHIFT}, *tea;

		if (!dmt_well_formed(e) || !in_ram(r, e->tea, dmt_bytes(e)))
			return wrong(err, "a register", e->start, e->tea);
		if (!dmt_id(e))
			continue;
		tea = &r->pv.tea[dmt_id(e) - 1];
		if (in.gpa < tea->gpa || in.gpa + pv_bytes(&in) > tea->gpa + pv_bytes(tea))
			return wrong(err, "a register beyond its gTEA", e->tea, dmt_id(e));
	}
	return 0;
}

static int serve(struct os_rig *r, uint64_t pa, struct error *err)
{
	struct pv_request q;

	r->requests++;
	if (pa % DMT_ALIGN || !in_ram(r, pa, sizeof(q)))
		return wrong(err, "a request", pa, 0);
	memcpy(&q, r->mem + pa, sizeof(q));
	for (unsigned i = 0; q.op == PV_TEA_FREE && i < r->regs; i++)
		if (dmt_id(&r->reg[i]) == q.id)
			return wrong(err, "a gTEA is freed that a register names", q.id, i);
	pv_serve(&r->pv, &q, in_ram(r, q.gpa, q.pages << PAGE_SHIFT));
	memcpy(r->mem + pa, &q, sizeof(q));
	return 0;
}

/* ---- accesses ---- */

static int check_tlb(struct os_rig *r, uint64_t va, unsigned kind, const struct translation *t, struct error *err)
{
	struct rig_entry *e = slot(r, va);
	struct translation had = {.write = e->write, .exec = e->exec};

	if (holds(r, e, va)) {
		if (!t || e->frame != t->pa >> PAGE_SHIFT || (e->write && !t->write) || (e->exec && !t->exec))
			return wrong(err, "a stale TLB entry", va, e->frame);
		if (t && permitted(t, kind) && !permitted(&had, kind))
			return wrong(err, "a TLB entry that does not know what is permitted", va, kind);
	}
	if (t && permitted(t, kind))
		*e = (struct rig_entry){true, t->write, t->exec, pcid(r), t->shift, va >> PAGE_SHIFT, t->pa >> PAGE_SHIFT};
	return 0;
}

/* One page of an access. *possible: it is. */
static int access_page(struct os_rig *r, const struct trace_event *ev, uint64_t va, bool *possible, struct error *err)
{
	struct translation t;
	bool user = va < USER_END, there = walk(r, va, user, ev->kind, true, &t);
	int ret = 0;

	*possible = there && permitted(&t, ev->kind);
	if (ev->flags & TRACE_VALUE && *possible) {
		if (t.pa != trace_value_gpa(ev))
			return wrong(err, "a store goes elsewhere", t.pa, trace_value_gpa(ev));
		memcpy(r->mem + t.pa, &ev->value, ev->size);
		r->stores++;
	}
	if (!user)
		return *possible ? 0 : wrong(err, "the kernel faults", va, ev->kind);
	if (!*possible) /* a fault takes the entry with it */
		invlpg(r, va);
	ret = check_tlb(r, va, ev->kind, there ? &t : NULL, err);
	if (!ret)
		ret = check_registers(r, va, there ? &t : NULL, err);
	r->seen[(va >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ull >> 51] = va & PAGE_MASK;
	return ret;
}

static int do_access(struct os_rig *r, const struct trace_event *ev, struct error *err)
{
	uint64_t last = ev->addr + ev->size - 1;
	bool possible;
	int ret = access_page(r, ev, ev->addr, &possible, err);

	if (!ret && possible && (ev->addr ^ last) >> PAGE_SHIFT)
		ret = access_page(r, ev, last, &possible, err);
	if (!ret && possible == !!(ev->flags & TRACE_FAULTS))
		ret = wrong(err, possible ? "a fault that is none" : "an access that faults", ev->addr, ev->kind);
	r->accesses += possible;
	r->faults += !possible;
	return ret;
}

static int do_wrmsr(struct os_rig *r, const struct trace_event *ev, struct error *err)
{
	switch (ev->addr) {
	case MSR_EFER:
		r->efer = ev->value;
		return 0;
	case MSR_DMT_LOAD:
		return load_registers(r, ev->value, err);
	case MSR_PV_REQUEST:
		return serve(r, ev->value, err);
	default:
		return wrong(err, "an MSR", ev->addr, ev->value);
	}
}

static int do_event(struct os_rig *r, const struct trace_event *ev, struct error *err)
{
	switch (ev->kind) {
	case TRACE_READ:
	case TRACE_WRITE:
	case TRACE_FETCH:
		return do_access(r, ev, err);
	case TRACE_INSNS:
		r->insns += ev->value;
		return 0;
	case TRACE_PAGE:
		if (!in_ram(r, ev->addr, PAGE_SIZE))
			return wrong(err, "a page", ev->addr, 0);
		memcpy(r->mem + ev->addr, trace_event_page(ev), PAGE_SIZE);
		return 0;
	case TRACE_CR3:
		return load_cr3(r, ev->value, err);
	case TRACE_CR4:
		r->cr4 = ev->value;
		return 0;
	case TRACE_WRMSR:
		return do_wrmsr(r, ev, err);
	case TRACE_INVLPG:
		invlpg(r, ev->addr);
		r->invlpgs++;
		return 0;
	case TRACE_CR0:
	case TRACE_MARK:
		return 0;
	default:
		return wrong(err, "an event that no machine trace has", ev->kind, ev->addr);
	}
}

static int rig_sink(void *ctx, const struct trace_event *ev, unsigned n, struct error *err)
{
	struct os_rig *r = ctx;

	for (unsigned i = 0; i < n; i++) {
		int ret = trace_event_check(&ev[i], err);

		if (!ret)
			ret = do_event(r, &ev[i], err);
		if (ret)
			return ret;
		r->events++;
	}
	return 0;
}

/* ---- from outside ---- */

int rig_init(struct os_rig *r, const struct osm_config *cfg, struct error *err)
{
	struct trace_sink sink = {rig_sink, r};
	int ret;

	memset(r, 0, sizeof(*r));
	r->span = osm_span(cfg);
	r->mem = mmap(NULL, r->span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (r->mem == MAP_FAILED) {
		r->mem = NULL;
		return error_set(err, -ENOMEM, "rig: out of memory");
	}
	ret = osm_create(&r->osm, cfg, &sink, err);
	if (!ret)
		ret = osm_finish(r->osm, err);
	if (ret)
		rig_destroy(r);
	return ret;
}

void rig_destroy(struct os_rig *r)
{
	osm_destroy(r->osm);
	if (r->mem)
		munmap(r->mem, r->span);
	r->osm = NULL;
	r->mem = NULL;
}

int rig_put(struct os_rig *r, struct trace_event ev, struct error *err)
{
	int ret = osm_put(r->osm, &ev, 1, err);

	return ret ? ret : osm_finish(r->osm, err);
}

int rig_compare(struct os_rig *r, uint64_t space, struct error *err)
{
	for (unsigned i = 0; i < RIG_SEEN; i++) {
		struct osm_mapping m;
		struct translation t;
		uint64_t va = r->seen[i];
		bool there = walk(r, va, true, TRACE_READ, false, &t);

		if (osm_lookup(r->osm, space, va, &m) != (there ? 0 : -ENOENT))
			return wrong(err, "the model and memory disagree whether there is something", va, there);
		if (there && (m.gpa != t.pa || m.shift != t.shift || m.writable != t.write || m.exec != t.exec))
			return wrong(err, "the model and memory disagree", va, t.pa);
	}
	return 0;
}

struct trace_event rig_access(unsigned kind, uint64_t addr, unsigned size)
{
	return (struct trace_event){.kind = (uint8_t)kind, .size = (uint8_t)size, .mode = TRACE_SUPER, .flags = TRACE_FIRST,
				    .addr = addr, .pc = 0xffffffff81000000};
}

struct trace_event rig_map(uint64_t addr, uint64_t bytes, unsigned flags)
{
	return (struct trace_event){.kind = TRACE_MAP, .flags = (uint8_t)flags, .addr = addr, .value = bytes};
}

struct trace_event rig_event(unsigned kind, uint64_t addr, uint64_t value)
{
	return (struct trace_event){.kind = (uint8_t)kind, .addr = addr, .value = value};
}
