/*
 * Bit manipulation on general registers (BMI1, BMI2) and MOVBE.
 *
 * What has flags, and the bit gathering ones, runs on the host's own units (alu.h); the processor
 * shows these features only where the host has them. LZCNT and TZCNT are with the bit scans
 * in insn_int.c, whose encodings they share.
 *
 * Source: SDM volume 2, the instructions' pages and "VEX-Encoded GPR Instructions".
 */
#include "cpu/access.h"
#include "cpu/alu.h"
#include "cpu/decode.h"

/* VEX prefixes exist in protected mode only. */
static ALWAYS_INLINE bool vex_undefined(const struct cpu *cpu)
{
	return unlikely(cpu->code_bits != 64) && (!(cpu->cr0 & CR0_PE) || (cpu->rflags & RF_VM));
}

/*
 * Uops: dst is the register written, src the rm operand if it is a register, aux the register of
 * VEX.vvvv (MULX: the second one written), imm the count of RORX.
 */
#define DEFINE_SOURCE(bits, T)                                                                  \
	static ALWAYS_INLINE int source##bits(struct cpu *cpu, const struct uop *u, T *out)      \
	{                                                                                       \
		uint64_t lin;                                                                   \
                                                                                                \
		if (vex_undefined(cpu))                                                         \
			return raise_ud(cpu);                                                   \
		if (!(u->flags & UOP_HAS_MEM)) {                                                \
			*out = r##bits(cpu, u->src);                                            \
			return 0;                                                               \
		}                                                                               \
		return ea(cpu, u, sizeof(T), ACCESS_READ, &lin) || ld##bits(cpu, lin, out) ? EXEC_STOP : 0; \
	}
DEFINE_SOURCE(32, uint32_t)
DEFINE_SOURCE(64, uint64_t)

/* @expr: of m, the rm operand, and v, that of VEX.vvvv */
#define EXEC_BMI_SIZE(bits, T, name, expr)                                      \
	static int x_##name##bits(struct cpu *cpu, const struct uop *u)         \
	{                                                                       \
		T v = r##bits(cpu, (uint8_t)u->aux), m;                         \
                                                                                \
		if (source##bits(cpu, u, &m))                                   \
			return EXEC_STOP;                                       \
		w##bits(cpu, u->dst, expr);                                     \
		return EXEC_NEXT;                                               \
	}
#define EXEC_BMI(name, expr32, expr64)                  \
	EXEC_BMI_SIZE(32, uint32_t, name, expr32)       \
	EXEC_BMI_SIZE(64, uint64_t, name, expr64)
#define EXEC_BMI_ALU(name) EXEC_BMI(name, alu_##name##32(m, v, &cpu->cc), alu_##name##64(m, v, &cpu->cc))
#define EXEC_BMI_UNARY(name) EXEC_BMI(name, ((void)v, alu_##name##32(m, &cpu->cc)), ((void)v, alu_##name##64(m, &cpu->cc)))

EXEC_BMI_ALU(andn)
EXEC_BMI_ALU(bextr)
EXEC_BMI_ALU(bzhi)
EXEC_BMI_ALU(pdep)
EXEC_BMI_ALU(pext)
EXEC_BMI_UNARY(blsi)
EXEC_BMI_UNARY(blsmsk)
EXEC_BMI_UNARY(blsr)
EXEC_BMI(shlx, m << (v & 31), m << (v & 63))
EXEC_BMI(shrx, m >> (v & 31), m >> (v & 63))
EXEC_BMI(sarx, (uint32_t)((int32_t)m >> (v & 31)), (uint64_t)((int64_t)m >> (v & 63)))

static int x_rorx32(struct cpu *cpu, const struct uop *u)
{
	unsigned n = u->imm & 31;
	uint32_t m;

	if (source32(cpu, u, &m))
		return EXEC_STOP;
	w32(cpu, u->dst, n ? m >> n | m << (32 - n) : m);
	return EXEC_NEXT;
}

static int x_rorx64(struct cpu *cpu, const struct uop *u)
{
	unsigned n = u->imm & 63;
	uint64_t m;

	if (source64(cpu, u, &m))
		return EXEC_STOP;
	w64(cpu, u->dst, n ? m >> n | m << (64 - n) : m);
	return EXEC_NEXT;
}

/* If both destinations are one register it has the high half. */
static int x_mulx32(struct cpu *cpu, const struct uop *u)
{
	uint32_t m;
	uint64_t p;

	if (source32(cpu, u, &m))
		return EXEC_STOP;
	p = (uint64_t)r32(cpu, REG_OFF(RDX)) * m;
	w32(cpu, (uint8_t)u->aux, (uint32_t)p);
	w32(cpu, u->dst, (uint32_t)(p >> 32));
	return EXEC_NEXT;
}

static int x_mulx64(struct cpu *cpu, const struct uop *u)
{
	__extension__ unsigned __int128 p;
	uint64_t m;

	if (source64(cpu, u, &m))
		return EXEC_STOP;
	p = cpu->gpr[RDX];
	p *= m;
	w64(cpu, (uint8_t)u->aux, (uint64_t)p);
	w64(cpu, u->dst, (uint64_t)(p >> 64));
	return EXEC_NEXT;
}

/* ---- MOVBE: dst is the register ---- */

#define EXEC_MOVBE(bits, T)                                                                     \
	static int x_movbe_load##bits(struct cpu *cpu, const struct uop *u)                     \
	{                                                                                       \
		uint64_t lin;                                                                   \
		T v;                                                                            \
                                                                                                \
		if (ea(cpu, u, sizeof(T), ACCESS_READ, &lin) || ld##bits(cpu, lin, &v))         \
			return EXEC_STOP;                                                       \
		w##bits(cpu, u->dst, __builtin_bswap##bits(v));                                 \
		return EXEC_NEXT;                                                               \
	}                                                                                       \
	static int x_movbe_store##bits(struct cpu *cpu, const struct uop *u)                    \
	{                                                                                       \
		uint64_t lin;                                                                   \
                                                                                                \
		if (ea(cpu, u, sizeof(T), ACCESS_WRITE, &lin) ||                                \
		    st##bits(cpu, lin, __builtin_bswap##bits(r##bits(cpu, u->dst))))            \
			return EXEC_STOP;                                                       \
		return EXEC_NEXT;                                                               \
	}
EXEC_MOVBE(16, uint16_t)
EXEC_MOVBE(32, uint32_t)
EXEC_MOVBE(64, uint64_t)

/* ---- lowering ---- */

static bool lower_movbe(struct insn *in, struct uop *u)
{
	static const exec_fn fn[2][3] = {{x_movbe_load16, x_movbe_load32, x_movbe_load64},
					 {x_movbe_store16, x_movbe_store32, x_movbe_store64}};
	bool store = op_is_mem(in, 0);

	u->dst = zreg_off(in->op[store].reg.value);
	u->exec = cpu_has(in->cpu, CPUF_MOVBE) && !(u->flags & UOP_LOCK) ? fn[store][__builtin_ctz(u->opsize) - 1] : exec_ud;
	return true;
}

static const struct { ZydisMnemonic m; enum cpu_feature feature; exec_fn fn[2]; } list[] = {
#define ENTRY(M, name, feature) {ZYDIS_MNEMONIC_##M, feature, {x_##name##32, x_##name##64}}
	ENTRY(ANDN, andn, CPUF_BMI1), ENTRY(BEXTR, bextr, CPUF_BMI1), ENTRY(BLSI, blsi, CPUF_BMI1),
	ENTRY(BLSMSK, blsmsk, CPUF_BMI1), ENTRY(BLSR, blsr, CPUF_BMI1),
	ENTRY(BZHI, bzhi, CPUF_BMI2), ENTRY(PDEP, pdep, CPUF_BMI2), ENTRY(PEXT, pext, CPUF_BMI2),
	ENTRY(SHLX, shlx, CPUF_BMI2), ENTRY(SHRX, shrx, CPUF_BMI2), ENTRY(SARX, sarx, CPUF_BMI2),
	ENTRY(RORX, rorx, CPUF_BMI2), ENTRY(MULX, mulx, CPUF_BMI2),
#undef ENTRY
};

/* Registers by where the encoding has them; the one that is written is the first of them all. */
static void place_operands(const struct insn *in, struct uop *u)
{
	for (unsigned i = 0; i < in->z.operand_count_visible; i++) {
		const ZydisDecodedOperand *o = &in->op[i];

		if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
			u->imm = o->imm.value.u;
		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		if (o->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD)
			u->aux = zreg_off(o->reg.value);
		if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
			u->src = zreg_off(o->reg.value);
	}
	u->dst = zreg_off(in->op[0].reg.value);
}

bool lower_bmi(struct insn *in, struct uop *u)
{
	if (in->z.mnemonic == ZYDIS_MNEMONIC_MOVBE)
		return lower_movbe(in, u);
	if (in->z.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		if (list[i].m != in->z.mnemonic)
			continue;
		place_operands(in, u);
		u->exec = cpu_has(in->cpu, list[i].feature) ? list[i].fn[in->op[0].size == 64] : exec_ud;
		return true;
	}
	return false;
}
