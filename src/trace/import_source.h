/*
 * Where imported traces come from: a file, a pipe or memory, plain, gzip or xz (found out by content), as one stream
 * of bytes of which a window is visible. Constant memory whatever the input says: windows are of fixed size, and the
 * xz decoder refuses streams that need more than IMPORT_XZ_MEMORY.
 */
#ifndef GNOMON_TRACE_IMPORT_SOURCE_H
#define GNOMON_TRACE_IMPORT_SOURCE_H

#include "base/error.h"
#include "base/util.h"

#define IMPORT_WINDOW    ((size_t)1 << 18) /* bytes that import_source_want() can make visible at once */
#define IMPORT_XZ_MEMORY ((uint64_t)256 << 20) /* xz -9 needs 65 MiB */

struct import_source;

/*
 * Opens a file; "-" is standard input. -errno of the host; -EBADMSG: it is an archive of a kind that is not read here.
 * *out is NULL on error.
 */
int import_source_open(struct import_source **out, const char *path, struct error *err);
/* The same of bytes in memory, which outlive the source. @name is what errors call it. */
int import_source_open_memory(struct import_source **out, const void *data, size_t bytes, const char *name,
			      struct error *err);
void import_source_close(struct import_source *s);

/*
 * Makes the next bytes visible, without taking them: up to @bytes (1 to IMPORT_WINDOW), fewer only at the end.
 * Returns how many are, at least what was asked for if there are as many; 0 at the end. -EBADMSG: what is compressed
 * is damaged or cut off; -ENOMEM, -EIO ...
 * @data: where they are, until the next call
 */
int64_t import_source_want(struct import_source *s, size_t bytes, const uint8_t **data, struct error *err);
/* Takes @bytes of those that are visible. */
void import_source_take(struct import_source *s, size_t bytes);

const char *import_source_name(const struct import_source *s);
/* How many bytes were taken: the offset in the trace as it is without compression. */
uint64_t import_source_offset(const struct import_source *s);
/* "FILE: offset N: ..." with -EBADMSG: @at bytes behind what was taken the input makes no sense. */
int import_source_bad(const struct import_source *s, size_t at, struct error *err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif
