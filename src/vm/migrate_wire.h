/*
 * What the two ends of a migration say to each other: sections of a stream (vm/stream.h) in each direction. Those of
 * the protocol have names that begin with "mig."; pages and the VM's state have their own. docs/migration.md lists
 * them.
 */
#ifndef GNOMON_VM_MIGRATE_WIRE_H
#define GNOMON_VM_MIGRATE_WIRE_H

#include "base/bitmap.h"
#include "vm/migrate.h"
#include "vm/stream.h"

#define MIGRATE_VERSION 1u

enum { /* capabilities of an end */
	MIGRATE_CAN_ZSTD = 1,
	MIGRATE_CAN_POSTCOPY = 2,
	MIGRATE_CAN_VERIFY = 4,
};

enum migrate_hello_kind {
	MIGRATE_NEW, /* here comes a VM */
	MIGRATE_ASK, /* what has become of the one with this token? */
	MIGRATE_FORGET, /* it stays at the source: drop it, if it waits for "run" */
	MIGRATE_HELLOS,
};
struct migrate_hello {
	uint32_t version, kind;
	uint64_t capabilities;
	uint8_t token[MIGRATE_TOKEN_BYTES];
};

/* How it is with a token at the destination; told in answer to every hello. */
enum migrate_standing {
	MIGRATE_WELCOME, /* a new one: go on */
	MIGRATE_UNKNOWN, /* never heard of, by this process */
	MIGRATE_READY,   /* all has arrived, and waits for "run" */
	MIGRATE_RUNNING, /* it runs, or ran */
	MIGRATE_DROPPED, /* it has not run here and never will */
	MIGRATE_STANDINGS,
};
struct migrate_welcome {
	uint32_t version, standing;
	uint64_t capabilities;
};

struct migrate_link {
	struct transport *t;
	struct stream_writer out;
	struct stream_reader in;
	bool reading; /* the other end's header was read */
};

/* The connection becomes the link's, whatever is returned. */
int migrate_link_open(struct migrate_link *l, struct transport *t, struct error *err);
/* May be repeated. */
void migrate_link_close(struct migrate_link *l);
int migrate_put(struct migrate_link *l, const char *name, const void *data, size_t bytes, struct error *err);
/* The same and off it goes. */
int migrate_send(struct migrate_link *l, const char *name, const void *data, size_t bytes, struct error *err);
int migrate_flush(struct migrate_link *l, struct error *err);
/* The next section; a refusal is an error with the other end's words. -EPROTO: the stream ends. */
int migrate_get(struct migrate_link *l, struct stream_section *s, struct error *err);
/* ... which has to be @name, with @bytes of payload. */
int migrate_expect(struct migrate_link *l, const char *name, size_t bytes, struct stream_section *s, struct error *err);
/* -EPROTO with a line on what came. */
int migrate_unexpected(const struct migrate_link *l, const struct stream_section *s, const char *instead_of,
		       struct error *err);
/* Tells the other end why not. */
void migrate_refuse(struct migrate_link *l, const char *why);

int migrate_put_hello(struct migrate_link *l, const struct migrate_hello *h, struct error *err);
int migrate_get_hello(struct migrate_link *l, struct migrate_hello *h, struct error *err);
int migrate_put_welcome(struct migrate_link *l, const struct migrate_welcome *w, struct error *err);
int migrate_get_welcome(struct migrate_link *l, struct migrate_welcome *w, struct error *err);

/* Messages that are a token: "mig.ready", "mig.run", "mig.running", "mig.done". */
int migrate_send_token(struct migrate_link *l, const char *name, const uint8_t token[MIGRATE_TOKEN_BYTES],
		       struct error *err);
/* -EPROTO for another token. */
int migrate_expect_token(struct migrate_link *l, const char *name, const uint8_t token[MIGRATE_TOKEN_BYTES],
			 struct error *err);

/* A bitmap of pages as sections @name: u64 number of its first word, words. Of zeros nothing is sent. */
int migrate_put_bitmap(struct migrate_link *l, const char *name, const uint64_t *bitmap, uint64_t words,
		       struct error *err);
/* Adds one such section to a bitmap of @pages pages. -EPROTO: there are no such pages. */
int migrate_add_bitmap(const struct migrate_link *l, const struct stream_section *s, uint64_t *bitmap, uint64_t pages,
		       struct error *err);

#endif
