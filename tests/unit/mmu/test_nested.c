/*
 * Two-dimensional walks with caches in either dimension, and the nested TLB: counts of
 * sequences, derived in comments. No TLBs: every access walks.
 *
 * In all of them tables stand in the first 2 MiB of guest-physical memory and pages at 16 MiB:
 * other 2 MiB, the same GiB. Without caches the walk makes 24 references (4 KiB on both sides):
 * 4 for the EPT walk of each guest entry's address, 4 for the entries, 4 for the page's.
 */
#include "rig.h"

#define TO RIG_TABLES
#define AT(pml4, pdpt, pd, pt) \
	((uint64_t)(pml4) << 39 | (uint64_t)(pdpt) << 30 | (uint64_t)(pd) << 21 | (uint64_t)(pt) << 12)
#define FIRST AT(0, 1, 2, 3)
#define SAME_2M AT(0, 1, 2, 4)
#define SAME_1G AT(0, 1, 5, 3)
#define SAME_512G AT(0, 6, 2, 3)
#define OTHER AT(7, 1, 2, 3)

#define assert_refs(r, lin, n) assert_int_equal(rig_refs(r, lin), n)

static const unsigned all_levels[] = {2, 3, 4, 5};

static void roomy(struct hw_array a[HW_LEVELS])
{
	for (unsigned i = 0; i < ARRAY_SIZE(all_levels); i++)
		a[all_levels[i]] = rig_array(16, 16);
}

static void begin(struct rig *r, const struct hw *hw, unsigned ept_shift)
{
	static const uint64_t mapped[] = {FIRST, SAME_2M, SAME_1G, SAME_512G, OTHER};

	rig_begin(r, hw);
	for (unsigned i = 0; i < ARRAY_SIZE(mapped); i++)
		rig_map(r, mapped[i], 12, (TO + i * PAGE_SIZE) | RIG_LEAF);
	rig_set_ept(r, rig_ept(r, ept_shift, 4));
	assert_true(r->next <= SIZE_2M);
}

/* ---- nested TLB ---- */

static void nested_tlb_alone(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_stats s;
	struct rig r;

	(void)state;
	hw.nested_tlb = rig_array(16, 16);
	begin(&r, &hw, 12);
	/* Each hit removes the EPT walk of one table page: 4 references. */
	assert_refs(&r, FIRST, 24);              /* 4 table pages, none known */
	assert_refs(&r, FIRST, 24 - 4 * 4);      /* all known: 4 entries, and 4 for the page, which is never held */
	assert_refs(&r, SAME_2M, 24 - 4 * 4);    /* the same 4 tables */
	assert_refs(&r, SAME_1G, 24 - 3 * 4);    /* its page table is another */
	assert_refs(&r, SAME_512G, 24 - 2 * 4);  /* and its page directory */
	assert_refs(&r, OTHER, 24 - 1 * 4);      /* only the root */
	s = rig_counted(&r);
	assert_int_equal(s.nested_tlb_misses, 4 + 0 + 0 + 1 + 2 + 3);
	assert_int_equal(s.nested_tlb_hits, 0 + 4 + 4 + 3 + 2 + 1);
	rig_end(&r);

	begin(&r, &hw, 21); /* on 2 MiB an EPT walk has 3 references: 4 * (3 + 1) + 3 = 19 */
	assert_refs(&r, FIRST, 19);
	assert_refs(&r, SAME_2M, 19 - 4 * 3);
	rig_end(&r);
}

static void nested_tlb_is_lru(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	hw.nested_tlb = rig_array(3, 3);
	begin(&r, &hw, 12);
	/* Four tables go round in three ways: each has gone when it is wanted. */
	assert_refs(&r, FIRST, 24);
	assert_refs(&r, FIRST, 24);
	rig_end(&r);

	hw.nested_tlb = rig_array(4, 4);
	begin(&r, &hw, 12);
	assert_refs(&r, FIRST, 24);          /* PT PD PDPT PML4, the most recent first */
	assert_refs(&r, SAME_1G, 24 - 3 * 4); /* its table replaces FIRST's: PT' PD PDPT PML4 */
	assert_refs(&r, SAME_1G, 24 - 4 * 4);
	assert_refs(&r, FIRST, 24 - 3 * 4);
	rig_end(&r);
}

/* Only the walker's own accesses are looked up there: not a page that is read and happens to be a table. */
static void nested_tlb_is_for_tables(void **state)
{
	struct hw hw = rig_hw();
	struct xlate x;
	struct rig r;

	(void)state;
	hw.nested_tlb = rig_array(16, 16);
	begin(&r, &hw, 12);
	rig_map(&r, SAME_2M, 12, (r.mmu.regs.cr3 & PAGE_MASK) | RIG_LEAF);
	assert_refs(&r, FIRST, 24);
	assert_refs(&r, SAME_2M, 4 + 4);
	rig_counted(&r);
	assert_int_equal(mmu_translate_gpa(&r.mmu, gpa(r.mmu.regs.cr3), ACCESS_READ, &x), XLATE_OK);
	assert_int_equal(rig_counted(&r).refs, 4);
	rig_end(&r);
}

/* ---- split caches ---- */

static void split_host(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_stats s;
	struct rig r;

	(void)state;
	hw.walk_caches = HW_WALK_SPLIT;
	roomy(hw.host);
	begin(&r, &hw, 12);
	/*
	 * PML4: EPT walk 4 (nothing known), entry 1. Then EPT's PDE for the tables' 2 MiB is known: 1 + 1 for each
	 * of the other three. The page is in other 2 MiB of the same GiB: EPT's PDPTE is known: 2.
	 */
	assert_refs(&r, FIRST, (4 + 1) + 3 * (1 + 1) + 2);
	s = rig_counted(&r);
	assert_int_equal(s.walk_cache_misses[STAGE_HOST], 1);
	assert_int_equal(s.walk_cache_hits[STAGE_HOST][2], 3);
	assert_int_equal(s.walk_cache_hits[STAGE_HOST][3], 1);
	assert_int_equal(s.stage_refs[STAGE_GUEST], 4);
	/* All five translations begin at an EPT page table. */
	assert_refs(&r, FIRST, 4 * (1 + 1) + 1);
	assert_refs(&r, OTHER, 4 * (1 + 1) + 1);
	rig_end(&r);
}

static void split_both(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_stats s;
	struct rig r;

	(void)state;
	hw.walk_caches = HW_WALK_SPLIT;
	roomy(hw.guest);
	roomy(hw.host);
	begin(&r, &hw, 12);
	assert_refs(&r, FIRST, (4 + 1) + 3 * (1 + 1) + 2); /* as with host caches alone */
	rig_counted(&r);
	/* The guest's PDE is known with its table's machine address: PTE 1, the page's EPT PTE 1. */
	assert_refs(&r, SAME_2M, 1 + 1);
	/* The PDPTE is known: PDE 1; its page table's address 1, PTE 1; the page 1. */
	assert_refs(&r, SAME_1G, 1 + (1 + 1) + 1);
	/* The PML4E is known: PDPTE 1; 1 + 1, 1 + 1; 1. */
	assert_refs(&r, SAME_512G, 1 + 2 * (1 + 1) + 1);
	/* Nothing is: 4 * (1 + 1), 1. */
	assert_refs(&r, OTHER, 4 * (1 + 1) + 1);
	s = rig_counted(&r);
	assert_int_equal(s.walk_cache_hits[STAGE_GUEST][2], 1);
	assert_int_equal(s.walk_cache_hits[STAGE_GUEST][3], 1);
	assert_int_equal(s.walk_cache_hits[STAGE_GUEST][4], 1);
	assert_int_equal(s.walk_cache_misses[STAGE_GUEST], 1);
	assert_int_equal(s.walk_cache_hits[STAGE_HOST][2], 1 + 2 + 3 + 5);
	assert_int_equal(s.walk_cache_misses[STAGE_HOST], 0);
	rig_end(&r);
}

static void split_guest_alone(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	hw.walk_caches = HW_WALK_SPLIT;
	roomy(hw.guest);
	begin(&r, &hw, 12);
	assert_refs(&r, FIRST, 24);
	assert_refs(&r, SAME_2M, 1 + 4);           /* PTE, page */
	assert_refs(&r, SAME_1G, 1 + 5 + 4);       /* PDE; its table 4, PTE; page */
	assert_refs(&r, SAME_512G, 1 + 5 + 5 + 4);
	assert_refs(&r, OTHER, 24);
	rig_end(&r);
}

static void split_guest_and_nested_tlb(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_stats s;
	struct rig r;

	(void)state;
	hw.walk_caches = HW_WALK_SPLIT;
	roomy(hw.guest);
	hw.nested_tlb = rig_array(16, 16);
	begin(&r, &hw, 12);
	assert_refs(&r, FIRST, 24);
	rig_counted(&r);
	assert_refs(&r, SAME_2M, 1 + 4);     /* no table's address is asked for */
	assert_refs(&r, SAME_1G, 1 + 5 + 4); /* one is, and it is new */
	s = rig_counted(&r);
	assert_int_equal(s.nested_tlb_hits, 0);
	assert_int_equal(s.nested_tlb_misses, 1);
	mmu_flush_vpid_all(&r.mmu, 0); /* the guest's prefixes go, EPT's translations stay */
	assert_refs(&r, FIRST, 4 + 4);
	assert_int_equal(rig_counted(&r).nested_tlb_hits, 4);
	rig_end(&r);
}

/* ---- unified cache ---- */

static struct hw unified_hw(bool guest, bool host, bool leaf)
{
	struct hw hw = rig_hw();

	hw.walk_caches = HW_WALK_UNIFIED;
	hw.unified = rig_array(64, 64);
	hw.unified_guest = guest;
	hw.unified_host = host;
	hw.unified_host_leaf = leaf;
	return hw;
}

static void unified_host_and_guest(void **state)
{
	struct hw hw = unified_hw(true, true, false);
	struct mmu_stats s;
	struct rig r;

	(void)state;
	begin(&r, &hw, 12);
	/*
	 * PML4: EPT 4, entry 1. For the other tables EPT's three upper entries hit: its PTE 1, entry 1. The page:
	 * EPT's PML4E and PDPTE hit, PDE and PTE do not.
	 */
	assert_refs(&r, FIRST, (4 + 1) + 3 * (1 + 1) + 2);
	s = rig_counted(&r);
	assert_int_equal(s.walk_cache_hits[STAGE_HOST][4], 4);
	assert_int_equal(s.walk_cache_hits[STAGE_HOST][3], 4);
	assert_int_equal(s.walk_cache_hits[STAGE_HOST][2], 3);
	assert_int_equal(s.walk_cache_misses[STAGE_HOST], 3 + 1);
	assert_int_equal(s.walk_cache_misses[STAGE_GUEST], 3);
	/* Every table's EPT PTE is read, of the guest's entries only the PTE; and EPT's PTE for the page. */
	assert_refs(&r, FIRST, 4 * 1 + 1 + 1);
	assert_refs(&r, SAME_2M, 4 * 1 + 1 + 1);
	/* Here the PDE too. */
	assert_refs(&r, SAME_1G, 4 * 1 + 2 + 1);
	rig_end(&r);
}

static void unified_with_leaves(void **state)
{
	struct hw hw = unified_hw(true, true, true);
	struct rig r;

	(void)state;
	begin(&r, &hw, 12);
	assert_refs(&r, FIRST, (4 + 1) + 3 * (1 + 1) + 2);
	assert_refs(&r, FIRST, 1);       /* the guest's leaf is never held */
	assert_refs(&r, SAME_2M, 1 + 1); /* EPT's PTE for another page */
	/* The PDE; its page table's EPT PTE; the PTE; the page's EPT PTE. */
	assert_refs(&r, SAME_1G, 4);
	rig_end(&r);
}

static void unified_of_one_stage(void **state)
{
	struct hw host = unified_hw(false, true, false), guest = unified_hw(true, false, false);
	struct rig r;

	(void)state;
	begin(&r, &host, 12);
	assert_refs(&r, FIRST, (4 + 1) + 3 * (1 + 1) + 2);
	assert_refs(&r, FIRST, 4 * (1 + 1) + 1);
	rig_end(&r);
	begin(&r, &guest, 12);
	assert_refs(&r, FIRST, 24);
	assert_refs(&r, FIRST, 24 - 3); /* three entries of the guest; their addresses are translated all the same */
	rig_end(&r);
}

/* The walk caches with a nested TLB: what is known of a table's page is not looked for in EPT. */
static void unified_and_nested_tlb(void **state)
{
	struct hw hw = unified_hw(true, true, false);
	struct rig r;

	(void)state;
	hw.nested_tlb = rig_array(16, 16);
	begin(&r, &hw, 12);
	assert_refs(&r, FIRST, (4 + 1) + 3 * (1 + 1) + 2);
	assert_refs(&r, FIRST, 1 + 1);
	assert_refs(&r, SAME_1G, 1 + (1 + 1) + 1);
	rig_end(&r);
}

/* ---- large pages, and EPT's flags ---- */

static void large_host_pages(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	hw.walk_caches = HW_WALK_SPLIT;
	roomy(hw.guest);
	roomy(hw.host);
	begin(&r, &hw, 21);
	/* EPT walks have 3 references and end at the PDE, which is not cached: (3 + 1) + 3 * (1 + 1) + 1. */
	assert_refs(&r, FIRST, 4 + 3 * 2 + 1);
	assert_refs(&r, SAME_2M, 1 + 1);
	rig_end(&r);
}

/* With EPT's accessed and dirty flags a table is written to by being walked; also when EPT is not asked again. */
static void ept_flags(void **state)
{
	struct hw hw = rig_hw();
	uint64_t eptp, table, page;
	struct rig r;

	(void)state;
	hw.walk_caches = HW_WALK_SPLIT;
	roomy(hw.guest);
	roomy(hw.host);
	hw.nested_tlb = rig_array(16, 16);
	begin(&r, &hw, 12);
	eptp = r.mmu.regs.eptp | EPTP_AD;
	rig_set_ept(&r, eptp);
	table = rig_ept_map(&r, eptp, r.mmu.regs.cr3 & PAGE_MASK, 12, (r.mmu.regs.cr3 & PAGE_MASK) | RIG_EPT_LEAF);
	page = rig_ept_map(&r, eptp, TO, 12, TO | RIG_EPT_LEAF);
	rig_refs(&r, FIRST);
	assert_int_equal(rig_get(&r, table) & (EPT_A | EPT_D), EPT_A | EPT_D);
	assert_int_equal(rig_get(&r, page) & (EPT_A | EPT_D), EPT_A);
	rig_page(&r, FIRST, ACCESS_WRITE);
	assert_int_equal(rig_get(&r, page) & (EPT_A | EPT_D), EPT_A | EPT_D);
	rig_end(&r);
}

/* Upper entries get the accessed flag; a cached last entry that is not dirty is no use to a write. */
static void ept_flags_unified(void **state)
{
	struct hw hw = unified_hw(true, true, true);
	uint64_t eptp, upper, page;
	struct rig r;

	(void)state;
	begin(&r, &hw, 12);
	eptp = r.mmu.regs.eptp | EPTP_AD;
	rig_set_ept(&r, eptp);
	upper = rig_get(&r, eptp & EPT_ADDR_MASK);
	assert_int_equal(upper & EPT_A, 0);
	page = rig_ept_map(&r, eptp, TO, 12, TO | RIG_EPT_LEAF);
	rig_refs(&r, FIRST);
	assert_int_equal(rig_get(&r, eptp & EPT_ADDR_MASK), upper | EPT_A);
	assert_int_equal(rig_get(&r, page) & (EPT_A | EPT_D), EPT_A);
	assert_refs(&r, FIRST, 1);
	rig_counted(&r);
	rig_page(&r, FIRST, ACCESS_WRITE); /* the guest's PTE, and EPT's for the page to set its flag */
	assert_int_equal(rig_counted(&r).refs, 2);
	assert_int_equal(rig_get(&r, page) & (EPT_A | EPT_D), EPT_A | EPT_D);
	rig_page(&r, FIRST, ACCESS_WRITE);
	assert_int_equal(rig_counted(&r).refs, 1);
	rig_end(&r);
}

/* ---- stale ---- */

static void ept_changes_need_invept(void **state)
{
	struct hw hw = rig_hw();
	uint64_t eptp, pt;
	struct rig r;

	(void)state;
	hw.nested_tlb = rig_array(16, 16);
	begin(&r, &hw, 12);
	eptp = r.mmu.regs.eptp;
	pt = rig_get(&r, rig_entry(&r, FIRST, 2)) & PTE_ADDR_MASK;
	assert_int_equal(rig_page(&r, FIRST, ACCESS_READ), TO);
	/* The guest's page table moves in machine memory, and its copy maps another page. */
	uint64_t copy = rig_new_table(&r);
	rig_put(&r, copy + 3 * 8, (TO + 0x9000) | RIG_LEAF);
	rig_ept_map(&r, eptp, pt, 12, copy | RIG_EPT_LEAF);
	assert_int_equal(rig_page(&r, FIRST, ACCESS_READ), TO);
	mmu_flush_vpid_all(&r.mmu, 0);
	mmu_flush_page(&r.mmu, gva(FIRST));
	assert_int_equal(rig_page(&r, FIRST, ACCESS_READ), TO); /* no business of theirs */
	mmu_flush_ept(&r.mmu, eptp, false);
	assert_int_equal(rig_page(&r, FIRST, ACCESS_READ), TO + 0x9000);
	rig_end(&r);
}

static void stale_ept_does_not_fault(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_stats s;
	uint64_t eptp, pt;
	struct rig r;

	(void)state;
	hw.nested_tlb = rig_array(16, 16);
	begin(&r, &hw, 12);
	eptp = r.mmu.regs.eptp;
	pt = rig_get(&r, rig_entry(&r, FIRST, 2)) & PTE_ADDR_MASK;
	rig_refs(&r, FIRST);
	uint64_t copy = rig_new_table(&r);
	rig_put(&r, copy + 3 * 8, (TO + 0x9000) | RIG_LEAF);
	rig_ept_map(&r, eptp, pt, 12, copy | RIG_EPT_LEAF);
	rig_put(&r, pt + 3 * 8, 0);
	rig_counted(&r);
	/* By the old table: 4 entries, the last not present. Again: 24. */
	assert_int_equal(rig_page(&r, FIRST, ACCESS_READ), TO + 0x9000);
	s = rig_counted(&r);
	assert_int_equal(s.repeated, 1);
	assert_int_equal(s.refs, 4 + 24);
	assert_int_equal(s.walks, 1);
	rig_end(&r);
}

/*
 * An EPT violation drops the guest-physical mappings of its address: what EPT's structures said of it
 * before must not come back.
 */
static void ept_violations_invalidate(void **state)
{
	struct hw hw = rig_hw();
	uint64_t eptp, pde, old_pt, new_pt;
	struct xlate x;
	struct rig r;

	(void)state;
	hw.walk_caches = HW_WALK_SPLIT;
	roomy(hw.host);
	begin(&r, &hw, 12);
	eptp = r.mmu.regs.eptp;
	rig_refs(&r, FIRST); /* EPT's PDE for 16 MiB is known */
	pde = (rig_get(&r, rig_get(&r, eptp & EPT_ADDR_MASK) & EPT_ADDR_MASK) & EPT_ADDR_MASK) + (TO >> 21) * 8;
	old_pt = rig_get(&r, pde) & EPT_ADDR_MASK;
	new_pt = rig_new_table(&r);
	rig_put(&r, pde, new_pt | 7);
	rig_put(&r, old_pt, 0);
	assert_int_equal(rig_try(&r, FIRST, ACCESS_READ, MODE_SUPER, &x), XLATE_EPT_VIOLATION);
	assert_int_equal(x.gpa.v, TO);
	rig_put(&r, old_pt, (TO + 0x8000) | RIG_EPT_LEAF);
	rig_put(&r, new_pt, (TO + 0x9000) | RIG_EPT_LEAF);
	assert_int_equal(rig_page(&r, FIRST, ACCESS_READ), TO + 0x9000);
	rig_end(&r);
}

/* A table that EPT lets be read but not written: its flags cannot be set, however its address was found. */
static void flags_need_a_writable_table(void **state)
{
	struct hw hws[3] = {rig_hw(), rig_hw(), unified_hw(true, true, true)};
	struct xlate x;
	struct rig r;

	(void)state;
	hws[0].walk_caches = HW_WALK_SPLIT;
	roomy(hws[0].guest);
	hws[1].nested_tlb = rig_array(16, 16);
	for (unsigned i = 0; i < ARRAY_SIZE(hws); i++) {
		uint64_t pt, pte;

		begin(&r, &hws[i], 12);
		pt = rig_get(&r, rig_entry(&r, FIRST, 2)) & PTE_ADDR_MASK;
		pte = rig_entry(&r, FIRST, 1);
		rig_ept_map(&r, r.mmu.regs.eptp, pt, 12, pt | EPT_R | EPT_MT_WB << EPT_MT_SHIFT);
		rig_put(&r, pte, rig_get(&r, pte) & ~PTE_D);
		rig_refs(&r, FIRST);
		assert_int_equal(rig_try(&r, FIRST, ACCESS_WRITE, MODE_SUPER, &x), XLATE_EPT_VIOLATION);
		assert_int_equal(x.gpa.v, pt + 3 * 8);
		assert_int_equal(x.qualification, EPT_VIOL_WRITE | EPT_R << EPT_VIOL_RIGHTS_SHIFT);
		assert_int_equal(rig_get(&r, pte) & PTE_D, 0);
		rig_end(&r);
	}
}

/* ---- the log ---- */

static void the_log_tells_all(void **state)
{
	struct hw hw = rig_hw();
	struct walk_log log;
	struct xlate x;
	struct rig r;
	unsigned refs = 0, cached = 0;

	(void)state;
	hw.walk_caches = HW_WALK_SPLIT;
	roomy(hw.guest);
	roomy(hw.host);
	rig_roomy(&hw);
	begin(&r, &hw, 12);
	assert_int_equal(mmu_translate_logged(&r.mmu, gva(FIRST), ACCESS_READ, MODE_SUPER, &x, &log), XLATE_OK);
	for (unsigned i = 0; i < log.steps; i++) {
		refs += log.step[i].what == STEP_REF;
		cached += log.step[i].what == STEP_WALK_CACHE;
	}
	assert_int_equal(refs, 13); /* as in split_host() */
	assert_int_equal(cached, 4);
	assert_int_equal(log.tlb_level, 0);
	assert_true(log.mapped);
	assert_int_equal(log.page, TO);
	assert_int_equal(rig_counted(&r).refs, 13);
	/* It walks though the TLB holds the page, and says so. */
	assert_int_equal(mmu_translate_logged(&r.mmu, gva(FIRST), ACCESS_READ, MODE_SUPER, &x, &log), XLATE_OK);
	assert_int_equal(log.tlb_level, 1);
	assert_int_equal(log.steps, 4); /* guest's PDE, PTE, EPT's PDE, PTE */
	assert_int_equal(rig_read(&r, FIRST), FROM_L1);
	rig_end(&r);
}

/* ---- who is told of walks ---- */

struct seen {
	unsigned walks, refs;
};

static void see(void *ctx, const struct walk_log *log)
{
	struct seen *s = ctx;

	s->walks++;
	for (unsigned i = 0; i < log->steps; i++)
		s->refs += log->step[i].what == STEP_REF;
}

/* A few accesses, of which the last one faults. Returns what they count; *before: references of those before it. */
static struct mmu_stats some_walks(const struct hw *hw, struct mmu_walks *walks, uint64_t *before)
{
	static const uint64_t order[] = {FIRST, SAME_2M, FIRST, OTHER, SAME_1G, SAME_2M, SAME_512G, FIRST};
	struct mmu_stats s;
	struct xlate x;
	struct rig r;

	begin(&r, hw, 12);
	r.mmu.walks = walks;
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		rig_refs(&r, order[i]);
	*before = r.mmu.stats.refs;
	assert_int_equal(rig_try(&r, AT(9, 9, 9, 9), ACCESS_READ, MODE_SUPER, &x), XLATE_PAGE_FAULT);
	s = r.mmu.stats;
	rig_end(&r);
	return s;
}

static void watched_walks(void **state)
{
	struct hw hw = rig_hw();
	struct seen seen = {0};
	struct mmu_walks walks = {.seen = see, .ctx = &seen};
	struct mmu_stats alone, watched;
	uint64_t before;

	(void)state;
	hw.walk_caches = HW_WALK_SPLIT; /* so that most walks take the shortcut, unless somebody watches */
	roomy(hw.guest);
	roomy(hw.host);
	hw.nested_tlb = rig_array(16, 16);
	alone = some_walks(&hw, NULL, &before);
	watched = some_walks(&hw, &walks, &before);
	assert_memory_equal(&alone, &watched, sizeof(alone));
	assert_int_equal(seen.walks, watched.walks - 1); /* not that which faults */
	assert_int_equal(seen.refs, before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nested_tlb_alone),
		cmocka_unit_test(nested_tlb_is_lru),
		cmocka_unit_test(nested_tlb_is_for_tables),
		cmocka_unit_test(split_host),
		cmocka_unit_test(split_both),
		cmocka_unit_test(split_guest_alone),
		cmocka_unit_test(split_guest_and_nested_tlb),
		cmocka_unit_test(unified_host_and_guest),
		cmocka_unit_test(unified_with_leaves),
		cmocka_unit_test(unified_of_one_stage),
		cmocka_unit_test(unified_and_nested_tlb),
		cmocka_unit_test(large_host_pages),
		cmocka_unit_test(ept_flags),
		cmocka_unit_test(ept_flags_unified),
		cmocka_unit_test(ept_changes_need_invept),
		cmocka_unit_test(stale_ept_does_not_fault),
		cmocka_unit_test(ept_violations_invalidate),
		cmocka_unit_test(flags_need_a_writable_table),
		cmocka_unit_test(the_log_tells_all),
		cmocka_unit_test(watched_walks),
	};

	return cmocka_run_group_tests_name("nested", tests, NULL, NULL);
}
