/*
 * What the differential fuzzer cannot reach of the vector group: CR0 and CR4,
 * hidden features, CR0.NE = 0, PKRU in XSAVE areas, and the bound on host stubs.
 * One instruction at a time, in flat 32-bit mode without paging.
 */
#include "cpu/access.h"
#include "cpu/cpu.h"
#include "cpu/cpuid.h"
#include "cpu/flags.h"
#include "cpu/lower.h"
#include "cpu/stub.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define RAM_BYTES  (1u << 20)
#define AREA       0x4000u
#define CODE_AT    0x1000u
#define NO_FAULT   (-1)
#define CR0_FLAT   (CR0_PE | CR0_ET | CR0_NE)
#define CR4_SSE    (CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE)

struct fix {
	struct machmem mem;
	struct cpu *cpu;
};

static void flat_mode(struct cpu *c)
{
	for (unsigned i = 0; i < SEG_COUNT; i++)
		c->seg[i] = (struct seg){.sel = 8, .limit = 0xffffffff,
					 .attr = 3 | SEG_AR_S | SEG_AR_P | SEG_AR_DB | SEG_AR_G};
	c->seg[SEG_CS].attr |= SEG_AR_CODE;
	c->cr0 = CR0_FLAT;
	c->cr4 = CR4_SSE;
	c->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_PKRU;
	memset(c->fpu.fx, 0, sizeof(c->fpu.fx));
	put_u16(c->fpu.fx + FX_FCW, 0x37f);
	put_u32(c->fpu.fx + FX_MXCSR, 0x1f80);
	cpu_update_mode(c);
}

static int setup_with(void **state, const struct cpu_config *cfg)
{
	struct machmem_range range = {0, RAM_BYTES};
	struct fix *f = calloc(1, sizeof(*f));

	assert_int_equal(machmem_init(&f->mem, &range, 1, NULL), 0);
	assert_int_equal(cpu_create(&f->cpu, &f->mem, cfg, NULL), 0);
	flat_mode(f->cpu);
	*state = f;
	return 0;
}

static int setup(void **state)
{
	struct cpu_config cfg;

	cpu_config_default(&cfg);
	return setup_with(state, &cfg);
}

static int teardown(void **state)
{
	struct fix *f = *state;

	cpu_destroy(f->cpu);
	machmem_destroy(&f->mem);
	free(f);
	return 0;
}

/* Executes one instruction; the vector of its exception, or NO_FAULT. */
static int run(struct cpu *c, const char *code, unsigned len)
{
	uint8_t bytes[16] = {0};
	struct uop u;
	enum block_place place;

	memcpy(bytes, code, len);
	c->gpr[REG_RIP] = CODE_AT;
	c->stop = (struct stop){.kind = STOP_NONE};
	assert_int_equal(lower_one(c, bytes, 15, 32, 0, &u, &place), len);
	if (u.exec(c, &u) != EXEC_STOP)
		return NO_FAULT;
	assert_int_equal(c->stop.kind, STOP_EXCEPTION);
	return c->stop.vector;
}
#define RUN(c, code) run(c, code, sizeof(code) - 1)

#define ADDPS     "\x0f\x58\xc1"         /* addps xmm0, xmm1 */
#define MOVAPS    "\x0f\x28\xc1"         /* movaps xmm0, xmm1 */
#define PADDB_MM  "\x0f\xfc\xc1"         /* paddb mm0, mm1 */
#define EMMS      "\x0f\x77"
#define FLD1      "\xd9\xe8"
#define FNSTSW_AX "\xdf\xe0"
#define FWAIT     "\x9b"
#define CRC32     "\xf2\x0f\x38\xf1\xc1" /* crc32 eax, ecx */
#define MOVNTI    "\x0f\xc3\x05\x00\x40\x00\x00"
#define LDMXCSR   "\x0f\xae\x15\x00\x40\x00\x00"
#define FXSAVE    "\x0f\xae\x05\x00\x40\x00\x00"
#define XSAVE     "\x0f\xae\x25\x00\x40\x00\x00"
#define XRSTOR    "\x0f\xae\x2d\x00\x40\x00\x00"
#define CVTPI2PS  "\x0f\x2a\xc1"         /* cvtpi2ps xmm0, mm1 */

/* SDM volume 3, table "Action Taken for Combinations of OSFXSR, OSXMMEXCPT, SSE, ... EM, MP, and TS". */
static void test_control_registers(void **state)
{
	static const struct { uint64_t cr0, cr4; int addps, movaps, mmx, x87, nowait, fwait, fxsave, xsave; } row[] = {
		{0, CR4_SSE, NO_FAULT, NO_FAULT, NO_FAULT, NO_FAULT, NO_FAULT, NO_FAULT, NO_FAULT, NO_FAULT},
		{CR0_TS, CR4_SSE, EXC_NM, EXC_NM, EXC_NM, EXC_NM, EXC_NM, NO_FAULT, EXC_NM, EXC_NM},
		{CR0_TS | CR0_MP, CR4_SSE, EXC_NM, EXC_NM, EXC_NM, EXC_NM, EXC_NM, EXC_NM, EXC_NM, EXC_NM},
		{CR0_MP, CR4_SSE, NO_FAULT, NO_FAULT, NO_FAULT, NO_FAULT, NO_FAULT, NO_FAULT, NO_FAULT, NO_FAULT},
		{CR0_EM, CR4_SSE, EXC_UD, EXC_UD, EXC_UD, EXC_NM, EXC_NM, NO_FAULT, EXC_NM, NO_FAULT},
		{CR0_EM | CR0_TS, CR4_SSE, EXC_UD, EXC_UD, EXC_UD, EXC_NM, EXC_NM, NO_FAULT, EXC_NM, EXC_NM},
		{0, 0, EXC_UD, EXC_UD, NO_FAULT, NO_FAULT, NO_FAULT, NO_FAULT, NO_FAULT, EXC_UD},
		{CR0_TS, 0, EXC_UD, EXC_UD, EXC_NM, EXC_NM, EXC_NM, NO_FAULT, EXC_NM, EXC_UD},
	};
	struct cpu *c = ((struct fix *)*state)->cpu;

	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		flat_mode(c);
		c->cr0 = CR0_FLAT | row[i].cr0;
		c->cr4 = row[i].cr4;
		assert_int_equal(RUN(c, ADDPS), row[i].addps);
		assert_int_equal(RUN(c, MOVAPS), row[i].movaps);
		assert_int_equal(RUN(c, PADDB_MM), row[i].mmx);
		assert_int_equal(RUN(c, EMMS), row[i].mmx);
		assert_int_equal(RUN(c, FLD1), row[i].x87);
		assert_int_equal(RUN(c, FNSTSW_AX), row[i].nowait);
		assert_int_equal(RUN(c, FWAIT), row[i].fwait);
		assert_int_equal(RUN(c, FXSAVE), row[i].fxsave);
		assert_int_equal(RUN(c, XSAVE), row[i].xsave);
		/* neither uses a vector register */
		assert_int_equal(RUN(c, CRC32), NO_FAULT);
		assert_int_equal(RUN(c, MOVNTI), NO_FAULT);
	}
}

static void test_simd_exception(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;
	static const uint32_t snan = 0x7f800001;

	memcpy(c->fpu.fx + FX_XMM(1), &snan, 4);
	assert_int_equal(RUN(c, ADDPS), NO_FAULT);
	assert_int_equal(get_u32(c->fpu.fx + FX_MXCSR), 0x1f81);
	put_u32(c->fpu.fx + FX_MXCSR, 0x1f00);
	put_u32(c->fpu.fx + FX_XMM(0), 0x3f800000);
	assert_int_equal(RUN(c, ADDPS), EXC_XM);
	assert_int_equal(get_u32(c->fpu.fx + FX_MXCSR), 0x1f01);
	assert_int_equal(get_u32(c->fpu.fx + FX_XMM(0)), 0x3f800000);
	c->cr4 &= ~CR4_OSXMMEXCPT;
	assert_int_equal(RUN(c, ADDPS), EXC_UD);
	put_u32(machmem_ptr(&f->mem, hpa(AREA)), 0x10000);
	assert_int_equal(RUN(c, LDMXCSR), EXC_GP);
}

/* FLD1 with IE pending and unmasked: #MF, or with CR0.NE = 0 nothing, but the flag stays. */
static void test_pending_x87(void **state)
{
	struct cpu *c = ((struct fix *)*state)->cpu;

	put_u16(c->fpu.fx + FX_FCW, 0x37e);
	put_u16(c->fpu.fx + FX_FSW, 0x8081);
	assert_int_equal(RUN(c, FLD1), EXC_MF);
	assert_int_equal(RUN(c, FWAIT), EXC_MF);
	assert_int_equal(RUN(c, PADDB_MM), EXC_MF);
	assert_int_equal(RUN(c, CVTPI2PS), EXC_MF);
	assert_int_equal(RUN(c, FNSTSW_AX), NO_FAULT);
	assert_int_equal(c->gpr[RAX] & 0xffff, 0x8081);
	c->cr0 &= ~CR0_NE;
	assert_int_equal(RUN(c, FLD1), NO_FAULT);
	assert_int_equal(get_u16(c->fpu.fx + FX_FSW), 0x8081 | 7 << 11);
	assert_int_equal(c->fpu.fx[FX_FTW], 0x80);
}

static void test_xsave_pkru(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;
	uint8_t *area = machmem_ptr(&f->mem, hpa(AREA));

	c->pkru = 0x55555554;
	c->gpr[RAX] = 0xffffffff;
	c->gpr[RDX] = 0xffffffff;
	assert_int_equal(RUN(c, XSAVE), NO_FAULT);
	assert_int_equal(get_u64(area + 512), XCR0_PKRU);
	assert_int_equal(get_u32(area + XSAVE_PKRU_OFFSET), 0x55555554);
	put_u32(area + XSAVE_PKRU_OFFSET, 0xc);
	assert_int_equal(RUN(c, XRSTOR), NO_FAULT);
	assert_int_equal(c->pkru, 0xc);
	assert_int_equal(c->mmu.regs.pkru, 0xc);
	put_u64(area + 512, 0);
	assert_int_equal(RUN(c, XRSTOR), NO_FAULT);
	assert_int_equal(c->pkru, 0);
	put_u64(area + 512, BIT64(2)); /* not in XCR0 */
	assert_int_equal(RUN(c, XRSTOR), EXC_GP);
	put_u64(area + 512, 0);
	put_u64(area + 520, BIT64(63)); /* compacted */
	assert_int_equal(RUN(c, XRSTOR), EXC_GP);
}

static int setup_bare(void **state)
{
	static const enum cpu_feature hidden[] = {CPUF_SSE2, CPUF_SSE3, CPUF_SSSE3, CPUF_SSE4_1, CPUF_SSE4_2,
						  CPUF_XSAVE, CPUF_PKU};
	struct cpu_config cfg;

	cpu_config_default(&cfg);
	for (unsigned i = 0; i < ARRAY_SIZE(hidden); i++)
		cfg.feature[hidden[i]] = false;
	return setup_with(state, &cfg);
}

static void test_hidden_features(void **state)
{
	struct cpu *c = ((struct fix *)*state)->cpu;

	assert_int_equal(RUN(c, ADDPS), NO_FAULT);
	assert_int_equal(RUN(c, PADDB_MM), NO_FAULT);
	assert_int_equal(RUN(c, "\x66\x0f\x58\xc1"), EXC_UD);         /* addpd */
	assert_int_equal(RUN(c, "\xdb\x0d\x00\x40\x00\x00"), EXC_UD); /* fisttp */
	assert_int_equal(RUN(c, "\x0f\x38\x00\xc1"), EXC_UD);         /* pshufb mm */
	assert_int_equal(RUN(c, "\x66\x0f\x38\x17\xc1"), EXC_UD);     /* ptest */
	assert_int_equal(RUN(c, CRC32), EXC_UD);
	assert_int_equal(RUN(c, XSAVE), EXC_UD);
}

static void test_never_there(void **state)
{
	struct cpu *c = ((struct fix *)*state)->cpu;

	assert_int_equal(RUN(c, "\xc4\xe2\x79\xdc\xc1"), EXC_UD);     /* vaesenc */
	assert_int_equal(RUN(c, "\x66\x0f\x38\xdc\xc1"), EXC_UD);     /* aesenc */
	assert_int_equal(RUN(c, "\x66\x0f\x3a\x44\xc1\x00"), EXC_UD); /* pclmulqdq */
	assert_int_equal(RUN(c, "\x0f\x38\xc8\xc1"), EXC_UD);         /* sha1nexte */
	assert_int_equal(RUN(c, "\x0f\xae\x35\x00\x40\x00\x00"), EXC_UD); /* xsaveopt */
	assert_int_equal(RUN(c, "\x0f\xc7\x25\x00\x40\x00\x00"), EXC_UD); /* xsavec */
}

#define VADDPS     "\xc5\xfc\x58\xc1"         /* vaddps ymm0, ymm0, ymm1 */
#define VADDPS128  "\xc5\xf8\x58\xc1"
#define VZEROUPPER "\xc5\xf8\x77"
#define ANDN       "\xc4\xe2\x70\xf2\xc0"     /* andn eax, ecx, eax */

static int setup_avx(void **state)
{
	struct fix *f;

	if (!__builtin_cpu_supports("avx2"))
		return 0;
	setup(state);
	f = *state;
	f->cpu->xcr0 |= XCR0_AVX;
	return 0;
}

static int teardown_avx(void **state) { return *state ? teardown(state) : 0; }

/* SDM volume 2, "Exceptions Type 2": what has to be in force. */
static void test_avx_control(void **state)
{
	static const struct { uint64_t cr0, cr4, xcr0; int vaddps; } row[] = {
		{0, CR4_SSE, 7, NO_FAULT},
		{CR0_EM, CR4_SSE, 7, NO_FAULT},
		{CR0_TS, CR4_SSE, 7, EXC_NM},
		{CR0_TS, CR4_SSE, 3, EXC_UD},
		{0, CR4_SSE, 3, EXC_UD},
		{0, CR4_SSE, 1, EXC_UD},
		{0, CR4_OSXSAVE, 7, NO_FAULT}, /* OSFXSR is of SSE alone */
		{0, CR4_SSE & ~CR4_OSXSAVE, 7, EXC_UD},
	};
	struct cpu *c;

	if (!*state)
		skip();
	c = ((struct fix *)*state)->cpu;
	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		flat_mode(c);
		c->cr0 = CR0_FLAT | row[i].cr0;
		c->cr4 = row[i].cr4;
		c->xcr0 = row[i].xcr0;
		assert_int_equal(RUN(c, VADDPS), row[i].vaddps);
		assert_int_equal(RUN(c, VZEROUPPER), row[i].vaddps);
		assert_int_equal(RUN(c, ANDN), NO_FAULT);
	}
	/* VEX prefixes are of protected mode. */
	flat_mode(c);
	c->xcr0 = 7;
	c->cr0 &= ~CR0_PE;
	assert_int_equal(RUN(c, VADDPS), EXC_UD);
	assert_int_equal(RUN(c, ANDN), EXC_UD);
	c->cr0 |= CR0_PE;
	c->rflags |= RF_VM;
	assert_int_equal(RUN(c, VADDPS), EXC_UD);
	assert_int_equal(RUN(c, ANDN), EXC_UD);
}

/* Outside 64-bit mode the registers from the ninth on are nobody's to change. */
static void test_avx_state(void **state)
{
	struct fix *f = *state;
	uint8_t *area;
	struct cpu *c;

	if (!f)
		skip();
	c = f->cpu;
	area = machmem_ptr(&f->mem, hpa(AREA));
	memset(c->fpu.ymm_hi, 0x11, sizeof(c->fpu.ymm_hi));
	assert_int_equal(RUN(c, ADDPS), NO_FAULT);
	assert_int_equal(c->fpu.ymm_hi[0][5], 0x11);
	c->gpr[RAX] = 7;
	c->gpr[RDX] = 0;
	assert_int_equal(RUN(c, XSAVE), NO_FAULT);
	assert_int_equal(get_u64(area + 512), XCR0_AVX);
	assert_int_equal(area[XSAVE_AVX_OFFSET + 7 * 16 + 15], 0x11);
	assert_int_equal(area[XSAVE_AVX_OFFSET + 8 * 16], 0);
	assert_int_equal(RUN(c, VADDPS128), NO_FAULT);
	assert_int_equal(c->fpu.ymm_hi[0][5], 0);
	assert_int_equal(c->fpu.ymm_hi[1][5], 0x11);
	assert_int_equal(RUN(c, VZEROUPPER), NO_FAULT);
	assert_int_equal(c->fpu.ymm_hi[7][5], 0);
	assert_int_equal(c->fpu.ymm_hi[8][5], 0x11);
	assert_int_equal(RUN(c, XRSTOR), NO_FAULT);
	assert_int_equal(c->fpu.ymm_hi[7][5], 0x11);
	put_u64(area + 512, 0);
	assert_int_equal(RUN(c, XRSTOR), NO_FAULT);
	assert_int_equal(c->fpu.ymm_hi[7][5], 0);
	assert_int_equal(c->fpu.ymm_hi[8][5], 0x11);
}

/* Lowers everything that can be encoded in maps 0F, 0F 38 and 0F 3A with every immediate. */
static void lower_everything(struct cpu *c, unsigned map)
{
	static const uint8_t prefix[] = {0, 0x66, 0xf2, 0xf3};

	for (unsigned n = 0; n < 256u * 4 * 2 * 16; n++) {
		unsigned opcode = n & 255, p = n >> 8 & 3, w = n >> 10 & 1, reg = n >> 11 & 7, mem = n >> 14 & 1;
		uint8_t b[16] = {0};
		unsigned len = 0;
		struct uop u;
		enum block_place place;

		if (prefix[p])
			b[len++] = prefix[p];
		if (w)
			b[len++] = 0x48;
		b[len++] = 0x0f;
		if (map > 1)
			b[len++] = map == 2 ? 0x38 : 0x3a;
		b[len++] = (uint8_t)opcode;
		b[len++] = (uint8_t)(reg << 3 | (mem ? 0 : 0xc1));
		for (unsigned imm = 0; imm < 256; imm++) {
			b[len] = (uint8_t)imm;
			lower_one(c, b, 15, 64, 0, &u, &place);
			if (u.len == len)
				break; /* no immediate */
		}
	}
}

static void lower_everything_vex(struct cpu *c, unsigned map)
{
	for (unsigned n = 0; n < 256u * 4 * 4 * 16; n++) {
		unsigned reg = n >> 12 & 7, mem = n >> 15 & 1;
		uint8_t b[16] = {0xc4, (uint8_t)(0xe0 | map), 0, (uint8_t)n, (uint8_t)(reg << 3 | (mem ? 0 : 0xc1))};
		struct uop u;
		enum block_place place;

		/* W and L, prefix; a register in vvvv, and none */
		b[2] = (uint8_t)((n >> 8 & 1) << 7 | (n >> 9 & 1) << 2 | (n >> 10 & 3));
		for (unsigned imm = 0; imm < 512; imm++) {
			b[2] |= 0x78;
			if (imm >= 256)
				b[2] &= (uint8_t)~0x08;
			b[5] = (uint8_t)imm;
			lower_one(c, b, 15, 64, 0, &u, &place);
			if (u.len == 5)
				imm |= 255; /* no immediate */
		}
	}
}

/* The cache of stubs has room for all there are: stub.c relies on it. */
static void test_stub_space(void **state)
{
	struct cpu *c = ((struct fix *)*state)->cpu;

	for (unsigned map = 1; map <= 3; map++) {
		lower_everything(c, map);
		lower_everything_vex(c, map);
	}
	for (unsigned escape = 0xd8; escape <= 0xdf; escape++)
		for (unsigned modrm = 0; modrm < 256; modrm++)
			assert_non_null(stub_x87(c->stubs, (uint8_t)escape, (uint8_t)modrm));
	assert_true(stubs_count(c->stubs) > 20000);
	assert_true(stubs_count(c->stubs) < STUBS_MAX);
	assert_true(stubs_bytes(c->stubs) < STUBS_BYTES - (STUBS_BYTES >> 4));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_control_registers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_simd_exception, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pending_x87, setup, teardown),
		cmocka_unit_test_setup_teardown(test_xsave_pkru, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hidden_features, setup_bare, teardown),
		cmocka_unit_test_setup_teardown(test_never_there, setup, teardown),
		cmocka_unit_test_setup_teardown(test_avx_control, setup_avx, teardown_avx),
		cmocka_unit_test_setup_teardown(test_avx_state, setup_avx, teardown_avx),
		cmocka_unit_test_setup_teardown(test_stub_space, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
