/* What the two kinds of virtqueues share. Nothing but virtq*.c includes this. */
#ifndef GNOMON_DEV_VIRTQ_IMPL_H
#define GNOMON_DEV_VIRTQ_IMPL_H

#include "dev/virtq.h"

#include <errno.h>

#define DESC_BYTES      16u
#define DESC_NEXT       1u
#define DESC_WRITE      2u
#define DESC_INDIRECT   4u

struct virtq_desc {
	uint64_t gpa;
	uint32_t bytes;
	uint16_t flags, next; /* packed: the buffer ID */
};

/* The queue is broken: remembers why, the first time. Returns -EINVAL. */
int virtq_break(struct virtq *q, const char *why);
/* Two bytes the driver wrote; two bytes for the driver. -EINVAL, and the queue is broken, outside RAM. */
int virtq_read_u16(struct virtq *q, const struct dma *dma, uint64_t gpa, uint16_t *v);
int virtq_write_u16(struct virtq *q, const struct dma *dma, uint64_t gpa, uint16_t v);
/* Copies descriptor @i of @table. -EINVAL likewise. */
int virtq_read_desc(struct virtq *q, const struct dma *dma, uint64_t table, unsigned i, struct virtq_desc *d);
/* May @d stand for a table of descriptors? -EINVAL likewise. */
int virtq_check_indirect(struct virtq *q, const struct virtq_desc *d);
/* Adds the buffer of a descriptor to a chain. -EINVAL likewise. */
int virtq_add_part(struct virtq *q, const struct dma *dma, struct virtq_chain *c, const struct virtq_desc *d);

/* The packed kind's (virtq_packed.c); @q is not broken but where it says so. */
bool virtq_packed_has_work(struct virtq *q, const struct dma *dma);
int virtq_packed_pop(struct virtq *q, const struct dma *dma, struct virtq_chain *c);
int virtq_packed_push(struct virtq *q, const struct dma *dma, uint16_t id, uint32_t written);
bool virtq_packed_wants_interrupt(struct virtq *q, const struct dma *dma);
void virtq_packed_want_notification(struct virtq *q, const struct dma *dma, bool want);

#endif
