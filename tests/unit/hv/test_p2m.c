/*
 * The p2m and the EPT backend made from it: lazily allocated frames, runs of
 * them, their owner, the size of mappings, and an audit that notices a wrong one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "hv/core.h"

struct machine {
	struct machmem mem;
	struct cpu *cpu;
	struct hv_machine hv;
	struct hv_vm *vm;
};

static void make_under(struct machine *m, enum engine_mmu mmu, uint64_t memory, enum host_pages pages)
{
	struct engine_config cfg = {.mmu = mmu, .memory = memory, .host_pages = pages};
	struct machmem_range guest = {0, memory}, ram = {0};
	struct error err;

	cpu_config_default(&cfg.cpu);
	ram.bytes = hv_machine_memory(&cfg);
	assert_int_equal(machmem_init(&m->mem, &ram, 1, &err), 0);
	assert_int_equal(cpu_create(&m->cpu, &m->mem, &cfg.cpu, &err), 0);
	assert_int_equal(hv_machine_init(&m->hv, &m->mem, m->cpu, &err), 0);
	assert_int_equal(hv_create(&m->vm, &m->hv, &cfg, &guest, 1, &err), 0);
}

static void make(struct machine *m, uint64_t memory, enum host_pages pages) { make_under(m, ENGINE_EPT, memory, pages); }

static void unmake(struct machine *m)
{
	hv_destroy(m->vm);
	hv_machine_fini(&m->hv);
	cpu_destroy(m->cpu);
	machmem_destroy(&m->mem);
}

static void test_lazy(void **state)
{
	struct machine m;
	unsigned order;
	mfn_t f, again;

	(void)state;
	make(&m, SIZE_1G / 4, HOST_PAGES_4K);
	assert_int_equal(p2m_peek(m.vm, gfn(7), &f, NULL), -ENOENT);
	assert_int_equal(m.vm->obs.tables.guest_frames, 0);
	assert_int_equal(p2m_get(m.vm, gfn(7), &f, &order), 0);
	assert_int_equal(order, 0);
	assert_int_equal(machmem_owner(&m.mem, f), OWNER_VM);
	assert_int_equal(p2m_peek(m.vm, gfn(7), &again, NULL), 0);
	assert_int_equal(f.v, again.v);
	assert_int_equal(p2m_peek(m.vm, gfn(8), &f, NULL), -ENOENT);
	assert_int_equal(m.vm->obs.tables.guest_frames, 1);
	unmake(&m);
}

static void test_no_ram(void **state)
{
	struct machine m;
	mfn_t f;

	(void)state;
	make(&m, SIZE_2M + PAGE_SIZE, HOST_PAGES_2M);
	assert_int_equal(p2m_get(m.vm, gfn(513), &f, NULL), -EFAULT);
	assert_int_equal(p2m_get(m.vm, gfn(~0ull), &f, NULL), -EFAULT);
	assert_false(p2m_is_ram(m.vm, SIZE_2M + PAGE_SIZE));
	assert_true(p2m_is_ram(m.vm, SIZE_2M + PAGE_SIZE - 1));
	assert_null(p2m_ptr(m.vm, ~0ull));
	unmake(&m);
}

/* A run is naturally aligned on both sides; where it would leave guest RAM, frames come one by one. */
static void test_runs(void **state)
{
	struct machine m;
	unsigned order;
	mfn_t f, last;

	(void)state;
	make(&m, 2 * SIZE_2M + 4 * PAGE_SIZE, HOST_PAGES_2M);
	assert_int_equal(p2m_get(m.vm, gfn(700), &f, &order), 0);
	assert_int_equal(order, 9);
	assert_int_equal(f.v % 512, 700 % 512);
	assert_int_equal(p2m_peek(m.vm, gfn(1023), &last, NULL), 0);
	assert_int_equal(last.v - f.v, 1023 - 700);
	assert_int_equal(p2m_peek(m.vm, gfn(511), &f, NULL), -ENOENT);
	assert_int_equal(p2m_get(m.vm, gfn(1025), &f, &order), 0);
	assert_int_equal(order, 0);
	assert_int_equal(m.vm->obs.tables.guest_frames, 513);
	unmake(&m);
}

/* No run is to be had: single frames all the same, until there are none. */
static void test_exhausted(void **state)
{
	struct machine m;
	uint64_t g = 0;
	unsigned order;
	mfn_t f;
	int r;

	(void)state;
	make(&m, SIZE_1G / 4, HOST_PAGES_2M);
	while (machmem_alloc(&m.mem, 9, OWNER_MACHINE, &f) == 0)
		;
	assert_int_equal(p2m_get(m.vm, gfn(0), &f, &order), 0);
	assert_int_equal(order, 0);
	while ((r = p2m_get(m.vm, gfn(++g), &f, &order)) == 0)
		;
	assert_int_equal(r, -ENOMEM);
	assert_int_equal(hv_mmu_ept.ept_violation(m.vm, g << PAGE_SHIFT, EPT_VIOL_READ), HV_FAIL);
	assert_non_null(strstr(m.vm->fail_text, "no machine memory"));
	unmake(&m);
}

static void test_ept_sizes(void **state)
{
	static const struct { enum host_pages pages; uint64_t tables; } expect[] = {
		{HOST_PAGES_4K, 4}, {HOST_PAGES_2M, 3}, {HOST_PAGES_1G, 2}};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(expect); i++) {
		struct machine m;
		struct obs obs = {0};
		char text[160];

		make(&m, SIZE_1G, expect[i].pages);
		assert_int_equal(hv_mmu_ept.ept_violation(m.vm, 0x345678, EPT_VIOL_WRITE), HV_RESUME);
		hv_mmu_ept.observe(m.vm, &obs);
		assert_int_equal(obs.tables.ept_bytes, expect[i].tables << PAGE_SHIFT);
		assert_true(hv_mmu_ept.audit(m.vm, text, sizeof(text)));
		assert_int_equal(hv_mmu_ept.ept_violation(m.vm, SIZE_1G, EPT_VIOL_READ), HV_EMULATE);
		unmake(&m);
	}
}

/* Walks the EPT as the hardware does to the leaf of @a. */
static uint64_t *leaf_of(struct machine *m, uint64_t a)
{
	uint64_t table = hv_read(m->vm, VMCS_EPTP) & EPT_ADDR_MASK;

	for (unsigned shift = 39;; shift -= 9) {
		uint64_t *e = (uint64_t *)machmem_ptr(&m->mem, hpa(table)) + (a >> shift & 511);

		if (shift == 12 || *e & EPT_PS)
			return e;
		table = *e & EPT_ADDR_MASK;
	}
}

static void test_audit(void **state)
{
	struct machine m;
	char text[160] = "";
	uint64_t *leaf;

	(void)state;
	make(&m, SIZE_1G / 4, HOST_PAGES_4K);
	assert_int_equal(hv_mmu_ept.ept_violation(m.vm, 0x5000, EPT_VIOL_WRITE), HV_RESUME);
	assert_int_equal(hv_mmu_ept.ept_violation(m.vm, 0x6000, EPT_VIOL_WRITE), HV_RESUME);
	leaf = leaf_of(&m, 0x5000);
	assert_int_equal(*leaf & (EPT_R | EPT_W | EPT_X), EPT_R | EPT_W | EPT_X);
	*leaf += PAGE_SIZE;
	assert_false(hv_mmu_ept.audit(m.vm, text, sizeof(text)));
	assert_non_null(strstr(text, "gfn 5"));
	/* A change of the p2m drops what it makes wrong. */
	hv_mmu_ept.p2m_changed(m.vm, gfn(5), 1);
	assert_int_equal(*leaf, 0);
	assert_true(hv_mmu_ept.audit(m.vm, text, sizeof(text)));
	unmake(&m);
}

/* Two VMs on one machine: frames of their own, an audit that sees a foreign one, and all of them back at the end. */
static void test_owners(void **state)
{
	struct engine_config cfg = {.mmu = ENGINE_EPT, .memory = SIZE_2M};
	struct machmem_range guest = {0, SIZE_2M};
	struct machine m;
	struct hv_vm *other;
	char text[160] = "";
	struct error err;
	uint64_t free_frames, *leaf, mine;
	mfn_t f;

	(void)state;
	make(&m, SIZE_2M, HOST_PAGES_4K);
	cpu_config_default(&cfg.cpu);
	assert_int_equal(hv_create(&other, &m.hv, &cfg, &guest, 1, &err), 0);
	assert_int_not_equal(other->owner, m.vm->owner);
	assert_int_not_equal(other->vpid, m.vm->vpid);
	free_frames = m.mem.frames_free;
	assert_int_equal(p2m_get(other, gfn(5), &f, NULL), 0);
	assert_int_equal(machmem_owner(&m.mem, f), other->owner);

	hv_make_current(m.vm);
	assert_int_equal(hv_mmu_ept.ept_violation(m.vm, 0x5000, EPT_VIOL_WRITE), HV_RESUME);
	assert_true(hv_audit_owners(m.vm, text, sizeof(text)));
	leaf = leaf_of(&m, 0x5000);
	mine = *leaf;
	*leaf = (mine & ~EPT_ADDR_MASK) | f.v << PAGE_SHIFT;
	assert_false(hv_audit_owners(m.vm, text, sizeof(text)));
	assert_non_null(strstr(text, "owner is 17 instead of 16"));
	*leaf = (mine & ~EPT_ADDR_MASK) | other->vmcs.v;
	assert_false(hv_audit_owners(m.vm, text, sizeof(text)));
	*leaf = mine;
	assert_true(hv_audit_owners(m.vm, text, sizeof(text)));

	hv_destroy(other);
	assert_int_equal(machmem_owner(&m.mem, f), OWNER_NONE);
	assert_in_range(free_frames + 1 - m.mem.frames_free, 1, 4); /* the first VM's page and its tables; the other's root came back */
	unmake(&m);
}

/* ---- frames that move ---- */

static void fill(struct machine *m, uint64_t g, uint8_t with)
{
	m->vm->mmu->ept_violation(m->vm, g << PAGE_SHIFT, EPT_VIOL_WRITE); /* a larger page may have mapped it already */
	memset(p2m_ptr(m->vm, g << PAGE_SHIFT), with, PAGE_SIZE);
}

static void expect(struct machine *m, uint64_t g, uint8_t with)
{
	const uint8_t *p = p2m_ptr(m->vm, g << PAGE_SHIFT);

	for (unsigned i = 0; i < PAGE_SIZE; i += 511)
		assert_int_equal(p[i], with);
}

static void audited(struct machine *m)
{
	char text[160] = "";
	bool ok = m->vm->mmu->audit(m->vm, text, sizeof(text)) && hv_audit_owners(m->vm, text, sizeof(text));

	assert_string_equal(text, "");
	assert_true(ok);
}

struct moves {
	unsigned before, after;
	uint64_t last;
};

static void note_move(void *ctx, gfn_t g, bool done)
{
	struct moves *v = ctx;

	v->last = g.v;
	*(done ? &v->after : &v->before) += 1;
}

/* Contents go along, untouched pages get frames, the old ones come back to the machine, nothing says anything stale. */
static void test_make_run(void **state)
{
	for (enum host_pages pages = HOST_PAGES_4K; pages <= HOST_PAGES_2M; pages++) {
		struct moves moved = {0};
		const struct p2m_watch watch = {.moves = note_move, .ctx = &moved};
		struct machine m;
		uint64_t free_before;
		mfn_t first, f;

		(void)state;
		make(&m, SIZE_1G / 4, pages);
		p2m_set_watch(m.vm, &watch);
		for (uint64_t g = 1100; g > 1000; g -= 3)
			fill(&m, g, (uint8_t)g);
		free_before = m.mem.frames_free + m.vm->obs.tables.guest_frames;
		assert_int_equal(p2m_make_run(m.vm, gfn(1010), 77, 0, &first), 0);
		if (pages == HOST_PAGES_4K) {
			assert_int_equal(moved.before, 26);
			assert_int_equal(moved.after, 26);
			assert_in_range(moved.last, 1010, 1086);
			assert_int_equal(m.vm->obs.pv.moved, 26);
		}
		assert_int_equal(m.mem.frames_free + m.vm->obs.tables.guest_frames, free_before);
		for (uint64_t g = 1010; g < 1087; g++) {
			assert_int_equal(p2m_peek(m.vm, gfn(g), &f, NULL), 0);
			assert_int_equal(f.v, first.v + g - 1010);
			assert_int_equal(machmem_owner(&m.mem, f), m.vm->owner);
			expect(&m, g, g % 3 == 1100 % 3 ? (uint8_t)g : 0);
		}
		for (uint64_t g = 1100; g > 1000; g -= 3)
			expect(&m, g, (uint8_t)g);
		audited(&m);
		for (uint64_t g = 1010; g < 1087; g++)
			fill(&m, g, (uint8_t)(g + 1));
		audited(&m);
		/* It is one already: nothing moves. */
		moved = (struct moves){0};
		assert_int_equal(p2m_make_run(m.vm, gfn(1020), 20, 0, &f), 0);
		assert_int_equal(f.v, first.v + 10);
		assert_int_equal(moved.before, 0);
		unmake(&m);
	}
}

static void test_make_run_refused(void **state)
{
	struct machine m;
	mfn_t f, first;
	uint64_t left;

	(void)state;
	make(&m, SIZE_2M * 4, HOST_PAGES_4K);
	assert_int_equal(p2m_make_run(m.vm, gfn(2047), 2, 0, &f), -EFAULT);
	assert_int_equal(p2m_make_run(m.vm, gfn(5), 0, 0, &f), -EFAULT);
	assert_int_equal(p2m_make_run(m.vm, gfn(5), UINT64_MAX, 0, &f), -EFAULT);
	assert_int_equal(p2m_make_run(m.vm, gfn(2048), 512, 9, &f), -EFAULT);
	fill(&m, 7, 0x77);
	assert_int_equal(p2m_peek(m.vm, gfn(7), &first, NULL), 0);
	/* Of what is left every other frame is taken: no two in a row. */
	while (machmem_alloc(&m.mem, 0, OWNER_MACHINE, &f) == 0)
		;
	for (uint64_t k = 0; k < m.mem.span >> PAGE_SHIFT; k += 2)
		if (m.mem.owner[k] == OWNER_MACHINE)
			machmem_free(&m.mem, mfn(k), 1);
	left = m.mem.frames_free;
	assert_int_equal(p2m_make_run(m.vm, gfn(7), 2, 0, &f), -ENOMEM);
	assert_int_equal(p2m_make_run(m.vm, gfn(0), 512, 9, &f), -ENOMEM);
	assert_int_equal(machmem_alloc_run(&m.mem, 2, OWNER_MACHINE, &f), -ENOMEM);
	assert_int_equal(machmem_alloc_run(&m.mem, 0, OWNER_MACHINE, &f), -EINVAL);
	assert_int_equal(m.mem.frames_free, left);
	assert_int_equal(p2m_peek(m.vm, gfn(7), &f, NULL), 0);
	assert_int_equal(f.v, first.v);
	expect(&m, 7, 0x77);
	audited(&m);
	assert_int_equal(machmem_alloc_run(&m.mem, 1, OWNER_MACHINE, &f), 0);
	assert_int_equal(m.mem.frames_free, left - 1);
	unmake(&m);
}

/* HugeGPT: a region in use becomes one large page of the EPT. */
static void test_huge(void **state)
{
	struct machine m;
	struct pv_request ask = {.op = PV_HUGE, .gpa = SIZE_2M, .pages = 1024};
	unsigned order;
	mfn_t f;

	(void)state;
	make_under(&m, ENGINE_HUGEGPT, SIZE_2M * 8, HOST_PAGES_4K);
	for (uint64_t g = 300; g < 1400; g += 7)
		fill(&m, g, (uint8_t)(g * 3));
	m.vm->mmu->pv_done(m.vm, &ask);
	assert_int_equal(m.vm->obs.pv.huge_regions, 2);
	assert_int_equal(m.vm->obs.pv.huge_failed, 0);
	for (uint64_t g = 300; g < 1400; g += 7)
		expect(&m, g, (uint8_t)(g * 3));
	audited(&m);
	fill(&m, 600, 1);
	assert_true(*leaf_of(&m, 600 << PAGE_SHIFT) & EPT_PS);
	assert_int_equal(p2m_peek(m.vm, gfn(1535), &f, &order), 0);
	assert_int_equal(order, 9);
	assert_false(*leaf_of(&m, 300 << PAGE_SHIFT) & EPT_PS);
	audited(&m);
	/* Asked for again: it is so. Another one, and the machine has none left. */
	m.vm->mmu->pv_done(m.vm, &ask);
	assert_int_equal(m.vm->obs.pv.huge_regions, 4);
	while (machmem_alloc(&m.mem, 9, OWNER_MACHINE, &f) == 0)
		;
	ask = (struct pv_request){.op = PV_HUGE, .gpa = SIZE_2M * 4, .pages = 512};
	m.vm->mmu->pv_done(m.vm, &ask);
	assert_int_equal(m.vm->obs.pv.huge_failed, 1);
	audited(&m);
	unmake(&m);
}

/* A large host page that loses a part of its frames is none any more. */
static void test_break_large(void **state)
{
	struct machine m;
	unsigned order;
	mfn_t f;

	(void)state;
	make(&m, SIZE_2M * 4, HOST_PAGES_2M);
	for (uint64_t g = 512; g < 1024; g++)
		memset(p2m_ptr(m.vm, g << PAGE_SHIFT), (int)(g & 0xff), PAGE_SIZE);
	assert_int_equal(m.vm->mmu->ept_violation(m.vm, 600 << PAGE_SHIFT, EPT_VIOL_WRITE), HV_RESUME);
	assert_true(*leaf_of(&m, 600 << PAGE_SHIFT) & EPT_PS);
	assert_int_equal(p2m_make_run(m.vm, gfn(1000), 48, 0, &f), 0);
	audited(&m);
	assert_int_equal(p2m_peek(m.vm, gfn(600), &f, &order), 0);
	assert_int_equal(order, 0);
	assert_int_equal(p2m_peek(m.vm, gfn(1040), &f, &order), 0);
	assert_int_equal(order, 0);
	for (uint64_t g = 512; g < 1024; g++)
		expect(&m, g, (uint8_t)g);
	assert_int_equal(m.vm->mmu->ept_violation(m.vm, 600 << PAGE_SHIFT, EPT_VIOL_WRITE), HV_RESUME);
	assert_false(*leaf_of(&m, 600 << PAGE_SHIFT) & EPT_PS);
	audited(&m);
	unmake(&m);
}

/* ---- direct translation: the tables of entries in their areas, gTEAs ---- */

/* Every leaf that a walk finds is the one that the registers lead to. */
static void test_areas(void **state)
{
	static const enum engine_mmu schemes[] = {ENGINE_DMT, ENGINE_PVDMT};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(schemes); i++) {
		for (enum host_pages pages = HOST_PAGES_4K; pages <= HOST_PAGES_2M; pages++) {
			struct machine m;
			const struct vmx_walk *w;

			make_under(&m, schemes[i], SIZE_1G / 4 + 5 * PAGE_SIZE, pages);
			w = &m.cpu->vmx.walk;
			assert_int_equal(w->stages, 2);
			assert_int_equal(w->registers[1], pages == HOST_PAGES_4K ? 1 : 2);
			assert_true(pages == HOST_PAGES_4K || (w->host[1][1].info & DMT_SIZE) >> DMT_SIZE_SHIFT == DMT_2M);
			for (uint64_t g = 3; g < 65540; g = g * 5 / 3) {
				const struct dmt_entry *e = &w->host[1][pages];
				uint64_t *leaf, a = g << PAGE_SHIFT;

				fill(&m, g, 1);
				leaf = leaf_of(&m, a);
				if (pages == HOST_PAGES_4K || !(*leaf & EPT_PS))
					e = &w->host[1][0];
				assert_ptr_equal(leaf, machmem_ptr(&m.mem, hpa(dmt_entry_of(e, a))));
			}
			audited(&m);
			unmake(&m);
		}
	}
}

static void request(struct machine *m, enum pv_op op, uint64_t gpa, uint64_t pages, uint64_t id)
{
	struct pv_request r = {.op = op, .gpa = gpa, .pages = pages, .id = id};

	pv_serve(&m->vm->emul->pv.state, &r, machmem_holds(m->vm->ram, m->vm->rams, gpa, pages << PAGE_SHIFT));
	assert_int_equal(r.status, PV_DONE);
	assert_int_equal(r.id, id);
	m->vm->mmu->pv_done(m->vm, &r);
	audited(m);
}

/* What a register with the identifier would read at @gpa, by machine address: false: it is refused, or goes through EPT. */
static bool by_machine(struct machine *m, uint64_t gpa, uint64_t entries, uint64_t id, uint64_t *at)
{
	const struct dmt_entry e = {.start = SIZE_1G, .end = SIZE_1G + (entries << PAGE_SHIFT), .tea = gpa,
				    .info = DMT_P | id << DMT_ID_SHIFT};
	const struct dmt_stage *s = &m->cpu->mmu.dmt.stage[0];

	vmx_set_guest_dmt(m->cpu, 0x1000 | 1, &e);
	if (!s->count[DMT_SMALL] || !s->reg[DMT_SMALL][0].machine)
		return false;
	*at = s->reg[DMT_SMALL][0].tea;
	return true;
}

static void test_gteas(void **state)
{
	static const enum engine_mmu schemes[] = {ENGINE_PVDMT, ENGINE_NESTED_PVDMT};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(schemes); i++) {
		struct machine m;
		uint64_t at, refused;
		mfn_t f;

		make_under(&m, schemes[i], SIZE_2M * 8, HOST_PAGES_4K);
		for (uint64_t g = 120; g > 90; g--)
			memset(p2m_ptr(m.vm, g << PAGE_SHIFT), (int)g, PAGE_SIZE);
		request(&m, PV_TEA_ALLOC, 100 << PAGE_SHIFT, 16, 1);
		request(&m, PV_TEA_ALLOC, 200 << PAGE_SHIFT, 3, 2);
		assert_int_equal(m.vm->obs.pv.runs, 2);
		assert_true(by_machine(&m, (100 << PAGE_SHIFT) + 8, 16 * 512 - 1, 1, &at));
		assert_int_equal(p2m_peek(m.vm, gfn(100), &f, NULL), 0);
		assert_int_equal(at, (f.v << PAGE_SHIFT) + 8);
		for (uint64_t g = 90; g < 120; g++)
			expect(&m, g, g > 90 ? (uint8_t)g : 0);
		/* Beyond its end, before its beginning, another's, nobody's. */
		refused = m.cpu->mmu.stats.dmt.refused;
		assert_false(by_machine(&m, (100 << PAGE_SHIFT) + 8, 16 * 512, 1, &at));
		assert_false(by_machine(&m, (100 << PAGE_SHIFT) - 8, 2, 1, &at));
		assert_false(by_machine(&m, 100 << PAGE_SHIFT, 2, 2, &at));
		assert_false(by_machine(&m, 100 << PAGE_SHIFT, 2, 3, &at));
		assert_false(by_machine(&m, 100 << PAGE_SHIFT, 2, 0xffff, &at));
		assert_int_equal(m.cpu->mmu.stats.dmt.refused, refused + 5);
		/* Freed: the identifier means nothing, and is given again. */
		request(&m, PV_TEA_FREE, 0, 0, 1);
		assert_false(by_machine(&m, 100 << PAGE_SHIFT, 2, 1, &at));
		request(&m, PV_TEA_ALLOC, 300 << PAGE_SHIFT, 40, 1);
		assert_true(by_machine(&m, 300 << PAGE_SHIFT, 2, 1, &at));
		assert_false(by_machine(&m, 100 << PAGE_SHIFT, 2, 1, &at));
		/* No frames in a row: the identifier stands, and its addresses go through the host's stage. */
		while (machmem_alloc(&m.mem, 0, OWNER_MACHINE, &f) == 0)
			;
		request(&m, PV_TEA_ALLOC, 500 << PAGE_SHIFT, 2, 3);
		assert_int_equal(m.vm->obs.pv.runs_failed, 1);
		refused = m.cpu->mmu.stats.dmt.refused;
		assert_false(by_machine(&m, 500 << PAGE_SHIFT, 2, 3, &at));
		assert_int_equal(m.cpu->mmu.stats.dmt.refused, refused);
		unmake(&m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lazy), cmocka_unit_test(test_no_ram), cmocka_unit_test(test_runs),
		cmocka_unit_test(test_exhausted), cmocka_unit_test(test_ept_sizes), cmocka_unit_test(test_audit),
		cmocka_unit_test(test_owners), cmocka_unit_test(test_make_run), cmocka_unit_test(test_make_run_refused),
		cmocka_unit_test(test_huge), cmocka_unit_test(test_break_large),
		cmocka_unit_test(test_areas), cmocka_unit_test(test_gteas),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
