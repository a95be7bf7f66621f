/*
 * What the labs about designs of address translation share. Workloads (docs/workloads.md) under the guest kernel that
 * takes part (docs/guest-kernel.md), each run in the full machine under each design, with small pages and with large; and
 * the workloads' accesses over a footprint larger than this host's memory (lab/footprint.h).
 */
#ifndef GNOMON_LAB_LAB_DESIGNS_H
#define GNOMON_LAB_LAB_DESIGNS_H

#include "lab/footprint.h"
#include "lab/lab_vm.h"

/* A design: a scheme, and what the guest's kernel does about its tables. */
struct lab_design {
	const char *name;
	enum engine_mmu mmu;
	const char *tables;  /* gnomon.tables= */
	enum osm_kind kind;  /* the same of the model of an operating system */
	bool no_host_caches; /* the description's walk caches serve the guest's stage only: footprints */
};

enum lab_pages { LAB_SMALL, LAB_LARGE, LAB_PAGES }; /* the guest's and the host's */
extern const char *const lab_pages_name[LAB_PAGES];

#define LAB_WORKS_MAX 8

/* Where the guest's init begins, and where a workload has built its data. */
#define LAB_FROM_INIT "GNOMON-INIT"
#define LAB_FROM_DATA "GNOMON-READY"

/* What a run came to. */
struct lab_figures {
	double walks, refs;     /* refs: a walk */
	double latency;         /* modelled cycles of a walk, registers included */
	double cycles;          /* in all */
	double overhead;        /* share of the walks in that */
	double place[HW_PLACES]; /* references, a walk, by where they hit */
	double fallbacks;       /* share of the walks that went through the tables after a register, or without one */
	double exits, requests; /* requests: of the guest to its host */
};

struct lab_designs {
	const struct lab_design *design;
	unsigned designs, works;
	const char *work[LAB_WORKS_MAX];
	struct lab_figures *run; /* [page size][work][design]: lab_designs_figures() */
};

/*
 * Runs all workloads under all @design, each twice, with small and large pages; fewer and smaller ones with o->quick.
 * @from: the text on the console from where it is counted, to where the workload prints its sum
 * @data_cache: data go through the modelled memory caches, too. *out is to be freed by lab_designs_free(). -ENOENT: the
 * kit is not there or has not that kernel; others: a guest was not made or did not do its work. Nothing is left then.
 */
int lab_designs_run(struct lab_designs *out, const struct lab_options *o, const struct hw *hw,
		    const struct lab_design *design, unsigned designs, const char *from, bool data_cache,
		    struct error *err);
/*
 * The same with the accesses of the workloads that are patterns (lab/pattern.h), over o->footprint bytes. How many
 * instructions a step takes is counted in the full machine, on the bare machine, at the size of above.
 */
int lab_designs_run_footprint(struct lab_designs *out, const struct lab_options *o, const struct hw *hw,
			      const struct lab_design *design, unsigned designs, struct error *err);
/* o->footprint, or what is used if it is 0: with o->quick no more than walks at all take. */
uint64_t lab_designs_footprint(const struct lab_options *o, enum lab_pages pages);
/* "32 GiB", "256 MiB" */
void lab_designs_say_footprint(const struct lab_options *o, enum lab_pages pages, char *to, size_t bytes);
void lab_designs_free(struct lab_designs *d);
const struct lab_figures *lab_designs_figures(const struct lab_designs *d, enum lab_pages pages, unsigned work,
					      unsigned design);

/* A member of struct lab_figures of a run. */
typedef double (*lab_figure)(const struct lab_figures *f);
/* A table of it: rows are workloads and their mean, columns designs. */
void lab_designs_table(json_t *result, const struct lab_designs *d, enum lab_pages pages, const char *id,
		       const char *what, lab_figure figure);
/* A table of where references hit: rows are designs, means over the workloads. */
void lab_designs_places(json_t *result, const struct lab_designs *d, enum lab_pages pages, const char *id,
			const char *what);
/* "1.2 in L1, 0.7 in L2, ...": the same of one design. */
void lab_designs_say_places(const struct lab_designs *d, enum lab_pages pages, unsigned design, char *to, size_t bytes);
/* A table of how many times larger @figure is under a base than under a design: rows are workloads and their mean. */
struct lab_pair { const char *name; unsigned base, design; lab_figure figure; };
void lab_designs_gains(json_t *result, const struct lab_designs *d, enum lab_pages pages, const char *id, const char *what,
		       const struct lab_pair *pair, unsigned pairs);
/* How many times larger it is under @base than under @design, mean over the workloads. */
double lab_designs_gain(const struct lab_designs *d, enum lab_pages pages, unsigned base, unsigned design,
			lab_figure figure);
double lab_designs_mean(const struct lab_designs *d, enum lab_pages pages, unsigned design, lab_figure figure);
/* ... the least and the greatest over the workloads. */
double lab_designs_least(const struct lab_designs *d, enum lab_pages pages, unsigned design, lab_figure figure);
double lab_designs_most(const struct lab_designs *d, enum lab_pages pages, unsigned design, lab_figure figure);

#endif
