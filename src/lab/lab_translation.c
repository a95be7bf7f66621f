/*
 * What a sensitive operation costs as a VM exit and as translated code (after Adams and Agesen, ASPLOS 2006).
 * Our translator serves the bare machine: there a sensitive instruction becomes a call of its execute function,
 * which is what a translating monitor makes of it. The same operation under VT-x with shadow
 * paging exits. Two kinds of figures, kept apart: counts and modelled cycles, which are exact, and the time that this
 * host takes for an operation. Left out: a translating monitor's other costs (its code cache for a deprivileged
 * kernel, returns that are looked up), which our guests do not meet.
 */
#include "lab/lab_vm.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

/* Ways to run a guest. Interleaved, so that what else the host does falls on all alike. */
enum way { NATIVE_INTERP, NATIVE_HOST, SHADOW_INTERP, SHADOW_HOST, WAYS };
static const struct { enum engine_mmu mmu; bool translate; uint64_t turns; } ways[WAYS] = {
	[NATIVE_INTERP] = {ENGINE_NATIVE, false, 100000},
	[NATIVE_HOST] = {ENGINE_NATIVE, true, 100000},
	[SHADOW_INTERP] = {ENGINE_SHADOW, false, 10000},
	[SHADOW_HOST] = {ENGINE_SHADOW, true, 10000},
};
#define ROUNDS       5
#define QUICK_DIVIDE 50

static const char why_call[] =
	"The instruction exits because it is what it is, so a translator knows it when it sees it and puts a call in its "
	"place: what remains is the work, and the way through the door is gone. Their translator writes CR8 in less "
	"than the processor does. Ours: host time of the exit to host time of the call.";
static const char why_nothing[] =
	"No exit occurs, so translating cannot win. Theirs loses: its guest kernel is deprivileged, and a "
	"system call, a fault or a return passes through the monitor. Ours runs on the bare machine and pays nothing "
	"of the kind, which is why its ratio is near 1.";
static const char why_fault[] =
	"A true page fault exits under VT-x and is delivered by the monitor. As translated code it is found on the way to "
	"memory and delivered at once; theirs takes a trap of the processor first.";
static const char why_pte[] =
	"Nothing in the instruction says that it writes a page table: it is an ordinary MOV, and translated as one. The "
	"trace on the page makes it exit. Host code changes nothing about that, so interpreted and translated take the "
	"same; theirs profits only where it has seen an instruction trap before and translates it anew, as a call.";
static const char why_pte_work[] =
	"Cycles of the write under VT-x to those that are left without exit, entry, dispatch and VMCS accesses: the "
	"emulation of the write, and the tables read and written to keep the shadow right. A translator pays them in "
	"any case, where a bare machine pays one cycle. The paper: VT to its translator's call.";

/*
 * Operations, by the guest's word: what is subtracted, how many are left then, and the paper's cycles natively, under
 * its translator, under VT-x. Of page-table writes one takes the entry away and one gives it back, and the page is
 * used in between; the paper's figures are the means of both.
 */
enum { LOOP, CR3_LOAD };
static const struct op {
	const char *word, *name;
	unsigned without, times;
	double native, translated, vt;
	const char *why;
} ops[] = {
	[LOOP] = {"none", NULL, LOOP, 1, LAB_NONE, LAB_NONE, LAB_NONE, NULL},
	[CR3_LOAD] = {"cr3load", "read, CR3 load", LOOP, 1, LAB_NONE, LAB_NONE, LAB_NONE, why_call},
	{"in", "in (port 0x80)", LOOP, 1, 3209, 216, 15826, why_call},
	{"cr8wr", "cr8wr", LOOP, 1, 150, 35, 177, why_call},
	{"cpuid", "cpuid", LOOP, 1, LAB_NONE, LAB_NONE, LAB_NONE, why_call},
	{"rdtsc", "rdtsc", LOOP, 1, LAB_NONE, LAB_NONE, LAB_NONE, why_nothing},
	{"clisti", "cli, sti", LOOP, 1, LAB_NONE, LAB_NONE, LAB_NONE, why_nothing},
	{"popf", "pushf, popf", LOOP, 1, LAB_NONE, LAB_NONE, LAB_NONE, why_nothing},
	{"syscall", "syscall, sysret", LOOP, 1, 242, 2308, 246, why_nothing},
	{"callret", "call, ret", LOOP, 1, 11, 51, 11, why_nothing},
	{"divzero", "divzero", LOOP, 1, 889, 3223, 1014, why_nothing},
	{"pgfault", "pgfault", LOOP, 1, 1093, 3927, 11242, why_fault},
	{"pteflush", "page-table write", CR3_LOAD, 2, (4 + 5) / 2.0, (17 + 2121) / 2.0, (9154 + 17020) / 2.0, why_pte},
};
#define OPS    ARRAY_SIZE(ops)
#define OP_PTE (OPS - 1)

static void make_task(struct lab_task *t, unsigned op, enum way way, const struct hw *hw, bool quick)
{
	lab_task_init(t, "nano", ways[way].mmu, hw);
	t->cfg.engine.shadow_sync_always = true;
	t->cfg.engine.no_vpid = true;
	t->cfg.engine.cpu.translate = ways[way].translate;
	t->turns = quick ? ways[way].turns / QUICK_DIVIDE : ways[way].turns;
	t->what = ops[op].word;
	snprintf(t->append, sizeof(t->append), "op=%s n=%llu", ops[op].word, (unsigned long long)t->turns);
}

/* ---- figures ---- */

/* Of an operation, without the loop around it. */
struct figures {
	double exits, native, cycles, door; /* door: exit, entry, dispatch, VMREAD and VMWRITE */
	double ns[WAYS];
};

static int compare_doubles(const void *x, const void *y)
{
	const double *a = x, *b = y;

	return *a < *b ? -1 : *a > *b;
}

/* Tasks stand by round, operation, way. */
static const struct lab_task *task_of(const struct lab_task *task, unsigned round, unsigned op, enum way way)
{
	return &task[(round * OPS + op) * WAYS + way];
}

/* The median over the rounds of an operation's time less, in the same round, that of what is around it. */
static double median_ns(const struct lab_task *task, unsigned rounds, unsigned op, enum way way)
{
	double v[ROUNDS];

	for (unsigned r = 0; r < rounds; r++)
		v[r] = task_of(task, r, op, way)->host_ns - task_of(task, r, ops[op].without, way)->host_ns;
	qsort(v, rounds, sizeof(v[0]), compare_doubles);
	return v[rounds / 2] / ops[op].times;
}

static double door_cycles(const struct lab_task *t)
{
	struct cost c;

	lab_cost(t, 0, &c);
	return lab_per_turn(t, c.exits + c.entries + c.dispatch + c.vmcs);
}

static double total_cycles(const struct lab_task *t)
{
	struct cost c;

	lab_cost(t, 0, &c);
	return lab_per_turn(t, c.total);
}

static double exits(const struct lab_task *t) { return lab_per_turn(t, lab_number(t->count[0].obs.exits.total)); }

static void read_figures(const struct lab_task *task, unsigned rounds, unsigned op, struct figures *f)
{
	unsigned base = ops[op].without, n = ops[op].times;
	const struct lab_task *vt = task_of(task, 0, op, SHADOW_HOST), *vt_base = task_of(task, 0, base, SHADOW_HOST);
	const struct lab_task *bare = task_of(task, 0, op, NATIVE_HOST), *bare_base = task_of(task, 0, base, NATIVE_HOST);

	f->exits = (exits(vt) - exits(vt_base)) / n;
	f->native = (total_cycles(bare) - total_cycles(bare_base)) / n;
	f->cycles = (total_cycles(vt) - total_cycles(vt_base)) / n;
	f->door = (door_cycles(vt) - door_cycles(vt_base)) / n;
	for (unsigned w = 0; w < WAYS; w++)
		f->ns[w] = median_ns(task, rounds, op, (enum way)w);
}

/* ---- the result ---- */

static void show(json_t *result, const struct figures f[OPS])
{
	json_t *cycles = lab_table(result, "cycles",
				   "Modelled cycles of an operation. VT-x (shadow, traced) is the door (exit, entry,\n"
				   "dispatch, VMCS accesses) and the work",
				   "exits|VT-x|door|work|bare machine|paper's VT|paper's BT|paper's native");
	json_t *host = lab_table(result, "host",
				 "Host nanoseconds of an operation, medians: not the same in two runs or on two hosts",
				 "bare, interpreted|bare, translated|VT-x, interpreted|VT-x, translated|exit to call");

	for (unsigned i = 1; i < OPS; i++) {
		const double *ns = f[i].ns;
		double c[8] = {f[i].exits, f[i].cycles, f[i].door, f[i].cycles - f[i].door, f[i].native,
			       ops[i].vt, ops[i].translated, ops[i].native};
		double h[5] = {ns[NATIVE_INTERP], ns[NATIVE_HOST], ns[SHADOW_INTERP], ns[SHADOW_HOST],
			       ns[NATIVE_HOST] > 0 ? ns[SHADOW_HOST] / ns[NATIVE_HOST] : LAB_NONE};

		lab_row(cycles, ops[i].name, ARRAY_SIZE(c), c);
		lab_row(host, ops[i].name, ARRAY_SIZE(h), h);
	}
}

static void compare(json_t *result, const struct figures f[OPS])
{
	const struct figures *pte = &f[OP_PTE];
	double work = pte->cycles - pte->door;

	for (unsigned i = 1; i < OPS; i++) {
		double ours = f[i].ns[NATIVE_HOST] > 0 ? f[i].ns[SHADOW_HOST] / f[i].ns[NATIVE_HOST] : LAB_NONE;
		char id[64], what[80];

		if (i == OP_PTE || isnan(ops[i].vt))
			continue;
		snprintf(id, sizeof(id), "%s.exit-to-call", ops[i].word);
		snprintf(what, sizeof(what), "%s: VT-x to translated", ops[i].name);
		lab_compare(result, &(struct lab_line){id, what, "times", ours, ops[i].vt / ops[i].translated, LAB_NONE,
						       ops[i].why});
	}
	lab_compare(result, &(struct lab_line){"pte.interp-to-host", "page-table write under VT-x: interpreted to translated",
					       "times", pte->ns[SHADOW_INTERP] / pte->ns[SHADOW_HOST], LAB_NONE, LAB_NONE,
					       why_pte});
	lab_compare(result, &(struct lab_line){"pte.vt", "page-table write: VT-x", "cycles", pte->cycles,
					       ops[OP_PTE].vt, LAB_NONE, why_pte_work});
	lab_compare(result, &(struct lab_line){"pte.work", "page-table write: what stays without the door", "cycles", work,
					       ops[OP_PTE].translated, LAB_NONE, why_pte_work});
	lab_compare(result, &(struct lab_line){"pte.vt-to-work", "page-table write: VT-x to the work alone", "times",
					       pte->cycles / work, ops[OP_PTE].vt / ops[OP_PTE].translated, LAB_NONE,
					       why_pte_work});
}

static int run(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	unsigned rounds = o->quick ? 1 : ROUNDS, tasks = rounds * (unsigned)OPS * WAYS;
	struct lab_task *task = calloc(tasks, sizeof(*task));
	struct lab_options one = *o;
	struct figures f[OPS];
	int ret;

	if (!task)
		return error_set(err, -ENOMEM, "out of memory");
	one.threads = 1; /* times are measured */
	for (unsigned i = 0; i < tasks; i++)
		make_task(&task[i], i / WAYS % OPS, (enum way)(i % WAYS), hw, o->quick);
	ret = lab_run_tasks(&one, task, tasks, err);
	if (ret == 0) {
		for (unsigned i = 0; i < OPS; i++)
			read_figures(task, rounds, i, &f[i]);
		show(result, f);
		compare(result, f);
		lab_note(result, "Modelled cycles are those of the hardware description, host nanoseconds those of this "
				 "program on this host: one is not the other in a different unit. A modelled exit and "
				 "entry take thousands of cycles; this program needs less than a microsecond for them.");
		lab_note(result, "Under VT-x transitions flush the TLB (their processor had no VPID), and every page table "
				 "is traced.");
	}
	free(task);
	return ret;
}

const struct lab lab_translation = {
	"translation", "a sensitive operation as a VM exit and as translated code",
	"Adams, Agesen: A Comparison of Software and Hardware Techniques for x86 Virtualization, ASPLOS 2006",
	"p4", false, false, run, false};
