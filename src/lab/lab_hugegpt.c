/*
 * HugeGPT: the guest's page tables lie in pages that the host maps by 2 MiB, so that each of the four translations of
 * where a table lies is one entry shorter. Their experiment is two by two, page tables in small or large host pages,
 * data in small or large pages; that is made here, once without walk caches, where references are the design's, and once
 * with those of the description, in the full machine and over a footprint larger than caches. Not theirs: the programs
 * and their size.
 */
#include "lab/lab_designs.h"

enum { RADIX, HUGEGPT, DESIGNS };
static const struct lab_design designs[DESIGNS] = {
	[RADIX] = {"radix", ENGINE_EPT, "plain", OSM_PLAIN, false},
	[HUGEGPT] = {"HugeGPT", ENGINE_HUGEGPT, "hugegpt", OSM_HUGEGPT, false},
};

static double refs(const struct lab_figures *f) { return f->refs; }
static double latency(const struct lab_figures *f) { return f->latency; }
static double cycles(const struct lab_figures *f) { return f->cycles; }
static double overhead(const struct lab_figures *f) { return 100 * f->overhead; }
static double requests(const struct lab_figures *f) { return f->requests; }

static const char why_refs[] =
	"Counted, without walk caches: 4 * (4 + 1) + 4 and 4 * (3 + 1) + 4. What is less than the formula's are walks that "
	"found the guest's page to be a large one (the kernel's own memory).";
static const char why_large[] =
	"Data in large pages on both sides: 3 * (3 + 1) + 3. They leave next to no walks; what was counted are the walks of "
	"what stays in 4K pages, the program's text and stack, which take 19 under a host that maps by 2 MiB.";
static int run_textbook(const struct lab_options *o, json_t *result, struct error *err)
{
	struct lab_designs d;
	struct hw hw;
	int ret = hw_load(&hw, "textbook", err);

	if (ret == 0)
		ret = lab_designs_run(&d, o, &hw, designs, DESIGNS, LAB_FROM_DATA, false, err);
	if (ret)
		return ret;
	for (unsigned p = 0; p < LAB_PAGES; p++)
		lab_designs_table(result, &d, (enum lab_pages)p, "textbook", "References of a walk without walk caches", refs);
	lab_compare(result, &(struct lab_line){"refs.radix", "references of a walk, radix: gups", "references",
					       lab_designs_figures(&d, LAB_SMALL, 0, RADIX)->refs, 24, LAB_NONE, why_refs});
	lab_compare(result, &(struct lab_line){"refs.hugegpt", "references of a walk, HugeGPT: gups", "references",
					       lab_designs_figures(&d, LAB_SMALL, 0, HUGEGPT)->refs, 20, LAB_NONE, why_refs});
	lab_compare(result, &(struct lab_line){"refs.large", "references, HugeGPT, 2M pages: mean", "references",
					       lab_designs_mean(&d, LAB_LARGE, HUGEGPT, refs), 15, LAB_NONE, why_large});
	lab_designs_free(&d);
	return 0;
}

static void gain(json_t *result, const struct lab_designs *d, enum lab_pages p, const char *id, const char *where,
		 const char *what, lab_figure figure)
{
	char name[64], text[128], why[640], radix[128], huge[128];

	lab_designs_say_places(d, p, RADIX, radix, sizeof(radix));
	lab_designs_say_places(d, p, HUGEGPT, huge, sizeof(huge));
	snprintf(why, sizeof(why),
		 "No number is published in what could be had of the paper. Measured: radix makes %.2f references a walk (%s), "
		 "HugeGPT %.2f (%s). The entries that HugeGPT takes out are those that say where a table of the guest lies.",
		 lab_designs_mean(d, p, RADIX, refs), radix, lab_designs_mean(d, p, HUGEGPT, refs), huge);
	snprintf(name, sizeof(name), "%s.%s", id, lab_pages_name[p]);
	snprintf(text, sizeof(text), "%s: HugeGPT over radix, %s, %s pages", what, where, p == LAB_LARGE ? "2M" : "4K");
	lab_compare(result, &(struct lab_line){name, text, "times", lab_designs_gain(d, p, RADIX, HUGEGPT, figure), LAB_NONE,
					       LAB_NONE, why});
}

static int run_footprint(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	struct lab_designs d;
	int ret = lab_designs_run_footprint(&d, o, hw, designs, DESIGNS, err);
	char where[32], title[96];

	if (ret)
		return ret;
	for (unsigned p = 0; p < LAB_PAGES; p++) {
		enum lab_pages pages = (enum lab_pages)p;

		lab_designs_say_footprint(o, pages, where, sizeof(where));
		snprintf(title, sizeof(title), "Footprint of %s: references of a walk", where);
		lab_designs_table(result, &d, pages, "far.refs", title, refs);
		snprintf(title, sizeof(title), "Footprint of %s: where the references of a walk hit", where);
		lab_designs_places(result, &d, pages, "far.places", title);
		snprintf(title, sizeof(title), "Footprint of %s: modelled cycles of a walk", where);
		lab_designs_table(result, &d, pages, "far.latency", title, latency);
		gain(result, &d, pages, "far.walk", where, "walks", latency);
		gain(result, &d, pages, "far.app", where, "programs", cycles);
	}
	lab_designs_free(&d);
	return 0;
}

static int run_machine(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	struct lab_designs d;
	int ret = lab_designs_run(&d, o, hw, designs, DESIGNS, LAB_FROM_DATA, true, err);

	if (ret)
		return ret;
	for (unsigned p = 0; p < LAB_PAGES; p++) {
		enum lab_pages pages = (enum lab_pages)p;

		lab_designs_table(result, &d, pages, "refs", "References of a walk", refs);
		lab_designs_table(result, &d, pages, "latency", "Modelled cycles of a walk", latency);
		lab_designs_table(result, &d, pages, "overhead", "Walks, % of all cycles", overhead);
		gain(result, &d, pages, "walk", "64 MiB", "walks", latency);
		gain(result, &d, pages, "app", "64 MiB", "programs", cycles);
	}
	lab_designs_table(result, &d, LAB_SMALL, "requests", "Requests for large pages while it was counted", requests);
	lab_designs_free(&d);
	return 0;
}

static int run(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	int ret = run_textbook(o, result, err);

	if (ret == 0)
		ret = run_machine(o, hw, result, err);
	return ret ? ret : run_footprint(o, hw, result, err);
}

const struct lab lab_hugegpt = {
	"hugegpt", "guest page tables in pages that the host maps by 2 MiB: references and latency of nested walks",
	"HugeGPT: guest page tables in huge host pages (artifact)", "skylake", false, false, run, true};
