#include "vm/migrate_policy.h"

#define NS_PER_S 1000000000ull
/* Rounds of fewer pages say little of what a page costs: the last ones are taken together. */
#define ENOUGH_PAGES 1000u

void migrate_policy_init(struct migrate_policy *p, const struct migrate_options *opt, int64_t answer_ns)
{
	*p = (struct migrate_policy){.opt = *opt, .answer_ns = answer_ns};
}

static uint64_t per_second(uint64_t n, uint64_t ns)
{
	return ns ? (uint64_t)((__uint128_t)n * NS_PER_S / ns) : 0;
}

static void measure(struct migrate_policy *p, const struct migrate_round *r)
{
	uint64_t ns = (uint64_t)(r->ns > 0 ? r->ns : 1);

	if (r->pages >= ENOUGH_PAGES || p->pages >= 8 * ENOUGH_PAGES)
		p->pages = p->ns = 0;
	p->pages += r->pages ? r->pages : r->zeros;
	p->ns += ns;
	p->bytes_per_second = per_second(r->bytes, ns);
	p->dirty_per_second = per_second(r->left, ns);
	p->expected_ns = (uint64_t)p->answer_ns;
	if (p->pages)
		p->expected_ns += (uint64_t)((__uint128_t)r->left * p->ns / p->pages);
}

static void hold_back(struct migrate_policy *p, const struct migrate_round *r)
{
	if (!p->opt.auto_converge || r->left * PAGE_SIZE * 2 <= r->bytes) {
		p->losing = 0;
		return;
	}
	if (++p->losing < 2)
		return;
	p->losing = 0;
	p->throttle = p->throttle ? p->throttle + MIGRATE_THROTTLE_STEP : MIGRATE_THROTTLE_FIRST;
	if (p->throttle > MIGRATE_THROTTLE_MOST)
		p->throttle = MIGRATE_THROTTLE_MOST;
}

enum migrate_verdict migrate_policy_decide(struct migrate_policy *p, const struct migrate_round *r)
{
	measure(p, r);
	p->round++;
	if (r->left <= MIGRATE_FEW_PAGES || p->expected_ns <= p->opt.downtime_ns)
		return MIGRATE_FINISH;
	if (p->round < p->opt.rounds) {
		hold_back(p, r);
		return MIGRATE_GO_ON;
	}
	if (p->opt.mode == MIGRATE_HYBRID)
		return MIGRATE_FOLLOW;
	return p->opt.strict ? MIGRATE_GIVE_UP : MIGRATE_FINISH;
}
