/*
 * Is the cache of shadow pages what it claims to be? Two checks that share little
 * with the code that fills it. First, every page by itself: each present entry
 * agrees with the guest entry it mirrors (unless the table is out of sync), what
 * it points at knows it, and no frame that is traced is writable anywhere.
 * Second, the current address space as the hardware sees it: every translation
 * equals a walk of the guest's tables followed by the p2m.
 */
#include "hv/shadow.h"

#include <stdarg.h>
#include <stdio.h>

struct audit {
	struct shadow *s;
	char *buf;
	size_t bytes;
};

static bool __attribute__((format(printf, 2, 3))) wrong(const struct audit *a, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(a->buf, a->bytes, fmt, ap);
	va_end(ap);
	return false;
}

static bool wrong_entry(const struct audit *a, const struct shadow_page *p, unsigned i, const char *what)
{
	return wrong(a, "shadow of %s %#llx, level %u, quadrant %u, entry %u = %#llx (guest %#llx): %s",
		     p->role.direct ? "region" : "table", (unsigned long long)p->gfn.v << PAGE_SHIFT,
		     p->role.level, p->role.quadrant, i, (unsigned long long)p->entry[i],
		     (unsigned long long)shadow_guest_entry(a->s, p, i), what);
}

/* ---- page by page ---- */

/* The list entry @i is in: its neighbours and its owner know it. */
static bool audit_list(const struct audit *a, const struct shadow_page *p, unsigned i)
{
	struct shadow *s = a->s;
	const struct shadow_link *l = &p->link[i];
	entry_ref self = shadow_number(s, p) * HWPT_ENTRIES + i;
	uint32_t owner = l->prev & ~LINK_HEAD, head;

	if (l->next && s->page[l->next / HWPT_ENTRIES].link[l->next % HWPT_ENTRIES].prev != self)
		return wrong_entry(a, p, i, "its successor does not know it");
	if (!(l->prev & LINK_HEAD)) {
		if (s->page[owner / HWPT_ENTRIES].link[owner % HWPT_ENTRIES].next != self)
			return wrong_entry(a, p, i, "its predecessor does not know it");
		return true;
	}
	if (shadow_is_switch(p, p->entry[i]))
		head = s->frame[owner].switches;
	else if (shadow_is_link(p, p->entry[i]))
		head = s->page[owner].parents;
	else
		head = p->role.level == 1 ? s->frame[owner].mapped : s->region[owner].large;
	return head == self || wrong_entry(a, p, i, "what it points at does not know it");
}

/* Everything @have allows, @want allows; and what is not about rights is the same. */
static bool agrees(uint64_t have, uint64_t want)
{
	uint64_t differ = (have ^ want) & ~(PTE_A | PTE_D);

	return !(differ & ~PTE_W) && !(have & ~want & PTE_W);
}

static bool audit_link(const struct audit *a, const struct shadow_page *p, unsigned i)
{
	struct shadow *s = a->s;
	uint64_t e = shadow_guest_entry(s, p, i), rights = e;
	const struct shadow_page *child = shadow_page_of(s, p->entry[i]);
	gfn_t table;

	if (!child->live || child->frame.v != hwpt_frame(p->entry[i]).v)
		return wrong_entry(a, p, i, "references no shadow page");
	if (child->role.level + 1u != p->role.level)
		return wrong_entry(a, p, i, "references a page of the wrong level");
	if (!(e & PTE_A))
		return wrong_entry(a, p, i, "guest entry is not accessed");
	if (child->role.direct) {
		if (!(e & PTE_P) || !(e & PTE_PS))
			return wrong_entry(a, p, i, "guest entry is no large page");
		if (!(e & PTE_D))
			rights &= ~PTE_W;
	} else if (!hwpt_table_entry(s->vm, shadow_rules(p), p->role.level, e, &table) ||
		   table.v != child->gfn.v) {
		return wrong_entry(a, p, i, "guest entry references another table");
	}
	return agrees(p->entry[i] & HWPT_RIGHTS, rights & HWPT_RIGHTS) || wrong_entry(a, p, i, "wrong rights");
}

/* The hardware is to go on in the guest's own table, where that is. */
static bool audit_switch(const struct audit *a, const struct shadow_page *p, unsigned i)
{
	uint64_t e = shadow_guest_entry(a->s, p, i);
	gfn_t table;
	mfn_t m;

	if (!(e & PTE_A) || !hwpt_table_entry(a->s->vm, shadow_rules(p), p->role.level, e, &table))
		return wrong_entry(a, p, i, "switches, but guest entry references no table");
	if (!a->s->frame[table.v].nested)
		return wrong_entry(a, p, i, "switches to a table that is not nested");
	if (p2m_peek(a->s->vm, table, &m, NULL) || m.v != hwpt_frame(p->entry[i]).v)
		return wrong_entry(a, p, i, "switches to another table");
	return agrees(p->entry[i] & HWPT_RIGHTS, e & HWPT_RIGHTS) || wrong_entry(a, p, i, "wrong rights");
}

static bool audit_large(const struct audit *a, const struct shadow_page *p, unsigned i)
{
	uint64_t e = shadow_guest_entry(a->s, p, i);
	uint32_t r;

	if (p->role.level != 2 || (e & (PTE_P | PTE_A | PTE_PS)) != (PTE_P | PTE_A | PTE_PS))
		return wrong_entry(a, p, i, "guest entry is no accessed large page");
	if (p->entry[i] & PTE_W && !(e & PTE_D))
		return wrong_entry(a, p, i, "writable, but guest entry is not dirty");
	for (r = p->link[i].prev; !(r & LINK_HEAD);)
		r = a->s->page[r / HWPT_ENTRIES].link[r % HWPT_ENTRIES].prev;
	if (a->s->region[r & ~LINK_HEAD].tables)
		return wrong_entry(a, p, i, "large mapping of a region with tables in it");
	return true;
}

static bool audit_page_entry(const struct audit *a, const struct shadow_page *p, unsigned i)
{
	uint64_t want;
	gfn_t g;

	if (p->unsync)
		return true;
	want = shadow_compose(a->s, p, shadow_guest_entry(a->s, p, i), false, &g);
	if (!want)
		return wrong_entry(a, p, i, "present, but the guest's is not usable");
	return agrees(p->entry[i], want) || wrong_entry(a, p, i, "differs from guest entry and p2m");
}

static bool audit_page(const struct audit *a, const struct shadow_page *p)
{
	uint32_t present = 0;

	for (unsigned i = 0; i < HWPT_ENTRIES; i++) {
		bool ok;

		if (!p->entry[i])
			continue;
		present++;
		if (!(p->entry[i] & PTE_P))
			return wrong_entry(a, p, i, "neither present nor empty");
		if (shadow_is_switch(p, p->entry[i]))
			ok = audit_switch(a, p, i);
		else if (shadow_is_link(p, p->entry[i]))
			ok = audit_link(a, p, i);
		else
			ok = p->role.level == 1 ? audit_page_entry(a, p, i) : audit_large(a, p, i);
		if (!ok || !audit_list(a, p, i))
			return false;
	}
	if (present != p->present)
		return wrong_entry(a, p, 0, "wrong number of present entries");
	return true;
}

/* Every list of a frame: entries that map it do, and none writes to a traced frame. */
static bool audit_frame(const struct audit *a, gfn_t g)
{
	struct shadow *s = a->s;
	bool traced = shadow_is_traced(s, g);
	mfn_t m;

	if (s->frame[g.v].nested)
		return wrong(a, "table %#llx is shadowed, and nested", (unsigned long long)g.v << PAGE_SHIFT);
	for (entry_ref r = s->frame[g.v].mapped; r;) {
		const struct shadow_page *p = &s->page[r / HWPT_ENTRIES];
		unsigned i = r % HWPT_ENTRIES;

		if (!p->live || p2m_peek(s->vm, g, &m, NULL) || hwpt_frame(p->entry[i]).v != m.v)
			return wrong_entry(a, p, i, "is in the list of a frame it does not map");
		if (traced && p->entry[i] & PTE_W)
			return wrong_entry(a, p, i, "lets the guest write to a traced table");
		r = p->link[i].next;
	}
	return true;
}

/* ---- the address space ---- */

/* One translation of the hardware: @lin to machine frame @m with @rights (combined). */
static bool audit_translation(const struct audit *a, uint64_t lin, mfn_t m, uint64_t rights)
{
	struct guest_walk w;
	mfn_t want;

	guest_walk(a->s->vm, lin, ACCESS_READ, MODE_SUPER_AC, false, &w);
	if (!w.ok && w.error & PF_PK)
		return true;
	if (!w.ok)
		return wrong(a, "%#llx is mapped, but not by the guest", (unsigned long long)lin);
	if (p2m_peek(a->s->vm, gfn(w.gpa >> PAGE_SHIFT), &want, NULL) || want.v != m.v)
		return wrong(a, "%#llx is mapped to machine frame %#llx, but gpa %#llx is in %#llx",
			     (unsigned long long)lin, (unsigned long long)m.v, (unsigned long long)w.gpa,
			     (unsigned long long)want.v);
	for (unsigned l = w.leaf_level; l && l <= (w.levels == 3 ? 2 : w.levels); l++)
		if (!(w.entry[l] & PTE_A))
			return wrong(a, "%#llx is mapped, but not accessed at level %u",
				     (unsigned long long)lin, l);
	if (rights & PTE_W && !(w.writable && w.dirty))
		return wrong(a, "%#llx is writable, but not by the guest or not dirty", (unsigned long long)lin);
	if (!!(rights & PTE_U) != w.user || !!(rights & PTE_NX) != w.nx)
		return wrong(a, "%#llx has not the guest's U or NX", (unsigned long long)lin);
	return true;
}

static bool audit_space(const struct audit *a, const struct shadow_page *p, uint64_t base, uint64_t rights)
{
	struct shadow *s = a->s;

	for (unsigned i = 0; i < HWPT_ENTRIES; i++) {
		uint64_t e = p->entry[i], lin = base + ((uint64_t)i << hwpt_shift(p->role.level));
		uint64_t combined = (rights & e & (PTE_W | PTE_U)) | ((rights | e) & PTE_NX);
		bool ok;

		if (!e || p->unsync || shadow_is_switch(p, e))
			continue;
		if (shadow_is_link(p, e))
			ok = audit_space(a, shadow_page_of(s, e), lin, combined);
		else
			ok = audit_translation(a, hwpt_canonical(s->rules.format, lin), hwpt_frame(e), combined);
		if (!ok)
			return false;
	}
	return true;
}

bool shadow_audit(struct hv_vm *vm, char *buf, size_t bytes)
{
	struct shadow *s = shadow_of(vm);
	struct audit a = {s, buf, bytes};

	for (uint32_t n = 1; n < s->fresh; n++) {
		const struct shadow_page *p = &s->page[n];

		if (!p->live)
			continue;
		if (!audit_page(&a, p) || (!p->role.direct && !audit_frame(&a, p->gfn)))
			return false;
	}
	for (unsigned i = 0; i < HWPT_ROOTS; i++)
		if (s->root[i] &&
		    !audit_space(&a, &s->page[s->root[i]], (uint64_t)i << 30, PTE_W | PTE_U))
			return false;
	return true;
}
