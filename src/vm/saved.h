/*
 * A whole VM in a file: suspended, or as a checkpoint. A checkpoint may hold only the pages that changed since an
 * earlier one, its parent, which lies in the same directory; opening it opens the chain. A VM made from it gets its
 * memory page by page, when it is touched, so it runs at once, whatever its size.
 *
 * Sections of the file (vm/stream.h): "saved", a JSON object that says what this is; those of vm_save_state(); pages.
 */
#ifndef GNOMON_VM_SAVED_H
#define GNOMON_VM_SAVED_H

#include "vm/pages.h"
#include "vm/state_file.h"
#include "vm/vm.h"

#define SAVED_ID_BYTES  33  /* 32 hexadecimal digits */
#define SAVED_CHAIN_MAX 256 /* files, one behind the other */

/* One disk of the VM. */
struct saved_disk {
	const char *path;   /* as the VM knows it: absolute */
	const char *base;   /* what it was frozen as, NULL: it was not, and goes on in the same image */
	uint64_t bytes;     /* not frozen: its file's size and time of change, by which later writes are known */
	int64_t changed_ns;
	bool read_only;
};

enum saved_kind { SAVED_SUSPENDED, SAVED_CHECKPOINT };

/* What the section "saved" says. Strings belong to who has filled it in. */
struct saved_info {
	enum saved_kind kind;
	char id[SAVED_ID_BYTES];        /* of this state, random */
	char parent_id[SAVED_ID_BYTES]; /* "": it has none */
	const char *parent;             /* its file's name, in the same directory; NULL */
	int64_t seconds;                /* since 1970 */
	uint64_t insns, virtual_ns;     /* at which it was taken */
	uint64_t memory;                /* bytes */
	struct saved_disk disk[DEVICES_DISKS_MAX];
	unsigned disks;
};

/* ---- writing ---- */

/* A new id. */
void saved_new_id(char id[SAVED_ID_BYTES]);
/* Fills in what a VM says of itself: all but kind, id and parent. The disks are as they lie there. */
int saved_describe(struct saved_info *info, struct vm *vm, struct error *err);
int saved_put_info(struct stream_writer *w, const struct saved_info *info, struct error *err);

/* Told how far long work has come; not 0 has it stopped: -ECANCELED. May be NULL. */
struct saved_progress {
	int (*report)(void *ctx, uint64_t pages, uint64_t of);
	void *ctx;
};

struct suspend_options {
	bool replace;       /* an existing file */
	int compress;       /* zstd level, 0: not */
	struct saved_progress progress;
};
/*
 * Writes the whole VM into a file, which is on stable storage afterwards, and ends the VM with VM_END_SUSPENDED. On its
 * thread, between two runs or from a tick. -ECANCELED: the guest ended before a boundary came; of vm_save_state(); of the
 * host. On error the VM can go on, and nothing is left of the file.
 */
int vm_suspend(struct vm *vm, const char *path, const struct suspend_options *o, struct error *err);

/* ---- reading ---- */

struct saved;
/* Opens a file and its parents. Errors as of state_file_open(); -ENOENT with the parent's name; -ELOOP. */
int saved_open(struct saved **out, const char *path, struct error *err);
/* After the VM made from it is gone. NULL is fine. */
void saved_close(struct saved *s);
const struct saved_info *saved_info(const struct saved *s);
/* Files in its chain, itself included. */
unsigned saved_chain(const struct saved *s);
struct state_file *saved_file(struct saved *s);
/*
 * Are the disks as they were when it was saved? -ESTALE: one has been written since; -ENOENT ... with @err. Frozen bases
 * are taken to be as they were.
 */
int saved_check_disks(const struct saved *s, struct error *err);
/* The configuration the VM had, over the defaults. Valid as long as @s. */
int saved_config(struct saved *s, struct vm_config *cfg, struct error *err);
/*
 * Gives the VM disks of its own: for each that was frozen a new image in @directory, which begins as the frozen one is.
 * After saved_config(), whose @cfg gets their paths. -EEXIST, of disk_branch(): what was made is removed again.
 */
int saved_branch_disks(struct saved *s, struct vm_config *cfg, const char *directory, struct error *err);
/* Removes what it has made: there is going to be no VM to use it. */
void saved_remove_branches(struct saved *s);
/* Has it frozen disks, which nobody may write? */
bool saved_has_frozen_disks(const struct saved *s);
/*
 * Makes the VM. @cfg: from saved_config(); scheme, hardware, limits may have been changed, and paths of disks.
 * Errors: those of vm_create_empty(), vm_load_section(); of the file.
 */
int saved_make_vm(struct saved *s, const struct vm_config *cfg, struct vm **out, struct error *err);
/* Reads all memory that has not been read and verifies it; for a VM that is not made yet. */
int saved_verify(struct saved *s, struct error *err);
/* Why memory could not be read: the first error, "" if there was none. From the VM's thread. */
const char *saved_failure(const struct saved *s);
/* How many pages it has data for, and of how many the VM has asked. */
void saved_pages(const struct saved *s, uint64_t *all, uint64_t *asked);

#endif
