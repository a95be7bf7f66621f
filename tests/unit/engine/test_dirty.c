/*
 * Trackers behind the seam: what they say of writes by the guest, the VM's owner, a device and a balloon; that arming
 * and disarming leaves nothing behind; several VMs; what cannot be. Whole guests are in tests/boot/dirty.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "arch/vmx.h"
#include "engine/engine.h"

#define MEMORY (8ull << 20)
#define PAGES  (MEMORY >> PAGE_SHIFT)
#define CODE   0x1000u

/* Writes page 0x300, reads page 0x301, writes what is there in page 0x302; pages follow by 4. Endless. */
static const uint8_t program[] = {
	0xbb, 0x00, 0x00, 0x30, 0x00,       /* mov ebx, 0x300000 */
	0x89, 0x03,                         /* again: mov [ebx], eax */
	0x8b, 0x8b, 0x00, 0x10, 0x00, 0x00, /* mov ecx, [ebx + 0x1000] */
	0x8b, 0x93, 0x00, 0x20, 0x00, 0x00, /* mov edx, [ebx + 0x2000] */
	0x89, 0x93, 0x00, 0x20, 0x00, 0x00, /* mov [ebx + 0x2000], edx */
	0x81, 0xc3, 0x00, 0x40, 0x00, 0x00, /* add ebx, 0x4000 */
	0xeb, 0xe4,                         /* jmp again */
};
#define TURN  6u /* instructions */
#define FIRST 0x300u

static struct seg flat(uint16_t sel, uint32_t type)
{
	return (struct seg){.sel = sel, .attr = SEG_AR_G | SEG_AR_DB | SEG_AR_P | SEG_AR_S | type, .limit = 0xffffffff};
}

static void load(struct engine_vm *vm)
{
	struct engine_sregs s;
	struct engine_regs r = {.rip = CODE, .rflags = 2};

	assert_int_equal(engine_mem_write(vm, gpa(CODE), program, sizeof(program)), 0);
	engine_get_sregs(vm, &s);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s.seg[i] = flat(i == SEG_CS ? 8 : 16, i == SEG_CS ? SEG_AR_CODE | SEG_AR_RW | SEG_AR_A : SEG_AR_RW | SEG_AR_A);
	s.cr0 |= CR0_PE;
	engine_set_sregs(vm, &s);
	engine_set_regs(vm, &r);
}

static struct engine_config config(enum engine_mmu mmu, enum host_pages pages)
{
	struct engine_config cfg = {.mmu = mmu, .memory = MEMORY, .host_pages = pages, .audit = true};

	cpu_config_default(&cfg.cpu);
	return cfg;
}

static struct engine_vm *make(enum engine_mmu mmu, enum host_pages pages)
{
	struct engine_config cfg = config(mmu, pages);
	struct engine_vm *vm;
	struct error err = {0};

	assert_int_equal(engine_create(&vm, &cfg, &err), 0);
	load(vm);
	return vm;
}

/* So many turns of the loop. */
static void run(struct engine_vm *vm, unsigned turns)
{
	struct engine_run r = {.deadline_ns = UINT64_MAX, .insn_limit = engine_insns(vm) + TURN * turns};

	if (!engine_insns(vm))
		r.insn_limit++;
	engine_run(vm, &r);
	if (r.exit == ENGINE_EXIT_FAIL)
		fail_msg("%s", r.fail.text);
	assert_int_equal(r.exit, ENGINE_EXIT_LIMIT);
}

static bool in(const uint64_t *map, uint64_t page) { return map[page / 64] >> page % 64 & 1; }

static unsigned count(const uint64_t *map)
{
	unsigned n = 0;

	for (unsigned i = 0; i < PAGES / 64; i++)
		n += (unsigned)__builtin_popcountll(map[i]);
	return n;
}

static void collect(struct engine_vm *vm, uint64_t map[PAGES / 64])
{
	memset(map, 0, PAGES / 8);
	assert_int_equal(engine_dirty_collect(vm, map), 0);
}

/* @first: turns of the loop before */
static void expect_turns(const uint64_t *map, unsigned first, unsigned turns, unsigned others)
{
	for (unsigned i = first; i < first + turns; i++) {
		assert_true(in(map, FIRST + 4 * i));
		assert_false(in(map, FIRST + 4 * i + 1));
		assert_true(in(map, FIRST + 4 * i + 2));
	}
	assert_int_equal(count(map), 2 * turns + others);
}

#define FOR_ALL(mmu, how)                                                                   \
	for (enum engine_mmu mmu = 0; mmu < ENGINE_MMU_COUNT; mmu++)                         \
		for (enum engine_dirty how = 0; how < ENGINE_DIRTY_COUNT; how++)             \
			for (enum host_pages pages = 0; engine_dirty_possible(mmu, how) && pages <= HOST_PAGES_2M; pages++)

static void test_guest_writes(void **state)
{
	uint64_t map[PAGES / 64];
	struct error err = {0};

	(void)state;
	FOR_ALL(mmu, how) {
		struct engine_vm *vm = make(mmu, pages);

		run(vm, 3);
		assert_int_equal(engine_dirty_arm(vm, how, &err), 0);
		collect(vm, map);
		assert_int_equal(count(map), 0);
		run(vm, 5);
		collect(vm, map);
		expect_turns(map, 3, 5, 0);
		collect(vm, map);
		assert_int_equal(count(map), 0);
		load(vm); /* the same pages again: they are in the TLB, and writable or dirty if somebody forgot something */
		collect(vm, map);
		run(vm, 8);
		assert_int_equal(engine_dirty_collect(vm, map), 0); /* adds */
		assert_true(in(map, CODE >> PAGE_SHIFT));
		expect_turns(map, 0, 8, 1);
		engine_destroy(vm);
	}
}

/* The pages of one interval are no news for the next, and are found again when they are written again. */
static void test_again(void **state)
{
	uint64_t map[PAGES / 64];
	struct engine_regs regs;
	struct error err = {0};

	(void)state;
	FOR_ALL(mmu, how) {
		struct engine_vm *vm = make(mmu, pages);

		assert_int_equal(engine_dirty_arm(vm, how, &err), 0);
		engine_get_regs(vm, &regs);
		for (unsigned i = 0; i < 4; i++) {
			run(vm, i ? 4 : 3);
			collect(vm, map);
			expect_turns(map, 0, i ? 4 : 3, 0);
			engine_get_regs(vm, &regs);
			regs.gpr[RBX] = FIRST << PAGE_SHIFT;
			engine_set_regs(vm, &regs);
		}
		engine_destroy(vm);
	}
}

static void test_other_writers(void **state)
{
	const uint8_t bytes[2] = {1, 2};
	uint64_t map[PAGES / 64];
	struct error err = {0};

	(void)state;
	FOR_ALL(mmu, how) {
		struct engine_vm *vm = make(mmu, pages);

		run(vm, 1);
		engine_mem_write(vm, gpa(0x700000), bytes, 1);
		assert_int_equal(engine_dirty_arm(vm, how, &err), 0);
		assert_int_equal(engine_mem_write(vm, gpa(0x5fff), bytes, 2), 0); /* two pages */
		assert_int_equal(engine_dma_write(vm, gpa(MEMORY - 1), bytes, 1), 0);
		assert_int_equal(engine_dma_read(vm, gpa(0x9000), map, 8), 0);
		assert_int_equal(engine_dma_release(vm, gpa(0x700000), PAGE_SIZE), 0);
		collect(vm, map);
		assert_true(in(map, 5) && in(map, 6) && in(map, PAGES - 1) && in(map, 0x700));
		assert_int_equal(count(map), 4);
		run(vm, 2); /* what they wrote may be written by the guest without a further word; it is still found */
		assert_int_equal(engine_dma_write(vm, gpa((FIRST + 4) << PAGE_SHIFT), bytes, 1), 0);
		collect(vm, map);
		expect_turns(map, 1, 2, 0);
		engine_destroy(vm);
	}
}

static void test_accessed(void **state)
{
	uint64_t map[PAGES / 64];
	struct error err = {0};

	(void)state;
	FOR_ALL(mmu, how) {
		struct engine_vm *vm = make(mmu, pages);
		bool knows = how == ENGINE_DIRTY_PRESENT || how == ENGINE_DIRTY_AD;

		assert_int_equal(engine_accessed_collect(vm, map), -EINVAL);
		assert_int_equal(engine_dirty_arm(vm, how, &err), 0);
		run(vm, 3);
		memset(map, 0, sizeof(map));
		assert_int_equal(engine_accessed_collect(vm, map), knows ? 0 : -EINVAL);
		for (unsigned i = 0; knows && i < 3; i++)
			assert_true(in(map, FIRST + 4 * i) && in(map, FIRST + 4 * i + 1) && in(map, FIRST + 4 * i + 2));
		if (knows)
			assert_int_equal(count(map), 9 + 1); /* and the code */
		collect(vm, map); /* what was written is known though the other was asked for first */
		expect_turns(map, 0, 3, 0);
		engine_destroy(vm);
	}
}

/* One tracker after the other; and when none is left, large pages are large again. */
static void test_come_and_go(void **state)
{
	uint64_t map[PAGES / 64];
	struct error err = {0};
	struct engine_hash want, got;
	struct engine_vm *vm;

	(void)state;
	for (enum engine_mmu mmu = ENGINE_BRUTE; mmu < ENGINE_MMU_COUNT; mmu++) {
		struct obs before, after;

		vm = make(mmu, HOST_PAGES_2M);
		run(vm, 40);
		engine_state_hash(vm, &want);
		engine_destroy(vm);
		vm = make(mmu, HOST_PAGES_2M);
		run(vm, 1);
		engine_observe(vm, &before);
		for (unsigned i = 0; i < 8; i++) {
			enum engine_dirty how = (enum engine_dirty)(i % ENGINE_DIRTY_COUNT);

			if (engine_dirty_possible(mmu, how))
				assert_int_equal(engine_dirty_arm(vm, how, &err), 0);
			run(vm, 4);
			if (engine_dirty_possible(mmu, how)) {
				collect(vm, map);
				expect_turns(map, 1 + 4 * i, 4, 0);
				run(vm, 0);
			}
			engine_dirty_disarm(vm);
		}
		run(vm, 7);
		engine_observe(vm, &after);
		/* Where registers of two hosts translate, the first table of their composition is made for the tracker. */
		if (engine_mmu_nests(mmu) && mmu != ENGINE_NESTED_PVDMT) {
			assert_int_equal(after.tables.ept_bytes, before.tables.ept_bytes);
			assert_true(after.tracking.splits);
		}
		engine_state_hash(vm, &got);
		assert_memory_equal(&got, &want, sizeof(got));
		engine_destroy(vm);
	}
}

/* The log fills up: 600 pages by a program that does nothing else. */
static void test_full_log(void **state)
{
	struct engine_vm *vm = make(ENGINE_EPT, HOST_PAGES_4K);
	uint64_t map[PAGES / 64];
	struct error err = {0};
	struct obs obs;

	(void)state;
	assert_int_equal(engine_dirty_arm(vm, ENGINE_DIRTY_PML, &err), 0);
	run(vm, 300);
	collect(vm, map);
	expect_turns(map, 0, 300, 0);
	collect(vm, map);
	load(vm);
	collect(vm, map);
	run(vm, 300);
	collect(vm, map);
	assert_int_equal(count(map), 600);
	engine_observe(vm, &obs);
	assert_int_equal(obs.tracking.logged, 1200);
	assert_int_equal(obs.exits.by_reason[EXIT_REASON_PML_FULL], 1); /* first there were other exits, to map the pages */
	engine_destroy(vm);
}

/* A walk made to show it, between two runs, sets a dirty flag: it is logged all the same. */
static void test_walk_between_runs(void **state)
{
	struct engine_vm *vm = make(ENGINE_EPT, HOST_PAGES_4K);
	uint64_t map[PAGES / 64];
	struct error err = {0};
	struct walk_log log;
	struct xlate x;

	(void)state;
	run(vm, 2);
	assert_int_equal(engine_dirty_arm(vm, ENGINE_DIRTY_PML, &err), 0);
	assert_int_equal(engine_walk(vm, gva(FIRST << PAGE_SHIFT), ACCESS_WRITE, MODE_SUPER, &x, &log), XLATE_OK);
	collect(vm, map);
	assert_int_equal(count(map), 1);
	assert_true(in(map, FIRST));
	engine_destroy(vm);
}

/* Each VM has its own tracker, and its own log. */
static void test_two_vms(void **state)
{
	struct engine_config cfg[2] = {config(ENGINE_EPT, HOST_PAGES_4K), config(ENGINE_EPT, HOST_PAGES_4K)};
	uint64_t map[PAGES / 64];
	struct engine_machine *machine;
	struct engine_vm *vm[3];
	struct error err = {0};

	(void)state;
	assert_int_equal(engine_machine_create(&machine, cfg, 2, &err), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(engine_create_on(machine, &vm[i], &cfg[i], &err), 0);
		load(vm[i]);
	}
	assert_int_equal(engine_dirty_arm(vm[0], ENGINE_DIRTY_PML, &err), 0);
	assert_int_equal(engine_dirty_arm(vm[1], ENGINE_DIRTY_PML, &err), 0);
	for (unsigned i = 0; i < 4; i++) {
		run(vm[0], 3);
		run(vm[1], 5);
	}
	collect(vm[0], map);
	expect_turns(map, 0, 12, 0);
	engine_dirty_disarm(vm[0]);
	run(vm[0], 1);
	collect(vm[1], map);
	expect_turns(map, 0, 20, 0);
	engine_destroy(vm[0]);
	run(vm[1], 1);
	collect(vm[1], map);
	expect_turns(map, 20, 1, 0);
	engine_destroy(vm[1]);
	engine_machine_destroy(machine);
}

static void test_cannot_be(void **state)
{
	uint64_t map[PAGES / 64] = {0};
	struct error err = {0};
	struct engine_vm *vm;

	(void)state;
	assert_false(engine_dirty_possible(ENGINE_SHADOW, ENGINE_DIRTY_PML));
	assert_false(engine_dirty_possible(ENGINE_BRUTE, ENGINE_DIRTY_PML));
	assert_false(engine_dirty_possible(ENGINE_MMU_COUNT, ENGINE_DIRTY_WP));
	for (enum engine_mmu mmu = 0; mmu < ENGINE_MMU_COUNT; mmu++) {
		vm = make(mmu, HOST_PAGES_4K);
		for (enum engine_dirty how = 0; how <= ENGINE_DIRTY_COUNT; how++)
			if (!engine_dirty_possible(mmu, how))
				assert_int_equal(engine_dirty_arm(vm, how, &err), -EINVAL);
		assert_int_equal(engine_dirty_collect(vm, map), -EINVAL);
		engine_dirty_disarm(vm);
		engine_destroy(vm);
	}
	vm = make(ENGINE_SHADOW, HOST_PAGES_4K);
	assert_int_equal(engine_dirty_arm(vm, ENGINE_DIRTY_WP, &err), 0);
	assert_int_equal(engine_dirty_arm(vm, ENGINE_DIRTY_AD, &err), -EINVAL);
	assert_non_null(strstr(err.text, "already"));
	engine_destroy(vm); /* armed */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_guest_writes), cmocka_unit_test(test_again), cmocka_unit_test(test_other_writers),
		cmocka_unit_test(test_accessed), cmocka_unit_test(test_come_and_go), cmocka_unit_test(test_full_log),
		cmocka_unit_test(test_walk_between_runs), cmocka_unit_test(test_two_vms), cmocka_unit_test(test_cannot_be),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
