/*
 * Decoding with Zydis and the generic part of lowering: lengths, prefixes and
 * memory operands. The meaning of an instruction is in the insn_<group>.c files.
 */
#include "cpu/decode.h"

#include "cpu/access.h"
#include "cpu/lower.h"

/* The groups, in the order they are asked. */
static const lower_fn lower_groups[] = {lower_int, lower_flow, lower_string, lower_bmi, lower_vector, lower_system};

int exec_ud(struct cpu *cpu, const struct uop *u)
{
	(void)u;
	return raise_ud(cpu);
}

/* More than 15 bytes (SDM "Instruction Prefixes"). */
static int exec_too_long(struct cpu *cpu, const struct uop *u)
{
	(void)u;
	return raise_gp0(cpu);
}

static int exec_fallthrough(struct cpu *cpu, const struct uop *u)
{
	uint64_t rip = cpu->gpr[REG_RIP] + u->imm;

	cpu->gpr[REG_RIP] = cpu->code_bits == 64 ? rip : (uint32_t)rip;
	return EXEC_NEXT;
}

void lower_fallthrough(struct uop *u, unsigned bytes)
{
	*u = (struct uop){.exec = exec_fallthrough, .imm = bytes, .off = (uint16_t)bytes,
			  .flags = UOP_PSEUDO | UOP_SETS_RIP};
}

uint8_t zreg_off(ZydisRegister reg)
{
	if (reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_BL)
		return REG_OFF(reg - ZYDIS_REGISTER_AL);
	if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
		return REG_OFF_HIGH(reg - ZYDIS_REGISTER_AH);
	if (reg >= ZYDIS_REGISTER_SPL && reg <= ZYDIS_REGISTER_R15B)
		return REG_OFF(reg - ZYDIS_REGISTER_SPL + RSP);
	if (reg >= ZYDIS_REGISTER_AX && reg <= ZYDIS_REGISTER_R15W)
		return REG_OFF(reg - ZYDIS_REGISTER_AX);
	if (reg >= ZYDIS_REGISTER_EAX && reg <= ZYDIS_REGISTER_R15D)
		return REG_OFF(reg - ZYDIS_REGISTER_EAX);
	if (reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15)
		return REG_OFF(reg - ZYDIS_REGISTER_RAX);
	if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
		return REG_OFF(REG_RIP);
	return REG_OFF(REG_ZERO);
}

static uint8_t zseg_index(ZydisRegister seg)
{
	return seg >= ZYDIS_REGISTER_ES && seg <= ZYDIS_REGISTER_GS ? (uint8_t)(seg - ZYDIS_REGISTER_ES) : SEG_DS;
}

static bool is_rip(ZydisRegister r) { return r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP; }

/*
 * SIB with base 5 and mod 0 is a displacement without a base, whatever REX.B is. With
 * 32-bit addresses and REX.B the decoder says R13D and no displacement.
 */
static bool sib_without_base(const ZydisDecodedInstruction *z)
{
	return (z->attributes & ZYDIS_ATTRIB_HAS_SIB) && z->raw.modrm.mod == 0 && z->raw.sib.base == 5;
}

static void lower_memory(const struct insn *in, const ZydisDecodedOperandMem *m, struct uop *u)
{
	bool no_base = sib_without_base(&in->z);
	uint8_t seg = zseg_index(m->segment);

	u->base = no_base ? REG_OFF(REG_ZERO) : zreg_off(m->base);
	u->index = zreg_off(m->index);
	u->scale = m->scale > 1 ? (uint8_t)__builtin_ctz(m->scale) : 0;
	u->disp = no_base ? in->z.raw.disp.value : m->disp.has_displacement ? m->disp.value : 0;
	if (is_rip(m->base))
		u->disp += u->off + u->len;
	u->flags |= UOP_HAS_MEM;
	if (seg == SEG_SS)
		u->flags |= UOP_SEG_STACK;
	u->seg = seg;
	if (in->mode_bits != 64 || u->addrsize != 8)
		u->flags |= UOP_EA_SLOW;
	else if (seg < SEG_FS)
		u->seg = SEG_NONE;
}

static void lower_generic(const struct insn *in, struct uop *u)
{
	const ZydisDecodedInstruction *z = &in->z;

	u->len = z->length;
	u->opsize = (uint8_t)(z->operand_width / 8);
	u->addrsize = (uint8_t)(z->address_width / 8);
	u->base = u->index = REG_OFF(REG_ZERO);
	u->seg = SEG_NONE;
	if (z->attributes & ZYDIS_ATTRIB_HAS_LOCK)
		u->flags |= UOP_LOCK;
	if (z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
		u->flags |= UOP_REP;
	if (z->attributes & ZYDIS_ATTRIB_HAS_REPNE)
		u->flags |= UOP_REPNE;
	for (unsigned i = 0; i < z->operand_count_visible; i++) {
		if (op_is_mem(in, i)) {
			lower_memory(in, &in->op[i].mem, u);
			break;
		}
	}
}

static void decoder_init(ZydisDecoder *d, const struct cpu *cpu, unsigned bits)
{
	/* Of a processor without MPX, CET, ... these encodings are the older instructions. */
	static const ZydisDecoderMode off[] = {ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET,
					       ZYDIS_DECODER_MODE_WBNOINVD, ZYDIS_DECODER_MODE_CLDEMOTE};

	ZydisDecoderInit(d,
			 bits == 64   ? ZYDIS_MACHINE_MODE_LONG_64
			 : bits == 32 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32
				      : ZYDIS_MACHINE_MODE_LONG_COMPAT_16,
			 bits == 64   ? ZYDIS_STACK_WIDTH_64
			 : bits == 32 ? ZYDIS_STACK_WIDTH_32
				      : ZYDIS_STACK_WIDTH_16);
	for (unsigned i = 0; i < ARRAY_SIZE(off); i++)
		ZydisDecoderEnableMode(d, off[i], ZYAN_FALSE);
	ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_LZCNT, cpu_has(cpu, CPUF_LZCNT));
	ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_TZCNT, cpu_has(cpu, CPUF_BMI1));
}

static void lower_by_group(struct insn *in, struct uop *u)
{
	for (unsigned i = 0; i < ARRAY_SIZE(lower_groups); i++)
		if (lower_groups[i](in, u))
			return;
	u->exec = exec_ud;
}

bool decode_one(const uint8_t *bytes, unsigned avail, unsigned bits_, struct insn *in)
{
	ZydisDecoder d;

	decoder_init(&d, in->cpu, bits_);
	in->bytes = bytes;
	in->mode_bits = bits_;
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, bytes, avail < 15 ? avail : 15, &in->z, in->op));
}

/*
 * An instruction after which the block is left for another reason than a jump (RDTSC, WRMSR, ...) may look at the
 * instruction count, which is only exact where a block begins.
 */
static enum block_place place_of(const struct insn *in, const struct uop *u)
{
	bool last = in->ends_block || u->exec == exec_ud || u->flags & UOP_SETS_RIP;

	if (in->alone || (last && !(u->flags & UOP_SETS_RIP)))
		return PLACE_ALONE;
	return last ? PLACE_LAST : PLACE_ANY;
}

int lower_one(struct cpu *cpu, const uint8_t *bytes, unsigned avail, unsigned bits_, unsigned off, struct uop *u,
	      enum block_place *place)
{
	struct insn in = {.bytes = bytes, .mode_bits = bits_, .cpu = cpu};
	ZydisDecoder d;
	ZyanStatus st;

	decoder_init(&d, cpu, bits_);
	*u = (struct uop){.off = (uint16_t)off};
	st = ZydisDecoderDecodeFull(&d, bytes, avail < 15 ? avail : 15, &in.z, in.op);
	if (ZYAN_SUCCESS(st)) {
		lower_generic(&in, u);
		lower_by_group(&in, u);
		*place = place_of(&in, u);
		return u->len;
	}
	if (st == ZYDIS_STATUS_NO_MORE_DATA && avail < 15)
		return 0;
	*place = PLACE_ALONE;
	u->len = 1;
	u->exec = st == ZYDIS_STATUS_NO_MORE_DATA || st == ZYDIS_STATUS_INSTRUCTION_TOO_LONG ? exec_too_long : exec_ud;
	return 1;
}
