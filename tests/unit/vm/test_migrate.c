/*
 * The protocol of migration with VMs that are none: every way it can go, and every place at which it can break.
 * Whatever happens, never do both ends run the VM or have its files, and it ends with one that does.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "vm/migrate_policy.h"
#include "vm/migrate_wire.h"

#include "migrate_world.h"

static struct migrate_options options(enum migrate_mode mode)
{
	struct migrate_options o = MIGRATE_OPTIONS_DEFAULT;

	o.mode = mode;
	o.downtime_ns = 60 * WORLD_PAGE_NS;
	o.recover_ms = 2000;
	if (mode == MIGRATE_HYBRID)
		o.rounds = 2;
	return o;
}

static void check_moved(struct world *w)
{
	assert_false(w->torn);
	assert_true(w->ran_there);
	assert_false(w->runs_here);
	assert_int_equal(w->running, 1);
	for (unsigned i = 0; i < WORLD_PAGES; i++) {
		static const uint8_t zeros[PAGE_SIZE];

		assert_memory_equal(w->to[i], i % 7 == 3 ? zeros : w->from[i], PAGE_SIZE);
	}
}

static void check_stayed(struct world *w)
{
	assert_false(w->torn);
	assert_false(w->ran_there);
	assert_true(w->runs_here);
	assert_int_equal(w->running, 1);
	assert_int_equal(w->open, 1);
	assert_false(w->tracking);
	assert_int_equal(w->throttle, 0);
}

/* ---- the ways it goes ---- */

/* @bytes: of each end; may be NULL */
static void run_one(struct migrate_options o, unsigned writes, unsigned hot, struct migrate_progress *p,
		    uint64_t bytes[2])
{
	struct world w = {.stall_ms = 2000, .slow = hot == WORLD_PAGES};
	struct migrate_source *s;
	struct error err = {0};

	world_begin(&w, writes, hot);
	s = world_source(&w, &o);
	if (migrate_source_run(s, &err) != MIGRATE_MOVED)
		fail_msg("%s: %s", migrate_mode_name[o.mode], err.text);
	*p = *migrate_source_progress(s);
	migrate_source_free(s);
	world_close(&w);
	check_moved(&w);
	world_end(&w);
	if (bytes)
		memcpy(bytes, w.fault[0].passed, sizeof(w.fault[0].passed));
}

static void check_first_round(const struct migrate_progress *p, bool had_one)
{
	if (!had_one) {
		assert_int_equal(p->first_bytes | p->first_ns, 0);
		return;
	}
	assert_true(p->first_ns > 0 && p->first_ns <= p->total_ns);
	assert_true(p->first_bytes > 0 && p->first_bytes % PAGE_SIZE == 0);
	assert_true(p->first_bytes <= (p->sent - p->zero) * PAGE_SIZE);
}

static void all_modes(void **state)
{
	struct migrate_progress p;

	(void)state;
	for (unsigned mode = 0; mode < MIGRATE_MODES; mode++)
		for (unsigned i = 0; i < 8; i++) {
			struct migrate_options o = options((enum migrate_mode)mode);

			o.compress = i & 1 ? 1 : 0;
			o.verify = i & 2 && mode < MIGRATE_POSTCOPY;
			run_one(o, i & 4 ? 700 : 0, 300, &p, NULL);
			assert_int_equal(p.phase, MIGRATE_OVER);
			assert_int_equal(p.pages, WORLD_PAGES);
			assert_int_equal(p.recoveries, 0);
			if (mode == MIGRATE_STOP || mode == MIGRATE_POSTCOPY || !(i & 4))
				assert_int_equal(p.sent, WORLD_PAGES);
			if (mode == MIGRATE_PRECOPY)
				assert_true(p.round >= (i & 4 ? 2 : 1));
			check_first_round(&p, mode == MIGRATE_PRECOPY || mode == MIGRATE_HYBRID);
		}
}

static void each_page_goes_once_by_postcopy(void **state)
{
	struct migrate_progress p;

	(void)state;
	run_one(options(MIGRATE_POSTCOPY), 900, WORLD_PAGES, &p, NULL);
	assert_int_equal(p.sent, WORLD_PAGES);
	assert_int_equal(p.round, 0);
	assert_true(p.demanded > 0);
	run_one(options(MIGRATE_HYBRID), 3000, WORLD_PAGES, &p, NULL);
	assert_int_equal(p.round, 2);
	assert_true(p.sent > WORLD_PAGES);
}

static void writes_more_than_can_be_sent(void **state)
{
	struct migrate_options o = options(MIGRATE_PRECOPY);
	struct migrate_progress p;
	struct world w = {.stall_ms = 2000};
	struct migrate_source *s;
	struct error err = {0};

	(void)state;
	o.rounds = 8;
	run_one(o, 8000, WORLD_PAGES, &p, NULL); /* the last round ends it, whatever the downtime */
	assert_int_equal(p.round, 8);
	assert_true(p.expected_ns > o.downtime_ns);
	o.rounds = 40;
	o.auto_converge = true;
	run_one(o, 2000, WORLD_PAGES, &p, NULL);
	assert_true(p.round > 4 && p.round < 40);
	assert_true(p.expected_ns <= o.downtime_ns);
	o = options(MIGRATE_PRECOPY);
	o.rounds = 5;
	o.strict = true;
	world_begin(&w, 8000, WORLD_PAGES);
	s = world_source(&w, &o);
	assert_int_equal(migrate_source_run(s, &err), MIGRATE_STAYED);
	assert_int_equal(err.code, -ETIME);
	migrate_source_free(s);
	world_close(&w);
	check_stayed(&w);
	world_end(&w);
}

/* ---- the policy ---- */

static void policy(void **state)
{
	struct migrate_options o = MIGRATE_OPTIONS_DEFAULT;
	struct migrate_round r = {.pages = 10000, .zeros = 5000, .bytes = 41000000, .ns = 1000000000, .left = 5000};
	struct migrate_policy p;

	(void)state;
	migrate_policy_init(&p, &o, 1000000);
	/* 10,000 pages a second: 5000 take half a second, more than 300 ms */
	assert_int_equal(migrate_policy_decide(&p, &r), MIGRATE_GO_ON);
	assert_int_equal(p.expected_ns, 501000000);
	assert_int_equal(p.dirty_per_second, 5000);
	r = (struct migrate_round){.pages = 5000, .bytes = 20500000, .ns = 500000000, .left = 2980};
	assert_int_equal(migrate_policy_decide(&p, &r), MIGRATE_FINISH);
	assert_int_equal(p.expected_ns, 299000000);
	/* few pages end it whatever they cost */
	migrate_policy_init(&p, &o, 1000000000);
	r.left = MIGRATE_FEW_PAGES;
	assert_int_equal(migrate_policy_decide(&p, &r), MIGRATE_FINISH);
	/* the throttle: two rounds that lose, then 20, 30 ... 99 percent */
	o.auto_converge = true;
	o.rounds = 100;
	migrate_policy_init(&p, &o, 0);
	r = (struct migrate_round){.pages = 10000, .bytes = 41000000, .ns = 1000000000, .left = 9000};
	for (unsigned i = 1; i < 60; i++) {
		assert_int_equal(migrate_policy_decide(&p, &r), MIGRATE_GO_ON);
		assert_int_equal(p.throttle, i < 2 ? 0 : min_u64(20 + (i / 2 - 1) * 10, 99));
	}
	/* a round of zeros alone divides by nothing */
	migrate_policy_init(&p, &o, 0);
	r = (struct migrate_round){.ns = 0, .left = 100000};
	migrate_policy_decide(&p, &r);
}

/* ---- refusals ---- */

static void refused(struct world *w, struct migrate_options o, const char *says)
{
	struct migrate_source *s;
	struct error err = {0};

	w->stall_ms = 2000;
	world_begin(w, 100, 300);
	s = world_source(w, &o);
	assert_int_equal(migrate_source_run(s, &err), MIGRATE_STAYED);
	if (!strstr(err.text, says))
		fail_msg("'%s' does not say '%s'", err.text, says);
	migrate_source_free(s);
	world_close(w);
	check_stayed(w);
	assert_false(w->has_vm);
	world_end(w);
}

static void refusals(void **state)
{
	(void)state;
	refused(&(struct world){.refuse_config = true}, options(MIGRATE_PRECOPY),
		"there refuses: no such VM can be made here");
	refused(&(struct world){.refuse_load = true}, options(MIGRATE_PRECOPY), "vcpu makes no sense");
	refused(&(struct world){.small = true}, options(MIGRATE_STOP), "made a VM of 599 pages");
	refused(&(struct world){.no_postcopy = true}, options(MIGRATE_HYBRID), "cannot take a VM by post-copy");
}

static void other_versions(void **state)
{
	struct world w = {.stall_ms = 2000};
	const struct migrate_hello h = {.version = MIGRATE_VERSION + 1, .kind = MIGRATE_NEW};
	struct migrate_welcome welcome;
	struct migrate_link l;
	struct transport *t;
	struct error err = {0};

	(void)state;
	world_begin(&w, 0, 1);
	assert_int_equal(world_connect(&w, true, &t, &err), 0);
	assert_int_equal(migrate_link_open(&l, t, &err), 0);
	assert_int_equal(migrate_put_hello(&l, &h, &err), 0);
	assert_int_equal(migrate_get_welcome(&l, &welcome, &err), -ECONNREFUSED);
	assert_non_null(strstr(err.text, "speaks version 2 of the migration protocol, we version 1"));
	migrate_link_close(&l);
	world_close(&w);
	check_stayed(&w);
	world_end(&w);
}

static void cancelling(void **state)
{
	(void)state;
	for (unsigned at = 1; at < 2 * WORLD_PAGES; at += 211) {
		struct world w = {.stall_ms = 2000, .cancel_at = at};
		struct migrate_options o = options(MIGRATE_PRECOPY);
		struct migrate_source *s;
		struct error err = {0};

		world_begin(&w, 4000, WORLD_PAGES);
		s = world_source(&w, &o);
		assert_int_equal(migrate_source_run(s, &err), MIGRATE_STAYED);
		assert_int_equal(err.code, -ECANCELED);
		migrate_source_free(s);
		world_close(&w);
		check_stayed(&w);
		world_end(&w);
	}
}

/* ---- what breaks ---- */

static unsigned outcomes[5], happened;

/* One fault on the first connection; the next ones are good, or there are none. */
static void break_at(enum migrate_mode mode, struct fault fault, bool reachable)
{
	bool waits = fault.kind == FAULT_STALL || fault.kind == FAULT_HALF;
	struct world w = {.unreachable_from = reachable ? 0 : 1, .recover_ms = reachable ? 300 : 2500,
			  .stall_ms = waits ? 100 : 5000};
	struct migrate_options o = options(mode);
	struct migrate_source *s;
	enum migrate_outcome outcome;
	struct error err = {0};

	w.fault[0] = fault;
	o.recover_ms = reachable ? 30000 : 600;
	world_begin(&w, 700, 300);
	s = world_source(&w, &o);
	outcome = migrate_source_run(s, &err);
	outcomes[outcome]++;
	happened += w.fault[0].happened;
	if ((!w.fault[0].happened && outcome != MIGRATE_MOVED) || (outcome != MIGRATE_MOVED && strlen(err.text) < 10) ||
	    (reachable && outcome != MIGRATE_MOVED && outcome != MIGRATE_STAYED))
		fail_msg("%s, fault %u after byte %llu of %u%s%s: outcome %u: '%s', and there '%s'",
			 migrate_mode_name[mode], fault.kind, (unsigned long long)fault.at, fault.from,
			 w.fault[0].happened ? "" : " (did not happen)", reachable ? "" : ", for long", outcome,
			 err.text, w.said);
	if (outcome == MIGRATE_IN_DOUBT) {
		/* Nobody can know: the source stands still, with all it had, until it can ask. */
		assert_false(w.runs_here);
		w.unreachable_from = 0;
		outcome = migrate_source_recover(s, &err);
		assert_true(outcome == MIGRATE_MOVED || outcome == MIGRATE_STAYED);
	} else if (outcome == MIGRATE_STRANDED) {
		w.unreachable_from = 0;
		outcome = migrate_source_recover(s, &err);
		assert_int_equal(outcome, MIGRATE_MOVED);
	} else if (outcome == MIGRATE_HELD) {
		/* The other end has its files, and waits for a word. */
		assert_false(w.runs_here);
		assert_true(w.files_there);
		w.unreachable_from = 0;
		outcome = migrate_source_recover(s, &err);
		assert_int_equal(outcome, MIGRATE_STAYED);
	}
	migrate_source_free(s);
	world_close(&w);
	if (outcome == MIGRATE_MOVED)
		check_moved(&w);
	else
		check_stayed(&w);
	world_end(&w);
}

/* How many bytes each end sends if all goes well. */
static void measure(enum migrate_mode mode, uint64_t bytes[2])
{
	struct migrate_progress p;

	run_one(options(mode), 700, 300, &p, bytes);
}

static void break_everywhere(enum migrate_mode mode, unsigned places, bool reachable)
{
	uint64_t bytes[2], random = 12345 + mode;

	measure(mode, bytes);
	for (unsigned i = 0; i < places; i++) {
		struct fault f = {.kind = (enum fault_kind)(1 + i % (FAULT_KINDS - 1))};

		random = random * 6364136223846793005ull + 1442695040888963407ull;
		f.from = i / (FAULT_KINDS - 1) & 1;
		f.at = (random >> 20) % bytes[f.from];
		if (i & 8 && f.from == 0) /* the end is where it matters most */
			f.at = bytes[0] > 2000 ? bytes[0] - (random >> 20) % 2000 : f.at;
		break_at(mode, f, reachable);
	}
}

static unsigned places = 16;

static void breaks_precopy(void **state) { (void)state; break_everywhere(MIGRATE_PRECOPY, places, true); }
static void breaks_postcopy(void **state) { (void)state; break_everywhere(MIGRATE_POSTCOPY, places, true); }
static void breaks_hybrid(void **state) { (void)state; break_everywhere(MIGRATE_HYBRID, places, true); }
static void breaks_for_long(void **state)
{
	(void)state;
	break_everywhere(MIGRATE_PRECOPY, places / 2, false);
	break_everywhere(MIGRATE_POSTCOPY, places / 2, false);
}

/* Sections that are a token, with their heads and sums. */
#define TOKEN_BYTES(name) (1 + strlen(name) + 8 + MIGRATE_TOKEN_BYTES + 8)

/* The window in which nobody can know: bytes of "ready", "run", "running" and "done" are the last that arrive. */
static void the_window(void **state)
{
	const unsigned step = places > 100 ? 1 : 7;
	uint64_t bytes[2];

	(void)state;
	measure(MIGRATE_STOP, bytes);
	for (unsigned from = 0; from < 2; from++)
		for (unsigned back = 1; back < TOKEN_BYTES("mig.running") + TOKEN_BYTES("mig.ready") + 4;
		     back += step) {
			struct fault f = {.kind = back / step & 1 ? FAULT_CUT : FAULT_HALF,
					  .from = from,
					  .at = bytes[from] - back};

			break_at(MIGRATE_STOP, f, true);
			break_at(MIGRATE_STOP, f, false);
		}
	assert_true(outcomes[MIGRATE_MOVED] && outcomes[MIGRATE_STAYED] && outcomes[MIGRATE_IN_DOUBT]);
}

/*
 * In the window the destination is lost for longer than it waits. If "run" did not reach it, it says so to whoever
 * asks; if the VM ran there and is over, nobody can tell any more, and the source stands still for good.
 */
static void too_late(void **state)
{
	uint64_t bytes[2];

	(void)state;
	measure(MIGRATE_STOP, bytes);
	for (unsigned ran = 0; ran < 2; ran++) {
		struct world w = {.unreachable_from = 1, .recover_ms = 100};
		struct migrate_options o = options(MIGRATE_STOP);
		struct migrate_source *s;
		struct error err = {0};

		w.fault[0] = (struct fault){
			.kind = FAULT_CUT, .from = ran, .at = bytes[ran] - (ran ? 1 : TOKEN_BYTES("mig.done") + 1)};
		o.recover_ms = 600;
		world_begin(&w, 700, 300);
		s = world_source(&w, &o);
		assert_int_equal(migrate_source_run(s, &err), MIGRATE_IN_DOUBT);
		assert_int_equal(w.ran_there, ran);
		assert_false(w.runs_here);
		w.unreachable_from = 0;
		if (ran)
			world_close(&w);
		else
			usleep(400000);
		assert_int_equal(migrate_source_recover(s, &err), ran ? MIGRATE_IN_DOUBT : MIGRATE_STAYED);
		migrate_source_free(s);
		if (!ran)
			world_close(&w);
		assert_false(w.torn);
		assert_int_equal(w.runs_here, !ran);
		world_end(&w);
	}
}

/* A host that takes connections and closes them is one that cannot be reached. */
static void hangs_up(void **state)
{
	static const enum migrate_mode modes[] = {MIGRATE_POSTCOPY, MIGRATE_STOP};
	uint64_t bytes[2];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
		struct world w = {.unreachable_from = 1, .hangs_up = true, .recover_ms = 2500, .stall_ms = 5000};
		struct migrate_options o = options(modes[i]);
		struct migrate_source *s;
		struct error err = {0};

		measure(modes[i], bytes);
		w.fault[0] = (struct fault){.kind = FAULT_CUT, .from = i, .at = i ? bytes[1] - 1 : bytes[0] / 2};
		o.recover_ms = 600;
		world_begin(&w, 700, 300);
		s = world_source(&w, &o);
		assert_int_equal(migrate_source_run(s, &err), i ? MIGRATE_IN_DOUBT : MIGRATE_STRANDED);
		assert_in_range(w.hung, 3, 20); /* every 200 ms, for 600 ms */
		w.unreachable_from = 0;
		assert_int_equal(migrate_source_recover(s, &err), MIGRATE_MOVED);
		migrate_source_free(s);
		world_close(&w);
		check_moved(&w);
		world_end(&w);
	}
}

static void print_counts(void **state)
{
	(void)state;
	print_message("%u faults; moved %u, stayed %u, held %u, in doubt %u, stranded %u\n", happened,
		      outcomes[MIGRATE_MOVED], outcomes[MIGRATE_STAYED], outcomes[MIGRATE_HELD],
		      outcomes[MIGRATE_IN_DOUBT], outcomes[MIGRATE_STRANDED]);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(policy),
		cmocka_unit_test(all_modes),
		cmocka_unit_test(each_page_goes_once_by_postcopy),
		cmocka_unit_test(writes_more_than_can_be_sent),
		cmocka_unit_test(refusals),
		cmocka_unit_test(other_versions),
		cmocka_unit_test(cancelling),
		cmocka_unit_test(breaks_precopy),
		cmocka_unit_test(breaks_postcopy),
		cmocka_unit_test(breaks_hybrid),
		cmocka_unit_test(breaks_for_long),
		cmocka_unit_test(the_window),
		cmocka_unit_test(too_late),
		cmocka_unit_test(hangs_up),
		cmocka_unit_test(print_counts),
	};

	if (argc > 1)
		places = (unsigned)atoi(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
