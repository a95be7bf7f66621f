/*
 * Page frames of the modelled machine. Data are movable, everything else is fixed. So that the two do not mix, single
 * fixed frames come from blocks of 2 MiB that are kept for them, taken from the top of memory, as Linux groups its
 * page blocks by mobility; only where there is no whole block, or memory is nearly full, they are neighbours.
 * Fragmentation is frames that somebody has pinned.
 */
#include "trace/os_impl.h"

#include <errno.h>
#include <stdlib.h>

/* SplitMix64's output function: a number that looks random, for each number. */
static uint64_t mix(uint64_t n)
{
	n += 0x9e3779b97f4a7c15ull;
	n = (n ^ n >> 30) * 0xbf58476d1ce4e5b9ull;
	n = (n ^ n >> 27) * 0x94d049bb133111ebull;
	return n ^ n >> 31;
}

/* Frames that are not the allocator's. */
static void reserve(struct osm *o, uint64_t start, uint64_t end, enum os_frame_type type)
{
	for (uint64_t f = start >> PAGE_SHIFT; f < end >> PAGE_SHIFT; f++)
		o->frame[f].type = type & 0xf;
	os_bits_set(&o->fixed, start >> PAGE_SHIFT, (end - start) >> PAGE_SHIFT, true);
}

static void release(struct osm *o, uint64_t start, uint64_t end)
{
	os_buddy_free(&o->buddy, start >> PAGE_SHIFT, (end - start) >> PAGE_SHIFT);
}

static void pin_some(struct osm *o)
{
	for (uint64_t first = 0; first < o->frames; first += OS_ENTRIES) {
		uint64_t r = mix(o->cfg.seed ^ mix(first)), f = first + r % OS_ENTRIES;

		if (mix(r) % 100 >= o->cfg.fragmentation || o->frame[f].type != OS_FREE)
			continue;
		os_buddy_take(&o->buddy, f, 1);
		o->frame[f].type = OS_PINNED;
		os_bits_add(&o->fixed, f);
	}
}

int os_frames_init(struct osm *o, struct error *err)
{
	uint64_t low_end = min_u64(o->cfg.memory, OS_HOLE);

	o->frames = osm_span(&o->cfg) >> PAGE_SHIFT;
	o->frame = calloc(o->frames, sizeof(*o->frame));
	if (!o->frame || os_buddy_init(&o->buddy, o->frames) || os_bits_init(&o->fixed, o->frames) ||
	    os_bits_init(&o->kept, o->frames) || os_bits_init(&o->kept_block, o->frames / OS_ENTRIES)) {
		os_frames_destroy(o);
		return error_set(err, -ENOMEM, "os model: out of memory");
	}
	reserve(o, 0, OS_LOW_END, OS_KERNEL);
	reserve(o, OS_IMAGE, OS_IMAGE_END, OS_KERNEL);
	release(o, OS_LOW_END, OS_IMAGE);
	release(o, OS_IMAGE_END, low_end);
	if (low_end < o->cfg.memory) {
		reserve(o, OS_HOLE, OS_HOLE_END, OS_NO_RAM);
		release(o, OS_HOLE_END, osm_span(&o->cfg));
	}
	pin_some(o);
	return 0;
}

void os_frames_destroy(struct osm *o)
{
	os_buddy_destroy(&o->buddy);
	os_bits_free(&o->fixed);
	os_bits_free(&o->kept);
	os_bits_free(&o->kept_block);
	free(o->frame);
	o->frame = NULL;
}

static void full(struct osm *o)
{
	os_fail(o, -ENOMEM, "the modelled machine's %llu MiB of memory are full",
		(unsigned long long)(o->cfg.memory >> 20));
}

/* ---- fixed frames ---- */

/* Puts a frame that nobody uses among those kept. */
static void keep(struct osm *o, uint64_t f)
{
	o->frame[f] = (struct os_frame){.type = OS_KEPT, .stale = o->frame[f].stale};
	os_bits_add(&o->fixed, f);
	os_bits_add(&o->kept, f);
}

/* Gives kept frames to everybody. */
static void unkeep(struct osm *o, uint64_t first, uint64_t frames)
{
	for (uint64_t f = first; f < first + frames; f++) {
		o->frame[f].type = OS_FREE;
		os_bits_remove(&o->fixed, f);
		os_bits_remove(&o->kept, f);
	}
	os_buddy_free(&o->buddy, first, frames);
}

static void keep_block(struct osm *o)
{
	uint64_t first;

	if (os_buddy_alloc_high(&o->buddy, OS_ORDER_2M, &first))
		return;
	os_bits_add(&o->kept_block, first / OS_ENTRIES);
	for (uint64_t f = first; f < first + OS_ENTRIES; f++)
		keep(o, f);
}

/* A frame is back in its block: if all of them are, the block goes. */
static void unkeep_block(struct osm *o, uint64_t frame)
{
	uint64_t first = frame & ~(uint64_t)(OS_ENTRIES - 1), gap = os_bits_next_gap(&o->kept, first);

	if (gap != OS_BITS_NONE && gap < first + OS_ENTRIES)
		return;
	os_bits_remove(&o->kept_block, first / OS_ENTRIES);
	unkeep(o, first, OS_ENTRIES);
}

bool os_frame_alloc_fixed(struct osm *o, enum os_frame_type type, uint64_t *frame)
{
	if (os_bits_last(&o->kept) == OS_BITS_NONE)
		keep_block(o);
	*frame = os_bits_last(&o->kept);
	if (*frame != OS_BITS_NONE) {
		os_bits_remove(&o->kept, *frame);
	} else if (os_buddy_alloc_high(&o->buddy, 0, frame)) {
		full(o);
		return false;
	}
	os_frame_fix(o, *frame, 1, type, true);
	return true;
}

void os_frame_fix(struct osm *o, uint64_t first, uint64_t frames, enum os_frame_type type, bool clear)
{
	for (uint64_t f = first; f < first + frames; f++) {
		bool stale = o->frame[f].stale;

		if (stale && clear)
			os_clear_page(o, f);
		o->frame[f] = (struct os_frame){.type = type & 0xf, .stale = stale && !clear};
	}
	os_bits_set(&o->fixed, first, frames, true);
}

void os_frame_free_fixed(struct osm *o, uint64_t first, uint64_t frames)
{
	if (os_bits_has(&o->kept_block, first / OS_ENTRIES)) { /* then it is one frame */
		keep(o, first);
		unkeep_block(o, first);
		return;
	}
	for (uint64_t f = first; f < first + frames; f++)
		o->frame[f] = (struct os_frame){.type = OS_FREE, .stale = o->frame[f].stale};
	os_bits_set(&o->fixed, first, frames, false);
	os_buddy_free(&o->buddy, first, frames);
}

/* ---- data ---- */

/* The last resort: what was kept for fixed frames. */
static bool open_kept(struct osm *o)
{
	uint64_t f = os_bits_last(&o->kept);

	if (f == OS_BITS_NONE)
		return false;
	for (; f != OS_BITS_NONE; f = os_bits_last(&o->kept)) {
		unkeep(o, f, 1);
		os_bits_remove(&o->kept_block, f / OS_ENTRIES); /* its other frames go their own ways, too */
	}
	return true;
}

bool os_frame_alloc_data(struct osm *o, unsigned order, uint64_t va, uint64_t *first)
{
	if (os_buddy_alloc(&o->buddy, order, first)) {
		if (order)
			return false;
		if (!open_kept(o) || os_buddy_alloc(&o->buddy, 0, first)) {
			full(o);
			return false;
		}
	}
	for (uint64_t i = 0; i < 1ull << order; i++) {
		struct os_frame *f = &o->frame[*first + i];

		if (f->stale)
			os_clear_page(o, *first + i);
		*f = (struct os_frame){.type = OS_DATA, .huge = order > 0,
				       .vpn = ((va >> PAGE_SHIFT) + i) & 0x7ffffffffull};
	}
	o->stats.data_frames += 1ull << order;
	if (order)
		o->stats.huge_frames += 1ull << order;
	return true;
}

static uint64_t head_of(uint64_t frame) { return frame & ~(uint64_t)(OS_ENTRIES - 1); }

unsigned os_frame_users(const struct osm *o, uint64_t frame)
{
	const struct os_frame *f = &o->frame[frame];

	return f->maps + (f->huge ? (unsigned)o->frame[head_of(frame)].huge_maps : 0);
}

static void free_if_unused(struct osm *o, uint64_t frame)
{
	if (os_frame_users(o, frame))
		return;
	o->frame[frame] = (struct os_frame){.type = OS_FREE};
	os_buddy_free(&o->buddy, frame, 1);
	o->stats.data_frames--;
}

void os_frame_map(struct osm *o, uint64_t frame) { o->frame[frame].maps = (o->frame[frame].maps + 1) & 0x7ff; }

void os_frame_unmap(struct osm *o, uint64_t frame)
{
	o->frame[frame].maps = (o->frame[frame].maps - 1) & 0x7ff;
	free_if_unused(o, frame);
}

void os_frame_map_huge(struct osm *o, uint64_t first)
{
	o->frame[first].huge_maps = (o->frame[first].huge_maps + 1) & 0x7ff;
}

void os_frame_unmap_huge(struct osm *o, uint64_t first)
{
	o->frame[first].huge_maps = (o->frame[first].huge_maps - 1) & 0x7ff;
	if (o->frame[first].huge_maps)
		return;
	o->stats.huge_frames -= OS_ENTRIES;
	for (uint64_t f = first; f < first + OS_ENTRIES; f++) {
		o->frame[f].huge = 0;
		free_if_unused(o, f);
	}
}
