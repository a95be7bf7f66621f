/*
 * The translation hardware: page walks, TLBs and what software can do to them.
 *
 * A translation is a value: mmu_translate() either gives a host-physical page
 * with the rights it was entered with, or says which architectural event the
 * access causes (page fault, EPT violation, EPT misconfiguration). Nothing here
 * raises anything; the processor does.
 *
 * The TLB model is real: a translation that is in it is used, whatever the
 * tables say by now. In front of it stands a host-side lookup (struct fast_tlb)
 * that holds only translations that are in a first-level TLB; whoever is served by
 * it makes the entry the most recently used, as a hit in the TLB does.
 *
 * Sources: SDM volume 3, "Paging", "Caching Translation Information" and
 * "VMX Support for Address Translation".
 */
#ifndef GNOMON_MMU_MMU_H
#define GNOMON_MMU_MMU_H

#include "arch/addr.h"
#include "base/arena.h"
#include "base/util.h"
#include "mem/machmem.h"
#include "mmu/cache.h"
#include "mmu/dmt.h"
#include "mmu/hw.h"
#include "mmu/walk_cache.h"

/* How an access reaches memory. */
enum access_kind { ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH };
#define ACCESS_KINDS 3

/*
 * On whose behalf. The first three are the index of the fast lookup; IMPLICIT is
 * a supervisor access that ignores CPL and EFLAGS.AC (descriptor tables, TSS). It has the rights of
 * SUPER, as which the processor makes it, so that the fast lookup serves it.
 */
enum access_mode {
	MODE_SUPER,    /* CPL 0-2, SMAP in force where it is enabled */
	MODE_SUPER_AC, /* CPL 0-2 with EFLAGS.AC set: SMAP suspended */
	MODE_USER,     /* CPL 3 */
	MODE_USER_ALIGN, /* CPL 3 with alignment checking (CR0.AM, EFLAGS.AC): never in the fast lookup */
	MODE_COUNT,
	MODE_IMPLICIT = MODE_COUNT,
};

static inline bool mode_is_user(enum access_mode m) { return m == MODE_USER || m == MODE_USER_ALIGN; }

/* The registers that translation depends on. The processor keeps them current through mmu_set_regs(). */
struct mmu_regs {
	uint64_t cr0, cr3, cr4, efer;
	uint32_t pkru;
	uint16_t vpid;     /* 0 outside VMX non-root operation or without VPID */
	bool nested;       /* EPT in force */
	uint64_t eptp;
	uint64_t pdpte[4]; /* PAE paging: loaded by MOV CR3 / VM entry, not walked */
	bool agile;        /* under EPT, 4- and 5-level paging: the walk begins in a shadow table (docs/agile-paging.md) */
	uint64_t shadow_root; /* ... machine address, PTE_SWITCH, PTE_SWITCH_W */
};

enum xlate_event { XLATE_OK, XLATE_PAGE_FAULT, XLATE_EPT_VIOLATION, XLATE_EPT_MISCONFIG, XLATE_PML_FULL };

/* What a translation or its failure is. */
struct xlate {
	hpa_t page;           /* 4 KiB page of machine memory (or of a device); valid if XLATE_OK */
	uint32_t error_code;  /* XLATE_PAGE_FAULT */
	uint64_t qualification; /* XLATE_EPT_VIOLATION */
	gpa_t gpa;            /* EPT events and XLATE_PML_FULL: the guest-physical address being accessed */
	bool shadow;          /* XLATE_PAGE_FAULT: found in the shadow part of an agile walk */
};

/*
 * What the translation hardware did. Every count is exact, and the same whether or not the
 * fast path is in use: what it skips is counted nowhere.
 */
#define WALK_REFS_MAX 64
enum walk_stage { STAGE_GUEST, STAGE_HOST, STAGES }; /* guest (or only) tables; EPT */
struct mmu_stats {
	uint64_t walks;          /* completed or faulting hardware walks, of linear or guest-physical addresses */
	uint64_t refs;           /* paging-structure entries they read from the memory hierarchy */
	uint64_t by_refs[WALK_REFS_MAX + 1]; /* walks that made this many references */
	uint64_t refs_max;
	uint64_t stage_refs[STAGES];
	uint64_t ref_hits[HW_PLACES]; /* where the references hit; sum = refs */
	uint64_t walk_cache_hits[STAGES][HW_LEVELS]; /* by level of the entry that was not read; split: of the longest prefix */
	uint64_t walk_cache_misses[STAGES]; /* split: no level hit; unified: entries it may hold and did not */
	uint64_t nested_tlb_hits, nested_tlb_misses;
	uint64_t repeated;       /* walks done again without caches because a stale part of them led to a fault */
	uint64_t l1d_misses, l1i_misses;
	uint64_t l2d_hits, l2d_misses, l2i_hits, l2i_misses; /* by kind of access, whether or not the TLB is unified */
	uint64_t splintered;     /* entries made smaller than the page of the guest's tables */
	uint64_t flushes;        /* invalidations carried out */
	uint64_t data_hits[HW_PLACES]; /* --data-cache: where data accesses hit */
	struct dmt_stats dmt;
	/* Agile walks that ended in a translation, by level of the first entry of the guest; [0]: all shadow. */
	uint64_t agile[HW_LEVELS];
};

/* Whose tables a walk of linear addresses reads. All but the first: agile paging. */
enum walk_part {
	PART_GUEST,    /* the guest's, by guest-physical address */
	PART_SHADOW,   /* the hypervisor's, by machine address */
	PART_SWITCHED, /* the guest's, by machine address: the first after the shadow ones */
};

/*
 * One step of a walk as it happened, for showing it (struct mmu.log).
 */
struct walk_step {
	/* STEP_REGISTER: direct translation found one; STEP_FALL_BACK: it came to nothing, what follows are the tables */
	enum { STEP_REF, STEP_WALK_CACHE, STEP_NESTED_TLB, STEP_REGISTER, STEP_FALL_BACK } what;
	enum walk_stage stage;
	uint8_t level;           /* of the entry: 1 = PTE ... 5; nested TLB: 0 */
	uint8_t guest_level;     /* host stage: level of the guest entry whose address is being translated; 0: the final address */
	uint64_t at;             /* machine address of the entry (STEP_REF, unified STEP_WALK_CACHE) */
	uint64_t at_gpa;         /* guest stage: its guest-physical address; host stage: the address being translated */
	uint64_t entry;          /* its value; split walk cache, nested TLB: the table's or page's machine address */
	uint8_t place;           /* STEP_REF: enum hw_place */
	uint8_t part;            /* guest stage: enum walk_part of the table it is in */
	uint16_t rights;         /* TLB_*: of this stage so far */
	uint32_t cycles;
};
#define WALK_STEPS_MAX 160
struct walk_log {
	unsigned steps;
	struct walk_step step[WALK_STEPS_MAX];
	bool repeated;           /* the steps are those of the second attempt */
	/* How the lookup before the walk went: level of the TLB that held it (1, 2), or 0: walked. */
	unsigned tlb_level;
	bool mapped;             /* the fields below are valid */
	uint8_t guest_shift, shift; /* page in the guest's tables; page as entered */
	uint8_t pkey;
	uint16_t rights;
	uint64_t page;           /* machine address of the page as entered */
};

/* ---- TLB model ---------------------------------------------------------- */

/* Rights and attributes of a cached translation. */
#define TLB_W     0x001u /* guest paging allows writing */
#define TLB_U     0x002u /* user page */
#define TLB_NX    0x004u /* guest paging forbids execution */
#define TLB_D     0x008u /* dirty flags are already set: a store needs no walk */
#define TLB_G     0x010u /* global */
#define TLB_MMIO  0x020u /* no RAM behind it */
#define TLB_EPT_R 0x100u /* EPT allows reading; without EPT these three are set */
#define TLB_EPT_W 0x200u
#define TLB_EPT_X 0x400u
#define TLB_EPT_RWX (TLB_EPT_R | TLB_EPT_W | TLB_EPT_X)

struct tlb_entry {
	uint64_t tag;   /* (linear page number >> size shift), or TLB_INVALID */
	uint64_t page;  /* hpa of the whole page (4 KiB, 2 MiB or 1 GiB) */
	uint32_t asid;  /* vpid << 12 | pcid; ASID_PHYSICAL: guest-physical, made without paging */
	uint64_t ep4ta; /* the EPT root it was made under, with EP4TA_VALID; 0 without EPT */
	uint64_t stamp; /* for LRU: larger is more recent */
	uint16_t rights; /* TLB_* */
	uint8_t shift;  /* 12, 21, 30 */
	uint8_t guest_shift; /* of the page in the guest's tables (or the only ones): may be larger, and 22 */
	uint8_t pkey;
	uint8_t modes;   /* first level, 4 KiB: bit n: the fast slot of access mode n may be made from this entry */
} __attribute__((aligned(64))); /* one line of the host's cache */
#define TLB_INVALID (~0ull)
#define EP4TA_VALID 1ull

#define FAST_SLOTS_SHIFT 11
#define FAST_SLOTS (1 << FAST_SLOTS_SHIFT)
#define FAST_WORDS (FAST_SLOTS / 64)

#define TLB_PIECE_SLOTS 2048
#define TLB_LARGE_SLOTS 256u

struct tlb_array {
	struct tlb_entry *entry; /* [sets * ways] */
	struct ways_line *line;  /* [sets * lines]: what sets are searched by */
	uint32_t lines;          /* of a set */
	bool stamps;             /* the order of use is in the entries' stamps; else in the lines */
	uint32_t sets;           /* power of two */
	uint32_t ways;
	uint8_t pages;           /* page sizes it may hold (HW_4K | ...); each is indexed by its own page number */
	uint8_t holds;           /* those that it has ever held: others need not be looked for */
	/* How many entries of 2 MiB and 1 GiB there are, by the low bits of their tags: where none is, none is looked for. */
	uint32_t large[HW_PAGES][TLB_LARGE_SLOTS];
	/* Entries that are but a piece of a page of the guest (smaller EPT pages, 4 MiB pages): how many, by tlb_piece_slot(). */
	uint32_t pieces[TLB_PIECE_SLOTS];
	/* First level, where pages larger than 4 KiB may be: the fast slots that each entry may stand in. */
	uint64_t (*slots)[FAST_WORDS]; /* [sets * ways] */
};

/*
 * Host-side lookup in front of an L1 TLB. A slot matches only while the TLB holds the translation and its rights
 * allow the access. Who is served by it sets the entry's stamp: that is all that a hit changes in the model.
 */
struct fast_entry {
	uint64_t rtag; /* linear page address a read (L1I: a fetch) may match, or FAST_INVALID */
	uint64_t wtag; /* the same for writes: writable, dirty, no code in the page */
	uint64_t addend; /* host address (L1I: machine address) minus linear address */
	struct tlb_entry *entry;
};
#define FAST_INVALID 0x800ull /* never equals a page address, nor one with the low bits of an alignment in it */

struct fast_tlb {
	struct fast_entry slot[MODE_COUNT][FAST_SLOTS];
	uint64_t used[MODE_COUNT][FAST_WORDS]; /* slots that may be valid */
};

struct tlb {
	unsigned arrays;
	struct tlb_array array[HW_ARRAYS_MAX];
	struct tlb_array *of[HW_PAGES]; /* by page size (4 KiB, 2 MiB, 1 GiB): the array that holds it; NULL: none does */
};

struct l1_tlb {
	struct tlb tlb;
	struct fast_tlb fast;
};

/* What a lookup in a TLB must match besides the page. */
struct tlb_tags {
	uint32_t asid;  /* as in struct tlb_entry */
	uint64_t ep4ta;
};

#define MMU_GUESSES 32768u

struct walk_format;

/* An access is allowed if of the rights (TLB_*) in @care exactly those in @want are there. */
struct rights_rule { uint16_t care, want; };

/* Somebody who is told of the processor's data accesses to one range of machine memory, while data_cache is set. */
struct mmu_watch {
	uint64_t first, bytes; /* machine addresses; 0 bytes: nobody */
	void (*seen)(void *ctx, uint64_t offset, unsigned bytes, bool write); /* @offset from first */
	void *ctx;
};

/* Somebody who is told, before the walker reads an entry of a paging structure, where that is. */
struct mmu_table_watch {
	void (*read)(void *ctx, uint64_t at); /* @at: machine address; NULL: nobody */
	void *ctx;
};

/* Somebody who is told of each walk for an access that found a translation, step by step. */
struct mmu_walks {
	void (*seen)(void *ctx, const struct walk_log *log);
	void *ctx;
	struct walk_log log; /* of the walk that is being made */
};

/*
 * Page-modification logging: while @on, guest-physical addresses whose EPT dirty flag goes from 0 to 1 are
 * logged. VM entry and exit switch it.
 */
struct mmu_pml {
	bool on;             /* the control is set and EPT has accessed and dirty flags */
	uint16_t index;      /* of the entry that is written next; from PML_ENTRIES on: the log is full */
	uint64_t log;        /* machine address of the page */
};

struct mmu {
	struct machmem *mem;
	struct arena arena;  /* of the tables of all that is modelled */
	struct mmu_regs regs;
	/* What follows from them: tags of lookups and of what walks of either stage cache, and the format of the tables. */
	struct tlb_tags tags;
	struct walk_tags guest_tags, host_tags;
	const struct walk_format *format;
	struct rights_rule rule[ACCESS_KINDS][MODE_IMPLICIT + 1]; /* of each kind of access in each mode */
	bool pkeys; /* protection keys are in force */
	bool agile;    /* walks begin in the shadow table */
	bool direct, direct_host; /* linear, guest-physical addresses go by registers */
	bool shortcut; /* walks may be as walk_shortly() makes them */
	unsigned maxphyaddr;
	bool fast_path;      /* off: every access goes through the model */
	bool data_watch;     /* data breakpoints armed: no fast lookups for data */
	bool pages_1g;       /* the processor has 1 GiB pages */
	bool data_cache;     /* data accesses go through the modelled caches: no fast lookups for data */
	struct mmu_watch watch;
	struct mmu_pml pml;
	struct mmu_dmt dmt;
	struct hw hw;
	struct walk_log *log; /* not NULL: the next walk is recorded here */
	struct mmu_table_watch table_watch;
	struct mmu_walks *walks; /* not NULL: who is told of walks */
	struct l1_tlb l1d, l1i;
	struct tlb l2d, l2i; /* second level; l2i only if hw.l2_split */
	struct walk_cache guest[HW_LEVELS], host[HW_LEVELS], unified, nested_tlb;
	struct mem_caches caches;
	/*
	 * Where the walker last set an accessed or dirty flag in a frame that code was
	 * decoded from, plus 1; 0 if it did not. The owner of the blocks clears it.
	 */
	uint64_t code_written;
	uint64_t clock;      /* LRU stamps */
	struct tlb_entry untranslated; /* stands for the entry where there is no translation, so no TLB */
	struct mmu_stats stats;
	/*
	 * For the host alone: the frame that a page of these low bits was last found at. What misses the TLBs mostly
	 * misses the host's caches, too, so the data is sent for while the model is still searched. A wrong guess costs
	 * nothing else.
	 */
	uint32_t guess[MMU_GUESSES];
	bool no_data; /* nobody looks at what is accessed (traces): nothing is sent for */
};

/* All caches as @hw describes them, empty. -ENOMEM. */
int mmu_init(struct mmu *mmu, struct machmem *mem, const struct hw *hw, struct error *err);
void mmu_destroy(struct mmu *mmu);

/*
 * Tells the MMU the registers that translation depends on. Drops the host-side
 * lookups, never the model: architectural invalidations are the calls below.
 */
void mmu_set_regs(struct mmu *mmu, const struct mmu_regs *regs);

/*
 * Translates the page that holds @addr for one access.
 * Sets accessed and dirty flags as the hardware does. Returns XLATE_OK and
 * out->page, or the event with its details in @out.
 * @rights: receives TLB_* of the translation used
 */
enum xlate_event mmu_translate(struct mmu *mmu, gva_t addr, enum access_kind kind, enum access_mode mode,
			       struct xlate *out, uint16_t *rights);

/*
 * As mmu_translate(), recording in @log how: which TLB held it, and always the walk that hardware makes
 * if none does, step by step with the caches as they are. The walk is made for real: accessed and dirty
 * flags, caches and counts change as by an access that missed.
 */
enum xlate_event mmu_translate_logged(struct mmu *mmu, gva_t addr, enum access_kind kind, enum access_mode mode,
				      struct xlate *out, struct walk_log *log);

/* @read is told of the entries that walks read from now on; NULL: nobody is. */
void mmu_watch_tables(struct mmu *mmu, void (*read)(void *ctx, uint64_t at), void *ctx);

/* Is paging in force (CR0.PG)? */
static inline bool mmu_paging(const struct mmu *m) { return m->regs.cr0 >> 31 & 1; }

/* Guest-physical address to host-physical, for accesses that the processor makes by physical address
 * (PDPTE loads). EPT events as in mmu_translate(). */
enum xlate_event mmu_translate_gpa(struct mmu *mmu, gpa_t a, enum access_kind kind, struct xlate *out);

/*
 * A data access of the processor to RAM at machine address @at: with data_cache every line that it
 * touches goes through the modelled caches, and whoever watches is told. Accesses within one page.
 */
void mmu_count_data(struct mmu *mmu, uint64_t at, unsigned bytes, bool write);
static ALWAYS_INLINE void mmu_data_access(struct mmu *mmu, uint64_t at, unsigned bytes, bool write)
{
	if (unlikely(mmu->data_cache))
		mmu_count_data(mmu, at, bytes, write);
}

/* ---- direct translation ---- */

/*
 * How many stages translate: 0, 1 (outside EPT), 2 or 3 (under EPT). Registers stay loaded. No TLB is
 * touched by any of these: registers are but another way to the entries that the tables lead to.
 */
void mmu_dmt_set_stages(struct mmu *mmu, unsigned stages);
/* Loads stage 0 with @n registers, at most DMT_REGISTERS; the rest hold nothing. Those it refuses are counted. */
void mmu_dmt_load(struct mmu *mmu, const struct dmt_entry *e, unsigned n);
/* The register @e of stage 0 is being read from machine address @at: counts the reference. */
void mmu_dmt_count_reload(struct mmu *mmu, uint64_t at);
/* The same of host stage 1 or 2, whose TEAs are machine addresses; nothing is counted but what is refused. */
void mmu_dmt_load_host(struct mmu *mmu, unsigned stage, const struct dmt_entry *e, unsigned n);
/*
 * The gTEAs of whom stage 0 belongs to: @n of them, by identifier - 1; they stay the caller's, who calls again when
 * they change. NULL: the machine has no such table. Stage 0 is resolved anew.
 */
void mmu_dmt_set_gteas(struct mmu *mmu, const struct dmt_gtea *gtea, unsigned n);

/* ---- architectural invalidations (SDM "Operations that Invalidate TLBs and Paging-Structure Caches") ---- */

void mmu_flush_page(struct mmu *mmu, gva_t addr);         /* INVLPG in the current VPID */
void mmu_flush_pcid_page(struct mmu *mmu, uint16_t pcid, gva_t addr); /* INVPCID type 0 */
void mmu_flush_pcid(struct mmu *mmu, uint16_t pcid);      /* non-global, one PCID, current VPID: MOV CR3, INVPCID 1 */
void mmu_flush_nonglobal(struct mmu *mmu);                /* INVPCID 3 */
/* Globals too: CR4.PGE, INVPCID 2, INVVPID 1, transitions without VPID. */
void mmu_flush_vpid_all(struct mmu *mmu, uint16_t vpid);
void mmu_flush_vpid_keep_globals(struct mmu *mmu, uint16_t vpid); /* INVVPID 3 */
void mmu_flush_vpid_page(struct mmu *mmu, uint16_t vpid, gva_t addr); /* INVVPID 0 */
void mmu_flush_all_vpids(struct mmu *mmu);                /* INVVPID 2: every VPID but 0 */
void mmu_flush_ept(struct mmu *mmu, uint64_t eptp, bool all); /* INVEPT 1 (of eptp) / 2 */
void mmu_flush_everything(struct mmu *mmu);               /* RESET */
void mmu_flush_pcid_all(struct mmu *mmu, uint16_t pcid);  /* as mmu_flush_pcid(), its globals too: CR4.SMEP 0 -> 1 */
/* Page faults and EPT violations invalidate, too: mmu_translate() does it. */

/* Host-side lookups only: after something they depend on (code pages, watchpoints) changed. */
void mmu_fast_flush(struct mmu *mmu);
void mmu_fast_flush_host_page(struct mmu *mmu, hpa_t page);

/* ---- inline fast path ---------------------------------------------------- */

/* Folded, so that buffers a power of two apart do not share slots. */
static ALWAYS_INLINE unsigned fast_slot(uint64_t lin)
{
	return (lin >> PAGE_SHIFT ^ lin >> (PAGE_SHIFT + FAST_SLOTS_SHIFT)) & (FAST_SLOTS - 1);
}

/*
 * Host address of [@lin, @lin + @bytes) if the fast lookup serves it, which counts as a hit in the L1 data TLB;
 * NULL: the access goes through mmu_translate(). @mode: any but MODE_IMPLICIT
 */
static ALWAYS_INLINE uint8_t *mmu_fast_data(struct mmu *mmu, uint64_t lin, unsigned bytes, enum access_kind kind,
					    enum access_mode mode)
{
	const struct fast_entry *e = &mmu->l1d.fast.slot[mode][fast_slot(lin)];
	uint64_t tag = kind == ACCESS_WRITE ? e->wtag : e->rtag;

	if (unlikely(((lin + (bytes - 1)) & PAGE_MASK) != tag || (lin & PAGE_MASK) != tag))
		return NULL;
	e->entry->stamp = ++mmu->clock;
	return (uint8_t *)(uintptr_t)(lin + e->addend);
}

/* The same for the fetch of code: of the slot that the L1 instruction TLB serves it from; NULL: none. */
static ALWAYS_INLINE const struct fast_entry *mmu_fast_fetch(struct mmu *mmu, uint64_t lin, enum access_mode mode)
{
	const struct fast_entry *e = &mmu->l1i.fast.slot[mode][fast_slot(lin)];

	if (unlikely(e->rtag != (lin & PAGE_MASK)))
		return NULL;
	e->entry->stamp = ++mmu->clock;
	return e;
}

/*
 * Host address of @lin if the L1 data TLB holds a translation that allows the
 * access, which it is told of; NULL if not, if there is no RAM, or if the fast path
 * may not serve it. For runs of accesses to one page.
 */
uint8_t *mmu_data_resident(struct mmu *mmu, uint64_t lin, enum access_kind kind, enum access_mode mode);

#endif
