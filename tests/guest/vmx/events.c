/*
 * Exceptions: the exception bitmap, what an exit tells of each, debug exceptions, and "Event Injection".
 */
#include "vmx.h"

static u64 here[8] __attribute__((aligned(64)));

/* ---- "Exceptions" ---- */

GUEST_AT(e_de, "xor %edx, %edx; xor %ecx, %ecx; mov $1, %eax", "div %ecx");
GUEST(e_icebp, ".byte 0xf1");
GUEST(e_int3, "int3");
GUEST(e_ud, "ud2");
GUEST_AT(e_nm, "mov %cr0, %rax; or $8, %rax; mov %rax, %cr0", "fnop");
GUEST_AT(e_np, "mov $0x5b, %eax", "mov %eax, %es");
GUEST_AT(e_gp_selector, "mov $0xfff8, %eax", "mov %eax, %es");
GUEST_AT(e_ss, "mov $1, %rbp; ror $1, %rbp", "mov (%rbp), %rax");
GUEST_AT(e_gp, "mov $1, %rbx; ror $1, %rbx", "mov (%rbx), %rax");
GUEST(e_pf_read, "mov (%rbx), %al");
GUEST(e_pf_write, "mov %al, (%rbx)");
GUEST(e_pf_fetch, "jmp *%rbx");
GUEST(e_int_3, ".byte 0xcd, 3");
GUEST(e_int_6, "int $6");
GUEST(e_into, ".code32; mov $0x7fffffff, %eax; add $1, %eax; e_into_real: into; e_into_after: .code64");
extern const char e_into_real[], e_into_after[];
GUEST_AT(e_mf, "fninit; fldcw (%rbx); fldz; fldz; fdivp", "fwait");
GUEST_AT(e_ac, "pushf; orl $0x40000, (%rsp); popf", "mov 1(%rbx), %eax");

struct exception {
	const char *what, *code, *at;
	u8 vector, type, length;
	bool has_error, flagged; /* flagged: RFLAGS.RF is 1 in the image, as it is for faults */
	u32 error;
};

static const struct exception exceptions[] = {
	{ "#DE", e_de, e_de_at, V_DE, T_HARD, 0, false, true, 0 },
	{ "INT1", e_icebp, e_icebp, V_DB, T_PRIV, 1, false, false, 0 },
	{ "INT3", e_int3, e_int3, V_BP, T_SOFT, 1, false, false, 0 },
	{ "#UD", e_ud, e_ud, V_UD, T_HARD, 0, false, true, 0 },
	{ "#NM", e_nm, e_nm_at, V_NM, T_HARD, 0, false, true, 0 },
	{ "#NP", e_np, e_np_at, V_NP, T_HARD, 0, true, true, SEL_FREE },
	{ "#SS", e_ss, e_ss_at, V_SS, T_HARD, 0, true, true, 0 },
	{ "#GP", e_gp, e_gp_at, V_GP, T_HARD, 0, true, true, 0 },
	{ "#GP with a selector", e_gp_selector, e_gp_selector_at, V_GP, T_HARD, 0, true, true, 0xfff8 },
	{ "#MF", e_mf, e_mf_at, V_MF, T_HARD, 0, false, true, 0 },
	{ "#AC", e_ac, e_ac_at, V_AC, T_HARD, 0, true, true, 0 },
};

static bool begin_exception(const struct exception *e, u32 bitmap)
{
	static u16 unmasked = 0x340; /* x87 control word: all exceptions */
	bool user = e->vector == V_AC;

	vm_good(LONG);
	if (user) {
		vm_user();
		vm_or(F_GUEST_CR0, CR0_AM);
	}
	gdt_set(SEL_FREE, 0x00cf73000000ffff); /* not present */
	reg[G_RBX] = e->vector == V_MF ? at(&unmasked) : at(here) + (user ? USER_BASE : 0);
	vm_put(F_EXCEPTIONS, bitmap);
	return vm_run(e->what, e->code + (user ? USER_BASE : 0));
}

static void exception_exits(const struct exception *e)
{
	u64 base = e->vector == V_AC ? USER_BASE : 0;

	if (!begin_exception(e, 1u << e->vector) || !expect_exit(e->what, R_EXCEPTION, 0))
		return;
	expect_field(e->what, "exit information", F_EXIT_INFO,
		     INFO(e->type, e->vector) | (e->has_error ? INFO_ERROR : 0));
	if (e->has_error)
		expect_field(e->what, "error code", F_EXIT_ERROR, e->error);
	expect_field(e->what, "RIP", F_GUEST_RIP, at(e->at) + base);
	expect_field(e->what, "IDT-vectoring information", F_VECTORING, 0);
	if (e->length)
		expect_field(e->what, "instruction length", F_EXIT_LEN, e->length);
	check((vm_get(F_GUEST_RFLAGS) >> 16 & 1) == e->flagged, "%s: RFLAGS.RF saved as %ld", e->what,
	      vm_get(F_GUEST_RFLAGS) >> 16 & 1);
}

/* Without its bit it is the guest's, even if all the other bits are set. */
static void exception_delivered(const struct exception *e)
{
	u64 base = e->vector == V_AC ? USER_BASE : 0;
	const volatile struct frame *f;

	if (!begin_exception(e, ~(1u << e->vector)) || !expect_event(e->what, e->vector, e->error))
		return;
	f = vm_frame();
	check(f->rip == at(e->at) + base + e->length, "%s: the guest's RIP on its stack is 0x%lx", e->what, f->rip);
}

/* Software interrupts are not exceptions, whatever their vector. */
static void software_interrupts(void)
{
	static const struct { const char *code; unsigned vector; } list[] = { { e_int_3, 3 }, { e_int_6, 6 } };

	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		vm_good(LONG);
		vm_put(F_EXCEPTIONS, ~0u);
		if (vm_run("INT n with all exceptions intercepted", list[i].code))
			expect_event("INT n with all exceptions intercepted", list[i].vector, 0);
	}
	vm_good(PAE);
	vm_put(F_EXCEPTIONS, 1 << V_OF);
	if (vm_run("INTO", e_into) && expect_exit("INTO", R_EXCEPTION, 0)) {
		expect_field("INTO", "exit information", F_EXIT_INFO, INFO(T_SOFT, V_OF));
		expect_field("INTO", "instruction length", F_EXIT_LEN, 1);
		expect_field("INTO", "RIP", F_GUEST_RIP, at(e_into_real));
	}
}

/* ---- page faults ---- */

/* Page-fault exits: by bitmap bit, mask and match of the error code. */
static void page_faults(void)
{
	static const struct { const char *code; u64 pte; u32 error; } faults[] = {
		{ e_pf_read, 0, 0 }, { e_pf_write, 0, 2 }, { e_pf_write, PTE_P, 3 },
		  { e_pf_read, PTE_P | 1ull << 62, 9 },
	};
	static const u32 masks[] = { 0, 1, 2, 3, ~0u }, matches[] = { 0, 1, 2, 3, 9 };
	u64 address = TEST_LINEAR + 0x123;

	for (unsigned i = 0; i < ARRAY_SIZE(faults) * ARRAY_SIZE(masks) * ARRAY_SIZE(matches) * 2; i++) {
		unsigned f = i % ARRAY_SIZE(faults), rest = i / ARRAY_SIZE(faults);
		u32 mask = masks[rest % ARRAY_SIZE(masks)],
			match = matches[rest / ARRAY_SIZE(masks) % ARRAY_SIZE(matches)];
		bool bit = rest / ARRAY_SIZE(masks) / ARRAY_SIZE(matches),
			exits = bit == ((faults[f].error & mask) == match);

		if (f == 3 && cap.physical == 52)
			continue;
		test_pt[0] = faults[f].pte;
		if (f == 3)
			test_pt[0] = PTE_P | 1ull << cap.physical;
		vm_good(LONG);
		vm_put(F_EXCEPTIONS, bit ? 1 << V_PF : ~(1u << V_PF));
		vm_put(F_PF_MASK, mask);
		vm_put(F_PF_MATCH, match);
		reg[G_RBX] = address;
		write_cr2(0x5a5a5a5a);
		if (!vm_run("#PF", faults[f].code))
			continue;
		if (exits && expect_exit("#PF that exits", R_EXCEPTION, address)) {
			expect_field("#PF", "exit information", F_EXIT_INFO, INFO(T_HARD, V_PF) | INFO_ERROR);
			expect_field("#PF", "error code", F_EXIT_ERROR, faults[f].error);
			check(read_cr2() == 0x5a5a5a5a, "#PF that exits leaves CR2: 0x%lx", read_cr2());
		} else if (!exits) {
			expect_event("#PF that does not exit", V_PF, faults[f].error);
			check(read_cr2() == address, "#PF that does not exit: CR2 0x%lx", read_cr2());
		}
		if (failure_shown())
			print("      (error 0x%x, bit %d, mask 0x%x, match 0x%x)\n", faults[f].error, bit, mask, match);
	}
	test_pt[0] = 0;
}

void group_exceptions(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(exceptions); i++) {
		exception_exits(&exceptions[i]);
		exception_delivered(&exceptions[i]);
	}
	software_interrupts();
	page_faults();
	expect_good("exceptions");
}

/* ---- debug exceptions ---- */

GUEST(b_nop, "nop");
GUEST(b_nops, "nop; b_nops_2: nop; b_nops_3: nop");
GUEST(b_load, "mov (%rbx), %rax");
GUEST(b_store, "mov %rax, (%rbx)");
GUEST(b_movss, "mov %eax, %ss; b_movss_2: nop; b_movss_3: nop");
GUEST(b_movss_call, "mov %eax, %ss");
GUEST(b_movss_load, "mov (%rbx), %ss; b_movss_load_2: nop");
GUEST(b_dr7, "mov %dr7, %rax");
GUEST(b_popf, "pushf; orl $0x100, (%rsp); popf; b_popf_2: nop; b_popf_3: nop");
extern const char b_nops_2[], b_movss_2[], b_movss_3[], b_movss_load_2[], b_popf_2[], b_popf_3[];

#define BS (1ull << 14)
#define BD (1ull << 13)
#define ENABLED (1ull << 12)

static u64 read_dr6(void)
{
	u64 v;
	__asm__ volatile("mov %%dr6, %0" : "=r"(v));
	return v;
}
static void write_dr6(u64 v) { __asm__ volatile("mov %0, %%dr6" : : "r"(v)); }
static void write_dr0(u64 v) { __asm__ volatile("mov %0, %%dr0" : : "r"(v)); }
static void write_dr1(u64 v) { __asm__ volatile("mov %0, %%dr1" : : "r"(v)); }

/* A good guest whose debug controls are loaded and whose #DB is intercepted. */
static void debug_good(u64 dr7, u64 rflags)
{
	vm_good(LONG);
	if (can_entry(N_LOAD_DEBUG))
		vm_or(F_ENTRY, N_LOAD_DEBUG);
	if (can_exit(X_SAVE_DEBUG))
		vm_or(F_EXIT, X_SAVE_DEBUG);
	vm_put(F_GUEST_DR7, dr7 | 0x400);
	vm_or(F_GUEST_RFLAGS, rflags);
	vm_put(F_EXCEPTIONS, 1 << V_DB);
	write_dr6(0xffff0ff0);
	reg[G_RBX] = at(here);
	reg[G_RAX] = SEL_DATA;
}

static void debug_exit(const char *what, const char *code, u64 qualification, const char *rip, bool flagged)
{
	u64 dr7 = vm_get(F_GUEST_DR7);

	if (!vm_run(what, code) || !expect_exit(what, R_EXCEPTION, qualification))
		return;
	expect_field(what, "exit information", F_EXIT_INFO, INFO(T_HARD, V_DB));
	expect_field(what, "RIP", F_GUEST_RIP, at(rip));
	expect_field(what, "pending debug exceptions", F_PENDING_DEBUG, 0);
	expect_field(what, "DR7", F_GUEST_DR7, dr7);
	check((vm_get(F_GUEST_RFLAGS) >> 16 & 1) == flagged, "%s: RFLAGS.RF saved as %d", what, !flagged);
	check(read_dr6() == 0xffff0ff0, "%s: DR6 0x%lx", what, read_dr6());
}

static void debug_exits(void)
{
	debug_good(0, FLAG_TF);
	debug_exit("single step", b_nops, BS, b_nops_2, false);
	debug_good(0, 0);
	debug_exit("single step after POPF", b_popf, BS, b_popf_3, false);
	debug_good(0, FLAG_TF);
	debug_exit("single step over MOV SS", b_movss, BS, b_movss_3, false);
	write_dr0(at(b_nops_2));
	debug_good(2, 0);
	debug_exit("instruction breakpoint", b_nops, 1, b_nops_2, false); /* the one fault that leaves RF as it was */
	write_dr1(at(here));
	debug_good(8 | 3 << 20 | 3 << 22, 0);
	debug_exit("data breakpoint", b_load, 2, b_load_next, false);
	debug_good(8 | 1 << 20 | 3 << 22, 0);
	debug_exit("data breakpoint on writes", b_store, 2, b_store_next, false);
	debug_good(8 | 3 << 20 | 3 << 22, FLAG_TF);
	debug_exit("data breakpoint and single step", b_store, 2 | BS, b_store_next, false);
	debug_good(1 << 13, 0);
	debug_exit("general detect", b_dr7, BD, b_dr7, true);
	/* Not enabled, or enabled for something else. */
	debug_good(8 | 1 << 20 | 3 << 22, 0);
	if (vm_run("data breakpoint on writes, at a read", b_load))
		expect_call("data breakpoint on writes, at a read", b_load_next);
}

/* Delivered: DR6 tells, DR7.GD is cleared. */
static void debug_delivered(void)
{
	debug_good(1 << 13, 0);
	vm_put(F_EXCEPTIONS, 0);
	if (vm_run("general detect, delivered", b_dr7) && expect_event("general detect, delivered", V_DB, 0)) {
		check(read_dr6() == (0xffff0ff0 | BD), "general detect, delivered: DR6 0x%lx", read_dr6());
		expect_field("general detect, delivered", "DR7", F_GUEST_DR7, 0x400);
	}
	debug_good(0, FLAG_TF);
	vm_put(F_EXCEPTIONS, 0);
	if (vm_run("single step, delivered", b_nop) && expect_event("single step, delivered", V_DB, 0))
		check(read_dr6() == (0xffff0ff0 | BS), "single step, delivered: DR6 0x%lx", read_dr6());
}

/* What an exit behind MOV SS keeps for later: "Saving Non-Register State". */
static void debug_held_back(void)
{
	debug_good(0, FLAG_TF);
	if (vm_run("exit behind MOV SS under TF", b_movss_call) &&
	    expect_call("exit behind MOV SS under TF", b_movss_call_next)) {
		expect_field("exit behind MOV SS under TF", "interruptibility", F_INTERRUPTIBILITY, BLOCK_MOVSS);
		/* Whether BS is set is the processor's business; the next entry demands it. */
		check(!(vm_get(F_PENDING_DEBUG) & ~BS), "exit behind MOV SS under TF: pending 0x%lx",
		      vm_get(F_PENDING_DEBUG));
		vm_or(F_PENDING_DEBUG, BS);
		/* In again, with blocking: the next instruction runs first. */
		debug_exit("single step held back over an exit", b_nop, BS, b_nop_next, false);
	}
	write_dr1(at(here));
	here[0] = SEL_DATA;
	debug_good(8 | 3 << 20 | 3 << 22, 0);
	debug_exit("data breakpoint of MOV SS", b_movss_load, 2, b_movss_load_next, false);
	debug_good(8 | 3 << 20 | 1 << 22, 0);
	vm_put(F_GUEST_DR7, 0x408 | 3 << 20 | 1 << 22);
	debug_exit("data breakpoint of MOV SS, two bytes", b_movss_load, 2, b_movss_load_next, false);
}

/* "Delivery of Pending Debug Exceptions after VM Entry" */
static void debug_pending(void)
{
	static const struct { const char *what; u64 pending, qualification; u32 state; } list[] = {
		{ "pending BS", BS, BS, 0 }, { "pending B0", ENABLED | 1, 1, 0 },
		  { "pending B3 and BS", ENABLED | BS | 8, BS | 8, 0 },
		{ "pending B1, not enabled", 2, 0, 0 }, { "pending B0 in HLT", ENABLED | 1, 1, HALTED },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		debug_good(0, list[i].pending & BS ? FLAG_TF : 0);
		vm_put(F_PENDING_DEBUG, list[i].pending);
		vm_put(F_ACTIVITY, list[i].state);
		if (list[i].qualification)
			debug_exit(list[i].what, b_nop, list[i].qualification, b_nop, false);
		else if (vm_run(list[i].what, b_nop))
			expect_call(list[i].what, b_nop_next);
	}
	debug_good(0, FLAG_TF);
	vm_put(F_EXCEPTIONS, 0);
	vm_put(F_PENDING_DEBUG, BS);
	if (vm_run("pending BS, delivered", b_nop) && expect_event("pending BS, delivered", V_DB, 0)) {
		check(vm_frame()->rip == at(b_nop), "pending BS, delivered: RIP 0x%lx", vm_frame()->rip);
		check(read_dr6() == (0xffff0ff0 | BS), "pending BS, delivered: DR6 0x%lx", read_dr6());
	}
	/* An injected interrupt does away with it. */
	debug_good(0, FLAG_IF);
	vm_put(F_PENDING_DEBUG, ENABLED | 1);
	vm_put(F_INJECT, INFO(T_EXTERNAL, 0x50));
	if (vm_run("pending B0 and an interrupt", b_nop) && expect_event("pending B0 and an interrupt", 0x50, 0)) {
		expect_field("pending B0 and an interrupt", "pending debug exceptions", F_PENDING_DEBUG, 0);
		vm_skip();
		if (vm_go("after the interrupt"))
			expect_call("after the interrupt", b_nop_next);
	}
}

/* IA32_DEBUGCTL and DR7 of the guest; whether exits save them. */
static void debug_controls(void)
{
	static const struct { u64 load, save; } modes[] = { { 0, 0 }, { 1, 0 }, { 1, 1 } };

	for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
		if (!can_entry(N_LOAD_DEBUG) || (!modes[i].load && cap.entry.must & N_LOAD_DEBUG) ||
		    (!modes[i].save && cap.exit.must & X_SAVE_DEBUG))
			continue;
		vm_good(LONG);
		vm_clear(F_ENTRY, N_LOAD_DEBUG);
		vm_clear(F_EXIT, X_SAVE_DEBUG);
		vm_or(F_ENTRY, modes[i].load ? N_LOAD_DEBUG : 0);
		vm_or(F_EXIT, modes[i].save ? X_SAVE_DEBUG : 0);
		vm_put(F_GUEST_DR7, 0x5101); /* what is reserved is fixed when it is loaded */
		vm_put(F_GUEST_DEBUGCTL, 2);
		if (!vm_run("debug controls", b_dr7) || !expect_call("debug controls", b_dr7_next))
			continue;
		check((reg[G_RAX] & ~0x800ull) == (modes[i].load ? 0x501 : 0x400),
		      "debug controls: the guest's DR7 is 0x%lx",
		      reg[G_RAX]);
		if (modes[i].save)
			expect_field("debug controls", "DR7", F_GUEST_DR7, reg[G_RAX]);
		else
			expect_field("debug controls, not saved", "DR7", F_GUEST_DR7, 0x5101);
		expect_field("debug controls", "DEBUGCTL", F_GUEST_DEBUGCTL, 2);
		check(rdmsr(MSR_DEBUGCTL) == 0, "debug controls: DEBUGCTL after the exit 0x%lx", rdmsr(MSR_DEBUGCTL));
	}
}

void group_debug(void)
{
	debug_exits();
	debug_delivered();
	debug_held_back();
	debug_pending();
	debug_controls();
	expect_good("debug exceptions");
}

/* ---- "Event Injection" ---- */

struct injection { const char *what; u32 info, error, length; bool has_error; };
static const struct injection injections[] = {
	{ "external interrupt", INFO(T_EXTERNAL, 0x50), 0, 0, false },
	{ "external interrupt with the vector of #PF", INFO(T_EXTERNAL, V_PF), 0, 0, false },
	{ "external interrupt 255", INFO(T_EXTERNAL, 255), 0, 0, false },
	{ "NMI", INFO(T_NMI, V_NMI), 0, 0, false },
	{ "#DE", INFO(T_HARD, V_DE), 0, 0, false },
	{ "#DB", INFO(T_HARD, V_DB), 0, 0, false },
	{ "#UD", INFO(T_HARD, V_UD), 0, 0, false },
	{ "#DF", INFO(T_HARD, V_DF) | INFO_ERROR, 0, 0, true },
	{ "#TS", INFO(T_HARD, V_TS) | INFO_ERROR, 0x28, 0, true },
	{ "#NP", INFO(T_HARD, V_NP) | INFO_ERROR, 0xfffb, 0, true },
	{ "#SS", INFO(T_HARD, V_SS) | INFO_ERROR, 8, 0, true },
	{ "#GP", INFO(T_HARD, V_GP) | INFO_ERROR, 0x1234, 0, true },
	{ "#PF", INFO(T_HARD, V_PF) | INFO_ERROR, 7, 0, true },
	{ "#MF", INFO(T_HARD, V_MF), 0, 0, false },
	{ "#AC", INFO(T_HARD, V_AC) | INFO_ERROR, 0, 0, true },
	{ "#MC", INFO(T_HARD, 18), 0, 0, false },
	{ "#XM", INFO(T_HARD, V_XM), 0, 0, false },
	{ "INT 0x80", INFO(T_SOFT_INT, 0x80), 0, 2, false },
	{ "INT 3 of two bytes", INFO(T_SOFT_INT, 3), 0, 2, false },
	{ "INT3", INFO(T_SOFT, V_BP), 0, 1, false },
	{ "INTO", INFO(T_SOFT, V_OF), 0, 1, false },
	{ "INT1", INFO(T_PRIV, V_DB), 0, 1, false },
	{ "INT 0x80 of 15 bytes", INFO(T_SOFT_INT, 0x80), 0, 15, false },
};

/* The frame that the handler finds is of the injected event and the guest's state. */
static void expect_frame(const struct injection *i, u64 rip, u64 rflags)
{
	u32 vector = i->info & 0xff, type = i->info >> 8 & 7;
	const volatile struct frame *f = vm_frame();
	/* guest_vectors[] pushes no 0 for vectors with error codes: an injection without one leaves the frame short. */
	u32 own = 1u << V_DF | 1u << V_TS | 1u << V_NP | 1u << V_SS | 1u << V_GP | 1u << V_PF | 1u << V_AC | 1u << 21;
	bool short_frame = vector < 32 && (own >> vector & 1) && !i->has_error;

	if (short_frame)
		f = (const volatile struct frame *)((u64)(uintptr_t)f - 8);
	else
		check(f->error == (i->has_error ? i->error : 0), "%s: error code 0x%lx", i->what, f->error);
	check(((const volatile u64 *)(uintptr_t)vm_get(F_GUEST_RSP))[0] == vector, "%s: vector", i->what);
	check(f->rip == rip + (type >= T_SOFT_INT ? i->length : 0), "%s: RIP on the stack 0x%lx", i->what, f->rip);
	check(f->rflags == rflags, "%s: RFLAGS on the stack 0x%lx, expected 0x%lx", i->what, f->rflags, rflags);
	check(f->rsp == at(guest_stack_top) && f->ss == SEL_DATA && f->cs == SEL_CODE,
	      "%s: 0x%lx:0x%lx, CS 0x%lx on the stack", i->what, f->ss, f->rsp, f->cs);
}

static void inject(const struct injection *i)
{
	u32 type = i->info >> 8 & 7;

	vm_good(LONG);
	vm_put(F_INJECT, i->info);
	vm_put(F_INJECT_ERROR, i->error);
	vm_put(F_INJECT_LEN, i->length);
	vm_or(F_GUEST_RFLAGS, FLAG_IF | 1);
	vm_put(F_EXCEPTIONS, ~0u); /* injected events are not intercepted */
	vm_or(F_PIN, (can_pin(PIN_EXTINT) ? PIN_EXTINT : 0) | (can_pin(PIN_NMI) ? PIN_NMI : 0));
	write_cr2(0x77777000);
	write_dr6(0xffff0ff0);
	if (!vm_run(i->what, g_call) || !expect_call(i->what, guest_event))
		return;
	expect_frame(i, at(g_call), 2 | FLAG_IF | 1);
	expect_field(i->what, "the event to inject", F_INJECT, i->info & ~INFO_VALID);
	expect_field(i->what, "IDT-vectoring information", F_VECTORING, 0);
	check(!(vm_get(F_GUEST_RFLAGS) & FLAG_IF), "%s: RFLAGS.IF in the handler", i->what);
	check(read_cr2() == 0x77777000 && read_dr6() == 0xffff0ff0, "%s: CR2 0x%lx DR6 0x%lx", i->what, read_cr2(),
	      read_dr6());
	expect_field(i->what, "interruptibility", F_INTERRUPTIBILITY,
		     type == T_NMI && !can_pin(PIN_NMI) ? BLOCK_NMI : type == T_NMI ? vm_get(F_INTERRUPTIBILITY) : 0);
}

/* What RFLAGS.RF the stack gets is what the VMCS says. */
static void inject_flags(void)
{
	vm_good(LONG);
	vm_or(F_GUEST_RFLAGS, FLAG_RF);
	vm_put(F_INJECT, INFO(T_HARD, V_UD));
	if (vm_run("injection with RF", g_call) && expect_event("injection with RF", V_UD, 0))
		check(vm_frame()->rflags == (2 | FLAG_RF), "injection with RF: RFLAGS on the stack 0x%lx",
		      vm_frame()->rflags);
	vm_good(LONG);
	vm_put(F_INJECT, INFO(T_HARD, V_UD));
	if (vm_run("injection without RF", g_call) && expect_event("injection without RF", V_UD, 0))
		check(vm_frame()->rflags == 2, "injection without RF: RFLAGS on the stack 0x%lx", vm_frame()->rflags);
}

/* An injected NMI blocks NMIs until IRET; with virtual NMIs that is virtual-NMI blocking. */
static void inject_nmi(void)
{
	for (unsigned virtual = 0; virtual < 2; virtual++) {
		if (virtual && !can_pin(PIN_NMI | PIN_VNMI))
			continue;
		vm_good(LONG);
		vm_or(F_PIN, virtual ? PIN_NMI | PIN_VNMI : 0);
		vm_put(F_INJECT, INFO(T_NMI, V_NMI));
		if (!vm_run("injected NMI", g_call) || !expect_event("injected NMI", V_NMI, 0))
			continue;
		expect_field("injected NMI", "interruptibility", F_INTERRUPTIBILITY, BLOCK_NMI);
		vm_skip();
		if (vm_go("IRET of an injected NMI") && expect_call("IRET of an injected NMI", g_call))
			expect_field("IRET of an injected NMI", "interruptibility", F_INTERRUPTIBILITY, 0);
	}
}

/* The privilege check of software interrupts is made; the others have none. */
static void inject_to_user(void)
{
	static const struct { const char *what; u32 info, length; u64 vector, error; } list[] = {
		{ "INT 0x80 injected in user mode", INFO(T_SOFT_INT, 0x80), 2, V_GP, 0x80 << 3 | 2 },
		{ "INT3 injected in user mode", INFO(T_SOFT, V_BP), 1, V_GP, V_BP << 3 | 2 },
		{ "INT1 injected in user mode", INFO(T_PRIV, V_DB), 1, V_DB, 0 },
		{ "#UD injected in user mode", INFO(T_HARD, V_UD), 0, V_UD, 0 },
		{ "external interrupt injected in user mode", INFO(T_EXTERNAL, 0x50), 0, 0x50, 0 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		vm_good(LONG);
		vm_user();
		vm_or(F_GUEST_RFLAGS, FLAG_IF);
		vm_put(F_INJECT, list[i].info);
		vm_put(F_INJECT_LEN, list[i].length);
		if (!vm_run(list[i].what, g_call + USER_BASE) ||
		    !expect_event(list[i].what, (unsigned)list[i].vector, list[i].error))
			continue;
		check(vm_frame()->ss == SEL_UDATA && vm_frame()->cs == SEL_UCODE, "%s: SS 0x%lx CS 0x%lx on the stack",
		      list[i].what, vm_frame()->ss, vm_frame()->cs);
		check((vm_get(F_GUEST_CS_SEL) & 3) == 0 && (vm_get(F_GUEST_SS_AR) >> 5 & 3) == 0,
		      "%s: the handler's privilege",
		      list[i].what);
	}
}

/* Vectors in real mode, and 32-bit gates. */
static void inject_old(void)
{
	const volatile u16 *stack;

	vm_good(PAE);
	vm_or(F_GUEST_RFLAGS, FLAG_IF);
	vm_put(F_INJECT, INFO(T_EXTERNAL, 0x50));
	if (vm_run("interrupt of a 32-bit guest", g_call) &&
	    expect_call("interrupt of a 32-bit guest", guest_vectors32 + 16 * 0x50))
		check(*(volatile u32 *)(uintptr_t)vm_get(F_GUEST_RSP) == (u32)at(g_call),
		      "interrupt of a 32-bit guest: EIP");
	vm_good(V86);
	vm_or(F_GUEST_RFLAGS, FLAG_IF);
	vm_put(F_INJECT, INFO(T_EXTERNAL, 0x50));
	if (vm_go("interrupt of a virtual-8086 guest") &&
	    expect_call("interrupt of a virtual-8086 guest", guest_vectors32 + 16 * 0x50)) {
		expect_field("interrupt of a virtual-8086 guest", "RSP", F_GUEST_RSP, at(guest_stack_top) - 9 * 4);
		check(!(vm_get(F_GUEST_RFLAGS) >> 17 & 1), "interrupt of a virtual-8086 guest: RFLAGS.VM");
	}
	if (!vm_can(REAL)) {
		skip("real mode");
		return;
	}
	for (unsigned i = 0; i < 3; i++) {
		static const u32 info[] = { INFO(T_EXTERNAL, 0x50), INFO(T_SOFT_INT, 0x50), INFO(T_HARD, V_GP) };
		u32 vector = info[i] & 0xff;

		vm_good(REAL);
		vm_or(F_GUEST_RFLAGS, FLAG_IF);
		vm_put(F_INJECT, info[i]);
		vm_put(F_INJECT_LEN, 2);
		if (!vm_go("event in real mode") ||
		    !expect_call("event in real mode", (void *)(uintptr_t)(LOW_HANDLERS + 16 * vector)))
			continue;
		expect_field("event in real mode", "CS", F_GUEST_CS_SEL, LOW_SELECTOR);
		expect_field("event in real mode", "RSP", F_GUEST_RSP, 0x1000 - 6);
		stack = (const volatile u16 *)(uintptr_t)vm_get(F_GUEST_RSP);
		check(stack[0] == (i == 1 ? 2 : 0) && stack[1] == LOW_SELECTOR && (stack[2] & 0xfff) == (2 | FLAG_IF),
		      "event in real mode: %x:%x, flags 0x%x on the stack", stack[1], stack[0], stack[2]);
	}
}

void group_injection(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(injections); i++)
		inject(&injections[i]);
	inject_flags();
	inject_nmi();
	inject_to_user();
	inject_old();
	expect_good("injection");
}
