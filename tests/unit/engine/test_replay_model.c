/*
 * What the operating-system model makes of random programs, executed by every scheme: no access faults that should
 * not, none that should goes through, backends audit themselves after each exit, registers of direct translation are
 * compared with the walk, and all schemes take the same. So the model, the processor and the hypervisors agree about
 * what tables mean.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "engine/engine.h"
#include "os_program.h"

static int to_engine(void *ctx, const struct trace_event *ev, unsigned n, struct error *err)
{
	return engine_replay(ctx, ev, n, err);
}

static enum osm_kind kind_for(enum engine_mmu mmu)
{
	switch (mmu) {
	case ENGINE_HUGEGPT:
		return OSM_HUGEGPT;
	case ENGINE_DMT:
	case ENGINE_NATIVE_DMT:
		return OSM_DMT;
	case ENGINE_PVDMT:
	case ENGINE_NESTED_PVDMT:
		return OSM_PVDMT;
	default:
		return OSM_PLAIN;
	}
}

static struct osm_config os_config(enum osm_kind kind, unsigned round)
{
	struct osm_config cfg;

	osm_config_init(&cfg, 96 * MIB);
	cfg.kind = kind;
	cfg.pages = round % 3;
	cfg.pcid = round / 3 % 2;
	cfg.fragmentation = round % 4 * 25;
	cfg.seed = round;
	cfg.promote = 3;
	cfg.gap = 4 * MIB;
	cfg.tea_threshold = 4 * MIB;
	cfg.pool_segment = 2 * MIB;
	return cfg;
}

static struct engine_vm *vm_new(enum engine_mmu mmu, const struct osm_config *os)
{
	struct engine_config cfg = {.mmu = mmu, .memory = os->memory, .host_pages = HOST_PAGES_2M, .audit = true,
				    .audit_every = 64, .audit_registers = true};
	struct engine_vm *vm;
	struct error err = {0};

	cpu_config_default(&cfg.cpu);
	cfg.cpu.feature[CPUF_DMT] = true;
	if (engine_create(&vm, &cfg, &err) || engine_replay_begin(vm, false, &err))
		fail_msg("%s: %s", engine_mmu_name[mmu], err.text);
	return vm;
}

/* The same program under the scheme. Returns what the users did. */
static uint64_t run(enum engine_mmu mmu, enum osm_kind kind, unsigned round, struct obs *obs)
{
	struct osm_config os = os_config(kind, round);
	struct engine_vm *vm = vm_new(mmu, &os);
	struct trace_sink sink = {to_engine, vm};
	struct os_program p = os_program(77 + round);
	struct error err = {0};
	struct osm_stats s;
	struct osm *o;
	int ret = osm_create(&o, &os, &sink, &err);

	for (unsigned i = 0; i < 2000 && !ret; i++) {
		struct trace_event ev = os_program_event(&p);

		ret = osm_put(o, &ev, 1, &err);
	}
	if (!ret)
		ret = osm_finish(o, &err);
	if (!ret)
		ret = engine_replay_finish(vm, &err);
	if (ret)
		fail_msg("%s, round %u: %s", engine_mmu_name[mmu], round, err.text);
	osm_stats(o, &s);
	osm_destroy(o);
	if (engine_replayed(vm).unexpected || engine_replayed(vm).faults != s.faults)
		fail_msg("%s, round %u: %llu faults, %llu unexpected; the model had %llu", engine_mmu_name[mmu], round,
			 (unsigned long long)engine_replayed(vm).faults, (unsigned long long)engine_replayed(vm).unexpected,
			 (unsigned long long)s.faults);
	engine_observe(vm, obs);
	engine_destroy(vm);
	return s.accesses - s.fetches_added;
}

static void every_scheme_takes_the_models_tables(void **state)
{
	struct obs obs;

	(void)state;
	for (unsigned round = 0; round < 8; round++) {
		uint64_t native = run(ENGINE_NATIVE, OSM_PLAIN, round, &obs);

		for (enum engine_mmu mmu = 0; mmu < ENGINE_MMU_COUNT; mmu++) {
			if (mmu == ENGINE_NATIVE || mmu == ENGINE_BRUTE) /* the latter finds everything by looking at everything */
				continue;
			assert_int_equal(run(mmu, kind_for(mmu), round, &obs), native);
			if (kind_for(mmu) == OSM_DMT || kind_for(mmu) == OSM_PVDMT) {
				assert_true(obs.translation.dmt.hits[0] > 0 && obs.translation.dmt.translations > 0);
				assert_true(obs.translation.dmt.reloads > 0);
			}
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_scheme_takes_the_models_tables),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
