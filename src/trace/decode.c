/*
 * A frame to events. The frame may hold anything: a site is checked when it is defined, so that its events need no
 * check later, whatever their addresses; events without a site are checked one by one.
 */
#include "trace/codec.h"
#include "trace/members.h"

#include <errno.h>

int decoder_init(struct decoder *d)
{
	*d = (struct decoder){0};
	return model_init(&d->model);
}

void decoder_free(struct decoder *d) { model_free(&d->model); }

const char *decoder_begin(struct decoder *d, const uint8_t *frame, size_t bytes, unsigned events)
{
	uint64_t sites, literal, pages;

	if (bytes < FRAME_HEAD || bytes > FRAME_RAW_MAX || events > FRAME_EVENTS)
		return "a frame of no size";
	sites = get_u32(frame);
	literal = get_u32(frame + 4);
	pages = get_u32(frame + 8);
	if (sites + literal + pages * PAGE_SIZE + events + FRAME_HEAD != bytes)
		return "the streams of a frame do not add up to it";
	d->op = frame + FRAME_HEAD;
	d->op_end = d->sites = d->op + events;
	d->sites_end = d->literal = d->sites + sites;
	d->literal_end = d->page = d->literal + literal;
	d->page_end = d->page + pages * PAGE_SIZE;
	d->insns = 0;
	model_reset(&d->model);
	return NULL;
}

/* ---- literals; they return false at the end of their stream ---- */

static bool take_byte(const uint8_t **at, const uint8_t *end, uint8_t *v)
{
	if (*at == end)
		return false;
	*v = *(*at)++;
	return true;
}

static bool take_varint(const uint8_t **at, const uint8_t *end, uint64_t *v)
{
	uint8_t byte;

	*v = 0;
	for (unsigned shift = 0; shift < 64; shift += 7) {
		if (!take_byte(at, end, &byte))
			return false;
		*v |= (uint64_t)(byte & 0x7f) << shift;
		if (byte < 0x80)
			return true;
	}
	return false;
}

/* @v becomes @base and a difference. */
static bool take_signed(const uint8_t **at, const uint8_t *end, uint64_t base, uint64_t *v)
{
	if (!take_varint(at, end, v))
		return false;
	*v = base + (*v >> 1 ^ -(*v & 1));
	return true;
}

/* ---- events without a site ---- */

static bool take_members(struct decoder *d, struct trace_event *ev)
{
	const struct plain_last *last = &d->model.plain[ev->kind];
	const uint8_t **at = &d->literal, *end = d->literal_end;
	uint64_t aux = 0;
	unsigned has;

	if (trace_members[ev->kind].flags && !take_byte(at, end, &ev->flags))
		return false;
	has = trace_members_of(ev);
	if ((has & HAS_SIZE && !take_byte(at, end, &ev->size)) || (has & HAS_MODE && !take_byte(at, end, &ev->mode)) ||
	    (has & HAS_AUX && !take_varint(at, end, &aux)) ||
	    (has & HAS_ADDR && !take_signed(at, end, last->addr, &ev->addr)) ||
	    (has & HAS_PC && !take_signed(at, end, last->pc, &ev->pc)) ||
	    (has & HAS_VALUE && !take_signed(at, end, last->value, &ev->value)) || aux > UINT32_MAX)
		return false;
	ev->aux = (uint32_t)aux;
	return true;
}

static const char *decode_plain(struct decoder *d, unsigned kind, struct trace_event *ev)
{
	*ev = (struct trace_event){.kind = (uint8_t)kind};
	if (!kind || kind >= TRACE_KIND_END)
		return "an event of unknown kind";
	if (!take_members(d, ev))
		return "an event ends before its members do";
	d->model.plain[kind] = (struct plain_last){ev->addr, ev->pc, ev->value};
	if (kind == TRACE_PAGE) {
		if (d->page == d->page_end)
			return "the contents of a page are missing";
		ev->value = (uintptr_t)d->page;
		d->page += PAGE_SIZE;
	}
	if (event_has_site(ev))
		return "an event that has a site comes without";
	return trace_event_check(ev, NULL) ? "an event that makes no sense" : NULL;
}

/* ---- sites ---- */

static const char *define_site(struct decoder *d, uint32_t *id)
{
	const uint8_t **at = &d->sites, *end = d->sites_end;
	struct trace_event ev = {0};
	uint8_t mode_aux = 0;
	bool all = take_byte(at, end, &ev.kind);

	if (all && ev.kind == TRACE_INSNS)
		all = take_varint(at, end, &ev.value);
	else if (all)
		all = take_byte(at, end, &ev.size) && take_byte(at, end, &mode_aux) && take_byte(at, end, &ev.flags) &&
		      take_signed(at, end, d->model.pc, &ev.pc);
	ev.mode = mode_aux >> 4;
	ev.aux = mode_aux & TRACE_INSN_BYTES;
	if (!all || !event_has_site(&ev) || trace_event_check(&ev, NULL))
		return "a site that makes no sense";
	if (d->model.sites == FRAME_SITES)
		return "too many sites";
	*id = model_add(&d->model, &ev);
	return NULL;
}

/* Of an op that does not name a recent site. */
static const char *find_site(struct decoder *d, unsigned op, uint32_t *id)
{
	uint64_t known;

	if (op > OP_MAX)
		return "an op that is none";
	if ((op & OP_SITE) == OP_SITE_NEW)
		return define_site(d, id);
	if ((op & OP_SITE) != OP_SITE_KNOWN)
		return "an op that is none";
	if (!take_varint(&d->sites, d->sites_end, &known) || known >= d->model.sites)
		return "a site that was not defined";
	*id = (uint32_t)known;
	return NULL;
}

/* The address that @code says; false: its difference is missing. */
static ALWAYS_INLINE bool take_addr(const struct model *m, const struct site *s, unsigned code, const uint8_t **literal,
				    const uint8_t *end, uint64_t *addr)
{
	const uint64_t base[] = {[FROM_STRIDE] = s->ev.addr + s->stride, [FROM_SITE] = s->ev.addr,
				 [FROM_LAST] = m->last[s->class], [FROM_ZERO] = 0};
	unsigned n = addr_bytes[code], shift = 64 - 8 * n;

	if (unlikely((size_t)(end - *literal) < n))
		return false;
	*addr = base[addr_base[code]] + (n ? (uint64_t)((int64_t)(get_u64(*literal) << shift) >> shift) : 0);
	*literal += n;
	return true;
}

static const char *finish(const struct decoder *d)
{
	return d->sites != d->sites_end || d->literal != d->literal_end || d->page != d->page_end ?
	       "a frame has more than its events need" : NULL;
}

unsigned decode(struct decoder *d, struct trace_event *ev, unsigned max, const char **why)
{
	struct model *m = &d->model;
	unsigned n;

	*why = NULL;
	for (n = 0; n < max && d->op != d->op_end; n++) {
		struct site *before = &m->site[m->at], *s;
		unsigned op = *d->op++, back = op & OP_SITE;
		uint64_t addr;
		uint32_t id;

		if (op & OP_PLAIN) {
			*why = decode_plain(d, op & ~OP_PLAIN, &ev[n]);
			if (*why)
				return n;
			continue;
		}
		if (likely(back < OP_SITE_KNOWN && op <= OP_MAX)) {
			id = before->next >> (16 * back) & 0xffff;
		} else {
			*why = find_site(d, op, &id);
			if (*why)
				return n;
			back = 3;
		}
		site_follows(before, id, back);
		s = &m->site[id];
		if (unlikely(!take_addr(m, s, op >> OP_ADDR_SHIFT, &d->literal, d->literal_end, &addr))) {
			*why = "an address is missing";
			return n;
		}
		addr &= s->addr_bits;
		memcpy(&ev[n], &s->ev, offsetof(struct trace_event, addr));
		ev[n].addr = addr;
		ev[n].pc = s->ev.pc;
		ev[n].value = s->ev.value;
		s->stride = addr - s->ev.addr;
		m->last[s->class] = s->ev.addr = addr;
		m->at = id;
		d->insns += s->ev.value;
	}
	if (d->op == d->op_end)
		*why = finish(d);
	return n;
}
