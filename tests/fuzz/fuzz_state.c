/*
 * Fuzzing the state of a VM: saved sections, changed, are loaded into a VM, which then runs for a while. With clang
 * -fsanitize=fuzzer this is a libFuzzer target; without it a main() replays files, or saves the state of a guest at
 * random places and changes it:
 *
 *	fuzz_state [-n ROUNDS] [-s SEED] GUEST [FILE...]
 *
 * An input is a byte that chooses the scheme, then sections: length of the name, name, 4 bytes of length, bytes. Whatever
 * is refused must be so with one line; whatever is accepted must run, to whatever end, in finite time.
 */
#include "vm/vm_state.h"

#include "pick.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define RUN_INSNS    20000u
#define DISK_BYTES   (1u << 20)
#define MEMORY       ((uint64_t)16 << 20)
#define ROUND_SECONDS 20 /* a round that takes longer hangs */
#define INPUT_MAX    (2u << 20)
#define PAGES_MAX    4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Contents of memory that go with the states: so that what runs is a guest. */
static struct { uint64_t page; uint8_t bytes[4096]; } *memory;
static unsigned memory_pages;
static char disk_path[] = "/tmp/fuzz-state-disk-XXXXXX", disk_option[64];

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz_state: %s\n", what);
	abort();
}

static void configure(struct vm_config *cfg, enum engine_mmu mmu)
{
	vm_config_default(cfg);
	cfg->engine.mmu = mmu;
	cfg->engine.memory = MEMORY;
	cfg->engine.cpu.code_cache = 1u << 20;
	cfg->devices.disk[cfg->devices.disks++] = disk_option;
	cfg->devices.net[cfg->devices.nets++] = "none";
	cfg->devices.rng = cfg->devices.balloon = true;
	cfg->devices.balloon_bytes = 1u << 20;
	cfg->devices.console = "/dev/null";
}

static void make_disk(void)
{
	int fd = *disk_option ? -1 : mkstemp(disk_path);

	if (fd < 0)
		return;
	must(ftruncate(fd, DISK_BYTES) == 0, "no disk");
	close(fd);
	snprintf(disk_option, sizeof(disk_option), "%s", disk_path);
}

/* ---- one input ---- */

static bool load_all(struct vm *vm, const uint8_t *data, size_t size)
{
	struct error err = {0};
	char name[64];

	while (size) {
		size_t n = data[0], bytes;
		int ret;

		if (n >= sizeof(name) || size < 1 + n + 4)
			break;
		memcpy(name, data + 1, n);
		name[n] = 0;
		bytes = min_u64(get_u32(data + 1 + n), size - 1 - n - 4);
		data += 1 + n + 4;
		size -= 1 + n + 4;
		ret = vm_load_section(vm, name, data, bytes, &err);
		must(ret <= 0 && (!ret || (*err.text && !strchr(err.text, '\n'))), "no line for an error");
		if (ret)
			return false;
		data += bytes;
		size -= bytes;
	}
	return vm_load_finish(vm, &err) == 0;
}

static int drop(void *ctx, const char *name, const void *bytes, size_t n, struct error *err)
{
	(void)ctx, (void)name, (void)err;
	must(bytes && n, "an empty section");
	return 0;
}

/* It runs, and what comes of it can be saved. */
static void run(struct vm *vm)
{
	const struct vm_stop stop = {.insns = vm_insns(vm) + RUN_INSNS};
	const struct state_sink sink = {NULL, drop};
	struct error err = {0};

	for (unsigned i = 0; i < memory_pages; i++)
		engine_mem_write(vm_engine(vm), engine_page_gpa(vm_engine(vm), memory[i].page), memory[i].bytes, 4096);
	if (vm_run_until(vm, &stop) == VM_STOPPED_END || vm_quiesce(vm))
		return;
	must(vm_save_state(vm, &sink, &err) == 0, err.text);
}

/* @loaded: whether it was accepted; may be NULL */
static void try(const uint8_t *data, size_t size, bool *loaded)
{
	struct vm_config cfg;
	struct error err = {0};
	struct vm *vm;
	bool ok;

	if (!size)
		return;
	make_disk();
	configure(&cfg, (enum engine_mmu)(data[0] % ENGINE_MMU_COUNT));
	must(vm_create_empty(&vm, &cfg, &err) == 0, err.text);
	alarm(ROUND_SECONDS);
	ok = load_all(vm, data + 1, size - 1);
	if (ok)
		run(vm);
	alarm(0);
	vm_destroy(vm);
	if (loaded)
		*loaded = ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1); /* of exactly this size, so that a read past it is seen */

	memcpy(copy, data, size);
	try(copy, size, NULL);
	free(copy);
	return 0;
}

#ifndef FUZZ_WITH_LIBFUZZER

/* ---- making inputs: the state of a guest ---- */

struct input {
	uint8_t *data; /* [INPUT_MAX] */
	size_t size;
};

static int append_section(void *ctx, const char *name, const void *bytes, size_t n, struct error *err)
{
	struct input *in = ctx;
	size_t length = strlen(name);

	(void)err;
	if (!strcmp(name, VM_STATE_CONFIG))
		return 0;
	must(in->size + 5 + length + n <= INPUT_MAX, "states are too long");
	in->data[in->size] = (uint8_t)length;
	memcpy(in->data + in->size + 1, name, length);
	put_u32(in->data + in->size + 1 + length, (uint32_t)n);
	memcpy(in->data + in->size + 5 + length, bytes, n);
	in->size += 5 + length + n;
	return 0;
}

static void keep_memory(struct engine_vm *vm)
{
	static const uint8_t zeros[4096];

	memory_pages = 0;
	for (uint64_t n = 0; n < engine_pages(vm) && memory_pages < PAGES_MAX; n++) {
		memory[memory_pages].page = n;
		engine_mem_read(vm, engine_page_gpa(vm, n), memory[memory_pages].bytes, 4096);
		memory_pages += memcmp(memory[memory_pages].bytes, zeros, 4096) != 0;
	}
}

/* Runs the guest to somewhere. */
static void make_input(struct input *in, const char *guest)
{
	const struct vm_stop stop = {.insns = 1 + pick(3) * pick(200000), .on_halt = pick(2)};
	const struct state_sink sink = {in, append_section};
	struct error err = {0};
	struct vm_config cfg;
	struct vm *vm;

	make_disk();
	configure(&cfg, ENGINE_NATIVE);
	cfg.kernel = guest;
	must(vm_create(&vm, &cfg, &err) == 0, err.text);
	if (vm_run_until(vm, &stop) == VM_STOPPED_END || vm_quiesce(vm)) {
		vm_destroy(vm);
		make_input(in, guest);
		return;
	}
	in->size = 1;
	must(vm_save_state(vm, &sink, &err) == 0, err.text);
	keep_memory(vm_engine(vm));
	vm_destroy(vm);
}

/* ---- changing them ---- */

/* The numbers and bytes in saved structs: enough of the encoding to find them. */
struct place { size_t at, size; };
struct places {
	struct place place[32768];
	unsigned count;
};

static size_t note_struct(struct places *p, const uint8_t *d, size_t at);

static size_t note_field(struct places *p, const uint8_t *d, size_t at)
{
	unsigned kind, size;
	uint32_t count;

	at += 1 + d[at];
	kind = d[at] & 127;
	size = d[at + 1];
	count = get_u32(d + at + 2);
	at += 6;
	for (uint32_t i = 0; i < count; i++) {
		if (kind == STATE_STRUCT) {
			at = note_struct(p, d, at);
			continue;
		}
		/* Of long arrays of bytes a few: what matters is elsewhere. */
		if (p->count < ARRAY_SIZE(p->place) && (kind != STATE_BYTES || i < 64))
			p->place[p->count++] = (struct place){at, size};
		at += size;
	}
	return at;
}

static size_t note_struct(struct places *p, const uint8_t *d, size_t at)
{
	unsigned fields;

	at += 1 + d[at] + 2;
	fields = get_u16(d + at);
	at += 2;
	while (fields--)
		at = note_field(p, d, at);
	return at;
}

static void find_places(struct places *p, const struct input *in)
{
	p->count = 0;
	for (size_t at = 1; at < in->size;) {
		at += 1 + in->data[at] + 4;
		at = note_struct(p, in->data, at);
	}
}

static uint64_t some_number(uint64_t was)
{
	static const uint64_t edges[] = {0, 1, 2, 255, 256, 0xffff, 0x10000, 0x7fffffff, 0xffffffff, 1ull << 32, 1ull << 47,
					 1ull << 62, 1ull << 63, ~0ull, ~0ull - 1, 0xfee00000, 0xc0000000};

	switch (pick(6)) {
	case 0:
		return edges[pick(ARRAY_SIZE(edges))];
	case 1:
		return was + pick(5) - 2;
	case 2:
		return was ^ 1ull << pick(64);
	case 3:
		return pick(300);
	case 4:
		return was << pick(8);
	default:
		return (uint64_t)pick(1u << 31) << 33 ^ (uint64_t)pick(1u << 31);
	}
}

static void change_value(struct input *in, const struct places *p)
{
	const struct place *x = &p->place[pick(p->count)];
	uint64_t v = 0;

	memcpy(&v, in->data + x->at, x->size);
	v = some_number(v);
	memcpy(in->data + x->at, &v, x->size);
}

/* Mostly values, so that what is loaded is a state; sometimes its form. */
static void change(struct input *in, const struct places *p)
{
	unsigned n = pick(4) ? 1 + pick(3) : 1 + pick(60);

	in->data[0] = (uint8_t)pick(256);
	if (pick(12) == 0) {
		in->data[1 + pick((unsigned)in->size - 1)] ^= (uint8_t)(1u << pick(8));
		if (pick(4) == 0)
			in->size = 1 + pick((unsigned)in->size - 1);
		return;
	}
	while (n--)
		change_value(in, p);
}

static void change_at_random(const char *guest, unsigned long rounds)
{
	static struct places places;
	struct input base = {malloc(INPUT_MAX), 0}, changed = {malloc(INPUT_MAX), 0};
	unsigned long accepted = 0;

	for (unsigned long i = 0; i < rounds; i++) {
		bool ok = false;

		if (i % 64 == 0) {
			make_input(&base, guest);
			find_places(&places, &base);
			must(places.count > 500, "the state has no numbers");
			try(base.data, base.size, &ok);
			must(ok, "a state that was saved is not accepted");
		}
		memcpy(changed.data, base.data, base.size);
		changed.size = base.size;
		change(&changed, &places);
		try(changed.data, changed.size, &ok);
		accepted += ok;
	}
	printf("%lu states, %lu accepted\n", rounds, accepted);
	free(base.data);
	free(changed.data);
}

static void replay(const char *path)
{
	FILE *f = fopen(path, "r");
	uint8_t *data = malloc(INPUT_MAX);

	must(f && data, path);
	LLVMFuzzerTestOneInput(data, fread(data, 1, INPUT_MAX, f));
	free(data);
	fclose(f);
}

int main(int argc, char **argv)
{
	unsigned long rounds = 1000;
	int c;

	while ((c = getopt(argc, argv, "n:s:")) != -1) {
		if (c == 'n')
			rounds = strtoul(optarg, NULL, 0);
		else if (c == 's')
			random_state = strtoull(optarg, NULL, 0) * 2 + 1;
		else
			return 2;
	}
	if (optind == argc)
		return 2;
	memory = malloc(PAGES_MAX * sizeof(*memory));
	for (int i = optind + 1; i < argc; i++)
		replay(argv[i]);
	if (optind + 1 == argc)
		change_at_random(argv[optind], rounds);
	unlink(disk_path);
	free(memory);
	return 0;
}

#endif
