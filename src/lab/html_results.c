/*
 * Pages of results: which numbers of a comparison, of replays or of a lab are shown, and which are charted. They are
 * taken from the JSON as it is on disk, which may be anything: what is missing is an empty cell.
 */
#include "lab/html.h"

#include "base/util.h"
#include "lab/compare.h"
#include <errno.h>
#include <math.h>
#include <string.h>

/* The value at "a.b.c"; NULL if it is not there. */
static json_t *find(const json_t *o, const char *path)
{
	char key[64];
	json_t *v = NULL;

	for (size_t n; *path; path += n + (path[n] == '.'), o = v) {
		n = strcspn(path, ".");
		snprintf(key, sizeof(key), "%.*s", (int)n, path);
		v = json_object_get(o, key);
	}
	return v;
}

/* NAN: not there. */
static double number(const json_t *o, const char *path)
{
	const json_t *v = find(o, path);

	return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

static const char *text(const json_t *o, const char *path)
{
	const char *s = json_string_value(find(o, path));

	return s ? s : "";
}

static json_t *value_of(const json_t *o, const char *path)
{
	json_t *v = find(o, path);

	return json_is_number(v) || json_is_string(v) ? json_incref(v) : json_null();
}

/* Adds @name to the set @names in order, unless it is there. */
static void add_name(json_t *names, const char *name)
{
	size_t i = 0;

	while (i < json_array_size(names) && strcmp(json_string_value(json_array_get(names, i)), name))
		i++;
	if (i == json_array_size(names))
		json_array_append_new(names, json_string(name));
}

/* ---- comparisons ---- */

static double refs_of_walk(const json_t *run, const json_t *base)
{
	(void)base;
	return number(run, "translation.refs") / number(run, "translation.walks");
}

static double cycles_of_walk(const json_t *run, const json_t *base)
{
	double all = number(run, "cost.cycles.walks") + number(run, "cost.cycles.references") +
		     number(run, "cost.cycles.walk_caches");

	(void)base;
	return all / number(run, "translation.walks");
}

static double speedup(const json_t *run, const json_t *base)
{
	return number(base, "cost.cycles.total") / number(run, "cost.cycles.total");
}

static double exits(const json_t *run, const json_t *base)
{
	(void)base;
	return number(run, "exits.total");
}

static const struct chart {
	const char *title, *unit, *note;
	double (*value)(const json_t *run, const json_t *base);
} compare_charts[] = {
	{"References of a page walk", "references a walk, mean", "Entries of page tables that the hardware read.",
	 refs_of_walk},
	{"Latency of a page walk", "modelled cycles a walk, mean", "By where each reference hit, and what a walk is charged.",
	 cycles_of_walk},
	{"Speedup over nested radix", "times", "Modelled cycles in all under ept, divided by those under each scheme.",
	 speedup},
	{"VM exits", "exits", NULL, exits},
};

static const json_t *run_of(const json_t *work, const char *mmu)
{
	const json_t *runs = json_object_get(work, "runs");

	for (size_t i = 0; i < json_array_size(runs); i++)
		if (strcmp(text(json_array_get(runs, i), "mmu"), mmu) == 0)
			return json_array_get(runs, i);
	return NULL;
}

static const char *work_name(const json_t *work)
{
	return *text(work, "work") ? text(work, "work") : "the guest's own";
}

static void chart_comparison(json_t *page, const struct chart *c, const json_t *works, const json_t *schemes)
{
	json_t *s = html_section(page, c->title, c->unit, c->note);

	for (size_t m = 0; m < json_array_size(schemes); m++)
		html_column(s, json_string_value(json_array_get(schemes, m)));
	for (size_t w = 0; w < json_array_size(works); w++) {
		const json_t *work = json_array_get(works, w), *base = run_of(work, "ept");

		html_row(s, work_name(work));
		for (size_t m = 0; m < json_array_size(schemes); m++) {
			const json_t *run = run_of(work, json_string_value(json_array_get(schemes, m)));

			html_cell(s, html_number(run ? c->value(run, base) : (double)NAN));
		}
	}
}

/* The whole table of a work, as 'gnomon compare' prints it. */
static void table_of_work(json_t *page, const json_t *work)
{
	json_t *table = compare_table(work), *s;
	const json_t *rows = json_object_get(table, "rows"), *heads = json_object_get(table, "columns");
	const json_t *notes = json_object_get(work, "differences");

	s = html_section(page, work_name(work), NULL, json_is_true(json_object_get(work, "equal")) ?
			 "All runs agree: same end, same instruction count, same state hash." : "The runs differ.");
	for (size_t i = 0; i < json_array_size(heads); i++)
		html_column(s, json_string_value(json_array_get(heads, i)));
	for (size_t r = 0; r < json_array_size(rows); r++) {
		const json_t *row = json_array_get(rows, r);

		html_row(s, json_string_value(json_array_get(row, 0)));
		for (size_t i = 1; i < json_array_size(row); i++)
			html_cell(s, json_incref(json_array_get(row, i)));
	}
	for (size_t i = 0; i < json_array_size(notes); i++)
		if (json_is_string(json_array_get(notes, i)))
			html_note(page, json_string_value(json_array_get(notes, i)));
	json_decref(table);
}

static json_t *page_of_comparison(const json_t *comparison)
{
	const json_t *works = json_object_get(comparison, "works");
	json_t *page = html_page("Schemes of memory virtualization compared"), *schemes = json_array();

	for (size_t w = 0; w < json_array_size(works); w++) {
		const json_t *runs = json_object_get(json_array_get(works, w), "runs");

		for (size_t i = 0; i < json_array_size(runs); i++)
			add_name(schemes, text(json_array_get(runs, i), "mmu"));
	}
	html_note(page, json_is_true(json_object_get(comparison, "equal")) ?
		  "All runs of each guest agree: same end, same instruction count, same state hash. They differ in cost alone." :
		  "Runs that should be equal differ:");
	for (size_t i = 0; i < ARRAY_SIZE(compare_charts); i++)
		chart_comparison(page, &compare_charts[i], works, schemes);
	for (size_t w = 0; w < json_array_size(works); w++)
		table_of_work(page, json_array_get(works, w));
	json_decref(schemes);
	return page;
}

/* ---- replays ---- */

static const struct { const char *title, *unit, *note, *path; } replay_charts[] = {
	{"References of a page walk", "references a walk, mean", "Entries of page tables that the hardware read.",
	 "mean_refs"},
	{"Latency of a page walk", "modelled cycles a walk, mean", "By where each reference hit, and what a walk is charged.",
	 "cycles.mean_walk"},
	{"Speedup of page walks over radix", "times", "Radix in the same setup with the same pages.", "speedup.walk"},
	{"Speedup over radix", "times", "Modelled cycles in all, radix in the same setup with the same pages.",
	 "speedup.total"},
	{"VM exits", "exits", NULL, "exits.total"},
};

static const struct { const char *title, *path; } replay_columns[] = {
	{"accesses", "accesses"}, {"L1 misses", "l1_misses"}, {"L2 misses", "l2_misses"}, {"walks", "translation.walks"},
	{"references a walk", "mean_refs"}, {"most", "translation.refs_max"}, {"hit in L1", "translation.ref_hits.l1"},
	{"in L2", "translation.ref_hits.l2"}, {"in LLC", "translation.ref_hits.llc"},
	{"in memory", "translation.ref_hits.memory"}, {"cycles a walk", "cycles.mean_walk"}, {"exits", "exits.total"},
	{"hypercalls", "hypercalls"}, {"tables, KiB", "table_kib"}, {"cycles in all", "cycles.total"},
	{"walk speedup", "speedup.walk"}, {"speedup", "speedup.total"},
};

/* Replays that are shown side by side. */
struct replays {
	const json_t *const *report;
	unsigned n;
	json_t *designs, *groups; /* names; a group: a setup with pages of a size */
};

static void group_of(const json_t *result, char name[64])
{
	snprintf(name, 64, "%.30s, %.30s", text(result, "setup"), text(result, "pages"));
}

/* The trace's file without directories and suffix: the workload's name. */
static void trace_name(const json_t *report, char name[64])
{
	const char *path = text(report, "trace.path"), *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	const char *dot = strrchr(base, '.');

	snprintf(name, 64, "%.*s", (int)(dot && dot != base ? dot - base : (ptrdiff_t)strlen(base)), base);
}

static const json_t *result_of(const json_t *report, const char *group, const char *design)
{
	const json_t *results = json_object_get(report, "results");
	char name[64];

	for (size_t i = 0; i < json_array_size(results); i++) {
		const json_t *r = json_array_get(results, i);

		group_of(r, name);
		if (strcmp(name, group) == 0 && strcmp(text(r, "design"), design) == 0)
			return r;
	}
	return NULL;
}

static void collect_names(struct replays *all)
{
	char name[64];

	for (unsigned i = 0; i < all->n; i++) {
		const json_t *results = json_object_get(all->report[i], "results");

		for (size_t k = 0; k < json_array_size(results); k++) {
			const json_t *r = json_array_get(results, k);

			group_of(r, name);
			add_name(all->groups, name);
			add_name(all->designs, text(r, "design"));
		}
	}
}

static void add_chart_row(json_t *s, const struct replays *all, const char *label, const json_t *report,
			  const char *group, const char *path)
{
	html_row(s, label);
	for (size_t d = 0; d < json_array_size(all->designs); d++) {
		const json_t *r = result_of(report, group, json_string_value(json_array_get(all->designs, d)));

		html_cell(s, r ? html_number(number(r, path)) : NULL);
	}
}

/* A chart: of one replay its setups side by side; of several a chart a setup, with the workloads side by side. */
static void chart_replays(json_t *page, const struct replays *all, size_t chart, const char *group)
{
	char title[160], name[64];
	json_t *s;

	snprintf(title, sizeof(title), "%s%s%s", replay_charts[chart].title, group ? ": " : "", group ? group : "");
	s = html_section(page, title, replay_charts[chart].unit, replay_charts[chart].note);
	for (size_t d = 0; d < json_array_size(all->designs); d++)
		html_column(s, json_string_value(json_array_get(all->designs, d)));
	for (unsigned i = 0; group && i < all->n; i++) {
		trace_name(all->report[i], name);
		add_chart_row(s, all, name, all->report[i], group, replay_charts[chart].path);
	}
	for (size_t g = 0; !group && g < json_array_size(all->groups); g++) {
		const char *each = json_string_value(json_array_get(all->groups, g));

		add_chart_row(s, all, each, all->report[0], each, replay_charts[chart].path);
	}
}

static void table_of_replay(json_t *page, const json_t *report)
{
	const json_t *results = json_object_get(report, "results");
	char name[64], title[128], note[640], label[128];
	json_t *s;

	trace_name(report, name);
	snprintf(title, sizeof(title), "%s: all figures", name);
	snprintf(note, sizeof(note), "%.200s: %.0f events, %.0f instructions; hardware %.60s.%s%.300s",
		 text(report, "trace.path"), fmax(0, number(report, "trace.events")),
		 fmax(0, number(report, "trace.instructions")), text(report, "hw"),
		 json_is_true(json_object_get(report, "partial")) ? " Partial: " : "", text(report, "why"));
	if (json_is_true(find(report, "trace.partial")))
		html_note(page, "Partial: what the trace was made from ended badly; what came then is not in it.");
	s = html_section(page, title, NULL, note);
	for (size_t c = 0; c < ARRAY_SIZE(replay_columns); c++)
		html_column(s, replay_columns[c].title);
	for (size_t i = 0; i < json_array_size(results); i++) {
		const json_t *r = json_array_get(results, i);

		group_of(r, name);
		snprintf(label, sizeof(label), "%.40s, %s", text(r, "design"), name);
		html_row(s, label);
		for (size_t c = 0; c < ARRAY_SIZE(replay_columns); c++)
			html_cell(s, value_of(r, replay_columns[c].path));
		if (*text(r, "error"))
			html_note(page, text(r, "error"));
	}
}

static json_t *page_of_replays(const json_t *const *report, unsigned n)
{
	struct replays all = {report, n, json_array(), json_array()};
	json_t *page = html_page("Designs of address translation compared");
	size_t groups;

	collect_names(&all);
	html_note(page, "Each design was executed on the same trace: its own accesses, through its own TLBs and caches.");
	groups = n > 1 ? json_array_size(all.groups) : 1;
	for (size_t c = 0; c < ARRAY_SIZE(replay_charts); c++)
		for (size_t g = 0; g < groups; g++)
			chart_replays(page, &all, c, n > 1 ? json_string_value(json_array_get(all.groups, g)) : NULL);
	for (unsigned i = 0; i < n; i++)
		table_of_replay(page, report[i]);
	json_decref(all.designs);
	json_decref(all.groups);
	return page;
}

/* ---- labs ---- */

static void table_of_lab(json_t *page, const json_t *table)
{
	const json_t *heads = json_object_get(table, "columns"), *rows = json_object_get(table, "rows");
	const char *unit = text(table, "unit");
	json_t *s = html_section(page, text(table, "title"), *unit ? unit : NULL, NULL);

	for (size_t i = 0; i < json_array_size(heads); i++)
		html_column(s, json_is_string(json_array_get(heads, i)) ? json_string_value(json_array_get(heads, i)) : "?");
	for (size_t r = 0; r < json_array_size(rows); r++) {
		const json_t *values = json_object_get(json_array_get(rows, r), "values");

		html_row(s, text(json_array_get(rows, r), "label"));
		for (size_t i = 0; i < json_array_size(values); i++)
			html_cell(s, json_incref(json_array_get(values, i)));
	}
}

/* Is there something of @unit to set beside each other? */
static bool is_pair(const json_t *line, const char *unit)
{
	return strcmp(text(line, "unit"), unit) == 0 && isfinite(number(line, "ours")) && isfinite(number(line, "paper"));
}

/* Ours and published figures of one unit, in one chart. */
static void chart_lines(json_t *page, const json_t *lines, const char *unit)
{
	char title[128];
	json_t *s = NULL;

	snprintf(title, sizeof(title), "Beside the published: %.64s", unit);
	for (size_t l = 0; l < json_array_size(lines); l++) {
		const json_t *line = json_array_get(lines, l);

		if (!is_pair(line, unit))
			continue;
		if (!s) {
			s = html_section(page, title, unit, NULL);
			html_column(s, "ours");
			html_column(s, "paper");
		}
		html_row(s, text(line, "what"));
		html_cell(s, value_of(line, "ours"));
		html_cell(s, value_of(line, "paper"));
	}
}

static void chart_comparison_of_lab(json_t *page, const json_t *lines)
{
	json_t *units = json_array();

	for (size_t l = 0; l < json_array_size(lines); l++)
		add_name(units, text(json_array_get(lines, l), "unit"));
	for (size_t i = 0; i < json_array_size(units); i++)
		chart_lines(page, lines, json_string_value(json_array_get(units, i)));
	json_decref(units);
}

static json_t *page_of_lab(const json_t *lab)
{
	static const char *const heads[] = {"unit", "ours", "paper", "to", "ratio", "why"};
	static const char *const keys[] = {"unit", "ours", "paper", "paper_high", "ratio", "why"};
	const json_t *tables = json_object_get(lab, "tables"), *lines = json_object_get(lab, "comparison");
	const json_t *notes = json_object_get(lab, "notes");
	json_t *page = html_page(text(lab, "title")), *s;

	html_note(page, text(lab, "source"));
	for (size_t i = 0; i < json_array_size(notes); i++)
		if (json_is_string(json_array_get(notes, i)))
			html_note(page, json_string_value(json_array_get(notes, i)));
	s = html_section(page, "Ours and the paper's", NULL, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(heads); i++)
		html_column(s, heads[i]);
	for (size_t l = 0; l < json_array_size(lines); l++) {
		html_row(s, text(json_array_get(lines, l), "what"));
		for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
			html_cell(s, value_of(json_array_get(lines, l), keys[i]));
	}
	chart_comparison_of_lab(page, lines);
	for (size_t i = 0; i < json_array_size(tables); i++)
		table_of_lab(page, json_array_get(tables, i));
	return page;
}

int html_of_results(const json_t *const *result, unsigned results, json_t **page, struct error *err)
{
	const char *schema = results ? text(result[0], "schema") : "";

	for (unsigned i = 1; i < results; i++)
		if (strcmp(text(result[i], "schema"), "gnomon-replay/1") || strcmp(schema, "gnomon-replay/1"))
			return error_set(err, -EINVAL, "only results of 'replay' can be shown side by side");
	if (strcmp(schema, "gnomon-replay/1") == 0)
		*page = page_of_replays(result, results);
	else if (strcmp(schema, COMPARE_SCHEMA) == 0)
		*page = page_of_comparison(result[0]);
	else if (strcmp(schema, "gnomon-lab/1") == 0)
		*page = page_of_lab(result[0]);
	else
		return error_set(err, -EINVAL, "no result of compare, replay or lab: schema '%.64s'", schema);
	return 0;
}

int html_commit_result(const json_t *result, struct report_file *f, struct error *err)
{
	json_t *page = NULL;
	int ret = html_of_results(&result, 1, &page, err);

	if (ret == 0)
		ret = html_commit(page, f, err);
	else
		report_file_abandon(f);
	json_decref(page);
	return ret;
}
