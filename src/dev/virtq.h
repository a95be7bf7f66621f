/*
 * The device's side of a split virtqueue. The ring lies in guest memory and may hold anything at any time: what is
 * read from it is copied once and checked before it is used, every range must be guest RAM, chains are no longer
 * than the queue, indices may not run away. A ring that breaks a rule is left alone until the driver resets the
 * device; virtq.broken says what was wrong.
 *
 * Source: Virtual I/O Device (VIRTIO) Version 1.2, "Split Virtqueues".
 */
#ifndef GNOMON_DEV_VIRTQ_H
#define GNOMON_DEV_VIRTQ_H

#include "dev/dma.h"

#define VIRTQ_SIZE_MAX 256

struct virtq {
	/* what the driver set up */
	uint16_t size;             /* descriptors: a power of two */
	uint64_t desc, avail, used; /* guest-physical addresses of the three parts */
	bool enabled;
	bool event_idx;            /* VIRTIO_F_EVENT_IDX was negotiated */
	bool indirect;             /* VIRTIO_F_INDIRECT_DESC was */
	/* where we are; free-running */
	uint16_t next_avail;       /* the next entry of the available ring to take */
	uint16_t next_used;        /* the next entry of the used ring to fill */
	uint16_t told_used;        /* next_used when the driver was last considered for an interrupt */
	uint16_t in_use;           /* chains taken and not yet given back */
	const char *broken;        /* NULL: all is well */
};

/* One chain of buffers: first what the device reads, then what it writes. All of it is guest RAM. */
struct virtq_chain {
	uint16_t head;             /* how the driver knows it */
	uint16_t outs, ins;        /* so many of each in part[] */
	uint64_t out_bytes, in_bytes;
	struct virtq_part { uint64_t gpa; uint32_t bytes; } part[VIRTQ_SIZE_MAX]; /* the outs, then the ins */
};

/* Everything as before the driver touched it. @size: the largest one */
void virtq_reset(struct virtq *q, uint16_t size);

/*
 * Takes the next chain the driver made available. Returns 1, or 0 if there is none (@chain is then undefined), or
 * -EINVAL: the ring is broken, now or before.
 */
int virtq_pop(struct virtq *q, const struct dma *dma, struct virtq_chain *chain);

/* Puts back the last @n chains that were taken, as if they had not been. None of those after them was given back. */
void virtq_unpop(struct virtq *q, unsigned n);

/* Is a chain waiting? Does not look at it. */
bool virtq_has_work(struct virtq *q, const struct dma *dma);

/*
 * Gives a chain back to the driver.
 * @written: bytes from the start of its device-writable part that may have changed
 * Returns 0 or -EINVAL: the ring is broken.
 */
int virtq_push(struct virtq *q, const struct dma *dma, uint16_t head, uint32_t written);

/* Does the driver want an interrupt for what was given back since the last call? */
bool virtq_wants_interrupt(struct virtq *q, const struct dma *dma);

/* Does the device want to be told of new chains? With VIRTIO_F_EVENT_IDX: of the next one. */
void virtq_want_notification(struct virtq *q, const struct dma *dma, bool want);

/*
 * Copies from the device-readable part of a chain, from byte @at on; into the device-writable part. Returns the
 * bytes copied: less than asked where the part ends, or where the guest's memory fails to take them.
 */
uint64_t virtq_read(const struct virtq_chain *chain, const struct dma *dma, uint64_t at, void *buf, uint64_t bytes);
uint64_t virtq_write(const struct virtq_chain *chain, const struct dma *dma, uint64_t at, const void *buf,
		     uint64_t bytes);

#endif
