/*
 * The generator of the differential fuzzer: which instructions, and which states.
 *
 * At the start every opcode form (opcode map, mandatory prefix, REX.W, opcode,
 * ModRM.reg, register or memory) is decoded once and sorted by mnemonic; a test
 * picks a mnemonic evenly, then one of its forms, then operands. One test in
 * sixteen is made of random bytes instead. Registers are chosen backwards from
 * where memory operands are to lie: mostly in the data pages, sometimes across their
 * end, in the read-only page, or at addresses that fault.
 *
 * Left out: what enters the kernel or leaves the slot, what a host has and our
 * processor does not, segment loads, time and random numbers, EVEX.
 */
#include "difffuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define FORMS_MAX 65536

struct form {
	uint16_t mnemonic;
	uint8_t map, prefix, opcode, modrm; /* modrm: reg field; register forms of x87: all of it */
	bool rexw, has_modrm, memory, exact;
	bool vsib;
	bool vex, wide; /* VEX-encoded: prefix is in it; VEX.L */
};

struct group {
	unsigned first, count;
};

struct gen {
	struct rng rng;
	unsigned bits;
	ZydisDecoder decoder;
	struct form *form;
	unsigned forms;
	struct group *group; /* one a mnemonic */
	unsigned groups;
};

/* ---- which instructions ---- */

static bool isa_ok(ZydisISASet isa)
{
	switch (isa) {
	case ZYDIS_ISA_SET_CLFSH: case ZYDIS_ISA_SET_CMOV: case ZYDIS_ISA_SET_CMPXCHG16B: case ZYDIS_ISA_SET_FAT_NOP:
	case ZYDIS_ISA_SET_FCMOV: case ZYDIS_ISA_SET_FXSAVE: case ZYDIS_ISA_SET_FXSAVE64: case ZYDIS_ISA_SET_I186:
	case ZYDIS_ISA_SET_I286REAL: case ZYDIS_ISA_SET_I386: case ZYDIS_ISA_SET_I486: case ZYDIS_ISA_SET_I486REAL:
	case ZYDIS_ISA_SET_I86: case ZYDIS_ISA_SET_LAHF: case ZYDIS_ISA_SET_LONGMODE: case ZYDIS_ISA_SET_PAUSE:
	case ZYDIS_ISA_SET_PENTIUMMMX: case ZYDIS_ISA_SET_PENTIUMREAL: case ZYDIS_ISA_SET_POPCNT:
	case ZYDIS_ISA_SET_PPRO: case ZYDIS_ISA_SET_PREFETCH_NOP: case ZYDIS_ISA_SET_RDWRFSGS: case ZYDIS_ISA_SET_SSE:
	case ZYDIS_ISA_SET_SSE2: case ZYDIS_ISA_SET_SSE2MMX: case ZYDIS_ISA_SET_SSE3: case ZYDIS_ISA_SET_SSE3X87:
	case ZYDIS_ISA_SET_SSE4: case ZYDIS_ISA_SET_SSE42: case ZYDIS_ISA_SET_SSEMXCSR:
	case ZYDIS_ISA_SET_SSE_PREFETCH: case ZYDIS_ISA_SET_SSSE3: case ZYDIS_ISA_SET_SSSE3MMX:
	case ZYDIS_ISA_SET_X87: case ZYDIS_ISA_SET_XSAVE:
	case ZYDIS_ISA_SET_AVX: case ZYDIS_ISA_SET_AVX2: case ZYDIS_ISA_SET_AVX2GATHER: case ZYDIS_ISA_SET_FMA:
	case ZYDIS_ISA_SET_F16C:
	case ZYDIS_ISA_SET_BMI1: case ZYDIS_ISA_SET_BMI2: case ZYDIS_ISA_SET_LZCNT: case ZYDIS_ISA_SET_MOVBE:
		return true;
	default: return false;
	}
}

static bool mnemonic_ok(ZydisMnemonic m)
{
	switch (m) {
	/* into the kernel, and far */
	case ZYDIS_MNEMONIC_SYSCALL: case ZYDIS_MNEMONIC_SYSENTER: case ZYDIS_MNEMONIC_SYSRET:
	case ZYDIS_MNEMONIC_SYSEXIT: case ZYDIS_MNEMONIC_INT: case ZYDIS_MNEMONIC_INT1: case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_INTO: case ZYDIS_MNEMONIC_IRET: case ZYDIS_MNEMONIC_IRETD: case ZYDIS_MNEMONIC_IRETQ:
	/* segments and descriptors */
	case ZYDIS_MNEMONIC_LDS: case ZYDIS_MNEMONIC_LES: case ZYDIS_MNEMONIC_LSS: case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS: case ZYDIS_MNEMONIC_SGDT: case ZYDIS_MNEMONIC_SIDT: case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_STR: case ZYDIS_MNEMONIC_SMSW: case ZYDIS_MNEMONIC_LAR: case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_VERR: case ZYDIS_MNEMONIC_VERW: case ZYDIS_MNEMONIC_WRFSBASE: case ZYDIS_MNEMONIC_WRGSBASE:
	/* ports, time, randomness, the host's own properties */
	case ZYDIS_MNEMONIC_IN: case ZYDIS_MNEMONIC_OUT: case ZYDIS_MNEMONIC_INSB: case ZYDIS_MNEMONIC_INSW:
	case ZYDIS_MNEMONIC_INSD: case ZYDIS_MNEMONIC_OUTSB: case ZYDIS_MNEMONIC_OUTSW: case ZYDIS_MNEMONIC_OUTSD:
	case ZYDIS_MNEMONIC_RDTSC: case ZYDIS_MNEMONIC_RDPMC: case ZYDIS_MNEMONIC_CPUID: case ZYDIS_MNEMONIC_RSM:
	case ZYDIS_MNEMONIC_XGETBV: case ZYDIS_MNEMONIC_XSETBV:
		return false;
	default: return true;
	}
}

static bool is_segment_register(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->reg.value >= ZYDIS_REGISTER_ES &&
	       o->reg.value <= ZYDIS_REGISTER_GS;
}

/* May the host execute it? */
static bool insn_ok(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
	if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && z->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return false;
	if (!isa_ok(z->meta.isa_set) || !mnemonic_ok(z->mnemonic) ||
	    z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return false;
	for (unsigned i = 0; i < z->operand_count; i++) {
		if (is_segment_register(&op[i]) && (op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			return false;
		if (op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && op[i].mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
		    op[i].mem.segment == ZYDIS_REGISTER_FS)
			return false;
	}
	return true;
}

/* ---- forms ---- */

/*
 * SIB with base 5 and mod 0 has no base whatever REX.B is; with 32-bit addresses Zydis 4.0
 * says R13D and forgets the displacement.
 */
static void correct_sib(const ZydisDecodedInstruction *z, ZydisDecodedOperand *op)
{
	if (z->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 || !(z->attributes & ZYDIS_ATTRIB_HAS_SIB) || z->raw.modrm.mod != 0 || z->raw.sib.base != 5)
		return;
	for (unsigned i = 0; i < z->operand_count_visible; i++)
		if (op[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
			op[i].mem.base = ZYDIS_REGISTER_NONE;
			op[i].mem.disp.has_displacement = true;
			op[i].mem.disp.value = z->raw.disp.value;
		}
}

static bool decode(const struct gen *g, const uint8_t *bytes, unsigned len, ZydisDecodedInstruction *z,
		   ZydisDecodedOperand *op)
{
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->decoder, bytes, len, z, op)))
		return false;
	correct_sib(z, op);
	return true;
}

/* @rxb: as in REX, @vvvv: register */
static unsigned put_vex(const struct form *f, unsigned rxb, unsigned vvvv, uint8_t *b)
{
	unsigned pp = f->prefix == 0x66 ? 1 : f->prefix == 0xf3 ? 2 : f->prefix == 0xf2 ? 3 : 0;

	b[0] = 0xc4;
	b[1] = (uint8_t)((~rxb & 7) << 5 | f->map);
	b[2] = (uint8_t)((unsigned)f->rexw << 7 | (~vvvv & 15) << 3 | (unsigned)f->wide << 2 | pp);
	b[3] = f->opcode;
	return 4;
}

static unsigned put_opcode(const struct form *f, uint8_t *b)
{
	unsigned n = 0;

	if (f->map >= 1)
		b[n++] = 0x0f;
	if (f->map == 2)
		b[n++] = 0x38;
	if (f->map == 3)
		b[n++] = 0x3a;
	b[n++] = f->opcode;
	return n;
}

static void try_form(struct gen *g, struct form f, const char *only)
{
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	uint8_t b[24] = {0};
	ZydisDecodedInstruction z;
	unsigned n = 0;

	if (f.prefix && !f.vex)
		b[n++] = f.prefix;
	if (f.rexw && !f.vex) {
		if (g->bits == 32)
			return;
		b[n++] = 0x48;
	}
	n += f.vex ? put_vex(&f, 0, f.vsib ? (f.modrm + 1) & 7 : 0, b) : put_opcode(&f, b + n);
	b[n] = f.exact ? f.modrm : (uint8_t)(f.modrm << 3 | (f.memory ? 0x06 : 0xc1));
	if (f.vsib) { /* three different registers */
		b[n] = (uint8_t)(f.modrm << 3 | 4);
		b[n + 1] = (uint8_t)(((f.modrm + 2) & 7) << 3);
	}
	if (!decode(g, b, 15, &z, op) || z.opcode_map != f.map || z.opcode != f.opcode || !insn_ok(&z, op))
		return;
	if (only && strcasecmp(only, ZydisMnemonicGetString(z.mnemonic)))
		return;
	f.has_modrm = z.attributes & ZYDIS_ATTRIB_HAS_MODRM;
	if (!f.has_modrm && (f.modrm || f.memory))
		return;
	if (z.raw.modrm.offset && f.memory != (z.raw.modrm.mod != 3))
		return;
	f.mnemonic = (uint16_t)z.mnemonic;
	if (g->forms < FORMS_MAX)
		g->form[g->forms++] = f;
}

static void try_opcode(struct gen *g, unsigned map, unsigned opcode, unsigned prefix, bool rexw, const char *only)
{
	bool x87 = map == 0 && opcode >= 0xd8 && opcode <= 0xdf;

	for (unsigned reg = 0; reg < 8; reg++) {
		struct form f = {.map = (uint8_t)map, .opcode = (uint8_t)opcode, .prefix = (uint8_t)prefix,
				 .modrm = (uint8_t)reg, .rexw = rexw, .memory = true};

		try_form(g, f, only);
		for (unsigned l = 0; l < 4 && map; l++) {
			f.vex = true;
			f.wide = l & 1;
			f.memory = l & 2;
			try_form(g, f, only);
		}
		for (unsigned l = 0; l < 2 && map == 2 && opcode >= 0x90 && opcode <= 0x93; l++) {
			f.vsib = f.memory = true;
			f.wide = l;
			try_form(g, f, only);
		}
		f.vex = f.wide = f.memory = f.vsib = false;
		if (!x87) {
			try_form(g, f, only);
			continue;
		}
		f.exact = true;
		for (unsigned rm = 0; rm < 8; rm++) {
			f.modrm = (uint8_t)(0xc0 | reg << 3 | rm);
			try_form(g, f, only);
		}
	}
}

static int by_mnemonic(const void *a, const void *b)
{
	return (int)((const struct form *)a)->mnemonic - (int)((const struct form *)b)->mnemonic;
}

static void group_forms(struct gen *g)
{
	qsort(g->form, g->forms, sizeof(*g->form), by_mnemonic);
	for (unsigned i = 0; i < g->forms; i++) {
		if (!i || g->form[i].mnemonic != g->form[i - 1].mnemonic)
			g->group[g->groups++] = (struct group){.first = i};
		g->group[g->groups - 1].count++;
	}
}

struct gen *gen_create(uint64_t seed, const char *only, unsigned bits)
{
	static const ZydisDecoderMode off[] = {ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET,
					       ZYDIS_DECODER_MODE_WBNOINVD, ZYDIS_DECODER_MODE_CLDEMOTE};
	static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2};
	struct gen *g = calloc(1, sizeof(*g));

	g->form = calloc(FORMS_MAX, sizeof(*g->form));
	g->group = calloc(ZYDIS_MNEMONIC_MAX_VALUE + 1, sizeof(*g->group));
	g->rng.s = seed;
	g->bits = bits;
	if (bits == 64)
		ZydisDecoderInit(&g->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	else
		ZydisDecoderInit(&g->decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
	for (unsigned i = 0; i < sizeof(off) / sizeof(off[0]); i++)
		ZydisDecoderEnableMode(&g->decoder, off[i], ZYAN_FALSE);
	for (unsigned map = 0; map < 4; map++)
		for (unsigned opcode = 0; opcode < 256; opcode++)
			for (unsigned p = 0; p < 4; p++)
				for (unsigned w = 0; w < 2; w++)
					try_opcode(g, map, opcode, prefixes[p], w, only);
	group_forms(g);
	return g;
}

void gen_destroy(struct gen *g)
{
	free(g->form);
	free(g->group);
	free(g);
}

unsigned gen_mnemonics(const struct gen *g) { return g->groups; }

/* ---- an instruction from a form ---- */

static unsigned put_prefixes(struct rng *r, const struct form *f, uint8_t *b)
{
	static const uint8_t extra[] = {0x67, 0x65, 0x2e, 0x36, 0x3e, 0x26, 0xf0, 0x66, 0xf2, 0xf3};
	unsigned n = 0;

	if (rng_one_in(r, 8))
		b[n++] = 0x67;
	if (rng_one_in(r, 12))
		b[n++] = 0x65;
	if (rng_one_in(r, 16))
		b[n++] = extra[rng_below(r, sizeof(extra))];
	if (f->memory && !f->map && rng_one_in(r, 12))
		b[n++] = 0xf0;
	if (f->prefix && !f->vex)
		b[n++] = f->prefix;
	return n;
}

static unsigned put_modrm(struct rng *r, const struct form *f, uint8_t *b)
{
	unsigned n = 0, mod, rm = (unsigned)rng_below(r, 8);

	if (f->exact) {
		b[n++] = f->modrm;
		return n;
	}
	if (!f->memory) {
		b[n++] = (uint8_t)(0xc0 | f->modrm << 3 | rm);
		return n;
	}
	if (f->vsib)
		rm = 4;
	mod = (unsigned)rng_below(r, 3);
	b[n++] = (uint8_t)(mod << 6 | f->modrm << 3 | rm);
	if (rm == 4)
		b[n++] = (uint8_t)rng_next(r);
	return n;
}

/* Returns whether it is VEX-encoded. */
static bool from_form(struct gen *g, struct test *t)
{
	const struct group *grp = &g->group[rng_below(&g->rng, g->groups)];
	struct form f = g->form[grp->first + rng_below(&g->rng, grp->count)];
	struct rng *r = &g->rng;
	unsigned n, rex = (unsigned)rng_below(r, 8);
	uint8_t b[64];

	n = put_prefixes(r, &f, b);
	/* The reg field means a register or an opcode: keep it, but for a register any will do. */
	if (!f.vex && g->bits == 64 && (f.rexw || !rng_one_in(r, 2)))
		b[n++] = (uint8_t)(0x40 | (f.rexw ? 8 : 0) | rex);
	if (f.vex)
		n += put_vex(&f, g->bits == 64 ? rex : rex & 1, rng_one_in(r, 3) ? 0 : (unsigned)rng_below(r, 16), b + n);
	else
		n += put_opcode(&f, b + n);
	if (f.has_modrm)
		n += put_modrm(r, &f, b + n);
	for (unsigned i = 0; i < 16; i++)
		b[n++] = rng_one_in(r, 3) ? (uint8_t)(rng_below(r, 5) - 2) : (uint8_t)rng_next(r);
	memcpy(t->bytes, b, BYTES_MAX);
	return f.vex;
}

static bool has_vex(const uint8_t *b)
{
	for (unsigned i = 0; i < BYTES_MAX; i++) {
		switch (b[i]) {
		case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: case 0x66: case 0x67:
		case 0xf0: case 0xf2: case 0xf3:
			continue;
		case 0xc4: case 0xc5: case 0x62: case 0x8f: case 0xd5:
			return true;
		default:
			if ((b[i] & 0xf0) == 0x40)
				continue;
			return false;
		}
	}
	return true;
}

/*
 * Undefined encodings are tried as well, if the decoder and the host may be
 * expected to agree: in the maps where everything undefined is old.
 */
static bool undefined_ok(const uint8_t *b)
{
	unsigned i = 0;

	while (i < 4 && (b[i] == 0x66 || b[i] == 0x67 || b[i] == 0x65 || b[i] == 0x2e || (b[i] & 0xf0) == 0x40))
		i++;
	return b[i] == 0x0f ? b[i + 1] != 0x38 && b[i + 1] != 0x3a && b[i + 1] != 0x01 && b[i + 1] != 0xae &&
				      b[i + 1] != 0xc7 && b[i + 1] != 0x0f && b[i + 1] < 0xf0 &&
				      !(b[i + 1] >= 0x18 && b[i + 1] <= 0x27)
			    : false;
}

static bool from_random(struct gen *g, struct test *t)
{
	struct rng *r = &g->rng;
	unsigned n = 0;

	if (g->bits == 32 && rng_one_in(r, 2))
		t->bytes[n++] = (uint8_t[]){0x66, 0x67}[rng_below(r, 2)];
	else if (rng_one_in(r, 3))
		t->bytes[n++] = (uint8_t[]){0x66, 0xf3, 0xf2, 0x67, 0x48, 0x41, 0xf0, 0x65}[rng_below(r, 8)];
	if (rng_one_in(r, 2))
		t->bytes[n++] = 0x0f;
	while (n < BYTES_MAX)
		t->bytes[n++] = (uint8_t)rng_next(r);
	return g->bits == 32 || !has_vex(t->bytes);
}

/* ---- fitting an instruction to its slot ---- */

static void put_imm(struct test *t, unsigned which, int64_t v)
{
	memcpy(t->bytes + t->z.raw.imm[which].offset, &v, t->z.raw.imm[which].size / 8);
}

/* Direct branches go to one of the slot's ways out; indirect ones are pointed there by the state. */
static bool fit_branch(struct gen *g, struct test *t)
{
	t->target = t->slot + (rng_one_in(&g->rng, 2) ? BRANCH_BACK : BRANCH_AHEAD);
	if (t->z.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE)
		return true;
	for (unsigned i = 0; i < t->z.raw.prefix_count; i++)
		if (t->z.raw.prefixes[i].value == 0x66)
			return false; /* operand size of near branches differs between makers */
	if (t->z.raw.imm[0].is_relative)
		put_imm(t, 0, (int64_t)(t->target - (test_rip(t) + t->z.length)));
	return true;
}

static uint64_t pick_target(struct rng *r, unsigned bytes)
{
	uint64_t at = DATA_BASE + rng_below(r, DATA_BYTES - 1024);

	switch (rng_below(r, 32)) {
	case 0: return RO_BASE - rng_below(r, bytes + 8);
	case 1: return RO_BASE + rng_below(r, RO_BYTES);
	case 2: return RO_BASE + RO_BYTES - rng_below(r, bytes + 8);
	case 3: return DATA_BASE - rng_below(r, 16);
	case 4: return CODE_BASE + rng_below(r, CODE_BYTES);
	case 5: return rng_one_in(r, 2) ? 0x7fff000000000000ull + rng_next(r) % 0x10000 : 0xfffff00000000000ull;
	case 6: return DATA_BASE + 4096 - rng_below(r, bytes + 8);
	case 7: case 8: case 9: case 10: return at;
	default: return at & ~(uint64_t)63;
	}
}

/* An absolute or RIP-relative operand is given its place by patching the displacement. */
static void fit_displacement(struct gen *g, struct test *t)
{
	for (unsigned i = 0; i < t->z.operand_count; i++) {
		const ZydisDecodedOperandMem *m = &t->op[i].mem;
		uint64_t target = pick_target(&g->rng, 16);
		int64_t disp;

		if (t->op[i].type != ZYDIS_OPERAND_TYPE_MEMORY || m->index || !m->disp.has_displacement)
			continue;
		if (m->base && m->base != ZYDIS_REGISTER_RIP && m->base != ZYDIS_REGISTER_EIP)
			continue;
		if (target >= LOW_END)
			target = DATA_BASE;
		disp = (int64_t)(m->base ? target - (test_rip(t) + t->z.length) : target);
		if (t->bits == 64 && t->z.raw.disp.size == 32 && (disp < INT32_MIN || disp > INT32_MAX))
			disp = m->base ? 0 : (int64_t)DATA_BASE;
		memcpy(t->bytes + t->z.raw.disp.offset, &disp, t->z.raw.disp.size / 8);
		return;
	}
}

bool gen_instruction(struct gen *g, struct test *t)
{
	bool vex = false;

	if (g->groups > 20 && rng_one_in(&g->rng, 16)) {
		if (!from_random(g, t))
			return false;
	} else {
		vex = from_form(g, t);
	}
	t->valid = decode(g, t->bytes, BYTES_MAX, &t->z, t->op);
	t->bits = g->bits;
	if (!t->valid) {
		/* A VEX prefix after others, or with registers it must not name, is undefined everywhere. */
		if (g->bits == 32 || !(vex || undefined_ok(t->bytes)))
			return false;
		memset(&t->z, 0, sizeof(t->z));
		t->len = t->z.length = BYTES_MAX;
		return true;
	}
	if (!insn_ok(&t->z, t->op) || !fit_branch(g, t))
		return false;
	fit_displacement(g, t);
	t->len = t->z.length;
	return decode(g, t->bytes, t->len, &t->z, t->op);
}

/* ---- values ---- */

static uint64_t random_integer(struct rng *r)
{
	static const uint64_t special[] = {0, 1, ~0ull, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000,
					   0xffffffff, 0x7fffffffffffffff, 0x8000000000000000, 0x100000000, 63, 64, 32, 31, 33};

	switch (rng_below(r, 6)) {
	case 0: return special[rng_below(r, sizeof(special) / sizeof(special[0]))];
	case 1: return rng_next(r) & 0xff;
	case 2: return (uint64_t)(int64_t)(int8_t)rng_next(r);
	case 3: return rng_next(r) & 0xffffffff;
	default: return rng_next(r);
	}
}

static uint32_t random_float(struct rng *r)
{
	uint32_t sign = (uint32_t)rng_below(r, 2) << 31, frac = (uint32_t)rng_next(r) & 0x7fffff;

	switch (rng_below(r, 12)) {
	case 0: return sign;
	case 1: return sign | 0x7f800000;
	case 2: return sign | 0x7fc00000 | (frac & 0xfff);
	case 3: return sign | 0x7f800000 | (frac & 0x3fffff) | 1;
	case 4: return sign | frac;
	case 5: return sign | 0x3f800000;
	case 6: return sign | (uint32_t)(rng_below(r, 8) + 1) << 23 | frac;
	case 7: return sign | (uint32_t)(246 + rng_below(r, 9)) << 23 | frac;
	case 8: return sign | (uint32_t)(127 + rng_below(r, 33)) << 23 | (frac & 0x7f0000);
	default: return sign | (uint32_t)(97 + rng_below(r, 65)) << 23 | frac;
	}
}

static uint64_t random_double(struct rng *r)
{
	uint64_t sign = rng_below(r, 2) << 63, frac = rng_next(r) & 0xfffffffffffffull;

	switch (rng_below(r, 12)) {
	case 0: return sign;
	case 1: return sign | 0x7ff0000000000000ull;
	case 2: return sign | 0x7ff8000000000000ull | (frac & 0xfffff);
	case 3: return sign | 0x7ff0000000000000ull | (frac & 0x7ffffffffffffull) | 1;
	case 4: return sign | frac;
	case 5: return sign | 0x3ff0000000000000ull;
	case 6: return sign | (rng_below(r, 8) + 1) << 52 | frac;
	case 7: return sign | (2038 + rng_below(r, 9)) << 52 | frac;
	case 8: return sign | (1023 + rng_below(r, 65)) << 52 | (frac & 0xffff000000000ull);
	default: return sign | (893 + rng_below(r, 260)) << 52 | frac;
	}
}

static void random_extended(struct rng *r, uint8_t *p)
{
	uint64_t sig = rng_next(r) | 1ull << 63;
	uint16_t sign = (uint16_t)(rng_below(r, 2) << 15), exp;

	switch (rng_below(r, 14)) {
	case 0: exp = 0, sig = 0; break;
	case 1: exp = 0x7fff, sig = 1ull << 63; break;
	case 2: exp = 0x7fff, sig |= 3ull << 62; break;
	case 3: exp = 0x7fff, sig &= ~(1ull << 62), sig |= 1; break;
	case 4: exp = 0, sig &= ~(1ull << 63); break;
	case 5: exp = 0; break;
	case 6: exp = (uint16_t)rng_next(r) & 0x7fff, sig &= ~(1ull << 63); break;
	case 7: exp = 0x3fff, sig = 1ull << 63; break;
	case 8: exp = (uint16_t)(0x3fff + rng_below(r, 70)), sig &= 0xfffff00000000000ull; break;
	case 9: exp = (uint16_t)(rng_below(r, 2) ? rng_below(r, 100) : 0x7ffe - rng_below(r, 100)); break;
	case 10: exp = (uint16_t)(rng_below(r, 2) ? 0x3fff - 1022 - rng_below(r, 60) : 0x3fff + 1023 - rng_below(r, 3)); break;
	default: exp = (uint16_t)(0x3fff - 40 + rng_below(r, 80)); break;
	}
	exp |= sign;
	memcpy(p, &sig, 8);
	memcpy(p + 8, &exp, 2);
}

/* 16 bytes that mean something to some instruction. */
static void random_operand(struct rng *r, uint8_t *p)
{
	uint64_t v[2] = {rng_next(r), rng_next(r)};

	switch (rng_below(r, 6)) {
	case 0: v[0] = random_integer(r), v[1] = random_integer(r); break;
	case 1:
	case 2:
		v[0] = random_float(r) | (uint64_t)random_float(r) << 32;
		v[1] = random_float(r) | (uint64_t)random_float(r) << 32;
		break;
	case 3:
	case 4: v[0] = random_double(r), v[1] = random_double(r); break;
	default: break;
	}
	memcpy(p, v, 16);
	if (rng_one_in(r, 12))
		random_extended(r, p);
}

static void random_fpu(struct rng *r, uint8_t *fx)
{
	uint16_t fcw = (uint16_t)(0x37f & ~(rng_next(r) & 0x300)), fsw = (uint16_t)(rng_next(r) & 0x7f00);
	uint32_t mxcsr = 0x1f80 | (uint32_t)(rng_next(r) & 0x6000);
	uint64_t pointers[2] = {rng_next(r) >> 20, rng_next(r) >> 20};

	fcw |= (uint16_t)(rng_next(r) & 0xc00);
	if (rng_one_in(r, 4))
		fcw &= (uint16_t)~(rng_next(r) & 0x3f);
	if (rng_one_in(r, 4))
		fsw |= rng_next(r) & 0x3f;
	if (!rng_one_in(r, 16))
		fsw &= (uint16_t)(~0x3f | fcw);
	if (rng_one_in(r, 4))
		mxcsr &= ~(uint32_t)(rng_next(r) & 0x1f80);
	if (rng_one_in(r, 4))
		mxcsr |= (uint32_t)(rng_next(r) & 0x803f) | (rng_one_in(r, 2) ? 0x40 : 0);
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080;
	memset(fx, 0, 512);
	memcpy(fx, &fcw, 2);
	memcpy(fx + 2, &fsw, 2);
	fx[4] = rng_one_in(r, 4) ? (uint8_t)rng_next(r) : rng_one_in(r, 3) ? 0 : 0xff;
	fx[6] = (uint8_t)rng_next(r);
	memcpy(fx + 8, pointers, 16);
	memcpy(fx + 24, &mxcsr, 4);
	for (unsigned i = 0; i < 8; i++)
		random_extended(r, fx + 32 + 16 * i);
	for (unsigned i = 0; i < 16; i++)
		random_operand(r, fx + 160 + 16 * i);
}

/* ---- registers and addresses ---- */

static int gpr_index(ZydisRegister reg)
{
	if (reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15)
		return reg - ZYDIS_REGISTER_RAX;
	if (reg >= ZYDIS_REGISTER_EAX && reg <= ZYDIS_REGISTER_R15D)
		return reg - ZYDIS_REGISTER_EAX;
	if (reg >= ZYDIS_REGISTER_AX && reg <= ZYDIS_REGISTER_R15W)
		return reg - ZYDIS_REGISTER_AX;
	return -1;
}

static uint64_t register_value(const struct test *t, ZydisRegister reg)
{
	if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
		return test_rip(t) + t->z.length;
	if (reg == ZYDIS_REGISTER_AL)
		return t->in.gpr[0] & 0xff;
	return gpr_index(reg) < 0 ? 0 : t->in.gpr[gpr_index(reg)];
}

/* The stack's width does not depend on the instruction's address size. */
static unsigned address_width(const struct test *t, const ZydisDecodedOperandMem *m)
{
	if (m->base == ZYDIS_REGISTER_RSP)
		return 64;
	return m->base == ZYDIS_REGISTER_ESP ? 32 : t->z.address_width;
}

static uint64_t operand_address(const struct test *t, const ZydisDecodedOperandMem *m)
{
	uint64_t a = register_value(t, m->base) + register_value(t, m->index) * (m->scale ? m->scale : 1) +
		     (m->disp.has_displacement ? (uint64_t)m->disp.value : 0);

	switch (address_width(t, m)) {
	case 16: a = (uint16_t)a; break;
	case 32: a = (uint32_t)a; break;
	default: break;
	}
	if (t->bits == 32)
		return a;
	return a + (m->segment == ZYDIS_REGISTER_GS ? host_gs_base() : 0);
}

static bool is_rep(const struct test *t)
{
	return t->z.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
}

/* Chooses base and index so that the operand lies at @target. @pinned: registers that are spoken for. */
static void aim_operand(struct rng *r, struct test *t, const ZydisDecodedOperandMem *m, uint64_t target,
			uint32_t *pinned)
{
	int base = gpr_index(m->base), index = gpr_index(m->index);
	uint64_t scale = m->scale ? m->scale : 1, rest;

	target -= m->segment == ZYDIS_REGISTER_GS && t->bits == 64 ? host_gs_base() : 0;
	rest = target - (m->disp.has_displacement ? (uint64_t)m->disp.value : 0);
	if (index >= 0 && !(*pinned >> index & 1) && index != base) {
		t->in.gpr[index] = base >= 0 ? rng_below(r, 129) - 64 : rest / scale;
		*pinned |= 1u << index;
	}
	if (base >= 0 && !(*pinned >> base & 1)) {
		t->in.gpr[base] = base == index ? rest / (scale + 1) : rest - register_value(t, m->index) * scale;
		*pinned |= 1u << base;
		if (t->z.address_width == 32 && rng_one_in(r, 2))
			t->in.gpr[base] ^= rng_next(r) << 32;
	}
}

static unsigned operand_bytes(const ZydisDecodedOperand *o) { return o->size ? (o->size + 7u) / 8u : 1; }

static bool range_safe(uint64_t a, uint64_t bytes)
{
	if (a < LOW_END && a + bytes <= LOW_END)
		return true;
	if (a >= 0xffff900000000000ull)
		return true;
	/* non-canonical with 48 and with 57 bits */
	return a - 0x0200000000000000ull < 0xfc00000000000000ull;
}

/* BT and friends with a register offset reach around their operand. */
static int64_t bit_string_offset(const struct test *t)
{
	uint64_t v;

	if (t->z.mnemonic != ZYDIS_MNEMONIC_BT && t->z.mnemonic != ZYDIS_MNEMONIC_BTS &&
	    t->z.mnemonic != ZYDIS_MNEMONIC_BTR && t->z.mnemonic != ZYDIS_MNEMONIC_BTC)
		return 0;
	if (t->op[1].type != ZYDIS_OPERAND_TYPE_REGISTER)
		return 0;
	v = register_value(t, t->op[1].reg.value);
	switch (t->op[1].size) {
	case 16: return (int64_t)(int16_t)v >> 4 << 1;
	case 32: return (int64_t)(int32_t)v >> 5 << 2;
	default: return (int64_t)v >> 6 << 3;
	}
}

static bool operands_safe(const struct test *t)
{
	for (unsigned i = 0; i < t->z.operand_count; i++) {
		const ZydisDecodedOperand *o = &t->op[i];
		uint64_t a, n = operand_bytes(o);

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
			continue;
		a = operand_address(t, &o->mem) + (uint64_t)bit_string_offset(t);
		if (is_rep(t)) {
			uint64_t count = t->z.address_width == 64   ? t->in.gpr[1]
					 : t->z.address_width == 32 ? (uint32_t)t->in.gpr[1]
								    : (uint16_t)t->in.gpr[1];

			if (count > 0x10000 || (t->in.rflags & 0x400 && a < count * n))
				return false;
			n *= count + 1;
		}
		if (!range_safe(a - (t->in.rflags & 0x400 && is_rep(t) ? n : 0), n + 4096))
			return false;
	}
	return true;
}

/* ---- memory contents ---- */

static bool in_sandbox(uint64_t a, uint64_t bytes)
{
	return a - DATA_BASE < DATA_BYTES && bytes <= DATA_BYTES - (a - DATA_BASE);
}

static void write_both(struct guest *g, uint64_t a, const void *p, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++) {
		if (!in_sandbox(a + i, 1))
			continue;
		host_data(a)[i] = ((const uint8_t *)p)[i];
		*guest_data(g, a + i) = ((const uint8_t *)p)[i];
	}
}

/* What an XRSTOR or FXRSTOR finds is mostly well-formed. */
static void write_save_area(struct rng *r, const struct test *t, struct guest *g, uint64_t a)
{
	uint8_t area[576 + 256] = {0};

	random_fpu(r, area);
	if (rng_one_in(r, 8))
		area[26] = (uint8_t)rng_next(r);
	for (unsigned i = 416; i < 512; i++)
		area[i] = (uint8_t)rng_next(r);
	area[512] = (uint8_t)rng_below(r, 8);
	for (unsigned i = 576; i < sizeof(area); i++)
		area[i] = (uint8_t)rng_next(r);
	if (rng_one_in(r, 16))
		area[512 + rng_below(r, 24)] ^= (uint8_t)(1u << rng_below(r, 8));
	area[512] &= (uint8_t)~0xe0u;
	area[513] &= (uint8_t)~6u;
	area[514] &= (uint8_t)~6u;
	area[519] &= 0x7f;
	area[527] &= 0x7f; /* the compacted form is the host's alone */
	write_both(g, a, area, t->z.meta.isa_set == ZYDIS_ISA_SET_XSAVE ? sizeof(area) : 512);
}

static void write_environment(struct rng *r, struct guest *g, uint64_t a)
{
	uint8_t fx[512], env[28];

	random_fpu(r, fx);
	for (unsigned i = 0; i < sizeof(env); i++)
		env[i] = (uint8_t)rng_next(r);
	memcpy(env, fx, 2);
	memcpy(env + 4, fx + 2, 2);
	write_both(g, a, env, sizeof(env));
}

/* Puts data where the instruction reads, code addresses where it branches through. */
static bool fill_operand(struct gen *gen, struct test *t, struct guest *g, const ZydisDecodedOperand *o)
{
	uint64_t a = operand_address(t, &o->mem) + (uint64_t)bit_string_offset(t);
	struct rng *r = &gen->rng;
	uint8_t v[16];

	if (t->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ)) {
		if (in_sandbox(a, 8)) {
			write_both(g, a, &t->target, t->bits / 8);
			return true;
		}
		/* must fault */
		return (a < DATA_BASE - 16 || a >= RO_BASE + RO_BYTES) &&
		       (a < CODE_BASE - 16 || a >= CODE_BASE + CODE_BYTES);
	}
	for (unsigned i = 0; i < operand_bytes(o) && i < 64; i += 16) {
		random_operand(r, v);
		write_both(g, a + i, v, 16);
	}
	if (o->size == 80) {
		random_extended(r, v);
		write_both(g, a, v, 10);
	}
	if (t->z.mnemonic == ZYDIS_MNEMONIC_FBLD)
		for (unsigned i = 0; i < 9; i++)
			write_both(g, a + i, &(uint8_t){(uint8_t)(rng_below(r, 10) << 4 | rng_below(r, 10))}, 1);
	if (t->z.mnemonic == ZYDIS_MNEMONIC_LDMXCSR && !rng_one_in(r, 4))
		write_both(g, a + 2, "\0\0", 2);
	if (o->size >= 4096)
		write_save_area(r, t, g, a);
	if (t->z.mnemonic == ZYDIS_MNEMONIC_FLDENV || t->z.mnemonic == ZYDIS_MNEMONIC_FRSTOR)
		write_environment(r, g, a);
	return true;
}

static bool is_popf(const struct test *t)
{
	return t->z.mnemonic == ZYDIS_MNEMONIC_POPF || t->z.mnemonic == ZYDIS_MNEMONIC_POPFD ||
	       t->z.mnemonic == ZYDIS_MNEMONIC_POPFQ;
}

/* POPF must not single-step the fuzzer. */
static void tame_popf(struct test *t, struct guest *g)
{
	uint64_t a = t->in.gpr[4];

	if (!is_popf(t))
		return;
	for (unsigned i = 1; i < 3; i++) {
		uint8_t v;

		if (!in_sandbox(a + i, 1))
			continue;
		v = *host_data(a + i) & (i == 1 ? 0xbe : 0xfb); /* TF, NT; AC */
		write_both(g, a + i, &v, 1);
	}
}

static bool popf_unsafe(const struct test *t)
{
	uint64_t a = t->in.gpr[4];

	return is_popf(t) &&
	       !in_sandbox(a, 8) && a + 8 > DATA_BASE && a < CODE_BASE + CODE_BYTES;
}

/* ---- a state ---- */

/* Compatibility mode: the upper halves of registers are undefined once it is left, unless they are 0. */
static void narrow_registers(struct test *t)
{
	for (unsigned i = 0; i < 16; i++)
		t->in.gpr[i] = i < 8 ? (uint32_t)t->in.gpr[i] : 0;
}

static void random_registers(struct rng *r, struct test *t)
{
	for (unsigned i = 0; i < 16; i++)
		t->in.gpr[i] = random_integer(r);
	t->in.gpr[4] = DATA_BASE + 0x800 + rng_below(r, 0x1000);
	if (!rng_one_in(r, 8))
		t->in.gpr[4] &= ~7ull;
	t->in.rflags = (rng_next(r) & 0xcd5) | 0x202;
	if (!rng_one_in(r, 4))
		t->in.rflags &= ~0x400ull;
	if (rng_one_in(r, 24))
		t->in.rflags |= 0x40000; /* alignment checks */
	random_fpu(r, t->in.fx);
	for (unsigned i = 0; i < 16; i++)
		random_operand(r, t->in.ymm_hi + 16 * i);
}

#define NOWHERE 0x7000000000000000ull /* not canonical */

static void aim_registers(struct gen *gen, struct test *t)
{
	struct rng *r = &gen->rng;
	uint32_t pinned = 0;

	if (is_rep(t)) {
		t->in.gpr[1] = rng_below(r, rng_one_in(r, 8) ? 600 : 12);
		if (t->z.address_width == 32 && rng_one_in(r, 2))
			t->in.gpr[1] |= rng_next(r) << 32;
		pinned |= 2;
	}
	if (t->z.mnemonic == ZYDIS_MNEMONIC_ENTER || t->z.mnemonic == ZYDIS_MNEMONIC_LEAVE)
		t->in.gpr[5] = DATA_BASE + 0x400 + rng_below(r, 0x1000);
	if (t->z.meta.isa_set == ZYDIS_ISA_SET_XSAVE) {
		t->in.gpr[0] &= 7;
		t->in.gpr[2] = 0;
		pinned |= 5;
	}
	for (unsigned i = 0; i < t->z.operand_count; i++) {
		const ZydisDecodedOperand *o = &t->op[i];

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type != ZYDIS_MEMOP_TYPE_AGEN)
			aim_operand(r, t, &o->mem, pick_target(r, operand_bytes(o)), &pinned);
		else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && t->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE &&
			 o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT && gpr_index(o->reg.value) >= 0) {
			t->in.gpr[gpr_index(o->reg.value)] =
				t->bits == 64 && rng_one_in(r, 16) ? NOWHERE : t->target;
			pinned |= 1u << gpr_index(o->reg.value);
		}
	}
	/* Bit strings stay near their operand. */
	if (bit_string_offset(t) && gpr_index(t->op[1].reg.value) >= 0 &&
	    !(pinned >> gpr_index(t->op[1].reg.value) & 1))
		t->in.gpr[gpr_index(t->op[1].reg.value)] = rng_below(r, 4096) - 2048;
}

/* An indirect branch goes to one of the slot's ways out, or to a non-canonical address. */
static bool branch_safe(const struct test *t)
{
	for (unsigned i = 0; i < t->z.operand_count_visible; i++) {
		const ZydisDecodedOperand *o = &t->op[i];

		if (t->z.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE)
			return true;
		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_index(o->reg.value) >= 0 &&
		    t->in.gpr[gpr_index(o->reg.value)] != t->target &&
		    t->in.gpr[gpr_index(o->reg.value)] != NOWHERE)
			return false;
	}
	return true;
}

/* A near return or jump through memory must read the target, or fault. */
static bool branch_memory_safe(const struct test *t)
{
	for (unsigned i = 0; i < t->z.operand_count; i++) {
		const ZydisDecodedOperand *o = &t->op[i];
		uint64_t a;

		if (t->z.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE)
			return true;
		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || !(o->actions & ZYDIS_OPERAND_ACTION_MASK_READ))
			continue;
		a = operand_address(t, &o->mem);
		if (in_sandbox(a, 8) && memcmp(host_data(a), &t->target, t->bits / 8))
			return false;
	}
	return true;
}

/* The indices of a gather stay near its base. Elements are mostly selected. */
static void aim_gather(struct rng *r, struct test *t)
{
	unsigned bytes = t->z.opcode & 1 ? 8 : 4;
	int n = -1;

	for (unsigned i = 0; i < t->z.operand_count; i++)
		if (t->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && t->op[i].mem.type == ZYDIS_MEMOP_TYPE_VSIB)
			n = (int)ZydisRegisterGetId(t->op[i].mem.index);
	if (n < 0)
		return;
	for (unsigned i = 0; i < 32; i += bytes) {
		int64_t v = (int64_t)rng_below(r, 256) - 128;

		memcpy(i < 16 ? t->in.fx + 160 + 16 * n + i : t->in.ymm_hi + 16 * n + i - 16, &v, bytes);
	}
}

bool gen_state(struct gen *gen, struct test *t, struct guest *g)
{
	random_registers(&gen->rng, t);
	t->in.rip = test_rip(t);
	if (!t->valid)
		return true;
	aim_registers(gen, t);
	aim_gather(&gen->rng, t);
	if (t->bits == 32)
		narrow_registers(t);
	if (!operands_safe(t) || !branch_safe(t) || popf_unsafe(t))
		return false;
	for (unsigned i = 0; i < t->z.operand_count; i++)
		if (t->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && t->op[i].mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
		    (t->op[i].actions & ZYDIS_OPERAND_ACTION_MASK_READ) && !fill_operand(gen, t, g, &t->op[i]))
			return false;
	tame_popf(t, g);
	return branch_memory_safe(t);
}
