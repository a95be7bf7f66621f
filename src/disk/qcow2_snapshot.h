/* The snapshot table of a qcow2 image. */
#ifndef GNOMON_DISK_QCOW2_SNAPSHOT_H
#define GNOMON_DISK_QCOW2_SNAPSHOT_H

#include "disk/qcow2.h"

struct q2_snapshot {
	uint8_t *raw; /* the entry as it stands there, what is not known of it too */
	uint32_t raw_bytes;
	uint64_t l1_at, disk_bytes, state_bytes;
	uint32_t l1_size, seconds;
	char *id, *name;
};

struct q2_snapshots {
	struct q2_snapshot *s;
	uint32_t count;
	uint64_t bytes; /* of the table on the disk */
};

int q2_snapshots_load(struct qcow2 *q, struct q2_snapshots *t, struct error *err);
void q2_snapshots_free(struct q2_snapshots *t);
/* A snapshot's L1 table in the host's byte order, to be freed. */
int q2_snapshot_l1(struct qcow2 *q, const struct q2_snapshot *s, uint64_t **l1, struct error *err);

/* See disk/image.h. */
int q2_snapshot_take(struct disk *d, const char *name, struct error *err);
int q2_snapshot_apply(struct disk *d, const char *name, struct error *err);
int q2_snapshot_delete(struct disk *d, const char *name, struct error *err);

#endif
