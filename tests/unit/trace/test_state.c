/* The state at a place in a trace, and traces that are cut out of traces. */
#include "some_events.h"
#include "arch/dmt.h"
#include "arch/x86.h"
#include "base/util.h"
#include "trace/cut.h"
#include "trace/state.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define MANY 100000u

/* A sink that keeps what it gets, with copies of pages. */
struct kept {
	struct trace_event ev[4096];
	uint8_t page[64][PAGE_SIZE];
	unsigned n, pages;
};

static int keep(void *ctx, const struct trace_event *ev, unsigned n, struct error *err)
{
	struct kept *k = ctx;

	(void)err;
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(trace_event_check(&ev[i], NULL), 0);
		if (k->n == ARRAY_SIZE(k->ev))
			return -ENOSPC;
		k->ev[k->n] = ev[i];
		if (ev[i].kind == TRACE_PAGE) {
			assert_true(k->pages < ARRAY_SIZE(k->page));
			memcpy(k->page[k->pages], trace_event_page(&ev[i]), PAGE_SIZE);
			k->ev[k->n].value = (uintptr_t)k->page[k->pages++];
		}
		k->n++;
	}
	return 0;
}

struct rig {
	struct trace_state *s;
	struct kept kept;
};

static void follow(struct rig *r, struct trace_event ev)
{
	struct error err;

	assert_int_equal(trace_event_check(&ev, &err), 0);
	assert_int_equal(trace_state_put(r->s, &ev, 1, &err), 0);
}

static void set_reg(struct rig *r, unsigned kind, uint64_t addr, uint64_t value)
{
	follow(r, (struct trace_event){.kind = (uint8_t)kind, .flags = TRACE_INITIAL, .addr = addr, .value = value});
}

static void access_at(struct rig *r, unsigned kind, uint64_t addr, unsigned size, unsigned flags)
{
	follow(r, (struct trace_event){.kind = (uint8_t)kind, .size = (uint8_t)size, .mode = TRACE_USER, .addr = addr,
				       .flags = (uint8_t)flags});
}

static void page_with(struct rig *r, uint64_t gpa, unsigned index, uint64_t entry)
{
	uint8_t page[PAGE_SIZE] = {0};

	put_u64(page + 8 * index, entry);
	follow(r, trace_page(gpa, page));
}

static uint64_t entry_at(struct rig *r, uint64_t gpa)
{
	return get_u64(trace_state_page(r->s, gpa) + (gpa & ~PAGE_MASK));
}

static void give(struct rig *r)
{
	const struct trace_sink to = {keep, &r->kept};
	struct error err;

	r->kept.n = r->kept.pages = 0;
	assert_int_equal(trace_state_give(r->s, &to, &err), 0);
}

static unsigned count(const struct rig *r, unsigned kind, uint64_t addr, uint64_t value)
{
	unsigned n = 0;

	for (unsigned i = 0; i < r->kept.n; i++)
		n += r->kept.ev[i].kind == kind && r->kept.ev[i].addr == addr && r->kept.ev[i].value == value;
	return n;
}

static int setup(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	*state = r;
	return trace_state_create(&r->s, 64, NULL);
}

static int teardown(void **state)
{
	struct rig *r = *state;

	trace_state_destroy(r->s);
	free(r);
	return 0;
}

/* Four levels at 0x1000 to 0x4000, for linear 0x201000 + 4 KiB pages. */
static void long_mode(struct rig *r)
{
	set_reg(r, TRACE_WRMSR, MSR_EFER, EFER_LME | EFER_LMA);
	page_with(r, 0x1000, 0, 0x2000 | PTE_P | PTE_W);
	page_with(r, 0x2000, 0, 0x3000 | PTE_P | PTE_W);
	page_with(r, 0x3000, 1, 0x4000 | PTE_P | PTE_W);
	page_with(r, 0x4000, 1, 0x9000 | PTE_P | PTE_W);
	set_reg(r, TRACE_CR4, 0, CR4_PAE);
	set_reg(r, TRACE_CR3, 0, 0x1000);
	set_reg(r, TRACE_CR0, 0, CR0_PE | CR0_PG);
}

static void test_registers(void **state)
{
	struct rig *r = *state;

	give(r);
	assert_int_equal(r->kept.n, 0);
	long_mode(r);
	follow(r, (struct trace_event){.kind = TRACE_CR3, .value = BIT64(63) | 0x1000 | 5});
	follow(r, (struct trace_event){.kind = TRACE_PKRU, .value = 12});
	follow(r, (struct trace_event){.kind = TRACE_WRMSR, .addr = MSR_EFER, .value = EFER_LME | EFER_NXE});
	give(r);
	assert_int_equal(count(r, TRACE_CR3, 0, 0x1005), 1);
	assert_int_equal(count(r, TRACE_CR0, 0, CR0_PE | CR0_PG), 1);
	assert_int_equal(count(r, TRACE_CR4, 0, CR4_PAE), 1);
	assert_int_equal(count(r, TRACE_PKRU, 0, 12), 1);
	assert_int_equal(count(r, TRACE_WRMSR, MSR_EFER, EFER_LME | EFER_LMA | EFER_NXE), 1);
	assert_int_equal(r->kept.pages, 4);
	assert_int_equal(r->kept.n, 9);
	for (unsigned i = 0; i < r->kept.n; i++)
		assert_true(r->kept.ev[i].kind == TRACE_PAGE || r->kept.ev[i].flags == TRACE_INITIAL);
}

static void test_stores(void **state)
{
	struct rig *r = *state;

	long_mode(r);
	follow(r, (struct trace_event){.kind = TRACE_WRITE, .size = 8, .flags = TRACE_VALUE, .addr = 0xffff8000000040f0,
				       .aux = trace_value_aux(0x40f0, 3), .value = 0xa000 | PTE_P});
	follow(r, (struct trace_event){.kind = TRACE_STORE, .size = 2, .addr = 0x40f4, .value = 0x1234});
	follow(r, (struct trace_event){.kind = TRACE_STORE,
				       .size = 8,
				       .addr = 0x50f0,
				       .value = 1}); /* not known: no matter */
	assert_int_equal(entry_at(r, 0x40f0), 0x12340000a001);
	assert_null(trace_state_page(r->s, 0x5000));
}

/* Flags are set by accesses that succeed, once, and again when something was invalidated. */
static void test_flags(void **state)
{
	struct rig *r = *state;

	long_mode(r);
	access_at(r, TRACE_READ, 0x201008, 8, TRACE_FAULTS);
	assert_int_equal(entry_at(r, 0x4008), 0x9000 | PTE_P | PTE_W);
	access_at(r, TRACE_READ, 0x201008, 8, TRACE_FIRST);
	assert_int_equal(entry_at(r, 0x4008), 0x9000 | PTE_P | PTE_W | PTE_A);
	assert_int_equal(entry_at(r, 0x1000), 0x2000 | PTE_P | PTE_W | PTE_A);
	follow(r, (struct trace_event){
			  .kind = TRACE_STORE, .size = 8, .addr = 0x4008, .value = 0x9000 | PTE_P | PTE_W});
	access_at(r, TRACE_READ, 0x201008, 8, 0);
	assert_int_equal(entry_at(r, 0x4008), 0x9000 | PTE_P | PTE_W); /* in the TLB */
	follow(r, (struct trace_event){.kind = TRACE_INVLPG, .addr = 0x201000});
	access_at(r, TRACE_READ, 0x201008, 8, 0);
	assert_int_equal(entry_at(r, 0x4008), 0x9000 | PTE_P | PTE_W | PTE_A);
	access_at(r, TRACE_WRITE, 0x201008, 8, 0);
	assert_int_equal(entry_at(r, 0x4008), 0x9000 | PTE_P | PTE_W | PTE_A | PTE_D);
	access_at(r, TRACE_READ, 0x1fffff, 1, 0); /* no page there, no matter */
	access_at(r, TRACE_READ, 0x8000000000, 1, 0);
}

static void test_flags_across(void **state)
{
	struct rig *r = *state;

	long_mode(r);
	access_at(r, TRACE_WRITE, 0x200fff, 2, 0);
	assert_int_equal(entry_at(r, 0x4008), 0x9000 | PTE_P | PTE_W | PTE_A | PTE_D);
}

static void test_large_pages(void **state)
{
	struct rig *r = *state;

	long_mode(r);
	page_with(r, 0x3000, 4, 0x800000 | PTE_P | PTE_W | PTE_PS);
	access_at(r, TRACE_WRITE, 0x8fffff, 1, 0);
	assert_int_equal(entry_at(r, 0x3020), 0x800000 | PTE_P | PTE_W | PTE_PS | PTE_A | PTE_D);
}

static void test_32_bit(void **state)
{
	struct rig *r = *state;
	uint8_t page[PAGE_SIZE] = {0};

	put_u32(page + 4 * 1, 0x2000 | PTE_P);
	put_u32(page + 4 * 2, 0x800000 | PTE_P | PTE_PS);
	follow(r, trace_page(0x1000, page));
	memset(page, 0, sizeof(page));
	put_u32(page + 4 * 3, 0x7000 | PTE_P);
	follow(r, trace_page(0x2000, page));
	set_reg(r, TRACE_CR4, 0, CR4_PSE);
	set_reg(r, TRACE_CR3, 0, 0x1000);
	set_reg(r, TRACE_CR0, 0, CR0_PE | CR0_PG);
	access_at(r, TRACE_WRITE, 0x403000, 4, 0);
	access_at(r, TRACE_READ, 0x8abcde, 4, 0);
	assert_int_equal(get_u32(trace_state_page(r->s, 0x1000) + 4), 0x2000 | PTE_P | PTE_A);
	assert_int_equal(get_u32(trace_state_page(r->s, 0x2000) + 12), 0x7000 | PTE_P | PTE_A | PTE_D);
	assert_int_equal(get_u32(trace_state_page(r->s, 0x1000) + 8), 0x800000 | PTE_P | PTE_PS | PTE_A);
}

/* Loading CR3 loads the four registers, which stay when memory changes. */
static void test_pae(void **state)
{
	struct rig *r = *state;

	page_with(r, 0x1000, 4 + 3, 0x2000 | PTE_P);
	page_with(r, 0x2000, 0, 0x600000 | PTE_P | PTE_PS);
	set_reg(r, TRACE_CR4, 0, CR4_PAE);
	set_reg(r, TRACE_CR0, 0, CR0_PE | CR0_PG);
	follow(r, (struct trace_event){.kind = TRACE_CR3, .value = 0x1020});
	follow(r, (struct trace_event){.kind = TRACE_STORE, .size = 8, .addr = 0x1038});
	access_at(r, TRACE_READ, 0xc0000000, 4, 0);
	assert_int_equal(entry_at(r, 0x2000), 0x600000 | PTE_P | PTE_PS | PTE_A);
	give(r);
	assert_int_equal(count(r, TRACE_PDPTE, 3, 0x2000 | PTE_P), 1);
	assert_int_equal(count(r, TRACE_PDPTE, 0, 0), 1);
}

/* What a load read comes with it as it was, and memory is as it is now when all is given. */
static void test_loads_with_memory(void **state)
{
	struct rig *r = *state, again = {0};
	const uint64_t load = 0x5000 | 2, request = 0x5100;

	page_with(r, 0x5000, 1, 77);
	follow(r, (struct trace_event){.kind = TRACE_STORE, .size = 8, .addr = request, .value = PV_TEA_ALLOC});
	follow(r, (struct trace_event){.kind = TRACE_WRMSR, .addr = MSR_PV_REQUEST, .value = request});
	follow(r, (struct trace_event){.kind = TRACE_WRMSR, .addr = MSR_DMT_LOAD, .value = load});
	follow(r, (struct trace_event){.kind = TRACE_STORE, .size = 8, .addr = 0x5008, .value = 99});
	follow(r, (struct trace_event){.kind = TRACE_STORE, .size = 8, .addr = request, .value = PV_HUGE});
	give(r);
	assert_int_equal(trace_state_create(&again.s, 64, NULL), 0);
	for (unsigned i = 0; i < r->kept.n; i++) {
		const struct trace_event *ev = &r->kept.ev[i];

		if (ev->kind == TRACE_WRMSR && ev->addr == MSR_DMT_LOAD)
			assert_int_equal(entry_at(&again, 0x5008), 77);
		if (ev->kind == TRACE_WRMSR && ev->addr == MSR_PV_REQUEST)
			assert_int_equal(entry_at(&again, request), PV_TEA_ALLOC);
		follow(&again, *ev);
	}
	assert_int_equal(entry_at(&again, 0x5008), 99);
	assert_int_equal(entry_at(&again, request), PV_HUGE);
	assert_int_equal(count(r, TRACE_WRMSR, MSR_DMT_LOAD, load), 1);
	assert_int_equal(count(r, TRACE_WRMSR, MSR_PV_REQUEST, request), 1);
	trace_state_destroy(again.s);
}

static void test_system_requests(void **state)
{
	struct rig *r = *state;

	follow(r, (struct trace_event){.kind = TRACE_MAP, .addr = 0x1000, .value = 0x3000, .flags = TRACE_MAP_WRITE});
	for (uint64_t i = 1; i < 100; i++)
		follow(r, (struct trace_event){.kind = TRACE_SWITCH, .value = i % 2});
	follow(r, (struct trace_event){.kind = TRACE_FORK, .value = 7});
	give(r);
	assert_int_equal(r->kept.n, 5); /* of the SWITCHes those that made spaces, and the last */
	assert_int_equal(r->kept.ev[3].value, 1);
	assert_int_equal(r->kept.ev[4].kind, TRACE_FORK);
}

static void test_limits(void **state)
{
	struct rig *r = *state;
	uint8_t page[PAGE_SIZE] = {0};
	struct trace_event ev = trace_page(0, page);
	const struct trace_sink to = {keep, &r->kept};
	struct error err;

	for (unsigned i = 0; i < 64; i++, ev.addr += PAGE_SIZE)
		follow(r, ev);
	assert_int_equal(trace_state_put(r->s, &ev, 1, &err), -E2BIG);
	r->kept.n = ARRAY_SIZE(r->kept.ev) - 3;
	assert_int_equal(trace_state_give(r->s, &to, &err), -ENOSPC);
	ev = (struct trace_event){.kind = TRACE_WRMSR};
	for (ev.addr = 0; ev.addr < 64; ev.addr++)
		follow(r, ev);
	assert_int_equal(trace_state_put(r->s, &ev, 1, &err), -E2BIG);
}

/* ---- cutting ---- */

static char dir[64], whole[128], piece[128];

static void write_trace(void)
{
	const struct trace_info info = {.tables = true};
	struct some_events s = {.state = 11};
	struct trace_event initial = {.kind = TRACE_CR0, .flags = TRACE_INITIAL, .value = 1};
	struct trace_writer *w;

	assert_int_equal(trace_writer_open(&w, whole, &info, NULL), 0);
	assert_int_equal(trace_put(w, &initial, 1, NULL), 0);
	for (unsigned i = 1; i < MANY; i++) {
		struct trace_event ev = likely_event(&s);

		assert_int_equal(trace_put(w, &ev, 1, NULL), 0);
	}
	assert_int_equal(trace_writer_close(w, NULL), 0);
}

static int cut(struct trace_range range, uint64_t *given)
{
	const struct trace_info info = {.tables = true};
	struct trace_writer *w;
	struct trace_reader *r;
	struct trace_sink to;
	struct error err;
	int ret;

	assert_int_equal(trace_reader_open(&r, whole, NULL), 0);
	assert_int_equal(trace_writer_open(&w, piece, &info, NULL), 0);
	to = trace_writer_sink(w);
	ret = trace_cut(r, &range, &to, given, &err);
	assert_int_equal(trace_writer_close(w, NULL), 0);
	trace_reader_close(r);
	return ret;
}

/* All events up to an event number, followed. */
static void follow_file(struct trace_state *s, const char *path, uint64_t events)
{
	const struct trace_event *ev;
	struct trace_reader *r;
	struct error err;
	unsigned n;

	assert_int_equal(trace_reader_open(&r, path, NULL), 0);
	while (events && trace_next(r, &ev, &n, &err) > 0) {
		n = (unsigned)min_u64(n, events);
		assert_int_equal(trace_state_put(s, ev, n, &err), 0);
		events -= n;
	}
	trace_reader_close(r);
}

/* A piece ends in the state that the whole has there. */
static void test_cut(void **state)
{
	static const struct trace_range ranges[] = {{false, 0, 1000}, {false, 777, 40000}, {false, 50001, MANY},
						    {true, 1000, 300000}, {false, 0, UINT64_MAX}};

	(void)state;
	write_trace();
	for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++) {
		struct rig *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b));
		const struct trace_event *ev;
		struct trace_totals t;
		struct trace_reader *r;
		uint64_t given, end;
		unsigned n;

		assert_int_equal(cut(ranges[i], &given), 0);
		assert_int_equal(trace_state_create(&a->s, 4096, NULL), 0);
		assert_int_equal(trace_state_create(&b->s, 4096, NULL), 0);
		assert_int_equal(trace_reader_open(&r, piece, NULL), 0);
		assert_true(trace_reader_totals(r, &t));
		assert_true(t.events >= given);
		assert_int_equal(trace_seek_event(r, t.events - given, NULL), 0);
		assert_int_equal(trace_next(r, &ev, &n, NULL), 1);
		assert_true(trace_begins_insn(ev) || !ranges[i].from);
		trace_reader_close(r);
		/* Where it ends in the whole: so many events behind where the first one is. */
		assert_int_equal(trace_reader_open(&r, whole, NULL), 0);
		assert_int_equal((ranges[i].insns ? trace_seek_insns : trace_seek_event)(r, ranges[i].from, NULL), 0);
		for (end = UINT64_MAX; end == UINT64_MAX;) {
			assert_int_equal(trace_next(r, &ev, &n, NULL), 1);
			for (unsigned k = 0; k < n && end == UINT64_MAX; k++)
				if (trace_begins_insn(&ev[k]) || !ranges[i].from)
					end = trace_reader_event(r) + k + given;
		}
		trace_reader_close(r);
		follow_file(a->s, whole, end);
		follow_file(b->s, piece, UINT64_MAX);
		give(a);
		give(b);
		assert_true(a->kept.n > 0);
		assert_int_equal(a->kept.n, b->kept.n);
		for (unsigned k = 0; k < a->kept.n; k++)
			assert_true(same_event(&a->kept.ev[k], &b->kept.ev[k]));
		trace_state_destroy(a->s);
		trace_state_destroy(b->s);
		free(a);
		free(b);
	}
	assert_int_equal(cut((struct trace_range){false, MANY, MANY + 5}, NULL), -ERANGE);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_registers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stores, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flags, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flags_across, setup, teardown),
		cmocka_unit_test_setup_teardown(test_large_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(test_32_bit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pae, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loads_with_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_system_requests, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
		cmocka_unit_test(test_cut),
	};
	char command[128];
	int failed;

	snprintf(dir, sizeof(dir), "/tmp/test-trace-cut-XXXXXX");
	if (!mkdtemp(dir))
		return 1;
	snprintf(whole, sizeof(whole), "%s/whole", dir);
	snprintf(piece, sizeof(piece), "%s/piece", dir);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) || failed;
}
