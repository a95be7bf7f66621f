/*
 * L1's EPT, walked by software: to make EPT02 from it, and where L0 translates addresses of L2's. Its result - event,
 * qualification, accessed and dirty flags left behind, pages logged - is the processor's own; but as with guest_walk.c this
 * code shares nothing with the processor's walker.
 *
 * Source: SDM volume 3, "The Extended Page Table Mechanism (EPT)", "Page-Modification Logging".
 */
#include "hv/core.h"
#include "hv/dirty.h"
#include "hv/nested.h"

#define LEVEL_LARGEST 3u

struct walking {
	struct hv_vm *vm;
	uint64_t a, need, rights;
	bool table, set, ad;
	struct nested_page *p;
	struct xlate *x;
};

/* Host address of L1's entry; NULL: no frame stands behind it. */
static uint8_t *entry_ptr(struct hv_vm *vm, uint64_t at)
{
	return p2m_contents(vm, gfn(at >> PAGE_SHIFT)) ? p2m_ptr(vm, at) : NULL;
}

/* What is no RAM reads as ones, as on the bare machine. */
static uint64_t load_entry(struct hv_vm *vm, uint64_t at)
{
	const uint8_t *e = entry_ptr(vm, at);

	hv_count_reads(vm, 1);
	hv_note_accessed(vm, at);
	return e ? get_u64(e) : p2m_is_ram(vm, at) ? 0 : ~0ull;
}

static void store_l1(struct hv_vm *vm, uint64_t at, uint64_t v)
{
	uint8_t *e = entry_ptr(vm, at);

	if (!e)
		return;
	put_u64(e, v);
	hv_count_writes(vm, 1);
	hv_note_written(vm, at);
	hv_snoop(vm, at, 8);
}

static enum xlate_event violation(const struct walking *k, uint64_t rights)
{
	k->x->gpa = gpa(k->a);
	k->x->qualification = k->need | rights << EPT_VIOL_RIGHTS_SHIFT | (k->table ? 0 : EPT_VIOL_FINAL);
	return XLATE_EPT_VIOLATION;
}

static bool memory_type_ok(uint64_t e)
{
	unsigned type = e >> EPT_MT_SHIFT & 7;

	return type <= 1 || (type >= 4 && type <= 6);
}

/* "EPT Misconfigurations" */
static bool misconfigured(const struct hv_vm *vm, uint64_t e, unsigned level, bool leaf)
{
	if ((e & (EPT_R | EPT_W)) == EPT_W || e & EPT_ADDR_MASK & (~0ull << vm->cfg.cpu.maxphyaddr))
		return true;
	if (!leaf)
		return bits(e, 6, 3) || (level > LEVEL_LARGEST && e & EPT_PS);
	return !memory_type_ok(e) || e & EPT_ADDR_MASK & ((1ull << ept_shift(level)) - 1);
}

/* Sets flags in the entry @e at @at. A full log stops even an access that needs no more than an accessed flag. */
static enum xlate_event set_flags(const struct walking *k, uint64_t at, uint64_t *e, uint64_t flags)
{
	struct mmu_pml *pml = &k->vm->emul->mmu.pml;

	if ((*e & flags) == flags)
		return XLATE_OK;
	if (!k->set) {
		k->p->settled = false;
		return XLATE_OK;
	}
	if (pml->on && pml->index >= PML_ENTRIES) {
		k->x->gpa = gpa(k->a);
		return XLATE_PML_FULL;
	}
	store_l1(k->vm, at, *e | flags);
	if (pml->on && flags & ~*e & EPT_D) {
		store_l1(k->vm, pml->log + 8ull * pml->index--, k->a & PAGE_MASK);
		k->vm->nested->count.logged++;
	}
	*e |= flags;
	return XLATE_OK;
}

static enum xlate_event at_leaf(const struct walking *k, uint64_t at, uint64_t e, unsigned level)
{
	uint64_t below = (1ull << ept_shift(level)) - 1;
	struct nested_page *p = k->p;
	enum xlate_event ev = XLATE_OK;

	if (k->need & ~k->rights)
		return violation(k, k->rights);
	if (k->ad)
		ev = set_flags(k, at, &e, EPT_A | (k->need & EPT_VIOL_WRITE ? EPT_D : 0));
	p->l1 = (e & EPT_ADDR_MASK & ~below) | (k->a & below);
	p->rights = k->rights;
	p->level = level;
	p->dirty = !k->ad || e & EPT_D;
	return ev;
}

static enum xlate_event walk(struct walking *k, uint64_t eptp)
{
	unsigned level = (unsigned)(eptp >> EPTP_WALK_SHIFT & 7) + 1;
	uint64_t table = eptp & EPT_ADDR_MASK;

	k->ad = eptp & EPTP_AD;
	k->rights = EPT_RWX;
	*k->p = (struct nested_page){.settled = true};
	if (level == 4 && k->a >> 48)
		return violation(k, 0);
	for (;; level--) {
		uint64_t at = table + (k->a >> ept_shift(level) & 0x1ff) * 8, e = load_entry(k->vm, at);
		bool leaf = level == 1 || (level <= LEVEL_LARGEST && e & EPT_PS);
		enum xlate_event ev;

		if (!(e & EPT_RWX))
			return violation(k, 0);
		if (misconfigured(k->vm, e, level, leaf)) {
			k->x->gpa = gpa(k->a);
			return XLATE_EPT_MISCONFIG;
		}
		k->rights &= e & EPT_RWX;
		if (leaf)
			return at_leaf(k, at, e, level);
		ev = k->ad ? set_flags(k, at, &e, EPT_A) : XLATE_OK;
		if (ev)
			return ev;
		table = e & EPT_ADDR_MASK;
	}
}

enum xlate_event nested_ept_walk(struct hv_vm *vm, uint64_t a, uint64_t need, bool table, bool set,
				 struct nested_page *p, struct xlate *x)
{
	struct walking k = {.vm = vm, .a = a, .need = need, .table = table, .set = set, .p = p, .x = x};

	vm->nested->count.ept12_walks++;
	return walk(&k, vm->emul->vmx.eptp);
}

enum xlate_event nested_ept_look(struct hv_vm *vm, uint64_t eptp, uint64_t a, struct nested_page *p)
{
	struct xlate ignored = {0};
	struct walking k = {.vm = vm, .a = a, .p = p, .x = &ignored};

	return walk(&k, eptp);
}

enum xlate_event nested_stage2(struct hv_vm *vm, uint64_t a, enum access_kind kind, bool table, bool set, uint64_t *out,
			       uint64_t *rights, struct xlate *x)
{
	static const uint64_t access[ACCESS_KINDS] = {
		[ACCESS_READ] = EPT_VIOL_READ, [ACCESS_WRITE] = EPT_VIOL_WRITE, [ACCESS_FETCH] = EPT_VIOL_FETCH};
	const struct vmx_state *v = &vm->emul->vmx;
	uint64_t need = access[kind];
	struct nested_page p;
	enum xlate_event ev;

	if (!v->nonroot || !(v->proc2 & PROC2_EPT)) {
		*out = a;
		*rights = EPT_RWX;
		return XLATE_OK;
	}
	/* With accessed and dirty flags the walker's accesses to L2's tables are writes. */
	if (table && v->eptp & EPTP_AD)
		need |= EPT_VIOL_WRITE;
	ev = nested_ept_walk(vm, a, need, table, set, &p, x);
	*out = p.l1;
	*rights = p.rights;
	return ev;
}
