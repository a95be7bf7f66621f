/*
 * What was observed: the counters a run reports. Plain data that every storey
 * fills in for its own part and reports/ comparison read.
 */
#ifndef GNOMON_BASE_OBS_H
#define GNOMON_BASE_OBS_H

#include <stdint.h>

#define OBS_EXIT_REASONS 70 /* basic VM-exit reasons, SDM appendix C */
#define OBS_REFS_MAX     64

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
		uint64_t l1d_lookups, l1d_misses, l1i_lookups, l1i_misses, l2_hits, l2_misses;
	} translation;
	struct {
		uint64_t shadow_bytes, shadow_bytes_max, ept_bytes, p2m_bytes, guest_frames;
	} tables;
	struct {
		uint64_t fills, prefetched, zapped, recycled, unsynced, resynced, flooded, cr3_hits, cr3_misses;
		uint64_t emulated;      /* instructions that the hypervisor emulated */
	} shadow;
	struct { uint64_t blocks_decoded, insns_decoded, blocks_invalidated, interrupts, exceptions; } cpu;
};

#endif
