/*
 * The VMX instructions: what each checks before it does anything, and its operands. What they do is in vmx.c and
 * vmx_entry.c, which a hypervisor outside the machine calls directly.
 *
 * Source: SDM volume 3, "VMX Instruction Reference". Left out: the dual-monitor treatment of SMIs.
 */
#include "cpu/insn_system.h"

#include "cpu/flags.h"
#include "cpu/record.h"
#include "cpu/vmx_vmcs.h"

/* ---- the exit in non-root operation ---- */

/* Registers are as wide as the mode has them, whatever the prefixes. */
static uint64_t register_operand(const struct cpu *cpu, uint8_t reg)
{
	return cpu->long_mode ? r64(cpu, reg) : r32(cpu, reg);
}

static uint32_t operand_info(const struct uop *u)
{
	if (u->flags & UOP_HAS_MEM)
		return vmx_insn_info_mem(u);
	return (uint32_t)(u->dst / 8 & 15) << INSN_INFO_REG1_SHIFT | INSN_INFO_REG_FORM;
}

static int exit_nonroot(struct cpu *cpu, const struct uop *u)
{
	uint64_t displacement = u->flags & UOP_HAS_MEM ? vmx_insn_displacement(cpu, u) : 0;
	uint32_t info = operand_info(u);

	switch (u->aux) {
	case EXIT_REASON_VMCALL: case EXIT_REASON_VMLAUNCH: case EXIT_REASON_VMRESUME: case EXIT_REASON_VMXOFF:
		return vmx_intercept(cpu, u, u->aux, 0);
	case EXIT_REASON_INVEPT: case EXIT_REASON_INVVPID:
		info |= (uint32_t)(u->dst / 8) << INSN_INFO_REG2_SHIFT;
		break;
	case EXIT_REASON_VMREAD: /* r/m, r */
		info |= (uint32_t)(u->src / 8) << INSN_INFO_REG2_SHIFT;
		break;
	case EXIT_REASON_VMWRITE: /* r, r/m */
		if (!(u->flags & UOP_HAS_MEM))
			info = (uint32_t)(u->src / 8) << INSN_INFO_REG1_SHIFT | INSN_INFO_REG_FORM;
		info |= (uint32_t)(u->dst / 8) << INSN_INFO_REG2_SHIFT;
		break;
	default:
		break;
	}
	return vmx_intercept_insn_info(cpu, u, u->aux, displacement, info);
}

/* VMCS shadowing lets some VMREADs and VMWRITEs through. */
static bool exits_nonroot(const struct cpu *cpu, const struct uop *u)
{
	uint8_t field = u->aux == EXIT_REASON_VMREAD ? u->src : u->dst;

	if (u->aux != EXIT_REASON_VMREAD && u->aux != EXIT_REASON_VMWRITE)
		return true;
	return vmx_field_exits(cpu, u->aux == EXIT_REASON_VMWRITE, register_operand(cpu, field));
}

/* ---- what all have in common ---- */

/* Modes that have no VMX instructions. */
static bool undefined_here(const struct cpu *cpu)
{
	return cpu_real_or_v86(cpu) || (cpu_lma(cpu) && !cpu->long_mode);
}

/* #UD, the VM exit, then #GP by privilege. 0: the instruction is executed. */
static int admit(struct cpu *cpu, const struct uop *u)
{
	bool modeless = u->aux == EXIT_REASON_VMCALL && cpu->vmx.nonroot;

	if (!cpu->vmx.on || (!modeless && undefined_here(cpu)))
		return raise_ud(cpu);
	return cpu->vmx.nonroot && exits_nonroot(cpu, u) ? exit_nonroot(cpu, u) : require_cpl0(cpu);
}

/* RFLAGS as "Conventions" has them: VMsucceed, VMfailInvalid, VMfailValid. */
static void report(struct cpu *cpu, enum vmx_result r)
{
	cpu->cc = r == VMX_FAIL_INVALID ? CC_CF : r == VMX_FAIL_VALID ? CC_ZF : 0;
}

/* Pointers to regions have 64 bits in every mode. 0 or EXEC_STOP. */
static int load_pointer(struct cpu *cpu, const struct uop *u, uint64_t *v)
{
	uint64_t lin;

	return ea(cpu, u, 8, ACCESS_READ, &lin) || ld64(cpu, lin, v) ? EXEC_STOP : 0;
}

/* ---- VMX operation ---- */

static int x_vmxon(struct cpu *cpu, const struct uop *u)
{
	uint64_t region = 0;
	int fault;

	if (cpu->vmx.on) {
		if (admit(cpu, u))
			return EXEC_STOP;
	} else {
		fault = vmx_vmxon_fault(cpu);
		if (fault >= 0)
			return fault == EXC_UD ? raise_ud(cpu) : raise_gp0(cpu);
		if (load_pointer(cpu, u, &region))
			return EXEC_STOP;
	}
	report(cpu, vmx_vmxon(cpu, hpa(region)));
	if (unlikely(cpu->recorder))
		record_vmxon(cpu);
	return EXEC_LEAVE;
}

static int x_vmxoff(struct cpu *cpu, const struct uop *u)
{
	if (admit(cpu, u))
		return EXEC_STOP;
	report(cpu, vmx_vmxoff(cpu));
	return EXEC_LEAVE;
}

/* In root operation it is for the SMM monitor, of which there is none. */
static int x_vmcall(struct cpu *cpu, const struct uop *u)
{
	if (admit(cpu, u))
		return EXEC_STOP;
	report(cpu, vmx_fail(cpu, VMXERR_VMCALL_ROOT));
	return EXEC_NEXT;
}

/* ---- VMCS pointers ---- */

static int x_vmclear(struct cpu *cpu, const struct uop *u)
{
	uint64_t region;

	if (admit(cpu, u) || load_pointer(cpu, u, &region))
		return EXEC_STOP;
	report(cpu, vmx_vmclear(cpu, hpa(region)));
	return EXEC_NEXT;
}

static int x_vmptrld(struct cpu *cpu, const struct uop *u)
{
	uint64_t region;

	if (admit(cpu, u) || load_pointer(cpu, u, &region))
		return EXEC_STOP;
	report(cpu, vmx_vmptrld(cpu, hpa(region)));
	return EXEC_NEXT;
}

static int x_vmptrst(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin;

	if (admit(cpu, u) || ea(cpu, u, 8, ACCESS_WRITE, &lin) || st64(cpu, lin, vmx_vmptrst(cpu)))
		return EXEC_STOP;
	report(cpu, VMX_SUCCEED);
	return EXEC_NEXT;
}

/* ---- VMREAD, VMWRITE ---- */

/* An encoding wider than 32 bits is of no field. */
static uint32_t field_operand(const struct cpu *cpu, uint8_t reg)
{
	uint64_t v = register_operand(cpu, reg);

	return v >> 32 ? UINT32_MAX : (uint32_t)v;
}

static int store_field(struct cpu *cpu, const struct uop *u, uint64_t v)
{
	uint64_t lin;

	if (!(u->flags & UOP_HAS_MEM)) {
		w64(cpu, u->dst, cpu->long_mode ? v : (uint32_t)v);
		return 0;
	}
	if (cpu->long_mode)
		return ea(cpu, u, 8, ACCESS_WRITE, &lin) || st64(cpu, lin, v) ? EXEC_STOP : 0;
	return ea(cpu, u, 4, ACCESS_WRITE, &lin) || st32(cpu, lin, (uint32_t)v) ? EXEC_STOP : 0;
}

static int x_vmread(struct cpu *cpu, const struct uop *u)
{
	enum vmx_result r;
	uint64_t v;

	if (admit(cpu, u))
		return EXEC_STOP;
	r = cpu->vmx.nonroot ? vmx_shadow_read(cpu, field_operand(cpu, u->src), &v)
			     : vmx_vmread(cpu, field_operand(cpu, u->src), &v);
	if (r == VMX_SUCCEED && store_field(cpu, u, v))
		return EXEC_STOP;
	report(cpu, r);
	return EXEC_NEXT;
}

static int load_value(struct cpu *cpu, const struct uop *u, uint64_t *v)
{
	uint64_t lin;
	uint32_t half;

	if (!(u->flags & UOP_HAS_MEM)) {
		*v = register_operand(cpu, u->src);
		return 0;
	}
	if (cpu->long_mode)
		return load_pointer(cpu, u, v);
	if (ea(cpu, u, 4, ACCESS_READ, &lin) || ld32(cpu, lin, &half))
		return EXEC_STOP;
	*v = half;
	return 0;
}

static int x_vmwrite(struct cpu *cpu, const struct uop *u)
{
	uint64_t v;

	if (admit(cpu, u) || load_value(cpu, u, &v))
		return EXEC_STOP;
	report(cpu, cpu->vmx.nonroot ? vmx_shadow_write(cpu, field_operand(cpu, u->dst), v)
				     : vmx_vmwrite(cpu, field_operand(cpu, u->dst), v));
	return EXEC_NEXT;
}

/* ---- INVEPT, INVVPID ---- */

static int load_descriptor(struct cpu *cpu, const struct uop *u, struct u128 *d)
{
	uint64_t lin;

	return ea(cpu, u, 16, ACCESS_READ, &lin) || ld128(cpu, lin, d) ? EXEC_STOP : 0;
}

/* Of a type that does not exist the descriptor is not read. */
static int x_invept(struct cpu *cpu, const struct uop *u)
{
	uint64_t type = register_operand(cpu, u->dst);
	struct u128 d = {0, 0};

	if (admit(cpu, u))
		return EXEC_STOP;
	if ((type == INVEPT_SINGLE || type == INVEPT_ALL) && load_descriptor(cpu, u, &d))
		return EXEC_STOP;
	report(cpu, vmx_invept(cpu, type, d.lo));
	return EXEC_LEAVE;
}

static int x_invvpid(struct cpu *cpu, const struct uop *u)
{
	uint64_t type = register_operand(cpu, u->dst);
	struct u128 d = {0, 0};

	if (admit(cpu, u))
		return EXEC_STOP;
	if (type <= INVVPID_SINGLE_KEEP_GLOBALS && load_descriptor(cpu, u, &d))
		return EXEC_STOP;
	if (d.lo >> 16)
		report(cpu, vmx_fail(cpu, VMXERR_INV_OPERAND));
	else
		report(cpu, vmx_invvpid(cpu, type, (uint16_t)d.lo, gva(d.hi)));
	return EXEC_LEAVE;
}

/* ---- VM entry ---- */

/*
 * On success RIP is the guest's, or the host's if the entry itself ended in a VM exit. The single step that RFLAGS.TF
 * asks for in root operation does not come then (SDM "Single Stepping").
 */
static int x_vmenter(struct cpu *cpu, const struct uop *u)
{
	uint64_t next = uop_next_rip(cpu, u);
	enum vmx_result r;
	bool exited;

	if (admit(cpu, u))
		return EXEC_STOP;
	cpu->shadow_movss = cpu->behind_movss;
	r = vmx_enter(cpu, u->aux == EXIT_REASON_VMLAUNCH, &exited);
	cpu->stop = (struct stop){0};
	if (r == VMX_SUCCEED) {
		cpu->tf_after = true;
		return EXEC_LEAVE;
	}
	cpu->shadow_movss = false;
	report(cpu, r);
	cpu->gpr[REG_RIP] = next;
	return EXEC_LEAVE;
}

/* ---- VM functions: in non-root operation only, at any privilege ---- */

static int x_vmfunc(struct cpu *cpu, const struct uop *u)
{
	uint32_t function = (uint32_t)cpu->gpr[RAX];

	if (!vmx_proc2(cpu, PROC2_VM_FUNCTIONS) || function > VM_FUNCTION_MAX)
		return raise_ud(cpu);
	if (!vmx_function(cpu, function, (uint32_t)cpu->gpr[RCX]))
		return vmx_intercept(cpu, u, EXIT_REASON_VMFUNC, 0);
	return EXEC_LEAVE;
}

static const struct sys_insn vmx_table[] = {
	{ZYDIS_MNEMONIC_VMCALL, x_vmcall, SYS_ENDS, NO_FEATURE, EXIT_REASON_VMCALL},
	{ZYDIS_MNEMONIC_VMLAUNCH, x_vmenter, SYS_RIP | SYS_ALONE, NO_FEATURE, EXIT_REASON_VMLAUNCH},
	{ZYDIS_MNEMONIC_VMRESUME, x_vmenter, SYS_RIP | SYS_ALONE, NO_FEATURE, EXIT_REASON_VMRESUME},
	{ZYDIS_MNEMONIC_VMXOFF, x_vmxoff, SYS_ENDS, NO_FEATURE, EXIT_REASON_VMXOFF},
	{ZYDIS_MNEMONIC_VMXON, x_vmxon, SYS_ENDS, NO_FEATURE, EXIT_REASON_VMXON},
	{ZYDIS_MNEMONIC_VMCLEAR, x_vmclear, 0, NO_FEATURE, EXIT_REASON_VMCLEAR},
	{ZYDIS_MNEMONIC_VMPTRLD, x_vmptrld, 0, NO_FEATURE, EXIT_REASON_VMPTRLD},
	{ZYDIS_MNEMONIC_VMPTRST, x_vmptrst, 0, NO_FEATURE, EXIT_REASON_VMPTRST},
	{ZYDIS_MNEMONIC_VMREAD, x_vmread, 0, NO_FEATURE, EXIT_REASON_VMREAD},
	{ZYDIS_MNEMONIC_VMWRITE, x_vmwrite, 0, NO_FEATURE, EXIT_REASON_VMWRITE},
	{ZYDIS_MNEMONIC_VMFUNC, x_vmfunc, SYS_ENDS, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_INVEPT, x_invept, SYS_ENDS, NO_FEATURE, EXIT_REASON_INVEPT},
	{ZYDIS_MNEMONIC_INVVPID, x_invvpid, SYS_ENDS, NO_FEATURE, EXIT_REASON_INVVPID},
};

bool lower_vmx(struct insn *in, struct uop *u) { return lower_from_table(in, u, vmx_table, ARRAY_SIZE(vmx_table)); }
