/*
 * The coding of events in a frame (docs/FORMATS.md, "Frames of events"). Both sides keep the same model of what comes
 * next. A *site* is what stays the same whenever an instruction makes one of its accesses: everything but the
 * address. It remembers the address and the stride of its last access, and which four sites came after it last. So
 * most events are one byte that says: the site that came last time, one stride further.
 *
 * The model begins empty with each frame. Four streams: an op for each event, definitions and numbers of sites, what
 * else is literal, and contents of pages. Apart they are compressed better.
 */
#ifndef GNOMON_TRACE_CODEC_H
#define GNOMON_TRACE_CODEC_H

#include "base/util.h"
#include "trace/event.h"

/* Limits of a frame. */
#define FRAME_EVENTS  (1u << 20)
#define FRAME_SITES   (1u << 16)
#define FRAME_LITERAL (8u << 20)  /* bytes of streams 1 and 2 each */
#define FRAME_PAGES   1024u
#define FRAME_HEAD    12u         /* bytes of streams 1 and 2, number of pages: 4 bytes each */
#define FRAME_RAW_MAX (FRAME_HEAD + FRAME_EVENTS + 2 * FRAME_LITERAL + FRAME_PAGES * (uint32_t)PAGE_SIZE)

/* An op: bit 7: an event without a site, its kind in bits 6:0. Else bits 2:0 say which site, bits 5:3 which address. */
#define OP_PLAIN      0x80u
#define OP_SITE       0x07u /* 0 to 3: so many places back among those that came after the site before; or */
#define OP_SITE_KNOWN 4u    /* its number is in stream 1 */
#define OP_SITE_NEW   5u    /* its definition is */
#define OP_ADDR_SHIFT 3
#define OP_MAX        (7u << OP_ADDR_SHIFT | OP_SITE_NEW)

/*
 * Codes of addresses: from the site's last address plus its stride (0), from its last address (1 to 3), from the last
 * address of any site of this class (4 to 6), or from 0 (7); and so many bytes of difference, signed, in stream 2.
 */
enum { FROM_STRIDE, FROM_SITE, FROM_LAST, FROM_ZERO };
static const uint8_t addr_base[8] = {FROM_STRIDE, FROM_SITE, FROM_SITE, FROM_SITE,
				     FROM_LAST,   FROM_LAST, FROM_LAST, FROM_ZERO};
static const uint8_t addr_bytes[8] = {0, 1, 2, 4, 1, 2, 4, 8};

struct site {
	struct trace_event ev; /* as it was last time */
	uint64_t stride;
	uint64_t next;         /* four numbers of sites, the last one in the low 16 bits */
	uint64_t addr_bits;    /* that its addresses may have: none if the kind has no address */
	uint32_t class;        /* SITE_* */
} __attribute__((aligned(64)));

enum { SITE_DATA, SITE_FETCH, SITE_OTHER, SITE_CLASSES };

/* What the addresses of events without a site are differences to. */
struct plain_last {
	uint64_t addr, pc, value;
};

struct model {
	struct site *site;     /* [FRAME_SITES] */
	uint32_t sites;
	uint32_t at;           /* the last site */
	uint64_t last[SITE_CLASSES]; /* addresses */
	uint64_t pc;           /* of the site defined last */
	struct plain_last plain[TRACE_KIND_END];
};

/* -ENOMEM */
int model_init(struct model *m);
void model_free(struct model *m);

/* Site 0 is there from the beginning: one instruction is complete. */
void model_reset(struct model *m);

/* Its site is now known: a new one, of an event whose kind has sites. Returns its number. */
uint32_t model_add(struct model *m, const struct trace_event *ev);

/* The site @id came after @s, which had it at place @back (3: or not at all). */
static inline void site_follows(struct site *s, uint32_t id, unsigned back)
{
	uint64_t moved = ~0ull >> (48 - 16 * back);

	s->next = (s->next & ~moved) | ((s->next << 16 | id) & moved);
}

/* Has the event a site? Those that are rare, and those with values, have none. */
static inline bool event_has_site(const struct trace_event *ev)
{
	return ev->kind <= TRACE_INSNS && !(ev->flags & TRACE_VALUE);
}

/* ---- writing a frame ---- */

struct bytes {
	uint8_t *data;
	size_t n, room;
};

struct encoder {
	struct model model;
	uint16_t *find;            /* [FIND_SLOTS] number of a site, by its hash; 0: none (site 0 is found without) */
	struct bytes op, sites, literal, page;
	uint64_t insns;            /* of TRACE_INSNS in this frame */
};

int encoder_init(struct encoder *e);
void encoder_free(struct encoder *e);
void encoder_reset(struct encoder *e);
/* Adds an event that is one. -ENOMEM; then the frame is of no use. */
int encode(struct encoder *e, const struct trace_event *ev);
static inline unsigned encoder_events(const struct encoder *e) { return (unsigned)e->op.n; }
/* No further event may be added. */
bool encoder_is_full(const struct encoder *e);
/* Bytes of the frame, and the frame itself: @out has so much room. */
size_t encoder_bytes(const struct encoder *e);
void encoder_finish(const struct encoder *e, uint8_t *out);

/* ---- reading one ---- */

#define DECODE_PADDING 8u /* readable bytes behind a frame */

struct decoder {
	struct model model;
	const uint8_t *op, *op_end, *sites, *sites_end, *literal, *literal_end, *page, *page_end;
	uint64_t insns;            /* of TRACE_INSNS in this frame so far */
};

int decoder_init(struct decoder *d);
void decoder_free(struct decoder *d);
/* @frame lasts as long as it is read and has DECODE_PADDING bytes behind it. NULL, or why it is none. */
const char *decoder_begin(struct decoder *d, const uint8_t *frame, size_t bytes, unsigned events);
/*
 * Up to @max events; returns how many. 0: the frame is at its end. *why: set if what follows makes no sense (the events
 * returned are right); events of kind PAGE point into the frame.
 */
unsigned decode(struct decoder *d, struct trace_event *ev, unsigned max, const char **why);
static inline bool decoder_is_done(const struct decoder *d) { return d->op == d->op_end; }

#endif
