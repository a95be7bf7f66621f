/*
 * "VMX Instruction Reference": what each instruction needs, how it fails, and "VM-Instruction Error Numbers".
 */
#include "vmx.h"

#define ARITHMETIC ((u64)0x8d5) /* CF, PF, AF, ZF, SF, OF */
#define CF 1ull
#define ZF 0x40ull

PIECE(i_vmxon, "vmxon (%rdi)");
PIECE(i_vmxoff, "vmxoff");
PIECE(i_vmcall, "vmcall");
PIECE(i_vmlaunch, "vmlaunch");
PIECE(i_vmresume, "vmresume");
PIECE(i_vmclear, "vmclear (%rdi)");
PIECE(i_vmptrld, "vmptrld (%rdi)");
PIECE(i_vmptrst, "vmptrst (%rdi)");
PIECE(i_vmread, "mov %rdx, %rbx; vmread %rdi, %rbx");
PIECE(i_vmread_memory, "vmread %rdi, (%rsi)");
PIECE(i_vmwrite, "vmwrite %rsi, %rdi");
PIECE(i_vmwrite_memory, "vmwrite (%rsi), %rdi");
PIECE(i_invept, "invept (%rdi), %rsi");
PIECE(i_invvpid, "invvpid (%rdi), %rsi");
PIECE(i_vmfunc, "xor %eax, %eax; vmfunc");
PIECE(i_vmread_66, ".byte 0x66; vmread %rdi, %rbx");
PIECE(i_vmread_lock, ".byte 0xf0; vmread %rdi, %rbx");
PIECE(i_invept_register, ".byte 0x66, 0x0f, 0x38, 0x80, 0xc0");
PIECE(i_movss_launch, "mov %ss, %eax; mov %eax, %ss; vmlaunch");
PIECE(i_movss_resume, "mov %ss, %eax; mov %eax, %ss; vmresume");
PIECE(i_cr0, "mov %rdi, %cr0");
PIECE(i_cr4, "mov %rdi, %cr4");
PIECE(i_wrmsr, "mov %edi, %ecx; mov %esi, %eax; xor %edx, %edx; wrmsr");
PIECE(i_vmxon32, ".code32; vmxon (%edi); .code64");
PIECE(i_vmclear32, ".code32; vmclear (%edi); .code64");
PIECE(i_vmread32, ".code32; vmread %edi, %eax; .code64");
PIECE(i_vmcall32, ".code32; vmcall; .code64");
PIECE(i_vmlaunch32, ".code32; vmlaunch; .code64");

static u64 pointer; /* operand of VMXON and its like; user mode may read it */
static u64 descriptor[2];
static u64 bad_linear = 0x60ull << 39; /* nothing is mapped there */

struct instruction { const char *name; const char *code; u64 rdi, rsi; };
static const struct instruction all[] = {
	{ "VMXOFF", i_vmxoff, 0, 0 },
	{ "VMCALL", i_vmcall, 0, 0 },
	{ "VMLAUNCH", i_vmlaunch, 0, 0 },
	{ "VMRESUME", i_vmresume, 0, 0 },
	{ "VMCLEAR", i_vmclear, (u64)&pointer, 0 },
	{ "VMPTRLD", i_vmptrld, (u64)&pointer, 0 },
	{ "VMPTRST", i_vmptrst, (u64)&pointer, 0 },
	{ "VMREAD", i_vmread, F_PIN, 0 },
	{ "VMWRITE", i_vmwrite, F_PIN, 0 },
	{ "INVEPT", i_invept, (u64)descriptor, INVEPT_ALL },
	{ "INVVPID", i_invvpid, (u64)descriptor, INVVPID_ALL },
};

static bool offered(const struct instruction *i)
{
	return i->code == i_invept ? can_ept(CAP_INVEPT) : i->code != i_invvpid || cap.ept_vpid & CAP_INVVPID;
}

static void vector(const char *when, const char *what, const struct trap *t, u64 expected)
{
	check(t->vector == expected && !t->error, "%s %s: vector %ld error 0x%lx, expected vector %ld", what, when,
	      t->vector, t->error, expected);
}

static void all_undefined(const char *when)
{
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
		vector(when, all[i].name, run_code(all[i].code, KERNEL, all[i].rdi, all[i].rsi), V_UD);
		vector(when, all[i].name, run_code(all[i].code, USER, all[i].rdi, all[i].rsi), V_UD);
	}
	vector(when, "VMFUNC", run_code(i_vmfunc, KERNEL, 0, 0), V_UD);
}

/* Runs with all arithmetic flags set and looks at what is left of them. */
static void flags(const char *what, const void *code, u64 rdi, u64 rsi, u64 expected)
{
	const struct trap *t = run_code_flags(code, KERNEL, ARITHMETIC, rdi, rsi, 0);

	check(t->vector == V_DONE, "%s: vector %ld error 0x%lx", what, t->vector, t->error);
	check((t->rflags & ARITHMETIC) == expected, "%s: flags 0x%lx, expected 0x%lx", what, t->rflags & ARITHMETIC,
	      expected);
}

/* VMfailValid with this error number. */
static void fails(const char *what, const void *code, u64 rdi, u64 rsi, u64 error)
{
	u64 got = 0;

	flags(what, code, rdi, rsi, ZF);
	vmread(F_INSN_ERROR, &got);
	check(got == error, "%s: error number %ld, expected %ld", what, got, error);
}

static const struct trap *run_code32(const void *code, u64 rdi)
{
	static u8 stack[4096] __attribute__((aligned(16)));
	struct start_frame f = { at(code), SEL_CODE32, 2, at(stack + sizeof(stack)), SEL_DATA };

	run_frame(&f, rdi, 0, 0);
	return &last_trap;
}

/* ---- VMXON ---- */

static void before_vmxon(void)
{
	u64 control = rdmsr(MSR_FEATURE_CONTROL);

	all_undefined("without CR4.VMXE");
	vector("without CR4.VMXE", "VMXON", run_code(i_vmxon, KERNEL, at(&pointer), 0), V_UD);
	write_cr4(read_cr4() | CR4_VMXE);
	check(read_cr4() & CR4_VMXE, "CR4.VMXE");
	all_undefined("outside VMX operation");
	pointer = at(vmxon_region);
	*(u32 *)vmxon_region = cap.revision;
	if (!(control & 1)) {
		vector("with IA32_FEATURE_CONTROL unlocked", "VMXON", run_code(i_vmxon, KERNEL, at(&pointer), 0), V_GP);
		wrmsr(MSR_FEATURE_CONTROL, control | 4);
		vector("with IA32_FEATURE_CONTROL unlocked, VMX allowed", "VMXON",
		       run_code(i_vmxon, KERNEL, at(&pointer), 0), V_GP);
		wrmsr(MSR_FEATURE_CONTROL, control | 5);
	}
	check((rdmsr(MSR_FEATURE_CONTROL) & 5) == 5, "IA32_FEATURE_CONTROL allows VMXON");
	vector("when it is locked", "WRMSR of IA32_FEATURE_CONTROL", run_code(i_wrmsr, KERNEL, MSR_FEATURE_CONTROL, 5),
	       V_GP);
}

static void vmxon_failures(void)
{
	static const struct { const char *what; u64 or; } pointers[] = {
		{ "VMXON, pointer not aligned", 8 }, { "VMXON, pointer not aligned to a page", 0x800 },
		{ "VMXON, pointer wider than any address", 1ull << 63 },
	};

	vector("in user mode", "VMXON", run_code(i_vmxon, USER, at(&pointer), 0), V_GP);
	vector("in compatibility mode", "VMXON", run_code32(i_vmxon32, at(&pointer)), V_UD);
	write_cr0(read_cr0() & ~(u64)CR0_NE);
	vector("with CR0.NE clear", "VMXON", run_code(i_vmxon, KERNEL, at(&pointer), 0), V_GP);
	write_cr0(read_cr0() | CR0_NE);
	check(run_code(i_vmxon, KERNEL, bad_linear, 0)->vector == V_PF && last_trap.cr2 == bad_linear,
	      "VMXON, operand not there: vector %ld cr2 0x%lx", last_trap.vector, last_trap.cr2);
	vector("operand not canonical", "VMXON", run_code(i_vmxon, KERNEL, 1ull << 63, 0), V_GP);
	for (unsigned i = 0; i < ARRAY_SIZE(pointers); i++) {
		pointer = at(vmxon_region) | pointers[i].or;
		flags(pointers[i].what, i_vmxon, at(&pointer), 0, CF);
	}
	if (cap.physical < 52) {
		pointer = at(vmxon_region) | 1ull << cap.physical;
		flags("VMXON, pointer beyond MAXPHYADDR", i_vmxon, at(&pointer), 0, CF);
	}
	pointer = at(vmxon_region);
	*(volatile u32 *)vmxon_region = cap.revision + 1;
	flags("VMXON, wrong revision", i_vmxon, at(&pointer), 0, CF);
	*(volatile u32 *)vmxon_region = cap.revision | 1u << 31;
	flags("VMXON, shadow indicator", i_vmxon, at(&pointer), 0, CF);
	*(volatile u32 *)vmxon_region = cap.revision;
}

/* "Restrictions on VMX Operation" */
static void restrictions(void)
{
	vector("in VMX operation", "clearing CR4.VMXE", run_code(i_cr4, KERNEL, read_cr4() & ~(u64)CR4_VMXE, 0), V_GP);
	vector("in VMX operation", "clearing CR0.NE", run_code(i_cr0, KERNEL, read_cr0() & ~(u64)CR0_NE, 0), V_GP);
	vector("in VMX operation", "clearing CR0.PG", run_code(i_cr0, KERNEL, read_cr0() & ~CR0_PG, 0), V_GP);
	check(read_cr4() & CR4_VMXE && read_cr0() & CR0_NE, "they are as they were");
	write_cr0(read_cr0() ^ CR0_TS);
	write_cr0(read_cr0() ^ CR0_TS);
}

/* ---- without a current VMCS ---- */

static void no_current(const char *when)
{
	static u64 out;
	u64 value = 0x1234;

	check(vmptrst() == ~0ull, "VMPTRST %s: 0x%lx", when, vmptrst());
	flags("VMREAD, no current VMCS", i_vmread, F_PIN, 0, CF);
	check(vmread(F_PIN, &value) == FAIL_INVALID && value == 0x1234, "VMREAD %s leaves its operand alone", when);
	flags("VMREAD to memory, no current VMCS", i_vmread_memory, F_PIN, at(&out), CF);
	flags("VMREAD of no field, no current VMCS", i_vmread, 0x7ffe, 0, CF);
	flags("VMWRITE, no current VMCS", i_vmwrite, F_PIN, 0, CF);
	flags("VMLAUNCH, no current VMCS", i_vmlaunch, 0, 0, CF);
	flags("VMRESUME, no current VMCS", i_vmresume, 0, 0, CF);
	flags("VMCALL in root operation, no current VMCS", i_vmcall, 0, 0, CF);
	flags("VMXON in root operation, no current VMCS", i_vmxon, at(&pointer), 0, CF);
	pointer = at(vmcs_region) | 1;
	flags("VMCLEAR of a bad pointer, no current VMCS", i_vmclear, at(&pointer), 0, CF);
	flags("VMPTRLD of a bad pointer, no current VMCS", i_vmptrld, at(&pointer), 0, CF);
	if (can_ept(CAP_INVEPT))
		flags("INVEPT of no type, no current VMCS", i_invept, at(descriptor), 17, CF);
}

/* ---- error numbers ---- */

static void bad_pointers(const char *what, const void *code, u64 address_error, u64 vmxon_error)
{
	pointer = at(vmcs_other) | 0x10;
	fails(what, code, at(&pointer), 0, address_error);
	pointer = at(vmcs_other) | 1ull << 63;
	fails(what, code, at(&pointer), 0, address_error);
	if (cap.physical < 52) {
		pointer = at(vmcs_other) | 1ull << cap.physical;
		fails(what, code, at(&pointer), 0, address_error);
	}
	pointer = at(vmxon_region);
	fails(what, code, at(&pointer), 0, vmxon_error);
}

static void pointer_errors(void)
{
	*(volatile u32 *)vmcs_other = cap.revision;
	bad_pointers("VMCLEAR of a bad pointer", i_vmclear, E_VMCLEAR_ADDRESS, E_VMCLEAR_VMXON);
	bad_pointers("VMPTRLD of a bad pointer", i_vmptrld, E_VMPTRLD_ADDRESS, E_VMPTRLD_VMXON);
	check(vmptrst() == at(vmcs_region), "the VMCS is current after failures: 0x%lx", vmptrst());
	pointer = at(vmcs_other);
	*(volatile u32 *)vmcs_other = cap.revision ^ 1;
	fails("VMPTRLD, wrong revision", i_vmptrld, at(&pointer), 0, E_VMPTRLD_REVISION);
	*(volatile u32 *)vmcs_other = cap.revision | 1u << 31;
	if (can_proc2(P2_SHADOWING)) {
		flags("VMPTRLD of a shadow VMCS", i_vmptrld, at(&pointer), 0, 0);
		pointer = at(vmcs_region);
		flags("VMPTRLD back", i_vmptrld, at(&pointer), 0, 0);
	} else {
		fails("VMPTRLD of a shadow VMCS", i_vmptrld, at(&pointer), 0, E_VMPTRLD_REVISION);
	}
	*(volatile u32 *)vmcs_other = cap.revision;
}

static void field_errors(void)
{
	u64 value = 0x5555;

	fails("VMREAD of no field", i_vmread, 0x7ffe, 0, E_FIELD);
	fails("VMREAD of a high half that is none", i_vmread, F_PIN | 1, 0, E_FIELD);
	fails("VMREAD, bit 15 of the encoding", i_vmread, F_PIN | 1 << 15, 0, E_FIELD);
	fails("VMREAD, bit 12 of the encoding", i_vmread, F_PIN | 1 << 12, 0, E_FIELD);
	fails("VMREAD, bit 31 of the encoding", i_vmread, F_PIN | 1ull << 31, 0, E_FIELD);
	fails("VMREAD, bit 32 of the encoding", i_vmread, F_PIN | 1ull << 32, 0, E_FIELD);
	fails("VMREAD, bit 63 of the encoding", i_vmread, F_PIN | 1ull << 63, 0, E_FIELD);
	fails("VMWRITE of no field", i_vmwrite, 0x7ffe, 0, E_FIELD);
	fails("VMWRITE, bit 32 of the encoding", i_vmwrite, F_PIN | 1ull << 32, 0, E_FIELD);
	if (cap.misc & MISC_WRITE_ANY)
		flags("VMWRITE of read-only data", i_vmwrite, F_REASON, 0, 0);
	else
		fails("VMWRITE of read-only data", i_vmwrite, F_REASON, 0, E_READONLY);
	check(vmread(0x7ffe, &value) == FAIL_VALID && value == 0x5555, "a failing VMREAD leaves its operand alone");
	flags("VMREAD", i_vmread, F_PIN, 0, 0);
	flags("VMWRITE", i_vmwrite, F_PIN, 0, 0);
}

static void memory_operands(void)
{
	static u64 memory;

	vm_put(F_GUEST_RIP, 0x123456789abcdef0);
	memory = 0;
	flags("VMREAD to memory", i_vmread_memory, F_GUEST_RIP, at(&memory), 0);
	check(memory == 0x123456789abcdef0, "VMREAD to memory: 0x%lx", memory);
	memory = ~0ull;
	vm_put(F_GUEST_CS_SEL, 0x1234);
	flags("VMREAD of 16 bits to memory", i_vmread_memory, F_GUEST_CS_SEL, at(&memory), 0);
	check(memory == 0x1234, "VMREAD of 16 bits writes 64: 0x%lx", memory);
	memory = 0xfedcba9876543210;
	flags("VMWRITE from memory", i_vmwrite_memory, F_GUEST_RSP, at(&memory), 0);
	check(vm_get(F_GUEST_RSP) == memory, "VMWRITE from memory: 0x%lx", vm_get(F_GUEST_RSP));
	check(run_code(i_vmread_memory, KERNEL, F_GUEST_RIP, bad_linear)->vector == V_PF && last_trap.error == 2,
	      "VMREAD to memory that is not there: vector %ld error 0x%lx", last_trap.vector, last_trap.error);
	check(run_code(i_vmwrite_memory, KERNEL, F_GUEST_RIP, bad_linear)->vector == V_PF && !last_trap.error,
	      "VMWRITE from memory that is not there: vector %ld error 0x%lx", last_trap.vector, last_trap.error);
	check(run_code(i_vmptrld, KERNEL, bad_linear, 0)->vector == V_PF, "VMPTRLD, operand not there");
	check(run_code(i_vmclear, KERNEL, bad_linear, 0)->vector == V_PF, "VMCLEAR, operand not there");
	check(run_code(i_vmptrst, KERNEL, bad_linear, 0)->vector == V_PF && last_trap.error == 2,
	      "VMPTRST, operand not there");
	if (can_ept(CAP_INVEPT))
		check(run_code(i_invept, KERNEL, bad_linear, INVEPT_ALL)->vector == V_PF, "INVEPT, operand not there");
}

static void other_errors(void)
{
	fails("VMCALL in root operation", i_vmcall, 0, 0, E_VMCALL_ROOT);
	pointer = at(vmxon_region);
	fails("VMXON in root operation", i_vmxon, at(&pointer), 0, E_VMXON_ROOT);
	fails("VMRESUME of a clear VMCS", i_vmresume, 0, 0, E_RESUME_NOT_LAUNCHED);
	fails("VMLAUNCH after MOV SS", i_movss_launch, 0, 0, E_MOVSS);
	fails("VMRESUME after MOV SS", i_movss_resume, 0, 0, E_MOVSS);
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
		if (offered(&all[i]))
			vector("in user mode of root operation", all[i].name,
			       run_code(all[i].code, USER, all[i].rdi < GIB && all[i].rdi > 1 << 20 ?
								   all[i].rdi + USER_BASE : all[i].rdi, all[i].rsi),
								   	V_GP);
	vector("in user mode of root operation", "VMXON", run_code(i_vmxon, USER, at(&pointer) + USER_BASE, 0), V_GP);
	vector("in root operation", "VMFUNC", run_code(i_vmfunc, KERNEL, 0, 0), V_UD);
	vector("in compatibility mode", "VMXON", run_code32(i_vmxon32, at(&pointer)), V_UD);
	vector("in compatibility mode", "VMCLEAR", run_code32(i_vmclear32, at(&pointer)), V_UD);
	vector("in compatibility mode", "VMREAD", run_code32(i_vmread32, F_PIN), V_UD);
	vector("in compatibility mode", "VMCALL", run_code32(i_vmcall32, 0), V_UD);
	vector("in compatibility mode", "VMLAUNCH", run_code32(i_vmlaunch32, 0), V_UD);
	vector("with an operand-size prefix", "VMREAD", run_code(i_vmread_66, KERNEL, F_PIN, 0), V_UD);
	vector("with LOCK", "VMREAD", run_code(i_vmread_lock, KERNEL, F_PIN, 0), V_UD);
	vector("with a register operand", "INVEPT", run_code(i_invept_register, KERNEL, 0, 0), V_UD);
}

static void invept_errors(void)
{
	if (!can_ept(CAP_INVEPT)) {
		skip("INVEPT");
		return;
	}
	descriptor[0] = descriptor[1] = 0;
	fails("INVEPT of type 0", i_invept, at(descriptor), 0, E_INVALIDATE);
	fails("INVEPT of type 3", i_invept, at(descriptor), 3, E_INVALIDATE);
	fails("INVEPT of type 2^32 + 1", i_invept, at(descriptor), 1ull << 32 | 1, E_INVALIDATE);
	fails("INVEPT of a bad EPTP", i_invept, at(descriptor), INVEPT_ONE, E_INVALIDATE);
	descriptor[0] = 1ull << 63 | 0x1e;
	fails("INVEPT of an EPTP too wide", i_invept, at(descriptor), INVEPT_ONE, E_INVALIDATE);
	descriptor[0] = eptp_of(ept_pml4, false);
	flags("INVEPT of one context", i_invept, at(descriptor), INVEPT_ONE, 0);
	flags("INVEPT of all", i_invept, at(descriptor), INVEPT_ALL, 0);
}

static void invvpid_errors(void)
{
	if (!(cap.ept_vpid & CAP_INVVPID)) {
		skip("INVVPID");
		return;
	}
	descriptor[0] = descriptor[1] = 0;
	fails("INVVPID of type 4", i_invvpid, at(descriptor), 4, E_INVALIDATE);
	fails("INVVPID of VPID 0", i_invvpid, at(descriptor), INVVPID_ONE, E_INVALIDATE);
	fails("INVVPID of an address of VPID 0", i_invvpid, at(descriptor), INVVPID_ADDRESS, E_INVALIDATE);
	fails("INVVPID of VPID 0 but for globals", i_invvpid, at(descriptor), INVVPID_KEEP, E_INVALIDATE);
	flags("INVVPID of all", i_invvpid, at(descriptor), INVVPID_ALL, 0);
	descriptor[0] = 0x10001;
	fails("INVVPID, reserved bits", i_invvpid, at(descriptor), INVVPID_ONE, E_INVALIDATE);
	descriptor[0] = 1ull << 63 | 1;
	fails("INVVPID of all, reserved bits", i_invvpid, at(descriptor), INVVPID_ONE, E_INVALIDATE);
	descriptor[0] = 1;
	flags("INVVPID of one context", i_invvpid, at(descriptor), INVVPID_ONE, 0);
	descriptor[1] = 1ull << 63;
	fails("INVVPID of an address that is not canonical", i_invvpid, at(descriptor), INVVPID_ADDRESS, E_INVALIDATE);
	flags("INVVPID of one context ignores the address", i_invvpid, at(descriptor), INVVPID_ONE, 0);
}

/* The launch state, and what a VMCS keeps when it is not current. */
static void launch_state(void)
{
	vmcs_current(vmcs_region);
	vm_good(LONG);
	if (!vm_run("the first entry", g_call) || !expect_call("the first entry", g_call))
		return;
	fails("VMLAUNCH of a launched VMCS", i_vmlaunch, 0, 0, E_LAUNCH_NOT_CLEAR);
	pointer = at(vmcs_other);
	flags("VMCLEAR of another", i_vmclear, at(&pointer), 0, 0);
	check(vmptrst() == at(vmcs_region), "VMCLEAR of another VMCS leaves the current one");
	vm_put(F_GUEST_RSP, 0x1122334455667788);
	vm_put(F_GUEST_CS_SEL, 0x4321);
	flags("VMPTRLD of another", i_vmptrld, at(&pointer), 0, 0);
	vm_put(F_GUEST_RSP, 7);
	fails("VMRESUME of the other", i_vmresume, 0, 0, E_RESUME_NOT_LAUNCHED);
	pointer = at(vmcs_region);
	flags("VMPTRLD back", i_vmptrld, at(&pointer), 0, 0);
	check(vm_get(F_GUEST_RSP) == 0x1122334455667788 && vm_get(F_GUEST_CS_SEL) == 0x4321,
	      "a VMCS keeps its fields: 0x%lx 0x%lx", vm_get(F_GUEST_RSP), vm_get(F_GUEST_CS_SEL));
	fails("VMLAUNCH, still launched", i_vmlaunch, 0, 0, E_LAUNCH_NOT_CLEAR);
	flags("VMCLEAR of the current one", i_vmclear, at(&pointer), 0, 0);
	no_current("after VMCLEAR");
	pointer = at(vmcs_region);
	flags("VMPTRLD of what was cleared", i_vmptrld, at(&pointer), 0, 0);
	check(vm_get(F_GUEST_RSP) == 0x1122334455667788, "a cleared VMCS keeps its fields: 0x%lx", vm_get(F_GUEST_RSP));
	fails("VMRESUME after VMCLEAR", i_vmresume, 0, 0, E_RESUME_NOT_LAUNCHED);
}

static void leave_and_return(void)
{
	flags("VMXOFF", i_vmxoff, 0, 0, 0);
	all_undefined("after VMXOFF");
	write_cr0(read_cr0() & ~(u64)CR0_NE);
	write_cr0(read_cr0() | CR0_NE);
	pointer = at(vmxon_region);
	flags("VMXON once more", i_vmxon, at(&pointer), 0, 0);
	no_current("after VMXON");
	vmcs_current(vmcs_region);
}

void group_instructions(void)
{
	before_vmxon();
	vmxon_failures();
	pointer = at(vmxon_region);
	flags("VMXON", i_vmxon, at(&pointer), 0, 0);
	restrictions();
	no_current("after VMXON");
	vmcs_current(vmcs_region);
	pointer_errors();
	field_errors();
	memory_operands();
	other_errors();
	invept_errors();
	invvpid_errors();
	launch_state();
	leave_and_return();
}
