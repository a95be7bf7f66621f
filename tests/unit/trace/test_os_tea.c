/* The operating-system model's TEAs: DMT's hard cases, one by one. */
#include "os_test.h"

#define AT 0x100000000000ull

static struct osm_config config(enum osm_pages pages, enum osm_kind kind)
{
	struct osm_config cfg;

	osm_config_init(&cfg, 256 * MIB);
	cfg.pages = pages;
	cfg.kind = kind;
	return cfg;
}

/* Every access to the range is known to a register. */
static void assert_covered(struct os_rig *r, uint64_t start, uint64_t bytes, uint64_t step)
{
	uint64_t misses = r->dmt_misses;

	put_writes(r, start, bytes, step);
	assert_int_equal(r->dmt_misses, misses);
}

static void areas_from_a_threshold_on_have_one(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_DMT);
	struct os_rig *r = rig_new(&cfg);

	(void)state;
	put(r, rig_map(AT, 62 * MIB, RW));
	put_writes(r, AT, 62 * MIB, 2 * MIB);
	assert_int_equal(stats(r).tea.made, 0);
	assert_int_equal(r->dmt_hits, 0);
	put(r, rig_map(AT + GIB, 64 * MIB, RW));
	assert_int_equal(stats(r).tea.made, 0); /* not before it is needed */
	assert_covered(r, AT + GIB, 64 * MIB, 4096 * 17);
	assert_int_equal(stats(r).tea.made, 1);
	assert_int_equal(stats(r).tea.frames, 32);
	assert_int_equal(r->regs, 1);
	assert_true(r->reg[0].start == AT + GIB && r->reg[0].end == AT + GIB + 64 * MIB && !dmt_id(&r->reg[0]));
	put(r, rig_map(AT + 2 * GIB, 128 * MIB, RW | TRACE_MAP_STACK));
	put_write(r, AT + 2 * GIB);
	assert_int_equal(stats(r).tea.made, 1);
	rig_delete(r);
}

static void tables_that_there_are_move_in(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_DMT);
	struct os_rig *r = rig_new(&cfg);
	uint64_t frame;

	(void)state;
	put(r, rig_map(AT, 62 * MIB, RW));
	put_writes(r, AT, 62 * MIB, 2 * MIB);
	frame = where(r, AT);
	put(r, rig_map(AT + 62 * MIB, 4 * MIB, RW));
	put_write(r, AT + 62 * MIB);
	assert_int_equal(stats(r).tea.tables_moved, 31);
	assert_int_equal(where(r, AT), frame);
	assert_covered(r, AT, 66 * MIB, 2 * MIB);
	assert_int_equal(stats(r).tea.used, 33);
	rig_delete(r);
}

static void neighbours_are_clustered(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_DMT);
	struct os_rig *r = rig_new(&cfg);

	(void)state;
	put(r, rig_map(AT, 40 * MIB, RW));
	put(r, rig_map(AT + 41 * MIB, 40 * MIB, RW)); /* 1 of 81 MiB is nobody's */
	put(r, rig_map(AT + 86 * MIB, 4 * MIB, RW));  /* 6 of 90 would be: too many */
	put_write(r, AT + 80 * MIB);
	assert_int_equal(stats(r).tea.made, 1);
	assert_int_equal(stats(r).tea.bubble, 2 * MIB); /* with what the last table covers */
	assert_covered(r, AT, 40 * MIB, 4096 * 31);
	put_write(r, AT + 86 * MIB);
	assert_int_equal(r->regs, 1);
	assert_int_equal(r->reg[0].end, AT + 82 * MIB);
	rig_delete(r);
}

static void grow_area(struct os_rig *r)
{
	put(r, rig_map(AT, 64 * MIB, RW));
	put_writes(r, AT, 64 * MIB, 4 * MIB);
	put(r, rig_map(AT + 64 * MIB, 16 * MIB, RW));
	put_write(r, AT + 64 * MIB);
}

static void growth_in_place_doubles(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_DMT);
	struct os_rig *r = rig_new(&cfg);
	uint64_t tea;

	(void)state;
	put(r, rig_map(AT, 64 * MIB, RW));
	put_writes(r, AT, 64 * MIB, 4 * MIB);
	tea = r->reg[0].tea;
	put(r, rig_map(AT + 64 * MIB, 16 * MIB, RW));
	put_write(r, AT + 64 * MIB);
	assert_int_equal(stats(r).tea.grown_in_place, 1);
	assert_int_equal(stats(r).tea.doubled, 1);
	assert_int_equal(stats(r).tea.migrated, 0);
	assert_true(r->reg[0].tea == tea && r->reg[0].end == AT + 128 * MIB);
	assert_covered(r, AT, 80 * MIB, 4096 * 31);
	assert_true(stats(r).frames_moved > 0); /* the pages that lay behind it */
	/* Downward, too: there is nothing before the lowest frames, so it moves. */
	put(r, rig_map(AT - 32 * MIB, 32 * MIB, RW));
	put_write(r, AT - 8);
	assert_covered(r, AT - 32 * MIB, 112 * MIB, 4096 * 31);
	assert_int_equal(stats(r).tea.now, 1);
	rig_delete(r);
}

static void growth_moves_where_there_is_no_room(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_DMT);
	bool moved = false;

	(void)state;
	/* Pinned frames are in the way of some: in-place growth of 32 frames fails for one of these seeds. */
	cfg.fragmentation = 100;
	for (cfg.seed = 0; cfg.seed < 40; cfg.seed++) {
		struct os_rig *r = rig_new(&cfg);

		grow_area(r);
		assert_int_equal(stats(r).tea.grown_in_place + stats(r).tea.migrated, 1);
		if (stats(r).tea.migrated) {
			assert_int_equal(stats(r).tea.tables_moved, 16);
			assert_int_equal(stats(r).tea.now, 1);
			moved = true;
		}
		assert_covered(r, AT, 80 * MIB, 4096 * 31);
		rig_delete(r);
	}
	assert_true(moved);
}

static void two_become_one(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_DMT);
	struct os_rig *r = rig_new(&cfg);

	(void)state;
	put(r, rig_map(AT, 64 * MIB, RW));
	put(r, rig_map(AT + 96 * MIB, 64 * MIB, RW));
	put_writes(r, AT, 64 * MIB, 2 * MIB);
	put_writes(r, AT + 96 * MIB, 64 * MIB, 2 * MIB);
	assert_int_equal(r->regs, 2);
	put(r, rig_map(AT + 64 * MIB, 32 * MIB, RW));
	put_write(r, AT + 64 * MIB);
	assert_int_equal(r->regs, 1);
	assert_int_equal(stats(r).tea.merged, 1);
	assert_int_equal(stats(r).tea.frames, 80);
	assert_covered(r, AT, 160 * MIB, 4096 * 97);
	rig_delete(r);
}

static void unmap_and_remap(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_DMT);
	struct os_rig *r = rig_new(&cfg);

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		put(r, rig_map(AT, 64 * MIB, RW));
		assert_covered(r, AT, 64 * MIB, 4096 * 31);
		assert_int_equal(stats(r).tea.made, i + 1);
		put(r, rig_event(TRACE_UNMAP, AT, 32 * MIB));
		assert_int_equal(stats(r).tea.now, 1); /* half of it is in use */
		put_write(r, AT + 32 * MIB);
		put(r, rig_map(AT, 32 * MIB, RW));
		put_write(r, AT);
		put(r, rig_event(TRACE_UNMAP, AT, 64 * MIB));
		assert_int_equal(stats(r).tea.now, 0);
		assert_int_equal(r->regs, 0);
		assert_int_equal(stats(r).tea.freed, i + 1);
	}
	rig_delete(r);
}

static void fork_has_its_own(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_DMT);
	struct os_rig *r = rig_new(&cfg);
	uint64_t parent, loads;

	(void)state;
	put(r, rig_map(AT, 64 * MIB, RW));
	put_writes(r, AT, 64 * MIB, 4 * MIB);
	parent = r->reg[0].tea;
	loads = r->reg_loads;
	put(r, rig_event(TRACE_FORK, 0, 1));
	assert_int_equal(stats(r).tea.now, 2);
	assert_int_equal(r->reg_loads, loads); /* the child's are not loaded here */
	assert_covered(r, AT, 64 * MIB, 8 * MIB);
	put(r, rig_event(TRACE_SWITCH, 0, 1));
	assert_int_equal(r->reg_loads, loads + 1);
	assert_true(r->regs == 1 && r->reg[0].tea != parent);
	assert_covered(r, AT, 64 * MIB, 4 * MIB);
	assert_int_equal(stats(r).cow_copies, 16);
	assert_int_equal(stats(r).cow_reuses, 8);
	put(r, rig_event(TRACE_SWITCH, 0, 0));
	assert_int_equal(r->reg[0].tea, parent);
	assert_int_equal(r->reg_loads, loads + 2);
	put(r, rig_event(TRACE_EXIT, 0, 1));
	assert_int_equal(stats(r).tea.now, 1);
	rig_delete(r);
}

static void the_longest_have_registers(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_DMT);
	struct os_rig *r = rig_new(&cfg);
	uint64_t misses;

	(void)state;
	for (unsigned i = 0; i < 20; i++) {
		uint64_t bytes = (64 + (i * 7 % 20) * 2) * MIB; /* all different: 64, 78, 92, 66, ... */

		put(r, rig_map(AT + i * GIB, bytes, RW));
		put_write(r, AT + i * GIB);
	}
	assert_int_equal(r->regs, 16);
	assert_int_equal(stats(r).tea.now, 20);
	assert_int_equal(stats(r).tea.unregistered_max, 4);
	for (unsigned i = 0; i < 16; i++)
		assert_true(r->reg[i].end - r->reg[i].start >= 72 * MIB); /* not the four shortest */
	misses = r->dmt_misses;
	put_write(r, AT); /* 64 MiB: has none, but is as good as any otherwise */
	assert_int_equal(r->dmt_misses, misses + 1);
	/* A long one goes: the longest of those that wait has its register. */
	put(r, rig_event(TRACE_UNMAP, AT + 17 * GIB, GIB));
	assert_int_equal(r->regs, 16);
	rig_delete(r);
}

static void no_room_in_a_row(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_DMT);
	struct os_rig *r;

	(void)state;
	cfg.fragmentation = 100;
	r = rig_new(&cfg);
	put(r, rig_map(AT, 4 * GIB, RW)); /* 2048 frames in a row: not between frames pinned every 2 MiB */
	put_writes(r, AT, 256 * MIB, 2 * MIB);
	assert_int_equal(stats(r).tea.made, 0);
	assert_int_equal(stats(r).tea.fallbacks, 128);
	assert_int_equal(r->regs, 0);
	assert_int_equal(stats(r).table_frames, 128 + 3);
	/* A smaller one can be had. */
	put(r, rig_map(AT + 8 * GIB, 64 * MIB, RW));
	assert_covered(r, AT + 8 * GIB, 64 * MIB, 2 * MIB);
	assert_int_equal(stats(r).tea.made, 1);
	rig_delete(r);
}

static void huge_pages_have_another(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_THP, OSM_DMT);
	struct os_rig *r = rig_new(&cfg);

	(void)state;
	put(r, rig_map(AT, 64 * MIB, RW));
	assert_covered(r, AT, 64 * MIB, 2 * MIB);
	assert_int_equal(stats(r).tea.made_2m, 1);
	assert_int_equal(stats(r).tea.made, 1);
	assert_true(r->regs == 1 && dmt_shift(&r->reg[0]) == 21);
	assert_int_equal(r->dmt_2m_hits, r->dmt_hits);
	/* One is split: it needs leaf tables, which have a TEA of their own. */
	put(r, rig_event(TRACE_UNMAP, AT + 4 * MIB, 4096));
	assert_int_equal(stats(r).splits, 1);
	assert_int_equal(r->regs, 2);
	assert_covered(r, AT, 64 * MIB, 4096 * 31 + 2 * MIB);
	put_write(r, AT + 4 * MIB + 8192);
	assert_int_equal(stats(r).tea.used, 2);
	rig_delete(r);
}

static void promotion_empties_leaf_tables(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_MADVISE, OSM_DMT);
	struct trace_event advise = rig_event(TRACE_ADVISE, AT, 64 * MIB);
	struct os_rig *r;

	(void)state;
	cfg.promote = 8;
	r = rig_new(&cfg);
	advise.flags = TRACE_MAP_HUGE;
	put(r, rig_map(AT, 64 * MIB, RW));
	put_writes(r, AT, 7 * 4096, 4096);
	assert_true(r->regs == 1 && dmt_shift(&r->reg[0]) == 12);
	put(r, advise);
	put_write(r, AT + 7 * 4096);
	assert_int_equal(stats(r).promotions, 1);
	assert_true(r->regs == 1 && dmt_shift(&r->reg[0]) == 21); /* the other one had no table left */
	assert_covered(r, AT, 2 * MIB, 4096 * 3);
	rig_delete(r);
}

/* ---- pvDMT ---- */

static void hosts_are_asked(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_PVDMT);
	struct os_rig *r = rig_new(&cfg);

	(void)state;
	put(r, rig_map(AT, 64 * MIB, RW));
	put_write(r, AT);
	assert_int_equal(r->requests, 1);
	assert_true(r->regs == 1 && dmt_id(&r->reg[0]) == 1);
	/* It grows: its number is given back and, being the smallest, given again. */
	put(r, rig_map(AT + 64 * MIB, 64 * MIB, RW));
	put_write(r, AT + 64 * MIB);
	assert_int_equal(r->requests, 3);
	assert_int_equal(r->pv.tea[0].pages, 64);
	put(r, rig_map(AT + GIB, 256 * MIB, RW));
	put_write(r, AT + GIB);
	assert_int_equal(r->requests, 4);
	assert_true(r->regs == 2 && dmt_id(&r->reg[0]) == 2 && dmt_id(&r->reg[1]) == 1);
	put(r, rig_event(TRACE_UNMAP, AT, GIB));
	assert_int_equal(r->requests, 5);
	assert_int_equal(r->pv.tea[0].pages, 0);
	assert_int_equal(stats(r).tea.refused, 0);
	assert_true(r->regs == 1 && dmt_id(&r->reg[0]) == 2);
	rig_delete(r);
}

static void more_than_a_host_gives(void **state)
{
	struct osm_config cfg = config(OSM_PAGES_4K, OSM_PVDMT);
	struct os_rig *r;
	uint64_t misses;

	(void)state;
	cfg.tea_threshold = 2 * MIB;
	r = rig_new(&cfg);
	for (uint64_t i = 0; i < PV_TEAS_MAX + 2; i++) {
		assert_int_equal(rig_put(r, rig_map(AT + i * 64 * MIB, 2 * MIB, RW), NULL), 0);
		assert_int_equal(rig_put(r, rig_access(TRACE_WRITE, AT + i * 64 * MIB, 8), NULL), 0);
	}
	assert_int_equal(stats(r).tea.refused, 2);
	put(r, rig_map(AT + PV_TEAS_MAX * 64 * MIB + 2 * MIB, 4 * MIB, RW)); /* one without a number becomes the longest */
	put_write(r, AT + PV_TEAS_MAX * 64 * MIB + 4 * MIB);
	misses = r->dmt_misses;
	put_write(r, AT + PV_TEAS_MAX * 64 * MIB);
	assert_int_equal(r->dmt_misses, misses); /* in its register as one that the host knows nothing of */
	rig_delete(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(areas_from_a_threshold_on_have_one),
		cmocka_unit_test(tables_that_there_are_move_in),
		cmocka_unit_test(neighbours_are_clustered),
		cmocka_unit_test(growth_in_place_doubles),
		cmocka_unit_test(growth_moves_where_there_is_no_room),
		cmocka_unit_test(two_become_one),
		cmocka_unit_test(unmap_and_remap),
		cmocka_unit_test(fork_has_its_own),
		cmocka_unit_test(the_longest_have_registers),
		cmocka_unit_test(no_room_in_a_row),
		cmocka_unit_test(huge_pages_have_another),
		cmocka_unit_test(promotion_empties_leaf_tables),
		cmocka_unit_test(hosts_are_asked),
		cmocka_unit_test(more_than_a_host_gives),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
