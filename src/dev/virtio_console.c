/*
 * A virtio console with one port: Linux's /dev/hvc0.
 *
 * Left out: several ports, sizes, emergency writes.
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

static void receive(struct virtio_console *c)
{
	struct virtio *v = &c->virtio;
	struct virtq_chain chain;

	for (unsigned n = 0; n < VIRTQ_SIZE_MAX && c->input_bytes && virtio_pop(v, QUEUE_RECEIVE, &chain); n++) {
		size_t got = virtq_write(&chain, v->dma, 0, c->input, min_u64(c->input_bytes, chain.in_bytes));

		c->input_bytes -= got;
		memmove(c->input, c->input + got, c->input_bytes);
		virtio_push(v, QUEUE_RECEIVE, chain.head, (uint32_t)got);
	}
	/* New buffers are of interest only to input that waits for them. */
	virtq_want_notification(&v->queue[QUEUE_RECEIVE], v->dma, c->input_bytes);
	virtio_interrupt(v, QUEUE_RECEIVE);
}

size_t virtio_console_put_input(struct virtio_console *c, const uint8_t *data, size_t bytes, uint64_t now)
{
	size_t n = min_u64(bytes, sizeof(c->input) - c->input_bytes);

	memcpy(c->input + c->input_bytes, data, n);
	c->input_bytes += n;
	if (n)
		virtio_ring(&c->virtio, QUEUE_RECEIVE, now);
	return n;
}

static void console_process(struct virtio *v, unsigned queue, uint64_t now)
{
	struct virtq_chain chain;
	unsigned n;

	if (queue == QUEUE_RECEIVE) {
		receive(console_of(v));
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

static const struct state_field console_fields[] = {
	STATE_S(struct virtio_console, virtio, &virtio_desc), STATE_DATA_USED(struct virtio_console, input, input_bytes),
};
const struct state_desc virtio_console_desc = STATE_DESC("virtio-console", 1, console_fields);
