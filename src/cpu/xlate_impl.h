/* What the parts of the translator share: host registers, the instruction's description, the code buffer. */
#ifndef GNOMON_CPU_XLATE_IMPL_H
#define GNOMON_CPU_XLATE_IMPL_H

#include "base/code_memory.h"
#include "cpu/asm.h"
#include "cpu/decode.h"
#include "cpu/xlate.h"

/* ---- registers ---- */

/*
 * Guest registers live in the host's of the same name, so that implicit operands and AH..BH need no thought;
 * but RSP is in R9, and R9, R10, R11, R14 and R15 stay in memory: they are the rarest in compiled code.
 */
#define H_GUEST_RSP H_R9
#define H_S1  H_R11 /* scratch */
#define H_S2  H_R10
#define H_CLOCK H_R14 /* cpu->mmu.clock */
#define H_CPU H_R15 /* struct cpu + CPU_BIAS */
#define CPU_BIAS 128 /* the fields used most are within a one-byte displacement */

/* Host register of guest register @g, or H_NONE if it is in memory. */
static inline int host_reg(unsigned g)
{
	return g == RSP ? H_GUEST_RSP : (g >= R9 && g <= R11) || g >= R14 ? H_NONE : (int)g;
}

#define CPU_MEM(field) a_mem(H_CPU, (int32_t)offsetof(struct cpu, field) - CPU_BIAS)
static inline struct a_rm gpr_mem(unsigned g)
{
	return a_mem(H_CPU, (int32_t)(offsetof(struct cpu, gpr) + 8 * g) - CPU_BIAS);
}

/* ---- an instruction as the translator sees it ---- */

enum xkind {
	X_CALL,     /* by its execute function */
	X_SELF,     /* itself, with its operands replaced */
	X_NOTHING,
	X_LEA, X_PUSH, X_PUSH_MEM, X_POP, X_LEAVE, X_DIV,
	X_CLI, X_SWAPGS,
	X_VMOV, X_VZEROUPPER, /* AVX: between a vector register and memory; the upper halves of all */
	X_STAC, X_CLAC, /* change the data-access mode, within a block */
	X_JMP, X_JCC, X_CALL_REL, X_RET, X_JMP_IND, X_CALL_IND, /* always last in a block */
};

enum xreg_place { XREG_NONE, XREG_MODRM, XREG_OPCODE };

#define XF_ALL 0x8d5u /* the arithmetic flags, as in RFLAGS */

struct xinsn {
	enum xkind kind;
	struct a_op op;
	bool modrm;
	uint8_t ext;          /* ModRM.reg where it extends the opcode */
	enum xreg_place reg_place;
	int8_t reg, rm;       /* general registers, by guest number, or vector registers; -1 none */
	bool reg_vec, rm_vec;
	bool vec;             /* works on vector registers: SSE must be in force, and they must be loaded */
	bool vec_loads;       /* changes MXCSR or vector registers in its own way */
	bool reg_high, rm_high; /* AH, CH, DH, BH */
	bool reg_load, reg_store, rm_load, rm_store;
	bool mem, mem_write;
	uint8_t mem_bytes;
	bool mem_aligned;     /* must lie at a multiple of its size */
	uint8_t imm_bytes;
	uint64_t imm;
	uint16_t tests;       /* flags it depends on, as in RFLAGS */
	uint16_t sets;        /* flags it may change */
	uint16_t keeps;       /* flags it may leave as they were; 0: it sets all, whatever they were */
	bool rotate;          /* a rotation by an immediate: OF depends on the encoding */
	uint16_t writes;      /* general registers it changes, by bit */
};

/* Describes the instruction that @u was lowered from. What the list does not have becomes X_CALL. */
void xinsn_describe(const struct insn *in, const struct uop *u, struct xinsn *x);

/* ---- the code buffer and what stands at its beginning ---- */

/*
 * Each block moves the clock of the TLB model on by as many ticks for each of its instructions, to a multiple of so
 * many, and each access within it by one more, which are taken back at its end. So the clock gives the number of
 * instructions, and the order of all accesses.
 */
#define XTICKS_SHIFT 7
#define XTICKS (1u << XTICKS_SHIFT)
static_assert(2 * BLOCK_INSNS_MAX < XTICKS, "at most two accesses to an instruction");

#define XMODES MODE_USER_ALIGN /* host code exists for the modes before this one */
#define XBLOCK_MOST (48u << 10) /* host code of one block, at most */
#define XPARTS 8 /* blocks laid into one's host code, at most, */
#define XTAIL_INSNS 64u /* and their instructions but the first's: so many may follow where the limit is looked at */
/*
 * Host code stops so long before the deadline: behind the block that ends there, nothing is fetched before the event
 * that is due, after which that page may be the last to be looked at.
 */
#define XMARGIN (XTAIL_INSNS + 1)
#define XLINKS_MOST (2 * XPARTS)
#define XLINK_CHUNK 4096u /* that many are allocated at a time; code refers to them, so they stay where they are */
#define XCODE_BYTES_MAX (1ull << 30)
#define XLINK_CHUNKS (XCODE_BYTES_MAX / 128 / XLINK_CHUNK)

struct translator {
	struct a_buf out;
	struct code_memory code;
	uint8_t *first;          /* behind the fixed routines */
	uint32_t generation;     /* of the buffer's contents: block->xgeneration */
	struct xlink *links[XLINK_CHUNKS];
	unsigned link_count, link_most;
	struct xcache_entry cache[XMODES][XCACHE_SLOTS];

	/* The fixed routines. */
	int (*enter)(struct cpu *cpu, const uint8_t *code);
	const uint8_t *leave;          /* to C with EXEC_NEXT; S1: struct xlink, or 0 */
	/* S1: offset of the uop in the block S2; returns to its caller. [1]: vector registers are loaded after. */
	const uint8_t *call_uop[2];
	const uint8_t *send_for;       /* S1: linear address of data that the fast lookup does not serve; changes S1, S2, flags */
	const uint8_t *gone;           /* of a block that is no more: to C, RIP is in its slot */
	const uint8_t *zero_upper;     /* VZEROUPPER; changes S1, no flags */
	const uint8_t *load_vec;       /* loads the vector registers; S1 = 0: they cannot be used now */
	const uint8_t *resolve[XMODES]; /* S1: linear address, in RIP's slot too: fetches, finds the code to jump to: S1 */
};

/* Displacement of the L1 instruction TLB's fast lookup from H_CPU. */
static inline int32_t l1i_slots(const struct cpu *cpu, unsigned mode)
{
	return (int32_t)((const uint8_t *)&cpu->mmu.l1i.fast.slot[mode][0] - (const uint8_t *)cpu) - CPU_BIAS;
}

/* @to = offset of the slot of linear address @from in a row of the fast lookup. Changes flags. */
static inline void emit_slot_offset(struct a_buf *a, int to, int from)
{
	static_assert(sizeof(struct fast_entry) == 32, "the shift");
	a_mov(a, to, from);
	a_shift(a, 5, true, to, FAST_SLOTS_SHIFT);
	a_alu(a, A_XOR, to, a_reg(from));
	a_shift(a, 5, false, to, PAGE_SHIFT - 5);
	a_alu_imm(a, A_AND, false, a_reg(to), (FAST_SLOTS - 1) << 5);
}

/* @to: what the jump would lead to is laid in its place; NULL: it is tied to nothing. */
struct xlink *xlate_link_new(struct translator *x, const struct xlink *l, struct block *to);
/* Emits host code for @b; there is room. Returns its entry. */
const uint8_t *xlate_block(struct cpu *cpu, struct translator *x, struct block *b, unsigned mode);

static inline struct xcache_entry *xcache_slot(struct translator *x, unsigned mode, uint64_t lin)
{
	return &x->cache[mode][(lin ^ lin >> PAGE_SHIFT) & (XCACHE_SLOTS - 1)];
}

#endif
