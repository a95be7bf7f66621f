/*
 * The hypervisor's walker of guest tables against the processor's: random tables,
 * every paging mode, every kind of access. They share no code, and must agree on
 * the translation or the fault with its error code, and leave the same accessed
 * and dirty flags. The p2m is made the identity, so that both see the same memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>

#include "hv/core.h"

#define MEMORY  (2ull << 20)
#define TABLES  6u       /* frames from FIRST_TABLE that entries point to */
#define FIRST_TABLE 16u
#define TRIALS  60000u

/* What hv.c would do after writing guest memory: there is no code here. */
void hv_snoop(struct hv_vm *vm, uint64_t a, unsigned bytes) { (void)vm, (void)a, (void)bytes; }

static const struct hv_mmu_ops no_mmu;

struct pair {
	struct machmem mem;
	struct mmu mmu;
	struct hv_vm vm;
	struct cpu *cpu;
	uint64_t rng;
	uint8_t before[TABLES * PAGE_SIZE], after[TABLES * PAGE_SIZE];
};

static uint64_t next(struct pair *p)
{
	p->rng ^= p->rng << 13;
	p->rng ^= p->rng >> 7;
	p->rng ^= p->rng << 17;
	return p->rng;
}

static bool chance(struct pair *p, unsigned percent) { return next(p) % 100 < percent; }
static uint64_t table_address(struct pair *p) { return (FIRST_TABLE + next(p) % TABLES) << PAGE_SHIFT; }

static int setup(void **state)
{
	struct pair *p = calloc(1, sizeof(*p));
	struct machmem_range ram = {0, MEMORY};
	mfn_t m;

	assert_non_null(p);
	p->rng = 88172645463325252ull;
	p->cpu = aligned_alloc(64, (sizeof(*p->cpu) + 63) & ~63ull);
	assert_non_null(p->cpu);
	memset(p->cpu, 0, sizeof(*p->cpu));
	assert_int_equal(machmem_init(&p->mem, &ram, 1, NULL), 0);
	assert_int_equal(mmu_init(&p->mmu, &p->mem, &(struct hw){0}, NULL), 0);
	p->vm.mem = &p->mem;
	p->vm.cpu = p->cpu;
	p->vm.mmu = &no_mmu;
	p->vm.owner = OWNER_VM;
	p->vm.ram[0] = ram;
	p->vm.rams = 1;
	assert_int_equal(p2m_init(&p->vm, NULL), 0);
	for (uint64_t g = 0; g < MEMORY >> PAGE_SHIFT; g++) {
		assert_int_equal(p2m_get(&p->vm, gfn(g), &m, NULL), 0);
		assert_int_equal(m.v, g);
	}
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct pair *p = *state;

	p2m_destroy(&p->vm);
	mmu_destroy(&p->mmu);
	machmem_destroy(&p->mem);
	free(p->cpu);
	free(p);
	return 0;
}

static uint64_t random_entry(struct pair *p, bool wide)
{
	uint64_t e = table_address(p) | (next(p) & 0xf1e);

	if (chance(p, 92))
		e |= PTE_P;
	if (chance(p, 85))
		e |= PTE_W | PTE_U;
	if (chance(p, 25))
		e = (e | PTE_PS) & ~(chance(p, 80) ? 0x1fe000ull : 0);
	if (chance(p, 3))
		e |= BIT64(next(p) % 52);
	if (!wide)
		return (uint32_t)e;
	if (chance(p, 8))
		e |= PTE_NX;
	if (chance(p, 50))
		e |= (next(p) & 15) << PTE_PKEY_SHIFT;
	if (chance(p, 2))
		e |= BIT64(52 + next(p) % 7);
	return e;
}

/* Few slots of each table are used, and addresses are made of the same few. */
static unsigned slot(struct pair *p) { return (unsigned)(next(p) % 4) * 85; }

static void random_tables(struct pair *p, bool wide)
{
	for (unsigned t = 0; t < TABLES; t++) {
		uint8_t *table = machmem_ptr(&p->mem, hpa((uint64_t)(FIRST_TABLE + t) << PAGE_SHIFT));

		memset(table, 0, PAGE_SIZE);
		for (unsigned i = 0; i < 4; i++) {
			if (wide)
				put_u64(table + i * 85 * 8, random_entry(p, true));
			else
				put_u32(table + i * 85 * 4, (uint32_t)random_entry(p, false));
		}
	}
}

static void random_mode(struct pair *p, struct mmu_regs *r)
{
	unsigned mode = (unsigned)(next(p) % 4);

	*r = (struct mmu_regs){.cr0 = CR0_PE | CR0_PG | (chance(p, 60) ? CR0_WP : 0)};
	r->cr4 = (chance(p, 50) ? CR4_SMEP : 0) | (chance(p, 50) ? CR4_SMAP : 0) | (chance(p, 50) ? CR4_PKE : 0) |
		 (chance(p, 50) ? CR4_PSE : 0) | (chance(p, 50) ? CR4_PGE : 0);
	r->efer = chance(p, 70) ? EFER_NXE : 0;
	if (mode >= 1)
		r->cr4 |= CR4_PAE;
	if (mode >= 2)
		r->efer |= EFER_LME | EFER_LMA;
	if (mode == 3)
		r->cr4 |= CR4_LA57;
	r->cr3 = table_address(p);
	r->pkru = (uint32_t)next(p);
	for (unsigned i = 0; i < 4; i++)
		r->pdpte[i] = table_address(p) | (chance(p, 90) ? PTE_P : 0);
}

static uint64_t random_address(struct pair *p, const struct mmu_regs *r)
{
	unsigned levels = r->efer & EFER_LMA ? (r->cr4 & CR4_LA57 ? 5 : 4) : r->cr4 & CR4_PAE ? 2 : 0;
	uint64_t a = next(p) & ~PAGE_MASK;

	for (unsigned l = 0; l < levels; l++)
		a |= (uint64_t)slot(p) << (12 + 9 * l);
	if (levels == 2)
		a |= (next(p) & 3) << 30;
	if (!levels)
		a |= (uint64_t)slot(p) << 22 | (uint64_t)slot(p) << 12;
	return levels >= 4 ? (uint64_t)((int64_t)(a << (64 - 9 * levels - 12)) >> (64 - 9 * levels - 12)) : a;
}

/* Returns whether the address was mapped. */
static bool both(struct pair *p, const struct mmu_regs *r)
{
	uint64_t lin = random_address(p, r);
	enum access_kind kind = (enum access_kind)(next(p) % 3);
	enum access_mode mode = (enum access_mode)(next(p) % 3);
	void *tables = machmem_ptr(&p->mem, hpa((uint64_t)FIRST_TABLE << PAGE_SHIFT));
	struct guest_walk w;
	struct xlate x = {0};
	uint16_t rights;
	enum xlate_event ev;

	memcpy(p->before, tables, sizeof(p->before));
	ev = mmu_translate(&p->mmu, gva(lin), kind, mode, &x, &rights);
	memcpy(p->after, tables, sizeof(p->after));
	memcpy(tables, p->before, sizeof(p->before));
	guest_walk(&p->vm, lin, kind, mode, true, &w);

	assert_int_equal(w.ok, ev == XLATE_OK);
	if (w.ok)
		assert_int_equal(w.gpa, x.page.v | (lin & ~PAGE_MASK));
	else
		assert_int_equal(w.error, x.error_code);
	assert_memory_equal(tables, p->after, sizeof(p->after));
	return w.ok;
}

static void test_agree(void **state)
{
	static const unsigned widths[] = {36, 39, 46, 52};
	struct pair *p = *state;
	unsigned mapped = 0;

	for (unsigned n = 0; n < TRIALS; n++) {
		struct mmu_regs r;

		random_mode(p, &r);
		random_tables(p, r.cr4 & CR4_PAE);
		p->mmu.maxphyaddr = p->vm.cfg.cpu.maxphyaddr = widths[next(p) % 4];
		p->mmu.pages_1g = p->vm.cfg.cpu.feature[CPUF_PDPE1GB] = chance(p, 70);
		mmu_set_regs(&p->mmu, &r);
		mmu_flush_everything(&p->mmu);
		p->vm.guest = (struct hv_guest_regs){.cr0 = r.cr0, .cr3 = r.cr3, .cr4 = r.cr4, .efer = r.efer};
		memcpy(p->vm.guest.pdpte, r.pdpte, sizeof(r.pdpte));
		p->cpu->pkru = r.pkru;
		mapped += both(p, &r);
	}
	/* Neither faults nor translations may be all there is. */
	assert_in_range(mapped, TRIALS / 20, TRIALS - TRIALS / 20);
}

static void test_no_paging(void **state)
{
	struct pair *p = *state;
	struct guest_walk w;

	p->vm.guest = (struct hv_guest_regs){.cr0 = CR0_PE};
	guest_walk(&p->vm, 0x123456, ACCESS_WRITE, MODE_SUPER, true, &w);
	assert_true(w.ok);
	assert_int_equal(w.gpa, 0x123456);
	assert_int_equal(w.levels, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_agree, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_paging, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
