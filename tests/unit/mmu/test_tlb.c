/*
 * TLBs on small descriptions: sequences worked out by hand. What is asked is only how an
 * access was served (first level, second level, tables) and what it came to.
 */
#include "rig.h"

#define PAGE(n) ((uint64_t)(n) << 12)
#define LIN      0x400000ull /* page number 0x400: even, set 0 of two or four */
#define TO       RIG_TABLES
#define BIG(n)  (0x40000000ull + ((uint64_t)(n) << 21)) /* 2 MiB page number 0x200 + n */

/* Maps pages 0 .. n-1 from LIN on. */
static void map_pages(struct rig *r, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		rig_map(r, LIN + PAGE(i), 12, (TO + PAGE(i)) | RIG_LEAF);
}

#define assert_from(r, lin, from) assert_int_equal(rig_read(r, lin), from)

static void one_set_is_lru(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	rig_tlb(&hw.l1d, HW_4K, 4, 2); /* two sets of two ways; no second level */
	rig_begin(&r, &hw);
	map_pages(&r, 8);
	assert_from(&r, LIN + PAGE(1), FROM_TABLES); /* set 1, for the end */
	assert_from(&r, LIN + PAGE(0), FROM_TABLES); /* set 0: 0 */
	assert_from(&r, LIN + PAGE(2), FROM_TABLES); /* 2 0 */
	assert_from(&r, LIN + PAGE(0), FROM_L1);     /* 0 2 */
	assert_from(&r, LIN + PAGE(4), FROM_TABLES); /* 4 0, and 2 has gone */
	assert_from(&r, LIN + PAGE(0), FROM_L1);     /* 0 4 */
	assert_from(&r, LIN + PAGE(2), FROM_TABLES); /* 2 0 */
	assert_from(&r, LIN + PAGE(4), FROM_TABLES); /* 4 2 */
	assert_from(&r, LIN + PAGE(0), FROM_TABLES); /* 0 4 */
	assert_from(&r, LIN + PAGE(2), FROM_TABLES); /* 2 0 */
	assert_from(&r, LIN + PAGE(0), FROM_L1);
	assert_from(&r, LIN + PAGE(1), FROM_L1); /* the other set knows of nothing */
	rig_end(&r);
}

/* A way that was emptied is filled before anything is pushed out. */
static void empty_ways_first(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	rig_tlb(&hw.l1d, HW_4K, 3, 3);
	rig_begin(&r, &hw);
	map_pages(&r, 4);
	for (unsigned i = 0; i < 3; i++)
		assert_from(&r, LIN + PAGE(i), FROM_TABLES);
	mmu_flush_page(&r.mmu, gva(LIN + PAGE(2))); /* the most recent one */
	assert_from(&r, LIN + PAGE(3), FROM_TABLES);
	assert_from(&r, LIN + PAGE(0), FROM_L1);
	assert_from(&r, LIN + PAGE(1), FROM_L1);
	assert_from(&r, LIN + PAGE(2), FROM_TABLES); /* in place of 3, now the oldest */
	assert_from(&r, LIN + PAGE(0), FROM_L1);
	assert_from(&r, LIN + PAGE(3), FROM_TABLES);
	rig_end(&r);
}

static void second_level(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_stats s;
	struct rig r;

	(void)state;
	rig_tlb(&hw.l1d, HW_4K, 1, 1);
	rig_tlb(&hw.l2d, HW_4K, 2, 2);
	rig_begin(&r, &hw);
	map_pages(&r, 3);
	assert_from(&r, LIN, FROM_TABLES);           /* L1: 0; L2: 0 */
	assert_from(&r, LIN + PAGE(1), FROM_TABLES); /* L1: 1; L2: 1 0 */
	assert_from(&r, LIN, FROM_L2);               /* L1: 0; L2: 0 1, and L1 has it again */
	assert_from(&r, LIN, FROM_L1);               /* the second level is not told of that */
	assert_from(&r, LIN + PAGE(1), FROM_L2);     /* L1: 1; L2: 1 0 */
	assert_from(&r, LIN + PAGE(1), FROM_L1);
	assert_from(&r, LIN + PAGE(2), FROM_TABLES); /* L1: 2; L2: 2 1 */
	assert_from(&r, LIN + PAGE(1), FROM_L2);     /* L2: 1 2 */
	assert_from(&r, LIN, FROM_TABLES);           /* L2: 0 1 */
	assert_from(&r, LIN + PAGE(2), FROM_TABLES); /* it was pushed out just now: L2: 2 0 */
	s = rig_counted(&r);
	assert_int_equal(s.l1d_misses, 8);
	assert_int_equal(s.l2d_hits, 3);
	assert_int_equal(s.l2d_misses, 5);
	assert_int_equal(s.walks, 5);
	assert_int_equal(s.refs, 5 * 4);
	assert_int_equal(s.l1i_misses + s.l2i_hits + s.l2i_misses, 0);
	rig_end(&r);
}

static void instructions_and_data(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_stats s;
	struct rig r;

	(void)state;
	rig_tlb(&hw.l1d, HW_4K, 4, 4);
	rig_tlb(&hw.l1i, HW_4K, 4, 4);
	rig_tlb(&hw.l2d, HW_4K, 4, 4);
	rig_begin(&r, &hw);
	map_pages(&r, 1);
	assert_int_equal(rig_access(&r, LIN, ACCESS_FETCH), FROM_TABLES);
	assert_int_equal(rig_access(&r, LIN, ACCESS_READ), FROM_L2); /* one second level for both */
	assert_int_equal(rig_access(&r, LIN, ACCESS_FETCH), FROM_L1);
	assert_int_equal(rig_access(&r, LIN, ACCESS_WRITE), FROM_L1);
	s = rig_counted(&r);
	assert_int_equal(s.l1i_misses, 1);
	assert_int_equal(s.l2i_misses, 1);
	assert_int_equal(s.l1d_misses, 1);
	assert_int_equal(s.l2d_hits, 1);
	rig_end(&r);

	hw.l2_split = true;
	rig_tlb(&hw.l2i, HW_4K, 2, 2);
	hw.l1i = (struct hw_tlb){0};
	rig_begin(&r, &hw);
	map_pages(&r, 3);
	assert_int_equal(rig_access(&r, LIN, ACCESS_FETCH), FROM_TABLES);
	assert_int_equal(rig_access(&r, LIN, ACCESS_READ), FROM_TABLES); /* one each */
	assert_int_equal(rig_access(&r, LIN, ACCESS_FETCH), FROM_L2);    /* there is no first level */
	assert_int_equal(rig_access(&r, LIN + PAGE(1), ACCESS_FETCH), FROM_TABLES);
	assert_int_equal(rig_access(&r, LIN + PAGE(2), ACCESS_FETCH), FROM_TABLES);
	assert_int_equal(rig_access(&r, LIN, ACCESS_FETCH), FROM_TABLES); /* two ways */
	rig_end(&r);
}

/* 4 KiB and 2 MiB pages in one array, each by its own page number. */
static void several_sizes_in_an_array(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	rig_tlb(&hw.l1d, HW_4K | HW_2M, 2, 1); /* two sets of one way */
	rig_begin(&r, &hw);
	map_pages(&r, 4);
	rig_map(&r, BIG(0), 21, 0x2000000 | RIG_LEAF); /* number 0x200: set 0 */
	rig_map(&r, BIG(1), 21, 0x2200000 | RIG_LEAF); /* number 0x201: set 1 */
	assert_from(&r, BIG(0), FROM_TABLES);
	assert_from(&r, BIG(1), FROM_TABLES);
	assert_from(&r, BIG(0) + PAGE(511), FROM_L1);
	assert_from(&r, LIN + PAGE(1), FROM_TABLES); /* page number 0x401: set 1 */
	assert_from(&r, BIG(0) + PAGE(1), FROM_L1);  /* by the 2 MiB number, though bit 12 says 1 */
	assert_from(&r, BIG(1), FROM_TABLES);
	assert_from(&r, LIN + PAGE(1), FROM_TABLES);
	assert_from(&r, LIN + PAGE(2), FROM_TABLES);
	assert_from(&r, BIG(0), FROM_TABLES);
	assert_from(&r, LIN + PAGE(1), FROM_L1);
	rig_end(&r);
}

/* What a TLB holds no such size of it holds in pieces. */
static void pieces_of_large_pages(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_stats s;
	struct rig r;

	(void)state;
	rig_tlb(&hw.l1d, HW_4K, 16, 16);
	rig_tlb(&hw.l2d, HW_2M, 16, 16);
	rig_begin(&r, &hw);
	rig_map(&r, BIG(0), 21, 0x2000000 | RIG_LEAF);
	rig_map(&r, LIN, 12, TO | RIG_LEAF);
	assert_from(&r, BIG(0), FROM_TABLES);
	assert_from(&r, BIG(0) + PAGE(7), FROM_L2);
	assert_int_equal(rig_page(&r, BIG(0) + PAGE(7), ACCESS_READ), 0x2007000);
	assert_from(&r, BIG(0) + PAGE(7), FROM_L1);
	s = rig_counted(&r);
	assert_int_equal(s.splintered, 2); /* two entries of 4 KiB at the first level */
	assert_int_equal(s.refs, 3);
	/* A 4 KiB page has no place in the second level. */
	assert_from(&r, LIN, FROM_TABLES);
	assert_from(&r, LIN, FROM_L1);
	mmu_flush_page(&r.mmu, gva(LIN));
	assert_from(&r, LIN, FROM_TABLES);
	/* INVLPG of any address takes every piece of the page and the whole. */
	mmu_flush_page(&r.mmu, gva(BIG(0) + PAGE(300)));
	assert_from(&r, BIG(0), FROM_TABLES);
	rig_end(&r);
}

static void gigabytes_where_2m_are_held(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	rig_tlb(&hw.l1d, HW_4K, 16, 16);
	rig_tlb(&hw.l1d, HW_2M, 4, 4);
	rig_begin(&r, &hw);
	rig_map(&r, 0x80000000, 30, 0x40000000 | RIG_LEAF);
	assert_from(&r, 0x80000000, FROM_TABLES);
	assert_from(&r, 0x801ff000, FROM_L1);
	assert_from(&r, 0x80200000, FROM_TABLES);
	assert_int_equal(rig_page(&r, 0x80201000, ACCESS_READ), 0x40201000);
	mmu_flush_page(&r.mmu, gva(0xbffff000));
	assert_from(&r, 0x80000000, FROM_TABLES);
	assert_from(&r, 0x80200000, FROM_TABLES);
	rig_end(&r);
}

/* 2 MiB of the guest on 4 KiB of the host: 4 KiB pieces, but one page for INVLPG. */
static void splintered_by_ept(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	rig_roomy(&hw);
	rig_begin(&r, &hw);
	rig_map(&r, BIG(0), 21, 0x2000000 | RIG_LEAF);
	rig_map(&r, BIG(1), 21, 0x2200000 | RIG_LEAF);
	rig_set_ept(&r, rig_ept(&r, 12, 4));
	for (unsigned i = 0; i < 3; i++)
		assert_from(&r, BIG(0) + PAGE(100 * i), FROM_TABLES);
	assert_from(&r, BIG(1), FROM_TABLES);
	assert_int_equal(rig_counted(&r).splintered, 4);
	mmu_flush_page(&r.mmu, gva(BIG(0) + PAGE(511)));
	for (unsigned i = 0; i < 3; i++)
		assert_from(&r, BIG(0) + PAGE(100 * i), FROM_TABLES);
	assert_from(&r, BIG(1), FROM_L1);
	rig_end(&r);
}

/* 4 KiB of the guest on 2 MiB of the host: 4 KiB, whole. */
static void smaller_guest_pages(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	rig_roomy(&hw);
	rig_begin(&r, &hw);
	map_pages(&r, 2);
	rig_set_ept(&r, rig_ept(&r, 21, 4));
	assert_from(&r, LIN, FROM_TABLES);
	assert_from(&r, LIN + PAGE(1), FROM_TABLES);
	mmu_flush_page(&r.mmu, gva(LIN));
	assert_from(&r, LIN + PAGE(1), FROM_L1);
	assert_from(&r, LIN, FROM_TABLES);
	assert_int_equal(rig_counted(&r).splintered, 0);
	rig_end(&r);
}

/* 32-bit paging's 4 MiB pages are held in halves. */
static void four_megabytes(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	rig_roomy(&hw);
	rig_begin(&r, &hw);
	rig_set_paging(&r, RIG_32BIT);
	rig_map(&r, 0x800000, 22, 0x2000000 | RIG_LEAF);
	assert_from(&r, 0x800000, FROM_TABLES);
	assert_from(&r, 0x9ff000, FROM_L1);
	assert_from(&r, 0xa00000, FROM_TABLES);
	assert_int_equal(rig_page(&r, 0xbff000, ACCESS_READ), 0x23ff000);
	mmu_flush_page(&r.mmu, gva(0x800000));
	assert_from(&r, 0xa00000, FROM_TABLES);
	assert_from(&r, 0x800000, FROM_TABLES);
	rig_end(&r);
}

static void nothing_at_all(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_stats s;
	struct rig r;

	(void)state;
	rig_begin(&r, &hw);
	map_pages(&r, 1);
	for (unsigned i = 0; i < 3; i++)
		assert_from(&r, LIN, FROM_TABLES);
	s = rig_counted(&r);
	assert_int_equal(s.l1d_misses, 3);
	assert_int_equal(s.l2d_misses, 3);
	assert_int_equal(s.refs, 12);
	assert_int_equal(s.by_refs[4], 3);
	assert_int_equal(r.mmu.stats.refs_max, 4);
	rig_end(&r);
}

/* An array that is described but has no entries is none. */
static void arrays_of_no_entries(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	rig_tlb(&hw.l1d, HW_2M, 0, 1);
	rig_tlb(&hw.l1d, HW_4K, 4, 2);
	rig_begin(&r, &hw);
	rig_map(&r, BIG(0), 21, 0x2000000 | RIG_LEAF);
	assert_from(&r, BIG(0), FROM_TABLES);
	assert_from(&r, BIG(0), FROM_L1); /* as 4 KiB */
	assert_from(&r, BIG(0) + PAGE(1), FROM_TABLES);
	rig_end(&r);
}

/* ---- tags ---- */

static void tags(void **state)
{
	struct hw hw = rig_hw();
	uint64_t a, b;
	struct rig r;

	(void)state;
	rig_roomy(&hw);
	rig_begin(&r, &hw);
	rig_map(&r, LIN, 12, TO | RIG_LEAF);
	rig_map(&r, LIN + PAGE(1), 12, (TO + PAGE(1)) | RIG_LEAF | PTE_G);
	a = rig_ept(&r, 21, 4);
	b = rig_ept(&r, 30, 4);
	rig_set_pcid(&r, 1);
	assert_from(&r, LIN, FROM_TABLES);
	assert_from(&r, LIN + PAGE(1), FROM_TABLES);
	rig_set_pcid(&r, 2);
	assert_from(&r, LIN, FROM_TABLES);
	assert_from(&r, LIN + PAGE(1), FROM_L1); /* global: of every PCID... */
	rig_set_vpid(&r, 1);
	assert_from(&r, LIN + PAGE(1), FROM_TABLES); /* ...but of one VPID */
	assert_from(&r, LIN, FROM_TABLES);
	rig_set_ept(&r, a);
	assert_from(&r, LIN + PAGE(1), FROM_TABLES); /* combined mappings are others than linear ones */
	assert_from(&r, LIN, FROM_TABLES);
	rig_set_ept(&r, b);
	assert_from(&r, LIN, FROM_TABLES); /* and every EPT root has its own */
	assert_from(&r, LIN + PAGE(1), FROM_TABLES);
	/* All that is still there. */
	rig_set_ept(&r, a);
	assert_from(&r, LIN, FROM_L1);
	assert_from(&r, LIN + PAGE(1), FROM_L1);
	rig_set_pcid(&r, 1);
	assert_from(&r, LIN, FROM_TABLES);
	assert_from(&r, LIN + PAGE(1), FROM_L1);
	rig_set_ept(&r, 0);
	assert_from(&r, LIN, FROM_TABLES);
	rig_set_vpid(&r, 0);
	assert_from(&r, LIN, FROM_L1);
	rig_set_pcid(&r, 2);
	assert_from(&r, LIN, FROM_L1);
	rig_end(&r);
}

/* Without paging a guest's addresses are guest-physical: their translations belong to the EPT root, not to a VPID. */
static void unpaged(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;
	uint64_t a;

	(void)state;
	rig_roomy(&hw);
	rig_begin(&r, &hw);
	a = rig_ept(&r, 12, 4);
	rig_set_paging(&r, RIG_UNPAGED);
	assert_int_equal(rig_page(&r, TO, ACCESS_READ), TO);
	assert_int_equal(rig_counted(&r).l1d_misses, 0); /* neither paging nor EPT: no TLB */
	rig_set_ept(&r, a);
	rig_set_vpid(&r, 1);
	assert_from(&r, TO, FROM_TABLES);
	assert_from(&r, TO, FROM_L1);
	rig_set_vpid(&r, 2);
	assert_from(&r, TO, FROM_L1);
	mmu_flush_vpid_all(&r.mmu, 1);
	mmu_flush_vpid_all(&r.mmu, 2);
	mmu_flush_page(&r.mmu, gva(TO));
	assert_from(&r, TO, FROM_L1);
	mmu_flush_ept(&r.mmu, a, false);
	assert_from(&r, TO, FROM_TABLES);
	rig_end(&r);
}

/* ---- what is held is used, and what does not suffice is not ---- */

static void stale_is_used(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;
	uint64_t at;

	(void)state;
	rig_tlb(&hw.l1d, HW_4K, 1, 1);
	rig_tlb(&hw.l2d, HW_4K, 4, 4);
	rig_begin(&r, &hw);
	at = rig_map(&r, LIN, 12, TO | RIG_LEAF);
	rig_map(&r, LIN + PAGE(1), 12, TO | RIG_LEAF);
	rig_read(&r, LIN);
	rig_put(&r, at, (TO + PAGE(9)) | RIG_LEAF);
	assert_int_equal(rig_page(&r, LIN, ACCESS_READ), TO);
	rig_read(&r, LIN + PAGE(1));
	assert_int_equal(rig_page(&r, LIN, ACCESS_READ), TO); /* from the second level */
	rig_put(&r, at, 0);
	assert_int_equal(rig_page(&r, LIN, ACCESS_READ), TO);
	mmu_flush_page(&r.mmu, gva(LIN));
	assert_int_equal(rig_try(&r, LIN, ACCESS_READ, MODE_SUPER, &(struct xlate){0}), XLATE_PAGE_FAULT);
	rig_end(&r);
}

/* More rights without a flush do not fault, and the old translation is nowhere any more. */
static void insufficient_goes_everywhere(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;
	uint64_t at;

	(void)state;
	rig_tlb(&hw.l1d, HW_4K, 4, 4);
	rig_tlb(&hw.l1i, HW_4K, 4, 4);
	rig_tlb(&hw.l2d, HW_4K, 4, 4);
	rig_begin(&r, &hw);
	at = rig_map(&r, LIN, 12, TO | PTE_P | PTE_A);
	rig_access(&r, LIN, ACCESS_FETCH);
	rig_access(&r, LIN, ACCESS_READ);
	rig_put(&r, at, (TO + PAGE(9)) | RIG_LEAF);
	assert_int_equal(rig_page(&r, LIN, ACCESS_FETCH), TO);
	assert_int_equal(rig_page(&r, LIN, ACCESS_WRITE), TO + PAGE(9));
	assert_int_equal(rig_access(&r, LIN, ACCESS_FETCH), FROM_L2); /* what the write entered */
	assert_int_equal(rig_page(&r, LIN, ACCESS_FETCH), TO + PAGE(9));
	rig_end(&r);
}

static void dirty_flag_needs_a_walk(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;
	uint64_t at;

	(void)state;
	rig_roomy(&hw);
	rig_begin(&r, &hw);
	at = rig_map(&r, LIN, 12, TO | PTE_P | PTE_W);
	rig_read(&r, LIN);
	assert_int_equal(rig_get(&r, at) & (PTE_A | PTE_D), PTE_A);
	assert_int_equal(rig_access(&r, LIN, ACCESS_WRITE), FROM_TABLES);
	assert_int_equal(rig_get(&r, at) & (PTE_A | PTE_D), PTE_A | PTE_D);
	assert_int_equal(rig_access(&r, LIN, ACCESS_WRITE), FROM_L1);
	/* The TLB remembers it. */
	rig_put(&r, at, TO | PTE_P | PTE_W);
	assert_int_equal(rig_access(&r, LIN, ACCESS_WRITE), FROM_L1);
	assert_int_equal(rig_get(&r, at) & (PTE_A | PTE_D), 0);
	rig_end(&r);
}

/* A fault on a translation that was cached comes from the tables and leaves nothing behind. */
static void faults_are_not_cached(void **state)
{
	struct hw hw = rig_hw();
	struct xlate x;
	struct rig r;
	uint64_t at;

	(void)state;
	rig_roomy(&hw);
	rig_begin(&r, &hw);
	at = rig_map(&r, LIN, 12, TO | PTE_P | PTE_A);
	rig_read(&r, LIN);
	assert_int_equal(rig_try(&r, LIN, ACCESS_WRITE, MODE_SUPER, &x), XLATE_PAGE_FAULT);
	assert_int_equal(x.error_code, PF_P | PF_W);
	rig_put(&r, at, (TO + PAGE(9)) | PTE_P | PTE_A);
	assert_int_equal(rig_page(&r, LIN, ACCESS_READ), TO + PAGE(9)); /* the fault dropped it */
	rig_end(&r);
}

/* SMEP, SMAP, CR0.WP and protection keys are looked at when a translation is used, not when it is made. */
static void control_bits_count_at_use(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_regs n;
	struct xlate x;
	struct rig r;

	(void)state;
	rig_roomy(&hw);
	rig_begin(&r, &hw);
	rig_map(&r, LIN, 12, TO | PTE_P | PTE_U | PTE_A | PTE_D | 3ull << PTE_PKEY_SHIFT);
	rig_read(&r, LIN);
	n = r.mmu.regs;
	n.cr0 &= ~CR0_WP;
	mmu_set_regs(&r.mmu, &n);
	assert_int_equal(rig_access(&r, LIN, ACCESS_WRITE), FROM_L1);
	n.cr4 |= CR4_SMAP;
	mmu_set_regs(&r.mmu, &n);
	assert_int_equal(rig_try(&r, LIN, ACCESS_READ, MODE_SUPER, &x), XLATE_PAGE_FAULT);
	assert_int_equal(rig_try(&r, LIN, ACCESS_READ, MODE_SUPER_AC, &x), XLATE_OK);
	n.cr4 = (n.cr4 & ~CR4_SMAP) | CR4_PKE;
	n.pkru = 1u << 6;
	mmu_set_regs(&r.mmu, &n);
	assert_int_equal(rig_try(&r, LIN, ACCESS_READ, MODE_USER, &x), XLATE_PAGE_FAULT);
	assert_int_equal(x.error_code, PF_P | PF_U | PF_PK);
	n.pkru = 0;
	mmu_set_regs(&r.mmu, &n);
	assert_int_equal(rig_try(&r, LIN, ACCESS_READ, MODE_USER, &x), XLATE_OK);
	rig_end(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_set_is_lru),
		cmocka_unit_test(empty_ways_first),
		cmocka_unit_test(second_level),
		cmocka_unit_test(instructions_and_data),
		cmocka_unit_test(several_sizes_in_an_array),
		cmocka_unit_test(pieces_of_large_pages),
		cmocka_unit_test(gigabytes_where_2m_are_held),
		cmocka_unit_test(splintered_by_ept),
		cmocka_unit_test(smaller_guest_pages),
		cmocka_unit_test(four_megabytes),
		cmocka_unit_test(nothing_at_all),
		cmocka_unit_test(arrays_of_no_entries),
		cmocka_unit_test(tags),
		cmocka_unit_test(unpaged),
		cmocka_unit_test(stale_is_used),
		cmocka_unit_test(insufficient_goes_everywhere),
		cmocka_unit_test(dirty_flag_needs_a_walk),
		cmocka_unit_test(faults_are_not_cached),
		cmocka_unit_test(control_bits_count_at_use),
	};

	return cmocka_run_group_tests_name("tlb", tests, NULL, NULL);
}
