#include "vm/checkpoint.h"
#include "base/bitmap.h"
#include "vm/saved_impl.h"
#include "vm/vm_state.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define REPORT_EVERY 1024 /* pages */
#define FROZEN_ID_BYTES 13 /* of a checkpoint's id, for the names of frozen disks */

/* Sections of the state, as they were at the instant. */
struct kept_section {
	struct kept_section *next;
	char name[STREAM_NAME_MAX + 1];
	size_t bytes;
	uint8_t data[];
};

/* One checkpoint, on its way to its file. */
struct writing {
	struct checkpoint_options o;
	struct checkpoint_result result;
	struct saved_info info;
	struct devices_frozen frozen;
	char path[PATH_MAX];
	struct state_file_writer *file;
	int lock;                         /* of the directory: the parent stays until its child is there */
	struct pages_writer pages;
	struct kept_section *first, **last;
	struct engine_snapshot *snapshot; /* NULL: memory has been written already */
	uint64_t of;                      /* pages in the snapshot */
	int64_t began_ns;
	struct stat written;              /* the file, when the thread has ended; all 0: it is gone already */
	bool failed;
	bool ended;
};

struct checkpointer {
	struct vm *vm;
	struct vm_ticker ticker;
	uint64_t words;          /* of a bitmap of pages */
	uint64_t *changed;       /* pages that were since the last checkpoint that succeeded, as far as collected */
	uint64_t *taken;         /* ... and that the one being written holds */
	bool tracking;
	enum engine_dirty how;   /* the tracker, if one is armed */
	unsigned chain;          /* files from the last one on to the one with all of memory, at most */
	char last_path[PATH_MAX], last_id[SAVED_ID_BYTES]; /* "": there is none */
	struct stat last_file;
	struct writing w;
	pthread_t thread;
	bool running;            /* the thread is to be joined */
};

static int64_t host_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* ---- which pages ---- */

static enum engine_dirty best_tracker(enum engine_mmu mmu)
{
	return engine_dirty_possible(mmu, ENGINE_DIRTY_PML) ? ENGINE_DIRTY_PML : ENGINE_DIRTY_WP;
}

static void stop_tracking(struct checkpointer *c)
{
	if (c->tracking)
		engine_dirty_disarm(vm_engine(c->vm));
	c->tracking = false;
}

/* Finds out about writes from here on. Not being able to only makes the next checkpoint a full one. */
static void begin_tracking(struct checkpointer *c, const struct checkpoint_options *o)
{
	enum engine_mmu mmu = vm_get_config(c->vm)->engine.mmu;
	struct error err;

	if (c->tracking && o->choose_tracker && o->tracker != c->how)
		stop_tracking(c); /* what it knew has been collected */
	if (c->tracking)
		return;
	c->how = o->choose_tracker ? o->tracker : best_tracker(mmu);
	c->tracking = engine_dirty_possible(mmu, c->how) && !engine_dirty_arm(vm_engine(c->vm), c->how, &err);
}

static bool same_directory(const char *a, const char *b)
{
	const char *x = strrchr(a, '/'), *y = strrchr(b, '/');
	size_t n = x ? (size_t)(x - a) : 0, m = y ? (size_t)(y - b) : 0;

	return n == m && !x == !y && !memcmp(a, b, n);
}

/* Is the last checkpoint still there, as it was written? The VM stands still: its file is not read. */
static bool last_is_there(const struct checkpointer *c)
{
	struct stat st;

	return !stat(c->last_path, &st) && st.st_ino == c->last_file.st_ino && st.st_size == c->last_file.st_size &&
	       saved_time_of(&st) == saved_time_of(&c->last_file);
}

/* NULL if only what has changed is needed; otherwise why all of memory is. */
static const char *why_full(const struct checkpointer *c, const char *path, const struct checkpoint_options *o)
{
	if (o->full || !*c->last_path)
		return "";
	if (!c->tracking)
		return engine_mmu_is_bare(vm_get_config(c->vm)->engine.mmu) ? "nobody tracks the bare machine's memory" :
									   "a tracker is in use for something else";
	if (!same_directory(path, c->last_path))
		return "the last checkpoint is in another directory";
	if (c->chain == SAVED_CHAIN_MAX)
		return "the chain is as long as one may be";
	if (c->w.lock < 0)
		return "a checkpoint is being deleted, or the directory cannot be locked";
	if (!last_is_there(c))
		return "the last checkpoint is gone";
	return NULL;
}

/* Moves the pages that the checkpoint is to have from changed to taken. */
static uint64_t choose_pages(struct checkpointer *c, bool all)
{
	memcpy(c->taken, c->changed, c->words * sizeof(*c->taken));
	if (all)
		bitmap_fill(c->taken, engine_pages(vm_engine(c->vm)));
	memset(c->changed, 0, c->words * sizeof(*c->changed));
	return bitmap_count(c->taken, c->words);
}

static void give_back_pages(struct checkpointer *c)
{
	for (uint64_t i = 0; i < c->words; i++)
		c->changed[i] |= c->taken[i];
}

/* ---- the instant ---- */

static int keep_section(void *ctx, const char *name, const void *bytes, size_t n, struct error *err)
{
	struct writing *w = ctx;
	struct kept_section *s = malloc(sizeof(*s) + n);

	if (!s)
		return error_set(err, -ENOMEM, "out of memory");
	s->next = NULL;
	s->bytes = n;
	snprintf(s->name, sizeof(s->name), "%s", name);
	memcpy(s->data, bytes, n);
	*w->last = s;
	w->last = &s->next;
	return 0;
}

static int put_page(struct writing *w, uint64_t page, const uint8_t *data, struct error *err)
{
	if (data && pages_is_zero(data))
		data = NULL;
	if (!data && !w->result.incremental)
		return 0;
	return pages_put(&w->pages, page, data, err);
}

static int put_info(struct writing *w, struct error *err)
{
	struct stream_writer *s = state_file_stream(w->file);
	int r = saved_put_info(s, &w->info, err);

	for (const struct kept_section *k = w->first; k && !r; k = k->next)
		r = stream_put(s, k->name, k->data, k->bytes, err);
	return r;
}

/* Without anybody who keeps pages that are overwritten, the VM waits. */
static int write_at_once(struct checkpointer *c, struct error *err)
{
	_Alignas(8) uint8_t data[PAGE_SIZE];
	struct engine_vm *engine = vm_engine(c->vm);
	uint64_t pages = engine_pages(engine);
	int r = 0;

	for (uint64_t page = 0; page < pages && !r; page++) {
		int has = engine_page_read(engine, page, data);

		r = has < 0 ? error_set(err, has, "memory page %llu could not be had", (unsigned long long)page) :
			      put_page(&c->w, page, has ? data : NULL, err);
	}
	return r;
}

static int keep_memory(struct checkpointer *c, struct error *err)
{
	struct writing *w = &c->w;
	uint64_t room = w->o.room ? w->o.room : CHECKPOINT_ROOM;
	int r;

	r = pages_writer_init(&w->pages, state_file_stream(w->file), w->o.compress, err);
	if (r)
		return r;
	if (engine_mmu_is_bare(vm_get_config(c->vm)->engine.mmu))
		return write_at_once(c, err);
	return engine_snapshot_begin(vm_engine(c->vm), c->taken, room, &w->snapshot, err);
}

static int describe(struct checkpointer *c, struct error *err)
{
	struct writing *w = &c->w;
	const char *slash = strrchr(c->last_path, '/');
	int r = saved_describe(&w->info, c->vm, err);

	w->info.kind = SAVED_CHECKPOINT;
	memcpy(w->result.id, w->info.id, sizeof(w->result.id));
	for (unsigned i = 0; i < w->info.disks; i++)
		w->info.disk[i].base = w->frozen.disk[i].read_only ? NULL : w->frozen.disk[i].base;
	if (w->result.incremental) {
		memcpy(w->info.parent_id, c->last_id, sizeof(c->last_id));
		w->info.parent = slash ? slash + 1 : c->last_path;
	}
	return r;
}

static int freeze(struct checkpointer *c, const char *path, struct error *err)
{
	struct writing *w = &c->w;
	const struct state_sink sink = {.ctx = w, .section = keep_section};
	char id[FROZEN_ID_BYTES];
	int r;

	saved_new_id(w->info.id);
	snprintf(id, sizeof(id), "%.12s", w->info.id);
	r = state_file_create(&w->file, path, false, err);
	/* If something fails later, the disks have one layer more than they need, and no less than they had. */
	if (!r)
		r = vm_freeze_disks(c->vm, id, &w->frozen, err);
	if (!r)
		r = vm_save_state(c->vm, &sink, err);
	if (!r)
		r = describe(c, err);
	if (!r)
		r = keep_memory(c, err);
	return r;
}

/* ---- writing ---- */

static void forget(struct writing *w)
{
	engine_snapshot_end(w->snapshot);
	w->snapshot = NULL;
	pages_writer_fini(&w->pages);
	for (struct kept_section *s = w->first, *next; s; s = next) {
		next = s->next;
		free(s);
	}
	w->first = NULL;
	state_file_abandon(w->file);
	w->file = NULL;
	state_file_unlock_directory(&w->lock);
}

static int write_pages(struct writing *w, struct error *err)
{
	_Alignas(8) uint8_t data[PAGE_SIZE];
	uint64_t page, n = 0;
	int r = 0, got = 0;

	while (w->snapshot && !r && (got = engine_snapshot_next(w->snapshot, &page, data)) > 0) {
		r = put_page(w, page, got == 1 ? data : NULL, err);
		if (!r && ++n % REPORT_EVERY == 0 && w->o.progress && w->o.progress(w->o.ctx, n, w->of))
			r = error_set(err, -ECANCELED, "stopped");
	}
	if (got < 0)
		return error_set(err, got, "contents of the guest's memory could not be had");
	return r ? r : pages_flush(&w->pages, err);
}

static int write_rest(struct writing *w, struct error *err)
{
	int r = write_pages(w, err);

	engine_snapshot_end(w->snapshot);
	w->snapshot = NULL;
	w->result.pages = w->pages.pages;
	if (!r)
		r = put_info(w, err);
	if (!r) {
		w->result.bytes = state_file_stream(w->file)->at;
		r = state_file_commit(w->file, err);
		w->file = NULL;
	}
	return r;
}

static void *write_thread(void *arg)
{
	struct writing *w = arg;
	struct error err = {0};
	int r = write_rest(w, &err);

	forget(w);
	w->failed = r;
	if (!r && stat(w->path, &w->written))
		memset(&w->written, 0, sizeof(w->written));
	w->result.total_ns = (uint64_t)(host_ns() - w->began_ns);
	/* Before it is told: who hears of it may ask for the next one at once. */
	__atomic_store_n(&w->ended, true, __ATOMIC_RELEASE);
	if (w->o.done)
		w->o.done(w->o.ctx, r, &w->result, &err);
	return NULL;
}

/* ---- one after the other ---- */

void checkpoint_wait(struct checkpointer *c)
{
	if (!c->running)
		return;
	pthread_join(c->thread, NULL);
	c->running = false;
	if (c->w.failed) {
		give_back_pages(c);
	} else {
		c->last_file = c->w.written;
		memcpy(c->last_path, c->w.path, sizeof(c->last_path));
		memcpy(c->last_id, c->w.result.id, sizeof(c->last_id));
		c->chain = c->w.result.incremental ? c->chain + 1 : 1;
	}
}

const struct checkpoint_result *checkpoint_last(const struct checkpointer *c) { return &c->w.result; }

/* A thread that has only to say that it is done is waited for. */
static bool is_writing(struct checkpointer *c)
{
	if (c->running && !__atomic_load_n(&c->w.ended, __ATOMIC_ACQUIRE))
		return true;
	checkpoint_wait(c);
	return false;
}

static int start_writing(struct checkpointer *c, struct error *err)
{
	int r = pthread_create(&c->thread, NULL, write_thread, &c->w);

	if (r)
		return error_set(err, -r, "cannot start a thread: %s", strerror(r));
	c->running = true;
	return 0;
}

static int take(struct checkpointer *c, const char *path, struct error *err)
{
	struct writing *w = &c->w;
	const char *full;
	int r = vm_quiesce(c->vm);

	if (r)
		return error_set(err, r, "the guest ended before a checkpoint could be taken");
	if (c->tracking && engine_dirty_collect(vm_engine(c->vm), c->changed))
		stop_tracking(c);
	state_file_lock_directory(path, false, false, &w->lock);
	full = why_full(c, path, &w->o);
	w->result.incremental = !full;
	w->result.full_because = full ? full : "";
	w->of = choose_pages(c, full);
	begin_tracking(c, &w->o);
	r = freeze(c, path, err);
	w->result.pause_ns = (uint64_t)(host_ns() - w->began_ns);
	if (!r)
		r = start_writing(c, err);
	if (r) {
		forget(w);
		give_back_pages(c);
	}
	return r;
}

static int check(const struct checkpointer *c, const char *path, const struct checkpoint_options *o, struct error *err)
{
	enum engine_mmu mmu = vm_get_config(c->vm)->engine.mmu;
	const char *slash = strrchr(path, '/');

	if (strlen(path) >= sizeof(c->w.path))
		return error_set(err, -ENAMETOOLONG, "%.100s...: too long", path);
	if (!saved_name_is_plain(slash ? slash + 1 : path))
		return error_set(err, -EINVAL, "a checkpoint's name is not empty, and has no control characters");
	if (o->choose_tracker && !engine_dirty_possible(mmu, o->tracker))
		return error_set(err, -ENOTSUP, "tracker '%s' is not possible under %s", engine_dirty_name[o->tracker],
				 engine_mmu_name[mmu]);
	return 0;
}

int checkpoint_take(struct checkpointer *c, const char *path, const struct checkpoint_options *o, struct error *err)
{
	struct writing *w = &c->w;
	int r;

	if (is_writing(c))
		return error_set(err, -EBUSY, "a checkpoint is being written");
	r = check(c, path, o, err);
	if (r)
		return r;
	memset(w, 0, sizeof(*w));
	w->o = *o;
	w->lock = -1;
	w->last = &w->first;
	w->began_ns = host_ns();
	memcpy(w->path, path, strlen(path) + 1);
	return take(c, path, err);
}

static void on_end(void *ctx) { checkpoint_wait(ctx); }

int checkpointer_create(struct checkpointer **out, struct vm *vm, struct error *err)
{
	struct checkpointer *c = calloc(1, sizeof(*c));

	if (!c)
		return error_set(err, -ENOMEM, "out of memory");
	c->vm = vm;
	c->words = engine_pages(vm_engine(vm)) / 64 + 1;
	c->changed = calloc(c->words, sizeof(*c->changed));
	c->taken = calloc(c->words, sizeof(*c->taken));
	if (!c->changed || !c->taken) {
		free(c->changed);
		free(c->taken);
		free(c);
		return error_set(err, -ENOMEM, "out of memory");
	}
	c->ticker = (struct vm_ticker){.ended = on_end, .ctx = c};
	vm_add_ticker(vm, &c->ticker);
	*out = c;
	return 0;
}

void checkpointer_destroy(struct checkpointer *c)
{
	if (!c)
		return;
	checkpoint_wait(c);
	vm_remove_ticker(c->vm, &c->ticker);
	stop_tracking(c);
	free(c->changed);
	free(c->taken);
	free(c);
}
