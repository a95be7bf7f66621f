/*
 * The destination of a migration: makes a VM of what comes, runs it when it is told to, and not before; and can tell
 * afterwards what it did, for as long as somebody may ask.
 *
 *	IDLE -> LOADING -> READY -> RUNNING -> OVER
 *	             \---------\-> IDLE: dropped; a token that was READY is remembered
 *
 * READY and RUNNING survive the connection: whoever comes with the VM's token is told how it is. The thread that waits
 * (migrate_dest_wait()) goes as far as RUNNING; after that another one does the rest while the VM runs.
 */
#include "vm/migrate_incoming.h"
#include "vm/migrate_wire.h"
#include "vm/pages.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define STATE_SECTIONS_MAX 256u
#define DROPPED_MAX        64u /* tokens remembered */

enum dest_state { DEST_IDLE, DEST_LOADING, DEST_READY, DEST_RUNNING, DEST_OVER };

struct migrate_dest {
	struct migrate_dest_vm vm;
	struct migrate_door door;
	int64_t recover_ms;
	enum dest_state state;
	struct migrate_link link;       /* link.t == NULL: there is none */
	uint8_t token[MIGRATE_TOKEN_BYTES];
	uint64_t capabilities;          /* of this migration */
	uint64_t pages;
	bool made;                      /* there is a VM */
	uint64_t *absent;               /* pages that will follow; NULL: none */
	struct migrate_incoming *incoming; /* where pages go if some may follow; NULL: into the VM's memory */
	uint8_t dropped[DROPPED_MAX][MIGRATE_TOKEN_BYTES];
	unsigned drops;
	/* while the VM runs */
	pthread_t thread;
	bool started;
	pthread_mutex_t lock;           /* of what follows */
	bool ended;                     /* the VM has */
	struct migrate_dest_progress progress;
};

static void say(struct migrate_dest *d, const char *fmt, const char *text)
{
	char line[600];

	snprintf(line, sizeof(line), fmt, text);
	d->vm.say(d->vm.ctx, line);
}

static void count(struct migrate_dest *d, uint64_t pages)
{
	pthread_mutex_lock(&d->lock);
	d->progress.pages += pages;
	if (d->link.t)
		d->progress.bytes = transport_received(d->link.t);
	pthread_mutex_unlock(&d->lock);
}

/* ---- forgetting ---- */

static void remember(struct migrate_dest *d)
{
	memcpy(d->dropped[d->drops++ % DROPPED_MAX], d->token, MIGRATE_TOKEN_BYTES);
}

static void drop(struct migrate_dest *d)
{
	if (d->state == DEST_READY)
		remember(d);
	incoming_free(d->incoming);
	d->incoming = NULL;
	free(d->absent);
	d->absent = NULL;
	if (d->made)
		d->vm.drop(d->vm.ctx);
	d->made = false;
	d->state = DEST_IDLE;
}

static bool was_dropped(const struct migrate_dest *d, const uint8_t *token)
{
	for (unsigned i = 0; i < DROPPED_MAX && i < d->drops; i++)
		if (memcmp(d->dropped[i], token, MIGRATE_TOKEN_BYTES) == 0)
			return true;
	return false;
}

static enum migrate_standing standing(const struct migrate_dest *d, const uint8_t *token)
{
	if (d->state >= DEST_READY && memcmp(d->token, token, MIGRATE_TOKEN_BYTES) == 0)
		return d->state == DEST_READY ? MIGRATE_READY : MIGRATE_RUNNING;
	return was_dropped(d, token) ? MIGRATE_DROPPED : MIGRATE_UNKNOWN;
}

/* ---- a VM comes ---- */

static uint64_t capabilities(const struct migrate_dest *d)
{
	return MIGRATE_CAN_ZSTD | MIGRATE_CAN_VERIFY | (d->vm.can_postcopy ? MIGRATE_CAN_POSTCOPY : 0);
}

static bool is_disk(const struct migrate_dest *d, const struct stream_section *m)
{
	return d->vm.disk && strcmp(m->name, "mig.disk") == 0;
}

static int make_vm(struct migrate_dest *d, struct error *err)
{
	struct stream_section m;
	uint8_t pages[8];
	int ret = migrate_get(&d->link, &m, err);

	d->made = true; /* whatever becomes of it */
	while (ret == 0 && is_disk(d, &m)) {
		ret = d->vm.disk(d->vm.ctx, m.data, m.bytes, err);
		if (ret == 0)
			ret = migrate_get(&d->link, &m, err);
	}
	if (ret)
		return ret;
	if (strcmp(m.name, "config") != 0)
		return migrate_unexpected(&d->link, &m, "config", err);
	ret = d->vm.create(d->vm.ctx, m.data, m.bytes, &d->pages, err);
	if (ret == 0 && d->capabilities & MIGRATE_CAN_POSTCOPY)
		ret = incoming_create(&d->incoming, d->pages, err);
	if (ret)
		return ret;
	put_u64(pages, d->pages);
	return migrate_send(&d->link, "mig.accept", pages, sizeof(pages), err);
}

static int take_page(struct migrate_dest *d, uint64_t page, const uint8_t *data, struct error *err)
{
	if (!d->incoming)
		return d->vm.write_page(d->vm.ctx, page, data, err);
	incoming_put(d->incoming, page, data);
	return 0;
}

static int take_pages(struct migrate_dest *d, const struct stream_section *m, struct error *err)
{
	struct pages p;
	int ret = pages_parse(&p, m, d->pages, transport_name(d->link.t), err);

	for (unsigned i = 0; i < p.count && ret == 0; i++)
		ret = take_page(d, p.entry[i].page, p.entry[i].data, err);
	count(d, p.count);
	pages_free(&p);
	return ret;
}

/* Memory, until the VM stands still at the other end. */
static int take_rounds(struct migrate_dest *d, struct error *err)
{
	struct stream_section m;
	int ret;

	for (;;) {
		ret = migrate_get(&d->link, &m, err);
		if (ret)
			return ret;
		if (strcmp(m.name, "mig.state") == 0)
			return 0;
		if (pages_is_section(m.name))
			ret = take_pages(d, &m, err);
		else if (is_disk(d, &m))
			ret = d->vm.disk(d->vm.ctx, m.data, m.bytes, err);
		else if (strcmp(m.name, "mig.round") == 0 && m.bytes == 4)
			ret = migrate_send(&d->link, "mig.round", m.data, m.bytes, err);
		else
			ret = migrate_unexpected(&d->link, &m, "memory", err);
		if (ret)
			return ret;
	}
}

static int take_absent(struct migrate_dest *d, const struct stream_section *m, struct error *err)
{
	if (!(d->capabilities & MIGRATE_CAN_POSTCOPY))
		return migrate_unexpected(&d->link, m, "state", err);
	if (!d->absent)
		d->absent = calloc(bitmap_words(d->pages), 8);
	if (!d->absent)
		return error_set(err, -ENOMEM, "out of memory");
	return migrate_add_bitmap(&d->link, m, d->absent, d->pages, err);
}

/* The rest of memory, or which pages follow; and all other state. @end: the section that ends it. */
static int take_state(struct migrate_dest *d, struct stream_section *end, struct error *err)
{
	unsigned sections = 0;
	int ret;

	for (;;) {
		ret = migrate_get(&d->link, end, err);
		if (ret)
			return ret;
		if (strcmp(end->name, "mig.state-end") == 0)
			return end->bytes == 24 ? 0 : migrate_unexpected(&d->link, end, "mig.state-end", err);
		if (pages_is_section(end->name))
			ret = take_pages(d, end, err);
		else if (strcmp(end->name, "mig.absent") == 0)
			ret = take_absent(d, end, err);
		else if (strncmp(end->name, "mig.", 4) == 0 || ++sections > STATE_SECTIONS_MAX)
			ret = migrate_unexpected(&d->link, end, "state", err);
		else
			ret = d->vm.load(d->vm.ctx, end->name, end->data, end->bytes, err);
		if (ret)
			return ret;
	}
}

static int put_together(struct migrate_dest *d, struct error *err)
{
	const struct migrate_fetch fetch = {.ctx = d->incoming, .fetch = incoming_fetch};
	uint64_t *absent;
	int ret;

	if (!d->incoming)
		return d->vm.finish(d->vm.ctx, NULL, NULL, err);
	absent = calloc(bitmap_words(d->pages), 8);
	if (!absent)
		return error_set(err, -ENOMEM, "out of memory");
	incoming_settle(d->incoming, d->absent ? d->absent : absent);
	incoming_not_zero(d->incoming, absent);
	ret = d->vm.finish(d->vm.ctx, absent, &fetch, err);
	free(absent);
	return ret;
}

static int check_hash(struct migrate_dest *d, const uint64_t expected[2], struct error *err)
{
	uint64_t hash[2];

	d->vm.hash(d->vm.ctx, hash);
	if (hash[0] == expected[0] && hash[1] == expected[1])
		return 0;
	return error_set(err, -EBADMSG,
			 "what has arrived is not the VM that was sent: its hash is %016llx, not %016llx",
			 (unsigned long long)hash[0], (unsigned long long)expected[0]);
}

static int receive_vm(struct migrate_dest *d, struct error *err)
{
	struct stream_section m;
	uint64_t hash[2];
	bool verify;
	int ret = make_vm(d, err);

	if (ret == 0)
		ret = take_rounds(d, err);
	if (ret == 0)
		ret = take_state(d, &m, err);
	if (ret)
		return ret;
	verify = get_u64(m.data);
	hash[0] = get_u64(m.data + 8);
	hash[1] = get_u64(m.data + 16);
	if (verify && d->absent)
		return error_set(err, -EPROTO, "a hash of memory that is not there yet");
	ret = put_together(d, err);
	if (ret == 0 && verify)
		ret = check_hash(d, hash, err);
	return ret;
}

/* ---- "run" ---- */

static int send_absent(struct migrate_dest *d, struct error *err)
{
	uint64_t *bitmap = d->incoming ? malloc(bitmap_words(d->pages) * 8) : NULL;
	int ret = 0;

	if (d->incoming && !bitmap)
		return error_set(err, -ENOMEM, "out of memory");
	if (bitmap) {
		incoming_absent(d->incoming, bitmap);
		ret = migrate_put_bitmap(&d->link, "mig.absent", bitmap, bitmap_words(d->pages), err);
	}
	free(bitmap);
	return ret ? ret : migrate_send(&d->link, "mig.absent-end", NULL, 0, err);
}

/*
 * With everything there: waits for the word, and gives its own. Once the state is RUNNING the VM runs here, whatever is
 * returned.
 */
static int await_run(struct migrate_dest *d, bool asked, struct error *err)
{
	int ret = migrate_expect_token(&d->link, "mig.run", d->token, err);

	if (ret)
		return ret;
	d->state = DEST_RUNNING;
	ret = migrate_send_token(&d->link, "mig.running", d->token, err);
	return ret == 0 && asked ? send_absent(d, err) : ret;
}

/* ---- who comes in ---- */

static int refuse(struct migrate_dest *d, const char *why, int code, struct error *err)
{
	migrate_refuse(&d->link, why);
	return error_set(err, code, "%.100s was refused: %s", transport_name(d->link.t), why);
}

static int welcome_new(struct migrate_dest *d, const struct migrate_hello *h, struct error *err)
{
	struct migrate_welcome w = {.version = MIGRATE_VERSION, .standing = MIGRATE_WELCOME,
				    .capabilities = h->capabilities & capabilities(d)};
	int ret;

	if (d->state != DEST_IDLE)
		return refuse(d, "there is a VM here already", -EBUSY, err);
	d->state = DEST_LOADING;
	d->capabilities = w.capabilities;
	memcpy(d->token, h->token, sizeof(d->token));
	ret = migrate_put_welcome(&d->link, &w, err);
	if (ret == 0)
		ret = receive_vm(d, err);
	if (ret) {
		migrate_refuse(&d->link, err->text);
		return ret;
	}
	d->state = DEST_READY;
	ret = migrate_send_token(&d->link, "mig.ready", d->token, err);
	return ret ? ret : await_run(d, false, err);
}

static int welcome_again(struct migrate_dest *d, const struct migrate_hello *h, struct error *err)
{
	struct migrate_welcome w = {.version = MIGRATE_VERSION, .capabilities = d->capabilities};
	int ret;

	if (h->kind == MIGRATE_FORGET && standing(d, h->token) == MIGRATE_READY) {
		drop(d);
		say(d, "%s", "the VM stays at the source");
	}
	w.standing = standing(d, h->token);
	ret = migrate_put_welcome(&d->link, &w, err);
	if (ret)
		return ret;
	if (h->kind == MIGRATE_ASK && w.standing == MIGRATE_READY)
		return await_run(d, true, err);
	if (h->kind == MIGRATE_ASK && w.standing == MIGRATE_RUNNING)
		return send_absent(d, err);
	return 1;
}

/* Lets somebody in and hears what he wants. 0: it is the source, and the VM runs or is to; 1: his matter is done. */
static int receive(struct migrate_dest *d, int64_t wait_ms, struct error *err)
{
	struct migrate_hello h;
	struct transport *t;
	int ret = d->door.accept(d->door.ctx, &t, wait_ms, err);

	if (ret)
		return ret;
	ret = migrate_link_open(&d->link, t, err);
	if (ret == 0)
		ret = migrate_get_hello(&d->link, &h, err);
	if (ret) {
		if (ret == -ENOTSUP)
			migrate_refuse(&d->link, err->text);
		return ret;
	}
	return h.kind == MIGRATE_NEW ? welcome_new(d, &h, err) : welcome_again(d, &h, err);
}

/* ---- until it runs ---- */

/* Nothing that a visitor can bring about. */
static bool is_end_of_waiting(int code) { return code == -ECANCELED || code == -EMFILE || code == -ENFILE; }

/* The connection is gone, or did its duty. */
static void after_visit(struct migrate_dest *d, int ret, const struct error *err)
{
	if (ret < 0 && ret != -ETIMEDOUT && ret != -ECANCELED)
		say(d, "%s", err->text);
	migrate_link_close(&d->link);
	if (d->state == DEST_LOADING)
		drop(d);
}

static int64_t ready_wait(const struct migrate_dest *d, int64_t ready_until)
{
	int64_t left = (ready_until - transport_now_ns()) / 1000000;

	return d->state != DEST_READY ? -1 : left < 0 ? 0 : left;
}

int migrate_dest_wait(struct migrate_dest *d, struct error *err)
{
	int64_t ready_until = 0;

	for (;;) {
		bool was_ready = d->state == DEST_READY;
		int ret;

		err->text[0] = 0;
		ret = receive(d, ready_wait(d, ready_until), err);
		if (d->state == DEST_RUNNING)
			return 0;
		if (d->state == DEST_READY && !was_ready)
			ready_until = transport_now_ns() + d->recover_ms * 1000000;
		after_visit(d, ret, err);
		if (d->state == DEST_READY && (transport_now_ns() >= ready_until || is_end_of_waiting(ret))) {
			drop(d);
			say(d, "%s", "the VM did not start here: the source has not come back");
		}
		if (is_end_of_waiting(ret))
			return ret;
	}
}

/* ---- while it runs ---- */

static bool has_ended(struct migrate_dest *d)
{
	bool ended;

	pthread_mutex_lock(&d->lock);
	ended = d->ended;
	pthread_mutex_unlock(&d->lock);
	return ended;
}

static int take_late_pages(struct migrate_dest *d, const struct stream_section *m, struct error *err)
{
	int ret = take_pages(d, m, err);

	if (ret == 0)
		d->vm.arrived(d->vm.ctx);
	return ret;
}

static int send_requests(struct migrate_dest *d, struct error *err)
{
	uint8_t number[8];
	uint64_t page;
	int ret = 0;

	while (ret == 0 && incoming_next_request(d->incoming, &page)) {
		put_u64(number, page);
		ret = migrate_send(&d->link, "mig.need", number, sizeof(number), err);
	}
	return ret;
}

static int confirm_all(struct migrate_dest *d, struct error *err)
{
	if (d->incoming && incoming_left(d->incoming))
		return error_set(err, -EPROTO, "%.100s: %llu pages have not come", transport_name(d->link.t),
				 (unsigned long long)incoming_left(d->incoming));
	return migrate_send(&d->link, "mig.complete", NULL, 0, err);
}

/* One message from the source. */
static int take_message(struct migrate_dest *d, struct error *err)
{
	struct stream_section m;
	int ret = migrate_get(&d->link, &m, err);

	if (ret)
		return ret;
	if (d->incoming && pages_is_section(m.name))
		return take_late_pages(d, &m, err);
	if (strcmp(m.name, "mig.all") == 0)
		return confirm_all(d, err);
	if (strcmp(m.name, "mig.done") != 0 || (d->incoming && incoming_left(d->incoming)))
		return migrate_unexpected(&d->link, &m, "pages", err);
	d->state = DEST_OVER;
	return 0;
}

/* Serves a connection until all is over or it is lost. */
static int serve(struct migrate_dest *d, struct error *err)
{
	int ret = 0;

	if (d->incoming)
		incoming_ask_again(d->incoming);
	while (ret == 0 && d->state != DEST_OVER) {
		ret = transport_wait(d->link.t, d->incoming ? incoming_wake_fd(d->incoming) : -1,
				     transport_stall_ms(d->link.t), err);
		if (ret < 0)
			break;
		if (ret == 0) /* the source always has something to send, or to say */
			return error_set(err, -ETIMEDOUT, "%.100s: sends nothing", transport_name(d->link.t));
		if (ret & TRANSPORT_READABLE)
			ret = take_message(d, err);
		else
			ret = d->incoming ? send_requests(d, err) : 0;
	}
	return ret;
}

static void note_recovering(struct migrate_dest *d, bool is)
{
	pthread_mutex_lock(&d->lock);
	d->progress.recovering = is;
	pthread_mutex_unlock(&d->lock);
}

/*
 * After a lost connection: waits for the source to come again. False if it need not come, or will not: the VM has all
 * its memory and has ended, and there was time enough to ask.
 */
static bool await_source(struct migrate_dest *d, int64_t *deadline)
{
	struct error err = {0};
	int ret;

	if (!*deadline && has_ended(d) && !(d->incoming && incoming_left(d->incoming)))
		*deadline = transport_now_ns() + d->recover_ms * 1000000;
	if (*deadline && transport_now_ns() >= *deadline)
		return false;
	ret = receive(d, 200, &err);
	if (ret == 0)
		return true;
	if (ret < 0 && ret != -ETIMEDOUT && ret != -ECANCELED && *err.text)
		say(d, "%s", err.text);
	migrate_link_close(&d->link);
	return ret != -ECANCELED;
}

static void *tail(void *ctx)
{
	struct migrate_dest *d = ctx;
	int64_t deadline = 0;

	while (d->state != DEST_OVER) {
		struct error err = {0};

		if (d->link.t) {
			int ret = serve(d, &err);

			if (d->state != DEST_OVER && d->incoming && incoming_left(d->incoming))
				say(d, "%s: the VM has not got all its memory, and waits for the source", err.text);
			note_recovering(d, d->state != DEST_OVER);
			migrate_link_close(&d->link);
			if (ret == -ECANCELED)
				break;
		} else if (!await_source(d, &deadline)) {
			break;
		} else {
			note_recovering(d, false);
		}
	}
	if (d->incoming)
		incoming_give_up(d->incoming);
	return NULL;
}

int migrate_dest_start(struct migrate_dest *d, struct error *err)
{
	int ret = pthread_create(&d->thread, NULL, tail, d);

	d->started = ret == 0;
	return ret ? error_set(err, -ret, "cannot start a thread: %s", strerror(ret)) : 0;
}

bool migrate_dest_take(struct migrate_dest *d, unsigned max, void (*touch)(void *ctx, uint64_t page), void *ctx)
{
	uint64_t page;

	for (unsigned i = 0; d->incoming && i < max; i++) {
		if (!incoming_next(d->incoming, &page))
			return false;
		touch(ctx, page);
		incoming_forget(d->incoming, page);
	}
	return d->incoming;
}

void migrate_dest_end(struct migrate_dest *d)
{
	if (!d->started)
		return;
	pthread_mutex_lock(&d->lock);
	d->ended = true;
	pthread_mutex_unlock(&d->lock);
	pthread_join(d->thread, NULL);
	d->started = false;
}

void migrate_dest_progress(struct migrate_dest *d, struct migrate_dest_progress *p)
{
	pthread_mutex_lock(&d->lock);
	*p = d->progress;
	pthread_mutex_unlock(&d->lock);
	p->left = d->incoming ? incoming_left(d->incoming) : 0;
	p->demanded = d->incoming ? incoming_demanded(d->incoming) : 0;
}

/* ---- its life ---- */

int migrate_dest_create(struct migrate_dest **out, const struct migrate_dest_vm *vm, const struct migrate_door *door,
			int64_t recover_ms, struct error *err)
{
	struct migrate_dest *d = calloc(1, sizeof(*d));

	if (!d)
		return error_set(err, -ENOMEM, "out of memory");
	d->vm = *vm;
	d->door = *door;
	d->recover_ms = recover_ms;
	pthread_mutex_init(&d->lock, NULL);
	*out = d;
	return 0;
}

void migrate_dest_free(struct migrate_dest *d)
{
	if (!d)
		return;
	migrate_dest_end(d);
	migrate_link_close(&d->link);
	incoming_free(d->incoming);
	free(d->absent);
	pthread_mutex_destroy(&d->lock);
	free(d);
}
