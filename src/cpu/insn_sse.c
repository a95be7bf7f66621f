/*
 * MMX and SSE to SSE4.2, and which of the vector group an instruction belongs to.
 *
 * Moves, logic and a few other frequent instructions are written out; everything
 * else runs on the host through a stub (stub.h). Memory operands are read and
 * written by the processor's own accesses, so their faults are precise.
 *
 * SIMD floating-point exceptions: with all of them masked (nearly always) a stub
 * runs under the guest's MXCSR. Otherwise it runs with all masked on a copy of
 * the destination, and the flags it raised say whether the guest sees #XM.
 * Left out: with underflow or overflow unmasked, the precision flag that goes
 * with the exception is that of the masked result.
 *
 * Sources: SDM volume 1, "Programming with SSE", "SIMD Floating-Point Exceptions";
 * volume 2, "Exceptions Specification"; volume 3, "MMX State", table
 * "Action Taken for Combinations of OSFXSR, ... EM, ... TS".
 */
#include "cpu/flags.h"
#include "cpu/stub.h"
#include "cpu/vector.h"

#include <emmintrin.h>

/* ---- availability ---- */

static ALWAYS_INLINE bool sse_off(const struct cpu *c)
{
	return (c->cr0 & (CR0_EM | CR0_TS)) || !(c->cr4 & CR4_OSFXSR);
}

static NOINLINE int raise_sse_off(struct cpu *cpu)
{
	return (cpu->cr0 & CR0_EM) || !(cpu->cr4 & CR4_OSFXSR) ? raise_ud(cpu) : raise_nm(cpu);
}

/* Returns EXEC_STOP from the calling function if SSE instructions cannot execute. */
#define SSE_CHECK(cpu)                                                                                          \
	do {                                                                                                    \
		if (unlikely(sse_off(cpu)))                                                                     \
			return raise_sse_off(cpu);                                                              \
	} while (0)

/* MMX registers are x87 registers: an x87 exception that waits comes first. */
static int mmx_check(struct cpu *cpu, bool uses_xmm)
{
	if ((cpu->cr0 & CR0_EM) || (uses_xmm && !(cpu->cr4 & CR4_OSFXSR)))
		return raise_ud(cpu);
	if (cpu->cr0 & CR0_TS)
		return raise_nm(cpu);
	if (unlikely(fpu_pending(&cpu->fpu)) && (cpu->cr0 & CR0_NE))
		return raise_exc(cpu, EXC_MF);
	return EXEC_NEXT;
}

/* ---- operands ---- */

static ALWAYS_INLINE uint8_t *xmm(struct cpu *c, unsigned n) { return c->fpu.fx + FX_XMM(n); }
static ALWAYS_INLINE __m128i xmm_get(const struct cpu *c, unsigned n)
{
	return _mm_load_si128((const __m128i *)(const void *)(c->fpu.fx + FX_XMM(n)));
}
static ALWAYS_INLINE void xmm_set(struct cpu *c, unsigned n, __m128i v)
{
	_mm_store_si128((__m128i *)(void *)(c->fpu.fx + FX_XMM(n)), v);
}

static int load_operand(struct cpu *cpu, uint64_t lin, unsigned bytes, uint8_t *buf)
{
	switch (bytes) {
	case 1: return ld8(cpu, lin, buf);
	case 2: return ld16(cpu, lin, (uint16_t *)(void *)buf);
	case 4: return ld32(cpu, lin, (uint32_t *)(void *)buf);
	case 8: return ld64(cpu, lin, (uint64_t *)(void *)buf);
	default: return ld128(cpu, lin, (struct u128 *)(void *)buf);
	}
}

static int store_operand(struct cpu *cpu, uint64_t lin, unsigned bytes, const uint8_t *buf)
{
	switch (bytes) {
	case 1: return st8(cpu, lin, buf[0]);
	case 2: return st16(cpu, lin, get_u16(buf));
	case 4: return st32(cpu, lin, get_u32(buf));
	case 8: return st64(cpu, lin, get_u64(buf));
	default: return st128(cpu, lin, (struct u128){get_u64(buf), get_u64(buf + 8)});
	}
}

/*
 * Uops of stubs: ptr is the stub, aux and imm say where the reg and rm operands
 * are (byte offsets into struct cpu, or the number of an MMX register), src is the
 * size of a memory operand in bytes, dst is VF_*.
 */
#define VF_ALIGN   0x01u /* the memory operand must be aligned on 16 bytes */
#define VF_FLAGS   0x02u /* the stub returns arithmetic flags */
#define VF_FP      0x04u /* may raise SIMD floating-point exceptions */
#define VF_WREG    0x08u /* writes the reg operand */
#define VF_REG16   0x10u /* the reg operand is an XMM register */
#define VF_REG_MM  0x20u
#define VF_RM_MM   0x40u
#define VF_STORE   0x80u /* the rm operand, if memory, is written; if a register, too */

static ALWAYS_INLINE void *stub_reg(struct cpu *c, const struct uop *u) { return (uint8_t *)c + u->aux; }
static ALWAYS_INLINE void *stub_rm(struct cpu *c, const struct uop *u) { return (uint8_t *)c + u->imm; }

static int operand_address(struct cpu *cpu, const struct uop *u, enum access_kind kind, uint64_t *lin)
{
	if (ea(cpu, u, u->src, kind, lin))
		return EXEC_STOP;
	if (unlikely((u->dst & VF_ALIGN) && (*lin & 15)))
		return raise_gp0(cpu);
	return 0;
}

static ALWAYS_INLINE void run_plain(struct cpu *cpu, const struct uop *u, void *reg, void *rm)
{
	uint32_t cc = ((vec_stub_fn)(uintptr_t)u->ptr)(reg, rm, cpu->fpu.fx, cpu->gpr);

	if (u->dst & VF_FLAGS)
		cpu->cc = (uint16_t)cc;
}

/* ---- SIMD floating-point exceptions ---- */

/* Exceptions that are found before there is a result: no flags of results are set beside them. */
#define MXCSR_PRE 0x07u

/* Flags that the instruction raises under @control with everything masked; results go to @out. */
static uint32_t flags_raised(struct cpu *cpu, const struct uop *u, uint32_t control, void *out, void *rm, uint32_t *cc)
{
	put_u32(cpu->fpu.fx + FX_MXCSR, (control | MXCSR_MASKS) & ~MXCSR_FLAGS);
	*cc = ((vec_stub_fn)(uintptr_t)u->ptr)(out, rm, cpu->fpu.fx, cpu->gpr);
	return get_u32(cpu->fpu.fx + FX_MXCSR) & MXCSR_FLAGS;
}

/*
 * With underflow unmasked a tiny result is an exception even if it is exact, which
 * the masked response does not tell; flushing to zero does.
 */
static uint32_t flags_raised_tiny(struct cpu *cpu, const struct uop *u, uint32_t control, const void *reg, void *rm)
{
	_Alignas(16) uint8_t scratch[16];
	uint32_t cc;

	memcpy(scratch, reg, u->dst & VF_REG16 ? 16 : 8);
	return flags_raised(cpu, u, control | MXCSR_FZ, scratch, rm, &cc) & BIT64(4);
}

static NOINLINE int run_fp_unmasked(struct cpu *cpu, const struct uop *u, void *reg, void *rm)
{
	unsigned bytes = u->dst & VF_REG16 ? 16 : 8;
	uint32_t mxcsr = get_u32(cpu->fpu.fx + FX_MXCSR) & MXCSR_VALID, control = mxcsr;
	uint32_t enabled = ~mxcsr >> 7 & MXCSR_FLAGS;
	_Alignas(16) uint8_t out[16];
	uint32_t raised, cc;

	memcpy(out, reg, bytes);
	if (enabled & BIT64(4))
		control &= ~MXCSR_FZ; /* it only works with underflow masked */
	raised = flags_raised(cpu, u, control, out, rm, &cc);
	if (enabled & BIT64(4))
		raised |= flags_raised_tiny(cpu, u, control, reg, rm);
	if (raised & enabled & MXCSR_PRE)
		raised &= MXCSR_PRE;
	put_u32(cpu->fpu.fx + FX_MXCSR, mxcsr | raised);
	if (raised & enabled)
		return raise_exc(cpu, cpu->cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD);
	if (u->dst & VF_WREG)
		memcpy(reg, out, bytes);
	if (u->dst & VF_FLAGS)
		cpu->cc = (uint16_t)cc;
	return EXEC_NEXT;
}

static ALWAYS_INLINE int run_fp(struct cpu *cpu, const struct uop *u, void *reg, void *rm)
{
	uint32_t mxcsr = get_u32(cpu->fpu.fx + FX_MXCSR);

	if (unlikely((mxcsr & (MXCSR_MASKS | ~MXCSR_VALID)) != MXCSR_MASKS))
		return run_fp_unmasked(cpu, u, reg, rm);
	run_plain(cpu, u, reg, rm);
	return EXEC_NEXT;
}

/* ---- stubs on XMM and general registers ---- */

static int x_vec_reg(struct cpu *cpu, const struct uop *u)
{
	SSE_CHECK(cpu);
	run_plain(cpu, u, stub_reg(cpu, u), stub_rm(cpu, u));
	return EXEC_NEXT;
}

static int x_vec_load(struct cpu *cpu, const struct uop *u)
{
	_Alignas(16) uint8_t buf[16];
	uint64_t lin;

	SSE_CHECK(cpu);
	if (operand_address(cpu, u, ACCESS_READ, &lin) || load_operand(cpu, lin, u->src, buf))
		return EXEC_STOP;
	run_plain(cpu, u, stub_reg(cpu, u), buf);
	return EXEC_NEXT;
}

static int x_vec_store(struct cpu *cpu, const struct uop *u)
{
	_Alignas(16) uint8_t buf[16];
	uint64_t lin;

	SSE_CHECK(cpu);
	if (operand_address(cpu, u, ACCESS_WRITE, &lin))
		return EXEC_STOP;
	run_plain(cpu, u, stub_reg(cpu, u), buf);
	return store_operand(cpu, lin, u->src, buf);
}

static int x_fp_reg(struct cpu *cpu, const struct uop *u)
{
	SSE_CHECK(cpu);
	return run_fp(cpu, u, stub_reg(cpu, u), stub_rm(cpu, u));
}

static int x_fp_load(struct cpu *cpu, const struct uop *u)
{
	_Alignas(16) uint8_t buf[16];
	uint64_t lin;

	SSE_CHECK(cpu);
	if (operand_address(cpu, u, ACCESS_READ, &lin) || load_operand(cpu, lin, u->src, buf))
		return EXEC_STOP;
	return run_fp(cpu, u, stub_reg(cpu, u), buf);
}

/* CRC32 uses no vector register and so no CR0 or CR4 bit. */
static int x_crc32_reg(struct cpu *cpu, const struct uop *u)
{
	run_plain(cpu, u, stub_reg(cpu, u), stub_rm(cpu, u));
	return EXEC_NEXT;
}

static int x_crc32_load(struct cpu *cpu, const struct uop *u)
{
	_Alignas(16) uint8_t buf[16];
	uint64_t lin;

	if (operand_address(cpu, u, ACCESS_READ, &lin) || load_operand(cpu, lin, u->src, buf))
		return EXEC_STOP;
	run_plain(cpu, u, stub_reg(cpu, u), buf);
	return EXEC_NEXT;
}

/* ---- stubs with an MMX register ---- */

static uint8_t *mmx_register(struct cpu *cpu, unsigned n)
{
	return cpu->fpu.fx + FX_ST((n - fpu_top(&cpu->fpu)) & 7);
}

/*
 * What every MMX instruction but EMMS does to the x87 state (SDM "Effect of MMX,
 * x87 FPU, FXSAVE, and FXRSTOR Instructions on the x87 FPU Tag Word"). A load that
 * faults has not done it; a conversion or MASKMOVQ that faults has, and a store that
 * faults has changed TOP, but not the tags.
 */
static void mmx_enter(struct cpu *cpu)
{
	fpu_set_top(&cpu->fpu, 0);
	cpu->fpu.fx[FX_FTW] = 0xff;
}

static void mmx_written(uint8_t *reg) { put_u16(reg + 8, 0xffff); }

static int x_mmx(struct cpu *cpu, const struct uop *u)
{
	bool mem = u->flags & UOP_HAS_MEM, store = mem && (u->dst & VF_STORE);
	_Alignas(16) uint8_t buf[16];
	void *reg, *rm;
	uint64_t lin = 0;

	if (mmx_check(cpu, u->opsize))
		return EXEC_STOP;
	if (store)
		fpu_set_top(&cpu->fpu, 0);
	reg = u->dst & VF_REG_MM ? mmx_register(cpu, u->aux) : stub_reg(cpu, u);
	rm = u->dst & VF_RM_MM ? mmx_register(cpu, (unsigned)u->imm) : stub_rm(cpu, u);
	if (mem) {
		if (operand_address(cpu, u, store ? ACCESS_WRITE : ACCESS_READ, &lin))
			return EXEC_STOP;
		if (!store && load_operand(cpu, lin, u->src, buf))
			return EXEC_STOP;
		rm = buf;
	}
	if (!(u->dst & VF_FP)) {
		run_plain(cpu, u, reg, rm);
	} else if (run_fp(cpu, u, reg, rm)) {
		mmx_enter(cpu);
		return EXEC_STOP;
	}
	if (store && store_operand(cpu, lin, u->src, buf))
		return EXEC_STOP;
	if ((u->dst & VF_REG_MM) && (u->dst & VF_WREG))
		mmx_written(reg);
	if ((u->dst & VF_RM_MM) && (u->dst & VF_STORE))
		mmx_written(rm);
	mmx_enter(cpu);
	return EXEC_NEXT;
}

static int x_emms(struct cpu *cpu, const struct uop *u)
{
	(void)u;
	if (mmx_check(cpu, false))
		return EXEC_STOP;
	fpu_set_top(&cpu->fpu, 0);
	cpu->fpu.fx[FX_FTW] = 0;
	return EXEC_NEXT;
}

/* ---- MASKMOVQ, MASKMOVDQU ---- */

int vec_store_selected(struct cpu *cpu, const struct uop *u, const uint8_t *data, const uint8_t *mask)
{
	uint64_t off = cpu->gpr[RDI], mask_off = u->addrsize == 8 ? ~0ull : u->addrsize == 4 ? 0xffffffff : 0xffff;
	unsigned n = (unsigned)u->imm;
	uint64_t lin;

	/* Hardware looks at the high half first. */
	for (unsigned i = n; i; i -= 8)
		if (seg_lin(cpu, u->src, (off + i - 8) & mask_off, 8, ACCESS_WRITE, &lin) ||
		    mem_probe_write(cpu, lin, 8, (enum access_mode)cpu->mode))
			return EXEC_STOP;
	for (unsigned i = 0; i < n; i++)
		if ((mask[i] & 0x80) &&
		    (seg_lin(cpu, u->src, (off + i) & mask_off, 1, ACCESS_WRITE, &lin) || st8(cpu, lin, data[i])))
			return EXEC_STOP;
	return EXEC_NEXT;
}

static int x_maskmovdqu(struct cpu *cpu, const struct uop *u)
{
	SSE_CHECK(cpu);
	return vec_store_selected(cpu, u, xmm(cpu, u->dst), xmm(cpu, u->aux));
}

static int x_maskmovq(struct cpu *cpu, const struct uop *u)
{
	if (mmx_check(cpu, false))
		return EXEC_STOP;
	mmx_enter(cpu);
	return vec_store_selected(cpu, u, mmx_register(cpu, u->dst), mmx_register(cpu, u->aux));
}

/* ---- MXCSR ---- */

static int x_ldmxcsr(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin;
	uint32_t v;

	SSE_CHECK(cpu);
	if (ea(cpu, u, 4, ACCESS_READ, &lin) || ld32(cpu, lin, &v))
		return EXEC_STOP;
	if (v & ~MXCSR_VALID)
		return raise_gp0(cpu);
	put_u32(cpu->fpu.fx + FX_MXCSR, v);
	return EXEC_NEXT;
}

static int x_stmxcsr(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin;

	SSE_CHECK(cpu);
	if (ea(cpu, u, 4, ACCESS_WRITE, &lin))
		return EXEC_STOP;
	return st32(cpu, lin, get_u32(cpu->fpu.fx + FX_MXCSR));
}

/* ---- moves: dst is the XMM register written (or stored), src the other register ---- */

static int x_mov_xx(struct cpu *cpu, const struct uop *u)
{
	SSE_CHECK(cpu);
	xmm_set(cpu, u->dst, xmm_get(cpu, u->src));
	return EXEC_NEXT;
}

static ALWAYS_INLINE int load_xmm(struct cpu *cpu, const struct uop *u, bool aligned)
{
	struct u128 v;
	uint64_t lin;

	SSE_CHECK(cpu);
	if (ea(cpu, u, 16, ACCESS_READ, &lin))
		return EXEC_STOP;
	if (aligned && unlikely(lin & 15))
		return raise_gp0(cpu);
	if (ld128(cpu, lin, &v))
		return EXEC_STOP;
	memcpy(xmm(cpu, u->dst), &v, 16);
	return EXEC_NEXT;
}
static int x_load_u(struct cpu *cpu, const struct uop *u) { return load_xmm(cpu, u, false); }
static int x_load_a(struct cpu *cpu, const struct uop *u) { return load_xmm(cpu, u, true); }

static ALWAYS_INLINE int store_xmm(struct cpu *cpu, const struct uop *u, bool aligned)
{
	struct u128 v;
	uint64_t lin;

	SSE_CHECK(cpu);
	if (ea(cpu, u, 16, ACCESS_WRITE, &lin))
		return EXEC_STOP;
	if (aligned && unlikely(lin & 15))
		return raise_gp0(cpu);
	memcpy(&v, xmm(cpu, u->dst), 16);
	return st128(cpu, lin, v);
}
static int x_store_u(struct cpu *cpu, const struct uop *u) { return store_xmm(cpu, u, false); }
static int x_store_a(struct cpu *cpu, const struct uop *u) { return store_xmm(cpu, u, true); }

/* MOVQ, MOVSD; MOVD, MOVSS from memory: the rest of the register becomes zero. */
static int x_load_64(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin, v;

	SSE_CHECK(cpu);
	if (ea(cpu, u, 8, ACCESS_READ, &lin) || ld64(cpu, lin, &v))
		return EXEC_STOP;
	xmm_set(cpu, u->dst, _mm_set_epi64x(0, (int64_t)v));
	return EXEC_NEXT;
}

static int x_load_32(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin;
	uint32_t v;

	SSE_CHECK(cpu);
	if (ea(cpu, u, 4, ACCESS_READ, &lin) || ld32(cpu, lin, &v))
		return EXEC_STOP;
	xmm_set(cpu, u->dst, _mm_set_epi64x(0, v));
	return EXEC_NEXT;
}

/* MOVQ, MOVSD, MOVLPS; MOVHPS; MOVD, MOVSS to memory: @u->aux is the offset in the register. */
static int x_store_64(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin;

	SSE_CHECK(cpu);
	if (ea(cpu, u, 8, ACCESS_WRITE, &lin))
		return EXEC_STOP;
	return st64(cpu, lin, get_u64(xmm(cpu, u->dst) + u->aux));
}

static int x_store_32(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin;

	SSE_CHECK(cpu);
	if (ea(cpu, u, 4, ACCESS_WRITE, &lin))
		return EXEC_STOP;
	return st32(cpu, lin, get_u32(xmm(cpu, u->dst)));
}

/* MOVLPS, MOVHPS from memory: half of the register. */
static int x_load_half(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin, v;

	SSE_CHECK(cpu);
	if (ea(cpu, u, 8, ACCESS_READ, &lin) || ld64(cpu, lin, &v))
		return EXEC_STOP;
	put_u64(xmm(cpu, u->dst) + u->aux, v);
	return EXEC_NEXT;
}

static int x_movq_xx(struct cpu *cpu, const struct uop *u)
{
	SSE_CHECK(cpu);
	xmm_set(cpu, u->dst, _mm_move_epi64(xmm_get(cpu, u->src)));
	return EXEC_NEXT;
}

static int x_movd_xr(struct cpu *cpu, const struct uop *u)
{
	SSE_CHECK(cpu);
	xmm_set(cpu, u->dst, _mm_set_epi64x(0, r32(cpu, u->src)));
	return EXEC_NEXT;
}

static int x_movq_xr(struct cpu *cpu, const struct uop *u)
{
	SSE_CHECK(cpu);
	xmm_set(cpu, u->dst, _mm_set_epi64x(0, (int64_t)r64(cpu, u->src)));
	return EXEC_NEXT;
}

static int x_movd_rx(struct cpu *cpu, const struct uop *u)
{
	SSE_CHECK(cpu);
	w32(cpu, u->src, get_u32(xmm(cpu, u->dst)));
	return EXEC_NEXT;
}

static int x_movq_rx(struct cpu *cpu, const struct uop *u)
{
	SSE_CHECK(cpu);
	w64(cpu, u->src, get_u64(xmm(cpu, u->dst)));
	return EXEC_NEXT;
}

/* MOVSS, MOVSD between registers: the low element only; u->aux is its size in bytes. */
static int x_mov_low(struct cpu *cpu, const struct uop *u)
{
	SSE_CHECK(cpu);
	memmove(xmm(cpu, u->dst), xmm(cpu, u->src), u->aux == 4 ? 4 : 8);
	return EXEC_NEXT;
}

static int x_movnti32(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin;

	if (ea(cpu, u, 4, ACCESS_WRITE, &lin))
		return EXEC_STOP;
	return st32(cpu, lin, r32(cpu, u->src));
}

static int x_movnti64(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin;

	if (ea(cpu, u, 8, ACCESS_WRITE, &lin))
		return EXEC_STOP;
	return st64(cpu, lin, r64(cpu, u->src));
}

static int x_nothing(struct cpu *cpu, const struct uop *u)
{
	(void)cpu;
	(void)u;
	return EXEC_NEXT;
}

/* ---- logic and what string functions live on ---- */

#define DEFINE_XMM_OP(name, expr)                                                       \
	static int x_##name##_xx(struct cpu *cpu, const struct uop *u)                  \
	{                                                                               \
		__m128i a, b;                                                           \
                                                                                        \
		SSE_CHECK(cpu);                                                         \
		a = xmm_get(cpu, u->dst);                                               \
		b = xmm_get(cpu, u->src);                                               \
		xmm_set(cpu, u->dst, expr);                                             \
		return EXEC_NEXT;                                                       \
	}                                                                               \
	static int x_##name##_xm(struct cpu *cpu, const struct uop *u)                  \
	{                                                                               \
		struct u128 v;                                                          \
		uint64_t lin;                                                           \
		__m128i a, b;                                                           \
                                                                                        \
		SSE_CHECK(cpu);                                                         \
		if (ea(cpu, u, 16, ACCESS_READ, &lin))                                  \
			return EXEC_STOP;                                               \
		if (unlikely(lin & 15))                                                 \
			return raise_gp0(cpu);                                          \
		if (ld128(cpu, lin, &v))                                                \
			return EXEC_STOP;                                               \
		a = xmm_get(cpu, u->dst);                                               \
		b = _mm_set_epi64x((int64_t)v.hi, (int64_t)v.lo);                       \
		xmm_set(cpu, u->dst, expr);                                             \
		return EXEC_NEXT;                                                       \
	}

DEFINE_XMM_OP(pxor, _mm_xor_si128(a, b))
DEFINE_XMM_OP(por, _mm_or_si128(a, b))
DEFINE_XMM_OP(pand, _mm_and_si128(a, b))
DEFINE_XMM_OP(pandn, _mm_andnot_si128(a, b))
DEFINE_XMM_OP(pcmpeqb, _mm_cmpeq_epi8(a, b))
DEFINE_XMM_OP(pminub, _mm_min_epu8(a, b))
DEFINE_XMM_OP(paddq, _mm_add_epi64(a, b))
DEFINE_XMM_OP(paddd, _mm_add_epi32(a, b))

static int x_pmovmskb(struct cpu *cpu, const struct uop *u)
{
	SSE_CHECK(cpu);
	w32(cpu, u->dst, (uint32_t)_mm_movemask_epi8(xmm_get(cpu, u->src)));
	return EXEC_NEXT;
}

/* ---- lowering: registers ---- */

static bool is_xmm(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->reg.value >= ZYDIS_REGISTER_XMM0 &&
	       o->reg.value <= ZYDIS_REGISTER_XMM15;
}

static bool is_mm(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->reg.value >= ZYDIS_REGISTER_MM0 &&
	       o->reg.value <= ZYDIS_REGISTER_MM7;
}

/* Number of an XMM or MMX register; byte offset of a general one. */
static uint8_t vreg(const ZydisDecodedOperand *o)
{
	return (uint8_t)(is_xmm(o)  ? o->reg.value - ZYDIS_REGISTER_XMM0
			 : is_mm(o) ? o->reg.value - ZYDIS_REGISTER_MM0
				    : zreg_off(o->reg.value));
}

static enum stub_operand operand_kind(const ZydisDecodedOperand *o)
{
	if (!o)
		return STUB_NONE;
	if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
		return STUB_MEM;
	return is_xmm(o) ? STUB_XMM : is_mm(o) ? STUB_MM : STUB_GPR;
}

/* ---- lowering: instructions that are written out ---- */

/* Register, memory and store forms of a full-register move. */
static void lower_move128(struct insn *in, struct uop *u, bool aligned)
{
	u->dst = vreg(&in->op[op_is_mem(in, 0) ? 1 : 0]);
	if (op_is_mem(in, 0)) {
		u->exec = aligned ? x_store_a : x_store_u;
	} else if (op_is_mem(in, 1)) {
		u->exec = aligned ? x_load_a : x_load_u;
	} else {
		u->src = vreg(&in->op[1]);
		u->exec = x_mov_xx;
	}
}

/* MOVD and MOVQ with an XMM register; false if it is an MMX form. */
static bool lower_movd_movq(struct insn *in, struct uop *u)
{
	const ZydisDecodedOperand *a = &in->op[0], *b = &in->op[1];
	bool wide = in->z.mnemonic == ZYDIS_MNEMONIC_MOVQ;

	if (is_mm(a) || is_mm(b))
		return false;
	if (is_xmm(a)) {
		u->dst = vreg(a);
		if (b->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			u->exec = wide ? x_load_64 : x_load_32;
			return true;
		}
		u->src = vreg(b);
		u->exec = is_xmm(b) ? x_movq_xx : wide ? x_movq_xr : x_movd_xr;
		return true;
	}
	u->dst = vreg(b);
	if (a->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		u->exec = wide ? x_store_64 : x_store_32;
		return true;
	}
	u->src = vreg(a);
	u->exec = wide ? x_movq_rx : x_movd_rx;
	return true;
}

static void lower_mov_scalar(struct insn *in, struct uop *u)
{
	bool wide = in->z.mnemonic == ZYDIS_MNEMONIC_MOVSD;

	u->dst = vreg(&in->op[op_is_mem(in, 0) ? 1 : 0]);
	if (op_is_mem(in, 0)) {
		u->exec = wide ? x_store_64 : x_store_32;
	} else if (op_is_mem(in, 1)) {
		u->exec = wide ? x_load_64 : x_load_32;
	} else {
		u->src = vreg(&in->op[1]);
		u->aux = wide ? 8 : 4;
		u->exec = x_mov_low;
	}
}

static void lower_mov_half(struct insn *in, struct uop *u, unsigned offset)
{
	u->dst = vreg(&in->op[op_is_mem(in, 0) ? 1 : 0]);
	u->aux = offset;
	u->exec = op_is_mem(in, 0) ? x_store_64 : x_load_half;
}

static bool lower_xmm_op(struct insn *in, struct uop *u, exec_fn xx, exec_fn xm)
{
	if (!is_xmm(&in->op[0]))
		return false;
	u->dst = vreg(&in->op[0]);
	if (op_is_mem(in, 1)) {
		u->exec = xm;
	} else {
		u->src = vreg(&in->op[1]);
		u->exec = xx;
	}
	return true;
}

static void lower_maskmov(struct insn *in, struct uop *u)
{
	ZydisRegister seg = in->op[2].mem.segment;
	bool mm = is_mm(&in->op[0]);

	u->dst = vreg(&in->op[0]);
	u->aux = vreg(&in->op[1]);
	u->src = (uint8_t)(seg >= ZYDIS_REGISTER_ES && seg <= ZYDIS_REGISTER_GS ? seg - ZYDIS_REGISTER_ES : SEG_DS);
	u->imm = mm ? 8 : 16;
	u->exec = mm ? x_maskmovq : x_maskmovdqu;
}

/* Instructions without a stub. False if this one has none of its own. */
static bool lower_direct(struct insn *in, struct uop *u)
{
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
		lower_move128(in, u, false);
		return true;
	case ZYDIS_MNEMONIC_MOVAPS:
	case ZYDIS_MNEMONIC_MOVAPD:
	case ZYDIS_MNEMONIC_MOVDQA:
	case ZYDIS_MNEMONIC_MOVNTPS:
	case ZYDIS_MNEMONIC_MOVNTPD:
	case ZYDIS_MNEMONIC_MOVNTDQ:
	case ZYDIS_MNEMONIC_MOVNTDQA:
		lower_move128(in, u, true);
		return true;
	case ZYDIS_MNEMONIC_MOVD:
	case ZYDIS_MNEMONIC_MOVQ:
		return lower_movd_movq(in, u);
	case ZYDIS_MNEMONIC_MOVSS:
	case ZYDIS_MNEMONIC_MOVSD:
		lower_mov_scalar(in, u);
		return true;
	case ZYDIS_MNEMONIC_MOVLPS:
	case ZYDIS_MNEMONIC_MOVLPD:
		lower_mov_half(in, u, 0);
		return true;
	case ZYDIS_MNEMONIC_MOVHPS:
	case ZYDIS_MNEMONIC_MOVHPD:
		lower_mov_half(in, u, 8);
		return true;
	case ZYDIS_MNEMONIC_MOVNTI:
		u->src = vreg(&in->op[1]);
		u->exec = in->op[1].size == 64 ? x_movnti64 : x_movnti32;
		return true;
	case ZYDIS_MNEMONIC_PXOR:
	case ZYDIS_MNEMONIC_XORPS:
	case ZYDIS_MNEMONIC_XORPD: return lower_xmm_op(in, u, x_pxor_xx, x_pxor_xm);
	case ZYDIS_MNEMONIC_POR:
	case ZYDIS_MNEMONIC_ORPS:
	case ZYDIS_MNEMONIC_ORPD: return lower_xmm_op(in, u, x_por_xx, x_por_xm);
	case ZYDIS_MNEMONIC_PAND:
	case ZYDIS_MNEMONIC_ANDPS:
	case ZYDIS_MNEMONIC_ANDPD: return lower_xmm_op(in, u, x_pand_xx, x_pand_xm);
	case ZYDIS_MNEMONIC_PANDN:
	case ZYDIS_MNEMONIC_ANDNPS:
	case ZYDIS_MNEMONIC_ANDNPD: return lower_xmm_op(in, u, x_pandn_xx, x_pandn_xm);
	case ZYDIS_MNEMONIC_PCMPEQB: return lower_xmm_op(in, u, x_pcmpeqb_xx, x_pcmpeqb_xm);
	case ZYDIS_MNEMONIC_PMINUB: return lower_xmm_op(in, u, x_pminub_xx, x_pminub_xm);
	case ZYDIS_MNEMONIC_PADDQ: return lower_xmm_op(in, u, x_paddq_xx, x_paddq_xm);
	case ZYDIS_MNEMONIC_PADDD: return lower_xmm_op(in, u, x_paddd_xx, x_paddd_xm);
	case ZYDIS_MNEMONIC_PMOVMSKB:
		if (!is_xmm(&in->op[1]))
			return false;
		u->dst = vreg(&in->op[0]);
		u->src = vreg(&in->op[1]);
		u->exec = x_pmovmskb;
		return true;
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_MASKMOVDQU: lower_maskmov(in, u); return true;
	case ZYDIS_MNEMONIC_LDMXCSR: u->exec = x_ldmxcsr; return true;
	case ZYDIS_MNEMONIC_STMXCSR: u->exec = x_stmxcsr; return true;
	case ZYDIS_MNEMONIC_EMMS: u->exec = x_emms; return true;
	case ZYDIS_MNEMONIC_SFENCE:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2: u->exec = x_nothing; return true;
	default: return false;
	}
}

/* ---- lowering: stubs ---- */

/* Does the instruction read MXCSR and raise SIMD floating-point exceptions? */
static bool raises_fp(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_ADDPS: case ZYDIS_MNEMONIC_ADDPD: case ZYDIS_MNEMONIC_ADDSS: case ZYDIS_MNEMONIC_ADDSD:
	case ZYDIS_MNEMONIC_SUBPS: case ZYDIS_MNEMONIC_SUBPD: case ZYDIS_MNEMONIC_SUBSS: case ZYDIS_MNEMONIC_SUBSD:
	case ZYDIS_MNEMONIC_MULPS: case ZYDIS_MNEMONIC_MULPD: case ZYDIS_MNEMONIC_MULSS: case ZYDIS_MNEMONIC_MULSD:
	case ZYDIS_MNEMONIC_DIVPS: case ZYDIS_MNEMONIC_DIVPD: case ZYDIS_MNEMONIC_DIVSS: case ZYDIS_MNEMONIC_DIVSD:
	case ZYDIS_MNEMONIC_MINPS: case ZYDIS_MNEMONIC_MINPD: case ZYDIS_MNEMONIC_MINSS: case ZYDIS_MNEMONIC_MINSD:
	case ZYDIS_MNEMONIC_MAXPS: case ZYDIS_MNEMONIC_MAXPD: case ZYDIS_MNEMONIC_MAXSS: case ZYDIS_MNEMONIC_MAXSD:
	case ZYDIS_MNEMONIC_CMPPS: case ZYDIS_MNEMONIC_CMPPD: case ZYDIS_MNEMONIC_CMPSS: case ZYDIS_MNEMONIC_CMPSD:
	case ZYDIS_MNEMONIC_SQRTPS: case ZYDIS_MNEMONIC_SQRTPD: case ZYDIS_MNEMONIC_SQRTSS: case ZYDIS_MNEMONIC_SQRTSD:
	case ZYDIS_MNEMONIC_COMISS: case ZYDIS_MNEMONIC_COMISD:
	case ZYDIS_MNEMONIC_UCOMISS: case ZYDIS_MNEMONIC_UCOMISD:
	case ZYDIS_MNEMONIC_CVTPI2PS: case ZYDIS_MNEMONIC_CVTPS2PI: case ZYDIS_MNEMONIC_CVTTPS2PI:
	case ZYDIS_MNEMONIC_CVTPD2PI: case ZYDIS_MNEMONIC_CVTTPD2PI:
	case ZYDIS_MNEMONIC_CVTSI2SS: case ZYDIS_MNEMONIC_CVTSI2SD:
	case ZYDIS_MNEMONIC_CVTSS2SI: case ZYDIS_MNEMONIC_CVTSD2SI:
	case ZYDIS_MNEMONIC_CVTTSS2SI: case ZYDIS_MNEMONIC_CVTTSD2SI:
	case ZYDIS_MNEMONIC_CVTPS2PD: case ZYDIS_MNEMONIC_CVTPD2PS:
	case ZYDIS_MNEMONIC_CVTSS2SD: case ZYDIS_MNEMONIC_CVTSD2SS:
	case ZYDIS_MNEMONIC_CVTDQ2PS: case ZYDIS_MNEMONIC_CVTPS2DQ: case ZYDIS_MNEMONIC_CVTTPS2DQ:
	case ZYDIS_MNEMONIC_CVTPD2DQ: case ZYDIS_MNEMONIC_CVTTPD2DQ:
	case ZYDIS_MNEMONIC_ADDSUBPS: case ZYDIS_MNEMONIC_ADDSUBPD:
	case ZYDIS_MNEMONIC_HADDPS: case ZYDIS_MNEMONIC_HADDPD: case ZYDIS_MNEMONIC_HSUBPS: case ZYDIS_MNEMONIC_HSUBPD:
	case ZYDIS_MNEMONIC_DPPS: case ZYDIS_MNEMONIC_DPPD:
	case ZYDIS_MNEMONIC_ROUNDPS: case ZYDIS_MNEMONIC_ROUNDPD:
	case ZYDIS_MNEMONIC_ROUNDSS: case ZYDIS_MNEMONIC_ROUNDSD:
		return true;
	default: return false;
	}
}

static uint8_t effects(const struct insn *in)
{
	uint8_t f = raises_fp(in->z.mnemonic) ? STUB_FP : 0;

	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_COMISS: case ZYDIS_MNEMONIC_COMISD:
	case ZYDIS_MNEMONIC_UCOMISS: case ZYDIS_MNEMONIC_UCOMISD:
	case ZYDIS_MNEMONIC_PTEST:
		return f | STUB_FLAGS;
	case ZYDIS_MNEMONIC_PCMPESTRI: case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI: case ZYDIS_MNEMONIC_PCMPISTRM:
		return STUB_FLAGS | STUB_STRING;
	case ZYDIS_MNEMONIC_BLENDVPS: case ZYDIS_MNEMONIC_BLENDVPD: case ZYDIS_MNEMONIC_PBLENDVB:
		return STUB_XMM0;
	default: return f;
	}
}

/* REX.W matters only where a general register or its size in memory is an operand. */
static bool needs_rexw(const struct insn *in, const struct stub_desc *d)
{
	if (!in->z.raw.rex.W)
		return false;
	if (d->reg == STUB_GPR || d->rm == STUB_GPR || (d->flags & STUB_STRING))
		return true;
	return d->rm == STUB_MEM && ((d->map == 1 && (d->opcode == 0x2a || d->opcode == 0x6e || d->opcode == 0x7e)) ||
				     (d->map == 3 && (d->opcode == 0x16 || d->opcode == 0x22)));
}

static void describe(const struct insn *in, const ZydisDecodedOperand *reg, const ZydisDecodedOperand *rm,
		     struct stub_desc *d)
{
	const ZydisDecodedInstruction *z = &in->z;

	*d = (struct stub_desc){.map = (uint8_t)z->opcode_map, .opcode = z->opcode, .flags = effects(in)};
	for (unsigned i = 0; i < z->raw.prefix_count; i++)
		if (z->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY)
			d->prefix = z->raw.prefixes[i].value;
	d->reg = (uint8_t)operand_kind(reg);
	d->rm = (uint8_t)operand_kind(rm);
	if (!reg)
		d->ext = z->raw.modrm.reg;
	if (reg && (reg->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
		d->flags |= STUB_WREG;
	if (rm->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		d->flags |= STUB_WRM;
	if (z->raw.imm[0].size) {
		d->has_imm = true;
		d->imm = (uint8_t)z->raw.imm[0].value.u;
		if (d->map == 1 && d->opcode == 0xc2)
			d->imm &= 7; /* CMPPS and friends look at no more */
	}
	d->opsize16 = z->mnemonic == ZYDIS_MNEMONIC_CRC32 && rm->size == 16;
	d->rexw = needs_rexw(in, d);
}

/* Where the stub finds a register operand: see VF_*. */
static uint32_t operand_place(const ZydisDecodedOperand *o)
{
	if (!o || o->type == ZYDIS_OPERAND_TYPE_MEMORY)
		return 0;
	if (is_mm(o))
		return vreg(o);
	return is_xmm(o) ? (uint32_t)(offsetof(struct cpu, fpu) + FX_XMM(vreg(o)))
			 : (uint32_t)(offsetof(struct cpu, gpr) + vreg(o));
}

static bool unaligned_allowed(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_PCMPESTRI || m == ZYDIS_MNEMONIC_PCMPESTRM || m == ZYDIS_MNEMONIC_PCMPISTRI ||
	       m == ZYDIS_MNEMONIC_PCMPISTRM;
}

static exec_fn choose_exec(const struct insn *in, const struct stub_desc *d)
{
	bool mem = d->rm == STUB_MEM;

	if (in->z.mnemonic == ZYDIS_MNEMONIC_CRC32)
		return mem ? x_crc32_load : x_crc32_reg;
	if (d->reg == STUB_MM || d->rm == STUB_MM)
		return x_mmx;
	if (d->flags & STUB_FP)
		return mem ? x_fp_load : x_fp_reg;
	return !mem ? x_vec_reg : (d->flags & STUB_WRM) ? x_vec_store : x_vec_load;
}

static void lower_stub(struct insn *in, struct uop *u)
{
	const ZydisDecodedOperand *reg = NULL, *rm = NULL;
	struct stub_desc d;

	for (unsigned i = 0; i < in->z.operand_count_visible; i++) {
		if (in->op[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
			reg = &in->op[i];
		if (in->op[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
			rm = &in->op[i];
	}
	u->exec = exec_ud;
	if (!rm)
		return;
	describe(in, reg, rm, &d);
	u->ptr = (void *)(uintptr_t)stub_vector(in->cpu->stubs, &d);
	if (!u->ptr)
		return;
	u->exec = choose_exec(in, &d);
	u->aux = operand_place(reg);
	u->imm = operand_place(rm);
	u->src = d.rm == STUB_MEM ? (uint8_t)(rm->size / 8) : 0;
	u->opsize = d.reg == STUB_XMM || d.rm == STUB_XMM; /* x_mmx: CR4.OSFXSR matters */
	u->dst = (uint8_t)((d.flags & STUB_FLAGS ? VF_FLAGS : 0) | (d.flags & STUB_FP ? VF_FP : 0) |
			   (d.flags & STUB_WREG ? VF_WREG : 0) | (d.flags & STUB_WRM ? VF_STORE : 0) |
			   (d.reg == STUB_XMM ? VF_REG16 : 0) | (d.reg == STUB_MM ? VF_REG_MM : 0) |
			   (d.rm == STUB_MM ? VF_RM_MM : 0) |
			   (u->src == 16 && !unaligned_allowed(in->z.mnemonic) ? VF_ALIGN : 0));
}

/* ---- lowering: the group ---- */

/* Instructions that came with SSE but which the decoder files under MMX. */
static bool is_sse_mmx(const struct insn *in)
{
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_PSHUFW: case ZYDIS_MNEMONIC_PINSRW: case ZYDIS_MNEMONIC_PEXTRW:
	case ZYDIS_MNEMONIC_PAVGB: case ZYDIS_MNEMONIC_PAVGW: case ZYDIS_MNEMONIC_PMAXSW:
	case ZYDIS_MNEMONIC_PMAXUB: case ZYDIS_MNEMONIC_PMINSW: case ZYDIS_MNEMONIC_PMINUB:
	case ZYDIS_MNEMONIC_PMULHUW: case ZYDIS_MNEMONIC_PSADBW:
	case ZYDIS_MNEMONIC_MASKMOVQ: case ZYDIS_MNEMONIC_MOVNTQ:
		return true;
	default: return false;
	}
}

static bool lower_sse(struct insn *in, struct uop *u, enum cpu_feature feature)
{
	if (!cpu_has(in->cpu, feature) || (u->flags & UOP_LOCK))
		u->exec = exec_ud;
	else if (!lower_direct(in, u))
		lower_stub(in, u);
	return true;
}

static bool lower_undefined(struct uop *u)
{
	u->exec = exec_ud;
	return true;
}

bool lower_vector(struct insn *in, struct uop *u)
{
	if (in->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		return lower_avx(in, u) || lower_undefined(u);
	if (in->z.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return lower_undefined(u); /* EVEX, XOP, 3DNow! */
	switch (in->z.meta.isa_set) {
	case ZYDIS_ISA_SET_PENTIUMMMX: return lower_sse(in, u, is_sse_mmx(in) ? CPUF_SSE : CPUF_MMX);
	case ZYDIS_ISA_SET_SSE:
	case ZYDIS_ISA_SET_SSEMXCSR:
	case ZYDIS_ISA_SET_SSE_PREFETCH: return lower_sse(in, u, CPUF_SSE);
	case ZYDIS_ISA_SET_SSE2:
	case ZYDIS_ISA_SET_SSE2MMX: return lower_sse(in, u, CPUF_SSE2);
	case ZYDIS_ISA_SET_SSE3:
	case ZYDIS_ISA_SET_SSE3X87:
		if (in->z.meta.category == ZYDIS_CATEGORY_X87_ALU)
			return cpu_has(in->cpu, CPUF_SSE3) ? lower_x87(in, u) : lower_undefined(u);
		return lower_sse(in, u, CPUF_SSE3);
	case ZYDIS_ISA_SET_SSSE3:
	case ZYDIS_ISA_SET_SSSE3MMX: return lower_sse(in, u, CPUF_SSSE3);
	case ZYDIS_ISA_SET_SSE4: return lower_sse(in, u, CPUF_SSE4_1);
	case ZYDIS_ISA_SET_SSE42: return lower_sse(in, u, CPUF_SSE4_2);
	case ZYDIS_ISA_SET_FCMOV: return cpu_has(in->cpu, CPUF_CMOV) ? lower_x87(in, u) : lower_undefined(u);
	case ZYDIS_ISA_SET_X87: return lower_x87(in, u);
	case ZYDIS_ISA_SET_PPRO: /* FCOMI and friends; the rest is not of this group */
		return in->z.meta.category == ZYDIS_CATEGORY_X87_ALU && lower_x87(in, u);
	case ZYDIS_ISA_SET_FXSAVE:
	case ZYDIS_ISA_SET_FXSAVE64:
	case ZYDIS_ISA_SET_XSAVE: return lower_xsave(in, u);
	case ZYDIS_ISA_SET_XSAVEC:
	case ZYDIS_ISA_SET_XSAVEOPT:
	case ZYDIS_ISA_SET_XSAVES:
	case ZYDIS_ISA_SET_SSE4A:
	case ZYDIS_ISA_SET_AMD3DNOW:
	case ZYDIS_ISA_SET_AES:
	case ZYDIS_ISA_SET_PCLMULQDQ:
	case ZYDIS_ISA_SET_SHA:
	case ZYDIS_ISA_SET_GFNI: return lower_undefined(u);
	default: return false;
	}
}
