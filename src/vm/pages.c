#include "vm/pages.h"

#include <errno.h>
#include <stdlib.h>
#include <xxhash.h>
#include <zstd.h>

#define ENTRY_BYTES PAGES_ENTRY_BYTES
#define TABLE_BYTES(n) ((size_t)PAGES_TABLE_BYTES(n))
#define TABLE_ROOM ((TABLE_BYTES(PAGES_BATCH) + PAGE_SIZE - 1) & PAGE_MASK)
/* Of pages with the same sample so many are compared: a guest can make many of them. */
#define COMPARED_MAX 8

static uint32_t table_sum(const uint8_t *table, unsigned count)
{
	return (uint32_t)XXH3_64bits(table + 8, (size_t)count * ENTRY_BYTES);
}

/* ---- writing ---- */

int pages_writer_init(struct pages_writer *w, struct stream_writer *stream, int compress, struct error *err)
{
	*w = (struct pages_writer){.stream = stream, .compress = compress};
	/* The table is made when it is known how long it is, right before the data, which begins on a page. */
	w->table = aligned_alloc(PAGE_SIZE, TABLE_ROOM + PAGES_BATCH * PAGE_SIZE);
	w->data = w->table ? w->table + TABLE_ROOM : NULL;
	if (compress) {
		w->packed = malloc(ZSTD_compressBound(PAGES_BATCH * PAGE_SIZE));
		w->zstd = ZSTD_createCCtx();
	}
	if (w->table && (!compress || (w->packed && w->zstd)))
		return 0;
	pages_writer_fini(w);
	return error_set(err, -ENOMEM, "out of memory");
}

void pages_writer_fini(struct pages_writer *w)
{
	free(w->table);
	free(w->packed);
	ZSTD_freeCCtx(w->zstd);
	w->table = w->packed = NULL;
	w->zstd = NULL;
}

bool pages_is_zero(const uint8_t *data)
{
	const uint64_t *q = (const void *)data;
	uint64_t any = 0;

	for (unsigned i = 0; i < PAGE_SIZE / 8 && !any; i += 8)
		any = q[i] | q[i + 1] | q[i + 2] | q[i + 3] | q[i + 4] | q[i + 5] | q[i + 6] | q[i + 7];
	return !any;
}

/* A word of every cache line, mixed: pages that differ mostly differ in it, at a fraction of what a hash costs. */
static uint64_t sample_of(const uint8_t *data)
{
	const uint64_t *q = (const void *)data;
	uint64_t s[4] = {0};

	for (unsigned i = 0; i < PAGE_SIZE / 8; i += 32)
		for (unsigned k = 0; k < 4; k++)
			s[k] = (s[k] ^ q[i + 8 * k + (i / 32 + k) % 8]) * 0x9e3779b97f4a7c15;
	s[0] ^= s[1] >> 32 ^ s[2] >> 16 ^ s[3] >> 48;
	return (s[0] ^ s[1] ^ s[2] ^ s[3]) * 0x9e3779b97f4a7c15;
}

static uint16_t *chain_of(struct pages_writer *w, uint64_t sample) { return &w->first[sample >> 32 & (PAGES_CHAINS - 1)]; }

/* An entry of the batch with the same contents, or -1. */
static int find_same(struct pages_writer *w, uint64_t sample, const uint8_t *data)
{
	unsigned compared = 0;

	for (unsigned n = *chain_of(w, sample); n && compared < COMPARED_MAX; n = w->entry[n - 1].next) {
		if (w->entry[n - 1].sample != sample)
			continue;
		compared++;
		if (!memcmp(w->data + w->entry[n - 1].data_at, data, PAGE_SIZE))
			return (int)n - 1;
	}
	return -1;
}

uint8_t *pages_room(struct pages_writer *w) { return w->data + w->data_bytes; }

/* The page has data: puts them, or the number of a page that has the same, at the end of the batch. */
static void put_data(struct pages_writer *w, unsigned n, const uint8_t *data)
{
	uint64_t sample = sample_of(data);
	uint8_t *room = pages_room(w);
	int same = find_same(w, sample, data);

	w->entry[n].kind = same < 0 ? PAGE_RAW : PAGE_SAME;
	if (same >= 0) {
		put_u64(room, w->entry[same].page);
		w->data_bytes += 8;
		return;
	}
	if (data != room)
		memcpy(room, data, PAGE_SIZE);
	w->data_bytes += PAGE_SIZE;
	w->entry[n].sample = sample;
	w->entry[n].next = *chain_of(w, sample);
	*chain_of(w, sample) = (uint16_t)(n + 1);
}

int pages_put(struct pages_writer *w, uint64_t page, const uint8_t *data, struct error *err)
{
	unsigned n = w->count;

	w->entry[n].page = page;
	w->entry[n].kind = PAGE_ZERO;
	w->entry[n].data_at = (uint32_t)w->data_bytes;
	if (data && !pages_is_zero(data))
		put_data(w, n, data);
	w->pages++;
	w->zero += w->entry[n].kind == PAGE_ZERO;
	w->same += w->entry[n].kind == PAGE_SAME;
	return ++w->count == PAGES_BATCH ? pages_flush(w, err) : 0;
}

static uint32_t bytes_of(uint8_t kind) { return kind == PAGE_RAW ? PAGE_SIZE : kind == PAGE_SAME ? 8 : 0; }

/* Puts the table right before the data. */
static uint8_t *write_table(struct pages_writer *w)
{
	uint8_t *at = w->data - TABLE_BYTES(w->count), *e = at + 8;

	put_u32(at, w->count);
	for (unsigned i = 0; i < w->count; i++, e += ENTRY_BYTES) {
		put_u64(e, w->entry[i].page);
		put_u32(e + 8, w->entry[i].kind);
		put_u32(e + 12, bytes_of(w->entry[i].kind));
	}
	put_u32(at + 4, table_sum(at, w->count));
	return at;
}

int pages_flush(struct pages_writer *w, struct error *err)
{
	size_t table_bytes = TABLE_BYTES(w->count), bytes = w->data_bytes, packed;
	const uint8_t *table;

	if (!w->count)
		return 0;
	table = write_table(w);
	w->count = 0;
	w->data_bytes = 0;
	memset(w->first, 0, sizeof(w->first));
	if (!w->compress || !bytes)
		return stream_put(w->stream, "pages", table, table_bytes + bytes, err);
	packed = ZSTD_compressCCtx(w->zstd, w->packed, ZSTD_compressBound(bytes), w->data, bytes, w->compress);
	if (ZSTD_isError(packed))
		return error_set(err, -EIO, "zstd: %s", ZSTD_getErrorName(packed));
	return stream_put2(w->stream, "pages.zstd", table, table_bytes, w->packed, packed, err);
}

/* ---- reading ---- */

static int bad(const char *what, const char *why, struct error *err)
{
	return error_set(err, -EBADMSG, "%s: damaged section of memory pages: %s", what, why);
}

/* The page's data in the section, PAGE_SIZE bytes; an earlier entry of the section has it. */
static const uint8_t *earlier(const struct pages *p, unsigned before, uint64_t page)
{
	for (unsigned i = before; i-- > 0;)
		if (p->entry[i].page == page)
			return p->entry[i].data;
	return NULL;
}

/* @bytes: as the table says, so no more than a batch has */
static int unpack(struct pages *p, const uint8_t *data, size_t packed, size_t bytes, const char *what, struct error *err)
{
	size_t got;

	p->unpacked = malloc(bytes ? bytes : 1);
	if (!p->unpacked)
		return error_set(err, -ENOMEM, "%s: out of memory", what);
	got = ZSTD_decompress(p->unpacked, bytes, data, packed);
	return ZSTD_isError(got) || got != bytes ? bad(what, "it does not unpack", err) : 0;
}

/* Takes one entry; @data is at its bytes, of which there are @left. */
static int parse_entry(struct pages *p, unsigned i, const uint8_t *e, const uint8_t *data, size_t left, uint64_t limit,
		       const char *what, struct error *err)
{
	uint32_t kind = get_u32(e + 8), bytes = get_u32(e + 12);

	p->entry[i].page = get_u64(e);
	p->entry[i].data = NULL;
	if (p->entry[i].page >= limit)
		return bad(what, "a page beyond the end of memory", err);
	if (kind > PAGE_SAME || bytes != bytes_of((uint8_t)kind) || bytes > left)
		return bad(what, "data of a wrong length", err);
	if (kind == PAGE_RAW)
		p->entry[i].data = data;
	if (kind == PAGE_SAME) {
		p->entry[i].data = earlier(p, i, get_u64(data));
		if (!p->entry[i].data)
			return bad(what, "it repeats a page that is not there", err);
	}
	return 0;
}

/* Bytes of data that the table's entries have together. */
static size_t data_bytes(const uint8_t *table, unsigned count)
{
	size_t n = 0;

	for (unsigned i = 0; i < count; i++)
		n += min_u64(get_u32(table + 8 + i * ENTRY_BYTES + 12), PAGE_SIZE);
	return n;
}

int pages_check_table(const uint8_t *table, uint64_t bytes, const char *what, struct error *err)
{
	uint32_t count = bytes < 8 ? 0 : get_u32(table);

	if (!count || count > PAGES_BATCH || bytes < TABLE_BYTES(count) || bytes > PAGES_SECTION_MAX)
		return bad(what, "a table of a wrong length", err);
	if (get_u32(table + 4) != table_sum(table, count))
		return bad(what, "the checksum of its table is wrong", err);
	return (int)count;
}

int pages_parse(struct pages *p, const struct stream_section *section, uint64_t limit, const char *what,
		struct error *err)
{
	const uint8_t *table = section->data, *data, *end;
	unsigned count;
	int r = pages_check_table(table, section->bytes, what, err);

	p->count = 0;
	p->unpacked = NULL;
	if (r < 0)
		return r;
	count = (unsigned)r;
	data = table + TABLE_BYTES(count);
	end = table + section->bytes;
	if (section->name[5]) {
		r = unpack(p, data, (size_t)(end - data), data_bytes(table, count), what, err);
		if (r)
			return r;
		data = p->unpacked;
		end = data + data_bytes(table, count);
	}
	for (unsigned i = 0; i < count; i++) {
		const uint8_t *e = table + 8 + i * ENTRY_BYTES;

		r = parse_entry(p, i, e, data, (size_t)(end - data), limit, what, err);
		if (r)
			return r;
		data += get_u32(e + 12);
	}
	p->count = count;
	return data == end ? 0 : bad(what, "data behind the last page", err);
}

void pages_free(struct pages *p)
{
	free(p->unpacked);
	p->unpacked = NULL;
}
