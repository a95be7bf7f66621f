/*
 * How many references walks make: without caches in every paging mode, and with paging-structure
 * caches of both organisations in sequences whose counts are derived in comments. There are no TLBs
 * here: every access walks.
 */
#include "rig.h"

#define TO RIG_TABLES
#define AT(pml5, pml4, pdpt, pd, pt) \
	((uint64_t)(pml5) << 48 | (uint64_t)(pml4) << 39 | (uint64_t)(pdpt) << 30 | (uint64_t)(pd) << 21 | \
	 (uint64_t)(pt) << 12)

#define assert_refs(r, lin, n) assert_int_equal(rig_refs(r, lin), n)

static void map4k(struct rig *r, uint64_t lin) { rig_map(r, lin, 12, TO | RIG_LEAF); }

/* ---- without caches ---- */

/*
 * A walk of g guest levels over h of EPT: each guest entry costs an EPT walk and itself, the final address
 * one more EPT walk: g * (h + 1) + h. A page at a higher level makes g or h smaller by one or two.
 */
struct walk_case {
	enum rig_paging paging;
	unsigned shift;                 /* of the guest's page */
	unsigned ept_levels, ept_shift; /* 0: none */
	uint64_t refs, guest;           /* all; those to guest tables */
};

static const struct walk_case walk_cases[] = {
	{RIG_4LEVEL, 12, 0, 0, 4, 4}, {RIG_4LEVEL, 21, 0, 0, 3, 3}, {RIG_4LEVEL, 30, 0, 0, 2, 2},
	{RIG_5LEVEL, 12, 0, 0, 5, 5}, {RIG_5LEVEL, 21, 0, 0, 4, 4}, {RIG_5LEVEL, 30, 0, 0, 3, 3},
	{RIG_PAE, 12, 0, 0, 2, 2}, {RIG_PAE, 21, 0, 0, 1, 1}, /* PDPTEs are registers */
	{RIG_32BIT, 12, 0, 0, 2, 2}, {RIG_32BIT, 22, 0, 0, 1, 1},
	/* 4 KiB on the host */
	{RIG_4LEVEL, 12, 4, 12, 24, 4}, {RIG_4LEVEL, 21, 4, 12, 19, 3}, {RIG_4LEVEL, 30, 4, 12, 14, 2},
	{RIG_5LEVEL, 12, 4, 12, 29, 5}, {RIG_5LEVEL, 21, 4, 12, 24, 4}, {RIG_5LEVEL, 30, 4, 12, 19, 3},
	{RIG_PAE, 12, 4, 12, 14, 2}, {RIG_PAE, 21, 4, 12, 9, 1}, {RIG_32BIT, 12, 4, 12, 14, 2},
	{RIG_32BIT, 22, 4, 12, 9, 1}, {RIG_UNPAGED, 12, 4, 12, 4, 0},
	/* 2 MiB on the host */
	{RIG_4LEVEL, 12, 4, 21, 19, 4}, {RIG_4LEVEL, 21, 4, 21, 15, 3}, {RIG_4LEVEL, 30, 4, 21, 11, 2},
	{RIG_5LEVEL, 12, 4, 21, 23, 5}, {RIG_PAE, 12, 4, 21, 11, 2}, {RIG_PAE, 21, 4, 21, 7, 1},
	{RIG_32BIT, 12, 4, 21, 11, 2}, {RIG_32BIT, 22, 4, 21, 7, 1}, {RIG_UNPAGED, 12, 4, 21, 3, 0},
	/* 1 GiB on the host */
	{RIG_4LEVEL, 12, 4, 30, 14, 4}, {RIG_4LEVEL, 21, 4, 30, 11, 3}, {RIG_4LEVEL, 30, 4, 30, 8, 2},
	{RIG_5LEVEL, 12, 4, 30, 17, 5}, {RIG_PAE, 12, 4, 30, 8, 2}, {RIG_PAE, 21, 4, 30, 5, 1},
	{RIG_32BIT, 12, 4, 30, 8, 2}, {RIG_32BIT, 22, 4, 30, 5, 1}, {RIG_UNPAGED, 12, 4, 30, 2, 0},
	/* five levels of EPT */
	{RIG_5LEVEL, 12, 5, 12, 35, 5}, {RIG_4LEVEL, 12, 5, 12, 29, 4}, {RIG_5LEVEL, 21, 5, 21, 24, 4},
	{RIG_5LEVEL, 30, 5, 30, 15, 3}, {RIG_UNPAGED, 12, 5, 12, 5, 0},
};

static void references(void **state)
{
	struct hw hw = rig_hw();

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(walk_cases); i++) {
		const struct walk_case *c = &walk_cases[i];
		uint64_t lin = c->paging == RIG_UNPAGED ? TO : 0x40000000 + (c->shift == 12 ? 0 : TO);
		struct mmu_stats s;
		struct rig r;

		rig_begin(&r, &hw);
		rig_set_paging(&r, c->paging);
		if (c->paging != RIG_UNPAGED) /* large pages begin at guest-physical 0 */
			rig_map(&r, c->shift == 12 ? lin : 0x40000000 + (TO & ~((1ull << c->shift) - 1)), c->shift,
				(c->shift == 12 ? TO : TO & ~((1ull << c->shift) - 1)) | RIG_LEAF);
		if (c->ept_levels)
			rig_set_ept(&r, rig_ept(&r, c->ept_shift, c->ept_levels));
		assert_int_equal(rig_page(&r, lin, ACCESS_READ), TO);
		s = rig_counted(&r);
		assert_int_equal(s.walks, 1);
		assert_int_equal(s.refs, c->refs);
		assert_int_equal(s.by_refs[c->refs], 1);
		assert_int_equal(s.stage_refs[STAGE_GUEST], c->guest);
		assert_int_equal(s.stage_refs[STAGE_HOST], c->refs - c->guest);
		assert_int_equal(s.ref_hits[HW_MEMORY], c->refs);
		assert_int_equal(s.walk_cache_misses[STAGE_GUEST] + s.walk_cache_misses[STAGE_HOST], 0);
		rig_end(&r);
	}
}

/* ---- split caches ---- */

static struct hw split_hw(uint32_t pml5e, uint32_t pml4e, uint32_t pdpte, uint32_t pde)
{
	struct hw hw = rig_hw();

	hw.walk_caches = HW_WALK_SPLIT;
	hw.guest[5] = rig_array(pml5e, pml5e);
	hw.guest[4] = rig_array(pml4e, pml4e);
	hw.guest[3] = rig_array(pdpte, pdpte);
	hw.guest[2] = rig_array(pde, pde);
	return hw;
}

static void split_longest_prefix(void **state)
{
	struct hw hw = split_hw(0, 4, 4, 4);
	struct mmu_stats s;
	struct rig r;

	(void)state;
	rig_begin(&r, &hw);
	map4k(&r, AT(0, 0, 1, 2, 3));
	map4k(&r, AT(0, 0, 1, 2, 4));
	map4k(&r, AT(0, 0, 1, 5, 3));
	map4k(&r, AT(0, 0, 6, 2, 3));
	map4k(&r, AT(0, 7, 1, 2, 3));
	assert_refs(&r, AT(0, 0, 1, 2, 3), 4); /* cold: PML4E, PDPTE, PDE, PTE; the first three are kept */
	assert_refs(&r, AT(0, 0, 1, 2, 3), 1); /* the PDE is known: PTE */
	assert_refs(&r, AT(0, 0, 1, 2, 4), 1); /* another page of the same 2 MiB: the same */
	assert_refs(&r, AT(0, 0, 1, 5, 3), 2); /* the same GiB: the PDPTE is known: PDE, PTE */
	assert_refs(&r, AT(0, 0, 6, 2, 3), 3); /* the same 512 GiB: PDPTE, PDE, PTE */
	assert_refs(&r, AT(0, 7, 1, 2, 3), 4); /* nothing in common */
	assert_refs(&r, AT(0, 0, 1, 5, 3), 1); /* its PDE has been kept on the way */
	s = rig_counted(&r);
	assert_int_equal(s.walk_cache_misses[STAGE_GUEST], 2);
	assert_int_equal(s.walk_cache_hits[STAGE_GUEST][2], 3);
	assert_int_equal(s.walk_cache_hits[STAGE_GUEST][3], 1);
	assert_int_equal(s.walk_cache_hits[STAGE_GUEST][4], 1);
	assert_int_equal(s.repeated, 0);
	rig_end(&r);
}

static void split_five_levels(void **state)
{
	struct hw hw = split_hw(2, 2, 0, 0);
	struct rig r;

	(void)state;
	rig_begin(&r, &hw);
	rig_set_paging(&r, RIG_5LEVEL);
	map4k(&r, AT(0, 0, 1, 2, 3));
	map4k(&r, AT(0, 0, 1, 2, 4));
	map4k(&r, AT(0, 7, 1, 2, 3));
	map4k(&r, AT(1, 0, 1, 2, 3));
	assert_refs(&r, AT(0, 0, 1, 2, 3), 5);
	assert_refs(&r, AT(0, 0, 1, 2, 4), 3); /* no caches of PDPTEs and PDEs: PDPTE, PDE, PTE */
	assert_refs(&r, AT(0, 7, 1, 2, 3), 4); /* the PML5E is known */
	assert_refs(&r, AT(1, 0, 1, 2, 3), 5);
	rig_end(&r);
}

/* Pages are never in a paging-structure cache. */
static void split_holds_no_pages(void **state)
{
	struct hw hw = split_hw(0, 4, 4, 4);
	struct rig r;

	(void)state;
	rig_begin(&r, &hw);
	rig_map(&r, AT(0, 0, 1, 2, 0), 21, 0x2000000 | RIG_LEAF);
	rig_map(&r, AT(0, 0, 2, 0, 0), 30, 0x40000000 | RIG_LEAF);
	assert_refs(&r, AT(0, 0, 1, 2, 0), 3);
	assert_refs(&r, AT(0, 0, 1, 2, 9), 1); /* by the PDPTE: the PDE, again */
	assert_refs(&r, AT(0, 0, 1, 2, 9), 1);
	assert_refs(&r, AT(0, 0, 2, 9, 9), 1); /* by the PML4E: the PDPTE */
	assert_refs(&r, AT(0, 0, 2, 9, 9), 1);
	assert_int_equal(rig_counted(&r).walk_cache_hits[STAGE_GUEST][2], 0);
	rig_end(&r);
}

static void split_small_modes(void **state)
{
	struct hw hw = split_hw(0, 0, 0, 4);
	struct rig r;

	(void)state;
	rig_begin(&r, &hw);
	rig_set_paging(&r, RIG_PAE);
	map4k(&r, AT(0, 0, 1, 2, 3));
	map4k(&r, AT(0, 0, 1, 2, 4));
	assert_refs(&r, AT(0, 0, 1, 2, 3), 2);
	assert_refs(&r, AT(0, 0, 1, 2, 4), 1);
	rig_set_paging(&r, RIG_32BIT); /* what PAE paging left does not count */
	map4k(&r, AT(0, 0, 1, 2, 3));
	map4k(&r, AT(0, 0, 1, 3, 3)); /* the same 4 MiB */
	map4k(&r, AT(0, 0, 1, 4, 3));
	assert_refs(&r, AT(0, 0, 1, 2, 3), 2);
	assert_refs(&r, AT(0, 0, 1, 3, 3), 1);
	assert_refs(&r, AT(0, 0, 1, 4, 3), 2);
	rig_end(&r);
}

static void split_is_lru(void **state)
{
	struct hw hw = split_hw(0, 0, 0, 2);
	struct rig r;

	(void)state;
	rig_begin(&r, &hw);
	for (unsigned i = 0; i < 4; i++)
		map4k(&r, AT(0, 0, 0, i, 0));
	assert_refs(&r, AT(0, 0, 0, 0, 0), 4); /* 0 */
	assert_refs(&r, AT(0, 0, 0, 1, 0), 4); /* 1 0 */
	assert_refs(&r, AT(0, 0, 0, 0, 0), 1); /* 0 1 */
	assert_refs(&r, AT(0, 0, 0, 2, 0), 4); /* 2 0 */
	assert_refs(&r, AT(0, 0, 0, 0, 0), 1); /* 0 2 */
	assert_refs(&r, AT(0, 0, 0, 1, 0), 4); /* 1 0 */
	assert_refs(&r, AT(0, 0, 0, 2, 0), 4); /* 2 1 */
	assert_refs(&r, AT(0, 0, 0, 0, 0), 4); /* 0 2 */
	assert_refs(&r, AT(0, 0, 0, 2, 0), 1);
	rig_end(&r);

	hw.guest[2] = rig_array(2, 1); /* two sets: by the lowest bit of the prefix */
	rig_begin(&r, &hw);
	for (unsigned i = 0; i < 4; i++)
		map4k(&r, AT(0, 0, 0, i, 0));
	assert_refs(&r, AT(0, 0, 0, 0, 0), 4);
	assert_refs(&r, AT(0, 0, 0, 1, 0), 4);
	assert_refs(&r, AT(0, 0, 0, 2, 0), 4); /* pushes out 0 */
	assert_refs(&r, AT(0, 0, 0, 1, 0), 1);
	assert_refs(&r, AT(0, 0, 0, 0, 0), 4);
	rig_end(&r);
}

static void split_is_tagged(void **state)
{
	struct hw hw = split_hw(0, 0, 0, 8);
	struct rig r;

	(void)state;
	rig_begin(&r, &hw);
	map4k(&r, AT(0, 0, 0, 0, 0));
	rig_set_pcid(&r, 1);
	assert_refs(&r, 0, 4);
	rig_set_pcid(&r, 2);
	assert_refs(&r, 0, 4);
	rig_set_vpid(&r, 1);
	assert_refs(&r, 0, 4);
	rig_set_pcid(&r, 1);
	assert_refs(&r, 0, 4);
	rig_set_vpid(&r, 0);
	assert_refs(&r, 0, 1);
	rig_set_pcid(&r, 2);
	assert_refs(&r, 0, 1);
	rig_end(&r);
}

/* ---- unified cache ---- */

static struct hw unified_hw(uint32_t entries)
{
	struct hw hw = rig_hw();

	hw.walk_caches = HW_WALK_UNIFIED;
	hw.unified = rig_array(entries, entries);
	hw.unified_guest = hw.unified_host = true;
	return hw;
}

static void unified_saves_references(void **state)
{
	struct hw hw = unified_hw(16);
	struct mmu_stats s;
	struct rig r;

	(void)state;
	rig_begin(&r, &hw);
	map4k(&r, AT(0, 0, 1, 2, 3));
	map4k(&r, AT(0, 0, 1, 2, 4));
	map4k(&r, AT(0, 0, 1, 5, 3));
	map4k(&r, AT(0, 0, 6, 2, 3));
	map4k(&r, AT(0, 7, 1, 2, 3));
	/* Every level is gone through; the entries above the PTE that are held cost nothing. */
	assert_refs(&r, AT(0, 0, 1, 2, 3), 4); /* 3 misses */
	assert_refs(&r, AT(0, 0, 1, 2, 4), 1); /* 3 hits: levels 4, 3, 2 */
	assert_refs(&r, AT(0, 0, 1, 5, 3), 2); /* 2 hits, 1 miss */
	assert_refs(&r, AT(0, 0, 6, 2, 3), 3); /* 1 hit, 2 misses */
	assert_refs(&r, AT(0, 7, 1, 2, 3), 4); /* 3 misses */
	s = rig_counted(&r);
	assert_int_equal(s.walk_cache_misses[STAGE_GUEST], 9);
	assert_int_equal(s.walk_cache_hits[STAGE_GUEST][4], 3);
	assert_int_equal(s.walk_cache_hits[STAGE_GUEST][3], 2);
	assert_int_equal(s.walk_cache_hits[STAGE_GUEST][2], 1);
	assert_int_equal(s.walk_cache_hits[STAGE_GUEST][1], 0);
	rig_end(&r);
}

static void unified_is_lru(void **state)
{
	struct hw hw = unified_hw(3);
	struct rig r;

	(void)state;
	rig_begin(&r, &hw);
	map4k(&r, AT(0, 0, 0, 0, 0));
	map4k(&r, AT(0, 0, 0, 1, 0));
	map4k(&r, AT(0, 0, 1, 0, 0));
	assert_refs(&r, AT(0, 0, 0, 0, 0), 4); /* PML4E, PDPTE 0, PDE 0.0; the last is the most recent */
	assert_refs(&r, AT(0, 0, 0, 1, 0), 2); /* hits PML4E, PDPTE 0: so PDE 0.1 replaces PDE 0.0 */
	assert_refs(&r, AT(0, 0, 0, 0, 0), 2); /* and the other way round */
	assert_refs(&r, AT(0, 0, 1, 0, 0), 3); /* hits PML4E; PDPTE 1 replaces PDPTE 0, PDE 1.0 PDE 0.0 */
	assert_refs(&r, AT(0, 0, 1, 0, 0), 1);
	assert_refs(&r, AT(0, 0, 0, 0, 0), 3);
	rig_end(&r);
}

static void unified_without_guest(void **state)
{
	struct hw hw = unified_hw(16);
	struct rig r;

	(void)state;
	hw.unified_guest = false;
	rig_begin(&r, &hw);
	map4k(&r, 0);
	assert_refs(&r, 0, 4);
	assert_refs(&r, 0, 4);
	assert_int_equal(rig_counted(&r).walk_cache_misses[STAGE_GUEST], 0);
	rig_end(&r);
}

/* ---- what is stale ---- */

/* Two page tables for the same 2 MiB: the PDE names the first, later the second. */
struct two_tables {
	struct rig r;
	uint64_t pde, old_pt, new_pt;
};
#define HERE AT(0, 0, 1, 2, 3)
#define ELSEWHERE AT(0, 0, 1, 9, 9)

static void two_tables_begin(struct two_tables *t, const struct hw *hw)
{
	rig_begin(&t->r, hw);
	map4k(&t->r, HERE);
	map4k(&t->r, ELSEWHERE);
	t->pde = rig_entry(&t->r, HERE, 2);
	t->old_pt = rig_get(&t->r, t->pde) & PTE_ADDR_MASK;
	t->new_pt = rig_new_table(&t->r);
	rig_put(&t->r, t->new_pt + 3 * 8, (TO + 0x9000) | RIG_LEAF);
	rig_refs(&t->r, HERE); /* the PDE is cached */
	rig_put(&t->r, t->pde, t->new_pt | PTE_P | PTE_W | PTE_U | PTE_A);
	rig_counted(&t->r);
}

static void each_kind(void (*test)(struct two_tables *))
{
	struct hw kinds[] = {split_hw(0, 4, 4, 4), split_hw(0, 0, 0, 1), unified_hw(16)};

	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct two_tables t;

		two_tables_begin(&t, &kinds[i]);
		test(&t);
		rig_end(&t.r);
	}
}

static void stale_prefix_used(struct two_tables *t)
{
	assert_int_equal(rig_page(&t->r, HERE, ACCESS_READ), TO);
	mmu_flush_page(&t->r.mmu, gva(ELSEWHERE)); /* INVLPG drops the structures of every address */
	assert_int_equal(rig_page(&t->r, HERE, ACCESS_READ), TO + 0x9000);
}

static void stale_structures_are_used(void **state) { (void)state; each_kind(stale_prefix_used); }

static void stale_prefix_faults(struct two_tables *t)
{
	struct mmu_stats s;

	rig_put(&t->r, t->old_pt + 3 * 8, 0);
	/* By the old table (1): not present. So again from the root (4), where it is mapped. */
	assert_int_equal(rig_page(&t->r, HERE, ACCESS_READ), TO + 0x9000);
	s = rig_counted(&t->r);
	assert_int_equal(s.walks, 1);
	assert_int_equal(s.repeated, 1);
	assert_int_equal(s.refs, 1 + 4);
	/* The second attempt left what it found. */
	assert_int_equal(rig_refs(&t->r, HERE), 1);
	assert_int_equal(rig_page(&t->r, HERE, ACCESS_READ), TO + 0x9000);
}

static void a_stale_fault_is_none(void **state)
{
	struct hw kinds[] = {split_hw(0, 4, 4, 4), unified_hw(16)};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct two_tables t;

		two_tables_begin(&t, &kinds[i]);
		stale_prefix_faults(&t);
		rig_end(&t.r);
	}
}

/* A page fault drops the structures that would be used for its address; and no others. */
static void fault_drops_structures(struct two_tables *t)
{
	struct xlate x;

	rig_put(&t->r, t->old_pt + 3 * 8, 0);
	rig_put(&t->r, t->new_pt + 3 * 8, 0);
	assert_int_equal(rig_try(&t->r, HERE, ACCESS_WRITE, MODE_USER, &x), XLATE_PAGE_FAULT);
	assert_int_equal(x.error_code, PF_W | PF_U);
	/* Both tables map it now; only the second may be used. */
	rig_put(&t->r, t->old_pt + 3 * 8, TO | RIG_LEAF);
	rig_put(&t->r, t->new_pt + 3 * 8, (TO + 0x9000) | RIG_LEAF);
	assert_int_equal(rig_page(&t->r, HERE, ACCESS_READ), TO + 0x9000);
}

static void page_faults_invalidate(void **state) { (void)state; each_kind(fault_drops_structures); }

static void page_faults_keep_the_rest(void **state)
{
	struct hw hw = split_hw(0, 0, 0, 4);
	struct xlate x;
	struct rig r;

	(void)state;
	rig_begin(&r, &hw);
	map4k(&r, HERE);
	map4k(&r, ELSEWHERE);
	rig_refs(&r, HERE);
	rig_refs(&r, ELSEWHERE);
	assert_int_equal(rig_try(&r, HERE + PAGE_SIZE, ACCESS_READ, MODE_SUPER, &x), XLATE_PAGE_FAULT);
	assert_refs(&r, ELSEWHERE, 1);
	assert_refs(&r, HERE, 4);
	rig_end(&r);
}

/* A fault of demand paging is found where the caches lead: they are not stale, and nothing is walked again. */
static void absent_page_is_walked_once(void **state)
{
	struct hw kinds[] = {split_hw(0, 4, 4, 4), unified_hw(16)};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct mmu_stats s;
		struct xlate x;
		struct rig r;

		rig_begin(&r, &kinds[i]);
		map4k(&r, HERE);
		rig_refs(&r, HERE);
		rig_counted(&r);
		assert_int_equal(rig_try(&r, HERE + PAGE_SIZE, ACCESS_WRITE, MODE_SUPER, &x), XLATE_PAGE_FAULT);
		assert_int_equal(x.error_code, PF_W);
		s = rig_counted(&r);
		assert_int_equal(s.repeated, 0);
		assert_int_equal(s.refs, 1);
		rig_end(&r);
	}
}

/* The rights of the levels that are not read count. */
static void rights_of_skipped_levels(void **state)
{
	struct hw kinds[] = {split_hw(0, 4, 4, 4), split_hw(0, 0, 2, 0), unified_hw(16)};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct xlate x;
		struct rig r;
		uint64_t pdpte;

		rig_begin(&r, &kinds[i]);
		map4k(&r, HERE);
		pdpte = rig_entry(&r, HERE, 3);
		rig_put(&r, pdpte, (rig_get(&r, pdpte) & ~(PTE_W | PTE_U)) | PTE_NX);
		rig_refs(&r, HERE);
		rig_counted(&r);
		assert_int_equal(rig_try(&r, HERE, ACCESS_WRITE, MODE_SUPER, &x), XLATE_PAGE_FAULT);
		assert_int_equal(x.error_code, PF_P | PF_W);
		assert_int_equal(rig_counted(&r).repeated, 0); /* the tables say so, too */
		rig_refs(&r, HERE);
		assert_int_equal(rig_try(&r, HERE, ACCESS_READ, MODE_USER, &x), XLATE_PAGE_FAULT);
		assert_int_equal(x.error_code, PF_P | PF_U);
		rig_refs(&r, HERE);
		assert_int_equal(rig_try(&r, HERE, ACCESS_FETCH, MODE_SUPER, &x), XLATE_PAGE_FAULT);
		assert_int_equal(x.error_code, PF_P | PF_I);
		rig_end(&r);
	}
}

/* Only what has its accessed flag is cached: so the flag is set once, and not again behind software's back. */
static void accessed_flags(void **state)
{
	struct hw kinds[] = {split_hw(0, 4, 4, 4), unified_hw(16)};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct rig r;
		uint64_t pde;

		rig_begin(&r, &kinds[i]);
		map4k(&r, HERE);
		pde = rig_entry(&r, HERE, 2);
		rig_put(&r, pde, rig_get(&r, pde) & ~PTE_A);
		rig_refs(&r, HERE);
		assert_int_equal(rig_get(&r, pde) & PTE_A, PTE_A);
		rig_put(&r, pde, rig_get(&r, pde) & ~PTE_A);
		assert_refs(&r, HERE, 1);
		assert_int_equal(rig_get(&r, pde) & PTE_A, 0);
		mmu_flush_page(&r.mmu, gva(HERE));
		assert_refs(&r, HERE, 4);
		assert_int_equal(rig_get(&r, pde) & PTE_A, PTE_A);
		rig_end(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(references),
		cmocka_unit_test(split_longest_prefix),
		cmocka_unit_test(split_five_levels),
		cmocka_unit_test(split_holds_no_pages),
		cmocka_unit_test(split_small_modes),
		cmocka_unit_test(split_is_lru),
		cmocka_unit_test(split_is_tagged),
		cmocka_unit_test(unified_saves_references),
		cmocka_unit_test(unified_is_lru),
		cmocka_unit_test(unified_without_guest),
		cmocka_unit_test(stale_structures_are_used),
		cmocka_unit_test(a_stale_fault_is_none),
		cmocka_unit_test(page_faults_invalidate),
		cmocka_unit_test(page_faults_keep_the_rest),
		cmocka_unit_test(absent_page_is_walked_once),
		cmocka_unit_test(rights_of_skipped_levels),
		cmocka_unit_test(accessed_flags),
	};

	return cmocka_run_group_tests_name("walk_cache", tests, NULL, NULL);
}
