/* The translation hardware against tables built by hand: counts, faults, flags, LRU and every invalidation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "arch/vmx.h"
#include "arch/x86.h"
#include "mmu/mmu.h"

#define MEMORY (64ull << 20)

struct machine {
	struct machmem mem;
	struct mmu mmu;
	uint64_t next; /* next free page */
};

static uint64_t new_page(struct machine *m)
{
	uint64_t p = m->next;

	m->next += PAGE_SIZE;
	return p;
}

static uint64_t get(struct machine *m, uint64_t at) { return machmem_read64(&m->mem, hpa(at)); }
static void put(struct machine *m, uint64_t at, uint64_t v) { put_u64(machmem_ptr(&m->mem, hpa(at)), v); }

static int setup(void **state)
{
	static struct machine m;
	struct hw hw;
	struct machmem_range ram = {0, MEMORY};
	struct mmu_regs r = {.cr0 = CR0_PE | CR0_PG | CR0_WP, .cr4 = CR4_PAE | CR4_PGE, .efer = EFER_LME | EFER_LMA | EFER_NXE};

	assert_int_equal(machmem_init(&m.mem, &ram, 1, NULL), 0);
	/* Skylake's TLBs, but nothing that shortens walks. */
	hw_default(&hw);
	hw.walk_caches = HW_WALK_NONE;
	hw.nested_tlb.entries = 0;
	assert_int_equal(mmu_init(&m.mmu, &m.mem, &hw, NULL), 0);
	m.next = 0x10000;
	r.cr3 = new_page(&m);
	mmu_set_regs(&m.mmu, &r);
	*state = &m;
	return 0;
}

static int teardown(void **state)
{
	struct machine *m = *state;

	mmu_destroy(&m->mmu);
	machmem_destroy(&m->mem);
	return 0;
}

/* Maps @lin by a leaf at the level whose pages have 2^shift bytes; returns where the leaf stands. */
static uint64_t map(struct machine *m, uint64_t root, unsigned levels, uint64_t lin, unsigned shift, uint64_t leaf)
{
	uint64_t table = root & PTE_ADDR_MASK;

	for (unsigned s = 12 + 9 * (levels - 1);; s -= 9) {
		uint64_t at = table + (lin >> s & 511) * 8;

		if (s == shift) {
			put(m, at, leaf);
			return at;
		}
		if (!(get(m, at) & PTE_P))
			put(m, at, new_page(m) | PTE_P | PTE_W | PTE_U);
		table = get(m, at) & PTE_ADDR_MASK;
	}
}

static uint64_t map4(struct machine *m, uint64_t lin, unsigned shift, uint64_t leaf)
{
	return map(m, m->mmu.regs.cr3, 4, lin, shift, leaf);
}

/* Identity EPT with pages of 2^shift bytes for the whole memory. */
static uint64_t make_ept_levels(struct machine *m, unsigned shift, unsigned levels)
{
	uint64_t root = new_page(m);

	for (uint64_t a = 0; a < MEMORY; a += 1ull << shift) {
		uint64_t table = root;

		for (unsigned s = 12 + 9 * (levels - 1);; s -= 9) {
			uint64_t at = table + (a >> s & 511) * 8;

			if (s == shift) {
				put(m, at, a | 7 | EPT_MT_WB << EPT_MT_SHIFT | (s > 12 ? EPT_PS : 0));
				break;
			}
			if (!get(m, at))
				put(m, at, new_page(m) | 7);
			table = get(m, at) & EPT_ADDR_MASK;
		}
	}
	return root;
}

static uint64_t make_ept(struct machine *m, unsigned shift) { return make_ept_levels(m, shift, 4); }

static void nest_levels(struct machine *m, uint64_t root, unsigned levels)
{
	struct mmu_regs r = m->mmu.regs;

	r.nested = true;
	r.eptp = root | 6 | (levels - 1) << EPTP_WALK_SHIFT;
	r.vpid = 1;
	mmu_set_regs(&m->mmu, &r);
}

static void nest(struct machine *m, uint64_t root) { nest_levels(m, root, 4); }

static enum xlate_event access_as(struct machine *m, uint64_t lin, enum access_kind kind, enum access_mode mode,
				  struct xlate *x)
{
	uint16_t rights;

	return mmu_translate(&m->mmu, gva(lin), kind, mode, x, &rights);
}

/* Translates and says how many references the walk made (0: it hit). */
static uint64_t refs_of(struct machine *m, uint64_t lin, enum access_kind kind)
{
	uint64_t before = m->mmu.stats.refs;
	struct xlate x;

	assert_int_equal(access_as(m, lin, kind, MODE_SUPER, &x), XLATE_OK);
	return m->mmu.stats.refs - before;
}

static void assert_fault(struct machine *m, uint64_t lin, enum access_kind kind, enum access_mode mode, uint32_t error)
{
	struct xlate x;

	assert_int_equal(access_as(m, lin, kind, mode, &x), XLATE_PAGE_FAULT);
	assert_int_equal(x.error_code, error);
}

/* ---- reference counts: 4, 5, 24, 35, and with large pages ---- */

static void native_references(void **state)
{
	struct machine *m = *state;

	map4(m, 0x400000, 12, 0x200000 | PTE_P | PTE_W);
	map4(m, 0x800000, 21, 0x400000 | PTE_P | PTE_W | PTE_PS);
	map4(m, 0x40000000, 30, PTE_P | PTE_W | PTE_PS);
	assert_int_equal(refs_of(m, 0x400123, ACCESS_READ), 4);
	assert_int_equal(refs_of(m, 0x400fff, ACCESS_READ), 0);
	assert_int_equal(refs_of(m, 0x8fffff, ACCESS_READ), 3);
	assert_int_equal(refs_of(m, 0x40001000, ACCESS_READ), 2);
}

static void five_level_references(void **state)
{
	struct machine *m = *state;
	struct mmu_regs r = m->mmu.regs;

	r.cr4 |= CR4_LA57;
	mmu_set_regs(&m->mmu, &r);
	map(m, r.cr3, 5, 0x400000, 12, 0x200000 | PTE_P);
	assert_int_equal(refs_of(m, 0x400000, ACCESS_READ), 5);
	map(m, r.cr3, 5, 0x1000000400000, 12, 0x200000 | PTE_P);
	nest(m, make_ept(m, 12));
	assert_int_equal(refs_of(m, 0x1000000400000, ACCESS_READ), 29); /* 5 guest levels over 4 of EPT */
	nest_levels(m, make_ept_levels(m, 12, 5), 5);
	assert_int_equal(refs_of(m, 0x1000000400000, ACCESS_READ), 35);
}

static void nested_references(void **state)
{
	struct machine *m = *state;

	map4(m, 0x400000, 12, 0x200000 | PTE_P);
	map4(m, 0x800000, 21, 0x400000 | PTE_P | PTE_PS);
	nest(m, make_ept(m, 12));
	assert_int_equal(refs_of(m, 0x400000, ACCESS_READ), 24);
	assert_int_equal(refs_of(m, 0x800000, ACCESS_READ), 19);
	/* A 2 MiB page on 4 KiB host pages is entered in 4 KiB pieces. */
	assert_int_equal(refs_of(m, 0x801000, ACCESS_READ), 19);
}

static void nested_references_large_host(void **state)
{
	struct machine *m = *state;

	map4(m, 0x400000, 12, 0x200000 | PTE_P);
	map4(m, 0x800000, 21, 0x400000 | PTE_P | PTE_PS);
	nest(m, make_ept(m, 21));
	assert_int_equal(refs_of(m, 0x400000, ACCESS_READ), 19);
	assert_int_equal(refs_of(m, 0x800000, ACCESS_READ), 15);
	assert_int_equal(refs_of(m, 0x9ff000, ACCESS_READ), 0);
}

/* ---- faults and flags ---- */

static void fault_codes(void **state)
{
	struct machine *m = *state;

	map4(m, 0x400000, 12, 0x200000 | PTE_P | PTE_NX);
	map4(m, 0x401000, 12, 0);
	map4(m, 0x402000, 12, 0x200000 | PTE_P | BIT64(51));
	assert_fault(m, 0x400000, ACCESS_WRITE, MODE_SUPER, PF_P | PF_W);
	assert_fault(m, 0x400000, ACCESS_READ, MODE_USER, PF_P | PF_U);
	assert_fault(m, 0x400000, ACCESS_FETCH, MODE_SUPER, PF_P | PF_I);
	assert_fault(m, 0x401000, ACCESS_WRITE, MODE_USER, PF_W | PF_U);
	assert_fault(m, 0x402000, ACCESS_READ, MODE_SUPER, PF_P | PF_RSVD);
	assert_fault(m, 0x800000, ACCESS_FETCH, MODE_SUPER, PF_I);
}

static void accessed_and_dirty(void **state)
{
	struct machine *m = *state;
	uint64_t leaf = map4(m, 0x400000, 12, 0x200000 | PTE_P);
	uint64_t page = map4(m, 0x401000, 12, 0x201000 | PTE_P | PTE_W);
	struct xlate x;

	assert_fault(m, 0x400000, ACCESS_WRITE, MODE_SUPER, PF_P | PF_W);
	assert_int_equal(get(m, leaf) & (PTE_A | PTE_D), 0);
	assert_int_equal(get(m, m->mmu.regs.cr3) & PTE_A, PTE_A); /* it was followed */
	assert_int_equal(access_as(m, 0x401000, ACCESS_READ, MODE_SUPER, &x), XLATE_OK);
	assert_int_equal(get(m, page) & (PTE_A | PTE_D), PTE_A);
	assert_int_equal(access_as(m, 0x401000, ACCESS_WRITE, MODE_SUPER, &x), XLATE_OK);
	assert_int_equal(get(m, page) & (PTE_A | PTE_D), PTE_A | PTE_D);
}

static void ept_violation_details(void **state)
{
	struct machine *m = *state;
	uint64_t root, entry;
	struct xlate x;

	map4(m, 0x400000, 12, 0x200000 | PTE_P | PTE_W | PTE_A);
	root = make_ept(m, 21);
	entry = (get(m, get(m, root) & EPT_ADDR_MASK) & EPT_ADDR_MASK) + 8;
	put(m, entry, (get(m, entry) & ~7ull) | EPT_R);
	nest(m, root);
	assert_int_equal(access_as(m, 0x400010, ACCESS_WRITE, MODE_SUPER, &x), XLATE_EPT_VIOLATION);
	assert_int_equal(x.gpa.v, 0x200010);
	assert_int_equal(x.qualification, EPT_VIOL_WRITE | EPT_R << EPT_VIOL_RIGHTS_SHIFT | EPT_VIOL_FINAL);
	put(m, entry, EPT_W | (get(m, entry) & ~7ull));
	assert_int_equal(access_as(m, 0x400010, ACCESS_READ, MODE_SUPER, &x), XLATE_EPT_MISCONFIG);
}

/* ---- the TLB holds what it holds ---- */

static void stale_until_flushed(void **state)
{
	struct machine *m = *state;
	uint64_t leaf = map4(m, 0x400000, 12, 0x200000 | PTE_P);
	struct xlate x;

	refs_of(m, 0x400000, ACCESS_READ);
	put(m, leaf, 0x300000 | PTE_P);
	assert_int_equal(access_as(m, 0x400000, ACCESS_READ, MODE_SUPER, &x), XLATE_OK);
	assert_int_equal(x.page.v, 0x200000);
	mmu_flush_page(&m->mmu, gva(0x400fff));
	assert_int_equal(access_as(m, 0x400000, ACCESS_READ, MODE_SUPER, &x), XLATE_OK);
	assert_int_equal(x.page.v, 0x300000);
}

/* Four ways of one L1D set and twelve of one L2 set: the thirteenth page pushes out the least recently used. */
static void true_lru(void **state)
{
	struct machine *m = *state;
	uint64_t step = 128 * PAGE_SIZE; /* the same set of both levels */

	for (unsigned i = 0; i < 13; i++)
		map4(m, 0x400000 + i * step, 12, 0x200000 | PTE_P);
	for (unsigned i = 0; i < 12; i++)
		assert_int_equal(refs_of(m, 0x400000 + i * step, ACCESS_READ), 4);
	assert_int_equal(refs_of(m, 0x400000, ACCESS_READ), 0); /* L2 hit: now the most recent */
	assert_int_equal(refs_of(m, 0x400000 + 12 * step, ACCESS_READ), 4);
	assert_int_equal(refs_of(m, 0x400000, ACCESS_READ), 0);
	assert_int_equal(refs_of(m, 0x400000 + step, ACCESS_READ), 4); /* it was the least recent */
}

static void set_cr3(struct machine *m, uint64_t cr3, uint64_t cr4_set)
{
	struct mmu_regs r = m->mmu.regs;

	r.cr3 = cr3;
	r.cr4 |= cr4_set;
	mmu_set_regs(&m->mmu, &r);
}

static void pcid_and_globals(void **state)
{
	struct machine *m = *state;
	uint64_t root = m->mmu.regs.cr3;

	map4(m, 0x400000, 12, 0x200000 | PTE_P);
	map4(m, 0x401000, 12, 0x200000 | PTE_P | PTE_G);
	set_cr3(m, root | 1, CR4_PCIDE);
	refs_of(m, 0x400000, ACCESS_READ);
	refs_of(m, 0x401000, ACCESS_READ);
	set_cr3(m, root | 2, 0);
	assert_int_equal(refs_of(m, 0x400000, ACCESS_READ), 4); /* another PCID */
	assert_int_equal(refs_of(m, 0x401000, ACCESS_READ), 0); /* global */
	mmu_flush_pcid(&m->mmu, 2);
	assert_int_equal(refs_of(m, 0x401000, ACCESS_READ), 0);
	set_cr3(m, root | 1, 0);
	assert_int_equal(refs_of(m, 0x400000, ACCESS_READ), 0); /* kept */
	mmu_flush_pcid_page(&m->mmu, 1, gva(0x400000));
	assert_int_equal(refs_of(m, 0x400000, ACCESS_READ), 4);
	mmu_flush_nonglobal(&m->mmu);
	assert_int_equal(refs_of(m, 0x400000, ACCESS_READ), 4);
	assert_int_equal(refs_of(m, 0x401000, ACCESS_READ), 0);
	mmu_flush_vpid_all(&m->mmu, 0);
	assert_int_equal(refs_of(m, 0x401000, ACCESS_READ), 4);
}

static void vpid_and_ept_tags(void **state)
{
	struct machine *m = *state;
	struct mmu_regs r;
	uint64_t a, b;

	map4(m, 0x400000, 12, 0x200000 | PTE_P);
	a = make_ept(m, 21);
	b = make_ept(m, 21);
	nest(m, a);
	assert_int_equal(refs_of(m, 0x400000, ACCESS_READ), 19);
	nest(m, b);
	assert_int_equal(refs_of(m, 0x400000, ACCESS_READ), 19);
	mmu_flush_ept(&m->mmu, b, false);
	assert_int_equal(refs_of(m, 0x400000, ACCESS_READ), 19);
	nest(m, a);
	assert_int_equal(refs_of(m, 0x400000, ACCESS_READ), 0);
	r = m->mmu.regs;
	r.vpid = 2;
	mmu_set_regs(&m->mmu, &r);
	assert_int_equal(refs_of(m, 0x400000, ACCESS_READ), 19);
	mmu_flush_vpid_all(&m->mmu, 2);
	nest(m, a);
	assert_int_equal(refs_of(m, 0x400000, ACCESS_READ), 0);
	mmu_flush_vpid_page(&m->mmu, 1, gva(0x400000));
	assert_int_equal(refs_of(m, 0x400000, ACCESS_READ), 19);
}

static void splintered_entries_go_together(void **state)
{
	struct machine *m = *state;

	map4(m, 0x800000, 21, 0x400000 | PTE_P | PTE_PS);
	refs_of(m, 0x800000, ACCESS_READ);
	mmu_flush_page(&m->mmu, gva(0x9ff000));
	assert_int_equal(refs_of(m, 0x800000, ACCESS_READ), 3);
}

/* A large page that reaches past the RAM: what is RAM is, what is not is a device. */
static void mixed_pages_are_split(void **state)
{
	struct machine *m = *state;
	struct xlate x;
	uint16_t rights;

	map4(m, 0x40000000, 30, PTE_P | PTE_W | PTE_PS);
	assert_int_equal(mmu_translate(&m->mmu, gva(0x40000000), ACCESS_WRITE, MODE_SUPER, &x, &rights), XLATE_OK);
	assert_false(rights & TLB_MMIO);
	assert_int_equal(mmu_translate(&m->mmu, gva(0x40000000 + MEMORY), ACCESS_WRITE, MODE_SUPER, &x, &rights),
			 XLATE_OK);
	assert_int_equal(x.page.v, MEMORY);
	assert_true(rights & TLB_MMIO);
	assert_int_equal(mmu_translate(&m->mmu, gva(0x40001000), ACCESS_WRITE, MODE_SUPER, &x, &rights), XLATE_OK);
	assert_int_equal(x.page.v, 0x1000);
	assert_false(rights & TLB_MMIO);
	/* It is still one page for INVLPG. */
	mmu_flush_page(&m->mmu, gva(0x7ffff000));
	assert_int_equal(refs_of(m, 0x40001000, ACCESS_READ), 2);
}

/* The fast lookup changes no count: random accesses with it and without it, side by side. */
static void fast_path_is_invisible(void **state)
{
	struct machine *m = *state;
	uint64_t counts[2][4];

	for (unsigned i = 0; i < 512; i++)
		map4(m, 0x400000 + i * PAGE_SIZE, 12, 0x200000 | PTE_P | PTE_W);
	for (unsigned pass = 0; pass < 2; pass++) {
		uint64_t x = 88172645463325252ull, left_fast = 0;

		m->mmu.fast_path = pass == 0;
		mmu_flush_everything(&m->mmu);
		m->mmu.stats = (struct mmu_stats){0};
		for (unsigned i = 0; i < 200000; i++) {
			uint64_t lin;

			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			lin = 0x400000 + (x % (x & 64 ? 512 : 24)) * PAGE_SIZE;
			if (mmu_fast_data(&m->mmu, lin, 1, ACCESS_READ, MODE_SUPER))
				continue;
			left_fast++;
			refs_of(m, lin, ACCESS_READ);
		}
		memcpy(counts[pass], (uint64_t[]){m->mmu.stats.walks, m->mmu.stats.refs, m->mmu.stats.l1d_misses,
						  m->mmu.stats.l2d_hits}, sizeof(counts[0]));
		assert_true(pass == 0 ? left_fast < 200000 : left_fast == 200000);
	}
	assert_memory_equal(counts[0], counts[1], sizeof(counts[0]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(native_references, setup, teardown),
		cmocka_unit_test_setup_teardown(five_level_references, setup, teardown),
		cmocka_unit_test_setup_teardown(nested_references, setup, teardown),
		cmocka_unit_test_setup_teardown(nested_references_large_host, setup, teardown),
		cmocka_unit_test_setup_teardown(fault_codes, setup, teardown),
		cmocka_unit_test_setup_teardown(accessed_and_dirty, setup, teardown),
		cmocka_unit_test_setup_teardown(ept_violation_details, setup, teardown),
		cmocka_unit_test_setup_teardown(stale_until_flushed, setup, teardown),
		cmocka_unit_test_setup_teardown(true_lru, setup, teardown),
		cmocka_unit_test_setup_teardown(pcid_and_globals, setup, teardown),
		cmocka_unit_test_setup_teardown(vpid_and_ept_tags, setup, teardown),
		cmocka_unit_test_setup_teardown(splintered_entries_go_together, setup, teardown),
		cmocka_unit_test_setup_teardown(mixed_pages_are_split, setup, teardown),
		cmocka_unit_test_setup_teardown(fast_path_is_invisible, setup, teardown),
	};

	return cmocka_run_group_tests_name("mmu", tests, NULL, NULL);
}
