/*
 * Lookups through the TLBs. A translation is entered in each TLB at the largest
 * size, up to the smaller of the guest's and the host's page, that this TLB holds.
 *
 * A cached translation whose rights do not allow the access is dropped and the
 * tables are walked: so a fault always comes from the tables, and relaxing rights
 * without a flush never faults spuriously (which the manual allows).
 * Not modelled: speculative fills and prefetches.
 */
#include "mmu/mmu.h"

#include <errno.h>

#include "mmu/flush.h"
#include "mmu/rights.h"
#include "mmu/tlb.h"
#include "mmu/walk.h"

static int init_tlbs(struct mmu *m, const struct hw *hw)
{
	static const struct hw_tlb none;

	return tlb_init(&m->l1d.tlb, &m->arena, &hw->l1d, true) | tlb_init(&m->l1i.tlb, &m->arena, &hw->l1i, true) |
	       tlb_init(&m->l2d, &m->arena, &hw->l2d, false) |
	       tlb_init(&m->l2i, &m->arena, hw->l2_split ? &hw->l2i : &none, false);
}

static int init_walk_caches(struct mmu *m, const struct hw *hw)
{
	int r = walk_cache_init(&m->nested_tlb, &m->arena, &hw->nested_tlb);

	if (hw->walk_caches == HW_WALK_UNIFIED)
		r |= walk_cache_init(&m->unified, &m->arena, &hw->unified);
	for (unsigned i = 2; i < HW_LEVELS && hw->walk_caches == HW_WALK_SPLIT; i++)
		r |= walk_cache_init(&m->guest[i], &m->arena, &hw->guest[i]) |
		     walk_cache_init(&m->host[i], &m->arena, &hw->host[i]);
	return r;
}

int mmu_init(struct mmu *m, struct machmem *mem, const struct hw *hw, struct error *err)
{
	*m = (struct mmu){.mem = mem, .hw = *hw, .maxphyaddr = 46, .fast_path = true, .pages_1g = true};
	arena_init(&m->arena, machmem_is_large(mem));
	if (init_tlbs(m, hw) | init_walk_caches(m, hw) | mem_caches_init(&m->caches, &m->arena, hw)) {
		mmu_destroy(m);
		return error_set(err, -ENOMEM, "mmu: out of memory");
	}
	walk_set_regs(m);
	memset(m->l1d.fast.used, 0xff, sizeof(m->l1d.fast.used));
	memset(m->l1i.fast.used, 0xff, sizeof(m->l1i.fast.used));
	mmu_fast_flush(m);
	return 0;
}

void mmu_destroy(struct mmu *m)
{
	arena_destroy(&m->arena);
}

void mmu_fast_flush(struct mmu *m)
{
	fast_flush(&m->l1d);
	fast_flush(&m->l1i);
}

void mmu_fast_flush_host_page(struct mmu *m, hpa_t page)
{
	(void)page; /* finding the slots costs more than refilling them */
	fast_flush(&m->l1d);
}

void mmu_set_regs(struct mmu *m, const struct mmu_regs *r)
{
	if (memcmp(&m->regs, r, sizeof(*r)) == 0)
		return;
	m->regs = *r;
	walk_set_regs(m);
	mmu_fast_flush(m);
}

void mmu_watch_tables(struct mmu *m, void (*read)(void *ctx, uint64_t at), void *ctx)
{
	m->table_watch = (struct mmu_table_watch){read, ctx};
	walk_set_regs(m);
}

static ALWAYS_INLINE bool entry_permits(const struct mmu *m, const struct tlb_entry *e, enum access_kind kind,
					enum access_mode mode)
{
	return rights_serve(m, e->rights, e->pkey, kind, mode);
}

/* Host code looks data up by the page of the last byte: it must not find another page's slot than the first byte's. */
static ALWAYS_INLINE bool shares_slot_with_last(uint64_t page)
{
	uint64_t number = page >> PAGE_SHIFT;

	return unlikely(number % FAST_SLOTS == 0) && fast_slot(page) == fast_slot(page - PAGE_SIZE);
}

/*
 * Enters the 4 KiB page of @lin, whose entry @entry of @a (NULL: of no TLB) has just been used, into the host-side
 * lookup. @e: the same or what it was made from
 */
static ALWAYS_INLINE void fill_fast(struct mmu *m, bool fetch, const struct tlb_array *a, struct tlb_entry *entry,
				    const struct tlb_entry *e, uint64_t lin, enum access_mode mode)
{
	uint64_t lin_page = lin & PAGE_MASK;
	uint64_t page = e->page + (lin_page & ((1ull << e->shift) - 1));
	struct fast_entry f = {.rtag = FAST_INVALID, .wtag = FAST_INVALID, .entry = entry,
			       .addend = (fetch ? 0 : (uint64_t)(uintptr_t)m->mem->host) + page - lin_page};

	if (!m->fast_path || mode >= MODE_USER_ALIGN || (e->rights & TLB_MMIO))
		return;
	if (fetch) {
		f.rtag = lin_page;
		fast_fill(&m->l1i, a, &f, e->shift, lin, mode);
		return;
	}
	if (m->data_watch || m->data_cache || shares_slot_with_last(lin_page))
		return;
	if (entry_permits(m, e, ACCESS_READ, mode))
		f.rtag = lin_page;
	if (entry_permits(m, e, ACCESS_WRITE, mode) && !m->mem->code_map[page >> PAGE_SHIFT])
		f.wtag = lin_page;
	fast_fill(&m->l1d, a, &f, e->shift, lin, mode);
}

struct lookup {
	struct tlb_array *array;
	struct tlb_entry *entry;
};

static ALWAYS_INLINE bool find_size(const struct tlb *t, uint64_t lin, struct tlb_tags tags, unsigned size,
				    struct lookup *out)
{
	out->array = t->of[size];
	if (!out->array || (size && !tlb_may_hold_large(out->array, lin, size)))
		return false;
	out->entry = tlb_find(out->array, lin, tlb_size_shift(size), tags);
	return out->entry;
}

static ALWAYS_INLINE bool find(const struct tlb *t, uint64_t lin, struct tlb_tags tags, struct lookup *out)
{
	return find_size(t, lin, tags, 0, out) || find_size(t, lin, tags, 1, out) || find_size(t, lin, tags, 2, out);
}

static struct l1_tlb *l1_of(struct mmu *m, enum access_kind kind)
{
	return kind == ACCESS_FETCH ? &m->l1i : &m->l1d;
}

static struct tlb *l2_of(struct mmu *m, enum access_kind kind)
{
	return kind == ACCESS_FETCH && m->hw.l2_split ? &m->l2i : &m->l2d;
}

/*
 * Enters the translation of @lin at the largest size that @t holds and the page has.
 * @l1: first-level TLB that @t is part of, or NULL. False: it holds none, nothing is entered.
 */
static bool enter(struct mmu *m, struct l1_tlb *l1, struct tlb *t, const struct tlb_entry *e, uint64_t lin,
		  struct lookup *out)
{
	unsigned size = tlb_size(e->shift);

	while (!t->of[size])
		if (size-- == 0)
			return false;
	m->stats.splintered += tlb_size_shift(size) < e->guest_shift;
	out->array = t->of[size];
	out->entry = tlb_insert(m, l1, out->array, e, lin, size);
	return true;
}

/* A translation of 4 KiB: most are, and the compiler, which is told so by a value of its own, makes much of it. */
static ALWAYS_INLINE bool is_small(const struct tlb_entry *e) { return e->shift == PAGE_SHIFT; }
static ALWAYS_INLINE struct tlb_entry small_entry(const struct tlb_entry *e)
{
	return (struct tlb_entry){.page = e->page, .asid = e->asid, .ep4ta = e->ep4ta, .rights = e->rights,
				  .pkey = e->pkey, .shift = PAGE_SHIFT, .guest_shift = e->guest_shift};
}

/* Enters the small @e, as enter() does. NULL: the TLB holds no such pages. */
static ALWAYS_INLINE struct tlb_entry *enter_small(struct mmu *m, struct l1_tlb *l1, struct tlb *t,
						   const struct tlb_entry *e, uint64_t lin)
{
	if (unlikely(!t->of[0]))
		return NULL;
	m->stats.splintered += e->guest_shift > PAGE_SHIFT;
	return tlb_insert(m, l1, t->of[0], e, lin, 0);
}

static ALWAYS_INLINE void give(const struct tlb_entry *e, uint64_t lin, struct xlate *out, uint16_t *rights)
{
	out->page = hpa(e->page + (lin & ((1ull << e->shift) - 1) & PAGE_MASK));
	*rights = e->rights;
}

static NOINLINE void use_any_in_l1(struct mmu *m, bool fetch, const struct tlb_entry *e, uint64_t lin,
				   enum access_mode mode)
{
	struct l1_tlb *l1 = fetch ? &m->l1i : &m->l1d;
	struct lookup f;

	if (enter(m, l1, &l1->tlb, e, lin, &f))
		fill_fast(m, fetch, f.array, f.entry, f.entry, lin, mode);
}

static ALWAYS_INLINE void use_small_in_l1(struct mmu *m, bool fetch, const struct tlb_entry *e, uint64_t lin,
					  enum access_mode mode)
{
	struct l1_tlb *l1 = fetch ? &m->l1i : &m->l1d;
	struct tlb_entry *entry = enter_small(m, l1, &l1->tlb, e, lin);

	if (likely(entry))
		fill_fast(m, fetch, l1->tlb.of[0], entry, e, lin, mode);
}

/* The translation was not in the first level: enters it there and uses it. */
static ALWAYS_INLINE void use_in_l1(struct mmu *m, bool fetch, const struct tlb_entry *e, uint64_t lin,
				    enum access_mode mode, struct xlate *out, uint16_t *rights)
{
	give(e, lin, out, rights);
	if (likely(is_small(e))) {
		struct tlb_entry small = small_entry(e);

		use_small_in_l1(m, fetch, &small, lin, mode);
	} else {
		use_any_in_l1(m, fetch, e, lin, mode);
	}
}

/* The translation was in neither level: enters it in both and uses it. */
static ALWAYS_INLINE void use_in_both(struct mmu *m, bool fetch, struct tlb *l2, const struct tlb_entry *e,
				      uint64_t lin, enum access_mode mode, struct xlate *out, uint16_t *rights)
{
	struct lookup f;

	give(e, lin, out, rights);
	if (likely(is_small(e))) {
		struct tlb_entry small = small_entry(e);

		enter_small(m, NULL, l2, &small, lin);
		use_small_in_l1(m, fetch, &small, lin, mode);
	} else {
		enter(m, NULL, l2, e, lin, &f);
		use_any_in_l1(m, fetch, e, lin, mode);
	}
}

/* No paging and no EPT: addresses are what they are, nothing is cached. */
static enum xlate_event identity(struct mmu *m, bool fetch, uint64_t lin, enum access_mode mode,
				 struct xlate *out, uint16_t *rights)
{
	struct tlb_entry *e = &m->untranslated;

	*e = (struct tlb_entry){.page = lin & PAGE_MASK, .shift = 12, .rights = TLB_W | TLB_U | TLB_D | TLB_EPT_RWX};
	if (!machmem_is_ram(m->mem, hpa(lin)))
		e->rights |= TLB_MMIO;
	out->page = hpa(e->page);
	*rights = e->rights;
	fill_fast(m, fetch, NULL, e, e, lin, mode);
	return XLATE_OK;
}

/* Is the page neither all RAM nor all device? */
static bool is_mixed(const struct mmu *m, const struct tlb_entry *e)
{
	uint64_t bytes = 1ull << e->shift;

	for (unsigned i = 0; i < m->mem->ranges; i++) {
		const struct machmem_range *r = &m->mem->range[i];

		if (r->base - e->page - 1 < bytes - 1 || r->base + r->bytes - e->page - 1 < bytes - 1)
			return true;
	}
	return false;
}

static uint32_t *guess_of(struct mmu *m, uint64_t lin) { return &m->guess[(lin >> PAGE_SHIFT) % MMU_GUESSES]; }

static ALWAYS_INLINE enum xlate_event walk(struct mmu *m, uint64_t lin, enum access_kind kind,
					   enum access_mode mode, struct tlb_entry *e, struct xlate *out)
{
	return mmu_paging(m) ? walk_linear(m, lin, kind, mode, e, out) : walk_physical(m, lin, kind, out, e);
}

/* The same, and who wants to know is told of it. */
static NOINLINE enum xlate_event walk_watched(struct mmu *m, uint64_t lin, enum access_kind kind, enum access_mode mode,
					      struct tlb_entry *e, struct xlate *out)
{
	struct walk_log *log = &m->walks->log;
	enum xlate_event ev;

	log->steps = 0;
	log->repeated = false;
	m->log = log;
	ev = walk(m, lin, kind, mode, e, out);
	m->log = NULL;
	if (!ev)
		m->walks->seen(m->walks->ctx, log);
	return ev;
}

/*
 * Walks the tables and enters what is found in both levels.
 * @e: receives the translation; it is not in any TLB itself
 */
static ALWAYS_INLINE enum xlate_event walk_and_enter(struct mmu *m, uint64_t lin, enum access_kind kind,
						     enum access_mode mode, struct tlb_entry *e,
						     struct xlate *out, uint16_t *rights)
{
	struct tlb_tags t = m->tags;
	enum xlate_event ev;

	e->asid = t.asid;
	e->ep4ta = t.ep4ta;
	if (unlikely(m->walks && !m->log))
		ev = walk_watched(m, lin, kind, mode, e, out);
	else
		ev = walk(m, lin, kind, mode, e, out);
	if (ev) {
		flush_after_event(m, ev, lin, out);
		return ev;
	}
	/* As processors do with pages of mixed memory type: 4 KiB are entered. */
	if (unlikely(e->shift > PAGE_SHIFT && is_mixed(m, e))) {
		e->page += lin & ((1ull << e->shift) - PAGE_SIZE);
		e->tag = lin >> PAGE_SHIFT;
		e->shift = PAGE_SHIFT;
	}
	if (!machmem_is_ram(m->mem, out->page))
		e->rights |= TLB_MMIO;
	else
		*guess_of(m, lin) = (uint32_t)(out->page.v >> PAGE_SHIFT);
	use_in_both(m, kind == ACCESS_FETCH, l2_of(m, kind), e, lin, mode, out, rights);
	return XLATE_OK;
}

uint8_t *mmu_data_resident(struct mmu *m, uint64_t lin, enum access_kind kind, enum access_mode mode)
{
	uint8_t *host = mmu_fast_data(m, lin, 1, kind, mode);
	struct lookup f;
	uint64_t page;

	if (host)
		return host;
	if (!m->fast_path || m->data_watch || m->data_cache || mode >= MODE_USER_ALIGN ||
	    !(mmu_paging(m) || m->regs.nested) || !find(&m->l1d.tlb, lin, m->tags, &f) ||
	    !entry_permits(m, f.entry, kind, mode))
		return NULL;
	page = f.entry->page + (lin & ((1ull << f.entry->shift) - 1) & PAGE_MASK);
	if (f.entry->rights & TLB_MMIO || (kind == ACCESS_WRITE && m->mem->code_map[page >> PAGE_SHIFT]))
		return NULL;
	tlb_touch(m, f.array, f.entry);
	fill_fast(m, false, f.array, f.entry, f.entry, lin, mode);
	return (uint8_t *)machmem_ptr(m->mem, hpa(page)) + (lin & ~PAGE_MASK);
}

/* The second level, then the tables. */
static ALWAYS_INLINE enum xlate_event translate_missed(struct mmu *m, uint64_t lin, enum access_kind kind,
						       enum access_mode mode, struct xlate *out, uint16_t *rights)
{
	struct tlb_tags t = m->tags;
	bool fetch = kind == ACCESS_FETCH;
	struct tlb_entry e;
	struct lookup f;

	*(fetch ? &m->stats.l1i_misses : &m->stats.l1d_misses) += 1;
	if (find(l2_of(m, kind), lin, t, &f)) {
		if (entry_permits(m, f.entry, kind, mode)) {
			*(fetch ? &m->stats.l2i_hits : &m->stats.l2d_hits) += 1;
			tlb_touch(m, f.array, f.entry);
			use_in_l1(m, fetch, f.entry, lin, mode, out, rights);
			return XLATE_OK;
		}
		flush_translation(m, lin, t);
	}
	*(fetch ? &m->stats.l2i_misses : &m->stats.l2d_misses) += 1;
	return walk_and_enter(m, lin, kind, mode, &e, out, rights);
}

/* Sends for the data of an access that missed. */
static void prefetch_guess(struct mmu *m, uint64_t lin)
{
	__builtin_prefetch(m->mem->host + ((uint64_t)*guess_of(m, lin) << PAGE_SHIFT | (lin & ~PAGE_MASK)));
}

/* @fetch: kind is ACCESS_FETCH */
static ALWAYS_INLINE enum xlate_event translate(struct mmu *m, uint64_t lin, bool fetch, enum access_kind kind,
						enum access_mode mode, struct xlate *out, uint16_t *rights)
{
	struct tlb_tags t = m->tags;
	struct lookup f;

	if (!mmu_paging(m) && !m->regs.nested)
		return identity(m, fetch, lin, mode, out, rights);
	if (!fetch && !m->no_data)
		prefetch_guess(m, lin);
	if (find(fetch ? &m->l1i.tlb : &m->l1d.tlb, lin, t, &f)) {
		if (likely(entry_permits(m, f.entry, kind, mode))) {
			tlb_touch(m, f.array, f.entry);
			give(f.entry, lin, out, rights);
			fill_fast(m, fetch, f.array, f.entry, f.entry, lin, mode);
			return XLATE_OK;
		}
		flush_translation(m, lin, t);
	}
	return translate_missed(m, lin, kind, mode, out, rights);
}

/* Two of them: either knows its first level and what it asks for. */
static NOINLINE enum xlate_event translate_fetch(struct mmu *m, uint64_t lin, enum access_mode mode, struct xlate *out,
						 uint16_t *rights)
{
	return translate(m, lin, true, ACCESS_FETCH, mode, out, rights);
}

static NOINLINE enum xlate_event translate_data(struct mmu *m, uint64_t lin, enum access_kind kind,
						enum access_mode mode, struct xlate *out, uint16_t *rights)
{
	if (kind == ACCESS_FETCH)
		__builtin_unreachable();
	return translate(m, lin, false, kind, mode, out, rights);
}

enum xlate_event mmu_translate(struct mmu *m, gva_t addr, enum access_kind kind, enum access_mode mode,
			       struct xlate *out, uint16_t *rights)
{
	return kind == ACCESS_FETCH ? translate_fetch(m, addr.v, mode, out, rights) :
				      translate_data(m, addr.v, kind, mode, out, rights);
}

/* Which level of the TLBs would serve the access; 0: none. Changes nothing. */
static unsigned level_that_holds(struct mmu *m, uint64_t lin, enum access_kind kind, enum access_mode mode)
{
	struct tlb_tags t = m->tags;
	struct lookup f;

	if (find(&l1_of(m, kind)->tlb, lin, t, &f))
		return entry_permits(m, f.entry, kind, mode) ? 1 : 0;
	return find(l2_of(m, kind), lin, t, &f) && entry_permits(m, f.entry, kind, mode) ? 2 : 0;
}

static void log_mapping(struct walk_log *log, const struct tlb_entry *e, const struct xlate *x, uint16_t rights)
{
	log->mapped = true;
	log->guest_shift = e->guest_shift;
	log->shift = e->shift;
	log->pkey = e->pkey;
	log->rights = rights;
	log->page = x->page.v & ~((1ull << e->shift) - 1);
}

enum xlate_event mmu_translate_logged(struct mmu *m, gva_t addr, enum access_kind kind, enum access_mode mode,
				      struct xlate *out, struct walk_log *log)
{
	struct tlb_entry e = {.shift = PAGE_SHIFT, .guest_shift = PAGE_SHIFT};
	uint16_t rights = 0;
	enum xlate_event ev;

	*log = (struct walk_log){0};
	if (!mmu_paging(m) && !m->regs.nested) {
		ev = identity(m, kind == ACCESS_FETCH, addr.v, mode, out, &rights);
	} else {
		log->tlb_level = level_that_holds(m, addr.v, kind, mode);
		/* The walk enters the translation: it must not stand there twice. */
		flush_translation(m, addr.v, m->tags);
		*(kind == ACCESS_FETCH ? &m->stats.l1i_misses : &m->stats.l1d_misses) += 1;
		*(kind == ACCESS_FETCH ? &m->stats.l2i_misses : &m->stats.l2d_misses) += 1;
		m->log = log;
		ev = walk_and_enter(m, addr.v, kind, mode, &e, out, &rights);
		m->log = NULL;
	}
	if (!ev)
		log_mapping(log, &e, out, rights);
	return ev;
}

void mmu_count_data(struct mmu *m, uint64_t at, unsigned bytes, bool write)
{
	unsigned shift = m->caches.line_shift;

	if (at - m->watch.first < m->watch.bytes)
		m->watch.seen(m->watch.ctx, at - m->watch.first, bytes, write);
	for (uint64_t line = at >> shift; line <= (at + bytes - 1) >> shift; line++)
		m->stats.data_hits[mem_caches_access(&m->caches, line << shift)]++;
}

enum xlate_event mmu_translate_gpa(struct mmu *m, gpa_t a, enum access_kind kind, struct xlate *out)
{
	struct tlb_entry e;
	enum xlate_event ev = walk_physical(m, a.v, kind, out, &e);

	if (ev)
		flush_after_physical_event(m, ev, out);
	return ev;
}
