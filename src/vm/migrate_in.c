/* See migrate_in.h. */
#include "vm/migrate_in.h"
#include "vm/migrate.h"
#include "vm/migrate_disks.h"
#include "vm/vm_state.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define TAKE_PAGES 512u /* of those that have arrived, between two runs of the VM */

struct migrate_in {
	struct migrate_in_config cfg;
	struct transport_listener *listener;
	struct migrate_dest *dest;
	int cancel_fd;
	/* the VM that comes */
	struct vm_config vm_cfg;
	struct vm_config_strings strings;
	bool has_strings, connected;
	struct disks_in *disks;  /* NULL: they do not come along */
	uint8_t first[DEVICES_DISKS_MAX][DISKS_FIRST_BYTES]; /* their first sections, until there is a configuration */
	unsigned firsts;
	struct vm *vm;
	struct vm_ticker ticker;
	bool ticking;
};

/* ---- what the protocol asks for ---- */

static int in_accept(void *ctx, struct transport **out, int64_t wait_ms, struct error *err)
{
	struct migrate_in *m = ctx;
	struct transport_config how = m->cfg.how;

	how.cancel_fd = m->cancel_fd;
	return transport_accept(m->listener, out, &how, wait_ms, err);
}

static int in_disk(void *ctx, const void *bytes, size_t n, struct error *err)
{
	struct migrate_in *m = ctx;

	if (!m->cfg.disks)
		return error_set(err, -ENOTSUP, "disks come along, and there is no place for them (gnomon serve --disks)");
	if (m->disks)
		return disks_in_take(m->disks, bytes, n, err);
	if (n != DISKS_FIRST_BYTES || m->firsts == DEVICES_DISKS_MAX)
		return error_set(err, -EPROTO, "disks come before the VM that they belong to");
	memcpy(m->first[m->firsts++], bytes, n);
	return 0;
}

static int make_disks(struct migrate_in *m, struct error *err)
{
	int ret = disks_in_create(&m->disks, &m->vm_cfg, m->cfg.disks, err);

	for (unsigned i = 0; ret == 0 && i < m->firsts; i++)
		ret = disks_in_take(m->disks, m->first[i], DISKS_FIRST_BYTES, err);
	return ret;
}

/* Images may be the source's until it lets go of them: they are opened at the end. */
static int in_create(void *ctx, const void *config, size_t bytes, uint64_t *pages, struct error *err)
{
	struct migrate_in *m = ctx;
	int ret = vm_config_from_section(&m->vm_cfg, &m->strings, config, bytes, err);

	if (ret)
		return ret;
	m->has_strings = true;
	m->vm_cfg.devices.disks_later = true;
	ret = m->cfg.adapt(m->cfg.ctx, &m->vm_cfg, err);
	if (ret == 0 && m->cfg.disks)
		ret = make_disks(m, err);
	if (ret == 0)
		ret = vm_create_empty(&m->vm, &m->vm_cfg, err);
	if (ret == 0)
		*pages = engine_pages(vm_engine(m->vm));
	return ret;
}

static int in_write_page(void *ctx, uint64_t page, const uint8_t *data, struct error *err)
{
	struct engine_vm *vm = vm_engine(((struct migrate_in *)ctx)->vm);
	uint8_t old[PAGE_SIZE];
	int ret;

	if (data)
		ret = engine_mem_write(vm, engine_page_gpa(vm, page), data, PAGE_SIZE);
	else if (engine_page_read(vm, page, old) == 0)
		return 0;
	else
		ret = engine_dma_release(vm, engine_page_gpa(vm, page), PAGE_SIZE);
	return ret ? error_set(err, ret, "page %llu of memory cannot be written", (unsigned long long)page) : 0;
}

static int in_load(void *ctx, const char *name, const void *bytes, size_t n, struct error *err)
{
	return vm_load_section(((struct migrate_in *)ctx)->vm, name, bytes, n, err);
}

static int in_finish(void *ctx, const uint64_t *absent, const struct migrate_fetch *fetch, struct error *err)
{
	struct migrate_in *m = ctx;
	int ret = vm_load_finish(m->vm, err);

	if (ret == 0 && m->disks)
		ret = disks_in_finish(m->disks, err);
	if (ret == 0)
		ret = vm_open_disks(m->vm, err);
	if (ret == 0 && absent) {
		const struct engine_source source = {.fetch = fetch->fetch, .ctx = fetch->ctx};

		ret = engine_set_source(vm_engine(m->vm), &source, absent, err);
	}
	if (ret)
		return ret;
	m->connected = true; /* as far as it comes */
	return m->cfg.connect(m->cfg.ctx, m->vm, err);
}

static void in_hash(void *ctx, uint64_t hash[2])
{
	struct engine_hash h;

	engine_state_hash(vm_engine(((struct migrate_in *)ctx)->vm), &h);
	memcpy(hash, h.all, sizeof(h.all));
}

static void in_drop(void *ctx)
{
	struct migrate_in *m = ctx;

	if (m->connected)
		m->cfg.disconnect(m->cfg.ctx);
	m->connected = false;
	vm_destroy(m->vm);
	m->vm = NULL;
	disks_in_free(m->disks, false);
	m->disks = NULL;
	m->firsts = 0;
	if (m->has_strings)
		vm_config_strings_free(&m->strings);
	m->has_strings = false;
}

static void in_say(void *ctx, const char *line)
{
	const struct migrate_in *m = ctx;

	m->cfg.say(m->cfg.ctx, line);
}

static void in_arrived(void *ctx)
{
	struct migrate_in *m = ctx;

	vm_tick(m->vm, &m->ticker);
}

/* ---- while it runs ---- */

static void touch(void *ctx, uint64_t page)
{
	struct engine_vm *vm = vm_engine(((struct migrate_in *)ctx)->vm);
	uint8_t byte;

	engine_mem_read(vm, engine_page_gpa(vm, page), &byte, 1);
}

static void take_pages(void *ctx)
{
	struct migrate_in *m = ctx;

	if (migrate_dest_take(m->dest, TAKE_PAGES, touch, m))
		vm_tick(m->vm, &m->ticker);
}

int migrate_in_wait(struct migrate_in *m, struct vm **out, struct error *err)
{
	int ret = migrate_dest_wait(m->dest, err);

	if (ret)
		return ret;
	m->ticker = (struct vm_ticker){.tick = take_pages, .ctx = m};
	vm_add_ticker(m->vm, &m->ticker);
	m->ticking = true;
	vm_tick(m->vm, &m->ticker);
	*out = m->vm;
	return migrate_dest_start(m->dest, err);
}

void migrate_in_cancel(struct migrate_in *m) { eventfd_write(m->cancel_fd, 1); }

void migrate_in_finish(struct migrate_in *m)
{
	migrate_dest_end(m->dest);
	if (m->ticking)
		vm_remove_ticker(m->vm, &m->ticker);
	m->ticking = false;
}

/* ---- its life ---- */

static int make(struct migrate_in *m, struct error *err)
{
	const struct migrate_dest_vm vm = {
		.ctx = m, .can_postcopy = true, .create = in_create, .write_page = in_write_page, .disk = in_disk, .load = in_load,
		.finish = in_finish, .hash = in_hash, .drop = in_drop, .say = in_say, .arrived = in_arrived,
	};
	const struct migrate_door door = {.ctx = m, .accept = in_accept};
	int ret;

	m->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->cancel_fd < 0)
		return error_set(err, -errno, "no event descriptor: %s", strerror(errno));
	ret = transport_check(&m->cfg.how, err);
	if (ret == 0)
		ret = transport_listen(&m->listener, &m->cfg.at, err);
	return ret ? ret : migrate_dest_create(&m->dest, &vm, &door, m->cfg.recover_ms, err);
}

int migrate_in_create(struct migrate_in **out, const struct migrate_in_config *cfg, struct error *err)
{
	struct migrate_in *m = calloc(1, sizeof(*m));
	int ret;

	if (!m)
		return error_set(err, -ENOMEM, "out of memory");
	m->cfg = *cfg;
	m->cancel_fd = -1;
	ret = make(m, err);
	if (ret)
		migrate_in_free(m);
	else
		*out = m;
	return ret;
}

const char *migrate_in_name(const struct migrate_in *m) { return transport_listener_name(m->listener); }

void migrate_in_free(struct migrate_in *m)
{
	if (!m)
		return;
	migrate_dest_free(m->dest);
	disks_in_free(m->disks, true);
	transport_listener_close(m->listener);
	if (m->cancel_fd >= 0)
		close(m->cancel_fd);
	if (m->has_strings)
		vm_config_strings_free(&m->strings);
	free(m);
}
