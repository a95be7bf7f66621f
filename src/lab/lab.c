/* The list of labs, and the result that all of them leave: see lab.h. */
#include "lab/lab.h"
#include "base/util.h"
#include "lab/compare.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

const struct lab *const lab_list[] = {&lab_adams_agesen, &lab_bhargava, &lab_vpid, &lab_hugepages,
					&lab_translation, &lab_rings, &lab_migration, &lab_kvm, &lab_nested, &lab_xen_migration, &lab_dmt,
					&lab_hugegpt, &lab_agile, NULL};

const struct lab *lab_find(const char *name)
{
	for (unsigned i = 0; lab_list[i]; i++)
		if (strcmp(lab_list[i]->name, name) == 0)
			return lab_list[i];
	return NULL;
}

/* ---- building ---- */

static void put_string(json_t *o, const char *key, const char *s)
{
	json_object_set_new(o, key, s ? json_string(s) : json_null());
}

static json_t *number(double v) { return isfinite(v) ? json_real(v) : json_null(); }

json_t *lab_table(json_t *result, const char *id, const char *title, const char *columns)
{
	json_t *t = json_object(), *heads = json_array();

	for (const char *p = columns;; p++) {
		size_t n = strcspn(p, "|");

		json_array_append_new(heads, json_stringn(p, n));
		p += n;
		if (!*p)
			break;
	}
	put_string(t, "id", id);
	put_string(t, "title", title);
	json_object_set_new(t, "columns", heads);
	json_object_set_new(t, "rows", json_array());
	json_array_append_new(json_object_get(result, "tables"), t);
	return t;
}

void lab_table_unit(json_t *table, const char *unit) { put_string(table, "unit", unit); }

void lab_row(json_t *table, const char *label, unsigned n, const double *value)
{
	json_t *row = json_object(), *values = json_array();

	for (unsigned i = 0; i < n; i++)
		json_array_append_new(values, number(value[i]));
	put_string(row, "label", label);
	json_object_set_new(row, "values", values);
	json_array_append_new(json_object_get(table, "rows"), row);
}

void lab_row_word(json_t *table, unsigned column, const char *word)
{
	const json_t *rows = json_object_get(table, "rows");
	json_t *values = json_object_get(json_array_get(rows, json_array_size(rows) - 1), "values");

	json_array_set_new(values, column, json_string(word));
}

/* How many times the paper's figure ours is; of a range, its nearer end if ours is outside. */
static double ratio_of(const struct lab_line *l)
{
	double paper = l->paper;

	if (isfinite(l->paper_high)) {
		if (l->ours >= l->paper && l->ours <= l->paper_high)
			return 1;
		paper = l->ours > l->paper_high ? l->paper_high : l->paper;
	}
	return paper != 0 ? l->ours / paper : LAB_NONE;
}

void lab_compare(json_t *result, const struct lab_line *l)
{
	json_t *o = json_object();

	put_string(o, "id", l->id);
	put_string(o, "what", l->what);
	put_string(o, "unit", l->unit);
	json_object_set_new(o, "ours", number(l->ours));
	json_object_set_new(o, "paper", number(l->paper));
	json_object_set_new(o, "paper_high", number(l->paper_high));
	json_object_set_new(o, "ratio", number(ratio_of(l)));
	put_string(o, "why", l->why);
	json_array_append_new(json_object_get(result, "comparison"), o);
}

void lab_note(json_t *result, const char *text)
{
	json_array_append_new(json_object_get(result, "notes"), json_string(text));
}

void lab_trace(json_t *result, json_t *event)
{
	json_array_append_new(json_object_get(result, "trace"), event);
}

int lab_run(const struct lab *lab, const struct lab_options *o, json_t **result, struct error *err)
{
	json_t *r = json_object();
	struct hw hw;
	int ret = o->hw ? 0 : hw_load(&hw, lab->hw, err);

	if (o->hw)
		hw = *o->hw;
	put_string(r, "schema", LAB_SCHEMA);
	put_string(r, "lab", lab->name);
	put_string(r, "title", lab->title);
	put_string(r, "source", lab->source);
	put_string(r, "hw", ret ? NULL : hw.name);
	json_object_set_new(r, "quick", json_boolean(o->quick));
	json_object_set_new(r, "tables", json_array());
	json_object_set_new(r, "comparison", json_array());
	json_object_set_new(r, "notes", json_array());
	json_object_set_new(r, "trace", json_array());
	if (ret == 0)
		ret = lab->run(o, &hw, r, err);
	if (ret) {
		json_decref(r);
		return ret;
	}
	*result = r;
	return 0;
}

/* ---- printing ---- */

#define CELL_BYTES 32
#define COLUMN_MIN 8
#define WIDTH      100 /* of sentences */

static void number_text(const json_t *v, char text[CELL_BYTES])
{
	double d = json_number_value(v), whole = floor(fabs(d) + 0.5);

	if (json_is_string(v))
		snprintf(text, CELL_BYTES, "%s", json_string_value(v));
	else if (!json_is_number(v))
		snprintf(text, CELL_BYTES, "-");
	else if (whole >= 1000 && whole < 1e15)
		compare_group_digits((unsigned long long)whole, d < 0 ? strcpy(text, "-") + 1 : text);
	else if (fabs(fabs(d) - whole) < 1e-9)
		snprintf(text, CELL_BYTES, "%.0f", d);
	else
		snprintf(text, CELL_BYTES, "%.*f", fabs(d) >= 100 ? 1 : fabs(d) >= 1 ? 2 : 4, d);
}

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static int label_width(const json_t *rows, const char *key)
{
	size_t most = 0;

	for (size_t i = 0; i < json_array_size(rows); i++) {
		size_t n = strlen(text_of(json_array_get(rows, i), key));

		most = n > most ? n : most;
	}
	return (int)most;
}

static void print_table(const json_t *table, FILE *out)
{
	const json_t *heads = json_object_get(table, "columns"), *rows = json_object_get(table, "rows");
	int label = label_width(rows, "label");
	char text[CELL_BYTES];

	fprintf(out, "\n%s\n  %-*s", text_of(table, "title"), label, "");
	for (size_t c = 0; c < json_array_size(heads); c++)
		fprintf(out, "  %*s", COLUMN_MIN, json_string_value(json_array_get(heads, c)));
	fputc('\n', out);
	for (size_t i = 0; i < json_array_size(rows); i++) {
		const json_t *row = json_array_get(rows, i), *values = json_object_get(row, "values");

		fprintf(out, "  %-*s", label, text_of(row, "label"));
		for (size_t c = 0; c < json_array_size(values); c++) {
			const char *head = json_string_value(json_array_get(heads, c));
			int width = head && strlen(head) > COLUMN_MIN ? (int)strlen(head) : COLUMN_MIN;

			number_text(json_array_get(values, c), text);
			fprintf(out, "  %*s", width, text);
		}
		fputc('\n', out);
	}
}

/* A sentence, broken into lines; the first begins with @first, the others with as many blanks. */
static void print_sentence(const char *first, const char *text, FILE *out)
{
	int column = fprintf(out, "%s", first), indent = column;

	while (*text) {
		int n = (int)strcspn(text, " ");

		if (column > indent && column + 1 + n > WIDTH) {
			fprintf(out, "\n%*s", indent, "");
			column = indent;
		} else if (column > indent) {
			column += fprintf(out, " ");
		}
		column += fprintf(out, "%.*s", n, text);
		text += n + (text[n] == ' ');
	}
	fputc('\n', out);
}

/* The number of the sentence among those before it, each counted once. */
static unsigned sentence_number(const json_t *lines, size_t line, bool *first)
{
	const char *why = text_of(json_array_get(lines, line), "why");
	unsigned n = 0;

	for (size_t i = 0; i <= line; i++) {
		const char *w = text_of(json_array_get(lines, i), "why");
		bool seen = false;

		for (size_t k = 0; k < i && !seen; k++)
			seen = strcmp(text_of(json_array_get(lines, k), "why"), w) == 0;
		n += !seen;
		if (strcmp(w, why) == 0) {
			*first = i == line;
			return n;
		}
	}
	return n;
}

static void print_line(const json_t *l, int label, unsigned sentence, FILE *out)
{
	char ours[CELL_BYTES], low[CELL_BYTES], high[CELL_BYTES], ratio[CELL_BYTES], paper[2 * CELL_BYTES + 8];
	bool range = json_is_number(json_object_get(l, "paper_high"));

	number_text(json_object_get(l, "ours"), ours);
	number_text(json_object_get(l, "paper"), low);
	number_text(json_object_get(l, "paper_high"), high);
	number_text(json_object_get(l, "ratio"), ratio);
	snprintf(paper, sizeof(paper), "%s%s%s", low, range ? " to " : "", range ? high : "");
	fprintf(out, "  %-*s  %-10s  %10s  %16s  %8s  [%u]\n", label, text_of(l, "what"), text_of(l, "unit"),
		ours, paper, ratio, sentence);
}

static void print_trace(const json_t *trace, FILE *out)
{
	if (json_array_size(trace))
		fputc('\n', out);
	for (size_t i = 0; i < json_array_size(trace); i++)
		fprintf(out, "%s\n", text_of(json_array_get(trace, i), "text"));
}

static void print_comparison(const json_t *lines, FILE *out)
{
	int label = label_width(lines, "what");
	bool first;

	fprintf(out, "\nOurs and the paper's\n  %-*s  %-10s  %10s  %16s  %8s  why\n", label, "", "", "ours",
		"paper", "ratio");
	for (size_t i = 0; i < json_array_size(lines); i++)
		print_line(json_array_get(lines, i), label, sentence_number(lines, i, &first), out);
	fputc('\n', out);
	for (size_t i = 0; i < json_array_size(lines); i++) {
		unsigned n = sentence_number(lines, i, &first);
		char head[16];

		snprintf(head, sizeof(head), "  [%u] ", n);
		if (first)
			print_sentence(head, text_of(json_array_get(lines, i), "why"), out);
	}
}

void lab_print(const json_t *result, FILE *out)
{
	const json_t *tables = json_object_get(result, "tables"), *notes = json_object_get(result, "notes");

	fprintf(out, "%s: %s\n", text_of(result, "lab"), text_of(result, "title"));
	if (*text_of(result, "source"))
		fprintf(out, "%s\n", text_of(result, "source"));
	fprintf(out, "Hardware description: %s%s\n", text_of(result, "hw"),
		json_is_true(json_object_get(result, "quick")) ? "; small counts (--quick)" : "");
	for (size_t i = 0; i < json_array_size(tables); i++)
		print_table(json_array_get(tables, i), out);
	print_trace(json_object_get(result, "trace"), out);
	print_comparison(json_object_get(result, "comparison"), out);
	if (json_array_size(notes))
		fputc('\n', out);
	for (size_t i = 0; i < json_array_size(notes); i++)
		print_sentence("  ", json_string_value(json_array_get(notes, i)), out);
}
