/*
 * AVX, AVX2, FMA and F16C: instructions with a VEX prefix on vector registers.
 *
 * An instruction runs on the host through a stub (stub.h): its operands are copied to a frame, and results back.
 * Memory operands are read and written by the processor's own accesses, so their faults are precise.
 * Masked moves and gathers, whose elements fault each by itself, are written out.
 *
 * SIMD floating-point exceptions are treated as in insn_sse.c, with the same deviation.
 *
 * Left out: VEX-encoded AES, PCLMULQDQ and what came after AVX2, which the processor does not report.
 *
 * Sources: SDM volume 1, "Programming with AVX, FMA, and AVX2"; volume 2, "Exceptions Type", "VEX.128", VSIB.
 */
#include "cpu/stub.h"
#include "cpu/vector.h"

#define NO_REG  0xffu
#define IS_GPR  0x80u

/*
 * Uops of stubs: ptr is the stub, src the size of a memory operand, opsize that of vectors, dst is AF_*, aux the four
 * operands, ModRM.reg in the low byte, then VEX.vvvv, ModRM.rm, the one in the immediate byte: the number of a
 * vector register, IS_GPR and that of a general one, or NO_REG.
 */
#define AF_ALIGN   0x01u /* the memory operand must be aligned */
#define AF_FLAGS   0x02u /* the stub returns arithmetic flags */
#define AF_FP      0x04u /* may raise SIMD floating-point exceptions */
#define AF_WREG    0x08u
#define AF_WV      0x10u
#define AF_WRM     0x20u /* the rm operand is written: memory or a register */
#define AF_STRING  0x40u
#define AF_NO_AC   0x80u /* memory is not subject to alignment checks */

/* ---- availability ---- */

static ALWAYS_INLINE bool avx_off(const struct cpu *c)
{
	return (c->cr0 & CR0_TS) || !(c->cr4 & CR4_OSXSAVE) || (~c->xcr0 & (XCR0_SSE | XCR0_AVX)) ||
	       (unlikely(c->code_bits != 64) && (!(c->cr0 & CR0_PE) || (c->rflags & RF_VM)));
}

/* CR0.EM means nothing here. */
static NOINLINE int raise_avx_off(struct cpu *cpu)
{
	bool undefined = !(cpu->cr4 & CR4_OSXSAVE) || (~cpu->xcr0 & (XCR0_SSE | XCR0_AVX)) || !(cpu->cr0 & CR0_PE) ||
			 (cpu->code_bits != 64 && (cpu->rflags & RF_VM));

	return undefined ? raise_ud(cpu) : raise_nm(cpu);
}

#define AVX_CHECK(cpu)                                                                                          \
	do {                                                                                                    \
		if (unlikely(avx_off(cpu)))                                                                     \
			return raise_avx_off(cpu);                                                              \
	} while (0)

/* ---- registers ---- */

static void ymm_get(const struct cpu *c, unsigned n, uint8_t out[32])
{
	memcpy(out, c->fpu.fx + FX_XMM(n), 16);
	memcpy(out + 16, c->fpu.ymm_hi[n], 16);
}

static void ymm_set(struct cpu *c, unsigned n, const uint8_t v[32])
{
	memcpy(c->fpu.fx + FX_XMM(n), v, 16);
	memcpy(c->fpu.ymm_hi[n], v + 16, 16);
}

static ALWAYS_INLINE void get_operand(const struct cpu *c, unsigned r, uint8_t out[32])
{
	if (r < 16)
		ymm_get(c, r, out);
	else if (r != NO_REG)
		memcpy(out, &c->gpr[r & 15], 8);
}

static ALWAYS_INLINE void set_operand(struct cpu *c, unsigned r, const uint8_t v[32])
{
	if (r < 16)
		ymm_set(c, r, v);
	else if (r != NO_REG)
		memcpy(&c->gpr[r & 15], v, 8);
}

static unsigned operand_reg(const struct uop *u) { return u->aux & 0xff; }
static unsigned operand_v(const struct uop *u) { return u->aux >> 8 & 0xff; }
static unsigned operand_rm(const struct uop *u) { return u->aux >> 16 & 0xff; }
static unsigned operand_is4(const struct uop *u) { return u->aux >> 24; }

/* ---- memory ---- */

static int load_memory(struct cpu *cpu, uint64_t lin, unsigned bytes, uint8_t *buf)
{
	switch (bytes) {
	case 1: return ld8(cpu, lin, buf);
	case 2: return ld16(cpu, lin, (uint16_t *)(void *)buf);
	case 4: return ld32(cpu, lin, (uint32_t *)(void *)buf);
	case 8: return ld64(cpu, lin, (uint64_t *)(void *)buf);
	case 16: return ld128(cpu, lin, (struct u128 *)(void *)buf);
	default: return ld256(cpu, lin, (struct u256 *)(void *)buf);
	}
}

static int store_memory(struct cpu *cpu, uint64_t lin, unsigned bytes, const uint8_t *buf)
{
	struct u256 v;

	switch (bytes) {
	case 1: return st8(cpu, lin, buf[0]);
	case 2: return st16(cpu, lin, get_u16(buf));
	case 4: return st32(cpu, lin, get_u32(buf));
	case 8: return st64(cpu, lin, get_u64(buf));
	case 16: return st128(cpu, lin, (struct u128){get_u64(buf), get_u64(buf + 8)});
	default:
		memcpy(&v, buf, 32);
		return st256(cpu, lin, v);
	}
}

static ALWAYS_INLINE int memory_address(struct cpu *cpu, const struct uop *u, enum access_kind kind, uint64_t *lin)
{
	if (ea(cpu, u, u->src, kind, lin))
		return EXEC_STOP;
	if (unlikely((u->dst & AF_ALIGN) && (*lin & (u->src - 1u))))
		return raise_gp0(cpu);
	return 0;
}

/* ---- SIMD floating-point exceptions: see run_fp_unmasked() in insn_sse.c ---- */

#define MXCSR_PRE 0x07u

static uint32_t run_stub(const struct uop *u, struct vex_frame *f) { return ((vex_stub_fn)(uintptr_t)u->ptr)(f); }

static uint32_t flags_raised(const struct uop *u, struct vex_frame *f, uint32_t control, uint32_t *cc)
{
	f->mxcsr = (control | MXCSR_MASKS) & ~MXCSR_FLAGS;
	*cc = run_stub(u, f);
	return f->mxcsr & MXCSR_FLAGS;
}

#define VCVTPS2PH 0x10000u /* in u->imm */

/* Would one of these floats be a half that is denormal, but exact? Those that are not exact raise the flag. */
static bool tiny_half(const uint8_t *p, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i += 4) {
		uint32_t w = get_u32(p + i) & 0x7fffffff;
		float v;

		memcpy(&v, &w, 4);
		if (v > 0 && v < 0x1p-14f && v * 0x1p24f == (float)(int)(v * 0x1p24f))
			return true;
	}
	return false;
}

static NOINLINE int run_fp_unmasked(struct cpu *cpu, const struct uop *u, struct vex_frame *f)
{
	uint32_t mxcsr = get_u32(cpu->fpu.fx + FX_MXCSR) & MXCSR_VALID, control = mxcsr, raised, cc;
	uint32_t enabled = ~mxcsr >> 7 & MXCSR_FLAGS;
	struct vex_frame again = *f;

	if (enabled & BIT64(4))
		control &= ~MXCSR_FZ; /* it only works with underflow masked */
	raised = flags_raised(u, f, control, &cc);
	if (enabled & BIT64(4)) { /* a tiny result is an exception even if it is exact: flushing to zero tells */
		uint32_t unused;

		raised |= flags_raised(u, &again, control | MXCSR_FZ, &unused) & BIT64(4);
	}
	if ((enabled & BIT64(4)) && u->imm == VCVTPS2PH && tiny_half(f->reg, u->opsize))
		raised |= BIT64(4); /* which does not look at FZ */
	if (raised & enabled & MXCSR_PRE)
		raised &= MXCSR_PRE;
	put_u32(cpu->fpu.fx + FX_MXCSR, mxcsr | raised);
	if (raised & enabled)
		return raise_exc(cpu, cpu->cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD);
	if (u->dst & AF_FLAGS)
		cpu->cc = (uint16_t)cc;
	return EXEC_NEXT;
}

static int run_fp(struct cpu *cpu, const struct uop *u, struct vex_frame *f)
{
	uint32_t cc;

	f->mxcsr = get_u32(cpu->fpu.fx + FX_MXCSR);
	if (unlikely((f->mxcsr & (MXCSR_MASKS | ~MXCSR_VALID)) != MXCSR_MASKS))
		return run_fp_unmasked(cpu, u, f);
	cc = run_stub(u, f);
	put_u32(cpu->fpu.fx + FX_MXCSR, f->mxcsr);
	if (u->dst & AF_FLAGS)
		cpu->cc = (uint16_t)cc;
	return EXEC_NEXT;
}

/* ---- instructions by stub ---- */

/* VPCMPxSTRI puts ECX in, VPCMPxSTRM XMM0. The lowest bit of the opcode tells which. */
static void string_result(struct cpu *cpu, const struct uop *u, const struct vex_frame *f)
{
	if (u->imm & 1)
		cpu->gpr[RCX] = f->rcx;
	else
		ymm_set(cpu, 0, f->is4);
}

static bool unchecked(const struct cpu *cpu, const struct uop *u)
{
	return unlikely((u->dst & AF_NO_AC) && cpu->mode == MODE_USER_ALIGN);
}

static int load_rm(struct cpu *cpu, const struct uop *u, uint8_t *buf)
{
	uint64_t lin;

	if (memory_address(cpu, u, ACCESS_READ, &lin))
		return EXEC_STOP;
	return unchecked(cpu, u) ? mem_read_slow(cpu, lin, buf, u->src, MODE_USER) : load_memory(cpu, lin, u->src, buf);
}

static int store_rm(struct cpu *cpu, const struct uop *u, const uint8_t *buf)
{
	uint64_t lin;

	if (memory_address(cpu, u, ACCESS_WRITE, &lin))
		return EXEC_STOP;
	return unchecked(cpu, u) ? mem_write_slow(cpu, lin, buf, u->src, MODE_USER) : store_memory(cpu, lin, u->src, buf);
}

static ALWAYS_INLINE int run(struct cpu *cpu, const struct uop *u, struct vex_frame *f)
{
	uint32_t cc;

	if (u->dst & AF_FP)
		return run_fp(cpu, u, f);
	if (u->dst & AF_STRING) {
		f->rax = cpu->gpr[RAX];
		f->rdx = cpu->gpr[RDX];
		f->rcx = cpu->gpr[RCX];
	}
	cc = run_stub(u, f);
	if (u->dst & AF_FLAGS)
		cpu->cc = (uint16_t)cc;
	return EXEC_NEXT;
}

static int x_avx(struct cpu *cpu, const struct uop *u)
{
	bool mem = u->flags & UOP_HAS_MEM, store = mem && (u->dst & AF_WRM);
	struct vex_frame f;

	AVX_CHECK(cpu);
	if (mem && !store && load_rm(cpu, u, f.rm))
		return EXEC_STOP;
	get_operand(cpu, operand_reg(u), f.reg);
	get_operand(cpu, operand_v(u), f.v);
	get_operand(cpu, operand_is4(u), f.is4);
	if (!mem)
		get_operand(cpu, operand_rm(u), f.rm);
	/* VCVTPS2PH: SIMD exceptions come before the store's, and a store that faults leaves their flags. */
	if (run(cpu, u, &f))
		return EXEC_STOP;
	if (store)
		return store_rm(cpu, u, f.rm);
	if (u->dst & AF_WRM)
		set_operand(cpu, operand_rm(u), f.rm);
	if (u->dst & AF_WV)
		set_operand(cpu, operand_v(u), f.v);
	if (u->dst & AF_WREG)
		set_operand(cpu, operand_reg(u), f.reg);
	if (u->dst & AF_STRING)
		string_result(cpu, u, &f);
	return EXEC_NEXT;
}

/* ---- moves of whole registers, the most frequent ---- */

static int x_vmov_load(struct cpu *cpu, const struct uop *u)
{
	uint8_t v[32] = {0};
	uint64_t lin;

	AVX_CHECK(cpu);
	if (memory_address(cpu, u, ACCESS_READ, &lin) || load_memory(cpu, lin, u->src, v))
		return EXEC_STOP;
	ymm_set(cpu, operand_reg(u), v);
	return EXEC_NEXT;
}

static int x_vmov_store(struct cpu *cpu, const struct uop *u)
{
	uint8_t v[32];
	uint64_t lin;

	AVX_CHECK(cpu);
	if (memory_address(cpu, u, ACCESS_WRITE, &lin))
		return EXEC_STOP;
	ymm_get(cpu, operand_reg(u), v);
	return store_memory(cpu, lin, u->src, v);
}

/* ---- VZEROUPPER, VZEROALL (u->imm): of the registers that the mode has ---- */

static int x_vzero(struct cpu *cpu, const struct uop *u)
{
	unsigned bytes = cpu->code_bits == 64 ? 256 : 128;

	AVX_CHECK(cpu);
	memset(&cpu->fpu.ymm_hi[0][0], 0, bytes);
	if (u->imm)
		memset(cpu->fpu.fx + FX_XMM(0), 0, bytes);
	return EXEC_NEXT;
}

/* ---- MXCSR ---- */

static int x_vldmxcsr(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin;
	uint32_t v;

	AVX_CHECK(cpu);
	if (ea(cpu, u, 4, ACCESS_READ, &lin) || ld32(cpu, lin, &v))
		return EXEC_STOP;
	if (v & ~MXCSR_VALID)
		return raise_gp0(cpu);
	put_u32(cpu->fpu.fx + FX_MXCSR, v);
	return EXEC_NEXT;
}

static int x_vstmxcsr(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin;

	AVX_CHECK(cpu);
	if (ea(cpu, u, 4, ACCESS_WRITE, &lin))
		return EXEC_STOP;
	return st32(cpu, lin, get_u32(cpu->fpu.fx + FX_MXCSR));
}

static int x_vmaskmovdqu(struct cpu *cpu, const struct uop *u)
{
	AVX_CHECK(cpu);
	return vec_store_selected(cpu, u, cpu->fpu.fx + FX_XMM(operand_reg(u)), cpu->fpu.fx + FX_XMM(operand_rm(u)));
}

/* ---- element by element: u->src is the vector's size in bytes, u->imm an element's ---- */

static bool selected(const uint8_t *mask, unsigned end) { return mask[end - 1] & 0x80; }

/* Linear address of what lies @more bytes from the operand's beginning. */
static int element_address(struct cpu *cpu, const struct uop *u, int64_t more, unsigned bytes, enum access_kind kind,
			   uint64_t *lin)
{
	struct uop moved = *u;

	moved.disp += more;
	return ea(cpu, &moved, bytes, kind, lin);
}

/* Likewise for the elements of a masked move: its address is computed, and wraps, as that of one operand. */
static int masked_address(struct cpu *cpu, const struct uop *u, unsigned more, unsigned bytes, enum access_kind kind,
			  uint64_t *lin)
{
	if (element_address(cpu, u, more, bytes, kind, lin))
		return EXEC_STOP;
	*lin = ea_offset(cpu, u) + more + cpu->seg_base_eff[u->seg];
	if (cpu->code_bits != 64)
		*lin = (uint32_t)*lin;
	return 0;
}

/* These are not subject to alignment checks. */
static enum access_mode unchecked_mode(const struct cpu *cpu)
{
	return cpu->mode == MODE_USER_ALIGN ? MODE_USER : (enum access_mode)cpu->mode;
}

static int x_vmaskmov_load(struct cpu *cpu, const struct uop *u)
{
	unsigned n = (unsigned)u->imm;
	uint8_t mask[32], v[32] = {0};
	uint64_t lin;

	AVX_CHECK(cpu);
	ymm_get(cpu, operand_v(u), mask);
	for (unsigned i = 0; i < u->src; i += n) {
		if (!selected(mask, i + n))
			continue;
		if (masked_address(cpu, u, i, n, ACCESS_READ, &lin) ||
		    mem_read_slow(cpu, lin, v + i, n, unchecked_mode(cpu)))
			return EXEC_STOP;
	}
	ymm_set(cpu, operand_reg(u), v);
	return EXEC_NEXT;
}

/* Nothing is written before all that will be is known to be writable. */
static int x_vmaskmov_store(struct cpu *cpu, const struct uop *u)
{
	unsigned n = (unsigned)u->imm;
	uint8_t mask[32], v[32];
	uint64_t lin;

	AVX_CHECK(cpu);
	ymm_get(cpu, operand_v(u), mask);
	ymm_get(cpu, operand_reg(u), v);
	for (unsigned i = 0; i < u->src; i += n)
		if (selected(mask, i + n) && (masked_address(cpu, u, i, n, ACCESS_WRITE, &lin) ||
					      mem_probe_write(cpu, lin, n, unchecked_mode(cpu))))
			return EXEC_STOP;
	for (unsigned i = 0; i < u->src; i += n)
		if (selected(mask, i + n) && (masked_address(cpu, u, i, n, ACCESS_WRITE, &lin) ||
					      mem_write_slow(cpu, lin, v + i, n, unchecked_mode(cpu))))
			return EXEC_STOP;
	return EXEC_NEXT;
}

/*
 * Gathers. u->imm: bytes of an element, u->src: elements, u->opsize: bytes of an index; the rm operand is the index
 * register, and in place of the fourth stands the vector's size.
 * Elements are loaded from the lowest; what is loaded when one faults is in the destination, and its mask is clear.
 */
static int64_t gather_index(const uint8_t *index, unsigned i, unsigned bytes)
{
	return bytes == 4 ? (int64_t)(int32_t)get_u32(index + 4 * i) : (int64_t)get_u64(index + 8 * i);
}

/* The mask's highest bits spread over its elements, as far as the vector reaches, whether or not they are used. */
static void gather_mask(uint8_t mask[32], unsigned n, unsigned vector)
{
	for (unsigned i = 0; i < 32; i += n)
		memset(mask + i, i < vector && selected(mask, i + n) ? 0xff : 0, n);
}

static int x_vgather(struct cpu *cpu, const struct uop *u)
{
	unsigned n = (unsigned)u->imm, elements = u->src;
	uint8_t mask[32], v[32], index[32];
	int status = EXEC_NEXT;

	AVX_CHECK(cpu);
	ymm_get(cpu, operand_v(u), mask);
	ymm_get(cpu, operand_reg(u), v);
	ymm_get(cpu, operand_rm(u), index);
	gather_mask(mask, n, operand_is4(u));
	for (unsigned i = 0; i < elements && status == EXEC_NEXT; i++) {
		int64_t at = (int64_t)((uint64_t)gather_index(index, i, u->opsize) << u->scale);
		uint64_t lin;

		if (!selected(mask, i * n + n))
			continue;
		if (element_address(cpu, u, at, n, ACCESS_READ, &lin) ||
		    mem_read_slow(cpu, lin, v + i * n, n, unchecked_mode(cpu))) {
			status = EXEC_STOP;
		} else {
			memset(mask + i * n, 0, n);
			memset(v + 16, 0, operand_is4(u) == 16 ? 16 : 0); /* VEX.128 */
		}
	}
	if (status == EXEC_NEXT) {
		memset(v + elements * n, 0, 32 - elements * n);
		memset(mask, 0, sizeof(mask));
	} else if (cpu->stop.kind == STOP_BUS) {
		return status; /* it is begun again when the device has answered */
	}
	ymm_set(cpu, operand_v(u), mask);
	ymm_set(cpu, operand_reg(u), v);
	return status;
}

/* ---- lowering ---- */

static bool is_vector(const ZydisDecodedOperand *o)
{
	return o && o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       ((o->reg.value >= ZYDIS_REGISTER_XMM0 && o->reg.value <= ZYDIS_REGISTER_XMM15) ||
		(o->reg.value >= ZYDIS_REGISTER_YMM0 && o->reg.value <= ZYDIS_REGISTER_YMM15));
}

static uint32_t register_number(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_XMM0 && r <= ZYDIS_REGISTER_XMM15)
		return (uint32_t)(r - ZYDIS_REGISTER_XMM0);
	if (r >= ZYDIS_REGISTER_YMM0 && r <= ZYDIS_REGISTER_YMM15)
		return (uint32_t)(r - ZYDIS_REGISTER_YMM0);
	return IS_GPR | zreg_off(r) / 8u;
}

static uint32_t operand_place(const ZydisDecodedOperand *o)
{
	return o && o->type == ZYDIS_OPERAND_TYPE_REGISTER ? register_number(o->reg.value) : NO_REG;
}

/* Visible operands by where the encoding has them. */
struct places { const ZydisDecodedOperand *reg, *v, *rm, *is4; };

static struct places find_operands(const struct insn *in)
{
	struct places p = {0};

	for (unsigned i = 0; i < in->z.operand_count_visible; i++) {
		const ZydisDecodedOperand *o = &in->op[i];

		switch (o->encoding) {
		case ZYDIS_OPERAND_ENCODING_MODRM_REG: p.reg = o; break;
		case ZYDIS_OPERAND_ENCODING_NDSNDD: p.v = o; break;
		case ZYDIS_OPERAND_ENCODING_MODRM_RM: p.rm = o; break;
		case ZYDIS_OPERAND_ENCODING_IS4: p.is4 = o; break;
		default: break;
		}
	}
	return p;
}

static bool written(const ZydisDecodedOperand *o) { return o && (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE); }

static enum stub_operand operand_kind(const ZydisDecodedOperand *o)
{
	if (!o)
		return STUB_NONE;
	return o->type == ZYDIS_OPERAND_TYPE_MEMORY ? STUB_MEM : is_vector(o) ? STUB_XMM : STUB_GPR;
}

static bool raises_fp(const struct insn *in)
{
	switch (in->z.meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_AVX2:
	case ZYDIS_EXCEPTION_CLASS_AVX3:
	case ZYDIS_EXCEPTION_CLASS_AVX11: return true;
	default: return false;
	}
}

static bool is_string(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_VPCMPESTRI || m == ZYDIS_MNEMONIC_VPCMPESTRM || m == ZYDIS_MNEMONIC_VPCMPISTRI ||
	       m == ZYDIS_MNEMONIC_VPCMPISTRM;
}

static bool changes_flags(const struct insn *in)
{
	const ZydisAccessedFlags *f = in->z.cpu_flags;

	return f && ((f->modified | f->set_0 | f->set_1) & 0x8d5);
}

static bool aligned(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_VMOVAPS: case ZYDIS_MNEMONIC_VMOVAPD: case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VMOVNTPS: case ZYDIS_MNEMONIC_VMOVNTPD: case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQA:
		return true;
	default: return false;
	}
}

/* Where W is the size of a general register or of what stands for it, it means nothing outside 64-bit mode. */
static bool effective_w(const struct insn *in, const struct vex_desc *d)
{
	if (!in->z.raw.vex.W || in->mode_bits == 64)
		return in->z.raw.vex.W;
	if (d->map == 1)
		return !(d->opcode == 0x2a || d->opcode == 0x2c || d->opcode == 0x2d || d->opcode == 0x6e ||
			 d->opcode == 0x7e);
	return !(d->map == 3 && (d->opcode == 0x16 || d->opcode == 0x22 || (d->opcode & 0xfc) == 0x60));
}

static void describe(const struct insn *in, const struct places *p, struct vex_desc *d)
{
	const ZydisDecodedInstruction *z = &in->z;

	*d = (struct vex_desc){.map = (uint8_t)z->opcode_map, .opcode = z->opcode, .pp = z->raw.vex.pp,
			       .l = z->raw.vex.L, .v = p->v, .is4 = p->is4};
	d->reg = (uint8_t)operand_kind(p->reg);
	d->rm = (uint8_t)operand_kind(p->rm);
	d->w = effective_w(in, d);
	if (!p->reg)
		d->ext = z->raw.modrm.reg;
	if (z->raw.imm[0].size && !p->is4) {
		d->has_imm = true;
		d->imm = (uint8_t)z->raw.imm[0].value.u;
	}
	d->flags = (uint8_t)((written(p->reg) ? STUB_WREG : 0) | (written(p->v) ? STUB_WV : 0) |
			     (written(p->rm) ? STUB_WRM : 0) | (raises_fp(in) ? STUB_FP : 0) |
			     (changes_flags(in) ? STUB_FLAGS : 0) | (is_string(z->mnemonic) ? STUB_STRING : 0));
}

static void lower_stub(struct insn *in, struct uop *u, const struct places *p)
{
	struct vex_desc d;

	describe(in, p, &d);
	u->ptr = (void *)(uintptr_t)stub_vex(in->cpu->stubs, &d);
	u->exec = u->ptr ? x_avx : exec_ud;
	u->imm = in->z.mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH ? VCVTPS2PH : in->z.opcode;
	u->opsize = in->z.raw.vex.L ? 32 : 16;
	u->dst = (uint8_t)((d.flags & STUB_FLAGS ? AF_FLAGS : 0) | (d.flags & STUB_FP ? AF_FP : 0) |
			   (d.flags & STUB_WREG ? AF_WREG : 0) | (d.flags & STUB_WV ? AF_WV : 0) |
			   (d.flags & STUB_WRM ? AF_WRM : 0) | (d.flags & STUB_STRING ? AF_STRING : 0) |
			   (aligned(in->z.mnemonic) ? AF_ALIGN : 0) |
			   (in->z.meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX11 ? AF_NO_AC : 0));
}

static void lower_maskmov(struct insn *in, struct uop *u)
{
	bool wide = in->z.mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD || in->z.mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;

	u->imm = wide ? 8 : 4;
	u->src = in->z.raw.vex.L ? 32 : 16;
	u->exec = op_is_mem(in, 0) ? x_vmaskmov_store : x_vmaskmov_load;
}

/* The index register is where the memory operand has it. */
static void lower_gather(struct insn *in, struct uop *u, const struct places *p)
{
	bool wide = in->z.raw.vex.W, wide_index = in->z.opcode & 1;
	unsigned bytes = in->z.raw.vex.L ? 32 : 16, element = wide ? 8 : 4;

	u->opsize = wide_index ? 8 : 4;
	u->imm = element;
	u->src = (uint8_t)(bytes / (wide || wide_index ? 8 : 4));
	u->aux = (u->aux & 0xffffu) | register_number(p->rm->mem.index) << 16 | bytes << 24;
	u->index = REG_OFF(REG_ZERO);
	u->exec = x_vgather;
}

static bool is_gather(const struct insn *in) { return in->z.meta.isa_set == ZYDIS_ISA_SET_AVX2GATHER; }

/* Instructions without a stub. False if this one has none of its own. */
static bool lower_direct(struct insn *in, struct uop *u, const struct places *p)
{
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_VMOVUPS: case ZYDIS_MNEMONIC_VMOVUPD: case ZYDIS_MNEMONIC_VMOVDQU:
	case ZYDIS_MNEMONIC_VMOVAPS: case ZYDIS_MNEMONIC_VMOVAPD: case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VLDDQU: case ZYDIS_MNEMONIC_VMOVNTDQA:
	case ZYDIS_MNEMONIC_VMOVNTPS: case ZYDIS_MNEMONIC_VMOVNTPD: case ZYDIS_MNEMONIC_VMOVNTDQ:
		if (p->rm->type != ZYDIS_OPERAND_TYPE_MEMORY)
			return false;
		u->dst = aligned(in->z.mnemonic) ? AF_ALIGN : 0;
		u->exec = written(p->rm) ? x_vmov_store : x_vmov_load;
		return true;
	case ZYDIS_MNEMONIC_VZEROALL:
	case ZYDIS_MNEMONIC_VZEROUPPER:
		u->imm = in->z.mnemonic == ZYDIS_MNEMONIC_VZEROALL;
		u->exec = x_vzero;
		return true;
	case ZYDIS_MNEMONIC_VLDMXCSR: u->exec = x_vldmxcsr; return true;
	case ZYDIS_MNEMONIC_VSTMXCSR: u->exec = x_vstmxcsr; return true;
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
		for (unsigned i = 0; i < in->z.operand_count; i++)
			if (op_is_mem(in, i))
				u->src = (uint8_t)(in->op[i].mem.segment - ZYDIS_REGISTER_ES);
		u->imm = 16;
		u->exec = x_vmaskmovdqu;
		return true;
	case ZYDIS_MNEMONIC_VMASKMOVPS: case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD: case ZYDIS_MNEMONIC_VPMASKMOVQ: lower_maskmov(in, u); return true;
	default: break;
	}
	if (!is_gather(in))
		return false;
	lower_gather(in, u, p);
	return true;
}

static bool find_feature(const struct insn *in, enum cpu_feature *f)
{
	switch (in->z.meta.isa_set) {
	case ZYDIS_ISA_SET_AVX: *f = CPUF_AVX; return true;
	case ZYDIS_ISA_SET_AVX2:
	case ZYDIS_ISA_SET_AVX2GATHER: *f = CPUF_AVX2; return true;
	case ZYDIS_ISA_SET_FMA: *f = CPUF_FMA; return true;
	case ZYDIS_ISA_SET_F16C: *f = CPUF_F16C; return true;
	default: return false;
	}
}

bool lower_avx(struct insn *in, struct uop *u)
{
	struct places p = find_operands(in);
	enum cpu_feature feature;

	if (!find_feature(in, &feature))
		return false;
	u->exec = exec_ud;
	if (!cpu_has(in->cpu, feature))
		return true;
	u->aux = operand_place(p.reg) | operand_place(p.v) << 8 | operand_place(p.rm) << 16 | operand_place(p.is4) << 24;
	u->src = p.rm && p.rm->type == ZYDIS_OPERAND_TYPE_MEMORY ? (uint8_t)(p.rm->size / 8) : 0;
	if (!lower_direct(in, u, &p) && p.rm)
		lower_stub(in, u, &p);
	return true;
}
