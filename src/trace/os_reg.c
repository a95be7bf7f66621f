/*
 * DMT's registers, from the TEAs of a space. If there are more TEAs than registers, those have one that cover the
 * most; of equals, the one at the lower address. The kernel keeps a space's registers in a page of its own, writes
 * there what has changed, and has the processor load them when they change and when the space becomes current.
 */
#include "trace/os_impl.h"

static bool is_dmt(const struct osm *o) { return o->cfg.kind == OSM_DMT || o->cfg.kind == OSM_PVDMT; }

static struct dmt_entry entry_of(const struct os_tea *t)
{
	uint64_t size = t->level == 2 ? DMT_2M : DMT_4K;

	return (struct dmt_entry){t->start, t->end, t->first << PAGE_SHIFT,
				  DMT_P | size << DMT_SIZE_SHIFT | (uint64_t)t->id << DMT_ID_SHIFT};
}

/* Puts @t into its place among the longest ones so far; the list of TEAs is in the order of addresses. */
static unsigned rank(const struct os_tea **best, unsigned n, const struct os_tea *t)
{
	unsigned at = n;

	while (at && best[at - 1]->end - best[at - 1]->start < t->end - t->start)
		at--;
	if (at == DMT_REGISTERS)
		return n;
	n = n < DMT_REGISTERS ? n + 1 : n;
	memmove(&best[at + 1], &best[at], (n - at - 1) * sizeof(*best));
	best[at] = t;
	return n;
}

static unsigned choose(struct osm *o, const struct os_space *s, struct dmt_entry reg[DMT_REGISTERS])
{
	const struct os_tea *best[DMT_REGISTERS];
	unsigned n = 0, all = 0;

	for (const struct os_tea *t = s->teas; t; t = t->next) {
		if (t->withdrawn)
			continue;
		n = rank(best, n, t);
		all++;
	}
	for (unsigned i = 0; i < n; i++)
		reg[i] = entry_of(best[i]);
	o->stats.tea.unregistered_max = max_u64(o->stats.tea.unregistered_max, all - n);
	return n;
}

static void write_entry(struct osm *o, uint64_t pa, const struct dmt_entry *e)
{
	os_store(o, OS_TEXT_DMT_STORE, pa, e->start);
	os_store(o, OS_TEXT_DMT_STORE, pa + 8, e->end);
	os_store(o, OS_TEXT_DMT_STORE, pa + 16, e->tea);
	os_store(o, OS_TEXT_DMT_STORE, pa + 24, e->info);
}

void os_reg_load(struct osm *o, const struct os_space *s)
{
	if (!is_dmt(o))
		return;
	os_wrmsr(o, OS_TEXT_DMT_LOAD, MSR_DMT_LOAD, s->regs ? s->reg_frame << PAGE_SHIFT | s->regs : 0);
	o->stats.tea.loads++;
}

void os_reg_update(struct osm *o, struct os_space *s)
{
	struct dmt_entry reg[DMT_REGISTERS];
	unsigned n = choose(o, s, reg);
	bool same = n == s->regs;

	s->teas_changed = false;
	if (n && !s->reg_frame) {
		if (!os_frame_alloc_fixed(o, OS_KERNEL, &s->reg_frame))
			return;
		o->frame[s->reg_frame].stale = 1;
	}
	for (unsigned i = 0; i < n; i++) {
		if (i < s->regs && !memcmp(&reg[i], &s->reg[i], sizeof(reg[i])))
			continue;
		write_entry(o, (s->reg_frame << PAGE_SHIFT) + i * sizeof(reg[i]), &reg[i]);
		s->reg[i] = reg[i];
		same = false;
	}
	s->regs = n;
	if (!same && s == o->current)
		os_reg_load(o, s);
}
