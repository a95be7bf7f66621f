/*
 * Disks are frozen while a guest writes them: freeze SEED KERNEL INITRD APPEND. The guest must end as it does without
 * that, with the same disks; and what was frozen must be, byte for byte, what the guest had written at that instant:
 * what is on the disks when a run is ended there.
 */
#include "disk/image.h"
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

static char dir[128], image[DISKS][160];

static void must(int ret, const struct error *err)
{
	if (!ret)
		return;
	fprintf(stderr, "freeze: %s\n", err->text);
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
		fprintf(stderr, "freeze: the guest ended by %s\n", vm_end_name[result->end]);
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
				fprintf(stderr, "freeze: %s changed after it was frozen\n", path);
				exit(1);
			}
			unlink(path);
		}
}

int main(int argc, char **argv)
{
	static struct vm_result whole, pieces;
	XXH64_hash_t sum[DISKS], sum_pieces[DISKS], frozen[FREEZES][DISKS], want[DISKS];
	uint64_t at[FREEZES];
	struct vm_config cfg;
	struct stat st;
	bool ok;

	if (argc < 5)
		return 2;
	if (stat(argv[2], &st))
		return MISSING;
	snprintf(dir, sizeof(dir), "%.80s/freeze-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	if (!mkdtemp(dir))
		return 2;
	vm_config_default(&cfg);
	cfg.kernel = argv[2];
	cfg.initrd = argv[3];
	cfg.append = argv[4];
	cfg.engine.memory = (uint64_t)128 << 20;
	for (unsigned i = 0; i < DISKS; i++) {
		snprintf(image[i], sizeof(image[i]), "%s/%u.img", dir, i);
		cfg.devices.disk[cfg.devices.disks++] = image[i];
	}
	choose(&cfg, strtoull(argv[1], NULL, 0), at, &whole, sum);
	run_frozen(&cfg, at, frozen, &pieces, sum_pieces);
	ok = whole.end == pieces.end && whole.insns == pieces.insns && whole.virtual_ns == pieces.virtual_ns &&
	     !memcmp(&whole.hash, &pieces.hash, sizeof(whole.hash)) && !memcmp(sum, sum_pieces, sizeof(sum));
	if (!ok)
		fprintf(stderr, "freeze: %s after %llu instructions (%016llx) whole, %s after %llu (%016llx) frozen\n",
			vm_end_name[whole.end], (unsigned long long)whole.insns, (unsigned long long)whole.hash.all[0],
			vm_end_name[pieces.end], (unsigned long long)pieces.insns, (unsigned long long)pieces.hash.all[0]);
	for (unsigned i = 0; i < FREEZES; i++) {
		const struct vm_stop stop = {.insns = at[i]};
		struct vm *vm = make(&cfg);

		vm_run_until(vm, &stop);
		finish(vm, NULL, want);
		for (unsigned d = 0; d < DISKS; d++)
			if (want[d] != frozen[i][d]) {
				fprintf(stderr, "freeze: disk %u, frozen after %llu instructions, has other contents\n", d,
					(unsigned long long)at[i]);
				ok = false;
			}
	}
	for (unsigned i = 0; i < DISKS; i++)
		unlink(image[i]);
	rmdir(dir);
	return !ok;
}
