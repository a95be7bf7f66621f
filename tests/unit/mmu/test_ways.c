/* Sets of up to 16 ways: the permutation against a list that is moved about by hand, and searches. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "mmu/ways.h"

static uint32_t next_random(uint32_t *x) { return *x = *x * 1664525u + 1013904223u; }

static void to_front(uint32_t *list, uint32_t ways, uint32_t way)
{
	uint32_t at = 0;

	while (at < ways && list[at] != way)
		at++;
	memmove(&list[1], &list[0], at * sizeof(*list));
	list[0] = way;
}

static void order_is_lru(void **state)
{
	uint32_t x = 1;

	(void)state;
	for (uint32_t ways = 1; ways <= WAYS_LINE; ways++) {
		_Alignas(64) struct ways_line l = {.order = 0};
		uint32_t list[WAYS_LINE];

		for (uint32_t w = 0; w < ways; w++) {
			list[w] = w;
			l.part[w] = ways_part(w);
		}
		for (unsigned i = 0; i < 2000; i++) {
			uint32_t way = (next_random(&x) >> 16) % ways;

			if (i % 3 == 0)
				assert_int_equal(ways_replace(&l, ways), way = list[ways - 1]);
			else
				ways_touch(&l, way);
			to_front(list, ways, way);
		}
	}
}

static void empty_ways_first(void **state)
{
	_Alignas(64) struct ways_line l = {.order = 0};

	(void)state;
	for (uint32_t w = 0; w < 12; w++) {
		assert_int_equal(ways_replace(&l, 12), w);
		l.part[w] = ways_part(100 + w);
	}
	assert_int_equal(ways_replace(&l, 12), 0);
	l.part[7] = l.part[3] = 0;
	assert_int_equal(ways_replace(&l, 12), 3); /* the first */
	l.part[3] = ways_part(103);
	assert_int_equal(ways_replace(&l, 12), 7);
	l.part[7] = ways_part(107);
	assert_int_equal(ways_replace(&l, 12), 1); /* which 3 and 7 are more recent than now */
}

static void matches_by_bit(void **state)
{
	_Alignas(64) struct ways_line l = {.order = 0};

	(void)state;
	for (uint64_t key = 0; key < 100000; key += 7)
		assert_int_not_equal(ways_part(key), 0);
	l.part[0] = l.part[9] = l.part[15] = ways_part(5);
	l.part[4] = ways_part(6);
	assert_int_equal(ways_match(&l, ways_part(5)), 1u << 0 | 1u << 9 | 1u << 15);
	assert_int_equal(ways_match(&l, ways_part(6)), 1u << 4);
	assert_int_equal(ways_match(&l, ways_part(7)), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(order_is_lru),
		cmocka_unit_test(empty_ways_first),
		cmocka_unit_test(matches_by_bit),
	};

	return cmocka_run_group_tests_name("ways", tests, NULL, NULL);
}
