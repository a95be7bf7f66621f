/*
 * A hypervisor that nobody here wrote, on the bare machine: Debian's KVM runs Linux, whose memory is written all the time,
 * and moves it from one VM to another with its dirty log. With EPT and page-modification logging, with EPT and
 * write protection, with shadow paging: which exits does its guest have, and which are there for the log's sake?
 */
#include "arch/vmx.h"
#include "lab/lab_kvm_log.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#define MIB          ((uint64_t)1 << 20)
#define MEMORY       (512 * MIB) /* of the outer guest */
#define INNER_MEMORY 96u         /* MiB */

static const char why_kit[] =
	"the lab 'kvm' needs the guest with KVM: 'make guest-kvm' makes it; or give --kit DIR";

static const char why_pml[] =
	"The processor writes down where it sets a dirty flag, 512 pages until an exit. KVM empties the log at every exit that "
	"comes anyway.";
static const char why_wp[] =
	"KVM takes the right to write from all pages, and again from those found in each round: each page exits at its next "
	"write.";
static const char why_shadow[] =
	"KVM's shadow tables lose the right to write, as with EPT: each page faults at its next write. On top come the faults that "
	"shadow paging has anyway.";

struct row {
	const char *label, *digits; /* of kvm_intel's parameters ept, vpid, pml */
	const char *why;
	struct lab_kvm_log log;
	bool explain;
	unsigned limit;
};
enum { PML, WP, SHADOW, ROWS };
/* The counts of a row's task: all of the inner guest's life; while it is moved; before, for about as long as it runs then. */
enum { WHOLE, MOVING, BEFORE };

static const struct row rows_of[ROWS] = {
	{.label = "ept, pml", .digits = "111", .why = why_pml},
	{.label = "ept, no pml", .digits = "110", .why = why_wp},
	{.label = "no ept", .digits = "010", .why = why_shadow},
};

/* ---- one row ---- */

static int look_at(struct vm *vm, const char *text, struct lab_count *c, struct error *err)
{
	int ret = lab_run_to(vm, text, err);

	if (ret == 0)
		lab_count_look(vm, c);
	return ret;
}

static int measure_moved(struct vm *vm, struct lab_task *t, struct error *err)
{
	static const char *const text[5] = {"KVM-BEGIN", "GNOMON-READY", "KVM-ROUND 0", "KVM-MIGRATED", "KVM-END"};
	struct lab_count *at = malloc(5 * sizeof(*at));
	int ret = at ? 0 : error_set(err, -ENOMEM, "out of memory");

	for (unsigned i = 0; i < 5 && ret == 0; i++)
		ret = look_at(vm, text[i], &at[i], err);
	if (ret == 0)
		ret = lab_run_to(vm, "GNOMON-DONE ok", err);
	if (ret == 0) {
		t->count[WHOLE] = at[4];
		t->count[MOVING] = at[3];
		t->count[BEFORE] = at[2];
		lab_count_subtract(&t->count[WHOLE], &at[0]);
		lab_count_subtract(&t->count[MOVING], &at[2]);
		lab_count_subtract(&t->count[BEFORE], &at[1]);
	}
	free(at);
	return ret;
}

static int measure(struct vm *vm, struct lab_task *t, struct error *err)
{
	struct row *r = t->ctx;
	int ret = lab_kvm_log_begin(&r->log, vm, r->explain ? r->limit : 0, err);

	if (ret == 0)
		ret = measure_moved(vm, t, err);
	if (ret == 0 && !r->log.moved)
		ret = error_set(err, -EIO, "the inner guest was not moved");
	return ret;
}

/* ---- the result ---- */

static double number(uint64_t n) { return (double)n; }

static double by(const struct lab_count *c, unsigned reason) { return lab_number(c->obs.exits.by_reason[reason]); }

static void add_exits(json_t *table, const char *label, const struct lab_count *c)
{
	double v[10] = {
		lab_number(c->obs.exits.total),
		by(c, EXIT_REASON_EPT_VIOLATION),
		by(c, EXIT_REASON_EXCEPTION_NMI),
		by(c, EXIT_REASON_IO) + by(c, EXIT_REASON_EPT_MISCONFIG),
		by(c, EXIT_REASON_CR_ACCESS) + by(c, EXIT_REASON_INVLPG),
		by(c, EXIT_REASON_RDMSR) + by(c, EXIT_REASON_WRMSR) + by(c, EXIT_REASON_CPUID),
		by(c, EXIT_REASON_EXTERNAL_INTERRUPT) + by(c, EXIT_REASON_INTERRUPT_WINDOW),
		by(c, EXIT_REASON_PREEMPTION_TIMER) + by(c, EXIT_REASON_HLT),
		by(c, EXIT_REASON_PML_FULL), 0};

	v[9] = v[0];
	for (unsigned i = 1; i < 9; i++)
		v[9] -= v[i];
	lab_row(table, label, 10, v);
}

#define EXIT_COLUMNS "exits|EPT viol.|exception|I/O, MMIO|CR, INVLPG|MSR, CPUID|interrupt|timer, HLT|PML full|others"

static void show_exits(json_t *result, const struct row *rows, const struct lab_task *task)
{
	json_t *whole = lab_table(result, "kvm.exits", "The inner guest's VM exits, from its boot to its power-off", EXIT_COLUMNS);
	json_t *move = lab_table(result, "kvm.moving", "... while it is moved, and before, for as long as the first round takes", EXIT_COLUMNS);

	for (unsigned i = 0; i < ROWS; i++) {
		char label[48];

		add_exits(whole, rows[i].label, &task[i].count[WHOLE]);
		add_exits(move, rows[i].label, &task[i].count[MOVING]);
		snprintf(label, sizeof(label), "%s: before", rows[i].label);
		add_exits(move, label, &task[i].count[BEFORE]);
	}
}

static void show_moves(json_t *result, const struct row *rows, const struct lab_task *task)
{
	json_t *table = lab_table(result, "kvm.moved", "Moved while it runs, by KVM's dirty log",
				  "rounds|pages sent|found written|lost|ms|stands still, ms|Minstructions|of a life of");

	for (unsigned i = 0; i < ROWS; i++) {
		const struct lab_kvm_log *l = &rows[i].log;

		lab_row(table, rows[i].label, 8,
			(double[8]){l->rounds, number(l->sent), number(l->dirty), number(l->differ), number(l->total_us) / 1e3,
				    number(l->down_us) / 1e3, number(task[i].count[MOVING].insns) / 1e6,
				    number(task[i].count[WHOLE].insns) / 1e6});
	}
}

static void show_rounds(json_t *result, const struct row *rows)
{
	char columns[16 * (LAB_ROUNDS_MAX + 1)] = "round 1";
	double v[LAB_ROUNDS_MAX + 1];
	unsigned most = 1;
	json_t *table;

	for (unsigned i = 0; i < ROWS; i++)
		most = rows[i].log.rounds > most ? rows[i].log.rounds : most;
	for (unsigned n = 1; n < most; n++)
		snprintf(columns + strlen(columns), 16, "|%u", n + 1);
	strcat(columns, "|at last");
	table = lab_table(result, "kvm.rounds", "Pages to send in each round, and when the guest stands still", columns);
	for (unsigned i = 0; i < ROWS; i++) {
		const struct lab_kvm_log *l = &rows[i].log;

		for (unsigned n = 0; n < most; n++)
			v[n] = n < l->rounds ? number(l->round[n]) : LAB_NONE;
		v[most] = number(l->round[l->rounds]);
		lab_row(table, rows[i].label, most + 1, v);
	}
}

static void show_log(json_t *result, const struct row *rows)
{
	json_t *table = lab_table(result, "kvm.pml", "The page-modification log while the guest is moved",
				  "emptied|when full|entries|pages found");

	for (unsigned i = 0; i < ROWS; i++) {
		const struct lab_kvm_log *l = &rows[i].log;

		lab_row(table, rows[i].label, 4,
			(double[4]){number(l->drained), number(l->drained_full), number(l->entries), number(l->dirty)});
	}
}

/* For how long it ran while it was moved, in first rounds: the monitor stops it to copy. */
static double ran(const struct lab_kvm_log *l)
{
	return number(l->sent - l->round[l->rounds]) / number(l->round[0]);
}

static void compare(json_t *result, const struct row *rows, const struct lab_task *task)
{
	for (unsigned i = 0; i < ROWS; i++) {
		char id[64], what[96];
		double more = lab_number(task[i].count[MOVING].obs.exits.total) -
			      lab_number(task[i].count[BEFORE].obs.exits.total) * ran(&rows[i].log);

		snprintf(id, sizeof(id), "kvm.%s.more", rows[i].digits);
		snprintf(what, sizeof(what), "%s: exits more, for each page found", rows[i].label);
		lab_compare(result, &(struct lab_line){id, what, "exits", more / number(rows[i].log.dirty), LAB_NONE, LAB_NONE,
						       rows[i].why});
	}
}

static void show_trace(json_t *result, const struct row *r)
{
	json_t *head, *event;
	char text[128];
	size_t i;

	if (!r->explain)
		return;
	snprintf(text, sizeof(text), "%s: what KVM does with the log while the guest is moved", r->label);
	head = json_object();
	json_object_set_new(head, "text", json_string(text));
	json_object_set_new(head, "event", json_string("begin"));
	lab_trace(result, head);
	json_array_foreach(r->log.events, i, event)
		lab_trace(result, json_incref(event));
}

static void show(json_t *result, const struct row *rows, const struct lab_task *task, const struct lab_link *link)
{
	char text[300];

	show_exits(result, rows, task);
	show_moves(result, rows, task);
	show_rounds(result, rows);
	show_log(result, rows);
	compare(result, rows, task);
	for (unsigned i = 0; i < ROWS; i++)
		show_trace(result, &rows[i]);
	snprintf(text, sizeof(text),
		 "The inner guest has %u MiB. Its pages are copied at %.0f MiB in a second of virtual time; it stops when what is left "
		 "takes no more than %.1f ms, or after %u rounds.", INNER_MEMORY, (double)link->bytes_per_second / MIB,
		 (double)link->downtime_ns / 1e6, link->rounds);
	lab_note(result, text);
	lab_note(result, "Exits are counted by the processor. lost: pages that, when everything has been sent, are not the same in "
			 "both VMs. Instructions are those of the machine, so the outer Linux's and the inner one's.");
	lab_note(result, "With ept=0 KVM takes pml=1 back: the processor logs where it sets dirty flags in EPT.");
}

/* ---- the lab ---- */

static struct lab_link link_of(const struct lab_options *o)
{
	struct lab_link l = o->link;

	l.bytes_per_second = l.bytes_per_second ? l.bytes_per_second : (o->quick ? 8192 : 1024) * MIB;
	l.downtime_ns = l.downtime_ns ? l.downtime_ns : o->quick ? 500000 : 4000000;
	l.rounds = l.rounds ? l.rounds : o->quick ? 3 : 8;
	return l;
}

/* Enough random updates to outlast the migration, at some 6 ns. */
static uint64_t turns_of(const struct lab_link *link, uint64_t table)
{
	double bytes = (double)(2 * INNER_MEMORY * MIB + (link->rounds + 1) * table);

	return (uint64_t)(bytes * 1e9 / (double)link->bytes_per_second / 6) + 1000000;
}

static void init_task(struct lab_task *t, struct row *r, const struct row *of, const struct lab_options *o, const struct hw *hw,
		      const struct lab_link *link, const char *kernel, const char *initrd)
{
	uint64_t table = (o->quick ? 4 : 16) * MIB;

	*r = *of;
	r->explain = o->explain;
	r->limit = o->limit ? o->limit : 60;
	*t = (struct lab_task){.measure = measure, .what = r->label, .ctx = r};
	vm_config_default(&t->cfg);
	t->cfg.engine.mmu = ENGINE_NATIVE;
	t->cfg.engine.cpu.hw = *hw;
	t->cfg.engine.cpu.seed = 1;
	t->cfg.engine.cpu.feature[CPUF_VMX] = t->cfg.engine.cpu.feature[CPUF_VME] = true;
	t->cfg.engine.memory = MEMORY;
	t->cfg.kernel = kernel;
	t->cfg.initrd = initrd;
	snprintf(t->append, sizeof(t->append),
		 "console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work=kvm:%s:linux:%u "
		 "kvm_append=\"console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work=gups:%llu:%llu\" "
		 "kvm_options=\"--no-hash --migrate GNOMON-READY --after %llu --rate %llu --rounds %u --left %llu\"",
		 r->digits, INNER_MEMORY, (unsigned long long)turns_of(link, table), (unsigned long long)(table / MIB),
		 (unsigned long long)((double)(INNER_MEMORY * MIB) * 1e6 / (double)link->bytes_per_second),
		 (unsigned long long)(link->bytes_per_second / MIB), link->rounds,
		 (unsigned long long)((double)link->downtime_ns * (double)link->bytes_per_second / 1e9 / PAGE_SIZE));
}

static int run_rows(const struct lab_options *o, const struct hw *hw, json_t *result, const char *kernel, const char *initrd,
		    struct error *err)
{
	const struct lab_link link = link_of(o);
	struct row *rows = calloc(ROWS, sizeof(*rows));
	struct lab_task *task = calloc(ROWS, sizeof(*task));
	int ret = rows && task ? 0 : error_set(err, -ENOMEM, "out of memory");

	for (unsigned i = 0; i < ROWS && ret == 0; i++)
		init_task(&task[i], &rows[i], &rows_of[i], o, hw, &link, kernel, initrd);
	if (ret == 0)
		ret = lab_run_tasks(o, task, ROWS, err);
	if (ret == 0)
		show(result, rows, task, &link);
	for (unsigned i = 0; rows && i < ROWS; i++)
		lab_kvm_log_fini(&rows[i].log);
	free(rows);
	free(task);
	return ret;
}

static int run(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	char kernel[PATH_MAX], initrd[PATH_MAX];

	snprintf(kernel, sizeof(kernel), "%s/vmlinux-cloud", o->kit ? o->kit : "");
	snprintf(initrd, sizeof(initrd), "%s/initramfs-kvm.cpio", o->kit ? o->kit : "");
	if (!o->kit || access(kernel, R_OK) || access(initrd, R_OK))
		return error_set(err, -ENOENT, "%s", why_kit);
	return run_rows(o, hw, result, kernel, initrd, err);
}

const struct lab lab_kvm = {"kvm", "Debian's KVM on the machine: exits with EPT, PML and shadow paging, and a migration",
			    NULL, "skylake", true, true, run, false};
