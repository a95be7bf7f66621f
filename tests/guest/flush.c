/*
 * What an operating system relies on when it changes page tables: after the flush
 * that the SDM asks for ("Invalidation of TLBs and Paging-Structure Caches") no
 * access may still see the old tables. Each test makes the translation hot, changes
 * something, flushes in one of the ways there are, and looks. Also here: changes
 * that need no flush, tables shared, aliased, recursive or reused, and rights that
 * are decided by control bits at the moment of use.
 *
 * Left out: that stale translations may be used before a flush. They may, or not.
 */
#include "lib/guest.h"

enum { FRAMES = 6, SLOT = 0x80 };

static u64 pml4_b[512] __attribute__((aligned(4096))); /* a second root, for PCIDs */
static u64 pdpt[512] __attribute__((aligned(4096))), pdpt_b[512] __attribute__((aligned(4096)));
static u64 pd[512] __attribute__((aligned(4096))), pd_b[512] __attribute__((aligned(4096)));
static u64 pt[512] __attribute__((aligned(4096))), pt_b[512] __attribute__((aligned(4096)));
static u64 frame[FRAMES][512] __attribute__((aligned(4096)));
static u64 *big[2]; /* two 2 MiB frames above the program */
static bool has_pcid, has_invpcid, has_pge;

/* 1 GiB, 2 MiB and 4 KiB steps inside the slot; page 5 of the first table is used most. */
static const u64 base = (u64)SLOT << 39, va = ((u64)SLOT << 39) + 5 * PAGE;

static u64 address(const volatile void *p) { return (u64)(uintptr_t)p; }
static void put(u64 *table, unsigned i, u64 v) { ((volatile u64 *)table)[i] = v; }
static u64 get(const u64 *table, unsigned i) { return ((const volatile u64 *)table)[i]; }
static u64 to(const volatile void *p, u64 flags) { return address(p) | flags; }

PIECE(piece_read, "mov (%rdi), %rax");
PIECE(piece_write, "mov %rsi, (%rdi)");
PIECE(piece_call, "call *%rdi");

enum { RW = PTE_P | PTE_W, ALL = PTE_P | PTE_W | PTE_U };

/* The tables every test starts from: page 5 is frame 0, page 6 frame 1. */
static void fresh_tables(void)
{
	memset(pdpt, 0, PAGE);
	memset(pd, 0, PAGE);
	memset(pt, 0, PAGE);
	memset(pt_b, 0, PAGE);
	put(boot_pml4, SLOT, to(pdpt, ALL));
	put(pdpt, 0, to(pd, ALL));
	put(pd, 0, to(pt, ALL));
	put(pt, 5, to(frame[0], ALL));
	put(pt, 6, to(frame[1], ALL));
	put(pt_b, 5, to(frame[2], ALL));
	put(pt_b, 6, to(frame[3], ALL));
	for (unsigned i = 0; i < FRAMES; i++)
		put(frame[i], 0, 0xf00 + i);
	write_cr3(read_cr3());
}

static const struct trap *load(u64 a) { return run_code(piece_read, KERNEL, a, 0); }
static const struct trap *store(u64 a, u64 v) { return run_code(piece_write, KERNEL, a, v); }

static void warm(u64 a)
{
	load(a);
	store(a, last_trap.rax);
	load(a);
}

static void expect_value(const char *what, u64 a, u64 value)
{
	const struct trap *t = load(a);

	check(t->vector == V_DONE && t->rax == value, "%s: vector %ld error 0x%lx value 0x%lx, expected value 0x%lx", what,
	      t->vector, t->error, t->rax, value);
}

static void expect_fault(const char *what, u64 a, u64 error)
{
	load(a);
	expect(what, V_PF, error);
}

/* ---- ways to flush ---- */

struct invpcid_descriptor { u64 pcid, address; };

static void invpcid(u64 type, u64 pcid, u64 a)
{
	struct invpcid_descriptor d = { pcid, a };

	__asm__ volatile("invpcid %0, %1" : : "m"(d), "r"(type) : "memory");
}

static void flush_page(void) { invlpg(va); }
static void flush_cr3(void) { write_cr3(read_cr3()); }
static void flush_global(void)
{
	write_cr4(read_cr4() ^ CR4_PGE);
	write_cr4(read_cr4() ^ CR4_PGE);
}
static void flush_paging(void) /* not possible in 64-bit mode with CR0.PG; CR4.SMEP does as well */
{
	if (cpuid(7, 0).b >> 7 & 1) {
		write_cr4(read_cr4() | CR4_SMEP);
		write_cr4(read_cr4() & ~(u64)CR4_SMEP);
	}
	flush_cr3();
}
static void flush_invpcid_address(void) { invpcid(0, 0, va); }
static void flush_invpcid_context(void) { invpcid(1, 0, 0); }
static void flush_invpcid_all(void) { invpcid(2, 0, 0); }
static void flush_invpcid_not_global(void) { invpcid(3, 0, 0); }

static const struct flush {
	const char *name;
	void (*f)(void);
	bool global, needs_invpcid;
} flushes[] = {
	{ "INVLPG", flush_page, true, false },
	{ "CR3 load", flush_cr3, false, false },
	{ "CR4.PGE", flush_global, true, false },
	{ "CR4.SMEP and CR3", flush_paging, false, false },
	{ "INVPCID address", flush_invpcid_address, false, true },
	{ "INVPCID context", flush_invpcid_context, false, true },
	{ "INVPCID all", flush_invpcid_all, true, true },
	{ "INVPCID all but global", flush_invpcid_not_global, false, true },
};

/* ---- one page changes ---- */

static void change_page(const struct flush *f, u64 global)
{
	fresh_tables();
	put(pt, 5, to(frame[0], ALL | global));
	warm(va);
	put(pt, 5, to(frame[4], ALL | global));
	f->f();
	expect_value(f->name, va, 0xf04);
	put(pt, 5, to(frame[4], (PTE_P | PTE_U) | global));
	f->f();
	store(va, 1);
	expect("write after W was taken", V_PF, 3);
	put(pt, 5, to(frame[4], RW | global));
	f->f();
	run_code(piece_read, USER, va, 0);
	expect("user read after U was taken", V_PF, 5);
	put(pt, 5, 0);
	f->f();
	expect_fault("read after unmapping", va, 0);
	put(pt, 5, to(frame[0], ALL | global));
	expect_value("mapped again, no flush", va, 0xf00);
}

/* Each upper entry is cleared, made read-only, and turned to another table. */
static void change_upper(const struct flush *f)
{
	struct { u64 *table; unsigned index; u64 *other; } upper[] = {
		{ pd, 0, pt_b }, { pdpt, 0, pd_b }, { boot_pml4, SLOT, pdpt_b },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(upper); i++) {
		u64 old;

		fresh_tables();
		put(pd_b, 0, to(pt_b, ALL));
		put(pdpt_b, 0, to(pd_b, ALL));
		old = get(upper[i].table, upper[i].index);
		warm(va);
		put(upper[i].table, upper[i].index, old & ~PTE_W);
		f->f();
		store(va, 1);
		expect("write below a read-only upper entry", V_PF, 3);
		expect_value("read below a read-only upper entry", va, 0xf00);
		put(upper[i].table, upper[i].index, to(upper[i].other, ALL));
		f->f();
		expect_value("another table", va, 0xf02);
		warm(va);
		put(upper[i].table, upper[i].index, 0);
		f->f();
		expect_fault("upper entry cleared", va, 0);
		put(upper[i].table, upper[i].index, old);
		expect_value("upper entry set again, no flush", va, 0xf00);
	}
}

static void accessed_and_dirty(const struct flush *f)
{
	fresh_tables();
	load(va);
	check((get(pt, 5) & (PTE_A | PTE_D)) == PTE_A, "a read sets A alone: 0x%lx", get(pt, 5));
	store(va, 7);
	check((get(pt, 5) & (PTE_A | PTE_D)) == (PTE_A | PTE_D), "a write sets A and D: 0x%lx", get(pt, 5));
	put(pt, 5, get(pt, 5) & ~(PTE_A | PTE_D));
	f->f();
	load(va);
	check((get(pt, 5) & (PTE_A | PTE_D)) == PTE_A, "%s: a read after A was cleared: 0x%lx", f->name, get(pt, 5));
	put(pt, 5, get(pt, 5) & ~PTE_D);
	f->f();
	store(va, 8);
	check(get(pt, 5) & PTE_D, "%s: a write after D was cleared: 0x%lx", f->name, get(pt, 5));
	check(get(pd, 0) & PTE_A && get(pdpt, 0) & PTE_A, "upper entries are accessed");
	put(pd, 0, get(pd, 0) & ~PTE_A);
	f->f();
	load(va);
	check(get(pd, 0) & PTE_A, "%s: A of an upper entry set again: 0x%lx", f->name, get(pd, 0));
}

static void with_each_flush(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(flushes); i++) {
		const struct flush *f = &flushes[i];

		if (f->needs_invpcid && !has_invpcid)
			continue;
		change_page(f, 0);
		if (f->global && has_pge)
			change_page(f, PTE_G);
		change_upper(f);
		accessed_and_dirty(f);
	}
}

/* ---- large pages ---- */

static void large_pages(void)
{
	fresh_tables();
	big[0][0] = 0xb00;
	big[0][0x1ff000 / 8] = 0xb01;
	big[1][0] = 0xc00;
	big[1][0x1ff000 / 8] = 0xc01;
	put(pd, 1, to(big[0], ALL | PTE_PS));
	warm(base + MIB2);
	warm(base + MIB2 + 0x1ff000);
	expect_value("large page", base + MIB2 + 0x1ff000, 0xb01);
	put(pd, 1, to(big[1], ALL | PTE_PS));
	invlpg(base + MIB2 + 0x5000); /* any address of a large page stands for all of it */
	expect_value("large page moved, first", base + MIB2, 0xc00);
	expect_value("large page moved, last", base + MIB2 + 0x1ff000, 0xc01);
	put(pd, 1, to(pt, ALL));
	flush_cr3();
	expect_value("split: page 5", base + MIB2 + 5 * PAGE, 0xf00);
	expect_fault("split: page 0 is unmapped", base + MIB2, 0);
	put(pt, 0, to(big[1], PTE_P | PTE_U));
	expect_value("split: page 0 mapped", base + MIB2, 0xc00);
	store(base + MIB2, 1);
	expect("split: page 0 is read-only", V_PF, 3);
	put(pd, 1, to(big[0], ALL | PTE_PS));
	flush_cr3();
	expect_value("merged", base + MIB2 + 0x1ff000, 0xb01);
	store(base + MIB2 + 5 * PAGE, 0x77);
	check(big[0][5 * PAGE / 8] == 0x77, "a write to the merged page reaches 0x%lx", big[0][5 * PAGE / 8]);
	put(pd, 1, to(big[0], PTE_P | PTE_PS));
	invlpg(base + MIB2);
	store(base + MIB2 + 5 * PAGE, 0x78);
	expect("large page made read-only", V_PF, 3);
}

static void gigabyte_pages(void)
{
	u64 a = base + GIB + address(frame[0]);

	if (!(cpuid(0x80000001, 0).d >> 26 & 1))
		return;
	fresh_tables();
	put(pdpt, 1, 0 | ALL | PTE_PS);
	expect_value("1 GiB page", a, 0xf00);
	warm(a);
	put(pdpt, 1, to(pd, ALL));
	put(pd, (unsigned)(a >> 21 & 511), to(pt_b, ALL));
	put(pt_b, (unsigned)(a >> 12 & 511), to(frame[3], ALL));
	flush_cr3();
	expect_value("1 GiB page split", a, 0xf03);
	put(pdpt, 1, 0 | ALL | PTE_PS);
	invlpg(a);
	expect_value("1 GiB page again", a, 0xf00);
}

/* ---- changes that need no flush ---- */

static void growing_rights(void)
{
	fresh_tables();
	put(pt, 7, 0);
	expect_fault("not mapped", base + 7 * PAGE, 0);
	put(pt, 7, to(frame[4], PTE_P));
	expect_value("mapped", base + 7 * PAGE, 0xf04);
	store(base + 7 * PAGE, 1);
	expect("read-only", V_PF, 3);
	put(pt, 7, to(frame[4], RW));
	/* A stale entry may cause one more fault, which drops it. */
	if (store(base + 7 * PAGE, 0x123)->vector == V_PF)
		store(base + 7 * PAGE, 0x123);
	expect("writable, no flush", V_DONE, 0);
	check(get(frame[4], 0) == 0x123, "the write arrived: 0x%lx", get(frame[4], 0));
	put(pt, 7, to(frame[4], ALL));
	if (run_code(piece_read, USER, base + 7 * PAGE, 0)->vector == V_PF)
		run_code(piece_read, USER, base + 7 * PAGE, 0);
	expect("user, no flush", V_DONE, 0);
}

/* CR0.WP decides at the time of the access; no flush is owed for it. */
static void write_protect(void)
{
	fresh_tables();
	put(pt, 5, to(frame[0], PTE_P | PTE_U));
	load(va);
	for (unsigned i = 0; i < 4; i++) {
		write_cr0(read_cr0() | CR0_WP);
		store(va, i);
		expect("WP = 1: write to a read-only page", V_PF, 3);
		write_cr0(read_cr0() & ~(u64)CR0_WP);
		store(va, i);
		expect("WP = 0: write to a read-only page", V_DONE, 0);
		run_code(piece_write, USER, va, i);
		expect("WP = 0: user write to a read-only page", V_PF, 7);
	}
	write_cr0(read_cr0() | CR0_WP);
	check(get(pt, 5) & PTE_D, "a write under WP = 0 sets D: 0x%lx", get(pt, 5));
}

/* ---- tables in odd places ---- */

/* The same leaf table below a writable user entry and a read-only supervisor entry. */
static void shared_table(void)
{
	fresh_tables();
	put(pd, 1, to(pt, PTE_P));
	for (unsigned i = 0; i < 3; i++) {
		store(va, 0x40 + i);
		expect("writable way", V_DONE, 0);
		expect_value("read-only way, read", va + MIB2, 0x40 + i);
		store(va + MIB2, 1);
		expect("read-only way, write", V_PF, 3);
		run_code(piece_read, USER, va, 0);
		expect("user way", V_DONE, 0);
		run_code(piece_read, USER, va + MIB2, 0);
		expect("supervisor way", V_PF, 5);
	}
	put(pt, 5, to(frame[3], ALL));
	flush_cr3();
	expect_value("change seen one way", va, 0xf03);
	expect_value("change seen the other way", va + MIB2, 0xf03);
}

/* Page tables written through a mapping inside the tables themselves, with all kinds of writes. */
static void aliased_table(void)
{
	volatile u64 *alias = (volatile u64 *)(base + 100 * PAGE);
	u64 x = to(frame[3], ALL);

	fresh_tables();
	put(pt, 100, to(pt, RW));
	flush_cr3();
	warm(va);
	alias[5] = to(frame[1], ALL);
	invlpg(va);
	expect_value("written through an alias", va, 0xf01);
	((volatile u8 *)alias)[5 * 8 + 1] = (u8)(address(frame[2]) >> 8);
	((volatile u16 *)alias)[5 * 4 + 1] = (u16)(address(frame[2]) >> 16);
	invlpg(va);
	expect_value("written in bytes", va, 0xf02);
	__asm__ volatile("xchg %0, %1" : "+r"(x), "+m"(alias[5]) : : "memory");
	invlpg(va);
	expect_value("exchanged", va, 0xf03);
	check((x & ~0xfffull) == address(frame[2]) && x & PTE_A, "the old entry: 0x%lx", x);
	__asm__ volatile("lock btrq $0, %0" : "+m"(alias[5]) : : "memory", "cc");
	invlpg(va);
	expect_fault("present bit taken by a locked instruction", va, 0);
	x = get(pt, 5);
	__asm__ volatile("lock cmpxchgq %2, %1"
			 : "+a"(x), "+m"(alias[5]) : "r"(to(frame[4], ALL)) : "memory", "cc");
	expect_value("compare and exchange", va, 0xf04);
	memset((void *)(uintptr_t)(base + 100 * PAGE + 32), 0, 64);
	invlpg(va);
	expect_fault("cleared by a string instruction", va, 0);
	__asm__ volatile("movq %%rsp, %%r8; lea 48(%0), %%rsp; pushq %1; movq %%r8, %%rsp"
			 : : "r"(alias), "r"(to(frame[0], ALL)) : "r8", "memory");
	expect_value("pushed", va, 0xf00);
	/* Eight bytes that straddle two entries. */
	put(pt, 6, to(frame[1], ALL));
	invlpg(va + PAGE);
	warm(va + PAGE);
	*(volatile u64 *)((uintptr_t)alias + 5 * 8 + 4) = 0;
	invlpg(va + PAGE);
	expect_fault("a write across two entries", va + PAGE, 0);
	expect_value("a write across two entries, first", va, 0xf00);
}

/* A root that maps itself: tables of every level are pages, too. */
static void recursive_table(void)
{
	enum { SELF = 0x90 };
	u64 pte = (u64)SELF << 39 | (va >> 9 & 0x7ffffffff8ull);

	fresh_tables();
	put(boot_pml4, SELF, (read_cr3() & ~0xfffull) | RW);
	warm(va);
	expect_value("leaf entry seen through the recursion", pte, get(pt, 5));
	*(volatile u64 *)(uintptr_t)pte = to(frame[4], ALL);
	invlpg(va);
	expect_value("leaf entry changed through the recursion", va, 0xf04);
	put(boot_pml4, SELF, 0);
	flush_cr3();
	expect_fault("recursion gone", pte, 0);
}

/* A table becomes data and data becomes a table. */
static void reused_table(void)
{
	for (unsigned i = 0; i < 20; i++) {
		u64 *table = i & 1 ? pt : pt_b, *page = i & 1 ? pt_b : pt;

		memset(page, 0, PAGE);
		memset(table, 0, PAGE);
		put(table, 5, to(frame[i % FRAMES], ALL));
		put(table, 9, to(page, ALL));
		put(pd, 0, to(table, ALL));
		flush_cr3();
		put(frame[i % FRAMES], 0, 0x1000 + i);
		expect_value("reused table", va, 0x1000 + i);
		/* The table of the last turn is an ordinary page now. */
		for (unsigned j = 0; j < 64; j++)
			((volatile u64 *)(uintptr_t)(base + 9 * PAGE))[j] = j * 3;
		check(get(page, 63) == 63 * 3, "old table holds data: 0x%lx", get(page, 63));
	}
}

static void changing_code(void)
{
	static const u8 one[] = { 0xb8, 1, 0, 0, 0, 0xc3 }, two[] = { 0xb8, 2, 0, 0, 0, 0xc3 };

	fresh_tables();
	memcpy(frame[0], one, sizeof(one));
	memcpy(frame[1], two, sizeof(two));
	for (unsigned i = 0; i < 6; i++) {
		put(pt, 5, to(frame[i & 1], RW));
		invlpg(va);
		run_code(piece_call, KERNEL, va, 0);
		check(last_trap.vector == V_DONE && last_trap.rax == 1 + (i & 1), "code of frame %u returned %ld", i & 1,
		      last_trap.rax);
	}
	((volatile u8 *)(uintptr_t)va)[1] = 9;
	run_code(piece_call, KERNEL, va, 0);
	check(last_trap.rax == 9, "rewritten code returned %ld", last_trap.rax);
	((volatile u8 *)frame[1])[1] = 10;
	run_code(piece_call, KERNEL, va, 0);
	check(last_trap.rax == 10, "code rewritten through another address returned %ld", last_trap.rax);
	if (rdmsr(MSR_EFER) & EFER_NXE) {
		put(pt, 5, to(frame[1], RW | PTE_NX));
		invlpg(va);
		run_code(piece_call, KERNEL, va, 0);
		expect("code made not executable", V_PF, 0x11);
	}
}

/* ---- process-context identifiers ---- */

static void switch_to(const u64 *root, u64 pcid, bool keep)
{
	write_cr3(address(root) | pcid | (keep ? 1ull << 63 : 0));
}

/* Changes the second root's page while the first is in use, flushes with @flush, and looks after a keeping switch. */
static void pcid_case(const char *what, u64 type, u64 global)
{
	switch_to(pml4_b, 2, false);
	put(pt_b, 5, to(frame[2], ALL | global));
	invlpg(va);
	invlpg(va + PAGE);
	put(pt_b, 6, to(frame[3], ALL));
	warm(va);
	warm(va + PAGE);
	switch_to(boot_pml4, 1, true);
	if (!global) /* a global translation may serve every context */
		expect_value("first context is its own", va, 0xf00);
	put(pt_b, 5, to(frame[4], ALL | global));
	invpcid(type, 2, va);
	switch_to(pml4_b, 2, true);
	expect_value(what, va, 0xf04);
	expect_value("second context, other page", va + PAGE, 0xf03);
}

static void identifiers(void)
{
	if (!has_pcid)
		return;
	fresh_tables();
	memcpy(pml4_b, boot_pml4, PAGE);
	memset(pd_b, 0, PAGE);
	memset(pdpt_b, 0, PAGE);
	put(pml4_b, SLOT, to(pdpt_b, ALL));
	put(pdpt_b, 0, to(pd_b, ALL));
	put(pd_b, 0, to(pt_b, ALL));
	write_cr4(read_cr4() | CR4_PCIDE);
	switch_to(boot_pml4, 1, false);
	warm(va);
	switch_to(pml4_b, 2, false);
	expect_value("second context", va, 0xf02);
	warm(va);
	for (unsigned i = 0; i < 3; i++) {
		switch_to(boot_pml4, 1, true);
		expect_value("kept first context", va, 0xf00);
		switch_to(pml4_b, 2, true);
		expect_value("kept second context", va, 0xf02);
	}
	switch_to(boot_pml4, 1, true);
	put(pt_b, 5, to(frame[3], ALL));
	switch_to(pml4_b, 2, false);
	expect_value("second context after a flushing switch", va, 0xf03);
	/* The same identifier with another root: the flush is asked for. */
	switch_to(boot_pml4, 2, false);
	expect_value("identifier reused", va, 0xf00);
	/* INVLPG reaches the present context and global pages of all. */
	put(pt, 5, to(frame[5], ALL));
	invlpg(va);
	expect_value("INVLPG in a context", va, 0xf05);
	put(pt, 5, to(frame[0], ALL));
	invlpg(va);
	switch_to(boot_pml4, 1, false);
	if (has_invpcid) {
		pcid_case("INVPCID address of another context", 0, 0);
		pcid_case("INVPCID another context", 1, 0);
		pcid_case("INVPCID all", 2, 0);
		pcid_case("INVPCID all, a global page", 2, PTE_G);
		pcid_case("INVPCID all but global", 3, 0);
	}
	switch_to(boot_pml4, 1, false);
	flush_global();
	switch_to(boot_pml4, 0, false);
	write_cr4(read_cr4() & ~(u64)CR4_PCIDE);
	expect_value("without identifiers", va, 0xf00);
}

/* Two roots below one set of upper tables; a change made under one is seen under the other after a switch. */
static void two_roots(void)
{
	u64 old = read_cr3();

	fresh_tables();
	memcpy(pml4_b, boot_pml4, PAGE);
	for (unsigned i = 0; i < 10; i++) {
		put(pt, 5, to(frame[i % FRAMES], ALL));
		put(frame[i % FRAMES], 0, 0x2000 + i);
		write_cr3(i & 1 ? old : address(pml4_b));
		expect_value("two roots", va, 0x2000 + i);
		warm(va);
	}
	write_cr3(old);
}

int main(void)
{
	has_pge = cpuid(1, 0).d >> 13 & 1;
	has_pcid = cpuid(1, 0).c >> 17 & 1;
	has_invpcid = cpuid(7, 0).b >> 10 & 1;
	big[0] = (u64 *)(uintptr_t)(8 * MIB2);
	big[1] = (u64 *)(uintptr_t)(9 * MIB2);
	if (has_pge)
		write_cr4(read_cr4() | CR4_PGE);
	with_each_flush();
	large_pages();
	gigabyte_pages();
	growing_rights();
	write_protect();
	shared_table();
	aliased_table();
	recursive_table();
	reused_table();
	changing_code();
	identifiers();
	two_roots();
	finish("flush");
}
