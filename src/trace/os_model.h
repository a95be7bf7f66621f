/*
 * A model of an operating system: turns a plain trace (accesses, and what the program asked its system for) into a
 * machine trace, with the page tables that Linux would have made, and Linux's own stores to them. A filter: events
 * in, events out to a sink, nothing but a function of its input and its configuration. docs/os-model.md says what of
 * Linux is modelled, and what is not.
 *
 * It cooperates with the designs that need it: its tables from regions that the host backs by large pages (HugeGPT),
 * its leaf tables in TEAs, with the registers that say where (DMT), and these from its host (pvDMT).
 *
 * Memory: tables of the trace's footprint, and 8 bytes for each of its pages; frames of data have numbers, but no
 * contents.
 */
#ifndef GNOMON_TRACE_OS_MODEL_H
#define GNOMON_TRACE_OS_MODEL_H

#include "trace/file.h"

enum osm_pages {
	OSM_PAGES_4K,      /* transparent huge pages: never */
	OSM_PAGES_MADVISE, /* where TRACE_MAP_HUGE asks for them */
	OSM_PAGES_THP,     /* always */
};

enum osm_kind {
	OSM_PLAIN,
	OSM_HUGEGPT,
	OSM_DMT,
	OSM_PVDMT,
};

#define OSM_MEMORY_MIN (64ull << 20)
#define OSM_MEMORY_MAX (512ull << 30)
#define OSM_SPACES_MAX 1024u

struct osm_config {
	uint64_t memory;        /* bytes of guest-physical memory, a multiple of 2 MiB */
	enum osm_pages pages;
	enum osm_kind kind;
	bool pcid;              /* address spaces have PCIDs */
	unsigned fragmentation; /* per cent of the 2 MiB blocks that a frame that cannot be moved breaks: 0 to 100 */
	uint64_t seed;          /* which blocks these are, and which frame */
	unsigned promote;       /* pages of 512 that make a block a huge page, as khugepaged would; 0: never */
	uint64_t gap;           /* bytes: an access so near to an inferred area makes that larger, see docs */
	uint64_t tea_threshold; /* bytes: areas, or clusters of them, from this size on have a TEA */
	unsigned tea_bubble;    /* per cent of a cluster that may belong to no area */
	uint64_t pool_segment;  /* bytes by which HugeGPT's pool grows, a multiple of 2 MiB; 0: 1 % of memory */
};

/* What is used unless somebody says otherwise, with @memory bytes. */
void osm_config_init(struct osm_config *cfg, uint64_t memory);

/* What happened so far, and (now) what there is. Frames, pages: of 4 KiB. */
struct osm_stats {
	uint64_t accesses;        /* given on */
	uint64_t fetches_added;   /* among these: of code that the trace does not show, the first of each page */
	uint64_t dropped;         /* accesses outside of user space, groups that faulted when they were recorded */
	uint64_t ignored;         /* events of a machine trace that this one replaces: registers, tables, invalidations */
	uint64_t inferred;        /* areas that nobody asked for, made */
	uint64_t widened;         /* accesses that an area did not permit, so now it does */
	uint64_t faults;
	uint64_t cow_copies, cow_reuses;
	uint64_t huge_faults, promotions, splits;
	uint64_t huge_missed;     /* no 2 MiB block was free */
	uint64_t maps, unmaps, forks, exits, switches;
	uint64_t flushes, page_flushes;
	uint64_t stores;          /* of the kernel, to its tables and to what the hardware reads */
	uint64_t kernel_insns;    /* that events stand for */
	uint64_t frames_moved;    /* of data, to make room for what must be contiguous */
	uint64_t table_frames, table_frames_max; /* now; at most. TEAs and pool count as far as they are in use */
	uint64_t data_frames, huge_frames;       /* now; of these, in huge pages */

	struct {
		uint64_t segments, frames;  /* made */
		uint64_t used, used_max;    /* frames now; at most */
		uint64_t fallbacks;         /* tables that got an ordinary frame, because there was no more room to grow */
		uint64_t refused;           /* requests that were not PV_DONE */
	} pool;

	struct {
		uint64_t made, made_2m;     /* made_2m: of these, of level-2 tables */
		uint64_t freed;
		uint64_t grown_in_place, migrated, merged;
		uint64_t doubled;           /* of those that grew, twice as large because of a fault behind the end */
		uint64_t fallbacks;         /* tables that got an ordinary frame though they should be in a TEA */
		uint64_t tables_moved;
		uint64_t now, frames, frames_max; /* TEAs, and what they hold; at most */
		uint64_t used;              /* frames now that are tables */
		uint64_t bubble;            /* bytes now that TEAs cover, but no area */
		uint64_t loads;             /* of the register file */
		uint64_t unregistered_max;  /* TEAs of one space that got no register, at most */
		uint64_t requests, refused; /* pvDMT: to the host; not PV_DONE */
	} tea;
};

struct osm;

/*
 * Begins: gives @sink the registers and the kernel's tables (TRACE_INITIAL, TRACE_PAGE) with the first events.
 * -EINVAL (@cfg, with @err), -ENOMEM; *out is then NULL.
 */
int osm_create(struct osm **out, const struct osm_config *cfg, const struct trace_sink *sink, struct error *err);
void osm_destroy(struct osm *o); /* NULL is nothing */

/*
 * Takes events. A sink. Events of a machine trace are understood as far as they say which space is current (CR3); the
 * rest of them is ignored, so that a recorded trace can get other tables.
 * -EINVAL: an event makes no sense here; -ENOMEM: the host's memory, or the modelled machine's, is full; -E2BIG: too
 * many areas; or the sink's error. It comes again if it is called again.
 */
int osm_put(void *osm, const struct trace_event *ev, unsigned n, struct error *err);

/* The trace is over: gives on what is held back. Errors of osm_put(). */
int osm_finish(struct osm *o, struct error *err);

void osm_stats(const struct osm *o, struct osm_stats *s);

/* Bytes of guest-physical address space that a machine for the trace must have, beginning at 0. */
uint64_t osm_span(const struct osm_config *cfg);
/* What stands in the header of the trace that the model makes. */
void osm_info(const struct osm_config *cfg, struct trace_info *info);

/* Where a space has an address, by the model's own books. */
struct osm_mapping {
	uint64_t gpa;   /* of the byte */
	unsigned shift; /* log2 of the page's bytes: 12, 21 */
	bool writable, exec;
};
/* -ENOENT: no such space, or nothing there. */
int osm_lookup(const struct osm *o, uint64_t space, uint64_t va, struct osm_mapping *m);

/*
 * Do areas, tables, frames, allocator, pool, TEAs and registers agree? -EINVAL with @err: no, and where. Looks at
 * everything; between calls of osm_put() only.
 */
int osm_audit(const struct osm *o, struct error *err);

#endif
