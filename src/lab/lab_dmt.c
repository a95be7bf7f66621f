/*
 * Direct translation (DMT, ASPLOS 2024): what page walks and whole programs gain natively, virtualized and nested.
 * In the full machine each design is executed with a guest kernel that keeps its tables in areas, at 64 MiB. Gains are
 * compared with the paper's, whose programs have 100 GB and more, over a footprint of 32 GiB (lab/footprint.h), whose
 * leaf tables no cache holds. One column is no design: radix without walk caches for the host's stage.
 */
#include "lab/lab_designs.h"

enum { NATIVE, NATIVE_DMT, NESTED_RADIX, DMT, PVDMT, TWICE_RADIX, TWICE_PVDMT, DESIGNS, BARE_RADIX = DESIGNS, FAR_DESIGNS };
static const struct lab_design designs[FAR_DESIGNS] = {
	[NATIVE] = {"native", ENGINE_NATIVE, "plain", OSM_PLAIN, false},
	[NATIVE_DMT] = {"native DMT", ENGINE_NATIVE_DMT, "dmt", OSM_DMT, false},
	[NESTED_RADIX] = {"virt radix", ENGINE_EPT, "plain", OSM_PLAIN, false},
	[DMT] = {"virt DMT", ENGINE_DMT, "dmt", OSM_DMT, false},
	[PVDMT] = {"virt pvDMT", ENGINE_PVDMT, "pvdmt", OSM_PVDMT, false},
	[TWICE_RADIX] = {"nested radix", ENGINE_NESTED, "plain", OSM_PLAIN, false},
	[TWICE_PVDMT] = {"nested pvDMT", ENGINE_NESTED_PVDMT, "pvdmt", OSM_PVDMT, false},
	[BARE_RADIX] = {"radix, bare host", ENGINE_EPT, "plain", OSM_PLAIN, true},
};

static double refs(const struct lab_figures *f) { return f->refs; }
static double latency(const struct lab_figures *f) { return f->latency; }
static double cycles(const struct lab_figures *f) { return f->cycles; }
static double overhead(const struct lab_figures *f) { return 100 * f->overhead; }
static double fallbacks(const struct lab_figures *f) { return 100 * f->fallbacks; }

static const struct lab_pair pairs[] = {
	{"native: walks", NATIVE, NATIVE_DMT, latency},
	{"programs", NATIVE, NATIVE_DMT, cycles},
	{"DMT: walks", NESTED_RADIX, DMT, latency},
	{"programs", NESTED_RADIX, DMT, cycles},
	{"pvDMT: walks", NESTED_RADIX, PVDMT, latency},
	{"programs", NESTED_RADIX, PVDMT, cycles},
	{"nested: walks", TWICE_RADIX, TWICE_PVDMT, latency},
	{"programs", TWICE_RADIX, TWICE_PVDMT, cycles},
};

/* @id: before the tables' names; @where: before their titles */
static void show(json_t *result, const struct lab_designs *d, enum lab_pages p, const char *id, const char *where)
{
	static const struct { const char *name, *title; lab_figure figure; } of[] = {
		{"refs", "References of a walk", refs},
		{"latency", "Modelled cycles of a walk", latency},
		{"overhead", "Walks, % of all cycles", overhead},
		{"fallbacks", "Walks that no register ended, %", fallbacks},
	};
	char name[64], title[128];

	for (unsigned i = 0; i < ARRAY_SIZE(of); i++) {
		snprintf(name, sizeof(name), "%s%s", id, of[i].name);
		snprintf(title, sizeof(title), "%s%s", where, of[i].title);
		lab_designs_table(result, d, p, name, title, of[i].figure);
	}
	snprintf(name, sizeof(name), "%splaces", id);
	snprintf(title, sizeof(title), "%sWhere the references of a walk hit", where);
	lab_designs_places(result, d, p, name, title);
	snprintf(name, sizeof(name), "%sgains", id);
	snprintf(title, sizeof(title), "%sTimes as fast as radix", where);
	lab_designs_gains(result, d, p, name, title, pairs, ARRAY_SIZE(pairs));
}

static void compare(json_t *result, const char *id, enum lab_pages p, const char *what, double ours, double paper,
		    const char *why)
{
	char name[64], text[128];

	snprintf(name, sizeof(name), "%s.%s", id, lab_pages_name[p]);
	snprintf(text, sizeof(text), "%s, %s pages", what, p == LAB_LARGE ? "2M" : "4K");
	lab_compare(result, &(struct lab_line){name, text, "times", ours, paper, LAB_NONE, why});
}

/* The two lines that the paper has, over a footprint that is nearer to its. */
static void compare_virtualized(json_t *result, const struct lab_designs *d, enum lab_pages p)
{
	char why[1024], app[640], radix[128], pv[128];
	double share = lab_designs_mean(d, p, NESTED_RADIX, overhead);

	lab_designs_say_places(d, p, NESTED_RADIX, radix, sizeof(radix));
	lab_designs_say_places(d, p, PVDMT, pv, sizeof(pv));
	snprintf(why, sizeof(why),
		 "Measured: nested radix makes %.2f references a walk (%s) and takes %.0f cycles; pvDMT makes %.2f (%s) and takes "
		 "%.0f. What pvDMT leaves out are entries of upper levels, which are near; the leaf entries of guest and host, "
		 "which are far, both read. That bounds the gain: without any walk cache for the host's stage radix takes %.0f "
		 "cycles, %.2f times pvDMT's. The paper's figures are sums of steps of a simulated nested walk. As the artifact's "
		 "source reads, the last four of these never ask a walk cache, an entry that the same cache gave last is not "
		 "found in it, and large pages are the walks of small ones less a level.",
		 lab_designs_mean(d, p, NESTED_RADIX, refs), radix, lab_designs_mean(d, p, NESTED_RADIX, latency),
		 lab_designs_mean(d, p, PVDMT, refs), pv, lab_designs_mean(d, p, PVDMT, latency),
		 lab_designs_mean(d, p, BARE_RADIX, latency), lab_designs_gain(d, p, BARE_RADIX, PVDMT, latency));
	snprintf(app, sizeof(app),
		 "Measured: walks are %.0f %% of the cycles under nested radix, %.0f to %.0f %% by program, and only that can be gained. "
		 "No access overlaps with another here, so data take more, and walks a smaller share, than on the paper's processor.",
		 share, lab_designs_least(d, p, NESTED_RADIX, overhead), lab_designs_most(d, p, NESTED_RADIX, overhead));
	compare(result, "walk.pvdmt", p, "walks: pvDMT over nested radix",
		lab_designs_gain(d, p, NESTED_RADIX, PVDMT, latency), p == LAB_LARGE ? 1.65 : 1.58, why);
	compare(result, "app.pvdmt", p, "programs: pvDMT over nested radix",
		lab_designs_gain(d, p, NESTED_RADIX, PVDMT, cycles), p == LAB_LARGE ? 1.14 : 1.20, app);
	compare(result, "walk.dmt", p, "walks: DMT over nested radix", lab_designs_gain(d, p, NESTED_RADIX, DMT, latency),
		LAB_NONE, why);
	compare(result, "app.dmt", p, "programs: DMT over nested radix", lab_designs_gain(d, p, NESTED_RADIX, DMT, cycles),
		LAB_NONE, app);
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

static const char why_near[] =
	"In the full machine, 64 MiB: what walk caches and L2 hold of such tables leaves little to gain, and placing tables "
	"takes instructions. Large pages of such footprints are within the TLB's reach.";

static void compare_near(json_t *result, const struct lab_designs *d, enum lab_pages p)
{
	compare(result, "near.walk.pvdmt", p, "64 MiB, walks: pvDMT over nested radix",
		lab_designs_gain(d, p, NESTED_RADIX, PVDMT, latency), LAB_NONE, why_near);
	compare(result, "near.walk.dmt", p, "64 MiB, walks: DMT over nested radix",
		lab_designs_gain(d, p, NESTED_RADIX, DMT, latency), LAB_NONE, why_near);
	compare(result, "near.app.pvdmt", p, "64 MiB, programs: pvDMT over nested radix",
		lab_designs_gain(d, p, NESTED_RADIX, PVDMT, cycles), LAB_NONE, why_near);
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

static int run_machine(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	struct lab_designs d;
	int ret = lab_designs_run(&d, o, hw, designs, DESIGNS, LAB_FROM_DATA, true, err);

	if (ret)
		return ret;
	for (unsigned p = 0; p < LAB_PAGES; p++)
		show(result, &d, (enum lab_pages)p, "", "");
	compare_refs(result, &d);
	for (unsigned p = 0; p < LAB_PAGES; p++)
		compare_near(result, &d, (enum lab_pages)p);
	lab_designs_free(&d);
	return 0;
}

static int run(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	struct lab_designs d;
	char size[32], where[64];
	int ret = run_machine(o, hw, result, err);

	if (ret == 0)
		ret = lab_designs_run_footprint(&d, o, hw, designs, FAR_DESIGNS, err);
	if (ret)
		return ret;
	for (unsigned p = 0; p < LAB_PAGES; p++) {
		lab_designs_say_footprint(o, (enum lab_pages)p, size, sizeof(size));
		snprintf(where, sizeof(where), "Footprint of %s: ", size);
		show(result, &d, (enum lab_pages)p, "far.", where);
	}
	for (unsigned p = 0; p < LAB_PAGES; p++) {
		compare_virtualized(result, &d, (enum lab_pages)p);
		compare_others(result, &d, (enum lab_pages)p);
	}
	lab_note(result, "Averages are of the workloads' ratios. Data go through the modelled caches, too. Each design's own "
			 "accesses are executed, none is computed.");
	lab_designs_free(&d);
	return 0;
}

const struct lab lab_dmt = {
	"dmt", "direct translation: walks and programs with DMT and pvDMT, natively, virtualized, nested",
	"Direct Memory Translation for Virtualized Clouds, ASPLOS 2024", "skylake", false, false, run, true};
