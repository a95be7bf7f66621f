/*
 * A virtio network card with one pair of queues. Frames go out when their doorbell is answered; frames that arrive
 * go into the guest's buffers, one or, if that was negotiated, as many as it takes.
 *
 * Left out: checksum and segmentation offloads (frames are what they are on the wire), the control queue, several
 * pairs of queues.
 * Source: Virtual I/O Device (VIRTIO) Version 1.2, "Network Device".
 */
#include "dev/virtio_net.h"

#include <assert.h>

enum { QUEUE_RECEIVE, QUEUE_TRANSMIT, QUEUES };
enum { CONFIG_MAC = 0, CONFIG_STATUS = 6, CONFIG_PAIRS = 8, CONFIG_BYTES = 10 };

#define F_MAC       (1ull << 5)
#define F_MRG_RXBUF (1ull << 15)
#define F_STATUS    (1ull << 16)
#define LINK_UP     1u

#define HEADER_BYTES  12u
#define HEADER_BUFFERS 10 /* how many buffers the frame is in */
#define BUFFERS_MAX   64u /* of one frame: so small ones make no sense */

static struct virtio_net *net_of(struct virtio *v) { return (struct virtio_net *)(void *)v; }
static_assert(offsetof(struct virtio_net, virtio) == 0, "a virtio_net begins with its virtio");

/* ---- to the wire ---- */

static void send_frame(struct virtio_net *n, const struct virtq_chain *chain)
{
	uint64_t bytes = chain->out_bytes - HEADER_BYTES;
	uint8_t frame[NET_FRAME_MAX];

	if (bytes < NET_FRAME_MIN || bytes > NET_FRAME_MAX || !n->backend ||
	    virtq_read(chain, n->virtio.dma, HEADER_BYTES, frame, bytes) < bytes) {
		n->dropped++;
		return;
	}
	n->backend->ops->send(n->backend, frame, bytes);
	n->sent++;
}

static void transmit(struct virtio *v, uint64_t now)
{
	struct virtq_chain chain;
	unsigned i;

	for (i = 0; i < VIRTQ_SIZE_MAX && virtio_pop(v, QUEUE_TRANSMIT, &chain); i++) {
		if (chain.out_bytes < HEADER_BYTES) {
			virtio_stop(v, "a frame without a header");
			return;
		}
		send_frame(net_of(v), &chain);
		virtio_push(v, QUEUE_TRANSMIT, chain.head, 0);
	}
	virtq_want_notification(&v->queue[QUEUE_TRANSMIT], v->dma, true);
	virtio_interrupt(v, QUEUE_TRANSMIT);
	if (i == VIRTQ_SIZE_MAX)
		virtio_ring(v, QUEUE_TRANSMIT, now);
}

/* ---- from the wire ---- */

/* Buffers that are to take one frame. Contents may be written before the driver is told; the heads come all at once. */
struct delivery {
	struct virtq_chain first, more;
	unsigned buffers;
	uint16_t head[BUFFERS_MAX];
	uint32_t bytes[BUFFERS_MAX];
	size_t done; /* of the frame */
};

static unsigned buffers_max(const struct virtio *v) { return virtio_has(v, F_MRG_RXBUF) ? BUFFERS_MAX : 1; }

/* Puts as much of the frame as fits into one more buffer. False: there is none, or the queue is broken. */
static bool fill_buffer(struct virtio_net *n, struct delivery *d)
{
	struct virtq_chain *c = d->buffers ? &d->more : &d->first;
	uint64_t skip = d->buffers ? 0 : HEADER_BYTES, room, bytes;

	if (!virtio_pop(&n->virtio, QUEUE_RECEIVE, c))
		return false;
	if (c->in_bytes < HEADER_BYTES + 1) {
		virtio_stop(&n->virtio, "a receive buffer that is too small");
		return false;
	}
	room = c->in_bytes - skip;
	bytes = min_u64(room, n->frame_bytes - d->done);
	bytes = virtq_write(c, n->virtio.dma, skip, n->frame + d->done, bytes);
	d->head[d->buffers] = c->head;
	d->bytes[d->buffers++] = (uint32_t)(skip + bytes);
	d->done += bytes;
	return true;
}

static void finish(struct virtio_net *n, struct delivery *d)
{
	uint8_t header[HEADER_BYTES] = {0};

	put_u16(header + HEADER_BUFFERS, (uint16_t)d->buffers);
	virtq_write(&d->first, n->virtio.dma, 0, header, sizeof(header));
	for (unsigned i = 0; i < d->buffers; i++)
		virtio_push(&n->virtio, QUEUE_RECEIVE, d->head[i], d->bytes[i]);
	n->frame_bytes = 0;
	n->received++;
}

/* Gives the guest the frame that waits. False: it has to wait on. */
static bool deliver(struct virtio_net *n)
{
	struct virtq_mark mark = virtq_mark(&n->virtio.queue[QUEUE_RECEIVE]);
	struct delivery d;
	bool more = true;

	d.buffers = 0;
	d.done = 0;
	while (d.done < n->frame_bytes && d.buffers < buffers_max(&n->virtio) && more)
		more = fill_buffer(n, &d);
	if (n->virtio.status & VIRTIO_NEEDS_RESET)
		return false;
	if (d.done == n->frame_bytes) {
		finish(n, &d);
		return true;
	}
	virtq_rewind(&n->virtio.queue[QUEUE_RECEIVE], mark);
	if (more) { /* it does not fit where it may go: lost */
		n->frame_bytes = 0;
		n->dropped++;
	}
	return more;
}

static bool have_frame(struct virtio_net *n)
{
	if (!n->frame_bytes && n->backend)
		n->frame_bytes = n->backend->ops->receive(n->backend, n->frame);
	return n->frame_bytes;
}

static void receive(struct virtio *v, uint64_t now)
{
	struct virtio_net *n = net_of(v);
	unsigned i;
	bool waits = false;

	for (i = 0; i < VIRTQ_SIZE_MAX && !waits && have_frame(n); i++)
		waits = !deliver(n);
	/* New buffers are of interest only to a frame that waits for them. */
	virtq_want_notification(&v->queue[QUEUE_RECEIVE], v->dma, waits);
	virtio_interrupt(v, QUEUE_RECEIVE);
	if (i == VIRTQ_SIZE_MAX)
		virtio_ring(v, QUEUE_RECEIVE, now);
}

static void net_process(struct virtio *v, unsigned queue, uint64_t now)
{
	if (queue == QUEUE_RECEIVE)
		receive(v, now);
	else
		transmit(v, now);
}

static uint16_t link_state(struct virtio_net *n)
{
	return n->backend && n->backend->ops->is_up(n->backend) ? LINK_UP : 0;
}

static void update_link(struct virtio_net *n)
{
	uint16_t up = link_state(n);

	if (get_u16(n->virtio.config + CONFIG_STATUS) == up)
		return;
	put_u16(n->virtio.config + CONFIG_STATUS, up);
	virtio_config_changed(&n->virtio);
}

void virtio_net_poll(struct virtio_net *n, uint64_t now)
{
	if (!n->backend)
		return;
	n->backend->ops->work(n->backend);
	update_link(n);
	if (have_frame(n))
		virtio_ring(&n->virtio, QUEUE_RECEIVE, now);
}

/* ---- making it ---- */

static const struct virtio_ops ops = {.name = "net", .id = 1, .pci_class = 0x020000, .queues = QUEUES,
				      .config_bytes = CONFIG_BYTES, .process = net_process};

void virtio_net_init(struct virtio_net *n, struct net_backend *backend, const struct dma *dma, const uint8_t mac[6],
		     const char *label)
{
	memset(n, 0, sizeof(*n));
	n->backend = backend;
	virtio_init(&n->virtio, &ops, dma, F_MAC | F_MRG_RXBUF | F_STATUS, label);
	memcpy(n->virtio.config + CONFIG_MAC, mac, 6);
	put_u16(n->virtio.config + CONFIG_PAIRS, 1);
	put_u16(n->virtio.config + CONFIG_STATUS, link_state(n));
}

void virtio_net_close(struct virtio_net *n)
{
	if (n->backend)
		n->backend->ops->close(n->backend);
	n->backend = NULL;
}

/* State: what is on the wire is lost, as on a wire. */
static const struct state_field net_fields[] = {
	STATE_S(struct virtio_net, virtio, &virtio_desc), STATE_DATA_USED(struct virtio_net, frame, frame_bytes),
};
const struct state_desc virtio_net_desc = STATE_DESC("virtio-net", 1, net_fields);
