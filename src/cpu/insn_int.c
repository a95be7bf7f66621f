/*
 * Integer instructions: moves, ALU operations, shifts, bit operations,
 * multiplication and division, exchanges, flags, decimal adjustment, and the
 * stack's PUSH and POP of general registers.
 *
 * Each operation is written once per operand size by macro and comes in the
 * operand forms the instruction set has: RR (reg, reg), RI (reg, imm), RM (reg,
 * mem), MR (mem, reg), MI (mem, imm).
 */
#include "cpu/access.h"
#include "cpu/alu.h"
#include "cpu/decode.h"
#include "cpu/flags.h"
#include "cpu/stack.h"

/* ---- ADD OR ADC SBB AND SUB XOR (write back), CMP TEST (do not) ---- */

#define EXEC_ALU(bits, T, S, C, name, fn)                                                               \
	static int x_##name##_rr##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		w##bits(cpu, u->dst, fn##bits(r##bits(cpu, u->dst), r##bits(cpu, u->src), &cpu->cc));   \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_##name##_ri##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		w##bits(cpu, u->dst, fn##bits(r##bits(cpu, u->dst), (T)u->imm, &cpu->cc));              \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_##name##_rm##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		uint64_t lin;                                                                           \
		T v;                                                                                    \
		if (ea(cpu, u, sizeof(T), ACCESS_READ, &lin) || ld##bits(cpu, lin, &v))                 \
			return EXEC_STOP;                                                               \
		w##bits(cpu, u->dst, fn##bits(r##bits(cpu, u->dst), v, &cpu->cc));                      \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static ALWAYS_INLINE int x_##name##_m##bits(struct cpu *cpu, const struct uop *u, T b)          \
	{                                                                                               \
		uint16_t cc = cpu->cc;                                                                  \
		uint64_t lin;                                                                           \
		T v;                                                                                    \
		if (ea(cpu, u, sizeof(T), ACCESS_WRITE, &lin) || rmw##bits(cpu, lin, &v))               \
			return EXEC_STOP;                                                               \
		v = fn##bits(v, b, &cc);                                                                \
		if (st##bits(cpu, lin, v))                                                              \
			return EXEC_STOP;                                                               \
		cpu->cc = cc;                                                                           \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_##name##_mr##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		return x_##name##_m##bits(cpu, u, r##bits(cpu, u->src));                                \
	}                                                                                               \
	static int x_##name##_mi##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		return x_##name##_m##bits(cpu, u, (T)u->imm);                                           \
	}
ALU_SIZES(EXEC_ALU, add, alu_add)
ALU_SIZES(EXEC_ALU, or, alu_or)
ALU_SIZES(EXEC_ALU, adc, alu_adc)
ALU_SIZES(EXEC_ALU, sbb, alu_sbb)
ALU_SIZES(EXEC_ALU, and, alu_and)
ALU_SIZES(EXEC_ALU, sub, alu_sub)
ALU_SIZES(EXEC_ALU, xor, alu_xor)

#define EXEC_COMPARE(bits, T, S, C, name, fn)                                                           \
	static int x_##name##_rr##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		fn##bits(r##bits(cpu, u->dst), r##bits(cpu, u->src), &cpu->cc);                         \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_##name##_ri##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		fn##bits(r##bits(cpu, u->dst), (T)u->imm, &cpu->cc);                                    \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static ALWAYS_INLINE int x_##name##_load##bits(struct cpu *cpu, const struct uop *u, T *v)      \
	{                                                                                               \
		uint64_t lin;                                                                           \
		return ea(cpu, u, sizeof(T), ACCESS_READ, &lin) || ld##bits(cpu, lin, v);               \
	}                                                                                               \
	static int x_##name##_rm##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		T v;                                                                                    \
		if (x_##name##_load##bits(cpu, u, &v))                                                  \
			return EXEC_STOP;                                                               \
		fn##bits(r##bits(cpu, u->dst), v, &cpu->cc);                                            \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_##name##_mr##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		T v;                                                                                    \
		if (x_##name##_load##bits(cpu, u, &v))                                                  \
			return EXEC_STOP;                                                               \
		fn##bits(v, r##bits(cpu, u->src), &cpu->cc);                                            \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_##name##_mi##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		T v;                                                                                    \
		if (x_##name##_load##bits(cpu, u, &v))                                                  \
			return EXEC_STOP;                                                               \
		fn##bits(v, (T)u->imm, &cpu->cc);                                                       \
		return EXEC_NEXT;                                                                       \
	}
ALU_SIZES(EXEC_COMPARE, cmp, alu_sub)
ALU_SIZES(EXEC_COMPARE, test, alu_and)

/* ---- INC DEC NEG NOT ---- */

#define not_op(bits, T) \
	static inline T alu_not##bits(T a, uint16_t *cc) { (void)cc; return (T)~a; }
not_op(8, uint8_t) not_op(16, uint16_t) not_op(32, uint32_t) not_op(64, uint64_t)

#define EXEC_UNARY(bits, T, S, C, name, fn)                                                             \
	static int x_##name##_r##bits(struct cpu *cpu, const struct uop *u)                             \
	{                                                                                               \
		w##bits(cpu, u->dst, fn##bits(r##bits(cpu, u->dst), &cpu->cc));                         \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_##name##_m##bits(struct cpu *cpu, const struct uop *u)                             \
	{                                                                                               \
		uint16_t cc = cpu->cc;                                                                  \
		uint64_t lin;                                                                           \
		T v;                                                                                    \
		if (ea(cpu, u, sizeof(T), ACCESS_WRITE, &lin) || rmw##bits(cpu, lin, &v))               \
			return EXEC_STOP;                                                               \
		v = fn##bits(v, &cc);                                                                   \
		if (st##bits(cpu, lin, v))                                                              \
			return EXEC_STOP;                                                               \
		cpu->cc = cc;                                                                           \
		return EXEC_NEXT;                                                                       \
	}
ALU_SIZES(EXEC_UNARY, inc, alu_inc)
ALU_SIZES(EXEC_UNARY, dec, alu_dec)
ALU_SIZES(EXEC_UNARY, neg, alu_neg)
ALU_SIZES(EXEC_UNARY, not, alu_not)

/* ---- moves ---- */

#define EXEC_MOV(bits, T, S, C, ...)                                                                    \
	static int x_mov_rr##bits(struct cpu *cpu, const struct uop *u)                                 \
	{                                                                                               \
		w##bits(cpu, u->dst, r##bits(cpu, u->src));                                             \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_mov_ri##bits(struct cpu *cpu, const struct uop *u)                                 \
	{                                                                                               \
		w##bits(cpu, u->dst, (T)u->imm);                                                        \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_mov_rm##bits(struct cpu *cpu, const struct uop *u)                                 \
	{                                                                                               \
		uint64_t lin;                                                                           \
		T v;                                                                                    \
		if (ea(cpu, u, sizeof(T), ACCESS_READ, &lin) || ld##bits(cpu, lin, &v))                 \
			return EXEC_STOP;                                                               \
		w##bits(cpu, u->dst, v);                                                                \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_mov_mr##bits(struct cpu *cpu, const struct uop *u)                                 \
	{                                                                                               \
		uint64_t lin;                                                                           \
		return ea(cpu, u, sizeof(T), ACCESS_WRITE, &lin) || st##bits(cpu, lin, r##bits(cpu, u->src)) \
			       ? EXEC_STOP                                                              \
			       : EXEC_NEXT;                                                             \
	}                                                                                               \
	static int x_mov_mi##bits(struct cpu *cpu, const struct uop *u)                                 \
	{                                                                                               \
		uint64_t lin;                                                                           \
		return ea(cpu, u, sizeof(T), ACCESS_WRITE, &lin) || st##bits(cpu, lin, (T)u->imm)       \
			       ? EXEC_STOP                                                              \
			       : EXEC_NEXT;                                                             \
	}                                                                                               \
	static int x_xchg_rr##bits(struct cpu *cpu, const struct uop *u)                                \
	{                                                                                               \
		T a = r##bits(cpu, u->dst), b = r##bits(cpu, u->src);                                   \
		w##bits(cpu, u->dst, b);                                                                \
		w##bits(cpu, u->src, a);                                                                \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_xchg_mr##bits(struct cpu *cpu, const struct uop *u)                                \
	{                                                                                               \
		uint64_t lin;                                                                           \
		T v;                                                                                    \
		if (ea(cpu, u, sizeof(T), ACCESS_WRITE, &lin) || rmw##bits(cpu, lin, &v) ||             \
		    st##bits(cpu, lin, r##bits(cpu, u->src)))                                           \
			return EXEC_STOP;                                                               \
		w##bits(cpu, u->src, v);                                                                \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_xadd_rr##bits(struct cpu *cpu, const struct uop *u)                                \
	{                                                                                               \
		T a = r##bits(cpu, u->dst), sum = alu_add##bits(a, r##bits(cpu, u->src), &cpu->cc);     \
		w##bits(cpu, u->src, a);                                                                \
		w##bits(cpu, u->dst, sum);                                                              \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_xadd_mr##bits(struct cpu *cpu, const struct uop *u)                                \
	{                                                                                               \
		uint16_t cc;                                                                            \
		uint64_t lin;                                                                           \
		T v;                                                                                    \
		if (ea(cpu, u, sizeof(T), ACCESS_WRITE, &lin) || rmw##bits(cpu, lin, &v) ||             \
		    st##bits(cpu, lin, alu_add##bits(v, r##bits(cpu, u->src), &cc)))                    \
			return EXEC_STOP;                                                               \
		w##bits(cpu, u->src, v);                                                                \
		cpu->cc = cc;                                                                           \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_cmpxchg_rr##bits(struct cpu *cpu, const struct uop *u)                             \
	{                                                                                               \
		T old = r##bits(cpu, u->dst), acc = r##bits(cpu, REG_OFF(RAX));                         \
		alu_sub##bits(acc, old, &cpu->cc);                                                      \
		if (acc == old)                                                                         \
			w##bits(cpu, u->dst, r##bits(cpu, u->src));                                     \
		else                                                                                    \
			w##bits(cpu, REG_OFF(RAX), old);                                                \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	/* The destination is written either way: a failed comparison stores the old value back. */    \
	static int x_cmpxchg_mr##bits(struct cpu *cpu, const struct uop *u)                             \
	{                                                                                               \
		T v, acc = r##bits(cpu, REG_OFF(RAX));                                                  \
		uint64_t lin;                                                                           \
		if (ea(cpu, u, sizeof(T), ACCESS_WRITE, &lin) || rmw##bits(cpu, lin, &v) ||             \
		    st##bits(cpu, lin, acc == v ? r##bits(cpu, u->src) : v))                            \
			return EXEC_STOP;                                                               \
		alu_sub##bits(acc, v, &cpu->cc);                                                        \
		if (acc != v)                                                                           \
			w##bits(cpu, REG_OFF(RAX), v);                                                  \
		return EXEC_NEXT;                                                                       \
	}
ALU_SIZES(EXEC_MOV, )

/* MOVZX, MOVSX, MOVSXD: from sbits to dbits. */
#define EXEC_EXTEND(name, sbits, S, dbits, D)                                                           \
	static int x_##name##_rr##sbits##_##dbits(struct cpu *cpu, const struct uop *u)                 \
	{                                                                                               \
		w##dbits(cpu, u->dst, (uint##dbits##_t)(D)(S)r##sbits(cpu, u->src));                    \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_##name##_rm##sbits##_##dbits(struct cpu *cpu, const struct uop *u)                 \
	{                                                                                               \
		uint64_t lin;                                                                           \
		uint##sbits##_t v;                                                                      \
		if (ea(cpu, u, sizeof(v), ACCESS_READ, &lin) || ld##sbits(cpu, lin, &v))                \
			return EXEC_STOP;                                                               \
		w##dbits(cpu, u->dst, (uint##dbits##_t)(D)(S)v);                                        \
		return EXEC_NEXT;                                                                       \
	}
EXEC_EXTEND(movzx, 8, uint8_t, 16, uint16_t)
EXEC_EXTEND(movzx, 8, uint8_t, 32, uint32_t)
EXEC_EXTEND(movzx, 8, uint8_t, 64, uint64_t)
EXEC_EXTEND(movzx, 16, uint16_t, 16, uint16_t)
EXEC_EXTEND(movzx, 16, uint16_t, 32, uint32_t)
EXEC_EXTEND(movzx, 16, uint16_t, 64, uint64_t)
EXEC_EXTEND(movsx, 8, int8_t, 16, int16_t)
EXEC_EXTEND(movsx, 8, int8_t, 32, int32_t)
EXEC_EXTEND(movsx, 8, int8_t, 64, int64_t)
EXEC_EXTEND(movsx, 16, int16_t, 16, int16_t)
EXEC_EXTEND(movsx, 16, int16_t, 32, int32_t)
EXEC_EXTEND(movsx, 16, int16_t, 64, int64_t)
EXEC_EXTEND(movsx, 32, int32_t, 32, int32_t)
EXEC_EXTEND(movsx, 32, int32_t, 64, int64_t)

static int x_lea16(struct cpu *cpu, const struct uop *u)
{
	w16(cpu, u->dst, (uint16_t)ea_offset(cpu, u));
	return EXEC_NEXT;
}

static int x_lea32(struct cpu *cpu, const struct uop *u)
{
	w32(cpu, u->dst, (uint32_t)ea_offset(cpu, u));
	return EXEC_NEXT;
}

static int x_lea64(struct cpu *cpu, const struct uop *u)
{
	w64(cpu, u->dst, ea_offset(cpu, u));
	return EXEC_NEXT;
}

static int x_nop(struct cpu *cpu, const struct uop *u)
{
	(void)cpu;
	(void)u;
	return EXEC_NEXT;
}

static int x_bswap32(struct cpu *cpu, const struct uop *u)
{
	w32(cpu, u->dst, __builtin_bswap32(r32(cpu, u->dst)));
	return EXEC_NEXT;
}

static int x_bswap64(struct cpu *cpu, const struct uop *u)
{
	w64(cpu, u->dst, __builtin_bswap64(r64(cpu, u->dst)));
	return EXEC_NEXT;
}

/* Undefined by the manual; processors give zero. */
static int x_bswap16(struct cpu *cpu, const struct uop *u) { w16(cpu, u->dst, 0); return EXEC_NEXT; }

static int x_xlat(struct cpu *cpu, const struct uop *u)
{
	uint64_t off = cpu->gpr[RBX] + r8(cpu, REG_OFF(RAX)), lin;
	uint8_t v;

	off = u->addrsize == 8 ? off : u->addrsize == 4 ? (uint32_t)off : (uint16_t)off;
	if (seg_lin(cpu, u->seg, off, 1, ACCESS_READ, &lin) || ld8(cpu, lin, &v))
		return EXEC_STOP;
	w8(cpu, REG_OFF(RAX), v);
	return EXEC_NEXT;
}

/* ---- shifts and rotates: count in imm (aux 0) or CL (aux 1) ---- */

static inline uint8_t shift_count(const struct cpu *cpu, const struct uop *u, unsigned bits_)
{
	uint8_t c = u->aux ? r8(cpu, REG_OFF(RCX)) : (uint8_t)u->imm;

	return c & (bits_ == 64 ? 63 : 31);
}

#define EXEC_SHIFT(bits, T, S, C, name, fn)                                                             \
	static int x_##name##_r##bits(struct cpu *cpu, const struct uop *u)                             \
	{                                                                                               \
		uint8_t count = shift_count(cpu, u, bits);                                              \
		T v = r##bits(cpu, u->dst);                                                             \
		if (count)                                                                              \
			v = fn##bits(v, count, &cpu->cc);                                               \
		w##bits(cpu, u->dst, v);                                                                \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_##name##_m##bits(struct cpu *cpu, const struct uop *u)                             \
	{                                                                                               \
		uint8_t count = shift_count(cpu, u, bits);                                              \
		uint16_t cc = cpu->cc;                                                                  \
		uint64_t lin;                                                                           \
		T v;                                                                                    \
		if (ea(cpu, u, sizeof(T), ACCESS_WRITE, &lin) || rmw##bits(cpu, lin, &v))               \
			return EXEC_STOP;                                                               \
		if (count)                                                                              \
			v = fn##bits(v, count, &cc);                                                    \
		if (st##bits(cpu, lin, v))                                                              \
			return EXEC_STOP;                                                               \
		cpu->cc = cc;                                                                           \
		return EXEC_NEXT;                                                                       \
	}
ALU_SIZES(EXEC_SHIFT, rol, alu_rol)
ALU_SIZES(EXEC_SHIFT, ror, alu_ror)
ALU_SIZES(EXEC_SHIFT, rcl, alu_rcl)
ALU_SIZES(EXEC_SHIFT, rcr, alu_rcr)
ALU_SIZES(EXEC_SHIFT, shl, alu_shl)
ALU_SIZES(EXEC_SHIFT, shr, alu_shr)
ALU_SIZES(EXEC_SHIFT, sar, alu_sar)

#define EXEC_DSHIFT(bits, T, name, fn)                                                                  \
	static int x_##name##_rr##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		uint8_t count = shift_count(cpu, u, bits);                                              \
		T v = r##bits(cpu, u->dst);                                                             \
		if (count)                                                                              \
			v = fn##bits(v, r##bits(cpu, u->src), count, &cpu->cc);                         \
		w##bits(cpu, u->dst, v);                                                                \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_##name##_mr##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		uint8_t count = shift_count(cpu, u, bits);                                              \
		uint16_t cc = cpu->cc;                                                                  \
		uint64_t lin;                                                                           \
		T v;                                                                                    \
		if (ea(cpu, u, sizeof(T), ACCESS_WRITE, &lin) || rmw##bits(cpu, lin, &v))               \
			return EXEC_STOP;                                                               \
		if (count)                                                                              \
			v = fn##bits(v, r##bits(cpu, u->src), count, &cc);                              \
		if (st##bits(cpu, lin, v))                                                              \
			return EXEC_STOP;                                                               \
		cpu->cc = cc;                                                                           \
		return EXEC_NEXT;                                                                       \
	}
#define EXEC_DSHIFT_SIZES(name, fn)        \
	EXEC_DSHIFT(16, uint16_t, name, fn) \
	EXEC_DSHIFT(32, uint32_t, name, fn) \
	EXEC_DSHIFT(64, uint64_t, name, fn)
EXEC_DSHIFT_SIZES(shld, alu_shld)
EXEC_DSHIFT_SIZES(shrd, alu_shrd)

/* ---- bit tests ---- */

/* With a register index, a memory operand is a bit string: the index reaches outside the word. */
static inline uint64_t bit_string_offset(uint64_t index, unsigned bytes)
{
	int64_t words = bytes == 8 ? (int64_t)index >> 6 : bytes == 4 ? (int32_t)index >> 5 : (int16_t)index >> 4;

	return (uint64_t)(words * (int64_t)bytes);
}

static int bit_string_ea(struct cpu *cpu, const struct uop *u, uint64_t index, enum access_kind kind, uint64_t *lin)
{
	struct uop moved = *u;

	moved.disp += (int64_t)bit_string_offset(index, u->opsize);
	return ea(cpu, &moved, u->opsize, kind, lin);
}

#define EXEC_BITTEST(bits, T, name, writes)                                                             \
	static int x_##name##_rr##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		T v = alu_##name##bits(r##bits(cpu, u->dst), r##bits(cpu, u->src), &cpu->cc);           \
		if (writes)                                                                             \
			w##bits(cpu, u->dst, v);                                                        \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_##name##_ri##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		T v = alu_##name##bits(r##bits(cpu, u->dst), (T)u->imm, &cpu->cc);                      \
		if (writes)                                                                             \
			w##bits(cpu, u->dst, v);                                                        \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static ALWAYS_INLINE int x_##name##_at##bits(struct cpu *cpu, uint64_t lin, T index)            \
	{                                                                                               \
		uint16_t cc = cpu->cc;                                                                  \
		T v;                                                                                    \
		if ((writes) ? rmw##bits(cpu, lin, &v) : ld##bits(cpu, lin, &v))                        \
			return EXEC_STOP;                                                               \
		v = alu_##name##bits(v, index, &cc);                                                    \
		if ((writes) && st##bits(cpu, lin, v))                                                  \
			return EXEC_STOP;                                                               \
		cpu->cc = cc;                                                                           \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_##name##_mr##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		T index = r##bits(cpu, u->src);                                                         \
		uint64_t lin;                                                                           \
		if (bit_string_ea(cpu, u, index, (writes) ? ACCESS_WRITE : ACCESS_READ, &lin))          \
			return EXEC_STOP;                                                               \
		return x_##name##_at##bits(cpu, lin, index);                                            \
	}                                                                                               \
	static int x_##name##_mi##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		uint64_t lin;                                                                           \
		if (ea(cpu, u, sizeof(T), (writes) ? ACCESS_WRITE : ACCESS_READ, &lin))                 \
			return EXEC_STOP;                                                               \
		return x_##name##_at##bits(cpu, lin, (T)u->imm);                                        \
	}
#define EXEC_BITTEST_SIZES(name, writes)         \
	EXEC_BITTEST(16, uint16_t, name, writes) \
	EXEC_BITTEST(32, uint32_t, name, writes) \
	EXEC_BITTEST(64, uint64_t, name, writes)
EXEC_BITTEST_SIZES(bt, false)
EXEC_BITTEST_SIZES(bts, true)
EXEC_BITTEST_SIZES(btr, true)
EXEC_BITTEST_SIZES(btc, true)

/* BSF, BSR, POPCNT, LZCNT, TZCNT. A 32-bit result of a zero BSF/BSR source leaves even the upper half. */
#define EXEC_SCAN(bits, T, name)                                                                        \
	static int x_##name##_rr##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		w64(cpu, u->dst, alu_##name##bits(r64(cpu, u->dst), r##bits(cpu, u->src), &cpu->cc));   \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_##name##_rm##bits(struct cpu *cpu, const struct uop *u)                            \
	{                                                                                               \
		uint64_t lin;                                                                           \
		T v;                                                                                    \
		if (ea(cpu, u, sizeof(T), ACCESS_READ, &lin) || ld##bits(cpu, lin, &v))                 \
			return EXEC_STOP;                                                               \
		w64(cpu, u->dst, alu_##name##bits(r64(cpu, u->dst), v, &cpu->cc));                      \
		return EXEC_NEXT;                                                                       \
	}
#define EXEC_SCAN_SIZES(name)         \
	EXEC_SCAN(16, uint16_t, name) \
	EXEC_SCAN(32, uint32_t, name) \
	EXEC_SCAN(64, uint64_t, name)
EXEC_SCAN_SIZES(bsf)
EXEC_SCAN_SIZES(bsr)
EXEC_SCAN_SIZES(popcnt)
EXEC_SCAN_SIZES(lzcnt)
EXEC_SCAN_SIZES(tzcnt)

/* ---- multiplication and division ---- */

#define EXEC_IMUL(bits, T)                                                                              \
	static int x_imul_rr##bits(struct cpu *cpu, const struct uop *u)                                \
	{                                                                                               \
		w##bits(cpu, u->dst, alu_imul##bits(r##bits(cpu, u->dst), r##bits(cpu, u->src), &cpu->cc)); \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_imul_rri##bits(struct cpu *cpu, const struct uop *u)                               \
	{                                                                                               \
		w##bits(cpu, u->dst, alu_imul##bits(r##bits(cpu, u->src), (T)u->imm, &cpu->cc));        \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_imul_rm##bits(struct cpu *cpu, const struct uop *u)                                \
	{                                                                                               \
		uint64_t lin;                                                                           \
		T v;                                                                                    \
		if (ea(cpu, u, sizeof(T), ACCESS_READ, &lin) || ld##bits(cpu, lin, &v))                 \
			return EXEC_STOP;                                                               \
		w##bits(cpu, u->dst, alu_imul##bits(r##bits(cpu, u->dst), v, &cpu->cc));                \
		return EXEC_NEXT;                                                                       \
	}                                                                                               \
	static int x_imul_rmi##bits(struct cpu *cpu, const struct uop *u)                               \
	{                                                                                               \
		uint64_t lin;                                                                           \
		T v;                                                                                    \
		if (ea(cpu, u, sizeof(T), ACCESS_READ, &lin) || ld##bits(cpu, lin, &v))                 \
			return EXEC_STOP;                                                               \
		w##bits(cpu, u->dst, alu_imul##bits(v, (T)u->imm, &cpu->cc));                           \
		return EXEC_NEXT;                                                                       \
	}
EXEC_IMUL(16, uint16_t)
EXEC_IMUL(32, uint32_t)
EXEC_IMUL(64, uint64_t)

/* One-operand forms. The result of the 8-bit ones is AX, of the others xDX:xAX. */
static inline void set_wide8(struct cpu *c, uint8_t lo, uint8_t hi) { w16(c, REG_OFF(RAX), (uint16_t)(lo | hi << 8)); }
#define SET_WIDE(bits, T)                                          \
	static inline void set_wide##bits(struct cpu *c, T lo, T hi) \
	{                                                          \
		w##bits(c, REG_OFF(RAX), lo);                      \
		w##bits(c, REG_OFF(RDX), hi);                      \
	}
SET_WIDE(16, uint16_t)
SET_WIDE(32, uint32_t)
SET_WIDE(64, uint64_t)

#define EXEC_WIDEMUL(bits, T, S, C, name, fn)                                                           \
	static ALWAYS_INLINE int x_##name##_v##bits(struct cpu *cpu, T v)                               \
	{                                                                                               \
		T lo, hi;                                                                               \
		fn##bits(r##bits(cpu, REG_OFF(RAX)), v, &lo, &hi, &cpu->cc);                            \
		set_wide##bits(cpu, lo, hi);                                                            \
		return EXEC_NEXT;                                                                       \
	}
#define DIV_WIDE(bits, T, ST, W, SW)                                                                    \
	/* Returns false for #DE: divisor zero or quotient too large. */                                \
	static inline bool div_u##bits(W n, T d, T *q, T *r)                                            \
	{                                                                                               \
		if (d == 0 || (T)(n >> (bits)) >= d)                                                    \
			return false;                                                                   \
		*q = (T)(n / d);                                                                        \
		*r = (T)(n % d);                                                                        \
		return true;                                                                            \
	}                                                                                               \
	static inline bool div_s##bits(W n, T d, T *q, T *r)                                            \
	{                                                                                               \
		bool nneg = (SW)n < 0, dneg = (ST)d < 0;                                                \
		T uq, ur;                                                                               \
		if (!div_u##bits(nneg ? (W)-n : n, dneg ? (T)-d : d, &uq, &ur))                         \
			return false;                                                                   \
		if (uq > (T)((T)1 << ((bits)-1)) - (nneg == dneg))                                      \
			return false;                                                                   \
		*q = nneg != dneg ? (T)-uq : uq;                                                        \
		*r = nneg ? (T)-ur : ur;                                                                \
		return true;                                                                            \
	}
__extension__ typedef unsigned __int128 wide128;
__extension__ typedef __int128 swide128;
DIV_WIDE(8, uint8_t, int8_t, uint16_t, int16_t)
DIV_WIDE(16, uint16_t, int16_t, uint32_t, int32_t)
DIV_WIDE(32, uint32_t, int32_t, uint64_t, int64_t)
DIV_WIDE(64, uint64_t, int64_t, wide128, swide128)

static inline uint16_t dividend8(const struct cpu *c) { return r16(c, REG_OFF(RAX)); }
static inline uint32_t dividend16(const struct cpu *c)
{
	return (uint32_t)r16(c, REG_OFF(RDX)) << 16 | r16(c, REG_OFF(RAX));
}

static inline uint64_t dividend32(const struct cpu *c)
{
	return (uint64_t)r32(c, REG_OFF(RDX)) << 32 | r32(c, REG_OFF(RAX));
}

static inline wide128 dividend64(const struct cpu *c) { return (wide128)c->gpr[RDX] << 64 | c->gpr[RAX]; }

#define EXEC_DIVIDE(bits, T, S, C, name, fn)                                                            \
	static ALWAYS_INLINE int x_##name##_v##bits(struct cpu *cpu, T v)                               \
	{                                                                                               \
		T q, r;                                                                                 \
		if (!fn##bits(dividend##bits(cpu), v, &q, &r))                                          \
			return raise_exc(cpu, EXC_DE);                                                  \
		set_wide##bits(cpu, q, r);                                                              \
		return EXEC_NEXT;                                                                       \
	}
#define EXEC_ONE_SOURCE(bits, T, S, C, name, x)                                                         \
	static int x_##name##_r##bits(struct cpu *cpu, const struct uop *u)                             \
	{                                                                                               \
		return x_##name##_v##bits(cpu, r##bits(cpu, u->dst));                                   \
	}                                                                                               \
	static int x_##name##_m##bits(struct cpu *cpu, const struct uop *u)                             \
	{                                                                                               \
		uint64_t lin;                                                                           \
		T v;                                                                                    \
		if (ea(cpu, u, sizeof(T), ACCESS_READ, &lin) || ld##bits(cpu, lin, &v))                 \
			return EXEC_STOP;                                                               \
		return x_##name##_v##bits(cpu, v);                                                      \
	}
ALU_SIZES(EXEC_WIDEMUL, mul, alu_mulw)
ALU_SIZES(EXEC_WIDEMUL, imul1, alu_imulw)
ALU_SIZES(EXEC_DIVIDE, div, div_u)
ALU_SIZES(EXEC_DIVIDE, idiv, div_s)
ALU_SIZES(EXEC_ONE_SOURCE, mul, )
ALU_SIZES(EXEC_ONE_SOURCE, imul1, )
ALU_SIZES(EXEC_ONE_SOURCE, div, )
ALU_SIZES(EXEC_ONE_SOURCE, idiv, )

/* ---- CMPXCHG8B, CMPXCHG16B ---- */

static int x_cmpxchg8b(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin, v, want = (uint64_t)(uint32_t)cpu->gpr[RDX] << 32 | (uint32_t)cpu->gpr[RAX];
	uint64_t with = (uint64_t)(uint32_t)cpu->gpr[RCX] << 32 | (uint32_t)cpu->gpr[RBX];

	if (ea(cpu, u, 8, ACCESS_WRITE, &lin) || rmw64(cpu, lin, &v) || st64(cpu, lin, v == want ? with : v))
		return EXEC_STOP;
	cpu->cc &= (uint16_t)~CC_ZF;
	if (v == want) {
		cpu->cc |= CC_ZF;
	} else {
		w32(cpu, REG_OFF(RAX), (uint32_t)v);
		w32(cpu, REG_OFF(RDX), (uint32_t)(v >> 32));
	}
	return EXEC_NEXT;
}

static int x_cmpxchg16b(struct cpu *cpu, const struct uop *u)
{
	struct u128 v, with = {cpu->gpr[RBX], cpu->gpr[RCX]};
	uint64_t lin;
	bool equal;

	if (ea(cpu, u, 16, ACCESS_WRITE, &lin))
		return EXEC_STOP;
	if (lin & 15)
		return raise_gp0(cpu);
	if (rmw128(cpu, lin, &v))
		return EXEC_STOP;
	equal = v.lo == cpu->gpr[RAX] && v.hi == cpu->gpr[RDX];
	if (st128(cpu, lin, equal ? with : v))
		return EXEC_STOP;
	cpu->cc &= (uint16_t)~CC_ZF;
	if (equal) {
		cpu->cc |= CC_ZF;
	} else {
		cpu->gpr[RAX] = v.lo;
		cpu->gpr[RDX] = v.hi;
	}
	return EXEC_NEXT;
}

/* ---- sign extension of the accumulator ---- */

static int x_cbw(struct cpu *cpu, const struct uop *u)
{
	if (u->opsize == 2)
		w16(cpu, REG_OFF(RAX), (uint16_t)(int16_t)(int8_t)r8(cpu, REG_OFF(RAX)));
	else if (u->opsize == 4)
		w32(cpu, REG_OFF(RAX), (uint32_t)(int32_t)(int16_t)r16(cpu, REG_OFF(RAX)));
	else
		w64(cpu, REG_OFF(RAX), (uint64_t)(int64_t)(int32_t)r32(cpu, REG_OFF(RAX)));
	return EXEC_NEXT;
}

static int x_cwd(struct cpu *cpu, const struct uop *u)
{
	if (u->opsize == 2)
		w16(cpu, REG_OFF(RDX), (uint16_t)((int16_t)r16(cpu, REG_OFF(RAX)) >> 15));
	else if (u->opsize == 4)
		w32(cpu, REG_OFF(RDX), (uint32_t)((int32_t)r32(cpu, REG_OFF(RAX)) >> 31));
	else
		w64(cpu, REG_OFF(RDX), (uint64_t)((int64_t)cpu->gpr[RAX] >> 63));
	return EXEC_NEXT;
}

/* ---- flags ---- */

static int x_lahf(struct cpu *cpu, const struct uop *u)
{
	(void)u;
	w8(cpu, REG_OFF_HIGH(RAX), (uint8_t)(cc_to_rflags(cpu->cc) | RF_ONE));
	return EXEC_NEXT;
}

static int x_sahf(struct cpu *cpu, const struct uop *u)
{
	(void)u;
	cpu->cc = (uint16_t)(cc_from_rflags(r8(cpu, REG_OFF_HIGH(RAX))) | (cpu->cc & CC_OF));
	return EXEC_NEXT;
}

static int x_clc(struct cpu *cpu, const struct uop *u) { (void)u; cpu->cc &= (uint16_t)~CC_CF; return EXEC_NEXT; }
static int x_stc(struct cpu *cpu, const struct uop *u) { (void)u; cpu->cc |= CC_CF; return EXEC_NEXT; }
static int x_cmc(struct cpu *cpu, const struct uop *u) { (void)u; cpu->cc ^= CC_CF; return EXEC_NEXT; }
static int x_cld(struct cpu *cpu, const struct uop *u) { (void)u; cpu->rflags &= ~RF_DF; return EXEC_NEXT; }
static int x_std(struct cpu *cpu, const struct uop *u) { (void)u; cpu->rflags |= RF_DF; return EXEC_NEXT; }
static int x_salc(struct cpu *cpu, const struct uop *u)
{
	(void)u;
	w8(cpu, REG_OFF(RAX), cpu->cc & CC_CF ? 0xff : 0);
	return EXEC_NEXT;
}

/* ---- decimal adjustment (not in 64-bit mode); flags on the host are the result's S, Z, P ---- */

static void set_szp(struct cpu *cpu, uint8_t v, bool cf, bool af)
{
	uint16_t cc;

	alu_or8(v, v, &cc);
	cpu->cc = (uint16_t)((cc & (CC_SF | CC_ZF | CC_PF)) | (cf ? CC_CF : 0) | (af ? CC_AF : 0));
}

static int x_daa_das(struct cpu *cpu, const struct uop *u)
{
	uint8_t al = r8(cpu, REG_OFF(RAX)), old = al, six = 6, sixty = 0x60;
	bool old_cf = cpu->cc & CC_CF, cf = false, af = false, subtract = u->aux;

	if ((al & 15) > 9 || (cpu->cc & CC_AF)) {
		cf = old_cf || (subtract ? al < six : al > 0xff - six);
		al = (uint8_t)(subtract ? al - six : al + six);
		af = true;
	}
	if (old > 0x99 || old_cf) {
		al = (uint8_t)(subtract ? al - sixty : al + sixty);
		cf = true;
	}
	w8(cpu, REG_OFF(RAX), al);
	set_szp(cpu, al, cf, af);
	return EXEC_NEXT;
}

static int x_aaa_aas(struct cpu *cpu, const struct uop *u)
{
	bool adjust = (cpu->gpr[RAX] & 15) > 9 || (cpu->cc & CC_AF);
	uint16_t ax = r16(cpu, REG_OFF(RAX));

	if (adjust)
		ax = (uint16_t)(u->aux ? ax - 0x106 : ax + 0x106);
	w16(cpu, REG_OFF(RAX), ax & 0xff0f);
	set_szp(cpu, (uint8_t)(ax & 15), adjust, adjust);
	return EXEC_NEXT;
}

static int x_aam(struct cpu *cpu, const struct uop *u)
{
	uint8_t al = r8(cpu, REG_OFF(RAX)), base = (uint8_t)u->imm;

	if (base == 0)
		return raise_exc(cpu, EXC_DE);
	w16(cpu, REG_OFF(RAX), (uint16_t)(al % base | (al / base) << 8));
	set_szp(cpu, al % base, false, false);
	return EXEC_NEXT;
}

static int x_aad(struct cpu *cpu, const struct uop *u)
{
	uint8_t tens = (uint8_t)(r8(cpu, REG_OFF_HIGH(RAX)) * (uint8_t)u->imm);

	/* The undefined flags are those of the addition. */
	w16(cpu, REG_OFF(RAX), alu_add8(r8(cpu, REG_OFF(RAX)), tens, &cpu->cc));
	return EXEC_NEXT;
}

/* ---- PUSH, POP, PUSHA, POPA, ENTER, LEAVE ---- */

static int x_push_r64(struct cpu *cpu, const struct uop *u)
{
	uint64_t sp = cpu->gpr[RSP] - 8;

	if (st64(cpu, sp, r64(cpu, u->dst)))
		return EXEC_STOP;
	cpu->gpr[RSP] = sp;
	return EXEC_NEXT;
}

static int x_pop_r64(struct cpu *cpu, const struct uop *u)
{
	uint64_t v;

	if (ld64(cpu, cpu->gpr[RSP], &v))
		return EXEC_STOP;
	cpu->gpr[RSP] += 8;
	w64(cpu, u->dst, v);
	return EXEC_NEXT;
}

static int x_push_i64(struct cpu *cpu, const struct uop *u)
{
	uint64_t sp = cpu->gpr[RSP] - 8;

	if (st64(cpu, sp, u->imm))
		return EXEC_STOP;
	cpu->gpr[RSP] = sp;
	return EXEC_NEXT;
}

static void reg_write(struct cpu *cpu, uint8_t off, uint64_t v, unsigned bytes)
{
	if (bytes == 2)
		w16(cpu, off, (uint16_t)v);
	else if (bytes == 4)
		w32(cpu, off, (uint32_t)v);
	else
		w64(cpu, off, v);
}

static int x_push_r(struct cpu *cpu, const struct uop *u) { return stack_push(cpu, r64(cpu, u->dst), u->opsize); }
static int x_push_i(struct cpu *cpu, const struct uop *u) { return stack_push(cpu, u->imm, u->opsize); }

static int x_pop_r(struct cpu *cpu, const struct uop *u)
{
	uint64_t v;

	if (stack_pop(cpu, &v, u->opsize))
		return EXEC_STOP;
	reg_write(cpu, u->dst, v, u->opsize);
	return EXEC_NEXT;
}

static int x_push_m(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin, v = 0;

	if (ea(cpu, u, u->opsize, ACCESS_READ, &lin) || mem_read(cpu, lin, &v, u->opsize))
		return EXEC_STOP;
	return stack_push(cpu, v, u->opsize);
}

/* The address of POP m is computed with the stack pointer already raised. */
static int x_pop_m(struct cpu *cpu, const struct uop *u)
{
	uint64_t v, lin, sp = cpu->gpr[RSP];

	if (stack_pop(cpu, &v, u->opsize))
		return EXEC_STOP;
	if (ea(cpu, u, u->opsize, ACCESS_WRITE, &lin) || mem_write(cpu, lin, &v, u->opsize)) {
		cpu->gpr[RSP] = sp;
		return EXEC_STOP;
	}
	return EXEC_NEXT;
}

static int x_pusha(struct cpu *cpu, const struct uop *u)
{
	uint64_t sp = cpu->gpr[RSP];

	for (unsigned r = RAX; r <= RDI; r++) {
		if (stack_push(cpu, r == RSP ? sp : cpu->gpr[r], u->opsize)) {
			cpu->gpr[RSP] = sp;
			return EXEC_STOP;
		}
	}
	return EXEC_NEXT;
}

/* Registers are written as they are popped; if a later one faults RSP is as before, so it can be done again. */
static int x_popa(struct cpu *cpu, const struct uop *u)
{
	uint64_t v, sp = cpu->gpr[RSP];

	for (int r = RDI; r >= RAX; r--) {
		if (stack_pop(cpu, &v, u->opsize)) {
			cpu->gpr[RSP] = sp;
			return EXEC_STOP;
		}
		if (r != RSP)
			reg_write(cpu, REG_OFF(r), v, u->opsize);
	}
	return EXEC_NEXT;
}

/* imm: bytes of locals, aux: nesting level (SDM "ENTER"). */
static int x_enter(struct cpu *cpu, const struct uop *u)
{
	uint64_t sp = cpu->gpr[RSP], bp = cpu->gpr[RBP], frame;

	if (stack_push(cpu, bp, u->opsize))
		return EXEC_STOP;
	frame = cpu->gpr[RSP];
	for (unsigned level = 1; level < u->aux; level++) {
		uint64_t v;

		bp = stack_add(cpu, bp, -(int64_t)u->opsize);
		if (stack_read(cpu, bp, &v, u->opsize) || stack_push(cpu, v, u->opsize))
			goto undo;
	}
	if (u->aux > 0 && stack_push(cpu, frame, u->opsize))
		goto undo;
	stack_move(cpu, -(int64_t)u->imm);
	if (stack_probe(cpu, u->opsize))
		goto undo;
	reg_write(cpu, REG_OFF(RBP), frame, u->opsize);
	return EXEC_NEXT;
undo:
	cpu->gpr[RSP] = sp;
	return EXEC_STOP;
}

static int x_leave(struct cpu *cpu, const struct uop *u)
{
	uint64_t v, sp = cpu->gpr[RSP];

	stack_set(cpu, cpu->gpr[RBP]);
	if (stack_pop(cpu, &v, u->opsize)) {
		cpu->gpr[RSP] = sp;
		return EXEC_STOP;
	}
	reg_write(cpu, REG_OFF(RBP), v, u->opsize);
	return EXEC_NEXT;
}

/* ---- lowering ---- */

/* Functions of one operation by operand form and size (1, 2, 4, 8 bytes). */
enum form { FORM_RR, FORM_RI, FORM_RM, FORM_MR, FORM_MI, FORM_COUNT };
struct binary { exec_fn fn[FORM_COUNT][4]; };

#define FOUR(p)  {p##8, p##16, p##32, p##64}
#define THREE(p) {NULL, p##16, p##32, p##64}
#define BINARY(name) \
	{{FOUR(x_##name##_rr), FOUR(x_##name##_ri), FOUR(x_##name##_rm), FOUR(x_##name##_mr), FOUR(x_##name##_mi)}}
#define BITS(name) \
	{{THREE(x_##name##_rr), THREE(x_##name##_ri), THREE(NULL_), THREE(x_##name##_mr), THREE(x_##name##_mi)}}
#define NULL_16 NULL
#define NULL_32 NULL
#define NULL_64 NULL
#define EXCHANGE(name) {{FOUR(x_##name##_rr), {0}, {0}, FOUR(x_##name##_mr), {0}}}
#define SCAN(name)     {{THREE(x_##name##_rr), {0}, THREE(x_##name##_rm), {0}, {0}}}

static const struct { ZydisMnemonic m; struct binary b; } binaries[] = {
	{ZYDIS_MNEMONIC_MOV, BINARY(mov)},	   {ZYDIS_MNEMONIC_ADD, BINARY(add)},
	{ZYDIS_MNEMONIC_OR, BINARY(or)},	   {ZYDIS_MNEMONIC_ADC, BINARY(adc)},
	{ZYDIS_MNEMONIC_SBB, BINARY(sbb)},	   {ZYDIS_MNEMONIC_AND, BINARY(and)},
	{ZYDIS_MNEMONIC_SUB, BINARY(sub)},	   {ZYDIS_MNEMONIC_XOR, BINARY(xor)},
	{ZYDIS_MNEMONIC_CMP, BINARY(cmp)},	   {ZYDIS_MNEMONIC_TEST, BINARY(test)},
	{ZYDIS_MNEMONIC_BT, BITS(bt)},		   {ZYDIS_MNEMONIC_BTS, BITS(bts)},
	{ZYDIS_MNEMONIC_BTR, BITS(btr)},	   {ZYDIS_MNEMONIC_BTC, BITS(btc)},
	{ZYDIS_MNEMONIC_XCHG, EXCHANGE(xchg)},	   {ZYDIS_MNEMONIC_XADD, EXCHANGE(xadd)},
	{ZYDIS_MNEMONIC_CMPXCHG, EXCHANGE(cmpxchg)}, {ZYDIS_MNEMONIC_BSF, SCAN(bsf)},
	{ZYDIS_MNEMONIC_BSR, SCAN(bsr)},	   {ZYDIS_MNEMONIC_POPCNT, SCAN(popcnt)},
	/* Without the features the decoder takes these for BSR and BSF. */
	{ZYDIS_MNEMONIC_LZCNT, SCAN(lzcnt)},	   {ZYDIS_MNEMONIC_TZCNT, SCAN(tzcnt)},
};

/* One operand, register or memory. */
struct unary { exec_fn reg[4], mem[4]; };
#define UNARY(name) {FOUR(x_##name##_r), FOUR(x_##name##_m)}
static const struct { ZydisMnemonic m; struct unary u; } unaries[] = {
	{ZYDIS_MNEMONIC_INC, UNARY(inc)}, {ZYDIS_MNEMONIC_DEC, UNARY(dec)},   {ZYDIS_MNEMONIC_NEG, UNARY(neg)},
	{ZYDIS_MNEMONIC_NOT, UNARY(not)}, {ZYDIS_MNEMONIC_MUL, UNARY(mul)},   {ZYDIS_MNEMONIC_DIV, UNARY(div)},
	{ZYDIS_MNEMONIC_IDIV, UNARY(idiv)}, {ZYDIS_MNEMONIC_IMUL, UNARY(imul1)},
};
static const struct { ZydisMnemonic m; struct unary u; } shifts[] = {
	{ZYDIS_MNEMONIC_ROL, UNARY(rol)}, {ZYDIS_MNEMONIC_ROR, UNARY(ror)}, {ZYDIS_MNEMONIC_RCL, UNARY(rcl)},
	{ZYDIS_MNEMONIC_RCR, UNARY(rcr)}, {ZYDIS_MNEMONIC_SHL, UNARY(shl)}, {ZYDIS_MNEMONIC_SHR, UNARY(shr)},
	{ZYDIS_MNEMONIC_SAR, UNARY(sar)},
};

static unsigned size_index(unsigned bytes) { return (unsigned)__builtin_ctz(bytes); }

static uint64_t imm_of(const struct insn *in, unsigned n) { return in->op[n].imm.value.u; }

/* Fills dst, src, imm for a two-operand instruction; returns its form. */
static enum form lower_two(const struct insn *in, struct uop *u)
{
	if (op_is_reg(in, 0))
		u->dst = zreg_off(in->op[0].reg.value);
	if (op_is_reg(in, 1))
		u->src = zreg_off(in->op[1].reg.value);
	if (op_is_imm(in, 1)) {
		u->imm = imm_of(in, 1);
		return op_is_mem(in, 0) ? FORM_MI : FORM_RI;
	}
	if (op_is_mem(in, 0))
		return FORM_MR;
	return op_is_mem(in, 1) ? FORM_RM : FORM_RR;
}

static bool gpr_operand(const struct insn *in, unsigned n)
{
	ZydisRegisterClass c;

	if (!op_is_reg(in, n))
		return true;
	c = ZydisRegisterGetClass(in->op[n].reg.value);
	return c >= ZYDIS_REGCLASS_GPR8 && c <= ZYDIS_REGCLASS_GPR64;
}

/* XCHG and TEST may name memory second; the forms have it first. */
static void memory_first(struct insn *in)
{
	if (in->z.operand_count_visible >= 2 && op_is_mem(in, 1) &&
	    (in->z.mnemonic == ZYDIS_MNEMONIC_XCHG || in->z.mnemonic == ZYDIS_MNEMONIC_TEST)) {
		ZydisDecodedOperand t = in->op[0];

		in->op[0] = in->op[1];
		in->op[1] = t;
	}
}

static bool lower_binary(struct insn *in, struct uop *u)
{
	for (unsigned i = 0; i < ARRAY_SIZE(binaries); i++) {
		if (binaries[i].m != in->z.mnemonic)
			continue;
		if (!gpr_operand(in, 0) || !gpr_operand(in, 1))
			return false; /* MOV to and from segment, control and debug registers */
		memory_first(in);
		if (in->z.mnemonic == ZYDIS_MNEMONIC_POPCNT && !cpu_has(in->cpu, CPUF_POPCNT)) {
			u->exec = exec_ud;
			return true;
		}
		u->exec = binaries[i].b.fn[lower_two(in, u)][size_index(u->opsize)];
		return u->exec;
	}
	return false;
}

static bool lower_unary(struct insn *in, struct uop *u)
{
	for (unsigned i = 0; i < ARRAY_SIZE(unaries); i++) {
		if (unaries[i].m != in->z.mnemonic || in->z.operand_count_visible != 1)
			continue;
		u->dst = op_is_reg(in, 0) ? zreg_off(in->op[0].reg.value) : 0;
		u->exec = (op_is_reg(in, 0) ? unaries[i].u.reg : unaries[i].u.mem)[size_index(u->opsize)];
		return true;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(shifts); i++) {
		if (shifts[i].m != in->z.mnemonic)
			continue;
		u->dst = op_is_reg(in, 0) ? zreg_off(in->op[0].reg.value) : 0;
		u->aux = op_is_reg(in, 1);
		u->imm = op_is_imm(in, 1) ? imm_of(in, 1) : 1;
		u->exec = (op_is_reg(in, 0) ? shifts[i].u.reg : shifts[i].u.mem)[size_index(u->opsize)];
		return true;
	}
	return false;
}

static bool lower_extend(struct insn *in, struct uop *u)
{
	static const exec_fn zx[2][2][4] = {
		{{0, x_movzx_rr8_16, x_movzx_rr8_32, x_movzx_rr8_64},
		 {0, x_movzx_rr16_16, x_movzx_rr16_32, x_movzx_rr16_64}},
		{{0, x_movzx_rm8_16, x_movzx_rm8_32, x_movzx_rm8_64},
		 {0, x_movzx_rm16_16, x_movzx_rm16_32, x_movzx_rm16_64}}};
	static const exec_fn sx[2][3][4] = {
		{{0, x_movsx_rr8_16, x_movsx_rr8_32, x_movsx_rr8_64},
		 {0, x_movsx_rr16_16, x_movsx_rr16_32, x_movsx_rr16_64},
		 {0, x_mov_rr16, x_movsx_rr32_32, x_movsx_rr32_64}},
		{{0, x_movsx_rm8_16, x_movsx_rm8_32, x_movsx_rm8_64},
		 {0, x_movsx_rm16_16, x_movsx_rm16_32, x_movsx_rm16_64},
		 {0, x_mov_rm16, x_movsx_rm32_32, x_movsx_rm32_64}}};
	unsigned mem = op_is_mem(in, 1), from16 = in->op[1].size != 8, to = size_index(u->opsize);

	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_MOVZX: u->exec = zx[mem][from16][to]; break;
	case ZYDIS_MNEMONIC_MOVSX: u->exec = sx[mem][from16][to]; break;
	case ZYDIS_MNEMONIC_MOVSXD: u->exec = sx[mem][2][to]; break;
	default: return false;
	}
	lower_two(in, u);
	return true;
}

static bool lower_imul(struct insn *in, struct uop *u)
{
	static const exec_fn fn[2][2][4] = {{THREE(x_imul_rr), THREE(x_imul_rm)},
					    {THREE(x_imul_rri), THREE(x_imul_rmi)}};
	bool three = in->z.operand_count_visible == 3;

	if (in->z.mnemonic != ZYDIS_MNEMONIC_IMUL)
		return false;
	lower_two(in, u);
	if (three)
		u->imm = imm_of(in, 2);
	u->exec = fn[three][op_is_mem(in, 1)][size_index(u->opsize)];
	return true;
}

static bool lower_dshift(struct insn *in, struct uop *u)
{
	static const exec_fn fn[2][2][4] = {{THREE(x_shld_rr), THREE(x_shld_mr)}, {THREE(x_shrd_rr), THREE(x_shrd_mr)}};
	bool right = in->z.mnemonic == ZYDIS_MNEMONIC_SHRD;

	if (!right && in->z.mnemonic != ZYDIS_MNEMONIC_SHLD)
		return false;
	lower_two(in, u);
	u->aux = op_is_reg(in, 2);
	u->imm = op_is_imm(in, 2) ? imm_of(in, 2) : 0;
	u->exec = fn[right][op_is_mem(in, 0)][size_index(u->opsize)];
	return true;
}

static bool lower_push_pop(struct insn *in, struct uop *u)
{
	bool push = in->z.mnemonic == ZYDIS_MNEMONIC_PUSH;

	if ((!push && in->z.mnemonic != ZYDIS_MNEMONIC_POP) || !gpr_operand(in, 0))
		return false;
	u->flags |= op_is_mem(in, 0) ? 0 : UOP_SEG_STACK;
	if (op_is_mem(in, 0)) {
		u->exec = push ? x_push_m : x_pop_m;
		return true;
	}
	if (op_is_imm(in, 0)) {
		u->imm = imm_of(in, 0);
		u->exec = u->opsize == 8 ? x_push_i64 : x_push_i;
		return true;
	}
	u->dst = zreg_off(in->op[0].reg.value);
	if (u->opsize == 8)
		u->exec = push ? x_push_r64 : x_pop_r64;
	else
		u->exec = push ? x_push_r : x_pop_r;
	return true;
}

static bool lower_lea(struct insn *in, struct uop *u)
{
	if (in->z.mnemonic != ZYDIS_MNEMONIC_LEA)
		return false;
	u->dst = zreg_off(in->op[0].reg.value);
	u->exec = u->opsize == 8 ? x_lea64 : u->opsize == 4 ? x_lea32 : x_lea16;
	return true;
}

static bool lower_cmpxchg_wide(struct insn *in, struct uop *u)
{
	bool wide = in->z.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B;

	if (!wide && in->z.mnemonic != ZYDIS_MNEMONIC_CMPXCHG8B)
		return false;
	u->exec = wide ? x_cmpxchg16b : x_cmpxchg8b;
	if (!cpu_has(in->cpu, wide ? CPUF_CX16 : CPUF_CX8))
		u->exec = exec_ud;
	return true;
}

/* Everything that needs no more than its function. */
static bool lower_plain(struct insn *in, struct uop *u)
{
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_NOP: u->exec = x_nop; return true;
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQE: u->exec = x_cbw; return true;
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CQO: u->exec = x_cwd; return true;
	case ZYDIS_MNEMONIC_LAHF: u->exec = x_lahf; break;
	case ZYDIS_MNEMONIC_SAHF: u->exec = x_sahf; break;
	case ZYDIS_MNEMONIC_CLC: u->exec = x_clc; return true;
	case ZYDIS_MNEMONIC_STC: u->exec = x_stc; return true;
	case ZYDIS_MNEMONIC_CMC: u->exec = x_cmc; return true;
	case ZYDIS_MNEMONIC_CLD: u->exec = x_cld; return true;
	case ZYDIS_MNEMONIC_STD: u->exec = x_std; return true;
	case ZYDIS_MNEMONIC_SALC: u->exec = x_salc; return true;
	case ZYDIS_MNEMONIC_DAA: u->exec = x_daa_das; return true;
	case ZYDIS_MNEMONIC_DAS: u->exec = x_daa_das; u->aux = 1; return true;
	case ZYDIS_MNEMONIC_AAA: u->exec = x_aaa_aas; return true;
	case ZYDIS_MNEMONIC_AAS: u->exec = x_aaa_aas; u->aux = 1; return true;
	case ZYDIS_MNEMONIC_AAM: u->exec = x_aam; u->imm = imm_of(in, 0); return true;
	case ZYDIS_MNEMONIC_AAD: u->exec = x_aad; u->imm = imm_of(in, 0); return true;
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD: u->exec = x_pusha; return true;
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD: u->exec = x_popa; return true;
	case ZYDIS_MNEMONIC_LEAVE: u->exec = x_leave; u->flags |= UOP_SEG_STACK; return true;
	case ZYDIS_MNEMONIC_ENTER:
		u->exec = x_enter;
		u->flags |= UOP_SEG_STACK;
		u->imm = imm_of(in, 0);
		u->aux = (uint32_t)imm_of(in, 1) & 31;
		return true;
	case ZYDIS_MNEMONIC_BSWAP:
		u->dst = zreg_off(in->op[0].reg.value);
		u->exec = u->opsize == 8 ? x_bswap64 : u->opsize == 4 ? x_bswap32 : x_bswap16;
		return true;
	case ZYDIS_MNEMONIC_XLAT:
		u->exec = x_xlat;
		u->seg = SEG_DS;
		for (unsigned i = 0; i < in->z.operand_count; i++)
			if (op_is_mem(in, i) && in->op[i].mem.segment >= ZYDIS_REGISTER_ES)
				u->seg = (uint8_t)(in->op[i].mem.segment - ZYDIS_REGISTER_ES);
		return true;
	default: return false;
	}
	/* LAHF and SAHF */
	if (in->mode_bits == 64 && !cpu_has(in->cpu, CPUF_LAHF_LM))
		u->exec = exec_ud;
	return true;
}

bool lower_int(struct insn *in, struct uop *u)
{
	return lower_binary(in, u) || lower_lea(in, u) || lower_push_pop(in, u) || lower_extend(in, u) ||
	       lower_unary(in, u) || lower_imul(in, u) || lower_dshift(in, u) || lower_cmpxchg_wide(in, u) ||
	       lower_plain(in, u);
}
