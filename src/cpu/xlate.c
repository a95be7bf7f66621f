/*
 * The translator's code buffer: its fixed routines, jumps that are tied to blocks, and when to
 * translate. What a block becomes is in xlate_block.c.
 *
 * The buffer is a memory file mapped twice, writable and executable, so that no mapping is both.
 * Space is not reclaimed piecemeal: when the buffer is full everything in it is forgotten. That and all other
 * changes of code happen in C, between two runs of host code or in a call from it to an execute
 * function, which goes on only to code that is still there.
 */
#include "cpu/xlate.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/vector.h"
#include "cpu/xlate_impl.h"

/* Host code comes back this often, to look at cpu->kick. */
#define STRETCH 65536u

/* ---- what host code calls ---- */

#define EXEC_ONWARD 5 /* go on in host code at RIP, in whatever mode */

/* The uop @u has ended the block: is there nothing to do but to go on behind it? */
static bool goes_on(struct cpu *cpu, const struct block *b, const struct uop *u)
{
	uint64_t done = (uint64_t)(u - b->uop) + 1;

	if (cpu->code_bits != 64 || cpu->mode >= XMODES || cpu->xlate->smap != !!(cpu->cr4 & CR4_SMAP))
		return false;
	cpu->insns += done;
	if (cpu->insns > cpu->xlimit || !cpu_boundary_quiet(cpu)) {
		cpu->insns -= done;
		return false;
	}
	cpu->xbudget = cpu->xlimit - cpu->insns; /* the instruction may have counted itself otherwise */
	if (!(u->flags & UOP_SETS_RIP))
		cpu->gpr[REG_RIP] += (uint64_t)u->off + u->len;
	cpu->fetch_page = FAST_INVALID;
	return true;
}

/*
 * Executes the uop at @u of @b. If it does not simply go on to the next, or the next has been
 * written over, says so and where in cpu->xexit.
 */
static int call_uop(struct cpu *cpu, struct block *b, const struct uop *u)
{
	int st;

	cpu->insns = cpu->xlimit - cpu->xbudget - b->insns;
	cpu->gpr[REG_RIP] = cpu->fetch_page | (b->hpa & ~PAGE_MASK);
	st = u->exec(cpu, u);
	if (likely(st == EXEC_NEXT) && (u->flags & UOP_SETS_RIP || b->hpa != BLOCK_NO_HPA))
		return EXEC_NEXT;
	if (st == EXEC_LEAVE && goes_on(cpu, b, u))
		return EXEC_ONWARD;
	if (st == EXEC_NEXT) {
		st = EXEC_STALE;
		u++;
	}
	cpu->xexit_block = b;
	cpu->xexit_at = u;
	return st;
}

/* ---- the fixed routines ---- */

static const uint8_t saved_regs[] = {H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15};

static void emit_push_host(struct a_buf *a, unsigned reg) { a_insn_short(a, A_OP(0x50), reg); }
static void emit_pop_host(struct a_buf *a, unsigned reg) { a_insn_short(a, A_OP(0x58), reg); }
static void emit_ret_host(struct a_buf *a) { a_byte(a, 0xc3); }

static void emit_guest_load(struct a_buf *a)
{
	for (unsigned g = RAX; g <= R15; g++)
		if (host_reg(g) != H_NONE)
			a_load(a, host_reg(g), gpr_mem(g));
}

static void emit_guest_store(struct a_buf *a)
{
	for (unsigned g = RAX; g <= R15; g++)
		if (host_reg(g) != H_NONE)
			a_store(a, gpr_mem(g), host_reg(g));
	a_store(a, CPU_MEM(xbudget), H_BUDGET);
}

/* Back to xlate_run() with EAX; the stack is as enter left it. */
static void emit_epilogue(struct a_buf *a)
{
	a_lea(a, H_RSP, a_mem(H_RSP, 8));
	for (unsigned i = ARRAY_SIZE(saved_regs); i-- > 0;)
		emit_pop_host(a, saved_regs[i]);
	emit_ret_host(a);
}

static void emit_enter(struct translator *x)
{
	struct a_buf *a = &x->out;
	const uint8_t *here = a_here(a);

	memcpy(&x->enter, &here, sizeof(here));
	for (unsigned i = 0; i < ARRAY_SIZE(saved_regs); i++)
		emit_push_host(a, saved_regs[i]);
	a_lea(a, H_RSP, a_mem(H_RSP, -8)); /* calls from host code find the stack aligned on 16 bytes */
	a_lea(a, H_CPU, a_mem(H_RDI, CPU_BIAS));
	a_mov(a, H_S1, H_RSI);
	a_load(a, H_BUDGET, CPU_MEM(xbudget));
	emit_guest_load(a);
	a_jmp_reg(a, H_S1);
}

/* ---- vector registers ---- */

static void emit_vec_moves(struct a_buf *a, bool store)
{
	for (unsigned i = 0; i < 16; i++) /* MOVAPS */
		a_insn(a, A_OP0F(store ? 0x29 : 0x28), i,
		       a_mem(H_CPU, (int32_t)(offsetof(struct cpu, fpu) + FX_XMM(i)) - CPU_BIAS));
}

static struct a_rm mxcsr_mem(void)
{
	return a_mem(H_CPU, (int32_t)(offsetof(struct cpu, fpu) + FX_MXCSR) - CPU_BIAS);
}

#define LDMXCSR 2
#define STMXCSR 3

static uint8_t *emit_unless_vec(struct a_buf *a)
{
	a_insn(a, A_OP(0x80), A_CMP, CPU_MEM(xvec));
	a_byte(a, 0);
	return a_jcc(a, 4);
}

/* If they are in the host's registers, back to memory. Changes flags. */
static void emit_vec_store(struct a_buf *a)
{
	uint8_t *skip = emit_unless_vec(a);

	emit_vec_moves(a, true);
	a_insn(a, A_OP0F(0xae), STMXCSR, mxcsr_mem());
	a_insn(a, A_OP0F(0xae), LDMXCSR, CPU_MEM(xmxcsr));
	a_insn(a, A_OP(0xc6), 0, CPU_MEM(xvec));
	a_byte(a, 0);
	a_patch_here(a, skip);
}

static void emit_vec_load(struct a_buf *a)
{
	emit_vec_moves(a, false);
	a_insn(a, A_OP0F(0xae), STMXCSR, CPU_MEM(xmxcsr));
	a_insn(a, A_OP0F(0xae), LDMXCSR, mxcsr_mem());
	a_insn(a, A_OP(0xc6), 0, CPU_MEM(xvec));
	a_byte(a, 1);
}

/*
 * SSE must be in force, and all of its exceptions masked: otherwise the interpreter knows what to do. Neither
 * changes within a block.
 */
static void emit_load_vec_routine(struct translator *x)
{
	struct a_buf *a = &x->out;
	uint8_t *no[3];

	x->load_vec = a_here(a);
	a_load32(a, H_S1, CPU_MEM(cr0));
	a_alu_imm(a, A_AND, false, a_reg(H_S1), CR0_EM | CR0_TS);
	no[0] = a_jcc(a, 5);
	a_load32(a, H_S1, CPU_MEM(cr4));
	a_alu_imm(a, A_AND, false, a_reg(H_S1), CR4_OSFXSR);
	no[1] = a_jcc(a, 4);
	a_load32(a, H_S1, mxcsr_mem());
	a_alu_imm(a, A_AND, false, a_reg(H_S1), (int32_t)(MXCSR_MASKS | ~MXCSR_VALID));
	a_alu_imm(a, A_CMP, false, a_reg(H_S1), MXCSR_MASKS);
	no[2] = a_jcc(a, 5);
	emit_vec_load(a);
	a_mov_imm(a, H_S1, 1);
	emit_ret_host(a);
	for (unsigned i = 0; i < ARRAY_SIZE(no); i++)
		a_patch_here(a, no[i]);
	a_insn(a, A_OP(0xc6), 0, CPU_MEM(xvec_off));
	a_byte(a, 1);
	a_mov_imm(a, H_S1, 0);
	emit_ret_host(a);
}

/* ---- ways out ---- */

static void emit_leave_routine(struct translator *x)
{
	struct a_buf *a = &x->out;

	x->leave = a_here(a);
	a_store(a, CPU_MEM(xlink), H_S1);
	emit_guest_store(a);
	emit_vec_store(a);
	a_mov_imm(a, H_RAX, EXEC_NEXT);
	emit_epilogue(a);
}

static void emit_call_c(struct a_buf *a, uint64_t fn)
{
	a_lea(a, H_RSP, a_mem(H_RSP, -8));
	a_mov_imm(a, H_RAX, fn);
	a_call_reg(a, H_RAX);
	a_lea(a, H_RSP, a_mem(H_RSP, 8));
}

/* Code at RIP, in the mode that is now in force: from a subroutine that does not return. */
static void emit_onward(struct translator *x)
{
	struct a_buf *a = &x->out;

	a_lea(a, H_RSP, a_mem(H_RSP, 8));
	emit_guest_load(a);
	a_insn(a, A_OP0F(0xb6), H_S2, CPU_MEM(mode));
	a_mov_imm(a, H_S1, (uint64_t)(uintptr_t)&x->resolve[0]);
	a_load(a, H_S2, a_mem_index(H_S1, H_S2, 3, 0));
	a_load(a, H_S1, gpr_mem(REG_RIP));
	a_load(a, H_BUDGET, CPU_MEM(xbudget));
	a_call_reg(a, H_S2);
	a_jmp_reg(a, H_S1);
}

static void emit_call_uop_routine(struct translator *x, bool vec)
{
	static const uint8_t add_sahf[] = {0x04, 0x7f, 0x9e}; /* to host flags, as in xlate_block.c */
	struct a_buf *a = &x->out;
	uint8_t *out, *stop;

	x->call_uop[vec] = a_here(a);
	emit_guest_store(a);
	emit_vec_store(a);
	a_lea(a, H_RDI, a_mem(H_CPU, -CPU_BIAS));
	a_mov(a, H_RSI, H_S2);
	a_lea(a, H_RDX, a_mem_index(H_S2, H_S1, 0, 0));
	emit_call_c(a, (uint64_t)(uintptr_t)&call_uop);
	a_insn(a, A_OP(0x85), H_RAX, a_reg(H_RAX));
	out = a_jcc(a, 5);
	if (vec)
		emit_vec_load(a);
	a_insn(a, A_OP0F(0xb7), H_RAX, CPU_MEM(cc));
	memcpy(a->p, add_sahf, sizeof(add_sahf));
	a->p += sizeof(add_sahf);
	emit_guest_load(a);
	emit_ret_host(a);
	a_patch_here(a, out);
	a_alu_imm(a, A_CMP, false, a_reg(H_RAX), EXEC_ONWARD);
	stop = a_jcc(a, 5);
	emit_onward(x);
	a_patch_here(a, stop);
	a_lea(a, H_RSP, a_mem(H_RSP, 8)); /* not back to the caller */
	emit_epilogue(a);
}

/* ---- data that other than the most recently used entry of the L1 TLB maps ---- */

static bool touch_read(struct cpu *cpu, uint64_t page)
{
	return mmu_fast_touch(&cpu->mmu, &cpu->mmu.l1d, page, ACCESS_READ, (enum access_mode)cpu->mode);
}

static bool touch_write(struct cpu *cpu, uint64_t page)
{
	return mmu_fast_touch(&cpu->mmu, &cpu->mmu.l1d, page, ACCESS_WRITE, (enum access_mode)cpu->mode);
}

static int32_t l1d_slot(const struct cpu *cpu, unsigned mode)
{
	return (int32_t)((const uint8_t *)&cpu->mmu.l1d.fast.slot[mode][0] - (const uint8_t *)cpu) - CPU_BIAS;
}

/* Registers that guest registers are saved from, for a routine to work with. */
static void emit_save_some(struct a_buf *a, const uint8_t *guest, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		a_store(a, gpr_mem(guest[i]), host_reg(guest[i]));
}

static void emit_load_some(struct a_buf *a, const uint8_t *guest, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		a_load(a, host_reg(guest[i]), gpr_mem(guest[i]));
}

static const uint8_t touch_work[] = {RAX, RCX, RDX, RSI};

/* The tag at RSI + @disp from the processor matches no more. */
static void emit_invalid(struct a_buf *a, int32_t disp)
{
	a_insn(a, A_OPW(0xc7), 0, a_mem_index(H_CPU, H_RSI, 0, disp));
	a_imm(a, FAST_INVALID, 4);
}

/*
 * mmu_fast_touch() for what is nearly always the case: another way of the set is the most recently used, and
 * stands in one fast slot. Any other: jumps to one of the places in @rare, nothing changed but S1. RCX: the entry,
 * RDX: the array.
 */
static void emit_touch_common(const struct cpu *cpu, struct a_buf *a, unsigned mode, uint8_t *rare[3])
{
	struct a_rm f = a_mem_index(H_CPU, H_S2, 0, l1d_slot(cpu, mode));

	a_lea(a, H_RAX, f);
	a_load(a, H_RCX, a_mem(H_RAX, offsetof(struct fast_entry, entry)));
	a_load32(a, H_RDX, a_mem(H_RCX, offsetof(struct tlb_entry, generation)));
	a_insn(a, A_OP(0x3b), H_RDX, a_mem(H_RAX, offsetof(struct fast_entry, generation)));
	rare[0] = a_jcc(a, 5);
	a_load(a, H_RDX, a_mem(H_RAX, offsetof(struct fast_entry, array)));
	a_load32(a, H_S1, a_mem(H_RDX, offsetof(struct tlb_array, sets)));
	a_alu_imm(a, A_SUB, false, a_reg(H_S1), 1);
	a_insn(a, A_OP(0x23), H_S1, a_mem(H_RCX, offsetof(struct tlb_entry, tag))); /* S1: the set */
	a_load(a, H_RAX, a_mem(H_RDX, offsetof(struct tlb_array, mru)));
	a_alu(a, A_CMP, H_RCX, a_mem_index(H_RAX, H_S1, 3, 0));
	rare[1] = a_jcc(a, 4);
	a_load(a, H_RDX, a_mem(H_RDX, offsetof(struct tlb_array, slot)));
	a_lea(a, H_RDX, a_mem_index(H_RDX, H_S1, 1, 0));
	a_insn(a, A_OP0F(0xb7), H_RSI, a_mem(H_RDX, 0)); /* RSI: the slot that matches no more */
	a_alu_imm(a, A_CMP, false, a_reg(H_RSI), FAST_SLOTS);
	rare[2] = a_jcc(a, 3);

	a_store(a, a_mem_index(H_RAX, H_S1, 3, 0), H_RCX);
	a_mov(a, H_RAX, H_S2);
	a_shift(a, 5, false, H_RAX, 6);
	a_insn(a, (struct a_op){.opcode = 0x89, .p66 = true}, H_RAX, a_mem(H_RDX, 0));
	a_shift(a, 4, false, H_RSI, 6);
	for (unsigned m = 0; m < XMODES; m++) {
		emit_invalid(a, l1d_slot(cpu, m) + (int32_t)offsetof(struct fast_entry, rtag));
		emit_invalid(a, l1d_slot(cpu, m) + (int32_t)offsetof(struct fast_entry, wtag));
	}
	a_load(a, H_RAX, CPU_MEM(mmu.clock));
	a_lea(a, H_RAX, a_mem(H_RAX, 1));
	a_store(a, CPU_MEM(mmu.clock), H_RAX);
	a_store(a, a_mem(H_RCX, offsetof(struct tlb_entry, stamp)), H_RAX);
	a_lea(a, H_RAX, f);
	a_load(a, H_RCX, a_mem(H_RAX, offsetof(struct fast_entry, any_rtag)));
	a_store(a, a_mem(H_RAX, offsetof(struct fast_entry, rtag)), H_RCX);
	a_load(a, H_RCX, a_mem(H_RAX, offsetof(struct fast_entry, any_wtag)));
	a_store(a, a_mem(H_RAX, offsetof(struct fast_entry, wtag)), H_RCX);
}

/* S1: the page. Calls mmu_fast_touch(); S1: its answer. */
static void emit_touch_call(struct a_buf *a, bool write)
{
	static const uint8_t clobbered[] = {RAX, RCX, RDX, RSI, RDI, R8, RSP};
	uint64_t fn = write ? (uint64_t)(uintptr_t)&touch_write : (uint64_t)(uintptr_t)&touch_read;
	uint8_t *skip;

	emit_save_some(a, clobbered, ARRAY_SIZE(clobbered));
	skip = emit_unless_vec(a);
	emit_vec_moves(a, true);
	a_patch_here(a, skip);
	a_lea(a, H_RDI, a_mem(H_CPU, -CPU_BIAS));
	a_mov(a, H_RSI, H_S1);
	emit_call_c(a, fn);
	a_mov(a, H_S1, H_RAX);
	skip = emit_unless_vec(a);
	emit_vec_moves(a, false);
	a_patch_here(a, skip);
	emit_load_some(a, clobbered, ARRAY_SIZE(clobbered));
}

/* S1: the page, S2: offset of the slot, as the lookup leaves them. Returns with not zero if it will succeed now. */
static void emit_touch_routine(struct cpu *cpu, struct translator *x, unsigned mode, bool write)
{
	int32_t tag = l1d_slot(cpu, mode) +
		      (int32_t)(write ? offsetof(struct fast_entry, any_wtag) : offsetof(struct fast_entry, any_rtag));
	struct a_buf *a = &x->out;
	uint8_t *no, *rare[3];

	x->touch[mode][write] = a_here(a);
	a_alu(a, A_CMP, H_S1, a_mem_index(H_CPU, H_S2, 0, tag));
	no = a_jcc(a, 5);
	emit_save_some(a, touch_work, ARRAY_SIZE(touch_work));
	emit_touch_common(cpu, a, mode, rare);
	emit_load_some(a, touch_work, ARRAY_SIZE(touch_work));
	a_insn(a, A_OPW(0x85), H_CPU, a_reg(H_CPU));
	emit_ret_host(a);

	for (unsigned i = 0; i < ARRAY_SIZE(rare); i++)
		a_patch_here(a, rare[i]);
	emit_load_some(a, touch_work, ARRAY_SIZE(touch_work));
	a_load(a, H_S1, a_mem_index(H_CPU, H_S2, 0, tag));
	emit_touch_call(a, write);
	a_insn(a, (struct a_op){.opcode = 0x84, .byte_reg = true}, H_S1, a_reg(H_S1)); /* bool: the low byte */
	emit_ret_host(a);

	a_patch_here(a, no);
	a_insn(a, A_OP(0x31), H_S1, a_reg(H_S1));
	emit_ret_host(a);
}

/* ---- where to go on ---- */

static int32_t l1i_slot(const struct cpu *cpu, unsigned mode)
{
	return (int32_t)((const uint8_t *)&cpu->mmu.l1i.fast.slot[mode][0] - (const uint8_t *)cpu) - CPU_BIAS;
}

/* From a subroutine of host code. */
static void emit_leave_here(struct translator *x)
{
	a_mov_imm(&x->out, H_S1, 0);
	a_lea(&x->out, H_RSP, a_mem(H_RSP, 8));
	a_jmp_to(&x->out, x->leave);
}

/* S2 is S1's page, not the one executed from last: code_page() in run.c. Keeps S1. */
static void emit_fetch_other(struct cpu *cpu, struct translator *x, unsigned mode, uint8_t *miss[2])
{
	struct a_buf *a = &x->out;

	a_store(a, gpr_mem(RCX), H_RCX);
	a_store(a, gpr_mem(RAX), H_RAX);
	a_mov(a, H_RCX, H_S1);
	a_mov(a, H_RAX, H_S1);
	a_shift(a, 5, true, H_RAX, 8);
	a_alu(a, A_XOR, H_RCX, a_reg(H_RAX));
	a_shift(a, 5, false, H_RCX, 6);
	a_alu_imm(a, A_AND, false, a_reg(H_RCX), (FAST_SLOTS - 1) << 6);
	a_lea(a, H_RCX, a_mem_index(H_CPU, H_RCX, 0, l1i_slot(cpu, mode)));
	a_alu(a, A_CMP, H_S2, a_mem(H_RCX, offsetof(struct fast_entry, any_rtag)));
	miss[0] = a_jcc(a, 5);
	a_load(a, H_RAX, a_mem(H_RCX, offsetof(struct fast_entry, entry)));
	a_load32(a, H_S1, a_mem(H_RCX, offsetof(struct fast_entry, generation)));
	a_insn(a, A_OP(0x3b), H_S1, a_mem(H_RAX, offsetof(struct tlb_entry, generation)));
	miss[1] = a_jcc(a, 5);
	a_load(a, H_S1, CPU_MEM(mmu.clock));
	a_lea(a, H_S1, a_mem(H_S1, 1));
	a_store(a, CPU_MEM(mmu.clock), H_S1);
	a_store(a, a_mem(H_RAX, offsetof(struct tlb_entry, stamp)), H_S1);
	a_store(a, CPU_MEM(fetch_page), H_S2);
	a_alu(a, A_ADD, H_S2, a_mem(H_RCX, offsetof(struct fast_entry, addend)));
	a_mov_imm(a, H_RAX, (uint64_t)(uintptr_t)cpu->mmu.mem->host);
	a_alu(a, A_SUB, H_S2, a_reg(H_RAX));
	a_store(a, CPU_MEM(fetch_hpa), H_S2);
	a_load(a, H_RCX, gpr_mem(RCX));
	a_load(a, H_RAX, gpr_mem(RAX));
	a_load(a, H_S1, gpr_mem(REG_RIP));
}

/*
 * The page of linear address S1, which RIP's slot has too, becomes the one executed from last: as next_block() and
 * code_page() in run.c do it, nothing is asked within the page executed from last, else it must be a hit in the L1
 * instruction TLB, which mmu_fetch_touch() makes known to it. Anything else is left to them.
 */
static void emit_fetch_routine(struct cpu *cpu, struct translator *x, unsigned mode)
{
	struct a_buf *a = &x->out;
	uint8_t *same, *miss[2];

	x->fetch[mode] = a_here(a);
	a_mov(a, H_S2, H_S1);
	a_alu_imm(a, A_AND, true, a_reg(H_S2), (int32_t)PAGE_MASK);
	a_alu(a, A_CMP, H_S2, CPU_MEM(fetch_page));
	same = a_jcc(a, 4);
	emit_fetch_other(cpu, x, mode, miss);
	a_patch_here(a, same);
	emit_ret_host(a);
	a_patch_here(a, miss[0]);
	a_patch_here(a, miss[1]);
	a_load(a, H_RCX, gpr_mem(RCX));
	a_load(a, H_RAX, gpr_mem(RAX));
	emit_leave_here(x);
}

/* The host code for linear address S1 in the page executed from last. */
static void emit_find_routine(struct translator *x, unsigned mode)
{
	struct a_buf *a = &x->out;
	uint8_t *miss[2];

	x->find[mode] = a_here(a);
	a_alu_imm(a, A_AND, false, a_reg(H_S1), (int32_t)~PAGE_MASK);
	/* Whoever begins in the last bytes of a page may need the next. */
	a_alu_imm(a, A_CMP, false, a_reg(H_S1), (int32_t)PAGE_SIZE - 15);
	miss[0] = a_jcc(a, 7);
	a_mov(a, H_S2, H_S1);
	a_alu(a, A_OR, H_S1, CPU_MEM(fetch_hpa));
	a_store(a, CPU_MEM(xtarget), H_S1);
	a_shift(a, 5, true, H_S1, PAGE_SHIFT);
	a_alu(a, A_XOR, H_S2, a_reg(H_S1)); /* the offset, and bits of the page number over it */
	a_alu_imm(a, A_AND, false, a_reg(H_S2), XCACHE_SLOTS - 1);
	a_shift(a, 4, false, H_S2, 4);
	a_mov_imm(a, H_S1, (uint64_t)(uintptr_t)&x->cache[mode][0]);
	a_alu(a, A_ADD, H_S2, a_reg(H_S1));
	a_load(a, H_S1, CPU_MEM(xtarget));
	a_alu(a, A_CMP, H_S1, a_mem(H_S2, offsetof(struct xcache_entry, hpa)));
	miss[1] = a_jcc(a, 5);
	a_load(a, H_S1, a_mem(H_S2, offsetof(struct xcache_entry, code)));
	emit_ret_host(a);
	a_patch_here(a, miss[0]);
	a_patch_here(a, miss[1]);
	emit_leave_here(x);
}

static void emit_resolve_routine(struct cpu *cpu, struct translator *x, unsigned mode)
{
	struct a_buf *a = &x->out;
	uint8_t *same, *miss[2];

	x->resolve[mode] = a_here(a);
	a_mov(a, H_S2, H_S1);
	a_alu_imm(a, A_AND, true, a_reg(H_S2), (int32_t)PAGE_MASK);
	a_alu(a, A_CMP, H_S2, CPU_MEM(fetch_page));
	same = a_jcc(a, 4);
	emit_fetch_other(cpu, x, mode, miss);
	a_patch_here(a, same);
	a_jmp_to(a, x->find[mode]);
	a_patch_here(a, miss[0]);
	a_patch_here(a, miss[1]);
	a_load(a, H_RCX, gpr_mem(RCX));
	a_load(a, H_RAX, gpr_mem(RAX));
	emit_leave_here(x);
}

static void emit_routines(struct cpu *cpu, struct translator *x)
{
	emit_enter(x);
	emit_load_vec_routine(x);
	emit_leave_routine(x);
	emit_call_uop_routine(x, false);
	emit_call_uop_routine(x, true);
	for (unsigned m = 0; m < XMODES; m++) {
		emit_touch_routine(cpu, x, m, false);
		emit_touch_routine(cpu, x, m, true);
		emit_fetch_routine(cpu, x, m);
		emit_find_routine(x, m);
		emit_resolve_routine(cpu, x, m);
	}
}

/* ---- making ---- */

static int map_buffer(struct translator *x, struct error *err)
{
	int fd = memfd_create("gnomon-code", MFD_CLOEXEC), rc = 0;
	void *rw = MAP_FAILED, *rx = MAP_FAILED;

	if (fd < 0)
		return error_set(err, -errno, "translator: memfd_create: %s", strerror(errno));
	if (ftruncate(fd, (off_t)x->bytes) == 0) {
		rw = mmap(NULL, x->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		rx = mmap(NULL, x->bytes, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	}
	if (rw == MAP_FAILED || rx == MAP_FAILED)
		rc = error_set(err, -errno, "translator: no memory for code: %s", strerror(errno));
	close(fd);
	x->rw = rw == MAP_FAILED ? NULL : rw;
	x->rx = rx == MAP_FAILED ? NULL : rx;
	return rc;
}

/* No code anywhere: no block is at BLOCK_NO_HPA, while one may well be at machine address 0. */
static void empty_cache(struct translator *x)
{
	for (unsigned m = 0; m < XMODES; m++)
		for (unsigned i = 0; i < XCACHE_SLOTS; i++)
			x->cache[m][i] = (struct xcache_entry){BLOCK_NO_HPA, NULL};
}

int xlate_create(struct cpu *cpu, struct error *err)
{
	struct translator *x = calloc(1, sizeof(*x));

	cpu->xlate = x;
	if (!x)
		return error_set(err, -ENOMEM, "translator: out of memory");
	x->bytes = (cpu->cfg.code_cache + PAGE_SIZE - 1) & PAGE_MASK;
	if (x->bytes < 4 * XBLOCK_MOST || x->bytes > (1ull << 30))
		return error_set(err, -EINVAL, "translator: a code cache of %llu bytes is outside %u KiB to 1 GiB",
				 (unsigned long long)cpu->cfg.code_cache, 4 * XBLOCK_MOST >> 10);
	x->link_most = (unsigned)(x->bytes / 64);
	x->links = calloc(x->link_most, sizeof(*x->links));
	if (!x->links)
		return error_set(err, -ENOMEM, "translator: out of memory");
	if (map_buffer(x, err))
		return err ? err->code : -ENOMEM;
	x->out = (struct a_buf){.p = x->rw, .to_rx = x->rx - x->rw};
	emit_routines(cpu, x);
	x->first = x->out.p;
	x->generation = 1;
	empty_cache(x);
	return 0;
}

void xlate_destroy(struct cpu *cpu)
{
	struct translator *x = cpu->xlate;

	if (!x)
		return;
	if (x->rw)
		munmap(x->rw, x->bytes);
	if (x->rx)
		munmap((void *)(uintptr_t)x->rx, x->bytes);
	free(x->links);
	free(x);
	cpu->xlate = NULL;
}

void xlate_flush(struct cpu *cpu)
{
	struct translator *x = cpu->xlate;

	if (!x)
		return;
	x->generation++;
	x->out.p = x->first;
	x->link_count = 0;
	cpu->xlink = NULL;
	empty_cache(x);
	cpu->stats.code_flushes++;
}

/* ---- jumps between blocks ---- */

static void link_loosen(struct translator *x, struct xlink *l)
{
	if (l->light) {
		a_patch(&x->out, l->site, l->saving);
		a_patch(&x->out, l->saved_jump, l->loose);
		return;
	}
	a_patch(&x->out, l->site, l->loose);
	if (l->page) {
		put_u64(l->page, BLOCK_NO_HPA);
		a_patch(&x->out, l->differs, l->loose);
	}
}

struct xlink *xlate_link_new(struct translator *x, const struct xlink *from)
{
	struct xlink *l = &x->links[x->link_count++];

	*l = *from;
	link_loosen(x, l);
	return l;
}

static void link_tie_light(struct translator *x, struct xlink *l, const struct block *b, const uint8_t *code)
{
	uint32_t insns = b->insns;

	for (unsigned i = 0; i < ARRAY_SIZE(l->count); i++)
		memcpy(l->count[i], &insns, sizeof(insns));
	a_patch(&x->out, l->light_jump, code);
	a_patch(&x->out, l->site, l->light);
}

static void link_tie(struct translator *x, struct xlink *l, struct block *b, unsigned mode)
{
	const uint8_t *code = b->xcode[mode];

	if (l->light) {
		a_patch(&x->out, l->saved_jump, code);
		if (b->xlight[mode])
			link_tie_light(x, l, b, b->xlight[mode]);
	} else {
		a_patch(&x->out, l->site, code);
	}
	if (l->page) {
		put_u64(l->page, b->hpa & PAGE_MASK);
		a_patch(&x->out, l->differs, l->other);
	}
	l->next = b->xlinks;
	b->xlinks = l;
}

void xlate_forget(struct cpu *cpu, struct block *b)
{
	struct translator *x = cpu->xlate;

	if (!x || b->xgeneration != x->generation)
		return;
	for (struct xlink *l = b->xlinks; l; l = l->next)
		link_loosen(x, l);
	b->xlinks = NULL;
	for (unsigned m = 0; m < XMODES; m++) {
		struct xcache_entry *e = xcache_slot(x, m, b->hpa);

		if (e->hpa == b->hpa)
			*e = (struct xcache_entry){BLOCK_NO_HPA, NULL};
		b->xcode[m] = b->xlight[m] = NULL;
	}
}

/* ---- translating and running ---- */

static bool room(const struct translator *x)
{
	return x->out.p + XBLOCK_MOST <= x->rw + x->bytes && x->link_count + XLINKS_PER_BLOCK <= x->link_most;
}

static const uint8_t *translate(struct cpu *cpu, struct block *b)
{
	struct translator *x = cpu->xlate;

	if (!room(x))
		xlate_flush(cpu);
	if (b->xgeneration != x->generation) {
		b->xgeneration = x->generation;
		b->xlinks = NULL;
		memset(b->xcode, 0, sizeof(b->xcode));
		memset(b->xlight, 0, sizeof(b->xlight));
	}
	b->xcode[cpu->mode] = xlate_block(cpu, x, b, cpu->mode);
	cpu->stats.blocks_translated++;
	return b->xcode[cpu->mode];
}

const uint8_t *xlate_code(struct cpu *cpu, struct block *b)
{
	struct translator *x = cpu->xlate;
	struct xlink *from = cpu->xlink;
	const uint8_t *code = NULL;

	cpu->xlink = NULL;
	if (unlikely(x->smap != !!(cpu->cr4 & CR4_SMAP))) {
		x->smap = !x->smap;
		xlate_flush(cpu);
		from = NULL;
	}
	if (unlikely(cpu->xvec_off)) { /* host code has just refused it */
		cpu->xvec_off = false;
		return NULL;
	}
	if (b->bits != 64 || cpu->mode >= XMODES)
		return NULL;
	/* A block at its page's very end is found by way of the next page too. */
	if ((b->hpa & ~PAGE_MASK) > PAGE_SIZE - 15)
		return NULL;
	if (b->xgeneration == x->generation)
		code = b->xcode[cpu->mode];
	if (!code) {
		uint32_t generation = x->generation;

		if (b->xruns < cpu->cfg.translate_after) {
			b->xruns++;
			return NULL;
		}
		code = translate(cpu, b);
		if (generation != x->generation)
			from = NULL;
	}
	if (from)
		link_tie(x, from, b, cpu->mode);
	*xcache_slot(x, cpu->mode, b->hpa) = (struct xcache_entry){b->hpa, code};
	return code;
}

int xlate_run(struct cpu *cpu, const uint8_t *code, struct xexit *out)
{
	int st;

	cpu->xbudget = min_u64(cpu->deadline - cpu->insns, STRETCH);
	cpu->xlimit = cpu->insns + cpu->xbudget;
	st = cpu->xlate->enter(cpu, code);
	if (st == EXEC_NEXT)
		cpu->insns = cpu->xlimit - cpu->xbudget;
	else
		cpu->xlink = NULL;
	*out = (struct xexit){cpu->xexit_block, cpu->xexit_at};
	return st;
}
