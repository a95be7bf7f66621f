/*
 * Direct translation as a guest sees it (arch/dmt.h): the two MSRs, the answers to requests, and that nothing else
 * shows. Addresses are mapped by contiguous tables, and registers that lead to them are loaded; rights, flags,
 * faults and pages are as the tables say, whether or not the processor under the guest goes by registers.
 *
 * With the word "absent": the processor has none of it.
 */
#include "lib/guest.h"

enum { MSR_DMT_LOAD = 0xc0000d10, MSR_PV_REQUEST = 0xc0000d11, REGISTERS = 16 };
enum { DMT_P = 1, DMT_2M = 2 };
enum { PV_HUGE = 1, PV_TEA_ALLOC, PV_TEA_FREE };
enum { DONE, BAD_OP, BAD_RANGE, OVERLAP, FULL, BAD_ID };
enum { AREAS = 4, PAGES = AREAS * 512, FRAMES = 16, SPACES = 2, TEAS_MAX = 1024, SLOT = 0x90 };

struct entry { u64 start, end, tea, info; };
struct request { u32 op, status; u64 gpa, pages, id, pad[4]; };

/* Two address spaces: what each has in slot SLOT, its page tables contiguous. */
static u64 root[SPACES][512] __attribute__((aligned(4096)));
static u64 pdpt[SPACES][512] __attribute__((aligned(4096)));
static u64 pd[SPACES][512] __attribute__((aligned(4096)));
static u64 pt[SPACES][PAGES] __attribute__((aligned(4096)));
static u64 frame[FRAMES][512] __attribute__((aligned(4096)));
static struct entry registers[SPACES][REGISTERS] __attribute__((aligned(64)));
static struct request request __attribute__((aligned(64)));
static u64 big; /* frames above the program: a large page */

PIECE(piece_rdmsr, "mov %rdi, %rcx; rdmsr");
PIECE(piece_wrmsr, "mov %rdi, %rcx; mov %rsi, %rax; mov %rsi, %rdx; shr $32, %rdx; wrmsr");
PIECE(piece_read, "mov (%rdi), %rax");
PIECE(piece_write, "mov %rsi, (%rdi)");

static u64 address(const volatile void *p) { return (u64)(uintptr_t)p; }
static u64 page(unsigned n) { return (u64)SLOT << 39 | n * PAGE; }
static u64 value(unsigned f) { return 0x1111111111111111ull * f + 7; }

static u64 state = 88172645463325252ull;
static unsigned pick(unsigned below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (unsigned)((state >> 33) % below);
}

/* ---- MSRs ---- */

static void faults(const char *what, u32 msr, u64 v)
{
	u64 before = rdmsr(msr);

	run_code(piece_wrmsr, KERNEL, msr, v);
	expect(what, V_GP, 0);
	check(rdmsr(msr) == before, "%s: the MSR has changed", what);
}

static void test_absent(void)
{
	check(!(cpuid(0x80000001, 0).c >> 31), "CPUID shows it");
	run_code(piece_rdmsr, KERNEL, MSR_DMT_LOAD, 0);
	expect("RDMSR of the first", V_GP, 0);
	run_code(piece_wrmsr, KERNEL, MSR_DMT_LOAD, 0);
	expect("WRMSR of the first", V_GP, 0);
	run_code(piece_rdmsr, KERNEL, MSR_PV_REQUEST, 0);
	expect("RDMSR of the second", V_GP, 0);
	run_code(piece_wrmsr, KERNEL, MSR_PV_REQUEST, address(&request));
	expect("WRMSR of the second", V_GP, 0);
	check(request.status == 0, "a request was answered");
}

static void test_msrs(void)
{
	u64 here = address(registers[0]);

	check(cpuid(0x80000001, 0).c >> 31, "CPUID does not show it");
	check(rdmsr(MSR_DMT_LOAD) == 0 && rdmsr(MSR_PV_REQUEST) == 0, "values after RESET");
	wrmsr(MSR_DMT_LOAD, here | 3);
	check(rdmsr(MSR_DMT_LOAD) == (here | 3), "what was written is not read");
	faults("17 registers", MSR_DMT_LOAD, here | 17);
	faults("registers in no memory", MSR_DMT_LOAD, 1ull << 35 | 1);
	faults("registers in a device", MSR_DMT_LOAD, 0xfec00000ull | 1);
	faults("registers beyond physical addresses", MSR_DMT_LOAD, 1ull << 52);
	wrmsr(MSR_DMT_LOAD, 1ull << 35); /* none are read */
	check(rdmsr(MSR_DMT_LOAD) == 1ull << 35, "no registers: nothing is looked at");
	wrmsr(MSR_DMT_LOAD, 0);
	faults("a request in no memory", MSR_PV_REQUEST, 1ull << 35);
	faults("a request that is not aligned", MSR_PV_REQUEST, address(&request) + 32);
	run_code(piece_wrmsr, USER, MSR_DMT_LOAD, 0);
	expect("WRMSR by a user", V_GP, 0);
}

/* ---- requests ---- */

static u32 ask(u32 op, u64 gpa, u64 pages, u64 id)
{
	request = (struct request){.op = op, .status = 99, .gpa = gpa, .pages = pages, .id = id, .pad = {1, 2, 3, 4}};
	wrmsr(MSR_PV_REQUEST, address(&request));
	check(request.op == op && request.gpa == gpa && request.pages == pages && request.pad[3] == 4,
	      "an answer changes more than itself");
	return request.status;
}

static void answers(const char *what, u32 want, u32 got, u64 id)
{
	check(got == want, "%s: status %u instead of %u", what, got, want);
	if (id)
		check(request.id == id, "%s: gTEA %u instead of %u", what, (unsigned)request.id, (unsigned)id);
}

static void test_requests(void)
{
	u64 a = big + 8 * MIB2;

	answers("no such operation", BAD_OP, ask(0, a, 1, 0), 0);
	answers("no such operation", BAD_OP, ask(4, a, 1, 0), 0);
	answers("no pages", BAD_RANGE, ask(PV_TEA_ALLOC, a, 0, 0), 0);
	answers("not a page", BAD_RANGE, ask(PV_TEA_ALLOC, a + 8, 1, 0), 0);
	answers("no memory", BAD_RANGE, ask(PV_TEA_ALLOC, 1ull << 35, 1, 0), 0);
	answers("beyond memory", BAD_RANGE, ask(PV_TEA_ALLOC, a, 1ull << 30, 0), 0);
	answers("beyond addresses", BAD_RANGE, ask(PV_TEA_ALLOC, a, ~0ull, 0), 0);
	answers("beyond all numbers", BAD_RANGE, ask(PV_TEA_ALLOC, a, 1ull << 52, 0), 0);
	answers("the first", DONE, ask(PV_TEA_ALLOC, a, 16, 77), 1);
	answers("its end and more", OVERLAP, ask(PV_TEA_ALLOC, a + 15 * PAGE, 2, 0), 0);
	answers("around it", OVERLAP, ask(PV_TEA_ALLOC, a - PAGE, 20, 0), 0);
	answers("the second", DONE, ask(PV_TEA_ALLOC, a + 16 * PAGE, 1, 0), 2);
	answers("none of that number", BAD_ID, ask(PV_TEA_FREE, 0, 0, 3), 3);
	answers("none has number 0", BAD_ID, ask(PV_TEA_FREE, 0, 0, 0), 0);
	answers("nor so high a one", BAD_ID, ask(PV_TEA_FREE, 0, 0, 1ull << 32), 0);
	answers("the first is given back", DONE, ask(PV_TEA_FREE, 0, 0, 1), 1);
	answers("once", BAD_ID, ask(PV_TEA_FREE, 0, 0, 1), 0);
	answers("the smallest number that is free", DONE, ask(PV_TEA_ALLOC, a, 1, 0), 1);
	answers("and so on", DONE, ask(PV_TEA_ALLOC, a + PAGE, 1, 0), 3);
	for (unsigned id = 1; id <= 3; id++)
		answers("given back", DONE, ask(PV_TEA_FREE, 0, 0, id), 0);
	answers("large pages, of a small one", BAD_RANGE, ask(PV_HUGE, a, 1, 0), 0);
	answers("large pages that are not aligned", BAD_RANGE, ask(PV_HUGE, a + PAGE, 512, 0), 0);
	answers("large pages", DONE, ask(PV_HUGE, a, 1024, 0), 0);
	answers("the same", DONE, ask(PV_HUGE, a + MIB2, 512, 0), 0);
}

static void test_full(void)
{
	u64 a = big + 8 * MIB2;

	for (unsigned n = 0; n < TEAS_MAX; n++)
		answers("one page each", DONE, ask(PV_TEA_ALLOC, a + n * PAGE, 1, 0), n + 1);
	answers("one too many", FULL, ask(PV_TEA_ALLOC, a + TEAS_MAX * PAGE, 1, 0), 0);
	for (unsigned n = TEAS_MAX; n > 0; n--)
		answers("given back", DONE, ask(PV_TEA_FREE, 0, 0, n), 0);
}

/* ---- translation ---- */

static void build(void)
{
	u64 kernel = read_cr3() & ~(PAGE - 1), upper = PTE_P | PTE_W | PTE_U | PTE_A;

	for (unsigned f = 0; f < FRAMES; f++)
		for (unsigned i = 0; i < 512; i++)
			frame[f][i] = value(f);
	for (unsigned s = 0; s < SPACES; s++) {
		memcpy(root[s], (const void *)(uintptr_t)kernel, sizeof(root[s]));
		root[s][SLOT] = address(pdpt[s]) | upper;
		pdpt[s][0] = address(pd[s]) | upper;
		for (unsigned a = 0; a < AREAS; a++)
			pd[s][a] = address(&pt[s][a * 512]) | upper;
		for (unsigned n = 0; n < PAGES; n++)
			pt[s][n] = address(frame[(n * 5 + s) % FRAMES]) | upper | PTE_D;
	}
}

static struct entry covering(unsigned s, unsigned first, unsigned areas, u64 id)
{
	return (struct entry){page(first * 512), page((first + areas) * 512), address(&pt[s][first * 512]), DMT_P | id << 32};
}

static struct entry covering_large(unsigned s)
{
	return (struct entry){page(0), page(PAGES), address(pd[s]), DMT_P | DMT_2M};
}

static void load(unsigned s, unsigned n) { wrmsr(MSR_DMT_LOAD, address(registers[s]) | n); }

/* Which frame a page shows, or the error code of reading it and 0x1000. */
static u64 seen(unsigned n)
{
	const struct trap *t = run_code(piece_read, KERNEL, page(n), 0);

	if (t->vector == V_PF)
		return 0x1000 | t->error;
	for (unsigned f = 0; f < FRAMES; f++)
		if (t->rax == value(f))
			return f;
	return ~0ull;
}

static void shows(const char *what, unsigned s)
{
	for (unsigned i = 0; i < 64; i++) {
		unsigned n = pick(PAGES);
		u64 got = seen(n);

		check(got == (n * 5 + s) % FRAMES, "%s: page %u shows %u", what, n, (unsigned)got);
	}
}

static void test_translation(void)
{
	registers[0][0] = covering(0, 0, AREAS, 0);
	registers[1][0] = covering(1, 0, 2, 0); /* not all: the rest is walked */
	for (unsigned turn = 0; turn < 4; turn++)
		for (unsigned s = 0; s < SPACES; s++) {
			write_cr3(address(root[s]));
			load(s, 1);
			shows("an address space", s);
		}
	load(0, 0);
	write_cr3(address(root[0]));
	shows("without registers", 0);
	load(0, 1);
}

static void test_rights_and_flags(void)
{
	u64 bare = address(frame[3]) | PTE_P;

	pt[0][7] = 0;
	invlpg(page(7));
	run_code(piece_read, USER, page(7), 0);
	expect("not present", V_PF, 4);
	pt[0][7] = bare | PTE_U;
	run_code(piece_read, USER, page(7), 0);
	expect("present now", V_DONE, 0);
	check(pt[0][7] == (bare | PTE_U | PTE_A), "its accessed flag");
	run_code(piece_write, USER, page(7), 1);
	expect("read-only", V_PF, 7);
	check(pt[0][7] == (bare | PTE_U | PTE_A), "no dirty flag of a write that failed");
	pt[0][7] = bare | PTE_W | PTE_A;
	invlpg(page(7));
	run_code(piece_read, USER, page(7), 0);
	expect("not the user's", V_PF, 5);
	run_code(piece_write, KERNEL, page(7), value(3));
	expect("writable", V_DONE, 0);
	check(pt[0][7] == (bare | PTE_W | PTE_A | PTE_D), "its dirty flag");
	pt[0][7] |= 1ull << 51;
	invlpg(page(7));
	run_code(piece_read, KERNEL, page(7), 0);
	expect("a reserved bit", V_PF, 9);
	pt[0][7] = address(frame[35 % FRAMES]) | PTE_P | PTE_W | PTE_U | PTE_A | PTE_D;
	invlpg(page(7));
}

/* One area becomes a large page and small ones again. Its page table, kept for that, is empty meanwhile. */
static void test_large(void)
{
	static u64 kept[512];
	u64 *table = &pt[0][512], upper = pd[0][1];

	registers[0][0] = covering_large(0);
	registers[0][1] = covering(0, 0, AREAS, 0);
	load(0, 2);
	shows("registers of both sizes", 0);
	for (unsigned i = 0; i < 512; i++)
		((volatile u64 *)(uintptr_t)(big + i * PAGE))[0] = value(9);
	memcpy(kept, table, sizeof(kept));
	memset(table, 0, sizeof(kept));
	pd[0][1] = big | PTE_P | PTE_W | PTE_U | PTE_A | PTE_D | PTE_PS;
	write_cr3(address(root[0]));
	for (unsigned i = 0; i < 16; i++)
		check(seen(512 + pick(512)) == 9, "the large page");
	memcpy(table, kept, sizeof(kept));
	pd[0][1] = upper;
	write_cr3(address(root[0]));
	shows("small pages again", 0);
}

/*
 * Identifiers: one's own, such as there are not, one's own for what it does not hold. And registers that say
 * nothing.
 */
static void test_identifiers(void)
{
	static const u64 ids[] = {1, 0, 2, 3, 0xffff};

	answers("the tables", DONE, ask(PV_TEA_ALLOC, address(pt[0]), AREAS, 0), 1);
	for (unsigned i = 0; i < ARRAY_SIZE(ids); i++) {
		registers[0][0] = covering(0, 0, AREAS, ids[i]);
		load(0, 1);
		write_cr3(address(root[0]));
		shows("an identifier", 0);
	}
	registers[0][0] = covering(0, 0, AREAS, 1);
	registers[0][0].end += 512 * PAGE; /* beyond the gTEA */
	for (unsigned i = 1; i < REGISTERS; i++) {
		registers[0][i] = covering(0, i % AREAS, 1, 0);
		if (i % 3 == 0)
			registers[0][i].info |= 1ull << 20;
		else if (i % 3 == 1)
			registers[0][i].tea = 1ull << 35;
		else
			registers[0][i].end = registers[0][i].start;
	}
	load(0, REGISTERS);
	write_cr3(address(root[0]));
	shows("registers of no use", 0);
	registers[0][0] = covering(0, 0, AREAS, 1);
	load(0, 1);
	answers("the tables are no gTEA any more", DONE, ask(PV_TEA_FREE, 0, 0, 1), 0);
	write_cr3(address(root[0]));
	shows("its identifier is stale", 0);
}

/*
 * What is in force where the console says so: a gTEA with a free identifier below it, and registers that memory does not
 * say any more. For those who count, or record, from there on.
 */
static void test_middle(void)
{
	answers("a page", DONE, ask(PV_TEA_ALLOC, big + 8 * MIB2, 1, 0), 1);
	answers("the tables", DONE, ask(PV_TEA_ALLOC, address(pt[0]), AREAS, 0), 2);
	answers("the page is given back", DONE, ask(PV_TEA_FREE, 0, 0, 1), 0);
	registers[0][0] = covering(0, 0, AREAS, 2);
	load(0, 1);
	registers[0][0] = covering(0, 0, AREAS, 1);
	write_cr3(address(root[0]));
	print("dmt: in the middle\n");
	shows("in the middle", 0);
	answers("another page has the free identifier", DONE, ask(PV_TEA_ALLOC, big + 8 * MIB2, 1, 0), 1);
	answers("the next one", DONE, ask(PV_TEA_ALLOC, big + 9 * MIB2, 1, 0), 3);
	write_cr3(address(root[0]));
	shows("after requests", 0);
	load(0, 1); /* the identifier of that page: of no use */
	write_cr3(address(root[0]));
	shows("registers that say something else", 0);
	for (unsigned id = 1; id <= 3; id++)
		answers("given back", DONE, ask(PV_TEA_FREE, 0, 0, id), 0);
}

/* Entries change under registers that stay: unmapped and mapped again, at random. */
static void test_changes(void)
{
	registers[0][0] = covering(0, 0, AREAS, 0);
	load(0, 1);
	for (unsigned i = 0; i < 400; i++) {
		unsigned n = pick(PAGES), f = pick(FRAMES);
		u64 e = address(frame[f]) | PTE_P | PTE_W | PTE_U | (pick(2) ? PTE_A : 0);

		pt[0][n] = pick(4) ? e : 0;
		invlpg(page(n));
		check(seen(n) == (pt[0][n] ? f : 0x1000), "page %u after a change", n);
	}
}

int main(void)
{
	big = (address(boot_pml4) + 8 * MIB2) & ~(MIB2 - 1);
	if (option("absent")) {
		test_absent();
		finish("dmt");
	}
	test_msrs();
	test_requests();
	test_full();
	build();
	test_translation();
	test_rights_and_flags();
	test_large();
	test_identifiers();
	test_middle();
	test_changes();
	finish("dmt");
}
