/*
 * A guest that misses the TLB to order, for the labs: it maps a region of memory
 * with pages of one size and reads it in some pattern. Words, all of them numbers:
 *
 *   kib=N      size of the region (default 1024)
 *   page=12|21|30   log2 of the page size of the guest's tables (12)
 *   n=N        reads of one part (1000); see below
 *   seq=1      units of 4 KiB in order, round and round; otherwise at random:
 *   skew=N     an address is the product of N random numbers (1: uniform, more: the low end is hot)
 *   work=N     turns of a two-instruction loop after each read (0)
 *   flush=1    INVLPG before each read
 *   switch=N   load another CR3 every N reads; two address spaces with the same pages (0: never)
 *   pcid=1     ... with process-context identifiers, without a flush
 *   la57       five levels (a word, not a number)
 *
 * First each unit is read once, then come n reads, which warm up, then n and 2 * n;
 * around the last two the console says LAB-0, LAB-1, LAB-2. What the second part has
 * more than the first is n reads and nothing else. With n=0 the reads never end: LAB-0
 * is said when the region has been read once.
 */
#include "guest.h"

enum { SLOT = 0x50, UNIT_SHIFT = 12 };

/* Guest-physical: the region is at 1 GiB, where pages of all sizes are aligned; its tables are at 16 MiB. */
#define REGION GIB
#define TABLES (16 * 1024 * 1024ull)
#define RW (PTE_P | PTE_W | PTE_A | PTE_D)

static u64 second_root[512] __attribute__((aligned(4096)));
static u64 next_table = TABLES;
static const u64 base = (u64)SLOT << 39;

struct pattern {
	u64 units, skew, work, seq, flush, switch_every;
	u64 cr3[2];
	/* where it has come to */
	u64 random, at, reads, space;
};

static u64 *new_table(void)
{
	u64 *t = (u64 *)(uintptr_t)next_table;

	next_table += PAGE;
	return memset(t, 0, PAGE);
}

/* The table below entry @e, made if need be. */
static u64 *below(u64 *e)
{
	if (!(*e & PTE_P))
		*e = (u64)(uintptr_t)new_table() | RW;
	return (u64 *)(uintptr_t)(*e & ~0xfffull);
}

static void map_region(u64 bytes, unsigned shift)
{
	for (u64 at = 0; at < bytes; at += 1ull << shift) {
		u64 a = base + at, *e = &boot_pml4[a >> 39 & 511];

		for (unsigned s = 30; s >= shift; s -= 9)
			e = &below(e)[a >> s & 511];
		*e = (REGION + at) | RW | (shift > 12 ? PTE_PS : 0);
	}
}

static u64 next_random(u64 *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static inline u64 high(u64 a, u64 b)
{
	return (u64)((unsigned __int128)a * b >> 64);
}

/* Address of the next read: a unit, and in it a line that depends on the unit. */
static inline u64 next_address(struct pattern *p)
{
	u64 unit;

	if (p->seq) {
		unit = p->at;
		p->at = p->at + 1 == p->units ? 0 : p->at + 1;
	} else {
		u64 r = next_random(&p->random);

		for (u64 i = 1; i < p->skew; i++)
			r = high(r, next_random(&p->random));
		unit = high(r, p->units);
	}
	return base + (unit << UNIT_SHIFT) + (unit * 0x9e3779b97f4a7c15ull >> 58) * 64;
}

static void switch_space(struct pattern *p)
{
	if (++p->reads != p->switch_every)
		return;
	p->reads = 0;
	p->space ^= 1;
	write_cr3(p->cr3[p->space]);
}

static void idle_work(u64 turns)
{
	if (turns)
		__asm__ volatile("1: dec %0\n\tjnz 1b" : "+r"(turns) : : "cc");
}

static __attribute__((noinline)) void read_region(const struct pattern *from, struct pattern *to, u64 n)
{
	struct pattern p = *from;

	while (n--) {
		u64 a = next_address(&p);

		if (p.flush)
			invlpg(a);
		*(volatile u64 *)(uintptr_t)a;
		idle_work(p.work);
		if (p.switch_every)
			switch_space(&p);
	}
	*to = p;
}

static void set_up_spaces(struct pattern *p)
{
	u64 pcid = option_number("pcid", 0), root = read_cr3();

	memcpy(second_root, (void *)(uintptr_t)(root & ~0xfffull), PAGE);
	if (pcid)
		write_cr4(read_cr4() | CR4_PCIDE);
	p->cr3[0] = root | (pcid ? 1 | 1ull << 63 : 0);
	p->cr3[1] = (u64)(uintptr_t)second_root | (pcid ? 2 | 1ull << 63 : 0);
}

int main(void)
{
	u64 n = option_number("n", 1000), bytes = option_number("kib", 1024) << 10;
	struct pattern p = { .units = bytes >> UNIT_SHIFT, .skew = option_number("skew", 1),
			     .work = option_number("work", 0), .seq = option_number("seq", 0),
			     .flush = option_number("flush", 0), .switch_every = option_number("switch", 0),
			     .random = 88172645463325252ull };
	struct pattern once = { .units = p.units, .seq = 1 };

	map_region(bytes, (unsigned)option_number("page", 12));
	if (p.switch_every)
		set_up_spaces(&p);
	read_region(&once, &once, p.units);
	if (!n) {
		print("LAB-0\n");
		for (;;)
			read_region(&p, &p, 1 << 20);
	}
	read_region(&p, &p, n);
	print("LAB-0\n");
	read_region(&p, &p, n);
	print("LAB-1\n");
	read_region(&p, &p, 2 * n);
	print("LAB-2\n");
	exit_machine(0);
}
