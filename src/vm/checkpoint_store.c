#include "vm/checkpoint_store.h"
#include "vm/saved_impl.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define REPORT_EVERY 4096 /* pages */
#define COMPRESS_LEVEL 3  /* of what takes over compressed pages; which one they have is not written down */

/* ---- the list ---- */

static char *join(const char *directory, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", directory, name) < 0 ? NULL : path;
}

static struct checkpoint_entry *add_entry(struct checkpoint_list *list, const char *name)
{
	struct checkpoint_entry *e = realloc(list->entry, (list->count + 1) * sizeof(*e));

	if (!e)
		return NULL;
	list->entry = e;
	e = &list->entry[list->count];
	*e = (struct checkpoint_entry){.name = strdup(name)};
	if (!e->name)
		return NULL;
	list->count++;
	return e;
}

/* Fills in what a file says of itself. Strings of the info are not kept. */
static void describe_file(struct checkpoint_entry *e, struct state_file *f)
{
	struct error why;
	json_t *json;

	e->bytes = state_file_bytes(f);
	if (saved_load_info(f, &e->info, &json, &why)) {
		e->problem = "not the state of a whole VM";
		e->info = (struct saved_info){.kind = SAVED_SUSPENDED};
		return;
	}
	e->parent = e->info.parent ? strdup(e->info.parent) : NULL;
	e->info.parent = NULL;
	memset(e->info.disk, 0, sizeof(e->info.disk));
	json_decref(json);
}

/* Why a file could not be opened, as a problem of a state; NULL: it is something else, or has gone. */
static const char *problem_of_opening(int code)
{
	switch (code) {
	case -EINVAL:
	case -EISDIR:
	case -ENOENT:
	case -ENXIO: /* a socket */
		return NULL;
	case -EBADMSG:
	case -EFBIG:
	case -ENODATA:
		return "damaged or cut off";
	case -ENOTSUP:
		return "of a version that is not known here";
	default:
		return "cannot be read";
	}
}

/* 0 also for files that are something else: they do not begin as states do. */
static int look_at(struct checkpoint_list *list, const char *directory, const char *name, struct error *err)
{
	char *path = join(directory, name);
	struct checkpoint_entry *e;
	struct state_file *f;
	struct error why;
	int r;

	if (!path)
		return error_set(err, -ENOMEM, "out of memory");
	r = state_file_open(&f, path, &why);
	free(path);
	if (r && !problem_of_opening(r))
		return 0;
	e = add_entry(list, name);
	if (!e) {
		if (!r)
			state_file_close(f);
		return error_set(err, -ENOMEM, "out of memory");
	}
	if (r) {
		e->problem = problem_of_opening(r);
		return 0;
	}
	describe_file(e, f);
	state_file_close(f);
	return 0;
}

static int by_time(const void *a, const void *b)
{
	const struct checkpoint_entry *x = a, *y = b;

	if (x->info.seconds != y->info.seconds)
		return x->info.seconds < y->info.seconds ? -1 : 1;
	return x->info.insns != y->info.insns ? x->info.insns < y->info.insns ? -1 : 1 : strcmp(x->name, y->name);
}

static const struct checkpoint_entry *find_name(const struct checkpoint_list *list, const char *name)
{
	for (unsigned i = 0; i < list->count; i++)
		if (!strcmp(list->entry[i].name, name))
			return &list->entry[i];
	return NULL;
}

static const char *problem_of(const struct checkpoint_list *list, const struct checkpoint_entry *e)
{
	unsigned hops = 0;

	if (e->problem)
		return e->problem;
	for (; e->parent; hops++) {
		const struct checkpoint_entry *parent = find_name(list, e->parent);

		if (!parent)
			return "its chain is broken: a parent is missing";
		if (!*parent->info.id)
			return "its chain is broken: a parent cannot be used";
		if (strcmp(parent->info.id, e->info.parent_id))
			return "its chain is broken: a parent is another state than it should be";
		if (hops == SAVED_CHAIN_MAX - 1)
			return "its chain is too long";
		e = parent;
	}
	return NULL;
}

static bool may_be_state(const struct dirent *e)
{
	return (e->d_type == DT_REG || e->d_type == DT_UNKNOWN || e->d_type == DT_LNK) && !state_file_is_part(e->d_name);
}

int checkpoint_list_read(struct checkpoint_list *list, const char *directory, struct error *err)
{
	DIR *d = opendir(directory);
	struct dirent *e;
	int r = 0;

	*list = (struct checkpoint_list){.count = 0};
	if (!d)
		return error_set(err, -errno, "%s: %s", directory, strerror(errno));
	while (!r && (e = readdir(d)))
		if (may_be_state(e))
			r = look_at(list, directory, e->d_name, err);
	closedir(d);
	if (r) {
		checkpoint_list_free(list);
		return r;
	}
	if (list->count)
		qsort(list->entry, list->count, sizeof(*list->entry), by_time);
	for (unsigned i = 0; i < list->count; i++)
		list->entry[i].problem = problem_of(list, &list->entry[i]);
	return 0;
}

void checkpoint_list_free(struct checkpoint_list *list)
{
	for (unsigned i = 0; i < list->count; i++) {
		free(list->entry[i].name);
		free(list->entry[i].parent);
	}
	free(list->entry);
	*list = (struct checkpoint_list){.count = 0};
}

/* ---- deleting ---- */

/* A child, its parent that is to go, and the child as it will be. */
struct merge {
	struct state_file *child, *parent;
	struct saved_info info;      /* the child's, with the parent's parent */
	struct state_file_writer *to;
	struct pages_writer pages;
	const struct saved_progress *progress;
};

static int copy_section(void *ctx, const struct stream_section *s, struct error *err)
{
	struct merge *m = ctx;

	return strcmp(s->name, "saved") ? stream_put(state_file_stream(m->to), s->name, s->data, s->bytes, err) : 0;
}

/* One page as it is to be: the child's, or what the parent has. Zeros need saying only if there is still a parent. */
static int merge_page(struct merge *m, uint64_t page, struct error *err)
{
	_Alignas(8) uint8_t data[PAGE_SIZE];
	struct state_file *from = state_file_has(m->child, page) != STATE_FILE_NOT_THERE ? m->child : m->parent;
	enum state_file_page has = state_file_has(from, page);
	int r;

	if (has == STATE_FILE_NOT_THERE || (has == STATE_FILE_ZERO && !m->info.parent))
		return 0;
	r = state_file_page(from, page, data, err);
	return r ? r : pages_put(&m->pages, page, has == STATE_FILE_ZERO ? NULL : data, err);
}

static int merge_pages(struct merge *m, struct error *err)
{
	int level = state_file_is_compressed(m->child) || state_file_is_compressed(m->parent) ? COMPRESS_LEVEL : 0;
	uint64_t pages = m->info.memory >> PAGE_SHIFT;
	int r = state_file_index(m->child, pages, err);

	if (!r)
		r = state_file_index(m->parent, pages, err);
	if (!r)
		r = pages_writer_init(&m->pages, state_file_stream(m->to), level, err);
	for (uint64_t page = 0; page < pages && !r; page++) {
		r = merge_page(m, page, err);
		if (!r && page % REPORT_EVERY == 0 && m->progress && m->progress->report &&
		    m->progress->report(m->progress->ctx, page, pages))
			r = error_set(err, -ECANCELED, "stopped: nothing was deleted");
	}
	if (!r)
		r = pages_flush(&m->pages, err);
	pages_writer_fini(&m->pages);
	return r;
}

static int write_merged(struct merge *m, struct error *err)
{
	int r = saved_put_info(state_file_stream(m->to), &m->info, err);

	if (!r)
		r = state_file_each(m->child, copy_section, m, err);
	return r ? r : merge_pages(m, err);
}

static int merge_open(struct merge *m, const char *path, const struct saved_info *gone, struct error *err)
{
	json_t *json = NULL;
	int r = saved_load_info(m->child, &m->info, &json, err);

	if (!r && m->info.memory != gone->memory)
		r = error_set(err, -EINVAL, "%s: memory of another size than its parent's", path);
	if (!r) {
		m->info.parent = gone->parent;
		memcpy(m->info.parent_id, gone->parent_id, sizeof(gone->parent_id));
		r = state_file_create(&m->to, path, true, err);
	}
	if (!r)
		r = write_merged(m, err);
	if (!r)
		r = state_file_commit(m->to, err);
	else
		state_file_abandon(m->to);
	json_decref(json);
	return r;
}

/* Has the child at @path take over what it needs of the file at @gone_path. */
static int take_over(const char *path, const char *gone_path, const struct saved_info *gone,
		     const struct saved_progress *progress, struct error *err)
{
	struct merge m = {.progress = progress};
	int r = state_file_open(&m.child, path, err);

	if (!r)
		r = state_file_open(&m.parent, gone_path, err);
	if (!r)
		r = merge_open(&m, path, gone, err);
	state_file_close(m.child);
	state_file_close(m.parent);
	return r;
}

/* Everything in the directory whose parent it is. A damaged file there could be one: then nothing is deleted. */
static int take_over_all(const char *directory, const char *path, const struct saved_info *gone,
			 const struct saved_progress *progress, unsigned *children, struct error *err)
{
	struct checkpoint_list list;
	int r = checkpoint_list_read(&list, directory, err);

	for (unsigned i = 0; !r && i < list.count; i++) {
		char *child = join(directory, list.entry[i].name);

		if (!child)
			r = error_set(err, -ENOMEM, "out of memory");
		else if (!*list.entry[i].info.id)
			r = error_set(err, -EBADMSG, "%s: is damaged, and may need what is to be deleted", child);
		else if (!strcmp(list.entry[i].info.parent_id, gone->id))
			r = take_over(child, path, gone, progress, err), *children += !r;
		free(child);
	}
	if (list.count)
		checkpoint_list_free(&list);
	return r;
}

/* Nobody gets a child of it meanwhile: see state_file_lock_directory(). */
static int delete_alone(const char *path, const struct saved_progress *progress, unsigned *children, struct error *err)
{
	const char *slash = strrchr(path, '/');
	char *directory = !slash ? strdup(".") : strndup(path, slash == path ? 1 : (size_t)(slash - path));
	struct saved_info gone;
	struct state_file *f;
	json_t *json = NULL;
	int r = directory ? state_file_open(&f, path, err) : error_set(err, -ENOMEM, "out of memory");

	if (r) {
		free(directory);
		return r;
	}
	r = saved_load_info(f, &gone, &json, err);
	state_file_close(f);
	if (!r)
		r = take_over_all(directory, path, &gone, progress, children, err);
	if (!r && unlink(path))
		r = error_set(err, -errno, "%s: %s", path, strerror(errno));
	json_decref(json);
	free(directory);
	return r;
}

int checkpoint_delete(const char *path, const struct saved_progress *progress, unsigned *children, struct error *err)
{
	int lock, r = state_file_lock_directory(path, true, true, &lock);

	*children = 0;
	if (r)
		return error_set(err, -ECANCELED, "stopped: nothing was deleted");
	r = delete_alone(path, progress, children, err);
	state_file_unlock_directory(&lock);
	return r;
}
