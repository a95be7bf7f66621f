/*
 * A run in pieces is the run in one piece: boots a guest whole, then stopping it
 * at random counts of instructions, at every halt, at texts on its console, and
 * compares what came out: cuts SEED KERNEL INITRD APPEND SCHEME...
 */
#include "vm/vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define MISSING 77 /* meson: skipped */

struct sink {
	uint64_t bytes, sum; /* of the serial output */
};

static void output(void *ctx, const uint8_t *data, size_t bytes)
{
	struct sink *s = ctx;

	for (size_t i = 0; i < bytes; i++)
		s->sum = s->sum * 31 + data[i];
	s->bytes += bytes;
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static struct vm *make(const struct vm_config *cfg, struct sink *sink)
{
	struct error err = {0};
	struct vm *vm;

	if (vm_create(&vm, cfg, &err)) {
		fprintf(stderr, "cuts: %s\n", err.text);
		exit(1);
	}
	*sink = (struct sink){0};
	vm_set_console(vm, (struct vm_console){.ctx = sink, .output = output});
	return vm;
}

/* Where to stop next: from a single instruction to some millions. */
static struct vm_stop choose(uint64_t *random, uint64_t insns)
{
	static const char *const texts[] = {"GNOMON", "\n", "or", "no such text anywhere"};
	uint64_t r = next_random(random), length = 1 + (next_random(random) >> (42 + r % 22));

	return (struct vm_stop){.insns = insns + length,
				.on_halt = r >> 8 & 1,
				.console = r >> 9 & 1 ? texts[r >> 10 & 3] : NULL};
}

static unsigned run_in_pieces(struct vm *vm, uint64_t *random)
{
	unsigned kinds[5] = {0}, cuts = 0;
	enum vm_stopped why;

	do {
		struct vm_stop stop = choose(random, vm_insns(vm));

		why = vm_run_until(vm, &stop);
		kinds[why]++;
		cuts++;
		if (why == VM_STOPPED_INSNS && vm_insns(vm) != stop.insns) {
			fprintf(stderr, "cuts: stopped at %llu, asked for %llu\n", (unsigned long long)vm_insns(vm),
				(unsigned long long)stop.insns);
			exit(1);
		}
	} while (why != VM_STOPPED_END);
	printf("%u pieces: %u counts, %u halts, %u texts\n", cuts, kinds[VM_STOPPED_INSNS], kinds[VM_STOPPED_HALT],
	       kinds[VM_STOPPED_CONSOLE]);
	return cuts;
}

static bool same(const struct vm_result *a, const struct vm_result *b, const struct sink *x, const struct sink *y)
{
	return a->end == b->end && a->debug_exit == b->debug_exit && a->insns == b->insns &&
	       a->virtual_ns == b->virtual_ns && !memcmp(&a->hash, &b->hash, sizeof(a->hash)) && x->bytes == y->bytes &&
	       x->sum == y->sum;
}

static bool check(const struct vm_config *cfg, uint64_t *random)
{
	static struct vm_result whole, pieces;
	struct sink out_whole, out_pieces;
	struct vm *vm = make(cfg, &out_whole);

	vm_run(vm, &whole);
	vm_destroy(vm);
	vm = make(cfg, &out_pieces);
	run_in_pieces(vm, random);
	vm_result(vm, &pieces);
	vm_destroy(vm);
	if (same(&whole, &pieces, &out_whole, &out_pieces))
		return true;
	fprintf(stderr, "cuts: %s: %s after %llu instructions (%016llx) whole, %s after %llu (%016llx) in pieces\n",
		engine_mmu_name[cfg->engine.mmu], vm_end_name[whole.end], (unsigned long long)whole.insns,
		(unsigned long long)whole.hash.all[0], vm_end_name[pieces.end], (unsigned long long)pieces.insns,
		(unsigned long long)pieces.hash.all[0]);
	return false;
}

int main(int argc, char **argv)
{
	struct vm_config cfg;
	struct stat st;
	uint64_t random = argc > 1 ? strtoull(argv[1], NULL, 0) | 1 : 1;
	bool ok = true;

	if (argc < 6)
		return 2;
	if (stat(argv[2], &st))
		return MISSING;
	vm_config_default(&cfg);
	cfg.kernel = argv[2];
	cfg.initrd = *argv[3] ? argv[3] : NULL;
	cfg.append = argv[4];
	cfg.engine.memory = (uint64_t)128 << 20;
	for (int i = 5; i < argc; i++)
		for (unsigned m = 0; m < ENGINE_MMU_COUNT; m++)
			if (!strcmp(argv[i], engine_mmu_name[m])) {
				cfg.engine.mmu = (enum engine_mmu)m;
				ok &= check(&cfg, &random);
			}
	return !ok;
}
