/*
 * Fuzzing files with a whole VM: whatever is in one, it is opened, verified, printed, made a VM of that runs a little,
 * or refused with one clear line; in bounded memory. With clang -fsanitize=fuzzer this is a libFuzzer target; without it
 * a main() replays files, or takes states of a small VM and damages them, mostly with checksums made right again:
 *
 *	fuzz_saved [-n ROUNDS] [-s SEED] [FILE...]
 *
 * The first byte of an input says under which scheme.
 */
#include "base/state.h"
#include "fuzz_main.h"
#include "pick.h"
#include "vm/checkpoint.h"
#include "vm/checkpoint_store.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define FILE_MAX     (1u << 20)
#define MEMORY       ((uint64_t)4 << 20)
#define MEMORY_MAX   ((uint64_t)64 << 20) /* a file may claim more, and would get it */
#define ROOM         ((rlim_t)3 << 30)    /* of addresses: all that may ever be asked for */
#define SECTIONS_MAX 256

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* A result and its message: 0, or an error with one line. */
static bool fine(int ret, struct error *err)
{
	if (ret) {
		must(ret < 0 && err->code == ret && *err->text);
		for (const char *p = err->text; *p; p++)
			must((unsigned char)*p >= ' ' && *p != 0x7f);
	}
	*err = (struct error){0};
	return !ret;
}

/* The directory that inputs are written to; "a" in it is what some of them stand on. */
static const char *directory(void)
{
	static char dir[64];

	if (!*dir) {
		snprintf(dir, sizeof(dir), "%s/fuzz-saved-%d", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", getpid());
		must(mkdir(dir, 0700) == 0);
	}
	return dir;
}

static char *in_directory(const char *name, char path[96])
{
	snprintf(path, 96, "%s/%s", directory(), name);
	return path;
}

/* ---- what is done with a file ---- */

static int print_section(void *ctx, const struct stream_section *s, struct error *err)
{
	(void)err;
	state_print(s->data, s->bytes, 0, ctx, NULL);
	return 0;
}

static void show(struct saved *s)
{
	FILE *nowhere = fopen("/dev/null", "w");
	struct error err = {0};

	must(nowhere);
	fine(saved_verify(s, &err), &err);
	fine(state_file_each(saved_file(s), print_section, nowhere, &err), &err);
	fclose(nowhere);
}

static void run_it(struct saved *s, unsigned scheme)
{
	static struct vm_result result;
	struct vm_config cfg;
	struct error err = {0};
	struct vm_stop stop = VM_STOP_NONE;
	struct vm *vm;

	vm_config_default(&cfg);
	if (!fine(saved_config(s, &cfg, &err), &err) || cfg.engine.memory > MEMORY_MAX)
		return;
	cfg.engine.mmu = scheme % ENGINE_MMU_COUNT;
	cfg.engine.audit = scheme & 16;
	cfg.devices.disks = cfg.devices.nets = 0; /* files and networks that it names are not its own */
	cfg.devices.console = NULL;
	cfg.clock = VM_CLOCK_ICOUNT;
	if (!fine(saved_make_vm(s, &cfg, &vm, &err), &err))
		return;
	stop.insns = vm_insns(vm) + 3000;
	vm_run_until(vm, &stop);
	if (scheme & 32)
		vm_result(vm, &result);
	vm_destroy(vm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[96];
	struct error err = {0};
	struct checkpoint_list list;
	struct saved *s;
	int fd;

	if (size < 1 || size > FILE_MAX)
		return 0;
	fd = open(in_directory("x", path), O_WRONLY | O_CREAT | O_TRUNC, 0600);
	must(fd >= 0 && write(fd, data + 1, size - 1) == (ssize_t)size - 1);
	close(fd);
	if (fine(checkpoint_list_read(&list, directory(), &err), &err))
		checkpoint_list_free(&list);
	if (!fine(saved_open(&s, path, &err), &err))
		return 0;
	if (data[0] & 64)
		show(s);
	run_it(s, data[0]);
	saved_close(s);
	return 0;
}

#ifndef FUZZ_WITH_LIBFUZZER

/* ---- states to damage ---- */

struct base {
	uint8_t *data;
	size_t bytes;
};

/* A multiboot kernel without a file format that writes here and there for ever. */
static const uint32_t header[8] = {0x1badb002, 0x10000, -(0x1badb002u + 0x10000), 0x100000, 0x100000, 0, 0, 0x100020};
static const uint8_t code[] = {
	0xbf, 0, 0, 0x20, 0, 0x01, 0x07, 0x40, 0x81, 0xc7, 0x04, 0x80, 0, 0, 0x81, 0xff, 0, 0, 0x30, 0, 0x72, 0xef, 0xeb, 0xe8,
};

static struct vm *make_vm(enum engine_mmu mmu)
{
	uint8_t image[sizeof(header) + sizeof(code)];
	struct vm_stop stop = VM_STOP_NONE;
	struct error err = {0};
	struct vm_config cfg;
	struct vm *vm;

	memcpy(image, header, sizeof(header));
	memcpy(image + sizeof(header), code, sizeof(code));
	vm_config_default(&cfg);
	cfg.kernel = "writer";
	cfg.kernel_image = image;
	cfg.kernel_bytes = sizeof(image);
	cfg.append = "";
	cfg.engine.memory = MEMORY;
	cfg.engine.mmu = mmu;
	cfg.devices.rng = true;
	cfg.devices.balloon = true;
	must(vm_create(&vm, &cfg, &err) == 0);
	stop.insns = 2000;
	must(vm_run_until(vm, &stop) != VM_STOPPED_END);
	return vm;
}

static void load(struct base *b, const char *path)
{
	int fd = open(path, O_RDONLY);

	b->data = malloc(FILE_MAX);
	must(fd >= 0 && b->data);
	b->bytes = (size_t)read(fd, b->data, FILE_MAX);
	close(fd);
	must(b->bytes && b->bytes < FILE_MAX);
}

static void suspend_one(struct base *b, int compress)
{
	const struct suspend_options o = {.compress = compress, .replace = true};
	struct vm *vm = make_vm(ENGINE_NATIVE);
	struct error err = {0};
	char path[96];

	must(vm_suspend(vm, in_directory("x", path), &o, &err) == 0);
	vm_destroy(vm);
	load(b, path);
}

/* One that stands on "a", and that, which stays. */
static void take_two(struct base *parent, struct base *child)
{
	const struct checkpoint_options o = {.full = false};
	struct vm_stop stop = VM_STOP_NONE;
	struct vm *vm = make_vm(ENGINE_EPT);
	struct checkpointer *c;
	struct error err = {0};
	char path[96];

	must(checkpointer_create(&c, vm, &err) == 0);
	must(checkpoint_take(c, in_directory("a", path), &o, &err) == 0);
	checkpoint_wait(c);
	load(parent, path);
	stop.insns = 2400;
	must(vm_run_until(vm, &stop) != VM_STOPPED_END);
	must(checkpoint_take(c, in_directory("b", path), &o, &err) == 0);
	checkpoint_wait(c);
	must(checkpoint_last(c)->incremental);
	load(child, path);
	unlink(path);
	checkpointer_destroy(c);
	vm_destroy(vm);
}

/* ---- damage ---- */

struct section {
	const uint8_t *head, *data; /* in the base */
	size_t name_bytes, bytes;
};

static unsigned split(const struct base *b, struct section *s)
{
	unsigned n = 0;

	for (size_t at = STREAM_HEADER_BYTES; at < b->bytes && n < SECTIONS_MAX; n++) {
		s[n].head = b->data + at;
		s[n].name_bytes = b->data[at];
		s[n].bytes = get_u64(b->data + at + 1 + s[n].name_bytes);
		s[n].data = b->data + at + 1 + s[n].name_bytes + 8;
		at += 1 + s[n].name_bytes + 8 + s[n].bytes + 8;
	}
	return n - 1; /* without "end" */
}

static uint64_t odd_number(void)
{
	switch (pick(4)) {
	case 0:
		return pick(5);
	case 1:
		return 1ull << pick(64);
	case 2:
		return UINT64_MAX >> pick(64);
	default:
		return pick(70000);
	}
}

/* Changes a payload; returns how long it is then. There is room for 64 bytes more. */
static size_t change_payload(uint8_t *data, size_t bytes)
{
	size_t at = bytes ? pick((unsigned)(pick(2) ? bytes : min_u64(bytes, 600))) : 0, n;
	uint64_t v = odd_number();

	switch (pick(6)) {
	case 0:
		if (bytes)
			data[at] ^= (uint8_t)(1u << pick(8));
		break;
	case 1:
		if (bytes)
			data[at] = (uint8_t)("0123456789-\"{}[],:e."[pick(20)]);
		break;
	case 2:
		n = min_u64(1u << pick(4), bytes - at);
		memcpy(data + at, &v, n);
		break;
	case 3: /* something goes */
		n = min_u64(1 + pick(20), bytes - at);
		memmove(data + at, data + at + n, bytes - at - n);
		return bytes - n;
	case 4: /* something comes twice */
		n = min_u64(1 + pick(20), bytes - at);
		memmove(data + at + n, data + at, bytes - at);
		return bytes + n;
	default:
		return pick(8) ? bytes : at;
	}
	return bytes;
}

struct output {
	uint8_t *data;
	size_t bytes;
	uint64_t sections;
};

/* A section with its checksum, usually. */
static void put(struct output *o, const uint8_t *name, size_t name_bytes, const uint8_t *payload, size_t bytes)
{
	uint8_t *head = o->data + o->bytes, *p = head;

	*p++ = (uint8_t)name_bytes;
	memcpy(p, name, name_bytes);
	p += name_bytes;
	put_u64(p, pick(300) ? bytes : odd_number());
	p += 8;
	memcpy(p, payload, bytes);
	p += bytes;
	put_u64(p, XXH3_64bits(head, (size_t)(p - head)));
	o->bytes = (size_t)(p + 8 - o->data);
	o->sections++;
}

static void put_changed(struct output *o, const struct section *s)
{
	static uint8_t payload[FILE_MAX + 64];
	size_t bytes = s->bytes;

	memcpy(payload, s->data, bytes);
	for (unsigned n = 1 + pick(3); n; n--)
		bytes = change_payload(payload, bytes);
	if (bytes >= 8 && s->name_bytes >= 5 && !memcmp(s->head + 1, "pages", 5) && pick(4)) {
		uint32_t count = get_u32(payload);

		if (count <= PAGES_BATCH && 8 + 16 * (size_t)count <= bytes)
			put_u32(payload + 4, (uint32_t)XXH3_64bits(payload + 8, 16 * (size_t)count));
	}
	put(o, s->head + 1, s->name_bytes, payload, bytes);
}

/* A file as the base's, with some sections changed, left out, twice, or in another place. */
static size_t make_file(const struct base *b, uint8_t *out)
{
	struct section s[SECTIONS_MAX];
	struct output o = {.data = out};
	unsigned n = split(b, s), chosen = pick(n);
	uint8_t count[8];

	memcpy(out, b->data, STREAM_HEADER_BYTES);
	o.bytes = STREAM_HEADER_BYTES;
	for (unsigned i = 0; i < n; i++) {
		const struct section *which = pick(200) ? &s[i] : &s[pick(n)];

		if (o.bytes + which->bytes + 200 > FILE_MAX - 2048 || pick(400) == 0)
			continue;
		if (i == chosen || pick(30) == 0)
			put_changed(&o, which);
		else
			put(&o, which->head + 1, which->name_bytes, which->data, which->bytes);
	}
	put_u64(count, pick(100) ? o.sections : odd_number());
	put(&o, (const uint8_t *)"end", 3, count, sizeof(count));
	return o.bytes;
}

/* Anything, anywhere, and no checksum is right. */
static size_t damage_raw(uint8_t *data, size_t bytes)
{
	for (unsigned n = 1 + pick(3); n; n--)
		data[pick(4) ? pick((unsigned)bytes) : pick(200)] ^= (uint8_t)(1u << pick(8));
	return pick(3) ? bytes : pick((unsigned)bytes);
}

static void fuzz(uint64_t rounds, uint64_t seed)
{
	uint8_t *input = malloc(2 * FILE_MAX);
	struct base base[4];
	unsigned bases = 0;

	must(input);
	random_state = seed;
	suspend_one(&base[bases++], 0);
	suspend_one(&base[bases++], 3);
	take_two(&base[bases], &base[bases + 1]);
	bases += 2;
	for (uint64_t i = 0; i < rounds; i++) {
		const struct base *b = &base[pick(bases)];
		size_t bytes;

		input[0] = (uint8_t)pick(256);
		memcpy(input + 1, b->data, b->bytes);
		bytes = i < 8 ? b->bytes : pick(6) ? make_file(b, input + 1) : damage_raw(input + 1, b->bytes);
		LLVMFuzzerTestOneInput(input, 1 + bytes);
	}
	printf("%llu files\n", (unsigned long long)rounds);
	while (bases--)
		free(base[bases].data);
	free(input);
}

static void clean_up(void)
{
	char path[96];

	unlink(in_directory("x", path));
	unlink(in_directory("a", path));
	rmdir(directory());
}

int main(int argc, char **argv)
{
	int status;
#ifndef __SANITIZE_ADDRESS__ /* which needs all addresses for itself */
	const struct rlimit room = {ROOM, ROOM};

	must(setrlimit(RLIMIT_AS, &room) == 0);
#endif
	status = fuzz_main(argc, argv, 500, FILE_MAX, fuzz);
	clean_up();
	return status;
}

#endif
