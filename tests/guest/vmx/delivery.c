/*
 * Exits in the midst of delivering an event ("Information for VM Exits That Occur During Event Delivery"), and the
 * event delivered again by injecting what the exit told.
 */
#include "vmx.h"

GUEST(v_int, "int $0x50");
GUEST(v_int3, "int3");
GUEST(v_ud, "ud2");
GUEST(v_icebp, ".byte 0xf1");
GUEST(v_load, "mov (%rbx), %al");
GUEST(v_gp, "mov $1, %rcx; ror $1, %rcx; v_gp_at: mov (%rcx), %al");
extern const char v_gp_at[];

struct delivery {
	const char *what, *code, *at;
	u32 inject, inject_error, inject_length; /* or by the code */
	u32 vectoring, error, length;            /* what the exit tells of the event */
};

static const struct delivery deliveries[] = {
	{ "an injected interrupt", g_call, g_call, INFO(T_EXTERNAL, 0x50), 0, 0, INFO(T_EXTERNAL, 0x50), 0, 0 },
	{ "an injected NMI", g_call, g_call, INFO(T_NMI, V_NMI), 0, 0, INFO(T_NMI, V_NMI), 0, 0 },
	{ "an injected #GP", g_call, g_call, INFO(T_HARD, V_GP) | INFO_ERROR, 0x1238, 0,
	  INFO(T_HARD, V_GP) | INFO_ERROR, 0x1238, 0 },
	{ "an injected #UD", g_call, g_call, INFO(T_HARD, V_UD), 0, 0, INFO(T_HARD, V_UD), 0, 0 },
	{ "an injected INT n", g_call, g_call, INFO(T_SOFT_INT, 0x50), 0, 7, INFO(T_SOFT_INT, 0x50), 0, 7 },
	{ "an injected INT3", g_call, g_call, INFO(T_SOFT, V_BP), 0, 1, INFO(T_SOFT, V_BP), 0, 1 },
	{ "an injected INT1", g_call, g_call, INFO(T_PRIV, V_DB), 0, 1, INFO(T_PRIV, V_DB), 0, 1 },
	{ "INT n", v_int, v_int, 0, 0, 0, INFO(T_SOFT_INT, 0x50), 0, 2 },
	{ "INT3", v_int3, v_int3, 0, 0, 0, INFO(T_SOFT, V_BP), 0, 1 },
	{ "INT1", v_icebp, v_icebp, 0, 0, 0, INFO(T_PRIV, V_DB), 0, 1 },
	{ "#UD", v_ud, v_ud, 0, 0, 0, INFO(T_HARD, V_UD), 0, 0 },
	{ "#GP", v_gp, v_gp_at, 0, 0, 0, INFO(T_HARD, V_GP) | INFO_ERROR, 0, 0 },
};

static void begin(const struct delivery *d)
{
	vm_or(F_GUEST_RFLAGS, FLAG_IF);
	vm_put(F_INJECT, d->inject);
	vm_put(F_INJECT_ERROR, d->inject_error);
	vm_put(F_INJECT_LEN, d->inject_length);
}

static void expect_vectoring(const struct delivery *d)
{
	expect_field(d->what, "IDT-vectoring information", F_VECTORING, d->vectoring);
	if (d->vectoring & INFO_ERROR)
		expect_field(d->what, "IDT-vectoring error code", F_VECTORING_ERROR, d->error);
	if (d->length)
		expect_field(d->what, "instruction length", F_EXIT_LEN, d->length);
	expect_field(d->what, "RIP", F_GUEST_RIP, at(d->at));
	expect_field(d->what, "RSP", F_GUEST_RSP, at(guest_stack_top));
	expect_field(d->what, "the event to inject", F_INJECT, d->inject & ~INFO_VALID);
}

/* As a hypervisor does: what was being delivered is injected, and now arrives. */
static void deliver_again(const struct delivery *d)
{
	unsigned vector = d->vectoring & 0xff;
	u64 length = vm_get(F_EXIT_LEN);

	vm_put(F_INJECT, vm_get(F_VECTORING));
	vm_put(F_INJECT_ERROR, vm_get(F_VECTORING_ERROR));
	vm_put(F_INJECT_LEN, d->length ? length : 0);
	vm_put(F_EXCEPTIONS, 0);
	if (!vm_go(d->what) || !expect_event(d->what, vector, d->vectoring & INFO_ERROR ? d->error : 0))
		return;
	check(vm_frame()->rip == at(d->at) + d->length, "%s, delivered again: RIP on the stack 0x%lx", d->what,
	      vm_frame()->rip);
}

/* The gate is not present: #NP, whose exit tells of the event. */
static void gate_not_present(const struct delivery *d)
{
	unsigned vector = d->vectoring & 0xff, type = d->vectoring >> 8 & 7;
	struct guest_gate old = guest_idt[vector];
	bool software = type == T_SOFT_INT || type == T_SOFT; /* INT1's error code says EXT */

	vm_good(LONG);
	begin(d);
	vm_put(F_EXCEPTIONS, 1 << V_NP);
	guest_idt[vector].low &= ~(1ull << 47);
	if (vector != V_GP && vm_run(d->what, d->code) && expect_reason(d->what, R_EXCEPTION)) {
		expect_field(d->what, "exit information", F_EXIT_INFO, INFO(T_HARD, V_NP) | INFO_ERROR);
		expect_field(d->what, "error code", F_EXIT_ERROR, vector << 3 | 2 | !software);
		expect_vectoring(d);
		guest_idt[vector] = old;
		deliver_again(d);
	}
	guest_idt[vector] = old;
}

/* Which of its pushes the processor tries first is its own business. */
static void on_page(const char *what, u32 field, u64 page)
{
	check(vm_get(field) >= page + 0xfd0 && vm_get(field) < page + PAGE,
	      "%s: field 0x%x is 0x%lx, expected to be on 0x%lx",
	      what, field, vm_get(field), page);
}

/* The handler's stack is not mapped: a page fault that exits. */
static void stack_not_mapped(const struct delivery *d)
{
	unsigned vector = d->vectoring & 0xff;
	struct guest_gate old = guest_idt[vector];
	u8 *tss = (u8 *)(uintptr_t)vm_get(F_GUEST_TR_BASE);
	u64 stack = TEST_LINEAR + 0x1000;

	vm_good(LONG);
	begin(d);
	vm_put(F_EXCEPTIONS, 1 << V_PF);
	test_pt[0] = 0;
	memcpy(tss + 0x24, &stack, 8); /* IST1 */
	guest_idt[vector].low |= 1ull << 32;
	if (vm_run(d->what, d->code) && expect_reason(d->what, R_EXCEPTION)) {
		on_page(d->what, F_QUALIFICATION, TEST_LINEAR);
		expect_field(d->what, "exit information", F_EXIT_INFO, INFO(T_HARD, V_PF) | INFO_ERROR);
		expect_field(d->what, "error code", F_EXIT_ERROR, 2);
		expect_vectoring(d);
		test_pt[0] = at(test_pages) | 0x67;
		deliver_again(d);
	}
	test_pt[0] = 0;
	guest_idt[vector] = old;
}

/* An EPT violation: at the stack, by the guest-physical page behind it. */
static void ept_violation(const struct delivery *d)
{
	unsigned vector = d->vectoring & 0xff;
	struct guest_gate old = guest_idt[vector];
	u8 *tss = (u8 *)(uintptr_t)vm_get(F_GUEST_TR_BASE);
	u64 stack = TEST_LINEAR + 0x1000;

	vm_good_ept(LONG, false);
	begin(d);
	test_pt[0] = TEST_GPA | 0x67;
	ept_test_pt[0] &= ~EPT_W;
	memcpy(tss + 0x24, &stack, 8);
	guest_idt[vector].low |= 1ull << 32;
	if (vm_run(d->what, d->code) && expect_reason(d->what, R_EPT_VIOLATION)) {
		check((vm_get(F_QUALIFICATION) & 0x1ff) == (2 | 5 << 3 | 0x180), "%s: qualification 0x%lx", d->what,
		      vm_get(F_QUALIFICATION));
		on_page(d->what, F_GUEST_LINEAR, TEST_LINEAR);
		on_page(d->what, F_GUEST_PHYSICAL, TEST_GPA);
		expect_vectoring(d);
		ept_test_pt[0] |= EPT_W;
		deliver_again(d);
	}
	test_pt[0] = 0;
	guest_idt[vector] = old;
}

/* A fault while a fault is delivered becomes #DF: its exit tells of no event; nor does a triple fault's. */
static void double_fault(void)
{
	struct guest_gate old_gp = guest_idt[V_GP], old_ud = guest_idt[V_UD];

	guest_idt[V_GP].low &= ~(1ull << 47);
	vm_good(LONG);
	vm_put(F_EXCEPTIONS, 1 << V_DF);
	if (vm_run("double fault", v_gp) && expect_exit("double fault", R_EXCEPTION, 0)) {
		expect_field("double fault", "exit information", F_EXIT_INFO, INFO(T_HARD, V_DF) | INFO_ERROR);
		expect_field("double fault", "error code", F_EXIT_ERROR, 0);
		expect_field("double fault", "IDT-vectoring information", F_VECTORING, 0);
		check(!(vm_get(F_GUEST_RFLAGS) & FLAG_RF), "double fault: RFLAGS.RF");
	}
	vm_good(LONG);
	if (vm_run("double fault, delivered", v_gp))
		expect_event("double fault, delivered", V_DF, 0);
	guest_idt[V_GP] = old_gp;
	/* #UD is benign: #NP in its delivery is #NP. */
	guest_idt[V_UD].low &= ~(1ull << 47);
	vm_good(LONG);
	if (vm_run("#NP at #UD, delivered", v_ud))
		expect_event("#NP at #UD, delivered", V_NP, V_UD << 3 | 2 | 1);
	guest_idt[V_UD] = old_ud;
	/* A page fault whose handler is not there: #DF, through the IDT; and with no IDT at all the end. */
	vm_good(LONG);
	test_pt[0] = 0;
	reg[G_RBX] = TEST_LINEAR;
	vm_put(F_GUEST_IDTR_LIMIT, 14 * 16 - 1);
	if (vm_run("page fault without a gate", v_load))
		expect_event("page fault without a gate", V_DF, 0);
	vm_good(LONG);
	vm_put(F_GUEST_IDTR_LIMIT, 0);
	vm_put(F_INJECT, INFO(T_EXTERNAL, 0x50));
	vm_or(F_GUEST_RFLAGS, FLAG_IF);
	if (vm_run("interrupt without an IDT", g_call) && expect_exit("interrupt without an IDT", R_TRIPLE, 0))
		expect_field("interrupt without an IDT", "IDT-vectoring information", F_VECTORING, 0);
}

/* IRET ends blocking by NMI even if it faults then; the exit says so. */
GUEST(n_iret, "iretq");

static void nmi_unblocking(void)
{
	for (unsigned virtual = 0; virtual < 2; virtual++) {
		if (virtual && !can_pin(PIN_NMI | PIN_VNMI))
			continue;
		vm_good(LONG);
		vm_or(F_PIN, virtual ? PIN_NMI | PIN_VNMI : 0);
		vm_put(F_INTERRUPTIBILITY, BLOCK_NMI);
		vm_put(F_EXCEPTIONS, 1 << V_PF);
		test_pt[0] = 0;
		vm_put(F_GUEST_RSP, TEST_LINEAR);
		if (vm_run("IRET that faults", n_iret) && expect_reason("IRET that faults", R_EXCEPTION)) {
			check(vm_get(F_QUALIFICATION) - TEST_LINEAR < 40, "IRET that faults: at 0x%lx",
			      vm_get(F_QUALIFICATION));
			expect_field("IRET that faults", "exit information", F_EXIT_INFO,
				     INFO(T_HARD, V_PF) | INFO_ERROR | INFO_NMI_UNBLOCKED);
			expect_field("IRET that faults", "interruptibility", F_INTERRUPTIBILITY, 0);
		}
		if (!ept_testable())
			continue;
		vm_good_ept(LONG, false);
		vm_or(F_PIN, virtual ? PIN_NMI | PIN_VNMI : 0);
		vm_put(F_INTERRUPTIBILITY, BLOCK_NMI);
		test_pt[0] = TEST_GPA | 0x67;
		ept_test_pt[0] = 0;
		vm_put(F_GUEST_RSP, TEST_LINEAR);
		if (vm_run("IRET that meets an EPT violation", n_iret) &&
		    expect_reason("IRET that meets an EPT violation", R_EPT_VIOLATION)) {
			check((vm_get(F_QUALIFICATION) & 0x11ff) == (1 | 0x180 | 1 << 12),
			      "IRET that meets an EPT violation: qualification 0x%lx", vm_get(F_QUALIFICATION));
			expect_field("IRET that meets an EPT violation", "interruptibility", F_INTERRUPTIBILITY, 0);
		}
		test_pt[0] = 0;
	}
	if (!can_pin(PIN_NMI))
		return;
	/* With NMI exiting alone IRET does not touch the blocking. */
	vm_good(LONG);
	vm_or(F_PIN, PIN_NMI);
	vm_put(F_INTERRUPTIBILITY, BLOCK_NMI);
	vm_put(F_EXCEPTIONS, 1 << V_PF);
	vm_put(F_GUEST_RSP, TEST_LINEAR);
	if (vm_run("IRET under NMI exiting", n_iret) && expect_reason("IRET under NMI exiting", R_EXCEPTION)) {
		expect_field("IRET under NMI exiting", "exit information", F_EXIT_INFO,
			     INFO(T_HARD, V_PF) | INFO_ERROR);
		expect_field("IRET under NMI exiting", "interruptibility", F_INTERRUPTIBILITY, BLOCK_NMI);
	}
}

/* An NMI that cannot be delivered blocks virtual NMIs nevertheless. */
static void nmi_undelivered(void)
{
	struct guest_gate old = guest_idt[V_NMI];

	if (!can_pin(PIN_NMI | PIN_VNMI))
		return;
	vm_good(LONG);
	vm_or(F_PIN, PIN_NMI | PIN_VNMI);
	vm_put(F_INJECT, INFO(T_NMI, V_NMI));
	vm_put(F_EXCEPTIONS, 1 << V_NP);
	guest_idt[V_NMI].low &= ~(1ull << 47);
	if (vm_run("NMI without a handler", g_call) && expect_reason("NMI without a handler", R_EXCEPTION)) {
		expect_field("NMI without a handler", "IDT-vectoring information", F_VECTORING, INFO(T_NMI, V_NMI));
		expect_field("NMI without a handler", "interruptibility", F_INTERRUPTIBILITY, BLOCK_NMI);
	}
	guest_idt[V_NMI] = old;
}

void group_delivery(void)
{
	bool ept = ept_testable();

	vm_good(LONG);
	for (unsigned i = 0; i < ARRAY_SIZE(deliveries); i++) {
		gate_not_present(&deliveries[i]);
		stack_not_mapped(&deliveries[i]);
		if (ept)
			ept_violation(&deliveries[i]);
	}
	double_fault();
	nmi_unblocking();
	nmi_undelivered();
	expect_good("delivery");
}
