/*
 * Packed virtqueues: one ring of descriptors, which the driver makes available and the device makes used in place. Two
 * flags of a descriptor say which it is, by comparison with a counter of laps that each side keeps.
 */
#include "dev/virtq_impl.h"

#define DESC_AVAIL (1u << 7)
#define DESC_USED  (1u << 15)

/* What one side wants to be told of: a place with its lap, and flags. */
#define EVENT_PLACE  0
#define EVENT_FLAGS  2
#define EVENT_ALWAYS 0u
#define EVENT_NEVER  1u
#define EVENT_AT     2u
#define LAP          0x8000u

static bool is_available(const struct virtq *q, const struct virtq_desc *d)
{
	return !(d->flags & DESC_AVAIL) == !q->avail_wrap && !(d->flags & DESC_USED) == q->avail_wrap;
}

/* @place and @lap go @n descriptors on. */
static void go_on(const struct virtq *q, uint16_t *place, bool *lap, unsigned n)
{
	unsigned at = *place + n;

	if (at >= q->size) {
		at -= q->size;
		*lap = !*lap;
	}
	*place = (uint16_t)at;
}

/* ---- taking chains ---- */

/* The first descriptor of the next chain: 1, 0 if it is not available, -EINVAL. */
static int look(struct virtq *q, const struct dma *dma, struct virtq_desc *d)
{
	if (q->broken || !q->enabled)
		return q->broken ? -EINVAL : 0;
	if (virtq_read_desc(q, dma, q->desc, q->next_avail, d))
		return -EINVAL;
	return is_available(q, d);
}

bool virtq_packed_has_work(struct virtq *q, const struct dma *dma)
{
	struct virtq_desc d;

	return look(q, dma, &d) > 0;
}

/* All descriptors of the table, one after the other: nothing links them. */
static int add_indirect(struct virtq *q, const struct dma *dma, struct virtq_chain *c, const struct virtq_desc *d)
{
	struct virtq_desc in;

	if (virtq_check_indirect(q, d))
		return -EINVAL;
	for (uint32_t i = 0; i < d->bytes / DESC_BYTES; i++) {
		if (virtq_read_desc(q, dma, d->gpa, i, &in))
			return -EINVAL;
		if (in.flags & DESC_INDIRECT)
			return virtq_break(q, "an indirect descriptor within an indirect table");
		if (virtq_add_part(q, dma, c, &in))
			return -EINVAL;
	}
	return 0;
}

/* From the first descriptor, @d, to the last, whose buffer ID is the chain's. @descs: so many */
static int follow_chain(struct virtq *q, const struct dma *dma, struct virtq_chain *c, struct virtq_desc *d,
			unsigned *descs)
{
	uint16_t place = q->next_avail;
	bool lap = q->avail_wrap;

	for (*descs = 1;; ++*descs) {
		if (d->flags & DESC_INDIRECT ? add_indirect(q, dma, c, d) : virtq_add_part(q, dma, c, d))
			return -EINVAL;
		c->head = d->next;
		if (!(d->flags & DESC_NEXT))
			return 0;
		if (*descs >= q->size)
			return virtq_break(q, "a chain is longer than the queue");
		go_on(q, &place, &lap, 1);
		if (virtq_read_desc(q, dma, q->desc, place, d))
			return -EINVAL;
	}
}

int virtq_packed_pop(struct virtq *q, const struct dma *dma, struct virtq_chain *c)
{
	struct virtq_desc d;
	unsigned descs;
	int ret = look(q, dma, &d);

	if (ret <= 0)
		return ret;
	if (follow_chain(q, dma, c, &d, &descs))
		return -EINVAL;
	if (c->head >= VIRTQ_SIZE_MAX)
		return virtq_break(q, "a buffer ID that is no descriptor's number");
	if (q->in_use + descs > q->size)
		return virtq_break(q, "more chains in use than descriptors");
	q->descs_of[c->head] = (uint16_t)descs;
	q->in_use = (uint16_t)(q->in_use + descs);
	go_on(q, &q->next_avail, &q->avail_wrap, descs);
	return 1;
}

/* ---- giving them back ---- */

/* The flags come last: they make the rest valid. */
int virtq_packed_push(struct virtq *q, const struct dma *dma, uint16_t id, uint32_t written)
{
	uint64_t at = q->desc + DESC_BYTES * (uint64_t)q->next_used;
	unsigned flags = (q->used_wrap ? DESC_AVAIL | DESC_USED : 0) | (written ? DESC_WRITE : 0);
	uint8_t answer[6];

	put_u32(answer, written);
	put_u16(answer + 4, id);
	if (dma->write(dma->ctx, at + 8, answer, sizeof(answer)))
		return virtq_break(q, "a descriptor is not in RAM");
	go_on(q, &q->next_used, &q->used_wrap, q->descs_of[id]);
	q->in_use = (uint16_t)(q->in_use - q->descs_of[id]);
	return virtq_write_u16(q, dma, at + 14, (uint16_t)flags);
}

/* Was the place that the driver waits for among those filled since @from, in the lap we are in? */
static bool passed(const struct virtq *q, uint16_t from, uint16_t place)
{
	uint16_t at = place & (LAP - 1);

	if ((bool)(place & LAP) != q->used_wrap)
		at = (uint16_t)(at - q->size);
	return (uint16_t)(q->next_used - at - 1) < (uint16_t)(q->next_used - from);
}

bool virtq_packed_wants_interrupt(struct virtq *q, const struct dma *dma)
{
	uint16_t from = q->told_used, flags, place;
	bool same_lap = q->told_wrap == q->used_wrap;

	if (q->broken || (from == q->next_used && same_lap))
		return false;
	q->told_used = q->next_used;
	q->told_wrap = q->used_wrap;
	if (virtq_read_u16(q, dma, q->avail + EVENT_FLAGS, &flags) ||
	    virtq_read_u16(q, dma, q->avail + EVENT_PLACE, &place))
		return false;
	if ((flags & 3) == EVENT_AT && q->event_idx && same_lap)
		return passed(q, from, place);
	return (flags & 3) != EVENT_NEVER;
}

void virtq_packed_want_notification(struct virtq *q, const struct dma *dma, bool want)
{
	unsigned flags = !want ? EVENT_NEVER : q->event_idx ? EVENT_AT : EVENT_ALWAYS;

	if (virtq_write_u16(q, dma, q->used + EVENT_PLACE, (uint16_t)(q->next_avail | (q->avail_wrap ? LAP : 0))) == 0)
		virtq_write_u16(q, dma, q->used + EVENT_FLAGS, (uint16_t)flags);
}
