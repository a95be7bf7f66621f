/*
 * Building and writing the JSON report of a run. Reading it back is lab/compare.c.
 */
#include "lab/report.h"
#include "arch/vmx.h"
#include "lab/cost.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

const char *report_exit_reason_name(unsigned reason)
{
	switch (reason) {
#define X(sym, number, name) case number: return name;
		VMX_EXIT_REASONS(X)
#undef X
	}
	return NULL;
}

/* jansson's integers are signed; counts that large do not occur. */
static void put(json_t *o, const char *key, uint64_t v)
{
	json_object_set_new(o, key, json_integer((json_int_t)v));
}

static void put_string(json_t *o, const char *key, const char *s)
{
	json_object_set_new(o, key, json_string(s));
}

static void put_kib(json_t *o, const char *key, uint64_t bytes) { put(o, key, (bytes + 1023) >> 10); }

static void put_hash(json_t *o, const char *key, const uint64_t h[2])
{
	char hex[33];

	snprintf(hex, sizeof(hex), "%016" PRIx64 "%016" PRIx64, h[1], h[0]);
	put_string(o, key, hex);
}

static json_t *build_features(const struct cpu_config *cpu)
{
	static const char *const name[CPUF_COUNT] = {
#define X(sym, text, leaf, sub, reg, bit) text,
		CPU_FEATURES(X)
#undef X
	};
	json_t *a = json_array();

	for (unsigned i = 0; i < CPUF_COUNT; i++)
		if (cpu->feature[i])
			json_array_append_new(a, json_string(name[i]));
	return a;
}

static json_t *build_strings(const char *const *text, unsigned n)
{
	json_t *a = json_array();

	for (unsigned i = 0; i < n; i++)
		json_array_append_new(a, json_string(text[i]));
	return a;
}

static json_t *build_device_config(const struct devices_config *d)
{
	json_t *o = json_object();

	json_object_set_new(o, "disk", build_strings(d->disk, d->disks));
	json_object_set_new(o, "net", build_strings(d->net, d->nets));
	json_object_set_new(o, "rng", json_boolean(d->rng));
	json_object_set_new(o, "balloon_kib",
			    d->balloon ? json_integer((json_int_t)(d->balloon_bytes >> 10)) : json_null());
	json_object_set_new(o, "virtio_console", json_boolean(d->console));
	json_object_set_new(o, "packed", json_boolean(d->packed));
	return o;
}

static json_t *build_config(const struct vm_config *cfg)
{
	static const char *const pages[] = {[HOST_PAGES_4K] = "4k", [HOST_PAGES_2M] = "2m", [HOST_PAGES_1G] = "1g"};
	const struct engine_config *e = &cfg->engine;
	json_t *o = json_object();

	if (cfg->firmware)
		put_string(o, "firmware", cfg->firmware);
	else
		put_string(o, "kernel", cfg->kernel);
	json_object_set_new(o, "initrd", cfg->initrd ? json_string(cfg->initrd) : json_null());
	put_string(o, "append", cfg->append);
	put_kib(o, "memory_kib", e->memory);
	json_object_set_new(o, "devices", build_device_config(&cfg->devices));
	put_string(o, "clock", cfg->clock == VM_CLOCK_WALL ? "wall" : "icount");
	json_object_set_new(o, "limit_insns",
			    cfg->limit_insns == UINT64_MAX ? json_null() : json_integer((json_int_t)cfg->limit_insns));
	put_string(o, "host_pages", pages[e->host_pages]);
	put_string(o, "shadow_sync", e->shadow_sync_always ? "always" : "lazy");
	put_kib(o, "shadow_memory_kib", e->shadow_memory);
	json_object_set_new(o, "audit", json_boolean(e->audit));
	json_object_set_new(o, "audit_every", json_integer((json_int_t)(e->audit ? max_u64(e->audit_every, 1) : 0)));
	json_object_set_new(o, "audit_registers", json_boolean(e->audit_registers));
	put(o, "maxphyaddr", e->cpu.maxphyaddr);
	json_object_set_new(o, "mitigations", json_boolean(e->cpu.mitigations));
	put(o, "seed", e->cpu.seed);
	json_object_set_new(o, "fast_path", json_boolean(e->cpu.fast_path));
	put_string(o, "hw", e->cpu.hw.name);
	json_object_set_new(o, "data_cache", json_boolean(e->cpu.data_cache));
	json_object_set_new(o, "vpid", json_boolean(!e->no_vpid));
	json_object_set_new(o, "cpu_features", build_features(&e->cpu));
	return o;
}

static json_t *build_guest(const struct vm_result *r, const struct report_host *host)
{
	json_t *o = json_object();

	put_string(o, "exit", vm_end_name[r->end]);
	put(o, "exit_code", (uint64_t)host->exit_code);
	put_string(o, "message", r->message);
	put(o, "instructions", r->insns);
	put(o, "resumed_at", r->resumed_at);
	json_object_set_new(o, "virtual_seconds", json_real((double)r->virtual_ns / 1e9));
	put_hash(o, "state_hash", r->hash.all);
	put_hash(o, "state_hash_no_accessed", r->hash.no_accessed);
	put_hash(o, "memory_hash", r->hash.memory);
	return o;
}

static json_t *build_host(const struct vm_result *r, const struct report_host *host)
{
	json_t *o = json_object();

	json_object_set_new(o, "ready_seconds", json_real(host->ready_seconds));
	json_object_set_new(o, "user_seconds", json_real(host->user_seconds));
	json_object_set_new(o, "wall_seconds", json_real(r->wall_seconds));
	put(o, "max_rss_kib", host->max_rss_kib);
	return o;
}

/* Exits by the names of their reasons; those that did not occur are left out. */
static json_t *build_reasons(const uint64_t by_reason[OBS_EXIT_REASONS])
{
	json_t *by = json_object();

	for (unsigned i = 0; i < OBS_EXIT_REASONS; i++) {
		const char *name = report_exit_reason_name(i);
		char number[32];

		if (!by_reason[i])
			continue;
		snprintf(number, sizeof(number), "reason %u", i);
		put(by, name ? name : number, by_reason[i]);
	}
	return by;
}

static json_t *build_exits(const struct obs *obs)
{
	json_t *o = json_object();

	put(o, "total", obs->exits.total);
	json_object_set_new(o, "by_reason", build_reasons(obs->exits.by_reason));
	return o;
}

static json_t *build_levels(const struct obs *obs)
{
	const struct obs_levels *l = &obs->levels;
	json_t *o = json_object();

	put(o, "l1_vmx", l->l1_vmx);
	put(o, "entries", l->entries);
	put(o, "exits", l->exits);
	json_object_set_new(o, "by_reason", build_reasons(l->by_reason));
	put(o, "by_l0", l->by_l0);
	put(o, "reflected", l->reflected);
	json_object_set_new(o, "reflected_by_reason", build_reasons(l->reflected_by_reason));
	put(o, "composed", l->composed);
	put(o, "dropped_entries", l->dropped_entries);
	put(o, "dropped", l->dropped);
	put(o, "ept12_walks", l->ept12_walks);
	put(o, "logged", l->logged);
	put(o, "ept02_kib", l->ept02_bytes >> 10);
	return o;
}

static json_t *build_faults(const struct obs *obs)
{
	json_t *o = json_object();

	put(o, "guest", obs->faults.guest);
	put(o, "true", obs->faults.true_faults);
	put(o, "hidden", obs->faults.hidden);
	put(o, "traced_writes", obs->faults.traced_writes);
	put(o, "traced_reads", obs->faults.traced_reads);
	put(o, "ept_violations", obs->faults.ept_violations);
	return o;
}

static json_t *build_places(const uint64_t hits[OBS_PLACES])
{
	static const char *const place[OBS_PLACES] = {[HW_L1] = "l1", [HW_L2] = "l2", [HW_LLC] = "llc",
						      [HW_MEMORY] = "memory"};
	json_t *o = json_object();

	for (unsigned i = 0; i < OBS_PLACES; i++)
		put(o, place[i], hits[i]);
	return o;
}

static json_t *build_walk_cache(const uint64_t hits[OBS_LEVELS], uint64_t misses)
{
	static const char *const level[OBS_LEVELS] = {NULL, "pte", "pde", "pdpte", "pml4e", "pml5e"};
	json_t *o = json_object();

	for (unsigned i = 1; i < OBS_LEVELS; i++)
		put(o, level[i], hits[i]);
	put(o, "misses", misses);
	return o;
}

static json_t *build_walk_caches(const struct obs *obs)
{
	json_t *o = json_object();

	json_object_set_new(o, "guest", build_walk_cache(obs->translation.guest_cache_hits,
							 obs->translation.guest_cache_misses));
	json_object_set_new(o, "host", build_walk_cache(obs->translation.host_cache_hits,
							obs->translation.host_cache_misses));
	return o;
}

static json_t *build_nested_tlb(const struct obs *obs)
{
	json_t *o = json_object();

	put(o, "hits", obs->translation.nested_tlb_hits);
	put(o, "misses", obs->translation.nested_tlb_misses);
	return o;
}

static json_t *build_dmt(const struct obs *obs)
{
	json_t *o = json_object();

	put(o, "lookups", obs->translation.dmt.lookups);
	put(o, "guest_hits", obs->translation.dmt.hits[0]);
	put(o, "host_hits", obs->translation.dmt.hits[1]);
	put(o, "second_host_hits", obs->translation.dmt.hits[2]);
	put(o, "misses", obs->translation.dmt.misses);
	put(o, "translations", obs->translation.dmt.translations);
	put(o, "fallbacks", obs->translation.dmt.fallbacks);
	put(o, "reloads", obs->translation.dmt.reloads);
	put(o, "reload_refs", obs->translation.dmt.reload_refs);
	json_object_set_new(o, "reload_hits", build_places(obs->translation.dmt.reload_hits));
	put(o, "refused", obs->translation.dmt.refused);
	return o;
}

/* Agile walks by the level at which they went on in the guest's tables. */
static json_t *build_agile(const struct obs *obs)
{
	static const char *const level[OBS_LEVELS] = {"shadow", "pte", "pde", "pdpte", "pml4e", "pml5e"};
	json_t *o = json_object();

	for (unsigned i = 0; i < OBS_LEVELS; i++)
		put(o, level[i], obs->translation.agile[i]);
	return o;
}

static json_t *build_translation(const struct obs *obs)
{
	json_t *o = json_object(), *by = json_object();

	for (unsigned i = 0; i <= OBS_REFS_MAX; i++) {
		char refs[16];

		snprintf(refs, sizeof(refs), "%u", i);
		if (obs->translation.by_refs[i])
			put(by, refs, obs->translation.by_refs[i]);
	}
	put(o, "walks", obs->translation.walks);
	put(o, "refs", obs->translation.refs);
	put(o, "refs_max", obs->translation.refs_max);
	json_object_set_new(o, "by_refs", by);
	put(o, "guest_refs", obs->translation.guest_refs);
	put(o, "host_refs", obs->translation.host_refs);
	json_object_set_new(o, "ref_hits", build_places(obs->translation.ref_hits));
	json_object_set_new(o, "walk_caches", build_walk_caches(obs));
	json_object_set_new(o, "nested_tlb", build_nested_tlb(obs));
	json_object_set_new(o, "dmt", build_dmt(obs));
	json_object_set_new(o, "agile", build_agile(obs));
	put(o, "repeated", obs->translation.repeated);
	put(o, "splintered", obs->translation.splintered);
	put(o, "flushes", obs->translation.flushes);
	put(o, "l1d_misses", obs->translation.l1d_misses);
	put(o, "l1i_misses", obs->translation.l1i_misses);
	put(o, "l2d_hits", obs->translation.l2d_hits);
	put(o, "l2d_misses", obs->translation.l2d_misses);
	put(o, "l2i_hits", obs->translation.l2i_hits);
	put(o, "l2i_misses", obs->translation.l2i_misses);
	json_object_set_new(o, "data_hits", build_places(obs->translation.data_hits));
	return o;
}

static json_t *build_hypervisor(const struct obs *obs)
{
	json_t *o = json_object();

	put(o, "entries", obs->hypervisor.entries);
	put(o, "vmreads", obs->hypervisor.vmreads);
	put(o, "vmwrites", obs->hypervisor.vmwrites);
	put(o, "invepts", obs->hypervisor.invepts);
	put(o, "invvpids", obs->hypervisor.invvpids);
	put(o, "table_reads", obs->hypervisor.table_reads);
	put(o, "table_writes", obs->hypervisor.table_writes);
	put(o, "world_switches", obs->hypervisor.world_switches);
	return o;
}

static json_t *build_tables(const struct obs *obs)
{
	json_t *o = json_object();

	put_kib(o, "shadow_kib", obs->tables.shadow_bytes);
	put_kib(o, "shadow_kib_max", obs->tables.shadow_bytes_max);
	put_kib(o, "ept_kib", obs->tables.ept_bytes);
	put_kib(o, "p2m_kib", obs->tables.p2m_bytes);
	put(o, "guest_frames", obs->tables.guest_frames);
	return o;
}

static json_t *build_shadow(const struct obs *obs)
{
	json_t *o = json_object();

	put(o, "fills", obs->shadow.fills);
	put(o, "prefetched", obs->shadow.prefetched);
	put(o, "zapped", obs->shadow.zapped);
	put(o, "recycled", obs->shadow.recycled);
	put(o, "unsynced", obs->shadow.unsynced);
	put(o, "resynced", obs->shadow.resynced);
	put(o, "flooded", obs->shadow.flooded);
	put(o, "cr3_hits", obs->shadow.cr3_hits);
	put(o, "cr3_misses", obs->shadow.cr3_misses);
	put(o, "emulated", obs->shadow.emulated);
	return o;
}

/* What trackers counted; what they found is added by who armed one. */
static json_t *build_tracking(const struct obs *obs)
{
	json_t *o = json_object();

	put(o, "collections", obs->tracking.collections);
	put(o, "pages", obs->tracking.pages);
	put(o, "faults", obs->tracking.faults);
	put(o, "logged", obs->tracking.logged);
	put(o, "log_full", obs->exits.by_reason[EXIT_REASON_PML_FULL]);
	put(o, "splits", obs->tracking.splits);
	return o;
}

static json_t *build_pv(const struct obs *obs)
{
	json_t *o = json_object();

	put(o, "requests", obs->pv.requests);
	put(o, "refused", obs->pv.refused);
	put(o, "huge_regions", obs->pv.huge_regions);
	put(o, "huge_failed", obs->pv.huge_failed);
	put(o, "runs", obs->pv.runs);
	put(o, "runs_failed", obs->pv.runs_failed);
	put(o, "moved", obs->pv.moved);
	return o;
}

static json_t *build_nested(const struct obs *obs)
{
	json_t *o = json_object();

	put(o, "reflected", obs->nested.reflected);
	put(o, "vmreads", obs->nested.vmreads);
	put(o, "vmwrites", obs->nested.vmwrites);
	put(o, "invvpids", obs->nested.invvpids);
	put(o, "invepts", obs->nested.invepts);
	put(o, "l1_violations", obs->nested.l1_violations);
	put(o, "l1_requests", obs->nested.l1_requests);
	put(o, "filled_by_l1", obs->nested.filled_by_l1);
	put(o, "filled_by_l0", obs->nested.filled_by_l0);
	put(o, "ept12_kib", obs->nested.ept12_bytes >> 10);
	return o;
}

static json_t *build_agile_tables(const struct obs *obs)
{
	json_t *o = json_object();

	put(o, "to_nested", obs->agile.to_nested);
	put(o, "to_shadow", obs->agile.to_shadow);
	put(o, "kept", obs->agile.kept);
	put(o, "intervals", obs->agile.intervals);
	put(o, "nested", obs->agile.nested);
	return o;
}

static json_t *build_cpu(const struct obs *obs)
{
	json_t *o = json_object();

	put(o, "blocks_decoded", obs->cpu.blocks_decoded);
	put(o, "instructions_decoded", obs->cpu.insns_decoded);
	put(o, "blocks_invalidated", obs->cpu.blocks_invalidated);
	put(o, "interrupts", obs->cpu.interrupts);
	put(o, "exceptions", obs->cpu.exceptions);
	return o;
}

static json_t *build_devices(const struct obs *obs)
{
	json_t *o = json_object();

	put(o, "doorbells", obs->devices.doorbells);
	put(o, "chains", obs->devices.chains);
	put(o, "interrupts", obs->devices.interrupts);
	put(o, "bytes_read", obs->devices.bytes_read);
	put(o, "bytes_written", obs->devices.bytes_written);
	return o;
}

/* Cycles have fractions only because instructions may. */
static void put_cycles(json_t *o, const char *key, double cycles) { put(o, key, (uint64_t)(cycles + 0.5)); }

static json_t *build_cycles(const struct cost *c)
{
	const struct { const char *key; double cycles; } part[] = {
		{"instructions", c->instructions}, {"l2_tlb", c->l2_tlb}, {"walks", c->walks},
		{"references", c->references}, {"walk_caches", c->walk_caches}, {"registers", c->registers}, {"data", c->data},
		{"events", c->events}, {"exits", c->exits}, {"entries", c->entries}, {"dispatch", c->dispatch},
		{"vmcs", c->vmcs}, {"invalidations", c->invalidations}, {"emulation", c->emulation},
		{"tables", c->tables}, {"total", c->total},
	};
	json_t *o = json_object();

	for (unsigned i = 0; i < ARRAY_SIZE(part); i++)
		put_cycles(o, part[i].key, part[i].cycles);
	return o;
}

static json_t *build_cost(const struct hw *hw, const struct obs *obs, uint64_t insns)
{
	json_t *o = json_object(), *share = json_object();
	struct cost c;
	double total;

	cost_account(hw, obs, insns, &c);
	total = c.total > 0 ? c.total : 1;
	json_object_set_new(share, "translation", json_real(c.translation / total));
	json_object_set_new(share, "hypervisor", json_real(c.hypervisor / total));
	json_object_set_new(share, "exits", json_real((c.exits + c.entries) / total));
	put_string(o, "hw", hw->name);
	json_object_set_new(o, "cycles", build_cycles(&c));
	json_object_set_new(o, "share", share);
	return o;
}

struct report_host report_measure_host(int exit_code)
{
	struct rusage ru;

	getrusage(RUSAGE_SELF, &ru);
	return (struct report_host){.user_seconds = (double)ru.ru_utime.tv_sec + (double)ru.ru_utime.tv_usec / 1e6,
				    .max_rss_kib = (uint64_t)ru.ru_maxrss,
				    .exit_code = exit_code};
}

void report_put_counts(json_t *o, const struct obs *obs)
{
	json_object_set_new(o, "exits", build_exits(obs));
	json_object_set_new(o, "faults", build_faults(obs));
	json_object_set_new(o, "translation", build_translation(obs));
	json_object_set_new(o, "shadow", build_shadow(obs));
	json_object_set_new(o, "hypervisor", build_hypervisor(obs));
}

json_t *report_build(const struct vm_config *cfg, const struct vm_result *r, const struct report_host *host)
{
	json_t *o = json_object();

	put_string(o, "schema", REPORT_SCHEMA);
	put_string(o, "mmu", engine_mmu_name[cfg->engine.mmu]);
	json_object_set_new(o, "config", build_config(cfg));
	json_object_set_new(o, "guest", build_guest(r, host));
	json_object_set_new(o, "host", build_host(r, host));
	json_object_set_new(o, "tables", build_tables(&r->obs));
	report_put_counts(o, &r->obs);
	json_object_set_new(o, "tracking", build_tracking(&r->obs));
	json_object_set_new(o, "pv", build_pv(&r->obs));
	json_object_set_new(o, "nested", build_nested(&r->obs));
	json_object_set_new(o, "levels", build_levels(&r->obs));
	json_object_set_new(o, "agile", build_agile_tables(&r->obs));
	json_object_set_new(o, "cpu", build_cpu(&r->obs));
	json_object_set_new(o, "devices", build_devices(&r->obs));
	json_object_set_new(o, "cost", build_cost(&cfg->engine.cpu.hw, &r->obs, r->insns - r->resumed_at));
	return o;
}

/* ---- the file ---- */

static int file_error(const struct report_file *f, int code, struct error *err)
{
	return error_set(err, code, "report '%s': cannot be written: %s", f->path, strerror(-code));
}

int report_file_open(struct report_file *f, const char *path, struct error *err)
{
	struct stat st;
	mode_t mask;

	*f = (struct report_file){.path = path, .fd = -1};
	if (stat(path, &st) == 0) {
		if (S_ISDIR(st.st_mode))
			return file_error(f, -EISDIR, err);
		if (!S_ISREG(st.st_mode)) {
			f->fd = open(path, O_WRONLY | O_CLOEXEC);
			return f->fd < 0 ? file_error(f, -errno, err) : 0;
		}
		if (access(path, W_OK))
			return file_error(f, -errno, err);
	}
	if (asprintf(&f->temp, "%s.XXXXXX", path) < 0) {
		f->temp = NULL;
		return file_error(f, -ENOMEM, err);
	}
	f->fd = mkostemp(f->temp, O_CLOEXEC);
	if (f->fd < 0) {
		int code = -errno;

		free(f->temp);
		f->temp = NULL;
		return file_error(f, code, err);
	}
	/* mkstemp makes files private; a report is an ordinary file. */
	mask = umask(0);
	umask(mask);
	fchmod(f->fd, 0666 & ~mask);
	return 0;
}

void report_file_abandon(struct report_file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
	if (f->temp)
		unlink(f->temp);
	free(f->temp);
	f->temp = NULL;
}

/* Closes fd, so that a full disk is noticed. @ret: how writing it went; returns that, or how closing went */
static int close_written(struct report_file *f, int ret)
{
	if (ret == 0 && f->durable && fsync(f->fd))
		ret = -errno;
	if (close(f->fd) && ret == 0)
		ret = -errno;
	f->fd = -1;
	return ret;
}

/* Puts the file in place if all went well. @ret: how it went */
static int finish(struct report_file *f, int ret, struct error *err)
{
	if (ret == 0 && f->temp && rename(f->temp, f->path))
		ret = -errno;
	if (ret)
		file_error(f, ret, err);
	else {
		free(f->temp);
		f->temp = NULL;
	}
	report_file_abandon(f);
	return ret;
}

int report_file_commit(struct report_file *f, const json_t *json, struct error *err)
{
	int ret = 0;

	errno = 0;
	if (!json || json_dumpfd(json, f->fd, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) || write(f->fd, "\n", 1) != 1)
		ret = errno ? -errno : -ENOMEM;
	return finish(f, close_written(f, ret), err);
}

int report_file_commit_bytes(struct report_file *f, const char *data, size_t bytes, struct error *err)
{
	int ret = 0;

	while (bytes && ret == 0) {
		ssize_t n = write(f->fd, data, bytes);

		if (n < 0 && errno != EINTR)
			ret = -errno;
		if (n > 0) {
			data += n;
			bytes -= (size_t)n;
		}
	}
	return finish(f, close_written(f, ret), err);
}
