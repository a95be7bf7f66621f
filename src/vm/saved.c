/* Files with a whole VM: reading them. */
#include "base/bitmap.h"
#include "vm/memmap.h"
#include "vm/saved.h"
#include "vm/saved_impl.h"
#include "vm/vm_state.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

/* ---- the section "saved" ---- */

/* From the root on: the reader may stand elsewhere. */
static const char *absolute(const char *path, char buf[PATH_MAX]) { return path && realpath(path, buf) ? buf : path; }

static json_t *disk_json(const struct saved_disk *d)
{
	char path[PATH_MAX], base[PATH_MAX];

	return json_pack("{s:s, s:s?, s:I, s:I, s:b}", "path", absolute(d->path, path), "base", absolute(d->base, base),
			 "bytes", (json_int_t)d->bytes, "changed_ns", (json_int_t)d->changed_ns, "read_only",
			 d->read_only);
}

int saved_put_info(struct stream_writer *w, const struct saved_info *info, struct error *err)
{
	json_t *disks = json_array(), *o;
	int r, bad = 0;
	char *text;

	for (unsigned i = 0; i < info->disks; i++)
		bad |= json_array_append_new(disks, disk_json(&info->disk[i]));
	o = json_pack("{s:s, s:s, s:s, s:s?, s:I, s:I, s:I, s:I, s:o}", "kind", saved_kind_name[info->kind], "id",
		      info->id, "parent_id", info->parent_id, "parent", info->parent, "seconds",
		      (json_int_t)info->seconds, "instructions", (json_int_t)info->insns, "virtual_ns",
		      (json_int_t)info->virtual_ns, "memory", (json_int_t)info->memory, "disks", disks);
	text = o && !bad ? json_dumps(o, JSON_COMPACT) : NULL;
	r = text ? stream_put(w, "saved", text, strlen(text), err) :
		   error_set(err, -EINVAL, "the state cannot be described: a name that is not UTF-8, or out of memory");
	free(text);
	json_decref(o);
	return r;
}

const char *const saved_kind_name[2] = {[SAVED_SUSPENDED] = "suspended", [SAVED_CHECKPOINT] = "checkpoint"};

static bool copy_id(char to[SAVED_ID_BYTES], const char *text, bool may_be_empty)
{
	size_t n = strlen(text);

	if (n >= SAVED_ID_BYTES || strspn(text, "0123456789abcdef") != n || (n != SAVED_ID_BYTES - 1 && (n || !may_be_empty)))
		return false;
	memcpy(to, text, n + 1);
	return true;
}

/* A string, or null. */
static bool read_string(json_t *o, const char **text)
{
	*text = json_string_value(o);
	return *text || json_is_null(o);
}

static bool read_disk(struct saved_disk *d, json_t *o)
{
	json_int_t bytes, changed;
	json_t *base;
	int read_only;

	if (json_unpack(o, "{s:s, s:o, s:I, s:I, s:b}", "path", &d->path, "base", &base, "bytes", &bytes, "changed_ns",
			&changed, "read_only", &read_only) || !read_string(base, &d->base))
		return false;
	d->bytes = (uint64_t)bytes;
	d->changed_ns = changed;
	d->read_only = read_only;
	return true;
}

/* A parent is named, never led to; and names are printed. */
bool saved_name_is_plain(const char *name)
{
	if (!*name || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
		return false;
	for (; *name; name++)
		if ((unsigned char)*name < ' ' || *name == 0x7f)
			return false;
	return true;
}

static bool memory_is_possible(uint64_t bytes)
{
	return bytes >= MEMMAP_MEMORY_MIN && bytes <= MEMMAP_MEMORY_MAX && bytes % PAGE_SIZE == 0;
}

bool saved_read_info(struct saved_info *info, json_t *o)
{
	const char *kind, *id, *parent_id;
	json_int_t seconds, insns, ns, memory;
	json_t *disks, *parent;

	*info = (struct saved_info){.kind = SAVED_SUSPENDED};
	if (json_unpack(o, "{s:s, s:s, s:s, s:o, s:I, s:I, s:I, s:I, s:o}", "kind", &kind, "id", &id, "parent_id",
			&parent_id, "parent", &parent, "seconds", &seconds, "instructions", &insns, "virtual_ns", &ns,
			"memory", &memory, "disks", &disks) || !read_string(parent, &info->parent))
		return false;
	if (!strcmp(kind, saved_kind_name[SAVED_CHECKPOINT]))
		info->kind = SAVED_CHECKPOINT;
	else if (strcmp(kind, saved_kind_name[SAVED_SUSPENDED]))
		return false;
	info->seconds = seconds;
	info->insns = (uint64_t)insns;
	info->virtual_ns = (uint64_t)ns;
	info->memory = (uint64_t)memory;
	if (!copy_id(info->id, id, false) || !copy_id(info->parent_id, parent_id, true) ||
	    !info->parent != !*info->parent_id || (info->parent && !saved_name_is_plain(info->parent)) ||
	    !memory_is_possible(info->memory))
		return false;
	if (!json_is_array(disks) || json_array_size(disks) > DEVICES_DISKS_MAX)
		return false;
	for (; info->disks < json_array_size(disks); info->disks++)
		if (!read_disk(&info->disk[info->disks], json_array_get(disks, info->disks)))
			return false;
	return true;
}

int saved_load_info(struct state_file *f, struct saved_info *info, json_t **json, struct error *err)
{
	struct stream_section s;
	int r = state_file_section(f, "saved", &s, err);
	json_t *o;

	if (r < 0)
		return r;
	o = r ? json_loadb((const char *)s.data, s.bytes, 0, NULL) : NULL;
	if (!o || !saved_read_info(info, o)) {
		json_decref(o);
		return error_set(err, -EINVAL, "%s: this is not the state of a whole VM", state_file_path(f));
	}
	*json = o;
	return 0;
}

/* ---- opening ---- */

static int open_parent(struct saved *s, const struct saved_info *child, struct error *err)
{
	const char *path = state_file_path(s->file[s->files - 1]), *slash = strrchr(path, '/');
	struct error why = {0};
	char *parent;
	int r;

	if (s->files == SAVED_CHAIN_MAX)
		return error_set(err, -ELOOP, "%s: a chain of more than %d files", path, SAVED_CHAIN_MAX);
	if (asprintf(&parent, "%.*s%s", slash ? (int)(slash - path) + 1 : 0, path, child->parent) < 0)
		return error_set(err, -ENOMEM, "%s: out of memory", path);
	r = state_file_open(&s->file[s->files], parent, &why);
	free(parent);
	if (r)
		return error_set(err, r, "%.200s: its parent: %.250s", path, why.text);
	s->files++;
	return 0;
}

/* Opens the parents, one behind the other; each must be the one that is meant. */
static int open_chain(struct saved *s, const char *path, struct error *err)
{
	struct saved_info info;
	json_t *json = NULL;
	int r = state_file_open(&s->file[0], path, err);

	if (r)
		return r;
	s->files = 1;
	r = saved_load_info(s->file[0], &s->info, &s->json, err);
	info = s->info;
	while (!r && info.parent) {
		char want[SAVED_ID_BYTES];
		json_t *child = json;

		memcpy(want, info.parent_id, sizeof(want));
		json = NULL;
		r = open_parent(s, &info, err);
		json_decref(child);
		if (!r)
			r = saved_load_info(s->file[s->files - 1], &info, &json, err);
		if (!r && strcmp(info.id, want))
			r = error_set(err, -EINVAL, "%s: is not the parent of %s, but another state of that name",
				      state_file_path(s->file[s->files - 1]), state_file_path(s->file[s->files - 2]));
		if (!r && info.memory != s->info.memory)
			r = error_set(err, -EINVAL, "%s: memory of another size than its child's",
				      state_file_path(s->file[s->files - 1]));
	}
	json_decref(json);
	return r;
}

/* Sections that each of so many files may keep, so that all together stay bounded. */
static unsigned cache_of(unsigned files)
{
	return (unsigned)max_u64(1, min_u64(STATE_FILE_CACHE_MAX, STATE_FILE_CACHE_MAX * 4 / files));
}

/* Nobody takes a file out of the chain between two that are opened. */
static int open_locked(struct saved *s, const char *path, struct error *err)
{
	int lock, r = state_file_lock_directory(path, false, true, &lock);

	if (r)
		return error_set(err, r, "%s: stopped", path);
	r = open_chain(s, path, err);
	state_file_unlock_directory(&lock);
	for (unsigned i = 0; i < s->files; i++)
		state_file_set_cache(s->file[i], cache_of(s->files));
	return r;
}

int saved_open(struct saved **out, const char *path, struct error *err)
{
	struct saved *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return error_set(err, -ENOMEM, "%s: out of memory", path);
	pthread_mutex_init(&s->lock, NULL);
	r = open_locked(s, path, err);
	if (r) {
		saved_close(s);
		return r;
	}
	*out = s;
	return 0;
}

void saved_close(struct saved *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < s->files; i++)
		state_file_close(s->file[i]);
	vm_config_strings_free(&s->strings);
	json_decref(s->json);
	pthread_mutex_destroy(&s->lock);
	for (unsigned i = 0; i < DEVICES_DISKS_MAX; i++)
		free(s->disk_text[i]);
	free(s->from);
	free(s);
}

const struct saved_info *saved_info(const struct saved *s) { return &s->info; }
unsigned saved_chain(const struct saved *s) { return s->files; }
struct state_file *saved_file(struct saved *s) { return s->file[0]; }

int saved_config(struct saved *s, struct vm_config *cfg, struct error *err)
{
	struct stream_section section;
	int r = state_file_section(s->file[0], VM_STATE_CONFIG, &section, err);

	if (r == 0)
		return error_set(err, -EINVAL, "%s: has no section " VM_STATE_CONFIG, state_file_path(s->file[0]));
	if (r > 0)
		r = vm_config_from_section(cfg, &s->strings, section.data, section.bytes, err);
	if (!r && cfg->engine.memory != s->info.memory)
		r = error_set(err, -EINVAL, "%s: contradicts itself about the size of memory", state_file_path(s->file[0]));
	return r;
}

/* ---- memory ---- */

static int fetch(void *ctx, uint64_t page, uint8_t data[PAGE_SIZE])
{
	struct saved *s = ctx;
	struct error err = {0};
	int r = state_file_page(s->file[s->from[page] - 1], page, data, &err);

	__atomic_fetch_add(&s->asked, 1, __ATOMIC_RELAXED);
	if (!r)
		return 0;
	pthread_mutex_lock(&s->lock);
	if (!*s->failure)
		memcpy(s->failure, err.text, sizeof(s->failure));
	pthread_mutex_unlock(&s->lock);
	return r;
}

const char *saved_failure(const struct saved *s) { return s->failure; }

void saved_pages(const struct saved *s, uint64_t *all, uint64_t *asked)
{
	*all = s->data_pages;
	*asked = __atomic_load_n(&s->asked, __ATOMIC_RELAXED);
}

/* Which file has which page: of those that know it, the youngest. @absent: pages with data. */
static int find_pages(struct saved *s, uint64_t pages, uint64_t *absent, struct error *err)
{
	static_assert(SAVED_CHAIN_MAX <= UINT16_MAX, "numbers of files, plus 1, fit");
	s->pages = pages;
	s->from = calloc(pages, sizeof(*s->from));
	if (!s->from)
		return error_set(err, -ENOMEM, "out of memory");
	for (unsigned i = s->files; i-- > 0;) {
		int r = state_file_index(s->file[i], pages, err);

		for (uint64_t p = 0; !r && p < pages; p++) {
			enum state_file_page has = state_file_has(s->file[i], p);

			if (has != STATE_FILE_NOT_THERE)
				s->from[p] = has == STATE_FILE_DATA ? (uint16_t)(i + 1) : 0;
		}
		if (r)
			return r;
	}
	for (uint64_t p = 0; p < pages; p++)
		if (s->from[p])
			bitmap_set(absent, p), s->data_pages++;
	return 0;
}

static int connect_memory(struct saved *s, struct vm *vm, struct error *err)
{
	const struct engine_source source = {.fetch = fetch, .ctx = s};
	uint64_t pages = engine_pages(vm_engine(vm)), *absent = calloc(pages / 64 + 1, sizeof(*absent));
	int r;

	if (!absent)
		return error_set(err, -ENOMEM, "out of memory");
	r = find_pages(s, pages, absent, err);
	if (!r)
		r = engine_set_source(vm_engine(vm), &source, absent, err);
	free(absent);
	return r;
}

/* ---- making the VM ---- */

static int load_section(void *ctx, const struct stream_section *section, struct error *err)
{
	if (!strcmp(section->name, "saved") || !strcmp(section->name, VM_STATE_CONFIG))
		return 0;
	return vm_load_section(ctx, section->name, section->data, section->bytes, err);
}

int saved_make_vm(struct saved *s, const struct vm_config *cfg, struct vm **out, struct error *err)
{
	struct vm *vm;
	int r = vm_create_empty(&vm, cfg, err);

	if (r)
		return r;
	r = connect_memory(s, vm, err);
	if (!r)
		r = state_file_each(s->file[0], load_section, vm, err);
	if (!r)
		r = vm_load_finish(vm, err);
	if (r) {
		vm_destroy(vm);
		return r;
	}
	*out = vm;
	return 0;
}

int saved_verify(struct saved *s, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < s->files && !r; i++)
		r = state_file_verify(s->file[i], err);
	return r;
}
