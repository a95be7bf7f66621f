/* The run loop and the block cache: exact counts and stops, code that changes under its own feet. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cpu/block.h"
#include "cpu/cpu.h"

#define CODE 0x1000u

struct rig {
	struct machmem mem;
	struct cpu *cpu;
};

/* A processor in flat 32-bit protected mode without paging, about to execute at CODE. */
static int setup(void **state)
{
	static struct rig rig;
	struct machmem_range ram = {0, 4u << 20};
	struct cpu_config cfg;
	struct seg flat = {.sel = 0x10, .attr = 0xc093, .limit = 0xffffffff};

	cpu_config_default(&cfg);
	assert_int_equal(machmem_init(&rig.mem, &ram, 1, NULL), 0);
	assert_int_equal(cpu_create(&rig.cpu, &rig.mem, &cfg, NULL), 0);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		rig.cpu->seg[i] = flat;
	rig.cpu->seg[SEG_CS].attr = 0xc09b;
	rig.cpu->cr0 = CR0_PE | CR0_ET;
	rig.cpu->gpr[REG_RIP] = CODE;
	rig.cpu->gpr[RSP] = 0x8000;
	cpu_update_mode(rig.cpu);
	*state = &rig;
	return 0;
}

static int teardown(void **state)
{
	struct rig *rig = *state;

	cpu_destroy(rig->cpu);
	machmem_destroy(&rig->mem);
	return 0;
}

/* Writes code as a loader would: the processor is told. */
static void place(struct rig *rig, uint32_t at, const void *bytes, unsigned n)
{
	memcpy(machmem_ptr(&rig->mem, hpa(at)), bytes, n);
	for (unsigned i = 0; i < n; i++)
		blocks_note_write(rig->cpu, at + i, 1);
}

static void run_to_halt(struct rig *rig) { assert_int_equal(cpu_run(rig->cpu, UINT64_MAX), CPU_RUN_HALTED); }

static void restart(struct rig *rig)
{
	rig->cpu->halted = false;
	rig->cpu->gpr[REG_RIP] = CODE;
}

static void stops_at_the_exact_instruction(void **state)
{
	struct rig *rig = *state;
	uint8_t code[200];

	memset(code, 0x40, sizeof(code)); /* inc eax */
	place(rig, CODE, code, sizeof(code));
	for (uint64_t until = 1; until <= 150; until++) {
		assert_int_equal(cpu_run(rig->cpu, until), CPU_RUN_DEADLINE);
		assert_int_equal(rig->cpu->insns, until);
		assert_int_equal(rig->cpu->gpr[RAX], until);
		assert_int_equal(rig->cpu->gpr[REG_RIP], CODE + until);
	}
	assert_int_equal(cpu_run(rig->cpu, 150), CPU_RUN_DEADLINE);
	assert_int_equal(rig->cpu->insns, 150);
}

static void stops_inside_a_loop(void **state)
{
	struct rig *rig = *state;
	static const uint8_t code[] = {0x40, 0x43, 0xeb, 0xfc}; /* 1: inc eax; inc ebx; jmp 1b */

	place(rig, CODE, code, sizeof(code));
	assert_int_equal(cpu_run(rig->cpu, 100001), CPU_RUN_DEADLINE);
	assert_int_equal(rig->cpu->insns, 100001);
	assert_int_equal(rig->cpu->gpr[RAX], 33334);
	assert_int_equal(rig->cpu->gpr[RBX], 33334);
	assert_int_equal(rig->cpu->gpr[REG_RIP], CODE + 2);
}

static void a_block_changes_itself(void **state)
{
	struct rig *rig = *state;
	static const uint8_t code[] = {0xc6, 0x05, 0x07, 0x10, 0, 0, 0x40, /* movb $0x40 (inc eax), 0x1007 */
				       0x48, 0xf4};                         /* dec eax; hlt */

	place(rig, CODE, code, sizeof(code));
	run_to_halt(rig);
	assert_int_equal(rig->cpu->gpr[RAX], 1);
	assert_int_equal(rig->cpu->insns, 3);
}

static void data_beside_code_is_no_code(void **state)
{
	struct rig *rig = *state;
	static const uint8_t code[] = {0xc6, 0x05, 0x80, 0x1f, 0, 0, 1, 0xe2, 0xf7, 0xf4}; /* 1: movb $1, 0x1f80; loop 1b; hlt */

	place(rig, CODE, code, sizeof(code));
	rig->cpu->gpr[RCX] = 1000;
	run_to_halt(rig);
	assert_int_equal(rig->cpu->stats.blocks_invalidated, 0);
	assert_int_equal(rig->cpu->insns, 2001);
}

/* An instruction whose immediate lies in the next page, changed from there. */
static void a_crossing_instruction_changes(void **state)
{
	struct rig *rig = *state;
	static const uint8_t jump[] = {0xe9, 0xf9, 0x0f, 0, 0};	     /* jmp 0x1ffe */
	static const uint8_t code[] = {0xb8, 1, 0, 0, 0, 0xf4};	     /* 0x1ffe: mov $1, %eax; hlt */
	static const uint8_t poke[] = {0xc6, 0x05, 0x01, 0x20, 0, 0, 7, /* movb $7, 0x2001 */
				       0xe9, 0xf2, 0x0f, 0, 0};         /* jmp 0x1ffe */

	place(rig, CODE, jump, sizeof(jump));
	place(rig, 0x1ffe, code, sizeof(code));
	run_to_halt(rig);
	assert_int_equal(rig->cpu->gpr[RAX], 1);
	restart(rig);
	place(rig, CODE, poke, sizeof(poke));
	run_to_halt(rig);
	assert_int_equal(rig->cpu->gpr[RAX], 0x70001);
}

static void the_same_bytes_in_two_modes(void **state)
{
	struct rig *rig = *state;
	static const uint8_t code[] = {0xb8, 1, 0, 0x90, 0x90, 0xf4}; /* mov $imm, ax/eax; (nop; nop;) hlt */

	place(rig, CODE, code, sizeof(code));
	run_to_halt(rig);
	assert_int_equal(rig->cpu->gpr[RAX], 0x90900001);
	restart(rig);
	rig->cpu->gpr[RAX] = 0;
	rig->cpu->seg[SEG_CS].attr &= ~SEG_AR_DB;
	cpu_update_mode(rig->cpu);
	run_to_halt(rig);
	assert_int_equal(rig->cpu->gpr[RAX], 1);
}

/* One count a stretch of 4096 iterations, wherever the run was interrupted. */
static void repeated_instructions_count_by_stretches(void **state)
{
	struct rig *rig = *state;
	static const uint8_t code[] = {0xf3, 0xaa, 0xf4}; /* rep stosb; hlt */

	place(rig, CODE, code, sizeof(code));
	rig->cpu->gpr[RCX] = 10000;
	rig->cpu->gpr[RDI] = 0x10000;
	assert_int_equal(cpu_run(rig->cpu, 1), CPU_RUN_DEADLINE);
	assert_int_equal(rig->cpu->gpr[RCX], 8192);
	assert_int_equal(rig->cpu->gpr[REG_RIP], CODE);
	assert_int_equal(cpu_run(rig->cpu, 2), CPU_RUN_DEADLINE);
	assert_int_equal(rig->cpu->gpr[RCX], 4096);
	run_to_halt(rig);
	assert_int_equal(rig->cpu->gpr[RCX], 0);
	assert_int_equal(rig->cpu->gpr[RDI], 0x10000 + 10000);
	assert_int_equal(rig->cpu->insns, 4);
}

static void a_kick_ends_an_endless_loop(void **state)
{
	struct rig *rig = *state;
	static const uint8_t code[] = {0xeb, 0xfe}; /* jmp . */

	place(rig, CODE, code, sizeof(code));
	rig->cpu->kick = 1;
	assert_int_equal(cpu_run(rig->cpu, UINT64_MAX), CPU_RUN_KICKED);
	assert_int_equal(cpu_run(rig->cpu, 1000), CPU_RUN_DEADLINE);
	assert_int_equal(rig->cpu->insns, 1000);
}

/* A device access stops before the instruction, which is then executed once with the answer. */
static void device_accesses_are_asked_once(void **state)
{
	struct rig *rig = *state;
	static const uint8_t code[] = {0x03, 0x05, 0, 0, 0, 0xd0, /* add 0xd0000000, %eax */
				       0xe4, 0x60, 0xf4};          /* in $0x60, %al; hlt */

	place(rig, CODE, code, sizeof(code));
	rig->cpu->gpr[RAX] = 5;
	assert_int_equal(cpu_run(rig->cpu, UINT64_MAX), CPU_RUN_BUS);
	assert_int_equal(rig->cpu->bus.want.addr, 0xd0000000);
	assert_int_equal(rig->cpu->bus.want.size, 4);
	assert_int_equal(rig->cpu->insns, 0);
	cpu_bus_done(rig->cpu, 0x100);
	assert_int_equal(cpu_run(rig->cpu, UINT64_MAX), CPU_RUN_BUS);
	assert_true(rig->cpu->bus.want.pio);
	assert_int_equal(rig->cpu->insns, 1);
	assert_int_equal(rig->cpu->gpr[RAX], 0x105);
	cpu_bus_done(rig->cpu, 0xab);
	run_to_halt(rig);
	assert_int_equal(rig->cpu->gpr[RAX], 0x1ab);
}

/* Sixty-five thousand blocks, each decoded once and found again. */
static void many_blocks(void **state)
{
	struct rig *rig = *state;
	static const uint8_t body[] = {0x40, 0xeb, 0x0d}; /* inc eax; jmp to the next 16-byte line */
	static const uint8_t last[] = {0x49, 0x75, 0x01, 0xf4, 0xe9}; /* dec ecx; jnz 1f; hlt; 1: jmp rel32 */
	uint32_t at = 0x100000, end = 0x200000, back;

	for (uint32_t a = at; a < end; a += 16)
		place(rig, a, body, sizeof(body));
	place(rig, end, last, sizeof(last));
	back = at - (end + (uint32_t)sizeof(last) + 4);
	place(rig, end + sizeof(last), &back, 4);
	rig->cpu->gpr[REG_RIP] = at;
	rig->cpu->gpr[RCX] = 3;
	run_to_halt(rig);
	assert_int_equal(rig->cpu->gpr[RAX], 3 * (end - at) / 16);
	assert_true(rig->cpu->stats.blocks_decoded < (end - at) / 16 + 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(stops_at_the_exact_instruction, setup, teardown),
		cmocka_unit_test_setup_teardown(stops_inside_a_loop, setup, teardown),
		cmocka_unit_test_setup_teardown(a_block_changes_itself, setup, teardown),
		cmocka_unit_test_setup_teardown(data_beside_code_is_no_code, setup, teardown),
		cmocka_unit_test_setup_teardown(a_crossing_instruction_changes, setup, teardown),
		cmocka_unit_test_setup_teardown(the_same_bytes_in_two_modes, setup, teardown),
		cmocka_unit_test_setup_teardown(repeated_instructions_count_by_stretches, setup, teardown),
		cmocka_unit_test_setup_teardown(a_kick_ends_an_endless_loop, setup, teardown),
		cmocka_unit_test_setup_teardown(device_accesses_are_asked_once, setup, teardown),
		cmocka_unit_test_setup_teardown(many_blocks, setup, teardown),
	};

	return cmocka_run_group_tests_name("run", tests, NULL, NULL);
}
