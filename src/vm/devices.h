/*
 * The devices of a VM that are there only because its owner asked for them: what the owner says, and what becomes of
 * it. All of them are virtio devices on the PCI bus; without any there is no bus.
 */
#ifndef GNOMON_VM_DEVICES_H
#define GNOMON_VM_DEVICES_H

#include "engine/engine.h"
#include "vm/platform.h"
#include <limits.h>
#include <poll.h>

struct disk;        /* disk/disk.h */
struct disk_mirror; /* disk/mirror.h */

#define DEVICES_DISKS_MAX 8
#define DEVICES_NETS_MAX  4
#define DEVICES_SERIAL_MAX 20
#define DEVICES_FDS_MAX   64 /* to wait for */

/* As the owner describes them. Strings are the owner's and last as long as the VM. */
struct devices_config {
	const char *disk[DEVICES_DISKS_MAX]; /* see devices_parse_disk() */
	unsigned disks;
	const char *net[DEVICES_NETS_MAX];   /* see net_parse() in vm/net.h */
	unsigned nets;
	bool disks_later;                    /* others have the disks open: devices_open_disks() makes them ours */
	bool rng;
	bool packed;                         /* packed rings are offered */
	bool balloon;
	uint64_t balloon_bytes;              /* what the guest is asked to give */
	const char *console;                 /* a file for what the guest writes to its virtio console; "-": the terminal; NULL: none */
};

/* One disk. */
struct devices_disk {
	char path[PATH_MAX];
	bool read_only;
	bool snapshot;   /* changes are thrown away at the end */
	char serial[DEVICES_SERIAL_MAX + 1];
};
/*
 * "FILE[,ro][,snapshot][,serial=TEXT]"; a comma in the file's name is doubled. -EINVAL with @err.
 */
int devices_parse_disk(const char *text, struct devices_disk *disk, struct error *err);

/* What they are to be connected to. */
struct devices_host {
	struct engine_vm *engine;
	struct platform *platform;
	const char *directory; /* of relative paths, with a slash; NULL: the current one */
	uint64_t seed;
	bool wall;             /* the clock is the host's */
	bool go_on;            /* files that they write are not new, but continued: state is going to be loaded */
	/* What a virtio console on the terminal puts out. */
	void (*terminal)(void *ctx, const uint8_t *data, size_t bytes);
	void *terminal_ctx;
};

/* What devices_parse_disk() would take apart again. -ENAMETOOLONG with @err. */
int devices_print_disk(const struct devices_disk *disk, char *text, size_t bytes, struct error *err);

struct devices;
/*
 * Makes the devices and puts them on the platform's bus. *@out is NULL if none were asked for.
 * Errors: those of opening what they need; -ENOSPC: too many. Nothing is left open then, and the platform is of no
 * further use.
 */
int devices_create(struct devices **out, const struct devices_config *cfg, const struct devices_host *host,
		   struct error *err);
/*
 * The images of disks are closed, so that somebody else can open them, and opened (again). In between the guest may not
 * execute. A failed open leaves all closed; errors are those of disk_open(), -ESTALE if an image has another size now.
 */
int devices_close_disks(struct devices *d, struct error *err);
int devices_open_disks(struct devices *d, struct error *err);
/* Flushes and closes what they use. Returns the first failure; they are gone whatever is returned. NULL is fine. */
int devices_close(struct devices *d, struct error *err);
/*
 * Is something outside connected that may speak at any time, or at work for the guest by the wall clock? Then what
 * happens does not follow from virtual time alone, idle time passes as on the host, and the owner calls these:
 */
bool devices_are_live(const struct devices *d);
/* Has something outside asked to be looked at, with devices_poll()? If so, engine_run() was kicked for it. */
bool devices_have_called(const struct devices *d);
/* Looks at what has come from outside, between two instructions. @now: virtual time */
void devices_poll(struct devices *d, uint64_t now);
/* Is the terminal the virtio console's? Then it gets what is typed: returns how many bytes there was room for. */
bool devices_have_terminal(const struct devices *d);
size_t devices_put_input(struct devices *d, const uint8_t *data, size_t bytes, uint64_t now);
/* The disks, in the order they were asked for: where the image is. NULL: there is no disk @i. */
const char *devices_disk(const struct devices *d, unsigned i, bool *read_only);
/* Descriptors to wait for, at most @max; lowers *@wait_ms if there is something to do earlier. Returns how many. */
unsigned devices_wait_for(struct devices *d, struct pollfd *p, unsigned max, int *wait_ms);
/* Adds what was counted to @obs, which has nothing of devices yet. */
void devices_observe(const struct devices *d, struct obs *obs);
/* A line on what they did, for the end of a run; "" if there is nothing to say. */
void devices_describe(const struct devices *d, char *buf, size_t bytes);
/*
 * State. All sections go to @sink: "devices", and for the device in slot N "pci.N", its function, and "pci.N.<kind>",
 * for a disk with requests in flight more of them. What was submitted is done on the disks, and these are flushed.
 * -ENOTSUP: a disk whose changes are to be thrown away; errors of disks and the sink's.
 */
int devices_save(struct devices *d, const struct state_sink *sink, struct error *err);
/* Loads a section into new devices. -ENOENT: it is nobody's, @err is untouched; -EINVAL. */
int devices_load(struct devices *d, const char *name, const void *bytes, size_t n, struct error *err);
/* Are all sections there? -EINVAL with the name of one that is not. */
int devices_load_finish(struct devices *d, struct error *err);
/* Takes a line that a device has for the user: at most @bytes with the 0 at its end. False if there is none. */
bool devices_take_message(struct devices *d, char *buf, size_t bytes);


/* What became of the disks when they were frozen, in the order of the configuration. */
struct devices_frozen {
	unsigned disks;
	struct {
		char path[PATH_MAX]; /* as it was opened: what is written from now on */
		char base[PATH_MAX]; /* what has the contents of that instant; the path itself for a disk that is read only */
		bool read_only;
	} disk[DEVICES_DISKS_MAX];
};
#define DEVICES_FREEZE_ID_MAX 64
/*
 * Freezes the contents of all writable disks, between two runs of the guest, which sees nothing of it (disk/freeze.h).
 * What the guest has asked for is done first and is in what is frozen, also where the guest is told later.
 * @id: what becomes part of the names: disk.qcow2 is disk.ID.qcow2 then. Letters, digits and ._- only
 * Errors of disk_freeze(), -EINVAL for the id: no disk is frozen then, and @out is not set. NULL has no disks.
 */
int devices_freeze_disks(struct devices *d, const char *id, struct devices_frozen *out, struct error *err);

/* Of disk @i, 0: there is none. */
uint64_t devices_disk_bytes(const struct devices *d, unsigned i);
/*
 * Disk @i is mirrored (disk/mirror.h) while the guest uses it, from now on, until one of the next three or the end of the
 * devices. The mirror stays the caller's. Between two runs of the guest, as the others.
 * -ENOENT: no such disk; -EBUSY: it is mirrored already; -EINVAL: the mirror is of another size.
 */
int devices_start_mirror(struct devices *d, unsigned i, struct disk_mirror *m, struct error *err);
/*
 * The target gets what it lacks. The guest's disk is what it was.
 * -ENOENT: that disk is not mirrored by @m (any more); else as disk_mirror_complete().
 */
int devices_complete_mirror(struct devices *d, unsigned i, struct disk_mirror *m, struct error *err);
/*
 * Likewise, and then the guest goes on with @to, an open disk that the mirror's target wrote to; what it had is closed.
 * If it fails, the guest goes on with what it had, and @to is still the caller's. -EROFS: the guest's disk is read only.
 */
int devices_pivot(struct devices *d, unsigned i, struct disk_mirror *m, struct disk *to, struct error *err);
/* Ends it. Fine if that disk is not mirrored by @m. */
void devices_stop_mirror(struct devices *d, unsigned i, struct disk_mirror *m);

#endif
