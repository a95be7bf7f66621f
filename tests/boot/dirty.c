/*
 * Do trackers find the pages that are written, all of them and no others? dirty INTERVAL LIMIT MIB KERNEL INITRD APPEND
 * OPTIONS SCHEME:TRACKER...
 *
 * The run is cut every INTERVAL instructions, to at most LIMIT. What was written meanwhile is known from outside: the
 * host's memory behind the guest is write-protected, and who writes to it - the processor, a walk that sets a flag, the
 * hypervisor, a device - gets there by a signal. So a write of what was there already counts, too. Pages are compared
 * with copies besides.
 *
 * OPTIONS: words with commas between them: "2m" (host pages), "audit", "devices" (a disk, a balloon, random numbers),
 * "none". An empty INITRD is none. "ref" as TRACKER, which the first has to be: nobody tracks; what was written is all
 * that is noted.
 *
 * All runs end alike, and their sets are the same, of all trackers and schemes. One thing is added by hardware's rule:
 * EPT's dirty flags, and so the log, know pages of guest tables that were only walked.
 */
#include <signal.h>
#undef REG_RIP

#include "engine/engine_impl.h"
#include "vm/vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MISSING     77 /* meson: skipped */
#define INTERVALS   4096
#define UNTRACKED   ENGINE_DIRTY_COUNT

/* What one run found, interval by interval. */
struct findings {
	const char *name;
	uint64_t words; /* of a bitmap */
	unsigned intervals;
	uint64_t *written[INTERVALS];  /* as known from outside */
	uint64_t *set[INTERVALS];      /* as the tracker has it */
	bool walks;                    /* the tracker finds tables that are walked, too */
	/* Of all intervals: written; found because they were walked only, because the balloon gave them back */
	uint64_t pages, walked, released;
	struct vm_result end;
};

/* The signal handler finds the memory here. */
static struct {
	const struct machmem *mem;
	uint64_t *frame; /* bitmap: written since it was protected */
} outside;

static unsigned failures;

static void fail(const char *what)
{
	fprintf(stderr, "dirty: %s\n", what);
	exit(1);
}

static uint64_t *new_map(uint64_t bits)
{
	uint64_t *map = calloc((bits + 63) / 64, sizeof(*map));

	if (!map)
		fail("out of memory");
	return map;
}

static bool test(const uint64_t *map, uint64_t n) { return map[n / 64] >> n % 64 & 1; }
static void set(uint64_t *map, uint64_t n) { map[n / 64] |= 1ull << n % 64; }

/* ---- what is written, from outside ---- */

static void on_write(int sig, siginfo_t *info, void *context)
{
	uint64_t at = (uint64_t)((uint8_t *)info->si_addr - outside.mem->host);

	(void)context;
	if (at >= outside.mem->span) {
		signal(sig, SIG_DFL);
		return;
	}
	set(outside.frame, at >> PAGE_SHIFT);
	if (mprotect(outside.mem->host + (at & PAGE_MASK), PAGE_SIZE, PROT_READ | PROT_WRITE))
		_exit(3);
}

static void protect(int how)
{
	const struct machmem *m = outside.mem;

	memset(outside.frame, 0, ((m->span >> PAGE_SHIFT) + 63) / 64 * 8);
	for (unsigned i = 0; i < m->ranges; i++)
		if (mprotect(m->host + m->range[i].base, m->range[i].bytes, how))
			fail("memory cannot be protected");
}

static void watch_from_outside(struct engine_vm *vm)
{
	static uint8_t stack[64 << 10];
	struct sigaction sa = {.sa_sigaction = on_write, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	outside.mem = vm->cpu->mmu.mem;
	free(outside.frame);
	outside.frame = new_map(outside.mem->span >> PAGE_SHIFT);
	sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof(stack)}, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	protect(PROT_READ);
}

static const uint8_t *page_of(struct engine_vm *vm, uint64_t page)
{
	return vm->ops->page(vm, engine_page_gpa(vm, page).v >> PAGE_SHIFT, false);
}

static uint64_t *take_written(struct engine_vm *vm)
{
	uint64_t *map = new_map(engine_pages(vm));

	for (uint64_t n = 0; n < engine_pages(vm); n++) {
		const uint8_t *page = page_of(vm, n);

		if (page && test(outside.frame, (uint64_t)(page - outside.mem->host) >> PAGE_SHIFT))
			set(map, n);
	}
	return map;
}

/* ---- comparing ---- */

/* Is the page a table of the guest, to judge by its entries? */
static bool looks_like_table(const uint8_t *page)
{
	unsigned present = 0;

	for (unsigned i = 0; page && i < 512; i++) {
		uint64_t e = get_u64(page + 8 * i);

		present += e & PTE_P && e & PTE_A;
		if (e & PTE_P && e & PTE_ADDR_MASK & ~((1ull << 46) - 1))
			return false;
	}
	return present;
}

static bool is_zero(const uint8_t *page)
{
	static const uint8_t zero[PAGE_SIZE];

	return !page || !memcmp(page, zero, PAGE_SIZE);
}

/* @copy: the memory as it was at the last collection; brought up to date. */
static bool changed(uint8_t *copy, const uint8_t *page)
{
	static const uint8_t zero[PAGE_SIZE];
	const uint8_t *now = page ? page : zero;

	if (!memcmp(copy, now, PAGE_SIZE))
		return false;
	memcpy(copy, now, PAGE_SIZE);
	return true;
}

struct checking {
	struct engine_vm *vm;
	struct findings *f;
	bool releases; /* a balloon gives pages back: they change without being written */
	uint8_t *copy;
};

static void check_page(const struct checking *c, uint64_t n)
{
	const struct findings *f = c->f;
	bool written = test(f->written[f->intervals], n), found = test(f->set[f->intervals], n);
	const uint8_t *page = page_of(c->vm, n);
	const char *what = NULL;

	if (changed(c->copy + n * PAGE_SIZE, page) && !found)
		what = "changed";
	if (written && !found)
		what = "written";
	if (found && !written) {
		if (f->walks && looks_like_table(page))
			c->f->walked++;
		else if (c->releases && is_zero(page))
			c->f->released++;
		else
			what = "not written";
	}
	if (!what)
		return;
	fprintf(stderr, "dirty: %s, interval %u: page %llx is %s, and %s\n", f->name, f->intervals,
		(unsigned long long)n, what, found ? "in the set" : "not in the set");
	failures++;
}

static void take_interval(const struct checking *c, bool tracked)
{
	struct findings *f = c->f;
	uint64_t pages = engine_pages(c->vm);

	f->written[f->intervals] = take_written(c->vm);
	f->set[f->intervals] = new_map(pages);
	if (tracked && engine_dirty_collect(c->vm, f->set[f->intervals]))
		fail("pages cannot be collected");
	for (uint64_t n = 0; n < pages; n++) {
		f->pages += test(f->written[f->intervals], n);
		if (tracked)
			check_page(c, n);
	}
	if (++f->intervals == INTERVALS)
		fail("too many intervals");
	protect(PROT_READ);
}

static void run(const struct vm_config *cfg, enum engine_dirty how, uint64_t interval, uint64_t limit,
		struct findings *f)
{
	struct checking c = {.f = f, .releases = cfg->devices.balloon};
	struct vm_stop stop = VM_STOP_NONE;
	enum vm_stopped why = VM_STOPPED_INSNS;
	struct error err = {0};
	struct vm *vm;

	f->walks = engine_mmu_nests(cfg->engine.mmu) && (how == ENGINE_DIRTY_AD || how == ENGINE_DIRTY_PML);
	if (vm_create(&vm, cfg, &err))
		fail(err.text);
	c.vm = vm_engine(vm);
	f->words = engine_pages(c.vm) / 64;
	stop.insns = interval;
	c.copy = calloc(engine_pages(c.vm), PAGE_SIZE);
	why = vm_run_until(vm, &stop);
	for (uint64_t n = 0; n < engine_pages(c.vm); n++)
		changed(c.copy + n * PAGE_SIZE, page_of(c.vm, n));
	if (how != UNTRACKED && engine_dirty_arm(c.vm, how, &err))
		fail(err.text);
	watch_from_outside(c.vm);
	while (why != VM_STOPPED_END && stop.insns < limit && failures < 20) {
		stop.insns += interval;
		why = vm_run_until(vm, &stop);
		take_interval(&c, how != UNTRACKED);
	}
	protect(PROT_READ | PROT_WRITE);
	engine_dirty_disarm(c.vm);
	while (why != VM_STOPPED_END && stop.insns < limit + interval) {
		stop.insns += interval;
		why = vm_run_until(vm, &stop);
	}
	vm_result(vm, &f->end);
	vm_destroy(vm);
	free(c.copy);
}

/* ---- runs beside each other ---- */

static uint64_t differences(uint64_t *const a[], uint64_t *const b[], const struct findings *f)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < f->intervals; i++)
		for (uint64_t w = 0; w < f->words; w++)
			n += (uint64_t)__builtin_popcountll(a[i][w] ^ b[i][w]);
	return n;
}

static void expect(bool is, const struct findings *f, const char *what)
{
	if (is)
		return;
	fprintf(stderr, "dirty: %s: %s\n", f->name, what);
	failures++;
}

/* @ref: nobody tracked; @other: another tracker, or NULL for the first */
static void compare(const struct findings *ref, const struct findings *other, const struct findings *f)
{
	expect(!memcmp(ref->end.hash.no_accessed, f->end.hash.no_accessed, sizeof(ref->end.hash.no_accessed)) &&
	       ref->end.insns == f->end.insns && ref->end.end == f->end.end,
	       f, "ends otherwise than without a tracker");
	if (f->intervals != ref->intervals || f->words != ref->words) {
		expect(false, f, "has not as many intervals");
		return;
	}
	expect(!differences(ref->written, f->written, f), f, "other pages are written than without a tracker");
	if (other)
		expect(differences(other->set, f->set, f) == (other->walks == f->walks ? 0 : f->walked + other->walked),
		       f, "another set than the first tracker's");
}

/* "SCHEME:TRACKER" */
static enum engine_dirty parse(struct vm_config *cfg, const char *text)
{
	size_t scheme = strcspn(text, ":");

	for (unsigned m = 0; m < ENGINE_MMU_COUNT; m++)
		if (strlen(engine_mmu_name[m]) == scheme && !strncmp(text, engine_mmu_name[m], scheme))
			cfg->engine.mmu = (enum engine_mmu)m;
	for (unsigned d = 0; text[scheme] && d < ENGINE_DIRTY_COUNT; d++)
		if (!strcmp(text + scheme + 1, engine_dirty_name[d]))
			return (enum engine_dirty)d;
	return UNTRACKED;
}

/* @name: room for the name of a file, which is gone at once: it is the process's own */
static void add_devices(struct devices_config *d, char *name, size_t bytes)
{
	FILE *file = tmpfile();

	if (!file || ftruncate(fileno(file), 16 << 20))
		fail("no temporary file");
	snprintf(name, bytes, "/proc/self/fd/%d,snapshot", fileno(file));
	d->disk[d->disks++] = name;
	d->balloon = d->rng = true;
	d->balloon_bytes = 64 << 20;
}

int main(int argc, char **argv)
{
	static struct findings f[32];
	char disk[64];
	struct vm_config cfg;
	struct stat st;

	if (argc < 9 || argc > 8 + 32)
		return 2;
	if (stat(argv[4], &st))
		return MISSING;
	vm_config_default(&cfg);
	cfg.kernel = argv[4];
	cfg.initrd = *argv[5] ? argv[5] : NULL;
	cfg.append = argv[6];
	cfg.engine.memory = strtoull(argv[3], NULL, 0) << 20;
	cfg.engine.host_pages = strstr(argv[7], "2m") ? HOST_PAGES_2M : HOST_PAGES_4K;
	cfg.engine.audit = strstr(argv[7], "audit");
	cfg.engine.audit_every = 1000;
	if (strstr(argv[7], "devices"))
		add_devices(&cfg.devices, disk, sizeof(disk));
	for (int i = 8; i < argc; i++) {
		struct findings *one = &f[i - 8];

		one->name = argv[i];
		run(&cfg, parse(&cfg, argv[i]), strtoull(argv[1], NULL, 0), strtoull(argv[2], NULL, 0), one);
		printf("%s: %u intervals, %llu pages written, %llu walked only, %llu released; %s\n", one->name,
		       one->intervals, (unsigned long long)one->pages, (unsigned long long)one->walked,
		       (unsigned long long)one->released, vm_end_name[one->end.end]);
		if (i > 8)
			compare(&f[0], i > 9 ? &f[1] : NULL, one);
	}
	return failures != 0;
}
