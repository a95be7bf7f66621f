/*
 * A virtio memory balloon: the guest is asked to give pages; what it gives is zeros from then on and the host has the
 * memory until the guest takes the page back, which it does by using it. Statistics are asked for after pages came or
 * went, and not on a clock: an idle guest stays idle.
 *
 * Left out: free page hinting and reporting, poisoning.
 * Source: Virtual I/O Device (VIRTIO) Version 1.2, "Traditional Memory Balloon Device".
 */
#include "dev/virtio_balloon.h"

#include <assert.h>

enum { QUEUE_INFLATE, QUEUE_DEFLATE, QUEUE_STATS, QUEUES };
enum { CONFIG_PAGES = 0, CONFIG_ACTUAL = 4, CONFIG_BYTES = 8 };

#define F_STATS_VQ       (1ull << 1)
#define F_DEFLATE_ON_OOM (1ull << 2)

#define BALLOON_PAGE      4096ull
#define PAGES_AT_ONCE     256u
#define REQUEST_BYTES_MAX 0x10000u /* of page numbers: Linux sends 1 KiB */
#define STAT_BYTES        10u      /* tag and value, packed */
#define STATS_DELAY_NS    1000000ull

static struct virtio_balloon *balloon_of(struct virtio *v) { return (struct virtio_balloon *)(void *)v; }
static_assert(offsetof(struct virtio_balloon, virtio) == 0, "a virtio_balloon begins with its virtio");

/* A page number that is no RAM of the guest's is the guest's own mistake. */
static void inflate(struct virtio_balloon *b, const struct virtq_chain *chain)
{
	const struct dma *dma = b->virtio.dma;
	uint8_t number[4 * PAGES_AT_ONCE];
	uint64_t n;

	for (uint64_t at = 0; (n = virtq_read(chain, dma, at, number, sizeof(number)) & ~3ull) > 0; at += n)
		for (uint64_t i = 0; i < n; i += 4)
			b->released += dma->release(dma->ctx, get_u32(number + i) * BALLOON_PAGE, BALLOON_PAGE) == 0;
}

static void want_stats(struct virtio_balloon *b, uint64_t now)
{
	if (b->stats_held && b->stats_at == UINT64_MAX)
		b->stats_at = now + STATS_DELAY_NS;
}

static void take_pages(struct virtio *v, unsigned queue, uint64_t now)
{
	struct virtq_chain chain;
	unsigned n;

	for (n = 0; n < VIRTQ_SIZE_MAX && virtio_pop(v, queue, &chain); n++) {
		if (chain.out_bytes > REQUEST_BYTES_MAX) {
			virtio_stop(v, "a request with more than 16384 pages");
			return;
		}
		if (queue == QUEUE_INFLATE)
			inflate(balloon_of(v), &chain);
		virtio_push(v, queue, chain.head, 0);
	}
	virtq_want_notification(&v->queue[queue], v->dma, true);
	virtio_interrupt(v, queue);
	want_stats(balloon_of(v), now);
	if (n == VIRTQ_SIZE_MAX)
		virtio_ring(v, queue, now);
}

/* The driver's one buffer, filled in: it goes back when we want to know more. */
static void take_stats(struct virtio *v)
{
	struct virtio_balloon *b = balloon_of(v);
	struct virtq_chain chain;
	uint8_t one[STAT_BYTES];

	if (b->stats_held || !virtio_pop(v, QUEUE_STATS, &chain))
		return;
	for (unsigned i = 0; i < 2 * BALLOON_STATS; i++) {
		unsigned tag;

		if (virtq_read(&chain, v->dma, STAT_BYTES * i, one, sizeof(one)) < sizeof(one))
			break;
		tag = get_u16(one);
		if (tag >= BALLOON_STATS)
			continue;
		b->stat[tag] = get_u64(one + 2);
		b->stats_known |= 1u << tag;
	}
	b->stats_held = true;
	b->stats_head = chain.head;
}

static void balloon_process(struct virtio *v, unsigned queue, uint64_t now)
{
	if (queue == QUEUE_STATS)
		take_stats(v);
	else
		take_pages(v, queue, now);
}

static uint64_t balloon_advance(struct virtio *v, uint64_t now)
{
	struct virtio_balloon *b = balloon_of(v);

	if (b->stats_at <= now) {
		b->stats_at = UINT64_MAX;
		b->stats_held = false;
		virtio_push(v, QUEUE_STATS, b->stats_head, 0);
		virtio_interrupt(v, QUEUE_STATS);
	}
	return b->stats_at;
}

static void balloon_reset(struct virtio *v)
{
	struct virtio_balloon *b = balloon_of(v);

	b->stats_held = false;
	b->stats_at = UINT64_MAX;
}

static void balloon_config_written(struct virtio *v, unsigned at, unsigned bytes)
{
	(void)at, (void)bytes;
	balloon_of(v)->actual = get_u32(v->config + CONFIG_ACTUAL);
}

static const struct virtio_ops ops = {
	.name = "balloon", .id = 5, .pci_class = 0x00ff00, .queues = QUEUES, .config_bytes = CONFIG_BYTES,
	.process = balloon_process, .advance = balloon_advance, .reset = balloon_reset,
	.config_written = balloon_config_written,
};

void virtio_balloon_init(struct virtio_balloon *b, const struct dma *dma, uint32_t pages)
{
	memset(b, 0, sizeof(*b));
	b->stats_at = UINT64_MAX;
	virtio_init(&b->virtio, &ops, dma, F_STATS_VQ | F_DEFLATE_ON_OOM, "");
	put_u32(b->virtio.config + CONFIG_PAGES, pages);
}

#define BALLOON_U(m) STATE_U(struct virtio_balloon, m)
static const struct state_field balloon_fields[] = {
	STATE_S(struct virtio_balloon, virtio, &virtio_desc), BALLOON_U(actual), BALLOON_U(released),
	STATE_B(struct virtio_balloon, stats_held), STATE_U_MAX(struct virtio_balloon, stats_head, VIRTQ_SIZE_MAX - 1),
	BALLOON_U(stats_at), STATE_UV(struct virtio_balloon, stat),
	STATE_U_MAX(struct virtio_balloon, stats_known, (1u << BALLOON_STATS) - 1),
};
const struct state_desc virtio_balloon_desc = STATE_DESC("virtio-balloon", 1, balloon_fields);
