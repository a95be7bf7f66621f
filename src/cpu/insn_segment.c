/*
 * Instructions that read and load segment registers: MOV, PUSH, POP, LDS, LES,
 * LSS, LFS, LGS, SWAPGS, RDFSBASE and its kin.
 *
 * Source: SDM volume 2.
 */
#include "cpu/insn_system.h"

/*
 * After a load of segment register @reg. Outside 64-bit mode a load may change how
 * addresses and the stack work, and MOV or POP to SS holds off interrupts.
 */
static int loaded(struct cpu *cpu, unsigned reg, bool blocks)
{
	if (reg == SEG_SS && blocks)
		cpu->shadow_movss = true;
	if (!cpu->long_mode || reg == SEG_SS) {
		cpu_update_mode(cpu);
		return EXEC_LEAVE;
	}
	return EXEC_NEXT;
}

static int x_mov_to_seg(struct cpu *cpu, const struct uop *u)
{
	uint16_t sel;

	if (load_rm16(cpu, u, u->src, &sel) || seg_load(cpu, u->dst, sel))
		return EXEC_STOP;
	return loaded(cpu, u->dst, true);
}

static int x_mov_from_seg(struct cpu *cpu, const struct uop *u)
{
	return store_rm16(cpu, u, cpu->seg[u->src].sel) ? EXEC_STOP : EXEC_NEXT;
}

/* A push of a 32-bit slot writes the selector only: the rest of the slot keeps its value (SDM "PUSH"). */
static int x_push_seg(struct cpu *cpu, const struct uop *u)
{
	unsigned written = u->opsize == 4 ? 2 : u->opsize;
	struct fstack st;

	fstack_current(cpu, &st);
	st.sp = (st.sp - u->opsize + written) & st.mask;
	if (fstack_push(cpu, &st, written, cpu->seg[u->dst].sel))
		return EXEC_STOP;
	fstack_commit(cpu, &st);
	return EXEC_NEXT;
}

static int x_pop_seg(struct cpu *cpu, const struct uop *u)
{
	struct fstack st;
	uint64_t v;

	fstack_current(cpu, &st);
	if (fstack_pop(cpu, &st, u->opsize, &v) || seg_load(cpu, u->dst, (uint16_t)v))
		return EXEC_STOP;
	fstack_commit(cpu, &st);
	return loaded(cpu, u->dst, true);
}

/* LDS, LES, LSS, LFS, LGS: the segment register is in aux. */
static int x_load_far_pointer(struct cpu *cpu, const struct uop *u)
{
	uint8_t b[10] = {0};
	uint64_t lin;

	if (ea(cpu, u, u->opsize + 2u, ACCESS_READ, &lin) || mem_read(cpu, lin, b, u->opsize + 2u) ||
	    seg_load(cpu, u->aux, get_u16(b + u->opsize)))
		return EXEC_STOP;
	if (u->opsize == 2)
		w16(cpu, u->dst, get_u16(b));
	else if (u->opsize == 4)
		w32(cpu, u->dst, get_u32(b));
	else
		w64(cpu, u->dst, get_u64(b));
	return loaded(cpu, u->aux, false);
}

/* ---- FS and GS bases ---- */

static int x_swapgs(struct cpu *cpu, const struct uop *u)
{
	uint64_t base = cpu->seg[SEG_GS].base;

	(void)u;
	if (require_cpl0(cpu))
		return EXEC_STOP;
	cpu->seg[SEG_GS].base = cpu->seg_base_eff[SEG_GS] = cpu->msr.kernel_gs_base;
	cpu->msr.kernel_gs_base = base;
	return EXEC_NEXT;
}

static int x_read_base(struct cpu *cpu, const struct uop *u)
{
	uint64_t base = cpu->seg[u->aux].base;

	if (!(cpu->cr4 & CR4_FSGSBASE))
		return raise_ud(cpu);
	w64(cpu, u->dst, u->opsize == 8 ? base : (uint32_t)base);
	return EXEC_NEXT;
}

static int x_write_base(struct cpu *cpu, const struct uop *u)
{
	uint64_t base = u->opsize == 8 ? r64(cpu, u->dst) : r32(cpu, u->dst);

	if (!(cpu->cr4 & CR4_FSGSBASE))
		return raise_ud(cpu);
	if (!cpu_canonical_base(cpu, base))
		return raise_gp0(cpu);
	cpu->seg[u->aux].base = cpu->seg_base_eff[u->aux] = base;
	return EXEC_NEXT;
}

/* ---- lowering ---- */

static const struct sys_insn segment_table[] = {
	{ZYDIS_MNEMONIC_LES, x_load_far_pointer, SYS_ENDS | SYS_MEM | SYS_NOT64, NO_FEATURE, SEG_ES},
	{ZYDIS_MNEMONIC_LDS, x_load_far_pointer, SYS_ENDS | SYS_MEM | SYS_NOT64, NO_FEATURE, SEG_DS},
	{ZYDIS_MNEMONIC_LSS, x_load_far_pointer, SYS_ENDS | SYS_MEM, NO_FEATURE, SEG_SS},
	{ZYDIS_MNEMONIC_LFS, x_load_far_pointer, SYS_ENDS | SYS_MEM, NO_FEATURE, SEG_FS},
	{ZYDIS_MNEMONIC_LGS, x_load_far_pointer, SYS_ENDS | SYS_MEM, NO_FEATURE, SEG_GS},
	{ZYDIS_MNEMONIC_SWAPGS, x_swapgs, SYS_64, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_RDFSBASE, x_read_base, SYS_64 | SYS_REG, CPUF_FSGSBASE, SEG_FS},
	{ZYDIS_MNEMONIC_RDGSBASE, x_read_base, SYS_64 | SYS_REG, CPUF_FSGSBASE, SEG_GS},
	{ZYDIS_MNEMONIC_WRFSBASE, x_write_base, SYS_64 | SYS_REG, CPUF_FSGSBASE, SEG_FS},
	{ZYDIS_MNEMONIC_WRGSBASE, x_write_base, SYS_64 | SYS_REG, CPUF_FSGSBASE, SEG_GS},
};

/* Opcodes of MOV, PUSH and POP whose operand is a segment register. */
static const struct sys_insn mov_to[] = {{ZYDIS_MNEMONIC_MOV, x_mov_to_seg, 0, NO_FEATURE, 0}};
static const struct sys_insn mov_from[] = {{ZYDIS_MNEMONIC_MOV, x_mov_from_seg, 0, NO_FEATURE, 0}};
static const struct sys_insn push[] = {{ZYDIS_MNEMONIC_PUSH, x_push_seg, 0, NO_FEATURE, 0}};
static const struct sys_insn pop[] = {{ZYDIS_MNEMONIC_POP, x_pop_seg, 0, NO_FEATURE, 0}};

static bool is_segment(const struct insn *in, unsigned n)
{
	return in->z.operand_count > n && op_is_reg(in, n) && in->op[n].reg.value >= ZYDIS_REGISTER_ES &&
	       in->op[n].reg.value <= ZYDIS_REGISTER_GS;
}

static void finish_load(struct insn *in, struct uop *u, unsigned reg)
{
	if (reg == SEG_CS)
		u->exec = exec_ud;
	if (in->mode_bits != 64 || reg == SEG_SS)
		in->ends_block = true;
}

static void stack_operand_size(const struct insn *in, struct uop *u)
{
	bool prefix = in->z.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE;

	if (in->mode_bits == 64)
		u->opsize = prefix && !in->z.raw.rex.W ? 2 : 8;
	else
		u->opsize = (in->mode_bits == 32) != prefix ? 4 : 2;
}

static bool lower_moves(struct insn *in, struct uop *u)
{
	bool to = is_segment(in, 0);

	if (in->z.mnemonic == ZYDIS_MNEMONIC_MOV && to && lower_from_table(in, u, mov_to, 1)) {
		finish_load(in, u, u->dst);
		return true;
	}
	if (in->z.mnemonic == ZYDIS_MNEMONIC_MOV && is_segment(in, 1))
		return lower_from_table(in, u, mov_from, 1);
	if (in->z.mnemonic == ZYDIS_MNEMONIC_PUSH && to && lower_from_table(in, u, push, 1)) {
		stack_operand_size(in, u);
		return true;
	}
	if (in->z.mnemonic == ZYDIS_MNEMONIC_POP && to && lower_from_table(in, u, pop, 1)) {
		stack_operand_size(in, u);
		finish_load(in, u, u->dst);
		return true;
	}
	return false;
}

bool lower_segment(struct insn *in, struct uop *u)
{
	return lower_moves(in, u) || lower_from_table(in, u, segment_table, ARRAY_SIZE(segment_table));
}
