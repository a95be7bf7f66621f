/*
 * Invalidation as the SDM has it ("Operations that Invalidate TLBs and Paging-Structure Caches"), told from the
 * outside. Every case makes the hardware cache something, changes the tables, does one thing that must make it
 * forget, and looks at an address that only forgetting gets right. Most of it is about upper-level entries: the
 * address that is looked at was never used before, so no TLB holds it, but what leads to it was.
 *
 * With the word "keep": what need not be forgotten is still there. Hardware may forget at any time, so that is
 * no test of a processor but of this model and its default description, and of hypervisors that flush too much.
 */
#include "lib/guest.h"

enum { CHAINS = 3, PAGES = 8, LEVELS = 5, SLOT = 0x80, OTHER = 2 /* the chain that entries are turned to */ };
enum { RW = PTE_P | PTE_W, ALL = PTE_P | PTE_W | PTE_U };
enum { MSR_MTRR_PHYSBASE0 = 0x200, CR4_PSE = 1 << 4 };

/* Three sets of tables for the same addresses; [n][l] is chain n's table of level l. The roots begin as copies. */
static u64 tables[CHAINS][LEVELS][512] __attribute__((aligned(4096)));
static u64 root_b[512] __attribute__((aligned(4096)));
static u64 frame[CHAINS][PAGES][512] __attribute__((aligned(4096)));
static u64 *roots[2], *big[2]; /* big: two 2 MiB frames above the program */
static u64 base, elsewhere;
static unsigned top, pcid_now;
static bool has_pcid, has_invpcid, has_smep, has_nx;

static u64 address(const volatile void *p) { return (u64)(uintptr_t)p; }
static void put(u64 *table, unsigned i, u64 v) { ((volatile u64 *)table)[i] = v; }
static u64 get(const u64 *table, unsigned i) { return ((const volatile u64 *)table)[i]; }
static u64 to(const volatile void *p, u64 flags) { return address(p) | flags; }

PIECE(piece_read, "mov (%rdi), %rax");
PIECE(piece_write, "mov %rsi, (%rdi)");
PIECE(piece_call, "call *%rdi");

static u64 page(unsigned n) { return base + n * PAGE; }
static u64 value(unsigned chain, unsigned n) { return 0x1000 * (chain + 1) + n; }

/* The entry of level @level that leads to the pages, in root or chain @s. */
static unsigned index_at(unsigned level) { return level == 5 ? 1 : level == 4 ? SLOT : 0; }
static u64 *table_at(unsigned s, unsigned level) { return level == top ? roots[s] : tables[s][level]; }
static u64 entry(unsigned s, unsigned level) { return get(table_at(s, level), index_at(level)); }
static void set_entry(unsigned s, unsigned level, u64 v) { put(table_at(s, level), index_at(level), v); }
/* Turns it to the tables of another chain. */
static void turn(unsigned s, unsigned level, unsigned chain, u64 flags)
{
	set_entry(s, level, to(tables[chain][level - 1], flags | PTE_A));
}

static void switch_to(unsigned s, unsigned pcid, bool keep)
{
	pcid_now = pcid;
	write_cr3(address(roots[s]) | pcid | (keep ? 1ull << 63 : 0));
}

static void flush_cr3(void) { write_cr3(address(roots[0]) | pcid_now); }
static void flush_elsewhere(void) { invlpg(elsewhere); }
static void flush_pge(void)
{
	write_cr4(read_cr4() ^ CR4_PGE);
	write_cr4(read_cr4() ^ CR4_PGE);
}
static void flush_pse(void) { write_cr4(read_cr4() ^ CR4_PSE); }
static void flush_smep(void)
{
	write_cr4(read_cr4() & ~(u64)CR4_SMEP);
	write_cr4(read_cr4() | CR4_SMEP);
	write_cr4(read_cr4() & ~(u64)CR4_SMEP);
}
static void flush_mtrr(void) { wrmsr(MSR_MTRR_PHYSBASE0, rdmsr(MSR_MTRR_PHYSBASE0)); }

static void invpcid(u64 type, u64 pcid, u64 a)
{
	struct { u64 pcid, address; } d = { pcid, a };

	__asm__ volatile("invpcid %0, %1" : : "m"(d), "r"(type) : "memory");
}
static void flush_invpcid_0(void) { invpcid(0, pcid_now, page(1)); }
static void flush_invpcid_1(void) { invpcid(1, pcid_now, 0); }
static void flush_invpcid_2(void) { invpcid(2, 0, 0); }
static void flush_invpcid_3(void) { invpcid(3, 0, 0); }

/*
 * The state every case starts from: root 0 leads to chain 0, root 1 to chain 1, and nothing is cached of them.
 * Accessed and dirty flags are set, so that a hypervisor may map pages of its own accord.
 */
static void fresh(void)
{
	for (unsigned c = 0; c < CHAINS; c++) {
		for (unsigned level = 2; level < top; level++) {
			put(tables[c][level], index_at(level), to(tables[c][level - 1], ALL | PTE_A));
			put(tables[c][level], index_at(level) + 1, 0);
		}
		for (unsigned n = 0; n < PAGES; n++) {
			put(tables[c][1], n, to(frame[c][n], ALL | PTE_A | PTE_D));
			put(frame[c][n], 0, value(c, n));
			put(frame[c][n], 1, 0xc3); /* RET */
		}
	}
	turn(0, top, 0, ALL);
	turn(1, top, 1, ALL);
	flush_pge();
}

static const struct trap *load(u64 a) { return run_code(piece_read, KERNEL, a, 0); }
static const struct trap *store(u64 a, u64 v) { return run_code(piece_write, KERNEL, a, v); }

static void expect_value(const char *what, const char *how, unsigned level, u64 a, u64 v)
{
	const struct trap *t = load(a);

	check(t->vector == V_DONE && t->rax == v,
	      "%s, level %u, %s: 0x%lx: vector %ld error 0x%lx value 0x%lx, expected value 0x%lx", what, level, how, a,
	      t->vector, t->error, t->rax, v);
}

static void expect_end(const char *what, const char *how, unsigned level, u64 vector, u64 error)
{
	check(last_trap.vector == vector && (vector != V_PF || last_trap.error == error),
	      "%s, level %u, %s: vector %ld error 0x%lx, expected %ld error 0x%lx", what, level, how, last_trap.vector,
	      last_trap.error, vector, error);
}

static const struct way {
	const char *name;
	void (*f)(void);
	bool global; /* drops global translations of page 1, too */
	const bool *needs;
} ways[] = {
	{ "INVLPG elsewhere", flush_elsewhere, false, NULL },
	{ "CR3 load", flush_cr3, false, NULL },
	{ "CR4.PGE", flush_pge, true, NULL },
	{ "CR4.PSE", flush_pse, true, NULL },
	{ "CR4.SMEP", flush_smep, true, &has_smep },
	{ "INVPCID address", flush_invpcid_0, false, &has_invpcid },
	{ "INVPCID context", flush_invpcid_1, false, &has_invpcid },
	{ "INVPCID all", flush_invpcid_2, true, &has_invpcid },
	{ "INVPCID all but global", flush_invpcid_3, false, &has_invpcid },
	{ "MTRR write", flush_mtrr, true, NULL },
};

static bool usable(const struct way *w)
{
	/* QEMU's TLBs do not depend on memory types. */
	return (!w->needs || *w->needs) && !(w->f == flush_mtrr && (option("qemu") || !(cpuid(1, 0).d >> 12 & 1)));
}

/* ---- upper-level entries ---- */

static void change_upper(const struct way *w, unsigned level)
{
	u64 old;

	fresh();
	old = entry(0, level);
	load(page(0));
	turn(0, level, OTHER, ALL);
	w->f();
	expect_value("another table", w->name, level, page(1), value(OTHER, 1));
	turn(0, level, 0, ALL);
	w->f();
	expect_value("the first table again", w->name, level, page(2), value(0, 2));
	set_entry(0, level, 0);
	w->f();
	load(page(3));
	expect_end("no table", w->name, level, V_PF, 0);
	set_entry(0, level, old);
	expect_value("a table again, no flush", w->name, level, page(3), value(0, 3));
}

static void restrict_upper(const struct way *w, unsigned level)
{
	fresh();
	load(page(0));
	turn(0, level, 0, PTE_P | PTE_U);
	w->f();
	store(page(1), 1);
	expect_end("read-only", w->name, level, V_PF, 3);
	turn(0, level, 0, ALL);
	w->f();
	run_code(piece_read, USER, page(2), 0);
	turn(0, level, 0, RW);
	w->f();
	run_code(piece_read, USER, page(1), 0);
	expect_end("supervisor", w->name, level, V_PF, 5);
	if (!has_nx)
		return;
	turn(0, level, 0, ALL);
	w->f();
	run_code(piece_call, KERNEL, page(2) + 8, 0);
	expect_end("executable", w->name, level, V_DONE, 0);
	turn(0, level, 0, ALL | PTE_NX);
	w->f();
	run_code(piece_call, KERNEL, page(1) + 8, 0);
	expect_end("not executable", w->name, level, V_PF, 0x11);
}

/* A leaf that the way forgets at least if it is not global. */
static void change_leaf(const struct way *w, u64 global)
{
	if (w->f == flush_elsewhere || (global && !w->global))
		return;
	fresh();
	put(tables[0][1], 1, to(frame[0][1], ALL | global));
	load(page(1));
	store(page(1), value(0, 1));
	put(tables[0][1], 1, to(frame[OTHER][1], ALL | global));
	w->f();
	expect_value(global ? "global page" : "page", w->name, 1, page(1), value(OTHER, 1));
}

/* A table moves, and what was its frame gets other contents. */
static void move_table(const struct way *w)
{
	fresh();
	load(page(0));
	memcpy(tables[OTHER][1], tables[0][1], PAGES * 8);
	turn(0, 2, OTHER, ALL);
	w->f();
	for (unsigned n = 0; n < PAGES; n++)
		put(tables[0][1], n, 0x5a5a5a5a5a5a5000 + n);
	for (unsigned n = 1; n < PAGES; n++)
		expect_value("moved table", w->name, 1, page(n), value(0, n));
	for (unsigned n = 0; n < PAGES; n++)
		put(tables[0][1], n, 0);
}

/* An upper entry is changed with no flush: at most one fault that need not have been. */
static void late_fault(unsigned level)
{
	fresh();
	put(tables[0][1], 5, 0);
	load(page(0));
	turn(0, level, OTHER, ALL);
	if (load(page(5))->vector == V_PF)
		load(page(5));
	check(last_trap.vector == V_DONE && last_trap.rax == value(OTHER, 5),
	      "level %u: a fault that the tables do not cause comes again: vector %ld value 0x%lx", level,
	      last_trap.vector, last_trap.rax);
}

/* ---- large pages: INVLPG of any address in one is for all of it ---- */

static void fill_big(void)
{
	for (unsigned b = 0; b < 2; b++)
		for (unsigned i = 0; i < 512; i += 73)
			put(big[b], i * 512, 0xb000 * (b + 1) + i);
}

static void expect_big(const char *what, const char *how, unsigned level, unsigned b)
{
	for (unsigned i = 0; i < 512; i += 73)
		expect_value(what, how, level, base + MIB2 + i * PAGE, 0xb000 * (b + 1) + i);
}

static void one_large_page(u64 global)
{
	u64 a = base + MIB2;

	fresh();
	fill_big();
	put(tables[0][2], 1, to(big[0], ALL | PTE_PS | global));
	expect_big("large page", "", 2, 0);
	put(tables[0][2], 1, to(big[1], ALL | PTE_PS | global));
	invlpg(a + 0x1ff000);
	expect_big("large page moved", "INVLPG of its end", 2, 1);
	put(tables[0][2], 1, to(tables[0][1], ALL));
	invlpg(a + 100 * PAGE);
	expect_value("large page split", "INVLPG of its middle", 2, a + PAGE, value(0, 1));
	load(a + 73 * PAGE);
	expect_end("large page split, not mapped", "INVLPG of its middle", 2, V_PF, 0);
	put(tables[0][2], 1, to(big[0], ALL | PTE_PS | global));
	for (unsigned n = 0; n < PAGES; n++)
		invlpg(a + n * PAGE);
	expect_big("merged", "INVLPG of its pages", 2, 0);
	put(tables[0][2], 1, to(big[0], PTE_P | PTE_PS | global));
	invlpg(a);
	for (unsigned i = 0; i < 512; i += 73) {
		store(a + i * PAGE, 1);
		expect_end("large page made read-only", "INVLPG of its start", 2, V_PF, 3);
	}
	put(tables[0][2], 1, 0);
	invlpg(a + 300 * PAGE);
	for (unsigned i = 0; i < 512; i += 73) {
		load(a + i * PAGE);
		expect_end("large page unmapped", "INVLPG of its middle", 2, V_PF, 0);
	}
}

static void gigabyte_page(void)
{
	u64 a = base + GIB;

	if (!(cpuid(0x80000001, 0).d >> 26 & 1))
		return;
	fresh();
	put(tables[0][3], 1, 0 | ALL | PTE_PS);
	for (unsigned n = 0; n < PAGES; n++)
		expect_value("1 GiB page", "", 3, a + address(frame[1][n]), value(1, n));
	put(tables[0][3], 1, to(tables[OTHER][2], ALL));
	invlpg(a + 700 * MIB2 / 2);
	for (unsigned n = 0; n < PAGES; n++) {
		load(a + address(frame[1][n]));
		/* Within 2 MiB of the start the other chain has small pages. */
		check(last_trap.vector == V_PF || last_trap.rax != value(1, n) || address(frame[1][n]) < MIB2,
		      "1 GiB page split: page %u still there", n);
	}
	expect_value("1 GiB page split", "INVLPG of its middle", 3, a + 2 * PAGE, value(OTHER, 2));
	put(tables[0][3], 1, 0);
}

/* ---- two roots ---- */

/* Where root 0 is changed: in itself, while root 1 is current, and the latter after many writes to it. */
enum place { IN_ITSELF, FROM_OTHER, REWRITTEN, PLACES };
static const char *const place_name[PLACES] = {
	"changed in the same root", "changed from the other root", "rewritten from the other root",
};

/* PCIDs of the two; without any, switches flush what is not global. */
static unsigned pcid_of(unsigned s) { return has_pcid ? s + 1 : 0; }
static void go(unsigned s) { switch_to(s, pcid_of(s), has_pcid); }

static void change_from(enum place place)
{
	if (place != IN_ITSELF)
		go(1);
	for (unsigned i = 0; place == REWRITTEN && i < 8; i++)
		set_entry(0, top, entry(0, top));
}

/*
 * Below @level both roots share tables. One of them turns away, the change is made in it or while the other
 * is current, and is flushed where it matters with an INVLPG that has nothing to do with it.
 */
static void shared_below(unsigned level, enum place place)
{
	const char *how = place_name[place];

	fresh();
	turn(1, level, 0, ALL);
	go(1);
	load(page(0));
	go(0);
	load(page(0));
	change_from(place);
	turn(0, level, OTHER, ALL);
	go(0);
	invlpg(elsewhere);
	expect_value("shared below", how, level, page(1), value(OTHER, 1));
	go(1);
	expect_value("shared below, the other root", how, level, page(1), value(0, 1));
	go(0);
	expect_value("shared below, back", how, level, page(2), value(OTHER, 2));
	set_entry(0, level, 0);
	invlpg(elsewhere);
	load(page(3));
	expect_end("shared below, gone", how, level, V_PF, 0);
	go(1);
	expect_value("shared below, gone in the other root only", how, level, page(3), value(0, 3));
}

/* A large page in tables of each root, or (@level 3) in one they share. */
static void shared_large(unsigned level, enum place place, u64 global)
{
	const char *how = place_name[place];
	u64 *table = level == 2 ? tables[0][2] : table_at(0, 3);

	fresh();
	fill_big();
	put(tables[0][2], 1, to(big[0], ALL | PTE_PS | global));
	put(tables[1][2], 1, to(big[0], ALL | PTE_PS | global));
	put(tables[OTHER][2], 1, to(big[1], ALL | PTE_PS | global));
	if (level == 3)
		turn(1, 3, 0, ALL);
	go(1);
	expect_big("shared large page, root 1", how, level, 0);
	go(0);
	expect_big("shared large page, root 0", how, level, 0);
	change_from(place);
	if (level == 2)
		put(table, 1, to(big[1], ALL | PTE_PS | global));
	else
		turn(0, 3, OTHER, ALL);
	go(0);
	invlpg(base + MIB2 + 5 * PAGE);
	expect_big("shared large page moved", how, level, 1);
	go(1);
	invlpg(base + MIB2 + 6 * PAGE); /* for the case that it is global */
	expect_big("shared large page, the other root", how, level, 0);
}

static void two_roots(void)
{
	if (has_pcid)
		write_cr4(read_cr4() | CR4_PCIDE);
	for (enum place place = IN_ITSELF; place < PLACES; place++) {
		for (unsigned level = 2; level <= top; level++)
			shared_below(level, place);
		for (unsigned level = 2; level <= 3; level++)
			for (unsigned global = 0; global < 2; global++)
				shared_large(level, place, global ? PTE_G : 0);
	}
	switch_to(0, 0, false);
	if (has_pcid)
		write_cr4(read_cr4() & ~(u64)CR4_PCIDE);
}

/* ---- process-context identifiers ---- */

static void pcid_return(void) { switch_to(1, 2, false); }
static void pcid_then_invlpg(void)
{
	switch_to(1, 2, true);
	invlpg(elsewhere);
}
static void pcid_invpcid_0(void) { invpcid(0, 2, page(1)); }
static void pcid_invpcid_1(void) { invpcid(1, 2, 0); }
static void pcid_other_root(void) { switch_to(0, 2, false); } /* reuse flushes what the identifier had */
static void pcid_off(void)
{
	switch_to(0, 0, true);
	write_cr4(read_cr4() & ~(u64)CR4_PCIDE);
	write_cr4(read_cr4() | CR4_PCIDE);
}

static const struct way pcid_ways[] = {
	{ "load with its PCID", pcid_return, false, NULL },
	{ "INVLPG after a keeping load", pcid_then_invlpg, false, NULL },
	{ "load of another root with its PCID", pcid_other_root, false, NULL },
	{ "CR4.PCIDE", pcid_off, true, NULL },
	{ "CR4.PGE", flush_pge, true, NULL },
	{ "INVPCID address", pcid_invpcid_0, false, &has_invpcid },
	{ "INVPCID context", pcid_invpcid_1, false, &has_invpcid },
	{ "INVPCID all", flush_invpcid_2, true, &has_invpcid },
	{ "INVPCID all but global", flush_invpcid_3, false, &has_invpcid },
};

/* Root 1 is used as PCID 2 and changed while root 0 is current as PCID 1. */
static void change_other_context(const struct way *w, unsigned level, u64 global)
{
	if (w->f == pcid_then_invlpg && level == 1)
		return;
	fresh();
	put(tables[1][1], 1, to(frame[1][1], ALL | global));
	switch_to(1, 2, true);
	load(page(level == 1 ? 1 : 0));
	switch_to(0, 1, true);
	if (!global)
		expect_value("the present context", w->name, level, page(1), value(0, 1));
	if (level == 1)
		put(tables[1][1], 1, to(frame[OTHER][1], ALL | global));
	else
		turn(1, level, OTHER, ALL);
	w->f();
	switch_to(1, 2, true);
	expect_value(global ? "global page of another context" : "another context", w->name, level, page(1),
		     value(OTHER, 1));
	switch_to(0, 1, true);
}

static void contexts(void)
{
	if (!has_pcid)
		return;
	switch_to(0, 0, false);
	write_cr4(read_cr4() | CR4_PCIDE);
	for (unsigned i = 0; i < ARRAY_SIZE(pcid_ways); i++) {
		if (pcid_ways[i].needs && !*pcid_ways[i].needs)
			continue;
		for (unsigned level = 1; level <= top; level++)
			change_other_context(&pcid_ways[i], level, 0);
		if (pcid_ways[i].global)
			change_other_context(&pcid_ways[i], 1, PTE_G);
	}
	switch_to(0, 0, false);
	write_cr4(read_cr4() & ~(u64)CR4_PCIDE);
}

/* ---- "keep" ---- */

/* Page 0 and 1 are cached, page 1 and level 2 are changed: what is seen of page 1 (TLB) and page 2 (upper entry)? */
static void keep(const char *what, void (*f)(void), u64 global, bool tlb_kept, bool upper_kept)
{
	fresh();
	put(tables[0][1], 1, to(frame[0][1], ALL | global));
	load(page(0));
	load(page(1));
	turn(0, 2, OTHER, ALL);
	f();
	expect_value(tlb_kept ? "TLB kept" : "TLB dropped", what, 1, page(1), value(tlb_kept ? 0 : OTHER, 1));
	expect_value(upper_kept ? "PDE kept" : "PDE dropped", what, 2, page(2), value(upper_kept ? 0 : OTHER, 2));
}

static void keep_nothing_done(void) { }
static void keep_wp(void)
{
	write_cr0(read_cr0() ^ CR0_WP);
	write_cr0(read_cr0() ^ CR0_WP);
}
static void keep_smap(void)
{
	write_cr4(read_cr4() | CR4_SMAP);
	write_cr4(read_cr4() & ~(u64)CR4_SMAP);
}
static void keep_smep(void) { write_cr4(read_cr4() & ~(u64)CR4_SMEP); }
static void keep_wbinvd(void) { __asm__ volatile("wbinvd" : : : "memory"); }
static void keep_far_pcid_0(void) { invpcid(0, pcid_now, elsewhere); }
static void keep_other_pcid(void) { invpcid(1, 7, 0); }
static void keep_cr3(void) { switch_to(0, pcid_now, true); }
static void keep_round_trip(void)
{
	unsigned pcid = pcid_now;

	switch_to(1, 5, false); /* flushes PCID 5 */
	invlpg(elsewhere);      /* drops the upper entries of PCID 5 */
	invlpg(page(3));
	switch_to(0, pcid, true);
}

static void keep_all(void)
{
	keep("nothing done", keep_nothing_done, 0, true, true);
	keep("CR0.WP", keep_wp, 0, true, true);
	keep("WBINVD", keep_wbinvd, 0, true, true);
	keep("CR3 load", flush_cr3, 0, false, false);
	keep("CR3 load, global", flush_cr3, PTE_G, true, false);
	keep("INVLPG elsewhere", flush_elsewhere, 0, true, false);
	keep("CR4.PGE, global", flush_pge, PTE_G, false, false);
	keep("CR4.SMAP", keep_smap, 0, true, true);
	write_cr4(read_cr4() | CR4_SMEP);
	keep("CR4.SMEP 1 -> 0", keep_smep, 0, true, true);
	keep("INVPCID 0 elsewhere", keep_far_pcid_0, 0, true, true);
	keep("INVPCID 0, global", flush_invpcid_0, PTE_G, true, false);
	keep("INVPCID 1, global", flush_invpcid_1, PTE_G, true, false);
	keep("INVPCID 3, global", flush_invpcid_3, PTE_G, true, false);
	keep("INVPCID 2, global", flush_invpcid_2, PTE_G, false, false);
	switch_to(0, 0, false);
	write_cr4(read_cr4() | CR4_PCIDE);
	keep("CR3 load with bit 63", keep_cr3, 0, true, true);
	keep("INVPCID 1 of another PCID", keep_other_pcid, 0, true, true);
	switch_to(0, 1, false);
	keep("a round trip to another PCID", keep_round_trip, 0, true, true);
	switch_to(0, 0, false);
	write_cr4(read_cr4() & ~(u64)CR4_PCIDE);
}

static void find_roots(void)
{
	top = read_cr4() & CR4_LA57 ? 5 : 4;
	roots[0] = top == 5 ? boot_pml5 : boot_pml4;
	roots[1] = root_b;
	memcpy(root_b, roots[0], PAGE);
	base = (u64)SLOT << 39 | (top == 5 ? 1ull << 48 : 0);
	elsewhere = 0x30ull << 39;
}

int main(void)
{
	has_pcid = cpuid(1, 0).c >> 17 & 1;
	has_invpcid = cpuid(7, 0).b >> 10 & 1;
	has_smep = cpuid(7, 0).b >> 7 & 1;
	has_nx = rdmsr(MSR_EFER) & EFER_NXE;
	big[0] = (u64 *)(uintptr_t)(8 * MIB2);
	big[1] = (u64 *)(uintptr_t)(9 * MIB2);
	find_roots();
	write_cr4(read_cr4() | CR4_PGE);
	if (option("keep"))
		keep_all();
	for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
		if (!usable(&ways[i]))
			continue;
		for (unsigned level = 2; level <= top; level++) {
			change_upper(&ways[i], level);
			restrict_upper(&ways[i], level);
		}
		change_leaf(&ways[i], 0);
		change_leaf(&ways[i], PTE_G);
		move_table(&ways[i]);
	}
	for (unsigned level = 2; level <= top; level++)
		late_fault(level);
	one_large_page(0);
	one_large_page(PTE_G);
	gigabyte_page();
	two_roots();
	contexts();
	finish("invalidate");
}
