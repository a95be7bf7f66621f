/*
 * The MMU backend of a VM whose guest may be a hypervisor: the scheme's own, but for what is different while L2 runs.
 *
 * With EPT the processor translates L2's addresses. If L1 gives L2 an EPT, the processor is given EPT02: for each page that
 * L2 touches what L1's EPT and the p2m say together, rights ANDed, filled by violations. If not, L2's tables are L1's, with
 * L1's physical addresses, and the processor is given the EPT of L1 itself.
 *
 * EPT02 is kept as a TLB is: L1's changes of its EPT need not show in it before INVEPT. When L2 is entered after that, each
 * of its entries is compared with L1's tables. Where the p2m changes, and when a tracker looks for pages that are written, all
 * of it goes; while there is a tracker a page is writable there only when it has been written through it since.
 *
 * Without EPT the scheme's tables are made from L2's page tables, which are in L1's memory, as from any guest's.
 *
 * Left out: sharing between EPTs of L1 that have tables in common; large pages while pages are tracked.
 */
#include "hv/core.h"
#include "hv/dirty.h"
#include "hv/nested.h"

#include <assert.h>
#include <errno.h>

/* ---- tags ---- */

/* One for each slot and VM; 0 is used where the VM has none either. */
uint16_t nested_vpid(const struct hv_vm *vm, unsigned slot)
{
	return vm->vpid ? (uint16_t)((slot + 1) << 12 | (vm->vpid & 0xfff)) : 0;
}

static void invalidate(struct hv_vm *vm, uint64_t type, uint16_t vpid, uint64_t lin)
{
	/* An address that is not canonical is of no translation. */
	if (vpid)
		vmx_invvpid(vm->cpu, type, vpid, gva(lin));
}

static uint16_t tag_now(const struct hv_vm *vm) { return nested_vpid(vm, vm->nested->vpid_now); }

static void choose_tag(struct hv_vm *vm)
{
	struct hv_nested *n = vm->nested;
	uint16_t want = vm->emul->vmx.vpid;
	unsigned slot = 0;

	while (slot < NESTED_VPIDS && n->vpid[slot] != want)
		slot++;
	if (slot == NESTED_VPIDS) {
		slot = n->vpid_next++ % NESTED_VPIDS;
		n->vpid[slot] = want;
		invalidate(vm, INVVPID_SINGLE, nested_vpid(vm, slot), 0);
	}
	n->vpid_now = slot;
	/* Without VPIDs L1's entries and exits drop what VPID 0 has: its own translations and L2's. */
	if (!want)
		invalidate(vm, INVVPID_SINGLE, tag_now(vm), 0);
}

void nested_invvpid(void *ctx, uint64_t type, uint16_t vpid, uint64_t lin)
{
	struct hv_vm *vm = ctx;
	struct hv_nested *n = vm->nested;

	/* Without EPT every entry makes the scheme look at L2's tables anew. */
	for (unsigned slot = 0; n->ept && slot < NESTED_VPIDS; slot++) {
		if (n->vpid[slot] && type == INVVPID_ALL)
			invalidate(vm, INVVPID_SINGLE, nested_vpid(vm, slot), 0);
		else if (n->vpid[slot] == vpid && vpid)
			invalidate(vm, type, nested_vpid(vm, slot), lin);
	}
}

/* ---- EPT02 ---- */

uint64_t nested_eptp(const struct nested_ept *e)
{
	/* With L1's accessed and dirty flags walks of L2's tables are writes to them. */
	return e->tables.root | EPT_MT_WB | (e->eptp12 & EPTP_AD) | (uint64_t)(e->tables.levels - 1) << EPTP_WALK_SHIFT;
}

static void flush(struct hv_vm *vm, const struct nested_ept *e)
{
	enum vmx_result r = vmx_invept(vm->cpu, INVEPT_SINGLE, nested_eptp(e));

	assert(r == VMX_SUCCEED);
	(void)r;
}

static void drop(struct hv_vm *vm, struct nested_ept *e)
{
	if (!e->used)
		return;
	vm->nested->count.dropped++;
	ept_tables_clear(vm, &e->tables);
	flush(vm, e);
	e->suspect = false;
}

void nested_mmu_drop(struct hv_vm *vm)
{
	for (unsigned i = 0; i < NESTED_EPTS; i++)
		drop(vm, &vm->nested->ept02[i]);
}

static uint64_t key_of(uint64_t eptp) { return eptp & (EPT_ADDR_MASK | EPTP_AD | 7ull << EPTP_WALK_SHIFT); }

static struct nested_ept *find(struct hv_nested *n, uint64_t eptp)
{
	struct nested_ept *oldest = &n->ept02[0];

	for (unsigned i = 0; i < NESTED_EPTS; i++) {
		struct nested_ept *e = &n->ept02[i];

		if (e->used && e->eptp12 == eptp)
			return e;
		if (!e->used || (oldest->used && e->stamp < oldest->stamp))
			oldest = e;
	}
	return oldest;
}

/* What an entry of EPT02 is to be, now that L1 says that its EPT may have changed. */
static uint64_t compare(void *ctx, struct hv_vm *vm, uint64_t g, unsigned level, uint64_t e)
{
	const struct nested_ept *of = ctx;
	uint64_t offset = ((1ull << ept_shift(level)) - 1) & PAGE_MASK, rights;
	struct nested_page p;
	mfn_t m;

	if (nested_ept_look(vm, of->eptp12, g << PAGE_SHIFT, &p) || !p.settled || p.level < level)
		return 0;
	if (p2m_peek(vm, gfn(p.l1 >> PAGE_SHIFT), &m, NULL) || m.v << PAGE_SHIFT != (e & EPT_ADDR_MASK & ~offset))
		return 0;
	rights = e & EPT_RWX & (p.dirty ? p.rights : p.rights & ~EPT_W);
	return rights ? (e & ~EPT_RWX) | rights : 0;
}

static void compare_all(struct hv_vm *vm, struct nested_ept *e)
{
	vm->nested->count.dropped_entries += ept_tables_edit(vm, &e->tables, compare, e);
	flush(vm, e);
	e->suspect = false;
}

int nested_mmu_choose(struct hv_vm *vm)
{
	struct hv_nested *n = vm->nested;
	uint64_t eptp = key_of(vm->emul->vmx.eptp);
	struct nested_ept *e;

	n->now = NULL;
	if (!n->ept || !(vm->emul->vmx.proc2 & PROC2_EPT))
		return 0;
	e = find(n, eptp);
	if (!e->used) {
		int r = ept_tables_init(vm, &e->tables, NULL);

		if (r)
			return r;
		/* The frame may have been another root. */
		e->used = true;
		e->eptp12 = eptp;
		flush(vm, e);
	} else if (e->eptp12 != eptp) {
		drop(vm, e);
		e->eptp12 = eptp;
	}
	if (e->suspect)
		compare_all(vm, e);
	e->stamp = ++n->clock;
	n->now = e;
	return 0;
}

void nested_invept(void *ctx, uint64_t type, uint64_t eptp)
{
	struct hv_vm *vm = ctx;
	struct hv_nested *n = vm->nested;

	for (unsigned i = 0; i < NESTED_EPTS; i++) {
		struct nested_ept *e = &n->ept02[i];

		if (type == INVEPT_ALL || !((e->eptp12 ^ eptp) & EPT_ADDR_MASK))
			e->suspect = true;
	}
}

/* ---- violations ---- */

static uint64_t tables_in_use(const struct hv_nested *n)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < NESTED_EPTS; i++)
		sum += n->ept02[i].tables.tables;
	return sum;
}

/* What L0 lets the page be, when L2 needs @need of it. */
static uint64_t granted(struct hv_vm *vm, uint64_t l1, uint64_t need)
{
	if (!hv_tracks(vm))
		return EPT_RWX;
	hv_dirty_fault(vm, l1, need & EPT_W);
	hv_note_accessed(vm, l1);
	if (!(need & EPT_W))
		return EPT_R | EPT_X;
	hv_note_written(vm, l1);
	return EPT_RWX;
}

static enum hv_verdict fill(struct hv_vm *vm, uint64_t a, const struct nested_page *p, uint64_t need)
{
	struct hv_nested *n = vm->nested;
	uint64_t rights = p->rights & ~(p->dirty ? 0 : EPT_W);
	unsigned order, level;
	bool stale = false;
	mfn_t m;
	int r = p2m_get(vm, gfn(p->l1 >> PAGE_SHIFT), &m, &order);

	if (r == -EFAULT)
		return HV_EMULATE; /* L1 gave L2 a device of its own */
	if (r)
		return hv_fail(vm, "no machine memory for guest-physical %llx", (unsigned long long)p->l1);
	rights &= granted(vm, p->l1, need);
	level = hv_tracks(vm) ? 1 : order / 9 + 1;
	level = level < p->level ? level : p->level;
	level = level < n->now->tables.leaf_max ? level : n->now->tables.leaf_max;
	if (tables_in_use(n) > n->tables_max)
		nested_mmu_drop(vm);
	m.v = m.v >> ept_order(level) << ept_order(level);
	if (ept_tables_set(vm, &n->now->tables, a, m, level, rights, &stale)) {
		nested_mmu_drop(vm);
		if (ept_tables_set(vm, &n->now->tables, a, m, level, rights, &stale))
			return hv_fail(vm, "EPT: no memory for the inner guest's tables");
	}
	if (stale)
		flush(vm, n->now);
	n->count.composed++;
	return HV_RESUME;
}

enum hv_verdict nested_mmu_violation(struct hv_vm *vm, uint64_t a, uint64_t qualification, enum xlate_event *event,
				     struct xlate *x)
{
	uint64_t need = qualification & EPT_RWX; /* in the order of an entry's bits */
	struct nested_page p;

	*event = nested_ept_walk(vm, a, need, !(qualification & EPT_VIOL_FINAL), true, &p, x);
	return *event ? HV_RESUME : fill(vm, a, &p, need);
}

/* ---- from level to level ---- */

int nested_mmu_enter(struct hv_vm *vm)
{
	if (!vm->nested->ept)
		return 0;
	choose_tag(vm);
	return nested_mmu_choose(vm);
}

void nested_mmu_leave(struct hv_vm *vm)
{
	struct hv_nested *n = vm->nested;

	if (n->ept && !n->vpid[n->vpid_now])
		invalidate(vm, INVVPID_SINGLE, vm->vpid, 0);
	n->now = NULL;
}

/* ---- the backend ---- */

#define CR0_HELD CR0_NE   /* VMX operation needs these set */
#define CR4_HELD CR4_VMXE

static void write_registers(struct hv_vm *vm)
{
	const struct hv_guest_regs *g = &vm->guest;

	hv_write(vm, VMCS_GUEST_CR0, g->cr0 | CR0_HELD);
	hv_write(vm, VMCS_GUEST_CR4, g->cr4 | CR4_HELD);
	hv_write(vm, VMCS_GUEST_CR3, g->cr3);
	for (unsigned i = 0; i < 4; i++)
		hv_write(vm, (enum vmcs_field)(VMCS_GUEST_PDPTE0 + 2 * i), g->pdpte[i]);
}

/* Of bits that L1 keeps to itself L2 reads what L1 says; the others are the registers'. */
static void write_shadows(struct hv_vm *vm)
{
	const struct vmx_state *x = &vm->emul->vmx;

	hv_write(vm, VMCS_CR0_SHADOW, (vm->guest.cr0 & ~x->cr0_mask) | (x->cr0_shadow & x->cr0_mask));
	hv_write(vm, VMCS_CR4_SHADOW, (vm->guest.cr4 & ~x->cr4_mask) | (x->cr4_shadow & x->cr4_mask));
}

static void mode_changed(struct hv_vm *vm)
{
	struct hv_nested *n = vm->nested;

	/* VM entry and exit invalidate nothing that has a tag of its own. */
	if (n->ept && n->inside)
		write_registers(vm);
	else if (n->ept && n->crossing)
		ept_write_registers(vm);
	else
		n->base->mode_changed(vm);
	if (n->ept && n->inside && !n->crossing)
		invalidate(vm, INVVPID_SINGLE, tag_now(vm), 0);
	if (n->inside)
		write_shadows(vm);
}

static void load_cr3(struct hv_vm *vm, bool flush_too)
{
	struct hv_nested *n = vm->nested;

	if (!n->inside || !n->ept) {
		n->base->load_cr3(vm, flush_too);
		return;
	}
	write_registers(vm);
	if (flush_too)
		invalidate(vm, INVVPID_SINGLE_KEEP_GLOBALS, tag_now(vm), 0);
}

static void invlpg(struct hv_vm *vm, uint64_t lin)
{
	struct hv_nested *n = vm->nested;

	if (!n->inside || !n->ept)
		n->base->invlpg(vm, lin);
	else
		invalidate(vm, INVVPID_SINGLE, tag_now(vm), 0); /* INVLPG drops more than INVVPID of an address does */
}

static void flush_linear(struct hv_vm *vm, enum hv_flush kind, uint16_t pcid)
{
	struct hv_nested *n = vm->nested;

	if (!n->inside || !n->ept)
		n->base->flush(vm, kind, pcid);
	else
		invalidate(vm, kind == HV_FLUSH_ALL ? INVVPID_SINGLE : INVVPID_SINGLE_KEEP_GLOBALS, tag_now(vm), 0);
}

/* L1 may not leave protected mode and paging in VMX operation: with EPT it could otherwise do so unseen. */
static void setup_vmcs(struct hv_vm *vm)
{
	struct hv_nested *n = vm->nested;

	n->base->setup_vmcs(vm);
	n->l0.cr0_mask = hv_read(vm, VMCS_CR0_MASK);
	if (n->ept)
		hv_write(vm, VMCS_CR0_MASK, n->l0.cr0_mask | CR0_PE | CR0_PG);
	/* Somebody else may have had the tags. */
	for (unsigned slot = 0; n->ept && slot < NESTED_VPIDS; slot++)
		invalidate(vm, INVVPID_SINGLE, nested_vpid(vm, slot), 0);
}

static void exited(struct hv_vm *vm, uint32_t reason, const struct vmx_counts *before)
{
	if (!vm->nested->inside)
		vm->nested->base->exited(vm, reason, before);
}

static void track(struct hv_vm *vm)
{
	vm->nested->base->track(vm);
	nested_mmu_drop(vm);
}

static void retrack(struct hv_vm *vm, const uint64_t *pages)
{
	vm->nested->base->retrack(vm, pages);
	nested_mmu_drop(vm);
}

static void scan(struct hv_vm *vm)
{
	vm->nested->base->scan(vm);
	nested_mmu_drop(vm);
}

static void observe(const struct hv_vm *vm, struct obs *obs)
{
	vm->nested->base->observe(vm, obs);
	obs->levels = vm->nested->count;
	obs->levels.ept02_bytes = tables_in_use(vm->nested) << PAGE_SHIFT;
}

void nested_mmu_init(struct hv_vm *vm)
{
	struct hv_nested *n = vm->nested;

	vm->stage2 = n->ept ? nested_stage2 : NULL;
	n->base = vm->mmu;
	n->ops = *vm->mmu;
	n->ops.setup_vmcs = setup_vmcs;
	n->ops.mode_changed = mode_changed;
	n->ops.load_cr3 = load_cr3;
	n->ops.invlpg = invlpg;
	n->ops.flush = flush_linear;
	n->ops.exited = n->base->exited ? exited : NULL;
	n->ops.p2m_moved = nested_mmu_drop;
	n->ops.track = track;
	n->ops.retrack = retrack;
	n->ops.scan = scan;
	n->ops.observe = observe;
	vm->mmu = &n->ops;
	n->tables_max = max_u64(machmem_pages(vm->ram, vm->rams) / 64, 1024);
}

void nested_mmu_destroy(struct hv_vm *vm)
{
	for (unsigned i = 0; i < NESTED_EPTS; i++)
		if (vm->nested->ept02[i].used)
			ept_tables_destroy(vm, &vm->nested->ept02[i].tables);
}
