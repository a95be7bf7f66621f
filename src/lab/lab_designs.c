/* See lab_designs.h. */
#include "lab/lab_designs.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)
#define FOOTPRINT (32768 * MIB)
static const uint64_t quick_footprint[LAB_PAGES] = {256 * MIB, 4096 * MIB};
#define ACCESSES        1000000 /* of a pattern */
#define ACCESSES_QUICK  100000

const char *const lab_pages_name[LAB_PAGES] = {"4k", "thp"};

static const struct { const char *name; unsigned n, mib, quick_n, quick_mib; } works[] = {
	{"gups", 100000, 64, 5000, 16},  {"btree", 20000, 64, 0, 0}, {"store", 20000, 64, 0, 0},
	{"anneal", 10000, 64, 0, 0},     {"graph", 1, 32, 0, 0},         {"xsection", 1000, 64, 0, 0},
	{"compile", 500, 64, 0, 0},
};
static_assert(ARRAY_SIZE(works) <= LAB_WORKS_MAX);

struct kit { char kernel[512], initrd[512]; };

static int find_kit(struct kit *k, const char *dir, struct error *err)
{
	snprintf(k->kernel, sizeof(k->kernel), "%s/vmlinux-gnomon", dir ? dir : "");
	snprintf(k->initrd, sizeof(k->initrd), "%s/initramfs.cpio", dir ? dir : "");
	if (dir && access(k->kernel, R_OK) == 0 && access(k->initrd, R_OK) == 0)
		return 0;
	return error_set(err, -ENOENT, "this lab needs the guest kernel that takes part: 'make guest guest-kernel' makes "
			 "it; or give --kit DIR");
}

/* From the text that the lab wants to the workload's sum, which is printed only if its result is right. */
static int measure(struct vm *vm, struct lab_task *t, struct error *err)
{
	struct lab_count *before = calloc(1, sizeof(*before));
	int ret = before ? lab_run_to(vm, t->ctx, err) : error_set(err, -ENOMEM, "out of memory");

	if (ret == 0)
		lab_count_look(vm, before);
	if (ret == 0)
		ret = lab_run_to(vm, ": sum ", err);
	if (ret == 0) {
		lab_count_look(vm, &t->count[0]);
		lab_count_subtract(&t->count[0], before);
	}
	free(before);
	return ret;
}

static unsigned work_n(unsigned work, bool quick) { return quick ? works[work].quick_n : works[work].n; }
static unsigned work_mib(unsigned work, bool quick) { return quick ? works[work].quick_mib : works[work].mib; }

static int make_task(struct lab_task *t, const struct kit *k, const struct hw *hw, const struct lab_design *d,
		     unsigned work, enum lab_pages pages, unsigned n, unsigned mib, struct error *err)
{
	lab_task_init(t, "chase", d->mmu, hw);
	t->cfg.kernel_image = NULL;
	t->cfg.kernel = k->kernel;
	t->cfg.initrd = k->initrd;
	t->cfg.engine.memory = 576 * MIB; /* Linux has no huge pages in less than 512 */
	t->cfg.engine.host_pages = pages == LAB_LARGE ? HOST_PAGES_2M : HOST_PAGES_4K;
	t->measure = measure;
	t->what = d->name;
	t->turns = 1;
	snprintf(t->append, sizeof(t->append),
		 "console=ttyS0 panic=-1 quiet gnomon.tables=%s gnomon.tea_min=2M gnomon.work=%s:%u:%u%s", d->tables,
		 works[work].name, n, mib, pages == LAB_LARGE ? ":huge" : "");
	return cpu_config_parse(&t->cfg.engine.cpu, "+dmt", err);
}

static void read_figures(const struct hw *hw, const struct lab_count *count, struct lab_figures *f)
{
	const struct obs *o = &count->obs;
	double walks = lab_number(o->translation.walks), all;
	struct cost c;

	lab_cost_of(hw, count, &c);
	all = c.walks + c.references + c.walk_caches + c.registers;
	f->walks = walks;
	f->refs = lab_number(o->translation.refs) / walks;
	f->latency = all / walks;
	f->cycles = c.total;
	f->overhead = all / c.total;
	for (unsigned p = 0; p < HW_PLACES; p++)
		f->place[p] = lab_number(o->translation.ref_hits[p]) / walks;
	f->fallbacks = 1 - lab_number(o->translation.dmt.translations) / walks;
	f->exits = lab_number(o->exits.total);
	f->requests = lab_number(o->pv.requests);
}

static int run_tasks(struct lab_designs *out, const struct lab_options *o, const struct hw *hw, const struct kit *k,
		     const char *from, bool data_cache, struct error *err)
{
	unsigned n = LAB_PAGES * out->works * out->designs, i = 0;
	struct lab_task *task = calloc(n, sizeof(*task));
	int ret = task ? 0 : error_set(err, -ENOMEM, "out of memory");

	for (unsigned p = 0; p < LAB_PAGES && ret == 0; p++)
		for (unsigned w = 0; w < out->works && ret == 0; w++)
			for (unsigned d = 0; d < out->designs && ret == 0; d++, i++) {
				ret = make_task(&task[i], k, hw, &out->design[d], w, (enum lab_pages)p,
						work_n(w, o->quick), work_mib(w, o->quick), err);
				task[i].cfg.engine.cpu.data_cache = data_cache;
				task[i].ctx = (void *)(uintptr_t)from;
			}
	if (ret == 0)
		ret = lab_run_tasks(o, task, n, err);
	for (i = 0; ret == 0 && i < n; i++)
		read_figures(hw, &task[i].count[0], &out->run[i]);
	free(task);
	return ret;
}

static int begin(struct lab_designs *out, const struct lab_design *design, unsigned designs, struct error *err)
{
	out->design = design;
	out->designs = designs;
	out->run = calloc((size_t)LAB_PAGES * out->works * designs, sizeof(*out->run));
	return out->run ? 0 : error_set(err, -ENOMEM, "out of memory");
}

int lab_designs_run(struct lab_designs *out, const struct lab_options *o, const struct hw *hw,
		    const struct lab_design *design, unsigned designs, const char *from, bool data_cache,
		    struct error *err)
{
	struct kit kit;
	int ret = find_kit(&kit, o->kit, err);

	if (ret)
		return ret;
	*out = (struct lab_designs){0};
	for (unsigned w = 0; w < ARRAY_SIZE(works) && (!o->quick || works[w].quick_n); w++)
		out->work[out->works++] = works[w].name;
	ret = begin(out, design, designs, err);
	if (ret == 0)
		ret = run_tasks(out, o, hw, &kit, from, data_cache, err);
	if (ret)
		lab_designs_free(out);
	return ret;
}

/* ---- footprints ---- */

uint64_t lab_designs_footprint(const struct lab_options *o, enum lab_pages pages)
{
	return o->footprint ? o->footprint : o->quick ? quick_footprint[pages] : FOOTPRINT;
}

void lab_designs_say_footprint(const struct lab_options *o, enum lab_pages pages, char *to, size_t bytes)
{
	uint64_t mib = lab_designs_footprint(o, pages) / MIB;
	bool gib = mib % 1024 == 0;

	snprintf(to, bytes, "%llu %s", (unsigned long long)(gib ? mib / 1024 : mib), gib ? "GiB" : "MiB");
}

struct footprints {
	const struct lab_options *o;
	struct lab_designs *out;
	struct hw hw, no_host_caches;
	const struct pattern *pattern[LAB_WORKS_MAX];
	double insns[LAB_WORKS_MAX]; /* of a step */
	struct error err;            /* of the job that failed first */
	pthread_mutex_t lock;
};

/*
 * Instructions of a step: the difference of a run of n and one of 2n, so that what comes before and after, and the
 * check of the result, is not in it.
 */
static int count_insns(struct footprints *f, const struct kit *k, struct error *err)
{
	static const struct lab_design native = {"native", ENGINE_NATIVE, "plain", OSM_PLAIN, false};
	struct lab_task *task = calloc(2 * LAB_WORKS_MAX, sizeof(*task));
	bool quick = f->o->quick;
	unsigned tasks = 0;
	int ret = task ? 0 : error_set(err, -ENOMEM, "out of memory");

	for (unsigned w = 0; w < ARRAY_SIZE(works) && ret == 0 && tasks < 2 * f->out->works; w++)
		for (unsigned i = 1; i <= 2 && ret == 0 && pattern_find(works[w].name); i++, tasks++) {
			ret = make_task(&task[tasks], k, &f->hw, &native, w, LAB_SMALL, i * work_n(w, quick),
					work_mib(w, quick), err);
			task[tasks].ctx = (void *)(uintptr_t)LAB_FROM_DATA;
			task[tasks].what = works[w].name;
		}
	if (ret == 0)
		ret = lab_run_tasks(f->o, task, tasks, err);
	for (unsigned w = 0, i = 0; w < ARRAY_SIZE(works) && ret == 0 && i < f->out->works; w++)
		if (pattern_find(works[w].name)) {
			uint64_t more = task[2 * i + 1].count[0].insns - task[2 * i].count[0].insns;

			f->insns[i] = (double)more /
				      (double)f->pattern[i]->steps(work_n(w, quick), work_mib(w, quick));
			i++;
		}
	free(task);
	return ret;
}

/* One design with pages of one size; sizes change fastest, as the small ones take longest. */
static int run_cell(void *ctx, unsigned i, const char **what)
{
	struct footprints *f = ctx;
	const struct lab_design *d = &f->out->design[i / LAB_PAGES];
	enum lab_pages pages = (enum lab_pages)(i % LAB_PAGES);
	const struct footprint_config cfg = {
		.hw = d->no_host_caches ? &f->no_host_caches : &f->hw, .mmu = d->mmu, .kind = d->kind,
		.large = pages == LAB_LARGE, .data_cache = true, .bytes = lab_designs_footprint(f->o, pages),
		.warm = (f->o->quick ? ACCESSES_QUICK : ACCESSES) / 2, .accesses = f->o->quick ? ACCESSES_QUICK : ACCESSES,
	};
	struct footprint_count *count = calloc(LAB_WORKS_MAX, sizeof(*count));
	struct error err = {0};
	int ret = count ? footprint_run(&cfg, f->pattern, f->out->works, count, &err) :
			  error_set(&err, -ENOMEM, "out of memory");

	*what = d->name;
	for (unsigned w = 0; w < f->out->works && ret == 0; w++) {
		struct lab_count c = {count[w].obs, (uint64_t)((double)count[w].steps * f->insns[w])};

		read_figures(cfg.hw, &c, &f->out->run[(pages * f->out->works + w) * f->out->designs + i / LAB_PAGES]);
	}
	free(count);
	if (ret) {
		pthread_mutex_lock(&f->lock);
		if (!f->err.code)
			error_set(&f->err, ret, "%s: %.300s", d->name, err.text);
		pthread_mutex_unlock(&f->lock);
	}
	return ret;
}

int lab_designs_run_footprint(struct lab_designs *out, const struct lab_options *o, const struct hw *hw,
			      const struct lab_design *design, unsigned designs, struct error *err)
{
	struct footprints f = {.o = o, .out = out, .hw = *hw, .no_host_caches = *hw, .lock = PTHREAD_MUTEX_INITIALIZER};
	struct kit kit;
	int ret = find_kit(&kit, o->kit, err);

	if (ret)
		return ret;
	for (unsigned l = 0; l < HW_LEVELS; l++)
		f.no_host_caches.host[l].entries = 0;
	*out = (struct lab_designs){0};
	for (unsigned w = 0; w < ARRAY_SIZE(works) && (!o->quick || works[w].quick_n); w++) {
		f.pattern[out->works] = pattern_find(works[w].name);
		if (f.pattern[out->works])
			out->work[out->works++] = works[w].name;
	}
	ret = begin(out, design, designs, err);
	if (ret == 0)
		ret = count_insns(&f, &kit, err);
	if (ret == 0) {
		lab_run_jobs(o, run_cell, &f, LAB_PAGES * designs);
		if (f.err.code)
			ret = error_set(err, f.err.code, "%.400s", f.err.text);
	}
	if (ret)
		lab_designs_free(out);
	return ret;
}

void lab_designs_free(struct lab_designs *d)
{
	free(d->run);
	d->run = NULL;
}

const struct lab_figures *lab_designs_figures(const struct lab_designs *d, enum lab_pages pages, unsigned work,
					      unsigned design)
{
	return &d->run[((unsigned)pages * d->works + work) * d->designs + design];
}

double lab_designs_mean(const struct lab_designs *d, enum lab_pages pages, unsigned design, lab_figure figure)
{
	double all = 0;

	for (unsigned w = 0; w < d->works; w++)
		all += figure(lab_designs_figures(d, pages, w, design));
	return all / d->works;
}

double lab_designs_least(const struct lab_designs *d, enum lab_pages pages, unsigned design, lab_figure figure)
{
	double least = INFINITY;

	for (unsigned w = 0; w < d->works; w++)
		least = fmin(least, figure(lab_designs_figures(d, pages, w, design)));
	return least;
}

double lab_designs_most(const struct lab_designs *d, enum lab_pages pages, unsigned design, lab_figure figure)
{
	double most = -INFINITY;

	for (unsigned w = 0; w < d->works; w++)
		most = fmax(most, figure(lab_designs_figures(d, pages, w, design)));
	return most;
}

double lab_designs_gain(const struct lab_designs *d, enum lab_pages pages, unsigned base, unsigned design,
			lab_figure figure)
{
	double all = 0;

	for (unsigned w = 0; w < d->works; w++)
		all += figure(lab_designs_figures(d, pages, w, base)) /
		       figure(lab_designs_figures(d, pages, w, design));
	return all / d->works;
}

void lab_designs_table(json_t *result, const struct lab_designs *d, enum lab_pages pages, const char *id,
		       const char *what, lab_figure figure)
{
	char columns[256] = "", name[64], title[160];
	double v[16];
	json_t *table;

	for (unsigned i = 0; i < d->designs; i++) {
		size_t at = strlen(columns);

		snprintf(columns + at, sizeof(columns) - at, "%s%s", i ? "|" : "", d->design[i].name);
	}
	snprintf(name, sizeof(name), "%s.%s", id, lab_pages_name[pages]);
	snprintf(title, sizeof(title), "%s, %s pages", what, pages == LAB_LARGE ? "2M" : "4K");
	table = lab_table(result, name, title, columns);
	lab_table_unit(table, what);
	for (unsigned w = 0; w < d->works; w++) {
		for (unsigned i = 0; i < d->designs && i < ARRAY_SIZE(v); i++)
			v[i] = figure(lab_designs_figures(d, pages, w, i));
		lab_row(table, d->work[w], d->designs, v);
	}
	for (unsigned i = 0; i < d->designs && i < ARRAY_SIZE(v); i++)
		v[i] = lab_designs_mean(d, pages, i, figure);
	lab_row(table, "mean", d->designs, v);
}

static double place(const struct lab_designs *d, enum lab_pages pages, unsigned design, unsigned p)
{
	double all = 0;

	for (unsigned w = 0; w < d->works; w++)
		all += lab_designs_figures(d, pages, w, design)->place[p];
	return all / d->works;
}

void lab_designs_places(json_t *result, const struct lab_designs *d, enum lab_pages pages, const char *id,
			const char *what)
{
	char name[64], title[160];
	json_t *table;

	snprintf(name, sizeof(name), "%s.%s", id, lab_pages_name[pages]);
	snprintf(title, sizeof(title), "%s, %s pages", what, pages == LAB_LARGE ? "2M" : "4K");
	table = lab_table(result, name, title, "L1|L2|last level|memory");
	for (unsigned i = 0; i < d->designs; i++) {
		double v[HW_PLACES];

		for (unsigned p = 0; p < HW_PLACES; p++)
			v[p] = place(d, pages, i, p);
		lab_row(table, d->design[i].name, HW_PLACES, v);
	}
}

void lab_designs_say_places(const struct lab_designs *d, enum lab_pages pages, unsigned design, char *to, size_t bytes)
{
	snprintf(to, bytes, "%.2f in L1, %.2f in L2, %.2f in the last level, %.2f in memory",
		 place(d, pages, design, HW_L1), place(d, pages, design, HW_L2), place(d, pages, design, HW_LLC),
		 place(d, pages, design, HW_MEMORY));
}

void lab_designs_gains(json_t *result, const struct lab_designs *d, enum lab_pages pages, const char *id, const char *what,
		       const struct lab_pair *pair, unsigned pairs)
{
	char columns[256] = "", name[64], title[160];
	double v[16];
	json_t *table;

	for (unsigned i = 0; i < pairs; i++) {
		size_t at = strlen(columns);

		snprintf(columns + at, sizeof(columns) - at, "%s%s", i ? "|" : "", pair[i].name);
	}
	snprintf(name, sizeof(name), "%s.%s", id, lab_pages_name[pages]);
	snprintf(title, sizeof(title), "%s, %s pages", what, pages == LAB_LARGE ? "2M" : "4K");
	table = lab_table(result, name, title, columns);
	for (unsigned w = 0; w < d->works; w++) {
		for (unsigned i = 0; i < pairs && i < ARRAY_SIZE(v); i++)
			v[i] = pair[i].figure(lab_designs_figures(d, pages, w, pair[i].base)) /
			       pair[i].figure(lab_designs_figures(d, pages, w, pair[i].design));
		lab_row(table, d->work[w], pairs, v);
	}
	for (unsigned i = 0; i < pairs && i < ARRAY_SIZE(v); i++)
		v[i] = lab_designs_gain(d, pages, pair[i].base, pair[i].design, pair[i].figure);
	lab_row(table, "mean", pairs, v);
}
