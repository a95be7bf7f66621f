/* Inside of the source of a migration: its state, and the steps that are in files of their own. */
#ifndef GNOMON_VM_MIGRATE_SOURCE_H
#define GNOMON_VM_MIGRATE_SOURCE_H

#include "vm/migrate_policy.h"
#include "vm/migrate_wire.h"
#include "vm/pages.h"

struct migrate_source {
	struct migrate_options opt;
	struct migrate_source_vm vm;
	struct migrate_peer peer;
	uint8_t token[MIGRATE_TOKEN_BYTES];
	struct migrate_link link;      /* link.t == NULL: there is none */
	uint64_t capabilities;         /* that both ends have */
	uint64_t bytes_before;         /* of connections that are gone */
	int64_t begun_ns, stopped_ns;
	/* pages */
	uint64_t words;                /* of the bitmaps */
	uint64_t *send;                /* to be sent: in this round, or at all */
	uint64_t *dirty;               /* written meanwhile */
	struct pages_writer writer;
	bool writing;                  /* ... is there */
	bool tracking, paused;
	uint32_t round;                /* number of the last answer asked for */
	bool told_to_run;              /* "mig.run" was sent, or may have been */
	bool runs_there;               /* the other end has said so */
	struct migrate_progress progress;
	void (*seen)(void *ctx, const struct migrate_progress *p);
	void *seen_ctx;
};

int64_t source_now(const struct migrate_source *s);
/* Brings the progress up to date and tells of it. */
void source_tell(struct migrate_source *s, enum migrate_phase phase);
/* Connects, says hello and gets the other end's standing. */
int source_connect(struct migrate_source *s, enum migrate_hello_kind kind, struct migrate_welcome *w,
		   struct error *err);
void source_disconnect(struct migrate_source *s);
int source_start_writer(struct migrate_source *s, struct error *err);
/* Adds one page to the batch that goes out next. */
int source_put_page(struct migrate_source *s, uint64_t page, struct error *err);
/* Sends what there is and waits until the other end has it. */
int source_await_round(struct migrate_source *s, struct error *err);

/* Sends what there is of disks that go along. Nothing if none do. */
int source_send_disks(struct migrate_source *s, bool *any, struct error *err);

/* migrate_precopy.c: memory goes over while the VM runs. @follow: post-copy has to do the rest. */
int source_precopy(struct migrate_source *s, bool *follow, struct error *err);
/* Sends all pages of s->send. Those written meanwhile are left out if @peek, and stay in s->dirty. */
int source_send_pages(struct migrate_source *s, bool peek, struct error *err);

/* migrate_postcopy.c: pages are pushed, those that are asked for first, until the other end has all. */
int source_push(struct migrate_source *s, struct error *err);

#endif
