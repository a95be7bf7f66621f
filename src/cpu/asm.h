/*
 * A small assembler for the host, x86-64: what the translator emits.
 *
 * One function encodes every instruction: prefixes, REX, opcode, ModRM, SIB and
 * displacement from a description of the opcode (struct a_op) and two operands, a register
 * and a register or memory. A guest instruction is emitted by the same function: its opcode
 * bytes are the guest's, its operands others. Immediates follow by a_imm().
 *
 * The buffer is mapped twice; the assembler writes through the writable view. There is no
 * check for space at each byte: whoever opens the buffer leaves room for the longest block.
 */
#ifndef GNOMON_CPU_ASM_H
#define GNOMON_CPU_ASM_H

#include "base/util.h"

#include <assert.h>

/* Host registers by number. */
enum { H_RAX, H_RCX, H_RDX, H_RBX, H_RSP, H_RBP, H_RSI, H_RDI, H_R8, H_R9, H_R10, H_R11, H_R12, H_R13, H_R14, H_R15 };
#define H_NONE (-1)

struct a_buf {
	uint8_t *p;       /* next byte, in the writable view */
	ptrdiff_t to_rx;  /* from there to the executable view */
};

static inline const uint8_t *a_here(const struct a_buf *a) { return a->p + a->to_rx; }

static inline void a_byte(struct a_buf *a, unsigned v) { *a->p++ = (uint8_t)v; }

/* The low @bytes bytes of @v. */
static inline void a_imm(struct a_buf *a, uint64_t v, unsigned bytes)
{
	memcpy(a->p, &v, bytes);
	a->p += bytes;
}

/* A register, or memory [base + index << scale + disp]. */
struct a_rm {
	bool mem;
	int8_t reg;   /* register number; of memory: the base, or H_NONE */
	int8_t index; /* H_NONE if none */
	uint8_t scale;
	int32_t disp;
};

static inline struct a_rm a_reg(int reg) { return (struct a_rm){.reg = (int8_t)reg, .index = H_NONE}; }
static inline struct a_rm a_mem(int base, int32_t disp)
{
	return (struct a_rm){.mem = true, .reg = (int8_t)base, .index = H_NONE, .disp = disp};
}

static inline struct a_rm a_mem_index(int base, int index, unsigned scale, int32_t disp)
{
	assert(index != H_RSP);
	return (struct a_rm){true, (int8_t)base, (int8_t)index, (uint8_t)scale, disp};
}

struct a_op {
	uint8_t map;    /* 0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A */
	uint8_t opcode;
	bool w;         /* REX.W */
	bool p66;       /* operand-size prefix, or mandatory 66 */
	uint8_t rep;    /* mandatory F2 or F3 */
	bool vex;       /* VEX-encoded, 128 bits or no vectors */
	uint8_t vvvv;   /* ... the register that its prefix names */
	bool byte_reg;  /* register operands 4-7 are SPL..DIL: they need a REX prefix */
};

static inline void a_sib(struct a_buf *a, const struct a_rm *m)
{
	unsigned index = m->index == H_NONE ? 4 : (unsigned)m->index & 7;

	a_byte(a, (unsigned)m->scale << 6 | index << 3 | (m->reg == H_NONE ? 5 : (unsigned)m->reg & 7));
}

static inline void a_modrm(struct a_buf *a, unsigned reg, const struct a_rm *m)
{
	bool sib = m->mem && (m->index != H_NONE || m->reg == H_NONE || (m->reg & 7) == H_RSP);
	unsigned mod, rm = sib ? 4 : (unsigned)m->reg & 7;

	if (!m->mem)
		mod = 3;
	else if (m->reg == H_NONE || (m->disp == 0 && (m->reg & 7) != H_RBP))
		mod = 0;
	else
		mod = m->disp == (int8_t)m->disp ? 1 : 2;
	a_byte(a, mod << 6 | (reg & 7) << 3 | rm);
	if (sib)
		a_sib(a, m);
	if (mod == 1)
		a_imm(a, (uint64_t)m->disp, 1);
	else if (m->mem && (mod == 2 || m->reg == H_NONE))
		a_imm(a, (uint64_t)m->disp, 4);
}

static inline void a_vex(struct a_buf *a, const struct a_op *op, unsigned rex)
{
	unsigned pp = op->p66 ? 1 : op->rep == 0xf3 ? 2 : op->rep == 0xf2 ? 3 : 0;

	a_byte(a, 0xc4);
	a_byte(a, (~rex & 7) << 5 | op->map);
	a_byte(a, (rex & 8) << 4 | (~(unsigned)op->vvvv & 15) << 3 | pp);
}

static inline void a_opcode(struct a_buf *a, const struct a_op *op, unsigned rex, bool force_rex)
{
	if (op->vex) {
		a_vex(a, op, rex);
		return;
	}
	if (op->p66)
		a_byte(a, 0x66);
	if (op->rep)
		a_byte(a, op->rep);
	if (rex || force_rex)
		a_byte(a, 0x40 | rex);
	if (op->map)
		a_byte(a, 0x0f);
	if (op->map == 2)
		a_byte(a, 0x38);
	if (op->map == 3)
		a_byte(a, 0x3a);
}

/* An instruction with a ModRM byte. @reg: register number, or the opcode extension. */
static inline void a_insn(struct a_buf *a, struct a_op op, unsigned reg, struct a_rm rm)
{
	unsigned rex = (op.w ? 8u : 0) | (reg >> 3 & 1) << 2;
	bool force = op.byte_reg && ((reg & 12) == 4 || (!rm.mem && (rm.reg & 12) == 4));

	if (rm.index != H_NONE)
		rex |= (unsigned)rm.index >> 3 << 1;
	if (rm.reg != H_NONE)
		rex |= (unsigned)rm.reg >> 3;
	a_opcode(a, &op, rex, force);
	a_byte(a, op.opcode);
	a_modrm(a, reg, &rm);
}

/* An instruction with the register in the low bits of its opcode. */
static inline void a_insn_short(struct a_buf *a, struct a_op op, unsigned reg)
{
	a_opcode(a, &op, (op.w ? 8u : 0) | reg >> 3, op.byte_reg && (reg & 12) == 4);
	a_byte(a, (op.opcode & 0xf8u) | (reg & 7));
}

/* ---- the instructions that the glue is made of ---- */

#define A_OP(opc)   ((struct a_op){.opcode = (opc)})
#define A_OPW(opc)  ((struct a_op){.opcode = (opc), .w = true})
#define A_OP0F(opc) ((struct a_op){.map = 1, .opcode = (opc)})

static inline void a_mov(struct a_buf *a, int to, int from) { a_insn(a, A_OPW(0x8b), (unsigned)to, a_reg(from)); }
static inline void a_load(struct a_buf *a, int to, struct a_rm m) { a_insn(a, A_OPW(0x8b), (unsigned)to, m); }
static inline void a_store(struct a_buf *a, struct a_rm m, int from) { a_insn(a, A_OPW(0x89), (unsigned)from, m); }
static inline void a_load32(struct a_buf *a, int to, struct a_rm m) { a_insn(a, A_OP(0x8b), (unsigned)to, m); }
static inline void a_lea(struct a_buf *a, int to, struct a_rm m) { a_insn(a, A_OPW(0x8d), (unsigned)to, m); }

static inline void a_mov_imm(struct a_buf *a, int to, uint64_t v)
{
	if (v <= UINT32_MAX) {
		a_insn_short(a, A_OP(0xb8), (unsigned)to);
		a_imm(a, v, 4);
	} else {
		a_insn_short(a, A_OPW(0xb8), (unsigned)to);
		a_imm(a, v, 8);
	}
}

/* @to = 8 bytes to be set later, at the place returned. */
static inline uint8_t *a_mov_imm64(struct a_buf *a, int to)
{
	a_insn_short(a, A_OPW(0xb8), (unsigned)to);
	a_imm(a, 0, 8);
	return a->p - 8;
}

/* ADD OR ADC SBB AND SUB XOR CMP by number. */
enum { A_ADD, A_OR, A_ADC, A_SBB, A_AND, A_SUB, A_XOR, A_CMP };

static inline void a_alu_imm(struct a_buf *a, unsigned alu, bool wide, struct a_rm rm, int32_t v)
{
	bool small = v == (int8_t)v;

	a_insn(a, (struct a_op){.opcode = small ? 0x83 : 0x81, .w = wide}, alu, rm);
	a_imm(a, (uint64_t)v, small ? 1 : 4);
}

/* @to OP= @rm, 64 bits; for CMP the flags of @to - @rm. */
static inline void a_alu(struct a_buf *a, unsigned alu, int to, struct a_rm rm)
{
	a_insn(a, A_OPW((uint8_t)(alu << 3 | 3)), (unsigned)to, rm);
}

/* SHL 4, SHR 5, SAR 7. */
static inline void a_shift(struct a_buf *a, unsigned which, bool wide, int reg, unsigned count)
{
	a_insn(a, (struct a_op){.opcode = 0xc1, .w = wide}, which, a_reg(reg));
	a_byte(a, count);
}

/* ---- jumps: to a known place in the executable view, or to be set later ---- */

/* Where the 4-byte distance of a jump stands. */
static inline void a_patch(struct a_buf *a, uint8_t *rel32, const uint8_t *to_rx)
{
	int32_t d = (int32_t)(to_rx - (rel32 + 4 + a->to_rx));

	memcpy(rel32, &d, 4);
}

static inline uint8_t *a_jcc(struct a_buf *a, unsigned cond)
{
	a_byte(a, 0x0f);
	a_byte(a, 0x80 | cond);
	a->p += 4;
	return a->p - 4;
}

static inline uint8_t *a_jmp(struct a_buf *a)
{
	a_byte(a, 0xe9);
	a->p += 4;
	return a->p - 4;
}

static inline void a_jmp_to(struct a_buf *a, const uint8_t *to) { a_patch(a, a_jmp(a), to); }
static inline void a_patch_here(struct a_buf *a, uint8_t *rel32) { a_patch(a, rel32, a_here(a)); }

static inline void a_call_to(struct a_buf *a, const uint8_t *to)
{
	a_byte(a, 0xe8);
	a->p += 4;
	a_patch(a, a->p - 4, to);
}

static inline void a_jmp_reg(struct a_buf *a, int reg) { a_insn(a, A_OP(0xff), 4, a_reg(reg)); }
static inline void a_call_reg(struct a_buf *a, int reg) { a_insn(a, A_OP(0xff), 2, a_reg(reg)); }

#endif
