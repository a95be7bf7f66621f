/*
 * Published experiments, run again on our machine: 'gnomon lab'. A lab runs guests
 * in this process, takes differences of exact counters, and leaves one JSON object
 * (schema "gnomon-lab/1", docs/FORMATS.md) from which the tables are printed, so
 * that everything printed is also in the JSON.
 */
#ifndef GNOMON_LAB_LAB_H
#define GNOMON_LAB_LAB_H

#include "base/error.h"
#include "mmu/hw.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#define LAB_SCHEMA "gnomon-lab/1"

/* How a VM is migrated, in the lab that does it. */
#define LAB_ROUNDS_MAX 64u
struct lab_link {
	uint64_t bytes_per_second; /* of virtual time */
	uint64_t answer_ns;        /* of the other end */
	uint64_t downtime_ns;      /* that is allowed */
	unsigned rounds;           /* at most, from 1 to LAB_ROUNDS_MAX */
};

struct lab_options {
	const struct hw *hw;   /* instead of the lab's description; NULL: the lab's */
	const char *kit;       /* directory with vmlinux-cloud and initramfs.cpio; NULL: there is none */
	bool quick;            /* small counts: for tests */
	unsigned threads;      /* guests that run at a time */
	uint64_t footprint;    /* bytes, as lab/footprint.h has them; 0: the lab's own */
	struct lab_link link;  /* zeros: the lab's own */
	bool explain;          /* one run step by step, */
	unsigned limit;        /* ... in about so many lines; 0: the lab's own */
	/* Told when a guest has been measured. May be NULL; called by one thread at a time. */
	void (*progress)(void *ctx, const char *what, unsigned done, unsigned all);
	void *ctx;
};

struct lab {
	const char *name;
	const char *title; /* one line */
	const char *source; /* the publication; NULL if there is none */
	const char *hw;    /* description it uses if none is asked for */
	bool migrates;     /* heeds link */
	bool explains;     /* heeds explain and limit */
	/* Fills in @result, which has the head already. Errors: a guest was not made or did not do its work. */
	int (*run)(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err);
	bool footprint;    /* heeds footprint */
};
extern const struct lab lab_adams_agesen, lab_bhargava, lab_vpid, lab_hugepages, lab_translation, lab_rings;
extern const struct lab lab_migration, lab_kvm, lab_nested, lab_xen_migration, lab_dmt, lab_hugegpt, lab_agile;
extern const struct lab *const lab_list[]; /* ends with NULL */
const struct lab *lab_find(const char *name);

/* Runs it. *result is a new object, to be freed by the caller; unchanged on error. */
int lab_run(const struct lab *lab, const struct lab_options *o, json_t **result, struct error *err);
void lab_print(const json_t *result, FILE *out);

/* ---- for labs: building the result ---- */

#define LAB_NONE ((double)__builtin_nan("")) /* a cell without a number */

/* A table of what was measured. @columns: their heads, separated by '|' */
json_t *lab_table(json_t *result, const char *id, const char *title, const char *columns);
/* All its numbers are of one unit, and a page charts them. */
void lab_table_unit(json_t *table, const char *unit);
void lab_row(json_t *table, const char *label, unsigned n, const double *value);
/* The last row's cell in column @column is a word instead. */
void lab_row_word(json_t *table, unsigned column, const char *word);
/*
 * A line of the comparison that ends a lab. @paper_high: LAB_NONE unless the paper has a range (a lab has one
 * figure of each kind of program, say); @why: a sentence on where the difference comes from.
 */
struct lab_line {
	const char *id, *what, *unit;
	double ours, paper, paper_high;
	const char *why;
};
void lab_compare(json_t *result, const struct lab_line *line);
/* A step of what happened: @event has the figures, and under "text" how they are printed. Takes @event. */
void lab_trace(json_t *result, json_t *event);
/* Something to know about the lab as a whole. */
void lab_note(json_t *result, const char *text);

#endif
