/* Statistics of traces, against events whose numbers are known. */
#include "some_events.h"
#include "base/util.h"
#include "trace/stat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void count(struct trace_stat *s, struct trace_event ev)
{
	struct error err;

	assert_int_equal(trace_event_check(&ev, &err), 0);
	assert_int_equal(trace_stat_put(s, &ev, 1, &err), 0);
}

static void access_at(struct trace_stat *s, unsigned kind, uint64_t addr, unsigned size)
{
	count(s, (struct trace_event){.kind = (uint8_t)kind, .size = (uint8_t)size, .mode = TRACE_USER, .addr = addr});
}

static void test_footprint(void **state)
{
	struct trace_stat *s;
	struct trace_stats t;

	(void)state;
	assert_int_equal(trace_stat_create(&s, NULL), 0);
	count(s, (struct trace_event){.kind = TRACE_CR3, .value = 0x1000});
	access_at(s, TRACE_READ, 0x1000, 8);
	access_at(s, TRACE_WRITE, 0x1ff8, 8);
	access_at(s, TRACE_READ, 0x1ffc, 8);        /* and the next page */
	access_at(s, TRACE_FETCH, 0x200000, 3);     /* another 2 MiB */
	access_at(s, TRACE_READ, 0x40000000, 1);    /* another 1 GiB */
	access_at(s, TRACE_READ, 0xffff800000000000, 1);
	count(s, (struct trace_event){.kind = TRACE_CR3, .value = 0x2005});
	access_at(s, TRACE_WRITE, 0x1000, 8);       /* another page: of another space */
	access_at(s, TRACE_READ, 0xffff800000000000, 1); /* the same */
	count(s, (struct trace_event){.kind = TRACE_CR3, .value = 0x1005});
	access_at(s, TRACE_READ, 0x1000, 8);
	count(s, (struct trace_event){.kind = TRACE_INSNS, .value = 7});
	trace_stat_get(s, &t);
	assert_int_equal(t.events, 13);
	assert_int_equal(t.insns, 7);
	assert_int_equal(t.kind[TRACE_READ], 6);
	assert_int_equal(t.mode[TRACE_USER], 9);
	assert_int_equal(t.spaces, 2);
	assert_int_equal(t.pages_4k, 6);
	assert_int_equal(t.pages_2m, 5);
	assert_int_equal(t.pages_1g, 4);
	assert_int_equal(t.written_4k, 2);
	assert_int_equal(t.same_page, 2);
	assert_int_equal(t.read_bytes, 27);
	assert_false(t.at_least);
	trace_stat_destroy(s);
}

static void test_tables(void **state)
{
	static const uint8_t page[PAGE_SIZE];
	struct trace_stat *s;
	struct trace_stats t;

	(void)state;
	assert_int_equal(trace_stat_create(&s, NULL), 0);
	count(s, trace_page(0x1000, page));
	count(s, trace_page(0x1000, page));
	count(s, trace_page(0x5000000, page));
	count(s, (struct trace_event){.kind = TRACE_WRITE, .size = 8, .flags = TRACE_VALUE, .addr = 0x1008,
				      .aux = trace_value_aux(0x1008, 0)});
	trace_stat_get(s, &t);
	assert_int_equal(t.tables, 2);
	assert_int_equal(t.values, 1);
	assert_int_equal(t.pages_4k, 1);
	assert_int_equal(t.pages_2m, 1);
	trace_stat_destroy(s);
}

static void test_working_set(void **state)
{
	struct trace_stat *s;
	struct trace_stats t;

	(void)state;
	assert_int_equal(trace_stat_create(&s, NULL), 0);
	for (unsigned i = 0; i < 2 * TRACE_STAT_WINDOW + 5; i++)
		access_at(s, TRACE_READ, (uint64_t)(i % (i < TRACE_STAT_WINDOW ? 100 : 3000)) << PAGE_SHIFT, 1);
	trace_stat_get(s, &t);
	assert_int_equal(t.windows, 2);
	assert_int_equal(t.window_pages, 3100);
	assert_int_equal(t.window_pages_max, 3000);
	assert_int_equal(t.pages_4k, 3000);
	trace_stat_destroy(s);
}

/* More regions than are told apart: counted as far as they go, and said to be more. */
static void test_bounded(void **state)
{
	struct trace_stat *s;
	struct trace_stats t;

	(void)state;
	assert_int_equal(trace_stat_create(&s, NULL), 0);
	for (uint64_t i = 0; i < TRACE_STAT_REGIONS + 100; i++)
		access_at(s, TRACE_READ, i << 21, 1);
	for (unsigned i = 0; i < TRACE_STAT_SPACES + 5; i++)
		count(s, (struct trace_event){.kind = TRACE_CR3, .value = (uint64_t)i << 12});
	trace_stat_get(s, &t);
	assert_true(t.at_least);
	assert_in_range(t.pages_2m, TRACE_STAT_REGIONS - TRACE_STAT_REGIONS / 512, TRACE_STAT_REGIONS);
	assert_int_equal(t.spaces, TRACE_STAT_SPACES - 1);
	trace_stat_destroy(s);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_footprint), cmocka_unit_test(test_tables), cmocka_unit_test(test_working_set),
		cmocka_unit_test(test_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
