/*
 * The source of a migration: from hello to the end that the VM comes to here.
 *
 *	hello, config -> rounds of pre-copy -> stop, the rest, state -> "ready" -> "run" -> "running" -> (post-copy) ->
 *done
 *
 * A failure before "run" is sent leaves the VM here, running. After it, settle() asks the other end what has become of
 *it, over new connections if need be, and believes nothing else.
 */
#include "vm/migrate_source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#define NAP_MS      200 /* between attempts to connect again */
#define DISK_NAP_MS 2   /* between looks for what is to be sent of disks */

/* ---- small steps ---- */

int64_t source_now(const struct migrate_source *s) { return s->vm.now_ns(s->vm.ctx); }

void source_tell(struct migrate_source *s, enum migrate_phase phase)
{
	struct migrate_progress *p = &s->progress;

	p->phase = phase;
	p->total_ns = (uint64_t)(source_now(s) - s->begun_ns);
	p->bytes = s->bytes_before;
	if (s->link.t)
		p->bytes += transport_sent(s->link.t) + transport_received(s->link.t);
	if (s->seen)
		s->seen(s->seen_ctx, p);
}

void source_disconnect(struct migrate_source *s)
{
	if (s->link.t)
		s->bytes_before += transport_sent(s->link.t) + transport_received(s->link.t);
	if (s->writing)
		pages_writer_fini(&s->writer);
	s->writing = false;
	migrate_link_close(&s->link);
}

int source_start_writer(struct migrate_source *s, struct error *err)
{
	int ret = pages_writer_init(&s->writer, &s->link.out, s->capabilities & MIGRATE_CAN_ZSTD ? s->opt.compress : 0,
				    err);

	s->writing = ret == 0;
	return ret;
}

int source_put_page(struct migrate_source *s, uint64_t page, struct error *err)
{
	uint8_t *data = pages_room(&s->writer);
	uint64_t zero = s->writer.zero;
	int ret = s->vm.read_page(s->vm.ctx, page, data);

	if (ret < 0)
		return error_set(err, ret, "page %llu of the VM's memory cannot be had", (unsigned long long)page);
	ret = pages_put(&s->writer, page, ret ? data : NULL, err);
	s->progress.sent++;
	s->progress.zero += s->writer.zero - zero;
	return ret;
}

int source_await_round(struct migrate_source *s, struct error *err)
{
	struct stream_section m;
	uint8_t number[4];
	int ret;

	put_u32(number, ++s->round);
	ret = migrate_send(&s->link, "mig.round", number, sizeof(number), err);
	if (ret == 0)
		ret = migrate_expect(&s->link, "mig.round", sizeof(number), &m, err);
	if (ret == 0 && get_u32(m.data) != s->round)
		ret = migrate_unexpected(&s->link, &m, "the answer to the last round", err);
	return ret;
}

/* ---- the beginning ---- */

static uint64_t needed(const struct migrate_source *s)
{
	uint64_t need = 0;

	if (s->opt.mode == MIGRATE_POSTCOPY || s->opt.mode == MIGRATE_HYBRID)
		need |= MIGRATE_CAN_POSTCOPY;
	return need | (s->opt.verify ? MIGRATE_CAN_VERIFY : 0) | (s->opt.compress ? MIGRATE_CAN_ZSTD : 0);
}

int source_connect(struct migrate_source *s, enum migrate_hello_kind kind, struct migrate_welcome *w, struct error *err)
{
	struct migrate_hello h = {.version = MIGRATE_VERSION, .kind = kind, .capabilities = needed(s)};
	struct transport *t;
	int ret = s->peer.connect(s->peer.ctx, kind == MIGRATE_NEW, &t, err);

	if (ret)
		return ret;
	memcpy(h.token, s->token, sizeof(h.token));
	ret = migrate_link_open(&s->link, t, err);
	if (ret == 0)
		ret = migrate_put_hello(&s->link, &h, err);
	if (ret == 0)
		ret = migrate_get_welcome(&s->link, w, err);
	if (ret)
		source_disconnect(s);
	return ret;
}

static int check_welcome(struct migrate_source *s, const struct migrate_welcome *w, struct error *err)
{
	const char *name = transport_name(s->link.t);

	if (w->standing != MIGRATE_WELCOME)
		return error_set(err, -EPROTO, "%.100s: no welcome for a new VM", name);
	s->capabilities = w->capabilities & needed(s);
	if (s->capabilities == needed(s))
		return 0;
	if (needed(s) & ~s->capabilities & MIGRATE_CAN_POSTCOPY)
		return error_set(err, -ENOTSUP, "%.100s cannot take a VM by post-copy", name);
	return error_set(err, -ENOTSUP, "%.100s lacks what the options ask for (compression, verification)", name);
}

static int put_section(void *to, const char *name, const void *bytes, size_t n, struct error *err)
{
	return migrate_put(to, name, bytes, n, err);
}

/* What kind of VM it is; the other end makes one, and says how many pages that has. */
static int offer(struct migrate_source *s, struct error *err)
{
	struct stream_section m;
	int ret = s->vm.describe(s->vm.ctx, put_section, &s->link, err);

	if (ret == 0)
		ret = migrate_flush(&s->link, err);
	if (ret == 0)
		ret = migrate_expect(&s->link, "mig.accept", 8, &m, err);
	if (ret == 0 && get_u64(m.data) != s->vm.pages)
		ret = error_set(err, -EPROTO, "%.100s: it made a VM of %llu pages, this one has %llu",
				transport_name(s->link.t), (unsigned long long)get_u64(m.data),
				(unsigned long long)s->vm.pages);
	return ret;
}

static int begin(struct migrate_source *s, struct error *err)
{
	struct migrate_welcome w;
	int ret;

	s->begun_ns = source_now(s);
	source_tell(s, MIGRATE_CONNECTING);
	ret = source_connect(s, MIGRATE_NEW, &w, err);
	if (ret == 0)
		ret = check_welcome(s, &w, err);
	if (ret == 0)
		ret = source_start_writer(s, err);
	if (ret == 0)
		transport_set_rate(s->link.t, s->opt.bytes_per_second);
	return ret ? ret : offer(s, err);
}

/* ---- disks ---- */

int source_send_disks(struct migrate_source *s, bool *any, struct error *err)
{
	*any = false;
	if (!s->vm.disks)
		return 0;
	return s->vm.disks(s->vm.ctx, put_section, &s->link, &s->progress.disk_left, any, err);
}

/* Until the other end has all that there is; what is changed from then on follows. */
static int copy_disks(struct migrate_source *s, struct error *err)
{
	bool any;
	int ret;

	do {
		ret = source_send_disks(s, &any, err);
		source_tell(s, MIGRATE_DISKS);
		if (ret == 0 && any)
			ret = migrate_flush(&s->link, err);
		if (ret == 0 && s->peer.cancelled(s->peer.ctx))
			ret = error_set(err, -ECANCELED, "cancelled");
		if (ret == 0 && !any && s->progress.disk_left)
			s->peer.nap(s->peer.ctx, DISK_NAP_MS);
	} while (ret == 0 && (any || s->progress.disk_left));
	return ret;
}

/* ---- the switch ---- */

static void stop_tracking(struct migrate_source *s)
{
	if (s->tracking)
		s->vm.untrack(s->vm.ctx);
	if (s->progress.throttle)
		s->vm.throttle(s->vm.ctx, 0);
	s->tracking = false;
	s->progress.throttle = 0;
}

/* Which pages does the other end not have, or not as they are now? */
static int find_rest(struct migrate_source *s, struct error *err)
{
	if (s->tracking)
		return s->vm.collect(s->vm.ctx, s->send, err);
	bitmap_fill(s->send, s->vm.pages);
	return 0;
}

/* Memory that the VM stands still for; or which pages follow. */
static int send_rest(struct migrate_source *s, bool follow, struct error *err)
{
	int ret = migrate_put(&s->link, "mig.state", NULL, 0, err);

	if (ret)
		return ret;
	if (follow)
		return migrate_put_bitmap(&s->link, "mig.absent", s->send, s->words, err);
	return source_send_pages(s, false, err);
}

static int send_state(struct migrate_source *s, bool follow, struct error *err)
{
	uint64_t hash[2] = {0, 0};
	bool verify = !follow && s->opt.verify;
	uint8_t b[24];
	int ret = s->vm.save(s->vm.ctx, put_section, &s->link, err);

	if (ret)
		return ret;
	if (verify)
		s->vm.hash(s->vm.ctx, hash);
	put_u64(b, verify);
	put_u64(b + 8, hash[0]);
	put_u64(b + 16, hash[1]);
	return migrate_send(&s->link, "mig.state-end", b, sizeof(b), err);
}

/* The VM stands still; everything goes over that it needs to run there. */
static int hand_over(struct migrate_source *s, bool follow, struct error *err)
{
	bool any;
	int ret;

	s->stopped_ns = source_now(s);
	ret = s->vm.pause(s->vm.ctx, err);
	if (ret)
		return ret;
	s->paused = true;
	source_tell(s, MIGRATE_STOPPED);
	transport_set_rate(s->link.t, 0);
	ret = find_rest(s, err);
	stop_tracking(s);
	if (ret == 0)
		ret = source_send_disks(s, &any, err);
	if (ret == 0)
		ret = send_rest(s, follow, err);
	if (ret == 0)
		ret = send_state(s, follow, err);
	return ret ? ret : migrate_expect_token(&s->link, "mig.ready", s->token, err);
}

/* From here on the VM is the other end's to run. */
static int tell_to_run(struct migrate_source *s, struct error *err)
{
	int ret;

	transport_set_cancel(s->link.t, -1);
	s->told_to_run = true;
	ret = migrate_send_token(&s->link, "mig.run", s->token, err);
	return ret ? ret : migrate_expect_token(&s->link, "mig.running", s->token, err);
}

static void note_running(struct migrate_source *s)
{
	if (!s->runs_there)
		s->progress.downtime_ns = (uint64_t)(source_now(s) - s->stopped_ns);
	s->runs_there = true;
}

/* ---- after "run" ---- */

/* What a new connection brought to light. 0: it runs there; 1: it never will; negative: nothing. */
static int ask(struct migrate_source *s, struct error *err)
{
	struct migrate_welcome w;
	int ret = source_connect(s, MIGRATE_ASK, &w, err);

	if (ret)
		return ret;
	transport_set_cancel(s->link.t, -1);
	switch ((enum migrate_standing)w.standing) {
	case MIGRATE_RUNNING:
		return 0;
	case MIGRATE_READY:
		return tell_to_run(s, err);
	case MIGRATE_DROPPED:
		return 1;
	case MIGRATE_WELCOME:
	case MIGRATE_UNKNOWN:
	case MIGRATE_STANDINGS:
		break;
	}
	return error_set(err, -ENOENT, "%.100s does not know of this VM", transport_name(s->link.t));
}

/* Asks until there is an answer, or for long enough. As ask(). */
static int ask_again(struct migrate_source *s, struct error *err)
{
	int64_t until = source_now(s) + s->opt.recover_ms * 1000000;
	int ret;

	for (;;) {
		source_disconnect(s);
		s->progress.recoveries++;
		source_tell(s, s->runs_there ? MIGRATE_RECOVERING : MIGRATE_ASKING);
		ret = ask(s, err);
		if (ret >= 0 || source_now(s) >= until || s->peer.cancelled(s->peer.ctx))
			return ret;
		s->peer.nap(s->peer.ctx, NAP_MS);
	}
}

/* After a new connection: which pages has the other end got meanwhile? All others are to be sent (again). */
static int learn_what_is_there(struct migrate_source *s, struct error *err)
{
	struct stream_section m;
	int ret;

	memset(s->send, 0, s->words * 8);
	for (;;) {
		ret = migrate_get(&s->link, &m, err);
		if (ret)
			return ret;
		if (strcmp(m.name, "mig.absent-end") == 0)
			return source_start_writer(s, err);
		if (strcmp(m.name, "mig.absent") != 0)
			return migrate_unexpected(&s->link, &m, "mig.absent", err);
		ret = migrate_add_bitmap(&s->link, &m, s->send, s->vm.pages, err);
		if (ret)
			return ret;
	}
}

/* It runs there. Sends what it lacks, if it does; and says goodbye. */
static int complete(struct migrate_source *s, bool again, struct error *err)
{
	int ret = again ? learn_what_is_there(s, err) : 0;

	note_running(s);
	if (ret == 0 && (again || bitmap_next(s->send, 0, s->vm.pages) < s->vm.pages))
		ret = source_push(s, err);
	if (ret)
		return ret;
	migrate_send_token(&s->link, "mig.done", s->token, NULL); /* the other end can do without */
	source_disconnect(s);
	source_tell(s, MIGRATE_OVER);
	return 0;
}

/* ---- outcomes ---- */

/* As long as the other end is ready to run the VM it has its files. */
static int resume(struct migrate_source *s, struct error *err)
{
	int64_t until = source_now(s) + s->opt.recover_ms * 1000000;

	for (;;) {
		struct migrate_welcome w;
		int ret = s->vm.resume(s->vm.ctx, err);

		if (ret == 0 || source_now(s) >= until)
			return ret;
		if (source_connect(s, MIGRATE_FORGET, &w, NULL) == 0)
			source_disconnect(s);
		else
			s->peer.nap(s->peer.ctx, NAP_MS);
	}
}

/* The VM goes on here. @err keeps why, and says if it cannot. */
static enum migrate_outcome stay(struct migrate_source *s, struct error *err)
{
	struct error why = {0};

	source_disconnect(s);
	stop_tracking(s);
	s->told_to_run = false;
	if (s->paused && resume(s, &why)) {
		char first[200];

		snprintf(first, sizeof(first), "%.199s", err->text);
		error_set(err, err->code, "%s; the VM is paused here: %.200s", first, why.text);
		source_tell(s, MIGRATE_STOPPED);
		return MIGRATE_HELD;
	}
	s->paused = false;
	source_tell(s, MIGRATE_OVER);
	return MIGRATE_STAYED;
}

/* Nobody knows where the VM is, or it runs there without all its memory. */
static enum migrate_outcome leave_open(struct migrate_source *s)
{
	source_disconnect(s);
	source_tell(s, s->runs_there ? MIGRATE_RECOVERING : MIGRATE_ASKING);
	return s->runs_there ? MIGRATE_STRANDED : MIGRATE_IN_DOUBT;
}

/*
 * "run" was sent, and after that something failed: asks until it is known where the VM is, and sends what it lacks
 * there. A connection that is lost meanwhile is made again as long as that gets it any further.
 */
static enum migrate_outcome settle(struct migrate_source *s, struct error *err)
{
	uint64_t sent;
	int ret;

	do {
		sent = s->progress.sent;
		ret = ask_again(s, err);
		if (ret < 0)
			return leave_open(s);
		if (ret == 1 && !s->runs_there) {
			error_set(err, -ECONNABORTED, "the other end gave the VM up before it ran");
			return stay(s, err);
		}
		if (ret == 1) {
			error_set(err, -EPROTO,
				  "the other end says that the VM never ran there, after it said that it did");
			return leave_open(s);
		}
		ret = complete(s, true, err);
		if (ret == 0)
			return MIGRATE_MOVED;
	} while (s->progress.sent > sent && !s->peer.cancelled(s->peer.ctx));
	return leave_open(s);
}

static int copy_and_switch(struct migrate_source *s, struct error *err)
{
	bool follow = s->opt.mode == MIGRATE_POSTCOPY;
	int ret = begin(s, err);

	if (ret == 0 && s->vm.disks)
		ret = copy_disks(s, err);
	if (ret == 0 && (s->opt.mode == MIGRATE_PRECOPY || s->opt.mode == MIGRATE_HYBRID))
		ret = source_precopy(s, &follow, err);
	if (ret == 0)
		ret = hand_over(s, follow, err);
	return ret ? ret : tell_to_run(s, err);
}

enum migrate_outcome migrate_source_run(struct migrate_source *s, struct error *err)
{
	int ret = copy_and_switch(s, err);

	if (ret && !s->told_to_run)
		return stay(s, err);
	if (ret == 0)
		ret = complete(s, false, err);
	return ret ? settle(s, err) : MIGRATE_MOVED;
}

enum migrate_outcome migrate_source_recover(struct migrate_source *s, struct error *err)
{
	return s->told_to_run ? settle(s, err) : stay(s, err);
}

/* ---- its life ---- */

int migrate_source_create(struct migrate_source **out, const struct migrate_options *opt,
			  const struct migrate_source_vm *vm, const struct migrate_peer *peer, struct error *err)
{
	struct migrate_source *s = calloc(1, sizeof(*s));

	if (!s)
		return error_set(err, -ENOMEM, "out of memory");
	s->opt = *opt;
	s->vm = *vm;
	s->peer = *peer;
	s->words = bitmap_words(vm->pages);
	s->send = calloc(s->words, 8);
	s->dirty = calloc(s->words, 8);
	s->progress.pages = vm->pages;
	if (!s->send || !s->dirty) {
		migrate_source_free(s);
		return error_set(err, -ENOMEM, "out of memory");
	}
	if (getrandom(s->token, sizeof(s->token), 0) != (ssize_t)sizeof(s->token)) {
		migrate_source_free(s);
		return error_set(err, -EIO, "no random numbers");
	}
	*out = s;
	return 0;
}

void migrate_source_watch(struct migrate_source *s, void (*seen)(void *ctx, const struct migrate_progress *p),
			  void *ctx)
{
	s->seen = seen;
	s->seen_ctx = ctx;
}

const struct migrate_progress *migrate_source_progress(const struct migrate_source *s) { return &s->progress; }

void migrate_source_free(struct migrate_source *s)
{
	if (!s)
		return;
	source_disconnect(s);
	free(s->send);
	free(s->dirty);
	free(s);
}
