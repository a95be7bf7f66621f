/*
 * What the page walker (walk.c) and direct translation (dmt.c) share: a walk under way, its references and how they
 * are counted and recorded, and what entries of guest's tables and of the EPT mean.
 */
#ifndef GNOMON_MMU_WALK_IMPL_H
#define GNOMON_MMU_WALK_IMPL_H

#include "arch/vmx.h"
#include "arch/x86.h"
#include "mmu/rights.h"
#include "mmu/walk.h"

struct level {
	uint8_t shift;     /* address bits below this are not this level's */
	uint8_t bits;      /* index width */
	bool may_be_leaf;  /* PS may be set (4 KiB level: always the leaf) */
};

struct walk_format {
	const char *name;
	uint8_t levels;
	uint8_t entry_bytes;
	struct level level[5]; /* [0] is the root */
	uint8_t shift[HW_LEVELS]; /* the same shifts by the number of the level: 1 = PTE */
};

/* Lowest address bit of a level of 9 bits, by its number: 1 = PTE ... */
#define WALK_SHIFTS {0, 12, 21, 30, 39, 48}

struct walk {
	struct mmu *mmu;
	uint64_t lin;
	enum access_kind kind;
	enum access_mode mode;
	bool caches;         /* the walk caches and the nested TLB may be used */
	bool used;           /* something of them was */
	bool asks;           /* only what the tables say: nothing is counted, recorded, cached or set */
	bool would_set;      /* asked, a flag would have been set on the way */
	unsigned refs;
	uint8_t guest_level; /* of the entry whose address stage 2 translates; 0: the final address */
	uint16_t ept_rights; /* of the last stage 2 */
	unsigned ept_shift;  /* page size of the last stage 2 */
	bool ept_dirty;
	uint8_t part;        /* enum walk_part of the table that is read */
	uint8_t switched;    /* agile: level of the guest's first entry; 0: all was shadow so far */
	unsigned first_step; /* of the log that this attempt made */
	struct xlate *out;
};

static inline void note_code_write(struct mmu *m, uint64_t hpa)
{
	if (unlikely(m->mem->code_map[hpa >> PAGE_SHIFT]))
		m->code_written = hpa + 1;
}

/* Sets bits in a table entry in machine memory. */
static inline void entry_or(struct mmu *m, uint64_t at, uint64_t set)
{
	uint8_t *p;

	if (!machmem_is_ram(m->mem, hpa(at)))
		return;
	p = machmem_ptr(m->mem, hpa(at));
	/* All the flags live in the two low bytes, of either entry size. */
	put_u16(p, (uint16_t)(get_u16(p) | set));
	note_code_write(m, at);
}

/* Page-modification logging, whose log is not full: notes the page of @gpa_v. */
static inline void pml_append(struct mmu *m, uint64_t gpa_v)
{
	uint64_t at = m->pml.log + 8ull * m->pml.index--;

	if (!machmem_is_ram(m->mem, hpa(at)))
		return;
	put_u64(machmem_ptr(m->mem, hpa(at)), gpa_v & PAGE_MASK);
	note_code_write(m, at);
}

/* ---- recording ---- */

/* Adds a step to mmu->log, which is there; and a reference as one. */
struct walk_step *walk_log_step(struct walk *w, enum walk_stage stage, unsigned level, uint32_t cycles);
void walk_log_reference(struct walk *w, enum walk_stage stage, unsigned level, uint64_t at, uint64_t at_gpa,
			uint64_t entry, enum hw_place place);

/* The rights that the last step led to. */
static ALWAYS_INLINE void log_rights(struct walk *w, uint16_t rights)
{
	struct walk_log *log = w->mmu->log;

	if (unlikely(log))
		log->step[log->steps - 1].rights = rights;
}

/* May walks of linear addresses be as walk_shortly() in walk.c makes them? */
static inline bool walk_has_shortcut(const struct mmu *m)
{
	return m->hw.walk_caches == HW_WALK_SPLIT && mmu_is_long(m) && !m->table_watch.read;
}

/* ---- the memory hierarchy ---- */

static ALWAYS_INLINE enum hw_place count_reference(struct mmu *m, enum walk_stage stage, uint64_t at)
{
	enum hw_place place = mem_caches_access(&m->caches, at);

	m->stats.stage_refs[stage]++;
	m->stats.ref_hits[place]++;
	return place;
}

static inline uint64_t reference(struct walk *w, enum walk_stage stage, unsigned level, uint64_t at, uint64_t at_gpa,
			  unsigned bytes)
{
	struct mmu *m = w->mmu;
	/* First: it may take the host long. */
	uint64_t e = bytes == 8 ? machmem_read64(m->mem, hpa(at)) : machmem_read32(m->mem, hpa(at));
	enum hw_place place;

	if (unlikely(m->table_watch.read))
		m->table_watch.read(m->table_watch.ctx, at);
	if (w->asks)
		return e;
	place = count_reference(m, stage, at);
	w->refs++;
	if (unlikely(m->log))
		walk_log_reference(w, stage, level, at, at_gpa, e, place);
	return e;
}

static inline void count_walk(struct mmu *m, unsigned refs)
{
	unsigned n = refs > WALK_REFS_MAX ? WALK_REFS_MAX : refs;

	m->stats.walks++;
	m->stats.refs += refs;
	m->stats.by_refs[n]++;
	if (refs > m->stats.refs_max)
		m->stats.refs_max = refs;
}

/* ---- entries of the EPT ---- */

static inline uint64_t phys_reserved(const struct mmu *m) { return PTE_ADDR_MASK & ~((1ull << m->maxphyaddr) - 1); }

static inline bool ept_leaf_type_ok(uint64_t e)
{
	unsigned type = (unsigned)(e >> EPT_MT_SHIFT & 7);

	return type != 2 && type != 3 && type != 7;
}

static inline bool ept_entry_misconfigured(const struct mmu *m, uint64_t e, unsigned shift, bool leaf)
{
	if ((e & (EPT_R | EPT_W)) == EPT_W)
		return true;
	if (e & phys_reserved(m))
		return true;
	if (!leaf)
		return e & 0x78 || (shift >= 39 && (e & EPT_PS));
	return !ept_leaf_type_ok(e) || (e & (((1ull << shift) - 1) & PTE_ADDR_MASK));
}

static inline uint64_t ept_access_bits(enum access_kind kind, bool table, bool ad)
{
	if (table)
		return ad ? EPT_VIOL_READ | EPT_VIOL_WRITE : kind == ACCESS_WRITE ? EPT_VIOL_WRITE : EPT_VIOL_READ;
	return kind == ACCESS_WRITE ? EPT_VIOL_WRITE : kind == ACCESS_FETCH ? EPT_VIOL_FETCH : EPT_VIOL_READ;
}

static const uint8_t ept_shifts[HW_LEVELS] = WALK_SHIFTS;

static inline uint16_t tlb_ept_rights(uint64_t rights)
{
	return (uint16_t)((rights & EPT_R ? TLB_EPT_R : 0) | (rights & EPT_W ? TLB_EPT_W : 0) |
			  (rights & EPT_X ? TLB_EPT_X : 0));
}

static inline bool ept_is_leaf(unsigned level, uint64_t e) { return level == 1 || (level <= 3 && (e & EPT_PS)); }

/* ---- entries of the guest's tables ---- */

static inline const struct level *level_of(const struct walk_format *f, unsigned level)
{
	return &f->level[f->levels - level];
}

/* Reserved bits of a present entry (SDM figures of each paging mode's entries). */
static inline bool entry_reserved(const struct mmu *m, const struct walk_format *f, const struct level *lv, uint64_t e,
				  bool leaf)
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
	if (!mmu_is_long(m) && (e & 0x7ff0000000000000ull))
		return true;
	if ((e & PTE_PS) && lv->shift > 12) {
		if (!lv->may_be_leaf || (lv->shift == 30 && !m->pages_1g))
			return true;
		return e & (((1ull << lv->shift) - 1) & ~0x1fffull);
	}
	return false;
}

static inline bool entry_is_leaf(const struct mmu *m, const struct walk_format *f, const struct level *lv, uint64_t e)
{
	if (lv->shift == 12)
		return true;
	if (!(e & PTE_PS) || !lv->may_be_leaf)
		return false;
	return f->entry_bytes == 8 || (m->regs.cr4 & CR4_PSE);
}

static inline uint64_t leaf_address(const struct walk_format *f, const struct level *lv, uint64_t e)
{
	if (f->entry_bytes == 4 && lv->shift == 22)
		return (e & 0xffc00000u) | (e >> 13 & 0xff) << 32;
	return e & PTE_ADDR_MASK & ~((1ull << lv->shift) - 1);
}

static inline uint16_t combine_rights(uint16_t rights, uint64_t e, bool nx_counts)
{
	if (!(e & PTE_W))
		rights &= (uint16_t)~TLB_W;
	if (!(e & PTE_U))
		rights &= (uint16_t)~TLB_U;
	if (nx_counts && (e & PTE_NX))
		rights |= TLB_NX;
	return rights;
}

#endif
