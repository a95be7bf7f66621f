/*
 * String instructions: MOVS, CMPS, STOS, LODS, SCAS, INS, OUTS, with REP.
 *
 * An iteration is complete before the next begins, so that a fault leaves the
 * registers where the manual wants them. Plain copies and fills that stay within
 * pages that the L1 TLB holds are done a run at a time; the number of iterations
 * and every effect are the same. A repeated instruction stands as an instruction
 * boundary each time 4096 iterations of its counter are through (EXEC_REPEAT), so
 * that no count of iterations can keep interrupts out.
 */
#include "cpu/access.h"
#include "cpu/alu.h"
#include "cpu/decode.h"
#include "cpu/flags.h"
#include "cpu/record.h"
#include "cpu/segment.h"
#include "cpu/vmx.h"

#define REP_STRETCH 4096u

enum string_op { STR_MOVS, STR_CMPS, STR_STOS, STR_LODS, STR_SCAS, STR_INS, STR_OUTS };

static uint64_t address_mask(const struct uop *u)
{
	return u->addrsize == 8 ? ~0ull : u->addrsize == 4 ? 0xffffffff : 0xffff;
}

static uint64_t get_reg(const struct cpu *cpu, const struct uop *u, unsigned r)
{
	return cpu->gpr[r] & address_mask(u);
}

static void put_reg(struct cpu *cpu, const struct uop *u, unsigned r, uint64_t v)
{
	if (u->addrsize == 2)
		w16(cpu, REG_OFF(r), (uint16_t)v);
	else
		cpu->gpr[r] = v & address_mask(u);
}

static void advance(struct cpu *cpu, const struct uop *u, unsigned r, uint64_t elements)
{
	uint64_t by = elements * u->opsize;

	put_reg(cpu, u, r, get_reg(cpu, u, r) + (cpu->rflags & RF_DF ? -by : by));
}

/* ---- one iteration ---- */

static int source_lin(struct cpu *cpu, const struct uop *u, uint64_t *lin)
{
	return seg_lin(cpu, u->seg, get_reg(cpu, u, RSI), u->opsize, ACCESS_READ, lin);
}

static int dest_lin(struct cpu *cpu, const struct uop *u, enum access_kind kind, uint64_t *lin)
{
	return seg_lin(cpu, SEG_ES, get_reg(cpu, u, RDI), u->opsize, kind, lin);
}

static int load(struct cpu *cpu, uint64_t lin, uint64_t *v, unsigned bytes)
{
	*v = 0;
	if (bytes == 8)
		return ld64(cpu, lin, v);
	if (bytes == 1) {
		uint8_t b;
		int r = ld8(cpu, lin, &b);

		*v = b;
		return r;
	}
	return mem_read(cpu, lin, v, bytes);
}

static int store(struct cpu *cpu, uint64_t lin, uint64_t v, unsigned bytes)
{
	if (bytes == 8)
		return st64(cpu, lin, v);
	if (bytes == 1)
		return st8(cpu, lin, (uint8_t)v);
	return mem_write(cpu, lin, &v, bytes);
}

static void compare(struct cpu *cpu, uint64_t a, uint64_t b, unsigned bytes)
{
	switch (bytes) {
	case 1: alu_sub8((uint8_t)a, (uint8_t)b, &cpu->cc); break;
	case 2: alu_sub16((uint16_t)a, (uint16_t)b, &cpu->cc); break;
	case 4: alu_sub32((uint32_t)a, (uint32_t)b, &cpu->cc); break;
	default: alu_sub64(a, b, &cpu->cc); break;
	}
}

static void put_accumulator(struct cpu *cpu, uint64_t v, unsigned bytes)
{
	switch (bytes) {
	case 1: w8(cpu, REG_OFF(RAX), (uint8_t)v); break;
	case 2: w16(cpu, REG_OFF(RAX), (uint16_t)v); break;
	case 4: w32(cpu, REG_OFF(RAX), (uint32_t)v); break;
	default: cpu->gpr[RAX] = v; break;
	}
}

static int iterate_movs(struct cpu *cpu, const struct uop *u)
{
	uint64_t from, to, v;

	if (source_lin(cpu, u, &from) || load(cpu, from, &v, u->opsize) || dest_lin(cpu, u, ACCESS_WRITE, &to) ||
	    store(cpu, to, v, u->opsize))
		return EXEC_STOP;
	advance(cpu, u, RSI, 1);
	advance(cpu, u, RDI, 1);
	return 0;
}

static int iterate_cmps(struct cpu *cpu, const struct uop *u)
{
	uint64_t from, to, a, b;

	/* Hardware reads the second operand first: it shows if both fault. */
	if (dest_lin(cpu, u, ACCESS_READ, &to) || load(cpu, to, &b, u->opsize) || source_lin(cpu, u, &from) ||
	    load(cpu, from, &a, u->opsize))
		return EXEC_STOP;
	compare(cpu, a, b, u->opsize);
	advance(cpu, u, RSI, 1);
	advance(cpu, u, RDI, 1);
	return 0;
}

static int iterate_stos(struct cpu *cpu, const struct uop *u)
{
	uint64_t to;

	if (dest_lin(cpu, u, ACCESS_WRITE, &to) || store(cpu, to, cpu->gpr[RAX], u->opsize))
		return EXEC_STOP;
	advance(cpu, u, RDI, 1);
	return 0;
}

static int iterate_lods(struct cpu *cpu, const struct uop *u)
{
	uint64_t from, v;

	if (source_lin(cpu, u, &from) || load(cpu, from, &v, u->opsize))
		return EXEC_STOP;
	put_accumulator(cpu, v, u->opsize);
	advance(cpu, u, RSI, 1);
	return 0;
}

static int iterate_scas(struct cpu *cpu, const struct uop *u)
{
	uint64_t to, v;

	if (dest_lin(cpu, u, ACCESS_READ, &to) || load(cpu, to, &v, u->opsize))
		return EXEC_STOP;
	compare(cpu, cpu->gpr[RAX], v, u->opsize);
	advance(cpu, u, RDI, 1);
	return 0;
}

/* INS and OUTS move at most 4 bytes; opsize is 1, 2 or 4. */
static int iterate_ins(struct cpu *cpu, const struct uop *u)
{
	uint16_t port = r16(cpu, REG_OFF(RDX));
	uint64_t to;
	uint32_t v;

	if (dest_lin(cpu, u, ACCESS_WRITE, &to) || io_check_permission(cpu, port, u->opsize))
		return EXEC_STOP;
	if (vmx_intercept_io(cpu, u, port, u->opsize, true, true, u->flags & (UOP_REP | UOP_REPNE), false, to))
		return EXEC_STOP;
	/* A fault of the store comes before the port is read. */
	if (mem_probe_write(cpu, to, u->opsize, (enum access_mode)cpu->mode) || port_read(cpu, port, u->opsize, &v) ||
	    store(cpu, to, v, u->opsize))
		return EXEC_STOP;
	io_check_breakpoints(cpu, port, u->opsize);
	advance(cpu, u, RDI, 1);
	return 0;
}

static int iterate_outs(struct cpu *cpu, const struct uop *u)
{
	uint16_t port = r16(cpu, REG_OFF(RDX));
	uint64_t from, v;

	if (source_lin(cpu, u, &from) || io_check_permission(cpu, port, u->opsize))
		return EXEC_STOP;
	if (vmx_intercept_io(cpu, u, port, u->opsize, false, true, u->flags & (UOP_REP | UOP_REPNE), false, from))
		return EXEC_STOP;
	if (load(cpu, from, &v, u->opsize) || port_write(cpu, port, u->opsize, (uint32_t)v))
		return EXEC_STOP;
	io_check_breakpoints(cpu, port, u->opsize);
	advance(cpu, u, RSI, 1);
	return 0;
}

static int (*const iterate[])(struct cpu *, const struct uop *) = {
	[STR_MOVS] = iterate_movs, [STR_CMPS] = iterate_cmps, [STR_STOS] = iterate_stos, [STR_LODS] = iterate_lods,
	[STR_SCAS] = iterate_scas, [STR_INS] = iterate_ins,   [STR_OUTS] = iterate_outs};

/* ---- runs of iterations within pages that the L1 TLB holds ---- */

static uint64_t room_up(uint64_t lin, unsigned size) { return (PAGE_SIZE - (lin & ~PAGE_MASK)) / size; }

static bool all_bytes_equal(uint64_t v, unsigned size)
{
	return (v ^ (uint8_t)v * 0x0101010101010101ull) << (64 - 8 * size) == 0;
}

static void fill(uint8_t *to, uint64_t v, unsigned size, uint64_t n)
{
	if (all_bytes_equal(v, size)) {
		memset(to, (int)(uint8_t)v, n * size);
		return;
	}
	for (uint64_t i = 0; i < n; i++)
		memcpy(to + i * size, &v, size);
}

/* An overlapping forward copy repeats its beginning, element by element. */
static void copy_forward(uint8_t *to, const uint8_t *from, unsigned size, uint64_t n)
{
	if (to + n * size <= from || from + n * size <= to) {
		memcpy(to, from, n * size);
		return;
	}
	for (uint64_t i = 0; i < n; i++) {
		uint64_t v;

		memcpy(&v, from + i * size, size);
		memcpy(to + i * size, &v, size);
	}
}

/*
 * Up to @most iterations of a forward MOVS or STOS at once; returns how many were
 * done (0: none can). With both pages in the L1 TLB every iteration would find
 * them there, so that the TLB's state after the run is that after its first
 * iteration: source touched, then destination.
 */
static uint64_t run_of(struct cpu *cpu, const struct uop *u, uint64_t most)
{
	uint64_t to = cpu->gpr[RDI], from = cpu->gpr[RSI] + cpu->seg_base_eff[u->seg < SEG_FS ? SEG_NONE : u->seg];
	uint64_t n = min_u64(most, room_up(to, u->opsize));
	const uint8_t *src = NULL;
	uint8_t *dst;

	if (u->aux == STR_MOVS) {
		n = min_u64(n, room_up(from, u->opsize));
		src = n ? mmu_data_resident(&cpu->mmu, from, ACCESS_READ, (enum access_mode)cpu->mode) : NULL;
		if (!src)
			return 0;
	}
	dst = n ? mmu_data_resident(&cpu->mmu, to, ACCESS_WRITE, (enum access_mode)cpu->mode) : NULL;
	if (!dst)
		return 0;
	if (src) {
		copy_forward(dst, src, u->opsize, n);
		advance(cpu, u, RSI, n);
	} else {
		fill(dst, cpu->gpr[RAX], u->opsize, n);
	}
	advance(cpu, u, RDI, n);
	return n;
}

static bool may_run(const struct cpu *cpu, const struct uop *u)
{
	return (u->aux == STR_MOVS || u->aux == STR_STOS) && cpu->long_mode && u->addrsize == 8 &&
	       !(cpu->rflags & RF_DF) && !cpu->careful && !cpu->emul_ops;
}

/* ---- REP ---- */

static bool condition_ends(const struct cpu *cpu, const struct uop *u)
{
	if (u->aux != STR_CMPS && u->aux != STR_SCAS)
		return false;
	return u->flags & UOP_REPNE ? cpu->cc & CC_ZF : !(cpu->cc & CC_ZF);
}

static int string_single(struct cpu *cpu, const struct uop *u)
{
	return iterate[u->aux](cpu, u) ? EXEC_STOP : EXEC_NEXT;
}

/*
 * With 32-bit addresses in 64-bit mode, REP clears the upper half of RCX even if
 * there is no iteration; MOVS and STOS that of their addresses, too.
 */
static void clear_upper(struct cpu *cpu, const struct uop *u)
{
	cpu->gpr[RCX] = (uint32_t)cpu->gpr[RCX];
	if (u->aux == STR_MOVS || u->aux == STR_STOS)
		cpu->gpr[RDI] = (uint32_t)cpu->gpr[RDI];
	if (u->aux == STR_MOVS)
		cpu->gpr[RSI] = (uint32_t)cpu->gpr[RSI];
}

static int string_repeat(struct cpu *cpu, const struct uop *u)
{
	uint64_t left = get_reg(cpu, u, RCX);
	uint16_t cc = cpu->cc;
	unsigned done = 0;
	bool begun = false;

	if (u->addrsize == 4 && cpu->long_mode)
		clear_upper(cpu, u);
	while (left) {
		uint64_t to_boundary = (left - 1) % REP_STRETCH + 1;
		uint64_t n = may_run(cpu, u) ? run_of(cpu, u, to_boundary) : 0;

		if (unlikely(cpu->recorder && begun))
			record_iteration(cpu);
		begun = true;
		if (n == 0) {
			if (iterate[u->aux](cpu, u)) {
				cpu->cc = cc; /* SDM "REP": a fault restores the flags of CMPS and SCAS */
				return EXEC_STOP;
			}
			n = 1;
			cpu->bus.done_count = cpu->bus.replay = 0;
		}
		left -= n;
		put_reg(cpu, u, RCX, left);
		if (condition_ends(cpu, u) || left == 0)
			break;
		cpu->rep_counts = left % REP_STRETCH == 0;
		/* Ports, breakpoints and traps are looked at after every iteration. */
		if (cpu->rep_counts || cpu->careful || cpu->db_pending || u->aux >= STR_INS)
			return EXEC_REPEAT;
		if (++done == cpu->rep_limit) {
			cpu->cc = cc; /* no boundary that the guest may see: as if there had been none */
			return EXEC_REPEAT;
		}
	}
	return EXEC_NEXT;
}

static int x_string(struct cpu *cpu, const struct uop *u)
{
	return u->flags & (UOP_REP | UOP_REPNE) ? string_repeat(cpu, u) : string_single(cpu, u);
}

/* ---- lowering ---- */

static int string_op_of(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_MOVSB:
	case ZYDIS_MNEMONIC_MOVSW:
	case ZYDIS_MNEMONIC_MOVSQ: return STR_MOVS;
	case ZYDIS_MNEMONIC_CMPSB:
	case ZYDIS_MNEMONIC_CMPSW:
	case ZYDIS_MNEMONIC_CMPSQ: return STR_CMPS;
	case ZYDIS_MNEMONIC_STOSB:
	case ZYDIS_MNEMONIC_STOSW:
	case ZYDIS_MNEMONIC_STOSD:
	case ZYDIS_MNEMONIC_STOSQ: return STR_STOS;
	case ZYDIS_MNEMONIC_LODSB:
	case ZYDIS_MNEMONIC_LODSW:
	case ZYDIS_MNEMONIC_LODSD:
	case ZYDIS_MNEMONIC_LODSQ: return STR_LODS;
	case ZYDIS_MNEMONIC_SCASB:
	case ZYDIS_MNEMONIC_SCASW:
	case ZYDIS_MNEMONIC_SCASD:
	case ZYDIS_MNEMONIC_SCASQ: return STR_SCAS;
	case ZYDIS_MNEMONIC_INSB:
	case ZYDIS_MNEMONIC_INSW:
	case ZYDIS_MNEMONIC_INSD: return STR_INS;
	case ZYDIS_MNEMONIC_OUTSB:
	case ZYDIS_MNEMONIC_OUTSW:
	case ZYDIS_MNEMONIC_OUTSD: return STR_OUTS;
	/* These two names also belong to SSE2 instructions. */
	case ZYDIS_MNEMONIC_MOVSD: return STR_MOVS;
	case ZYDIS_MNEMONIC_CMPSD: return STR_CMPS;
	default: return -1;
	}
}

static uint8_t source_segment(const struct insn *in)
{
	for (unsigned i = 0; i < in->z.operand_count; i++) {
		const ZydisDecodedOperand *o = &in->op[i];

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && zreg_off(o->mem.base) == REG_OFF(RSI))
			return (uint8_t)(o->mem.segment - ZYDIS_REGISTER_ES);
	}
	return SEG_DS;
}

/* The last F2 or F3 prefix counts; either repeats MOVS, STOS, LODS, INS and OUTS. */
static uint8_t repeat_prefix(const struct insn *in)
{
	uint8_t flag = 0;

	for (unsigned i = 0; i < in->z.raw.prefix_count; i++) {
		if (in->z.raw.prefixes[i].value == 0xf3)
			flag = UOP_REP;
		else if (in->z.raw.prefixes[i].value == 0xf2)
			flag = UOP_REPNE;
	}
	return flag;
}

bool lower_string(struct insn *in, struct uop *u)
{
	int op = string_op_of(in->z.mnemonic);

	if (op < 0 || in->z.meta.isa_set == ZYDIS_ISA_SET_SSE2)
		return false;
	u->aux = (uint32_t)op;
	u->seg = source_segment(in);
	if (op >= STR_INS && u->opsize == 8)
		u->opsize = 4;
	u->flags &= (uint8_t)~(UOP_REP | UOP_REPNE | UOP_SEG_STACK);
	u->flags |= repeat_prefix(in);
	if (u->seg == SEG_SS)
		u->flags |= UOP_SEG_STACK;
	if (op >= STR_INS)
		in->ends_block = true;
	u->exec = x_string;
	return true;
}
