/*
 * "Instructions That Cause VM Exits": each with and without its control, with the exit qualification, the length and
 * the instruction information of "Information for VM Exits Due to Instruction Execution"; and which faults come first.
 */
#include "vmx.h"

static u64 scratch[16] __attribute__((aligned(64)));

/* Registers of the guest in these cases: RBX points here, RCX is 2. */
#define MEMORY "0x10(%rbx, %rcx, 8)"
#define MEMORY_INFO MEM_INFO(3, G_RCX, G_RBX, 3)

GUEST(x_cpuid, "cpuid");
GUEST(x_invd, "invd");
GUEST(x_vmcall, "vmcall");
GUEST(x_hlt, "hlt");
GUEST(x_rdtsc, "rdtsc");
GUEST(x_rdtscp, "rdtscp");
GUEST_AT(x_rdpmc, "xor %ecx, %ecx", "rdpmc");
GUEST(x_pause, "pause");
GUEST_AT(x_monitor, "mov %rbx, %rax; xor %ecx, %ecx; xor %edx, %edx", "monitor");
GUEST_AT(x_mwait, "xor %eax, %eax; xor %ecx, %ecx", "mwait");
GUEST(x_wbinvd, "wbinvd");
GUEST_AT(x_xsetbv, "xor %ecx, %ecx; xgetbv", "xsetbv");
GUEST(x_invlpg, "invlpg " MEMORY);
GUEST(x_invlpg_fs, "invlpg %fs:0x1000");
GUEST_AT(x_invpcid, "mov $2, %r9d", "invpcid " MEMORY ", %r9");
GUEST(x_rdrand, "rdrand %r10d");
GUEST(x_rdrand64, "rdrand %rax");
GUEST(x_rdrand16, "rdrand %di");
GUEST(x_rdseed, "rdseed %r15");
GUEST(x_sgdt, "sgdt " MEMORY);
GUEST(x_sidt, "sidt %gs:(%rbx)");
GUEST(x_lgdt, "lgdt (%rbx)");
GUEST(x_lidt, "lidt (%rbx)");
GUEST(x_sldt, "sldt %r12d");
GUEST(x_sldt_memory, "sldt -8(%rbp)");
GUEST(x_str, "str %rsi");
GUEST(x_lldt, "lldt %ax");
GUEST(x_lldt_memory, "lldt (%rbx)");
GUEST(x_ltr, "ltr %dx");
GUEST(x_vmclear, "vmclear " MEMORY);
GUEST(x_vmclear_rip, "vmclear 0x1234(%rip)");
GUEST(x_vmclear_sp, "vmclear -0x30(%rsp)");
GUEST(x_vmclear_absolute, "vmclear %ds:0x12345678");
GUEST(x_vmclear_32, "vmclear 0x20(%ebx)");
GUEST(x_vmclear_r13, "vmclear (%r13, %r12, 2)");
GUEST(x_vmclear_gs, "vmclear %gs:0x40(, %rcx, 4)");
GUEST(x_vmptrld, "vmptrld " MEMORY);
GUEST(x_vmptrst, "vmptrst (%rbx)");
GUEST(x_vmxon, "vmxon " MEMORY);
GUEST(x_vmxoff, "vmxoff");
GUEST(x_vmlaunch, "vmlaunch");
GUEST(x_vmresume, "vmresume");
GUEST(x_vmread, "vmread %rsi, %rdi");
GUEST(x_vmread_memory, "vmread %r14, " MEMORY);
GUEST(x_vmwrite, "vmwrite %r8, %r15");
GUEST(x_vmwrite_memory, "vmwrite " MEMORY ", %rax");
GUEST(x_invept, "invept " MEMORY ", %r11");
GUEST(x_invvpid, "invvpid " MEMORY ", %rdx");
GUEST(x_getsec, "xor %eax, %eax; .byte 0x0f, 0x37");
GUEST(x_rsm, "rsm");
GUEST(x_vmfunc, "xor %eax, %eax; xor %ecx, %ecx; vmfunc");

enum feature { ANY_CPU, HAS_MONITOR, HAS_RDRAND, HAS_RDSEED, HAS_OSXSAVE, HAS_INVEPT, HAS_INVVPID };
enum { ON_ONLY = 1 }; /* not run without the control: it would halt, fault or do harm */
enum { NO_INFO, MEMORY_FORM, REGISTER_FORM }; /* which bits of the information are defined */

#define CODE(x) x, x, x##_next
#define CODE_AT(x) x, x##_at, x##_next

struct exit_case {
	const char *what, *code, *at, *next;
	u32 proc, proc2;        /* controls under which it exits; none: always */
	u32 always2;            /* secondary controls that it needs in any case */
	u32 reason;
	u64 qualification;
	u8 form;
	u32 info, info_mask;    /* beside the memory operand's */
	u8 feature, flags;
};

#define ID(n) ((u32)(n) << 28)
#define REG2(n) ((u32)(n) << 28)
#define REG1(n) ((u32)(n) << 3)

static const struct exit_case cases[] = {
	{ .what = "CPUID", CODE(x_cpuid), .reason = R_CPUID },
	{ .what = "INVD", CODE(x_invd), .reason = R_INVD },
	{ .what = "VMCALL", CODE(x_vmcall), .reason = R_VMCALL },
	{ .what = "HLT", CODE(x_hlt), .proc = PROC_HLT, .reason = R_HLT, .flags = ON_ONLY },
	{ .what = "RDTSC", CODE(x_rdtsc), .proc = PROC_RDTSC, .reason = R_RDTSC },
	{ .what = "RDTSCP", CODE(x_rdtscp), .proc = PROC_RDTSC, .always2 = P2_RDTSCP, .reason = R_RDTSCP },
	{ .what = "RDPMC", CODE_AT(x_rdpmc), .proc = PROC_RDPMC, .reason = R_RDPMC, .flags = ON_ONLY },
	{ .what = "PAUSE", CODE(x_pause), .proc = PROC_PAUSE, .reason = R_PAUSE },
	{ .what = "MONITOR", CODE_AT(x_monitor), .proc = PROC_MONITOR, .reason = R_MONITOR, .feature = HAS_MONITOR },
	{ .what = "MWAIT", CODE_AT(x_mwait), .proc = PROC_MWAIT, .reason = R_MWAIT, .feature = HAS_MONITOR,
	  .flags = ON_ONLY },
	{ .what = "WBINVD", CODE(x_wbinvd), .proc2 = P2_WBINVD, .reason = R_WBINVD },
	{ .what = "XSETBV", CODE_AT(x_xsetbv), .reason = R_XSETBV, .feature = HAS_OSXSAVE },
	{ .what = "INVLPG", CODE(x_invlpg), .proc = PROC_INVLPG, .reason = R_INVLPG,
	  .qualification = (u64)(scratch + 4) },
	{ .what = "INVLPG with a segment", CODE(x_invlpg_fs), .proc = PROC_INVLPG, .reason = R_INVLPG,
	  .qualification = 0x1000 },
	{ .what = "INVPCID", CODE_AT(x_invpcid), .proc = PROC_INVLPG, .always2 = P2_INVPCID, .reason = R_INVPCID,
	  .qualification = 0x10, .form = MEMORY_FORM, .info = MEMORY_INFO | REG2(9), .info_mask = REG2(15) },
	{ .what = "RDRAND", CODE(x_rdrand), .proc2 = P2_RDRAND, .reason = R_RDRAND, .form = REGISTER_FORM,
	  .info = REG1(10) | 1 << 11, .info_mask = REG1(15) | 3 << 11, .feature = HAS_RDRAND },
	{ .what = "RDRAND of 64 bits", CODE(x_rdrand64), .proc2 = P2_RDRAND, .reason = R_RDRAND, .form = REGISTER_FORM,
	  .info = 2 << 11, .info_mask = REG1(15) | 3 << 11, .feature = HAS_RDRAND },
	{ .what = "RDRAND of 16 bits", CODE(x_rdrand16), .proc2 = P2_RDRAND, .reason = R_RDRAND, .form = REGISTER_FORM,
	  .info = REG1(7), .info_mask = REG1(15) | 3 << 11, .feature = HAS_RDRAND },
	{ .what = "RDSEED", CODE(x_rdseed), .proc2 = P2_RDSEED, .reason = R_RDSEED, .form = REGISTER_FORM,
	  .info = REG1(15) | 2 << 11, .info_mask = REG1(15) | 3 << 11, .feature = HAS_RDSEED },
	{ .what = "SGDT", CODE(x_sgdt), .proc2 = P2_TABLES, .reason = R_GDTR_IDTR, .qualification = 0x10,
	  .form = MEMORY_FORM,
	  .info = MEMORY_INFO, .info_mask = ID(3) },
	{ .what = "SIDT", CODE(x_sidt), .proc2 = P2_TABLES, .reason = R_GDTR_IDTR, .form = MEMORY_FORM,
	  .info = MEM_INFO(0, NO_REG, G_RBX, 5) | ID(1), .info_mask = ID(3) },
	{ .what = "LGDT", CODE(x_lgdt), .proc2 = P2_TABLES, .reason = R_GDTR_IDTR, .form = MEMORY_FORM,
	  .info = MEM_INFO(0, NO_REG, G_RBX, 3) | ID(2), .info_mask = ID(3), .flags = ON_ONLY },
	{ .what = "LIDT", CODE(x_lidt), .proc2 = P2_TABLES, .reason = R_GDTR_IDTR, .form = MEMORY_FORM,
	  .info = MEM_INFO(0, NO_REG, G_RBX, 3) | ID(3), .info_mask = ID(3), .flags = ON_ONLY },
	{ .what = "SLDT to a register", CODE(x_sldt), .proc2 = P2_TABLES, .reason = R_LDTR_TR, .form = REGISTER_FORM,
	  .info = 1 << 10 | REG1(12), .info_mask = 1 << 10 | REG1(15) | ID(3) },
	{ .what = "SLDT to memory", CODE(x_sldt_memory), .proc2 = P2_TABLES, .reason = R_LDTR_TR,
	  .qualification = -8ull,
	  .form = MEMORY_FORM, .info = MEM_INFO(0, NO_REG, G_RBP, 2), .info_mask = ID(3) },
	{ .what = "STR", CODE(x_str), .proc2 = P2_TABLES, .reason = R_LDTR_TR, .form = REGISTER_FORM,
	  .info = 1 << 10 | REG1(6) | ID(1), .info_mask = 1 << 10 | REG1(15) | ID(3) },
	{ .what = "LLDT of a register", CODE(x_lldt), .proc2 = P2_TABLES, .reason = R_LDTR_TR, .form = REGISTER_FORM,
	  .info = 1 << 10 | ID(2), .info_mask = 1 << 10 | REG1(15) | ID(3) },
	{ .what = "LLDT of memory", CODE(x_lldt_memory), .proc2 = P2_TABLES, .reason = R_LDTR_TR, .form = MEMORY_FORM,
	  .info = MEM_INFO(0, NO_REG, G_RBX, 3) | ID(2), .info_mask = ID(3) },
	{ .what = "LTR", CODE(x_ltr), .proc2 = P2_TABLES, .reason = R_LDTR_TR, .form = REGISTER_FORM,
	  .info = 1 << 10 | REG1(2) | ID(3), .info_mask = 1 << 10 | REG1(15) | ID(3), .flags = ON_ONLY },
	{ .what = "VMCLEAR", CODE(x_vmclear), .reason = R_VMCLEAR, .qualification = 0x10, .form = MEMORY_FORM,
	  .info = MEMORY_INFO },
	{ .what = "VMCLEAR, RIP-relative", CODE(x_vmclear_rip), .reason = R_VMCLEAR,
	  .qualification = (u64)(x_vmclear_rip_next + 0x1234),
	  .form = MEMORY_FORM, .info = MEM_INFO(0, NO_REG, NO_REG, 3) },
	{ .what = "VMCLEAR, on the stack", CODE(x_vmclear_sp), .reason = R_VMCLEAR, .qualification = -0x30ull,
	  .form = MEMORY_FORM, .info = MEM_INFO(0, NO_REG, G_RSP, 2) },
	{ .what = "VMCLEAR, absolute", CODE(x_vmclear_absolute), .reason = R_VMCLEAR, .qualification = 0x12345678,
	  .form = MEMORY_FORM, .info = MEM_INFO(0, NO_REG, NO_REG, 3) },
	{ .what = "VMCLEAR, 32-bit address", CODE(x_vmclear_32), .reason = R_VMCLEAR, .qualification = 0x20,
	  .form = MEMORY_FORM, .info = (MEM_INFO(0, NO_REG, G_RBX, 3) & ~0x380u) | 1 << 7 },
	{ .what = "VMCLEAR, high registers", CODE(x_vmclear_r13), .reason = R_VMCLEAR, .form = MEMORY_FORM,
	  .info = MEM_INFO(1, 12, 13, 3) },
	{ .what = "VMCLEAR, index alone and a segment", CODE(x_vmclear_gs), .reason = R_VMCLEAR, .qualification = 0x40,
	  .form = MEMORY_FORM, .info = MEM_INFO(2, G_RCX, NO_REG, 5) },
	{ .what = "VMPTRLD", CODE(x_vmptrld), .reason = R_VMPTRLD, .qualification = 0x10, .form = MEMORY_FORM,
	  .info = MEMORY_INFO },
	{ .what = "VMPTRST", CODE(x_vmptrst), .reason = R_VMPTRST, .form = MEMORY_FORM,
	  .info = MEM_INFO(0, NO_REG, G_RBX, 3) },
	{ .what = "VMXON", CODE(x_vmxon), .reason = R_VMXON, .qualification = 0x10, .form = MEMORY_FORM,
	  .info = MEMORY_INFO },
	{ .what = "VMXOFF", CODE(x_vmxoff), .reason = R_VMXOFF },
	{ .what = "VMLAUNCH", CODE(x_vmlaunch), .reason = R_VMLAUNCH },
	{ .what = "VMRESUME", CODE(x_vmresume), .reason = R_VMRESUME },
	{ .what = "VMREAD", CODE(x_vmread), .reason = R_VMREAD, .form = REGISTER_FORM,
	  .info = 1 << 10 | REG1(7) | REG2(6),
	  .info_mask = 1 << 10 | REG1(15) | REG2(15) },
	{ .what = "VMREAD to memory", CODE(x_vmread_memory), .reason = R_VMREAD, .qualification = 0x10,
	  .form = MEMORY_FORM,
	  .info = MEMORY_INFO | REG2(14), .info_mask = REG2(15) },
	{ .what = "VMWRITE", CODE(x_vmwrite), .reason = R_VMWRITE, .form = REGISTER_FORM,
	  .info = 1 << 10 | REG1(8) | REG2(15),
	  .info_mask = 1 << 10 | REG1(15) | REG2(15) },
	{ .what = "VMWRITE from memory", CODE(x_vmwrite_memory), .reason = R_VMWRITE, .qualification = 0x10,
	  .form = MEMORY_FORM,
	  .info = MEMORY_INFO, .info_mask = REG2(15) },
	{ .what = "INVEPT", CODE(x_invept), .reason = R_INVEPT, .qualification = 0x10, .form = MEMORY_FORM,
	  .info = MEMORY_INFO | REG2(11), .info_mask = REG2(15), .feature = HAS_INVEPT },
	{ .what = "INVVPID", CODE(x_invvpid), .reason = R_INVVPID, .qualification = 0x10, .form = MEMORY_FORM,
	  .info = MEMORY_INFO | REG2(2), .info_mask = REG2(15), .feature = HAS_INVVPID },
};

static bool has(unsigned feature)
{
	switch (feature) {
	case HAS_MONITOR: return cpuid(1, 0).c >> 3 & 1;
	case HAS_RDRAND: return cpuid(1, 0).c >> 30 & 1;
	case HAS_RDSEED: return cpuid(7, 0).b >> 18 & 1;
	case HAS_OSXSAVE: return read_cr4() & CR4_OSXSAVE;
	case HAS_INVEPT: return cap.ept_vpid & CAP_INVEPT;
	case HAS_INVVPID: return cap.ept_vpid & CAP_INVVPID;
	default: return true;
	}
}

/* The bits that are defined for a memory operand: not a register's number when there is none. */
static u32 memory_mask(u32 info)
{
	return 0x380 | 1 << 10 | 7 << 15 | 1 << 22 | 1 << 27 | (info >> 22 & 1 ? 0 : 0x3c0003) |
	       (info >> 27 & 1 ? 0 : 15 << 23);
}

static void prepare(const struct exit_case *c)
{
	vm_good(LONG);
	vm_or(F_GUEST_RFLAGS, FLAG_RF);
	memset(scratch, 0, sizeof(scratch));
	reg[G_RBX] = at(scratch);
	reg[G_RCX] = 2;
	reg[G_RBP] = at(scratch + 8);
	if (c->always2)
		vm_or(F_PROC2, c->always2);
}

static void expect_instruction(const struct exit_case *c)
{
	u32 mask = c->info_mask, info;

	if (!expect_exit(c->what, c->reason, c->qualification))
		return;
	expect_field(c->what, "RIP", F_GUEST_RIP, at(c->at));
	expect_field(c->what, "instruction length", F_EXIT_LEN, (u64)(c->next - c->at));
	expect_field(c->what, "IDT-vectoring information", F_VECTORING, 0);
	check(!(vm_get(F_EXIT_INFO) & INFO_VALID), "%s: exit information 0x%lx", c->what, vm_get(F_EXIT_INFO));
	check(!(vm_get(F_GUEST_RFLAGS) & FLAG_RF), "%s: RFLAGS.RF is saved as 1", c->what);
	if (c->form == NO_INFO)
		return;
	if (c->form == MEMORY_FORM)
		mask |= memory_mask(c->info);
	info = (u32)vm_get(F_INSN_INFO);
	check((info & mask) == (c->info & mask), "%s: instruction information 0x%x, expected 0x%x (of the bits 0x%x)",
	      c->what, info, c->info, mask);
}

static void try_exit(const struct exit_case *c)
{
	if (!can_proc(c->proc) || !can_proc2(c->proc2 | c->always2) || !has(c->feature)) {
		skip(c->what);
		return;
	}
	prepare(c);
	vm_or(F_PROC, c->proc);
	if (c->proc2)
		vm_or(F_PROC2, c->proc2);
	if (vm_run(c->what, c->code))
		expect_instruction(c);
	if (!(c->proc | c->proc2) || c->flags & ON_ONLY)
		return;
	prepare(c);
	vm_put(F_EXCEPTIONS, 0xffffffff);
	if (vm_run(c->what, c->code))
		expect_call(c->what, c->next);
}

/* ---- faults before exits ---- */

GUEST(u_clts, "clts");
GUEST(u_cr3, "mov %cr3, %rax");
GUEST(u_cr8, "mov %cr8, %rax");
GUEST(u_dr, "mov %dr0, %rax");
GUEST(u_rdmsr, "rdmsr");
GUEST(u_wrmsr, "wrmsr");
GUEST(u_in, "in $0x70, %al");
GUEST(u_lmsw, "lmsw %ax");

enum { EXITS = 100 };
struct priority { const char *what, *code; u32 proc, proc2, user_result, reason; };
static const struct priority in_user_mode[] = {
	{ "HLT in user mode", x_hlt, PROC_HLT, 0, V_GP, 0 },
	{ "INVD in user mode", x_invd, 0, 0, V_GP, 0 },
	{ "WBINVD in user mode", x_wbinvd, 0, P2_WBINVD, V_GP, 0 },
	{ "INVLPG in user mode", x_invlpg, PROC_INVLPG, 0, V_GP, 0 },
	{ "CLTS in user mode", u_clts, 0, 0, V_GP, 0 },
	{ "LMSW in user mode", u_lmsw, 0, 0, V_GP, 0 },
	{ "MOV from CR3 in user mode", u_cr3, PROC_CR3_STORE, 0, V_GP, 0 },
	{ "MOV from CR8 in user mode", u_cr8, PROC_CR8_STORE, 0, V_GP, 0 },
	{ "RDMSR in user mode", u_rdmsr, 0, 0, V_GP, 0 },
	{ "WRMSR in user mode", u_wrmsr, 0, 0, V_GP, 0 },
	{ "IN in user mode", u_in, PROC_IO, 0, V_GP, 0 },
	{ "LGDT in user mode", x_lgdt, 0, P2_TABLES, V_GP, 0 },
	{ "LLDT in user mode", x_lldt, 0, P2_TABLES, V_GP, 0 },
	{ "RDPMC in user mode", x_rdpmc, PROC_RDPMC, 0, V_GP, 0 },
	{ "CPUID in user mode", x_cpuid, 0, 0, EXITS, R_CPUID },
	{ "RDTSC in user mode", x_rdtsc, PROC_RDTSC, 0, EXITS, R_RDTSC },
	{ "PAUSE in user mode", x_pause, PROC_PAUSE, 0, EXITS, R_PAUSE },
	{ "SGDT in user mode", x_sgdt, 0, P2_TABLES, EXITS, R_GDTR_IDTR },
	{ "STR in user mode", x_str, 0, P2_TABLES, EXITS, R_LDTR_TR },
	{ "RDRAND in user mode", x_rdrand, 0, P2_RDRAND, EXITS, R_RDRAND },
	{ "MOV DR in user mode", u_dr, PROC_DR, 0, EXITS, R_DR }, /* before the fault, unlike its neighbours */
	{ "VMCALL in user mode", x_vmcall, 0, 0, EXITS, R_VMCALL },
	{ "VMCLEAR in user mode", x_vmclear, 0, 0, EXITS, R_VMCLEAR },
	{ "VMREAD in user mode", x_vmread, 0, 0, EXITS, R_VMREAD },
	{ "VMLAUNCH in user mode", x_vmlaunch, 0, 0, EXITS, R_VMLAUNCH },
	{ "VMXOFF in user mode", x_vmxoff, 0, 0, EXITS, R_VMXOFF },
	{ "VMXON in user mode", x_vmxon, 0, 0, EXITS, R_VMXON },
	{ "GETSEC in user mode", x_getsec, 0, 0, V_UD, 0 },
	{ "RSM in user mode", x_rsm, 0, 0, V_UD, 0 },
};

void vm_user(void)
{
	vm_put(F_GUEST_CS_SEL, SEL_UCODE);
	vm_put(F_GUEST_CS_AR, 0xa0fb);
	vm_put(F_GUEST_SS_SEL, SEL_UDATA);
	for (u32 i = 0; i < 12; i += 2)
		if (i != 2) {
			vm_put(F_GUEST_ES_SEL + i, SEL_UDATA);
			vm_put(F_GUEST_ES_AR + i, 0xc0f3);
		}
	vm_put(F_GUEST_RSP, at(guest_stack_top) + 4096 + USER_BASE);
}

static void faults_come_first(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(in_user_mode); i++) {
		const struct priority *p = &in_user_mode[i];

		if (!can_proc(p->proc) || !can_proc2(p->proc2) || (p->reason == R_RDRAND && !has(HAS_RDRAND)))
			continue;
		vm_good(LONG);
		vm_user();
		reg[G_RBX] = at(scratch) + USER_BASE;
		vm_or(F_PROC, p->proc);
		if (p->proc2)
			vm_or(F_PROC2, p->proc2);
		if (!vm_run(p->what, p->code + USER_BASE))
			continue;
		if (p->user_result == EXITS)
			expect_reason(p->what, p->reason);
		else
			expect_event(p->what, p->user_result, 0);
	}
}

GUEST(o_cr4, "mov %rdi, %cr4");
GUEST(o_cr0, "mov %rdi, %cr0");
GUEST(o_lmsw, "lmsw (%rbx)");

/*
 * Exits come before faults that are not about opcodes or privilege, but for those of operands that decide on the
 * exit.
 */
static void exits_come_first(void)
{
	static const struct { const char *what, *code; u32 proc2, reason; } unmapped[] = {
		{ "VMCLEAR of memory that is not there", x_vmclear, 0, R_VMCLEAR },
		{ "VMXON of memory that is not there", x_vmxon, 0, R_VMXON },
		{ "VMPTRST to memory that is not there", x_vmptrst, 0, R_VMPTRST },
		{ "VMREAD to memory that is not there", x_vmread_memory, 0, R_VMREAD },
		{ "LGDT of memory that is not there", x_lgdt, P2_TABLES, R_GDTR_IDTR },
		{ "SIDT to memory that is not there", x_sidt, P2_TABLES, R_GDTR_IDTR },
		{ "LLDT of memory that is not there", x_lldt_memory, P2_TABLES, R_LDTR_TR },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(unmapped); i++) {
		if (!can_proc2(unmapped[i].proc2))
			continue;
		vm_good(LONG);
		if (unmapped[i].proc2)
			vm_or(F_PROC2, unmapped[i].proc2);
		reg[G_RBX] = 0x60ull << 39;
		if (vm_run(unmapped[i].what, unmapped[i].code))
			expect_reason(unmapped[i].what, unmapped[i].reason);
	}
	vm_good(LONG);
	vm_put(F_CR4_MASK, CR4_DE);
	reg[G_RDI] = vm_get(F_GUEST_CR4) | CR4_DE | 1ull << 63;
	if (vm_run("MOV to CR4, a masked and a reserved bit", o_cr4))
		expect_exit("MOV to CR4, a masked and a reserved bit", R_CR, 4 | 7 << 8);
	vm_good(LONG);
	vm_put(F_CR0_MASK, CR0_TS);
	reg[G_RDI] = vm_get(F_GUEST_CR0) | CR0_TS | 1ull << 32;
	if (vm_run("MOV to CR0, a masked and a reserved bit", o_cr0))
		expect_exit("MOV to CR0, a masked and a reserved bit", R_CR, 7 << 8);
	vm_good(LONG);
	vm_put(F_CR0_MASK, CR0_TS | CR0_MP | CR0_EM | CR0_PE);
	reg[G_RBX] = 0x60ull << 39;
	if (vm_run("LMSW of memory that is not there", o_lmsw))
		expect_event("LMSW of memory that is not there", V_PF, 0);
}

/* Instructions that a control enables, without it; and VMX instructions in compatibility mode. */
static void undefined(void)
{
	static const struct { const char *what, *code; u32 proc, needs2; } plain[] = {
		{ "RDTSCP without its control", x_rdtscp, PROC_RDTSC, P2_RDTSCP },
		{ "INVPCID without its control", x_invpcid, PROC_INVLPG, P2_INVPCID },
		{ "VMFUNC without its control", x_vmfunc, 0, 0 },
		{ "GETSEC without CR4.SMXE", x_getsec, 0, 0 },
		{ "RSM outside SMM", x_rsm, 0, 0 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(plain); i++) {
		if (!can_proc(plain[i].proc) || !can_proc2(plain[i].needs2))
			continue;
		vm_good(LONG);
		reg[G_RBX] = at(scratch);
		vm_or(F_PROC, plain[i].proc);
		if (vm_run(plain[i].what, plain[i].code))
			expect_event(plain[i].what, V_UD, 0);
	}
	if (has(HAS_OSXSAVE)) {
		vm_good(LONG);
		vm_clear(F_GUEST_CR4, CR4_OSXSAVE);
		if (vm_run("XSETBV without CR4.OSXSAVE", x_xsetbv_at))
			expect_event("XSETBV without CR4.OSXSAVE", V_UD, 0);
	}
	if (has(HAS_OSXSAVE)) {
		vm_good(LONG);
		vm_user();
		if (vm_run("XSETBV in user mode", x_xsetbv + USER_BASE))
			expect_event("XSETBV in user mode", V_GP, 0);
	}
	vm_good(LONG);
	vm_user();
	vm_or(F_GUEST_CR4, CR4_TSD);
	vm_or(F_PROC, can_proc(PROC_RDTSC) ? PROC_RDTSC : 0);
	if (vm_run("RDTSC in user mode under CR4.TSD", x_rdtsc + USER_BASE))
		expect_event("RDTSC in user mode under CR4.TSD", V_GP, 0);
}

GUEST(c_vmread, ".code32; vmread %edi, %eax; .code64");
GUEST(c_vmclear, ".code32; vmclear (%edi); .code64");
GUEST(c_vmlaunch, ".code32; vmlaunch; .code64");

static void compatibility_mode(void)
{
	static const char *const code[] = { c_vmread, c_vmclear, c_vmlaunch };

	for (unsigned i = 0; i < ARRAY_SIZE(code); i++) {
		vm_good(COMPAT);
		if (vm_run("VMX instructions in compatibility mode", code[i]))
			expect_event("VMX instructions in compatibility mode", V_UD, 0);
	}
}

/* ---- "Task switches": in a 32-bit guest ---- */

GUEST(t_jump, ".code32; ljmp $0x58, $0; .code64");
GUEST(t_call, ".code32; lcall $0x58, $0; .code64");
GUEST(t_iret, ".code32; pushf; orl $0x4000, (%esp); popf; t_iret_at: iret; .code64");
GUEST(t_int, ".code32; int $0x40; .code64");
GUEST(t_ud, ".code32; ud2; .code64");
extern const char t_iret_at[];

static void task_switches(void)
{
	static u64 idt32[256];
	static const struct { const char *what, *code, *at; u64 source, length; u32 vectoring; } list[] = {
		{ "task switch by JMP", t_jump, t_jump, 2, 7, 0 },
		{ "task switch by CALL", t_call, t_call, 0, 7, 0 },
		{ "task switch by IRET", t_iret, t_iret_at, 1, 1, 0 },
		{ "task switch by INT", t_int, t_int, 3, 2, INFO(T_SOFT_INT, 0x40) },
		{ "task switch by #UD", t_ud, t_ud, 3, 0, INFO(T_HARD, 6) },
	};
	u64 tss;

	vm_good(PAE);
	tss = vm_get(F_GUEST_TR_BASE);
	/* The task to switch to, available; IRET goes to a busy one, by the back link of the present task. */
	idt32[0x40] = idt32[6] = (u64)SEL_FREE << 16 | 0x8500ull << 32;
	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		bool iret = list[i].code == t_iret;

		gdt_set(SEL_FREE, 0x67 | (tss & 0xffffff) << 16 | (iret ? 0x8bull :
								   0x89ull) << 40 | (tss >> 24 & 0xff) << 56);
		*(volatile u16 *)(uintptr_t)tss = SEL_FREE;
		vm_good(PAE);
		vm_put(F_GUEST_IDTR_BASE, at(idt32));
		if (!vm_run(list[i].what, list[i].code) ||
		    !expect_exit(list[i].what, R_TASK, SEL_FREE | list[i].source << 30))
			continue;
		expect_field(list[i].what, "RIP", F_GUEST_RIP, at(list[i].at));
		if (list[i].length)
			expect_field(list[i].what, "instruction length", F_EXIT_LEN, list[i].length);
		expect_field(list[i].what, "IDT-vectoring information", F_VECTORING, list[i].vectoring);
	}
	*(volatile u16 *)(uintptr_t)tss = 0;
	/* A switch that cannot be begins with its fault. */
	gdt_set(SEL_FREE, 0);
	vm_good(PAE);
	vm_put(F_EXCEPTIONS, ~0u);
	if (vm_run("task switch to nothing", t_jump) && expect_reason("task switch to nothing", R_EXCEPTION)) {
		expect_field("task switch to nothing", "exit information", F_EXIT_INFO,
			     INFO(T_HARD, V_GP) | INFO_ERROR);
		expect_field("task switch to nothing", "error code", F_EXIT_ERROR, SEL_FREE);
	}
}

/* ---- the rest ---- */

GUEST(f_ud, "ud2");

static void triple_fault(void)
{
	vm_good(LONG);
	vm_put(F_GUEST_IDTR_LIMIT, 0);
	if (!vm_run("triple fault", f_ud) || !expect_exit("triple fault", R_TRIPLE, 0))
		return;
	expect_field("triple fault", "IDT-vectoring information", F_VECTORING, 0);
	expect_field("triple fault", "exit information", F_EXIT_INFO, 0);
	expect_field("triple fault", "RIP", F_GUEST_RIP, at(f_ud));
}

GUEST(s_tsc, "rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %rdi;"
	     "mov $0x10, %ecx; rdmsr; shl $32, %rdx; or %rdx, %rax");
GUEST(s_tscp, "rdtscp; shl $32, %rdx; or %rdx, %rax");

static u64 rdtsc(void)
{
	u32 lo, hi;
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (u64)hi << 32 | lo;
}

static void tsc_between(const char *what, u64 v, u64 before, u64 after, u64 offset)
{
	check(v - offset - before <= after - before, "%s: TSC 0x%lx is not in 0x%lx-0x%lx plus 0x%lx", what, v, before,
	      after,
	      offset);
}

static void tsc_offset(void)
{
	static const u64 offsets[] = { 0, 1ull << 40, -(1ull << 30), 1ull << 63 };
	u64 before, after;

	if (!can_proc(PROC_TSC_OFFSET) || !can_proc(PROC_MSR_BITMAPS)) {
		skip("TSC offsetting");
		return;
	}
	memset(msr_bitmap, 0, PAGE);
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(offsets); i++) {
		u64 offset = offsets[i / 2], effective = i & 1 ? offset : 0;

		vm_good(LONG);
		vm_put(F_TSC_OFFSET, offset);
		vm_or(F_PROC, PROC_MSR_BITMAPS | (i & 1 ? PROC_TSC_OFFSET : 0));
		before = rdtsc();
		if (!vm_run("TSC offset", s_tsc))
			continue;
		after = rdtsc();
		expect_call("TSC offset", s_tsc_next);
		tsc_between("RDTSC", reg[G_RDI], before, after, effective);
		tsc_between("RDMSR of the TSC", reg[G_RAX], before, after, effective);
		if (!can_proc2(P2_RDTSCP))
			continue;
		vm_or(F_PROC2, P2_RDTSCP);
		before = rdtsc();
		vm_run("TSC offset", s_tscp);
		after = rdtsc();
		expect_call("TSC offset", s_tscp_next);
		tsc_between("RDTSCP", reg[G_RAX], before, after, effective);
	}
}

GUEST_AT(s_sti, "sti", "cpuid");
GUEST_AT(s_movss, "mov %ss, %eax; mov %eax, %ss", "cpuid");

/* Blocking by STI and MOV SS lasts for the instruction that exits. */
static void blocking(void)
{
	vm_good(LONG);
	if (vm_run("exit behind STI", s_sti) && expect_exit("exit behind STI", R_CPUID, 0)) {
		expect_field("exit behind STI", "interruptibility", F_INTERRUPTIBILITY, BLOCK_STI);
		expect_field("exit behind STI", "RIP", F_GUEST_RIP, at(s_sti_at));
	}
	vm_good(LONG);
	if (vm_run("exit behind MOV SS", s_movss) && expect_exit("exit behind MOV SS", R_CPUID, 0))
		expect_field("exit behind MOV SS", "interruptibility", F_INTERRUPTIBILITY, BLOCK_MOVSS);
	vm_good(LONG);
	vm_put(F_INTERRUPTIBILITY, BLOCK_NMI);
	if (vm_run("exit with NMIs blocked", x_cpuid) && expect_exit("exit with NMIs blocked", R_CPUID, 0))
		expect_field("exit with NMIs blocked", "interruptibility", F_INTERRUPTIBILITY, BLOCK_NMI);
}

void group_exits(void)
{
	write_cr4(read_cr4() | (cpuid(1, 0).c >> 26 & 1 ? CR4_OSXSAVE : 0));
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
		try_exit(&cases[i]);
	faults_come_first();
	exits_come_first();
	undefined();
	compatibility_mode();
	task_switches();
	blocking();
	triple_fault();
	tsc_offset();
	expect_good("exits");
}
