/*
 * The VMX instructions as software on the bare machine executes them: what each checks and in which order, its flags
 * and operands; VM entries and exits between two programs on one processor, interpreted and translated, with the
 * machine's own local APIC at work.
 */
#include "cpu/block.h"
#include "cpu/msr.h"
#include "cpu/record.h"
#include "cpu/vmx.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define RAM_BYTES (16u << 20)
enum {
	VMXON_AT = 0x1000, VMCS_AT = 0x2000, DATA_AT = 0x5000, PML4_AT = 0x10000, PDPT_AT = 0x11000, PD_AT = 0x12000,
	IDT_AT = 0x20000, GDT_AT = 0x21000, CODE_AT = 0x30000, HOST_AT = 0x31000, GUEST_AT = 0x32000,
	HANDLERS_AT = 0x33000, GUEST_IDT_AT = 0x34000, GUEST_HANDLERS_AT = 0x35000, STACK_AT = 0x40000,
	GUEST_STACK_AT = 0x48000, TSS_AT = 0x50000,
};
#define CODE64 0xa09bu
#define DATA32 0xc093u
#define NOT_MAPPED 0x40000000ull

struct fix {
	struct machmem mem;
	struct cpu *cpu;
};

/* Code for the machine: @text as the assembler has it, with a symbol at either end. */
#define PIECE(name, text)                                                                                \
	__asm__(".pushsection .rodata\n" #name ":\n" text "\n" #name "_end:\n.popsection\n");                \
	extern const char name[], name##_end[]
#define LOAD(f, at, name) load(f, at, name, (size_t)(name##_end - name))

static void put64(struct fix *f, uint64_t at, uint64_t v) { put_u64(machmem_ptr(&f->mem, hpa(at)), v); }
static void put32(struct fix *f, uint64_t at, uint32_t v) { put_u32(machmem_ptr(&f->mem, hpa(at)), v); }
static uint64_t get64(struct fix *f, uint64_t at) { return machmem_read64(&f->mem, hpa(at)); }
static void load(struct fix *f, uint64_t at, const char *code, size_t bytes)
{
	memcpy(machmem_ptr(&f->mem, hpa(at)), code, bytes);
	blocks_note_write(f->cpu, at, (unsigned)bytes);
}

static void vw(struct fix *f, uint32_t field, uint64_t v)
{
	assert_int_equal(vmx_vmwrite(f->cpu, field, v), VMX_SUCCEED);
}

static uint64_t vr(struct fix *f, uint32_t field)
{
	uint64_t v = 0;

	assert_int_equal(vmx_vmread(f->cpu, field, &v), VMX_SUCCEED);
	return v;
}

/* ---- a machine: 16 MiB mapped as they are, every vector leads to a HLT of its own ---- */

static void write_idt(struct fix *f, uint64_t idt, uint64_t handlers)
{
	for (uint64_t i = 0; i < 256; i++) {
		uint64_t at = handlers + 16 * i;

		put64(f, idt + 16 * i, (at & 0xffff) | 8ull << 16 | 0x8e00ull << 32 | (at >> 16) << 48);
		put64(f, idt + 16 * i + 8, 0);
		put64(f, at, 0xf4);
	}
}

static void write_memory(struct fix *f)
{
	put64(f, PML4_AT, PDPT_AT | PTE_P | PTE_W);
	put64(f, PDPT_AT, PD_AT | PTE_P | PTE_W);
	for (uint64_t i = 0; i < 8; i++)
		put64(f, PD_AT + 8 * i, i * SIZE_2M | PTE_P | PTE_W | PTE_PS);
	write_idt(f, IDT_AT, HANDLERS_AT);
	write_idt(f, GUEST_IDT_AT, GUEST_HANDLERS_AT);
	put64(f, GDT_AT + VMX_ROOT_CS, 0x00af9b000000ffffull);
	put64(f, GDT_AT + VMX_ROOT_DS, 0x00cf93000000ffffull);
	put32(f, VMXON_AT, VMCS_REVISION);
	put32(f, VMCS_AT, VMCS_REVISION);
}

static struct fix *machine(unsigned translate_after)
{
	const struct machmem_range ram = {.base = 0, .bytes = RAM_BYTES};
	struct fix *f = calloc(1, sizeof(*f));
	struct cpu_config cfg;

	assert_non_null(f);
	assert_int_equal(machmem_init(&f->mem, &ram, 1, NULL), 0);
	cpu_config_default(&cfg);
	cfg.feature[CPUF_VMX] = true;
	cfg.translate_after = translate_after;
	assert_int_equal(cpu_create(&f->cpu, &f->mem, &cfg, NULL), 0);
	vmx_setup_root(f->cpu, hpa(PML4_AT));
	f->cpu->vmx.outside = false; /* what is set up is the machine's own software */
	write_memory(f);
	f->cpu->idtr.base = IDT_AT;
	f->cpu->gdtr.base = GDT_AT;
	f->cpu->gpr[RSP] = STACK_AT;
	return f;
}

static void destroy(struct fix *f)
{
	cpu_destroy(f->cpu);
	machmem_destroy(&f->mem);
	free(f);
}

/* Runs from @at until HLT; RIP is behind it. */
static void run_from(struct fix *f, uint64_t at)
{
	enum cpu_run_status st;

	f->cpu->gpr[REG_RIP] = at;
	f->cpu->halted = false;
	cpu_update_mode(f->cpu);
	st = cpu_run_to(f->cpu, f->cpu->insns + 1000000);
	assert_int_equal(st, CPU_RUN_HALTED);
}

/* The vector whose handler it halted in; -1: in none. */
static int vector_taken(const struct fix *f)
{
	uint64_t at = f->cpu->gpr[REG_RIP] - 1;

	return at - HANDLERS_AT < 16 * 256 ? (int)((at - HANDLERS_AT) / 16) : -1;
}

static uint64_t flags_of(const struct fix *f)
{
	return cpu_get_rflags(f->cpu) & (RF_CF | RF_PF | RF_AF | RF_ZF | RF_SF | RF_OF);
}

PIECE(p_vmxon, "vmxon (%rdi); hlt");
PIECE(p_vmxoff, "vmxoff; hlt");
PIECE(p_vmclear, "vmclear (%rdi); hlt");
PIECE(p_vmptrld, "vmptrld (%rdi); hlt");
PIECE(p_vmptrst, "vmptrst (%rdi); hlt");
PIECE(p_vmread, "vmread %rsi, (%rdi); hlt");
PIECE(p_vmread_reg, "vmread %rsi, %rbx; hlt");
PIECE(p_vmwrite, "vmwrite (%rdi), %rsi; hlt");
PIECE(p_vmwrite_reg, "vmwrite %rbx, %rsi; hlt");
PIECE(p_vmlaunch, "vmlaunch; hlt");
PIECE(p_vmresume, "vmresume; hlt");
PIECE(p_vmcall, "vmcall; hlt");
PIECE(p_invept, "invept (%rdi), %rsi; hlt");
PIECE(p_invvpid, "invvpid (%rdi), %rsi; hlt");

/* Executes one piece at CPL 0: the vector, or -1 with the flags to be looked at. */
static int run_piece(struct fix *f, const char *code, const char *end, uint64_t rdi, uint64_t rsi)
{
	load(f, CODE_AT, code, (size_t)(end - code));
	f->cpu->gpr[RDI] = rdi;
	f->cpu->gpr[RSI] = rsi;
	f->cpu->gpr[RSP] = STACK_AT;
	f->cpu->cc = 0xffff & ~0x2aeu;
	run_from(f, CODE_AT);
	return vector_taken(f);
}
#define RUN(f, name, rdi, rsi) run_piece(f, name, name##_end, rdi, rsi)

static void expect_flags(struct fix *f, int vector, uint64_t flags)
{
	assert_int_equal(vector, -1);
	assert_int_equal(flags_of(f), flags);
}
#define VM_SUCCEED 0
#define VM_INVALID RF_CF
#define VM_VALID   RF_ZF

static void expect_valid(struct fix *f, int vector, uint64_t error)
{
	expect_flags(f, vector, VM_VALID);
	assert_int_equal(vr(f, VMCS_VM_INSTRUCTION_ERROR), error);
}

/* ---- the instructions in root operation ---- */

static void test_outside_vmx_operation(void **state)
{
	struct fix *f = machine(16);

	(void)state;
	assert_int_equal(RUN(f, p_vmxoff, 0, 0), EXC_UD);
	assert_int_equal(RUN(f, p_vmclear, DATA_AT, 0), EXC_UD);
	assert_int_equal(RUN(f, p_vmptrld, DATA_AT, 0), EXC_UD);
	assert_int_equal(RUN(f, p_vmptrst, DATA_AT, 0), EXC_UD);
	assert_int_equal(RUN(f, p_vmread, DATA_AT, 0), EXC_UD);
	assert_int_equal(RUN(f, p_vmwrite, DATA_AT, 0), EXC_UD);
	assert_int_equal(RUN(f, p_vmlaunch, 0, 0), EXC_UD);
	assert_int_equal(RUN(f, p_vmresume, 0, 0), EXC_UD);
	assert_int_equal(RUN(f, p_vmcall, 0, 0), EXC_UD);
	assert_int_equal(RUN(f, p_invept, DATA_AT, 1), EXC_UD);
	assert_int_equal(RUN(f, p_invvpid, DATA_AT, 1), EXC_UD);
	f->cpu->cr4 &= ~CR4_VMXE;
	assert_int_equal(RUN(f, p_vmxon, DATA_AT, 0), EXC_UD);
	destroy(f);
}

static void test_vmxon(void **state)
{
	struct fix *f = machine(16);

	(void)state;
	f->cpu->msr.feature_control = 0;
	assert_int_equal(RUN(f, p_vmxon, NOT_MAPPED, 0), EXC_GP); /* before the operand is read */
	assert_int_equal(cpu_wrmsr(f->cpu, MSR_FEATURE_CONTROL, FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMXON), 0);
	assert_int_equal(cpu_wrmsr(f->cpu, MSR_FEATURE_CONTROL, FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMXON), -1);
	assert_int_equal(RUN(f, p_vmxon, NOT_MAPPED, 0), EXC_PF);
	put64(f, DATA_AT, VMXON_AT + 8);
	expect_flags(f, RUN(f, p_vmxon, DATA_AT, 0), VM_INVALID);
	put64(f, DATA_AT, VMXON_AT);
	expect_flags(f, RUN(f, p_vmxon, DATA_AT, 0), VM_SUCCEED);
	assert_true(f->cpu->vmx.on);
	expect_flags(f, RUN(f, p_vmxon, NOT_MAPPED, 0), VM_INVALID);
	expect_flags(f, RUN(f, p_vmcall, 0, 0), VM_INVALID);
	expect_flags(f, RUN(f, p_vmlaunch, 0, 0), VM_INVALID);
	expect_flags(f, RUN(f, p_vmread, DATA_AT, VMCS_GUEST_RIP), VM_INVALID);
	expect_flags(f, RUN(f, p_vmptrst, DATA_AT, 0), VM_SUCCEED);
	assert_true(get64(f, DATA_AT) == VMCS_NONE);
	expect_flags(f, RUN(f, p_vmxoff, 0, 0), VM_SUCCEED);
	assert_int_equal(RUN(f, p_vmxoff, 0, 0), EXC_UD);
	destroy(f);
}

static struct fix *in_root(unsigned translate_after)
{
	struct fix *f = machine(translate_after);

	assert_int_equal(vmx_vmxon(f->cpu, hpa(VMXON_AT)), VMX_SUCCEED);
	assert_int_equal(vmx_vmclear(f->cpu, hpa(VMCS_AT)), VMX_SUCCEED);
	assert_int_equal(vmx_vmptrld(f->cpu, hpa(VMCS_AT)), VMX_SUCCEED);
	return f;
}

static void test_vmcs_instructions(void **state)
{
	struct fix *f = in_root(16);

	(void)state;
	expect_valid(f, RUN(f, p_vmxon, NOT_MAPPED, 0), VMXERR_VMXON_IN_ROOT);
	expect_valid(f, RUN(f, p_vmcall, 0, 0), VMXERR_VMCALL_ROOT);
	put64(f, DATA_AT, VMXON_AT);
	expect_valid(f, RUN(f, p_vmclear, DATA_AT, 0), VMXERR_VMCLEAR_VMXON);
	expect_valid(f, RUN(f, p_vmptrld, DATA_AT, 0), VMXERR_VMPTRLD_VMXON);
	assert_int_equal(RUN(f, p_vmclear, NOT_MAPPED, 0), EXC_PF);
	assert_int_equal(RUN(f, p_vmptrst, NOT_MAPPED, 0), EXC_PF);
	expect_flags(f, RUN(f, p_vmptrst, DATA_AT, 0), VM_SUCCEED);
	assert_int_equal(get64(f, DATA_AT), VMCS_AT);
	put64(f, DATA_AT, 0x1122334455667788ull);
	expect_flags(f, RUN(f, p_vmwrite, DATA_AT, VMCS_GUEST_RIP), VM_SUCCEED);
	assert_true(vr(f, VMCS_GUEST_RIP) == 0x1122334455667788ull);
	assert_int_equal(RUN(f, p_vmwrite, NOT_MAPPED, VMCS_GUEST_RIP), EXC_PF);
	expect_flags(f, RUN(f, p_vmread, DATA_AT + 8, VMCS_GUEST_RIP), VM_SUCCEED);
	assert_true(get64(f, DATA_AT + 8) == 0x1122334455667788ull);
	expect_valid(f, RUN(f, p_vmread, NOT_MAPPED, 0x7ffe), VMXERR_VMREADWRITE_FIELD);
	assert_int_equal(RUN(f, p_vmread, NOT_MAPPED, VMCS_GUEST_RIP), EXC_PF);
	expect_flags(f, RUN(f, p_vmread_reg, 0, VMCS_GUEST_RIP), VM_SUCCEED);
	assert_true(f->cpu->gpr[RBX] == 0x1122334455667788ull);
	expect_valid(f, RUN(f, p_vmread_reg, 0, 1ull << 32 | VMCS_GUEST_RIP), VMXERR_VMREADWRITE_FIELD);
	f->cpu->gpr[RBX] = 5;
	expect_flags(f, RUN(f, p_vmwrite_reg, 0, VMCS_GUEST_RSP), VM_SUCCEED);
	assert_int_equal(vr(f, VMCS_GUEST_RSP), 5);
	expect_flags(f, RUN(f, p_vmwrite_reg, 0, VMCS_EXIT_REASON), VM_SUCCEED); /* IA32_VMX_MISC bit 29 */
	expect_valid(f, RUN(f, p_vmresume, 0, 0), VMXERR_VMRESUME_NOT_LAUNCHED);
	destroy(f);
}

static void test_invalidations(void **state)
{
	struct fix *f = in_root(16);

	(void)state;
	put64(f, DATA_AT, 0x60000 | EPTP_WALK_4 | EPT_MT_WB);
	put64(f, DATA_AT + 8, 0);
	expect_flags(f, RUN(f, p_invept, DATA_AT, INVEPT_SINGLE), VM_SUCCEED);
	expect_valid(f, RUN(f, p_invept, NOT_MAPPED, 3), VMXERR_INV_OPERAND);
	assert_int_equal(RUN(f, p_invept, NOT_MAPPED, INVEPT_ALL), EXC_PF);
	put64(f, DATA_AT, 1);
	expect_flags(f, RUN(f, p_invvpid, DATA_AT, INVVPID_SINGLE), VM_SUCCEED);
	expect_valid(f, RUN(f, p_invvpid, NOT_MAPPED, 4), VMXERR_INV_OPERAND);
	put64(f, DATA_AT, 0x10001);
	expect_valid(f, RUN(f, p_invvpid, DATA_AT, INVVPID_SINGLE), VMXERR_INV_OPERAND);
	put64(f, DATA_AT, 0);
	expect_valid(f, RUN(f, p_invvpid, DATA_AT, INVVPID_SINGLE), VMXERR_INV_OPERAND);
	destroy(f);
}

/* A trace has no VMX operation: a recorder refuses it, whichever comes first. */
static int drop_events(void *ctx, const struct trace_event *ev, unsigned n, struct error *err)
{
	(void)ctx;
	(void)ev;
	(void)n;
	(void)err;
	return 0;
}

static void test_recorded(void **state)
{
	const struct trace_sink sink = {.put = drop_events};
	struct fix *f = machine(16);
	struct error err;

	(void)state;
	assert_int_equal(recorder_begin(f->cpu, &sink, &err), 0);
	put64(f, DATA_AT, VMXON_AT);
	expect_flags(f, RUN(f, p_vmxon, DATA_AT, 0), VM_SUCCEED);
	assert_true(recorder_failed(f->cpu));
	assert_int_equal(recorder_end(f->cpu, &err), -EINVAL);
	assert_int_equal(recorder_begin(f->cpu, &sink, &err), -EINVAL);
	assert_null(f->cpu->recorder);
	destroy(f);
}

/* CR4.VMXE and what VMX operation fixes. */
PIECE(p_set_cr4, "mov %rdi, %cr4; hlt");
PIECE(p_set_cr0, "mov %rdi, %cr0; hlt");

static void test_fixed_bits(void **state)
{
	struct fix *f = machine(16);

	(void)state;
	assert_int_equal(RUN(f, p_set_cr4, CR4_PAE, 0), -1);
	assert_int_equal(RUN(f, p_set_cr4, CR4_PAE | CR4_VMXE, 0), -1);
	f->cpu->cfg.feature[CPUF_VMX] = false;
	assert_int_equal(RUN(f, p_set_cr4, CR4_PAE, 0), -1);
	assert_int_equal(RUN(f, p_set_cr4, CR4_PAE | CR4_VMXE, 0), EXC_GP);
	destroy(f);
	f = in_root(16);
	assert_int_equal(RUN(f, p_set_cr4, CR4_PAE, 0), EXC_GP);
	assert_int_equal(RUN(f, p_set_cr0, CR0_PG | CR0_PE, 0), EXC_GP);
	assert_int_equal(RUN(f, p_set_cr0, CR0_PG | CR0_PE | CR0_NE, 0), -1);
	destroy(f);
}

/* ---- a guest ---- */

static void write_host(struct fix *f)
{
	for (uint32_t s = VMCS_HOST_ES_SEL; s <= VMCS_HOST_GS_SEL; s += 2)
		vw(f, s, s == VMCS_HOST_CS_SEL ? VMX_ROOT_CS : VMX_ROOT_DS);
	vw(f, VMCS_HOST_TR_SEL, VMX_ROOT_TR);
	vw(f, VMCS_HOST_TR_BASE, TSS_AT);
	vw(f, VMCS_HOST_CR0, f->cpu->cr0);
	vw(f, VMCS_HOST_CR3, PML4_AT);
	vw(f, VMCS_HOST_CR4, f->cpu->cr4);
	vw(f, VMCS_HOST_GDTR_BASE, GDT_AT);
	vw(f, VMCS_HOST_IDTR_BASE, IDT_AT);
	vw(f, VMCS_HOST_RIP, HOST_AT);
	vw(f, VMCS_HOST_RSP, STACK_AT);
}

static void write_guest(struct fix *f)
{
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		vw(f, VMCS_GUEST_ES_SEL + 2 * i, i == SEG_CS ? VMX_ROOT_CS : VMX_ROOT_DS);
		vw(f, VMCS_GUEST_ES_AR + 2 * i, i == SEG_CS ? CODE64 : DATA32);
		vw(f, VMCS_GUEST_ES_LIMIT + 2 * i, 0xffffffff);
	}
	vw(f, VMCS_GUEST_LDTR_AR, SEG_AR_UNUSABLE);
	vw(f, VMCS_GUEST_TR_SEL, VMX_ROOT_TR);
	vw(f, VMCS_GUEST_TR_AR, SEG_AR_P | 11);
	vw(f, VMCS_GUEST_TR_LIMIT, 0x67);
	vw(f, VMCS_GUEST_GDTR_BASE, GDT_AT);
	vw(f, VMCS_GUEST_GDTR_LIMIT, 0xffff);
	vw(f, VMCS_GUEST_IDTR_BASE, GUEST_IDT_AT);
	vw(f, VMCS_GUEST_IDTR_LIMIT, 0xfff);
	vw(f, VMCS_GUEST_CR0, CR0_PG | CR0_NE | CR0_ET | CR0_PE);
	vw(f, VMCS_GUEST_CR3, PML4_AT);
	vw(f, VMCS_GUEST_CR4, CR4_PAE | CR4_VMXE);
	vw(f, VMCS_GUEST_RIP, GUEST_AT);
	vw(f, VMCS_GUEST_RSP, GUEST_STACK_AT);
	vw(f, VMCS_GUEST_RFLAGS, RF_ONE);
	vw(f, VMCS_GUEST_VMCS_LINK, ~0ull);
}

PIECE(p_halt, "hlt");

/* In root operation with a VMCS that is good: VM exits lead to a HLT. */
static struct fix *with_guest(unsigned translate_after)
{
	struct fix *f = in_root(translate_after);

	vw(f, VMCS_PIN_CTL, PIN_DEFAULT1);
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1);
	vw(f, VMCS_EXIT_CTL, EXIT_DEFAULT1 | EXIT_HOST_64);
	vw(f, VMCS_ENTRY_CTL, ENTRY_DEFAULT1 | ENTRY_IA32E);
	write_host(f);
	write_guest(f);
	LOAD(f, HOST_AT, p_halt);
	return f;
}

static void expect_exit(struct fix *f, uint64_t reason)
{
	assert_false(f->cpu->vmx.nonroot);
	assert_int_equal(f->cpu->gpr[REG_RIP], HOST_AT + 1);
	assert_int_equal(vr(f, VMCS_EXIT_REASON), reason);
}

PIECE(p_cpuid, "cpuid; hlt");

static void test_launch_and_exit(void **state)
{
	struct fix *f = with_guest(16);

	(void)state;
	LOAD(f, GUEST_AT, p_cpuid);
	assert_int_equal(RUN(f, p_vmlaunch, 0, 0), -1);
	expect_exit(f, EXIT_REASON_CPUID);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), GUEST_AT);
	expect_valid(f, RUN(f, p_vmlaunch, 0, 0), VMXERR_VMLAUNCH_NOT_CLEAR);
	assert_int_equal(f->cpu->gpr[REG_RIP], CODE_AT + (uint64_t)(p_vmlaunch_end - p_vmlaunch));
	vw(f, VMCS_GUEST_RIP, GUEST_AT);
	assert_int_equal(RUN(f, p_vmresume, 0, 0), -1);
	expect_exit(f, EXIT_REASON_CPUID);
	/* An entry that fails on guest state is an exit at once. */
	vw(f, VMCS_GUEST_RFLAGS, 0);
	assert_int_equal(RUN(f, p_vmresume, 0, 0), -1);
	expect_exit(f, EXIT_REASON_ENTRY_GUEST_STATE | EXIT_REASON_ENTRY_FAILURE);
	vw(f, VMCS_GUEST_RFLAGS, RF_ONE);
	vw(f, VMCS_PIN_CTL, 0);
	expect_valid(f, RUN(f, p_vmresume, 0, 0), VMXERR_ENTRY_CONTROLS);
	destroy(f);
}

PIECE(p_movss_vmlaunch, "mov %ss, %eax; mov %eax, %ss; vmlaunch; hlt");

static void test_behind_movss(void **state)
{
	struct fix *f = with_guest(16);

	(void)state;
	LOAD(f, GUEST_AT, p_cpuid);
	expect_valid(f, RUN(f, p_movss_vmlaunch, 0, 0), VMXERR_ENTRY_MOVSS);
	assert_int_equal(RUN(f, p_vmlaunch, 0, 0), -1);
	expect_exit(f, EXIT_REASON_CPUID);
	destroy(f);
}

/* RFLAGS.TF of the host's, single steps of the guest's own, the monitor trap flag. */
PIECE(p_tf_vmlaunch, "pushfq; orl $0x100, (%rsp); popfq; vmlaunch; hlt");
PIECE(p_nops, "nop; nop; cpuid");

static void test_traps_at_entry(void **state)
{
	struct fix *f = with_guest(16);

	(void)state;
	LOAD(f, GUEST_AT, p_nops);
	assert_int_equal(RUN(f, p_tf_vmlaunch, 0, 0), -1);
	expect_exit(f, EXIT_REASON_CPUID);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), GUEST_AT + 2);
	vw(f, VMCS_GUEST_RIP, GUEST_AT);
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_MTF);
	assert_int_equal(RUN(f, p_vmresume, 0, 0), -1);
	expect_exit(f, EXIT_REASON_MONITOR_TRAP);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), GUEST_AT + 1);
	destroy(f);
}

/* Who follows root operation sees what it does, and all of it is counted. */
struct seen {
	unsigned events[VMX_EVENT_INVVPID + 1];
	uint64_t exit_reason, entry_rip;
};

static void note(void *ctx, enum vmx_event what, uint64_t a, uint64_t b)
{
	struct seen *s = ctx;

	(void)b;
	s->events[what]++;
	if (what == VMX_EVENT_EXIT)
		s->exit_reason = a;
	if (what == VMX_EVENT_ENTRY)
		s->entry_rip = a;
}

static void test_watched(void **state)
{
	struct fix *f = with_guest(16);
	struct seen s = {.exit_reason = 0};
	const struct vmx_watch watch = {note, &s};

	(void)state;
	LOAD(f, GUEST_AT, p_cpuid);
	f->cpu->vmx_watch = &watch;
	RUN(f, p_vmlaunch, 0, 0);
	f->cpu->gpr[RBX] = GUEST_AT + 2;
	RUN(f, p_vmwrite_reg, 0, VMCS_GUEST_RIP);
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_HLT);
	RUN(f, p_vmresume, 0, 0);
	assert_int_equal(s.events[VMX_EVENT_ENTRY], 2);
	assert_int_equal(s.events[VMX_EVENT_EXIT], 2);
	assert_int_equal(s.events[VMX_EVENT_WRITE], 2);
	assert_int_equal(s.exit_reason, EXIT_REASON_HLT);
	assert_int_equal(s.entry_rip, GUEST_AT + 2);
	assert_int_equal(f->cpu->vmx.tally.exits[EXIT_REASON_CPUID], 1);
	assert_int_equal(f->cpu->vmx.tally.exits[EXIT_REASON_HLT], 1);
	destroy(f);
}

/* The guest loops and exits; the host counts and resumes. Translated it must come to the same. */
PIECE(p_host_loop, "incq %r8; mov $0x681e, %esi; vmread %rsi, %rbx; add $2, %rbx; vmwrite %rbx, %rsi; cmp $1000, %r8;"
		   "je 1f; vmresume; 1: hlt");
PIECE(p_guest_loop, "1: mov $20, %ecx; 2: add %rcx, %r9; push %r9; pop %r10; dec %ecx; jnz 2b; cpuid; jmp 1b");

static uint64_t loop_insns(unsigned translate_after, uint64_t *r9)
{
	struct fix *f = with_guest(translate_after);
	uint64_t insns;

	LOAD(f, GUEST_AT, p_guest_loop);
	LOAD(f, HOST_AT, p_host_loop);
	assert_int_equal(RUN(f, p_vmlaunch, 0, 0), -1);
	assert_int_equal(f->cpu->gpr[R8], 1000);
	assert_int_equal(vr(f, VMCS_EXIT_REASON), EXIT_REASON_CPUID);
	*r9 = f->cpu->gpr[R9];
	insns = f->cpu->insns;
	destroy(f);
	return insns;
}

static void test_loop_interpreted_and_translated(void **state)
{
	uint64_t a, b, insns = loop_insns(UINT32_MAX, &a);

	(void)state;
	assert_int_equal(loop_insns(0, &b), insns);
	assert_int_equal(a, b);
	assert_int_equal(a, 1000 * 210);
}

/* ---- TPR shadow, VMCS shadowing, VM functions ---- */

PIECE(p_cr8, "mov $5, %ecx; mov %rcx, %cr8; mov %cr8, %r9; mov $2, %ecx; mov %rcx, %cr8; mov %cr8, %r10; cpuid");

static void test_tpr_shadow(void **state)
{
	struct fix *f = with_guest(0);

	(void)state;
	LOAD(f, GUEST_AT, p_cr8);
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_TPR_SHADOW);
	vw(f, VMCS_VIRTUAL_APIC_ADDR, DATA_AT);
	vw(f, VMCS_TPR_THRESHOLD, 3);
	put64(f, DATA_AT + VIRTUAL_APIC_TPR, 0xffffffffffffffffull);
	lapic_set_cr8(&f->cpu->lapic, 7);
	RUN(f, p_vmlaunch, 0, 0);
	expect_exit(f, EXIT_REASON_TPR_BELOW_THRESHOLD);
	assert_int_equal(f->cpu->gpr[R9], 5);
	assert_int_equal(f->cpu->gpr[R10], 0); /* it comes right behind the instruction */
	assert_true(get64(f, DATA_AT + VIRTUAL_APIC_TPR) == 0xffffffff00000020ull);
	assert_int_equal(lapic_cr8(&f->cpu->lapic), 7);
	expect_valid(f, RUN(f, p_vmresume, 0, 0), VMXERR_ENTRY_CONTROLS);
	vw(f, VMCS_TPR_THRESHOLD, 2);
	RUN(f, p_vmresume, 0, 0);
	expect_exit(f, EXIT_REASON_CPUID);
	assert_int_equal(f->cpu->gpr[R10], 2);
	destroy(f);
}

enum { SHADOW_AT = 0x6000, READ_MAP = 0x7000, WRITE_MAP = 0x8000, EPTP_LIST_AT = 0x9000 };
PIECE(p_shadow, "mov $0x681e, %esi; vmread %rsi, %r9; pushfq; pop %r10; mov $0x77, %ebx; vmwrite %rbx, %rsi;"
		"mov $0x7ffe, %esi; vmread %rsi, %rbx; pushfq; pop %r11; vmptrst (%rdi)");

static void test_vmcs_shadowing(void **state)
{
	struct fix *f = with_guest(0);

	(void)state;
	LOAD(f, GUEST_AT, p_shadow);
	put32(f, SHADOW_AT, VMCS_REVISION | VMCS_SHADOW);
	assert_int_equal(vmx_vmptrld(f->cpu, hpa(SHADOW_AT)), VMX_SUCCEED);
	vw(f, VMCS_GUEST_RIP, 0x1234);
	expect_flags(f, RUN(f, p_vmlaunch, 0, 0), VM_INVALID);
	assert_int_equal(vmx_vmclear(f->cpu, hpa(SHADOW_AT)), VMX_SUCCEED);
	assert_int_equal(vmx_vmptrld(f->cpu, hpa(VMCS_AT)), VMX_SUCCEED);
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_SECONDARY);
	vw(f, VMCS_GUEST_VMCS_LINK, SHADOW_AT);
	RUN(f, p_vmlaunch, 0, 0); /* not what a link to an ordinary VMCS names */
	expect_exit(f, EXIT_REASON_ENTRY_GUEST_STATE | EXIT_REASON_ENTRY_FAILURE);
	vw(f, VMCS_PROC_CTL2, PROC2_SHADOW_VMCS);
	vw(f, VMCS_VMREAD_BITMAP, READ_MAP);
	vw(f, VMCS_VMWRITE_BITMAP, WRITE_MAP);
	put64(f, READ_MAP + 0x681e / 64 * 8, BIT64(0x681e % 64));
	RUN(f, p_vmlaunch, 0, 0);
	expect_exit(f, EXIT_REASON_VMREAD);
	put64(f, READ_MAP + 0x681e / 64 * 8, 0);
	vw(f, VMCS_GUEST_RIP, GUEST_AT);
	RUN(f, p_vmresume, 0, 0);
	expect_exit(f, EXIT_REASON_VMPTRST);
	assert_int_equal(f->cpu->gpr[R9], 0x1234);
	assert_int_equal(f->cpu->gpr[R10] & (RF_CF | RF_ZF), 0);
	assert_int_equal(f->cpu->gpr[R11] & (RF_CF | RF_ZF), RF_ZF);
	assert_int_equal(vmx_vmptrld(f->cpu, hpa(SHADOW_AT)), VMX_SUCCEED);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), 0x77);
	assert_int_equal(vr(f, VMCS_VM_INSTRUCTION_ERROR), VMXERR_VMREADWRITE_FIELD);
	destroy(f);
}

/* A chain of EPT tables at @at that maps the first 2 MiB; what is in the second is at @second. */
static uint64_t write_ept(struct fix *f, uint64_t at, uint64_t second)
{
	put64(f, at, (at + 0x1000) | EPT_R | EPT_W | EPT_X);
	put64(f, at + 0x1000, (at + 0x2000) | EPT_R | EPT_W | EPT_X);
	put64(f, at + 0x2000, EPT_MT_WB << EPT_MT_SHIFT | EPT_PS | EPT_R | EPT_W | EPT_X);
	put64(f, at + 0x2008, second | EPT_MT_WB << EPT_MT_SHIFT | EPT_PS | EPT_R | EPT_W | EPT_X);
	return at | EPTP_WALK_4 | EPT_MT_WB;
}

PIECE(p_switch, "mov 0x200000, %r9; xor %eax, %eax; mov $1, %ecx; vmfunc; mov 0x200000, %r10; mov $2, %ecx; vmfunc");
PIECE(p_vmfunc, "vmfunc; cpuid");

static void test_vm_functions(void **state)
{
	struct fix *f = with_guest(0);
	uint64_t eptp[2] = {write_ept(f, 0x60000, 4 * SIZE_2M), write_ept(f, 0x64000, 5 * SIZE_2M)};

	(void)state;
	put64(f, 4 * SIZE_2M, 0x44);
	put64(f, 5 * SIZE_2M, 0x55);
	LOAD(f, GUEST_AT, p_vmfunc);
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_SECONDARY);
	vw(f, VMCS_PROC_CTL2, PROC2_EPT);
	vw(f, VMCS_EPTP, eptp[0]);
	vw(f, VMCS_EXCEPTION_BITMAP, 1u << EXC_UD);
	f->cpu->gpr[RAX] = 0;
	RUN(f, p_vmlaunch, 0, 0);
	expect_exit(f, EXIT_REASON_EXCEPTION_NMI);
	vw(f, VMCS_PROC_CTL2, PROC2_EPT | PROC2_VM_FUNCTIONS);
	RUN(f, p_vmresume, 0, 0);
	expect_exit(f, EXIT_REASON_VMFUNC);
	f->cpu->gpr[RAX] = 64;
	RUN(f, p_vmresume, 0, 0);
	expect_exit(f, EXIT_REASON_EXCEPTION_NMI);
	LOAD(f, GUEST_AT, p_switch);
	vw(f, VMCS_VM_FUNCTION_CTL, BIT64(VM_FUNCTION_EPTP_SWITCHING));
	vw(f, VMCS_EPTP_LIST, EPTP_LIST_AT);
	put64(f, EPTP_LIST_AT + 8, eptp[1]);
	put64(f, EPTP_LIST_AT + 16, eptp[1] | 0x80);
	RUN(f, p_vmresume, 0, 0);
	expect_exit(f, EXIT_REASON_VMFUNC);
	assert_int_equal(vr(f, VMCS_EXIT_INSN_LEN), 3);
	assert_int_equal(f->cpu->gpr[R9], 0x44);
	assert_int_equal(f->cpu->gpr[R10], 0x55);
	assert_int_equal(vr(f, VMCS_EPTP), eptp[1]);
	assert_int_equal(RUN(f, p_vmfunc, 0, 0), EXC_UD);
	destroy(f);
}

/* ---- time and interrupts ---- */

static void start_timer(struct fix *f, uint32_t ticks)
{
	struct lapic *l = &f->cpu->lapic;

	lapic_write(l, 0xf0, 0x1ff, cpu_tsc(f->cpu));
	lapic_write(l, 0x3e0, 0xb, cpu_tsc(f->cpu)); /* divide by 1 */
	lapic_write(l, 0x320, 0x41, cpu_tsc(f->cpu));
	lapic_write(l, 0x380, ticks, cpu_tsc(f->cpu));
}

PIECE(p_spin, "1: inc %r9; jmp 1b");

static void test_interrupt_exits(void **state)
{
	struct fix *f = with_guest(0);

	(void)state;
	LOAD(f, GUEST_AT, p_spin);
	vw(f, VMCS_PIN_CTL, PIN_DEFAULT1 | PIN_EXTERNAL_INTERRUPT);
	start_timer(f, 1000);
	assert_int_equal(RUN(f, p_vmlaunch, 0, 0), -1);
	expect_exit(f, EXIT_REASON_EXTERNAL_INTERRUPT);
	assert_int_equal(f->cpu->insns, 1000 + 1); /* and the HLT */
	assert_int_equal(vr(f, VMCS_EXIT_INTR_INFO), 0);
	assert_int_equal(lapic_pending(&f->cpu->lapic), 0x41);
	vw(f, VMCS_EXIT_CTL, EXIT_DEFAULT1 | EXIT_HOST_64 | EXIT_ACK_INTERRUPT);
	assert_int_equal(RUN(f, p_vmresume, 0, 0), -1);
	expect_exit(f, EXIT_REASON_EXTERNAL_INTERRUPT);
	assert_int_equal(vr(f, VMCS_EXIT_INTR_INFO), INTR_INFO_VALID | 0x41);
	assert_int_equal(lapic_pending(&f->cpu->lapic), -1);
	destroy(f);
}

static void test_interrupt_delivered(void **state)
{
	struct fix *f = with_guest(0);

	(void)state;
	LOAD(f, GUEST_AT, p_spin);
	LOAD(f, GUEST_HANDLERS_AT + 16 * 0x41, p_cpuid);
	vw(f, VMCS_GUEST_RFLAGS, RF_ONE | RF_IF);
	start_timer(f, 1000);
	assert_int_equal(RUN(f, p_vmlaunch, 0, 0), -1);
	expect_exit(f, EXIT_REASON_CPUID);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), GUEST_HANDLERS_AT + 16 * 0x41);
	destroy(f);
}

static void test_preemption_timer(void **state)
{
	struct fix *f = with_guest(0);

	(void)state;
	LOAD(f, GUEST_AT, p_spin);
	vw(f, VMCS_PIN_CTL, PIN_DEFAULT1 | PIN_PREEMPTION_TIMER);
	vw(f, VMCS_EXIT_CTL, EXIT_DEFAULT1 | EXIT_HOST_64 | EXIT_SAVE_PREEMPTION);
	vw(f, VMCS_GUEST_PREEMPTION_TIMER, 5001);
	assert_int_equal(RUN(f, p_vmlaunch, 0, 0), -1);
	expect_exit(f, EXIT_REASON_PREEMPTION_TIMER);
	assert_int_equal(f->cpu->gpr[R9], 2500);
	assert_int_equal(vr(f, VMCS_GUEST_PREEMPTION_TIMER), 0);
	destroy(f);
}

/* A guest that halts sleeps until the earlier of its host's timers. */
static void test_halted_guest(void **state)
{
	struct fix *f = with_guest(16);
	struct cpu *c = f->cpu;

	(void)state;
	LOAD(f, GUEST_AT, p_halt);
	vw(f, VMCS_PIN_CTL, PIN_DEFAULT1 | PIN_EXTERNAL_INTERRUPT | PIN_PREEMPTION_TIMER);
	vw(f, VMCS_GUEST_PREEMPTION_TIMER, 90000);
	start_timer(f, 10000);
	RUN(f, p_vmlaunch, 0, 0);
	assert_true(c->vmx.nonroot);
	assert_int_equal(cpu_wake_tsc(c), 10000);
	cpu_skip_time(c, cpu_wake_tsc(c));
	assert_int_equal(cpu_run_to(c, c->insns + 100), CPU_RUN_HALTED);
	expect_exit(f, EXIT_REASON_EXTERNAL_INTERRUPT);
	assert_int_equal(vr(f, VMCS_GUEST_ACTIVITY), ACTIVITY_HLT);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), GUEST_AT + 1);
	lapic_ack(&c->lapic);
	lapic_write(&c->lapic, 0x320, 0x10041, cpu_tsc(c));
	vw(f, VMCS_GUEST_PREEMPTION_TIMER, 500);
	vw(f, VMCS_GUEST_ACTIVITY, ACTIVITY_HLT);
	c->halted = false;
	RUN(f, p_vmresume, 0, 0);
	assert_true(c->vmx.nonroot);
	cpu_skip_time(c, cpu_wake_tsc(c));
	assert_int_equal(cpu_run_to(c, c->insns + 100), CPU_RUN_HALTED);
	expect_exit(f, EXIT_REASON_PREEMPTION_TIMER);
	destroy(f);
}

/* The PIC's vector is fetched before an exit that acknowledges. */
static void test_external_controller(void **state)
{
	struct fix *f = with_guest(16);
	struct cpu *c = f->cpu;

	(void)state;
	LOAD(f, GUEST_AT, p_spin);
	lapic_virtual_wire(&c->lapic);
	vw(f, VMCS_PIN_CTL, PIN_DEFAULT1 | PIN_EXTERNAL_INTERRUPT);
	vw(f, VMCS_EXIT_CTL, EXIT_DEFAULT1 | EXIT_HOST_64 | EXIT_ACK_INTERRUPT);
	LOAD(f, CODE_AT, p_vmlaunch);
	c->gpr[REG_RIP] = CODE_AT;
	c->extint = true;
	assert_int_equal(cpu_run_to(c, c->insns + 1000), CPU_RUN_EXTINT);
	assert_true(c->vmx.nonroot);
	cpu_give_extint(c, 0x33);
	c->extint = false;
	assert_int_equal(cpu_run_to(c, c->insns + 1000), CPU_RUN_HALTED);
	expect_exit(f, EXIT_REASON_EXTERNAL_INTERRUPT);
	assert_int_equal(vr(f, VMCS_EXIT_INTR_INFO), INTR_INFO_VALID | 0x33);
	destroy(f);
}

PIECE(p_ud2, "ud2");

/* A triple fault in the guest is an exit; in the host the machine shuts down. An INIT that came in root waits. */
static void test_triple_fault_and_init(void **state)
{
	struct fix *f = with_guest(16);
	struct cpu *c = f->cpu;

	(void)state;
	LOAD(f, GUEST_AT, p_ud2);
	vw(f, VMCS_GUEST_IDTR_LIMIT, 0);
	assert_int_equal(RUN(f, p_vmlaunch, 0, 0), -1);
	expect_exit(f, EXIT_REASON_TRIPLE_FAULT);
	c->lapic.init = true;
	assert_int_equal(RUN(f, p_vmresume, 0, 0), -1);
	expect_exit(f, EXIT_REASON_INIT);
	c->idtr.limit = 0;
	LOAD(f, CODE_AT, p_ud2);
	c->gpr[REG_RIP] = CODE_AT;
	c->halted = false;
	assert_int_equal(cpu_run_to(c, c->insns + 1000), CPU_RUN_SHUTDOWN);
	destroy(f);
}

/* A VMCS in a page with code: the processor's writes to it are seen. */
PIECE(p_write_code, "mov $0x681e, %esi; mov (%rdi), %rbx; vmwrite %rbx, %rsi; hlt");

static void test_vmcs_over_code(void **state)
{
	struct fix *f = with_guest(0);
	uint64_t before[PAGE_SIZE / 8], at = 0;

	(void)state;
	vw(f, VMCS_GUEST_RIP, 0);
	for (unsigned i = 0; i < PAGE_SIZE / 8; i++)
		before[i] = get64(f, VMCS_AT + 8 * i);
	vw(f, VMCS_GUEST_RIP, 0xf4ull); /* HLT: find the field's place */
	for (unsigned i = 0; i < PAGE_SIZE / 8; i++)
		if (get64(f, VMCS_AT + 8 * i) != before[i])
			at = VMCS_AT + 8 * i;
	assert_int_not_equal(at, 0);
	for (unsigned i = 0; i < 3; i++) {
		run_from(f, at);
		assert_int_equal(f->cpu->gpr[REG_RIP], at + 1);
	}
	put64(f, DATA_AT, 0xf490); /* NOP; HLT */
	assert_int_equal(RUN(f, p_write_code, DATA_AT, 0), -1);
	run_from(f, at);
	assert_int_equal(f->cpu->gpr[REG_RIP], at + 2);
	destroy(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_outside_vmx_operation),
		cmocka_unit_test(test_vmxon),
		cmocka_unit_test(test_vmcs_instructions),
		cmocka_unit_test(test_invalidations),
		cmocka_unit_test(test_recorded),
		cmocka_unit_test(test_fixed_bits),
		cmocka_unit_test(test_launch_and_exit),
		cmocka_unit_test(test_behind_movss),
		cmocka_unit_test(test_traps_at_entry),
		cmocka_unit_test(test_watched),
		cmocka_unit_test(test_loop_interpreted_and_translated),
		cmocka_unit_test(test_tpr_shadow),
		cmocka_unit_test(test_vmcs_shadowing),
		cmocka_unit_test(test_vm_functions),
		cmocka_unit_test(test_interrupt_exits),
		cmocka_unit_test(test_interrupt_delivered),
		cmocka_unit_test(test_preemption_timer),
		cmocka_unit_test(test_halted_guest),
		cmocka_unit_test(test_external_controller),
		cmocka_unit_test(test_triple_fault_and_init),
		cmocka_unit_test(test_vmcs_over_code),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
