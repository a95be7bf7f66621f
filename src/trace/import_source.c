/* Bytes for the importers: files and pipes, and what is packed in them by gzip or xz. */
#include "trace/import_source.h"

#include <errno.h>
#include <fcntl.h>
#include <lzma.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>

#define PACKED_BYTES ((size_t)1 << 16)

enum packing { PLAIN, GZIP, XZ };

struct import_source {
	char *name;
	int fd;                 /* -1: of memory */
	const uint8_t *memory;
	size_t memory_left;
	enum packing packing;
	bool input_ended, ended; /* of the file; of the stream */
	bool between;           /* gzip: at the end of a member, another one may follow */
	z_stream gzip;
	lzma_stream xz;
	/* Packed input that was read and not unpacked yet. */
	uint8_t packed[PACKED_BYTES];
	size_t packed_at, packed_end;
	/* Unpacked bytes that were not taken yet. */
	uint8_t window[2 * IMPORT_WINDOW];
	size_t at, end;
	uint64_t taken, read;   /* bytes of the trace that were taken; of the file that were read */
};

const char *import_source_name(const struct import_source *s) { return s->name; }
uint64_t import_source_offset(const struct import_source *s) { return s->taken; }

int import_source_bad(const struct import_source *s, size_t at, struct error *err, const char *fmt, ...)
{
	char reason[320];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(reason, sizeof(reason), fmt, ap);
	va_end(ap);
	return error_set(err, -EBADMSG, "%s: offset %llu: %s", s->name, (unsigned long long)(s->taken + at), reason);
}

/* What is wrong with the packed bytes; they have offsets of their own. */
static int bad_packing(const struct import_source *s, struct error *err, const char *reason)
{
	uint64_t at = s->read - (s->packed_end - s->packed_at);

	return error_set(err, -EBADMSG, "%s: byte %llu of the compressed file: %s", s->name, (unsigned long long)at,
			 reason);
}

/* Reads from where the bytes come from, at most @room. 0: there are no more. */
static int64_t read_some(struct import_source *s, uint8_t *to, size_t room, struct error *err)
{
	ssize_t n;

	if (s->fd < 0) {
		n = (ssize_t)min_u64(room, s->memory_left);
		memcpy(to, s->memory, (size_t)n);
		s->memory += n;
		s->memory_left -= (size_t)n;
	} else {
		do
			n = read(s->fd, to, room);
		while (n < 0 && errno == EINTR);
		if (n < 0)
			return error_set(err, -errno, "%s: cannot read: %s", s->name, strerror(errno));
	}
	s->input_ended = n == 0;
	s->read += (uint64_t)n;
	return n;
}

static int fill_packed(struct import_source *s, struct error *err)
{
	int64_t n;

	if (s->packed_at < s->packed_end || s->input_ended)
		return 0;
	n = read_some(s, s->packed, sizeof(s->packed), err);
	if (n < 0)
		return (int)n;
	s->packed_at = 0;
	s->packed_end = (size_t)n;
	return 0;
}

/* Members may follow each other, as gzip allows; what follows them and is none is damage. */
static int gzip_more(struct import_source *s, struct error *err)
{
	z_stream *z = &s->gzip;
	int status;

	if (s->packed_at == s->packed_end) { /* and there is no more of the file */
		s->ended = true;
		return s->between ? 0 : bad_packing(s, err, "ends in the middle of gzip data");
	}
	if (s->between && inflateReset(z) != Z_OK)
		return bad_packing(s, err, "no gzip data");
	s->between = false;
	z->next_in = s->packed + s->packed_at;
	z->avail_in = (uInt)(s->packed_end - s->packed_at);
	z->next_out = s->window + s->end;
	z->avail_out = (uInt)(sizeof(s->window) - s->end);
	status = inflate(z, Z_NO_FLUSH);
	s->packed_at = s->packed_end - z->avail_in;
	s->end = sizeof(s->window) - z->avail_out;
	if (status == Z_STREAM_END)
		s->between = true;
	else if (status == Z_MEM_ERROR)
		return error_set(err, -ENOMEM, "%s: out of memory", s->name);
	else if (status != Z_OK && status != Z_BUF_ERROR)
		return bad_packing(s, err, z->msg ? z->msg : "damaged gzip data");
	return 0;
}

static int xz_more(struct import_source *s, struct error *err)
{
	lzma_stream *x = &s->xz;
	bool last = s->packed_at == s->packed_end;
	lzma_ret status;

	x->next_in = s->packed + s->packed_at;
	x->avail_in = s->packed_end - s->packed_at;
	x->next_out = s->window + s->end;
	x->avail_out = sizeof(s->window) - s->end;
	status = lzma_code(x, last ? LZMA_FINISH : LZMA_RUN);
	s->packed_at = s->packed_end - x->avail_in;
	s->end = sizeof(s->window) - x->avail_out;
	switch (status) {
	case LZMA_OK:
		return 0;
	case LZMA_STREAM_END:
		s->ended = true;
		return 0;
	case LZMA_MEM_ERROR:
		return error_set(err, -ENOMEM, "%s: out of memory", s->name);
	case LZMA_MEMLIMIT_ERROR:
		return bad_packing(s, err, "unpacking this xz data needs more than 256 MiB of memory");
	case LZMA_BUF_ERROR:
		return bad_packing(s, err, "ends in the middle of xz data");
	default:
		return bad_packing(s, err, "damaged xz data");
	}
}

/* Some more bytes of the trace behind those in the window, or the end of it. */
static int more(struct import_source *s, struct error *err)
{
	int64_t n;
	int rc;

	if (s->packing != PLAIN) {
		rc = fill_packed(s, err);
		return rc ? rc : s->packing == GZIP ? gzip_more(s, err) : xz_more(s, err);
	}
	n = read_some(s, s->window + s->end, sizeof(s->window) - s->end, err);
	if (n < 0)
		return (int)n;
	s->end += (size_t)n;
	s->ended = n == 0;
	return 0;
}

int64_t import_source_want(struct import_source *s, size_t bytes, const uint8_t **data, struct error *err)
{
	if (s->end - s->at < bytes && s->at >= IMPORT_WINDOW) {
		memmove(s->window, s->window + s->at, s->end - s->at);
		s->end -= s->at;
		s->at = 0;
	}
	while (s->end - s->at < bytes && !s->ended) {
		int rc = more(s, err);

		if (rc)
			return rc;
	}
	*data = s->window + s->at;
	return (int64_t)(s->end - s->at);
}

void import_source_take(struct import_source *s, size_t bytes)
{
	s->at += bytes;
	s->taken += bytes;
	if (s->at == s->end)
		s->at = s->end = 0;
}

/*
 * The first bytes say how the rest is packed. They move on: plain ones into the window.
 */
static int find_packing(struct import_source *s, struct error *err)
{
	const uint8_t *p = s->packed;

	while (s->packed_end < 6 && !s->input_ended) {
		int64_t n = read_some(s, s->packed + s->packed_end, sizeof(s->packed) - s->packed_end, err);

		if (n < 0)
			return (int)n;
		s->packed_end += (size_t)n;
	}
	if (s->packed_end >= 4 && (memcmp(p, "PK\3\4", 4) == 0 || memcmp(p, "\x04\x22\x4d\x18", 4) == 0 ||
				   memcmp(p, "\x28\xb5\x2f\xfd", 4) == 0))
		return error_set(err, -EBADMSG, "%s: a %s; only gzip and xz are unpacked here: unpack it into a pipe",
				 s->name, *p == 'P' ? "zip archive" : *p == 4 ? "file of lz4" : "file of zstd");
	if (s->packed_end >= 2 && p[0] == 0x1f && p[1] == 0x8b) {
		s->packing = GZIP;
		if (inflateInit2(&s->gzip, 15 + 16) != Z_OK)
			return error_set(err, -ENOMEM, "%s: out of memory", s->name);
	} else if (s->packed_end >= 6 && memcmp(p, "\xfd" "7zXZ", 6) == 0) {
		s->packing = XZ;
		if (lzma_stream_decoder(&s->xz, IMPORT_XZ_MEMORY, LZMA_CONCATENATED) != LZMA_OK)
			return error_set(err, -ENOMEM, "%s: out of memory", s->name);
	} else {
		memcpy(s->window, p, s->packed_end);
		s->end = s->packed_end;
		s->packed_end = 0;
		s->ended = s->input_ended;
	}
	return 0;
}

static struct import_source *new_source(const char *name)
{
	struct import_source *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->fd = -1;
	s->name = strdup(name);
	if (s->name)
		return s;
	free(s);
	return NULL;
}

static int begin(struct import_source **out, struct import_source *s, struct error *err)
{
	int rc = find_packing(s, err);

	if (rc) {
		import_source_close(s);
		s = NULL;
	}
	*out = s;
	return rc;
}

int import_source_open(struct import_source **out, const char *path, struct error *err)
{
	bool input = strcmp(path, "-") == 0;
	struct import_source *s = new_source(input ? "standard input" : path);
	int code;

	*out = NULL;
	if (!s)
		return error_set(err, -ENOMEM, "%s: out of memory", path);
	s->fd = input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
	if (s->fd < 0) {
		code = -errno;
		import_source_close(s);
		return error_set(err, code, "%s: cannot open: %s", path, strerror(-code));
	}
	return begin(out, s, err);
}

int import_source_open_memory(struct import_source **out, const void *data, size_t bytes, const char *name,
			      struct error *err)
{
	struct import_source *s = new_source(name);

	*out = NULL;
	if (!s)
		return error_set(err, -ENOMEM, "%s: out of memory", name);
	s->memory = data;
	s->memory_left = bytes;
	return begin(out, s, err);
}

void import_source_close(struct import_source *s)
{
	if (!s)
		return;
	if (s->packing == GZIP)
		inflateEnd(&s->gzip);
	if (s->packing == XZ)
		lzma_end(&s->xz);
	if (s->fd > STDIN_FILENO)
		close(s->fd);
	free(s->name);
	free(s);
}
