/*
 * HugeGPT: the guest's page tables lie in pages that the host maps by 2 MiB, so that each of the four translations of
 * where a table lies is one entry shorter. Their experiment is two by two, page tables in small or large host pages,
 * data in small or large pages; that is made here, once without walk caches, where references are the design's, and once
 * with those of the description. Not theirs: the programs and their size.
 */
#include "lab/lab_designs.h"

enum { RADIX, HUGEGPT, DESIGNS };
static const struct lab_design designs[DESIGNS] = {
	[RADIX] = {"radix", ENGINE_EPT, "plain"},
	[HUGEGPT] = {"HugeGPT", ENGINE_HUGEGPT, "hugegpt"},
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
static const char why_gain[] =
	"No number is published in what could be had of the paper. With walk caches and nested entries in L1 and "
	"L2, the steps that HugeGPT takes out are the cheapest ones, or are not made at all.";

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

static int run(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	struct lab_designs d;
	int ret = run_textbook(o, result, err);

	if (ret == 0)
		ret = lab_designs_run(&d, o, hw, designs, DESIGNS, LAB_FROM_DATA, true, err);
	if (ret)
		return ret;
	for (unsigned p = 0; p < LAB_PAGES; p++) {
		char id[32], what[96];

		lab_designs_table(result, &d, (enum lab_pages)p, "refs", "References of a walk", refs);
		lab_designs_table(result, &d, (enum lab_pages)p, "latency", "Modelled cycles of a walk", latency);
		lab_designs_table(result, &d, (enum lab_pages)p, "overhead", "Walks, % of all cycles", overhead);
		snprintf(id, sizeof(id), "walk.%s", lab_pages_name[p]);
		snprintf(what, sizeof(what), "walks: HugeGPT over radix, %s pages", p == LAB_LARGE ? "2M" : "4K");
		lab_compare(result, &(struct lab_line){id, what, "times", lab_designs_gain(&d, (enum lab_pages)p, RADIX, HUGEGPT,
							latency), LAB_NONE, LAB_NONE, why_gain});
		snprintf(id, sizeof(id), "app.%s", lab_pages_name[p]);
		snprintf(what, sizeof(what), "programs: HugeGPT over radix, %s pages", p == LAB_LARGE ? "2M" : "4K");
		lab_compare(result, &(struct lab_line){id, what, "times", lab_designs_gain(&d, (enum lab_pages)p, RADIX, HUGEGPT,
							cycles), LAB_NONE, LAB_NONE, why_gain});
	}
	lab_designs_table(result, &d, LAB_SMALL, "requests", "Requests for large pages while it was counted", requests);
	lab_designs_free(&d);
	return 0;
}

const struct lab lab_hugegpt = {
	"hugegpt", "guest page tables in pages that the host maps by 2 MiB: references and latency of nested walks",
	"HugeGPT: guest page tables in huge host pages (artifact)", "skylake", false, false, run};
