/*
 * The device's side of a virtqueue, split or packed. The ring lies in guest memory and may hold anything at any time: what is
 * read from it is copied once and checked before it is used, every range must be guest RAM, chains are no longer
 * than the queue, indices may not run away. A ring that breaks a rule is left alone until the driver resets the
 * device; virtq.broken says what was wrong.
 *
 * Source: Virtual I/O Device (VIRTIO) Version 1.2, "Split Virtqueues", "Packed Virtqueues".
 */
#ifndef GNOMON_DEV_VIRTQ_H
#define GNOMON_DEV_VIRTQ_H

#include "base/state.h"
#include "dev/dma.h"

#define VIRTQ_SIZE_MAX 256

struct virtq {
	/* what the driver set up */
	uint16_t size;             /* descriptors; split: a power of two */
	/*
	 * Guest-physical addresses of the three parts. Packed: the descriptors, and where the driver and the device
	 * say what they want to be told of.
	 */
	uint64_t desc, avail, used;
	bool enabled;
	bool packed;               /* VIRTIO_F_RING_PACKED was negotiated */
	bool event_idx;            /* VIRTIO_F_EVENT_IDX was negotiated */
	bool indirect;             /* VIRTIO_F_INDIRECT_DESC was */
	/* where we are; split: free-running, packed: places in the ring */
	uint16_t next_avail;       /* the next entry of the available ring to take */
	uint16_t next_used;        /* the next entry of the used ring to fill */
	uint16_t told_used;        /* next_used when the driver was last considered for an interrupt */
	uint16_t in_use;           /* chains, packed: descriptors, taken and not yet given back */
	/* packed */
	bool avail_wrap, used_wrap, told_wrap; /* wrap counters that belong to the places above */
	uint16_t descs_of[VIRTQ_SIZE_MAX]; /* descriptors of the chain with this buffer ID */
	const char *broken;        /* NULL: all is well */
	bool is_broken;            /* state: why it is, is not */
};

/* One chain of buffers: first what the device reads, then what it writes. All of it is guest RAM. */
struct virtq_chain {
	uint16_t head;             /* how the driver knows it */
	uint16_t outs, ins;        /* so many of each in part[] */
	uint64_t out_bytes, in_bytes;
	struct virtq_part { uint64_t gpa; uint32_t bytes; } part[VIRTQ_SIZE_MAX]; /* the outs, then the ins */
};

extern const struct state_desc virtq_desc;

/* Everything as before the driver touched it. @size: the largest one */
void virtq_reset(struct virtq *q, uint16_t size);

/* Do size and addresses obey the rules of the queue's kind? */
bool virtq_aligned(const struct virtq *q);

/*
 * Takes the next chain the driver made available. Returns 1, or 0 if there is none (@chain is then undefined), or
 * -EINVAL: the ring is broken, now or before.
 */
int virtq_pop(struct virtq *q, const struct dma *dma, struct virtq_chain *chain);

/* Where a queue is. Going back there is as if the chains taken since had not been; none of them was given back. */
struct virtq_mark {
	uint16_t next_avail, in_use;
	bool avail_wrap;
};
static inline struct virtq_mark virtq_mark(const struct virtq *q)
{
	return (struct virtq_mark){q->next_avail, q->in_use, q->avail_wrap};
}
void virtq_rewind(struct virtq *q, struct virtq_mark mark);

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
