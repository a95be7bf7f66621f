/*
 * What the files of the vector and floating-point group share: insn_sse.c, insn_avx.c,
 * insn_x87.c, insn_xsave.c.
 */
#ifndef GNOMON_CPU_VECTOR_H
#define GNOMON_CPU_VECTOR_H

#include "cpu/access.h"
#include "cpu/decode.h"

/* Parts of the group, as lower_fn; given only instructions that are theirs. */
bool lower_x87(struct insn *in, struct uop *u);
bool lower_xsave(struct insn *in, struct uop *u);
bool lower_avx(struct insn *in, struct uop *u); /* false: not of AVX, AVX2, FMA, F16C */

/* x87 status and control words */
#define FSW_FLAGS 0x3fu  /* IE DE ZE OE UE PE */
#define FSW_SF    0x40u
#define FSW_ES    0x80u
#define FSW_B     0x8000u
#define FSW_TOP   0x3800u
#define FCW_MASKS 0x3fu
#define FCW_KEEP  0x1f3fu /* bits that a load can change */
#define FCW_ONE   0x40u   /* always 1 */
#define FCW_INIT  0x37fu

#define MXCSR_FLAGS 0x3fu
#define MXCSR_MASKS 0x1f80u
#define MXCSR_FZ    0x8000u
#define MXCSR_VALID 0xffffu /* MXCSR_MASK: everything else is reserved */
#define MXCSR_INIT  0x1f80u

static inline unsigned fpu_top(const struct fpu *f) { return get_u16(f->fx + FX_FSW) >> 11 & 7; }

/* Is an unmasked x87 exception pending? From the flags: ES follows them. */
static inline bool fpu_pending(const struct fpu *f)
{
	return get_u16(f->fx + FX_FSW) & ~get_u16(f->fx + FX_FCW) & FSW_FLAGS;
}

/* Stores status and control words with ES and B following from flags and masks, as the hardware has it. */
static inline void fpu_set_words(struct fpu *f, uint16_t fcw, uint16_t fsw)
{
	fcw = (uint16_t)((fcw & FCW_KEEP) | FCW_ONE);
	fsw &= (uint16_t)~(FSW_ES | FSW_B);
	if (fsw & ~fcw & FSW_FLAGS)
		fsw |= FSW_ES | FSW_B;
	put_u16(f->fx + FX_FCW, fcw);
	put_u16(f->fx + FX_FSW, fsw);
}

/* FNINIT: control, status, tags and pointers; the registers keep their contents. */
void fpu_init(struct fpu *f);
/* Changes TOP without changing what the physical registers hold (the image is in stack order). */
void fpu_set_top(struct fpu *f, unsigned top);
/*
 * Alignment of an operand larger than 8 bytes: #AC if alignment checks are on and
 * @lin is no multiple of @checked bytes; #GP(0) if it is no multiple of @required.
 * An address that is not even canonical counts first. Returns 0 or EXEC_STOP.
 */
int vec_check_alignment(struct cpu *cpu, uint64_t lin, unsigned checked, unsigned required);
/*
 * MASKMOVQ and its kin: writes the bytes of @data at segment:RDI whose byte of @mask has its highest bit set. All of them
 * can fault. u->src is the segment, u->imm the operand's size in bytes. Returns enum exec_status.
 */
int vec_store_selected(struct cpu *cpu, const struct uop *u, const uint8_t *data, const uint8_t *mask);
/*
 * Reads or writes a save area: any size up to a page. A write that fails has
 * written nothing. Return 0 or EXEC_STOP.
 */
int fpu_read_area(struct cpu *cpu, uint64_t lin, void *buf, unsigned bytes);
int fpu_write_area(struct cpu *cpu, uint64_t lin, const void *buf, unsigned bytes);

#endif
