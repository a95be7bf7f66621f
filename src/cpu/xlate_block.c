/*
 * From a block, and those that are laid behind it, to host code: memory accesses, flags, ways out.
 *
 * Guest flags are kept in the host's. The lookup in front of a memory access destroys them, and an
 * exception there must find them: so before one they are either saved (cpu->cc), or it is known how to make
 * them again from registers that still have their values (struct recipe), which only the rare way out of
 * line then does. At the end of a block cpu->cc holds them.
 */
#include "cpu/access.h"
#include "cpu/xlate_impl.h"

#define RECIPE_BYTES 40
#define SLOW_JUMPS 3
#define GROUP_SPAN 64 /* bytes that the accesses of a group lie within, at most; of the stack twice that */
#define FLAG_CF 0x001u

/* Instructions that give the flags once more, without other effect. */
struct recipe {
	uint8_t bytes[RECIPE_BYTES];
	uint8_t n;
	uint16_t regs; /* guest registers that must still be as they were */
	int32_t rsp;   /* but RSP, if it is one of them, has been moved by so much since */
};

struct ea {
	int base, index; /* guest registers, REG_RIP; -1 none */
	unsigned scale;
	int32_t disp;
	unsigned seg;
};

/* Code out of line: the instruction's execute function does the whole of it. */
struct slow {
	const struct part *part;
	unsigned mode;
	uint8_t *jump[SLOW_JUMPS];
	unsigned jumps;
	unsigned insn, insns; /* those it is for: mostly one */
	const uint8_t *back;
	int32_t ahead;        /* the clock there, as in struct tr */
	struct recipe recipe; /* to make the flags before: they are not in memory */
	bool looked_up;       /* it is for an access to @at that the fast lookup does not serve */
	struct ea at;
};

/*
 * Instructions @first to @last, whose accesses have one base register and lie close together: they are one access to
 * @at, looked up at the first. If that fails, or shows more than one page, all of them go the slow way.
 */
struct group {
	unsigned first, last;
	struct ea at;
	unsigned bytes;
	bool write;
};

/*
 * A block as it is translated: the one the host code belongs to, or one that runs after another part of it and is laid
 * behind that or farther on. There are no joins: what is reached in two ways is two parts, or has host code of its own.
 */
struct part {
	struct block *b;
	const struct part *from;
	bool vec, vec_loads; /* works on vector registers; changes them in its own way */
	struct xinsn insn[BLOCK_INSNS_MAX];
};

/* From a part to another block. */
struct edge {
	struct xlink link;      /* without the places out of line */
	const struct part *part;
	struct part *to;        /* laid here too; NULL: it is not */
	bool laid;
	unsigned mode;
	int32_t delta;          /* within the page: where to, from the block's beginning */
	bool saved;             /* the flags are in memory */
	bool in_host;           /* ... or in the host's */
	struct recipe recipe;
	int32_t ahead;          /* the clock, as in struct tr */
	/* If it may leave the page: */
	uint8_t *miss[3];
	unsigned insn;          /* the instruction that jumps */
	bool check;             /* it faults if the address is not canonical */
	int32_t rsp;            /* by how much it moves RSP */
	/* The limit, in the light way. */
	uint8_t *over;
};

struct tr {
	struct cpu *cpu;
	struct translator *x;
	struct a_buf *a;
	struct part *parts;       /* of all, the first is the block's */
	unsigned part_count, tail; /* ... and the instructions of the others */
	/* The part in hand: */
	const struct part *part;
	struct block *b;
	const struct xinsn *insn;
	unsigned mode;
	bool needed[BLOCK_INSNS_MAX]; /* flags as they are after the instruction are of use to somebody */
	/* Where the guest's flags are; if in neither, the recipe has them, or nobody wants them. */
	bool f_host, f_mem;
	struct recipe recipe;
	/*
	 * By how much the clock is ahead of what it is to be at the part's end: accesses inline since its beginning. Less than
	 * zero: the instructions of the part are still to be counted.
	 */
	int32_t ahead;
	uint8_t *part_least;   /* the part's code goes on until here, at least */
	bool grouped;
	struct group group; /* the last found */
	struct edge *straight; /* its way out leads to the part that is to be laid next */
	/* Of all parts: */
	struct slow slow[BLOCK_INSNS_MAX + XTAIL_INSNS];
	unsigned slows;
	struct edge edge[XLINKS_MOST];
	unsigned edges;
	bool vec; /* vector registers are in the host's */
	struct { uint8_t *from; const uint8_t *back; } load_vec;
};

static void enter_part(struct tr *t, const struct part *p)
{
	t->part = p;
	t->b = p->b;
	t->insn = p->insn;
}

/* ---- flags ---- */

static void emit_bytes(struct a_buf *a, const uint8_t *p, unsigned n)
{
	memcpy(a->p, p, n);
	a->p += n;
}

static void recipe_none(struct recipe *r)
{
	r->n = 0;
	r->regs = 0;
	r->rsp = 0;
}

/* Host flags to cpu->cc; they stay in the host's too. Changes S1. */
static void emit_save(struct a_buf *a)
{
	static const uint8_t lahf_seto[] = {0x9f, 0x0f, 0x90, 0xc0};

	a_mov(a, H_S1, H_RAX);
	emit_bytes(a, lahf_seto, sizeof(lahf_seto));
	a_insn(a, (struct a_op){.opcode = 0x89, .p66 = true}, H_RAX, CPU_MEM(cc));
	a_mov(a, H_RAX, H_S1);
}

/* cpu->cc to the host's. With @keep no register changes; else S1 does. */
static void emit_restore(struct a_buf *a, bool keep)
{
	static const uint8_t add_sahf[] = {0x04, 0x7f, 0x9e};

	if (keep)
		a_store(a, gpr_mem(RAX), H_RAX);
	else
		a_mov(a, H_S1, H_RAX);
	a_insn(a, A_OP0F(0xb7), H_RAX, CPU_MEM(cc));
	emit_bytes(a, add_sahf, sizeof(add_sahf));
	if (keep)
		a_load(a, H_RAX, gpr_mem(RAX));
	else
		a_mov(a, H_RAX, H_S1);
}

static void emit_recipe(struct a_buf *a, const struct recipe *r)
{
	if (r->rsp)
		a_lea(a, H_GUEST_RSP, a_mem(H_GUEST_RSP, -r->rsp));
	emit_bytes(a, r->bytes, r->n);
	if (r->rsp)
		a_lea(a, H_GUEST_RSP, a_mem(H_GUEST_RSP, r->rsp));
}

static void flags_to_memory(struct tr *t)
{
	if (t->f_mem)
		return;
	if (!t->f_host)
		emit_recipe(t->a, &t->recipe);
	emit_save(t->a);
	t->f_host = t->f_mem = true;
}

/* Only the carry is wanted, and that by itself. */
static bool carry_only(const struct xinsn *x)
{
	return !((x->tests | x->keeps) & ~FLAG_CF);
}

/* Does the instruction want flags from before in the host's? */
static bool reads_flags(const struct tr *t, unsigned i)
{
	const struct xinsn *x = &t->insn[i];

	return x->tests || (x->sets && x->keeps && t->needed[i]);
}

/* By how much the instruction moves RSP; false: it does not, or in another way. */
static bool moves_rsp(const struct xinsn *x, int32_t *by)
{
	*by = x->kind == X_POP ? 8 : -8;
	return x->kind == X_PUSH || x->kind == X_PUSH_MEM || x->kind == X_CALL_REL || x->kind == X_CALL_IND ||
	       (x->kind == X_POP && x->reg != RSP);
}

/* The registers that the recipe needs and the instruction spoils. */
static uint16_t spoils(const struct tr *t, const struct xinsn *x)
{
	uint16_t regs = t->recipe.regs & x->writes;
	int32_t by;

	return moves_rsp(x, &by) ? (uint16_t)(regs & ~(1u << RSP)) : regs;
}

/* Before instruction @i; @destroys: it begins with code that changes the host's flags. */
static void flags_before(struct tr *t, unsigned i, bool destroys)
{
	const struct xinsn *x = &t->insn[i];
	bool outlived = t->needed[i] && !x->sets; /* wanted as they are when the instruction is done */
	bool spoilt = outlived && spoils(t, x);

	if (destroys) {
		if (!t->f_mem && (!t->recipe.n || spoilt))
			flags_to_memory(t);
		t->f_host = false;
	} else if (spoilt && !t->f_host && !t->f_mem) {
		emit_recipe(t->a, &t->recipe);
		t->f_host = true;
	}
}

/* ... and when what destroys them is over, at the instruction itself. S1 and S2 are kept. */
static void flags_for(struct tr *t, unsigned i)
{
	if (t->f_host || !reads_flags(t, i))
		return;
	if (!t->f_mem) {
		emit_recipe(t->a, &t->recipe);
	} else if (carry_only(&t->insn[i])) {
		a_insn(t->a, (struct a_op){.map = 1, .opcode = 0xba, .p66 = true}, 4, CPU_MEM(cc));
		a_byte(t->a, 8);
		return;
	} else {
		emit_restore(t->a, true);
	}
	t->f_host = true;
}

static void flags_after(struct tr *t, unsigned i)
{
	const struct xinsn *x = &t->insn[i];
	int32_t by;

	if (x->sets) {
		t->f_host = true;
		t->f_mem = false;
		t->recipe.n = 0;
	} else if (spoils(t, x)) {
		t->recipe.n = 0;
	} else if ((t->recipe.regs & 1u << RSP) && moves_rsp(x, &by)) {
		t->recipe.rsp += by;
	}
	if (!t->recipe.n)
		recipe_none(&t->recipe);
}

/* ---- recipes ---- */

static uint16_t reg_bit(int g) { return (uint16_t)(1u << g); }

/* ADD OR ADC SBB AND SUB XOR CMP by number, 8 for TEST, -1 for others. *dst, *src: guest registers or -1. */
static int alu_of(const struct xinsn *x, int *dst, int *src)
{
	uint8_t op = x->op.opcode;

	*src = -1;
	if (x->kind != X_SELF || x->op.map || x->mem || x->reg_high || x->rm_high)
		return -1;
	if (op < 0x40 && (op & 7) < 6) {
		*dst = (op & 7) < 2 ? x->rm : (op & 7) < 4 ? x->reg : RAX;
		*src = (op & 7) < 2 ? x->reg : (op & 7) < 4 ? x->rm : -1;
		return op >> 3;
	}
	*dst = x->rm;
	if (op == 0x80 || op == 0x81 || op == 0x83)
		return x->ext;
	if (op == 0x84 || op == 0x85) {
		*src = x->reg;
		return 8;
	}
	if ((op == 0xf6 || op == 0xf7) && x->ext < 2)
		return 8;
	*dst = RAX;
	return op == 0xa8 || op == 0xa9 ? 8 : -1;
}

static bool in_host(int g) { return g < 0 || host_reg((unsigned)g) != H_NONE; }

/* Instruction @x, encoded in [@from, p), with ADD for SUB and SUB for ADD. */
static void emit_inverse(struct a_buf *to, const struct xinsn *x, const uint8_t *from, unsigned n)
{
	bool group = x->op.opcode >= 0x80;
	unsigned at = (x->op.p66 ? 1 : 0) + (from[x->op.p66 ? 1 : 0] >> 4 == 4); /* the opcode, behind its prefixes */

	emit_bytes(to, from, n);
	/* Extension 0 is ADD, 5 SUB; opcodes 00-05 and 28-2D. */
	to->p[-(int)n + (int)at + group] ^= 0x28;
}

/* Instruction @x on the register's slot in memory instead of the scratch register it was just done in. */
static unsigned emit_on_slot(uint8_t *at, const struct xinsn *x)
{
	struct a_buf a = {.p = at};
	unsigned reg = x->reg_place == XREG_MODRM ? (unsigned)host_reg((unsigned)x->reg) : x->ext;

	a_insn(&a, x->op, reg, gpr_mem((unsigned)x->rm));
	a_imm(&a, x->imm, x->imm_bytes);
	return (unsigned)(a.p - at);
}

/* TEST of the result @dst with itself. */
static void emit_test_result(struct a_buf *to, const struct xinsn *x, int dst)
{
	bool wide = x->op.opcode & 1 || x->op.opcode == 0x83;
	struct a_op test = {.opcode = wide ? 0x85 : 0x84, .w = x->op.w, .p66 = x->op.p66, .byte_reg = x->op.byte_reg};

	if (in_host(dst)) {
		a_insn(to, test, (unsigned)host_reg((unsigned)dst), a_reg(host_reg((unsigned)dst)));
		return;
	}
	test.opcode = wide ? 0xf7 : 0xf6;
	a_insn(to, test, 0, gpr_mem((unsigned)dst));
	a_imm(to, ~0ull, !wide ? 1 : x->op.p66 && !x->op.w ? 2 : 4);
}

/* The flags of @x, just emitted at [@from, p), can be had again. */
static void recipe_make(struct tr *t, const struct xinsn *x, const uint8_t *from)
{
	struct recipe *r = &t->recipe;
	struct a_buf to = {.p = r->bytes};
	unsigned n = (unsigned)(t->a->p - from);
	int dst, src, alu = alu_of(x, &dst, &src);
	uint8_t on_slot[16];

	recipe_none(r);
	/* The operand in ModRM.rm may be in memory. */
	if (alu < 0 || alu == A_ADC || alu == A_SBB || (x->reg >= 0 && !in_host(x->reg)))
		return;
	if (alu == A_CMP || alu == 8) {
		emit_bytes(&to, from, n);
	} else if (alu == A_ADD || alu == A_SUB) {
		if (dst == src)
			return;
		if (!in_host(dst)) {
			n = emit_on_slot(on_slot, x);
			from = on_slot;
		}
		emit_inverse(&to, x, from, n);
		emit_bytes(&to, from, n);
	} else {
		emit_test_result(&to, x, dst);
	}
	r->n = (uint8_t)(to.p - r->bytes);
	assert(r->n <= RECIPE_BYTES);
	r->regs = reg_bit(dst) | (src >= 0 ? reg_bit(src) : 0);
}

/* ---- out of line ---- */

/* A jump just emitted goes to the slow way of instruction @i; the flags before it are as they are now. */
static struct slow *to_slow(struct tr *t, unsigned i, uint8_t *jump)
{
	struct slow *s = t->slow;

	while (s < t->slow + t->slows && (s->part != t->part || s->insn != i))
		s++;
	if (s == t->slow + t->slows) {
		t->slows++;
		s->part = t->part;
		s->mode = t->mode;
		s->insn = i;
		s->insns = 1;
		s->jumps = 0;
		s->recipe.n = 0;
		s->looked_up = false;
		if (!t->f_mem)
			s->recipe = t->recipe;
	}
	assert(s->jumps < SLOW_JUMPS);
	s->jump[s->jumps++] = jump;
	return s;
}

static bool in_group(const struct tr *t, unsigned i) { return t->grouped && i >= t->group.first && i <= t->group.last; }
/* Has its access been looked up before? */
static bool follows(const struct tr *t, unsigned i) { return in_group(t, i) && i != t->group.first; }

/* Instruction @i is done: slow ways that end with it come back here. */
static void slow_back(struct tr *t, unsigned i)
{
	for (struct slow *s = t->slow; s < t->slow + t->slows; s++) {
		if (s->part == t->part && s->insn + s->insns == i + 1) {
			s->back = a_here(t->a);
			s->ahead = t->ahead;
		}
	}
}

/* The clock is put on or back. Changes no flags. */
static void emit_clock(struct tr *t, int32_t by)
{
	if (by)
		a_lea(t->a, H_CLOCK, a_mem(H_CLOCK, by));
}

/* The part's instructions are counted: before anything that may call an execute function. */
static void emit_count(struct tr *t)
{
	if (t->ahead < 0) {
		emit_clock(t, -t->ahead);
		t->ahead = 0;
	}
}

/* ... and an access, too. */
static void emit_count_access(struct tr *t)
{
	int32_t from = t->ahead;

	t->ahead = from < 0 ? 1 : from + 1;
	emit_clock(t, t->ahead - from);
}

/* The block is over: the next finds the clock at a multiple. */
static void emit_clock_end(struct tr *t)
{
	emit_clock(t, -t->ahead);
	t->ahead = 0;
}

static void emit_call_uop(struct tr *t, unsigned i)
{
	a_mov_imm(t->a, H_S1, (uint64_t)((const uint8_t *)&t->b->uop[i] - (const uint8_t *)t->b));
	a_mov_imm(t->a, H_S2, (uint64_t)(uintptr_t)t->b);
	a_call_to(t->a, t->x->call_uop[t->vec]);
}

/* The offset of the block in its page. */
static int32_t block_offset(const struct tr *t) { return (int32_t)(t->b->hpa & ~PAGE_MASK); }

/* @to = the linear address @delta bytes behind the block's beginning. Changes no flags. */
static void emit_linear(struct tr *t, int to, int32_t delta)
{
	a_load(t->a, to, CPU_MEM(fetch_page));
	a_lea(t->a, to, a_mem(to, block_offset(t) + delta));
}

/* RIP is in its slot: go on there. */
static void emit_resolve(struct tr *t)
{
	a_load(t->a, H_S1, gpr_mem(REG_RIP));
	a_call_to(t->a, t->x->resolve[t->mode]);
	a_jmp_reg(t->a, H_S1);
}

/* ---- effective addresses ---- */

static struct ea ea_of(const struct tr *t, const struct uop *u)
{
	struct ea e = {.base = u->base == REG_OFF(REG_ZERO) ? -1 : u->base / 8,
		       .index = u->index == REG_OFF(REG_ZERO) ? -1 : u->index / 8,
		       .scale = u->scale, .disp = (int32_t)u->disp, .seg = u->seg};

	if (e.base == REG_RIP) /* from its page */
		e.disp += block_offset(t);
	return e;
}

static int ea_host(int g) { return g < 0 || g == REG_RIP ? H_NONE : host_reg((unsigned)g); }
static bool ea_in_mem(int g) { return g >= 0 && ea_host(g) == H_NONE; }
static struct a_rm ea_slot(int g) { return g == REG_RIP ? CPU_MEM(fetch_page) : gpr_mem((unsigned)g); }

/* The offset plus @more to register @to. Uses no other, but may change flags. */
static void emit_ea(struct a_buf *a, int to, const struct ea *e, int32_t more)
{
	int32_t disp = e->disp + more;

	if (ea_in_mem(e->index)) {
		a_load(a, to, ea_slot(e->index));
		a_lea(a, to, a_mem_index(ea_in_mem(e->base) ? H_NONE : ea_host(e->base), to, e->scale, disp));
		if (ea_in_mem(e->base))
			a_alu(a, A_ADD, to, ea_slot(e->base));
	} else if (ea_in_mem(e->base)) {
		a_load(a, to, ea_slot(e->base));
		if (disp || e->index >= 0)
			a_lea(a, to, a_mem_index(to, ea_host(e->index), e->scale, disp));
	} else if (!disp && e->index < 0 && e->base >= 0) {
		a_mov(a, to, ea_host(e->base));
	} else {
		a_lea(a, to, a_mem_index(ea_host(e->base), ea_host(e->index), e->scale, disp));
	}
}

static void emit_segment(struct a_buf *a, int to, const struct ea *e)
{
	if (e->seg != SEG_NONE)
		a_alu(a, A_ADD, to, CPU_MEM(seg_base_eff[e->seg]));
}

static void emit_slow(struct tr *t, const struct slow *s)
{
	enter_part(t, s->part);
	t->mode = s->mode;
	for (unsigned i = 0; i < s->jumps; i++)
		a_patch_here(t->a, s->jump[i]);
	if (s->recipe.n) {
		emit_recipe(t->a, &s->recipe);
		emit_save(t->a);
	}
	if (s->looked_up) {
		emit_ea(t->a, H_S1, &s->at, 0);
		emit_segment(t->a, H_S1, &s->at);
		a_call_to(t->a, t->x->send_for);
	}
	for (unsigned i = 0; i < s->insns; i++)
		emit_call_uop(t, s->insn + i);
	if (t->b->uop[s->insn + s->insns - 1].flags & UOP_SETS_RIP) {
		emit_resolve(t);
	} else {
		emit_clock(t, s->ahead);
		a_jmp_to(t->a, s->back);
	}
}

/* ---- memory ---- */

/* The memory operand when S1 has host minus linear address. With @flat in S1 alone. */
static struct a_rm host_operand(struct a_buf *a, const struct ea *e, bool flat)
{
	if (!ea_in_mem(e->base) && e->index < 0)
		return e->base < 0 ? a_mem(H_S1, e->disp) : a_mem_index(H_S1, ea_host(e->base), 0, e->disp);
	if (e->base < 0 && !ea_in_mem(e->index))
		return a_mem_index(H_S1, ea_host(e->index), e->scale, e->disp);
	emit_ea(a, H_S2, e, 0);
	if (!flat)
		return a_mem_index(H_S1, H_S2, 0, 0);
	a_lea(a, H_S1, a_mem_index(H_S1, H_S2, 0, 0));
	return a_mem(H_S1, 0);
}

/*
 * The lookup of ld and st in access.h: goes the slow way if the L1 TLB does not hold a translation that allows the
 * access; else that becomes the most recently used, and S1 is host minus linear address. Changes S2 and flags.
 *
 * The page of the access's last byte is compared alone: that of its first cannot be another, because
 * no page is in the lookup that shares the slot with the page before it.
 */
static void emit_find(struct tr *t, unsigned i, const struct ea *e, unsigned bytes, bool aligned, bool write)
{
	struct a_buf *a = t->a;
	int32_t slot = (int32_t)((uint8_t *)&t->cpu->mmu.l1d.fast.slot[t->mode][0] - (uint8_t *)t->cpu) - CPU_BIAS;
	int32_t tag = slot + (int32_t)(write ? offsetof(struct fast_entry, wtag) : offsetof(struct fast_entry, rtag));
	struct slow *s;

	emit_count_access(t);
	emit_ea(a, H_S1, e, 0);
	emit_segment(a, H_S1, e);
	emit_slot_offset(a, H_S2, H_S1);
	if (!aligned && bytes > 1)
		a_lea(a, H_S1, a_mem(H_S1, (int32_t)bytes - 1));
	a_alu_imm(a, A_AND, true, a_reg(H_S1), (int32_t)(PAGE_MASK | (aligned ? bytes - 1 : 0)));
	a_alu(a, A_CMP, H_S1, a_mem_index(H_CPU, H_S2, 0, tag));
	s = to_slow(t, i, a_jcc(a, 5));
	s->looked_up = true;
	s->at = *e;
	a_load(a, H_S1, a_mem_index(H_CPU, H_S2, 0, slot + (int32_t)offsetof(struct fast_entry, entry)));
	a_store(a, a_mem(H_S1, offsetof(struct tlb_entry, stamp)), H_CLOCK);
	a_load(a, H_S1, a_mem_index(H_CPU, H_S2, 0, slot + (int32_t)offsetof(struct fast_entry, addend)));
	emit_segment(a, H_S1, e);
}

/*
 * The operand in host memory, of an access that may go the slow way unless its group has been looked up; S1 is used for
 * it, and S2 unless @flat. Changes flags unless follows().
 */
static struct a_rm emit_lookup(struct tr *t, unsigned i, const struct ea *e, unsigned bytes, bool aligned, bool write,
			       bool flat)
{
	const struct group *g = &t->group;

	if (follows(t, i)) {
		a_load(t->a, H_S1, CPU_MEM(xaddend));
	} else if (in_group(t, i)) {
		emit_find(t, i, &g->at, g->bytes, false, g->write);
		t->slow[t->slows - 1].insns = g->last - g->first + 1;
		a_store(t->a, CPU_MEM(xaddend), H_S1);
	} else {
		emit_find(t, i, e, bytes, aligned, write);
	}
	return host_operand(t->a, e, flat);
}

/* ---- instructions that stay themselves ---- */

/* A count in an immediate byte gives another OF than one in CL, which is what the interpreter uses. */
static void emit_rotate(struct tr *t, const struct xinsn *x, struct a_rm rm)
{
	struct a_op op = x->op;

	op.opcode = (uint8_t)(0xd2 | (x->op.opcode & 1));
	if (!rm.mem && rm.reg == H_RCX) { /* 32 or 64 bits of it */
		a_mov(t->a, H_S1, H_RCX);
		a_mov_imm(t->a, H_RCX, x->imm & 0xff);
		a_insn(t->a, op, x->ext, a_reg(H_S1));
		a_mov(t->a, H_RCX, H_S1);
		return;
	}
	a_store(t->a, gpr_mem(RCX), H_RCX);
	a_mov_imm(t->a, H_RCX, x->imm & 0xff);
	a_insn(t->a, op, x->ext, rm);
	a_load(t->a, H_RCX, gpr_mem(RCX));
}

static void emit_encoded(struct tr *t, unsigned i, int reg, struct a_rm rm)
{
	const struct xinsn *x = &t->insn[i];

	if (x->rotate && t->needed[i]) {
		emit_rotate(t, x, rm);
		return;
	}
	if (x->reg_place == XREG_OPCODE) {
		a_insn_short(t->a, x->op, (unsigned)reg);
	} else if (x->modrm) {
		a_insn(t->a, x->op, x->reg_place == XREG_MODRM ? (unsigned)reg : x->ext, rm);
	} else {
		a_opcode(t->a, &x->op, x->op.w ? 8 : 0, false);
		a_byte(t->a, x->op.opcode);
	}
	a_imm(t->a, x->imm, x->imm_bytes);
}

/* Is the register operand's slot in memory good as an operand? Not as a bit string, and not to be written. */
static bool slot_serves(const struct xinsn *x)
{
	return !x->rm_store && !(x->op.map == 1 && (x->op.opcode & 0xe7) == 0xa3);
}

static struct a_rm rm_register(struct tr *t, const struct xinsn *x)
{
	int h = x->rm_vec ? x->rm : host_reg((unsigned)x->rm);

	if (h != H_NONE)
		return a_reg(x->rm_high ? h + 4 : h);
	if (x->reg_place != XREG_NONE && !x->reg_vec && x->reg == x->rm)
		return a_reg(H_S2); /* loaded as the other operand */
	if (slot_serves(x))
		return gpr_mem((unsigned)x->rm);
	if (x->rm_load)
		a_load(t->a, H_S1, gpr_mem((unsigned)x->rm));
	return a_reg(H_S1);
}

static void emit_self(struct tr *t, unsigned i)
{
	const struct xinsn *x = &t->insn[i];
	bool reg_in_mem = x->reg >= 0 && !x->reg_vec && host_reg((unsigned)x->reg) == H_NONE;
	bool rm_in_mem = x->rm >= 0 && !x->rm_vec && host_reg((unsigned)x->rm) == H_NONE;
	bool same = reg_in_mem && rm_in_mem && x->reg == x->rm;
	int reg = reg_in_mem ? H_S2 : x->reg < 0 ? 0 : x->reg_vec ? x->reg : host_reg((unsigned)x->reg);
	struct a_rm rm = a_reg(0);
	const uint8_t *from;
	struct ea e;

	if (x->reg_high)
		reg += 4;
	flags_before(t, i, x->mem && !follows(t, i));
	if (x->mem) {
		e = ea_of(t, &t->b->uop[i]);
		rm = emit_lookup(t, i, &e, x->mem_bytes, x->mem_aligned, x->mem_write, reg_in_mem);
	}
	flags_for(t, i);
	if (reg_in_mem && (x->reg_load || same))
		a_load(t->a, H_S2, gpr_mem((unsigned)x->reg));
	if (x->rm >= 0)
		rm = rm_register(t, x);
	from = t->a->p;
	emit_encoded(t, i, reg, rm);
	flags_after(t, i);
	if (!x->keeps && !x->mem)
		recipe_make(t, x, from);
	if (rm_in_mem && x->rm_store && !(same && x->reg_store))
		a_store(t->a, gpr_mem((unsigned)x->rm), rm.reg);
	if (reg_in_mem && x->reg_store)
		a_store(t->a, gpr_mem((unsigned)x->reg), H_S2);
	slow_back(t, i);
}

/* ---- instructions with a way of their own ---- */

static void emit_lea(struct tr *t, unsigned i)
{
	const struct xinsn *x = &t->insn[i];
	struct ea e = ea_of(t, &t->b->uop[i]);
	int to = host_reg((unsigned)x->reg), h = to == H_NONE ? H_S1 : to;
	int base = ea_host(e.base), index = ea_host(e.index);

	flags_before(t, i, false);
	if (ea_in_mem(e.base))
		a_load(t->a, base = H_S1, ea_slot(e.base));
	if (ea_in_mem(e.index))
		a_load(t->a, index = H_S2, ea_slot(e.index));
	if (to == H_NONE && x->reg_load) { /* 16 bits: the rest stays */
		a_lea(t->a, H_S2, a_mem_index(base, index, e.scale, e.disp));
		a_insn(t->a, (struct a_op){.opcode = 0x89, .p66 = true}, H_S2, gpr_mem((unsigned)x->reg));
	} else {
		a_insn(t->a, x->op, (unsigned)h, a_mem_index(base, index, e.scale, e.disp));
		if (to == H_NONE)
			a_store(t->a, gpr_mem((unsigned)x->reg), h);
	}
	flags_after(t, i);
}

static const struct ea stack_top = {.base = RSP, .index = -1, .seg = SEG_NONE};
static const struct ea stack_push = {.base = RSP, .index = -1, .disp = -8, .seg = SEG_NONE};

static void emit_move_rsp(struct tr *t, int32_t by) { a_lea(t->a, H_GUEST_RSP, a_mem(H_GUEST_RSP, by)); }

static void emit_push(struct tr *t, unsigned i)
{
	const struct xinsn *x = &t->insn[i];
	int h = x->reg < 0 ? H_NONE : host_reg((unsigned)x->reg);
	struct a_rm m;

	flags_before(t, i, !follows(t, i));
	m = emit_lookup(t, i, &stack_push, 8, false, true, false);
	if (x->reg < 0) {
		a_insn(t->a, A_OPW(0xc7), 0, m);
		a_imm(t->a, t->b->uop[i].imm, 4);
	} else {
		if (h == H_NONE)
			a_load(t->a, h = H_S2, gpr_mem((unsigned)x->reg));
		a_store(t->a, m, h);
	}
	emit_move_rsp(t, -8);
	flags_after(t, i);
	slow_back(t, i);
}

/* Functions begin with pushes and end with pops: the number of such instructions from @i on in its group. */
static unsigned stack_run(const struct tr *t, unsigned i)
{
	enum xkind kind = t->insn[i].kind;
	unsigned n = 0;

	while (in_group(t, i + n) && t->insn[i + n].kind == kind && t->insn[i + n].reg != RSP)
		n++;
	return kind == X_PUSH || kind == X_POP ? n : 0;
}

/* The flags before a run: none of its instructions sets any. */
static void flags_before_run(struct tr *t, unsigned i, unsigned n)
{
	bool spoilt = false;

	for (unsigned m = i; m < i + n; m++)
		spoilt |= t->needed[m] && spoils(t, &t->insn[m]);
	if (!t->f_mem && (!t->recipe.n || spoilt))
		flags_to_memory(t);
	t->f_host &= follows(t, i);
}

/* One of a run of pushes: @at from RSP as it was before the run; S1 is as host_operand() wants it. */
static void emit_run_push(struct tr *t, unsigned m, int32_t at)
{
	const struct xinsn *x = &t->insn[m];
	struct a_rm to = a_mem_index(H_S1, H_GUEST_RSP, 0, at);
	int h = x->reg < 0 ? H_NONE : host_reg((unsigned)x->reg);

	if (x->reg < 0) {
		a_insn(t->a, A_OPW(0xc7), 0, to);
		a_imm(t->a, t->b->uop[m].imm, 4);
		return;
	}
	if (h == H_NONE)
		a_load(t->a, h = H_S2, gpr_mem((unsigned)x->reg));
	a_store(t->a, to, h);
}

static void emit_run_pop(struct tr *t, unsigned m, int32_t at)
{
	unsigned g = (unsigned)t->insn[m].reg;
	int h = host_reg(g);

	a_load(t->a, h == H_NONE ? H_S2 : h, a_mem_index(H_S1, H_GUEST_RSP, 0, at));
	if (h == H_NONE)
		a_store(t->a, gpr_mem(g), H_S2);
}

static void emit_stack_run(struct tr *t, unsigned i, unsigned n)
{
	bool push = t->insn[i].kind == X_PUSH;
	int32_t bytes = 8 * (int32_t)n;

	flags_before_run(t, i, n);
	emit_lookup(t, i, &stack_top, 8, false, push, false);
	for (unsigned m = 0; m < n; m++) {
		if (push)
			emit_run_push(t, i + m, -8 * (int32_t)(m + 1));
		else
			emit_run_pop(t, i + m, 8 * (int32_t)m);
	}
	emit_move_rsp(t, push ? -bytes : bytes);
	for (unsigned m = i; m < i + n; m++)
		flags_after(t, m);
	slow_back(t, i + n - 1);
}

static void emit_push_mem(struct tr *t, unsigned i)
{
	struct ea e = ea_of(t, &t->b->uop[i]);
	struct a_rm m;

	flags_before(t, i, true);
	m = emit_lookup(t, i, &e, 8, false, false, false);
	a_load(t->a, H_S1, m);
	a_store(t->a, CPU_MEM(xtarget), H_S1);
	m = emit_lookup(t, i, &stack_push, 8, false, true, false);
	a_load(t->a, H_S2, CPU_MEM(xtarget));
	a_store(t->a, m, H_S2);
	emit_move_rsp(t, -8);
	flags_after(t, i);
	slow_back(t, i);
}

static void emit_pop(struct tr *t, unsigned i)
{
	const struct xinsn *x = &t->insn[i];
	int to = host_reg((unsigned)x->reg);
	struct a_rm m;

	flags_before(t, i, !follows(t, i));
	m = emit_lookup(t, i, &stack_top, 8, false, false, false);
	a_load(t->a, to == H_NONE ? H_S1 : to, m);
	if (x->reg != RSP)
		emit_move_rsp(t, 8);
	if (to == H_NONE)
		a_store(t->a, gpr_mem((unsigned)x->reg), H_S1);
	flags_after(t, i);
	slow_back(t, i);
}

static void emit_leave(struct tr *t, unsigned i)
{
	static const struct ea frame = {.base = RBP, .index = -1, .seg = SEG_NONE};
	struct a_rm m;

	flags_before(t, i, true);
	m = emit_lookup(t, i, &frame, 8, false, false, false);
	a_load(t->a, H_S2, m);
	a_lea(t->a, H_GUEST_RSP, a_mem(H_RBP, 8));
	a_mov(t->a, H_RBP, H_S2);
	flags_after(t, i);
	slow_back(t, i);
}

/* Unsigned division overflows, or is by zero, exactly if the dividend's upper half is not below the divisor. */
static void emit_div(struct tr *t, unsigned i)
{
	const struct xinsn *x = &t->insn[i];
	int h = host_reg((unsigned)x->rm);
	struct a_rm rm = h == H_NONE ? gpr_mem((unsigned)x->rm) : a_reg(h);

	emit_count(t);
	flags_before(t, i, true);
	a_insn(t->a, (struct a_op){.opcode = 0x3b, .w = x->op.w}, H_RDX, rm);
	to_slow(t, i, a_jcc(t->a, 3));
	a_insn(t->a, (struct a_op){.opcode = 0xf7, .w = x->op.w}, 6, rm);
	flags_after(t, i);
	slow_back(t, i);
}

/* The slow way unless CPL is 0. Changes flags. */
static void emit_check_cpl0(struct tr *t, unsigned i)
{
	emit_count(t);
	a_insn(t->a, A_OP(0x80), A_CMP, CPU_MEM(cpl));
	a_byte(t->a, 0);
	to_slow(t, i, a_jcc(t->a, 5));
}

static void emit_cli(struct tr *t, unsigned i)
{
	flags_before(t, i, true);
	emit_check_cpl0(t, i);
	a_insn(t->a, A_OPW(0x81), A_AND, CPU_MEM(rflags));
	a_imm(t->a, (uint64_t)~RF_IF, 4);
	flags_after(t, i);
	slow_back(t, i);
}

static void emit_swapgs(struct tr *t, unsigned i)
{
	flags_before(t, i, true);
	emit_check_cpl0(t, i);
	a_load(t->a, H_S1, CPU_MEM(seg[SEG_GS].base));
	a_load(t->a, H_S2, CPU_MEM(msr.kernel_gs_base));
	a_store(t->a, CPU_MEM(msr.kernel_gs_base), H_S1);
	a_store(t->a, CPU_MEM(seg[SEG_GS].base), H_S2);
	a_store(t->a, CPU_MEM(seg_base_eff[SEG_GS]), H_S2);
	flags_after(t, i);
	slow_back(t, i);
}

/* The slow way unless AVX is in force. SSE is, or the block does not run. Changes flags. */
static void emit_check_avx(struct tr *t, unsigned i)
{
	emit_count(t);
	a_insn(t->a, A_OP(0xf7), 0, CPU_MEM(cr4)); /* TEST */
	a_imm(t->a, CR4_OSXSAVE, 4);
	to_slow(t, i, a_jcc(t->a, 4));
	a_load32(t->a, H_S1, CPU_MEM(xcr0));
	a_alu_imm(t->a, A_AND, false, a_reg(H_S1), XCR0_SSE | XCR0_AVX);
	a_alu_imm(t->a, A_CMP, false, a_reg(H_S1), XCR0_SSE | XCR0_AVX);
	to_slow(t, i, a_jcc(t->a, 5));
}

static struct a_rm ymm_hi_mem(unsigned n, unsigned half)
{
	return a_mem(H_CPU, (int32_t)(offsetof(struct cpu, fpu.ymm_hi) + 16 * n + 8 * half) - CPU_BIAS);
}

/* The lower half is in the host's register, the upper one in memory. */
static void emit_vmov(struct tr *t, unsigned i)
{
	const struct xinsn *x = &t->insn[i];
	struct ea e = ea_of(t, &t->b->uop[i]);
	unsigned n = (unsigned)x->reg;
	struct a_rm m;

	flags_before(t, i, true);
	emit_check_avx(t, i);
	m = emit_lookup(t, i, &e, x->mem_bytes, x->mem_aligned, x->mem_write, true);
	a_insn(t->a, A_OP0F(x->mem_write ? 0x11 : 0x10), n, m); /* MOVUPS */
	m.disp += 8;
	for (unsigned half = 0; half < 2; half++) {
		m.disp += 8;
		if (x->mem_bytes == 32) {
			a_load(t->a, H_S2, x->mem_write ? ymm_hi_mem(n, half) : m);
			a_store(t->a, x->mem_write ? m : ymm_hi_mem(n, half), H_S2);
		} else if (!x->mem_write) {
			a_insn(t->a, A_OPW(0xc7), 0, ymm_hi_mem(n, half));
			a_imm(t->a, 0, 4);
		}
	}
	flags_after(t, i);
	slow_back(t, i);
}

static void emit_vzeroupper(struct tr *t, unsigned i)
{
	flags_before(t, i, true);
	emit_check_avx(t, i);
	a_call_to(t->a, t->x->zero_upper);
	flags_after(t, i);
	slow_back(t, i);
}

static void emit_set_ac(struct tr *t, unsigned i)
{
	bool set = t->insn[i].kind == X_STAC;
	unsigned mode = set ? MODE_SUPER_AC : MODE_SUPER;

	flags_before(t, i, true);
	emit_check_cpl0(t, i);
	a_insn(t->a, A_OP(0x81), set ? A_OR : A_AND, CPU_MEM(rflags));
	a_imm(t->a, set ? RF_AC : ~RF_AC, 4);
	a_insn(t->a, A_OP(0xc6), 0, CPU_MEM(mode));
	a_byte(t->a, mode);
	t->mode = mode;
	slow_back(t, i);
}

static void emit_call(struct tr *t, unsigned i)
{
	flags_to_memory(t);
	emit_count(t);
	emit_call_uop(t, i);
	emit_clock(t, t->ahead);
	t->f_host = true;
	t->recipe.n = 0;
	t->recipe.regs = 0;
}

/* ---- ends of blocks ---- */

/* Does a branch by @delta bytes stay in the page, and reach a block that does not begin at its very end? */
static bool stays(const struct tr *t, int64_t delta)
{
	int64_t off = (int64_t)(t->b->hpa & ~PAGE_MASK) + delta;

	return off >= 0 && off <= (int64_t)PAGE_SIZE - 15;
}

/* S1 is a linear address: the slow way if it is not canonical. It may be for 57 bits; then that way finds it good. */
static void emit_check_canonical(struct tr *t, unsigned i)
{
	emit_count(t);
	a_mov(t->a, H_S2, H_S1);
	a_shift(t->a, 7, true, H_S2, 47);
	a_alu_imm(t->a, A_ADD, true, a_reg(H_S2), 1);
	a_alu_imm(t->a, A_CMP, true, a_reg(H_S2), 1);
	to_slow(t, i, a_jcc(t->a, 7));
}

/*
 * What is patched when the edge is tied stands behind the part's first bytes: a jump takes their place when the part is no
 * longer valid, and the edge may be tied to something else after that.
 */
static struct edge *edge_new(struct tr *t)
{
	struct edge *e = &t->edge[t->edges++];

	while (t->a->p < t->part_least)
		a_byte(t->a, 0x90);
	*e = (struct edge){.part = t->part, .mode = t->mode, .saved = t->f_mem, .in_host = t->f_host, .recipe = t->recipe,
			   .ahead = t->ahead};
	return e;
}

/* ---- parts ---- */

/* Decodes the block's bytes again. */
static void describe_part(const struct tr *t, struct part *p)
{
	const uint8_t *bytes = machmem_ptr(t->cpu->mmu.mem, hpa(p->b->hpa));
	unsigned left = (unsigned)(PAGE_SIZE - (p->b->hpa & ~PAGE_MASK));

	p->vec = p->vec_loads = false;
	for (unsigned i = 0; i < p->b->insns; i++) {
		const struct uop *u = &p->b->uop[i];
		struct insn in;

		in.cpu = t->cpu;
		p->insn[i] = (struct xinsn){.kind = X_CALL};
		if (decode_one(bytes + u->off, left - u->off, 64, &in))
			xinsn_describe(&in, u, &p->insn[i]);
		p->vec |= p->insn[i].vec && p->insn[i].kind != X_CALL;
		p->vec_loads |= p->insn[i].vec_loads;
	}
	/* A block keeps the vector registers and their control word as it found them loaded, or leaves them alone. */
	for (unsigned i = 0; p->vec_loads && i < p->b->insns; i++)
		if (p->insn[i].vec)
			p->insn[i] = (struct xinsn){.kind = X_CALL};
	p->vec &= !p->vec_loads;
}

static bool came_by(const struct tr *t, const struct block *b)
{
	for (const struct part *p = t->part; p; p = p->from)
		if (p->b == b)
			return true;
	return false;
}

/*
 * The part that the block @delta bytes behind this one's beginning becomes, if it is to be laid here: it has run a few
 * times, so it will again, and needs nothing that has not been seen to at the beginning.
 */
static struct part *part_for(struct tr *t, int64_t delta)
{
	struct block *b = blocks_find(t->cpu->blocks, t->b->hpa + (uint64_t)delta, 64);
	struct part *p = &t->parts[t->part_count];

	if (!b || b->xruns < t->cpu->cfg.translate_after / 4 || t->part_count == XPARTS || t->tail + b->insns > XTAIL_INSNS ||
	    came_by(t, b))
		return NULL;
	p->b = b;
	p->from = t->part;
	describe_part(t, p);
	if (t->vec ? p->vec_loads : p->vec)
		return NULL;
	t->part_count++;
	t->tail += b->insns;
	return p;
}

/* ---- within the page ---- */

/* The way of the edge @e that counts for the block it goes to, which has no use for the flags. */
static void emit_light(struct tr *t, struct edge *e)
{
	struct xlink *l = &e->link;

	l->light = a_here(t->a);
	a_insn(t->a, A_OPW(0x81), A_ADD, a_reg(H_CLOCK));
	l->ticks[0] = t->a->p;
	a_imm(t->a, 0, 4);
	a_alu(t->a, A_CMP, H_CLOCK, CPU_MEM(xlimit));
	e->over = a_jcc(t->a, 7);
	l->light_jump = a_jmp(t->a);
	a_patch(t->a, l->light_jump, t->x->leave);
}

/* The jump of the edge @e, and behind it the light way, which then needs none. */
static void emit_jump(struct tr *t, struct edge *e)
{
	e->link.site = a_jmp(t->a);
	e->link.jmp = true;
	if (!e->saved)
		emit_light(t, e);
}

static struct edge *edge_near(struct tr *t, int64_t delta)
{
	struct edge *e = edge_new(t);

	e->delta = (int32_t)delta;
	e->link.ahead = e->ahead;
	e->to = part_for(t, delta);
	return e;
}

/* Along the edge @e, from here: to the part that follows, or by a jump. */
static void emit_straight(struct tr *t, struct edge *e)
{
	if (e->to) {
		t->straight = e;
		return;
	}
	emit_jump(t, e);
}

/* Flags that only the host has would be lost when the limit is looked at. */
static void flags_before_near(struct tr *t)
{
	if (!t->recipe.n)
		flags_to_memory(t);
	if (t->f_mem)
		emit_clock_end(t);
}

static void emit_goto_near(struct tr *t, int64_t delta)
{
	flags_before_near(t);
	emit_straight(t, edge_near(t, delta));
}

/* ---- anywhere ---- */

/*
 * To linear address S1, and RSP by @rsp: instruction @i; @check: which faults if S1 is not canonical. Flags that are not
 * in memory can be had by the recipe. If it is the address this was tied for, and the L1 instruction TLB, which is told
 * so, has its page where it was then, or it is the page executed from last: to that block. Anything else is out of line.
 */
static void emit_goto_far(struct tr *t, unsigned i, bool check, int32_t rsp)
{
	struct edge *e = edge_new(t);
	struct xlink *l = &e->link;
	struct a_rm slot = a_mem(H_CPU, l1i_slots(t->cpu, t->mode));
	struct a_buf *a = t->a;

	e->insn = i;
	e->check = check;
	e->rsp = rsp;
	l->page = t->b->hpa & PAGE_MASK;
	a_store(a, gpr_mem(REG_RIP), H_S1);
	l->lin = a_mov_imm64(a, H_S2);
	a_alu(a, A_CMP, H_S1, a_reg(H_S2));
	e->miss[0] = a_jcc(a, 5);
	a_alu_imm(a, A_AND, true, a_reg(H_S1), (int32_t)PAGE_MASK);
	a_alu(a, A_CMP, H_S1, CPU_MEM(fetch_page));
	l->same = a_jcc(a, 4);
	a_alu(a, A_CMP, H_S1, slot);
	l->slot[0] = a->p - 4;
	e->miss[1] = a_jcc(a, 5);
	l->addend = a_mov_imm64(a, H_S2);
	a_alu(a, A_CMP, H_S2, slot);
	l->slot[1] = a->p - 4;
	e->miss[2] = a_jcc(a, 5);
	a_store(a, CPU_MEM(fetch_page), H_S1);
	a_alu(a, A_ADD, H_S1, a_reg(H_S2));
	a_store(a, CPU_MEM(fetch_hpa), H_S1);
	a_load(a, H_S2, slot);
	l->slot[2] = a->p - 4;
	a_store(a, a_mem(H_S2, offsetof(struct tlb_entry, stamp)), H_CLOCK);
	l->arrived = a_here(a);
	if (rsp)
		emit_move_rsp(t, rsp);
	if (e->saved)
		emit_clock_end(t);
	else
		l->ahead = t->ahead;
	emit_jump(t, e);
}

/* Flags that only the host has are lost on the way. */
static void flags_before_far(struct tr *t)
{
	if (!t->recipe.n)
		flags_to_memory(t);
	t->f_host = false;
}

/* To @delta bytes behind the block's beginning: instruction @i. @check: the address may not be canonical. */
static void emit_goto(struct tr *t, unsigned i, int64_t delta, bool check)
{
	if (stays(t, delta)) {
		emit_goto_near(t, delta);
	} else {
		flags_before_far(t);
		emit_linear(t, H_S1, (int32_t)delta);
		emit_goto_far(t, i, check, 0);
	}
}

static void emit_branch(struct tr *t, unsigned i) { emit_goto(t, i, (int64_t)t->b->uop[i].imm, true); }

/* Instruction @i, of whose two ways one at least stays in the page. A loop goes on behind it, and jumps to end. */
static void emit_jcc_near(struct tr *t, unsigned i, int64_t taken, int64_t next)
{
	bool jump_next = !stays(t, taken) || (taken <= 0 && stays(t, next));
	int64_t ahead = jump_next ? taken : next;
	struct edge *straight = stays(t, ahead) ? edge_near(t, ahead) : NULL;
	struct edge *jumped = edge_near(t, jump_next ? next : taken);

	jumped->link.site = a_jcc(t->a, (t->insn[i].op.opcode & 15u) ^ jump_next);
	if (straight)
		emit_straight(t, straight);
	else
		emit_goto(t, i, ahead, ahead == taken);
}

static void emit_jcc(struct tr *t, unsigned i)
{
	const struct uop *u = &t->b->uop[i];
	int64_t taken = (int64_t)u->imm, next = u->off + u->len;
	unsigned cond = t->insn[i].op.opcode & 15;
	int32_t ahead;
	uint8_t *jump;
	bool f_mem;

	flags_before_near(t);
	if (!t->f_host && t->f_mem)
		emit_restore(t->a, false);
	else if (!t->f_host)
		emit_recipe(t->a, &t->recipe);
	t->f_host = true;
	if (stays(t, taken) || stays(t, next)) {
		emit_jcc_near(t, i, taken, next);
		return;
	}
	f_mem = t->f_mem;
	ahead = t->ahead;
	jump = a_jcc(t->a, cond);
	emit_goto(t, i, next, false);
	a_patch_here(t->a, jump);
	t->f_host = true;
	t->f_mem = f_mem;
	t->ahead = ahead;
	emit_branch(t, i);
}

/* Pushes the return address. Changes S1 and S2, not RSP. */
static void emit_push_return(struct tr *t, unsigned i)
{
	const struct uop *u = &t->b->uop[i];
	struct a_rm m = emit_lookup(t, i, &stack_push, 8, false, true, false);

	emit_linear(t, H_S2, u->off + u->len);
	a_store(t->a, m, H_S2);
}

static void emit_call_rel(struct tr *t, unsigned i)
{
	int64_t delta = (int64_t)t->b->uop[i].imm;

	flags_before(t, i, true);
	if (!stays(t, delta)) {
		emit_linear(t, H_S1, (int32_t)delta);
		emit_check_canonical(t, i);
	}
	emit_push_return(t, i);
	emit_move_rsp(t, -8);
	flags_after(t, i);
	emit_goto(t, i, delta, false);
}

static void emit_ret(struct tr *t, unsigned i)
{
	flags_before(t, i, true);
	a_load(t->a, H_S1, emit_lookup(t, i, &stack_top, 8, false, false, false));
	emit_goto_far(t, i, true, 8 + (int32_t)t->b->uop[i].imm);
}

/* S1 = the target of an indirect jump or call. */
static void emit_indirect_target(struct tr *t, unsigned i)
{
	const struct xinsn *x = &t->insn[i];
	struct ea e = ea_of(t, &t->b->uop[i]);
	int h = x->mem ? H_NONE : host_reg((unsigned)x->rm);

	if (x->mem)
		a_load(t->a, H_S1, emit_lookup(t, i, &e, 8, false, false, false));
	else
		a_load(t->a, H_S1, h == H_NONE ? gpr_mem((unsigned)x->rm) : a_reg(h));
}

static void emit_jmp_ind(struct tr *t, unsigned i)
{
	flags_before(t, i, true);
	emit_indirect_target(t, i);
	emit_goto_far(t, i, true, 0);
}

static void emit_call_ind(struct tr *t, unsigned i)
{
	flags_before(t, i, true);
	emit_indirect_target(t, i);
	emit_check_canonical(t, i);
	/* In RIP's place when it is known that the push succeeds. */
	a_store(t->a, CPU_MEM(xtarget), H_S1);
	emit_push_return(t, i);
	emit_move_rsp(t, -8);
	flags_after(t, i);
	a_load(t->a, H_S1, CPU_MEM(xtarget));
	emit_goto_far(t, i, false, 0);
}

/* ---- groups of accesses ---- */

/* The one access to memory of an instruction that can be of a group. */
static bool group_access(const struct tr *t, unsigned i, struct ea *e, unsigned *bytes, bool *write)
{
	const struct xinsn *x = &t->insn[i];

	*bytes = 8;
	switch (x->kind) {
	case X_SELF:
		*e = ea_of(t, &t->b->uop[i]);
		*bytes = x->mem_bytes;
		*write = x->mem_write;
		return x->mem && !x->mem_aligned && e->base >= 0 && e->index < 0 && e->seg == SEG_NONE;
	case X_PUSH:
	case X_CALL_REL:
	case X_CALL_IND:
		*e = stack_push;
		*write = true;
		return !x->mem;
	case X_POP:
	case X_RET:
		*e = stack_top;
		*write = false;
		return x->reg != RSP;
	default: return false;
	}
}

/* May it stand between accesses of a group? It makes none, and has no slow way. */
static bool group_passes(const struct xinsn *x)
{
	return x->kind == X_NOTHING || x->kind == X_LEA || (x->kind == X_SELF && !x->mem);
}

/* The group that begins with @i, if there is one. */
static void find_group(struct tr *t, unsigned i)
{
	struct group *g = &t->group;
	int64_t moved = 0, from = INT64_MAX, to = -INT64_MAX, start, end;
	unsigned bytes;
	int32_t by;
	struct ea e;
	bool write;

	*g = (struct group){.first = i, .last = i};
	for (unsigned m = i; m < t->b->insns; m++) {
		const struct xinsn *x = &t->insn[m];

		if (group_access(t, m, &e, &bytes, &write) && (m == i || e.base == g->at.base)) {
			start = min_i64(from, e.disp + moved);
			end = -min_i64(-to, -(e.disp + moved + bytes));
			if (end - start > (e.base == RSP ? 2 * GROUP_SPAN : GROUP_SPAN))
				break;
			from = start;
			to = end;
			g->at.base = e.base;
			g->write |= write;
			g->last = m;
		} else if (m == i || !group_passes(x)) {
			break;
		}
		if (moves_rsp(x, &by))
			moved += by;
		else if (g->at.base != REG_RIP && (x->writes & 1u << g->at.base))
			break;
	}
	t->grouped = g->last > i && from == (int32_t)from;
	g->at = (struct ea){.base = g->at.base, .index = -1, .disp = (int32_t)from, .seg = SEG_NONE};
	g->bytes = (unsigned)(to - from);
}

/* ---- blocks ---- */

/* Is there a way out of the instruction @x at which the flags from before must be known? */
static bool may_stop(const struct xinsn *x)
{
	return x->kind != X_LEA && x->kind != X_NOTHING && (x->kind != X_SELF || x->mem);
}

static void find_needed(struct tr *t)
{
	bool needed = true;

	for (unsigned i = t->b->insns; i-- > 0;) {
		const struct xinsn *x = &t->insn[i];

		t->needed[i] = needed;
		needed = may_stop(x) || x->tests || (needed && x->keeps);
	}
}

/* Are the flags as they are at the block's beginning of no use to anybody? */
static bool ignores_flags(const struct tr *t)
{
	for (unsigned i = 0; i < t->b->insns; i++) {
		const struct xinsn *x = &t->insn[i];

		if (may_stop(x) || x->tests)
			return false;
		if (x->sets)
			return !x->keeps;
	}
	return false;
}

static void emit_insn(struct tr *t, unsigned i)
{
	switch (t->insn[i].kind) {
	case X_CALL: emit_call(t, i); break;
	case X_SELF: emit_self(t, i); break;
	case X_NOTHING: break;
	case X_LEA: emit_lea(t, i); break;
	case X_PUSH: emit_push(t, i); break;
	case X_PUSH_MEM: emit_push_mem(t, i); break;
	case X_POP: emit_pop(t, i); break;
	case X_LEAVE: emit_leave(t, i); break;
	case X_DIV: emit_div(t, i); break;
	case X_CLI: emit_cli(t, i); break;
	case X_SWAPGS: emit_swapgs(t, i); break;
	case X_VMOV: emit_vmov(t, i); break;
	case X_VZEROUPPER: emit_vzeroupper(t, i); break;
	case X_STAC:
	case X_CLAC: emit_set_ac(t, i); break;
	case X_JMP: emit_branch(t, i); break;
	case X_JCC: emit_jcc(t, i); break;
	case X_CALL_REL: emit_call_rel(t, i); break;
	case X_RET: emit_ret(t, i); break;
	case X_JMP_IND: emit_jmp_ind(t, i); break;
	case X_CALL_IND: emit_call_ind(t, i); break;
	}
}

static void emit_end(struct tr *t)
{
	const struct uop *last = &t->b->uop[t->b->uops - 1];

	if (last->flags & UOP_PSEUDO)
		emit_goto(t, t->b->insns - 1u, (int64_t)last->imm, false);
	else if (t->insn[t->b->insns - 1].kind == X_CALL) {
		emit_clock_end(t);
		emit_resolve(t);
	}
}

/* Where the edge's jump goes as long as it is tied to nothing. RIP is in its slot. */
static void emit_leave_through(struct tr *t, struct edge *e)
{
	e->link.loose = a_here(t->a);
	if (!e->link.lin) {
		emit_linear(t, H_S1, e->delta);
		a_store(t->a, gpr_mem(REG_RIP), H_S1);
	}
	a_mov_imm(t->a, H_S1, (uint64_t)(uintptr_t)xlate_link_new(t->x, &e->link, e->to ? e->to->b : NULL));
	a_jmp_to(t->a, t->x->leave);
}

/* The block it goes to gets the flags in memory, or has no use for them and is entered behind its own look at the limit. */
static void emit_edge_ways(struct tr *t, struct edge *e)
{
	struct xlink *l = &e->link;

	if (!l->light)
		emit_light(t, e);
	a_patch_here(t->a, e->over);
	a_insn(t->a, A_OPW(0x81), A_SUB, a_reg(H_CLOCK));
	l->ticks[1] = t->a->p;
	a_imm(t->a, 0, 4);
	if (!e->in_host)
		l->saving = a_here(t->a);
	if (e->recipe.regs & reg_bit(RSP))
		e->recipe.rsp += e->rsp;
	emit_recipe(t->a, &e->recipe);
	if (e->in_host)
		l->saving = a_here(t->a);
	emit_clock(t, -l->ahead);
	emit_save(t->a);
	l->saved_jump = a_jmp(t->a);
}

/* Another address than the one it was tied for, or its page is not known to be where it was. */
static void emit_edge_missed(struct tr *t, struct edge *e)
{
	e->link.missed = a_here(t->a);
	for (unsigned i = 0; i < ARRAY_SIZE(e->miss); i++)
		a_patch_here(t->a, e->miss[i]);
	t->f_mem = e->saved;
	t->f_host = false;
	t->recipe = e->recipe;
	emit_clock(t, -e->ahead);
	t->ahead = 0;
	if (e->check) {
		a_load(t->a, H_S1, gpr_mem(REG_RIP));
		emit_check_canonical(t, e->insn);
	}
	flags_to_memory(t);
	if (e->rsp)
		emit_move_rsp(t, e->rsp);
	e->link.differs = a_jmp(t->a);
	e->link.other = a_here(t->a);
	emit_resolve(t);
}

static void emit_edge_out_of_line(struct tr *t, struct edge *e)
{
	enter_part(t, e->part);
	t->mode = e->mode;
	if (e->link.lin)
		emit_edge_missed(t, e);
	if (!e->saved)
		emit_edge_ways(t, e);
	emit_leave_through(t, e);
}

/* At the beginning: vector registers are to be in the host's. */
static void emit_want_vec(struct tr *t)
{
	a_insn(t->a, A_OP(0x80), A_CMP, CPU_MEM(xvec));
	a_byte(t->a, 0);
	t->load_vec.from = a_jcc(t->a, 4);
	t->load_vec.back = a_here(t->a);
}

/* The block is not run, because it would go beyond the limit or for lack of vector registers: as if it had not been entered. */
static void emit_refuse(struct tr *t)
{
	a_alu_imm(t->a, A_SUB, true, a_reg(H_CLOCK), (int32_t)(t->b->insns << XTICKS_SHIFT));
	emit_linear(t, H_S1, 0);
	a_store(t->a, gpr_mem(REG_RIP), H_S1);
	a_mov_imm(t->a, H_S1, 0);
	a_jmp_to(t->a, t->x->leave);
}

static void emit_load_vec(struct tr *t)
{
	a_patch_here(t->a, t->load_vec.from);
	a_call_to(t->a, t->x->load_vec);
	a_insn(t->a, A_OP(0x85), H_S1, a_reg(H_S1));
	a_patch(t->a, a_jcc(t->a, 5), t->load_vec.back);
	emit_refuse(t);
}

static void emit_part(struct tr *t)
{
	unsigned n;

	t->grouped = false;
	for (unsigned i = 0; i < t->b->insns; i += n) {
		if (!in_group(t, i))
			find_group(t, i);
		n = stack_run(t, i);
		if (n > 1) {
			emit_stack_run(t, i, n);
		} else {
			emit_insn(t, i);
			n = 1;
		}
	}
	emit_end(t);
}

/* The part that the edge @e leads to: what it begins with, the edge's jump replaces when the block is no longer valid. */
static void emit_next_part(struct tr *t, struct edge *e)
{
	while (t->a->p < t->part_least) /* it may have no edge */
		a_byte(t->a, 0x90);
	t->part_least = t->a->p + 5;
	e->laid = true;
	enter_part(t, e->to);
	if (e->link.site)
		a_patch_here(t->a, e->link.site);
	e->link.site = t->a->p + 1;
	e->link.jmp = true;
	t->ahead = e->ahead - (int32_t)(t->b->insns << XTICKS_SHIFT);
	t->mode = e->mode;
	t->f_host = e->in_host;
	t->f_mem = e->saved;
	t->recipe = e->recipe;
	find_needed(t);
	emit_part(t);
}

/* The one to be laid next: straight on, or any that is jumped to. */
static struct edge *next_edge(struct tr *t)
{
	struct edge *e = t->straight;

	t->straight = NULL;
	if (e)
		return e;
	for (e = t->edge; e < t->edge + t->edges; e++)
		if (e->to && !e->laid)
			return e;
	return NULL;
}

const uint8_t *xlate_block(struct cpu *cpu, struct translator *x, struct block *b, unsigned mode)
{
	struct part parts[XPARTS];
	struct tr t = {.cpu = cpu, .x = x, .a = &x->out, .parts = parts, .part_count = 1, .mode = mode, .f_mem = true};
	const uint8_t *entry;
	uint8_t *start = x->out.p, *over;

	parts[0].b = b;
	parts[0].from = NULL;
	describe_part(&t, &parts[0]);
	enter_part(&t, &parts[0]);
	t.vec = parts[0].vec;
	find_needed(&t);
	while ((uintptr_t)t.a->p & 15)
		a_byte(t.a, 0xcc);
	entry = a_here(t.a);
	a_alu_imm(t.a, A_ADD, true, a_reg(H_CLOCK), (int32_t)(b->insns << XTICKS_SHIFT));
	a_alu(t.a, A_CMP, H_CLOCK, CPU_MEM(xlimit));
	over = a_jcc(t.a, 7);
	if (t.vec)
		emit_want_vec(&t);
	else if (ignores_flags(&t))
		b->xlight[mode] = a_here(t.a);
	emit_part(&t);
	for (struct edge *e = next_edge(&t); e; e = next_edge(&t))
		emit_next_part(&t, e);
	for (unsigned i = 0; i < t.edges; i++)
		emit_edge_out_of_line(&t, &t.edge[i]);
	for (unsigned i = 0; i < t.slows; i++)
		emit_slow(&t, &t.slow[i]);
	enter_part(&t, &parts[0]);
	if (t.vec)
		emit_load_vec(&t);
	a_patch_here(t.a, over);
	emit_refuse(&t);
	assert((size_t)(t.a->p - start) <= XBLOCK_MOST);
	return entry;
}
