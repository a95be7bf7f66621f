/*
 * Descriptor tables and what tests descriptors: LGDT, LIDT, SGDT, SIDT, LLDT,
 * LTR, SLDT, STR, LAR, LSL, VERR, VERW, ARPL.
 *
 * Source: SDM volume 2; volume 3, "Pointer Validation".
 */
#include "cpu/insn_system.h"

#include "cpu/flags.h"
#include "cpu/vmx.h"

/* ---- GDTR and IDTR: aux is the identity in VM-exit information ---- */

static int intercept_table(struct cpu *cpu, const struct uop *u)
{
	uint32_t info;

	if (likely(!cpu->vmx.nonroot))
		return 0;
	info = vmx_insn_info_mem(u) | u->aux << INSN_INFO_IDENTITY_SHIFT | (u->opsize == 2 ? 0 : INSN_INFO_OPSIZE32);
	return vmx_intercept_insn_info(cpu, u, EXIT_REASON_GDTR_IDTR, vmx_insn_displacement(cpu, u), info);
}

static bool umip_forbids(const struct cpu *cpu) { return (cpu->cr4 & CR4_UMIP) && cpu->cpl; }

static int x_store_table(struct cpu *cpu, const struct uop *u)
{
	const struct dtable *t = u->aux == INSN_ID_SGDT ? &cpu->gdtr : &cpu->idtr;
	unsigned bytes = cpu->long_mode ? 10 : 6;
	uint8_t b[10];
	uint64_t lin;

	if (umip_forbids(cpu))
		return raise_gp0(cpu);
	if (intercept_table(cpu, u))
		return EXEC_STOP;
	put_u16(b, t->limit);
	put_u64(b + 2, t->base);
	if (ea(cpu, u, bytes, ACCESS_WRITE, &lin) || mem_write(cpu, lin, b, bytes))
		return EXEC_STOP;
	return EXEC_NEXT;
}

static int x_load_table(struct cpu *cpu, const struct uop *u)
{
	struct dtable *t = u->aux == INSN_ID_LGDT ? &cpu->gdtr : &cpu->idtr;
	unsigned bytes = cpu->long_mode ? 10 : 6;
	uint8_t b[10] = {0};
	uint64_t lin, base;

	if (require_cpl0(cpu) || intercept_table(cpu, u))
		return EXEC_STOP;
	if (ea(cpu, u, bytes, ACCESS_READ, &lin) || mem_read(cpu, lin, b, bytes))
		return EXEC_STOP;
	base = get_u64(b + 2);
	if (!cpu->long_mode)
		base &= u->opsize == 2 ? 0xffffff : 0xffffffff;
	else if (!cpu_canonical_base(cpu, base))
		return raise_gp0(cpu);
	t->limit = get_u16(b);
	t->base = base;
	return EXEC_LEAVE;
}

/* ---- LDTR and TR ---- */

static int intercept_selector(struct cpu *cpu, const struct uop *u)
{
	uint32_t info = u->aux << INSN_INFO_IDENTITY_SHIFT;

	if (likely(!cpu->vmx.nonroot))
		return 0;
	if (u->flags & UOP_HAS_MEM)
		return vmx_intercept_insn_info(cpu, u, EXIT_REASON_LDTR_TR, vmx_insn_displacement(cpu, u),
					       info | vmx_insn_info_mem(u));
	info |= INSN_INFO_REG_FORM | (uint32_t)(u->dst / 8) << INSN_INFO_REG1_SHIFT;
	return vmx_intercept_insn_info(cpu, u, EXIT_REASON_LDTR_TR, 0, info);
}

static int x_store_selector(struct cpu *cpu, const struct uop *u)
{
	if (cpu_real_or_v86(cpu))
		return raise_ud(cpu);
	if (umip_forbids(cpu))
		return raise_gp0(cpu);
	if (intercept_selector(cpu, u))
		return EXEC_STOP;
	return store_rm16(cpu, u, u->aux == INSN_ID_SLDT ? cpu->ldtr.sel : cpu->tr.sel) ? EXEC_STOP : EXEC_NEXT;
}

/* Reads the system descriptor of an LDT or TSS, both halves in IA-32e mode. */
static int read_system_desc(struct cpu *cpu, uint16_t sel, struct desc *d)
{
	if (sel & 4)
		return raise_sel(cpu, EXC_GP, sel, 0);
	if (desc_read(cpu, sel, EXC_GP, 0, d))
		return EXEC_STOP;
	if (!cpu_lma(cpu))
		return 0;
	if (desc_read_high(cpu, sel, EXC_GP, 0, d))
		return EXEC_STOP;
	return d->hi >> 40 & 0x1f ? raise_sel(cpu, EXC_GP, sel, 0) : 0;
}

static int x_lldt(struct cpu *cpu, const struct uop *u)
{
	struct seg s = {.attr = SEG_AR_UNUSABLE};
	struct desc d;
	uint16_t sel;

	if (cpu_real_or_v86(cpu))
		return raise_ud(cpu);
	if (require_cpl0(cpu) || intercept_selector(cpu, u) || load_rm16(cpu, u, u->dst, &sel))
		return EXEC_STOP;
	s.sel = sel;
	if (!sel_is_null(sel)) {
		if (read_system_desc(cpu, sel, &d))
			return EXEC_STOP;
		if (!desc_is_system(&d) || desc_type(&d) != DESC_LDT)
			return raise_sel(cpu, EXC_GP, sel, 0);
		if (!desc_present(&d))
			return raise_sel(cpu, EXC_NP, sel, 0);
		desc_to_seg(&d, sel, &s);
		if (!cpu_canonical_base(cpu, s.base))
			return raise_sel(cpu, EXC_GP, sel, 0);
	}
	cpu->ldtr = s;
	return EXEC_LEAVE;
}

static int x_ltr(struct cpu *cpu, const struct uop *u)
{
	struct desc d;
	struct seg s;
	uint16_t sel;

	if (cpu_real_or_v86(cpu))
		return raise_ud(cpu);
	if (require_cpl0(cpu) || intercept_selector(cpu, u) || load_rm16(cpu, u, u->dst, &sel))
		return EXEC_STOP;
	if (sel_is_null(sel))
		return raise_gp0(cpu);
	if (read_system_desc(cpu, sel, &d))
		return EXEC_STOP;
	if (!desc_is_system(&d) ||
	    (desc_type(&d) != DESC_TSS32 && (desc_type(&d) != DESC_TSS16 || cpu_lma(cpu))))
		return raise_sel(cpu, EXC_GP, sel, 0);
	if (!desc_present(&d))
		return raise_sel(cpu, EXC_NP, sel, 0);
	desc_to_seg(&d, sel, &s);
	if (!cpu_canonical_base(cpu, s.base))
		return raise_sel(cpu, EXC_GP, sel, 0);
	if (desc_set_busy(cpu, &d, true))
		return EXEC_STOP;
	s.attr |= DESC_TYPE_BUSY;
	cpu->tr = s;
	return EXEC_LEAVE;
}

/* ---- tests of selectors: ZF says whether the answer is valid ---- */

static void set_zf(struct cpu *cpu, bool zf)
{
	cpu->cc = (uint16_t)((cpu->cc & ~CC_ZF) | (zf ? CC_ZF : 0));
}

/*
 * Finds the descriptor of @sel and checks what LAR, LSL, VERR and VERW have in
 * common. *ok: whether they may look at it. Returns 0 or EXEC_STOP.
 */
static int find_visible(struct cpu *cpu, uint16_t sel, struct desc *d, bool *ok)
{
	*ok = false;
	d->hi = 0;
	if (sel_is_null(sel) || !desc_locate(cpu, sel, 8, &d->lin))
		return 0;
	if (table_read(cpu, d->lin, &d->lo, 8))
		return EXEC_STOP;
	*ok = (desc_is_code(d) && desc_is_conforming(d)) || (cpu->cpl <= desc_dpl(d) && (sel & 3u) <= desc_dpl(d));
	return 0;
}

/* System types that LAR (@lar) or LSL accepts: bit n for type n. */
static bool system_type_ok(const struct cpu *cpu, unsigned type, bool lar)
{
	unsigned types = cpu_lma(cpu) ? (lar ? 0x1a04u : 0x0a04u) : (lar ? 0x1a3eu : 0x0a0eu);

	return types >> type & 1;
}

/* LAR, LSL: aux says which. */
static int x_lar_lsl(struct cpu *cpu, const struct uop *u)
{
	bool lar = u->aux, ok;
	struct desc d;
	uint32_t v;
	uint16_t sel;

	if (cpu_real_or_v86(cpu))
		return raise_ud(cpu);
	if (load_rm16(cpu, u, u->src, &sel) || find_visible(cpu, sel, &d, &ok))
		return EXEC_STOP;
	if (ok && desc_is_system(&d))
		ok = system_type_ok(cpu, desc_type(&d), lar);
	set_zf(cpu, ok);
	if (!ok)
		return EXEC_NEXT;
	v = lar ? (uint32_t)(d.lo >> 32) & 0xf0ff00 : desc_limit(&d);
	if (u->opsize == 2)
		w16(cpu, u->dst, (uint16_t)v);
	else
		w32(cpu, u->dst, v);
	return EXEC_NEXT;
}

/* VERR, VERW: aux is true for VERW. */
static int x_verify(struct cpu *cpu, const struct uop *u)
{
	struct desc d;
	uint16_t sel;
	bool ok;

	if (cpu_real_or_v86(cpu))
		return raise_ud(cpu);
	if (load_rm16(cpu, u, u->dst, &sel) || find_visible(cpu, sel, &d, &ok))
		return EXEC_STOP;
	if (ok && desc_is_system(&d))
		ok = false;
	else if (ok && u->aux)
		ok = desc_is_writable_data(&d);
	else if (ok)
		ok = !desc_is_code(&d) || (desc_attr(&d) & SEG_AR_RW);
	set_zf(cpu, ok);
	return EXEC_NEXT;
}

static int x_arpl(struct cpu *cpu, const struct uop *u)
{
	uint16_t v = r16(cpu, u->dst), rpl = r16(cpu, u->src) & 3;
	uint64_t lin = 0;
	bool mem = u->flags & UOP_HAS_MEM, adjust;

	if (cpu_real_or_v86(cpu))
		return raise_ud(cpu);
	if (mem && (ea(cpu, u, 2, ACCESS_WRITE, &lin) || rmw16(cpu, lin, &v)))
		return EXEC_STOP;
	adjust = (v & 3) < rpl;
	if (adjust)
		v = (uint16_t)((v & ~3) | rpl);
	if (mem && st16(cpu, lin, v))
		return EXEC_STOP;
	if (!mem)
		w16(cpu, u->dst, v);
	set_zf(cpu, adjust);
	return EXEC_NEXT;
}

static const struct sys_insn descriptor_table[] = {
	{ZYDIS_MNEMONIC_SGDT, x_store_table, SYS_MEM, NO_FEATURE, INSN_ID_SGDT},
	{ZYDIS_MNEMONIC_SIDT, x_store_table, SYS_MEM, NO_FEATURE, INSN_ID_SIDT},
	{ZYDIS_MNEMONIC_LGDT, x_load_table, SYS_MEM | SYS_ENDS, NO_FEATURE, INSN_ID_LGDT},
	{ZYDIS_MNEMONIC_LIDT, x_load_table, SYS_MEM | SYS_ENDS, NO_FEATURE, INSN_ID_LIDT},
	{ZYDIS_MNEMONIC_SLDT, x_store_selector, 0, NO_FEATURE, INSN_ID_SLDT},
	{ZYDIS_MNEMONIC_STR, x_store_selector, 0, NO_FEATURE, INSN_ID_STR},
	{ZYDIS_MNEMONIC_LLDT, x_lldt, SYS_ENDS, NO_FEATURE, INSN_ID_LLDT},
	{ZYDIS_MNEMONIC_LTR, x_ltr, SYS_ENDS, NO_FEATURE, INSN_ID_LTR},
	{ZYDIS_MNEMONIC_LAR, x_lar_lsl, 0, NO_FEATURE, true},
	{ZYDIS_MNEMONIC_LSL, x_lar_lsl, 0, NO_FEATURE, false},
	{ZYDIS_MNEMONIC_VERR, x_verify, 0, NO_FEATURE, false},
	{ZYDIS_MNEMONIC_VERW, x_verify, 0, NO_FEATURE, true},
	{ZYDIS_MNEMONIC_ARPL, x_arpl, SYS_NOT64, NO_FEATURE, 0},
};

bool lower_descriptor(struct insn *in, struct uop *u)
{
	return lower_from_table(in, u, descriptor_table, ARRAY_SIZE(descriptor_table));
}
