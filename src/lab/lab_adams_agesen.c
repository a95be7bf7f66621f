/*
 * Adams and Agesen (ASPLOS 2006): what single operations cost natively and under a
 * hypervisor, and what forking processes does. Their hardware-assisted monitor is
 * VT-x with shadow paging on a processor without VPID; so is ours here. Left out:
 * their other monitor, a binary translator: for that see lab_translation.c.
 */
#include "lab/lab_vm.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>

#define MIB ((uint64_t)1 << 20)

/* Ways to run a guest; columns of the tables. */
enum way { NATIVE, TRACED, LAZY, BRUTE, EPT, WAYS };
static const struct { const char *name; enum engine_mmu mmu; bool sync_always; } ways[WAYS] = {
	[NATIVE] = {"native", ENGINE_NATIVE, false},
	[TRACED] = {"shadow, traced", ENGINE_SHADOW, true},
	[LAZY] = {"shadow, lazy", ENGINE_SHADOW, false},
	[BRUTE] = {"brute", ENGINE_BRUTE, false},
	[EPT] = {"ept", ENGINE_EPT, false},
};

/* Figures of an operation: exits and cycles, each way. */
struct figures {
	double exits[WAYS], cycles[WAYS];
};

static const char why_instruction[] =
	"The account charges every instruction alike, and no exit occurs: the figure says only that VT-x "
	"leaves the operation alone. What the instruction itself takes in the pipeline is not modelled.";
static const char why_cr8[] =
	"Our hypervisor intercepts CR8; theirs lets the processor keep the task priority (a TPR shadow, "
	"which our hypervisor does not use), and hardly pays. This is a difference of the two monitors.";
static const char why_in[] =
	"Natively the paper's IN waits for a device on a slow bus, which is no part of the account. Under "
	"VT-x ours is exit, entry, the VMREADs and VMWRITEs that our hypervisor makes and a flat dispatch; "
	"theirs has the device's emulation, too, in a process of the host system.";
static const char why_fault[] =
	"Natively this is the description's flat cost of delivering any event, an assumed round figure. Under "
	"VT-x the fault exits, the guest's tables are searched and the event is injected; the rest of their "
	"monitor's software is not in the account.";
static const char why_divide[] =
	"Natively this is the description's flat cost of delivering any event, an assumed round figure: the "
	"finding is that VT-x adds nothing, because nothing exits.";
static const char why_trace[] =
	"The page table is traced: a write faults, is emulated, and the shadow follows, one exit as with "
	"theirs. Ours has a general emulator that asks for the guest's whole state, a VMREAD for each field "
	"(the table above has the sum); how theirs differs by the value written is not in the paper.";
static const char why_fork[] =
	"Exits per fork are what our shadow paging needs for Debian's kernel of today, with 64-bit tables of "
	"four levels; theirs ran a 32-bit kernel of 2006. Per process their VT adds 9.5 million cycles: at "
	"what one of their exits costs in the nanobenchmarks, some 800 exits, where ours needs tens.";
static const char why_fork_native[] =
	"The paper's seconds for 40,000 processes at 3.8 GHz. Ours counts an instruction as one cycle, and "
	"no cache misses of data; kernels and programs differ, too.";
static const char why_kit[] =
	"Not run: it needs the guest kit (a Debian kernel and an initramfs). 'make guest' makes it; or give "
	"--kit DIR.";

/* The operations: ours, and the paper's cycles natively, under its translator, and under VT-x. */
static const struct op {
	const char *id, *name;
	double native, translated, vt;
	const char *why;
} ops[] = {
	{"syscall", "syscall", 242, 2308, 246, why_instruction},
	{"in", "in (port 0x80)", 3209, 216, 15826, why_in},
	{"cr8wr", "cr8wr", 150, 35, 177, why_cr8},
	{"callret", "call/ret", 11, 51, 11, why_instruction},
	{"pgfault", "pgfault", 1093, 3927, 11242, why_fault},
	{"divzero", "divzero", 889, 3223, 1014, why_divide},
	{"ptemod-unchanged", "ptemod, unchanged", 1, 391, 12733, why_trace},
	{"ptemod-p-np", "ptemod, P to NP", 4, 17, 9154, why_trace},
	{"ptemod-np-p", "ptemod, NP to P", 5, 2121, 17020, why_trace},
	/* Ours only. */
	{"pteunchanged-loop", "unchanged, never used", LAB_NONE, LAB_NONE, LAB_NONE, NULL},
	{"pteflush", "P to NP to P, used, CR3 load", LAB_NONE, LAB_NONE, LAB_NONE, NULL},
};
#define OPS ARRAY_SIZE(ops)
enum { OP_UNCHANGED = 6, OP_P_NP = 7, OP_NP_P = 8 };

/* ---- the nanobenchmarks ---- */

/* Loops of the guest, by the word that chooses them; the three of ptemod are parts of one. */
static const struct { const char *word; int op; } loops[] = {
	{"none", -1}, {"syscall", 0}, {"in", 1}, {"cr8wr", 2}, {"callret", 3}, {"pgfault", 4}, {"divzero", 5},
	{"pteunchanged", 9}, {"pteflush", 10}, {"marked", -1},
};
#define LOOPS  ARRAY_SIZE(loops)
#define MARKED (LOOPS - 1)

/* Phases of the marked loop, each begun by a letter. */
enum phase { PHASE_NOTHING, PHASE_P_NP, PHASE_NP_P, PHASE_USE, PHASE_UNCHANGED, PHASES };

/* Counts from letter to letter, turn after turn. */
static int measure_marked(struct vm *vm, struct lab_task *t, struct error *err)
{
	static const char letter[PHASES][2] = {"b", "c", "d", "e", "f"};
	struct lab_count before, now;
	int ret = lab_run_to(vm, "LAB-0\n", err);

	for (uint64_t turn = 0; turn < t->turns && ret == 0; turn++) {
		ret = lab_run_to(vm, "a", err);
		lab_count_look(vm, &before);
		for (unsigned i = 0; i < PHASES && ret == 0; i++) {
			ret = lab_run_to(vm, letter[i], err);
			lab_count_look(vm, &now);
			lab_count_add(&t->count[i], &now);
			lab_count_subtract(&t->count[i], &before);
			before = now;
		}
	}
	return ret;
}

static void make_loop(struct lab_task *t, unsigned loop, enum way way, const struct hw *hw, bool quick)
{
	lab_task_init(t, "nano", ways[way].mmu, hw);
	t->cfg.engine.shadow_sync_always = ways[way].sync_always;
	t->cfg.engine.no_vpid = true;
	t->turns = loop == MARKED ? (quick ? 10 : 100) : (quick ? 100 : 2000);
	t->what = loops[loop].word;
	if (loop == MARKED)
		t->measure = measure_marked;
	snprintf(t->append, sizeof(t->append), "op=%s n=%llu", loops[loop].word,
		 (unsigned long long)t->turns);
}

/* Count @i of @t less count @k of @base, per turn. */
static void per_turn(const struct lab_task *t, unsigned i, const struct lab_task *base, unsigned k,
		     double *exits, double *cycles)
{
	struct cost cost, without;

	lab_cost(t, i, &cost);
	lab_cost(base, k, &without);
	*exits = lab_per_turn(t, lab_number(t->count[i].obs.exits.total)) -
		 lab_per_turn(base, lab_number(base->count[k].obs.exits.total));
	*cycles = lab_per_turn(t, cost.total) - lab_per_turn(base, without.total);
}

static void read_nano(const struct lab_task *task, struct figures figures[OPS])
{
	static const struct { enum phase phase; int op; } phases[] = {
		{PHASE_P_NP, OP_P_NP}, {PHASE_NP_P, OP_NP_P}, {PHASE_UNCHANGED, OP_UNCHANGED}};

	for (unsigned w = 0; w < WAYS; w++) {
		const struct lab_task *of = task + w * LOOPS, *marked = &of[MARKED];

		for (unsigned l = 0; l < LOOPS; l++)
			if (loops[l].op >= 0)
				per_turn(&of[l], 0, &of[0], 0, &figures[loops[l].op].exits[w],
					 &figures[loops[l].op].cycles[w]);
		for (unsigned i = 0; i < ARRAY_SIZE(phases); i++)
			per_turn(marked, phases[i].phase, marked, PHASE_NOTHING,
				 &figures[phases[i].op].exits[w], &figures[phases[i].op].cycles[w]);
	}
}

static void show_nano(json_t *result, const struct figures figures[OPS])
{
	json_t *exits = lab_table(result, "exits", "Exits per operation",
				  "native|shadow, traced|shadow, lazy|brute|ept");
	json_t *cycles = lab_table(result, "cycles",
				   "Modelled cycles per operation (last column: the paper's translator, for reference)",
				   "native|shadow, traced|shadow, lazy|brute|ept|paper's BT");

	lab_table_unit(exits, "exits");
	lab_table_unit(cycles, "modelled cycles");
	for (unsigned i = 0; i < OPS; i++) {
		double c[WAYS + 1];

		memcpy(c, figures[i].cycles, sizeof(figures[i].cycles));
		c[WAYS] = ops[i].translated;
		lab_row(exits, ops[i].name, WAYS, figures[i].exits);
		lab_row(cycles, ops[i].name, WAYS + 1, c);
	}
}

/* Where the cycles of shadow paging with traces go. */
static void show_parts(json_t *result, const struct lab_task *task)
{
	json_t *table = lab_table(result, "parts",
				  "Shadow, traced: cycles of a turn by what they are for, and VMCS accesses",
				  "exit, entry|dispatch|VMCS|emulation|tables|walks|events|instructions|"
				  "VMREADs|VMWRITEs");

	for (unsigned l = 0; l < LOOPS; l++) {
		const struct lab_task *t = task + TRACED * LOOPS + l;
		const struct obs *o = &t->count[0].obs;
		struct cost c;
		double v[10];

		if (l == MARKED)
			continue;
		lab_cost(t, 0, &c);
		v[0] = lab_per_turn(t, c.exits + c.entries);
		v[1] = lab_per_turn(t, c.dispatch);
		v[2] = lab_per_turn(t, c.vmcs);
		v[3] = lab_per_turn(t, c.emulation);
		v[4] = lab_per_turn(t, c.tables);
		v[5] = lab_per_turn(t, c.translation);
		v[6] = lab_per_turn(t, c.events);
		v[7] = lab_per_turn(t, c.instructions);
		v[8] = lab_per_turn(t, lab_number(o->hypervisor.vmreads));
		v[9] = lab_per_turn(t, lab_number(o->hypervisor.vmwrites));
		lab_row(table, loops[l].word, 10, v);
	}
}

static int run_nano(const struct lab_options *o, const struct hw *hw, struct figures figures[OPS],
		    json_t *result, struct error *err)
{
	struct lab_task *task = calloc(WAYS * LOOPS, sizeof(*task));
	int ret;

	if (!task)
		return error_set(err, -ENOMEM, "out of memory");
	for (unsigned w = 0; w < WAYS; w++)
		for (unsigned l = 0; l < LOOPS; l++)
			make_loop(&task[w * LOOPS + l], l, (enum way)w, hw, o->quick);
	ret = lab_run_tasks(o, task, WAYS * LOOPS, err);
	if (ret == 0) {
		read_nano(task, figures);
		show_nano(result, (const struct figures *)figures);
		show_parts(result, task);
	}
	free(task);
	return ret;
}

static void compare_op(json_t *result, const struct op *op, const struct figures *f)
{
	const struct { const char *suffix, *text; double ours, paper; } line[] = {
		{"native", "native", f->cycles[NATIVE], op->native},
		{"vt", "VT", f->cycles[TRACED], op->vt},
		{"vt-adds", "VT adds", f->cycles[TRACED] - f->cycles[NATIVE], op->vt - op->native},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(line); i++) {
		char id[64], what[64];

		snprintf(id, sizeof(id), "%s.%s", op->id, line[i].suffix);
		snprintf(what, sizeof(what), "%s: %s", op->name, line[i].text);
		lab_compare(result, &(struct lab_line){id, what, "cycles", line[i].ours, line[i].paper,
						       LAB_NONE, op->why});
	}
}

/* ---- forkwait ---- */

/* What a process cost, each way; LAB_NONE: not run. */
struct forks {
	double cycles[WAYS];
};

struct forkwait {
	const char *kit;
	uint64_t forks;
	char kernel[512], initrd[512];
};

/* Three works: as many forks to warm up, as many again, and twice as many. */
static int measure_forks(struct vm *vm, struct lab_task *t, struct error *err)
{
	struct lab_count *at = calloc(3, sizeof(*at));
	int ret = at ? 0 : error_set(err, -ENOMEM, "out of memory");

	for (unsigned i = 0; i < 3 && ret == 0; i++) {
		ret = lab_run_to(vm, "GNOMON-WORK forkwait", err);
		if (ret == 0)
			lab_count_look(vm, &at[i]);
	}
	if (ret == 0) {
		lab_count_subtract(&at[2], &at[1]);
		lab_count_subtract(&at[1], &at[0]);
		lab_count_subtract(&at[2], &at[1]);
		t->count[0] = at[2];
	}
	free(at);
	return ret;
}

static int make_forks(struct lab_task *t, const struct forkwait *f, enum way way, const struct hw *hw,
		      struct error *err)
{
	lab_task_init(t, "nano", ways[way].mmu, hw);
	t->cfg.kernel_image = NULL;
	t->cfg.kernel = f->kernel;
	t->cfg.initrd = f->initrd;
	t->cfg.engine.memory = 256 * MIB;
	t->cfg.engine.shadow_sync_always = ways[way].sync_always;
	t->cfg.engine.no_vpid = true;
	t->measure = measure_forks;
	t->what = "forkwait";
	t->turns = f->forks;
	snprintf(t->append, sizeof(t->append),
		 "console=ttyS0 panic=-1 quiet cryptomgr.notests "
		 "gnomon.work=forkwait:%llu,forkwait:%llu,forkwait:%llu",
		 (unsigned long long)f->forks, (unsigned long long)f->forks, (unsigned long long)f->forks * 2);
	return cpu_config_parse(&t->cfg.engine.cpu, "-pcid,-invpcid", err);
}

static bool is_file(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static bool find_kit(struct forkwait *f, const char *kit)
{
	if (!kit)
		return false;
	snprintf(f->kernel, sizeof(f->kernel), "%s/vmlinux-cloud", kit);
	snprintf(f->initrd, sizeof(f->initrd), "%s/initramfs.cpio", kit);
	return is_file(f->kernel) && is_file(f->initrd);
}

static void show_forks(json_t *result, const struct lab_task *task, unsigned n, const enum way *way,
		       struct forks *f)
{
	json_t *table = lab_table(result, "forkwait", "Forking and waiting under Debian, per process",
				  "instructions|exits|page walks|cycles|slowdown");
	for (unsigned i = 0; i < n; i++) {
		const struct lab_count *c = &task[i].count[0];
		struct cost cost;
		double v[5];

		lab_cost(&task[i], 0, &cost);
		f->cycles[way[i]] = lab_per_turn(&task[i], cost.total);
		v[0] = lab_per_turn(&task[i], lab_number(c->insns));
		v[1] = lab_per_turn(&task[i], lab_number(c->obs.exits.total));
		v[2] = lab_per_turn(&task[i], lab_number(c->obs.translation.walks));
		v[3] = f->cycles[way[i]];
		v[4] = v[3] / f->cycles[way[0]]; /* native */
		lab_row(table, ways[way[i]].name, 5, v);
	}
}

static int run_forks(const struct lab_options *o, const struct hw *hw, json_t *result, struct forks *f,
		     struct error *err)
{
	static const enum way full[] = {NATIVE, TRACED, LAZY, BRUTE, EPT}; /* quick: the first three */
	struct forkwait w = {.forks = o->quick ? 10 : 200};
	unsigned n = o->quick ? 3 : ARRAY_SIZE(full);
	struct lab_task *task;
	int ret = 0;

	if (!find_kit(&w, o->kit))
		return 0;
	task = calloc(n, sizeof(*task));
	if (!task)
		return error_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < n && ret == 0; i++)
		ret = make_forks(&task[i], &w, full[i], hw, err);
	if (ret == 0)
		ret = lab_run_tasks(o, task, n, err);
	if (ret == 0)
		show_forks(result, task, n, full, f);
	free(task);
	return ret;
}

static void compare_forks(json_t *result, const struct forks *f)
{
	const double *c = f->cycles;
	/* Cycles of a process: seconds of the paper's P4, for 40,000 of them at 3.8 GHz. */
	const double native = 6.02 / 40000 * 3.8e9, vt = 106.4 / 40000 * 3.8e9;
	const struct { const char *id, *what, *unit; double ours, paper; const char *why; } line[] = {
		{"forkwait.native", "forkwait: native, a process", "cycles", c[NATIVE], native,
		 why_fork_native},
		{"forkwait.vt-adds", "forkwait: VT adds, a process", "cycles", c[TRACED] - c[NATIVE],
		 vt - native, why_fork},
		{"forkwait.p4", "forkwait: VT to native, their P4", "times", c[TRACED] / c[NATIVE], 17.7,
		 why_fork},
		{"forkwait.core", "forkwait: VT to native, their Core", "times", c[TRACED] / c[NATIVE], 14.8,
		 why_fork},
		{"forkwait.lazy", "forkwait: the same, ours out of sync", "times", c[LAZY] / c[NATIVE], 17.7,
		 why_fork},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(line); i++)
		lab_compare(result, &(struct lab_line){line[i].id, line[i].what, line[i].unit, line[i].ours,
						       line[i].paper,
						       LAB_NONE, isnan(line[i].ours) ? why_kit : line[i].why});
}

/* ---- the lab ---- */

static int run(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	struct figures *figures = calloc(OPS, sizeof(*figures));
	struct forks forks;
	int ret;

	for (unsigned i = 0; i < WAYS; i++)
		forks.cycles[i] = LAB_NONE;
	if (!figures)
		return error_set(err, -ENOMEM, "out of memory");
	ret = run_nano(o, hw, figures, result, err);
	if (ret == 0)
		ret = run_forks(o, hw, result, &forks, err);
	for (unsigned i = 0; i < OPS && ret == 0; i++)
		if (ops[i].why)
			compare_op(result, &ops[i], &figures[i]);
	if (ret == 0)
		compare_forks(result, &forks);
	lab_note(result, "Transitions flush the TLB (their processor had no VPID). Their second monitor, a "
			 "binary translator, is in the lab translation: its column is printed for reference "
			 "only.");
	lab_note(result, "'traced' keeps every page table in step with each write, as their monitor did; "
			 "'lazy' is our default and lets leaf tables go out of sync until the guest flushes: "
			 "a loop that never does pays nothing.");
	lab_note(result, "In the three ptemod rows the guest puts a letter out between steps, which exits: "
			 "the cycles that ept and lazy show there are the walk of the table's page, whose "
			 "translation that exit has flushed.");
	free(figures);
	return ret;
}

const struct lab lab_adams_agesen = {
	"adams-agesen", "nanobenchmarks and forkwait, natively and under VT-x with shadow paging",
	"Adams, Agesen: A Comparison of Software and Hardware Techniques for x86 Virtualization, ASPLOS 2006",
	"p4", false, false, run, false};
