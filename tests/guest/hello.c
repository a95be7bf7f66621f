/*
 * The smallest kernel worth the name: says hello, takes ticks of the local APIC's
 * timer while halted, and runs on paging of its own making. Any scheme that cannot
 * run this need not try Debian.
 */
#include "lib/guest.h"

enum { TICKS = 5, APIC_SVR = 0xf0, APIC_LVT_TIMER = 0x320, APIC_INITIAL = 0x380, APIC_DIVIDE = 0x3e0, APIC_EOI = 0xb0,
       PERIODIC = 1 << 17 };

static volatile unsigned ticks;
static u64 tables[3][512] __attribute__((aligned(4096)));
static u64 pages[2][512] __attribute__((aligned(4096)));

static volatile u32 *apic(unsigned reg)
{
	return (volatile u32 *)(uintptr_t)((rdmsr(MSR_APIC_BASE) & ~0xfffull) + reg);
}

static void tick(u64 vector)
{
	ticks += vector == V_TIMER;
	*apic(APIC_EOI) = 0;
}

static void take_ticks(void)
{
	trap_hook = tick;
	*apic(APIC_SVR) = 0x1ff;
	*apic(APIC_DIVIDE) = 0xb;
	*apic(APIC_LVT_TIMER) = PERIODIC | V_TIMER;
	*apic(APIC_INITIAL) = 100000;
	while (ticks < TICKS)
		__asm__ volatile("sti; hlt; cli");
	*apic(APIC_INITIAL) = 0;
	*apic(APIC_LVT_TIMER) = 1 << 16;
	check(ticks == TICKS, "%d ticks", ticks);
}

static u64 address_of(const void *p) { return (u64)(uintptr_t)p; }

/* Maps one virtual page to two frames in turn: the same address, two contents. */
static void change_paging(void)
{
	u64 va = 0x123456789000;
	volatile u64 *word = (volatile u64 *)va, *pml4 = boot_pml4;

	pml4[va >> 39 & 511] = address_of(tables[0]) | 3;
	tables[0][va >> 30 & 511] = address_of(tables[1]) | 3;
	tables[1][va >> 21 & 511] = address_of(tables[2]) | 3;
	for (unsigned i = 0; i < 2; i++) {
		((volatile u64 *)tables[2])[va >> 12 & 511] = address_of(pages[i]) | 3;
		invlpg(va);
		*word = 0x1111 * (i + 1);
	}
	check(pages[0][0] == 0x1111 && pages[1][0] == 0x2222, "frames hold 0x%lx and 0x%lx", pages[0][0], pages[1][0]);
}

int main(void)
{
	print("Hello from a kernel of %s levels of paging\n", read_cr4() & CR4_LA57 ? "five" : "four");
	change_paging();
	take_ticks();
	finish("hello");
}
