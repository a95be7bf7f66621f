/*
 * The audit of direct translation: what the tables say of an address, read anew and without effects, against what the
 * registers led to. It knows of permissions what the tables have: so it finds, too, where
 * upper levels are not as permissive as whoever loaded the registers promised.
 */
#include "mmu/dmt_impl.h"

struct seen {
	bool hidden;        /* stage 2 has nothing for a table yet, so there is nothing to compare with */
	uint64_t at;        /* machine address */
	unsigned guest_shift, shift;
	uint16_t rights;    /* TLB_* */
	uint8_t pkey;
	bool promise_kept;  /* upper levels of the guest's tables have been accessed */
};

/* Adds the host's view of @addr to @s. False: none, or a misconfiguration. */
static bool see_ept(const struct mmu *m, uint64_t addr, struct seen *s)
{
	uint64_t table = m->regs.eptp & EPT_ADDR_MASK, rights = 7, e;
	unsigned level = (unsigned)(m->regs.eptp >> EPTP_WALK_SHIFT & 7) + 1;

	for (;; level--) {
		unsigned shift = ept_shifts[level];
		bool leaf;

		e = machmem_read64(m->mem, hpa(table + (addr >> shift & 511) * 8));
		leaf = level == 1 || (level <= 3 && e & EPT_PS);
		if (!(e & 7) || ept_entry_misconfigured(m, e, shift, leaf))
			return false;
		rights &= e & 7;
		table = e & EPT_ADDR_MASK;
		if (leaf)
			break;
	}
	s->shift = ept_shifts[level];
	s->at = (table & ~((1ull << s->shift) - 1)) | (addr & ((1ull << s->shift) - 1));
	s->rights |= tlb_ept_rights(rights) | (!(m->regs.eptp & EPTP_AD) || e & EPT_D ? TLB_D : 0);
	return true;
}

static bool see_host(const struct mmu *m, uint64_t addr, struct seen *s)
{
	if (m->regs.nested)
		return see_ept(m, addr, s);
	s->at = addr;
	s->shift = 30;
	s->rights |= TLB_EPT_RWX | TLB_D;
	return true;
}

static bool see_guest(const struct mmu *m, uint64_t lin, struct seen *s)
{
	const struct walk_format *f = m->format;
	uint64_t table = m->regs.cr3 & PTE_ADDR_MASK, e;
	const struct level *lv = f->level;
	bool leaf;

	s->rights = TLB_W | TLB_U;
	s->promise_kept = true;
	for (;; lv++) {
		struct seen t = {0};

		if (!see_host(m, table + (lin >> lv->shift & 511) * 8, &t)) {
			s->hidden = true;
			return false;
		}
		e = machmem_read64(m->mem, hpa(t.at));
		leaf = lv->shift == PAGE_SHIFT || (e & PTE_PS && lv->may_be_leaf);
		if (!(e & PTE_P) || entry_reserved(m, f, lv, e, leaf))
			return false;
		s->rights = combine_rights(s->rights, e, true);
		if (leaf)
			break;
		s->promise_kept &= (e & PTE_A) != 0;
		table = e & PTE_ADDR_MASK;
	}
	if (!see_host(m, leaf_address(f, lv, e) | (lin & ((1ull << lv->shift) - 1)), s))
		return false;
	s->guest_shift = lv->shift;
	if (s->shift > lv->shift)
		s->shift = lv->shift;
	if (!(e & PTE_D))
		s->rights &= (uint16_t)~TLB_D;
	if (e & PTE_G && m->regs.cr4 & CR4_PGE)
		s->rights |= TLB_G;
	s->pkey = (uint8_t)(e >> PTE_PKEY_SHIFT & 15);
	return true;
}

static void note(struct mmu *m, uint64_t addr, bool equal)
{
	m->dmt.audited++;
	if (!equal && m->dmt.wrong++ == 0)
		m->dmt.wrong_at = addr;
}

static bool equal(const struct mmu *m, const struct walk *w, const struct seen *s, const struct tlb_entry *e)
{
	/* Under two hosts the tables' dirty flags are in entries of their own. */
	uint16_t differ = (uint16_t)((s->rights ^ e->rights) & (m->dmt.stages > 2 ? ~TLB_D : ~0u));

	return (s->at & PAGE_MASK) == w->out->page.v && s->shift == e->shift && !differ;
}

/*
 * Hypervisors make their tables on demand. Registers do without those of the guest's tables above its leaf entries,
 * with a gTEA without that of the leaf entries, and under two hosts without all of the one that both make.
 */
static bool not_yet(const struct mmu *m, const struct seen *s, bool seen)
{
	return !seen && (s->hidden || m->dmt.stages > 2);
}

void dmt_audit_linear(struct mmu *m, const struct walk *w, const struct tlb_entry *e)
{
	struct seen s = {0};
	bool seen = see_guest(m, w->lin, &s);

	if (!not_yet(m, &s, seen))
		note(m, w->lin, seen && s.promise_kept && equal(m, w, &s, e) && s.guest_shift == e->guest_shift &&
				s.pkey == e->pkey);
}

void dmt_audit_physical(struct mmu *m, const struct walk *w, const struct tlb_entry *e)
{
	struct seen s = {.rights = TLB_W | TLB_U};
	bool seen = see_host(m, w->lin, &s);

	if (!not_yet(m, &s, seen))
		note(m, w->lin, seen && equal(m, w, &s, e));
}
