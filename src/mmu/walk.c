/*
 * The page walker. Paging formats are data (struct format: an array of levels);
 * EPT is walked by the same kind of loop, and nested paging is composition: every
 * address that the guest walk forms goes through walk_physical().
 *
 * Order of effects, as hardware leaves them: an entry that refers to another
 * table gets its accessed flag when it is followed; the last entry gets accessed
 * (and, for a write, dirty) only if the access is allowed.
 *
 * Sources: SDM volume 3, "4-Level Paging and 5-Level Paging", "PAE Paging",
 * "32-Bit Paging", "The Extended Page Table Mechanism (EPT)".
 */
#include "mmu/walk.h"

#include "arch/vmx.h"
#include "arch/x86.h"

struct level {
	uint8_t shift;     /* address bits below this are not this level's */
	uint8_t bits;      /* index width */
	bool may_be_leaf;  /* PS may be set (4 KiB level: always the leaf) */
};

struct format {
	const char *name;
	uint8_t levels;
	uint8_t entry_bytes;
	struct level level[5]; /* [0] is the root */
};

static const struct format format_5level = {
	"5-level", 5, 8, {{48, 9, false}, {39, 9, false}, {30, 9, true}, {21, 9, true}, {12, 9, true}}};
static const struct format format_4level = {
	"4-level", 4, 8, {{39, 9, false}, {30, 9, true}, {21, 9, true}, {12, 9, true}}};
static const struct format format_pae = {"PAE", 2, 8, {{21, 9, true}, {12, 9, true}}};
static const struct format format_32bit = {"32-bit", 2, 4, {{22, 10, true}, {12, 10, true}}};

struct walk {
	struct mmu *mmu;
	uint64_t lin;
	enum access_kind kind;
	enum access_mode mode;
	unsigned refs;
	uint16_t ept_rights; /* of the last walk_stage2 */
	unsigned ept_shift;  /* page size of the last walk_stage2 */
	bool ept_dirty;
	struct xlate *out;
};

static bool is_long(const struct mmu *m) { return m->regs.efer >> 10 & 1; }

static const struct format *format_of(const struct mmu *m)
{
	if (is_long(m))
		return m->regs.cr4 & CR4_LA57 ? &format_5level : &format_4level;
	return m->regs.cr4 & CR4_PAE ? &format_pae : &format_32bit;
}

static void note_code_write(struct mmu *m, uint64_t hpa)
{
	if (unlikely(m->mem->code_map[hpa >> PAGE_SHIFT]))
		m->code_written = hpa + 1;
}

/* Sets bits in a table entry in machine memory. */
static void entry_or(struct mmu *m, uint64_t at, uint64_t set)
{
	uint8_t *p;

	if (!machmem_is_ram(m->mem, hpa(at)))
		return;
	p = machmem_ptr(m->mem, hpa(at));
	/* All the flags live in the two low bytes, of either entry size. */
	put_u16(p, (uint16_t)(get_u16(p) | set));
	note_code_write(m, at);
}

/* ---- EPT ---- */

static uint64_t phys_reserved(const struct mmu *m) { return PTE_ADDR_MASK & ~((1ull << m->maxphyaddr) - 1); }

static bool ept_leaf_type_ok(uint64_t e)
{
	unsigned type = (unsigned)(e >> EPT_MT_SHIFT & 7);

	return type != 2 && type != 3 && type != 7;
}

static bool ept_entry_misconfigured(const struct mmu *m, uint64_t e, unsigned shift, bool leaf)
{
	if ((e & (EPT_R | EPT_W)) == EPT_W)
		return true;
	if (e & phys_reserved(m))
		return true;
	if (!leaf)
		return e & 0x78 || (shift >= 39 && (e & EPT_PS));
	return !ept_leaf_type_ok(e) || (e & (((1ull << shift) - 1) & PTE_ADDR_MASK));
}

static uint64_t ept_access_bits(enum access_kind kind, bool table, bool ad)
{
	if (table)
		return ad ? EPT_VIOL_READ | EPT_VIOL_WRITE : kind == ACCESS_WRITE ? EPT_VIOL_WRITE : EPT_VIOL_READ;
	return kind == ACCESS_WRITE ? EPT_VIOL_WRITE : kind == ACCESS_FETCH ? EPT_VIOL_FETCH : EPT_VIOL_READ;
}

static enum xlate_event ept_violation(struct walk *w, uint64_t gpa_v, uint64_t access, uint64_t rights, bool table)
{
	w->out->gpa = gpa(gpa_v);
	w->out->qualification = access | rights << EPT_VIOL_RIGHTS_SHIFT | (table ? 0 : EPT_VIOL_FINAL);
	return XLATE_EPT_VIOLATION;
}

/*
 * One walk of the EPT for guest-physical @gpa_v. @table: the access is to a
 * guest paging structure (the walker's own), not the final one.
 */
static enum xlate_event walk_ept(struct walk *w, uint64_t gpa_v, enum access_kind kind, bool table, uint64_t *out)
{
	struct mmu *m = w->mmu;
	bool ad = m->regs.eptp & EPTP_AD;
	uint64_t need = ept_access_bits(kind, table, ad), rights = 7, at = m->regs.eptp & EPT_ADDR_MASK;
	unsigned levels = (unsigned)(m->regs.eptp >> EPTP_WALK_SHIFT & 7) + 1; /* 4 or 5: VM entry checks it */

	if (levels == 4 && gpa_v >> 48)
		return ept_violation(w, gpa_v, need, 0, table);
	for (unsigned shift = levels == 5 ? 48 : 39;; shift -= 9) {
		uint64_t e;
		bool leaf;

		at += (gpa_v >> shift & 0x1ff) * 8;
		e = machmem_read64(m->mem, hpa(at));
		w->refs++;
		if (!(e & 7))
			return ept_violation(w, gpa_v, need, 0, table);
		leaf = shift == 12 || (shift <= 30 && (e & EPT_PS));
		if (ept_entry_misconfigured(m, e, shift, leaf)) {
			w->out->gpa = gpa(gpa_v);
			return XLATE_EPT_MISCONFIG;
		}
		rights &= e & 7;
		if (!leaf) {
			if (ad && !(e & EPT_A))
				entry_or(m, at, EPT_A);
			at = e & EPT_ADDR_MASK;
			continue;
		}
		if ((need & rights) != need)
			return ept_violation(w, gpa_v, need, rights, table);
		if (ad) {
			uint64_t set = EPT_A | (need & EPT_VIOL_WRITE ? EPT_D : 0);

			if ((e & set) != set)
				entry_or(m, at, set);
			w->ept_dirty = (e | set) & EPT_D;
		} else {
			w->ept_dirty = true;
		}
		w->ept_rights = (uint16_t)((rights & EPT_R ? TLB_EPT_R : 0) | (rights & EPT_W ? TLB_EPT_W : 0) |
					   (rights & EPT_X ? TLB_EPT_X : 0));
		w->ept_shift = shift;
		*out = (e & EPT_ADDR_MASK & ~((1ull << shift) - 1)) | (gpa_v & ((1ull << shift) - 1));
		return XLATE_OK;
	}
}

static enum xlate_event walk_stage2(struct walk *w, uint64_t gpa_v, enum access_kind kind, bool table, uint64_t *out)
{
	if (w->mmu->regs.nested)
		return walk_ept(w, gpa_v, kind, table, out);
	w->ept_rights = TLB_EPT_RWX;
	w->ept_shift = 30;
	w->ept_dirty = true;
	*out = gpa_v;
	return XLATE_OK;
}

/* ---- rights ---- */

static bool pkey_permits(const struct mmu *m, uint16_t rights, uint8_t pkey, enum access_kind kind, bool user)
{
	uint32_t key = m->regs.pkru >> (pkey * 2);

	if (!(m->regs.cr4 & CR4_PKE) || !is_long(m) || !(rights & TLB_U))
		return true;
	if (key & 1)
		return false;
	return !(key & 2) || kind != ACCESS_WRITE || (!user && !(m->regs.cr0 & CR0_WP));
}

static bool fetch_permitted(const struct mmu *m, uint16_t rights, bool user)
{
	if (rights & TLB_NX)
		return false;
	if (user)
		return rights & TLB_U;
	return !((rights & TLB_U) && (m->regs.cr4 & CR4_SMEP));
}

/* User access, SMAP and CR0.WP; not protection keys. */
static bool data_permitted(const struct mmu *m, uint16_t rights, enum access_kind kind, enum access_mode mode)
{
	bool user = mode_is_user(mode);

	if (user && !(rights & TLB_U))
		return false;
	if (!user && (rights & TLB_U) && (m->regs.cr4 & CR4_SMAP) && mode != MODE_SUPER_AC)
		return false;
	return kind != ACCESS_WRITE || (rights & TLB_W) || (!user && !(m->regs.cr0 & CR0_WP));
}

bool rights_permit(const struct mmu *m, uint16_t rights, uint8_t pkey, enum access_kind kind, enum access_mode mode)
{
	bool user = mode_is_user(mode);

	if (!mmu_paging(m))
		return true;
	if (kind == ACCESS_FETCH)
		return fetch_permitted(m, rights, user);
	return data_permitted(m, rights, kind, mode) && pkey_permits(m, rights, pkey, kind, user);
}

/* ---- the linear walk ---- */

static enum xlate_event page_fault(struct walk *w, uint32_t why)
{
	const struct mmu_regs *r = &w->mmu->regs;
	bool reports_fetch = (r->cr4 & CR4_SMEP) || ((r->cr4 & CR4_PAE) && (r->efer & EFER_NXE));

	w->out->error_code = why | (w->kind == ACCESS_WRITE ? PF_W : 0) | (mode_is_user(w->mode) ? PF_U : 0) |
			     (w->kind == ACCESS_FETCH && reports_fetch ? PF_I : 0);
	return XLATE_PAGE_FAULT;
}

/* Reserved bits of a present entry (SDM figures of each paging mode's entries). */
static bool entry_reserved(const struct mmu *m, const struct format *f, const struct level *lv, uint64_t e, bool leaf)
{
	bool large = leaf && lv->shift > 12;

	if (f->entry_bytes == 4) {
		/* PSE-36: bits 20:13 are address bits 39:32, as far as the processor has them. */
		unsigned have = m->maxphyaddr < 40 ? m->maxphyaddr : 40;

		return large && (e & (1u << 21 | ((0x1fe000u << (have - 32)) & 0x1fe000u)));
	}
	if (e & phys_reserved(m))
		return true;
	if ((e & PTE_NX) && !(m->regs.efer & EFER_NXE))
		return true;
	if (!is_long(m) && (e & 0x7ff0000000000000ull))
		return true;
	if ((e & PTE_PS) && lv->shift > 12) {
		if (!lv->may_be_leaf || (lv->shift == 30 && !m->pages_1g))
			return true;
		return e & (((1ull << lv->shift) - 1) & ~0x1fffull);
	}
	return false;
}

static bool entry_is_leaf(const struct mmu *m, const struct format *f, const struct level *lv, uint64_t e)
{
	if (lv->shift == 12)
		return true;
	if (!(e & PTE_PS) || !lv->may_be_leaf)
		return false;
	return f->entry_bytes == 8 || (m->regs.cr4 & CR4_PSE);
}

static uint64_t leaf_address(const struct format *f, const struct level *lv, uint64_t e)
{
	if (f->entry_bytes == 4 && lv->shift == 22)
		return (e & 0xffc00000u) | (e >> 13 & 0xff) << 32;
	return e & PTE_ADDR_MASK & ~((1ull << lv->shift) - 1);
}

/* gpa of the root table; false: a PAE PDPTE is not present. */
static bool root_table(const struct mmu *m, const struct format *f, uint64_t lin, uint64_t *at)
{
	if (f == &format_pae) {
		uint64_t pdpte = m->regs.pdpte[lin >> 30 & 3];

		*at = pdpte & PTE_ADDR_MASK;
		return pdpte & PTE_P;
	}
	*at = m->regs.cr3 & (f->entry_bytes == 4 ? 0xfffff000ull : PTE_ADDR_MASK);
	return true;
}

static uint16_t combine_rights(uint16_t rights, uint64_t e, bool nx_counts)
{
	if (!(e & PTE_W))
		rights &= (uint16_t)~TLB_W;
	if (!(e & PTE_U))
		rights &= (uint16_t)~TLB_U;
	if (nx_counts && (e & PTE_NX))
		rights |= TLB_NX;
	return rights;
}

static uint64_t read_entry(const struct mmu *m, const struct format *f, uint64_t at)
{
	return f->entry_bytes == 8 ? machmem_read64(m->mem, hpa(at)) : machmem_read32(m->mem, hpa(at));
}

/* Sets flags in the guest's entry at guest-physical @entry_gpa (host-physical @at). */
static enum xlate_event set_entry_flags(struct walk *w, uint64_t entry_gpa, uint64_t at, uint64_t set)
{
	/* Without EPT A/D the walker's first access was a read; storing flags is a write of its own. */
	if (w->mmu->regs.nested && !(w->ept_rights & TLB_EPT_W)) {
		uint64_t rights = (w->ept_rights & TLB_EPT_R ? EPT_R : 0) | (w->ept_rights & TLB_EPT_X ? EPT_X : 0);

		return ept_violation(w, entry_gpa, EPT_VIOL_WRITE, rights, true);
	}
	entry_or(w->mmu, at, set);
	return XLATE_OK;
}

static uint32_t access_denied(struct walk *w, uint16_t rights, uint8_t pkey)
{
	const struct mmu *m = w->mmu;
	bool user = mode_is_user(w->mode);

	if (w->kind == ACCESS_FETCH)
		return fetch_permitted(m, rights, user) ? 0 : PF_P;
	/* A violation of both is reported with the protection-key bit too. */
	if (!pkey_permits(m, rights, pkey, w->kind, user))
		return PF_P | PF_PK;
	return data_permitted(m, rights, w->kind, w->mode) ? 0 : PF_P;
}

/* The access is allowed by the tables: final flags, final stage 2. */
static enum xlate_event finish(struct walk *w, uint64_t entry_gpa, uint64_t at, uint64_t e, uint64_t target,
			       unsigned shift, uint16_t rights, struct tlb_entry *out)
{
	struct mmu *m = w->mmu;
	uint64_t set = PTE_A | (w->kind == ACCESS_WRITE ? PTE_D : 0), page;
	enum xlate_event ev;

	if ((e & set) != set) {
		ev = set_entry_flags(w, entry_gpa, at, set);
		if (ev)
			return ev;
	}
	ev = walk_stage2(w, target, w->kind, false, &page);
	if (ev)
		return ev;
	if (((e | set) & PTE_D) && w->ept_dirty)
		rights |= TLB_D;
	if ((e & PTE_G) && (m->regs.cr4 & CR4_PGE))
		rights |= TLB_G;
	out->guest_shift = (uint8_t)shift;
	if (w->ept_shift < shift)
		shift = w->ept_shift;
	/* 4 MiB pages have no TLB of their own: the translation is entered in halves. */
	if (shift == 22)
		shift = 21;
	m->splintered |= shift < out->guest_shift;
	out->shift = (uint8_t)shift;
	out->tag = w->lin >> shift;
	out->page = page & ~((1ull << shift) - 1);
	out->rights = rights | w->ept_rights;
	w->out->page = hpa(page & PAGE_MASK);
	return XLATE_OK;
}

static enum xlate_event walk_tables(struct walk *w, struct tlb_entry *out)
{
	struct mmu *m = w->mmu;
	const struct format *f = format_of(m);
	uint16_t rights = TLB_W | TLB_U;
	uint64_t table;

	if (!root_table(m, f, w->lin, &table))
		return page_fault(w, 0);
	for (const struct level *lv = f->level;; lv++) {
		uint64_t index = w->lin >> lv->shift & ((1u << lv->bits) - 1);
		uint64_t entry_gpa = table + index * f->entry_bytes, at, e;
		enum xlate_event ev = walk_stage2(w, entry_gpa, ACCESS_READ, true, &at);

		if (ev)
			return ev;
		e = read_entry(m, f, at);
		w->refs++;
		if (!(e & PTE_P))
			return page_fault(w, 0);
		bool leaf = entry_is_leaf(m, f, lv, e);

		if (entry_reserved(m, f, lv, e, leaf))
			return page_fault(w, PF_P | PF_RSVD);
		rights = combine_rights(rights, e, f->entry_bytes == 8);
		if (leaf) {
			uint8_t pkey = (uint8_t)(e >> PTE_PKEY_SHIFT & 15);
			uint32_t denied = access_denied(w, rights, pkey);

			if (denied)
				return page_fault(w, denied);
			out->pkey = pkey;
			return finish(w, entry_gpa, at, e,
				      leaf_address(f, lv, e) | (w->lin & ((1ull << lv->shift) - 1)), lv->shift,
				      rights, out);
		}
		if (!(e & PTE_A)) {
			ev = set_entry_flags(w, entry_gpa, at, PTE_A);
			if (ev)
				return ev;
		}
		table = e & (f->entry_bytes == 4 ? 0xfffff000ull : PTE_ADDR_MASK);
	}
}

static void count_walk(struct mmu *m, unsigned refs)
{
	unsigned n = refs > WALK_REFS_MAX ? WALK_REFS_MAX : refs;

	m->stats.walks++;
	m->stats.refs += refs;
	m->stats.by_refs[n]++;
	if (refs > m->stats.refs_max)
		m->stats.refs_max = refs;
}

enum xlate_event walk_linear(struct mmu *m, uint64_t lin, enum access_kind kind, enum access_mode mode,
			     struct tlb_entry *e, struct xlate *out)
{
	struct walk w = {.mmu = m, .lin = lin, .kind = kind, .mode = mode, .out = out};
	enum xlate_event ev = walk_tables(&w, e);

	count_walk(m, w.refs);
	return ev;
}

enum xlate_event walk_physical(struct mmu *m, uint64_t gpa_v, enum access_kind kind, struct xlate *out,
			       struct tlb_entry *e)
{
	struct walk w = {.mmu = m, .lin = gpa_v, .kind = kind, .mode = MODE_IMPLICIT, .out = out};
	uint64_t page;
	enum xlate_event ev = walk_stage2(&w, gpa_v, kind, false, &page);

	if (m->regs.nested)
		count_walk(m, w.refs);
	if (ev)
		return ev;
	e->shift = e->guest_shift = (uint8_t)w.ept_shift;
	e->tag = gpa_v >> w.ept_shift;
	e->page = page & ~((1ull << w.ept_shift) - 1);
	e->rights = (uint16_t)(TLB_W | TLB_U | w.ept_rights | (w.ept_dirty ? TLB_D : 0));
	e->pkey = 0;
	out->page = hpa(page & PAGE_MASK);
	return XLATE_OK;
}
