/*
 * Live migration, scheme by scheme and tracker by tracker: the same guest, from the same instruction on, is copied over
 * a link of the same speed while it runs, and goes on under another scheme at the other end. What does each tracker
 * cost, and is any page lost?
 */
#include "arch/vmx.h"
#include "lab/lab_migration_log.h"
#include "lab/lab_vm.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#define MIB    ((uint64_t)1 << 20)
#define MEMORY (128 * MIB)

/* ---- guests ---- */

struct guest {
	const char *name, *what;
	const char *size;   /* third field of gnomon.work=; "" */
	uint64_t after;     /* instructions after init has begun: there the state is taken */
	uint64_t pages;     /* that it writes again and again, about */
	uint64_t turn_ns;   /* of one unit of its work, at least */
	/* The guest itself */
	struct lab_task boot;
	struct lab_state base;
	struct vm_result whole; /* what comes out if it is never migrated */
};

enum { GUPS, FORKWAIT, GUESTS };
#define WARM_INSNS 5000000u /* under the scheme, before the migration begins: its tables fill */
/* Memory with contents after a boot, about; for how long the guest has to work. */
#define CONTENTS   14000u

static const char why_kit[] =
	"the lab 'migration' needs the guest kit (a Debian kernel and an initramfs): 'make guest' makes it; "
	"or give --kit DIR";

static void init_guests(struct guest g[GUESTS], bool quick)
{
	uint64_t mib = quick ? 4 : 16;

	g[GUPS] = (struct guest){.name = "gups", .after = quick ? 20000000 : 60000000, .pages = mib * MIB / PAGE_SIZE,
				 .turn_ns = 7};
	g[GUPS].size = quick ? ":4" : ":16";
	g[GUPS].what = quick ? "random updates of a table of 4 MiB" : "random updates of a table of 16 MiB";
	g[FORKWAIT] = (struct guest){.name = "forkwait", .what = "fork, exit, wait", .size = "", .after = 5000000,
				     .pages = 1000, .turn_ns = 60000};
}

/* Enough work to outlast the migration. */
static uint64_t turns_of(const struct guest *g, const struct lab_link *link)
{
	uint64_t pages = CONTENTS + link->rounds * g->pages;
	double page_ns = PAGE_SIZE * 1e9 / (double)link->bytes_per_second;

	return (uint64_t)((double)pages * page_ns / (double)g->turn_ns) + (g->after + WARM_INSNS) / g->turn_ns + 1;
}

/* Boots, takes the state where all rows begin, and goes on to the end. */
static int boot(struct vm *vm, struct lab_task *t, struct error *err)
{
	struct guest *g = t->ctx;
	struct vm_stop stop = VM_STOP_NONE;
	int ret = lab_run_to(vm, "GNOMON-INIT", err);

	if (ret == 0)
		ret = lab_state_init(&g->base, engine_pages(vm_engine(vm)), err);
	if (ret)
		return ret;
	stop.insns = vm_insns(vm) + g->after;
	if (vm_run_until(vm, &stop) == VM_STOPPED_END || vm_quiesce(vm))
		return error_set(err, -EIO, "the guest ended before its migration could begin");
	ret = lab_state_take(&g->base, vm, err);
	if (ret == 0)
		vm_run(vm, &g->whole);
	return ret;
}

static void init_boot(struct guest *g, const struct lab_link *link, const struct hw *hw, const char *kernel,
		      const char *initrd)
{
	struct lab_task *t = &g->boot;

	*t = (struct lab_task){.measure = boot, .what = g->name, .ctx = g};
	vm_config_default(&t->cfg);
	t->cfg.engine.mmu = ENGINE_NATIVE;
	t->cfg.engine.cpu.hw = *hw;
	t->cfg.engine.cpu.seed = 1;
	t->cfg.engine.memory = MEMORY;
	t->cfg.kernel = kernel;
	t->cfg.initrd = initrd;
	snprintf(t->append, sizeof(t->append), "console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work=%s:%llu%s",
		 g->name, (unsigned long long)turns_of(g, link), g->size);
}

/* ---- rows ---- */

struct row {
	enum engine_mmu from, to;
	enum engine_dirty how;
	char label[16];
	const char *why;     /* of its line in the comparison */
	/* What came of it */
	const struct guest *guest;
	const struct hw *hw;
	struct vm_config_strings keep;
	struct lab_precopy move;
	struct lab_log *log; /* NULL: it is not explained */
	uint64_t found;      /* pages, by the tracker */
	bool equal;          /* it arrived, and did what it would have done */
};
enum { ROWS = 5 };
/* The counts of a row's task. */
enum { TRACKED, PLAIN, MORE };

static const char why_wp[] =
	"Each page exits at its first write after each collection: exit, handler, entry, and a walk of its own to get "
	"there again.";
static const char why_ad[] =
	"No exit. To collect is to look at every leaf entry there is, whether its page was written or not.";
static const char why_pml[] =
	"The processor writes down where it sets a dirty flag. The log is emptied at exits that come anyway, and has "
	"one of its own only if 512 pages are new between two of them.";

static const struct row rows_of[ROWS] = {
	{.from = ENGINE_SHADOW, .to = ENGINE_EPT, .how = ENGINE_DIRTY_WP, .label = "shadow, wp", .why = why_wp},
	{.from = ENGINE_SHADOW, .to = ENGINE_EPT, .how = ENGINE_DIRTY_AD, .label = "shadow, ad", .why = why_ad},
	{.from = ENGINE_EPT, .to = ENGINE_SHADOW, .how = ENGINE_DIRTY_WP, .label = "ept, wp", .why = why_wp},
	{.from = ENGINE_EPT, .to = ENGINE_SHADOW, .how = ENGINE_DIRTY_AD, .label = "ept, ad", .why = why_ad},
	{.from = ENGINE_EPT, .to = ENGINE_SHADOW, .how = ENGINE_DIRTY_PML, .label = "ept, pml", .why = why_pml},
};

static int run_insns(struct vm *vm, uint64_t insns, struct error *err)
{
	struct vm_stop stop = VM_STOP_NONE;

	stop.insns = insns;
	if (vm_insns(vm) < insns && vm_run_until(vm, &stop) == VM_STOPPED_END)
		return error_set(err, -EIO, "the guest ended before its migration did");
	return 0;
}

static int make_vm(const struct row *r, const struct lab_state *s, enum engine_mmu mmu, struct vm **out,
		   struct vm_config_strings *keep, struct error *err)
{
	int ret = lab_state_make(s, r->hw, mmu, out, keep, err);

	if (ret)
		return ret;
	ret = s == &r->guest->base ? run_insns(*out, vm_insns(*out) + WARM_INSNS, err) : 0;
	if (ret) {
		vm_destroy(*out);
		vm_config_strings_free(keep);
	}
	return ret;
}

static int make_source(struct lab_task *t, struct vm **out, struct error *err)
{
	struct row *r = t->ctx;

	return make_vm(r, &r->guest->base, r->from, out, &r->keep, err);
}

/* The same stretch without a tracker, cut at the same places. */
static int run_plain(struct lab_task *t, struct error *err)
{
	struct row *r = t->ctx;
	struct lab_count *c = &t->count[PLAIN], before;
	struct vm_config_strings keep;
	struct vm *vm;
	int ret = make_vm(r, &r->guest->base, r->from, &vm, &keep, err);

	if (ret)
		return ret;
	lab_count_look(vm, &before);
	for (size_t i = 0; i < r->move.cuts && ret == 0; i++)
		ret = run_insns(vm, r->move.cut[i], err);
	lab_count_look(vm, c);
	lab_count_subtract(c, &before);
	vm_destroy(vm);
	vm_config_strings_free(&keep);
	return ret;
}

/* What arrived is made a VM, and runs to its end. */
static int run_arrived(struct row *r, const struct lab_state *arrived, struct error *err)
{
	const struct vm_result *whole = &r->guest->whole;
	struct vm_config_strings keep;
	struct vm_result *result = malloc(sizeof(*result));
	struct vm *vm;
	int ret;

	if (!result)
		return error_set(err, -ENOMEM, "out of memory");
	ret = make_vm(r, arrived, r->to, &vm, &keep, err);
	if (ret == 0) {
		vm_run(vm, result);
		r->equal = result->end == whole->end && result->insns == whole->insns &&
			   result->virtual_ns == whole->virtual_ns &&
			   !memcmp(result->hash.no_accessed, whole->hash.no_accessed, sizeof(whole->hash.no_accessed));
		vm_destroy(vm);
		vm_config_strings_free(&keep);
	}
	free(result);
	return ret;
}

static void round_ended(void *ctx, const struct lab_precopy *p, bool stopped)
{
	lab_log_round(ctx, p, stopped);
}

static int explain(struct row *r, struct vm *vm, struct error *err)
{
	int ret = lab_log_begin(r->log, vm, r->log->limit, err);

	r->move.log = &r->log->watch;
	r->move.ended = round_ended;
	r->move.ctx = r->log;
	return ret;
}

static int migrate(struct vm *vm, struct lab_task *t, struct error *err)
{
	struct row *r = t->ctx;
	struct lab_state arrived;
	int ret = lab_state_init(&arrived, engine_pages(vm_engine(vm)), err);

	if (ret)
		return ret;
	if (r->log)
		ret = explain(r, vm, err);
	if (ret == 0)
		ret = lab_precopy_run(&r->move, vm, r->how, &arrived, err);
	t->count[TRACKED] = r->move.spent;
	r->found = r->move.spent.obs.tracking.pages;
	if (ret == 0)
		ret = run_arrived(r, &arrived, err);
	lab_state_fini(&arrived);
	if (ret == 0)
		ret = run_plain(t, err);
	t->count[MORE] = t->count[TRACKED];
	lab_count_subtract(&t->count[MORE], &t->count[PLAIN]);
	return ret;
}

/* ---- the result ---- */

static double number(uint64_t n) { return (double)n; }

static void show_what_went(json_t *result, const struct guest *g, const struct row *rows)
{
	enum { NUMBERS = 9 };
	double nothing[NUMBERS];
	char id[64], title[128];
	json_t *table;

	snprintf(id, sizeof(id), "%s.went", g->name);
	snprintf(title, sizeof(title), "%s (%s): what went over", g->name, g->what);
	table = lab_table(result, id, title,
			  "rounds|pages sent|zeros|passed over|MiB|total ms|downtime ms|converged|arrives");
	for (unsigned i = 0; i < NUMBERS; i++)
		nothing[i] = LAB_NONE;
	for (unsigned i = 0; i < ROWS; i++) {
		const struct lab_precopy *p = &rows[i].move;
		struct lab_round sum = {.sent = 0};

		if (rows[i].from == ENGINE_EPT && i && rows[i - 1].from == ENGINE_SHADOW) {
			lab_row(table, "shadow, pml", NUMBERS, nothing);
			lab_row_word(table, 8, "impossible");
		}
		for (unsigned n = 0; n <= p->rounds; n++) {
			sum.sent += p->round[n].sent;
			sum.zeros += p->round[n].zeros;
			sum.again += p->round[n].again;
			sum.bytes += p->round[n].bytes;
		}
		lab_row(table, rows[i].label, NUMBERS,
			(double[NUMBERS]){p->rounds, number(sum.sent), number(sum.zeros), number(sum.again),
				    number(sum.bytes) / MIB, number(p->total_ns) / 1e6, number(p->downtime_ns) / 1e6, 0, 0});
		lab_row_word(table, 7, p->converged ? "yes" : "no");
		lab_row_word(table, 8, rows[i].equal ? "equal" : "DIFFERENT");
	}
}

/* The pages that each round has to send: those that were written in the one before. */
static void show_rounds(json_t *result, const struct guest *g, const struct row *rows)
{
	char id[64], title[96], columns[16 * (LAB_ROUNDS_MAX + 1)] = "round 1";
	double v[LAB_ROUNDS_MAX + 1];
	unsigned most = 1;
	json_t *table;

	for (unsigned i = 0; i < ROWS; i++)
		most = rows[i].move.rounds > most ? rows[i].move.rounds : most;
	for (unsigned n = 1; n < most; n++)
		snprintf(columns + strlen(columns), 16, "|%u", n + 1);
	strcat(columns, "|at last");
	snprintf(id, sizeof(id), "%s.rounds", g->name);
	snprintf(title, sizeof(title), "%s: pages to send in each round, and when the VM stands still", g->name);
	table = lab_table(result, id, title, columns);
	for (unsigned i = 0; i < ROWS; i++) {
		const struct lab_precopy *p = &rows[i].move;

		for (unsigned n = 0; n < most; n++)
			v[n] = n < p->rounds ? number(p->round[n].due) : LAB_NONE;
		v[most] = number(p->round[p->rounds].due);
		lab_row(table, rows[i].label, most + 1, v);
	}
}

static void show_costs(json_t *result, const struct guest *g, const struct row *rows, const struct lab_task *task)
{
	char id[64], title[96];
	json_t *table;

	snprintf(id, sizeof(id), "%s.costs", g->name);
	snprintf(title, sizeof(title), "%s: what tracking costs, against the same instructions without", g->name);
	table = lab_table(result, id, title,
			  "pages found|exits|by tracking|PML full|logged|table accesses|Mcycles more|slowdown");
	for (unsigned i = 0; i < ROWS; i++) {
		const struct obs *o = &task[i].count[TRACKED].obs, *more = &task[i].count[MORE].obs;
		struct cost tracked, plain;

		lab_cost(&task[i], TRACKED, &tracked);
		lab_cost(&task[i], PLAIN, &plain);
		lab_row(table, rows[i].label, 8,
			(double[8]){number(rows[i].found), number(o->exits.total), lab_number(more->exits.total),
				    number(o->exits.by_reason[EXIT_REASON_PML_FULL]), number(o->tracking.logged),
				    lab_number(more->hypervisor.table_reads + more->hypervisor.table_writes),
				    (tracked.total - plain.total) / 1e6, tracked.total / plain.total});
	}
}

static void show_reasons(json_t *result, const struct guest *g, const struct row *rows, const struct lab_task *task)
{
	char id[64], title[96];
	json_t *table;

	snprintf(id, sizeof(id), "%s.reasons", g->name);
	snprintf(title, sizeof(title), "%s: exits that tracking adds, by reason", g->name);
	table = lab_table(result, id, title, "page fault|EPT violation|PML full|timer|others");
	lab_table_unit(table, "exits");
	for (unsigned i = 0; i < ROWS; i++) {
		const struct obs *more = &task[i].count[MORE].obs;
		double v[5] = {lab_number(more->exits.by_reason[EXIT_REASON_EXCEPTION_NMI]),
			       lab_number(more->exits.by_reason[EXIT_REASON_EPT_VIOLATION]),
			       lab_number(more->exits.by_reason[EXIT_REASON_PML_FULL]),
			       lab_number(more->exits.by_reason[EXIT_REASON_PREEMPTION_TIMER]), 0};

		v[4] = lab_number(more->exits.total) - v[0] - v[1] - v[2] - v[3];
		lab_row(table, rows[i].label, 5, v);
	}
}

static void compare(json_t *result, const struct guest *g, const struct row *rows, const struct lab_task *task)
{
	for (unsigned i = 0; i < ROWS; i++) {
		char id[64], what[96];
		struct cost more;

		lab_cost(&task[i], MORE, &more);
		snprintf(id, sizeof(id), "%s.%s.%s", g->name, engine_mmu_name[rows[i].from],
			 engine_dirty_name[rows[i].how]);
		snprintf(what, sizeof(what), "%s, %s: for each page found", g->name, rows[i].label);
		lab_compare(result, &(struct lab_line){id, what, "cycles", more.total / number(rows[i].found), LAB_NONE,
						       LAB_NONE, rows[i].why});
	}
}

static void show(json_t *result, const struct guest *g, const struct row *rows, const struct lab_task *task)
{
	show_what_went(result, g, rows);
	show_rounds(result, g, rows);
	show_costs(result, g, rows, task);
	show_reasons(result, g, rows, task);
	compare(result, g, rows, task);
}

static void show_log(json_t *result, const struct row *r)
{
	char title[128];
	json_t *e = json_object();
	size_t i;
	json_t *event;

	snprintf(title, sizeof(title),
		 "%s under %s: what the page-modification log held, in the order in which it was written",
		 r->guest->name, r->label);
	json_object_set_new(e, "text", json_string(title));
	json_object_set_new(e, "event", json_string("begin"));
	lab_trace(result, e);
	json_array_foreach(r->log->events, i, event)
		lab_trace(result, json_incref(event));
}

static void add_notes(json_t *result, const struct lab_link *link)
{
	char text[300];

	snprintf(text, sizeof(text),
		 "The link carries %.0f MiB in a second of virtual time and answers after %llu us; the VM stops when "
		 "what is left takes no more than %.1f ms, or after %u rounds.", (double)link->bytes_per_second / MIB,
		 (unsigned long long)(link->answer_ns / 1000), (double)link->downtime_ns / 1e6, link->rounds);
	lab_note(result, text);
	lab_note(result, "PML under shadow paging is impossible on hardware: the processor logs where it sets dirty "
			 "flags in EPT, and VM entry refuses the control without EPT.");
	lab_note(result, "arrives: the VM made of what was sent runs to its end under the other scheme; equal: the "
			 "same end, after the same instructions, at the same time, with the same registers and memory as "
			 "without a migration.");
}

/* ---- the lab ---- */

static struct lab_link link_of(const struct lab_options *o)
{
	struct lab_link l = o->link;

	l.bytes_per_second = l.bytes_per_second ? l.bytes_per_second : (o->quick ? 4096 : 1024) * MIB;
	l.answer_ns = l.answer_ns ? l.answer_ns : 100000;
	l.downtime_ns = l.downtime_ns ? l.downtime_ns : o->quick ? 1000000 : 4000000;
	l.rounds = l.rounds ? l.rounds : o->quick ? 4 : 8;
	return l;
}

static int run_rows(const struct lab_options *o, const struct hw *hw, const struct lab_link *link, struct guest *g,
		    struct row *rows, struct lab_task *task, struct lab_log *log, struct error *err)
{
	for (unsigned i = 0; i < ROWS * GUESTS; i++) {
		struct row *r = &rows[i];

		*r = rows_of[i % ROWS];
		r->guest = &g[i / ROWS];
		r->hw = hw;
		r->move.link = *link;
		if (o->explain && i / ROWS == GUPS && r->how == ENGINE_DIRTY_PML)
			r->log = log;
		task[i] = (struct lab_task){.make = make_source, .measure = migrate, .ctx = r, .what = r->label};
		task[i].cfg = r->guest->boot.cfg;
		task[i].cfg.engine.mmu = r->from;
	}
	return lab_run_tasks(o, task, ROWS * GUESTS, err);
}

static int run_guests(const struct lab_options *o, const struct hw *hw, const struct lab_link *link, struct guest *g,
		      json_t *result, struct error *err)
{
	struct lab_log log = {.limit = o->limit ? o->limit : 60};
	struct row *rows = calloc(ROWS * GUESTS, sizeof(*rows));
	struct lab_task *task = calloc(ROWS * GUESTS, sizeof(*task));
	int ret = rows && task ? 0 : error_set(err, -ENOMEM, "out of memory");

	if (ret == 0)
		ret = run_rows(o, hw, link, g, rows, task, &log, err);
	for (unsigned i = 0; i < GUESTS && ret == 0; i++)
		show(result, &g[i], rows + ROWS * i, task + ROWS * i);
	for (unsigned i = 0; i < ROWS * GUESTS && ret == 0; i++)
		if (rows[i].log)
			show_log(result, &rows[i]);
	for (unsigned i = 0; rows && i < ROWS * GUESTS; i++) {
		lab_precopy_fini(&rows[i].move);
		vm_config_strings_free(&rows[i].keep);
	}
	lab_log_fini(&log);
	free(rows);
	free(task);
	return ret;
}

static int run(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	char kernel[PATH_MAX], initrd[PATH_MAX];
	const struct lab_link link = link_of(o);
	struct lab_task *boots = calloc(GUESTS, sizeof(*boots));
	struct guest *g = calloc(GUESTS, sizeof(*g));
	int ret = 0;

	snprintf(kernel, sizeof(kernel), "%s/vmlinux-cloud", o->kit ? o->kit : "");
	snprintf(initrd, sizeof(initrd), "%s/initramfs.cpio", o->kit ? o->kit : "");
	if (!g || !boots)
		ret = error_set(err, -ENOMEM, "out of memory");
	else if (!o->kit || access(kernel, R_OK) || access(initrd, R_OK))
		ret = error_set(err, -ENOENT, "%s", why_kit);
	for (unsigned i = 0; i < GUESTS && ret == 0; i++) {
		if (i == 0)
			init_guests(g, o->quick);
		init_boot(&g[i], &link, hw, kernel, initrd);
		boots[i] = g[i].boot;
	}
	if (ret == 0)
		ret = lab_run_tasks(o, boots, GUESTS, err);
	if (ret == 0)
		ret = run_guests(o, hw, &link, g, result, err);
	if (ret == 0)
		add_notes(result, &link);
	for (unsigned i = 0; g && i < GUESTS; i++)
		lab_state_fini(&g[i].base);
	free(g);
	free(boots);
	return ret;
}

const struct lab lab_migration = {"migration", "live migration: rounds, downtime and what finding written pages costs",
				  NULL, "skylake", true, true, run, false};
