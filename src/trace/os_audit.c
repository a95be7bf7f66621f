/*
 * What must be true of the model between two events, said independently of how it came about: every table, every
 * frame and every TEA is looked at, and what refers to them is counted.
 */
#include "trace/os_impl.h"

#include <errno.h>
#include <stdlib.h>

/* What the tables say of frames. */
struct count {
	uint32_t maps, huge_maps;
	uint64_t vpn;
	bool table;
};

struct audit {
	const struct osm *o;
	const struct os_space *s;
	struct count *count; /* [osm.frames] */
	uint64_t tables;
	struct error *err;
};

static int wrong(struct audit *a, const char *what, uint64_t x, uint64_t y)
{
	return error_set(a->err, -EINVAL, "os model: space %llu: %s: %#llx, %#llx",
			 a->s ? (unsigned long long)a->s->id : ~0ull, what, (unsigned long long)x, (unsigned long long)y);
}

/* ---- tables ---- */

/* Would an access by the entry be permitted, and change nothing? */
static bool is_ready(uint64_t e, unsigned kind)
{
	return (e & PTE_P) && (e & PTE_A) && (kind != TRACE_WRITE || (e & (PTE_W | PTE_D)) == (PTE_W | PTE_D)) &&
	       (kind != TRACE_FETCH || !(e & PTE_NX));
}

/* Accesses that are let through without a look at the entry. */
static int audit_ready(struct audit *a, const struct os_table *t)
{
	for (unsigned w = 0; w < 3 * OS_ENTRIES / 64; w++) {
		unsigned k = w / (OS_ENTRIES / 64), first = w % (OS_ENTRIES / 64) * 64;

		for (uint64_t left = t->ready[k][first / 64]; left; left &= left - 1) {
			unsigned i = first + (unsigned)__builtin_ctzll(left);

			if (t->level > 1 || !is_ready(t->e[i], k + 1))
				return wrong(a, "accesses that an entry does not permit", t->va, t->e[i]);
		}
	}
	return 0;
}

static int audit_page(struct audit *a, const struct os_table *t, unsigned i)
{
	uint64_t va = t->va + i * os_entry_bytes(t->level), e = t->e[i], f = os_entry_frame(e);
	uint64_t n = t->level == 2 ? OS_ENTRIES : 1;
	const struct os_vma *v = os_vmas_at(&a->s->vmas, va);

	if (!(e & PTE_P) || !(e & PTE_U) || (t->level == 2) != !!(e & PTE_PS))
		return wrong(a, "an entry of a page that is none", va, e);
	if (!v || v->end < va + os_entry_bytes(t->level))
		return wrong(a, "a page without an area", va, e);
	if ((e & PTE_W && (~v->flags & TRACE_MAP_WRITE || !(e & PTE_D))) ||
	    (!(e & PTE_NX) && ~v->flags & TRACE_MAP_EXEC))
		return wrong(a, "more than the area permits", va, e);
	if (f + n > a->o->frames || (n > 1 && f % n))
		return wrong(a, "no such frame", va, f);
	for (uint64_t k = 0; k < n; k++) {
		struct count *c = &a->count[f + k];

		if ((c->maps || c->huge_maps) && c->vpn != (va >> PAGE_SHIFT) + k)
			return wrong(a, "a frame at two addresses", va, f + k);
		c->vpn = (va >> PAGE_SHIFT) + k;
		if (n > 1)
			c->huge_maps++;
		else
			c->maps++;
	}
	return 0;
}

/* Writable means: nobody else has it. */
static int audit_writable(struct audit *a, const struct os_table *t)
{
	for (unsigned i = 0; i < OS_ENTRIES; i++) {
		const struct count *c = &a->count[os_entry_frame(t->e[i])];

		if (t->level > 1 && t->child && t->child[i]) {
			int r = audit_writable(a, t->child[i]);

			if (r)
				return r;
		} else if (t->level <= 2 && t->e[i] & PTE_W && c->maps + c->huge_maps != 1) {
			return wrong(a, "a writable page that is shared", t->va, t->e[i]);
		}
	}
	return 0;
}

static int audit_frame_of(struct audit *a, const struct os_table *t)
{
	const struct os_tea *tea = os_tea_at(a->s, t->va, t->level);
	unsigned type = a->o->frame[t->frame].type;

	if (a->count[t->frame].table)
		return wrong(a, "a frame of two tables", t->va, t->frame);
	a->count[t->frame].table = true;
	if (t->tea != tea)
		return wrong(a, "a table that is not in the TEA it should be in", t->va, t->frame);
	if (tea && t->frame != tea->first + (t->va - tea->start) / os_table_bytes(t->level))
		return wrong(a, "a table in the wrong place of its TEA", t->va, t->frame);
	if (tea ? type != OS_TEA : type != OS_TABLE && type != OS_POOL)
		return wrong(a, "a table on a frame of another type", t->frame, type);
	if (!a->o->frame[t->frame].stale)
		return wrong(a, "a table on a frame that says it is clear", t->va, t->frame);
	return 0;
}

static int audit_table(struct audit *a, const struct os_table *t)
{
	unsigned used = 0, end = t->level == OS_LEVELS ? OS_ENTRIES / 2 : OS_ENTRIES;
	int r = audit_frame_of(a, t);

	a->tables++;
	if (!r)
		r = audit_ready(a, t);
	for (unsigned i = end; i < OS_ENTRIES; i++) {
		used += !!t->e[i];
		if (t->e[i] != a->o->kernel->e[i])
			return wrong(a, "an entry of the kernel's part", i, t->e[i]);
	}
	for (unsigned i = 0; i < end && !r; i++) {
		const struct os_table *child = t->child ? t->child[i] : NULL;

		used += !!t->e[i];
		if (!child) {
			r = t->e[i] ? audit_page(a, t, i) : 0;
			continue;
		}
		if (t->e[i] != (child->frame << PAGE_SHIFT | OS_TABLE_FLAGS))
			return wrong(a, "an entry that does not refer to its table", t->va, t->e[i]);
		if (child->level != t->level - 1 || child->va != t->va + i * os_entry_bytes(t->level))
			return wrong(a, "a table in the wrong place", child->va, child->level);
		r = audit_table(a, child);
	}
	if (!r && used != t->used)
		return wrong(a, "entries in use", used, t->used);
	if (!r && !used)
		return os_vmas_touch(&a->s->vmas, t->va, t->va + os_table_bytes(t->level)) ? 0 :
		       wrong(a, "an empty table that no area needs", t->va, t->level);
	return r;
}

/* ---- TEAs ---- */

static uint64_t tables_in(const struct os_space *s, const struct os_tea *t)
{
	uint64_t n = 0;

	for (uint64_t va = t->start; va < t->end; va += os_table_bytes(t->level))
		n += os_table_find(s, va, t->level) != NULL;
	return n;
}

static bool host_knows(const struct osm *o, const struct os_tea *t)
{
	const struct pv_range *r = &o->pv.tea[t->id - 1];

	return r->gpa == t->first << PAGE_SHIFT && r->pages == os_tea_frames(t);
}

static int audit_teas(struct audit *a)
{
	uint64_t end[3] = {0}, last = 0;

	for (const struct os_tea *t = a->s->teas; t; t = t->next) {
		uint64_t below = os_table_bytes(t->level) - 1;

		if (t->start < last || t->start < end[t->level] || (t->start | t->end) & below || t->start >= t->end)
			return wrong(a, "TEAs out of order, or overlapping", t->start, t->end);
		last = t->start;
		end[t->level] = t->end;
		if (tables_in(a->s, t) != t->used || !t->used)
			return wrong(a, "tables in a TEA", t->used, tables_in(a->s, t));
		for (uint64_t i = 0; i < os_tea_frames(t); i++)
			if (a->o->frame[t->first + i].type != OS_TEA)
				return wrong(a, "a frame of a TEA that is something else", t->start, t->first + i);
		if (t->id && !host_knows(a->o, t))
			return wrong(a, "a gTEA that the host does not know so", t->first, t->id);
	}
	return 0;
}

/* Registers say what a TEA says, each one TEA, and there are as many as there can be. */
static int audit_registers(struct audit *a)
{
	unsigned teas = 0, found = 0;

	for (const struct os_tea *t = a->s->teas; t; t = t->next, teas++)
		for (unsigned i = 0; i < a->s->regs; i++) {
			const struct dmt_entry *e = &a->s->reg[i];

			found += e->start == t->start && e->end == t->end && e->tea == t->first << PAGE_SHIFT &&
				 dmt_well_formed(e) && dmt_id(e) == t->id && dmt_shift(e) == (t->level == 2 ? 21 : 12);
		}
	if (found != a->s->regs || a->s->regs != min_u64(teas, DMT_REGISTERS))
		return wrong(a, "registers", found, a->s->regs);
	return 0;
}

/* ---- frames ---- */

static int audit_data(struct audit *a, uint64_t f)
{
	const struct os_frame *fr = &a->o->frame[f], *head = &a->o->frame[f & ~(uint64_t)(OS_ENTRIES - 1)];
	const struct count *c = &a->count[f];

	if (!c->maps && !c->huge_maps)
		return wrong(a, "data that nobody has", f, fr->vpn);
	if (fr->vpn != c->vpn || fr->maps != c->maps || !!fr->huge != !!c->huge_maps)
		return wrong(a, "data at another address, or had by others", f, fr->vpn);
	if (fr->huge && head->huge_maps != c->huge_maps)
		return wrong(a, "huge data had by others", f, head->huge_maps);
	return 0;
}

static int audit_frames(struct audit *a)
{
	uint64_t data = 0, huge = 0, tables = 0, teas = 0;

	a->s = NULL;
	for (uint64_t f = 0; f < a->o->frames; f++) {
		const struct os_frame *fr = &a->o->frame[f];
		bool free = fr->type == OS_FREE, movable = free || fr->type == OS_DATA;
		int r = fr->type == OS_DATA ? audit_data(a, f) : 0;

		if (r)
			return r;
		if (fr->type != OS_DATA && (a->count[f].maps || a->count[f].huge_maps))
			return wrong(a, "mapped, but no data", f, fr->type);
		if ((fr->type == OS_KEPT) != os_bits_has(&a->o->kept, f))
			return wrong(a, "a frame that is kept, or not", f, fr->type);
		if (free != os_buddy_is_free(&a->o->buddy, f) || movable == os_bits_has(&a->o->fixed, f) ||
		    fr->type == OS_HELD)
			return wrong(a, "a frame and the allocator disagree", f, fr->type);
		if (fr->type == OS_TABLE && !a->count[f].table)
			return wrong(a, "a lost table", f, 0);
		data += fr->type == OS_DATA;
		huge += fr->type == OS_DATA && fr->huge;
		tables += a->count[f].table;
		teas += fr->type == OS_TEA;
	}
	if (data != a->o->stats.data_frames || huge != a->o->stats.huge_frames)
		return wrong(a, "frames of data counted", data, a->o->stats.data_frames);
	if (tables != a->o->stats.table_frames || tables != a->tables)
		return wrong(a, "tables counted", tables, a->o->stats.table_frames);
	if (teas != a->o->stats.tea.frames)
		return wrong(a, "frames of TEAs counted", teas, a->o->stats.tea.frames);
	return os_buddy_audit(&a->o->buddy, a->err);
}

static int audit_pool(struct audit *a)
{
	uint64_t used = 0;

	a->s = NULL;
	for (unsigned i = 0; i < a->o->segments; i++) {
		const struct os_pool_segment *p = &a->o->pool[i];

		for (uint64_t n = 0; n < p->used.bits; n++) {
			if (a->o->frame[p->first + n].type != OS_POOL)
				return wrong(a, "the pool's frame is something else", p->first + n, 0);
			if (os_bits_has(&p->used, n) != a->count[p->first + n].table)
				return wrong(a, "the pool and the tables disagree", p->first + n, 0);
			used += os_bits_has(&p->used, n);
		}
	}
	return used == a->o->stats.pool.used ? 0 : wrong(a, "the pool's frames counted", used, a->o->stats.pool.used);
}

static int audit_near(struct audit *a, const struct os_near *near, unsigned entries)
{
	for (unsigned i = 0; i < entries; i++) {
		const struct os_near *n = &near[i];
		unsigned slot = (unsigned)(n->key >> 3 & 0x7ff);
		uint64_t va = n->key >> 14 << 21;
		struct os_leaf l;

		if (!n->key)
			continue;
		a->s = slot ? a->o->space[slot - 1] : NULL;
		if (!a->s || os_table_find(a->s, va, 1) != n->table)
			return wrong(a, "a table that is not near", va, slot);
		l = os_leaf(a->s, va);
		for (unsigned k = TRACE_READ; k <= TRACE_FETCH && !n->table; k++)
			if (n->key >> (k - 1) & 1 && (!os_is_huge(&l) || !is_ready(l.entry, k)))
				return wrong(a, "accesses that the tables do not permit", va, l.entry);
	}
	return 0;
}

static int audit_space(struct audit *a)
{
	int r = os_vmas_audit(&a->s->vmas, a->err);

	if (!r)
		r = audit_table(a, a->s->root);
	if (!r)
		r = audit_teas(a);
	return r ? r : audit_registers(a);
}

int osm_audit(const struct osm *o, struct error *err)
{
	struct audit a = {.o = o, .err = err, .count = calloc(o->frames, sizeof(struct count))};
	unsigned spaces = 0;
	int r = 0;

	if (!a.count)
		return error_set(err, -ENOMEM, "os model: out of memory");
	for (unsigned i = 0; i < OSM_SPACES_MAX && !r; i++) {
		a.s = o->space[i];
		spaces += a.s != NULL;
		r = a.s ? audit_space(&a) : 0;
	}
	for (unsigned i = 0; i < OSM_SPACES_MAX && !r; i++) {
		a.s = o->space[i];
		r = a.s ? audit_writable(&a, a.s->root) : 0;
	}
	if (!r)
		r = audit_frames(&a);
	if (!r)
		r = audit_pool(&a);
	if (!r)
		r = audit_near(&a, o->near, OS_NEAR);
	if (!r)
		r = audit_near(&a, o->near_code, OS_NEAR_CODE);
	if (!r && (o->dying || spaces != o->spaces))
		r = wrong(&a, "TEAs in between, or spaces counted", o->dying != NULL, spaces);
	free(a.count);
	return r;
}
