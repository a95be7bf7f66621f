/*
 * What all virtio devices have in common, whatever the transport: status, features, queues, and when a doorbell is
 * answered. A device is a struct with this one first in it and a struct virtio_ops.
 *
 * A doorbell is answered VIRTIO_DOORBELL_NS later, in virtio_advance(), where the device may use the guest's memory
 * (dev/dma.h says why not at once). A queue that breaks the rules stops the device until the driver resets it
 * (DEVICE_NEEDS_RESET), with one line for the user.
 *
 * Source: Virtual I/O Device (VIRTIO) Version 1.2, "Basic Facilities of a Virtio Device". Legacy drivers are not
 * served.
 */
#ifndef GNOMON_DEV_VIRTIO_H
#define GNOMON_DEV_VIRTIO_H

#include "dev/dma.h"
#include "dev/virtq.h"

#define VIRTIO_QUEUES_MAX   4
#define VIRTIO_DOORBELL_NS  200
#define VIRTIO_MESSAGE_MAX  400
#define VIRTIO_MESSAGES     8 /* that a device may have for the user in all: a guest cannot flood the terminal */

enum { /* device status */
	VIRTIO_ACKNOWLEDGE = 1, VIRTIO_DRIVER = 2, VIRTIO_DRIVER_OK = 4, VIRTIO_FEATURES_OK = 8,
	VIRTIO_NEEDS_RESET = 64, VIRTIO_FAILED = 128,
};
#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX     (1ull << 29)
#define VIRTIO_F_VERSION_1     (1ull << 32)
#define VIRTIO_F_RING_PACKED   (1ull << 34)

struct virtio;

struct virtio_ops {
	const char *name;
	uint16_t id;              /* "Device Types" */
	uint32_t pci_class;
	unsigned queues;
	unsigned config_bytes;    /* of the device's own configuration; 0: none */
	/* The queue's doorbell rang. May use the guest's memory; takes at most as many chains as the queue is long. */
	void (*process)(struct virtio *v, unsigned queue, uint64_t now);
	/* Events of its own; as in struct device. May be NULL. */
	uint64_t (*advance)(struct virtio *v, uint64_t now);
	/* The driver resets it: no memory of the guest's is touched after that for what came before. May be NULL. */
	void (*reset)(struct virtio *v);
	/* Fills in / takes the device's own configuration, whose bytes are in v->config. May be NULL. */
	void (*config_read)(struct virtio *v);
	void (*config_written)(struct virtio *v, unsigned at, unsigned bytes);
};

#define VIRTIO_CONFIG_MAX 64

struct virtio {
	const struct virtio_ops *ops;
	const struct dma *dma;
	const char *label;                  /* what the user calls it: for messages */
	uint64_t offered, accepted;         /* features */
	uint8_t status;
	uint8_t generation;                 /* of config[] */
	uint8_t config[VIRTIO_CONFIG_MAX];
	struct virtq queue[VIRTIO_QUEUES_MAX];
	uint64_t doorbell[VIRTIO_QUEUES_MAX]; /* when to answer it; UINT64_MAX: it did not ring */
	uint64_t doorbells, chains, interrupts; /* counts: rung, given back, raised */
	/* for the transport, which clears them */
	uint32_t queue_interrupts;          /* a bit a queue: the driver wants to know of used buffers */
	bool config_interrupt;
	char message[VIRTIO_MESSAGE_MAX];   /* for the user; "": none */
	unsigned messages;                  /* that there have been */
};

/* What all devices have: a part of each device's own table. */
extern const struct state_desc virtio_desc;

/* @features: the device's own; those of the ring are added, but VIRTIO_F_RING_PACKED, which the owner may add. */
void virtio_init(struct virtio *v, const struct virtio_ops *ops, const struct dma *dma, uint64_t features,
		 const char *label);
/* The driver writes the status register. */
void virtio_set_status(struct virtio *v, uint8_t status);
/* The driver accepts features; nothing after FEATURES_OK. */
void virtio_accept(struct virtio *v, uint64_t features);
static inline bool virtio_has(const struct virtio *v, uint64_t feature) { return v->accepted & feature; }
/* The driver turns a queue on; it stays off if its addresses are not aligned. */
void virtio_enable_queue(struct virtio *v, unsigned queue);
/* The driver rings queue @queue's doorbell. */
void virtio_ring(struct virtio *v, unsigned queue, uint64_t now);
/* Answers what is due. Returns the time of the next event. */
uint64_t virtio_advance(struct virtio *v, uint64_t now);

/* ---- for devices ---- */

/* As virtq_pop(), with the device stopped if the queue is broken. True if there is a chain. */
bool virtio_pop(struct virtio *v, unsigned queue, struct virtq_chain *chain);
/* As virtq_push(). */
void virtio_push(struct virtio *v, unsigned queue, uint16_t head, uint32_t written);
/* After the last virtio_push() of a batch: requests the interrupt if the driver wants one. */
void virtio_interrupt(struct virtio *v, unsigned queue);
/* Something in the device's configuration changed by itself. */
void virtio_config_changed(struct virtio *v);
/* Stops the device until the driver resets it; @why goes to the user. */
void virtio_stop(struct virtio *v, const char *why);
/* A line for the user, unless one is waiting already or there have been enough. */
void virtio_say(struct virtio *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
