/*
 * Virtqueues: what both kinds share, and the split kind. The other is in virtq_packed.c.
 *
 * Left out: descriptors within descriptors of more than one level, which are forbidden.
 */
#include "dev/virtq_impl.h"

#define AVAIL_NO_INTERRUPT 1u
#define USED_NO_NOTIFY     1u

int virtq_break(struct virtq *q, const char *why)
{
	if (!q->broken)
		q->broken = why;
	return -EINVAL;
}

void virtq_reset(struct virtq *q, uint16_t size)
{
	*q = (struct virtq){.size = size, .avail_wrap = true, .used_wrap = true, .told_wrap = true};
}

bool virtq_aligned(const struct virtq *q)
{
	if (q->desc & 15 || q->avail & (q->packed ? 3 : 1) || q->used & 3 || !q->size)
		return false;
	return q->packed || !(q->size & (q->size - 1));
}

void virtq_rewind(struct virtq *q, struct virtq_mark mark)
{
	q->next_avail = mark.next_avail;
	q->in_use = mark.in_use;
	q->avail_wrap = mark.avail_wrap;
}

/* ---- the three parts ---- */

int virtq_read_u16(struct virtq *q, const struct dma *dma, uint64_t gpa, uint16_t *v)
{
	uint8_t b[2];

	if (dma->read(dma->ctx, gpa, b, sizeof(b)))
		return virtq_break(q, "what the driver says is not in RAM");
	*v = get_u16(b);
	return 0;
}

int virtq_write_u16(struct virtq *q, const struct dma *dma, uint64_t gpa, uint16_t v)
{
	uint8_t b[2];

	put_u16(b, v);
	return dma->write(dma->ctx, gpa, b, sizeof(b)) ? virtq_break(q, "where the device answers is not in RAM") : 0;
}

static uint64_t avail_flags(const struct virtq *q) { return q->avail; }
static uint64_t avail_idx(const struct virtq *q) { return q->avail + 2; }
static uint64_t avail_ring(const struct virtq *q, uint16_t i) { return q->avail + 4 + 2 * (i & (q->size - 1u)); }
static uint64_t used_event(const struct virtq *q) { return q->avail + 4 + 2ull * q->size; }
static uint64_t used_flags(const struct virtq *q) { return q->used; }
static uint64_t used_idx(const struct virtq *q) { return q->used + 2; }
static uint64_t used_ring(const struct virtq *q, uint16_t i) { return q->used + 4 + 8 * (i & (q->size - 1u)); }
static uint64_t avail_event(const struct virtq *q) { return q->used + 4 + 8ull * q->size; }

int virtq_read_desc(struct virtq *q, const struct dma *dma, uint64_t table, unsigned i, struct virtq_desc *d)
{
	uint8_t b[DESC_BYTES];

	if (dma->read(dma->ctx, table + DESC_BYTES * (uint64_t)i, b, sizeof(b)))
		return virtq_break(q, "a descriptor is not in RAM");
	d->gpa = get_u64(b);
	d->bytes = get_u32(b + 8);
	d->flags = get_u16(b + (q->packed ? 14 : 12));
	d->next = get_u16(b + (q->packed ? 12 : 14));
	return 0;
}

int virtq_check_indirect(struct virtq *q, const struct virtq_desc *d)
{
	if (!q->indirect)
		return virtq_break(q, "an indirect descriptor that was not negotiated");
	if (d->flags & DESC_NEXT || !d->bytes || d->bytes % DESC_BYTES)
		return virtq_break(q, "an indirect descriptor of impossible form");
	return 0;
}

/* ---- taking chains ---- */

/* Chains the driver has made available and we have not taken. */
static int chains_waiting(struct virtq *q, const struct dma *dma, uint16_t *n)
{
	uint16_t idx;

	if (q->broken || !q->enabled)
		return q->broken ? -EINVAL : (*n = 0);
	if (virtq_read_u16(q, dma, avail_idx(q), &idx))
		return -EINVAL;
	*n = (uint16_t)(idx - q->next_avail);
	if (*n > q->size)
		return virtq_break(q, "the available index runs away");
	return 0;
}

bool virtq_has_work(struct virtq *q, const struct dma *dma)
{
	uint16_t n;

	if (q->packed)
		return virtq_packed_has_work(q, dma);
	return chains_waiting(q, dma, &n) == 0 && n > 0;
}

/* One buffer: after what the device reads comes what it writes, never the other way. */
int virtq_add_part(struct virtq *q, const struct dma *dma, struct virtq_chain *c, const struct virtq_desc *d)
{
	unsigned n = c->outs + c->ins;

	if (n >= q->size)
		return virtq_break(q, "a chain is longer than the queue");
	if (!dma->is_ram(dma->ctx, d->gpa, d->bytes))
		return virtq_break(q, "a buffer is not in RAM");
	if (d->flags & DESC_WRITE) {
		c->ins++;
		c->in_bytes += d->bytes;
	} else if (c->ins) {
		return virtq_break(q, "a buffer to read follows one to write");
	} else {
		c->outs++;
		c->out_bytes += d->bytes;
	}
	c->part[n] = (struct virtq_part){d->gpa, d->bytes};
	return 0;
}

/* @d: the descriptor that names the table. It ends the chain. */
static int add_indirect(struct virtq *q, const struct dma *dma, struct virtq_chain *c, const struct virtq_desc *d)
{
	unsigned count = d->bytes / DESC_BYTES, i = 0;
	uint64_t table = d->gpa;
	struct virtq_desc in;

	if (virtq_check_indirect(q, d))
		return -EINVAL;
	for (unsigned hops = 0; hops < q->size; hops++) {
		if (i >= count)
			return virtq_break(q, "a descriptor's index is out of its table");
		if (virtq_read_desc(q, dma, table, i, &in))
			return -EINVAL;
		if (in.flags & DESC_INDIRECT)
			return virtq_break(q, "an indirect descriptor within an indirect table");
		if (virtq_add_part(q, dma, c, &in))
			return -EINVAL;
		if (!(in.flags & DESC_NEXT))
			return 0;
		i = in.next;
	}
	return virtq_break(q, "a chain is longer than the queue");
}

static int follow_chain(struct virtq *q, const struct dma *dma, struct virtq_chain *c)
{
	unsigned i = c->head;
	struct virtq_desc d;

	for (unsigned hops = 0; hops < q->size; hops++) {
		if (i >= q->size)
			return virtq_break(q, "a descriptor's index is out of its table");
		if (virtq_read_desc(q, dma, q->desc, i, &d))
			return -EINVAL;
		if (d.flags & DESC_INDIRECT)
			return add_indirect(q, dma, c, &d);
		if (virtq_add_part(q, dma, c, &d))
			return -EINVAL;
		if (!(d.flags & DESC_NEXT))
			return 0;
		i = d.next;
	}
	return virtq_break(q, "a chain is longer than the queue");
}

int virtq_pop(struct virtq *q, const struct dma *dma, struct virtq_chain *c)
{
	uint16_t waiting;
	int ret;

	c->outs = c->ins = 0;
	c->out_bytes = c->in_bytes = 0;
	if (q->packed)
		return virtq_packed_pop(q, dma, c);
	ret = chains_waiting(q, dma, &waiting);
	if (ret || !waiting)
		return ret;
	/* Every chain has a descriptor of its own: more of them are not possible. */
	if (q->in_use >= q->size)
		return virtq_break(q, "more chains in use than descriptors");
	if (virtq_read_u16(q, dma, avail_ring(q, q->next_avail), &c->head) || follow_chain(q, dma, c))
		return -EINVAL;
	q->next_avail++;
	q->in_use++;
	return 1;
}

/* ---- giving them back ---- */

int virtq_push(struct virtq *q, const struct dma *dma, uint16_t head, uint32_t written)
{
	uint8_t entry[8];

	if (q->broken)
		return -EINVAL;
	if (q->packed)
		return virtq_packed_push(q, dma, head, written);
	put_u32(entry, head);
	put_u32(entry + 4, written);
	if (dma->write(dma->ctx, used_ring(q, q->next_used), entry, sizeof(entry)))
		return virtq_break(q, "the used ring is not in RAM");
	/* The index comes last: what it covers is valid. */
	q->next_used++;
	q->in_use--;
	return virtq_write_u16(q, dma, used_idx(q), q->next_used);
}

bool virtq_wants_interrupt(struct virtq *q, const struct dma *dma)
{
	uint16_t from = q->told_used, to = q->next_used, v;

	if (q->packed)
		return virtq_packed_wants_interrupt(q, dma);
	if (q->broken || from == to)
		return false;
	q->told_used = to;
	if (!q->event_idx)
		return virtq_read_u16(q, dma, avail_flags(q), &v) == 0 && !(v & AVAIL_NO_INTERRUPT);
	/* Was the entry that the driver waits for among them? */
	return virtq_read_u16(q, dma, used_event(q), &v) == 0 && (uint16_t)(to - v - 1) < (uint16_t)(to - from);
}

void virtq_want_notification(struct virtq *q, const struct dma *dma, bool want)
{
	if (q->broken || !q->enabled)
		return;
	if (q->packed) {
		virtq_packed_want_notification(q, dma, want);
		return;
	}
	/* With event indices one that lies half the ring's numbers away means: none for now. */
	if (q->event_idx)
		virtq_write_u16(q, dma, avail_event(q), (uint16_t)(q->next_avail + (want ? 0u : 0x8000u)));
	else
		virtq_write_u16(q, dma, used_flags(q), (uint16_t)(want ? 0u : USED_NO_NOTIFY));
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

/* ---- state ---- */

static void virtq_prepare(void *object)
{
	struct virtq *q = object;

	q->is_broken = q->broken;
}

/* May a queue that is on be so? The driver's turning it on looks at the same. */
static bool is_possible(const struct virtq *q)
{
	if (!virtq_aligned(q) || q->in_use > q->size)
		return false;
	return !q->packed || (q->next_avail < q->size && q->next_used < q->size && q->told_used < q->size);
}

static int virtq_check(void *object, struct error *err)
{
	struct virtq *q = object;

	if (q->enabled && !is_possible(q))
		return error_set(err, -EINVAL, "state of virtq: a queue of %u at %#llx, %#llx, %#llx is on, %u in use", q->size,
				 (unsigned long long)q->desc, (unsigned long long)q->avail, (unsigned long long)q->used,
				 q->in_use);
	q->broken = q->is_broken ? "the queue was broken before the state was saved" : NULL;
	return 0;
}

#define VIRTQ_U(m) STATE_U(struct virtq, m)
#define VIRTQ_B(m) STATE_B(struct virtq, m)
static const struct state_field virtq_fields[] = {
	STATE_U_MAX(struct virtq, size, VIRTQ_SIZE_MAX), VIRTQ_U(desc), VIRTQ_U(avail), VIRTQ_U(used), VIRTQ_B(enabled),
	VIRTQ_B(packed), VIRTQ_B(event_idx), VIRTQ_B(indirect), VIRTQ_U(next_avail), VIRTQ_U(next_used),
	VIRTQ_U(told_used), VIRTQ_U(in_use), VIRTQ_B(avail_wrap), VIRTQ_B(used_wrap), VIRTQ_B(told_wrap),
	STATE_UV_MAX(struct virtq, descs_of, VIRTQ_SIZE_MAX), VIRTQ_B(is_broken),
};
const struct state_desc virtq_desc = STATE_DESC("virtq", 1, virtq_fields, .prepare = virtq_prepare, .check = virtq_check);
