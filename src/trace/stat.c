/* Statistics of traces. Pages are bits in regions of 2 MiB, and regions are found by hash. */
#include "trace/stat.h"

#include "arch/x86.h"
#include "base/bitmap.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>

#define REGION_SHIFT 21
#define WORDS        (512 / 64)
#define RECENT       64u
/* In keys: pages whose contents are given; regions of 1 GiB, which have no bits. */
#define GUEST_PHYSICAL BIT64(63)
#define GIGABYTE       BIT64(62)

struct region {
	uint64_t key;               /* number of the region, and its space */
	uint64_t touched[WORDS], written[WORDS];
	uint64_t window[WORDS];     /* touched in window number @in_window */
	uint64_t in_window;
};

struct trace_stat {
	struct trace_stats sum;
	struct region *region;      /* [room] */
	uint32_t *slot;             /* [slots] index in region[] plus 1, by hash; 0: free */
	uint32_t recent[RECENT];    /* likewise, by the key's low bits */
	unsigned regions, room, slots;
	uint64_t space[TRACE_STAT_SPACES]; /* by number, from 1 on; 0 has the addresses that all have */
	unsigned spaces, current;
	uint64_t data_page;         /* of the last data access */
	uint64_t window, accesses, in_window; /* the one at hand: its number, accesses and pages so far */
};

static uint32_t *region_slot(const struct trace_stat *s, uint64_t key)
{
	uint64_t hash = key * 0x9e3779b97f4a7c15;

	for (unsigned i = (unsigned)(hash >> 32) & (s->slots - 1);; i = (i + 1) & (s->slots - 1))
		if (!s->slot[i] || s->region[s->slot[i] - 1].key == key)
			return &s->slot[i];
}

/* Twice the room. */
static int grow(struct trace_stat *s)
{
	unsigned room = s->room ? 2 * s->room : 256;
	struct region *moved = realloc(s->region, room * sizeof(*moved));
	uint32_t *slot;

	if (!moved)
		return -ENOMEM;
	s->region = moved;
	s->room = room;
	slot = calloc(2 * (size_t)room, sizeof(*slot));
	if (!slot)
		return -ENOMEM;
	free(s->slot);
	s->slot = slot;
	s->slots = 2 * room;
	for (unsigned i = 0; i < s->regions; i++)
		*region_slot(s, s->region[i].key) = i + 1;
	return 0;
}

/* Of a key that has none yet. *slot: the region's, or as it was if there are too many. */
static int add_region(struct trace_stat *s, uint64_t key, uint32_t **slot)
{
	if (s->regions == TRACE_STAT_REGIONS)
		return 0;
	if (s->regions == s->room) {
		if (grow(s))
			return -ENOMEM;
		*slot = region_slot(s, key);
	}
	s->region[s->regions++] = (struct region){.key = key};
	**slot = s->regions;
	s->sum.pages_2m += !(key & (GUEST_PHYSICAL | GIGABYTE));
	s->sum.pages_1g += (key & GIGABYTE) != 0;
	return 0;
}

/* *r: the region, or NULL if there are too many. */
static int find_region(struct trace_stat *s, uint64_t key, struct region **r)
{
	uint32_t *recent = &s->recent[key % RECENT], *slot;

	if (likely(*recent && s->region[*recent - 1].key == key)) {
		*r = &s->region[*recent - 1];
		return 0;
	}
	slot = region_slot(s, key);
	if (!*slot && !(key & (GUEST_PHYSICAL | GIGABYTE))) {
		if (find_region(s, GIGABYTE | key >> 9, r))
			return -ENOMEM;
		slot = region_slot(s, key);
	}
	if (!*slot && add_region(s, key, &slot))
		return -ENOMEM;
	if (*slot)
		*recent = *slot;
	*r = *slot ? &s->region[*slot - 1] : NULL;
	return 0;
}

/* Sets a bit; was it clear? */
static bool is_new(uint64_t *bitmap, unsigned bit)
{
	if (bitmap_has(bitmap, bit))
		return false;
	bitmap_set(bitmap, bit);
	return true;
}

/* ---- accesses ---- */

static int touch(struct trace_stat *s, uint64_t lin, bool write)
{
	uint64_t key = lin >> REGION_SHIFT | (uint64_t)(lin >> 63 ? 0 : s->current) << 43;
	unsigned bit = (unsigned)bits(lin, REGION_SHIFT - 1, PAGE_SHIFT);
	struct region *r;

	if (find_region(s, key, &r))
		return -ENOMEM;
	if (unlikely(!r)) {
		s->sum.at_least = true;
		return 0;
	}
	s->sum.pages_4k += is_new(r->touched, bit);
	if (write)
		s->sum.written_4k += is_new(r->written, bit);
	if (r->in_window != s->window) {
		memset(r->window, 0, sizeof(r->window));
		r->in_window = s->window;
	}
	s->in_window += is_new(r->window, bit);
	return 0;
}

static void end_window(struct trace_stat *s)
{
	s->sum.windows++;
	s->sum.window_pages += s->in_window;
	s->sum.window_pages_max = max_u64(s->sum.window_pages_max, s->in_window);
	s->window++;
	s->accesses = s->in_window = 0;
}

static int count_access(struct trace_stat *s, const struct trace_event *ev)
{
	uint64_t page = ev->addr >> PAGE_SHIFT;
	bool write = ev->kind == TRACE_WRITE;

	s->sum.mode[ev->mode]++;
	s->sum.read_bytes += ev->kind == TRACE_READ ? ev->size : 0;
	s->sum.written_bytes += write ? ev->size : 0;
	s->sum.values += (ev->flags & TRACE_VALUE) != 0;
	s->sum.faults += (ev->flags & TRACE_FAULTS) != 0;
	if (ev->kind != TRACE_FETCH) {
		s->sum.same_page += page == s->data_page;
		s->data_page = page;
	}
	if (touch(s, ev->addr, write) ||
	    ((ev->addr & ~PAGE_MASK) + ev->size > PAGE_SIZE && touch(s, ev->addr + ev->size - 1, write)))
		return -ENOMEM;
	if (++s->accesses == TRACE_STAT_WINDOW)
		end_window(s);
	return 0;
}

/* ---- other events ---- */

static void enter_space(struct trace_stat *s, uint64_t name)
{
	for (s->current = 1; s->current <= s->spaces; s->current++)
		if (s->space[s->current] == name)
			return;
	if (s->spaces == TRACE_STAT_SPACES - 1) {
		s->current = s->spaces;
		s->sum.at_least = true;
		return;
	}
	s->space[++s->spaces] = name;
}

static int count_page(struct trace_stat *s, uint64_t gpa)
{
	struct region *r;

	if (find_region(s, GUEST_PHYSICAL | gpa >> REGION_SHIFT, &r))
		return -ENOMEM;
	s->sum.tables += r && is_new(r->touched, (unsigned)bits(gpa, REGION_SHIFT - 1, PAGE_SHIFT));
	s->sum.at_least |= !r;
	return 0;
}

static int count(struct trace_stat *s, const struct trace_event *ev)
{
	s->sum.events++;
	s->sum.kind[ev->kind]++;
	if (trace_is_access(ev))
		return count_access(s, ev);
	if (ev->kind == TRACE_INSNS)
		s->sum.insns += ev->value;
	else if (ev->kind == TRACE_PAGE)
		return count_page(s, ev->addr);
	else if (ev->kind == TRACE_CR3)
		enter_space(s, ev->value & PTE_ADDR_MASK);
	else if (ev->kind == TRACE_SWITCH)
		enter_space(s, ev->value << PAGE_SHIFT | 1);
	return 0;
}

int trace_stat_put(void *stat, const struct trace_event *ev, unsigned n, struct error *err)
{
	for (unsigned i = 0; i < n; i++)
		if (unlikely(count(stat, &ev[i])))
			return error_set(err, -ENOMEM, "no memory for statistics");
	return 0;
}

void trace_stat_get(const struct trace_stat *s, struct trace_stats *out)
{
	*out = s->sum;
	out->spaces = s->spaces;
}

int trace_stat_create(struct trace_stat **out, struct error *err)
{
	struct trace_stat *s = calloc(1, sizeof(*s));

	if (!s || grow(s)) {
		free(s);
		return error_set(err, -ENOMEM, "no memory for statistics");
	}
	s->window = 1;
	s->data_page = UINT64_MAX;
	*out = s;
	return 0;
}

void trace_stat_destroy(struct trace_stat *s)
{
	if (!s)
		return;
	free(s->region);
	free(s->slot);
	free(s);
}
