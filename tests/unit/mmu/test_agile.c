/*
 * Agile walks: a shadow table down to some level, then the guest's own. Guest-physical memory begins at HOST of
 * machine memory, so that an address of one kind that is taken for the other leads nowhere.
 */
#include "rig.h"

#define HOST (256ull << 20)
#define PAGES 8u
#define BASE (5ull << 39 | 7ull << 30 | 3ull << 21)
#define lin_of(i) (BASE + (i) * PAGE_SIZE)
#define frame_of(i) (RIG_TABLES + (i) * PAGE_SIZE)

struct world {
	struct rig r;
	uint64_t guest[6];  /* guest-physical address of the table of each level on the way to BASE */
	uint64_t shadow[6]; /* machine address of the shadow's */
	uint64_t eptp;
};

static uint64_t slot(uint64_t table, uint64_t lin, unsigned level)
{
	return table + (lin >> (12 + 9 * (level - 1)) & 511) * 8;
}

static uint64_t *guest_memory(const struct world *w, uint64_t a) { return machmem_ptr(&w->r.mem, hpa(HOST + a)); }
static uint64_t guest_entry(const struct world *w, unsigned level, unsigned page)
{
	return *guest_memory(w, slot(w->guest[level], lin_of(page), level));
}

static void begin(struct world *w, const struct hw *hw)
{
	uint64_t tables;

	rig_begin(&w->r, hw);
	for (unsigned i = 0; i < PAGES; i++)
		rig_map(&w->r, lin_of(i), 12, frame_of(i) | RIG_LEAF);
	for (unsigned level = 1; level <= 4; level++)
		w->guest[level] = rig_entry(&w->r, BASE, level) & PAGE_MASK;
	tables = w->r.next;
	memcpy(machmem_ptr(&w->r.mem, hpa(HOST)), machmem_ptr(&w->r.mem, hpa(0)), tables);
	memset(machmem_ptr(&w->r.mem, hpa(w->guest[4])), 0xff, tables - w->guest[4]); /* not to be found by mistake */
	w->eptp = rig_ept(&w->r, 12, 4);
	for (uint64_t a = 0; a < 64ull << 20; a += PAGE_SIZE)
		rig_ept_map(&w->r, w->eptp, a, 12, (HOST + a) | RIG_EPT_LEAF);
	rig_set_ept(&w->r, w->eptp);
	for (unsigned level = 1; level <= 4; level++)
		w->shadow[level] = rig_new_table(&w->r);
}

static void set_root(struct world *w, uint64_t root)
{
	struct mmu_regs n = w->r.mmu.regs;

	n.agile = true;
	n.shadow_root = root;
	mmu_set_regs(&w->r.mmu, &n);
}

/*
 * Shadow tables down to @level, whose guest table the entry above refers to; 0: all of them. @flags: of the entry that
 * switches, beside PTE_SWITCH
 */
static void shadow(struct world *w, unsigned level, uint64_t flags)
{
	uint64_t upper = PTE_P | PTE_W | PTE_U | PTE_A;

	mmu_flush_everything(&w->r.mmu);
	if (level == 4) {
		set_root(w, (HOST + w->guest[4]) | PTE_SWITCH | flags);
		return;
	}
	for (unsigned n = 4; n > level && n > 1; n--)
		rig_put(&w->r, slot(w->shadow[n], BASE, n),
			n == level + 1 ? (HOST + w->guest[level]) | PTE_SWITCH | flags | upper : w->shadow[n - 1] | upper);
	for (unsigned i = 0; i < PAGES && level == 0; i++)
		rig_put(&w->r, slot(w->shadow[1], lin_of(i), 1), (HOST + frame_of(i)) | RIG_LEAF);
	set_root(w, w->shadow[4]);
}

static void golden_counts(void **state)
{
	static const unsigned refs[] = {4, 8, 12, 16, 20};
	struct hw hw = rig_hw();
	struct mmu_stats s;
	struct world w;

	(void)state;
	begin(&w, &hw);
	assert_int_equal(rig_refs(&w.r, lin_of(1)), 24);
	for (unsigned level = 0; level <= 4; level++) {
		shadow(&w, level, PTE_SWITCH_W);
		rig_counted(&w.r);
		assert_int_equal(rig_refs(&w.r, lin_of(1)), refs[level]);
		s = rig_counted(&w.r);
		assert_int_equal(s.agile[level], 1);
		assert_int_equal(s.stage_refs[STAGE_HOST], 4 * level);
		assert_int_equal(rig_page(&w.r, lin_of(1), ACCESS_WRITE), HOST + frame_of(1));
	}
	rig_end(&w.r);
}

/* Split caches hold where a table is and whose it is; the same walk is one reference, or two where it is nested. */
static void with_split_caches(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_stats s;
	struct world w;

	(void)state;
	hw.walk_caches = HW_WALK_SPLIT;
	for (unsigned i = 2; i < HW_LEVELS; i++)
		hw.guest[i] = hw.host[i] = rig_array(16, 16);
	begin(&w, &hw);
	for (unsigned level = 0; level <= 4; level++) {
		shadow(&w, level, PTE_SWITCH_W);
		rig_page(&w.r, lin_of(1), ACCESS_READ);
		rig_counted(&w.r);
		assert_int_equal(rig_refs(&w.r, lin_of(2)), level ? 2 : 1);
		assert_int_equal(rig_page(&w.r, lin_of(2), ACCESS_READ), HOST + frame_of(2));
		s = rig_counted(&w.r);
		assert_int_equal(s.agile[level], 2);
		assert_int_equal(s.walk_cache_hits[STAGE_GUEST][2], 2);
	}
	/* Without agile paging none of that is found: another mode. */
	struct mmu_regs n = w.r.mmu.regs;

	n.agile = false;
	mmu_set_regs(&w.r.mmu, &n);
	rig_page(&w.r, lin_of(2), ACCESS_READ);
	assert_int_equal(rig_counted(&w.r).walk_cache_misses[STAGE_GUEST], 1);
	rig_end(&w.r);
}

static void with_a_unified_cache(void **state)
{
	struct hw hw = rig_hw();
	struct world w;

	(void)state;
	hw.walk_caches = HW_WALK_UNIFIED;
	hw.unified = rig_array(64, 64);
	hw.unified_guest = true;
	begin(&w, &hw);
	shadow(&w, 1, PTE_SWITCH_W);
	assert_int_equal(rig_refs(&w.r, lin_of(1)), 8);
	assert_int_equal(rig_refs(&w.r, lin_of(2)), 8 - 3); /* the shadow entries are held, the guest's leaf is not */
	assert_int_equal(rig_page(&w.r, lin_of(3), ACCESS_READ), HOST + frame_of(3));
	rig_end(&w.r);
}

/* What the hypervisor changes in a shadow table is seen after its invalidation. */
static void flushes(void **state)
{
	struct hw hw = rig_hw();
	struct world w;

	(void)state;
	rig_roomy(&hw);
	hw.walk_caches = HW_WALK_SPLIT;
	for (unsigned i = 2; i < HW_LEVELS; i++)
		hw.guest[i] = hw.host[i] = rig_array(16, 16);
	begin(&w, &hw);
	rig_set_vpid(&w.r, 7);
	shadow(&w, 0, 0);
	assert_int_equal(rig_read(&w.r, lin_of(1)), FROM_TABLES);
	assert_int_equal(rig_read(&w.r, lin_of(1)), FROM_L1);
	rig_put(&w.r, slot(w.shadow[2], BASE, 2), (HOST + w.guest[1]) | PTE_SWITCH | PTE_P | PTE_W | PTE_U | PTE_A);
	*guest_memory(&w, slot(w.guest[1], lin_of(1), 1)) = frame_of(9) | RIG_LEAF;
	assert_int_equal(rig_page(&w.r, lin_of(1), ACCESS_READ), HOST + frame_of(1));
	mmu_flush_vpid_page(&w.r.mmu, 7, gva(lin_of(1)));
	assert_int_equal(rig_page(&w.r, lin_of(1), ACCESS_READ), HOST + frame_of(9));
	/* The guest changes its own table: INVLPG is enough, no hypervisor takes part. */
	*guest_memory(&w, slot(w.guest[1], lin_of(1), 1)) = frame_of(10) | RIG_LEAF;
	mmu_flush_page(&w.r.mmu, gva(lin_of(1)));
	assert_int_equal(rig_page(&w.r, lin_of(1), ACCESS_READ), HOST + frame_of(10));
	/* EPT changes: INVEPT drops what is combined of both. */
	rig_ept_map(&w.r, w.eptp, frame_of(10), 12, (HOST + frame_of(11)) | RIG_EPT_LEAF);
	mmu_flush_ept(&w.r.mmu, w.eptp, false);
	assert_int_equal(rig_page(&w.r, lin_of(1), ACCESS_READ), HOST + frame_of(11));
	rig_end(&w.r);
}

/* Rights of shadow levels and of the guest's add up; whose fault it is, is said. */
static void rights_and_faults(void **state)
{
	struct hw hw = rig_hw();
	struct xlate x;
	struct world w;
	uint64_t at;

	(void)state;
	begin(&w, &hw);
	shadow(&w, 1, PTE_SWITCH_W);
	at = slot(w.shadow[2], BASE, 2);
	rig_put(&w.r, at, rig_get(&w.r, at) & ~PTE_W);
	assert_int_equal(rig_try(&w.r, lin_of(1), ACCESS_WRITE, MODE_SUPER, &x), XLATE_PAGE_FAULT);
	assert_int_equal(x.error_code, PF_P | PF_W);
	assert_false(x.shadow); /* the entry stands for the guest's levels */
	rig_put(&w.r, at, rig_get(&w.r, at) | PTE_W | PTE_NX);
	assert_int_equal(rig_try(&w.r, lin_of(1), ACCESS_FETCH, MODE_SUPER, &x), XLATE_PAGE_FAULT);
	rig_put(&w.r, at, 0);
	assert_int_equal(rig_try(&w.r, lin_of(1), ACCESS_READ, MODE_USER, &x), XLATE_PAGE_FAULT);
	assert_int_equal(x.error_code, PF_U);
	assert_true(x.shadow);
	/* In the guest's own tables. */
	shadow(&w, 2, PTE_SWITCH_W);
	*guest_memory(&w, slot(w.guest[1], lin_of(1), 1)) = 0;
	assert_int_equal(rig_try(&w.r, lin_of(1), ACCESS_READ, MODE_USER, &x), XLATE_PAGE_FAULT);
	assert_false(x.shadow);
	/* And EPT's events, with the guest's table's address and the page's. */
	rig_ept_map(&w.r, w.eptp, frame_of(2), 12, 0);
	assert_int_equal(rig_try(&w.r, lin_of(2), ACCESS_READ, MODE_USER, &x), XLATE_EPT_VIOLATION);
	assert_int_equal(x.gpa.v, frame_of(2));
	rig_ept_map(&w.r, w.eptp, w.guest[1], 12, 0);
	assert_int_equal(rig_try(&w.r, lin_of(3), ACCESS_READ, MODE_USER, &x), XLATE_EPT_VIOLATION);
	assert_int_equal(x.gpa.v, slot(w.guest[1], lin_of(3), 1));
	rig_end(&w.r);
}

/* The hardware sets the guest's flags below the switch, where the shadow entry lets it. */
static void flags(void **state)
{
	uint64_t bare = frame_of(1) | PTE_P | PTE_W | PTE_U;
	struct hw hw = rig_hw();
	struct xlate x;
	struct world w;

	(void)state;
	begin(&w, &hw);
	for (unsigned level = 1; level <= 4; level++) {
		shadow(&w, level, PTE_SWITCH_W);
		*guest_memory(&w, slot(w.guest[1], lin_of(1), 1)) = bare;
		rig_page(&w.r, lin_of(1), ACCESS_READ);
		assert_int_equal(guest_entry(&w, 1, 1), bare | PTE_A);
		rig_page(&w.r, lin_of(1), ACCESS_WRITE);
		assert_int_equal(guest_entry(&w, 1, 1), bare | PTE_A | PTE_D);
	}
	/* For reading only: what needs no flag is served, what does is the hypervisor's. */
	shadow(&w, 1, 0);
	rig_page(&w.r, lin_of(1), ACCESS_WRITE);
	*guest_memory(&w, slot(w.guest[1], lin_of(1), 1)) = bare | PTE_A;
	rig_page(&w.r, lin_of(1), ACCESS_READ);
	assert_int_equal(rig_try(&w.r, lin_of(1), ACCESS_WRITE, MODE_SUPER, &x), XLATE_PAGE_FAULT);
	assert_true(x.shadow);
	assert_int_equal(x.error_code, PF_P | PF_W);
	assert_int_equal(guest_entry(&w, 1, 1), bare | PTE_A);
	/* It speaks of the first table only: those below are EPT's business. */
	shadow(&w, 2, 0);
	assert_int_equal(rig_page(&w.r, lin_of(1), ACCESS_WRITE), HOST + frame_of(1));
	assert_int_equal(guest_entry(&w, 1, 1), bare | PTE_A | PTE_D);
	/* A shadow leaf has flags of its own. */
	shadow(&w, 0, 0);
	rig_put(&w.r, slot(w.shadow[1], lin_of(1), 1), (HOST + frame_of(1)) | PTE_P | PTE_W);
	rig_page(&w.r, lin_of(1), ACCESS_WRITE);
	assert_int_equal(rig_get(&w.r, slot(w.shadow[1], lin_of(1), 1)), (HOST + frame_of(1)) | PTE_P | PTE_W | PTE_A | PTE_D);
	rig_end(&w.r);
}

/* Other modes of the guest know nothing of it. */
static void only_in_long_mode(void **state)
{
	struct hw hw = rig_hw();
	struct world w;

	(void)state;
	begin(&w, &hw);
	shadow(&w, 0, 0);
	rig_set_ept(&w.r, 0);
	assert_false(w.r.mmu.agile);
	rig_set_ept(&w.r, w.eptp);
	assert_true(w.r.mmu.agile);
	rig_set_paging(&w.r, RIG_PAE);
	assert_false(w.r.mmu.agile);
	rig_set_paging(&w.r, RIG_UNPAGED);
	assert_false(w.r.mmu.agile);
	rig_end(&w.r);
}

static void recorded(void **state)
{
	struct hw hw = rig_hw();
	struct walk_log log;
	struct xlate x;
	struct world w;

	(void)state;
	begin(&w, &hw);
	shadow(&w, 2, PTE_SWITCH_W);
	assert_int_equal(mmu_translate_logged(&w.r.mmu, gva(lin_of(1)), ACCESS_READ, MODE_SUPER, &x, &log), XLATE_OK);
	assert_int_equal(log.steps, 12);
	assert_int_equal(log.step[0].part, PART_SHADOW);
	assert_int_equal(log.step[1].part, PART_SHADOW);
	assert_int_equal(log.step[1].at, slot(w.shadow[3], BASE, 3));
	assert_int_equal(log.step[2].part, PART_SWITCHED);
	assert_int_equal(log.step[2].at, HOST + slot(w.guest[2], BASE, 2));
	assert_int_equal(log.step[7].part, PART_GUEST);
	assert_int_equal(log.step[7].at_gpa, slot(w.guest[1], lin_of(1), 1));
	rig_end(&w.r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(golden_counts), cmocka_unit_test(with_split_caches), cmocka_unit_test(with_a_unified_cache),
		cmocka_unit_test(flushes), cmocka_unit_test(rights_and_faults), cmocka_unit_test(flags),
		cmocka_unit_test(only_in_long_mode), cmocka_unit_test(recorded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
