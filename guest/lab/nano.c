/*
 * The nanobenchmarks of Adams and Agesen (ASPLOS 2006) as a bare-metal guest of
 * 'gnomon lab adams-agesen' and 'translation': one operation, over and over, in a loop of two
 * instructions besides. Words: "op=NAME n=COUNT".
 *
 * The loop runs COUNT times to warm up, then COUNT times and 2 * COUNT times; around
 * these two the console says LAB-0, LAB-1, LAB-2. What the second part has more than
 * the first is COUNT turns and nothing else. "marked" puts a letter out between any
 * two steps instead, and the host counts from letter to letter.
 */
#include "measure.h"

enum { SLOT = 0x50, PRESENT = 5, ABSENT = 7, SERIAL = 0x3f8 };

static u64 pdpt[512] __attribute__((aligned(4096))), pd[512] __attribute__((aligned(4096))),
	pt[512] __attribute__((aligned(4096))), frame[512] __attribute__((aligned(4096)));

static const u64 base = (u64)SLOT << 39;

static void map(void)
{
	pt[PRESENT] = (u64)(uintptr_t)frame | PTE_P | PTE_W | PTE_A | PTE_D;
	pd[0] = (u64)(uintptr_t)pt | PTE_P | PTE_W | PTE_A;
	pdpt[0] = (u64)(uintptr_t)pd | PTE_P | PTE_W | PTE_A;
	boot_pml4[SLOT] = (u64)(uintptr_t)pdpt | PTE_P | PTE_W | PTE_A;
}

static void touch(void)
{
	*(volatile u64 *)(uintptr_t)(base + PRESENT * PAGE);
}

/* Handlers of faults that skip the two bytes of the instruction and go on. */
__asm__(".text\n"
	"skip_fault:\n\tadd $8, %rsp\n\taddq $2, (%rsp)\n\tiretq\n"
	"skip_divide:\n\taddq $2, (%rsp)\n\tiretq\n"
	"enter_system:\n\tsysretq\n");
extern const char skip_fault[], skip_divide[], enter_system[];

PIECE(user_loop, "1: syscall\n\tdec %rdi\n\tjnz 1b");

/* ---- the operations: each runs @n times ---- */

#define LOOP(text, ...)                                                                                  \
	__asm__ volatile("1:\n\t" text "\n\tdec %[n]\n\tjnz 1b" : [n] "+r"(n) : __VA_ARGS__ : "rax", "memory", "cc")

static void op_none(u64 n) { LOOP("", ); }
static void op_in(u64 n) { LOOP("in $0x80, %%al", ); }
static void op_cr8wr(u64 n) { LOOP("mov %[zero], %%cr8", [zero] "r"(0ull)); }
static void op_pgfault(u64 n) { LOOP("movb (%[at]), %%al", [at] "D"(base + ABSENT * PAGE)); }
static void op_divzero(u64 n) { LOOP("divb %b[zero]", [zero] "c"(0)); }
static void op_syscall(u64 n) { run_code(user_loop, USER, n, 0); }

static void op_callret(u64 n)
{
	__asm__ volatile("1: call 2f\n\tdec %[n]\n\tjnz 1b\n\tjmp 3f\n2: ret\n3:" : [n] "+r"(n) : : "memory", "cc");
}

static void op_clisti(u64 n) { LOOP("cli\n\tsti", ); }
static void op_popf(u64 n) { LOOP("pushfq\n\tpopfq", ); }
static void op_rdtsc(u64 n) { __asm__ volatile("1: rdtsc\n\tdec %0\n\tjnz 1b" : "+r"(n) : : "rax", "rdx", "cc"); }

static void op_cpuid(u64 n)
{
	__asm__ volatile("1: xor %%eax, %%eax\n\tcpuid\n\tdec %0\n\tjnz 1b" : "+r"(n) : : "rax", "rbx", "rcx", "rdx", "cc");
}

/* The present entry is written with the value it has. */
static void op_pteunchanged(u64 n)
{
	LOOP("mov %[e], (%[at])", [e] "r"(pt[PRESENT]), [at] "r"(&pt[PRESENT]));
}

/* Taken away, given back, used; then the address space is loaded, which is the flush that is owed. */
static void op_pteflush(u64 n)
{
	LOOP("movq $0, (%[at])\n\tmov %[e], (%[at])\n\tmov (%[page]), %%rax\n\tmov %[cr3], %%cr3",
	     [e] "r"(pt[PRESENT]), [at] "r"(&pt[PRESENT]), [page] "r"(base + PRESENT * PAGE), [cr3] "r"(read_cr3()));
}

/* The same without the writes. */
static void op_cr3load(u64 n)
{
	LOOP("mov (%[page]), %%rax\n\tmov %[cr3], %%cr3", [page] "r"(base + PRESENT * PAGE), [cr3] "r"(read_cr3()));
}

static void mark(char letter)
{
	outb(SERIAL, (u8)letter);
}

/* From a to b: nothing; to c: P to NP; to d: NP to P; to e: a read of the page; to f: written unchanged. */
static void op_marked(u64 n)
{
	volatile u64 *pte = &pt[PRESENT];
	u64 value = *pte;

	while (n--) {
		mark('a');
		mark('b');
		*pte = 0;
		mark('c');
		*pte = value;
		mark('d');
		touch();
		mark('e');
		*pte = value;
		mark('f');
	}
}

static const struct { const char *name; void (*run)(u64 n); } ops[] = {
	{ "op=none", op_none }, { "op=syscall", op_syscall }, { "op=in", op_in }, { "op=cr8wr", op_cr8wr },
	{ "op=callret", op_callret }, { "op=pgfault", op_pgfault }, { "op=divzero", op_divzero },
	{ "op=clisti", op_clisti }, { "op=popf", op_popf }, { "op=rdtsc", op_rdtsc }, { "op=cpuid", op_cpuid },
	{ "op=pteunchanged", op_pteunchanged }, { "op=pteflush", op_pteflush },
	{ "op=cr3load", op_cr3load }, { "op=marked", op_marked },
};

int main(void)
{
	map();
	touch();
	gate_set(V_PF, skip_fault, 0, 0, true);
	gate_set(V_DE, skip_divide, 0, 0, true);
	wrmsr(MSR_STAR, (u64)0x1b << 48 | (u64)SEL_CODE << 32);
	wrmsr(MSR_LSTAR, (u64)(uintptr_t)enter_system);
	wrmsr(MSR_FMASK, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
		if (option(ops[i].name))
			measure(ops[i].run, option_number("n", 100));
	print("LAB-FAIL: no such operation\n");
	exit_machine(1);
}
