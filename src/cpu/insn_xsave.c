/*
 * FXSAVE, FXRSTOR, XSAVE, XRSTOR: whole states to and from memory.
 *
 * XSAVE has the components x87, SSE, AVX and PKRU in the standard format. A component
 * is taken to be in use exactly if it differs from its initial configuration, so
 * XSTATE_BV depends on nothing but the state.
 *
 * Left out: the compacted format (XSAVEC, XSAVES) and XSAVEOPT, which the processor
 * does not report.
 *
 * Sources: SDM volume 1, "FXSAVE and FXRSTOR Instructions" and "Managing State Using the XSAVE Feature Set".
 */
#include "cpu/cpuid.h"
#include "cpu/record.h"
#include "cpu/vector.h"

#define FX_BYTES      416u /* what FXSAVE writes; the rest of the 512 bytes is left alone */
#define FX_AREA       512u
#define XSAVE_HEADER  512u
#define HEADER_BYTES  64u

/* ---- areas ---- */

#define CHUNK 64u /* the largest single access */

int fpu_read_area(struct cpu *cpu, uint64_t lin, void *buf, unsigned bytes)
{
	uint8_t *p = buf;

	for (unsigned i = 0; i < bytes; i += CHUNK)
		if (mem_read(cpu, lin + i, p + i, bytes - i < CHUNK ? bytes - i : CHUNK))
			return EXEC_STOP;
	return 0;
}

/* An area of at most a page lies in one page or two: its ends tell whether all of it can be written. */
static int probe_area(struct cpu *cpu, uint64_t lin, unsigned bytes)
{
	if (mem_probe_write(cpu, lin, 1, (enum access_mode)cpu->mode))
		return EXEC_STOP;
	if (!((lin ^ (lin + bytes - 1)) & PAGE_MASK))
		return 0;
	return mem_probe_write(cpu, (lin + bytes - 1) & PAGE_MASK, 1, (enum access_mode)cpu->mode);
}

int fpu_write_area(struct cpu *cpu, uint64_t lin, const void *buf, unsigned bytes)
{
	const uint8_t *p = buf;

	if (probe_area(cpu, lin, bytes))
		return EXEC_STOP;
	for (unsigned i = 0; i < bytes; i += CHUNK)
		if (mem_write(cpu, lin + i, p + i, bytes - i < CHUNK ? bytes - i : CHUNK))
			return EXEC_STOP;
	return 0;
}

static bool canonical(const struct cpu *cpu, uint64_t lin)
{
	unsigned unused = cpu->cr4 & CR4_LA57 ? 64 - 57 : 64 - 48;

	return (uint64_t)((int64_t)(lin << unused) >> unused) == lin;
}

static int raise_misaligned(struct cpu *cpu, uint64_t lin, unsigned checked)
{
	if ((cpu->efer & EFER_LMA) && !canonical(cpu, lin)) {
		raise_gp0(cpu);
		cpu->stop.noncanonical = true;
		return EXEC_STOP;
	}
	if (cpu->mode == MODE_USER_ALIGN && (lin & (checked - 1)))
		return raise_exc_err(cpu, EXC_AC, 0);
	return raise_gp0(cpu);
}

int vec_check_alignment(struct cpu *cpu, uint64_t lin, unsigned checked, unsigned required)
{
	unsigned mask = required - 1;

	if (cpu->mode == MODE_USER_ALIGN)
		mask |= checked - 1;
	return lin & mask ? raise_misaligned(cpu, lin, checked) : 0;
}

/* ---- the legacy region ---- */

/* The x87 part, and with it the pointers in the 64-bit form or as 32-bit offsets with selectors of zero. */
static void save_x87(const struct fpu *f, bool rexw, uint8_t *area)
{
	memcpy(area, f->fx, FX_MXCSR);
	area[5] = 0;
	if (!rexw) {
		put_u32(area + FX_FIP + 4, 0);
		put_u32(area + FX_FDP + 4, 0);
	}
	for (unsigned i = 0; i < 8; i++) {
		memcpy(area + FX_ST(i), f->fx + FX_ST(i), 10);
		memset(area + FX_ST(i) + 10, 0, 6);
	}
}

static void load_x87(struct cpu *cpu, bool rexw, const uint8_t *area)
{
	unsigned unused = cpu_has(cpu, CPUF_LA57) ? 64 - 57 : 64 - 48;
	uint8_t *fx = cpu->fpu.fx;

	fpu_set_words(&cpu->fpu, get_u16(area + FX_FCW), get_u16(area + FX_FSW));
	put_u16(fx + FX_FTW, area[FX_FTW]);
	put_u16(fx + FX_FOP, get_u16(area + FX_FOP) & 0x7ff);
	put_u64(fx + FX_FIP, rexw ? (uint64_t)((int64_t)(get_u64(area + FX_FIP) << unused) >> unused)
				  : get_u32(area + FX_FIP));
	put_u64(fx + FX_FDP, rexw ? get_u64(area + FX_FDP) : get_u32(area + FX_FDP));
	for (unsigned i = 0; i < 8; i++) {
		memcpy(fx + FX_ST(i), area + FX_ST(i), 10);
		memset(fx + FX_ST(i) + 10, 0, 6);
	}
}

static unsigned xmm_bytes(const struct cpu *cpu) { return cpu->code_bits == 64 ? 256 : 128; }

/* Hardware checks the alignment before it looks whether the segment is writable. */
static int area_address(struct cpu *cpu, const struct uop *u, unsigned bytes, unsigned alignment,
			enum access_kind kind, uint64_t *lin)
{
	if (ea(cpu, u, bytes, ACCESS_READ, lin) || vec_check_alignment(cpu, *lin, 4, alignment))
		return EXEC_STOP;
	return kind == ACCESS_READ ? 0 : ea(cpu, u, bytes, kind, lin);
}

/* ---- FXSAVE, FXRSTOR: u->dst is REX.W. The end of the area is touched first, as hardware does. ---- */

static int fx_address(struct cpu *cpu, const struct uop *u, enum access_kind kind, uint64_t *lin)
{
	if (cpu->cr0 & (CR0_EM | CR0_TS))
		return raise_nm(cpu);
	return area_address(cpu, u, FX_AREA, 16, kind, lin);
}

static int x_fxsave(struct cpu *cpu, const struct uop *u)
{
	uint8_t area[FX_BYTES];
	uint64_t lin;

	if (fx_address(cpu, u, ACCESS_WRITE, &lin))
		return EXEC_STOP;
	if (mem_probe_write(cpu, lin + FX_AREA - 1, 1, (enum access_mode)cpu->mode))
		return EXEC_STOP;
	save_x87(&cpu->fpu, u->dst, area);
	put_u32(area + FX_MXCSR, get_u32(cpu->fpu.fx + FX_MXCSR));
	put_u32(area + FX_MXCSR + 4, MXCSR_VALID);
	memcpy(area + FX_XMM(0), cpu->fpu.fx + FX_XMM(0), 256);
	return fpu_write_area(cpu, lin, area, FX_XMM(0) + xmm_bytes(cpu));
}

static int x_fxrstor(struct cpu *cpu, const struct uop *u)
{
	uint8_t area[FX_AREA];
	uint64_t lin;

	if (fx_address(cpu, u, ACCESS_READ, &lin) || ld8(cpu, lin + FX_AREA - 1, area) ||
	    fpu_read_area(cpu, lin, area, FX_AREA))
		return EXEC_STOP;
	if (get_u32(area + FX_MXCSR) & ~MXCSR_VALID)
		return raise_gp0(cpu);
	load_x87(cpu, u->dst, area);
	put_u32(cpu->fpu.fx + FX_MXCSR, get_u32(area + FX_MXCSR));
	memcpy(cpu->fpu.fx + FX_XMM(0), area + FX_XMM(0), xmm_bytes(cpu));
	return EXEC_NEXT;
}

/* ---- XSAVE, XRSTOR ---- */

static bool all_zero(const uint8_t *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (p[i])
			return false;
	return true;
}

/* XINUSE (SDM "Processor Tracking of XSAVE-Managed State"), and the bit that MXCSR adds for SSE. */
static uint64_t components_in_use(const struct cpu *cpu)
{
	const uint8_t *fx = cpu->fpu.fx;
	uint64_t use = 0;

	if (get_u16(fx + FX_FCW) != FCW_INIT || !all_zero(fx + FX_FSW, FX_MXCSR - FX_FSW) ||
	    !all_zero(fx + FX_ST(0), 128))
		use |= XCR0_X87;
	if (get_u32(fx + FX_MXCSR) != MXCSR_INIT || !all_zero(fx + FX_XMM(0), 256))
		use |= XCR0_SSE;
	if (!all_zero(&cpu->fpu.ymm_hi[0][0], sizeof(cpu->fpu.ymm_hi)))
		use |= XCR0_AVX;
	if (cpu->pkru)
		use |= XCR0_PKRU;
	return use;
}

static uint64_t requested(const struct cpu *cpu)
{
	return (uint64_t)(uint32_t)cpu->gpr[RDX] << 32 | (uint32_t)cpu->gpr[RAX];
}

/* The checks that XSAVE and XRSTOR share, and the area's address. */
static int xsave_address(struct cpu *cpu, const struct uop *u, enum access_kind kind, uint64_t *lin)
{
	if (!(cpu->cr4 & CR4_OSXSAVE))
		return raise_ud(cpu);
	if (cpu->cr0 & CR0_TS)
		return raise_nm(cpu);
	return area_address(cpu, u, XSAVE_HEADER + HEADER_BYTES, 64, kind, lin);
}

/* A piece of an XSAVE area and where it goes. */
struct piece {
	unsigned offset, bytes;
	const uint8_t *from;
};

static int write_pieces(struct cpu *cpu, uint64_t lin, const struct piece *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (probe_area(cpu, lin + p[i].offset, p[i].bytes))
			return EXEC_STOP;
	for (unsigned i = 0; i < n; i++)
		if (fpu_write_area(cpu, lin + p[i].offset, p[i].from, p[i].bytes))
			return EXEC_STOP;
	return EXEC_NEXT;
}

/* Where the components end: the last byte is touched first. */
static unsigned area_end(uint64_t components)
{
	if (components & XCR0_PKRU)
		return XSAVE_PKRU_OFFSET + XSAVE_PKRU_BYTES;
	return components & XCR0_AVX ? XSAVE_AVX_OFFSET + XSAVE_AVX_BYTES : XSAVE_LEGACY_BYTES;
}

static int x_xsave(struct cpu *cpu, const struct uop *u)
{
	uint64_t rfbm = requested(cpu) & cpu->xcr0, lin, xstate_bv;
	uint8_t area[FX_BYTES], header[8], pkru[8] = {0};
	struct piece p[7];
	unsigned n = 0;

	if (xsave_address(cpu, u, ACCESS_WRITE, &lin) ||
	    mem_probe_write(cpu, lin + area_end(rfbm) - 1, 1, (enum access_mode)cpu->mode) ||
	    ld64(cpu, lin + XSAVE_HEADER, &xstate_bv))
		return EXEC_STOP;
	save_x87(&cpu->fpu, u->dst, area);
	put_u32(area + FX_MXCSR, get_u32(cpu->fpu.fx + FX_MXCSR));
	put_u32(area + FX_MXCSR + 4, MXCSR_VALID);
	put_u32(pkru, cpu->pkru);
	put_u64(header, (xstate_bv & ~rfbm) | (components_in_use(cpu) & rfbm));
	if (rfbm & XCR0_X87) {
		p[n++] = (struct piece){0, FX_MXCSR, area};
		p[n++] = (struct piece){FX_ST(0), 128, area + FX_ST(0)};
	}
	if (rfbm & (XCR0_SSE | XCR0_AVX))
		p[n++] = (struct piece){FX_MXCSR, 8, area + FX_MXCSR};
	if (rfbm & XCR0_SSE)
		p[n++] = (struct piece){FX_XMM(0), xmm_bytes(cpu), cpu->fpu.fx + FX_XMM(0)};
	if (rfbm & XCR0_AVX)
		p[n++] = (struct piece){XSAVE_AVX_OFFSET, xmm_bytes(cpu), &cpu->fpu.ymm_hi[0][0]};
	if (rfbm & XCR0_PKRU)
		p[n++] = (struct piece){XSAVE_PKRU_OFFSET, 8, pkru};
	p[n++] = (struct piece){XSAVE_HEADER, 8, header};
	return write_pieces(cpu, lin, p, n);
}

static void restore_x87(struct cpu *cpu, bool rexw, const uint8_t *area, bool present)
{
	if (present) {
		load_x87(cpu, rexw, area);
		return;
	}
	fpu_init(&cpu->fpu);
	memset(cpu->fpu.fx + FX_ST(0), 0, 128);
}

/* Half of every vector register that the mode has, or zeros. */
static void restore_halves(struct cpu *cpu, uint8_t *to, const uint8_t *from, bool present)
{
	if (present)
		memcpy(to, from, xmm_bytes(cpu));
	else
		memset(to, 0, xmm_bytes(cpu));
}

/* Standard form only: XSTATE_BV within XCR0, XCOMP_BV and the next 8 bytes zero. */
static bool header_ok(const struct cpu *cpu, const uint8_t *header)
{
	return !(get_u64(header) & ~cpu->xcr0) && all_zero(header + 8, 16);
}

static int x_xrstor(struct cpu *cpu, const struct uop *u)
{
	uint64_t rfbm = requested(cpu) & cpu->xcr0, lin, present;
	uint8_t area[XSAVE_HEADER + HEADER_BYTES], ymm_hi[XSAVE_AVX_BYTES];
	uint32_t pkru = 0;

	if (xsave_address(cpu, u, ACCESS_READ, &lin) ||
	    fpu_read_area(cpu, lin + XSAVE_HEADER + 8, area + XSAVE_HEADER + 8, HEADER_BYTES - 8) ||
	    fpu_read_area(cpu, lin, area, XSAVE_HEADER + 8))
		return EXEC_STOP;
	if (!header_ok(cpu, area + XSAVE_HEADER))
		return raise_gp0(cpu);
	present = get_u64(area + XSAVE_HEADER);
	if ((rfbm & present & XCR0_AVX) && (ld8(cpu, lin + XSAVE_AVX_OFFSET + XSAVE_AVX_BYTES - 1, ymm_hi) ||
					    fpu_read_area(cpu, lin + XSAVE_AVX_OFFSET, ymm_hi, xmm_bytes(cpu))))
		return EXEC_STOP;
	if ((rfbm & (XCR0_SSE | XCR0_AVX)) && (get_u32(area + FX_MXCSR) & ~MXCSR_VALID))
		return raise_gp0(cpu);
	if ((rfbm & present & XCR0_PKRU) && ld32(cpu, lin + XSAVE_PKRU_OFFSET, &pkru))
		return EXEC_STOP;
	if (rfbm & XCR0_X87)
		restore_x87(cpu, u->dst, area, present & XCR0_X87);
	if (rfbm & (XCR0_SSE | XCR0_AVX))
		put_u32(cpu->fpu.fx + FX_MXCSR, get_u32(area + FX_MXCSR));
	if (rfbm & XCR0_SSE)
		restore_halves(cpu, cpu->fpu.fx + FX_XMM(0), area + FX_XMM(0), present & XCR0_SSE);
	if (rfbm & XCR0_AVX)
		restore_halves(cpu, &cpu->fpu.ymm_hi[0][0], ymm_hi, present & XCR0_AVX);
	if (rfbm & XCR0_PKRU) {
		if (unlikely(cpu->recorder))
			record_register(cpu, TRACE_PKRU, 0, pkru);
		cpu->pkru = pkru;
		cpu_update_mode(cpu);
	}
	return EXEC_LEAVE;
}

/* ---- lowering ---- */

bool lower_xsave(struct insn *in, struct uop *u)
{
	bool xsave = in->z.meta.isa_set == ZYDIS_ISA_SET_XSAVE;

	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64: u->exec = x_fxsave; break;
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64: u->exec = x_fxrstor; break;
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64: u->exec = x_xsave; break;
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
		u->exec = x_xrstor;
		in->ends_block = true;
		break;
	default: return false; /* XGETBV, XSETBV */
	}
	u->dst = in->z.raw.rex.W;
	if (!cpu_has(in->cpu, xsave ? CPUF_XSAVE : CPUF_FXSR) || (u->flags & UOP_LOCK))
		u->exec = exec_ud;
	return true;
}
