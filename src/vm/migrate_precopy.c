/*
 * Pre-copy at the source: rounds, in the first of which all pages go over, and in each further one those that were
 * written meanwhile. A page that has been written again before its turn comes is passed over: it would go in vain.
 */
#include "vm/migrate_source.h"

#include <errno.h>

static int peek(struct migrate_source *s, int64_t *last_ns, struct error *err)
{
	int64_t now = source_now(s);
	bool any;
	int ret;

	if (now - *last_ns < MIGRATE_PEEK_NS)
		return 0;
	*last_ns = now;
	s->progress.left = bitmap_count(s->send, s->words);
	source_tell(s, s->progress.phase);
	ret = source_send_disks(s, &any, err);
	return ret ? ret : s->vm.collect(s->vm.ctx, s->dirty, err);
}

int source_send_pages(struct migrate_source *s, bool look, struct error *err)
{
	int64_t last_ns = source_now(s);
	unsigned passed = 0;
	int ret = 0;

	for (uint64_t page = 0; ret == 0; page++) {
		page = bitmap_next(s->send, page, s->vm.pages);
		if (page == s->vm.pages)
			break;
		if (look && ++passed % MIGRATE_PEEK_PAGES == 0)
			ret = peek(s, &last_ns, err);
		bitmap_clear(s->send, page);
		if (look && bitmap_has(s->dirty, page))
			s->progress.again++;
		else if (ret == 0)
			ret = source_put_page(s, page, err);
	}
	return ret ? ret : pages_flush(&s->writer, err);
}

/* One round. What is left for the next one is in s->send then. */
static int one_round(struct migrate_source *s, struct migrate_round *r, struct error *err)
{
	uint64_t bytes = transport_sent(s->link.t), sent = s->progress.sent, zero = s->progress.zero, *swap = s->send;
	int64_t begun = source_now(s);
	int ret = source_send_pages(s, true, err);
	bool any;

	if (ret == 0)
		ret = source_send_disks(s, &any, err);
	if (ret == 0)
		ret = source_await_round(s, err);
	if (ret == 0)
		ret = s->vm.collect(s->vm.ctx, s->dirty, err);
	s->send = s->dirty;
	s->dirty = swap; /* all zeros by now */
	*r = (struct migrate_round){.ns = source_now(s) - begun, .bytes = transport_sent(s->link.t) - bytes,
				    .zeros = s->progress.zero - zero, .left = bitmap_count(s->send, s->words)};
	r->pages = s->progress.sent - sent - r->zeros;
	if (s->progress.round == 1) {
		s->progress.first_bytes = (s->writer.pages - s->writer.zero - s->writer.same) * PAGE_SIZE;
		s->progress.first_ns = (uint64_t)r->ns;
	}
	return ret;
}

static void note(struct migrate_source *s, const struct migrate_policy *p, const struct migrate_round *r)
{
	s->progress.left = r->left;
	s->progress.bytes_per_second = p->bytes_per_second;
	s->progress.dirty_per_second = p->dirty_per_second;
	s->progress.expected_ns = p->expected_ns;
	if (s->progress.throttle != p->throttle)
		s->vm.throttle(s->vm.ctx, p->throttle);
	s->progress.throttle = p->throttle;
	source_tell(s, MIGRATE_COPYING);
}

static int rounds(struct migrate_source *s, struct migrate_policy *policy, bool *follow, struct error *err)
{
	enum migrate_verdict verdict;
	struct migrate_round r;

	do {
		int ret;

		s->progress.round++;
		source_tell(s, MIGRATE_COPYING);
		ret = one_round(s, &r, err);
		if (ret)
			return ret;
		verdict = migrate_policy_decide(policy, &r);
		note(s, policy, &r);
	} while (verdict == MIGRATE_GO_ON);
	*follow = verdict == MIGRATE_FOLLOW;
	if (verdict == MIGRATE_GIVE_UP)
		return error_set(err, -ETIME,
				 "the VM writes faster than it can be copied: %llu pages a second; after %u rounds it "
				 "would have to stop for %llu ms",
				 (unsigned long long)policy->dirty_per_second, policy->round,
				 (unsigned long long)(policy->expected_ns / 1000000));
	return 0;
}

int source_precopy(struct migrate_source *s, bool *follow, struct error *err)
{
	struct migrate_policy policy;
	int64_t asked;
	int ret = s->vm.track(s->vm.ctx, err);

	if (ret)
		return ret;
	s->tracking = true;
	asked = source_now(s);
	ret = source_await_round(s, err);
	if (ret)
		return ret;
	migrate_policy_init(&policy, &s->opt, source_now(s) - asked);
	bitmap_fill(s->send, s->vm.pages);
	return rounds(s, &policy, follow, err);
}
