/*
 * The page walker. Paging formats are data (struct walk_format: an array of levels);
 * EPT is walked by the same kind of loop, and nested paging is composition: every
 * address that the guest walk forms goes through stage 2.
 *
 * Agile paging: the walk begins in a shadow table, whose addresses are machine addresses, and an entry of it may
 * switch to a table of the guest's; from there on it is nested.
 *
 * Order of effects, as hardware leaves them: an entry that refers to another
 * table gets its accessed flag when it is followed; the last entry gets accessed
 * (and, for a write, dirty) only if the access is allowed.
 *
 * Walk caches and the nested TLB (docs/walk-caches.md) are asked on the way. What
 * they hold may be stale, as the manual allows. So that events do not depend on
 * them, a walk that used any of it and ends in an event is made again without.
 * Not modelled: walks that run ahead of an instruction, and several at a time.
 *
 * Sources: SDM volume 3, "4-Level Paging and 5-Level Paging", "PAE Paging",
 * "32-Bit Paging", "The Extended Page Table Mechanism (EPT)", "Page-Modification Logging",
 * "Paging-Structure Caches".
 */
#include "mmu/walk.h"

#include "mmu/flush.h"
#include "mmu/dmt_impl.h"

static const struct walk_format format_5level = {
	"5-level", 5, 8, {{48, 9, false}, {39, 9, false}, {30, 9, true}, {21, 9, true}, {12, 9, true}}, WALK_SHIFTS};
static const struct walk_format format_4level = {
	"4-level", 4, 8, {{39, 9, false}, {30, 9, true}, {21, 9, true}, {12, 9, true}}, WALK_SHIFTS};
static const struct walk_format format_pae = {"PAE", 2, 8, {{21, 9, true}, {12, 9, true}}, WALK_SHIFTS};
static const struct walk_format format_32bit = {"32-bit", 2, 4, {{22, 10, true}, {12, 10, true}}, {0, 12, 22}};

static const struct walk_format *format_of(const struct mmu *m)
{
	if (mmu_is_long(m))
		return m->regs.cr4 & CR4_LA57 ? &format_5level : &format_4level;
	return m->regs.cr4 & CR4_PAE ? &format_pae : &format_32bit;
}

/* ---- recording ---- */

struct walk_step *walk_log_step(struct walk *w, enum walk_stage stage, unsigned level, uint32_t cycles)
{
	struct walk_log *log = w->mmu->log;
	struct walk_step *s;

	if (log->steps == WALK_STEPS_MAX)
		log->steps--; /* no walk is so long; a defined end all the same */
	s = &log->step[log->steps++];
	*s = (struct walk_step){.stage = stage, .level = (uint8_t)level, .cycles = cycles,
				.guest_level = stage == STAGE_HOST ? w->guest_level : 0,
				.part = stage == STAGE_GUEST ? w->part : 0};
	return s;
}

NOINLINE void walk_log_reference(struct walk *w, enum walk_stage stage, unsigned level, uint64_t at, uint64_t at_gpa,
				 uint64_t entry, enum hw_place place)
{
	const struct hw *hw = &w->mmu->hw;
	struct walk_step *s = walk_log_step(w, stage, level,
				       place == HW_MEMORY ? hw->memory_latency : hw->cache[place].latency);

	s->what = STEP_REF;
	s->at = at;
	s->at_gpa = at_gpa;
	s->entry = entry;
	s->place = (uint8_t)place;
}

static NOINLINE void log_cached(struct walk *w, enum walk_stage stage, unsigned level, uint64_t at, uint64_t at_gpa,
				uint64_t value)
{
	const struct hw_cost *cost = &w->mmu->hw.cost;
	struct walk_step *s = walk_log_step(w, stage, level, level ? cost->walk_cache_hit : cost->nested_tlb_hit);

	s->what = level ? STEP_WALK_CACHE : STEP_NESTED_TLB;
	s->at = at;
	s->at_gpa = at_gpa;
	s->entry = value;
}

/* ---- the unified cache ---- */

static struct walk_entry unified_key(const struct walk_tags *tags, uint64_t at, uint64_t addr, unsigned shift)
{
	return (struct walk_entry){.tags = *tags, .at = at, .shift = (uint8_t)shift, .prefix = addr >> shift};
}

static void unified_enter(struct walk *w, enum walk_stage stage, struct walk_entry key, uint64_t value)
{
	if (w->asks)
		return;
	w->mmu->stats.walk_cache_misses[stage] += w->caches;
	key.value = value;
	walk_cache_enter(&w->mmu->unified, &key);
}

/* NULL: it is not held, or there is no such cache. */
static const struct walk_entry *unified_find(struct walk *w, struct walk_entry key)
{
	return w->caches ? walk_cache_find(&w->mmu->unified, &key) : NULL;
}

static void count_unified_hit(struct walk *w, enum walk_stage stage, unsigned level, uint64_t at, uint64_t at_gpa,
			      uint64_t value)
{
	w->used = true;
	w->mmu->stats.walk_cache_hits[stage][level]++;
	if (unlikely(w->mmu->log))
		log_cached(w, stage, level, at, at_gpa, value);
}

/* ---- split caches ---- */

/* Is there any of @levels' caches? */
static bool split_exists(const struct walk_cache cache[HW_LEVELS])
{
	for (unsigned i = 2; i < HW_LEVELS; i++)
		if (walk_cache_exists(&cache[i]))
			return true;
	return false;
}

/* The longest prefix of @addr that is cached. @want has the tags; @shift: per level. NULL: none. */
static const struct walk_entry *split_find(struct walk *w, enum walk_stage stage, struct walk_cache cache[HW_LEVELS],
					   struct walk_tags tags, uint64_t addr, const uint8_t shift[HW_LEVELS],
					   unsigned levels, unsigned *level)
{
	struct mmu_stats *st = &w->mmu->stats;

	if (!w->caches || w->mmu->hw.walk_caches != HW_WALK_SPLIT || !split_exists(cache))
		return NULL;
	for (unsigned i = 2; i <= levels; i++) {
		struct walk_entry want = {.tags = tags, .shift = shift[i], .prefix = addr >> shift[i]};
		const struct walk_entry *e = walk_cache_find(&cache[i], &want);

		if (!e)
			continue;
		w->used = true;
		st->walk_cache_hits[stage][i]++;
		*level = i;
		return e;
	}
	st->walk_cache_misses[stage]++;
	return NULL;
}

/* ---- EPT ---- */

static enum xlate_event ept_violation(struct walk *w, uint64_t gpa_v, uint64_t access, uint64_t rights, bool table)
{
	w->out->gpa = gpa(gpa_v);
	w->out->qualification = access | rights << EPT_VIOL_RIGHTS_SHIFT | (table ? 0 : EPT_VIOL_FINAL);
	return XLATE_EPT_VIOLATION;
}

/* A walk of the EPT, as far as it has come. */
struct ept_walk {
	uint64_t gpa;
	uint64_t need;     /* EPT_VIOL_READ | ... */
	uint64_t rights;   /* EPT_R | ... of all levels so far */
	uint64_t table;
	unsigned level;
	bool ad;           /* accessed and dirty flags are in use */
	bool for_table;    /* the access is to a guest paging structure (the walker's own) */
};

/*
 * Sets flags in the EPT entry @e at @at. With page-modification logging a full log stops even an access that needs no
 * more than an accessed flag, and a dirty flag that was clear is logged.
 */
static NOINLINE enum xlate_event ept_set_flags(struct walk *w, const struct ept_walk *x, uint64_t at, uint64_t e,
					       uint64_t set)
{
	struct mmu *m = w->mmu;
	struct mmu_pml *pml = &m->pml;

	if (w->asks) {
		w->would_set = true;
		return XLATE_OK;
	}
	if (pml->on && pml->index >= PML_ENTRIES) {
		w->out->gpa = gpa(x->gpa);
		return XLATE_PML_FULL;
	}
	entry_or(m, at, set);
	if (!pml->on || !(set & ~e & EPT_D))
		return XLATE_OK;
	pml_append(m, x->gpa);
	return XLATE_OK;
}

/* Flags that the access sets in the last entry. */
static uint64_t ept_leaf_flags(const struct ept_walk *x)
{
	return x->ad ? EPT_A | (x->need & EPT_VIOL_WRITE ? EPT_D : 0) : 0;
}

/* Split caches: begins the walk at the table that the longest cached prefix names. */
static void ept_skip(struct walk *w, struct ept_walk *x)
{
	unsigned level = 0;
	const struct walk_entry *e = split_find(w, STAGE_HOST, w->mmu->host, w->mmu->host_tags, x->gpa, ept_shifts,
						x->level, &level);

	if (!e)
		return;
	x->level = level - 1;
	x->table = e->value;
	x->rights = e->rights;
	if (unlikely(w->mmu->log)) {
		log_cached(w, STAGE_HOST, level, 0, x->gpa, e->value);
		log_rights(w, tlb_ept_rights(x->rights));
	}
}

static struct walk_entry ept_key(const struct walk *w, const struct ept_walk *x, uint64_t at)
{
	return unified_key(&w->mmu->host_tags, at, x->gpa, ept_shifts[x->level]);
}

/* Unified cache: the entry at @at, if it is held and needs no flag set (that is done in memory). */
static bool ept_cached_entry(struct walk *w, const struct ept_walk *x, uint64_t at, uint64_t *e)
{
	const struct walk_entry *found;

	if (!walk_cache_exists(&w->mmu->unified))
		return false;
	found = unified_find(w, ept_key(w, x, at));
	if (!found)
		return false;
	*e = found->value;
	if (ept_is_leaf(x->level, *e) && (*e & ept_leaf_flags(x)) != ept_leaf_flags(x))
		return false;
	count_unified_hit(w, STAGE_HOST, x->level, at, x->gpa, *e);
	return true;
}

/* An entry was followed, or used as the last one: the caches that hold such take it. */
static void ept_enter(struct walk *w, const struct ept_walk *x, uint64_t at, uint64_t e, bool leaf)
{
	struct mmu *m = w->mmu;

	if (walk_cache_exists(&m->unified) && (leaf ? m->hw.unified_host_leaf : m->hw.unified_host)) {
		unified_enter(w, STAGE_HOST, ept_key(w, x, at), e);
	} else if (!leaf && !w->asks) {
		struct walk_entry n = {.tags = w->mmu->host_tags, .shift = ept_shifts[x->level],
				       .prefix = x->gpa >> ept_shifts[x->level], .value = e & EPT_ADDR_MASK,
				       .rights = (uint16_t)x->rights};

		walk_cache_enter(&m->host[x->level], &n);
	}
}

/* The last entry: is the access allowed, and where does it go? */
static enum xlate_event ept_leaf(struct walk *w, const struct ept_walk *x, uint64_t at, uint64_t e, bool cached,
				 uint64_t *out)
{
	uint64_t set = ept_leaf_flags(x), below = (1ull << ept_shifts[x->level]) - 1;
	enum xlate_event ev;

	if ((x->need & x->rights) != x->need)
		return ept_violation(w, x->gpa, x->need, x->rights, x->for_table);
	if ((e & set) != set) {
		ev = ept_set_flags(w, x, at, e, set);
		if (ev)
			return ev;
	}
	if (!cached)
		ept_enter(w, x, at, e | set, true);
	w->ept_dirty = !x->ad || ((e | set) & EPT_D);
	w->ept_rights = tlb_ept_rights(x->rights);
	w->ept_shift = ept_shifts[x->level];
	*out = (e & EPT_ADDR_MASK & ~below) | (x->gpa & below);
	return XLATE_OK;
}

static enum xlate_event ept_levels(struct walk *w, struct ept_walk *x, uint64_t *out)
{
	struct mmu *m = w->mmu;

	for (;; x->level--) {
		unsigned shift = ept_shifts[x->level];
		uint64_t at = x->table + (x->gpa >> shift & 0x1ff) * 8, e;
		bool cached = ept_cached_entry(w, x, at, &e), leaf;

		if (!cached)
			e = reference(w, STAGE_HOST, x->level, at, x->gpa, 8);
		if (!(e & 7))
			return ept_violation(w, x->gpa, x->need, 0, x->for_table);
		leaf = ept_is_leaf(x->level, e);
		if (ept_entry_misconfigured(m, e, shift, leaf)) {
			w->out->gpa = gpa(x->gpa);
			return XLATE_EPT_MISCONFIG;
		}
		x->rights &= e & 7;
		log_rights(w, tlb_ept_rights(x->rights));
		if (leaf)
			return ept_leaf(w, x, at, e, cached, out);
		if (x->ad && !(e & EPT_A)) {
			enum xlate_event ev = ept_set_flags(w, x, at, e, EPT_A);

			if (ev)
				return ev;
		}
		if (!cached)
			ept_enter(w, x, at, e | (x->ad ? EPT_A : 0), false);
		x->table = e & EPT_ADDR_MASK;
	}
}

/* One walk of the EPT for guest-physical @gpa_v. @table: the access is to a guest paging structure. */
static enum xlate_event walk_ept(struct walk *w, uint64_t gpa_v, enum access_kind kind, bool table, uint64_t *out)
{
	uint64_t eptp = w->mmu->regs.eptp;
	bool ad = eptp & EPTP_AD;
	struct ept_walk x = {.gpa = gpa_v, .need = ept_access_bits(kind, table, ad), .rights = 7,
			     .table = eptp & EPT_ADDR_MASK, .ad = ad, .for_table = table,
			     .level = (unsigned)(eptp >> EPTP_WALK_SHIFT & 7) + 1}; /* 4 or 5: VM entry checks it */

	if (x.level == 4 && gpa_v >> 48)
		return ept_violation(w, gpa_v, x.need, 0, table);
	ept_skip(w, &x);
	return ept_levels(w, &x, out);
}

/* ---- stage 2 ---- */

static enum xlate_event no_stage2(struct walk *w, uint64_t gpa_v, uint64_t *out)
{
	w->ept_rights = TLB_EPT_RWX;
	w->ept_shift = 30;
	w->ept_dirty = true;
	*out = gpa_v;
	return XLATE_OK;
}

/* The final address. */
static enum xlate_event final_address(struct walk *w, uint64_t gpa_v, enum access_kind kind, uint64_t *out)
{
	w->guest_level = 0;
	return w->mmu->regs.nested ? walk_ept(w, gpa_v, kind, false, out) : no_stage2(w, gpa_v, out);
}

static bool nested_tlb_holds(struct walk *w, uint64_t gpa_v, const struct walk_entry *key, uint64_t *out)
{
	struct mmu *m = w->mmu;
	const struct walk_entry *e;

	if (!w->caches || !walk_cache_exists(&m->nested_tlb))
		return false;
	e = walk_cache_find(&m->nested_tlb, key);
	if (!e) {
		m->stats.nested_tlb_misses++;
		return false;
	}
	m->stats.nested_tlb_hits++;
	w->used = true;
	w->ept_rights = e->ept_rights;
	*out = e->value | (gpa_v & ~PAGE_MASK);
	if (unlikely(m->log)) {
		log_cached(w, STAGE_HOST, 0, 0, gpa_v, e->value);
		log_rights(w, e->ept_rights);
	}
	return true;
}

/* Address of an entry in the guest's table of @level. */
static enum xlate_event table_address(struct walk *w, unsigned level, uint64_t gpa_v, uint64_t *out)
{
	struct walk_entry key = {.tags = w->mmu->host_tags, .shift = PAGE_SHIFT, .prefix = gpa_v >> PAGE_SHIFT};
	enum xlate_event ev;

	if (!w->mmu->regs.nested)
		return no_stage2(w, gpa_v, out);
	w->guest_level = (uint8_t)level;
	if (nested_tlb_holds(w, gpa_v, &key, out))
		return XLATE_OK;
	ev = walk_ept(w, gpa_v, ACCESS_READ, true, out);
	if (!ev && !w->asks) {
		key.value = *out & PAGE_MASK;
		key.ept_rights = w->ept_rights;
		walk_cache_enter(&w->mmu->nested_tlb, &key);
	}
	return ev;
}

/* ---- the linear walk ---- */

static enum xlate_event page_fault(struct walk *w, uint32_t why)
{
	const struct mmu_regs *r = &w->mmu->regs;
	bool reports_fetch = (r->cr4 & CR4_SMEP) || ((r->cr4 & CR4_PAE) && (r->efer & EFER_NXE));

	w->out->error_code = why | (w->kind == ACCESS_WRITE ? PF_W : 0) | (mode_is_user(w->mode) ? PF_U : 0) |
			     (w->kind == ACCESS_FETCH && reports_fetch ? PF_I : 0);
	w->out->shadow = w->part == PART_SHADOW;
	return XLATE_PAGE_FAULT;
}

/* gpa of the root table; false: a PAE PDPTE is not present. */
static bool root_table(const struct mmu *m, const struct walk_format *f, uint64_t lin, uint64_t *at)
{
	if (f == &format_pae) {
		uint64_t pdpte = m->regs.pdpte[lin >> 30 & 3];

		*at = pdpte & PTE_ADDR_MASK;
		return pdpte & PTE_P;
	}
	*at = m->regs.cr3 & (f->entry_bytes == 4 ? 0xfffff000ull : PTE_ADDR_MASK);
	return true;
}

/* A flag is to be set in a guest's table that the shadow entry gives for reading only. */
static enum xlate_event switched_read_only(struct walk *w)
{
	enum xlate_event ev = page_fault(w, PF_P);

	w->out->shadow = true;
	return ev;
}

/* Sets flags in the guest's entry at guest-physical @entry_gpa (host-physical @at). */
static enum xlate_event set_entry_flags(struct walk *w, uint64_t entry_gpa, uint64_t at, uint64_t set)
{
	/* Without EPT A/D the walker's first access was a read; storing flags is a write of its own. */
	if (w->mmu->regs.nested && !(w->ept_rights & TLB_EPT_W)) {
		uint64_t rights = (w->ept_rights & TLB_EPT_R ? EPT_R : 0) | (w->ept_rights & TLB_EPT_X ? EPT_X : 0);

		if (w->part == PART_SWITCHED)
			return switched_read_only(w);
		return ept_violation(w, entry_gpa, EPT_VIOL_WRITE, rights, true);
	}
	if (w->asks)
		w->would_set = true;
	else
		entry_or(w->mmu, at, set);
	return XLATE_OK;
}

/* 0, or the bits of the error code that say why the access is not allowed. */
static uint32_t access_denied(const struct walk *w, uint16_t rights, uint8_t pkey)
{
	if (likely(rights_permit(w->mmu, rights, pkey, w->kind, w->mode)))
		return 0;
	/* A violation of both is reported with the protection-key bit too. */
	if (w->kind != ACCESS_FETCH && !pkey_permits(w->mmu, rights, pkey, w->kind, mode_is_user(w->mode)))
		return PF_P | PF_PK;
	return PF_P;
}

/* The access is allowed by the tables: final flags, final stage 2. */
static enum xlate_event finish(struct walk *w, uint64_t entry_gpa, uint64_t at, uint64_t e, uint64_t target,
			       unsigned shift, uint16_t rights, struct tlb_entry *out)
{
	struct mmu *m = w->mmu;
	uint64_t set = PTE_A | (w->kind == ACCESS_WRITE ? PTE_D : 0), page;
	enum xlate_event ev;

	if ((e & set) != set) {
		ev = set_entry_flags(w, entry_gpa, at, set);
		if (ev)
			return ev;
	}
	ev = w->part == PART_SHADOW ? no_stage2(w, target, &page) : final_address(w, target, w->kind, &page);
	if (ev)
		return ev;
	if (unlikely(m->agile) && !w->asks)
		m->stats.agile[w->switched]++;
	if (((e | set) & PTE_D) && w->ept_dirty)
		rights |= TLB_D;
	if ((e & PTE_G) && (m->regs.cr4 & CR4_PGE))
		rights |= TLB_G;
	out->guest_shift = (uint8_t)shift;
	if (w->ept_shift < shift)
		shift = w->ept_shift;
	/* 4 MiB pages have no TLB of their own: the translation is entered in halves. */
	if (shift == 22)
		shift = 21;
	out->shift = (uint8_t)shift;
	out->tag = w->lin >> shift;
	out->page = page & ~((1ull << shift) - 1);
	out->rights = rights | w->ept_rights;
	w->out->page = hpa(page & PAGE_MASK);
	return XLATE_OK;
}

/* The guest's walk, as far as it has come. */
struct guest_walk {
	const struct walk_format *format;
	unsigned level;    /* of the entry that is read next */
	uint64_t table;    /* guest-physical address of its table */
	uint64_t machine;  /* the same table in machine memory, if it is known */
	bool known;
	uint16_t rights;   /* TLB_W, TLB_U, TLB_NX of the levels above */
};

/* Split caches: begins the walk at the table that the longest cached prefix names. */
static void guest_skip(struct walk *w, struct guest_walk *g)
{
	const struct walk_format *f = g->format;
	unsigned level = 0;
	const struct walk_entry *e = split_find(w, STAGE_GUEST, w->mmu->guest, w->mmu->guest_tags, w->lin, f->shift,
						f->levels, &level);

	if (!e)
		return;
	g->level = level - 1;
	g->table = e->table;
	g->machine = e->value;
	g->known = true;
	g->rights = e->rights;
	w->ept_rights = e->ept_rights;
	w->part = e->part;
	w->switched = e->switched;
	if (unlikely(w->mmu->log)) {
		log_cached(w, STAGE_GUEST, level, 0, 0, e->value);
		log_rights(w, e->rights);
	}
}

/* Split caches: the entry of the level above was followed, and this is where its table is. */
static void guest_enter_split(struct walk *w, const struct guest_walk *g)
{
	unsigned level = g->level + 1, shift;
	struct walk_entry n = {.tags = w->mmu->guest_tags, .value = g->machine, .table = g->table, .rights = g->rights,
			       .ept_rights = w->ept_rights, .part = w->part, .switched = w->switched};

	if (level > g->format->levels || w->asks)
		return;
	shift = level_of(g->format, level)->shift;
	n.shift = (uint8_t)shift;
	n.prefix = w->lin >> shift;
	walk_cache_enter(&w->mmu->guest[level], &n);
}

/* Machine address of the next entry. */
static enum xlate_event guest_entry_address(struct walk *w, struct guest_walk *g, uint64_t entry_gpa, uint64_t *at)
{
	enum xlate_event ev = XLATE_OK;

	if (g->known) {
		*at = g->machine | (entry_gpa & ~PAGE_MASK);
		g->known = false;
		return XLATE_OK;
	}
	if (unlikely(w->part != PART_GUEST))
		*at = entry_gpa;
	else
		ev = table_address(w, g->level, entry_gpa, at);
	if (!ev) {
		g->machine = *at & PAGE_MASK;
		guest_enter_split(w, g);
	}
	return ev;
}

static struct walk_entry guest_key(const struct walk *w, const struct guest_walk *g, uint64_t at)
{
	return unified_key(&w->mmu->guest_tags, at, w->lin, level_of(g->format, g->level)->shift);
}

/* Unified cache: the entry at @at, which refers to another table. */
static bool guest_cached_entry(struct walk *w, const struct guest_walk *g, uint64_t entry_gpa, uint64_t at,
			       uint64_t *e)
{
	const struct walk_entry *found;

	if (g->level < 2 || !w->mmu->hw.unified_guest || !walk_cache_exists(&w->mmu->unified))
		return false;
	found = unified_find(w, guest_key(w, g, at));
	if (!found)
		return false;
	*e = found->value;
	count_unified_hit(w, STAGE_GUEST, g->level, at, entry_gpa, *e);
	return true;
}

/* The last entry: rights, flags, and the page. */
static enum xlate_event guest_leaf(struct walk *w, const struct guest_walk *g, uint64_t entry_gpa, uint64_t at,
				   uint64_t e, struct tlb_entry *out)
{
	const struct level *lv = level_of(g->format, g->level);
	uint8_t pkey = (uint8_t)(e >> PTE_PKEY_SHIFT & 15);
	uint32_t denied = access_denied(w, g->rights, pkey);

	if (denied)
		return page_fault(w, denied);
	out->pkey = pkey;
	return finish(w, entry_gpa, at, e, leaf_address(g->format, lv, e) | (w->lin & ((1ull << lv->shift) - 1)),
		      lv->shift, g->rights, out);
}

/*
 * Agile: from here on the guest's tables, the first of which is at machine address. @e: the shadow entry, or root,
 * that says so
 */
static void switch_tables(struct walk *w, unsigned level, uint64_t e)
{
	w->part = PART_SWITCHED;
	w->switched = (uint8_t)level;
	w->ept_rights = (uint16_t)(TLB_EPT_R | (e & PTE_SWITCH_W ? TLB_EPT_W : 0));
}

/* Agile: the entry @e of @level was followed. */
static void cross_over(struct walk *w, unsigned level, uint64_t e)
{
	if (w->part == PART_SWITCHED)
		w->part = PART_GUEST;
	else if (w->part == PART_SHADOW && e & PTE_SWITCH)
		switch_tables(w, level - 1, e);
}

/* An entry that refers to another table. */
static enum xlate_event guest_follow(struct walk *w, struct guest_walk *g, uint64_t entry_gpa, uint64_t at, uint64_t e,
				     bool cached)
{
	const struct mmu *m = w->mmu;

	if (!(e & PTE_A)) {
		enum xlate_event ev = set_entry_flags(w, entry_gpa, at, PTE_A);

		if (ev)
			return ev;
	}
	if (!cached && m->hw.unified_guest && walk_cache_exists(&m->unified))
		unified_enter(w, STAGE_GUEST, guest_key(w, g, at), e | PTE_A);
	g->table = e & (g->format->entry_bytes == 4 ? 0xfffff000ull : PTE_ADDR_MASK);
	if (unlikely(m->agile))
		cross_over(w, g->level, e);
	return XLATE_OK;
}

static enum xlate_event guest_levels(struct walk *w, struct guest_walk *g, struct tlb_entry *out)
{
	const struct walk_format *f = g->format;

	for (;; g->level--) {
		const struct level *lv = level_of(f, g->level);
		uint64_t entry_gpa = g->table + (w->lin >> lv->shift & ((1u << lv->bits) - 1)) * f->entry_bytes, at, e;
		enum xlate_event ev = guest_entry_address(w, g, entry_gpa, &at);
		bool cached, leaf;

		if (ev)
			return ev;
		cached = guest_cached_entry(w, g, entry_gpa, at, &e);
		if (!cached)
			e = reference(w, STAGE_GUEST, g->level, at, entry_gpa, f->entry_bytes);
		if (!(e & PTE_P))
			return page_fault(w, 0);
		leaf = entry_is_leaf(w->mmu, f, lv, e);
		if (entry_reserved(w->mmu, f, lv, e, leaf))
			return page_fault(w, PF_P | PF_RSVD);
		g->rights = combine_rights(g->rights, e, f->entry_bytes == 8);
		log_rights(w, g->rights);
		if (leaf)
			return guest_leaf(w, g, entry_gpa, at, e, out);
		ev = guest_follow(w, g, entry_gpa, at, e, cached);
		if (ev)
			return ev;
	}
}

static uint64_t shadow_root(struct walk *w, unsigned level)
{
	uint64_t root = w->mmu->regs.shadow_root;

	w->part = PART_SHADOW;
	w->switched = 0;
	w->ept_rights = TLB_EPT_RWX;
	if (root & PTE_SWITCH)
		switch_tables(w, level, root);
	return root & PTE_ADDR_MASK;
}

static enum xlate_event walk_tables(struct walk *w, struct tlb_entry *out)
{
	struct guest_walk g = {.format = w->mmu->format, .rights = TLB_W | TLB_U};

	g.level = g.format->levels;
	w->part = PART_GUEST;
	/* PAE's PDPTEs are registers: what they say is never cached. */
	if (unlikely(w->mmu->agile))
		g.table = shadow_root(w, g.level);
	else if (!root_table(w->mmu, g.format, w->lin, &g.table))
		return page_fault(w, 0);
	guest_skip(w, &g);
	return guest_levels(w, &g, out);
}

/* ---- attempts ---- */

void walk_set_regs(struct mmu *m)
{
	const struct mmu_regs *r = &m->regs;
	const struct walk_format *f = format_of(m);
	uint32_t pcid = r->cr4 & CR4_PCIDE ? (uint32_t)(r->cr3 & CR3_PCID_MASK) : 0;
	uint32_t ept = (uint32_t)(r->nested ? WALK_MODE_EPT | (r->eptp & EPTP_AD ? WALK_MODE_AD : 0) |
						    ((r->eptp >> EPTP_WALK_SHIFT & 7) == 4 ? WALK_MODE_EPT5 : 0)
					  : 0);

	m->format = f;
	m->pkeys = mmu_has_pkeys(m);
	m->agile = r->nested && r->agile && mmu_paging(m) && mmu_is_long(m);
	dmt_update(m);
	for (unsigned kind = 0; kind < ACCESS_KINDS; kind++)
		for (unsigned mode = 0; mode <= MODE_IMPLICIT; mode++)
			m->rule[kind][mode] = rights_rule_of(m, (enum access_kind)kind, (enum access_mode)mode);
	m->tags.asid = mmu_paging(m) ? (uint32_t)r->vpid << 12 | pcid : ASID_PHYSICAL;
	m->tags.ep4ta = r->nested ? (r->eptp & EPT_ADDR_MASK) | EP4TA_VALID : 0;
	m->guest_tags = (struct walk_tags){.asid = m->tags.asid, .ep4ta = m->tags.ep4ta,
					  .mode = ept | (m->agile ? WALK_MODE_AGILE : 0) |
						  (f->levels + (f == &format_pae))};
	m->host_tags = (struct walk_tags){.asid = ASID_PHYSICAL, .ep4ta = m->tags.ep4ta, .mode = ept};
}

/* Are both @ev with the same details? */
static bool same_event(enum xlate_event ev, const struct xlate *a, const struct xlate *b)
{
	if (ev == XLATE_PAGE_FAULT)
		return a->error_code == b->error_code && a->shadow == b->shadow;
	return a->gpa.v == b->gpa.v && (ev != XLATE_EPT_VIOLATION || a->qualification == b->qualification);
}

/* Does a walk from the root, without caches, come to event @ev, as @w did, and set no flag on the way? @lin: to a linear address */
static NOINLINE bool tables_agree(const struct walk *w, enum xlate_event ev, bool lin)
{
	struct mmu *m = w->mmu;
	struct walk_log *log = m->log;
	struct xlate out = {0};
	struct walk asked = {.mmu = m, .lin = w->lin, .kind = w->kind, .mode = w->mode, .asks = true, .out = &out};
	struct tlb_entry e;
	enum xlate_event theirs;
	uint64_t page;

	m->log = NULL;
	theirs = lin ? walk_tables(&asked, &e) : final_address(&asked, w->lin, w->kind, &page);
	m->log = log;
	return theirs == ev && !asked.would_set && same_event(ev, &out, w->out);
}

/*
 * Should the walk be made again? What it used may be stale where the tables are not; the event has to be theirs.
 * If so the stale parts go, as they would with the event itself; @lin: to a linear address.
 */
static bool repeats(struct walk *w, enum xlate_event ev, bool lin)
{
	struct mmu *m = w->mmu;

	if (!ev || !w->used || tables_agree(w, ev, lin))
		return false;
	if (lin)
		flush_stale_structures(m, w->lin);
	if (ev != XLATE_PAGE_FAULT)
		flush_stale_nested(m, w->out->gpa.v);
	m->stats.repeated++;
	w->caches = w->used = false;
	if (unlikely(m->log)) {
		m->log->steps = w->first_step;
		m->log->repeated = true;
	}
	return true;
}

/*
 * ---- the shortcut ----
 *
 * Most walks: split caches know the table of the last entry, in both stages, that leads to a page of 4 KiB or 2 MiB, allows
 * the access and needs no flag set. All that is found out before anything changes; then what the walk above would have done
 * is done at once. A walk of any other kind is left to it.
 */

/* An entry that maps a page, in a table that the caches know. */
struct last_entry {
	struct walk_cache *cache; /* which knows it, and where */
	uint32_t set, way;
	unsigned level;           /* of the entry: 1 or 2 */
	const struct walk_entry *known;
	uint64_t at, entry;
};

static ALWAYS_INLINE unsigned last_shift(const struct last_entry *l) { return l->level == 1 ? PAGE_SHIFT : 21; }

/* The entry for @addr of the table of @level, if it is known. */
static ALWAYS_INLINE bool entry_of_level(const struct mmu *m, struct walk_cache *c, unsigned level,
					 struct walk_tags tags, uint64_t addr, struct last_entry *l)
{
	unsigned shift = level == 1 ? 21 : 30;
	struct walk_entry want = {.tags = tags, .shift = (uint8_t)shift, .prefix = addr >> shift};

	if (!walk_cache_exists(c))
		return false;
	l->cache = c;
	l->level = level;
	l->set = assoc_set(&c->lru, want.prefix);
	l->way = walk_cache_way(c, l->set, &want);
	if (unlikely(l->way == ASSOC_NONE))
		return false;
	l->known = &c->entry[assoc_at(&c->lru, l->set, l->way)];
	l->at = l->known->value | (addr >> (shift - 9) & 511) * 8;
	if (!machmem_is_ram(m->mem, hpa(l->at)))
		return false;
	l->entry = get_u64(machmem_ptr(m->mem, hpa(l->at)));
	return true;
}

/* @cache: of the stage, by level */
static ALWAYS_INLINE bool last_entry(struct mmu *m, struct walk_cache cache[HW_LEVELS], struct walk_tags tags,
				     uint64_t addr, struct last_entry *l)
{
	/* PTE_PS and EPT_PS are the same bit. */
	return entry_of_level(m, &cache[2], 1, tags, addr, l) ||
	       (entry_of_level(m, &cache[3], 2, tags, addr, l) && l->entry & PTE_PS);
}
static_assert(PTE_PS == EPT_PS, "one bit says that an entry maps a page");

static ALWAYS_INLINE void use_last_entry(struct mmu *m, enum walk_stage stage, const struct last_entry *l)
{
	assoc_touch(&l->cache->lru, l->set, l->way);
	m->stats.walk_cache_hits[stage][l->level + 1]++;
	count_reference(m, stage, l->at);
}

/* Stage 2: where it leads, and the rights that it leaves; false: not so simple. */
static ALWAYS_INLINE bool last_ept_entry(struct mmu *m, uint64_t gpa_v, enum access_kind kind, struct last_entry *l,
					 uint16_t *rights)
{
	bool ad = m->regs.eptp & EPTP_AD;
	uint64_t need = ept_access_bits(kind, false, ad), left;
	uint64_t flags = ad ? EPT_A | (kind == ACCESS_WRITE ? EPT_D : 0) : 0;

	if (!last_entry(m, m->host, m->host_tags, gpa_v, l))
		return false;
	left = l->known->rights & l->entry & 7;
	if ((need & left) != need || (l->entry & flags) != flags ||
	    ept_entry_misconfigured(m, l->entry, last_shift(l), true))
		return false;
	*rights = tlb_ept_rights(left) | (!ad || (l->entry & EPT_D) ? TLB_D : 0);
	return true;
}

/* What entry_reserved() says of an entry in long mode that maps a page. */
static ALWAYS_INLINE uint64_t last_reserved(const struct mmu *m, const struct last_entry *l)
{
	uint64_t large = (((uint64_t)1 << 21) - 1) & ~0x1fffull;

	return phys_reserved(m) | (m->regs.efer & EFER_NXE ? 0 : PTE_NX) | (l->level == 1 ? 0 : large);
}

/* The address of @addr's byte, by an entry that maps its page. @mask: of the entry's address */
static ALWAYS_INLINE uint64_t last_address(const struct last_entry *l, uint64_t mask, uint64_t addr)
{
	uint64_t below = ((uint64_t)1 << last_shift(l)) - 1;

	return (l->entry & mask & ~below) | (addr & below);
}

static ALWAYS_INLINE bool walk_shortly(struct mmu *m, uint64_t lin, enum access_kind kind, enum access_mode mode,
				       struct tlb_entry *e, struct xlate *out)
{
	uint64_t flags = PTE_P | PTE_A | (kind == ACCESS_WRITE ? PTE_D : 0), at;
	uint16_t rights, ept = TLB_EPT_RWX | TLB_D;
	struct last_entry l, h = {0};
	unsigned shift;
	bool host;

	if (!last_entry(m, m->guest, m->guest_tags, lin, &l))
		return false;
	rights = combine_rights(l.known->rights, l.entry, true);
	e->pkey = (uint8_t)(l.entry >> PTE_PKEY_SHIFT & 15);
	if ((l.entry & flags) != flags || (l.entry & last_reserved(m, &l)) ||
	    !rights_permit(m, rights, e->pkey, kind, mode))
		return false;
	at = last_address(&l, PTE_ADDR_MASK, lin);
	e->guest_shift = (uint8_t)(shift = last_shift(&l));
	host = m->regs.nested && l.known->part != PART_SHADOW;
	if (host) {
		if (!last_ept_entry(m, at, kind, &h, &ept))
			return false;
		at = last_address(&h, EPT_ADDR_MASK, at);
		shift = last_shift(&h) < shift ? last_shift(&h) : shift;
	}
	use_last_entry(m, STAGE_GUEST, &l);
	if (host)
		use_last_entry(m, STAGE_HOST, &h);
	if (m->regs.nested && unlikely(m->agile))
		m->stats.agile[l.known->switched]++;
	count_walk(m, host ? 2 : 1);
	if (!(l.entry & PTE_D))
		ept &= (uint16_t)~TLB_D;
	if ((l.entry & PTE_G) && (m->regs.cr4 & CR4_PGE))
		rights |= TLB_G;
	e->rights = rights | ept;
	e->shift = (uint8_t)shift;
	e->tag = lin >> shift;
	e->page = at & ~(((uint64_t)1 << shift) - 1);
	out->page = hpa(at & PAGE_MASK);
	return true;
}

/* Through the tables, step by step. */
static enum xlate_event walk_on(struct walk *w, struct tlb_entry *e)
{
	enum xlate_event ev;

	if (unlikely(w->mmu->log))
		w->first_step = w->mmu->log->steps;
	do
		ev = walk_tables(w, e);
	while (repeats(w, ev, true));
	count_walk(w->mmu, w->refs);
	return ev;
}

static NOINLINE enum xlate_event walk_at_length(struct mmu *m, uint64_t lin, enum access_kind kind,
						enum access_mode mode, struct tlb_entry *e, struct xlate *out)
{
	struct walk w = {.mmu = m, .lin = lin, .kind = kind, .mode = mode, .caches = true, .out = out};

	return walk_on(&w, e);
}

/* By registers, and if that comes to nothing through the tables. */
static NOINLINE enum xlate_event walk_directly(struct mmu *m, uint64_t lin, enum access_kind kind,
					       enum access_mode mode, struct tlb_entry *e, struct xlate *out)
{
	struct walk w = {.mmu = m, .lin = lin, .kind = kind, .mode = mode, .caches = true, .out = out};

	if (dmt_walk_linear(&w, e))
		return XLATE_OK;
	if (!w.refs && !m->log && walk_has_shortcut(m) && walk_shortly(m, lin, kind, mode, e, out))
		return XLATE_OK;
	return walk_on(&w, e);
}

enum xlate_event walk_linear(struct mmu *m, uint64_t lin, enum access_kind kind, enum access_mode mode,
			     struct tlb_entry *e, struct xlate *out)
{
	if (likely(m->shortcut && !m->log) && walk_shortly(m, lin, kind, mode, e, out))
		return XLATE_OK;
	return m->direct ? walk_directly(m, lin, kind, mode, e, out) : walk_at_length(m, lin, kind, mode, e, out);
}

enum xlate_event walk_physical(struct mmu *m, uint64_t gpa_v, enum access_kind kind, struct xlate *out,
			       struct tlb_entry *e)
{
	struct walk w = {.mmu = m, .lin = gpa_v, .kind = kind, .mode = MODE_IMPLICIT, .caches = true, .out = out};
	uint64_t page;
	enum xlate_event ev;

	if (unlikely(m->direct_host) && dmt_walk_physical(&w, e))
		return XLATE_OK;
	if (unlikely(m->log))
		w.first_step = m->log->steps;
	do
		ev = final_address(&w, gpa_v, kind, &page);
	while (repeats(&w, ev, false));
	if (m->regs.nested)
		count_walk(m, w.refs);
	if (ev)
		return ev;
	e->shift = e->guest_shift = (uint8_t)w.ept_shift;
	e->tag = gpa_v >> w.ept_shift;
	e->page = page & ~((1ull << w.ept_shift) - 1);
	e->rights = (uint16_t)(TLB_W | TLB_U | w.ept_rights | (w.ept_dirty ? TLB_D : 0));
	e->pkey = 0;
	out->page = hpa(page & PAGE_MASK);
	return XLATE_OK;
}
