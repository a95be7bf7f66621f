/*
 * Far transfers: JMP, CALL and RET to another code segment, through call gates,
 * TSSs and task gates; IRET.
 *
 * Source: SDM volume 2, "JMP", "CALL", "RET", "IRET"; volume 3, "Privilege Levels".
 * A transfer checks everything and touches all memory before it changes a register.
 */
#include "cpu/insn_system.h"

#include "cpu/flags.h"
#include "cpu/vmx.h"

/* ---- code segments ---- */

/* 64-bit code is only known in IA-32e mode; L and D together are reserved there. */
static bool bad_long_bits(const struct cpu *cpu, const struct desc *d)
{
	return cpu_lma(cpu) && desc_is_long_code(d) && (desc_attr(d) & SEG_AR_DB);
}

/* Is @rip inside the code segment, or canonical if that is 64-bit code? */
static bool target_ok(const struct cpu *cpu, const struct desc *cs, uint64_t rip)
{
	if (cpu_lma(cpu) && desc_is_long_code(cs))
		return cpu_canonical(cpu, rip);
	return rip <= desc_limit(cs);
}

/* Loads CS for code at @cpl. SS must have been loaded before: the CPL is its DPL. */
static void load_cs(struct cpu *cpu, const struct desc *cs, uint16_t sel, unsigned cpl)
{
	desc_to_seg(cs, (uint16_t)((sel & ~3u) | cpl), &cpu->seg[SEG_CS]);
}

static int finish(struct cpu *cpu, uint64_t rip)
{
	cpu->gpr[REG_RIP] = rip;
	cpu_update_cpl(cpu);
	return EXEC_LEAVE;
}

static uint64_t operand_mask(unsigned bytes) { return bytes == 8 ? ~0ull : (1ull << 8 * bytes) - 1; }

/* ---- real mode and virtual-8086 mode ---- */

static int far_real(struct cpu *cpu, const struct uop *u, uint16_t sel, uint64_t off, bool call)
{
	struct fstack st;

	if (off > 0xffff && off > cpu->seg[SEG_CS].limit)
		return raise_gp0(cpu);
	fstack_current(cpu, &st);
	if (call && (fstack_push(cpu, &st, u->opsize, cpu->seg[SEG_CS].sel) ||
		     fstack_push(cpu, &st, u->opsize, uop_next_rip(cpu, u))))
		return EXEC_STOP;
	fstack_commit(cpu, &st);
	seg_load_real(cpu, SEG_CS, sel);
	return finish(cpu, off);
}

/* ---- tasks ---- */

static int far_task(struct cpu *cpu, const struct uop *u, uint16_t sel, bool call)
{
	uint64_t start = cpu->gpr[REG_RIP];
	bool committed = false;

	if (task_switch(cpu, sel, call ? TASK_CALL : TASK_JMP, uop_next_rip(cpu, u), u->len, 0, NULL, &committed)) {
		/* A fault in the new task: the run loop adds the instruction's offset to RIP. */
		cpu->gpr[REG_RIP] = committed ? cpu->gpr[REG_RIP] - u->off : start;
		return EXEC_STOP;
	}
	return EXEC_LEAVE;
}

/* A TSS or task gate as the target. */
static int far_task_desc(struct cpu *cpu, const struct uop *u, uint16_t sel, const struct desc *d, bool call)
{
	if (desc_dpl(d) < cpu->cpl || desc_dpl(d) < (sel & 3u))
		return raise_sel(cpu, EXC_GP, sel, 0);
	if (!desc_present(d))
		return raise_sel(cpu, EXC_NP, sel, 0);
	return far_task(cpu, u, desc_type(d) == DESC_TASK_GATE ? gate_selector(d) : sel, call);
}

/* ---- call gates ---- */

struct gate {
	uint16_t sel;
	uint64_t off;
	unsigned bytes;  /* of what is pushed */
	unsigned params; /* parameters copied to an inner stack */
};

static int read_gate(struct cpu *cpu, uint16_t sel, struct desc *d, struct gate *g)
{
	unsigned type = desc_type(d);

	if (desc_dpl(d) < cpu->cpl || desc_dpl(d) < (sel & 3u))
		return raise_sel(cpu, EXC_GP, sel, 0);
	if (cpu_lma(cpu)) {
		if (desc_read_high(cpu, sel, EXC_GP, 0, d))
			return EXEC_STOP;
		if (d->hi >> 40 & 0x1f)
			return raise_sel(cpu, EXC_GP, sel, 0);
	}
	if (!desc_present(d))
		return raise_sel(cpu, EXC_NP, sel, 0);
	g->sel = gate_selector(d);
	g->off = type == DESC_CALL16 ? (uint16_t)gate_offset(d) : gate_offset(d);
	g->bytes = type == DESC_CALL16 ? 2 : 4;
	g->params = d->lo >> 32 & 31;
	if (cpu_lma(cpu)) {
		g->off |= d->hi << 32;
		g->bytes = 8;
		g->params = 0;
	}
	return 0;
}

static int read_gate_cs(struct cpu *cpu, const struct gate *g, bool call, struct desc *cs)
{
	bool level_ok;

	if (sel_is_null(g->sel))
		return raise_gp0(cpu);
	if (desc_read(cpu, g->sel, EXC_GP, 0, cs))
		return EXEC_STOP;
	level_ok = desc_is_conforming(cs) || call ? desc_dpl(cs) <= cpu->cpl : desc_dpl(cs) == cpu->cpl;
	if (!desc_is_code(cs) || !level_ok)
		return raise_sel(cpu, EXC_GP, g->sel, 0);
	if (cpu_lma(cpu) && (!desc_is_long_code(cs) || (desc_attr(cs) & SEG_AR_DB)))
		return raise_sel(cpu, EXC_GP, g->sel, 0);
	if (!desc_present(cs))
		return raise_sel(cpu, EXC_NP, g->sel, 0);
	return 0;
}

/* The stack of the inner level; in IA-32e mode SS becomes null. */
static int inner_stack(struct cpu *cpu, unsigned cpl, struct fstack *st)
{
	struct desc d;
	uint16_t sel;
	uint32_t esp;

	st->mode = cpu_access_mode(cpu, cpl);
	if (cpu_lma(cpu)) {
		st->flat = true;
		st->mask = ~0ull;
		st->error = 0;
		return tss_stack64(cpu, 4 + 8 * cpl, 0, &st->sp);
	}
	if (tss_stack(cpu, cpl, 0, &sel, &esp) || seg_check_stack(cpu, sel, cpl, EXC_TS, 0, &d) ||
	    desc_set_accessed(cpu, &d))
		return EXEC_STOP;
	desc_to_seg(&d, sel, &st->ss);
	st->flat = false;
	st->mask = st->ss.attr & SEG_AR_DB ? 0xffffffff : 0xffff;
	st->sp = esp & st->mask;
	st->error = sel & 0xfffcu;
	return 0;
}

static int copy_params(struct cpu *cpu, struct fstack *to, const struct gate *g)
{
	struct fstack from;
	uint64_t v[32];

	fstack_current(cpu, &from);
	for (unsigned i = 0; i < g->params; i++)
		if (fstack_pop(cpu, &from, g->bytes, &v[i]))
			return EXEC_STOP;
	for (unsigned i = g->params; i-- > 0;)
		if (fstack_push(cpu, to, g->bytes, v[i]))
			return EXEC_STOP;
	return 0;
}

static int call_inner(struct cpu *cpu, const struct uop *u, const struct gate *g, struct desc *cs)
{
	unsigned cpl = desc_dpl(cs);
	struct fstack st = {0};

	if (inner_stack(cpu, cpl, &st))
		return EXEC_STOP;
	if (fstack_push(cpu, &st, g->bytes, cpu->seg[SEG_SS].sel) || fstack_push(cpu, &st, g->bytes, cpu->gpr[RSP]) ||
	    copy_params(cpu, &st, g) || fstack_push(cpu, &st, g->bytes, cpu->seg[SEG_CS].sel) ||
	    fstack_push(cpu, &st, g->bytes, uop_next_rip(cpu, u)) || desc_set_accessed(cpu, cs))
		return EXEC_STOP;
	cpu->cpl = (uint8_t)cpl;
	if (st.flat)
		seg_load_null(cpu, SEG_SS, (uint16_t)cpl);
	else
		cpu->seg[SEG_SS] = st.ss;
	load_cs(cpu, cs, g->sel, cpl);
	fstack_commit(cpu, &st);
	return finish(cpu, g->off);
}

static int far_gate(struct cpu *cpu, const struct uop *u, uint16_t sel, struct desc *d, bool call)
{
	struct fstack st;
	struct desc cs;
	struct gate g = {0};

	if (read_gate(cpu, sel, d, &g) || read_gate_cs(cpu, &g, call, &cs))
		return EXEC_STOP;
	if (!target_ok(cpu, &cs, g.off))
		return raise_gp0(cpu);
	if (call && !desc_is_conforming(&cs) && desc_dpl(&cs) < cpu->cpl)
		return call_inner(cpu, u, &g, &cs);
	fstack_current(cpu, &st);
	if (call && (fstack_push(cpu, &st, g.bytes, cpu->seg[SEG_CS].sel) ||
		     fstack_push(cpu, &st, g.bytes, uop_next_rip(cpu, u))))
		return EXEC_STOP;
	if (desc_set_accessed(cpu, &cs))
		return EXEC_STOP;
	fstack_commit(cpu, &st);
	load_cs(cpu, &cs, g.sel, cpu->cpl);
	return finish(cpu, g.off);
}

/* ---- direct: a code segment ---- */

static int far_code(struct cpu *cpu, const struct uop *u, uint16_t sel, uint64_t off, struct desc *cs, bool call)
{
	struct fstack st;
	bool level_ok = desc_is_conforming(cs) ? desc_dpl(cs) <= cpu->cpl
					       : desc_dpl(cs) == cpu->cpl && (sel & 3u) <= cpu->cpl;

	if (!level_ok || bad_long_bits(cpu, cs))
		return raise_sel(cpu, EXC_GP, sel, 0);
	if (!desc_present(cs))
		return raise_sel(cpu, EXC_NP, sel, 0);
	fstack_current(cpu, &st);
	if (call && (fstack_push(cpu, &st, u->opsize, cpu->seg[SEG_CS].sel) ||
		     fstack_push(cpu, &st, u->opsize, uop_next_rip(cpu, u))))
		return EXEC_STOP;
	if (!target_ok(cpu, cs, off))
		return raise_gp0(cpu);
	if (desc_set_accessed(cpu, cs))
		return EXEC_STOP;
	fstack_commit(cpu, &st);
	load_cs(cpu, cs, sel, cpu->cpl);
	return finish(cpu, off);
}

static int far_to(struct cpu *cpu, const struct uop *u, uint16_t sel, uint64_t off, bool call)
{
	struct desc d;

	if (cpu_real_or_v86(cpu))
		return far_real(cpu, u, sel, off, call);
	if (sel_is_null(sel))
		return raise_gp0(cpu);
	if (desc_read(cpu, sel, EXC_GP, 0, &d))
		return EXEC_STOP;
	if (desc_is_code(&d))
		return far_code(cpu, u, sel, off, &d, call);
	if (!desc_is_system(&d))
		return raise_sel(cpu, EXC_GP, sel, 0);
	switch (desc_type(&d)) {
	case DESC_CALL16:
		return cpu_lma(cpu) ? raise_sel(cpu, EXC_GP, sel, 0) : far_gate(cpu, u, sel, &d, call);
	case DESC_CALL32:
		return far_gate(cpu, u, sel, &d, call);
	case DESC_TSS16: case DESC_TSS32: case DESC_TASK_GATE:
		return cpu_lma(cpu) ? raise_sel(cpu, EXC_GP, sel, 0) : far_task_desc(cpu, u, sel, &d, call);
	default:
		return raise_sel(cpu, EXC_GP, sel, 0);
	}
}

/* JMP, CALL with a pointer: the selector is in disp, the offset in imm, aux says CALL. */
static int x_far_direct(struct cpu *cpu, const struct uop *u)
{
	return far_to(cpu, u, (uint16_t)u->disp, u->imm, u->aux);
}

static int x_far_indirect(struct cpu *cpu, const struct uop *u)
{
	uint8_t b[10];
	uint64_t lin;

	if (ea(cpu, u, u->opsize + 2u, ACCESS_READ, &lin) || mem_read(cpu, lin, b, u->opsize + 2u))
		return EXEC_STOP;
	return far_to(cpu, u, get_u16(b + u->opsize), get_u64(b) & operand_mask(u->opsize), u->aux);
}

/* ---- returns ---- */

/* What a far return pops. */
struct frame {
	uint64_t rip, rflags, rsp;
	uint16_t cs, ss;
};

static int check_return_cs(struct cpu *cpu, uint16_t sel, struct desc *cs)
{
	unsigned rpl = sel & 3;

	if (sel_is_null(sel))
		return raise_gp0(cpu);
	if (desc_read(cpu, sel, EXC_GP, 0, cs))
		return EXEC_STOP;
	if (!desc_is_code(cs) || rpl < cpu->cpl || bad_long_bits(cpu, cs))
		return raise_sel(cpu, EXC_GP, sel, 0);
	if (desc_is_conforming(cs) ? desc_dpl(cs) > rpl : desc_dpl(cs) != rpl)
		return raise_sel(cpu, EXC_GP, sel, 0);
	if (!desc_present(cs))
		return raise_sel(cpu, EXC_NP, sel, 0);
	return 0;
}

/* SS of the level returned to; null only below 64-bit code of levels 0 to 2. Loads *ss. */
static int check_return_ss(struct cpu *cpu, uint16_t sel, unsigned cpl, const struct desc *cs, struct seg *ss)
{
	struct desc d;

	if (sel_is_null(sel) && cpu_lma(cpu) && desc_is_long_code(cs) && cpl != 3) {
		if ((sel & 3u) != cpl)
			return raise_gp0(cpu);
		*ss = (struct seg){.sel = sel, .attr = SEG_AR_UNUSABLE | 0x4093u | cpl << SEG_AR_DPL_SHIFT};
		return 0;
	}
	if (seg_check_stack(cpu, sel, cpl, EXC_GP, 0, &d) || desc_set_accessed(cpu, &d))
		return EXEC_STOP;
	desc_to_seg(&d, sel, ss);
	return 0;
}

/* RSP after a return that popped it: as wide as the new stack. */
static void set_stack_pointer(struct cpu *cpu, uint64_t sp)
{
	if (cpu->seg[SEG_CS].attr & SEG_AR_L && cpu_lma(cpu))
		cpu->gpr[RSP] = sp;
	else if (cpu->seg[SEG_SS].attr & SEG_AR_DB)
		cpu->gpr[RSP] = (uint32_t)sp;
	else
		cpu->gpr[RSP] = (cpu->gpr[RSP] & ~0xffffull) | (uint16_t)sp;
}

static int retf_outer(struct cpu *cpu, const struct uop *u, struct fstack *st, const struct frame *f, struct desc *cs)
{
	unsigned cpl = f->cs & 3;
	uint64_t rsp, ss_sel;
	struct seg ss;

	st->sp = (st->sp + u->imm) & st->mask;
	if (fstack_pop(cpu, st, u->opsize, &rsp) || fstack_pop(cpu, st, u->opsize, &ss_sel) ||
	    check_return_ss(cpu, (uint16_t)ss_sel, cpl, cs, &ss))
		return EXEC_STOP;
	if (!target_ok(cpu, cs, f->rip))
		return raise_gp0(cpu);
	if (desc_set_accessed(cpu, cs))
		return EXEC_STOP;
	load_cs(cpu, cs, f->cs, cpl);
	cpu->seg[SEG_SS] = ss;
	set_stack_pointer(cpu, rsp + u->imm);
	finish(cpu, f->rip);
	seg_drop_inaccessible(cpu, cpl);
	return EXEC_LEAVE;
}

static int retf_real(struct cpu *cpu, struct fstack *st, const struct frame *f, uint64_t release)
{
	if (f->rip > 0xffff && f->rip > cpu->seg[SEG_CS].limit)
		return raise_gp0(cpu);
	st->sp = (st->sp + release) & st->mask;
	fstack_commit(cpu, st);
	seg_load_real(cpu, SEG_CS, f->cs);
	return finish(cpu, f->rip);
}

/* imm: bytes of parameters to release */
static int x_retf(struct cpu *cpu, const struct uop *u)
{
	struct frame f = {0};
	struct fstack st;
	struct desc cs;
	uint64_t sel;

	fstack_current(cpu, &st);
	if (fstack_pop(cpu, &st, u->opsize, &f.rip) || fstack_pop(cpu, &st, u->opsize, &sel))
		return EXEC_STOP;
	f.cs = (uint16_t)sel;
	if (cpu_real_or_v86(cpu))
		return retf_real(cpu, &st, &f, u->imm);
	if (check_return_cs(cpu, f.cs, &cs))
		return EXEC_STOP;
	if ((f.cs & 3u) > cpu->cpl)
		return retf_outer(cpu, u, &st, &f, &cs);
	if (!target_ok(cpu, &cs, f.rip))
		return raise_gp0(cpu);
	if (desc_set_accessed(cpu, &cs))
		return EXEC_STOP;
	st.sp = (st.sp + u->imm) & st.mask;
	fstack_commit(cpu, &st);
	load_cs(cpu, &cs, f.cs, cpu->cpl);
	return finish(cpu, f.rip);
}

/* ---- IRET ---- */

/* Loads the flags that the privilege before the return allows. */
static void iret_flags(struct cpu *cpu, uint64_t image, unsigned bytes, unsigned cpl)
{
	uint64_t old = cpu_get_rflags(cpu), mask = RF_ARITH | RF_TF | RF_DF | RF_NT;

	if (bytes > 2)
		mask |= RF_RF | RF_AC | RF_ID;
	if (cpl <= cpu_iopl(cpu))
		mask |= RF_IF;
	if (cpl == 0)
		mask |= RF_IOPL | (bytes > 2 ? RF_VIF | RF_VIP : 0);
	cpu_set_rflags(cpu, (old & ~mask) | (image & mask));
}

/* Switches to the frame whose segments have been checked. */
static int iret_commit(struct cpu *cpu, const struct uop *u, const struct frame *f, const struct desc *cs,
		       const struct seg *ss)
{
	unsigned old = cpu->cpl, cpl = f->cs & 3;

	iret_flags(cpu, f->rflags, u->opsize, old);
	load_cs(cpu, cs, f->cs, cpl);
	if (ss) {
		cpu->seg[SEG_SS] = *ss;
		set_stack_pointer(cpu, f->rsp);
	}
	finish(cpu, f->rip);
	if (cpl > old)
		seg_drop_inaccessible(cpu, cpl);
	return EXEC_LEAVE;
}

/* From 64-bit mode: SS and RSP are always popped. */
static int read_frame64(struct cpu *cpu, unsigned bytes, struct frame *f)
{
	uint64_t lin = cpu->gpr[RSP], mask = operand_mask(bytes);
	const uint8_t *host = mmu_fast_data(&cpu->mmu, lin, 40, ACCESS_READ, (enum access_mode)cpu->mode);
	uint8_t b[48];

	if (likely(host)) {
		memcpy(b, host, 40);
	} else {
		if (!cpu_canonical(cpu, lin) || !cpu_canonical(cpu, lin + 5 * bytes - 1))
			return raise_exc_err(cpu, EXC_SS, 0);
		if (mem_read(cpu, lin, b, 5 * bytes))
			return EXEC_STOP;
	}
	f->rip = get_u64(b) & mask;
	f->cs = get_u16(b + bytes);
	f->rflags = get_u64(b + 2 * bytes) & mask;
	f->rsp = get_u64(b + 3 * bytes) & mask;
	f->ss = get_u16(b + 4 * bytes);
	return 0;
}

static int iret_long(struct cpu *cpu, const struct uop *u)
{
	struct frame f = {0};
	struct desc cs;
	struct seg ss;

	if (cpu->rflags & RF_NT)
		return raise_gp0(cpu);
	if (read_frame64(cpu, u->opsize, &f) || check_return_cs(cpu, f.cs, &cs))
		return EXEC_STOP;
	if (check_return_ss(cpu, f.ss, f.cs & 3, &cs, &ss))
		return EXEC_STOP;
	if (!target_ok(cpu, &cs, f.rip))
		return raise_gp0(cpu);
	if (desc_set_accessed(cpu, &cs))
		return EXEC_STOP;
	return iret_commit(cpu, u, &f, &cs, &ss);
}

static int pop_frame(struct cpu *cpu, struct fstack *st, unsigned bytes, struct frame *f)
{
	uint64_t cs;

	if (fstack_pop(cpu, st, bytes, &f->rip) || fstack_pop(cpu, st, bytes, &cs) ||
	    fstack_pop(cpu, st, bytes, &f->rflags))
		return EXEC_STOP;
	f->cs = (uint16_t)cs;
	return 0;
}

/* To virtual-8086 mode, from CPL 0 only. */
static int iret_to_v86(struct cpu *cpu, struct fstack *st, const struct frame *f)
{
	static const uint8_t order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	uint64_t esp, sel[ARRAY_SIZE(order)];

	if (fstack_pop(cpu, st, 4, &esp))
		return EXEC_STOP;
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		if (fstack_pop(cpu, st, 4, &sel[i]))
			return EXEC_STOP;
	if (f->rip > 0xffff)
		return raise_gp0(cpu);
	cpu_set_rflags(cpu, f->rflags);
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		seg_load_real(cpu, order[i], (uint16_t)sel[i]);
	seg_load_real(cpu, SEG_CS, f->cs);
	cpu->gpr[RSP] = esp;
	cpu->gpr[REG_RIP] = f->rip;
	cpu_update_mode(cpu);
	return EXEC_LEAVE;
}

static int iret_task(struct cpu *cpu, const struct uop *u)
{
	uint64_t start = cpu->gpr[REG_RIP];
	bool committed = false;
	uint16_t link;

	if (table_read(cpu, (uint32_t)cpu->tr.base, &link, 2))
		return EXEC_STOP;
	if (task_switch(cpu, link, TASK_IRET, uop_next_rip(cpu, u), u->len, 0, NULL, &committed)) {
		cpu->gpr[REG_RIP] = committed ? cpu->gpr[REG_RIP] - u->off : start;
		return EXEC_STOP;
	}
	return EXEC_LEAVE;
}

/* From protected mode or compatibility mode. */
static int iret_protected(struct cpu *cpu, const struct uop *u)
{
	struct frame f = {0};
	struct seg outer_ss;
	struct fstack st;
	struct desc cs;
	uint64_t ss;
	bool outer;

	if (cpu->rflags & RF_NT)
		return cpu_lma(cpu) ? raise_gp0(cpu) : iret_task(cpu, u);
	fstack_current(cpu, &st);
	if (pop_frame(cpu, &st, u->opsize, &f))
		return EXEC_STOP;
	if ((f.rflags & RF_VM) && u->opsize == 4 && cpu->cpl == 0 && !cpu_lma(cpu))
		return iret_to_v86(cpu, &st, &f);
	if (check_return_cs(cpu, f.cs, &cs))
		return EXEC_STOP;
	outer = (f.cs & 3u) > cpu->cpl;
	if (outer) {
		if (fstack_pop(cpu, &st, u->opsize, &f.rsp) || fstack_pop(cpu, &st, u->opsize, &ss) ||
		    check_return_ss(cpu, (uint16_t)ss, f.cs & 3, &cs, &outer_ss))
			return EXEC_STOP;
	}
	if (!target_ok(cpu, &cs, f.rip))
		return raise_gp0(cpu);
	if (desc_set_accessed(cpu, &cs))
		return EXEC_STOP;
	if (!outer)
		fstack_commit(cpu, &st);
	iret_commit(cpu, u, &f, &cs, outer ? &outer_ss : NULL);
	cpu_update_mode(cpu);
	return EXEC_LEAVE;
}

/* Real mode, and virtual-8086 mode, where IOPL itself stays; with IOPL below 3 and VME VIF takes the place of IF. */
static int iret_real(struct cpu *cpu, const struct uop *u)
{
	bool virtual = cpu_v86(cpu) && cpu_iopl(cpu) < 3;
	uint64_t old = cpu_get_rflags(cpu), mask;
	struct frame f = {0};
	struct fstack st;

	if (virtual && !(cpu_vme(cpu) && u->opsize == 2))
		return raise_gp0(cpu);
	fstack_current(cpu, &st);
	if (pop_frame(cpu, &st, u->opsize, &f))
		return EXEC_STOP;
	if (f.rip > 0xffff && f.rip > cpu->seg[SEG_CS].limit)
		return raise_gp0(cpu);
	mask = RF_ARITH | RF_TF | RF_IF | RF_DF | RF_NT | (cpu_v86(cpu) ? 0 : RF_IOPL);
	if (u->opsize == 4)
		mask |= RF_RF | RF_AC | RF_ID;
	if (virtual && cpu_take_virtual_flags(cpu, &f.rflags, &mask))
		return EXEC_STOP;
	cpu_set_rflags(cpu, (old & ~mask) | (f.rflags & mask));
	fstack_commit(cpu, &st);
	seg_load_real(cpu, SEG_CS, f.cs);
	return finish(cpu, f.rip);
}

/* IRET ends blocking by NMI even if it faults (SDM "Handling Multiple NMIs"). */
static void unblock_nmi(struct cpu *cpu)
{
	cpu->vmx.nmi_unblocking_iret = false;
	if (likely(!cpu->nmi_blocked) || !vmx_iret_unblocks_nmi(cpu))
		return;
	cpu->nmi_blocked = false;
	cpu->vmx.nmi_unblocking_iret = true;
}

static int x_iret(struct cpu *cpu, const struct uop *u)
{
	int r;

	unblock_nmi(cpu);
	if (likely(cpu->long_mode))
		r = iret_long(cpu, u);
	else
		r = cpu_real_or_v86(cpu) ? iret_real(cpu, u) : iret_protected(cpu, u);
	if (r != EXEC_STOP)
		cpu->vmx.nmi_unblocking_iret = false;
	return r;
}

/* ---- lowering ---- */

static bool lower_far_branch(struct insn *in, struct uop *u)
{
	u->aux = in->z.mnemonic == ZYDIS_MNEMONIC_CALL;
	u->flags |= UOP_SETS_RIP;
	in->ends_block = true;
	if (op_is_mem(in, 0)) {
		u->exec = x_far_indirect;
		/* 64-bit mode: m16:32 unless REX.W */
		u->opsize = (uint8_t)(in->op[0].size / 8 - 2);
		return true;
	}
	u->exec = x_far_direct;
	u->disp = in->op[0].ptr.segment;
	u->imm = in->op[0].ptr.offset & operand_mask(u->opsize);
	return true;
}

bool lower_far(struct insn *in, struct uop *u)
{
	bool far = in->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;

	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_CALL: case ZYDIS_MNEMONIC_JMP:
		return far && lower_far_branch(in, u);
	case ZYDIS_MNEMONIC_RET:
		if (!far)
			return false;
		u->exec = x_retf;
		u->imm = op_is_imm(in, 0) ? (uint16_t)in->op[0].imm.value.u : 0;
		break;
	case ZYDIS_MNEMONIC_IRET: case ZYDIS_MNEMONIC_IRETD: case ZYDIS_MNEMONIC_IRETQ:
		u->exec = x_iret;
		u->opsize = in->z.mnemonic == ZYDIS_MNEMONIC_IRET ? 2 : in->z.mnemonic == ZYDIS_MNEMONIC_IRETD ? 4 : 8;
		break;
	default:
		return lower_event(in, u);
	}
	u->flags |= UOP_SETS_RIP;
	in->ends_block = true;
	return true;
}
