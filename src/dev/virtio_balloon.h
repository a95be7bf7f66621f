/* A virtio memory balloon: see virtio_balloon.c. */
#ifndef GNOMON_DEV_VIRTIO_BALLOON_H
#define GNOMON_DEV_VIRTIO_BALLOON_H

#include "dev/virtio.h"

/* What the guest says of its memory, by tag. */
enum {
	BALLOON_SWAP_IN, BALLOON_SWAP_OUT, BALLOON_MAJOR_FAULTS, BALLOON_MINOR_FAULTS, BALLOON_FREE, BALLOON_TOTAL,
	BALLOON_AVAILABLE, BALLOON_CACHES, BALLOON_STATS,
};

struct virtio_balloon {
	struct virtio virtio;
	uint32_t actual;                /* pages that the guest says it has given */
	uint64_t released;              /* pages that were, in all */
	bool stats_held;                /* the driver's buffer for statistics is ours until we want new ones */
	uint16_t stats_head;
	uint64_t stats_at;              /* when we want new ones; UINT64_MAX: not now */
	uint64_t stat[BALLOON_STATS];
	uint32_t stats_known;           /* a bit a tag */
};

extern const struct state_desc virtio_balloon_desc;

/* @pages: of 4 KiB: how many the guest is asked to give */
void virtio_balloon_init(struct virtio_balloon *b, const struct dma *dma, uint32_t pages);

#endif
