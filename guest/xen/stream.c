/*
 * Stands in a migration's way: copies what "xl migrate" sends to standard output, byte by byte as it comes, and says on
 * standard error what was in it - the rounds, and how many pages each one had.
 *
 *	xl migrate -s "" DOMAIN "xen-stream | xl migrate-receive"
 *
 * The stream is xl's header with the configuration, libxl's records, and as the contents of one of them libxc's records
 * with memory. What comes after them (xl's agreement on who runs the domain) is copied and not looked at, and so is a
 * stream that is none of these.
 */
#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BATCH_MAX  1024u /* pages in a record, at most */
#define ROUNDS_MAX 64u
#define LIBXC_CONTEXT 1u
#define PAGE_DATA     1u
#define XL_HEADER     48u /* magic, byte order, flags, length of what follows */
#define LIBXL_HEADER  16u
#define LIBXC_HEADERS 40u /* image and domain */

enum state { XL, CONFIG, LIBXL_RECORD, LIBXC, RECORD, PAGES, BEHIND };

struct round {
	uint64_t pages, contents; /* that were named; of which so many came with contents */
	uint64_t ns;              /* when its first page came */
};

struct stream {
	enum state state;
	uint8_t want[8 + 8 * BATCH_MAX]; /* the head that is being gathered */
	size_t need, have;
	uint64_t skip;           /* bytes to pass over before it */
	uint64_t length, last;   /* of the record of pages; the last page's number */
	unsigned rounds;
	struct round round[ROUNDS_MAX];
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint32_t u32_at(const struct stream *s, size_t at)
{
	uint32_t v;

	memcpy(&v, s->want + at, sizeof(v));
	return le32toh(v);
}

static uint64_t u64_at(const struct stream *s, size_t at)
{
	uint64_t v;

	memcpy(&v, s->want + at, sizeof(v));
	return le64toh(v);
}

static uint64_t padded(uint64_t n) { return (n + 7) & ~(uint64_t)7; }

static void next(struct stream *s, enum state state, uint64_t skip, size_t need)
{
	s->state = state;
	s->skip = skip;
	s->need = need;
	s->have = 0;
}

/* Page numbers ascend within a round. The top bits are the kind of a page, some of which come without contents. */
static void take_pages(struct stream *s, unsigned count)
{
	uint64_t contents = s->length > 8 + 8ull * count ? (s->length - 8 - 8ull * count) >> 12 : 0;
	uint64_t first = count ? u64_at(s, 8) << 12 >> 12 : 0;
	struct round *r;

	if (!count)
		return;
	if ((!s->rounds || first < s->last) && s->rounds < ROUNDS_MAX)
		s->round[s->rounds++].ns = now_ns();
	r = &s->round[s->rounds - 1];
	r->pages += count;
	r->contents += contents;
	s->last = u64_at(s, 8 * (size_t)count) << 12 >> 12;
}

static void report(const struct stream *s)
{
	uint64_t began = s->round[0].ns;

	for (unsigned i = 0; i < s->rounds; i++)
		fprintf(stderr, "XEN-STREAM round %u at %llu us: %llu pages, %llu with contents\n", i,
			(unsigned long long)(s->round[i].ns - began) / 1000, (unsigned long long)s->round[i].pages,
			(unsigned long long)s->round[i].contents);
}

/* A record of libxc: its head, and of pages the list of their numbers, too. */
static void take_record(struct stream *s)
{
	uint32_t type = u32_at(s, 0), length = u32_at(s, 4);

	if (type == 0) {
		report(s);
		next(s, BEHIND, 0, 0);
	} else if (type == PAGE_DATA && length >= 8) {
		s->length = length;
		next(s, PAGES, 0, 8);
	} else {
		next(s, RECORD, padded(length), 8);
	}
}

static void take_page_list(struct stream *s)
{
	uint32_t count = u32_at(s, 0);

	if (count > BATCH_MAX || s->length < 8 + 8ull * count) {
		next(s, BEHIND, 0, 0);
	} else if (s->need == 8 && count) {
		s->need += 8 * (size_t)count;
	} else {
		take_pages(s, count);
		next(s, RECORD, padded(s->length) - s->need, 8);
	}
}

/* What was waited for is there. */
static void took(struct stream *s)
{
	switch (s->state) {
	case XL: next(s, CONFIG, u32_at(s, XL_HEADER - 4), LIBXL_HEADER); break;
	case CONFIG: next(s, memcmp(s->want, "LibxlFmt", 8) ? BEHIND : LIBXL_RECORD, 0, 8); break;
	case LIBXL_RECORD:
		if (u32_at(s, 0) == LIBXC_CONTEXT)
			next(s, LIBXC, 0, LIBXC_HEADERS);
		else
			next(s, LIBXL_RECORD, padded(u32_at(s, 4)), 8);
		break;
	case LIBXC: next(s, RECORD, 0, 8); break;
	case RECORD: take_record(s); break;
	case PAGES: take_page_list(s); break;
	case BEHIND: break;
	}
}

static void follow(struct stream *s, const uint8_t *p, size_t n)
{
	while (n && s->state != BEHIND) {
		size_t part = s->skip ? (s->skip < n ? (size_t)s->skip : n) : s->need - s->have;

		part = part < n ? part : n;
		if (s->skip) {
			s->skip -= part;
		} else {
			memcpy(s->want + s->have, p, part);
			s->have += part;
			if (s->have == s->need)
				took(s);
		}
		p += part;
		n -= part;
	}
}

static bool write_all(const uint8_t *p, size_t n)
{
	while (n) {
		ssize_t w = write(STDOUT_FILENO, p, n);

		if (w <= 0)
			return false;
		p += w;
		n -= (size_t)w;
	}
	return true;
}

int main(void)
{
	static uint8_t buf[1 << 16];
	static struct stream s = {.state = XL, .need = XL_HEADER};
	ssize_t n;

	while ((n = read(STDIN_FILENO, buf, sizeof(buf))) > 0) {
		if (!write_all(buf, (size_t)n))
			return 1;
		follow(&s, buf, (size_t)n);
	}
	return n < 0;
}
