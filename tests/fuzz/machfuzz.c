/*
 * Whole-machine differential fuzzing: a random guest (mf_gen.c) runs on the bare
 * machine and under the hypervisor with each MMU backend, through the engine's
 * seam. All have to come to the same exits at the same virtual times, the same
 * count of instructions and the same state. For a difference the instruction after
 * which states differ is searched for by halving the instruction limit.
 *
 * Each scheme draws its own translation hardware from the seed (the two native runs
 * the same: they are compared by their counts, too), and some run without VPIDs.
 *
 * Wild guests may compute what depends on the TLB: there only the processor with and
 * without its fast path are compared, and the rest has to survive.
 */
#include <signal.h>
#undef REG_RIP /* the host's, for its own contexts */

#include "mf_gen.h"
#include "mf_hw.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define EVENTS_MAX 30000u /* exits of one run */
#define IDLE_MAX   40u    /* wake-ups that nothing else comes of */
#define LOOK_S     2      /* how often a run is looked at for progress */
#define LOOKS_MAX  60

struct scheme {
	const char *name;
	enum engine_mmu mmu;
	enum host_pages pages;
	bool always, slow;
	bool interpret; /* else all code is translated when it first runs */
	uint64_t shadow_memory;
};
static const struct scheme schemes[] = {
	{.name = "native", .mmu = ENGINE_NATIVE, .interpret = true},
	{.name = "native-slow", .mmu = ENGINE_NATIVE, .slow = true, .interpret = true},
	{.name = "native-host-code", .mmu = ENGINE_NATIVE},
	{.name = "ept-4k", .mmu = ENGINE_EPT},
	{.name = "ept-2m", .mmu = ENGINE_EPT, .pages = HOST_PAGES_2M, .slow = true},
	{.name = "ept-1g", .mmu = ENGINE_EPT, .pages = HOST_PAGES_1G},
	{.name = "shadow-lazy", .mmu = ENGINE_SHADOW},
	{.name = "shadow-always", .mmu = ENGINE_SHADOW, .always = true},
	{.name = "shadow-small", .mmu = ENGINE_SHADOW, .shadow_memory = 1, .pages = HOST_PAGES_2M},
	{.name = "brute", .mmu = ENGINE_BRUTE},
};
#define SCHEMES ARRAY_SIZE(schemes)

/* One thing that the guest did to the outside. */
struct record {
	uint8_t exit, write, size;
	uint64_t addr, data, now, insns;
};

struct outcome {
	enum engine_exit exit;
	char fail[256];
	bool refused;  /* the scheme cannot run this guest and said so */
	bool stuck;    /* faults without end and no instruction in between: time stands still, only a kick helps */
	uint64_t insns, now;
	struct engine_hash hash;
	struct engine_regs regs;
	struct engine_sregs sregs;
	struct obs obs;
	struct record *record;
	unsigned records;
};

struct options {
	uint64_t seed, count, limit;
	enum mf_mode mode;
	int wild;
	bool audit, verbose;
	unsigned trace;  /* instructions before a difference to show */
	unsigned seconds;
};

/* ---- hangs ---- */

static volatile sig_atomic_t alarms;
static struct engine_vm *volatile running;
static uint64_t running_seed;
static const char *running_scheme;
static unsigned running_number;

static void on_alarm(int sig)
{
	char text[128];
	int n;

	(void)sig;
	if (running)
		engine_kick(running);
	if (alarms++ < LOOKS_MAX)
		return;
	n = snprintf(text, sizeof(text), "machfuzz: seed %llu hangs under %s\n", (unsigned long long)running_seed,
		     running_scheme);
	if (write(2, text, (size_t)n) < 0)
		_exit(3);
	abort();
}

static void arm(unsigned seconds)
{
	struct itimerval t = {.it_value.tv_sec = seconds, .it_interval.tv_sec = seconds};

	alarms = 0;
	setitimer(ITIMER_PROF, &t, NULL); /* processor time: the host may be busy with other things */
}

/* ---- one run ---- */

struct run {
	const struct mf_guest *g;
	struct engine_vm *vm;
	struct engine_run run;
	struct outcome *out;
	uint64_t rng, next;
	unsigned idle;
	uint64_t idle_insns;
	int looked;
	uint64_t looked_insns;
	bool tracks;
	uint64_t dirty[MF_MEMORY / PAGE_SIZE / 64 + 1]; /* pages found written so far */
};

static void record(struct run *r, const struct record *what)
{
	struct outcome *o = r->out;
	struct record *n = &o->record[o->records++];

	*n = *what;
	n->now = engine_now(r->vm);
	n->insns = engine_insns(r->vm);
}

static void answer(struct run *r)
{
	struct engine_run *e = &r->run;
	struct record what = {.exit = (uint8_t)e->exit, .write = e->io.write, .size = e->io.size, .addr = e->io.addr,
			      .data = e->io.data};
	uint64_t s = (e->io.addr + 1) * 0x9e3779b97f4a7c15ull ^ r->g->seed ^ r->out->records;

	record(r, &what);
	if (!e->io.write)
		e->io.data = mf_next(&s) & (~0ull >> (64 - 8 * e->io.size));
}

/* Something happens outside: from the seed and virtual time only. */
static void outside(struct run *r)
{
	uint64_t v = mf_next(&r->rng), page = MF_SCRATCH;

	switch (v >> 60) {
	case 0: case 1: case 2: case 3:
		engine_signal_msi(r->vm, 0xfee00000, 0x40 + (v & 15));
		break;
	case 4:
		engine_nmi(r->vm);
		break;
	case 5: case 6:
		r->run.request_irq_window = true;
		break;
	case 7:
		engine_signal_msi(r->vm, 0xfee00000 | (v & 0xffff0), (uint32_t)v & 0xffff);
		break;
	case 8: case 9: /* a device writes memory */
		if (r->g->wild)
			page = v & 1 ? MF_PLAY_FRAME : v & 2 ? MF_TABLES : MF_CODE & ~0xfffu;
		page += (v >> 8 & 0x7fff) & ~7ull;
		engine_mem_write(r->vm, gpa(page), &v, v & 4 ? 8 : 4);
		break;
	case 10:
		engine_kick(r->vm);
		break;
	}
	r->next = engine_now(r->vm) + 1 + (mf_next(&r->rng) >> 32) % (2 * r->g->period);
}

/* False: the guest will not wake up any more. */
static bool idle(struct run *r)
{
	struct record what = {.exit = ENGINE_EXIT_HLT, .data = r->run.hlt.wake_ns};
	uint64_t now = engine_now(r->vm);

	record(r, &what);
	if (r->idle_insns != engine_insns(r->vm))
		r->idle = 0;
	r->idle_insns = engine_insns(r->vm);
	if (r->idle++ == IDLE_MAX)
		return false;
	if (r->next > now)
		engine_advance(r->vm, min_u64(r->run.hlt.wake_ns, r->next));
	if (engine_now(r->vm) >= r->next)
		outside(r);
	return true;
}

/* The clock has kicked the guest. False: it has come no further since the last time. */
static bool look(struct run *r)
{
	if (alarms == r->looked)
		return true; /* the kick was the outside's */
	if (r->looked && r->looked_insns == engine_insns(r->vm)) {
		r->out->stuck = true;
		return false;
	}
	r->looked = alarms;
	r->looked_insns = engine_insns(r->vm);
	return true;
}

/* Acts on an exit. False: the run has ended. */
static bool act(struct run *r)
{
	struct record what = {.exit = (uint8_t)r->run.exit};

	switch (r->run.exit) {
	case ENGINE_EXIT_IO:
	case ENGINE_EXIT_MMIO:
		answer(r);
		return true;
	case ENGINE_EXIT_HLT:
		return idle(r);
	case ENGINE_EXIT_IRQ_WINDOW:
		record(r, &what);
		r->run.request_irq_window = false;
		engine_interrupt(r->vm, 0x30 + (uint8_t)(r->out->records & 15));
		return true;
	case ENGINE_EXIT_IOAPIC_EOI:
		what.data = r->run.eoi.vector;
		record(r, &what);
		return true;
	case ENGINE_EXIT_DEADLINE:
		outside(r);
		return true;
	case ENGINE_EXIT_INTR:
		return look(r);
	case ENGINE_EXIT_LIMIT:
	case ENGINE_EXIT_STOP: /* not asked for */
	case ENGINE_EXIT_SHUTDOWN:
	case ENGINE_EXIT_FAIL:
		break;
	}
	return false;
}

/* Has the guest been stopped in the middle of an instruction? Then its state is nobody's business. */
static bool in_an_instruction(const struct run *r)
{
	return r->run.exit == ENGINE_EXIT_IO || r->run.exit == ENGINE_EXIT_MMIO || r->out->stuck;
}

static void finish(struct run *r)
{
	struct outcome *o = r->out;

	o->exit = r->run.exit;
	if (o->exit == ENGINE_EXIT_FAIL)
		memcpy(o->fail, r->run.fail.text, sizeof(o->fail));
	o->refused = o->exit == ENGINE_EXIT_FAIL && strstr(o->fail, "real-address mode");
	o->insns = engine_insns(r->vm);
	o->now = engine_now(r->vm);
	engine_observe(r->vm, &o->obs);
	o->hash = (struct engine_hash){.all = {0}};
	o->regs = (struct engine_regs){{0}, 0, 0};
	o->sregs = (struct engine_sregs){0};
	if (in_an_instruction(r))
		return;
	engine_state_hash(r->vm, &o->hash);
	engine_get_regs(r->vm, &o->regs);
	engine_get_sregs(r->vm, &o->sregs);
}

static void write_memory(struct engine_vm *vm, const struct mf_guest *g)
{
	static const uint8_t zero[4096];

	for (uint64_t a = 0; a < MF_MEMORY; a += 4096)
		if (memcmp(g->mem + a, zero, 4096))
			engine_mem_write(vm, gpa(a), g->mem + a, 4096);
}

static void choose_hardware(const struct mf_guest *g, const struct scheme *s, struct engine_config *cfg)
{
	uint64_t n = s->mmu == ENGINE_NATIVE ? 0 : (uint64_t)(s - schemes);

	mf_random_hw(&cfg->cpu.hw, g->seed * SCHEMES + n);
	cfg->no_vpid = s->mmu != ENGINE_NATIVE && (g->seed * 5 + n) % 4 == 0;
}

static const char *hardware_name(const struct mf_guest *g, const struct scheme *s, char name[48])
{
	struct engine_config cfg = {.mmu = s->mmu};

	choose_hardware(g, s, &cfg);
	snprintf(name, 48, "%s%s", cfg.cpu.hw.name, cfg.no_vpid ? ", no VPID" : "");
	return name;
}

static struct engine_vm *make(const struct mf_guest *g, const struct scheme *s, bool audit)
{
	struct engine_config cfg = {.mmu = s->mmu, .cpu = g->cpu, .memory = MF_MEMORY, .host_pages = s->pages,
				    .shadow_sync_always = s->always, .shadow_memory = s->shadow_memory, .audit = audit,
				    .audit_every = 16};
	struct engine_vm *vm = NULL;
	struct error err;

	cfg.cpu.fast_path = !s->slow;
	choose_hardware(g, s, &cfg);
	cfg.cpu.translate = !s->interpret;
	cfg.cpu.translate_after = 0;
	if (engine_create(&vm, &cfg, &err)) {
		fprintf(stderr, "machfuzz: %s: %s\n", s->name, err.text);
		exit(2);
	}
	write_memory(vm, g);
	engine_set_sregs(vm, &g->sregs);
	engine_set_regs(vm, &g->regs);
	return vm;
}

/*
 * Some runs have a tracker, of any kind: the guest may not notice, and what it changes must be found. Pages are
 * collected now and then, and the tracker changes.
 */
static void begin_tracking(struct run *r, const struct scheme *s)
{
	uint64_t seed = r->g->seed * SCHEMES + (uint64_t)(s - schemes);
	enum engine_dirty how = (enum engine_dirty)(mf_next(&seed) >> 32 & 3);
	struct error err;

	r->tracks = mf_next(&seed) >> 40 & 1 && engine_dirty_possible(s->mmu, how);
	if (r->tracks && engine_dirty_arm(r->vm, how, &err)) {
		fprintf(stderr, "machfuzz: %s: %s\n", s->name, err.text);
		exit(2);
	}
}

static void collect(struct run *r)
{
	uint64_t v = r->out->records * 0x9e3779b97f4a7c15ull;
	enum engine_dirty how = (enum engine_dirty)(v >> 40 & 3);

	engine_dirty_collect(r->vm, r->dirty);
	if (v >> 60 || !engine_dirty_possible(schemes[running_number].mmu, how))
		return;
	engine_dirty_disarm(r->vm);
	engine_dirty_arm(r->vm, how, NULL);
}

/* Is every page that is not as in the beginning among those found? */
static void check_tracking(struct run *r)
{
	uint8_t now[PAGE_SIZE];

	engine_dirty_collect(r->vm, r->dirty);
	for (uint64_t n = 0; n < MF_MEMORY / PAGE_SIZE; n++) {
		engine_mem_read(r->vm, gpa(n * PAGE_SIZE), now, PAGE_SIZE);
		if (!memcmp(now, r->g->mem + n * PAGE_SIZE, PAGE_SIZE) || r->dirty[n / 64] >> n % 64 & 1)
			continue;
		snprintf(r->out->fail, sizeof(r->out->fail), "page %llx changed and was not found", (unsigned long long)n);
		r->out->exit = ENGINE_EXIT_FAIL;
	}
}

static void run_guest(const struct mf_guest *g, const struct scheme *s, uint64_t limit, const struct options *opt,
		      struct outcome *o)
{
	struct run r = {.g = g, .out = o, .rng = g->seed * 2 + 1, .next = g->period};

	o->records = 0;
	o->stuck = false;
	o->fail[0] = 0;
	running_seed = g->seed;
	running_scheme = s->name;
	r.vm = make(g, s, opt->audit);
	running_number = (unsigned)(s - schemes);
	begin_tracking(&r, s);
	running = r.vm;
	arm(LOOK_S);
	r.run.insn_limit = limit;
	do {
		r.run.deadline_ns = r.next;
		engine_run(r.vm, &r.run);
		if (r.tracks && (o->records & 7) == 0)
			collect(&r);
	} while (act(&r) && o->records < EVENTS_MAX);
	finish(&r);
	if (r.tracks)
		check_tracking(&r);
	arm(0);
	running = NULL;
	engine_destroy(r.vm);
}

/* ---- comparing ---- */

static bool differ(const char **item, const char *name, const void *a, const void *b, size_t bytes)
{
	if (memcmp(a, b, bytes) == 0)
		return false;
	*item = name;
	return true;
}

static bool regs_differ(const struct engine_regs *a, const struct engine_regs *b, const char **item)
{
	static const char *const name[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					     "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};

	for (unsigned i = 0; i < 16; i++)
		if (differ(item, name[i], &a->gpr[i], &b->gpr[i], 8))
			return true;
	return differ(item, "rip", &a->rip, &b->rip, 8) || differ(item, "rflags", &a->rflags, &b->rflags, 8);
}

static bool segs_differ(const struct seg *a, const struct seg *b)
{
	if (a->sel != b->sel || (a->attr ^ b->attr) & SEG_AR_UNUSABLE)
		return true;
	return !(a->attr & SEG_AR_UNUSABLE) && (a->attr != b->attr || a->limit != b->limit || a->base != b->base);
}

static bool sregs_differ(const struct engine_sregs *a, const struct engine_sregs *b, const char **item)
{
	static const char *const name[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs"};

	for (unsigned i = 0; i < SEG_COUNT; i++)
		if (segs_differ(&a->seg[i], &b->seg[i])) {
			*item = name[i];
			return true;
		}
	if (segs_differ(&a->tr, &b->tr) || segs_differ(&a->ldt, &b->ldt)) {
		*item = "tr or ldtr";
		return true;
	}
	if (a->gdt.base != b->gdt.base || a->gdt.limit != b->gdt.limit || a->idt.base != b->idt.base ||
	    a->idt.limit != b->idt.limit) {
		*item = "gdtr or idtr";
		return true;
	}
	return differ(item, "cr0", &a->cr0, &b->cr0, 8) || differ(item, "cr2", &a->cr2, &b->cr2, 8) ||
	       differ(item, "cr3", &a->cr3, &b->cr3, 8) || differ(item, "cr4", &a->cr4, &b->cr4, 8) ||
	       differ(item, "cr8", &a->cr8, &b->cr8, 8) || differ(item, "efer", &a->efer, &b->efer, 8) ||
	       differ(item, "apic_base", &a->apic_base, &b->apic_base, 8);
}

static bool records_differ(const struct outcome *a, const struct outcome *b, const char **item)
{
	static char text[256];
	unsigned n = a->records < b->records ? a->records : b->records;

	for (unsigned i = 0; i < n; i++) {
		const struct record *x = &a->record[i], *y = &b->record[i];

		if (x->exit == y->exit && x->write == y->write && x->size == y->size && x->addr == y->addr &&
		    x->data == y->data && x->now == y->now && x->insns == y->insns)
			continue;
		snprintf(text, sizeof(text), "record %u: exit %u w%u size %u %llx=%llx at %llu/%llu, "
			 "exit %u w%u size %u %llx=%llx at %llu/%llu", i, x->exit, x->write, x->size,
			 (unsigned long long)x->addr, (unsigned long long)x->data, (unsigned long long)x->now,
			 (unsigned long long)x->insns, y->exit, y->write, y->size, (unsigned long long)y->addr,
			 (unsigned long long)y->data, (unsigned long long)y->now, (unsigned long long)y->insns);
		*item = text;
		return true;
	}
	return differ(item, "number of exits", &a->records, &b->records, sizeof(a->records));
}

static bool outcomes_differ(const struct outcome *a, const struct outcome *b, const char **item)
{
	return differ(item, "one makes no progress", &a->stuck, &b->stuck, sizeof(a->stuck)) ||
	       records_differ(a, b, item) || differ(item, "exit", &a->exit, &b->exit, sizeof(a->exit)) ||
	       differ(item, "instructions", &a->insns, &b->insns, 8) || differ(item, "time", &a->now, &b->now, 8) ||
	       regs_differ(&a->regs, &b->regs, item) ||
	       sregs_differ(&a->sregs, &b->sregs, item) ||
	       differ(item, "state hash without accessed flags", a->hash.no_accessed, b->hash.no_accessed, 16) ||
	       differ(item, "state hash", a->hash.all, b->hash.all, 16);
}

/* The processor with and without its fast path: every walk is the same. L1 lookups are those that left the fast path. */
static bool statistics_differ(const struct outcome *a, const struct outcome *b, const char **item)
{
	struct obs x = a->obs, y = b->obs;

	return differ(item, "walk statistics", &x.translation, &y.translation, sizeof(x.translation)) ||
	       differ(item, "page faults", &x.faults.guest, &y.faults.guest, 8);
}

static bool compared(const struct mf_guest *g, const struct scheme *s, const struct outcome *o)
{
	if (s->mmu == ENGINE_NATIVE)
		return true;
	return !g->wild && !o->refused;
}

static bool mismatch(const struct mf_guest *g, const struct scheme *s, const struct outcome *first,
		     const struct outcome *o, const char **item)
{
	if (o->exit == ENGINE_EXIT_FAIL && !o->refused && first->exit != ENGINE_EXIT_FAIL) {
		*item = o->fail;
		return true;
	}
	if (!compared(g, s, o))
		return false;
	if (first->stuck && o->stuck)
		return false;
	if (outcomes_differ(first, o, item))
		return true;
	return s->mmu == ENGINE_NATIVE && statistics_differ(first, o, item);
}

/* ---- reporting ---- */

static void describe(const struct mf_guest *g, const struct scheme *s, uint64_t limit, const struct options *opt,
		     struct outcome *o)
{
	struct run r = {.g = g, .out = o, .rng = g->seed * 2 + 1, .next = g->period};
	char text[4096], name[48];
	gpa_t a;
	struct engine_sregs sr;
	struct engine_regs rg;
	uint64_t lin;

	o->records = 0;
	r.vm = make(g, s, opt->audit);
	r.run.insn_limit = limit;
	do {
		r.run.deadline_ns = r.next;
		engine_run(r.vm, &r.run);
	} while (act(&r) && o->records < EVENTS_MAX);
	engine_describe(r.vm, text, sizeof(text));
	printf("--- %s (hardware %s) after %llu instructions, time %llu, exit %d %s\n%s", s->name, hardware_name(g, s, name),
	       (unsigned long long)engine_insns(r.vm), (unsigned long long)engine_now(r.vm), (int)r.run.exit,
	       r.run.exit == ENGINE_EXIT_FAIL ? r.run.fail.text : "", text);
	engine_get_sregs(r.vm, &sr);
	engine_get_regs(r.vm, &rg);
	lin = sr.efer & EFER_LMA && sr.seg[SEG_CS].attr & SEG_AR_L ? rg.rip : (uint32_t)(sr.seg[SEG_CS].base + rg.rip);
	printf("rip %llx rflags %llx rbx %llx rax %llx rcx %llx rsp %llx rdi %llx rsi %llx cr2 %llx cr0 %llx cr4 %llx cr3 %llx\n",
	       (unsigned long long)rg.rip, (unsigned long long)rg.rflags, (unsigned long long)rg.gpr[RBX],
	       (unsigned long long)rg.gpr[RAX], (unsigned long long)rg.gpr[RCX], (unsigned long long)rg.gpr[RSP],
	       (unsigned long long)rg.gpr[RDI], (unsigned long long)rg.gpr[RSI], (unsigned long long)sr.cr2,
	       (unsigned long long)sr.cr0, (unsigned long long)sr.cr4, (unsigned long long)sr.cr3);
	printf("at %llx (cs %x):", (unsigned long long)lin, sr.seg[SEG_CS].sel);
	for (unsigned i = 0; i < 32; i++) {
		uint8_t b = 0;

		if (engine_translate(r.vm, gva(lin + i), &a) && !engine_mem_read(r.vm, a, &b, 1))
			printf(" %02x", b);
		else
			printf(" ??");
	}
	printf("\n");
	engine_destroy(r.vm);
}

/* Where memory differs, after @limit instructions. */
static void compare_memory(const struct mf_guest *g, const struct scheme *a, const struct scheme *b, uint64_t limit,
			   const struct options *opt, struct outcome *o)
{
	uint8_t *mem[2] = {malloc(MF_MEMORY), malloc(MF_MEMORY)};
	unsigned shown = 0;

	for (unsigned i = 0; i < 2; i++) {
		struct run r = {.g = g, .out = o, .rng = g->seed * 2 + 1, .next = g->period};

		o->records = 0;
		r.vm = make(g, i ? b : a, opt->audit);
		r.run.insn_limit = limit;
		do {
			r.run.deadline_ns = r.next;
			engine_run(r.vm, &r.run);
		} while (act(&r) && o->records < EVENTS_MAX);
		engine_mem_read(r.vm, gpa(0), mem[i], MF_MEMORY);
		engine_destroy(r.vm);
	}
	for (uint32_t at = 0; at < MF_MEMORY && shown < 8; at += 8)
		if (memcmp(mem[0] + at, mem[1] + at, 8)) {
			printf("  memory %x: %016llx %016llx\n", at, (unsigned long long)get_u64(mem[0] + at),
			       (unsigned long long)get_u64(mem[1] + at));
			shown++;
		}
	free(mem[0]);
	free(mem[1]);
}

/* The fewest instructions after which the two differ. */
static uint64_t bisect(const struct mf_guest *g, const struct scheme *a, const struct scheme *b, uint64_t high,
		       const struct options *opt, struct outcome *x, struct outcome *y)
{
	uint64_t low = 0;
	const char *item;

	while (low < high) {
		uint64_t mid = low + (high - low) / 2;

		run_guest(g, a, mid, opt, x);
		run_guest(g, b, mid, opt, y);
		if (mismatch(g, b, x, y, &item))
			high = mid;
		else
			low = mid + 1;
	}
	return high;
}

static void report(const struct mf_guest *g, const struct scheme *a, const struct scheme *b, uint64_t limit,
		   const char *item, const struct options *opt, struct outcome *x, struct outcome *y)
{
	uint64_t at;

	printf("MISMATCH seed %llu (%s%s%s%s) %s / %s: %s\n", (unsigned long long)g->seed, mf_mode_name[g->mode],
	       g->wild ? ", wild" : "", g->store_flush ? ", store-flush" : "", g->pcid ? ", pcid" : "", a->name, b->name, item);
	printf("  reproduce: machfuzz --seed %llu --one%s\n", (unsigned long long)g->seed, opt->audit ? " --audit" : "");
	at = bisect(g, a, b, limit, opt, x, y);
	run_guest(g, a, at, opt, x);
	run_guest(g, b, at, opt, y);
	if (mismatch(g, b, x, y, &item))
		printf("  first after %llu instructions: %s\n", (unsigned long long)at, item);
	for (unsigned back = opt->trace ? opt->trace : 1; back; back--)
		if (at >= back)
			describe(g, a, at - back, opt, x);
	describe(g, a, at, opt, x);
	describe(g, b, at, opt, y);
	compare_memory(g, a, b, at, opt, y);
	fflush(stdout);
}

/* ---- seeds ---- */

/* Returns the number of schemes that went wrong. */
static unsigned try_seed(const struct options *opt, uint64_t seed, struct outcome *first, struct outcome *o)
{
	struct options here = *opt;
	struct mf_guest g;
	const char *item;
	unsigned wrong = 0;
	uint64_t limit;

	if (mf_generate(&g, seed, opt->mode, opt->wild)) {
		fprintf(stderr, "machfuzz: out of memory\n");
		exit(2);
	}
	limit = opt->limit ? opt->limit : g.insns;
	here.audit = opt->audit || (seed & 3) == 0;
	run_guest(&g, &schemes[0], limit, &here, first);
	if (opt->verbose)
		printf("seed %llu %s%s%s: exit %d, %llu instructions, %u exits, %llu exceptions, %llu faults, %llu walks %s\n",
		       (unsigned long long)seed, mf_mode_name[g.mode], g.wild ? " wild" : "",
		       g.store_flush ? " store-flush" : "", (int)first->exit, (unsigned long long)first->insns,
		       first->records, (unsigned long long)first->obs.cpu.exceptions,
		       (unsigned long long)first->obs.faults.guest, (unsigned long long)first->obs.translation.walks,
		       first->fail);
	for (unsigned i = 1; i < SCHEMES; i++) {
		run_guest(&g, &schemes[i], limit, &here, o);
		if (mismatch(&g, &schemes[i], first, o, &item)) {
			char text[300];

			snprintf(text, sizeof(text), "%s", item);
			report(&g, &schemes[0], &schemes[i], limit, text, &here, first, o);
			run_guest(&g, &schemes[0], limit, &here, first);
			wrong++;
		}
	}
	mf_free(&g);
	return wrong;
}

/* Seeds that found something once. */
static const uint64_t regressions[] = {
	1, 6, 7, 16, 43, 50, 52, 60, 63, 65, 100, 300132,
};

static int usage(void)
{
	fprintf(stderr, "usage: machfuzz [--seed N] [--count N] [--seconds N] [--limit INSNS] [--trace N] [--one] [--audit]\n"
			"                [--mode NAME] [--wild | --strict] [--regressions] [--verbose]\n");
	return 2;
}

static int parse(struct options *opt, int argc, char **argv, bool *regress)
{
	for (int i = 1; i < argc; i++) {
		const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;

		if (!strcmp(a, "--one")) {
			opt->count = 1;
		} else if (!strcmp(a, "--audit")) {
			opt->audit = true;
		} else if (!strcmp(a, "--wild")) {
			opt->wild = 1;
		} else if (!strcmp(a, "--strict")) {
			opt->wild = 0;
		} else if (!strcmp(a, "--verbose")) {
			opt->verbose = true;
		} else if (!strcmp(a, "--regressions")) {
			*regress = true;
		} else if (!v) {
			return -1;
		} else {
			i++;
			if (!strcmp(a, "--seed"))
				opt->seed = strtoull(v, NULL, 0);
			else if (!strcmp(a, "--count"))
				opt->count = strtoull(v, NULL, 0);
			else if (!strcmp(a, "--seconds"))
				opt->seconds = (unsigned)strtoul(v, NULL, 0);
			else if (!strcmp(a, "--trace"))
				opt->trace = (unsigned)strtoul(v, NULL, 0);
			else if (!strcmp(a, "--limit"))
				opt->limit = strtoull(v, NULL, 0);
			else if (!strcmp(a, "--mode")) {
				for (opt->mode = 0; opt->mode < MF_MODES; opt->mode++)
					if (!strcmp(v, mf_mode_name[opt->mode]))
						break;
				if (opt->mode == MF_MODES)
					return -1;
			} else {
				return -1;
			}
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct options opt = {.count = 1, .mode = MF_MODES, .wild = -1, .seconds = ~0u};
	struct outcome first = {.record = calloc(EVENTS_MAX + 1, sizeof(struct record))};
	struct outcome other = {.record = calloc(EVENTS_MAX + 1, sizeof(struct record))};
	bool regress = false;
	unsigned wrong = 0, bad = 0;
	uint64_t done = 0;
	time_t start = time(NULL);

	if (parse(&opt, argc, argv, &regress))
		return usage();
	signal(SIGPROF, on_alarm);
	for (unsigned i = 0; regress && i < ARRAY_SIZE(regressions); i++, done++)
		wrong += try_seed(&opt, regressions[i], &first, &other);
	for (uint64_t i = 0; i < opt.count && time(NULL) - start < (time_t)opt.seconds; i++, done++) {
		unsigned w = try_seed(&opt, opt.seed + i, &first, &other);

		wrong += w;
		bad += !!w;
	}
	printf("machfuzz: %llu guests, %u with differences, %u differences\n", (unsigned long long)done, bad, wrong);
	free(first.record);
	free(other.record);
	return wrong ? 1 : 0;
}
