/* Reading traces, from files and pipes. Nothing is believed: every block is bounded and has checksums. */
#include "trace/file_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#define BATCH 2048u

struct trace_reader {
	char *path;
	int fd;
	bool regular;               /* it can be read anywhere */
	uint64_t size;              /* of a regular file */
	uint64_t at, first_at;      /* bytes read; where the first block of events is */
	uint64_t block_at;          /* the block at hand */
	struct trace_info info;
	ZSTD_DCtx *zstd;
	struct bytes raw, stored;
	struct decoder decoder;
	bool in_frame, over;
	uint64_t frame_insns;       /* before the frame at hand */
	uint64_t events, insns;     /* decoded */
	struct trace_event *ev;     /* [BATCH] */
	unsigned n, given;          /* in the batch; of them passed over or given out */
	uint64_t batch_event, batch_insns;   /* of its first */
	uint64_t given_event, given_insns;   /* of what trace_next() gave out last */
	struct trace_totals totals; /* if there is an index */
	bool has_index;
	bool partial;               /* an index said so */
	struct index_entry *index;
	unsigned entries;
	struct error failed;        /* comes again */
};

/* Something is wrong with the file at @at. */
static int bad(const struct trace_reader *r, uint64_t at, const char *why, struct error *err)
{
	return error_set(err, -EBADMSG, "%s: %llu: %s", r->path, (unsigned long long)at, why);
}

static bool is_index(const struct block *b) { return b->type == BLOCK_INDEX || b->type == BLOCK_INDEX_PARTIAL; }

/* ---- bytes ---- */

/* Up to @n bytes, fewer only at the end of the file; *got says how many. */
static int read_some(struct trace_reader *r, void *data, size_t n, size_t *got, struct error *err)
{
	*got = 0;
	while (*got < n) {
		uint8_t *p = (uint8_t *)data + *got;
		ssize_t done = r->regular ? pread(r->fd, p, n - *got, (off_t)r->at) : read(r->fd, p, n - *got);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return error_set(err, -errno, "%s: cannot be read: %m", r->path);
		if (!done)
			break;
		*got += (size_t)done;
		r->at += (uint64_t)done;
	}
	return 0;
}

static int read_all(struct trace_reader *r, void *data, size_t n, struct error *err)
{
	size_t got;

	if (read_some(r, data, n, &got, err))
		return err->code;
	return got == n ? 0 : bad(r, r->at, "the trace is cut off here", err);
}

/* ---- blocks ---- */

static int read_block_head(struct trace_reader *r, struct block *b, struct error *err)
{
	uint8_t head[BLOCK_HEAD_BYTES];

	r->block_at = r->at;
	if (read_all(r, head, sizeof(head), err))
		return err->code;
	*b = (struct block){.type = get_u32(head), .stored = get_u32(head + 4), .raw = get_u32(head + 8),
			    .count = get_u32(head + 12), .events = get_u64(head + 16), .insns = get_u64(head + 24),
			    .payload_sum = get_u64(head + 32)};
	if (get_u64(head + 40) != XXH3_64bits(head, 40))
		return bad(r, r->block_at, "the head of a block is damaged", err);
	if (b->stored > BLOCK_STORED_MAX || b->raw > BLOCK_RAW_MAX)
		return bad(r, r->block_at, "a block is larger than any may be", err);
	return 0;
}

/* What is in a block, to r->raw. */
static int read_block(struct trace_reader *r, const struct block *b, struct error *err)
{
	size_t n;

	if (file_reserve(r->path, &r->stored, b->stored + 1u, err) || read_all(r, r->stored.data, b->stored, err))
		return err->code;
	if (XXH3_64bits(r->stored.data, b->stored) != b->payload_sum)
		return bad(r, r->block_at, "a block is damaged", err);
	if (file_reserve(r->path, &r->raw, b->raw + DECODE_PADDING, err))
		return err->code;
	n = ZSTD_decompressDCtx(r->zstd, r->raw.data, b->raw, r->stored.data, b->stored);
	if (ZSTD_isError(n) || n != b->raw)
		return bad(r, r->block_at, "a block cannot be decompressed to what it should be", err);
	memset(r->raw.data + b->raw, 0, DECODE_PADDING);
	r->raw.n = n;
	return 0;
}

/* ---- the beginning ---- */

static int read_info(struct trace_reader *r, struct error *err)
{
	struct error why;
	struct block b;

	if (read_block_head(r, &b, err))
		return err->code;
	if (b.type != BLOCK_INFO)
		return bad(r, r->block_at, "the first block does not say what the trace is", err);
	if (read_block(r, &b, err))
		return err->code;
	if (state_load(&trace_info_desc, &r->info, r->raw.data, r->raw.n, &why))
		return bad(r, r->block_at, why.text, err);
	r->first_at = r->at;
	return 0;
}

static int read_head(struct trace_reader *r, struct error *err)
{
	uint8_t head[FILE_HEAD_BYTES];
	size_t got;

	if (read_some(r, head, sizeof(head), &got, err))
		return err->code;
	if (got < sizeof(head) || memcmp(head, FILE_MAGIC, 8) != 0)
		return bad(r, 0, "this is no trace", err);
	if (get_u32(head + 8) != FILE_VERSION || get_u32(head + 12))
		return bad(r, 8, "a trace of a version that is not known", err);
	return read_info(r, err);
}

/* ---- the end ---- */

/* The entries of the index, whose block is in r->raw. */
static bool take_index(struct trace_reader *r, const struct block *b)
{
	const uint8_t *p = r->raw.data;

	if (r->raw.n != (size_t)b->count * INDEX_ENTRY_BYTES)
		return false;
	r->index = malloc(b->count * sizeof(*r->index) + 1);
	for (; r->index && r->entries < b->count; r->entries++, p += INDEX_ENTRY_BYTES)
		r->index[r->entries] = (struct index_entry){get_u64(p), get_u64(p + 8), get_u64(p + 16)};
	return r->index;
}

/* What the end says, if there is one; nothing is wrong if not. Reading in order will say what is. */
static void find_index(struct trace_reader *r)
{
	const uint64_t was = r->at;
	uint8_t end[FILE_END_BYTES];
	struct error ignored;
	struct block b;

	if (!r->regular || r->size < r->first_at + BLOCK_HEAD_BYTES + FILE_END_BYTES)
		return;
	r->at = r->size - FILE_END_BYTES;
	if (!read_all(r, end, sizeof(end), &ignored) && !memcmp(end + 8, FILE_END_MAGIC, 8) &&
	    get_u64(end) >= r->first_at && get_u64(end) < r->size) {
		r->at = get_u64(end);
		if (!read_block_head(r, &b, &ignored) && is_index(&b) && b.count <= INDEX_ENTRIES_MAX &&
		    r->at + b.stored + FILE_END_BYTES == r->size && !read_block(r, &b, &ignored) && take_index(r, &b)) {
			r->totals = (struct trace_totals){b.events, b.insns, r->size};
			r->has_index = true;
			r->partial = b.type == BLOCK_INDEX_PARTIAL;
		}
	}
	r->at = was;
}

/* The block of the index is at hand. Then the file must be over. */
static int finish(struct trace_reader *r, const struct block *b, struct error *err)
{
	const uint64_t index_at = r->block_at;
	uint8_t end[FILE_END_BYTES + 1];
	size_t got;

	if (read_block(r, b, err) || read_some(r, end, sizeof(end), &got, err))
		return err->code;
	if (got < FILE_END_BYTES)
		return bad(r, r->at, "the trace is cut off here", err);
	if (got > FILE_END_BYTES || get_u64(end) != index_at || memcmp(end + 8, FILE_END_MAGIC, 8) != 0)
		return bad(r, r->at - got, "the end of the trace is damaged", err);
	r->over = true;
	r->partial = b->type == BLOCK_INDEX_PARTIAL;
	return 0;
}

/* ---- batches ---- */

/* The next frame, or the end (r->over). */
static int next_frame(struct trace_reader *r, struct error *err)
{
	const char *why;
	struct block b;

	if (read_block_head(r, &b, err))
		return err->code;
	if ((b.type != BLOCK_EVENTS || !b.count) && !is_index(&b))
		return bad(r, r->block_at, "a block of unknown type", err);
	if (b.events != r->events || b.insns != r->insns)
		return bad(r, r->block_at, "a block says that other events are before it than there are", err);
	if (is_index(&b))
		return finish(r, &b, err);
	if (read_block(r, &b, err))
		return err->code;
	why = decoder_begin(&r->decoder, r->raw.data, r->raw.n, b.count);
	if (why)
		return bad(r, r->block_at, why, err);
	r->in_frame = true;
	r->frame_insns = r->insns;
	return 0;
}

/* The next batch: 1, 0 at the end, or an error. */
static int fill(struct trace_reader *r, struct error *err)
{
	const char *why;

	r->n = r->given = 0;
	if (r->failed.code)
		return error_set(err, r->failed.code, "%s", r->failed.text);
	while (!r->in_frame && !r->over)
		if (next_frame(r, &r->failed))
			return error_set(err, r->failed.code, "%s", r->failed.text);
	r->batch_event = r->events;
	r->batch_insns = r->insns;
	if (r->over)
		return 0;
	r->n = decode(&r->decoder, r->ev, BATCH, &why);
	r->events += r->n;
	r->insns = r->frame_insns + r->decoder.insns;
	r->in_frame = !decoder_is_done(&r->decoder);
	if (why) {
		char text[128];

		snprintf(text, sizeof(text), "event %llu: %s", (unsigned long long)r->events, why);
		bad(r, r->block_at, text, &r->failed);
	}
	return r->n ? 1 : error_set(err, r->failed.code, "%s", r->failed.text);
}

int trace_next(struct trace_reader *r, const struct trace_event **ev, unsigned *n, struct error *err)
{
	if (r->given == r->n) {
		int ret = fill(r, err);

		if (ret <= 0) {
			r->given_event = r->events;
			r->given_insns = r->insns;
			return ret;
		}
	}
	r->given_event = r->batch_event;
	r->given_insns = r->batch_insns;
	for (unsigned i = 0; i < r->given; i++) {
		r->given_event++;
		r->given_insns += r->ev[i].kind == TRACE_INSNS ? r->ev[i].value : 0;
	}
	*ev = r->ev + r->given;
	*n = r->n - r->given;
	r->given = r->n;
	return 1;
}

/* ---- seeking ---- */

/* What is decoded next is the block at @to. */
static void jump(struct trace_reader *r, const struct index_entry *to)
{
	r->at = to->at;
	r->events = to->events;
	r->insns = to->insns;
	r->n = r->given = 0;
	r->in_frame = r->over = false;
	r->failed = (struct error){0};
}

static bool is_before(const struct index_entry *e, bool by_insns, uint64_t target)
{
	return by_insns ? e->insns < target : e->events <= target;
}

/* Where to begin to look: the frame at hand if that is not behind the target, or another. */
static int approach(struct trace_reader *r, bool by_insns, uint64_t target, struct error *err)
{
	const struct index_entry first = {.at = r->first_at};
	const struct index_entry here = {r->at, r->batch_event, r->batch_insns};
	const struct index_entry *best = &first;
	unsigned low = 0, high;

	for (high = r->entries; low < high;) {
		unsigned middle = (low + high) / 2;

		if (is_before(&r->index[middle], by_insns, target)) {
			best = &r->index[middle];
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	if (!r->failed.code && (is_before(&here, by_insns, target) || !here.events) && best->events <= r->events)
		return 0;
	if (!r->regular)
		return r->failed.code ? error_set(err, r->failed.code, "%s", r->failed.text) :
		       error_set(err, -ESPIPE, "%s: a pipe cannot be read backward", r->path);
	jump(r, best);
	return 0;
}

static int seek(struct trace_reader *r, bool by_insns, uint64_t target, struct error *err)
{
	int ret = approach(r, by_insns, target, err);
	uint64_t events, insns;

	if (ret)
		return ret;
	r->given = 0; /* the batch at hand is looked at from its beginning */
	while (r->n || (ret = fill(r, err)) > 0) {
		events = r->batch_event;
		insns = r->batch_insns;
		for (r->given = 0; r->given < r->n; r->given++) {
			if (by_insns ? insns >= target : events >= target)
				return 0;
			events++;
			insns += r->ev[r->given].kind == TRACE_INSNS ? r->ev[r->given].value : 0;
		}
		r->n = 0;
	}
	return ret;
}

int trace_seek_event(struct trace_reader *r, uint64_t event, struct error *err) { return seek(r, false, event, err); }
int trace_seek_insns(struct trace_reader *r, uint64_t insns, struct error *err) { return seek(r, true, insns, err); }

/* ---- the reader ---- */

const struct trace_info *trace_reader_info(const struct trace_reader *r) { return &r->info; }
const char *trace_reader_path(const struct trace_reader *r) { return r->path; }
uint64_t trace_reader_event(const struct trace_reader *r) { return r->given_event; }
uint64_t trace_reader_insns(const struct trace_reader *r) { return r->given_insns; }
uint64_t trace_reader_bytes(const struct trace_reader *r) { return r->at; }

bool trace_reader_is_partial(const struct trace_reader *r) { return r->partial; }

bool trace_reader_totals(const struct trace_reader *r, struct trace_totals *t)
{
	*t = r->totals;
	return r->has_index;
}

static int open_file(struct trace_reader *r, struct error *err)
{
	struct stat st;

	r->fd = strcmp(r->path, "-") ? open(r->path, O_RDONLY | O_CLOEXEC) : dup(STDIN_FILENO);
	if (r->fd < 0 || fstat(r->fd, &st))
		return error_set(err, -errno, "%s: cannot be opened: %m", r->path);
	if (S_ISDIR(st.st_mode))
		return error_set(err, -EISDIR, "%s: is a directory", r->path);
	r->regular = S_ISREG(st.st_mode);
	r->size = r->regular ? (uint64_t)st.st_size : 0;
	return 0;
}

int trace_reader_open(struct trace_reader **out, const char *path, struct error *err)
{
	struct trace_reader *r = calloc(1, sizeof(*r));
	struct error e = {0};

	if (!r || decoder_init(&r->decoder)) {
		free(r);
		return error_set(err, -ENOMEM, "%s: no memory for a trace", path);
	}
	r->fd = -1;
	r->path = strdup(path);
	r->zstd = ZSTD_createDCtx();
	r->ev = malloc(BATCH * sizeof(*r->ev));
	if (!r->path || !r->zstd || !r->ev)
		error_set(&e, -ENOMEM, "%s: no memory for a trace", path);
	else if (!open_file(r, &e) && !read_head(r, &e))
		find_index(r);
	if (e.code) {
		trace_reader_close(r);
		return error_set(err, e.code, "%s", e.text);
	}
	*out = r;
	return 0;
}

void trace_reader_close(struct trace_reader *r)
{
	if (!r)
		return;
	if (r->fd >= 0)
		close(r->fd);
	decoder_free(&r->decoder);
	ZSTD_freeDCtx(r->zstd);
	free(r->raw.data);
	free(r->stored.data);
	free(r->index);
	free(r->ev);
	free(r->path);
	free(r);
}
