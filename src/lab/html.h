/*
 * Results as one self-contained HTML page: tables, charts of them, and the numbers behind each as CSV. A page is
 * first made as JSON (sections with columns and rows) and then written; the charting library, Chart.js, is part of the
 * program, so that the page refers to nothing outside. Everything that comes from files is escaped.
 */
#ifndef GNOMON_LAB_HTML_H
#define GNOMON_LAB_HTML_H

#include "lab/report.h"
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

/* Files that are embedded at build time. */
struct html_file {
	const char *name;
	const uint8_t *data;
	size_t bytes;
};
extern const struct html_file html_files[]; /* ends with NULL */

/* An empty page. Texts here and below are UTF-8; what is not is shown as "?". */
json_t *html_page(const char *title);
/* A paragraph at its head. */
void html_note(json_t *page, const char *text);
/*
 * A section, to be filled with columns and then rows; borrowed from the page.
 * @unit: of the numbers, which are charted; NULL: it is a table only
 * @note: a sentence below the title, or NULL
 */
json_t *html_section(json_t *page, const char *title, const char *unit, const char *note);
void html_column(json_t *section, const char *name);
void html_row(json_t *section, const char *label);
/* The next cell of the last row, a number, a string or null (there is none). Takes @value. */
void html_cell(json_t *section, json_t *value);
/* A number, or null if it is not finite. */
json_t *html_number(double value);

/* Writes the page; sections of numbers that have none are left out. -EIO: @out has failed. */
int html_write(const json_t *page, FILE *out, struct error *err);
/* Writes the page as @f, which is closed in any case. -errno with @err: nothing is left behind. */
int html_commit(const json_t *page, struct report_file *f, struct error *err);
/* Writes the sections' numbers as CSV: a line "# title, unit", heads, rows, an empty line. */
void html_write_csv(const json_t *page, FILE *out);

/*
 * The page of results, each of a schema that 'compare', 'replay' or 'lab' write (docs/FORMATS.md); several replays
 * are put side by side. Returns a new page in *@page; -EINVAL with @err if a result is none of these, *@page unchanged.
 */
int html_of_results(const json_t *const *result, unsigned results, json_t **page, struct error *err);
/* Writes the page of one result as @f, which is closed in any case. Errors: of html_of_results() and html_commit() */
int html_commit_result(const json_t *result, struct report_file *f, struct error *err);

#endif
