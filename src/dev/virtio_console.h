/* A virtio console: see virtio_console.c. */
#ifndef GNOMON_DEV_VIRTIO_CONSOLE_H
#define GNOMON_DEV_VIRTIO_CONSOLE_H

#include "dev/virtio.h"

struct virtio_console {
	struct virtio virtio;
	void (*output)(void *ctx, const uint8_t *data, size_t bytes);
	void *ctx;
};

/* @output: gets what the guest writes */
void virtio_console_init(struct virtio_console *c, const struct dma *dma,
			 void (*output)(void *ctx, const uint8_t *data, size_t bytes), void *ctx);

#endif
