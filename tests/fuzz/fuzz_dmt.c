/*
 * Direct translation under any registers, memory and requests: an access ends in the guest's own memory and by rights
 * that its hosts give, or in an event; what was asked for stays in order; nothing else is touched.
 *
 * The input is a list of things to do: what, and as many bytes as that takes; at its end zeros. The world: 32 MiB of
 * guest-physical memory at MACHINE, an EPT of 2 MiB pages for it, and beside it two hosts' arrays of 4 KiB entries that
 * say the same. Every fifth page is not to be written, which EPT, that is coarser, does not know.
 */
#include <stdbool.h>
#include <string.h>

#include "arch/vmx.h"
#include "mmu/mmu.h"
#include "pick.h"

#include "fuzz_main.h"

#define MACHINE (64ull << 20)
#define GUEST   (32ull << 20)
#define MEMORY  (128ull << 20)
#define BASE    (5ull << 39) /* of linear addresses */
enum { STAGE2_PML4 = 0x1000, STAGE2_PDPT = 0x2000, STAGE2_PD = 0x3000, HOSTS = 0x10000, HOST_BYTES = 0x10000 };
enum { ROOT = 0x1000, PDPT = 0x2000, PD = 0x3000, PT = 0x4000, TABLES = 8 }; /* guest-physical */

struct world {
	struct machmem mem;
	struct mmu mmu;
	struct pv_state pv;
	struct dmt_gtea gtea[PV_TEAS_MAX];
	const uint8_t *data;
	size_t left;
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void take(struct world *w, void *to, size_t n)
{
	size_t have = n < w->left ? n : w->left;

	memset(to, 0, n);
	memcpy(to, w->data, have);
	w->data += have;
	w->left -= have;
}

static uint64_t number(struct world *w, size_t n)
{
	uint64_t v = 0;

	take(w, &v, n);
	return v;
}

static void put(struct world *w, uint64_t at, uint64_t v) { put_u64(machmem_ptr(&w->mem, hpa(at)), v); }
static uint64_t get(const struct world *w, uint64_t at) { return machmem_read64(&w->mem, hpa(at)); }

/* ---- the world ---- */

static uint64_t host_rights(uint64_t page) { return page % 5 ? 7 : EPT_R | EPT_X; }
static uint64_t host_entry(unsigned host, uint64_t page)
{
	/* The first of two hosts leads to addresses that the second knows: the same. */
	return ((host == 0 ? 0 : MACHINE) + page * PAGE_SIZE) | host_rights(page) | EPT_MT_WB << EPT_MT_SHIFT;
}

static void build(struct world *w)
{
	const uint64_t upper = PTE_P | PTE_W | PTE_U | PTE_A;

	put(w, STAGE2_PML4, STAGE2_PDPT | 7);
	put(w, STAGE2_PDPT, STAGE2_PD | 7);
	for (uint64_t a = 0; a < GUEST; a += SIZE_2M)
		put(w, STAGE2_PD + a / SIZE_2M * 8, (MACHINE + a) | 7 | EPT_PS | EPT_MT_WB << EPT_MT_SHIFT);
	for (unsigned h = 0; h < 2; h++)
		for (uint64_t p = 0; p < GUEST / PAGE_SIZE; p++)
			put(w, HOSTS + h * HOST_BYTES + p * 8, host_entry(h, p));
	put(w, MACHINE + ROOT + (BASE >> 39 & 511) * 8, PDPT | upper);
	put(w, MACHINE + PDPT, PD | upper);
	for (uint64_t t = 0; t < TABLES; t++) {
		put(w, MACHINE + PD + t * 8, (PT + t * PAGE_SIZE) | upper);
		for (uint64_t i = 0; i < 512; i++)
			put(w, MACHINE + PT + t * PAGE_SIZE + i * 8, (t * 512 + i) % (GUEST / PAGE_SIZE) << 12 | upper | PTE_D);
	}
}

static void set_hosts(struct world *w, unsigned stages, bool ad, bool gteas)
{
	struct mmu_regs r = {.cr0 = CR0_PE | CR0_PG | CR0_WP, .cr3 = ROOT, .cr4 = CR4_PAE | CR4_PGE,
			     .efer = EFER_LME | EFER_LMA | EFER_NXE, .nested = true,
			     .eptp = STAGE2_PML4 | EPTP_WALK_4 | EPT_MT_WB | (ad ? EPTP_AD : 0)};
	struct dmt_entry e = {0, GUEST, HOSTS + (stages < 3 ? HOST_BYTES : 0), DMT_P};

	mmu_set_regs(&w->mmu, &r);
	mmu_dmt_load_host(&w->mmu, 1, &e, 1);
	e.tea = HOSTS + HOST_BYTES;
	mmu_dmt_load_host(&w->mmu, 2, &e, 1);
	mmu_dmt_set_stages(&w->mmu, stages);
	mmu_dmt_set_gteas(&w->mmu, gteas ? w->gtea : NULL, PV_TEAS_MAX);
}

/* ---- what is done ---- */

static void load_registers(struct world *w)
{
	struct dmt_entry e[DMT_REGISTERS];
	unsigned n = (unsigned)number(w, 1) % (DMT_REGISTERS + 1);

	take(w, e, n * sizeof(*e));
	mmu_dmt_load(&w->mmu, e, n);
}

static void ask(struct world *w)
{
	struct pv_request r;

	memset(&r, 0, sizeof(r));
	take(w, &r, 32);
	pv_serve(&w->pv, &r, r.gpa < GUEST && pv_range_bytes(&r) <= GUEST - r.gpa);
	for (unsigned i = 0; i < PV_TEAS_MAX; i++) {
		const struct pv_range *t = &w->pv.tea[i];

		must(!t->pages || (t->gpa < GUEST && t->pages <= (GUEST - t->gpa) / PAGE_SIZE));
		for (unsigned j = 0; j < i && t->pages; j++)
			must(!pv_overlap(t, &w->pv.tea[j]));
		w->gtea[i] = (struct dmt_gtea){t->gpa, t->pages, i % 3 ? MACHINE + t->gpa : DMT_SCATTERED};
	}
	must(r.status != PV_DONE || r.op != PV_TEA_ALLOC || w->pv.tea[r.id - 1].gpa == r.gpa);
	if (w->mmu.dmt.gtea)
		mmu_dmt_set_gteas(&w->mmu, w->gtea, PV_TEAS_MAX);
}

static void access_memory(struct world *w)
{
	uint64_t lin = BASE + number(w, 4) % (TABLES * SIZE_2M + SIZE_2M);
	enum access_kind kind = (enum access_kind)(number(w, 1) % ACCESS_KINDS);
	uint64_t before = w->mmu.stats.dmt.translations;
	struct xlate x = {.page = hpa(0)};
	enum xlate_event ev;
	uint16_t rights;

	ev = mmu_translate(&w->mmu, gva(lin), kind, MODE_USER, &x, &rights);
	if (ev)
		return;
	must(x.page.v - MACHINE < GUEST);
	if (w->mmu.stats.dmt.translations != before && kind == ACCESS_WRITE)
		must((x.page.v - MACHINE) / PAGE_SIZE % 5);
}

static void do_one(struct world *w)
{
	uint64_t at;

	switch (number(w, 1) % 8) {
	case 0:
		load_registers(w);
		break;
	case 1:
		at = MACHINE + number(w, 4) % (GUEST / 8) * 8;
		put(w, at, number(w, 8));
		break;
	case 2:
		ask(w);
		break;
	case 3:
		at = number(w, 1);
		set_hosts(w, (unsigned)(at & 3), at & 4, at & 8);
		break;
	case 4:
		mmu_flush_everything(&w->mmu);
		break;
	default:
		access_memory(w);
	}
}

static void check_hosts(const struct world *w)
{
	uint64_t counted = 0;

	for (unsigned h = 0; h < 2; h++)
		for (uint64_t p = 0; p < GUEST / PAGE_SIZE; p++)
			must((get(w, HOSTS + h * HOST_BYTES + p * 8) & ~(EPT_A | EPT_D)) == host_entry(h, p));
	for (unsigned i = 0; i < HW_PLACES; i++)
		counted += w->mmu.stats.ref_hits[i];
	must(counted == w->mmu.stats.refs && counted == w->mmu.stats.stage_refs[0] + w->mmu.stats.stage_refs[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machmem_range ram = {0, MEMORY};
	struct world *w = calloc(1, (sizeof(*w) + 63) & ~(size_t)63);
	struct hw hw;

	hw_default(&hw);
	must(w && !machmem_init(&w->mem, &ram, 1, NULL) && !mmu_init(&w->mmu, &w->mem, &hw, NULL));
	build(w);
	set_hosts(w, 2, false, true);
	for (w->data = data, w->left = size; w->left;)
		do_one(w);
	check_hosts(w);
	mmu_destroy(&w->mmu);
	machmem_destroy(&w->mem);
	free(w);
	return 0;
}

/* ---- inputs that nearly make sense ---- */

static uint64_t any(void) { return next_random(&random_state); }

struct script { uint8_t byte[4096]; size_t n; };

static void add(struct script *s, uint64_t v, size_t n)
{
	if (s->n + n <= sizeof(s->byte)) {
		memcpy(s->byte + s->n, &v, n);
		s->n += n;
	}
}

static void add_register(struct script *s)
{
	uint64_t area = pick(TABLES), large = pick(4) == 0;

	add(s, pick(24) ? BASE + area * SIZE_2M : any(), 8);
	add(s, pick(24) ? BASE + (area + 1 + pick(2)) * SIZE_2M : any(), 8);
	add(s, pick(24) ? (large ? PD + area * 8 : PT + area * PAGE_SIZE) : pick(4) ? pick(1u << 25) & ~7u : any(), 8);
	add(s, pick(24) ? DMT_P | large << DMT_SIZE_SHIFT | (uint64_t)pick(4) << DMT_ID_SHIFT : any(), 8);
}

static void add_something(struct script *s)
{
	unsigned what = pick(4) ? 5 : pick(8), n = 1 + pick(pick(4) ? 4 : DMT_REGISTERS);

	add(s, what, 1);
	if (what == 0) {
		for (add(s, n, 1); n > 0; n--)
			add_register(s);
	} else if (what == 1) {
		add(s, pick(2) ? PT / 8 + pick(TABLES * 512) : pick(1u << 22), 4);
		add(s, pick(2) ? pick(GUEST >> 12) << 12 | 0x67u : any(), 8);
	} else if (what == 2) {
		add(s, 1 + pick(3), 8);
		add(s, pick(4) ? PT + pick(4) * PAGE_SIZE : any(), 8);
		add(s, pick(4) ? 1 + pick(8) : any(), 8);
		add(s, pick(4) ? 1 + pick(4) : any(), 8);
	} else if (what == 3) {
		add(s, pick(16), 1);
	} else if (what > 4) {
		add(s, pick(TABLES * (1u << 21)), 4);
		add(s, pick(3), 1);
	}
}

static void fuzz(uint64_t rounds, uint64_t seed)
{
	random_state = seed;
	for (uint64_t i = 0; i < rounds; i++) {
		struct script s;

		for (s.n = 0; s.n < sizeof(s.byte) - 600;)
			add_something(&s);
		LLVMFuzzerTestOneInput(s.byte, s.n);
	}
	printf("%llu inputs\n", (unsigned long long)rounds);
}

int main(int argc, char **argv) { return fuzz_main(argc, argv, 300, 1 << 20, fuzz); }
