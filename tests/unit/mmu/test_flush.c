/*
 * Every invalidation against a population of translations that differ in one thing each: VPID,
 * PCID, EPT root, address, global or not, linear, combined or guest-physical. What must go
 * has gone, and what may stay has stayed. The same for paging-structure caches, EPT's
 * structures and the nested TLB.
 *
 * SDM volume 3, "Operations that Invalidate TLBs and Paging-Structure Caches" and
 * "Operations that Invalidate Cached Mappings".
 */
#include "rig.h"

#include "mmu/tlb.h"

#define TO RIG_TABLES
/* Addresses in 2 MiB of their own, two of them mapped as global. */
#define X  0x40200000ull
#define Y  0x40400000ull
#define GX 0x40600000ull
#define GY 0x40800000ull
#define Z  0x40a00000ull

/* One translation. Bits in masks are by these names. */
enum {
	V1_P1_A_X, V1_P1_A_Y, V1_P2_A_X, V1_P1_B_X, V2_P1_A_X, V1_P1_L_X, V0_P1_L_X,
	V1_P1_A_GX, V1_P1_A_GY, V2_P1_A_GX, V1_P1_B_GX, UNPAGED_A, PROBES
};
#define BIT(n) (1u << (n))
#define GLOBALS (BIT(V1_P1_A_GX) | BIT(V1_P1_A_GY) | BIT(V2_P1_A_GX) | BIT(V1_P1_B_GX))
#define EVERY (BIT(PROBES) - 1)

struct probe { unsigned vpid, pcid; char ept; uint64_t lin; };
static const struct probe probes[PROBES] = {
	[V1_P1_A_X] = {1, 1, 'a', X}, [V1_P1_A_Y] = {1, 1, 'a', Y}, [V1_P2_A_X] = {1, 2, 'a', X},
	[V1_P1_B_X] = {1, 1, 'b', X}, [V2_P1_A_X] = {2, 1, 'a', X}, [V1_P1_L_X] = {1, 1, 0, X},
	[V0_P1_L_X] = {0, 1, 0, X}, [V1_P1_A_GX] = {1, 1, 'a', GX}, [V1_P1_A_GY] = {1, 1, 'a', GY},
	[V2_P1_A_GX] = {2, 1, 'a', GX}, [V1_P1_B_GX] = {1, 1, 'b', GX}, [UNPAGED_A] = {3, 0, 'a', TO},
};

struct bed {
	struct rig r;
	uint64_t a, b; /* EPTPs */
	unsigned page; /* a probe reads page after page of its 2 MiB, so that its TLB entry is never in the way */
};

static void begin(struct bed *b, const struct hw *hw)
{
	static const uint64_t lins[] = {X, Y, GX, GY, Z};

	rig_begin(&b->r, hw);
	b->page = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(lins); i++)
		for (unsigned p = 0; p < 4; p++)
			rig_map(&b->r, lins[i] + p * PAGE_SIZE, 12,
				(TO + p * PAGE_SIZE) | RIG_LEAF | (lins[i] == GX || lins[i] == GY ? PTE_G : 0));
	b->a = rig_ept(&b->r, 21, 4);
	b->b = rig_ept(&b->r, 21, 4);
}

static void set_context(struct bed *b, const struct probe *p)
{
	struct mmu_regs n = b->r.mmu.regs;

	n.cr0 = p->pcid ? n.cr0 | CR0_PG : n.cr0 & ~CR0_PG;
	n.vpid = (uint16_t)p->vpid;
	mmu_set_regs(&b->r.mmu, &n);
	rig_set_pcid(&b->r, p->pcid);
	rig_set_ept(&b->r, p->ept == 'a' ? b->a : p->ept == 'b' ? b->b : 0);
}

static uint64_t refs_of(struct bed *b, const struct probe *p)
{
	set_context(b, p);
	return rig_refs(&b->r, p->lin + b->page * PAGE_SIZE);
}

/* The current context is VPID 1, PCID 1, EPT root a. */
typedef void (*flush)(struct bed *b);

struct flush_case { const char *name; flush run; unsigned gone; };

static void invlpg_x(struct bed *b) { mmu_flush_page(&b->r.mmu, gva(X + 0x123)); }
static void invlpg_gx(struct bed *b) { mmu_flush_page(&b->r.mmu, gva(GX)); }
static void invlpg_z(struct bed *b) { mmu_flush_page(&b->r.mmu, gva(Z)); }
static void invpcid0_1_x(struct bed *b) { mmu_flush_pcid_page(&b->r.mmu, 1, gva(X)); }
static void invpcid0_2_x(struct bed *b) { mmu_flush_pcid_page(&b->r.mmu, 2, gva(X)); }
static void invpcid0_1_gx(struct bed *b) { mmu_flush_pcid_page(&b->r.mmu, 1, gva(GX)); }
static void invpcid1_1(struct bed *b) { mmu_flush_pcid(&b->r.mmu, 1); }
static void invpcid1_2(struct bed *b) { mmu_flush_pcid(&b->r.mmu, 2); }
static void invpcid3(struct bed *b) { mmu_flush_nonglobal(&b->r.mmu); }
static void smep_1(struct bed *b) { mmu_flush_pcid_all(&b->r.mmu, 1); }
static void invvpid0_1_x(struct bed *b) { mmu_flush_vpid_page(&b->r.mmu, 1, gva(X)); }
static void invvpid0_1_gx(struct bed *b) { mmu_flush_vpid_page(&b->r.mmu, 1, gva(GX)); }
static void invvpid0_2_x(struct bed *b) { mmu_flush_vpid_page(&b->r.mmu, 2, gva(X)); }
static void invvpid1_1(struct bed *b) { mmu_flush_vpid_all(&b->r.mmu, 1); }
static void invvpid1_2(struct bed *b) { mmu_flush_vpid_all(&b->r.mmu, 2); }
static void invvpid1_0(struct bed *b) { mmu_flush_vpid_all(&b->r.mmu, 0); }
static void invvpid3_1(struct bed *b) { mmu_flush_vpid_keep_globals(&b->r.mmu, 1); }
static void invvpid2(struct bed *b) { mmu_flush_all_vpids(&b->r.mmu); }
static void invept1_a(struct bed *b) { mmu_flush_ept(&b->r.mmu, b->a, false); }
static void invept1_b(struct bed *b) { mmu_flush_ept(&b->r.mmu, b->b, false); }
static void invept2(struct bed *b) { mmu_flush_ept(&b->r.mmu, 0, true); }
static void reset(struct bed *b) { mmu_flush_everything(&b->r.mmu); }
/* A root is the address alone: memory type, length and flags in EPTP are no part of the tag. */
static void invept1_a_other_bits(struct bed *b) { mmu_flush_ept(&b->r.mmu, b->a ^ EPTP_AD ^ EPT_MT_WB, false); }
/* The fast lookup is the host's business: nothing of the model goes with it. */
static void flush_fast(struct bed *b) { mmu_fast_flush(&b->r.mmu); }

/* Linear and combined mappings of VPID 1: with PCID 1, and with any. */
#define V1_P1_AT_X (BIT(V1_P1_A_X) | BIT(V1_P1_B_X) | BIT(V1_P1_L_X)) /* "for combined mappings, all EP4TAs" */
#define V1_P1 (V1_P1_AT_X | BIT(V1_P1_A_Y))
#define V1 (V1_P1 | BIT(V1_P2_A_X))
#define V1_GLOBALS (BIT(V1_P1_A_GX) | BIT(V1_P1_A_GY) | BIT(V1_P1_B_GX))
#define V2 (BIT(V2_P1_A_X) | BIT(V2_P1_A_GX))
#define OF_B (BIT(V1_P1_B_X) | BIT(V1_P1_B_GX))
#define LINEAR (BIT(V1_P1_L_X) | BIT(V0_P1_L_X))

static const struct flush_case tlb_cases[] = {
	{"INVLPG", invlpg_x, V1_P1_AT_X},
	{"INVLPG of a global page", invlpg_gx, BIT(V1_P1_A_GX) | BIT(V1_P1_B_GX)},
	{"INVLPG of another page", invlpg_z, 0},
	{"INVPCID 0", invpcid0_1_x, V1_P1_AT_X},
	{"INVPCID 0, another PCID", invpcid0_2_x, BIT(V1_P2_A_X)},
	{"INVPCID 0 of a global page", invpcid0_1_gx, 0},
	{"INVPCID 1", invpcid1_1, V1_P1},
	{"INVPCID 1, another PCID", invpcid1_2, BIT(V1_P2_A_X)},
	{"INVPCID 3", invpcid3, V1},
	{"CR4.SMEP", smep_1, V1_P1 | V1_GLOBALS},
	{"INVVPID 0", invvpid0_1_x, V1_P1_AT_X | BIT(V1_P2_A_X)},
	{"INVVPID 0 of a global page", invvpid0_1_gx, BIT(V1_P1_A_GX) | BIT(V1_P1_B_GX)},
	{"INVVPID 0, another VPID", invvpid0_2_x, BIT(V2_P1_A_X)},
	{"INVVPID 1", invvpid1_1, V1 | V1_GLOBALS},
	{"INVVPID 1, another VPID", invvpid1_2, V2},
	{"INVVPID 1 of VPID 0", invvpid1_0, BIT(V0_P1_L_X)},
	{"INVVPID 3", invvpid3_1, V1},
	{"INVVPID 2", invvpid2, EVERY & ~(BIT(V0_P1_L_X) | BIT(UNPAGED_A))},
	{"INVEPT 1", invept1_a, EVERY & ~(OF_B | LINEAR)},
	{"INVEPT 1, another root", invept1_b, OF_B},
	{"INVEPT 1, other bits", invept1_a_other_bits, EVERY & ~(OF_B | LINEAR)},
	{"INVEPT 2", invept2, EVERY & ~LINEAR},
	{"RESET", reset, EVERY},
	{"fast lookups", flush_fast, 0},
};

/* Fills, flushes, and asks for each translation how many references it takes. @cold: from how many on it has gone. */
static void run_case(const struct hw *hw, const struct flush_case *c, unsigned population, const uint64_t cold[PROBES],
		     bool next_page)
{
	struct bed b;
	unsigned gone = 0;

	begin(&b, hw);
	for (unsigned i = 0; i < PROBES; i++)
		if (population & BIT(i))
			refs_of(&b, &probes[i]);
	set_context(&b, &probes[V1_P1_A_X]);
	c->run(&b);
	b.page += next_page;
	for (unsigned i = 0; i < PROBES; i++)
		if (population & BIT(i) && refs_of(&b, &probes[i]) >= cold[i])
			gone |= BIT(i);
	if (gone != (c->gone & population))
		fail_msg("%s: gone %#x, should be %#x", c->name, gone, c->gone & population);
	rig_end(&b.r);
}

static const uint64_t any_walk[PROBES] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

static void first_level(void **state)
{
	struct hw hw = rig_hw();

	(void)state;
	rig_roomy(&hw);
	for (unsigned i = 0; i < ARRAY_SIZE(tlb_cases); i++)
		run_case(&hw, &tlb_cases[i], EVERY, any_walk, false);
}

static void second_level(void **state)
{
	struct hw hw = rig_hw();

	(void)state;
	rig_tlb(&hw.l2d, HW_4K | HW_2M | HW_1G, 64, 16); /* several sizes, several sets */
	for (unsigned i = 0; i < ARRAY_SIZE(tlb_cases); i++)
		run_case(&hw, &tlb_cases[i], EVERY, any_walk, false);
}

/* ---- paging-structure caches ---- */

/* These know no global pages; and INVLPG drops all of the current PCID, "regardless of the linear addresses". */
#define V1_P1_S (V1_P1 | V1_GLOBALS)
#define V1_S (V1 | V1_GLOBALS)

static const struct flush_case structure_cases[] = {
	{"INVLPG", invlpg_x, V1_P1_S},
	{"INVLPG of another page", invlpg_z, V1_P1_S},
	{"INVPCID 0", invpcid0_1_x, V1_P1_AT_X},
	{"INVPCID 0, another PCID", invpcid0_2_x, BIT(V1_P2_A_X)},
	{"INVPCID 0, another address", invpcid0_1_gx, BIT(V1_P1_A_GX) | BIT(V1_P1_B_GX)},
	{"INVPCID 1", invpcid1_1, V1_P1_S},
	{"INVPCID 1, another PCID", invpcid1_2, BIT(V1_P2_A_X)},
	{"INVPCID 3", invpcid3, V1_S},
	{"CR4.SMEP", smep_1, V1_P1_S},
	{"INVVPID 0", invvpid0_1_x, V1_P1_AT_X | BIT(V1_P2_A_X)},
	{"INVVPID 0, another VPID", invvpid0_2_x, BIT(V2_P1_A_X)},
	{"INVVPID 1", invvpid1_1, V1_S},
	{"INVVPID 1, another VPID", invvpid1_2, V2},
	{"INVVPID 1 of VPID 0", invvpid1_0, BIT(V0_P1_L_X)},
	{"INVVPID 3", invvpid3_1, V1_S},
	{"INVVPID 2", invvpid2, EVERY & ~BIT(V0_P1_L_X)},
	{"INVEPT 1", invept1_a, EVERY & ~(OF_B | LINEAR)},
	{"INVEPT 1, another root", invept1_b, OF_B},
	{"INVEPT 2", invept2, EVERY & ~LINEAR},
	{"RESET", reset, EVERY},
	{"fast lookups", flush_fast, 0},
};

static void split_guest(void **state)
{
	/* With the PDE: 1, and 3 for the page under EPT. Without: 4, and 4 * (3 + 1) + 3. */
	static const uint64_t cold[PROBES] = {19, 19, 19, 19, 19, 4, 4, 19, 19, 19, 19, 0};
	struct hw hw = rig_hw();

	(void)state;
	hw.walk_caches = HW_WALK_SPLIT;
	hw.guest[2] = rig_array(64, 16);
	for (unsigned i = 0; i < ARRAY_SIZE(structure_cases); i++)
		run_case(&hw, &structure_cases[i], EVERY & ~BIT(UNPAGED_A), cold, true);
}

static void unified_guest(void **state)
{
	/* With all three: 4 * 3 EPT references, the PTE, 3 for the page. Without any 3 more, without one 1. */
	static const uint64_t cold[PROBES] = {17, 17, 17, 17, 17, 2, 2, 17, 17, 17, 17, 0};
	struct hw hw = rig_hw();

	(void)state;
	hw.walk_caches = HW_WALK_UNIFIED;
	hw.unified = rig_array(128, 128);
	hw.unified_guest = true;
	/*
	 * Its entries for levels 4 and 3 serve all addresses here: an invalidation by address takes them from
	 * the others, too. So this looks at one address alone.
	 */
	for (unsigned i = 0; i < ARRAY_SIZE(structure_cases); i++)
		if (structure_cases[i].run != invpcid0_1_gx)
			run_case(&hw, &structure_cases[i], BIT(V1_P1_A_X) | BIT(V1_P2_A_X) | BIT(V1_P1_B_X) |
				 BIT(V2_P1_A_X) | LINEAR, cold, true);
}

/* Prefixes above the PDE serve many addresses: those of the one that is named go, with all they serve. */
static void prefixes_of_an_address(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	hw.walk_caches = HW_WALK_SPLIT;
	hw.guest[2] = hw.guest[3] = rig_array(8, 8);
	rig_begin(&r, &hw);
	rig_map(&r, X, 12, TO | RIG_LEAF);
	rig_map(&r, Y, 12, TO | RIG_LEAF);
	rig_map(&r, Z, 12, TO | RIG_LEAF);
	rig_set_pcid(&r, 1);
	rig_refs(&r, X);
	rig_refs(&r, Y);
	mmu_flush_pcid_page(&r.mmu, 1, gva(X));
	assert_int_equal(rig_refs(&r, Y), 1); /* its own PDE is there */
	assert_int_equal(rig_refs(&r, Z), 4); /* the PDPTE of their GiB is not */
	assert_int_equal(rig_refs(&r, X), 2); /* now it is */
	rig_end(&r);
}

/* ---- guest-physical mappings ---- */

/* What EPT's structures said of the tables' and pages' addresses: under one root, whatever VPID and PCID. */
static const struct flush_case physical_cases[] = {
	{"INVLPG", invlpg_x, 0},
	{"INVPCID 0", invpcid0_1_x, 0},
	{"INVPCID 1", invpcid1_1, 0},
	{"INVPCID 3", invpcid3, 0},
	{"CR4.SMEP", smep_1, 0},
	{"INVVPID 0", invvpid0_1_x, 0},
	{"INVVPID 1", invvpid1_1, 0},
	{"INVVPID 3", invvpid3_1, 0},
	{"INVVPID 2", invvpid2, 0},
	{"INVEPT 1", invept1_a, BIT(V1_P1_A_X)},
	{"INVEPT 1, another root", invept1_b, BIT(V1_P1_B_X)},
	{"INVEPT 1, other bits", invept1_a_other_bits, BIT(V1_P1_A_X)},
	{"INVEPT 2", invept2, BIT(V1_P1_A_X) | BIT(V1_P1_B_X)},
	{"RESET", reset, BIT(V1_P1_A_X) | BIT(V1_P1_B_X)},
};

static void guest_physical(void **state)
{
	struct hw split = rig_hw(), unified = rig_hw(), nested = rig_hw();
	/*
	 * EPT's PDPTE known from before: 4 * (1 + 1) + 1 = 9; cold it is (3 + 1) + 3 * (1 + 1) + 1 = 11.
	 */
	static const uint64_t split_cold[PROBES] = {[V1_P1_A_X] = 11, [V1_P1_B_X] = 11};
	/* EPT's leaves too, one for all tables and one for the pages: 4 of the guest; cold (3 + 1) + 3 * 1 + 1 = 8. */
	static const uint64_t unified_cold[PROBES] = {[V1_P1_A_X] = 8, [V1_P1_B_X] = 8};
	/* The four tables known: 4 + 3; cold 19. */
	static const uint64_t nested_cold[PROBES] = {[V1_P1_A_X] = 19, [V1_P1_B_X] = 19};

	(void)state;
	split.walk_caches = HW_WALK_SPLIT;
	split.host[3] = rig_array(4, 2);
	unified.walk_caches = HW_WALK_UNIFIED;
	unified.unified = rig_array(32, 32);
	unified.unified_host = unified.unified_host_leaf = true;
	nested.nested_tlb = rig_array(32, 8);
	for (unsigned i = 0; i < ARRAY_SIZE(physical_cases); i++) {
		unsigned both = BIT(V1_P1_A_X) | BIT(V1_P1_B_X);

		run_case(&split, &physical_cases[i], both, split_cold, true);
		run_case(&unified, &physical_cases[i], both, unified_cold, true);
		run_case(&nested, &physical_cases[i], both, nested_cold, true);
	}
}

/* ---- sizes ---- */

/* The pieces of one large page go together by every invalidation of an address; those of its neighbour stay. */
static void large_pages_in_pieces(void **state)
{
	static const flush runs[] = {invlpg_x, invpcid0_1_x, invvpid0_1_x};
	struct hw hw = rig_hw();

	(void)state;
	rig_tlb(&hw.l1d, HW_4K, 64, 4);
	rig_tlb(&hw.l2d, HW_4K, 128, 4);
	for (unsigned i = 0; i < ARRAY_SIZE(runs); i++) {
		struct bed b;

		rig_begin(&b.r, &hw);
		rig_map(&b.r, X, 21, 0x2000000 | RIG_LEAF);
		rig_map(&b.r, Y, 21, 0x2200000 | RIG_LEAF);
		rig_set_pcid(&b.r, 1);
		rig_set_vpid(&b.r, 1);
		for (unsigned p = 0; p < 5; p++) {
			rig_refs(&b.r, X + p * 0x11000);
			rig_refs(&b.r, Y + p * 0x11000);
		}
		runs[i](&b);
		for (unsigned p = 0; p < 5; p++) {
			assert_int_equal(rig_refs(&b.r, Y + p * 0x11000), 0);
			assert_int_equal(rig_refs(&b.r, X + p * 0x11000), 3);
		}
		rig_end(&b.r);
	}
}

/* Both what is held of a 2 MiB page as such and what is held of it in pieces. */
static void whole_and_pieces(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	rig_tlb(&hw.l1d, HW_4K, 16, 4);
	rig_tlb(&hw.l1i, HW_2M, 16, 4);
	rig_begin(&r, &hw);
	rig_map(&r, X, 21, 0x2000000 | RIG_LEAF);
	rig_map(&r, Y, 12, TO | RIG_LEAF);
	rig_read(&r, X + 0x3000);
	assert_int_equal(rig_access(&r, X, ACCESS_FETCH), FROM_TABLES);
	assert_int_equal(rig_access(&r, X + 0x7000, ACCESS_FETCH), FROM_L1);
	rig_read(&r, Y);
	mmu_flush_page(&r.mmu, gva(X + 0x1ff000));
	assert_int_equal(rig_read(&r, Y), FROM_L1);
	assert_int_equal(rig_read(&r, X + 0x3000), FROM_TABLES);
	assert_int_equal(rig_access(&r, X, ACCESS_FETCH), FROM_TABLES);
	rig_end(&r);
}

static void global_large_pages(void **state)
{
	struct hw hw = rig_hw();
	struct rig r;

	(void)state;
	rig_roomy(&hw);
	rig_begin(&r, &hw);
	rig_map(&r, X, 21, 0x2000000 | RIG_LEAF | PTE_G);
	rig_map(&r, 0x80000000, 30, 0x40000000 | RIG_LEAF | PTE_G);
	rig_set_pcid(&r, 1);
	rig_read(&r, X);
	rig_read(&r, 0x80000000);
	mmu_flush_pcid(&r.mmu, 1);
	mmu_flush_nonglobal(&r.mmu);
	rig_set_pcid(&r, 2);
	assert_int_equal(rig_read(&r, X + 0x1000), FROM_L1);
	assert_int_equal(rig_read(&r, 0xbffff000), FROM_L1);
	mmu_flush_page(&r.mmu, gva(0x90000000)); /* under another PCID */
	assert_int_equal(rig_read(&r, X), FROM_L1);
	assert_int_equal(rig_read(&r, 0x80000000), FROM_TABLES);
	rig_end(&r);
}

/* With CR4.PGE clear a page is not global, whatever its entry says. */
static void globals_need_pge(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_regs n;
	struct rig r;

	(void)state;
	rig_roomy(&hw);
	rig_begin(&r, &hw);
	rig_map(&r, X, 12, TO | RIG_LEAF | PTE_G);
	n = r.mmu.regs;
	n.cr4 &= ~CR4_PGE;
	mmu_set_regs(&r.mmu, &n);
	rig_read(&r, X);
	mmu_flush_pcid(&r.mmu, 0);
	assert_int_equal(rig_read(&r, X), FROM_TABLES);
	rig_end(&r);
}

/* ---- what the hardware drops by itself ---- */

/* A page fault: the address's translations of this PCID; neighbours, other PCIDs and VPIDs stay. */
static void page_faults(void **state)
{
	struct hw hw = rig_hw();
	struct xlate x;
	struct bed b;

	(void)state;
	rig_roomy(&hw);
	begin(&b, &hw);
	for (unsigned i = 0; i < PROBES; i++)
		refs_of(&b, &probes[i]);
	set_context(&b, &probes[V1_P1_A_X]);
	rig_map(&b.r, X, 12, TO | PTE_P | PTE_A); /* fewer rights, which hardware need not know yet */
	assert_int_equal(rig_try(&b.r, X, ACCESS_WRITE, MODE_SUPER, &x), XLATE_OK);
	assert_int_equal(rig_try(&b.r, X, ACCESS_FETCH, MODE_USER, &x), XLATE_PAGE_FAULT);
	assert_int_equal(refs_of(&b, &probes[V1_P1_A_X]), 19);
	assert_int_equal(refs_of(&b, &probes[V1_P1_A_Y]), 0);
	assert_int_equal(refs_of(&b, &probes[V1_P1_A_GX]), 0);
	assert_int_equal(refs_of(&b, &probes[V1_P2_A_X]), 0);
	assert_int_equal(refs_of(&b, &probes[V2_P1_A_X]), 0);
	assert_int_equal(refs_of(&b, &probes[V0_P1_L_X]), 0);
	assert_int_equal(refs_of(&b, &probes[UNPAGED_A]), 0);
	rig_end(&b.r);
}

/* An EPT violation: this root's translations of the address. */
static void ept_violations(void **state)
{
	struct hw hw = rig_hw();
	struct xlate x;
	struct bed b;

	(void)state;
	rig_roomy(&hw);
	begin(&b, &hw);
	for (unsigned i = 0; i < PROBES; i++)
		refs_of(&b, &probes[i]);
	set_context(&b, &probes[V1_P1_A_X]);
	rig_ept_map(&b.r, b.a, TO, 21, TO | EPT_R | EPT_MT_WB << EPT_MT_SHIFT);
	assert_int_equal(rig_try(&b.r, X, ACCESS_FETCH, MODE_SUPER, &x), XLATE_EPT_VIOLATION);
	assert_int_equal(x.gpa.v, TO);
	assert_int_equal(refs_of(&b, &probes[V1_P1_A_X]), 19);
	assert_int_equal(refs_of(&b, &probes[V1_P1_A_Y]), 0); /* the same guest-physical page, but a combined mapping */
	assert_int_equal(refs_of(&b, &probes[V1_P1_B_X]), 0);
	assert_int_equal(refs_of(&b, &probes[V1_P1_L_X]), 0);
	assert_int_equal(refs_of(&b, &probes[V1_P2_A_X]), 0);
	assert_int_equal(refs_of(&b, &probes[UNPAGED_A]), 3); /* a guest-physical mapping of that address */
	rig_end(&b.r);
}

static void counted(void **state)
{
	struct hw hw = rig_hw();
	struct bed b;

	(void)state;
	rig_roomy(&hw);
	begin(&b, &hw);
	set_context(&b, &probes[V1_P1_A_X]);
	rig_counted(&b.r);
	for (unsigned i = 0; i < ARRAY_SIZE(tlb_cases); i++)
		tlb_cases[i].run(&b);
	assert_int_equal(rig_counted(&b.r).flushes, ARRAY_SIZE(tlb_cases) - 1); /* not the fast lookups */
	rig_end(&b.r);
}

/* As many pieces of one page as a TLB can hold: they are still known to be there, and forgotten when they have gone. */
static void all_pieces_of_one_page(void **state)
{
	const struct hw_tlb hw = {.arrays = 1, .array = {{HW_ENTRIES_MAX, 1, HW_4K}}};
	struct tlb_entry page = {.shift = 30, .guest_shift = 30};
	struct hw roomy = rig_hw();
	struct arena arena;
	struct tlb tlb;
	struct rig r;

	(void)state;
	rig_roomy(&roomy);
	rig_begin(&r, &roomy);
	arena_init(&arena, false);
	assert_int_equal(tlb_init(&tlb, &arena, &hw, false), 0);
	for (uint64_t i = 0; i < HW_ENTRIES_MAX; i++) {
		tlb_insert(&r.mmu, NULL, &tlb.array[0], &page, 1ull << 30 | i << 12, 0);
		assert_true(tlb_may_hold_pieces(&tlb.array[0], 1ull << 30));
	}
	assert_false(tlb_may_hold_pieces(&tlb.array[0], 2ull << 30));
	for (uint32_t i = 0; i < HW_ENTRIES_MAX; i++)
		tlb_drop(NULL, &tlb.array[0], &tlb.array[0].entry[i]);
	assert_false(tlb_may_hold_pieces(&tlb.array[0], 1ull << 30));
	arena_destroy(&arena);
	rig_end(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first_level),
		cmocka_unit_test(second_level),
		cmocka_unit_test(split_guest),
		cmocka_unit_test(unified_guest),
		cmocka_unit_test(prefixes_of_an_address),
		cmocka_unit_test(guest_physical),
		cmocka_unit_test(large_pages_in_pieces),
		cmocka_unit_test(whole_and_pieces),
		cmocka_unit_test(global_large_pages),
		cmocka_unit_test(all_pieces_of_one_page),
		cmocka_unit_test(globals_need_pge),
		cmocka_unit_test(page_faults),
		cmocka_unit_test(ept_violations),
		cmocka_unit_test(counted),
	};

	return cmocka_run_group_tests_name("flush", tests, NULL, NULL);
}
