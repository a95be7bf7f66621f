/*
 * Nested virtualization: the guest (L2) runs under a hypervisor (L1) that runs under this one (L0), on hardware that knows
 * two stages of translation. L1 keeps EPT12, from L2's physical addresses to L1's; L0 knows where L1's memory is and keeps
 * EPT02, the composition of both, for the hardware: a shadow EPT. docs/nested-virtualization.md has the picture.
 *
 * L1 is modelled, not executed. What it keeps is real: its memory is frames of the VM, EPT12 is tables in there, and EPT01
 * says where they are. What it would do at the processor is counted by rule: it is the same hypervisor as this one, so
 * what is done at the door for an exit that is L1's to handle - VMREAD, VMWRITE, INVVPID, INVEPT - is what L1 would do,
 * where each of these exits to L0. (L0 has to copy just these fields between the VMCS that it runs L2 by and the one that
 * L1 believes in: that is the work at the door that is really done.)
 *
 * With direct translation on both sides (nested-pvdmt, docs/dmt.md) the hardware needs no shadow: the guest's registers name
 * gTEAs, by machine address; L1's registers lead to the last entries of EPT12 and L0's to those of EPT01, each in areas of
 * their own, also by machine address. Three references. EPT02 is what walks fall back to.
 *
 * Left out: VMCS shadowing, L1's own translations, that EPT01 and EPT12 are walked when L1 and L0 look at memory,
 * more than one L2 under an L1. That a gTEA of L2's is in one piece in L1's memory, too: L1 hands the request on.
 */
#include "hv/core.h"
#include "hv/dirty.h"
#include "hv/ept.h"
#include "hv/gtea.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* What L0 needs to know of an exit of L1's: reason, qualification, instruction information and length; and L1's RIP moves on. */
#define EXIT_READS  4u
#define EXIT_WRITES 1u

struct nested {
	struct ept_tables ept;  /* EPT02; first: ept_of() */
	struct ept_tables ept12, ept01;
	uint32_t *l1_of;        /* [pages of RAM]: L1's frame for it, plus 1; 0: none yet */
	uint32_t *machine_of;   /* [l1_frames]: its machine frame, plus 1 */
	uint64_t l1_frames, l1_next;
	struct gteas *gteas;    /* direct translation */
	bool reflected;         /* the last exit was L1's to handle */
	struct vmx_counts door; /* at that exit */
	struct obs_nested count;
};

static struct nested *nested_of(const struct hv_vm *vm) { return vm->mmu_state; }

/* ---- L1's memory ---- */

/* Frames of L1 in a row, aligned to 2^order, that nothing stands behind yet. */
static int l1_take(struct nested *n, uint64_t frames, unsigned order, uint64_t *first)
{
	uint64_t at = (n->l1_next + (1ull << order) - 1) >> order << order;

	if (at > n->l1_frames || frames > n->l1_frames - at)
		return -ENOMEM;
	*first = at;
	n->l1_next = at + frames;
	return 0;
}

/*
 * L0 puts machine frames behind frames of L1's, in EPT01 by one entry of @level for 2^order of them. L1's first access there
 * makes it do so: an exit.
 */
static int l1_back(struct hv_vm *vm, uint64_t l1, uint64_t m, unsigned level)
{
	struct nested *n = nested_of(vm);
	int r = ept_tables_put(vm, &n->ept01, l1 << PAGE_SHIFT, m << PAGE_SHIFT, level);

	for (uint64_t i = 0; !r && i < 1ull << ept_order(level); i++)
		n->machine_of[l1 + i] = (uint32_t)(m + i + 1);
	n->count.l1_violations += !r;
	return r;
}

static int space_alloc(struct hv_vm *vm, uint64_t frames, uint64_t *first)
{
	uint64_t l1 = 0;
	mfn_t m;
	int r = l1_take(nested_of(vm), frames, 0, &l1);

	if (!r)
		r = frames == 1 ? machmem_alloc(vm->mem, 0, vm->owner, &m) : machmem_alloc_run(vm->mem, frames, vm->owner, &m);
	for (uint64_t i = 0; !r && i < frames; i++)
		r = l1_back(vm, l1 + i, m.v + i, 1);
	*first = l1 << PAGE_SHIFT;
	return r;
}

static uint64_t space_machine(const struct hv_vm *vm, uint64_t a)
{
	return (uint64_t)(nested_of(vm)->machine_of[a >> PAGE_SHIFT] - 1) << PAGE_SHIFT;
}

/* L1's frames stay taken: only when the VM goes are many of them freed. */
static void space_free(struct hv_vm *vm, uint64_t first, uint64_t frames)
{
	for (uint64_t i = 0; i < frames; i++)
		machmem_free(vm->mem, mfn(space_machine(vm, first + (i << PAGE_SHIFT)) >> PAGE_SHIFT), 1);
}

static const struct ept_space l1_space = {.alloc = space_alloc, .free = space_free, .machine = space_machine};

/* ---- what L1 does about an EPT violation ---- */

/* L1's frames for those of L2 from @g on, which are 2^order with machine frames in a row. */
static int l1_frames_for(struct hv_vm *vm, uint64_t g, unsigned order, uint64_t *l1)
{
	struct nested *n = nested_of(vm);
	uint32_t *of = &n->l1_of[hv_page_of(vm, g << PAGE_SHIFT)];
	bool had = true;
	int r;

	for (uint64_t i = 0; i < 1ull << order; i++)
		had &= of[i] && of[i] == of[0] + i;
	if (had && !((of[0] - 1) & ((1ull << order) - 1))) {
		*l1 = of[0] - 1;
		return 0;
	}
	r = l1_take(n, 1ull << order, order, l1);
	for (uint64_t i = 0; !r && i < 1ull << order; i++)
		of[i] = (uint32_t)(*l1 + i + 1);
	return r;
}

/* Gives L2 the page at @a, of the size that its machine frames allow, as L1 is asked to. */
static enum hv_verdict l1_map(struct hv_vm *vm, uint64_t a)
{
	struct nested *n = nested_of(vm);
	unsigned order, level;
	uint64_t g, l1;
	mfn_t m;

	if (p2m_get(vm, gfn(a >> PAGE_SHIFT), &m, &order))
		return hv_fail(vm, "no machine memory for guest-physical %llx", (unsigned long long)a);
	level = order / 9 + 1 < n->ept12.leaf_max ? order / 9 + 1 : n->ept12.leaf_max;
	g = a >> PAGE_SHIFT >> ept_order(level) << ept_order(level);
	m.v = m.v >> ept_order(level) << ept_order(level);
	if (l1_frames_for(vm, g, ept_order(level), &l1) || l1_back(vm, l1, m.v, level) ||
	    ept_tables_put(vm, &n->ept12, g << PAGE_SHIFT, l1 << PAGE_SHIFT, level))
		return hv_fail(vm, "the inner hypervisor has no memory for guest-physical %llx", (unsigned long long)a);
	n->count.filled_by_l1++;
	return HV_RESUME;
}

/*
 * Whose is it? If EPT12 has no answer, L1's; and L2 will exit again, since EPT02 does not know of it. Otherwise L0's: EPT02
 * takes what both together say.
 */
static enum hv_verdict violation(struct hv_vm *vm, uint64_t a, uint64_t qualification)
{
	struct nested *n = nested_of(vm);
	unsigned level;

	n->reflected = true;
	if (!p2m_is_ram(vm, a))
		return HV_EMULATE; /* L1's device */
	if (!ept_tables_find(vm, &n->ept12, a, &level))
		return l1_map(vm, a);
	n->reflected = false;
	n->count.filled_by_l0++;
	return ept_tables_fill(vm, &n->ept, a, qualification);
}

/* ---- what is counted by rule ---- */

/* All that was done at the door since the last exit was for its sake; if it was L1's, L1 did it. */
static void settle_exit(struct nested *n, const struct vmx_counts *now)
{
	if (!n->reflected)
		return;
	n->count.reflected++;
	n->count.vmreads += now->vmreads - n->door.vmreads;
	n->count.vmwrites += now->vmwrites - n->door.vmwrites;
	n->count.invvpids += now->invvpids - n->door.invvpids;
	n->count.invepts += now->invepts - n->door.invepts;
}

/* An exit of L2's begins. An external interrupt is for whoever has the machine, and L0 logs what is written. */
static void exited(struct hv_vm *vm, uint32_t reason, const struct vmx_counts *before)
{
	struct nested *n = nested_of(vm);

	settle_exit(n, before);
	n->door = *before;
	n->reflected = reason != EXIT_REASON_EXTERNAL_INTERRUPT && reason != EXIT_REASON_PML_FULL;
}

/* After each of them L1 is entered again; after VMRESUME it is L2, but L1 had been entered when the exit was reflected. */
static void add_exits(struct obs *obs, uint32_t reason, uint64_t exits)
{
	obs->exits.by_reason[reason] += exits;
	obs->exits.total += exits;
	obs->hypervisor.vmreads += EXIT_READS * exits;
	obs->hypervisor.vmwrites += EXIT_WRITES * exits;
	obs->hypervisor.entries += exits;
}

static void observe(const struct hv_vm *vm, struct obs *obs)
{
	const struct nested *n = nested_of(vm);
	struct nested sum = *n;

	settle_exit(&sum, vmx_counts(vm->cpu));
	obs->nested = sum.count;
	obs->nested.l1_requests = vm->obs.nested.l1_requests;
	obs->nested.ept12_bytes = n->ept12.tables << PAGE_SHIFT;
	obs->tables.ept_bytes = (n->ept.tables + n->ept12.tables + n->ept01.tables) << PAGE_SHIFT;
	add_exits(obs, EXIT_REASON_VMREAD, sum.count.vmreads);
	add_exits(obs, EXIT_REASON_VMWRITE, sum.count.vmwrites);
	add_exits(obs, EXIT_REASON_INVVPID, sum.count.invvpids);
	add_exits(obs, EXIT_REASON_INVEPT, sum.count.invepts);
	add_exits(obs, EXIT_REASON_VMRESUME, sum.count.reflected);
	add_exits(obs, EXIT_REASON_EPT_VIOLATION, sum.count.l1_violations);
	add_exits(obs, EXIT_REASON_WRMSR, vm->obs.nested.l1_requests);
}

/* ---- the p2m changed ---- */

/*
 * L1 gives L2 other frames: what EPT12 says of those goes, and L2 will ask again. Small pages keep L1's frames, behind which
 * L0 puts the new ones.
 */
static bool l1_unmap(struct hv_vm *vm, uint64_t first, uint64_t end)
{
	struct nested *n = nested_of(vm);
	bool any = false;

	for (uint64_t g = first; g < end; g++) {
		unsigned level, at;
		uint64_t *e = ept_tables_find(vm, &n->ept12, g << PAGE_SHIFT, &level), *e01;

		if (!e)
			continue;
		e01 = ept_tables_find(vm, &n->ept01, *e & EPT_ADDR_MASK, &at);
		for (uint64_t i = 0; level > 1 && i < 1ull << ept_order(level); i++)
			n->l1_of[hv_page_of(vm, ((g >> ept_order(level) << ept_order(level)) + i) << PAGE_SHIFT)] = 0;
		hv_count_writes(vm, 2);
		*e = *e01 = 0;
		any = true;
	}
	return any;
}

static void p2m_changed(struct hv_vm *vm, gfn_t first, uint64_t frames)
{
	struct nested *n = nested_of(vm);

	if (!n)
		return;
	/* What was translated directly came of no entry of EPT02. */
	if (l1_unmap(vm, first.v, first.v + frames))
		ept_tables_flush(vm, &n->ept);
	ept_tables_p2m_changed(vm, &n->ept, first, frames);
	gteas_p2m_changed(vm, n->gteas, first, frames);
}

/* ---- direct translation ---- */

/* Trackers watch EPT02: while there is one, every translation is made from there. */
static void set_direct(struct hv_vm *vm)
{
	vmx_set_dmt_stages(vm->cpu, hv_tracks(vm) ? 0 : 3);
	gteas_load(vm, nested_of(vm)->gteas);
}

static void setup_direct(struct hv_vm *vm)
{
	struct nested *n = nested_of(vm);
	struct dmt_entry e[EPT_TEAS_MAX];
	unsigned count;

	ept_setup_vmcs(vm);
	count = ept_tables_registers(vm, &n->ept12, e);
	vmx_set_dmt(vm->cpu, 1, e, count);
	count = ept_tables_registers(vm, &n->ept01, e);
	vmx_set_dmt(vm->cpu, 2, e, count);
	set_direct(vm);
}

static void track_direct(struct hv_vm *vm)
{
	set_direct(vm);
	ept_track(vm);
}

/* L1 has L0 make the range contiguous: a request of its own, which exits. */
static void pv_done(struct hv_vm *vm, const struct pv_request *r)
{
	vm->obs.nested.l1_requests += r->op == PV_TEA_ALLOC || r->op == PV_TEA_FREE;
	gteas_request(vm, nested_of(vm)->gteas, r);
}

/* ---- audit ---- */

struct audit {
	char *buf;
	size_t bytes;
};

static bool wrong(const struct audit *a, const char *what, uint64_t g)
{
	snprintf(a->buf, a->bytes, "%s at gfn %llx", what, (unsigned long long)g);
	return false;
}

/* Every entry of EPT12, through EPT01, is what the p2m says. */
static bool audit_ept12(void *ctx, struct hv_vm *vm, uint64_t g, unsigned level, uint64_t e)
{
	struct nested *n = nested_of(vm);
	uint64_t l1 = (e & EPT_ADDR_MASK) >> PAGE_SHIFT;

	for (uint64_t i = 0; i < 1ull << ept_order(level); i++) {
		unsigned at;
		const uint64_t *e01 = ept_tables_find(vm, &n->ept01, (l1 + i) << PAGE_SHIFT, &at);
		mfn_t m;

		if (p2m_peek(vm, gfn(g + i), &m, NULL) || n->machine_of[l1 + i] != m.v + 1)
			return wrong(ctx, "EPT12 and L1's memory differ from the p2m", g + i);
		if (!e01 || (*e01 & EPT_ADDR_MASK) >> PAGE_SHIFT != (m.v >> ept_order(at) << ept_order(at)))
			return wrong(ctx, "EPT01 differs from L1's memory", g + i);
		if (n->l1_of[hv_page_of(vm, (g + i) << PAGE_SHIFT)] != l1 + i + 1)
			return wrong(ctx, "EPT12 names a frame that L1 did not give", g + i);
	}
	return true;
}

/* Every entry of EPT02 has one in EPT12 that is not smaller. */
static bool audit_ept02(void *ctx, struct hv_vm *vm, uint64_t g, unsigned level, uint64_t e)
{
	unsigned at = 0;

	(void)e;
	if (ept_tables_find(vm, &nested_of(vm)->ept12, g << PAGE_SHIFT, &at) && at >= level)
		return true;
	return wrong(ctx, "EPT02 maps what L1 does not", g);
}

static bool audit(struct hv_vm *vm, char *buf, size_t bytes)
{
	struct nested *n = nested_of(vm);
	struct audit a = {buf, bytes};

	return ept_tables_audit(vm, &n->ept, buf, bytes) && ept_tables_each(vm, &n->ept12, audit_ept12, &a) &&
	       ept_tables_each(vm, &n->ept, audit_ept02, &a) && gteas_audit(vm, n->gteas, buf, bytes);
}

/* ---- making one ---- */

static void nested_destroy(struct hv_vm *vm)
{
	struct nested *n = nested_of(vm);

	if (!n)
		return;
	ept_tables_destroy(vm, &n->ept);
	ept_tables_destroy(vm, &n->ept12);
	ept_tables_destroy(vm, &n->ept01);
	free(n->gteas);
	free(n->l1_of);
	free(n->machine_of);
	free(n);
	vm->mmu_state = NULL;
}

static int make_l1(struct hv_vm *vm, struct nested *n, struct error *err)
{
	uint64_t pages = machmem_pages(vm->ram, vm->rams);

	/* Each page of L2 once in small pages and once in large ones, and the tables. */
	n->l1_frames = 2 * pages + pages / 64 + 2048;
	n->l1_of = calloc(pages, sizeof(*n->l1_of));
	n->machine_of = calloc(n->l1_frames, sizeof(*n->machine_of));
	n->ept12.space = &l1_space;
	return n->l1_of && n->machine_of ? 0 : error_set(err, -ENOMEM, "nested virtualization: out of memory");
}

/* Areas for the last tables, and with large host pages for those above. */
static int make_areas(struct hv_vm *vm, struct ept_tables *t, const struct machmem_range *range, unsigned ranges)
{
	int r = 0;

	t->leaf_max = 2;
	for (unsigned level = 1; level <= (vm->cfg.host_pages == HOST_PAGES_4K ? 1 : 2); level++)
		for (unsigned i = 0; !r && i < ranges; i++)
			r = ept_tables_add_tea(vm, t, level, range[i].base, range[i].bytes);
	return r;
}

/* L0's view of L1's memory is made first: EPT12 lies in there. */
static int make_tables(struct hv_vm *vm, struct nested *n, bool direct, struct error *err)
{
	const struct machmem_range l1 = {0, n->l1_frames << PAGE_SHIFT};
	int r = ept_tables_init(vm, &n->ept01, err);

	if (!r && direct)
		r = make_areas(vm, &n->ept01, &l1, 1);
	if (!r)
		r = ept_tables_init(vm, &n->ept12, err);
	if (!r && direct)
		r = make_areas(vm, &n->ept12, vm->ram, vm->rams);
	if (!r)
		r = ept_tables_init(vm, &n->ept, err);
	return r ? error_set(err, r, "nested virtualization: no machine memory for tables") : 0;
}

static int create(struct hv_vm *vm, bool direct, struct error *err)
{
	struct nested *n = calloc(1, sizeof(*n));
	int r;

	if (!n)
		return error_set(err, -ENOMEM, "nested virtualization: out of memory");
	vm->mmu_state = n;
	if ((r = make_l1(vm, n, err)) || (r = make_tables(vm, n, direct, err)) ||
	    (direct && (r = gteas_create(&n->gteas, err))))
		nested_destroy(vm);
	else /* counts begin with the guest: what L1 touched for the tables that it begins with is not among them */
		n->count = (struct obs_nested){0};
	return r;
}

static int nested_init(struct hv_vm *vm, struct error *err) { return create(vm, false, err); }
static int direct_init(struct hv_vm *vm, struct error *err) { return create(vm, true, err); }

#define NESTED_OPS                                                                                                 \
	EPT_REGISTER_OPS, .destroy = nested_destroy, .ept_violation = violation, .exited = exited,                 \
	.p2m_changed = p2m_changed, .retrack = ept_retrack, .scan = ept_scan, .audit = audit, .observe = observe

const struct hv_mmu_ops hv_mmu_nested = {
	.name = "nested", .init = nested_init, .setup_vmcs = ept_setup_vmcs, .track = ept_track, NESTED_OPS,
};
const struct hv_mmu_ops hv_mmu_nested_pvdmt = {
	.name = "nested-pvdmt", .init = direct_init, .setup_vmcs = setup_direct, .track = track_direct, .pv_done = pv_done,
	NESTED_OPS,
};
