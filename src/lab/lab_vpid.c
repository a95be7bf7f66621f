/*
 * What tags are good for: two VMs that take turns on one processor, with VPIDs and
 * without; and inside one guest two address spaces that take turns, with PCIDs and
 * without. No publication gives figures for such a pair that would be ours to check.
 */
#include "lab/lab_vm.h"

#include <errno.h>
#include <stdlib.h>

#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

static const char why_vpid[] =
	"No published figure that compares: the columns say what this pair of guests pays. With tags a guest "
	"finds its translations as it left them, as far as the two of them fit; without, every turn begins "
	"with an empty TLB.";
static const char why_pcid[] =
	"No published figure that compares. Without identifiers a load of CR3 drops all translations that "
	"are not global; with them, and bit 63 set, none.";

/* ---- two VMs ---- */

enum { VMS = 2 };
/* How the two share the processor. */
enum way { ALONE, TAGS, NO_TAGS, WAYS };
static const char *const way_name[WAYS] = {"one VM alone", "two VMs, tags", "two VMs, no tags"};
static const uint64_t slices[] = {10000, 100000, 1000000};
static const char *const slice_name[] = {"10k", "100k", "1M"};
#define SLICES ARRAY_SIZE(slices)

struct pair {
	struct engine_machine *machine;
	struct lab_task task[VMS];
	struct vm *vm[VMS];
	unsigned vms;
};

static void pair_destroy(struct pair *p)
{
	for (unsigned i = 0; i < p->vms; i++)
		vm_destroy(p->vm[i]);
	engine_machine_destroy(p->machine);
	free(p);
}

/* Two guests that read 2 MiB each at random, for ever: most second-level TLBs hold both. */
static int pair_create(struct pair **out, enum engine_mmu mmu, bool no_vpid, const struct hw *hw,
		       struct error *err)
{
	struct pair *p = calloc(1, sizeof(*p));
	struct engine_config cfg[VMS];
	int ret;

	if (!p)
		return error_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < VMS; i++) {
		lab_task_init(&p->task[i], "chase", mmu, hw);
		p->task[i].cfg.engine.memory = GIB + 64 * MIB;
		p->task[i].cfg.engine.no_vpid = no_vpid;
		p->task[i].cfg.append = "n=0 kib=2048";
		cfg[i] = p->task[i].cfg.engine;
	}
	ret = engine_machine_create(&p->machine, cfg, VMS, err);
	while (ret == 0 && p->vms < VMS) {
		ret = vm_create_on(&p->vm[p->vms], &p->task[p->vms].cfg, p->machine, err);
		p->vms += ret == 0;
	}
	if (ret)
		pair_destroy(p);
	else
		*out = p;
	return ret;
}

/* Every VM's turn once. */
static int run_turns(struct pair *p, unsigned vms, uint64_t slice, uint64_t turns, struct error *err)
{
	for (uint64_t t = 0; t < turns * vms; t++) {
		struct vm *vm = p->vm[t % vms];
		struct vm_stop stop = VM_STOP_NONE;

		stop.insns = vm_insns(vm) + slice;
		if (vm_run_until(vm, &stop) != VM_STOPPED_INSNS)
			return error_set(err, -EIO, "a guest ended in its turn");
	}
	return 0;
}

/* Runs @turns of each, all in a steady state, and leaves what a turn cost in task[0].count[0] and turns. */
static int measure(struct pair *p, unsigned vms, uint64_t slice, uint64_t turns, struct error *err)
{
	struct lab_count *all = &p->task[0].count[0], now;
	int ret = run_turns(p, vms, slice, max_u64(4, 400000 / slice), err); /* to warm up */

	*all = (struct lab_count){.insns = 0};
	for (unsigned i = 0; i < vms; i++) {
		lab_count_look(p->vm[i], &now);
		lab_count_subtract(all, &now);
	}
	if (ret == 0)
		ret = run_turns(p, vms, slice, turns, err);
	for (unsigned i = 0; i < vms; i++) {
		lab_count_look(p->vm[i], &now);
		lab_count_add(all, &now);
	}
	p->task[0].turns = turns * vms;
	return ret;
}

/* Misses of the last TLB level (walks), references, exits, cycles in translation and in all, per slice. */
enum { COLUMNS = 5 };
static void read_slice(const struct lab_task *t, double v[COLUMNS])
{
	const struct obs *o = &t->count[0].obs;
	struct cost c;

	lab_cost(t, 0, &c);
	v[0] = lab_per_turn(t, lab_number(o->translation.walks));
	v[1] = lab_per_turn(t, lab_number(o->translation.refs));
	v[2] = lab_per_turn(t, lab_number(o->exits.total));
	v[3] = lab_per_turn(t, c.translation);
	v[4] = lab_per_turn(t, c.total);
}

static int run_way(const struct lab_options *o, const struct hw *hw, enum engine_mmu mmu, enum way way,
		   double v[SLICES][COLUMNS], struct error *err)
{
	unsigned vms = way == ALONE ? 1 : VMS;
	struct pair *p = NULL;
	int ret = pair_create(&p, mmu, way == NO_TAGS, hw, err);

	if (ret)
		return ret;
	for (unsigned i = 0; i < VMS && ret == 0; i++)
		ret = lab_run_to(p->vm[i], "LAB-0\n", err);
	for (unsigned s = 0; s < SLICES && ret == 0; s++) {
		ret = measure(p, vms, slices[s], o->quick ? 4 : 40, err);
		read_slice(&p->task[0], v[s]);
	}
	pair_destroy(p);
	return ret;
}

static void show_pair(json_t *result, enum engine_mmu mmu, double v[WAYS][SLICES][COLUMNS])
{
	char id[32], title[96], label[64];
	json_t *table;

	snprintf(id, sizeof(id), "vpid-%s", engine_mmu_name[mmu]);
	snprintf(title, sizeof(title), "%s: per slice", engine_mmu_name[mmu]);
	table = lab_table(result, id, title, "TLB misses|references|exits|translation cycles|cycles");
	for (unsigned s = 0; s < SLICES; s++)
		for (unsigned w = 0; w < WAYS; w++) {
			snprintf(label, sizeof(label), "%s instructions, %s", slice_name[s], way_name[w]);
			lab_row(table, label, COLUMNS, v[w][s]);
		}
}

static void compare_pair(json_t *result, enum engine_mmu mmu, double v[WAYS][SLICES][COLUMNS])
{
	for (unsigned s = 0; s < SLICES; s++) {
		char id[48], what[96];

		snprintf(id, sizeof(id), "vpid.%s.misses.%s", engine_mmu_name[mmu], slice_name[s]);
		snprintf(what, sizeof(what), "%s, %s: misses a slice that tags save", engine_mmu_name[mmu],
			 slice_name[s]);
		lab_compare(result, &(struct lab_line){id, what, "misses", v[NO_TAGS][s][0] - v[TAGS][s][0],
						       LAB_NONE, LAB_NONE, why_vpid});
		snprintf(id, sizeof(id), "vpid.%s.slowdown.%s", engine_mmu_name[mmu], slice_name[s]);
		snprintf(what, sizeof(what), "%s, %s: cycles without tags, to those with",
			 engine_mmu_name[mmu], slice_name[s]);
		lab_compare(result, &(struct lab_line){id, what, "times", v[NO_TAGS][s][4] / v[TAGS][s][4],
						       LAB_NONE, LAB_NONE, why_vpid});
	}
}

static int run_pairs(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	static const enum engine_mmu mmus[] = {ENGINE_EPT, ENGINE_SHADOW};
	double v[ARRAY_SIZE(mmus)][WAYS][SLICES][COLUMNS];
	int ret = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(mmus) * WAYS && ret == 0; i++) {
		ret = run_way(o, hw, mmus[i / WAYS], (enum way)(i % WAYS), v[i / WAYS][i % WAYS], err);
		if (o->progress)
			o->progress(o->ctx, way_name[i % WAYS], i + 1, ARRAY_SIZE(mmus) * WAYS);
	}
	for (unsigned m = 0; m < ARRAY_SIZE(mmus) && ret == 0; m++) {
		show_pair(result, mmus[m], v[m]);
		compare_pair(result, mmus[m], v[m]);
	}
	return ret;
}

/* ---- two address spaces ---- */

static const enum engine_mmu pcid_mmus[] = {ENGINE_NATIVE, ENGINE_SHADOW, ENGINE_EPT};
#define PCID_READS 500 /* from one load of CR3 to the next */

static void make_switching(struct lab_task *t, enum engine_mmu mmu, bool pcid, const struct hw *hw,
			   bool quick)
{
	lab_task_init(t, "chase", mmu, hw);
	t->cfg.engine.memory = GIB + 64 * MIB;
	t->turns = (quick ? 20 : 200) * PCID_READS;
	snprintf(t->append, sizeof(t->append), "kib=2048 switch=%d pcid=%d n=%llu", PCID_READS, pcid,
		 (unsigned long long)t->turns);
	t->turns /= PCID_READS; /* a turn is from switch to switch */
}

static void show_switching(json_t *result, const struct lab_task *t)
{
	json_t *table = lab_table(result, "pcid",
				  "Two address spaces in one guest, 500 reads each in turn: per load of CR3",
				  "TLB misses|references|exits|translation cycles|cycles");

	for (unsigned i = 0; i < 2 * ARRAY_SIZE(pcid_mmus); i++) {
		const char *mmu = engine_mmu_name[pcid_mmus[i / 2]];
		double v[COLUMNS], without[COLUMNS];
		char text[64], id[48];

		read_slice(&t[i], v);
		snprintf(text, sizeof(text), "%s, %s", mmu, i % 2 ? "PCIDs" : "no PCIDs");
		lab_row(table, text, COLUMNS, v);
		if (i % 2 == 0)
			continue;
		read_slice(&t[i - 1], without);
		snprintf(id, sizeof(id), "pcid.%s.misses", mmu);
		snprintf(text, sizeof(text), "%s: misses a CR3 load that PCIDs save", mmu);
		lab_compare(result, &(struct lab_line){id, text, "misses", without[0] - v[0], LAB_NONE,
						       LAB_NONE, why_pcid});
	}
}

static int run_switching(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	struct lab_task *t = calloc(2 * ARRAY_SIZE(pcid_mmus), sizeof(*t));
	int ret;

	if (!t)
		return error_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(pcid_mmus); i++)
		make_switching(&t[i], pcid_mmus[i / 2], i % 2, hw, o->quick);
	ret = lab_run_tasks(o, t, 2 * ARRAY_SIZE(pcid_mmus), err);
	if (ret == 0)
		show_switching(result, t);
	free(t);
	return ret;
}

static int run(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	int ret = run_pairs(o, hw, result, err);

	if (ret == 0)
		ret = run_switching(o, hw, result, err);
	lab_note(result, "There is no paper's column: the literature at hand has no figures for two VMs with "
			 "and without tags. The cost of a flush beyond the misses it causes is not in the "
			 "account.");
	return ret;
}

const struct lab lab_vpid = {"vpid", "two VMs, or two address spaces, taking turns: with tags and without",
			     NULL, "skylake", false, false, run, false};
