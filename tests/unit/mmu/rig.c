/* See rig.h. */
#include "rig.h"

struct hw rig_hw(void) { return (struct hw){.name = "rig", .line = 64, .memory_latency = 100}; }

struct hw_array rig_array(uint32_t entries, uint32_t ways) { return (struct hw_array){entries, ways, 0}; }

void rig_tlb(struct hw_tlb *t, uint8_t pages, uint32_t entries, uint32_t ways)
{
	t->array[t->arrays++] = (struct hw_array){entries, ways, pages};
}

void rig_roomy(struct hw *hw)
{
	struct hw_tlb *t[] = {&hw->l1d, &hw->l1i};

	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		rig_tlb(t[i], HW_4K, 64, 64);
		rig_tlb(t[i], HW_2M, 64, 64);
		rig_tlb(t[i], HW_1G, 64, 64);
	}
}

void rig_begin(struct rig *r, const struct hw *hw)
{
	struct machmem_range ram = {0, RIG_MEMORY};

	*r = (struct rig){.next = 0x10000};
	assert_int_equal(machmem_init(&r->mem, &ram, 1, NULL), 0);
	assert_int_equal(mmu_init(&r->mmu, &r->mem, hw, NULL), 0);
	rig_set_paging(r, RIG_4LEVEL);
}

void rig_end(struct rig *r)
{
	mmu_destroy(&r->mmu);
	machmem_destroy(&r->mem);
}

uint64_t rig_new_table(struct rig *r)
{
	uint64_t at = r->next;

	r->next += PAGE_SIZE;
	assert_true(r->next <= RIG_TABLES);
	return at;
}

uint64_t rig_get(const struct rig *r, uint64_t at) { return machmem_read64(&r->mem, hpa(at)); }
void rig_put(struct rig *r, uint64_t at, uint64_t entry) { put_u64(machmem_ptr(&r->mem, hpa(at)), entry); }

/* ---- registers ---- */

void rig_set_cr3(struct rig *r, uint64_t cr3)
{
	struct mmu_regs n = r->mmu.regs;

	n.cr3 = cr3;
	mmu_set_regs(&r->mmu, &n);
}

void rig_set_pcid(struct rig *r, unsigned pcid)
{
	struct mmu_regs n = r->mmu.regs;

	n.cr4 |= CR4_PCIDE;
	n.cr3 = (n.cr3 & PAGE_MASK) | pcid;
	mmu_set_regs(&r->mmu, &n);
}

void rig_set_vpid(struct rig *r, uint16_t vpid)
{
	struct mmu_regs n = r->mmu.regs;

	n.vpid = vpid;
	mmu_set_regs(&r->mmu, &n);
}

void rig_set_ept(struct rig *r, uint64_t eptp)
{
	struct mmu_regs n = r->mmu.regs;

	n.nested = eptp != 0;
	n.eptp = eptp;
	mmu_set_regs(&r->mmu, &n);
}

void rig_set_paging(struct rig *r, enum rig_paging p)
{
	struct mmu_regs n = r->mmu.regs;

	n.cr0 = CR0_PE | CR0_WP | (p == RIG_UNPAGED ? 0 : CR0_PG);
	n.cr4 = CR4_PGE | CR4_PSE | (p >= RIG_PAE ? CR4_PAE : 0) | (p == RIG_5LEVEL ? CR4_LA57 : 0);
	n.efer = EFER_NXE | (p >= RIG_4LEVEL ? EFER_LME | EFER_LMA : 0);
	n.cr3 = rig_new_table(r);
	for (unsigned i = 0; i < 4 && p == RIG_PAE; i++)
		n.pdpte[i] = rig_new_table(r) | PTE_P;
	mmu_set_regs(&r->mmu, &n);
}

/* ---- tables ---- */

static unsigned entry_bytes(const struct rig *r) { return r->mmu.regs.cr4 & CR4_PAE ? 8 : 4; }

static unsigned levels(const struct rig *r)
{
	if (!(r->mmu.regs.efer & EFER_LMA))
		return 2;
	return r->mmu.regs.cr4 & CR4_LA57 ? 5 : 4;
}

static unsigned shift_of(const struct rig *r, unsigned level)
{
	return 12 + (entry_bytes(r) == 8 ? 9 : 10) * (level - 1);
}

static uint64_t entry_get(const struct rig *r, uint64_t at)
{
	return entry_bytes(r) == 8 ? machmem_read64(&r->mem, hpa(at)) : machmem_read32(&r->mem, hpa(at));
}

static void entry_put(struct rig *r, uint64_t at, uint64_t v)
{
	if (entry_bytes(r) == 8)
		rig_put(r, at, v);
	else
		put_u32(machmem_ptr(&r->mem, hpa(at)), (uint32_t)v);
}

static uint64_t root(const struct rig *r, uint64_t lin)
{
	bool pae = !(r->mmu.regs.efer & EFER_LMA) && entry_bytes(r) == 8;

	return (pae ? r->mmu.regs.pdpte[lin >> 30 & 3] : r->mmu.regs.cr3) & PTE_ADDR_MASK;
}

static uint64_t slot(const struct rig *r, uint64_t table, uint64_t lin, unsigned level)
{
	return table + (lin >> shift_of(r, level) & (PAGE_SIZE / entry_bytes(r) - 1)) * entry_bytes(r);
}

uint64_t rig_map(struct rig *r, uint64_t lin, unsigned shift, uint64_t leaf)
{
	uint64_t table = root(r, lin);

	for (unsigned level = levels(r);; level--) {
		uint64_t at = slot(r, table, lin, level);

		if (shift_of(r, level) == shift) {
			entry_put(r, at, leaf | (level > 1 ? PTE_PS : 0));
			return at;
		}
		if (!(entry_get(r, at) & PTE_P))
			entry_put(r, at, rig_new_table(r) | PTE_P | PTE_W | PTE_U | PTE_A);
		table = entry_get(r, at) & PTE_ADDR_MASK;
	}
}

uint64_t rig_entry(const struct rig *r, uint64_t lin, unsigned level)
{
	uint64_t table = root(r, lin);

	for (unsigned l = levels(r); l > level; l--)
		table = entry_get(r, slot(r, table, lin, l)) & PTE_ADDR_MASK;
	return slot(r, table, lin, level);
}

uint64_t rig_ept_map(struct rig *r, uint64_t eptp, uint64_t a, unsigned shift, uint64_t leaf)
{
	uint64_t table = eptp & EPT_ADDR_MASK;

	for (unsigned s = 12 + 9 * (unsigned)(eptp >> EPTP_WALK_SHIFT & 7);; s -= 9) {
		uint64_t at = table + (a >> s & 511) * 8;

		if (s == shift) {
			rig_put(r, at, leaf | (s > 12 ? EPT_PS : 0));
			return at;
		}
		if (!rig_get(r, at))
			rig_put(r, at, rig_new_table(r) | 7);
		table = rig_get(r, at) & EPT_ADDR_MASK;
	}
}

uint64_t rig_ept(struct rig *r, unsigned shift, unsigned ept_levels)
{
	uint64_t eptp = rig_new_table(r) | EPT_MT_WB | (ept_levels - 1) << EPTP_WALK_SHIFT;

	for (uint64_t a = 0; a < (shift == 12 ? 64ull << 20 : RIG_MEMORY); a += 1ull << shift)
		rig_ept_map(r, eptp, a, shift, a | RIG_EPT_LEAF);
	return eptp;
}

/* ---- questions ---- */

struct mmu_stats rig_counted(struct rig *r)
{
	struct mmu_stats d;
	const uint64_t *now = (const uint64_t *)&r->mmu.stats, *last = (const uint64_t *)&r->last;
	uint64_t *diff = (uint64_t *)&d;

	for (size_t i = 0; i < sizeof(d) / 8; i++)
		diff[i] = now[i] - last[i];
	r->last = r->mmu.stats;
	return d;
}

enum xlate_event rig_try(struct rig *r, uint64_t lin, enum access_kind kind, enum access_mode mode, struct xlate *x)
{
	uint16_t rights;

	return mmu_translate(&r->mmu, gva(lin), kind, mode, x, &rights);
}

uint64_t rig_page(struct rig *r, uint64_t lin, enum access_kind kind)
{
	struct xlate x = {0};

	assert_int_equal(rig_try(r, lin, kind, MODE_SUPER, &x), XLATE_OK);
	return x.page.v;
}

enum rig_from rig_access(struct rig *r, uint64_t lin, enum access_kind kind)
{
	struct mmu_stats before = r->mmu.stats;

	rig_page(r, lin, kind);
	if (r->mmu.stats.walks != before.walks)
		return FROM_TABLES;
	return r->mmu.stats.l2d_hits + r->mmu.stats.l2i_hits != before.l2d_hits + before.l2i_hits ? FROM_L2 : FROM_L1;
}

enum rig_from rig_read(struct rig *r, uint64_t lin) { return rig_access(r, lin, ACCESS_READ); }

uint64_t rig_refs(struct rig *r, uint64_t lin)
{
	uint64_t before = r->mmu.stats.refs;

	rig_page(r, lin, ACCESS_READ);
	return r->mmu.stats.refs - before;
}
