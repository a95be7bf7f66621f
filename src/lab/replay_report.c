/* Results of a replay: JSON, and of that JSON a table and CSV. */
#include "lab/replay.h"

#include "lab/cost.h"
#include "lab/report.h"
#include <inttypes.h>
#include <stdio.h>

static void put(json_t *o, const char *key, uint64_t v) { json_object_set_new(o, key, json_integer((json_int_t)v)); }
static void put_real(json_t *o, const char *key, double v) { json_object_set_new(o, key, json_real(v)); }

/* Texts of a trace are bytes; JSON's strings are UTF-8. */
static void put_text(json_t *o, const char *key, const char *v)
{
	json_t *s = json_string(v);

	json_object_set_new(o, key, s ? s : json_string("?"));
}

static double ratio(double a, double b) { return b > 0 ? a / b : 0; }

struct figures {
	struct cost cost;
	double walk_cycles;  /* of all walks */
	double mean_refs, mean_cycles;
};

static struct figures figures_of(const struct replay_result *res, const struct hw *hw)
{
	struct figures f;
	double walks = (double)res->obs.translation.walks;

	cost_account(hw, &res->obs, res->taken.insns, &f.cost);
	f.walk_cycles = f.cost.walks + f.cost.references + f.cost.walk_caches;
	f.mean_refs = ratio((double)res->obs.translation.refs, walks);
	f.mean_cycles = ratio(f.walk_cycles, walks);
	return f;
}

static json_t *build_cycles(const struct figures *f)
{
	json_t *o = json_object();

	put_real(o, "walks", f->walk_cycles);
	put_real(o, "mean_walk", f->mean_cycles);
	put_real(o, "translation", f->cost.translation);
	put_real(o, "hypervisor", f->cost.hypervisor);
	put_real(o, "total", f->cost.total);
	return o;
}

static json_t *build_teas(const struct osm_stats *s)
{
	json_t *o = json_object();

	put(o, "made", s->tea.made);
	put(o, "grown_in_place", s->tea.grown_in_place);
	put(o, "migrated", s->tea.migrated);
	put(o, "merged", s->tea.merged);
	put(o, "fallbacks", s->tea.fallbacks);
	put(o, "kib_max", s->tea.frames_max * 4);
	put(o, "loads", s->tea.loads);
	put(o, "unregistered_max", s->tea.unregistered_max);
	put(o, "refused", s->tea.refused);
	return o;
}

/* What the modelled operating system did. */
static json_t *build_os(const struct osm_stats *s)
{
	json_t *o = json_object();

	put(o, "faults", s->faults);
	put(o, "stores", s->stores);
	put(o, "table_kib_max", s->table_frames_max * 4);
	put(o, "data_kib", s->data_frames * 4);
	put(o, "huge_kib", s->huge_frames * 4);
	put(o, "huge_missed", s->huge_missed);
	put(o, "promotions", s->promotions);
	put(o, "splits", s->splits);
	put(o, "dropped", s->dropped);
	put(o, "pool_kib_max", s->pool.used_max * 4);
	put(o, "pool_fallbacks", s->pool.fallbacks);
	json_object_set_new(o, "teas", build_teas(s));
	return o;
}

static json_t *build_result(const struct replay_result *res, const struct hw *hw)
{
	struct figures f = figures_of(res, hw);
	const struct obs *obs = &res->obs;
	json_t *o = json_object();

	put_text(o, "design", replay_design_name(res->cell.design));
	put_text(o, "setup", replay_setup_name[res->cell.setup]);
	put_text(o, "pages", replay_pages_name[res->cell.pages]);
	put_text(o, "mmu", engine_mmu_name[res->cell.mmu]);
	json_object_set_new(o, "error", res->err.code ? json_string(res->err.text) : json_null());
	put_text(o, "tables", res->model ? "model" : "trace");
	json_object_set_new(o, "os", res->model ? build_os(&res->os) : json_null());
	put(o, "instructions", res->taken.insns);
	put(o, "accesses", res->taken.accesses);
	put(o, "faults_in_guest", res->taken.faults);
	put(o, "faults_unexpected", res->taken.unexpected);
	put(o, "l1_misses", obs->translation.l1d_misses + obs->translation.l1i_misses);
	put(o, "l2_misses", obs->translation.l2d_misses + obs->translation.l2i_misses);
	put_real(o, "mean_refs", f.mean_refs);
	put(o, "hypercalls", obs->pv.requests);
	put(o, "table_kib", (obs->tables.ept_bytes + obs->tables.shadow_bytes_max) >> 10);
	json_object_set_new(o, "cycles", build_cycles(&f));
	json_object_set_new(o, "speedup", json_null()); /* what it is compared with may come later */
	report_put_counts(o, obs);
	return o;
}

static json_t *build_trace(const struct replay_results *r)
{
	json_t *o = json_object();

	put_text(o, "path", r->path);
	put_text(o, "creator", r->info.creator);
	put_text(o, "source", r->info.source);
	put(o, "memory_kib", r->memory >> 10);
	put(o, "events", r->events);
	put(o, "instructions", r->insns);
	json_object_set_new(o, "partial", json_boolean(r->trace_partial));
	return o;
}

/* ---- of that JSON ---- */

static const json_t *at(const json_t *o, const char *path)
{
	char key[64];
	size_t n;

	for (; *path; path += n + (path[n] == '.')) {
		n = strcspn(path, ".");
		snprintf(key, sizeof(key), "%.*s", (int)n, path);
		o = json_object_get(o, key);
	}
	return o;
}

static double number(const json_t *o, const char *path) { return json_number_value(at(o, path)); }

static const char *text(const json_t *o, const char *path)
{
	const char *s = json_string_value(at(o, path));

	return s ? s : "";
}

static bool is_same(const json_t *a, const json_t *b, const char *key)
{
	return strcmp(text(a, key), text(b, key)) == 0;
}

/* What a result is compared with: radix in the same setup, with the same pages. */
static const json_t *baseline(const json_t *results, const json_t *r)
{
	for (size_t i = 0; i < json_array_size(results); i++) {
		const json_t *o = json_array_get(results, i);

		if (strcmp(text(o, "design"), "radix") == 0 && is_same(o, r, "setup") && is_same(o, r, "pages"))
			return o;
	}
	return NULL;
}

static json_t *build_speedup(const json_t *results, const json_t *r)
{
	const json_t *base = baseline(results, r);
	json_t *o;

	if (!base)
		return json_null();
	o = json_object();
	put_real(o, "walk", ratio(number(base, "cycles.mean_walk"), number(r, "cycles.mean_walk")));
	put_real(o, "total", ratio(number(base, "cycles.total"), number(r, "cycles.total")));
	return o;
}

json_t *replay_report_of(const struct replay_results *r, const struct hw *hw, json_t *results)
{
	json_t *o = json_object();

	for (size_t i = 0; i < json_array_size(results); i++)
		json_object_set_new(json_array_get(results, i), "speedup", build_speedup(results, json_array_get(results, i)));
	put_text(o, "schema", REPLAY_SCHEMA);
	json_object_set_new(o, "trace", build_trace(r));
	put_text(o, "hw", hw->name);
	json_object_set_new(o, "partial", json_boolean(r->partial));
	json_object_set_new(o, "why", r->partial ? json_string(r->why.text) : json_null());
	put_real(o, "host_seconds", r->seconds);
	json_object_set_new(o, "results", results);
	return o;
}

json_t *replay_report(const struct replay_results *r, const struct hw *hw)
{
	json_t *results = json_array();

	for (unsigned i = 0; i < r->results; i++)
		json_array_append_new(results, build_result(&r->result[i], hw));
	return replay_report_of(r, hw, results);
}

/* ---- text ---- */

static const struct column {
	const char *title, *path, *format;
	int width;
} columns[] = {
	{"L1 misses", "l1_misses", "%.0f", 11},
	{"L2 misses", "l2_misses", "%.0f", 11},
	{"walks", "translation.walks", "%.0f", 11},
	{"refs/walk", "mean_refs", "%.3f", 9},
	{"worst", "translation.refs_max", "%.0f", 5},
	{"cycles/walk", "cycles.mean_walk", "%.1f", 11},
	{"exits", "exits.total", "%.0f", 9},
	{"hypercalls", "hypercalls", "%.0f", 10},
	{"tables KiB", "table_kib", "%.0f", 10},
	{"walk speedup", "speedup.walk", "%.3f", 12},
	{"speedup", "speedup.total", "%.3f", 7},
};

void replay_print(const json_t *report, FILE *out)
{
	const json_t *results = json_object_get(report, "results");

	fprintf(out, "%s: %.0f events, %.0f instructions; hardware %s\n\n", text(report, "trace.path"),
		number(report, "trace.events"), number(report, "trace.instructions"), text(report, "hw"));
	fprintf(out, "%-8s %-7s %-5s", "design", "setup", "pages");
	for (unsigned i = 0; i < ARRAY_SIZE(columns); i++)
		fprintf(out, "  %*s", columns[i].width, columns[i].title);
	fputc('\n', out);
	for (size_t n = 0; n < json_array_size(results); n++) {
		const json_t *r = json_array_get(results, n);

		fprintf(out, "%-8s %-7s %-5s", text(r, "design"), text(r, "setup"), text(r, "pages"));
		for (unsigned i = 0; i < ARRAY_SIZE(columns); i++) {
			char v[32] = "-";

			if (at(r, columns[i].path))
				snprintf(v, sizeof(v), columns[i].format, number(r, columns[i].path));
			fprintf(out, "  %*s", columns[i].width, v);
		}
		fprintf(out, "%s%s\n", *text(r, "error") ? "  " : "", text(r, "error"));
	}
	if (json_is_true(json_object_get(report, "partial")))
		fprintf(out, "\npartial: %s\n", text(report, "why"));
	if (json_is_true(at(report, "trace.partial")))
		fputs("\npartial: what the trace was made from ended badly; what came then is not in it\n", out);
}

static const struct { const char *title, *path; } csv[] = {
	{"instructions", "instructions"}, {"accesses", "accesses"}, {"l1_misses", "l1_misses"},
	{"l2_misses", "l2_misses"}, {"walks", "translation.walks"}, {"refs", "translation.refs"},
	{"guest_refs", "translation.guest_refs"}, {"host_refs", "translation.host_refs"}, {"mean_refs", "mean_refs"},
	{"refs_max", "translation.refs_max"}, {"hits_l1", "translation.ref_hits.l1"},
	{"hits_l2", "translation.ref_hits.l2"}, {"hits_llc", "translation.ref_hits.llc"},
	{"hits_memory", "translation.ref_hits.memory"}, {"walk_cycles", "cycles.walks"},
	{"mean_walk_cycles", "cycles.mean_walk"}, {"exits", "exits.total"}, {"hypercalls", "hypercalls"},
	{"table_kib", "table_kib"}, {"total_cycles", "cycles.total"}, {"speedup_walk", "speedup.walk"},
	{"speedup", "speedup.total"},
};

void replay_print_csv(const json_t *report, FILE *out)
{
	const json_t *results = json_object_get(report, "results");

	fputs("design,setup,pages", out);
	for (unsigned i = 0; i < ARRAY_SIZE(csv); i++)
		fprintf(out, ",%s", csv[i].title);
	fputs(",partial\n", out);
	for (size_t n = 0; n < json_array_size(results); n++) {
		const json_t *r = json_array_get(results, n);

		fprintf(out, "%s,%s,%s", text(r, "design"), text(r, "setup"), text(r, "pages"));
		for (unsigned i = 0; i < ARRAY_SIZE(csv); i++)
			fprintf(out, at(r, csv[i].path) ? ",%.15g" : ",", number(r, csv[i].path));
		fprintf(out, ",%d\n", json_is_true(json_object_get(report, "partial")));
	}
}
