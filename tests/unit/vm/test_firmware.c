/* What programs that were started as if by a boot loader find of the firmware before it: vectors and BIOS data. */
#include "vm/firmware.h"
#include "vm/memmap.h"
#include "vm/vm_config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static uint16_t word(struct engine_vm *vm, uint64_t a)
{
	uint8_t b[2];

	assert_int_equal(engine_mem_read(vm, gpa(a), b, sizeof(b)), 0);
	return get_u16(b);
}

static void leaves_vectors_and_bios_data(void **state)
{
	static struct platform platform;
	struct vm_config cfg;
	struct engine_vm *vm;
	uint8_t handler;

	(void)state;
	vm_config_default(&cfg);
	cfg.engine.memory = 16 << 20;
	cfg.engine.cpu.code_cache = 1 << 20;
	assert_int_equal(engine_create(&vm, &cfg.engine, NULL), 0);
	platform_init(&platform, cfg.engine.memory, 0, false);
	assert_int_equal(firmware_leave_behind(vm, &platform, NULL), 0);
	/* A vector that nobody has taken returns at once. */
	assert_int_equal(engine_mem_read(vm, gpa(word(vm, 0x13 * 4) + word(vm, 0x13 * 4 + 2) * 16u), &handler, 1), 0);
	assert_int_equal(handler, 0xcf);
	/* The first serial port; low memory ends where the memory map says. */
	assert_int_equal(word(vm, 0x400), 0x3f8);
	assert_int_equal(word(vm, 0x40e) * 16u, MEMMAP_LOW_END);
	assert_int_equal(word(vm, 0x413) * 1024u, MEMMAP_LOW_END);
	engine_destroy(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(leaves_vectors_and_bios_data)};

	return cmocka_run_group_tests_name("firmware", tests, NULL, NULL);
}
