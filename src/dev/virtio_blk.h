/* A virtio disk: see virtio_blk.c. */
#ifndef GNOMON_DEV_VIRTIO_BLK_H
#define GNOMON_DEV_VIRTIO_BLK_H

#include "dev/device.h"
#include "dev/virtio.h"
#include "disk/worker.h"

#define VIRTIO_BLK_SERIAL_BYTES 20

/*
 * How long a request takes in virtual time, whatever the host needs: requests are done one after the other, each in
 * a fixed time and its data at a fixed rate.
 */
#define VIRTIO_BLK_REQUEST_NS   20000ull
#define VIRTIO_BLK_BYTES_PER_NS 2ull

struct virtio_blk {
	struct virtio virtio;
	struct disk *disk;
	struct disk_worker *worker;
	struct disk_mirror *mirror;      /* NULL: none */
	char serial[VIRTIO_BLK_SERIAL_BYTES];
	bool wall;                       /* a request is complete when the host has done it */
	struct blk_request *first, *last; /* submitted, not completed: in that order */
	uint64_t busy_until;             /* virtual time at which the last of them is done */
	uint64_t bytes_in_flight;
	bool stalled;                    /* requests wait in the ring for others to complete */
	uint32_t kinds_failed;           /* a bit a kind of request that the user has been told of */
};

/*
 * Makes the device of an open disk, which is the device's from here on (also on error: then it is closed).
 * @serial: cut off after 20 bytes
 * @wall: a request is complete when the host has done it, and who is told then, by another thread; lasts as long as
 *	the device. NULL: when the model says so
 * @label: the disk's name for messages
 */
int virtio_blk_init(struct virtio_blk *b, struct disk *disk, const struct dma *dma, const char *serial,
		    const struct disk_listener *wall, const char *label, struct error *err);
/* With @wall: completes, at the next event of the bus, what the host has done. @now: virtual time */
void virtio_blk_poll(struct virtio_blk *b, uint64_t now);
/* With @wall: is there a request that virtio_blk_poll() has yet to find done? */
bool virtio_blk_waits(const struct virtio_blk *b);
/*
 * The disk, after the host has done everything that the guest has asked for, whatever the guest knows of that: until
 * the next event the worker leaves it alone, unless it has a mirror.
 */
struct disk *virtio_blk_settle(struct virtio_blk *b);
/* Goes on with another disk of the same contents; after virtio_blk_settle(). The guest sees nothing of that. */
void virtio_blk_set_disk(struct virtio_blk *b, struct disk *disk);
/*
 * Has the disk mirrored from now on (disk/mirror.h), while the guest uses it. The mirror stays the caller's, who frees it
 * when it is not in use any more. -EBUSY: it is mirrored already; -EINVAL: the mirror is of a disk of another size.
 */
int virtio_blk_start_mirror(struct virtio_blk *b, struct disk_mirror *m, struct error *err);
/* As virtio_blk_settle(), and what the disk is mirrored by is not used any more: it is to be completed or stopped. */
struct disk *virtio_blk_end_mirror(struct virtio_blk *b);
/*
 * Closes its disk, after virtio_blk_settle(): until virtio_blk_set_disk() the guest may not execute. Returns what
 * disk_close() does; it is closed in any case. A mirror is stopped.
 */
int virtio_blk_release_disk(struct virtio_blk *b, struct error *err);
/* Its disk is open for reading only because it is another's yet: what the guest is offered is a disk to write. */
void virtio_blk_offer_writing(struct virtio_blk *b);
/*
 * State. A disk's is several structs, one after the other: of itself; then of each request in flight, in their order;
 * each followed by the data that the request has read and not yet given to the guest, in pieces.
 */
extern const struct state_desc virtio_blk_desc;         /* of struct virtio_blk */
extern const struct state_desc virtio_blk_request_desc; /* of struct blk_request_state */
extern const struct state_desc virtio_blk_data_desc;    /* of struct blk_data_state */
struct blk_request_state {
	uint32_t type;
	uint64_t sector, bytes, done_at;
	uint8_t status;
	uint16_t head;
	uint32_t outs, ins;      /* elements used of: */
	uint64_t out_gpa[VIRTQ_SIZE_MAX], in_gpa[VIRTQ_SIZE_MAX];
	uint32_t out_bytes[VIRTQ_SIZE_MAX], in_bytes[VIRTQ_SIZE_MAX];
};
#define BLK_DATA_PIECE (512u << 10)
struct blk_data_state {
	uint64_t at;             /* in the request's data */
	uint32_t bytes;
	uint8_t data[BLK_DATA_PIECE];
};
/*
 * Before saving: what was submitted is done on the disk and the disk is flushed; only the guest hears of it when it
 * would have. 0 or what the disk says.
 */
int virtio_blk_prepare_state(struct virtio_blk *b, struct error *err);
/* Then the requests, the oldest first: false if @n is not below their number. */
bool virtio_blk_save_request(const struct virtio_blk *b, unsigned n, struct blk_request_state *rq);
/* Data from byte d->at on of request @n: false if there is no more. */
bool virtio_blk_save_data(const struct virtio_blk *b, unsigned n, struct blk_data_state *d);
/* The same in the same order, into a new device. -EINVAL, -ENOMEM. */
int virtio_blk_load_request(struct virtio_blk *b, const struct blk_request_state *rq, struct error *err);
int virtio_blk_load_data(struct virtio_blk *b, const struct blk_data_state *d, struct error *err);
/* Is all the data there that is to come? */
bool virtio_blk_loaded(const struct virtio_blk *b);

/* Waits for what is in flight, then flushes and closes the disk. Returns what disk_close() does. */
int virtio_blk_close(struct virtio_blk *b, struct error *err);

#endif
