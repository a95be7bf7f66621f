/*
 * The operating-system model from outside: its configuration, its beginning, and events one by one.
 *
 * Accesses are taken in groups, as the processor does instructions: a group goes out when all of it is possible. An
 * access that is not goes out as the attempt that it is (TRACE_FAULTS), with what comes before it; then what the
 * kernel does about it; then the group is tried again.
 */
#include "trace/os_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define INSNS_HELD 4096u /* instructions of the kernel that are said at once, if the trace counts none itself */

/* ---- configuration ---- */

void osm_config_init(struct osm_config *cfg, uint64_t memory)
{
	*cfg = (struct osm_config){.memory = memory, .gap = 64ull << 20, .tea_threshold = 64ull << 20, .tea_bubble = 2};
}

uint64_t osm_span(const struct osm_config *cfg)
{
	return cfg->memory + (cfg->memory > OS_HOLE ? OS_HOLE_END - OS_HOLE : 0);
}

void osm_info(const struct osm_config *cfg, struct trace_info *info)
{
	bool dmt = cfg->kind == OSM_DMT || cfg->kind == OSM_PVDMT;

	*info = (struct trace_info){.tables = true, .memory = cfg->memory, .maxphyaddr = 46};
	snprintf(info->creator, sizeof(info->creator), "gnomon's operating-system model");
	snprintf(info->cpu_features, sizeof(info->cpu_features), "pdpe1gb%s%s", cfg->pcid ? " pcid" : "",
		 dmt ? " dmt" : "");
}

static int check(const struct osm_config *cfg, struct error *err)
{
	if (cfg->memory % SIZE_2M || cfg->memory < OSM_MEMORY_MIN || cfg->memory > OSM_MEMORY_MAX)
		return error_set(err, -EINVAL,
				 "os model: memory: %llu bytes are no multiple of 2 MiB from 64 MiB to 512 GiB",
				 (unsigned long long)cfg->memory);
	if (cfg->pages > OSM_PAGES_THP || cfg->kind > OSM_PVDMT)
		return error_set(err, -EINVAL, "os model: no such pages, or no such kind");
	if (cfg->fragmentation > 100 || cfg->tea_bubble > 100)
		return error_set(err, -EINVAL, "os model: fragmentation %u, bubble %u: more than 100 per cent",
				 cfg->fragmentation, cfg->tea_bubble);
	if (cfg->promote > OS_ENTRIES)
		return error_set(err, -EINVAL, "os model: promotion at %u pages: a block has %u", cfg->promote,
				 OS_ENTRIES);
	if (cfg->pool_segment % SIZE_2M || cfg->pool_segment > cfg->memory)
		return error_set(err, -EINVAL,
				 "os model: pool segment: %llu bytes are no multiple of 2 MiB, or more than memory",
				 (unsigned long long)cfg->pool_segment);
	return 0;
}

static void fill_in(struct osm_config *cfg)
{
	if (!cfg->pool_segment)
		cfg->pool_segment = (cfg->memory / 100 + SIZE_2M - 1) & ~(SIZE_2M - 1);
}

/* ---- the kernel's tables ---- */

#define KERNEL_FLAGS (PTE_P | PTE_W | PTE_A | PTE_D)
#define GLOBAL_PAGE  (KERNEL_FLAGS | PTE_PS | PTE_G)
#define KERNEL_TABLES (OS_IMAGE_END - SIZE_2M) /* where its first one is */

static void emit_page(struct osm *o, uint64_t pa, const uint64_t *entries)
{
	struct trace_event ev = trace_page(pa, entries);

	os_emit(o, &ev);
	os_emit_flush(o); /* the contents are the caller's */
}

/* Maps the parts of a GiB of the direct map that are RAM, in 2 MiB pages. */
static uint64_t map_part(struct osm *o, uint64_t base, uint64_t bytes, uint64_t pa)
{
	uint64_t e[OS_ENTRIES] = {0};

	for (uint64_t i = 0; i < bytes / SIZE_2M; i++)
		e[i] = (base + i * SIZE_2M) | GLOBAL_PAGE | PTE_NX;
	emit_page(o, pa, e);
	return pa | KERNEL_FLAGS;
}

static uint64_t ram_in_gib(const struct osm *o, uint64_t base)
{
	uint64_t end = osm_span(&o->cfg);

	return base >= end || base == OS_HOLE ? 0 : min_u64(end - base, SIZE_1G);
}

/* All RAM at OS_DIRECT_MAP. Returns the entry for the root. */
static uint64_t direct_map(struct osm *o, uint64_t pa)
{
	uint64_t e[OS_ENTRIES] = {0};

	for (unsigned i = 0; i < OS_ENTRIES; i++) {
		uint64_t base = i * SIZE_1G, bytes = ram_in_gib(o, base);

		if (bytes == SIZE_1G)
			e[i] = base | GLOBAL_PAGE | PTE_NX;
		else if (bytes)
			e[i] = map_part(o, base, bytes, pa + PAGE_SIZE);
	}
	emit_page(o, pa, e);
	return pa | KERNEL_FLAGS;
}

/* The kernel's image at OS_TEXT_MAP, in 2 MiB pages. Returns the entry for the root. */
static uint64_t text_map(struct osm *o, uint64_t pa)
{
	uint64_t e[OS_ENTRIES] = {0}, upper[OS_ENTRIES] = {0};

	for (uint64_t at = OS_IMAGE; at < OS_IMAGE_END; at += SIZE_2M)
		e[os_index(OS_TEXT_MAP + at, 2)] = at | GLOBAL_PAGE;
	emit_page(o, pa + PAGE_SIZE, e);
	upper[os_index(OS_TEXT_MAP, 3)] = (pa + PAGE_SIZE) | KERNEL_FLAGS;
	emit_page(o, pa, upper);
	return pa | KERNEL_FLAGS;
}

static void initial(struct osm *o, unsigned kind, uint64_t addr, uint64_t value)
{
	struct trace_event ev = {.kind = (uint8_t)kind, .flags = TRACE_INITIAL, .addr = addr, .value = value};

	os_emit(o, &ev);
}

/* Everything up to the first process, which the kernel's own tables are loaded for. */
static int boot(struct osm *o, struct error *err)
{
	struct os_table *k = calloc(1, sizeof(*k));

	if (!k)
		return error_set(err, -ENOMEM, "os model: out of memory");
	o->kernel = k;
	k->level = OS_LEVELS;
	k->frame = KERNEL_TABLES >> PAGE_SHIFT;
	k->e[os_index(OS_DIRECT_MAP, OS_LEVELS)] = direct_map(o, KERNEL_TABLES + PAGE_SIZE);
	k->e[os_index(OS_TEXT_MAP, OS_LEVELS)] = text_map(o, KERNEL_TABLES + 3 * PAGE_SIZE);
	emit_page(o, KERNEL_TABLES, k->e);
	initial(o, TRACE_WRMSR, MSR_EFER, EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE);
	initial(o, TRACE_CR0, 0, CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG);
	initial(o, TRACE_CR4, 0,
		CR4_PSE | CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | (o->cfg.pcid ? CR4_PCIDE : 0));
	initial(o, TRACE_CR3, 0, KERNEL_TABLES);
	o->current = os_space_new(o, 0);
	if (o->current)
		os_space_load(o, o->current);
	if (o->failed)
		*err = o->err;
	return o->failed;
}

int osm_create(struct osm **out, const struct osm_config *cfg, const struct trace_sink *sink, struct error *err)
{
	struct error none;
	struct osm *o;
	int r;

	*out = NULL;
	err = err ? err : &none;
	r = check(cfg, err);
	if (r)
		return r;
	o = calloc(1, sizeof(*o));
	if (!o)
		return error_set(err, -ENOMEM, "os model: out of memory");
	o->cfg = *cfg;
	o->sink = *sink;
	o->group_known = true;
	fill_in(&o->cfg);
	r = os_frames_init(o, err);
	if (!r)
		r = boot(o, err);
	if (r) {
		osm_destroy(o);
		return r;
	}
	*out = o;
	return 0;
}

void osm_destroy(struct osm *o)
{
	if (!o)
		return;
	for (unsigned i = 0; i < OSM_SPACES_MAX; i++)
		if (o->space[i])
			os_space_forget(o, o->space[i]);
	while (o->dying) {
		struct os_tea *t = o->dying;

		o->dying = t->next;
		free(t);
	}
	if (o->kernel)
		os_table_forget(o->kernel);
	os_pool_destroy(o);
	os_frames_destroy(o);
	free(o);
}

/* ---- accesses ---- */

/* Is the access possible? If not, *va is the address that faults. */
static bool possible(struct osm *o, const struct trace_event *ev, uint64_t *va)
{
	uint64_t last = ev->addr + ev->size - 1;

	*va = ev->addr;
	if (!os_known(o, *va, ev->kind) && !os_permitted(o, *va, ev->kind))
		return false;
	if ((*va ^ last) >> PAGE_SHIFT == 0)
		return true;
	*va = last & PAGE_MASK;
	return os_known(o, *va, ev->kind) || os_permitted(o, *va, ev->kind);
}

/* The first access of the group that is not possible; the number of accesses: all are. */
static unsigned first_fault(struct osm *o, uint64_t *va)
{
	unsigned i = 0;

	while (i < o->grouped && possible(o, &o->group[i], va))
		i++;
	return i;
}

/* Gives out accesses of the group up to number @last, which faults. */
static void attempt(struct osm *o, unsigned last)
{
	struct trace_event ev;

	for (unsigned i = 0; i < last; i++)
		os_emit(o, &o->group[i]);
	ev = o->group[last];
	ev.flags |= TRACE_FAULTS;
	os_emit(o, &ev);
}

static void resolve_group(struct osm *o)
{
	/* Each fault puts a page in place that stays there, so there are no more than these. */
	for (unsigned tries = 4 * o->grouped; !o->failed; tries--) {
		uint64_t va;
		unsigned i = first_fault(o, &va);

		if (i == o->grouped)
			return;
		assert(tries);
		attempt(o, i);
		os_fault(o, va, o->group[i].kind);
		os_tea_settle(o);
		if (o->insns >= INSNS_HELD)
			os_emit_insns(o);
	}
}

/* The group is complete: gives it out. */
static void end_group(struct osm *o)
{
	if (!o->grouped)
		return;
	if (o->group_faults) {
		o->stats.dropped += o->grouped;
	} else {
		if (!o->group_known)
			resolve_group(o);
		for (unsigned i = 0; i < o->grouped; i++)
			os_emit(o, &o->group[i]);
		o->stats.accesses += o->grouped;
	}
	o->grouped = 0;
	o->group_known = true;
	o->group_faults = false;
}

static bool is_user_mode(const struct trace_event *ev)
{
	return ev->mode == TRACE_USER || ev->mode == TRACE_USER_ALIGN;
}

static bool is_foreign(const struct trace_event *ev)
{
	return !ev->size || ev->addr >= OS_USER_END || ev->size > OS_USER_END - ev->addr ||
	       (ev->pc >= OS_USER_END && is_user_mode(ev));
}

static void add_to_group(struct osm *o, struct trace_event ev)
{
	ev.flags = (uint8_t)((ev.flags & ~TRACE_FIRST) | (o->grouped ? 0 : TRACE_FIRST));
	o->group[o->grouped++] = ev;
	o->group_known = o->group_known && os_known(o, ev.addr, ev.kind) && os_known(o, ev.addr + ev.size - 1, ev.kind);
}

/*
 * A group that leaves to a hypervisor is done again from a fetch on, so its code must be there. A trace need not show
 * all fetches: the first one of a page is added.
 */
static void add_fetch(struct osm *o, const struct trace_event *ev)
{
	struct trace_event fetch = {.kind = TRACE_FETCH, .size = 1, .mode = ev->mode, .aux = ev->aux,
				    .addr = ev->pc, .pc = ev->pc};

	if (o->grouped || ev->kind == TRACE_FETCH || ev->pc >= OS_USER_END || os_known(o, ev->pc, TRACE_FETCH))
		return;
	add_to_group(o, fetch);
	o->stats.fetches_added++;
}

static void take_access(struct osm *o, const struct trace_event *given)
{
	struct trace_event ev = *given;
	uint64_t in_page = PAGE_SIZE - (ev.addr & ~PAGE_MASK);

	if (ev.flags & TRACE_FIRST || o->grouped > OS_GROUP - 2)
		end_group(o);
	if (is_foreign(&ev)) {
		o->stats.dropped++;
		return;
	}
	o->group_faults |= !!(ev.flags & TRACE_FAULTS);
	ev.aux &= TRACE_INSN_BYTES;
	ev.value = 0;
	ev.flags &= o->grouped ? 0 : TRACE_AGAIN;
	if (ev.pc >= OS_USER_END) /* another kernel's code */
		ev.pc = os_text_at(OS_TEXT_SYSCALL);
	add_fetch(o, &ev);
	if (o->grouped)
		ev.flags = 0;
	if (ev.kind == TRACE_FETCH && in_page < ev.size) { /* fetches are page by page in a machine trace */
		ev.size = (uint8_t)in_page;
		add_to_group(o, ev);
		ev.flags = 0;
		ev.addr += in_page;
		ev.size = (uint8_t)(given->size - in_page);
	}
	add_to_group(o, ev);
}

/* ---- other events ---- */

static void end_space(struct osm *o, uint64_t id)
{
	struct os_space *s = os_space_find(o, id);

	if (!s || s == o->current)
		os_fail(o, -EINVAL, "exit: space %llu %s", (unsigned long long)id, s ? "is current" : "does not exist");
	else
		os_space_exit(o, s);
}

/* The longest unused space goes: a recorded trace does not say when spaces end. */
static void make_room(struct osm *o)
{
	struct os_space *oldest = NULL;

	if (o->spaces < OSM_SPACES_MAX)
		return;
	for (unsigned i = 0; i < OSM_SPACES_MAX; i++)
		if (o->space[i] != o->current && (!oldest || o->space[i]->last_switch < oldest->last_switch))
			oldest = o->space[i];
	os_space_exit(o, oldest);
}

static void take_cr3(struct osm *o, uint64_t value)
{
	uint64_t root = value & PTE_ADDR_MASK;

	if (!os_space_find(o, root))
		make_room(o);
	os_space_switch(o, root);
}

static void take_other(struct osm *o, const struct trace_event *ev)
{
	switch (ev->kind) {
	case TRACE_INSNS:
		o->insns += ev->value;
		os_emit_insns(o);
		break;
	case TRACE_MARK:
		os_emit(o, ev);
		break;
	case TRACE_MAP:
		os_map(o, ev->addr, ev->value, ev->flags);
		break;
	case TRACE_UNMAP:
		os_unmap(o, ev->addr, ev->value);
		break;
	case TRACE_ADVISE:
		os_advise(o, ev->addr, ev->value, ev->flags);
		break;
	case TRACE_FORK:
		os_space_fork(o, ev->value);
		break;
	case TRACE_SWITCH:
		os_space_switch(o, ev->value);
		break;
	case TRACE_EXIT:
		end_space(o, ev->value);
		break;
	case TRACE_CR3:
		take_cr3(o, ev->value);
		break;
	default:
		o->stats.ignored++;
	}
	os_tea_settle(o);
}

static int result(struct osm *o, struct error *err)
{
	if (o->failed && err)
		*err = o->err;
	return o->failed;
}

int osm_put(void *osm, const struct trace_event *ev, unsigned n, struct error *err)
{
	struct osm *o = osm;

	for (unsigned i = 0; i < n && !o->failed; i++) {
		if (trace_is_access(&ev[i])) {
			take_access(o, &ev[i]);
		} else {
			end_group(o);
			if (!o->failed)
				take_other(o, &ev[i]);
		}
	}
	return result(o, err);
}

int osm_finish(struct osm *o, struct error *err)
{
	end_group(o);
	os_emit_insns(o);
	os_emit_flush(o);
	return result(o, err);
}

/* ---- questions ---- */

static uint64_t bubble(const struct os_space *s)
{
	uint64_t bytes = 0;

	for (const struct os_tea *t = s->teas; t; t = t->next) {
		bytes += t->end - t->start;
		for (unsigned i = os_vmas_find(&s->vmas, t->start); i < s->vmas.n && s->vmas.v[i].start < t->end; i++)
			bytes -= min_u64(s->vmas.v[i].end, t->end) - max_u64(s->vmas.v[i].start, t->start);
	}
	return bytes;
}

void osm_stats(const struct osm *o, struct osm_stats *s)
{
	*s = o->stats;
	for (unsigned i = 0; i < OSM_SPACES_MAX; i++)
		if (o->space[i])
			s->tea.bubble += bubble(o->space[i]);
}

int osm_lookup(const struct osm *o, uint64_t space, uint64_t va, struct osm_mapping *m)
{
	const struct os_space *s = os_space_find(o, space);
	struct os_leaf l;

	if (!s || va >= OS_USER_END)
		return -ENOENT;
	l = os_leaf(s, va);
	if (!(l.entry & PTE_P))
		return -ENOENT;
	m->shift = os_is_huge(&l) ? 21 : PAGE_SHIFT;
	m->gpa = (l.entry & PTE_ADDR_MASK) | (va & ((1ull << m->shift) - 1));
	m->writable = l.entry & PTE_W;
	m->exec = !(l.entry & PTE_NX);
	return 0;
}
