/*
 * Slices of L2 tables and of refcount blocks, in a bounded part of memory, and a set of clusters.
 * A slice is at most 4 KiB, so that a random access to a cold table reads little. The replacement
 * is a clock that prefers clean slices: dirty ones must be written in order, all at once (docs/storage.md).
 */
#include "disk/qcow2.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define WRITE_PIECES 256 /* slices written by one call */

int q2_cache_init(struct q2_cache *c, unsigned slice_bits, uint64_t slots)
{
	*c = (struct q2_cache){.slice_bits = slice_bits, .slots = (uint32_t)slots, .hash_bits = 4};
	while (1ull << c->hash_bits < slots)
		c->hash_bits++;
	c->slot = calloc(slots, sizeof(*c->slot));
	c->hash = calloc(1ull << c->hash_bits, sizeof(*c->hash));
	/* Pages come as they are used. */
	c->data = mmap(NULL, slots << slice_bits, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->data == MAP_FAILED)
		c->data = NULL;
	if (c->slot && c->hash && c->data)
		return 0;
	q2_cache_free(c);
	return -ENOMEM;
}

void q2_cache_free(struct q2_cache *c)
{
	free(c->slot);
	free(c->hash);
	if (c->data)
		munmap(c->data, (uint64_t)c->slots << c->slice_bits);
	*c = (struct q2_cache){0};
}

static uint32_t *chain_of(const struct q2_cache *c, uint64_t at)
{
	return &c->hash[(at >> c->slice_bits) * 0x9e3779b97f4a7c15ull >> (64 - c->hash_bits)];
}

struct q2_slot *q2_cache_find(struct q2_cache *c, uint64_t at)
{
	uint32_t n = c->last;

	if (likely(n && c->slot[n - 1].at == at))
		return &c->slot[n - 1];
	for (n = *chain_of(c, at); n; n = c->slot[n - 1].next)
		if (c->slot[n - 1].at == at) {
			c->last = n;
			c->slot[n - 1].recent = true;
			return &c->slot[n - 1];
		}
	return NULL;
}

struct q2_slot *q2_cache_victim(struct q2_cache *c)
{
	struct q2_slot *s;

	if (c->used < c->slots)
		return &c->slot[c->used++];
	for (uint32_t n = 0; n < 2 * c->slots; n++) {
		s = &c->slot[c->hand];
		c->hand = c->hand + 1 == c->slots ? 0 : c->hand + 1;
		if (!s->at || (!s->recent && !s->dirty))
			return s;
		s->recent = false;
	}
	return &c->slot[c->hand];
}

static void take_out(struct q2_cache *c, struct q2_slot *s)
{
	uint32_t *link = chain_of(c, s->at), n = (uint32_t)(s - c->slot) + 1;

	while (*link != n)
		link = &c->slot[*link - 1].next;
	*link = s->next;
	c->dirty -= s->dirty;
	c->last = c->last == n ? 0 : c->last;
	*s = (struct q2_slot){0};
}

void q2_cache_put(struct q2_cache *c, struct q2_slot *s, uint64_t at)
{
	uint32_t *chain = chain_of(c, at);

	if (s->at)
		take_out(c, s);
	*s = (struct q2_slot){.at = at, .next = *chain, .recent = true};
	*chain = c->last = (uint32_t)(s - c->slot) + 1;
}

void q2_cache_drop(struct q2_cache *c, uint64_t at, uint64_t bytes)
{
	struct q2_slot *s;

	for (uint64_t end = at + bytes; at < end; at += 1ull << c->slice_bits) {
		s = q2_cache_find(c, at);
		if (s)
			take_out(c, s);
	}
}

static int by_offset(const void *a, const void *b)
{
	const struct q2_slot *const *x = a, *const *y = b;

	return (*x)->at < (*y)->at ? -1 : (*x)->at > (*y)->at;
}

/* Writes those of @count sorted slices that lie behind each other in the file; returns how many. */
static int write_row(struct q2_cache *c, struct file *f, struct q2_slot **s, uint32_t count, struct error *err)
{
	struct iovec iov[WRITE_PIECES];
	int n = 0, ret;

	do {
		iov[n].iov_base = q2_cache_data(c, s[n]);
		iov[n].iov_len = 1ull << c->slice_bits;
		n++;
	} while ((uint32_t)n < count && n < WRITE_PIECES && s[n]->at == s[n - 1]->at + (1ull << c->slice_bits));
	ret = file_writev(f, s[0]->at, iov, n, err);
	if (ret)
		return ret;
	for (int i = 0; i < n; i++)
		s[i]->dirty = false;
	c->dirty -= (uint32_t)n;
	return n;
}

int q2_cache_write(struct q2_cache *c, struct file *f, struct error *err)
{
	uint32_t count = 0;
	struct q2_slot **s;
	int ret = 0;

	if (!c->dirty)
		return 0;
	s = malloc(c->dirty * sizeof(struct q2_slot *));
	if (!s)
		return error_set(err, -ENOMEM, "%s: out of memory", f->path);
	for (uint32_t i = 0; i < c->used; i++)
		if (c->slot[i].dirty)
			s[count++] = &c->slot[i];
	qsort(s, count, sizeof(struct q2_slot *), by_offset);
	for (uint32_t i = 0; i < count && ret >= 0; i += (uint32_t)ret)
		ret = write_row(c, f, s + i, count - i, err);
	free(s);
	return ret < 0 ? ret : 0;
}

/* ---- sets: open addressing, linear probing ---- */

static uint64_t place_of(const struct q2_set *s, uint64_t key)
{
	return (key * 0x9e3779b97f4a7c15ull >> 20) & (s->size - 1);
}

static uint64_t find_place(const struct q2_set *s, uint64_t key)
{
	uint64_t i = place_of(s, key);

	while (s->key[i] && s->key[i] != key)
		i = (i + 1) & (s->size - 1);
	return i;
}

bool q2_set_has(const struct q2_set *s, uint64_t cluster)
{
	return s->size && s->key[find_place(s, cluster + 1)];
}

static int grow_set(struct q2_set *s)
{
	struct q2_set bigger = {.size = s->size ? 2 * s->size : 64, .count = s->count};

	bigger.key = calloc(bigger.size, sizeof(*bigger.key));
	if (!bigger.key)
		return -ENOMEM;
	for (uint64_t i = 0; i < s->size; i++)
		if (s->key[i])
			bigger.key[find_place(&bigger, s->key[i])] = s->key[i];
	free(s->key);
	*s = bigger;
	return 0;
}

int q2_set_add(struct q2_set *s, uint64_t cluster)
{
	uint64_t *place;

	if (2 * (s->count + 1) > s->size && grow_set(s))
		return -ENOMEM;
	place = &s->key[find_place(s, cluster + 1)];
	s->count += !*place;
	*place = cluster + 1;
	return 0;
}

void q2_set_remove(struct q2_set *s, uint64_t cluster)
{
	uint64_t hole, i, mask = s->size - 1;

	if (!q2_set_has(s, cluster))
		return;
	hole = i = find_place(s, cluster + 1);
	s->count--;
	for (;;) { /* what was put further because of it moves up */
		i = (i + 1) & mask;
		if (!s->key[i])
			break;
		if (((i - place_of(s, s->key[i])) & mask) >= ((i - hole) & mask)) {
			s->key[hole] = s->key[i];
			hole = i;
		}
	}
	s->key[hole] = 0;
}

void q2_set_free(struct q2_set *s)
{
	free(s->key);
	*s = (struct q2_set){0};
}
