/*
 * Lookups through the TLB model, and the invalidations.
 *
 * Skylake server: L1D 64 entries 4-way for 4 KiB, 32 4-way for 2 MiB, 4 for
 * 1 GiB; L1I 128 8-way and 8 for 2 MiB; L2 1536 12-way for 4 KiB and 2 MiB, 16 for 1 GiB.
 *
 * A cached translation whose rights do not allow the access is dropped and the
 * tables are walked: so a fault always comes from the tables, and relaxing rights
 * without a flush never faults spuriously (which the manual allows).
 * A 2 MiB entry of a 1 GiB page is never made: sizes are exact or min(guest, host).
 */
#include "mmu/mmu.h"

#include <errno.h>

#include "arch/vmx.h"
#include "arch/x86.h"
#include "mmu/tlb.h"
#include "mmu/walk.h"

int mmu_init(struct mmu *m, struct machmem *mem, const struct hw *hw, struct error *err)
{
	bool failed;

	*m = (struct mmu){.mem = mem, .hw = *hw, .maxphyaddr = 46, .fast_path = true, .pages_1g = true};
	failed = tlb_array_init(&m->l1d.small, 16, 4, true) || tlb_array_init(&m->l1d.large, 8, 4, true) ||
		 tlb_array_init(&m->l1d.huge, 1, 4, true) || tlb_array_init(&m->l1i.small, 16, 8, true) ||
		 tlb_array_init(&m->l1i.large, 1, 8, true) || tlb_array_init(&m->l1i.huge, 1, 4, true) ||
		 tlb_array_init(&m->l2, 128, 12, false) || tlb_array_init(&m->l2_huge, 4, 4, false);
	if (failed) {
		mmu_destroy(m);
		return error_set(err, -ENOMEM, "mmu: out of memory");
	}
	memset(m->l1d.fast.used, 0xff, sizeof(m->l1d.fast.used));
	memset(m->l1i.fast.used, 0xff, sizeof(m->l1i.fast.used));
	mmu_fast_flush(m);
	return 0;
}

void mmu_destroy(struct mmu *m)
{
	struct tlb_array *all[] = {&m->l1d.small, &m->l1d.large, &m->l1d.huge, &m->l1i.small,
				   &m->l1i.large, &m->l1i.huge,  &m->l2,       &m->l2_huge};

	for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
		tlb_array_destroy(all[i]);
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
	mmu_fast_flush(m);
}

static struct tlb_tags current_tags(const struct mmu *m)
{
	uint32_t pcid = m->regs.cr4 & CR4_PCIDE ? (uint32_t)(m->regs.cr3 & CR3_PCID_MASK) : 0;

	return (struct tlb_tags){(uint32_t)m->regs.vpid << 12 | pcid,
				 m->regs.nested ? m->regs.eptp & EPT_ADDR_MASK : 0};
}

static bool entry_permits(const struct mmu *m, const struct tlb_entry *e, enum access_kind kind,
			  enum access_mode mode)
{
	static const uint16_t ept_need[] = {[ACCESS_READ] = TLB_EPT_R, [ACCESS_WRITE] = TLB_EPT_W,
					    [ACCESS_FETCH] = TLB_EPT_X};

	if (!(e->rights & ept_need[kind]))
		return false;
	if (kind == ACCESS_WRITE && !(e->rights & TLB_D))
		return false;
	return rights_permit(m, e->rights, e->pkey, kind, mode);
}

/*
 * Enters the 4 KiB page of @lin into the host-side lookup if every further access
 * of the kind it is entered for would be an L1 hit that changes nothing.
 */
static void fill_fast(struct mmu *m, struct l1_tlb *l1, struct tlb_array *a, struct tlb_entry *e, uint64_t lin,
		      enum access_mode mode)
{
	uint64_t lin_page = lin & PAGE_MASK;
	uint64_t page = e->page + (lin_page & ((1ull << e->shift) - 1));
	struct fast_entry f = {.rtag = FAST_INVALID, .wtag = FAST_INVALID, .array = a, .entry = e,
			       .generation = e->generation,
			       .addend = (uint64_t)(uintptr_t)m->mem->host + page - lin_page};

	if (!m->fast_path || mode >= MODE_USER_ALIGN || (e->rights & TLB_MMIO))
		return;
	if (l1 == &m->l1i) {
		f.rtag = lin_page;
	} else {
		if (m->data_watch)
			return;
		if (entry_permits(m, e, ACCESS_READ, mode))
			f.rtag = lin_page;
		if (entry_permits(m, e, ACCESS_WRITE, mode) && !m->mem->code_map[page >> PAGE_SHIFT])
			f.wtag = lin_page;
	}
	/* Without an array (no paging) there is nothing to touch. */
	f.any_rtag = a ? f.rtag : FAST_INVALID;
	f.any_wtag = a ? f.wtag : FAST_INVALID;
	fast_fill(l1, &f, lin, mode);
}

struct lookup {
	struct tlb_array *array;
	struct tlb_entry *entry;
};

static bool find_l1(struct l1_tlb *l1, uint64_t lin, struct tlb_tags t, struct lookup *out)
{
	struct { struct tlb_array *a; unsigned shift; } order[] = {{&l1->small, 12}, {&l1->large, 21}, {&l1->huge, 30}};

	for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
		out->array = order[i].a;
		out->entry = tlb_find(order[i].a, lin, order[i].shift, t);
		if (out->entry)
			return true;
	}
	return false;
}

static bool find_l2(struct mmu *m, uint64_t lin, struct tlb_tags t, struct lookup *out)
{
	out->array = &m->l2;
	out->entry = tlb_find(&m->l2, lin, 12, t);
	if (!out->entry)
		out->entry = tlb_find(&m->l2, lin, 21, t);
	if (!out->entry) {
		out->array = &m->l2_huge;
		out->entry = tlb_find(&m->l2_huge, lin, 30, t);
	}
	return out->entry;
}

static struct tlb_array *l1_array(struct l1_tlb *l1, unsigned shift)
{
	return shift == 12 ? &l1->small : shift == 21 ? &l1->large : &l1->huge;
}

static void drop_everywhere(struct mmu *m, uint64_t lin, struct tlb_tags t)
{
	struct lookup f;

	while (find_l1(&m->l1d, lin, t, &f))
		tlb_drop(f.entry);
	while (find_l1(&m->l1i, lin, t, &f))
		tlb_drop(f.entry);
	while (find_l2(m, lin, t, &f))
		tlb_drop(f.entry);
	mmu_fast_flush(m);
}

static void use_entry(struct mmu *m, struct l1_tlb *l1, struct lookup *f, uint64_t lin, enum access_mode mode,
		      struct xlate *out, uint16_t *rights)
{
	struct tlb_entry *e = f->entry;

	out->page = hpa(e->page + (lin & ((1ull << e->shift) - 1) & PAGE_MASK));
	*rights = e->rights;
	fill_fast(m, l1, f->array, e, lin, mode);
}

/* No paging and no EPT: addresses are what they are, nothing is cached. */
static enum xlate_event identity(struct mmu *m, struct l1_tlb *l1, uint64_t lin, enum access_mode mode,
				 struct xlate *out, uint16_t *rights)
{
	struct tlb_entry e = {.page = lin & PAGE_MASK, .shift = 12, .rights = TLB_W | TLB_U | TLB_D | TLB_EPT_RWX};

	if (!machmem_is_ram(m->mem, hpa(lin)))
		e.rights |= TLB_MMIO;
	out->page = hpa(e.page);
	*rights = e.rights;
	fill_fast(m, l1, NULL, &e, lin, mode);
	return XLATE_OK;
}

/* Is the page neither all RAM nor all device? */
static bool is_mixed(const struct mmu *m, const struct tlb_entry *e)
{
	uint64_t bytes = 1ull << e->shift;

	for (unsigned i = 0; e->shift > PAGE_SHIFT && i < m->mem->ranges; i++) {
		const struct machmem_range *r = &m->mem->range[i];

		if (r->base - e->page - 1 < bytes - 1 || r->base + r->bytes - e->page - 1 < bytes - 1)
			return true;
	}
	return false;
}

static enum xlate_event walk_and_enter(struct mmu *m, struct l1_tlb *l1, uint64_t lin, enum access_kind kind,
				       enum access_mode mode, struct tlb_tags t, struct xlate *out, uint16_t *rights)
{
	struct tlb_entry e = {.asid = t.asid, .ep4ta = t.ep4ta};
	struct lookup f;
	enum xlate_event ev;

	ev = mmu_paging(m) ? walk_linear(m, lin, kind, mode, &e, out) : walk_physical(m, lin, kind, out, &e);
	if (ev)
		return ev;
	/* As processors do with pages of mixed memory type: 4 KiB are entered. */
	if (is_mixed(m, &e)) {
		e.shift = PAGE_SHIFT;
		e.tag = lin >> PAGE_SHIFT;
		e.page = out->page.v;
		m->splintered = true;
	}
	if (!machmem_is_ram(m->mem, out->page))
		e.rights |= TLB_MMIO;
	tlb_insert(m, NULL, e.shift == 30 ? &m->l2_huge : &m->l2, &e);
	f.array = l1_array(l1, e.shift);
	f.entry = tlb_insert(m, l1, f.array, &e);
	use_entry(m, l1, &f, lin, mode, out, rights);
	return XLATE_OK;
}

uint8_t *mmu_data_resident(struct mmu *m, uint64_t lin, enum access_kind kind, enum access_mode mode)
{
	const struct fast_entry *fast = &m->l1d.fast.slot[mode][fast_slot(lin)];
	uint64_t fast_tag = kind == ACCESS_WRITE ? fast->wtag : fast->rtag;
	struct lookup f;
	uint64_t page;

	if ((lin & PAGE_MASK) == fast_tag)
		return (uint8_t *)(uintptr_t)(lin + fast->addend);
	if (!m->fast_path || m->data_watch || mode >= MODE_USER_ALIGN || !(mmu_paging(m) || m->regs.nested) ||
	    !find_l1(&m->l1d, lin, current_tags(m), &f) || !entry_permits(m, f.entry, kind, mode))
		return NULL;
	page = f.entry->page + (lin & ((1ull << f.entry->shift) - 1) & PAGE_MASK);
	if (f.entry->rights & TLB_MMIO || (kind == ACCESS_WRITE && m->mem->code_map[page >> PAGE_SHIFT]))
		return NULL;
	tlb_touch(m, &m->l1d, f.array, f.entry);
	fill_fast(m, &m->l1d, f.array, f.entry, lin, mode);
	return (uint8_t *)machmem_ptr(m->mem, hpa(page)) + (lin & ~PAGE_MASK);
}

enum xlate_event mmu_translate(struct mmu *m, gva_t addr, enum access_kind kind, enum access_mode mode,
			       struct xlate *out, uint16_t *rights)
{
	struct l1_tlb *l1 = kind == ACCESS_FETCH ? &m->l1i : &m->l1d;
	uint64_t lin = addr.v;
	struct tlb_tags t;
	struct lookup f;

	if (!mmu_paging(m) && !m->regs.nested)
		return identity(m, l1, lin, mode, out, rights);
	t = current_tags(m);
	if (likely(find_l1(l1, lin, t, &f))) {
		if (likely(entry_permits(m, f.entry, kind, mode))) {
			tlb_touch(m, l1, f.array, f.entry);
			use_entry(m, l1, &f, lin, mode, out, rights);
			return XLATE_OK;
		}
		drop_everywhere(m, lin, t);
	}
	*(kind == ACCESS_FETCH ? &m->stats.l1i_misses : &m->stats.l1d_misses) += 1;
	if (find_l2(m, lin, t, &f)) {
		if (entry_permits(m, f.entry, kind, mode)) {
			*(kind == ACCESS_FETCH ? &m->stats.l2i_hits : &m->stats.l2d_hits) += 1;
			tlb_touch(m, NULL, f.array, f.entry);
			struct tlb_array *a = l1_array(l1, f.entry->shift);

			f.entry = tlb_insert(m, l1, a, f.entry);
			f.array = a;
			use_entry(m, l1, &f, lin, mode, out, rights);
			return XLATE_OK;
		}
		drop_everywhere(m, lin, t);
	}
	*(kind == ACCESS_FETCH ? &m->stats.l2i_misses : &m->stats.l2d_misses) += 1;
	return walk_and_enter(m, l1, lin, kind, mode, t, out, rights);
}

enum xlate_event mmu_translate_gpa(struct mmu *m, gpa_t a, enum access_kind kind, struct xlate *out)
{
	struct tlb_entry e;

	return walk_physical(m, a.v, kind, out, &e);
}

/* ---- invalidations ---- */

/* Which entries an invalidation drops. */
struct drop_rule {
	bool any_vpid, any_pcid, keep_globals;
	uint16_t vpid, pcid;
	bool by_page, by_ept;
	bool whole_page; /* every entry of the guest's page, where by_page means the one that holds lin */
	uint64_t lin, ep4ta;
};

static bool rule_drops(const struct drop_rule *r, const struct tlb_entry *e)
{
	if (r->by_ept && e->ep4ta != r->ep4ta)
		return false;
	if (!r->any_vpid && e->asid >> 12 != r->vpid)
		return false;
	if (r->keep_globals && (e->rights & TLB_G))
		return false;
	if (!r->any_pcid && (e->asid & 0xfff) != r->pcid && !(r->by_page && !r->keep_globals && (e->rights & TLB_G)))
		return false;
	if (r->whole_page && e->guest_shift > e->shift)
		return r->lin >> e->guest_shift == e->tag >> (e->guest_shift - e->shift);
	return !r->by_page || r->lin >> e->shift == e->tag;
}

static void drop_array(struct tlb_array *a, const struct drop_rule *r)
{
	for (uint32_t i = 0; i < a->sets * a->ways; i++) {
		struct tlb_entry *e = &a->entry[i];

		if (e->tag != TLB_INVALID && rule_drops(r, e))
			tlb_drop(e);
	}
}

static void drop_all(struct mmu *m, const struct drop_rule *r)
{
	struct tlb_array *all[] = {&m->l1d.small, &m->l1d.large, &m->l1d.huge, &m->l1i.small,
				   &m->l1i.large, &m->l1i.huge,  &m->l2,       &m->l2_huge};

	for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
		drop_array(all[i], r);
	mmu_fast_flush(m);
}

static void drop_set(struct tlb_array *a, uint64_t lin, unsigned shift, const struct drop_rule *r)
{
	struct tlb_entry *e = &a->entry[(size_t)((lin >> shift) & (a->sets - 1)) * a->ways];

	for (uint32_t w = 0; w < a->ways; w++)
		if (e[w].tag != TLB_INVALID && e[w].shift == shift && rule_drops(r, &e[w]))
			tlb_drop(&e[w]);
}

/* A rule about one page concerns one set of each array, unless parts of the page may stand in others. */
static void drop_page(struct mmu *m, const struct drop_rule *r)
{
	struct l1_tlb *l1[] = {&m->l1d, &m->l1i};

	if (r->whole_page && m->splintered) {
		drop_all(m, r);
		return;
	}
	for (unsigned i = 0; i < 2; i++) {
		drop_set(&l1[i]->small, r->lin, 12, r);
		drop_set(&l1[i]->large, r->lin, 21, r);
		drop_set(&l1[i]->huge, r->lin, 30, r);
	}
	drop_set(&m->l2, r->lin, 12, r);
	drop_set(&m->l2, r->lin, 21, r);
	drop_set(&m->l2_huge, r->lin, 30, r);
	mmu_fast_flush(m);
}

static uint16_t current_pcid(const struct mmu *m) { return (uint16_t)(current_tags(m).asid & 0xfff); }

void mmu_flush_page(struct mmu *m, gva_t addr)
{
	drop_page(m, &(struct drop_rule){.vpid = m->regs.vpid, .pcid = current_pcid(m), .by_page = true,
					 .whole_page = true, .lin = addr.v});
}

void mmu_flush_pcid_page(struct mmu *m, uint16_t pcid, gva_t addr)
{
	drop_page(m, &(struct drop_rule){.vpid = m->regs.vpid, .pcid = pcid, .by_page = true, .whole_page = true,
				    .keep_globals = true, .lin = addr.v});
}

void mmu_flush_pcid(struct mmu *m, uint16_t pcid)
{
	drop_all(m, &(struct drop_rule){.vpid = m->regs.vpid, .pcid = pcid, .keep_globals = true});
}

void mmu_flush_nonglobal(struct mmu *m)
{
	drop_all(m, &(struct drop_rule){.vpid = m->regs.vpid, .any_pcid = true, .keep_globals = true});
}

void mmu_flush_vpid_all(struct mmu *m, uint16_t vpid)
{
	drop_all(m, &(struct drop_rule){.vpid = vpid, .any_pcid = true});
}

void mmu_flush_vpid_keep_globals(struct mmu *m, uint16_t vpid)
{
	drop_all(m, &(struct drop_rule){.vpid = vpid, .any_pcid = true, .keep_globals = true});
}

void mmu_flush_vpid_page(struct mmu *m, uint16_t vpid, gva_t addr)
{
	drop_page(m, &(struct drop_rule){.vpid = vpid, .any_pcid = true, .by_page = true, .whole_page = true,
				    .lin = addr.v});
}

void mmu_flush_all_vpids(struct mmu *m)
{
	/* VPID 0 is not a tag of software: INVVPID 2 leaves it alone, but may drop it. */
	drop_all(m, &(struct drop_rule){.any_vpid = true, .any_pcid = true});
}

void mmu_flush_ept(struct mmu *m, uint64_t eptp, bool all)
{
	struct drop_rule r = {.any_vpid = true, .any_pcid = true, .by_ept = !all, .ep4ta = eptp & EPT_ADDR_MASK};

	drop_all(m, &r);
}

void mmu_flush_ept_gva(struct mmu *m, gva_t addr)
{
	drop_page(m, &(struct drop_rule){.vpid = m->regs.vpid, .pcid = current_pcid(m), .by_page = true,
					 .lin = addr.v});
}
