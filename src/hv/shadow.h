/*
 * Shadow paging, inside: the cache of shadow pages and what its parts call in
 * each other. What it is and why: docs/shadow-paging.md.
 *
 * A shadow page is a hardware table (one machine frame) that mirrors a guest
 * table, or a part of one, or an imaginary table for a region that the guest maps
 * with a large page or without paging (direct). Each entry takes its rights from
 * the guest entry it mirrors, so the hardware combines the levels as it would
 * have combined the guest's, and a page does not depend on the path to it.
 *
 * Under agile paging (mmu_agile.c) a frame may be nested: no shadow page mirrors it, and an entry of the level above
 * switches: it holds the machine address of the guest's own table, from which on the hardware walks nested.
 *
 * An entry that is present points at something, and what it points at knows:
 *   table  -> shadow_page.parents
 *   switch -> shadow_frame.switches
 *   4 KiB  -> shadow_frame.mapped
 *   2 MiB  -> shadow_region.large
 * These are lists through one pair of words beside each entry.
 */
#ifndef GNOMON_HV_SHADOW_H
#define GNOMON_HV_SHADOW_H

#include <assert.h>

#include "hv/core.h"
#include "hv/dirty.h"
#include "hv/hv.h"
#include "hv/hwpt.h"

#define SHADOW_PAGES_MAX ((1u << 22) - 1)
#define SHADOW_FLOOD     3u  /* writes without a use in between: the frame is no table any more */
#define SHADOW_PREFETCH  8u  /* entries filled together, aligned */

/* An entry's name: page number * 512 + index; 0 is none, for pages count from 1. */
typedef uint32_t entry_ref;

/* Links of the list an entry is in. The first one's @prev names the owner of the list. */
struct shadow_link {
	uint32_t next; /* entry_ref */
	uint32_t prev; /* entry_ref, or LINK_HEAD | owner: page, frame or region number */
};
#define LINK_HEAD 0x80000000u

/* With the guest frame, the key of a shadow page: everything its contents depend on. */
union shadow_role {
	struct {
		uint32_t format : 3;   /* enum hwpt_format */
		uint32_t level : 3;
		uint32_t quadrant : 2;
		uint32_t nxe : 1;
		uint32_t pse : 1;
		uint32_t direct : 1;   /* no guest table: maps the region that begins at the frame */
		uint32_t global : 1;   /* direct: attributes of the large guest page */
		uint32_t pkey : 4;
		uint32_t unused : 16;
	};
	uint32_t key;
};
static_assert(sizeof(union shadow_role) == 4, "roles are compared as a word");

struct shadow_page {
	gfn_t gfn;
	union shadow_role role;
	mfn_t frame;
	uint64_t *entry;           /* the hardware table */
	struct shadow_link *link;  /* [512] */
	uint32_t same_frame;       /* next page of the same guest frame; free pages: next free one */
	uint32_t parents;          /* entry_ref: first entry that references this page */
	uint32_t lru_next, lru_prev;
	uint32_t present;          /* entries */
	uint32_t operation;        /* the last operation that used this page: it is not recycled meanwhile */
	uint32_t orphan_next;
	uint32_t unsync_at;        /* unsync: position in shadow.unsync[] */
	uint64_t *snapshot;        /* unsync: guest entries as the shadow entries were made from */
	uint64_t base;             /* linear address the page serves, if only one */
	int16_t prefetched;        /* entry filled last without a fault, or -1 */
	uint8_t writes;            /* traced writes since the last use */
	uint8_t pins;              /* current root, in this many places */
	bool live, based, several; /* several: it serves more than one linear address */
	bool root;                 /* has been a root: lives without parents */
	bool unplaced;             /* several, of pieces: counts in shadow.pieces_anywhere */
	bool owing;                /* root that is not current: as shadow.owing */
	bool orphaned, unsync;
};

struct shadow_frame {   /* of the guest */
	uint32_t mapped;   /* entry_ref: 4 KiB entries that map it */
	uint32_t tables;   /* pages that mirror it as a table */
	uint32_t directs;  /* direct pages whose region begins here */
	uint32_t switches; /* entry_ref: entries that switch to it */
	bool nested;       /* is not shadowed */
};

struct shadow_region {  /* 2 MiB of guest-physical space */
	uint32_t large;    /* entry_ref: 2 MiB entries that map it */
	uint32_t tables;   /* frames in it that are tables */
};

#define SHADOW_FLUSH_MAX 32u
#define SHADOW_PIECES    4096u
struct shadow_flush {
	bool all, nonglobal;
	unsigned addresses;
	uint64_t address[SHADOW_FLUSH_MAX];
};

struct shadow;

/* What agile paging adds; its root register names a shadow table, and its EPT is to follow what is traced. */
struct shadow_agile {
	void (*write_root)(struct shadow *s);
	void (*traced)(struct shadow *s, gfn_t g); /* the frame has become a table that is shadowed */
	void (*wrote)(struct shadow *s, gfn_t g);  /* a traced frame was written */
};

struct shadow {
	struct hv_vm *vm;
	const struct shadow_agile *agile; /* NULL: shadow paging */
	struct hwpt_rules rules;
	mfn_t top;                   /* PAE format: the four top entries */
	mfn_t empty;                 /* IA-32e: stands in while there is no root */
	uint32_t root[HWPT_ROOTS];   /* page numbers */
	struct shadow_page *page;    /* [limit + 1], from 1 */
	uint32_t limit, fresh, free; /* fresh: next page never used; free: list */
	uint32_t in_use, in_use_max;
	uint32_t lru_head, lru_tail; /* head: used last */
	uint32_t operation;
	uint32_t orphans;
	uint32_t *page_of_frame;     /* [machine frame]: page number */
	struct shadow_frame *frame;  /* [frames] */
	struct shadow_region *region; /* [frames / 512 + 1] */
	uint64_t frames;
	uint32_t *unsync;            /* [limit]: pages out of sync */
	uint32_t unsync_count;
	struct shadow_flush flush;
	/*
	 * Links went without a flush (flush_link()). The flush that the guest owes for what it changed there may
	 * be an INVLPG of another address: it drops the upper entries that the processor has cached of all.
	 */
	bool owing;
	/* Where global pages may be cached in pieces, as INVLPG must know: by hash of the page's address. */
	uint64_t pieces[SHADOW_PIECES / 64];
	uint32_t pieces_anywhere; /* pages of pieces that serve other addresses than were noted */
	bool changed;                /* an entry was changed in this operation */
	struct hwpt_unexplained unexplained;
	struct {
		uint64_t fills, prefetched, zapped, recycled, unsynced, resynced, flooded, cr3_hits, cr3_misses;
	} count;
};

static inline struct shadow *shadow_of(const struct hv_vm *vm) { return vm->mmu_state; }

static inline struct shadow_page *shadow_page_of(struct shadow *s, uint64_t link_entry)
{
	return &s->page[s->page_of_frame[hwpt_frame(link_entry).v]];
}
static inline uint32_t shadow_number(const struct shadow *s, const struct shadow_page *p)
{
	return (uint32_t)(p - s->page);
}
static inline bool shadow_is_switch(const struct shadow_page *p, uint64_t e) { return p->role.level > 1 && e & PTE_SWITCH; }
static inline bool shadow_is_link(const struct shadow_page *p, uint64_t e)
{
	return p->role.level > 1 && !(e & (PTE_PS | PTE_SWITCH));
}
static inline struct hwpt_rules shadow_rules(const struct shadow_page *p)
{
	return (struct hwpt_rules){.format = (enum hwpt_format)p->role.format, .nxe = p->role.nxe,
				   .pse = p->role.pse};
}

/* ---- shadow_cache.c: pages, who points at what, recycling ---- */

int shadow_cache_init(struct shadow *s, struct error *err);
void shadow_cache_destroy(struct shadow *s);
/* Begins an operation: pages it uses from here on are not recycled until the next. */
void shadow_begin(struct shadow *s);
/* Ends it: pages that nothing references any more go, and the TLB forgets what changed. */
void shadow_end(struct shadow *s);

struct shadow_page *shadow_find(struct shadow *s, gfn_t g, union shadow_role role);
/* The page for the key, made (empty) if there is none. NULL: no memory, or all in use by this operation. */
struct shadow_page *shadow_get(struct shadow *s, gfn_t g, union shadow_role role);
/* Marks the page as used now. */
void shadow_touch(struct shadow *s, struct shadow_page *p);
/* Makes root @i page @p (or none), which serves @base. */
void shadow_set_root(struct shadow *s, unsigned i, struct shadow_page *p, uint64_t base);
/* Removes the page, and the entries that reference it. Not while it is a current root. */
void shadow_zap_page(struct shadow *s, struct shadow_page *p);
/* Removes all entries of the page. */
void shadow_empty_page(struct shadow *s, struct shadow_page *p);

/* Entry @i becomes not present. */
void shadow_clear(struct shadow *s, struct shadow_page *p, unsigned i);
/* Entry @i maps guest frame (level 1) or region (level 2) number @target. @e 0: becomes not present. */
void shadow_set_leaf(struct shadow *s, struct shadow_page *p, unsigned i, uint64_t e, uint64_t target);
/* Entry @i references @child with @rights. */
void shadow_set_link(struct shadow *s, struct shadow_page *p, unsigned i, struct shadow_page *child,
		     uint64_t rights);

/* Entry @i switches to the guest's table in frame @table, which has a machine frame, with @rights. */
void shadow_set_switch(struct shadow *s, struct shadow_page *p, unsigned i, gfn_t table, uint64_t rights);
/* Removes the entries that switch to the frame. */
void shadow_clear_switches(struct shadow *s, gfn_t g);

/* Is the frame traced: may it be mapped read-only at most? */
bool shadow_is_traced(const struct shadow *s, gfn_t g);
/* Takes write access to the frame away everywhere. */
void shadow_write_protect(struct shadow *s, gfn_t g);
/* Removes every entry that maps the frame. */
void shadow_unmap_frame(struct shadow *s, gfn_t g);
/* Removes every 2 MiB entry that maps the region the frame is in. */
void shadow_clear_large(struct shadow *s, gfn_t g);
/* Removes the pages that mirror the frame as a table; current roots stay, empty. */
void shadow_zap_tables(struct shadow *s, gfn_t g);
/* The TLB must forget what entry @i of @p said. */
void shadow_flush_entry(struct shadow *s, struct shadow_page *p, unsigned i);
/* The TLB forgets everything, at once. */
void shadow_flush_all(struct shadow *s);
/* The TLB must forget the address, canonical. */
void shadow_flush_address(struct shadow *s, uint64_t lin);
/* The TLB must forget what the guest's INVLPG of the address, canonical, makes a processor forget. */
void shadow_flush_page(struct shadow *s, uint64_t lin);

/* ---- shadow_sync.c: from guest entries to shadow entries, tracing, out-of-sync tables ---- */

/* The guest entry that entry @i of @p mirrors; a direct page's is made up. */
uint64_t shadow_guest_entry(const struct shadow *s, const struct shadow_page *p, unsigned i);
/*
 * What level-1 entry @i of @p has to be by the guest's tables, 0 if not present. *g: the frame it maps.
 * @alloc: give the guest frame a machine frame if it has none
 */
uint64_t shadow_compose(struct shadow *s, const struct shadow_page *p, uint64_t guest_entry, bool alloc,
			gfn_t *g);
/* Makes level-1 entry @i of @p what it has to be. */
void shadow_sync_entry(struct shadow *s, struct shadow_page *p, unsigned i, bool alloc);
/* Fills what else can be filled around entry @i that a fault filled. */
void shadow_prefetch(struct shadow *s, struct shadow_page *p, unsigned i);
/* Lets all pages that mirror the frame go out of sync. False: they may not. */
bool shadow_try_unsync(struct shadow *s, gfn_t g);
void shadow_resync_frame(struct shadow *s, gfn_t g);
void shadow_resync_all(struct shadow *s);
/* Forgets that the page is out of sync (it is being removed). */
void shadow_drop_unsync(struct shadow *s, struct shadow_page *p);
/* Guest RAM was written: at most to the end of a page. */
void shadow_wrote(struct shadow *s, uint64_t gpa, unsigned bytes);
/* INVLPG: the entry that serves @lin is made current. */
void shadow_sync_address(struct shadow *s, uint64_t lin);

/* ---- shadow_fault.c ---- */

enum hv_verdict shadow_page_fault(struct hv_vm *vm, uint64_t lin, uint32_t error);
/* Finds the roots of the guest's current address space. True if they were in the cache. */
bool shadow_load_roots(struct shadow *s);
/* The hardware table for VMCS GUEST_CR3. */
mfn_t shadow_hardware_root(const struct shadow *s);
/* Tells the processor. */
void shadow_write_root(struct shadow *s);
/* Agile: is the guest's own table of the highest level the root? *g: its frame */
bool shadow_root_is_nested(const struct shadow *s, gfn_t *g);
union shadow_role shadow_table_role(const struct shadow *s, unsigned level, uint64_t lin);

/* ---- mmu_shadow.c, also for agile paging ---- */

/* @s: zeros. After failure, too, shadow_unmake(). */
int shadow_make(struct shadow *s, struct hv_vm *vm, struct error *err);
void shadow_unmake(struct shadow *s);
void shadow_load_cr3(struct hv_vm *vm, bool flush);
void shadow_invlpg(struct hv_vm *vm, uint64_t lin);
void shadow_flush(struct hv_vm *vm, enum hv_flush kind, uint16_t pcid);
void shadow_guest_wrote(struct hv_vm *vm, uint64_t gpa, unsigned bytes);
void shadow_emulated_access(struct hv_vm *vm, uint64_t gpa, unsigned bytes, bool write);
void shadow_p2m_changed(struct hv_vm *vm, gfn_t first, uint64_t frames);
void shadow_observe(const struct hv_vm *vm, struct obs *obs);

/* ---- shadow_track.c: struct hv_mmu_ops ---- */

void shadow_track(struct hv_vm *vm);
void shadow_retrack(struct hv_vm *vm, const uint64_t *pages);
void shadow_scan(struct hv_vm *vm);

/* ---- shadow_audit.c ---- */

bool shadow_audit(struct hv_vm *vm, char *buf, size_t bytes);

#endif
