/*
 * One hypervisor, and one in the other: Linux on the bare machine, under our hypervisor, under Debian's KVM, and under KVM
 * as a guest of ours. What is counted is the machine's: its processor's exits, all of which go to the outermost hypervisor,
 * and the walks of whoever runs.
 */
#include "arch/vmx.h"
#include "lab/lab_vm.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#define MIB          ((uint64_t)1 << 20)
#define INNER_MEMORY 96u  /* MiB, of the guest that works */
#define OUTER_MEMORY 512u /* of Linux with KVM around it */

static const char why_kit[] =
	"the lab 'nested' needs the guest with KVM: 'make guest-kvm' makes it; or give --kit DIR";

static const struct way {
	const char *label;
	enum engine_mmu mmu;
	const char *kvm; /* digits of kvm_intel's parameters ept, vpid, pml; NULL: no KVM */
	bool slow;
} ways[] = {
	{"bare machine", ENGINE_NATIVE, NULL, false},
	{"EPT", ENGINE_EPT, NULL, false},
	{"shadow", ENGINE_SHADOW, NULL, false},
	{"KVM, EPT", ENGINE_NATIVE, "111", false},
	{"KVM, shadow", ENGINE_NATIVE, "010", false},
	{"EPT on EPT", ENGINE_EPT, "111", false},
	{"shadow on EPT", ENGINE_EPT, "010", false},
	{"shadow on shadow", ENGINE_SHADOW, "010", true},
};

enum { FORK, GUPS, WORKS };
static const struct {
	const char *id, *name, *title, *begin; /* @begin: what the guest says before */
} works[WORKS] = {
	{"forkwait", "forkwait", "Processes that are forked, exit and are waited for", "GNOMON-INIT"},
	{"gups", "gups", "Updates at random places", "GNOMON-READY gups"},
};

/* ---- one guest ---- */

static int measure_work(struct vm *vm, unsigned w, struct lab_count *of, struct error *err)
{
	struct lab_count *begin = malloc(sizeof(*begin));
	char end[64];
	int ret = begin ? lab_run_to(vm, works[w].begin, err) : error_set(err, -ENOMEM, "out of memory");

	snprintf(end, sizeof(end), "GNOMON-WORK %s", works[w].name);
	if (ret == 0) {
		lab_count_look(vm, begin);
		ret = lab_run_to(vm, end, err);
	}
	if (ret == 0) {
		lab_count_look(vm, of);
		lab_count_subtract(of, begin);
	}
	free(begin);
	return ret;
}

static int measure(struct vm *vm, struct lab_task *t, struct error *err)
{
	const struct way *way = t->ctx;
	int ret = way->kvm ? lab_run_to(vm, "KVM-BEGIN", err) : 0; /* the outer Linux says GNOMON-INIT, too */

	for (unsigned w = 0; w < WORKS && ret == 0; w++)
		ret = measure_work(vm, w, &t->count[w], err);
	return ret ? ret : lab_run_to(vm, "GNOMON-DONE ok", err);
}

struct kit {
	char kernel[PATH_MAX], initrd[PATH_MAX], with_kvm[PATH_MAX];
};

static void init_task(struct lab_task *t, const struct way *way, const struct lab_options *o, const struct hw *hw,
		      const struct kit *kit)
{
	static const char linux_words[] = "console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work=";
	char work[64];

	snprintf(work, sizeof(work), "%s", o->quick ? "forkwait:20,gups:20000:4" : "forkwait:200,gups:500000:32");
	*t = (struct lab_task){.measure = measure, .what = way->label, .ctx = (void *)(uintptr_t)way};
	vm_config_default(&t->cfg);
	t->cfg.engine.mmu = way->mmu;
	t->cfg.engine.cpu.hw = *hw;
	t->cfg.engine.cpu.seed = 1;
	t->cfg.engine.cpu.feature[CPUF_VMX] = t->cfg.engine.cpu.feature[CPUF_VME] = way->kvm != NULL;
	t->cfg.engine.memory = (way->kvm ? OUTER_MEMORY : INNER_MEMORY) * MIB;
	t->cfg.kernel = kit->kernel;
	t->cfg.initrd = way->kvm ? kit->with_kvm : kit->initrd;
	if (way->kvm)
		snprintf(t->append, sizeof(t->append), "%skvm:%s:linux:%u kvm_append=\"%s%s\" kvm_options=\"--no-hash\"",
			 linux_words, way->kvm, INNER_MEMORY, linux_words, work);
	else
		snprintf(t->append, sizeof(t->append), "%s%s", linux_words, work);
}

/* ---- the result ---- */

/* Of an exit to KVM on the bare machine its own instructions are executed and counted: no figure stands for them. */
static double cycles_of(const struct lab_task *t, unsigned w)
{
	struct cost c;

	lab_cost_of(&t->cfg.engine.cpu.hw, &t->count[w], &c);
	return c.total - (t->cfg.engine.mmu == ENGINE_NATIVE ? c.dispatch : 0);
}

static void show_work(json_t *result, const struct lab_task *task, unsigned tasks, unsigned w)
{
	json_t *table = lab_table(result, works[w].id, works[w].title,
				  "Minstructions|exits|of L2|by L0|reflected|L1's VMX|walks|refs a walk|Mcycles|slowdown");

	for (unsigned i = 0; i < tasks; i++) {
		const struct obs *obs = &task[i].count[w].obs;
		double walks = lab_number(obs->translation.walks), cycles = cycles_of(&task[i], w);

		lab_row(table, task[i].what, 10,
			(double[10]){(double)task[i].count[w].insns / 1e6, lab_number(obs->exits.total),
				     lab_number(obs->levels.exits), lab_number(obs->levels.by_l0),
				     lab_number(obs->levels.reflected), lab_number(obs->levels.l1_vmx), walks,
				     lab_number(obs->translation.refs) / walks, cycles / 1e6, cycles / cycles_of(&task[0], w)});
	}
}

static double reflected(const struct lab_count *c, unsigned reason)
{
	return lab_number(c->obs.levels.reflected_by_reason[reason]);
}

static void show_reasons(json_t *result, const struct lab_task *task, unsigned tasks, unsigned w)
{
	char id[64], title[128];
	json_t *table;

	snprintf(id, sizeof(id), "%s.reflected", works[w].id);
	snprintf(title, sizeof(title), "%s: what L0 reflects to L1", works[w].title);
	table = lab_table(result, id, title, "EPT viol.|exception|CR, INVLPG|I/O, MMIO|MSR, CPUID|interrupt|timer, HLT|others");
	for (unsigned i = 0; i < tasks; i++) {
		const struct lab_count *c = &task[i].count[w];
		double v[8] = {reflected(c, EXIT_REASON_EPT_VIOLATION), reflected(c, EXIT_REASON_EXCEPTION_NMI),
			       reflected(c, EXIT_REASON_CR_ACCESS) + reflected(c, EXIT_REASON_INVLPG),
			       reflected(c, EXIT_REASON_IO) + reflected(c, EXIT_REASON_EPT_MISCONFIG),
			       reflected(c, EXIT_REASON_RDMSR) + reflected(c, EXIT_REASON_WRMSR) + reflected(c, EXIT_REASON_CPUID),
			       reflected(c, EXIT_REASON_EXTERNAL_INTERRUPT) + reflected(c, EXIT_REASON_INTERRUPT_WINDOW),
			       reflected(c, EXIT_REASON_PREEMPTION_TIMER) + reflected(c, EXIT_REASON_HLT), 0};

		if (!c->obs.levels.exits)
			continue;
		v[7] = lab_number(c->obs.levels.reflected);
		for (unsigned k = 0; k < 7; k++)
			v[7] -= v[k];
		lab_row(table, task[i].what, 8, v);
	}
}

static void show_tables(json_t *result, const struct lab_task *task, unsigned tasks)
{
	json_t *table = lab_table(result, "tables", "Tables that combine L1's EPT with L0's, in both works",
				  "entries made|L1's EPT walked|found changed|dropped whole");

	for (unsigned i = 0; i < tasks; i++) {
		const struct obs_levels *a = &task[i].count[FORK].obs.levels, *b = &task[i].count[GUPS].obs.levels;

		if (a->exits)
			lab_row(table, task[i].what, 4,
				(double[4]){lab_number(a->composed + b->composed), lab_number(a->ept12_walks + b->ept12_walks),
					    lab_number(a->dropped_entries + b->dropped_entries), lab_number(a->dropped + b->dropped)});
	}
}

/* How many exits of the machine one exit of L2's becomes that L1 handles. */
static void compare(json_t *result, const struct lab_task *task, unsigned tasks, unsigned w)
{
	static const char why[] = "To handle an exit KVM reads and writes its VMCS; each VMREAD, VMWRITE and VMRESUME of a guest "
				  "hypervisor exits itself.";

	for (unsigned i = 0; i < tasks; i++) {
		const struct obs *obs = &task[i].count[w].obs;
		const struct way *way = task[i].ctx;
		char id[64], what[96];

		if (!obs->levels.reflected)
			continue;
		snprintf(id, sizeof(id), "%s.%s.%s", works[w].id, engine_mmu_name[way->mmu], way->kvm);
		snprintf(what, sizeof(what), "%s, %s: exits for each that L1 handles", works[w].name, way->label);
		lab_compare(result, &(struct lab_line){id, what, "exits",
						       lab_number(obs->exits.total) / lab_number(obs->levels.reflected), LAB_NONE,
						       LAB_NONE, why});
	}
}

static void show(json_t *result, const struct lab_task *task, unsigned tasks)
{
	for (unsigned w = 0; w < WORKS; w++) {
		show_work(result, task, tasks, w);
		show_reasons(result, task, tasks, w);
	}
	show_tables(result, task, tasks);
	for (unsigned w = 0; w < WORKS; w++)
		compare(result, task, tasks, w);
	lab_note(result, "EPT, shadow: our hypervisor alone. KVM: Debian's, on the bare machine. A on B: KVM with A (L1), a guest of our "
			 "hypervisor with B (L0). The guest that works (L2, or L1 where there is one hypervisor) has 96 MiB in all rows.");
	lab_note(result, "exits: of the processor, all to the outermost hypervisor. of L2: from the inner guest; by L0: after which it went "
			 "on, without L1; reflected: handed to L1. L1's VMX: exits of L1's own VMX instructions, most of them VMREADs and "
			 "VMWRITEs.");
	lab_note(result, "Instructions are the machine's: KVM's own count, our hypervisor's do not (its work is priced by the cost model).");
}

/* ---- the lab ---- */

static int find_kit(const struct lab_options *o, struct kit *kit, struct error *err)
{
	const char *dir = o->kit ? o->kit : "";

	snprintf(kit->kernel, sizeof(kit->kernel), "%s/vmlinux-cloud", dir);
	snprintf(kit->initrd, sizeof(kit->initrd), "%s/initramfs.cpio", dir);
	snprintf(kit->with_kvm, sizeof(kit->with_kvm), "%s/initramfs-kvm.cpio", dir);
	if (!o->kit || access(kit->kernel, R_OK) || access(kit->initrd, R_OK) || access(kit->with_kvm, R_OK))
		return error_set(err, -ENOENT, "%s", why_kit);
	return 0;
}

static int run(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	struct lab_task *task = calloc(ARRAY_SIZE(ways), sizeof(*task));
	struct kit kit;
	unsigned tasks = 0;
	int ret = task ? find_kit(o, &kit, err) : error_set(err, -ENOMEM, "out of memory");

	for (unsigned i = 0; i < ARRAY_SIZE(ways) && ret == 0; i++)
		if (!o->quick || !ways[i].slow)
			init_task(&task[tasks++], &ways[i], o, hw, &kit);
	if (ret == 0)
		ret = lab_run_tasks(o, task, tasks, err);
	if (ret == 0)
		show(result, task, tasks);
	free(task);
	return ret;
}

const struct lab lab_nested = {"nested", "one hypervisor and one in the other: EPT on EPT, shadow on EPT, shadow on shadow",
			       NULL, "skylake", false, false, run, false};
