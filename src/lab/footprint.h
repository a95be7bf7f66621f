/*
 * Workloads over footprints larger than this host's memory: a machine (engine_replay()) behind the model of an operating
 * system (trace/os_model.h) is filled once, page by page, and then each pattern of accesses runs in it in turn. All that
 * translation does is executed and real: tables, walks, what the hypervisor does, caches. Data have no contents.
 */
#ifndef GNOMON_LAB_FOOTPRINT_H
#define GNOMON_LAB_FOOTPRINT_H

#include "engine/engine.h"
#include "lab/lab_vm.h"
#include "lab/pattern.h"
#include "trace/os_model.h"

struct footprint_config {
	const struct hw *hw;
	enum engine_mmu mmu;
	enum osm_kind kind;    /* how the guest cooperates */
	bool large;            /* pages of 2 MiB in guest and host */
	bool data_cache;       /* data go through the modelled caches, too */
	uint64_t bytes;        /* from FOOTPRINT_MIN to FOOTPRINT_MAX, a multiple of 2 MiB */
	uint64_t warm, accesses; /* of each pattern: those before it is counted, and those that are counted, at least */
};
#define FOOTPRINT_MIN ((uint64_t)64 << 20)
#define FOOTPRINT_MAX ((uint64_t)256 << 30)

struct footprint_count {
	struct obs obs;
	uint64_t steps, accesses;
};

/*
 * Runs the patterns [@n], and fills in counts [@n]: of the patterns alone, each after its warm-up. -EINVAL, -ENOMEM;
 * errors of engine_replay(); -EIO: an access faulted where the model says it may not.
 */
int footprint_run(const struct footprint_config *cfg, const struct pattern *const *pattern, unsigned n,
		  struct footprint_count *count, struct error *err);

#endif
