/*
 * x87 floating point. Arithmetic, loads and stores run on the host through stubs
 * (stub.h) on the FXSAVE image; control instructions and the environment formats
 * are written out here.
 *
 * Instruction and data pointers are the guest's own: as on processors with
 * FDP_EXCPTN_ONLY and without FCS/FDS (CPUID leaf 7), every non-control
 * instruction records its RIP, and only an unmasked exception records the opcode
 * and the operand's address.
 *
 * Left out: external error reporting. With CR0.NE = 0 the processor behaves as if
 * IGNNE# were asserted: a pending exception stays in the status word, and waiting
 * instructions go on.
 *
 * Sources: SDM volume 1, "Programming with the x87 FPU"; volume 3, "x87 FPU
 * Control Register Bits", "Exception 16".
 */
#include "cpu/flags.h"
#include "cpu/stub.h"
#include "cpu/vector.h"

/* ---- state ---- */

void fpu_init(struct fpu *f)
{
	fpu_set_top(f, 0);
	put_u16(f->fx + FX_FCW, FCW_INIT);
	put_u16(f->fx + FX_FSW, 0);
	put_u16(f->fx + FX_FTW, 0);
	put_u16(f->fx + FX_FOP, 0);
	put_u64(f->fx + FX_FIP, 0);
	put_u64(f->fx + FX_FDP, 0);
}

void fpu_set_top(struct fpu *f, unsigned top)
{
	unsigned by = (top - fpu_top(f)) & 7;
	uint16_t fsw = get_u16(f->fx + FX_FSW);
	uint8_t old[128];

	put_u16(f->fx + FX_FSW, (uint16_t)((fsw & ~FSW_TOP) | top << 11));
	if (!by)
		return;
	memcpy(old, f->fx + FX_ST(0), sizeof(old));
	for (unsigned i = 0; i < 8; i++)
		memcpy(f->fx + FX_ST(i), old + 16 * ((i + by) & 7), 16);
}

static int x87_usable(struct cpu *cpu)
{
	return cpu->cr0 & (CR0_EM | CR0_TS) ? raise_nm(cpu) : 0;
}

/* For waiting instructions. */
static int x87_check(struct cpu *cpu)
{
	if (x87_usable(cpu))
		return EXEC_STOP;
	if (unlikely(fpu_pending(&cpu->fpu)) && (cpu->cr0 & CR0_NE))
		return raise_exc(cpu, EXC_MF);
	return 0;
}

/* ---- arithmetic: ptr is the stub, imm the opcode (FOP), src the bytes of a memory operand ---- */

#define X87_FLAGS 1u /* u->dst: writes EFLAGS */

/* What the instruction records about itself, in place of the stub's own address and operand. */
static void record_pointers(struct cpu *cpu, const struct uop *u, struct fpu *f, uint16_t old_fop, uint64_t old_fdp)
{
	uint64_t rip = uop_rip(cpu, u);
	bool exception = fpu_pending(f);

	put_u64(f->fx + FX_FIP, cpu->code_bits == 64 ? rip : (uint32_t)rip);
	put_u16(f->fx + FX_FOP, exception ? (uint16_t)u->imm : old_fop);
	put_u64(f->fx + FX_FDP, exception && (u->flags & UOP_HAS_MEM) ? ea_offset(cpu, u) : old_fdp);
}

/*
 * Runs the stub on @f. An exception that is pending (CR0.NE = 0) is kept away from
 * the host and put back afterwards. Returns the arithmetic flags.
 */
static uint32_t run_x87(struct cpu *cpu, const struct uop *u, struct fpu *f, void *mem)
{
	uint16_t fop = get_u16(f->fx + FX_FOP), fsw = get_u16(f->fx + FX_FSW);
	uint16_t kept = fpu_pending(f) ? fsw & (FSW_FLAGS | FSW_SF) : 0;
	uint64_t fdp = get_u64(f->fx + FX_FDP);
	uint32_t cc;

	put_u32(f->fx + FX_MXCSR, get_u32(f->fx + FX_MXCSR) & MXCSR_VALID);
	if (kept)
		fpu_set_words(f, get_u16(f->fx + FX_FCW), (uint16_t)(fsw & ~kept));
	cc = ((x87_stub_fn)(uintptr_t)u->ptr)(f->fx, mem, cpu->cc);
	record_pointers(cpu, u, f, fop, fdp);
	if (kept)
		fpu_set_words(f, get_u16(f->fx + FX_FCW), (uint16_t)(get_u16(f->fx + FX_FSW) | kept));
	return cc;
}

/* Address of the operand of u->src bytes; those of 80 bits and the environments have an alignment, too. */
static int x87_address(struct cpu *cpu, const struct uop *u, enum access_kind kind, uint64_t *lin)
{
	unsigned step = u->src == 10 ? 8 : u->src % 4 == 0 ? 4 : 2;

	if (ea(cpu, u, u->src, kind, lin))
		return EXEC_STOP;
	return u->src > 8 ? vec_check_alignment(cpu, *lin, step, 1) : 0;
}

static int x_x87(struct cpu *cpu, const struct uop *u)
{
	_Alignas(16) uint8_t mem[16] = {0};
	uint64_t lin;
	uint32_t cc;

	if (x87_check(cpu))
		return EXEC_STOP;
	if (u->flags & UOP_HAS_MEM)
		if (x87_address(cpu, u, ACCESS_READ, &lin) || mem_read(cpu, lin, mem, u->src))
			return EXEC_STOP;
	cc = run_x87(cpu, u, &cpu->fpu, mem);
	if (u->dst & X87_FLAGS)
		cpu->cc = (uint16_t)cc;
	return EXEC_NEXT;
}

/*
 * Stores to memory. An unmasked exception other than precision leaves memory alone
 * (it is not even looked at); whether the host stored is seen from two runs over different contents.
 */
static int x_x87_store(struct cpu *cpu, const struct uop *u)
{
	_Alignas(16) uint8_t mem[16], again[16];
	struct fpu after, scratch;
	bool stored = true;
	uint64_t lin;

	if (x87_check(cpu))
		return EXEC_STOP;
	after = cpu->fpu;
	memset(mem, 0, sizeof(mem));
	run_x87(cpu, u, &after, mem);
	if (unlikely(fpu_pending(&after))) {
		memset(again, 0xff, sizeof(again));
		scratch = cpu->fpu;
		run_x87(cpu, u, &scratch, again);
		stored = !memcmp(mem, again, u->src);
	}
	if (stored && (x87_address(cpu, u, ACCESS_WRITE, &lin) || mem_write(cpu, lin, mem, u->src)))
		return EXEC_STOP;
	cpu->fpu = after;
	return EXEC_NEXT;
}

/* ---- control ---- */

static int x_fnop(struct cpu *cpu, const struct uop *u)
{
	if (x87_check(cpu))
		return EXEC_STOP;
	put_u64(cpu->fpu.fx + FX_FIP, cpu->code_bits == 64 ? uop_rip(cpu, u) : (uint32_t)uop_rip(cpu, u));
	return EXEC_NEXT;
}

/* FENI, FDISI, FSETPM: left over from the 8087 and 80287. */
static int x_x87_nothing(struct cpu *cpu, const struct uop *u)
{
	(void)u;
	return x87_usable(cpu);
}

static int x_fwait(struct cpu *cpu, const struct uop *u)
{
	(void)u;
	if ((cpu->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		return raise_nm(cpu);
	if (fpu_pending(&cpu->fpu) && (cpu->cr0 & CR0_NE))
		return raise_exc(cpu, EXC_MF);
	return EXEC_NEXT;
}

static int x_fninit(struct cpu *cpu, const struct uop *u)
{
	(void)u;
	if (x87_usable(cpu))
		return EXEC_STOP;
	fpu_init(&cpu->fpu);
	return EXEC_NEXT;
}

static int x_fnclex(struct cpu *cpu, const struct uop *u)
{
	uint16_t fsw = get_u16(cpu->fpu.fx + FX_FSW);

	(void)u;
	if (x87_usable(cpu))
		return EXEC_STOP;
	put_u16(cpu->fpu.fx + FX_FSW, (uint16_t)(fsw & ~(FSW_FLAGS | FSW_SF | FSW_ES | FSW_B)));
	return EXEC_NEXT;
}

static int x_fldcw(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin;
	uint16_t v;

	if (x87_check(cpu) || ea(cpu, u, 2, ACCESS_READ, &lin) || ld16(cpu, lin, &v))
		return EXEC_STOP;
	fpu_set_words(&cpu->fpu, v, get_u16(cpu->fpu.fx + FX_FSW));
	return EXEC_NEXT;
}

/* FNSTCW, FNSTSW: u->aux is the word's offset in the image. */
static int x_store_word(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin;

	if (x87_usable(cpu) || ea(cpu, u, 2, ACCESS_WRITE, &lin))
		return EXEC_STOP;
	return st16(cpu, lin, get_u16(cpu->fpu.fx + u->aux));
}

static int x_fnstsw_ax(struct cpu *cpu, const struct uop *u)
{
	(void)u;
	if (x87_usable(cpu))
		return EXEC_STOP;
	w16(cpu, REG_OFF(RAX), get_u16(cpu->fpu.fx + FX_FSW));
	return EXEC_NEXT;
}

/* ---- environment: FNSTENV, FLDENV, FNSAVE, FRSTOR ---- */

#define ENV16_BYTES 14u
#define ENV32_BYTES 28u
#define REGS_BYTES  80u

/* The two-bit tag of the register at stack position @i (SDM "x87 FPU Tag Word"). */
static unsigned full_tag(const struct fpu *f, unsigned i)
{
	uint64_t significand = get_u64(f->fx + FX_ST(i));
	unsigned exponent = get_u16(f->fx + FX_ST(i) + 8) & 0x7fff;

	if (exponent == 0x7fff)
		return 2;
	if (exponent == 0)
		return significand ? 2 : 1;
	return significand >> 63 ? 0 : 2;
}

static uint16_t full_tag_word(const struct fpu *f)
{
	unsigned top = fpu_top(f), ftw = 0;

	for (unsigned p = 0; p < 8; p++)
		ftw |= (f->fx[FX_FTW] >> p & 1 ? full_tag(f, (p - top) & 7) : 3u) << 2 * p;
	return (uint16_t)ftw;
}

static uint8_t abridged_tags(uint16_t ftw)
{
	unsigned tags = 0;

	for (unsigned p = 0; p < 8; p++)
		if ((ftw >> 2 * p & 3) != 3)
			tags |= 1u << p;
	return (uint8_t)tags;
}

static bool real_format(const struct cpu *cpu) { return !(cpu->cr0 & CR0_PE) || (cpu->rflags & RF_VM); }

/* SDM volume 1, "Protected Mode / Real Mode x87 FPU State Image in Memory, 32-Bit Format". */
static void make_env32(const struct cpu *cpu, uint8_t *e)
{
	const struct fpu *f = &cpu->fpu;
	uint32_t fip = get_u32(f->fx + FX_FIP), fdp = get_u32(f->fx + FX_FDP), fop = get_u16(f->fx + FX_FOP);

	put_u32(e, 0xffff0000u | get_u16(f->fx + FX_FCW));
	put_u32(e + 4, 0xffff0000u | get_u16(f->fx + FX_FSW));
	put_u32(e + 8, 0xffff0000u | full_tag_word(f));
	if (real_format(cpu)) {
		put_u32(e + 12, 0xffff0000u | fip);
		put_u32(e + 16, fip >> 16 << 12 | fop);
		put_u32(e + 20, 0xffff0000u | fdp);
		put_u32(e + 24, fdp >> 16 << 12);
		return;
	}
	put_u32(e + 12, fip);
	put_u32(e + 16, fop << 16);
	put_u32(e + 20, fdp);
	put_u32(e + 24, 0xffff0000u);
}

static void make_env16(const struct cpu *cpu, uint8_t *e)
{
	const struct fpu *f = &cpu->fpu;
	uint32_t fip = get_u32(f->fx + FX_FIP), fdp = get_u32(f->fx + FX_FDP);
	bool real = real_format(cpu);

	put_u16(e, get_u16(f->fx + FX_FCW));
	put_u16(e + 2, get_u16(f->fx + FX_FSW));
	put_u16(e + 4, full_tag_word(f));
	put_u16(e + 6, (uint16_t)fip);
	put_u16(e + 8, real ? (uint16_t)((fip >> 16 & 15) << 12 | get_u16(f->fx + FX_FOP)) : 0);
	put_u16(e + 10, (uint16_t)fdp);
	put_u16(e + 12, real ? (uint16_t)((fdp >> 16 & 15) << 12) : 0);
}

static void take_pointers32(struct cpu *cpu, const uint8_t *e)
{
	uint32_t fip = get_u32(e + 12), fdp = get_u32(e + 20), w4 = get_u32(e + 16), w6 = get_u32(e + 24);
	bool real = real_format(cpu);

	put_u16(cpu->fpu.fx + FX_FOP, (real ? w4 : w4 >> 16) & 0x7ff);
	put_u64(cpu->fpu.fx + FX_FIP, real ? (fip & 0xffff) | (w4 >> 12 & 0xffff) << 16 : fip);
	put_u64(cpu->fpu.fx + FX_FDP, real ? (fdp & 0xffff) | (w6 >> 12 & 0xffff) << 16 : fdp);
}

static void take_pointers16(struct cpu *cpu, const uint8_t *e)
{
	uint32_t fip = get_u16(e + 6), fdp = get_u16(e + 10), w4 = get_u16(e + 8), w6 = get_u16(e + 12);
	bool real = real_format(cpu);

	put_u16(cpu->fpu.fx + FX_FOP, real ? w4 & 0x7ff : 0);
	put_u64(cpu->fpu.fx + FX_FIP, real ? fip | (w4 >> 12) << 16 : fip);
	put_u64(cpu->fpu.fx + FX_FDP, real ? fdp | (w6 >> 12) << 16 : fdp);
}

/* The image keeps registers in stack order, the environment tags in physical order. */
static void take_env(struct cpu *cpu, const uint8_t *e, bool wide)
{
	unsigned step = wide ? 4 : 2;
	uint16_t fsw = get_u16(e + step);

	fpu_set_top(&cpu->fpu, fsw >> 11 & 7);
	fpu_set_words(&cpu->fpu, get_u16(e), fsw);
	cpu->fpu.fx[FX_FTW] = abridged_tags(get_u16(e + 2 * step));
	if (wide)
		take_pointers32(cpu, e);
	else
		take_pointers16(cpu, e);
}

static int x_fnstenv(struct cpu *cpu, const struct uop *u)
{
	uint8_t env[ENV32_BYTES];
	uint64_t lin;

	if (x87_usable(cpu) || x87_address(cpu, u, ACCESS_WRITE, &lin))
		return EXEC_STOP;
	if (u->src == ENV32_BYTES)
		make_env32(cpu, env);
	else
		make_env16(cpu, env);
	if (mem_write(cpu, lin, env, u->src))
		return EXEC_STOP;
	fpu_set_words(&cpu->fpu, get_u16(cpu->fpu.fx + FX_FCW) | FCW_MASKS, get_u16(cpu->fpu.fx + FX_FSW));
	return EXEC_NEXT;
}

static int x_fldenv(struct cpu *cpu, const struct uop *u)
{
	uint8_t env[ENV32_BYTES];
	uint64_t lin;

	if (x87_check(cpu) || x87_address(cpu, u, ACCESS_READ, &lin) || mem_read(cpu, lin, env, u->src))
		return EXEC_STOP;
	take_env(cpu, env, u->src == ENV32_BYTES);
	return EXEC_NEXT;
}

static int x_fnsave(struct cpu *cpu, const struct uop *u)
{
	uint8_t image[ENV32_BYTES + REGS_BYTES];
	unsigned env = u->src - REGS_BYTES;
	uint64_t lin;

	if (x87_usable(cpu) || x87_address(cpu, u, ACCESS_WRITE, &lin))
		return EXEC_STOP;
	if (env == ENV32_BYTES)
		make_env32(cpu, image);
	else
		make_env16(cpu, image);
	for (unsigned i = 0; i < 8; i++)
		memcpy(image + env + 10 * i, cpu->fpu.fx + FX_ST(i), 10);
	if (fpu_write_area(cpu, lin, image, u->src))
		return EXEC_STOP;
	fpu_init(&cpu->fpu);
	return EXEC_NEXT;
}

static int x_frstor(struct cpu *cpu, const struct uop *u)
{
	uint8_t image[ENV32_BYTES + REGS_BYTES];
	unsigned env = u->src - REGS_BYTES;
	uint64_t lin;

	if (x87_check(cpu) || x87_address(cpu, u, ACCESS_READ, &lin) || fpu_read_area(cpu, lin, image, u->src))
		return EXEC_STOP;
	take_env(cpu, image, env == ENV32_BYTES);
	for (unsigned i = 0; i < 8; i++)
		memcpy(cpu->fpu.fx + FX_ST(i), image + env + 10 * i, 10);
	return EXEC_NEXT;
}

/* ---- lowering ---- */

static bool stores(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_FST || m == ZYDIS_MNEMONIC_FSTP || m == ZYDIS_MNEMONIC_FIST ||
	       m == ZYDIS_MNEMONIC_FISTP || m == ZYDIS_MNEMONIC_FISTTP || m == ZYDIS_MNEMONIC_FBSTP;
}

static bool writes_flags(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_FCOMI || m == ZYDIS_MNEMONIC_FCOMIP || m == ZYDIS_MNEMONIC_FUCOMI ||
	       m == ZYDIS_MNEMONIC_FUCOMIP;
}

static exec_fn control_exec(const struct insn *in)
{
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_FWAIT: return x_fwait;
	case ZYDIS_MNEMONIC_FNOP: return x_fnop;
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP: return x_x87_nothing;
	case ZYDIS_MNEMONIC_FNINIT: return x_fninit;
	case ZYDIS_MNEMONIC_FNCLEX: return x_fnclex;
	case ZYDIS_MNEMONIC_FLDCW: return x_fldcw;
	case ZYDIS_MNEMONIC_FNSTCW: return x_store_word;
	case ZYDIS_MNEMONIC_FNSTSW: return op_is_mem(in, 0) ? x_store_word : x_fnstsw_ax;
	case ZYDIS_MNEMONIC_FNSTENV: return x_fnstenv;
	case ZYDIS_MNEMONIC_FLDENV: return x_fldenv;
	case ZYDIS_MNEMONIC_FNSAVE: return x_fnsave;
	case ZYDIS_MNEMONIC_FRSTOR: return x_frstor;
	default: return NULL;
	}
}

static uint8_t x87_modrm(const struct insn *in)
{
	return (uint8_t)(in->z.raw.modrm.mod << 6 | in->z.raw.modrm.reg << 3 | in->z.raw.modrm.rm);
}

static void lower_x87_stub(struct insn *in, struct uop *u)
{
	uint8_t modrm = x87_modrm(in);

	u->exec = exec_ud;
	u->ptr = (void *)(uintptr_t)stub_x87(in->cpu->stubs, in->z.opcode, modrm);
	if (!u->ptr)
		return;
	u->imm = (in->z.opcode & 7u) << 8 | modrm;
	u->dst = writes_flags(in->z.mnemonic) ? X87_FLAGS : 0;
	u->exec = (u->flags & UOP_HAS_MEM) && stores(in->z.mnemonic) ? x_x87_store : x_x87;
}

bool lower_x87(struct insn *in, struct uop *u)
{
	u->exec = exec_ud;
	if (!cpu_has(in->cpu, CPUF_FPU) || (u->flags & UOP_LOCK))
		return true;
	if (writes_flags(in->z.mnemonic) && !cpu_has(in->cpu, CPUF_CMOV))
		return true;
	u->src = op_is_mem(in, 0) ? (uint8_t)(in->op[0].size / 8) : 0;
	u->aux = in->z.mnemonic == ZYDIS_MNEMONIC_FNSTCW ? FX_FCW : FX_FSW;
	u->exec = control_exec(in);
	if (!u->exec)
		lower_x87_stub(in, u);
	return true;
}
