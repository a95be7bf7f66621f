#include "vm/state_file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
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

static int cannot_create(const struct state_file_writer *w, struct error *err)
{
	return error_set(err, -errno, "%s: cannot create: %s", w->path, strerror(errno));
}

/* What would come to light only when all is written. */
static int check_path(const struct state_file_writer *w, struct error *err)
{
	struct stat st;

	if (fstatat(AT_FDCWD, w->path, &st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : cannot_create(w, err);
	if (!w->replace)
		return error_set(err, -EEXIST, "%s: exists already", w->path);
	return S_ISREG(st.st_mode) ? 0 : error_set(err, -EEXIST, "%s: exists and is no file", w->path);
}

/* A file without a name, of which nothing stays if we are killed; one that has a name where there are no others. */
static int open_temporary(struct state_file_writer *w, struct error *err)
{
	w->fd = open(w->directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (w->fd >= 0)
		return 0;
	if ((errno == EOPNOTSUPP || errno == EISDIR) &&
	    asprintf(&w->temporary, "%s/" STATE_FILE_PART_HEAD "XXXXXX" STATE_FILE_PART_TAIL, w->directory) >= 0)
		w->fd = mkostemps(w->temporary, strlen(STATE_FILE_PART_TAIL), O_CLOEXEC);
	return w->fd < 0 ? cannot_create(w, err) : 0;
}

static int begin_file(struct state_file_writer *w, const char *path, struct error *err)
{
	int r;

	w->path = strdup(path);
	w->directory = directory_of(path);
	w->buffer = malloc(WRITE_BUFFER);
	if (!w->path || !w->directory || !w->buffer)
		return error_set(err, -ENOMEM, "%s: out of memory", path);
	r = check_path(w, err);
	return r ? r : open_temporary(w, err);
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
	r = begin_file(w, path, err);
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

/* The nameless file gets the name @to, which must be new. */
static int link_file(const struct state_file_writer *w, const char *to)
{
	char self[64];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", w->fd);
	return linkat(AT_FDCWD, self, AT_FDCWD, to, AT_SYMLINK_FOLLOW);
}

/* The nameless file gets a name for the moment. */
static int make_temporary(struct state_file_writer *w)
{
	uint32_t n;

	do {
		free(w->temporary);
		w->temporary = NULL;
		if (getrandom(&n, sizeof(n), 0) != sizeof(n) ||
		    asprintf(&w->temporary, "%s/" STATE_FILE_PART_HEAD "%06x" STATE_FILE_PART_TAIL, w->directory,
			     n & 0xffffff) < 0) {
			w->temporary = NULL;
			return -1;
		}
	} while (link_file(w, w->temporary) && errno == EEXIST);
	return access(w->temporary, F_OK);
}

static int take_new_name(struct state_file_writer *w)
{
	if (!w->temporary)
		return link_file(w, w->path);
	if (renameat2(AT_FDCWD, w->temporary, AT_FDCWD, w->path, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL || link(w->temporary, w->path)) /* EINVAL: the file system has no such renaming */
		return -1;
	unlink(w->temporary);
	return 0;
}

static int take_used_name(struct state_file_writer *w)
{
	if (!w->temporary && make_temporary(w))
		return -1;
	return rename(w->temporary, w->path);
}

static int give_name(struct state_file_writer *w, struct error *err)
{
	if (fsync(w->fd))
		return error_set(err, -errno, "%s: cannot write: %s", w->path, strerror(errno));
	if (w->replace ? take_used_name(w) : take_new_name(w))
		return cannot_create(w, err);
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

bool state_file_is_part(const char *name)
{
	const size_t head = strlen(STATE_FILE_PART_HEAD), tail = strlen(STATE_FILE_PART_TAIL), n = strlen(name);

	return n == head + 6 + tail && !strncmp(name, STATE_FILE_PART_HEAD, head) &&
	       !strcmp(name + n - tail, STATE_FILE_PART_TAIL);
}

/* ---- the directory ---- */

int state_file_lock_directory(const char *path, bool alone, bool wait, int *lock)
{
	char *directory = directory_of(path);

	*lock = directory ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	free(directory);
	if (*lock < 0 || flock(*lock, (alone ? LOCK_EX : LOCK_SH) | (wait ? 0 : LOCK_NB)) == 0)
		return 0;
	if (errno == EWOULDBLOCK || errno == EINTR) {
		const int code = -errno;

		close(*lock);
		*lock = -1;
		return code;
	}
	return 0; /* a file system without locks */
}

void state_file_unlock_directory(int *lock)
{
	if (*lock >= 0)
		close(*lock);
	*lock = -1;
}

/* ---- reading ---- */

/* Sections of pages that were read last, ready to be taken from. */
#define CACHED STATE_FILE_CACHE_MAX

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
	unsigned cache;               /* so many of them are used */
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
	int r;

	if (f->bytes < STREAM_HEADER_BYTES)
		return error_set(err, -EINVAL, "%s: this is not the state of a VM", f->path);
	r = stream_open(&f->reader, &io, f->path, err);
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
	f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); /* not to wait for the other end of a pipe */
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
	f->cache = CACHED;
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
void state_file_set_cache(struct state_file *f, unsigned sections) { f->cache = sections; }

bool state_file_is_compressed(const struct state_file *f)
{
	for (uint32_t i = 0; i < f->sections; i++)
		if (!strcmp(f->section[i].name, "pages.zstd"))
			return true;
	return false;
}

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

	for (unsigned i = 0; i < f->cache; i++) {
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

static int changed(const struct state_file *f, struct error *err)
{
	return error_set(err, -EBADMSG, "%s: changed while it was in use", f->path);
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
	if (strcmp(section.name, f->section[n].name))
		return changed(f, err);
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
	uint8_t table[PAGES_TABLE_BYTES(PAGES_BATCH)];
	int count, r;

	f->at = f->section[n].at + 1 + strlen(f->section[n].name) + 8;
	r = file_read(f, table, min_u64(sizeof(table), f->section[n].bytes), err);
	if (r)
		return r;
	count = pages_check_table(table, f->section[n].bytes, f->path, err);
	for (int i = 0; i < count; i++) {
		const uint8_t *e = table + PAGES_TABLE_BYTES(i);
		uint64_t page = get_u64(e);

		if (page >= f->pages)
			return error_set(err, -EBADMSG, "%s: a page beyond the end of memory", f->path);
		f->where[page] = (n + 1) | (get_u32(e + 8) == PAGE_ZERO ? PAGE_IS_ZERO : 0);
	}
	return count < 0 ? count : 0;
}

/* A section that is damaged could have been one of pages: all others are read, they are small. */
static int index_section(struct state_file *f, uint32_t n, struct error *err)
{
	struct stream_section section;
	int r;

	if (pages_is_section(f->section[n].name))
		return index_table(f, n, err);
	r = read_section(f, n, &section, err);
	return r < 0 ? r : 0;
}

int state_file_index(struct state_file *f, uint64_t pages, struct error *err)
{
	f->pages = pages;
	f->where = calloc(pages, sizeof(*f->where));
	if (!f->where || f->sections >= PAGE_IS_ZERO - 1)
		return error_set(err, -ENOMEM, "%s: out of memory", f->path);
	for (uint32_t i = 0; i < f->sections; i++) {
		int r = index_section(f, i, err);

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
	return changed(f, err);
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

static int verify_section(struct state_file *f, uint32_t n, struct error *err)
{
	struct stream_section section;
	struct pages pages;
	int r = read_section(f, n, &section, err);

	if (r < 0 || !pages_is_section(section.name))
		return r < 0 ? r : 0;
	r = pages_parse(&pages, &section, f->where ? f->pages : UINT64_MAX, f->path, err);
	pages_free(&pages);
	return r;
}

int state_file_verify(struct state_file *f, struct error *err)
{
	int r = 0;

	for (uint32_t i = 0; i < f->sections && !r; i++)
		r = verify_section(f, i, err);
	return r;
}
