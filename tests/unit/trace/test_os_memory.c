/*
 * What the operating-system model stands on: sets of numbers, the buddy allocator, areas; each against a plain array.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>

#include "../../fuzz/pick.h"
#include "trace/os_buddy.h"
#include "trace/os_vma.h"

/* ---- sets ---- */

#define BITS 5000u

static uint64_t plain_gap(const bool *in, uint64_t n, uint64_t align)
{
	for (uint64_t at = 0; at + n <= BITS; at += align) {
		uint64_t k = 0;

		while (k < n && !in[at + k])
			k++;
		if (k == n)
			return at;
	}
	return OS_BITS_NONE;
}

static void sets_find_what_arrays_find(void **state)
{
	struct os_bits b;
	bool in[BITS] = {false};

	(void)state;
	assert_int_equal(os_bits_init(&b, BITS), 0);
	assert_true(os_bits_next(&b, 0) == OS_BITS_NONE && os_bits_last(&b) == OS_BITS_NONE);
	for (unsigned round = 0; round < 20000; round++) {
		uint64_t n = round % 3000 < 1500 ? pick(BITS) : pick(200), next = n, gap = n, last = BITS;

		in[n] = pick(3) > (round / 5000) % 2;
		if (in[n])
			os_bits_add(&b, n);
		else
			os_bits_remove(&b, n);
		n = pick(BITS);
		for (next = n; next < BITS && !in[next];)
			next++;
		for (gap = n; gap < BITS && in[gap];)
			gap++;
		while (last && !in[last - 1])
			last--;
		assert_int_equal(os_bits_has(&b, n), in[n]);
		assert_true(os_bits_next(&b, n) == (next < BITS ? next : OS_BITS_NONE));
		assert_true(os_bits_next_gap(&b, n) == (gap < BITS ? gap : OS_BITS_NONE));
		assert_true(os_bits_last(&b) == last - 1);
		if (round % 50 == 0) {
			uint64_t want = 1 + pick(40), align = 1ull << pick(5);

			assert_true(os_bits_find_gap(&b, want, align) == plain_gap(in, want, align));
		}
	}
	os_bits_free(&b);
}

/* ---- the allocator ---- */

#define FRAMES 4096u

static void check_buddy(const struct os_buddy *b, const bool *used)
{
	struct error err = {0};
	uint64_t free = 0;

	if (os_buddy_audit(b, &err))
		fail_msg("%s", err.text);
	for (unsigned f = 0; f < FRAMES; f++) {
		assert_int_equal(os_buddy_is_free(b, f), !used[f]);
		free += !used[f];
	}
	assert_true(b->free_frames == free);
}

static void set_used(bool *used, uint64_t first, uint64_t n, bool to)
{
	for (uint64_t f = first; f < first + n; f++) {
		assert_int_equal(used[f], !to);
		used[f] = to;
	}
}

static void a_buddy_allocates_what_is_free(void **state)
{
	struct os_buddy b;
	bool used[FRAMES];
	uint64_t first;

	(void)state;
	memset(used, true, sizeof(used));
	assert_int_equal(os_buddy_init(&b, FRAMES), 0);
	assert_int_equal(os_buddy_alloc(&b, 0, &first), -ENOMEM);
	assert_int_equal(os_buddy_alloc_high(&b, 0, &first), -ENOMEM);
	os_buddy_free(&b, 3, FRAMES - 5);
	set_used(used, 3, FRAMES - 5, false);
	check_buddy(&b, used);
	for (unsigned round = 0; round < 3000; round++) {
		unsigned order = pick(4) ? pick(3) : pick(OS_ORDERS);
		uint64_t n = 1ull << order;

		if (pick(2) && os_buddy_alloc(&b, order, &first) == 0) {
			assert_int_equal(first % n, 0);
			set_used(used, first, n, true);
		} else if (pick(4) == 0 && os_buddy_alloc_high(&b, 0, &first) == 0) {
			for (uint64_t f = first + 1; f < FRAMES; f++)
				assert_true(used[f]);
			set_used(used, first, 1, true);
		} else {
			first = pick(FRAMES);
			for (n = 0; n < 60 && first + n < FRAMES && used[first + n];)
				n++;
			if (n)
				os_buddy_free(&b, first, n);
			set_used(used, first, n, false);
			for (n = 0; n < 30 && first + n < FRAMES && !used[first + n];)
				n++;
			os_buddy_take(&b, first, n);
			set_used(used, first, n, true);
		}
		if (round % 10 == 0)
			check_buddy(&b, used);
	}
	os_buddy_destroy(&b);
}

static void a_buddy_merges_and_prefers_small_blocks(void **state)
{
	struct os_buddy b;
	uint64_t first, other;

	(void)state;
	assert_int_equal(os_buddy_init(&b, 2048), 0);
	os_buddy_free(&b, 0, 2048);
	assert_int_equal(os_buddy_alloc(&b, 0, &first), 0);
	assert_int_equal(first, 0);
	assert_int_equal(os_buddy_alloc(&b, OS_ORDER_2M, &other), 0); /* what the first one left, not the other half */
	assert_int_equal(other, 512);
	os_buddy_free(&b, first, 1);
	assert_int_equal(os_buddy_alloc(&b, OS_ORDER_2M, &first), 0);
	assert_int_equal(first, 0);
	os_buddy_free(&b, 0, 1024);
	assert_int_equal(os_buddy_alloc(&b, 10, &first), 0);
	os_buddy_destroy(&b);
}

/* ---- areas ---- */

#define PAGES 200u

static void check_areas(const struct os_vmas *a, const int *flags)
{
	struct error err = {0};
	unsigned areas = 0;

	if (os_vmas_audit(a, &err))
		fail_msg("%s", err.text);
	for (unsigned p = 0; p < PAGES; p++) {
		const struct os_vma *v = os_vmas_at(a, p * 4096ull + 5);

		assert_int_equal(v ? (int)v->flags : -1, flags[p]);
		areas += flags[p] >= 0 && (!p || flags[p] != flags[p - 1]);
	}
	assert_int_equal(a->n, areas); /* like neighbours are one */
}

static void areas_are_what_arrays_are(void **state)
{
	struct os_vmas a = {0}, copy;
	int flags[PAGES];

	(void)state;
	memset(flags, -1, sizeof(flags));
	for (unsigned round = 0; round < 20000; round++) {
		unsigned first = pick(PAGES), n = 1 + pick(PAGES - first), what = pick(3), f = pick(2);
		bool all = true, some = false;

		if (pick(2))
			n = n % 5 + 1 <= PAGES - first ? n % 5 + 1 : n;
		for (unsigned p = first; p < first + n; p++) {
			all &= flags[p] >= 0 && flags[p] == flags[first];
			some |= flags[p] >= 0;
		}
		assert_int_equal(os_vmas_touch(&a, first * 4096ull, (first + n) * 4096ull), some);
		assert_int_equal(os_vmas_cover(&a, first * 4096ull, (first + n) * 4096ull), all);
		if (what == 0 && !some)
			assert_int_equal(os_vmas_add(&a, (struct os_vma){first * 4096ull, (first + n) * 4096ull, f}), 0);
		else if (what == 1)
			assert_int_equal(os_vmas_remove(&a, first * 4096ull, (first + n) * 4096ull), 0);
		else
			assert_int_equal(os_vmas_change(&a, first * 4096ull, (first + n) * 4096ull, f, !f), 0);
		for (unsigned p = first; p < first + n; p++)
			flags[p] = what == 0 && !some ? (int)f : what == 1 || flags[p] < 0 ? -1 : (int)f;
		check_areas(&a, flags);
	}
	assert_int_equal(os_vmas_copy(&copy, &a), 0);
	check_areas(&copy, flags);
	os_vmas_free(&copy);
	os_vmas_free(&a);
}

static void areas_end_somewhere(void **state)
{
	struct os_vmas a = {0};
	uint64_t at = 0;

	(void)state;
	for (unsigned i = 0; i < OS_VMAS_MAX; i++, at += 8192)
		assert_int_equal(os_vmas_add(&a, (struct os_vma){at, at + 4096, 0}), 0);
	assert_int_equal(os_vmas_add(&a, (struct os_vma){at, at + 4096, 0}), -E2BIG);
	assert_int_equal(a.n, OS_VMAS_MAX);
	os_vmas_free(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sets_find_what_arrays_find),
		cmocka_unit_test(a_buddy_allocates_what_is_free),
		cmocka_unit_test(a_buddy_merges_and_prefers_small_blocks),
		cmocka_unit_test(areas_are_what_arrays_are),
		cmocka_unit_test(areas_end_somewhere),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
