/* Access patterns and machines filled by the model of an operating system: bounds, repeatability, references of walks. */
#include "lab/footprint.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#define MIB ((uint64_t)1 << 20)

/* ---- patterns ---- */

static void stays_within(const struct pattern *p, uint64_t bytes, unsigned steps)
{
	struct trace_event *ev = malloc(PATTERN_STEP_MAX * sizeof(*ev)), *again = malloc(PATTERN_STEP_MAX * sizeof(*ev));
	struct pattern_run r, s;
	struct error err;

	pattern_begin(&r, p, bytes);
	pattern_begin(&s, p, bytes);
	for (unsigned i = 0; i < steps; i++) {
		unsigned n = pattern_step(&r, ev);

		assert_in_range(n, 1, PATTERN_STEP_MAX);
		assert_int_equal(pattern_step(&s, again), n);
		assert_memory_equal(ev, again, n * sizeof(*ev));
		for (unsigned j = 0; j < n; j++) {
			assert_int_equal(trace_event_check(&ev[j], &err), 0);
			assert_in_range(ev[j].addr, PATTERN_BASE, PATTERN_BASE + bytes - ev[j].size);
			assert_int_equal(ev[j].addr % ev[j].size, 0);
		}
		assert_true(trace_begins_insn(&ev[0]));
	}
	free(again);
	free(ev);
}

static void bounds(void **state)
{
	static const uint64_t bytes[] = {PATTERN_BYTES_MIN, 3 * MIB, 64 * MIB, 1000 * MIB, FOOTPRINT_MAX};

	(void)state;
	for (const struct pattern *p = patterns; p->name; p++)
		for (unsigned i = 0; i < ARRAY_SIZE(bytes); i++)
			stays_within(p, bytes[i], 3000);
	assert_ptr_equal(pattern_find("gups"), &patterns[0]);
	assert_null(pattern_find("forkwait"));
}

/* A tree's path is as long as its depth, and ends at the element: two words, of which the second is read behind the first. */
static void tree_paths(void **state)
{
	struct trace_event ev[PATTERN_STEP_MAX];
	struct pattern_run r;
	unsigned n = 0;

	(void)state;
	pattern_begin(&r, pattern_find("btree"), 64 * MIB);
	for (unsigned i = 0; i < 100; i++) {
		unsigned k = pattern_step(&r, ev);

		assert_int_equal(ev[k - 1].addr, ev[k - 2].addr + 8);
		n += k;
	}
	/* 81,000 leaves: five levels of about 6 reads, with the one above */
	assert_in_range(n / 100, 25, 45);
}

/* ---- machines ---- */

static void refs(const char *hw_name, enum engine_mmu mmu, enum osm_kind kind, bool large, unsigned expected)
{
	const struct pattern *const gups[] = {&patterns[0]};
	struct footprint_config cfg = {.mmu = mmu, .kind = kind, .large = large, .bytes = large ? 4096 * MIB : 64 * MIB,
				       .warm = 2000, .accesses = 4000};
	struct footprint_count c;
	struct error err = {0};
	struct hw hw;

	assert_int_equal(hw_load(&hw, hw_name, &err), 0);
	cfg.hw = &hw;
	if (footprint_run(&cfg, gups, 1, &c, &err))
		fail_msg("%s: %s", engine_mmu_name[mmu], err.text);
	assert_int_equal(c.steps, 2000);
	assert_int_equal(c.accesses, 4000);
	assert_int_equal(c.obs.exits.total, 0);
	assert_true(c.obs.translation.walks > 100);
	if (c.obs.translation.refs != expected * c.obs.translation.walks)
		fail_msg("%s, %s pages: %llu references, %llu walks", engine_mmu_name[mmu], large ? "2M" : "4K",
			 (unsigned long long)c.obs.translation.refs, (unsigned long long)c.obs.translation.walks);
}

static void golden(void **state)
{
	(void)state;
	for (unsigned large = 0; large < 2; large++) {
		refs("textbook", ENGINE_NATIVE, OSM_PLAIN, large, large ? 3 : 4);
		refs("textbook", ENGINE_EPT, OSM_PLAIN, large, large ? 15 : 24);
		refs("textbook", ENGINE_NESTED, OSM_PLAIN, large, large ? 15 : 24);
		refs("skylake", ENGINE_NATIVE_DMT, OSM_DMT, large, 1);
		refs("skylake", ENGINE_DMT, OSM_DMT, large, 3);
		refs("skylake", ENGINE_PVDMT, OSM_PVDMT, large, 2);
		refs("skylake", ENGINE_NESTED_PVDMT, OSM_PVDMT, large, 3);
	}
	refs("textbook", ENGINE_HUGEGPT, OSM_HUGEGPT, false, 20);
}

static void refused(void **state)
{
	struct footprint_config cfg = {.mmu = ENGINE_NATIVE, .bytes = FOOTPRINT_MIN / 2};
	struct error err = {0};

	(void)state;
	assert_int_equal(footprint_run(&cfg, NULL, 0, NULL, &err), -EINVAL);
	cfg.bytes = FOOTPRINT_MAX + 2 * MIB;
	assert_int_equal(footprint_run(&cfg, NULL, 0, NULL, &err), -EINVAL);
	cfg.bytes = FOOTPRINT_MIN + PAGE_SIZE;
	assert_int_equal(footprint_run(&cfg, NULL, 0, NULL, &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bounds),
		cmocka_unit_test(tree_paths),
		cmocka_unit_test(golden),
		cmocka_unit_test(refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
