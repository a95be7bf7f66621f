/*
 * Workloads that follow pointers, or indices used as such: breadth-first search of a
 * graph (what Graph500 does), simulated annealing of a netlist (what canneal does),
 * and a heap of small objects that come and go (what compilers do). They leave out
 * threads, input files and whatever those programs compute besides.
 */
#include "work.h"

#include <assert.h>
#include <string.h>

/* ---- a graph ---- */

enum { EDGE_FACTOR = 16 }; /* edges a vertex, each known at both ends */

struct graph {
	unsigned scale; /* log2 of vertices */
	uint64_t *end;  /* of a vertex's edges; they begin where those of the one before end */
	uint32_t *edge, *queue;
	int32_t *level;
};

static uint64_t vertices(const struct graph *g) { return (uint64_t)1 << g->scale; }

static uint64_t graph_bytes(unsigned scale)
{
	return ((uint64_t)sizeof(uint64_t) + 2 * sizeof(uint32_t) + 2 * EDGE_FACTOR * sizeof(uint32_t)) << scale;
}

/* Another name for each vertex, so that names say nothing about degrees: a permutation of 0 .. 2^scale - 1. */
static uint64_t rename_vertex(const struct graph *g, uint64_t v)
{
	uint64_t mask = vertices(g) - 1;

	v = v * 0x9e3779b97f4a7c15 & mask;
	v ^= v >> (g->scale + 1) / 2;
	return v * 0xbf58476d1ce4e5b9 & mask;
}

/* An edge of an R-MAT graph: at each level a quadrant, with probabilities 0.57, 0.19, 0.19 and 0.05 in 256ths. */
static void next_edge(const struct graph *g, uint64_t *random, uint64_t *from, uint64_t *to)
{
	uint64_t r = 0, a = 0, b = 0;

	for (unsigned l = 0; l < g->scale; l++, r >>= 8) {
		unsigned q;

		if (l % 8 == 0)
			r = next_random(random);
		q = r & 0xff;
		a = a << 1 | (q >= 195);
		b = b << 1 | ((q >= 146 && q < 195) || q >= 243);
	}
	*from = rename_vertex(g, a);
	*to = rename_vertex(g, b);
}

/* The edges are made twice, to be counted and to be put into place: so no list of them needs memory. */
static void make_edges(struct graph *g)
{
	uint64_t random = 0x9e3779b97f4a7c15, again = random, from, to, sum = 0;

	for (uint64_t i = 0; i < vertices(g) * EDGE_FACTOR; i++) {
		next_edge(g, &random, &from, &to);
		g->end[from]++;
		g->end[to]++;
	}
	for (uint64_t v = 0; v < vertices(g); v++) {
		uint64_t degree = g->end[v];

		g->end[v] = sum; /* where the edges begin; each that is put there moves it on */
		sum += degree;
	}
	for (uint64_t i = 0; i < vertices(g) * EDGE_FACTOR; i++) {
		next_edge(g, &again, &from, &to);
		g->edge[g->end[from]++] = (uint32_t)to;
		g->edge[g->end[to]++] = (uint32_t)from;
	}
}

static bool make_graph(struct graph *g, uint64_t bytes)
{
	if (graph_bytes(4) > bytes)
		return false;
	for (g->scale = 4; g->scale < 31 && graph_bytes(g->scale + 1) <= bytes; g->scale++)
		;
	g->end = map_pages(bytes);
	if (!g->end)
		return false;
	g->edge = (uint32_t *)(g->end + vertices(g));
	g->queue = g->edge + vertices(g) * 2 * EDGE_FACTOR;
	g->level = (int32_t *)(g->queue + vertices(g));
	make_edges(g);
	return true;
}

static uint64_t first_edge(const struct graph *g, uint64_t v) { return v ? g->end[v - 1] : 0; }

/* Finds the levels of all vertices that can be reached from @root. Returns how many there are. */
static uint64_t search(struct graph *g, uint32_t root)
{
	uint64_t head = 0, tail = 0;

	memset(g->level, 0xff, vertices(g) * sizeof(*g->level));
	g->level[root] = 0;
	g->queue[tail++] = root;
	while (head < tail) {
		uint32_t v = g->queue[head++];

		for (uint64_t e = first_edge(g, v); e < g->end[v]; e++) {
			uint32_t to = g->edge[e];

			if (g->level[to] >= 0)
				continue;
			g->level[to] = g->level[v] + 1;
			g->queue[tail++] = to;
		}
	}
	return tail;
}

/* Is @v's level one more than the least of its neighbours', and no neighbour's more than one more? */
static bool level_is_right(const struct graph *g, uint64_t v, uint32_t root)
{
	int32_t least = INT32_MAX, level = g->level[v];

	for (uint64_t e = first_edge(g, v); e < g->end[v]; e++) {
		int32_t other = g->level[g->edge[e]];

		if ((other < 0) != (level < 0) || other > level + 1)
			return false;
		least = other < least ? other : least;
	}
	return level < 0 || v == root || level == least + 1;
}

/* Searches from @n roots; the last one's levels are checked. */
static bool work_graph(uint64_t n, uint64_t mib, uint64_t *sum)
{
	uint64_t random = 0x2545f4914f6cdd1d;
	uint32_t root = 0;
	struct graph g = {0};

	if (!make_graph(&g, mib * MIB))
		return false;
	work_ready("graph");
	for (uint64_t i = 0; i < n; i++) {
		do
			root = (uint32_t)(next_random(&random) & (vertices(&g) - 1));
		while (first_edge(&g, root) == g.end[root]);
		*sum += search(&g, root);
	}
	for (uint64_t v = 0; n && v < vertices(&g); v++) {
		if (!level_is_right(&g, v, root))
			return false;
		*sum += (uint64_t)(g.level[v] + 1) * scramble(v);
	}
	return unmap_pages(g.end, mib * MIB);
}

/* ---- annealing ---- */

enum { FAN = 5, COOLINGS = 16 };

struct place { int32_t x, y; };

struct element {
	struct element *in[FAN], *out[FAN];
	struct place *at;
};

struct netlist {
	struct element *element;
	struct place *place;
	uint64_t elements, width;
};

/* Element @i drives one element for each k: of a permutation each, so that every element has as many inputs. */
static void connect(struct netlist *l, uint64_t i, unsigned k)
{
	uint64_t to = (i * (2 * scramble(k) + 1) + scramble(k + FAN)) & (l->elements - 1);

	/* A power of two of elements, so odd factors and the swap of halves of the bits are one to one. */
	to ^= to >> (64 - (unsigned)__builtin_clzll(l->elements)) / 2;
	l->element[i].out[k] = &l->element[to];
	l->element[to].in[k] = &l->element[i];
}

static bool make_netlist(struct netlist *l, uint64_t bytes)
{
	l->element = map_pages(bytes);
	if (!l->element || bytes < 16 * (sizeof(*l->element) + sizeof(*l->place)))
		return false;
	for (l->elements = 16; l->elements * 2 * (sizeof(*l->element) + sizeof(*l->place)) <= bytes; l->elements *= 2)
		;
	for (l->width = 1; l->width * l->width < l->elements; l->width *= 2)
		;
	l->place = (struct place *)(l->element + l->elements);
	for (uint64_t i = 0; i < l->elements; i++) {
		l->place[i] = (struct place){ (int32_t)(i % l->width), (int32_t)(i / l->width) };
		l->element[i].at = &l->place[i];
		for (unsigned k = 0; k < FAN; k++)
			connect(l, i, k);
	}
	return true;
}

static int64_t distance(const struct element *a, const struct element *b)
{
	int64_t x = a->at->x - b->at->x, y = a->at->y - b->at->y;

	return (x < 0 ? -x : x) + (y < 0 ? -y : y);
}

/* The length of all wires at @e. */
static int64_t wires(const struct element *e)
{
	int64_t length = 0;

	for (unsigned k = 0; k < FAN; k++)
		length += distance(e, e->in[k]) + distance(e, e->out[k]);
	return length;
}

static int64_t all_wires(const struct netlist *l)
{
	int64_t length = 0;

	for (uint64_t i = 0; i < l->elements; i++)
		length += wires(&l->element[i]);
	return length / 2;
}

static void swap_places(struct element *a, struct element *b)
{
	struct place *at = a->at;

	a->at = b->at;
	b->at = at;
}

/*
 * Swaps two elements if that makes wires shorter, or with probability 2^-(how much longer / temperature); returns by
 * how much it made them longer. A wire between the two counts twice, before and after, with the same length.
 */
static int64_t try_swap(struct element *a, struct element *b, int64_t temperature, uint64_t random)
{
	int64_t before = wires(a) + wires(b), longer;

	swap_places(a, b);
	longer = wires(a) + wires(b) - before;
	if (longer <= temperature * __builtin_ctzll(random | 1ull << 63))
		return longer;
	swap_places(a, b);
	return 0;
}

/* Each place must still be some element's, and one's only. */
static bool places_are_taken(struct netlist *l, uint64_t *sum)
{
	for (uint64_t i = 0; i < l->elements; i++) {
		struct place *p = l->element[i].at;

		if (p->x < 0)
			return false;
		*sum += scramble(i) * (uint64_t)(p - l->place);
		p->x = -1;
	}
	return true;
}

static bool work_anneal(uint64_t n, uint64_t mib, uint64_t *sum)
{
	uint64_t random = 0x9e3779b97f4a7c15;
	struct netlist l = {0};
	struct element *a, *b;
	int64_t length;

	if (!make_netlist(&l, mib * MIB))
		return false;
	length = all_wires(&l);
	work_ready("anneal");
	b = &l.element[0];
	for (uint64_t i = 0; i < n; i++) {
		/* It cools by halves, from wires as long as the chip. */
		int64_t temperature = (int64_t)(l.width >> i * COOLINGS / n);

		a = b;
		b = &l.element[next_random(&random) & (l.elements - 1)];
		length += try_swap(a, b, temperature, next_random(&random));
	}
	*sum += (uint64_t)length;
	return length == all_wires(&l) && places_are_taken(&l, sum) && unmap_pages(l.element, mib * MIB);
}

/* ---- a compiler's heap ---- */

enum {
	KIDS_MAX = 4,
	SYMBOL_NAME = 24,
	GRAIN = 16,         /* bytes between sizes of objects */
	SIZES = 8,          /* up to 128 bytes */
	CHUNK = 32 * KIB,   /* what a size takes from the area at a time */
	NODES_MIN = 64,     /* of a function */
	NODES_MORE = 512,
	FUNCTION_BYTES = 14 * KIB, /* about, with its part of the symbols */
	SYMBOLS_EACH = 4,   /* for each function */
};

enum op { CONSTANT, SYMBOL, ADD, MULTIPLY, XOR, OPS };

struct symbol {
	struct symbol *next;
	uint64_t id, value, uses;
	char name[SYMBOL_NAME];
};

/* An expression. Nodes have room for what they need: kids, or notes of some bytes that are only carried along. */
struct node {
	uint8_t op, kids, size; /* size: in grains */
	union {
		uint64_t value;
		struct symbol *symbol;
	};
	struct node *kid[];
};

static_assert(sizeof(struct node) + KIDS_MAX * sizeof(struct node *) <= GRAIN * SIZES);
static_assert(sizeof(struct symbol) <= GRAIN * SIZES);

struct free_object { struct free_object *next; };

struct heap {
	uint8_t *area;
	uint64_t bytes, used;
	struct free_object *free[SIZES + 1];
	uint64_t random;
	struct symbol **bucket;
	struct node **function;
	uint64_t functions;
	bool exhausted;
};

/* The next chunk for objects of @size grains, cut up; in the order of addresses, as an allocator begins. */
static void cut_chunk(struct heap *h, unsigned size)
{
	uint64_t n = CHUNK / (size * GRAIN);

	if (h->used + CHUNK > h->bytes) {
		h->exhausted = true;
		return;
	}
	while (n--) {
		struct free_object *o = (struct free_object *)(h->area + h->used + n * size * GRAIN);

		o->next = h->free[size];
		h->free[size] = o;
	}
	h->used += CHUNK;
}

/* An object of @size grains; NULL if the area is used up. */
static void *take(struct heap *h, unsigned size)
{
	struct free_object *o;

	if (!h->free[size])
		cut_chunk(h, size);
	o = h->free[size];
	if (o)
		h->free[size] = o->next;
	return o;
}

static void give_back(struct heap *h, void *object, unsigned size)
{
	struct free_object *o = object;

	o->next = h->free[size];
	h->free[size] = o;
}

static uint64_t symbols(const struct heap *h) { return h->functions * SYMBOLS_EACH; }

/* The symbol @id by its bucket's list, made if it is new. */
static struct symbol *intern(struct heap *h, uint64_t id)
{
	struct symbol **bucket = &h->bucket[scramble(id) % symbols(h)], *s = *bucket;

	while (s && s->id != id)
		s = s->next;
	if (s)
		return s;
	s = take(h, (sizeof(*s) + GRAIN - 1) / GRAIN);
	if (s)
		*s = (struct symbol){ .next = *bucket, .id = id, .value = scramble(id + 1) };
	*bucket = s ? s : *bucket;
	return s;
}

static struct node *new_node(struct heap *h, enum op op, unsigned kids, unsigned notes)
{
	size_t bytes = sizeof(struct node) + (kids + notes) * sizeof(struct node *);
	unsigned size = (unsigned)((bytes + GRAIN - 1) / GRAIN);
	struct node *node = take(h, size);

	if (node)
		*node = (struct node){ .op = (uint8_t)op, .size = (uint8_t)size };
	return node;
}

static struct node *new_leaf(struct heap *h)
{
	uint64_t r = next_random(&h->random);
	struct node *leaf = new_node(h, r & 3 ? CONSTANT : SYMBOL, 0, (r >> 2) % 8);

	if (!leaf)
		return NULL;
	if (leaf->op == CONSTANT) {
		leaf->value = r >> 8;
	} else {
		leaf->symbol = intern(h, (r >> 8) % symbols(h));
		if (!leaf->symbol)
			return NULL;
		leaf->symbol->uses++;
	}
	return leaf;
}

/* An expression of about @nodes; its depth is logarithmic in that. NULL: the area is used up. */
static struct node *new_expression(struct heap *h, unsigned nodes)
{
	uint64_t r = next_random(&h->random);
	unsigned kids = 2 + (unsigned)(r >> 8) % (KIDS_MAX - 1);
	struct node *node;

	if (nodes < 3)
		return new_leaf(h);
	node = new_node(h, (enum op)(ADD + r % (OPS - ADD)), kids, 0);
	for (unsigned k = 0; node && k < kids; k++) {
		node->kid[k] = new_expression(h, (nodes - 1) / kids);
		if (!node->kid[k])
			return NULL;
		node->kids++;
	}
	return node;
}

static void drop(struct heap *h, struct node *node)
{
	for (unsigned k = 0; k < node->kids; k++)
		drop(h, node->kid[k]);
	if (node->op == SYMBOL)
		node->symbol->uses--;
	give_back(h, node, node->size);
}

static uint64_t apply(enum op op, uint64_t a, uint64_t b)
{
	return op == ADD ? a + b : op == MULTIPLY ? a * (b | 1) : a ^ b;
}

static uint64_t evaluate(const struct node *node)
{
	uint64_t value;

	if (node->op == CONSTANT)
		return node->value;
	if (node->op == SYMBOL)
		return node->symbol->value;
	value = evaluate(node->kid[0]);
	for (unsigned k = 1; k < node->kids; k++)
		value = apply((enum op)node->op, value, evaluate(node->kid[k]));
	return value;
}

/* Makes a constant of every expression of constants, whose parts are given back. */
static void fold(struct heap *h, struct node *node)
{
	bool constant = node->kids > 0;
	uint64_t value;

	for (unsigned k = 0; k < node->kids; k++) {
		fold(h, node->kid[k]);
		constant &= node->kid[k]->op == CONSTANT;
	}
	if (!constant)
		return;
	value = evaluate(node);
	for (unsigned k = 0; k < node->kids; k++)
		drop(h, node->kid[k]);
	node->op = CONSTANT;
	node->kids = 0;
	node->value = value;
}

static struct node *new_function(struct heap *h)
{
	return new_expression(h, NODES_MIN + (unsigned)(next_random(&h->random) % NODES_MORE));
}

/* Takes a function, works on it as a compiler does, and puts a new one in its place. */
static bool compile(struct heap *h, uint64_t *sum)
{
	struct node **f = &h->function[next_random(&h->random) % h->functions];
	uint64_t value = evaluate(*f);

	fold(h, *f);
	if (evaluate(*f) != value)
		return false;
	*sum += value;
	drop(h, *f);
	*f = new_function(h);
	return *f != NULL;
}

/* Twice the room of what is to live in it: sizes vary, and pages that are not touched cost nothing. */
static bool make_heap(struct heap *h, uint64_t bytes)
{
	h->random = 0x9e3779b97f4a7c15;
	h->functions = bytes / FUNCTION_BYTES;
	h->bytes = 2 * bytes;
	h->area = map_pages(h->bytes);
	if (!h->area || !h->functions)
		return false;
	h->function = (struct node **)h->area;
	h->bucket = (struct symbol **)(h->function + h->functions);
	h->used = h->functions * (1 + SYMBOLS_EACH) * sizeof(void *);
	h->used = (h->used + PAGE - 1) & ~(uint64_t)(PAGE - 1);
	for (uint64_t i = 0; i < h->functions && !h->exhausted; i++)
		h->function[i] = new_function(h);
	return !h->exhausted;
}

/* Every use of a symbol is by a node that lives: after all functions are dropped there is none. */
static bool drop_all(struct heap *h)
{
	for (uint64_t i = 0; i < h->functions; i++)
		drop(h, h->function[i]);
	for (uint64_t i = 0; i < symbols(h); i++)
		for (const struct symbol *s = h->bucket[i]; s; s = s->next)
			if (s->uses)
				return false;
	return true;
}

static bool work_compile(uint64_t n, uint64_t mib, uint64_t *sum)
{
	struct heap h = {0};

	if (!make_heap(&h, mib * MIB))
		return false;
	work_ready("compile");
	for (uint64_t i = 0; i < n; i++)
		if (!compile(&h, sum))
			return false;
	return drop_all(&h) && unmap_pages(h.area, h.bytes);
}

const struct work works_pointers[] = {
	{ "graph", work_graph, 1, 64, "N breadth-first searches of an R-MAT graph of up to M MiB", true },
	{ "anneal", work_anneal, 50000, 64, "N swaps of elements of a netlist of up to M MiB", true },
	{ "compile", work_compile, 1000, 64, "N functions folded and made anew in a heap of about M MiB", true },
	{ 0 },
};
