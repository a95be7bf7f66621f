/*
 * Page faults under shadow paging. Every fault of the guest exits; the guest's
 * own tables decide what it is:
 *   true     they forbid the access: the guest gets the fault
 *   hidden   they allow it and the shadow has no (or too little of an) entry:
 *            it is filled in from the roots down, and the guest goes on
 *   traced   a write to a frame that is shadowed as a table: emulated, or the
 *            (leaf) table goes out of sync
 *   device   no RAM there: emulated
 * A supervisor write to a read-only page, which CR0.WP = 0 allows, is emulated:
 * the hardware runs with CR0.WP = 1.
 */
#include "hv/shadow.h"

/* One fill: the guest's walk, and the access that has to succeed. */
struct fill {
	struct shadow *s;
	uint64_t lin;
	enum access_kind kind;
	const struct guest_walk *w;
	unsigned leaf_level; /* where the guest's walk ended; without paging, above everything */
	uint64_t leaf;       /* the guest's leaf entry, writable only if dirty */
};

union shadow_role shadow_table_role(const struct shadow *s, unsigned level, uint64_t lin)
{
	union shadow_role r = {.key = 0};

	r.format = s->rules.format;
	r.nxe = s->rules.nxe;
	r.pse = s->rules.pse;
	r.level = level & 7;
	r.quadrant = hwpt_quadrant(s->rules.format, level, lin) & 3;
	return r;
}

/* A direct page under entry @e (of @p): for the same format, with the attributes that only leaves have. */
static union shadow_role direct_role(const struct fill *f, const struct shadow_page *p)
{
	union shadow_role r = {.key = 0};

	r.format = p->role.format;
	r.level = (p->role.level - 1u) & 7;
	r.direct = 1;
	r.global = p->role.level == f->leaf_level ? !!(f->leaf & PTE_G) : p->role.global;
	r.pkey = p->role.level == f->leaf_level ? bits(f->leaf, 62, 59) & 15 : p->role.pkey;
	return r;
}

/* ---- roots ---- */

mfn_t shadow_hardware_root(const struct shadow *s)
{
	if (!hwpt_is_long(s->rules.format))
		return s->top;
	return s->root[0] ? s->page[s->root[0]].frame : s->empty;
}

void shadow_write_root(struct shadow *s)
{
	if (s->agile)
		s->agile->write_root(s);
	else
		hwpt_write_cr3(s->vm, shadow_hardware_root(s));
}

/* Key of root @i. False: the guest has none there, or not in RAM. */
static bool root_key(const struct shadow *s, unsigned i, gfn_t *g, union shadow_role *role)
{
	const struct hv_guest_regs *r = &s->vm->guest;
	uint64_t table;

	*role = shadow_table_role(s, hwpt_top(s->rules.format), (uint64_t)i << 30);
	switch (s->rules.format) {
	case HWPT_NONE:
		role->direct = 1;
		table = (uint64_t)i << 30;
		*g = gfn(table >> PAGE_SHIFT);
		return g->v < s->frames;
	case HWPT_PAE:
		if (!(r->pdpte[i] & PTE_P))
			return false;
		table = r->pdpte[i] & PTE_ADDR_MASK;
		break;
	case HWPT_32:
		table = r->cr3 & 0xfffff000;
		break;
	default:
		table = r->cr3 & PTE_ADDR_MASK;
		break;
	}
	*g = gfn(table >> PAGE_SHIFT);
	return p2m_is_ram(s->vm, table);
}

bool shadow_root_is_nested(const struct shadow *s, gfn_t *g)
{
	union shadow_role role;

	return s->agile && root_key(s, 0, g, &role) && s->frame[g->v].nested;
}

static void set_root(struct shadow *s, unsigned i, struct shadow_page *p)
{
	shadow_set_root(s, i, p, (uint64_t)i << 30);
	if (!hwpt_is_long(s->rules.format))
		hwpt_set_top(s->vm, s->top, i, p ? &p->frame : NULL);
}

/* Root @i for the guest's current address space, made if need be. NULL: no memory. */
static struct shadow_page *make_root(struct shadow *s, unsigned i)
{
	union shadow_role role;
	struct shadow_page *p;
	gfn_t g;

	if (!root_key(s, i, &g, &role) || (s->agile && s->frame[g.v].nested))
		return NULL;
	p = shadow_get(s, g, role);
	if (p) {
		s->changed = true;
		set_root(s, i, p);
		if (hwpt_is_long(s->rules.format))
			shadow_write_root(s);
	}
	return p;
}

/*
 * The flush that the guest owes for a change of the address space @p is the root of may have been an INVLPG in
 * it, which is still to come. If @p was removed in the meantime, nobody knows.
 */
static void settle_root(struct shadow *s, struct shadow_page *p)
{
	if (p && !p->owing)
		return;
	s->flush.nonglobal = true;
	if (p)
		p->owing = false;
}

bool shadow_load_roots(struct shadow *s)
{
	unsigned roots = hwpt_is_long(s->rules.format) ? 1 : HWPT_ROOTS;
	bool found = false;

	for (unsigned i = 0; i < HWPT_ROOTS; i++) {
		union shadow_role role;
		struct shadow_page *p = NULL;
		gfn_t g;

		if (i < roots && root_key(s, i, &g, &role))
			p = shadow_find(s, g, role);
		if (i < roots)
			settle_root(s, p);
		if (p)
			shadow_touch(s, p);
		set_root(s, i, p);
		found |= p != NULL;
	}
	/* A 4- or 5-level root is worth having before the first fault: CR3 names it. */
	if (!found && hwpt_is_long(s->rules.format))
		make_root(s, 0);
	return found;
}

/* ---- filling ---- */

/* Rights of an entry at the level of @p, from the guest entry of that level. */
static uint64_t entry_rights(const struct fill *f, const struct shadow_page *p)
{
	unsigned level = p->role.level;

	if (level > f->leaf_level)
		return f->w->entry[level];
	return level == f->leaf_level ? f->leaf : PTE_W | PTE_U;
}

/* Maps the 2 MiB region as a whole, if it is one in machine memory and none of its frames is a table. */
static bool fill_large(const struct fill *f, struct shadow_page *p, unsigned i)
{
	struct shadow *s = f->s;
	uint64_t region = f->w->gpa >> 21, attributes = entry_rights(f, p) & HWPT_RIGHTS;
	union shadow_role attr = direct_role(f, p);
	unsigned order;
	mfn_t m;

	if (s->region[region].tables || hv_tracks(s->vm) || p2m_get(s->vm, gfn(region << 9), &m, &order) || order < 9)
		return false;
	attributes |= PTE_PS | (attr.global ? PTE_G : 0) | (uint64_t)attr.pkey << PTE_PKEY_SHIFT;
	shadow_set_leaf(s, p, i, hwpt_leaf(m, attributes), region);
	return true;
}

/* Agile: switches to the guest's own table, if that is nested. */
static bool fill_switch(const struct fill *f, struct shadow_page *p, unsigned i)
{
	unsigned level = p->role.level - 1;
	gfn_t g;

	if (!f->s->agile || level < f->leaf_level)
		return false;
	g = gfn(f->w->table_gpa[level] >> PAGE_SHIFT);
	if (!p2m_is_ram(f->s->vm, g.v << PAGE_SHIFT) || !f->s->frame[g.v].nested)
		return false;
	shadow_set_switch(f->s, p, i, g, entry_rights(f, p));
	return true;
}

/* The page below entry @i of @p on the way to the address. */
static struct shadow_page *next_page(const struct fill *f, struct shadow_page *p, unsigned i)
{
	struct shadow *s = f->s;
	unsigned level = p->role.level - 1;
	union shadow_role role;
	gfn_t g;
	uint64_t e = p->entry[i];

	if (level >= f->leaf_level) {
		role = shadow_table_role(s, level, f->lin);
		g = gfn(f->w->table_gpa[level] >> PAGE_SHIFT);
		if (!p2m_is_ram(s->vm, g.v << PAGE_SHIFT))
			return NULL;
	} else {
		role = direct_role(f, p);
		g = gfn(f->w->gpa >> PAGE_SHIFT & ~0ull << (9 * level));
	}
	if (e && shadow_is_link(p, e)) {
		struct shadow_page *there = shadow_page_of(s, e);

		if (there->gfn.v == g.v && there->role.key == role.key)
			return there;
	}
	return shadow_get(s, g, role);
}

static bool fill_leaf(const struct fill *f, struct shadow_page *p, unsigned i)
{
	shadow_sync_entry(f->s, p, i, true);
	shadow_prefetch(f->s, p, i);
	return p->entry[i] && (f->kind != ACCESS_WRITE || p->entry[i] & PTE_W);
}

/* Fills entries from the root down. False: no memory. *granted: the access will succeed. */
static bool fill_path(const struct fill *f, bool *granted)
{
	struct shadow *s = f->s;
	unsigned r = hwpt_root_index(s->rules.format, f->lin);
	struct shadow_page *p = s->root[r] ? &s->page[s->root[r]] : make_root(s, r);
	struct shadow_page *path[GUEST_LEVELS_MAX + 1] = {NULL};

	*granted = true;
	s->count.fills++;
	for (; p && p->role.level > 1; p = path[p->role.level - 1]) {
		unsigned level = p->role.level, i = hwpt_index(f->lin, level);

		path[level] = p;
		p->operation = s->operation;
		if ((level == 2 && f->leaf_level >= 2 && fill_large(f, p, i)) || fill_switch(f, p, i))
			break;
		path[level - 1] = next_page(f, p, i);
		if (!path[level - 1])
			return false;
		shadow_set_link(s, p, i, path[level - 1], entry_rights(f, p));
	}
	if (p && p->role.level == 1)
		*granted = fill_leaf(f, p, hwpt_index(f->lin, 1));
	/* From the leaf up, so that a table is never older than those below it and is not recycled before them. */
	for (unsigned level = 1; p && level <= hwpt_top(s->rules.format); level++)
		if (path[level])
			shadow_touch(s, path[level]);
	return p != NULL;
}

/* ---- the fault ---- */

static enum hv_verdict hidden_fault(struct hv_vm *vm, uint64_t lin, struct hwpt_access a,
				    const struct guest_walk *w)
{
	struct shadow *s = shadow_of(vm);
	struct fill f = {.s = s, .lin = lin, .kind = a.kind, .w = w, .leaf_level = w->leaf_level};
	gfn_t g = gfn(w->gpa >> PAGE_SHIFT);
	bool granted;
	gfn_t root;

	/* A flag was to be set in a table that the hardware may not write: the walk that found the fault did it. */
	if (shadow_root_is_nested(s, &root))
		return HV_RESUME;
	if (!w->levels)
		f.leaf_level = 3;
	else
		f.leaf = w->dirty ? w->entry[w->leaf_level] : w->entry[w->leaf_level] & ~PTE_W;
	if (a.kind == ACCESS_WRITE && shadow_is_traced(s, g) && !shadow_try_unsync(s, g))
		return HV_EMULATE;
	hv_dirty_fault(vm, w->gpa, a.kind == ACCESS_WRITE);
	if (!fill_path(&f, &granted))
		return hv_fail(vm, "shadow paging: no memory for page tables");
	/* Filling the path may have made a table of the frame that is to be written. */
	if (!granted)
		return HV_EMULATE;
	if (!s->changed)
		return hwpt_unexplained(vm, &s->unexplained, lin, a);
	s->unexplained.count = 0;
	vm->obs.faults.hidden++;
	return HV_RESUME;
}

enum hv_verdict shadow_page_fault(struct hv_vm *vm, uint64_t lin, uint32_t error)
{
	struct hwpt_access a = hwpt_access(vm, lin, error);
	struct shadow *s = shadow_of(vm);
	struct guest_walk w;
	enum hv_verdict v;

	if (hwpt_is_ambiguous(vm, lin, a))
		return HV_EMULATE;
	guest_walk(vm, lin, a.kind, a.mode, true, &w);
	if (!w.ok)
		return hwpt_true_fault(vm, lin, w.error);
	if (!p2m_is_ram(vm, w.gpa) || (a.kind == ACCESS_WRITE && !w.writable))
		return HV_EMULATE;
	shadow_begin(s);
	v = hidden_fault(vm, lin, a, &w);
	shadow_end(s);
	return v;
}
