/*
 * Memory pages in a stream: sections "pages", each with up to PAGES_BATCH of them, and "pages.zstd", the same with the
 * data compressed, all of a section together. Pages of zeros have no data, nor has one that repeats another.
 *
 *	u32 count, u32 checksum of the table: the low half of XXH3 of all entries
 *	count times: u64 page, u8 kind, 3 x u8 0, u32 bytes of data
 *	the data, one behind the other
 *
 * The table has a checksum of its own because it is read alone, long before the data: see state_file_index(). Later
 * pages of the same number replace earlier ones.
 */
#ifndef GNOMON_VM_PAGES_H
#define GNOMON_VM_PAGES_H

#include "arch/addr.h"
#include "vm/stream.h"

#define PAGES_BATCH 256
#define PAGES_CHAINS 512

enum page_kind {
	PAGE_ZERO = 0,
	PAGE_RAW = 1,  /* 4096 bytes */
	PAGE_SAME = 2, /* u64: the number of an earlier page of this section, which is RAW */
};

#define PAGES_ENTRY_BYTES  16
#define PAGES_TABLE_BYTES(n) (8 + (uint64_t)(n) * PAGES_ENTRY_BYTES)
/* No section of pages is longer; zstd makes data that it cannot compress a little longer. */
#define PAGES_SECTION_MAX (PAGES_TABLE_BYTES(PAGES_BATCH) + (uint64_t)PAGES_BATCH * PAGE_SIZE * 65 / 64)

struct pages_writer {
	struct stream_writer *stream;
	int compress;           /* zstd level, 0: not */
	void *zstd;             /* ZSTD_CCtx */
	unsigned count;
	size_t data_bytes;
	struct { uint64_t page, sample; uint32_t data_at; uint16_t next; uint8_t kind; } entry[PAGES_BATCH];
	uint16_t first[PAGES_CHAINS]; /* entries with data by their sample: number + 1, 0 ends; as .next */
	uint8_t *table, *data, *packed;
	uint64_t pages, zero, same; /* what went in so far */
};

/* @compress: zstd level from 1 on; 0 for none. -ENOMEM. */
int pages_writer_init(struct pages_writer *w, struct stream_writer *stream, int compress, struct error *err);
void pages_writer_fini(struct pages_writer *w);
/*
 * Adds a page; a full batch is written. @data: PAGE_SIZE bytes, or NULL for zeros. They need not be copied if they are
 * in pages_room(), where there is room for one page until the next one is added.
 */
uint8_t *pages_room(struct pages_writer *w);
int pages_put(struct pages_writer *w, uint64_t page, const uint8_t *data, struct error *err);
/* Writes what has been added. */
int pages_flush(struct pages_writer *w, struct error *err);
/* Are the PAGE_SIZE bytes, aligned by 8, all zeros? */
bool pages_is_zero(const uint8_t *data);

/* What a section of pages holds, checked: every number below @limit, all data inside, repetitions resolved. */
struct pages {
	unsigned count;
	struct { uint64_t page; const uint8_t *data; } entry[PAGES_BATCH]; /* data: PAGE_SIZE bytes; NULL: zeros */
	uint8_t *unpacked; /* data of a compressed section */
};
static inline bool pages_is_section(const char *name) { return !strncmp(name, "pages", 5) && (!name[5] || !strcmp(name + 5, ".zstd")); }
/*
 * The table at the beginning of a section of @bytes bytes: has it a number of entries that fits, and their checksum?
 * @table: min(@bytes, PAGES_TABLE_BYTES(PAGES_BATCH)) of them. Returns how many entries there are, or
 * -EBADMSG as pages_parse() does.
 */
int pages_check_table(const uint8_t *table, uint64_t bytes, const char *what, struct error *err);
/*
 * @p points into the section's data, and is for pages_free() whatever is returned.
 * @limit: pages that there are. -EBADMSG with @err, whose line begins with @what; -ENOMEM.
 */
int pages_parse(struct pages *p, const struct stream_section *section, uint64_t limit, const char *what,
		struct error *err);
void pages_free(struct pages *p);

#endif
