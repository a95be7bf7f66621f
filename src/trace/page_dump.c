/* Page tables from rows of text, one table of each level at a time: memory does not depend on the dump's length. */
#include "trace/page_dump.h"
#include "arch/x86.h"
#include "base/bitmap.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define LEVELS       4
#define ENTRIES      512
#define LINE_MAX_BYTES 256u
#define FRAMES       (TRACE_GPA_END >> PAGE_SHIFT)
#define PIECE        65536u /* frames */
#define FIELDS       6 /* of a row: address, four tables from the root on, page */

/* Frames by pieces, which are there as far as a frame in them was noted. */
struct page_dump_map {
	uint64_t *piece[FRAMES / PIECE];
};

struct page_dump_map *page_dump_map_create(void) { return calloc(1, sizeof(struct page_dump_map)); }

void page_dump_map_destroy(struct page_dump_map *map)
{
	if (!map)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(map->piece); i++)
		free(map->piece[i]);
	free(map);
}

static bool map_has(const struct page_dump_map *map, uint64_t frame)
{
	const uint64_t *piece = frame < FRAMES ? map->piece[frame / PIECE] : NULL;

	return piece && bitmap_has(piece, frame % PIECE);
}

static int map_add(struct page_dump_map *map, uint64_t frame, struct error *err)
{
	uint64_t **piece = &map->piece[frame / PIECE];

	if (!*piece)
		*piece = calloc(bitmap_words(PIECE), sizeof(**piece));
	if (!*piece)
		return error_set(err, -ENOMEM, "page tables: out of memory");
	bitmap_set(*piece, frame % PIECE);
	return 0;
}

/* A table that rows still belong to. */
struct table {
	bool open;
	uint64_t frame, first; /* first: the lowest linear address of its region */
	unsigned present;
	uint64_t entry[ENTRIES];
};

struct reading {
	struct import_source *source;
	const struct page_dump_options *o;
	const struct trace_sink *put;
	struct page_dump_facts *facts;
	struct page_dump_map *tables; /* frames that a table was found in */
	uint64_t line, promised;      /* rows that the first line promises, 0: it does not */
	uint64_t before;              /* address of the row before, if facts->rows */
	struct table table[LEVELS + 1]; /* by level: 1 is the last */
};

static int bad(const struct reading *r, struct error *err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int bad(const struct reading *r, struct error *err, const char *fmt, ...)
{
	char reason[320];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(reason, sizeof(reason), fmt, ap);
	va_end(ap);
	return error_set(err, -EBADMSG, "%s: line %llu: %s", import_source_name(r->source),
			 (unsigned long long)r->line, reason);
}

/* ---- tables ---- */

static unsigned region_shift(unsigned level) { return PAGE_SHIFT + 9 * level; }

static uint64_t entry_flags(uint64_t first)
{
	return PTE_P | PTE_W | PTE_A | PTE_D | (first >> 47 ? 0 : PTE_U);
}

/* Is the "table" a large page that was split into rows? It maps all of an aligned range, its own frame first. */
static bool is_large_page(const struct table *t, unsigned level)
{
	uint64_t flags = entry_flags(t->first) | (level == 2 ? PTE_PS : 0);
	uint64_t base = t->frame << PAGE_SHIFT, bytes = PAGE_SIZE << 9 * (level - 1);

	if (level > 2 || t->present < ENTRIES || base & (bytes * ENTRIES - 1))
		return false;
	for (unsigned i = 0; i < ENTRIES; i++)
		if (t->entry[i] != ((base + i * bytes) | flags))
			return false;
	return true;
}

static void count_large(struct page_dump_facts *f, unsigned level)
{
	if (level == 1) {
		f->pages -= ENTRIES;
		f->pages_2m++;
	} else {
		f->pages_2m -= ENTRIES;
		f->pages_1g++;
	}
}

static int give_table(struct reading *r, struct table *t, struct error *err)
{
	struct trace_event ev = trace_page(t->frame << PAGE_SHIFT, t->entry);
	int rc;

	if (map_has(r->tables, t->frame))
		return bad(r, err, "the table of the region at %#llx lies in frame %#llx, where there is one already",
			   (unsigned long long)t->first, (unsigned long long)t->frame);
	if (r->o->within && !map_has(r->o->within, t->frame))
		return bad(r, err,
			   "the host's dump does not have frame %#llx, where the table of the region at %#llx lies",
			   (unsigned long long)t->frame, (unsigned long long)t->first);
	rc = map_add(r->tables, t->frame, err);
	r->facts->tables++;
	return !rc && r->put ? r->put->put(r->put->ctx, &ev, 1, err) : rc;
}

/* No more rows belong to the table: it is entered into the one above it. */
static int close_table(struct reading *r, unsigned level, struct error *err)
{
	struct table *t = &r->table[level], *above = t + 1;
	bool large = is_large_page(t, level);
	int rc = 0;

	if (large)
		count_large(r->facts, level);
	else
		rc = give_table(r, t, err);
	if (level < LEVELS) {
		above->entry[t->first >> region_shift(level) & (ENTRIES - 1)] =
			t->frame << PAGE_SHIFT | entry_flags(t->first) | (large ? PTE_PS : 0);
		above->present++;
	}
	t->open = false;
	return rc;
}

static int open_table(struct reading *r, unsigned level, uint64_t frame, uint64_t address, struct error *err)
{
	struct table *t = &r->table[level];
	uint64_t first = level == LEVELS ? 0 : address & ~((1ull << region_shift(level)) - 1);

	if (t->open && t->frame != frame)
		return bad(r, err, "the table of the region at %#llx is in frame %#llx here and in %#llx before",
			   (unsigned long long)t->first, (unsigned long long)frame, (unsigned long long)t->frame);
	if (t->open)
		return 0;
	memset(t->entry, 0, sizeof(t->entry));
	t->open = true;
	t->frame = frame;
	t->first = first;
	t->present = 0;
	return 0;
}

/* ---- rows ---- */

static void note_frame(struct page_dump_facts *f, uint64_t frame)
{
	uint64_t end = (frame + 1) << PAGE_SHIFT;

	if (end <= PAGE_DUMP_HOLE || end > PAGE_DUMP_HOLE_END)
		f->end = max_u64(f->end, end);
}

static int add_row(struct reading *r, const uint64_t field[FIELDS], struct error *err)
{
	uint64_t address = field[0], page = field[FIELDS - 1];
	struct page_dump_facts *f = r->facts;
	int rc = 0;

	for (unsigned level = 1; level < LEVELS && !rc; level++)
		if (r->table[level].open && (address ^ r->table[level].first) >> region_shift(level))
			rc = close_table(r, level, err);
	for (unsigned level = LEVELS; level >= 1 && !rc; level--)
		rc = open_table(r, level, field[1 + LEVELS - level], address, err);
	if (rc)
		return rc;
	r->table[1].entry[address >> PAGE_SHIFT & (ENTRIES - 1)] = page << PAGE_SHIFT | entry_flags(address);
	r->table[1].present++;
	r->before = address;
	f->rows++;
	f->pages++;
	for (unsigned i = 1; i < FIELDS; i++)
		note_frame(f, field[i]);
	if (r->o->within && !map_has(r->o->within, page))
		f->unbacked++;
	return 0;
}

/* The frame that a number stands for. */
static int take_frame(struct reading *r, uint64_t *frame, struct error *err)
{
	uint64_t a;

	if (r->o->byte_addresses && *frame & ~PAGE_MASK)
		return bad(r, err, "%#llx as a byte address is within a page: tables at such addresses overlap, which "
			   "no memory can hold", (unsigned long long)*frame);
	if (!r->o->byte_addresses && *frame >= FRAMES)
		return bad(r, err, "frame %#llx lies beyond 1 TiB", (unsigned long long)*frame);
	a = r->o->byte_addresses ? *frame : *frame << PAGE_SHIFT;
	if (a >= PAGE_DUMP_HOLE && a < PAGE_DUMP_HOLE_END) {
		r->facts->hole_end = max_u64(r->facts->hole_end, a + PAGE_SIZE);
		a += r->o->move_hole;
	}
	if (a >= TRACE_GPA_END)
		return bad(r, err, "physical address %#llx lies beyond 1 TiB", (unsigned long long)a);
	*frame = a >> PAGE_SHIFT;
	return 0;
}

static int check_row(struct reading *r, uint64_t field[FIELDS], struct error *err)
{
	uint64_t address = field[0];
	int rc = 0;

	if (address & ~PAGE_MASK || (uint64_t)((int64_t)(address << 16) >> 16) != address)
		return bad(r, err, "%#llx is not the address of a page", (unsigned long long)address);
	if (r->facts->rows && address <= r->before)
		return bad(r, err, "address %#llx after %#llx: rows must ascend", (unsigned long long)address,
			   (unsigned long long)r->before);
	if (r->o->linear && address >= TRACE_GPA_END)
		return bad(r, err, "guest-physical address %#llx beyond 1 TiB", (unsigned long long)address);
	for (unsigned i = 1; i < FIELDS && !rc; i++)
		rc = take_frame(r, &field[i], err);
	if (!rc && r->o->linear)
		rc = map_add(r->o->linear, address >> PAGE_SHIFT, err);
	return rc;
}

static int hex_digit(uint8_t c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
		: c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* A hexadecimal number at @p; returns where it ends, NULL: there is none or it is too large. */
static const uint8_t *parse_hex(const uint8_t *p, const uint8_t *end, uint64_t *v)
{
	const uint8_t *begin;

	if (end - p > 2 && p[0] == '0' && p[1] == 'x')
		p += 2;
	begin = p;
	for (*v = 0; p < end && hex_digit(*p) >= 0; p++) {
		if (*v >> 60)
			return NULL;
		*v = *v << 4 | (uint64_t)hex_digit(*p);
	}
	return p == begin ? NULL : p;
}

/* Six numbers with commas between them. */
static bool parse_row(const uint8_t *p, const uint8_t *end, uint64_t field[FIELDS])
{
	for (unsigned i = 0; i < FIELDS; i++) {
		if (i && (p == end || *p++ != ','))
			return false;
		p = parse_hex(p, end, &field[i]);
		if (!p)
			return false;
	}
	return p == end;
}

/* The line before the rows: a decimal number. With blanks before it, it is a process'. */
static bool parse_first(const uint8_t *p, const uint8_t *end, uint64_t *promised)
{
	bool process = p < end && *p == ' ';

	while (p < end && *p == ' ')
		p++;
	if (p == end || end - p > 18)
		return false;
	for (*promised = 0; p < end; p++) {
		if (*p < '0' || *p > '9')
			return false;
		*promised = *promised * 10 + (uint64_t)(*p - '0');
	}
	if (process)
		*promised = 0;
	return true;
}

static int take_line(struct reading *r, const uint8_t *p, const uint8_t *end, struct error *err)
{
	uint64_t field[FIELDS];
	int rc;

	if (end > p && end[-1] == '\r')
		end--;
	if (r->line == 1 && parse_first(p, end, &r->promised))
		return 0;
	if (!parse_row(p, end, field))
		return bad(r, err, "no row of a page-table dump (address and five frames, hexadecimal, by commas)");
	rc = check_row(r, field, err);
	return rc ? rc : add_row(r, field, err);
}

/* The next line. 1, 0 at the end. */
static int next_line(struct reading *r, struct error *err)
{
	const uint8_t *p, *end;
	int64_t n = import_source_want(r->source, LINE_MAX_BYTES, &p, err);
	int rc;

	if (n <= 0)
		return (int)n;
	r->line++;
	end = memchr(p, '\n', (size_t)min_u64((uint64_t)n, LINE_MAX_BYTES));
	if (!end)
		return n < LINE_MAX_BYTES ? bad(r, err, "ends in the middle of a line")
			: bad(r, err, "a line of more than %u bytes", LINE_MAX_BYTES);
	rc = take_line(r, p, end, err);
	import_source_take(r->source, (size_t)(end + 1 - p));
	return rc ? rc : 1;
}

static int read_rows(struct reading *r, struct error *err)
{
	int rc;

	do
		rc = next_line(r, err);
	while (rc == 1);
	if (rc)
		return rc;
	if (r->promised && r->facts->rows != r->promised)
		return bad(r, err, "ends after %llu rows, and the first line promises %llu",
			   (unsigned long long)r->facts->rows, (unsigned long long)r->promised);
	if (!r->facts->rows)
		return bad(r, err, "no rows");
	r->facts->root = r->table[LEVELS].frame << PAGE_SHIFT;
	for (unsigned level = 1; level <= LEVELS && !rc; level++)
		if (r->table[level].open)
			rc = close_table(r, level, err);
	return rc;
}

int page_dump_read(struct import_source *source, const struct page_dump_options *options, const struct trace_sink *put,
		   struct page_dump_facts *facts, struct error *err)
{
	struct reading *r = calloc(1, sizeof(*r));
	int rc;

	*facts = (struct page_dump_facts){0};
	if (r)
		r->tables = page_dump_map_create();
	if (!r || !r->tables) {
		free(r);
		return error_set(err, -ENOMEM, "%s: out of memory", import_source_name(source));
	}
	r->source = source;
	r->o = options;
	r->put = put;
	r->facts = facts;
	rc = read_rows(r, err);
	page_dump_map_destroy(r->tables);
	free(r);
	return rc;
}

bool page_dump_detect(const uint8_t *head, size_t n)
{
	const uint8_t *first = memchr(head, '\n', n), *second;
	uint64_t field[FIELDS], promised;

	if (!first)
		return false;
	second = memchr(first + 1, '\n', (size_t)(head + n - first - 1));
	return second && parse_first(head, first, &promised) &&
	       parse_row(first + 1, second - (second[-1] == '\r'), field);
}
