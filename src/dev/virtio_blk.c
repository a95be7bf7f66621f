/*
 * A virtio disk with one queue: read, write, flush, discard, write zeroes, get ID.
 *
 * A request is taken from the ring, its data copied, and given to the disk's worker. At the virtual time at which it
 * is complete by the model in virtio_blk.h the VM waits for the worker if need be; only then, and on the VM's own
 * thread, does anything of it show in the guest. So what the guest sees does not depend on the host's speed. With
 * the wall clock a request is complete when the worker is done with it: the worker says so, and the VM's thread then
 * looks at it, between two instructions.
 *
 * Left out: several queues, turning the write cache off by the configuration, secure erase, zones, lifetime.
 * Source: Virtual I/O Device (VIRTIO) Version 1.2, "Block Device".
 */
#include "dev/virtio_blk.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define SECTOR      512u
#define SEGS_MAX    (VIRTQ_SIZE_MAX - 2) /* header and status have descriptors of their own */
#define SEG_BYTES   0x10000u
#define DATA_MAX    ((uint64_t)SEGS_MAX * SEG_BYTES)
#define IN_FLIGHT_BYTES_MAX (2 * DATA_MAX)
#define RANGE_SECTORS_MAX (1u << 21)    /* of a discard or write zeroes: 1 GiB */

enum { BLK_IN = 0, BLK_OUT = 1, BLK_FLUSH = 4, BLK_GET_ID = 8, BLK_DISCARD = 11, BLK_WRITE_ZEROES = 13 };
enum { BLK_OK = 0, BLK_IOERR = 1, BLK_UNSUPP = 2 };

#define F_SIZE_MAX     (1ull << 1)
#define F_SEG_MAX      (1ull << 2)
#define F_RO           (1ull << 5)
#define F_BLK_SIZE     (1ull << 6)
#define F_FLUSH        (1ull << 9)
#define F_DISCARD      (1ull << 13)
#define F_WRITE_ZEROES (1ull << 14)
#define F_ONLY_WRITABLE (F_DISCARD | F_WRITE_ZEROES)

enum { /* struct virtio_blk_config */
	CONFIG_CAPACITY = 0, CONFIG_SIZE_MAX = 8, CONFIG_SEG_MAX = 12, CONFIG_BLK_SIZE = 20,
	CONFIG_DISCARD_SECTORS = 36, CONFIG_DISCARD_SEGS = 40, CONFIG_DISCARD_ALIGN = 44,
	CONFIG_ZEROES_SECTORS = 48, CONFIG_ZEROES_SEGS = 52, CONFIG_ZEROES_UNMAP = 56, CONFIG_BYTES = 60,
};

#define HEADER_BYTES  16u
#define RANGE_BYTES   16u /* sector, count, flags */
#define RANGE_UNMAP   1u

struct blk_request {
	struct virtq_chain chain;
	uint32_t type;
	uint64_t sector;
	uint64_t bytes;      /* of data */
	uint8_t status;
	bool submitted;      /* io is or was the worker's; otherwise status is final */
	uint64_t loaded;     /* of data, where it is loaded with the state */
	uint64_t done_at;    /* virtual time; UINT64_MAX: not known yet */
	struct disk_request io;
	struct blk_request *next;
	uint8_t data[];
};

static struct virtio_blk *blk_of(struct virtio *v) { return (struct virtio_blk *)(void *)v; }
static_assert(offsetof(struct virtio_blk, virtio) == 0, "a virtio_blk begins with its virtio");

/* ---- what a request asks for ---- */

static bool in_capacity(const struct virtio_blk *b, uint64_t sector, uint64_t bytes)
{
	uint64_t capacity = get_u64(b->virtio.config + CONFIG_CAPACITY);

	return !(bytes % SECTOR) && sector <= capacity && bytes / SECTOR <= capacity - sector;
}

static bool is_change(uint32_t type) { return type == BLK_OUT || type == BLK_DISCARD || type == BLK_WRITE_ZEROES; }

static uint8_t prepare_transfer(const struct virtio_blk *b, struct blk_request *rq)
{
	if (!in_capacity(b, rq->sector, rq->bytes))
		return BLK_IOERR;
	rq->io.kind = rq->type == BLK_IN ? DISK_WORK_READ : DISK_WORK_WRITE;
	rq->io.at = rq->sector * SECTOR;
	rq->io.bytes = rq->bytes;
	rq->io.buf = rq->data;
	return BLK_OK;
}

static uint8_t prepare_range(const struct virtio_blk *b, struct blk_request *rq)
{
	uint32_t sectors, flags;

	if (rq->bytes != RANGE_BYTES)
		return BLK_IOERR; /* the configuration says: one range a request */
	rq->sector = get_u64(rq->data);
	sectors = get_u32(rq->data + 8);
	flags = get_u32(rq->data + 12);
	if (flags & ~(rq->type == BLK_WRITE_ZEROES ? RANGE_UNMAP : 0u))
		return BLK_UNSUPP;
	if (sectors > RANGE_SECTORS_MAX || !in_capacity(b, rq->sector, (uint64_t)sectors * SECTOR))
		return BLK_IOERR;
	rq->io.kind = rq->type == BLK_DISCARD ? DISK_WORK_DISCARD : DISK_WORK_ZEROES;
	rq->io.at = rq->sector * SECTOR;
	rq->io.bytes = (uint64_t)sectors * SECTOR;
	rq->io.may_unmap = flags & RANGE_UNMAP;
	return BLK_OK;
}

/* Fills in what the worker is to do; anything but BLK_OK ends the request here. */
static uint8_t prepare(struct virtio_blk *b, struct blk_request *rq)
{
	if (is_change(rq->type) && disk_read_only(b->disk))
		return BLK_IOERR;
	/* Without the feature the driver does not flush: every write has to be on stable storage. */
	rq->io.then_flush = is_change(rq->type) && !virtio_has(&b->virtio, F_FLUSH);
	switch (rq->type) {
	case BLK_IN:
	case BLK_OUT:
		return prepare_transfer(b, rq);
	case BLK_FLUSH:
		rq->io.kind = DISK_WORK_FLUSH;
		return BLK_OK;
	case BLK_DISCARD:
	case BLK_WRITE_ZEROES:
		return prepare_range(b, rq);
	default:
		return BLK_UNSUPP;
	}
}

/* ---- from the ring to the worker ---- */

static void append(struct virtio_blk *b, struct blk_request *rq)
{
	b->bytes_in_flight += rq->bytes;
	if (b->first)
		b->last->next = rq;
	else
		b->first = rq;
	b->last = rq;
}

/* When the guest is to hear of it. */
static void schedule(struct virtio_blk *b, struct blk_request *rq, uint64_t now)
{
	if (b->wall)
		rq->done_at = rq->submitted ? UINT64_MAX : now;
	else
		rq->done_at = b->busy_until = max_u64(now, b->busy_until) + VIRTIO_BLK_REQUEST_NS +
					      rq->bytes / VIRTIO_BLK_BYTES_PER_NS;
}

/* A chain of the guest's becomes a request with all that is needed of it. NULL: no memory. */
static struct blk_request *make_request(const struct virtio_blk *b, const struct virtq_chain *chain)
{
	const struct dma *dma = b->virtio.dma;
	uint8_t header[HEADER_BYTES];
	struct blk_request *rq;
	uint64_t bytes;

	virtq_read(chain, dma, 0, header, sizeof(header));
	bytes = get_u32(header) == BLK_IN || get_u32(header) == BLK_GET_ID ? chain->in_bytes - 1
									  : chain->out_bytes - HEADER_BYTES;
	if (bytes > DATA_MAX)
		bytes = 0;
	rq = calloc(1, sizeof(*rq) + bytes);
	if (!rq)
		return NULL;
	rq->chain = *chain;
	rq->type = get_u32(header);
	rq->sector = get_u64(header + 8);
	rq->bytes = bytes;
	if (rq->type != BLK_IN && rq->type != BLK_GET_ID)
		virtq_read(chain, dma, HEADER_BYTES, rq->data, bytes);
	return rq;
}

static void get_id(const struct virtio_blk *b, struct blk_request *rq)
{
	memcpy(rq->data, b->serial, min_u64(rq->bytes, VIRTIO_BLK_SERIAL_BYTES));
	rq->status = BLK_OK;
}

static bool is_too_long(const struct virtq_chain *c)
{
	return max_u64(c->out_bytes, c->in_bytes) > DATA_MAX + HEADER_BYTES;
}

static void start(struct virtio_blk *b, const struct virtq_chain *chain, uint64_t now)
{
	struct blk_request *rq;

	if (chain->out_bytes < HEADER_BYTES || !chain->in_bytes) {
		virtio_stop(&b->virtio, "a request has no header or no status");
		return;
	}
	rq = make_request(b, chain);
	if (!rq) {
		virtio_stop(&b->virtio, "the host has no memory for a request");
		return;
	}
	if (is_too_long(chain)) {
		rq->status = BLK_IOERR;
	} else if (rq->type == BLK_GET_ID) {
		get_id(b, rq);
	} else {
		rq->status = prepare(b, rq);
		rq->submitted = rq->status == BLK_OK;
	}
	schedule(b, rq, now);
	append(b, rq);
	if (rq->submitted)
		disk_worker_submit(b->worker, &rq->io);
}

static void take_requests(struct virtio_blk *b, uint64_t now)
{
	struct virtq_chain chain;
	unsigned n;

	b->stalled = false;
	for (n = 0; n < VIRTQ_SIZE_MAX && b->bytes_in_flight < IN_FLIGHT_BYTES_MAX; n++) {
		if (!virtio_pop(&b->virtio, 0, &chain))
			break;
		start(b, &chain, now);
	}
	b->stalled = b->bytes_in_flight >= IN_FLIGHT_BYTES_MAX;
	if (!b->stalled && n < VIRTQ_SIZE_MAX)
		virtq_want_notification(&b->virtio.queue[0], b->virtio.dma, true);
	else if (!b->stalled)
		virtio_ring(&b->virtio, 0, now);
}

static void blk_process(struct virtio *v, unsigned queue, uint64_t now)
{
	(void)queue;
	take_requests(blk_of(v), now);
}

/* ---- from the worker to the guest ---- */

/* The user is told once of each kind of request that fails. */
static void note_failure(struct virtio_blk *b, const struct blk_request *rq)
{
	if (b->kinds_failed >> rq->io.kind & 1)
		return;
	b->kinds_failed |= 1u << rq->io.kind;
	virtio_say(&b->virtio, "%s; the guest is given an I/O error", rq->io.err.text);
}

/* Has the request data for the guest? */
static bool fills(const struct blk_request *rq)
{
	return rq->status == BLK_OK && (rq->type == BLK_IN || rq->type == BLK_GET_ID);
}

/* The worker is done with it: its status is final. */
static void take_result(struct virtio_blk *b, struct blk_request *rq)
{
	if (rq->submitted && rq->io.result) {
		rq->status = BLK_IOERR;
		note_failure(b, rq);
	}
	rq->submitted = false;
}

static void complete(struct virtio_blk *b, struct blk_request *rq)
{
	const struct dma *dma = b->virtio.dma;
	uint64_t in = rq->chain.in_bytes;

	take_result(b, rq);
	if (fills(rq))
		virtq_write(&rq->chain, dma, 0, rq->data, rq->bytes);
	virtq_write(&rq->chain, dma, in - 1, &rq->status, 1);
	virtio_push(&b->virtio, 0, rq->chain.head, rq->status == BLK_OK && in <= UINT32_MAX ? (uint32_t)in : 0);
}

static void drop_first(struct virtio_blk *b)
{
	struct blk_request *rq = b->first;

	b->first = rq->next;
	b->bytes_in_flight -= rq->bytes;
	free(rq);
}

/* Is the oldest request complete? In virtual time the VM waits for the host, not the other way round. */
static bool first_is_done(struct virtio_blk *b, uint64_t now)
{
	const struct blk_request *rq = b->first;

	if (!rq || rq->done_at > now)
		return false;
	if (rq->submitted)
		disk_worker_wait(b->worker, &rq->io);
	return true;
}

static uint64_t blk_advance(struct virtio *v, uint64_t now)
{
	struct virtio_blk *b = blk_of(v);
	bool any = false;

	while (first_is_done(b, now)) {
		complete(b, b->first);
		drop_first(b);
		any = true;
	}
	if (any)
		virtio_interrupt(v, 0);
	if (any && b->stalled)
		take_requests(b, now);
	return b->first ? b->first->done_at : UINT64_MAX;
}

void virtio_blk_poll(struct virtio_blk *b, uint64_t now)
{
	struct blk_request *rq;

	if (!b->wall)
		return;
	for (rq = b->first; rq; rq = rq->next)
		if (rq->done_at == UINT64_MAX && (!rq->submitted || disk_worker_is_done(b->worker, &rq->io)))
			rq->done_at = now;
}

bool virtio_blk_waits(const struct virtio_blk *b)
{
	return b->wall && b->first && b->first->done_at == UINT64_MAX;
}

/* What was submitted is done on the disk, and nobody hears of it. */
static void drain(struct virtio_blk *b)
{
	while (b->first) {
		if (b->first->submitted)
			disk_worker_wait(b->worker, &b->first->io);
		drop_first(b);
	}
}

static void blk_reset(struct virtio *v)
{
	struct virtio_blk *b = blk_of(v);

	drain(b);
	b->busy_until = 0;
	b->stalled = false;
}

/* ---- making it ---- */

static const struct virtio_ops ops = {
	.name = "blk", .id = 2, .pci_class = 0x010000, .queues = 1, .config_bytes = CONFIG_BYTES,
	.process = blk_process, .advance = blk_advance, .reset = blk_reset,
};

static void fill_config(struct virtio_blk *b)
{
	uint8_t *c = b->virtio.config;

	put_u64(c + CONFIG_CAPACITY, disk_bytes(b->disk) / SECTOR);
	put_u32(c + CONFIG_SIZE_MAX, SEG_BYTES);
	put_u32(c + CONFIG_SEG_MAX, SEGS_MAX);
	put_u32(c + CONFIG_BLK_SIZE, SECTOR);
	put_u32(c + CONFIG_DISCARD_SECTORS, RANGE_SECTORS_MAX);
	put_u32(c + CONFIG_DISCARD_SEGS, 1);
	put_u32(c + CONFIG_DISCARD_ALIGN, 1);
	put_u32(c + CONFIG_ZEROES_SECTORS, RANGE_SECTORS_MAX);
	put_u32(c + CONFIG_ZEROES_SEGS, 1);
	c[CONFIG_ZEROES_UNMAP] = 1;
}

int virtio_blk_init(struct virtio_blk *b, struct disk *disk, const struct dma *dma, const char *serial,
		    const struct disk_listener *wall, const char *label, struct error *err)
{
	uint64_t features = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH;
	int ret;

	memset(b, 0, sizeof(*b));
	ret = disk_worker_start(&b->worker, disk, wall, err);
	if (ret) {
		disk_close(disk, NULL);
		return ret;
	}
	b->disk = disk;
	b->wall = wall != NULL;
	memcpy(b->serial, serial, strnlen(serial, VIRTIO_BLK_SERIAL_BYTES));
	features |= disk_read_only(disk) ? F_RO : F_ONLY_WRITABLE;
	virtio_init(&b->virtio, &ops, dma, features, label);
	fill_config(b);
	return 0;
}

struct disk *virtio_blk_settle(struct virtio_blk *b)
{
	for (const struct blk_request *rq = b->first; rq; rq = rq->next)
		if (rq->submitted)
			disk_worker_wait(b->worker, &rq->io);
	return b->disk;
}

void virtio_blk_set_disk(struct virtio_blk *b, struct disk *disk)
{
	b->disk = disk;
	disk_worker_set_disk(b->worker, disk);
}

int virtio_blk_start_mirror(struct virtio_blk *b, struct disk_mirror *m, struct error *err)
{
	if (b->mirror)
		return error_set(err, -EBUSY, "%s: is being mirrored already", b->virtio.label);
	if (disk_mirror_bytes(m) != disk_bytes(b->disk))
		return error_set(err, -EINVAL, "%s: has %llu bytes, its mirror %llu", b->virtio.label,
				 (unsigned long long)disk_bytes(b->disk), (unsigned long long)disk_mirror_bytes(m));
	virtio_blk_settle(b);
	b->mirror = m;
	disk_worker_set_mirror(b->worker, m);
	return 0;
}

struct disk *virtio_blk_end_mirror(struct virtio_blk *b)
{
	virtio_blk_settle(b);
	b->mirror = NULL;
	disk_worker_set_mirror(b->worker, NULL);
	return b->disk;
}

static void stop_mirror(struct virtio_blk *b)
{
	struct disk_mirror *m = b->mirror;

	if (!m)
		return;
	virtio_blk_end_mirror(b);
	disk_mirror_stop(m, -ECANCELED);
}

int virtio_blk_release_disk(struct virtio_blk *b, struct error *err)
{
	struct disk *disk;

	stop_mirror(b);
	disk = virtio_blk_settle(b);
	virtio_blk_set_disk(b, NULL);
	return disk ? disk_close(disk, err) : 0;
}

void virtio_blk_offer_writing(struct virtio_blk *b)
{
	b->virtio.offered = (b->virtio.offered & ~F_RO) | F_ONLY_WRITABLE;
}

int virtio_blk_close(struct virtio_blk *b, struct error *err)
{
	drain(b);
	stop_mirror(b);
	disk_worker_stop(b->worker);
	return b->disk ? disk_close(b->disk, err) : 0;
}

/* ---- state ---- */

/* By the worker, which may be copying from the disk. */
static int flush_disk(struct virtio_blk *b, struct error *err)
{
	struct disk_request rq = {.kind = DISK_WORK_FLUSH};

	disk_worker_submit(b->worker, &rq);
	disk_worker_wait(b->worker, &rq);
	return rq.result ? error_set(err, rq.result, "%s", rq.err.text) : 0;
}

int virtio_blk_prepare_state(struct virtio_blk *b, struct error *err)
{
	virtio_blk_settle(b);
	for (struct blk_request *rq = b->first; rq; rq = rq->next)
		take_result(b, rq);
	return flush_disk(b, err);
}

static const struct blk_request *nth_request(const struct virtio_blk *b, unsigned n)
{
	const struct blk_request *rq = b->first;

	while (rq && n--)
		rq = rq->next;
	return rq;
}

bool virtio_blk_save_request(const struct virtio_blk *b, unsigned n, struct blk_request_state *s)
{
	const struct blk_request *rq = nth_request(b, n);

	if (!rq)
		return false;
	*s = (struct blk_request_state){.type = rq->type, .sector = rq->sector, .bytes = rq->bytes,
					.done_at = rq->done_at, .status = rq->status, .head = rq->chain.head,
					.outs = rq->chain.outs, .ins = rq->chain.ins};
	for (unsigned i = 0; i < s->outs; i++) {
		s->out_gpa[i] = rq->chain.part[i].gpa;
		s->out_bytes[i] = rq->chain.part[i].bytes;
	}
	for (unsigned i = 0; i < s->ins; i++) {
		s->in_gpa[i] = rq->chain.part[s->outs + i].gpa;
		s->in_bytes[i] = rq->chain.part[s->outs + i].bytes;
	}
	return true;
}

bool virtio_blk_save_data(const struct virtio_blk *b, unsigned n, struct blk_data_state *d)
{
	const struct blk_request *rq = nth_request(b, n);

	if (!rq || !fills(rq) || d->at >= rq->bytes)
		return false;
	d->bytes = (uint32_t)min_u64(BLK_DATA_PIECE, rq->bytes - d->at);
	memcpy(d->data, rq->data + d->at, d->bytes);
	return true;
}

/* What start() and make_request() would have let through. */
static bool is_possible(const struct virtio_blk *b, const struct blk_request_state *s)
{
	unsigned requests = 0;

	for (const struct blk_request *rq = b->first; rq; rq = rq->next)
		requests++;
	if (!s->ins || s->outs + s->ins > VIRTQ_SIZE_MAX || requests == VIRTQ_SIZE_MAX ||
	    b->bytes_in_flight >= IN_FLIGHT_BYTES_MAX)
		return false;
	return b->wall || ((!b->first || s->done_at >= b->last->done_at) && s->done_at <= b->busy_until);
}

static void load_chain(struct virtq_chain *c, const struct blk_request_state *s)
{
	c->head = s->head;
	c->outs = (uint16_t)s->outs;
	c->ins = (uint16_t)s->ins;
	for (unsigned i = 0; i < s->outs; i++) {
		c->part[i] = (struct virtq_part){s->out_gpa[i], s->out_bytes[i]};
		c->out_bytes += s->out_bytes[i];
	}
	for (unsigned i = 0; i < s->ins; i++) {
		c->part[s->outs + i] = (struct virtq_part){s->in_gpa[i], s->in_bytes[i]};
		c->in_bytes += s->in_bytes[i];
	}
}

int virtio_blk_load_request(struct virtio_blk *b, const struct blk_request_state *s, struct error *err)
{
	struct blk_request *rq;

	if (!is_possible(b, s))
		return error_set(err, -EINVAL, "state of virtio-blk: a request that cannot be in flight");
	rq = calloc(1, sizeof(*rq) + s->bytes);
	if (!rq)
		return error_set(err, -ENOMEM, "state of virtio-blk: out of memory");
	load_chain(&rq->chain, s);
	rq->type = s->type;
	rq->sector = s->sector;
	rq->bytes = s->bytes;
	rq->done_at = s->done_at;
	rq->status = s->status;
	rq->loaded = fills(rq) ? 0 : s->bytes;
	if (!rq->chain.in_bytes || (!virtio_blk_loaded(b))) {
		free(rq);
		return error_set(err, -EINVAL, "state of virtio-blk: a request without status, or before another's data");
	}
	append(b, rq);
	return 0;
}

int virtio_blk_load_data(struct virtio_blk *b, const struct blk_data_state *d, struct error *err)
{
	struct blk_request *rq = b->last;

	if (!b->first || d->at != rq->loaded || !d->bytes || d->bytes > rq->bytes - rq->loaded)
		return error_set(err, -EINVAL, "state of virtio-blk: data that no request waits for");
	memcpy(rq->data + d->at, d->data, d->bytes);
	rq->loaded += d->bytes;
	return 0;
}

bool virtio_blk_loaded(const struct virtio_blk *b) { return !b->first || b->last->loaded == b->last->bytes; }

static int blk_check(void *object, struct error *err)
{
	const struct virtio_blk *b = object;
	struct virtio_blk fresh = {.disk = b->disk};

	fill_config(&fresh);
	/* A raw image may end within a sector; an overlay on it has that sector, the guest has not. */
	if (get_u64(fresh.virtio.config + CONFIG_CAPACITY) == get_u64(b->virtio.config + CONFIG_CAPACITY) + 1)
		put_u64(fresh.virtio.config + CONFIG_CAPACITY, get_u64(b->virtio.config + CONFIG_CAPACITY));
	if (memcmp(fresh.virtio.config, b->virtio.config, sizeof(fresh.virtio.config)) == 0)
		return 0;
	return error_set(err, -EINVAL, "state of virtio-blk: it had %llu sectors, %s has %llu",
			 (unsigned long long)get_u64(b->virtio.config + CONFIG_CAPACITY), b->virtio.label,
			 (unsigned long long)get_u64(fresh.virtio.config + CONFIG_CAPACITY));
}

static const struct state_field blk_fields[] = {
	STATE_S(struct virtio_blk, virtio, &virtio_desc), STATE_U_MAX(struct virtio_blk, busy_until, DEVICE_TIME_MAX),
	STATE_B(struct virtio_blk, stalled), STATE_U(struct virtio_blk, kinds_failed),
};
const struct state_desc virtio_blk_desc = STATE_DESC("virtio-blk", 1, blk_fields, .check = blk_check);

#define REQUEST_U(m, max) STATE_U_MAX(struct blk_request_state, m, max)
#define REQUEST_V(m, n)   STATE_UV_USED(struct blk_request_state, m, n)
static const struct state_field request_fields[] = {
	REQUEST_U(type, UINT32_MAX), REQUEST_U(sector, UINT64_MAX), REQUEST_U(bytes, DATA_MAX), REQUEST_U(done_at, UINT64_MAX),
	REQUEST_U(status, BLK_UNSUPP), REQUEST_U(head, VIRTQ_SIZE_MAX - 1), REQUEST_V(out_gpa, outs), REQUEST_V(out_bytes, outs),
	REQUEST_V(in_gpa, ins), REQUEST_V(in_bytes, ins),
};
const struct state_desc virtio_blk_request_desc = STATE_DESC("virtio-blk-request", 1, request_fields);

static const struct state_field data_fields[] = {
	STATE_U(struct blk_data_state, at), STATE_DATA_USED(struct blk_data_state, data, bytes),
};
const struct state_desc virtio_blk_data_desc = STATE_DESC("virtio-blk-data", 1, data_fields);
