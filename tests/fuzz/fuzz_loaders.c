/*
 * Fuzzing the kernel loaders: hostile images, against an engine that is nothing
 * but RAM. With clang -fsanitize=fuzzer this is a libFuzzer target; without it a
 * main() replays files, or mutates made-up images for a while:
 *
 *	fuzz_loaders [-n ROUNDS] [-s SEED] [FILE...]
 */
#include "fake_engine.h"
#include "images.h"
#include "vm/load.h"
#include <stdio.h>
#include <stdlib.h>

#define MEMORY ((uint64_t)32 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One engine for all inputs: its RAM is never read, so what earlier ones left does not matter. */
static struct engine_vm *the_engine(void)
{
	static struct engine_vm *vm;

	if (!vm)
		vm = fake_engine_new(MEMORY, MEMORY);
	return vm;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t initrd[100] = {0};
	const struct load_module module = {.file = {.name = "i", .data = initrd, .bytes = sizeof(initrd)}, .args = "i x"};
	struct load_request rq = {.vm = the_engine(), .memory = MEMORY, .cmdline = "c", .module = &module, .modules = 1,
				  .rsdp = 0xe0000, .long_mode = true};
	uint8_t *copy = malloc(size ? size : 1); /* of exactly this size, so that a read past it is seen */
	struct error err = {0};

	if (!copy)
		return 0;
	memcpy(copy, data, size);
	rq.kernel = (struct blob){.name = "k", .data = copy, .bytes = size};
	if (load_kernel(&rq, &err) && (!err.text[0] || strchr(err.text, '\n')))
		abort(); /* a refusal without one clear line */
	free(copy);
	return 0;
}

#ifndef FUZZ_WITH_LIBFUZZER

#include "fuzz_main.h"
#include "pick.h"

/* Values that tend to break arithmetic. */
static uint64_t nasty(uint64_t *s)
{
	static const uint64_t values[] = {0, 1, 3, 0x7f, 0xff, 0xfff, 0x1000, 0xa0000, 0x100000, 0x7fffffff, 0x80000000,
					  0xfffff000, 0xffffffff, 0x100000000, 0x7fffffffffffffff, 0x8000000000000000,
					  0xfffffffffffff000, 0xffffffffffffffff, MEMORY, MEMORY - 1};

	return next_random(s) % 4 ? values[next_random(s) % ARRAY_SIZE(values)] : next_random(s);
}

/* Headers matter: half of the changes go to the first bytes, the rest anywhere. */
static void mutate(uint8_t *image, size_t size, uint64_t *s)
{
	for (unsigned n = 1 + next_random(s) % 4; n; n--) {
		static const unsigned widths[] = {1, 2, 4, 8};
		unsigned width = widths[next_random(s) % 4];
		size_t room = next_random(s) % 2 && size > 0x300 ? 0x300 : size;
		uint64_t v = nasty(s);

		if (room > width)
			memcpy(image + next_random(s) % (room - width), &v, width);
	}
}

static void run_rounds(uint64_t rounds, uint64_t seed)
{
	static unsigned (*const make[])(uint8_t[IMAGE_BYTES]) = {image_bzimage, image_pvh, image_multiboot_elf32,
								 image_multiboot_elf64, image_multiboot_flat};
	uint8_t image[IMAGE_BYTES];

	for (uint64_t i = 0; i < rounds; i++) {
		size_t size = make[i % ARRAY_SIZE(make)](image);

		mutate(image, size, &seed);
		if (next_random(&seed) % 8 == 0)
			size = next_random(&seed) % size;
		LLVMFuzzerTestOneInput(image, size);
	}
	printf("%llu images, no failure\n", (unsigned long long)rounds);
}

int main(int argc, char **argv)
{
	int status = fuzz_main(argc, argv, 20000, (size_t)64 << 20, run_rounds);

	fake_engine_free(the_engine());
	return status;
}

#endif
