/*
 * What it takes to ask a device for something: 64 bytes by ports, by device memory, through a virtqueue one at a time,
 * in batches, and with notifications that the device does not want left out. Counted are VM exits and, for the ring's
 * memory, cache lines that go from one party to the other: the guest's processor and the device. Every access of both
 * to the ring is seen where it happens (engine_watch_page()); each line has a set of those who have a copy. Who reads
 * without a copy gets the line from the other; who writes takes the copy from the other. That is how caches of two
 * processors keep coherent, without sizes: a line never leaves for want of room.
 *
 * Left out: lines of the data itself (the bytes have to get there in any way of asking) and what a line's way costs;
 * interrupts: the guest looks at the ring for answers.
 */
#include "arch/vmx.h"
#include "lab/lab_vm.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define RING       ((uint64_t)32 << 20) /* where the guest (guest/lab/rings.c) has it, within a page */
#define LINE_BYTES 64u
#define LINES      (PAGE_SIZE / LINE_BYTES)
#define TURNS      1600u /* all counts are of multiples of 16, the length of a batch */
#define QUICK      160u

static const enum engine_mmu mmus[] = {ENGINE_NATIVE, ENGINE_SHADOW, ENGINE_EPT};
enum { NATIVE, SHADOW, EPT, MMUS };
static_assert(ARRAY_SIZE(mmus) == MMUS, "an index for each scheme");
enum { APART, SHARED, LAYOUTS };
static const char *const layout_name[LAYOUTS] = {"apart", "one line"};

enum { PORTS, MMIO, SINGLE, BATCH, STREAM, EVENT, OPS };
static const struct { const char *word, *name; bool ring; } ops[OPS] = {
	[PORTS] = {"ports", "ports: a command, 16 x 4 bytes", false},
	[MMIO] = {"mmio", "device memory: a command, 8 x 8 bytes", false},
	[SINGLE] = {"single", "ring, one at a time", true},
	[BATCH] = {"batch", "ring, batches of 16", true},
	[STREAM] = {"stream", "ring, 16 on their way, each notified", true},
	[EVENT] = {"event", "ring, 16 on their way, event index", true},
};

/* ---- lines ---- */

enum party { PROCESSOR = 1, DEVICE = 2 };

struct lines {
	uint8_t holders[LINES];     /* who has a copy, a bit a party */
	uint64_t now[3];            /* moved to the processor, to the device; copies taken away */
	uint64_t at[3][3];          /* now[] when LAB-0, LAB-1, LAB-2 was said */
	struct engine_watch watch;
};
enum { TO_PROCESSOR, TO_DEVICE, DROPPED, KINDS };
static_assert(sizeof(((struct lines *)0)->now) == KINDS * sizeof(uint64_t), "a counter of each kind");

static void touch_line(struct lines *l, unsigned line, enum party who, bool write)
{
	uint8_t had = l->holders[line];

	if (!(had & who) && had)
		l->now[who == DEVICE ? TO_DEVICE : TO_PROCESSOR]++;
	if (write && had & ~who)
		l->now[DROPPED]++;
	l->holders[line] = (uint8_t)(write ? who : had | who);
}

static void seen(void *ctx, bool device, uint64_t offset, unsigned bytes, bool write)
{
	for (uint64_t line = offset / LINE_BYTES; line <= (offset + bytes - 1) / LINE_BYTES; line++)
		touch_line(ctx, (unsigned)line, device ? DEVICE : PROCESSOR, write);
}

static void looked(struct lab_task *t, unsigned part)
{
	struct lines *l = t->ctx;

	memcpy(l->at[part], l->now, sizeof(l->now));
}

static int measure(struct vm *vm, struct lab_task *t, struct error *err)
{
	struct lines *l = t->ctx;
	int ret;

	l->watch = (struct engine_watch){.page = gpa(RING), .seen = seen, .ctx = l};
	ret = engine_watch_page(vm_engine(vm), &l->watch);
	if (ret)
		return error_set(err, ret, "the ring cannot be watched");
	return lab_measure_parts(vm, t, err);
}

/* What a request moved; as in lab_measure_parts(). */
static double lines_of(const struct lab_task *t, unsigned kind)
{
	const struct lines *l = t->ctx;

	return lab_per_turn(t, lab_number(l->at[2][kind] - 2 * l->at[1][kind] + l->at[0][kind]));
}

static double moved(const struct lab_task *t) { return lines_of(t, TO_PROCESSOR) + lines_of(t, TO_DEVICE); }

/* ---- guests ---- */

static unsigned index_of(unsigned op, unsigned layout, unsigned mmu) { return (op * LAYOUTS + layout) * MMUS + mmu; }
#define TASKS (OPS * LAYOUTS * MMUS)

static void make_task(struct lab_task *t, struct lines *l, unsigned i, const struct lab_options *o, const struct hw *hw)
{
	unsigned op = i / MMUS / LAYOUTS, layout = i / MMUS % LAYOUTS;

	lab_task_init(t, "rings", mmus[i % MMUS], hw);
	t->cfg.devices.rng = true;
	t->cfg.engine.cpu.data_cache = true;
	t->measure = measure;
	t->looked = looked;
	t->ctx = l;
	t->turns = o->quick ? QUICK : TURNS;
	snprintf(t->append, sizeof(t->append), "op=%s n=%llu%s", ops[op].word, (unsigned long long)t->turns,
		 layout == SHARED ? " shared" : "");
}

/* ---- the result ---- */

static double exits(const struct lab_task *t) { return lab_per_turn(t, lab_number(t->count[0].obs.exits.total)); }

static double exits_by(const struct lab_task *t, unsigned reason)
{
	return lab_per_turn(t, lab_number(t->count[0].obs.exits.by_reason[reason]));
}

static double cycles(const struct lab_task *t)
{
	struct cost c;

	lab_cost(t, 0, &c);
	return lab_per_turn(t, c.total);
}

static void show_requests(json_t *result, const struct lab_task *task)
{
	json_t *table = lab_table(result, "exits",
				  "Exits of a request of 64 bytes; under EPT by kind: port accesses, device memory with\n"
				  "doorbells, the device's turns",
				  "shadow|ept|ports|memory|turns|doorbells|instructions");
	json_t *costs = lab_table(result, "cycles", "Modelled cycles of a request", "native|shadow|ept");

	lab_table_unit(costs, "modelled cycles");
	for (unsigned op = 0; op < OPS; op++) {
		const struct lab_task *t = &task[index_of(op, APART, NATIVE)], *ept = t + EPT;
		double v[] = {exits(t + SHADOW),
			      exits(ept),
			      exits_by(ept, EXIT_REASON_IO),
			      exits_by(ept, EXIT_REASON_EPT_VIOLATION),
			      exits_by(ept, EXIT_REASON_PREEMPTION_TIMER),
			      lab_per_turn(ept, lab_number(ept->count[0].obs.devices.doorbells)),
			      lab_per_turn(ept, lab_number(ept->count[0].insns))};
		double c[] = {cycles(t), cycles(t + SHADOW), cycles(ept)};

		lab_row(table, ops[op].name, ARRAY_SIZE(v), v);
		lab_row(costs, ops[op].name, ARRAY_SIZE(c), c);
	}
}

static void show_lines(json_t *result, const struct lab_task *task)
{
	json_t *table = lab_table(result, "lines",
				  "Lines of the ring's memory that go from one party to the other in a request, and copies\n"
				  "that writes take away. The driver's and the device's index: apart, or in one line",
				  "to device|to processor|moved|copies dropped|moved: shadow|moved: ept");

	for (unsigned op = 0; op < OPS; op++)
		for (unsigned layout = 0; ops[op].ring && layout < LAYOUTS; layout++) {
			const struct lab_task *t = &task[index_of(op, layout, NATIVE)];
			double v[] = {lines_of(t, TO_DEVICE), lines_of(t, TO_PROCESSOR), moved(t), lines_of(t, DROPPED),
				      moved(t + SHADOW), moved(t + EPT)};
			char label[96];

			snprintf(label, sizeof(label), "%s, %s", ops[op].name, layout_name[layout]);
			lab_row(table, label, ARRAY_SIZE(v), v);
		}
}

static const char why_exits[] =
	"No published figure that compares. Each access to a port or to device memory exits; a ring is memory, so only "
	"the notification does, and the end of the time until the device's turn. How many requests share those two is "
	"the gain.";
static const char why_event[] =
	"No published figure that compares. While the device has not come to its turn its index says that it was told; "
	"only the first request after it has stopped looking needs a notification.";
static const char why_lines[] =
	"No published figure that compares. With its answers the device takes away the line with both indices; the "
	"driver, which only adds requests, has to fetch it for the next one. In lines of their own the device leaves "
	"the driver's alone.";
static const char why_wait[] =
	"No published figure that compares. A driver that waits for each answer has to fetch the device's index anyway, "
	"and gets its own with it.";
static const char why_batch[] =
	"No published figure that compares. A line with descriptors or ring entries that has come serves several "
	"requests.";

/* Exits under EPT, and lines: one way of asking to another. */
static double exits_ratio(const struct lab_task *task, unsigned a, unsigned b)
{
	return exits(&task[index_of(a, APART, EPT)]) / exits(&task[index_of(b, APART, EPT)]);
}

static double lines_ratio(const struct lab_task *task, unsigned a, unsigned b)
{
	return moved(&task[index_of(a, APART, NATIVE)]) / moved(&task[index_of(b, APART, NATIVE)]);
}

static double shared_less_apart(const struct lab_task *task, unsigned op)
{
	return moved(&task[index_of(op, SHARED, NATIVE)]) - moved(&task[index_of(op, APART, NATIVE)]);
}

static void compare(json_t *result, const struct lab_task *task)
{
	const struct { const char *id, *what, *unit; double ours; const char *why; } lines[] = {
		{"exits.ports-to-single", "exits, EPT: ports to a ring, one at a time", "times",
		 exits_ratio(task, PORTS, SINGLE), why_exits},
		{"exits.single-to-batch", "exits, EPT: one at a time to batches of 16", "times",
		 exits_ratio(task, SINGLE, BATCH), why_exits},
		{"exits.stream-to-event", "exits, EPT: each notified to event index", "times",
		 exits_ratio(task, STREAM, EVENT), why_event},
		{"lines.stream", "lines, 16 on their way: indices in one line less apart", "lines",
		 shared_less_apart(task, STREAM), why_lines},
		{"lines.single", "lines, one at a time: indices in one line less apart", "lines",
		 shared_less_apart(task, SINGLE), why_wait},
		{"lines.batch", "lines, one at a time to batches, apart", "times",
		 lines_ratio(task, SINGLE, BATCH), why_batch},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(lines); i++)
		lab_compare(result, &(struct lab_line){lines[i].id, lines[i].what, lines[i].unit, lines[i].ours, LAB_NONE,
						       LAB_NONE, lines[i].why});
}

static int run(const struct lab_options *o, const struct hw *hw, json_t *result, struct error *err)
{
	struct lab_task *task = calloc(TASKS, sizeof(*task));
	struct lines *lines = calloc(TASKS, sizeof(*lines));
	int ret = task && lines ? 0 : error_set(err, -ENOMEM, "out of memory");

	for (unsigned i = 0; i < TASKS && ret == 0; i++)
		make_task(&task[i], &lines[i], i, o, hw);
	if (ret == 0)
		ret = lab_run_tasks(o, task, TASKS, err);
	if (ret == 0) {
		show_requests(result, task);
		show_lines(result, task);
		compare(result, task);
		lab_note(result, "Lines are counted for the memory of the ring alone, by who has a copy at each access "
				 "of either party. Modelled cycles know nothing of them, or of the time a device takes.");
	}
	free(lines);
	free(task);
	return ret;
}

const struct lab lab_rings = {"rings", "asking a device: ports, device memory, rings; exits and cache lines",
			      NULL, "skylake", false, false, run, false};
