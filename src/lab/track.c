/* See track.h. */
#include "lab/track.h"
#include "arch/vmx.h"
#include "base/bitmap.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* One kind of pages, collected every so many instructions. */
struct series {
	uint64_t interval;  /* 0: not collected */
	uint64_t next;      /* count of instructions at which it is collected next */
	uint64_t *now;      /* bitmap: of this interval */
	uint64_t *ever;
	uint64_t *pages;    /* [count]: how many, by interval */
	size_t count, room;
	uint64_t sum, most, distinct;
};

struct track {
	struct track_config cfg;
	struct vm *vm;
	struct engine_vm *engine;
	uint64_t words;     /* of a bitmap */
	struct series dirty, wss;
	uint8_t *copy;      /* verify: memory when pages were last collected */
	void (*say)(void *ctx, const char *line);
	void *ctx;
};

static enum engine_dirty tracker_of(const struct track_config *cfg)
{
	return cfg->dirty ? cfg->how : ENGINE_DIRTY_AD;
}

int track_check(const struct track_config *cfg, enum engine_mmu mmu, struct error *err)
{
	enum engine_dirty how = tracker_of(cfg);

	if (!engine_dirty_possible(mmu, how))
		return error_set(err, -EINVAL, "--%s: not possible with --mmu %s%s", cfg->dirty ? "dirty" : "wss",
				 engine_mmu_name[mmu], engine_mmu_is_bare(mmu) ? ": nobody is there to track" : "");
	if (cfg->wss && how != ENGINE_DIRTY_AD && how != ENGINE_DIRTY_PRESENT)
		return error_set(err, -EINVAL, "--wss: '--dirty %s' does not know of pages that are only read; "
				 "'ad' and 'present' do", engine_dirty_name[how]);
	return 0;
}

static bool make_series(struct series *s, uint64_t interval, uint64_t words)
{
	s->interval = s->next = interval;
	s->now = calloc(words, sizeof(*s->now));
	s->ever = calloc(words, sizeof(*s->ever));
	return s->now && s->ever;
}

static void free_series(struct series *s)
{
	free(s->now);
	free(s->ever);
	free(s->pages);
}

int track_begin(struct track **out, struct vm *vm, const struct track_config *cfg,
		void (*say)(void *ctx, const char *line), void *ctx, struct error *err)
{
	struct track *t = calloc(1, sizeof(*t));
	struct engine_vm *engine = vm_engine(vm);
	uint64_t pages = engine_pages(engine), words = bitmap_words(pages);
	int r = 0;

	if (!t)
		return error_set(err, -ENOMEM, "tracking of pages: out of memory");
	*t = (struct track){.cfg = *cfg, .vm = vm, .engine = engine, .words = words, .say = say, .ctx = ctx};
	t->copy = cfg->dirty && cfg->verify ? calloc(pages, PAGE_SIZE) : NULL;
	if ((cfg->dirty && !make_series(&t->dirty, cfg->interval, words)) ||
	    (cfg->wss && !make_series(&t->wss, cfg->wss_interval, words)) || (cfg->dirty && cfg->verify && !t->copy))
		r = error_set(err, -ENOMEM, "tracking of pages: out of memory");
	for (uint64_t n = 0; !r && t->copy && n < pages; n++)
		engine_mem_read(engine, engine_page_gpa(engine, n), t->copy + n * PAGE_SIZE, PAGE_SIZE);
	if (!r)
		r = engine_dirty_arm(engine, tracker_of(cfg), err);
	if (r) {
		track_destroy(t);
		return r;
	}
	*out = t;
	return 0;
}

void track_destroy(struct track *t)
{
	if (!t)
		return;
	free_series(&t->dirty);
	free_series(&t->wss);
	free(t->copy);
	free(t);
}

/* ---- an interval ---- */

static int append_count(struct series *s, uint64_t pages)
{
	if (s->count == s->room) {
		size_t room = s->room ? 2 * s->room : 256;
		uint64_t *bigger = realloc(s->pages, room * sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		s->pages = bigger;
		s->room = room;
	}
	s->pages[s->count++] = pages;
	return 0;
}

/* Adds the interval up, and forgets its pages. */
static int take_interval(struct track *t, struct series *s)
{
	uint64_t pages = bitmap_count(s->now, t->words);

	for (uint64_t i = 0; i < t->words; i++) {
		s->ever[i] |= s->now[i];
		s->now[i] = 0;
	}
	s->sum += pages;
	s->most = max_u64(s->most, pages);
	s->next += s->interval;
	return append_count(s, pages);
}

/* Compares memory with the copy, which is brought up to date. */
static int verify(struct track *t, struct error *err)
{
	uint64_t pages = engine_pages(t->engine);
	uint8_t now[PAGE_SIZE];

	for (uint64_t n = 0; n < pages; n++) {
		uint8_t *was = t->copy + n * PAGE_SIZE;
		gpa_t a = engine_page_gpa(t->engine, n);

		if (engine_mem_read(t->engine, a, now, PAGE_SIZE) || !memcmp(was, now, PAGE_SIZE))
			continue;
		if (!bitmap_has(t->dirty.now, n))
			return error_set(err, -EIO, "tracking by '%s' has lost the page at guest-physical %" PRIx64
					 ": it changed before instruction %" PRIu64 " and is not in the set",
					 engine_dirty_name[t->cfg.how], a.v, engine_insns(t->engine));
		memcpy(was, now, PAGE_SIZE);
	}
	return 0;
}

static int collect_dirty(struct track *t, struct error *err)
{
	int r = engine_dirty_collect(t->engine, t->dirty.now);

	if (!r && t->copy)
		r = verify(t, err);
	return r ? r : take_interval(t, &t->dirty);
}

static int collect_wss(struct track *t)
{
	int r = engine_accessed_collect(t->engine, t->wss.now);
	uint64_t pages;
	char line[120];

	if (!r)
		r = take_interval(t, &t->wss);
	if (r || !t->say)
		return r;
	pages = t->wss.pages[t->wss.count - 1];
	snprintf(line, sizeof(line), "working set: %" PRIu64 " pages (%.1f MiB) in the instructions before %" PRIu64,
		 pages, (double)pages * PAGE_SIZE / (1 << 20), engine_insns(t->engine));
	t->say(t->ctx, line);
	return 0;
}

int track_run(struct track *t, struct error *err)
{
	enum vm_stopped why;
	int r = 0;

	do {
		struct vm_stop stop = VM_STOP_NONE;

		if (t->dirty.interval)
			stop.insns = t->dirty.next;
		if (t->wss.interval)
			stop.insns = min_u64(stop.insns, t->wss.next);
		why = vm_run_until(t->vm, &stop);
		if (t->dirty.interval && (why == VM_STOPPED_END || stop.insns == t->dirty.next))
			r = collect_dirty(t, err);
		if (!r && t->wss.interval && (why == VM_STOPPED_END || stop.insns == t->wss.next))
			r = collect_wss(t);
	} while (!r && why != VM_STOPPED_END);
	if (r == -ENOMEM)
		return error_set(err, r, "tracking of pages: out of memory");
	return r;
}

/* ---- what came of it ---- */

static void describe_series(const struct series *s, const char *what, char *buf, size_t bytes)
{
	size_t used = strlen(buf);

	if (!s->count)
		return;
	snprintf(buf + used, bytes - used,
		 "%s: %zu intervals of %" PRIu64 " instructions, %.1f pages in each, at most %" PRIu64 ", %" PRIu64
		 " different ones",
		 what, s->count, s->interval, (double)s->sum / (double)s->count, s->most, s->distinct);
}

/* What the tracker did for it. */
static void describe_tracker(const struct track *t, char *buf, size_t bytes)
{
	enum engine_dirty how = tracker_of(&t->cfg);
	size_t used = strlen(buf);
	struct obs obs;

	vm_observe(t->vm, &obs);
	if (how == ENGINE_DIRTY_PML)
		snprintf(buf + used, bytes - used, "; by pml: %" PRIu64 " entries logged, log full %" PRIu64 " times",
			 obs.tracking.logged, obs.exits.by_reason[EXIT_REASON_PML_FULL]);
	else
		snprintf(buf + used, bytes - used, "; by %s: %" PRIu64 " exits for it", engine_dirty_name[how],
			 obs.tracking.faults);
}

void track_describe(const struct track *t, char *buf, size_t bytes)
{
	if (!bytes)
		return;
	*buf = 0;
	describe_series(&t->dirty, "pages written", buf, bytes);
	if (t->dirty.count && t->wss.count)
		snprintf(buf + strlen(buf), bytes - strlen(buf), "; ");
	describe_series(&t->wss, "working set", buf, bytes);
	describe_tracker(t, buf, bytes);
}

static json_t *report_series(const struct series *s)
{
	json_t *o, *by;

	if (!s->interval)
		return json_null();
	o = json_object();
	by = json_array();
	for (size_t i = 0; i < s->count; i++)
		json_array_append_new(by, json_integer((json_int_t)s->pages[i]));
	json_object_set_new(o, "interval", json_integer((json_int_t)s->interval));
	json_object_set_new(o, "distinct", json_integer((json_int_t)s->distinct));
	json_object_set_new(o, "pages", by);
	return o;
}

void track_report(const struct track *t, json_t *tracking)
{
	json_object_set_new(tracking, "tracker", json_string(engine_dirty_name[tracker_of(&t->cfg)]));
	json_object_set_new(tracking, "written", report_series(&t->dirty));
	json_object_set_new(tracking, "working_set", report_series(&t->wss));
}
