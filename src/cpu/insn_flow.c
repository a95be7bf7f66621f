/* Near control transfers, SETcc, CMOVcc, LOOP. Far transfers are in insn_far.c. */
#include "cpu/access.h"
#include "cpu/decode.h"
#include "cpu/flags.h"
#include "cpu/stack.h"

/* A near branch ends up here: EIP and IP are cut to the operand size outside 64-bit mode. */
static ALWAYS_INLINE uint64_t branch_rip(const struct uop *u, uint64_t rip)
{
	return likely(u->opsize == 8) ? rip : u->opsize == 4 ? (uint32_t)rip : (uint16_t)rip;
}

/* Target checks that 64-bit branches with a fixed displacement share with indirect ones. */
static bool target_bad(const struct cpu *cpu, uint64_t rip)
{
	unsigned width = cpu->cr4 & CR4_LA57 ? 57 : 48;

	if (cpu->long_mode)
		return (uint64_t)((int64_t)(rip << (64 - width)) >> (64 - width)) != rip;
	return rip > cpu->seg[SEG_CS].limit;
}

static ALWAYS_INLINE int branch_to(struct cpu *cpu, uint64_t rip)
{
	if (unlikely(target_bad(cpu, rip)))
		return raise_gp0(cpu);
	cpu->gpr[REG_RIP] = rip;
	return EXEC_NEXT;
}

static ALWAYS_INLINE int branch_relative(struct cpu *cpu, const struct uop *u)
{
	return branch_to(cpu, branch_rip(u, cpu->gpr[REG_RIP] + u->imm));
}

static ALWAYS_INLINE int not_taken(struct cpu *cpu, const struct uop *u)
{
	cpu->gpr[REG_RIP] = uop_next_rip(cpu, u);
	return EXEC_NEXT;
}

/* Condition codes 0-15, each as its own function: the test is then a constant mask. */
#define CONDITIONS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

#define EXEC_JCC(n)                                                          \
	static int x_jcc##n(struct cpu *cpu, const struct uop *u)            \
	{                                                                    \
		if (cc_test(cpu->cc, n))                                     \
			return branch_relative(cpu, u);                      \
		return not_taken(cpu, u);                                    \
	}                                                                    \
	static int x_setcc_r##n(struct cpu *cpu, const struct uop *u)        \
	{                                                                    \
		w8(cpu, u->dst, (uint8_t)cc_test(cpu->cc, n));               \
		return EXEC_NEXT;                                            \
	}                                                                    \
	static int x_cmov_rr64_##n(struct cpu *cpu, const struct uop *u)     \
	{                                                                    \
		if (cc_test(cpu->cc, n))                                     \
			w64(cpu, u->dst, r64(cpu, u->src));                  \
		return EXEC_NEXT;                                            \
	}                                                                    \
	/* The upper half is cleared whether or not the move is made. */    \
	static int x_cmov_rr32_##n(struct cpu *cpu, const struct uop *u)     \
	{                                                                    \
		w32(cpu, u->dst, r32(cpu, cc_test(cpu->cc, n) ? u->src : u->dst)); \
		return EXEC_NEXT;                                            \
	}
CONDITIONS(EXEC_JCC)

#define X_JCC(n)  x_jcc##n,
#define X_SETR(n) x_setcc_r##n,
#define X_CM64(n) x_cmov_rr64_##n,
#define X_CM32(n) x_cmov_rr32_##n,
static const exec_fn jcc_fn[16] = {CONDITIONS(X_JCC)};
static const exec_fn setcc_r_fn[16] = {CONDITIONS(X_SETR)};
static const exec_fn cmov_rr64_fn[16] = {CONDITIONS(X_CM64)};
static const exec_fn cmov_rr32_fn[16] = {CONDITIONS(X_CM32)};

static int x_setcc_m(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin;

	return ea(cpu, u, 1, ACCESS_WRITE, &lin) || st8(cpu, lin, (uint8_t)cc_test(cpu->cc, u->aux)) ? EXEC_STOP
												     : EXEC_NEXT;
}

static int x_cmov_rr16(struct cpu *cpu, const struct uop *u)
{
	if (cc_test(cpu->cc, u->aux))
		w16(cpu, u->dst, r16(cpu, u->src));
	return EXEC_NEXT;
}

/* The source is read, and may fault, in any case. */
static int x_cmov_rm(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin, v = 0;
	bool take = cc_test(cpu->cc, u->aux);

	if (ea(cpu, u, u->opsize, ACCESS_READ, &lin))
		return EXEC_STOP;
	if (u->opsize == 8) {
		if (ld64(cpu, lin, &v))
			return EXEC_STOP;
		if (take)
			w64(cpu, u->dst, v);
	} else if (u->opsize == 4) {
		uint32_t v4;

		if (ld32(cpu, lin, &v4))
			return EXEC_STOP;
		w32(cpu, u->dst, take ? v4 : r32(cpu, u->dst));
	} else {
		uint16_t v2;

		if (ld16(cpu, lin, &v2))
			return EXEC_STOP;
		if (take)
			w16(cpu, u->dst, v2);
	}
	return EXEC_NEXT;
}

static int x_jmp(struct cpu *cpu, const struct uop *u) { return branch_relative(cpu, u); }

static int x_jmp_r64(struct cpu *cpu, const struct uop *u) { return branch_to(cpu, r64(cpu, u->dst)); }
static int x_jmp_r(struct cpu *cpu, const struct uop *u) { return branch_to(cpu, branch_rip(u, r64(cpu, u->dst))); }

static int load_target(struct cpu *cpu, const struct uop *u, uint64_t *target)
{
	uint64_t lin;

	*target = 0;
	return ea(cpu, u, u->opsize, ACCESS_READ, &lin) ||
	       (u->opsize == 8 ? ld64(cpu, lin, target) : mem_read(cpu, lin, target, u->opsize));
}

static int x_jmp_m(struct cpu *cpu, const struct uop *u)
{
	uint64_t target;

	return load_target(cpu, u, &target) ? EXEC_STOP : branch_to(cpu, target);
}

/* Hardware has pushed the return address by the time it finds the target bad; RSP is as before. */
static NOINLINE int bad_call(struct cpu *cpu, const struct uop *u, uint64_t next)
{
	uint64_t sp = cpu->gpr[RSP];

	if (stack_push(cpu, next, u->opsize))
		return EXEC_STOP;
	cpu->gpr[RSP] = sp;
	return raise_gp0(cpu);
}

static ALWAYS_INLINE int call_to(struct cpu *cpu, const struct uop *u, uint64_t target)
{
	uint64_t next = uop_next_rip(cpu, u);

	if (unlikely(target_bad(cpu, target)))
		return bad_call(cpu, u, next);
	if (likely(cpu->long_mode && u->opsize == 8)) {
		if (st64(cpu, cpu->gpr[RSP] - 8, next))
			return stack_stop(cpu);
		cpu->gpr[RSP] -= 8;
	} else if (stack_push(cpu, next, u->opsize)) {
		return EXEC_STOP;
	}
	cpu->gpr[REG_RIP] = target;
	return EXEC_NEXT;
}

static int x_call(struct cpu *cpu, const struct uop *u)
{
	return call_to(cpu, u, branch_rip(u, cpu->gpr[REG_RIP] + u->imm));
}

static int x_call_r(struct cpu *cpu, const struct uop *u) { return call_to(cpu, u, branch_rip(u, r64(cpu, u->dst))); }

static int x_call_m(struct cpu *cpu, const struct uop *u)
{
	uint64_t target;

	return load_target(cpu, u, &target) ? EXEC_STOP : call_to(cpu, u, target);
}

/* imm: bytes of parameters to release. */
static int x_ret64(struct cpu *cpu, const struct uop *u)
{
	uint64_t target;

	if (ld64(cpu, cpu->gpr[RSP], &target))
		return EXEC_STOP;
	if (unlikely(target_bad(cpu, target)))
		return raise_gp0(cpu);
	cpu->gpr[RSP] += 8 + u->imm;
	cpu->gpr[REG_RIP] = target;
	return EXEC_NEXT;
}

static int x_ret(struct cpu *cpu, const struct uop *u)
{
	uint64_t target;

	if (stack_read(cpu, cpu->gpr[RSP], &target, u->opsize))
		return EXEC_STOP;
	if (target_bad(cpu, target))
		return raise_gp0(cpu);
	stack_move(cpu, (int64_t)(u->opsize + u->imm));
	cpu->gpr[REG_RIP] = target;
	return EXEC_NEXT;
}

/* ---- LOOP, LOOPE, LOOPNE, JCXZ: the counter has the address size ---- */

static uint64_t counter(const struct cpu *cpu, const struct uop *u)
{
	uint64_t c = cpu->gpr[RCX];

	return u->addrsize == 8 ? c : u->addrsize == 4 ? (uint32_t)c : (uint16_t)c;
}

static void counter_set(struct cpu *cpu, const struct uop *u, uint64_t c)
{
	if (u->addrsize == 8)
		cpu->gpr[RCX] = c;
	else if (u->addrsize == 4)
		w32(cpu, REG_OFF(RCX), (uint32_t)c);
	else
		w16(cpu, REG_OFF(RCX), (uint16_t)c);
}

enum { LOOP_ALWAYS, LOOP_EQUAL, LOOP_NOT_EQUAL };

static int x_loop(struct cpu *cpu, const struct uop *u)
{
	uint64_t mask = u->addrsize == 8 ? ~0ull : u->addrsize == 4 ? 0xffffffff : 0xffff;
	uint64_t left = (counter(cpu, u) - 1) & mask;
	bool zf = cpu->cc & CC_ZF;
	bool take = left && (u->aux == LOOP_ALWAYS || (u->aux == LOOP_EQUAL) == zf);

	if (take && branch_relative(cpu, u))
		return EXEC_STOP;
	if (!take)
		not_taken(cpu, u);
	counter_set(cpu, u, left);
	return EXEC_NEXT;
}

static int x_jcxz(struct cpu *cpu, const struct uop *u)
{
	return counter(cpu, u) == 0 ? branch_relative(cpu, u) : not_taken(cpu, u);
}

/* ---- lowering ---- */

/* Condition code of a Jcc, SETcc or CMOVcc: in its opcode. */
static unsigned condition(const struct insn *in) { return in->z.opcode & 15; }

static void lower_relative(struct insn *in, struct uop *u)
{
	u->imm = (uint64_t)((int64_t)u->off + u->len + in->op[0].imm.value.s);
	u->flags |= UOP_SETS_RIP;
	/* Near branches in 64-bit mode have a 64-bit operand size; 66 is ignored, as Intel has it. */
	if (in->mode_bits == 64)
		u->opsize = 8;
}

static void lower_indirect(struct insn *in, struct uop *u, exec_fn reg64, exec_fn reg, exec_fn mem)
{
	u->flags |= UOP_SETS_RIP;
	if (in->mode_bits == 64)
		u->opsize = 8;
	if (op_is_mem(in, 0)) {
		u->exec = mem;
		return;
	}
	u->dst = zreg_off(in->op[0].reg.value);
	u->exec = u->opsize == 8 ? reg64 : reg;
}

static bool is_far(const struct insn *in)
{
	return in->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
}

static bool lower_jump(struct insn *in, struct uop *u)
{
	bool immediate = op_is_imm(in, 0);

	if (is_far(in))
		return false;
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
		if (immediate) {
			lower_relative(in, u);
			u->exec = x_jmp;
		} else {
			lower_indirect(in, u, x_jmp_r64, x_jmp_r, x_jmp_m);
		}
		return true;
	case ZYDIS_MNEMONIC_CALL:
		if (immediate) {
			lower_relative(in, u);
			u->exec = x_call;
			u->flags |= UOP_SEG_STACK;
		} else {
			lower_indirect(in, u, x_call_r, x_call_r, x_call_m);
		}
		return true;
	case ZYDIS_MNEMONIC_RET:
		u->flags |= UOP_SETS_RIP | UOP_SEG_STACK;
		u->imm = immediate ? in->op[0].imm.value.u & 0xffff : 0;
		if (in->mode_bits == 64)
			u->opsize = 8;
		u->exec = u->opsize == 8 ? x_ret64 : x_ret;
		return true;
	default: return false;
	}
}

static bool lower_loop(struct insn *in, struct uop *u)
{
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_LOOP: u->aux = LOOP_ALWAYS; break;
	case ZYDIS_MNEMONIC_LOOPE: u->aux = LOOP_EQUAL; break;
	case ZYDIS_MNEMONIC_LOOPNE: u->aux = LOOP_NOT_EQUAL; break;
	case ZYDIS_MNEMONIC_JCXZ:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JRCXZ:
		lower_relative(in, u);
		u->exec = x_jcxz;
		return true;
	default: return false;
	}
	lower_relative(in, u);
	u->exec = x_loop;
	return true;
}

static bool lower_conditional(struct insn *in, struct uop *u)
{
	switch (in->z.meta.category) {
	case ZYDIS_CATEGORY_COND_BR:
		/* XBEGIN and XEND count as branches too. */
		if ((in->z.opcode & 0xf0) != (in->z.opcode_map == ZYDIS_OPCODE_MAP_0F ? 0x80 : 0x70))
			return false;
		lower_relative(in, u);
		u->exec = jcc_fn[condition(in)];
		return true;
	case ZYDIS_CATEGORY_SETCC:
		u->aux = condition(in);
		u->dst = op_is_reg(in, 0) ? zreg_off(in->op[0].reg.value) : 0;
		u->exec = op_is_mem(in, 0) ? x_setcc_m : setcc_r_fn[u->aux];
		return true;
	case ZYDIS_CATEGORY_CMOV:
		u->aux = condition(in);
		u->dst = zreg_off(in->op[0].reg.value);
		u->src = op_is_reg(in, 1) ? zreg_off(in->op[1].reg.value) : 0;
		if (!cpu_has(in->cpu, CPUF_CMOV))
			u->exec = exec_ud;
		else if (op_is_mem(in, 1))
			u->exec = x_cmov_rm;
		else
			u->exec = u->opsize == 8   ? cmov_rr64_fn[u->aux]
				  : u->opsize == 4 ? cmov_rr32_fn[u->aux]
						   : x_cmov_rr16;
		return true;
	default: return false;
	}
}

bool lower_flow(struct insn *in, struct uop *u)
{
	if (in->z.meta.category == ZYDIS_CATEGORY_COND_BR && lower_loop(in, u))
		return true;
	return lower_jump(in, u) || lower_loop(in, u) || lower_conditional(in, u);
}
