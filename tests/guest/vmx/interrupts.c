/*
 * "Events That Cause VM Exits between instructions": external interrupts, NMIs, the windows, the preemption timer, the
 * monitor trap flag, and the HLT activity state.
 */
#include "vmx.h"

enum { APIC_TPR = 0x80, APIC_EOI = 0xb0, APIC_SPURIOUS = 0xf0, APIC_IRR = 0x200, APIC_ICR = 0x300,
       APIC_ICR_HIGH = 0x310,
       VECTOR = 0x60 };
#define APIC_AT 0xfee00000ull

static volatile u32 *apic(unsigned offset) { return (volatile u32 *)(uintptr_t)(APIC_AT + offset); }

static u64 last_vector;
static void hook(u64 vector) { last_vector = vector; }

/* An interrupt of this processor to itself. */
static void self_interrupt(void) { *apic(APIC_ICR) = 1 << 18 | VECTOR; }
static bool pending(void) { return *apic(APIC_IRR + 0x10 * (VECTOR / 32)) >> (VECTOR & 31) & 1; }

/* The host takes what is pending, and says so to the APIC. */
static u64 take(void)
{
	last_vector = 0;
	__asm__ volatile("sti; nop; nop; cli" : : : "memory");
	if (last_vector)
		*apic(APIC_EOI) = 0;
	return last_vector;
}

GUEST(w_nops, "nop; w_nops_2: nop; w_nops_3: nop");
GUEST(w_sti, "sti; w_sti_2: nop; w_sti_3: nop; w_sti_4: nop");
GUEST(w_popf, "pushf; orl $0x200, (%rsp); popf; w_popf_2: nop; nop");
GUEST(w_hlt, "hlt; w_hlt_2: nop");
GUEST(w_sti_hlt, "sti; w_sti_hlt_2: hlt; nop");
GUEST(w_movss, "mov %eax, %ss; w_movss_2: nop; w_movss_3: nop");
GUEST(w_spin, "1: pause; dec %rcx; jnz 1b");
GUEST(w_nmi, "mov %eax, (%rbx); 1: pause; dec %rcx; jnz 1b");
GUEST(w_iret, "iretq");
GUEST(w_rep, "rep stosb");
GUEST(w_ud, "ud2");
GUEST(w_int, "int $0x50");
GUEST(w_cpuid, "cpuid");
PIECE(w_nothing, "nop; nop");
extern const char w_nops_2[], w_nops_3[], w_sti_2[], w_sti_3[], w_hlt_2[], w_sti_hlt_2[], w_movss_3[], w_popf_2[];

static void at_rip(const char *what, u32 reason, const char *rip)
{
	if (expect_reason(what, reason))
		expect_field(what, "RIP", F_GUEST_RIP, at(rip));
}

/* ---- external interrupts ---- */

static void external_case(const char *what, bool ack, u64 rflags, u32 blocking, u32 activity, const char *code,
			  const char *rip)
{
	vm_good(LONG);
	vm_or(F_PIN, PIN_EXTINT);
	vm_or(F_EXIT, ack ? X_ACK : 0);
	vm_or(F_GUEST_RFLAGS, rflags);
	vm_put(F_INTERRUPTIBILITY, blocking);
	vm_put(F_ACTIVITY, activity);
	reg[G_RAX] = SEL_DATA;
	self_interrupt();
	if (!vm_run(what, code))
		return;
	at_rip(what, R_EXTINT, rip);
	expect_field(what, "activity state", F_ACTIVITY, activity);
	expect_field(what, "interruptibility", F_INTERRUPTIBILITY, 0);
	check((vm_get(F_GUEST_RFLAGS) & FLAG_RF) == (rflags & FLAG_RF), "%s: RFLAGS 0x%lx", what,
	      vm_get(F_GUEST_RFLAGS));
	if (ack)
		expect_field(what, "exit information", F_EXIT_INFO, INFO(T_EXTERNAL, VECTOR));
	else
		check(!(vm_get(F_EXIT_INFO) & INFO_VALID), "%s: exit information 0x%lx", what, vm_get(F_EXIT_INFO));
	check(pending() == !ack, "%s: the interrupt is pending afterwards", what);
	if (ack)
		*apic(APIC_EOI) = 0;
	else
		check(take() == VECTOR, "%s: the host gets vector %ld", what, last_vector);
	check(take() == 0, "%s: nothing is left", what);
}

static void external_interrupts(void)
{
	if (!can_pin(PIN_EXTINT) || !can_exit(X_ACK)) {
		skip("external-interrupt exiting");
		return;
	}
	for (unsigned ack = 0; ack < 2; ack++) {
		external_case("external interrupt", ack, FLAG_IF, 0, ACTIVE, w_nops, w_nops);
		external_case("external interrupt, RF", ack, FLAG_IF | FLAG_RF, 0, ACTIVE, w_nops, w_nops);
		external_case("external interrupt, IF clear", ack, 0, 0, ACTIVE, w_nops, w_nops);
		external_case("external interrupt behind STI", ack, FLAG_IF, BLOCK_STI, ACTIVE, w_nops, w_nops_2);
		external_case("external interrupt behind MOV SS", ack, FLAG_IF, BLOCK_MOVSS, ACTIVE, w_nops, w_nops_2);
		external_case("external interrupt in HLT", ack, FLAG_IF, 0, HALTED, w_nops, w_nops);
		external_case("external interrupt in HLT, IF clear", ack, 0, 0, HALTED, w_nops, w_nops);
	}
	/* The APIC's priority holds it back as ever. */
	vm_good(LONG);
	vm_or(F_PIN, PIN_EXTINT);
	vm_or(F_GUEST_RFLAGS, FLAG_IF);
	*apic(APIC_TPR) = 0xf0;
	self_interrupt();
	if (vm_run("external interrupt below the TPR", w_nops))
		expect_call("external interrupt below the TPR", w_nops_next);
	*apic(APIC_TPR) = 0;
	/* It waits for the event that is injected. */
	vm_good(LONG);
	vm_or(F_PIN, PIN_EXTINT);
	vm_or(F_GUEST_RFLAGS, FLAG_IF);
	vm_put(F_INJECT, INFO(T_EXTERNAL, 0x50));
	if (vm_run("external interrupt and injection", w_nops))
		at_rip("external interrupt and injection", R_EXTINT, guest_vectors + 16 * 0x50);
	/* The windows come before it, that of NMIs first. */
	vm_good(LONG);
	vm_or(F_PIN, PIN_EXTINT);
	vm_or(F_GUEST_RFLAGS, FLAG_IF);
	if (can_proc(PROC_INTWIN)) {
		vm_or(F_PROC, PROC_INTWIN);
		if (vm_run("interrupt window and external interrupt", w_nops))
			at_rip("interrupt window and external interrupt", R_INTWIN, w_nops);
	}
	if (can_proc(PROC_NMIWIN | PROC_INTWIN)) {
		vm_or(F_PIN, PIN_NMI | PIN_VNMI);
		vm_or(F_PROC, PROC_NMIWIN);
		if (vm_run("both windows and external interrupt", w_nops))
			at_rip("both windows and external interrupt", R_NMIWIN, w_nops);
	}
	check(take() == VECTOR, "it is still pending");
	/* Without the control it is the guest's. */
	vm_good(LONG);
	vm_or(F_GUEST_RFLAGS, FLAG_IF);
	self_interrupt();
	if (vm_run("external interrupt of the guest", w_nops) &&
	    expect_event("external interrupt of the guest", VECTOR, 0))
		check(vm_frame()->rip == at(w_nops), "external interrupt of the guest: RIP 0x%lx", vm_frame()->rip);
	*apic(APIC_EOI) = 0;
	vm_good(LONG);
	self_interrupt();
	if (vm_run("external interrupt, IF of the guest clear", w_nops))
		expect_call("external interrupt, IF of the guest clear", w_nops_next);
	check(take() == VECTOR, "it is pending in the host");
	vm_good(LONG);
	self_interrupt();
	if (vm_run("external interrupt after STI of the guest", w_sti) &&
	    expect_event("external interrupt after STI of the guest", VECTOR, 0))
		check(vm_frame()->rip == at(w_sti_3), "external interrupt after STI of the guest: RIP 0x%lx",
		      vm_frame()->rip);
	*apic(APIC_EOI) = 0;
	vm_good(LONG);
	self_interrupt();
	if (vm_run("external interrupt wakes from HLT", w_sti_hlt) &&
	    expect_event("external interrupt wakes from HLT", VECTOR, 0)) {
		u64 rip = vm_frame()->rip;

		/* Pending when HLT begins: taken before it, or after it. */
		check(rip == at(w_sti_hlt_2) + 1, "external interrupt wakes from HLT: RIP 0x%lx", rip);
		expect_field("external interrupt wakes from HLT", "activity state", F_ACTIVITY, ACTIVE);
	}
	*apic(APIC_EOI) = 0;
	vm_good(LONG);
	vm_or(F_GUEST_RFLAGS, FLAG_IF);
	vm_put(F_ACTIVITY, HALTED);
	self_interrupt();
	if (vm_run("external interrupt, entered in HLT", w_nops))
		expect_event("external interrupt, entered in HLT", VECTOR, 0);
	*apic(APIC_EOI) = 0;
}

/* ---- NMIs: the guest sends them to itself ---- */

static u64 nmi_begin(u32 pin)
{
	vm_good(LONG);
	vm_or(F_PIN, pin);
	reg[G_RAX] = 1 << 18 | 4 << 8;
	reg[G_RBX] = APIC_AT + APIC_ICR;
	reg[G_RCX] = 1000;
	return 0;
}

static void nmis(void)
{
	/* Shorthands take fixed delivery only on some processors; by its number any takes NMI. */
	nmi_begin(0);
	reg[G_RAX] = 4 << 8;
	*apic(APIC_ICR_HIGH) = *apic(0x20);
	if (vm_run("NMI of the guest", w_nmi) && expect_event("NMI of the guest", V_NMI, 0))
		expect_field("NMI of the guest", "interruptibility", F_INTERRUPTIBILITY, BLOCK_NMI);
	if (!can_pin(PIN_NMI)) {
		skip("NMI exiting");
		return;
	}
	for (unsigned virtual = 0; virtual < 2; virtual++) {
		if (virtual && !can_pin(PIN_VNMI))
			continue;
		nmi_begin(PIN_NMI | (virtual ? PIN_VNMI : 0));
		reg[G_RAX] = 4 << 8;
		*apic(APIC_ICR_HIGH) = *apic(0x20);
		if (virtual) /* blocks virtual NMIs only */
			vm_put(F_INTERRUPTIBILITY, BLOCK_NMI);
		if (!vm_run("NMI", w_nmi) || !expect_exit("NMI", R_EXCEPTION, 0))
			continue;
		expect_field("NMI", "exit information", F_EXIT_INFO, INFO(T_NMI, V_NMI));
		expect_field("NMI", "interruptibility", F_INTERRUPTIBILITY, virtual ? BLOCK_NMI : 0);
		/* The host has NMIs blocked now, until an IRET: one more stays pending. */
		trap_hook = hook;
		last_vector = 0;
		*apic(APIC_ICR) = 4 << 8;
		for (volatile int i = 0; i < 100; i++)
			;
		check(last_vector == 0, "NMI exit: NMIs are blocked in the host");
		run_code(w_nothing, KERNEL, 0, 0); /* begins with an IRET */
		check(last_trap.vector == V_NMI, "NMI exit: IRET unblocks NMIs in the host: vector %ld",
		      last_trap.vector);
		run_code(w_nothing, KERNEL, 0, 0);
		check(last_trap.vector == V_DONE, "NMI exit: there was one NMI: vector %ld", last_trap.vector);
	}
}

/* ---- windows ---- */

static void interrupt_window(void)
{
	static const struct { const char *what; u64 rflags; u32 blocking, activity; const char *code, *rip; } list[] = {
		{ "interrupt window, open", FLAG_IF, 0, ACTIVE, w_nops, w_nops },
		{ "interrupt window behind STI", FLAG_IF, BLOCK_STI, ACTIVE, w_nops, w_nops_2 },
		{ "interrupt window behind MOV SS", FLAG_IF, BLOCK_MOVSS, ACTIVE, w_nops, w_nops_2 },
		{ "interrupt window after STI", 0, 0, ACTIVE, w_sti, w_sti_3 },
		{ "interrupt window in HLT", FLAG_IF, 0, HALTED, w_nops, w_nops },
		{ "interrupt window after POPF", 0, 0, ACTIVE, w_popf, w_popf_2 },
		{ "interrupt window, STI and HLT", 0, 0, ACTIVE, w_sti_hlt, w_sti_hlt_2 + 1 },
	};

	if (!can_proc(PROC_INTWIN)) {
		skip("interrupt-window exiting");
		return;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		vm_good(LONG);
		vm_or(F_PROC, PROC_INTWIN);
		vm_or(F_GUEST_RFLAGS, list[i].rflags);
		vm_put(F_INTERRUPTIBILITY, list[i].blocking);
		vm_put(F_ACTIVITY, list[i].activity);
		if (!vm_run(list[i].what, list[i].code))
			continue;
		if (expect_exit(list[i].what, R_INTWIN, 0))
			expect_field(list[i].what, "RIP", F_GUEST_RIP, at(list[i].rip));
		expect_field(list[i].what, "interruptibility", F_INTERRUPTIBILITY, 0);
		if (i == 4)
			expect_field(list[i].what, "activity state", F_ACTIVITY, HALTED);
	}
	vm_good(LONG);
	vm_or(F_PROC, PROC_INTWIN);
	if (vm_run("interrupt window, closed", w_nops))
		expect_call("interrupt window, closed", w_nops_next);
	/* After an injected event: in the handler the window is closed, and opens with its IRET. */
	vm_good(LONG);
	vm_or(F_PROC, PROC_INTWIN);
	vm_or(F_GUEST_RFLAGS, FLAG_IF);
	vm_put(F_INJECT, INFO(T_EXTERNAL, 0x50));
	if (vm_run("interrupt window and injection", w_nops) &&
	    expect_event("interrupt window and injection", 0x50, 0)) {
		vm_skip();
		if (vm_go("interrupt window after IRET"))
			at_rip("interrupt window after IRET", R_INTWIN, w_nops);
	}
}

static void nmi_window(void)
{
	if (!can_proc(PROC_NMIWIN)) {
		skip("NMI-window exiting");
		return;
	}
	for (unsigned i = 0; i < 4; i++) {
		static const u32 blocking[] = { 0, BLOCK_MOVSS, BLOCK_NMI, 0 };

		vm_good(LONG);
		vm_or(F_PIN, PIN_NMI | PIN_VNMI);
		vm_or(F_PROC, PROC_NMIWIN);
		vm_put(F_INTERRUPTIBILITY, blocking[i]);
		vm_put(F_ACTIVITY, i == 3 ? HALTED : ACTIVE);
		if (!vm_run("NMI window", w_nops))
			continue;
		if (i == 2)
			expect_call("NMI window, closed", w_nops_next);
		else
			at_rip("NMI window", R_NMIWIN, i == 1 ? w_nops_2 : w_nops);
		if (i == 3)
			expect_field("NMI window", "activity state", F_ACTIVITY, HALTED);
	}
	/* An injected NMI's handler: the window opens with IRET. */
	vm_good(LONG);
	vm_or(F_PIN, PIN_NMI | PIN_VNMI);
	vm_or(F_PROC, PROC_NMIWIN);
	vm_put(F_INJECT, INFO(T_NMI, V_NMI));
	if (vm_run("NMI window and injection", w_nops) && expect_event("NMI window and injection", V_NMI, 0)) {
		vm_skip();
		if (vm_go("NMI window after IRET"))
			at_rip("NMI window after IRET", R_NMIWIN, w_nops);
	}
}

void group_interrupts(void)
{
	trap_hook = hook;
	*apic(APIC_SPURIOUS) = 0x1ff;
	external_interrupts();
	nmis();
	interrupt_window();
	nmi_window();
	trap_hook = 0;
	expect_good("interrupts");
}

/* ---- the preemption timer, MTF ---- */

static void timer_begin(u32 value, bool save)
{
	vm_good(LONG);
	vm_or(F_PIN, PIN_TIMER);
	vm_or(F_EXIT, save ? X_SAVE_TIMER : 0);
	vm_put(F_GUEST_TIMER, value);
}

static void preemption_timer(void)
{
	if (!can_pin(PIN_TIMER)) {
		skip("the preemption timer");
		return;
	}
	timer_begin(0, true);
	if (vm_run("preemption timer, 0", w_nops)) {
		at_rip("preemption timer, 0", R_TIMER, w_nops);
		expect_field("preemption timer, 0", "timer", F_GUEST_TIMER, 0);
		expect_field("preemption timer, 0", "qualification", F_QUALIFICATION, 0);
	}
	timer_begin(1000, true);
	reg[G_RCX] = 100000000;
	if (vm_run("preemption timer", w_spin) && expect_reason("preemption timer", R_TIMER)) {
		expect_field("preemption timer", "timer", F_GUEST_TIMER, 0);
		check(reg[G_RCX] < 100000000, "preemption timer: the guest ran");
	}
	timer_begin(1000, false);
	reg[G_RCX] = 100000000;
	if (vm_run("preemption timer, not saved", w_spin) && expect_reason("preemption timer, not saved", R_TIMER))
		expect_field("preemption timer, not saved", "timer", F_GUEST_TIMER, 1000);
	timer_begin(0xffffffff, true);
	reg[G_RCX] = 10000;
	if (vm_run("preemption timer that does not expire", w_spin) &&
	    expect_call("preemption timer that does not expire", w_spin_next))
		check(vm_get(F_GUEST_TIMER) < 0xffffffff && vm_get(F_GUEST_TIMER) > 0,
		      "preemption timer: 0x%lx is left",
		      vm_get(F_GUEST_TIMER));
	timer_begin(100, true);
	vm_put(F_ACTIVITY, HALTED);
	if (vm_run("preemption timer in HLT", w_nops)) {
		at_rip("preemption timer in HLT", R_TIMER, w_nops);
		expect_field("preemption timer in HLT", "activity state", F_ACTIVITY, HALTED);
	}
	/* The injected event is delivered first. */
	timer_begin(0, true);
	vm_or(F_GUEST_RFLAGS, FLAG_IF);
	vm_put(F_INJECT, INFO(T_EXTERNAL, 0x50));
	if (vm_run("preemption timer and injection", w_nops))
		at_rip("preemption timer and injection", R_TIMER, guest_vectors + 16 * 0x50);
	/* It comes before the windows, but after a debug trap that was pending. */
	timer_begin(0, true);
	vm_or(F_PROC, PROC_INTWIN);
	vm_or(F_GUEST_RFLAGS, FLAG_IF);
	if (vm_run("preemption timer and interrupt window", w_nops))
		at_rip("preemption timer and interrupt window", R_TIMER, w_nops);
	timer_begin(0, true);
	vm_put(F_PENDING_DEBUG, 1 << 14);
	vm_or(F_GUEST_RFLAGS, FLAG_TF);
	vm_put(F_EXCEPTIONS, 1 << V_DB);
	if (vm_run("preemption timer and a pending debug exception", w_nops))
		at_rip("preemption timer and a pending debug exception", R_EXCEPTION, w_nops);
}

static void mtf_begin(void)
{
	vm_good(LONG);
	vm_or(F_PROC, PROC_MTF);
	reg[G_RAX] = SEL_DATA;
}

static void mtf_case(const char *what, const char *code, const char *rip)
{
	if (!vm_run(what, code) || !expect_exit(what, R_MTF, 0))
		return;
	expect_field(what, "RIP", F_GUEST_RIP, at(rip));
}

static void monitor_trap(void)
{
	static u8 buffer[16];

	if (!can_proc(PROC_MTF)) {
		skip("the monitor trap flag");
		return;
	}
	mtf_begin();
	mtf_case("MTF", w_nops, w_nops_2);
	mtf_case("MTF, the next", w_nops_2, w_nops_3);
	mtf_begin();
	mtf_case("MTF at MOV SS", w_movss, w_movss + 2);
	expect_field("MTF at MOV SS", "interruptibility", F_INTERRUPTIBILITY, BLOCK_MOVSS);
	mtf_begin();
	mtf_case("MTF at #UD", w_ud, guest_vectors + 16 * V_UD);
	mtf_begin();
	mtf_case("MTF at INT n", w_int, guest_vectors + 16 * 0x50);
	mtf_begin();
	vm_or(F_GUEST_RFLAGS, FLAG_IF);
	vm_put(F_INJECT, INFO(T_EXTERNAL, 0x50));
	mtf_case("MTF and injection", w_nops, guest_vectors + 16 * 0x50);
	mtf_begin();
	reg[G_RCX] = 5;
	reg[G_RDI] = at(buffer);
	mtf_case("MTF at a string instruction", w_rep, w_rep);
	check(reg[G_RCX] == 4, "MTF at a string instruction: RCX %ld", reg[G_RCX]);
	/* An instruction that exits does so by itself. */
	mtf_begin();
	if (vm_run("MTF at CPUID", w_cpuid))
		at_rip("MTF at CPUID", R_CPUID, w_cpuid);
	/* An exit that is pending when the entry ends, with nothing run. */
	vm_good(LONG);
	vm_put(F_INJECT, INFO(T_OTHER, 0));
	mtf_case("injected MTF", w_nops, w_nops);
	vm_good(LONG);
	vm_put(F_ACTIVITY, HALTED);
	vm_put(F_INJECT, INFO(T_OTHER, 0));
	mtf_case("injected MTF in HLT", w_nops, w_nops);
	expect_field("injected MTF in HLT", "activity state", F_ACTIVITY, HALTED);
	/* A debug trap of the same instruction is kept for later. */
	mtf_begin();
	vm_or(F_GUEST_RFLAGS, FLAG_TF);
	vm_put(F_EXCEPTIONS, 1 << V_DB);
	mtf_case("MTF and a single step", w_nops, w_nops_2);
	expect_field("MTF and a single step", "pending debug exceptions", F_PENDING_DEBUG, 1 << 14);
}

/* HLT in the guest without its exit, woken by the timer. */
static void halted(void)
{
	if (!can_pin(PIN_TIMER))
		return;
	timer_begin(5000, true);
	if (vm_run("HLT in the guest", w_hlt)) {
		at_rip("HLT in the guest", R_TIMER, w_hlt_2);
		expect_field("HLT in the guest", "activity state", F_ACTIVITY, HALTED);
	}
}

void group_timers(void)
{
	preemption_timer();
	monitor_trap();
	halted();
	expect_good("timers");
}
