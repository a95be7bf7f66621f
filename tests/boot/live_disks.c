/*
 * Disks are frozen, mirrored and replaced by their mirrors while a guest writes them: live-disks SEED KERNEL INITRD
 * APPEND. The guest must end as it does without that, with the same disks; and what was frozen, or a mirror that
 * was completed, must be, byte for byte, what the guest had written at that instant: what is on the disks when a run is
 * ended there.
 */
#include "disk/image.h"
#include "disk/mirror.h"
#include "vm/vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define MISSING 77 /* meson: skipped */
#define DISKS   2
#define FREEZES 3
#define DISK_BYTES (24u << 20)
#define CHUNK      (1u << 20)

static char dir[128], image[DISKS][160], copy[DISKS][160];

static void must(int ret, const struct error *err)
{
	if (!ret)
		return;
	fprintf(stderr, "live-disks: %s\n", err->text);
	exit(1);
}

static void make_images(void)
{
	struct error err = {0};

	for (unsigned i = 0; i < DISKS; i++) {
		const struct disk_create_options o = {.bytes = DISK_BYTES,
						      .format = i ? DISK_FORMAT_QCOW2 : DISK_FORMAT_RAW};

		unlink(image[i]);
		must(disk_create(image[i], &o, &err), &err);
	}
}

/* Of the contents of a disk that others may be using. */
static XXH64_hash_t sum_of(const char *path)
{
	const struct disk_options o = {.read_only = true};
	XXH3_state_t *state = XXH3_createState();
	struct error err = {0};
	XXH64_hash_t sum;
	struct disk *d;
	uint8_t *data = malloc(CHUNK);

	must(disk_open(&d, path, &o, &err), &err);
	XXH3_64bits_reset(state);
	for (uint64_t at = 0; at < disk_bytes(d); at += CHUNK) {
		must(disk_read(d, at, data, CHUNK, &err), &err);
		XXH3_64bits_update(state, data, CHUNK);
	}
	sum = XXH3_64bits_digest(state);
	must(disk_close(d, &err), &err);
	XXH3_freeState(state);
	free(data);
	return sum;
}

static struct vm *make(const struct vm_config *cfg)
{
	struct error err = {0};
	struct vm *vm;

	make_images();
	must(vm_create(&vm, cfg, &err), &err);
	return vm;
}

static void finish(struct vm *vm, struct vm_result *result, XXH64_hash_t sum[DISKS])
{
	struct error err = {0};

	if (result)
		vm_result(vm, result);
	must(vm_close_devices(vm, &err), &err);
	vm_destroy(vm);
	for (unsigned i = 0; i < DISKS; i++)
		sum[i] = sum_of(image[i]);
}

/* Where to freeze: while the guest works, which it says. */
static void choose(const struct vm_config *cfg, uint64_t random, uint64_t at[FREEZES], struct vm_result *result,
		   XXH64_hash_t sum[DISKS])
{
	const struct vm_stop start = {.insns = UINT64_MAX, .console = "GNOMON"};
	struct vm *vm = make(cfg);
	uint64_t from;

	vm_set_console(vm, (struct vm_console){0});
	vm_run_until(vm, &start);
	from = vm_insns(vm);
	vm_run_until(vm, &VM_STOP_NONE);
	for (unsigned i = 0; i < FREEZES; i++) {
		random = random * 6364136223846793005u + 1442695040888963407u;
		at[i] = from + (vm_insns(vm) - from) / FREEZES * i + (random >> 33) % ((vm_insns(vm) - from) / FREEZES);
	}
	finish(vm, result, sum);
	if (result->end != VM_END_POWER_OFF) {
		fprintf(stderr, "live-disks: the guest ended by %s\n", vm_end_name[result->end]);
		exit(1);
	}
}

static void run_frozen(const struct vm_config *cfg, const uint64_t at[FREEZES], XXH64_hash_t frozen[FREEZES][DISKS],
		       struct vm_result *result, XXH64_hash_t sum[DISKS])
{
	static struct devices_frozen out;
	struct error err = {0};
	struct vm *vm = make(cfg);
	char id[8];

	for (unsigned i = 0; i < FREEZES; i++) {
		const struct vm_stop stop = {.insns = at[i]};

		vm_run_until(vm, &stop);
		snprintf(id, sizeof(id), "%u", i);
		must(vm_freeze_disks(vm, id, &out, &err), &err);
		for (unsigned d = 0; d < DISKS; d++)
			frozen[i][d] = sum_of(out.disk[d].base);
	}
	vm_run_until(vm, &VM_STOP_NONE);
	finish(vm, result, sum);
	/* Nobody has changed them since. The last one is removed first, as they stand on each other. */
	for (unsigned i = FREEZES; i-- > 0;)
		for (unsigned d = 0; d < DISKS; d++) {
			char path[200];

			snprintf(path, sizeof(path), "%s/%u.%u.img", dir, d, i);
			if (sum_of(path) != frozen[i][d]) {
				fprintf(stderr, "live-disks: %s changed after it was frozen\n", path);
				exit(1);
			}
			unlink(path);
		}
}

/* ---- mirrors ---- */

struct copying {
	struct disk *to[DISKS];
	struct disk_mirror *mirror[DISKS];
};

static void start_copying(struct vm *vm, struct copying *c, unsigned rounds)
{
	const struct disk_mirror_options o = {.rounds = rounds};
	struct disk_mirror_target target;
	struct error err = {0};

	for (unsigned i = 0; i < DISKS; i++) {
		/* A raw disk becomes a qcow2 one, and the other way round. */
		const struct disk_create_options create = {.bytes = DISK_BYTES,
							   .format = i ? DISK_FORMAT_RAW : DISK_FORMAT_QCOW2};

		unlink(copy[i]);
		must(disk_create(copy[i], &create, &err), &err);
		must(disk_open(&c->to[i], copy[i], NULL, &err), &err);
		target = disk_mirror_to(c->to[i]);
		must(disk_mirror_create(&c->mirror[i], DISK_BYTES, &target, &o, &err), &err);
		must(vm_start_mirror(vm, i, c->mirror[i], &err), &err);
	}
}

static void stop_copying(struct vm *vm, struct copying *c, bool pivot)
{
	struct error err = {0};

	for (unsigned i = 0; i < DISKS; i++) {
		if (pivot)
			must(vm_pivot(vm, i, c->mirror[i], c->to[i], &err), &err);
		else
			must(vm_complete_mirror(vm, i, c->mirror[i], &err), &err);
		disk_mirror_free(c->mirror[i]);
		if (!pivot)
			must(disk_close(c->to[i], &err), &err);
	}
}

/* Copies from the first instant to the second, which must be right then; then again, and the guest goes on with those. */
static void run_mirrored(const struct vm_config *cfg, const uint64_t at[FREEZES], XXH64_hash_t copied[DISKS],
			 struct vm_result *result, XXH64_hash_t sum[DISKS])
{
	struct vm *vm = make(cfg);
	struct copying c;

	for (unsigned i = 0; i < FREEZES; i++) {
		const struct vm_stop stop = {.insns = at[i]};

		vm_run_until(vm, &stop);
		if (i)
			stop_copying(vm, &c, i == FREEZES - 1);
		for (unsigned d = 0; d < DISKS && i == 1; d++)
			copied[d] = sum_of(copy[d]);
		if (i < FREEZES - 1)
			start_copying(vm, &c, i);
	}
	vm_run_until(vm, &VM_STOP_NONE);
	finish(vm, result, sum);
	for (unsigned d = 0; d < DISKS; d++)
		sum[d] = sum_of(copy[d]);
}

/* ---- what comes out ---- */

static bool is_same(const char *how, const struct vm_result *a, const struct vm_result *b, const XXH64_hash_t x[DISKS],
		    const XXH64_hash_t y[DISKS])
{
	if (a->end == b->end && a->insns == b->insns && a->virtual_ns == b->virtual_ns &&
	    !memcmp(&a->hash, &b->hash, sizeof(a->hash)) && !memcmp(x, y, DISKS * sizeof(*x)))
		return true;
	fprintf(stderr, "live-disks: %s after %llu instructions (%016llx) alone, %s after %llu (%016llx) %s\n",
		vm_end_name[a->end], (unsigned long long)a->insns, (unsigned long long)a->hash.all[0], vm_end_name[b->end],
		(unsigned long long)b->insns, (unsigned long long)b->hash.all[0], how);
	return false;
}

/* Ends runs at each instant, and compares. */
static bool check_instants(const struct vm_config *cfg, const uint64_t at[FREEZES], XXH64_hash_t frozen[FREEZES][DISKS],
			   const XXH64_hash_t copied[DISKS])
{
	XXH64_hash_t want[DISKS];
	bool ok = true;

	for (unsigned i = 0; i < FREEZES; i++) {
		const struct vm_stop stop = {.insns = at[i]};
		struct vm *vm = make(cfg);

		vm_run_until(vm, &stop);
		finish(vm, NULL, want);
		for (unsigned d = 0; d < DISKS; d++) {
			if (want[d] == frozen[i][d] && (i != 1 || want[d] == copied[d]))
				continue;
			fprintf(stderr, "live-disks: disk %u, after %llu instructions, has other contents in %s\n", d,
				(unsigned long long)at[i], want[d] == frozen[i][d] ? "a mirror" : "what was frozen");
			ok = false;
		}
	}
	return ok;
}

int main(int argc, char **argv)
{
	static struct vm_result whole, other;
	XXH64_hash_t sum[DISKS], sum_other[DISKS], frozen[FREEZES][DISKS], copied[DISKS];
	uint64_t at[FREEZES];
	struct vm_config cfg;
	struct stat st;
	bool ok;

	if (argc < 5)
		return 2;
	if (stat(argv[2], &st))
		return MISSING;
	snprintf(dir, sizeof(dir), "%.80s/live-disks-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	if (!mkdtemp(dir))
		return 2;
	vm_config_default(&cfg);
	cfg.kernel = argv[2];
	cfg.initrd = argv[3];
	cfg.append = argv[4];
	cfg.engine.memory = (uint64_t)128 << 20;
	for (unsigned i = 0; i < DISKS; i++) {
		snprintf(image[i], sizeof(image[i]), "%s/%u.img", dir, i);
		snprintf(copy[i], sizeof(copy[i]), "%s/%u-copy", dir, i);
		cfg.devices.disk[cfg.devices.disks++] = image[i];
	}
	choose(&cfg, strtoull(argv[1], NULL, 0), at, &whole, sum);
	run_frozen(&cfg, at, frozen, &other, sum_other);
	ok = is_same("frozen", &whole, &other, sum, sum_other);
	run_mirrored(&cfg, at, copied, &other, sum_other);
	ok &= is_same("mirrored", &whole, &other, sum, sum_other);
	ok &= check_instants(&cfg, at, frozen, copied);
	for (unsigned i = 0; i < DISKS; i++) {
		unlink(image[i]);
		unlink(copy[i]);
	}
	rmdir(dir);
	return !ok;
}
