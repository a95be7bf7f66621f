/* The state at a place in a trace. */
#include "trace/state.h"

#include "arch/dmt.h"
#include "arch/x86.h"
#include "base/bitmap.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>

#define MSRS_MAX     64u
#define REQUESTS_MAX 65536u
#define KEPT_MAX     (1u << 22) /* events for the model of an operating system */
#define SPACES       65536u
#define SEEN         4096u
#define BATCH        64u

#define NOT_FLUSHED BIT64(63) /* in a CR3 that is loaded */

struct known { uint64_t gpa; uint8_t *bytes; };

/* Memory that an MSR's load read, as it was. */
struct memory_read {
	uint64_t gpa;
	uint8_t bytes[DMT_REGISTERS * sizeof(struct dmt_entry)];
	unsigned n;
};
static_assert(sizeof(struct pv_request) <= sizeof(((struct memory_read *)0)->bytes), "both are kept so");

struct request { uint64_t gpa; struct pv_request bytes; };

struct trace_state {
	struct known *page;      /* [pages_room] */
	uint32_t *slot;          /* [slots] index in page[] plus 1, by hash; 0: free */
	unsigned pages, pages_room, pages_max, slots;

	struct { bool known; uint64_t value; } reg[TRACE_KIND_END]; /* CR0, CR3, CR4, PKRU by their kinds */
	struct { bool known; uint64_t value; } pdpte[4];
	struct { uint32_t number; uint64_t value; } msr[MSRS_MAX];
	unsigned msrs;
	struct memory_read dmt;  /* by the last load of DMT registers */
	struct request *request; /* [requests_room] */
	unsigned requests, requests_room;

	struct trace_event *kept; /* [kept_room]: MAP to EXIT */
	unsigned kept_n, kept_room;
	uint64_t entered[SPACES / 64]; /* spaces that a kept SWITCH leads to; those with larger numbers count as new */
	bool entered_new;        /* the last one did for the first time */

	uint64_t seen[SEEN];     /* 4 * page + 1 (accessed flags are set), + 2 (the dirty flag too) */
};

/* ---- known pages ---- */

/* The slot that names the page, or is free for it. */
static uint32_t *page_slot(const struct trace_state *s, uint64_t gpa)
{
	uint64_t hash = (gpa >> PAGE_SHIFT) * 0x9e3779b97f4a7c15;

	for (unsigned i = (unsigned)(hash >> 32) & (s->slots - 1);; i = (i + 1) & (s->slots - 1))
		if (!s->slot[i] || s->page[s->slot[i] - 1].gpa == gpa)
			return &s->slot[i];
}

static uint8_t *find_page(const struct trace_state *s, uint64_t gpa)
{
	uint32_t i = *page_slot(s, gpa & PAGE_MASK);

	return i ? s->page[i - 1].bytes : NULL;
}

static int grow_slots(struct trace_state *s)
{
	unsigned slots = s->slots ? 2 * s->slots : 256;
	uint32_t *slot = calloc(slots, sizeof(*slot));

	if (!slot)
		return -ENOMEM;
	free(s->slot);
	s->slot = slot;
	s->slots = slots;
	for (unsigned i = 0; i < s->pages; i++)
		*page_slot(s, s->page[i].gpa) = i + 1;
	return 0;
}

/* One more element at @n of an array of @room. */
static int grow(void **array, unsigned n, unsigned *room, size_t size)
{
	unsigned more = *room ? 2 * *room : 64;
	void *moved;

	if (n < *room)
		return 0;
	moved = realloc(*array, more * size);
	if (!moved)
		return -ENOMEM;
	*array = moved;
	*room = more;
	return 0;
}

static int know_page(struct trace_state *s, uint64_t gpa, const uint8_t *bytes, struct error *err)
{
	uint8_t *page = find_page(s, gpa);

	if (!page) {
		if (s->pages == s->pages_max)
			return error_set(err, -E2BIG, "more than %u page tables and other known pages", s->pages_max);
		page = malloc(PAGE_SIZE);
		if (!page || grow((void **)&s->page, s->pages, &s->pages_room, sizeof(*s->page)) ||
		    (2 * (s->pages + 1) > s->slots && grow_slots(s))) {
			free(page);
			return error_set(err, -ENOMEM, "no memory for page tables");
		}
		*page_slot(s, gpa) = s->pages + 1;
		s->page[s->pages++] = (struct known){gpa, page};
	}
	memcpy(page, bytes, PAGE_SIZE);
	return 0;
}

static void write_memory(struct trace_state *s, uint64_t gpa, uint64_t value, unsigned size)
{
	uint8_t *page = find_page(s, gpa);

	if (page)
		memcpy(page + (gpa & ~PAGE_MASK), &value, size);
}

/* @gpa and @n: multiples of 8. What is not known is zeros. */
static void read_memory(const struct trace_state *s, uint64_t gpa, void *out, unsigned n)
{
	for (unsigned i = 0; i < n; i += 8) {
		const uint8_t *page = find_page(s, gpa + i);

		put_u64((uint8_t *)out + i, page ? get_u64(page + ((gpa + i) & ~PAGE_MASK)) : 0);
	}
}

/* ---- registers ---- */

static uint64_t reg(const struct trace_state *s, enum trace_kind kind) { return s->reg[kind].value; }

static uint64_t *find_msr(struct trace_state *s, uint32_t number)
{
	for (unsigned i = 0; i < s->msrs; i++)
		if (s->msr[i].number == number)
			return &s->msr[i].value;
	return NULL;
}

static bool is_long(struct trace_state *s)
{
	const uint64_t *efer = find_msr(s, MSR_EFER);

	return efer && (*efer & EFER_LME) && (reg(s, TRACE_CR0) & CR0_PG);
}

static bool is_pae(struct trace_state *s)
{
	return (reg(s, TRACE_CR0) & CR0_PG) && (reg(s, TRACE_CR4) & CR4_PAE) && !is_long(s);
}

/* The PDPTE registers, where loading @kind loads them. */
static void load_pdptes(struct trace_state *s)
{
	uint64_t table = reg(s, TRACE_CR3) & 0xffffffe0;

	for (unsigned i = 0; is_pae(s) && i < 4; i++) {
		if (!find_page(s, table))
			return;
		read_memory(s, table + 8 * i, &s->pdpte[i].value, 8);
		s->pdpte[i].known = true;
	}
}

static void set_register(struct trace_state *s, const struct trace_event *ev)
{
	s->reg[ev->kind].known = true;
	s->reg[ev->kind].value = ev->kind == TRACE_CR3 ? ev->value & ~NOT_FLUSHED : ev->value;
	if (!(ev->flags & TRACE_INITIAL) && ev->kind != TRACE_PKRU)
		load_pdptes(s);
}

static int note_request(struct trace_state *s, uint64_t gpa, struct error *err)
{
	if (s->requests == REQUESTS_MAX)
		return error_set(err, -E2BIG, "more than %u requests to the hypervisor", REQUESTS_MAX);
	if (grow((void **)&s->request, s->requests, &s->requests_room, sizeof(*s->request)))
		return error_set(err, -ENOMEM, "no memory for requests");
	s->request[s->requests].gpa = gpa;
	read_memory(s, gpa, &s->request[s->requests++].bytes, sizeof(struct pv_request));
	return 0;
}

static int set_msr(struct trace_state *s, uint32_t number, uint64_t value, struct error *err)
{
	uint64_t *msr = find_msr(s, number);

	if (number == MSR_PV_REQUEST)
		return note_request(s, value & ~(uint64_t)(DMT_ALIGN - 1), err);
	if (!msr && s->msrs == MSRS_MAX)
		return error_set(err, -E2BIG, "more than %u different MSRs", MSRS_MAX);
	if (!msr) {
		msr = &s->msr[s->msrs].value;
		s->msr[s->msrs++].number = number;
	}
	*msr = value;
	if (number == MSR_DMT_LOAD) {
		s->dmt.gpa = value & ~DMT_COUNT_MASK;
		s->dmt.n = (unsigned)min_u64(value & DMT_COUNT_MASK, DMT_REGISTERS) * sizeof(struct dmt_entry);
		read_memory(s, s->dmt.gpa, s->dmt.bytes, s->dmt.n);
	}
	return 0;
}

/* ---- accessed and dirty flags ---- */

/* One format of page tables. */
struct format {
	unsigned levels, bits, entry; /* index bits of a level, bytes of an entry */
	unsigned largest;             /* level up to which an entry can be a page */
	uint64_t root, address;       /* address of the top table; bits of an entry that are the next one's */
};

static struct format format_of(struct trace_state *s, uint64_t lin)
{
	uint64_t cr3 = reg(s, TRACE_CR3), cr4 = reg(s, TRACE_CR4);

	if (is_long(s))
		return (struct format){cr4 & CR4_LA57 ? 5 : 4, 9, 8, 3, cr3 & PTE_ADDR_MASK, PTE_ADDR_MASK};
	if (is_pae(s)) {
		uint64_t pdpte = s->pdpte[lin >> 30 & 3].value;

		return (struct format){pdpte & PTE_P ? 2 : 0, 9, 8, 2, pdpte & PTE_ADDR_MASK, PTE_ADDR_MASK};
	}
	return (struct format){2, 10, 4, cr4 & CR4_PSE ? 2 : 1, cr3 & 0xfffff000, 0xfffff000};
}

static void set_flags(struct trace_state *s, uint64_t lin, bool write)
{
	const struct format f = format_of(s, lin);
	uint64_t table = f.root;

	for (unsigned level = f.levels; level; level--) {
		unsigned index = (unsigned)(lin >> (PAGE_SHIFT + f.bits * (level - 1))) & ((1u << f.bits) - 1);
		uint8_t *page = find_page(s, table);
		uint64_t entry = 0;
		bool leaf;

		if (!page)
			return;
		memcpy(&entry, page + index * f.entry, f.entry);
		if (!(entry & PTE_P))
			return;
		leaf = level == 1 || (level <= f.largest && (entry & PTE_PS));
		entry |= PTE_A | (leaf && write ? PTE_D : 0);
		memcpy(page + index * f.entry, &entry, f.entry);
		if (leaf)
			return;
		table = entry & f.address;
	}
}

static void touch(struct trace_state *s, uint64_t lin, bool write)
{
	uint64_t page = lin >> PAGE_SHIFT, *seen = &s->seen[page % SEEN], want = page * 4 + 1;

	if (likely(*seen == want + 2 || (*seen == want && !write)))
		return;
	set_flags(s, lin, write);
	*seen = want + (write ? 2 : 0);
}

static void follow_access(struct trace_state *s, const struct trace_event *ev)
{
	bool write = ev->kind == TRACE_WRITE;

	if (ev->flags & TRACE_VALUE)
		write_memory(s, trace_value_gpa(ev), ev->value, ev->size);
	if (ev->flags & TRACE_FAULTS || !(reg(s, TRACE_CR0) & CR0_PG))
		return;
	touch(s, ev->addr, write);
	if (unlikely((ev->addr & ~PAGE_MASK) + ev->size > PAGE_SIZE))
		touch(s, ev->addr + ev->size - 1, write);
}

/* ---- events ---- */

static int keep(struct trace_state *s, const struct trace_event *ev, struct error *err)
{
	if (ev->kind == TRACE_SWITCH && s->kept_n && s->kept[s->kept_n - 1].kind == TRACE_SWITCH && !s->entered_new)
		s->kept_n--; /* nothing happened between the two, and the first is not why there is its space */
	if (ev->kind == TRACE_SWITCH) {
		s->entered_new = ev->value >= SPACES || !bitmap_has(s->entered, ev->value);
		if (ev->value < SPACES)
			bitmap_set(s->entered, ev->value);
	}
	if (s->kept_n == KEPT_MAX)
		return error_set(err, -E2BIG, "more than %u requests of programs to their system", KEPT_MAX);
	if (grow((void **)&s->kept, s->kept_n, &s->kept_room, sizeof(*s->kept)))
		return error_set(err, -ENOMEM, "no memory for requests of programs");
	s->kept[s->kept_n++] = *ev;
	return 0;
}

static int follow(struct trace_state *s, const struct trace_event *ev, struct error *err)
{
	switch ((enum trace_kind)ev->kind) {
	case TRACE_READ:
	case TRACE_WRITE:
	case TRACE_FETCH:
		follow_access(s, ev);
		return 0;
	case TRACE_PAGE:
		return know_page(s, ev->addr, trace_event_page(ev), err);
	case TRACE_STORE:
		write_memory(s, ev->addr, ev->value, ev->size);
		return 0;
	case TRACE_PDPTE:
		s->pdpte[ev->addr].known = true;
		s->pdpte[ev->addr].value = ev->value;
		break;
	case TRACE_CR0:
	case TRACE_CR3:
	case TRACE_CR4:
	case TRACE_PKRU:
		set_register(s, ev);
		break;
	case TRACE_WRMSR:
		if (set_msr(s, (uint32_t)ev->addr, ev->value, err))
			return err->code;
		break;
	case TRACE_INVLPG:
	case TRACE_INVPCID:
		break;
	case TRACE_MAP:
	case TRACE_UNMAP:
	case TRACE_ADVISE:
	case TRACE_FORK:
	case TRACE_SWITCH:
	case TRACE_EXIT:
		return keep(s, ev, err);
	case TRACE_INSNS:
	case TRACE_MARK:
	case TRACE_KIND_END:
		return 0;
	}
	memset(s->seen, 0, sizeof(s->seen));
	return 0;
}

int trace_state_put(void *state, const struct trace_event *ev, unsigned n, struct error *err)
{
	struct error e;

	for (unsigned i = 0; i < n; i++)
		if (unlikely(follow(state, &ev[i], &e)))
			return error_set(err, e.code, "%s", e.text);
	return 0;
}

/* ---- giving it out ---- */

struct giver {
	const struct trace_sink *to;
	struct error *err;
	struct trace_event ev[BATCH];
	unsigned n;
	int ret; /* of the sink; nothing is given behind an error */
};

static void flush(struct giver *g)
{
	if (!g->ret && g->n)
		g->ret = g->to->put(g->to->ctx, g->ev, g->n, g->err);
	g->n = 0;
}

static void give(struct giver *g, struct trace_event ev)
{
	if (g->n == BATCH)
		flush(g);
	g->ev[g->n++] = ev;
}

static void give_register(struct giver *g, enum trace_kind kind, uint64_t addr, uint64_t value)
{
	give(g, (struct trace_event){.kind = (uint8_t)kind, .flags = TRACE_INITIAL, .addr = addr, .value = value});
}

/* Stores what differs: from what is there now to @then, or back. Only of pages that are known. */
static void give_stores(struct trace_state *s, struct giver *g, uint64_t gpa, const void *then, unsigned n, bool back)
{
	for (unsigned i = 0; i < n; i += 8) {
		uint64_t old = get_u64((const uint8_t *)then + i), now;

		read_memory(s, gpa + i, &now, 8);
		if (old != now && find_page(s, gpa + i))
			give(g, (struct trace_event){.kind = TRACE_STORE,
						     .size = 8,
						     .addr = gpa + i,
						     .value = back ? now : old});
	}
}

static void give_load(struct trace_state *s, struct giver *g, uint32_t msr, uint64_t value, uint64_t gpa,
		      const void *then, unsigned n)
{
	give_stores(s, g, gpa, then, n, false);
	give_register(g, TRACE_WRMSR, msr, value);
	give_stores(s, g, gpa, then, n, true);
}

static int by_gpa(const void *a, const void *b)
{
	const struct known *x = a, *y = b;

	return x->gpa < y->gpa ? -1 : x->gpa > y->gpa;
}

/* In the order of their addresses: the same state is the same events. */
static void give_pages(struct trace_state *s, struct giver *g)
{
	if (s->pages)
		qsort(s->page, s->pages, sizeof(*s->page), by_gpa);
	memset(s->slot, 0, s->slots * sizeof(*s->slot));
	for (unsigned i = 0; i < s->pages; i++) {
		*page_slot(s, s->page[i].gpa) = i + 1;
		give(g, trace_page(s->page[i].gpa, s->page[i].bytes));
	}
}

static void give_msrs(struct trace_state *s, struct giver *g)
{
	for (unsigned i = 0; i < s->msrs; i++) {
		uint64_t v = s->msr[i].value;

		if (s->msr[i].number == MSR_EFER)
			v = (v & ~EFER_LMA) | (is_long(s) ? EFER_LMA : 0);
		if (s->msr[i].number != MSR_DMT_LOAD)
			give_register(g, TRACE_WRMSR, s->msr[i].number, v);
	}
}

int trace_state_give(struct trace_state *s, const struct trace_sink *to, struct error *err)
{
	static const enum trace_kind order[] = {TRACE_CR4, TRACE_CR3, TRACE_CR0, TRACE_PKRU};
	struct giver g = {.to = to, .err = err};
	const uint64_t *dmt = find_msr(s, MSR_DMT_LOAD);

	for (unsigned i = 0; i < s->kept_n; i++)
		give(&g, s->kept[i]);
	give_pages(s, &g);
	give_msrs(s, &g);
	for (unsigned i = 0; i < 4; i++)
		if (s->pdpte[i].known)
			give_register(&g, TRACE_PDPTE, i, s->pdpte[i].value);
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		if (s->reg[order[i]].known)
			give_register(&g, order[i], 0, s->reg[order[i]].value);
	for (unsigned i = 0; i < s->requests; i++)
		give_load(s, &g, MSR_PV_REQUEST, s->request[i].gpa, s->request[i].gpa, &s->request[i].bytes,
			  sizeof(struct pv_request));
	if (dmt)
		give_load(s, &g, MSR_DMT_LOAD, *dmt, s->dmt.gpa, s->dmt.bytes, s->dmt.n);
	flush(&g);
	return g.ret;
}

/* ---- the state ---- */

const uint8_t *trace_state_page(const struct trace_state *s, uint64_t gpa) { return find_page(s, gpa); }
unsigned trace_state_pages(const struct trace_state *s) { return s->pages; }

int trace_state_create(struct trace_state **out, unsigned pages_max, struct error *err)
{
	struct trace_state *s = calloc(1, sizeof(*s));

	if (!s || grow_slots(s)) {
		free(s);
		return error_set(err, -ENOMEM, "no memory for the state of a trace");
	}
	s->pages_max = (unsigned)min_u64(pages_max, TRACE_STATE_PAGES_MAX);
	*out = s;
	return 0;
}

void trace_state_destroy(struct trace_state *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < s->pages; i++)
		free(s->page[i].bytes);
	free(s->page);
	free(s->slot);
	free(s->request);
	free(s->kept);
	free(s);
}
