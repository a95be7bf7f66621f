/*
 * The engines behind their seam: one small program under every scheme, with the
 * same exits at the same instruction and the same time, and the same state after it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "engine/engine.h"

#define MEMORY  (8ull << 20)
#define CODE    0x1000u
#define HANDLER 0x1800u
#define DATA    0x2000u
#define IDT     0x3000u
#define GDT     0x3800u
#define STACK   0x5000u
#define DEVICE  0xd0000000u
#define VECTOR  0x30u

static const uint8_t program[] = {
	0xb8, 0x78, 0x56, 0x34, 0x12,             /* mov eax, 0x12345678 */
	0xe7, 0x80,                               /* out 0x80, eax */
	0xe4, 0x60,                               /* in al, 0x60 */
	0xa3, 0x00, 0x20, 0x00, 0x00,             /* mov [DATA], eax */
	0xa3, 0x00, 0x00, 0x00, 0xd0,             /* mov [DEVICE], eax */
	0x8b, 0x1d, 0x04, 0x00, 0x00, 0xd0,       /* mov ebx, [DEVICE + 4] */
	0x89, 0x1d, 0x04, 0x20, 0x00, 0x00,       /* mov [DATA + 4], ebx */
	0x31, 0xc0,                               /* xor eax, eax */
	0x0f, 0xa2,                               /* cpuid */
	0x0f, 0x31,                               /* rdtsc */
	0xa3, 0x08, 0x20, 0x00, 0x00,             /* mov [DATA + 8], eax */
	0xfb,                                     /* sti */
	0xf4,                                     /* hlt */
	0xb9, 0x0c, 0x00, 0x00, 0x00,             /* mov ecx, 12 */
	0xbf, 0x00, 0x40, 0x00, 0x00,             /* mov edi, 0x4000 */
	0xf3, 0xaa,                               /* rep stosb */
	0xeb, 0xfe,                               /* jmp . */
};
#define INSNS_TO_HLT 13 /* those before HLT and HLT itself */

static const uint8_t handler[] = {
	0xff, 0x05, 0x10, 0x20, 0x00, 0x00,             /* inc dword [DATA + 16] */
	0xc7, 0x05, 0xb0, 0x00, 0xe0, 0xfe, 0, 0, 0, 0, /* mov dword [APIC + EOI], 0 */
	0xcf,                                           /* iret */
};

static void write(struct engine_vm *vm, uint64_t a, const void *data, uint64_t bytes)
{
	assert_int_equal(engine_mem_write(vm, gpa(a), data, bytes), 0);
}

static uint32_t read32(struct engine_vm *vm, uint64_t a)
{
	uint32_t v = 0;

	assert_int_equal(engine_mem_read(vm, gpa(a), &v, sizeof(v)), 0);
	return v;
}

static struct seg flat(uint16_t sel, uint32_t type)
{
	return (struct seg){.sel = sel, .attr = SEG_AR_G | SEG_AR_DB | SEG_AR_P | SEG_AR_S | type, .limit = 0xffffffff};
}

/* 32-bit flat protected mode without paging. */
static void set_registers(struct engine_vm *vm)
{
	struct engine_sregs s;
	struct engine_regs r = {.rip = CODE, .rflags = RF_ONE};

	engine_get_sregs(vm, &s);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s.seg[i] = flat(0x10, 3);
	s.seg[SEG_CS] = flat(8, 11);
	s.tr = (struct seg){.sel = 0, .attr = SEG_AR_P | 11, .limit = 0x67};
	s.ldt = (struct seg){.attr = SEG_AR_UNUSABLE};
	s.gdt = (struct dtable){GDT, 0x17};
	s.idt = (struct dtable){IDT, 0x7ff};
	s.cr0 = CR0_PE | CR0_ET | CR0_NE;
	engine_set_sregs(vm, &s);
	r.gpr[RSP] = STACK;
	engine_set_regs(vm, &r);
}

static struct engine_vm *make(enum engine_mmu mmu, const uint8_t *code, uint64_t bytes)
{
	static const uint64_t gdt[3] = {0, 0x00cf9b000000ffff, 0x00cf93000000ffff};
	uint64_t gate = (HANDLER & 0xffff) | 8u << 16 | (uint64_t)0x8e00 << 32;
	struct engine_config cfg = {.mmu = mmu, .memory = MEMORY, .audit = true};
	struct engine_vm *vm = NULL;
	struct error err;

	cpu_config_default(&cfg.cpu);
	assert_int_equal(engine_create(&vm, &cfg, &err), 0);
	write(vm, CODE, code, bytes);
	write(vm, HANDLER, handler, sizeof(handler));
	write(vm, GDT, gdt, sizeof(gdt));
	write(vm, IDT + VECTOR * 8, &gate, sizeof(gate));
	set_registers(vm);
	return vm;
}

static struct engine_run run_until(struct engine_vm *vm, uint64_t ns, uint64_t insns)
{
	struct engine_run r = {.deadline_ns = ns, .insn_limit = insns};

	engine_run(vm, &r);
	return r;
}

static void expect_access(const struct engine_run *r, enum engine_exit exit, bool is_write, unsigned size,
			  uint64_t addr)
{
	assert_int_equal(r->exit, exit);
	assert_int_equal(r->io.write, is_write);
	assert_int_equal(r->io.size, size);
	assert_int_equal(r->io.addr, addr);
}

/* The accesses to ports and device memory. */
static void run_devices(struct engine_vm *vm)
{
	struct engine_run r = run_until(vm, UINT64_MAX, UINT64_MAX);

	expect_access(&r, ENGINE_EXIT_IO, true, 4, 0x80);
	assert_int_equal(r.io.data, 0x12345678);
	assert_int_equal(engine_insns(vm), 1);
	engine_run(vm, &r);
	expect_access(&r, ENGINE_EXIT_IO, false, 1, 0x60);
	r.io.data = 0xab;
	engine_run(vm, &r);
	expect_access(&r, ENGINE_EXIT_MMIO, true, 4, DEVICE);
	assert_int_equal(r.io.data, 0x123456ab);
	engine_run(vm, &r);
	expect_access(&r, ENGINE_EXIT_MMIO, false, 4, DEVICE + 4);
	r.io.data = 0xcafe1234;
	engine_run(vm, &r);
	assert_int_equal(r.exit, ENGINE_EXIT_HLT);
	assert_true(r.hlt.wake_ns == UINT64_MAX);
	assert_int_equal(read32(vm, DATA), 0x123456ab);
	assert_int_equal(read32(vm, DATA + 4), 0xcafe1234);
	assert_int_equal(read32(vm, DATA + 8), INSNS_TO_HLT - 4); /* RDTSC: the instructions before it */
	assert_int_equal(engine_insns(vm), INSNS_TO_HLT);
	assert_int_equal(engine_now(vm), INSNS_TO_HLT);
}

/* An interrupt that comes while the guest is idle. */
static void run_interrupt(struct engine_vm *vm)
{
	struct engine_run r;

	engine_advance(vm, 1000);
	assert_int_equal(engine_now(vm), 1000);
	assert_int_equal(engine_insns(vm), INSNS_TO_HLT);
	engine_signal_msi(vm, 0xfee00000, VECTOR);
	r = run_until(vm, UINT64_MAX, INSNS_TO_HLT + 3 + 10);
	assert_int_equal(r.exit, ENGINE_EXIT_LIMIT);
	assert_int_equal(engine_insns(vm), INSNS_TO_HLT + 13);
	assert_int_equal(read32(vm, DATA + 16), 1);
	r = run_until(vm, 2000, UINT64_MAX);
	assert_int_equal(r.exit, ENGINE_EXIT_DEADLINE);
	assert_int_equal(engine_now(vm), 2000);
}

/* Interrupts of the PIC: the vector comes from the caller. */
static void run_extint(struct engine_vm *vm)
{
	struct engine_run r = {.deadline_ns = 3000, .insn_limit = UINT64_MAX, .request_irq_window = true};

	assert_true(engine_accepts_extint(vm));
	engine_run(vm, &r);
	assert_int_equal(r.exit, ENGINE_EXIT_IRQ_WINDOW);
	assert_int_equal(engine_now(vm), 2000);
	engine_interrupt(vm, VECTOR);
	r = run_until(vm, 3000, UINT64_MAX);
	assert_int_equal(r.exit, ENGINE_EXIT_DEADLINE);
	assert_int_equal(read32(vm, DATA + 16), 2);
}

static void test_same_everywhere(void **state)
{
	struct engine_hash first = {.all = {0}}, h;

	(void)state;
	for (enum engine_mmu mmu = ENGINE_NATIVE; mmu < ENGINE_MMU_COUNT; mmu++) {
		struct engine_vm *vm = make(mmu, program, sizeof(program));
		struct engine_run r;
		gpa_t a;

		run_devices(vm);
		run_interrupt(vm);
		run_extint(vm);
		engine_kick(vm);
		r = run_until(vm, 1ull << 40, UINT64_MAX);
		assert_int_equal(r.exit, ENGINE_EXIT_INTR);
		r = run_until(vm, 4000, UINT64_MAX);
		assert_int_equal(r.exit, ENGINE_EXIT_DEADLINE);
		assert_true(engine_translate(vm, gva(0x1234), &a));
		assert_int_equal(a.v, 0x1234);
		engine_state_hash(vm, &h);
		if (mmu == ENGINE_NATIVE)
			first = h;
		assert_memory_equal(&h, &first, sizeof(h));
		engine_destroy(vm);
	}
}

static void test_triple_fault(void **state)
{
	static const uint8_t code[] = {0xcd, 0x40}; /* int 0x40: an empty gate, and so are those of the faults */

	(void)state;
	for (enum engine_mmu mmu = ENGINE_NATIVE; mmu < ENGINE_MMU_COUNT; mmu++) {
		struct engine_vm *vm = make(mmu, code, sizeof(code));
		struct engine_run r = run_until(vm, UINT64_MAX, UINT64_MAX);
		char text[2048];

		assert_int_equal(r.exit, ENGINE_EXIT_SHUTDOWN);
		assert_int_equal(engine_insns(vm), 0);
		engine_describe(vm, text, sizeof(text));
		assert_non_null(strstr(text, "rip 0000000000001000"));
		engine_destroy(vm);
	}
}

static void test_memory(void **state)
{
	(void)state;
	for (enum engine_mmu mmu = ENGINE_NATIVE; mmu < ENGINE_MMU_COUNT; mmu++) {
		struct engine_vm *vm = make(mmu, program, sizeof(program));
		uint8_t buf[64] = {1, 2, 3}, back[64];

		assert_int_equal(engine_mem_write(vm, gpa(MEMORY - 32), buf, 64), -EFAULT);
		assert_int_equal(engine_mem_write(vm, gpa(MEMORY - 64), buf, 64), 0);
		assert_int_equal(engine_mem_read(vm, gpa(MEMORY - 64), back, 64), 0);
		assert_memory_equal(buf, back, 64);
		assert_int_equal(engine_mem_read(vm, gpa(~0ull), back, 1), -EFAULT);
		assert_int_equal(engine_mem_read(vm, gpa(MEMORY), back, 1), -EFAULT);
		engine_destroy(vm);
	}
}

static void test_bad_config(void **state)
{
	struct engine_config cfg = {.mmu = ENGINE_NATIVE};
	struct engine_vm *vm = NULL;
	struct error err;

	(void)state;
	cpu_config_default(&cfg.cpu);
	assert_int_equal(engine_create(&vm, &cfg, &err), -EINVAL);
	cfg.memory = 4097;
	assert_int_equal(engine_create(&vm, &cfg, &err), -EINVAL);
	cfg.memory = 1ull << 50;
	assert_int_equal(engine_create(&vm, &cfg, &err), -EINVAL);
	assert_null(vm);
}

static void test_ram_layout(void **state)
{
	struct machmem_range r[2];

	(void)state;
	assert_int_equal(engine_ram_layout(SIZE_1G, r), 1);
	assert_int_equal(r[0].bytes, SIZE_1G);
	assert_int_equal(engine_ram_layout(3 * SIZE_1G, r), 1);
	assert_int_equal(engine_ram_layout(4 * SIZE_1G, r), 2);
	assert_int_equal(r[0].bytes, 3 * SIZE_1G);
	assert_int_equal(r[1].base, 4 * SIZE_1G);
	assert_int_equal(r[1].bytes, SIZE_1G);
}

/* Pages are numbered without the hole. */
static void test_pages(void **state)
{
	struct engine_config cfg = {.mmu = ENGINE_NATIVE, .memory = 5ull << 30};
	struct engine_vm *vm;
	struct error err = {0};
	const uint64_t below = (3ull << 30) >> PAGE_SHIFT;

	(void)state;
	cpu_config_default(&cfg.cpu);
	assert_int_equal(engine_create(&vm, &cfg, &err), 0);
	assert_int_equal(engine_pages(vm), (5ull << 30) >> PAGE_SHIFT);
	assert_int_equal(engine_page_gpa(vm, 0).v, 0);
	assert_int_equal(engine_page_gpa(vm, below - 1).v, (3ull << 30) - PAGE_SIZE);
	assert_int_equal(engine_page_gpa(vm, below).v, 4ull << 30);
	assert_int_equal(engine_page_gpa(vm, engine_pages(vm) - 1).v, (6ull << 30) - PAGE_SIZE);
	assert_int_equal(engine_page_of(vm, gpa(0xfff)), 0);
	assert_int_equal(engine_page_of(vm, gpa((3ull << 30) - 1)), below - 1);
	assert_int_equal(engine_page_of(vm, gpa(3ull << 30)), UINT64_MAX);
	assert_int_equal(engine_page_of(vm, gpa((4ull << 30) - 1)), UINT64_MAX);
	assert_int_equal(engine_page_of(vm, gpa(4ull << 30)), below);
	assert_int_equal(engine_page_of(vm, gpa((6ull << 30) - 1)), engine_pages(vm) - 1);
	assert_int_equal(engine_page_of(vm, gpa(6ull << 30)), UINT64_MAX);
	assert_int_equal(engine_page_of(vm, gpa(~0ull)), UINT64_MAX);
	engine_destroy(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_everywhere), cmocka_unit_test(test_triple_fault),
		cmocka_unit_test(test_memory), cmocka_unit_test(test_bad_config), cmocka_unit_test(test_ram_layout),
		cmocka_unit_test(test_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
