/*
 * Stopping at addresses: the guest arrives at the same addresses after the same
 * counts of instructions under every scheme, and ends as if it had never been
 * stopped: arrivals SEED STEP KERNEL INITRD APPEND SCHEME...
 *
 * Addresses are where the guest was at random counts, STEP instructions apart on
 * average, so that all kinds of instructions are among them: also those that the
 * hypervisor emulates. An empty INITRD is none.
 */
#include "vm/vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define MISSING   77 /* meson: skipped */
#define ADDRESSES 16

struct log {
	uint64_t arrivals, sum; /* of counts and addresses, in order */
};

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static struct vm *make(const struct vm_config *cfg)
{
	struct error err = {0};
	struct vm *vm;

	if (vm_create(&vm, cfg, &err)) {
		fprintf(stderr, "arrivals: %s\n", err.text);
		exit(1);
	}
	return vm;
}

static uint64_t where(struct vm *vm)
{
	struct engine_regs r;
	struct engine_sregs s;

	engine_get_regs(vm_engine(vm), &r);
	engine_get_sregs(vm_engine(vm), &s);
	return s.efer & EFER_LMA && s.seg[SEG_CS].attr & SEG_AR_L ? r.rip : (uint32_t)(s.seg[SEG_CS].base + r.rip);
}

static void note(struct log *log, uint64_t v) { log->sum = (log->sum ^ v) * 0x100000001b3ull; }

static void stopped_there(struct vm *vm, uint64_t address, struct log *log)
{
	if (where(vm) != address) {
		fprintf(stderr, "arrivals: stopped at %llx instead of %llx\n", (unsigned long long)where(vm),
			(unsigned long long)address);
		exit(1);
	}
	log->arrivals++;
	note(log, vm_insns(vm));
	note(log, address);
}

static void run_stopping(struct vm *vm, uint64_t seed, uint64_t step, struct log *log)
{
	uint64_t random = seed, pool[ADDRESSES], known = 0;
	enum vm_stopped why;

	*log = (struct log){0};
	do {
		uint64_t r = next_random(&random);
		struct vm_stop stop = {.insns = vm_insns(vm) + 1 + r % (2 * step), .at_address = known > 0};

		if (known)
			stop.address = pool[(r >> 32) % (known < ADDRESSES ? known : ADDRESSES)];
		why = vm_run_until(vm, &stop);
		if (why == VM_STOPPED_ADDRESS)
			stopped_there(vm, stop.address, log);
		else
			pool[known++ % ADDRESSES] = where(vm);
	} while (why != VM_STOPPED_END);
}

static bool same(const struct vm_result *a, const struct vm_result *b)
{
	return a->end == b->end && a->insns == b->insns && a->virtual_ns == b->virtual_ns &&
	       !memcmp(&a->hash, &b->hash, sizeof(a->hash));
}

/* @first: of the first scheme; what it found is there unless log->arrivals is 0. */
static bool check(const struct vm_config *cfg, uint64_t seed, uint64_t step, struct log *first)
{
	static struct vm_result whole, stopped;
	struct log log;
	struct vm *vm = make(cfg);

	vm_run(vm, &whole);
	vm_destroy(vm);
	vm = make(cfg);
	run_stopping(vm, seed, step, &log);
	vm_result(vm, &stopped);
	vm_destroy(vm);
	printf("%s: %llu arrivals, %llu instructions\n", engine_mmu_name[cfg->engine.mmu],
	       (unsigned long long)log.arrivals, (unsigned long long)stopped.insns);
	if (!first->arrivals)
		*first = log;
	if (log.arrivals && log.arrivals == first->arrivals && log.sum == first->sum && same(&whole, &stopped))
		return true;
	fprintf(stderr, "arrivals: %s: %s (%llu instructions, %016llx) without stops, %s (%llu, %016llx) with; log %016llx instead of %016llx\n",
		engine_mmu_name[cfg->engine.mmu], vm_end_name[whole.end], (unsigned long long)whole.insns,
		(unsigned long long)whole.hash.all[0], vm_end_name[stopped.end], (unsigned long long)stopped.insns,
		(unsigned long long)stopped.hash.all[0], (unsigned long long)log.sum,
		(unsigned long long)first->sum);
	return false;
}

int main(int argc, char **argv)
{
	struct vm_config cfg;
	struct stat st;
	struct log first = {0};
	uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) | 1 : 1;
	uint64_t step = argc > 2 ? strtoull(argv[2], NULL, 0) : 0;
	bool ok = true;

	if (argc < 7 || !step)
		return 2;
	if (stat(argv[3], &st))
		return MISSING;
	vm_config_default(&cfg);
	cfg.kernel = argv[3];
	cfg.initrd = *argv[4] ? argv[4] : NULL;
	cfg.append = argv[5];
	cfg.engine.memory = (uint64_t)128 << 20;
	for (int i = 6; i < argc; i++)
		for (unsigned m = 0; m < ENGINE_MMU_COUNT; m++)
			if (!strcmp(argv[i], engine_mmu_name[m])) {
				cfg.engine.mmu = (enum engine_mmu)m;
				ok &= check(&cfg, seed, step, &first);
			}
	return !ok;
}
