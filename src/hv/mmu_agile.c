/*
 * Agile paging: shadow paging where the guest's tables are still, nested paging where it changes them. A walk begins in a
 * shadow table; an entry there may switch to the guest's own table of the next level, and from there on every
 * guest-physical address goes through EPT (docs/agile-paging.md). So a guest table that is written often costs longer walks
 * below it, and no exits.
 *
 * Everything begins shadowed. The second traced write to a table within an interval makes it nested, and with it what
 * only it leads to. At the end of an interval tables that did not change in it are shadowed again.
 *
 * The shadow part is shadow paging's own machinery (shadow.h), always in sync; EPT follows it: a frame that is traced is
 * not writable there either. Where shadow tables could not do what the guest's do - no 4- or 5-level paging, CR0.WP or
 * EFER.NXE clear - the guest is plainly nested.
 *
 * Left out: trackers by accessed and dirty flags, CR3 loads and INVLPG without exits.
 */
#include "hv/ept.h"
#include "hv/shadow.h"

#include <errno.h>
#include <stdlib.h>

#define AGILE_WRITES      2u         /* within an interval make a table nested */
#define AGILE_INTERVAL_NS 10000000ull /* of virtual time */

/* What is known of a frame that is, or was, a table. */
struct agile_table {
	uint32_t interval; /* in which it was written last */
	uint32_t writes;   /* in that */
	uint64_t sum;      /* nested: of its entries when the interval began */
};

struct agile {
	struct shadow shadow;       /* first: shadow_of() */
	struct ept_tables ept;
	bool on;                    /* walks begin in the shadow table */
	uint32_t interval;
	uint64_t began;             /* virtual time */
	struct agile_table *table;  /* [shadow.frames] */
	uint32_t *nested;           /* frames that are */
	uint32_t nested_count;
	struct obs_agile count;
};

static struct agile *agile_of(const struct hv_vm *vm) { return vm->mmu_state; }

/* ---- the roots, and what EPT allows ---- */

static void write_root(struct shadow *s)
{
	uint64_t root = shadow_hardware_root(s).v << PAGE_SHIFT;
	gfn_t g;
	mfn_t m;

	if (agile_of(s->vm)->on && shadow_root_is_nested(s, &g) && !p2m_get(s->vm, g, &m, NULL))
		root = m.v << PAGE_SHIFT | PTE_SWITCH | (hv_dirty_rights(s->vm, g) & HV_MAY_WRITE ? PTE_SWITCH_W : 0);
	vmx_set_agile(s->vm->cpu, agile_of(s->vm)->on, root);
}

static uint64_t ept_rights(const struct hv_vm *vm, gfn_t g)
{
	const struct shadow *s = shadow_of(vm);

	return g.v < s->frames && shadow_is_traced(s, g) ? EPT_R | EPT_X : EPT_RWX;
}

static void traced(struct shadow *s, gfn_t g)
{
	struct ept_tables *t = &agile_of(s->vm)->ept;

	if (ept_tables_restrict(s->vm, t, g))
		ept_tables_flush(s->vm, t);
}

/* ---- the policy ---- */

/* Of the table in the frame, but for accessed and dirty flags, which the hardware sets. */
static uint64_t sum_of(struct hv_vm *vm, uint64_t g)
{
	const uint8_t *table = hwpt_guest_table(vm, gfn(g));
	uint64_t sum = 0;

	hv_count_reads(vm, HV_TABLE_LINES);
	for (unsigned i = 0; table && i < HWPT_ENTRIES; i++)
		sum = (sum ^ (get_u64(table + 8 * i) & ~(PTE_A | PTE_D))) * 0x9e3779b97f4a7c15ull + i;
	return sum;
}

/* Within an operation. */
static void to_nested(struct agile *a, uint64_t g)
{
	struct shadow *s = &a->shadow;
	gfn_t root;

	if (s->frame[g].nested)
		return;
	s->frame[g].nested = true;
	a->nested[a->nested_count++] = (uint32_t)g;
	a->table[g].sum = sum_of(s->vm, g);
	a->count.to_nested++;
	if (shadow_root_is_nested(s, &root) && root.v == g)
		shadow_set_root(s, 0, NULL, 0);
	shadow_zap_tables(s, gfn(g));
	s->flush.all = true;
	write_root(s);
}

static void to_shadow(struct agile *a, uint64_t g)
{
	struct shadow *s = &a->shadow;
	gfn_t root;
	bool is_root = shadow_root_is_nested(s, &root) && root.v == g;

	s->frame[g].nested = false;
	a->table[g].writes = 0;
	a->count.to_shadow++;
	shadow_clear_switches(s, gfn(g));
	if (!is_root)
		return;
	s->flush.all = true;
	shadow_load_roots(s);
	write_root(s);
}

static void wrote(struct shadow *s, gfn_t g)
{
	struct agile *a = agile_of(s->vm);
	struct agile_table *t = &a->table[g.v];

	if (t->interval != a->interval)
		t->writes = 0;
	t->interval = a->interval;
	if (++t->writes >= AGILE_WRITES)
		to_nested(a, g.v);
}

static const struct shadow_agile hooks = {.write_root = write_root, .traced = traced, .wrote = wrote};

/* Which of the nested tables did the guest change? EPT's dirty flags would not tell: walks set them, too. */
static void end_interval(struct hv_vm *vm)
{
	struct agile *a = agile_of(vm);
	uint32_t kept = 0;

	shadow_begin(&a->shadow);
	for (uint32_t i = 0; i < a->nested_count; i++) {
		uint32_t g = a->nested[i];
		uint64_t sum = sum_of(vm, g);

		if (sum == a->table[g].sum) {
			to_shadow(a, g);
			continue;
		}
		a->table[g].sum = sum;
		a->nested[kept++] = g;
		a->count.kept++;
	}
	a->nested_count = kept;
	a->interval++;
	a->count.intervals++;
	shadow_end(&a->shadow);
}

static void agile_exited(struct hv_vm *vm, uint32_t reason, const struct vmx_counts *before)
{
	struct agile *a = agile_of(vm);
	uint64_t now = hv_virtual_now(vm);

	(void)reason, (void)before;
	if (now - a->began < AGILE_INTERVAL_NS)
		return;
	a->began = now;
	end_interval(vm);
}

/* ---- registers ---- */

static bool can_shadow(const struct hv_vm *vm)
{
	const struct hv_guest_regs *g = &vm->guest;

	return hwpt_is_long(hwpt_format(g)) && g->cr0 & CR0_WP && (g->efer & EFER_NXE || !vm->cfg.cpu.feature[CPUF_NX]);
}

static void forget_shadows(struct shadow *s)
{
	for (unsigned i = 0; i < HWPT_ROOTS; i++)
		shadow_set_root(s, i, NULL, 0);
	for (uint32_t n = 1; n < s->fresh; n++)
		if (s->page[n].live)
			shadow_zap_page(s, &s->page[n]);
}

static void agile_mode_changed(struct hv_vm *vm)
{
	struct agile *a = agile_of(vm);
	struct shadow *s = &a->shadow;

	shadow_begin(s);
	s->flush.all = true;
	s->rules = hwpt_rules(&vm->guest);
	a->on = can_shadow(vm);
	if (a->on)
		shadow_load_roots(s);
	else
		forget_shadows(s);
	ept_write_registers(vm);
	write_root(s);
	shadow_end(s);
}

static void agile_load_cr3(struct hv_vm *vm, bool flush)
{
	if (agile_of(vm)->on) {
		hv_write(vm, VMCS_GUEST_CR3, vm->guest.cr3);
		shadow_load_cr3(vm, flush);
	} else {
		ept_load_cr3(vm, flush);
	}
}

/* In the nested part INVLPG drops the upper entries of all addresses that the processor has cached. */
static void agile_invlpg(struct hv_vm *vm, uint64_t lin)
{
	struct agile *a = agile_of(vm);

	if (!a->on) {
		ept_invlpg(vm, lin);
		return;
	}
	if (a->nested_count)
		hwpt_flush_nonglobal(vm);
	shadow_invlpg(vm, lin);
}

static void agile_flush(struct hv_vm *vm, enum hv_flush kind, uint16_t pcid)
{
	if (agile_of(vm)->on)
		shadow_flush(vm, kind, pcid);
	else
		ept_flush(vm, kind, pcid);
}

/* As with EPT; but CR3 loads and INVLPG exit, and so does what decides between shadow and nested. */
static void agile_setup_vmcs(struct hv_vm *vm)
{
	const struct agile *a = agile_of(vm);

	hv_write(vm, VMCS_PROC_CTL2, hv_read(vm, VMCS_PROC_CTL2) | PROC2_EPT | PROC2_UNRESTRICTED);
	hv_write(vm, VMCS_PROC_CTL, hv_read(vm, VMCS_PROC_CTL) | PROC_CR3_LOAD | PROC_CR3_STORE | PROC_INVLPG);
	hv_write(vm, VMCS_EPTP, ept_tables_eptp(vm, &a->ept));
	hv_write(vm, VMCS_EXCEPTION_BITMAP, 0);
	hv_write(vm, VMCS_CR3_TARGET_COUNT, 0);
	hv_write(vm, VMCS_CR0_MASK, ~0ull);
	hv_write(vm, VMCS_CR4_MASK, ~0ull);
	hwpt_flush_all(vm);
	ept_tables_flush(vm, &a->ept);
}

/* ---- faults ---- */

static enum hv_verdict agile_violation(struct hv_vm *vm, uint64_t a, uint64_t qualification)
{
	struct agile *ag = agile_of(vm);
	gfn_t g = gfn(a >> PAGE_SHIFT);

	if (p2m_is_ram(vm, a) && qualification & EPT_VIOL_WRITE && shadow_is_traced(&ag->shadow, g)) {
		if (qualification & EPT_VIOL_FINAL)
			return HV_EMULATE;
		/* The walker wants to set a flag in a table that is nested here and shadowed elsewhere. */
		shadow_begin(&ag->shadow);
		to_nested(ag, g.v);
		shadow_end(&ag->shadow);
	}
	return ept_tables_fill(vm, &ag->ept, a, qualification);
}

/* ---- the p2m and trackers ---- */

static void agile_p2m_changed(struct hv_vm *vm, gfn_t first, uint64_t frames)
{
	struct agile *a = agile_of(vm);

	if (!a)
		return;
	shadow_p2m_changed(vm, first, frames);
	ept_tables_p2m_changed(vm, &a->ept, first, frames);
	write_root(&a->shadow);
}

static void agile_track(struct hv_vm *vm)
{
	shadow_track(vm);
	ept_tables_track(vm, &agile_of(vm)->ept);
	write_root(shadow_of(vm));
}

static void agile_retrack(struct hv_vm *vm, const uint64_t *pages)
{
	shadow_retrack(vm, pages);
	ept_tables_retrack(vm, &agile_of(vm)->ept, pages);
	write_root(shadow_of(vm));
}

/* ---- audit and observation ---- */

static bool agile_audit(struct hv_vm *vm, char *buf, size_t bytes)
{
	struct agile *a = agile_of(vm);

	return ept_tables_audit(vm, &a->ept, buf, bytes) && (!a->on || shadow_audit(vm, buf, bytes));
}

static void agile_observe(const struct hv_vm *vm, struct obs *obs)
{
	const struct agile *a = agile_of(vm);

	shadow_observe(vm, obs);
	ept_observe_tables(&a->ept, obs);
	obs->agile = a->count;
	obs->agile.nested = a->nested_count;
}

/* ---- making one ---- */

static void agile_destroy(struct hv_vm *vm)
{
	struct agile *a = agile_of(vm);

	vmx_set_agile(vm->cpu, false, 0);
	shadow_unmake(&a->shadow);
	ept_tables_destroy(vm, &a->ept);
	free(a->table);
	free(a->nested);
	free(a);
	vm->mmu_state = NULL;
}

static int agile_init(struct hv_vm *vm, struct error *err)
{
	struct agile *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return error_set(err, -ENOMEM, "agile paging: out of memory");
	vm->mmu_state = a;
	r = shadow_make(&a->shadow, vm, err);
	if (r)
		return r;
	a->shadow.agile = &hooks;
	a->ept.rights = ept_rights;
	a->interval = 1;
	a->table = calloc(a->shadow.frames, sizeof(*a->table));
	a->nested = calloc(a->shadow.frames, sizeof(*a->nested));
	if (!a->table || !a->nested)
		return error_set(err, -ENOMEM, "agile paging: out of memory");
	r = ept_tables_init(vm, &a->ept, err);
	a->ept.leaf_max = 2;
	return r;
}

const struct hv_mmu_ops hv_mmu_agile = {
	.name = "agile",
	.init = agile_init,
	.destroy = agile_destroy,
	.setup_vmcs = agile_setup_vmcs,
	.page_fault = shadow_page_fault,
	.ept_violation = agile_violation,
	.mode_changed = agile_mode_changed,
	.load_cr3 = agile_load_cr3,
	.invlpg = agile_invlpg,
	.flush = agile_flush,
	.guest_wrote = shadow_guest_wrote,
	.emulated_access = shadow_emulated_access,
	.p2m_changed = agile_p2m_changed,
	.exited = agile_exited,
	.track = agile_track,
	.retrack = agile_retrack,
	.audit = agile_audit,
	.observe = agile_observe,
};
