/* The operating-system model: demand paging, areas, fork, huge pages, PCIDs, HugeGPT's pool, and what it refuses. */
#include "os_test.h"

#define AT 0x40000000ull

static struct osm_config config(enum osm_pages pages, enum osm_kind kind)
{
	struct osm_config cfg;

	osm_config_init(&cfg, 128 * MIB);
	cfg.pages = pages;
	cfg.kind = kind;
	return cfg;
}

/* ---- 4 KiB pages ---- */

/* The attempt, Linux's stores from the top down, and the access. */
static void a_page_comes_when_it_is_touched(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_PLAIN);
	struct os_rig *r = rig_new(&cfg);
	uint64_t stores = r->stores;

	(void)state;
	put(r, rig_map(AT, 16 * KIB, RW));
	assert_int_equal(r->stores, stores);
	put_write(r, AT + 8);
	assert_int_equal(r->stores, stores + 4); /* three tables, a page */
	assert_int_equal(r->faults, 1);
	put_read(r, AT + 0x1000);
	assert_int_equal(r->stores, stores + 5);
	put_read(r, AT + 0x1010);
	assert_int_equal(r->faults, 2);
	put(r, rig_access(TRACE_READ, AT + 0x1ffc, 8)); /* into the next page */
	assert_int_equal(r->faults, 3);
	assert_int_equal(stats(r).table_frames, 4);
	assert_int_equal(stats(r).data_frames, 3);
	rig_delete(r);
}

static void groups_are_tried_again_as_a_whole(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_PLAIN);
	struct os_rig *r = rig_new(&cfg);
	struct trace_event ev[3] = {rig_access(TRACE_FETCH, AT, 3), rig_access(TRACE_READ, AT + 0x1000, 8),
				    rig_access(TRACE_WRITE, AT + 0x2000, 8)};
	uint64_t before = r->accesses, stores = r->stores;

	(void)state;
	ev[1].flags = ev[2].flags = 0;
	put(r, rig_map(AT, 16 * KIB, RW | TRACE_MAP_EXEC));
	assert_int_equal(osm_put(r->osm, ev, 3, NULL), 0);
	assert_int_equal(osm_finish(r->osm, NULL), 0);
	assert_int_equal(r->faults, 3);
	assert_int_equal(stats(r).accesses, 3);
	/* The user's: fetch; fetch and read; all. The kernel's: each store with its fetch, three faults with 9 accesses of the
	 * processor and a fetch each, a system call. */
	assert_int_equal(r->accesses - before, 1 + 2 + 3 + 2 * (r->stores - stores) + 3 * 10 + 1);
	rig_delete(r);
}

/* Code that the trace does not show must be there all the same, for who does the access again. */
static void code_is_fetched_once_a_page(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_PLAIN);
	struct os_rig *r = rig_new(&cfg);
	struct trace_event ev = rig_access(TRACE_WRITE, AT, 8);

	(void)state;
	ev.mode = TRACE_USER;
	ev.pc = 0x401000;
	for (unsigned i = 0; i < 3; i++)
		put(r, ev);
	assert_int_equal(stats(r).fetches_added, 1);
	assert_int_equal(stats(r).accesses, 4);
	assert_int_equal(r->faults, 2);
	assert_true(where(r, ev.pc) != UINT64_MAX);
	put(r, rig_event(TRACE_UNMAP, 0x400000, 2 * MIB));
	ev.pc = 0; /* not known: a page like any */
	put(r, ev);
	assert_int_equal(stats(r).fetches_added, 2);
	ev.pc = 0xffffffff81000000; /* no user executes there */
	put(r, ev);
	assert_int_equal(stats(r).dropped, 1);
	rig_delete(r);
}

/* Whatever the distance of data from code: what is known of one does not push out what is known of the other. */
static void data_does_not_push_code_out(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_PLAIN);
	struct os_rig *r = rig_new(&cfg);

	(void)state;
	for (unsigned shift = 22; shift < 46; shift++)
		for (unsigned i = 0; i < 3; i++) {
			struct trace_event ev = rig_access(TRACE_READ, 0x401000 + (1ull << shift), 8);

			ev.mode = TRACE_USER;
			ev.pc = 0x401000;
			put(r, ev);
		}
	assert_int_equal(stats(r).fetches_added, 1);
	rig_delete(r);
}

static void unmapped_is_gone_and_comes_back_new(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_PLAIN);
	struct os_rig *r = rig_new(&cfg);

	(void)state;
	put(r, rig_map(AT, 4 * MIB, RW));
	put_writes(r, AT, 4 * MIB, 4096);
	assert_int_equal(stats(r).table_frames, 5);
	put(r, rig_event(TRACE_UNMAP, AT + 2 * MIB, 2 * MIB));
	assert_int_equal(stats(r).table_frames, 4);
	assert_int_equal(stats(r).data_frames, 512);
	assert_int_equal(r->invlpgs, 0); /* more than 33 pages: all at once */
	put(r, rig_event(TRACE_UNMAP, AT, 8 * KIB));
	assert_int_equal(r->invlpgs, 2);
	assert_true(where(r, AT) == UINT64_MAX && where(r, AT + 0x2000) != UINT64_MAX);
	put(r, rig_map(AT, 8 * KIB, RW));
	put_write(r, AT);
	assert_true(where(r, AT) != UINT64_MAX);
	put(r, rig_event(TRACE_UNMAP, AT, 4 * MIB));
	assert_int_equal(stats(r).table_frames, 1);
	assert_int_equal(stats(r).data_frames, 0);
	rig_delete(r);
}

static void areas_are_inferred(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_PLAIN);
	struct os_rig *r;

	(void)state;
	cfg.gap = 8 * MIB;
	r = rig_new(&cfg);
	put_read(r, AT);
	put_read(r, AT + 9 * MIB);  /* 7 MiB from the first one's end: it grows */
	assert_int_equal(stats(r).inferred, 1);
	put_read(r, AT + 30 * MIB); /* too far */
	assert_int_equal(stats(r).inferred, 2);
	put_read(r, AT + 15 * MIB);
	put_read(r, AT + 22 * MIB); /* between the two: they become one */
	assert_int_equal(stats(r).inferred, 2);
	put(r, rig_map(AT + 64 * MIB, 4096, 0));
	put_write(r, AT + 64 * MIB); /* the trace is right */
	assert_int_equal(stats(r).widened, 1);
	rig_delete(r);
}

static void stacks_grow_down(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_PLAIN);
	struct os_rig *r;
	uint64_t top = 0x7ffffffde000;

	(void)state;
	cfg.gap = 0;
	r = rig_new(&cfg);
	put(r, rig_map(top - 128 * KIB, 128 * KIB, RW | TRACE_MAP_STACK));
	put_write(r, top - 8);
	put_write(r, top - 129 * KIB);
	assert_int_equal(stats(r).inferred, 0);
	rig_delete(r);
}

/* ---- fork ---- */

static void fork_copies_when_written(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_PLAIN);
	struct os_rig *r = rig_new(&cfg);
	uint64_t first, loads;

	(void)state;
	put(r, rig_map(AT, 64 * KIB, RW));
	put_writes(r, AT, 64 * KIB, 4096);
	first = where(r, AT);
	loads = r->cr3_loads;
	put(r, rig_event(TRACE_FORK, 0, 7));
	assert_int_equal(r->cr3_loads, loads + 1); /* the parent's pages became read-only */
	assert_int_equal(stats(r).table_frames, 8);
	assert_int_equal(stats(r).data_frames, 16);
	put_write(r, AT);
	assert_true(where(r, AT) != first);
	assert_int_equal(stats(r).cow_copies, 1);
	put(r, rig_event(TRACE_SWITCH, 0, 7));
	put_write(r, AT); /* the last one to have it */
	assert_true(where(r, AT) == first);
	assert_int_equal(stats(r).cow_reuses, 1);
	put_read(r, AT + 0x1000);
	put(r, rig_event(TRACE_SWITCH, 0, 0));
	put(r, rig_event(TRACE_EXIT, 0, 7));
	assert_int_equal(stats(r).table_frames, 4);
	assert_int_equal(stats(r).data_frames, 16);
	put_write(r, AT + 0x1000);
	assert_int_equal(stats(r).cow_reuses, 2);
	rig_delete(r);
}

static void pcids_save_flushes(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_PLAIN);
	uint64_t flushing[2];

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct os_rig *r;

		cfg.pcid = i;
		r = rig_new(&cfg);
		put(r, rig_map(AT, 64 * KIB, RW));
		put_writes(r, AT, 64 * KIB, 4096);
		put(r, rig_event(TRACE_SWITCH, 0, 1));
		put(r, rig_map(AT, 64 * KIB, RW));
		put_writes(r, AT, 64 * KIB, 4096);
		flushing[i] = r->flushing_loads;
		for (unsigned n = 0; n < 10; n++) {
			put(r, rig_event(TRACE_SWITCH, 0, n % 2));
			put_write(r, AT);
		}
		flushing[i] = r->flushing_loads - flushing[i];
		rig_delete(r);
	}
	assert_int_equal(flushing[0], 10);
	assert_int_equal(flushing[1], 0);
}

/* More spaces than PCIDs, and changes in one that is not current: nothing stale is used (the rig would see it). */
static void pcids_are_used_again(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_PLAIN);
	struct os_rig *r;

	(void)state;
	cfg.pcid = true;
	r = rig_new(&cfg);
	for (unsigned n = 0; n < 60; n++) {
		put(r, rig_event(TRACE_SWITCH, 0, n * 7 % 9));
		put_write(r, AT + n % 3 * 4096);
		if (n % 10 == 5)
			put(r, rig_event(TRACE_FORK, 0, 100 + n));
	}
	assert_true(stats(r).cow_copies > 0);
	rig_delete(r);
}

/* ---- huge pages ---- */

static void blocks_become_huge_pages(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_THP, OSM_PLAIN);
	struct os_rig *r = rig_new(&cfg);

	(void)state;
	put(r, rig_map(AT - 4096, 4 * MIB + 4096, RW)); /* a page, and two blocks */
	put_write(r, AT - 8);
	put_write(r, AT + MIB);
	assert_int_equal(page_shift(r, AT - 8), 12);
	assert_int_equal(page_shift(r, AT), 21);
	assert_int_equal(where(r, AT) % (2 * MIB), 0);
	put(r, rig_map(AT + 16 * MIB, 2 * MIB, RW | TRACE_MAP_FILE));
	put_write(r, AT + 16 * MIB);
	put(r, rig_map(AT + 24 * MIB, 2 * MIB, RW | TRACE_MAP_NOHUGE));
	put_write(r, AT + 24 * MIB);
	assert_int_equal(stats(r).huge_faults, 1);
	assert_int_equal(stats(r).huge_frames, 512);
	/* A part goes: the rest stays where it was. */
	put(r, rig_event(TRACE_UNMAP, AT + 4096, 4096));
	assert_int_equal(page_shift(r, AT), 12);
	assert_int_equal(where(r, AT + 0x2000) - where(r, AT), 0x2000);
	assert_int_equal(stats(r).splits, 1);
	assert_int_equal(stats(r).huge_frames, 0);
	rig_delete(r);
}

static void shared_huge_pages_split_where_they_are_written(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_THP, OSM_PLAIN);
	struct os_rig *r = rig_new(&cfg);
	uint64_t first;

	(void)state;
	put(r, rig_map(AT, 2 * MIB, RW));
	put_write(r, AT);
	first = where(r, AT);
	put(r, rig_event(TRACE_FORK, 0, 1));
	put_write(r, AT + 0x5000);
	assert_int_equal(page_shift(r, AT), 12);
	assert_true(where(r, AT) == first && where(r, AT + 0x5000) != first + 0x5000);
	assert_int_equal(stats(r).huge_frames, 512); /* the other one still has it whole */
	put(r, rig_event(TRACE_SWITCH, 0, 1));
	assert_int_equal(page_shift(r, AT), 21);
	put(r, rig_event(TRACE_EXIT, 0, 0));
	put_write(r, AT);
	assert_int_equal(page_shift(r, AT), 21); /* nobody else has any of it now */
	assert_int_equal(stats(r).cow_reuses, 1);
	rig_delete(r);
}

static void small_pages_are_promoted(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_MADVISE, OSM_PLAIN);
	struct os_rig *r;
	struct trace_event advise = rig_event(TRACE_ADVISE, AT, 2 * MIB);

	(void)state;
	cfg.promote = 20;
	r = rig_new(&cfg);
	advise.flags = TRACE_MAP_HUGE;
	put(r, rig_map(AT, 2 * MIB, RW));
	put_writes(r, AT, 10 * 4096, 4096);
	put(r, advise);
	put_writes(r, AT + 10 * 4096, 9 * 4096, 4096);
	assert_int_equal(page_shift(r, AT), 12);
	put_write(r, AT + 19 * 4096);
	assert_int_equal(page_shift(r, AT), 21);
	assert_int_equal(stats(r).promotions, 1);
	assert_int_equal(stats(r).data_frames, 512);
	assert_int_equal(stats(r).table_frames, 3);
	put_read(r, AT);
	rig_delete(r);
}

static void fragments_leave_no_blocks(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_THP, OSM_PLAIN);
	unsigned huge[3];

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		struct os_rig *r;

		cfg.fragmentation = i * 50;
		r = rig_new(&cfg);
		put(r, rig_map(AT, 64 * MIB, RW));
		put_writes(r, AT, 64 * MIB, 2 * MIB);
		huge[i] = (unsigned)stats(r).huge_faults;
		assert_int_equal(stats(r).huge_missed, 32 - huge[i]);
		rig_delete(r);
	}
	assert_int_equal(huge[0], 32);
	assert_int_equal(huge[2], 0);
	assert_in_range(huge[1], 16, 30); /* of some 55 blocks about half are whole */
}

/* ---- HugeGPT ---- */

static void tables_come_from_the_pool(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_HUGEGPT);
	struct os_rig *r;
	uint64_t cr3;

	(void)state;
	cfg.pool_segment = 2 * MIB;
	r = rig_new(&cfg);
	put(r, rig_map(AT, 64 * MIB, RW));
	put_writes(r, AT, 64 * MIB, 2 * MIB);
	assert_int_equal(stats(r).pool.segments, 1);
	assert_int_equal(stats(r).pool.used, stats(r).table_frames);
	assert_int_equal(r->requests, 1);
	assert_int_equal(r->pv.huge[0].pages, 512);
	cr3 = r->cr3 & PTE_ADDR_MASK;
	assert_true(cr3 - r->pv.huge[0].gpa < 2 * MIB); /* the root, too */
	put(r, rig_event(TRACE_UNMAP, AT, 64 * MIB));
	assert_int_equal(stats(r).pool.used, 1);
	rig_delete(r);
}

static void the_pool_grows_and_runs_out(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_HUGEGPT);
	struct os_rig *r;

	(void)state;
	cfg.pool_segment = 4 * MIB;
	r = rig_new(&cfg);
	put(r, rig_map(AT, 4 * GIB, RW));
	put_writes(r, AT, 2100 * MIB, 2 * MIB); /* 1050 leaf tables */
	assert_int_equal(stats(r).pool.segments, 2);
	assert_int_equal(stats(r).pool.fallbacks, 0);
	rig_delete(r);

	cfg.fragmentation = 90;
	r = rig_new(&cfg);
	put(r, rig_map(AT, 16 * GIB, RW));
	put_writes(r, AT, 10 * GIB, 2 * MIB);
	assert_true(stats(r).pool.segments >= 1 && stats(r).pool.fallbacks > 0);
	assert_int_equal(stats(r).pool.used_max, stats(r).pool.frames);
	assert_int_equal(stats(r).pool.used + stats(r).pool.fallbacks, stats(r).table_frames);
	rig_delete(r);
}

/* ---- other traces, and bad ones ---- */

static void recorded_traces_get_other_tables(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_PLAIN);
	struct os_rig *r = rig_new(&cfg);
	struct trace_event ev = rig_access(TRACE_WRITE, AT, 8), kernel = rig_access(TRACE_WRITE, 0xffff888000001000, 8);

	(void)state;
	put(r, rig_event(TRACE_CR3, 0, 0x1234000));
	put_write(r, AT);
	put(r, rig_event(TRACE_CR3, 0, 0x8000000000002000));
	put_read(r, AT);
	put(r, rig_event(TRACE_INVLPG, AT, 0));
	kernel.flags |= TRACE_VALUE;
	put(r, kernel);
	ev.flags |= TRACE_FAULTS;
	put(r, ev);
	assert_int_equal(stats(r).ignored, 1);
	assert_int_equal(stats(r).dropped, 2);
	assert_int_equal(stats(r).accesses, 2);
	assert_int_equal(stats(r).switches, 2);
	for (unsigned i = 0; i < 3 * OSM_SPACES_MAX; i++) /* the oldest ones go */
		assert_int_equal(rig_put(r, rig_event(TRACE_CR3, 0, (3 + i) * 4096ull), NULL), 0);
	assert_int_equal(osm_audit(r->osm, NULL), 0);
	assert_true(stats(r).exits > 0);
	rig_delete(r);
}

static void what_makes_no_sense_is_refused(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_PLAIN);
	static const struct { unsigned kind; uint64_t value; const char *text; } bad[] = {
		{TRACE_EXIT, 0, "os model: exit: space 0 is current"},
		{TRACE_EXIT, 5, "os model: exit: space 5 does not exist"},
		{TRACE_FORK, 0, "os model: fork: space 0 exists"},
		{TRACE_MAP, 1ull << 47, "os model: 140737488355328 bytes at 0 are no range of user space"},
	};

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		struct os_rig *r = rig_new(&cfg);

		put_bad(r, rig_event(bad[i].kind, 0, bad[i].value), -EINVAL, bad[i].text);
		put_bad(r, rig_access(TRACE_READ, AT, 1), -EINVAL, bad[i].text); /* it stays so */
		rig_delete(r);
	}
}

static void memory_is_full_some_time(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_PLAIN);
	struct error err = {0};
	struct os_rig *r;
	uint64_t va = AT;
	int ret;

	(void)state;
	cfg.memory = 64 * MIB;
	r = rig_new(&cfg);
	do {
		ret = rig_put(r, rig_access(TRACE_WRITE, va, 8), &err);
		va += 4096;
	} while (!ret);
	assert_int_equal(ret, -ENOMEM);
	assert_string_equal(err.text, "os model: the modelled machine's 64 MiB of memory are full");
	assert_in_range(va - AT, 46 * MIB, 47 * MIB);
	rig_delete(r);
}

static void configurations_are_checked(void **state)
{
	struct osm_config good = config(OSM_PAGES_4K, OSM_PLAIN), bad;
	struct trace_sink none = {0};
	struct osm *o;
	struct trace_info info;

	(void)state;
#define REFUSED(member, value)                                                     \
	do {                                                                       \
		bad = good;                                                        \
		bad.member = (value);                                              \
		assert_int_equal(osm_create(&o, &bad, &none, NULL), -EINVAL);      \
		assert_null(o);                                                    \
	} while (0)
	REFUSED(memory, 63 * MIB);
	REFUSED(memory, 513 * GIB);
	REFUSED(memory, 128 * MIB + 4096);
	REFUSED(fragmentation, 101);
	REFUSED(tea_bubble, 101);
	REFUSED(promote, 513);
	REFUSED(pool_segment, 4096);
	REFUSED(kind, 4);
	good.memory = 4 * GIB;
	good.pcid = true;
	good.kind = OSM_DMT;
	assert_int_equal(osm_span(&good), 5 * GIB);
	osm_info(&good, &info);
	assert_string_equal(info.cpu_features, "pdpe1gb pcid dmt");
}

/* Memory has a hole for devices: nothing lies in it. And a footprint costs what it touches. */
static void large_machines_are_sparse(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_DMT);
	struct os_rig *r;

	(void)state;
	cfg.memory = 6 * GIB;
	r = rig_new(&cfg);
	put(r, rig_map(0x100000000000, 64 * GIB, RW));
	for (uint64_t i = 0; i < 2000; i++)
		assert_int_equal(rig_put(r, rig_access(TRACE_WRITE, 0x100000000000 + i * 7919 % 16384 * 4 * MIB, 8), NULL), 0);
	assert_int_equal(stats(r).data_frames, 2000);
	assert_true(stats(r).table_frames <= 2000 + 66);
	assert_int_equal(stats(r).tea.frames, 32768);
	rig_delete(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_page_comes_when_it_is_touched),
		cmocka_unit_test(groups_are_tried_again_as_a_whole),
		cmocka_unit_test(code_is_fetched_once_a_page),
		cmocka_unit_test(data_does_not_push_code_out),
		cmocka_unit_test(unmapped_is_gone_and_comes_back_new),
		cmocka_unit_test(areas_are_inferred),
		cmocka_unit_test(stacks_grow_down),
		cmocka_unit_test(fork_copies_when_written),
		cmocka_unit_test(pcids_save_flushes),
		cmocka_unit_test(pcids_are_used_again),
		cmocka_unit_test(blocks_become_huge_pages),
		cmocka_unit_test(shared_huge_pages_split_where_they_are_written),
		cmocka_unit_test(small_pages_are_promoted),
		cmocka_unit_test(fragments_leave_no_blocks),
		cmocka_unit_test(tables_come_from_the_pool),
		cmocka_unit_test(the_pool_grows_and_runs_out),
		cmocka_unit_test(recorded_traces_get_other_tables),
		cmocka_unit_test(what_makes_no_sense_is_refused),
		cmocka_unit_test(memory_is_full_some_time),
		cmocka_unit_test(configurations_are_checked),
		cmocka_unit_test(large_machines_are_sparse),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
