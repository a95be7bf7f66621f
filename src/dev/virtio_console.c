/*
 * A virtio console with one port, for output: Linux's /dev/hvc0. What is to be read never comes.
 *
 * Left out: input, several ports, sizes, emergency writes.
 * Source: Virtual I/O Device (VIRTIO) Version 1.2, "Console Device".
 */
#include "dev/virtio_console.h"

#include <assert.h>

enum { QUEUE_RECEIVE, QUEUE_TRANSMIT, QUEUES };
#define CONFIG_BYTES 12
#define PIECE 4096u
#define WRITE_BYTES_MAX (1u << 20) /* what one chain may carry: more is no console's */

static struct virtio_console *console_of(struct virtio *v) { return (struct virtio_console *)(void *)v; }
static_assert(offsetof(struct virtio_console, virtio) == 0, "a virtio_console begins with its virtio");

static void put_out(struct virtio_console *c, const struct virtq_chain *chain)
{
	uint8_t data[PIECE];
	uint64_t n;

	for (uint64_t at = 0; (n = virtq_read(chain, c->virtio.dma, at, data, sizeof(data))) > 0; at += n)
		c->output(c->ctx, data, n);
}

static void console_process(struct virtio *v, unsigned queue, uint64_t now)
{
	struct virtq_chain chain;
	unsigned n;

	if (queue == QUEUE_RECEIVE) {
		virtq_want_notification(&v->queue[queue], v->dma, false);
		return;
	}
	for (n = 0; n < VIRTQ_SIZE_MAX && virtio_pop(v, queue, &chain); n++) {
		if (chain.out_bytes > WRITE_BYTES_MAX) {
			virtio_stop(v, "a write of more than 1 MiB");
			return;
		}
		put_out(console_of(v), &chain);
		virtio_push(v, queue, chain.head, 0);
	}
	virtq_want_notification(&v->queue[queue], v->dma, true);
	virtio_interrupt(v, queue);
	if (n == VIRTQ_SIZE_MAX)
		virtio_ring(v, queue, now);
}

static const struct virtio_ops ops = {.name = "console", .id = 3, .pci_class = 0x078000, .queues = QUEUES,
				      .config_bytes = CONFIG_BYTES, .process = console_process};

void virtio_console_init(struct virtio_console *c, const struct dma *dma,
			 void (*output)(void *ctx, const uint8_t *data, size_t bytes), void *ctx)
{
	memset(c, 0, sizeof(*c));
	c->output = output;
	c->ctx = ctx;
	virtio_init(&c->virtio, &ops, dma, 0, "");
}
