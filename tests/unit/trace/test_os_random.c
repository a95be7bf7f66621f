/*
 * Random programs on the operating-system model, under every setting that changes what it does: after each event all of
 * its books must agree (osm_audit()), and memory, walked independently, must say what they say. Few pages, few areas
 * and little memory, so that everything meets everything.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "../../fuzz/pick.h"
#include "base/util.h"
#include "os_rig.h"

#define MIB (1ull << 20)

struct program {
	uint64_t space[6]; /* that there are */
	unsigned spaces, current;
	uint64_t next;     /* number of a new one */
	uint64_t at;       /* where accesses go on */
};

/* Somewhere in four regions: a heap, two that are near each other, and below the stack's end. */
static uint64_t random_page(void)
{
	static const uint64_t base[4] = {16 * MIB, 0x7f0000000000, 0x7f0003000000, 0x7ff000000000};

	return base[pick(4)] + (pick(3) ? pick(6) * 2 * MIB + pick(12) * 4096ull : pick(8 * 256) * 4096ull * (1 + pick(4)));
}

static uint64_t random_bytes(void)
{
	switch (pick(16)) {
	case 0:
		return (1 + pick(8)) * 1024 * MIB; /* a TEA of thousands of frames, which not always can be had */
	case 1:
	case 2:
	case 3:
	case 4:
		return (1 + pick(8)) * 2 * MIB;
	case 5:
	case 6:
	case 7:
		return (1 + pick(16)) * MIB;
	default:
		return (1 + pick(40)) * 4096ull;
	}
}

static struct trace_event random_access(struct program *p)
{
	static const unsigned size[] = {1, 2, 4, 8, 8, 64};

	if (pick(3) == 0)
		p->at = random_page();
	else
		p->at += pick(2) ? 4096 : pick(8192);
	return rig_access(TRACE_READ + pick(8) % 3, p->at, size[pick(ARRAY_SIZE(size))]);
}

static struct trace_event random_space_event(struct program *p)
{
	unsigned other = pick(p->spaces);
	uint64_t gone;

	switch (pick(3)) {
	case 0:
		if (p->spaces == ARRAY_SIZE(p->space))
			break;
		p->space[p->spaces++] = ++p->next;
		return rig_event(TRACE_FORK, 0, p->next);
	case 1:
		if (other == p->current)
			break;
		gone = p->space[other];
		p->space[other] = p->space[--p->spaces];
		if (p->current == p->spaces)
			p->current = other;
		return rig_event(TRACE_EXIT, 0, gone);
	default:
		if (pick(4) == 0 && p->spaces < ARRAY_SIZE(p->space))
			p->space[other = p->spaces++] = ++p->next; /* one that begins empty */
		p->current = other;
		return rig_event(TRACE_SWITCH, 0, p->space[other]);
	}
	return random_access(p);
}

static struct trace_event random_event(struct program *p)
{
	static const unsigned advice[] = {TRACE_MAP_HUGE, TRACE_MAP_NOHUGE, TRACE_MAP_FREE};
	uint64_t at = random_page() & (pick(2) ? ~(2 * MIB - 1) : ~0ull);
	struct trace_event ev;

	switch (pick(28)) {
	case 0:
	case 1:
		return rig_map(at, random_bytes(), pick(0x40));
	case 2:
		return rig_event(TRACE_UNMAP, at, random_bytes());
	case 3:
		ev = rig_event(TRACE_ADVISE, at, random_bytes() % (64 * MIB) + 4096);
		ev.flags = (uint8_t)advice[pick(3)];
		return ev;
	case 4:
		return random_space_event(p);
	case 5:
		return rig_event(TRACE_INSNS, 0, 1 + pick(100));
	default:
		return random_access(p);
	}
}

static void explain(const struct osm_config *cfg, unsigned n, const struct trace_event *ev, const struct error *err)
{
	fail_msg("pages %d, kind %d, pcid %d, fragmentation %u, promote %u, seed %llu, event %u (%s %#llx %#llx): %s", cfg->pages,
		 cfg->kind, cfg->pcid, cfg->fragmentation, cfg->promote, (unsigned long long)cfg->seed, n,
		 trace_kind_name(ev->kind), (unsigned long long)ev->addr, (unsigned long long)ev->value, err->text);
}

/* Returns false if memory was full before the end. */
static bool run(const struct osm_config *cfg, unsigned events, struct osm_stats *s)
{
	struct program p = {.spaces = 1};
	struct os_rig *r = malloc(sizeof(*r));
	struct error err = {0};
	bool whole = true;

	assert_non_null(r);
	assert_int_equal(rig_init(r, cfg, &err), 0);
	for (unsigned i = 0; i < events && whole; i++) {
		struct trace_event ev = random_event(&p);
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
