/*
 * Direct translation (DMT, ASPLOS 2024): what page walks and whole programs gain natively, virtualized and nested.
 * Each design is executed in the full machine, with a guest kernel that keeps its tables in areas. Not the paper's: the
 * size of everything. Its programs have 100 GB and more; ours have 64 MiB, so far more of their tables lie in caches.
 */
#include "lab/lab_designs.h"

enum { NATIVE, NATIVE_DMT, NESTED_RADIX, DMT, PVDMT, TWICE_RADIX, TWICE_PVDMT, DESIGNS };
static const struct lab_design designs[DESIGNS] = {
	[NATIVE] = {"native", ENGINE_NATIVE, "plain"},
	[NATIVE_DMT] = {"native DMT", ENGINE_NATIVE_DMT, "dmt"},
	[NESTED_RADIX] = {"virt radix", ENGINE_EPT, "plain"},
	[DMT] = {"virt DMT", ENGINE_DMT, "dmt"},
	[PVDMT] = {"virt pvDMT", ENGINE_PVDMT, "pvdmt"},
	[TWICE_RADIX] = {"nested radix", ENGINE_NESTED, "plain"},
	[TWICE_PVDMT] = {"nested pvDMT", ENGINE_NESTED_PVDMT, "pvdmt"},
};

static double refs(const struct lab_figures *f) { return f->refs; }
static double latency(const struct lab_figures *f) { return f->latency; }
static double cycles(const struct lab_figures *f) { return f->cycles; }
static double overhead(const struct lab_figures *f) { return 100 * f->overhead; }
static double near(const struct lab_figures *f) { return 100 * f->near; }
static double fallbacks(const struct lab_figures *f) { return 100 * f->fallbacks; }

static void show(json_t *result, const struct lab_designs *d, enum lab_pages p)
{
	lab_designs_table(result, d, p, "refs", "References of a walk", refs);
	lab_designs_table(result, d, p, "latency", "Modelled cycles of a walk", latency);
	lab_designs_table(result, d, p, "overhead", "Walks, % of all cycles", overhead);
	lab_designs_table(result, d, p, "fallbacks", "Walks that no register ended, %", fallbacks);
}

static void compare(json_t *result, const char *id, enum lab_pages p, const char *what, double ours, double paper,
		    const char *why)
{
	char name[64], text[128];

	snprintf(name, sizeof(name), "%s.%s", id, lab_pages_name[p]);
	snprintf(text, sizeof(text), "%s, %s pages", what, p == LAB_LARGE ? "2M" : "4K");
	lab_compare(result, &(struct lab_line){name, text, "times", ours, paper, LAB_NONE, why});
}

static void compare_virtualized(json_t *result, const struct lab_designs *d, enum lab_pages p)
{
	char why[640], app[512];

	snprintf(why, sizeof(why),
		 "Measured: nested radix makes %.1f references a walk, as walk caches leave them, %.0f %% of them hit in L1 or L2, "
		 "and takes %.0f cycles; pvDMT makes %.1f, %.0f %% of them there, and takes %.0f with its registers. No register "
		 "ended %.1f %% of its walks. Tables of programs of 100 GB lie in no cache; the walk caches reach less of them.",
		 lab_designs_mean(d, p, NESTED_RADIX, refs), lab_designs_mean(d, p, NESTED_RADIX, near),
		 lab_designs_mean(d, p, NESTED_RADIX, latency), lab_designs_mean(d, p, PVDMT, refs),
		 lab_designs_mean(d, p, PVDMT, near), lab_designs_mean(d, p, PVDMT, latency),
		 lab_designs_mean(d, p, PVDMT, fallbacks));
	snprintf(app, sizeof(app),
		 "Walks are %.1f %% of the cycles under nested radix here, and only that can be gained; large pages of such "
		 "footprints are within the TLB's reach and leave next to none. Placing tables takes instructions, too.",
		 lab_designs_mean(d, p, NESTED_RADIX, overhead));
	compare(result, "walk.pvdmt", p, "walks: pvDMT over nested radix",
		lab_designs_gain(d, p, NESTED_RADIX, PVDMT, latency), p == LAB_LARGE ? 1.65 : 1.58, why);
	compare(result, "app.pvdmt", p, "programs: pvDMT over nested radix",
		lab_designs_gain(d, p, NESTED_RADIX, PVDMT, cycles), p == LAB_LARGE ? 1.14 : 1.20, app);
	compare(result, "walk.dmt", p, "walks: DMT over nested radix", lab_designs_gain(d, p, NESTED_RADIX, DMT, latency),
		LAB_NONE, why);
}

static const char why_others[] =
	"No average is published that could be had; the artifact claims more than 1 natively, and for nested "
	"virtualization that programs gain while walks may not.";

static void compare_others(json_t *result, const struct lab_designs *d, enum lab_pages p)
{
	compare(result, "walk.native", p, "walks: native DMT over radix", lab_designs_gain(d, p, NATIVE, NATIVE_DMT, latency),
		LAB_NONE, why_others);
	compare(result, "app.native", p, "programs: native DMT over radix", lab_designs_gain(d, p, NATIVE, NATIVE_DMT, cycles),
		LAB_NONE, why_others);
	compare(result, "walk.nested", p, "walks: pvDMT over radix, two hypervisors",
		lab_designs_gain(d, p, TWICE_RADIX, TWICE_PVDMT, latency), LAB_NONE, why_others);
	compare(result, "app.nested", p, "programs: pvDMT over radix, two hypervisors",
		lab_designs_gain(d, p, TWICE_RADIX, TWICE_PVDMT, cycles), LAB_NONE, why_others);
}

static const char why_refs[] =
	"Counted, over all walks. Those of the kernel and of code have no register; walk caches begin them below the root.";

/* 'gups' has next to no walks but those of its table, which a register covers. */
static void compare_refs(json_t *result, const struct lab_designs *d)
{
	static const struct { const char *id, *what; unsigned design; double paper; } line[] = {
		{"refs.native", "references, native DMT: gups", NATIVE_DMT, 1},
		{"refs.dmt", "references, DMT: gups", DMT, 3},
		{"refs.pvdmt", "references, pvDMT: gups", PVDMT, 2},
		{"refs.nested", "references, pvDMT, two hypervisors: gups", TWICE_PVDMT, 3},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(line); i++) {
		double ours = lab_designs_figures(d, LAB_SMALL, 0, line[i].design)->refs;

		lab_compare(result, &(struct lab_line){line[i].id, line[i].what, "references", ours, line[i].paper, LAB_NONE,
						       why_refs});
	}
}

static int run(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	struct lab_designs d;
	int ret = lab_designs_run(&d, o, hw, designs, DESIGNS, LAB_FROM_DATA, true, err);

	if (ret)
		return ret;
	for (unsigned p = 0; p < LAB_PAGES; p++)
		show(result, &d, (enum lab_pages)p);
	compare_refs(result, &d);
	for (unsigned p = 0; p < LAB_PAGES; p++) {
		compare_virtualized(result, &d, (enum lab_pages)p);
		compare_others(result, &d, (enum lab_pages)p);
	}
	lab_note(result, "Averages are of the workloads' ratios. Data go through the modelled caches, too. The paper's "
			 "figures were computed: steps of a nested walk, as simulated, that the design would leave out; here each "
			 "design's own accesses are executed.");
	lab_designs_free(&d);
	return 0;
}

const struct lab lab_dmt = {
	"dmt", "direct translation: walks and programs with DMT and pvDMT, natively, virtualized, nested",
	"Direct Memory Translation for Virtualized Clouds, ASPLOS 2024", "skylake", false, false, run};
