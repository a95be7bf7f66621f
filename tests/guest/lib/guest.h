/*
 * What every bare-metal test has: a console on the serial port, checks that are
 * counted, descriptor tables, and a way to run a piece of code at either privilege
 * level and learn how it ended. The tests run on Gnomon under each scheme and on
 * any other PC with a multiboot loader, isa-debug-exit at 0xf4 and a serial port.
 */
#ifndef GUEST_GUEST_H
#define GUEST_GUEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

#define USER_BASE ((u64)USER_SLOT << 39)
#define PAGE 4096ull
#define MIB2 (1ull << 21)
#define GIB (1ull << 30)
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

enum { /* selectors; 64-bit SYSRET wants user data right before user code */
	SEL_CODE = 0x08, SEL_DATA = 0x10, SEL_UCODE32 = 0x1b, SEL_UDATA = 0x23, SEL_UCODE = 0x2b,
	SEL_TSS = 0x30, SEL_LDT = 0x40, SEL_CODE32 = 0x50, SEL_FREE = 0x58, /* for tests, to the table's end */
	GDT_ENTRIES = 32,
};

enum { /* vectors */
	V_DE = 0, V_DB = 1, V_NMI = 2, V_BP = 3, V_OF = 4, V_UD = 6, V_NM = 7, V_DF = 8, V_TS = 10, V_NP = 11,
	V_SS = 12, V_GP = 13, V_PF = 14, V_MF = 16, V_AC = 17, V_XM = 19,
	V_DONE = 0x21, /* INT 0x21 ends a piece of code */
	V_SPARE = 0x22, V_TIMER = 0x30,
};

/* How code that run_code() started came to its end; filled in by boot.S. */
struct trap {
	u64 vector, error, rip, cs, rflags, rsp, ss, cr2;
	u64 rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r11;
	u64 stack;  /* RSP right after delivery, below vector and error code */
	u64 new_ss; /* SS after delivery */
};
extern struct trap last_trap;

struct start_frame { u64 rip, cs, rflags, rsp, ss; };
void run_frame(const struct start_frame *f, u64 rdi, u64 rsi, u64 rdx);
extern char run_frame_iret[], trap_stack_top[], vector_entries[];
extern u64 boot_pml5[], boot_pml4[];

enum { KERNEL = 0, USER = 3 };

/*
 * A piece of code: PIECE(name, "instructions") lays it down, ending in INT 0x21.
 * It must not depend on where it runs (user mode sees it at USER_BASE).
 */
#define PIECE(name, text)                                                      \
	__asm__(".pushsection .text\n" #name ":\n" text "\n\tint $0x21\n.popsection"); \
	extern const char name[]

/* Runs @code at privilege @cpl with RFLAGS bits @rflags set, RDI, RSI, RDX (and RCX) as given; the outcome is last_trap. */
const struct trap *run_code_flags(const void *code, int cpl, u64 rflags, u64 rdi, u64 rsi, u64 rdx);
const struct trap *run_code(const void *code, int cpl, u64 rdi, u64 rsi);
u64 user_address(const void *p); /* the user alias of kernel address @p */

void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void vprint(const char *fmt, va_list ap);

/* Counts a check; prints what it was if it failed (the first of them). */
bool check(bool ok, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Likewise for what another PC is known to get wrong: counted only if it is not named on the command line. */
bool check_unless(const char *word, bool ok, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* How many checks there were so far, and how many of them failed. */
void check_sums(u64 *made, u64 *failed);
/* Whether the last check failed and was printed: more about it may follow. */
bool failure_shown(void);
/* Checks that last_trap ended in @vector with error code @error. */
bool expect(const char *what, u64 vector, u64 error);
bool expect_unless(const char *word, const char *what, u64 vector, u64 error);
_Noreturn void finish(const char *test); /* prints the sums and ends the machine */
_Noreturn void exit_machine(u32 value);
bool option(const char *word); /* on the command line */
u64 option_number(const char *name, u64 fallback); /* N of "name=N", decimal, on the command line */

void gate_set(unsigned vector, const void *handler, unsigned dpl, unsigned ist, bool present);
void gate_reset(unsigned vector);
void gdt_set(unsigned selector, u64 descriptor);
u64 gdt_get(unsigned selector);
void tss_set_ist(unsigned n, u64 rsp); /* 1..7 */
u8 *tss_bytes(void);
void ldt_load(u64 base, u32 limit);
extern void (*trap_hook)(u64 vector); /* called for interrupts that arrive when no piece runs */

void *memset(void *d, int c, size_t n);
void *memcpy(void *d, const void *s, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);

int main(void); /* the test */

static inline void outb(u16 port, u8 v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static inline void outl(u16 port, u32 v) { __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port)); }
static inline u8 inb(u16 port)
{
	u8 v;
	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline u64 rdmsr(u32 n)
{
	u32 lo, hi;
	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(n));
	return (u64)hi << 32 | lo;
}
static inline void wrmsr(u32 n, u64 v)
{
	__asm__ volatile("wrmsr" : : "c"(n), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
struct cpuid { u32 a, b, c, d; };
static inline struct cpuid cpuid(u32 leaf, u32 sub)
{
	struct cpuid r;
	__asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
	return r;
}
#define CONTROL_REGISTER(n)                                                                             \
	static inline u64 read_cr##n(void)                                                              \
	{                                                                                               \
		u64 v;                                                                                  \
		__asm__ volatile("mov %%cr" #n ", %0" : "=r"(v));                                       \
		return v;                                                                               \
	}                                                                                               \
	static inline void write_cr##n(u64 v) { __asm__ volatile("mov %0, %%cr" #n : : "r"(v) : "memory"); }
CONTROL_REGISTER(0)
CONTROL_REGISTER(2)
CONTROL_REGISTER(3)
CONTROL_REGISTER(4)
static inline void invlpg(u64 a) { __asm__ volatile("invlpg (%0)" : : "r"(a) : "memory"); }
static inline void wrpkru(u32 v) { __asm__ volatile(".byte 0x0f, 0x01, 0xef" : : "a"(v), "c"(0), "d"(0) : "memory"); }

enum {
	CR0_PE = 1 << 0, CR0_MP = 1 << 1, CR0_EM = 1 << 2, CR0_TS = 1 << 3, CR0_NE = 1 << 5, CR0_WP = 1 << 16,
	CR0_AM = 1 << 18, CR0_NW = 1 << 29, CR0_CD = 1 << 30,
	CR4_TSD = 1 << 2, CR4_DE = 1 << 3, CR4_PAE = 1 << 5, CR4_PGE = 1 << 7, CR4_OSFXSR = 1 << 9,
	CR4_OSXMMEXCPT = 1 << 10, CR4_UMIP = 1 << 11, CR4_LA57 = 1 << 12, CR4_FSGSBASE = 1 << 16,
	CR4_PCIDE = 1 << 17, CR4_OSXSAVE = 1 << 18, CR4_SMEP = 1 << 20, CR4_SMAP = 1 << 21, CR4_PKE = 1 << 22,
	EFER_SCE = 1 << 0, EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_NXE = 1 << 11,
	FLAG_CF = 1 << 0, FLAG_TF = 1 << 8, FLAG_IF = 1 << 9, FLAG_DF = 1 << 10, FLAG_NT = 1 << 14,
	FLAG_RF = 1 << 16, FLAG_AC = 1 << 18,
	MSR_APIC_BASE = 0x1b, MSR_PAT = 0x277,
};
#define CR0_PG (1ull << 31)
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_FMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u

#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_G 0x100ull
#define PTE_NX (1ull << 63)

#endif
