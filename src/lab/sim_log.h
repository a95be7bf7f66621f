/*
 * Where the references of page walks hit, in the form that the DMT artifact's simulators write and its processor reads
 * (sim.log): a row for each combination of places that occurred, with the number of walks. A native row has the steps
 * of four levels, G1 (root) to G4; a nested one 24, for each guest level the host's steps to its entry and the entry
 * (G1H1 ... G1H4, G1, ..., G4), then those to the data page (UDH1 ... UDH4). The last field is always RANGE_HIT.
 *
 * A step that was not made is ZERO, one that a walk cache or the nested TLB saved the walk from PWC (of the nested TLB
 * at the host's last step). Leaves of large pages are where their level is: of 2 MiB at G3, and G4 is ZERO.
 * The artifact never executes a design of translation: it computes what one would cost by adding up those steps of the
 * nested walk that the design would still make. The same sums are made here, to stand beside what is executed.
 *
 * A row cannot hold walks with a fifth level or a third dimension, nor a step that was made twice (a walk that was
 * begun by registers and ended by the tables): these are left out and counted.
 */
#ifndef GNOMON_LAB_SIM_LOG_H
#define GNOMON_LAB_SIM_LOG_H

#include "mmu/mmu.h"
#include <stdio.h>

#define SIM_LOG_ROWS_MAX (1u << 20)

struct sim_log;

/* @nested: rows of 24 steps, else of four. NULL: out of memory. */
struct sim_log *sim_log_create(bool nested);
void sim_log_destroy(struct sim_log *l);

/*
 * Counts a walk. Walks without a step (a TLB held the translation) are ignored. -ENOMEM; -EFBIG: there would be more
 * than SIM_LOG_ROWS_MAX rows.
 */
int sim_log_put(struct sim_log *l, const struct walk_log *walk, struct error *err);
/* Walks that are in rows, and those that no row can hold. */
uint64_t sim_log_walks(const struct sim_log *l);
uint64_t sim_log_left_out(const struct sim_log *l);

/* Designs that the artifact has a sum for; some only of nested walks. */
enum sim_design {
	SIM_RADIX,        /* all steps */
	SIM_FPT,          /* flattened tables: every other level, from the last one on */
	SIM_ECPT,         /* hashed tables: the last level of each dimension, and a constant */
	SIM_ASAP,         /* the last two levels are fetched beside the first ones */
	SIM_AGILE,        /* the guest's steps and the page's, as if every walk switched at once */
	SIM_DMT,          /* the last level of each dimension */
	SIM_PVDMT,        /* that, without translating where the guest's entry lies */
	SIM_PVDMT_NESTED, /* half as much again */
	SIM_DESIGNS,
};
extern const char *const sim_design_name[SIM_DESIGNS];
/*
 * Mean cycles of a walk by these sums, with the latencies of @hw. The last level of a dimension is that of the last step that
 * is not ZERO. A negative mean: there is no such sum for these walks, or there were none.
 */
void sim_log_means(const struct sim_log *l, const struct hw *hw, double mean[SIM_DESIGNS]);

/*
 * Writes the rows, in a fixed order; before them the means. -EIO ...: @name is what errors call the file.
 */
int sim_log_write(const struct sim_log *l, const struct hw *hw, FILE *out, const char *name, struct error *err);

#endif
