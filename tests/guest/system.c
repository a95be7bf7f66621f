/*
 * System-level behaviour that programs and kernels can see: which exception, with
 * which error code, and what state is left. Grouped by what causes it; each check
 * names the rule. Expected results are the SDM's ("Interrupt and Exception
 * Handling", "Debug", the instruction pages).
 *
 * Checks that QEMU's translator (7.2) fails are excused there by the word "qemu".
 */
#include "lib/guest.h"

static u64 address(const volatile void *p) { return (u64)(uintptr_t)p; }

#define NOT_CANONICAL 0x0000900000000000ull
#define NO_SUCH_PAGE 0x0000700000000000ull /* nothing is mapped there */

static const struct trap *const t = &last_trap;

static void run_kernel(const void *code, u64 rdi, u64 rsi) { run_code(code, KERNEL, rdi, rsi); }
static void run_user(const void *code, u64 rdi, u64 rsi) { run_code(code, USER, rdi, rsi); }

/* ---- simple exceptions ---- */

PIECE(p_div0, "xor %ecx, %ecx; mov $1, %eax; cltd; idiv %ecx");
PIECE(p_div_overflow, "mov $1, %edx; xor %eax, %eax; mov $1, %ecx; div %ecx");
PIECE(p_idiv_min, "mov $0x80000000, %eax; cltd; mov $-1, %ecx; idiv %ecx");
PIECE(p_ud2, "ud2");
PIECE(p_int3, "int3");
PIECE(p_int_cd3, ".byte 0xcd, 3");
PIECE(p_int13, "int $13");
PIECE(p_into, ".byte 0xce");
PIECE(p_push_cs, ".byte 0x0e");
PIECE(p_aam, ".byte 0xd4, 0x0a");
PIECE(p_load, "mov (%rdi), %rax");
PIECE(p_store, "mov %rax, (%rdi)");
PIECE(p_load_rbp, "mov %rdi, %rbp; mov (%rbp), %rax");
PIECE(p_push_at, "mov %rdi, %rsp; push %rax");
PIECE(p_jump, "jmp *%rdi");
PIECE(p_lock_nop, ".byte 0xf0, 0x90");
PIECE(p_lock_reg, ".byte 0xf0, 0x01, 0xc0"); /* lock add %eax, %eax */
PIECE(p_lock_mov, ".byte 0xf0, 0x89, 0x07"); /* lock mov %eax, (%rdi) */
PIECE(p_long_insn, ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90");
PIECE(p_insn15, ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90");
PIECE(p_mov_cs, ".byte 0x8e, 0xc8"); /* mov %eax, %cs */
PIECE(p_mov_seg6, ".byte 0x8e, 0xf0");
PIECE(p_lea_reg, ".byte 0x8d, 0xc0");
PIECE(p_cmpxchg16b, "lock cmpxchg16b (%rdi)");
PIECE(p_movaps, "movaps (%rdi), %xmm0");
PIECE(p_movups, "movups (%rdi), %xmm0");
PIECE(p_int1, ".byte 0xf1");

static void exceptions_simple(void)
{
	run_kernel(p_div0, 0, 0);
	expect("division by zero", V_DE, 0);
	run_kernel(p_div_overflow, 0, 0);
	expect("quotient too large", V_DE, 0);
	run_kernel(p_idiv_min, 0, 0);
	expect("most negative by -1", V_DE, 0);
	run_user(p_ud2, 0, 0);
	expect("UD2", V_UD, 0);
	check(t->rip == user_address(p_ud2), "UD2 is a fault: rip 0x%lx", t->rip);
	run_user(p_int3, 0, 0);
	expect("INT3", V_BP, 0);
	check(t->rip == user_address(p_int3) + 1, "INT3 is a trap: rip 0x%lx", t->rip);
	run_user(p_int_cd3, 0, 0);
	expect("INT 3, two bytes", V_BP, 0);
	check(t->rip == user_address(p_int_cd3) + 2, "INT 3 is a trap: rip 0x%lx", t->rip);
	run_user(p_int13, 0, 0);
	expect_unless("qemu", "INT n through a gate of DPL 0", V_GP, V_GP * 8 + 2);
	check(t->rip == user_address(p_int13), "rip of the INT itself: 0x%lx", t->rip);
	run_kernel(p_int1, 0, 0);
	expect_unless("qemu", "INT1", V_DB, 0);
	check_unless("qemu", t->rip == address(p_int1) + 1, "INT1 is a trap: rip 0x%lx", t->rip);
	run_user(p_int1, 0, 0);
	expect_unless("qemu", "INT1 heeds no DPL", V_DB, 0);
	run_kernel(p_into, 0, 0);
	expect("INTO in 64-bit mode", V_UD, 0);
	run_kernel(p_push_cs, 0, 0);
	expect("PUSH CS in 64-bit mode", V_UD, 0);
	run_kernel(p_aam, 0, 0);
	expect("AAM in 64-bit mode", V_UD, 0);
	run_kernel(p_mov_cs, 0, 0);
	expect("MOV to CS", V_UD, 0);
	run_kernel(p_mov_seg6, 0, 0);
	expect("MOV to segment register 6", V_UD, 0);
	run_kernel(p_lea_reg, 0, 0);
	expect("LEA of a register", V_UD, 0);
}

static u8 buffer[64] __attribute__((aligned(64)));

static void exceptions_addresses(void)
{
	run_user(p_load, NOT_CANONICAL, 0);
	expect("load, not canonical", V_GP, 0);
	run_kernel(p_load_rbp, NOT_CANONICAL, 0);
	expect_unless("qemu", "load through RBP, not canonical", V_SS, 0);
	run_user(p_push_at, NOT_CANONICAL, 0);
	expect_unless("qemu", "push, not canonical", V_SS, 0);
	run_kernel(p_jump, NOT_CANONICAL, 0);
	expect("jump, not canonical", V_GP, 0);
	check_unless("qemu", t->rip == address(p_jump), "a jump that faults has not happened: rip 0x%lx", t->rip);
	run_kernel(p_load, 0x00007fffffffffffull, 0);
	expect_unless("qemu", "load across the canonical boundary", V_GP, 0);
	run_user(p_load, NO_SUCH_PAGE, 0);
	expect("user load, not mapped", V_PF, 4);
	check(t->cr2 == NO_SUCH_PAGE, "CR2 0x%lx", t->cr2);
	run_kernel(p_store, NO_SUCH_PAGE + 8, 0);
	expect("store, not mapped", V_PF, 2);
	run_user(p_store, address(buffer), 0);
	expect("user store to a supervisor page", V_PF, 7);
	run_user(p_jump, address(p_ud2), 0);
	expect("user jump to a supervisor page", V_PF, rdmsr(MSR_EFER) & EFER_NXE ? 0x15 : 5);
	run_kernel(p_cmpxchg16b, address(buffer) + 8, 0);
	expect("CMPXCHG16B, not aligned", V_GP, 0);
	run_kernel(p_cmpxchg16b, address(buffer) + 16, 0);
	expect("CMPXCHG16B, aligned", V_DONE, 0);
	run_kernel(p_movaps, address(buffer) + 8, 0);
	expect_unless("qemu", "MOVAPS, not aligned", V_GP, 0);
	run_kernel(p_movups, address(buffer) + 1, 0);
	expect("MOVUPS, not aligned", V_DONE, 0);
}

static void exceptions_encoding(void)
{
	run_kernel(p_lock_nop, 0, 0);
	expect("LOCK NOP", V_UD, 0);
	run_kernel(p_lock_reg, 0, 0);
	expect("LOCK with a register", V_UD, 0);
	run_kernel(p_lock_mov, address(buffer), 0);
	expect_unless("qemu", "LOCK MOV", V_UD, 0);
	run_kernel(p_long_insn, 0, 0);
	expect("16 bytes of instruction", V_GP, 0);
	run_kernel(p_insn15, 0, 0);
	expect("15 bytes of instruction", V_DONE, 0);
}

/* ---- control registers ---- */

PIECE(p_cr0, "mov %rdi, %cr0");
PIECE(p_cr3, "mov %rdi, %cr3");
PIECE(p_cr4, "mov %rdi, %cr4");
PIECE(p_cr8, "mov %rdi, %cr8");
PIECE(p_cr1, ".byte 0x0f, 0x22, 0xcf"); /* mov %rdi, %cr1 */
PIECE(p_cr7, ".byte 0x0f, 0x20, 0xf8"); /* mov %cr7, %rax */
PIECE(p_read_cr0, "mov %cr0, %rax");
PIECE(p_smsw, "smsw %rax");
PIECE(p_lmsw, "lmsw %di");
PIECE(p_clts, "clts");

/* A value that must fault. QEMU's translator takes some, and the machine is gone: not tried there. */
static void refused(const char *what, const void *piece, u64 value)
{
	if (option("qemu"))
		return;
	run_kernel(piece, value, 0);
	expect(what, V_GP, 0);
}

static void control_registers(void)
{
	u64 cr0 = read_cr0(), cr3 = read_cr3(), cr4 = read_cr4();
	unsigned maxphyaddr = cpuid(0x80000008, 0).a & 0xff;

	refused("CR0: PG without PE", p_cr0, cr0 & ~(u64)CR0_PE);
	refused("CR0: NW without CD", p_cr0, cr0 | CR0_NW);
	refused("CR0: bit 32", p_cr0, cr0 | 1ull << 32);
	refused("CR0: PG cleared in 64-bit mode", p_cr0, cr0 & ~CR0_PG);
	run_kernel(p_cr0, cr0 & ~0x10ull, 0);
	expect("CR0: ET cannot be cleared, no fault", V_DONE, 0);
	check(read_cr0() == cr0, "CR0 is 0x%lx, was 0x%lx", read_cr0(), cr0);
	refused("CR3: reserved bit", p_cr3, cr3 | 1ull << maxphyaddr);
	refused("CR4: PAE cleared in long mode", p_cr4, cr4 & ~(u64)CR4_PAE);
	refused("CR4: LA57 changed in long mode", p_cr4, cr4 ^ CR4_LA57);
	refused("CR4: bit 31", p_cr4, cr4 | 1ull << 31);
	refused("CR4: bit 32", p_cr4, cr4 | 1ull << 32);
	refused("CR8: 16", p_cr8, 16);
	run_kernel(p_cr8, 15, 0);
	expect("CR8: 15", V_DONE, 0);
	run_kernel(p_cr8, 0, 0);
	run_kernel(p_cr1, 0, 0);
	expect("MOV to CR1", V_UD, 0);
	run_kernel(p_cr7, 0, 0);
	expect("MOV from CR7", V_UD, 0);
	run_user(p_read_cr0, 0, 0);
	expect("MOV from CR0 in user mode", V_GP, 0);
	run_user(p_clts, 0, 0);
	expect("CLTS in user mode", V_GP, 0);
	run_user(p_lmsw, 0, 0);
	expect("LMSW in user mode", V_GP, 0);
	run_kernel(p_lmsw, cr0 & 0xe, 0);
	check(read_cr0() & CR0_PE, "LMSW cannot clear PE");
	write_cr0(cr0);
	run_user(p_smsw, 0, 0);
	expect("SMSW in user mode", V_DONE, 0);
	check((u32)t->rax == (u32)cr0, "SMSW gives 0x%lx", t->rax);
}

static void control_pcid(void)
{
	u64 cr3 = read_cr3(), cr4 = read_cr4();

	if (!(cpuid(1, 0).c >> 17 & 1)) {
		run_kernel(p_cr4, cr4 | CR4_PCIDE, 0);
		expect_unless("qemu", "CR4: PCIDE that is not there", V_GP, 0);
		return;
	}
	refused("CR3: bit 63 without PCIDE", p_cr3, cr3 | 1ull << 63);
	run_kernel(p_cr3, cr3 | 0x18, 0); /* PCD and PWT, not a PCID yet */
	refused("CR4: PCIDE with CR3[11:0] != 0", p_cr4, cr4 | CR4_PCIDE);
	write_cr3(cr3);
	run_kernel(p_cr4, cr4 | CR4_PCIDE, 0);
	expect("CR4: PCIDE", V_DONE, 0);
	run_kernel(p_cr3, cr3 | 0xfff | 1ull << 63, 0);
	expect("CR3: largest PCID, keeping translations", V_DONE, 0);
	check(read_cr3() == (cr3 | 0xfff), "CR3 reads 0x%lx: bit 63 is not kept", read_cr3());
	refused("CR0: PG cleared under PCIDE", p_cr0, read_cr0() & ~CR0_PG);
	write_cr3(cr3);
	write_cr4(cr4);
}

/* ---- model-specific registers ---- */

PIECE(p_rdmsr, "mov %edi, %ecx; rdmsr");
PIECE(p_wrmsr, "mov %edi, %ecx; mov %rsi, %rax; mov %rsi, %rdx; shr $32, %rdx; wrmsr");

static void expect_wrmsr(const char *what, u32 msr, u64 value, u64 vector)
{
	run_kernel(p_wrmsr, msr, value);
	expect_unless("qemu", what, vector, 0);
}

static void msrs(void)
{
	u64 efer = rdmsr(MSR_EFER), pat = rdmsr(MSR_PAT);

	run_kernel(p_rdmsr, 0x12345678, 0);
	expect_unless("qemu", "RDMSR of nothing", V_GP, 0);
	run_user(p_rdmsr, MSR_EFER, 0);
	expect("RDMSR in user mode", V_GP, 0);
	run_user(p_wrmsr, MSR_EFER, efer);
	expect("WRMSR in user mode", V_GP, 0);
	expect_wrmsr("WRMSR of nothing", 0x12345678, 0, V_GP);
	expect_wrmsr("EFER: reserved bit 1", MSR_EFER, efer | 2, V_GP);
	expect_wrmsr("EFER: bit 63", MSR_EFER, efer | 1ull << 63, V_GP);
	expect_wrmsr("EFER: LME cleared under paging", MSR_EFER, efer & ~(u64)EFER_LME, V_GP);
	run_kernel(p_wrmsr, MSR_EFER, efer & ~(u64)EFER_LMA);
	expect("EFER: LMA is ignored", V_DONE, 0);
	check(rdmsr(MSR_EFER) == efer, "EFER is 0x%lx, was 0x%lx", rdmsr(MSR_EFER), efer);
	expect_wrmsr("PAT: type 2", MSR_PAT, 2, V_GP);
	expect_wrmsr("PAT: bit 3", MSR_PAT, 8, V_GP);
	expect_wrmsr("PAT: the value it has", MSR_PAT, pat, V_DONE);
	expect_wrmsr("FS_BASE not canonical", MSR_FS_BASE, NOT_CANONICAL, V_GP);
	expect_wrmsr("KERNEL_GS_BASE not canonical", MSR_KERNEL_GS_BASE, NOT_CANONICAL, V_GP);
	expect_wrmsr("LSTAR not canonical", MSR_LSTAR, NOT_CANONICAL, V_GP);
	expect_wrmsr("SYSENTER_EIP not canonical", 0x176, NOT_CANONICAL, V_GP);
	expect_wrmsr("APIC_BASE: reserved bit 9", MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0x200, V_GP);
	expect_wrmsr("MTRRCAP is read-only", 0xfe, 0, V_GP);
	run_kernel(p_wrmsr, MSR_GS_BASE, 0xffff800000001234);
	expect("GS_BASE", V_DONE, 0);
	check(rdmsr(MSR_GS_BASE) == 0xffff800000001234, "GS_BASE reads 0x%lx", rdmsr(MSR_GS_BASE));
	wrmsr(MSR_GS_BASE, 0);
}

/* ---- privileged and optional instructions ---- */

PIECE(p_hlt, "hlt");
PIECE(p_cli, "cli");
PIECE(p_sti, "sti");
PIECE(p_invlpg, "invlpg (%rdi)");
PIECE(p_wbinvd, "wbinvd");
PIECE(p_lgdt, "lgdt (%rdi)");
PIECE(p_lidt, "lidt (%rdi)");
PIECE(p_lldt, "lldt %di");
PIECE(p_ltr, "ltr %di");
PIECE(p_swapgs, "swapgs");
PIECE(p_sysret, "sysretq");
PIECE(p_mov_dr, "mov %dr0, %rax");
PIECE(p_in, "mov %edi, %edx; in %dx, %al");
PIECE(p_out, "mov %edi, %edx; out %eax, %dx");
PIECE(p_rdtsc, "rdtsc");
PIECE(p_rdpmc, "xor %ecx, %ecx; rdpmc");
PIECE(p_sgdt, "sub $16, %rsp; sgdt (%rsp)");
PIECE(p_sidt, "sub $16, %rsp; sidt (%rsp)");
PIECE(p_sldt, "sldt %eax");
PIECE(p_str, "str %eax");
PIECE(p_rdfsbase, "rdfsbase %rax");
PIECE(p_wrfsbase, "wrfsbase %rdi");
PIECE(p_xgetbv, "xor %ecx, %ecx; xgetbv");
PIECE(p_xsetbv, "xor %ecx, %ecx; mov %edi, %eax; xor %edx, %edx; xsetbv");
PIECE(p_invpcid, "invpcid (%rdi), %rsi");
PIECE(p_popf, "push %rdi; popf; pushf; pop %rax");
PIECE(p_xsave, "xsave (%rdi)");
PIECE(p_rdpkru, "xor %ecx, %ecx; .byte 0x0f, 0x01, 0xee");
PIECE(p_wrpkru, "mov %esi, %ecx; xor %edx, %edx; xor %eax, %eax; .byte 0x0f, 0x01, 0xef");
PIECE(p_clac, "clac");
PIECE(p_vmcall, "vmcall");

static void user_forbidden(void)
{
	static const struct { const char *name, *code; } list[] = {
		{ "HLT", p_hlt }, { "CLI", p_cli }, { "STI", p_sti }, { "INVLPG", p_invlpg }, { "WBINVD", p_wbinvd },
		{ "LGDT", p_lgdt }, { "LIDT", p_lidt }, { "LLDT", p_lldt }, { "LTR", p_ltr }, { "SWAPGS", p_swapgs },
		{ "SYSRET", p_sysret }, { "MOV from DR", p_mov_dr }, { "IN", p_in }, { "OUT", p_out },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		run_user(list[i].code, address(buffer), 0);
		expect(list[i].name, V_GP, 0);
	}
	/* IF and IOPL do not change, and nothing faults. */
	run_code_flags(p_popf, USER, 0, 0x3202 | FLAG_CF, 0, 0);
	expect("POPF in user mode", V_DONE, 0);
	check((t->rax & 0x3201) == FLAG_CF, "POPF in user mode leaves flags 0x%lx", t->rax);
	run_kernel(p_popf, 0x244ed7, 0);
	check_unless("qemu", (t->rax & 0x3ffed7) == 0x244ed7, "POPF in kernel mode leaves flags 0x%lx", t->rax);
}

/* The task's I/O permission map: two bytes from its base offset, one bit a port. */
static void io_permissions(void)
{
	u8 *tss = tss_bytes();

	run_code_flags(p_in, USER, 3 << 12, 0x80, 0, 0);
	expect("IN with IOPL 3", V_DONE, 0);
	run_code_flags(p_cli, USER, 3 << 12, 0, 0, 0);
	expect("CLI with IOPL 3", V_DONE, 0);
	run_user(p_in, 0x80, 0);
	expect("IN with no permission map", V_GP, 0);
	tss[0x66] = 0x50; /* the IST area serves as a map for ports 0 and up, as far as the limit */
	tss[0x67] = 0;
	tss[0x50 + 0x80 / 8] = 0;
	run_user(p_in, 0x80, 0);
	expect("IN with the port's bit clear", V_DONE, 0);
	tss[0x50 + 0x80 / 8] = 4;
	run_user(p_in, 0x80, 0);
	expect("IN with another port's bit set", V_DONE, 0);
	run_user(p_out, 0x80, 0);
	expect("OUT of four bytes, one bit set", V_GP, 0);
	tss[0x50 + 0x80 / 8] = 1;
	run_user(p_in, 0x80, 0);
	expect("IN with the port's bit set", V_GP, 0);
	tss[0x50 + 0x80 / 8] = 0;
	run_user(p_in, 0xb8, 0);
	expect("IN past the map", V_GP, 0);
	tss[0x66] = 0x68;
}

static void with_cr4(u64 set, u64 clear, const void *code, int cpl, u64 rdi, u64 rsi)
{
	u64 cr4 = read_cr4();

	write_cr4((cr4 | set) & ~clear);
	run_code(code, cpl, rdi, rsi);
	write_cr4(cr4);
}

static void optional_instructions(void)
{
	static const char *const umip[] = { p_sgdt, p_sidt, p_sldt, p_str, p_smsw };
	struct cpuid seven = cpuid(7, 0), one = cpuid(1, 0);

	with_cr4(CR4_TSD, 0, p_rdtsc, USER, 0, 0);
	expect("RDTSC in user mode with TSD", V_GP, 0);
	with_cr4(CR4_TSD, 0, p_rdtsc, KERNEL, 0, 0);
	expect("RDTSC in kernel mode with TSD", V_DONE, 0);
	with_cr4(0, 0, p_rdpmc, USER, 0, 0);
	expect_unless("qemu", "RDPMC in user mode without PCE", V_GP, 0);
	for (unsigned i = 0; seven.c >> 2 & 1 && i < ARRAY_SIZE(umip); i++) {
		with_cr4(CR4_UMIP, 0, umip[i], USER, 0, 0);
		expect("UMIP", V_GP, 0);
		with_cr4(CR4_UMIP, 0, umip[i], KERNEL, 0, 0);
		expect("UMIP in kernel mode", V_DONE, 0);
		with_cr4(0, CR4_UMIP, umip[i], USER, 0, 0);
		expect("without UMIP", V_DONE, 0);
	}
	with_cr4(0, CR4_FSGSBASE, p_rdfsbase, KERNEL, 0, 0);
	expect("RDFSBASE without its CR4 bit", V_UD, 0);
	if (seven.b & 1) {
		with_cr4(CR4_FSGSBASE, 0, p_wrfsbase, USER, 0x123456, 0);
		expect("WRFSBASE", V_DONE, 0);
		check(rdmsr(MSR_FS_BASE) == 0x123456, "FS_BASE is 0x%lx", rdmsr(MSR_FS_BASE));
		with_cr4(CR4_FSGSBASE, 0, p_wrfsbase, USER, NOT_CANONICAL, 0);
		expect_unless("qemu", "WRFSBASE, not canonical", V_GP, 0);
	}
	with_cr4(0, CR4_OSXSAVE, p_xgetbv, KERNEL, 0, 0);
	expect("XGETBV without OSXSAVE", V_UD, 0);
	with_cr4(0, CR4_OSXSAVE, p_xsave, KERNEL, address(buffer), 0);
	expect("XSAVE without OSXSAVE", V_UD, 0);
	if (one.c >> 26 & 1) {
		with_cr4(CR4_OSXSAVE, 0, p_xgetbv, USER, 0, 0);
		expect("XGETBV", V_DONE, 0);
		with_cr4(CR4_OSXSAVE, 0, p_xsetbv, KERNEL, 2, 0);
		expect("XSETBV without x87", V_GP, 0);
		with_cr4(CR4_OSXSAVE, 0, p_xsetbv, KERNEL, 5, 0);
		expect_unless("qemu", "XSETBV: AVX without SSE", V_GP, 0);
		with_cr4(CR4_OSXSAVE, 0, p_xsetbv, USER, 3, 0);
		expect("XSETBV in user mode", V_GP, 0);
		with_cr4(CR4_OSXSAVE, 0, p_xsetbv, KERNEL, 3, 0);
		expect("XSETBV", V_DONE, 0);
		with_cr4(CR4_OSXSAVE, 0, p_xsave, KERNEL, address(buffer) + 8, 0);
		expect("XSAVE, not aligned", V_GP, 0);
	}
	run_kernel(p_vmcall, 0, 0);
	expect_unless("vmm", "VMCALL with no VMX in use", V_UD, 0);
}

static void optional_pkeys_and_invpcid(void)
{
	static u64 descriptor[2] __attribute__((aligned(16)));
	struct cpuid seven = cpuid(7, 0);

	with_cr4(0, CR4_PKE, p_rdpkru, USER, 0, 0);
	expect("RDPKRU without PKE", V_UD, 0);
	if (seven.c >> 3 & 1) {
		with_cr4(CR4_PKE, 0, p_rdpkru, USER, 0, 0);
		expect("RDPKRU", V_DONE, 0);
		with_cr4(CR4_PKE, 0, p_wrpkru, USER, 0, 1);
		expect("WRPKRU with ECX = 1", V_GP, 0);
	}
	if (seven.b >> 20 & 1) {
		run_user(p_clac, 0, 0);
		expect("CLAC in user mode", V_UD, 0);
	}
	if (!(seven.b >> 10 & 1)) {
		run_kernel(p_invpcid, address(descriptor), 0);
		expect("INVPCID that is not there", V_UD, 0);
		return;
	}
	run_kernel(p_invpcid, address(descriptor), 4);
	expect("INVPCID type 4", V_GP, 0);
	descriptor[0] = 1;
	run_kernel(p_invpcid, address(descriptor), 0);
	expect("INVPCID of context 1 without PCIDE", V_GP, 0);
	descriptor[0] = 0x1000;
	run_kernel(p_invpcid, address(descriptor), 2);
	expect("INVPCID with a reserved bit", V_GP, 0);
	descriptor[0] = 0;
	descriptor[1] = NOT_CANONICAL;
	run_kernel(p_invpcid, address(descriptor), 0);
	expect("INVPCID of an address that is not canonical", V_GP, 0);
	run_kernel(p_invpcid, address(descriptor), 1);
	expect("INVPCID of a context heeds no address", V_DONE, 0);
	run_user(p_invpcid, user_address(descriptor), 0);
	expect("INVPCID in user mode", V_GP, 0);
}

/* ---- single step and breakpoints ---- */

PIECE(p_two_nops, "nop; nop");
PIECE(p_popf_tf, "pushf; orl $0x100, (%rsp); popf; nop; nop");
PIECE(p_string_step, "rep movsb; nop"); /* RCX is the third argument */
PIECE(p_read_word, "mov (%rdi), %eax; nop");
PIECE(p_write_word, "mov %eax, (%rdi); nop");
PIECE(p_write_dr7, "mov %rdi, %dr7; nop");
PIECE(p_write_dr6, "mov %rdi, %dr6");
PIECE(p_read_dr4, ".byte 0x0f, 0x21, 0xe0"); /* mov %dr4, %rax */

static u64 read_dr6(void)
{
	u64 v;

	__asm__ volatile("mov %%dr6, %0" : "=r"(v));
	return v;
}

static void write_dr(unsigned n, u64 v)
{
	switch (n) {
	case 0:
		__asm__ volatile("mov %0, %%dr0" : : "r"(v));
		break;
	case 1:
		__asm__ volatile("mov %0, %%dr1" : : "r"(v));
		break;
	case 6:
		__asm__ volatile("mov %0, %%dr6" : : "r"(v));
		break;
	default:
		__asm__ volatile("mov %0, %%dr7" : : "r"(v));
	}
}

static void expect_debug(const char *what, u64 rip, u64 dr6)
{
	u64 found = read_dr6();

	check(t->vector == V_DB && t->rip == rip && (found & 0xe00f) == dr6,
	      "%s: vector %ld rip 0x%lx DR6 0x%lx, expected #DB rip 0x%lx DR6 bits 0x%lx", what, t->vector, t->rip, found, rip,
	      dr6);
	write_dr(6, 0xffff0ff0);
}

enum { DR6_B0 = 1, DR6_B1 = 2, DR6_BD = 1 << 13, DR6_BS = 1 << 14 };

static void single_step(void)
{
	u64 rep = address(p_string_step);

	write_dr(7, 0x400);
	write_dr(6, 0xffff0ff0);
	run_code_flags(p_two_nops, KERNEL, FLAG_TF, 0, 0, 0);
	expect_debug("single step", address(p_two_nops) + 1, DR6_BS);
	check(t->rflags & FLAG_TF, "TF is in the pushed flags: 0x%lx", t->rflags);
	run_code_flags(p_two_nops, USER, FLAG_TF, 0, 0, 0);
	expect_debug("single step in user mode", user_address(p_two_nops) + 1, DR6_BS);
	run_kernel(p_popf_tf, 0, 0);
	expect_debug("TF set by POPF: after the next instruction", address(p_popf_tf) + 10, DR6_BS);
	run_code_flags(p_string_step, KERNEL, FLAG_TF, address(buffer), address(buffer) + 32, 3);
	expect_debug("single step of one iteration", rep, DR6_BS);
	check(t->rcx == 2, "one iteration is done: rcx %ld", t->rcx);
	run_code_flags(p_string_step, KERNEL, FLAG_TF, address(buffer), address(buffer) + 32, 1);
	expect_debug("single step of the last iteration", rep + 2, DR6_BS);
	run_code_flags(p_ud2, KERNEL, FLAG_TF, 0, 0, 0);
	expect("a fault comes before the step", V_UD, 0);
	check((read_dr6() & DR6_BS) == 0, "no step is reported with it: DR6 0x%lx", read_dr6());
	run_code_flags(p_ud2, USER, FLAG_TF | FLAG_RF, 0, 0, 0);
	expect("RF does not stop a fault", V_UD, 0);
}

/* MOV to SS holds back the step (and everything else) for one instruction. */
PIECE(p_ss_shadow, "mov %edi, %ss; nop; nop");

static void step_shadow(void)
{
	write_dr(6, 0xffff0ff0);
	run_code_flags(p_ss_shadow, KERNEL, FLAG_TF, SEL_DATA, 0, 0);
	expect_debug("single step is held back by MOV to SS", address(p_ss_shadow) + 3, DR6_BS);
}

static void breakpoints(void)
{
	u64 second = address(p_two_nops) + 1, word = address(buffer);

	write_dr(0, second);
	write_dr(7, 0x401);
	run_kernel(p_two_nops, 0, 0);
	expect_debug("instruction breakpoint", second, DR6_B0);
	run_code_flags(p_two_nops + 1, KERNEL, FLAG_RF, 0, 0, 0);
	expect("RF passes an instruction breakpoint", V_DONE, 0);
	write_dr(0, word);
	write_dr(7, 0x400 | 1 | 0xd0000); /* DR0: writes of four bytes */
	run_kernel(p_write_word, word, 0);
	expect_debug("data write breakpoint", address(p_write_word) + 2, DR6_B0);
	run_kernel(p_read_word, word, 0);
	expect("a read does not hit it", V_DONE, 0);
	write_dr(6, 0xffff0ff0);
	run_kernel(p_write_word, word + 4, 0);
	expect("a write beside it does not hit it", V_DONE, 0);
	write_dr(6, 0xffff0ff0);
	run_kernel(p_write_word, word + 3, 0);
	expect_debug("a write that overlaps hits it", address(p_write_word) + 2, DR6_B0);
	write_dr(1, word + 1);
	write_dr(7, 0x400 | 4 | 0x300000); /* DR1: reads and writes of one byte */
	run_kernel(p_read_word, word, 0);
	expect_debug("data read or write breakpoint", address(p_read_word) + 2, DR6_B1);
	write_dr(7, 0x400);
	run_kernel(p_read_word, word, 0);
	expect("switched off", V_DONE, 0);
}

static void debug_registers(void)
{
	u64 cr4 = read_cr4();

	write_dr(7, 0x400 | 1 << 13);
	run_kernel(p_write_dr7, 0x400, 0);
	if (!option("qemu"))
		expect_debug("GD catches MOV to DR", address(p_write_dr7), DR6_BD);
	write_dr(6, 0xffff0ff0);
	write_dr(7, 0x400);
	run_kernel(p_write_dr7, 1ull << 32, 0);
	expect_unless("qemu", "DR7: bit 32", V_GP, 0);
	run_kernel(p_write_dr6, 1ull << 32, 0);
	expect_unless("qemu", "DR6: bit 32", V_GP, 0);
	write_dr(6, 0xffff0ff0);
	write_cr4(cr4 | CR4_DE);
	run_kernel(p_read_dr4, 0, 0);
	expect("DR4 with DE", V_UD, 0);
	write_cr4(cr4 & ~(u64)CR4_DE);
	run_kernel(p_read_dr4, 0, 0);
	expect("DR4 without DE", V_DONE, 0);
	check_unless("qemu", t->rax == read_dr6(), "DR4 is DR6: 0x%lx, 0x%lx", t->rax, read_dr6());
	write_cr4(cr4);
	write_dr(6, 0);
	check(read_dr6() == 0xffff0ff0, "fixed bits of DR6: 0x%lx", read_dr6());
}

/* ---- segments ---- */

PIECE(p_mov_ds, "mov %edi, %ds");
PIECE(p_mov_fs, "mov %edi, %fs");
PIECE(p_load_ss, "mov %edi, %ss");
PIECE(p_lar, "xor %eax, %eax; lar %edi, %eax; setz %cl; movzbl %cl, %ecx");
PIECE(p_lsl, "xor %eax, %eax; lsl %edi, %eax; setz %cl; movzbl %cl, %ecx");
PIECE(p_verw, "verw %di; setz %cl; movzbl %cl, %ecx");
PIECE(p_retf, "push %rdi; push %rsi; lretq");

enum { SEL_X = SEL_FREE, SEL_Y = SEL_FREE + 8 };
#define DATA64 0x00cf93000000ffffull
#define TYPE(d, type) (((d) & ~(0xffull << 40)) | (u64)(type) << 40)

static void expect_load(const char *what, const void *piece, int cpl, u64 selector, u64 vector, u64 error)
{
	run_code(piece, cpl, selector, 0);
	expect(what, vector, error);
}

static void segments_data(void)
{
	expect_load("DS: null", p_mov_ds, USER, 0, V_DONE, 0);
	expect_load("DS: past the limit", p_mov_ds, KERNEL, 0xfff8, V_GP, 0xfff8);
	expect_load("DS: past the limit, RPL 3", p_mov_ds, USER, 0xfffb, V_GP, 0xfff8);
	expect_load("DS: past the local table's limit", p_mov_ds, USER, 0x7fff, V_GP, 0x7ffc);
	gdt_set(SEL_X, TYPE(DATA64, 0x13));
	expect_load("DS: not present", p_mov_ds, KERNEL, SEL_X, V_NP, SEL_X);
	expect_load("SS: not present", p_load_ss, KERNEL, SEL_X, V_SS, SEL_X);
	gdt_set(SEL_X, TYPE(DATA64, 0x99));
	expect_load("DS: code that cannot be read", p_mov_ds, KERNEL, SEL_X, V_GP, SEL_X);
	gdt_set(SEL_X, TYPE(DATA64, 0x9b));
	expect_load("DS: readable code", p_mov_ds, KERNEL, SEL_X, V_DONE, 0);
	expect_load("SS: code", p_load_ss, KERNEL, SEL_X, V_GP, SEL_X);
	gdt_set(SEL_X, TYPE(DATA64, 0x91));
	expect_load("SS: read-only data", p_load_ss, KERNEL, SEL_X, V_GP, SEL_X);
	gdt_set(SEL_X, TYPE(DATA64, 0x92));
	expect_load("DS: data of DPL 0 in user mode", p_mov_ds, USER, SEL_X | 3, V_GP, SEL_X);
	expect_load("DS: RPL 3 of DPL 0", p_mov_ds, KERNEL, SEL_X | 3, V_GP, SEL_X);
	check((gdt_get(SEL_X) >> 40 & 0xff) == 0x92, "a refused load leaves the accessed bit: 0x%lx", gdt_get(SEL_X));
	expect_load("FS: data", p_mov_fs, KERNEL, SEL_X, V_DONE, 0);
	check((gdt_get(SEL_X) >> 40 & 0xff) == 0x93, "a load sets the accessed bit: 0x%lx", gdt_get(SEL_X));
	gdt_set(SEL_X, TYPE(DATA64, 0x82));
	expect_load("DS: a system descriptor", p_mov_ds, KERNEL, SEL_X, V_GP, SEL_X);
	expect_load("SS: null in user mode", p_load_ss, USER, 0, V_GP, 0);
	expect_load("SS: null in kernel mode", p_load_ss, KERNEL, 0, V_DONE, 0);
	run_kernel(p_load_ss, 3, 0);
	expect_unless("qemu", "SS: null with RPL 3 in kernel mode", V_GP, 0);
	expect_load("SS: RPL that is not CPL", p_load_ss, KERNEL, SEL_DATA | 3, V_GP, SEL_DATA);
	expect_load("SS: user data in kernel mode", p_load_ss, KERNEL, SEL_UDATA, V_GP, SEL_UDATA & ~3);
	gdt_set(SEL_X, 0);
}

static void segments_system(void)
{
	expect_load("LLDT: null", p_lldt, KERNEL, 0, V_DONE, 0);
	expect_load("LLDT: data", p_lldt, KERNEL, SEL_DATA, V_GP, SEL_DATA);
	expect_load("LLDT: local selector", p_lldt, KERNEL, 4, V_GP, 4);
	run_kernel(p_ltr, 0, 0);
	expect_unless("qemu", "LTR: null", V_GP, 0);
	expect_load("LTR: busy", p_ltr, KERNEL, SEL_TSS, V_GP, SEL_TSS);
	gdt_set(SEL_X, TYPE(gdt_get(SEL_TSS), 0x09));
	gdt_set(SEL_Y, gdt_get(SEL_TSS + 8));
	expect_load("LTR: not present", p_ltr, KERNEL, SEL_X, V_NP, SEL_X);
	gdt_set(SEL_X, TYPE(gdt_get(SEL_TSS), 0x89));
	expect_load("LTR", p_ltr, KERNEL, SEL_X, V_DONE, 0);
	check((gdt_get(SEL_X) >> 40 & 0xff) == 0x8b, "LTR marks the TSS busy: 0x%lx", gdt_get(SEL_X));
	gdt_set(SEL_TSS, TYPE(gdt_get(SEL_TSS), 0x89));
	expect_load("LTR, back", p_ltr, KERNEL, SEL_TSS, V_DONE, 0);
	run_kernel(p_lar, SEL_CODE, 0);
	check(t->rcx == 1 && (t->rax & 0xf0ff00) == 0xa09b00, "LAR of code: ZF %ld, 0x%lx", t->rcx, t->rax);
	run_user(p_lar, SEL_CODE, 0);
	check(t->rcx == 0, "LAR of DPL 0 in user mode: ZF %ld", t->rcx);
	run_kernel(p_lsl, SEL_DATA, 0);
	check(t->rcx == 1 && t->rax == 0xffffffff, "LSL of data: ZF %ld, 0x%lx", t->rcx, t->rax);
	run_kernel(p_lsl, 0, 0);
	check(t->rcx == 0, "LSL of null: ZF %ld", t->rcx);
	run_user(p_verw, SEL_UDATA, 0);
	check(t->rcx == 1, "VERW of data");
	run_user(p_verw, SEL_UCODE, 0);
	check(t->rcx == 0, "VERW of code");
}

/* ---- IRET ---- */

static void iret_to(u64 rip, u64 cs, u64 rflags, u64 rsp, u64 ss)
{
	struct start_frame f = { rip, cs, rflags, rsp, ss };

	run_frame(&f, 0, 0, 0);
}

PIECE(p_done, "");
PIECE(p_iret_nt, "pushf; orl $0x4000, (%rsp); popf; iretq");
__asm__(".pushsection .text\np_compat:\n.code32\n\tinc %eax\n\tmov $0x12345678, %ebx\n\tpushl $0x11\n\tpop %ecx\n"
	"\tmov %esp, %edx\n\tint $0x21\n.code64\n.popsection");
extern const char p_compat[];

static u8 low_stack[1024] __attribute__((aligned(16)));

static void iret_checks(void)
{
	u64 code = address(p_done), stack = address(low_stack) + 512;

	iret_to(code, SEL_CODE, 2, stack, SEL_DATA);
	expect("IRET", V_DONE, 0);
	iret_to(code, 0, 2, stack, SEL_DATA);
	expect("IRET: null CS", V_GP, 0);
	iret_to(code, SEL_DATA, 2, stack, SEL_DATA);
	expect("IRET: data in CS", V_GP, SEL_DATA);
	iret_to(code, 0xfff8, 2, stack, SEL_DATA);
	expect("IRET: CS past the limit", V_GP, 0xfff8);
	iret_to(code, SEL_CODE | 3, 2, stack, SEL_UDATA);
	expect("IRET: RPL of CS is not DPL", V_GP, SEL_CODE);
	iret_to(user_address(p_done), SEL_UCODE, 2, stack, 0);
	expect("IRET: null SS to user mode", V_GP, 0);
	iret_to(user_address(p_done), SEL_UCODE, 2, stack, SEL_DATA);
	expect("IRET: kernel SS to user mode", V_GP, SEL_DATA);
	iret_to(code, SEL_CODE, 2, stack, 0);
	expect("IRET: null SS within kernel mode", V_DONE, 0);
	iret_to(NOT_CANONICAL, SEL_CODE, 2, stack, SEL_DATA);
	expect("IRET: RIP not canonical", V_GP, 0);
	check_unless("qemu", t->rip == address(run_frame_iret), "faults at the IRET: rip 0x%lx", t->rip);
	gdt_set(SEL_X, TYPE(gdt_get(SEL_CODE), 0x1b));
	iret_to(code, SEL_X, 2, stack, SEL_DATA);
	expect("IRET: CS not present", V_NP, SEL_X);
	gdt_set(SEL_X, gdt_get(SEL_CODE) | 3ull << 53);
	iret_to(code, SEL_X, 2, stack, SEL_DATA);
	expect_unless("qemu", "IRET: CS with L and D", V_GP, SEL_X);
	run_kernel(p_iret_nt, 0, 0);
	expect("IRET with NT", V_GP, 0);
	run_kernel(p_retf, SEL_CODE, code);
	expect("far return", V_DONE, 0);
	run_kernel(p_retf, 0, code);
	expect("far return: null CS", V_GP, 0);
}

/* Compatibility mode: 32-bit operands and addresses, one-byte INC, a 32-bit stack. */
static void compatibility_mode(void)
{
	u64 stack = address(low_stack) + 512;

	iret_to(address(p_compat), SEL_CODE32, 2, stack, SEL_DATA);
	expect("32-bit code in kernel mode", V_DONE, 0);
	check(t->rbx == 0x12345678 && t->rcx == 0x11 && t->rdx == stack, "32-bit code: rbx 0x%lx rcx 0x%lx rdx 0x%lx", t->rbx,
	      t->rcx, t->rdx);
	check(t->cs == SEL_CODE32, "interrupted CS is 0x%lx", t->cs);
	iret_to(address(p_compat), SEL_UCODE32, 2, stack, SEL_UDATA);
	expect("32-bit user code on a supervisor page", V_PF, rdmsr(MSR_EFER) & EFER_NXE ? 0x15 : 5);
}

/* ---- SYSCALL and SYSRET ---- */

PIECE(p_syscall, "syscall; nop");
__asm__(".pushsection .text\nsyscall_entry:\n\tmov %ss, %eax\n\tmov %cs, %ebx\n\tpushf\n\tpop %rdx\n\tint $0x21\n.popsection");
extern const char syscall_entry[];
PIECE(p_sysret_to, "mov %rdi, %rcx; mov %rsi, %r11; sysretq");

static void syscalls(void)
{
	u64 user = user_address(p_done), efer = rdmsr(MSR_EFER);

	wrmsr(MSR_STAR, (u64)(SEL_UCODE32) << 48 | (u64)SEL_CODE << 32);
	wrmsr(MSR_LSTAR, address(syscall_entry));
	wrmsr(MSR_FMASK, FLAG_CF | FLAG_DF | FLAG_IF);
	run_code_flags(p_syscall, USER, FLAG_CF | FLAG_DF | FLAG_IF, 0, 0, 0);
	/* The kernel's stack is the user's here: it lies in the user alias, which the kernel may use. */
	expect("SYSCALL", V_DONE, 0);
	check(t->rcx == user_address(p_syscall) + 2, "SYSCALL: RCX 0x%lx", t->rcx);
	check((t->r11 & (FLAG_CF | FLAG_DF | FLAG_IF)) == (FLAG_CF | FLAG_DF | FLAG_IF), "SYSCALL: R11 0x%lx", t->r11);
	check((t->rdx & (FLAG_CF | FLAG_DF | FLAG_IF)) == 0, "SYSCALL: flags 0x%lx", t->rdx);
	check(t->rbx == SEL_CODE && t->rax == SEL_CODE + 8, "SYSCALL: CS 0x%lx SS 0x%lx", t->rbx, t->rax);
	run_kernel(p_sysret_to, user, FLAG_CF | 2);
	expect("SYSRET", V_DONE, 0);
	check(t->cs == SEL_UCODE && t->ss == SEL_UDATA && t->rip == user + 2, "SYSRET: CS 0x%lx SS 0x%lx rip 0x%lx", t->cs,
	      t->ss, t->rip);
	check(t->rflags & FLAG_CF, "SYSRET: flags 0x%lx", t->rflags);
	run_kernel(p_sysret_to, NOT_CANONICAL, 2);
	expect_unless("qemu", "SYSRET: RCX not canonical", V_GP, 0);
	check_unless("qemu", (t->cs & 3) == 0, "SYSRET faults in kernel mode: CS 0x%lx", t->cs);
	wrmsr(MSR_EFER, efer & ~(u64)EFER_SCE);
	run_user(p_syscall, 0, 0);
	expect("SYSCALL without SCE", V_UD, 0);
	run_kernel(p_sysret_to, user, 2);
	expect("SYSRET without SCE", V_UD, 0);
	wrmsr(MSR_EFER, efer);
}

/* ---- delivery ---- */

PIECE(p_int_spare, "int $0x22");
PIECE(p_bad_stack_ud, "mov %rdi, %rsp; ud2");

static u8 ist_stack[4096] __attribute__((aligned(16)));

static void delivery(void)
{
	u64 top = address(ist_stack) + sizeof(ist_stack);

	gate_set(V_SPARE, vector_entries + V_SPARE * 16, 0, 0, false);
	run_kernel(p_int_spare, 0, 0);
	expect_unless("qemu", "INT through a gate that is not present", V_NP, V_SPARE * 8 + 2);
	gate_set(V_SPARE, (const void *)(uintptr_t)NOT_CANONICAL, 0, 0, true);
	run_kernel(p_int_spare, 0, 0);
	expect_unless("qemu", "INT to an address that is not canonical", V_GP, 0);
	gate_reset(V_SPARE);
	gate_set(V_UD, vector_entries + V_UD * 16, 0, 0, false);
	run_kernel(p_ud2, 0, 0);
	expect_unless("qemu", "#UD through a gate that is not present", V_NP, V_UD * 8 + 3);
	gate_reset(V_UD);

	tss_set_ist(1, top);
	gate_set(V_UD, vector_entries + V_UD * 16, 0, 1, true);
	run_kernel(p_ud2, 0, 0);
	expect("#UD on a stack of its own", V_UD, 0);
	/* Five quadwords of frame, then our error code and vector. */
	check(t->stack == top - 56, "stack pointer after delivery 0x%lx, top 0x%lx", t->stack, top);
	tss_set_ist(1, top - 8);
	run_kernel(p_ud2, 0, 0);
	check(t->stack == top - 16 - 56, "the stack is aligned to 16 bytes: 0x%lx", t->stack);
	tss_set_ist(1, top);
	run_user(p_ud2, 0, 0);
	check(t->new_ss == 0, "SS is null after a change to kernel mode: 0x%lx", t->new_ss);
	check(t->ss == SEL_UDATA, "the user's SS is pushed: 0x%lx", t->ss);
	gate_reset(V_UD);
}

static void double_faults(void)
{
	u64 top = address(ist_stack) + sizeof(ist_stack);

	tss_set_ist(1, top);
	gate_set(V_DF, vector_entries + V_DF * 16, 0, 1, true);
	run_kernel(p_bad_stack_ud, NO_SUCH_PAGE, 0);
	/* #PF while #UD is delivered: benign first, so #PF, whose delivery faults again. */
	expect("page faults on delivering a page fault", V_DF, 0);
	gate_set(V_PF, vector_entries + V_PF * 16, 0, 1, true);
	run_kernel(p_bad_stack_ud, NO_SUCH_PAGE, 0);
	expect("page fault on delivering #UD: the stack write", V_PF, 2);
	check(t->cr2 >= NO_SUCH_PAGE - 48 && t->cr2 < NO_SUCH_PAGE, "CR2 0x%lx", t->cr2);
	gate_set(V_PF, vector_entries + V_PF * 16, 0, 0, false);
	run_kernel(p_load, NO_SUCH_PAGE, 0);
	expect("#NP on delivering #PF", V_DF, 0);
	gate_reset(V_PF);
	gate_set(V_GP, vector_entries + V_GP * 16, 0, 0, false);
	run_kernel(p_load, NOT_CANONICAL, 0);
	expect("#NP on delivering #GP", V_DF, 0);
	gate_reset(V_GP);
	gate_set(V_DE, vector_entries + V_DE * 16, 0, 0, false);
	run_kernel(p_div0, 0, 0);
	expect("#NP on delivering #DE", V_DF, 0);
	gate_reset(V_DE);
	gate_reset(V_DF);
}

/* ---- interrupts ---- */

enum { APIC_EOI = 0xb0, APIC_SVR = 0xf0, APIC_ICR = 0x300, SELF_FIXED = 1 << 18 | 1 << 14 };

static volatile u32 *apic(unsigned reg)
{
	return (volatile u32 *)(uintptr_t)((rdmsr(MSR_APIC_BASE) & ~0xfffull) + reg);
}

PIECE(p_sti_nops, "sti; nop; nop; nop");
PIECE(p_sti_cli, "sti; cli; nop");
PIECE(p_sti_ss, "sti; mov %edi, %ss; nop; nop");
PIECE(p_popf_if, "push $0x202; popf; nop; nop");
PIECE(p_sti_hlt, "sti; hlt");

static void expect_interrupt(const char *what, u64 rip)
{
	check(t->vector == V_TIMER && t->rip == rip, "%s: vector %ld rip 0x%lx, expected rip 0x%lx", what, t->vector, t->rip,
	      rip);
	*apic(APIC_EOI) = 0;
}

static void request(void) { *apic(APIC_ICR) = SELF_FIXED | V_TIMER; }

static void interrupts(void)
{
	*apic(APIC_SVR) = 0x1ff;
	request();
	run_kernel(p_sti_nops, 0, 0);
	expect_interrupt("STI holds interrupts back for one instruction", address(p_sti_nops) + 2);
	request();
	run_kernel(p_sti_cli, 0, 0);
	expect("STI; CLI lets nothing in", V_DONE, 0);
	run_kernel(p_popf_if, 0, 0);
	expect_interrupt("POPF holds nothing back", address(p_popf_if) + 6);
	request();
	run_kernel(p_sti_hlt, 0, 0);
	expect_interrupt("STI; HLT wakes up", address(p_sti_hlt) + 2);
	request();
	run_code_flags(p_two_nops, USER, FLAG_IF, 0, 0, 0);
	expect_interrupt("IRET with IF", user_address(p_two_nops));
	__asm__ volatile("mov %0, %%cr8" : : "r"((u64)(V_TIMER >> 4)));
	request();
	run_kernel(p_sti_nops, 0, 0);
	expect("the task priority holds it back", V_DONE, 0);
	__asm__ volatile("mov %0, %%cr8" : : "r"(0ull));
	run_kernel(p_sti_nops, 0, 0);
	expect_interrupt("the task priority lets it in", address(p_sti_nops) + 2);
}

/*
 * RF in the flags that an INT or an interrupt pushes: zero, also when a hypervisor
 * had to fill its tables on the way, which a CR3 load makes likely.
 */
static void resume_flag(void)
{
	write_cr3(read_cr3());
	run_kernel(p_two_nops, 0, 0);
	check((t->rflags & FLAG_RF) == 0, "INT n pushes RF clear: 0x%lx", t->rflags);
	write_cr3(read_cr3());
	run_user(p_two_nops, 0, 0);
	check((t->rflags & FLAG_RF) == 0, "INT n in user mode pushes RF clear: 0x%lx", t->rflags);
	request();
	write_cr3(read_cr3());
	run_kernel(p_sti_nops, 0, 0);
	check((t->rflags & FLAG_RF) == 0, "an interrupt pushes RF clear: 0x%lx", t->rflags);
	expect_interrupt("an interrupt after a CR3 load", address(p_sti_nops) + 2);
	request();
	write_cr3(read_cr3());
	run_code_flags(p_two_nops, USER, FLAG_IF, 0, 0, 0);
	check((t->rflags & FLAG_RF) == 0, "an interrupt in user mode pushes RF clear: 0x%lx", t->rflags);
	expect_interrupt("an interrupt in user mode after a CR3 load", user_address(p_two_nops));
	write_cr3(read_cr3());
	run_kernel(p_ud2, 0, 0);
	check_unless("qemu", t->rflags & FLAG_RF, "a fault pushes RF set: 0x%lx", t->rflags);
}

/* ---- page boundaries ---- */

static u8 two_pages[3 * 4096] __attribute__((aligned(4096)));
static u64 split_pdpt[512] __attribute__((aligned(4096))), split_pd[512] __attribute__((aligned(4096)));
static u64 split_pt[512] __attribute__((aligned(4096)));

enum { SPLIT_SLOT = 0x88 };
static const u64 split = (u64)SPLIT_SLOT << 39; /* page 0 and 2 are mapped, page 1 is as set_second() says */

static void set_second(u64 flags)
{
	((volatile u64 *)split_pt)[1] = flags ? (address(two_pages) + PAGE) | flags : 0;
	invlpg(split + PAGE);
}

static void map_split(void)
{
	((volatile u64 *)boot_pml4)[SPLIT_SLOT] = address(split_pdpt) | 7;
	split_pdpt[0] = address(split_pd) | 7;
	split_pd[0] = address(split_pt) | 7;
	((volatile u64 *)split_pt)[0] = address(two_pages) | 7;
	((volatile u64 *)split_pt)[2] = (address(two_pages) + 2 * PAGE) | 7;
}

PIECE(p_store8, "mov %rsi, (%rdi)");
PIECE(p_add8, "addq %rsi, (%rdi)");
PIECE(p_movs_n, "mov %rdx, %rcx; rep movsb");
PIECE(p_stos_back, "std; mov %rdx, %rcx; rep stosb; cld");
PIECE(p_push_split, "mov %rdi, %rsp; push %rsi");
PIECE(p_pop_mem, "mov %rdi, %rsp; popq (%rsi)");

static void expect_second(const char *what, u64 error)
{
	expect(what, V_PF, error);
	check(t->cr2 == split + PAGE, "%s: CR2 0x%lx is the second page", what, t->cr2);
}

static void boundary_data(void)
{
	u64 a = split + PAGE - 3, before = 0x1122334455667788;

	memset(two_pages, 0x5a, sizeof(two_pages));
	set_second(0);
	run_kernel(p_load, a, 0);
	expect_second("load across, second page not mapped", 0);
	run_user(p_store8, a, before);
	expect_second("store across, second page not mapped", 6);
	check(two_pages[PAGE - 1] == 0x5a && two_pages[PAGE - 3] == 0x5a, "no part of the store was done");
	set_second(5);
	run_user(p_store8, a, before);
	expect_second("store across, second page read-only", 7);
	run_user(p_add8, a, 1);
	expect_second("addition across, second page read-only", 7);
	check(two_pages[PAGE - 1] == 0x5a, "no part of the addition was done");
	set_second(7);
	run_user(p_store8, a, before);
	expect("store across", V_DONE, 0);
	run_user(p_load, a, 0);
	check(t->rax == before, "loaded 0x%lx", t->rax);
	set_second(0);
	run_user(p_push_split, split + PAGE + 5, 1);
	expect_second("push across", 6);
	check(two_pages[PAGE - 1] != 0, "no part of the push was done");
	run_user(p_pop_mem, split + PAGE - 8, split + PAGE);
	expect_second("pop to memory that is not mapped", 6);
	check(t->rsp == split + PAGE - 8, "the stack pointer is as before: 0x%lx", t->rsp);
}

static void boundary_strings(void)
{
	set_second(0);
	memset(two_pages, 7, PAGE);
	run_code_flags(p_movs_n, USER, 0, split + PAGE - 10, split, 25);
	expect_second("string copy runs into a page that is not mapped", 6);
	check(t->rcx == 15 && t->rdi == split + PAGE && t->rsi == split + 10, "it stopped there: rcx %ld rdi 0x%lx rsi 0x%lx",
	      t->rcx, t->rdi, t->rsi);
	check(t->rip == user_address(p_movs_n) + 3, "at the instruction: rip 0x%lx", t->rip);
	run_code_flags(p_movs_n, KERNEL, 0, split, split + PAGE - 4, 9);
	expect_second("string copy from a page that is not mapped", 0);
	check(t->rcx == 5 && t->rdi == split + 4, "it stopped there: rcx %ld rdi 0x%lx", t->rcx, t->rdi);
	run_code_flags(p_stos_back, KERNEL, 0, split + 2 * PAGE + 4, 0, 20);
	expect("string store downward into a page that is not mapped", V_PF, 2);
	check(t->cr2 == split + 2 * PAGE - 1 && t->rcx == 15, "CR2 0x%lx rcx %ld", t->cr2, t->rcx);
}

static void boundary_code(void)
{
	static const u8 code[] = { 0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xcd, V_DONE }; /* mov $imm64, %rax */
	const void *at = (const void *)(uintptr_t)(split + PAGE - 4);
	bool nxe = rdmsr(MSR_EFER) & EFER_NXE;

	memcpy(two_pages + PAGE - 4, code, sizeof(code));
	set_second(7);
	run_code(at, USER, 0, 0);
	expect("instruction across", V_DONE, 0);
	check(t->rax == 0x0807060504030201, "it loaded 0x%lx", t->rax);
	set_second(0);
	run_code(at, USER, 0, 0);
	expect_second("instruction across, second page not mapped", nxe ? 0x14 : 4);
	check(t->rip == split + PAGE - 4, "rip 0x%lx", t->rip);
	set_second(3);
	run_code(at, USER, 0, 0);
	expect_second("instruction across, second page the supervisor's", nxe ? 0x15 : 5);
	set_second(7);
	two_pages[PAGE] = 0x99; /* in the middle of the instruction, from elsewhere */
	run_code(at, USER, 0, 0);
	check(t->rax == 0x0807069904030201 || t->rax == 0x0807060599030201 || (t->rax >> 16 & 0xff) == 0x99,
	      "changed across the boundary: 0x%lx", t->rax);
	set_second(0);
}

/* ---- self-modifying code ---- */

__asm__(".pushsection .text\nsmc_next:\n"
	"\tmovb $0x42, smc_next_target + 1(%rip)\n"
	"smc_next_target:\n\tmov $0, %eax\n\tint $0x21\n"
	"smc_loop:\n\txor %eax, %eax\n\tmov $10, %ecx\n"
	"1:\n\tadd $1, %eax\n\tincb 1b + 2(%rip)\n\tdec %ecx\n\tjnz 1b\n\tint $0x21\n.popsection");
extern const char smc_next[], smc_loop[];

static void self_modifying(void)
{
	run_kernel(smc_next, 0, 0);
	check((u8)t->rax == 0x42, "the next instruction as just written: 0x%lx", t->rax);
	run_kernel(smc_loop, 0, 0);
	check((u32)t->rax == 55, "an immediate counted up in a loop: %ld", t->rax);
	run_user(smc_loop, 0, 0);
	check((u32)t->rax == 155, "and on from there: %ld", t->rax);
}

/* ---- floating point and vectors ---- */

PIECE(p_fld1, "fld1; fstp %st");
PIECE(p_fwait, "fwait");
PIECE(p_sse, "xorps %xmm0, %xmm0");
PIECE(p_emms, "emms");
PIECE(p_ldmxcsr, "push %rdi; ldmxcsr (%rsp)");
PIECE(p_x87_div0, "fninit; push %rdi; fldcw (%rsp); fldz; fld1; fdivp; nop; fwait; fninit");
PIECE(p_x87_pending, "fninit; push %rdi; fldcw (%rsp); fldz; fld1; fdiv %st(1), %st");
PIECE(p_x87_clear, "fnclex; fninit");
PIECE(p_sse_div0, "push %rdi; ldmxcsr (%rsp); xorps %xmm1, %xmm1; mov $0x3f800000, %eax; movd %eax, %xmm0; divss %xmm1, %xmm0");

static void with_cr0(u64 set, u64 clear, const void *code, u64 rdi)
{
	u64 cr0 = read_cr0();

	write_cr0((cr0 | set) & ~clear);
	run_kernel(code, rdi, 0);
	write_cr0(cr0);
}

static void floating_point_off(void)
{
	with_cr0(CR0_TS, 0, p_fld1, 0);
	expect("x87 with TS", V_NM, 0);
	with_cr0(CR0_TS, 0, p_sse, 0);
	expect("SSE with TS", V_NM, 0);
	with_cr0(CR0_EM, 0, p_fld1, 0);
	expect("x87 with EM", V_NM, 0);
	with_cr0(CR0_EM, 0, p_sse, 0);
	expect("SSE with EM", V_UD, 0);
	with_cr0(CR0_EM, 0, p_emms, 0);
	expect_unless("qemu", "MMX with EM", V_UD, 0);
	with_cr0(CR0_TS | CR0_MP, 0, p_fwait, 0);
	expect("WAIT with TS and MP", V_NM, 0);
	with_cr0(CR0_TS, CR0_MP, p_fwait, 0);
	expect("WAIT with TS alone", V_DONE, 0);
	with_cr4(0, CR4_OSFXSR, p_sse, KERNEL, 0, 0);
	expect("SSE without OSFXSR", V_UD, 0);
}

static void floating_point_exceptions(void)
{
	run_kernel(p_ldmxcsr, 0x10000, 0);
	expect_unless("qemu", "LDMXCSR: bit 16", V_GP, 0);
	run_kernel(p_ldmxcsr, 0x1f80, 0);
	expect("LDMXCSR", V_DONE, 0);
	run_kernel(p_x87_div0, 0x37f, 0);
	expect("x87 division by zero, masked", V_DONE, 0);
	run_kernel(p_x87_div0, 0x37b, 0);
	expect("x87 division by zero", V_MF, 0);
	run_kernel(p_x87_clear, 0, 0);
	run_kernel(p_x87_pending, 0x37b, 0);
	expect("no x87 instruction follows: nothing yet", V_DONE, 0);
	run_kernel(p_fld1, 0, 0);
	expect_unless("qemu", "the next x87 instruction reports it", V_MF, 0);
	run_kernel(p_sse, 0, 0);
	expect("SSE does not", V_DONE, 0);
	run_kernel(p_x87_clear, 0, 0);
	expect("FNCLEX does not", V_DONE, 0);
	run_kernel(p_sse_div0, 0x1f80, 0);
	expect("SSE division by zero, masked", V_DONE, 0);
	run_kernel(p_sse_div0, 0x1d80, 0);
	expect_unless("qemu", "SSE division by zero", V_XM, 0);
	with_cr4(0, CR4_OSXMMEXCPT, p_sse_div0, KERNEL, 0x1d80, 0);
	expect_unless("qemu", "SSE division by zero without OSXMMEXCPT", V_UD, 0);
	run_kernel(p_ldmxcsr, 0x1f80, 0);
}

/* ---- alignment check ---- */

static void alignment(void)
{
	u64 word = user_address(buffer) + 1;

	write_cr0(read_cr0() | CR0_AM);
	run_code_flags(p_load, USER, FLAG_AC, word, 0, 0);
	expect_unless("qemu", "alignment check in user mode", V_AC, 0);
	run_code_flags(p_load, USER, FLAG_AC, word + 7, 0, 0);
	expect("an aligned load passes", V_DONE, 0);
	run_code_flags(p_load, USER, 0, word, 0, 0);
	expect("no check without AC", V_DONE, 0);
	run_code_flags(p_load, KERNEL, FLAG_AC, address(buffer) + 1, 0, 0);
	expect("no check in kernel mode", V_DONE, 0);
	write_cr0(read_cr0() & ~(u64)CR0_AM);
}

int main(void)
{
	static void (*const groups[])(void) = {
		exceptions_simple, exceptions_addresses, exceptions_encoding, control_registers, control_pcid, msrs,
		user_forbidden, io_permissions, optional_instructions, optional_pkeys_and_invpcid, single_step, step_shadow,
		breakpoints, debug_registers, segments_data, segments_system, iret_checks, compatibility_mode, syscalls,
		delivery, double_faults, interrupts, resume_flag, map_split, boundary_data, boundary_strings, boundary_code,
		self_modifying, floating_point_off, floating_point_exceptions, alignment,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(groups); i++)
		groups[i]();
	finish("system");
}
