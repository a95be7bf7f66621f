/*
 * The cache of shadow pages: finding and making them, the lists that lead from
 * anything back to the entries that point at it, recycling under the memory
 * limit, and the invalidations that changed entries need.
 *
 * Finding needs no hash function: guest frames index an array, and the few pages
 * of one frame are a list. Page numbers, not pointers, keep the lists small.
 */
#include "base/bitmap.h"
#include "hv/shadow.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* ---- making and freeing ---- */

int shadow_cache_init(struct shadow *s, struct error *err)
{
	struct hv_vm *vm = s->vm;

	s->limit = (uint32_t)min_u64(hwpt_table_limit(vm), SHADOW_PAGES_MAX);
	s->fresh = 1;
	s->frames = hwpt_guest_frames(vm);
	s->page = calloc(s->limit + 1ull, sizeof(*s->page));
	s->unsync = calloc(s->limit, sizeof(*s->unsync));
	s->frame = calloc(s->frames, sizeof(*s->frame));
	s->region = calloc(s->frames / HWPT_ENTRIES + 1, sizeof(*s->region));
	s->page_of_frame = calloc(vm->mem->span >> PAGE_SHIFT, sizeof(*s->page_of_frame));
	if (!s->page || !s->unsync || !s->frame || !s->region || !s->page_of_frame)
		return error_set(err, -ENOMEM, "shadow paging: out of memory");
	return 0;
}

void shadow_cache_destroy(struct shadow *s)
{
	for (uint32_t n = 1; s->page && n <= s->fresh && n <= s->limit; n++) {
		struct shadow_page *p = &s->page[n];

		if (p->entry)
			hwpt_free_frame(s->vm, p->frame);
		free(p->link);
		free(p->snapshot);
	}
	free(s->page);
	free(s->unsync);
	free(s->frame);
	free(s->region);
	free(s->page_of_frame);
}

/* ---- what the TLB must forget ---- */

static struct shadow_link *link_of(const struct shadow *s, entry_ref r)
{
	return &s->page[r / HWPT_ENTRIES].link[r % HWPT_ENTRIES];
}

void shadow_flush_address(struct shadow *s, uint64_t lin)
{
	struct shadow_flush *f = &s->flush;

	for (unsigned i = 0; i < f->addresses; i++)
		if (f->address[i] == lin)
			return;
	if (f->addresses == SHADOW_FLUSH_MAX)
		f->all = true;
	else
		f->address[f->addresses++] = lin;
}

static void flush_address(struct shadow *s, const struct shadow_page *p, unsigned i)
{
	uint64_t lin = p->base + ((uint64_t)i << hwpt_shift(p->role.level));

	/* A page that serves several addresses names none. */
	if (!p->based || p->several)
		s->flush.all = true;
	else
		shadow_flush_address(s, hwpt_canonical((enum hwpt_format)p->role.format, lin));
}

/* What led through @p stays in the TLB until the guest flushes, in this address space or in another. */
static void leave_owing(struct shadow *s, struct shadow_page *p)
{
	if (p->pins || p->parents)
		s->owing = true;
	else
		p->owing = true;
}

/*
 * A link goes. If others lead to the table at the same address, what the TLB has
 * of it is still right, or the guest changed its own table and has to flush. If
 * not: the link's address, for the paging-structure caches (they hold no global
 * translations: a flush of all but those drops them, too), and all below.
 */
static void flush_link(struct shadow *s, struct shadow_page *p, unsigned i)
{
	struct shadow_page *child = shadow_page_of(s, p->entry[i]);

	if (!child->several && link_of(s, child->parents)->next) {
		leave_owing(s, p);
		return;
	}
	if (!s->flush.nonglobal)
		flush_address(s, p, i);
	for (unsigned k = 0, left = child->present; left && !s->flush.all; k++) {
		hv_count_reads(s->vm, 1);
		if (!child->entry[k])
			continue;
		left--;
		shadow_flush_entry(s, child, k);
	}
}

void shadow_flush_entry(struct shadow *s, struct shadow_page *p, unsigned i)
{
	struct shadow_flush *f = &s->flush;
	uint64_t e = p->entry[i];

	if (f->all)
		return;
	if (shadow_is_switch(p, e))
		f->all = true; /* what the guest's own tables say below it, nobody here knows */
	else if (shadow_is_link(p, e))
		flush_link(s, p, i);
	else if ((p->parents || p->root) && (!f->nonglobal || e & PTE_G))
		flush_address(s, p, i); /* what nothing leads to was flushed when that became so */
}

static void flush_now(struct shadow *s)
{
	struct shadow_flush *f = &s->flush;

	if (f->all) {
		hwpt_flush_all(s->vm);
		s->owing = false;
	} else {
		for (unsigned i = 0; i < f->addresses; i++)
			hwpt_flush_address(s->vm, f->address[i]);
		if (f->nonglobal)
			hwpt_flush_nonglobal(s->vm);
	}
	f->all = f->nonglobal = false;
	f->addresses = 0;
}

void shadow_flush_all(struct shadow *s)
{
	s->flush.all = true;
	flush_now(s);
}

/*
 * A large global page that is mapped in pieces: INVLPG of one address has to drop them all. That is done when
 * its entry is changed, but this may have been the entry of a root that never used it, since another root's
 * translations served. So the page is remembered by its address, whoever maps it.
 */
static unsigned piece_slot(uint64_t lin, unsigned shift)
{
	return (unsigned)((lin >> shift ^ shift) * 0x9e3779b97f4a7c15ull >> 52) & (SHADOW_PIECES - 1);
}

/* Large pages of the guest that pages of the role are pieces of: the smallest there are. */
static unsigned piece_shift(union shadow_role role)
{
	return role.level == 2 ? 30 : role.format == HWPT_32 ? 22 : 21;
}

static bool is_pieces(const struct shadow_page *p) { return p->role.direct && p->role.global; }

static void note_pieces(struct shadow *s, const struct shadow_page *p, uint64_t base)
{
	unsigned slot = piece_slot(hwpt_canonical((enum hwpt_format)p->role.format, base), piece_shift(p->role));

	if (!is_pieces(p))
		return;
	bitmap_set(s->pieces, slot);
}

static bool in_pieces(const struct shadow *s, uint64_t lin)
{
	bool any = s->pieces_anywhere != 0;

	for (unsigned shift = 21; shift <= 30; shift += shift == 21 ? 1 : 8) {
		unsigned slot = piece_slot(lin, shift);

		any |= bitmap_has(s->pieces, slot);
	}
	return any;
}

void shadow_flush_page(struct shadow *s, uint64_t lin)
{
	if (s->owing || in_pieces(s, lin))
		s->flush.all = true;
	else
		shadow_flush_address(s, lin);
}

/* ---- who points at what ---- */

static uint32_t *list_head(struct shadow *s, const struct shadow_page *p, uint64_t e, uint64_t owner)
{
	if (shadow_is_switch(p, e))
		return &s->frame[owner].switches;
	if (shadow_is_link(p, e))
		return &s->page[owner].parents;
	return p->role.level == 1 ? &s->frame[owner].mapped : &s->region[owner].large;
}

static void list_add(struct shadow *s, struct shadow_page *p, unsigned i, uint64_t owner)
{
	uint32_t *head = list_head(s, p, p->entry[i], owner);
	entry_ref self = shadow_number(s, p) * HWPT_ENTRIES + i;

	p->link[i] = (struct shadow_link){.next = *head, .prev = LINK_HEAD | (uint32_t)owner};
	if (*head)
		link_of(s, *head)->prev = self;
	*head = self;
}

static void list_remove(struct shadow *s, struct shadow_page *p, unsigned i)
{
	struct shadow_link *l = &p->link[i];

	if (l->next)
		link_of(s, l->next)->prev = l->prev;
	if (l->prev & LINK_HEAD)
		*list_head(s, p, p->entry[i], l->prev & ~LINK_HEAD) = l->next;
	else
		link_of(s, l->prev)->next = l->next;
}

/* ---- entries ---- */

static void note_orphan(struct shadow *s, struct shadow_page *p)
{
	if (p->parents || p->root || p->orphaned)
		return;
	p->orphaned = true;
	p->orphan_next = s->orphans;
	s->orphans = shadow_number(s, p);
}

void shadow_clear(struct shadow *s, struct shadow_page *p, unsigned i)
{
	uint64_t e = p->entry[i];

	if (!e)
		return;
	s->changed = true;
	shadow_flush_entry(s, p, i);
	list_remove(s, p, i);
	if (p->role.level == 1)
		hv_dirty_leaf_goes(s->vm, e);
	hv_count_writes(s->vm, 1);
	p->entry[i] = 0;
	p->present--;
	if (shadow_is_link(p, e))
		note_orphan(s, shadow_page_of(s, e));
}

/* Replaces an entry that points at the same thing; true if it did. */
static bool replace_rights(struct shadow *s, struct shadow_page *p, unsigned i, uint64_t e)
{
	uint64_t old = p->entry[i];

	if (!old || !e || hwpt_frame(old).v != hwpt_frame(e).v || (old ^ e) & PTE_PS)
		return false;
	if ((old ^ e) & ~PTE_A) {
		s->changed = true;
		if (hwpt_restricts(old, e))
			shadow_flush_entry(s, p, i);
		hv_count_writes(s->vm, 1);
		p->entry[i] = hv_dirty_by_flags(s->vm) ? e | (old & (PTE_A | PTE_D)) : e;
	}
	return true;
}

static void add_entry(struct shadow *s, struct shadow_page *p, unsigned i, uint64_t e, uint64_t owner)
{
	s->changed = true;
	hv_count_writes(s->vm, 1);
	p->entry[i] = e;
	p->present++;
	list_add(s, p, i, owner);
}

void shadow_set_leaf(struct shadow *s, struct shadow_page *p, unsigned i, uint64_t e, uint64_t target)
{
	if (replace_rights(s, p, i, e))
		return;
	shadow_clear(s, p, i);
	if (!e)
		return;
	/* Resource control: whatever the guest's tables say, it gets its own frames only. */
	assert(machmem_owner(s->vm->mem, hwpt_frame(e)) == s->vm->owner);
	add_entry(s, p, i, e, target);
}

/* The page and all below it serve more than one linear address. @unplaced: nobody says which. */
static void mark_several(struct shadow *s, struct shadow_page *p, bool unplaced)
{
	if (unplaced && is_pieces(p) && !p->unplaced) {
		p->unplaced = true;
		s->pieces_anywhere++;
	}
	if (p->several)
		return;
	p->several = true;
	for (unsigned i = 0; i < HWPT_ENTRIES && p->role.level > 1; i++)
		if (p->entry[i] && shadow_is_link(p, p->entry[i]))
			mark_several(s, shadow_page_of(s, p->entry[i]), true);
}

/* @p is about to serve @base (too). */
static void note_base(struct shadow *s, struct shadow_page *p, uint64_t base, bool several)
{
	if (!p->based) {
		p->based = true;
		p->base = base;
	}
	if (several || p->base != base)
		mark_several(s, p, several);
	note_pieces(s, p, base);
}

void shadow_set_link(struct shadow *s, struct shadow_page *p, unsigned i, struct shadow_page *child,
		     uint64_t rights)
{
	uint64_t e = hwpt_link(child->frame, rights);

	if (replace_rights(s, p, i, e))
		return;
	shadow_clear(s, p, i);
	note_base(s, child, p->base + ((uint64_t)i << hwpt_shift(p->role.level)), p->several);
	add_entry(s, p, i, e, shadow_number(s, child));
}

void shadow_set_switch(struct shadow *s, struct shadow_page *p, unsigned i, gfn_t table, uint64_t rights)
{
	uint64_t e;
	mfn_t m;

	if (p2m_peek(s->vm, table, &m, NULL))
		return;
	assert(machmem_owner(s->vm->mem, m) == s->vm->owner);
	e = hwpt_link(m, rights) | PTE_SWITCH | (hv_dirty_rights(s->vm, table) & HV_MAY_WRITE ? PTE_SWITCH_W : 0);
	if (replace_rights(s, p, i, e))
		return;
	shadow_clear(s, p, i);
	add_entry(s, p, i, e, table.v);
}

/* ---- least recently used ---- */

static void lru_remove(struct shadow *s, struct shadow_page *p)
{
	*(p->lru_prev ? &s->page[p->lru_prev].lru_next : &s->lru_head) = p->lru_next;
	*(p->lru_next ? &s->page[p->lru_next].lru_prev : &s->lru_tail) = p->lru_prev;
}

static void lru_add(struct shadow *s, struct shadow_page *p)
{
	uint32_t n = shadow_number(s, p);

	p->lru_prev = 0;
	p->lru_next = s->lru_head;
	*(s->lru_head ? &s->page[s->lru_head].lru_prev : &s->lru_tail) = n;
	s->lru_head = n;
}

void shadow_touch(struct shadow *s, struct shadow_page *p)
{
	p->operation = s->operation;
	p->writes = 0;
	if (s->lru_head == shadow_number(s, p))
		return;
	lru_remove(s, p);
	lru_add(s, p);
}

/* ---- pages ---- */

struct shadow_page *shadow_find(struct shadow *s, gfn_t g, union shadow_role role)
{
	uint32_t n = role.direct ? s->frame[g.v].directs : s->frame[g.v].tables;

	for (; n; n = s->page[n].same_frame)
		if (s->page[n].role.key == role.key)
			return &s->page[n];
	return NULL;
}

void shadow_empty_page(struct shadow *s, struct shadow_page *p)
{
	for (unsigned i = 0; i < HWPT_ENTRIES && p->present; i++) {
		hv_count_reads(s->vm, 1);
		shadow_clear(s, p, i);
	}
}

static void leave_frame(struct shadow *s, struct shadow_page *p)
{
	struct shadow_frame *f = &s->frame[p->gfn.v];
	uint32_t *n = p->role.direct ? &f->directs : &f->tables;

	while (*n != shadow_number(s, p))
		n = &s->page[*n].same_frame;
	*n = p->same_frame;
	if (!p->role.direct && !f->tables)
		s->region[p->gfn.v / HWPT_ENTRIES].tables--;
}

void shadow_zap_page(struct shadow *s, struct shadow_page *p)
{
	assert(p->live && !p->pins);
	if (p->unsync)
		shadow_drop_unsync(s, p);
	while (p->parents) {
		entry_ref r = p->parents;

		shadow_clear(s, &s->page[r / HWPT_ENTRIES], r % HWPT_ENTRIES);
	}
	shadow_empty_page(s, p);
	leave_frame(s, p);
	lru_remove(s, p);
	p->live = false;
	s->pieces_anywhere -= p->unplaced;
	p->same_frame = s->free;
	s->free = shadow_number(s, p);
	s->in_use--;
	s->count.zapped++;
}

/* Removes pages that nothing leads to any more: what the guest unhooked it has probably freed. */
static void reap_orphans(struct shadow *s)
{
	while (s->orphans) {
		struct shadow_page *p = &s->page[s->orphans];

		s->orphans = p->orphan_next;
		p->orphaned = false;
		if (p->live && !p->parents && !p->root)
			shadow_zap_page(s, p);
	}
}

/* Zaps the page that has not been used for longest. False if all are in use. */
static bool recycle(struct shadow *s)
{
	for (uint32_t n = s->lru_tail; n; n = s->page[n].lru_prev) {
		struct shadow_page *p = &s->page[n];

		if (p->pins || p->operation == s->operation)
			continue;
		shadow_zap_page(s, p);
		s->count.recycled++;
		return true;
	}
	return false;
}

/* A page number with its frame and links; 0 if there is no memory. */
static uint32_t prepare_fresh(struct shadow *s)
{
	struct shadow_page *p = &s->page[s->fresh];

	if (s->fresh > s->limit)
		return 0;
	if (!p->link)
		p->link = malloc(HWPT_ENTRIES * sizeof(*p->link));
	if (!p->link || hwpt_alloc_frame(s->vm, &p->frame))
		return 0;
	p->entry = machmem_ptr(s->vm->mem, mfn_to_hpa(p->frame));
	s->page_of_frame[p->frame.v] = s->fresh;
	return s->fresh++;
}

static uint32_t take_number(struct shadow *s)
{
	uint32_t n;

	if (!s->free) {
		n = prepare_fresh(s);
		if (n)
			return n;
		if (!recycle(s))
			return 0;
	}
	n = s->free;
	s->free = s->page[n].same_frame;
	return n;
}

static void enter_frame(struct shadow *s, struct shadow_page *p)
{
	struct shadow_frame *f = &s->frame[p->gfn.v];
	uint32_t *head = p->role.direct ? &f->directs : &f->tables;

	if (!p->role.direct && !f->tables)
		s->region[p->gfn.v / HWPT_ENTRIES].tables++;
	p->same_frame = *head;
	*head = shadow_number(s, p);
}

struct shadow_page *shadow_get(struct shadow *s, gfn_t g, union shadow_role role)
{
	struct shadow_page *p = shadow_find(s, g, role);
	uint32_t n;

	if (p) {
		shadow_touch(s, p);
		return p;
	}
	n = take_number(s);
	if (!n)
		return NULL;
	/* One more page mirrors the frame, perhaps of a level that may not be out of sync. */
	if (!role.direct)
		shadow_resync_frame(s, g);
	p = &s->page[n];
	*p = (struct shadow_page){
		.gfn = g, .role = role, .frame = p->frame, .entry = p->entry, .link = p->link,
		.snapshot = p->snapshot, .orphaned = p->orphaned, .orphan_next = p->orphan_next,
		.operation = s->operation, .prefetched = -1, .live = true,
	};
	enter_frame(s, p);
	lru_add(s, p);
	if (++s->in_use > s->in_use_max)
		s->in_use_max = s->in_use;
	if (!role.direct)
		shadow_write_protect(s, g);
	if (!role.direct && s->agile)
		s->agile->traced(s, g);
	return p;
}

void shadow_set_root(struct shadow *s, unsigned i, struct shadow_page *p, uint64_t base)
{
	if (s->root[i]) {
		struct shadow_page *old = &s->page[s->root[i]];

		old->pins--;
	}
	s->root[i] = 0;
	if (!p)
		return;
	p->pins++;
	p->root = true;
	note_base(s, p, base, false);
	s->root[i] = shadow_number(s, p);
}

/* ---- guest frames ---- */

bool shadow_is_traced(const struct shadow *s, gfn_t g)
{
	for (uint32_t n = s->frame[g.v].tables; n; n = s->page[n].same_frame)
		if (!s->page[n].unsync)
			return true;
	return false;
}

void shadow_clear_large(struct shadow *s, gfn_t g)
{
	entry_ref r;

	while ((r = s->region[g.v / HWPT_ENTRIES].large))
		shadow_clear(s, &s->page[r / HWPT_ENTRIES], r % HWPT_ENTRIES);
}

void shadow_clear_switches(struct shadow *s, gfn_t g)
{
	entry_ref r;

	while ((r = s->frame[g.v].switches))
		shadow_clear(s, &s->page[r / HWPT_ENTRIES], r % HWPT_ENTRIES);
}

void shadow_write_protect(struct shadow *s, gfn_t g)
{
	for (entry_ref r = s->frame[g.v].mapped; r; r = link_of(s, r)->next) {
		struct shadow_page *p = &s->page[r / HWPT_ENTRIES];
		unsigned i = r % HWPT_ENTRIES;

		hv_count_reads(s->vm, 1);
		if (!(p->entry[i] & PTE_W))
			continue;
		shadow_flush_entry(s, p, i);
		hv_count_writes(s->vm, 1);
		p->entry[i] &= ~PTE_W;
	}
	shadow_clear_large(s, g);
}

void shadow_unmap_frame(struct shadow *s, gfn_t g)
{
	entry_ref r;

	while ((r = s->frame[g.v].mapped))
		shadow_clear(s, &s->page[r / HWPT_ENTRIES], r % HWPT_ENTRIES);
	shadow_clear_switches(s, g);
	shadow_clear_large(s, g);
}

void shadow_zap_tables(struct shadow *s, gfn_t g)
{
	for (uint32_t n = s->frame[g.v].tables, next; n; n = next) {
		struct shadow_page *p = &s->page[n];

		next = p->same_frame;
		if (p->pins)
			shadow_empty_page(s, p);
		else
			shadow_zap_page(s, p);
	}
}

/* ---- operations ---- */

void shadow_begin(struct shadow *s)
{
	s->operation++;
	s->changed = false;
}

void shadow_end(struct shadow *s)
{
	reap_orphans(s);
	flush_now(s);
}
