/* Writing a page of results. See html.h. What the numbers mean is html_results.c's. */
#include "lab/html.h"

#include "base/util.h"
#include "lab/compare.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- building ---- */

/* Names come from files and may be anything. */
static json_t *text_or_mark(const char *text)
{
	json_t *s = json_string(text);

	return s ? s : json_string("?");
}

json_t *html_page(const char *title)
{
	json_t *page = json_object();

	json_object_set_new(page, "title", text_or_mark(title));
	json_object_set_new(page, "notes", json_array());
	json_object_set_new(page, "sections", json_array());
	return page;
}

void html_note(json_t *page, const char *text)
{
	json_array_append_new(json_object_get(page, "notes"), text_or_mark(text));
}

json_t *html_section(json_t *page, const char *title, const char *unit, const char *note)
{
	json_t *s = json_object();

	json_object_set_new(s, "title", text_or_mark(title));
	json_object_set_new(s, "unit", unit ? text_or_mark(unit) : json_null());
	json_object_set_new(s, "note", note ? text_or_mark(note) : json_null());
	json_object_set_new(s, "columns", json_array());
	json_object_set_new(s, "rows", json_array());
	json_array_append_new(json_object_get(page, "sections"), s);
	return s;
}

void html_column(json_t *section, const char *name)
{
	json_array_append_new(json_object_get(section, "columns"), text_or_mark(name));
}

void html_row(json_t *section, const char *label)
{
	json_t *row = json_object();

	json_object_set_new(row, "label", text_or_mark(label));
	json_object_set_new(row, "cells", json_array());
	json_array_append_new(json_object_get(section, "rows"), row);
}

void html_cell(json_t *section, json_t *value)
{
	const json_t *rows = json_object_get(section, "rows");
	json_t *row = json_array_get(rows, json_array_size(rows) - 1);

	json_array_append_new(json_object_get(row, "cells"), value ? value : json_null());
}

json_t *html_number(double value)
{
	json_t *n = isfinite(value) ? json_real(value) : NULL;

	return n ? n : json_null();
}

/* ---- text ---- */

static const char *string(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static void put_escaped_bytes(const char *text, size_t bytes, FILE *out)
{
	for (; bytes; text++, bytes--) {
		switch (*text) {
		case '&': fputs("&amp;", out); break;
		case '<': fputs("&lt;", out); break;
		case '>': fputs("&gt;", out); break;
		case '"': fputs("&quot;", out); break;
		default: /* control characters have no place in HTML */
			fputc((unsigned char)*text < 0x20 && !strchr("\t\n", *text) ? ' ' : *text, out);
		}
	}
}

static void put_escaped(const char *text, FILE *out) { put_escaped_bytes(text, strlen(text), out); }

/* JSON within a script element: nothing in it may look like markup. */
static void put_json(const json_t *value, FILE *out)
{
	char *text = json_dumps(value, JSON_ENSURE_ASCII | JSON_REAL_PRECISION(12) | JSON_COMPACT);

	for (const char *p = text; p && *p; p++) {
		if (strchr("<>&", *p))
			fprintf(out, "\\u%04x", (unsigned)*p);
		else
			fputc(*p, out);
	}
	free(text);
}

/* For people: four digits, or all of a larger whole part. */
static void number_text(double d, char text[40])
{
	double whole = floor(fabs(d) + 0.5);

	if (whole >= 1000 && whole < 1e15)
		compare_group_digits((unsigned long long)whole, d < 0 ? strcpy(text, "-") + 1 : text);
	else
		snprintf(text, 40, "%.4g", d);
}

/* ---- CSV ---- */

/* A field, quoted if it must be. */
static void csv_text(const char *text, FILE *out)
{
	if (!strpbrk(text, ",\"\n\r")) {
		fputs(text, out);
		return;
	}
	fputc('"', out);
	for (; *text; text++)
		fputs(*text == '"' ? "\"\"" : (const char[]){*text, 0}, out);
	fputc('"', out);
}

static void csv_cell(const json_t *v, FILE *out)
{
	fputc(',', out);
	if (json_is_string(v))
		csv_text(json_string_value(v), out);
	else if (json_is_number(v))
		fprintf(out, "%.15g", json_number_value(v));
}

static void csv_section(const json_t *s, FILE *out)
{
	const json_t *columns = json_object_get(s, "columns"), *rows = json_object_get(s, "rows");

	for (size_t c = 0; c < json_array_size(columns); c++) {
		fputc(',', out);
		csv_text(json_string_value(json_array_get(columns, c)), out);
	}
	fputc('\n', out);
	for (size_t r = 0; r < json_array_size(rows); r++) {
		const json_t *row = json_array_get(rows, r), *cells = json_object_get(row, "cells");

		csv_text(string(row, "label"), out);
		for (size_t c = 0; c < json_array_size(columns); c++)
			csv_cell(json_array_get(cells, c), out);
		fputc('\n', out);
	}
}

/* Is there a number, if it has a unit? */
static bool is_shown(const json_t *s)
{
	const json_t *rows = json_object_get(s, "rows");

	if (!*string(s, "unit"))
		return true;
	for (size_t r = 0; r < json_array_size(rows); r++) {
		const json_t *cells = json_object_get(json_array_get(rows, r), "cells");

		for (size_t c = 0; c < json_array_size(cells); c++)
			if (json_is_number(json_array_get(cells, c)))
				return true;
	}
	return false;
}

void html_write_csv(const json_t *page, FILE *out)
{
	const json_t *sections = json_object_get(page, "sections");
	bool first = true;

	for (size_t i = 0; i < json_array_size(sections); i++) {
		const json_t *s = json_array_get(sections, i);

		if (!is_shown(s))
			continue;
		fputs(first ? "# " : "\n# ", out);
		for (const char *p = string(s, "title"); *p; p++)
			fputc((unsigned char)*p < 0x20 ? ' ' : *p, out);
		fprintf(out, "%s%s\n", *string(s, "unit") ? ", " : "", string(s, "unit"));
		csv_section(s, out);
		first = false;
	}
}

/* A link that holds the section's CSV itself. */
static int put_csv_link(const json_t *s, size_t n, FILE *out)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *memory = open_memstream(&text, &bytes);

	if (!memory)
		return -ENOMEM;
	csv_section(s, memory);
	if (fclose(memory)) {
		free(text);
		return -ENOMEM;
	}
	fprintf(out, "<p class=\"csv\"><a download=\"%zu.csv\" href=\"data:text/csv;charset=utf-8,", n);
	for (const char *p = text; *p; p++) {
		bool plain = (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
			     strchr("-._", *p);

		fprintf(out, plain ? "%c" : "%%%02X", (unsigned char)*p);
	}
	fputs("\">These numbers as CSV</a></p>\n", out);
	free(text);
	return 0;
}

/* ---- the table ---- */

/* Sentences are set as such; words, and numbers with their units, like numbers. */
static bool is_sentence(const json_t *v) { return json_is_string(v) && json_string_length(v) > 32; }

static bool is_column_of_sentences(const json_t *rows, size_t column)
{
	for (size_t r = 0; r < json_array_size(rows); r++)
		if (is_sentence(json_array_get(json_object_get(json_array_get(rows, r), "cells"), column)))
			return true;
	return false;
}

static void put_cell(const json_t *v, FILE *out)
{
	char text[40];

	if (json_is_string(v)) {
		fputs(is_sentence(v) ? "<td class=\"text\">" : "<td>", out);
		put_escaped(json_string_value(v), out);
	} else if (json_is_number(v)) {
		number_text(json_number_value(v), text);
		fprintf(out, "<td>%s", text);
	} else {
		fputs("<td>-", out);
	}
	fputs("</td>", out);
}

static void put_table(const json_t *s, FILE *out)
{
	const json_t *columns = json_object_get(s, "columns"), *rows = json_object_get(s, "rows");

	fputs("<div class=\"scroll\"><table>\n<thead><tr><th></th>", out);
	for (size_t c = 0; c < json_array_size(columns); c++) {
		fputs(is_column_of_sentences(rows, c) ? "<th class=\"text\">" : "<th>", out);
		put_escaped(json_string_value(json_array_get(columns, c)), out);
		fputs("</th>", out);
	}
	fputs("</tr></thead>\n<tbody>\n", out);
	for (size_t r = 0; r < json_array_size(rows); r++) {
		const json_t *row = json_array_get(rows, r), *cells = json_object_get(row, "cells");

		fputs("<tr><th>", out);
		put_escaped(string(row, "label"), out);
		fputs("</th>", out);
		for (size_t c = 0; c < json_array_size(columns); c++)
			put_cell(json_array_get(cells, c), out);
		fputs("</tr>\n", out);
	}
	fputs("</tbody>\n</table></div>\n", out);
}

/* ---- the chart ---- */

/* Colours that are told apart by most eyes, and in print by their lightness; then they repeat. */
static const char *const colours[] = {
	"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#332288", "#b8b000", "#7f7f7f", "#8c2d04",
	"#88ccee", "#44aa99",
};

/* Do the numbers differ so much that a linear scale would hide the small ones? */
static bool wants_logarithm(const json_t *rows)
{
	double least = INFINITY, most = 0;

	for (size_t r = 0; r < json_array_size(rows); r++) {
		const json_t *cells = json_object_get(json_array_get(rows, r), "cells");

		for (size_t c = 0; c < json_array_size(cells); c++) {
			double v = json_number_value(json_array_get(cells, c));

			if (v < 0)
				return false;
			least = v > 0 ? fmin(least, v) : least;
			most = fmax(most, v);
		}
	}
	return most > 100 * least;
}

static json_t *build_series(const json_t *s, size_t column)
{
	const json_t *rows = json_object_get(s, "rows");
	json_t *data = json_array();

	for (size_t r = 0; r < json_array_size(rows); r++) {
		json_t *v = json_array_get(json_object_get(json_array_get(rows, r), "cells"), column);

		json_array_append_new(data, json_is_number(v) ? json_incref(v) : json_null());
	}
	return json_pack("{s:O, s:o, s:s, s:s, s:i}", "label", json_array_get(json_object_get(s, "columns"), column),
			 "data", data, "backgroundColor", colours[column % ARRAY_SIZE(colours)], "borderColor", "#1a1a1a",
			 "borderWidth", 1);
}

/* What Chart.js is given. */
static json_t *build_config(const json_t *s)
{
	const json_t *columns = json_object_get(s, "columns"), *rows = json_object_get(s, "rows");
	json_t *labels = json_array(), *series = json_array();
	bool logarithm = wants_logarithm(rows);
	char unit[160];

	for (size_t r = 0; r < json_array_size(rows); r++)
		json_array_append(labels, json_object_get(json_array_get(rows, r), "label"));
	for (size_t c = 0; c < json_array_size(columns); c++)
		json_array_append_new(series, build_series(s, c));
	snprintf(unit, sizeof(unit), "%.100s%s", string(s, "unit"), logarithm ? " (logarithmic scale)" : "");
	return json_pack("{s:s, s:{s:o, s:o}, s:{s:b, s:b, s:b, s:{s:{s:s, s:b, s:{s:b, s:s}}}}}",
			 "type", "bar",
			 "data", "labels", labels, "datasets", series,
			 "options", "animation", 0, "responsive", 1, "maintainAspectRatio", 0,
			 "scales", "y", "type", logarithm ? "logarithmic" : "linear", "beginAtZero", !logarithm,
			 "title", "display", 1, "text", unit);
}

static void put_chart(const json_t *s, size_t n, FILE *out)
{
	json_t *config = build_config(s);

	fprintf(out, "<div class=\"chart\" style=\"height:17rem\"><canvas id=\"chart%zu\" role=\"img\" aria-label=\"", n);
	put_escaped(string(s, "title"), out);
	fprintf(out, ": the numbers are in the table below\"></canvas></div>\n"
		     "<script class=\"config\" type=\"application/json\" data-canvas=\"chart%zu\">", n);
	put_json(config, out);
	fputs("</script>\n", out);
	json_decref(config);
}

/* ---- the page ---- */

static const struct html_file *find_file(const char *name)
{
	const struct html_file *f = html_files;

	while (f->name && strcmp(f->name, name))
		f++;
	return f;
}

static void put_file(const char *name, FILE *out)
{
	const struct html_file *f = find_file(name);

	fwrite(f->data, 1, f->bytes, out);
}

static void put_head(const json_t *page, FILE *out)
{
	fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
	      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
	      /* Whatever slips through: the browser fetches nothing. */
	      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'; "
	      "style-src 'unsafe-inline'\">\n<title>", out);
	put_escaped(string(page, "title"), out);
	fputs("</title>\n<style>\n", out);
	put_file("style", out);
	fputs("</style>\n</head>\n<body>\n<h1>", out);
	put_escaped(string(page, "title"), out);
	fputs("</h1>\n", out);
}

static int put_section(const json_t *s, size_t n, FILE *out)
{
	int ret = 0;

	fputs("<section>\n<h2>", out);
	put_escaped(string(s, "title"), out);
	fputs("</h2>\n", out);
	if (*string(s, "note")) {
		fputs("<p class=\"small\">", out);
		put_escaped(string(s, "note"), out);
		fputs("</p>\n", out);
	}
	if (*string(s, "unit"))
		put_chart(s, n, out);
	put_table(s, out);
	ret = put_csv_link(s, n, out);
	fputs("</section>\n", out);
	return ret;
}

int html_write(const json_t *page, FILE *out, struct error *err)
{
	const json_t *notes = json_object_get(page, "notes"), *sections = json_object_get(page, "sections");
	const struct html_file *licence = find_file("copyright");
	int ret = 0;

	put_head(page, out);
	for (size_t i = 0; i < json_array_size(notes); i++) {
		fputs("<p>", out);
		put_escaped(json_string_value(json_array_get(notes, i)), out);
		fputs("</p>\n", out);
	}
	for (size_t i = 0; i < json_array_size(sections) && !ret; i++)
		if (is_shown(json_array_get(sections, i)))
			ret = put_section(json_array_get(sections, i), i + 1, out);
	/* Its head comment names the library, its authors and the licence; the licence's text goes with it. */
	fputs("<details><summary>Charts: Chart.js</summary><pre>", out);
	put_escaped_bytes((const char *)licence->data, licence->bytes, out);
	fputs("</pre></details>\n<script>\n", out);
	put_file("chart.min", out);
	fputs("</script>\n<script>\n", out);
	put_file("charts", out);
	fputs("</script>\n</body>\n</html>\n", out);
	if (ret)
		return error_set(err, ret, "out of memory");
	if (fflush(out) || ferror(out))
		return error_set(err, -EIO, "the page cannot be written: %s", strerror(errno));
	return 0;
}

int html_commit(const json_t *page, struct report_file *f, struct error *err)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *memory = open_memstream(&text, &bytes);
	int ret = memory ? html_write(page, memory, err) : error_set(err, -ENOMEM, "out of memory");

	if (memory && fclose(memory) && ret == 0)
		ret = error_set(err, -ENOMEM, "out of memory");
	if (ret)
		report_file_abandon(f);
	else
		ret = report_file_commit_bytes(f, text, bytes, err);
	free(text);
	return ret;
}
