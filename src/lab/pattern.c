/*
 * See pattern.h. Sizes and layouts are those of guest/work.c, work_lookup.c and work_pointers.c. Left out: accesses to the
 * stack and to variables, which are in one page each; building the data; 'compile', whose heap has no rule but its history.
 */
#include "lab/pattern.h"

#include "base/util.h"

enum { WORD = 8, CODE = 0x400000, INSN_BYTES = 4 };

/* As the guest's (guest/work.h). */
static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint64_t scramble(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

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

/* @a * @b mod @n: the product may have more than 64 bits. */
static uint64_t multiply(uint64_t a, uint64_t b, uint64_t n) { return (uint64_t)((unsigned __int128)a * b % n); }

struct trace_event pattern_access(enum trace_kind kind, uint64_t addr)
{
	return (struct trace_event){.kind = (uint8_t)kind, .size = WORD, .mode = TRACE_USER, .flags = TRACE_FIRST,
				    .aux = INSN_BYTES, .addr = addr, .pc = CODE};
}

static uint64_t draw(struct pattern_run *r, uint64_t below) { return next_random(&r->random) % below; }
/* @at: bytes from the beginning of the data */
static void get(struct pattern_run *r, uint64_t at)
{
	r->ev[r->n++] = pattern_access(TRACE_READ, PATTERN_BASE + (at & ~(uint64_t)(WORD - 1)));
}
static void put(struct pattern_run *r, uint64_t at)
{
	r->ev[r->n++] = pattern_access(TRACE_WRITE, PATTERN_BASE + (at & ~(uint64_t)(WORD - 1)));
}

static void get_words(struct pattern_run *r, uint64_t at, unsigned words)
{
	for (unsigned i = 0; i < words; i++)
		get(r, at + i * WORD);
}

static uint64_t steps_each(uint64_t n, uint64_t mib) { return mib ? n : 0; }

/* ---- random updates ---- */

static void prepare_gups(struct pattern_run *r) { r->part[0] = r->bytes / WORD; }

static void step_gups(struct pattern_run *r)
{
	uint64_t at = draw(r, r->part[0]) * WORD;

	get(r, at);
	put(r, at);
	r->ev[r->n - 1].flags = 0; /* of the same instruction */
}

/* ---- lookups in a B-tree ---- */

enum { TREE_KEYS = 15, TREE_NODE = 256, TREE_ELEMENT = 32, TREE_CHILDREN_AT = (1 + TREE_KEYS) * WORD };
enum { ELEMENTS, NODES, LEAVES, ELEMENT_STRIDE, NODE_STRIDE };

static void prepare_btree(struct pattern_run *r)
{
	r->part[ELEMENTS] = r->bytes / (TREE_ELEMENT * TREE_KEYS + TREE_NODE * 16 / 15 + 1) * TREE_KEYS;
	r->part[NODES] = (r->bytes - r->part[ELEMENTS] * TREE_ELEMENT) / TREE_NODE;
	r->part[LEAVES] = r->part[ELEMENTS] / TREE_KEYS;
	r->part[ELEMENT_STRIDE] = stride(r->part[ELEMENTS]);
	r->part[NODE_STRIDE] = stride(r->part[NODES]);
}

/* Searches the node for the place behind @found of its @keys keys, and reads what is referred to there. */
static void search_node(struct pattern_run *r, uint64_t number, unsigned keys, unsigned found)
{
	uint64_t node = r->part[ELEMENTS] * TREE_ELEMENT + multiply(number, r->part[NODE_STRIDE], r->part[NODES]) * TREE_NODE;
	unsigned low = 0, high = keys;

	get(r, node);
	while (low < high) {
		unsigned middle = (low + high) / 2;

		get(r, node + (1 + middle) * WORD);
		if (middle < found)
			low = middle + 1;
		else
			high = middle;
	}
	get(r, node + TREE_CHILDREN_AT + found * WORD);
}

static void step_btree(struct pattern_run *r)
{
	uint64_t key = draw(r, r->part[ELEMENTS]), leaf = key / TREE_KEYS, first[16], width[16], n = r->part[LEAVES];
	unsigned levels = 0;

	/* Leaves are numbered first, then the level above them, and so on. */
	for (uint64_t from = 0; levels < 16; n = (n + TREE_KEYS) / (TREE_KEYS + 1)) {
		first[levels] = from;
		width[levels++] = n;
		from += n;
		if (n == 1)
			break;
	}
	for (unsigned l = levels - 1; l > 0; l--) {
		uint64_t below = leaf >> 4 * (l - 1), at = below >> 4;
		uint64_t children = at + 1 < width[l] ? TREE_KEYS + 1 : width[l - 1] - at * (TREE_KEYS + 1);

		search_node(r, first[l] + at, (unsigned)children - 1, (unsigned)(below & TREE_KEYS));
	}
	search_node(r, leaf, TREE_KEYS, (unsigned)(key % TREE_KEYS));
	get_words(r, multiply(key, r->part[ELEMENT_STRIDE], r->part[ELEMENTS]) * TREE_ELEMENT, 2);
}

/* ---- a server's hash table ---- */

enum { ITEM_HEAD = 24, ITEM_MEAN = ITEM_HEAD + 46 * WORD, CHAIN = 3 };
enum { BUCKETS, ITEMS, ITEM_STRIDE };

static void prepare_store(struct pattern_run *r)
{
	for (r->part[BUCKETS] = 1; r->part[BUCKETS] * 2 * 512 <= r->bytes; r->part[BUCKETS] *= 2)
		;
	/* The last one may be the largest. */
	r->part[ITEMS] = (r->bytes - r->part[BUCKETS] * WORD - PAGE_SIZE) / ITEM_MEAN;
	r->part[ITEM_STRIDE] = stride(r->part[ITEMS]);
}

/* Uniform within an octave, and octaves are equally frequent. */
static uint64_t next_zipf(struct pattern_run *r, uint64_t n)
{
	uint64_t x = next_random(&r->random), first = 1ull << (x >> 32) % (64 - (uint64_t)__builtin_clzll(n));

	return (first + (x & (first - 1)) - 1) % n;
}

static uint64_t item_at(const struct pattern_run *r, uint64_t i) { return r->part[BUCKETS] * WORD + i * ITEM_MEAN; }

/* A bucket; up to two items that are not it and the one that is; its words, read or written. */
static void step_store(struct pattern_run *r)
{
	uint64_t i = multiply(next_zipf(r, r->part[ITEMS]), r->part[ITEM_STRIDE], r->part[ITEMS]);
	uint64_t key = scramble(i), hash = scramble(key), at = item_at(r, i);
	unsigned words = 4 + (unsigned)(key % 8) * 12;

	get(r, (hash & (r->part[BUCKETS] - 1)) * WORD);
	for (unsigned other = 0; other < hash % CHAIN; other++)
		get_words(r, item_at(r, scramble(hash + other) % r->part[ITEMS]), 2);
	get_words(r, at, ITEM_HEAD / WORD);
	for (unsigned w = 0; w < words; w++)
		r->turn % 10 == 9 ? put(r, at + ITEM_HEAD + w * WORD) : get(r, at + ITEM_HEAD + w * WORD);
}

/* ---- cross sections ---- */

enum { NUCLIDES = 64, POINT = 48, ROW = NUCLIDES * 4, MATERIALS = 12 };
enum { POINTS, ENERGIES_AT, ROWS_AT };

static const struct { unsigned nuclides, share; } material[MATERIALS] = {
	{58, 140}, {1, 52}, {1, 275}, {1, 134}, {5, 154}, {4, 64}, {4, 66}, {4, 55}, {4, 8}, {4, 15}, {2, 25}, {2, 12},
};

static void prepare_xsection(struct pattern_run *r)
{
	r->part[POINTS] = r->bytes / (NUCLIDES * (POINT + WORD + ROW));
	r->part[ENERGIES_AT] = r->part[POINTS] * NUCLIDES * POINT;
	r->part[ROWS_AT] = r->part[ENERGIES_AT] + r->part[POINTS] * NUCLIDES * WORD;
}

static void step_xsection(struct pattern_run *r)
{
	uint64_t all = r->part[POINTS] * NUCLIDES, at = draw(r, all), low = 0, high = all, share = draw(r, 1000);
	unsigned m = 0;

	while (high - low > 1) {
		uint64_t middle = (low + high) / 2;

		get(r, r->part[ENERGIES_AT] + middle * WORD);
		*(middle <= at ? &low : &high) = middle;
	}
	for (; share >= material[m].share; m++)
		share -= material[m].share;
	for (unsigned j = 0; j < material[m].nuclides; j++) {
		uint64_t nuclide = (m * 5 + j) % NUCLIDES, point = min_u64(at / NUCLIDES, r->part[POINTS] - 2);

		get(r, r->part[ROWS_AT] + at * ROW + nuclide * 4);
		get_words(r, (nuclide * r->part[POINTS] + point) * POINT, 2 * POINT / WORD);
	}
}

/* ---- breadth-first search ---- */

enum { EDGES = 32, SCALE_MIN = 4, SCALE_MAX = 31 };
enum { SCALE, EDGES_AT, QUEUE_AT, LEVELS_AT };

static uint64_t scale_of(uint64_t bytes)
{
	uint64_t scale = SCALE_MIN;

	while (scale < SCALE_MAX && (uint64_t)(WORD + 4 + 4 + EDGES * 4) << (scale + 1) <= bytes)
		scale++;
	return scale;
}

static void prepare_graph(struct pattern_run *r)
{
	r->part[SCALE] = scale_of(r->bytes);
	r->part[EDGES_AT] = (uint64_t)WORD << r->part[SCALE];
	r->part[QUEUE_AT] = r->part[EDGES_AT] + ((uint64_t)EDGES * 4 << r->part[SCALE]);
	r->part[LEVELS_AT] = r->part[QUEUE_AT] + ((uint64_t)4 << r->part[SCALE]);
}

static uint64_t rename_vertex(uint64_t v, uint64_t scale)
{
	uint64_t mask = ((uint64_t)1 << scale) - 1;

	v = v * 0x9e3779b97f4a7c15 & mask;
	v ^= v >> (scale + 1) / 2;
	return v * 0xbf58476d1ce4e5b9 & mask;
}

/* The other end of an edge of an R-MAT graph: each bit of its number is set with probability 0.24. */
static uint64_t other_end(struct pattern_run *r)
{
	uint64_t v = 0, bits = 0;

	for (unsigned l = 0; l < r->part[SCALE]; l++, bits >>= 8) {
		if (l % 8 == 0)
			bits = next_random(&r->random);
		v = v << 1 | ((bits & 0xff) < 61);
	}
	return rename_vertex(v, r->part[SCALE]);
}

/* The next vertex of the queue, with 7, 14, 28 ... edges, half as many vertices each, 31.5 on average. One is new. */
static void step_graph(struct pattern_run *r)
{
	uint64_t mask = ((uint64_t)1 << r->part[SCALE]) - 1, v = rename_vertex(r->turn & mask, r->part[SCALE]), to = 0;
	uint64_t octave = min_u64((uint64_t)__builtin_ctzll(next_random(&r->random) | 1ull << 63), 7), edges = 7ull << octave;

	get(r, r->part[QUEUE_AT] + (r->turn & mask) * 4);
	get(r, v ? (v - 1) * WORD : 0);
	get(r, v * WORD);
	for (uint64_t e = 0; e < edges; e++) {
		to = other_end(r);
		get(r, r->part[EDGES_AT] + min_u64(v * EDGES + e, ((uint64_t)EDGES << r->part[SCALE]) - 1) * 4);
		get(r, r->part[LEVELS_AT] + to * 4);
	}
	put(r, r->part[LEVELS_AT] + to * 4);
	put(r, r->part[QUEUE_AT] + ((r->turn + (mask >> 2)) & mask) * 4);
}

/* Of the workload's vertices, whose edges are as many. */
static uint64_t steps_graph(uint64_t n, uint64_t mib) { return n << scale_of(mib << 20); }

/* ---- annealing ---- */

enum { FAN = 5, ELEMENT = (2 * FAN + 1) * WORD, AT_AT = 2 * FAN * WORD };
enum { NETLIST, LAST };

static void prepare_anneal(struct pattern_run *r)
{
	for (r->part[NETLIST] = 16; r->part[NETLIST] * 2 * (ELEMENT + WORD) <= r->bytes; r->part[NETLIST] *= 2)
		;
}

/* What an element drives, and (@k from FAN on) what drives it: by another permutation. */
static uint64_t neighbour(const struct pattern_run *r, uint64_t i, unsigned k)
{
	uint64_t all = r->part[NETLIST], to = (i * (2 * scramble(k) + 1) + scramble(k + FAN)) & (all - 1);

	return to ^ to >> (64 - (unsigned)__builtin_clzll(all)) / 2;
}

/* An element's place: somewhere, as after many swaps. */
static void get_place(struct pattern_run *r, uint64_t i)
{
	get(r, i * ELEMENT + AT_AT);
	get(r, r->part[NETLIST] * ELEMENT + (scramble(i) & (r->part[NETLIST] - 1)) * WORD);
}

static void get_wires(struct pattern_run *r, uint64_t i)
{
	get_place(r, i);
	for (unsigned k = 0; k < 2 * FAN; k++) {
		get(r, i * ELEMENT + k * WORD);
		get_place(r, neighbour(r, i, k));
	}
}

static void step_anneal(struct pattern_run *r)
{
	uint64_t a = r->part[LAST], b = draw(r, r->part[NETLIST]);

	for (unsigned after = 0; after < 2; after++) {
		get_wires(r, a);
		get_wires(r, b);
		put(r, a * ELEMENT + AT_AT);
		put(r, b * ELEMENT + AT_AT);
	}
	r->part[LAST] = b;
}

const struct pattern patterns[] = {
	{"gups", prepare_gups, step_gups, steps_each},
	{"btree", prepare_btree, step_btree, steps_each},
	{"store", prepare_store, step_store, steps_each},
	{"anneal", prepare_anneal, step_anneal, steps_each},
	{"graph", prepare_graph, step_graph, steps_graph},
	{"xsection", prepare_xsection, step_xsection, steps_each},
	{0},
};

const struct pattern *pattern_find(const char *name)
{
	for (const struct pattern *p = patterns; p->name; p++)
		if (strcmp(p->name, name) == 0)
			return p;
	return NULL;
}

void pattern_begin(struct pattern_run *r, const struct pattern *p, uint64_t bytes)
{
	*r = (struct pattern_run){.pattern = p, .bytes = bytes, .random = 0x9e3779b97f4a7c15};
	p->prepare(r);
}

unsigned pattern_step(struct pattern_run *r, struct trace_event ev[PATTERN_STEP_MAX])
{
	r->ev = ev;
	r->n = 0;
	r->pattern->step(r);
	r->turn++;
	return r->n;
}
