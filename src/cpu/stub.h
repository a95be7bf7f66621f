/*
 * Host stubs: pieces of host code that execute one SSE, MMX or x87 instruction
 * of the guest on the host's own units.
 *
 * Guest and host are the same architecture, so the result of an arithmetic
 * instruction, its flags in MXCSR or the x87 status word and its odd corners are
 * exactly those of hardware if hardware computes them. A stub loads fixed host
 * registers from memory, executes the guest's opcode on them, and stores them
 * back. Stubs are made when an instruction is decoded and shared by all
 * instructions that differ only in their operands' places.
 *
 * VEX-encoded instructions work on a frame that their operands are copied to (struct vex_frame): their
 * registers are in two halves in struct fpu, and there may be four of them.
 *
 * Left out: everything EVEX-encoded, which the processor does not have.
 */
#ifndef GNOMON_CPU_STUB_H
#define GNOMON_CPU_STUB_H

#include "base/error.h"
#include "cpu/cpu.h"

/*
 * Code of a vector stub. Returns the arithmetic flags in the form of cpu/flags.h
 * if the stub was made with STUB_FLAGS; otherwise the value means nothing.
 * @reg: the ModRM.reg operand: 16, 8 (MMX) or 8 (general register) bytes
 * @rm: the ModRM.rm operand: likewise, or a 16-byte aligned buffer in place of memory
 * @fx: FXSAVE64 image: MXCSR (STUB_FP) and XMM0 (STUB_XMM0, STUB_STRING)
 * @gpr: general registers (STUB_STRING: RAX, RDX, RCX)
 */
typedef uint32_t (*vec_stub_fn)(void *reg, void *rm, void *fx, uint64_t *gpr);

/*
 * Code of an x87 stub. The image must have no unmasked exception pending. Returns flags
 * as above for FCOMI and friends, else nothing.
 * @fx: FXSAVE64 image, 16-byte aligned: the x87 state before and after
 * @mem: what a memory operand is read from or written to
 * @cc: arithmetic flags before
 */
typedef uint32_t (*x87_stub_fn)(void *fx, void *mem, uint32_t cc);

enum stub_operand { STUB_NONE, STUB_XMM, STUB_MM, STUB_GPR, STUB_MEM };

/* What a stub does besides the instruction itself. */
#define STUB_FP     0x01u /* run under the image's MXCSR and put the new one there */
#define STUB_FLAGS  0x02u /* return the arithmetic flags */
#define STUB_XMM0   0x04u /* XMM0 is an implicit source */
#define STUB_STRING 0x08u /* PCMPxSTRx: implicit RAX, RDX; ECX or XMM0 is the result */
#define STUB_WREG   0x10u /* the reg operand is written */
#define STUB_WRM    0x20u /* the rm operand is written (registers; memory is always) */

struct stub_desc {
	uint8_t prefix;  /* mandatory prefix: 0, 0x66, 0xf2, 0xf3 */
	bool opsize16;   /* an operand-size prefix besides (CRC32) */
	bool rexw;
	uint8_t map;     /* 1: 0F, 2: 0F 38, 3: 0F 3A */
	uint8_t opcode;
	uint8_t ext;     /* ModRM.reg if it extends the opcode (reg is STUB_NONE) */
	uint8_t reg, rm; /* enum stub_operand */
	bool has_imm;
	uint8_t imm;
	uint8_t flags;   /* STUB_* */
};

/* The operands of a VEX-encoded instruction. stub.c knows the offsets. */
struct vex_frame {
	_Alignas(32) uint8_t reg[32]; /* ModRM.reg: a vector register, or 8 bytes of a general one */
	uint8_t v[32];   /* VEX.vvvv */
	uint8_t rm[32];  /* ModRM.rm: likewise, or memory */
	uint8_t is4[32]; /* the register in the immediate byte; STUB_STRING: XMM0 as result */
	uint32_t mxcsr, pad; /* STUB_FP */
	uint64_t rax, rdx, rcx; /* STUB_STRING: two sources and a result */
};

/* Returns arithmetic flags as vec_stub_fn does. */
typedef uint32_t (*vex_stub_fn)(struct vex_frame *f);

#define STUB_WV 0x40u /* VEX.vvvv is written */

struct vex_desc {
	uint8_t map, opcode;
	uint8_t pp;      /* as in VEX */
	bool w, l;
	uint8_t ext;     /* ModRM.reg if it extends the opcode (reg is STUB_NONE) */
	uint8_t reg, rm; /* enum stub_operand: STUB_XMM stands for YMM too */
	bool v, is4;     /* has these operands */
	bool has_imm;
	uint8_t imm;
	uint8_t flags;   /* STUB_FP, STUB_FLAGS, STUB_STRING, STUB_WREG, STUB_WRM, STUB_WV */
};

struct host_stubs;

/* Room for stubs, and for their code in bytes: more than there can be. */
#define STUBS_MAX   131072u
#define STUBS_BYTES ((size_t)16 << 20)

/* Makes an empty cache. Returns 0, or -ENOMEM / -errno of the mapping calls with @err set. */
int stubs_create(struct host_stubs **out, struct error *err);
void stubs_destroy(struct host_stubs *s);

/*
 * The stub for an instruction; made if it is not there. NULL if the cache is full, which
 * cannot come about through decoding: the arena holds every instruction there is.
 */
vec_stub_fn stub_vector(struct host_stubs *s, const struct stub_desc *d);
vex_stub_fn stub_vex(struct host_stubs *s, const struct vex_desc *d);
/* @escape: 0xd8-0xdf, @modrm: as in the instruction (for a memory operand only the reg field matters) */
x87_stub_fn stub_x87(struct host_stubs *s, uint8_t escape, uint8_t modrm);

/* How many stubs there are, and bytes of code in them: for tests and statistics. */
unsigned stubs_count(const struct host_stubs *s);
size_t stubs_bytes(const struct host_stubs *s);

#endif
