/*
 * Segmentation: reading descriptors, loading segment registers with all their
 * checks, and stacks as far transfers and event delivery use them.
 *
 * Source: SDM volume 3, "Protected-Mode Memory Management", "Protection";
 * instruction reference of MOV, POP, LDS.
 */
#include "cpu/segment.h"

uint32_t desc_limit(const struct desc *d)
{
	uint32_t limit = (uint32_t)(d->lo & 0xffff) | (uint32_t)(d->lo >> 32 & 0xf0000);

	return d->lo >> 55 & 1 ? limit << 12 | 0xfff : limit;
}

void desc_to_seg(const struct desc *d, uint16_t sel, struct seg *s)
{
	s->sel = sel;
	s->attr = desc_attr(d);
	s->limit = desc_limit(d);
	s->base = (d->lo >> 16 & 0xffffff) | (d->lo >> 32 & 0xff000000);
	if (desc_is_system(d))
		s->base |= d->hi << 32;
}

enum access_mode cpu_access_mode(const struct cpu *cpu, unsigned cpl)
{
	if (cpl == 3)
		return (cpu->rflags & RF_AC) && (cpu->cr0 & CR0_AM) ? MODE_USER_ALIGN : MODE_USER;
	/* Without SMAP too: what the two modes may do is then the same, and STAC need not ask. */
	return cpu->rflags & RF_AC ? MODE_SUPER_AC : MODE_SUPER;
}

/* ---- descriptors ---- */

bool desc_locate(const struct cpu *cpu, uint16_t sel, unsigned bytes, uint64_t *lin)
{
	unsigned off = sel & 0xfff8u;

	if (sel & 4) {
		if ((cpu->ldtr.attr & SEG_AR_UNUSABLE) || off + bytes - 1 > cpu->ldtr.limit)
			return false;
		*lin = cpu->ldtr.base + off;
	} else {
		if (off + bytes - 1 > cpu->gdtr.limit)
			return false;
		*lin = cpu->gdtr.base + off;
	}
	if (!cpu_lma(cpu))
		*lin = (uint32_t)*lin;
	return true;
}

int desc_read(struct cpu *cpu, uint16_t sel, uint8_t vector, unsigned ext, struct desc *d)
{
	d->hi = 0;
	if (!desc_locate(cpu, sel, 8, &d->lin))
		return raise_sel(cpu, vector, sel, ext);
	return table_read(cpu, d->lin, &d->lo, 8);
}

int desc_read_high(struct cpu *cpu, uint16_t sel, uint8_t vector, unsigned ext, struct desc *d)
{
	uint64_t lin;

	if (!desc_locate(cpu, sel, 16, &lin))
		return raise_sel(cpu, vector, sel, ext);
	return table_read(cpu, lin + 8, &d->hi, 8);
}

int desc_set_accessed(struct cpu *cpu, struct desc *d)
{
	uint8_t access;

	if (likely(d->lo >> 40 & SEG_AR_A))
		return 0;
	d->lo |= (uint64_t)SEG_AR_A << 40;
	access = (uint8_t)(d->lo >> 40);
	return sys_write(cpu, d->lin + 5, &access, 1);
}

int desc_set_busy(struct cpu *cpu, struct desc *d, bool busy)
{
	uint64_t bit = (uint64_t)DESC_TYPE_BUSY << 40;
	uint8_t access;

	d->lo = busy ? d->lo | bit : d->lo & ~bit;
	access = (uint8_t)(d->lo >> 40);
	return sys_write(cpu, d->lin + 5, &access, 1);
}

/* ---- loading segment registers ---- */

static void seg_changed(struct cpu *cpu, unsigned reg)
{
	if (cpu->long_mode && reg < SEG_FS)
		return;
	cpu->seg_base_eff[reg] = cpu->seg[reg].base;
}

void seg_load_null(struct cpu *cpu, unsigned reg, uint16_t sel)
{
	struct seg *s = &cpu->seg[reg];

	s->sel = sel;
	s->base = 0;
	s->limit = 0;
	s->attr = SEG_AR_UNUSABLE;
	if (reg == SEG_SS) /* its DPL is the CPL even so */
		s->attr |= SEG_AR_P | SEG_AR_S | SEG_AR_RW | SEG_AR_A | SEG_AR_DB |
			   (uint32_t)cpu->cpl << SEG_AR_DPL_SHIFT;
	seg_changed(cpu, reg);
}

void seg_load_real(struct cpu *cpu, unsigned reg, uint16_t sel)
{
	struct seg *s = &cpu->seg[reg];

	s->sel = sel;
	s->base = (uint64_t)sel << 4;
	if (cpu_v86(cpu)) {
		s->limit = 0xffff;
		s->attr = 0xf3;
	} else if (s->attr & SEG_AR_UNUSABLE) {
		s->limit = 0xffff;
		s->attr = 0x93;
	}
	seg_changed(cpu, reg);
}

void seg_load_flat_cs(struct cpu *cpu, uint16_t sel, unsigned dpl, bool long_code)
{
	cpu->seg[SEG_CS] = (struct seg){
		.sel = sel,
		.attr = (long_code ? 0xa09bu : 0xc09bu) | dpl << SEG_AR_DPL_SHIFT,
		.limit = 0xffffffff,
	};
}

void seg_load_flat_ss(struct cpu *cpu, uint16_t sel, unsigned dpl)
{
	cpu->seg[SEG_SS] = (struct seg){
		.sel = sel,
		.attr = 0xc093u | dpl << SEG_AR_DPL_SHIFT,
		.limit = 0xffffffff,
	};
}

static int check_ss(struct cpu *cpu, uint16_t sel, const struct desc *d)
{
	if ((sel & 3u) != cpu->cpl || !desc_is_writable_data(d) || desc_dpl(d) != cpu->cpl)
		return raise_sel(cpu, EXC_GP, sel, 0);
	if (!desc_present(d))
		return raise_sel(cpu, EXC_SS, sel, 0);
	return 0;
}

static int check_data(struct cpu *cpu, uint16_t sel, const struct desc *d)
{
	bool readable = !desc_is_code(d) || (desc_attr(d) & SEG_AR_RW);
	bool level_matters = !desc_is_code(d) || !desc_is_conforming(d);

	if (desc_is_system(d) || !readable)
		return raise_sel(cpu, EXC_GP, sel, 0);
	if (level_matters && ((sel & 3u) > desc_dpl(d) || cpu->cpl > desc_dpl(d)))
		return raise_sel(cpu, EXC_GP, sel, 0);
	if (!desc_present(d))
		return raise_sel(cpu, EXC_NP, sel, 0);
	return 0;
}

static int load_null(struct cpu *cpu, unsigned reg, uint16_t sel)
{
	if (reg == SEG_SS && (!cpu->long_mode || cpu->cpl == 3 || sel != cpu->cpl))
		return raise_gp0(cpu);
	seg_load_null(cpu, reg, sel);
	return 0;
}

int seg_load(struct cpu *cpu, unsigned reg, uint16_t sel)
{
	struct desc d;

	if (unlikely(cpu_real_or_v86(cpu))) {
		seg_load_real(cpu, reg, sel);
		return 0;
	}
	if (sel_is_null(sel))
		return load_null(cpu, reg, sel);
	if (desc_read(cpu, sel, EXC_GP, 0, &d))
		return EXEC_STOP;
	if (reg == SEG_SS ? check_ss(cpu, sel, &d) : check_data(cpu, sel, &d))
		return EXEC_STOP;
	if (desc_set_accessed(cpu, &d))
		return EXEC_STOP;
	desc_to_seg(&d, sel, &cpu->seg[reg]);
	seg_changed(cpu, reg);
	return 0;
}

void seg_drop_inaccessible(struct cpu *cpu, unsigned cpl)
{
	static const uint8_t regs[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	for (unsigned i = 0; i < ARRAY_SIZE(regs); i++) {
		const struct seg *s = &cpu->seg[regs[i]];
		bool conforming = (s->attr & (SEG_AR_CODE | SEG_AR_CE)) == (SEG_AR_CODE | SEG_AR_CE);

		if (!(s->attr & SEG_AR_UNUSABLE) && seg_dpl(s) < cpl && !conforming)
			seg_load_null(cpu, regs[i], 0);
	}
}

int seg_check_stack(struct cpu *cpu, uint16_t sel, unsigned cpl, uint8_t vector, unsigned ext, struct desc *d)
{
	if (sel_is_null(sel))
		return raise_exc_err(cpu, vector, ext);
	if (desc_read(cpu, sel, vector, ext, d))
		return EXEC_STOP;
	if ((sel & 3u) != cpl || desc_dpl(d) != cpl || !desc_is_writable_data(d))
		return raise_sel(cpu, vector, sel, ext);
	if (!desc_present(d))
		return raise_sel(cpu, EXC_SS, sel, ext);
	return 0;
}

/* ---- stacks of the TSS ---- */

static int read_tss(struct cpu *cpu, uint32_t off, unsigned bytes, unsigned ext, void *buf)
{
	uint64_t lin = cpu->tr.base + off;

	if (off + bytes - 1 > cpu->tr.limit)
		return raise_sel(cpu, EXC_TS, cpu->tr.sel, ext);
	return table_read(cpu, cpu_lma(cpu) ? lin : (uint32_t)lin, buf, bytes);
}

int tss_stack(struct cpu *cpu, unsigned cpl, unsigned ext, uint16_t *ss, uint32_t *esp)
{
	uint8_t b[6];

	if ((cpu->tr.attr & SEG_AR_TYPE) >= DESC_TSS32) {
		if (read_tss(cpu, 4 + 8 * cpl, 6, ext, b))
			return EXEC_STOP;
		*esp = get_u32(b);
		*ss = get_u16(b + 4);
	} else {
		if (read_tss(cpu, 2 + 4 * cpl, 4, ext, b))
			return EXEC_STOP;
		*esp = get_u16(b);
		*ss = get_u16(b + 2);
	}
	return 0;
}

int tss_stack64(struct cpu *cpu, unsigned slot_offset, unsigned ext, uint64_t *rsp)
{
	if (read_tss(cpu, slot_offset, 8, ext, rsp))
		return EXEC_STOP;
	if (!cpu_canonical(cpu, *rsp))
		return raise_exc_err(cpu, EXC_SS, ext);
	return 0;
}

/* ---- pushing and popping ---- */

bool seg_contains(const struct seg *s, uint32_t off, unsigned bytes)
{
	uint64_t last = (uint64_t)off + bytes - 1;

	if ((s->attr & (SEG_AR_S | SEG_AR_CODE | SEG_AR_CE)) == (SEG_AR_S | SEG_AR_CE))
		return off > s->limit && last <= (s->attr & SEG_AR_DB ? 0xffffffffu : 0xffffu);
	return last <= s->limit;
}

void fstack_current(const struct cpu *cpu, struct fstack *s)
{
	s->ss = cpu->seg[SEG_SS];
	s->flat = cpu->long_mode;
	s->mask = cpu->long_mode ? ~0ull : s->ss.attr & SEG_AR_DB ? 0xffffffff : 0xffff;
	s->sp = cpu->gpr[RSP] & s->mask;
	s->mode = (enum access_mode)cpu->mode;
	s->error = 0;
}

static int fstack_lin(struct cpu *cpu, const struct fstack *s, uint64_t sp, unsigned bytes, uint64_t *lin)
{
	if (s->flat) {
		*lin = sp;
		if (cpu_canonical(cpu, sp) && cpu_canonical(cpu, sp + bytes - 1))
			return 0;
	} else {
		*lin = (uint32_t)(s->ss.base + sp);
		if (seg_contains(&s->ss, (uint32_t)sp, bytes))
			return 0;
	}
	return raise_exc_err(cpu, EXC_SS, s->error);
}

int fstack_push(struct cpu *cpu, struct fstack *s, unsigned bytes, uint64_t v)
{
	uint64_t sp = (s->sp - bytes) & s->mask, lin;

	if (fstack_lin(cpu, s, sp, bytes, &lin) || mem_write_slow(cpu, lin, &v, bytes, s->mode))
		return EXEC_STOP;
	s->sp = sp;
	return 0;
}

int fstack_pop(struct cpu *cpu, struct fstack *s, unsigned bytes, uint64_t *v)
{
	uint64_t lin;

	*v = 0;
	if (fstack_lin(cpu, s, s->sp, bytes, &lin) || mem_read_slow(cpu, lin, v, bytes, s->mode))
		return EXEC_STOP;
	s->sp = (s->sp + bytes) & s->mask;
	return 0;
}

void fstack_commit(struct cpu *cpu, const struct fstack *s)
{
	uint64_t rsp = (cpu->gpr[RSP] & ~s->mask) | s->sp;

	cpu->gpr[RSP] = s->mask == 0xffffffff ? s->sp : rsp;
}
