/*
 * Control and debug registers, ports and MSRs in VMX non-root operation: masks and shadows, CR3 targets, bitmaps.
 */
#include "vmx.h"

/* ---- "Changes to Instruction Behavior": CR0 and CR4 ---- */

GUEST(r_cr0, "mov %rdi, %cr0");
GUEST(r_cr4, "mov %rdi, %cr4");
GUEST(r_cr0_r9, "mov %r9, %cr0");
GUEST(r_read, "mov %cr0, %rax; mov %cr4, %rbx; smsw %rcx");
GUEST(r_clts, "clts");
GUEST(r_lmsw, "lmsw %di");
GUEST(r_lmsw_memory, "lmsw (%rsi)");
GUEST(r_to_cr3, "mov %rdx, %cr3");
GUEST(r_from_cr3, "mov %cr3, %r11");
GUEST(r_to_cr8, "mov %rbp, %cr8");
GUEST(r_from_cr8, "mov %cr8, %r14");

#define CR_EXIT(cr, type, gpr) ((u64)(cr) | (u64)(type) << 4 | (u64)(gpr) << 8)
enum { TO_CR, FROM_CR, CLTS, LMSW };

static bool ran(const char *what, const char *code, const char *next)
{
	return vm_run(what, code) && expect_call(what, next);
}

static void exits_at(const char *what, const char *code, const char *next, u64 qualification)
{
	if (!vm_run(what, code) || !expect_exit(what, R_CR, qualification))
		return;
	expect_field(what, "RIP", F_GUEST_RIP, at(code));
	expect_field(what, "instruction length", F_EXIT_LEN, (u64)(next - code));
}

/* Reading shows the shadow where the mask is set. */
static void shadows(void)
{
	u64 cr0 = 0, cr4 = 0, mask0 = CR0_TS | CR0_WP | CR0_AM | CR0_MP, mask4 = CR4_PGE | CR4_DE | CR4_VMXE | CR4_TSD;

	vm_good(LONG);
	cr0 = vm_get(F_GUEST_CR0);
	cr4 = vm_get(F_GUEST_CR4);
	vm_put(F_CR0_MASK, mask0);
	vm_put(F_CR0_SHADOW, CR0_TS | CR0_AM);
	vm_put(F_CR4_MASK, mask4);
	vm_put(F_CR4_SHADOW, CR4_DE | 1ull << 63);
	if (!ran("shadows", r_read, r_read_next))
		return;
	check(reg[G_RAX] == ((cr0 & ~mask0) | CR0_TS | CR0_AM), "CR0 reads 0x%lx", reg[G_RAX]);
	check(reg[G_RBX] == ((cr4 & ~mask4) | CR4_DE), "CR4 reads 0x%lx", reg[G_RBX]);
	check((reg[G_RCX] & 0xffff) == (reg[G_RAX] & 0xffff), "SMSW reads 0x%lx", reg[G_RCX]);
	expect_field("shadows", "CR0", F_GUEST_CR0, cr0);
	expect_field("shadows", "CR4", F_GUEST_CR4, cr4);
}

/* Writing: exits where a masked bit differs from the shadow; else masked bits stay. */
static void writes(void)
{
	u64 cr0, cr4;

	vm_good(LONG);
	cr0 = vm_get(F_GUEST_CR0);
	cr4 = vm_get(F_GUEST_CR4);
	vm_put(F_CR0_MASK, CR0_TS | CR0_WP);
	vm_put(F_CR0_SHADOW, CR0_TS);
	reg[G_RDI] = (cr0 & ~(u64)CR0_WP) | CR0_TS | CR0_AM;
	if (ran("MOV to CR0 as the shadow", r_cr0, r_cr0_next))
		expect_field("MOV to CR0 as the shadow", "CR0", F_GUEST_CR0, cr0 | CR0_AM);
	vm_good(LONG);
	vm_put(F_CR0_MASK, CR0_TS);
	vm_put(F_CR0_SHADOW, CR0_TS);
	reg[G_R9] = cr0;
	exits_at("MOV to CR0 against the shadow", r_cr0_r9, r_cr0_r9_next, CR_EXIT(0, TO_CR, 9));
	expect_field("MOV to CR0 against the shadow", "CR0", F_GUEST_CR0, cr0);
	vm_good(LONG);
	vm_put(F_CR4_MASK, CR4_VMXE | CR4_DE);
	vm_put(F_CR4_SHADOW, CR4_DE);
	reg[G_RDI] = (cr4 & ~(u64)CR4_VMXE) | CR4_DE | CR4_TSD;
	if (ran("MOV to CR4 as the shadow", r_cr4, r_cr4_next))
		expect_field("MOV to CR4 as the shadow", "CR4", F_GUEST_CR4, cr4 | CR4_TSD);
	vm_good(LONG);
	vm_put(F_CR4_MASK, CR4_DE);
	reg[G_RDI] = cr4 | CR4_DE;
	exits_at("MOV to CR4 against the shadow", r_cr4, r_cr4_next, CR_EXIT(4, TO_CR, 7));
	/* Bits of CR4 that do not exist are #GP, or an exit if they are masked. */
	vm_good(LONG);
	reg[G_RDI] = cr4 | 1ull << 31;
	if (vm_run("MOV to CR4, reserved bit", r_cr4))
		expect_event("MOV to CR4, reserved bit", V_GP, 0);
	/* What VMX operation fixes cannot be changed by the guest. */
	vm_good(LONG);
	reg[G_RDI] = cr4 & ~(u64)CR4_VMXE;
	if (vm_run("clearing CR4.VMXE in the guest", r_cr4))
		expect_event("clearing CR4.VMXE in the guest", V_GP, 0);
	vm_good(LONG);
	reg[G_RDI] = cr0 & ~(u64)CR0_NE;
	if (vm_run("clearing CR0.NE in the guest", r_cr0))
		expect_event("clearing CR0.NE in the guest", V_GP, 0);
	vm_good(LONG);
	reg[G_RDI] = cr0 & ~CR0_PG;
	if (vm_run("clearing CR0.PG in the guest", r_cr0))
		expect_event("clearing CR0.PG in the guest", V_GP, 0);
}

/* CLTS: mask and shadow of TS: exits if both are 1; no effect if only the mask is. */
static void clts(void)
{
	for (unsigned i = 0; i < 4; i++) {
		bool mask = i & 1, shadow = i & 2;
		u64 cr0;

		vm_good(LONG);
		vm_or(F_GUEST_CR0, CR0_TS);
		cr0 = vm_get(F_GUEST_CR0);
		vm_put(F_CR0_MASK, mask ? CR0_TS : 0);
		vm_put(F_CR0_SHADOW, shadow ? CR0_TS : 0);
		if (mask && shadow)
			exits_at("CLTS", r_clts, r_clts_next, CR_EXIT(0, CLTS, 0));
		else if (ran("CLTS", r_clts, r_clts_next))
			expect_field("CLTS", "CR0", F_GUEST_CR0, mask ? cr0 : cr0 & ~(u64)CR0_TS);
	}
}

static void lmsw(void)
{
	static const struct { u64 mask, shadow, operand; bool exits; u64 set, cleared; } cases[] = {
		{ 0, 0, CR0_PE | CR0_TS | CR0_EM, false, CR0_TS | CR0_EM, CR0_MP },
		{ CR0_TS, 0, CR0_PE | CR0_TS | CR0_MP, true, 0, 0 },
		{ CR0_TS, CR0_TS, CR0_PE | CR0_TS | CR0_MP, false, 0, 0 },
		{ CR0_PE, CR0_PE, CR0_MP, false, 0, 0 },            /* LMSW never clears PE */
		{ CR0_PE, 0, CR0_PE | CR0_MP, true, 0, 0 },
		{ CR0_PE, 0, CR0_MP, false, 0, 0 },
		{ CR0_NE | CR0_WP | CR0_AM, 0, 0xfff3, false, 0, 0 },  /* only the low four bits matter */
		{ CR0_EM, CR0_EM, 0xfff3, true, 0, 0 },
	};
	static u16 operand;

	for (unsigned i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
		const char *code = i & 1 ? r_lmsw_memory : r_lmsw, *next = i & 1 ? r_lmsw_memory_next : r_lmsw_next;
		u64 cr0, source = cases[i / 2].operand;

		vm_good(LONG);
		cr0 = vm_get(F_GUEST_CR0);
		vm_put(F_CR0_MASK, cases[i / 2].mask);
		vm_put(F_CR0_SHADOW, cases[i / 2].shadow);
		operand = (u16)source;
		reg[G_RDI] = source;
		reg[G_RSI] = at(&operand);
		if (cases[i / 2].exits) {
			exits_at("LMSW", code, next, CR_EXIT(0, LMSW, 0) | (i & 1) << 6 | source << 16);
			if (i & 1)
				expect_field("LMSW", "guest-linear address", F_GUEST_LINEAR, at(&operand));
		} else if (ran("LMSW", code, next) && !cases[i / 2].mask) {
			expect_field("LMSW", "CR0", F_GUEST_CR0, (cr0 | cases[i / 2].set) & ~cases[i / 2].cleared);
		}
	}
}

static void cr3(void)
{
	u64 targets = cap.misc >> 16 & 0x1ff;

	vm_good(LONG);
	vm_or(F_PROC, PROC_CR3_LOAD);
	reg[G_RDX] = at(guest_pml4);
	exits_at("MOV to CR3", r_to_cr3, r_to_cr3_next, CR_EXIT(3, TO_CR, 2));
	vm_good(LONG);
	vm_or(F_PROC, PROC_CR3_STORE);
	exits_at("MOV from CR3", r_from_cr3, r_from_cr3_next, CR_EXIT(3, FROM_CR, 11));
	vm_good(LONG);
	if (vm_get(F_PROC) & (PROC_CR3_LOAD | PROC_CR3_STORE)) {
		skip("CR3 without exits");
	} else {
		reg[G_RDX] = at(guest_pml4) | 8;
		if (ran("MOV to CR3", r_to_cr3, r_to_cr3_next))
			expect_field("MOV to CR3", "CR3", F_GUEST_CR3, at(guest_pml4) | 8);
		if (ran("MOV from CR3", r_from_cr3, r_from_cr3_next))
			check(reg[G_R11] == (at(guest_pml4) | 8), "MOV from CR3: 0x%lx", reg[G_R11]);
	}
	for (u64 i = 0; i < targets && i < 4; i++) {
		vm_good(LONG);
		for (u32 j = 0; j < 4; j++)
			vm_put(F_CR3_TARGET0 + 2 * j, 0);
		vm_or(F_PROC, PROC_CR3_LOAD);
		vm_put(F_CR3_TARGET0 + 2 * (u32)i, at(guest_pml4));
		vm_put(F_CR3_TARGETS, i + 1);
		reg[G_RDX] = at(guest_pml4);
		ran("MOV of a CR3 target", r_to_cr3, r_to_cr3_next);
		vm_put(F_CR3_TARGETS, i);
		exits_at("MOV of a CR3 target beyond the count", r_to_cr3, r_to_cr3_next, CR_EXIT(3, TO_CR, 2));
		vm_put(F_CR3_TARGETS, i + 1);
		reg[G_RDX] = at(guest_pml4) | 8;
		exits_at("MOV of almost a CR3 target", r_to_cr3, r_to_cr3_next, CR_EXIT(3, TO_CR, 2));
	}
}

static void cr8(void)
{
	vm_good(LONG);
	vm_or(F_PROC, PROC_CR8_LOAD);
	reg[G_RBP] = 5;
	exits_at("MOV to CR8", r_to_cr8, r_to_cr8_next, CR_EXIT(8, TO_CR, 5));
	vm_good(LONG);
	vm_or(F_PROC, PROC_CR8_STORE);
	exits_at("MOV from CR8", r_from_cr8, r_from_cr8_next, CR_EXIT(8, FROM_CR, 14));
	vm_good(LONG);
	vm_or(F_PROC, PROC_CR8_LOAD);
	reg[G_RBP] = 16;
	if (vm_run("MOV of 16 to CR8", r_to_cr8))
		expect_reason("MOV of 16 to CR8", R_CR); /* the fault would come after the exit */
}

/* ---- debug registers ---- */

GUEST(d_to_dr7, "mov %r8, %dr7");
GUEST(d_from_dr0, "mov %dr0, %rsi");
GUEST(d_to_dr4, "mov %rbx, %dr4");

static void debug_registers(void)
{
	static const struct { const char *what, *code; u64 qualification; } list[] = {
		{ "MOV to DR7", d_to_dr7, 7 | 8 << 8 }, { "MOV from DR0", d_from_dr0, 0 | 1 << 4 | 6 << 8 },
		{ "MOV to DR4", d_to_dr4, 4 | 3 << 8 },
	};

	if (!can_proc(PROC_DR)) {
		skip("MOV DR exiting");
		return;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		vm_good(LONG);
		vm_clear(F_GUEST_CR4, CR4_DE);
		vm_or(F_PROC, PROC_DR);
		if (!vm_run(list[i].what, list[i].code))
			continue;
		if (i == 2 && vm_get(F_QUALIFICATION) == (6 | 3 << 8))
			continue; /* DR4 is DR6 then: either number */
		expect_exit(list[i].what, R_DR, list[i].qualification);
		expect_field(list[i].what, "RIP", F_GUEST_RIP, at(list[i].code));
	}
	vm_good(LONG);
	vm_or(F_PROC, PROC_DR);
	vm_or(F_GUEST_CR4, CR4_DE);
	if (vm_run("MOV to DR4 under CR4.DE", d_to_dr4)) /* before the fault */
		expect_exit("MOV to DR4 under CR4.DE", R_DR, 4 | 3 << 8);
	/* The exit comes before general detect. */
	vm_good(LONG);
	vm_or(F_PROC, PROC_DR);
	vm_or(F_GUEST_DR7, 1 << 13);
	vm_or(F_ENTRY, can_entry(N_LOAD_DEBUG) ? N_LOAD_DEBUG : 0);
	if (vm_run("MOV DR under general detect", d_from_dr0))
		expect_reason("MOV DR under general detect", R_DR);
}

void group_registers(void)
{
	shadows();
	writes();
	clts();
	lmsw();
	cr3();
	cr8();
	debug_registers();
	expect_good("control and debug registers");
}

/* ---- ports ---- */

GUEST(p_in8, "in %dx, %al");
GUEST(p_in16, "in %dx, %ax");
GUEST(p_in32, "in %dx, %eax");
GUEST(p_out8, "out %al, %dx");
GUEST(p_out32, "out %eax, %dx");
GUEST(p_in_imm, "in $0x71, %al");
GUEST(p_out_imm, "out %ax, $0x80");
GUEST(p_outs, "outsb");
GUEST(p_outs_gs, "outsl %gs:(%rsi), %dx");
GUEST(p_ins, "insb");
GUEST(p_rep_ins, "rep insw");
GUEST(p_rep_outs32, "rep outsl %ds:(%esi), %dx");

enum { IN = 8, STRING = 16, REP = 32, IMM = 64 };
struct port_case { const char *what, *code, *next; u16 port; u8 bytes; u64 bits; u32 info; };
#define PORT(p, x, ...) { p, x, x##_next, __VA_ARGS__ }
static const struct port_case ports[] = {
	PORT("IN", p_in8, 0x1234, 1, IN, 0),
	PORT("IN of 16 bits", p_in16, 0x7ffe, 2, IN, 0),
	PORT("IN of 32 bits", p_in32, 0x8000, 4, IN, 0),
	PORT("OUT", p_out8, 0x80, 1, 0, 0),
	PORT("OUT of 32 bits", p_out32, 0xfff0, 4, 0, 0),
	PORT("IN from a fixed port", p_in_imm, 0x71, 1, IN | IMM, 0),
	PORT("OUT to a fixed port", p_out_imm, 0x80, 2, IMM, 0),
	PORT("OUTS", p_outs, 0x80, 1, STRING, 2 << 7 | 3 << 15),
	PORT("OUTS with a segment", p_outs_gs, 0x80, 4, STRING, 2 << 7 | 5 << 15),
	PORT("INS", p_ins, 0x80, 1, STRING | IN, 2 << 7),
	PORT("REP INS", p_rep_ins, 0x80, 2, STRING | REP | IN, 2 << 7),
	PORT("REP OUTS, 32-bit address", p_rep_outs32, 0x80, 4, STRING | REP, 1 << 7 | 3 << 15),
};
static u64 buffer[8];

static void port_registers(const struct port_case *c)
{
	reg[G_RDX] = c->port;
	reg[G_RSI] = at(buffer);
	reg[G_RDI] = at(buffer + 4);
	reg[G_RCX] = 3;
}

static void expect_port(const struct port_case *c)
{
	bool in = c->bits & IN;
	u32 mask = 7 << 7 | (in ? 0 : 7 << 15);

	if (!expect_exit(c->what, R_IO, (u64)(c->bytes - 1) | c->bits | (u64)c->port << 16))
		return;
	expect_field(c->what, "RIP", F_GUEST_RIP, at(c->code));
	expect_field(c->what, "instruction length", F_EXIT_LEN, (u64)(c->next - c->code));
	if (!(c->bits & STRING))
		return;
	expect_field(c->what, "guest-linear address", F_GUEST_LINEAR, at(in ? buffer + 4 : buffer));
	if (cap.basic >> 54 & 1)
		check((vm_get(F_INSN_INFO) & mask) == (c->info & mask),
		      "%s: instruction information 0x%lx, expected 0x%x",
		      c->what, vm_get(F_INSN_INFO), c->info);
	check(reg[G_RCX] == 3, "%s: RCX is untouched", c->what);
}

static void port_bit(u32 port, bool set)
{
	if (set)
		io_bitmaps[port / 8] |= 1 << (port & 7);
	else
		io_bitmaps[port / 8] &= ~(1 << (port & 7));
}

/* An access exits if the bit of any of its ports is set. */
static void port_spans(void)
{
	static const struct { const char *code, *next; u16 port; u8 bytes; } list[] = {
		{ p_in8, p_in8_next, 0x80, 1 }, { p_in32, p_in32_next, 0x84, 4 }, { p_in16, p_in16_next, 0x7fff, 2 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(list); i++)
		for (int p = -1; p <= list[i].bytes; p++) {
			bool inside = p >= 0 && p < list[i].bytes;

			port_bit((u32)(list[i].port + p), true);
			vm_good(LONG);
			vm_or(F_PROC, PROC_IO_BITMAPS);
			reg[G_RDX] = list[i].port;
			if (vm_run("I/O bitmaps", list[i].code))
				inside ? expect_reason("I/O bitmaps, a bit of the access", R_IO)
				       : expect_call("I/O bitmaps, a bit beside the access", list[i].next);
			port_bit((u32)(list[i].port + p), false);
		}
	vm_good(LONG);
	vm_or(F_PROC, PROC_IO_BITMAPS);
	reg[G_RDX] = 0xffff;
	if (vm_run("I/O bitmaps, wrapping around", p_in16))
		expect_exit("I/O bitmaps, wrapping around", R_IO, 1 | IN | 0xffffull << 16);
}

static void all_ports(void)
{
	memset(io_bitmaps, 0, 2 * PAGE);
	for (unsigned i = 0; can_proc(PROC_IO) && i < ARRAY_SIZE(ports); i++) {
		vm_good(LONG);
		vm_or(F_PROC, PROC_IO);
		port_registers(&ports[i]);
		if (vm_run(ports[i].what, ports[i].code))
			expect_port(&ports[i]);
	}
	if (!can_proc(PROC_IO_BITMAPS)) {
		skip("I/O bitmaps");
		return;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(ports); i++) {
		port_bit(ports[i].port, true);
		vm_good(LONG);
		vm_or(F_PROC, PROC_IO_BITMAPS);
		port_registers(&ports[i]);
		if (vm_run(ports[i].what, ports[i].code))
			expect_port(&ports[i]);
		port_bit(ports[i].port, false);
	}
	port_spans();
	/* With bitmaps the other control does not matter. */
	vm_good(LONG);
	vm_or(F_PROC, PROC_IO_BITMAPS | (can_proc(PROC_IO) ? PROC_IO : 0));
	reg[G_RDX] = 0x80;
	ran("I/O bitmaps and unconditional I/O exiting", p_out8, p_out8_next);
	/* The TSS's permission map comes first. */
	vm_good(LONG);
	vm_user();
	vm_or(F_PROC, PROC_IO_BITMAPS);
	port_bit(0x80, true);
	reg[G_RDX] = 0x80;
	if (vm_run("port that the TSS forbids", p_out8 + USER_BASE))
		expect_event("port that the TSS forbids", V_GP, 0);
	vm_good(LONG);
	vm_user();
	vm_or(F_GUEST_RFLAGS, 3 << 12);
	vm_or(F_PROC, PROC_IO_BITMAPS);
	reg[G_RDX] = 0x80;
	if (vm_run("port that IOPL allows", p_out8 + USER_BASE))
		expect_reason("port that IOPL allows", R_IO);
	port_bit(0x80, false);
}

/* ---- MSRs ---- */

GUEST(m_rdmsr, "rdmsr");
GUEST(m_wrmsr, "wrmsr");
GUEST(m_both, "rdmsr; wrmsr");

static void msr_bit(u32 msr, bool write, bool set)
{
	u32 byte = (write ? 2048 : 0) + (msr >= 0xc0000000 ? 1024 : 0) + (msr & 0x1fff) / 8;

	if (set)
		msr_bitmap[byte] |= 1 << (msr & 7);
	else
		msr_bitmap[byte] &= ~(1 << (msr & 7));
}

static void msr_exit(const char *what, u32 msr, bool write, bool exits)
{
	vm_good(LONG);
	vm_or(F_PROC, PROC_MSR_BITMAPS);
	reg[G_RCX] = msr;
	if (write) {
		u64 v = rdmsr(msr);

		reg[G_RAX] = (u32)v;
		reg[G_RDX] = v >> 32;
	}
	if (!vm_run(what, write ? m_wrmsr : m_rdmsr))
		return;
	if (!exits) {
		expect_call(what, write ? m_wrmsr_next : m_rdmsr_next);
		return;
	}
	expect_exit(what, write ? R_WRMSR : R_RDMSR, 0);
	expect_field(what, "instruction length", F_EXIT_LEN, 2);
}

static void all_msrs(void)
{
	static const u32 list[] = { MSR_PAT, 0x174, 0x10, MSR_LSTAR, MSR_FS_BASE, MSR_KERNEL_GS_BASE };
	static const u32 outside[] = { 0x2000, 0x3fff, 0x40000000, 0x80000000, 0xbfffffff, 0xc0002000, 0xffffffff };

	vm_good(LONG);
	reg[G_RCX] = MSR_PAT;
	if (vm_run("RDMSR without bitmaps", m_rdmsr))
		expect_exit("RDMSR without bitmaps", R_RDMSR, 0);
	vm_good(LONG);
	reg[G_RCX] = MSR_PAT;
	if (vm_run("WRMSR without bitmaps", m_wrmsr))
		expect_exit("WRMSR without bitmaps", R_WRMSR, 0);
	if (!can_proc(PROC_MSR_BITMAPS)) {
		skip("MSR bitmaps");
		return;
	}
	memset(msr_bitmap, 0, PAGE);
	for (unsigned i = 0; i < ARRAY_SIZE(list); i++)
		for (unsigned write = 0; write < 2; write++) {
			if (write && list[i] == 0x10)
				continue;
			msr_exit("MSR whose bit is clear", list[i], write, false);
			msr_bit(list[i], write, true);
			msr_exit("MSR whose bit is set", list[i], write, true);
			if (list[i] != 0x10)
				msr_exit("MSR whose other bit is set", list[i], !write, false);
			msr_bit(list[i], write, false);
		}
	for (unsigned i = 0; i < ARRAY_SIZE(outside); i++) {
		vm_good(LONG);
		vm_or(F_PROC, PROC_MSR_BITMAPS);
		reg[G_RCX] = outside[i];
		if (vm_run("MSR outside the bitmaps", i & 1 ? m_wrmsr : m_rdmsr))
			expect_exit("MSR outside the bitmaps", i & 1 ? R_WRMSR : R_RDMSR, 0);
	}
	/* An MSR that does not exist: the exit comes first if it is asked for. */
	vm_good(LONG);
	vm_or(F_PROC, PROC_MSR_BITMAPS);
	reg[G_RCX] = 0x1fff;
	if (vm_run("MSR that does not exist", m_rdmsr))
		expect_event("MSR that does not exist", V_GP, 0);
	msr_bit(0x1fff, false, true);
	msr_exit("MSR that does not exist, its bit set", 0x1fff, false, true);
	memset(msr_bitmap, 0, PAGE);
}

void group_bitmaps(void)
{
	all_ports();
	all_msrs();
	expect_good("bitmaps");
}
