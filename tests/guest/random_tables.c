/*
 * Page tables of chance: entries of all levels in a small pool of frames are
 * changed at random, so that tables are shared, loop, serve at several levels and
 * are data at the same time. After every flush a few accesses are made, and each
 * must do what a walker of our own, which reads the tables through the identity
 * map, says: fault with which error code, or reach which frame, and set which
 * accessed and dirty flags. This is where backends lose track.
 */
#include "lib/guest.h"

enum { FRAMES = 32, FIRST_TABLES = 8, ROUNDS = 6000, LEVELS = 4, SLOT = 0x84, SLOTS = 2 };

static u64 pool[FRAMES][512] __attribute__((aligned(4096)));
static u64 state = 0x2545f4914f6cdd1d;

PIECE(piece_read, "mov (%rdi), %rax");
PIECE(piece_write, "mov %rsi, (%rdi)");

static u64 address(const volatile void *p) { return (u64)(uintptr_t)p; }
static volatile u64 *at(u64 physical) { return (volatile u64 *)(uintptr_t)physical; }

static u64 random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static bool one_in(unsigned n) { return random() % n == 0; }
static bool in_pool(u64 a) { return a >= address(pool) && a < address(pool) + sizeof(pool); }

/* An entry that mostly leads somewhere: a frame of the pool, at times a large page around it. */
static u64 random_entry(void)
{
	u64 frame = address(pool[random() % FRAMES]), e;

	if (one_in(8))
		return 0;
	e = frame | PTE_P | (random() & (PTE_W | PTE_U | PTE_A | PTE_D));
	if (!one_in(3))
		e |= PTE_W | PTE_U;
	if (one_in(12)) /* mostly reserved bits set: the frame is not aligned for a large page */
		e = (one_in(2) ? e & ~(MIB2 - 1) : e) | PTE_PS | (e & 0x67);
	if (one_in(20))
		e |= PTE_NX;
	return e;
}

/* Few slots of each table are in use, so that addresses and changes meet. */
static unsigned random_index(void) { return (unsigned)(random() % 4) * 129; }

static u64 random_address(void)
{
	u64 va = (u64)(SLOT + random() % SLOTS);

	for (unsigned i = 0; i < 3; i++)
		va = va << 9 | random_index();
	return va << 12 | (random() & 0xff8);
}

struct walk {
	bool fault;
	u64 error, physical;
	u64 entry[LEVELS]; /* physical addresses of the entries followed */
	unsigned entries;
	bool large;
};

static u64 reserved_bits(unsigned level, u64 e)
{
	u64 reserved = 0x000ffffffffff000ull & ~((1ull << (cpuid(0x80000008, 0).a & 0xff)) - 1);

	if (level == 4)
		reserved |= PTE_PS;
	if (level == 3 && e & PTE_PS)
		reserved |= cpuid(0x80000001, 0).d >> 26 & 1 ? 0x3fffe000 : PTE_PS;
	if (level == 2 && e & PTE_PS)
		reserved |= 0x1fe000;
	return reserved;
}

/* The walker: @write by the kernel (WP = 1) or by user mode. */
static struct walk walk(u64 va, bool write, bool user)
{
	struct walk w = { .error = (write ? 2u : 0u) | (user ? 4u : 0u) };
	u64 table = address(boot_pml4), rights = PTE_W | PTE_U;

	for (unsigned level = LEVELS; level; level--) {
		unsigned shift = 12 + 9 * (level - 1);
		u64 where = table + (va >> shift & 511) * 8, e = *at(where);
		bool leaf = level == 1 || (level < 4 && e & PTE_PS);

		w.fault = !(e & PTE_P);
		if (w.fault)
			return w;
		w.fault = e & reserved_bits(level, e);
		w.error |= w.fault ? 9 : 0;
		if (w.fault)
			return w;
		w.entry[w.entries++] = where;
		rights &= e;
		if (leaf) {
			w.large = level > 1;
			w.physical = (e & 0x000ffffffffff000ull & ~((1ull << shift) - 1)) | (va & ((1ull << shift) - 1));
			break;
		}
		table = e & 0x000ffffffffff000ull;
	}
	w.fault = (write && !(rights & PTE_W)) || (user && !(rights & PTE_U));
	w.error |= 1;
	return w;
}

/* Whether the flags in the entries followed are set; @dirty: the leaf's D as well. */
static bool flags_set(const struct walk *w, bool dirty)
{
	for (unsigned i = 0; i < w->entries; i++)
		if (!(*at(w->entry[i]) & PTE_A))
			return false;
	return !dirty || *at(w->entry[w->entries - 1]) & PTE_D;
}

static bool overwrites_walk(const struct walk *w)
{
	for (unsigned i = 0; i < w->entries; i++)
		if ((w->physical & ~7ull) == w->entry[i])
			return true;
	return false;
}

static void access(void)
{
	const struct trap *t = &last_trap;
	u64 va = random_address(), value = random();
	bool user = one_in(2), write = one_in(2);
	struct walk w = walk(va, write, user);

	/* Writes go only where they do no harm, and not into the very walk that is checked. */
	if (write && !w.fault && (!in_pool(w.physical) || overwrites_walk(&w))) {
		write = false;
		w = walk(va, write, user);
	}
	if (write && in_pool(w.physical) && !w.fault)
		value = random_entry();
	run_code(write ? piece_write : piece_read, user ? USER : KERNEL, va, value);
	if (w.fault) {
		check_unless(w.error & 8 ? "qemu" : "", t->vector == V_PF && t->error == w.error && t->cr2 == va,
			     "va 0x%lx write %d user %d: vector %ld error 0x%lx cr2 0x%lx, expected error 0x%lx", va, write,
			     user, t->vector, t->error, t->cr2, w.error);
		return;
	}
	if (!check(t->vector == V_DONE, "va 0x%lx write %d user %d: vector %ld error 0x%lx, expected success", va, write, user,
		   t->vector, t->error))
		return;
	check(flags_set(&w, write), "va 0x%lx write %d: accessed and dirty flags", va, write);
	if (in_pool(w.physical))
		check(*at(w.physical) == (write ? value : t->rax), "va 0x%lx write %d: memory has 0x%lx, not 0x%lx", va, write,
		      *at(w.physical), write ? value : t->rax);
}

static void fill(void)
{
	for (unsigned i = 0; i < FRAMES; i++)
		for (unsigned j = 0; j < 4; j++)
			((volatile u64 *)pool[i])[j * 129] = random_entry();
	for (unsigned i = 0; i < SLOTS; i++)
		((volatile u64 *)boot_pml4)[SLOT + i] = address(pool[i]) | 7;
}

static void change_some(void)
{
	for (unsigned n = 1 + random() % 4; n; n--)
		((volatile u64 *)pool[random() % FRAMES])[random_index()] = random_entry();
	if (one_in(50))
		((volatile u64 *)boot_pml4)[SLOT + random() % SLOTS] = address(pool[random() % FIRST_TABLES]) | 7;
	if (one_in(100))
		fill();
}

int main(void)
{
	fill();
	for (unsigned round = 0; round < ROUNDS; round++) {
		change_some();
		write_cr3(read_cr3());
		/* A write may change tables again, which asks for another flush. */
		for (unsigned i = 0; i < 6; i++) {
			access();
			write_cr3(read_cr3());
		}
	}
	finish("random_tables");
}
