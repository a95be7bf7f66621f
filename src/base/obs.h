/*
 * What was observed: the counters a run reports. Plain data that every storey
 * fills in for its own part and reports/ comparison read.
 */
#ifndef GNOMON_BASE_OBS_H
#define GNOMON_BASE_OBS_H

#include <stdint.h>

#define OBS_EXIT_REASONS 70 /* basic VM-exit reasons, SDM appendix C */
#define OBS_REFS_MAX     64
#define OBS_PLACES       4  /* where a reference can hit: L1, L2, LLC, memory */
#define OBS_LEVELS       6  /* index by level, 1 = PTE */

/* Nested virtualization: what an inner hypervisor did, or would have done. */
struct obs_nested {
	uint64_t reflected;     /* exits of its guest that were its to handle: it ended each with a VMRESUME */
	uint64_t vmreads, vmwrites, invvpids, invepts; /* that it would have executed: each exits */
	uint64_t l1_violations; /* EPT violations by its own accesses */
	uint64_t l1_requests;   /* for contiguous memory, that it handed on to its host */
	uint64_t filled_by_l1, filled_by_l0; /* its guest's EPT violations: entries made in its EPT, and in the shadow of that */
	uint64_t ept12_bytes;   /* its EPT */
};

/*
 * Levels of virtualization: a guest (L1) that is a hypervisor itself, and executes its own guest (L2) by VMX instructions.
 * Exits that are L1's own are all others.
 */
struct obs_levels {
	uint64_t l1_vmx;        /* exits of L1 for VMX instructions */
	uint64_t entries;       /* VM entries of L1's that came to execute L2 */
	uint64_t exits, by_reason[OBS_EXIT_REASONS]; /* of L2 */
	uint64_t by_l0;         /* after which L2 went on: L1 did not see them */
	uint64_t reflected, reflected_by_reason[OBS_EXIT_REASONS]; /* VM exits as L1 saw them */
	uint64_t composed;      /* entries made in tables that combine L1's EPT and its host's */
	uint64_t dropped_entries, dropped; /* entries that L1's INVEPT found changed; times that all of a table went */
	uint64_t ept12_walks;   /* of L1's EPT by software */
	uint64_t logged;        /* entries of L1's page-modification log */
	uint64_t ept02_bytes;   /* of the tables that combine */
};

/* Agile paging: guest tables between shadow and nested. */
struct obs_agile {
	uint64_t to_nested, to_shadow; /* tables that went over, and back */
	uint64_t kept;                 /* nested tables found changed at the end of an interval: they stayed */
	uint64_t intervals;
	uint64_t nested;               /* tables that are */
};

struct obs {
	struct { uint64_t total, by_reason[OBS_EXIT_REASONS]; } exits;
	struct {
		uint64_t guest;         /* page faults the guest got, however they came about */
		uint64_t true_faults;   /* intercepted faults that the guest's own tables cause */
		uint64_t hidden;        /* intercepted faults that the backend's tables cause */
		uint64_t traced_writes; /* writes to guest page tables that the hypervisor emulated */
		uint64_t traced_reads;  /* likewise reads (brute force) */
		uint64_t ept_violations;
	} faults;
	struct {
		uint64_t walks, refs, refs_max, by_refs[OBS_REFS_MAX + 1];
		uint64_t guest_refs, host_refs;   /* by stage; sum = refs */
		uint64_t ref_hits[OBS_PLACES];    /* where the references hit: L1, L2, LLC, memory */
		uint64_t guest_cache_hits[OBS_LEVELS], host_cache_hits[OBS_LEVELS]; /* walk caches, by level */
		uint64_t guest_cache_misses, host_cache_misses;
		uint64_t nested_tlb_hits, nested_tlb_misses;
		uint64_t repeated, splintered, flushes;
		uint64_t l1d_misses, l1i_misses, l2d_hits, l2d_misses, l2i_hits, l2i_misses;
		uint64_t data_hits[OBS_PLACES];   /* --data-cache */
		uint64_t agile[OBS_LEVELS];       /* agile walks by level of the guest's first entry; [0]: all in shadow tables */
		struct {
			uint64_t lookups, hits[3], misses, translations, fallbacks; /* hits by stage: the guest's, the hosts' */
			uint64_t reloads, reload_refs, reload_hits[OBS_PLACES], refused;
		} dmt;                            /* direct translation */
	} translation;
	struct {
		uint64_t shadow_bytes, shadow_bytes_max, ept_bytes, p2m_bytes, guest_frames;
	} tables;
	struct {
		uint64_t fills, prefetched, zapped, recycled, unsynced, resynced, flooded, cr3_hits, cr3_misses;
		uint64_t emulated;      /* instructions that the hypervisor emulated */
	} shadow;
	/* What software in root operation did at the door to the processor, and in tables. */
	struct {
		uint64_t entries, vmreads, vmwrites, invepts, invvpids;
		uint64_t table_reads, table_writes; /* entries of guest, shadow and EPT tables */
		uint64_t world_switches; /* times the processor was taken from another VM for this one */
	} hypervisor;
	/* Finding out which pages the guest writes. */
	struct {
		uint64_t collections, pages;   /* times that pages were asked for; pages given, in all */
		uint64_t faults;               /* accesses that exited for the tracker's sake */
		uint64_t logged;               /* entries of the page-modification log */
		uint64_t splits;               /* large pages that were mapped in 4 KiB pieces for its sake */
	} tracking;
	/* What the guest asked its host for (arch/dmt.h). */
	struct {
		uint64_t requests, refused;    /* those that the guest had no right to */
		uint64_t huge_regions, huge_failed; /* 2 MiB regions that got a page of the machine, or could not */
		uint64_t runs, runs_failed;    /* ranges made contiguous, or not: no such run of frames was left */
		uint64_t moved;                /* pages whose contents moved for it */
	} pv;
	struct obs_nested nested;
	struct obs_levels levels;
	struct obs_agile agile;
	/* Devices with queues: what their drivers and they said to each other, and bytes of guest memory they touched. */
	struct { uint64_t doorbells, chains, interrupts, bytes_read, bytes_written; } devices;
	struct { uint64_t blocks_decoded, insns_decoded, blocks_invalidated, interrupts, exceptions; } cpu;
};

#endif
