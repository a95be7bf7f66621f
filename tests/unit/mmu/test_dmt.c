/*
 * Direct translation: references counted by execution, and that what registers lead to is what the tables say.
 *
 * The world: 16 MiB of linear addresses whose page tables are contiguous, an EPT of the identity with 4 KiB pages for
 * the first 64 MiB, and beside it two arrays of leaf entries for the same, for hosts' registers. Registers of
 * the guest cover what a test says.
 */
#include "rig.h"

#define AREAS 8u
#define BASE  (5ull << 39 | 7ull << 30)
#define SPACE ((uint64_t)AREAS << 21)
#define HOST_BYTES (64ull << 20)
#define SLOTS (AREAS * 512u)

struct world {
	struct rig r;
	uint64_t pd, pt;        /* the directory; page tables of all areas, contiguous */
	uint64_t eptp, ept;     /* ... and where the leaf entry for guest-physical 0 stands */
	uint64_t host[2];       /* arrays of leaf entries: of the first and the second host */
	struct dmt_gtea gtea[2];
};

static uint64_t frame_of(unsigned slot) { return RIG_TABLES + (uint64_t)slot * PAGE_SIZE; }
static uint64_t lin_of(unsigned slot) { return BASE + (uint64_t)slot * PAGE_SIZE; }
static uint64_t pte_of(const struct world *w, unsigned slot) { return w->pt + 8ull * slot; }
static uint64_t pde_of(const struct world *w, unsigned slot) { return w->pd + 8ull * (slot / 512); }

static uint64_t new_tables(struct rig *r, unsigned n)
{
	uint64_t first = rig_new_table(r);

	for (unsigned i = 1; i < n; i++)
		assert_int_equal(rig_new_table(r), first + i * PAGE_SIZE);
	return first;
}

static void build_guest(struct world *w)
{
	rig_map(&w->r, BASE, 21, RIG_LEAF);
	w->pd = rig_entry(&w->r, BASE, 2);
	w->pt = new_tables(&w->r, AREAS);
	for (unsigned a = 0; a < AREAS; a++)
		rig_put(&w->r, w->pd + 8 * a, (w->pt + a * PAGE_SIZE) | PTE_P | PTE_W | PTE_U | PTE_A);
	for (unsigned s = 0; s < SLOTS; s++)
		rig_put(&w->r, pte_of(w, s), frame_of(s) | RIG_LEAF);
}

static void build_hosts(struct world *w)
{
	w->eptp = rig_ept(&w->r, 12, 4);
	w->ept = rig_ept_map(&w->r, w->eptp, 0, 12, RIG_EPT_LEAF);
	for (unsigned h = 0; h < 2; h++) {
		w->host[h] = new_tables(&w->r, HOST_BYTES >> 21);
		for (uint64_t a = 0; a < HOST_BYTES; a += PAGE_SIZE)
			rig_put(&w->r, w->host[h] + a / PAGE_SIZE * 8, a | RIG_EPT_LEAF);
	}
	assert_int_equal(rig_ept_map(&w->r, w->eptp, HOST_BYTES - PAGE_SIZE, 12, (HOST_BYTES - PAGE_SIZE) | RIG_EPT_LEAF),
			 w->ept + (HOST_BYTES / PAGE_SIZE - 1) * 8);
}

static void begin(struct world *w, const struct hw *hw)
{
	rig_begin(&w->r, hw);
	build_guest(w);
	build_hosts(w);
	w->r.mmu.dmt.audit = true;
}

static void end(struct world *w)
{
	assert_int_equal(w->r.mmu.dmt.wrong, 0);
	rig_end(&w->r);
}

static struct dmt_entry small(const struct world *w)
{
	return (struct dmt_entry){BASE, BASE + SPACE, w->pt, DMT_P | DMT_4K << DMT_SIZE_SHIFT};
}
static struct dmt_entry large(const struct world *w)
{
	return (struct dmt_entry){BASE, BASE + SPACE, w->pd, DMT_P | DMT_2M << DMT_SIZE_SHIFT};
}

/* The hosts of that many stages, whose registers lead to @tea0 and the second host's array. */
static void set_hosts(struct world *w, unsigned stages, uint64_t tea0)
{
	struct dmt_entry e[2] = {{0, HOST_BYTES, tea0, DMT_P}, {0, HOST_BYTES, w->host[1], DMT_P}};

	rig_set_ept(&w->r, stages > 1 ? w->eptp : 0);
	for (unsigned i = 0; i < 2; i++)
		mmu_dmt_load_host(&w->r.mmu, i + 1, &e[i], 1);
	mmu_dmt_set_stages(&w->r.mmu, stages);
}

/* The page tables are a gTEA of number 1, the directory is in number 2. */
static void set_gteas(struct world *w)
{
	w->gtea[0] = (struct dmt_gtea){w->pt, AREAS, w->pt};
	w->gtea[1] = (struct dmt_gtea){w->pd, 1, w->pd};
	mmu_dmt_set_gteas(&w->r.mmu, w->gtea, 2);
}

static struct dmt_entry with_id(struct dmt_entry e, uint64_t id)
{
	e.info |= id << DMT_ID_SHIFT;
	return e;
}

static void load(struct world *w, struct dmt_entry e) { mmu_dmt_load(&w->r.mmu, &e, 1); }

/* Makes an area one large page. Its page table stays where it was, empty, as an operating system keeps it. */
static void make_large(struct world *w, unsigned area)
{
	rig_put(&w->r, w->pd + 8 * area, frame_of(area * 512) | RIG_LEAF | PTE_PS);
	for (unsigned s = area * 512; s < (area + 1) * 512; s++)
		rig_put(&w->r, pte_of(w, s), 0);
}

/* ---- golden counts: no TLBs, no walk caches ---- */

static void native_counts(void **state)
{
	struct hw hw = rig_hw();
	struct dmt_entry both[2];
	struct world w;

	(void)state;
	begin(&w, &hw);
	assert_int_equal(rig_refs(&w.r, lin_of(5)), 4); /* the tables alone */
	make_large(&w, 2);
	assert_int_equal(rig_refs(&w.r, lin_of(2 * 512 + 7)), 3);
	set_hosts(&w, 1, 0);
	both[0] = small(&w);
	both[1] = large(&w);
	load(&w, both[0]);
	assert_int_equal(rig_refs(&w.r, lin_of(5)), 1);
	assert_int_equal(rig_refs(&w.r, lin_of(SLOTS - 1)), 1);
	/* Both sizes: the larger one's entry first. */
	mmu_dmt_load(&w.r.mmu, both, 2);
	assert_int_equal(rig_refs(&w.r, lin_of(2 * 512 + 7)), 1);
	assert_int_equal(rig_refs(&w.r, lin_of(5)), 2);
	/* Outside of all registers: the tables. */
	rig_map(&w.r, BASE + SPACE, 12, RIG_TABLES | RIG_LEAF);
	assert_int_equal(rig_refs(&w.r, BASE + SPACE), 4);
	end(&w);
}

static void virtual_counts(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_stats s;
	struct world w;

	(void)state;
	begin(&w, &hw);
	rig_set_ept(&w.r, w.eptp);
	assert_int_equal(rig_refs(&w.r, lin_of(5)), 24);
	set_hosts(&w, 2, w.ept);
	load(&w, small(&w));
	rig_counted(&w.r);
	/* The host's entry for the guest's, the guest's, the host's for the page. */
	assert_int_equal(rig_refs(&w.r, lin_of(5)), 3);
	s = rig_counted(&w.r);
	assert_int_equal(s.stage_refs[STAGE_GUEST], 1);
	assert_int_equal(s.stage_refs[STAGE_HOST], 2);
	assert_int_equal(s.dmt.lookups, 3);
	assert_int_equal(s.dmt.hits[0], 1);
	assert_int_equal(s.dmt.hits[1], 2);
	assert_int_equal(s.dmt.translations, 1);
	/* A large page of the guest: the same with its directory's entry. */
	make_large(&w, 2);
	load(&w, large(&w));
	assert_int_equal(rig_refs(&w.r, lin_of(2 * 512 + 7)), 3);
	/* pvDMT. A register without identifier still goes through the host. */
	set_gteas(&w);
	load(&w, with_id(small(&w), 1));
	assert_int_equal(rig_refs(&w.r, lin_of(5)), 2);
	load(&w, with_id(large(&w), 2));
	assert_int_equal(rig_refs(&w.r, lin_of(2 * 512 + 7)), 2);
	load(&w, small(&w));
	assert_int_equal(rig_refs(&w.r, lin_of(5)), 3);
	end(&w);
}

static void nested_counts(void **state)
{
	struct hw hw = rig_hw();
	struct world w;

	(void)state;
	begin(&w, &hw);
	set_hosts(&w, 3, w.host[0]);
	set_gteas(&w);
	load(&w, with_id(small(&w), 1));
	/* One entry of each: the guest's, its hypervisor's, the machine's hypervisor's. */
	assert_int_equal(rig_refs(&w.r, lin_of(5)), 3);
	/* Without the gTEA the guest's entry has to be found through both hosts. */
	load(&w, small(&w));
	assert_int_equal(rig_refs(&w.r, lin_of(5)), 5);
	end(&w);
}

/*
 * Guest table pages in 2 MiB pages of the host, data in 4 KiB pages: 4 * (3 + 1) + 4; all in 2 MiB: 19; both
 * sides: 15.
 */
static void huge_tables(void **state)
{
	struct hw hw = rig_hw();
	struct world w;

	(void)state;
	begin(&w, &hw);
	assert_true(w.r.next <= SIZE_2M);
	rig_ept_map(&w.r, w.eptp, 0, 21, RIG_EPT_LEAF | EPT_PS);
	rig_set_ept(&w.r, w.eptp);
	assert_int_equal(rig_refs(&w.r, lin_of(5)), 20);
	rig_ept_map(&w.r, w.eptp, RIG_TABLES, 21, RIG_TABLES | RIG_EPT_LEAF | EPT_PS);
	assert_int_equal(rig_refs(&w.r, lin_of(5)), 19);
	make_large(&w, 0);
	assert_int_equal(rig_refs(&w.r, lin_of(5)), 15);
	end(&w);
}

/* ---- what is left to the tables ---- */

static void assert_falls_back(struct world *w, unsigned slot, uint64_t refs)
{
	struct mmu_stats s;

	rig_counted(&w->r);
	assert_int_equal(rig_refs(&w->r, lin_of(slot)), refs);
	s = rig_counted(&w->r);
	assert_int_equal(s.dmt.fallbacks, 1);
	assert_int_equal(s.dmt.translations, 0);
	assert_int_equal(s.walks, 1);
}

/* An entry that is not present is read, and then the tables are: the fault is theirs. */
static void faults_are_the_tables(void **state)
{
	struct hw hw = rig_hw();
	struct mmu_stats s;
	struct xlate x;
	struct world w;

	(void)state;
	begin(&w, &hw);
	set_hosts(&w, 1, 0);
	load(&w, small(&w));
	rig_put(&w.r, pte_of(&w, 3), 0);
	rig_put(&w.r, pte_of(&w, 4), frame_of(4) | PTE_P | PTE_U);
	rig_counted(&w.r);
	assert_int_equal(rig_try(&w.r, lin_of(3), ACCESS_READ, MODE_USER, &x), XLATE_PAGE_FAULT);
	assert_int_equal(x.error_code, PF_U);
	assert_false(x.shadow);
	s = rig_counted(&w.r);
	assert_int_equal(s.refs, 1 + 4);
	assert_int_equal(s.dmt.fallbacks, 1);
	assert_int_equal(rig_try(&w.r, lin_of(4), ACCESS_WRITE, MODE_USER, &x), XLATE_PAGE_FAULT);
	assert_int_equal(x.error_code, PF_U | PF_W | PF_P);
	assert_int_equal(rig_get(&w.r, pte_of(&w, 4)), frame_of(4) | PTE_P | PTE_U); /* no flag of a denied access */
	end(&w);
}

/* A guest entry found by machine address: the host was not asked whether it may be written. */
static void flags_through_gteas(void **state)
{
	struct hw hw = rig_hw();
	struct world w;

	(void)state;
	begin(&w, &hw);
	set_hosts(&w, 2, w.ept);
	set_gteas(&w);
	load(&w, with_id(small(&w), 1));
	rig_put(&w.r, pte_of(&w, 3), frame_of(3) | PTE_P | PTE_W | PTE_U);
	assert_falls_back(&w, 3, 1 + 24);
	assert_int_equal(rig_get(&w.r, pte_of(&w, 3)), frame_of(3) | PTE_P | PTE_W | PTE_U | PTE_A);
	assert_int_equal(rig_refs(&w.r, lin_of(3)), 2);
	/* Without a gTEA the host says that it may, or that it may not. */
	load(&w, small(&w));
	rig_put(&w.r, pte_of(&w, 3), frame_of(3) | PTE_P | PTE_W | PTE_U);
	assert_int_equal(rig_refs(&w.r, lin_of(3)), 3);
	assert_int_equal(rig_get(&w.r, pte_of(&w, 3)), frame_of(3) | PTE_P | PTE_W | PTE_U | PTE_A);
	end(&w);
}

static void registers_that_are_refused(void **state)
{
	struct hw hw = rig_hw();
	struct world w;

	(void)state;
	begin(&w, &hw);
	set_hosts(&w, 2, w.ept);
	set_gteas(&w);
	w.gtea[1].machine = DMT_SCATTERED;
	struct dmt_entry good = with_id(small(&w), 1), e[] = {
		good, good, good, good, good, good, good, good, good, with_id(small(&w), 3), with_id(small(&w), 0xffff),
		with_id(small(&w), 2), good,
	};

	e[0].info |= 1ull << 3;         /* reserved */
	e[1].info |= 3ull << DMT_SIZE_SHIFT;
	e[2].end += 1;
	e[3].start += 8;
	e[4].tea += 4;
	e[5].end = e[5].start;
	e[6].tea -= PAGE_SIZE;          /* before its gTEA */
	e[7].end += PAGE_SIZE;          /* beyond it */
	e[8].tea += 8;                  /* its last entry is */
	e[12].info = 0;                 /* not present: not refused */
	rig_counted(&w.r);
	mmu_dmt_load(&w.r.mmu, e, ARRAY_SIZE(e));
	assert_int_equal(rig_counted(&w.r).dmt.refused, 12);
	assert_int_equal(rig_refs(&w.r, lin_of(5)), 24);
	assert_int_equal(rig_counted(&w.r).dmt.misses, 1);
	/* One that the host could not make contiguous is a good one all the same. */
	load(&w, with_id(large(&w), 2));
	make_large(&w, 1);
	assert_int_equal(rig_refs(&w.r, lin_of(513)), 3);
	/* It goes: registers that name it are refused from then on. */
	w.gtea[1].pages = 0;
	mmu_dmt_set_gteas(&w.r.mmu, w.gtea, 2);
	assert_int_equal(rig_counted(&w.r).dmt.refused, 1);
	assert_int_equal(rig_refs(&w.r, lin_of(513)), 19);
	end(&w);
}

/*
 * A guest's entries stand elsewhere in machine memory than where the guest thinks: the table of gTEAs is what
 * counts.
 */
static void gteas_elsewhere(void **state)
{
	struct hw hw = rig_hw();
	uint64_t machine = 80ull << 20;
	struct world w;

	(void)state;
	begin(&w, &hw);
	set_hosts(&w, 2, w.ept);
	for (unsigned a = 0; a < AREAS; a++) {
		uint64_t at = w.pt + a * PAGE_SIZE;

		memcpy(machmem_ptr(&w.r.mem, hpa(machine + a * PAGE_SIZE)), machmem_ptr(&w.r.mem, hpa(at)), PAGE_SIZE);
		memset(machmem_ptr(&w.r.mem, hpa(at)), 0, PAGE_SIZE);
		rig_ept_map(&w.r, w.eptp, at, 12, (machine + a * PAGE_SIZE) | RIG_EPT_LEAF);
	}
	set_gteas(&w);
	w.gtea[0].machine = machine;
	load(&w, with_id(small(&w), 1));
	assert_int_equal(rig_refs(&w.r, lin_of(1234)), 2);
	assert_int_equal(rig_page(&w.r, lin_of(1234), ACCESS_READ), frame_of(1234));
	load(&w, small(&w));
	assert_int_equal(rig_refs(&w.r, lin_of(1234)), 3);
	end(&w);
}

/* Registers that lead out of memory, or to what is no entry. */
static void wild_registers(void **state)
{
	struct hw hw = rig_hw();
	struct dmt_entry e;
	struct world w;

	(void)state;
	begin(&w, &hw);
	for (unsigned stages = 1; stages <= 2; stages++) {
		set_hosts(&w, stages, w.ept);
		e = small(&w);
		e.tea = RIG_MEMORY;
		load(&w, e);
		assert_falls_back(&w, 5, stages == 1 ? 4 : 24);
		e.tea = PTE_ADDR_MASK - SLOTS * 8;
		load(&w, e);
		assert_falls_back(&w, 5, stages == 1 ? 4 : 24);
		e.tea = 200ull << 20; /* zeros, and under EPT nothing */
		load(&w, e);
		assert_falls_back(&w, 5, stages == 1 ? 1 + 4 : 24);
	}
	end(&w);
}

/* ---- flags, logging, TLBs ---- */

static void host_flags_and_log(void **state)
{
	struct hw hw = rig_hw();
	uint64_t log, leaf;
	struct world w;

	(void)state;
	begin(&w, &hw);
	log = rig_new_table(&w.r);
	leaf = w.ept + (frame_of(3) >> PAGE_SHIFT) * 8;
	w.eptp |= EPTP_AD;
	set_hosts(&w, 2, w.ept);
	load(&w, small(&w));
	w.r.mmu.pml = (struct mmu_pml){.on = true, .index = 511, .log = log};
	/* Reading: the guest's table is written to in the host's eyes, the page is not. */
	assert_int_equal(rig_refs(&w.r, lin_of(3)), 3);
	assert_int_equal(rig_get(&w.r, leaf) & (EPT_A | EPT_D), EPT_A);
	assert_int_equal(w.r.mmu.pml.index, 510);
	assert_int_equal(rig_get(&w.r, log + 511 * 8), w.pt);
	rig_page(&w.r, lin_of(3), ACCESS_WRITE);
	assert_int_equal(rig_get(&w.r, leaf) & (EPT_A | EPT_D), EPT_A | EPT_D);
	assert_int_equal(w.r.mmu.pml.index, 509);
	assert_int_equal(rig_get(&w.r, log + 510 * 8), frame_of(3));
	/* A full log: an event, from the tables, with nothing set. */
	w.r.mmu.pml.index = 0xffff;
	struct xlate x;

	rig_counted(&w.r);
	assert_int_equal(rig_try(&w.r, lin_of(4), ACCESS_READ, MODE_SUPER, &x), XLATE_PML_FULL);
	assert_int_equal(rig_counted(&w.r).dmt.fallbacks, 1);
	assert_int_equal(rig_get(&w.r, leaf + 8) & (EPT_A | EPT_D), 0);
	w.r.mmu.pml.on = false;
	end(&w);
}

static void tlbs_and_flushes(void **state)
{
	struct hw hw = rig_hw();
	struct world w;

	(void)state;
	rig_roomy(&hw);
	begin(&w, &hw);
	set_hosts(&w, 1, 0);
	load(&w, small(&w));
	assert_int_equal(rig_read(&w.r, lin_of(5)), FROM_TABLES);
	assert_int_equal(rig_read(&w.r, lin_of(5)), FROM_L1);
	/* Neither loading registers nor a changed entry reaches what the TLB holds; INVLPG does. */
	mmu_dmt_load(&w.r.mmu, NULL, 0);
	rig_put(&w.r, pte_of(&w, 5), frame_of(6) | RIG_LEAF);
	assert_int_equal(rig_page(&w.r, lin_of(5), ACCESS_READ), frame_of(5));
	load(&w, small(&w));
	mmu_flush_page(&w.r.mmu, gva(lin_of(5)));
	assert_int_equal(rig_page(&w.r, lin_of(5), ACCESS_READ), frame_of(6));
	/* A piece of a larger page on one side: the smaller size is entered. */
	rig_set_ept(&w.r, w.eptp);
	set_hosts(&w, 2, w.ept);
	make_large(&w, 3);
	load(&w, large(&w));
	assert_int_equal(rig_read(&w.r, lin_of(3 * 512)), FROM_TABLES);
	assert_int_equal(rig_read(&w.r, lin_of(3 * 512 + 1)), FROM_TABLES);
	assert_int_equal(rig_read(&w.r, lin_of(3 * 512)), FROM_L1);
	assert_int_equal(rig_counted(&w.r).dmt.fallbacks, 0);
	end(&w);
}

/* Out of force: other paging modes, no stage, EPT where there is no host stage. */
static void when_it_is_off(void **state)
{
	struct hw hw = rig_hw();
	struct world w;

	(void)state;
	begin(&w, &hw);
	load(&w, small(&w));
	assert_int_equal(rig_refs(&w.r, lin_of(5)), 4);
	set_hosts(&w, 1, 0);
	rig_set_ept(&w.r, w.eptp);
	assert_int_equal(rig_refs(&w.r, lin_of(5)), 24);
	rig_set_ept(&w.r, 0);
	rig_set_paging(&w.r, RIG_PAE);
	rig_map(&w.r, 0x1000, 12, RIG_TABLES | RIG_LEAF);
	assert_int_equal(rig_refs(&w.r, 0x1000), 2);
	assert_int_equal(rig_counted(&w.r).dmt.lookups, 0);
	end(&w);
}

/* Guest-physical addresses, of a guest without paging. */
static void without_paging(void **state)
{
	struct hw hw = rig_hw();
	struct world w;

	(void)state;
	begin(&w, &hw);
	rig_set_paging(&w.r, RIG_UNPAGED);
	set_hosts(&w, 2, w.ept);
	assert_int_equal(rig_refs(&w.r, 0x5000), 1);
	assert_int_equal(rig_page(&w.r, 0x5000, ACCESS_WRITE), 0x5000);
	set_hosts(&w, 3, w.host[0]);
	assert_int_equal(rig_refs(&w.r, 0x5000), 2);
	end(&w);
}

static void recorded(void **state)
{
	struct hw hw = rig_hw();
	struct walk_log log;
	struct xlate x;
	struct world w;

	(void)state;
	begin(&w, &hw);
	set_hosts(&w, 2, w.ept);
	load(&w, small(&w));
	assert_int_equal(mmu_translate_logged(&w.r.mmu, gva(lin_of(5)), ACCESS_READ, MODE_SUPER, &x, &log), XLATE_OK);
	assert_int_equal(log.steps, 6);
	assert_int_equal(log.step[0].what, STEP_REGISTER);
	assert_int_equal(log.step[0].at, pte_of(&w, 5));
	assert_int_equal(log.step[1].what, STEP_REGISTER);
	assert_int_equal(log.step[2].what, STEP_REF);
	assert_int_equal(log.step[3].at, pte_of(&w, 5));
	rig_put(&w.r, pte_of(&w, 6), 0);
	assert_int_equal(mmu_translate_logged(&w.r.mmu, gva(lin_of(6)), ACCESS_READ, MODE_SUPER, &x, &log),
			 XLATE_PAGE_FAULT);
	assert_int_equal(log.step[4].what, STEP_FALL_BACK);
	end(&w);
}

/* What the host has not mapped yet - tables that registers do without - is no contradiction; a page that it has not is. */
static void audit_of_what_is_not_there(void **state)
{
	struct hw hw = rig_hw();
	struct world w;

	(void)state;
	begin(&w, &hw);
	set_hosts(&w, 2, w.host[0]); /* not the entries of the EPT */
	set_gteas(&w);
	load(&w, with_id(small(&w), 1));
	rig_put(&w.r, w.ept + (w.pt >> PAGE_SHIFT) * 8, 0);
	rig_read(&w.r, lin_of(5));
	assert_int_equal(w.r.mmu.dmt.wrong, 0);
	assert_int_equal(w.r.mmu.dmt.audited, 0);
	rig_put(&w.r, w.ept + (w.pt >> PAGE_SHIFT) * 8, w.pt | RIG_EPT_LEAF);
	rig_put(&w.r, w.ept + (frame_of(5) >> PAGE_SHIFT) * 8, 0);
	rig_read(&w.r, lin_of(6));
	assert_int_equal(w.r.mmu.dmt.audited, 1);
	rig_read(&w.r, lin_of(5));
	assert_int_equal(w.r.mmu.dmt.wrong, 1);
	w.r.mmu.dmt.wrong = 0;
	end(&w);
}

/* The audit finds what a promise broken leads to. */
static void audit_finds(void **state)
{
	struct hw hw = rig_hw();
	uint64_t pde;
	struct world w;

	(void)state;
	begin(&w, &hw);
	set_hosts(&w, 1, 0);
	load(&w, small(&w));
	pde = rig_get(&w.r, pde_of(&w, 5));
	rig_put(&w.r, pde_of(&w, 5), pde & ~PTE_W); /* less permissive than the register's leaf entries say */
	rig_read(&w.r, lin_of(5));
	assert_int_equal(w.r.mmu.dmt.wrong, 1);
	assert_int_equal(w.r.mmu.dmt.wrong_at, lin_of(5));
	rig_put(&w.r, pde_of(&w, 5), 0);
	rig_read(&w.r, lin_of(5));
	rig_put(&w.r, pde_of(&w, 5), pde & ~PTE_A);
	rig_read(&w.r, lin_of(5));
	assert_int_equal(w.r.mmu.dmt.wrong, 3);
	w.r.mmu.dmt.wrong = 0;
	end(&w);
}

/* ---- at random, against a machine without registers ---- */

static uint64_t state_of_random = 0x9e3779b97f4a7c15ull;

static unsigned pick(unsigned below)
{
	state_of_random ^= state_of_random << 13;
	state_of_random ^= state_of_random >> 7;
	state_of_random ^= state_of_random << 17;
	return (unsigned)(state_of_random >> 33) % below;
}

static uint64_t random_leaf(uint64_t frame)
{
	uint64_t e = frame | PTE_P;

	if (pick(12) == 0)
		return pick(2) ? 0 : frame; /* not present */
	e |= (pick(4) ? PTE_W : 0) | (pick(4) ? PTE_U : 0) | (pick(4) ? 0 : PTE_NX) | (pick(3) ? PTE_A : 0);
	e |= (pick(3) ? PTE_D : 0) | (pick(6) ? 0 : PTE_G) | (uint64_t)pick(16) << PTE_PKEY_SHIFT;
	return pick(40) ? e : e | 1ull << 51;
}

static uint64_t random_ept_rights(void)
{
	static const uint64_t rights[] = {7, 7, 7, 7, 5, 3, 1, 4, 0, 2};

	return rights[pick(ARRAY_SIZE(rights))];
}

/* Both machines are changed alike. */
static void put2(struct world w[2], uint64_t at, uint64_t e)
{
	rig_put(&w[0].r, at, e);
	rig_put(&w[1].r, at, e);
}

static void random_guest(struct world w[2])
{
	for (unsigned a = 0; a < AREAS; a++) {
		bool is_large = pick(3) == 0;

		if (is_large)
			put2(w, w->pd + 8 * a, random_leaf(frame_of(a * 512)) | PTE_PS);
		for (unsigned s = a * 512; s < (a + 1) * 512; s++)
			put2(w, pte_of(w, s), is_large ? 0 : random_leaf(frame_of(pick(SLOTS))));
	}
}

/*
 * Each host's rights at random; the EPT has what is left of both, or what the one host has. @tables: to the guest's
 * tables, too. A host does not take rights to a gTEA away while it says that there is one.
 */
static void random_hosts(struct world w[2], unsigned stages, bool tables)
{
	for (unsigned n = 0; n < 2000; n++) {
		uint64_t page = !tables || pick(4) ? frame_of(pick(SLOTS)) : w->pt + pick(AREAS) * PAGE_SIZE;
		uint64_t a = page / PAGE_SIZE * 8, r0 = random_ept_rights(), r1 = random_ept_rights();
		uint64_t flags = (pick(2) ? EPT_A : 0) | (pick(2) ? EPT_D : 0);
		uint64_t bits = page | EPT_MT_WB << EPT_MT_SHIFT | (stages < 3 ? flags : 0);

		if (stages < 3)
			r1 = 7;
		if (stages > 2) /* a combination that is misconfigured in one place must be in all */
			r0 |= r0 & 2 ? 1 : 0, r1 |= r1 & 2 ? 1 : 0;
		put2(w, w->host[0] + a, bits | r0);
		put2(w, w->host[1] + a, bits | r1);
		put2(w, w->ept + a, bits | (r0 & r1));
	}
}

static void random_registers(struct world w[2], bool pv)
{
	struct dmt_entry e[DMT_REGISTERS];
	unsigned n = 1 + pick(DMT_REGISTERS);

	for (unsigned i = 0; i < n; i++) {
		unsigned first = pick(AREAS), count = 1 + pick(AREAS - first), trick = pick(12);

		e[i] = pick(3) ? small(w) : large(w);
		e[i].start += (uint64_t)first << 21;
		e[i].end = e[i].start + ((uint64_t)count << 21);
		e[i].tea += first * (dmt_shift(&e[i]) == 12 ? PAGE_SIZE : 8);
		if (pv && pick(4))
			e[i] = with_id(e[i], dmt_shift(&e[i]) == 12 ? 1 : 2);
		if (trick == 0)
			e[i].tea = (1ull << 40) + pick(1000) * 8; /* no memory there */
		else if (trick == 1)
			e[i].tea |= 4;
		else if (trick == 2)
			e[i] = with_id(e[i], 3 + pick(100)), e[i].tea |= pv ? 0 : 1;
		else if (trick == 3)
			e[i].end += 1 + pick(4095);
		else if (trick == 4)
			e[i].info = pick(2) ? 0 : 1ull << (3 + pick(29)) | DMT_P;
	}
	mmu_dmt_load(&w->r.mmu, e, n);
}

static void random_accesses(struct world w[2], unsigned stages)
{
	for (unsigned n = 0; n < 400; n++) {
		unsigned slot = pick(SLOTS);
		uint64_t lin = lin_of(slot) + pick(PAGE_SIZE);
		enum access_kind kind = (enum access_kind)pick(ACCESS_KINDS);
		enum access_mode mode = (enum access_mode)pick(MODE_IMPLICIT + 1);
		struct xlate x[2] = {{.page = hpa(0)}, {.page = hpa(0)}};
		enum xlate_event ev[2];
		uint16_t rights[2] = {0, 0};

		for (unsigned i = 0; i < 2; i++)
			ev[i] = mmu_translate(&w[i].r.mmu, gva(lin), kind, mode, &x[i], &rights[i]);
		assert_int_equal(ev[0], ev[1]);
		if (!ev[0]) {
			assert_int_equal(x[0].page.v, x[1].page.v);
			assert_int_equal(stages > 2 ? rights[0] & ~TLB_D : rights[0], stages > 2 ? rights[1] & ~TLB_D : rights[1]);
		} else if (ev[0] == XLATE_PAGE_FAULT) {
			assert_int_equal(x[0].error_code, x[1].error_code);
		} else {
			assert_int_equal(x[0].gpa.v, x[1].gpa.v);
			assert_int_equal(x[0].qualification, x[1].qualification);
		}
		assert_int_equal(rig_get(&w[0].r, pte_of(w, slot)), rig_get(&w[1].r, pte_of(w, slot)));
		assert_int_equal(rig_get(&w[0].r, pde_of(w, slot)), rig_get(&w[1].r, pde_of(w, slot)));
		if (!ev[0] && stages < 3) {
			uint64_t leaf = w->ept + (x[0].page.v >> PAGE_SHIFT) * 8;

			assert_int_equal(rig_get(&w[0].r, leaf), rig_get(&w[1].r, leaf));
		}
	}
}

static void random_round(struct world w[2])
{
	struct mmu_regs regs;
	unsigned stages = 1 + pick(3);
	bool pv = stages > 1 && pick(2), ad = stages == 2 && pick(2);

	random_guest(w);
	random_hosts(w, stages, !pv);
	for (unsigned i = 0; i < 2; i++) {
		w[i].eptp = (w[i].eptp & ~EPTP_AD) | (ad ? EPTP_AD : 0);
		set_hosts(&w[i], stages, stages > 2 ? w->host[0] : w->ept);
	}
	regs = w->r.mmu.regs;
	regs.cr0 = pick(4) ? regs.cr0 | CR0_WP : regs.cr0 & ~CR0_WP;
	regs.cr4 ^= (pick(2) ? CR4_SMEP : 0) | (pick(2) ? CR4_SMAP : 0) | (pick(2) ? CR4_PKE : 0);
	regs.pkru = pick(1u << 16) | pick(1u << 16) << 16;
	mmu_set_regs(&w[0].r.mmu, &regs);
	mmu_set_regs(&w[1].r.mmu, &regs);
	mmu_dmt_set_stages(&w[1].r.mmu, 0);
	if (pv)
		set_gteas(w);
	else
		mmu_dmt_set_gteas(&w->r.mmu, NULL, 0);
	random_registers(w, pv);
	mmu_flush_everything(&w[0].r.mmu);
	mmu_flush_everything(&w[1].r.mmu);
	random_accesses(w, stages);
}

static void equal_to_the_walk(void **state)
{
	struct hw hw;
	struct world w[2];

	(void)state;
	hw_default(&hw);
	begin(&w[0], &hw);
	begin(&w[1], &hw);
	w[0].r.mmu.maxphyaddr = w[1].r.mmu.maxphyaddr = 46;
	for (unsigned n = 0; n < 60; n++) {
		build_guest(&w[0]);
		build_guest(&w[1]);
		random_round(w);
		assert_int_equal(w->r.mmu.dmt.wrong, 0);
	}
	assert_true(w->r.mmu.stats.dmt.translations > 1000);
	assert_true(w->r.mmu.stats.dmt.fallbacks > 1000);
	assert_true(w->r.mmu.stats.dmt.misses > 100);
	end(&w[0]);
	end(&w[1]);
}

/* ---- guests that break their promise ---- */

static uint64_t random_word(void)
{
	return (uint64_t)pick(1u << 31) << 33 ^ (uint64_t)pick(1u << 31) << 12 ^ pick(4096);
}

/* Anything, and often something that nearly makes sense. */
static struct dmt_entry wild_register(const struct world *w)
{
	struct dmt_entry e = pick(2) ? small(w) : large(w);

	e.start += pick(4) ? (uint64_t)pick(AREAS) << 21 : random_word();
	e.end = pick(4) ? e.start + ((1ull + pick(AREAS)) << 21) : random_word();
	e.tea = pick(4) ? (uint64_t)pick((unsigned)(HOST_BYTES / 8)) * 8 : random_word();
	e = with_id(e, pick(4) ? pick(4) : pick(1u << 16));
	e.info ^= pick(8) ? 0 : random_word();
	return e;
}

/*
 * A guest whose memory holds anything, and so do its registers: its accesses end in its own memory, which the host's
 * registers and EPT give it, with no right that those do not give, or in an event.
 */
static void wild_guests(void **state)
{
	uint64_t machine = 1ull << 30, translated = 0;
	struct hw hw;
	struct world w;

	(void)state;
	hw_default(&hw);
	begin(&w, &hw);
	w.r.mmu.dmt.audit = false;
	/* Guest-physical 0 is at @machine, as are the gTEAs. Every third page may not be written. */
	for (uint64_t a = 0; a < HOST_BYTES; a += PAGE_SIZE)
		rig_put(&w.r, w.ept + a / PAGE_SIZE * 8,
			(machine + a) | (RIG_EPT_LEAF & ~(a / PAGE_SIZE % 3 ? 0 : EPT_W)));
	for (uint64_t a = 0; a < HOST_BYTES; a += 8)
		rig_put(&w.r, machine + a, pick(2) ? frame_of(pick(SLOTS)) | RIG_LEAF | (pick(2) ? PTE_PS : 0) : random_word());
	set_hosts(&w, 2, w.ept);
	w.gtea[0] = (struct dmt_gtea){RIG_TABLES, 512, machine + RIG_TABLES};
	w.gtea[1] = (struct dmt_gtea){2 * RIG_TABLES, 512, DMT_SCATTERED};
	mmu_dmt_set_gteas(&w.r.mmu, w.gtea, 2);
	for (unsigned round = 0; round < 300; round++) {
		struct dmt_entry e[DMT_REGISTERS];

		for (unsigned i = 0; i < DMT_REGISTERS; i++)
			e[i] = wild_register(&w);
		mmu_dmt_load(&w.r.mmu, e, DMT_REGISTERS);
		mmu_flush_everything(&w.r.mmu);
		for (unsigned n = 0; n < 40; n++) {
			struct xlate x = {.page = hpa(0)};
			enum access_kind kind = (enum access_kind)pick(ACCESS_KINDS);
			uint64_t before = w.r.mmu.stats.dmt.translations;
			enum xlate_event ev = rig_try(&w.r, lin_of(pick(SLOTS)), kind, MODE_USER, &x);

			if (w.r.mmu.stats.dmt.translations == before)
				continue;
			translated++;
			assert_int_equal(ev, XLATE_OK);
			assert_true(x.page.v - machine < HOST_BYTES);
			assert_true(kind != ACCESS_WRITE || (x.page.v - machine) / PAGE_SIZE % 3);
		}
	}
	assert_true(translated > 100);
	/* The hosts' entries are as they were. */
	for (uint64_t a = 0; a < HOST_BYTES; a += PAGE_SIZE)
		assert_int_equal(rig_get(&w.r, w.ept + a / PAGE_SIZE * 8),
				 (machine + a) | (RIG_EPT_LEAF & ~(a / PAGE_SIZE % 3 ? 0 : EPT_W)));
	end(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(native_counts), cmocka_unit_test(virtual_counts), cmocka_unit_test(nested_counts),
		cmocka_unit_test(huge_tables), cmocka_unit_test(faults_are_the_tables), cmocka_unit_test(flags_through_gteas),
		cmocka_unit_test(registers_that_are_refused), cmocka_unit_test(gteas_elsewhere), cmocka_unit_test(wild_registers),
		cmocka_unit_test(host_flags_and_log), cmocka_unit_test(tlbs_and_flushes), cmocka_unit_test(when_it_is_off),
		cmocka_unit_test(without_paging), cmocka_unit_test(recorded), cmocka_unit_test(audit_finds),
		cmocka_unit_test(audit_of_what_is_not_there),
		cmocka_unit_test(equal_to_the_walk), cmocka_unit_test(wild_guests),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
