/*
 * Bhargava and others (ASPLOS 2008): what walks of nested paging cost, and what a
 * page-walk cache, a nested TLB and large nested pages take off. Their processor is
 * the description "bhargava"; each row takes something of it away. Not theirs: the
 * programs. We have none of their traces; a guest reads memory in three patterns.
 */
#include "lab/lab_vm.h"

#include <errno.h>
#include <stdlib.h>

#define GIB ((uint64_t)1 << 30)

enum way { NATIVE, NATIVE_PWC, NESTED, NTLB_ONLY, PWC_1D, PWC_2D_NO_LEAF, PWC_2D, PWC_NTLB, LARGE, WAYS };
static const struct {
	const char *id, *name;
	enum engine_mmu mmu;
	enum host_pages pages;
	bool guest, host, leaf, ntlb; /* what is cached */
} ways[WAYS] = {
	[NATIVE] = {"native", "native, no walk cache", ENGINE_NATIVE, HOST_PAGES_4K, false, false, false,
		    false},
	[NATIVE_PWC] = {"native-pwc", "native, PWC", ENGINE_NATIVE, HOST_PAGES_4K, true, false, false, false},
	[NESTED] = {"2d", "2D, no caches", ENGINE_EPT, HOST_PAGES_4K, false, false, false, false},
	[NTLB_ONLY] = {"2d-nt", "2D, nested TLB alone", ENGINE_EPT, HOST_PAGES_4K, false, false, false, true},
	[PWC_1D] = {"1d-pwc", "1D_PWC: guest entries only", ENGINE_EPT, HOST_PAGES_4K, true, false, false,
		    false},
	[PWC_2D_NO_LEAF] = {"2d-pwc-no-leaf", "2D_PWC without nested leaves", ENGINE_EPT, HOST_PAGES_4K, true,
			    true, false, false},
	[PWC_2D] = {"2d-pwc", "2D_PWC", ENGINE_EPT, HOST_PAGES_4K, true, true, true, false},
	[PWC_NTLB] = {"2d-pwc-nt", "2D_PWC + nested TLB", ENGINE_EPT, HOST_PAGES_4K, true, true, true, true},
	[LARGE] = {"2d-pwc-nt-2m", "the same, 2M nested pages", ENGINE_EPT, HOST_PAGES_2M, true, true, true,
		   true},
};

/*
 * Patterns. "program" is for speedups of programs: its work between reads was chosen so that it misses about as
 * often as the paper's programs, 18 to 294 times in 100,000 instructions. That is an input, not a result.
 */
enum pattern { RANDOM, SEQUENTIAL, PROGRAM, PATTERNS };
static const struct { const char *id, *name, *words; uint64_t reads, quick; } patterns[PATTERNS] = {
	[RANDOM] = {"random", "random reads of 256 MiB", "kib=262144", 50000, 4000},
	[SEQUENTIAL] = {"sequential", "pages of 64 MiB in order", "kib=65536 seq=1", 50000, 4000},
	[PROGRAM] = {"program", "skewed reads of 64 MiB with work between", "kib=65536 skew=5 work=100",
		     50000, 4000},
};

/* What one run came to. */
struct figures {
	double walks, refs, pwc_hits, pwc_misses, ntlb_hits; /* per read */
	double beyond_l2;                                    /* per read: references that missed the L2 cache */
	double misses_100k;                                  /* walks in 100,000 instructions */
	double latency;                                      /* cycles of a walk */
	double cycles, perfect;                              /* per read: in all, and without translation */
};

static const char why_count[] = "Counted; a walk without caches reads every entry, and so it is in the paper.";
static const char why_latency[] =
	"It would be 6 if all references cost the same, and falls as leaf entries, one of 4 natively and two "
	"of 24 nested, miss the L2 cache more than the rest. How much more depends on the program and on the "
	"cache; theirs are not ours.";
static const char why_density[] =
	"An input: the work between reads was chosen so that misses are about as frequent as in the paper's "
	"programs.";
static const char why_speedup[] =
	"The share of time in walks decides; our pattern has one data structure where their programs have "
	"many, and an instruction costs one cycle where theirs run on a model of the pipeline. The account "
	"also adds walks up that their processor overlaps with other work.";
static const char why_ntlb[] =
	"Lookups fall by what the nested TLB takes over: four nested entries of each guest level. The "
	"paper's figure is the same effect over its programs.";
static const char why_large[] =
	"A guest of 4K pages only: large nested pages save one level of each nested walk (behind a nested "
	"TLB one of 7 lookups), but no TLB miss, as entries stay 4K. The paper's systems used large pages in "
	"the guest, too, which 4K nested pages had splintered.";
static const char why_large_l2[] =
	"What is saved are the nested leaf entries. In 'random' they are many and miss; in 'program' next to "
	"all entries are in the L2 cache either way, and the rest is too small a number to compare.";

/* ---- running ---- */

static void make_task(struct lab_task *t, enum way w, enum pattern p, const struct hw *hw, bool quick)
{
	struct hw *own;

	lab_task_init(t, "chase", ways[w].mmu, hw);
	own = &t->cfg.engine.cpu.hw;
	own->walk_caches = ways[w].guest || ways[w].host ? HW_WALK_UNIFIED : HW_WALK_NONE;
	own->unified_guest = ways[w].guest;
	own->unified_host = ways[w].host;
	own->unified_host_leaf = ways[w].leaf;
	if (!ways[w].ntlb)
		own->nested_tlb = (struct hw_array){.entries = 0};
	t->cfg.engine.cpu.data_cache = true;
	t->cfg.engine.memory = 2 * GIB;
	t->cfg.engine.host_pages = ways[w].pages;
	t->what = ways[w].id;
	t->turns = quick ? patterns[p].quick : patterns[p].reads;
	snprintf(t->append, sizeof(t->append), "%s n=%llu", patterns[p].words, (unsigned long long)t->turns);
}

static double sum(const uint64_t *v, unsigned n)
{
	uint64_t all = 0;

	while (n)
		all += v[--n];
	return lab_number(all);
}

static void read_figures(const struct lab_task *t, struct figures *f)
{
	const struct obs *o = &t->count[0].obs;
	double walks = lab_number(o->translation.walks), hits;
	struct cost c;

	lab_cost(t, 0, &c);
	hits = sum(o->translation.guest_cache_hits, OBS_LEVELS) +
	       sum(o->translation.host_cache_hits, OBS_LEVELS);
	f->walks = lab_per_turn(t, walks);
	f->refs = lab_per_turn(t, lab_number(o->translation.refs));
	f->pwc_hits = lab_per_turn(t, hits);
	f->pwc_misses = lab_per_turn(t, lab_number(o->translation.guest_cache_misses)) +
			lab_per_turn(t, lab_number(o->translation.host_cache_misses));
	f->ntlb_hits = lab_per_turn(t, lab_number(o->translation.nested_tlb_hits));
	f->beyond_l2 = lab_per_turn(t, lab_number(o->translation.ref_hits[HW_LLC])) +
		       lab_per_turn(t, lab_number(o->translation.ref_hits[HW_MEMORY]));
	f->misses_100k = walks / lab_number(t->count[0].insns) * 1e5;
	f->latency = (c.walks + c.references + c.walk_caches) / walks;
	f->cycles = lab_per_turn(t, c.total);
	f->perfect = lab_per_turn(t, c.total - c.translation);
}

/* ---- showing ---- */

static void show(json_t *result, enum pattern p, const struct figures f[WAYS])
{
	char title[128];
	json_t *table;

	snprintf(title, sizeof(title), "%s: per walk, and cycles of a read in all", patterns[p].name);
	table = lab_table(result, patterns[p].id, title,
			  "misses/100k insns|references|PWC hits|NTLB hits|walk cycles|to native|read cycles");
	for (unsigned w = 0; w < WAYS; w++) {
		double v[] = {f[w].misses_100k, f[w].refs / f[w].walks, f[w].pwc_hits / f[w].walks,
			      f[w].ntlb_hits / f[w].walks, f[w].latency, f[w].latency / f[NATIVE].latency,
			      f[w].cycles};

		lab_row(table, ways[w].name, ARRAY_SIZE(v), v);
	}
}

static void compare(json_t *result, const char *id, const char *what, const char *unit, double ours,
		    double low, double high, const char *why)
{
	lab_compare(result, &(struct lab_line){id, what, unit, ours, low, high, why});
}

/* How much less @now is than @before, in percent. */
static double fewer(double before, double now) { return 100 * (1 - now / before); }
/* How much faster it is if it takes @now instead of @before. */
static double faster(double before, double now) { return 100 * (before / now - 1); }

static void compare_walks(json_t *result, struct figures f[PATTERNS][WAYS])
{
	const struct figures *r = f[RANDOM];

	compare(result, "refs.native", "references of a walk, native", "references",
		r[NATIVE].refs / r[NATIVE].walks, 4, LAB_NONE, why_count);
	compare(result, "refs.2d", "references of a 2D walk, no caches", "references",
		r[NESTED].refs / r[NESTED].walks, 24, LAB_NONE, why_count);
	/* Of a walk for each hit: 24 less what is read. */
	compare(result, "refs.ntlb", "references that a nested-TLB hit saves", "references",
		(r[NESTED].refs / r[NESTED].walks * r[NTLB_ONLY].walks - r[NTLB_ONLY].refs) /
			r[NTLB_ONLY].ntlb_hits, 4,
		LAB_NONE, why_count);
	for (unsigned p = 0; p < PATTERNS; p++) {
		char id[32], what[96];

		snprintf(id, sizeof(id), "latency.%s", patterns[p].id);
		snprintf(what, sizeof(what), "walk, 2D to native, no caches: %s", patterns[p].id);
		compare(result, id, what, "times", f[p][NESTED].latency / f[p][NATIVE].latency, 3.90, 4.57,
			why_latency);
	}
}

static void compare_program(json_t *result, const struct figures f[WAYS])
{
	const struct figures *n = &f[NATIVE], *d = &f[NESTED];

	compare(result, "density", "misses in 100,000 instructions", "misses", n->misses_100k, 18.2, 294.3,
		why_density);
	compare(result, "perfect.native", "gain of a perfect TLB, native", "%", faster(n->cycles, n->perfect),
		4.7, 14.0, why_speedup);
	compare(result, "perfect.2d", "gain of a perfect TLB, 2D, no caches", "%",
		faster(d->cycles, d->perfect), 27.5, 89.0, why_speedup);
	compare(result, "gain.2d-pwc", "gain of 2D_PWC", "%", faster(d->cycles, f[PWC_2D].cycles), 18, 38,
		why_speedup);
	compare(result, "gain.ntlb", "further gain of the nested TLB", "%",
		faster(f[PWC_2D].cycles, f[PWC_NTLB].cycles), 3.2, 7.3, why_speedup);
	compare(result, "gain.both", "gain of both", "%", faster(d->cycles, f[PWC_NTLB].cycles), 18, 45,
		why_speedup);
	compare(result, "gain.large", "further gain of 2M nested pages", "%",
		faster(f[PWC_NTLB].cycles, f[LARGE].cycles), 3, 22, why_large);
	compare(result, "native.large", "then slower than native by", "%",
		faster(f[LARGE].cycles, f[NATIVE_PWC].cycles), 7, 14, why_large);
}

static void compare_caches(json_t *result, const struct figures f[WAYS])
{
	const struct figures *p = &f[PWC_2D], *n = &f[PWC_NTLB], *l = &f[LARGE];

	compare(result, "ntlb.pwc-lookups", "PWC lookups saved by the nested TLB", "%",
		fewer(p->pwc_hits + p->pwc_misses, n->pwc_hits + n->pwc_misses), 67, LAB_NONE, why_ntlb);
	compare(result, "ntlb.pwc-misses", "PWC misses saved by the nested TLB", "%",
		fewer(p->pwc_misses, n->pwc_misses), 23, LAB_NONE, why_ntlb);
	compare(result, "large.tlb-misses", "2M nested: TLB misses saved", "%", fewer(n->walks, l->walks), 21,
		43, why_large);
	compare(result, "large.pwc-lookups", "2M nested: PWC lookups saved", "%",
		fewer(n->pwc_hits + n->pwc_misses, l->pwc_hits + l->pwc_misses), 38, 55.5, why_large);
}

static void compare_l2(json_t *result, struct figures f[PATTERNS][WAYS])
{
	static const enum pattern shown[] = {RANDOM, PROGRAM};

	for (unsigned i = 0; i < ARRAY_SIZE(shown); i++) {
		const struct figures *of = f[shown[i]];
		char id[48], what[96];

		snprintf(id, sizeof(id), "large.beyond-l2.%s", patterns[shown[i]].id);
		snprintf(what, sizeof(what), "2M nested: entries' L2-cache misses saved, %s",
			 patterns[shown[i]].id);
		compare(result, id, what, "%", fewer(of[PWC_NTLB].beyond_l2, of[LARGE].beyond_l2), 60, 64.7,
			why_large_l2);
	}
}

static int run(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	struct figures f[PATTERNS][WAYS];
	struct lab_task *t = calloc(PATTERNS * WAYS, sizeof(*t));
	int ret;

	if (!t)
		return error_set(err, -ENOMEM, "out of memory");
	if (hw->walk_caches != HW_WALK_UNIFIED || !hw->nested_tlb.entries) {
		free(t);
		return error_set(err, -EINVAL,
				 "bhargava: the description '%s' has no unified walk cache and nested TLB to "
					       "take away (see gnomon hw show bhargava)", hw->name);
	}
	for (unsigned p = 0; p < PATTERNS; p++)
		for (unsigned w = 0; w < WAYS; w++)
			make_task(&t[p * WAYS + w], (enum way)w, (enum pattern)p, hw, o->quick);
	ret = lab_run_tasks(o, t, PATTERNS * WAYS, err);
	for (unsigned i = 0; ret == 0 && i < PATTERNS * WAYS; i++)
		read_figures(&t[i], &f[i / WAYS][i % WAYS]);
	free(t);
	if (ret)
		return ret;
	for (unsigned p = 0; p < PATTERNS; p++)
		show(result, (enum pattern)p, f[p]);
	compare_walks(result, f);
	compare_program(result, f[PROGRAM]);
	compare_caches(result, f[PROGRAM]);
	compare_l2(result, f);
	lab_note(result, "A range is over the paper's groups of programs; a ratio of 1 means that ours lies "
			 "within. Gains are of the pattern 'program', by the cost account. Data go through "
			 "the modelled caches, too.");
	return 0;
}

const struct lab lab_bhargava = {
	"bhargava", "two-dimensional walks: references and cost with walk cache, nested TLB, large nested pages",
	"Bhargava, Serebrin, Spadini, Manne: Accelerating Two-Dimensional Page Walks for Virtualized Systems, "
	"ASPLOS 2008",
	"bhargava", false, false, run, false};
