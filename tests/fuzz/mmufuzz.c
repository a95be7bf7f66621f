/*
 * The translation hardware against the reference model (tests/unit/mmu/ref_model.h):
 * random hardware, random tables, random operations (muf_world.c). After each operation
 * both must have come to the same event with the same details, the same page and rights,
 * the same value of every counter, and the same accessed and dirty flags in memory.
 *
 * Data accesses and fetches reach the model as the processor's do: through the inline
 * lookup first, then a touch of the TLB, then the long way (cpu/access.h, cpu/run.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "arch/vmx.h"
#include "arch/x86.h"
#include "muf_world.h"
#include "ref_model.h"

#define OPS_PER_WORLD 4000u
#define COMPARE_EVERY 64u /* operations between comparisons of all tables; those touched are compared at once */

struct options {
	uint64_t seed, count;
	bool one, verbose;
	uint64_t trace; /* operation to begin printing at */
};

#define RECENT 12u

/* What an access came to. */
struct result {
	enum xlate_event event;
	struct xlate x;
	uint16_t rights;
	bool fast; /* by way of the fast lookup: only the page is known */
};

#define EVENTS (XLATE_PML_FULL + 1)
#define LOG_AT (MUF_POOL - PAGE_SIZE) /* the page-modification log */

struct fuzz {
	struct muf_world w;
	struct mmu mmu;
	struct ref_model *ref;
	struct muf_context current;
	enum access_mode mode; /* of most accesses, for a while */
	uint64_t seed, op;
	uint64_t accesses, by_fast, events[EVENTS]; /* of this world; by what they came to */
	uint64_t recent[MUF_MODES][RECENT]; /* linear addresses that were mapped */
	uint64_t logged;       /* entries of the page-modification log that were taken */
	uint16_t log_began;    /* index when it was last emptied */
	char what[256]; /* the operation, for messages */
	bool wrong, thorough, verbose;
};

struct totals {
	uint64_t worlds, ops, accesses, by_fast, walks, refs, repeated, events[EVENTS];
	uint64_t l1_misses, l2_hits, hits, nested_hits, flushes, logged;
};

/* ---- telling ---- */

static const char *const events[] = {"ok", "page fault", "EPT violation", "EPT misconfiguration", "log full"};
static const char *const kinds[] = {"read", "write", "fetch"};
static const char *const modes[] = {"super", "super-ac", "user", "user-align", "implicit"};
static const char *const paging[] = {"unpaged", "32-bit", "PAE", "4-level", "5-level"};

static void print_result(const char *who, const struct result *r)
{
	fprintf(stderr, "  %s: %s", who, events[r->event]);
	if (r->event == XLATE_OK)
		fprintf(stderr, " page %#llx rights %#x%s", (unsigned long long)r->x.page.v, r->rights,
			r->fast ? " (fast)" : "");
	else if (r->event == XLATE_PAGE_FAULT)
		fprintf(stderr, " error %#x", r->x.error_code);
	else
		fprintf(stderr, " gpa %#llx qualification %#llx", (unsigned long long)r->x.gpa.v,
			(unsigned long long)r->x.qualification);
	fputc('\n', stderr);
}

static void print_context(const struct muf_context *c)
{
	const struct mmu_regs *r = &c->regs;

	fprintf(stderr, "  %s cr0 %#llx cr3 %#llx cr4 %#llx efer %#llx pkru %#x vpid %u", paging[c->mode],
		(unsigned long long)r->cr0, (unsigned long long)r->cr3, (unsigned long long)r->cr4,
		(unsigned long long)r->efer, r->pkru, r->vpid);
	if (r->nested)
		fprintf(stderr, " eptp %#llx", (unsigned long long)r->eptp);
	fputc('\n', stderr);
}

static void mismatch(struct fuzz *f, const char *what)
{
	if (!f->wrong) {
		fprintf(stderr, "mmufuzz: seed %llu operation %llu: %s: %s\n", (unsigned long long)f->seed,
			(unsigned long long)f->op, f->what, what);
		print_context(&f->current);
		muf_print_hw(&f->w.hw);
	}
	f->wrong = true;
}

/* ---- comparing ---- */

struct counter { const char *name; size_t at; unsigned n; };
#define COUNTER(f) {#f, offsetof(struct mmu_stats, f) / 8, sizeof(((struct mmu_stats *)0)->f) / 8}
static const struct counter counters[] = {
	COUNTER(walks), COUNTER(refs), COUNTER(by_refs), COUNTER(refs_max), COUNTER(stage_refs), COUNTER(ref_hits),
	COUNTER(walk_cache_hits), COUNTER(walk_cache_misses), COUNTER(nested_tlb_hits), COUNTER(nested_tlb_misses),
	COUNTER(repeated), COUNTER(l1d_misses), COUNTER(l1i_misses), COUNTER(l2d_hits), COUNTER(l2d_misses),
	COUNTER(l2i_hits), COUNTER(l2i_misses), COUNTER(splintered), COUNTER(flushes), COUNTER(data_hits),
};

static void compare_counters(struct fuzz *f)
{
	const uint64_t *a = (const uint64_t *)&f->mmu.stats, *b = (const uint64_t *)&f->ref->stats;

	if (memcmp(a, b, sizeof(f->mmu.stats)) == 0)
		return;
	mismatch(f, "counters differ (mmu, reference)");
	for (unsigned c = 0; c < ARRAY_SIZE(counters); c++)
		for (size_t i = 0; i < counters[c].n; i++)
			if (a[counters[c].at + i] != b[counters[c].at + i])
				fprintf(stderr, "  %s[%zu] %llu %llu\n", counters[c].name, i,
					(unsigned long long)a[counters[c].at + i],
					(unsigned long long)b[counters[c].at + i]);
}

static uint64_t table_word(const struct fuzz *f, unsigned memory, uint64_t at)
{
	return get_u64(machmem_ptr(&f->w.mem[memory], hpa(at & ~7ull)));
}

static void compare_word(struct fuzz *f, uint64_t at)
{
	uint64_t a = table_word(f, 0, at), b = table_word(f, 1, at);

	if (a == b)
		return;
	mismatch(f, "tables differ");
	fprintf(stderr, "  at %#llx: mmu %#llx, reference %#llx\n", (unsigned long long)at, (unsigned long long)a,
		(unsigned long long)b);
}

/* What the reference model touched, and now and then everything. */
static void compare_tables(struct fuzz *f)
{
	for (unsigned i = 0; i < f->ref->touches; i++)
		if (machmem_is_ram(&f->w.mem[0], hpa(f->ref->touched[i])))
			compare_word(f, f->ref->touched[i]);
	f->ref->touches = 0;
	if (!f->thorough && f->op % COMPARE_EVERY)
		return;
	for (uint64_t at = LOG_AT; at < LOG_AT + PAGE_SIZE; at += 8)
		compare_word(f, at);
	if (memcmp(machmem_ptr(&f->w.mem[0], hpa(MUF_POOL)), machmem_ptr(&f->w.mem[1], hpa(MUF_POOL)), MUF_POOL_BYTES))
		for (uint64_t at = MUF_POOL; at < MUF_POOL + MUF_POOL_BYTES; at += 8)
			compare_word(f, at);
}

static bool same_result(const struct result *m, const struct result *r)
{
	if (m->event != r->event)
		return false;
	switch (r->event) {
	case XLATE_OK: return m->x.page.v == r->x.page.v && (m->fast || m->rights == r->rights);
	case XLATE_PAGE_FAULT: return m->x.error_code == r->x.error_code;
	case XLATE_EPT_VIOLATION:
		return m->x.gpa.v == r->x.gpa.v && m->x.qualification == r->x.qualification;
	case XLATE_EPT_MISCONFIG:
	case XLATE_PML_FULL: break;
	}
	return m->x.gpa.v == r->x.gpa.v;
}

static void compare_results(struct fuzz *f, const struct result *m, const struct result *r)
{
	if (f->verbose)
		print_result("reference", r);
	if (same_result(m, r))
		return;
	mismatch(f, "results differ");
	print_result("mmu", m);
	print_result("reference", r);
}

/* ---- accesses, as the processor makes them ---- */

static bool fast_page(uint64_t lin, const struct fast_entry *e, struct result *out)
{
	out->x.page = hpa((lin & PAGE_MASK) + e->addend);
	out->fast = true;
	return true;
}

static bool by_fast_lookup(struct fuzz *f, uint64_t lin, enum access_kind kind, enum access_mode mode,
			   struct result *out)
{
	const struct fast_entry *e;
	const uint8_t *host;

	if (mode >= MODE_COUNT)
		return false;
	if (kind == ACCESS_FETCH) {
		e = mmu_fast_fetch(&f->mmu, lin, mode);
		return e && fast_page(lin, e, out);
	}
	host = muf_chance(&f->w, 20) ? mmu_data_resident(&f->mmu, lin, kind, mode) :
				       mmu_fast_data(&f->mmu, lin, 1, kind, mode);
	if (!host)
		return false;
	out->x.page = hpa((uint64_t)(host - f->w.mem[0].host) & PAGE_MASK);
	out->fast = true;
	return true;
}

static void check_fast_hit(struct fuzz *f, enum access_kind kind, const struct result *r)
{
	if (r->event)
		return; /* said already */
	if (r->rights & TLB_MMIO)
		mismatch(f, "the fast lookup serves a device");
	else if (kind == ACCESS_WRITE && f->w.mem[0].code_map[r->x.page.v >> PAGE_SHIFT])
		mismatch(f, "the fast lookup serves writes to code");
	if (kind != ACCESS_FETCH && (f->mmu.data_watch || f->mmu.data_cache))
		mismatch(f, "the fast lookup serves data that is watched");
}

static void access_both(struct fuzz *f, uint64_t lin, enum access_kind kind, enum access_mode mode)
{
	struct result m = {0}, r = {0};

	snprintf(f->what, sizeof(f->what), "%s %#llx %s", kinds[kind], (unsigned long long)lin, modes[mode]);
	f->accesses++;
	if (by_fast_lookup(f, lin, kind, mode, &m))
		f->by_fast++;
	else
		m.event = mmu_translate(&f->mmu, gva(lin), kind, mode, &m.x, &m.rights);
	r.event = ref_translate(f->ref, lin, kind, mode, &r.x, &r.rights);
	compare_results(f, &m, &r);
	f->events[r.event]++;
	if (!r.event)
		f->recent[f->current.mode][muf_below(&f->w, RECENT)] = lin;
	if (m.fast)
		check_fast_hit(f, kind, &r);
	if (kind != ACCESS_FETCH && !r.event && !(r.rights & TLB_MMIO)) {
		unsigned bytes = muf_chance(&f->w, 90) ? 8 : 64;
		uint64_t at = r.x.page.v + (lin & ~PAGE_MASK);

		if (((at + bytes - 1) ^ at) & PAGE_MASK)
			bytes = 8;
		mmu_data_access(&f->mmu, at, bytes, kind == ACCESS_WRITE);
		ref_data_access(f->ref, at, bytes);
	}
}

static enum access_mode some_mode(struct fuzz *f)
{
	static const enum access_mode likely_modes[] = {MODE_SUPER, MODE_SUPER, MODE_USER, MODE_USER, MODE_SUPER_AC,
							MODE_USER_ALIGN, MODE_IMPLICIT};
	enum access_mode m = likely_modes[muf_below(&f->w, ARRAY_SIZE(likely_modes))];

	if (muf_chance(&f->w, 3))
		f->mode = m;
	return muf_chance(&f->w, 90) ? f->mode : m;
}

/* Most often one that was mapped, perhaps in another context. */
static uint64_t some_address(struct fuzz *f)
{
	uint64_t lin;

	if (muf_chance(&f->w, 20))
		return muf_address(&f->w, f->current.mode);
	lin = f->recent[f->current.mode][muf_below(&f->w, 1 + muf_below(&f->w, RECENT))];
	return muf_chance(&f->w, 80) ? lin : lin ^ PAGE_SIZE << muf_below(&f->w, 3);
}

static void op_access(struct fuzz *f)
{
	uint64_t lin = some_address(f);
	enum access_mode mode = some_mode(f);
	unsigned repeats = muf_chance(&f->w, 40) ? 1 + muf_below(&f->w, 4) : 1;

	for (unsigned i = 0; i < repeats && !f->wrong; i++) {
		unsigned k = muf_below(&f->w, 10);

		access_both(f, lin, k < 5 ? ACCESS_READ : k < 8 ? ACCESS_WRITE : ACCESS_FETCH, mode);
	}
}

static void op_logged(struct fuzz *f)
{
	uint64_t lin = some_address(f), walks = f->mmu.stats.walks, refs = f->mmu.stats.refs, logged = 0;
	enum access_kind kind = (enum access_kind)muf_below(&f->w, 3);
	enum access_mode mode = some_mode(f);
	struct result m = {.fast = true}, r = {0};
	struct walk_log log;

	snprintf(f->what, sizeof(f->what), "logged %s %#llx %s", kinds[kind], (unsigned long long)lin, modes[mode]);
	m.event = mmu_translate_logged(&f->mmu, gva(lin), kind, mode, &m.x, &log);
	r.event = ref_translate_logged(f->ref, lin, kind, mode, &r.x, &r.rights);
	compare_results(f, &m, &r);
	if (f->mmu.stats.walks != walks && (log.mapped != !r.event || (log.mapped && log.rights != r.rights)))
		mismatch(f, "the log differs from the result");
	for (unsigned i = 0; i < log.steps; i++)
		logged += log.step[i].what == STEP_REF;
	refs = f->mmu.stats.refs - refs;
	if (log.repeated ? logged > refs : logged != refs) /* it has the second attempt only */
		mismatch(f, "the log has other references than were made");
}

static void op_physical(struct fuzz *f)
{
	uint64_t a = muf_gpa(&f->w);
	enum access_kind kind = (enum access_kind)muf_below(&f->w, 3);
	struct result m = {.fast = true}, r = {0};

	snprintf(f->what, sizeof(f->what), "physical %s %#llx", kinds[kind], (unsigned long long)a);
	m.event = mmu_translate_gpa(&f->mmu, gpa(a), kind, &m.x);
	r.event = ref_translate_gpa(f->ref, a, kind, &r.x);
	compare_results(f, &m, &r);
}

/* ---- invalidations ---- */

enum flush {
	FLUSH_PAGE, FLUSH_PCID_PAGE, FLUSH_PCID, FLUSH_NONGLOBAL, FLUSH_VPID_ALL, FLUSH_VPID_KEEP_GLOBALS,
	FLUSH_VPID_PAGE, FLUSH_ALL_VPIDS, FLUSH_EPT, FLUSH_EPT_ALL, FLUSH_PCID_ALL, FLUSH_EVERYTHING, FLUSHES
};

static void flush_both(struct fuzz *f, enum flush kind, uint64_t lin, uint16_t pcid, uint16_t vpid, uint64_t eptp)
{
	static const char *const names[] = {"page", "pcid page", "pcid", "nonglobal", "vpid", "vpid but globals",
					    "vpid page", "all vpids", "ept", "all ept", "pcid and globals", "everything"};
	struct mmu *m = &f->mmu;
	struct ref_model *r = f->ref;

	snprintf(f->what, sizeof(f->what), "flush %s: %#llx pcid %u vpid %u eptp %#llx", names[kind],
		 (unsigned long long)lin, pcid, vpid, (unsigned long long)eptp);
	switch (kind) {
	case FLUSH_PAGE: mmu_flush_page(m, gva(lin)), ref_flush_page(r, lin); break;
	case FLUSH_PCID_PAGE: mmu_flush_pcid_page(m, pcid, gva(lin)), ref_flush_pcid_page(r, pcid, lin); break;
	case FLUSH_PCID: mmu_flush_pcid(m, pcid), ref_flush_pcid(r, pcid); break;
	case FLUSH_NONGLOBAL: mmu_flush_nonglobal(m), ref_flush_nonglobal(r); break;
	case FLUSH_VPID_ALL: mmu_flush_vpid_all(m, vpid), ref_flush_vpid_all(r, vpid); break;
	case FLUSH_VPID_KEEP_GLOBALS:
		mmu_flush_vpid_keep_globals(m, vpid), ref_flush_vpid_keep_globals(r, vpid);
		break;
	case FLUSH_VPID_PAGE: mmu_flush_vpid_page(m, vpid, gva(lin)), ref_flush_vpid_page(r, vpid, lin); break;
	case FLUSH_ALL_VPIDS: mmu_flush_all_vpids(m), ref_flush_all_vpids(r); break;
	case FLUSH_EPT: mmu_flush_ept(m, eptp, false), ref_flush_ept(r, eptp, false); break;
	case FLUSH_EPT_ALL: mmu_flush_ept(m, eptp, true), ref_flush_ept(r, eptp, true); break;
	case FLUSH_PCID_ALL: mmu_flush_pcid_all(m, pcid), ref_flush_pcid_all(r, pcid); break;
	case FLUSH_EVERYTHING: mmu_flush_everything(m), ref_flush_everything(r); break;
	case FLUSHES: break;
	}
}

static void op_flush(struct fuzz *f)
{
	static const uint16_t vpids[] = {0, 1, 2, 0xffff}, pcids[] = {0, 1, 0xfff};
	struct muf_world *w = &f->w;
	/* Rather by address than all at once. */
	enum flush kind = (enum flush)muf_below(w, muf_chance(w, 5) ? FLUSHES : FLUSH_EVERYTHING);

	if (muf_chance(w, 50))
		kind = FLUSH_PAGE;

	flush_both(f, kind, some_address(f), pcids[muf_below(w, 3)], vpids[muf_below(w, 4)],
		   w->eptp[muf_below(w, MUF_ROOTS)]);
}

/* Changes an entry; most often tells the hardware as software should. */
static void op_edit(struct fuzz *f)
{
	uint64_t lin = some_address(f);
	bool guest;

	snprintf(f->what, sizeof(f->what), "edit");
	guest = muf_edit(&f->w, &f->current, lin);
	if (muf_chance(&f->w, 40))
		return;
	if (guest)
		flush_both(f, FLUSH_PAGE, lin, 0, 0, 0);
	else if (f->current.regs.nested)
		flush_both(f, FLUSH_EPT, 0, 0, 0, f->current.regs.eptp);
}

static void op_repair(struct fuzz *f)
{
	snprintf(f->what, sizeof(f->what), "repair");
	muf_repair(&f->w);
	if (muf_chance(&f->w, 50))
		flush_both(f, FLUSH_EVERYTHING, 0, 0, 0, 0);
}

/* ---- registers ---- */

static void set_regs(struct fuzz *f)
{
	mmu_set_regs(&f->mmu, &f->current.regs);
	f->ref->regs = f->current.regs;
	/* As VM entry has it: without EPT's flags the log does nothing. */
	f->mmu.pml.on = f->ref->pml && f->current.regs.nested && f->current.regs.eptp & EPTP_AD;
}

/* The log is emptied, or found anywhere; now and then it is turned on or off. */
static void op_log(struct fuzz *f)
{
	static const uint16_t index[] = {511, 511, 510, 5, 1, 0, 0xffff, 512, 0x8000};

	snprintf(f->what, sizeof(f->what), "page-modification log");
	if (f->mmu.pml.index != f->ref->pml_index)
		mismatch(f, "indices of the log differ");
	f->logged += (uint16_t)(f->log_began - f->ref->pml_index);
	f->ref->pml ^= muf_chance(&f->w, 10);
	f->log_began = index[muf_below(&f->w, ARRAY_SIZE(index))];
	f->mmu.pml.index = f->ref->pml_index = f->log_began;
	set_regs(f);
}

static void op_switch(struct fuzz *f)
{
	unsigned to = muf_below(&f->w, MUF_CONTEXTS);

	snprintf(f->what, sizeof(f->what), "switch to context %u", to);
	f->current = f->w.context[to];
	set_regs(f);
}

/* Control bits change under what is cached. */
static void op_control(struct fuzz *f)
{
	static const uint64_t cr4[] = {CR4_SMEP, CR4_SMAP, CR4_PGE, CR4_PKE};
	struct mmu_regs *r = &f->current.regs;

	snprintf(f->what, sizeof(f->what), "control bits");
	switch (muf_below(&f->w, 4)) {
	case 0: r->cr0 ^= CR0_WP; break;
	case 1: r->cr4 ^= cr4[muf_below(&f->w, ARRAY_SIZE(cr4))]; break;
	case 2: r->pkru = muf_chance(&f->w, 50) ? 0 : (uint32_t)muf_next(&f->w) & 0xff; break;
	default: r->efer ^= EFER_NXE; break;
	}
	set_regs(f);
}

/* ---- what the host-side lookups depend on ---- */

static void op_host(struct fuzz *f)
{
	uint64_t page = muf_gpa(&f->w) >> PAGE_SHIFT;

	snprintf(f->what, sizeof(f->what), "host side");
	switch (muf_below(&f->w, 20)) {
	case 0: mmu_fast_flush(&f->mmu); break;
	case 1:
	case 2:
		f->mmu.data_watch = muf_chance(&f->w, 20);
		mmu_fast_flush(&f->mmu);
		break;
	case 3:
	case 4:
		if (!machmem_is_ram(&f->w.mem[0], hpa(page << PAGE_SHIFT)))
			break;
		f->w.mem[0].code_map[page] ^= 1;
		mmu_fast_flush_host_page(&f->mmu, hpa(page << PAGE_SHIFT));
		break;
	default: op_access(f); break;
	}
}

/* ---- a world ---- */

static void one_op(struct fuzz *f)
{
	unsigned n = muf_below(&f->w, 100);

	if (f->ref->pml_index > 511 && muf_chance(&f->w, 40))
		op_log(f);
	else if (n < 76)
		op_access(f);
	else if (n < 82)
		op_edit(f);
	else if (n < 83)
		op_repair(f);
	else if (n < 88)
		op_switch(f);
	else if (n < 90)
		op_control(f);
	else if (n < 95)
		op_flush(f);
	else if (n < 97)
		op_logged(f);
	else if (n < 98)
		op_physical(f);
	else if (n < 99)
		op_log(f);
	else
		op_host(f);
}

static int begin(struct fuzz *f, uint64_t seed)
{
	int r = muf_world_init(&f->w, seed);

	if (r)
		return r;
	f->seed = seed;
	r = mmu_init(&f->mmu, &f->w.mem[0], &f->w.hw, NULL);
	f->ref = ref_new(&f->w.mem[1], &f->w.hw);
	if (r || !f->ref)
		return -1;
	f->mmu.maxphyaddr = f->ref->maxphyaddr = f->w.maxphyaddr;
	f->mmu.pages_1g = f->ref->pages_1g = f->w.pages_1g;
	f->mmu.data_cache = f->ref->data_cache = muf_chance(&f->w, 25);
	f->mmu.fast_path = muf_chance(&f->w, 90);
	f->current = f->w.context[0];
	f->ref->pml = muf_chance(&f->w, 50);
	f->mmu.pml.log = f->ref->pml_log = LOG_AT;
	f->mmu.pml.index = f->ref->pml_index = f->log_began = 511;
	set_regs(f);
	return 0;
}

static void add_up(struct totals *t, const struct fuzz *f)
{
	const struct mmu_stats *s = &f->ref->stats;

	t->worlds++;
	t->ops += f->op;
	t->accesses += f->accesses;
	t->by_fast += f->by_fast;
	t->walks += s->walks;
	t->refs += s->refs;
	t->repeated += s->repeated;
	t->flushes += s->flushes;
	t->l1_misses += s->l1d_misses + s->l1i_misses;
	t->l2_hits += s->l2d_hits + s->l2i_hits;
	for (unsigned i = 0; i < EVENTS; i++)
		t->events[i] += f->events[i];
	t->nested_hits += s->nested_tlb_hits;
	t->logged += f->logged;
	for (unsigned l = 0; l < HW_LEVELS; l++)
		t->hits += s->walk_cache_hits[STAGE_GUEST][l] + s->walk_cache_hits[STAGE_HOST][l];
}

/* Returns whether the two agreed. */
static bool run_world(uint64_t seed, uint64_t ops, const struct options *opt, bool thorough, struct totals *t)
{
	struct fuzz *f = calloc(1, sizeof(*f));
	bool ok;

	if (!f || begin(f, seed)) {
		fprintf(stderr, "mmufuzz: out of memory\n");
		exit(2);
	}
	f->thorough = thorough;
	for (f->op = 0; f->op < ops && !f->wrong; f->op++) {
		f->verbose = opt->verbose && f->op >= opt->trace;
		one_op(f);
		compare_counters(f);
		compare_tables(f);
		if (f->verbose)
			fprintf(stderr, "%llu: %s\n", (unsigned long long)f->op, f->what);
	}
	ok = !f->wrong;
	add_up(t, f);
	mmu_destroy(&f->mmu);
	ref_free(f->ref);
	muf_world_destroy(&f->w);
	free(f);
	return ok;
}

static void print_totals(const struct totals *t, unsigned wrong, double seconds)
{
	const struct { const char *name; uint64_t n; } rows[] = {
		{"operations", t->ops}, {"worlds", t->worlds}, {"accesses", t->accesses},
		{"by the fast lookup", t->by_fast},
		{"first-level misses", t->l1_misses}, {"second-level hits", t->l2_hits}, {"walks", t->walks},
		{"references", t->refs}, {"repeated walks", t->repeated}, {"walk-cache hits", t->hits},
		{"nested-TLB hits", t->nested_hits}, {"invalidations", t->flushes}, {"mapped", t->events[0]},
		{"page faults", t->events[1]}, {"EPT violations", t->events[2]},
		{"EPT misconfigurations", t->events[3]}, {"pages logged", t->logged}, {"log full", t->events[4]},
		{"wrong", wrong},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		printf("%s%s %llu", i ? ", " : "mmufuzz: ", rows[i].name, (unsigned long long)rows[i].n);
	printf("; %.1f s\n", seconds);
}

static int usage(void)
{
	fprintf(stderr, "usage: mmufuzz [--seed N] [--count OPERATIONS] [--one] [--verbose] [--trace OPERATION]\n");
	return 2;
}

static int parse(int argc, char **argv, struct options *opt)
{
	for (int i = 1; i < argc; i++) {
		const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;

		if (!strcmp(a, "--one")) {
			opt->one = true;
		} else if (!strcmp(a, "--verbose")) {
			opt->verbose = true;
		} else if (v && !strcmp(a, "--seed")) {
			opt->seed = strtoull(argv[++i], NULL, 0);
		} else if (v && !strcmp(a, "--count")) {
			opt->count = strtoull(argv[++i], NULL, 0);
		} else if (v && !strcmp(a, "--trace")) {
			opt->verbose = true;
			opt->trace = strtoull(argv[++i], NULL, 0);
		} else {
			return -1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct options opt = {.seed = 1, .count = 100000};
	struct totals t = {0};
	struct timespec from, to;
	unsigned wrong = 0;

	if (parse(argc, argv, &opt))
		return usage();
	clock_gettime(CLOCK_MONOTONIC, &from);
	if (opt.one)
		opt.count = OPS_PER_WORLD;
	for (uint64_t seed = opt.seed; t.ops < opt.count && wrong < 5; seed++) {
		struct totals again = {0};

		if (run_world(seed, min_u64(OPS_PER_WORLD, opt.count - t.ops), &opt, opt.one, &t))
			continue;
		wrong++;
		if (!opt.one) /* which operation it was exactly */
			run_world(seed, OPS_PER_WORLD, &opt, true, &again);
		else
			break;
	}
	clock_gettime(CLOCK_MONOTONIC, &to);
	print_totals(&t, wrong, (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9);
	return wrong ? 1 : 0;
}
