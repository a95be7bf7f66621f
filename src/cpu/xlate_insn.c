/*
 * The list of instructions that are translated, and how: most to themselves.
 *
 * What is not in the list, and forms that the general way does not fit (addresses of 32 bits,
 * AH..BH beside a memory operand, bit strings, ...), is executed by its execute function.
 */
#include "cpu/access.h"
#include "cpu/xlate_impl.h"

static const uint8_t kind_of[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define SELF(m) [ZYDIS_MNEMONIC_##m] = X_SELF
	SELF(MOV), SELF(MOVZX), SELF(MOVSX), SELF(MOVSXD), SELF(XCHG), SELF(BSWAP),
	SELF(ADD), SELF(OR), SELF(ADC), SELF(SBB), SELF(AND), SELF(SUB), SELF(XOR), SELF(CMP), SELF(TEST),
	SELF(INC), SELF(DEC), SELF(NEG), SELF(NOT), SELF(XADD), SELF(CMPXCHG),
	SELF(ROL), SELF(ROR), SELF(RCL), SELF(RCR), SELF(SHL), SELF(SHR), SELF(SAR), SELF(SHLD), SELF(SHRD),
	SELF(IMUL), SELF(MUL), SELF(BT), SELF(BTS), SELF(BTR), SELF(BTC), SELF(BSF), SELF(BSR), SELF(POPCNT),
	SELF(LZCNT), SELF(TZCNT), SELF(MOVBE), SELF(ANDN), SELF(BEXTR), SELF(BLSI), SELF(BLSMSK), SELF(BLSR), SELF(BZHI),
	SELF(MULX), SELF(PDEP), SELF(PEXT), SELF(RORX), SELF(SARX), SELF(SHLX), SELF(SHRX),
	SELF(CBW), SELF(CWDE), SELF(CDQE), SELF(CWD), SELF(CDQ), SELF(CQO),
	SELF(LAHF), SELF(SAHF), SELF(CLC), SELF(STC), SELF(CMC),
	SELF(SETO), SELF(SETNO), SELF(SETB), SELF(SETNB), SELF(SETZ), SELF(SETNZ), SELF(SETBE), SELF(SETNBE),
	SELF(SETS), SELF(SETNS), SELF(SETP), SELF(SETNP), SELF(SETL), SELF(SETNL), SELF(SETLE), SELF(SETNLE),
	SELF(CMOVO), SELF(CMOVNO), SELF(CMOVB), SELF(CMOVNB), SELF(CMOVZ), SELF(CMOVNZ), SELF(CMOVBE), SELF(CMOVNBE),
	SELF(CMOVS), SELF(CMOVNS), SELF(CMOVP), SELF(CMOVNP), SELF(CMOVL), SELF(CMOVNL), SELF(CMOVLE), SELF(CMOVNLE),
	/* SSE to SSE4.2; the MMX forms of these names are not translated. */
	SELF(MOVAPS), SELF(MOVAPD), SELF(MOVDQA), SELF(MOVUPS), SELF(MOVUPD), SELF(MOVDQU), SELF(LDDQU),
	SELF(MOVD), SELF(MOVQ), SELF(MOVSS), SELF(MOVSD), SELF(MOVLPS), SELF(MOVLPD), SELF(MOVHPS), SELF(MOVHPD),
	SELF(MOVHLPS), SELF(MOVLHPS), SELF(MOVMSKPS), SELF(MOVMSKPD), SELF(MOVSHDUP), SELF(MOVSLDUP), SELF(MOVDDUP),
	SELF(PMOVMSKB), SELF(CRC32),
	SELF(ADDPS), SELF(ADDPD), SELF(ADDSS), SELF(ADDSD), SELF(SUBPS), SELF(SUBPD), SELF(SUBSS), SELF(SUBSD),
	SELF(MULPS), SELF(MULPD), SELF(MULSS), SELF(MULSD), SELF(DIVPS), SELF(DIVPD), SELF(DIVSS), SELF(DIVSD),
	SELF(MINPS), SELF(MINPD), SELF(MINSS), SELF(MINSD), SELF(MAXPS), SELF(MAXPD), SELF(MAXSS), SELF(MAXSD),
	SELF(SQRTPS), SELF(SQRTPD), SELF(SQRTSS), SELF(SQRTSD), SELF(RCPPS), SELF(RCPSS), SELF(RSQRTPS), SELF(RSQRTSS),
	SELF(CMPPS), SELF(CMPPD), SELF(CMPSS), SELF(CMPSD), SELF(COMISS), SELF(COMISD), SELF(UCOMISS), SELF(UCOMISD),
	SELF(ADDSUBPS), SELF(ADDSUBPD), SELF(HADDPS), SELF(HADDPD), SELF(HSUBPS), SELF(HSUBPD),
	SELF(ROUNDPS), SELF(ROUNDPD), SELF(ROUNDSS), SELF(ROUNDSD), SELF(DPPS), SELF(DPPD),
	SELF(CVTSI2SS), SELF(CVTSI2SD), SELF(CVTSS2SI), SELF(CVTSD2SI), SELF(CVTTSS2SI), SELF(CVTTSD2SI),
	SELF(CVTSS2SD), SELF(CVTSD2SS), SELF(CVTPS2PD), SELF(CVTPD2PS), SELF(CVTDQ2PS), SELF(CVTDQ2PD),
	SELF(CVTPS2DQ), SELF(CVTTPS2DQ), SELF(CVTPD2DQ), SELF(CVTTPD2DQ),
	SELF(ANDPS), SELF(ANDPD), SELF(ANDNPS), SELF(ANDNPD), SELF(ORPS), SELF(ORPD), SELF(XORPS), SELF(XORPD),
	SELF(PAND), SELF(PANDN), SELF(POR), SELF(PXOR), SELF(PTEST),
	SELF(PADDB), SELF(PADDW), SELF(PADDD), SELF(PADDQ), SELF(PADDSB), SELF(PADDSW), SELF(PADDUSB), SELF(PADDUSW),
	SELF(PSUBB), SELF(PSUBW), SELF(PSUBD), SELF(PSUBQ), SELF(PSUBSB), SELF(PSUBSW), SELF(PSUBUSB), SELF(PSUBUSW),
	SELF(PMULLW), SELF(PMULHW), SELF(PMULHUW), SELF(PMULUDQ), SELF(PMULLD), SELF(PMULDQ), SELF(PMULHRSW),
	SELF(PMADDWD), SELF(PMADDUBSW), SELF(PSADBW), SELF(PAVGB), SELF(PAVGW), SELF(MPSADBW), SELF(PHMINPOSUW),
	SELF(PMINUB), SELF(PMINSB), SELF(PMINUW), SELF(PMINSW), SELF(PMINUD), SELF(PMINSD),
	SELF(PMAXUB), SELF(PMAXSB), SELF(PMAXUW), SELF(PMAXSW), SELF(PMAXUD), SELF(PMAXSD),
	SELF(PABSB), SELF(PABSW), SELF(PABSD), SELF(PSIGNB), SELF(PSIGNW), SELF(PSIGND),
	SELF(PHADDW), SELF(PHADDD), SELF(PHADDSW), SELF(PHSUBW), SELF(PHSUBD), SELF(PHSUBSW),
	SELF(PCMPEQB), SELF(PCMPEQW), SELF(PCMPEQD), SELF(PCMPEQQ), SELF(PCMPGTB), SELF(PCMPGTW), SELF(PCMPGTD),
	SELF(PCMPGTQ), SELF(PCMPESTRI), SELF(PCMPESTRM), SELF(PCMPISTRI), SELF(PCMPISTRM),
	SELF(PSLLW), SELF(PSLLD), SELF(PSLLQ), SELF(PSLLDQ), SELF(PSRLW), SELF(PSRLD), SELF(PSRLQ), SELF(PSRLDQ),
	SELF(PSRAW), SELF(PSRAD), SELF(PALIGNR), SELF(PSHUFB), SELF(PSHUFD), SELF(PSHUFHW), SELF(PSHUFLW),
	SELF(SHUFPS), SELF(SHUFPD), SELF(UNPCKLPS), SELF(UNPCKLPD), SELF(UNPCKHPS), SELF(UNPCKHPD),
	SELF(PUNPCKLBW), SELF(PUNPCKLWD), SELF(PUNPCKLDQ), SELF(PUNPCKLQDQ),
	SELF(PUNPCKHBW), SELF(PUNPCKHWD), SELF(PUNPCKHDQ), SELF(PUNPCKHQDQ),
	SELF(PACKSSWB), SELF(PACKSSDW), SELF(PACKUSWB), SELF(PACKUSDW),
	SELF(PINSRB), SELF(PINSRW), SELF(PINSRD), SELF(PINSRQ), SELF(PEXTRB), SELF(PEXTRW), SELF(PEXTRD), SELF(PEXTRQ),
	SELF(INSERTPS), SELF(EXTRACTPS), SELF(BLENDPS), SELF(BLENDPD), SELF(BLENDVPS), SELF(BLENDVPD),
	SELF(PBLENDW), SELF(PBLENDVB),
	SELF(PMOVZXBW), SELF(PMOVZXBD), SELF(PMOVZXBQ), SELF(PMOVZXWD), SELF(PMOVZXWQ), SELF(PMOVZXDQ),
	SELF(PMOVSXBW), SELF(PMOVSXBD), SELF(PMOVSXBQ), SELF(PMOVSXWD), SELF(PMOVSXWQ), SELF(PMOVSXDQ),
#undef SELF
	[ZYDIS_MNEMONIC_NOP] = X_NOTHING,
	[ZYDIS_MNEMONIC_LFENCE] = X_NOTHING, [ZYDIS_MNEMONIC_SFENCE] = X_NOTHING, [ZYDIS_MNEMONIC_MFENCE] = X_NOTHING,
	[ZYDIS_MNEMONIC_PREFETCHT0] = X_NOTHING, [ZYDIS_MNEMONIC_PREFETCHT1] = X_NOTHING,
	[ZYDIS_MNEMONIC_PREFETCHT2] = X_NOTHING, [ZYDIS_MNEMONIC_PREFETCHNTA] = X_NOTHING,
	[ZYDIS_MNEMONIC_LEA] = X_LEA, [ZYDIS_MNEMONIC_PUSH] = X_PUSH, [ZYDIS_MNEMONIC_POP] = X_POP,
	[ZYDIS_MNEMONIC_LEAVE] = X_LEAVE, [ZYDIS_MNEMONIC_DIV] = X_DIV,
	[ZYDIS_MNEMONIC_STAC] = X_STAC, [ZYDIS_MNEMONIC_CLAC] = X_CLAC,
	[ZYDIS_MNEMONIC_VMOVUPS] = X_VMOV, [ZYDIS_MNEMONIC_VMOVUPD] = X_VMOV, [ZYDIS_MNEMONIC_VMOVDQU] = X_VMOV,
	[ZYDIS_MNEMONIC_VMOVAPS] = X_VMOV, [ZYDIS_MNEMONIC_VMOVAPD] = X_VMOV, [ZYDIS_MNEMONIC_VMOVDQA] = X_VMOV,
	[ZYDIS_MNEMONIC_VZEROUPPER] = X_VZEROUPPER,
	[ZYDIS_MNEMONIC_CLI] = X_CLI, [ZYDIS_MNEMONIC_SWAPGS] = X_SWAPGS,
	[ZYDIS_MNEMONIC_JMP] = X_JMP, [ZYDIS_MNEMONIC_CALL] = X_CALL_REL, [ZYDIS_MNEMONIC_RET] = X_RET,
};

static bool is_gpr(ZydisRegister r)
{
	ZydisRegisterClass c = ZydisRegisterGetClass(r);

	return c >= ZYDIS_REGCLASS_GPR8 && c <= ZYDIS_REGCLASS_GPR64;
}

static bool is_high(ZydisRegister r) { return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH; }

static void describe_opcode(const struct insn *in, struct xinsn *x)
{
	const ZydisDecodedInstruction *z = &in->z;

	x->op = (struct a_op){.opcode = z->opcode, .w = z->raw.rex.W};
	switch (z->opcode_map) {
	case ZYDIS_OPCODE_MAP_0F: x->op.map = 1; break;
	case ZYDIS_OPCODE_MAP_0F38: x->op.map = 2; break;
	case ZYDIS_OPCODE_MAP_0F3A: x->op.map = 3; break;
	default: x->op.map = 0; break;
	}
	for (unsigned i = 0; i < z->raw.prefix_count; i++) {
		uint8_t v = z->raw.prefixes[i].value;

		if (v == 0x66)
			x->op.p66 = true;
		if ((v == 0xf2 || v == 0xf3) && z->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY)
			x->op.rep = v;
	}
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		x->op.vex = true;
		x->op.w = z->raw.vex.W;
		x->op.p66 = z->raw.vex.pp == 1;
		x->op.rep = z->raw.vex.pp == 2 ? 0xf3 : z->raw.vex.pp == 3 ? 0xf2 : 0;
	}
	x->modrm = z->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	x->ext = z->raw.modrm.reg;
	x->imm_bytes = z->raw.imm[0].size / 8;
	x->imm = z->raw.imm[0].value.u;
}

static void describe_flags(const struct insn *in, const struct uop *u, struct xinsn *x)
{
	const ZydisAccessedFlags *f = in->z.cpu_flags;

	x->keeps = XF_ALL;
	if (!f)
		return;
	x->tests = f->tested & XF_ALL;
	x->sets = (f->modified | f->set_0 | f->set_1 | f->undefined) & XF_ALL;
	x->keeps = XF_ALL & ~x->sets;
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_ROL: case ZYDIS_MNEMONIC_ROR: case ZYDIS_MNEMONIC_RCL: case ZYDIS_MNEMONIC_RCR:
		x->rotate = x->imm_bytes;
		x->keeps = XF_ALL;
		break;
	case ZYDIS_MNEMONIC_SHL: case ZYDIS_MNEMONIC_SHR: case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_SHLD: case ZYDIS_MNEMONIC_SHRD:
		/* A count of zero changes none. */
		if (u->aux || !(u->imm & (u->opsize == 8 ? 63 : 31)))
			x->keeps = XF_ALL;
		break;
	case ZYDIS_MNEMONIC_BT: case ZYDIS_MNEMONIC_BTS: case ZYDIS_MNEMONIC_BTR: case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_LZCNT: case ZYDIS_MNEMONIC_TZCNT: case ZYDIS_MNEMONIC_ANDN: case ZYDIS_MNEMONIC_BEXTR:
	case ZYDIS_MNEMONIC_BLSI: case ZYDIS_MNEMONIC_BLSMSK: case ZYDIS_MNEMONIC_BLSR: case ZYDIS_MNEMONIC_BZHI:
	case ZYDIS_MNEMONIC_BSF: case ZYDIS_MNEMONIC_BSR: case ZYDIS_MNEMONIC_IMUL: case ZYDIS_MNEMONIC_MUL:
		/* The host's way with undefined flags may be to keep them. */
		x->keeps = XF_ALL;
		break;
	case ZYDIS_MNEMONIC_STAC: case ZYDIS_MNEMONIC_CLAC: case ZYDIS_MNEMONIC_CLI: case ZYDIS_MNEMONIC_SWAPGS:
	case ZYDIS_MNEMONIC_DIV: /* our way with them is to keep them */
		x->sets = 0;
		x->keeps = XF_ALL;
		break;
	default: break;
	}
}

/* BSF and BSR of zero leave their destination alone. */
static bool may_not_write(ZydisMnemonic m) { return m == ZYDIS_MNEMONIC_BSF || m == ZYDIS_MNEMONIC_BSR; }

/* A visible register operand. False: of no kind that is known here. */
static bool describe_register(const struct insn *in, const ZydisDecodedOperand *o, struct xinsn *x)
{
	bool stores = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	bool loads = o->actions != ZYDIS_OPERAND_ACTION_WRITE || o->size < 32 || may_not_write(in->z.mnemonic);
	bool vec = o->reg.value >= ZYDIS_REGISTER_XMM0 && o->reg.value <= ZYDIS_REGISTER_XMM15;
	int8_t g;

	if (!vec && !is_gpr(o->reg.value))
		return false;
	g = (int8_t)(vec ? o->reg.value - ZYDIS_REGISTER_XMM0 : zreg_off(o->reg.value) / 8);
	if (o->size == 8)
		x->op.byte_reg = true;
	x->vec |= vec;
	switch (o->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
	case ZYDIS_OPERAND_ENCODING_OPCODE:
		x->reg_vec = vec;
		x->reg_place = o->encoding == ZYDIS_OPERAND_ENCODING_OPCODE ? XREG_OPCODE : XREG_MODRM;
		x->reg = g;
		x->reg_high = is_high(o->reg.value);
		x->reg_load = loads;
		x->reg_store = stores;
		return true;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
		x->rm_vec = vec;
		x->rm = g;
		x->rm_high = is_high(o->reg.value);
		x->rm_load = loads;
		x->rm_store = stores;
		return true;
	case ZYDIS_OPERAND_ENCODING_NDSNDD: /* must be in a host register: nothing loads or stores it */
		x->op.vvvv = (uint8_t)host_reg((unsigned)g);
		return host_reg((unsigned)g) != H_NONE;
	default: return true; /* implied by the opcode: in its own host register */
	}
}

/* An SSE operand of 16 bytes must be aligned, but for these. */
static bool unaligned_allowed(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_MOVUPS: case ZYDIS_MNEMONIC_MOVUPD: case ZYDIS_MNEMONIC_MOVDQU: case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI: case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI: case ZYDIS_MNEMONIC_PCMPISTRM:
		return true;
	default: return false;
	}
}

static bool describe_memory(const struct insn *in, const ZydisDecodedOperand *o, const struct uop *u, struct xinsn *x)
{
	if (o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM || (u->flags & UOP_EA_SLOW))
		return false;
	/* With the last byte of the access, and RIP's distance from its page, it must fit a displacement. */
	if (u->disp > INT32_MAX - 64 - (int64_t)PAGE_SIZE || u->disp < INT32_MIN)
		return false;
	x->mem = true;
	x->mem_write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	x->mem_bytes = (uint8_t)(o->size / 8);
	x->mem_aligned = x->mem_bytes == 16 && !unaligned_allowed(in->z.mnemonic);
	return true;
}

static bool describe_operands(const struct insn *in, const struct uop *u, struct xinsn *x)
{
	for (unsigned i = 0; i < in->z.operand_count; i++) {
		const ZydisDecodedOperand *o = &in->op[i];

		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && is_gpr(o->reg.value) &&
		    (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			x->writes |= (uint16_t)(1u << zreg_off(o->reg.value) / 8);
		if (i >= in->z.operand_count_visible)
			continue;
		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && !describe_register(in, o, x))
			return false;
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && !describe_memory(in, o, u, x))
			return false;
	}
	return true;
}

/* AH..BH have encodings only without a REX prefix. */
static bool high_fits(struct xinsn *x)
{
	if (!x->reg_high && !x->rm_high)
		return true;
	if (x->mem || x->op.w)
		return false;
	x->op.byte_reg = false;
	if (x->reg >= 0 && !x->reg_high && (host_reg((unsigned)x->reg) == H_NONE || host_reg((unsigned)x->reg) >= 4))
		return false;
	return x->rm < 0 || x->rm_high || (host_reg((unsigned)x->rm) != H_NONE && host_reg((unsigned)x->rm) < 4);
}

static bool fits_self(const struct insn *in, const struct xinsn *x)
{
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_BT: case ZYDIS_MNEMONIC_BTS: case ZYDIS_MNEMONIC_BTR: case ZYDIS_MNEMONIC_BTC:
		return !x->mem || x->reg_place == XREG_NONE; /* a bit string reaches anywhere */
	case ZYDIS_MNEMONIC_MOVSD: case ZYDIS_MNEMONIC_CMPSD: return x->modrm; /* not the string instructions */
	case ZYDIS_MNEMONIC_BSWAP: return in->z.operand_width != 16;
	case ZYDIS_MNEMONIC_SHLD: case ZYDIS_MNEMONIC_SHRD: return in->z.operand_width != 16;
	case ZYDIS_MNEMONIC_RCL: case ZYDIS_MNEMONIC_RCR: return !x->rotate;
	case ZYDIS_MNEMONIC_ROL: case ZYDIS_MNEMONIC_ROR:
		/* The count goes through CL. */
		return !x->rotate || (!x->mem && (!(x->writes & 1u << RCX) || in->z.operand_width >= 32));
	default: return true;
	}
}

static enum xkind branch_kind(const struct insn *in, enum xkind kind)
{
	if (in->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return X_CALL;
	if (op_is_imm(in, 0))
		return kind;
	return kind == X_JMP ? X_JMP_IND : X_CALL_IND;
}

/* XBEGIN and LOOP count as conditional branches too. */
static bool is_jcc(const struct insn *in)
{
	return (in->z.opcode & 0xf0) == (in->z.opcode_map == ZYDIS_OPCODE_MAP_0F ? 0x80 : 0x70);
}

/* Does the distance from the block's beginning, and from its page's, fit a displacement? */
static bool near(const struct uop *u)
{
	int64_t distance = (int64_t)u->imm;

	return distance >= INT32_MIN && distance <= INT32_MAX - (int64_t)PAGE_SIZE;
}

/* A move of 16 or 32 bytes between a vector register and memory. */
static bool describe_vmov(const struct insn *in, const struct uop *u, struct xinsn *x)
{
	unsigned m = op_is_mem(in, 0) ? 0 : 1;
	ZydisRegister r = in->op[1 - m].reg.value;

	if (!op_is_mem(in, m) || !describe_memory(in, &in->op[m], u, x))
		return false;
	x->reg = (int8_t)(r - (x->mem_bytes == 32 ? ZYDIS_REGISTER_YMM0 : ZYDIS_REGISTER_XMM0));
	x->reg_vec = x->vec = true;
	x->mem_aligned = in->z.mnemonic == ZYDIS_MNEMONIC_VMOVAPS || in->z.mnemonic == ZYDIS_MNEMONIC_VMOVAPD ||
			 in->z.mnemonic == ZYDIS_MNEMONIC_VMOVDQA;
	return true;
}

static enum xkind choose_kind(const struct insn *in, const struct uop *u, struct xinsn *x)
{
	enum xkind kind = (enum xkind)kind_of[in->z.mnemonic];

	if (u->exec == exec_ud || (in->z.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
				   in->z.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX))
		return X_CALL;
	if (in->z.meta.category == ZYDIS_CATEGORY_COND_BR)
		return is_jcc(in) && near(u) ? X_JCC : X_CALL;
	if (kind == X_NOTHING || kind == X_STAC || kind == X_CLAC || kind == X_CLI || kind == X_SWAPGS)
		return kind;
	if (kind == X_VMOV)
		return describe_vmov(in, u, x) ? kind : X_CALL;
	if (kind == X_VZEROUPPER) {
		x->vec = true; /* as a block of such instructions is: no calls in it */
		return kind;
	}
	if (kind == X_JMP || kind == X_CALL_REL) {
		kind = branch_kind(in, kind);
		if (kind == X_CALL_REL)
			x->writes = 1u << RSP;
		if (kind == X_JMP || kind == X_CALL_REL || kind == X_CALL)
			return near(u) ? kind : X_CALL;
	}
	if (kind == X_RET)
		return in->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ? X_CALL : kind;
	if (kind == X_LEAVE) {
		x->writes = 1u << RSP | 1u << RBP;
		return u->opsize == 8 ? kind : X_CALL;
	}
	if (kind == X_CALL || !describe_operands(in, u, x) || !high_fits(x))
		return X_CALL;
	if ((kind == X_PUSH || kind == X_POP) && u->opsize != 8)
		return X_CALL;
	if (x->mem && kind == X_PUSH)
		return X_PUSH_MEM;
	if (x->mem && kind == X_POP)
		return X_CALL;
	if ((kind == X_PUSH || kind == X_POP) && x->rm >= 0)
		x->reg = x->rm; /* FF /6, 8F /0 */
	if (kind == X_DIV && (u->opsize < 4 || x->mem))
		return X_CALL;
	return kind != X_SELF || fits_self(in, x) ? kind : X_CALL;
}

/* Conversions from memory to a general register have no vector register, but MXCSR. */
static bool uses_mxcsr(const struct insn *in)
{
	return in->z.meta.isa_set == ZYDIS_ISA_SET_SSE || in->z.meta.isa_set == ZYDIS_ISA_SET_SSE2;
}

static bool loads_vectors(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_LDMXCSR: case ZYDIS_MNEMONIC_VLDMXCSR: case ZYDIS_MNEMONIC_FXRSTOR: case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_XRSTOR: case ZYDIS_MNEMONIC_XRSTOR64:
		return true;
	default: return false;
	}
}

void xinsn_describe(const struct insn *in, const struct uop *u, struct xinsn *x)
{
	*x = (struct xinsn){.reg = -1, .rm = -1};
	describe_opcode(in, x);
	describe_flags(in, u, x);
	x->vec_loads = loads_vectors(in->z.mnemonic);
	x->kind = choose_kind(in, u, x);
	x->vec |= x->kind == X_SELF && uses_mxcsr(in);
}
