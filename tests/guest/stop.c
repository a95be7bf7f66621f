/*
 * Guests that come to a bad end, chosen on the command line; the VMM has to end
 * the run with a clear message and survive:
 *   triple    a triple fault          halt     HLT with interrupts off
 *   garbage   its page tables filled with garbage while they are in use
 *   mmio      a stack and tables where there is no memory
 * Without a word it ends well.
 */
#include "lib/guest.h"

struct __attribute__((packed)) table_pointer { u16 limit; u64 base; };

static void triple_fault(void)
{
	struct table_pointer none = { 0, 0 };

	__asm__ volatile("lidt %0; ud2" : : "m"(none));
}

/* The tables lie in low memory, mapped one to one: overwritten in place, from the top down. */
static void fill_tables(void)
{
	u64 state = 88172645463325252, root = read_cr3() & ~0xfffull;

	for (u64 i = 512; i-- > 0;) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		((volatile u64 *)(uintptr_t)root)[i] = state;
		invlpg(i << 39);
	}
	write_cr3(root);
	__asm__ volatile("mov (%0), %%rax" : : "r"(1ull << 40) : "rax", "memory");
}

static void leave_memory(void)
{
	((volatile u64 *)boot_pml4)[0x80] = 0xfd000003; /* a table in the device hole */
	write_cr3(read_cr3());
	__asm__ volatile("mov %0, %%rsp; push %%rax" : : "r"(0x80ull << 39 | 8) : "memory");
}

int main(void)
{
	print("stop: about to end\n");
	if (option("triple"))
		triple_fault();
	if (option("halt"))
		__asm__ volatile("cli; hlt");
	if (option("garbage"))
		fill_tables();
	if (option("mmio"))
		leave_memory();
	check(!option("triple") && !option("halt") && !option("garbage") && !option("mmio"), "still running");
	finish("stop");
}
