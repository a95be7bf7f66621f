/*
 * Translation by registers: the register file of a stage gives the address of the one entry that decides, the next
 * stage translates that address unless it is a machine address already, and the entry's target goes through the
 * next stage, too. So nesting is composition, as in walk.c: one reference natively, three under a
 * host, two if the guest's entries are contiguous in machine memory, three again under two hosts if all are.
 *
 * A walk by registers changes nothing before it has come to its end; then it sets the flags that the walk through the
 * tables would set in the same last entries, and logs what that logs. Where it cannot know whether it may - an entry
 * of the guest's found by machine address, a full log - and wherever else it has no answer it leaves all to the
 * tables.
 *
 * Walk caches and the nested TLB take no part: there is nothing above the entry to skip. Entries are read from memory
 * each time, so nothing here can be stale, and invalidations have nothing to do but in the TLBs.
 * Left out: 1 GiB pages, paging formats other than of 4 and 5 levels.
 */
#include "mmu/dmt_impl.h"

#include <assert.h>

/*
 * Flags that the walk will set. The most there can be: under two hosts, for the entries of both sizes and for the
 * page.
 */
struct flags_due {
	uint64_t at, set;  /* machine address of the entry; what it lacks */
	uint64_t addr;     /* the address that it translates */
	unsigned stage;
};
#define FLAGS_DUE_MAX 8

struct direct {
	struct walk *w;
	unsigned stages;
	unsigned due;
	struct flags_due flags[FLAGS_DUE_MAX];
};

/* Where host stages lead. */
struct host_page {
	uint64_t at;       /* machine address, or one that the caller's next stage translates */
	uint64_t rights;   /* EPT_R | ... of all of them */
	unsigned shift;
	bool dirty;        /* dirty flags are set, or will be */
};

/* ---- the register file ---- */

static const struct dmt_register *covering(const struct dmt_stage *s, enum dmt_size size, uint64_t addr)
{
	for (unsigned i = 0; i < s->count[size]; i++)
		if (addr - s->reg[size][i].start < s->reg[size][i].end - s->reg[size][i].start)
			return &s->reg[size][i];
	return NULL;
}

/* All registers of the stage at once: of each size the first that covers @addr. False: none does. */
static bool look_up(struct mmu *m, unsigned stage, uint64_t addr, const struct dmt_register *found[DMT_SIZES])
{
	const struct dmt_stage *s = &m->dmt.stage[stage];

	found[DMT_LARGE] = covering(s, DMT_LARGE, addr);
	found[DMT_SMALL] = covering(s, DMT_SMALL, addr);
	m->stats.dmt.lookups++;
	m->stats.dmt.hits[stage] += found[DMT_LARGE] || found[DMT_SMALL];
	return found[DMT_LARGE] || found[DMT_SMALL];
}

static unsigned shift_of(enum dmt_size size) { return size == DMT_LARGE ? 21 : PAGE_SHIFT; }
static unsigned level_of_size(enum dmt_size size) { return size == DMT_LARGE ? 2 : 1; }

/* Address of the leaf entry, as the register has it. */
static uint64_t entry_in(const struct dmt_register *r, enum dmt_size size, uint64_t addr)
{
	return r->tea + ((addr - r->start) >> shift_of(size)) * 8;
}

static NOINLINE void log_register(struct walk *w, unsigned stage, enum dmt_size size, uint64_t addr, uint64_t at)
{
	struct walk_step *s = walk_log_step(w, stage ? STAGE_HOST : STAGE_GUEST, level_of_size(size),
					    w->mmu->hw.cost.register_lookup);

	s->what = STEP_REGISTER;
	s->at_gpa = addr;
	s->at = at;
}

static void note_register(struct walk *w, unsigned stage, enum dmt_size size, uint64_t addr, uint64_t at)
{
	if (unlikely(w->mmu->log))
		log_register(w, stage, size, addr, at);
}

/* ---- flags ---- */

static void flags_are_due(struct direct *d, unsigned stage, uint64_t at, uint64_t addr, uint64_t entry, uint64_t set)
{
	if ((entry & set) == set)
		return;
	assert(d->due < FLAGS_DUE_MAX);
	d->flags[d->due++] = (struct flags_due){.at = at, .set = set, .addr = addr, .stage = stage};
}

/* May they be set? With page-modification logging a full log is an event, which the tables make. */
static bool flags_may_be_set(const struct direct *d)
{
	const struct mmu_pml *pml = &d->w->mmu->pml;
	unsigned logged = 0, host = 0;

	for (unsigned i = 0; i < d->due; i++) {
		host += d->flags[i].stage > 0;
		logged += d->flags[i].stage == 1 && d->flags[i].set & EPT_D;
	}
	return !pml->on || !host || (pml->index < PML_ENTRIES && logged <= pml->index + 1u);
}

/* What the log holds is what the first host stage translates, as with the tables. */
static void set_flags(struct direct *d)
{
	struct mmu *m = d->w->mmu;

	for (unsigned i = 0; i < d->due; i++) {
		const struct flags_due *f = &d->flags[i];
		uint64_t lacks = f->set & ~machmem_read64(m->mem, hpa(f->at));

		entry_or(m, f->at, f->set);
		if (m->pml.on && f->stage == 1 && lacks & EPT_D)
			pml_append(m, f->addr);
	}
}

/* ---- host stages ---- */

static bool host_stage(struct direct *d, unsigned stage, uint64_t addr, uint64_t need, struct host_page *p);

static uint64_t host_need(const struct direct *d, enum access_kind kind, bool table)
{
	return ept_access_bits(kind, table, d->w->mmu->regs.eptp & EPTP_AD);
}

/* The leaf entry @e of a host stage, found at @at. False: it does not translate the access. */
static bool host_leaf(struct direct *d, unsigned stage, enum dmt_size size, uint64_t addr, uint64_t need, uint64_t at,
		      uint64_t e, struct host_page *p)
{
	struct mmu *m = d->w->mmu;
	uint64_t below = (1ull << shift_of(size)) - 1, set = 0;

	if (ept_entry_misconfigured(m, e, shift_of(size), true) || (need & e) != need)
		return false;
	if (m->regs.eptp & EPTP_AD)
		set = EPT_A | (need & EPT_VIOL_WRITE ? EPT_D : 0);
	*p = (struct host_page){.at = (e & EPT_ADDR_MASK & ~below) | (addr & below), .rights = e & 7,
				.shift = shift_of(size), .dirty = !(m->regs.eptp & EPTP_AD) || ((e | set) & EPT_D)};
	flags_are_due(d, stage, at, addr, e, set);
	if (stage + 1 < d->stages) {
		struct host_page next;

		if (!host_stage(d, stage + 1, p->at, need, &next))
			return false;
		*p = (struct host_page){.at = next.at, .rights = p->rights & next.rights,
					.shift = next.shift < p->shift ? next.shift : p->shift,
					.dirty = p->dirty && next.dirty};
	}
	return true;
}

/* Translates @addr through @stage and those below. @need: EPT_VIOL_READ | ... False: the registers do not. */
static bool host_stage(struct direct *d, unsigned stage, uint64_t addr, uint64_t need, struct host_page *p)
{
	const struct dmt_register *found[DMT_SIZES];

	if (!look_up(d->w->mmu, stage, addr, found))
		return false;
	for (unsigned size = DMT_SIZES; size-- > 0;) {
		uint64_t at, e;

		if (!found[size])
			continue;
		at = entry_in(found[size], size, addr);
		note_register(d->w, stage, size, addr, at);
		if (!machmem_is_ram(d->w->mmu->mem, hpa(at)))
			continue;
		e = reference(d->w, STAGE_HOST, level_of_size(size), at, addr, 8);
		log_rights(d->w, tlb_ept_rights(e & 7));
		if ((e & 7) && (size == DMT_SMALL || e & EPT_PS))
			return host_leaf(d, stage, size, addr, need, at, e, p);
	}
	return false;
}

/* ---- the guest's stage ---- */

static bool final_page(struct direct *d, uint64_t target, struct host_page *p)
{
	d->w->guest_level = 0;
	if (d->stages > 1)
		return host_stage(d, 1, target, host_need(d, d->w->kind, false), p);
	*p = (struct host_page){.at = target, .rights = EPT_R | EPT_W | EPT_X, .shift = 30, .dirty = true};
	return true;
}

/* Machine address of the entry that a register names, and the host's rights to it. */
static bool entry_address(struct direct *d, const struct dmt_register *r, unsigned level, uint64_t entry_gpa,
			  struct host_page *p)
{
	/* By machine address the host was not asked whether the entry may be written. */
	*p = (struct host_page){.at = entry_gpa, .rights = d->stages > 1 ? EPT_R : EPT_R | EPT_W};
	if (r->machine)
		return true;
	d->w->guest_level = (uint8_t)level;
	return host_stage(d, 1, entry_gpa, host_need(d, ACCESS_READ, true), p);
}

/* The last entry, present: what finish() in walk.c does with it. */
static bool guest_leaf(struct direct *d, enum dmt_size size, const struct host_page *table, uint64_t e,
		       struct tlb_entry *out)
{
	struct walk *w = d->w;
	struct mmu *m = w->mmu;
	const struct walk_format *f = m->format;
	const struct level *lv = level_of(f, level_of_size(size));
	uint64_t set = PTE_A | (w->kind == ACCESS_WRITE ? PTE_D : 0), target;
	uint16_t rights = combine_rights(TLB_W | TLB_U, e, true);
	struct host_page p;

	out->pkey = (uint8_t)(e >> PTE_PKEY_SHIFT & 15);
	if (entry_reserved(m, f, lv, e, true) || !rights_permit(m, rights, out->pkey, w->kind, w->mode) ||
	    ((e & set) != set && !(table->rights & EPT_W)))
		return false;
	flags_are_due(d, 0, table->at, w->lin, e, set);
	target = leaf_address(f, lv, e) | (w->lin & ((1ull << lv->shift) - 1));
	if (!final_page(d, target, &p))
		return false;
	if ((e & PTE_G) && (m->regs.cr4 & CR4_PGE))
		rights |= TLB_G;
	out->guest_shift = lv->shift;
	out->shift = (uint8_t)(p.shift < lv->shift ? p.shift : lv->shift);
	out->tag = w->lin >> out->shift;
	out->page = p.at & ~((1ull << out->shift) - 1);
	out->rights = rights | tlb_ept_rights(p.rights) | (((e | set) & PTE_D) && p.dirty ? TLB_D : 0);
	w->out->page = hpa(p.at & PAGE_MASK);
	return true;
}

static bool guest_stage(struct direct *d, const struct dmt_register *const found[DMT_SIZES], struct tlb_entry *out)
{
	struct walk *w = d->w;

	for (unsigned size = DMT_SIZES; size-- > 0;) {
		const struct dmt_register *r = found[size];
		struct host_page table;
		uint64_t entry_gpa, e;

		if (!r)
			continue;
		entry_gpa = entry_in(r, size, w->lin);
		note_register(w, 0, size, w->lin, entry_gpa);
		if (!entry_address(d, r, level_of_size(size), entry_gpa, &table) ||
		    !machmem_is_ram(w->mmu->mem, hpa(table.at)))
			continue;
		e = reference(w, STAGE_GUEST, level_of_size(size), table.at, entry_gpa, 8);
		log_rights(w, combine_rights(TLB_W | TLB_U, e, true));
		if ((e & PTE_P) && (size == DMT_SMALL || e & PTE_PS))
			return guest_leaf(d, size, &table, e, out);
	}
	return false;
}

/* ---- whole walks ---- */

static bool complete(struct direct *d)
{
	struct mmu *m = d->w->mmu;

	if (!flags_may_be_set(d))
		return false;
	set_flags(d);
	m->stats.dmt.translations++;
	count_walk(m, d->w->refs);
	return true;
}

static void fall_back(struct walk *w)
{
	w->mmu->stats.dmt.fallbacks++;
	if (unlikely(w->mmu->log))
		walk_log_step(w, STAGE_GUEST, 0, 0)->what = STEP_FALL_BACK;
}

bool dmt_walk_linear(struct walk *w, struct tlb_entry *e)
{
	const struct dmt_register *found[DMT_SIZES];
	struct mmu *m = w->mmu;
	struct direct d;

	d.w = w;
	d.due = 0;
	d.stages = m->dmt.stages;
	if (!look_up(m, 0, w->lin, found)) {
		m->stats.dmt.misses++;
		return false;
	}
	if (!guest_stage(&d, found, e) || !complete(&d)) {
		fall_back(w);
		return false;
	}
	if (unlikely(m->dmt.audit))
		dmt_audit_linear(m, w, e);
	return true;
}

bool dmt_walk_physical(struct walk *w, struct tlb_entry *e)
{
	struct mmu *m = w->mmu;
	struct host_page p;
	struct direct d;

	d.w = w;
	d.due = 0;
	d.stages = m->dmt.stages;
	if (!final_page(&d, w->lin, &p) || !complete(&d)) {
		fall_back(w);
		return false;
	}
	e->shift = e->guest_shift = (uint8_t)p.shift;
	e->tag = w->lin >> p.shift;
	e->page = p.at & ~((1ull << p.shift) - 1);
	e->rights = (uint16_t)(TLB_W | TLB_U | tlb_ept_rights(p.rights) | (p.dirty ? TLB_D : 0));
	e->pkey = 0;
	w->out->page = hpa(p.at & PAGE_MASK);
	if (unlikely(m->dmt.audit))
		dmt_audit_physical(m, w, e);
	return true;
}

/* ---- loading ---- */

/* In force with the registers as they are? Called whenever either changes. */
void dmt_update(struct mmu *m)
{
	const struct mmu_dmt *d = &m->dmt;
	bool here = d->stages && (d->stages > 1) == m->regs.nested;

	m->direct = here && mmu_paging(m) && mmu_is_long(m) && !m->agile;
	m->direct_host = here && m->regs.nested;
	m->shortcut = !m->direct && walk_has_shortcut(m);
}

void mmu_dmt_set_stages(struct mmu *m, unsigned stages)
{
	m->dmt.stages = stages;
	mmu_dmt_set_gteas(m, m->dmt.gtea, m->dmt.gteas); /* what stage 0's addresses mean depends on it */
	dmt_update(m);
}

/* Gives the entry the machine address of its TEA if it has one. False: it names a gTEA that it has no right to. */
static bool resolve_gtea(const struct mmu_dmt *d, const struct dmt_entry *e, struct dmt_register *r)
{
	const struct dmt_gtea *g;

	if (!dmt_id(e) || !d->gtea)
		return true;
	if (dmt_id(e) > d->gteas)
		return false;
	g = &d->gtea[dmt_id(e) - 1];
	if (e->tea < g->gpa || dmt_bytes(e) > g->pages << PAGE_SHIFT ||
	    e->tea - g->gpa > (g->pages << PAGE_SHIFT) - dmt_bytes(e))
		return false;
	if (g->machine != DMT_SCATTERED) {
		r->tea = g->machine + (e->tea - g->gpa);
		r->machine = true;
	}
	return true;
}

static void add_register(struct mmu *m, unsigned stage, const struct dmt_entry *e)
{
	struct dmt_stage *s = &m->dmt.stage[stage];
	enum dmt_size size = dmt_shift(e) == PAGE_SHIFT ? DMT_SMALL : DMT_LARGE;
	struct dmt_register r = {.start = e->start, .end = e->end, .tea = e->tea,
				 .machine = stage > 0 || m->dmt.stages < 2};

	if (!(e->info & DMT_P))
		return;
	if (!dmt_well_formed(e) || (!r.machine && !resolve_gtea(&m->dmt, e, &r))) {
		m->stats.dmt.refused++;
		return;
	}
	s->reg[size][s->count[size]++] = r;
}

static void load_stage(struct mmu *m, unsigned stage, const struct dmt_entry *e, unsigned n)
{
	assert(n <= DMT_REGISTERS && stage < DMT_STAGES);
	memset(m->dmt.stage[stage].count, 0, sizeof(m->dmt.stage[stage].count));
	for (unsigned i = 0; i < n; i++)
		add_register(m, stage, &e[i]);
}

void mmu_dmt_load(struct mmu *m, const struct dmt_entry *e, unsigned n)
{
	struct mmu_dmt *d = &m->dmt;

	memset(d->loaded, 0, sizeof(d->loaded));
	if (n)
		memcpy(d->loaded, e, n * sizeof(*e));
	d->loads = n;
	load_stage(m, 0, d->loaded, n);
}

void mmu_dmt_count_reload(struct mmu *m, uint64_t at)
{
	m->stats.dmt.reload_refs++;
	m->stats.dmt.reload_hits[mem_caches_access(&m->caches, at)]++;
}

void mmu_dmt_load_host(struct mmu *m, unsigned stage, const struct dmt_entry *e, unsigned n)
{
	assert(stage > 0);
	load_stage(m, stage, e, n);
}

void mmu_dmt_set_gteas(struct mmu *m, const struct dmt_gtea *gtea, unsigned n)
{
	m->dmt.gtea = gtea;
	m->dmt.gteas = n;
	load_stage(m, 0, m->dmt.loaded, m->dmt.loads);
}
