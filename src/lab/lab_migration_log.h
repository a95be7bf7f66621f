/*
 * What page-modification logging wrote down while a VM was migrated, told round by round: --explain of the lab
 * "migration".
 */
#ifndef GNOMON_LAB_LAB_MIGRATION_LOG_H
#define GNOMON_LAB_LAB_MIGRATION_LOG_H

#include "lab/lab_precopy.h"

/* Entries of one full log, or of what was found in it at exits for another reason one after the other. */
struct lab_log_part {
	unsigned exits;           /* at which they were found */
	uint32_t reason;          /* of them all; ENGINE_LOG_COLLECTED */
	uint64_t insns, to_insns; /* guest instructions completed at the first and the last */
	uint64_t ns;              /* since the migration began, at the first */
	uint64_t entries, pages;  /* how many, and how many different ones */
	uint64_t tables;          /* entries whose page a table of the guest's present address space is in */
	uint64_t run, run_most;   /* entries one after the other whose pages are neighbours: now, at most */
	gpa_t first, last;
};

struct lab_log {
	struct engine_log_watch watch; /* for struct lab_precopy's log */
	struct vm *vm;
	unsigned limit;                /* lines at most, but for the heads of rounds */
	uint64_t begun_ns;
	uint64_t pages, words;
	uint64_t *tables, *seen;       /* bitmaps */
	struct lab_log_part part;      /* that grows; entries 0: none does */
	json_t *round, *events;        /* of this round; all */
	uint64_t beyond;               /* entries in this round that are in no line */
	unsigned beyond_parts;
};

/* Before the migration. -ENOMEM. */
int lab_log_begin(struct lab_log *l, struct vm *vm, unsigned limit, struct error *err);
/* For struct lab_precopy's ended(). */
void lab_log_round(struct lab_log *l, const struct lab_precopy *p, bool stopped);
void lab_log_fini(struct lab_log *l);

#endif
