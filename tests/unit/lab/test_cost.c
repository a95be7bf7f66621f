/* The cost account against sums made by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "arch/vmx.h"
#include "lab/cost.h"

/* Figures that differ from each other in every sum. */
static struct hw figures(void)
{
	struct hw hw = {.line = 64, .cache = {[HW_L1] = {32768, 8, 4}, [HW_L2] = {1 << 20, 16, 14}, [HW_LLC] = {1 << 24, 16, 50}},
			.memory_latency = 200};

	hw.cost = (struct hw_cost){
		.instruction = 0.5, .l2_tlb_hit = 9, .l2_tlb_miss = 17, .walk_cache_hit = 2, .nested_tlb_hit = 3, .register_lookup = 5,
		.entry = 600, .dispatch = 150, .vmread = 50, .vmwrite = 40, .invept = 500, .invvpid = 250,
		.emulated_insn = 1000, .table_read = 10, .table_write = 20, .page_fault = 700,
	};
	for (unsigned i = 0; i < HW_EXIT_REASONS; i++)
		hw.cost.exit[i] = 800;
	hw.cost.exit[EXIT_REASON_EPT_VIOLATION] = 1100;
	return hw;
}

static void near(double a, double b)
{
	if (a < b - 0.001 || a > b + 0.001)
		fail_msg("%f instead of %f", a, b);
}

static void test_nothing(void **state)
{
	const struct hw hw = figures();
	const struct obs obs = {0};
	struct cost c;

	(void)state;
	cost_account(&hw, &obs, 0, &c);
	near(c.total, 0);
	cost_account(&hw, &obs, 1001, &c);
	near(c.instructions, 500.5);
	near(c.total, 500.5);
}

static void test_translation(void **state)
{
	const struct hw hw = figures();
	struct obs obs = {0};
	struct cost c;

	(void)state;
	obs.translation.l2d_hits = 100;
	obs.translation.l2i_hits = 11;
	obs.translation.walks = 10;
	obs.translation.ref_hits[HW_L1] = 20;
	obs.translation.ref_hits[HW_L2] = 6;
	obs.translation.ref_hits[HW_LLC] = 3;
	obs.translation.ref_hits[HW_MEMORY] = 1;
	obs.translation.guest_cache_hits[2] = 5;
	obs.translation.guest_cache_hits[4] = 1;
	obs.translation.host_cache_hits[3] = 7;
	obs.translation.nested_tlb_hits = 4;
	/* Misses cost what follows from them. */
	obs.translation.guest_cache_misses = obs.translation.nested_tlb_misses = 1000000;
	cost_account(&hw, &obs, 0, &c);
	near(c.l2_tlb, 999);             /* 111 * 9 */
	near(c.walks, 170);              /* 10 * 17 */
	near(c.references, 514);         /* 20 * 4 + 6 * 14 + 3 * 50 + 200 */
	near(c.walk_caches, 38);         /* 13 * 2 + 4 * 3 */
	near(c.translation, 1721);
	near(c.total, 1721);
	obs.translation.dmt.lookups = 30;
	obs.translation.dmt.hits[0] = obs.translation.dmt.fallbacks = 1000000; /* the lookups are what is paid for */
	obs.translation.dmt.reload_hits[HW_L1] = 7;
	obs.translation.dmt.reload_hits[HW_MEMORY] = 2;
	cost_account(&hw, &obs, 0, &c);
	near(c.registers, 578);          /* 30 * 5 + 7 * 4 + 2 * 200 */
	near(c.translation, 1721 + 578);
	near(c.total, 1721 + 578);
}

static void test_data(void **state)
{
	struct hw hw = figures();
	struct obs obs = {0};
	struct cost c;

	(void)state;
	obs.translation.data_hits[HW_L1] = 1000000;
	obs.translation.data_hits[HW_L2] = 10;
	obs.translation.data_hits[HW_LLC] = 2;
	obs.translation.data_hits[HW_MEMORY] = 1;
	cost_account(&hw, &obs, 0, &c);
	near(c.data, 388);               /* 10 * (14 - 4) + 2 * (50 - 4) + (200 - 4) */
	near(c.translation, 0);
	near(c.total, 388);
	/* A level behind L1 that is said to be faster saves nothing. */
	hw.cache[HW_L2].latency = 1;
	cost_account(&hw, &obs, 0, &c);
	near(c.data, 288);
}

static void test_hypervisor(void **state)
{
	const struct hw hw = figures();
	struct obs obs = {0};
	struct cost c;

	(void)state;
	obs.exits.total = 13;
	obs.exits.by_reason[EXIT_REASON_EXCEPTION_NMI] = 3;
	obs.exits.by_reason[EXIT_REASON_EPT_VIOLATION] = 10;
	obs.hypervisor.entries = 14;
	obs.hypervisor.vmreads = 100;
	obs.hypervisor.vmwrites = 20;
	obs.hypervisor.invepts = 2;
	obs.hypervisor.invvpids = 3;
	obs.hypervisor.table_reads = 70;
	obs.hypervisor.table_writes = 30;
	obs.shadow.emulated = 6;
	cost_account(&hw, &obs, 0, &c);
	near(c.exits, 13400);            /* 3 * 800 + 10 * 1100 */
	near(c.entries, 8400);           /* 14 * 600 */
	near(c.dispatch, 1950);          /* 13 * 150 */
	near(c.vmcs, 5800);              /* 100 * 50 + 20 * 40 */
	near(c.invalidations, 1750);     /* 2 * 500 + 3 * 250 */
	near(c.emulation, 6000);
	near(c.tables, 1300);            /* 70 * 10 + 30 * 20 */
	near(c.hypervisor, 38600);
	near(c.total, 38600);
}

static void test_whole(void **state)
{
	const struct hw hw = figures();
	struct obs obs = {0};
	struct cost c;

	(void)state;
	obs.cpu.exceptions = 3;
	obs.cpu.interrupts = 2;
	obs.translation.walks = 1;
	obs.translation.ref_hits[HW_L1] = 4;
	obs.translation.data_hits[HW_L2] = 1;
	obs.hypervisor.entries = 1;
	cost_account(&hw, &obs, 1000, &c);
	near(c.events, 3500);            /* 5 * 700 */
	near(c.total, 4643);             /* 500 + (17 + 16) + 10 + 3500 + 600 */
	near(c.total, c.instructions + c.translation + c.data + c.events + c.hypervisor);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing), cmocka_unit_test(test_translation), cmocka_unit_test(test_data),
		cmocka_unit_test(test_hypervisor), cmocka_unit_test(test_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
