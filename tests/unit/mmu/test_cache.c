/*
 * The memory hierarchy that references to page tables, and data if asked for, go through:
 * sequences of lines worked out by hand on caches of a few lines.
 */
#include "rig.h"

#define LINE(n) (RIG_TABLES + 64 * (uint64_t)(n)) /* line number a multiple of 0x40000, plus n: set by n */
#define TO RIG_TABLES

static struct hw_cache cache(unsigned sets, unsigned ways) { return (struct hw_cache){64ull * sets * ways, ways, 1}; }

/* Where an access of the processor to that machine address hits. */
static enum hw_place data(struct rig *r, uint64_t at)
{
	struct mmu_stats s;
	unsigned place = HW_L1;

	rig_counted(r);
	mmu_data_access(&r->mmu, at, 8, false);
	s = rig_counted(r);
	while (place < HW_MEMORY && !s.data_hits[place])
		place++;
	assert_int_equal(s.data_hits[place], 1);
	return (enum hw_place)place;
}

static void begin(struct rig *r, const struct hw *hw)
{
	rig_begin(r, hw);
	r->mmu.data_cache = true;
}

static void sets_and_lru(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	hw.cache[HW_L1] = cache(2, 2);
	begin(&r, &hw);
	assert_int_equal(data(&r, LINE(1)), HW_MEMORY);      /* set 1 */
	assert_int_equal(data(&r, LINE(0)), HW_MEMORY);      /* set 0: 0 */
	assert_int_equal(data(&r, LINE(0) + 56), HW_L1);     /* the same line */
	assert_int_equal(data(&r, LINE(2)), HW_MEMORY);      /* 2 0 */
	assert_int_equal(data(&r, LINE(0)), HW_L1);          /* 0 2 */
	assert_int_equal(data(&r, LINE(4)), HW_MEMORY);      /* 4 0 */
	assert_int_equal(data(&r, LINE(2)), HW_MEMORY);      /* 2 4 */
	assert_int_equal(data(&r, LINE(4)), HW_L1);          /* 4 2 */
	assert_int_equal(data(&r, LINE(0)), HW_MEMORY);      /* 0 4 */
	assert_int_equal(data(&r, LINE(1)), HW_L1);
	rig_end(&r);
}

static void levels(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	hw.cache[HW_L1] = cache(1, 1);
	hw.cache[HW_L2] = cache(1, 2);
	hw.cache[HW_LLC] = cache(1, 3);
	begin(&r, &hw);
	assert_int_equal(data(&r, LINE(0)), HW_MEMORY); /* L1: 0;  L2: 0;    LLC: 0 */
	assert_int_equal(data(&r, LINE(1)), HW_MEMORY); /* L1: 1;  L2: 1 0;  LLC: 1 0 */
	assert_int_equal(data(&r, LINE(2)), HW_MEMORY); /* L1: 2;  L2: 2 1;  LLC: 2 1 0 */
	assert_int_equal(data(&r, LINE(1)), HW_L2);     /* L1: 1;  L2: 1 2;  LLC is not asked */
	assert_int_equal(data(&r, LINE(0)), HW_LLC);    /* L1: 0;  L2: 0 1;  LLC: 0 2 1 */
	assert_int_equal(data(&r, LINE(3)), HW_MEMORY); /* L1: 3;  L2: 3 0;  LLC: 3 0 2 */
	/* 1 has left everything: an inner level that held it would not have kept it here. */
	assert_int_equal(data(&r, LINE(1)), HW_MEMORY); /* L1: 1;  L2: 1 3;  LLC: 1 3 0 */
	assert_int_equal(data(&r, LINE(2)), HW_MEMORY); /* L1: 2;  L2: 2 1;  LLC: 2 1 3 */
	assert_int_equal(data(&r, LINE(3)), HW_LLC);
	assert_int_equal(data(&r, LINE(3)), HW_L1);
	assert_int_equal(data(&r, LINE(2)), HW_L2);
	rig_end(&r);
}

static void missing_levels(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	begin(&r, &hw);
	assert_int_equal(data(&r, LINE(0)), HW_MEMORY);
	assert_int_equal(data(&r, LINE(0)), HW_MEMORY);
	rig_end(&r);
	hw.cache[HW_LLC] = cache(4, 1);
	begin(&r, &hw);
	assert_int_equal(data(&r, LINE(0)), HW_MEMORY);
	assert_int_equal(data(&r, LINE(0)), HW_LLC);
	rig_end(&r);
}

/* An access that crosses lines is one to each; with and without caches. */
static void crossing_lines(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_stats s;
	struct rig r;

	(void)state;
	for (unsigned caches = 0; caches < 2; caches++) {
		if (caches)
			hw.cache[HW_L1] = cache(8, 1);
		begin(&r, &hw);
		mmu_data_access(&r.mmu, LINE(0) + 60, 8, false);
		mmu_data_access(&r.mmu, LINE(0) + 60, 4, false);
		mmu_data_access(&r.mmu, LINE(0) + 32, 64, false);
		mmu_data_access(&r.mmu, LINE(2), 64, false);
		s = rig_counted(&r);
		assert_int_equal(s.data_hits[HW_MEMORY], caches ? 3 : 6);
		assert_int_equal(s.data_hits[HW_L1], caches ? 3 : 0);
		r.mmu.data_cache = false; /* data are not looked at, then */
		mmu_data_access(&r.mmu, LINE(5), 8, false);
		s = rig_counted(&r);
		assert_int_equal(s.data_hits[HW_MEMORY], 0);
		rig_end(&r);
	}
}

/* Eight entries are one line: the second page's PTE is a hit where the first one's was not. */
static void references_of_walks(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_stats s;
	struct rig r;

	(void)state;
	hw.cache[HW_L1] = cache(64, 8);
	rig_begin(&r, &hw);
	for (unsigned i = 0; i < 9; i++)
		rig_map(&r, i * PAGE_SIZE, 12, TO | RIG_LEAF);
	rig_refs(&r, 0);
	s = rig_counted(&r);
	assert_int_equal(s.ref_hits[HW_MEMORY], 4); /* four tables, four lines */
	rig_refs(&r, 7 * PAGE_SIZE);
	s = rig_counted(&r);
	assert_int_equal(s.ref_hits[HW_L1], 4);
	rig_refs(&r, 8 * PAGE_SIZE); /* the next line of the page table */
	s = rig_counted(&r);
	assert_int_equal(s.ref_hits[HW_L1], 3);
	assert_int_equal(s.ref_hits[HW_MEMORY], 1);
	assert_int_equal(s.data_hits[HW_L1] + s.data_hits[HW_MEMORY], 0);
	rig_end(&r);
}

/* Data push tables out, and tables data. */
static void tables_and_data_compete(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_stats s;
	struct rig r;

	(void)state;
	hw.cache[HW_L1] = cache(1, 4);
	begin(&r, &hw);
	rig_map(&r, 0, 12, TO | RIG_LEAF);
	rig_refs(&r, 0); /* PTE PDE PDPTE PML4E, the most recent first */
	assert_int_equal(data(&r, TO), HW_MEMORY); /* in place of the PML4E */
	rig_counted(&r);
	rig_refs(&r, 0); /* each pushes out the one that is wanted next */
	s = rig_counted(&r);
	assert_int_equal(s.ref_hits[HW_MEMORY], 4);
	assert_int_equal(data(&r, TO), HW_MEMORY);
	rig_end(&r);

	hw.cache[HW_L1] = cache(1, 5);
	begin(&r, &hw);
	rig_map(&r, 0, 12, TO | RIG_LEAF);
	rig_refs(&r, 0);
	assert_int_equal(data(&r, TO), HW_MEMORY);
	rig_counted(&r);
	rig_refs(&r, 0);
	s = rig_counted(&r);
	assert_int_equal(s.ref_hits[HW_L1], 4);
	assert_int_equal(data(&r, TO), HW_L1);
	rig_end(&r);
}

/* What a walk cache answers does not go to memory at all. */
static void walk_caches_come_first(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_stats s;
	struct rig r;

	(void)state;
	hw.walk_caches = HW_WALK_SPLIT;
	hw.guest[2] = rig_array(1, 1);
	hw.cache[HW_L1] = cache(1, 2);
	rig_begin(&r, &hw);
	rig_map(&r, 0, 12, TO | RIG_LEAF);
	rig_refs(&r, 0); /* L1: PTE PDE */
	rig_refs(&r, 0); /* PTE alone */
	s = rig_counted(&r);
	assert_int_equal(s.ref_hits[HW_MEMORY], 4);
	assert_int_equal(s.ref_hits[HW_L1], 1);
	mmu_flush_page(&r.mmu, gva(0)); /* drops translations, not lines */
	rig_refs(&r, 0);                /* PML4E, PDPTE push out both */
	s = rig_counted(&r);
	assert_int_equal(s.ref_hits[HW_MEMORY], 4);
	rig_end(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sets_and_lru),
		cmocka_unit_test(levels),
		cmocka_unit_test(missing_levels),
		cmocka_unit_test(crossing_lines),
		cmocka_unit_test(references_of_walks),
		cmocka_unit_test(tables_and_data_compete),
		cmocka_unit_test(walk_caches_come_first),
	};

	return cmocka_run_group_tests_name("cache", tests, NULL, NULL);
}
