/*
 * Random programs on the operating-system model, under every setting that changes what it does: after each event all
 * of its books must agree (osm_audit()), and memory, walked independently, must say what they say. Few pages, few
 * areas and little memory, so that everything meets everything.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "../../fuzz/pick.h"
#include "os_program.h"

static void explain(const struct osm_config *cfg, unsigned n, const struct trace_event *ev, const struct error *err)
{
	fail_msg("pages %d, kind %d, pcid %d, fragmentation %u, promote %u, seed %llu, event %u (%s %#llx %#llx): %s", cfg->pages,
		 cfg->kind, cfg->pcid, cfg->fragmentation, cfg->promote, (unsigned long long)cfg->seed, n,
		 trace_kind_name(ev->kind), (unsigned long long)ev->addr, (unsigned long long)ev->value, err->text);
}

/* Returns false if memory was full before the end. */
static bool run(const struct osm_config *cfg, unsigned events, struct osm_stats *s)
{
	struct os_program p = os_program(1 + next_random(&random_state) % 1000000);
	struct os_rig *r = malloc(sizeof(*r));
	struct error err = {0};
	bool whole = true;

	assert_non_null(r);
	assert_int_equal(rig_init(r, cfg, &err), 0);
	for (unsigned i = 0; i < events && whole; i++) {
		struct trace_event ev = os_program_event(&p);
		int ret = rig_put(r, ev, &err);

		if (ret == -ENOMEM) {
			whole = false;
			break;
		}
		if (!ret)
			ret = osm_audit(r->osm, &err);
		if (!ret && i % 8 == 0)
			ret = rig_compare(r, p.space[p.current], &err);
		if (ret)
			explain(cfg, i, &ev, &err);
	}
	osm_stats(r->osm, s);
	rig_destroy(r);
	free(r);
	return whole;
}

static struct osm_stats total; /* of all tests here */

static struct osm_config random_config(unsigned kind, unsigned round)
{
	struct osm_config cfg;

	osm_config_init(&cfg, (64 + 2 * pick(5)) * MIB);
	cfg.kind = kind;
	cfg.pages = pick(3);
	cfg.pcid = pick(2);
	cfg.fragmentation = round % 3 ? round % 3 * 50 : pick(100);
	cfg.seed = pick(1000);
	cfg.promote = pick(4) ? 1 + pick(5) : 0;
	cfg.gap = pick(8) * MIB;
	cfg.tea_threshold = (1 + pick(8)) * MIB;
	cfg.tea_bubble = pick(30);
	cfg.pool_segment = (1 + pick(3)) * 2 * MIB;
	return cfg;
}

static void many(unsigned kind, unsigned rounds, struct osm_stats *sum)
{
	uint64_t *to = (uint64_t *)sum;

	memset(sum, 0, sizeof(*sum));
	random_state = 0x1234567 + kind;
	for (unsigned i = 0; i < rounds; i++) {
		struct osm_config cfg = random_config(kind, i);
		struct osm_stats s;
		const uint64_t *from = (const uint64_t *)&s;

		run(&cfg, 400, &s);
		for (unsigned k = 0; k < sizeof(s) / sizeof(*from); k++)
			to[k] += from[k];
	}
	to = (uint64_t *)&total;
	for (unsigned k = 0; k < sizeof(total) / sizeof(*to); k++)
		to[k] += ((const uint64_t *)sum)[k];
}

static void plain(void **state)
{
	struct osm_stats s;

	(void)state;
	many(OSM_PLAIN, 6, &s);
	assert_true(!s.tea.made && !s.pool.segments && !s.frames_moved);
}

static void hugegpt(void **state)
{
	struct osm_stats s;

	(void)state;
	many(OSM_HUGEGPT, 6, &s);
	assert_true(s.pool.segments && s.pool.fallbacks && !s.pool.refused);
}

static void check_tea_stats(const struct osm_stats *s)
{
	assert_true(s->tea.made && s->tea.made_2m && s->tea.freed && s->tea.grown_in_place && s->tea.migrated);
	assert_true(s->tea.merged && s->tea.doubled && s->tea.fallbacks && s->tea.tables_moved && s->frames_moved);
}

static void dmt(void **state)
{
	struct osm_stats s;

	(void)state;
	many(OSM_DMT, 15, &s);
	check_tea_stats(&s);
}

static void pvdmt(void **state)
{
	struct osm_stats s;

	(void)state;
	many(OSM_PVDMT, 12, &s);
	check_tea_stats(&s);
	assert_true(s.tea.requests && !s.tea.refused);
}

/* If one of these is 0, the programs do not do what they are for. */
static void everything_happened(void **state)
{
	const struct osm_stats *s = &total;

	(void)state;
	assert_true(s->cow_copies && s->cow_reuses && s->huge_faults && s->promotions && s->splits);
	assert_true(s->huge_missed && s->inferred && s->widened && s->forks && s->exits && s->switches);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain), cmocka_unit_test(hugegpt), cmocka_unit_test(dmt), cmocka_unit_test(pvdmt),
		cmocka_unit_test(everything_happened),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
