/*
 * Post-copy at the source: the VM runs at the other end, and the pages that it lacks are here. They are pushed in the
 * order of their numbers, beginning anew behind each page that the VM had to ask for, which goes before all others:
 * what lies behind a page that was touched is likely to be touched soon.
 */
#include "vm/migrate_source.h"

#include <errno.h>

#define PUSH_PAGES 64u /* between two looks at what the other end asks for */

static int check_page(const struct migrate_source *s, const struct stream_section *m, uint64_t *page, struct error *err)
{
	if (m->bytes != 8 || get_u64(m->data) >= s->vm.pages)
		return migrate_unexpected(&s->link, m, "the number of a page", err);
	*page = get_u64(m->data);
	return 0;
}

struct push {
	uint64_t at;   /* the page from which on they are pushed */
	uint64_t left; /* pages to be sent */
};

static int push_page(struct migrate_source *s, struct push *p, uint64_t page, struct error *err)
{
	bitmap_clear(s->send, page);
	p->left--;
	p->at = page + 1;
	return source_put_page(s, page, err);
}

/* A page is asked for: it goes at once, unless it has gone already. */
static int answer(struct migrate_source *s, const struct stream_section *m, struct push *p, struct error *err)
{
	uint64_t page = 0;
	int ret = check_page(s, m, &page, err);

	if (ret || !bitmap_has(s->send, page))
		return ret;
	s->progress.demanded++;
	ret = push_page(s, p, page, err);
	if (ret == 0)
		ret = pages_flush(&s->writer, err);
	return ret ? ret : migrate_flush(&s->link, err);
}

/* Takes what the other end says. 1: it has everything. */
static int listen_to(struct migrate_source *s, struct push *p, struct error *err)
{
	struct stream_section m;
	int ret = migrate_get(&s->link, &m, err);

	if (ret)
		return ret;
	if (strcmp(m.name, "mig.complete") == 0)
		return 1;
	if (strcmp(m.name, "mig.need") == 0)
		return answer(s, &m, p, err);
	return migrate_unexpected(&s->link, &m, "mig.need", err);
}

/* Some pages from where it is at. */
static int push_some(struct migrate_source *s, struct push *p, struct error *err)
{
	int ret = 0;

	for (unsigned i = 0; i < PUSH_PAGES && ret == 0; i++) {
		uint64_t page = bitmap_next(s->send, p->at, s->vm.pages);

		if (page == s->vm.pages)
			page = bitmap_next(s->send, 0, s->vm.pages);
		if (page == s->vm.pages)
			break;
		ret = push_page(s, p, page, err);
	}
	return ret ? ret : pages_flush(&s->writer, err);
}

/*
 * Listens for the other end: as long as the cap on the rate holds up what is pushed, or, if nothing is left to be sent,
 * until it says something. 1: it does.
 */
static int look(struct migrate_source *s, bool wait, struct error *err)
{
	int64_t stall_ms = transport_stall_ms(s->link.t);
	int ret = transport_wait(s->link.t, -1, wait ? stall_ms : transport_owed_ms(s->link.t), err);

	if (ret == 0 && wait)
		return error_set(err, -ETIMEDOUT, "%.100s: says nothing for %.1f s: the connection counts as lost",
				 transport_name(s->link.t), (double)stall_ms / 1000);
	return ret;
}

static void note_left(struct migrate_source *s, uint64_t left)
{
	bool worth_telling = left / 1024 != s->progress.left / 1024 || !left;

	s->progress.left = left;
	if (worth_telling)
		source_tell(s, MIGRATE_PUSHING);
}

int source_push(struct migrate_source *s, struct error *err)
{
	struct push p = {.left = bitmap_count(s->send, s->words)};
	bool all = false;
	int ret = 0;

	transport_set_rate(s->link.t, s->opt.bytes_per_second);
	transport_set_urgent(s->link.t, true);
	while (ret == 0) {
		if (!p.left && !all) {
			all = true;
			ret = migrate_send(&s->link, "mig.all", NULL, 0, err);
			if (ret)
				break;
		}
		ret = look(s, all, err);
		if (ret > 0)
			ret = listen_to(s, &p, err);
		else if (ret == 0)
			ret = push_some(s, &p, err);
		note_left(s, p.left);
	}
	return ret < 0 ? ret : 0;
}
