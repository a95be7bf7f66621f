/*
 * Registers that software sets: what each takes, refuses and keeps. MSRs with
 * addresses, PAT, MTRRs, machine-check banks; descriptor-table registers and system
 * segments with bases that are not canonical; extended control registers; PCID and
 * INVPCID; instructions that CPUID does not show; SYSENTER; protection keys and
 * SMAP under CR0.WP, and accesses that the processor makes by itself.
 *
 * Checks that QEMU's translator (7.2) fails are excused there by the word "qemu".
 */
#include "lib/guest.h"

static u64 address(const volatile void *p) { return (u64)(uintptr_t)p; }

static const struct trap *const t = &last_trap;

static void run_kernel(const void *code, u64 rdi, u64 rsi) { run_code(code, KERNEL, rdi, rsi); }

#define CANONICAL_48 0xffffaaaaaaaaaaaaull
#define CANONICAL_57 0xffaaaaaaaaaaaaaaull
#define NOT_CANONICAL 0xaaaaaaaaaaaaaaaaull

static bool has_la57(void) { return cpuid(7, 0).c >> 16 & 1; }

PIECE(p_rdmsr, "mov %edi, %ecx; rdmsr; shl $32, %rdx; or %rdx, %rax");
PIECE(p_wrmsr, "mov %edi, %ecx; mov %rsi, %rax; mov %rsi, %rdx; shr $32, %rdx; wrmsr");

/* Writes, reads back, and puts the old value back. */
static void keeps(const char *what, u32 msr, u64 v)
{
	u64 old = rdmsr(msr), found;

	run_kernel(p_wrmsr, msr, v);
	expect_unless("qemu", what, V_DONE, 0);
	found = rdmsr(msr);
	wrmsr(msr, old);
	check_unless("qemu", found == v, "%s: 0x%lx reads 0x%lx", what, v, found);
}

static void refuses(const char *what, u32 msr, u64 v)
{
	u64 old;

	run_kernel(p_rdmsr, msr, 0);
	old = t->rax;
	run_kernel(p_wrmsr, msr, v);
	expect_unless("qemu", what, V_GP, 0);
	run_kernel(p_rdmsr, msr, 0);
	check_unless("qemu", t->rax == old, "%s: it changed to 0x%lx", what, t->rax);
}

static void absent(const char *what, u32 msr)
{
	run_kernel(p_rdmsr, msr, 0);
	expect_unless("qemu", what, V_GP, 0);
	run_kernel(p_wrmsr, msr, 0);
	expect_unless("qemu", what, V_GP, 0);
}

/* Which addresses a register takes depends on what the processor can, not on the paging mode. */
static void address_msrs(void)
{
	static const struct { const char *name; u32 msr; } list[] = {
		{ "FS_BASE", MSR_FS_BASE }, { "GS_BASE", MSR_GS_BASE }, { "KERNEL_GS_BASE", MSR_KERNEL_GS_BASE },
		{ "LSTAR", MSR_LSTAR }, { "CSTAR", 0xc0000083 }, { "SYSENTER_ESP", 0x175 }, { "SYSENTER_EIP", 0x176 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		keeps(list[i].name, list[i].msr, 0x0000123456789abc);
		keeps(list[i].name, list[i].msr, CANONICAL_48);
		if (has_la57())
			keeps(list[i].name, list[i].msr, CANONICAL_57);
		else
			refuses(list[i].name, list[i].msr, CANONICAL_57);
		refuses(list[i].name, list[i].msr, NOT_CANONICAL);
	}
}

static void other_msrs(void)
{
	u64 efer = rdmsr(MSR_EFER), banks = rdmsr(0x179) & 0xff;

	keeps("SYSENTER_CS", 0x174, 0x1234);
	keeps("PAT", MSR_PAT, 0x07070707);
	refuses("PAT", MSR_PAT, 0x0000000200000000);
	refuses("PAT", MSR_PAT, 0x0800000000000000);
	keeps("FMASK", MSR_FMASK, 0xffffffff);
	refuses("FMASK", MSR_FMASK, 1ull << 32);
	keeps("STAR", MSR_STAR, 0xffffffffffffffff);
	keeps("EFER", MSR_EFER, efer ^ EFER_SCE);
	for (unsigned bit = 0; bit < 64; bit++)
		if (!(0x0d01ull >> bit & 1) && bit != 11)
			refuses("EFER, reserved bit", MSR_EFER, efer | 1ull << bit);
	/* What a virtual machine's MISC_ENABLE may hold, but for the bits that only tell. */
	keeps("MISC_ENABLE", 0x1a0, (0x400c50809 & ~0x1880ull) | (rdmsr(0x1a0) & 0x1880));
	for (unsigned i = (unsigned)banks; i < 32; i++)
		for (unsigned j = 0; j < 4; j++)
			absent("machine-check bank that is not there", 0x400 + 4 * i + j);
	if (banks == 0)
		absent("MCG_CTL", 0x17b);
	absent("VMX capability without VMX", 0x480);
	refuses("MTRRcap", 0xfe, 0);
	keeps("MTRR base", 0x200, 0x80000006);
	refuses("MTRR base: type 2", 0x200, 0x80000002);
	keeps("MTRR mask", 0x201, 0xff000800);
	refuses("MTRR mask: bit 0", 0x201, 0xff000801);
	keeps("fixed MTRR", 0x250, 0x0606060606060606);
	refuses("fixed MTRR: type 3", 0x250, 0x0606060606060603);
	keeps("MTRR default type", 0x2ff, 0xc06);
	refuses("MTRR default type: 2", 0x2ff, 0xc02);
	keeps("TSC_AUX", 0xc0000103, 0xfffffffe);
	refuses("APIC base: x2APIC alone", MSR_APIC_BASE, (rdmsr(MSR_APIC_BASE) & ~0x800ull) | 0x400);
}

/* ---- tables and system segments ---- */

struct __attribute__((packed)) table_pointer { u16 limit; u64 base; };

PIECE(p_lgdt, "sgdt (%rsi); lgdt (%rdi); sgdt (%rdi); lgdt (%rsi)");
PIECE(p_lidt, "sidt (%rsi); lidt (%rdi); sidt (%rdi); lidt (%rsi)");
PIECE(p_lldt, "lldt %di");
PIECE(p_ltr, "ltr %di; str %eax");

static void table_registers(void)
{
	static const u64 bases[] = { CANONICAL_48, CANONICAL_57, NOT_CANONICAL };
	static struct table_pointer set, old;

	for (unsigned i = 0; i < ARRAY_SIZE(bases); i++) {
		u64 vector = i == 0 || (i == 1 && has_la57()) ? V_DONE : V_GP;

		for (unsigned j = 0; j < 2; j++) {
			set = (struct table_pointer){ 0xf234, bases[i] };
			run_kernel(j ? p_lidt : p_lgdt, address(&set), address(&old));
			check_unless("qemu", t->vector == vector, "%s with base 0x%lx: vector %ld",
			             j ? "LIDT" : "LGDT", bases[i], t->vector);
			check_unless("qemu", set.base == bases[i] && set.limit == 0xf234, "%s: stored 0x%lx",
			             j ? "SIDT" : "SGDT", set.base);
		}
	}
}

static u64 system_descriptor(u64 base, unsigned type)
{
	return 0xffff | (base & 0xffffff) << 16 | (u64)(0x80 | type) << 40 | (base >> 24 & 0xff) << 56;
}

static void system_segments(void)
{
	u64 tss[2] = { gdt_get(SEL_TSS), gdt_get(SEL_TSS + 8) };

	gdt_set(SEL_LDT, system_descriptor(NOT_CANONICAL, 2));
	gdt_set(SEL_LDT + 8, NOT_CANONICAL >> 32);
	run_kernel(p_lldt, SEL_LDT, 0);
	expect_unless("qemu", "LLDT, base not canonical", V_GP, SEL_LDT);
	gdt_set(SEL_LDT, system_descriptor(CANONICAL_48, 2));
	gdt_set(SEL_LDT + 8, CANONICAL_48 >> 32);
	run_kernel(p_lldt, SEL_LDT, 0);
	expect("LLDT", V_DONE, 0);
	gdt_set(SEL_LDT + 8, CANONICAL_48 >> 32);
	gdt_set(SEL_LDT, system_descriptor(CANONICAL_48, 2) & ~(1ull << 47));
	run_kernel(p_lldt, SEL_LDT, 0);
	expect("LLDT, not present", V_NP, SEL_LDT);
	run_kernel(p_lldt, 0, 0);
	expect("LLDT, null", V_DONE, 0);
	run_kernel(p_lldt, SEL_CODE, 0);
	expect("LLDT, a code segment", V_GP, SEL_CODE);
	run_kernel(p_lldt, SEL_TSS, 0);
	expect("LLDT, a TSS", V_GP, SEL_TSS);
	run_kernel(p_lldt, 4, 0);
	expect("LLDT, in the LDT", V_GP, 4);
	run_kernel(p_lldt, GDT_ENTRIES * 8, 0);
	expect("LLDT, past the table", V_GP, GDT_ENTRIES * 8);
	run_kernel(p_ltr, SEL_TSS, 0);
	expect("LTR, busy", V_GP, SEL_TSS);
	run_kernel(p_ltr, 0, 0);
	expect_unless("qemu", "LTR, null", V_GP, 0);
	gdt_set(SEL_TSS, tss[0] & ~(2ull << 40));
	gdt_set(SEL_TSS + 8, NOT_CANONICAL >> 32);
	run_kernel(p_ltr, SEL_TSS, 0);
	expect_unless("qemu", "LTR, base not canonical", V_GP, SEL_TSS);
	gdt_set(SEL_TSS + 8, tss[1] | 1ull << 40);
	run_kernel(p_ltr, SEL_TSS, 0);
	expect_unless("qemu", "LTR, type in the upper half", V_GP, SEL_TSS);
	gdt_set(SEL_TSS + 8, tss[1]);
	gdt_set(SEL_TSS, tss[0] & ~(2ull << 40) & ~(1ull << 47));
	run_kernel(p_ltr, SEL_TSS, 0);
	expect("LTR, not present", V_NP, SEL_TSS);
	gdt_set(SEL_TSS, tss[0] & ~(2ull << 40));
	run_kernel(p_ltr, SEL_TSS, 0);
	expect("LTR", V_DONE, 0);
	check(gdt_get(SEL_TSS) == tss[0] && t->rax == SEL_TSS, "LTR marks it busy: 0x%lx", gdt_get(SEL_TSS));
}

/* ---- extended control registers ---- */

PIECE(p_xgetbv, "mov %rdi, %rcx; xgetbv");
PIECE(p_xsetbv, "mov %rdi, %rcx; mov %esi, %eax; mov %rsi, %rdx; shr $32, %rdx; xsetbv");

static void extended_control(void)
{
	u64 cr4 = read_cr4(), have;

	if (!(cpuid(1, 0).c >> 26 & 1)) {
		run_kernel(p_xgetbv, 0, 0);
		expect("XGETBV without XSAVE", V_UD, 0);
		return;
	}
	check(!(cpuid(1, 0).c >> 27 & 1), "CPUID shows no OSXSAVE while CR4 has none");
	write_cr4(cr4 | CR4_OSXSAVE);
	check(cpuid(1, 0).c >> 27 & 1, "CPUID shows OSXSAVE");
	have = cpuid(0xd, 0).a | (u64)cpuid(0xd, 0).d << 32;
	check((have & 3) == 3, "x87 and SSE state are there");
	for (u64 high = 0; high < 2; high++) {
		run_kernel(p_xsetbv, high << 40, 3);
		expect("XSETBV heeds ECX only", V_DONE, 0);
		run_kernel(p_xgetbv, high << 40, 0);
		check(t->vector == V_DONE && t->rax == 3 && t->rdx == 0, "XCR0 is 0x%lx", t->rax);
	}
	run_kernel(p_xsetbv, 0, 1);
	expect("XCR0: x87 alone", V_DONE, 0);
	run_kernel(p_xsetbv, 0, 0);
	expect("XCR0: nothing", V_GP, 0);
	run_kernel(p_xsetbv, 0, 2);
	expect("XCR0: SSE alone", V_GP, 0);
	run_kernel(p_xsetbv, 0, have | 1ull << 62);
	expect_unless("qemu", "XCR0: bit 62", V_GP, 0);
	if (have & 4) {
		run_kernel(p_xsetbv, 0, 4);
		expect("XCR0: AVX alone", V_GP, 0);
		run_kernel(p_xsetbv, 0, 5);
		expect_unless("qemu", "XCR0: AVX without SSE", V_GP, 0);
	}
	for (unsigned i = 1; i < 32; i++) {
		run_kernel(p_xsetbv, i, 1);
		expect("XSETBV of another register", V_GP, 0);
		if (i == 1 && cpuid(0xd, 1).a & 4)
			continue;
		run_kernel(p_xgetbv, i, 0);
		expect_unless("qemu", "XGETBV of another register", V_GP, 0);
		run_kernel(p_xgetbv, 1ull << i, 0);
		expect_unless("qemu", "XGETBV of another register", V_GP, 0);
	}
	run_kernel(p_xsetbv, 0, have);
	write_cr4(cr4);
	check(!(cpuid(1, 0).c >> 27 & 1), "and none again");
}

/* ---- PCID ---- */

PIECE(p_cr0, "mov %rdi, %cr0");
PIECE(p_cr4, "mov %rdi, %cr4");
PIECE(p_invpcid, "invpcid (%rdi), %rsi");
PIECE(p_invlpg, "invlpg (%rdi)");

static void pcid(void)
{
	static u64 d[2] __attribute__((aligned(16)));
	u64 cr0 = read_cr0(), cr3 = read_cr3(), cr4 = read_cr4();
	bool has_pcid = cpuid(1, 0).c >> 17 & 1, has_invpcid = cpuid(7, 0).b >> 10 & 1;

	run_kernel(p_cr4, cr4 | CR4_PCIDE, 0);
	expect_unless("qemu", "CR4.PCIDE", has_pcid ? V_DONE : V_GP, 0);
	if (has_pcid) {
		run_kernel(p_cr0, cr0 & ~CR0_PG, 0);
		expect("CR0.PG cleared under PCIDE", V_GP, 0);
		write_cr4(cr4);
		write_cr3(cr3 | 8);
		run_kernel(p_cr4, cr4 | CR4_PCIDE, 0);
		expect_unless("qemu", "CR4.PCIDE with bits in CR3", V_GP, 0);
		write_cr3(cr3);
	}
	write_cr4(cr4);
	run_kernel(p_invlpg, NOT_CANONICAL, 0);
	expect("INVLPG, not canonical, does nothing", V_DONE, 0);
	d[0] = d[1] = 0;
	run_kernel(p_invpcid, address(d), 1);
	expect("INVPCID", has_invpcid ? V_DONE : V_UD, 0);
	if (!has_invpcid)
		return;
	d[0] = 1;
	run_kernel(p_invpcid, address(d), 1);
	expect("INVPCID of PCID 1 without PCIDE", V_GP, 0);
	if (!has_pcid)
		return;
	write_cr4(cr4 | CR4_PCIDE);
	d[0] = 10;
	for (u64 type = 0; type < 4; type++) {
		run_kernel(p_invpcid, address(d), type);
		expect("INVPCID", V_DONE, 0);
	}
	run_kernel(p_invpcid, address(d), 4);
	expect("INVPCID type 4", V_GP, 0);
	run_kernel(p_invpcid, address(d), 1ull << 32);
	expect("INVPCID type, upper half", V_GP, 0);
	d[1] = CANONICAL_48;
	run_kernel(p_invpcid, address(d), 0);
	expect("INVPCID of an address", V_DONE, 0);
	d[1] = CANONICAL_57;
	run_kernel(p_invpcid, address(d), 0);
	expect_unless("qemu", "INVPCID of an address of 57 bits", has_la57() ? V_DONE : V_GP, 0);
	d[1] = NOT_CANONICAL;
	run_kernel(p_invpcid, address(d), 0);
	expect("INVPCID of an address that is none", V_GP, 0);
	d[0] = 1ull << 12;
	run_kernel(p_invpcid, address(d), 2);
	expect("INVPCID, reserved bit", V_GP, 0);
	write_cr4(cr4);
}

/* ---- what CPUID does not show ---- */

PIECE(u_clflush, "clflush (%rdi)");
PIECE(u_sfence, "sfence; lfence; mfence");
PIECE(u_clflushopt, ".byte 0x66, 0x0f, 0xae, 0x3f");
PIECE(u_clwb, ".byte 0x66, 0x0f, 0xae, 0x37");
PIECE(u_bad_clwb, ".byte 0x66, 0x0f, 0xae, 0xf0");
PIECE(u_pcommit, ".byte 0x66, 0x0f, 0xae, 0xf8");
PIECE(u_rdpru, ".byte 0x0f, 0x01, 0xfd");
PIECE(u_vmmcall, ".byte 0x0f, 0x01, 0xd9");
PIECE(u_vmcall, "vmcall");
PIECE(u_vmxon, "vmxon (%rdi)");
PIECE(u_vmread, "vmread %rax, %rbx");
PIECE(u_monitor, "mov %rdi, %rax; xor %ecx, %ecx; xor %edx, %edx; monitor");
PIECE(u_mwait, "xor %eax, %eax; xor %ecx, %ecx; mwait");
PIECE(u_xbegin, ".byte 0xc7, 0xf8, 0, 0, 0, 0");
PIECE(u_xabort, ".byte 0xc6, 0xf8, 0");
PIECE(u_xend, ".byte 0x0f, 0x01, 0xd5");
PIECE(u_xtest, ".byte 0x0f, 0x01, 0xd6");
PIECE(u_movbe, "movbe (%rdi), %eax");
PIECE(u_movbe_reg, ".byte 0x0f, 0x38, 0xf0, 0xc0");
PIECE(u_adcx, ".byte 0x66, 0x0f, 0x38, 0xf6, 0xc0");
PIECE(u_rdseed, "rdseed %eax");
PIECE(u_rdrand, "rdrand %eax");
PIECE(u_rdpid, ".byte 0xf3, 0x0f, 0xc7, 0xf8");
PIECE(u_aesenc, "aesenc %xmm0, %xmm1");
PIECE(u_crc, "crc32b (%rdi), %eax");
PIECE(u_tzcnt, "mov $1, %ebx; tzcnt %ebx, %eax"); /* BSF where there is none */
PIECE(u_andn, ".byte 0xc4, 0xe2, 0x78, 0xf2, 0xc0");
PIECE(u_vaddps, "vaddps %ymm0, %ymm1, %ymm2");
PIECE(u_wrpkru, ".byte 0x0f, 0x01, 0xef");
PIECE(u_endbr, ".byte 0xf3, 0x0f, 0x1e, 0xfa; .byte 0xf3, 0x48, 0x0f, 0x1e, 0xc8"); /* ENDBR64, RDSSPQ: NOPs */
PIECE(u_swapgs_reg, ".byte 0x0f, 0x01, 0xff");
PIECE(u_getsec, ".byte 0x0f, 0x37");
PIECE(u_invept, ".byte 0x66, 0x0f, 0x38, 0x80, 0x07");
PIECE(u_ud1, ".byte 0x0f, 0xb9, 0xc0");
PIECE(u_ud0, ".byte 0x0f, 0xff, 0xc0");
PIECE(u_hint, ".byte 0x0f, 0x19, 0xc0; .byte 0x0f, 0x1f, 0x44, 0, 0");

static void hidden(const char *what, const char *code, bool there)
{
	static u8 target[64] __attribute__((aligned(64)));

	run_kernel(code, address(target), 0);
	check_unless("qemu", (t->vector == V_UD) == !there, "%s, which is%s there: vector %ld", what,
	             there ? "" : " not", t->vector);
}

static void instructions(void)
{
	struct cpuid one = cpuid(1, 0), seven = cpuid(7, 0);
	u64 cr4 = read_cr4();

	hidden("CLFLUSH", u_clflush, one.d >> 19 & 1);
	hidden("SFENCE", u_sfence, one.d >> 25 & 1);
	hidden("CLFLUSHOPT", u_clflushopt, seven.b >> 23 & 1);
	hidden("CLWB", u_clwb, seven.b >> 24 & 1);
	hidden("CLWB of a register", u_bad_clwb, false);
	hidden("PCOMMIT", u_pcommit, seven.b >> 22 & 1);
	hidden("RDPRU", u_rdpru, false);
	hidden("VMMCALL", u_vmmcall, false);
	hidden("VMCALL", u_vmcall, false);
	hidden("VMXON", u_vmxon, false);
	hidden("VMREAD", u_vmread, false);
	hidden("GETSEC", u_getsec, false);
	hidden("INVEPT", u_invept, false);
	hidden("UD0", u_ud0, false);
	hidden("UD1", u_ud1, false);
	hidden("a reserved hint", u_hint, true);
	hidden("0F 01 FF", u_swapgs_reg, false);
	hidden("MONITOR", u_monitor, one.c >> 3 & 1);
	if (!(one.c >> 3 & 1))
		hidden("MWAIT", u_mwait, false);
	hidden("XBEGIN", u_xbegin, seven.b >> 11 & 1);
	hidden("XABORT", u_xabort, seven.b >> 11 & 1);
	hidden("XEND", u_xend, seven.b >> 11 & 1);
	hidden("XTEST", u_xtest, seven.b >> 11 & 1);
	hidden("MOVBE", u_movbe, one.c >> 22 & 1);
	hidden("MOVBE of a register", u_movbe_reg, false);
	hidden("ADCX", u_adcx, seven.b >> 19 & 1);
	hidden("RDSEED", u_rdseed, seven.b >> 18 & 1);
	hidden("RDRAND", u_rdrand, one.c >> 30 & 1);
	hidden("RDPID", u_rdpid, seven.c >> 22 & 1);
	hidden("AESENC", u_aesenc, one.c >> 25 & 1);
	hidden("CRC32", u_crc, one.c >> 20 & 1);
	hidden("TZCNT or BSF", u_tzcnt, true);
	hidden("ANDN", u_andn, seven.b >> 3 & 1);
	hidden("ENDBR64, RDSSPQ", u_endbr, true);
	hidden("WRPKRU without PKE", u_wrpkru, false);
	hidden("VADDPS without OSXSAVE", u_vaddps, false);
	if (one.c >> 26 & 1) {
		write_cr4(cr4 | CR4_OSXSAVE);
		run_kernel(p_xsetbv, 0, 3);
		hidden("VADDPS without AVX in XCR0", u_vaddps, false);
		write_cr4(cr4);
	}
}

/* ---- SYSENTER ---- */

PIECE(s_enter, "mov %rsp, %rcx; sysenter");
extern const char s_target[];
__asm__(".pushsection .text\ns_target:\n	mov %ss, %eax\n	mov %cs, %ebx\n	pushf\n	pop %rdx\n	int "
        "$0x21\n.popsection");
PIECE(s_exit64, "mov %rdi, %rdx; mov %rsi, %rcx; rex64 sysexit");
static u8 enter_stack[4096] __attribute__((aligned(16)));

static void sysenter(void)
{
	u64 user = user_address(s_enter) + 3;

	if (option("qemu"))
		return;
	wrmsr(0x174, 0);
	run_code(s_enter, USER, 0, 0);
	expect("SYSENTER with CS 0", V_GP, 0);
	wrmsr(0x174, SEL_CODE);
	wrmsr(0x175, address(enter_stack) + sizeof(enter_stack));
	wrmsr(0x176, address(s_target));
	run_code_flags(s_enter, USER, FLAG_IF | FLAG_DF, 0, 0, 0);
	expect("SYSENTER", V_DONE, 0);
	check(t->rbx == SEL_CODE && t->rax == SEL_CODE + 8, "SYSENTER: CS 0x%lx SS 0x%lx", t->rbx, t->rax);
	check(!(t->rdx & FLAG_IF) && t->rdx & FLAG_DF, "SYSENTER clears IF only: 0x%lx", t->rdx);
	check(t->rsp == address(enter_stack) + sizeof(enter_stack), "SYSENTER: RSP 0x%lx", t->rsp);
	run_kernel(s_exit64, user + 2, user_address(enter_stack) + 4096);
	check(t->vector == V_GP || t->vector == V_UD || t->vector == V_DONE || t->vector == V_PF,
	      "SYSEXIT: vector %ld", t->vector);
	check((t->cs & 3) == 3 && t->cs == SEL_CODE + 35, "SYSEXIT: CS 0x%lx", t->cs);
	run_kernel(s_exit64, NOT_CANONICAL, 0);
	expect("SYSEXIT to no canonical address", V_GP, 0);
	run_kernel(s_exit64, user, NOT_CANONICAL);
	expect("SYSEXIT with a stack at none", V_GP, 0);
	run_code(s_exit64, USER, 0, 0);
	expect("SYSEXIT in user mode", V_GP, 0);
}

/* ---- accesses and who makes them ---- */

static u64 pdpt[512] __attribute__((aligned(4096))), pd[512] __attribute__((aligned(4096))),
        pt[512] __attribute__((aligned(4096)));
static u8 page[4096] __attribute__((aligned(4096)));
enum { SLOT = 0x92 };
static const u64 window = (u64)SLOT << 39;

static void map(u64 flags)
{
	((volatile u64 *)pt)[0] = address(page) | flags;
	invlpg(window);
}

PIECE(a_load, "mov (%rdi), %rax");
PIECE(a_store, "movl $1, (%rdi)");
PIECE(a_stac, "stac; mov (%rdi), %rax; clac");
PIECE(a_sgdt_load, "lgdt (%rdi)");
PIECE(a_int_on, "mov %rdi, %rsp; int $0x22");

static void keys(void)
{
	u64 cr0 = read_cr0(), cr4 = read_cr4(), key2 = 2ull << 59;

	if (!(cpuid(7, 0).c >> 3 & 1))
		return;
	write_cr4(cr4 | CR4_PKE);
	for (unsigned wp = 0; wp < 2; wp++) {
		write_cr0((cr0 & ~(u64)CR0_WP) | (wp ? CR0_WP : 0));
		for (u32 rights = 0x10; rights <= 0x20; rights += 0x10) {
			wrpkru(rights);
			map(3 | key2);
			run_kernel(a_store, window, 0);
			expect("a supervisor's page has no key", V_DONE, 0);
			map(7 | key2);
			run_kernel(a_load, window, 0);
			expect("key: supervisor's load of a user page", rights == 0x10 ? V_PF : V_DONE,
			       rights == 0x10 ? 0x21 : 0);
			run_kernel(a_store, window, 0);
			if (rights == 0x10 || wp)
				expect("key: supervisor's store to a user page", V_PF, 0x23);
			else
				expect("key: write-disable without WP", V_DONE, 0);
			run_code(a_load, USER, window, 0);
			expect("key: user load", rights == 0x10 ? V_PF : V_DONE, rights == 0x10 ? 0x25 : 0);
			run_code(a_store, USER, window, 0);
			expect("key: user store", V_PF, 0x27);
		}
	}
	wrpkru(0);
	write_cr0(cr0);
	write_cr4(cr4);
}

static void smap(void)
{
	u64 cr0 = read_cr0(), cr4 = read_cr4();
	static struct table_pointer gdt_copy;

	if (!(cpuid(7, 0).b >> 20 & 1))
		return;
	map(7);
	write_cr4(cr4 | CR4_SMAP);
	run_kernel(a_load, window, 0);
	expect("SMAP: load", V_PF, 1);
	run_kernel(a_store, window, 0);
	expect("SMAP: store", V_PF, 3);
	run_code_flags(a_load, KERNEL, FLAG_AC, window, 0, 0);
	expect("SMAP: load with AC", V_DONE, 0);
	run_kernel(a_stac, window, 0);
	expect("SMAP: STAC", V_DONE, 0);
	run_code(a_load, USER, window, 0);
	expect("SMAP: user load", V_DONE, 0);
	write_cr0(cr0 & ~(u64)CR0_WP);
	map(5);
	run_kernel(a_load, window, 0);
	expect("SMAP without WP: load", V_PF, 1);
	run_kernel(a_store, window, 0);
	expect("SMAP without WP: store", V_PF, 3);
	run_code_flags(a_store, KERNEL, FLAG_AC, window, 0, 0);
	expect("SMAP with AC, without WP: store to a read-only page", V_DONE, 0);
	write_cr0(cr0);
	map(7);
	/* A table the processor reads by itself: AC does not help. */
	__asm__ volatile("sgdt %0" : "=m"(gdt_copy));
	memcpy(page, (const void *)(uintptr_t)gdt_copy.base, 512);
	write_cr4(cr4);
	write_cr4(cr4 | CR4_SMAP);
	run_code_flags(a_int_on, KERNEL, FLAG_AC, window + 4096, 0, 0);
	expect_unless("qemu", "SMAP: the frame of an INT in kernel mode, with AC", V_SPARE, 0);
	write_cr4(cr4);
}

static void map_window(void)
{
	((volatile u64 *)boot_pml4)[SLOT] = address(pdpt) | 7;
	pdpt[0] = address(pd) | 7;
	pd[0] = address(pt) | 7;
}

int main(void)
{
	static void (*const groups[])(void) = {
	        address_msrs, other_msrs,   table_registers, system_segments, extended_control,
	        pcid,         instructions, sysenter,        map_window,      keys,
	        smap,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(groups); i++)
		groups[i]();
	finish("state");
}
