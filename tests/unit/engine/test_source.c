/*
 * Memory that is not there yet: whoever touches an absent page finds what the source has, once, under every scheme;
 * pages that nobody touches are never asked for; and a source that fails ends the run before anything comes of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

#define MEMORY (8ull << 20)
#define PAGES  (MEMORY >> PAGE_SHIFT)
#define CODE   0x1000u
#define FIRST  0x100000u /* what the program reads: a dword of each of so many pages */
#define READS  32u
#define EXTRA  0x5a5a5a5a

struct origin {
	atomic_uint asked[PAGES];
	uint64_t fails; /* page whose contents are lost; UINT64_MAX: none */
};

/* sums a dword of each page: mov edx, READS; mov ebx, FIRST; xor eax, eax; l: add eax, [ebx]; inc dword [ebx+4];
 * add ebx, 0x1000; dec edx; jnz l; hlt */
static const uint8_t program[] = {
	0xba, READS, 0, 0, 0, 0xbb, 0x00, 0x00, 0x10, 0x00, 0x31, 0xc0, 0x03, 0x03, 0xff, 0x43, 0x04,
	0x81, 0xc3, 0x00, 0x10, 0x00, 0x00, 0x4a, 0x75, 0xf2, 0xf4,
};

static int fetch(void *ctx, uint64_t page, uint8_t data[PAGE_SIZE])
{
	struct origin *o = ctx;

	atomic_fetch_add(&o->asked[page], 1);
	if (page == o->fails)
		return -EIO;
	if (page == CODE >> PAGE_SHIFT) {
		memcpy(data, program, sizeof(program));
		return 0;
	}
	put_u32(data, (uint32_t)page);
	put_u32(data + PAGE_SIZE - 4, EXTRA);
	return 0;
}

static struct seg flat(uint16_t sel, uint32_t type)
{
	return (struct seg){.sel = sel, .attr = SEG_AR_G | SEG_AR_DB | SEG_AR_P | SEG_AR_S | type, .limit = 0xffffffff};
}

static struct engine_vm *make(enum engine_mmu mmu, enum host_pages host, struct origin *o)
{
	struct engine_config cfg = {.mmu = mmu, .memory = MEMORY, .host_pages = host, .audit = true};
	const struct engine_source source = {.fetch = fetch, .ctx = o};
	uint64_t absent[PAGES / 64];
	struct engine_sregs s;
	struct engine_regs r;
	struct engine_vm *vm;
	struct error err;

	cpu_config_default(&cfg.cpu);
	assert_int_equal(engine_create(&vm, &cfg, &err), 0);
	memset(absent, 0, sizeof(absent));
	for (uint64_t p = 0; p < PAGES; p++) /* pages of FIRST's row that are even, and the program */
		if (p == CODE >> PAGE_SHIFT || (p >= FIRST >> PAGE_SHIFT && !(p & 1)))
			absent[p / 64] |= 1ull << p % 64;
	assert_int_equal(engine_set_source(vm, &source, absent, &err), 0);
	engine_get_sregs(vm, &s);
	s.tr = (struct seg){.attr = SEG_AR_P | 11, .limit = 0x67};
	s.ldt = (struct seg){.attr = SEG_AR_UNUSABLE};
	s.cr0 = CR0_PE | CR0_ET | CR0_NE;
	s.seg[SEG_CS] = flat(0x08, 0xb);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		if (i != SEG_CS)
			s.seg[i] = flat(0x10, 0x3);
	engine_set_sregs(vm, &s);
	engine_get_regs(vm, &r);
	r.rip = CODE;
	r.rflags = RF_ONE;
	engine_set_regs(vm, &r);
	return vm;
}

static enum engine_exit run(struct engine_vm *vm)
{
	struct engine_run run = {.deadline_ns = UINT64_MAX, .insn_limit = 100000};

	engine_run(vm, &run);
	return run.exit;
}

static void sums_what_the_source_has(enum engine_mmu mmu, enum host_pages host, bool exact)
{
	struct origin *o = calloc(1, sizeof(*o));
	struct engine_vm *vm;
	struct engine_regs r;
	uint32_t sum = 0, v;
	uint8_t page[PAGE_SIZE];

	o->fails = UINT64_MAX;
	vm = make(mmu, host, o);
	assert_int_equal(engine_page_read(vm, 1024, page), 1); /* from beside */
	assert_int_equal(get_u32(page), 1024);
	assert_int_equal(run(vm), ENGINE_EXIT_HLT);
	for (uint32_t i = 0; i < READS; i += 2)
		sum += (FIRST >> PAGE_SHIFT) + i;
	engine_get_regs(vm, &r);
	assert_int_equal(r.gpr[RAX], sum);
	for (uint64_t p = 0; exact && p < PAGES; p++) /* once, and only what was touched */
		assert_int_equal(o->asked[p], p == 1024 || p == CODE >> PAGE_SHIFT ||
				 (p >= FIRST >> PAGE_SHIFT && p < (FIRST >> PAGE_SHIFT) + READS && !(p & 1)));
	assert_int_equal(engine_mem_read(vm, gpa(FIRST + 4), &v, 4), 0); /* what the guest wrote stays */
	assert_int_equal(v, 1);
	assert_int_equal(engine_mem_read(vm, gpa(MEMORY - 2 * PAGE_SIZE), &v, 4), 0);
	assert_int_equal(v, PAGES - 2);
	assert_int_equal(engine_dma_release(vm, gpa(MEMORY - 4 * PAGE_SIZE), PAGE_SIZE), 0);
	assert_int_equal(engine_mem_read(vm, gpa(MEMORY - 4 * PAGE_SIZE), &v, 4), 0);
	assert_int_equal(v, 0);
	for (uint64_t p = 0; p < PAGES; p++)
		assert_true(o->asked[p] <= (p == 1024 ? 2u : 1u));
	engine_destroy(vm);
	free(o);
}

static void every_scheme(void **state)
{
	(void)state;
	for (unsigned m = 0; m < ENGINE_MMU_COUNT; m++)
		sums_what_the_source_has(m, HOST_PAGES_4K, !engine_mmu_is_bare(m)); /* native brings neighbours along */
	sums_what_the_source_has(ENGINE_EPT, HOST_PAGES_2M, false);
	sums_what_the_source_has(ENGINE_SHADOW, HOST_PAGES_2M, false);
}

static void a_lost_page_ends_the_run(void **state)
{
	(void)state;
	for (unsigned m = 0; m < ENGINE_MMU_COUNT; m++) {
		struct origin *o = calloc(1, sizeof(*o));
		struct engine_vm *vm;

		o->fails = (FIRST >> PAGE_SHIFT) + 8;
		vm = make(m, HOST_PAGES_4K, o);
		assert_int_equal(run(vm), ENGINE_EXIT_FAIL);
		assert_int_equal(run(vm), ENGINE_EXIT_FAIL);
		engine_destroy(vm);
		free(o);
	}
}

static void a_touched_page_is_no_absent_one(void **state)
{
	(void)state;
	const struct engine_source source = {.fetch = fetch};
	struct engine_config cfg = {.mmu = ENGINE_EPT, .memory = MEMORY};
	uint64_t absent[PAGES / 64] = {2};
	struct engine_vm *vm;
	struct error err;

	cpu_config_default(&cfg.cpu);
	assert_int_equal(engine_create(&vm, &cfg, &err), 0);
	assert_int_equal(engine_mem_write(vm, gpa(CODE), program, sizeof(program)), 0);
	assert_int_equal(engine_set_source(vm, &source, absent, &err), -EEXIST);
	engine_destroy(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_scheme),
		cmocka_unit_test(a_lost_page_ends_the_run),
		cmocka_unit_test(a_touched_page_is_no_absent_one),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
