/* Files with a whole VM: suspending it. */
#include "vm/saved_impl.h"
#include "vm/vm_state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#define REPORT_EVERY 4096 /* pages */

void saved_new_id(char id[SAVED_ID_BYTES])
{
	uint8_t raw[(SAVED_ID_BYTES - 1) / 2] = {0};

	while (getrandom(raw, sizeof(raw), 0) != sizeof(raw))
		;
	for (unsigned i = 0; i < sizeof(raw); i++)
		snprintf(id + 2 * i, 3, "%02x", raw[i]);
}

static int describe_disk(struct saved_disk *d, const char *path, bool read_only, struct error *err)
{
	struct stat st;

	if (stat(path, &st))
		return error_set(err, -errno, "disk %s: %s", path, strerror(errno));
	*d = (struct saved_disk){.path = path, .bytes = (uint64_t)st.st_size, .changed_ns = saved_time_of(&st),
				 .read_only = read_only};
	return 0;
}

int saved_describe(struct saved_info *info, struct vm *vm, struct error *err)
{
	struct engine_vm *engine = vm_engine(vm);

	info->seconds = time(NULL);
	info->insns = engine_insns(engine);
	info->virtual_ns = engine_now(engine);
	info->memory = vm_get_config(vm)->engine.memory;
	info->disks = 0;
	for (unsigned i = 0; i < DEVICES_DISKS_MAX; i++) {
		bool read_only;
		const char *path = vm_disk(vm, i, &read_only);
		int r = path ? describe_disk(&info->disk[i], path, read_only, err) : 0;

		if (r)
			return r;
		info->disks += path != NULL;
	}
	return 0;
}

static int put_section(void *ctx, const char *name, const void *bytes, size_t n, struct error *err)
{
	return stream_put(ctx, name, bytes, n, err);
}

static int put_memory(struct vm *vm, struct stream_writer *w, const struct suspend_options *o, struct error *err)
{
	_Alignas(8) uint8_t data[PAGE_SIZE];
	uint64_t pages = engine_pages(vm_engine(vm));
	struct pages_writer out;
	int r = pages_writer_init(&out, w, o->compress, err);

	for (uint64_t page = 0; !r && page < pages; page++) {
		int has = engine_page_read(vm_engine(vm), page, data);

		if (has < 0)
			r = error_set(err, has, "memory page %llu could not be had", (unsigned long long)page);
		else if (has && !pages_is_zero(data))
			r = pages_put(&out, page, data, err);
		if (!r && page % REPORT_EVERY == 0 && o->progress.report && o->progress.report(o->progress.ctx, page, pages))
			r = error_set(err, -ECANCELED, "stopped");
	}
	if (!r)
		r = pages_flush(&out, err);
	pages_writer_fini(&out);
	return r;
}

static int write_all(struct vm *vm, struct stream_writer *w, const struct suspend_options *o, struct error *err)
{
	const struct state_sink sink = {.ctx = w, .section = put_section};
	struct saved_info info = {.kind = SAVED_SUSPENDED};
	int r;

	saved_new_id(info.id);
	/* The state first: it brings the disks' files to where they stay. */
	r = vm_save_state(vm, &sink, err);
	if (!r)
		r = saved_describe(&info, vm, err);
	if (!r)
		r = saved_put_info(w, &info, err);
	return r ? r : put_memory(vm, w, o, err);
}

int vm_suspend(struct vm *vm, const char *path, const struct suspend_options *o, struct error *err)
{
	struct state_file_writer *w;
	int r = state_file_create(&w, path, o->replace, err);

	if (r)
		return r;
	r = vm_quiesce(vm);
	if (r)
		error_set(err, r, "the guest ended before it could be suspended");
	else
		r = write_all(vm, state_file_stream(w), o, err);
	if (r) {
		state_file_abandon(w);
		return r;
	}
	r = state_file_commit(w, err);
	if (!r)
		vm_leave(vm, VM_END_SUSPENDED);
	return r;
}
