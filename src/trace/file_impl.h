/* What writer and reader of trace files share: the blocks that a file is made of (docs/FORMATS.md). */
#ifndef GNOMON_TRACE_FILE_IMPL_H
#define GNOMON_TRACE_FILE_IMPL_H

#include "base/state.h"
#include "trace/codec.h"
#include "trace/file.h"

#define FILE_MAGIC      "GNOMONTR"
#define FILE_VERSION    1u
#define FILE_HEAD_BYTES 16u /* magic, version (4), 0 (4) */
#define FILE_END_MAGIC  "GNOMTEND"
#define FILE_END_BYTES  16u /* offset of the index (8), magic */

/* BLOCK_INDEX_PARTIAL: the index of a trace that lacks what should come behind its last event. */
enum block_type { BLOCK_INFO = 1, BLOCK_EVENTS = 2, BLOCK_INDEX = 3, BLOCK_INDEX_PARTIAL = 4 };

#define BLOCK_HEAD_BYTES 48u
#define BLOCK_RAW_MAX    FRAME_RAW_MAX
#define BLOCK_STORED_MAX (BLOCK_RAW_MAX + BLOCK_RAW_MAX / 128)

/* Opens each block. Encoded in this order, little-endian; behind it the payload, one zstd frame. */
struct block {
	uint32_t type, stored, raw; /* bytes of the payload, and when it is decompressed */
	uint32_t count;             /* of events, of entries */
	uint64_t events, insns;     /* before it */
	uint64_t payload_sum;       /* XXH3 (64 bits) of the stored payload */
	/* Then 8 bytes: XXH3 of the 40 before. */
};

/* An entry of the index: where a frame of events is, and what is before it. */
struct index_entry {
	uint64_t at, events, insns;
};
#define INDEX_ENTRY_BYTES 24u
#define INDEX_ENTRIES_MAX 65536u

/* Room for @n bytes in @b, whose contents are lost. @path: for the message. -ENOMEM. */
int file_reserve(const char *path, struct bytes *b, size_t n, struct error *err);

/* How struct trace_info is saved, and checked when it is loaded. */
extern const struct state_desc trace_info_desc;

#endif
