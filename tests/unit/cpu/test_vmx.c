/*
 * VT-x: error numbers of the VMX instructions; every group of VM-entry checks, by
 * breaking one thing at a time in a VMCS that is good; what entry loads and exit
 * saves; every intercept with its exit information; priorities between instructions.
 */
#include "cpu/msr.h"
#include "cpu/vmx.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define RAM_BYTES (16u << 20)
enum {
	VMXON_AT = 0x1000, VMCS_AT = 0x2000, OTHER_VMCS = 0x3000, MSR_BITMAP_AT = 0x4000, IO_A_AT = 0x5000,
	IO_B_AT = 0x6000,
	MSR_AREA_AT = 0x7000, HOST_PML4 = 0x8000, PML4_AT = 0x10000, PDPT_AT = 0x11000, PD_AT = 0x12000,
	IDT_AT = 0x20000, GDT_AT = 0x21000, CODE_AT = 0x30000, STACK_AT = 0x40000, TSS_AT = 0x50000,
};
#define HANDLER_AT    (CODE_AT + 0x1000)
#define CODE64        0xa09bu
#define CODE32        0xc09bu
#define DATA32        0xc093u
#define NONCANONICAL  0x5555555555555555ull
#define NO_CONTROL    (1u << 17) /* "activate tertiary controls" */
#define INTR(type, vector) (INTR_INFO_VALID | (uint32_t)(type) << INTR_INFO_TYPE_SHIFT | (vector))

struct fix {
	struct machmem mem;
	struct cpu *cpu;
};

/* ---- a machine, a VMCS, a guest ---- */

static void put64(struct fix *f, uint64_t at, uint64_t v) { put_u64(machmem_ptr(&f->mem, hpa(at)), v); }
static void put32(struct fix *f, uint64_t at, uint32_t v) { put_u32(machmem_ptr(&f->mem, hpa(at)), v); }
static uint64_t get64(struct fix *f, uint64_t at) { return machmem_read64(&f->mem, hpa(at)); }

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

static void write_controls(struct fix *f)
{
	vw(f, VMCS_PIN_CTL, PIN_DEFAULT1);
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1);
	vw(f, VMCS_EXIT_CTL,
	   EXIT_DEFAULT1 | EXIT_HOST_64 | EXIT_SAVE_EFER | EXIT_LOAD_EFER | EXIT_SAVE_DEBUG);
	vw(f, VMCS_ENTRY_CTL, ENTRY_DEFAULT1 | ENTRY_IA32E | ENTRY_LOAD_EFER | ENTRY_LOAD_DEBUG);
	vw(f, VMCS_EPTP, 0x60000 | EPTP_WALK_4 | EPT_MT_WB);
	vw(f, VMCS_VPID, 1);
	vw(f, VMCS_MSR_BITMAP, MSR_BITMAP_AT);
	vw(f, VMCS_IO_BITMAP_A, IO_A_AT);
	vw(f, VMCS_IO_BITMAP_B, IO_B_AT);
}

static void write_host(struct fix *f)
{
	for (uint32_t s = VMCS_HOST_ES_SEL; s <= VMCS_HOST_GS_SEL; s += 2)
		vw(f, s, s == VMCS_HOST_CS_SEL ? VMX_ROOT_CS : VMX_ROOT_DS);
	vw(f, VMCS_HOST_TR_SEL, VMX_ROOT_TR);
	vw(f, VMCS_HOST_CR0, f->cpu->cr0);
	vw(f, VMCS_HOST_CR3, HOST_PML4);
	vw(f, VMCS_HOST_CR4, f->cpu->cr4);
	vw(f, VMCS_HOST_EFER, EFER_LMA | EFER_LME);
	vw(f, VMCS_HOST_PAT, 0x0007040600070406ull);
	vw(f, VMCS_HOST_RIP, 0xffffffff81000000ull);
	vw(f, VMCS_HOST_RSP, 0xffffffff82000000ull);
	vw(f, VMCS_HOST_TR_BASE, 0xffff800000001000ull);
	vw(f, VMCS_HOST_GDTR_BASE, 0xffff800000002000ull);
	vw(f, VMCS_HOST_IDTR_BASE, 0xffff800000003000ull);
	vw(f, VMCS_HOST_FS_BASE, 0xffff800000004000ull);
}

static void write_guest_segments(struct fix *f)
{
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		vw(f, VMCS_GUEST_ES_SEL + 2 * i, i == SEG_CS ? 8 : 16);
		vw(f, VMCS_GUEST_ES_AR + 2 * i, i == SEG_CS ? CODE64 : DATA32);
		vw(f, VMCS_GUEST_ES_LIMIT + 2 * i, 0xffffffff);
	}
	vw(f, VMCS_GUEST_LDTR_AR, SEG_AR_UNUSABLE);
	vw(f, VMCS_GUEST_TR_SEL, 24);
	vw(f, VMCS_GUEST_TR_AR, SEG_AR_P | 11);
	vw(f, VMCS_GUEST_TR_LIMIT, 0x67);
	vw(f, VMCS_GUEST_TR_BASE, TSS_AT);
	vw(f, VMCS_GUEST_GDTR_BASE, GDT_AT);
	vw(f, VMCS_GUEST_GDTR_LIMIT, 0x2f);
	vw(f, VMCS_GUEST_IDTR_BASE, IDT_AT);
	vw(f, VMCS_GUEST_IDTR_LIMIT, 0xfff);
}

static void write_guest(struct fix *f)
{
	write_guest_segments(f);
	vw(f, VMCS_GUEST_CR0, CR0_PG | CR0_NE | CR0_ET | CR0_PE);
	vw(f, VMCS_GUEST_CR3, PML4_AT);
	vw(f, VMCS_GUEST_CR4, CR4_PAE | CR4_VMXE);
	vw(f, VMCS_GUEST_EFER, EFER_LMA | EFER_LME);
	vw(f, VMCS_GUEST_PAT, 0x0007040600070406ull);
	vw(f, VMCS_GUEST_DR7, 0x400);
	vw(f, VMCS_GUEST_RIP, CODE_AT);
	vw(f, VMCS_GUEST_RSP, STACK_AT);
	vw(f, VMCS_GUEST_RFLAGS, RF_ONE);
	vw(f, VMCS_GUEST_VMCS_LINK, ~0ull);
}

/* Identity-mapped memory, an IDT of interrupt gates, a GDT. */
static void write_guest_memory(struct fix *f)
{
	put64(f, PML4_AT, PDPT_AT | PTE_P | PTE_W | PTE_U);
	put64(f, PDPT_AT, PD_AT | PTE_P | PTE_W | PTE_U);
	for (uint64_t i = 0; i < 8; i++)
		put64(f, PD_AT + 8 * i, i * SIZE_2M | PTE_P | PTE_W | PTE_U | PTE_PS);
	for (uint64_t i = 0; i < 256; i++) {
		put64(f, IDT_AT + 16 * i, (HANDLER_AT & 0xffff) | 8ull << 16 | 0x8e00ull << 32 |
						  (uint64_t)(HANDLER_AT >> 16) << 48);
		put64(f, IDT_AT + 16 * i + 8, 0);
	}
	put64(f, GDT_AT + 8, 0x00af9b000000ffffull);
	put64(f, GDT_AT + 16, 0x00cf93000000ffffull);
}

static struct fix *machine(void)
{
	const struct machmem_range ram = {.base = 0, .bytes = RAM_BYTES};
	struct fix *f = calloc(1, sizeof(*f));
	struct cpu_config cfg;

	assert_non_null(f);
	assert_int_equal(machmem_init(&f->mem, &ram, 1, NULL), 0);
	cpu_config_default(&cfg);
	cfg.maxphyaddr = 46;
	cfg.feature[CPUF_DMT] = true;
	assert_int_equal(cpu_create(&f->cpu, &f->mem, &cfg, NULL), 0);
	vmx_setup_root(f->cpu, hpa(HOST_PML4));
	put32(f, VMXON_AT, VMCS_REVISION);
	put32(f, VMCS_AT, VMCS_REVISION);
	put32(f, OTHER_VMCS, VMCS_REVISION);
	return f;
}

static int setup_off(void **state)
{
	*state = machine();
	return 0;
}

static int setup(void **state)
{
	struct fix *f = machine();

	*state = f;
	assert_int_equal(vmx_vmxon(f->cpu, hpa(VMXON_AT)), VMX_SUCCEED);
	assert_int_equal(vmx_vmclear(f->cpu, hpa(VMCS_AT)), VMX_SUCCEED);
	assert_int_equal(vmx_vmptrld(f->cpu, hpa(VMCS_AT)), VMX_SUCCEED);
	write_controls(f);
	write_host(f);
	write_guest(f);
	write_guest_memory(f);
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

/* Launches or resumes; fails the test unless the guest is running then. */
static void enter(struct fix *f)
{
	bool exited;
	enum vmx_result r = vmx_enter(f->cpu, true, &exited);

	if (r == VMX_FAIL_VALID && vr(f, VMCS_VM_INSTRUCTION_ERROR) == VMXERR_VMLAUNCH_NOT_CLEAR)
		r = vmx_enter(f->cpu, false, &exited);
	if (r == VMX_FAIL_VALID)
		print_error("VMfail %u\n", (unsigned)vr(f, VMCS_VM_INSTRUCTION_ERROR));
	assert_int_equal(r, VMX_SUCCEED);
	if (exited)
		print_error("exit %x %lx\n", (unsigned)vr(f, VMCS_EXIT_REASON),
			    vr(f, VMCS_EXIT_QUALIFICATION));
	assert_false(exited);
	assert_true(f->cpu->vmx.nonroot);
}

static void leave(struct fix *f)
{
	assert_int_equal(f->cpu->stop.kind, STOP_VMEXIT);
	vmx_do_exit(f->cpu);
	assert_false(f->cpu->vmx.nonroot);
	f->cpu->stop = (struct stop){0};
}

static void expect_fail(struct fix *f, enum vmx_result r, uint64_t error)
{
	assert_int_equal(r, VMX_FAIL_VALID);
	assert_int_equal(vr(f, VMCS_VM_INSTRUCTION_ERROR), error);
}

/* ---- VMX instructions ---- */

static void test_vmxon_conditions(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	assert_int_equal(vmx_vmxon(c, hpa(VMXON_AT + 8)), VMX_FAIL_INVALID);
	assert_int_equal(vmx_vmxon(c, hpa(1ull << 46)), VMX_FAIL_INVALID);
	put32(f, VMXON_AT, VMCS_REVISION | 1u << 31);
	assert_int_equal(vmx_vmxon(c, hpa(VMXON_AT)), VMX_FAIL_INVALID);
	put32(f, VMXON_AT, VMCS_REVISION);
	c->cr4 &= ~CR4_VMXE;
	assert_int_equal(vmx_vmxon_fault(c), EXC_UD);
	assert_int_equal(vmx_vmxon(c, hpa(VMXON_AT)), VMX_FAIL_INVALID);
	c->cr4 |= CR4_VMXE;
	c->cr0 &= ~CR0_NE;
	assert_int_equal(vmx_vmxon_fault(c), EXC_GP);
	c->cr0 |= CR0_NE;
	c->cpl = 3;
	assert_int_equal(vmx_vmxon_fault(c), EXC_GP);
	c->cpl = 0;
	c->msr.feature_control = 1;
	assert_int_equal(vmx_vmxon_fault(c), EXC_GP);
	c->msr.feature_control = 5;
	assert_int_equal(vmx_vmxon(c, hpa(VMXON_AT)), VMX_SUCCEED);
	assert_int_equal(vmx_vmptrst(c), VMCS_NONE);
	assert_int_equal(vmx_vmxon(c, hpa(VMXON_AT)),
			 VMX_FAIL_INVALID); /* no current VMCS to hold error 15 */
	assert_int_equal(vmx_vmxoff(c), VMX_SUCCEED);
	assert_int_equal(vmx_vmxoff(c), VMX_FAIL_INVALID);
}

/* A processor without VMCS shadowing, whose read-only fields are. */
static const struct vmx_limits older = {.pin = ~0u, .proc = ~0u, .proc2 = ~PROC2_SHADOW_VMCS, .exit = ~0u, .entry = ~0u,
					.ept_vpid = ~0ull, .misc = ~VMX_MISC_WRITE_ANY, .vmfunc = ~0ull};

static void test_vmptr_errors(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	expect_fail(f, vmx_vmxon(c, hpa(VMXON_AT)), VMXERR_VMXON_IN_ROOT);
	expect_fail(f, vmx_vmclear(c, hpa(VMCS_AT + 1)), VMXERR_VMCLEAR_ADDRESS);
	expect_fail(f, vmx_vmclear(c, hpa(1ull << 46)), VMXERR_VMCLEAR_ADDRESS);
	expect_fail(f, vmx_vmclear(c, hpa(VMXON_AT)), VMXERR_VMCLEAR_VMXON);
	expect_fail(f, vmx_vmptrld(c, hpa(VMCS_AT + 1)), VMXERR_VMPTRLD_ADDRESS);
	expect_fail(f, vmx_vmptrld(c, hpa(1ull << 50)), VMXERR_VMPTRLD_ADDRESS);
	expect_fail(f, vmx_vmptrld(c, hpa(VMXON_AT)), VMXERR_VMPTRLD_VMXON);
	expect_fail(f, vmx_vmptrld(c, hpa(0x9000)), VMXERR_VMPTRLD_REVISION);
	expect_fail(f, vmx_vmptrld(c, hpa(1ull << 30)), VMXERR_VMPTRLD_REVISION); /* no memory there */
	put32(f, OTHER_VMCS, VMCS_REVISION | VMCS_SHADOW);
	c->vmx_limits = &older;
	expect_fail(f, vmx_vmptrld(c, hpa(OTHER_VMCS)), VMXERR_VMPTRLD_REVISION);
	c->vmx_limits = NULL;
	assert_int_equal(vmx_vmptrst(c), VMCS_AT);
	assert_int_equal(vmx_vmclear(c, hpa(1ull << 30)), VMX_SUCCEED);
	assert_int_equal(vmx_vmclear(c, hpa(VMCS_AT)), VMX_SUCCEED);
	assert_int_equal(vmx_vmptrst(c), VMCS_NONE);
	assert_int_equal(vmx_vmclear(c, hpa(VMXON_AT)), VMX_FAIL_INVALID);
}

/* By IA32_VMX_MISC bit 29. */
static void expect_readonly(struct fix *f, uint32_t field)
{
	f->cpu->vmx_limits = &older;
	expect_fail(f, vmx_vmwrite(f->cpu, field, 0), VMXERR_VMWRITE_READONLY);
	f->cpu->vmx_limits = NULL;
	vw(f, field, 0x77);
	assert_int_equal(vr(f, field), 0x77);
}

static void test_vmread_vmwrite(void **state)
{
	static const struct { uint32_t field; bool writable; } all[] = {
#define X(sym, encoding, w) {encoding, w},
		VMCS_FIELDS(X)
#undef X
	};
	struct fix *f = *state;
	uint64_t v;

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i].writable)
			vw(f, all[i].field, 0x1111111111111111ull * (i % 15 + 1) + i);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		unsigned width = all[i].field >> 13 & 3;
		uint64_t mask = width == 0 ? 0xffff : width == 2 ? 0xffffffff : ~0ull;

		if (all[i].writable)
			assert_int_equal(vr(f, all[i].field),
					 (0x1111111111111111ull * (i % 15 + 1) + i) & mask);
		else
			expect_readonly(f, all[i].field);
		if (width != 1)
			expect_fail(f, vmx_vmread(f->cpu, all[i].field | 1, &v), VMXERR_VMREADWRITE_FIELD);
	}
	vw(f, VMCS_TSC_OFFSET, 0x1122334455667788ull);
	assert_int_equal(vr(f, VMCS_TSC_OFFSET | 1), 0x11223344);
	vw(f, VMCS_TSC_OFFSET | 1, 0xdeadbeefcafef00dull);
	assert_int_equal(vr(f, VMCS_TSC_OFFSET), 0xcafef00d55667788ull);
	expect_readonly(f, VMCS_GUEST_PHYSICAL | 1);
}

static void test_unknown_fields(void **state)
{
	static const uint32_t bad[] = {
		0x2,    0x1000, 0x8000,     0x10000, 0x80004000, 0x4822 + 8 + 0x100, 0x6818 + 0x400,
		0x7fff, 0x2044, 0xffffffff, 0x6836,  0x9000};
	struct fix *f = *state;
	uint64_t v = 77;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		expect_fail(f, vmx_vmread(f->cpu, bad[i], &v), VMXERR_VMREADWRITE_FIELD);
		expect_fail(f, vmx_vmwrite(f->cpu, bad[i], 0), VMXERR_VMREADWRITE_FIELD);
	}
	assert_int_equal(v, 77);
	vmx_vmclear(f->cpu, hpa(VMCS_AT));
	assert_int_equal(vmx_vmread(f->cpu, VMCS_VPID, &v), VMX_FAIL_INVALID);
	assert_int_equal(vmx_vmwrite(f->cpu, 0xffff, 0), VMX_FAIL_INVALID);
}

static void test_invalidation(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;
	uint64_t eptp = 0x60000 | EPTP_WALK_4 | EPT_MT_WB;

	assert_int_equal(vmx_invept(c, INVEPT_SINGLE, eptp | EPTP_AD), VMX_SUCCEED);
	assert_int_equal(vmx_invept(c, INVEPT_ALL, 0x123), VMX_SUCCEED);
	expect_fail(f, vmx_invept(c, INVEPT_SINGLE, eptp | 0x80), VMXERR_INV_OPERAND);
	expect_fail(f, vmx_invept(c, 0, eptp), VMXERR_INV_OPERAND);
	expect_fail(f, vmx_invept(c, 3, eptp), VMXERR_INV_OPERAND);
	for (uint64_t type = 0; type < 4; type++)
		assert_int_equal(vmx_invvpid(c, type, 1, gva(0x1000)), VMX_SUCCEED);
	assert_int_equal(vmx_invvpid(c, INVVPID_ALL, 0, gva(0)), VMX_SUCCEED);
	expect_fail(f, vmx_invvpid(c, INVVPID_SINGLE, 0, gva(0)), VMXERR_INV_OPERAND);
	expect_fail(f, vmx_invvpid(c, INVVPID_ADDRESS, 1, gva(NONCANONICAL)), VMXERR_INV_OPERAND);
	expect_fail(f, vmx_invvpid(c, 4, 1, gva(0)), VMXERR_INV_OPERAND);
}

static void test_capabilities(void **state)
{
	struct fix *f = *state;
	uint64_t v, t;

	for (uint32_t msr = MSR_VMX_BASIC; msr <= MSR_VMX_VMFUNC; msr++)
		assert_int_equal(vmx_read_capability(f->cpu, msr, &v), 0);
	assert_int_equal(vmx_read_capability(f->cpu, 0x492, &v), -1);
	for (unsigned i = 0; i < 4; i++) { /* what must be 1 may be 1, and the TRUE MSRs demand less */
		vmx_read_capability(f->cpu, MSR_VMX_PINBASED_CTLS + i, &v);
		vmx_read_capability(f->cpu, MSR_VMX_TRUE_PINBASED_CTLS + i, &t);
		assert_int_equal((uint32_t)v & ~(v >> 32), 0);
		assert_int_equal((uint32_t)t & ~(uint32_t)v, 0);
		assert_int_equal(v >> 32, t >> 32);
	}
	vmx_read_capability(f->cpu, MSR_VMX_BASIC, &v);
	assert_int_equal((uint32_t)v, VMCS_REVISION);
	f->cpu->cfg.feature[CPUF_INVPCID] = false;
	vmx_read_capability(f->cpu, MSR_VMX_PROCBASED_CTLS2, &v);
	assert_false(v >> 32 & PROC2_INVPCID);
	assert_true(v >> 49 & 1); /* page-modification logging, bit 17 of the controls, may be set */
	assert_false(v >> 17 & 1);
}

/* As docs/vmx.md has them. */
static void test_capability_values(void **state)
{
	static const uint64_t value[] = {
		0x00d81000474e4d31, 0x0000007f00000016, 0xfff9fffe0401e172, 0x007fefff00036dff, 0x0000d3ff000011ff,
		0x60040060, 0x80000021, 0xffffffff, 0x2000, 0, 0x2e, 0x000378ee00000000, 0x00000f0106334141,
		0x0000007f00000016, 0xfff9fffe04006172, 0x007fefff00036dfb, 0x0000d3ff000011fb, 1,
	};
	struct fix *f = *state;
	uint64_t v;

	for (uint32_t i = 0; i < ARRAY_SIZE(value); i++) {
		assert_int_equal(vmx_read_capability(f->cpu, MSR_VMX_BASIC + i, &v), 0);
		if (MSR_VMX_BASIC + i != MSR_VMX_CR4_FIXED1) /* as many bits as features */
			assert_true(v == value[i]);
	}
}

/* ---- entry checks ---- */

static void test_entry_basics(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;
	bool exited;

	expect_fail(f, vmx_enter(c, false, &exited), VMXERR_VMRESUME_NOT_LAUNCHED);
	c->shadow_movss = true;
	expect_fail(f, vmx_enter(c, true, &exited), VMXERR_ENTRY_MOVSS);
	c->shadow_movss = false;
	enter(f);
	vmx_exit_triple_fault(c);
	leave(f);
	expect_fail(f, vmx_enter(c, true, &exited), VMXERR_VMLAUNCH_NOT_CLEAR);
	enter(f);
	vmx_exit_triple_fault(c);
	leave(f);
	vmx_vmclear(c, hpa(VMCS_AT));
	assert_int_equal(vmx_enter(c, false, &exited), VMX_FAIL_INVALID);
	vmx_vmptrld(c, hpa(VMCS_AT));
	expect_fail(f, vmx_enter(c, false, &exited), VMXERR_VMRESUME_NOT_LAUNCHED);
	enter(f);
}

struct setting { uint32_t field; uint64_t value; };

/* What becomes of an entry with these fields changed. */
struct check {
	const char *what;
	int error;             /* VMfail number, or 0 */
	int exit;              /* exit reason of a failed entry, or 0 */
	uint64_t qualification;
	struct setting set[4];
};
#define FAIL(n)     .error = (n)
#define INVALID(q)  .exit = EXIT_REASON_ENTRY_GUEST_STATE, .qualification = (q)
#define PROC2(bits) {VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_SECONDARY}, {VMCS_PROC_CTL2, bits}
#define CONTROLS    FAIL(VMXERR_ENTRY_CONTROLS)
#define HOST        FAIL(VMXERR_ENTRY_HOST_STATE)

static const struct check control_checks[] = {
	{"nothing", .set = {{VMCS_VPID, 1}}},
	{"pin must-be-1", CONTROLS, .set = {{VMCS_PIN_CTL, PIN_DEFAULT1 & ~2u}}},
	{"pin unknown", CONTROLS, .set = {{VMCS_PIN_CTL, PIN_DEFAULT1 | 1u << 7}}},
	{"proc must-be-1", CONTROLS, .set = {{VMCS_PROC_CTL, PROC_DEFAULT1 & ~(1u << 26)}}},
	{"proc CR3 bits may be 0 or 1", .set = {{VMCS_PROC_CTL, PROC_DEFAULT1_OLD}}},
	{"proc unknown", CONTROLS, .set = {{VMCS_PROC_CTL, PROC_DEFAULT1 | NO_CONTROL}}},
	{"TPR shadow", .set = {{VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_TPR_SHADOW}, {VMCS_VIRTUAL_APIC_ADDR, 0x9000}}},
	{"virtual-APIC page", CONTROLS,
	 .set = {{VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_TPR_SHADOW}, {VMCS_VIRTUAL_APIC_ADDR, 0x9800}}},
	{"virtual-APIC page", CONTROLS,
	 .set = {{VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_TPR_SHADOW}, {VMCS_VIRTUAL_APIC_ADDR, 1ull << 46}}},
	{"virtual-APIC page ignored", .set = {{VMCS_VIRTUAL_APIC_ADDR, 0x9800}}},
	{"TPR threshold of 8 bits", CONTROLS,
	 .set = {{VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_TPR_SHADOW}, {VMCS_TPR_THRESHOLD, 0x10}}},
	{"TPR threshold above the TPR", CONTROLS,
	 .set = {{VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_TPR_SHADOW}, {VMCS_VIRTUAL_APIC_ADDR, 0x9000},
		 {VMCS_TPR_THRESHOLD, 1}}},
	{"VM functions, none", .set = {PROC2(PROC2_VM_FUNCTIONS)}},
	{"EPTP switching without EPT", CONTROLS, .set = {PROC2(PROC2_VM_FUNCTIONS), {VMCS_VM_FUNCTION_CTL, 1}}},
	{"EPTP switching", .set = {PROC2(PROC2_VM_FUNCTIONS | PROC2_EPT), {VMCS_VM_FUNCTION_CTL, 1}}},
	{"VM function unknown", CONTROLS, .set = {PROC2(PROC2_VM_FUNCTIONS | PROC2_EPT), {VMCS_VM_FUNCTION_CTL, 3}}},
	{"EPTP list", CONTROLS,
	 .set = {PROC2(PROC2_VM_FUNCTIONS | PROC2_EPT), {VMCS_VM_FUNCTION_CTL, 1}, {VMCS_EPTP_LIST, 8}}},
	{"VMCS shadowing", .set = {PROC2(PROC2_SHADOW_VMCS)}},
	{"VMREAD bitmap", CONTROLS, .set = {PROC2(PROC2_SHADOW_VMCS), {VMCS_VMREAD_BITMAP, 8}}},
	{"VMWRITE bitmap", CONTROLS, .set = {PROC2(PROC2_SHADOW_VMCS), {VMCS_VMWRITE_BITMAP, 1ull << 46}}},
	{"proc2 unknown", CONTROLS, .set = {PROC2(1u << 17)}},
	{"proc2 ignored while off", .set = {{VMCS_PROC_CTL2, 1u << 17}}},
	{"CR3 targets", CONTROLS, .set = {{VMCS_CR3_TARGET_COUNT, 5}}},
	{"CR3 targets", .set = {{VMCS_CR3_TARGET_COUNT, 4}}},
	{"I/O bitmap A", CONTROLS,
	 .set = {{VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_IO_BITMAPS}, {VMCS_IO_BITMAP_A, 0x800}}},
	{"I/O bitmap B", CONTROLS,
	 .set = {{VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_IO_BITMAPS}, {VMCS_IO_BITMAP_B, 1ull << 46}}},
	{"I/O bitmap unused", .set = {{VMCS_IO_BITMAP_B, 1ull << 46}}},
	{"MSR bitmap", CONTROLS,
	 .set = {{VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_MSR_BITMAPS}, {VMCS_MSR_BITMAP, 1}}},
	{"virtual NMIs alone", CONTROLS, .set = {{VMCS_PIN_CTL, PIN_DEFAULT1 | PIN_VIRTUAL_NMI}}},
	{"virtual NMIs", .set = {{VMCS_PIN_CTL, PIN_DEFAULT1 | PIN_NMI | PIN_VIRTUAL_NMI}}},
	{"NMI window alone", CONTROLS,
	 .set = {{VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_NMI_WINDOW}, {VMCS_PIN_CTL, PIN_DEFAULT1 | PIN_NMI}}},
	{"VPID 0 (in its 16 bits)", CONTROLS, .set = {PROC2(PROC2_VPID), {VMCS_VPID, 0x10000}}},
	{"EPTP memory type", CONTROLS, .set = {PROC2(PROC2_EPT), {VMCS_EPTP, 0x60000 | EPTP_WALK_4 | 1}}},
	{"EPTP uncacheable", .set = {PROC2(PROC2_EPT), {VMCS_EPTP, 0x60000 | EPTP_WALK_4}}},
	{"EPTP walk length", CONTROLS, .set = {PROC2(PROC2_EPT), {VMCS_EPTP, 0x60000 | 4 << 3 | 6}}},
	{"EPTP reserved", CONTROLS, .set = {PROC2(PROC2_EPT), {VMCS_EPTP, 0x60000 | EPTP_WALK_4 | 6 | 0x80}}},
	{"EPTP width", CONTROLS, .set = {PROC2(PROC2_EPT), {VMCS_EPTP, 1ull << 46 | EPTP_WALK_4 | 6}}},
	{"PML without EPT", CONTROLS, .set = {PROC2(PROC2_PML), {VMCS_PML_ADDRESS, 0x61000}}},
	{"PML", .set = {PROC2(PROC2_EPT | PROC2_PML), {VMCS_PML_ADDRESS, 0x61000},
			{VMCS_EPTP, 0x60000 | EPTP_WALK_4 | EPTP_AD | 6}}},
	{"PML, EPT without A/D", .set = {PROC2(PROC2_EPT | PROC2_PML), {VMCS_PML_ADDRESS, 0x61000}}},
	{"PML alignment", CONTROLS, .set = {PROC2(PROC2_EPT | PROC2_PML), {VMCS_PML_ADDRESS, 0x61008}}},
	{"PML width", CONTROLS, .set = {PROC2(PROC2_EPT | PROC2_PML), {VMCS_PML_ADDRESS, 1ull << 46}}},
	{"PML index", .set = {PROC2(PROC2_EPT | PROC2_PML), {VMCS_PML_ADDRESS, 0x61000}, {VMCS_GUEST_PML_INDEX, 0x8000}}},
	{"no PML, bad address", .set = {PROC2(PROC2_EPT), {VMCS_PML_ADDRESS, 0x61008}}},
	{"EPTP A/D", .set = {PROC2(PROC2_EPT), {VMCS_EPTP, 0x60000 | EPTP_WALK_4 | EPTP_AD | 6}}},
	{"unrestricted without EPT", CONTROLS, .set = {PROC2(PROC2_UNRESTRICTED)}},
	{"unrestricted", .set = {PROC2(PROC2_UNRESTRICTED | PROC2_EPT)}},
	{"exit must-be-1", CONTROLS, .set = {{VMCS_EXIT_CTL, EXIT_HOST_64}}},
	{"exit unknown", CONTROLS, .set = {{VMCS_EXIT_CTL, EXIT_DEFAULT1 | EXIT_HOST_64 | 1u << 30}}},
	{"save timer without timer", CONTROLS,
	 .set = {{VMCS_EXIT_CTL, EXIT_DEFAULT1 | EXIT_HOST_64 | EXIT_SAVE_PREEMPTION}}},
	{"MSR-store area", CONTROLS, .set = {{VMCS_EXIT_MSR_STORE_COUNT, 1}, {VMCS_EXIT_MSR_STORE_ADDR, 8}}},
	{"MSR-load area end", CONTROLS,
	 .set = {{VMCS_EXIT_MSR_LOAD_COUNT, 2}, {VMCS_EXIT_MSR_LOAD_ADDR, (1ull << 46) - 16}}},
	{"MSR-load area unused", .set = {{VMCS_EXIT_MSR_LOAD_ADDR, 8}}},
	{"entry MSR-load area", CONTROLS,
	 .set = {{VMCS_ENTRY_MSR_LOAD_COUNT, 1}, {VMCS_ENTRY_MSR_LOAD_ADDR, 1ull << 46}}},
	{"entry must-be-1", CONTROLS, .set = {{VMCS_ENTRY_CTL, ENTRY_IA32E}}},
	{"entry unknown", CONTROLS, .set = {{VMCS_ENTRY_CTL, ENTRY_DEFAULT1 | ENTRY_IA32E | 1u << 10}}},
	{"inject reserved type", CONTROLS, .set = {{VMCS_ENTRY_INTR_INFO, INTR(1, 32)}}},
	{"inject NMI vector", CONTROLS, .set = {{VMCS_ENTRY_INTR_INFO, INTR(EVENT_NMI, 3)}}},
	{"inject exception vector", CONTROLS, .set = {{VMCS_ENTRY_INTR_INFO, INTR(EVENT_HW_EXCEPTION, 32)}}},
	{"inject other vector", CONTROLS, .set = {{VMCS_ENTRY_INTR_INFO, INTR(INTR_TYPE_OTHER, 1)}}},
	{"inject #PF without error", CONTROLS, .set = {{VMCS_ENTRY_INTR_INFO, INTR(EVENT_HW_EXCEPTION, 14)}}},
	{"inject #UD with error", CONTROLS,
	 .set = {{VMCS_ENTRY_INTR_INFO, INTR(EVENT_HW_EXCEPTION, 6) | INTR_INFO_ERROR}}},
	{"inject reserved bit", CONTROLS,
	 .set = {{VMCS_ENTRY_INTR_INFO, INTR(EVENT_HW_EXCEPTION, 6) | 1u << 12}}},
	{"inject wide error", CONTROLS,
	 .set = {{VMCS_ENTRY_INTR_INFO, INTR(EVENT_HW_EXCEPTION, 14) | INTR_INFO_ERROR},
		 {VMCS_ENTRY_EXCEPTION_ERROR, 0x10000}}},
	{"inject INT n length", CONTROLS,
	 .set = {{VMCS_ENTRY_INTR_INFO, INTR(EVENT_SOFT_INT, 32)}, {VMCS_ENTRY_INSN_LEN, 16}}},
	{"inject INT n length 0", .set = {{VMCS_ENTRY_INTR_INFO, INTR(EVENT_SOFT_INT, 32)}}},
	{"inject real-mode error", CONTROLS,
	 .set = {PROC2(PROC2_UNRESTRICTED | PROC2_EPT), {VMCS_GUEST_CR0, CR0_NE},
		 {VMCS_ENTRY_INTR_INFO, INTR(EVENT_HW_EXCEPTION, 13) | INTR_INFO_ERROR}}},
};

static const struct check host_checks[] = {
	{"CR0 NE", HOST, .set = {{VMCS_HOST_CR0, CR0_PG | CR0_PE}}},
	{"CR0 PG", HOST, .set = {{VMCS_HOST_CR0, CR0_NE | CR0_PE}}},
	{"CR0 high", HOST, .set = {{VMCS_HOST_CR0, CR0_PG | CR0_PE | CR0_NE | 1ull << 32}}},
	{"CR4 VMXE", HOST, .set = {{VMCS_HOST_CR4, CR4_PAE}}},
	{"CR4 reserved", HOST, .set = {{VMCS_HOST_CR4, CR4_PAE | CR4_VMXE | 1ull << 31}}},
	{"CR4 PAE", HOST, .set = {{VMCS_HOST_CR4, CR4_VMXE}}},
	{"CR3 width", HOST, .set = {{VMCS_HOST_CR3, 1ull << 46}}},
	{"SYSENTER_ESP", HOST, .set = {{VMCS_HOST_SYSENTER_ESP, NONCANONICAL}}},
	{"SYSENTER_EIP", HOST, .set = {{VMCS_HOST_SYSENTER_EIP, NONCANONICAL}}},
	{"PAT", HOST,
	 .set = {{VMCS_EXIT_CTL, EXIT_DEFAULT1 | EXIT_HOST_64 | EXIT_LOAD_PAT}, {VMCS_HOST_PAT, 2}}},
	{"PAT 3", HOST,
	 .set = {{VMCS_EXIT_CTL, EXIT_DEFAULT1 | EXIT_HOST_64 | EXIT_LOAD_PAT}, {VMCS_HOST_PAT, 3ull << 56}}},
	{"PAT 8", HOST,
	 .set = {{VMCS_EXIT_CTL, EXIT_DEFAULT1 | EXIT_HOST_64 | EXIT_LOAD_PAT}, {VMCS_HOST_PAT, 8ull << 8}}},
	{"PAT good",
	 .set = {{VMCS_EXIT_CTL, EXIT_DEFAULT1 | EXIT_HOST_64 | EXIT_LOAD_PAT},
		 {VMCS_HOST_PAT, 0x0706050401000607ull}}},
	{"PAT not loaded", .set = {{VMCS_HOST_PAT, 2}}},
	{"EFER reserved", HOST, .set = {{VMCS_HOST_EFER, EFER_LMA | EFER_LME | 2}}},
	{"EFER LMA", HOST, .set = {{VMCS_HOST_EFER, EFER_LME}}},
	{"EFER LME", HOST, .set = {{VMCS_HOST_EFER, EFER_LMA}}},
	{"ES RPL", HOST, .set = {{VMCS_HOST_ES_SEL, 0x11}}},
	{"GS TI", HOST, .set = {{VMCS_HOST_GS_SEL, 0x14}}},
	{"TR RPL", HOST, .set = {{VMCS_HOST_TR_SEL, 0x1b}}},
	{"CS null", HOST, .set = {{VMCS_HOST_CS_SEL, 0}}},
	{"TR null", HOST, .set = {{VMCS_HOST_TR_SEL, 0}}},
	{"SS null", .set = {{VMCS_HOST_SS_SEL, 0}}},
	{"FS base", HOST, .set = {{VMCS_HOST_FS_BASE, NONCANONICAL}}},
	{"GS base", HOST, .set = {{VMCS_HOST_GS_BASE, NONCANONICAL}}},
	{"TR base", HOST, .set = {{VMCS_HOST_TR_BASE, NONCANONICAL}}},
	{"GDTR base", HOST, .set = {{VMCS_HOST_GDTR_BASE, NONCANONICAL}}},
	{"IDTR base", HOST, .set = {{VMCS_HOST_IDTR_BASE, NONCANONICAL}}},
	{"host not 64-bit", HOST, .set = {{VMCS_EXIT_CTL, EXIT_DEFAULT1}}},
	{"RIP", HOST, .set = {{VMCS_HOST_RIP, NONCANONICAL}}},
};

#define G32  {VMCS_ENTRY_CTL, ENTRY_DEFAULT1}
#define V86  {VMCS_GUEST_RFLAGS, RF_ONE | RF_VM}

static const struct check guest_checks[] = {
	{"CR0 NE", INVALID(0), .set = {{VMCS_GUEST_CR0, CR0_PG | CR0_PE}}},
	{"CR0 PE", INVALID(0), .set = {{VMCS_GUEST_CR0, CR0_PG | CR0_NE}}},
	{"CR0 PG without PE, unrestricted", INVALID(0),
	 .set = {PROC2(PROC2_UNRESTRICTED | PROC2_EPT), {VMCS_GUEST_CR0, CR0_PG | CR0_NE}}},
	{"CR0 CD and NW", .set = {{VMCS_GUEST_CR0, CR0_PG | CR0_PE | CR0_NE | CR0_NW}}},
	{"CR4 VMXE", INVALID(0), .set = {{VMCS_GUEST_CR4, CR4_PAE}}},
	{"CR4 PAE", INVALID(0), .set = {{VMCS_GUEST_CR4, CR4_VMXE}}},
	{"CR4 reserved", INVALID(0), .set = {{VMCS_GUEST_CR4, CR4_PAE | CR4_VMXE | 1ull << 40}}},
	{"CR4 PCIDE", INVALID(0), .set = {G32, {VMCS_GUEST_CR4, CR4_PAE | CR4_VMXE | CR4_PCIDE}}},
	{"CR3 width", INVALID(0), .set = {{VMCS_GUEST_CR3, 1ull << 46}}},
	{"DEBUGCTL", INVALID(0), .set = {{VMCS_GUEST_DEBUGCTL, 1ull << 2}}},
	{"DR7", INVALID(0), .set = {{VMCS_GUEST_DR7, 1ull << 32}}},
	{"SYSENTER_ESP", INVALID(0), .set = {{VMCS_GUEST_SYSENTER_ESP, NONCANONICAL}}},
	{"SYSENTER_EIP", INVALID(0), .set = {{VMCS_GUEST_SYSENTER_EIP, NONCANONICAL}}},
	{"PAT", INVALID(0),
	 .set = {{VMCS_ENTRY_CTL, ENTRY_DEFAULT1 | ENTRY_IA32E | ENTRY_LOAD_PAT}, {VMCS_GUEST_PAT, 0x0200}}},
	{"EFER reserved", INVALID(0), .set = {{VMCS_GUEST_EFER, EFER_LMA | EFER_LME | 1ull << 9}}},
	{"EFER LMA", INVALID(0), .set = {{VMCS_GUEST_EFER, EFER_LME}}},
	{"EFER LME", INVALID(0), .set = {{VMCS_GUEST_EFER, EFER_LMA}}},
	/* selectors */
	{"TR TI", INVALID(0), .set = {{VMCS_GUEST_TR_SEL, 0x1c}}},
	{"LDTR TI", INVALID(0), .set = {{VMCS_GUEST_LDTR_SEL, 0x24}, {VMCS_GUEST_LDTR_AR, SEG_AR_P | 2}}},
	{"LDTR unusable", .set = {{VMCS_GUEST_LDTR_SEL, 0x24}, {VMCS_GUEST_LDTR_BASE, NONCANONICAL}}},
	{"LDTR good", .set = {{VMCS_GUEST_LDTR_SEL, 0x20}, {VMCS_GUEST_LDTR_AR, SEG_AR_P | 2}}},
	{"SS RPL", INVALID(0), .set = {{VMCS_GUEST_SS_SEL, 0x13}}},
	/* bases */
	{"TR base", INVALID(0), .set = {{VMCS_GUEST_TR_BASE, NONCANONICAL}}},
	{"FS base", INVALID(0), .set = {{VMCS_GUEST_FS_BASE, NONCANONICAL}}},
	{"GS base", INVALID(0), .set = {{VMCS_GUEST_GS_BASE, NONCANONICAL}}},
	{"LDTR base", INVALID(0),
	 .set = {{VMCS_GUEST_LDTR_BASE, NONCANONICAL}, {VMCS_GUEST_LDTR_AR, SEG_AR_P | 2}}},
	{"CS base", INVALID(0), .set = {{VMCS_GUEST_CS_BASE, 1ull << 32}}},
	{"SS base", INVALID(0), .set = {{VMCS_GUEST_SS_BASE, 1ull << 32}}},
	{"DS base", INVALID(0), .set = {{VMCS_GUEST_DS_BASE, 1ull << 32}}},
	{"ES base, unusable", .set = {{VMCS_GUEST_ES_BASE, 1ull << 32}, {VMCS_GUEST_ES_AR, SEG_AR_UNUSABLE}}},
	/* CS rights */
	{"CS data", INVALID(0), .set = {{VMCS_GUEST_CS_AR, DATA32}}},
	{"CS data, unrestricted", .set = {PROC2(PROC2_UNRESTRICTED | PROC2_EPT), {VMCS_GUEST_CS_AR, DATA32}}},
	{"CS not accessed", INVALID(0), .set = {{VMCS_GUEST_CS_AR, CODE64 & ~1u}}},
	{"CS DPL", INVALID(0), .set = {{VMCS_GUEST_CS_AR, CODE64 | 0x60}}},
	{"CS conforming DPL", INVALID(0), .set = {{VMCS_GUEST_CS_AR, CODE64 | 4 | 0x60}}},
	{"CS conforming", .set = {{VMCS_GUEST_CS_AR, CODE64 | 4}}},
	{"CS system", INVALID(0), .set = {{VMCS_GUEST_CS_AR, CODE64 & ~SEG_AR_S}}},
	{"CS not present", INVALID(0), .set = {{VMCS_GUEST_CS_AR, CODE64 & ~SEG_AR_P}}},
	{"CS reserved", INVALID(0), .set = {{VMCS_GUEST_CS_AR, CODE64 | 0x100}}},
	{"CS high", INVALID(0), .set = {{VMCS_GUEST_CS_AR, CODE64 | 1u << 17}}},
	{"CS L and D", INVALID(0), .set = {{VMCS_GUEST_CS_AR, CODE64 | SEG_AR_DB}}},
	{"CS limit, granular", INVALID(0), .set = {{VMCS_GUEST_CS_LIMIT, 0xfffff000}}},
	{"CS limit, bytes", INVALID(0), .set = {{VMCS_GUEST_CS_AR, CODE64 & ~SEG_AR_G}}},
	/* SS rights */
	{"SS code", INVALID(0), .set = {{VMCS_GUEST_SS_AR, CODE32}}},
	{"SS read-only", INVALID(0), .set = {{VMCS_GUEST_SS_AR, DATA32 & ~2u}}},
	{"SS expand-down", .set = {{VMCS_GUEST_SS_AR, DATA32 | 4}}},
	{"SS DPL", INVALID(0), .set = {{VMCS_GUEST_SS_AR, DATA32 | 0x60}, {VMCS_GUEST_CS_AR, CODE64 | 0x60}}},
	{"CPL 3",
	 .set = {{VMCS_GUEST_SS_AR, DATA32 | 0x60}, {VMCS_GUEST_CS_AR, CODE64 | 0x60},
		 {VMCS_GUEST_SS_SEL, 0x13}, {VMCS_GUEST_CS_SEL, 0xb}}},
	{"SS unusable", .set = {{VMCS_GUEST_SS_AR, SEG_AR_UNUSABLE}}},
	{"SS unusable DPL", INVALID(0), .set = {{VMCS_GUEST_SS_AR, SEG_AR_UNUSABLE | 0x60}}},
	{"SS reserved", INVALID(0), .set = {{VMCS_GUEST_SS_AR, DATA32 | 0x400}}},
	/* data segments */
	{"DS not accessed", INVALID(0), .set = {{VMCS_GUEST_DS_AR, DATA32 & ~1u}}},
	{"ES execute-only", INVALID(0), .set = {{VMCS_GUEST_ES_AR, 0xc099}}},
	{"FS readable code", .set = {{VMCS_GUEST_FS_AR, CODE32}}},
	{"GS system", INVALID(0), .set = {{VMCS_GUEST_GS_AR, DATA32 & ~SEG_AR_S}}},
	{"DS RPL", INVALID(0), .set = {{VMCS_GUEST_DS_SEL, 0x13}}},
	{"DS RPL, unrestricted", .set = {PROC2(PROC2_UNRESTRICTED | PROC2_EPT), {VMCS_GUEST_DS_SEL, 0x13}}},
	{"DS RPL, conforming", .set = {{VMCS_GUEST_DS_SEL, 0x13}, {VMCS_GUEST_DS_AR, CODE32 | 4}}},
	{"DS not present", INVALID(0), .set = {{VMCS_GUEST_DS_AR, DATA32 & ~SEG_AR_P}}},
	{"GS granularity", INVALID(0), .set = {{VMCS_GUEST_GS_LIMIT, 0xffffe}}},
	/* TR, LDTR rights */
	{"TR unusable", INVALID(0), .set = {{VMCS_GUEST_TR_AR, SEG_AR_P | 11 | SEG_AR_UNUSABLE}}},
	{"TR not busy", INVALID(0), .set = {{VMCS_GUEST_TR_AR, SEG_AR_P | 9}}},
	{"TR 16-bit in IA-32e", INVALID(0), .set = {{VMCS_GUEST_TR_AR, SEG_AR_P | 3}}},
	{"TR S", INVALID(0), .set = {{VMCS_GUEST_TR_AR, SEG_AR_P | 11 | SEG_AR_S}}},
	{"TR not present", INVALID(0), .set = {{VMCS_GUEST_TR_AR, 11}}},
	{"TR limit", INVALID(0), .set = {{VMCS_GUEST_TR_LIMIT, 0x100000}}},
	{"LDTR type", INVALID(0), .set = {{VMCS_GUEST_LDTR_AR, SEG_AR_P | 3}}},
	{"LDTR S", INVALID(0), .set = {{VMCS_GUEST_LDTR_AR, SEG_AR_P | 2 | SEG_AR_S}}},
	/* virtual-8086 mode */
	{"V86 in IA-32e", INVALID(0), .set = {V86}},
	{"V86 segments", INVALID(0), .set = {V86, G32, {VMCS_GUEST_EFER, 0}}},
	/* tables */
	{"GDTR base", INVALID(0), .set = {{VMCS_GUEST_GDTR_BASE, NONCANONICAL}}},
	{"IDTR base", INVALID(0), .set = {{VMCS_GUEST_IDTR_BASE, NONCANONICAL}}},
	{"GDTR limit", INVALID(0), .set = {{VMCS_GUEST_GDTR_LIMIT, 0x10000}}},
	{"IDTR limit", INVALID(0), .set = {{VMCS_GUEST_IDTR_LIMIT, 0x10000}}},
	/* RIP, RFLAGS */
	{"RIP", INVALID(0), .set = {{VMCS_GUEST_RIP, NONCANONICAL}}},
	{"RIP high, compatibility mode", INVALID(0),
	 .set = {{VMCS_GUEST_RIP, 1ull << 32}, {VMCS_GUEST_CS_AR, CODE32}}},
	{"RFLAGS bit 1", INVALID(0), .set = {{VMCS_GUEST_RFLAGS, 0}}},
	{"RFLAGS bit 3", INVALID(0), .set = {{VMCS_GUEST_RFLAGS, RF_ONE | 8}}},
	{"RFLAGS bit 15", INVALID(0), .set = {{VMCS_GUEST_RFLAGS, RF_ONE | 0x8000}}},
	{"RFLAGS bit 22", INVALID(0), .set = {{VMCS_GUEST_RFLAGS, RF_ONE | 1ull << 22}}},
	{"inject interrupt, IF 0", INVALID(0), .set = {{VMCS_ENTRY_INTR_INFO, INTR(EVENT_EXTERNAL, 32)}}},
	/* activity */
	{"shutdown is not there", INVALID(0), .set = {{VMCS_GUEST_ACTIVITY, ACTIVITY_SHUTDOWN}}},
	{"activity 4", INVALID(0), .set = {{VMCS_GUEST_ACTIVITY, 4}}},
	{"HLT", .set = {{VMCS_GUEST_ACTIVITY, ACTIVITY_HLT}}},
	{"HLT and STI", INVALID(0),
	 .set = {{VMCS_GUEST_ACTIVITY, ACTIVITY_HLT}, {VMCS_GUEST_INTERRUPTIBILITY, 1},
		 {VMCS_GUEST_RFLAGS, RF_ONE | RF_IF}}},
	{"HLT and #UD", INVALID(0),
	 .set = {{VMCS_GUEST_ACTIVITY, ACTIVITY_HLT}, {VMCS_ENTRY_INTR_INFO, INTR(EVENT_HW_EXCEPTION, 6)}}},
	{"HLT and #DB",
	 .set = {{VMCS_GUEST_ACTIVITY, ACTIVITY_HLT}, {VMCS_ENTRY_INTR_INFO, INTR(EVENT_HW_EXCEPTION, 1)}}},
	{"HLT and NMI",
	 .set = {{VMCS_GUEST_ACTIVITY, ACTIVITY_HLT}, {VMCS_ENTRY_INTR_INFO, INTR(EVENT_NMI, 2)}}},
	/* interruptibility */
	{"STI and MOV SS", INVALID(0),
	 .set = {{VMCS_GUEST_INTERRUPTIBILITY, 3}, {VMCS_GUEST_RFLAGS, RF_ONE | RF_IF}}},
	{"STI, IF 0", INVALID(0), .set = {{VMCS_GUEST_INTERRUPTIBILITY, 1}}},
	{"STI", .set = {{VMCS_GUEST_INTERRUPTIBILITY, 1}, {VMCS_GUEST_RFLAGS, RF_ONE | RF_IF}}},
	{"SMI", INVALID(0), .set = {{VMCS_GUEST_INTERRUPTIBILITY, 4}}},
	{"reserved", INVALID(0), .set = {{VMCS_GUEST_INTERRUPTIBILITY, 32}}},
	{"MOV SS and interrupt", INVALID(0),
	 .set = {{VMCS_GUEST_INTERRUPTIBILITY, 2}, {VMCS_GUEST_RFLAGS, RF_ONE | RF_IF},
		 {VMCS_ENTRY_INTR_INFO, INTR(EVENT_EXTERNAL, 32)}}},
	{"MOV SS and NMI", INVALID(0),
	 .set = {{VMCS_GUEST_INTERRUPTIBILITY, 2}, {VMCS_ENTRY_INTR_INFO, INTR(EVENT_NMI, 2)}}},
	{"STI and NMI", INVALID(ENTRY_FAIL_NMI_STI),
	 .set = {{VMCS_GUEST_INTERRUPTIBILITY, 1}, {VMCS_GUEST_RFLAGS, RF_ONE | RF_IF},
		 {VMCS_ENTRY_INTR_INFO, INTR(EVENT_NMI, 2)}}},
	{"virtual NMI blocked", INVALID(0),
	 .set = {{VMCS_PIN_CTL, PIN_DEFAULT1 | PIN_NMI | PIN_VIRTUAL_NMI},
		 {VMCS_GUEST_INTERRUPTIBILITY, 8}, {VMCS_ENTRY_INTR_INFO, INTR(EVENT_NMI, 2)}}},
	/* pending debug exceptions */
	{"pending reserved", INVALID(0), .set = {{VMCS_GUEST_PENDING_DEBUG, 1u << 4}}},
	{"pending BS missing", INVALID(0),
	 .set = {{VMCS_GUEST_INTERRUPTIBILITY, 2}, {VMCS_GUEST_RFLAGS, RF_ONE | RF_TF}}},
	{"pending BS without TF", INVALID(0),
	 .set = {{VMCS_GUEST_INTERRUPTIBILITY, 2}, {VMCS_GUEST_PENDING_DEBUG, 1u << 14}}},
	{"pending BS, BTF",
	 .set = {{VMCS_GUEST_INTERRUPTIBILITY, 2}, {VMCS_GUEST_RFLAGS, RF_ONE | RF_TF},
		 {VMCS_GUEST_DEBUGCTL, 2}}},
	{"pending BS",
	 .set = {{VMCS_GUEST_INTERRUPTIBILITY, 2}, {VMCS_GUEST_RFLAGS, RF_ONE | RF_TF},
		 {VMCS_GUEST_PENDING_DEBUG, 1u << 14}}},
	/* VMCS link pointer */
	{"link misaligned", INVALID(ENTRY_FAIL_LINK_POINTER),
	 .set = {{VMCS_GUEST_VMCS_LINK, OTHER_VMCS + 4}}},
	{"link width", INVALID(ENTRY_FAIL_LINK_POINTER), .set = {{VMCS_GUEST_VMCS_LINK, 1ull << 46}}},
	{"link revision", INVALID(ENTRY_FAIL_LINK_POINTER), .set = {{VMCS_GUEST_VMCS_LINK, 0x9000}}},
	{"link to itself", INVALID(ENTRY_FAIL_LINK_POINTER), .set = {{VMCS_GUEST_VMCS_LINK, VMCS_AT}}},
	{"link", .set = {{VMCS_GUEST_VMCS_LINK, OTHER_VMCS}}},
	/* PDPTEs */
	{"PDPTE in memory", INVALID(ENTRY_FAIL_PDPTE),
	 .set = {G32, {VMCS_GUEST_EFER, 0}, {VMCS_GUEST_CS_AR, CODE32}, {VMCS_GUEST_CR3, PDPT_AT}}},
	{"PDPTEs absent",
	 .set = {G32, {VMCS_GUEST_EFER, 0}, {VMCS_GUEST_CS_AR, CODE32}, {VMCS_GUEST_CR3, 0x70000}}},
};

static void run_checks(const struct check *checks, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const struct check *k = &checks[i];
		struct fix *f;
		bool exited;
		enum vmx_result r;

		setup((void **)&f);
		for (unsigned s = 0; s < ARRAY_SIZE(k->set) && (k->set[s].field || k->set[s].value); s++)
			vw(f, k->set[s].field, k->set[s].value);
		r = vmx_enter(f->cpu, true, &exited);
		if (r != (k->error ? VMX_FAIL_VALID : VMX_SUCCEED) || exited != !!k->exit)
			fail_msg("%s: result %d, exited %d, error %d, reason %x", k->what, r, exited,
				 (int)vr(f, VMCS_VM_INSTRUCTION_ERROR), (unsigned)vr(f, VMCS_EXIT_REASON));
		if (k->error && vr(f, VMCS_VM_INSTRUCTION_ERROR) != (uint64_t)k->error)
			fail_msg("%s: error %d", k->what, (int)vr(f, VMCS_VM_INSTRUCTION_ERROR));
		if (k->exit && (vr(f, VMCS_EXIT_REASON) != ((unsigned)k->exit | EXIT_REASON_ENTRY_FAILURE) ||
				vr(f, VMCS_EXIT_QUALIFICATION) != k->qualification))
			fail_msg("%s: reason %x, qualification %lx", k->what,
				 (unsigned)vr(f, VMCS_EXIT_REASON), vr(f, VMCS_EXIT_QUALIFICATION));
		assert_int_equal(f->cpu->vmx.nonroot, !k->error && !k->exit);
		teardown((void **)&f);
	}
}

#define DEFINE_TEST(name)                                         \
	static void test_##name(void **state)                     \
	{                                                         \
		(void)state;                                      \
		run_checks(name, ARRAY_SIZE(name));               \
	}
DEFINE_TEST(control_checks)
DEFINE_TEST(host_checks)
DEFINE_TEST(guest_checks)

/* A check that fails is made again at the next entry, and not after it passed. */
static void test_checks_are_repeated(void **state)
{
	struct fix *f = *state;
	bool exited;

	vw(f, VMCS_HOST_CR3, 1ull << 46);
	for (int i = 0; i < 2; i++)
		expect_fail(f, vmx_enter(f->cpu, true, &exited), VMXERR_ENTRY_HOST_STATE);
	vw(f, VMCS_HOST_CR3, HOST_PML4);
	vw(f, VMCS_CR3_TARGET_COUNT, 9);
	for (int i = 0; i < 2; i++)
		expect_fail(f, vmx_enter(f->cpu, true, &exited), VMXERR_ENTRY_CONTROLS);
	vw(f, VMCS_CR3_TARGET_COUNT, 0);
	enter(f);
	vmx_exit_triple_fault(f->cpu);
	leave(f);
	assert_int_equal(f->cpu->vmx.dirty, 0);
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_HLT);
	enter(f);
	assert_true(vmx_proc(f->cpu, PROC_HLT));
	vmx_exit_triple_fault(f->cpu);
	leave(f);
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | NO_CONTROL);
	expect_fail(f, vmx_enter(f->cpu, false, &exited), VMXERR_ENTRY_CONTROLS);
	/* Another VMCS has controls of its own. */
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1);
	enter(f);
	vmx_exit_triple_fault(f->cpu);
	leave(f);
	assert_int_equal(vmx_vmptrld(f->cpu, hpa(OTHER_VMCS)), VMX_SUCCEED);
	expect_fail(f, vmx_enter(f->cpu, true, &exited), VMXERR_ENTRY_CONTROLS);
}

/* A VMCS is memory: an entry from one full of noise must end in some architectural way. */
static void test_garbage_vmcs(void **state)
{
	struct fix *f = *state;
	uint64_t x = 88172645463325252ull;
	bool exited;

	for (int round = 0; round < 2000; round++) {
		for (unsigned i = 8; i < PAGE_SIZE; i += 8) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			if (round & 1 || !(x >> 32 & 63))
				put64(f, VMCS_AT + i, x);
		}
		assert_int_equal(vmx_vmclear(f->cpu, hpa(VMCS_AT)), VMX_SUCCEED);
		assert_int_equal(vmx_vmptrld(f->cpu, hpa(VMCS_AT)), VMX_SUCCEED);
		if (!(round & 1)) {
			write_controls(f);
			write_host(f);
			vw(f, VMCS_CR3_TARGET_COUNT, 0);
			vw(f, VMCS_PROC_CTL2, 0);
			vw(f, VMCS_EXIT_MSR_LOAD_COUNT, 0);
			vw(f, VMCS_EXIT_MSR_STORE_COUNT, 0);
			vw(f, VMCS_ENTRY_MSR_LOAD_COUNT, 0);
		}
		if (vmx_enter(f->cpu, true, &exited) == VMX_SUCCEED && !exited) {
			vmx_exit_triple_fault(f->cpu);
			leave(f);
		}
		assert_false(f->cpu->vmx.nonroot);
		f->cpu->shutdown = false;
	}
}

/* ---- what entry loads and exit saves ---- */

static void test_state_round_trip(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;
	uint32_t all[] = {VMCS_GUEST_CR3,
			  VMCS_GUEST_CR4,
			  VMCS_GUEST_EFER,
			  VMCS_GUEST_RIP,
			  VMCS_GUEST_RSP,
			  VMCS_GUEST_RFLAGS,
			  VMCS_GUEST_DR7,
			  VMCS_GUEST_SYSENTER_CS,
			  VMCS_GUEST_SYSENTER_ESP,
			  VMCS_GUEST_SYSENTER_EIP,
			  VMCS_GUEST_INTERRUPTIBILITY,
			  VMCS_GUEST_ACTIVITY,
			  VMCS_GUEST_GDTR_BASE,
			  VMCS_GUEST_GDTR_LIMIT,
			  VMCS_GUEST_IDTR_BASE,
			  VMCS_GUEST_IDTR_LIMIT};
	uint64_t before[ARRAY_SIZE(all)], seg[8][4];

	vw(f, VMCS_GUEST_RFLAGS, RF_ONE | RF_IF | RF_CF | RF_ZF | RF_OF | RF_AC);
	vw(f, VMCS_GUEST_INTERRUPTIBILITY, INTERRUPTIBILITY_STI | INTERRUPTIBILITY_NMI);
	vw(f, VMCS_GUEST_SYSENTER_ESP, 0xffff800000000123ull);
	vw(f, VMCS_GUEST_FS_BASE, 0x7fff12345678ull);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		before[i] = vr(f, all[i]);
	for (unsigned i = 0; i < 8; i++)
		for (unsigned k = 0; k < 4; k++)
			seg[i][k] = vr(f, (const uint32_t[]){VMCS_GUEST_ES_SEL, VMCS_GUEST_ES_BASE,
							     VMCS_GUEST_ES_LIMIT, VMCS_GUEST_ES_AR}[k] +
						  2 * i);
	enter(f);
	assert_int_equal(cpu_get_rflags(c), RF_ONE | RF_IF | RF_CF | RF_ZF | RF_OF | RF_AC);
	assert_true(c->shadow_sti && c->nmi_blocked && !c->shadow_movss);
	assert_int_equal(c->seg[SEG_FS].base, 0x7fff12345678ull);
	assert_int_equal(c->code_bits, 64);
	vmx_exit_triple_fault(c);
	leave(f);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		assert_int_equal(vr(f, all[i]), before[i]);
	for (unsigned i = 0; i < 8; i++)
		for (unsigned k = 0; k < 4; k++)
			assert_int_equal(vr(f, (const uint32_t[]){VMCS_GUEST_ES_SEL, VMCS_GUEST_ES_BASE,
								  VMCS_GUEST_ES_LIMIT, VMCS_GUEST_ES_AR}[k] +
						       2 * i),
					 seg[i][k]);
}

static void test_host_state(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	vw(f, VMCS_HOST_GS_SEL, 0);
	vw(f, VMCS_HOST_GS_BASE, 0xffff888000000000ull);
	vw(f, VMCS_EXIT_CTL, EXIT_DEFAULT1 | EXIT_HOST_64 | EXIT_LOAD_PAT);
	vw(f, VMCS_HOST_PAT, 0x0606060606060606ull);
	enter(f);
	c->cr2 = 0x1234;
	c->dr7 = 0x455;
	vmx_exit_triple_fault(c);
	leave(f);
	assert_int_equal(c->gpr[REG_RIP], 0xffffffff81000000ull);
	assert_int_equal(c->gpr[RSP], 0xffffffff82000000ull);
	assert_int_equal(cpu_get_rflags(c), RF_ONE);
	assert_int_equal(c->dr7, 0x400);
	assert_int_equal(c->cr2, 0x1234);
	assert_int_equal(c->cr3, HOST_PML4);
	assert_int_equal(c->msr.pat, 0x0606060606060606ull);
	assert_int_equal(c->efer & (EFER_LMA | EFER_LME), EFER_LMA | EFER_LME);
	assert_int_equal(c->seg[SEG_CS].attr, 0xa09b);
	assert_int_equal(c->seg[SEG_SS].attr, 0xc093);
	assert_true(c->seg[SEG_GS].attr & SEG_AR_UNUSABLE);
	assert_int_equal(c->seg[SEG_GS].base, 0xffff888000000000ull);
	assert_int_equal(c->tr.limit, 0x67);
	assert_int_equal(c->gdtr.limit, 0xffff);
	assert_true(c->ldtr.attr & SEG_AR_UNUSABLE);
	assert_true(c->long_mode);
	assert_int_equal(c->cpl, 0);
}

/* A guest that left IA-32e mode is entered as what it is now. */
static void test_mode_is_stored(void **state)
{
	struct fix *f = *state;

	enter(f);
	f->cpu->efer &= ~EFER_LMA;
	f->cpu->cr0 &= ~CR0_PG;
	vmx_exit_triple_fault(f->cpu);
	leave(f);
	assert_int_equal(vr(f, VMCS_ENTRY_CTL) & ENTRY_IA32E, 0);
	assert_int_equal(vr(f, VMCS_GUEST_EFER), EFER_LME);
}

static void test_entry_failure_leaves_guest_state(void **state)
{
	struct fix *f = *state;
	bool exited;

	vw(f, VMCS_GUEST_RFLAGS, 0);
	vw(f, VMCS_ENTRY_INTR_INFO, INTR(EVENT_HW_EXCEPTION, 6));
	assert_int_equal(vmx_enter(f->cpu, true, &exited), VMX_SUCCEED);
	assert_true(exited);
	assert_int_equal(vr(f, VMCS_GUEST_RFLAGS), 0);
	assert_int_equal(vr(f, VMCS_ENTRY_INTR_INFO), INTR(EVENT_HW_EXCEPTION, 6));
	assert_int_equal(f->cpu->gpr[REG_RIP], 0xffffffff81000000ull);
	/* It was not launched by that. */
	expect_fail(f, vmx_enter(f->cpu, false, &exited), VMXERR_VMRESUME_NOT_LAUNCHED);
}

static void set_msr(struct fix *f, unsigned slot, uint64_t index, uint64_t value)
{
	put64(f, MSR_AREA_AT + 16 * slot, index);
	put64(f, MSR_AREA_AT + 16 * slot + 8, value);
}

static void test_msr_areas(void **state)
{
	static const uint64_t refused[] = {MSR_FS_BASE, MSR_GS_BASE,           0x800,     0x8ff, 0x9b,
					   0x79,        1ull << 32 | MSR_STAR, 0x12345678};
	struct fix *f = *state;
	bool exited;

	vw(f, VMCS_ENTRY_MSR_LOAD_ADDR, MSR_AREA_AT);
	vw(f, VMCS_ENTRY_MSR_LOAD_COUNT, 2);
	set_msr(f, 0, MSR_STAR, 0x1111);
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
		set_msr(f, 1, refused[i], 0);
		assert_int_equal(vmx_enter(f->cpu, true, &exited), VMX_SUCCEED);
		assert_true(exited);
		assert_int_equal(vr(f, VMCS_EXIT_REASON),
				 EXIT_REASON_ENTRY_MSR_LOAD | EXIT_REASON_ENTRY_FAILURE);
		assert_int_equal(vr(f, VMCS_EXIT_QUALIFICATION), 2);
	}
	set_msr(f, 1, MSR_LSTAR, 0xffff800000000000ull);
	vw(f, VMCS_EXIT_MSR_STORE_ADDR, MSR_AREA_AT + 0x100);
	vw(f, VMCS_EXIT_MSR_STORE_COUNT, 1);
	vw(f, VMCS_EXIT_MSR_LOAD_ADDR, MSR_AREA_AT + 0x200);
	vw(f, VMCS_EXIT_MSR_LOAD_COUNT, 1);
	set_msr(f, 16, MSR_LSTAR, 0);
	set_msr(f, 32, MSR_CSTAR, 0x2222);
	enter(f);
	assert_int_equal(f->cpu->msr.star, 0x1111);
	assert_int_equal(f->cpu->msr.lstar, 0xffff800000000000ull);
	vmx_exit_triple_fault(f->cpu);
	leave(f);
	assert_int_equal(get64(f, MSR_AREA_AT + 0x108), 0xffff800000000000ull);
	assert_int_equal(f->cpu->msr.cstar, 0x2222);
	assert_false(f->cpu->shutdown);
	/* A list that cannot be loaded on exit aborts. */
	set_msr(f, 32, MSR_FS_BASE, 0);
	enter(f);
	vmx_exit_triple_fault(f->cpu);
	leave(f);
	assert_true(f->cpu->shutdown);
	assert_int_equal(machmem_read32(&f->mem, hpa(VMCS_AT + 4)), VMX_ABORT_LOAD_MSR);
}

static void test_msr_area_too_long(void **state)
{
	struct fix *f = *state;
	bool exited;

	for (unsigned i = 0; i <= 512; i++) {
		put64(f, 0x100000 + 16 * i, MSR_STAR);
		put64(f, 0x100000 + 16 * i + 8, i);
	}
	vw(f, VMCS_ENTRY_MSR_LOAD_ADDR, 0x100000);
	vw(f, VMCS_ENTRY_MSR_LOAD_COUNT, 0xffffffff);
	assert_int_equal(vmx_enter(f->cpu, true, &exited), VMX_SUCCEED);
	assert_true(exited);
	assert_int_equal(vr(f, VMCS_EXIT_QUALIFICATION), 513);
}

/* ---- injection ---- */

static void test_inject(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	vw(f, VMCS_EXCEPTION_BITMAP, ~0u); /* does not concern an injected event */
	vw(f, VMCS_ENTRY_INTR_INFO, INTR(EVENT_HW_EXCEPTION, EXC_PF) | INTR_INFO_ERROR);
	vw(f, VMCS_ENTRY_EXCEPTION_ERROR, 7);
	vw(f, VMCS_GUEST_RFLAGS, RF_ONE | RF_IF);
	c->cr2 = 0xabc;
	enter(f);
	assert_int_equal(c->gpr[REG_RIP], HANDLER_AT);
	assert_int_equal(c->gpr[RSP], STACK_AT - 48);
	assert_int_equal(get64(f, STACK_AT - 48), 7);
	assert_int_equal(get64(f, STACK_AT - 40), CODE_AT);
	assert_int_equal(get64(f, STACK_AT - 24), RF_ONE | RF_IF);
	assert_int_equal(c->cr2, 0xabc);
	assert_false(c->vmx.vectoring);
	vmx_exit_triple_fault(c);
	leave(f);
	assert_int_equal(vr(f, VMCS_ENTRY_INTR_INFO) >> 31, 0);
	assert_int_equal(vr(f, VMCS_IDT_VECTORING_INFO), 0);
}

static void test_inject_software_interrupt(void **state)
{
	struct fix *f = *state;

	vw(f, VMCS_ENTRY_INTR_INFO, INTR(EVENT_SOFT_INT, 0x80));
	vw(f, VMCS_ENTRY_INSN_LEN, 2);
	/* INT n checks the gate's DPL: fine at CPL 0. */
	enter(f);
	assert_int_equal(get64(f, STACK_AT - 40), CODE_AT + 2);
}

static void test_exit_during_injection(void **state)
{
	struct fix *f = *state;
	bool exited;

	vw(f, VMCS_EXCEPTION_BITMAP, 1u << EXC_PF);
	vw(f, VMCS_PF_ERROR_MASK, 0);
	vw(f, VMCS_PF_ERROR_MATCH, 0);
	vw(f, VMCS_ENTRY_INTR_INFO, INTR(EVENT_SOFT_EXCEPTION, EXC_BP));
	vw(f, VMCS_ENTRY_INSN_LEN, 1);
	vw(f, VMCS_GUEST_RSP, 0x40000000); /* not mapped */
	assert_int_equal(vmx_enter(f->cpu, true, &exited), VMX_SUCCEED);
	assert_true(exited);
	assert_int_equal(vr(f, VMCS_EXIT_REASON), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(vr(f, VMCS_EXIT_INTR_INFO), INTR(EVENT_HW_EXCEPTION, EXC_PF) | INTR_INFO_ERROR);
	assert_int_equal(vr(f, VMCS_EXIT_INTR_ERROR), PF_W);
	assert_int_equal(vr(f, VMCS_EXIT_QUALIFICATION), 0x40000000 - 40);
	assert_int_equal(vr(f, VMCS_IDT_VECTORING_INFO), INTR(EVENT_SOFT_EXCEPTION, EXC_BP));
	assert_int_equal(vr(f, VMCS_EXIT_INSN_LEN), 1);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT);
	assert_int_equal(vr(f, VMCS_ENTRY_INTR_INFO) >> 31, 0);
	/* Injected again onto a stack that is there. */
	vw(f, VMCS_ENTRY_INTR_INFO, vr(f, VMCS_IDT_VECTORING_INFO));
	vw(f, VMCS_GUEST_RSP, STACK_AT);
	enter(f);
	assert_int_equal(f->cpu->gpr[REG_RIP], HANDLER_AT);
}

static void test_double_fault_hides_vectoring(void **state)
{
	struct fix *f = *state;
	bool exited;

	vw(f, VMCS_EXCEPTION_BITMAP, 1u << EXC_DF);
	vw(f, VMCS_ENTRY_INTR_INFO, INTR(EVENT_HW_EXCEPTION, EXC_GP) | INTR_INFO_ERROR);
	vw(f, VMCS_GUEST_RSP, 0x40000000);
	assert_int_equal(vmx_enter(f->cpu, true, &exited), VMX_SUCCEED);
	assert_true(exited);
	assert_int_equal(vr(f, VMCS_EXIT_INTR_INFO), INTR(EVENT_HW_EXCEPTION, EXC_DF) | INTR_INFO_ERROR);
	assert_int_equal(vr(f, VMCS_IDT_VECTORING_INFO), 0);
	vw(f, VMCS_EXCEPTION_BITMAP, 0);
	vw(f, VMCS_ENTRY_INTR_INFO, INTR(EVENT_HW_EXCEPTION, EXC_GP) | INTR_INFO_ERROR);
	assert_int_equal(vmx_enter(f->cpu, false, &exited), VMX_SUCCEED);
	assert_true(exited);
	assert_int_equal(vr(f, VMCS_EXIT_REASON), EXIT_REASON_TRIPLE_FAULT);
	assert_int_equal(vr(f, VMCS_IDT_VECTORING_INFO), 0);
}

static void test_inject_nmi_blocks(void **state)
{
	struct fix *f = *state;

	vw(f, VMCS_PIN_CTL, PIN_DEFAULT1 | PIN_NMI | PIN_VIRTUAL_NMI);
	vw(f, VMCS_ENTRY_INTR_INFO, INTR(EVENT_NMI, EXC_NMI));
	enter(f);
	assert_true(f->cpu->nmi_blocked);
	assert_true(vmx_iret_unblocks_nmi(f->cpu));
	vmx_exit_triple_fault(f->cpu);
	leave(f);
	assert_int_equal(vr(f, VMCS_GUEST_INTERRUPTIBILITY), INTERRUPTIBILITY_NMI);
	assert_false(f->cpu->nmi_blocked);
}

/* ---- intercepts ---- */

static const struct uop plain = {
	.len = 3, .addrsize = 8, .seg = SEG_NONE, .base = REG_OFF(REG_ZERO), .index = REG_OFF(REG_ZERO)};

/* An intercept function stopped, or did not (@reason < 0); leaves the guest and checks reason and
 * qualification. */
static void expect_exit(struct fix *f, int r, int reason, uint64_t qualification)
{
	if (reason < 0) {
		assert_int_equal(r, 0);
		return;
	}
	assert_int_equal(r, EXEC_STOP);
	leave(f);
	assert_int_equal(vr(f, VMCS_EXIT_REASON), reason);
	assert_int_equal(vr(f, VMCS_EXIT_QUALIFICATION), qualification);
	assert_int_equal(vr(f, VMCS_IDT_VECTORING_INFO), 0);
	enter(f);
}

static void with_controls(struct fix *f, uint32_t pin, uint32_t proc, uint32_t proc2)
{
	if (f->cpu->vmx.nonroot) {
		vmx_exit_triple_fault(f->cpu);
		leave(f);
	}
	vw(f, VMCS_PIN_CTL, PIN_DEFAULT1 | pin);
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_SECONDARY | proc);
	vw(f, VMCS_PROC_CTL2, proc2);
	enter(f);
}

static void test_simple_intercepts(void **state)
{
	static const struct { int reason; uint32_t proc, proc2; } table[] = {
		{EXIT_REASON_HLT, PROC_HLT, 0}, {EXIT_REASON_INVLPG, PROC_INVLPG, 0},
		{EXIT_REASON_INVPCID, PROC_INVLPG, 0}, {EXIT_REASON_RDPMC, PROC_RDPMC, 0},
		{EXIT_REASON_RDTSC, PROC_RDTSC, 0}, {EXIT_REASON_RDTSCP, PROC_RDTSC, 0},
		{EXIT_REASON_MWAIT, PROC_MWAIT, 0}, {EXIT_REASON_MONITOR, PROC_MONITOR, 0},
		{EXIT_REASON_PAUSE, PROC_PAUSE, 0}, {EXIT_REASON_GDTR_IDTR, 0, PROC2_DESCRIPTOR_TABLE},
		{EXIT_REASON_LDTR_TR, 0, PROC2_DESCRIPTOR_TABLE}, {EXIT_REASON_WBINVD, 0, PROC2_WBINVD},
		{EXIT_REASON_RDRAND, 0, PROC2_RDRAND}, {EXIT_REASON_RDSEED, 0, PROC2_RDSEED},
		{EXIT_REASON_CPUID, 0, 0}, {EXIT_REASON_XSETBV, 0, 0}, {EXIT_REASON_INVD, 0, 0},
		{EXIT_REASON_VMCALL, 0, 0}, {EXIT_REASON_VMXON, 0, 0},
	};
	struct fix *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		if (table[i].proc | table[i].proc2) {
			with_controls(f, 0, 0, 0);
			assert_int_equal(vmx_intercept(f->cpu, &plain, (uint32_t)table[i].reason, 5), 0);
		}
		with_controls(f, 0, table[i].proc, table[i].proc2);
		f->cpu->rflags |= RF_RF;
		expect_exit(f, vmx_intercept(f->cpu, &plain, (uint32_t)table[i].reason, 5), table[i].reason,
			    5);
		assert_int_equal(vr(f, VMCS_EXIT_INSN_LEN), 3);
		assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT);
		assert_int_equal(vr(f, VMCS_GUEST_RFLAGS) & RF_RF, 0);
		assert_int_equal(vr(f, VMCS_EXIT_INTR_INFO), 0);
	}
	vmx_exit_triple_fault(f->cpu);
	leave(f);
	assert_int_equal(vmx_intercept(f->cpu, &plain, EXIT_REASON_CPUID, 0), 0); /* root operation */
}

static void test_insn_info(void **state)
{
	struct fix *f = *state;
	struct uop u = {.len = 5, .addrsize = 8, .seg = SEG_FS, .base = REG_OFF(R9), .index = REG_OFF(RCX),
			.scale = 2, .disp = -8};

	with_controls(f, 0, 0, PROC2_DESCRIPTOR_TABLE);
	expect_exit(f,
		    vmx_intercept_insn_info(f->cpu, &u, EXIT_REASON_GDTR_IDTR,
					    vmx_insn_displacement(f->cpu, &u),
					    vmx_insn_info_mem(&u) | INSN_ID_LIDT << INSN_INFO_IDENTITY_SHIFT),
		    EXIT_REASON_GDTR_IDTR, (uint64_t)-8);
	assert_int_equal(vr(f, VMCS_EXIT_INSN_INFO),
			 2 | 2 << 7 | SEG_FS << 15 | RCX << 18 | R9 << 23 | 3u << 28);
	u.base = REG_OFF(REG_RIP);
	u.index = REG_OFF(REG_ZERO);
	u.seg = SEG_NONE;
	assert_int_equal(vmx_insn_info_mem(&u),
			 2 << 7 | SEG_DS << 15 | INSN_INFO_INDEX_INVALID | INSN_INFO_BASE_INVALID);
	assert_int_equal(vmx_insn_displacement(f->cpu, &u), CODE_AT - 8);
}

static void test_cr_intercepts(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	vw(f, VMCS_CR0_MASK, CR0_TS | CR0_PE | CR0_WP);
	vw(f, VMCS_CR0_SHADOW, CR0_TS | CR0_PE);
	vw(f, VMCS_CR4_MASK, CR4_VMXE | CR4_SMEP);
	vw(f, VMCS_CR4_SHADOW, CR4_SMEP);
	vw(f, VMCS_CR3_TARGET_COUNT, 2);
	vw(f, VMCS_CR3_TARGET0, 0x1000);
	vw(f, VMCS_CR3_TARGET1, 0x2000);
	vw(f, VMCS_CR3_TARGET2, 0x3000);
	with_controls(f, 0, PROC_CR3_LOAD | PROC_CR8_STORE, 0);
	expect_exit(f, vmx_intercept_cr_write(c, &plain, 0, RDI, CR0_TS | CR0_PE | CR0_MP), -1, 0);
	expect_exit(f, vmx_intercept_cr_write(c, &plain, 0, RDI, CR0_PE), EXIT_REASON_CR_ACCESS, 0x700);
	expect_exit(f, vmx_intercept_cr_write(c, &plain, 4, R15, CR4_SMEP | CR4_PAE), -1, 0);
	expect_exit(f, vmx_intercept_cr_write(c, &plain, 4, R15, CR4_SMEP | CR4_VMXE), EXIT_REASON_CR_ACCESS,
		    0xf04);
	expect_exit(f, vmx_intercept_cr_write(c, &plain, 3, RAX, 0x2000), -1, 0);
	expect_exit(f, vmx_intercept_cr_write(c, &plain, 3, RAX, 0x3000), EXIT_REASON_CR_ACCESS, 3);
	expect_exit(f, vmx_intercept_cr_read(c, &plain, 3, RAX), -1, 0);
	expect_exit(f, vmx_intercept_cr_write(c, &plain, 8, RAX, 5), -1, 0);
	expect_exit(f, vmx_intercept_cr_read(c, &plain, 8, RBX), EXIT_REASON_CR_ACCESS, 0x318);
	with_controls(f, 0, PROC_CR3_STORE | PROC_CR8_LOAD, 0);
	expect_exit(f, vmx_intercept_cr_write(c, &plain, 3, RAX, 0x3000), -1, 0);
	expect_exit(f, vmx_intercept_cr_read(c, &plain, 3, RSI), EXIT_REASON_CR_ACCESS, 0x613);
	expect_exit(f, vmx_intercept_cr_write(c, &plain, 8, RAX, 5), EXIT_REASON_CR_ACCESS, 8);
	expect_exit(f, vmx_intercept_cr_read(c, &plain, 0, RSI), -1, 0);
	assert_int_equal(vmx_cr_read_value(c, 0, CR0_NE | CR0_WP | CR0_PG),
			 CR0_NE | CR0_PG | CR0_TS | CR0_PE);
	assert_int_equal(vmx_cr_write_value(c, 4, CR4_VMXE | CR4_PAE, CR4_SMEP | CR4_PGE),
			 CR4_VMXE | CR4_PGE);
}

static void test_clts_lmsw(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	vw(f, VMCS_CR0_MASK, CR0_TS | CR0_PE);
	vw(f, VMCS_CR0_SHADOW, CR0_PE);
	with_controls(f, 0, 0, 0);
	expect_exit(f, vmx_intercept_clts(c, &plain), -1, 0);
	expect_exit(f, vmx_intercept_lmsw(c, &plain, 0x0, false, 0), -1, 0); /* cannot clear PE */
	expect_exit(f, vmx_intercept_lmsw(c, &plain, 0x7, false, 0), -1, 0); /* MP and EM are the guest's */
	expect_exit(f, vmx_intercept_lmsw(c, &plain, 0x1239, false, 99), EXIT_REASON_CR_ACCESS, 0x12390030);
	assert_int_equal(vr(f, VMCS_GUEST_LINEAR), 0);
	expect_exit(f, vmx_intercept_lmsw(c, &plain, 0x9, true, 99), EXIT_REASON_CR_ACCESS, 0x90070);
	assert_int_equal(vr(f, VMCS_GUEST_LINEAR), 99);
	vmx_exit_triple_fault(c);
	leave(f);
	vw(f, VMCS_CR0_SHADOW, CR0_TS);
	enter(f);
	expect_exit(f, vmx_intercept_clts(c, &plain), EXIT_REASON_CR_ACCESS, 0x20);
	expect_exit(f, vmx_intercept_lmsw(c, &plain, 0x9, false, 0), EXIT_REASON_CR_ACCESS, 0x90030);
}

static void test_fixed_bits(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	assert_false(vmx_cr_fixed_ok(c, 0, CR0_PG | CR0_PE));
	assert_false(vmx_cr_fixed_ok(c, 0, CR0_NE | CR0_PE));
	assert_true(vmx_cr_fixed_ok(c, 0, CR0_NE | CR0_PE | CR0_PG));
	assert_false(vmx_cr_fixed_ok(c, 4, CR4_PAE));
	assert_false(vmx_cr_fixed_ok(c, 4, CR4_VMXE | CR4_SMXE));
	with_controls(f, 0, 0, PROC2_EPT | PROC2_UNRESTRICTED);
	assert_true(vmx_cr_fixed_ok(c, 0, CR0_NE));
	assert_false(vmx_cr_fixed_ok(c, 0, 0));
}

static void test_dr_intercept(void **state)
{
	struct fix *f = *state;

	with_controls(f, 0, 0, 0);
	expect_exit(f, vmx_intercept_dr(f->cpu, &plain, 7, RAX, false), -1, 0);
	with_controls(f, 0, PROC_MOV_DR, 0);
	expect_exit(f, vmx_intercept_dr(f->cpu, &plain, 7, R10, false), EXIT_REASON_DR_ACCESS, 0xa07);
	expect_exit(f, vmx_intercept_dr(f->cpu, &plain, 6, RDX, true), EXIT_REASON_DR_ACCESS, 0x216);
}

static int io(struct fix *f, unsigned port, unsigned bytes)
{
	return vmx_intercept_io(f->cpu, &plain, (uint16_t)port, bytes, true, false, false, true, 0);
}

static void test_io_intercepts(void **state)
{
	struct fix *f = *state;
	struct uop outs = plain;

	with_controls(f, 0, 0, 0);
	expect_exit(f, io(f, 0x60, 1), -1, 0);
	with_controls(f, 0, PROC_UNCOND_IO, 0);
	expect_exit(f, io(f, 0x60, 1), EXIT_REASON_IO, 0x600048);
	with_controls(f, 0, PROC_UNCOND_IO | PROC_IO_BITMAPS, 0);
	put64(f, IO_A_AT + 0x40, 1);             /* port 200 */
	put64(f, IO_B_AT, 1);                    /* port 8000 */
	expect_exit(f, io(f, 0x60, 4), -1, 0);
	expect_exit(f, io(f, 0x200, 1), EXIT_REASON_IO, 0x2000048);
	expect_exit(f, io(f, 0x1fd, 4), EXIT_REASON_IO, 0x1fd004b);
	expect_exit(f, io(f, 0x201, 4), -1, 0);
	expect_exit(f, io(f, 0x7fff, 2), EXIT_REASON_IO, 0x7fff0049);
	expect_exit(f, io(f, 0x8001, 2), -1, 0);
	expect_exit(f, io(f, 0xffff, 1), -1, 0);
	expect_exit(f, io(f, 0xffff, 2), EXIT_REASON_IO, 0xffff0049);
	outs.seg = SEG_GS;
	outs.addrsize = 4;
	expect_exit(f, vmx_intercept_io(f->cpu, &outs, 0x200, 2, false, true, true, false, 0x1234),
		    EXIT_REASON_IO, 0x2000031);
	assert_int_equal(vr(f, VMCS_GUEST_LINEAR), 0x1234);
	assert_int_equal(vr(f, VMCS_EXIT_INSN_INFO), 1 << 7 | SEG_GS << 15);
}

static void test_msr_intercepts(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	with_controls(f, 0, 0, 0);
	expect_exit(f, vmx_intercept_rdmsr(c, &plain, MSR_TSC), EXIT_REASON_RDMSR, 0);
	with_controls(f, 0, PROC_MSR_BITMAPS, 0);
	put64(f, MSR_BITMAP_AT + 0x10 / 8 / 8 * 8, 1ull << 0x10);  /* read TSC */
	put64(f, MSR_BITMAP_AT + 0xc00 + 0x80 / 64 * 8, 1);       /* write EFER */
	expect_exit(f, vmx_intercept_rdmsr(c, &plain, MSR_TSC), EXIT_REASON_RDMSR, 0);
	expect_exit(f, vmx_intercept_wrmsr(c, &plain, MSR_TSC), -1, 0);
	expect_exit(f, vmx_intercept_rdmsr(c, &plain, MSR_EFER), -1, 0);
	expect_exit(f, vmx_intercept_wrmsr(c, &plain, MSR_EFER), EXIT_REASON_WRMSR, 0);
	expect_exit(f, vmx_intercept_rdmsr(c, &plain, 0x1fff), -1, 0);
	expect_exit(f, vmx_intercept_rdmsr(c, &plain, 0x2000), EXIT_REASON_RDMSR, 0);
	expect_exit(f, vmx_intercept_wrmsr(c, &plain, 0xc0002000), EXIT_REASON_WRMSR, 0);
	expect_exit(f, vmx_intercept_wrmsr(c, &plain, 0xbfffffff), EXIT_REASON_WRMSR, 0);
}

/* ---- events ---- */

static int exception(struct fix *f, unsigned type, unsigned vector, bool has_error, uint32_t error,
		     uint64_t payload)
{
	const struct event ev = {.vector = (uint8_t)vector,
				 .type = (uint8_t)type,
				 .has_error = has_error,
				 .error = error,
				 .payload = payload,
				 .insn_len = type >= EVENT_SOFT_INT ? 1 : 0};

	return vmx_intercept_exception(f->cpu, &ev);
}

static void test_exception_bitmap(void **state)
{
	struct fix *f = *state;

	vw(f, VMCS_EXCEPTION_BITMAP, 1u << EXC_UD | 1u << EXC_GP | 1u << EXC_BP | 1u << EXC_DB);
	vw(f, VMCS_PF_ERROR_MASK, PF_P);
	vw(f, VMCS_PF_ERROR_MATCH, 0);
	enter(f);
	expect_exit(f, exception(f, EVENT_HW_EXCEPTION, EXC_DE, false, 0, 0), -1, 0);
	expect_exit(f, exception(f, EVENT_HW_EXCEPTION, EXC_UD, false, 0, 0), EXIT_REASON_EXCEPTION_NMI, 0);
	assert_int_equal(vr(f, VMCS_EXIT_INTR_INFO), INTR(EVENT_HW_EXCEPTION, EXC_UD));
	assert_true(vr(f, VMCS_GUEST_RFLAGS) & RF_RF);
	expect_exit(f, exception(f, EVENT_HW_EXCEPTION, EXC_GP, true, 0x18, 0), EXIT_REASON_EXCEPTION_NMI, 0);
	assert_int_equal(vr(f, VMCS_EXIT_INTR_INFO), INTR(EVENT_HW_EXCEPTION, EXC_GP) | INTR_INFO_ERROR);
	assert_int_equal(vr(f, VMCS_EXIT_INTR_ERROR), 0x18);
	f->cpu->rflags &= ~RF_RF;
	expect_exit(f, exception(f, EVENT_SOFT_EXCEPTION, EXC_BP, false, 0, 0), EXIT_REASON_EXCEPTION_NMI, 0);
	assert_int_equal(vr(f, VMCS_EXIT_INTR_INFO), INTR(EVENT_SOFT_EXCEPTION, EXC_BP));
	assert_int_equal(vr(f, VMCS_EXIT_INSN_LEN), 1);
	assert_false(vr(f, VMCS_GUEST_RFLAGS) & RF_RF);
	expect_exit(f, exception(f, EVENT_SOFT_INT, EXC_BP, false, 0, 0), -1, 0);
	f->cpu->db_pending = DR6_BS;
	expect_exit(f, exception(f, EVENT_HW_EXCEPTION, EXC_DB, false, 0, DR6_BS), EXIT_REASON_EXCEPTION_NMI,
		    DR6_BS);
	assert_int_equal(vr(f, VMCS_GUEST_PENDING_DEBUG), 0);
	/* bit clear: exits unless the comparison matches; that is, on P = 1 */
	expect_exit(f, exception(f, EVENT_HW_EXCEPTION, EXC_PF, true, PF_W, 0x1234), -1, 0);
	expect_exit(f, exception(f, EVENT_HW_EXCEPTION, EXC_PF, true, PF_P | PF_W, 0x1234),
		    EXIT_REASON_EXCEPTION_NMI, 0x1234);
	assert_int_equal(vr(f, VMCS_EXIT_INTR_ERROR), PF_P | PF_W);
}

static void test_page_fault_match(void **state)
{
	struct fix *f = *state;

	vw(f, VMCS_EXCEPTION_BITMAP, 1u << EXC_PF);
	vw(f, VMCS_PF_ERROR_MASK, PF_P | PF_U);
	vw(f, VMCS_PF_ERROR_MATCH, PF_P);
	enter(f);
	for (uint32_t e = 0; e < 32; e++)
		expect_exit(f, exception(f, EVENT_HW_EXCEPTION, EXC_PF, true, e, 8),
			    (e & (PF_P | PF_U)) == PF_P ? EXIT_REASON_EXCEPTION_NMI : -1, 8);
}

static void test_nmi_unblocking(void **state)
{
	struct fix *f = *state;

	vw(f, VMCS_EXCEPTION_BITMAP, ~0u);
	with_controls(f, PIN_NMI | PIN_VIRTUAL_NMI, 0, 0);
	f->cpu->vmx.nmi_unblocking_iret = true;
	expect_exit(f, exception(f, EVENT_HW_EXCEPTION, EXC_GP, true, 0, 0), EXIT_REASON_EXCEPTION_NMI, 0);
	assert_true(vr(f, VMCS_EXIT_INTR_INFO) & INTR_INFO_NMI_UNBLOCK);
	assert_false(f->cpu->vmx.nmi_unblocking_iret);
	f->cpu->vmx.nmi_unblocking_iret = true;
	expect_exit(f, exception(f, EVENT_HW_EXCEPTION, EXC_DF, true, 0, 0), EXIT_REASON_EXCEPTION_NMI, 0);
	assert_false(vr(f, VMCS_EXIT_INTR_INFO) & INTR_INFO_NMI_UNBLOCK);
}

static void test_ept_exits(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;
	struct xlate x = {.gpa = {0x5678},
			  .qualification = EPT_VIOL_WRITE | 5 << EPT_VIOL_RIGHTS_SHIFT | EPT_VIOL_FINAL};

	with_controls(f, 0, 0, PROC2_EPT);
	expect_exit(f, vmx_exit_ept(c, XLATE_EPT_VIOLATION, &x, 0x1234, true), EXIT_REASON_EPT_VIOLATION,
		    x.qualification | EPT_VIOL_LINEAR);
	assert_int_equal(vr(f, VMCS_GUEST_PHYSICAL), 0x5678);
	assert_int_equal(vr(f, VMCS_GUEST_LINEAR), 0x1234);
	assert_true(vr(f, VMCS_GUEST_RFLAGS) & RF_RF);
	c->vmx.nmi_unblocking_iret = true;
	expect_exit(f, vmx_exit_ept(c, XLATE_EPT_VIOLATION, &x, 0, false), EXIT_REASON_EPT_VIOLATION,
		    (x.qualification & ~EPT_VIOL_FINAL) | EPT_VIOL_NMI_UNBLOCK);
	expect_exit(f, vmx_exit_ept(c, XLATE_EPT_MISCONFIG, &x, 0x1234, true), EXIT_REASON_EPT_MISCONFIG, 0);
	assert_int_equal(vr(f, VMCS_GUEST_PHYSICAL), 0x5678);
	expect_exit(f, vmx_exit_ept(c, XLATE_PML_FULL, &x, 0x1234, true), EXIT_REASON_PML_FULL, 0);
	assert_int_equal(vr(f, VMCS_GUEST_LINEAR), 0);
	assert_true(vr(f, VMCS_GUEST_RFLAGS) & RF_RF);
	c->vmx.nmi_unblocking_iret = true;
	expect_exit(f, vmx_exit_ept(c, XLATE_PML_FULL, &x, 0x1234, true), EXIT_REASON_PML_FULL, 1ull << 12);
}

static void test_task_switch_exit(void **state)
{
	struct fix *f = *state;

	enter(f);
	expect_exit(f,
		    vmx_exit_task_switch(f->cpu, 0x28 | (uint64_t)TASK_QUAL_JMP << TASK_QUAL_SOURCE_SHIFT, 7),
		    EXIT_REASON_TASK_SWITCH, 0x80000028);
	assert_int_equal(vr(f, VMCS_EXIT_INSN_LEN), 7);
}

static void test_nmi_exit(void **state)
{
	struct fix *f = *state;

	with_controls(f, PIN_NMI, 0, 0);
	assert_false(vmx_iret_unblocks_nmi(f->cpu));
	f->cpu->nmi_pending = true;
	assert_int_equal(vmx_check_windows(f->cpu), EXEC_STOP);
	leave(f);
	assert_int_equal(vr(f, VMCS_EXIT_INTR_INFO), INTR(EVENT_NMI, EXC_NMI));
	assert_int_equal(vr(f, VMCS_GUEST_INTERRUPTIBILITY), 0);
	assert_false(f->cpu->nmi_pending);
	assert_true(f->cpu->nmi_blocked); /* in root operation, until IRET */
}

static void test_external_interrupts(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	assert_int_equal(
		lapic_wrmsr(&c->lapic, MSR_APIC_BASE, LAPIC_DEFAULT_BASE | APIC_BASE_BSP | APIC_BASE_EN, 0),
		0);
	lapic_write(&c->lapic, 0xf0, 0x1ff, 0);
	assert_true(lapic_msi(&c->lapic, LAPIC_DEFAULT_BASE, 0x41));
	with_controls(f, 0, 0, 0);
	expect_exit(f, vmx_check_windows(c), -1, 0);
	with_controls(f, PIN_EXTERNAL_INTERRUPT, 0, 0);
	expect_exit(f, vmx_check_windows(c), EXIT_REASON_EXTERNAL_INTERRUPT, 0); /* RFLAGS.IF is 0 */
	assert_int_equal(vr(f, VMCS_EXIT_INTR_INFO), 0);
	assert_int_equal(lapic_pending(&c->lapic), 0x41);
	c->shadow_sti = true;
	expect_exit(f, vmx_check_windows(c), -1, 0);
	c->shadow_sti = false;
	vmx_exit_triple_fault(c);
	leave(f);
	vw(f, VMCS_EXIT_CTL, vr(f, VMCS_EXIT_CTL) | EXIT_ACK_INTERRUPT);
	enter(f);
	expect_exit(f, vmx_check_windows(c), EXIT_REASON_EXTERNAL_INTERRUPT, 0);
	assert_int_equal(vr(f, VMCS_EXIT_INTR_INFO), INTR(EVENT_EXTERNAL, 0x41));
	assert_int_equal(lapic_pending(&c->lapic), -1);
	/* From the external controller: the vector has to be fetched. */
	lapic_write(&c->lapic, 0x350, 0x700, 0);
	c->extint = true;
	assert_true(vmx_wants_extint(c));
	expect_exit(f, vmx_check_windows(c), -1, 0);
	cpu_give_extint(c, 0x33);
	expect_exit(f, vmx_check_windows(c), EXIT_REASON_EXTERNAL_INTERRUPT, 0);
	assert_int_equal(vr(f, VMCS_EXIT_INTR_INFO), INTR(EVENT_EXTERNAL, 0x33));
}

/* One thing after the other becomes due; each exit is for the most important one. */
static void test_priorities(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	vw(f, VMCS_GUEST_RFLAGS, RF_ONE | RF_IF);
	vw(f, VMCS_GUEST_PREEMPTION_TIMER, 100);
	vw(f, VMCS_EXIT_CTL, vr(f, VMCS_EXIT_CTL) | EXIT_SAVE_PREEMPTION);
	with_controls(f, PIN_NMI | PIN_VIRTUAL_NMI | PIN_EXTERNAL_INTERRUPT | PIN_PREEMPTION_TIMER,
		      PROC_INTERRUPT_WINDOW | PROC_NMI_WINDOW, 0);
	c->nmi_blocked = true;
	expect_exit(f, vmx_check_windows(c), EXIT_REASON_INTERRUPT_WINDOW, 0);
	c->nmi_blocked = false;
	c->nmi_pending = true;
	expect_exit(f, vmx_check_windows(c), EXIT_REASON_NMI_WINDOW, 0);
	c->shadow_movss = true;
	expect_exit(f, vmx_check_windows(c), -1, 0);
	c->shadow_movss = false;
	c->nmi_blocked = true; /* virtual: a real NMI exits all the same */
	expect_exit(f, vmx_check_windows(c), EXIT_REASON_EXCEPTION_NMI, 0);
	c->insns += 40;
	vmx_exit_triple_fault(c);
	leave(f);
	assert_int_equal(vr(f, VMCS_GUEST_PREEMPTION_TIMER), 60);
	enter(f);
	assert_int_equal(c->vmx.preemption_deadline, cpu_tsc(c) + 60);
	c->insns += 60;
	expect_exit(f, vmx_check_windows(c), EXIT_REASON_PREEMPTION_TIMER, 0);
	assert_int_equal(vr(f, VMCS_GUEST_PREEMPTION_TIMER), 0);
	c->db_pending = DR6_BS;
	expect_exit(f, vmx_check_windows(c), -1, 0); /* the debug trap is to be delivered first */
	c->vmx.mtf_pending = true;
	expect_exit(f, vmx_check_windows(c), EXIT_REASON_MONITOR_TRAP, 0);
	assert_int_equal(vr(f, VMCS_GUEST_PENDING_DEBUG), PENDING_DEBUG_BS);
	assert_int_equal(c->db_pending, DR6_BS); /* entered with it */
	c->init_pending = true;
	c->vmx.mtf_pending = true;
	expect_exit(f, vmx_check_windows(c), EXIT_REASON_INIT, 0);
}

static void test_window_in_halt(void **state)
{
	struct fix *f = *state;

	vw(f, VMCS_GUEST_RFLAGS, RF_ONE | RF_IF);
	vw(f, VMCS_GUEST_ACTIVITY, ACTIVITY_HLT);
	with_controls(f, 0, PROC_INTERRUPT_WINDOW, 0);
	assert_true(f->cpu->halted);
	assert_int_equal(vmx_check_windows(f->cpu), EXEC_STOP);
	leave(f);
	assert_int_equal(vr(f, VMCS_GUEST_ACTIVITY), ACTIVITY_HLT);
	assert_false(f->cpu->halted);
}

static void test_pending_debug(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	vw(f, VMCS_GUEST_DR7, 0x402); /* G0 */
	vw(f, VMCS_GUEST_PENDING_DEBUG, PENDING_DEBUG_ENABLED | 1);
	enter(f);
	assert_int_equal(c->db_pending, 1);
	vmx_exit_triple_fault(c);
	leave(f);
	assert_int_equal(vr(f, VMCS_GUEST_PENDING_DEBUG), PENDING_DEBUG_ENABLED | 1);
	vw(f, VMCS_GUEST_PENDING_DEBUG, 3); /* matched, but not enabled: nothing pending */
	enter(f);
	assert_int_equal(c->db_pending, 0);
	vmx_exit_triple_fault(c);
	leave(f);
	vw(f, VMCS_GUEST_PENDING_DEBUG, PENDING_DEBUG_BS);
	vw(f, VMCS_ENTRY_INTR_INFO, INTR(EVENT_HW_EXCEPTION, EXC_UD)); /* which makes it go away */
	enter(f);
	assert_int_equal(c->db_pending, 0);
}

static void test_inject_pending_mtf(void **state)
{
	struct fix *f = *state;

	vw(f, VMCS_ENTRY_INTR_INFO, INTR(INTR_TYPE_OTHER, 0));
	enter(f);
	assert_int_equal(f->cpu->gpr[REG_RIP], CODE_AT);
	expect_exit(f, vmx_check_windows(f->cpu), EXIT_REASON_MONITOR_TRAP, 0);
	vmx_exit_triple_fault(f->cpu);
	leave(f);
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_MTF);
	vw(f, VMCS_ENTRY_INTR_INFO, INTR(EVENT_HW_EXCEPTION, EXC_UD));
	enter(f);
	assert_int_equal(vmx_check_windows(f->cpu), EXEC_STOP); /* before the handler's first instruction */
	leave(f);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), HANDLER_AT);
}

/* ---- guests that run ---- */

static void code(struct fix *f, uint64_t at, const char *bytes, size_t count)
{
	memcpy(machmem_ptr(&f->mem, hpa(at)), bytes, count);
}
#define CODE(f, bytes) code(f, CODE_AT, bytes, sizeof(bytes) - 1)

/* Enters and runs to the next exit, which must be for @reason. */
static void run(struct fix *f, uint32_t reason)
{
	enter(f);
	assert_int_equal(cpu_run(f->cpu, cpu_tsc(f->cpu) + 1000), CPU_RUN_VMEXIT);
	assert_false(f->cpu->vmx.nonroot);
	if (vr(f, VMCS_EXIT_REASON) != reason)
		fail_msg("exit %x qualification %lx at %lx", (unsigned)vr(f, VMCS_EXIT_REASON),
			 vr(f, VMCS_EXIT_QUALIFICATION), vr(f, VMCS_GUEST_RIP));
}

static void test_run_instructions(void **state)
{
	struct fix *f = *state;

	CODE(f, "\x90\x0f\xa2\xe4\x60\x0f\x22\xd8\x0f\x21\xf9\x0f\x01\x38\xf4");
	vw(f, VMCS_PROC_CTL,
	   PROC_DEFAULT1 | PROC_UNCOND_IO | PROC_CR3_LOAD | PROC_MOV_DR | PROC_INVLPG | PROC_HLT);
	f->cpu->gpr[RAX] = 0x123456000;
	run(f, EXIT_REASON_CPUID);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT + 1);
	assert_int_equal(vr(f, VMCS_EXIT_INSN_LEN), 2);
	vw(f, VMCS_GUEST_RIP, CODE_AT + 3);
	run(f, EXIT_REASON_IO);
	assert_int_equal(vr(f, VMCS_EXIT_QUALIFICATION), 0x600048);
	vw(f, VMCS_GUEST_RIP, CODE_AT + 5);
	run(f, EXIT_REASON_CR_ACCESS);
	assert_int_equal(vr(f, VMCS_EXIT_QUALIFICATION), 3);
	vw(f, VMCS_GUEST_RIP, CODE_AT + 8);
	run(f, EXIT_REASON_DR_ACCESS);
	assert_int_equal(vr(f, VMCS_EXIT_QUALIFICATION), 0x117);
	vw(f, VMCS_GUEST_RIP, CODE_AT + 11);
	run(f, EXIT_REASON_INVLPG);
	assert_int_equal(vr(f, VMCS_EXIT_QUALIFICATION), 0x123456000);
	vw(f, VMCS_GUEST_RIP, CODE_AT + 14);
	run(f, EXIT_REASON_HLT);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT + 14);
}

static void test_run_monitor_trap(void **state)
{
	struct fix *f = *state;

	CODE(f, "\x90\x90\x90\x90");
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_MTF);
	for (unsigned i = 1; i < 4; i++) {
		run(f, EXIT_REASON_MONITOR_TRAP);
		assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT + i);
	}
}

static void test_run_preemption_timer(void **state)
{
	struct fix *f = *state;

	memset(machmem_ptr(&f->mem, hpa(CODE_AT)), 0x90, 100);
	vw(f, VMCS_PIN_CTL, PIN_DEFAULT1 | PIN_PREEMPTION_TIMER);
	for (unsigned i = 0; i < 20; i += 5) {
		vw(f, VMCS_GUEST_PREEMPTION_TIMER, i);
		vw(f, VMCS_GUEST_RIP, CODE_AT);
		run(f, EXIT_REASON_PREEMPTION_TIMER);
		assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT + i);
	}
}

static void test_run_interrupt_window(void **state)
{
	struct fix *f = *state;

	CODE(f, "\x90\xfb\x90\x90");
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_INTERRUPT_WINDOW);
	run(f, EXIT_REASON_INTERRUPT_WINDOW);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT + 3); /* the instruction after STI is done */
	assert_int_equal(vr(f, VMCS_GUEST_INTERRUPTIBILITY), 0);
	run(f, EXIT_REASON_INTERRUPT_WINDOW);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT + 3); /* at once */
}

static void test_run_exception_and_handler(void **state)
{
	struct fix *f = *state;

	CODE(f, "\x0f\x0b\xf4");
	code(f, HANDLER_AT, "\x48\x83\x04\x24\x02\x48\xcf", 7); /* add qword [rsp], 2; iretq */
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_HLT);
	vw(f, VMCS_EXCEPTION_BITMAP, 1u << EXC_UD);
	run(f, EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(vr(f, VMCS_EXIT_INTR_INFO), INTR(EVENT_HW_EXCEPTION, EXC_UD));
	assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT);
	assert_int_equal(vr(f, VMCS_GUEST_RFLAGS), RF_ONE | RF_RF);
	vw(f, VMCS_ENTRY_INTR_INFO, vr(f, VMCS_EXIT_INTR_INFO)); /* reflect it */
	run(f, EXIT_REASON_HLT);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT + 2);
	assert_int_equal(vr(f, VMCS_GUEST_RSP), STACK_AT);
}

static void test_run_triple_fault(void **state)
{
	struct fix *f = *state;

	CODE(f, "\x0f\x0b");
	vw(f, VMCS_GUEST_IDTR_LIMIT, 0);
	run(f, EXIT_REASON_TRIPLE_FAULT);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT);
	assert_int_equal(vr(f, VMCS_IDT_VECTORING_INFO), 0);
}

static void test_run_tsc_offset(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;
	uint64_t seen;

	CODE(f, "\x0f\x31\xf4");
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_HLT | PROC_TSC_OFFSETTING);
	vw(f, VMCS_TSC_OFFSET, 1ull << 40);
	run(f, EXIT_REASON_HLT);
	seen = c->gpr[RDX] << 32 | c->gpr[RAX];
	assert_in_range(seen - (1ull << 40), 0, cpu_tsc(c));
}

/* Reads through EPT whose second 2 MiB are missing, then read-only, then misconfigured. */
static void test_run_ept(void **state)
{
	const uint64_t at = 0x70000, pdpt = 0x71000, pd = 0x72000, eptp = at | EPTP_WALK_4 | EPT_MT_WB;
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	put64(f, at, pdpt | EPT_R | EPT_W | EPT_X);
	put64(f, pdpt, pd | EPT_R | EPT_W | EPT_X);
	put64(f, pd, EPT_R | EPT_W | EPT_X | EPT_PS | EPT_MT_WB << EPT_MT_SHIFT);
	CODE(f, "\x48\x8b\x03\x48\x89\x03\xf4"); /* mov rax, [rbx]; mov [rbx], rax; hlt */
	c->gpr[RBX] = SIZE_2M + 0x123;
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_SECONDARY | PROC_HLT);
	vw(f, VMCS_PROC_CTL2, PROC2_EPT | PROC2_VPID);
	vw(f, VMCS_EPTP, eptp);
	run(f, EXIT_REASON_EPT_VIOLATION);
	assert_int_equal(vr(f, VMCS_EXIT_QUALIFICATION), EPT_VIOL_READ | EPT_VIOL_LINEAR | EPT_VIOL_FINAL);
	assert_int_equal(vr(f, VMCS_GUEST_PHYSICAL), SIZE_2M + 0x123);
	assert_int_equal(vr(f, VMCS_GUEST_LINEAR), SIZE_2M + 0x123);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT);
	put64(f, pd + 8, SIZE_2M | EPT_R | EPT_X | EPT_PS | EPT_MT_WB << EPT_MT_SHIFT);
	run(f, EXIT_REASON_EPT_VIOLATION);
	assert_int_equal(vr(f, VMCS_EXIT_QUALIFICATION),
			 EPT_VIOL_WRITE | 5 << EPT_VIOL_RIGHTS_SHIFT | EPT_VIOL_LINEAR | EPT_VIOL_FINAL);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT + 3);
	put64(f, pd + 8, SIZE_2M | EPT_W | EPT_PS | EPT_MT_WB << EPT_MT_SHIFT);
	assert_int_equal(vmx_invept(c, INVEPT_SINGLE, eptp), VMX_SUCCEED);
	run(f, EXIT_REASON_EPT_MISCONFIG);
	assert_int_equal(vr(f, VMCS_GUEST_PHYSICAL), SIZE_2M + 0x123);
	put64(f, pd + 8, SIZE_2M | EPT_R | EPT_W | EPT_PS | EPT_MT_WB << EPT_MT_SHIFT);
	run(f, EXIT_REASON_HLT);
}

/* Identity in one 2 MiB page for tables, code and stack, which is accessed and dirty; then 4 KiB pages, which are not. */
static void map_for_log(struct fix *f, uint64_t eptp, unsigned pages)
{
	const uint64_t pml4 = eptp & EPT_ADDR_MASK, pdpt = pml4 + 0x1000, pd = pml4 + 0x2000, pt = pml4 + 0x3000;
	const uint64_t leaf = EPT_R | EPT_W | EPT_X | EPT_MT_WB << EPT_MT_SHIFT, table = EPT_R | EPT_W | EPT_X | EPT_A;

	put64(f, pml4, pdpt | table);
	put64(f, pdpt, pd | table);
	put64(f, pd, leaf | EPT_PS | EPT_A | EPT_D);
	for (unsigned i = 0; i < pages; i++) {
		if (i % 512 == 0)
			put64(f, pd + 8 + 8 * (i / 512), (pt + 8 * i) | table);
		put64(f, pt + 8 * i, (SIZE_2M + i * PAGE_SIZE) | leaf);
	}
}

static uint64_t log_flags(struct fix *f, uint64_t eptp, unsigned page)
{
	return get64(f, (eptp & EPT_ADDR_MASK) + 0x3000 + 8 * page) & (EPT_A | EPT_D);
}

static void with_log(struct fix *f, uint64_t eptp, uint64_t log, uint16_t index)
{
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_SECONDARY | PROC_HLT);
	vw(f, VMCS_PROC_CTL2, PROC2_EPT | PROC2_VPID | PROC2_PML);
	vw(f, VMCS_EPTP, eptp);
	vw(f, VMCS_PML_ADDRESS, log);
	vw(f, VMCS_GUEST_PML_INDEX, index);
}

/* EPT of the identity for the first 2 MiB; the entry of the second is at the returned address. */
static uint64_t with_ept_of_2m(struct fix *f)
{
	const uint64_t at = 0x70000, pdpt = 0x71000, pd = 0x72000;

	put64(f, at, pdpt | EPT_R | EPT_W | EPT_X);
	put64(f, pdpt, pd | EPT_R | EPT_W | EPT_X);
	put64(f, pd, EPT_R | EPT_W | EPT_X | EPT_PS | EPT_MT_WB << EPT_MT_SHIFT);
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_SECONDARY | PROC_HLT | PROC_MSR_BITMAPS);
	vw(f, VMCS_PROC_CTL2, PROC2_EPT | PROC2_VPID);
	vw(f, VMCS_MSR_BITMAP, MSR_BITMAP_AT);
	vw(f, VMCS_EPTP, at | EPTP_WALK_4 | EPT_MT_WB);
	return pd + 8;
}

/* The processor reads its registers through EPT, with EPT's exits; requests exit whatever the bitmap says. */
static void test_run_dmt(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;
	uint64_t pde = with_ept_of_2m(f);

	CODE(f, "\x0f\x30\xf4"); /* wrmsr; hlt */
	c->gpr[RCX] = MSR_DMT_LOAD;
	c->gpr[RAX] = SIZE_2M | 1;
	c->gpr[RDX] = 0;
	run(f, EXIT_REASON_EPT_VIOLATION);
	assert_int_equal(vr(f, VMCS_EXIT_QUALIFICATION), EPT_VIOL_READ);
	assert_int_equal(vr(f, VMCS_GUEST_PHYSICAL), SIZE_2M);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT);
	assert_int_equal(vmx_guest_dmt_load(c), 0);
	put64(f, pde, 2 * SIZE_2M | EPT_R | EPT_PS | EPT_MT_WB << EPT_MT_SHIFT);
	put64(f, 2 * SIZE_2M, 0x1000);
	put64(f, 2 * SIZE_2M + 24, DMT_P);
	run(f, EXIT_REASON_HLT);
	assert_int_equal(vmx_guest_dmt_load(c), SIZE_2M | 1);
	assert_int_equal(vmx_guest_dmt(c)[0].start, 0x1000);
	assert_int_equal(c->mmu.stats.dmt.reload_refs, 1);
	assert_int_equal(c->mmu.stats.dmt.refused, 1); /* its end is before its start */
	vw(f, VMCS_GUEST_RIP, CODE_AT);
	c->gpr[RCX] = MSR_PV_REQUEST;
	run(f, EXIT_REASON_WRMSR);
	code(f, CODE_AT + 0x100, "\x0f\x32", 2); /* rdmsr */
	vw(f, VMCS_GUEST_RIP, CODE_AT + 0x100);
	run(f, EXIT_REASON_RDMSR);
}

/* What the processor translates by is switched with the registers that are live. */
static void test_walk_is_live(void **state)
{
	const struct dmt_entry e[2] = {{0, 0x1000, 0x5000, DMT_P}, {0x2000, 0x4000, 0x6000, DMT_P}};
	struct vmx_live *one = calloc(1, sizeof(*one)), *other = calloc(1, sizeof(*other));
	const struct dmt_gtea gtea[1] = {{0x1000, 1, 0x7000}};
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	vmx_save_live(c, other);
	vmx_set_dmt(c, 1, e, 2);
	vmx_set_dmt(c, 2, &e[1], 1);
	vmx_set_gteas(c, gtea, 1);
	vmx_set_dmt_stages(c, 3);
	vmx_set_agile(c, true, 0x9000);
	vmx_set_guest_dmt(c, 0x8000 | 2, e);
	vmx_save_live(c, one);
	vmx_load_live(c, other);
	assert_int_equal(c->mmu.dmt.stages, 0);
	assert_int_equal(c->mmu.dmt.stage[1].count[DMT_SMALL] + c->mmu.dmt.stage[0].count[DMT_SMALL], 0);
	assert_null(c->mmu.dmt.gtea);
	assert_false(c->vmx.walk.agile);
	assert_int_equal(vmx_guest_dmt_load(c), 0);
	vmx_load_live(c, one);
	assert_int_equal(c->mmu.dmt.stages, 3);
	assert_int_equal(c->mmu.dmt.stage[0].count[DMT_SMALL], 2);
	assert_int_equal(c->mmu.dmt.stage[1].count[DMT_SMALL], 2);
	assert_int_equal(c->mmu.dmt.stage[2].count[DMT_SMALL], 1);
	assert_ptr_equal(c->mmu.dmt.gtea, gtea);
	assert_int_equal(c->vmx.walk.shadow_root, 0x9000);
	assert_memory_equal(vmx_guest_dmt(c), e, sizeof(e));
	free(one);
	free(other);
}

/* A fault of the shadow part exits without any bit of the exception bitmap; the guest's own does not. */
static void test_run_agile(void **state)
{
	const uint64_t root = 0x79000;
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	with_ept_of_2m(f);
	vmx_set_agile(c, true, root);
	CODE(f, "\x48\x89\x03\xf4"); /* mov [rbx], rax; hlt */
	code(f, HANDLER_AT, "\x0f\xa2", 2); /* cpuid */
	c->gpr[RBX] = 0x60000;
	run(f, EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(vr(f, VMCS_EXIT_INTR_INFO), INTR(EVENT_HW_EXCEPTION, EXC_PF) | INTR_INFO_ERROR);
	assert_int_equal(vr(f, VMCS_EXIT_INTR_ERROR), 0);
	assert_int_equal(vr(f, VMCS_EXIT_QUALIFICATION), CODE_AT);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT);
	assert_int_equal(c->cr2, 0);
	put64(f, root, PDPT_AT | PTE_P | PTE_W | PTE_U | PTE_A | PTE_SWITCH | PTE_SWITCH_W);
	run(f, EXIT_REASON_HLT);
	assert_int_equal(get64(f, PD_AT) & (PTE_A | PTE_D), PTE_A | PTE_D);
	/* Not present in the guest's table: its handler runs. */
	c->gpr[RBX] = 9 * SIZE_2M;
	vw(f, VMCS_GUEST_RIP, CODE_AT);
	run(f, EXIT_REASON_CPUID);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), HANDLER_AT);
	assert_int_equal(c->cr2, 9 * SIZE_2M);
}

#define LOG_EPTP (0x80000ull | EPTP_WALK_4 | EPTP_AD | EPT_MT_WB)
#define LOG_AT   0x90000ull

/* A guest that writes to one page after the other: the exit comes at the 513th, before it is written. */
static void test_run_pml_full(void **state)
{
	struct fix *f = *state;
	struct cpu *c = f->cpu;

	map_for_log(f, LOG_EPTP, 1024);
	with_log(f, LOG_EPTP, LOG_AT, 511);
	CODE(f, "\x89\x03\x81\xc3\x00\x10\x00\x00\xe2\xf6\xf4"); /* again: mov [rbx], eax; add ebx, 4096; loop again; hlt */
	c->gpr[RBX] = SIZE_2M + 0x20;
	c->gpr[RCX] = 600;
	c->gpr[RAX] = 0x5a5a5a5a;
	enter(f);
	assert_int_equal(cpu_run(c, cpu_tsc(c) + 10000), CPU_RUN_VMEXIT);
	assert_int_equal(vr(f, VMCS_EXIT_REASON), EXIT_REASON_PML_FULL);
	assert_int_equal(vr(f, VMCS_EXIT_REASON), 62);
	assert_int_equal(vr(f, VMCS_EXIT_QUALIFICATION), 0);
	assert_int_equal(vr(f, VMCS_GUEST_PML_INDEX), 0xffff);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT);
	assert_true(vr(f, VMCS_GUEST_RFLAGS) & RF_RF);
	assert_int_equal(vr(f, VMCS_IDT_VECTORING_INFO), 0);
	assert_int_equal(c->gpr[RBX], SIZE_2M + 512 * PAGE_SIZE + 0x20);
	for (unsigned i = 0; i < 512; i++)
		assert_int_equal(get64(f, LOG_AT + 8 * i), SIZE_2M + (511 - i) * PAGE_SIZE);
	assert_int_equal(log_flags(f, LOG_EPTP, 511), EPT_A | EPT_D);
	assert_int_equal(log_flags(f, LOG_EPTP, 512), 0);
	assert_int_equal(get64(f, SIZE_2M + 512 * PAGE_SIZE + 0x20), 0);
	vw(f, VMCS_GUEST_PML_INDEX, 511);
	run(f, EXIT_REASON_HLT);
	assert_int_equal(vr(f, VMCS_GUEST_PML_INDEX), 511 - 88);
	assert_int_equal(get64(f, LOG_AT + 8 * 511), SIZE_2M + 512 * PAGE_SIZE);
	assert_int_equal(get64(f, SIZE_2M + 512 * PAGE_SIZE + 0x20), 0x5a5a5a5a);
}

/* Reading is enough to find the log full; with EPT without flags, or without the control, nothing is. */
static void test_run_pml_accessed(void **state)
{
	struct fix *f = *state;

	map_for_log(f, LOG_EPTP, 4);
	with_log(f, LOG_EPTP, LOG_AT, 0x200);
	CODE(f, "\x8b\x03\xf4"); /* mov eax, [rbx]; hlt */
	f->cpu->gpr[RBX] = SIZE_2M;
	run(f, EXIT_REASON_PML_FULL);
	assert_int_equal(vr(f, VMCS_GUEST_PML_INDEX), 0x200);
	assert_int_equal(log_flags(f, LOG_EPTP, 0), 0);
	vw(f, VMCS_EPTP, LOG_EPTP & ~EPTP_AD);
	run(f, EXIT_REASON_HLT);
	assert_int_equal(log_flags(f, LOG_EPTP, 0), 0);
	vw(f, VMCS_EPTP, LOG_EPTP);
	vw(f, VMCS_PROC_CTL2, PROC2_EPT | PROC2_VPID);
	vw(f, VMCS_GUEST_RIP, CODE_AT);
	run(f, EXIT_REASON_HLT);
	assert_int_equal(vr(f, VMCS_GUEST_PML_INDEX), 0x200);
}

/* The log is found full while an event is delivered: the exit says which one. */
static void test_run_pml_vectoring(void **state)
{
	struct fix *f = *state;

	map_for_log(f, LOG_EPTP, 4);
	with_log(f, LOG_EPTP, LOG_AT, 0xffff);
	CODE(f, "\xcd\x21"); /* int 21h */
	code(f, HANDLER_AT, "\xf4", 1);
	vw(f, VMCS_GUEST_RSP, SIZE_2M + 0x800);
	run(f, EXIT_REASON_PML_FULL);
	assert_int_equal(vr(f, VMCS_IDT_VECTORING_INFO), INTR(EVENT_SOFT_INT, 0x21));
	assert_int_equal(vr(f, VMCS_EXIT_INSN_LEN), 2);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), CODE_AT);
	assert_int_equal(vr(f, VMCS_EXIT_QUALIFICATION), 0);
	vw(f, VMCS_GUEST_PML_INDEX, 511);
	vw(f, VMCS_ENTRY_INTR_INFO, vr(f, VMCS_IDT_VECTORING_INFO));
	vw(f, VMCS_ENTRY_INSN_LEN, 2);
	run(f, EXIT_REASON_HLT);
	assert_int_equal(get64(f, LOG_AT + 8 * 511), SIZE_2M);
}

static void test_run_real_mode(void **state)
{
	const uint64_t at = 0x70000, pdpt = 0x71000;
	struct fix *f = *state;

	put64(f, at, pdpt | EPT_R | EPT_W | EPT_X);
	put64(f, pdpt, EPT_R | EPT_W | EPT_X | EPT_PS | EPT_MT_WB << EPT_MT_SHIFT);
	code(f, CODE_AT + 0x100, "\xb8\x34\x12\xcd\x21", 5); /* mov ax, 1234h; int 21h */
	code(f, HANDLER_AT, "\xf4", 1);
	put32(f, IDT_AT + 0x21 * 4, (HANDLER_AT >> 4) << 16);
	vw(f, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_SECONDARY | PROC_HLT);
	vw(f, VMCS_PROC_CTL2, PROC2_EPT | PROC2_UNRESTRICTED);
	vw(f, VMCS_EPTP, at | EPTP_WALK_4 | EPT_MT_WB);
	vw(f, VMCS_ENTRY_CTL, ENTRY_DEFAULT1 | ENTRY_LOAD_EFER);
	vw(f, VMCS_GUEST_EFER, 0);
	vw(f, VMCS_GUEST_CR0, CR0_NE);
	vw(f, VMCS_GUEST_CR4, CR4_VMXE);
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		vw(f, VMCS_GUEST_ES_SEL + 2 * i, i == SEG_CS ? CODE_AT >> 4 : 0);
		vw(f, VMCS_GUEST_ES_BASE + 2 * i, i == SEG_CS ? CODE_AT : 0);
		vw(f, VMCS_GUEST_ES_LIMIT + 2 * i, 0xffff);
		vw(f, VMCS_GUEST_ES_AR + 2 * i, i == SEG_CS ? 0x9b : 0x93);
	}
	vw(f, VMCS_GUEST_RIP, 0x100);
	vw(f, VMCS_GUEST_RSP, 0x8000);
	run(f, EXIT_REASON_HLT);
	assert_int_equal(f->cpu->gpr[RAX] & 0xffff, 0x1234);
	assert_int_equal(vr(f, VMCS_GUEST_CS_BASE), HANDLER_AT);
	assert_int_equal(vr(f, VMCS_GUEST_RIP), 0);
	assert_int_equal(vr(f, VMCS_GUEST_RSP), 0x7ffa);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_vmxon_conditions, setup_off, teardown),
		T(test_vmptr_errors),
		T(test_vmread_vmwrite),
		T(test_unknown_fields),
		T(test_invalidation),
		T(test_capabilities),
		T(test_capability_values),
		T(test_entry_basics),
		cmocka_unit_test(test_control_checks),
		cmocka_unit_test(test_host_checks),
		cmocka_unit_test(test_guest_checks),
		T(test_checks_are_repeated),
		T(test_garbage_vmcs),
		T(test_state_round_trip),
		T(test_host_state),
		T(test_mode_is_stored),
		T(test_entry_failure_leaves_guest_state),
		T(test_msr_areas),
		T(test_msr_area_too_long),
		T(test_inject),
		T(test_inject_software_interrupt),
		T(test_exit_during_injection),
		T(test_double_fault_hides_vectoring),
		T(test_inject_nmi_blocks),
		T(test_simple_intercepts),
		T(test_insn_info),
		T(test_cr_intercepts),
		T(test_clts_lmsw),
		T(test_fixed_bits),
		T(test_dr_intercept),
		T(test_io_intercepts),
		T(test_msr_intercepts),
		T(test_exception_bitmap),
		T(test_page_fault_match),
		T(test_nmi_unblocking),
		T(test_ept_exits),
		T(test_task_switch_exit),
		T(test_nmi_exit),
		T(test_external_interrupts),
		T(test_priorities),
		T(test_window_in_halt),
		T(test_pending_debug),
		T(test_inject_pending_mtf),
		T(test_run_instructions), T(test_run_monitor_trap), T(test_run_preemption_timer),
		T(test_run_interrupt_window), T(test_run_exception_and_handler), T(test_run_triple_fault),
		T(test_run_tsc_offset), T(test_run_ept), T(test_run_dmt), T(test_walk_is_live), T(test_run_agile),
		T(test_run_pml_full), T(test_run_pml_accessed), T(test_run_pml_vectoring),
		T(test_run_real_mode),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
