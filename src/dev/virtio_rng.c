/*
 * A virtio entropy device. With virtual time its entropy is a sequence of numbers from a seed (splitmix64), the same
 * in every run: nothing a guest should keep secrets with. With the wall clock it is the host's.
 *
 * Source: Virtual I/O Device (VIRTIO) Version 1.2, "Entropy Device".
 */
#include "dev/virtio_rng.h"

#include <assert.h>
#include <sys/random.h>

#define REQUEST_BYTES_MAX 4096u /* a driver that wants more asks again */

static struct virtio_rng *rng_of(struct virtio *v) { return (struct virtio_rng *)(void *)v; }
static_assert(offsetof(struct virtio_rng, virtio) == 0, "a virtio_rng begins with its virtio");

static uint64_t next_number(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* Returns how many of the bytes there are. */
static size_t fill(struct virtio_rng *r, uint8_t *buf, size_t bytes)
{
	if (r->wall) {
		ssize_t n = getrandom(buf, bytes, GRND_NONBLOCK);

		return n > 0 ? (size_t)n : 0;
	}
	for (size_t i = 0; i < bytes; i += 8) {
		uint64_t v = next_number(&r->state);

		memcpy(buf + i, &v, min_u64(8, bytes - i));
	}
	return bytes;
}

static void rng_process(struct virtio *v, unsigned queue, uint64_t now)
{
	uint8_t data[REQUEST_BYTES_MAX];
	struct virtq_chain chain;
	unsigned n;

	for (n = 0; n < VIRTQ_SIZE_MAX && virtio_pop(v, queue, &chain); n++) {
		size_t got = fill(rng_of(v), data, min_u64(sizeof(data), chain.in_bytes));

		virtio_push(v, queue, chain.head, (uint32_t)virtq_write(&chain, v->dma, 0, data, got));
	}
	virtq_want_notification(&v->queue[queue], v->dma, true);
	virtio_interrupt(v, queue);
	if (n == VIRTQ_SIZE_MAX)
		virtio_ring(v, queue, now);
}

static const struct virtio_ops ops = {.name = "rng", .id = 4, .pci_class = 0x00ff00, .queues = 1,
				      .process = rng_process};

void virtio_rng_init(struct virtio_rng *r, const struct dma *dma, uint64_t seed, bool wall)
{
	memset(r, 0, sizeof(*r));
	r->wall = wall;
	r->state = seed;
	virtio_init(&r->virtio, &ops, dma, 0, "");
}

static const struct state_field rng_fields[] = {
	STATE_S(struct virtio_rng, virtio, &virtio_desc), STATE_U(struct virtio_rng, state),
};
const struct state_desc virtio_rng_desc = STATE_DESC("virtio-rng", 1, rng_fields);
