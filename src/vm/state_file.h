/*
 * The state of a VM in a file: a stream (vm/stream.h) that is read out of order. Opening looks at the heads of all
 * sections, so the file is known to be whole; memory pages are read when they are asked for, and their section's checksum
 * is verified then. So a VM of any size can begin to run at once.
 */
#ifndef GNOMON_VM_STATE_FILE_H
#define GNOMON_VM_STATE_FILE_H

#include "vm/pages.h"

/* ---- writing ---- */

/*
 * A file that appears under its name whole, or not at all. It has no name until then, so nothing stays of it when its
 * writer is killed. File systems that know no files without a name, and replacing, need a name for a while:
 */
struct state_file_writer;
#define STATE_FILE_PART_HEAD ".gnomon-"
#define STATE_FILE_PART_TAIL ".part"
/* Is a file of that name unfinished, or was its writer killed? It means nothing to anybody. */
bool state_file_is_part(const char *name);
/*
 * Begins a file in the directory of @path. @replace: an existing file is replaced at the end; else -EEXIST.
 * -errno of the host.
 */
int state_file_create(struct state_file_writer **out, const char *path, bool replace, struct error *err);
/* Where sections are put; its first error stays. */
struct stream_writer *state_file_stream(struct state_file_writer *w);
/* Ends the stream, brings it to stable storage and gives it its name. @w is gone whatever is returned. */
int state_file_commit(struct state_file_writer *w, struct error *err);
/* Nothing stays. NULL is fine. */
void state_file_abandon(struct state_file_writer *w);

/*
 * Files name each other, so their directory has a lock: who writes one that names another, or opens several, shares it
 * (!@alone); who takes away one that others may name has it alone. It goes with the process.
 * @wait: until it can be had; else -EWOULDBLOCK
 * @lock: for state_file_unlock_directory(); also where a file system has no locks, which is no error
 * -EWOULDBLOCK; -EINTR: a signal came.
 */
int state_file_lock_directory(const char *path, bool alone, bool wait, int *lock);
void state_file_unlock_directory(int *lock);

/* ---- reading ---- */

struct state_file;
/*
 * Opens and looks through a file. -EINVAL: it is something else than a state; otherwise errors of the host and of
 * stream_get_head(); -ENODATA: it is cut off. *@out is set on success only.
 */
int state_file_open(struct state_file **out, const char *path, struct error *err);
void state_file_close(struct state_file *f);
/* How many sections of pages, of about 1 MiB, it may keep at hand: 1 to STATE_FILE_CACHE_MAX, which it begins with. */
#define STATE_FILE_CACHE_MAX 8
void state_file_set_cache(struct state_file *f, unsigned sections);
/* Has it compressed pages? */
bool state_file_is_compressed(const struct state_file *f);
const char *state_file_path(const struct state_file *f);
/*
 * The first section of the name, verified; its data is valid until the next call. 1, 0 if there is none, negative as
 * stream_get().
 */
int state_file_section(struct state_file *f, const char *name, struct stream_section *section, struct error *err);
/* Every section but those with pages, in their order, verified. Stops at the first that @each returns not 0 for. */
int state_file_each(struct state_file *f,
		    int (*each)(void *ctx, const struct stream_section *section, struct error *err), void *ctx,
		    struct error *err);
/*
 * Finds out which pages it has: reads the tables of all sections of pages, which have checksums of their own, and all
 * other sections, so that no damage can hide one. Before the functions below.
 * @pages: of the VM's memory. -EBADMSG, -ENOMEM ...
 */
int state_file_index(struct state_file *f, uint64_t pages, struct error *err);
enum state_file_page { STATE_FILE_NOT_THERE, STATE_FILE_ZERO, STATE_FILE_DATA };
enum state_file_page state_file_has(const struct state_file *f, uint64_t page);
/*
 * The contents of a page; from any thread. 0 and zeros if it has none of it; -EBADMSG: damaged; -errno of the host.
 */
int state_file_page(struct state_file *f, uint64_t page, uint8_t data[PAGE_SIZE], struct error *err);
/* Reads and verifies all of it. */
int state_file_verify(struct state_file *f, struct error *err);
/* Bytes of the file. */
uint64_t state_file_bytes(const struct state_file *f);

#endif
