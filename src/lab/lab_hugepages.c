/*
 * Page sizes on either side of nested paging: how many entries a walk reads, and how
 * far the TLB reaches. Walks are counted with a page flushed before each read, so
 * every read walks; misses with random reads of regions of several sizes.
 */
#include "lab/lab_vm.h"

#include <errno.h>
#include <stdlib.h>

#define GIB ((uint64_t)1 << 30)

enum { SIZES = 3 };
static const char *const size_name[SIZES] = {"4K", "2M", "1G"};
static const unsigned size_shift[SIZES] = {12, 21, 30};
static const enum host_pages host_size[SIZES] = {HOST_PAGES_4K, HOST_PAGES_2M, HOST_PAGES_1G};

/* A kind of address space: page sizes as indexes of size_name. */
struct space {
	char label[40];
	int guest, host;         /* host -1: native */
	bool guest5, host5;      /* five levels */
};
#define SPACES_MAX 16

/* Levels that a walk of one dimension goes through. */
static unsigned levels(int size, bool five) { return (five ? 5u : 4u) - (unsigned)size; }

/* nm + n + m, or n natively. */
static double formula(const struct space *s)
{
	unsigned n = levels(s->guest, s->guest5), m;

	if (s->host < 0)
		return n;
	m = levels(s->host, s->host5);
	return n * m + n + m;
}

static const char why_refs[] =
	"Every walk reads every entry: n of the guest's tables, m of the hypervisor's for each of them and "
	"for the final address. The figures are counted in walks that were made; the paper's are its "
	"formula.";
static const char why_cached[] =
	"The paper's formula is that of a walk without caches, and this description has some: a walk may "
	"begin below the root. (INVLPG before each read drops what they hold of the guest's tables.)";
static const char why_reach[] =
	"No paper: each of our page sizes was run. A TLB entry maps the smaller of the two pages, so what "
	"counts is the smaller size, whichever side it is on.";

static void name_space(struct space *s)
{
	static const char *const levels_text[2][2] = {{"", ", host 5 levels"}, {", 5 levels", ", 5 levels in both"}};
	const char *five = levels_text[s->guest5][s->host5];

	if (s->host < 0)
		snprintf(s->label, sizeof(s->label), "native %s%s", size_name[s->guest], five);
	else
		snprintf(s->label, sizeof(s->label), "guest %s, host %s%s", size_name[s->guest],
			 size_name[s->host], five);
}

/* All sizes natively, all pairs, and five levels. Returns how many. */
static unsigned make_spaces(struct space s[SPACES_MAX])
{
	unsigned n = 0;

	for (int g = 0; g < SIZES; g++)
		s[n++] = (struct space){.guest = g, .host = -1};
	for (int g = 0; g < SIZES; g++)
		for (int h = 0; h < SIZES; h++)
			s[n++] = (struct space){.guest = g, .host = h};
	s[n++] = (struct space){.host = -1, .guest5 = true};
	s[n++] = (struct space){.guest5 = true};
	s[n++] = (struct space){.host5 = true};
	s[n++] = (struct space){.guest5 = true, .host5 = true};
	for (unsigned i = 0; i < n; i++)
		name_space(&s[i]);
	return n;
}

static int make_task(struct lab_task *t, const struct space *s, const struct hw *hw, uint64_t kib, bool flush,
		     uint64_t reads, struct error *err)
{
	lab_task_init(t, "chase", s->host < 0 ? ENGINE_NATIVE : ENGINE_EPT, hw);
	t->cfg.engine.memory = 2 * GIB;
	t->cfg.engine.host_pages = s->host < 0 ? HOST_PAGES_4K : host_size[s->host];
	t->cfg.engine.cpu.maxphyaddr = s->host5 ? 52 : 46; /* EPT has five levels where addresses may need them */
	t->what = s->label;
	t->turns = reads;
	snprintf(t->append, sizeof(t->append), "page=%u kib=%llu n=%llu flush=%d%s", size_shift[s->guest],
		 (unsigned long long)kib, (unsigned long long)reads, flush, s->guest5 ? " la57" : "");
	return s->guest5 || s->host5 ? cpu_config_parse(&t->cfg.engine.cpu, "+la57", err) : 0;
}

/* ---- references ---- */

static void show_refs(json_t *result, const struct space *s, const struct lab_task *t, unsigned n,
		      bool cached)
{
	json_t *table = lab_table(result, "references", "References of a walk, counted",
				  "walks a read|references a walk|guest's|hypervisor's");

	for (unsigned i = 0; i < n; i++) {
		const struct obs *o = &t[i].count[0].obs;
		double walks = lab_number(o->translation.walks);
		double v[4] = {lab_per_turn(&t[i], walks), lab_number(o->translation.refs) / walks,
			       lab_number(o->translation.guest_refs) / walks,
			       lab_number(o->translation.host_refs) / walks};
		char id[64];

		lab_row(table, s[i].label, 4, v);
		snprintf(id, sizeof(id), "refs.%u", i);
		lab_compare(result, &(struct lab_line){id, s[i].label, "references", v[1], formula(&s[i]),
						       LAB_NONE, cached ? why_cached : why_refs});
	}
}

static int run_refs(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	struct space s[SPACES_MAX];
	unsigned n = make_spaces(s);
	struct lab_task *t = calloc(n, sizeof(*t));
	int ret = t ? 0 : error_set(err, -ENOMEM, "out of memory");

	for (unsigned i = 0; i < n && ret == 0; i++)
		ret = make_task(&t[i], &s[i], hw, 1024, true, o->quick ? 500 : 5000, err);
	if (ret == 0)
		ret = lab_run_tasks(o, t, n, err);
	if (ret == 0)
		show_refs(result, s, t, n, hw->walk_caches != HW_WALK_NONE || hw->nested_tlb.entries);
	free(t);
	return ret;
}

/* ---- reach ---- */

#define REGIONS_MAX 3
static const uint64_t region_kib[REGIONS_MAX] = {4 << 10, 32 << 10, 256 << 10};

static const struct lab_task *task_of(const struct lab_task *t, unsigned regions, unsigned space,
				      unsigned region)
{
	return &t[space * regions + region];
}

static void show_reach(json_t *result, const struct space *s, unsigned spaces, const struct lab_task *t,
		       unsigned regions)
{
	json_t *walks = lab_table(result, "walks", "Walks per random read (misses of both TLB levels)",
				  regions > 2 ? "4 MiB|32 MiB|256 MiB" : "4 MiB|32 MiB");
	json_t *l1 = lab_table(result, "l1-misses", "First-level misses per random read",
			       regions > 2 ? "4 MiB|32 MiB|256 MiB" : "4 MiB|32 MiB");
	json_t *splintered = lab_table(result, "splintered",
				       "Entries of either level smaller than the guest's page, per random read",
				       regions > 2 ? "4 MiB|32 MiB|256 MiB" : "4 MiB|32 MiB");

	lab_table_unit(walks, "walks a read");
	lab_table_unit(l1, "misses a read");
	lab_table_unit(splintered, "entries a read");
	for (unsigned i = 0; i < spaces; i++) {
		double w[REGIONS_MAX], m[REGIONS_MAX], p[REGIONS_MAX];

		for (unsigned r = 0; r < regions; r++) {
			const struct lab_task *task = task_of(t, regions, i, r);
			const struct obs *o = &task->count[0].obs;

			w[r] = lab_per_turn(task, lab_number(o->translation.walks));
			m[r] = lab_per_turn(task, lab_number(o->translation.l1d_misses));
			p[r] = lab_per_turn(task, lab_number(o->translation.splintered));
		}
		lab_row(walks, s[i].label, regions, w);
		lab_row(l1, s[i].label, regions, m);
		lab_row(splintered, s[i].label, regions, p);
	}
}

static void compare_reach(json_t *result, const struct lab_task *t, unsigned regions)
{
	/* Spaces in order of make_spaces(): 4K/4K is the fourth; 2M/4K, 4K/2M, 2M/2M. */
	static const struct { const char *id, *what; unsigned space; } line[] = {
		{"walks.4k-4k", "walks per read of 32 MiB: guest 4K, host 4K", 3},
		{"walks.4k-2m", "walks per read of 32 MiB: guest 4K, host 2M", 4},
		{"walks.2m-4k", "walks per read of 32 MiB: guest 2M, host 4K (splintered)", 6},
		{"walks.2m-2m", "walks per read of 32 MiB: guest 2M, host 2M", 7},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(line); i++) {
		const struct lab_task *task = task_of(t, regions, line[i].space, 1);

		lab_compare(result, &(struct lab_line){
			line[i].id, line[i].what, "walks", lab_per_turn(task,
									lab_number(task->count[0].obs.translation.walks)),
			LAB_NONE, LAB_NONE, why_reach});
	}
}

static int run_reach(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	struct space s[SPACES_MAX];
	unsigned spaces = 12, regions = o->quick ? 2 : REGIONS_MAX; /* without five levels */
	struct lab_task *t = calloc((size_t)spaces * regions, sizeof(*t));
	int ret = t ? 0 : error_set(err, -ENOMEM, "out of memory");

	make_spaces(s);
	for (unsigned i = 0; i < spaces && ret == 0; i++)
		for (unsigned r = 0; r < regions && ret == 0; r++)
			ret = make_task(&t[i * regions + r], &s[i], hw, region_kib[r], false,
					o->quick ? 5000 : 50000, err);
	if (ret == 0)
		ret = lab_run_tasks(o, t, spaces * regions, err);
	if (ret == 0) {
		show_reach(result, s, spaces, t, regions);
		compare_reach(result, t, regions);
	}
	free(t);
	return ret;
}

static int run(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	int ret = run_refs(o, hw, result, err);

	return ret ? ret : run_reach(o, hw, result, err);
}

const struct lab lab_hugepages = {
	"hugepages", "4K, 2M and 1G pages on each side of nested paging: references and reach",
	"Bhargava, Serebrin, Spadini, Manne: Accelerating Two-Dimensional Page Walks for Virtualized Systems, "
	"ASPLOS 2008",
	"textbook", false, false, run, false};
