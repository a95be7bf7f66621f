/*
 * A VM that is carried on goes on: boots a guest whole, then with its state saved at random counts of instructions and
 * loaded into a fresh VM under another scheme each time, and compares what came out. The loaded VM saved again has to
 * give the same bytes.
 *	carry SEED HOPS KERNEL INITRD APPEND SCHEME,... [disk=FILE]... [rng] [balloon] [console] [packed] [input] [from=N]
 *	      [tick] [lockstep] [wall] [trace] [dmt] [vmx]
 * A disk's file is made anew for each run: FILE names its contents, "zeros:N" means N MiB of zeros. input: somebody
 * types into the console. tick: hops are also made from within accesses to the serial port. lockstep: at the same
 * counts the state of all schemes has the same bytes; no hops. dmt, vmx: the processor has that feature. wall: with the
 * host's clock no two runs are equal; that the guest does its work and ends has to do.
 */
#include "vm/vm_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MISSING  77 /* meson: skipped */
#define SECTIONS 1024
#define DISKS    2

/* What came out of a run: its serial line, and the virtio console's file. */
struct sink {
	uint64_t bytes, sum;
	unsigned typed;
	struct vm *vm;            /* NULL: nobody is told */
	struct vm_ticker *ticker; /* ... when so many more bytes have come: */
	uint64_t countdown;
};

struct saved {
	char name[64];
	uint8_t *bytes;
	size_t n;
};
struct state {
	struct saved section[SECTIONS];
	unsigned sections;
};

struct plan {
	struct vm_config cfg;
	const char *disk[DISKS]; /* contents */
	unsigned disks;
	bool input, trace, tick, lockstep;
	uint64_t from;           /* no hop before this count of instructions */
	enum engine_mmu scheme[ENGINE_MMU_COUNT];
	unsigned schemes, hops;
	uint64_t random;
	char dir[64], image[DISKS][96], console[96];
};

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "carry: %s: %s\n", what, why);
	exit(1);
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void output(void *ctx, const uint8_t *data, size_t bytes)
{
	struct sink *s = ctx;

	for (size_t i = 0; i < bytes; i++)
		s->sum = s->sum * 31 + data[i];
	s->bytes += bytes;
	if (s->vm && s->countdown && --s->countdown == 0)
		vm_tick(s->vm, s->ticker);
}

/* Types as fast as it is taken, so that what comes when follows from virtual time. */
static int input(void *ctx, uint8_t *data, unsigned max, int64_t wait_ns)
{
	struct sink *s = ctx;
	unsigned n = 0;

	(void)wait_ns;
	for (; n < max && s->typed < 3000; n++)
		data[n] = (uint8_t)('a' + s->typed++ % 26);
	return n ? (int)n : -1;
}

static void connect(const struct plan *p, struct vm *vm, struct sink *sink)
{
	vm_set_console(vm, (struct vm_console){.ctx = sink, .output = output, .input = p->input ? input : NULL, .fd = -1});
}

/* ---- state in memory ---- */

static int keep_section(void *ctx, const char *name, const void *bytes, size_t n, struct error *err)
{
	struct state *s = ctx;
	struct saved *one = &s->section[s->sections++];

	if (s->sections == SECTIONS || strlen(name) >= sizeof(one->name) || n > VM_STATE_SECTION_MAX)
		return error_set(err, -1, "section '%s' of %zu bytes is one too many or too long", name, n);
	strcpy(one->name, name);
	one->bytes = malloc(n);
	memcpy(one->bytes, bytes, n);
	one->n = n;
	return 0;
}

static void forget(struct state *s)
{
	for (unsigned i = 0; i < s->sections; i++)
		free(s->section[i].bytes);
	s->sections = 0;
}

static void save(struct vm *vm, struct state *s)
{
	const struct state_sink sink = {s, keep_section};
	struct error err = {0};

	s->sections = 0;
	if (vm_save_state(vm, &sink, &err))
		fail("saving", err.text);
}

static void print_both(const struct saved *a, const struct saved *b)
{
	fprintf(stderr, "---- saved\n");
	state_print(a->bytes, a->n, 0, stderr, NULL);
	fprintf(stderr, "---- loaded\n");
	state_print(b->bytes, b->n, 0, stderr, NULL);
}

static void compare_states(const struct state *a, const struct state *b)
{
	if (a->sections != b->sections)
		fail("the loaded VM's state", "has another number of sections");
	for (unsigned i = 0; i < a->sections; i++) {
		const struct saved *x = &a->section[i], *y = &b->section[i];

		if (!strcmp(x->name, y->name) && x->n == y->n && !memcmp(x->bytes, y->bytes, x->n))
			continue;
		print_both(x, y);
		fail("the loaded VM's state differs", x->name);
	}
}

/* Of the VMs that were loaded, one after the other: each lasts as long as its VM. */
static struct vm_config_strings loaded[2];
static unsigned loads;

static struct vm *load(const struct plan *p, const struct state *s, enum engine_mmu mmu)
{
	struct vm_config_strings *keep = &loaded[loads++ % 2];
	struct vm_config cfg;
	struct error err = {0};
	struct vm *vm;

	if (loads > 2)
		vm_config_strings_free(keep);
	if (vm_config_from_section(&cfg, keep, s->section[0].bytes, s->section[0].n, &err))
		fail("config", err.text);
	cfg.engine.mmu = mmu;
	cfg.limit_insns = p->cfg.limit_insns;
	if (vm_create_empty(&vm, &cfg, &err))
		fail("making it", err.text);
	for (unsigned i = 1; i < s->sections; i++)
		if (vm_load_section(vm, s->section[i].name, s->section[i].bytes, s->section[i].n, &err))
			fail(s->section[i].name, err.text);
	return vm;
}

static void copy_memory(struct engine_vm *from, struct engine_vm *to)
{
	static const uint8_t zeros[4096];
	uint8_t page[4096];

	for (uint64_t n = 0; n < engine_pages(from); n++) {
		gpa_t a = engine_page_gpa(from, n);

		engine_mem_read(from, a, page, sizeof(page));
		if (memcmp(page, zeros, sizeof(page)) && engine_mem_write(to, a, page, sizeof(page)))
			fail("memory", "cannot be written");
	}
}

static struct state before;

/* @before: the VM's state, which has been saved */
static struct vm *carry(struct plan *p, struct vm *vm, struct sink *sink)
{
	static struct state after;
	enum engine_mmu mmu = p->scheme[next_random(&p->random) % p->schemes];
	struct error err = {0};
	struct vm *next;

	if (p->trace)
		fprintf(stderr, "carry: %llu instructions, %s to %s, %u sections\n", (unsigned long long)vm_insns(vm),
			engine_mmu_name[vm_get_config(vm)->engine.mmu], engine_mmu_name[mmu], before.sections);
	if (vm_close_devices(vm, &err))
		fail("closing devices", err.text);
	next = load(p, &before, mmu);
	copy_memory(vm_engine(vm), vm_engine(next));
	if (vm_load_finish(next, &err))
		fail("loading", err.text);
	vm_destroy(vm);
	connect(p, next, sink);
	save(next, &after);
	compare_states(&before, &after);
	forget(&before);
	forget(&after);
	return next;
}

/* ---- runs ---- */

static void copy_file(const char *from, const char *to)
{
	char command[512];

	if (!strncmp(from, "zeros:", 6))
		snprintf(command, sizeof(command), "rm -f '%s' && truncate -s %luM '%s'", to, strtoul(from + 6, NULL, 0), to);
	else
		snprintf(command, sizeof(command), "cp --sparse=always '%s' '%s'", from, to);
	if (system(command))
		fail(from, "cannot be copied");
}

static uint64_t sum_of(const char *path)
{
	FILE *f = fopen(path, "r");
	uint64_t sum = 0;
	int c;

	while (f && (c = getc(f)) != EOF)
		sum = sum * 31 + (uint64_t)c;
	if (f)
		fclose(f);
	return sum;
}

static struct vm *make(struct plan *p, enum engine_mmu mmu, struct sink *sink)
{
	struct error err = {0};
	struct vm *vm;

	for (unsigned i = 0; i < p->disks; i++)
		copy_file(p->disk[i], p->image[i]);
	p->cfg.engine.mmu = mmu;
	if (vm_create(&vm, &p->cfg, &err))
		fail("making it", err.text);
	*sink = (struct sink){0};
	connect(p, vm, sink);
	return vm;
}

struct outcome {
	struct vm_result result;
	struct sink sink;
	uint64_t file[DISKS], console;
};

static void finish(struct plan *p, struct vm *vm, struct outcome *o)
{
	struct error err = {0};

	vm_run(vm, &o->result);
	if (vm_close_devices(vm, &err))
		fail("closing devices", err.text);
	vm_destroy(vm);
	for (unsigned i = 0; i < p->disks; i++)
		o->file[i] = sum_of(p->image[i]);
	o->console = sum_of(p->console);
}

/* Asked within an access: at the next boundary the VM stands at, its state is saved and it leaves. */
static void tick(void *ctx)
{
	struct vm *vm = ctx;

	if (vm_quiesce(vm))
		return;
	save(vm, &before);
	vm_leave(vm, VM_END_SUSPENDED);
}

/* Runs to a stop; what a tick does there is done here, and again, until the stop is reached. False: the end. */
static bool run_to(struct plan *p, struct vm **vm, const struct vm_stop *stop, struct sink *sink)
{
	for (;;) {
		struct vm_ticker ticker = {.tick = tick, .ctx = *vm};
		bool end;

		sink->vm = p->tick ? *vm : NULL;
		sink->ticker = &ticker;
		sink->countdown = 1 + next_random(&p->random) % 40;
		vm_add_ticker(*vm, &ticker);
		end = vm_run_until(*vm, stop) == VM_STOPPED_END;
		vm_remove_ticker(*vm, &ticker);
		sink->vm = NULL;
		if (vm_why_ended(*vm) != VM_END_SUSPENDED)
			return !end;
		*vm = carry(p, *vm, sink);
	}
}

static int compare_counts(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static uint64_t *choose_counts(struct plan *p, uint64_t insns)
{
	uint64_t *at = calloc(p->hops, sizeof(*at));

	for (unsigned i = 0; i < p->hops; i++)
		at[i] = p->from + next_random(&p->random) % (insns - p->from);
	qsort(at, p->hops, sizeof(*at), compare_counts);
	return at;
}

static void run_carried(struct plan *p, uint64_t insns, struct outcome *o)
{
	struct vm *vm = make(p, p->scheme[next_random(&p->random) % p->schemes], &o->sink);
	uint64_t *at = choose_counts(p, insns);

	for (unsigned i = 0; i < p->hops; i++) {
		const struct vm_stop stop = {.insns = at[i], .on_halt = at[i] & 1};

		if (!run_to(p, &vm, &stop, &o->sink) || vm_quiesce(vm))
			break;
		save(vm, &before);
		vm = carry(p, vm, &o->sink);
	}
	finish(p, vm, o);
	free(at);
}

/* ... or without hops: do all schemes have the same state at the same counts? */
static void run_lockstep(struct plan *p, uint64_t insns)
{
	uint64_t *at = choose_counts(p, insns);
	struct sink sink[ENGINE_MMU_COUNT];
	struct vm *vm[ENGINE_MMU_COUNT];
	static struct state other;

	for (unsigned m = 0; m < p->schemes; m++)
		vm[m] = make(p, p->scheme[m], &sink[m]);
	for (unsigned i = 0; i < p->hops; i++) {
		const struct vm_stop stop = {.insns = at[i], .on_halt = at[i] & 1};

		for (unsigned m = 0; m < p->schemes; m++) {
			vm_run_until(vm[m], &stop);
			if (vm_quiesce(vm[m]))
				fail("lockstep", "the guest has ended");
			save(vm[m], m ? &other : &before);
			if (!m)
				continue;
			compare_states(&before, &other);
			forget(&other);
		}
		forget(&before);
	}
	for (unsigned m = 0; m < p->schemes; m++)
		vm_destroy(vm[m]);
	free(at);
}

static bool same(const struct plan *p, const struct outcome *a, const struct outcome *b)
{
	const struct vm_result *x = &a->result, *y = &b->result;

	for (unsigned i = 0; i < p->disks; i++)
		if (a->file[i] != b->file[i])
			return false;
	if (p->cfg.clock == VM_CLOCK_WALL)
		return x->end == y->end && a->sink.bytes == b->sink.bytes;
	return x->end == y->end && x->debug_exit == y->debug_exit && x->insns == y->insns &&
	       x->virtual_ns == y->virtual_ns && !memcmp(x->hash.no_accessed, y->hash.no_accessed, 16) &&
	       a->sink.bytes == b->sink.bytes && a->sink.sum == b->sink.sum && a->console == b->console;
}

static void print(const char *what, const struct outcome *o)
{
	fprintf(stderr, "%s: %s, %llu instructions, %llu ns, hash %016llx, %llu bytes on the serial line (%016llx), "
		"console %016llx, disks %016llx %016llx%s%.200s\n", what, vm_end_name[o->result.end],
		(unsigned long long)o->result.insns, (unsigned long long)o->result.virtual_ns,
		(unsigned long long)o->result.hash.no_accessed[0], (unsigned long long)o->sink.bytes,
		(unsigned long long)o->sink.sum, (unsigned long long)o->console, (unsigned long long)o->file[0],
		(unsigned long long)o->file[1], *o->result.message ? "\n" : "", o->result.message);
}

/* ---- options ---- */

static void take_schemes(struct plan *p, const char *list)
{
	for (; *list; list += strcspn(list, ","), list += *list == ',')
		for (unsigned m = 0; m < ENGINE_MMU_COUNT; m++)
			if (strlen(engine_mmu_name[m]) == strcspn(list, ",") &&
			    !strncmp(list, engine_mmu_name[m], strcspn(list, ",")) && p->schemes < ENGINE_MMU_COUNT)
				p->scheme[p->schemes++] = (enum engine_mmu)m;
	if (!p->schemes)
		fail("schemes", "none");
}

static void take_option(struct plan *p, const char *word)
{
	struct devices_config *d = &p->cfg.devices;

	if (!strncmp(word, "disk=", 5) && p->disks < DISKS) {
		snprintf(p->image[p->disks], sizeof(p->image[0]), "%s/disk%u", p->dir, p->disks);
		d->disk[d->disks++] = p->image[p->disks];
		p->disk[p->disks++] = word + 5;
	} else if (!strncmp(word, "from=", 5)) {
		p->from = strtoull(word + 5, NULL, 0);
	} else if (!strcmp(word, "rng")) {
		d->rng = true;
	} else if (!strcmp(word, "balloon")) {
		d->balloon = true;
		d->balloon_bytes = 64u << 20;
	} else if (!strcmp(word, "console")) {
		snprintf(p->console, sizeof(p->console), "%s/console", p->dir);
		d->console = p->console;
	} else if (!strcmp(word, "packed")) {
		d->packed = true;
	} else if (!strcmp(word, "input")) {
		p->input = true;
	} else if (!strcmp(word, "tick")) {
		p->tick = true;
	} else if (!strcmp(word, "wall")) {
		p->cfg.clock = VM_CLOCK_WALL;
	} else if (!strcmp(word, "lockstep")) {
		p->lockstep = true;
	} else if (!strcmp(word, "dmt") || !strcmp(word, "vmx")) {
		char feature[8];

		snprintf(feature, sizeof(feature), "+%s", word);
		cpu_config_parse(&p->cfg.engine.cpu, feature, NULL);
	} else if (!strcmp(word, "trace")) {
		p->trace = true;
	} else {
		fail(word, "not an option");
	}
}

int main(int argc, char **argv)
{
	static struct plan plan;
	static struct outcome whole, carried;
	struct plan *p = &plan;
	struct stat st;
	char command[512];
	bool ok;

	if (argc < 7)
		return 2;
	if (stat(argv[3], &st))
		return MISSING;
	p->random = strtoull(argv[1], NULL, 0) * 2 + 1;
	for (unsigned i = 0; i < 10; i++)
		next_random(&p->random);
	p->hops = (unsigned)strtoul(argv[2], NULL, 0);
	vm_config_default(&p->cfg);
	p->cfg.kernel = argv[3];
	p->cfg.initrd = *argv[4] ? argv[4] : NULL;
	p->cfg.append = argv[5];
	p->cfg.engine.memory = (uint64_t)128 << 20;
	p->cfg.engine.cpu.seed = 1;
	take_schemes(p, argv[6]);
	snprintf(p->dir, sizeof(p->dir), "/tmp/carry.XXXXXX");
	if (!mkdtemp(p->dir))
		fail(p->dir, "cannot be made");
	for (int i = 7; i < argc; i++)
		take_option(p, argv[i]);
	finish(p, make(p, p->scheme[0], &whole.sink), &whole);
	if (p->lockstep)
		run_lockstep(p, whole.result.insns);
	else
		run_carried(p, whole.result.insns, &carried);
	ok = p->lockstep || same(p, &whole, &carried);
	print("whole  ", &whole);
	if (!ok)
		print("carried", &carried);
	snprintf(command, sizeof(command), "rm -r '%s'", p->dir);
	return system(command) || !ok;
}
