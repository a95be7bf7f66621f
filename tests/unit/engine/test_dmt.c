/*
 * Direct translation's registers and what a guest has asked for, as state of the vCPU: carried between schemes, kept
 * apart between VMs of one machine, part of the state hash, refused where no guest can have brought it about.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

#define MEMORY (8ull << 20)

static struct engine_config config(enum engine_mmu mmu, bool dmt)
{
	struct engine_config cfg = {.mmu = mmu, .memory = MEMORY};

	cpu_config_default(&cfg.cpu);
	assert_int_equal(cpu_config_parse(&cfg.cpu, dmt ? "+dmt" : "-dmt", NULL), 0);
	return cfg;
}

static struct engine_vm *make(enum engine_mmu mmu, bool dmt)
{
	struct engine_config cfg = config(mmu, dmt);
	struct engine_vm *vm;

	assert_int_equal(engine_create(&vm, &cfg, NULL), 0);
	return vm;
}

/* After RESET, and then: two registers, gTEAs 1 and 3, large pages asked for. */
static void fill(struct engine_vm *vm, struct engine_vcpu *v, uint64_t salt)
{
	engine_get_vcpu(vm, v);
	v->dmt = (struct engine_dmt){.load = 0x4000 | 2, .request = 0x5040, .register_words = 8, .gtea_words = 6,
				     .huge_words = 2};
	memcpy(v->dmt.registers, (uint64_t[]){0x200000, 0x400000, 0x10000, DMT_P, salt, 3, 5, ~0ull}, 64);
	memcpy(v->dmt.gteas, (uint64_t[]){0x10000, 4, 0, 0, 0x20000, 1}, 48);
	memcpy(v->dmt.huge, (uint64_t[]){0x200000, 1024}, 16);
}

static void carried_between_schemes(void **state)
{
	struct engine_vcpu *v = calloc(2, sizeof(*v));
	struct engine_hash first, h;

	(void)state;
	for (enum engine_mmu mmu = 0; mmu < ENGINE_MMU_COUNT; mmu++) {
		struct engine_vm *vm = make(mmu, true);

		engine_state_hash(vm, &first);
		fill(vm, &v[0], 77);
		assert_int_equal(engine_set_vcpu(vm, &v[0], NULL), 0);
		engine_get_vcpu(vm, &v[1]);
		assert_memory_equal(&v[0].dmt, &v[1].dmt, sizeof(v->dmt));
		engine_state_hash(vm, &h);
		assert_memory_not_equal(&h, &first, sizeof(h)); /* what the guest can know is in it */
		engine_destroy(vm);
	}
	free(v);
}

/* Bytes and back; the arrays have as many elements as are used. */
static void saved_and_loaded(void **state)
{
	struct engine_vm *vm = make(ENGINE_NATIVE, true);
	struct engine_vcpu *v = calloc(2, sizeof(*v));
	struct state_buffer none = {0}, b = {0};

	(void)state;
	engine_get_vcpu(vm, &v[0]);
	assert_int_equal(state_save(&engine_vcpu_desc, &v[0], &none, NULL), 0);
	fill(vm, &v[0], 77);
	assert_int_equal(state_save(&engine_vcpu_desc, &v[0], &b, NULL), 0);
	assert_int_equal(b.bytes, none.bytes + (8 + 6 + 2) * 8);
	assert_int_equal(state_load(&engine_vcpu_desc, &v[1], b.data, b.bytes, NULL), 0);
	assert_memory_equal(&v[0].dmt, &v[1].dmt, sizeof(v->dmt));
	state_buffer_free(&none);
	state_buffer_free(&b);
	free(v);
	engine_destroy(vm);
}

static void apart_between_vms(void **state)
{
	static const enum engine_mmu mmu[] = {ENGINE_EPT, ENGINE_PVDMT, ENGINE_SHADOW, ENGINE_DMT};
	struct engine_vcpu *v = calloc(2, sizeof(*v));
	struct engine_config cfg[ARRAY_SIZE(mmu)];
	struct engine_vm *vm[ARRAY_SIZE(mmu)];
	struct engine_machine *machine;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(mmu); i++)
		cfg[i] = config(mmu[i], true);
	assert_int_equal(engine_machine_create(&machine, cfg, ARRAY_SIZE(mmu), NULL), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(mmu); i++)
		assert_int_equal(engine_create_on(machine, &vm[i], &cfg[i], NULL), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(mmu); i++) {
		fill(vm[i], &v[0], i);
		assert_int_equal(engine_set_vcpu(vm[i], &v[0], NULL), 0);
	}
	for (unsigned n = 0; n < 3 * ARRAY_SIZE(mmu); n++) {
		unsigned i = n * 3 % ARRAY_SIZE(mmu);

		engine_get_vcpu(vm[i], &v[1]);
		fill(vm[i], &v[0], i);
		assert_memory_equal(&v[0].dmt, &v[1].dmt, sizeof(v->dmt));
	}
	for (unsigned i = 0; i < ARRAY_SIZE(mmu); i++)
		engine_destroy(vm[i]);
	engine_machine_destroy(machine);
	free(v);
}

/* What no guest can have brought about. One thing at a time. */
static void refused(void **state)
{
	static const struct { size_t at; uint64_t v; } wrong[] = {
#define AT(m) offsetof(struct engine_dmt, m)
		{AT(load), 0x4000 | 17}, {AT(load), 0x4000 | 1}, {AT(load), 1ull << 60 | 2}, {AT(request), 0x5020},
		{AT(request), 1ull << 60}, {AT(gteas[0]), 0x10008}, {AT(gteas[0]), MEMORY}, {AT(gteas[1]), 1ull << 40},
		{AT(gteas[1]), ~0ull}, {AT(gteas[1]), 100}, {AT(gteas[2]), 0x1000}, {AT(huge[0]), 0x201000},
		{AT(huge[1]), 1000}, {AT(huge[1]), 0}, {AT(huge[1]), 1ull << 20},
#undef AT
	};
	struct engine_vm *vm = make(ENGINE_NATIVE, true);
	struct engine_vcpu *v = calloc(1, sizeof(*v));
	struct error err = {0};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		fill(vm, v, 77);
		memcpy((char *)&v->dmt + wrong[i].at, &wrong[i].v, 8);
		assert_int_equal(engine_set_vcpu(vm, v, &err), -EINVAL);
		assert_non_null(strstr(err.text, "direct translation"));
	}
	fill(vm, v, 77);
	v->dmt.gtea_words = 5;
	assert_int_equal(engine_set_vcpu(vm, v, &err), -EINVAL);
	engine_destroy(vm);
	/* A processor without it has nothing of it. */
	vm = make(ENGINE_EPT, false);
	fill(vm, v, 77);
	assert_int_equal(engine_set_vcpu(vm, v, &err), -EINVAL);
	engine_destroy(vm);
	free(v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(carried_between_schemes), cmocka_unit_test(saved_and_loaded),
		cmocka_unit_test(apart_between_vms), cmocka_unit_test(refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
