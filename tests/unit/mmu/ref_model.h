/*
 * The reference model of the translation hardware: what struct hw describes, in the
 * slowest and plainest way that can be read against the manual. Every structure is a
 * flat array of one kind of entry that is searched from the front; every invalidation
 * looks at every entry and asks the manual's question. It has no fast lookup.
 *
 * It shares with mmu/ the description (hw.h), the types of its interface (mmu.h) and
 * nothing else: it reads the tables by a walker of its own.
 *
 * Sources: SDM volume 3, "Paging", "Caching Translation Information" and "VMX Support for
 * Address Translation"; where these leave the choice to hardware, docs/walk-caches.md.
 */
#ifndef GNOMON_TESTS_REF_MODEL_H
#define GNOMON_TESTS_REF_MODEL_H

#include "mmu/mmu.h"

/* What may be known of an address (SDM "Linear, guest-physical and combined mappings"). */
enum ref_kind { REF_LINEAR_OR_COMBINED, REF_GUEST_PHYSICAL, REF_LINE };

struct ref_entry {
	bool valid;
	enum ref_kind kind;
	uint64_t used;        /* when: larger is later */
	uint64_t key;         /* what is looked for: page number, prefix, machine address or line */
	unsigned shift;       /* it is good for all with the same address >> shift */
	unsigned format;      /* walk caches: paging modes of the tables it comes from */
	unsigned vpid, pcid;  /* linear and combined mappings */
	uint64_t ep4ta;       /* combined and guest-physical mappings; else 0 */
	bool global;
	uint64_t address;     /* linear or guest-physical, that it was made for */
	uint64_t value;       /* page, table, or the entry's bits */
	uint64_t table_gpa;   /* guest[]: guest-physical address of the table that value names */
	uint16_t rights;      /* TLB_* of the stage that it belongs to, down to here */
	uint16_t table_rights; /* TLB_EPT_*: what EPT allows of the table that value names */
	unsigned guest_shift;
	uint8_t pkey;
};

struct ref_array {
	unsigned sets, ways;
	struct ref_entry *entry; /* [sets * ways] */
};

struct ref_tlb {
	unsigned arrays;
	struct ref_array array[HW_ARRAYS_MAX];
	uint8_t pages[HW_ARRAYS_MAX];
};

#define REF_TOUCHES_MAX 256
struct ref_model {
	struct machmem *mem;
	struct hw hw;
	struct mmu_regs regs;
	unsigned maxphyaddr;
	bool pages_1g;
	bool data_cache;
	bool pml;             /* the control; without EPT's flags it does nothing */
	uint16_t pml_index;
	uint64_t pml_log;
	struct mmu_stats stats;
	bool asking;          /* the tables are only asked: nothing is counted, cached or set... */
	bool would_set;       /* ... and a flag would have been set */
	uint64_t now;
	/* Machine addresses of the entries that were read or written since the user last cleared this. */
	unsigned touches;
	uint64_t touched[REF_TOUCHES_MAX];
	struct ref_tlb l1d, l1i, l2d, l2i;
	struct ref_array guest[HW_LEVELS], host[HW_LEVELS], unified, nested_tlb, cache[HW_MEMORY];
};

/* NULL: out of memory. */
struct ref_model *ref_new(struct machmem *mem, const struct hw *hw);
void ref_free(struct ref_model *r);

enum xlate_event ref_translate(struct ref_model *r, uint64_t lin, enum access_kind kind, enum access_mode mode,
			       struct xlate *out, uint16_t *rights);
/* As mmu_translate_logged(): walks, whatever the TLBs hold. */
enum xlate_event ref_translate_logged(struct ref_model *r, uint64_t lin, enum access_kind kind, enum access_mode mode,
				      struct xlate *out, uint16_t *rights);
enum xlate_event ref_translate_gpa(struct ref_model *r, uint64_t gpa, enum access_kind kind, struct xlate *out);
/* A data access of the processor to RAM, where data goes through the caches too. */
void ref_data_access(struct ref_model *r, uint64_t at, unsigned bytes);

/* The invalidations of mmu.h by the same names. */
void ref_flush_page(struct ref_model *r, uint64_t lin);
void ref_flush_pcid_page(struct ref_model *r, unsigned pcid, uint64_t lin);
void ref_flush_pcid(struct ref_model *r, unsigned pcid);
void ref_flush_nonglobal(struct ref_model *r);
void ref_flush_vpid_all(struct ref_model *r, unsigned vpid);
void ref_flush_vpid_keep_globals(struct ref_model *r, unsigned vpid);
void ref_flush_vpid_page(struct ref_model *r, unsigned vpid, uint64_t lin);
void ref_flush_all_vpids(struct ref_model *r);
void ref_flush_ept(struct ref_model *r, uint64_t eptp, bool all);
void ref_flush_pcid_all(struct ref_model *r, unsigned pcid);
void ref_flush_everything(struct ref_model *r);

#endif
