/*
 * The classical exercise on Xen: a guest is migrated live, to its own host, with hap=0 (shadow page tables) and with
 * hap=1 (EPT); find out from a trace of VM exits when page-modification logging is used. Debian's Xen runs on the bare
 * machine, xl migrates a PVH guest from and to domain 0, and the processor counts and tells what Xen does with VMX.
 */
#include "arch/vmx.h"
#include "cpu/vmx_state.h"
#include "lab/compare.h"
#include "lab/lab_vm.h"
#include "lab/report.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#define MIB        ((uint64_t)1 << 20)
#define MEMORY     (1024 * MIB)
#define INSNS_MAX  ((uint64_t)60000000000)
#define ROUNDS_MAX 32u
#define ROWS       3u
#define PML_RESET  511u /* the index with which a log is empty */
#define LINE_BYTES 256u

static const char why_kit[] =
	"the lab 'xen-migration' needs Xen, its domain 0 and a kernel for it: 'make guest-xen' makes them; or give "
	"--kit DIR";

/* ---- what is compared ---- */

struct kind {
	const char *label, *xen, *hap;
};
static const struct kind kinds[ROWS] = {
	{"hap=0", "", "0"},
	{"hap=1, no PML", " ept=no-pml", "1"},
	{"hap=1", "", "1"},
};
enum { SHADOW, EPT, PML };

/* A stretch of the trace in which nothing happened but VM exits. */
struct part {
	uint64_t insns, ns;              /* at its first */
	uint64_t exits, by_reason[VMX_TALLY_REASONS];
	uint64_t invepts;
};

struct trace {
	unsigned limit;                  /* lines */
	struct part part;
	json_t *events;
	uint64_t beyond;                 /* that are in no line */
};

struct row {
	const struct kind *kind;
	struct vm *vm;
	struct vmx_watch watch;
	char directory[PATH_MAX], initrd[512];
	struct trace trace;
	/* The console, by lines */
	char line[LINE_BYTES];
	size_t length;
	/* What came of it */
	unsigned rounds;
	struct { uint64_t pages, contents, us; } round[ROUNDS_MAX];
	uint64_t begun_ns, ns;           /* of the migration */
	uint64_t on, off;                /* how often PML was switched on and off */
	uint64_t full, emptied;          /* exits for a full log; logs with entries that Xen emptied */
	uint64_t logged;                 /* entries, all so far: up to which logs were emptied */
	bool pml;                        /* it is on in the VMCS that was written last */
	uint64_t vmcs, first_vmcs;       /* current one; that of the guest before it moved */
	uint64_t left_ns, entered_ns;    /* the guest's last entry before, its first after */
};

/* ---- the trace ---- */

__attribute__((format(printf, 3, 4))) static void add(char *text, size_t bytes, const char *fmt, ...)
{
	size_t used = strlen(text);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text + used, bytes - used, fmt, ap);
	va_end(ap);
}

static json_t *count(uint64_t n) { return json_integer((json_int_t)n); }

static void put_event(struct row *r, const char *name, uint64_t ns, uint64_t insns, const char *what)
{
	json_t *e;
	char text[512] = "", n[32];

	if (json_array_size(r->trace.events) >= r->trace.limit) {
		r->trace.beyond++;
		return;
	}
	add(text, sizeof(text), "%10.3f ms  instruction %s: %s", (double)(ns - r->begun_ns) / 1e6,
	    compare_group_digits(insns, n), what);
	e = json_object();
	json_object_set_new(e, "text", json_string(text));
	json_object_set_new(e, "event", json_string(name));
	json_object_set_new(e, "ns", count(ns - r->begun_ns));
	json_object_set_new(e, "instruction", count(insns));
	json_array_append_new(r->trace.events, e);
}

static const char *reason_name(unsigned reason)
{
	const char *name = report_exit_reason_name(reason);

	return name ? name : "a reason without a name";
}

/* The most frequent reason that is not in @done; the number of them if there is none. */
static unsigned most_frequent(const struct part *p, const bool done[VMX_TALLY_REASONS])
{
	unsigned best = VMX_TALLY_REASONS;

	for (unsigned i = 0; i < VMX_TALLY_REASONS; i++)
		if (p->by_reason[i] && !done[i] && (best == VMX_TALLY_REASONS || p->by_reason[i] > p->by_reason[best]))
			best = i;
	return best;
}

static void end_part(struct row *r)
{
	struct part *p = &r->trace.part;
	bool done[VMX_TALLY_REASONS] = {false};
	char what[400] = "", n[32];

	if (p->exits) {
		add(what, sizeof(what), "%s exit%s:", compare_group_digits(p->exits, n), p->exits == 1 ? "" : "s");
		for (unsigned k = 0; k < 4; k++) {
			unsigned i = most_frequent(p, done);

			if (i == VMX_TALLY_REASONS)
				break;
			done[i] = true;
			add(what, sizeof(what), "%s %s %s", k ? "," : "", compare_group_digits(p->by_reason[i], n),
			    reason_name(i));
		}
		if (most_frequent(p, done) != VMX_TALLY_REASONS)
			add(what, sizeof(what), ", others");
		if (p->invepts)
			add(what, sizeof(what), "; %s INVEPT", compare_group_digits(p->invepts, n));
		put_event(r, "exits", p->ns, p->insns, what);
	}
	*p = (struct part){.exits = 0};
}

static void put_now(struct row *r, const char *name, const char *what)
{
	end_part(r);
	put_event(r, name, engine_now(vm_engine(r->vm)), vm_insns(r->vm), what);
}

/* Entries made in logs so far. */
static uint64_t logged(const struct row *r)
{
	struct obs obs;

	vm_observe(r->vm, &obs);
	return obs.tracking.logged;
}

static void saw_exit(struct row *r, unsigned reason)
{
	struct part *p = &r->trace.part;

	if (r->vmcs == r->first_vmcs)
		r->left_ns = engine_now(vm_engine(r->vm));
	if (reason == EXIT_REASON_PML_FULL) {
		r->full++;
		put_now(r, "full", "exit: the page-modification log is full");
	} else if (reason < VMX_TALLY_REASONS) {
		if (!p->exits++) {
			p->ns = engine_now(vm_engine(r->vm));
			p->insns = vm_insns(r->vm);
		}
		p->by_reason[reason]++;
	}
}

static void saw_controls(struct row *r, bool pml)
{
	if (pml == r->pml)
		return;
	r->pml = pml;
	*(pml ? &r->on : &r->off) += 1;
	put_now(r, pml ? "pml-on" : "pml-off", pml ? "Xen switches page-modification logging on"
						   : "Xen switches page-modification logging off");
}

static void saw_index(struct row *r, uint64_t index)
{
	uint64_t all = logged(r);
	char what[100], n[32];

	if (index != PML_RESET || all == r->logged)
		return;
	snprintf(what, sizeof(what), "Xen empties the log: %s entries", compare_group_digits(all - r->logged, n));
	r->logged = all;
	r->emptied++;
	put_now(r, "emptied", what);
}

static void saw_entry(struct row *r)
{
	if (r->first_vmcs == VMCS_NONE)
		r->first_vmcs = r->vmcs;
	if (r->vmcs != r->first_vmcs && !r->entered_ns) {
		r->entered_ns = engine_now(vm_engine(r->vm));
		put_now(r, "moved", "the guest goes on in its new domain");
	}
}

static void saw(void *ctx, enum vmx_event what, uint64_t a, uint64_t b)
{
	struct row *r = ctx;

	(void)b;
	switch (what) {
	case VMX_EVENT_PTRLD: r->vmcs = a; break;
	case VMX_EVENT_ENTRY: saw_entry(r); break;
	case VMX_EVENT_EXIT: saw_exit(r, a & 0xffff); break;
	case VMX_EVENT_INVEPT: r->trace.part.invepts++; break;
	case VMX_EVENT_WRITE:
		if (a == VMCS_PROC_CTL2)
			saw_controls(r, b & PROC2_PML);
		else if (a == VMCS_GUEST_PML_INDEX)
			saw_index(r, b);
		break;
	default: break;
	}
}

/* ---- the console ---- */

static void take_line(struct row *r)
{
	unsigned n;
	unsigned long long us, pages, contents;

	if (sscanf(r->line, "XEN-STREAM round %u at %llu us: %llu pages, %llu with contents", &n, &us, &pages,
		   &contents) != 4 || n >= ROUNDS_MAX || n != r->rounds)
		return;
	r->round[r->rounds].us = us;
	r->round[r->rounds].pages = pages;
	r->round[r->rounds++].contents = contents;
}

static void console(void *ctx, const uint8_t *data, size_t bytes)
{
	struct row *r = ctx;

	for (size_t i = 0; i < bytes; i++) {
		if (data[i] == '\n' || r->length == sizeof(r->line) - 1) {
			r->line[r->length] = 0;
			take_line(r);
			r->length = 0;
		} else {
			r->line[r->length++] = (char)data[i];
		}
	}
}

/* ---- one migration ---- */

static int migrate(struct vm *vm, struct lab_task *t, struct error *err)
{
	struct row *r = t->ctx;
	struct lab_count before;
	int ret;

	r->vm = vm;
	r->watch = (struct vmx_watch){saw, r};
	vm_set_console(vm, (struct vm_console){.ctx = r, .output = console, .fd = -1});
	ret = lab_run_to(vm, "XEN-LAB begin migrate", err);
	if (ret)
		return ret;
	r->begun_ns = engine_now(vm_engine(vm));
	r->logged = logged(r);
	lab_count_look(vm, &before);
	ret = engine_watch_vmx(vm_engine(vm), &r->watch);
	if (ret)
		return error_set(err, ret, "Xen cannot be followed");
	ret = lab_run_to(vm, "XEN-LAB end migrate", err);
	engine_watch_vmx(vm_engine(vm), NULL);
	if (ret)
		return ret;
	end_part(r);
	r->ns = engine_now(vm_engine(vm)) - r->begun_ns;
	lab_count_look(vm, &t->count[0]);
	lab_count_subtract(&t->count[0], &before);
	if (!r->rounds)
		return error_set(err, -EIO, "domain 0 did not say what it sent");
	/* It goes on with its work where it is now. */
	return lab_run_to(vm, "XEN-LAB end works", err);
}

static void init_row(struct row *r, struct lab_task *t, const struct kind *k, const struct lab_options *o,
		     const struct hw *hw)
{
	*r = (struct row){.kind = k, .vmcs = VMCS_NONE, .first_vmcs = VMCS_NONE};
	r->trace.limit = o->explain ? o->limit ? o->limit : 40 : 0;
	r->trace.events = json_array();
	snprintf(r->directory, sizeof(r->directory), "%s/", o->kit);
	snprintf(r->initrd, sizeof(r->initrd),
		 "vmlinux-generic console=hvc0 panic=-1 quiet cryptomgr.notests xen.do=start:GNOMON-READY+migrate+works+stop "
		 "xen.hap=%s xen.work=gups:2000000:%s xen.times=60,xen/dom0.cpio", k->hap, o->quick ? "4" : "16");
	*t = (struct lab_task){.measure = migrate, .ctx = r, .what = k->label};
	vm_config_default(&t->cfg);
	t->cfg.engine.mmu = ENGINE_NATIVE;
	t->cfg.engine.cpu.hw = *hw;
	t->cfg.engine.cpu.feature[CPUF_VMX] = true;
	t->cfg.engine.memory = MEMORY;
	t->cfg.limit_insns = INSNS_MAX;
	t->cfg.directory = r->directory;
	t->cfg.kernel = "xen/hypervisor-shadow";
	t->cfg.initrd = r->initrd;
	snprintf(t->append, sizeof(t->append),
		 "com1=115200,8n1 console=com1 no-real-mode noreboot dom0_mem=512M,max:512M%s", k->xen);
}

/* ---- what is shown ---- */

static void show_migrations(json_t *result, const struct row *rows, const struct lab_task *task)
{
	json_t *t = lab_table(result, "migrations", "A PVH guest of 128 MiB that writes at random, migrated live to its own "
			      "host by xl", "rounds|pages|with contents|instructions|ms|stopped ms|exits|full logs|"
			      "emptied|entries");

	for (unsigned i = 0; i < ROWS; i++) {
		const struct row *r = &rows[i];
		const struct lab_count *c = &task[i].count[0];
		double v[10] = {r->rounds, 0, 0, lab_number(c->insns), (double)r->ns / 1e6,
				r->entered_ns ? (double)(r->entered_ns - r->left_ns) / 1e6 : LAB_NONE,
				lab_number(c->obs.exits.total), lab_number(r->full), lab_number(r->emptied),
				lab_number(c->obs.tracking.logged)};

		for (unsigned k = 0; k < r->rounds; k++) {
			v[1] += lab_number(r->round[k].pages);
			v[2] += lab_number(r->round[k].contents);
		}
		lab_row(t, r->kind->label, ARRAY_SIZE(v), v);
	}
}

static void show_rounds(json_t *result, const struct row *rows)
{
	json_t *t = lab_table(result, "rounds", "Pages sent, round by round; the guest stands still in the last",
			      "hap=0|hap=1, no PML|hap=1");
	char label[16];

	for (unsigned k = 0; k < ROUNDS_MAX; k++) {
		double v[ROWS];
		bool any = false;

		for (unsigned i = 0; i < ROWS; i++) {
			v[i] = k < rows[i].rounds ? lab_number(rows[i].round[k].pages) : LAB_NONE;
			any |= k < rows[i].rounds;
		}
		snprintf(label, sizeof(label), "round %u", k);
		if (any)
			lab_row(t, label, ROWS, v);
	}
}

static void show_reasons(json_t *result, const struct lab_task *task)
{
	json_t *t = lab_table(result, "reasons", "VM exits during the migration, by reason", "hap=0|hap=1, no PML|hap=1");

	for (unsigned reason = 0; reason < OBS_EXIT_REASONS; reason++) {
		double v[ROWS], all = 0;

		for (unsigned i = 0; i < ROWS; i++)
			all += v[i] = lab_number(task[i].count[0].obs.exits.by_reason[reason]);
		if (all > 0)
			lab_row(t, reason_name(reason), ROWS, v);
	}
}

static const char why_shadow[] =
	"With hap=0 the guest runs on shadow page tables that Xen makes: there is no EPT, so there can be no log. "
	"Xen takes the right to write away and notes the page at the page fault, an exit for an exception.";
static const char why_ept[] =
	"Xen makes the EPT entries read-only and notes the page at the EPT violation.";
static const char why_pml[] =
	"With hap=1 Xen switches the log on when a migration begins and off when it ends, and at no other time: the "
	"processor writes down the pages, 512 of them between two exits for a full log.";

static void compare(json_t *result, const struct row *rows, const struct lab_task *task)
{
	static const char *const why[ROWS] = {why_shadow, why_ept, why_pml};
	static const unsigned reason[ROWS] = {EXIT_REASON_EXCEPTION_NMI, EXIT_REASON_EPT_VIOLATION, EXIT_REASON_PML_FULL};
	static const char *const what[ROWS] = {"exits for an exception, hap=0", "exits for an EPT violation, no PML",
					       "exits for a full log, hap=1"};
	static const char *const id[ROWS] = {"exceptions", "violations", "full"};

	for (unsigned i = 0; i < ROWS; i++)
		lab_compare(result, &(struct lab_line){
			.id = id[i], .what = what[i], .unit = "exits", .why = why[i],
			.ours = lab_number(task[i].count[0].obs.exits.by_reason[reason[i]]),
			.paper = LAB_NONE, .paper_high = LAB_NONE});
	lab_compare(result, &(struct lab_line){
		.id = "emptied", .what = "logs emptied, hap=1", .unit = "logs", .why = why_pml,
		.ours = lab_number(rows[PML].emptied), .paper = LAB_NONE, .paper_high = LAB_NONE});
}

static void show_trace(json_t *result, const struct row *r)
{
	json_t *head = json_object(), *event;
	char text[128];
	size_t i;

	snprintf(text, sizeof(text), "%s: what the processor saw of Xen during the migration", r->kind->label);
	json_object_set_new(head, "text", json_string(text));
	json_object_set_new(head, "event", json_string("begin"));
	lab_trace(result, head);
	json_array_foreach(r->trace.events, i, event)
		lab_trace(result, json_incref(event));
	if (r->trace.beyond) {
		json_t *rest = json_object();

		snprintf(text, sizeof(text), "  ... and %llu more lines: see --limit",
			 (unsigned long long)r->trace.beyond);
		json_object_set_new(rest, "text", json_string(text));
		json_object_set_new(rest, "event", json_string("beyond"));
		json_object_set_new(rest, "lines", count(r->trace.beyond));
		lab_trace(result, rest);
	}
}

static void show(json_t *result, const struct lab_options *o, const struct row *rows, const struct lab_task *task)
{
	show_migrations(result, rows, task);
	show_rounds(result, rows);
	show_reasons(result, task);
	for (unsigned i = 0; i < ROWS && o->explain; i++)
		show_trace(result, &rows[i]);
	compare(result, rows, task);
	lab_note(result, "Counts are of the whole machine, domain 0 and both ends of the migration included; stopped: from the "
			 "guest's last exit where it was to its first entry where it is. Of the pages of round 0 most are "
			 "holes in the guest's addresses.");
	lab_note(result, "emptied: the log was not empty and Xen set its index back, at an exit for a full log or to read the "
			 "log-dirty bitmap. Xen is Debian's, built with shadow paging, without which there is no hap=0.");
}

/* ---- the lab ---- */

static bool has(const struct lab_options *o, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", o->kit ? o->kit : "", name);
	return o->kit && access(path, R_OK) == 0;
}

static int run(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	struct row *rows;
	struct lab_task *task;
	int ret = -ENOMEM;

	if (!has(o, "xen/hypervisor-shadow") || !has(o, "xen/dom0.cpio") || !has(o, "vmlinux-generic"))
		return error_set(err, -ENOENT, "%s", why_kit);
	rows = calloc(ROWS, sizeof(*rows));
	task = calloc(ROWS, sizeof(*task));
	if (!rows || !task) {
		error_set(err, ret, "out of memory");
	} else {
		for (unsigned i = 0; i < ROWS; i++)
			init_row(&rows[i], &task[i], &kinds[i], o, hw);
		ret = lab_run_tasks(o, task, ROWS, err);
		if (ret == 0)
			show(result, o, rows, task);
		for (unsigned i = 0; i < ROWS; i++)
			json_decref(rows[i].trace.events);
	}
	free(rows);
	free(task);
	return ret;
}

const struct lab lab_xen_migration = {"xen-migration", "Xen migrates a guest with hap=0 and hap=1: when is PML used?", NULL,
				      "skylake", false, true, run, false};
