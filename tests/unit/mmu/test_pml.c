/*
 * Page-modification logging in the walker: what is logged and what is not, the order of the index, and the full log,
 * which stops an access before anything is changed. One test a rule of the manual's section.
 */
#include "rig.h"

#include <stdlib.h>

#define LOG   0x800000ull        /* of 512 entries */
#define LIN   (1ull << 39)
#define PAGE  RIG_TABLES         /* guest-physical: the page that LIN is mapped to; as many as are mapped follow */
#define PAGES 1024u

static uint64_t logged(const struct rig *r, unsigned i) { return rig_get(r, LOG + 8ull * i); }
static uint16_t pml_index(const struct rig *r) { return r->mmu.pml.index; }

/* Where EPT's entry of @level for guest-physical @a stands. */
static uint64_t ept_entry(const struct rig *r, uint64_t a, unsigned level)
{
	uint64_t table = r->mmu.regs.eptp & EPT_ADDR_MASK;

	for (unsigned l = 4; l > level; l--)
		table = rig_get(r, table + (a >> (12 + 9 * (l - 1)) & 511) * 8) & EPT_ADDR_MASK;
	return table + (a >> (12 + 9 * (level - 1)) & 511) * 8;
}

static uint64_t flags_of(const struct rig *r, uint64_t a, unsigned level)
{
	return rig_get(r, ept_entry(r, a, level)) & (EPT_A | EPT_D);
}

/* The guest's flags are set, so that only EPT's are to be. @shift: of EPT's pages; @ad: flags in EPT */
static void begin_with(struct rig *r, const struct hw *hw, unsigned shift, bool ad, uint16_t index)
{
	rig_begin(r, hw);
	for (uint64_t i = 0; i < PAGES; i++)
		rig_map(r, LIN + i * PAGE_SIZE, 12, (PAGE + i * PAGE_SIZE) | RIG_LEAF);
	rig_set_ept(r, rig_ept(r, shift, 4) | (ad ? EPTP_AD : 0));
	r->mmu.pml = (struct mmu_pml){.on = ad, .index = index, .log = LOG};
}

static void begin(struct rig *r, uint16_t index)
{
	struct hw hw = rig_hw();

	begin_with(r, &hw, 12, true, index);
}

/* Makes the walk's own pages - those of the guest's tables - accessed and dirty, with the log off. */
static void warm(struct rig *r)
{
	r->mmu.pml.on = false;
	rig_page(r, LIN + (PAGES - 1) * PAGE_SIZE, ACCESS_READ);
	rig_page(r, LIN, ACCESS_READ);
	rig_page(r, LIN + 512 * PAGE_SIZE, ACCESS_READ);
	mmu_flush_everything(&r->mmu);
	r->mmu.pml.on = true;
}

static void logs_downwards(void **state)
{
	struct rig r;

	(void)state;
	begin(&r, 511);
	warm(&r);
	for (unsigned i = 0; i < 3; i++) {
		rig_page(&r, LIN + i * PAGE_SIZE + 0x123, ACCESS_WRITE);
		assert_int_equal(pml_index(&r), 510 - i);
		assert_int_equal(logged(&r, 511 - i), PAGE + i * PAGE_SIZE); /* bits 11:0 are clear */
	}
	assert_int_equal(logged(&r, 508), 0);
	rig_end(&r);
}

static void logs_once(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	rig_roomy(&hw);
	begin_with(&r, &hw, 12, true, 511);
	warm(&r);
	rig_page(&r, LIN, ACCESS_WRITE);
	mmu_flush_everything(&r.mmu);
	rig_page(&r, LIN + 8, ACCESS_WRITE); /* the dirty flag is set */
	assert_int_equal(pml_index(&r), 510);
	rig_put(&r, ept_entry(&r, PAGE, 1), rig_get(&r, ept_entry(&r, PAGE, 1)) & ~EPT_D);
	rig_page(&r, LIN, ACCESS_WRITE); /* the TLB does not know yet: a hypervisor that forgets the flush loses the page */
	assert_int_equal(pml_index(&r), 510);
	mmu_flush_ept(&r.mmu, r.mmu.regs.eptp, false);
	rig_page(&r, LIN, ACCESS_WRITE);
	assert_int_equal(pml_index(&r), 509);
	assert_int_equal(logged(&r, 510), PAGE);
	rig_end(&r);
}

static void accessed_is_not_logged(void **state)
{
	struct rig r;

	(void)state;
	begin(&r, 511);
	warm(&r);
	rig_put(&r, ept_entry(&r, PAGE, 1), rig_get(&r, ept_entry(&r, PAGE, 1)) & ~EPT_A);
	rig_page(&r, LIN, ACCESS_READ);
	assert_int_equal(flags_of(&r, PAGE, 1), EPT_A);
	rig_page(&r, LIN + PAGE_SIZE, ACCESS_FETCH);
	assert_int_equal(flags_of(&r, PAGE + PAGE_SIZE, 1), EPT_A);
	assert_int_equal(pml_index(&r), 511);
	rig_end(&r);
}

/* The access that finds the index at 0 is the last that is logged. */
static void index_wraps(void **state)
{
	struct xlate x = {0};
	struct rig r;

	(void)state;
	begin(&r, 0);
	warm(&r);
	rig_page(&r, LIN, ACCESS_WRITE);
	assert_int_equal(logged(&r, 0), PAGE);
	assert_int_equal(pml_index(&r), 0xffff);
	assert_int_equal(rig_try(&r, LIN + PAGE_SIZE + 0x18, ACCESS_WRITE, MODE_SUPER, &x), XLATE_PML_FULL);
	assert_int_equal(x.gpa.v, PAGE + PAGE_SIZE + 0x18);
	rig_end(&r);
}

/* 512 entries are room for 512 pages: the event comes with page number 513, which is neither written nor flagged. */
static void event_513(void **state)
{
	struct xlate x = {0};
	struct rig r;

	(void)state;
	begin(&r, 511);
	warm(&r);
	for (uint64_t i = 0; i < 512; i++)
		assert_int_equal(rig_try(&r, LIN + (1 + i) * PAGE_SIZE, ACCESS_WRITE, MODE_SUPER, &x), XLATE_OK);
	for (unsigned i = 0; i < 512; i++)
		assert_int_equal(logged(&r, 511 - i), PAGE + (1 + i) * PAGE_SIZE);
	assert_int_equal(pml_index(&r), 0xffff);
	assert_int_equal(rig_try(&r, LIN + 513 * PAGE_SIZE, ACCESS_WRITE, MODE_SUPER, &x), XLATE_PML_FULL);
	assert_int_equal(flags_of(&r, PAGE + 513 * PAGE_SIZE, 1), 0);
	assert_int_equal(pml_index(&r), 0xffff);
	r.mmu.pml.index = 511;
	assert_int_equal(rig_try(&r, LIN + 513 * PAGE_SIZE, ACCESS_WRITE, MODE_SUPER, &x), XLATE_OK);
	assert_int_equal(logged(&r, 511), PAGE + 513 * PAGE_SIZE);
	rig_end(&r);
}

/* Out of range is out of range: any of bits 15:9. */
static void index_out_of_range(void **state)
{
	struct xlate x;

	(void)state;
	for (unsigned bit = 9; bit < 16; bit++) {
		struct rig r;

		begin(&r, (uint16_t)(1u << bit));
		warm(&r);
		assert_int_equal(rig_try(&r, LIN, ACCESS_WRITE, MODE_SUPER, &x), XLATE_PML_FULL);
		assert_int_equal(pml_index(&r), 1u << bit);
		rig_end(&r);
	}
}

/* A full log stops accesses that need an accessed flag only, in the last entry or above it; and none that need no flag. */
static void full_stops_accessed_too(void **state)
{
	struct xlate x = {0};
	struct rig r;

	(void)state;
	begin(&r, 0xffff);
	warm(&r);
	assert_int_equal(rig_try(&r, LIN, ACCESS_READ, MODE_SUPER, &x), XLATE_OK); /* has its flag by warm() */
	assert_int_equal(rig_try(&r, LIN + PAGE_SIZE, ACCESS_READ, MODE_SUPER, &x), XLATE_PML_FULL);
	assert_int_equal(x.gpa.v, PAGE + PAGE_SIZE);
	assert_int_equal(flags_of(&r, PAGE + PAGE_SIZE, 1), 0);
	for (unsigned level = 2; level <= 4; level++) {
		uint64_t at = ept_entry(&r, PAGE, level);

		rig_put(&r, at, rig_get(&r, at) & ~EPT_A);
		mmu_flush_everything(&r.mmu);
		assert_int_equal(rig_try(&r, LIN, ACCESS_READ, MODE_SUPER, &x), XLATE_PML_FULL);
		assert_int_equal(rig_get(&r, at) & EPT_A, 0);
		rig_put(&r, at, rig_get(&r, at) | EPT_A);
	}
	assert_int_equal(rig_try(&r, LIN, ACCESS_READ, MODE_SUPER, &x), XLATE_OK);
	rig_end(&r);
}

/* An access that EPT forbids is a violation, full log or not. */
static void violation_comes_first(void **state)
{
	struct xlate x = {0};
	struct rig r;
	uint64_t at;

	(void)state;
	begin(&r, 0xffff);
	warm(&r);
	at = ept_entry(&r, PAGE + PAGE_SIZE, 1);
	rig_put(&r, at, rig_get(&r, at) & ~EPT_W);
	assert_int_equal(rig_try(&r, LIN + PAGE_SIZE, ACCESS_WRITE, MODE_SUPER, &x), XLATE_EPT_VIOLATION);
	assert_int_equal(flags_of(&r, PAGE + PAGE_SIZE, 1), 0);
	rig_end(&r);
}

/* With flags in EPT the walker's accesses to guest tables are writes: the tables' pages are dirty, and logged. */
static void tables_are_logged(void **state)
{
	const unsigned levels = 4;
	struct rig r;

	(void)state;
	begin(&r, 511);
	rig_page(&r, LIN, ACCESS_READ);
	assert_int_equal(pml_index(&r), 511 - levels);
	for (unsigned l = 0; l < levels; l++) {
		uint64_t table = rig_entry(&r, LIN, levels - l) & PAGE_MASK;

		assert_int_equal(logged(&r, 511 - l), table);
		assert_int_equal(flags_of(&r, table, 1), EPT_A | EPT_D);
	}
	assert_int_equal(flags_of(&r, PAGE, 1), EPT_A);
	rig_end(&r);
}

/* The walk of a table needs a place in the log, too; what was done before it stays. */
static void full_stops_at_a_table(void **state)
{
	struct xlate x = {0};
	struct rig r;

	(void)state;
	begin(&r, 1);
	assert_int_equal(rig_try(&r, LIN, ACCESS_READ, MODE_SUPER, &x), XLATE_PML_FULL);
	assert_int_equal(x.gpa.v, rig_entry(&r, LIN, 2));
	assert_int_equal(flags_of(&r, rig_entry(&r, LIN, 3), 1), EPT_A | EPT_D);
	assert_int_equal(flags_of(&r, rig_entry(&r, LIN, 2), 1), 0);
	rig_end(&r);
}

/* A large page has one dirty flag, so one entry in the log: its first 4 KiB page that was written. */
static void large_page_logs_once(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	begin_with(&r, &hw, 21, true, 511);
	warm(&r);
	rig_page(&r, LIN + 5 * PAGE_SIZE + 8, ACCESS_WRITE);
	rig_page(&r, LIN + 6 * PAGE_SIZE, ACCESS_WRITE);
	assert_int_equal(pml_index(&r), 510);
	assert_int_equal(logged(&r, 511), PAGE + 5 * PAGE_SIZE);
	rig_page(&r, LIN + 512 * PAGE_SIZE, ACCESS_WRITE);
	assert_int_equal(pml_index(&r), 509);
	rig_end(&r);
}

/* Without flags in EPT there is nothing to log; nor where the control is off. */
static void inert(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	for (unsigned ad = 0; ad < 2; ad++) {
		begin_with(&r, &hw, 12, ad, 0xffff);
		r.mmu.pml.on = false;
		rig_page(&r, LIN, ACCESS_WRITE);
		assert_int_equal(flags_of(&r, PAGE, 1), ad ? EPT_A | EPT_D : 0);
		assert_int_equal(pml_index(&r), 0xffff);
		rig_end(&r);
	}
}

/* Accesses by guest-physical address (PDPTE loads) obey, too. */
static void physical_accesses(void **state)
{
	struct xlate x = {0};
	struct rig r;

	(void)state;
	begin(&r, 511);
	assert_int_equal(mmu_translate_gpa(&r.mmu, gpa(PAGE + 0x20), ACCESS_WRITE, &x), XLATE_OK);
	assert_int_equal(logged(&r, 511), PAGE);
	r.mmu.pml.index = 0xffff;
	assert_int_equal(mmu_translate_gpa(&r.mmu, gpa(PAGE + PAGE_SIZE), ACCESS_READ, &x), XLATE_PML_FULL);
	assert_int_equal(flags_of(&r, PAGE + PAGE_SIZE, 1), 0);
	rig_end(&r);
}

/* What walk caches and the nested TLB hold makes no difference to what is logged. */
static void caches_make_no_difference(void **state)
{
	struct hw hw[3] = {rig_hw(), rig_hw(), rig_hw()};
	uint64_t log[3][512];

	(void)state;
	hw[1].walk_caches = HW_WALK_SPLIT;
	for (unsigned l = 2; l < HW_LEVELS; l++)
		hw[1].guest[l] = hw[1].host[l] = rig_array(32, 32);
	hw[2].nested_tlb = rig_array(16, 16);
	for (unsigned h = 0; h < ARRAY_SIZE(hw); h++) {
		struct rig r;
		uint64_t seed = 1;

		begin_with(&r, &hw[h], 12, true, 511);
		for (unsigned n = 0; n < 1500; n++) {
			struct xlate x;
			uint64_t page;

			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			page = (seed >> 33) % PAGES;
			if (rig_try(&r, LIN + page * PAGE_SIZE, seed >> 60 & 1 ? ACCESS_WRITE : ACCESS_READ, MODE_SUPER, &x) !=
			    XLATE_PML_FULL)
				continue;
			assert_int_equal(pml_index(&r), 0xffff);
			break;
		}
		for (unsigned i = 0; i < 512; i++)
			log[h][i] = logged(&r, i);
		assert_memory_equal(log[h], log[0], sizeof(log[0]));
		rig_end(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(logs_downwards), cmocka_unit_test(logs_once), cmocka_unit_test(accessed_is_not_logged),
		cmocka_unit_test(index_wraps), cmocka_unit_test(event_513), cmocka_unit_test(index_out_of_range),
		cmocka_unit_test(full_stops_accessed_too), cmocka_unit_test(violation_comes_first),
		cmocka_unit_test(tables_are_logged), cmocka_unit_test(full_stops_at_a_table),
		cmocka_unit_test(large_page_logs_once), cmocka_unit_test(inert), cmocka_unit_test(physical_accesses),
		cmocka_unit_test(caches_make_no_difference),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
