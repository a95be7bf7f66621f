#include "vm/state_file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- writing ---- */

#define WRITE_BUFFER ((size_t)1 << 20)

struct state_file_writer {
	struct stream_writer stream;
	char *path, *temporary, *directory;
	int fd;
	bool replace;
	uint8_t *buffer;
	size_t used;
	int failed;        /* the first error */
};

static int write_all(struct state_file_writer *w, const uint8_t *data, size_t bytes, struct error *err)
{
	while (bytes) {
		ssize_t n = write(w->fd, data, bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return w->failed = error_set(err, -errno, "%s: cannot write: %s", w->path, strerror(errno));
		data += n;
		bytes -= (size_t)n;
	}
	return 0;
}

static int flush_buffer(struct state_file_writer *w, struct error *err)
{
	size_t bytes = w->used;

	w->used = 0;
	return write_all(w, w->buffer, bytes, err);
}

static int file_write(void *ctx, const void *data, size_t bytes, struct error *err)
{
	struct state_file_writer *w = ctx;
	int r = 0;

	if (w->failed)
		return error_set(err, w->failed, "%s: an earlier write failed", w->path);
	if (bytes > WRITE_BUFFER - w->used)
		r = flush_buffer(w, err);
	if (r)
		return r;
	if (bytes >= WRITE_BUFFER)
		return write_all(w, data, bytes, err);
	memcpy(w->buffer + w->used, data, bytes);
	w->used += bytes;
	return 0;
}

static char *directory_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return !slash ? strdup(".") : slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

static void writer_free(struct state_file_writer *w)
{
	if (w->fd >= 0)
		close(w->fd);
	free(w->path);
	free(w->temporary);
	free(w->directory);
	free(w->buffer);
	free(w);
}

static int open_temporary(struct state_file_writer *w, const char *path, struct error *err)
{
	w->path = strdup(path);
	w->directory = directory_of(path);
	w->buffer = malloc(WRITE_BUFFER);
	if (!w->path || !w->directory || !w->buffer || asprintf(&w->temporary, "%s.XXXXXX", path) < 0) {
		w->temporary = NULL;
		return error_set(err, -ENOMEM, "%s: out of memory", path);
	}
	if (!w->replace && access(path, F_OK) == 0)
		return error_set(err, -EEXIST, "%s: exists already", path);
	w->fd = mkostemp(w->temporary, O_CLOEXEC);
	if (w->fd < 0)
		return error_set(err, -errno, "%s: cannot create: %s", path, strerror(errno));
	return 0;
}

int state_file_create(struct state_file_writer **out, const char *path, bool replace, struct error *err)
{
	struct state_file_writer *w = calloc(1, sizeof(*w));
	struct stream_io io = {.write = file_write, .ctx = w};
	int r;

	if (!w)
		return error_set(err, -ENOMEM, "%s: out of memory", path);
	w->fd = -1;
	w->replace = replace;
	r = open_temporary(w, path, err);
	if (!r)
		r = stream_begin(&w->stream, &io, err);
	if (r) {
		state_file_abandon(w);
		return r;
	}
	*out = w;
	return 0;
}

struct stream_writer *state_file_stream(struct state_file_writer *w) { return &w->stream; }

static int sync_directory(const struct state_file_writer *w)
{
	int fd = open(w->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	r = fsync(fd) ? -errno : 0;
	close(fd);
	return r;
}

static int give_name(struct state_file_writer *w, struct error *err)
{
	if (fsync(w->fd))
		return error_set(err, -errno, "%s: cannot write: %s", w->path, strerror(errno));
	if (w->replace ? rename(w->temporary, w->path) : link(w->temporary, w->path))
		return error_set(err, -errno, "%s: cannot create: %s", w->path, strerror(errno));
	if (!w->replace)
		unlink(w->temporary);
	free(w->temporary);
	w->temporary = NULL;
	sync_directory(w); /* what cannot be synced has its name all the same */
	return 0;
}

int state_file_commit(struct state_file_writer *w, struct error *err)
{
	int r = stream_end(&w->stream, err);

	if (!r)
		r = flush_buffer(w, err);
	if (!r)
		r = give_name(w, err);
	state_file_abandon(w);
	return r;
}

void state_file_abandon(struct state_file_writer *w)
{
	if (!w)
		return;
	if (w->temporary && w->fd >= 0)
		unlink(w->temporary);
	writer_free(w);
}

/* ---- reading ---- */

/* Sections of pages that were read last, ready to be taken from. */
#define CACHED 8

struct section_at {
	uint64_t at, bytes; /* of the head in the file; of the payload */
	char name[STREAM_NAME_MAX + 1];
};

struct cached {
	uint32_t section;   /* number plus 1; 0: nothing */
	uint64_t used;      /* the larger, the later */
	uint8_t *data;
	struct pages pages;
};

struct state_file {
	char *path;
	int fd;
	uint64_t bytes, at;           /* at: of the reader */
	struct stream_reader reader;  /* reads at @at */
	struct section_at *section;
	uint32_t sections, room;
	uint64_t pages;
	uint32_t *where;              /* for each page: number of its section plus 1, 0: none; PAGE_IS_ZERO */
	pthread_mutex_t lock;         /* of all below, and of the reader once pages are being asked for */
	struct cached cached[CACHED];
	uint64_t uses;
};
#define PAGE_IS_ZERO 0x80000000u

static int file_read(void *ctx, void *data, size_t bytes, struct error *err)
{
	struct state_file *f = ctx;
	uint8_t *to = data;

	while (bytes) {
		ssize_t n = pread(f->fd, to, bytes, (off_t)f->at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set(err, -errno, "%s: cannot read: %s", f->path, strerror(errno));
		if (!n)
			return error_set(err, -ENODATA, "%s: it is cut off at byte %llu", f->path,
					 (unsigned long long)f->at);
		to += n;
		bytes -= (size_t)n;
		f->at += (uint64_t)n;
	}
	return 0;
}

static int add_section(struct state_file *f, uint64_t at, const struct stream_head *head, struct error *err)
{
	struct section_at *s;

	if (f->sections == f->room) {
		s = realloc(f->section, (f->room * 2 + 64) * sizeof(*s));
		if (!s)
			return error_set(err, -ENOMEM, "%s: out of memory", f->path);
		f->section = s;
		f->room = f->room * 2 + 64;
	}
	s = &f->section[f->sections++];
	s->at = at;
	s->bytes = head->bytes;
	memcpy(s->name, head->name, sizeof(s->name));
	return 0;
}

/* Reads all heads, down to the end. The file's size bounds how many there are. */
static int look_through(struct state_file *f, struct error *err)
{
	const struct stream_io io = {.read = file_read, .ctx = f};
	struct stream_section end;
	int r = stream_open(&f->reader, &io, f->path, err);

	while (!r) {
		struct stream_head head;
		uint64_t at = f->at;

		r = stream_get_head(&f->reader, &head, err);
		if (r < 0)
			return r;
		if (!strcmp(head.name, "end"))
			return stream_get_payload(&f->reader, &head, &end, err);
		if (head.bytes > f->bytes - f->at)
			return error_set(err, -ENODATA, "%s: it is cut off in section %s", f->path, head.name);
		f->at += head.bytes + 8;
		f->reader.sections++;
		r = add_section(f, at, &head, err);
	}
	return r;
}

static int open_and_look(struct state_file *f, const char *path, struct error *err)
{
	struct stat st;

	f->path = strdup(path);
	if (!f->path)
		return error_set(err, -ENOMEM, "%s: out of memory", path);
	f->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (f->fd < 0 || fstat(f->fd, &st))
		return error_set(err, -errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return error_set(err, -EINVAL, "%s: this is not a file", path);
	f->bytes = (uint64_t)st.st_size;
	return look_through(f, err);
}

int state_file_open(struct state_file **out, const char *path, struct error *err)
{
	struct state_file *f = calloc(1, sizeof(*f));
	int r;

	if (!f)
		return error_set(err, -ENOMEM, "%s: out of memory", path);
	f->fd = -1;
	pthread_mutex_init(&f->lock, NULL);
	r = open_and_look(f, path, err);
	if (r) {
		state_file_close(f);
		return r;
	}
	*out = f;
	return 0;
}

void state_file_close(struct state_file *f)
{
	if (!f)
		return;
	for (unsigned i = 0; i < CACHED; i++) {
		pages_free(&f->cached[i].pages);
		free(f->cached[i].data);
	}
	stream_close(&f->reader);
	if (f->fd >= 0)
		close(f->fd);
	pthread_mutex_destroy(&f->lock);
	free(f->section);
	free(f->where);
	free(f->path);
	free(f);
}

const char *state_file_path(const struct state_file *f) { return f->path; }
uint64_t state_file_bytes(const struct state_file *f) { return f->bytes; }

static int read_section(struct state_file *f, uint32_t n, struct stream_section *section, struct error *err)
{
	struct stream_head head;
	int r;

	f->at = f->section[n].at;
	r = stream_get_head(&f->reader, &head, err);
	return r < 0 ? r : stream_get_payload(&f->reader, &head, section, err);
}

int state_file_section(struct state_file *f, const char *name, struct stream_section *section, struct error *err)
{
	int r = 0;

	pthread_mutex_lock(&f->lock);
	for (uint32_t i = 0; i < f->sections && !r; i++)
		if (!strcmp(f->section[i].name, name))
			r = read_section(f, i, section, err);
	pthread_mutex_unlock(&f->lock);
	return r;
}

int state_file_each(struct state_file *f,
		    int (*each)(void *ctx, const struct stream_section *section, struct error *err), void *ctx,
		    struct error *err)
{
	struct stream_section section;

	for (uint32_t i = 0; i < f->sections; i++) {
		int r = pages_is_section(f->section[i].name) ? 0 : read_section(f, i, &section, err);

		if (r == 1)
			r = each(ctx, &section, err);
		if (r)
			return r;
	}
	return 0;
}

/* ---- pages ---- */

static struct cached *find_cached(struct state_file *f, uint32_t n)
{
	struct cached *oldest = &f->cached[0];

	for (unsigned i = 0; i < CACHED; i++) {
		if (f->cached[i].section == n + 1)
			return &f->cached[i];
		if (f->cached[i].used < oldest->used)
			oldest = &f->cached[i];
	}
	pages_free(&oldest->pages);
	free(oldest->data);
	oldest->data = NULL;
	oldest->section = 0;
	return oldest;
}

/* The pages of section @n, read if they are not at hand. The reader's buffer becomes the cache's. */
static int load_pages(struct state_file *f, uint32_t n, struct cached **out, struct error *err)
{
	struct cached *c = find_cached(f, n);
	struct stream_section section;
	int r;

	*out = c;
	c->used = ++f->uses;
	if (c->section)
		return 0;
	r = read_section(f, n, &section, err);
	if (r < 0)
		return r;
	c->data = f->reader.data;
	f->reader.data = NULL;
	f->reader.room = 0;
	section.data = c->data;
	r = pages_parse(&c->pages, &section, f->pages, f->path, err);
	if (!r)
		c->section = n + 1;
	return r;
}

/* Reads the beginning of a section: its table of pages, not the data. */
static int index_table(struct state_file *f, uint32_t n, struct error *err)
{
	uint8_t table[8 + PAGES_BATCH * 16];
	uint32_t count;
	int r = 0;

	if (f->section[n].bytes < 8)
		return error_set(err, -EBADMSG, "%s: damaged section of memory pages", f->path);
	f->at = f->section[n].at + 1 + strlen(f->section[n].name) + 8;
	r = file_read(f, table, min_u64(sizeof(table), f->section[n].bytes), err);
	if (r)
		return r;
	count = get_u32(table);
	if (count > PAGES_BATCH || f->section[n].bytes < 8 + (uint64_t)count * 16)
		return error_set(err, -EBADMSG, "%s: damaged section of memory pages", f->path);
	for (uint32_t i = 0; i < count; i++) {
		uint64_t page = get_u64(table + 8 + 16 * i);

		if (page >= f->pages)
			return error_set(err, -EBADMSG, "%s: a page beyond the end of memory", f->path);
		f->where[page] = (n + 1) | (get_u32(table + 16 + 16 * i) == PAGE_ZERO ? PAGE_IS_ZERO : 0);
	}
	return 0;
}

int state_file_index(struct state_file *f, uint64_t pages, struct error *err)
{
	f->pages = pages;
	f->where = calloc(pages, sizeof(*f->where));
	if (!f->where || f->sections >= PAGE_IS_ZERO - 1)
		return error_set(err, -ENOMEM, "%s: out of memory", f->path);
	for (uint32_t i = 0; i < f->sections; i++) {
		int r = pages_is_section(f->section[i].name) ? index_table(f, i, err) : 0;

		if (r)
			return r;
	}
	return 0;
}

enum state_file_page state_file_has(const struct state_file *f, uint64_t page)
{
	uint32_t w = page < f->pages ? f->where[page] : 0;

	return !w ? STATE_FILE_NOT_THERE : w & PAGE_IS_ZERO ? STATE_FILE_ZERO : STATE_FILE_DATA;
}

static int copy_page(struct state_file *f, uint64_t page, uint8_t data[PAGE_SIZE], struct error *err)
{
	struct cached *c;
	int r = load_pages(f, f->where[page] - 1, &c, err);

	if (r)
		return r;
	for (unsigned i = c->pages.count; i-- > 0;) {
		if (c->pages.entry[i].page != page)
			continue;
		if (c->pages.entry[i].data)
			memcpy(data, c->pages.entry[i].data, PAGE_SIZE);
		else
			memset(data, 0, PAGE_SIZE);
		return 0;
	}
	return error_set(err, -EBADMSG, "%s: changed while it was in use", f->path);
}

int state_file_page(struct state_file *f, uint64_t page, uint8_t data[PAGE_SIZE], struct error *err)
{
	int r;

	if (state_file_has(f, page) != STATE_FILE_DATA) {
		memset(data, 0, PAGE_SIZE);
		return 0;
	}
	pthread_mutex_lock(&f->lock);
	r = copy_page(f, page, data, err);
	pthread_mutex_unlock(&f->lock);
	return r;
}

int state_file_verify(struct state_file *f, struct error *err)
{
	struct stream_section section;

	for (uint32_t i = 0; i < f->sections; i++) {
		int r = read_section(f, i, &section, err);

		if (r < 0)
			return r;
	}
	return 0;
}
