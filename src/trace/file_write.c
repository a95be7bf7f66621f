/* Writing traces: events are collected to frames, frames become blocks, and the index says where they are. */
#include "trace/file_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#define COMPRESSION 3

struct trace_writer {
	char *path, *part;  /* its name, and until it is closed; NULL: it is written to directly */
	int fd;
	uint64_t at;        /* bytes written */
	uint64_t events, insns; /* in blocks that are written */
	struct encoder encoder;
	ZSTD_CCtx *zstd;
	struct bytes raw, stored;
	struct index_entry *index; /* [INDEX_ENTRIES_MAX] */
	unsigned entries, step;    /* of so many frames each one is in the index */
	uint64_t frames;
	bool partial;
	struct error failed; /* of the first error: nothing comes behind it */
};

static int fail(struct trace_writer *w, const struct error *e, struct error *err)
{
	w->failed = *e;
	return error_set(err, e->code, "%s", e->text);
}

static int write_all(struct trace_writer *w, const void *data, size_t n, struct error *err)
{
	for (const uint8_t *p = data; n;) {
		ssize_t done = write(w->fd, p, n);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return error_set(err, -errno, "%s: cannot be written: %m", w->path);
		p += done;
		n -= (size_t)done;
		w->at += (uint64_t)done;
	}
	return 0;
}

/* The block whose contents are w->raw. */
static int write_block(struct trace_writer *w, struct block b, struct error *err)
{
	uint8_t head[BLOCK_HEAD_BYTES];
	size_t n = ZSTD_compressBound(w->raw.n);

	if (file_reserve(w->path, &w->stored, n, err))
		return err->code;
	n = ZSTD_compressCCtx(w->zstd, w->stored.data, n, w->raw.data, w->raw.n, COMPRESSION);
	if (ZSTD_isError(n))
		return error_set(err, -EIO, "%s: zstd: %s", w->path, ZSTD_getErrorName(n));
	put_u32(head, b.type);
	put_u32(head + 4, (uint32_t)n);
	put_u32(head + 8, (uint32_t)w->raw.n);
	put_u32(head + 12, b.count);
	put_u64(head + 16, w->events);
	put_u64(head + 24, w->insns);
	put_u64(head + 32, XXH3_64bits(w->stored.data, n));
	put_u64(head + 40, XXH3_64bits(head, 40));
	return write_all(w, head, sizeof(head), err) ? err->code : write_all(w, w->stored.data, n, err);
}

/* ---- index ---- */

/* If it is full, every second entry goes. */
static void note_frame(struct trace_writer *w)
{
	if (w->frames++ % w->step)
		return;
	if (w->entries == INDEX_ENTRIES_MAX) {
		w->entries /= 2;
		w->step *= 2;
		for (unsigned i = 0; i < w->entries; i++)
			w->index[i] = w->index[2 * i];
		/* The frame at hand is a multiple of the new step: the number of entries is. */
	}
	w->index[w->entries++] = (struct index_entry){w->at, w->events, w->insns};
}

static int write_index(struct trace_writer *w, struct error *err)
{
	struct block b = {.type = w->partial ? BLOCK_INDEX_PARTIAL : BLOCK_INDEX, .count = w->entries};
	uint8_t end[FILE_END_BYTES];

	put_u64(end, w->at);
	memcpy(end + 8, FILE_END_MAGIC, 8);
	w->raw.n = w->entries * INDEX_ENTRY_BYTES;
	if (file_reserve(w->path, &w->raw, w->raw.n + 1, err))
		return err->code;
	for (unsigned i = 0; i < w->entries; i++) {
		put_u64(w->raw.data + i * INDEX_ENTRY_BYTES, w->index[i].at);
		put_u64(w->raw.data + i * INDEX_ENTRY_BYTES + 8, w->index[i].events);
		put_u64(w->raw.data + i * INDEX_ENTRY_BYTES + 16, w->index[i].insns);
	}
	return write_block(w, b, err) ? err->code : write_all(w, end, sizeof(end), err);
}

/* ---- frames ---- */

static int write_frame(struct trace_writer *w, struct error *err)
{
	struct block b = {.type = BLOCK_EVENTS, .count = encoder_events(&w->encoder)};

	if (!b.count)
		return 0;
	if (file_reserve(w->path, &w->raw, encoder_bytes(&w->encoder), err))
		return err->code;
	w->raw.n = encoder_bytes(&w->encoder);
	encoder_finish(&w->encoder, w->raw.data);
	note_frame(w);
	if (write_block(w, b, err))
		return err->code;
	w->events += b.count;
	w->insns += w->encoder.insns;
	encoder_reset(&w->encoder);
	return 0;
}

static int put_one(struct trace_writer *w, const struct trace_event *ev, struct error *err)
{
	struct error why;

	if (unlikely(trace_event_check(ev, &why)))
		return error_set(err, -EINVAL, "%s: event %llu: %s", w->path,
				 (unsigned long long)trace_writer_events(w), why.text);
	if (unlikely(encode(&w->encoder, ev)))
		return error_set(err, -ENOMEM, "%s: no memory for a frame", w->path);
	return unlikely(encoder_is_full(&w->encoder)) ? write_frame(w, err) : 0;
}

int trace_put(struct trace_writer *w, const struct trace_event *ev, unsigned n, struct error *err)
{
	struct error e = w->failed;

	for (unsigned i = 0; i < n && !e.code; i++)
		if (put_one(w, &ev[i], &e))
			break;
	return e.code ? fail(w, &e, err) : 0;
}

static int sink_put(void *ctx, const struct trace_event *ev, unsigned n, struct error *err)
{
	return trace_put(ctx, ev, n, err);
}

struct trace_sink trace_writer_sink(struct trace_writer *w) { return (struct trace_sink){sink_put, w}; }

uint64_t trace_writer_events(const struct trace_writer *w) { return w->events + encoder_events(&w->encoder); }
uint64_t trace_writer_insns(const struct trace_writer *w) { return w->insns + w->encoder.insns; }
uint64_t trace_writer_bytes(const struct trace_writer *w) { return w->at; }

void trace_writer_is_partial(struct trace_writer *w) { w->partial = true; }

/* ---- opening and closing ---- */

static int open_file(struct trace_writer *w, struct error *err)
{
	struct stat st;

	if (!strcmp(w->path, "-")) {
		w->fd = dup(STDOUT_FILENO);
	} else if (stat(w->path, &st) == 0 && !S_ISREG(st.st_mode)) {
		w->fd = open(w->path, O_WRONLY | O_CLOEXEC);
	} else {
		if (asprintf(&w->part, "%s.part", w->path) < 0) {
			w->part = NULL;
			return error_set(err, -ENOMEM, "%s: no memory", w->path);
		}
		w->fd = open(w->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	}
	return w->fd < 0 ? error_set(err, -errno, "%s: cannot be opened for writing: %m", w->path) : 0;
}

static int begin(struct trace_writer *w, const struct trace_info *info, struct error *err)
{
	struct trace_info copy = *info;
	struct state_buffer saved = {0};
	uint8_t head[FILE_HEAD_BYTES] = FILE_MAGIC;
	int ret = trace_info_desc.check(&copy, err);

	if (!ret)
		ret = state_save(&trace_info_desc, &copy, &saved, err);
	if (!ret)
		ret = open_file(w, err);
	if (!ret)
		ret = file_reserve(w->path, &w->raw, saved.bytes, err);
	if (!ret) {
		memcpy(w->raw.data, saved.data, saved.bytes);
		w->raw.n = saved.bytes;
		put_u32(head + 8, FILE_VERSION);
		ret = write_all(w, head, sizeof(head), err);
	}
	if (!ret)
		ret = write_block(w, (struct block){.type = BLOCK_INFO}, err);
	state_buffer_free(&saved);
	return ret;
}

static void destroy(struct trace_writer *w)
{
	if (w->fd >= 0)
		close(w->fd);
	encoder_free(&w->encoder);
	ZSTD_freeCCtx(w->zstd);
	free(w->raw.data);
	free(w->stored.data);
	free(w->index);
	free(w->part);
	free(w->path);
	free(w);
}

int trace_writer_open(struct trace_writer **out, const char *path, const struct trace_info *info, struct error *err)
{
	struct trace_writer *w = calloc(1, sizeof(*w));
	struct error e = {0};

	if (!w || encoder_init(&w->encoder)) {
		free(w);
		return error_set(err, -ENOMEM, "%s: no memory for a trace", path);
	}
	w->fd = -1;
	w->step = 1;
	w->path = strdup(path);
	w->zstd = ZSTD_createCCtx();
	w->index = malloc(INDEX_ENTRIES_MAX * sizeof(*w->index));
	if (!w->path || !w->zstd || !w->index)
		error_set(&e, -ENOMEM, "%s: no memory for a trace", path);
	else
		begin(w, info, &e);
	if (e.code) {
		trace_writer_drop(w);
		return error_set(err, e.code, "%s", e.text);
	}
	*out = w;
	return 0;
}

static int finish(struct trace_writer *w, struct error *err)
{
	int fd = w->fd;

	if (write_frame(w, err) || write_index(w, err))
		return err->code;
	w->fd = -1;
	if (close(fd))
		return error_set(err, -errno, "%s: cannot be written: %m", w->path);
	if (w->part && rename(w->part, w->path))
		return error_set(err, -errno, "%s: cannot get its name: %m", w->path);
	return 0;
}

int trace_writer_close(struct trace_writer *w, struct error *err)
{
	struct error e;

	if (!w)
		return 0;
	e = w->failed;
	if (!e.code)
		finish(w, &e);
	destroy(w);
	return e.code ? error_set(err, e.code, "%s", e.text) : 0;
}

void trace_writer_drop(struct trace_writer *w)
{
	if (w && w->part && w->fd >= 0)
		unlink(w->part);
	if (w)
		destroy(w);
}
