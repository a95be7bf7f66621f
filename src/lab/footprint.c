/* See footprint.h. One address space, one area, code in a page of its own. */
#include "lab/footprint.h"

#include <errno.h>
#include <stdlib.h>

#define MIB ((uint64_t)1 << 20)
#define BATCH (4 * PATTERN_STEP_MAX)

struct machine {
	const struct footprint_config *cfg;
	struct engine_vm *vm;
	struct osm *os;
	uint64_t accesses;
	struct trace_event ev[BATCH + PATTERN_STEP_MAX];
	unsigned n;
};

static int give(void *ctx, const struct trace_event *ev, unsigned n, struct error *err)
{
	return engine_replay(((struct machine *)ctx)->vm, ev, n, err);
}

static int flush(struct machine *m, struct error *err)
{
	unsigned n = m->n;

	m->n = 0;
	return osm_put(m->os, m->ev, n, err);
}

/* ... and nothing is held back on the way, so that all of it is counted. */
static int settle(struct machine *m, struct error *err)
{
	int ret = flush(m, err);

	if (ret == 0)
		ret = osm_finish(m->os, err);
	return ret ? ret : engine_replay_finish(m->vm, err);
}

static int put(struct machine *m, struct trace_event ev, struct error *err)
{
	m->ev[m->n++] = ev;
	return m->n < BATCH ? 0 : flush(m, err);
}

/* ---- making it ---- */

/* The data; their tables, twice where they move; what the kernel and a pool of tables take. */
static uint64_t memory_for(uint64_t bytes) { return (bytes + bytes / 64 + 256 * MIB + 2 * MIB - 1) & ~(2 * MIB - 1); }

static struct engine_config engine_for(const struct footprint_config *cfg, const struct osm_config *os)
{
	struct trace_info info = {0};
	struct vm_config vm;

	vm_config_default(&vm);
	osm_info(os, &info);
	vm.engine.mmu = cfg->mmu;
	vm.engine.memory = os->memory;
	vm.engine.host_pages = cfg->large ? HOST_PAGES_2M : HOST_PAGES_4K;
	vm.engine.cpu.hw = *cfg->hw;
	vm.engine.cpu.data_cache = cfg->data_cache;
	vm.engine.cpu.translate = false;
	vm.engine.cpu.maxphyaddr = info.maxphyaddr;
	vm.engine.cpu.feature[CPUF_DMT] = true;
	return vm.engine;
}

static int make(struct machine *m, struct error *err)
{
	const struct trace_sink sink = {give, m};
	struct engine_config e;
	struct osm_config os;
	int ret;

	osm_config_init(&os, memory_for(m->cfg->bytes));
	os.pages = m->cfg->large ? OSM_PAGES_THP : OSM_PAGES_4K;
	os.kind = m->cfg->kind;
	e = engine_for(m->cfg, &os);
	ret = engine_create(&m->vm, &e, err);
	if (ret == 0)
		ret = engine_replay_begin(m->vm, false, err);
	return ret ? ret : osm_create(&m->os, &os, &sink, err);
}

/* Every page is written once, in the order of addresses, as programs fill their arrays. */
static int fill(struct machine *m, struct error *err)
{
	struct trace_event map = {.kind = TRACE_MAP, .flags = TRACE_MAP_WRITE, .addr = PATTERN_BASE, .value = m->cfg->bytes};
	uint64_t page = m->cfg->large ? 2 * MIB : PAGE_SIZE;
	int ret = put(m, map, err);

	for (uint64_t at = 0; at < m->cfg->bytes && ret == 0; at += page)
		ret = put(m, pattern_access(TRACE_WRITE, PATTERN_BASE + at), err);
	return ret ? ret : settle(m, err);
}

/* ---- patterns ---- */

static int run_steps(struct machine *m, struct pattern_run *r, uint64_t accesses, struct error *err)
{
	int ret = 0;

	for (uint64_t done = 0; done < accesses && ret == 0;) {
		unsigned n = pattern_step(r, m->ev + m->n);

		m->n += n;
		done += n;
		m->accesses += n;
		if (m->n >= BATCH)
			ret = flush(m, err);
	}
	return ret ? ret : settle(m, err);
}

static void look(const struct machine *m, const struct pattern_run *r, struct footprint_count *c)
{
	engine_observe(m->vm, &c->obs);
	c->steps = r->turn;
	c->accesses = m->accesses;
}

static int run_pattern(struct machine *m, const struct pattern *p, struct footprint_count *out, struct error *err)
{
	struct footprint_count *before = calloc(1, sizeof(*before));
	struct pattern_run r;
	int ret = before ? 0 : error_set(err, -ENOMEM, "out of memory");

	pattern_begin(&r, p, m->cfg->bytes);
	if (ret == 0)
		ret = run_steps(m, &r, m->cfg->warm, err);
	if (ret == 0)
		look(m, &r, before);
	if (ret == 0)
		ret = run_steps(m, &r, m->cfg->accesses, err);
	if (ret == 0) {
		look(m, &r, out);
		lab_obs_subtract(&out->obs, &before->obs);
		out->steps -= before->steps;
		out->accesses -= before->accesses;
	}
	free(before);
	return ret;
}

int footprint_run(const struct footprint_config *cfg, const struct pattern *const *pattern, unsigned n,
		  struct footprint_count *count, struct error *err)
{
	struct machine *m = calloc(1, sizeof(*m));
	int ret = m ? 0 : error_set(err, -ENOMEM, "out of memory");

	if (cfg->bytes < FOOTPRINT_MIN || cfg->bytes > FOOTPRINT_MAX || cfg->bytes % (2 * MIB))
		ret = error_set(err, -EINVAL, "a footprint is a multiple of 2 MiB from 64M to 256G");
	if (ret == 0) {
		m->cfg = cfg;
		ret = make(m, err);
	}
	if (ret == 0)
		ret = fill(m, err);
	for (unsigned i = 0; i < n && ret == 0; i++)
		ret = run_pattern(m, pattern[i], &count[i], err);
	if (ret == 0 && engine_replayed(m->vm).unexpected)
		ret = error_set(err, -EIO, "the model of the system and the tables contradict each other");
	if (m) {
		osm_destroy(m->os);
		engine_destroy(m->vm);
	}
	free(m);
	return ret;
}
