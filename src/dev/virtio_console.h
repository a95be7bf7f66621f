/* A virtio console: see virtio_console.c. */
#ifndef GNOMON_DEV_VIRTIO_CONSOLE_H
#define GNOMON_DEV_VIRTIO_CONSOLE_H

#include "dev/virtio.h"

#define VIRTIO_CONSOLE_INPUT 4096u

struct virtio_console {
	struct virtio virtio;
	uint8_t input[VIRTIO_CONSOLE_INPUT]; /* that the driver has not had yet */
	size_t input_bytes;
	void (*output)(void *ctx, const uint8_t *data, size_t bytes);
	void *ctx;
};

extern const struct state_desc virtio_console_desc;

/* @output: gets what the guest writes */
void virtio_console_init(struct virtio_console *c, const struct dma *dma,
			 void (*output)(void *ctx, const uint8_t *data, size_t bytes), void *ctx);
/* Bytes for the guest to read. Returns how many there was room for; the guest gets them when it has a buffer. */
size_t virtio_console_put_input(struct virtio_console *c, const uint8_t *data, size_t bytes, uint64_t now);

#endif
