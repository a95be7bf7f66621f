/*
 * Agile paging (Gandhi, Hill, Swift, ISCA 2016): walks begin in a shadow table and go on nested where the guest changes
 * its tables. References are counted without walk caches, as theirs, once a program has its data;
 * cycles by the description and of the whole program, from the guest's init to its sum, so that the kernel's filling of
 * page tables is in it. Not theirs: the programs.
 */
#include "lab/lab_designs.h"

#include <math.h>

enum { NATIVE, NESTED, SHADOW, AGILE, DESIGNS };
static const struct lab_design designs[DESIGNS] = {
	[NATIVE] = {"native", ENGINE_NATIVE, "plain", OSM_PLAIN, false},
	[NESTED] = {"nested", ENGINE_EPT, "plain", OSM_PLAIN, false},
	[SHADOW] = {"shadow", ENGINE_SHADOW, "plain", OSM_PLAIN, false},
	[AGILE] = {"agile", ENGINE_AGILE, "plain", OSM_PLAIN, false},
};

static double refs(const struct lab_figures *f) { return f->refs; }
static double exits(const struct lab_figures *f) { return f->exits; }
static double cycles(const struct lab_figures *f) { return f->cycles; }

/* How many more cycles the better of nested and shadow paging takes than agile, or agile than native: %, mean. */
static double gain(const struct lab_designs *d, enum lab_pages p, bool to_native)
{
	double all = 0;

	for (unsigned w = 0; w < d->works; w++) {
		const struct lab_figures *agile = lab_designs_figures(d, p, w, AGILE);
		double best = fmin(lab_designs_figures(d, p, w, NESTED)->cycles,
				   lab_designs_figures(d, p, w, SHADOW)->cycles);

		all += to_native ? agile->cycles / lab_designs_figures(d, p, w, NATIVE)->cycles : best / agile->cycles;
	}
	return 100 * (all / d->works - 1);
}

static void compare_refs(json_t *result, const struct lab_designs *d)
{
	char why[512];

	snprintf(why, sizeof(why),
		 "Counted, no walk caches, from where the data are built: %.0f exits under agile and %.0f under shadow paging in "
		 "the mean. A table that was filled is walked nested (8 references and more) until an interval passes without "
		 "a change; theirs are programs of minutes, whose tables have gone back to shadow.",
		 lab_designs_mean(d, LAB_SMALL, AGILE, exits), lab_designs_mean(d, LAB_SMALL, SHADOW, exits));
	lab_compare(result, &(struct lab_line){"refs.agile", "references of a walk, agile", "references",
					       lab_designs_mean(d, LAB_SMALL, AGILE, refs), 4.01, 5.00, why});
	lab_compare(result, &(struct lab_line){"refs.shadow", "references of a walk, shadow", "references",
					       lab_designs_mean(d, LAB_SMALL, SHADOW, refs), 4, LAB_NONE, why});
	lab_compare(result, &(struct lab_line){"refs.nested", "references of a walk, nested", "references",
					       lab_designs_mean(d, LAB_SMALL, NESTED, refs), 24, LAB_NONE,
					       "Counted; the kernel's own memory is in large pages, whose walks are shorter."});
}

static void compare_cycles(json_t *result, const struct lab_designs *d)
{
	char why[512];

	snprintf(why, sizeof(why),
		 "By the account, whole programs, 4K pages. Exits in the mean: nested %.0f, shadow %.0f, agile %.0f; walks' "
		 "references: nested %.1f, shadow %.1f, agile %.1f. A program this short pays for the first touches of its "
		 "memory; theirs have them behind them.",
		 lab_designs_mean(d, LAB_SMALL, NESTED, exits), lab_designs_mean(d, LAB_SMALL, SHADOW, exits),
		 lab_designs_mean(d, LAB_SMALL, AGILE, exits), lab_designs_mean(d, LAB_SMALL, NESTED, refs),
		 lab_designs_mean(d, LAB_SMALL, SHADOW, refs), lab_designs_mean(d, LAB_SMALL, AGILE, refs));
	lab_compare(result, &(struct lab_line){"gain.best", "agile faster than the best of nested and shadow by", "%",
					       gain(d, LAB_SMALL, false), 12, LAB_NONE, why});
	lab_compare(result, &(struct lab_line){"loss.native", "agile slower than native by", "%", gain(d, LAB_SMALL, true),
					       2.3, 3.7, why});
}

static int run_textbook(const struct lab_options *o, json_t *result, struct error *err)
{
	struct lab_designs d;
	struct hw hw;
	int ret = hw_load(&hw, "textbook", err);

	if (ret == 0)
		ret = lab_designs_run(&d, o, &hw, designs, DESIGNS, LAB_FROM_DATA, false, err);
	if (ret)
		return ret;
	lab_designs_table(result, &d, LAB_SMALL, "textbook", "References of a walk without walk caches", refs);
	compare_refs(result, &d);
	lab_designs_free(&d);
	return 0;
}

static int run(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	struct lab_designs d;
	int ret = run_textbook(o, result, err);

	if (ret == 0)
		ret = lab_designs_run(&d, o, hw, designs, DESIGNS, LAB_FROM_INIT, true, err);
	if (ret)
		return ret;
	for (unsigned p = 0; p < LAB_PAGES; p++) {
		lab_designs_table(result, &d, (enum lab_pages)p, "exits", "VM exits", exits);
		lab_designs_table(result, &d, (enum lab_pages)p, "refs", "References of a walk", refs);
		lab_designs_table(result, &d, (enum lab_pages)p, "cycles", "Modelled cycles in all", cycles);
	}
	compare_cycles(result, &d);
	lab_designs_free(&d);
	return 0;
}

const struct lab lab_agile = {
	"agile", "agile paging: references of a walk, exits and cycles beside nested and shadow paging",
	"Gandhi, Hill, Swift: Agile Paging: Exceeding the Best of Nested and Shadow Paging, ISCA 2016", "skylake", false, false, run, false};
