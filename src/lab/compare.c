/* See compare.h. Rows of the table and columns of the CSV are lists. */
#include "lab/compare.h"
#include "base/util.h"
#include <inttypes.h>
#include <stdlib.h>

/* A value in a report by path, "exits.total"; NULL if it is not there. */
static const json_t *find(const json_t *o, const char *path)
{
	while (o && *path) {
		size_t n = strcspn(path, ".");
		char key[64];

		if (n >= sizeof(key))
			return NULL;
		memcpy(key, path, n);
		key[n] = 0;
		o = json_object_get(o, key);
		path += n + (path[n] == '.');
	}
	return o;
}

static double number(const json_t *report, const char *path)
{
	return json_number_value(find(report, path));
}

/* ---- building ---- */

json_t *compare_new(void)
{
	json_t *c = json_object();

	json_object_set_new(c, "schema", json_string(COMPARE_SCHEMA));
	json_object_set_new(c, "equal", json_true());
	json_object_set_new(c, "works", json_array());
	return c;
}

static const char *value_text(const json_t *v, char buf[32])
{
	if (json_is_string(v))
		return json_string_value(v);
	if (json_is_integer(v)) {
		snprintf(buf, 32, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
		return buf;
	}
	return "missing";
}

static void note_difference(json_t *notes, const struct compare_run *a, const struct compare_run *b, const char *key)
{
	const json_t *va = find(a->report, key), *vb = find(b->report, key);
	const char *aside = "";
	char ta[32], tb[32];

	if (va && vb && json_equal(va, vb))
		return;
	if (strcmp(key, "guest.state_hash") == 0 &&
	    json_equal(find(a->report, "guest.state_hash_no_accessed"),
		       find(b->report, "guest.state_hash_no_accessed")))
		aside = " (accessed flags only)";
	json_array_append_new(notes, json_sprintf("%s: %s is %s, under %s it is %s%s", b->mmu, key + strlen("guest."),
						  value_text(vb, tb), a->mmu, value_text(va, ta), aside));
}

static json_t *find_differences(const struct compare_run *run, unsigned runs)
{
	static const char *const keys[] = {"guest.exit", "guest.exit_code", "guest.instructions", "guest.state_hash"};
	const struct compare_run *first = NULL;
	json_t *notes = json_array();

	for (unsigned i = 0; i < runs; i++) {
		if (!run[i].report)
			json_array_append_new(notes, json_sprintf("%s: no result: %s", run[i].mmu,
								  run[i].error ? run[i].error : "unknown"));
		else if (!first)
			first = &run[i];
		else
			for (unsigned k = 0; k < ARRAY_SIZE(keys); k++)
				note_difference(notes, first, &run[i], keys[k]);
	}
	return notes;
}

#define CYCLES "cost.cycles.total"

/* What slowdowns are relative to: the native run, else the first that has a report. NULL: none. */
static const struct compare_run *find_baseline(const struct compare_run *run, unsigned runs)
{
	const struct compare_run *base = NULL;

	for (unsigned i = 0; i < runs; i++)
		if (run[i].report && (!base || strcmp(run[i].mmu, "native") == 0))
			base = &run[i];
	return base && number(base->report, CYCLES) > 0 ? base : NULL;
}

/* A run as the comparison shows it: its report, and how much slower than @base it would have been. */
static json_t *build_run(const struct compare_run *run, const struct compare_run *base)
{
	json_t *o;

	if (!run->report) {
		o = json_object();
		json_object_set_new(o, "mmu", json_string(run->mmu));
		json_object_set_new(o, "error", json_string(run->error ? run->error : "unknown"));
		return o;
	}
	o = json_copy(run->report);
	if (base)
		json_object_set_new(o, "slowdown",
				    json_real(number(run->report, CYCLES) / number(base->report, CYCLES)));
	return o;
}

void compare_add(json_t *comparison, const char *work, const struct compare_run *run, unsigned runs)
{
	json_t *w = json_object(), *list = json_array(), *notes = find_differences(run, runs);
	const struct compare_run *base = find_baseline(run, runs);

	for (unsigned i = 0; i < runs; i++)
		json_array_append_new(list, build_run(&run[i], base));
	if (json_array_size(notes))
		json_object_set_new(comparison, "equal", json_false());
	json_object_set_new(w, "work", work ? json_string(work) : json_null());
	json_object_set_new(w, "equal", json_boolean(json_array_size(notes) == 0));
	json_object_set_new(w, "differences", notes);
	json_object_set_new(w, "baseline", base ? json_string(base->mmu) : json_null());
	json_object_set_new(w, "runs", list);
	json_array_append_new(json_object_get(comparison, "works"), w);
}

bool compare_equal(const json_t *comparison)
{
	return json_is_true(json_object_get(comparison, "equal"));
}

/* ---- the table ---- */

const char *compare_group_digits(unsigned long long n, char *buf)
{
	char plain[24];
	int len = snprintf(plain, sizeof(plain), "%llu", n), out = 0;

	for (int i = 0; i < len; i++) {
		if (i && (len - i) % 3 == 0)
			buf[out++] = ',';
		buf[out++] = plain[i];
	}
	buf[out] = 0;
	return buf;
}

#define CELL_BYTES   48
#define COLUMNS_MAX  16
#define REASONS_SHOWN 8

/* A row of the table: the value of a report as text, "" for an empty cell. */
struct row {
	const char *label;
	void (*cell)(const json_t *report, const char *path, char text[CELL_BYTES]);
	const char *path;
};

static void cell_count(const json_t *report, const char *path, char text[CELL_BYTES])
{
	if (json_is_integer(find(report, path)))
		compare_group_digits((unsigned long long)json_integer_value(find(report, path)), text);
}

static void cell_seconds(const json_t *report, const char *path, char text[CELL_BYTES])
{
	if (json_is_number(find(report, path)))
		snprintf(text, CELL_BYTES, "%.2f", number(report, path));
}

static void cell_percent(const json_t *report, const char *path, char text[CELL_BYTES])
{
	if (json_is_number(find(report, path)))
		snprintf(text, CELL_BYTES, "%.1f %%", 100 * number(report, path));
}

static void cell_factor(const json_t *report, const char *path, char text[CELL_BYTES])
{
	if (json_is_number(find(report, path)))
		snprintf(text, CELL_BYTES, "%.3f", number(report, path));
}

static void cell_string(const json_t *report, const char *path, char text[CELL_BYTES])
{
	const char *s = json_string_value(find(report, path));

	snprintf(text, CELL_BYTES, "%.16s", s ? s : "");
}

static void cell_count_if_any(const json_t *report, const char *path, char text[CELL_BYTES])
{
	if (number(report, path) > 0)
		cell_count(report, path, text);
}

static void cell_refs_per_walk(const json_t *report, const char *path, char text[CELL_BYTES])
{
	double walks = number(report, "translation.walks");

	if (walks > 0)
		snprintf(text, CELL_BYTES, "%.2f", number(report, path) / walks);
}

static void cell_mips(const json_t *report, const char *path, char text[CELL_BYTES])
{
	double seconds = number(report, path);

	double insns = number(report, "guest.instructions") - number(report, "guest.resumed_at");

	if (seconds > 0)
		snprintf(text, CELL_BYTES, "%.1f", insns / seconds / 1e6);
}

static const struct row rows_before[] = {
	{"guest ends with", cell_string, "guest.exit"},
	{"guest instructions", cell_count, "guest.instructions"},
	{"  of them before the runs begin", cell_count_if_any, "guest.resumed_at"},
	{"state hash", cell_string, "guest.state_hash"},
	{"VM exits", cell_count, "exits.total"},
};
static const struct row rows_after[] = {
	{"page faults seen by the guest", cell_count, "faults.guest"},
	{"true faults intercepted", cell_count, "faults.true"},
	{"hidden faults", cell_count, "faults.hidden"},
	{"traced table writes", cell_count, "faults.traced_writes"},
	{"traced table reads", cell_count, "faults.traced_reads"},
	{"page walks", cell_count, "translation.walks"},
	{"references", cell_count, "translation.refs"},
	{"  that hit in L1", cell_count, "translation.ref_hits.l1"},
	{"  in L2", cell_count, "translation.ref_hits.l2"},
	{"  in the last-level cache", cell_count, "translation.ref_hits.llc"},
	{"  in memory", cell_count, "translation.ref_hits.memory"},
	{"references a walk, mean", cell_refs_per_walk, "translation.refs"},
	{"references a walk, most", cell_count, "translation.refs_max"},
	{"shadow tables, KiB (most)", cell_count, "tables.shadow_kib_max"},
	{"EPT, KiB", cell_count, "tables.ept_kib"},
	{"virtual seconds", cell_seconds, "guest.virtual_seconds"},
	{"user seconds", cell_seconds, "host.user_seconds"},
	{"million instructions a second", cell_mips, "host.user_seconds"},
};
/* By the cost account of the hardware description. */
static const struct row rows_cost[] = {
	{"modelled cycles", cell_count, CYCLES},
	{"  in translation", cell_percent, "cost.share.translation"},
	{"  in exits and entries", cell_percent, "cost.share.exits"},
	{"  in the hypervisor, with those", cell_percent, "cost.share.hypervisor"},
};

struct table {
	const json_t *run[COLUMNS_MAX];
	unsigned columns;
	int width[COLUMNS_MAX];
	FILE *out;    /* where it is printed, */
	json_t *rows; /* ... or if not NULL, the array that gets its rows */
};

static void add_cells(const struct table *t, const char *label, const char text[][CELL_BYTES])
{
	json_t *row = json_array(), *s = json_string(label); /* NULL: a name that was cut within a character */

	json_array_append_new(row, s ? s : json_string("?"));
	for (unsigned c = 0; c < t->columns; c++) {
		s = text[c][0] ? json_string(text[c]) : NULL;
		json_array_append_new(row, s ? s : json_null());
	}
	json_array_append_new(t->rows, row);
}

static void print_cells(const struct table *t, const char *label, const char text[][CELL_BYTES])
{
	if (t->rows) {
		add_cells(t, label, text);
		return;
	}
	fprintf(t->out, "  %-34.34s", label);
	for (unsigned c = 0; c < t->columns; c++)
		fprintf(t->out, "  %*s", t->width[c], text[c][0] ? text[c] : "-");
	fputc('\n', t->out);
}

static void print_row(const struct table *t, const struct row *r)
{
	char text[COLUMNS_MAX][CELL_BYTES] = {{0}};
	bool any = false;

	for (unsigned c = 0; c < t->columns; c++) {
		r->cell(t->run[c], r->path, text[c]);
		any |= text[c][0] != 0;
	}
	if (any)
		print_cells(t, r->label, (const char(*)[CELL_BYTES])text);
}

struct reason {
	const char *name;
	json_int_t most, count[COLUMNS_MAX];
};

static int by_most(const void *a, const void *b)
{
	const struct reason *x = a, *y = b;

	return (x->most < y->most) - (x->most > y->most);
}

/* The reasons of all runs, most frequent first. Returns how many. */
static unsigned collect_reasons(const struct table *t, struct reason *reason, unsigned max)
{
	unsigned n = 0;

	for (unsigned c = 0; c < t->columns; c++) {
		json_t *by = json_object_get(json_object_get(t->run[c], "exits"), "by_reason"), *v;
		const char *name;

		json_object_foreach(by, name, v) {
			unsigned i = 0;

			while (i < n && strcmp(reason[i].name, name))
				i++;
			if (i == max)
				continue;
			if (i == n)
				reason[n++] = (struct reason){.name = name};
			reason[i].count[c] = json_integer_value(v);
			reason[i].most = reason[i].most > reason[i].count[c] ? reason[i].most : reason[i].count[c];
		}
	}
	qsort(reason, n, sizeof(*reason), by_most);
	return n;
}

static void print_reason(const struct table *t, const struct reason *r)
{
	char text[COLUMNS_MAX][CELL_BYTES] = {{0}}, label[64];

	for (unsigned c = 0; c < t->columns; c++)
		if (r->count[c])
			compare_group_digits((unsigned long long)r->count[c], text[c]);
	snprintf(label, sizeof(label), "  %s", r->name);
	print_cells(t, label, (const char(*)[CELL_BYTES])text);
}

static void print_reasons(const struct table *t)
{
	struct reason reason[80], rest = {.name = "others"};
	unsigned n = collect_reasons(t, reason, ARRAY_SIZE(reason));

	for (unsigned i = 0; i < n; i++) {
		if (i < REASONS_SHOWN) {
			print_reason(t, &reason[i]);
			continue;
		}
		for (unsigned c = 0; c < t->columns; c++)
			rest.count[c] += reason[i].count[c];
	}
	if (n > REASONS_SHOWN)
		print_reason(t, &rest);
}

static void print_verdict(const json_t *work, FILE *out)
{
	const json_t *notes = json_object_get(work, "differences");

	if (json_is_true(json_object_get(work, "equal"))) {
		fputs("  All runs agree: same end, same instruction count, same state hash.\n", out);
		return;
	}
	fputs("  THE RUNS DIFFER:\n", out);
	for (size_t i = 0; i < json_array_size(notes); i++)
		fprintf(out, "    %s\n", json_string_value(json_array_get(notes, i)));
}

static void print_cost(const struct table *t, const json_t *work)
{
	const char *base = json_string_value(json_object_get(work, "baseline"));
	char label[64];

	if (!base)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(rows_cost); i++)
		print_row(t, &rows_cost[i]);
	snprintf(label, sizeof(label), "slowdown against %s", base);
	print_row(t, &(struct row){label, cell_factor, "slowdown"});
}

static void print_rows(struct table *t, const json_t *work)
{
	const json_t *runs = json_object_get(work, "runs"), *name = json_object_get(work, "work");
	char head[COLUMNS_MAX][CELL_BYTES] = {{0}};

	for (size_t i = 0; i < json_array_size(runs) && t->columns < COLUMNS_MAX; i++) {
		t->run[t->columns] = json_array_get(runs, i);
		cell_string(t->run[t->columns], "mmu", head[t->columns]);
		t->width[t->columns++] = 16;
	}
	print_cells(t, json_is_string(name) ? json_string_value(name) : "", (const char(*)[CELL_BYTES])head);
	for (unsigned i = 0; i < ARRAY_SIZE(rows_before); i++)
		print_row(t, &rows_before[i]);
	print_reasons(t);
	for (unsigned i = 0; i < ARRAY_SIZE(rows_after); i++)
		print_row(t, &rows_after[i]);
	print_cost(t, work);
}

static void print_work(const json_t *work, FILE *out)
{
	struct table t = {.out = out};

	print_rows(&t, work);
	print_verdict(work, out);
}

json_t *compare_table(const json_t *work)
{
	struct table t = {.rows = json_array()};
	json_t *heads;

	print_rows(&t, work);
	heads = json_incref(json_array_get(t.rows, 0));
	json_array_remove(t.rows, 0);
	json_array_remove(heads, 0); /* the work's name */
	return json_pack("{s:o, s:o}", "columns", heads, "rows", t.rows);
}

void compare_print_table(const json_t *comparison, FILE *out)
{
	const json_t *works = json_object_get(comparison, "works");

	for (size_t i = 0; i < json_array_size(works); i++) {
		if (i)
			fputc('\n', out);
		print_work(json_array_get(works, i), out);
	}
}

/* ---- CSV ---- */

static const char *const csv_columns[] = {
	"guest.exit", "guest.exit_code", "guest.instructions", "guest.virtual_seconds", "guest.state_hash",
	"guest.state_hash_no_accessed", "exits.total", "faults.guest", "faults.true", "faults.hidden",
	"faults.traced_writes", "faults.traced_reads", "faults.ept_violations", "translation.walks",
	"translation.refs", "translation.refs_max", "translation.ref_hits.l1", "translation.ref_hits.l2",
	"translation.ref_hits.llc", "translation.ref_hits.memory", "cost.hw", "cost.cycles.total",
	"cost.share.translation", "cost.share.exits", "cost.share.hypervisor", "slowdown", "tables.shadow_kib",
	"tables.shadow_kib_max", "tables.ept_kib",
	"tables.p2m_kib", "tables.guest_frames", "host.user_seconds", "host.wall_seconds", "host.max_rss_kib",
};

static void csv_run(const char *work, const json_t *run, FILE *out)
{
	const char *quote = work && strchr(work, ',') ? "\"" : "";

	fprintf(out, "%s%s%s,%s", quote, work ? work : "", quote, json_string_value(json_object_get(run, "mmu")));
	for (unsigned i = 0; i < ARRAY_SIZE(csv_columns); i++) {
		const json_t *v = find(run, csv_columns[i]);

		if (json_is_string(v))
			fprintf(out, ",%s", json_string_value(v));
		else if (json_is_integer(v))
			fprintf(out, ",%" JSON_INTEGER_FORMAT, json_integer_value(v));
		else if (json_is_real(v))
			fprintf(out, ",%.6f", json_real_value(v));
		else
			fputc(',', out);
	}
	fputc('\n', out);
}

void compare_print_csv(const json_t *comparison, FILE *out)
{
	const json_t *works = json_object_get(comparison, "works");

	fputs("work,mmu", out);
	for (unsigned i = 0; i < ARRAY_SIZE(csv_columns); i++)
		fprintf(out, ",%s", csv_columns[i]);
	fputc('\n', out);
	for (size_t i = 0; i < json_array_size(works); i++) {
		const json_t *w = json_array_get(works, i), *runs = json_object_get(w, "runs");

		for (size_t r = 0; r < json_array_size(runs); r++)
			csv_run(json_string_value(json_object_get(w, "work")), json_array_get(runs, r), out);
	}
}
