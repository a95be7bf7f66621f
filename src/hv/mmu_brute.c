/*
 * Brute force: the MMU backend that is easy to believe. Every page that is part
 * of the current address space's page tables is out of the guest's reach: each
 * read and each write of it exits and is emulated, one access at a time. Each CR3
 * load throws all hardware tables away and takes stock of the new address space.
 * The others are checked against it; see docs/brute-force.md.
 *
 * What it keeps:
 *  - the layout: for every guest frame, at which levels it serves as a table now;
 *    found by traversing the guest's tables at a CR3 load, and again after any
 *    write that may have changed it (one to a table above the leaf level);
 *  - hardware tables: a tree of nodes, each for one stretch of linear addresses,
 *    filled by page faults, 4 KiB pages only, all rights in the leaf.
 * Where something has to be found (who maps this frame? who was made from this
 * table?) it looks at everything. Left out, on purpose: every optimization.
 */
#include "hv/core.h"
#include "hv/dirty.h"
#include "hv/hv.h"
#include "hv/hwpt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* A hardware table. */
struct node {
	mfn_t frame;
	uint64_t *entry;
	uint32_t child[HWPT_ENTRIES]; /* numbers of nodes, level > 1 */
	uint64_t base;                /* linear address of entry 0 */
	gfn_t table;                  /* guest table that it was made from */
	bool mirrors;                 /* there is such a table: no large guest page, paging is on */
	uint8_t level, quadrant;      /* level 0: not in use */
};

struct layout_entry {
	uint64_t frame;
	unsigned level;
};

struct brute {
	struct hwpt_rules rules;
	mfn_t top;                     /* PAE format: the four top entries */
	uint32_t root[HWPT_ROOTS];     /* node numbers */
	struct node **node;            /* [capacity], from 1; kept for reuse */
	uint32_t fresh, capacity;      /* numbers from fresh on have never been used since the tables were dropped */
	uint32_t *free;                /* [capacity]: numbers below fresh that are free */
	uint32_t frees;
	uint32_t in_use_max;
	struct hwpt_unexplained unexplained;
	bool no_memory;                /* the layout is incomplete: nothing may go on */
	uint64_t frames;
	uint8_t *levels;               /* [frames]: bit n - the frame is a table of level n */
	uint8_t *was;                  /* [frames]: while taking stock, what levels[] was before */
	struct layout_entry *layout;   /* the same as a list */
	uint64_t layout_count, layout_capacity;
	uint64_t fills;
};

static struct brute *brute_of(const struct hv_vm *vm) { return vm->mmu_state; }

/* ---- hardware tables ---- */

/* Room for twice as many nodes. */
static bool grow(struct brute *b)
{
	uint32_t capacity = b->capacity ? 2 * b->capacity : 64;
	struct node **node = realloc(b->node, capacity * sizeof(*node));
	uint32_t *spare;

	if (!node)
		return false;
	b->node = node;
	spare = realloc(b->free, capacity * sizeof(*spare));
	if (!spare)
		return false;
	b->free = spare;
	memset(node + b->capacity, 0, (capacity - b->capacity) * sizeof(*node));
	b->capacity = capacity;
	return true;
}

static uint32_t in_use(const struct brute *b) { return b->fresh - 1 - b->frees; }

static bool make_memory(struct hv_vm *vm, struct node **n)
{
	if (*n)
		return true;
	*n = calloc(1, sizeof(**n));
	if (!*n)
		return false;
	if (hwpt_alloc_frame(vm, &(*n)->frame)) {
		free(*n);
		*n = NULL;
		return false;
	}
	(*n)->entry = machmem_ptr(vm->mem, mfn_to_hpa((*n)->frame));
	return true;
}

/* A node without entries. 0: no memory, or too many. */
static uint32_t add_node(struct hv_vm *vm, unsigned level, uint64_t base)
{
	struct brute *b = brute_of(vm);
	uint32_t number = b->frees ? b->free[b->frees - 1] : b->fresh;
	struct node *n;

	if (in_use(b) >= hwpt_table_limit(vm) || (number >= b->capacity && !grow(b)) ||
	    !make_memory(vm, &b->node[number]))
		return 0;
	if (b->frees)
		b->frees--;
	else
		b->fresh++;
	n = b->node[number];
	memset(n->entry, 0, PAGE_SIZE);
	hv_count_writes(vm, HV_TABLE_LINES);
	*n = (struct node){.frame = n->frame, .entry = n->entry, .base = base, .level = (uint8_t)level,
			   .quadrant = (uint8_t)hwpt_quadrant(b->rules.format, level, base)};
	if (in_use(b) > b->in_use_max)
		b->in_use_max = in_use(b);
	return number;
}

/* For a tracker that goes by flags: notes those in the node's entries, if they are leaf entries, and clears them. */
static void take_flags(struct hv_vm *vm, struct node *n)
{
	if (n->level != 1 || !hv_dirty_by_flags(vm))
		return;
	hv_count_reads(vm, HWPT_ENTRIES);
	for (unsigned i = 0; i < HWPT_ENTRIES; i++) {
		hv_dirty_leaf_goes(vm, n->entry[i]);
		n->entry[i] &= ~(PTE_A | PTE_D);
	}
}

static void take_all_flags(struct hv_vm *vm)
{
	struct brute *b = brute_of(vm);

	for (uint32_t k = 1; hv_dirty_by_flags(vm) && k < b->fresh; k++)
		take_flags(vm, b->node[k]);
}

/* Throws all hardware tables away and makes an empty root. */
static void drop_tables(struct hv_vm *vm)
{
	struct brute *b = brute_of(vm);

	take_all_flags(vm);
	b->fresh = 1;
	b->frees = 0;
	for (unsigned i = 0; i < HWPT_ROOTS; i++) {
		b->root[i] = 0;
		hwpt_set_top(vm, b->top, i, NULL);
	}
	/* Memory for one node is there from the beginning and never given back, so this cannot fail. */
	if (hwpt_is_long(b->rules.format))
		b->root[0] = add_node(vm, hwpt_top(b->rules.format), 0);
	hwpt_flush_all(vm);
}

static mfn_t hardware_root(const struct brute *b)
{
	return hwpt_is_long(b->rules.format) ? b->node[b->root[0]]->frame : b->top;
}

/* Entry @i becomes not present, and the nodes below it are free. */
static void clear_entry(struct hv_vm *vm, struct node *n, unsigned i)
{
	struct brute *b = brute_of(vm);
	uint32_t child = n->child[i];

	if (n->level == 1)
		hv_dirty_leaf_goes(vm, n->entry[i]);
	hv_count_writes(vm, 1);
	n->entry[i] = 0;
	n->child[i] = 0;
	if (!child)
		return;
	for (unsigned k = 0; b->node[child]->level > 1 && k < HWPT_ENTRIES; k++)
		clear_entry(vm, b->node[child], k);
	take_flags(vm, b->node[child]);
	b->node[child]->level = 0;
	b->node[child]->mirrors = false;
	b->free[b->frees++] = child;
}

/* Removes every mapping of the guest frame: looks at every entry there is. */
static void unmap_frame(struct hv_vm *vm, uint64_t frame)
{
	struct brute *b = brute_of(vm);
	mfn_t m;

	if (p2m_peek(vm, gfn(frame), &m, NULL))
		return;
	for (uint32_t k = 1; k < b->fresh; k++) {
		struct node *n = b->node[k];

		hv_count_reads(vm, n->level == 1 ? HWPT_ENTRIES : 0);
		for (unsigned i = 0; n->level == 1 && i < HWPT_ENTRIES; i++)
			if (n->entry[i] && hwpt_frame(n->entry[i]).v == m.v)
				clear_entry(vm, n, i);
	}
}

/* ---- the layout: which frames are tables ---- */

/* Notes that the frame is a table of the level. False: no memory. */
static bool note_table(struct brute *b, gfn_t g, unsigned level)
{
	if (b->levels[g.v] >> level & 1)
		return true;
	if (b->layout_count == b->layout_capacity) {
		uint64_t capacity = b->layout_capacity ? 2 * b->layout_capacity : 1024;
		struct layout_entry *l = realloc(b->layout, capacity * sizeof(*l));

		if (!l)
			return false;
		b->layout = l;
		b->layout_capacity = capacity;
	}
	b->levels[g.v] |= (uint8_t)(1u << level);
	b->layout[b->layout_count++] = (struct layout_entry){g.v, level};
	return true;
}

static bool note_roots(struct hv_vm *vm)
{
	struct brute *b = brute_of(vm);
	const struct hv_guest_regs *g = &vm->guest;
	unsigned level = hwpt_top(b->rules.format);
	uint64_t mask = b->rules.format == HWPT_32 ? 0xfffff000 : PTE_ADDR_MASK;

	if (b->rules.format == HWPT_NONE)
		return true;
	if (b->rules.format != HWPT_PAE)
		return !p2m_is_ram(vm, g->cr3 & mask) || note_table(b, gfn((g->cr3 & mask) >> PAGE_SHIFT), level);
	for (unsigned i = 0; i < HWPT_ROOTS; i++) {
		uint64_t a = g->pdpte[i] & PTE_ADDR_MASK;

		if (g->pdpte[i] & PTE_P && p2m_is_ram(vm, a) && !note_table(b, gfn(a >> PAGE_SHIFT), level))
			return false;
	}
	return true;
}

static bool note_tables_below(struct hv_vm *vm, struct layout_entry l)
{
	struct brute *b = brute_of(vm);
	unsigned entries = (unsigned)PAGE_SIZE / hwpt_entry_bytes(b->rules.format);
	const void *table = hwpt_guest_table(vm, gfn(l.frame));

	hv_count_reads(vm, table ? entries : 0);
	for (unsigned i = 0; table && i < entries; i++) {
		uint64_t e = hwpt_entry_in(table, b->rules.format, i);
		gfn_t g;

		if (hwpt_table_entry(vm, b->rules, l.level, e, &g) && !note_table(b, g, l.level - 1))
			return false;
	}
	return true;
}

/*
 * Takes stock: finds all tables of the current address space, each once for every
 * level it is used at, so that tables which refer to themselves end too. Frames
 * that were no tables before lose their mappings.
 */
static void take_stock(struct hv_vm *vm)
{
	struct brute *b = brute_of(vm);
	uint64_t known = b->layout_count;
	bool ok;

	for (uint64_t i = 0; i < known; i++) {
		uint64_t g = b->layout[i].frame;

		b->was[g] |= b->levels[g];
	}
	for (uint64_t i = 0; i < known; i++)
		b->levels[b->layout[i].frame] = 0;
	/* The new list grows behind the old one, whose frames have to be unmarked at the end. */
	ok = note_roots(vm);
	for (uint64_t i = known; ok && i < b->layout_count; i++)
		if (b->layout[i].level > 1)
			ok = note_tables_below(vm, b->layout[i]);
	for (uint64_t i = known; i < b->layout_count; i++)
		if (!b->was[b->layout[i].frame])
			unmap_frame(vm, b->layout[i].frame);
	for (uint64_t i = 0; i < known; i++)
		b->was[b->layout[i].frame] = 0;
	b->layout_count -= known;
	if (known)
		memmove(b->layout, b->layout + known, b->layout_count * sizeof(*b->layout));
	b->no_memory = !ok;
}

static bool is_table(const struct brute *b, uint64_t a)
{
	return a >> PAGE_SHIFT < b->frames && b->levels[a >> PAGE_SHIFT];
}

/* ---- filling ---- */

/* The node below entry @i of @n. NULL: no memory. */
static struct node *node_below(struct hv_vm *vm, struct node *n, unsigned i, const struct guest_walk *w)
{
	struct brute *b = brute_of(vm);
	unsigned level = n->level - 1u;
	struct node *child;

	if (n->child[i])
		return b->node[n->child[i]];
	n->child[i] = add_node(vm, level, n->base + ((uint64_t)i << hwpt_shift(n->level)));
	if (!n->child[i])
		return NULL;
	child = b->node[n->child[i]];
	child->mirrors = w->levels && level >= w->leaf_level;
	if (child->mirrors)
		child->table = gfn(w->table_gpa[level] >> PAGE_SHIFT);
	hv_count_writes(vm, 1);
	n->entry[i] = hwpt_link(child->frame, PTE_W | PTE_U);
	return child;
}

static struct node *root_node(struct hv_vm *vm, uint64_t lin, const struct guest_walk *w)
{
	struct brute *b = brute_of(vm);
	unsigned r = hwpt_root_index(b->rules.format, lin), level = hwpt_top(b->rules.format);
	struct node *n;

	if (!b->root[r]) {
		b->root[r] = add_node(vm, level, (uint64_t)r << 30);
		if (!b->root[r])
			return NULL;
		hwpt_set_top(vm, b->top, r, &b->node[b->root[r]]->frame);
	}
	n = b->node[b->root[r]];
	n->mirrors = w->levels != 0;
	if (n->mirrors)
		n->table = gfn(w->table_gpa[level] >> PAGE_SHIFT);
	return n;
}

/* Maps the one 4 KiB page. False: no memory. */
static bool fill(struct hv_vm *vm, uint64_t lin, const struct guest_walk *w)
{
	bool may_write = hv_dirty_rights(vm, gfn(w->gpa >> PAGE_SHIFT)) & HV_MAY_WRITE;
	uint64_t attributes = (w->writable && w->dirty && may_write ? PTE_W : 0) | (w->user ? PTE_U : 0) |
			      (w->nx ? PTE_NX : 0) | (w->global ? PTE_G : 0);
	struct brute *b = brute_of(vm);
	struct node *n = root_node(vm, lin, w);
	uint64_t *e;
	mfn_t m;

	while (n && n->level > 1)
		n = node_below(vm, n, hwpt_index(lin, n->level), w);
	if (!n || p2m_get(vm, gfn(w->gpa >> PAGE_SHIFT), &m, NULL))
		return false;
	if (hwpt_is_long(b->rules.format))
		attributes |= (uint64_t)w->pkey << PTE_PKEY_SHIFT;
	e = &n->entry[hwpt_index(lin, 1)];
	hv_count_writes(vm, 1);
	*e = hwpt_leaf(m, attributes);
	if (hv_dirty_by_flags(vm))
		*e &= ~(PTE_A | PTE_D);
	b->fills++; /* the entry allows more than before: nothing to flush */
	return true;
}

/* Emulates one access; if an event was being delivered, the delivery. */
static enum hv_verdict emulate(struct hv_vm *vm)
{
	return hv_core(vm)->vectoring.info ? HV_EMULATE : hv_emulate(vm, 1);
}

/* Was a page mapped with all that @w allows, so that the fault cannot be for want of it? */
static bool was_filled(struct hv_vm *vm, uint64_t lin, enum access_kind kind)
{
	const struct brute *b = brute_of(vm);
	uint32_t k = b->root[hwpt_root_index(b->rules.format, lin)];
	uint64_t e;

	while (k && b->node[k]->level > 1)
		k = b->node[k]->child[hwpt_index(lin, b->node[k]->level)];
	e = k ? b->node[k]->entry[hwpt_index(lin, 1)] : 0;
	hv_count_reads(vm, 1);
	return e & PTE_P && (kind != ACCESS_WRITE || e & PTE_W);
}

/* The page, with everything else thrown away if there are too many tables. */
static enum hv_verdict hidden_fault(struct hv_vm *vm, uint64_t lin, enum access_kind kind, const struct guest_walk *w)
{
	vm->obs.faults.hidden++;
	hv_dirty_fault(vm, w->gpa, kind == ACCESS_WRITE);
	brute_of(vm)->unexplained.count = 0;
	if (fill(vm, lin, w))
		return HV_RESUME;
	drop_tables(vm);
	hwpt_write_cr3(vm, hardware_root(brute_of(vm)));
	return fill(vm, lin, w) ? HV_RESUME : hv_fail(vm, "brute force: no memory for page tables");
}

static enum hv_verdict brute_page_fault(struct hv_vm *vm, uint64_t lin, uint32_t error)
{
	struct hwpt_access a = hwpt_access(vm, lin, error);
	struct brute *b = brute_of(vm);
	enum hv_verdict v;
	struct guest_walk w;

	if (b->no_memory)
		return hv_fail(vm, "brute force: no memory for the layout of the page tables");
	if (hwpt_is_ambiguous(vm, lin, a))
		return emulate(vm);
	guest_walk(vm, lin, a.kind, a.mode, true, &w);
	if (!w.ok)
		return hwpt_true_fault(vm, lin, w.error);
	if (is_table(b, w.gpa) || !p2m_is_ram(vm, w.gpa) || (a.kind == ACCESS_WRITE && !w.writable))
		return emulate(vm);
	if (!was_filled(vm, lin, a.kind))
		return hidden_fault(vm, lin, a.kind, &w);
	v = hwpt_unexplained(vm, &b->unexplained, lin, a);
	return v == HV_EMULATE ? emulate(vm) : v;
}

/* ---- what the guest does to its tables ---- */

/* A table was written: what was made from those bytes goes. */
static void drop_dependents(struct hv_vm *vm, gfn_t table, unsigned offset, unsigned bytes)
{
	struct brute *b = brute_of(vm);

	for (uint32_t k = 1; k < b->fresh; k++) {
		struct node *n = b->node[k];
		unsigned first, last;

		if (!n->mirrors || n->table.v != table.v ||
		    !hwpt_entries_of(b->rules.format, n->level, n->quadrant, offset, bytes, &first, &last))
			continue;
		for (unsigned i = first; i <= last; i++)
			clear_entry(vm, n, i);
	}
}

static void wrote_page(struct hv_vm *vm, uint64_t a, unsigned bytes)
{
	struct brute *b = brute_of(vm);

	if (!is_table(b, a))
		return;
	drop_dependents(vm, gfn(a >> PAGE_SHIFT), a & ~PAGE_MASK, bytes);
	/* Bit 1 is the leaf level: nothing hangs off those, and the guest has to flush the page itself. */
	if (!(b->levels[a >> PAGE_SHIFT] & ~3u))
		return;
	/* Nodes are free for reuse, and frames may have become tables. */
	take_stock(vm);
	hwpt_flush_all(vm);
}

static void brute_guest_wrote(struct hv_vm *vm, uint64_t a, unsigned bytes)
{
	while (bytes) {
		unsigned n = (unsigned)min_u64(bytes, PAGE_SIZE - (a & ~PAGE_MASK));

		wrote_page(vm, a, n);
		a += n;
		bytes -= n;
	}
}

static void brute_emulated_access(struct hv_vm *vm, uint64_t a, unsigned bytes, bool write)
{
	(void)bytes;
	if (!is_table(brute_of(vm), a))
		return;
	if (write)
		vm->obs.faults.traced_writes++;
	else
		vm->obs.faults.traced_reads++;
}

/* ---- address spaces and modes ---- */

static void new_space(struct hv_vm *vm)
{
	struct brute *b = brute_of(vm);

	b->rules = hwpt_rules(&vm->guest);
	drop_tables(vm);
	take_stock(vm);
}

static void brute_load_cr3(struct hv_vm *vm, bool flush)
{
	(void)flush;
	new_space(vm);
	hwpt_write_cr3(vm, hardware_root(brute_of(vm)));
}

static void brute_mode_changed(struct hv_vm *vm)
{
	new_space(vm);
	hwpt_write_regs(vm, hardware_root(brute_of(vm)));
}

/*
 * The hardware tables are always current, so only the TLB has something to forget: the page. Cached upper entries
 * and pages that are large in the guest's tables were forgotten when the guest wrote those.
 */
static void brute_invlpg(struct hv_vm *vm, uint64_t lin)
{
	uint64_t canonical = hwpt_canonical(brute_of(vm)->rules.format, lin);

	if (canonical == lin || !hwpt_is_long(brute_of(vm)->rules.format))
		hwpt_flush_address(vm, canonical);
}

static void brute_flush(struct hv_vm *vm, enum hv_flush kind, uint16_t pcid)
{
	(void)kind, (void)pcid;
	hwpt_flush_all(vm);
}

/* Frames are only ever given where none was, and nothing can have been made from one that was not there. */
static void brute_p2m_changed(struct hv_vm *vm, gfn_t first, uint64_t frames)
{
	(void)vm, (void)first, (void)frames;
}

/* ---- tracking (hv/dirty.h) ---- */

/* All rights that the tracker can take away go: the pages that have some are found by looking at everything anyhow. */
static void brute_track(struct hv_vm *vm)
{
	const struct hv_tracker *t = vm->dirty.tracker;
	struct brute *b = brute_of(vm);

	for (uint32_t k = 1; t && k < b->fresh; k++) {
		struct node *n = b->node[k];

		hv_count_reads(vm, n->level == 1 ? HWPT_ENTRIES : 0);
		for (unsigned i = 0; n->level == 1 && i < HWPT_ENTRIES; i++) {
			if (n->entry[i] && t->hides)
				clear_entry(vm, n, i);
			n->entry[i] &= ~(t->protects ? PTE_W : PTE_A | PTE_D);
		}
	}
	hwpt_flush_all(vm);
}

static void brute_retrack(struct hv_vm *vm, const uint64_t *pages)
{
	(void)pages;
	brute_track(vm);
}

static void brute_scan(struct hv_vm *vm)
{
	take_all_flags(vm);
	hwpt_flush_all(vm);
}

/* ---- audit ---- */

static bool audit_leaf(struct hv_vm *vm, uint64_t lin, uint64_t e, char *buf, size_t bytes)
{
	struct guest_walk w;
	mfn_t m;
	const char *what = NULL;

	guest_walk(vm, lin, ACCESS_READ, MODE_SUPER_AC, false, &w);
	if (!w.ok && w.error & PF_PK)
		return true;
	if (!w.ok)
		what = "not mapped by the guest";
	else if (p2m_peek(vm, gfn(w.gpa >> PAGE_SHIFT), &m, NULL) || m.v != hwpt_frame(e).v)
		what = "mapped to another frame";
	else if (is_table(brute_of(vm), w.gpa))
		what = "a page table";
	else if ((e & PTE_W && !(w.writable && w.dirty)) || !!(e & PTE_U) != w.user || !!(e & PTE_NX) != w.nx)
		what = "mapped with other rights";
	else if (e & PTE_W && !(hv_dirty_rights(vm, gfn(w.gpa >> PAGE_SHIFT)) & HV_MAY_WRITE))
		what = "written unseen by the tracker";
	else if (machmem_owner(vm->mem, m) != vm->owner)
		what = "not the guest's frame";
	if (!what)
		return true;
	snprintf(buf, bytes, "%#llx, hardware entry %#llx: %s", (unsigned long long)lin, (unsigned long long)e,
		 what);
	return false;
}

static bool audit_node(struct hv_vm *vm, const struct node *n, char *buf, size_t bytes)
{
	struct brute *b = brute_of(vm);

	for (unsigned i = 0; i < HWPT_ENTRIES; i++) {
		uint64_t lin = n->base + ((uint64_t)i << hwpt_shift(n->level));

		if (!n->entry[i])
			continue;
		if (n->level > 1 ? !audit_node(vm, b->node[n->child[i]], buf, bytes)
				 : !audit_leaf(vm, hwpt_canonical(b->rules.format, lin), n->entry[i], buf, bytes))
			return false;
	}
	return true;
}

/* The layout is what a new traversal finds. */
static bool audit_layout(struct hv_vm *vm, char *buf, size_t bytes)
{
	struct brute *b = brute_of(vm);

	for (uint64_t k = 0; k < b->layout_count; k++) {
		struct layout_entry l = b->layout[k];
		unsigned entries = (unsigned)PAGE_SIZE / hwpt_entry_bytes(b->rules.format);

		for (unsigned i = 0; l.level > 1 && i < entries; i++) {
			gfn_t g;
			uint64_t e = hwpt_guest_entry(vm, gfn(l.frame), b->rules.format, i);

			if (!hwpt_table_entry(vm, b->rules, l.level, e, &g) ||
			    b->levels[g.v] >> (l.level - 1) & 1)
				continue;
			snprintf(buf, bytes, "table %#llx is not known to be one of level %u",
				 (unsigned long long)g.v << PAGE_SHIFT, l.level - 1);
			return false;
		}
	}
	return true;
}

static bool brute_audit(struct hv_vm *vm, char *buf, size_t bytes)
{
	const struct brute *b = brute_of(vm);

	for (unsigned i = 0; i < HWPT_ROOTS; i++)
		if (b->root[i] && !audit_node(vm, b->node[b->root[i]], buf, bytes))
			return false;
	return audit_layout(vm, buf, bytes);
}

/* ---- making ---- */

static void brute_destroy(struct hv_vm *vm)
{
	struct brute *b = brute_of(vm);

	if (!b)
		return;
	for (uint32_t k = 1; k < b->capacity; k++) {
		if (!b->node[k])
			continue;
		hwpt_free_frame(vm, b->node[k]->frame);
		free(b->node[k]);
	}
	hwpt_free_frame(vm, b->top);
	free(b->node);
	free(b->free);
	free(b->levels);
	free(b->was);
	free(b->layout);
	free(b);
	vm->mmu_state = NULL;
}

static int make_parts(struct hv_vm *vm, struct error *err)
{
	struct brute *b = brute_of(vm);
	int r = hwpt_alloc_top(vm, &b->top, err);

	if (r)
		return r;
	b->frames = hwpt_guest_frames(vm);
	b->levels = calloc(b->frames, 1);
	b->was = calloc(b->frames, 1);
	b->fresh = 1;
	if (!b->levels || !b->was || !add_node(vm, 1, 0))
		return error_set(err, -ENOMEM, "brute force: out of memory");
	return 0;
}

static int brute_init(struct hv_vm *vm, struct error *err)
{
	struct brute *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return error_set(err, -ENOMEM, "brute force: out of memory");
	b->top = HWPT_NO_FRAME;
	vm->mmu_state = b;
	r = make_parts(vm, err);
	if (r)
		brute_destroy(vm);
	return r;
}

static void brute_observe(const struct hv_vm *vm, struct obs *obs)
{
	const struct brute *b = brute_of(vm);

	/* Tables in use, and the PAE top. */
	obs->tables.shadow_bytes = (in_use(b) + 1ull) << PAGE_SHIFT;
	obs->tables.shadow_bytes_max = (b->in_use_max + 1ull) << PAGE_SHIFT;
	obs->shadow.fills = b->fills;
}

const struct hv_mmu_ops hv_mmu_brute = {
	.name = "brute",
	.init = brute_init,
	.destroy = brute_destroy,
	.setup_vmcs = hwpt_setup_vmcs,
	.page_fault = brute_page_fault,
	.mode_changed = brute_mode_changed,
	.load_cr3 = brute_load_cr3,
	.invlpg = brute_invlpg,
	.flush = brute_flush,
	.guest_wrote = brute_guest_wrote,
	.emulated_access = brute_emulated_access,
	.p2m_changed = brute_p2m_changed,
	.track = brute_track,
	.retrack = brute_retrack,
	.scan = brute_scan,
	.audit = brute_audit,
	.observe = brute_observe,
};
