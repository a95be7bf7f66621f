/*
 * The host-side lookup before the TLB: it may serve an access only where the first-level TLB would have
 * hit, with the same result and the same order of use after it. Asked as cpu/access.h and cpu/run.c do.
 */
#include "rig.h"

#define LIN 0x400000ull
#define TO  RIG_TABLES
#define PAGE(n) ((uint64_t)(n) << 12)

enum { NOT_SERVED = 1 }; /* no page begins there */

/* What the inline part of an access finds. */
static uint64_t inline_data(struct rig *r, uint64_t lin, enum access_kind kind, enum access_mode mode)
{
	const uint8_t *host = mmu_fast_data(&r->mmu, lin, 1, kind, mode);

	return host ? (uint64_t)(host - r->mem.host) & PAGE_MASK : NOT_SERVED;
}

static uint64_t inline_read(struct rig *r, uint64_t lin, enum access_mode mode)
{
	return inline_data(r, lin, ACCESS_READ, mode);
}

static uint64_t inline_write(struct rig *r, uint64_t lin, enum access_mode mode)
{
	return inline_data(r, lin, ACCESS_WRITE, mode);
}

static uint64_t inline_fetch(struct rig *r, uint64_t lin, enum access_mode mode)
{
	const struct fast_entry *e = mmu_fast_fetch(&r->mmu, lin, mode);

	return e ? (lin & PAGE_MASK) + e->addend : NOT_SERVED;
}

static void begin(struct rig *r)
{
	struct hw hw = rig_hw();

	rig_tlb(&hw.l1d, HW_4K, 4, 2);
	rig_tlb(&hw.l1i, HW_4K, 4, 2);
	rig_begin(r, &hw);
	for (unsigned i = 0; i < 8; i++)
		rig_map(r, LIN + PAGE(i), 12, (TO + PAGE(i)) | RIG_LEAF);
}

static void serves_what_was_translated(void **state)
{
	struct rig r;

	(void)state;
	begin(&r);
	assert_int_equal(inline_read(&r, LIN, MODE_SUPER), NOT_SERVED);
	rig_read(&r, LIN + 8);
	assert_int_equal(inline_read(&r, LIN + 16, MODE_SUPER), TO);
	assert_int_equal(inline_write(&r, LIN, MODE_SUPER), TO); /* it is dirty */
	assert_int_equal(inline_read(&r, LIN, MODE_USER), NOT_SERVED);
	assert_int_equal(inline_read(&r, LIN + PAGE(1), MODE_SUPER), NOT_SERVED);
	assert_int_equal(inline_fetch(&r, LIN, MODE_SUPER), NOT_SERVED);
	rig_access(&r, LIN, ACCESS_FETCH);
	assert_int_equal(inline_fetch(&r, LIN, MODE_SUPER), TO);
	rig_end(&r);
}

static void clean_pages_are_not_written(void **state)
{
	struct rig r;

	(void)state;
	begin(&r);
	rig_map(&r, LIN, 12, TO | PTE_P | PTE_W);
	rig_read(&r, LIN);
	assert_int_equal(inline_read(&r, LIN, MODE_SUPER), TO);
	assert_int_equal(inline_write(&r, LIN, MODE_SUPER), NOT_SERVED);
	rig_access(&r, LIN, ACCESS_WRITE);
	assert_int_equal(inline_write(&r, LIN, MODE_SUPER), TO);
	rig_end(&r);
}

/* Who is served is a hit: the entry becomes the most recently used. */
static void a_hit_changes_the_order(void **state)
{
	struct rig r;

	(void)state;
	begin(&r);
	rig_read(&r, LIN);
	rig_read(&r, LIN + PAGE(2)); /* the other way of the set */
	assert_int_equal(inline_read(&r, LIN + PAGE(2), MODE_SUPER), TO + PAGE(2));
	assert_int_equal(inline_read(&r, LIN, MODE_SUPER), TO);
	rig_read(&r, LIN + PAGE(4)); /* pushes out 2, not 0 */
	assert_int_equal(inline_read(&r, LIN + PAGE(2), MODE_SUPER), NOT_SERVED);
	assert_int_equal(inline_write(&r, LIN, MODE_SUPER), TO);
	assert_int_equal(rig_read(&r, LIN + PAGE(2)), FROM_TABLES); /* pushes out 4 */
	assert_int_equal(inline_read(&r, LIN + PAGE(4), MODE_SUPER), NOT_SERVED);
	assert_int_equal(rig_read(&r, LIN), FROM_L1);
	rig_end(&r);
}

static void a_fetch_changes_the_order(void **state)
{
	struct rig r;

	(void)state;
	begin(&r);
	rig_access(&r, LIN, ACCESS_FETCH);
	rig_access(&r, LIN + PAGE(2), ACCESS_FETCH);
	assert_int_equal(inline_fetch(&r, LIN, MODE_SUPER), TO);
	rig_access(&r, LIN + PAGE(4), ACCESS_FETCH);
	assert_int_equal(inline_fetch(&r, LIN, MODE_SUPER), TO);
	assert_int_equal(inline_fetch(&r, LIN + PAGE(2), MODE_SUPER), NOT_SERVED);
	rig_end(&r);
}

/* What has left the TLB is not served, not even if the same page is there again. */
static void left_and_come_back(void **state)
{
	struct xlate x;
	struct rig r;
	uint64_t at;

	(void)state;
	begin(&r);
	at = rig_map(&r, LIN, 12, TO | RIG_LEAF);
	rig_read(&r, LIN);
	rig_read(&r, LIN + PAGE(2));
	rig_read(&r, LIN + PAGE(4)); /* pushes out LIN */
	rig_put(&r, at, (TO + PAGE(9)) | RIG_LEAF);
	assert_int_equal(rig_try(&r, LIN, ACCESS_READ, MODE_SUPER_AC, &x), XLATE_OK); /* in another mode's slots */
	assert_int_equal(x.page.v, TO + PAGE(9));
	assert_int_equal(inline_read(&r, LIN, MODE_SUPER), NOT_SERVED);
	assert_int_equal(inline_read(&r, LIN, MODE_SUPER_AC), TO + PAGE(9));
	rig_end(&r);
}

/* All 4 KiB pieces of a large page leave with it. */
static void a_large_page_leaves(void **state)
{
	struct hw hw = rig_hw();
	uint64_t large = 1ull << 21;
	struct rig r;

	(void)state;
	rig_tlb(&hw.l1d, HW_2M, 1, 1);
	rig_begin(&r, &hw);
	for (unsigned i = 0; i < 2; i++)
		rig_map(&r, 2 * LIN + i * large, 21, (i * large) | RIG_LEAF | PTE_PS);
	for (unsigned i = 0; i < 512; i += 3)
		rig_read(&r, 2 * LIN + PAGE(i));
	assert_int_equal(inline_read(&r, 2 * LIN + PAGE(510), MODE_SUPER), PAGE(510));
	assert_int_equal(inline_read(&r, 2 * LIN + PAGE(3), MODE_SUPER), PAGE(3));
	rig_read(&r, 2 * LIN + large + PAGE(7));
	for (unsigned i = 0; i < 512; i++)
		assert_int_equal(inline_read(&r, 2 * LIN + PAGE(i), MODE_SUPER), NOT_SERVED);
	assert_int_equal(inline_read(&r, 2 * LIN + large + PAGE(7), MODE_SUPER), large + PAGE(7));
	rig_end(&r);
}

typedef void (*change)(struct rig *r);

static void by_invlpg(struct rig *r) { mmu_flush_page(&r->mmu, gva(LIN)); }
static void by_cr3(struct rig *r) { rig_set_cr3(r, r->mmu.regs.cr3 + PAGE_SIZE); }
static void by_vpid(struct rig *r) { rig_set_vpid(r, 5); }
static void by_invvpid(struct rig *r) { mmu_flush_vpid_all(&r->mmu, 0); }
static void by_reset(struct rig *r) { mmu_flush_everything(&r->mmu); }
static void by_host(struct rig *r) { mmu_fast_flush(&r->mmu); }

static void gone_with_the_translation(void **state)
{
	static const change changes[] = {by_invlpg, by_cr3, by_vpid, by_invvpid, by_reset, by_host};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(changes); i++) {
		struct rig r;

		begin(&r);
		rig_read(&r, LIN);
		rig_access(&r, LIN, ACCESS_FETCH);
		changes[i](&r);
		assert_int_equal(inline_read(&r, LIN, MODE_SUPER), NOT_SERVED);
		assert_int_equal(inline_fetch(&r, LIN, MODE_SUPER), NOT_SERVED);
				rig_end(&r);
	}
}

/* A page fault drops the translation, and with it what serves the other modes. */
static void gone_with_a_fault(void **state)
{
	struct xlate x;
	struct rig r;

	(void)state;
	begin(&r);
	rig_map(&r, LIN, 12, TO | PTE_P | PTE_A);
	rig_read(&r, LIN);
	assert_int_equal(rig_try(&r, LIN, ACCESS_READ, MODE_USER, &x), XLATE_PAGE_FAULT);
	assert_int_equal(inline_read(&r, LIN, MODE_SUPER), NOT_SERVED);
	rig_end(&r);
}

static void watched_data(void **state)
{
	struct rig r;

	(void)state;
	begin(&r);
	r.mmu.data_watch = true;
	rig_read(&r, LIN);
	assert_int_equal(inline_read(&r, LIN, MODE_SUPER), NOT_SERVED);
	assert_null(mmu_data_resident(&r.mmu, LIN, ACCESS_READ, MODE_SUPER));
	r.mmu.data_watch = false;
	r.mmu.data_cache = true;
	rig_read(&r, LIN);
	assert_int_equal(inline_read(&r, LIN, MODE_SUPER), NOT_SERVED);
	assert_null(mmu_data_resident(&r.mmu, LIN, ACCESS_READ, MODE_SUPER));
	rig_access(&r, LIN, ACCESS_FETCH); /* instructions are no data */
	assert_int_equal(inline_fetch(&r, LIN, MODE_SUPER), TO);
	r.mmu.data_cache = false;
	assert_ptr_equal(mmu_data_resident(&r.mmu, LIN + 5, ACCESS_WRITE, MODE_SUPER), r.mem.host + TO + 5);
	rig_end(&r);
}

static void pages_with_code_are_read_only(void **state)
{
	struct rig r;

	(void)state;
	begin(&r);
	r.mem.code_map[TO >> PAGE_SHIFT] = 1;
	rig_access(&r, LIN, ACCESS_WRITE);
	assert_int_equal(inline_read(&r, LIN, MODE_SUPER), TO);
	assert_int_equal(inline_write(&r, LIN, MODE_SUPER), NOT_SERVED);
	assert_null(mmu_data_resident(&r.mmu, LIN, ACCESS_WRITE, MODE_SUPER));
	rig_end(&r);
}

static void no_devices_and_no_misalignment(void **state)
{
	struct xlate x;
	struct rig r;

	(void)state;
	begin(&r);
	rig_map(&r, LIN, 12, 0xfee00000 | RIG_LEAF);
	rig_read(&r, LIN);
	assert_int_equal(inline_read(&r, LIN, MODE_SUPER), NOT_SERVED);
	assert_null(mmu_data_resident(&r.mmu, LIN, ACCESS_READ, MODE_SUPER));
	assert_int_equal(rig_try(&r, LIN + PAGE(1), ACCESS_READ, MODE_USER_ALIGN, &x), XLATE_OK);
	assert_int_equal(inline_read(&r, LIN + PAGE(1), MODE_USER_ALIGN), NOT_SERVED);
	rig_end(&r);
}

static void switched_off(void **state)
{
	struct rig r;

	(void)state;
	begin(&r);
	r.mmu.fast_path = false;
	rig_read(&r, LIN);
	rig_access(&r, LIN, ACCESS_FETCH);
	assert_int_equal(inline_read(&r, LIN, MODE_SUPER), NOT_SERVED);
	assert_int_equal(inline_fetch(&r, LIN, MODE_SUPER), NOT_SERVED);
	rig_end(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(serves_what_was_translated),
		cmocka_unit_test(clean_pages_are_not_written),
		cmocka_unit_test(a_hit_changes_the_order),
		cmocka_unit_test(a_fetch_changes_the_order),
		cmocka_unit_test(left_and_come_back),
		cmocka_unit_test(a_large_page_leaves),
		cmocka_unit_test(gone_with_the_translation),
		cmocka_unit_test(gone_with_a_fault),
		cmocka_unit_test(watched_data),
		cmocka_unit_test(pages_with_code_are_read_only),
		cmocka_unit_test(no_devices_and_no_misalignment),
		cmocka_unit_test(switched_off),
	};

	return cmocka_run_group_tests_name("fast", tests, NULL, NULL);
}
