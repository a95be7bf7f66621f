/*
 * Rows of hit places in the form of the DMT artifact's simulators, of walks written down by hand: which field a step is in,
 * how rows are counted and ordered, and which walks no row can hold.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lab/sim_log.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct walk_log *new_walk(void)
{
	struct walk_log *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	return w;
}

static void reference(struct walk_log *w, enum walk_stage stage, unsigned level, unsigned guest_level, enum hw_place place)
{
	w->step[w->steps++] = (struct walk_step){.what = STEP_REF, .stage = stage, .level = (uint8_t)level,
						 .guest_level = (uint8_t)guest_level, .place = (uint8_t)place};
}

static void cached(struct walk_log *w, int what, enum walk_stage stage, unsigned level, unsigned guest_level)
{
	reference(w, stage, level, guest_level, HW_L1);
	w->step[w->steps - 1].what = what;
}

/* Latencies of the artifact's simulators. */
static struct hw latencies(void)
{
	return (struct hw){.cache = {[HW_L1] = {.latency = 4}, [HW_L2] = {.latency = 14}, [HW_LLC] = {.latency = 54}},
			   .memory_latency = 200, .cost = {.walk_cache_hit = 1}};
}

/* The rows that @l has, after the line of tildes. */
static void rows(const struct sim_log *l, const char *want)
{
	char *text = NULL, *at;
	size_t n;
	FILE *f = open_memstream(&text, &n);
	struct hw hw = latencies();
	struct error err;

	assert_int_equal(sim_log_write(l, &hw, f, "sim.log", &err), 0);
	fclose(f);
	at = strstr(text, "~~~~~~~~~");
	assert_non_null(at);
	assert_null(strchr(at, 'n')); /* no line of words behind it */
	assert_string_equal(strchr(at, '\n') + 1, want);
	free(text);
}

static void test_native(void **state)
{
	struct sim_log *l = sim_log_create(false);
	struct walk_log *w = new_walk();
	struct error err;

	(void)state;
	assert_int_equal(sim_log_put(l, w, &err), 0); /* a TLB held it */
	for (unsigned level = 4; level >= 1; level--)
		reference(w, STAGE_GUEST, level, 0, (enum hw_place)(4 - level));
	assert_int_equal(sim_log_put(l, w, &err), 0);
	assert_int_equal(sim_log_put(l, w, &err), 0);
	w->steps = 0; /* a walk cache held the PDPTE, and the page has 2 MiB */
	cached(w, STEP_WALK_CACHE, STAGE_GUEST, 3, 0);
	reference(w, STAGE_GUEST, 2, 0, HW_MEMORY);
	assert_int_equal(sim_log_put(l, w, &err), 0);
	rows(l, "L1,L2,LLC,MEMORY,RANGE_HIT,\t2\nZERO,PWC,MEMORY,ZERO,RANGE_HIT,\t1\n");
	assert_int_equal(sim_log_walks(l), 3);

	reference(w, STAGE_GUEST, 2, 0, HW_L1); /* again */
	assert_int_equal(sim_log_put(l, w, &err), 0);
	w->steps = 0;
	reference(w, STAGE_GUEST, 5, 0, HW_L1);
	assert_int_equal(sim_log_put(l, w, &err), 0);
	w->steps = 0;
	reference(w, STAGE_HOST, 1, 0, HW_L1);
	assert_int_equal(sim_log_put(l, w, &err), 0);
	assert_int_equal(sim_log_left_out(l), 3);
	assert_int_equal(sim_log_walks(l), 3);
	free(w);
	sim_log_destroy(l);
}

/* Direct translation: only what it reads is a step. What falls back is left out if that reads an entry again. */
static void test_direct(void **state)
{
	struct sim_log *l = sim_log_create(false);
	struct walk_log *w = new_walk();
	struct error err;

	(void)state;
	cached(w, STEP_REGISTER, STAGE_GUEST, 1, 0);
	reference(w, STAGE_GUEST, 1, 0, HW_L2);
	assert_int_equal(sim_log_put(l, w, &err), 0);
	w->steps = 0; /* no register, so nothing was read before the tables */
	cached(w, STEP_FALL_BACK, STAGE_GUEST, 0, 0);
	for (unsigned level = 4; level >= 1; level--)
		reference(w, STAGE_GUEST, level, 0, HW_L1);
	assert_int_equal(sim_log_put(l, w, &err), 0);
	w->steps = 0;
	reference(w, STAGE_GUEST, 1, 0, HW_L2);
	cached(w, STEP_FALL_BACK, STAGE_GUEST, 0, 0);
	for (unsigned level = 4; level >= 1; level--)
		reference(w, STAGE_GUEST, level, 0, HW_L1);
	assert_int_equal(sim_log_put(l, w, &err), 0);
	rows(l, "L1,L1,L1,L1,RANGE_HIT,\t1\nZERO,ZERO,ZERO,L2,RANGE_HIT,\t1\n");
	assert_int_equal(sim_log_left_out(l), 1);
	free(w);
	sim_log_destroy(l);
}

static void test_nested(void **state)
{
	struct sim_log *l = sim_log_create(true);
	struct walk_log *w = new_walk();
	struct error err;

	(void)state;
	for (unsigned guest = 4; guest >= 1; guest--) {
		for (unsigned host = 4; host >= 1; host--)
			reference(w, STAGE_HOST, host, guest, guest == 4 && host == 4 ? HW_MEMORY : HW_L1);
		reference(w, STAGE_GUEST, guest, 0, HW_L2);
	}
	for (unsigned host = 4; host >= 1; host--)
		reference(w, STAGE_HOST, host, 0, HW_LLC);
	assert_int_equal(w->steps, 24);
	assert_int_equal(sim_log_put(l, w, &err), 0);
	/* The nested TLB knew where the PTE lies, a walk cache the PDE; the host maps the page by 2 MiB. */
	w->steps = 0;
	cached(w, STEP_WALK_CACHE, STAGE_GUEST, 2, 0);
	cached(w, STEP_NESTED_TLB, STAGE_HOST, 0, 1);
	reference(w, STAGE_GUEST, 1, 0, HW_MEMORY);
	cached(w, STEP_WALK_CACHE, STAGE_HOST, 3, 0);
	reference(w, STAGE_HOST, 2, 0, HW_L1);
	assert_int_equal(sim_log_put(l, w, &err), 0);
	rows(l, "MEMORY,L1,L1,L1,L2,L1,L1,L1,L1,L2,L1,L1,L1,L1,L2,L1,L1,L1,L1,L2,LLC,LLC,LLC,LLC,RANGE_HIT,\t1\n"
		"ZERO,ZERO,ZERO,ZERO,ZERO,ZERO,ZERO,ZERO,ZERO,ZERO,ZERO,ZERO,ZERO,ZERO,PWC,"
		"ZERO,ZERO,ZERO,PWC,MEMORY,ZERO,PWC,L1,ZERO,RANGE_HIT,\t1\n");
	free(w);
	sim_log_destroy(l);
}

/* Many rows: the table grows, and the order stays. */
static void test_many(void **state)
{
	struct sim_log *l = sim_log_create(true);
	struct walk_log *w = new_walk();
	char *text = NULL, *line, *before;
	unsigned n = 0;
	size_t bytes;
	struct hw hw = latencies();
	struct error err;
	FILE *f;

	(void)state;
	for (unsigned i = 0; i < 4096; i++) {
		w->steps = 0;
		for (unsigned j = 0; j < 6; j++)
			reference(w, STAGE_HOST, 4 - j % 4, j < 4 ? 3 : 0, (enum hw_place)(i >> (2 * j) & 3));
		for (unsigned j = 0; j <= i % 3; j++)
			assert_int_equal(sim_log_put(l, w, &err), 0);
	}
	f = open_memstream(&text, &bytes);
	assert_int_equal(sim_log_write(l, &hw, f, "sim.log", &err), 0);
	fclose(f);
	before = strchr(strstr(text, "~~~~~~~~~"), '\n') + 1;
	for (line = before; *line; line = strchr(line, '\n') + 1)
		n += (unsigned)atoi(strchr(line, '\t') + 1);
	assert_int_equal(n, sim_log_walks(l));
	assert_int_equal(n, 8191);
	assert_memory_equal(before, "ZERO,ZERO,ZERO,ZERO,ZERO,MEMORY,MEMORY,MEMORY,MEMORY,", 53);
	free(text);
	free(w);
	sim_log_destroy(l);
}

static void means(const struct sim_log *l, const double want[SIM_DESIGNS])
{
	struct hw hw = latencies();
	double mean[SIM_DESIGNS];

	sim_log_means(l, &hw, mean);
	for (unsigned d = 0; d < SIM_DESIGNS; d++)
		if (mean[d] < want[d] - 1e-9 || mean[d] > want[d] + 1e-9)
			fail_msg("%s: %f instead of %f", sim_design_name[d], mean[d], want[d]);
}

static void test_means_native(void **state)
{
	struct sim_log *l = sim_log_create(false);
	struct walk_log *w = new_walk();
	struct error err;

	(void)state;
	means(l, (double[]){-1, -1, -1, -1, -1, -1, -1, -1});
	for (unsigned level = 4; level >= 1; level--) /* 4, 14, 54, 200 */
		reference(w, STAGE_GUEST, level, 0, (enum hw_place)(4 - level));
	assert_int_equal(sim_log_put(l, w, &err), 0);
	means(l, (double[]){272, 214, 202, 200, -1, 200, -1, -1});
	/* And one of 2 MiB: 4, 14, 54. */
	w->steps = 3;
	assert_int_equal(sim_log_put(l, w, &err), 0);
	means(l, (double[]){(272 + 72) / 2.0, (214 + 58) / 2.0, (202 + 56) / 2.0, (200 + 54) / 2.0, -1, (200 + 54) / 2.0,
			    -1, -1});
	free(w);
	sim_log_destroy(l);
}

static void test_means_nested(void **state)
{
	struct sim_log *l = sim_log_create(true);
	struct walk_log *w = new_walk();
	struct error err;

	(void)state;
	/* The host's steps 4, 4, 14, 54 each, the guest's 14, 54, 200, 200, to the page 4, 14, 54, 200. */
	for (unsigned guest = 4; guest >= 1; guest--) {
		static const enum hw_place host[] = {HW_LLC, HW_L2, HW_L1, HW_L1};
		static const enum hw_place own[] = {HW_MEMORY, HW_MEMORY, HW_LLC, HW_L2};

		for (unsigned level = 4; level >= 1; level--)
			reference(w, STAGE_HOST, level, guest, host[level - 1]);
		reference(w, STAGE_GUEST, guest, 0, own[guest - 1]);
	}
	for (unsigned level = 4; level >= 1; level--)
		reference(w, STAGE_HOST, level, 0, (enum hw_place)(4 - level));
	assert_int_equal(sim_log_put(l, w, &err), 0);
	means(l, (double[]){
		4 * 76 + 468 + 272,
		(4 + 54 + 54) + (4 + 54 + 200) + (14 + 200), /* G2H2 G2H4 G2, G4H2 G4H4 G4, UDH2 UDH4 */
		54 + 200 + 200 + 12,
		/* Fetching beside: each host walk 54; then 68, 108, 254, 254 likewise; the page's 200. */
		254 + 200,
		468 + 272,
		54 + 200 + 200,
		200 + 200,
		600,
	});
	free(w);
	sim_log_destroy(l);
}

static void test_full_disk(void **state)
{
	struct sim_log *l = sim_log_create(false);
	FILE *f = fopen("/dev/full", "w");
	struct hw hw = latencies();
	struct error err;

	(void)state;
	assert_int_equal(sim_log_write(l, &hw, f, "/dev/full", &err), -ENOSPC);
	fclose(f);
	sim_log_destroy(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_native),
		cmocka_unit_test(test_direct),
		cmocka_unit_test(test_nested),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_means_native),
		cmocka_unit_test(test_means_nested),
		cmocka_unit_test(test_full_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
