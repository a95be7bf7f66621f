/*
 * Comparing runs of the same guest under several schemes: do they agree, and what
 * did each cost. Works on reports as they are on disk (lab/report.h), so that
 * everything printed is also in the JSON.
 */
#ifndef GNOMON_LAB_COMPARE_H
#define GNOMON_LAB_COMPARE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#define COMPARE_SCHEMA "gnomon-compare/1"

/* One run of one work. */
struct compare_run {
	const char *mmu;
	json_t *report;    /* borrowed; NULL if there is none */
	const char *error; /* then: why */
};

/* A new, empty comparison. */
json_t *compare_new(void);
/*
 * Adds a work: @runs of the same guest. Notes every difference from the first run
 * that has a report, in guest.{exit,exit_code,instructions,state_hash}.
 * @work: its name, NULL if the guest decides
 */
void compare_add(json_t *comparison, const char *work, const struct compare_run *run, unsigned runs);
/* Do all runs have reports that agree? */
bool compare_equal(const json_t *comparison);

/* A table per work, columns are schemes. */
void compare_print_table(const json_t *comparison, FILE *out);
/*
 * The table of one work of a comparison, as it is printed: {"columns": [name...], "rows": [[label, text...]...]}. A new
 * reference.
 */
json_t *compare_table(const json_t *work);
/* A line per run. */
void compare_print_csv(const json_t *comparison, FILE *out);

/* "1234567" with thin groups: "1,234,567". @buf holds at least 28 bytes. */
const char *compare_group_digits(unsigned long long n, char *buf);

#endif
