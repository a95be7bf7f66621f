/* See replay.h: designs, machines, and the loop that feeds them. Results as text are in replay_report.c. */
#include "lab/replay.h"

#include "vm/vm.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

const char *const replay_setup_name[REPLAY_SETUPS] = {"native", "virt", "nested"};
const char *const replay_pages_name[REPLAY_PAGES] = {"4k", "thp"};

/* ---- designs: the scheme in each setup, by its name; NULL: there is no such thing ---- */

struct replay_design {
	const char *name, *scheme[REPLAY_SETUPS];
	enum osm_kind kind; /* how a guest cooperates with it */
};

static const struct replay_design designs[] = {
	{"radix", {"native", "ept", "nested"}, OSM_PLAIN},
	{"shadow", {NULL, "shadow", NULL}, OSM_PLAIN},
	{"brute", {NULL, "brute", NULL}, OSM_PLAIN},
	{"hugegpt", {NULL, "hugegpt", NULL}, OSM_HUGEGPT},
	{"dmt", {"native-dmt", "dmt", NULL}, OSM_DMT},
	{"pvdmt", {NULL, "pvdmt", "nested-pvdmt"}, OSM_PVDMT},
	{"agile", {NULL, "agile", NULL}, OSM_PLAIN},
};

const char *const *replay_design_names(void)
{
	static const char *const names[] = {"radix", "shadow", "brute", "hugegpt", "dmt", "pvdmt", "agile", NULL};

	static_assert(ARRAY_SIZE(names) == ARRAY_SIZE(designs) + 1, "one name each");
	return names;
}

const struct replay_design *replay_design_find(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(designs); i++)
		if (strcmp(name, designs[i].name) == 0)
			return &designs[i];
	return NULL;
}

const char *replay_design_name(const struct replay_design *d) { return d->name; }

bool replay_scheme(const struct replay_design *d, enum replay_setup setup, enum engine_mmu *mmu)
{
	for (unsigned i = 0; d->scheme[setup] && i < ENGINE_MMU_COUNT; i++)
		if (strcmp(engine_mmu_name[i], d->scheme[setup]) == 0) {
			*mmu = (enum engine_mmu)i;
			return true;
		}
	return false;
}

/* ---- machines ---- */

struct machine {
	struct engine_vm *vm;
	struct osm *os; /* NULL: the trace has tables of its own */
	struct replay_result *result;
	struct mmu_walks walks;
};

/* Is @name one of @names, which have a blank between them? */
static bool is_named(const char *names, const char *name)
{
	size_t n = strlen(name);

	for (const char *at = names; (at = strstr(at, name)) != NULL; at += n)
		if ((at == names || at[-1] == ' ') && (at[n] == 0 || at[n] == ' '))
			return true;
	return false;
}

/*
 * Features that translation depends on: those that a trace was recorded with, or (@least) those that the model needs at
 * least.
 */
static void use_features(struct cpu_config *cpu, const char *names, bool least)
{
	static const char *const name[CPUF_COUNT] = {
#define X(sym, text, leaf, sub, reg, bit) text,
		CPU_FEATURES(X)
#undef X
	};
	static const enum cpu_feature relevant[] = {CPUF_PSE, CPUF_PAE, CPUF_PGE, CPUF_PCID, CPUF_INVPCID, CPUF_LA57,
						    CPUF_NX, CPUF_PDPE1GB, CPUF_PKU, CPUF_SMEP, CPUF_SMAP, CPUF_DMT};

	for (unsigned i = 0; i < ARRAY_SIZE(relevant); i++)
		cpu->feature[relevant[i]] = is_named(names, name[relevant[i]]) || (least && cpu->feature[relevant[i]]);
}

static bool uses_model(const struct replay_config *cfg, const struct trace_info *info, const struct replay_cell *cell)
{
	if (cfg->tables != REPLAY_TABLES_AUTO)
		return cfg->tables == REPLAY_TABLES_MODEL;
	return !info->tables || cell->design->kind != OSM_PLAIN;
}

/* @info: of the trace that it gets, from the file or (@model) from the model */
static struct engine_config machine_config(const struct replay_config *cfg, const struct replay_cell *cell,
					   const struct trace_info *info, uint64_t memory, bool model)
{
	struct engine_config e = cfg->engine;

	e.mmu = cell->mmu;
	e.memory = memory;
	e.host_pages = cell->pages == REPLAY_THP ? HOST_PAGES_2M : HOST_PAGES_4K;
	e.cpu.translate = false;
	if (!cfg->features_given && *info->cpu_features)
		use_features(&e.cpu, info->cpu_features, model);
	if (info->maxphyaddr >= 36 && info->maxphyaddr <= 52)
		e.cpu.maxphyaddr = info->maxphyaddr;
	return e;
}

static void note_walk(void *ctx, const struct walk_log *walk)
{
	struct replay_result *r = ctx;

	if (!r->err.code)
		sim_log_put(r->sim_log, walk, &r->err);
}

static int watch_walks(struct machine *m, struct error *err)
{
	m->result->sim_log = sim_log_create(engine_mmu_nests(m->result->cell.mmu));
	if (!m->result->sim_log)
		return error_set(err, -ENOMEM, "replay: out of memory");
	m->walks.seen = note_walk;
	m->walks.ctx = m->result;
	engine_watch_walks(m->vm, &m->walks);
	return 0;
}

static int put(void *ctx, const struct trace_event *ev, unsigned n, struct error *err)
{
	const struct machine *m = ctx;

	return engine_replay(m->vm, ev, n, err);
}

/* A model in front of the machine. Gives the first events, so the machine is there. */
static int make_model(struct machine *m, const struct osm_config *os, struct error *err)
{
	const struct trace_sink sink = {put, m};

	return osm_create(&m->os, os, &sink, err);
}

static struct osm_config model_config(const struct replay_config *cfg, const struct replay_cell *cell)
{
	struct osm_config os = cfg->os;

	os.memory = cfg->memory ? cfg->memory : REPLAY_MODEL_MEMORY;
	os.pages = cell->pages == REPLAY_THP ? OSM_PAGES_THP : OSM_PAGES_4K;
	os.kind = cell->design->kind;
	return os;
}

static int make_machine(struct machine *m, struct replay_results *out, const struct replay_config *cfg, unsigned i,
			struct error *err)
{
	const struct replay_cell *cell = &cfg->cell[i];
	struct osm_config os = model_config(cfg, cell);
	struct trace_info info = out->info;
	struct engine_config e;
	int r;

	m->result = &out->result[i];
	m->result->cell = *cell;
	m->result->model = uses_model(cfg, &out->info, cell);
	if (m->result->model)
		osm_info(&os, &info);
	e = machine_config(cfg, cell, &info, m->result->model ? os.memory : out->memory,
			   m->result->model);
	r = engine_create(&m->vm, &e, err);
	if (!r)
		r = engine_replay_begin(m->vm, cfg->populate, err);
	if (!r && cfg->sim_logs)
		r = watch_walks(m, err);
	return r || !m->result->model ? r : make_model(m, &os, err);
}

static void take(struct machine *m, const struct trace_event *ev, unsigned n)
{
	struct error *err = &m->result->err;

	if (!err->code)
		m->os ? osm_put(m->os, ev, n, err) : engine_replay(m->vm, ev, n, err);
}

static void conclude(struct machine *m)
{
	struct error *err = &m->result->err;

	if (m->os && !err->code)
		osm_finish(m->os, err);
	if (!err->code)
		engine_replay_finish(m->vm, err);
	if (m->os)
		osm_stats(m->os, &m->result->os);
	engine_observe(m->vm, &m->result->obs);
	m->result->taken = engine_replayed(m->vm);
}

/* ---- threads: each takes the events of one batch through its machines, and waits for the others ---- */

struct crew {
	struct machine machine[REPLAY_CELLS_MAX];
	unsigned machines, threads;
	pthread_t thread[REPLAY_CELLS_MAX];
	pthread_mutex_t lock;
	pthread_cond_t begin, done;
	uint64_t batch;             /* number of the current one */
	unsigned busy;
	bool over;
	const struct trace_event *ev;
	unsigned n;
};

struct worker {
	struct crew *crew;
	unsigned number;
};

/* Which machine is whose does not matter to what it counts. */
static void work_on(struct crew *c, unsigned number)
{
	for (unsigned i = number; i < c->machines; i += c->threads)
		take(&c->machine[i], c->ev, c->n);
}

static void *worker_main(void *arg)
{
	struct worker w = *(struct worker *)arg;
	struct crew *c = w.crew;
	uint64_t seen = 0;

	free(arg);
	pthread_mutex_lock(&c->lock);
	for (;;) {
		while (c->batch == seen && !c->over)
			pthread_cond_wait(&c->begin, &c->lock);
		if (c->over)
			break;
		seen = c->batch;
		pthread_mutex_unlock(&c->lock);
		work_on(c, w.number);
		pthread_mutex_lock(&c->lock);
		if (--c->busy == 0)
			pthread_cond_signal(&c->done);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

static void crew_batch(struct crew *c, const struct trace_event *ev, unsigned n)
{
	pthread_mutex_lock(&c->lock);
	c->ev = ev;
	c->n = n;
	c->batch++;
	c->busy = c->threads - 1;
	pthread_cond_broadcast(&c->begin);
	pthread_mutex_unlock(&c->lock);
	work_on(c, 0);
	pthread_mutex_lock(&c->lock);
	while (c->busy)
		pthread_cond_wait(&c->done, &c->lock);
	pthread_mutex_unlock(&c->lock);
}

/* Fewer threads than asked for are enough. */
static void crew_start(struct crew *c, unsigned jobs)
{
	unsigned want = jobs < c->machines ? jobs : c->machines;

	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->begin, NULL);
	pthread_cond_init(&c->done, NULL);
	for (c->threads = 1; c->threads < want; c->threads++) {
		struct worker *w = malloc(sizeof(*w));

		if (w)
			*w = (struct worker){c, c->threads};
		if (!w || pthread_create(&c->thread[c->threads], NULL, worker_main, w)) {
			free(w);
			break;
		}
	}
}

static void crew_stop(struct crew *c)
{
	pthread_mutex_lock(&c->lock);
	c->over = true;
	pthread_cond_broadcast(&c->begin);
	pthread_mutex_unlock(&c->lock);
	for (unsigned i = 1; i < c->threads; i++)
		pthread_join(c->thread[i], NULL);
	pthread_mutex_destroy(&c->lock);
	pthread_cond_destroy(&c->begin);
	pthread_cond_destroy(&c->done);
}

/* ---- the whole ---- */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool all_failed(const struct replay_results *out)
{
	for (unsigned i = 0; i < out->results; i++)
		if (!out->result[i].err.code)
			return false;
	return true;
}

static void feed(struct replay_results *out, const struct replay_config *cfg, struct crew *c, struct trace_reader *r)
{
	const struct trace_event *ev;
	unsigned n;
	int ret;

	while ((ret = trace_next(r, &ev, &n, &out->why)) == 1) {
		n = (unsigned)min_u64(n, cfg->limit_events - out->events);
		crew_batch(c, ev, n);
		out->events += n;
		if (cfg->progress)
			cfg->progress(cfg->ctx, r, out->events);
		out->whole = out->events == cfg->limit_events;
		if (out->whole || all_failed(out))
			return;
		if (cfg->stop && cfg->stop(cfg->ctx)) {
			out->partial = true;
			error_set(&out->why, -EINTR, "interrupted");
			return;
		}
	}
	out->partial = ret < 0;
	out->whole = ret == 0;
}

static void conclude_all(struct replay_results *out, struct crew *c)
{
	for (unsigned i = 0; i < c->machines; i++) {
		conclude(&c->machine[i]);
		if (out->insns < out->result[i].taken.insns)
			out->insns = out->result[i].taken.insns;
		if (out->result[i].err.code && !out->partial) {
			out->partial = true;
			out->why = out->result[i].err;
		}
	}
}

static int check(struct replay_results *out, const struct replay_config *cfg, struct error *err)
{
	bool own = false; /* does anybody use the trace's tables? */

	for (unsigned i = 0; i < cfg->cells; i++)
		own |= !uses_model(cfg, &out->info, &cfg->cell[i]);
	if (own && !out->info.tables)
		return error_set(err, -EINVAL, "%.200s: a plain trace: it has no page tables of its own (--tables model)",
				 out->path);
	if (own && !out->memory)
		return error_set(err, -EINVAL, "%.200s: the trace does not say how much memory the guest has: --memory",
				 out->path);
	return cfg->cells ? 0 : error_set(err, -EINVAL, "no design is left that could be replayed");
}

void replay_results_begin(struct replay_results *out, const struct replay_config *cfg, const struct trace_reader *r)
{
	*out = (struct replay_results){.info = *trace_reader_info(r)};
	strncpy(out->path, trace_reader_path(r), sizeof(out->path) - 1);
	out->memory = cfg->memory ? cfg->memory : out->info.memory;
	out->trace_partial = trace_reader_is_partial(r);
}

int replay_trace(struct replay_results *out, const struct replay_config *cfg, struct trace_reader *r, struct error *err)
{
	struct crew *c = calloc(1, sizeof(*c));
	double began = now();
	int ret;

	replay_results_begin(out, cfg, r);
	ret = c ? check(out, cfg, err) : error_set(err, -ENOMEM, "replay: out of memory");
	for (unsigned i = 0; i < cfg->cells && !ret; i++, c->machines++, out->results++)
		ret = make_machine(&c->machine[i], out, cfg, i, err);
	if (!ret) {
		crew_start(c, cfg->jobs);
		feed(out, cfg, c, r);
		crew_stop(c);
		out->trace_partial = trace_reader_is_partial(r); /* of a pipe that is known now */
		conclude_all(out, c);
	}
	for (unsigned i = 0; c && i < cfg->cells; i++) {
		osm_destroy(c->machine[i].os);
		engine_destroy(c->machine[i].vm);
	}
	free(c);
	out->seconds = now() - began;
	return ret;
}

void replay_free(struct replay_results *r)
{
	for (unsigned i = 0; i < REPLAY_CELLS_MAX; i++) {
		sim_log_destroy(r->result[i].sim_log);
		r->result[i].sim_log = NULL;
	}
}
