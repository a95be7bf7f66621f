/*
 * gnomon-kvm: runs a guest under /dev/kvm, its console on standard output, and says how it ended. See kvm_vm.h.
 */
#include "kvm_vm.h"

#include "vm/acpi.h"
#include "vm/firmware.h"
#include "vm/load.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)
#define KERNEL_BYTES_MAX (256 * MIB)

static const char usage[] =
	"usage: gnomon-kvm --kernel FILE [options]\n"
	"  --kernel FILE     ELF with a PVH note, bzImage or multiboot kernel\n"
	"  --initrd FILE     initial ramdisk, or multiboot module\n"
	"  --append TEXT     kernel command line\n"
	"  --memory MIB      RAM (128)\n"
	"  --seconds N       end the run then\n"
	"  --prefix TEXT     of each line of the guest's console (\"| \")\n"
	"  --stats           KVM's own counters at the end\n"
	"  --no-hash         of memory, at the end\n"
	"  --migrate TEXT    move the guest to a second VM, live, when its console shows this\n"
	"  --after US        ... so many microseconds later (0)\n"
	"  --rate MIBPS      ... MiB that are sent in a second (64)\n"
	"  --rounds N        ... before it stops, at most (8)\n"
	"  --left PAGES      ... it stops when no more are left (64)\n"
	"Ends with 0 if the guest powers off, with (V << 1 | 1) & 255 if it writes V to port 0xf4, with 2 otherwise.\n";

struct options {
	const char *kernel, *initrd, *append, *prefix, *migrate;
	uint64_t memory, seconds, after_us;
	bool stats, hash;
	struct kvm_migration migration;
};

enum { OPT_KERNEL = 1, OPT_INITRD, OPT_APPEND, OPT_MEMORY, OPT_SECONDS, OPT_PREFIX, OPT_STATS, OPT_NO_HASH, OPT_MIGRATE,
	OPT_RATE, OPT_ROUNDS, OPT_LEFT, OPT_AFTER, OPT_HELP };

static const struct option long_options[] = {
	{"kernel", required_argument, NULL, OPT_KERNEL}, {"initrd", required_argument, NULL, OPT_INITRD},
	{"append", required_argument, NULL, OPT_APPEND}, {"memory", required_argument, NULL, OPT_MEMORY},
	{"seconds", required_argument, NULL, OPT_SECONDS}, {"prefix", required_argument, NULL, OPT_PREFIX},
	{"stats", no_argument, NULL, OPT_STATS}, {"no-hash", no_argument, NULL, OPT_NO_HASH},
	{"migrate", required_argument, NULL, OPT_MIGRATE}, {"rate", required_argument, NULL, OPT_RATE},
	{"rounds", required_argument, NULL, OPT_ROUNDS}, {"left", required_argument, NULL, OPT_LEFT},
	{"after", required_argument, NULL, OPT_AFTER},
	{"help", no_argument, NULL, OPT_HELP}, {NULL, 0, NULL, 0},
};

/* A number from @min to @max. */
static int number(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *v, struct error *err)
{
	char *end;

	errno = 0;
	*v = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || *v < min || *v > max)
		return error_set(err, -EINVAL, "--%s %s: not a number from %" PRIu64 " to %" PRIu64, option, text, min, max);
	return 0;
}

static int take_option(struct options *o, int opt, struct error *err)
{
	uint64_t v = 0;
	int ret = 0;

	switch (opt) {
	case OPT_KERNEL: o->kernel = optarg; break;
	case OPT_INITRD: o->initrd = optarg; break;
	case OPT_APPEND: o->append = optarg; break;
	case OPT_PREFIX: o->prefix = optarg; break;
	case OPT_MIGRATE: o->migrate = optarg; break;
	case OPT_STATS: o->stats = true; break;
	case OPT_NO_HASH: o->hash = false; break;
	case OPT_MEMORY:
		ret = number("memory", optarg, 4, 65536, &v, err);
		o->memory = v * MIB;
		break;
	case OPT_SECONDS: ret = number("seconds", optarg, 1, 1000000, &o->seconds, err); break;
	case OPT_AFTER: ret = number("after", optarg, 0, 1000000000, &o->after_us, err); break;
	case OPT_RATE:
		ret = number("rate", optarg, 1, 1000000, &v, err);
		o->migration.bytes_per_second = v * MIB;
		break;
	case OPT_ROUNDS:
		ret = number("rounds", optarg, 1, 1000, &v, err);
		o->migration.rounds = (unsigned)v;
		break;
	case OPT_LEFT: ret = number("left", optarg, 0, UINT32_MAX, &o->migration.left_pages, err); break;
	default: return -EINVAL;
	}
	return ret;
}

/* ---- loading, as vm/vm.c does it ---- */

static int load(const struct options *o, struct load_request *rq, struct platform *p, struct error *err)
{
	uint8_t tables[PAGE_SIZE];
	size_t n = acpi_build(tables, sizeof(tables), false, ACPI_LOAD_GPA, &rq->rsdp);
	int ret = n ? engine_mem_write(rq->vm, gpa(ACPI_LOAD_GPA), tables, n) : -ENOSPC;

	(void)o;
	if (ret)
		return error_set(err, ret, "the ACPI tables do not fit in guest memory");
	if (load_detect(&rq->kernel) == LOAD_MULTIBOOT)
		ret = firmware_leave_behind(rq->vm, p, err);
	return ret ? ret : load_kernel(rq, err);
}

static int load_files(const struct options *o, struct engine_vm *vm, struct platform *p, struct error *err)
{
	struct load_module initrd = {.args = ""};
	struct load_request rq = {.vm = vm, .memory = o->memory, .cmdline = o->append, .module = &initrd, .long_mode = true};
	int ret = blob_read(&rq.kernel, "kernel", o->kernel, KERNEL_BYTES_MAX, err);

	if (ret)
		return ret;
	if (o->initrd) {
		ret = blob_read(&initrd.file, "initrd", o->initrd, KERNEL_BYTES_MAX, err);
		rq.modules = 1;
	}
	if (ret == 0)
		ret = load(o, &rq, p, err);
	if (initrd.file.data)
		blob_free(&initrd.file);
	blob_free(&rq.kernel);
	return ret;
}

/* ---- what came of it ---- */

static const char *const end_name[] = {
	[KVM_END_NONE] = "timeout", [KVM_END_POWER_OFF] = "poweroff", [KVM_END_RESET] = "reset", [KVM_END_EXIT] = "debug-exit",
	[KVM_END_SHUTDOWN] = "triple-fault", [KVM_END_FAIL] = "failure",
};

static void show_migration(const struct kvm_migration *g)
{
	printf("KVM-MIGRATED rounds %u sent %" PRIu64 " dirty %" PRIu64 " differ %" PRIu64 " total-us %" PRIu64
	       " down-us %" PRIu64 "\n", g->rounds_done, g->sent, g->dirty, g->differ, g->total_ns / 1000, g->down_ns / 1000);
}

static void show_stats_of(int fd, const char *which)
{
	struct kvm_stats_header h;
	uint8_t *d;
	size_t each;

	if (pread(fd, &h, sizeof(h), 0) != sizeof(h) || h.num_desc > 1000 || h.name_size > 256)
		return;
	each = sizeof(struct kvm_stats_desc) + h.name_size;
	d = malloc(each * h.num_desc);
	if (d && pread(fd, d, each * h.num_desc, h.desc_offset) == (ssize_t)(each * h.num_desc)) {
		for (uint32_t i = 0; i < h.num_desc; i++) {
			struct kvm_stats_desc head;
			uint64_t v = 0;

			memcpy(&head, d + i * each, sizeof(head));
			if (head.size == 1 && pread(fd, &v, 8, h.data_offset + head.offset) == 8 && v)
				printf("KVM-STAT %s %.*s %" PRIu64 "\n", which, (int)h.name_size,
				       (const char *)d + i * each + sizeof(head), v);
		}
	}
	free(d);
}

static void show_stats(const struct engine_vm *vm)
{
	int fds[2] = {ioctl(vm->fd, KVM_GET_STATS_FD, NULL), ioctl(vm->vcpu, KVM_GET_STATS_FD, NULL)};

	for (unsigned i = 0; i < 2; i++) {
		if (fds[i] < 0)
			continue;
		show_stats_of(fds[i], i ? "vcpu" : "vm");
		close(fds[i]);
	}
}

static void show_end(const struct kvm_machine *m, const struct options *o, enum kvm_end end)
{
	uint64_t hash[2];

	if (o->stats)
		show_stats(m->vm);
	printf("KVM-TIME %" PRIu64 " us\n", kvm_machine_now(m) / 1000);
	if (o->hash) {
		kvm_vm_hash(m->vm, hash);
		printf("KVM-MEMORY %016" PRIx64 "%016" PRIx64 "\n", hash[1], hash[0]);
	}
	printf("KVM-END %s%s%s\n", end_name[end], *m->failure ? ": " : "", m->failure);
	fflush(stdout);
}

static int status_of(const struct kvm_machine *m, enum kvm_end end)
{
	if (end == KVM_END_EXIT)
		return (int)(platform_debug_code(&m->platform) & 0xff);
	return end == KVM_END_POWER_OFF ? 0 : 2;
}

/* ---- the run ---- */

static int migrate(struct kvm_machine *m, struct options *o, struct engine_vm *to, enum kvm_end *end, struct error *err)
{
	struct engine_vm *from = m->vm;
	int ret = kvm_vm_create(to, from->host, from->memory, err);

	if (ret)
		return ret;
	ret = kvm_migrate(m, to, &o->migration, end, err);
	kvm_vm_destroy(m->vm == to ? from : to);
	if (ret == 0 && *end == KVM_END_NONE)
		show_migration(&o->migration);
	return ret;
}

/* @vm[0] runs; @vm[1] is where it may move to. */
static int run(struct kvm_machine *m, struct options *o, struct engine_vm vm[2], enum kvm_end *end, struct error *err)
{
	uint64_t until = o->seconds ? o->seconds * 1000000000 : UINT64_MAX;
	int ret;

	m->watch = o->migrate;
	*end = kvm_machine_run(m, until);
	if (*end == KVM_END_NONE && m->seen) {
		m->watch = NULL;
		m->seen = false;
		*end = kvm_machine_run(m, kvm_machine_now(m) + o->after_us * 1000);
		ret = *end == KVM_END_NONE ? migrate(m, o, &vm[1], end, err) : 0;
		if (ret)
			return ret;
		if (*end == KVM_END_NONE)
			*end = kvm_machine_run(m, until);
	}
	kvm_machine_flush(m);
	return 0;
}

static int run_vm(struct options *o, const struct kvm_host *host, int *status, struct error *err)
{
	struct engine_vm vm[2];
	struct kvm_machine *m = malloc(sizeof(*m));
	enum kvm_end end;
	int ret = m ? kvm_vm_create(&vm[0], host, o->memory, err) : error_set(err, -ENOMEM, "out of memory");

	if (ret)
		goto out;
	ret = kvm_machine_init(m, &vm[0], o->prefix, err);
	if (ret == 0) {
		ret = load_files(o, &vm[0], &m->platform, err);
		if (ret == 0)
			ret = run(m, o, vm, &end, err);
		if (ret == 0) {
			show_end(m, o, end);
			*status = status_of(m, end);
		}
		kvm_machine_fini(m);
	}
	kvm_vm_destroy(m->vm);
out:
	free(m);
	return ret;
}

int main(int argc, char **argv)
{
	struct options o = {.append = "", .prefix = "| ", .memory = 128 * MIB, .hash = true,
			    .migration = {.bytes_per_second = 64 * MIB, .rounds = 8, .left_pages = 64}};
	struct error err = {0, ""};
	struct kvm_host host;
	int opt, status = 2, ret = 0;

	while (ret == 0 && (opt = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		if (opt == OPT_HELP) {
			fputs(usage, stdout);
			return 0;
		}
		ret = take_option(&o, opt, &err);
	}
	if (ret == 0 && (!o.kernel || optind != argc))
		ret = -EINVAL;
	if (ret) {
		fprintf(stderr, "%s%s%s", *err.text ? "gnomon-kvm: " : usage, err.text, *err.text ? "\n" : "");
		return 2;
	}
	ret = kvm_host_open(&host, &err);
	if (ret == 0) {
		ret = run_vm(&o, &host, &status, &err);
		kvm_host_close(&host);
	}
	if (ret)
		fprintf(stderr, "gnomon-kvm: %s\n", err.text);
	return ret ? 2 : status;
}
