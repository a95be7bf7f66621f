/*
 * Two VMs on one machine. One ("neighbour" on its command line) fills its memory with
 * words that nobody else has and looks, time and again, whether they are still there. The
 * other ("hostile") reaches for them: its page tables name every frame number the machine
 * may have, as pages of each size and as tables, and it reads and writes through them. On a processor with direct
 * translation its registers do, too, and claim gTEAs that it has, had, or never had; and it asks its host for everything.
 *
 *	ram=MIB: of the VM itself; machine=MIB: how far frame numbers are tried one by one
 *
 * Left out: what lies in the timing of shared caches.
 */
#include "lib/guest.h"

enum { SLOT = 0x90, FIRST = 8 /* MiB: the program lies below */, ROUNDS = 8 };
enum { RW = PTE_P | PTE_W };

static u64 pdpt[512] __attribute__((aligned(4096))), pd[512] __attribute__((aligned(4096)));
static u64 pt[512] __attribute__((aligned(4096)));

static const u64 window = (u64)SLOT << 39;
static u64 ram, machine;

PIECE(piece_read, "mov (%rdi), %rax");
PIECE(piece_write, "mov %rsi, (%rdi)");

static u64 to(const volatile void *p, u64 flags) { return (u64)(uintptr_t)p | flags; }
static void put(u64 *table, unsigned i, u64 v) { ((volatile u64 *)table)[i] = v; }
static volatile u64 *at(u64 a) { return (volatile u64 *)(uintptr_t)a; }

/* The tag is computed, so that no copy of it lies in the program. */
static u64 tag(void)
{
	volatile u64 v = 0xa13d18a1;

	return ~v << 32;
}

static bool is_secret(u64 v) { return (v ^ tag()) >> 32 == 0; }

/* ---- the neighbour ---- */

static void neighbour(void)
{
	u64 wrong = 0;

	for (u64 a = FIRST << 20; a < ram; a += 8)
		*at(a) = tag() | (u32)(a * 0x9e3779b1u);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (u64 a = FIRST << 20; a < ram; a += 8)
			wrong += *at(a) != (tag() | (u32)(a * 0x9e3779b1u));
		check(!wrong, "round %u: %lu words of the secret were changed", round, wrong);
	}
}

/* ---- the hostile one ---- */

/* Not of devices that would take it amiss: IOAPIC and local APIC. */
static bool leave_alone(u64 a) { return a >= 0xfec00000 && a < 0xff000000; }

static bool is_own(u64 a) { return a < ram; }
static bool is_program(u64 a) { return a < (u64)FIRST << 20; }

/* The words at @lin, which the tables say is at guest-physical @a. */
static void reach(u64 lin, u64 a)
{
	u64 v;

	if (leave_alone(a))
		return;
	for (unsigned i = 0; i < (is_own(a) ? 512 : 1); i += 8) {
		v = at(lin)[i];
		check(!is_secret(v), "read %lx at %lx", v, a + 8 * i);
	}
	if (is_program(a))
		return;
	*at(lin) = 0x4057113 ^ a;
	v = *at(lin);
	check(!is_secret(v), "read %lx at %lx after writing", v, a);
	if (is_own(a))
		check(v == (0x4057113 ^ a), "own memory at %lx holds %lx", a, v);
}

static void flush(void) { write_cr3(read_cr3()); }

/* Every frame number of the machine, 4 KiB pages, 512 at a time. */
static void every_frame(void)
{
	put(pd, 0, to(pt, RW));
	for (u64 first = 0; first < machine; first += 512 * PAGE) {
		for (unsigned i = 0; i < 512; i++)
			put(pt, i, (first + i * PAGE) | RW);
		flush();
		for (unsigned i = 0; i < 512; i++)
			reach(window + i * PAGE, first + i * PAGE);
	}
}

/* Far frames: one above every power of two and then some, up to what the processor has. */
static void far_frames(unsigned width)
{
	for (unsigned bit = 20; bit < width; bit++)
		for (u64 more = 0; more < 64; more++) {
			u64 a = (1ull << bit) + more * (((1ull << bit) / 64) & ~(PAGE - 1));

			put(pt, 0, a | RW);
			invlpg(window);
			reach(window, a);
		}
}

/* Large pages over everything, looked into at many places. */
static void large_pages(void)
{
	for (u64 a = 0; a < machine + GIB; a += MIB2) {
		put(pd, 1, a | RW | PTE_PS);
		invlpg(window + MIB2);
		for (u64 o = 0; o < MIB2; o += 37 * PAGE)
			reach(window + MIB2 + o, a + o);
	}
	if (!(cpuid(0x80000001, 0).d >> 26 & 1))
		return;
	for (u64 a = 0; a < 64 * GIB; a += GIB) {
		put(pdpt, 1, a | RW | PTE_PS);
		invlpg(window + GIB);
		for (u64 o = 0; o < GIB; o += 1031 * PAGE)
			reach(window + GIB + o, a + o);
	}
}

/* Somebody else's frames as tables: what would translate must not lead to the secret. */
static void tables_elsewhere(void)
{
	for (u64 a = ram; a < machine; a += 61 * PAGE) {
		put(pd, 2, a | RW);
		put(pdpt, 2, a | RW);
		flush();
		for (unsigned i = 0; i < 2; i++) {
			u64 lin = window + (i ? 2 * GIB : 2 * MIB2);

			if (run_code(piece_read, KERNEL, lin, 0)->vector == V_DONE)
				check(!is_secret(last_trap.rax), "a table at %lx leads to %lx", a, last_trap.rax);
			run_code(piece_write, KERNEL, lin, 0x4057113);
		}
	}
	put(pd, 2, 0);
	put(pdpt, 2, 0);
	flush();
}

/* ---- direct translation (arch/dmt.h) ---- */

enum { MSR_DMT_LOAD = 0xc0000d10, MSR_PV_REQUEST = 0xc0000d11, PV_HUGE = 1, PV_TEA_ALLOC, PV_TEA_FREE };
enum { REGISTERS = 16, TEAS_MAX = 1024 };
struct entry { u64 start, end, tea, info; };
struct request { u32 op, status; u64 gpa, pages, id, pad[4]; };

static struct entry registers[REGISTERS] __attribute__((aligned(64)));
static struct request request __attribute__((aligned(64)));

static u64 state = 0x9e3779b97f4a7c15ull;
static u64 next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	return state ^= state << 17;
}

static void ask(u32 op, u64 gpa, u64 pages, u64 id)
{
	request = (struct request){.op = op, .gpa = gpa, .pages = pages, .id = id};
	wrmsr(MSR_PV_REQUEST, to(&request, 0));
	check(request.status <= 5, "request %u: answer %u", op, request.status);
}

/* Whatever the window's first GiB leads to by registers, with @tea for its entries. */
static void claim(u64 tea, u64 id)
{
	for (unsigned i = 0; i < REGISTERS; i++)
		registers[i] = (struct entry){window + i * 16 * PAGE, window + (i + 1) * 16 * PAGE, tea + i * PAGE,
					      id << 32 | (i == 15 ? 3 : 1)};
	wrmsr(MSR_DMT_LOAD, to(registers, REGISTERS));
	flush();
	for (unsigned i = 0; i < REGISTERS * 16; i += 5) {
		u64 lin = window + i * PAGE;

		if (run_code(piece_read, KERNEL, lin, 0)->vector == V_DONE)
			check(!is_secret(last_trap.rax), "entries at %lx, gTEA %lu, lead to %lx", tea, id, last_trap.rax);
	}
}

/* Own memory in gTEAs, entries in there that name every frame of the machine; then identifiers of others, and none. */
static void forged(void)
{
	static const u64 ids[] = {0, 1, 2, 3, 7, 100, TEAS_MAX - 1, TEAS_MAX, TEAS_MAX + 1, 0xffff};
	u64 tea = (FIRST + 2) << 20;

	ask(PV_TEA_ALLOC, tea, 16, 0);
	for (u64 a = 0; a < machine; a += 16 * 512 * PAGE) {
		for (u64 i = 0; i < 16 * 512; i++)
			at(tea)[i] = (a + i * PAGE) | RW;
		claim(tea, 1);
	}
	for (unsigned i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		claim(tea, ids[i]);
		claim(tea + 8 * PAGE, ids[i]);
		claim(ram + next_random() % (machine - ram) / 8 * 8, ids[i]);
		claim(next_random() & 0xffffffffffff8, ids[i]);
	}
	ask(PV_TEA_FREE, 0, 0, 1);
	claim(tea, 1);
}

/* Everything there is to ask for, and what there is not: no answer is an end of anybody. */
static void wild_requests(void)
{
	for (unsigned i = 0; i < 300; i++) {
		u64 r = next_random(), page = next_random() % (ram / PAGE - FIRST * 256) + FIRST * 256;

		switch (r % 6) {
		case 0: ask(PV_TEA_ALLOC, page * PAGE, next_random() % 600, 0); break;
		case 1: ask(PV_TEA_FREE, r, r, next_random() % 12); break;
		case 2: ask(PV_HUGE, page * PAGE & ~(MIB2 - 1), 512, 0); break;
		case 3: ask((u32)next_random(), next_random(), next_random(), next_random()); break;
		case 4: ask(PV_TEA_ALLOC, next_random(), next_random(), 0); break;
		default: at((FIRST << 20) + next_random() % (ram - (FIRST << 20)) / 8 * 8)[0] = r & 0xffffffff; break;
		}
	}
	for (unsigned id = 1; id <= TEAS_MAX; id++)
		ask(PV_TEA_FREE, 0, 0, id);
	ask(PV_TEA_ALLOC, 0, ram / PAGE, 0); /* all of it, the program that asks included */
	ask(PV_HUGE, 0, ram / PAGE, 0);
	ask(PV_TEA_FREE, 0, 0, 1);
	wrmsr(MSR_DMT_LOAD, 0);
	flush();
}

static void hostile(void)
{
	for (volatile u64 i = 0; i < 8000000; i++) /* until the neighbour has something to lose */
		;
	put(boot_pml4, SLOT, to(pdpt, RW));
	put(pdpt, 0, to(pd, RW));
	every_frame();
	far_frames(cpuid(0x80000008, 0).a & 0xff);
	large_pages();
	tables_elsewhere();
	every_frame();
	if (!(cpuid(0x80000001, 0).c >> 31))
		return;
	put(pd, 0, 0); /* no page of the first GiB by the tables */
	put(pd, 1, 0);
	flush();
	forged();
	wild_requests();
	every_frame();
}

int main(void)
{
	ram = option_number("ram", 32) << 20;
	machine = option_number("machine", 512) << 20;
	if (option("neighbour"))
		neighbour();
	else
		hostile();
	finish(option("neighbour") ? "neighbour" : "hostile");
}
