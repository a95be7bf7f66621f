/*
 * The host file under an image: whole reads and writes at an offset, barriers, holes, locks, and
 * messages that name the file. Formats reach the host through nothing else, so a test that sees
 * every call (struct file_tap) sees everything an image does to its file.
 */
#ifndef GNOMON_DISK_FILE_H
#define GNOMON_DISK_FILE_H

#include "base/error.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

enum file_op {
	FILE_READ, FILE_WRITE, FILE_SYNC, FILE_ZERO, FILE_PUNCH, FILE_TRUNCATE,
	/* of names: at and bytes are 0 */
	FILE_LINK, FILE_RENAME, FILE_REMOVE, FILE_SYNC_NAMES,
};

struct file_call {
	enum file_op op;
	uint64_t at, bytes;      /* FILE_TRUNCATE: the new size is @at */
	const struct iovec *iov; /* FILE_WRITE: what is written; else NULL */
	int iovs;
};

struct file;
struct file_tap {
	/* Before each call. Returns 0, or a negative errno that the call fails with instead of being made. */
	int (*before)(void *ctx, const struct file *f, const struct file_call *call);
	void *ctx;
};

struct file {
	int fd;
	char *path;
	bool read_only;
	uint64_t device_number, inode; /* which file it is */
	bool device;    /* a block device: its size cannot change */
	bool nameless;  /* created, and to be published */
	bool remove;    /* likewise, but it has its name already: removed if it is closed before */
	bool unsynced;  /* written to since the last barrier */
	int sync_error; /* a barrier failed: what was written before may be lost, so none can succeed any more */
	uint64_t bytes; /* its size, as far as it was changed through here */
	uint64_t run_at, run_end; /* written in order, and not yet on its way to the device */
	const struct file_tap *tap;
};

/*
 * Opens a regular file or block device.
 * -errno of open(), -EISDIR, -EINVAL for other kinds of file. Nothing is left open on error.
 */
int file_open(struct file *f, const char *path, bool read_only, const struct file_tap *tap, struct error *err);
/*
 * Creates a file that has no name yet, in the directory of @path; file_publish() gives it the name, so that nobody
 * finds an unfinished one, and nothing is left of one that file_close() gets instead.
 * -EEXIST if there is something at @path already; -errno of the host.
 */
int file_create(struct file *f, const char *path, const struct file_tap *tap, struct error *err);
int file_publish(struct file *f, struct error *err);
/* Closes; makes no barrier. Locks go with it. */
void file_close(struct file *f);

/* What lies behind the end of the file reads as zeroes. */
int file_read(struct file *f, uint64_t at, void *buf, uint64_t bytes, struct error *err);
int file_write(struct file *f, uint64_t at, const void *buf, uint64_t bytes, struct error *err);
/* Writes pieces one behind the other; @iov is used up. */
int file_writev(struct file *f, uint64_t at, struct iovec *iov, int iovs, struct error *err);
/* A barrier: what was written before is on stable storage, and before anything written later. */
int file_sync(struct file *f, struct error *err);
/* The range reads as zeroes and keeps (zero), or loses (punch), its room on the host. Within the file's size. */
int file_zero(struct file *f, uint64_t at, uint64_t bytes, struct error *err);
int file_punch(struct file *f, uint64_t at, uint64_t bytes, struct error *err);
/* Gives the room of a range back to the host if it can; what the range reads as afterwards is not said. */
void file_discard(struct file *f, uint64_t at, uint64_t bytes);
int file_truncate(struct file *f, uint64_t bytes, struct error *err);

/*
 * Takes the locks on bytes 100.. and 200.. that QEMU takes, too: a file open for writing is open nowhere else, one
 * open for reading is open for writing nowhere. They belong to the open file, so they also hold within a process.
 * -EBUSY, with who it is if that can be found; a file system without locks is no error.
 */
int file_lock(struct file *f, struct error *err);
/* The file is only read from now on: others may open it for reading, and still not for writing. */
void file_share(struct file *f);

/* ---- file_name.c: names of an open file, by calls that tests see, too ---- */

/*
 * Gives the open file one more name. Fine if the file has it already.
 * @made: set to whether it is new. May be NULL.
 * -EEXIST if another file has it; -errno of the host, as where a file can have one name only.
 */
int file_link(struct file *f, const char *name, bool *made, struct error *err);
/* Gives the file that is called @from the name @to, at one instant, whatever was called so. */
int file_rename(struct file *f, const char *from, const char *to, struct error *err);
/* Takes a name away, if it is there. */
int file_remove(struct file *f, const char *name, struct error *err);
/* A barrier for the names in the directory that @name is in. */
int file_sync_names(struct file *f, const char *name, struct error *err);
/* Is it this file that has that name? */
bool file_is_called(const struct file *f, const char *name);

#endif
