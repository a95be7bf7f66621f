/*
 * Moving a running VM to another Gnomon (docs/migration.md). Two state machines, one for each end, over a transport and
 * over what they need of a VM, which is a table of functions: so they are tested with VMs that are none.
 *
 * The rule above all: exactly one end runs the VM, whatever fails when. The source may go on until it has sent "run";
 * from then on only with the destination's word that it has not started, and never will.
 */
#ifndef GNOMON_VM_MIGRATE_H
#define GNOMON_VM_MIGRATE_H

#include "arch/addr.h"
#include "vm/transport.h"

enum migrate_mode {
	MIGRATE_STOP,     /* the VM stands still while all is copied */
	MIGRATE_PRECOPY,  /* memory is copied while it runs, what it wrote again; then it stands still for the rest */
	MIGRATE_POSTCOPY, /* it moves at once, and memory follows: what it touches first */
	MIGRATE_HYBRID,   /* some rounds of pre-copy, then post-copy */
	MIGRATE_MODES,
};
extern const char *const migrate_mode_name[MIGRATE_MODES]; /* "stop", "precopy", "postcopy", "hybrid" */

struct migrate_options {
	enum migrate_mode mode;
	unsigned rounds;           /* MIGRATE_HYBRID: of pre-copy; else at most so many */
	uint64_t downtime_ns;      /* that the VM may stand still, as far as can be foreseen */
	uint64_t bytes_per_second; /* cap while the VM runs here; 0: none */
	int compress;              /* zstd level; 0: none */
	bool auto_converge;        /* a VM that writes too fast is held back */
	bool strict;               /* after the last round give up, rather than stop it for longer */
	bool verify;               /* a hash of memory and registers is checked before it runs; not with post-copy */
	int64_t recover_ms;        /* how long a lost connection is tried to be made again */
};
#define MIGRATE_OPTIONS_DEFAULT                                                                                        \
	((struct migrate_options){.mode = MIGRATE_PRECOPY, .rounds = 30, .downtime_ns = 300000000, .recover_ms = 60000})

enum migrate_phase {
	MIGRATE_CONNECTING, MIGRATE_DISKS, MIGRATE_COPYING, MIGRATE_STOPPED, MIGRATE_ASKING, MIGRATE_PUSHING, MIGRATE_RECOVERING,
	MIGRATE_OVER, MIGRATE_PHASES,
};
extern const char *const migrate_phase_name[MIGRATE_PHASES];

/* What can be said of a migration at any time, at the source. */
struct migrate_progress {
	enum migrate_phase phase;
	unsigned round;              /* of pre-copy, from 1 on */
	uint64_t disk_left;          /* bytes of disks that the other end does not have */
	uint64_t pages;              /* that the VM has */
	uint64_t left;               /* still to be sent in this round, or at all */
	uint64_t sent, zero, again;  /* sent; of them zeros; passed over because they were written again already */
	uint64_t demanded;           /* post-copy: that the destination asked for */
	uint64_t bytes;              /* of the connection */
	/* The first round of pre-copy, to the other end's answer: contents of pages that went as they are, and time. */
	uint64_t first_bytes, first_ns;
	uint64_t bytes_per_second;   /* in the last round, to the other end's answer */
	uint64_t dirty_per_second;   /* pages the VM writes */
	uint64_t expected_ns;        /* downtime, if it stopped now */
	unsigned throttle;           /* percent of time that the VM is held back */
	uint64_t downtime_ns, total_ns;
	uint64_t recoveries;         /* of the connection */
};

enum migrate_outcome {
	MIGRATE_MOVED,    /* the VM runs at the destination */
	MIGRATE_STAYED,   /* it runs here, as if nothing had been */
	/* Not settled; migrate_source_recover() tries to. */
	MIGRATE_HELD,     /* it is here and nowhere else, but paused: its files cannot be opened */
	MIGRATE_IN_DOUBT, /* it may have started there: here it stays paused until somebody knows */
	MIGRATE_STRANDED, /* it runs there, and waits for pages that are here */
};

#define MIGRATE_TOKEN_BYTES 16u

/* ---- the source ---- */

/* Who takes sections of state. @bytes are the caller's. */
typedef int migrate_put_section(void *to, const char *name, const void *bytes, size_t n, struct error *err);

/*
 * What it needs of the VM. Functions with @err return 0 or a negative errno. All are called by the thread of
 * migrate_source_run().
 */
struct migrate_source_vm {
	void *ctx;
	uint64_t pages;
	/* A copy of a page, while the VM runs perhaps torn. 1; 0: zeros, @data untouched; negative: not to be had. */
	int (*read_page)(void *ctx, uint64_t page, uint8_t data[PAGE_SIZE]);
	/* Finds out which pages are written from now on; adds those since the last call to a bitmap; ends that. */
	int (*track)(void *ctx, struct error *err);
	int (*collect)(void *ctx, uint64_t *bitmap, struct error *err);
	void (*untrack)(void *ctx);
	void (*throttle)(void *ctx, unsigned percent);
	/* "config", to be given to @put as one section: for the other end to make such a VM. */
	int (*describe)(void *ctx, migrate_put_section *put, void *to, struct error *err);
	/*
	 * Disks that go along: gives what is to be sent of them now, as sections. @left: bytes that the other end lacks
	 * still, but for what is given later. After pause() all there is. NULL: none go along.
	 */
	int (*disks)(void *ctx, migrate_put_section *put, void *to, uint64_t *left, bool *any, struct error *err);
	/* Holds the VM still, where all its state can be told. Its files are closed: others may open them. */
	int (*pause)(void *ctx, struct error *err);
	/* Its state but for memory, section by section. */
	int (*save)(void *ctx, migrate_put_section *put, void *to, struct error *err);
	void (*hash)(void *ctx, uint64_t hash[2]); /* of registers and memory */
	/* Opens its files again and lets it go on; on error it stays paused, and may be asked to again. */
	int (*resume)(void *ctx, struct error *err);
	int64_t (*now_ns)(void *ctx); /* time by which rates are measured */
};

/* How it reaches the other end; again, after a connection was lost. */
struct migrate_peer {
	void *ctx;
	int (*connect)(void *ctx, bool may_cancel, struct transport **out, struct error *err);
	void (*nap)(void *ctx, int64_t ms); /* between attempts; may end early if the owner wants to end */
	bool (*cancelled)(void *ctx);
};

struct migrate_source;
/* -ENOMEM, -EIO (no random numbers) with @err. */
int migrate_source_create(struct migrate_source **out, const struct migrate_options *opt,
			  const struct migrate_source_vm *vm, const struct migrate_peer *peer, struct error *err);
/* Told of every change worth telling, by the thread that runs it. */
void migrate_source_watch(struct migrate_source *s, void (*seen)(void *ctx, const struct migrate_progress *p),
			  void *ctx);
/*
 * Migrates. @err: why, unless the VM has moved; after MIGRATE_STAYED its code is -ECANCELED if the owner wished it.
 */
enum migrate_outcome migrate_source_run(struct migrate_source *s, struct error *err);
/* After MIGRATE_HELD, MIGRATE_IN_DOUBT or MIGRATE_STRANDED: tries again. */
enum migrate_outcome migrate_source_recover(struct migrate_source *s, struct error *err);
const struct migrate_progress *migrate_source_progress(const struct migrate_source *s);
void migrate_source_free(struct migrate_source *s);

/* ---- the destination ---- */

/* What brings a page that the VM misses: for struct engine_source. */
struct migrate_fetch {
	void *ctx;
	int (*fetch)(void *ctx, uint64_t page, uint8_t data[PAGE_SIZE]);
};

/* What it needs of a VM that is to be made. Called by the thread of migrate_dest_wait(). */
struct migrate_dest_vm {
	void *ctx;
	bool can_postcopy;
	int (*create)(void *ctx, const void *config, size_t bytes, uint64_t *pages, struct error *err);
	int (*write_page)(void *ctx, uint64_t page, const uint8_t *data, struct error *err); /* NULL: zeros */
	int (*disk)(void *ctx, const void *bytes, size_t n, struct error *err); /* a section "mig.disk"; NULL: none are taken */
	int (*load)(void *ctx, const char *name, const void *bytes, size_t n, struct error *err);
	/* All sections have come. Opens its files. @absent: pages that will follow, NULL if none */
	int (*finish)(void *ctx, const uint64_t *absent, const struct migrate_fetch *fetch, struct error *err);
	void (*hash)(void *ctx, uint64_t hash[2]);
	void (*drop)(void *ctx); /* it will not run here: what create() and the others made goes */
	void (*say)(void *ctx, const char *line); /* something that the user may want to know */
	/* Pages have arrived that the VM did not ask for: migrate_dest_take() soon, please. From another thread. */
	void (*arrived)(void *ctx);
};

struct migrate_door {
	void *ctx;
	/* As transport_accept(). */
	int (*accept)(void *ctx, struct transport **out, int64_t wait_ms, struct error *err);
};

struct migrate_dest;
int migrate_dest_create(struct migrate_dest **out, const struct migrate_dest_vm *vm, const struct migrate_door *door,
			int64_t recover_ms, struct error *err);
/*
 * Waits for a VM until one is to run, here and now: 0. Who comes and fails is told and forgotten, and the wait goes on.
 * -ECANCELED; or what keeps it from listening.
 */
int migrate_dest_wait(struct migrate_dest *d, struct error *err);
/* After that: a thread serves what is left of the protocol while the VM runs. -EAGAIN. */
int migrate_dest_start(struct migrate_dest *d, struct error *err);
/*
 * Brings at most @max pages that have arrived into the VM's memory by @touch, so that they are out of the way. On the
 * VM's thread. True if there are more.
 */
bool migrate_dest_take(struct migrate_dest *d, unsigned max, void (*touch)(void *ctx, uint64_t page), void *ctx);
/*
 * The VM has ended. Waits until the source knows that it ran, or can no longer be expected; all memory is there then,
 * or given up. Ends the thread.
 */
void migrate_dest_end(struct migrate_dest *d);
void migrate_dest_free(struct migrate_dest *d);

struct migrate_dest_progress {
	uint64_t bytes, pages;   /* received */
	uint64_t demanded, left; /* post-copy: asked for; still to come */
	bool recovering;         /* post-copy: the connection is lost */
};
void migrate_dest_progress(struct migrate_dest *d, struct migrate_dest_progress *p);

#endif
