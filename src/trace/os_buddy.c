/* The buddy allocator: a set of free blocks for each order. */
#include "trace/os_buddy.h"

#include <assert.h>
#include <errno.h>

int os_buddy_init(struct os_buddy *b, uint64_t frames)
{
	int r;

	*b = (struct os_buddy){.frames = frames};
	r = os_bits_init(&b->used, frames);
	for (unsigned o = 0; o < OS_ORDERS && !r; o++)
		r = os_bits_init(&b->block[o], (frames >> o) + 2);
	if (r)
		os_buddy_destroy(b);
	else
		os_bits_set(&b->used, 0, frames, true);
	return r;
}

void os_buddy_destroy(struct os_buddy *b)
{
	os_bits_free(&b->used);
	for (unsigned o = 0; o < OS_ORDERS; o++)
		os_bits_free(&b->block[o]);
}

/* Adds a free block, merged with its buddies. */
static void add_block(struct os_buddy *b, uint64_t first, unsigned order)
{
	uint64_t n = first >> order;

	while (order + 1 < OS_ORDERS && os_bits_has(&b->block[order], n ^ 1)) {
		os_bits_remove(&b->block[order++], n ^ 1);
		n >>= 1;
	}
	os_bits_add(&b->block[order], n);
}

/* The largest order of a block that begins at @first and has no more than @frames. */
static unsigned order_at(uint64_t first, uint64_t frames)
{
	unsigned order = 0;

	while (order + 1 < OS_ORDERS && !(first >> order & 1) && 2ull << order <= frames)
		order++;
	return order;
}

static void add_blocks(struct os_buddy *b, uint64_t first, uint64_t frames)
{
	while (frames) {
		unsigned order = order_at(first, frames);

		add_block(b, first, order);
		first += 1ull << order;
		frames -= 1ull << order;
	}
}

void os_buddy_free(struct os_buddy *b, uint64_t first, uint64_t frames)
{
	assert(first < b->frames && frames <= b->frames - first);
	assert(os_bits_next_gap(&b->used, first) - first >= frames);
	os_bits_set(&b->used, first, frames, false);
	add_blocks(b, first, frames);
	b->free_frames += frames;
	b->frees++;
}

/* Takes [first, first + frames) out of the free block @n of @order, in which it lies. */
static void cut_block(struct os_buddy *b, uint64_t n, unsigned order, uint64_t first, uint64_t frames)
{
	uint64_t begin = n << order, end = (n + 1) << order;

	os_bits_remove(&b->block[order], n);
	add_blocks(b, begin, first - begin);
	add_blocks(b, first + frames, end - first - frames);
	os_bits_set(&b->used, first, frames, true);
	b->free_frames -= frames;
}

int os_buddy_alloc(struct os_buddy *b, unsigned order, uint64_t *first)
{
	for (unsigned o = order; o < OS_ORDERS; o++) {
		uint64_t n = os_bits_next(&b->block[o], 0);

		if (n == OS_BITS_NONE)
			continue;
		*first = n << o;
		cut_block(b, n, o, *first, 1ull << order);
		return 0;
	}
	return -ENOMEM;
}

int os_buddy_alloc_high(struct os_buddy *b, unsigned order, uint64_t *first)
{
	uint64_t end = 0, block = 0;
	unsigned found = OS_ORDERS;

	for (unsigned o = order; o < OS_ORDERS; o++) {
		uint64_t n = os_bits_last(&b->block[o]);

		if (n != OS_BITS_NONE && (n + 1) << o > end) {
			end = (n + 1) << o;
			block = n;
			found = o;
		}
	}
	if (found == OS_ORDERS)
		return -ENOMEM;
	*first = end - (1ull << order);
	cut_block(b, block, found, *first, 1ull << order);
	return 0;
}

/* The order of the free block that @frame is in. */
static unsigned block_of(const struct os_buddy *b, uint64_t frame)
{
	unsigned o = 0;

	while (!os_bits_has(&b->block[o], frame >> o)) {
		o++;
		assert(o < OS_ORDERS);
	}
	return o;
}

void os_buddy_take(struct os_buddy *b, uint64_t first, uint64_t frames)
{
	while (frames) {
		unsigned o = block_of(b, first);
		uint64_t n = min_u64(frames, (((first >> o) + 1) << o) - first);

		cut_block(b, first >> o, o, first, n);
		first += n;
		frames -= n;
	}
}

/* Frames of the free blocks of one order; UINT64_MAX if something is wrong with one. */
static uint64_t audit_order(const struct os_buddy *b, unsigned o, struct error *err)
{
	uint64_t sum = 0;

	for (uint64_t n = 0; (n = os_bits_next(&b->block[o], n)) != OS_BITS_NONE; n++) {
		if (o + 1 < OS_ORDERS && os_bits_has(&b->block[o], n ^ 1)) {
			error_set(err, -EINVAL, "buddy: blocks %llu and %llu of order %u are not merged",
				  (unsigned long long)n, (unsigned long long)(n ^ 1), o);
			return UINT64_MAX;
		}
		for (uint64_t f = n << o; f < (n + 1) << o; f++) {
			if (f < b->frames && os_buddy_is_free(b, f))
				continue;
			error_set(err, -EINVAL, "buddy: frame %llu is in a free block, and in use", (unsigned long long)f);
			return UINT64_MAX;
		}
		sum += 1ull << o;
	}
	return sum;
}

int os_buddy_audit(const struct os_buddy *b, struct error *err)
{
	uint64_t free = 0, unused = 0;

	for (unsigned o = 0; o < OS_ORDERS; o++) {
		uint64_t n = audit_order(b, o, err);

		if (n == UINT64_MAX)
			return -EINVAL;
		free += n;
	}
	for (uint64_t f = 0; f < b->frames; f++)
		unused += os_buddy_is_free(b, f);
	if (free != b->free_frames || unused != free) /* so no frame is in two blocks either */
		return error_set(err, -EINVAL, "buddy: %llu frames in blocks, %llu unused, %llu counted",
				 (unsigned long long)free, (unsigned long long)unused, (unsigned long long)b->free_frames);
	return 0;
}
