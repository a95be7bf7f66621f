/*
 * Hardware task switches, between 16- and 32-bit TSSs.
 *
 * Source: SDM volume 3, "Task Management" ("Task Switching"). Left out: the check of
 * PAE PDPTEs for reserved bits when a task switch loads CR3.
 */
#include "cpu/segment.h"

#include "cpu/record.h"
#include "cpu/vmx.h"

/* Offsets in a 32-bit TSS. */
enum {
	T32_CR3 = 28, T32_EIP = 32, T32_EFLAGS = 36, T32_GPR = 40, T32_SEG = 72, T32_LDT = 96,
	T32_TRAP = 100, T32_BYTES = 104,
};
/* Offsets in a 16-bit TSS. */
enum { T16_IP = 14, T16_FLAGS = 16, T16_GPR = 18, T16_SEG = 34, T16_LDT = 42, T16_BYTES = 44 };

/* What a TSS holds of a task; general-purpose and segment registers in encoding order. */
struct task {
	uint32_t cr3, eip, eflags, gpr[8];
	uint16_t seg[SEG_COUNT], ldt;
	unsigned segs; /* how many of them the TSS has */
	bool is32, trap;
};

static bool type_is_32(unsigned type) { return type >= DESC_TSS32; }

/* ---- reading and writing TSSs ---- */

/* Larger than one access may be: in pieces. */
static int read_bytes(struct cpu *cpu, uint32_t lin, uint8_t *b, unsigned bytes)
{
	for (unsigned at = 0; at < bytes; at += 52) {
		unsigned n = bytes - at < 52 ? bytes - at : 52;

		if (table_read(cpu, lin + at, b + at, n))
			return EXEC_STOP;
	}
	return 0;
}

static int read_task(struct cpu *cpu, uint64_t base, bool is32, struct task *t)
{
	uint8_t b[T32_BYTES];

	*t = (struct task){.is32 = is32, .segs = is32 ? SEG_COUNT : 4};
	if (read_bytes(cpu, (uint32_t)base, b, is32 ? T32_BYTES : T16_BYTES))
		return EXEC_STOP;
	for (unsigned i = 0; i < 8; i++)
		t->gpr[i] = is32 ? get_u32(b + T32_GPR + 4 * i) : 0xffff0000u | get_u16(b + T16_GPR + 2 * i);
	for (unsigned i = 0; i < t->segs; i++)
		t->seg[i] = get_u16(is32 ? b + T32_SEG + 4 * i : b + T16_SEG + 2 * i);
	t->eip = is32 ? get_u32(b + T32_EIP) : get_u16(b + T16_IP);
	t->eflags = is32 ? get_u32(b + T32_EFLAGS) : get_u16(b + T16_FLAGS);
	t->ldt = get_u16(b + (is32 ? T32_LDT : T16_LDT));
	if (is32) {
		t->cr3 = get_u32(b + T32_CR3);
		t->trap = b[T32_TRAP] & 1;
	}
	return 0;
}

/* The dynamic fields of the outgoing task: from EIP on to the last segment register. */
static int save_task(struct cpu *cpu, bool is32, uint32_t eip, uint32_t eflags)
{
	uint8_t b[T32_LDT - T32_EIP] = {0};
	uint32_t lin = (uint32_t)cpu->tr.base;

	if (!is32) {
		put_u16(b, (uint16_t)eip);
		put_u16(b + 2, (uint16_t)eflags);
		for (unsigned i = 0; i < 8; i++)
			put_u16(b + 4 + 2 * i, (uint16_t)cpu->gpr[i]);
		for (unsigned i = 0; i < 4; i++)
			put_u16(b + 20 + 2 * i, cpu->seg[i].sel);
		return sys_write(cpu, lin + T16_IP, b, T16_LDT - T16_IP);
	}
	put_u32(b, eip);
	put_u32(b + 4, eflags);
	for (unsigned i = 0; i < 8; i++)
		put_u32(b + 8 + 4 * i, (uint32_t)cpu->gpr[i]);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		put_u16(b + 40 + 4 * i, cpu->seg[i].sel);
	return sys_write(cpu, lin + T32_EIP, b, sizeof(b));
}

/* ---- checks on the new TSS ---- */

/* @vector: what a bad selector raises (#TS for IRET, else #GP). */
static int check_tss(struct cpu *cpu, uint16_t sel, bool iret, unsigned ext, struct desc *d)
{
	uint8_t vector = iret ? EXC_TS : EXC_GP;
	unsigned type;

	if (sel & 4 || sel_is_null(sel))
		return raise_sel(cpu, vector, sel, ext);
	if (desc_read(cpu, sel, vector, ext, d))
		return EXEC_STOP;
	type = desc_type(d);
	if (!desc_is_system(d) || (type & 5) != 1 || !(type & DESC_TYPE_BUSY) == iret)
		return raise_sel(cpu, vector, sel, ext);
	if (!desc_present(d))
		return raise_sel(cpu, EXC_NP, sel, ext);
	if (desc_limit(d) < (type_is_32(type) ? T32_BYTES : T16_BYTES) - 1)
		return raise_sel(cpu, EXC_TS, sel, ext);
	return 0;
}

/* ---- the busy bits and the link ---- */

static int release_old(struct cpu *cpu)
{
	struct desc d = {0};

	if (desc_read(cpu, cpu->tr.sel, EXC_TS, 0, &d))
		return EXEC_STOP;
	return desc_set_busy(cpu, &d, false);
}

/* ---- the new task's registers ---- */

static int task_fault(struct cpu *cpu, uint8_t vector, uint16_t sel, unsigned ext)
{
	return raise_sel(cpu, vector, sel, ext);
}

static int load_ldt(struct cpu *cpu, uint16_t sel, unsigned ext)
{
	struct desc d;

	cpu->ldtr = (struct seg){.sel = sel, .attr = SEG_AR_UNUSABLE};
	if (sel_is_null(sel))
		return 0;
	if (sel & 4)
		return task_fault(cpu, EXC_TS, sel, ext);
	if (desc_read(cpu, sel, EXC_TS, ext, &d))
		return EXEC_STOP;
	if (!desc_is_system(&d) || desc_type(&d) != DESC_LDT || !desc_present(&d))
		return task_fault(cpu, EXC_TS, sel, ext);
	desc_to_seg(&d, sel, &cpu->ldtr);
	return 0;
}

static int load_task_cs(struct cpu *cpu, uint16_t sel, unsigned ext)
{
	struct desc d;
	bool level_ok;

	if (sel_is_null(sel))
		return task_fault(cpu, EXC_TS, sel, ext);
	if (desc_read(cpu, sel, EXC_TS, ext, &d))
		return EXEC_STOP;
	level_ok = desc_is_conforming(&d) ? desc_dpl(&d) <= (sel & 3u) : desc_dpl(&d) == (sel & 3u);
	if (!desc_is_code(&d) || !level_ok)
		return task_fault(cpu, EXC_TS, sel, ext);
	if (!desc_present(&d))
		return task_fault(cpu, EXC_NP, sel, ext);
	if (desc_set_accessed(cpu, &d))
		return EXEC_STOP;
	desc_to_seg(&d, sel, &cpu->seg[SEG_CS]);
	return 0;
}

static int load_task_ss(struct cpu *cpu, uint16_t sel, unsigned ext)
{
	struct desc d;

	if (seg_check_stack(cpu, sel, cpu->cpl, EXC_TS, ext, &d) || desc_set_accessed(cpu, &d))
		return EXEC_STOP;
	desc_to_seg(&d, sel, &cpu->seg[SEG_SS]);
	return 0;
}

static int load_task_data(struct cpu *cpu, unsigned reg, uint16_t sel, unsigned ext)
{
	struct desc d;
	bool code, conforming;

	if (sel_is_null(sel))
		return 0;
	if (desc_read(cpu, sel, EXC_TS, ext, &d))
		return EXEC_STOP;
	code = desc_is_code(&d);
	conforming = code && desc_is_conforming(&d);
	if (desc_is_system(&d) || (code && !(desc_attr(&d) & SEG_AR_RW)) ||
	    (!conforming && (desc_dpl(&d) < cpu->cpl || desc_dpl(&d) < (sel & 3u))))
		return task_fault(cpu, EXC_TS, sel, ext);
	if (!desc_present(&d))
		return task_fault(cpu, EXC_NP, sel, ext);
	if (desc_set_accessed(cpu, &d))
		return EXEC_STOP;
	desc_to_seg(&d, sel, &cpu->seg[reg]);
	return 0;
}

static int load_segments(struct cpu *cpu, const struct task *t, unsigned ext)
{
	static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	if (load_ldt(cpu, t->ldt, ext))
		return EXEC_STOP;
	if (cpu_v86(cpu)) {
		for (unsigned i = 0; i < SEG_COUNT; i++)
			seg_load_real(cpu, i, t->seg[i]);
		return 0;
	}
	if (load_task_ss(cpu, t->seg[SEG_SS], ext) || load_task_cs(cpu, t->seg[SEG_CS], ext))
		return EXEC_STOP;
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
		if (load_task_data(cpu, data[i], t->seg[data[i]], ext))
			return EXEC_STOP;
	return t->eip > cpu->seg[SEG_CS].limit ? raise_exc_err(cpu, EXC_GP, ext) : 0;
}

/* CR3 of a 32-bit TSS, if paging is in force; PAE's PDPTEs with it. Returns 0 or EXEC_STOP. */
static int load_cr3(struct cpu *cpu, uint32_t cr3)
{
	bool changes = cr3 != cpu->cr3;
	uint64_t pdpte[4];

	if (!(cpu->cr0 & CR0_PG))
		return 0;
	if (cpu->cr4 & CR4_PAE) {
		if (cpu_read_pdptes(cpu, cr3, pdpte))
			return EXEC_STOP;
		memcpy(cpu->pdpte, pdpte, sizeof(pdpte));
	}
	if (unlikely(cpu->recorder && changes))
		record_register(cpu, TRACE_CR3, 0, cr3);
	cpu->cr3 = cr3;
	cpu_update_mode(cpu);
	/* A switch within an address space keeps its translations. */
	if (changes)
		mmu_flush_pcid(&cpu->mmu, 0);
	return 0;
}

/*
 * The commit point is behind: registers, then segments. The selectors are loaded
 * first, with nothing behind them, so that a fault finds the new task in place.
 */
static int enter_task(struct cpu *cpu, const struct task *t, unsigned ext)
{
	for (unsigned i = 0; i < 8; i++)
		cpu->gpr[i] = t->gpr[i];
	cpu->gpr[REG_RIP] = t->eip;
	cpu_set_rflags(cpu, t->eflags);
	cpu->cpl = t->seg[SEG_CS] & 3;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		if (i != SEG_CS)
			seg_load_null(cpu, i, t->seg[i]);
	cpu->seg[SEG_CS].sel = t->seg[SEG_CS];
	if ((t->is32 && load_cr3(cpu, t->cr3)) || load_segments(cpu, t, ext)) {
		cpu_update_mode(cpu);
		return EXEC_STOP;
	}
	cpu_update_mode(cpu);
	if (t->trap)
		cpu->db_pending |= DR6_BT;
	return 0;
}

static int push_error(struct cpu *cpu, bool is32, uint32_t error)
{
	struct fstack st;

	fstack_current(cpu, &st);
	if (fstack_push(cpu, &st, is32 ? 4 : 2, error))
		return EXEC_STOP;
	fstack_commit(cpu, &st);
	return 0;
}

int task_switch(struct cpu *cpu, uint16_t sel, enum task_cause cause, uint64_t next_rip, unsigned insn_len,
		unsigned ext, const uint32_t *error, bool *committed)
{
	static const uint8_t source[] = {TASK_QUAL_CALL, TASK_QUAL_IRET, TASK_QUAL_JMP, TASK_QUAL_GATE};
	bool nests = cause == TASK_CALL || cause == TASK_GATE, old32 = type_is_32(cpu->tr.attr & SEG_AR_TYPE);
	uint32_t eflags = (uint32_t)cpu_get_rflags(cpu);
	uint16_t link = cpu->tr.sel;
	struct desc d = {0};
	struct task t = {0};
	struct seg tr;

	if (check_tss(cpu, sel, cause == TASK_IRET, ext, &d) ||
	    vmx_exit_task_switch(cpu, sel | (uint64_t)source[cause] << TASK_QUAL_SOURCE_SHIFT, insn_len))
		return EXEC_STOP;
	desc_to_seg(&d, sel, &tr);
	if (cause == TASK_IRET)
		eflags &= ~(uint32_t)RF_NT;
	if (read_task(cpu, tr.base, type_is_32(desc_type(&d)), &t) ||
	    save_task(cpu, old32, (uint32_t)next_rip, eflags))
		return EXEC_STOP;
	if (!nests && release_old(cpu))
		return EXEC_STOP;
	if (cause != TASK_IRET && desc_set_busy(cpu, &d, true))
		return EXEC_STOP;
	if (nests && sys_write(cpu, (uint32_t)tr.base, &link, 2))
		return EXEC_STOP;
	cpu->tr = tr;
	cpu->tr.attr |= DESC_TYPE_BUSY;
	*committed = true;
	if (nests)
		t.eflags |= (uint32_t)RF_NT;
	cpu->cr0 |= CR0_TS;
	cpu->dr7 &= ~0x155ull; /* local breakpoints */
	if (enter_task(cpu, &t, ext) || (error && push_error(cpu, t.is32, *error)))
		return EXEC_STOP;
	return 0;
}
