/*
 * Debug exceptions in sequence: a handler notes every #DB and returns, so that a
 * whole run of single steps and breakpoints can be compared with what the SDM
 * ("Debug Exceptions", "Masking Exceptions and Interrupts When Switching Stacks")
 * asks for, whether the processor executes the instructions or a hypervisor does.
 */
#include "lib/guest.h"

static u64 address(const volatile void *p) { return (u64)(uintptr_t)p; }

static const struct trap *const t = &last_trap;

enum { NOTES = 16 };
volatile u64 notes, note_rip[NOTES], note_dr6[NOTES], bp_rip, bp_notes;
extern const char note_debug[], note_breakpoint[];

/* A breakpoint on an instruction (DR0..DR2) is passed with RF. DR3 is kept for data. */
__asm__(".pushsection .text\n"
        "note_debug:\n"
        "	push %rax\n	push %rcx\n"
        "	mov notes, %rcx\n	cmp $15, %rcx\n	jae 2f\n"
        "	mov 16(%rsp), %rax\n	mov %rax, note_rip(,%rcx,8)\n"
        "	mov %dr6, %rax\n	mov %rax, note_dr6(,%rcx,8)\n"
        "	test $7, %al\n	jz 1f\n	orl $0x10000, 32(%rsp)\n"
        "1:	mov $0xffff0ff0, %eax\n	mov %rax, %dr6\n"
        "	incq notes\n	pop %rcx\n	pop %rax\n	iretq\n"
        "2:	andl $~0x100, 32(%rsp)\n	mov $0x400, %eax\n	mov %rax, %dr7\n	jmp 1b\n"
        "note_breakpoint:\n"
        "	push %rax\n	mov 8(%rsp), %rax\n	mov %rax, bp_rip\n	mov notes, %rax\n	mov "
        "%rax, bp_notes\n"
        "	pop %rax\n	iretq\n.popsection");

static u64 read_dr6(void)
{
	u64 v;

	__asm__ volatile("mov %%dr6, %0" : "=r"(v));
	return v;
}

static void write_dr0(u64 v) { __asm__ volatile("mov %0, %%dr0" : : "r"(v)); }
static void write_dr3(u64 v) { __asm__ volatile("mov %0, %%dr3" : : "r"(v)); }
static void write_dr6(u64 v) { __asm__ volatile("mov %0, %%dr6" : : "r"(v)); }
static void write_dr7(u64 v) { __asm__ volatile("mov %0, %%dr7" : : "r"(v)); }

enum { BS = 1 << 14, BD = 1 << 13, B0 = 1, B3 = 8, FIXED = 0x400, L0 = 1, L3 = 0x40 };
#define CLEAR 0xffff0ff0ull
#define DR3_KIND(kind, bytes) ((u64)((bytes) - 1) << 30 | (u64)(kind) << 28)
#define DR0_KIND(kind, bytes) ((u64)((bytes) - 1) << 18 | (u64)(kind) << 16)

struct step { u64 offset, dr6; };

static void compare(const char *what, const char *mode, u64 start, const struct step *steps, unsigned n)
{
	check(notes == n, "%s%s: %ld debug exceptions, expected %d", what, mode, notes, n);
	for (unsigned i = 0; i < n && i < notes; i++)
		check(note_rip[i] == start + steps[i].offset && note_dr6[i] == (CLEAR | steps[i].dr6),
			     "%s%s: debug exception %u at +%ld, DR6 0x%lx; expected +%ld, bits 0x%lx", what, mode, i,
			     note_rip[i] - start, note_dr6[i], steps[i].offset, steps[i].dr6);
}

static void forget(void)
{
	notes = 0;
	bp_rip = 0;
	write_dr6(CLEAR);
}

/* Runs a piece at both privilege levels (or only in kernel mode); steps are offsets within it. */
static void sequence(const char *what, const char *piece, u64 rdi, u64 rsi, const struct step *steps,
                     unsigned n, bool user)
{
	forget();
	run_code(piece, KERNEL, rdi, rsi);
	expect(what, V_DONE, 0);
	compare(what, "", address(piece), steps, n);
	if (!user)
		return;
	forget();
	run_code_flags(piece, USER, 3 << 12, rdi, rsi, 0);
	expect(what, V_DONE, 0);
	compare(what, " in user mode", user_address(piece), steps, n);
}
#define SEQUENCE(piece, rdi, rsi, user, ...)                                                        \
	do {                                                                                        \
		const struct step steps_[] = { __VA_ARGS__ };                                       \
		sequence(#piece, piece, rdi, rsi, steps_, ARRAY_SIZE(steps_), user);                \
	} while (0)

/* pushf 1, orl 7, popf 1: the step after the instruction at 9; the end is pushf 1, andl 7, popf 1. */
#define TF_ON "pushf; orl $0x100, (%rsp); popf; "
#define TF_OFF "; pushf; andl $~0x100, (%rsp); popf; nop"
#define ON 9
#define OFF(at) { (at) + 1, BS }, { (at) + 8, BS }, { (at) + 9, BS }

PIECE(q_plain, TF_ON "nop; nop; lea 1(%rax), %rax" TF_OFF);
PIECE(q_off, TF_ON "" TF_OFF);
PIECE(q_user, TF_ON
      "xor %eax, %eax; cpuid; mov $0x3fd, %edx; in %dx, %al; rdtsc; mov $0x80, %edx; out %al, %dx" TF_OFF);
PIECE(q_exits, TF_ON "mov %cr0, %rax; mov %rax, %cr0; mov %cr3, %rax; mov %rax, %cr3; mov %cr4, %rax; mov %rax, %cr4; "
	"mov $0x1b, %ecx; rdmsr; wrmsr; invlpg (%rdi); mov %dr7, %rax" TF_OFF);
PIECE(q_device, TF_ON "mov (%rdi), %eax; mov %eax, 8(%rdi); addl $1, (%rdi); push (%rdi); pop 4(%rdi); xchg "
                      "%eax, (%rdi)" TF_OFF);
PIECE(q_sti, "cli; " TF_ON "sti; nop" TF_OFF);
PIECE(q_ss, "mov %ss, %eax; " TF_ON "mov %eax, %ss; nop; nop" TF_OFF);
PIECE(q_pop_ss, "mov %ss, %eax; mov %eax, %ss; " TF_ON "mov %eax, %ss; mov %eax, %ss; nop" TF_OFF);
PIECE(q_ss_int1, "mov %ss, %eax; " TF_ON "mov %eax, %ss; .byte 0xf1; .byte 0xf1" TF_OFF);
PIECE(q_ss_cpuid, "mov %ss, %eax; " TF_ON "mov %eax, %ss; cpuid; nop" TF_OFF);
PIECE(q_ss_device, "mov %ss, %eax; " TF_ON "mov %eax, %ss; mov (%rdi), %ecx; nop" TF_OFF);
PIECE(q_ss_detect, "mov %ss, %eax; mov %rsi, %dr7; " TF_ON "mov %eax, %ss; mov %rdi, %dr6; nop" TF_OFF);
PIECE(q_int3, TF_ON "int3; nop" TF_OFF);
PIECE(q_hlt, "cli; " TF_ON "sti; hlt" TF_OFF);

static void steps_plain(void)
{
	SEQUENCE(q_plain, 0, 0, true, { ON + 1, BS }, { ON + 2, BS }, { ON + 6, BS }, OFF(ON + 6));
	SEQUENCE(q_off, 0, 0, true, OFF(ON));
	SEQUENCE(q_user, 0, 0, true, { ON + 2, BS }, { ON + 4, BS }, { ON + 9, BS }, { ON + 10, BS }, { ON + 12, BS },
		 { ON + 17, BS }, { ON + 18, BS }, OFF(ON + 18));
	SEQUENCE(q_exits, 0x1000, 0, false, {ON + 3, BS}, {ON + 6, BS}, {ON + 9, BS}, {ON + 12, BS},
	         {ON + 15, BS}, {ON + 18, BS}, {ON + 23, BS}, {ON + 25, BS}, {ON + 27, BS}, {ON + 30, BS},
	         {ON + 33, BS}, OFF(ON + 33));
	/* The handler clears TF for INT3's own handler, and IRET restores it: the step comes after the NOP. */
	SEQUENCE(q_int3, 0, 0, true, { ON + 2, BS }, OFF(ON + 2));
}

static void steps_device(void)
{
	SEQUENCE(q_device, 0xff000000, 0, false, { ON + 2, BS }, { ON + 5, BS }, { ON + 8, BS }, { ON + 10, BS },
		 { ON + 13, BS }, { ON + 15, BS }, OFF(ON + 15));
	SEQUENCE(q_ss_device, 0xff000000, 0, false, { 2 + ON + 4, BS }, { 2 + ON + 5, BS }, OFF(2 + ON + 5));
}

static void steps_shadow(void)
{
	SEQUENCE(q_sti, 0, 0, true, { ON + 2, BS }, { ON + 3, BS }, OFF(ON + 3));
	SEQUENCE(q_ss, 0, 0, true, { 2 + ON + 3, BS }, { 2 + ON + 4, BS }, OFF(2 + ON + 4));
	SEQUENCE(q_ss_cpuid, 0, 0, true, { 2 + ON + 4, BS }, { 2 + ON + 5, BS }, OFF(2 + ON + 5));
	/* INT1 comes in the shadow and ends it; no step is reported with either. */
	SEQUENCE(q_ss_int1, 0, 0, true, { 2 + ON + 3, 0 }, { 2 + ON + 4, 0 }, OFF(2 + ON + 4));
	/* General detect is a fault: not held back. */
	SEQUENCE(q_ss_detect, CLEAR, FIXED | 1 << 13, false, { 5 + ON + 2, BD }, { 5 + ON + 5, BS }, { 5 + ON + 6, BS },
		 OFF(5 + ON + 6));
}

/* ---- HLT ---- */

static volatile u32 *apic(unsigned reg) { return (volatile u32 *)(uintptr_t)(0xfee00000 + reg); }
static volatile unsigned timer_interrupts;

static void timer_hook(u64 vector)
{
	timer_interrupts += vector == V_TIMER;
	*apic(0xb0) = 0;
}

/* The timer's interrupt comes while a piece runs: it needs a gate of its own. */
extern const char quiet_timer[];
__asm__(".pushsection .text\nquiet_timer:\n	push %rax\n	xor %eax, %eax\n	movabs %eax, "
        "0xfee000b0\n	pop %rax\n	incl timer_quiet\n	iretq\n.popsection");
volatile u32 timer_quiet;

static void steps_halt(void)
{
	trap_hook = timer_hook;
	*apic(0xf0) = 0x1ff;
	gate_set(V_TIMER, quiet_timer, 0, 0, true);
	*apic(0x3e0) = 0xb;
	*apic(0x320) = V_TIMER;
	*apic(0x380) = 1000000;
	/* STI's shadow holds the interrupt, not the step; the step after HLT ends it. */
	SEQUENCE(q_hlt, 0, 0, false, { 1 + ON + 1, BS }, { 1 + ON + 2, BS }, OFF(1 + ON + 2));
	check(timer_quiet == 0, "the timer had no part in it: %u", timer_quiet);
	gate_reset(V_TIMER);
}

/* ---- breakpoints ---- */

PIECE(b_store, "mov %esi, (%rdi); nop; nop");
/* The stack moves away before the handler would hit the breakpoint itself. */
PIECE(b_push, "mov %rsp, %rbp; mov %rdi, %rsp; push %rsi; mov %rbp, %rsp; nop");
PIECE(b_call, "mov %rsp, %rbp; lea 8(%rdi), %rsp; call 1f; nop; 1: pop %rax; mov %rbp, %rsp; nop");
PIECE(b_movs, "movsl; movsl; nop");
PIECE(b_rmw, "lock incl (%rdi); cmpxchg %esi, (%rdi); nop");
PIECE(b_in, "mov %edi, %edx; in %dx, %al; nop; out %al, %dx; nop");
PIECE(b_ss, "movw (%rdi), %ss; nop; nop");
PIECE(b_ss_int1, "movw (%rdi), %ss; .byte 0x2e, 0x2e, 0xf1; nop");
PIECE(b_ss_cd1, "movw (%rdi), %ss; int $1; nop");
PIECE(b_ss_int3, "movw (%rdi), %ss; .byte 0x2e, 0x2e, 0x2e, 0xcc; nop");
PIECE(b_execute, "nop; nop; nop");
PIECE(b_both, TF_ON "nop; nop" TF_OFF);

/* In the middle of its page: the handler's stack may lie below. */
static u32 page_of_words[1024] __attribute__((aligned(4096)));
static u32 *const words = page_of_words + 512;

static void data_breakpoints(void)
{
	u64 w = address(words), rw3 = FIXED | L3 | DR3_KIND(3, 4), w3 = FIXED | L3 | DR3_KIND(1, 4);

	write_dr3(w);
	write_dr7(w3);
	SEQUENCE(b_store, w, 7, false, { 2, B3 });
	SEQUENCE(b_store, w + 3, 7, false, { 2, B3 });
	SEQUENCE(b_rmw, w, 7, false, { 3, B3 }, { 6, B3 });
	SEQUENCE(b_push, w + 8, 7, false, { 7, B3 });
	SEQUENCE(b_movs, w - 4, w + 32, false, { 2, B3 });
	write_dr7(rw3);
	SEQUENCE(b_movs, w + 32, w - 4, false, { 2, B3 });
	SEQUENCE(b_call, w, 0, false, { 13, B3 }, { 14, B3 });
	/* On device memory, which a hypervisor may have to emulate. */
	write_dr3(0xff000100);
	SEQUENCE(b_store, 0xff000100, 7, false, { 2, B3 });
	SEQUENCE(b_store, 0xff0000fe, 7, false, { 2, B3 });
	SEQUENCE(b_store, 0xff0000fc, 7, false);
	SEQUENCE(b_rmw, 0xff000100, 7, false, { 3, B3 }, { 6, B3 });
	write_dr7(FIXED);
}

static void port_breakpoints(void)
{
	u64 cr4 = read_cr4();

	write_cr4(cr4 | CR4_DE);
	write_dr3(0xe0);
	write_dr7(FIXED | L3 | DR3_KIND(2, 1));
	SEQUENCE(b_in, 0xe0, 0, true, { 3, B3 }, { 5, B3 });
	SEQUENCE(b_in, 0xe1, 0, true);
	write_dr7(FIXED);
	write_cr4(cr4);
}

/* What MOV to SS held back is reported with INT1, or on entry to the handler of INT n. */
static void shadow_breakpoints(void)
{
	u64 w = address(words);

	words[0] = SEL_DATA;
	write_dr3(w);
	write_dr7(FIXED | L3 | DR3_KIND(3, 4));
	SEQUENCE(b_ss, w, 0, false, { 3, B3 });
	forget();
	run_code(b_ss_int1, KERNEL, w, 0);
	check(notes == 1 && note_rip[0] == address(b_ss_int1) + 5, "MOV SS, INT1: %ld at +%ld", notes,
		     note_rip[0] - address(b_ss_int1));
	forget();
	run_code(b_ss_cd1, KERNEL, w, 0);
	check(notes == 2, "MOV SS, INT 1: %ld", notes);
	check(note_rip[0] == address(note_debug) && note_rip[1] == address(b_ss_cd1) + 4,
		     "MOV SS, INT 1: first at 0x%lx, then +%ld", note_rip[0], note_rip[1] - address(b_ss_cd1));
	forget();
	run_code(b_ss_int3, KERNEL, w, 0);
	check(notes == 1 && note_rip[0] == address(note_breakpoint) && note_dr6[0] == (CLEAR | B3),
		     "MOV SS, INT3: %ld, at 0x%lx, DR6 0x%lx", notes, note_rip[0], note_dr6[0]);
	check(bp_rip == address(b_ss_int3) + 6 && bp_notes == 1, "MOV SS, INT3: #BP at +%ld after %ld",
		     bp_rip - address(b_ss_int3), bp_notes);
	write_dr7(FIXED);
}

static void code_breakpoints(void)
{
	write_dr0(address(b_execute) + 1);
	write_dr7(FIXED | L0);
	SEQUENCE(b_execute, 0, 0, false, { 1, B0 });
	write_dr7(FIXED | 2);
	SEQUENCE(b_execute, 0, 0, false, { 1, B0 });
	write_dr0(address(b_execute) + 3); /* the INT 0x21 that ends the piece */
	SEQUENCE(b_execute, 0, 0, false, { 3, B0 });
	write_dr7(FIXED);
	/* DR6 keeps what software left in it but for B0..B3. */
	forget();
	write_dr0(address(b_execute) + 1);
	write_dr6(CLEAR | BS | 2);
	write_dr7(FIXED | L0);
	run_code(b_execute, KERNEL, 0, 0);
	check(notes == 1 && note_dr6[0] == (CLEAR | BS | B0), "DR6 with BS and B1 left in it: 0x%lx", note_dr6[0]);
	write_dr7(FIXED);
}

/* ---- registers ---- */

PIECE(r_write6, "mov %rdi, %dr6");
PIECE(r_write7, "mov %rdi, %dr7");
PIECE(r_write0, "mov %rdi, %dr0");
PIECE(r_write4, ".byte 0x0f, 0x23, 0xe7"); /* mov %rdi, %dr4 */
PIECE(r_read5, ".byte 0x0f, 0x21, 0xe8");  /* mov %dr5, %rax */

static void registers(void)
{
	u64 cr4 = read_cr4();

	run_code(r_write6, KERNEL, 1ull << 32, 0);
	expect("DR6, bit 32", V_GP, 0);
	run_code(r_write7, KERNEL, 1ull << 32, 0);
	expect("DR7, bit 32", V_GP, 0);
	run_code(r_write0, KERNEL, 0x0000900000000000ull, 0);
	expect("DR0 takes any address", V_DONE, 0);
	write_dr0(0);
	write_dr6(0);
	check(read_dr6() == CLEAR, "DR6 of 0 reads 0x%lx", read_dr6());
	write_dr6(~0ull >> 32);
	check(read_dr6() == 0xffffefff, "DR6 of all ones reads 0x%lx", read_dr6());
	run_code(r_write4, KERNEL, CLEAR | BS | 1, 0);
	expect("DR4 without DE", V_DONE, 0);
	check(read_dr6() == (CLEAR | BS | 1), "DR4 is DR6: 0x%lx", read_dr6());
	run_code(r_read5, KERNEL, 0, 0);
	check(t->rax == FIXED, "DR5 is DR7: 0x%lx", t->rax);
	write_cr4(cr4 | CR4_DE);
	run_code(r_write4, KERNEL, 0, 0);
	expect("DR4 with DE", V_UD, 0);
	run_code(r_read5, KERNEL, 0, 0);
	expect("DR5 with DE", V_UD, 0);
	write_cr4(cr4);
	write_dr6(CLEAR);
}

/* ---- system calls ---- */

PIECE(s_user, TF_ON "nop; syscall; nop" TF_OFF);
extern const char s_entry[];
/* RDI: flags to return with. */
__asm__(".pushsection .text\ns_entry:\n	nop\n	sysretq\n.popsection");

static void syscalls(void)
{
	u64 user = user_address(s_user);
	/* SYSCALL masks TF: no step of its own, none in the kernel; SYSRET restores it, and steps at once. */
	const struct step steps[] = { { ON + 1, BS }, { ON + 3, BS }, { ON + 4, BS }, OFF(ON + 4) };

	wrmsr(MSR_STAR, (u64)(SEL_UCODE32) << 48 | (u64)SEL_CODE << 32);
	wrmsr(MSR_LSTAR, address(s_entry));
	wrmsr(MSR_FMASK, FLAG_TF | FLAG_IF | FLAG_DF);
	forget();
	run_code(s_user, USER, 0, 0);
	expect("SYSCALL under TF", V_DONE, 0);
	compare("SYSCALL under TF", "", user, steps, ARRAY_SIZE(steps));
}

/* ---- RF ---- */

PIECE(f_ud2, "ud2");
PIECE(f_cr4, "mov $0xffffffff, %eax; mov %rax, %cr4");
PIECE(f_load, "mov (%rdi), %rax");
PIECE(f_rdmsr, "mov $0x12345, %ecx; rdmsr");
PIECE(f_int, "int $0x22");
PIECE(f_int3, "int3");
PIECE(f_div, "xor %ecx, %ecx; div %ecx");
PIECE(f_movs, "mov $10, %ecx; rep movsb");

static void resume_flag(void)
{
	static const struct { const char *name, *code; u64 vector; bool rf;
	} list[] = {
	        {"#UD", f_ud2, V_UD, true},     {"#GP of MOV to CR4", f_cr4, V_GP, true},
	        {"#PF", f_load, V_PF, true},    {"#GP of RDMSR", f_rdmsr, V_GP, true},
	        {"INT", f_int, V_SPARE, false}, {"INT3", f_int3, V_BP, false},
	        {"#DE", f_div, V_DE, true},     {"#PF of a string", f_movs, V_PF, true},
	};

	gate_reset(V_BP);
	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		run_code(list[i].code, KERNEL, 0x0000700000000000ull, address(words));
		check(t->vector == list[i].vector && !(t->rflags & FLAG_RF) == !list[i].rf,
		      "RF in the flags that %s pushes: vector %ld flags 0x%lx", list[i].name, t->vector,
		      t->rflags);
	}
}

int main(void)
{
	static void (*const groups[])(void) = {
		registers, steps_plain, steps_device, steps_shadow, steps_halt, data_breakpoints, port_breakpoints,
		shadow_breakpoints, code_breakpoints, syscalls, resume_flag,
	};

	gate_set(V_DB, note_debug, 0, 0, true);
	gate_set(V_BP, note_breakpoint, 3, 0, true);
	for (unsigned i = 0; i < ARRAY_SIZE(groups); i++)
		groups[i]();
	finish("debug");
}
