/*
 * Split virtqueues: see virtq.h.
 *
 * Left out: packed queues; descriptors within descriptors of more than one level, which are forbidden.
 */
#include "dev/virtq.h"

#include <errno.h>

#define DESC_BYTES      16u
#define DESC_NEXT       1u
#define DESC_WRITE      2u
#define DESC_INDIRECT   4u

#define AVAIL_NO_INTERRUPT 1u
#define USED_NO_NOTIFY     1u

struct desc {
	uint64_t gpa;
	uint32_t bytes;
	uint16_t flags, next;
};

static int break_queue(struct virtq *q, const char *why)
{
	if (!q->broken)
		q->broken = why;
	return -EINVAL;
}

void virtq_reset(struct virtq *q, uint16_t size) { *q = (struct virtq){.size = size}; }

/* ---- the three parts ---- */

static int read_u16(struct virtq *q, const struct dma *dma, uint64_t gpa, uint16_t *v)
{
	uint8_t b[2];

	if (dma->read(dma->ctx, gpa, b, sizeof(b)))
		return break_queue(q, "the available ring is not in RAM");
	*v = get_u16(b);
	return 0;
}

static int write_u16(struct virtq *q, const struct dma *dma, uint64_t gpa, uint16_t v)
{
	uint8_t b[2];

	put_u16(b, v);
	return dma->write(dma->ctx, gpa, b, sizeof(b)) ? break_queue(q, "the used ring is not in RAM") : 0;
}

static uint64_t avail_flags(const struct virtq *q) { return q->avail; }
static uint64_t avail_idx(const struct virtq *q) { return q->avail + 2; }
static uint64_t avail_ring(const struct virtq *q, uint16_t i) { return q->avail + 4 + 2 * (i & (q->size - 1u)); }
static uint64_t used_event(const struct virtq *q) { return q->avail + 4 + 2ull * q->size; }
static uint64_t used_flags(const struct virtq *q) { return q->used; }
static uint64_t used_idx(const struct virtq *q) { return q->used + 2; }
static uint64_t used_ring(const struct virtq *q, uint16_t i) { return q->used + 4 + 8 * (i & (q->size - 1u)); }
static uint64_t avail_event(const struct virtq *q) { return q->used + 4 + 8ull * q->size; }

static int read_desc(struct virtq *q, const struct dma *dma, uint64_t table, unsigned i, struct desc *d)
{
	uint8_t b[DESC_BYTES];

	if (dma->read(dma->ctx, table + DESC_BYTES * (uint64_t)i, b, sizeof(b)))
		return break_queue(q, "a descriptor is not in RAM");
	*d = (struct desc){get_u64(b), get_u32(b + 8), get_u16(b + 12), get_u16(b + 14)};
	return 0;
}

/* ---- taking chains ---- */

/* Chains the driver has made available and we have not taken. */
static int chains_waiting(struct virtq *q, const struct dma *dma, uint16_t *n)
{
	uint16_t idx;

	if (q->broken || !q->enabled)
		return q->broken ? -EINVAL : (*n = 0);
	if (read_u16(q, dma, avail_idx(q), &idx))
		return -EINVAL;
	*n = (uint16_t)(idx - q->next_avail);
	if (*n > q->size)
		return break_queue(q, "the available index runs away");
	return 0;
}

bool virtq_has_work(struct virtq *q, const struct dma *dma)
{
	uint16_t n;

	return chains_waiting(q, dma, &n) == 0 && n > 0;
}

/* One buffer: after what the device reads comes what it writes, never the other way. */
static int add_part(struct virtq *q, const struct dma *dma, struct virtq_chain *c, const struct desc *d)
{
	unsigned n = c->outs + c->ins;

	if (n >= q->size)
		return break_queue(q, "a chain is longer than the queue");
	if (!dma->is_ram(dma->ctx, d->gpa, d->bytes))
		return break_queue(q, "a buffer is not in RAM");
	if (d->flags & DESC_WRITE) {
		c->ins++;
		c->in_bytes += d->bytes;
	} else if (c->ins) {
		return break_queue(q, "a buffer to read follows one to write");
	} else {
		c->outs++;
		c->out_bytes += d->bytes;
	}
	c->part[n] = (struct virtq_part){d->gpa, d->bytes};
	return 0;
}

/* @d: the descriptor that names the table. It ends the chain. */
static int add_indirect(struct virtq *q, const struct dma *dma, struct virtq_chain *c, const struct desc *d)
{
	unsigned count = d->bytes / DESC_BYTES, i = 0;
	uint64_t table = d->gpa;
	struct desc in;

	if (!q->indirect)
		return break_queue(q, "an indirect descriptor that was not negotiated");
	if (d->flags & DESC_NEXT || !count || d->bytes % DESC_BYTES)
		return break_queue(q, "an indirect descriptor of impossible form");
	for (unsigned hops = 0; hops < q->size; hops++) {
		if (i >= count)
			return break_queue(q, "a descriptor's index is out of its table");
		if (read_desc(q, dma, table, i, &in))
			return -EINVAL;
		if (in.flags & DESC_INDIRECT)
			return break_queue(q, "an indirect descriptor within an indirect table");
		if (add_part(q, dma, c, &in))
			return -EINVAL;
		if (!(in.flags & DESC_NEXT))
			return 0;
		i = in.next;
	}
	return break_queue(q, "a chain is longer than the queue");
}

static int follow_chain(struct virtq *q, const struct dma *dma, struct virtq_chain *c)
{
	unsigned i = c->head;
	struct desc d;

	for (unsigned hops = 0; hops < q->size; hops++) {
		if (i >= q->size)
			return break_queue(q, "a descriptor's index is out of its table");
		if (read_desc(q, dma, q->desc, i, &d))
			return -EINVAL;
		if (d.flags & DESC_INDIRECT)
			return add_indirect(q, dma, c, &d);
		if (add_part(q, dma, c, &d))
			return -EINVAL;
		if (!(d.flags & DESC_NEXT))
			return 0;
		i = d.next;
	}
	return break_queue(q, "a chain is longer than the queue");
}

int virtq_pop(struct virtq *q, const struct dma *dma, struct virtq_chain *c)
{
	uint16_t waiting;
	int ret = chains_waiting(q, dma, &waiting);

	if (ret || !waiting)
		return ret;
	/* Every chain has a descriptor of its own: more of them are not possible. */
	if (q->in_use >= q->size)
		return break_queue(q, "more chains in use than descriptors");
	c->outs = c->ins = 0;
	c->out_bytes = c->in_bytes = 0;
	if (read_u16(q, dma, avail_ring(q, q->next_avail), &c->head) || follow_chain(q, dma, c))
		return -EINVAL;
	q->next_avail++;
	q->in_use++;
	return 1;
}

void virtq_unpop(struct virtq *q, unsigned n)
{
	q->next_avail = (uint16_t)(q->next_avail - n);
	q->in_use = (uint16_t)(q->in_use - n);
}

/* ---- giving them back ---- */

int virtq_push(struct virtq *q, const struct dma *dma, uint16_t head, uint32_t written)
{
	uint8_t entry[8];

	if (q->broken)
		return -EINVAL;
	put_u32(entry, head);
	put_u32(entry + 4, written);
	if (dma->write(dma->ctx, used_ring(q, q->next_used), entry, sizeof(entry)))
		return break_queue(q, "the used ring is not in RAM");
	/* The index comes last: what it covers is valid. */
	q->next_used++;
	q->in_use--;
	return write_u16(q, dma, used_idx(q), q->next_used);
}

bool virtq_wants_interrupt(struct virtq *q, const struct dma *dma)
{
	uint16_t from = q->told_used, to = q->next_used, v;

	if (q->broken || from == to)
		return false;
	q->told_used = to;
	if (!q->event_idx)
		return read_u16(q, dma, avail_flags(q), &v) == 0 && !(v & AVAIL_NO_INTERRUPT);
	/* Was the entry that the driver waits for among them? */
	return read_u16(q, dma, used_event(q), &v) == 0 && (uint16_t)(to - v - 1) < (uint16_t)(to - from);
}

void virtq_want_notification(struct virtq *q, const struct dma *dma, bool want)
{
	if (q->broken || !q->enabled)
		return;
	/* With event indices one that lies half the ring's numbers away means: none for now. */
	if (q->event_idx)
		write_u16(q, dma, avail_event(q), (uint16_t)(q->next_avail + (want ? 0u : 0x8000u)));
	else
		write_u16(q, dma, used_flags(q), (uint16_t)(want ? 0u : USED_NO_NOTIFY));
}

/* ---- contents ---- */

/* Copies through parts first[0 .. count), skipping @at bytes. @in: into the guest */
static uint64_t copy(const struct virtq_part *first, unsigned count, const struct dma *dma, uint64_t at, uint8_t *buf,
		     uint64_t bytes, bool in)
{
	uint64_t done = 0;

	for (const struct virtq_part *p = first; p < first + count && done < bytes; p++) {
		uint64_t n;

		if (at >= p->bytes) {
			at -= p->bytes;
			continue;
		}
		n = min_u64(p->bytes - at, bytes - done);
		if (in ? dma->write(dma->ctx, p->gpa + at, buf + done, n)
		       : dma->read(dma->ctx, p->gpa + at, buf + done, n))
			return done;
		at = 0;
		done += n;
	}
	return done;
}

uint64_t virtq_read(const struct virtq_chain *c, const struct dma *dma, uint64_t at, void *buf, uint64_t bytes)
{
	return copy(c->part, c->outs, dma, at, buf, bytes, false);
}

uint64_t virtq_write(const struct virtq_chain *c, const struct dma *dma, uint64_t at, const void *buf, uint64_t bytes)
{
	union { const void *in; uint8_t *out; } b = {.in = buf}; /* copy() only reads it */

	return copy(c->part + c->outs, c->ins, dma, at, b.out, bytes, true);
}
