/* Events to a frame. */
#include "trace/codec.h"
#include "trace/members.h"

#include <errno.h>
#include <stdlib.h>

#define FIND_BITS  17
#define FIND_SLOTS (1u << FIND_BITS)
#define EVENT_BYTES_MAX 64u /* that one event can add to a stream, but for pages */

int encoder_init(struct encoder *e)
{
	*e = (struct encoder){0};
	e->find = malloc(FIND_SLOTS * sizeof(*e->find));
	if (e->find && model_init(&e->model) == 0) {
		encoder_reset(e);
		return 0;
	}
	free(e->find);
	return -ENOMEM;
}

void encoder_free(struct encoder *e)
{
	model_free(&e->model);
	free(e->find);
	free(e->op.data);
	free(e->sites.data);
	free(e->literal.data);
	free(e->page.data);
}

void encoder_reset(struct encoder *e)
{
	model_reset(&e->model);
	memset(e->find, 0, FIND_SLOTS * sizeof(*e->find));
	e->op.n = e->sites.n = e->literal.n = e->page.n = 0;
	e->insns = 0;
}

bool encoder_is_full(const struct encoder *e)
{
	return e->op.n == FRAME_EVENTS || e->model.sites == FRAME_SITES || e->page.n == FRAME_PAGES * PAGE_SIZE ||
	       e->sites.n > FRAME_LITERAL - EVENT_BYTES_MAX || e->literal.n > FRAME_LITERAL - EVENT_BYTES_MAX;
}

/* ---- bytes ---- */

static int make_room(struct bytes *b, size_t n)
{
	size_t room = b->room ? b->room : 4096;
	uint8_t *data;

	if (likely(b->n + n <= b->room))
		return 0;
	while (room < b->n + n)
		room *= 2;
	data = realloc(b->data, room);
	if (!data)
		return -ENOMEM;
	b->data = data;
	b->room = room;
	return 0;
}

static void add_byte(struct bytes *b, uint64_t v) { b->data[b->n++] = (uint8_t)v; }

static void add_varint(struct bytes *b, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		add_byte(b, v | 0x80);
	add_byte(b, v);
}

/* Small differences of either sign are small numbers. */
static void add_signed(struct bytes *b, uint64_t v) { add_varint(b, v << 1 ^ -(v >> 63)); }

/* ---- events without a site ---- */

static int encode_plain(struct encoder *e, const struct trace_event *ev)
{
	struct plain_last *last = &e->model.plain[ev->kind];
	struct bytes *b = &e->literal;
	unsigned has = trace_members_of(ev);

	add_byte(&e->op, OP_PLAIN | ev->kind);
	if (trace_members[ev->kind].flags)
		add_byte(b, ev->flags);
	if (has & HAS_SIZE)
		add_byte(b, ev->size);
	if (has & HAS_MODE)
		add_byte(b, ev->mode);
	if (has & HAS_AUX)
		add_varint(b, ev->aux);
	if (has & HAS_ADDR)
		add_signed(b, ev->addr - last->addr);
	if (has & HAS_PC)
		add_signed(b, ev->pc - last->pc);
	if (has & HAS_VALUE)
		add_signed(b, ev->value - last->value);
	*last = (struct plain_last){ev->addr, ev->pc, ev->kind == TRACE_PAGE ? 0 : ev->value};
	if (ev->kind != TRACE_PAGE)
		return 0;
	if (make_room(&e->page, PAGE_SIZE))
		return -ENOMEM;
	memcpy(e->page.data + e->page.n, trace_event_page(ev), PAGE_SIZE);
	e->page.n += PAGE_SIZE;
	return 0;
}

/* ---- sites ---- */

static bool is_site_of(const struct site *s, const struct trace_event *ev)
{
	return memcmp(&s->ev, ev, offsetof(struct trace_event, addr)) == 0 && s->ev.pc == ev->pc &&
	       s->ev.value == ev->value;
}

/* The slot that names the event's site, or is free for it. */
static uint16_t *find_slot(struct encoder *e, const struct trace_event *ev)
{
	uint64_t hash = (get_u64(ev) ^ ev->pc * 0x9e3779b97f4a7c15 ^ ev->value << 20) * 0xd6e8feb86659fd93;

	for (uint32_t i = (uint32_t)(hash >> (64 - FIND_BITS));; i = (i + 1) & (FIND_SLOTS - 1))
		if (!e->find[i] || is_site_of(&e->model.site[e->find[i]], ev))
			return &e->find[i];
}

static void define_site(struct encoder *e, const struct trace_event *ev)
{
	struct bytes *b = &e->sites;

	add_byte(b, ev->kind);
	if (ev->kind == TRACE_INSNS) {
		add_varint(b, ev->value);
		return;
	}
	add_byte(b, ev->size);
	add_byte(b, ev->mode << 4 | ev->aux);
	add_byte(b, ev->flags);
	add_signed(b, ev->pc - e->model.pc);
}

/* The number of the event's site, and the op that says so. */
static uint32_t encode_site(struct encoder *e, const struct trace_event *ev, unsigned *op)
{
	struct site *before = &e->model.site[e->model.at];
	uint32_t id = before->next & 0xffff;
	uint16_t *slot;

	*op = 0;
	if (likely(is_site_of(&e->model.site[id], ev)))
		return id;
	slot = is_site_of(e->model.site, ev) ? NULL : find_slot(e, ev);
	if (slot && !*slot) {
		define_site(e, ev);
		*slot = (uint16_t)model_add(&e->model, ev);
		*op = OP_SITE_NEW;
		site_follows(before, *slot, 3);
		return *slot;
	}
	id = slot ? *slot : 0;
	for (*op = 1; *op < 4; ++*op)
		if ((before->next >> (16 * *op) & 0xffff) == id)
			break;
	if (*op == OP_SITE_KNOWN)
		add_varint(&e->sites, id);
	site_follows(before, id, *op < 3 ? *op : 3);
	return id;
}

static bool fits(uint64_t difference, unsigned bytes)
{
	return difference + (1ull << (8 * bytes - 1)) < 1ull << (8 * bytes);
}

/* The code of the address, whose difference goes to stream 2. */
static unsigned encode_addr(struct encoder *e, const struct site *s, uint64_t addr)
{
	static const uint8_t shortest_first[] = {1, 4, 2, 5, 3, 6};
	uint64_t base[] = {[FROM_SITE] = s->ev.addr, [FROM_LAST] = e->model.last[s->class]};

	if (likely(addr == s->ev.addr + s->stride))
		return 0;
	for (unsigned i = 0; i < ARRAY_SIZE(shortest_first); i++) {
		unsigned code = shortest_first[i];
		uint64_t difference = addr - base[addr_base[code]];

		if (fits(difference, addr_bytes[code])) {
			put_u64(e->literal.data + e->literal.n, difference);
			e->literal.n += addr_bytes[code];
			return code;
		}
	}
	put_u64(e->literal.data + e->literal.n, addr);
	e->literal.n += 8;
	return 7;
}

int encode(struct encoder *e, const struct trace_event *ev)
{
	struct site *s;
	unsigned op;

	if (make_room(&e->op, 1) || make_room(&e->sites, EVENT_BYTES_MAX) || make_room(&e->literal, EVENT_BYTES_MAX))
		return -ENOMEM;
	if (!event_has_site(ev))
		return encode_plain(e, ev);
	e->model.at = encode_site(e, ev, &op);
	s = &e->model.site[e->model.at];
	add_byte(&e->op, op | encode_addr(e, s, ev->addr) << OP_ADDR_SHIFT);
	s->stride = ev->addr - s->ev.addr;
	e->model.last[s->class] = s->ev.addr = ev->addr;
	e->insns += ev->value;
	return 0;
}

/* ---- the frame ---- */

size_t encoder_bytes(const struct encoder *e)
{
	return FRAME_HEAD + e->op.n + e->sites.n + e->literal.n + e->page.n;
}

static uint8_t *put_bytes(uint8_t *out, const struct bytes *b)
{
	if (b->n)
		memcpy(out, b->data, b->n);
	return out + b->n;
}

void encoder_finish(const struct encoder *e, uint8_t *out)
{
	put_u32(out, (uint32_t)e->sites.n);
	put_u32(out + 4, (uint32_t)e->literal.n);
	put_u32(out + 8, (uint32_t)(e->page.n / PAGE_SIZE));
	out = put_bytes(out + FRAME_HEAD, &e->op);
	out = put_bytes(out, &e->sites);
	out = put_bytes(out, &e->literal);
	put_bytes(out, &e->page);
}
