/* A virtio network card: see virtio_net.c. */
#ifndef GNOMON_DEV_VIRTIO_NET_H
#define GNOMON_DEV_VIRTIO_NET_H

#include "dev/net_backend.h"
#include "dev/virtio.h"

struct virtio_net {
	struct virtio virtio;
	struct net_backend *backend; /* NULL: the cable is out */
	uint8_t frame[NET_FRAME_MAX]; /* arrived, and not yet in the guest */
	size_t frame_bytes;          /* 0: none */
	uint64_t received, sent, dropped; /* frames */
};

extern const struct state_desc virtio_net_desc;

/* The back end is the device's from here on. */
void virtio_net_init(struct virtio_net *n, struct net_backend *backend, const struct dma *dma, const uint8_t mac[6],
		     const char *label);
/* Looks at the wire: what arrived is given to the guest at the device's next event, which this brings about. */
void virtio_net_poll(struct virtio_net *n, uint64_t now);
void virtio_net_close(struct virtio_net *n);

#endif
