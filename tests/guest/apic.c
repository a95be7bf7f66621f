/*
 * The local APIC, the I/O APIC and time as a program sees them: modes of the local
 * APIC, both register interfaces, message and timer interrupts, NMIs, lines that the
 * test device raises, and the time-stamp counter with its adjustment.
 *
 * Not tried: other processors, lowest priority, SMI, INIT to oneself.
 */
#include "lib/guest.h"

static u64 address(const volatile void *p) { return (u64)(uintptr_t)p; }

static const struct trap *const t = &last_trap;

static void run_kernel(const void *code, u64 rdi, u64 rsi) { run_code(code, KERNEL, rdi, rsi); }

PIECE(p_rdmsr, "mov %edi, %ecx; rdmsr; shl $32, %rdx; or %rdx, %rax");
PIECE(p_wrmsr, "mov %edi, %ecx; mov %rsi, %rax; mov %rsi, %rdx; shr $32, %rdx; wrmsr");

enum {
	BASE_BSP = 1 << 8, BASE_X2 = 1 << 10, BASE_ON = 1 << 11,
	ID = 0x20, VERSION = 0x30, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, SVR = 0xf0, ISR = 0x100,
	TMR = 0x180, IRR = 0x200, ESR = 0x280, ICR = 0x300, ICR_HIGH = 0x310, LVT_TIMER = 0x320, LVT_THERMAL = 0x330,
	LVT_LINT0 = 0x350, LVT_ERROR = 0x370, TIMER_INIT = 0x380, TIMER_NOW = 0x390, TIMER_DIVIDE = 0x3e0, SELF = 0x3f0,
	MASKED = 1 << 16, PERIODIC = 1 << 17, DEADLINE = 2 << 17, TO_SELF = 1 << 18, ASSERT = 1 << 14, NMI = 4 << 8,
	MSR_TSC = 0x10, MSR_TSC_ADJUST = 0x3b, MSR_DEADLINE = 0x6e0, MSR_X2 = 0x800,
};
#define MSR_TSC_AUX 0xc0000103u
#define APIC_PAGE 0xfee00000ull

static bool x2; /* the interface in use */

static u32 apic_read(unsigned reg)
{
	return x2 ? (u32)rdmsr(MSR_X2 + reg / 16) : *(volatile u32 *)(uintptr_t)(APIC_PAGE + reg);
}

static void apic_write(unsigned reg, u32 v)
{
	if (x2)
		wrmsr(MSR_X2 + reg / 16, v);
	else
		*(volatile u32 *)(uintptr_t)(APIC_PAGE + reg) = v;
}

static bool apic_bit(unsigned reg, unsigned vector) { return apic_read(reg + (vector >> 5) * 16) >> (vector & 31) & 1; }

static void send(u32 low, u32 dest)
{
	if (x2) {
		wrmsr(MSR_X2 + ICR / 16, (u64)dest << 32 | low);
		return;
	}
	apic_write(ICR_HIGH, dest << 24);
	apic_write(ICR, low);
}

static u64 rdtsc(void)
{
	u32 lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (u64)hi << 32 | lo;
}

static u64 read_cr8(void)
{
	u64 v;

	__asm__ volatile("mov %%cr8, %0" : "=r"(v));
	return v;
}

static void write_cr8(u64 v) { __asm__ volatile("mov %0, %%cr8" : : "r"(v) : "memory"); }
static void sti(void) { __asm__ volatile("sti" : : : "memory"); }
static void cli(void) { __asm__ volatile("cli" : : : "memory"); }
static void nop(void) { __asm__ volatile("nop" : : : "memory"); }

/* ---- what arrives ---- */

static volatile unsigned arrived[256], order[16], orders;
static void (*volatile on_arrival)(unsigned vector); /* before the EOI */
static volatile bool keep_eoi;

static void arrival(u64 vector)
{
	arrived[vector]++;
	if (orders < ARRAY_SIZE(order))
		order[orders++] = (unsigned)vector;
	if (on_arrival)
		on_arrival((unsigned)vector);
	if (vector >= 32 && !keep_eoi)
		apic_write(EOI, 0);
}

static void forget(void (*act)(unsigned vector))
{
	for (unsigned i = 0; i < 256; i++)
		arrived[i] = 0;
	orders = 0;
	on_arrival = act;
	keep_eoi = false;
}

static void window(void)
{
	sti();
	nop();
	cli();
}

/* ---- modes ---- */

static void base_refused(const char *what, u64 bits)
{
	run_kernel(p_wrmsr, MSR_APIC_BASE, APIC_PAGE | BASE_BSP | bits);
	expect(what, V_GP, 0);
}

static void base_taken(const char *what, u64 bits)
{
	run_kernel(p_wrmsr, MSR_APIC_BASE, APIC_PAGE | BASE_BSP | bits);
	expect(what, V_DONE, 0);
	check((rdmsr(MSR_APIC_BASE) & (BASE_ON | BASE_X2)) == bits, "%s: it reads 0x%lx", what,
		     rdmsr(MSR_APIC_BASE));
	x2 = bits & BASE_X2;
}

static bool has_x2apic(void) { return cpuid(1, 0).c >> 21 & 1; }

static void modes(void)
{
	u64 wide = 1ull << (cpuid(0x80000008, 0).a & 0xff);

	base_refused("APIC: x2APIC without enable", BASE_X2);
	base_refused("APIC base: reserved bit 0", BASE_ON | 1);
	base_refused("APIC base: reserved bit 9", BASE_ON | 1 << 9);
	base_refused("APIC base: address too wide", BASE_ON | wide);
	if (!has_x2apic()) {
		base_refused("x2APIC that is not there", BASE_ON | BASE_X2);
		return;
	}
	base_taken("xAPIC to x2APIC", BASE_ON | BASE_X2);
	base_refused("x2APIC to xAPIC", BASE_ON);
	base_refused("x2APIC to the invalid state", BASE_X2);
	base_taken("x2APIC off", 0);
	base_refused("off to x2APIC", BASE_ON | BASE_X2);
	base_refused("off to the invalid state", BASE_X2);
	base_taken("off to xAPIC", BASE_ON);
	apic_write(SVR, 0x1ff);
}

static volatile u32 *page(unsigned reg) { return (volatile u32 *)(uintptr_t)(APIC_PAGE + reg); }

/* Without the page, its addresses belong to nobody. CR8 works all the same. */
static void no_page(const char *when)
{
	u64 cr8 = read_cr8();

	memset((void *)(uintptr_t)APIC_PAGE, 0xff, PAGE);
	check(*page(VERSION) == ~0u, "%s: version reads 0x%x", when, *page(VERSION));
	write_cr8(cr8 ^ 15);
	check(read_cr8() == (cr8 ^ 15), "%s: CR8 is 0x%lx", when, read_cr8());
	check(*page(TPR) == ~0u, "%s: TPR reads 0x%x", when, *page(TPR));
	write_cr8(cr8);
}

static void turned_off(void)
{
	u32 version = apic_read(VERSION);

	base_taken("xAPIC off", 0);
	check(!(cpuid(1, 0).d >> 9 & 1), "CPUID shows no APIC that is off");
	no_page("off");
	base_taken("xAPIC on", BASE_ON);
	check(cpuid(1, 0).d >> 9 & 1, "CPUID shows the APIC again");
	check(*page(VERSION) == version && *page(TPR) == 0, "the page is back: version 0x%x", *page(VERSION));
	check(*page(SVR) == 0xff && *page(LVT_TIMER) == MASKED,
	             "with the state of a reset: SVR 0x%x timer 0x%x", *page(SVR), *page(LVT_TIMER));
	write_cr8(7);
	check(*page(TPR) == 0x70, "CR8 is in the TPR: 0x%x", *page(TPR));
	*page(TPR) = 0x95;
	check(read_cr8() == 9, "and the TPR in CR8: 0x%lx", read_cr8());
	write_cr8(0);
	if (has_x2apic()) {
		base_taken("x2APIC", BASE_ON | BASE_X2);
		no_page("x2APIC");
		base_taken("off", 0);
		base_taken("on", BASE_ON);
	}
	apic_write(SVR, 0x1ff);
}

static void relocated(void)
{
	const u64 other = 0xfed40000;
	u32 version = apic_read(VERSION);

	wrmsr(MSR_APIC_BASE, other | BASE_BSP | BASE_ON);
	check(*(volatile u32 *)(uintptr_t)(other + VERSION) == version,
	             "the page at another address: 0x%x", *(volatile u32 *)(uintptr_t)(other + VERSION));
	check(*page(VERSION) == ~0u, "nothing at the usual one: 0x%x", *page(VERSION));
	wrmsr(MSR_APIC_BASE, APIC_PAGE | BASE_BSP | BASE_ON);
	check(*page(VERSION) == version, "back: 0x%x", *page(VERSION));
	apic_write(SVR, 0x1ff);
}

/* ---- registers ---- */

static void page_registers(void)
{
	u32 v = apic_read(VERSION);

	check((v & 0xff) >= 0x10 && (v & 0xff) <= 0x15 && (v >> 16 & 0xff) >= 3, "version 0x%x", v);
	check(apic_read(ID) >> 24 == cpuid(1, 0).b >> 24, "ID 0x%x, CPUID says 0x%x", apic_read(ID),
	      cpuid(1, 0).b >> 24);
	apic_write(LVT_TIMER, ~0u & ~(1u << 18));
	check(apic_read(LVT_TIMER) == (0xff | MASKED | PERIODIC), "LVT timer holds 0x%x",
	             apic_read(LVT_TIMER));
	apic_write(LVT_ERROR, ~0u);
	check(apic_read(LVT_ERROR) == (0xff | MASKED), "LVT error holds 0x%x", apic_read(LVT_ERROR));
	apic_write(LVT_LINT0, MASKED | 0xa7ff);
	check(apic_read(LVT_LINT0) == (MASKED | 0xa7ff), "LVT LINT0 holds 0x%x", apic_read(LVT_LINT0));
	apic_write(LVT_LINT0, MASKED);
	apic_write(TIMER_DIVIDE, ~0u);
	check(apic_read(TIMER_DIVIDE) == 0xb, "divide configuration holds 0x%x",
	             apic_read(TIMER_DIVIDE));
	apic_write(LDR, ~0u);
	check(apic_read(LDR) == 0xff000000, "LDR holds 0x%x", apic_read(LDR));
	apic_write(DFR, 0);
	check(apic_read(DFR) == 0x0fffffff, "DFR holds 0x%x", apic_read(DFR));
	apic_write(DFR, ~0u);
	apic_write(LDR, 0);
	apic_write(LVT_TIMER, 0x40);
	apic_write(SVR, 0xff);
	check(apic_read(LVT_TIMER) == (0x40 | MASKED), "software disable masks: 0x%x",
	             apic_read(LVT_TIMER));
	apic_write(LVT_TIMER, 0x40);
	check(apic_read(LVT_TIMER) == (0x40 | MASKED), "and keeps masked: 0x%x", apic_read(LVT_TIMER));
	apic_write(SVR, 0x1ff);
	check(apic_read(LVT_TIMER) & MASKED, "enabling unmasks nothing: 0x%x", apic_read(LVT_TIMER));
	apic_write(ESR, 0);
	(void)apic_read(0x40);
	apic_write(ESR, 0);
	check(apic_read(ESR) == 0x80, "an illegal register is an error: ESR 0x%x", apic_read(ESR));
	apic_write(ESR, 0);
	send(TO_SELF | ASSERT | 5, 0);
	apic_write(ESR, 0);
	check(apic_read(ESR) & 0x20, "an illegal vector is an error: ESR 0x%x", apic_read(ESR));
	apic_write(ESR, 0);
	apic_write(ESR, 0);
	check(apic_read(ESR) == 0, "ESR 0x%x", apic_read(ESR));
}

static bool readable(unsigned reg)
{
	switch (reg) {
	case ID:
	case VERSION:
	case TPR:
	case PPR:
	case LDR:
	case SVR:
	case ESR:
	case ICR:
	case TIMER_INIT:
	case TIMER_NOW:
	case TIMER_DIVIDE:
		return true;
	default:
		return (reg >= ISR && reg < ESR) || (reg >= LVT_TIMER && reg <= LVT_ERROR);
	}
}

static bool writable(unsigned reg)
{
	switch (reg) {
	case TPR: case EOI: case SVR: case ESR: case ICR: case TIMER_INIT: case TIMER_DIVIDE: case SELF:
		return true;
	default:
		return reg >= LVT_TIMER && reg <= LVT_ERROR;
	}
}

/* The MSR interface: which registers exist, and that reserved bits are refused. */
static void msr_registers(void)
{
	if (!has_x2apic() || option("qemu"))
		return;
	for (unsigned reg = 0; reg < 0x1000; reg += 16) {
		run_kernel(p_rdmsr, MSR_X2 + reg / 16, 0);
		expect("x2APIC register in xAPIC mode", V_GP, 0);
	}
	base_taken("x2APIC", BASE_ON | BASE_X2);
	for (unsigned reg = 0; reg < 0x1000; reg += 16) {
		run_kernel(p_rdmsr, MSR_X2 + reg / 16, 0);
		check(t->vector == (readable(reg) ? V_DONE : V_GP), "RDMSR of x2APIC register 0x%x: vector %ld", reg,
		      t->vector);
		if (reg == ICR || reg == SELF)
			continue;
		run_kernel(p_wrmsr, MSR_X2 + reg / 16,
		           reg == SVR                             ? 0x1ff
		           : reg >= LVT_TIMER && reg <= LVT_ERROR ? MASKED
		                                                  : 0);
		check(t->vector == (writable(reg) ? V_DONE : V_GP), "WRMSR of x2APIC register 0x%x: vector %ld", reg,
		      t->vector);
		if (!writable(reg))
			continue;
		run_kernel(p_wrmsr, MSR_X2 + reg / 16, 1ull << 32);
		check(t->vector == V_GP, "WRMSR of x2APIC register 0x%x, bit 32: vector %ld", reg, t->vector);
	}
	run_kernel(p_wrmsr, MSR_X2 + EOI / 16, 1);
	expect("EOI of 1", V_GP, 0);
	run_kernel(p_wrmsr, MSR_X2 + ESR / 16, 1);
	expect("ESR of 1", V_GP, 0);
	run_kernel(p_wrmsr, MSR_X2 + TPR / 16, 0x100);
	expect("TPR of 0x100", V_GP, 0);
	run_kernel(p_wrmsr, MSR_X2 + SVR / 16, 0x1ff | 1 << 13);
	expect("SVR, reserved bit", V_GP, 0);
	run_kernel(p_wrmsr, MSR_X2 + ICR / 16, 1 << 20);
	expect("ICR, reserved bit", V_GP, 0);
	run_kernel(p_wrmsr, MSR_X2 + SELF / 16, 0x100);
	expect("self IPI of 0x100", V_GP, 0);
	check(apic_read(ID) == cpuid(0xb, 0).d, "x2APIC ID 0x%x, CPUID says 0x%x", apic_read(ID), cpuid(0xb, 0).d);
	check(apic_read(LDR) == ((apic_read(ID) >> 4) << 16 | 1u << (apic_read(ID) & 15)), "logical ID 0x%x",
	      apic_read(LDR));
	base_taken("off", 0);
	base_taken("on", BASE_ON);
	apic_write(SVR, 0x1ff);
}

/* ---- messages to oneself ---- */

static void send_higher(unsigned vector)
{
	if (vector != 0x51)
		return;
	send(TO_SELF | ASSERT | 0x52, 0); /* the same class: waits for the EOI */
	send(TO_SELF | ASSERT | 0x61, 0); /* a higher one: now */
	window();
	check(arrived[0x61] == 1 && arrived[0x52] == 0, "a higher class interrupts, the same class waits");
	check(apic_bit(ISR, 0x51) && apic_bit(IRR, 0x52), "in service and requested");
	check((apic_read(PPR) & 0xf0) == 0x50, "processor priority 0x%x", apic_read(PPR));
}

static void messages(void)
{
	forget(NULL);
	send(TO_SELF | ASSERT | 0x40, 0);
	check(apic_bit(IRR, 0x40) && !arrived[0x40], "requested, not taken while IF = 0");
	window();
	check(arrived[0x40] == 1 && !apic_bit(IRR, 0x40) && !apic_bit(ISR, 0x40), "taken");
	send(ASSERT | 0x41, x2 ? apic_read(ID) : apic_read(ID) >> 24);
	window();
	check(arrived[0x41] == 1, "to our own ID");
	send(ASSERT | 0x42, x2 ? 77 : 77);
	window();
	check(arrived[0x42] == 0, "to another");
	send(ASSERT | 0x43, x2 ? ~0u : 0xff);
	send(ASSERT | 2 << 18 | 0x44, 0);
	send(ASSERT | 3 << 18 | 0x45, 0);
	window();
	check(arrived[0x43] == 1 && arrived[0x44] == 1 && arrived[0x45] == 0, "broadcasts: %u %u %u", arrived[0x43],
	      arrived[0x44], arrived[0x45]);
	if (x2) {
		wrmsr(MSR_X2 + SELF / 16, 0x46);
		window();
		check(arrived[0x46] == 1, "self-IPI register");
	}
	forget(NULL);
	send(TO_SELF | ASSERT | 0x35, 0);
	send(TO_SELF | ASSERT | 0x75, 0);
	send(TO_SELF | ASSERT | 0x55, 0);
	send(TO_SELF | ASSERT | 0x75, 0);
	window();
	window();
	check(orders == 3 && order[0] == 0x75 && order[1] == 0x55 && order[2] == 0x35,
	      "by priority: %u 0x%x 0x%x 0x%x", orders, order[0], order[1], order[2]);
	forget(NULL);
	write_cr8(5);
	send(TO_SELF | ASSERT | 0x5f, 0);
	send(TO_SELF | ASSERT | 0x60, 0);
	window();
	check(arrived[0x5f] == 0 && arrived[0x60] == 1, "task priority 5 holds class 5 back");
	sti();
	write_cr8(0);
	nop();
	cli();
	check(arrived[0x5f] == 1, "lowering it lets it in at once");
	forget(send_higher);
	send(TO_SELF | ASSERT | 0x51, 0);
	window();
	window();
	check(arrived[0x52] == 1, "and the same class after the EOI");
}

static void both_interfaces(void)
{
	messages();
	if (!has_x2apic() || option("qemu"))
		return;
	base_taken("x2APIC", BASE_ON | BASE_X2);
	apic_write(SVR, 0x1ff);
	messages();
	base_taken("off", 0);
	base_taken("on", BASE_ON);
	apic_write(SVR, 0x1ff);
}

/* ---- NMI ---- */

static void more_nmis(unsigned vector)
{
	if (vector != V_NMI || arrived[V_NMI] != 1)
		return;
	for (unsigned i = 0; i < 10; i++)
		send(NMI | ASSERT, 0);
	check(arrived[V_NMI] == 1, "no NMI within an NMI");
}

PIECE(p_nmi_sti, "cli; movl $0x4400, (%rdi); sti; nop; nop");
PIECE(p_nmi_ss, "mov %esi, %ss; movl $0x4400, (%rdi); nop");

static void nmis(void)
{
	for (unsigned i = 0; i < 100; i++) {
		forget(more_nmis);
		send(NMI | ASSERT, 0);
		nop();
		if (!check(arrived[V_NMI] == 2, "ten NMIs within an NMI are one more: %u", arrived[V_NMI]))
			break;
	}
	forget(NULL);
	send(TO_SELF | NMI | ASSERT, 0);
	nop();
	check(arrived[V_NMI] == 1, "NMI by the shorthand: %u", arrived[V_NMI]);
	send(2 << 18 | NMI | ASSERT, 0);
	nop();
	check(arrived[V_NMI] == 2 || option("qemu"), "NMI to all: %u", arrived[V_NMI]);
	run_kernel(p_nmi_sti, APIC_PAGE + ICR, 0);
	check(t->vector == V_NMI && t->rip == address(p_nmi_sti) + 7,
	      "NMI right after the store: vector %ld at +%ld", t->vector, t->rip - address(p_nmi_sti));
	/* The NMI took us out of the piece without IRET: unblock them. */
	run_kernel(p_rdmsr, MSR_APIC_BASE, 0);
}

/* ---- the timer ---- */

static void timer_one_shot(void)
{
	u64 start;

	forget(NULL);
	apic_write(TIMER_DIVIDE, 0xb);
	apic_write(LVT_TIMER, 0x30);
	start = rdtsc();
	apic_write(TIMER_INIT, 0x10000);
	sti();
	while (!arrived[0x30])
		nop();
	cli();
	check(rdtsc() - start >= 0x10000, "the timer took %ld", rdtsc() - start);
	check(apic_read(TIMER_NOW) == 0 && apic_read(TIMER_INIT) == 0x10000, "one shot: it stays at 0: 0x%x",
	      apic_read(TIMER_NOW));
	apic_write(LVT_TIMER, 0x30 | MASKED);
	apic_write(TIMER_INIT, 100);
	start = rdtsc();
	while (apic_read(TIMER_NOW))
		nop();
	check(!apic_bit(IRR, 0x30), "masked: nothing is requested");
	apic_write(LVT_TIMER, 0x30);
	window();
	check(arrived[0x30] == 1, "and unmasking brings nothing back");
	apic_write(TIMER_INIT, 0x1000000);
	check(apic_read(TIMER_NOW) > 0, "counting: 0x%x", apic_read(TIMER_NOW));
	apic_write(TIMER_INIT, 0);
	check(apic_read(TIMER_NOW) == 0, "0 stops it: 0x%x", apic_read(TIMER_NOW));
}

static void wait_below(u32 v)
{
	while (apic_read(TIMER_NOW) > v)
		nop();
}

static void timer_modes(void)
{
	const u32 n = 0x99999;

	forget(NULL);
	apic_write(LVT_TIMER, 0x31);
	apic_write(TIMER_INIT, n);
	apic_write(LVT_TIMER, 0x31 | PERIODIC);
	check(apic_read(TIMER_INIT) == n, "a change of mode leaves the initial count: 0x%x", apic_read(TIMER_INIT));
	apic_write(LVT_TIMER, 0x31);
	apic_write(TIMER_INIT, n);
	check(apic_read(TIMER_NOW) != 0, "one shot runs");
	wait_below(0);
	check(apic_read(TIMER_NOW) == 0, "to 0");
	apic_write(TIMER_INIT, n);
	wait_below(n / 2);
	apic_write(LVT_TIMER, 0x31 | PERIODIC);
	check(apic_read(TIMER_NOW) != 0 && apic_read(TIMER_NOW) < n / 2, "periodic: it goes on from there: 0x%x",
	      apic_read(TIMER_NOW));
	while (apic_read(TIMER_NOW) <= n / 2)
		nop();
	check(apic_read(TIMER_NOW) > n / 2, "and around: 0x%x", apic_read(TIMER_NOW));
	wait_below(n / 2);
	apic_write(LVT_TIMER, 0x31);
	check(apic_read(TIMER_NOW) < n / 2, "one shot again: it goes on: 0x%x", apic_read(TIMER_NOW));
	wait_below(0);
	apic_write(LVT_TIMER, 0x31 | PERIODIC);
	check(apic_read(TIMER_NOW) == 0, "periodic with the count at 0: it stays there: 0x%x",
		     apic_read(TIMER_NOW));
	window();
	forget(NULL);
	apic_write(TIMER_INIT, 5000);
	sti();
	while (arrived[0x31] < 5)
		__asm__ volatile("hlt");
	cli();
	check(arrived[0x31] == 5, "five periods");
	apic_write(LVT_TIMER, 0x31 | MASKED);
	apic_write(TIMER_INIT, 0);
}

PIECE(p_deadline_now, "mov $0x6e0, %ecx; xor %edx, %edx; mov $1, %eax; sti; wrmsr; nop; nop");

static void timer_deadline(void)
{
	u64 start;

	if (!(cpuid(1, 0).c >> 24 & 1))
		return;
	forget(NULL);
	wrmsr(MSR_DEADLINE, rdtsc() + 1000000);
	check(rdmsr(MSR_DEADLINE) == 0, "deadline outside its mode: 0x%lx", rdmsr(MSR_DEADLINE));
	apic_write(LVT_TIMER, 0x32 | DEADLINE);
	apic_write(TIMER_INIT, 500);
	check(apic_read(TIMER_INIT) == 0 && apic_read(TIMER_NOW) == 0, "deadline mode: the count is not used");
	wrmsr(MSR_DEADLINE, rdmsr(MSR_TSC));
	window();
	check(arrived[0x32] == 1 && rdmsr(MSR_DEADLINE) == 0, "a deadline that has passed: %u", arrived[0x32]);
	run_kernel(p_deadline_now, 0, 0);
	check(t->vector == 0x32 && t->rip == address(p_deadline_now) + 15,
	      "right after WRMSR: vector 0x%lx at +%ld", t->vector, t->rip - address(p_deadline_now));
	apic_write(EOI, 0);
	start = rdtsc() + 100000;
	wrmsr(MSR_DEADLINE, start);
	check(rdmsr(MSR_DEADLINE) == start, "it reads 0x%lx", rdmsr(MSR_DEADLINE));
	sti();
	while (arrived[0x32] < 2)
		__asm__ volatile("hlt");
	cli();
	check(rdtsc() >= start && rdmsr(MSR_DEADLINE) == 0, "the deadline was kept");
	wrmsr(MSR_DEADLINE, rdtsc() + 100000);
	wrmsr(MSR_DEADLINE, 0);
	check(rdmsr(MSR_DEADLINE) == 0, "0 disarms it");
	wrmsr(MSR_DEADLINE, rdtsc() + 1000000);
	apic_write(LVT_TIMER, 0x32 | MASKED);
	check(rdmsr(MSR_DEADLINE) == 0, "leaving the mode disarms it: 0x%lx", rdmsr(MSR_DEADLINE));
}

/* ---- the I/O APIC ---- */

enum { LINE = 14, LINE2 = 15, LEVEL = 1 << 15, REMOTE_IRR = 1 << 14 };

static u32 io_read(u32 reg)
{
	*(volatile u32 *)0xfec00000ul = reg;
	return *(volatile u32 *)0xfec00010ul;
}

static void io_write(u32 reg, u32 v)
{
	*(volatile u32 *)0xfec00000ul = reg;
	*(volatile u32 *)0xfec00010ul = v;
}

static void redirect(unsigned line, u32 low)
{
	io_write(0x10 + 2 * line, low);
	io_write(0x11 + 2 * line, 0);
}

static void raise(unsigned line, bool up) { outb((u16)(0x2000 + line), up); }

static void pulse(unsigned line)
{
	raise(line, true);
	raise(line, false);
}

static void io_registers(void)
{
	u32 id = io_read(0), version = io_read(1);

	io_write(1, ~version);
	check(io_read(1) == version, "I/O APIC version is read-only: 0x%x", io_read(1));
	io_write(0, ~id);
	check((io_read(0) ^ id) == 0x0f000000, "I/O APIC ID: four bits: 0x%x", io_read(0));
	io_write(0, 0x0f000000);
	check(io_read(2) == 0x0f000000, "arbitration ID: 0x%x", io_read(2));
	io_write(2, 0);
	check(io_read(2) == 0x0f000000, "is read-only: 0x%x", io_read(2));
	io_write(0, id);
}

static void lower_line(unsigned vector)
{
	raise(LINE, false);
	check(apic_bit(TMR, vector) == ((io_read(0x10 + 2 * LINE) & LEVEL) != 0),
	      "trigger mode of vector 0x%x", vector);
	if (io_read(0x10 + 2 * LINE) & LEVEL)
		check(io_read(0x10 + 2 * LINE) & REMOTE_IRR, "remote IRR until the EOI");
}

static void raise_again(unsigned vector)
{
	if (arrived[vector] == 1) {
		raise(LINE, false);
		raise(LINE, true);
	}
	raise(LINE, false);
}

static void lower_second(unsigned vector)
{
	if (arrived[vector] == 2)
		raise(LINE, false);
}

static void mask_line(unsigned vector) { redirect(LINE, vector | LEVEL | MASKED); }

static void io_edges(void)
{
	forget(lower_line);
	redirect(LINE, 0x76);
	sti();
	pulse(LINE);
	nop();
	check(arrived[0x76] == 1, "edge: %u", arrived[0x76]);
	raise(LINE, true);
	nop();
	cli();
	check(arrived[0x76] == 2, "another: %u", arrived[0x76]);
	forget(NULL);
	redirect(LINE, 0x78);
	redirect(LINE2, 0x66);
	pulse(LINE2);
	pulse(LINE);
	window();
	window();
	check(orders == 2 && order[0] == 0x78 && order[1] == 0x66, "two at once, the higher first: %u", orders);
	redirect(LINE2, MASKED);
	redirect(LINE, 0x79 | MASKED);
	pulse(LINE);
	window();
	check(arrived[0x79] == 0, "masked edge");
	redirect(LINE, 0x79);
	window();
	check(arrived[0x79] == 0, "is lost");
	pulse(LINE);
	window();
	check(arrived[0x79] == 1, "the next is not");
}

static void io_levels(void)
{
	forget(lower_line);
	redirect(LINE, 0x77 | LEVEL);
	sti();
	raise(LINE, true);
	nop();
	check(arrived[0x77] == 1 && !(io_read(0x10 + 2 * LINE) & REMOTE_IRR), "level: %u", arrived[0x77]);
	raise(LINE, true);
	raise(LINE, true);
	nop();
	check(arrived[0x77] == 3, "twice more: %u", arrived[0x77]);
	forget(raise_again);
	redirect(LINE, 0x98 | LEVEL);
	raise(LINE, true);
	nop();
	check(arrived[0x98] == 1, "up and down while in service: %u", arrived[0x98]);
	cli();
	forget(lower_second);
	redirect(LINE, 0x9a | LEVEL);
	raise(LINE, true);
	for (unsigned i = 0; i < 10 && arrived[0x9a] < 2; i++)
		__asm__ volatile("sti; hlt; cli");
	check(arrived[0x9a] == 2, "still up at the EOI: again: %u", arrived[0x9a]);
	forget(lower_line);
	redirect(LINE, 0x82 | LEVEL | MASKED);
	sti();
	raise(LINE, true);
	nop();
	check(arrived[0x82] == 0, "masked level");
	redirect(LINE, 0x82 | LEVEL);
	nop();
	check(arrived[0x82] == 1, "is seen when unmasked: %u", arrived[0x82]);
	forget(mask_line);
	redirect(LINE, 0x83 | LEVEL);
	raise(LINE, true);
	nop();
	check(arrived[0x83] == 1, "masked in its handler: %u", arrived[0x83]);
	redirect(LINE, 0x83 | LEVEL);
	nop();
	check(arrived[0x83] == 2, "unmasked: again: %u", arrived[0x83]);
	raise(LINE, false);
	cli();
	redirect(LINE, MASKED);
}

/* ---- the time-stamp counter ---- */

static void time_stamps(void)
{
	u64 far = 100000000000ull, before, adjust;
	u32 lo, hi, aux;

	check(rdmsr(MSR_TSC_ADJUST) == 0, "TSC_ADJUST is 0 at first: 0x%lx", rdmsr(MSR_TSC_ADJUST));
	before = rdtsc();
	wrmsr(MSR_TSC_ADJUST, far);
	check(rdmsr(MSR_TSC_ADJUST) == far && rdtsc() - before >= far, "TSC_ADJUST moves the counter");
	wrmsr(MSR_TSC_ADJUST, 0);
	check(rdtsc() - before < far, "and back");
	before = rdtsc();
	wrmsr(MSR_TSC, far);
	adjust = rdmsr(MSR_TSC_ADJUST);
	check(rdtsc() >= far && rdtsc() < far + 1000000, "writing the counter");
	check(before <= far - adjust && adjust > far - before - 100000,
	             "is in TSC_ADJUST: 0x%lx", adjust);
	/* The counter goes on from 0 when it is full, whether or not a device is asked something meanwhile. */
	wrmsr(MSR_TSC, 0 - 1000ull);
	while (rdtsc() > far)
		__asm__ volatile("pause");
	wrmsr(MSR_TSC, 0 - 1000ull);
	while (rdtsc() > far)
		__asm__ volatile("in $0x61, %%al" ::: "rax");
	check(rdtsc() < far, "the counter is full");
	wrmsr(MSR_TSC_ADJUST, 0);
	for (u32 v = 1; v < 0x10000; v *= 10) {
		wrmsr(MSR_TSC_AUX, v);
		__asm__ volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(aux));
		check(aux == v, "RDTSCP gives TSC_AUX: 0x%x", aux);
		if (cpuid(7, 0).c >> 22 & 1) {
			__asm__ volatile(".byte 0xf3, 0x0f, 0xc7, 0xf8" : "=a"(adjust));
			check(adjust == v, "RDPID gives TSC_AUX: 0x%lx", adjust);
		}
	}
	run_kernel(p_wrmsr, MSR_TSC_AUX, 1ull << 32);
	expect("TSC_AUX, bit 32", V_GP, 0);
}

int main(void)
{
	static void (*const groups[])(void) = {
	        modes,           turned_off, relocated,      page_registers, msr_registers,
	        both_interfaces, nmis,       timer_one_shot, timer_modes,    timer_deadline,
	        io_registers,    io_edges,   io_levels,      time_stamps,
	};

	trap_hook = arrival;
	apic_write(SVR, 0x1ff);
	for (unsigned i = 0; i < ARRAY_SIZE(groups); i++)
		groups[i]();
	finish("apic");
}
