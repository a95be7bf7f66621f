/*
 * Running a guest on page tables of the hypervisor's making, without EPT: what
 * shadow paging and brute force have in common.
 *
 * The processor walks hardware tables gva -> hpa that the backend writes. Their
 * format follows the guest's: a 4- or 5-level guest gets 4 or 5 levels, every
 * other guest (PAE, 32-bit, paging off) gets PAE tables, whose four top entries
 * the processor loads from CR3 at VM entry. Here are: which format the guest
 * uses, which part of a guest table a hardware table mirrors, how an entry is
 * composed, which registers the guest really runs with, and what kind of access
 * an intercepted page fault was.
 *
 * Left out: memory types (PWT, PCD, PAT are not copied).
 * Sources: SDM volume 3, "Paging"; "VM-Execution Control Fields".
 */
#ifndef GNOMON_HV_HWPT_H
#define GNOMON_HV_HWPT_H

#include "hv/hv.h"

#define HWPT_ENTRIES 512u
#define HWPT_ROOTS   4u /* hardware tables that the top of a PAE-format space points to */

/* The guest's paging mode, which is the format of its tables. */
enum hwpt_format { HWPT_NONE, HWPT_32, HWPT_PAE, HWPT_4, HWPT_5 };

enum hwpt_format hwpt_format(const struct hv_guest_regs *g);

/* Does the guest run in IA-32e mode, on 4- or 5-level hardware tables? */
static inline bool hwpt_is_long(enum hwpt_format f) { return f >= HWPT_4; }

/* Level of the highest hardware tables that mirror guest tables. Under PAE format there are HWPT_ROOTS. */
static inline unsigned hwpt_top(enum hwpt_format f) { return f == HWPT_5 ? 5 : f == HWPT_4 ? 4 : 2; }

static inline unsigned hwpt_shift(unsigned level) { return PAGE_SHIFT + 9 * (level - 1); }

static inline unsigned hwpt_index(uint64_t lin, unsigned level)
{
	return (unsigned)(lin >> hwpt_shift(level)) & (HWPT_ENTRIES - 1);
}

/* Which of the HWPT_ROOTS tables serves @lin; 0 in IA-32e mode. */
static inline unsigned hwpt_root_index(enum hwpt_format f, uint64_t lin)
{
	return hwpt_is_long(f) ? 0 : (unsigned)bits(lin, 31, 30);
}

/* The linear address with the upper bits as the format has them. */
static inline uint64_t hwpt_canonical(enum hwpt_format f, uint64_t lin)
{
	unsigned unused = f == HWPT_5 ? 7 : 16;

	return hwpt_is_long(f) ? (uint64_t)((int64_t)(lin << unused) >> unused) : lin & 0xffffffff;
}

/* ---- guest tables and the hardware tables that mirror them ----
 *
 * A guest table of 512 8-byte entries is mirrored by one hardware table. A 32-bit
 * guest's has 1024 4-byte entries: a page table then takes two hardware tables
 * and a page directory, each of whose entries covers two hardware ones, takes
 * four. Which part a hardware table mirrors is its quadrant.
 */
static inline unsigned hwpt_entry_bytes(enum hwpt_format f) { return f == HWPT_32 ? 4 : 8; }
static inline unsigned hwpt_quadrants(enum hwpt_format f, unsigned level)
{
	return f != HWPT_32 ? 1 : level == 2 ? 4 : 2;
}

/* Quadrant of the hardware table that serves @lin at @level. */
static inline unsigned hwpt_quadrant(enum hwpt_format f, unsigned level, uint64_t lin)
{
	return f == HWPT_32 ? (unsigned)(lin >> hwpt_shift(level + 1)) & (hwpt_quadrants(f, level) - 1) : 0;
}

/* Index of the guest entry that hardware entry @index of a table mirrors. */
static inline unsigned hwpt_guest_index(enum hwpt_format f, unsigned level, unsigned quadrant, unsigned index)
{
	if (f != HWPT_32)
		return index;
	return level == 2 ? quadrant * 256 + index / 2 : quadrant * 512 + index;
}

/*
 * The hardware entries [*first, *last] that mirror guest bytes [offset, offset + bytes)
 * of a table page. False if none of this quadrant does.
 */
bool hwpt_entries_of(enum hwpt_format f, unsigned level, unsigned quadrant, unsigned offset, unsigned bytes,
		     unsigned *first, unsigned *last);

/* What guest table entries mean beyond their format: part of what hardware tables depend on. */
struct hwpt_rules {
	enum hwpt_format format;
	bool nxe;  /* EFER.NXE: bit 63 is not reserved */
	bool pse;  /* CR4.PSE, where it matters: 32-bit paging has large pages */
};
struct hwpt_rules hwpt_rules(const struct hv_guest_regs *g);

/* Entry @index of a table of the format, by host address. */
static inline uint64_t hwpt_entry_in(const void *table, enum hwpt_format f, unsigned index)
{
	const uint8_t *page = table;

	return f == HWPT_32 ? get_u32(page + 4 * index) : get_u64(page + 8 * index);
}

/* The guest table in @table. NULL if no frame stands behind it: then all entries are zero. */
const void *hwpt_guest_table(struct hv_vm *vm, gfn_t table);
/* Entry @index of the guest table in @table. Zero if no frame stands behind it. */
uint64_t hwpt_guest_entry(struct hv_vm *vm, gfn_t table, enum hwpt_format f, unsigned index);

/* Is guest entry @e of a 4 KiB page usable as it stands: present, accessed, no reserved bit set? */
bool hwpt_page_entry(const struct hv_vm *vm, struct hwpt_rules r, uint64_t e);
/* Does guest entry @e of level @level >= 2 reference a table in guest RAM (*table)? */
bool hwpt_table_entry(const struct hv_vm *vm, struct hwpt_rules r, unsigned level, uint64_t e, gfn_t *table);

/* ---- hardware entries ---- */

#define HWPT_RIGHTS (PTE_W | PTE_U | PTE_NX)
#define HWPT_KEY    (0xfull << PTE_PKEY_SHIFT)

static inline mfn_t hwpt_frame(uint64_t e) { return mfn((e & PTE_ADDR_MASK) >> PAGE_SHIFT); }

/* An entry that references a table; @rights: PTE_W, PTE_U, PTE_NX. */
static inline uint64_t hwpt_link(mfn_t table, uint64_t rights)
{
	return table.v << PAGE_SHIFT | PTE_P | PTE_A | (rights & HWPT_RIGHTS);
}

/*
 * A leaf. The hardware has no flags to set in it: accessed and dirty are set from
 * the start, and an entry that may not become dirty unseen has no PTE_W.
 * @attributes: PTE_W, PTE_U, PTE_NX, PTE_G, key, PTE_PS
 */
static inline uint64_t hwpt_leaf(mfn_t page, uint64_t attributes)
{
	return page.v << PAGE_SHIFT | PTE_P | PTE_A | PTE_D |
	       (attributes & (HWPT_RIGHTS | PTE_G | PTE_PS | HWPT_KEY));
}

/* Does replacing entry @old by @new take something away that a TLB may still hold? */
static inline bool hwpt_restricts(uint64_t old, uint64_t new)
{
	uint64_t changed = (old ^ new) & ~(PTE_A | PTE_D);

	return old & PTE_P && changed && (changed != PTE_W || old & PTE_W);
}

/* ---- the processor ---- */

/* A zeroed frame for a hardware table. -ENOMEM. */
int hwpt_alloc_frame(struct hv_vm *vm, mfn_t *frame);
#define HWPT_NO_FRAME mfn(~0ull)
/* Gives the frame back; HWPT_NO_FRAME is none. */
void hwpt_free_frame(struct hv_vm *vm, mfn_t frame);
/* The frame for the four PAE top entries, which CR3 can only name below 4 GiB. -ENOMEM with @err. */
int hwpt_alloc_top(struct hv_vm *vm, mfn_t *frame, struct error *err);
/* Entry @i of the PAE top: the hardware table @table, or none. Takes effect at the next VM entry. */
void hwpt_set_top(struct hv_vm *vm, mfn_t top, unsigned i, const mfn_t *table);

/* Controls: no EPT; page faults, CR3 accesses, INVLPG, INVPCID and every CR0 and CR4 change exit. */
void hwpt_setup_vmcs(struct hv_vm *vm);
/* The registers the guest runs with, from what it believes them to be; @root: hardware CR3 without PCID. */
void hwpt_write_regs(struct hv_vm *vm, mfn_t root);
void hwpt_write_cr3(struct hv_vm *vm, mfn_t root);
/* Does the guest run with its own PCIDs in hardware? Otherwise every address space has the same TLB tag. */
bool hwpt_uses_pcid(const struct hv_guest_regs *g);

/* What access the intercepted page fault at @lin was, from its error code and the guest's privilege. */
struct hwpt_access {
	enum access_kind kind;
	enum access_mode mode;
};
struct hwpt_access hwpt_access(struct hv_vm *vm, uint64_t lin, uint32_t error);
/*
 * May it have been something else? With SMAP and EFLAGS.AC set, an implicit access
 * (to a system structure) to a user page is forbidden and an explicit one, which
 * looks the same, is not. Then only emulation can tell.
 */
bool hwpt_is_ambiguous(struct hv_vm *vm, uint64_t lin, struct hwpt_access a);

/* The guest's own tables forbid the access. HV_REFLECT. */
enum hv_verdict hwpt_true_fault(struct hv_vm *vm, uint64_t lin, uint32_t error);

/* Faults in a row at one address for which no reason is found. */
struct hwpt_unexplained {
	uint64_t lin;
	unsigned count;
};
#define HWPT_UNEXPLAINED_MAX 1000u

/*
 * What to do about a fault though guest and hardware tables both allow the
 * access. A protection key may forbid a supervisor write in hardware, which runs
 * with CR0.WP = 1, but not in the guest with CR0.WP = 0: HV_EMULATE. Otherwise the
 * TLB did not know yet: HV_RESUME; after too many of these HV_FAIL.
 */
enum hv_verdict hwpt_unexplained(struct hv_vm *vm, struct hwpt_unexplained *u, uint64_t lin,
				 struct hwpt_access a);

/* One more than the highest frame number of guest RAM. */
static inline uint64_t hwpt_guest_frames(const struct hv_vm *vm)
{
	const struct machmem_range *last = &vm->ram[vm->rams - 1];

	return (last->base + last->bytes) >> PAGE_SHIFT;
}

/* Most hardware tables a backend may have, in frames: the configured limit, or one that suits the guest. */
uint64_t hwpt_table_limit(const struct hv_vm *vm);
#define HWPT_TABLES_MIN         64u
#define HWPT_TABLES_MIN_DEFAULT 2048u /* 8 MiB */

/* Invalidations for the guest's VPID; without one, VM entry and exit flush by themselves. */
void hwpt_flush_address(struct hv_vm *vm, uint64_t lin);
void hwpt_flush_nonglobal(struct hv_vm *vm);
void hwpt_flush_all(struct hv_vm *vm);

#endif
