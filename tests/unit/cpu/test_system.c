/*
 * System behaviour outside 64-bit mode, where guest programs seldom go: 32- and
 * 16-bit gates, stack switches, call gates, task switches, virtual-8086 mode,
 * real mode; double and triple faults; control registers, MSRs, CPUID and the
 * configuration. Small programs run on a processor whose state the test sets.
 */
#include "cpu/block.h"
#include "cpu/cpu.h"
#include "cpu/cpuid.h"
#include "cpu/msr.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define RAM_BYTES (4u << 20)
enum {
	IVT_AT = 0x0, GDT_AT = 0x2000, IDT_AT = 0x3000, TSS_AT = 0x4000, TSS2_AT = 0x5000, LDT_AT = 0x6000,
	HANDLERS_AT = 0x8000, CODE_AT = 0x10000, TASK_CODE_AT = 0x11000, STACK0_AT = 0x20000, STACK3_AT = 0x30000,
	STACK_AT = 0x40000, TASK_STACK_AT = 0x50000, PML4_AT = 0x60000, PDPT_AT = 0x61000, PD_AT = 0x62000,
};
/* Selectors */
enum {
	CODE0 = 0x08, DATA0 = 0x10, CODE3 = 0x18 | 3, DATA3 = 0x20 | 3, TSS = 0x28, TSS2 = 0x30, GATE = 0x38,
	TASK_GATE = 0x40, CODE64 = 0x48, NOT_PRESENT = 0x58, CONFORMING = 0x60, TSS_16 = 0x68, GDT_END = 0x70,
};
#define HANDLER(v) (HANDLERS_AT + (v) * 16u)

struct fix {
	struct machmem mem;
	struct cpu *cpu;
};

/* A piece of guest code: assembled here, copied to guest memory. */
#define PIECE(name, bits, text)                                                            \
	extern const uint8_t name[], name##_end[];                                         \
	__asm__(".pushsection .rodata\n.code" #bits "\n" #name ":\n" text "\n" #name "_end:\n.code64\n.popsection")

static void *at(struct fix *f, uint64_t a) { return machmem_ptr(&f->mem, hpa(a)); }
static void put64(struct fix *f, uint64_t a, uint64_t v) { put_u64(at(f, a), v); }
static void put32(struct fix *f, uint64_t a, uint32_t v) { put_u32(at(f, a), v); }
static uint32_t get32(struct fix *f, uint64_t a) { return get_u32(at(f, a)); }
static uint16_t get16(struct fix *f, uint64_t a) { return get_u16(at(f, a)); }

/* Memory is written behind the processor's back, so its decoded blocks must go. */
static void load(struct fix *f, uint64_t a, const uint8_t *code, const uint8_t *end)
{
	memcpy(at(f, a), code, (size_t)(end - code));
	blocks_flush(f->cpu);
}
#define LOAD(f, a, name) load(f, a, name, name##_end)

/* ---- the machine ---- */

static uint64_t descriptor(uint32_t base, uint32_t limit, uint32_t attr)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attr & 0xf0ff) << 40 |
	       (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(base >> 24) << 56;
}

static uint64_t gate(uint16_t sel, uint32_t off, unsigned type, unsigned dpl, unsigned params)
{
	return (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)params << 32 |
	       (uint64_t)(0x80 | dpl << 5 | type) << 40 | (uint64_t)(off >> 16) << 48;
}

static void set_gate(struct fix *f, unsigned vector, uint64_t g) { put64(f, IDT_AT + 8 * vector, g); }

static void write_tables(struct fix *f)
{
	put64(f, GDT_AT + CODE0, descriptor(0, 0xfffff, 0xc09a));
	put64(f, GDT_AT + DATA0, descriptor(0, 0xfffff, 0xc092));
	put64(f, GDT_AT + (CODE3 & ~7), descriptor(0, 0xfffff, 0xc0fa));
	put64(f, GDT_AT + (DATA3 & ~7), descriptor(0, 0xfffff, 0xc0f2));
	put64(f, GDT_AT + TSS, descriptor(TSS_AT, 0x67, 0x8b));
	put64(f, GDT_AT + TSS2, descriptor(TSS2_AT, 0x67, 0x89));
	put64(f, GDT_AT + TASK_GATE, gate(TSS2, 0, 5, 0, 0));
	put64(f, GDT_AT + CODE64, descriptor(0, 0xfffff, 0xa09a));
	put64(f, GDT_AT + NOT_PRESENT, descriptor(0, 0xfffff, 0xc01a));
	put64(f, GDT_AT + CONFORMING, descriptor(0, 0xfffff, 0xc09e));
	put64(f, GDT_AT + TSS_16, descriptor(TSS2_AT, 0x2b, 0x81));
	for (unsigned v = 0; v < 256; v++) {
		set_gate(f, v, gate(CODE0, HANDLER(v), 14, 0, 0));
		*(uint8_t *)at(f, HANDLER(v)) = 0xf4; /* HLT */
	}
	put32(f, TSS_AT + 4, STACK0_AT);
	put32(f, TSS_AT + 8, DATA0);
}

static void load_seg(struct cpu *cpu, unsigned reg, uint16_t sel, uint32_t attr)
{
	cpu->seg[reg] = (struct seg){.sel = sel, .attr = attr, .limit = 0xffffffff};
}

static void enter_protected(struct fix *f, unsigned cpl)
{
	struct cpu *c = f->cpu;

	c->cr0 = CR0_PE | CR0_ET | CR0_NE;
	load_seg(c, SEG_CS, cpl ? CODE3 : CODE0, cpl ? 0xc0fb : 0xc09b);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		if (i != SEG_CS)
			load_seg(c, i, cpl ? DATA3 : DATA0, cpl ? 0xc0f3 : 0xc093);
	c->tr = (struct seg){.sel = TSS, .attr = 0x8b, .limit = 0x67, .base = TSS_AT};
	c->ldtr = (struct seg){.attr = SEG_AR_UNUSABLE};
	c->gdtr = (struct dtable){GDT_AT, GDT_END - 1};
	c->idtr = (struct dtable){IDT_AT, 0x7ff};
	c->gpr[REG_RIP] = CODE_AT;
	c->gpr[RSP] = cpl ? STACK3_AT : STACK_AT;
	c->rflags = RF_ONE;
	c->halted = c->shutdown = false;
	c->cr2 = c->cr3 = c->cr4 = c->efer = 0;
	cpu_update_mode(c);
}

static struct fix *machine_with(const struct cpu_config *cfg)
{
	const struct machmem_range ram = {.base = 0, .bytes = RAM_BYTES};
	struct fix *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	assert_int_equal(machmem_init(&f->mem, &ram, 1, NULL), 0);
	assert_int_equal(cpu_create(&f->cpu, &f->mem, cfg, NULL), 0);
	write_tables(f);
	enter_protected(f, 0);
	return f;
}

static int setup(void **state)
{
	struct cpu_config cfg;

	cpu_config_default(&cfg);
	*state = machine_with(&cfg);
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	cpu_destroy(f->cpu);
	machmem_destroy(&f->mem);
	free(f);
	return 0;
}

static enum cpu_run_status run(struct fix *f) { return cpu_run(f->cpu, cpu_tsc(f->cpu) + 1000); }

/* Runs to a HLT; the vector whose handler it is in, or -1: in the program. */
static int run_to_halt(struct fix *f)
{
	uint64_t rip;

	assert_int_equal(run(f), CPU_RUN_HALTED);
	rip = f->cpu->gpr[REG_RIP] - 1;
	return rip >= HANDLERS_AT && rip < HANDLER(256) ? (int)((rip - HANDLERS_AT) / 16) : -1;
}

static void expect_fault(struct fix *f, int vector, uint32_t error)
{
	assert_int_equal(run_to_halt(f), vector);
	assert_int_equal(get32(f, f->cpu->gpr[RSP]), error);
}

/* ---- gates of protected mode ---- */

PIECE(p_int20, 32, "int $0x20; hlt");
PIECE(p_iret, 32, "incl %ebx; iret");
PIECE(p_ud2, 32, "ud2");

static void test_same_level(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	LOAD(f, CODE_AT, p_int20);
	c->rflags |= RF_IF;
	assert_int_equal(run_to_halt(f), 0x20);
	assert_int_equal(c->gpr[RSP], STACK_AT - 12);
	assert_int_equal(get32(f, STACK_AT - 12), CODE_AT + 2);
	assert_int_equal(get32(f, STACK_AT - 8), CODE0);
	assert_int_equal(get32(f, STACK_AT - 4), RF_ONE | RF_IF);
	assert_int_equal(c->rflags & RF_IF, 0);
	assert_int_equal(c->insns, 2); /* INT and HLT */
	assert_int_equal(get16(f, GDT_AT + CODE0 + 5) & 1, 1); /* accessed */
}

static void test_trap_gate_and_iret(void **state)
{
	struct fix *f = *state;

	LOAD(f, CODE_AT, p_int20);
	LOAD(f, HANDLER(0x20), p_iret);
	set_gate(f, 0x20, gate(CODE0, HANDLER(0x20), 15, 0, 0));
	f->cpu->rflags |= RF_IF;
	assert_int_equal(run_to_halt(f), -1);
	assert_int_equal(f->cpu->gpr[RBX], 1);
	assert_int_equal(f->cpu->gpr[RSP], STACK_AT);
	assert_true(f->cpu->rflags & RF_IF);
}

static void test_gate16(void **state)
{
	struct fix *f = *state;

	LOAD(f, CODE_AT, p_int20);
	set_gate(f, 0x20, gate(CODE0, HANDLER(0x20), 6, 0, 0));
	assert_int_equal(run_to_halt(f), 0x20);
	assert_int_equal(f->cpu->gpr[RSP], STACK_AT - 6);
	assert_int_equal(get16(f, STACK_AT - 6), (uint16_t)(CODE_AT + 2));
	assert_int_equal(get16(f, STACK_AT - 4), CODE0);
}

static void test_inner_stack(void **state)
{
	struct fix *f = *state;

	LOAD(f, CODE_AT, p_ud2);
	enter_protected(f, 3);
	assert_int_equal(run_to_halt(f), EXC_UD);
	assert_int_equal(f->cpu->cpl, 0);
	assert_int_equal(f->cpu->gpr[RSP], STACK0_AT - 20);
	assert_int_equal(get32(f, STACK0_AT - 20), CODE_AT);
	assert_int_equal(get32(f, STACK0_AT - 16), CODE3);
	assert_int_equal(get32(f, STACK0_AT - 12), RF_ONE | RF_RF); /* a fault */
	assert_int_equal(get32(f, STACK0_AT - 8), STACK3_AT);
	assert_int_equal(get32(f, STACK0_AT - 4), DATA3);
	assert_int_equal(f->cpu->seg[SEG_SS].sel, DATA0);
}

static void test_gate_errors(void **state)
{
	struct fix *f = *state;

	LOAD(f, CODE_AT, p_int20);
	enter_protected(f, 3); /* DPL 0 */
	expect_fault(f, EXC_GP, 0x20 * 8 + 2);
	enter_protected(f, 0);
	set_gate(f, 0x20, gate(CODE0, HANDLER(0x20), 14, 0, 0) & ~(1ull << 47));
	expect_fault(f, EXC_NP, 0x20 * 8 + 2);
	enter_protected(f, 0);
	set_gate(f, 0x20, gate(CODE0, HANDLER(0x20), 12, 0, 0)); /* a call gate */
	expect_fault(f, EXC_GP, 0x20 * 8 + 2);
	enter_protected(f, 0);
	set_gate(f, 0x20, gate(0, HANDLER(0x20), 14, 0, 0));
	expect_fault(f, EXC_GP, 0);
	enter_protected(f, 0);
	set_gate(f, 0x20, gate(DATA0, HANDLER(0x20), 14, 0, 0));
	expect_fault(f, EXC_GP, DATA0);
	enter_protected(f, 0);
	set_gate(f, 0x20, gate(NOT_PRESENT, HANDLER(0x20), 14, 0, 0));
	expect_fault(f, EXC_NP, NOT_PRESENT);
	enter_protected(f, 0);
	set_gate(f, 0x20, gate(0x1000, HANDLER(0x20), 14, 0, 0));
	expect_fault(f, EXC_GP, 0x1000);
	enter_protected(f, 0);
	f->cpu->idtr.limit = 0x20 * 8 + 6;
	expect_fault(f, EXC_GP, 0x20 * 8 + 2);
}

static void test_bad_inner_stack(void **state)
{
	struct fix *f = *state;

	LOAD(f, CODE_AT, p_int20);
	set_gate(f, 0x20, gate(CODE0, HANDLER(0x20), 14, 3, 0));
	set_gate(f, EXC_TS, gate(CONFORMING, HANDLER(EXC_TS), 14, 0, 0)); /* stays at CPL 3, so HLT faults */
	enter_protected(f, 3);
	put32(f, TSS_AT + 8, CODE0);
	*(uint8_t *)at(f, HANDLER(EXC_TS)) = 0xeb; /* JMP to itself */
	*(uint8_t *)at(f, HANDLER(EXC_TS) + 1) = 0xfe;
	assert_int_equal(run(f), CPU_RUN_DEADLINE);
	assert_int_equal(f->cpu->gpr[REG_RIP], HANDLER(EXC_TS));
	assert_int_equal(f->cpu->cpl, 3);
	assert_int_equal(get32(f, f->cpu->gpr[RSP]), CODE0);
}

/* ---- double and triple faults ---- */

static void test_double_fault(void **state)
{
	struct fix *f = *state;

	LOAD(f, CODE_AT, p_int20);
	set_gate(f, 0x20, 0);
	set_gate(f, EXC_GP, 0);
	expect_fault(f, EXC_DF, 0);
	assert_int_equal(get32(f, STACK_AT - 12), CODE_AT);
}

static void test_triple_fault(void **state)
{
	struct fix *f = *state;

	LOAD(f, CODE_AT, p_ud2);
	f->cpu->idtr.limit = 0;
	assert_int_equal(run(f), CPU_RUN_SHUTDOWN);
	assert_int_equal(f->cpu->gpr[REG_RIP], CODE_AT);
}

/* The second fault of a benign event is handled by itself. */
static void test_benign_then_fault(void **state)
{
	struct fix *f = *state;

	LOAD(f, CODE_AT, p_ud2);
	set_gate(f, EXC_UD, 0);
	expect_fault(f, EXC_GP, EXC_UD * 8 + 3); /* external to the program */
}

/* ---- far transfers ---- */

PIECE(p_call_gate, 32, "pushl $0x1111; pushl $0x2222; lcall $0x3b, $0; hlt");
PIECE(p_gate_target, 32, "movl 8(%esp), %eax; movl 12(%esp), %ebx; movl %cs, %edx; lret $8");
PIECE(p_iret_to_3, 32, "push $0x23; push $0x30000; push $2; push $0x1b; push $0x12000; iret");
PIECE(p_spin, 32, "1: jmp 1b");

static void test_call_gate(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	/* HLT faults at CPL 3: the return is seen in the #GP. */
	LOAD(f, CODE_AT, p_call_gate);
	LOAD(f, TASK_CODE_AT, p_gate_target);
	put64(f, GDT_AT + GATE, gate(CODE0, TASK_CODE_AT, 12, 3, 2));
	enter_protected(f, 3);
	expect_fault(f, EXC_GP, 0);
	assert_int_equal(c->gpr[RAX], 0x2222);
	assert_int_equal(c->gpr[RBX], 0x1111);
	assert_int_equal((uint16_t)c->gpr[RDX], CODE0);
	assert_int_equal(get32(f, STACK0_AT - 8), STACK3_AT); /* RET released the parameters */
	assert_int_equal(get32(f, STACK0_AT - 16), CODE3);
}

static void test_return_to_outer(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	LOAD(f, CODE_AT, p_iret_to_3);
	LOAD(f, 0x12000, p_spin);
	assert_int_equal(run(f), CPU_RUN_DEADLINE);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->seg[SEG_CS].sel, CODE3);
	assert_int_equal(c->gpr[RSP], 0x30000);
	assert_true(c->seg[SEG_DS].attr & SEG_AR_UNUSABLE); /* DPL 0 is not for CPL 3 */
	assert_int_equal(c->seg[SEG_DS].sel, 0);
}

PIECE(p_ljmp_data, 32, "ljmp $0x10, $0");
PIECE(p_ljmp_null, 32, "ljmp $0, $0");
PIECE(p_ljmp_np, 32, "ljmp $0x58, $0");
PIECE(p_ljmp_rpl, 32, "ljmp $0x1b, $0");

static void test_far_jump_errors(void **state)
{
	struct fix *f = *state;

	LOAD(f, CODE_AT, p_ljmp_data);
	expect_fault(f, EXC_GP, DATA0);
	enter_protected(f, 0);
	LOAD(f, CODE_AT, p_ljmp_null);
	expect_fault(f, EXC_GP, 0);
	enter_protected(f, 0);
	LOAD(f, CODE_AT, p_ljmp_np);
	expect_fault(f, EXC_NP, NOT_PRESENT);
	enter_protected(f, 0);
	LOAD(f, CODE_AT, p_ljmp_rpl);
	expect_fault(f, EXC_GP, CODE3 & ~3);
}

/* ---- task switches ---- */

PIECE(p_lcall_tss, 32, "mov $0x77, %ecx; lcall $0x30, $0xf4f4f4f4; hlt");
PIECE(p_task_body, 32, "incl 0x70000; iret; incl 0x70000; ljmp $0x28, $0");
PIECE(p_ljmp_tss, 32, "ljmp $0x30, $0; hlt");
PIECE(p_task_hlt, 32, "hlt");

static void write_task(struct fix *f, uint32_t eip, uint32_t eflags)
{
	static const uint16_t segs[] = {DATA0, CODE0, DATA0, DATA0, 0, 0};

	memset(at(f, TSS2_AT), 0, 104);
	put32(f, TSS2_AT + 32, eip);
	put32(f, TSS2_AT + 36, eflags);
	put32(f, TSS2_AT + 40 + 4 * RSP, TASK_STACK_AT);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		put32(f, TSS2_AT + 72 + 4 * i, segs[i]);
}

static void test_task_call_and_return(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	LOAD(f, CODE_AT, p_lcall_tss);
	LOAD(f, TASK_CODE_AT, p_task_body);
	write_task(f, TASK_CODE_AT, RF_ONE);
	assert_int_equal(run_to_halt(f), -1);
	assert_int_equal(get32(f, 0x70000), 1);
	assert_int_equal(c->gpr[RCX], 0x77);
	assert_int_equal(c->tr.sel, TSS);
	assert_int_equal(get16(f, TSS2_AT), TSS);             /* link */
	assert_int_equal(get32(f, TSS2_AT + 36) & RF_NT, 0);  /* IRET clears NT in what it saves */
	assert_int_equal(get16(f, GDT_AT + TSS2 + 5) & 15, 9);
	assert_int_equal(get16(f, GDT_AT + TSS + 5) & 15, 11);
	assert_true(c->cr0 & CR0_TS);
	assert_int_equal(c->rflags & RF_NT, 0);
}

static void test_task_jump(void **state)
{
	struct fix *f = *state;

	LOAD(f, CODE_AT, p_ljmp_tss);
	LOAD(f, TASK_CODE_AT, p_task_hlt);
	write_task(f, TASK_CODE_AT, RF_ONE);
	assert_int_equal(run_to_halt(f), -1);
	assert_int_equal(f->cpu->gpr[REG_RIP], TASK_CODE_AT + 1);
	assert_int_equal(get16(f, GDT_AT + TSS + 5) & 15, 9); /* no longer busy */
	assert_int_equal(get16(f, GDT_AT + TSS2 + 5) & 15, 11);
	assert_int_equal(get32(f, TSS_AT + 32), CODE_AT + 7);
	assert_int_equal(f->cpu->rflags & RF_NT, 0);
}

/* An exception with an error code through a task gate. */
static void test_task_gate(void **state)
{
	struct fix *f = *state;

	LOAD(f, CODE_AT, p_ljmp_data);
	LOAD(f, TASK_CODE_AT, p_task_hlt);
	write_task(f, TASK_CODE_AT, RF_ONE);
	set_gate(f, EXC_GP, gate(TSS2, 0, 5, 0, 0));
	assert_int_equal(run_to_halt(f), -1);
	assert_int_equal(f->cpu->gpr[REG_RIP], TASK_CODE_AT + 1);
	assert_int_equal(f->cpu->gpr[RSP], TASK_STACK_AT - 4);
	assert_int_equal(get32(f, TASK_STACK_AT - 4), DATA0);
	assert_int_equal(get32(f, TSS_AT + 32), CODE_AT);
	assert_int_equal(get32(f, TSS_AT + 36), RF_ONE | RF_RF);
	assert_true(f->cpu->rflags & RF_NT);
}

static void test_task_errors(void **state)
{
	struct fix *f = *state;

	LOAD(f, CODE_AT, p_ljmp_tss);
	write_task(f, TASK_CODE_AT, RF_ONE);
	put64(f, GDT_AT + TSS2, descriptor(TSS2_AT, 0x67, 0x8b)); /* busy */
	expect_fault(f, EXC_GP, TSS2);
	enter_protected(f, 0);
	put64(f, GDT_AT + TSS2, descriptor(TSS2_AT, 0x66, 0x89));
	expect_fault(f, EXC_TS, TSS2);
	enter_protected(f, 0);
	put64(f, GDT_AT + TSS2, descriptor(TSS2_AT, 0x67, 0x09));
	expect_fault(f, EXC_NP, TSS2);
}

/* A bad selector in the new TSS is a fault of the new task. */
static void test_task_bad_segment(void **state)
{
	struct fix *f = *state;

	LOAD(f, CODE_AT, p_ljmp_tss);
	write_task(f, TASK_CODE_AT, RF_ONE);
	put32(f, TSS2_AT + 72 + 4 * SEG_DS, CODE64 + 0x2000);
	assert_int_equal(run_to_halt(f), EXC_TS);
	assert_int_equal(get32(f, TASK_STACK_AT - 16), CODE64 + 0x2000);
	assert_int_equal(get32(f, TASK_STACK_AT - 12), TASK_CODE_AT);
	assert_int_equal(f->cpu->tr.sel, TSS2);
}

static void test_task_16(void **state)
{
	struct fix *f = *state;
	uint8_t *tss = at(f, TSS2_AT);

	LOAD(f, CODE_AT, p_ljmp_tss);
	((uint8_t *)at(f, CODE_AT))[5] = TSS_16;
	blocks_flush(f->cpu);
	memset(tss, 0, 44);
	put_u16(tss + 14, 0x9000);
	put_u16(tss + 18 + 2 * RSP, 0x1000);
	put_u16(tss + 34 + 2 * SEG_CS, CODE0);
	put_u16(tss + 34 + 2 * SEG_SS, DATA0);
	LOAD(f, 0x9000, p_task_hlt);
	assert_int_equal(run(f), CPU_RUN_HALTED);
	assert_int_equal(f->cpu->gpr[REG_RIP], 0x9001);
	assert_int_equal(f->cpu->gpr[RSP], 0xffff1000);
	assert_int_equal(f->cpu->tr.sel, TSS_16);
}

/* ---- virtual-8086 mode ---- */

PIECE(p_to_v86, 32, "push $0x6666; push $0x5555; push $0x4444; push $0x3333; push $0x2000; push $0x800;"
	"pushl $0x20002; push $0x1200; push $0; iret");
PIECE(p_v86_int, 16, "int $0x20");
PIECE(p_v86_ud2, 16, "mov %ds, %ax; ud2");

static void test_v86_fault(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	LOAD(f, CODE_AT, p_to_v86);
	LOAD(f, 0x12000, p_v86_ud2);
	assert_int_equal(run_to_halt(f), EXC_UD);
	assert_int_equal((uint16_t)c->gpr[RAX], 0x4444);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->rflags & RF_VM, 0);
	assert_int_equal(c->gpr[RSP], STACK0_AT - 36);
	assert_int_equal(get32(f, STACK0_AT - 36), 2);
	assert_int_equal(get32(f, STACK0_AT - 32), 0x1200);
	assert_int_equal(get32(f, STACK0_AT - 28), RF_ONE | RF_VM | RF_RF);
	assert_int_equal(get32(f, STACK0_AT - 24), 0x800);
	assert_int_equal(get32(f, STACK0_AT - 20), 0x2000);
	assert_int_equal(get32(f, STACK0_AT - 16), 0x3333);
	assert_int_equal(get32(f, STACK0_AT - 4), 0x6666);
	assert_true(c->seg[SEG_GS].attr & SEG_AR_UNUSABLE);
}

static void test_v86_int(void **state)
{
	struct fix *f = *state;

	LOAD(f, CODE_AT, p_to_v86);
	LOAD(f, 0x12000, p_v86_int);
	expect_fault(f, EXC_GP, 0); /* IOPL 0 */
	enter_protected(f, 0);
	put_u32(memmem(at(f, CODE_AT), 64, "\x68\x02\x00\x02", 4) + 1, 0x23002); /* IOPL 3 */
	blocks_flush(f->cpu);
	set_gate(f, 0x20, gate(CODE0, HANDLER(0x20), 14, 3, 0));
	assert_int_equal(run_to_halt(f), 0x20);
	assert_int_equal(get32(f, STACK0_AT - 36), 2);
}

/* ---- real mode ---- */

PIECE(p_real_int, 16, "int $0x21; hlt");
PIECE(p_real_handler, 16, "mov $0x1234, %ax; iret");
PIECE(p_real_far, 16, "lcall $0x1100, $0; hlt");
PIECE(p_real_lret, 16, "mov %cs, %bx; lret");
PIECE(p_to_protected, 16, "mov %cr0, %eax; or $1, %al; mov %eax, %cr0; ljmpl $0x08, $0x12000");
PIECE(p_to_long, 32,
      "mov $0x60000, %eax; mov %eax, %cr3; mov $0x20, %eax; mov %eax, %cr4; mov $0xc0000080, %ecx; rdmsr;"
      "bts $8, %eax; wrmsr; mov %cr0, %eax; bts $31, %eax; mov %eax, %cr0; ljmp $0x48, $0x13000");
PIECE(p_long, 64, "mov $0x123456789abcdef0, %rax; hlt");

static void enter_real(struct fix *f)
{
	struct cpu *c = f->cpu;

	c->cr0 = CR0_ET;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		c->seg[i] = (struct seg){.attr = i == SEG_CS ? 0x9b : 0x93, .limit = 0xffff};
	c->seg[SEG_CS].sel = CODE_AT >> 4;
	c->seg[SEG_CS].base = CODE_AT;
	c->gpr[REG_RIP] = 0;
	c->gpr[RSP] = 0x7000;
	c->idtr = (struct dtable){IVT_AT, 0x3ff};
	cpu_update_mode(c);
}

static void test_real_int(void **state)
{
	struct fix *f = *state;

	LOAD(f, CODE_AT, p_real_int);
	LOAD(f, TASK_CODE_AT, p_real_handler);
	put32(f, IVT_AT + 0x21 * 4, (TASK_CODE_AT >> 4) << 16);
	enter_real(f);
	f->cpu->rflags |= RF_IF;
	assert_int_equal(run(f), CPU_RUN_HALTED);
	assert_int_equal((uint16_t)f->cpu->gpr[RAX], 0x1234);
	assert_int_equal(f->cpu->gpr[RSP], 0x7000);
	assert_int_equal(get16(f, 0x7000 - 2), RF_ONE | RF_IF);
	assert_int_equal(get16(f, 0x7000 - 4), CODE_AT >> 4);
	assert_int_equal(get16(f, 0x7000 - 6), 2);
	assert_true(f->cpu->rflags & RF_IF);
}

static void test_real_far_call(void **state)
{
	struct fix *f = *state;

	LOAD(f, CODE_AT, p_real_far);
	LOAD(f, 0x11000, p_real_lret);
	enter_real(f);
	assert_int_equal(run(f), CPU_RUN_HALTED);
	assert_int_equal((uint16_t)f->cpu->gpr[RBX], 0x1100);
	assert_int_equal(f->cpu->gpr[REG_RIP], 6);
}

static void test_real_to_long(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	LOAD(f, CODE_AT, p_to_protected);
	LOAD(f, 0x12000, p_to_long);
	LOAD(f, 0x13000, p_long);
	put64(f, PML4_AT, PDPT_AT | 3);
	put64(f, PDPT_AT, PD_AT | 3);
	put64(f, PD_AT, PTE_PS | 3);
	enter_real(f);
	assert_int_equal(run(f), CPU_RUN_HALTED);
	assert_int_equal(c->gpr[RAX], 0x123456789abcdef0ull);
	assert_int_equal(c->efer, EFER_LME | EFER_LMA);
	assert_int_equal(c->code_bits, 64);
	assert_true(c->long_mode);
}

/* ---- control registers ---- */

PIECE(p_mov_cr0, 32, "mov %eax, %cr0; hlt");
PIECE(p_mov_cr3, 32, "mov %eax, %cr3; hlt");
PIECE(p_mov_cr4, 32, "mov %eax, %cr4; hlt");

static int write_cr(struct fix *f, const uint8_t *code, uint32_t v, uint64_t cr4, uint64_t efer)
{
	enter_protected(f, 0);
	load(f, CODE_AT, code, code + 4);
	f->cpu->cr4 = cr4;
	f->cpu->efer = efer;
	f->cpu->gpr[RAX] = v;
	cpu_update_mode(f->cpu);
	return run_to_halt(f);
}

static void test_cr0(void **state)
{
	struct fix *f = *state;

	assert_int_equal(write_cr(f, p_mov_cr0, CR0_PE, 0, 0), -1);
	assert_int_equal(f->cpu->cr0, CR0_PE | CR0_ET); /* ET cannot be cleared */
	assert_int_equal(write_cr(f, p_mov_cr0, 0x80000000, 0, 0), EXC_GP);            /* PG without PE */
	assert_int_equal(write_cr(f, p_mov_cr0, CR0_PE | CR0_NW, 0, 0), EXC_GP);       /* NW without CD */
	assert_int_equal(write_cr(f, p_mov_cr0, CR0_PE | CR0_NW | CR0_CD, 0, 0), -1);
	assert_int_equal(write_cr(f, p_mov_cr0, 0x80000001, 0, EFER_LME), EXC_GP);     /* LME without PAE */
}

static void test_cr4(void **state)
{
	struct fix *f = *state;

	assert_int_equal(write_cr(f, p_mov_cr4, CR4_PAE | CR4_PGE | CR4_OSFXSR, 0, 0), -1);
	assert_int_equal(write_cr(f, p_mov_cr4, CR4_VMXE, 0, 0), EXC_GP);
	assert_int_equal(write_cr(f, p_mov_cr4, CR4_LA57, 0, 0), EXC_GP);   /* hidden by default */
	assert_int_equal(write_cr(f, p_mov_cr4, CR4_PCIDE, 0, 0), EXC_GP);  /* not in long mode */
	assert_int_equal(write_cr(f, p_mov_cr4, 1u << 31, 0, 0), EXC_GP);
	f->cpu->cfg.feature[CPUF_SMEP] = false;
	assert_int_equal(write_cr(f, p_mov_cr4, CR4_SMEP, 0, 0), EXC_GP);
}

/* PAE paging: the four entries are loaded and checked with CR3. */
static void test_pdptes(void **state)
{
	struct fix *f = *state;

	for (unsigned i = 0; i < 4; i++)
		put64(f, PDPT_AT + 8 * i, i ? 0 : PD_AT | 1);
	put64(f, PD_AT, PTE_PS | 3);
	enter_protected(f, 0);
	LOAD(f, CODE_AT, p_mov_cr0);
	f->cpu->cr3 = PDPT_AT;
	f->cpu->cr4 = CR4_PAE;
	f->cpu->gpr[RAX] = 0x80000001;
	cpu_update_mode(f->cpu);
	assert_int_equal(run_to_halt(f), -1);
	assert_int_equal(f->cpu->pdpte[0], PD_AT | 1);
	put64(f, PDPT_AT + 24, 1 | 1 << 5); /* reserved */
	LOAD(f, CODE_AT, p_mov_cr3);
	f->cpu->gpr[REG_RIP] = CODE_AT;
	f->cpu->gpr[RAX] = PDPT_AT;
	f->cpu->halted = false;
	expect_fault(f, EXC_GP, 0);
	assert_int_equal(f->cpu->pdpte[3], 0);
}

/* ---- MSRs ---- */

static void wr_ok(struct fix *f, uint32_t msr, uint64_t v)
{
	uint64_t back = ~v;

	assert_int_equal(cpu_wrmsr(f->cpu, msr, v), 0);
	assert_int_equal(cpu_rdmsr(f->cpu, msr, &back), 0);
	assert_int_equal(back, v);
}

static void wr_bad(struct fix *f, uint32_t msr, uint64_t v) { assert_int_equal(cpu_wrmsr(f->cpu, msr, v), -1); }

static void test_msrs(void **state)
{
	struct fix *f = *state;
	const uint64_t odd = 0x5555555555555555ull;
	uint64_t v = 7;

	wr_ok(f, MSR_LSTAR, 0xffff800000001000ull);
	wr_bad(f, MSR_LSTAR, odd);
	wr_bad(f, MSR_FS_BASE, odd);
	wr_bad(f, MSR_KERNEL_GS_BASE, odd);
	wr_ok(f, MSR_STAR, odd);
	wr_bad(f, MSR_TSC_AUX, 1ull << 32);
	wr_ok(f, MSR_PAT, 0x0007040600070406ull);
	wr_bad(f, MSR_PAT, 2);
	wr_ok(f, MSR_MTRR_DEF_TYPE, 0xc06);
	wr_bad(f, MSR_MTRR_DEF_TYPE, 0xc02);
	wr_bad(f, MSR_MTRR_DEF_TYPE, 0x1006);
	wr_ok(f, MSR_MTRR_PHYSBASE0, 0x80000006);
	wr_bad(f, MSR_MTRR_PHYSBASE0, 1ull << 46);
	wr_bad(f, MSR_MTRR_PHYSBASE0 + 1, 1);
	wr_ok(f, MSR_MTRR_FIX4K_C0000 + 7, 0x0606060606060606ull);
	wr_bad(f, MSR_MTRR_FIX64K_00000, 7);
	wr_ok(f, MSR_EFER, EFER_SCE | EFER_NXE | EFER_LME);
	wr_bad(f, MSR_EFER, 1 << 12);
	wr_bad(f, MSR_FEATURE_CONTROL, 5);
	wr_bad(f, MSR_MTRRCAP, 0);
	wr_ok(f, MSR_MISC_ENABLE, 0x400c51889ull);
	wr_bad(f, MSR_MISC_ENABLE, 2);
	assert_int_equal(cpu_rdmsr(f->cpu, MSR_VMX_BASIC, &v), -1);
	assert_int_equal(cpu_rdmsr(f->cpu, MSR_PRED_CMD, &v), -1);
	assert_int_equal(cpu_rdmsr(f->cpu, 0x400, &v), -1); /* no machine-check banks */
	assert_int_equal(v, 7);
}

static void test_tsc_adjust(void **state)
{
	struct fix *f = *state;
	uint64_t v;

	assert_int_equal(cpu_wrmsr(f->cpu, MSR_TSC, 1000000), 0);
	assert_int_equal(cpu_tsc(f->cpu), 1000000);
	assert_int_equal(cpu_rdmsr(f->cpu, MSR_TSC_ADJUST, &v), 0);
	assert_int_equal(v, 1000000);
	assert_int_equal(cpu_wrmsr(f->cpu, MSR_TSC_ADJUST, 0), 0);
	assert_int_equal(cpu_tsc(f->cpu), 0);
}

/* ---- CPUID and configuration ---- */

static void test_cpuid(void **state)
{
	struct fix *f = *state;
	struct cpu_config c = f->cpu->cfg;
	uint32_t r[4];

	cpu_cpuid(&c, 0, 1, 0, true, 0, 0, r);
	assert_int_equal(r[0], 0x16);
	assert_memory_equal(&r[1], "Genu", 4);
	assert_memory_equal(&r[3], "ineI", 4);
	assert_memory_equal(&r[2], "ntel", 4);
	cpu_cpuid(&c, CR4_OSXSAVE, 1, 3, false, 1, 0, r);
	assert_true(r[2] & 1 << 27);
	assert_false(r[3] & 1 << 9);
	assert_int_equal(r[1] >> 24, 3);
	cpu_cpuid(&c, CR4_PKE, 1, 0, true, 7, 0, r);
	assert_true(r[2] & 1 << 4);
	cpu_cpuid(&c, 0, XCR0_X87 | XCR0_SSE | XCR0_PKRU, 0, true, 0xd, 0, r);
	assert_int_equal(r[0], c.feature[CPUF_AVX] ? 0x207 : 0x203);
	assert_int_equal(r[1], 2696);
	cpu_cpuid(&c, 0, XCR0_X87 | XCR0_SSE | XCR0_AVX, 0, true, 0xd, 0, r);
	assert_int_equal(r[1], 832);
	cpu_cpuid(&c, 0, 1, 0, true, 0x80000008, 0, r);
	assert_int_equal(r[0], 48 << 8 | 46);
	cpu_cpuid(&c, 0, 1, 0, true, 0x40000000, 0, r); /* as the highest basic leaf */
	assert_int_equal(r[0], 1000);
	c.mitigations = true;
	assert_int_equal(cpu_arch_capabilities(&c), 0);
	cpu_cpuid(&c, 0, 1, 0, true, 7, 0, r);
	assert_false(r[3] & 1u << 29);
}

static void test_config(void **state)
{
	struct cpu_config c, before;
	struct error err;

	(void)state;
	cpu_config_default(&c);
	assert_int_equal(cpu_config_parse(&c, "-xsave,+la57,maxphyaddr=40", &err), 0);
	assert_false(c.feature[CPUF_XSAVE]);
	assert_false(c.feature[CPUF_PKU]); /* needs XSAVE */
	assert_true(c.feature[CPUF_LA57]);
	assert_int_equal(c.maxphyaddr, 40);
	before = c;
	assert_int_equal(cpu_config_parse(&c, "-nx,-bogus", &err), -EINVAL);
	assert_non_null(strstr(err.text, "bogus"));
	assert_memory_equal(&c, &before, sizeof(c));
	assert_int_equal(cpu_config_parse(&c, "nx", &err), -EINVAL);
	assert_int_equal(cpu_config_parse(&c, "-nx,,", &err), -EINVAL);
	assert_int_equal(cpu_config_parse(&c, "maxphyaddr=53", &err), -EINVAL);
	assert_int_equal(cpu_config_parse(&c, "maxphyaddr=", &err), -EINVAL);
	assert_int_equal(cpu_config_parse(&c, "-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", &err), -EINVAL);
	assert_int_equal(cpu_config_parse(&c, "-lm", &err), 0);
	assert_false(c.feature[CPUF_SYSCALL] || c.feature[CPUF_LA57] || c.feature[CPUF_PCID]);
}

/* What INIT changes and what it leaves. */
static void init_of_oneself(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	c->msr.lstar = 0x1234;
	c->efer = EFER_NXE;
	c->cr0 = CR0_ET | CR0_NW;
	c->gpr[RBP] = 5;
	c->fpu.fx[FX_XMM(3)] = 7;
	c->nmi_blocked = c->halted = true;
	c->lapic.svr = 0x1ff;
	c->lapic.init = true;
	cpu_init(c);
	assert_int_equal(c->gpr[REG_RIP], 0xfff0);
	assert_int_equal(c->seg[SEG_CS].sel, 0xf000);
	assert_int_equal(c->seg[SEG_CS].base, 0xffff0000);
	assert_int_equal(c->gpr[RBP], 0);
	assert_int_equal(c->cr0, CR0_ET | CR0_NW);
	assert_int_equal(c->efer, 0);
	assert_int_equal(c->msr.lstar, 0x1234);
	assert_int_equal(c->fpu.fx[FX_XMM(3)], 7);
	assert_int_equal(c->lapic.svr, 0xff);
	assert_false(c->nmi_blocked || c->halted || c->lapic.init);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_same_level), T(test_trap_gate_and_iret), T(test_gate16), T(test_inner_stack),
		T(test_gate_errors), T(test_bad_inner_stack), T(test_double_fault), T(test_triple_fault),
		T(test_benign_then_fault), T(test_call_gate), T(test_return_to_outer), T(test_far_jump_errors),
		T(test_task_call_and_return), T(test_task_jump), T(test_task_gate), T(test_task_errors),
		T(test_task_bad_segment), T(test_task_16), T(test_v86_fault), T(test_v86_int), T(test_real_int),
		T(test_real_far_call), T(test_real_to_long), T(test_cr0), T(test_cr4), T(test_pdptes), T(test_msrs),
		T(test_tsc_adjust), T(test_cpuid), T(test_config), T(init_of_oneself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
