/*
 * See migrate_out.h. The thread of the job sends; whatever touches more of the VM than a copy of a page it has the VM's
 * thread do. After a migration that did not end well but could not be taken back either (in doubt, stranded, held),
 * what it knows stays, and migrate-recover goes on with it.
 */
#include "vm/migrate_out.h"
#include "vm/migrate_disks.h"
#include "vm/migrate_throttle.h"
#include "vm/migrate_wire.h"
#include "vm/vm_config.h"
#include "vm/vm_state.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SECTIONS_MAX  256
#define RATE_MIN      65536 /* bytes a second; below that a stalled connection could not be told from a slow one */

struct saved_section {
	char name[STREAM_NAME_MAX + 1];
	void *data;
	size_t bytes;
};

struct migrate_out {
	struct control *control;
	struct vm *vm;
	struct vm_ticker ticker;         /* tells of the VM's end */
	bool watching;
	int cancel_fd;                   /* readable: end */
	/* one migration */
	struct migrate_source *source;   /* NULL: none that could be recovered */
	struct migrate_options opt;
	enum engine_dirty dirty;
	struct transport_config how;
	struct transport_address to;
	char *strings[5];                /* of how */
	struct migrate_throttle *throttle;
	bool with_disks, disks_begun;
	struct disks_out *disks;         /* NULL: none go along */
	struct saved_section section[SECTIONS_MAX];
	unsigned sections;
	bool was_paused;                 /* by the user, before it was by us */
	bool released;                   /* its images are closed */
	/* its thread */
	pthread_t thread;
	bool joinable;
	bool recovering;                 /* it is to go on with @source */
	struct control_job *job;
	pthread_mutex_t lock;            /* of what follows */
	bool busy;                       /* the thread is at work */
	struct migrate_progress progress;
	enum migrate_outcome outcome;
	bool has_outcome;
	struct error err;
};

/* ---- by the VM's thread ---- */

/* What it is asked for: one function at a time. */
struct errand {
	struct migrate_out *m;
	struct error *err;
	uint64_t *bitmap;
	uint64_t *hash;
	migrate_put_section *put;
	void *to;
};

static int on_vm(struct errand *e, int (*fn)(void *ctx))
{
	int ret = control_run_on_vm(e->m->control, fn, e);

	if (ret == -ECANCELED && e->err && !e->err->code)
		error_set(e->err, ret, "the VM has ended");
	return ret;
}

static int do_track(void *ctx)
{
	struct errand *e = ctx;

	return engine_dirty_arm(vm_engine(e->m->vm), e->m->dirty, e->err);
}

static int do_collect(void *ctx)
{
	struct errand *e = ctx;

	return engine_dirty_collect(vm_engine(e->m->vm), e->bitmap);
}

static int do_untrack(void *ctx)
{
	struct errand *e = ctx;

	engine_dirty_disarm(vm_engine(e->m->vm));
	return 0;
}

static int do_hash(void *ctx)
{
	struct errand *e = ctx;
	struct engine_hash h;

	engine_state_hash(vm_engine(e->m->vm), &h);
	memcpy(e->hash, h.all, sizeof(h.all));
	return 0;
}

static int do_describe(void *ctx)
{
	struct errand *e = ctx;
	char *text;
	int ret = e->m->with_disks ? disks_out_announce(e->m->vm, e->put, e->to, e->err) : 0;

	if (ret == 0)
		ret = vm_config_to_text(&text, vm_get_config(e->m->vm), e->err);
	if (ret)
		return ret;
	ret = e->put(e->to, VM_STATE_CONFIG, text, strlen(text), e->err);
	free(text);
	return ret;
}

static void forget_sections(struct migrate_out *m)
{
	while (m->sections)
		free(m->section[--m->sections].data);
}

static int keep_section(void *ctx, const char *name, const void *bytes, size_t n, struct error *err)
{
	struct migrate_out *m = ctx;
	struct saved_section *s = &m->section[m->sections];

	if (strcmp(name, VM_STATE_CONFIG) == 0)
		return 0;
	if (m->sections == SECTIONS_MAX || strlen(name) >= sizeof(s->name))
		return error_set(err, -ENOSPC, "too many sections of state");
	s->data = malloc(n ? n : 1);
	if (!s->data)
		return error_set(err, -ENOMEM, "out of memory");
	memcpy(s->data, bytes, n);
	s->bytes = n;
	strcpy(s->name, name);
	m->sections++;
	return 0;
}

static int take_images(struct migrate_out *m, struct error *err)
{
	int ret = m->released ? vm_open_disks(m->vm, err) : 0;

	m->released = m->released && ret;
	return ret;
}

static int do_resume(void *ctx)
{
	struct errand *e = ctx;
	int ret = take_images(e->m, e->err);

	if (ret)
		return ret;
	forget_sections(e->m);
	control_hold(e->m->control, NULL);
	if (!e->m->was_paused)
		control_continue(e->m->control);
	return 0;
}

/* All its state is told here, since without its images a disk has none. */
static int do_pause(void *ctx)
{
	struct errand *e = ctx;
	struct migrate_out *m = e->m;
	const struct state_sink sink = {.ctx = m, .section = keep_section};
	int ret = vm_quiesce(m->vm);

	if (ret)
		return error_set(e->err, ret, "the VM has ended");
	m->was_paused = vm_is_paused(m->vm);
	control_pause(m->control);
	control_hold(m->control, "the VM is on its way to another host (query-migrate)");
	ret = m->disks ? disks_out_complete(m->disks, e->err) : 0;
	if (ret == 0)
		ret = vm_save_state(m->vm, &sink, e->err);
	if (ret == 0) {
		m->released = true;
		ret = vm_close_disks(m->vm, e->err);
	}
	if (ret)
		do_resume(&(struct errand){.m = m});
	return ret;
}

static int do_begin_disks(void *ctx)
{
	struct errand *e = ctx;

	return disks_out_begin(&e->m->disks, e->m->vm, e->err);
}

static int do_end_disks(void *ctx)
{
	disks_out_end(((struct migrate_out *)ctx)->disks);
	return 0;
}

static int do_leave(void *ctx)
{
	struct migrate_out *m = ctx;

	vm_leave(m->vm, VM_END_MIGRATED);
	return 0;
}

/* ---- what the protocol asks for ---- */

static int out_read_page(void *ctx, uint64_t page, uint8_t data[PAGE_SIZE])
{
	return engine_page_read(vm_engine(((struct migrate_out *)ctx)->vm), page, data);
}

static int out_track(void *ctx, struct error *err)
{
	return on_vm(&(struct errand){.m = ctx, .err = err}, do_track);
}

static int out_collect(void *ctx, uint64_t *bitmap, struct error *err)
{
	struct migrate_out *m = ctx;
	struct pollfd p = {.fd = m->cancel_fd, .events = POLLIN};

	if (!m->released && (control_job_cancelled(m->job) || poll(&p, 1, 0) > 0))
		return error_set(err, -ECANCELED, "cancelled");
	return on_vm(&(struct errand){.m = m, .err = err, .bitmap = bitmap}, do_collect);
}

static void out_untrack(void *ctx) { on_vm(&(struct errand){.m = ctx}, do_untrack); }
static void out_throttle(void *ctx, unsigned percent)
{
	migrate_throttle_set(((struct migrate_out *)ctx)->throttle, percent);
}

static int out_describe(void *ctx, migrate_put_section *put, void *to, struct error *err)
{
	return on_vm(&(struct errand){.m = ctx, .err = err, .put = put, .to = to}, do_describe);
}

/* The first time, mirrors begin. */
static int out_disks(void *ctx, migrate_put_section *put, void *to, uint64_t *left, bool *any, struct error *err)
{
	struct migrate_out *m = ctx;
	int ret = m->disks_begun ? 0 : on_vm(&(struct errand){.m = m, .err = err}, do_begin_disks);

	m->disks_begun = true;
	*left = 0;
	*any = false;
	if (ret || !m->disks)
		return ret;
	ret = disks_out_send(m->disks, put, to, left, any, err);
	control_job_set(m->job, "disk_left", (int64_t)*left);
	return ret;
}

/* Whatever has become of it: the guest goes on without mirrors. */
static void end_disks(struct migrate_out *m)
{
	if (m->disks && control_run_on_vm(m->control, do_end_disks, m))
		disks_out_end(m->disks); /* there is no VM any more: its devices have let go */
	disks_out_free(m->disks);
	m->disks = NULL;
	m->disks_begun = false;
}

static int out_pause(void *ctx, struct error *err)
{
	return on_vm(&(struct errand){.m = ctx, .err = err}, do_pause);
}

static int out_save(void *ctx, migrate_put_section *put, void *to, struct error *err)
{
	const struct migrate_out *m = ctx;
	int ret = 0;

	for (unsigned i = 0; i < m->sections && ret == 0; i++)
		ret = put(to, m->section[i].name, m->section[i].data, m->section[i].bytes, err);
	return ret;
}

static void out_hash(void *ctx, uint64_t hash[2]) { on_vm(&(struct errand){.m = ctx, .hash = hash}, do_hash); }

static int out_resume(void *ctx, struct error *err)
{
	return on_vm(&(struct errand){.m = ctx, .err = err}, do_resume);
}

static int64_t out_now(void *ctx)
{
	(void)ctx;
	return transport_now_ns();
}

static int out_connect(void *ctx, bool may_cancel, struct transport **out, struct error *err)
{
	const struct migrate_out *m = ctx;
	struct transport_config how = m->how;

	how.cancel_fd = may_cancel ? m->cancel_fd : -1;
	return transport_connect(out, &m->to, &how, err);
}

static bool out_cancelled(void *ctx)
{
	const struct migrate_out *m = ctx;
	struct pollfd p = {.fd = m->cancel_fd, .events = POLLIN};

	return control_job_cancelled(m->job) || poll(&p, 1, 0) > 0;
}

static void out_nap(void *ctx, int64_t ms)
{
	const struct migrate_out *m = ctx;
	struct pollfd p = {.fd = m->cancel_fd, .events = POLLIN};

	if (poll(&p, 1, (int)ms) > 0)
		usleep(10000); /* the owner wants to end; but what is to be done may need another attempt */
}

static void out_seen(void *ctx, const struct migrate_progress *p)
{
	struct migrate_out *m = ctx;

	pthread_mutex_lock(&m->lock);
	m->progress = *p;
	pthread_mutex_unlock(&m->lock);
	control_job_phase(m->job, migrate_phase_name[p->phase]);
}

/* ---- the thread ---- */

/* For who hears of its end only by the event. */
static void set_numbers(struct migrate_out *m, struct control_job *job)
{
	const struct migrate_progress *p = &m->progress;

	control_job_set(job, "rounds", p->round);
	control_job_set(job, "sent", (int64_t)p->sent);
	control_job_set(job, "zero", (int64_t)p->zero);
	control_job_set(job, "demanded", (int64_t)p->demanded);
	control_job_set(job, "bytes", (int64_t)p->bytes);
	control_job_set(job, "first_round_bytes", (int64_t)p->first_bytes);
	control_job_set(job, "first_round_us", (int64_t)p->first_ns / 1000);
	control_job_set(job, "downtime_us", (int64_t)p->downtime_ns / 1000);
	control_job_set(job, "total_us", (int64_t)p->total_ns / 1000);
	control_job_set(job, "recoveries", (int64_t)p->recoveries);
}

static void finish(struct migrate_out *m, enum migrate_outcome outcome, const struct error *err)
{
	bool over = outcome == MIGRATE_MOVED || outcome == MIGRATE_STAYED;

	end_disks(m);
	if (over) {
		migrate_source_free(m->source);
		m->source = NULL;
		forget_sections(m);
	}
	pthread_mutex_lock(&m->lock);
	m->busy = false;
	m->outcome = outcome;
	m->has_outcome = true;
	m->err = *err;
	pthread_mutex_unlock(&m->lock);
	set_numbers(m, m->job);
	control_job_end(m->job, outcome == MIGRATE_MOVED ? 0 : err->code ? err->code : -EIO, err);
	if (outcome == MIGRATE_MOVED)
		control_run_on_vm(m->control, do_leave, m);
}

static void *work(void *ctx)
{
	struct migrate_out *m = ctx;
	struct error err = {0};
	enum migrate_outcome outcome =
		m->recovering ? migrate_source_recover(m->source, &err) : migrate_source_run(m->source, &err);

	finish(m, outcome, &err);
	return NULL;
}

static void join(struct migrate_out *m)
{
	if (m->joinable)
		pthread_join(m->thread, NULL);
	m->joinable = false;
}

static void set_busy(struct migrate_out *m, bool busy)
{
	pthread_mutex_lock(&m->lock);
	m->busy = busy;
	pthread_mutex_unlock(&m->lock);
}

static int start_thread(struct migrate_out *m, bool recovering, struct error *err)
{
	eventfd_t n;
	int ret = control_job_begin(m->control, "migrate", &m->job, err);

	if (ret)
		return ret;
	join(m);
	if (eventfd_read(m->cancel_fd, &n) && errno != EAGAIN)
		return error_set(err, -errno, "eventfd: %s", strerror(errno));
	control_job_on_cancel(m->job, m->cancel_fd);
	m->recovering = recovering;
	set_busy(m, true);
	ret = -pthread_create(&m->thread, NULL, work, m);
	m->joinable = ret == 0;
	if (ret) {
		set_busy(m, false);
		error_set(err, ret, "cannot start a thread: %s", strerror(-ret));
		control_job_end(m->job, ret, err);
	}
	return ret;
}

/* ---- commands ---- */

static const char *text_of(const json_t *args, const char *name)
{
	return json_string_value(json_object_get(args, name));
}
static bool flag_of(const json_t *args, const char *name) { return json_is_true(json_object_get(args, name)); }

/* A number within bounds, or what it is without one. */
static int number_of(const json_t *args, const char *name, int64_t least, int64_t most, int64_t *n, struct error *err)
{
	const json_t *j = json_object_get(args, name);

	if (!j)
		return 0;
	if (json_integer_value(j) < least || json_integer_value(j) > most)
		return error_set(err, -EINVAL, "%s: from %lld to %lld", name, (long long)least, (long long)most);
	*n = json_integer_value(j);
	return 0;
}

static int name_of(const char *what, const char *text, const char *const *names, unsigned count, struct error *err)
{
	for (unsigned i = 0; i < count; i++)
		if (strcmp(names[i], text) == 0)
			return (int)i;
	return error_set(err, -EINVAL, "%s: no '%.60s'", what, text);
}

static int read_numbers(struct migrate_out *m, const json_t *args, struct error *err)
{
	int64_t rounds = m->opt.rounds, downtime_ms = (int64_t)m->opt.downtime_ns / 1000000, rate = 0, level = 0;
	int ret = number_of(args, "rounds", 1, 100000, &rounds, err);

	if (ret == 0)
		ret = number_of(args, "downtime_ms", 0, 3600000, &downtime_ms, err);
	if (ret == 0)
		ret = number_of(args, "bandwidth", RATE_MIN, INT64_MAX, &rate, err);
	if (ret == 0)
		ret = number_of(args, "compress", 0, 19, &level, err);
	if (ret == 0)
		ret = number_of(args, "recover_ms", 0, 86400000, &m->opt.recover_ms, err);
	if (ret == 0)
		ret = number_of(args, "stall_ms", 100, 86400000, &m->how.stall_ms, err);
	m->opt.rounds = (unsigned)rounds;
	m->opt.downtime_ns = (uint64_t)downtime_ms * 1000000;
	m->opt.bytes_per_second = (uint64_t)rate;
	m->opt.compress = (int)level;
	return ret;
}

static int read_mode(struct migrate_out *m, const json_t *args, struct error *err)
{
	const char *mode = text_of(args, "mode");
	int n = mode ? name_of("mode", mode, migrate_mode_name, MIGRATE_MODES, err) : MIGRATE_PRECOPY;

	if (n < 0)
		return n;
	m->opt = MIGRATE_OPTIONS_DEFAULT;
	m->opt.mode = (enum migrate_mode)n;
	if (m->opt.mode == MIGRATE_HYBRID)
		m->opt.rounds = 2;
	m->opt.auto_converge = flag_of(args, "auto_converge");
	m->opt.strict = flag_of(args, "strict");
	m->opt.verify = flag_of(args, "verify");
	m->with_disks = flag_of(args, "disks");
	if (m->opt.verify && (m->opt.mode == MIGRATE_POSTCOPY || m->opt.mode == MIGRATE_HYBRID))
		return error_set(err, -EINVAL,
				 "verify: with post-copy memory is never in one place while the VM stands still");
	return 0;
}

/* How written pages are found: as asked for, or the cheapest the scheme has. */
static int read_dirty(struct migrate_out *m, const json_t *args, struct error *err)
{
	static const enum engine_dirty by_cost[] = {ENGINE_DIRTY_PML, ENGINE_DIRTY_WP};
	enum engine_mmu mmu = vm_get_config(m->vm)->engine.mmu;
	const char *name = text_of(args, "dirty");
	int n = name ? name_of("dirty", name, engine_dirty_name, ENGINE_DIRTY_COUNT, err) : -1;

	if (m->opt.mode == MIGRATE_STOP || m->opt.mode == MIGRATE_POSTCOPY)
		return name && n < 0 ? n : 0;
	if (name && n < 0)
		return n;
	for (unsigned i = 0; !name && n < 0 && i < ARRAY_SIZE(by_cost); i++)
		if (engine_dirty_possible(mmu, by_cost[i]))
			n = (int)by_cost[i];
	if (n < 0)
		return error_set(err, -ENOTSUP,
				 "%s: this scheme cannot tell which pages are written; postcopy or stop can do without",
				 engine_mmu_name[mmu]);
	m->dirty = (enum engine_dirty)n;
	if (!engine_dirty_possible(mmu, m->dirty))
		return error_set(err, -ENOTSUP, "dirty: %s has no '%s'", engine_mmu_name[mmu], engine_dirty_name[n]);
	return 0;
}

static void forget_strings(struct migrate_out *m)
{
	for (unsigned i = 0; i < ARRAY_SIZE(m->strings); i++) {
		free(m->strings[i]);
		m->strings[i] = NULL;
	}
}

/* Who the other end has to be, and how to get there. */
static int read_peer(struct migrate_out *m, const json_t *args, struct error *err)
{
	static const char *const names[ARRAY_SIZE(m->strings)] = {"psk", "ca", "cert", "key", "name"};
	struct transport_config *how = &m->how;
	int ret = transport_parse_address(text_of(args, "to"), &m->to, err);

	if (ret)
		return ret;
	forget_strings(m);
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		const char *text = text_of(args, names[i]);

		m->strings[i] = text ? strdup(text) : NULL;
		if (text && !m->strings[i])
			return error_set(err, -ENOMEM, "out of memory");
	}
	*how = TRANSPORT_CONFIG_DEFAULT;
	how->psk_file = m->strings[0];
	how->ca_file = m->strings[1];
	how->cert_file = m->strings[2];
	how->cert_key = m->strings[3];
	how->peer_name = m->strings[4];
	ret = transport_choose_security(how, &m->to, flag_of(args, "plain"), err);
	return ret ? ret : transport_check(how, err);
}

/* What is thrown away at the end is in a file without a name, here. */
static int check_disks(const struct migrate_out *m, struct error *err)
{
	const struct devices_config *d = &vm_get_config(m->vm)->devices;
	struct devices_disk disk;

	for (unsigned i = 0; i < d->disks; i++) {
		int ret = devices_parse_disk(d->disk[i], &disk, err);

		if (ret)
			return ret;
		if (disk.snapshot && !disk.read_only)
			return error_set(err, -ENOTSUP,
					 "disk '%.300s': what the guest writes with 'snapshot' stays on this host",
					 disk.path);
	}
	return 0;
}

static void watch_end(void *ctx) { eventfd_write(((struct migrate_out *)ctx)->cancel_fd, 1); }

static void nothing(void *ctx) { (void)ctx; }

static int make_source(struct migrate_out *m, struct error *err)
{
	const struct migrate_source_vm vm = {
		.ctx = m, .pages = engine_pages(vm_engine(m->vm)), .read_page = out_read_page, .track = out_track,
		.collect = out_collect, .untrack = out_untrack, .throttle = out_throttle, .describe = out_describe,
		.disks = m->with_disks ? out_disks : NULL, .pause = out_pause, .save = out_save, .hash = out_hash, .resume = out_resume, .now_ns = out_now,
	};
	const struct migrate_peer peer = {.ctx = m, .connect = out_connect, .nap = out_nap, .cancelled = out_cancelled};
	int ret = migrate_source_create(&m->source, &m->opt, &vm, &peer, err);

	if (ret == 0)
		migrate_source_watch(m->source, out_seen, m);
	return ret;
}

static bool is_busy(struct migrate_out *m)
{
	bool busy;

	pthread_mutex_lock(&m->lock);
	busy = m->busy;
	pthread_mutex_unlock(&m->lock);
	return busy;
}

static int run_migrate(const struct control_call *call, json_t **ret_json, struct error *err)
{
	struct migrate_out *m = call->ctx;
	int ret;

	(void)ret_json;
	if (is_busy(m))
		return error_set(err, -EBUSY, "the VM is being migrated already");
	if (m->source)
		return error_set(err, -EBUSY,
				 "a migration has not been settled: migrate-recover or migrate-resume comes first");
	m->vm = call->vm;
	if (!m->watching) {
		m->ticker = (struct vm_ticker){.tick = nothing, .ended = watch_end, .ctx = m};
		vm_add_ticker(m->vm, &m->ticker);
		m->watching = true;
	}
	ret = read_mode(m, call->args, err);
	if (ret == 0)
		ret = read_peer(m, call->args, err);
	if (ret == 0)
		ret = read_numbers(m, call->args, err);
	if (ret == 0)
		ret = read_dirty(m, call->args, err);
	if (ret == 0)
		ret = check_disks(m, err);
	if (ret == 0)
		ret = make_source(m, err);
	if (ret)
		return ret;
	ret = start_thread(m, false, err);
	if (ret) {
		migrate_source_free(m->source);
		m->source = NULL;
	}
	return ret;
}

static const char *const outcome_name[] = {
	[MIGRATE_MOVED] = "moved", [MIGRATE_STAYED] = "stayed", [MIGRATE_HELD] = "held",
	[MIGRATE_IN_DOUBT] = "in-doubt", [MIGRATE_STRANDED] = "stranded",
};

static int run_query(const struct control_call *call, json_t **ret, struct error *err)
{
	struct migrate_out *m = call->ctx;
	struct migrate_progress p;
	const char *outcome;
	struct error why;

	(void)err;
	pthread_mutex_lock(&m->lock);
	p = m->progress;
	why = m->err;
	outcome = m->busy ? "running" : m->has_outcome ? outcome_name[m->outcome] : "none";
	pthread_mutex_unlock(&m->lock);
	*ret = json_pack("{s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:I, s:I, s:I, s:I, s:I}",
			 "status", outcome, "phase", migrate_phase_name[p.phase], "round", (int)p.round, "pages",
			 (json_int_t)p.pages, "left", (json_int_t)p.left, "sent", (json_int_t)p.sent, "zero",
			 (json_int_t)p.zero, "passed_over", (json_int_t)p.again, "demanded", (json_int_t)p.demanded,
			 "bytes", (json_int_t)p.bytes, "bytes_per_second", (json_int_t)p.bytes_per_second,
			 "dirty_pages_per_second", (json_int_t)p.dirty_per_second, "expected_downtime_us",
			 (json_int_t)(p.expected_ns / 1000), "throttle", (int)p.throttle, "downtime_us",
			 (json_int_t)(p.downtime_ns / 1000), "total_us", (json_int_t)(p.total_ns / 1000), "recoveries",
			 (json_int_t)p.recoveries, "first_round_bytes", (json_int_t)p.first_bytes, "first_round_us",
			 (json_int_t)(p.first_ns / 1000));
	if (strcmp(outcome, "running") && *why.text)
		json_object_set_new(*ret, "error", json_string(why.text));
	return 0;
}

static int run_cancel(const struct control_call *call, json_t **ret, struct error *err)
{
	(void)ret;
	return control_job_cancel(call->control, "migrate", err);
}

static int unsettled(struct migrate_out *m, struct error *err)
{
	if (is_busy(m))
		return error_set(err, -EBUSY, "the VM is being migrated");
	return m->source ? 0 : error_set(err, -ENOENT, "there is no migration that is not settled");
}

static int run_recover(const struct control_call *call, json_t **ret_json, struct error *err)
{
	struct migrate_out *m = call->ctx;
	int ret = unsettled(m, err);

	(void)ret_json;
	if (ret)
		return ret;
	if (text_of(call->args, "to"))
		ret = transport_parse_address(text_of(call->args, "to"), &m->to, err);
	return ret ? ret : start_thread(m, true, err);
}

/* The user has made sure that it does not run at the other end, or will not be missed there. */
static int run_resume(const struct control_call *call, json_t **ret_json, struct error *err)
{
	struct migrate_out *m = call->ctx;
	int ret = unsettled(m, err);

	(void)ret_json;
	if (ret)
		return ret;
	if (m->outcome == MIGRATE_STRANDED)
		return error_set(err, -EPERM,
				 "the VM has run at the other end: what it is there now it is nowhere else");
	ret = do_resume(&(struct errand){.m = m, .err = err});
	if (ret)
		return ret;
	migrate_source_free(m->source);
	m->source = NULL;
	pthread_mutex_lock(&m->lock);
	m->outcome = MIGRATE_STAYED;
	pthread_mutex_unlock(&m->lock);
	return 0;
}

static const struct control_argument migrate_args[] = {
	{"to", CONTROL_STRING, true},
	{"mode", CONTROL_STRING, false},
	{"rounds", CONTROL_INTEGER, false},
	{"dirty", CONTROL_STRING, false},
	{"downtime_ms", CONTROL_INTEGER, false},
	{"bandwidth", CONTROL_INTEGER, false},
	{"compress", CONTROL_INTEGER, false},
	{"auto_converge", CONTROL_BOOLEAN, false},
	{"strict", CONTROL_BOOLEAN, false},
	{"verify", CONTROL_BOOLEAN, false},
	{"disks", CONTROL_BOOLEAN, false},
	{"recover_ms", CONTROL_INTEGER, false},
	{"stall_ms", CONTROL_INTEGER, false},
	{"psk", CONTROL_STRING, false},
	{"ca", CONTROL_STRING, false},
	{"cert", CONTROL_STRING, false},
	{"key", CONTROL_STRING, false},
	{"name", CONTROL_STRING, false},
	{"plain", CONTROL_BOOLEAN, false},
	{NULL},
};
static const struct control_argument recover_args[] = {{"to", CONTROL_STRING, false}, {NULL}};

static const struct control_command commands[] = {
	{.name = "migrate",
	 .help = "move the VM to another Gnomon",
	 .args = migrate_args,
	 .run = run_migrate,
	 .on_vm_thread = true},
	{.name = "query-migrate", .help = "how far the migration is, or how it ended", .run = run_query},
	{.name = "migrate-cancel", .help = "the VM stays, unless it has been told to run there", .run = run_cancel},
	{.name = "migrate-recover",
	 .help = "reach the other end of a migration that was cut off",
	 .args = recover_args,
	 .run = run_recover,
	 .on_vm_thread = true, .while_held = true},
	{.name = "migrate-resume",
	 .help = "the VM goes on here: you know that it does not run there",
	 .run = run_resume,
	 .on_vm_thread = true, .while_held = true},
	{.name = NULL},
};

/* ---- its life ---- */

int migrate_out_create(struct migrate_out **out, struct control *c, struct error *err)
{
	struct migrate_out *m = calloc(1, sizeof(*m));
	int ret;

	if (!m)
		return error_set(err, -ENOMEM, "out of memory");
	m->control = c;
	pthread_mutex_init(&m->lock, NULL);
	m->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ret = m->cancel_fd < 0 ? error_set(err, -errno, "no event descriptor: %s", strerror(errno)) : 0;
	if (ret == 0)
		ret = migrate_throttle_create(&m->throttle, c, err);
	if (ret == 0)
		ret = control_add_commands(c, commands, m, err);
	if (ret)
		migrate_out_free(m);
	else
		*out = m;
	return ret;
}

void migrate_out_stop(struct migrate_out *m)
{
	if (!m)
		return;
	if (m->cancel_fd >= 0)
		eventfd_write(m->cancel_fd, 1);
	join(m);
}

void migrate_out_free(struct migrate_out *m)
{
	if (!m)
		return;
	migrate_out_stop(m);
	migrate_throttle_free(m->throttle);
	migrate_source_free(m->source);
	forget_sections(m);
	forget_strings(m);
	if (m->cancel_fd >= 0)
		close(m->cancel_fd);
	pthread_mutex_destroy(&m->lock);
	free(m);
}
