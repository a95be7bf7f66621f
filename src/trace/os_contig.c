/*
 * Ranges of frames in a row, as Linux's alloc_contig_range() and alloc_contig_pages() get them: what is free is held,
 * pages of data in between are moved away. Everything that maps such a page has it at the same linear address (spaces
 * become several only by fork), so who maps it is found by looking there in each space.
 *
 * Left out: the copies of the data. In place of Linux's migration entry, an entry is 0 while its page moves.
 */
#include "trace/os_impl.h"

void os_contig_free(struct osm *o, uint64_t first, uint64_t frames)
{
	for (uint64_t f = first; f < first + frames; f++)
		o->frame[f].type = OS_FREE;
	os_buddy_free(&o->buddy, first, frames);
}

/* Holds a frame that nobody uses. */
static void hold(struct osm *o, uint64_t f)
{
	o->frame[f] = (struct os_frame){.type = OS_HELD, .stale = o->frame[f].stale};
}

static void hold_free(struct osm *o, uint64_t first, uint64_t end)
{
	while ((first = os_bits_next_gap(&o->buddy.used, first)) < end) {
		uint64_t used = min_u64(os_bits_next(&o->buddy.used, first), end);

		os_buddy_take(&o->buddy, first, used - first);
		for (; first < used; first++)
			hold(o, first);
	}
}

/* Gives back what is held in a range. */
static void unhold(struct osm *o, uint64_t first, uint64_t end)
{
	for (uint64_t f = first; f < end; f++)
		if (o->frame[f].type == OS_HELD)
			os_contig_free(o, f, 1);
}

/* One space's entries for @frames pages from @va on that map @from and what follows get @to. */
static void move_in_space(struct osm *o, struct os_space *s, uint64_t va, uint64_t frames, uint64_t from, uint64_t to)
{
	for (uint64_t i = 0; i < frames; i++) {
		struct os_leaf l = os_leaf(s, va + (i << PAGE_SHIFT));
		uint64_t flags = l.entry & ~PTE_ADDR_MASK, n = os_is_huge(&l) ? OS_ENTRIES : 1;

		if (!l.entry || os_entry_frame(l.entry) != from + i)
			continue;
		os_table_set(o, l.table, l.index, 0);
		os_flush_page(o, s, va + (i << PAGE_SHIFT));
		os_table_set(o, l.table, l.index, (to + i) << PAGE_SHIFT | flags);
		i += n - 1;
	}
}

/* Moves @frames (1, or those of a huge page) to others, which are taken. The old ones are nobody's then. */
static void move(struct osm *o, uint64_t from, uint64_t to, uint64_t frames)
{
	uint64_t va = (uint64_t)o->frame[from].vpn << PAGE_SHIFT;

	for (unsigned i = 0; i < OSM_SPACES_MAX; i++)
		if (o->space[i])
			move_in_space(o, o->space[i], va, frames, from, to);
	for (uint64_t i = 0; i < frames; i++) {
		if (o->frame[to + i].stale)
			os_clear_page(o, to + i);
		o->frame[to + i] = o->frame[from + i];
		o->frame[from + i] = (struct os_frame){.type = OS_HELD};
	}
	o->stats.frames_moved += frames;
}

/* Moves the page that the frame is of; what lies outside of [first, end) is free afterwards. */
static bool move_away(struct osm *o, uint64_t f, uint64_t first, uint64_t end)
{
	uint64_t n = o->frame[f].huge ? OS_ENTRIES : 1, to;

	f &= ~(n - 1);
	if (os_buddy_alloc(&o->buddy, n > 1 ? OS_ORDER_2M : 0, &to))
		return false;
	move(o, f, to, n);
	if (f < first)
		unhold(o, f, first);
	if (f + n > end)
		unhold(o, end, f + n);
	return true;
}

/* The first frame of data at or after @f, before @end; @end. */
static uint64_t next_data(const struct osm *o, uint64_t f, uint64_t end)
{
	while (f < end && o->frame[f].type == OS_HELD)
		f++;
	return f;
}

bool os_contig_take(struct osm *o, uint64_t first, uint64_t frames)
{
	uint64_t end = first + frames;

	if (end > o->frames || os_bits_next(&o->fixed, first) < end)
		return false;
	hold_free(o, first, end);
	for (uint64_t f = first; (f = next_data(o, f, end)) < end;) {
		if (move_away(o, f, first, end))
			continue;
		unhold(o, first, end);
		return false;
	}
	return true;
}

bool os_contig_alloc(struct osm *o, uint64_t frames, uint64_t align, uint64_t *first)
{
	if (frames > o->frames)
		return false;
	if (o->contig_failed && frames >= o->contig_failed && o->contig_frees == o->buddy.frees)
		return false; /* as it was the last time */
	*first = os_bits_find_gap(&o->buddy.used, frames, align);
	if (*first != OS_BITS_NONE)
		return os_contig_take(o, *first, frames);
	*first = os_bits_find_gap(&o->fixed, frames, align);
	if (*first != OS_BITS_NONE && o->buddy.free_frames >= frames && os_contig_take(o, *first, frames))
		return true;
	o->contig_failed = frames;
	o->contig_frees = o->buddy.frees;
	return false;
}
