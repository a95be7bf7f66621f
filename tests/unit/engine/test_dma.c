/*
 * A device writes guest memory: code that was decoded or translated, page tables that a scheme has shadowed, is in
 * the middle of shadowing, or lets be out of sync. After the guest's INVLPG everything is as in memory, under every
 * scheme, and all end in the same state.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "engine/engine.h"

#define MEMORY    (8ull << 20)
#define CODE      0x1000u
#define DIRECTORY 0x10000u
#define TABLE     0x11000u /* the first 4 MiB */
#define OTHER     0x12000u /* the same, but for LINEAR */
#define LINEAR    0x300000u
#define FRAME(n)  (0x20000u + 0x1000u * (n)) /* each begins with its number */
#define PTE       0x67u /* accessed and dirty, too: when the processor sets those is its own business */

static const uint8_t program[] = {
	0xa1, 0x00, 0x00, 0x30, 0x00,             /* mov eax, [LINEAR] */
	0x0f, 0x01, 0x3d, 0x00, 0x00, 0x30, 0x00, /* invlpg [LINEAR] */
	0x89, 0x15, 0xfc, 0x1f, 0x01, 0x00,       /* mov [TABLE + 0xffc], edx */
	0xbb, 0x00, 0x00, 0x00, 0x00,             /* mov ebx, 0 */
	0xeb, 0xe7,                               /* jmp program */
};
#define INSNS     5u  /* in a turn of the loop */
#define IMMEDIATE (CODE + 19)

static void dma32(struct engine_vm *vm, uint64_t a, uint32_t v)
{
	uint8_t b[4];

	put_u32(b, v);
	assert_int_equal(engine_dma_write(vm, gpa(a), b, sizeof(b)), 0);
}

static void make_tables(struct engine_vm *vm)
{
	for (uint32_t i = 0; i < 1024; i++) {
		dma32(vm, TABLE + 4 * i, i << 12 | PTE);
		dma32(vm, OTHER + 4 * i, i << 12 | PTE);
	}
	for (uint32_t n = 1; n < 8; n++)
		dma32(vm, FRAME(n), n);
	dma32(vm, TABLE + 4 * (LINEAR >> 12), FRAME(1) | PTE);
	dma32(vm, OTHER + 4 * (LINEAR >> 12), FRAME(2) | PTE);
	dma32(vm, DIRECTORY, TABLE | PTE);
}

static struct seg flat(uint16_t sel, uint32_t type)
{
	return (struct seg){.sel = sel, .attr = SEG_AR_G | SEG_AR_DB | SEG_AR_P | SEG_AR_S | type, .limit = 0xffffffff};
}

static void set_registers(struct engine_vm *vm)
{
	struct engine_regs r = {.rip = CODE, .rflags = RF_ONE};
	struct engine_sregs s;

	engine_get_sregs(vm, &s);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s.seg[i] = flat(0x10, 3);
	s.seg[SEG_CS] = flat(8, 11);
	s.tr = (struct seg){.sel = 0, .attr = SEG_AR_P | 11, .limit = 0x67};
	s.ldt = (struct seg){.attr = SEG_AR_UNUSABLE};
	s.cr3 = DIRECTORY;
	s.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG | CR0_WP;
	engine_set_sregs(vm, &s);
	engine_set_regs(vm, &r);
}

/* Runs @insns more, then finishes two turns of the loop: the guest has flushed and loaded again. */
static void turns(struct engine_vm *vm, uint64_t insns)
{
	uint64_t until = engine_insns(vm) + insns + 2 * INSNS;
	struct engine_run run = {.deadline_ns = UINT64_MAX, .insn_limit = until + (INSNS - until % INSNS) % INSNS};

	engine_run(vm, &run);
	assert_int_equal(run.exit, ENGINE_EXIT_LIMIT);
}

static void step(struct engine_vm *vm, uint64_t insns)
{
	struct engine_run run = {.deadline_ns = UINT64_MAX, .insn_limit = engine_insns(vm) + insns};

	engine_run(vm, &run);
	assert_int_equal(run.exit, ENGINE_EXIT_LIMIT);
}

static void expect(struct engine_vm *vm, uint64_t eax, uint64_t ebx)
{
	struct engine_regs r;

	engine_get_regs(vm, &r);
	assert_int_equal(r.gpr[RAX], eax);
	assert_int_equal(r.gpr[RBX], ebx);
}

static void run_one(const struct engine_config *cfg, struct engine_hash *hash)
{
	struct engine_vm *vm;
	struct error err;

	assert_int_equal(engine_create(&vm, cfg, &err), 0);
	assert_int_equal(engine_dma_write(vm, gpa(CODE), program, sizeof(program)), 0);
	make_tables(vm);
	set_registers(vm);
	turns(vm, 500);
	expect(vm, 1, 0);
	/* At every place of the loop: code, an entry of the table in use, of the directory. */
	for (unsigned at = 0; at < INSNS; at++) {
		step(vm, at);
		dma32(vm, IMMEDIATE, 0x100 + at);
		turns(vm, 0);
		expect(vm, 1, 0x100 + at);
		step(vm, at);
		dma32(vm, TABLE + 4 * (LINEAR >> 12), FRAME(3 + at % 4) | PTE);
		turns(vm, 300);
		expect(vm, 3 + at % 4, 0x100 + at);
		step(vm, at);
		dma32(vm, DIRECTORY, OTHER | PTE);
		turns(vm, 0);
		expect(vm, 2, 0x100 + at);
		step(vm, at);
		dma32(vm, OTHER + 4 * (LINEAR >> 12), FRAME(7) | PTE);
		turns(vm, 0);
		expect(vm, 7, 0x100 + at);
		dma32(vm, OTHER + 4 * (LINEAR >> 12), FRAME(2) | PTE);
		dma32(vm, TABLE + 4 * (LINEAR >> 12), FRAME(1) | PTE);
		dma32(vm, DIRECTORY, TABLE | PTE);
		turns(vm, 0);
		expect(vm, 1, 0x100 + at);
	}
	/* The whole table at once. */
	{
		static uint8_t page[PAGE_SIZE];

		assert_int_equal(engine_dma_read(vm, gpa(TABLE), page, sizeof(page)), 0);
		put_u32(page + 4 * (LINEAR >> 12), FRAME(5) | PTE);
		assert_int_equal(engine_dma_write(vm, gpa(TABLE), page, sizeof(page)), 0);
		turns(vm, 0);
		expect(vm, 5, 0x104);
	}
	engine_state_hash(vm, hash);
	engine_destroy(vm);
}

static void tables_and_code(void **state)
{
	struct engine_config cfg = {.memory = MEMORY, .audit = true};
	struct engine_hash first, hash;

	(void)state;
	cpu_config_default(&cfg.cpu);
	run_one(&cfg, &first);
	for (unsigned variant = 0; variant < 16; variant++) {
		cfg.mmu = (enum engine_mmu)(variant % ENGINE_MMU_COUNT);
		cfg.shadow_sync_always = variant & 4;
		cfg.cpu.translate = variant & 8;
		run_one(&cfg, &hash);
		assert_memory_equal(&hash, &first, sizeof(first));
	}
}

static void whole_ranges_only(void **state)
{
	(void)state;
	for (enum engine_mmu mmu = ENGINE_NATIVE; mmu < ENGINE_MMU_COUNT; mmu++) {
		struct engine_config cfg = {.memory = MEMORY, .mmu = mmu};
		uint8_t buf[64] = {1, 2, 3}, back[64] = {0};
		struct engine_vm *vm;
		struct error err;

		cpu_config_default(&cfg.cpu);
		assert_int_equal(engine_create(&vm, &cfg, &err), 0);
		assert_true(engine_dma_is_ram(vm, gpa(0), MEMORY));
		assert_false(engine_dma_is_ram(vm, gpa(1), MEMORY));
		assert_false(engine_dma_is_ram(vm, gpa(~0ull), 2));
		assert_true(engine_dma_is_ram(vm, gpa(~0ull), 0));
		assert_int_equal(engine_dma_write(vm, gpa(MEMORY - 32), buf, 64), -EFAULT);
		assert_int_equal(engine_dma_read(vm, gpa(MEMORY - 32), back, 32), 0);
		assert_int_equal(back[0], 0); /* nothing of it was written */
		assert_int_equal(engine_dma_write(vm, gpa(0x4ff0), buf, 64), 0);
		assert_int_equal(engine_dma_read(vm, gpa(0x4ff0), back, 64), 0);
		assert_memory_equal(buf, back, 64);
		assert_int_equal(engine_dma_read(vm, gpa(MEMORY), back, 1), -EFAULT);
		engine_destroy(vm);
	}
}

static void released_pages_are_zeros(void **state)
{
	(void)state;
	for (enum engine_mmu mmu = ENGINE_NATIVE; mmu < ENGINE_MMU_COUNT; mmu++) {
		struct engine_config cfg = {.memory = MEMORY, .mmu = mmu};
		struct engine_vm *vm;
		struct error err;
		uint32_t v;

		cpu_config_default(&cfg.cpu);
		assert_int_equal(engine_create(&vm, &cfg, &err), 0);
		for (uint32_t a = 0x5ffc; a <= 0x9000; a += 4)
			dma32(vm, a, a);
		assert_int_equal(engine_dma_release(vm, gpa(0x5ffc), 0x3004), 0); /* to 0x9000 */
		for (uint32_t a = 0x5ffc; a <= 0x9000; a += 4) {
			assert_int_equal(engine_dma_read(vm, gpa(a), &v, 4), 0);
			assert_int_equal(v, a >= 0x6000 && a < 0x9000 ? 0 : a);
		}
		assert_int_equal(engine_dma_release(vm, gpa(MEMORY - PAGE_SIZE), 2 * PAGE_SIZE), -EFAULT);
		engine_destroy(vm);
	}
}

struct witness { unsigned reads[2], writes[2]; uint64_t offset; unsigned bytes; };

static void saw(void *ctx, bool device, uint64_t offset, unsigned bytes, bool write)
{
	struct witness *w = ctx;

	(write ? w->writes : w->reads)[device]++;
	w->offset = offset;
	w->bytes = bytes;
}

/* Every access of the program and of a device to a page is seen, under every scheme; of a range, the part in the page. */
static void accesses_are_watched(void **state)
{
	(void)state;
	for (enum engine_mmu mmu = ENGINE_NATIVE; mmu < ENGINE_MMU_COUNT; mmu++) {
		struct engine_config cfg = {.memory = MEMORY, .mmu = mmu};
		struct witness w = {.bytes = 0};
		const struct engine_watch watch = {.page = gpa(FRAME(1)), .seen = saw, .ctx = &w};
		const struct engine_watch odd = {.page = gpa(FRAME(1) + 64), .seen = saw};
		const struct engine_watch outside = {.page = gpa(MEMORY), .seen = saw};
		struct engine_vm *vm;
		struct error err;
		uint8_t buf[64];

		cpu_config_default(&cfg.cpu);
		assert_int_equal(engine_create(&vm, &cfg, &err), 0);
		assert_int_equal(engine_watch_page(vm, &watch), -EINVAL); /* the processor's accesses would not be seen */
		engine_destroy(vm);
		cfg.cpu.data_cache = true;
		assert_int_equal(engine_create(&vm, &cfg, &err), 0);
		assert_int_equal(engine_mem_write(vm, gpa(CODE), program, sizeof(program)), 0);
		make_tables(vm);
		set_registers(vm);
		assert_int_equal(engine_watch_page(vm, &watch), 0);
		assert_int_equal(engine_watch_page(vm, &odd), -EFAULT);
		assert_int_equal(engine_watch_page(vm, &outside), -EFAULT);
		step(vm, 10 * INSNS); /* a read of the first word in each turn */
		assert_int_equal(w.reads[false], 10);
		assert_int_equal(w.offset, 0);
		assert_int_equal(w.bytes, 4);
		assert_int_equal(engine_dma_read(vm, gpa(FRAME(1) - 16), buf, 64), 0);
		assert_int_equal(w.bytes, 48);
		assert_int_equal(engine_dma_write(vm, gpa(FRAME(2) - 16), buf, 64), 0);
		assert_int_equal(w.offset, PAGE_SIZE - 16);
		assert_int_equal(w.bytes, 16);
		assert_int_equal(engine_dma_write(vm, gpa(FRAME(2)), buf, 64), 0);
		assert_int_equal(engine_dma_read(vm, gpa(FRAME(1)), buf, UINT64_MAX), -EFAULT);
		engine_watch_page(vm, NULL);
		step(vm, INSNS);
		dma32(vm, FRAME(1), 1);
		assert_int_equal(w.reads[false] + w.writes[false], 10);
		assert_int_equal(w.reads[true], 1);
		assert_int_equal(w.writes[true], 1);
		engine_destroy(vm);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tables_and_code), cmocka_unit_test(whole_ranges_only),
		cmocka_unit_test(released_pages_are_zeros), cmocka_unit_test(accesses_are_watched),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
