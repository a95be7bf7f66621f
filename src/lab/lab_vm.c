/* See lab_vm.h. Each guest has a machine of its own, so threads have nothing in common but the list of tasks. */
#include "lab/lab_vm.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define MIB ((uint64_t)1 << 20)
#define THREADS_MAX 64
/* More than any lab's guest takes; one that says nothing is given up. */
#define INSNS_MAX ((uint64_t)20000000000)

/* ---- counters ---- */

#define OBS_WORDS (sizeof(struct obs) / sizeof(uint64_t))
static_assert(sizeof(struct obs) % sizeof(uint64_t) == 0, "counters are 64-bit words, all of them");
#define COST_PARTS (sizeof(struct cost) / sizeof(double))
static_assert(sizeof(struct cost) % sizeof(double) == 0, "the parts of a cost are doubles, all of them");

static void combine(struct obs *a, const struct obs *b, bool subtract)
{
	uint64_t x[OBS_WORDS], y[OBS_WORDS];

	memcpy(x, a, sizeof(x));
	memcpy(y, b, sizeof(y));
	for (unsigned i = 0; i < OBS_WORDS; i++)
		x[i] = subtract ? x[i] - y[i] : x[i] + y[i];
	memcpy(a, x, sizeof(x));
}

void lab_obs_subtract(struct obs *a, const struct obs *b) { combine(a, b, true); }

void lab_count_subtract(struct lab_count *a, const struct lab_count *b)
{
	combine(&a->obs, &b->obs, true);
	a->insns -= b->insns;
}

void lab_count_add(struct lab_count *a, const struct lab_count *b)
{
	combine(&a->obs, &b->obs, false);
	a->insns += b->insns;
}

void lab_count_look(struct vm *vm, struct lab_count *out)
{
	vm_observe(vm, &out->obs);
	out->insns = vm_insns(vm);
}

/* The counters of @c that went up (or, with @down, what those that went down lost); the others 0. */
static void one_direction(const struct lab_count *c, bool down, struct lab_count *out)
{
	uint64_t x[OBS_WORDS];

	memcpy(x, &c->obs, sizeof(x));
	for (unsigned i = 0; i < OBS_WORDS; i++) {
		int64_t v = down ? -(int64_t)x[i] : (int64_t)x[i];

		x[i] = v > 0 ? (uint64_t)v : 0;
	}
	memcpy(&out->obs, x, sizeof(x));
	out->insns = down ? 0 : c->insns;
}

/* The account is linear: that of a difference is the difference of two. */
void lab_cost_of(const struct hw *hw, const struct lab_count *c, struct cost *out)
{
	struct lab_count part;
	struct cost minus;
	double x[COST_PARTS], y[COST_PARTS];

	one_direction(c, false, &part);
	cost_account(hw, &part.obs, part.insns, out);
	one_direction(c, true, &part);
	cost_account(hw, &part.obs, part.insns, &minus);
	memcpy(x, out, sizeof(x));
	memcpy(y, &minus, sizeof(y));
	for (unsigned k = 0; k < COST_PARTS; k++)
		x[k] -= y[k];
	memcpy(out, x, sizeof(x));
}

void lab_cost(const struct lab_task *t, unsigned i, struct cost *out)
{
	lab_cost_of(&t->cfg.engine.cpu.hw, &t->count[i], out);
}

/* ---- one guest ---- */

void lab_task_init(struct lab_task *t, const char *guest, enum engine_mmu mmu, const struct hw *hw)
{
	const struct lab_guest *g = lab_guests;

	*t = (struct lab_task){.measure = lab_measure_parts, .what = engine_mmu_name[mmu]};
	vm_config_default(&t->cfg);
	t->cfg.engine.mmu = mmu;
	t->cfg.engine.cpu.hw = *hw;
	t->cfg.engine.memory = 64 * MIB;
	t->cfg.limit_insns = INSNS_MAX;
	t->cfg.kernel = guest;
	while (g->name && strcmp(g->name, guest) != 0)
		g++;
	t->cfg.kernel_image = g->image;
	t->cfg.kernel_bytes = g->bytes;
}

int lab_run_to(struct vm *vm, const char *text, struct error *err)
{
	struct vm_stop stop = VM_STOP_NONE;
	struct vm_result *r;
	int length = (int)strcspn(text, "\n"), ret;

	stop.console = text;
	if (vm_run_until(vm, &stop) == VM_STOPPED_CONSOLE)
		return 0;
	r = malloc(sizeof(*r));
	if (!r)
		return error_set(err, -ENOMEM, "out of memory");
	vm_result(vm, r);
	ret = error_set(err, -EIO, "the guest ended (%s) before it said '%.*s': %.200s", vm_end_name[r->end],
			length, text, r->message);
	free(r);
	return ret;
}

static double thread_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

int lab_measure_parts(struct vm *vm, struct lab_task *t, struct error *err)
{
	static const char *const text[3] = {"LAB-0\n", "LAB-1\n", "LAB-2\n"};
	struct lab_count *at = malloc(3 * sizeof(*at));
	double began = 0;
	int ret = 0;

	if (!at)
		return error_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < 3 && ret == 0; i++) {
		ret = lab_run_to(vm, text[i], err);
		if (i == 2)
			t->host_ns = lab_per_turn(t, thread_ns() - began) / 2;
		if (ret == 0)
			lab_count_look(vm, &at[i]);
		if (ret == 0 && t->looked)
			t->looked(t, i);
		began = thread_ns();
	}
	if (ret == 0) {
		lab_count_subtract(&at[2], &at[1]);
		lab_count_subtract(&at[1], &at[0]);
		lab_count_subtract(&at[2], &at[1]);
		t->count[0] = at[2];
	}
	free(at);
	return ret;
}

static int run_task(struct lab_task *t)
{
	struct vm *vm;
	int ret;

	t->cfg.append = t->append;
	ret = t->make ? t->make(t, &vm, &t->err) : vm_create(&vm, &t->cfg, &t->err);
	if (ret)
		return ret;
	ret = t->measure(vm, t, &t->err);
	vm_destroy(vm);
	return ret;
}

/* ---- several at a time ---- */

struct pool {
	const struct lab_options *o;
	lab_job *job;
	void *ctx;
	unsigned jobs, next, done;
	bool failed;
	pthread_mutex_t lock; /* of next, done, failed and the progress function */
};

static bool take(struct pool *p, unsigned *i)
{
	bool more;

	pthread_mutex_lock(&p->lock);
	more = p->next < p->jobs && !p->failed;
	if (more)
		*i = p->next++;
	pthread_mutex_unlock(&p->lock);
	return more;
}

static void *work(void *arg)
{
	struct pool *p = arg;
	unsigned i;

	while (take(p, &i)) {
		const char *what = "";
		int ret = p->job(p->ctx, i, &what);

		pthread_mutex_lock(&p->lock);
		p->done++;
		p->failed |= ret != 0;
		if (p->o->progress)
			p->o->progress(p->o->ctx, what, p->done, p->jobs);
		pthread_mutex_unlock(&p->lock);
	}
	return NULL;
}

void lab_run_jobs(const struct lab_options *o, lab_job *job, void *ctx, unsigned jobs)
{
	struct pool p = {.o = o, .job = job, .ctx = ctx, .jobs = jobs, .lock = PTHREAD_MUTEX_INITIALIZER};
	pthread_t thread[THREADS_MAX];
	unsigned threads = 0, want = (unsigned)min_u64(min_u64(o->threads, jobs), THREADS_MAX);

	/* This thread works, too; if no others can be had it does everything. */
	while (threads + 1 < want && pthread_create(&thread[threads], NULL, work, &p) == 0)
		threads++;
	work(&p);
	while (threads)
		pthread_join(thread[--threads], NULL);
	pthread_mutex_destroy(&p.lock);
}

static int run_one(void *ctx, unsigned i, const char **what)
{
	struct lab_task *t = (struct lab_task *)ctx + i;

	*what = t->what;
	return run_task(t);
}

int lab_run_tasks(const struct lab_options *o, struct lab_task *task, unsigned tasks, struct error *err)
{
	lab_run_jobs(o, run_one, task, tasks);
	for (unsigned i = 0; i < tasks; i++)
		if (task[i].err.code)
			return error_set(err, task[i].err.code, "%s (%s %s): %.300s", task[i].what,
					 task[i].cfg.kernel, task[i].append, task[i].err.text);
	return 0;
}
