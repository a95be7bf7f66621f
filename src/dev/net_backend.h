/*
 * The wire behind a network device: whoever carries its frames to the world. Nothing here waits, and nothing is
 * certain to arrive: a frame that cannot be sent at once is lost, as on a wire.
 */
#ifndef GNOMON_DEV_NET_BACKEND_H
#define GNOMON_DEV_NET_BACKEND_H

#include "base/util.h"

#include <poll.h>

/* An Ethernet frame without its checksum: header, VLAN tag, 1500 bytes. */
#define NET_FRAME_MAX 1518u
#define NET_FRAME_MIN 14u

struct net_backend;

struct net_backend_ops {
	/* Sends a frame of NET_FRAME_MIN to NET_FRAME_MAX bytes. */
	void (*send)(struct net_backend *n, const uint8_t *frame, size_t bytes);
	/* Takes a frame that has arrived, at most NET_FRAME_MAX bytes. Returns its length, 0 if there is none. */
	size_t (*receive)(struct net_backend *n, uint8_t *frame);
	/*
	 * What to wait for until there may be something to do: fills in at most @max descriptors and lowers
	 * *@wait_ms if it has something to do earlier. Returns how many.
	 */
	unsigned (*wait_for)(struct net_backend *n, struct pollfd *p, unsigned max, int *wait_ms);
	/* Does what there is to do. Called often. */
	void (*work)(struct net_backend *n);
	/* Can frames get anywhere? What the guest sees as the state of the link. */
	bool (*is_up)(struct net_backend *n);
	void (*close)(struct net_backend *n);
};

/* The beginning of each back end's own struct. */
struct net_backend {
	const struct net_backend_ops *ops;
};

#endif
