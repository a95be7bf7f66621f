/*
 * A snapshot holds what pages had when it began, whatever the guest and devices write while it is read, also if there is
 * hardly any room for copies; and the guest ends as it does without one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

#define MEMORY (8ull << 20)
#define PAGES  (MEMORY >> PAGE_SHIFT)
#define CODE   0x1000u
#define FIRST  0x200000u
#define TURN   0x80000u /* bytes that the program goes through */

/* again: mov ebx, FIRST; l: inc dword [ebx]; add ebx, 0x1000; cmp ebx, FIRST + TURN; jb l; jmp again */
static const uint8_t program[] = {
	0xbb, 0x00, 0x00, 0x20, 0x00, 0xff, 0x03, 0x81, 0xc3, 0x00, 0x10, 0x00, 0x00,
	0x81, 0xfb, 0x00, 0x00, 0x28, 0x00, 0x72, 0xf0, 0xeb, 0xe9,
};

static struct seg flat(uint16_t sel, uint32_t type)
{
	return (struct seg){.sel = sel, .attr = SEG_AR_G | SEG_AR_DB | SEG_AR_P | SEG_AR_S | type, .limit = 0xffffffff};
}

static struct engine_vm *make(enum engine_mmu mmu)
{
	struct engine_config cfg = {.mmu = mmu, .memory = MEMORY};
	struct engine_sregs s;
	struct engine_regs r = {.rip = CODE, .rflags = RF_ONE};
	struct engine_vm *vm;
	struct error err;

	cpu_config_default(&cfg.cpu);
	assert_int_equal(engine_create(&vm, &cfg, &err), 0);
	assert_int_equal(engine_mem_write(vm, gpa(CODE), program, sizeof(program)), 0);
	engine_get_sregs(vm, &s);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s.seg[i] = flat(0x10, 3);
	s.seg[SEG_CS] = flat(8, 11);
	s.tr = (struct seg){.attr = SEG_AR_P | 11, .limit = 0x67};
	s.ldt = (struct seg){.attr = SEG_AR_UNUSABLE};
	s.cr0 = CR0_PE | CR0_ET | CR0_NE;
	engine_set_sregs(vm, &s);
	engine_set_regs(vm, &r);
	return vm;
}

static void run_to(struct engine_vm *vm, uint64_t insns)
{
	struct engine_run run = {.deadline_ns = UINT64_MAX, .insn_limit = insns};

	engine_run(vm, &run);
	assert_int_equal(run.exit, ENGINE_EXIT_LIMIT);
}

struct runner {
	struct engine_vm *vm;
	uint64_t to;
};

static void *run_on(void *arg)
{
	struct runner *r = arg;

	run_to(r->vm, r->to);
	return NULL;
}

/* Reads all of a snapshot. Returns how many pages came. */
static unsigned read_all(struct engine_snapshot *s, uint8_t (*into)[PAGE_SIZE], uint8_t *seen)
{
	unsigned n = 0;
	uint64_t page;
	int r;

	for (;; n++) {
		uint8_t data[PAGE_SIZE];

		r = engine_snapshot_next(s, &page, data);
		if (r == 0)
			return n;
		assert_true(r == 1 || r == 2);
		assert_true(page < PAGES);
		assert_int_equal(seen[page]++, 0);
		if (r == 2)
			memset(into[page], 0, PAGE_SIZE);
		else
			memcpy(into[page], data, PAGE_SIZE);
	}
}

static void snapshot_under(enum engine_mmu mmu, uint64_t room, struct engine_hash *hash)
{
	uint8_t (*before)[PAGE_SIZE] = calloc(PAGES, PAGE_SIZE), (*came)[PAGE_SIZE] = calloc(PAGES, PAGE_SIZE);
	uint8_t *seen = calloc(PAGES, 1), one[4] = {1};
	uint64_t pages[PAGES / 64];
	struct engine_vm *vm = make(mmu);
	struct engine_snapshot *s, *other;
	struct runner runner = {vm, 60000};
	pthread_t thread;
	struct error err;

	run_to(vm, 10001);
	for (uint64_t p = 0; p < PAGES; p++)
		assert_int_equal(engine_mem_read(vm, gpa(p << PAGE_SHIFT), before[p], PAGE_SIZE), 0);
	memset(pages, 0xff, sizeof(pages));
	pages[0] &= ~4ull; /* page 2 is not asked for */
	assert_int_equal(engine_snapshot_begin(vm, pages, room, &s, &err), 0);
	assert_int_equal(engine_snapshot_begin(vm, pages, room, &other, &err), -EBUSY);
	assert_int_equal(pthread_create(&thread, NULL, run_on, &runner), 0);
	assert_int_equal(read_all(s, came, seen), PAGES - 1);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(engine_snapshot_next(s, &(uint64_t){0}, came[2]), 0);
	engine_snapshot_end(s);
	for (uint64_t p = 0; p < PAGES; p++)
		if (p != 2)
			assert_memory_equal(came[p], before[p], PAGE_SIZE);
	/* Devices write and give memory back; and one that is ended early. */
	memset(pages, 0, sizeof(pages));
	pages[FIRST >> PAGE_SHIFT >> 6] = 7;
	assert_int_equal(engine_mem_read(vm, gpa(FIRST), before[0], PAGE_SIZE), 0);
	assert_int_equal(engine_mem_read(vm, gpa(FIRST + PAGE_SIZE), before[1], PAGE_SIZE), 0);
	assert_int_equal(engine_snapshot_begin(vm, pages, 1 << 20, &s, &err), 0);
	assert_int_equal(engine_dma_write(vm, gpa(FIRST + 64), one, sizeof(one)), 0);
	assert_int_equal(engine_dma_release(vm, gpa(FIRST + PAGE_SIZE), PAGE_SIZE), 0);
	memset(seen, 0, PAGES);
	assert_int_equal(read_all(s, came, seen), 3);
	assert_memory_equal(came[FIRST >> PAGE_SHIFT], before[0], PAGE_SIZE);
	assert_memory_equal(came[(FIRST >> PAGE_SHIFT) + 1], before[1], PAGE_SIZE);
	engine_snapshot_end(s);
	assert_int_equal(engine_snapshot_begin(vm, pages, 1 << 20, &s, &err), 0);
	engine_snapshot_end(s);
	run_to(vm, 70000);
	engine_state_hash(vm, hash);
	engine_destroy(vm);
	free(before);
	free(came);
	free(seen);
}

static void every_scheme(void **state)
{
	struct engine_hash first = {0}, hash;

	(void)state;
	for (unsigned m = 0; m < ENGINE_MMU_COUNT; m++) {
		if (engine_mmu_is_bare(m))
			continue;
		for (unsigned room = 1; room <= 1 << 20; room <<= 10) {
			snapshot_under(m, room, &hash);
			if (!first.all[0])
				first = hash;
			assert_memory_equal(&hash, &first, sizeof(hash));
		}
	}
}

static void the_bare_machine_has_none(void **state)
{
	struct engine_vm *vm = make(ENGINE_NATIVE);
	uint64_t pages[PAGES / 64] = {1};
	struct engine_snapshot *s;
	struct error err;

	(void)state;
	assert_int_equal(engine_snapshot_begin(vm, pages, 1, &s, &err), -ENOTSUP);
	engine_destroy(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_scheme),
		cmocka_unit_test(the_bare_machine_has_none),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
