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

#include "cpu/vector.h"
#include "cpu/xlate_impl.h"

/* Host code comes back this often, to look at cpu->kick. */
#define STRETCH 65536u

/* ---- what host code calls ---- */

static uint64_t next_multiple(uint64_t clock) { return (clock + XTICKS - 1) & ~(uint64_t)(XTICKS - 1); }

/* Host code is entered with cpu->insns complete and may begin @budget more. */
static void start_clock(struct cpu *cpu, uint64_t budget)
{
	cpu->mmu.clock = next_multiple(cpu->mmu.clock);
	cpu->xinsns = cpu->insns;
	cpu->xbase = cpu->mmu.clock;
	cpu->xlimit = cpu->xbase + (budget << XTICKS_SHIFT);
}

static uint64_t insns_by_clock(const struct cpu *cpu)
{
	return cpu->xinsns + ((cpu->mmu.clock - cpu->xbase) >> XTICKS_SHIFT);
}

/* An execute function has moved the clock on from @before, too: that is no instructions. Back to a multiple. */
static void settle_clock(struct cpu *cpu, uint64_t before)
{
	uint64_t at = before & ~(uint64_t)(XTICKS - 1), more = 0;

	if (cpu->mmu.clock != before)
		more = next_multiple(cpu->mmu.clock) - at;
	cpu->xbase += more;
	cpu->xlimit += more;
	cpu->mmu.clock = at + more;
}

#define EXEC_ONWARD 5 /* go on in host code at RIP, in whatever mode */

/* The uop @u has ended the block: is there nothing to do but to go on behind it? */
static bool goes_on(struct cpu *cpu, const struct block *b, const struct uop *u)
{
	uint64_t done = (uint64_t)(u - b->uop) + 1, limit = cpu->xinsns + ((cpu->xlimit - cpu->xbase) >> XTICKS_SHIFT);

	if (cpu->code_bits != 64 || cpu->mode >= XMODES)
		return false;
	cpu->insns += done;
	if (cpu->insns > limit || !cpu_boundary_quiet(cpu)) {
		cpu->insns -= done;
		return false;
	}
	start_clock(cpu, limit - cpu->insns); /* not by the clock: the instruction may have counted itself otherwise */
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
	uint64_t clock = cpu->mmu.clock;
	int st;

	cpu->insns = insns_by_clock(cpu) - b->insns;
	cpu->gpr[REG_RIP] = cpu->fetch_page | (b->hpa & ~PAGE_MASK);
	st = u->exec(cpu, u);
	if (likely(st == EXEC_NEXT) && (u->flags & UOP_SETS_RIP || b->hpa != BLOCK_NO_HPA)) {
		settle_clock(cpu, clock);
		return EXEC_NEXT;
	}
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
	a_load(a, H_CLOCK, CPU_MEM(mmu.clock));
}

static void emit_guest_store(struct a_buf *a)
{
	for (unsigned g = RAX; g <= R15; g++)
		if (host_reg(g) != H_NONE)
			a_store(a, gpr_mem(g), host_reg(g));
	a_store(a, CPU_MEM(mmu.clock), H_CLOCK);
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

static void emit_zero_upper_routine(struct translator *x)
{
	struct a_buf *a = &x->out;

	x->zero_upper = a_here(a);
	a_mov_imm(a, H_S1, 0);
	for (unsigned i = 0; i < 2 * 16; i++)
		a_store(a, a_mem(H_CPU, (int32_t)(offsetof(struct cpu, fpu.ymm_hi) + 8 * i) - CPU_BIAS), H_S1);
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
	a_call_reg(a, H_S2);
	a_jmp_reg(a, H_S1);
}

/*
 * Sends for the data at S1 where its page was found last (mmu_guess_of()): as long before the data is asked for as can be, before
 * the registers are stored.
 */
static void emit_send_for_routine(const struct cpu *cpu, struct translator *x)
{
	struct a_buf *a = &x->out;
	int32_t guess = (int32_t)((const uint8_t *)cpu->mmu.guess - (const uint8_t *)cpu) - CPU_BIAS;

	x->send_for = a_here(a);
	a_mov(a, H_S2, H_S1);
	a_shift(a, 5, true, H_S2, PAGE_SHIFT);
	a_alu_imm(a, A_AND, false, a_reg(H_S2), MMU_GUESSES - 1);
	a_load32(a, H_S2, a_mem_index(H_CPU, H_S2, 2, guess));
	a_shift(a, 4, true, H_S2, PAGE_SHIFT);
	a_alu_imm(a, A_AND, false, a_reg(H_S1), PAGE_SIZE - 1);
	a_alu(a, A_ADD, H_S1, a_reg(H_S2));
	a_mov_imm(a, H_S2, (uint64_t)(uintptr_t)cpu->mmu.mem->host);
	a_insn(a, A_OP0F(0x18), 1, a_mem_index(H_S1, H_S2, 0, 0)); /* PREFETCHT0 */
	emit_ret_host(a);
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

/* ---- where to go on ---- */

/* From a subroutine of host code. */
static void emit_leave_here(struct translator *x)
{
	a_mov_imm(&x->out, H_S1, 0);
	a_lea(&x->out, H_RSP, a_mem(H_RSP, 8));
	a_jmp_to(&x->out, x->leave);
}

static void emit_gone_routine(struct translator *x)
{
	x->gone = a_here(&x->out);
	a_mov_imm(&x->out, H_S1, 0);
	a_jmp_to(&x->out, x->leave);
}

/*
 * The page of linear address S1, which RIP's slot has too, becomes the one executed from last: as locate() and
 * code_page() in run.c do it, nothing is asked within the page executed from last, else it must be a hit in the L1
 * instruction TLB, which is told so. Anything else is left to them, by the jump returned.
 */
static uint8_t *emit_fetch(struct cpu *cpu, struct translator *x, unsigned mode)
{
	struct a_buf *a = &x->out;
	int32_t slots = l1i_slots(cpu, mode);
	uint8_t *same, *miss;

	a_mov(a, H_S2, H_S1);
	a_alu_imm(a, A_AND, true, a_reg(H_S2), (int32_t)PAGE_MASK);
	a_alu(a, A_CMP, H_S2, CPU_MEM(fetch_page));
	same = a_jcc(a, 4);
	emit_slot_offset(a, H_S2, H_S1);
	a_alu_imm(a, A_AND, true, a_reg(H_S1), (int32_t)PAGE_MASK);
	a_alu(a, A_CMP, H_S1, a_mem_index(H_CPU, H_S2, 0, slots + (int32_t)offsetof(struct fast_entry, rtag)));
	miss = a_jcc(a, 5);
	a_store(a, CPU_MEM(fetch_page), H_S1);
	a_alu(a, A_ADD, H_S1, a_mem_index(H_CPU, H_S2, 0, slots + (int32_t)offsetof(struct fast_entry, addend)));
	a_load(a, H_S2, a_mem_index(H_CPU, H_S2, 0, slots + (int32_t)offsetof(struct fast_entry, entry)));
	a_store(a, a_mem(H_S2, offsetof(struct tlb_entry, stamp)), H_CLOCK);
	a_store(a, CPU_MEM(fetch_hpa), H_S1);
	a_load(a, H_S1, gpr_mem(REG_RIP));
	a_patch_here(a, same);
	return miss;
}

/* Then the host code for linear address S1 there. */
static void emit_resolve_routine(struct cpu *cpu, struct translator *x, unsigned mode)
{
	struct a_buf *a = &x->out;
	uint8_t *miss[3];

	static_assert(sizeof(struct xcache_entry) == 32, "the shift");
	x->resolve[mode] = a_here(a);
	miss[0] = emit_fetch(cpu, x, mode);
	a_mov(a, H_S2, H_S1);
	a_shift(a, 5, true, H_S2, PAGE_SHIFT);
	a_alu(a, A_XOR, H_S2, a_reg(H_S1));
	a_alu_imm(a, A_AND, false, a_reg(H_S2), XCACHE_SLOTS - 1);
	a_shift(a, 4, false, H_S2, 5);
	a_alu(a, A_ADD, H_S2, CPU_MEM(xcache[mode]));
	a_alu(a, A_CMP, H_S1, a_mem(H_S2, offsetof(struct xcache_entry, lin)));
	miss[1] = a_jcc(a, 5);
	a_load(a, H_S1, a_mem(H_S2, offsetof(struct xcache_entry, page)));
	a_alu(a, A_CMP, H_S1, CPU_MEM(fetch_hpa));
	miss[2] = a_jcc(a, 5);
	a_load(a, H_S1, a_mem(H_S2, offsetof(struct xcache_entry, code)));
	emit_ret_host(a);
	for (unsigned i = 0; i < ARRAY_SIZE(miss); i++)
		a_patch_here(a, miss[i]);
	emit_leave_here(x);
}

static void emit_routines(struct cpu *cpu, struct translator *x)
{
	emit_enter(x);
	emit_load_vec_routine(x);
	emit_zero_upper_routine(x);
	emit_leave_routine(x);
	emit_gone_routine(x);
	emit_send_for_routine(cpu, x);
	emit_call_uop_routine(x, false);
	emit_call_uop_routine(x, true);
	for (unsigned m = 0; m < XMODES; m++)
		emit_resolve_routine(cpu, x, m);
}

/* ---- making ---- */

/*
 * No code anywhere. An entry of zeroes is found by linear address 0 alone, so in the first slot: BLOCK_NO_HPA is no page,
 * while machine address 0 may well be one.
 */
static void empty_cache(struct translator *x)
{
	memset(x->cache, 0, sizeof(x->cache));
	for (unsigned m = 0; m < XMODES; m++)
		x->cache[m][0].page = BLOCK_NO_HPA;
}

int xlate_create(struct cpu *cpu, struct error *err)
{
	struct translator *x = calloc(1, sizeof(*x));
	uint64_t bytes;
	int r;

	cpu->xlate = x;
	if (!x)
		return error_set(err, -ENOMEM, "translator: out of memory");
	bytes = (cpu->cfg.code_cache + PAGE_SIZE - 1) & PAGE_MASK;
	if (bytes < 4 * XBLOCK_MOST || bytes > XCODE_BYTES_MAX)
		return error_set(err, -EINVAL, "translator: a code cache of %llu bytes is outside %u KiB to 1 GiB",
				 (unsigned long long)cpu->cfg.code_cache, 4 * XBLOCK_MOST >> 10);
	x->link_most = (unsigned)(bytes / 128); /* its code out of line alone is about as long */
	x->links[0] = calloc(XLINK_CHUNK, sizeof(*x->links[0]));
	if (!x->links[0])
		return error_set(err, -ENOMEM, "translator: out of memory");
	r = code_memory_map(&x->code, bytes, "translator", err);
	if (r)
		return r;
	x->out = (struct a_buf){.p = x->code.rw, .to_rx = x->code.rx - x->code.rw};
	for (unsigned m = 0; m < XMODES; m++)
		cpu->xcache[m] = x->cache[m];
	code_memory_reach(&x->code, XBLOCK_MOST);
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
	code_memory_unmap(&x->code);
	for (unsigned i = 0; i < XLINK_CHUNKS; i++)
		free(x->links[i]);
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

/* The comparisons in front of a jump that may leave the page never succeed: no such difference is odd. */
static void link_close(struct translator *x, struct xlink *l)
{
	put_u64(l->addend, 1);
	a_patch(&x->out, l->same, l->missed);
	a_patch(&x->out, l->differs, l->loose);
}

static void link_point(struct translator *x, struct xlink *l, const uint8_t *to)
{
	static const uint8_t nop[] = {0x0f, 0x1f, 0x44, 0x00, 0x00};

	if (l->jmp && to == l->site + 4 + x->out.to_rx) {
		memcpy(l->site - 1, nop, sizeof(nop));
		return;
	}
	if (l->jmp)
		l->site[-1] = 0xe9;
	a_patch(&x->out, l->site, to);
}

static void link_loosen(struct translator *x, struct xlink *l)
{
	if (l->light) {
		link_point(x, l, l->saving);
		a_patch(&x->out, l->saved_jump, l->loose);
	} else {
		link_point(x, l, l->loose);
	}
	if (l->lin)
		link_close(x, l);
}

/* What is known of @b is of another filling of the buffer: nothing. */
static void renew_block(const struct translator *x, struct block *b)
{
	if (b->xgeneration == x->generation)
		return;
	b->xgeneration = x->generation;
	b->xlinks = NULL;
	memset(b->xcode, 0, sizeof(b->xcode));
	memset(b->xlight, 0, sizeof(b->xlight));
}

static void link_register(struct xlink *l, struct block *b)
{
	l->next = b->xlinks;
	b->xlinks = l;
}

struct xlink *xlate_link_new(struct translator *x, const struct xlink *from, struct block *to)
{
	struct xlink *l = &x->links[x->link_count / XLINK_CHUNK][x->link_count % XLINK_CHUNK];

	x->link_count++;
	*l = *from;
	if (to) {
		renew_block(x, to);
		link_register(l, to);
	} else {
		link_loosen(x, l);
	}
	return l;
}

static void link_tie_light(struct translator *x, struct xlink *l, const struct block *b, const uint8_t *code)
{
	int32_t ticks = (int32_t)(b->insns << XTICKS_SHIFT) - l->ahead;

	for (unsigned i = 0; i < ARRAY_SIZE(l->ticks); i++)
		memcpy(l->ticks[i], &ticks, sizeof(ticks));
	a_patch(&x->out, l->light_jump, code);
	link_point(x, l, l->light);
}

/* They succeed for RIP as long as its page is mapped as it is now. */
static void link_open(struct cpu *cpu, struct xlink *l, const struct block *b)
{
	struct translator *x = cpu->xlate;
	uint64_t rip = cpu->gpr[REG_RIP];
	int32_t slot = l1i_slots(cpu, cpu->mode) + (int32_t)(fast_slot(rip) * sizeof(struct fast_entry));
	const int32_t at[] = {slot + (int32_t)offsetof(struct fast_entry, rtag),
			      slot + (int32_t)offsetof(struct fast_entry, addend),
			      slot + (int32_t)offsetof(struct fast_entry, entry)};

	put_u64(l->lin, rip);
	put_u64(l->addend, (b->hpa & PAGE_MASK) - (rip & PAGE_MASK));
	for (unsigned i = 0; i < ARRAY_SIZE(at); i++)
		memcpy(l->slot[i], &at[i], sizeof(at[i]));
	a_patch(&x->out, l->same, (b->hpa & PAGE_MASK) == l->page ? l->arrived : l->missed);
	a_patch(&x->out, l->differs, l->other);
}

static void link_tie(struct cpu *cpu, struct xlink *l, struct block *b)
{
	struct translator *x = cpu->xlate;
	const uint8_t *code = b->xcode[cpu->mode];

	if (l->light) {
		a_patch(&x->out, l->saved_jump, code);
		if (b->xlight[cpu->mode])
			link_tie_light(x, l, b, b->xlight[cpu->mode]);
	} else {
		link_point(x, l, code);
	}
	if (l->lin)
		link_open(cpu, l, b);
	link_register(l, b);
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
		if (b->xcode[m]) { /* the cache may have its address */
			uint8_t *entry = (uint8_t *)(uintptr_t)b->xcode[m] - x->out.to_rx;

			*entry = 0xe9; /* JMP */
			a_patch(&x->out, entry + 1, x->gone);
		}
		b->xcode[m] = b->xlight[m] = NULL;
	}
}

/* ---- translating and running ---- */

/* Is there room for the jumps of one more block? */
static bool room_for_links(struct translator *x)
{
	unsigned end = x->link_count + XLINKS_MOST;
	struct xlink **chunk = &x->links[(end - 1) / XLINK_CHUNK];

	if (end > x->link_most)
		return false;
	if (!*chunk)
		*chunk = calloc(XLINK_CHUNK, sizeof(**chunk));
	return *chunk;
}

static bool room(struct translator *x)
{
	size_t end = (size_t)(x->out.p - x->code.rw) + XBLOCK_MOST;

	if (end > x->code.bytes || !room_for_links(x))
		return false;
	code_memory_reach(&x->code, end);
	return true;
}

static const uint8_t *translate(struct cpu *cpu, struct block *b)
{
	struct translator *x = cpu->xlate;

	if (!room(x))
		xlate_flush(cpu);
	renew_block(x, b);
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
		link_tie(cpu, from, b);
	*xcache_slot(x, cpu->mode, cpu->gpr[REG_RIP]) =
		(struct xcache_entry){.lin = cpu->gpr[REG_RIP], .page = b->hpa & PAGE_MASK, .code = code};
	return cpu->deadline - cpu->insns >= b->insns + XMARGIN ? code : NULL;
}

const uint8_t *xlate_cached(struct cpu *cpu, uint64_t at)
{
	struct translator *x = cpu->xlate;
	uint64_t rip = cpu->gpr[REG_RIP];
	const struct xcache_entry *e;

	if (cpu->xlink || cpu->xvec_off || cpu->code_bits != 64 || cpu->mode >= XMODES)
		return NULL;
	e = xcache_slot(x, cpu->mode, rip);
	return e->lin == rip && e->page == (at & PAGE_MASK) ? e->code : NULL;
}

int xlate_run(struct cpu *cpu, const uint8_t *code, struct xexit *out)
{
	uint64_t left = cpu->deadline - cpu->insns;
	int st;

	start_clock(cpu, min_u64(left > XMARGIN ? left - XMARGIN : 0, STRETCH));
	st = cpu->xlate->enter(cpu, code);
	if (st == EXEC_NEXT) {
		cpu->insns = insns_by_clock(cpu);
		cpu->mmu.clock += XTICKS - 1; /* behind the accesses of the last block */
	} else {
		cpu->xlink = NULL;
	}
	*out = (struct xexit){cpu->xexit_block, cpu->xexit_at};
	return st;
}
