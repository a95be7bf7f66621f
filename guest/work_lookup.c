/*
 * Workloads that look things up in tables as large as they are told: an untouched
 * one, a B-tree, a hash table with values (what memcached and Redis do), a grid of
 * cross sections (what XSBench does). What they leave out of those programs: the
 * network, the parsing, the physics. Layouts and sizes of nodes are such programs';
 * the memory asked for is M MiB, and what is built fills it.
 */
#include "work.h"

/* ---- reads of memory that nothing ever wrote ---- */

/* One zero page stands for all of it: M may be far more than the memory, as only tables are needed. */
static bool work_sparse(uint64_t n, uint64_t mib, uint64_t *sum)
{
	uint64_t words = mib * MIB / sizeof(uint64_t), random = 0x2545f4914f6cdd1d, found = 0;
	const volatile uint64_t *table = map_pages(mib * MIB);

	if (!table)
		return false;
	work_ready("sparse");
	for (uint64_t i = 0; i < n; i++) {
		uint64_t at = next_random(&random) % words;

		found |= table[at];
		*sum += scramble(at);
	}
	return !found && unmap_pages((void *)(uintptr_t)table, mib * MIB);
}

/* ---- a B-tree ---- */

enum { TREE_KEYS = 15 };

struct tree_element {
	uint64_t key, value[3];
};

struct tree_node {
	uint64_t keys; /* how many */
	uint64_t key[TREE_KEYS];
	union {
		struct tree_node *child[TREE_KEYS + 1];
		struct tree_element *element[TREE_KEYS + 1];
	};
};

struct tree {
	struct tree_node *node;
	struct tree_element *element;
	uint64_t elements, nodes, used;
	struct tree_node *root;
	unsigned depth; /* levels of nodes above the leaves */
};

static uint64_t gcd(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

/* A number that has no factor in common with @n: its multiples visit all of 0 .. n - 1, far apart. */
static uint64_t stride(uint64_t n)
{
	uint64_t s = n * 5 / 8 | 1;

	while (gcd(s, n) != 1)
		s += 2;
	return s;
}

/* Where the @i-th node is: as scattered as if keys had been inserted in no order. */
static struct tree_node *tree_node(const struct tree *t, uint64_t i)
{
	return &t->node[i * stride(t->nodes) % t->nodes];
}

/* Keys are odd, so that an even one is between two that are there. */
static uint64_t tree_key(uint64_t i) { return 2 * i + 1; }

static void fill_leaf(struct tree *t, struct tree_node *leaf, uint64_t first)
{
	uint64_t step = stride(t->elements);

	for (; leaf->keys < TREE_KEYS && first + leaf->keys < t->elements; leaf->keys++) {
		struct tree_element *e = &t->element[(first + leaf->keys) * step % t->elements];

		e->key = tree_key(first + leaf->keys);
		e->value[0] = scramble(e->key);
		leaf->key[leaf->keys] = e->key;
		leaf->element[leaf->keys] = e;
	}
}

/* A level above the @n nodes that were made last: a node for each sixteen. Returns how many. */
static uint64_t add_level(struct tree *t, uint64_t n, uint64_t keys_below)
{
	uint64_t first = t->used - n, made = 0;

	for (uint64_t i = 0; i < n; i++) {
		struct tree_node *node = tree_node(t, t->used + i / (TREE_KEYS + 1));

		if (i % (TREE_KEYS + 1))
			node->key[node->keys++] = tree_key(i * keys_below);
		else
			made++;
		node->child[i % (TREE_KEYS + 1)] = tree_node(t, first + i);
	}
	t->used += made;
	return made;
}

static bool build_tree(struct tree *t, uint64_t bytes)
{
	uint64_t keys = TREE_KEYS, n;

	/* For each fifteen elements a leaf, and less than a fifteenth of the leaves above. */
	t->elements = bytes / (sizeof(struct tree_element) * TREE_KEYS + sizeof(struct tree_node) * 16 / 15 + 1) * TREE_KEYS;
	t->element = map_pages(bytes);
	if (!t->element || t->elements < TREE_KEYS)
		return false;
	t->node = (struct tree_node *)(t->element + t->elements);
	t->nodes = (bytes - t->elements * sizeof(*t->element)) / sizeof(*t->node);
	n = t->elements / TREE_KEYS;
	for (uint64_t i = 0; i < n; i++)
		fill_leaf(t, tree_node(t, t->used++), i * TREE_KEYS);
	for (; n > 1 && t->used + n / TREE_KEYS < t->nodes; keys *= TREE_KEYS + 1) {
		n = add_level(t, n, keys);
		t->depth++;
	}
	t->root = tree_node(t, t->used - 1);
	return n == 1;
}

/* How many keys of @node are at most @key. */
static uint64_t keys_up_to(const struct tree_node *node, uint64_t key)
{
	uint64_t low = 0, high = node->keys;

	while (low < high) {
		uint64_t middle = (low + high) / 2;

		if (node->key[middle] <= key)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static const struct tree_element *find_element(const struct tree *t, uint64_t key)
{
	const struct tree_node *node = t->root;
	uint64_t i;

	for (unsigned d = 0; d < t->depth; d++)
		node = node->child[keys_up_to(node, key)];
	i = keys_up_to(node, key);
	return i && node->key[i - 1] == key ? node->element[i - 1] : NULL;
}

/* Lookups of random keys; every eighth is of one that is not there. */
static bool work_btree(uint64_t n, uint64_t mib, uint64_t *sum)
{
	uint64_t random = 0x9e3779b97f4a7c15;
	struct tree t = {0};

	if (!build_tree(&t, mib * MIB))
		return false;
	work_ready("btree");
	for (uint64_t i = 0; i < n; i++) {
		uint64_t key = tree_key(next_random(&random) % t.elements) + (i % 8 == 7);
		const struct tree_element *e = find_element(&t, key);

		if (i % 8 == 7 ? e != NULL : !e || e->key != key || e->value[0] != scramble(key))
			return false;
		*sum += e ? e->value[0] : key;
	}
	return unmap_pages(t.element, mib * MIB);
}

/* ---- a server's hash table ---- */

enum { ITEM_WORDS_MIN = 4, ITEM_WORDS_STEP = 12, ITEM_SIZES = 8 };

struct item {
	struct item *next;
	uint64_t key;
	uint32_t words, version;
	uint64_t value[];
};

struct store {
	uint64_t *area, bytes, used;
	struct item **bucket;
	uint64_t buckets; /* a power of two */
	uint64_t items;   /* keys are scramble(0) .. scramble(items - 1) */
};

/* Values of 32 to 704 bytes, by key. */
static uint32_t words_of(uint64_t key) { return ITEM_WORDS_MIN + (uint32_t)(key % ITEM_SIZES) * ITEM_WORDS_STEP; }

static uint64_t word_of(const struct item *it, uint32_t i) { return (it->key + it->version) * (i + 1); }

static void set_value(struct item *it)
{
	for (uint32_t i = 0; i < it->words; i++)
		it->value[i] = word_of(it, i);
}

/* What a get sends back; false if it is not what was set. */
static bool get_value(const struct item *it, uint64_t *sum)
{
	for (uint32_t i = 0; i < it->words; i++) {
		if (it->value[i] != word_of(it, i))
			return false;
		*sum += it->value[i];
	}
	return true;
}

static struct item **bucket_of(const struct store *s, uint64_t key)
{
	return &s->bucket[scramble(key) & (s->buckets - 1)];
}

static struct item *find_item(const struct store *s, uint64_t key)
{
	struct item *it = *bucket_of(s, key);

	while (it && it->key != key)
		it = it->next;
	return it;
}

/* One more key; false if it finds no room. */
static bool add_item(struct store *s)
{
	uint64_t key = scramble(s->items), bytes = sizeof(struct item) + words_of(key) * sizeof(uint64_t);
	struct item *it = (struct item *)((uint8_t *)s->area + s->used), **bucket = bucket_of(s, key);

	if (s->used + bytes > s->bytes)
		return false;
	*it = (struct item){ .next = *bucket, .key = key, .words = words_of(key) };
	set_value(it);
	*bucket = it;
	s->used += bytes;
	s->items++;
	return true;
}

static bool fill_store(struct store *s, uint64_t bytes)
{
	s->area = map_pages(bytes);
	s->bytes = bytes;
	if (!s->area || bytes < MIB)
		return false;
	for (s->buckets = 1; s->buckets * 2 * 512 <= bytes; s->buckets *= 2)
		;
	s->bucket = (struct item **)s->area;
	s->used = s->buckets * sizeof(*s->bucket);
	while (add_item(s))
		;
	return true;
}

/*
 * A number below @n, small ones more often: uniform within its octave, and octaves are equally frequent, so that the
 * frequency falls as 1/x: Zipf's law with exponent 1, in steps.
 */
static uint64_t next_zipf(uint64_t *random, uint64_t n)
{
	uint64_t r = next_random(random), octaves = 64 - (uint64_t)__builtin_clzll(n);
	uint64_t first = 1ull << (r >> 32) % octaves;

	return (first + (r & (first - 1)) - 1) % n;
}

/* Requests by popularity: nine of ten get a value, the tenth sets one. */
static bool work_store(uint64_t n, uint64_t mib, uint64_t *sum)
{
	uint64_t random = 0x9e3779b97f4a7c15, set = 0, found = 0;
	struct store s = {0};

	if (!fill_store(&s, mib * MIB))
		return false;
	work_ready("store");
	for (uint64_t i = 0; i < n; i++) {
		/* The popular ones are not neighbours. */
		struct item *it = find_item(&s, scramble(next_zipf(&random, s.items) * stride(s.items) % s.items));

		if (!it)
			return false;
		if (i % 10 == 9) {
			it->version++;
			set++;
			set_value(it);
		} else if (!get_value(it, sum)) {
			return false;
		}
	}
	for (uint64_t i = 0; i < s.items; i++)
		found += find_item(&s, scramble(i))->version;
	return found == set && unmap_pages(s.area, mib * MIB);
}

/* ---- cross sections ---- */

enum { NUCLIDES = 64, MATERIALS = 12, CHANNELS = 5, GRID_STEP = 1 << 20 };

struct grid_point {
	uint64_t energy;
	double section[CHANNELS];
};

/*
 * Each nuclide has a grid of energies. All energies of all nuclides in order are the unionised grid; for each of its
 * points a row says where every nuclide's grid is there.
 */
struct sections {
	uint64_t points;          /* of a nuclide */
	struct grid_point *point; /* [NUCLIDES][points] */
	uint64_t *energy;         /* [NUCLIDES * points] */
	uint32_t (*row)[NUCLIDES];
};

/* As in a reactor's core: the fuel has most nuclides, and some materials are met often; shares add up to 1000. */
static const struct { unsigned nuclides, share; } material[MATERIALS] = {
	{58, 140}, {1, 52}, {1, 275}, {1, 134}, {5, 154}, {4, 64}, {4, 66}, {4, 55}, {4, 8}, {4, 15}, {2, 25}, {2, 12},
};

static void make_grid(struct grid_point *p, uint64_t points, uint64_t *random)
{
	uint64_t energy = 0;

	for (uint64_t i = 0; i < points; i++) {
		p[i].energy = i + 1 < points ? energy : points * 2 * GRID_STEP;
		for (unsigned c = 0; c < CHANNELS; c++)
			p[i].section[c] = (double)(next_random(random) >> 40) / (1 << 24);
		energy += 1 + next_random(random) % (2 * GRID_STEP - 1);
	}
}

/* Merges the nuclides' grids; the places the merge has come to are the row of each point. */
static void make_union(struct sections *x)
{
	uint32_t next[NUCLIDES] = {0};

	for (uint64_t u = 0; u < x->points * NUCLIDES; u++) {
		uint64_t least = UINT64_MAX;
		unsigned from = 0;

		for (unsigned i = 0; i < NUCLIDES; i++) {
			if (next[i] == x->points || x->point[i * x->points + next[i]].energy >= least)
				continue;
			least = x->point[i * x->points + next[i]].energy;
			from = i;
		}
		next[from]++;
		x->energy[u] = least;
		for (unsigned i = 0; i < NUCLIDES; i++)
			x->row[u][i] = next[i] ? next[i] - 1 : 0;
	}
}

static bool make_sections(struct sections *x, uint64_t bytes)
{
	uint64_t random = 0x9e3779b97f4a7c15;
	uint64_t each = NUCLIDES * (sizeof(*x->point) + sizeof(*x->energy) + sizeof(*x->row));

	x->points = bytes / each;
	x->point = map_pages(bytes);
	if (!x->point || x->points < 4)
		return false;
	x->energy = (uint64_t *)(x->point + NUCLIDES * x->points);
	x->row = (uint32_t(*)[NUCLIDES])(x->energy + NUCLIDES * x->points);
	for (unsigned i = 0; i < NUCLIDES; i++)
		make_grid(x->point + i * x->points, x->points, &random);
	make_union(x);
	return true;
}

/* The last point of the unionised grid that is not above @energy. */
static uint64_t find_energy(const struct sections *x, uint64_t energy)
{
	uint64_t low = 0, high = NUCLIDES * x->points;

	while (high - low > 1) {
		uint64_t middle = (low + high) / 2;

		if (x->energy[middle] <= energy)
			low = middle;
		else
			high = middle;
	}
	return low;
}

/* Adds what @nuclide contributes at @energy; false if the row leads to the wrong place. */
static bool add_nuclide(const struct sections *x, unsigned nuclide, uint64_t at, uint64_t energy, double *total)
{
	const struct grid_point *p = x->point + nuclide * x->points + x->row[at][nuclide];
	double part;

	if (energy < p[0].energy || energy >= p[1].energy)
		return false;
	part = (double)(p[1].energy - energy) / (double)(p[1].energy - p[0].energy);
	for (unsigned c = 0; c < CHANNELS; c++)
		total[c] += p[1].section[c] - part * (p[1].section[c] - p[0].section[c]);
	return true;
}

static unsigned choose_material(uint64_t r)
{
	unsigned m = 0;

	for (r %= 1000; r >= material[m].share; m++)
		r -= material[m].share;
	return m;
}

/* Lookups of a random energy in a random material; the sum is of the channels that come out greatest. */
static bool work_xsection(uint64_t n, uint64_t mib, uint64_t *sum)
{
	uint64_t random = 0x2545f4914f6cdd1d;
	struct sections x = {0};

	if (!make_sections(&x, mib * MIB))
		return false;
	work_ready("xsection");
	for (uint64_t i = 0; i < n; i++) {
		uint64_t energy = next_random(&random) % (x.points * GRID_STEP), at = find_energy(&x, energy);
		unsigned m = choose_material(next_random(&random)), most = 0;
		double total[CHANNELS] = {0};

		for (unsigned j = 0; j < material[m].nuclides; j++)
			if (!add_nuclide(&x, (m * 5 + j) % NUCLIDES, at, energy, total))
				return false;
		for (unsigned c = 1; c < CHANNELS; c++)
			most = total[c] > total[most] ? c : most;
		*sum += most + 1;
	}
	return unmap_pages(x.point, mib * MIB);
}

const struct work works_lookup[] = {
	{ "sparse", work_sparse, 20000, 65536, "N random reads of M MiB that nothing wrote: zero pages", true },
	{ "btree", work_btree, 20000, 64, "N lookups in a B-tree of M MiB", true },
	{ "store", work_store, 20000, 64, "N gets and sets, by popularity, in a hash table of M MiB", true },
	{ "xsection", work_xsection, 3000, 64, "N lookups of cross sections in grids of M MiB", true },
	{ 0 },
};
