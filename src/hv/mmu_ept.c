/*
 * Nested paging: the guest has its page tables to itself and the hardware
 * translates a second time, through EPT, which says what the p2m says. No exit for
 * anything a guest does to its page tables; an EPT violation the first time it
 * touches a frame, filled with the largest page that the p2m's run of frames and
 * --host-pages allow. Accesses outside guest RAM are device accesses: emulated.
 *
 * While the pages that the guest writes are tracked (hv/dirty.h) every mapping is 4 KiB.
 *
 * Left out: execute-only mappings.
 * Source: SDM volume 3, "The Extended Page Table Mechanism (EPT)".
 */
#include "hv/core.h"
#include "hv/dirty.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define EPT_RWX (EPT_R | EPT_W | EPT_X)

struct ept {
	mfn_t root;
	unsigned levels; /* 5 if the processor can and guest-physical addresses need it */
	uint64_t tables;
};

static struct ept *ept_of(const struct hv_vm *vm) { return vm->mmu_state; }
static unsigned level_shift(unsigned level) { return PAGE_SHIFT + 9 * (level - 1); }
static unsigned level_order(unsigned level) { return 9 * (level - 1); }

static uint64_t *slot_of(const struct hv_vm *vm, uint64_t table, uint64_t a, unsigned level)
{
	uint64_t *t = machmem_ptr(vm->mem, hpa(table));

	return &t[a >> level_shift(level) & 0x1ff];
}

static bool is_leaf(uint64_t e, unsigned level) { return level == 1 || e & EPT_PS; }

/* With accessed and dirty flags a walk of the guest's tables counts as a write to them, which would be trapped. */
static uint64_t eptp_of(const struct hv_vm *vm)
{
	bool protects = hv_tracks(vm) && vm->dirty.tracker->protects;

	return ept_of(vm)->root.v << PAGE_SHIFT | EPT_MT_WB | (protects ? 0 : EPTP_AD) |
	       (uint64_t)(ept_of(vm)->levels - 1) << EPTP_WALK_SHIFT;
}

static void invept(struct hv_vm *vm)
{
	enum vmx_result r = vmx_invept(vm->cpu, INVEPT_SINGLE, eptp_of(vm));

	assert(r == VMX_SUCCEED);
	(void)r;
}

/* Combined mappings of the guest, which it tags with PCIDs of its own. Without a VPID, VM exits drop them. */
static void flush_linear(struct hv_vm *vm, bool globals)
{
	uint64_t type = globals ? INVVPID_SINGLE : INVVPID_SINGLE_KEEP_GLOBALS;
	bool done = !vm->vpid || vmx_invvpid(vm->cpu, type, vm->vpid, gva(0)) == VMX_SUCCEED;

	assert(done);
	(void)done;
}

/* ---- tables ---- */

static int table_alloc(struct hv_vm *vm, mfn_t *m)
{
	int r = machmem_alloc(vm->mem, 0, OWNER_HYPERVISOR, m);

	if (r)
		return r;
	ept_of(vm)->tables++;
	hv_count_writes(vm, HV_TABLE_LINES);
	return 0;
}

/* The slot for @a at @level, with the tables on the way to it. NULL: no memory, or a larger page is in the way. */
static uint64_t *walk_to(struct hv_vm *vm, uint64_t a, unsigned level)
{
	uint64_t table = ept_of(vm)->root.v << PAGE_SHIFT;

	for (unsigned l = ept_of(vm)->levels; l > level; l--) {
		uint64_t *e = slot_of(vm, table, a, l);
		mfn_t m;

		hv_count_reads(vm, 1);
		if (!(*e & EPT_RWX)) {
			if (table_alloc(vm, &m))
				return NULL;
			hv_count_writes(vm, 1);
			*e = m.v << PAGE_SHIFT | EPT_RWX;
		} else if (is_leaf(*e, l)) {
			return NULL;
		}
		table = *e & EPT_ADDR_MASK;
	}
	return slot_of(vm, table, a, level);
}

/* A hypervisor maps to a VM what it gave to the VM, nothing else. */
static void check_owner(const struct hv_vm *vm, mfn_t first, unsigned level)
{
	assert(machmem_owner(vm->mem, first) == vm->owner);
	assert(machmem_owner(vm->mem, mfn(first.v + (1ull << level_order(level)) - 1)) == vm->owner);
	(void)vm, (void)first, (void)level;
}

static uint64_t leaf(mfn_t first, unsigned level, uint64_t rights)
{
	return rights ? first.v << PAGE_SHIFT | rights | EPT_MT_WB << EPT_MT_SHIFT | (level > 1 ? EPT_PS : 0) : 0;
}

static enum hv_verdict map(struct hv_vm *vm, uint64_t a, mfn_t m, unsigned level)
{
	uint64_t frames = 1ull << level_order(level), *e;
	mfn_t first = mfn(m.v & ~(frames - 1));

	check_owner(vm, first, level);
	e = walk_to(vm, a, level);
	if (!e)
		return hv_fail(vm, "EPT: no memory for a table for guest-physical %llx", (unsigned long long)a);
	if (*e & EPT_RWX)
		return hv_fail(vm, "EPT violation at guest-physical %llx, which is mapped", (unsigned long long)a);
	hv_count_writes(vm, 1);
	*e = leaf(first, level, EPT_RWX);
	return HV_RESUME;
}

/* ---- what is tracked ---- */

static uint64_t tracked_rights(const struct hv_vm *vm, uint64_t g)
{
	unsigned may = hv_dirty_rights(vm, gfn(g));

	return may & HV_MAY_WRITE ? EPT_RWX : may & HV_MAY_ACCESS ? EPT_R | EPT_X : 0;
}

/* A run of frames that is one large page otherwise: its 4 KiB pages are mapped together. @e: the level-2 entry */
static int map_pieces(struct hv_vm *vm, uint64_t a, mfn_t m, uint64_t *e)
{
	uint64_t g = a >> PAGE_SHIFT & ~0x1ffull;
	mfn_t table;

	if (table_alloc(vm, &table))
		return -ENOMEM;
	for (unsigned i = 0; i < 512; i++)
		*slot_of(vm, table.v << PAGE_SHIFT, (g + i) << PAGE_SHIFT, 1) =
			leaf(mfn((m.v & ~0x1ffull) + i), 1, tracked_rights(vm, g + i));
	*e = table.v << PAGE_SHIFT | EPT_RWX;
	hv_count_writes(vm, 1 + 512);
	vm->obs.tracking.splits++;
	return 0;
}

static enum hv_verdict map_tracked(struct hv_vm *vm, uint64_t a, mfn_t m, unsigned order, uint64_t need)
{
	uint64_t *e = walk_to(vm, a, 2);
	bool pieces = e && order >= 9 && !(*e & EPT_RWX);

	if (pieces && map_pieces(vm, a, m, e))
		e = NULL;
	e = e ? walk_to(vm, a, 1) : NULL;
	if (!e)
		return hv_fail(vm, "EPT: no memory for a table for guest-physical %llx", (unsigned long long)a);
	if (*e && (*e & need) == need && !pieces)
		return hv_fail(vm, "EPT violation at guest-physical %llx, which is mapped", (unsigned long long)a);
	check_owner(vm, m, 1);
	hv_dirty_fault(vm, a, need & EPT_W);
	hv_count_writes(vm, 1);
	*e = leaf(m, 1, tracked_rights(vm, a >> PAGE_SHIFT));
	return HV_RESUME;
}

static enum hv_verdict ept_violation(struct hv_vm *vm, uint64_t a, uint64_t qualification)
{
	unsigned order;
	mfn_t m;
	int r = p2m_get(vm, gfn(a >> PAGE_SHIFT), &m, &order);

	if (r == -EFAULT)
		return HV_EMULATE;
	if (r)
		return hv_fail(vm, "no machine memory for guest-physical %llx", (unsigned long long)a);
	if (hv_tracks(vm)) /* the qualification's bits 2:0 are in the order of an entry's */
		return map_tracked(vm, a, m, order, qualification & EPT_RWX);
	return map(vm, a, m, order / 9 + 1);
}

/* With a tracker that goes by flags, what the entry of a page knows. */
static void note_flags(struct hv_vm *vm, uint64_t g, uint64_t e)
{
	if (hv_dirty_by_flags(vm))
		hv_dirty_found(vm, hv_page_of(vm, g << PAGE_SHIFT), e & EPT_A, e & EPT_D);
}

/* Frees what hangs off the entry of @level. */
static void free_below(struct hv_vm *vm, uint64_t e, unsigned level)
{
	mfn_t table = mfn((e & EPT_ADDR_MASK) >> PAGE_SHIFT);

	if (!(e & EPT_RWX) || is_leaf(e, level))
		return;
	for (uint64_t i = 0; level > 2 && i < 512; i++)
		free_below(vm, *slot_of(vm, e & EPT_ADDR_MASK, i << level_shift(level - 1), level - 1), level - 1);
	machmem_free(vm->mem, table, 1);
	ept_of(vm)->tables--;
}

/* Was the region that the entry of @level is for mapped in pieces for the tracker's sake alone? */
static bool is_in_pieces(struct hv_vm *vm, uint64_t e, unsigned level, uint64_t g)
{
	unsigned order;
	mfn_t m;

	return !is_leaf(e, level) && p2m_peek(vm, gfn(g), &m, &order) == 0 && order >= level_order(level);
}

/* What the entry of @level for frames from @g on is to be, now that a tracker has come or gone. */
static uint64_t follow(struct hv_vm *vm, uint64_t e, unsigned level, uint64_t g)
{
	if (level > 1)
		return 0;
	return leaf(mfn((e & EPT_ADDR_MASK) >> PAGE_SHIFT), 1, tracked_rights(vm, g));
}

/* Leaf entries follow the tracker; what is larger than they may be, or smaller than it need be, goes. */
static void follow_all(struct hv_vm *vm, uint64_t table, unsigned level, uint64_t base)
{
	for (uint64_t i = 0; i < 512; i++) {
		uint64_t g = base + (i << level_order(level)), *e = slot_of(vm, table, g << PAGE_SHIFT, level);

		hv_count_reads(vm, 1);
		if (!(*e & EPT_RWX))
			continue;
		if (!hv_tracks(vm) && is_in_pieces(vm, *e, level, g)) {
			free_below(vm, *e, level);
			*e = 0;
		} else if (!is_leaf(*e, level)) {
			follow_all(vm, *e & EPT_ADDR_MASK, level - 1, g);
			continue;
		} else if (level == 1 || hv_tracks(vm)) {
			*e = follow(vm, *e, level, g);
		}
		hv_count_writes(vm, 1);
	}
}

static void track(struct hv_vm *vm)
{
	hv_write(vm, VMCS_EPTP, eptp_of(vm));
	follow_all(vm, ept_of(vm)->root.v << PAGE_SHIFT, ept_of(vm)->levels, 0);
	invept(vm);
}

/* The entry of a 4 KiB page; NULL: it has none. */
static uint64_t *entry_of(struct hv_vm *vm, uint64_t a)
{
	uint64_t table = ept_of(vm)->root.v << PAGE_SHIFT;

	for (unsigned l = ept_of(vm)->levels; l > 1; l--) {
		uint64_t e = *slot_of(vm, table, a, l);

		hv_count_reads(vm, 1);
		if (!(e & EPT_RWX) || is_leaf(e, l))
			return NULL;
		table = e & EPT_ADDR_MASK;
	}
	return slot_of(vm, table, a, 1);
}

static void retrack(struct hv_vm *vm, const uint64_t *pages)
{
	uint64_t count = machmem_pages(vm->ram, vm->rams);

	for (uint64_t page = 0; page < count; page++) {
		gfn_t g = hv_page_gfn(vm, page);
		uint64_t *e;

		if (!bitmap_has(pages, page))
			continue;
		e = entry_of(vm, g.v << PAGE_SHIFT);
		if (!e || !(*e & EPT_RWX))
			continue;
		hv_count_writes(vm, 1);
		*e = follow(vm, *e, 1, g.v);
	}
	invept(vm);
}

static void scan_table(struct hv_vm *vm, uint64_t table, unsigned level, uint64_t base)
{
	for (uint64_t i = 0; i < 512; i++) {
		uint64_t g = base + (i << level_order(level)), *e = slot_of(vm, table, g << PAGE_SHIFT, level);

		hv_count_reads(vm, 1);
		if (!(*e & EPT_RWX))
			continue;
		if (level > 1) {
			scan_table(vm, *e & EPT_ADDR_MASK, level - 1, g);
		} else if (*e & (EPT_A | EPT_D)) {
			note_flags(vm, g, *e);
			hv_count_writes(vm, 1);
			*e &= ~(EPT_A | EPT_D);
		}
	}
}

static void scan(struct hv_vm *vm)
{
	scan_table(vm, ept_of(vm)->root.v << PAGE_SHIFT, ept_of(vm)->levels, 0);
	invept(vm);
}

/* ---- the p2m changed ---- */

/* Drops what entries of the table at @level say about frames [first, end) if the p2m says otherwise now. */
static bool zap(struct hv_vm *vm, uint64_t table, unsigned level, uint64_t base, uint64_t first, uint64_t end)
{
	uint64_t step = 1ull << level_order(level);
	uint64_t from = first > base ? (first - base) >> level_order(level) : 0;
	bool any = false;

	for (uint64_t i = from; i < 512 && base + i * step < end; i++) {
		uint64_t *e = slot_of(vm, table, (base + i * step) << PAGE_SHIFT, level), g = base + i * step;
		mfn_t m;

		hv_count_reads(vm, 1);
		if (!(*e & EPT_RWX))
			continue;
		if (!is_leaf(*e, level)) {
			any |= zap(vm, *e & EPT_ADDR_MASK, level - 1, g, first, end);
		} else if (p2m_peek(vm, gfn(g), &m, NULL) || m.v != (*e & EPT_ADDR_MASK) >> PAGE_SHIFT) {
			hv_count_writes(vm, 1);
			note_flags(vm, g, *e);
			*e = 0;
			any = true;
		}
	}
	return any;
}

static void p2m_changed(struct hv_vm *vm, gfn_t first, uint64_t frames)
{
	if (ept_of(vm) && zap(vm, ept_of(vm)->root.v << PAGE_SHIFT, ept_of(vm)->levels, 0, first.v, first.v + frames))
		invept(vm);
}

/* ---- registers: all but a few bits of CR0 and CR4 are the guest's own ---- */

#define CR0_HELD CR0_NE   /* VMX operation needs these set */
#define CR4_HELD CR4_VMXE
/* VM entry does not load CD and NW: the guest's are kept in the read shadow. */
#define CR0_MASKED (CR0_HELD | CR0_CD | CR0_NW)

static void write_registers(struct hv_vm *vm)
{
	const struct hv_guest_regs *g = &vm->guest;

	hv_write(vm, VMCS_GUEST_CR0, g->cr0 | CR0_HELD);
	hv_write(vm, VMCS_CR0_SHADOW, g->cr0);
	hv_write(vm, VMCS_GUEST_CR4, g->cr4 | CR4_HELD);
	hv_write(vm, VMCS_CR4_SHADOW, g->cr4);
	hv_write(vm, VMCS_GUEST_CR3, g->cr3);
	hv_write(vm, VMCS_GUEST_PDPTE0, g->pdpte[0]);
	hv_write(vm, VMCS_GUEST_PDPTE1, g->pdpte[1]);
	hv_write(vm, VMCS_GUEST_PDPTE2, g->pdpte[2]);
	hv_write(vm, VMCS_GUEST_PDPTE3, g->pdpte[3]);
}

/*
 * What the guest does by itself, the processor makes forget. These are for what was emulated: task switches,
 * and whatever came in their way.
 */
static void mode_changed(struct hv_vm *vm)
{
	write_registers(vm);
	flush_linear(vm, true);
}

static void load_cr3(struct hv_vm *vm, bool flush)
{
	write_registers(vm);
	if (flush)
		flush_linear(vm, false);
}

static void invlpg(struct hv_vm *vm, uint64_t lin)
{
	(void)lin; /* INVLPG drops the cached upper entries of all addresses, INVVPID of one address does not */
	flush_linear(vm, true);
}

static void flush(struct hv_vm *vm, enum hv_flush kind, uint16_t pcid)
{
	(void)pcid; /* root software cannot invalidate a single PCID of a guest */
	flush_linear(vm, kind == HV_FLUSH_ALL);
}

static void setup_vmcs(struct hv_vm *vm)
{
	hv_write(vm, VMCS_PROC_CTL2, hv_read(vm, VMCS_PROC_CTL2) | PROC2_EPT | PROC2_UNRESTRICTED);
	hv_write(vm, VMCS_PROC_CTL,
		 hv_read(vm, VMCS_PROC_CTL) & ~(uint64_t)(PROC_CR3_LOAD | PROC_CR3_STORE | PROC_INVLPG));
	hv_write(vm, VMCS_EPTP, eptp_of(vm));
	hv_write(vm, VMCS_EXCEPTION_BITMAP, 0);
	hv_write(vm, VMCS_CR0_MASK, CR0_MASKED);
	hv_write(vm, VMCS_CR4_MASK, CR4_HELD);
	/* Somebody else may have had the VPID, and the root's frame for a root. */
	flush_linear(vm, true);
	invept(vm);
}

/* ---- what EPT has nothing to do with ---- */

static enum hv_verdict page_fault(struct hv_vm *vm, uint64_t lin, uint32_t error)
{
	return hv_fail(vm, "page fault at %llx (error %x) intercepted under EPT", (unsigned long long)lin, error);
}

static void guest_wrote(struct hv_vm *vm, uint64_t a, unsigned bytes) { (void)vm, (void)a, (void)bytes; }

static void emulated_access(struct hv_vm *vm, uint64_t a, unsigned bytes, bool write)
{
	(void)vm, (void)a, (void)bytes, (void)write;
}

/* ---- audit and observation ---- */

/* Does the leaf for frames from @g say what the p2m says of each of them? */
static bool leaf_is_right(struct hv_vm *vm, uint64_t e, unsigned level, uint64_t g, char *buf, size_t bytes)
{
	uint64_t first = (e & EPT_ADDR_MASK) >> PAGE_SHIFT, frames = 1ull << level_order(level);

	for (uint64_t i = 0; i < frames; i++) {
		mfn_t m;

		if (p2m_peek(vm, gfn(g + i), &m, NULL) == 0 && m.v == first + i &&
		    machmem_owner(vm->mem, m) == vm->owner)
			continue;
		snprintf(buf, bytes, "EPT maps gfn %llx to mfn %llx, the p2m does not", (unsigned long long)(g + i),
			 (unsigned long long)(first + i));
		return false;
	}
	return true;
}

/* Does the entry follow the tracker? */
static bool leaf_is_tracked(struct hv_vm *vm, uint64_t e, unsigned level, uint64_t g, char *buf, size_t bytes)
{
	const char *what = NULL;
	uint64_t page;

	if (!hv_tracks(vm))
		return true;
	page = hv_page_of(vm, g << PAGE_SHIFT);
	if (level > 1)
		what = "mapped by a large page";
	else if (e & EPT_RWX & ~tracked_rights(vm, g))
		what = "not granted";
	else if (vm->dirty.tracker->exited && e & EPT_D && !bitmap_has(vm->dirty.may_write, page))
		what = "dirty, and was not logged";
	if (!what)
		return true;
	snprintf(buf, bytes, "gfn %llx, whose writes are tracked, is %s", (unsigned long long)g, what);
	return false;
}

static bool audit_table(struct hv_vm *vm, uint64_t table, unsigned level, uint64_t base, char *buf, size_t bytes)
{
	for (uint64_t i = 0; i < 512; i++) {
		uint64_t g = base + (i << level_order(level)), e = *slot_of(vm, table, g << PAGE_SHIFT, level);

		if (!(e & EPT_RWX))
			continue;
		if (is_leaf(e, level) ? !leaf_is_right(vm, e, level, g, buf, bytes) ||
					!leaf_is_tracked(vm, e, level, g, buf, bytes) :
					!audit_table(vm, e & EPT_ADDR_MASK, level - 1, g, buf, bytes))
			return false;
	}
	return true;
}

static bool audit(struct hv_vm *vm, char *buf, size_t bytes)
{
	return audit_table(vm, ept_of(vm)->root.v << PAGE_SHIFT, ept_of(vm)->levels, 0, buf, bytes);
}

static void observe(const struct hv_vm *vm, struct obs *obs)
{
	obs->tables.ept_bytes = ept_of(vm)->tables << PAGE_SHIFT;
}

static int init(struct hv_vm *vm, struct error *err)
{
	struct ept *ept = calloc(1, sizeof(*ept));

	if (!ept)
		return error_set(err, -ENOMEM, "EPT: out of memory");
	ept->levels = vm->cfg.cpu.feature[CPUF_LA57] && vm->cfg.cpu.maxphyaddr > 48 ? 5 : 4;
	vm->mmu_state = ept;
	if (table_alloc(vm, &ept->root))
		return error_set(err, -ENOMEM, "EPT: no machine memory for the root table");
	return 0;
}

/* The tables go with the machine's memory. */
static void destroy(struct hv_vm *vm)
{
	free(vm->mmu_state);
	vm->mmu_state = NULL;
}

const struct hv_mmu_ops hv_mmu_ept = {
	.name = "ept",
	.init = init,
	.destroy = destroy,
	.setup_vmcs = setup_vmcs,
	.page_fault = page_fault,
	.ept_violation = ept_violation,
	.mode_changed = mode_changed,
	.load_cr3 = load_cr3,
	.invlpg = invlpg,
	.flush = flush,
	.guest_wrote = guest_wrote,
	.emulated_access = emulated_access,
	.p2m_changed = p2m_changed,
	.track = track,
	.retrack = retrack,
	.scan = scan,
	.audit = audit,
	.observe = observe,
};
