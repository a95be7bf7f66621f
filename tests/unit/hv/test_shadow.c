/*
 * Shadow paging and brute force against the bare machine. Two machines execute
 * the same accesses: on one the processor walks the guest's tables, on the other
 * it walks what the backend makes of them, its page faults go to the backend, and
 * what the backend wants emulated is emulated. After every access both must have
 * had the same outcome (value, device, or fault with its error code), and from
 * time to time the whole guest memory must be equal, accessed and dirty flags
 * included, and the backend's audit must pass.
 *
 * Tables are random and mostly wrong in some way: they refer to themselves, to
 * devices and to one another at the wrong levels. What the guest does is right
 * in one respect, that it flushes after changing what the TLB may have cached.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "hv/core.h"
#include "hv/shadow.h"

#define MEMORY      (16ull << 20)
#define MACHINE     (64ull << 20)
#define FIRST_TABLE 16u
#define TABLES      24u
#define DEVICE      0xd0000000ull
#define VPID        1

struct vmcs { uint64_t field[0x8000]; };

struct rig {
	struct machmem native_mem, mem;
	struct mmu native;
	struct hv_vm vm;
	struct hv_core core;
	struct cpu *cpu;
	struct vmcs vmcs;
	enum access_mode privilege; /* during the access being made: CPL and EFLAGS.AC */
	uint32_t pkru;
	uint64_t rng;
	bool healthy;           /* tables are mostly in order */
};

static struct rig *rig;

/* ---- what the rest of the hypervisor and the processor would do ---- */

uint64_t hv_read(struct hv_vm *vm, enum vmcs_field f) { (void)vm; return rig->vmcs.field[f]; }
void hv_write(struct hv_vm *vm, enum vmcs_field f, uint64_t v) { (void)vm; rig->vmcs.field[f] = v; }
void hv_snoop(struct hv_vm *vm, uint64_t a, unsigned bytes) { (void)vm, (void)a, (void)bytes; }
enum access_mode hv_access_mode(struct hv_vm *vm)
{
	(void)vm;
	return rig->privilege;
}
enum hv_verdict hv_emulate(struct hv_vm *vm, unsigned max_iterations)
{
	(void)vm, (void)max_iterations;
	return HV_EMULATE;
}
enum hv_verdict hv_fail(struct hv_vm *vm, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(vm->fail_text, sizeof(vm->fail_text), fmt, ap);
	va_end(ap);
	return HV_FAIL;
}
enum vmx_result vmx_invvpid(struct cpu *cpu, uint64_t type, uint16_t vpid, gva_t a)
{
	switch (type) {
	case 0:
		if ((uint64_t)((int64_t)(a.v << 16) >> 16) != a.v)
			return VMX_FAIL_VALID;
		mmu_flush_vpid_page(&cpu->mmu, vpid, a);
		break;
	case 1: mmu_flush_vpid_all(&cpu->mmu, vpid); break;
	case 3: mmu_flush_vpid_keep_globals(&cpu->mmu, vpid); break;
	default: return VMX_FAIL_VALID;
	}
	return VMX_SUCCEED;
}

/* ---- the rig ---- */

static uint64_t next(void)
{
	rig->rng ^= rig->rng << 13;
	rig->rng ^= rig->rng >> 7;
	rig->rng ^= rig->rng << 17;
	return rig->rng;
}
static bool chance(unsigned percent) { return next() % 100 < percent; }
/* Of something going wrong. */
static bool mishap(unsigned percent) { return chance(percent) && !(rig->healthy && chance(90)); }

static void make(const struct hv_mmu_ops *ops, uint64_t seed, struct engine_config cfg)
{
	struct machmem_range ram = {0, MEMORY}, machine = {0, MACHINE};
	struct error err = {0};

	rig = calloc(1, sizeof(*rig));
	assert_non_null(rig);
	rig->rng = seed * 2654435761u + 88172645463325252ull;
	rig->cpu = aligned_alloc(64, (sizeof(*rig->cpu) + 63) & ~63ull);
	assert_non_null(rig->cpu);
	memset(rig->cpu, 0, sizeof(*rig->cpu));
	assert_int_equal(machmem_init(&rig->native_mem, &ram, 1, NULL), 0);
	assert_int_equal(machmem_init(&rig->mem, &machine, 1, NULL), 0);
	assert_int_equal(mmu_init(&rig->native, &rig->native_mem, &(struct hw){0}, NULL), 0);
	assert_int_equal(mmu_init(&rig->cpu->mmu, &rig->mem, &(struct hw){0}, NULL), 0);
	cfg.memory = MEMORY;
	cfg.cpu.maxphyaddr = 46;
	cfg.cpu.feature[CPUF_PDPE1GB] = cfg.cpu.feature[CPUF_NX] = true;
	rig->vm = (struct hv_vm){.cfg = cfg, .mem = &rig->mem, .cpu = rig->cpu, .owner = OWNER_VM, .vpid = VPID,
				 .mmu = ops, .priv = &rig->core, .ram = {ram}, .rams = 1};
	assert_int_equal(p2m_init(&rig->vm, &err), 0);
	assert_int_equal(ops->init(&rig->vm, &err), 0);
	ops->setup_vmcs(&rig->vm);
	rig->vmcs.field[VMCS_GUEST_GDTR_LIMIT] = 0x7f;
}

static void unmake(void)
{
	uint64_t hypervisors = 0;

	rig->vm.mmu->destroy(&rig->vm);
	for (uint64_t f = 0; f < MACHINE >> PAGE_SHIFT; f++)
		hypervisors += machmem_owner(&rig->mem, mfn(f)) == OWNER_HYPERVISOR;
	assert_int_equal(hypervisors, 0);
	p2m_destroy(&rig->vm);
	mmu_destroy(&rig->native);
	mmu_destroy(&rig->cpu->mmu);
	machmem_destroy(&rig->native_mem);
	machmem_destroy(&rig->mem);
	free(rig->cpu);
	free(rig);
}

static void set_native_regs(void)
{
	const struct hv_guest_regs *g = &rig->vm.guest;
	struct mmu_regs r = {.cr0 = g->cr0, .cr3 = g->cr3, .cr4 = g->cr4, .efer = g->efer, .pkru = rig->pkru};

	memcpy(r.pdpte, g->pdpte, sizeof(r.pdpte));
	mmu_set_regs(&rig->native, &r);
}

/* VM entry: the registers the guest runs with, PDPTEs from memory. */
static void enter(void)
{
	struct mmu_regs r = {.cr0 = rig->vmcs.field[VMCS_GUEST_CR0], .cr3 = rig->vmcs.field[VMCS_GUEST_CR3],
			     .cr4 = rig->vmcs.field[VMCS_GUEST_CR4], .efer = rig->vmcs.field[VMCS_GUEST_EFER],
			     .pkru = rig->pkru, .vpid = VPID};

	assert_true(r.cr0 & CR0_PG && r.cr4 & CR4_PAE);
	assert_int_equal(!!(r.efer & EFER_LMA), !!(rig->vmcs.field[VMCS_ENTRY_CTL] & ENTRY_IA32E));
	if (!(r.efer & EFER_LMA)) {
		assert_int_equal(r.cr3 >> 32, 0);
		for (unsigned i = 0; i < 4; i++) {
			r.pdpte[i] = machmem_read64(&rig->mem, hpa((r.cr3 & ~0x1full) + 8 * i));
			assert_int_equal(r.pdpte[i] & 0xfff, r.pdpte[i] & PTE_P);
		}
	}
	mmu_set_regs(&rig->cpu->mmu, &r);
}

enum outcome { VALUE, DEVICE_ACCESS, FAULT };
struct access {
	uint64_t lin, value; /* value: to write, or what was read */
	unsigned bytes;
	enum access_kind kind;
	enum access_mode mode;
	enum outcome outcome;
	uint32_t error;
	bool table;          /* hypervised: it was emulated */
};

static void touch(struct machmem *mem, hpa_t page, struct access *a)
{
	uint8_t *p = machmem_ptr(mem, hpa(page.v + (a->lin & ~PAGE_MASK)));

	if (a->kind == ACCESS_WRITE)
		memcpy(p, &a->value, a->bytes);
	else
		memcpy(&a->value, p, a->bytes);
}

static void access_native(struct access *a)
{
	struct xlate x;
	uint16_t rights;

	set_native_regs();
	if (mmu_translate(&rig->native, gva(a->lin), a->kind, a->mode, &x, &rights) != XLATE_OK) {
		a->outcome = FAULT;
		a->error = x.error_code;
	} else if (rights & TLB_MMIO) {
		a->outcome = DEVICE_ACCESS;
	} else {
		a->outcome = VALUE;
		touch(&rig->native_mem, x.page, a);
	}
}

/* The instruction emulator, for one access. */
static void emulate(struct access *a)
{
	struct guest_walk w;
	mfn_t m;

	a->table = true;
	guest_walk(&rig->vm, a->lin, a->kind, a->mode, true, &w);
	if (!w.ok) {
		a->outcome = FAULT;
		a->error = w.error;
		return;
	}
	if (p2m_get(&rig->vm, gfn(w.gpa >> PAGE_SHIFT), &m, NULL)) {
		a->outcome = DEVICE_ACCESS;
		return;
	}
	a->outcome = VALUE;
	rig->vm.mmu->emulated_access(&rig->vm, w.gpa, a->bytes, a->kind == ACCESS_WRITE);
	touch(&rig->mem, mfn_to_hpa(m), a);
	if (a->kind == ACCESS_WRITE)
		rig->vm.mmu->guest_wrote(&rig->vm, w.gpa, a->bytes);
}

static void access_hypervised(struct access *a)
{
	struct xlate x;
	uint16_t rights;

	rig->privilege = a->mode;
	rig->vmcs.field[VMCS_GUEST_GDTR_BASE] = 0xffffffffffff0000ull;
	if (a->mode == MODE_IMPLICIT) {
		rig->privilege = next() % 3;
		rig->vmcs.field[VMCS_GUEST_GDTR_BASE] = a->lin - 8;
	}
	for (unsigned tries = 0; tries < 20; tries++) {
		enter();
		if (mmu_translate(&rig->cpu->mmu, gva(a->lin), a->kind, a->mode, &x, &rights) == XLATE_OK) {
			/* Resource control. */
			assert_int_equal(machmem_owner(&rig->mem, hpa_to_mfn(x.page)), OWNER_VM);
			a->outcome = VALUE;
			touch(&rig->mem, x.page, a);
			return;
		}
		switch (rig->vm.mmu->page_fault(&rig->vm, a->lin, x.error_code)) {
		case HV_RESUME:
			break;
		case HV_EMULATE:
			emulate(a);
			return;
		case HV_REFLECT:
			assert_int_equal(rig->vm.fault.address, a->lin);
			a->outcome = FAULT;
			a->error = rig->vm.fault.error;
			return;
		case HV_FAIL:
			fail_msg("the backend gave up: %s", rig->vm.fail_text);
		}
	}
	fail_msg("the access to %llx never ends", (unsigned long long)a->lin);
}

static void access_both(struct access *a)
{
	struct access n = *a;

	access_native(&n);
	access_hypervised(a);
	if (n.outcome != a->outcome || (n.outcome == FAULT && n.error != a->error) ||
	    (n.outcome == VALUE && memcmp(&n.value, &a->value, a->bytes)))
		fail_msg("lin %llx kind %d mode %d: native outcome %d error %x value %llx, here %d %x %llx",
			 (unsigned long long)a->lin, a->kind, a->mode, n.outcome, n.error,
			 (unsigned long long)n.value, a->outcome, a->error, (unsigned long long)a->value);
}

static const uint8_t *guest_page(uint64_t frame)
{
	static const uint8_t zeroes[PAGE_SIZE];
	mfn_t m;

	return p2m_peek(&rig->vm, gfn(frame), &m, NULL) ? zeroes : machmem_ptr(&rig->mem, mfn_to_hpa(m));
}

static void check_all(void)
{
	char text[400] = "";

	for (uint64_t f = 0; f < MEMORY >> PAGE_SHIFT; f++) {
		const uint8_t *n = machmem_ptr(&rig->native_mem, mfn_to_hpa(mfn(f))), *h = guest_page(f);

		if (memcmp(n, h, PAGE_SIZE) == 0)
			continue;
		for (unsigned i = 0; i < PAGE_SIZE; i += 8)
			if (get_u64(n + i) != get_u64(h + i))
				fail_msg("memory at %llx: native %llx, here %llx",
					 (unsigned long long)(f << PAGE_SHIFT) + i,
					 (unsigned long long)get_u64(n + i), (unsigned long long)get_u64(h + i));
	}
	if (!rig->vm.mmu->audit(&rig->vm, text, sizeof(text)))
		fail_msg("audit: %s", text);
}

/* A device, or the loader, writes guest memory. */
static void poke(uint64_t gpa, uint64_t v, unsigned bytes)
{
	memcpy(machmem_ptr(&rig->native_mem, hpa(gpa)), &v, bytes);
	memcpy(p2m_ptr(&rig->vm, gpa), &v, bytes);
	rig->vm.mmu->guest_wrote(&rig->vm, gpa, bytes);
}
static uint64_t peek(uint64_t gpa) { return get_u64(machmem_ptr(&rig->native_mem, hpa(gpa))); }

/* ---- control registers and flushes, on both machines ---- */

static void flush_everything(void)
{
	mmu_flush_vpid_all(&rig->native, 0);
	rig->vm.mmu->flush(&rig->vm, HV_FLUSH_ALL, 0);
}

static void flush_address(uint64_t lin)
{
	set_native_regs();
	mmu_flush_page(&rig->native, gva(lin));
	rig->vm.mmu->invlpg(&rig->vm, lin);
}

static void load_pdptes(void)
{
	struct hv_guest_regs *g = &rig->vm.guest;

	for (unsigned i = 0; i < 4 && g->cr4 & CR4_PAE && !(g->efer & EFER_LMA); i++)
		g->pdpte[i] = peek((g->cr3 & 0xffffffe0) + 8 * i) & (PTE_P | PTE_ADDR_MASK);
}

static void load_cr3(uint64_t v, bool flush)
{
	rig->vm.guest.cr3 = v;
	load_pdptes();
	set_native_regs();
	if (flush)
		mmu_flush_pcid(&rig->native, (uint16_t)(rig->vm.guest.cr4 & CR4_PCIDE ? v & CR3_PCID_MASK : 0));
	rig->vm.mmu->load_cr3(&rig->vm, flush);
}

static void set_mode(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	rig->vm.guest.cr0 = cr0;
	rig->vm.guest.cr4 = cr4;
	rig->vm.guest.efer = efer;
	load_pdptes();
	set_native_regs();
	mmu_flush_vpid_all(&rig->native, 0);
	rig->vm.mmu->mode_changed(&rig->vm);
}

static void set_format(enum hwpt_format f, uint64_t cr0_more, uint64_t cr4_more, uint64_t efer_more)
{
	static const uint64_t cr4[] = {0, 0, CR4_PAE, CR4_PAE, CR4_PAE | CR4_LA57};

	set_mode(CR0_PE | (f ? CR0_PG : 0) | cr0_more, cr4[f] | cr4_more,
		 (f >= HWPT_4 ? EFER_LME | EFER_LMA : 0) | efer_more);
}

/* ---- random guests ---- */

static uint64_t any_table(void) { return (FIRST_TABLE + next() % TABLES) << PAGE_SHIFT; }

static uint64_t any_entry(enum hwpt_format f)
{
	uint64_t e = 0, r = next() % 100;

	if (r < (rig->healthy ? 85 : 55))
		e = any_table();
	else if (r < 90 || !mishap(100))
		e = next() % MEMORY & PAGE_MASK;
	else
		e = DEVICE + (next() & 0xf000);
	if (mishap(25) || chance(2))
		e = (e & ~(SIZE_2M - 1)) | PTE_PS;
	if (mishap(3))
		e |= PTE_PS;
	if (mishap(5))
		e = PTE_PS; /* 1 GiB from 0 */
	e |= (mishap(10) ? 0 : PTE_P) | (mishap(20) ? 0 : PTE_W) | (mishap(25) ? 0 : PTE_U) |
	     (chance(60) ? PTE_A : 0) | (chance(50) ? PTE_D : 0) | (chance(30) ? PTE_G : 0);
	if (f == HWPT_32)
		return e & 0xffffffff;
	e |= (mishap(8) ? PTE_NX : 0) | (mishap(2) ? BIT64(50) : 0);
	if (f >= HWPT_4)
		e |= mishap(30) ? (next() & 15) << PTE_PKEY_SHIFT : 0;
	return e;
}

/* Few values for each part of an address, so that the same tables are met again. */
static uint64_t any_lin(enum hwpt_format f)
{
	uint64_t lin = 0;

	for (unsigned shift = 12; shift <= (f == HWPT_5 ? 48 : f == HWPT_4 ? 39 : 21); shift += 9)
		lin |= (next() % 3 * 170) << shift;
	if (f < HWPT_4)
		lin |= next() % 4 << 30;
	if (f == HWPT_NONE)
		lin = chance(90) ? next() % MEMORY : lin;
	return (hwpt_canonical(f, lin) & PAGE_MASK) | (next() & 0xff0);
}

/* Index of a table entry that any_lin() addresses may use. */
static unsigned any_index(enum hwpt_format f)
{
	unsigned width = f == HWPT_32 ? 1024 : 512, i = (unsigned)(next() % 3) * 170;

	if (f == HWPT_32)
		i = (unsigned)((any_lin(f) >> (chance(50) ? 12 : 22)) % width);
	return f == HWPT_PAE && chance(40) ? (unsigned)(next() % 4) : i;
}

static struct access any_access(enum hwpt_format f)
{
	static const unsigned size[] = {1, 2, 4, 8, 8, 8};
	struct access a = {.lin = any_lin(f), .bytes = size[next() % 6], .value = next()};

	a.kind = chance(40) ? ACCESS_WRITE : chance(20) ? ACCESS_FETCH : ACCESS_READ;
	a.mode = chance(45) ? MODE_USER : chance(50) ? MODE_SUPER : chance(60) ? MODE_SUPER_AC : MODE_IMPLICIT;
	if (a.kind == ACCESS_FETCH && a.mode == MODE_IMPLICIT)
		a.mode = MODE_SUPER;
	/* Writes mostly make plausible entries, in case they hit a table. */
	if (a.kind == ACCESS_WRITE && chance(70)) {
		a.bytes = hwpt_entry_bytes(f);
		a.value = any_entry(f);
		a.lin &= ~7ull;
		if (chance(60))
			a.lin = (a.lin & PAGE_MASK) | (any_index(f) * a.bytes & ~PAGE_MASK);
	}
	return a;
}

/* Writes a random entry of a random table from outside; flushes if something present was changed. */
static void poke_entry(enum hwpt_format f)
{
	uint64_t at = any_table() + any_index(f) * hwpt_entry_bytes(f), old = peek(at & ~7ull);

	if (f == HWPT_32)
		old = (uint32_t)(old >> 8 * (at & 7));
	poke(at, any_entry(f), hwpt_entry_bytes(f));
	if (old & PTE_P)
		flush_everything();
}

static void change_mode(enum hwpt_format f)
{
	uint64_t cr4 = (chance(50) ? CR4_PGE : 0) | (mishap(40) ? CR4_SMEP : 0) | (mishap(40) ? CR4_SMAP : 0) |
		       (chance(70) ? CR4_PSE : 0);

	if (f >= HWPT_4)
		cr4 |= (chance(50) ? CR4_PCIDE : 0) | (chance(40) ? CR4_PKE : 0);
	rig->cpu->pkru = rig->pkru = chance(50) ? 0 : (uint32_t)next();
	set_format(f, chance(70) ? CR0_WP : 0, cr4, chance(70) ? EFER_NXE : 0);
}

static void change_space(enum hwpt_format f)
{
	bool pcide = rig->vm.guest.cr4 & CR4_PCIDE;
	uint64_t v = any_table() | (f == HWPT_PAE ? next() % 4 * 32 : 0) | (pcide ? next() % 4 : 0);

	/*
	 * Keeping translations would be wrong of this guest unless it has flushed: it does not remember.
	 * Its global pages are not the same in all address spaces either.
	 */
	if (pcide && chance(30)) {
		flush_everything();
		load_cr3(v, false);
	} else {
		load_cr3(v, true);
		if (rig->vm.guest.cr4 & CR4_PGE)
			flush_everything();
	}
}

/* What the guest wrote through some mapping may have been a table: flush as a guest that knows so. */
static void after_write(const struct access *a, bool changed_table)
{
	if (a->outcome == VALUE && a->kind == ACCESS_WRITE && changed_table)
		flush_everything();
}

static bool write_hits_table(const struct access *a)
{
	struct guest_walk w;
	uint64_t old;

	if (a->kind != ACCESS_WRITE)
		return false;
	guest_walk(&rig->vm, a->lin, a->kind, a->mode, false, &w);
	if (!w.ok || w.gpa >= MEMORY)
		return false;
	/* Any page may serve as a table; either size of entry, and a write may touch two. */
	old = peek(w.gpa & ~7ull) | peek((w.gpa + 7) & ~7ull & (MEMORY - 1));
	return (old | old >> 32) & PTE_P;
}

static void random_guest(enum hwpt_format f, unsigned steps, unsigned check_every)
{
	for (unsigned i = 0; i < TABLES * 12; i++)
		poke_entry(f);
	rig->vm.guest.cr3 = any_table();
	change_mode(f);
	for (unsigned n = 0; n < steps; n++) {
		uint64_t r = next() % 1000;

		if (r < 850) {
			struct access a = any_access(f);
			bool table = write_hits_table(&a);

			access_both(&a);
			after_write(&a, table);
		} else if (r < 930) {
			poke_entry(f);
		} else if (r < 960) {
			flush_address(any_lin(f));
		} else if (r < 995) {
			change_space(f);
		} else {
			change_mode(f);
		}
		if (n % check_every == 0)
			check_all();
	}
	check_all();
}

static void run_random(const struct hv_mmu_ops *ops, struct engine_config cfg, unsigned steps)
{
	for (unsigned f = HWPT_NONE; f <= HWPT_5; f++) {
		for (uint64_t seed = 1; seed <= 4; seed++) {
			make(ops, seed * 5 + f, cfg);
			rig->healthy = seed % 3;
			random_guest((enum hwpt_format)f, steps, 61);
			/* The same tables read in another format. */
			random_guest((enum hwpt_format)(1 + next() % 4), steps / 4, 61);
			unmake();
		}
	}
}

static void test_random_lazy(void **state)
{
	(void)state;
	run_random(&hv_mmu_shadow, (struct engine_config){0}, 3000);
}

static void test_random_always(void **state)
{
	(void)state;
	run_random(&hv_mmu_shadow, (struct engine_config){.shadow_sync_always = true}, 3000);
}

static void test_random_large_pages(void **state)
{
	(void)state;
	run_random(&hv_mmu_shadow, (struct engine_config){.host_pages = HOST_PAGES_2M}, 3000);
}

static void test_random_small_memory(void **state)
{
	(void)state;
	run_random(&hv_mmu_shadow, (struct engine_config){.shadow_memory = PAGE_SIZE}, 3000);
}

static void test_random_brute(void **state)
{
	(void)state;
	run_random(&hv_mmu_brute, (struct engine_config){0}, 1500);
}

/* ---- a well-behaved guest: what is counted ---- */

#define ROOT   (FIRST_TABLE << PAGE_SHIFT)
#define PDPT   ((FIRST_TABLE + 1ull) << PAGE_SHIFT)
#define PD     ((FIRST_TABLE + 2ull) << PAGE_SHIFT)
#define PT     ((FIRST_TABLE + 3ull) << PAGE_SHIFT)
#define PT2    ((FIRST_TABLE + 4ull) << PAGE_SHIFT)
#define ROOT2  ((FIRST_TABLE + 5ull) << PAGE_SHIFT)
#define DATA   (4ull << 20)
#define WINDOW SIZE_2M /* linear 2 MiB: the tables, by PT2 */
#define TABLE_RIGHTS (PTE_P | PTE_W | PTE_U | PTE_A)
#define PAGE_RIGHTS  (TABLE_RIGHTS | PTE_D)

/* Linear 0: PT, pages of DATA; linear 2 MiB: PT2, a window to physical 0. */
static void build_space(void)
{
	poke(ROOT, PDPT | TABLE_RIGHTS, 8);
	poke(ROOT2, PDPT | TABLE_RIGHTS, 8);
	poke(PDPT, PD | TABLE_RIGHTS, 8);
	poke(PD, PT | TABLE_RIGHTS, 8);
	poke(PD + 8, PT2 | TABLE_RIGHTS, 8);
	for (uint64_t i = 0; i < 64; i++) {
		poke(PT + 8 * i, (DATA + i * PAGE_SIZE) | PAGE_RIGHTS, 8);
		poke(PT2 + 8 * i, i * PAGE_SIZE | PAGE_RIGHTS, 8);
	}
	rig->vm.guest.cr3 = ROOT;
	set_format(HWPT_4, CR0_WP, CR4_PGE, EFER_NXE);
}

static struct access do_access(uint64_t lin, enum access_kind kind, uint64_t value)
{
	struct access a = {.lin = lin, .bytes = 8, .kind = kind, .mode = MODE_SUPER, .value = value};

	access_both(&a);
	return a;
}
static void write_entry(uint64_t gpa, uint64_t v) { do_access(WINDOW + gpa, ACCESS_WRITE, v); }
static struct obs *observed(void)
{
	rig->vm.mmu->observe(&rig->vm, &rig->vm.obs);
	return &rig->vm.obs;
}

static void test_prefetch(void **state)
{
	uint64_t hidden;

	(void)state;
	make(&hv_mmu_shadow, 1, (struct engine_config){.shadow_sync_always = true});
	build_space();
	do_access(0, ACCESS_READ, 0);
	do_access(WINDOW, ACCESS_READ, 0);
	poke(DATA + 100 * PAGE_SIZE, 7, 8);
	write_entry(PT + 8 * 100, (DATA + 100 * PAGE_SIZE) | PAGE_RIGHTS);
	assert_int_equal(observed()->faults.traced_writes, 1);
	hidden = rig->vm.obs.faults.hidden;
	/* Filled ahead: no fault, for a write either, since it is dirty. */
	do_access(100 * PAGE_SIZE, ACCESS_WRITE, 8);
	assert_int_equal(rig->vm.obs.faults.hidden, hidden);
	/* Not accessed: the fault has to set the flag. */
	write_entry(PT + 8 * 101, (DATA + 100 * PAGE_SIZE) | PTE_P | PTE_W);
	do_access(101 * PAGE_SIZE, ACCESS_READ, 0);
	assert_int_equal(rig->vm.obs.faults.hidden, hidden + 1);
	check_all();
	unmake();
}

static void test_unsync(void **state)
{
	(void)state;
	make(&hv_mmu_shadow, 1, (struct engine_config){0});
	build_space();
	do_access(0, ACCESS_READ, 0);
	do_access(WINDOW, ACCESS_READ, 0);
	for (uint64_t i = 0; i < 50; i++)
		write_entry(PT + 8 * i, (DATA + 2 * i * PAGE_SIZE) | PAGE_RIGHTS);
	assert_int_equal(observed()->faults.traced_writes, 0);
	assert_int_equal(rig->vm.obs.shadow.unsynced, 1);
	flush_address(0);
	assert_int_equal(observed()->shadow.resynced, 0); /* one entry only */
	load_cr3(ROOT2, true);
	assert_int_equal(observed()->shadow.resynced, 1);
	for (uint64_t i = 0; i < 50; i++)
		do_access(i * PAGE_SIZE, ACCESS_READ, 0);
	/* A table above the leaf level never goes out of sync. */
	write_entry(PDPT + 8, 0);
	assert_int_equal(observed()->faults.traced_writes, 1);
	assert_int_equal(rig->vm.obs.shadow.unsynced, 1);
	/* ...and a leaf table that becomes such a table is synchronized. */
	write_entry(PT, DATA | PAGE_RIGHTS);
	assert_int_equal(observed()->shadow.unsynced, 2);
	poke(DATA, DATA | PAGE_RIGHTS, 8);
	write_entry(PDPT + 8, PT | TABLE_RIGHTS);
	do_access(SIZE_1G, ACCESS_READ, 0);
	assert_int_equal(observed()->shadow.resynced, 2);
	check_all();
	unmake();
}

static void test_flood(void **state)
{
	(void)state;
	make(&hv_mmu_shadow, 1, (struct engine_config){.shadow_sync_always = true});
	build_space();
	do_access(0, ACCESS_READ, 0);
	do_access(WINDOW, ACCESS_READ, 0);
	for (uint64_t i = 0; i < 200; i++)
		write_entry(PT + 8 * (100 + i), 0x123000);
	/* The third write without use ends tracing. */
	assert_int_equal(observed()->faults.traced_writes, 3);
	assert_int_equal(rig->vm.obs.shadow.flooded, 1);
	do_access(0, ACCESS_READ, 0);
	write_entry(PT + 8 * 400, 0);
	assert_int_equal(observed()->faults.traced_writes, 4);
	check_all();
	unmake();
}

static void test_roots_are_kept(void **state)
{
	uint64_t hidden;

	(void)state;
	make(&hv_mmu_shadow, 1, (struct engine_config){0});
	build_space();
	do_access(0, ACCESS_READ, 0);
	load_cr3(ROOT2, true);
	do_access(0, ACCESS_READ, 0);
	assert_int_equal(observed()->shadow.cr3_misses, 1);
	hidden = rig->vm.obs.faults.hidden;
	for (unsigned i = 0; i < 10; i++) {
		load_cr3(i & 1 ? ROOT2 : ROOT, true);
		do_access(0, ACCESS_READ, 0);
	}
	assert_int_equal(observed()->shadow.cr3_hits, 10);
	assert_int_equal(rig->vm.obs.faults.hidden, hidden);
	check_all();
	unmake();
}

static void test_recycling(void **state)
{
	(void)state;
	make(&hv_mmu_shadow, 1, (struct engine_config){.shadow_memory = 1});
	build_space();
	/* 128 leaf tables' worth of linear space, all by the same guest table. */
	for (uint64_t i = 0; i < 128; i++)
		poke(PD + 8 * (2 + i),
		     i % 2 ? (DATA + 16 * i * PAGE_SIZE) | TABLE_RIGHTS : (4 * SIZE_2M | PAGE_RIGHTS | PTE_PS), 8);
	for (uint64_t i = 0; i < 128; i++)
		poke(DATA + 16 * i * PAGE_SIZE, DATA | PAGE_RIGHTS, 8);
	for (uint64_t i = 0; i < 512; i++)
		do_access((2 + i % 128) * SIZE_2M, ACCESS_READ, 0);
	assert_true(observed()->shadow.recycled > 100);
	assert_true(rig->vm.obs.tables.shadow_bytes_max <= 66 * PAGE_SIZE);
	check_all();
	unmake();
}

static void test_large_page_is_split_for_a_table(void **state)
{
	(void)state;
	make(&hv_mmu_shadow, 1, (struct engine_config){.host_pages = HOST_PAGES_2M});
	build_space();
	poke(PD + 16, 4 * SIZE_2M | PAGE_RIGHTS | PTE_PS, 8);
	do_access(2 * SIZE_2M, ACCESS_READ, 0);
	do_access(2 * SIZE_2M + 0x5000, ACCESS_WRITE, DATA | PAGE_RIGHTS);
	assert_int_equal(rig->vm.obs.faults.hidden, 1); /* one 2 MiB entry serves both */
	poke(PD + 24, (4 * SIZE_2M + 0x5000) | TABLE_RIGHTS, 8);
	do_access(3 * SIZE_2M, ACCESS_READ, 0);
	/* The frame is a table now: a write through the large page is noticed. */
	do_access(2 * SIZE_2M + 0x5000, ACCESS_WRITE, (DATA + PAGE_SIZE) | PAGE_RIGHTS);
	flush_address(3 * SIZE_2M);
	do_access(3 * SIZE_2M, ACCESS_READ, 0);
	check_all();
	unmake();
}

static void test_true_faults(void **state)
{
	(void)state;
	make(&hv_mmu_shadow, 1, (struct engine_config){0});
	build_space();
	assert_int_equal(do_access(200 * PAGE_SIZE, ACCESS_WRITE, 0).error, PF_W);
	assert_int_equal(rig->vm.obs.faults.true_faults, 1);
	assert_int_equal(rig->vm.obs.faults.hidden, 0);
	assert_int_equal(do_access(0, ACCESS_READ, 0).outcome, VALUE);
	assert_int_equal(rig->vm.obs.faults.hidden, 1);
	unmake();
}

static void test_brute_hides_tables(void **state)
{
	(void)state;
	make(&hv_mmu_brute, 1, (struct engine_config){0});
	build_space();
	assert_true(do_access(WINDOW + PD, ACCESS_READ, 0).table);
	assert_int_equal(rig->vm.obs.faults.traced_reads, 1);
	write_entry(PT + 8 * 100, DATA | PAGE_RIGHTS);
	assert_int_equal(rig->vm.obs.faults.traced_writes, 1);
	do_access(100 * PAGE_SIZE, ACCESS_READ, 0);
	/* Unhooked, PT is ordinary memory. */
	write_entry(PD, 0);
	flush_everything();
	assert_false(do_access(WINDOW + PT, ACCESS_READ, 0).table);
	check_all();
	unmake();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_prefetch), cmocka_unit_test(test_unsync), cmocka_unit_test(test_flood),
		cmocka_unit_test(test_roots_are_kept), cmocka_unit_test(test_recycling),
		cmocka_unit_test(test_large_page_is_split_for_a_table), cmocka_unit_test(test_true_faults),
		cmocka_unit_test(test_brute_hides_tables),
		cmocka_unit_test(test_random_lazy), cmocka_unit_test(test_random_always),
		cmocka_unit_test(test_random_large_pages), cmocka_unit_test(test_random_small_memory),
		cmocka_unit_test(test_random_brute),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
