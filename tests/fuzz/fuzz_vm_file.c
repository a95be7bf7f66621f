/*
 * Fuzzing the parser of VM descriptions: whatever the text, it is taken or refused with one clear
 * line that begins with file and line number. With clang -fsanitize=fuzzer this is a libFuzzer
 * target; without it a main() replays files, or makes up descriptions and damages them:
 *
 *	fuzz_vm_file [-n ROUNDS] [-s SEED] [FILE...]
 */
#include "cli/vm_file.h"
#include "vm/file.h"

#include <stdlib.h>

#define ORIGIN "dir/some.vm"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__lsan_default_suppressions(void);

/* libconfig 1.5 loses the string it is in when the text ends or makes no sense. */
const char *__lsan_default_suppressions(void) { return "leak:libconfig"; }

static void check_refusal(const struct error *err)
{
	const char *p = err->text + strlen(ORIGIN);

	if (strncmp(err->text, ORIGIN ":", strlen(ORIGIN) + 1) != 0 || p[1] < '0' || p[1] > '9')
		abort();
	for (p = err->text; *p; p++)
		if ((unsigned char)*p < ' ')
			abort();
}

static void check_taken(const struct vm_file *f)
{
	const struct vm_config *c = &f->vm.cfg;

	if (!c->kernel || !f->vm.name || !*f->vm.name || strlen(f->vm.name) > VM_NAME_MAX || c->clock != VM_CLOCK_ICOUNT ||
	    engine_mmu_is_bare(c->engine.mmu) || c->engine.mmu >= ENGINE_MMU_COUNT || !c->engine.memory)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *copy = malloc(size ? size : 1); /* of exactly this size, so that a read past it is seen */
	struct vm_config defaults;
	struct error err = {0};
	struct vm_file f;

	if (!copy)
		return 0;
	memcpy(copy, data, size);
	vm_config_default(&defaults);
	if (vm_file_parse(&f, copy, size, ORIGIN, &defaults, &err)) {
		check_refusal(&err);
	} else {
		check_taken(&f);
		vm_file_free(&f);
	}
	free(copy);
	return 0;
}

#ifndef FUZZ_WITH_LIBFUZZER

#include "fuzz_main.h"
#include "pick.h"

#define TEXT_BYTES 2048

static void add(char *text, const char *more)
{
	strncat(text, more, TEXT_BYTES - strlen(text) - 1);
}

static void make_up(char *text)
{
	static const char *const keys[] = {"kernel", "initrd", "append", "memory", "mmu", "seed", "clock", "limit-insns",
					   "host-pages", "shadow-sync", "shadow-memory", "audit", "audit-every", "serial",
					   "report", "name", "hw", "cpu-features", "maxphyaddr", "nonsense", "@include"};
	static const char *const values[] = {"\"k\"", "\"a\" \"b\"", "\"64M\"", "64", "0x40", "0x80000000", "-1", "5L",
					     "9223372036854775807L", "99999999999999999999", "1e9", "true", "false", "\"ept\"",
					     "\"shadow\"", "\"native\"", "\"icount\"", "\"4k\"", "\"2m\"", "\"lazy\"", "\"\"",
					     "\"\\n\\x00\\x01\"", "{ a = 1; }", "( 1, 2 )", "[ 1, 2 ]", "\"stdio\"", "\"none\""};
	static const char *const ends[] = {";\n", "\n", ";", ",\n", " # x\n", "; /* */ ", "//\n", ""};

	*text = 0;
	for (unsigned n = 1 + pick(8); n; n--) {
		add(text, pick(4) ? keys[pick(ARRAY_SIZE(keys))] : "kernel");
		add(text, pick(8) ? " = " : " : ");
		add(text, values[pick(ARRAY_SIZE(values))]);
		add(text, pick(4) ? ";\n" : ends[pick(ARRAY_SIZE(ends))]);
	}
}

static void run_rounds(uint64_t rounds, uint64_t seed)
{
	char text[TEXT_BYTES];

	random_state = seed;
	for (uint64_t i = 0; i < rounds; i++) {
		size_t size;

		make_up(text);
		size = strlen(text);
		for (unsigned n = pick(4); n && size; n--)
			text[pick((unsigned)size)] = pick(2) ? (char)pick(256) : "{}()[];=\"\\\n\t@#/*,"[pick(17)];
		LLVMFuzzerTestOneInput((const uint8_t *)text, pick(8) ? size : pick((unsigned)size + 1));
	}
	printf("%llu descriptions, no failure\n", (unsigned long long)rounds);
}

int main(int argc, char **argv) { return fuzz_main(argc, argv, 20000, (size_t)1 << 20, run_rounds); }

#endif
