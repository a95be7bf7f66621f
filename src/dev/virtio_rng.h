/* A virtio entropy device: see virtio_rng.c. */
#ifndef GNOMON_DEV_VIRTIO_RNG_H
#define GNOMON_DEV_VIRTIO_RNG_H

#include "dev/virtio.h"

struct virtio_rng {
	struct virtio virtio;
	bool wall;
	uint64_t state; /* of the generator */
};

extern const struct state_desc virtio_rng_desc;

/* @seed: of what it gives; @wall: it gives the host's entropy instead, and no two runs are equal */
void virtio_rng_init(struct virtio_rng *r, const struct dma *dma, uint64_t seed, bool wall);

#endif
