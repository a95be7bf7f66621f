/* See lab_designs.h. Left out: workloads that need more memory than a test machine has; footprints are M MiB. */
#include "lab/lab_designs.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)

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

static int make_task(struct lab_task *t, const struct kit *k, const struct hw *hw, const struct lab_design *d,
		     unsigned work, enum lab_pages pages, bool quick, struct error *err)
{
	unsigned n = quick ? works[work].quick_n : works[work].n, mib = quick ? works[work].quick_mib : works[work].mib;

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

static double sum(const uint64_t *v, unsigned n)
{
	double all = 0;

	while (n)
		all += lab_number(v[--n]);
	return all;
}

static void read_figures(const struct lab_task *t, struct lab_figures *f)
{
	const struct obs *o = &t->count[0].obs;
	double walks = lab_number(o->translation.walks), all;
	struct cost c;

	lab_cost(t, 0, &c);
	all = c.walks + c.references + c.walk_caches + c.registers;
	f->walks = walks;
	f->refs = lab_number(o->translation.refs) / walks;
	f->latency = all / walks;
	f->cycles = c.total;
	f->overhead = all / c.total;
	f->near = sum(o->translation.ref_hits, HW_L2 + 1) / lab_number(o->translation.refs);
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
				ret = make_task(&task[i], k, hw, &out->design[d], w, (enum lab_pages)p, o->quick, err);
				task[i].cfg.engine.cpu.data_cache = data_cache;
				task[i].ctx = (void *)(uintptr_t)from;
			}
	if (ret == 0)
		ret = lab_run_tasks(o, task, n, err);
	for (i = 0; ret == 0 && i < n; i++)
		read_figures(&task[i], &out->run[i]);
	free(task);
	return ret;
}

int lab_designs_run(struct lab_designs *out, const struct lab_options *o, const struct hw *hw,
		    const struct lab_design *design, unsigned designs, const char *from, bool data_cache,
		    struct error *err)
{
	struct kit kit;
	int ret = find_kit(&kit, o->kit, err);

	if (ret)
		return ret;
	*out = (struct lab_designs){.design = design, .designs = designs};
	for (unsigned w = 0; w < ARRAY_SIZE(works) && (!o->quick || works[w].quick_n); w++)
		out->work[out->works++] = works[w].name;
	out->run = calloc((size_t)LAB_PAGES * out->works * designs, sizeof(*out->run));
	ret = out->run ? run_tasks(out, o, hw, &kit, from, data_cache, err) : error_set(err, -ENOMEM, "out of memory");
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
