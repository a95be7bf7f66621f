/*
 * What invalidations drop: from the TLBs, the walk caches and the nested TLB.
 *
 * Every one is a rule: which tags, which addresses, whether globals go. An entry is
 * of a linear mapping (made without EPT), of a combined one (with EPT) or of a
 * guest-physical one (asid ASID_PHYSICAL); the rules keep whatever the manual allows
 * hardware to keep, so that software that forgets a flush is seen to have.
 *
 * Sources: SDM volume 3, "Operations that Invalidate TLBs and Paging-Structure
 * Caches" and "Operations that Invalidate Cached Mappings" (VMX).
 */
#include "mmu/flush.h"

struct drop_rule {
	bool linear;             /* linear and combined mappings with the tags below */
	uint16_t vpid_from, vpid_to;
	bool any_pcid;
	uint16_t pcid;
	bool keep_globals;
	bool physical;           /* guest-physical mappings */
	bool under_ept;          /* only what was made under EPT */
	bool any_root;           /* of any EPT root or none; otherwise: */
	uint64_t ep4ta;          /* made under this EPT root; 0: without EPT */
	bool by_page;            /* only what would be used for these addresses */
	uint64_t lin, gpa;       /* of linear and combined; of guest-physical mappings */
	bool whole_page;         /* TLBs: every piece of the guest's page that holds lin */
	bool any_structure;      /* walk caches: whatever the address */
};

static bool tags_dropped(const struct drop_rule *r, uint32_t asid, uint64_t ep4ta)
{
	uint32_t vpid = asid >> 12;

	if ((r->under_ept && !ep4ta) || (!r->any_root && ep4ta != r->ep4ta))
		return false;
	if (asid == ASID_PHYSICAL)
		return r->physical;
	return r->linear && vpid >= r->vpid_from && vpid <= r->vpid_to;
}

/* ---- TLBs ---- */

static bool page_dropped(const struct drop_rule *r, const struct tlb_entry *e)
{
	uint64_t a = e->asid == ASID_PHYSICAL ? r->gpa : r->lin;

	if (r->whole_page && e->guest_shift > e->shift)
		return a >> e->guest_shift == e->tag >> (e->guest_shift - e->shift);
	return a >> e->shift == e->tag;
}

static bool entry_dropped(const struct drop_rule *r, const struct tlb_entry *e)
{
	bool global = e->rights & TLB_G;

	if (r->by_page && !page_dropped(r, e))
		return false;
	if (!tags_dropped(r, e->asid, e->ep4ta) || (global && r->keep_globals))
		return false;
	/* An invalidation by page that concerns globals finds them under any PCID. */
	return e->asid == ASID_PHYSICAL || r->any_pcid || (e->asid & 0xfff) == r->pcid || (r->by_page && global);
}

/* Those of @ways, bits for the ways of a line from @first on, that the rule drops. */
static void drop_ways(struct l1_tlb *l1, struct tlb_array *a, struct tlb_entry *first, uint32_t ways,
		      const struct drop_rule *r)
{
	for (; ways; ways &= ways - 1) {
		struct tlb_entry *e = &first[__builtin_ctz(ways)];

		if (entry_dropped(r, e))
			tlb_drop(l1, a, e);
	}
}

/* The ways of @a that may hold a translation of @addr: of one set for each size, those with the tag. */
static void drop_sets(struct l1_tlb *l1, struct tlb_array *a, uint64_t addr, const struct drop_rule *r)
{
	for (unsigned size = 0; size < HW_PAGES; size++) {
		uint64_t tag = addr >> tlb_size_shift(size);
		uint32_t set = tlb_set_of(a, tag);

		if (!(a->holds >> size & 1))
			continue;
		for (uint32_t way = 0; way < a->ways; way += WAYS_LINE)
			drop_ways(l1, a, &tlb_set(a, tag)[way], ways_match(tlb_line(a, set, way), ways_part(tag)), r);
	}
}

/* All ways of @a that hold something. */
static void drop_everywhere(struct l1_tlb *l1, struct tlb_array *a, const struct drop_rule *r)
{
	for (uint32_t set = 0; a->holds && set < a->sets; set++) {
		for (uint32_t way = 0; way < a->ways; way += WAYS_LINE) {
			uint32_t left = a->ways - way, all = left < WAYS_LINE ? (1u << left) - 1 : (1u << WAYS_LINE) - 1;

			drop_ways(l1, a, &a->entry[(size_t)set * a->ways + way],
				  ~ways_match(tlb_line(a, set, way), 0) & all, r);
		}
	}
}

/* A rule about one page concerns one set of each size, unless parts of the page may stand in others. */
static bool concerns_sets(const struct tlb_array *a, const struct drop_rule *r)
{
	if (!r->by_page)
		return false;
	return !r->whole_page || (!(r->linear && tlb_may_hold_pieces(a, r->lin)) &&
				  !(r->physical && tlb_may_hold_pieces(a, r->gpa)));
}

/* @l1: first-level TLB that @t is part of, or NULL */
static void drop_from_tlb(struct l1_tlb *l1, struct tlb *t, const struct drop_rule *r)
{
	for (unsigned i = 0; i < t->arrays; i++) {
		struct tlb_array *a = &t->array[i];

		if (!concerns_sets(a, r)) {
			drop_everywhere(l1, a, r);
			continue;
		}
		if (r->linear)
			drop_sets(l1, a, r->lin, r);
		if (r->physical)
			drop_sets(l1, a, r->gpa, r);
	}
}

static void drop_translations(struct mmu *m, const struct drop_rule *r)
{
	drop_from_tlb(&m->l1d, &m->l1d.tlb, r);
	drop_from_tlb(&m->l1i, &m->l1i.tlb, r);
	drop_from_tlb(NULL, &m->l2d, r);
	drop_from_tlb(NULL, &m->l2i, r);
}

/* ---- walk caches and nested TLB ---- */

static bool structure_dropped(const struct drop_rule *r, const struct walk_entry *e)
{
	bool physical = e->tags.asid == ASID_PHYSICAL;

	if (!tags_dropped(r, e->tags.asid, e->tags.ep4ta))
		return false;
	if (!physical && !r->any_pcid && (e->tags.asid & 0xfff) != r->pcid)
		return false;
	if (!r->by_page || (!physical && r->any_structure))
		return true;
	return (physical ? r->gpa : r->lin) >> e->shift == e->prefix;
}

static void drop_cached(struct walk_cache *c, const struct drop_rule *r)
{
	for (size_t i = 0; c->lru.used && i < assoc_entries(&c->lru); i++)
		if (c->lru.key[i] && structure_dropped(r, &c->entry[i]))
			assoc_drop(&c->lru, i);
}

static void drop_structures(struct mmu *m, const struct drop_rule *r)
{
	for (unsigned i = 2; i < HW_LEVELS; i++) {
		if (r->linear)
			drop_cached(&m->guest[i], r);
		if (r->physical)
			drop_cached(&m->host[i], r);
	}
	drop_cached(&m->unified, r);
	if (r->physical)
		drop_cached(&m->nested_tlb, r);
}

/* ---- by the hardware itself ---- */

static uint16_t current_pcid(const struct mmu *m)
{
	return m->regs.cr4 & CR4_PCIDE ? (uint16_t)(m->regs.cr3 & CR3_PCID_MASK) : 0;
}

/* Rules begin as: linear and combined mappings of one VPID, under whatever EPT. */
static struct drop_rule of_vpid(uint16_t vpid)
{
	return (struct drop_rule){.linear = true, .vpid_from = vpid, .vpid_to = vpid, .any_root = true};
}

static struct drop_rule of_pcid(uint16_t vpid, uint16_t pcid)
{
	struct drop_rule r = of_vpid(vpid);

	r.pcid = pcid;
	return r;
}

void flush_translation(struct mmu *m, uint64_t lin, struct tlb_tags t)
{
	struct drop_rule r = {.ep4ta = t.ep4ta, .by_page = true, .lin = lin, .gpa = lin};

	if (t.asid == ASID_PHYSICAL) {
		r.physical = true;
	} else {
		r.linear = true;
		r.vpid_from = r.vpid_to = (uint16_t)(t.asid >> 12);
		r.pcid = (uint16_t)(t.asid & 0xfff);
	}
	drop_translations(m, &r);
}

static struct drop_rule of_current_address(const struct mmu *m, uint64_t lin)
{
	struct drop_rule r = of_pcid(m->regs.vpid, current_pcid(m));

	r.any_root = false;
	r.ep4ta = m->tags.ep4ta;
	r.by_page = true;
	r.lin = lin;
	return r;
}

static struct drop_rule of_physical_address(const struct mmu *m, uint64_t gpa_v)
{
	return (struct drop_rule){.physical = true, .ep4ta = m->tags.ep4ta, .by_page = true, .gpa = gpa_v};
}

void flush_stale_structures(struct mmu *m, uint64_t lin)
{
	struct drop_rule r = of_current_address(m, lin);

	drop_structures(m, &r);
}

void flush_stale_nested(struct mmu *m, uint64_t gpa_v)
{
	struct drop_rule r = of_physical_address(m, gpa_v);

	drop_structures(m, &r);
}

void flush_after_physical_event(struct mmu *m, enum xlate_event ev, const struct xlate *x)
{
	struct drop_rule r = of_physical_address(m, x->gpa.v);

	if (ev != XLATE_EPT_VIOLATION)
		return;
	drop_translations(m, &r);
	drop_structures(m, &r);
}

void flush_after_event(struct mmu *m, enum xlate_event ev, uint64_t lin, const struct xlate *x)
{
	struct drop_rule r = of_current_address(m, lin);

	flush_after_physical_event(m, ev, x);
	if (ev == XLATE_EPT_MISCONFIG || ev == XLATE_PML_FULL || !mmu_paging(m))
		return;
	/* Combined mappings go only if the address that violates is what the linear one translates to. */
	if (ev == XLATE_EPT_VIOLATION && !(x->qualification & EPT_VIOL_FINAL))
		return;
	/* A page fault drops what was made under any EPT root, an EPT violation what was under this one. */
	r.any_root = ev == XLATE_PAGE_FAULT;
	drop_translations(m, &r);
	drop_structures(m, &r);
}

/* ---- by software ---- */

static void drop(struct mmu *m, const struct drop_rule *r)
{
	m->stats.flushes++;
	drop_translations(m, r);
	drop_structures(m, r);
}

void mmu_flush_page(struct mmu *m, gva_t addr)
{
	struct drop_rule r = of_pcid(m->regs.vpid, current_pcid(m));

	r.by_page = r.whole_page = r.any_structure = true;
	r.lin = addr.v;
	drop(m, &r);
}

void mmu_flush_pcid_page(struct mmu *m, uint16_t pcid, gva_t addr)
{
	struct drop_rule r = of_pcid(m->regs.vpid, pcid);

	r.by_page = r.whole_page = r.keep_globals = true;
	r.lin = addr.v;
	drop(m, &r);
}

void mmu_flush_pcid(struct mmu *m, uint16_t pcid)
{
	struct drop_rule r = of_pcid(m->regs.vpid, pcid);

	r.keep_globals = true;
	drop(m, &r);
}

void mmu_flush_pcid_all(struct mmu *m, uint16_t pcid)
{
	struct drop_rule r = of_pcid(m->regs.vpid, pcid);

	drop(m, &r);
}

void mmu_flush_vpid_keep_globals(struct mmu *m, uint16_t vpid)
{
	struct drop_rule r = of_vpid(vpid);

	r.any_pcid = r.keep_globals = true;
	drop(m, &r);
}

void mmu_flush_nonglobal(struct mmu *m) { mmu_flush_vpid_keep_globals(m, m->regs.vpid); }

void mmu_flush_vpid_all(struct mmu *m, uint16_t vpid)
{
	struct drop_rule r = of_vpid(vpid);

	r.any_pcid = true;
	drop(m, &r);
}

void mmu_flush_vpid_page(struct mmu *m, uint16_t vpid, gva_t addr)
{
	struct drop_rule r = of_vpid(vpid);

	r.any_pcid = r.by_page = r.whole_page = true;
	r.lin = addr.v;
	drop(m, &r);
}

void mmu_flush_all_vpids(struct mmu *m)
{
	drop(m, &(struct drop_rule){.linear = true, .vpid_from = 1, .vpid_to = 0xffff, .any_pcid = true,
				    .any_root = true});
}

void mmu_flush_ept(struct mmu *m, uint64_t eptp, bool all)
{
	drop(m, &(struct drop_rule){.linear = true, .vpid_to = 0xffff, .any_pcid = true, .physical = true,
				    .under_ept = true, .any_root = all, .ep4ta = (eptp & EPT_ADDR_MASK) | EP4TA_VALID});
}

void mmu_flush_everything(struct mmu *m)
{
	drop(m, &(struct drop_rule){.linear = true, .vpid_to = 0xffff, .any_pcid = true, .physical = true,
				    .any_root = true});
}
