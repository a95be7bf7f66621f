/*
 * The guest's own translation of an address, from its tables alone and without side
 * effects: for people, and to tell what a fault of the hardware means. It takes
 * PAE's four top entries from memory, where the processor has them in registers
 * since CR3 was loaded.
 */
#include "engine/engine_impl.h"
#include "mmu/rights.h"
#include "mmu/walk.h"

static unsigned guest_levels(const struct engine_sregs *s)
{
	if (!(s->cr0 & CR0_PG))
		return 0;
	if (s->efer & EFER_LMA)
		return s->cr4 & CR4_LA57 ? 5 : 4;
	return s->cr4 & CR4_PAE ? 3 : 2;
}

/* Bits that must be 0 in a present entry, beside the address bits the processor does not have. */
static uint64_t reserved_bits(const struct engine_vm *vm, const struct engine_sregs *s, unsigned levels,
			      unsigned level, uint64_t e, unsigned shift)
{
	uint64_t must = PTE_ADDR_MASK & ~((1ull << vm->cfg.cpu.maxphyaddr) - 1);
	bool large = level > 1 && e & PTE_PS;

	if (levels == 2) /* PSE-36 */
		return large && s->cr4 & CR4_PSE ? 1u << 21 : 0;
	if (levels == 3 && level == 3)
		return must | 0xfff00000000001e6; /* a PDPTE: P, PWT, PCD, ignored bits and the address */
	if (!(s->efer & EFER_NXE))
		must |= PTE_NX;
	if (levels == 3)
		must |= 0x7ff0000000000000ull;
	if (large && level > (vm->cfg.cpu.feature[CPUF_PDPE1GB] && levels > 3 ? 3 : 2))
		return must | PTE_PS;
	return large ? must | (((1ull << shift) - 1) & ~0x1fffull) : must;
}

static bool read_entry(struct engine_vm *vm, struct engine_view *v, unsigned level, unsigned bytes, uint64_t at)
{
	uint64_t value = 0;
	bool there = !engine_mem_read(vm, gpa(at), &value, bytes);

	if (!there) /* as the bus answers where nothing is */
		value = bytes == 8 ? ~0ull : ~0u;
	v->entry[v->entries].level = (uint8_t)level;
	v->entry[v->entries].bytes = (uint8_t)bytes;
	v->entry[v->entries].at = at;
	v->entry[v->entries].value = value;
	v->entries++;
	return value & PTE_P;
}

static void take_rights(struct engine_view *v, uint64_t e, bool wide)
{
	if (!(e & PTE_W))
		v->rights &= (uint16_t)~TLB_W;
	if (!(e & PTE_U))
		v->rights &= (uint16_t)~TLB_U;
	if (wide && e & PTE_NX)
		v->rights |= TLB_NX;
}

static void reach_page(struct engine_view *v, uint64_t e, unsigned shift, uint64_t lin)
{
	uint64_t offset = (1ull << shift) - 1;
	uint64_t page = v->levels > 2 ? e & PTE_ADDR_MASK :
			shift == 22   ? (e & 0xffc00000) | bits(e, 20, 13) << 32 :
					e & 0xfffff000;

	v->mapped = true;
	v->shift = (uint8_t)shift;
	v->gpa = gpa((page & ~offset) | (lin & offset));
	v->pkey = v->levels > 3 ? e >> PTE_PKEY_SHIFT & 15 : 0;
}

static void view_tables(struct engine_vm *vm, const struct engine_sregs *s, uint64_t lin, struct engine_view *v)
{
	unsigned bytes = v->levels == 2 ? 4 : 8, index_bits = v->levels == 2 ? 10 : 9;
	uint64_t table = s->cr3 & (v->levels == 2 ? 0xfffff000 : v->levels == 3 ? 0xffffffe0 : PTE_ADDR_MASK);

	for (unsigned level = v->levels;; level--) {
		unsigned shift = PAGE_SHIFT + index_bits * (level - 1);
		uint64_t e;

		if (!read_entry(vm, v, level, bytes, table + (lin >> shift & ((1u << index_bits) - 1)) * bytes))
			return;
		e = v->entry[v->entries - 1].value;
		v->reserved = e & reserved_bits(vm, s, v->levels, level, e, shift);
		if (v->reserved)
			return;
		if (v->levels != 3 || level != 3) /* PAE's PDPTEs have no rights */
			take_rights(v, e, bytes == 8);
		if (level == 1 || (level <= 3 && e & PTE_PS && (v->levels > 2 || s->cr4 & CR4_PSE))) {
			reach_page(v, e, shift, lin);
			return;
		}
		table = e & (bytes == 4 ? 0xfffff000 : PTE_ADDR_MASK);
	}
}

/* The processor's own rule for rights, under the registers that the guest believes to have. */
static bool view_permits(struct engine_vm *vm, const struct engine_sregs *s, const struct engine_view *v,
			 enum access_kind kind, enum access_mode mode)
{
	struct mmu_regs was = vm->cpu->mmu.regs;
	struct mmu_regs r = {.cr0 = s->cr0, .cr3 = s->cr3, .cr4 = s->cr4, .efer = s->efer, .pkru = vm->cpu->pkru};
	bool permits;

	mmu_set_regs(&vm->cpu->mmu, &r);
	permits = rights_permit(&vm->cpu->mmu, v->rights, v->pkey, kind, mode);
	mmu_set_regs(&vm->cpu->mmu, &was);
	return permits;
}

void engine_view(struct engine_vm *vm, gva_t a, enum access_kind kind, enum access_mode mode, struct engine_view *v)
{
	struct engine_sregs s;

	engine_get_sregs(vm, &s);
	*v = (struct engine_view){.levels = guest_levels(&s), .rights = TLB_W | TLB_U};
	if (!(s.efer & EFER_LMA))
		a.v &= 0xffffffff;
	if (v->levels) {
		view_tables(vm, &s, a.v, v);
	} else {
		v->mapped = true;
		v->gpa = gpa(a.v);
		v->shift = PAGE_SHIFT;
	}
	v->permits = v->mapped && view_permits(vm, &s, v, kind, mode);
}

bool engine_translate(struct engine_vm *vm, gva_t a, gpa_t *out)
{
	struct engine_view v;

	engine_view(vm, a, ACCESS_READ, MODE_SUPER, &v);
	if (v.mapped)
		*out = v.gpa;
	return v.mapped;
}
