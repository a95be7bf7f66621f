/*
 * The destination of post-copy between the connection and the VM: pages that have arrived and are not in the VM's
 * memory yet, and pages that somebody waits for. One thread receives, any may fetch. Until the VM runs all pages that
 * come stay here, since which of them are good is known last.
 */
#ifndef GNOMON_VM_MIGRATE_INCOMING_H
#define GNOMON_VM_MIGRATE_INCOMING_H

#include "arch/addr.h"
#include "base/error.h"
#include "base/util.h"

struct migrate_incoming;
/* Of @pages pages, none of which has come. -ENOMEM, -EMFILE. */
int incoming_create(struct migrate_incoming **out, uint64_t pages, struct error *err);
void incoming_free(struct migrate_incoming *l);
/*
 * Before the VM runs: what has come of the pages in @absent is out of date, they will come again; what has not come of
 * the others are zeros.
 */
void incoming_settle(struct migrate_incoming *l, const uint64_t *absent);
/* After that: adds the pages that are not zeros as far as is known. */
void incoming_not_zero(struct migrate_incoming *l, uint64_t *bitmap);

/* ---- the receiver ---- */

/* A page has come; NULL: zeros. Once settled, one that is there already is dropped. */
void incoming_put(struct migrate_incoming *l, uint64_t page, const uint8_t *data);
/* The next page that is to be asked for. False if there is none. */
bool incoming_next_request(struct migrate_incoming *l, uint64_t *page);
/* Readable when there is one. */
int incoming_wake_fd(const struct migrate_incoming *l);
/* After the connection was lost: what was asked for has to be asked for again. */
void incoming_ask_again(struct migrate_incoming *l);
uint64_t incoming_left(struct migrate_incoming *l);      /* pages that have not come */
uint64_t incoming_demanded(struct migrate_incoming *l);
/* Copies the bitmap of pages that have not come. */
void incoming_absent(struct migrate_incoming *l, uint64_t *bitmap);
/* No more will come: who waits, and who fetches a page that is not there, gets -EIO. */
void incoming_give_up(struct migrate_incoming *l);

/* ---- the VM ---- */

/*
 * For struct engine_source, @ctx being the struct migrate_incoming. A copy: it may be fetched again. -EIO: it will not
 * come.
 */
int incoming_fetch(void *ctx, uint64_t page, uint8_t data[PAGE_SIZE]);
/* A page that has come and was not forgotten; the next time another one, if there is. False if there is none. */
bool incoming_next(struct migrate_incoming *l, uint64_t *page);
/* The page is in the VM's memory: it will not be fetched any more. */
void incoming_forget(struct migrate_incoming *l, uint64_t page);

#endif
