/* Saving and loading a VM: what is refused, and the configuration as text. That it goes on bit for bit is tests/boot/carry.c. */
#include "vm/vm_config.h"
#include "vm/vm_state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTIONS 64

struct rig {
	char dir[32], disk[64], net[64], console[64];
	struct vm_config cfg;
	char name[SECTIONS][40];
	uint8_t *bytes[SECTIONS];
	size_t n[SECTIONS];
	unsigned sections;
};

static int keep(void *ctx, const char *name, const void *bytes, size_t n, struct error *err)
{
	struct rig *r = ctx;

	(void)err;
	assert_true(r->sections < SECTIONS && n <= VM_STATE_SECTION_MAX);
	snprintf(r->name[r->sections], sizeof(r->name[0]), "%s", name);
	r->bytes[r->sections] = malloc(n);
	memcpy(r->bytes[r->sections], bytes, n);
	r->n[r->sections++] = n;
	return 0;
}

static int setup(void **state)
{
	static struct rig rig;
	struct rig *r = &rig;
	const struct state_sink sink = {r, keep};
	struct vm *vm;

	memset(r, 0, sizeof(*r));
	strcpy(r->dir, "/tmp/vm-state-XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	snprintf(r->disk, sizeof(r->disk), "%s/a,,b", r->dir);
	{
		char file[64];
		FILE *f;

		snprintf(file, sizeof(file), "%s/a,b", r->dir);
		f = fopen(file, "w");
		assert_non_null(f);
		assert_int_equal(ftruncate(fileno(f), 1 << 20), 0);
		fclose(f);
	}
	vm_config_default(&r->cfg);
	r->cfg.engine.memory = 16 << 20;
	r->cfg.engine.cpu.code_cache = 1 << 20;
	r->cfg.engine.cpu.seed = 0xfedcba9876543210;
	r->cfg.devices.disk[r->cfg.devices.disks++] = r->disk;
	r->cfg.devices.net[r->cfg.devices.nets++] = "none,mac=02:00:00:00:00:09";
	r->cfg.devices.rng = true;
	snprintf(r->console, sizeof(r->console), "%s/hvc0", r->dir);
	r->cfg.devices.console = r->console;
	assert_int_equal(vm_create_empty(&vm, &r->cfg, NULL), 0);
	assert_int_equal(vm_quiesce(vm), 0);
	assert_int_equal(vm_save_state(vm, &sink, NULL), 0);
	vm_destroy(vm);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;
	char command[64];

	for (unsigned i = 0; i < r->sections; i++)
		free(r->bytes[i]);
	snprintf(command, sizeof(command), "rm -r %s", r->dir);
	return system(command);
}

static struct vm *make(struct rig *r)
{
	struct vm *vm;

	assert_int_equal(vm_create_empty(&vm, &r->cfg, NULL), 0);
	return vm;
}

static void says(const struct error *err, const char *text)
{
	if (!strstr(err->text, text))
		fail_msg("'%s' does not say '%s'", err->text, text);
}

/* ---- sections ---- */

static void all_but_one(void **state)
{
	struct rig *r = *state;

	assert_string_equal(r->name[0], VM_STATE_CONFIG);
	for (unsigned left_out = 1; left_out <= r->sections; left_out++) {
		struct vm *vm = make(r);
		struct error err = {0};

		for (unsigned i = 1; i < r->sections; i++)
			if (i != left_out)
				assert_int_equal(vm_load_section(vm, r->name[i], r->bytes[i], r->n[i], &err), 0);
		if (left_out == r->sections) {
			assert_int_equal(vm_load_finish(vm, &err), 0);
		} else {
			assert_int_equal(vm_load_finish(vm, &err), -EINVAL);
			says(&err, "is missing");
			says(&err, r->name[left_out]);
			/* Nor does it run. */
			assert_int_equal(vm_run_until(vm, &VM_STOP_NONE), VM_STOPPED_END);
			assert_int_equal(vm_why_ended(vm), VM_END_FAILED);
		}
		vm_destroy(vm);
	}
}

static void twice_and_unknown(void **state)
{
	struct rig *r = *state;

	for (unsigned i = 1; i < r->sections; i++) {
		struct vm *vm = make(r);
		struct error err = {0};

		assert_int_equal(vm_load_section(vm, r->name[i], r->bytes[i], r->n[i], &err), 0);
		assert_int_equal(vm_load_section(vm, r->name[i], r->bytes[i], r->n[i], &err), -EINVAL);
		says(&err, "twice");
		assert_int_equal(vm_load_section(vm, "pci.9", r->bytes[i], r->n[i], &err), -EINVAL);
		says(&err, "section 'pci.9'");
		vm_destroy(vm);
	}
}

/* A section under another's name is not that one's. */
static void exchanged(void **state)
{
	struct rig *r = *state;

	for (unsigned i = 1; i < r->sections; i++) {
		unsigned other = i + 1 < r->sections ? i + 1 : 1;
		struct vm *vm = make(r);
		struct error err = {0};
		int ret = vm_load_section(vm, r->name[i], r->bytes[other], r->n[other], &err);

		/* Functions of different devices have structs of the same name. */
		assert_true(ret == -EINVAL || strncmp(r->name[i], "pci.", 4) == 0);
		vm_destroy(vm);
	}
}

static void requests_without_disk(void **state)
{
	struct rig *r = *state;
	struct vm *vm = make(r);
	struct error err = {0};

	assert_int_equal(vm_load_section(vm, "pci.1.blk.data", r->bytes[1], r->n[1], &err), -EINVAL);
	assert_int_equal(vm_load_section(vm, "pci.2.net.request", r->bytes[1], r->n[1], &err), -EINVAL);
	says(&err, "nothing that section");
	vm_destroy(vm);
}

/* Names the processor's fields that no software can have set so. */
static void impossible_vcpu(void **state)
{
	static const struct { const char *field; uint64_t v; const char *why; } cases[] = {
		{"cr0", 0x80000010, "CR0"}, {"cr3", 1ull << 60, "CR0"}, {"cr4", 1ull << 13, "CR0"}, {"efer", 1 << 10, "CR0"},
		{"rflags", 0, "RFLAGS"}, {"dr7", 1ull << 40, "debug registers"}, {"xcr0", 2, "XCR0"},
		{"lstar", 1ull << 63, "an MSR"}, {"insns", 1, "the time"}, {"db_pending", 1 << 12, "RFLAGS"},
	};
	struct rig *r = *state;
	unsigned vcpu = 1;

	assert_string_equal(r->name[vcpu], "vcpu");
	for (unsigned c = 0; c < ARRAY_SIZE(cases); c++) {
		struct vm *vm = make(r);
		struct error err = {0};
		uint8_t *p = memmem(r->bytes[vcpu], r->n[vcpu], cases[c].field, strlen(cases[c].field)), was[8];

		assert_non_null(p);
		p += strlen(cases[c].field) + 6;
		memcpy(was, p, 8);
		put_u64(p, cases[c].v);
		for (unsigned i = 1; i < r->sections; i++)
			assert_int_equal(vm_load_section(vm, r->name[i], r->bytes[i], r->n[i], &err), 0);
		assert_int_equal(vm_load_finish(vm, &err), -EINVAL);
		says(&err, cases[c].why);
		memcpy(p, was, 8);
		vm_destroy(vm);
	}
}

static void another_disk(void **state)
{
	struct rig *r = *state;
	char file[64];
	struct error err = {0};
	struct vm *vm;

	snprintf(file, sizeof(file), "%s/a,b", r->dir);
	assert_int_equal(truncate(file, 2 << 20), 0);
	vm = make(r);
	for (unsigned i = 1; i < r->sections; i++)
		if (!strcmp(r->name[i], "pci.1.blk"))
			assert_int_equal(vm_load_section(vm, r->name[i], r->bytes[i], r->n[i], &err), -EINVAL);
	says(&err, "it had 2048 sectors");
	says(&err, "has 4096");
	vm_destroy(vm);
	assert_int_equal(truncate(file, 1 << 20), 0);
}

static void changes_thrown_away(void **state)
{
	struct rig *r = *state;
	const struct state_sink sink = {r, keep};
	char option[80];
	struct error err = {0};
	struct vm_config cfg = r->cfg;
	unsigned sections = r->sections;
	struct vm *vm;

	snprintf(option, sizeof(option), "%s,snapshot", r->disk);
	cfg.devices.disk[0] = option;
	assert_int_equal(vm_create_empty(&vm, &cfg, &err), 0);
	assert_int_equal(vm_save_state(vm, &sink, &err), -ENOTSUP);
	says(&err, "thrown away");
	vm_destroy(vm);
	while (r->sections > sections)
		free(r->bytes[--r->sections]);
}

/* ---- the configuration ---- */

static void config_there_and_back(void **state)
{
	struct rig *r = *state;
	struct vm_config_strings strings;
	struct vm_config cfg;
	char *text;

	assert_int_equal(vm_config_from_section(&cfg, &strings, r->bytes[0], r->n[0], NULL), 0);
	assert_int_equal(cfg.engine.memory, r->cfg.engine.memory);
	assert_true(cfg.engine.cpu.seed == r->cfg.engine.cpu.seed);
	assert_memory_equal(cfg.engine.cpu.feature, r->cfg.engine.cpu.feature, sizeof(cfg.engine.cpu.feature));
	assert_int_equal(cfg.devices.disks, 1);
	assert_string_equal(cfg.devices.disk[0], r->disk);
	assert_string_equal(cfg.devices.net[0], "none,mac=02:00:00:00:00:09");
	assert_true(cfg.devices.rng && !cfg.devices.balloon && !cfg.devices.packed);
	assert_string_equal(cfg.devices.console, r->console);
	assert_int_equal(vm_config_to_text(&text, &cfg, NULL), 0);
	assert_int_equal(strlen(text), r->n[0]);
	assert_memory_equal(text, r->bytes[0], r->n[0]);
	free(text);
	vm_config_strings_free(&strings);
}

static void paths_become_absolute(void **state)
{
	struct vm_config cfg;
	char here[512], wanted[600], *text;

	(void)state;
	assert_non_null(getcwd(here, sizeof(here)));
	vm_config_default(&cfg);
	cfg.engine.memory = 16 << 20;
	cfg.directory = "sub/";
	cfg.devices.disk[cfg.devices.disks++] = "d,,1,ro,serial=X";
	cfg.devices.net[cfg.devices.nets++] = "socket:wire,mac=02:00:00:00:00:01";
	cfg.devices.console = "-";
	assert_int_equal(vm_config_to_text(&text, &cfg, NULL), 0);
	snprintf(wanted, sizeof(wanted), "\"%s/sub/d,,1,ro,serial=X\"", here);
	assert_non_null(strstr(text, wanted));
	snprintf(wanted, sizeof(wanted), "\"socket:%s/sub/wire,mac=02:00:00:00:00:01\"", here);
	assert_non_null(strstr(text, wanted));
	assert_non_null(strstr(text, "\"virtio_console\": \"-\""));
	free(text);
}

/* Replaces the first @from by @to in the configuration's text. */
static void refused(struct rig *r, const char *from, const char *to, const char *why)
{
	char text[8192], *at;
	struct vm_config_strings strings;
	struct vm_config cfg;
	struct error err = {0};

	assert_true(r->n[0] < sizeof(text) / 2);
	memcpy(text, r->bytes[0], r->n[0]);
	text[r->n[0]] = 0;
	at = strstr(text, from);
	assert_non_null(at);
	memmove(at + strlen(to), at + strlen(from), strlen(at + strlen(from)) + 1);
	memcpy(at, to, strlen(to));
	assert_int_equal(vm_config_from_section(&cfg, &strings, text, strlen(text), &err), -EINVAL);
	says(&err, why);
}

static void hostile_config(void **state)
{
	struct rig *r = *state;

	refused(r, "{", "[", "line 2");
	refused(r, "gnomon-vm-config/1", "gnomon-vm-config/2", "schema");
	refused(r, "\"memory_bytes\": 16777216", "\"memory_bytes\": -1", "memory_bytes");
	refused(r, "\"memory_bytes\": 16777216", "\"memory_bytes\": \"much\"", "memory_bytes");
	refused(r, "\"memory_bytes\"", "\"memory\"", "memory_bytes");
	refused(r, "\"maxphyaddr\": 46", "\"maxphyaddr\": 53", "maxphyaddr");
	refused(r, "\"maxphyaddr\": 46", "\"maxphyaddr\": 12", "maxphyaddr");
	refused(r, "fedcba9876543210", "xedcba9876543210", "seed");
	refused(r, "fedcba9876543210", "0", "seed");
	refused(r, "\"icount\"", "\"sundial\"", "clock");
	refused(r, "\"msr\"", "\"no-such-thing\"", "no-such-thing");
	refused(r, "\"msr\"", "\"msr,-fpu\"", "cpu_features");
	refused(r, "\"msr\"", "7", "cpu_features");
	refused(r, "\"fpu\",", "", "cpu_features"); /* others need it */
	refused(r, "\"rng\": true", "\"rng\": 1", "rng");
	refused(r, "\"balloon_bytes\": null", "\"balloon_bytes\": -4", "balloon_bytes");
	refused(r, "\"net\": [", "\"net\": [\"\", \"\", \"\", \"\",", "net");
	refused(r, "\"disk\": [", "\"disk\": [1,", "disk");
	refused(r, "\"rng\"", "\"rng\": true, \"rng\"", "duplicate");
	refused(r, "\"icount\"", "\"icount\\u0000\"", "line");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_but_one), cmocka_unit_test(twice_and_unknown), cmocka_unit_test(exchanged),
		cmocka_unit_test(requests_without_disk), cmocka_unit_test(impossible_vcpu), cmocka_unit_test(another_disk),
		cmocka_unit_test(changes_thrown_away), cmocka_unit_test(config_there_and_back),
		cmocka_unit_test(paths_become_absolute), cmocka_unit_test(hostile_config),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
