/*
 * The command line below its commands: option tables, numbers, the console's
 * escape keys, the report file, the report itself and comparisons of reports.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/cli.h"
#include "cli/console.h"
#include "cli/progress.h"
#include "lab/compare.h"
#include "lab/report.h"
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- numbers ---- */

static void test_sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes; /* 0: refused */
	} cases[] = {{"512M", 512ull << 20}, {"512", 512ull << 20}, {"2G", 2ull << 30}, {"64k", 64 << 10}, {"1T", 1ull << 40},
		     {"", 0}, {"-1", 0}, {"M", 0}, {"1MB", 0}, {"1.5G", 0}, {" 1", 0}, {"99999999999999999999", 0},
		     {"18446744073709551615G", 0}, {"1X", 0}};
	struct error err;
	uint64_t v;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		v = 1;
		assert_int_equal(parse_size("memory", cases[i].text, &v, &err), cases[i].bytes ? 0 : -EINVAL);
		assert_int_equal(v, cases[i].bytes ? cases[i].bytes : 1);
	}
	assert_int_equal(parse_count("n", "5k", &v, &err), 0);
	assert_int_equal(v, 5000);
	assert_int_equal(parse_count("n", "0x10", &v, &err), 0);
	assert_int_equal(v, 16);
}

/* ---- options ---- */

static enum options_result parse(struct vm_config *cfg, struct error *err, unsigned argc, const char *const *args)
{
	const struct option_group groups[] = {{.title = "G", .table = guest_options, .ctx = cfg}, {0}};
	char *argv[16] = {strdup("run")};
	enum options_result result;
	unsigned n = 1;

	vm_config_default(cfg);
	err->text[0] = 0;
	for (unsigned i = 0; i < argc; i++)
		argv[n++] = strdup(args[i]);
	result = options_parse((int)n, argv, groups, err);
	/* Values point into argv, as they do in main(); only its scalars are looked at afterwards. */
	for (unsigned i = 0; i < n; i++)
		free(argv[i]);
	return result;
}

static void test_options_good(void **state)
{
	static const char *const args[] = {"--kernel", "k", "--memory=1G", "--host-pages", "2m", "--shadow-sync=always",
					   "--seed", "7", "--limit-insns", "3M", "--clock", "wall", "--no-fast-path"};
	struct vm_config cfg;
	struct error err;

	(void)state;
	assert_int_equal(parse(&cfg, &err, ARRAY_SIZE(args), args), OPTIONS_OK);
	assert_int_equal(cfg.engine.memory, 1 << 30);
	assert_int_equal(cfg.engine.host_pages, HOST_PAGES_2M);
	assert_true(cfg.engine.shadow_sync_always);
	assert_int_equal(cfg.engine.cpu.seed, 7);
	assert_int_equal(cfg.limit_insns, 3000000);
	assert_int_equal(cfg.clock, VM_CLOCK_WALL);
	assert_false(cfg.engine.cpu.fast_path);
}

static void test_options_bad(void **state)
{
	static const struct {
		const char *args[2];
		const char *says;
	} cases[] = {{{"--nonsense"}, "'--nonsense'"},
		     {{"-x"}, "'-x'"},
		     {{"stray"}, "'stray'"},
		     {{"--kernel"}, "--kernel"},
		     {{"--audit=1"}, "--audit"},
		     {{"--memory", "lots"}, "lots"},
		     {{"--maxphyaddr", "99"}, "99"},
		     {{"--host-pages", "3m"}, "4k, 2m, 1g"},
		     {{"--clock", "sun"}, "icount, wall"},
		     {{"--cpu-features", "-nonsense"}, "nonsense"},
		     {{"--limit-insns", "-5"}, "-5"}};
	struct vm_config cfg;
	struct error err;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(parse(&cfg, &err, cases[i].args[1] ? 2 : 1, cases[i].args), OPTIONS_BAD);
		assert_non_null(strstr(err.text, cases[i].says));
		assert_null(strchr(err.text, '\n'));
	}
}

static void test_options_help(void **state)
{
	static const char *const args[] = {"--help"};
	struct vm_config cfg;
	struct error err;

	(void)state;
	assert_int_equal(parse(&cfg, &err, 1, args), OPTIONS_HELP);
}

static void test_options_check(void **state)
{
	struct vm_config cfg;
	struct error err;

	(void)state;
	vm_config_default(&cfg);
	assert_int_equal(guest_options_check(&cfg, &err), -EINVAL);
	cfg.kernel = "k";
	assert_int_equal(guest_options_check(&cfg, &err), 0);
	cfg.engine.memory = (uint64_t)1 << 50;
	assert_int_equal(guest_options_check(&cfg, &err), -EINVAL);
}

static void test_mmu_names(void **state)
{
	enum engine_mmu mmu;
	struct error err;

	(void)state;
	for (unsigned i = 0; i < ENGINE_MMU_COUNT; i++) {
		assert_int_equal(parse_mmu(engine_mmu_name[i], strlen(engine_mmu_name[i]), &mmu, &err), 0);
		assert_int_equal(mmu, i);
	}
	assert_int_equal(parse_mmu("npt", 3, &mmu, &err), -EINVAL);
	assert_int_equal(parse_mmu("", 0, &mmu, &err), -EINVAL);
}

/* ---- console ---- */

static void test_console_escape(void **state)
{
	struct console c = {.in = -1, .out = -1};
	uint8_t data[16] = "a\001\001b\001qc";

	(void)state;
	assert_int_equal(console_filter(&c, data, 7), 4);
	assert_memory_equal(data, "a\001bc", 4);
	assert_false(c.quit);
	data[0] = 1; /* an escape split between two reads */
	assert_int_equal(console_filter(&c, data, 1), 0);
	memcpy(data, "xyz", 3);
	assert_int_equal(console_filter(&c, data, 3), 0);
	assert_true(c.quit);
}

static void test_last_line(void **state)
{
	char path[] = "/tmp/gnomon-test-XXXXXX", text[64];
	int fd = mkstemp(path);
	static const char log[] = "first\r\n\033[1;31mlast\033[0m one\a\r\n\r\n";

	(void)state;
	assert_true(fd >= 0);
	progress_last_line(path, text, sizeof(text));
	assert_string_equal(text, "");
	assert_int_equal(write(fd, log, sizeof(log) - 1), sizeof(log) - 1);
	progress_last_line(path, text, sizeof(text));
	assert_string_equal(text, "last one");
	close(fd);
	unlink(path);
	progress_last_line(path, text, sizeof(text));
	assert_string_equal(text, "");
}

/* ---- report file ---- */

static unsigned count_files(const char *dir)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static void test_report_file(void **state)
{
	char dir[] = "/tmp/gnomon-test-XXXXXX", path[64];
	struct report_file f;
	struct error err;
	json_t *json = json_pack("{s:i}", "x", 1);

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/r.json", dir);
	assert_int_equal(report_file_open(&f, path, &err), 0);
	report_file_abandon(&f);
	assert_int_equal(count_files(dir), 0);
	assert_int_equal(report_file_open(&f, path, &err), 0);
	assert_int_equal(access(path, F_OK), -1); /* not before it is whole */
	assert_int_equal(report_file_commit(&f, json, &err), 0);
	assert_int_equal(count_files(dir), 1);
	assert_int_equal(report_file_open(&f, dir, &err), -EISDIR);
	assert_int_equal(report_file_open(&f, "/nonexistent/r.json", &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent/r.json"));
	json_decref(json);
	unlink(path);
	rmdir(dir);
}

static void test_report_full_disk(void **state)
{
	json_t *json = json_pack("{s:i}", "x", 1);
	struct report_file f;
	struct error err;

	(void)state;
	if (access("/dev/full", W_OK))
		skip();
	assert_int_equal(report_file_open(&f, "/dev/full", &err), 0);
	assert_true(report_file_commit(&f, json, &err) < 0);
	assert_int_equal(access("/dev/full", F_OK), 0);
	json_decref(json);
}

/* ---- report and comparison ---- */

static json_t *a_report(enum engine_mmu mmu, uint64_t insns, uint64_t hash)
{
	static struct vm_result r;
	const struct report_host host = {.user_seconds = 2.0, .max_rss_kib = 5};
	struct vm_config cfg;

	vm_config_default(&cfg);
	cfg.kernel = "k";
	cfg.engine.mmu = mmu;
	memset(&r, 0, sizeof(r));
	r.end = VM_END_POWER_OFF;
	r.insns = insns;
	r.hash.all[0] = hash;
	r.obs.exits.total = 7;
	r.obs.exits.by_reason[48] = 5;
	r.obs.exits.by_reason[69] = 2; /* has no name */
	r.obs.translation.walks = 10;
	r.obs.translation.refs = 240;
	r.obs.translation.refs_max = 24;
	r.obs.translation.by_refs[24] = 10;
	r.obs.translation.ref_hits[HW_L1] = 140;
	r.obs.translation.ref_hits[HW_MEMORY] = 100;
	r.obs.translation.guest_cache_hits[2] = 3;
	r.obs.hypervisor.vmreads = mmu == ENGINE_NATIVE ? 0 : 11;
	r.obs.tables.ept_bytes = 4097;
	return report_build(&cfg, &r, &host);
}

static const json_t *at(const json_t *o, const char *a, const char *b)
{
	return json_object_get(json_object_get(o, a), b);
}

static void test_report(void **state)
{
	json_t *r = a_report(ENGINE_EPT, 1234567, 0xabc);

	(void)state;
	assert_string_equal(json_string_value(json_object_get(r, "schema")), "gnomon-report/1");
	assert_string_equal(json_string_value(json_object_get(r, "mmu")), "ept");
	assert_string_equal(json_string_value(at(r, "guest", "exit")), "poweroff");
	assert_string_equal(json_string_value(at(r, "guest", "state_hash")), "00000000000000000000000000000abc");
	assert_int_equal(json_integer_value(at(r, "guest", "instructions")), 1234567);
	assert_int_equal(json_integer_value(json_object_get(at(r, "exits", "by_reason"), "EPT violation")), 5);
	assert_int_equal(json_integer_value(json_object_get(at(r, "exits", "by_reason"), "reason 69")), 2);
	assert_int_equal(json_integer_value(json_object_get(at(r, "translation", "by_refs"), "24")), 10);
	assert_int_equal(json_integer_value(at(r, "tables", "ept_kib")), 5);
	assert_string_equal(json_string_value(at(r, "config", "hw")), "skylake");
	assert_true(json_is_true(at(r, "config", "vpid")) && json_is_false(at(r, "config", "data_cache")));
	assert_int_equal(json_integer_value(json_object_get(at(r, "translation", "ref_hits"), "l1")), 140);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(at(r, "translation", "walk_caches"), "guest"),
							    "pde")), 3);
	assert_int_equal(json_integer_value(at(r, "hypervisor", "vmreads")), 11);
	json_decref(r);
}

/* Parts are a count times a figure each, and add up. */
static void test_report_cost(void **state)
{
	json_t *r = a_report(ENGINE_EPT, 1000, 1);
	const json_t *cycles = at(r, "cost", "cycles");
	struct hw hw;
	json_int_t references, total;

	(void)state;
	hw_default(&hw);
	references = 140 * hw.cache[HW_L1].latency + 100 * hw.memory_latency;
	assert_string_equal(json_string_value(at(r, "cost", "hw")), "skylake");
	assert_int_equal(json_integer_value(json_object_get(cycles, "instructions")), 1000);
	assert_int_equal(json_integer_value(json_object_get(cycles, "references")), references);
	assert_int_equal(json_integer_value(json_object_get(cycles, "vmcs")), 11 * hw.cost.vmread);
	total = 1000 + references + 10 * hw.cost.l2_tlb_miss + 3 * hw.cost.walk_cache_hit + 5 * hw.cost.exit[48] +
		2 * hw.cost.exit[69] + 7 * hw.cost.dispatch + 11 * hw.cost.vmread;
	assert_int_equal(json_integer_value(json_object_get(cycles, "total")), total);
	assert_true(json_real_value(json_object_get(at(r, "cost", "share"), "translation")) * (double)total >
		    (double)references);
	json_decref(r);
}

static char *printed(const json_t *comparison, void (*print)(const json_t *, FILE *))
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *f = open_memstream(&text, &bytes);

	print(comparison, f);
	fclose(f);
	return text;
}

static void test_compare_equal(void **state)
{
	struct compare_run run[2] = {{.mmu = "native", .report = a_report(ENGINE_NATIVE, 1234567, 1)},
				     {.mmu = "ept", .report = a_report(ENGINE_EPT, 1234567, 1)}};
	json_t *c = compare_new();
	char *text;

	(void)state;
	compare_add(c, "forkwait:20", run, 2);
	assert_true(compare_equal(c));
	text = printed(c, compare_print_table);
	assert_non_null(strstr(text, "1,234,567"));
	assert_non_null(strstr(text, "EPT violation"));
	assert_non_null(strstr(text, "24.00"));
	assert_non_null(strstr(text, "modelled cycles"));
	assert_non_null(strstr(text, "slowdown against native"));
	assert_non_null(strstr(text, "1.000"));
	assert_non_null(strstr(text, "All runs agree"));
	free(text);
	text = printed(c, compare_print_csv);
	assert_non_null(strstr(text, "\nforkwait:20,ept,poweroff,0,1234567,"));
	free(text);
	/* The slowdown is the comparison's: reports stay as they are. */
	assert_null(json_object_get(run[1].report, "slowdown"));
	json_decref(c);
	json_decref(run[0].report);
	json_decref(run[1].report);
}

static void test_compare_different(void **state)
{
	struct compare_run run[3] = {{.mmu = "native", .report = a_report(ENGINE_NATIVE, 100, 1)},
				     {.mmu = "shadow", .report = a_report(ENGINE_SHADOW, 101, 2)},
				     {.mmu = "ept", .error = "killed by signal 11"}};
	json_t *c = compare_new();
	char *text;

	(void)state;
	compare_add(c, NULL, run, 3);
	assert_false(compare_equal(c));
	text = printed(c, compare_print_table);
	assert_non_null(strstr(text, "THE RUNS DIFFER"));
	assert_non_null(strstr(text, "shadow: instructions is 101, under native it is 100"));
	assert_non_null(strstr(text, "(accessed flags only)"));
	assert_non_null(strstr(text, "ept: no result: killed by signal 11"));
	free(text);
	json_decref(c);
	json_decref(run[0].report);
	json_decref(run[1].report);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_options_good),
		cmocka_unit_test(test_options_bad),
		cmocka_unit_test(test_options_help),
		cmocka_unit_test(test_options_check),
		cmocka_unit_test(test_mmu_names),
		cmocka_unit_test(test_console_escape),
		cmocka_unit_test(test_last_line),
		cmocka_unit_test(test_report_file),
		cmocka_unit_test(test_report_full_disk),
		cmocka_unit_test(test_report),
		cmocka_unit_test(test_report_cost),
		cmocka_unit_test(test_compare_equal),
		cmocka_unit_test(test_compare_different),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
