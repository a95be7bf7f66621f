/* Hardware descriptions: what the built-in ones say, what a file may say, and every way to be refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "mmu/hw.h"

static int parse(struct hw *hw, const char *text, struct error *err)
{
	return hw_parse(hw, text, strlen(text), "t.hw", err);
}

/* ---- built-in descriptions ---- */

static void load(struct hw *hw, const char *name)
{
	struct error err = {0};

	if (hw_load(hw, name, &err))
		fail_msg("%s: %s", name, err.text);
}

static void assert_array(const struct hw_array *a, uint32_t entries, uint32_t ways, unsigned pages)
{
	assert_int_equal(a->entries, entries);
	assert_int_equal(a->ways, ways);
	assert_int_equal(a->pages, pages);
}

static void test_builtins(void **state)
{
	static const char *const wanted[] = {"skylake", "icelake", "zen", "textbook", "smallest", "p4"};
	unsigned n = 0;

	(void)state;
	for (const struct hw_builtin *b = hw_builtins; b->name; b++, n++) {
		struct hw hw;

		load(&hw, b->name);
		assert_string_equal(hw.name, b->name);
		assert_true(strlen(hw.title) > 4);
		assert_true(hw.l1d.arrays && hw.l1i.arrays && hw.memory_latency && hw.cost.entry);
	}
	assert_true(n >= ARRAY_SIZE(wanted));
	for (unsigned i = 0; i < ARRAY_SIZE(wanted); i++) {
		struct hw hw;

		load(&hw, wanted[i]);
	}
}

static void test_skylake(void **state)
{
	struct hw hw;

	(void)state;
	hw_default(&hw);
	assert_string_equal(hw.name, "skylake");
	assert_int_equal(hw.l1d.arrays, 3);
	assert_array(&hw.l1d.array[0], 64, 4, HW_4K);
	assert_array(&hw.l1d.array[1], 32, 4, HW_2M);
	assert_array(&hw.l1d.array[2], 4, 4, HW_1G);
	assert_int_equal(hw.l1i.arrays, 2);
	assert_array(&hw.l1i.array[0], 128, 8, HW_4K);
	assert_false(hw.l2_split);
	assert_array(&hw.l2d.array[0], 1536, 12, HW_4K | HW_2M);
	assert_int_equal(hw_array_sets(&hw.l2d.array[0]), 128);
	assert_int_equal(hw.walk_caches, HW_WALK_SPLIT);
	assert_array(&hw.guest[2], 32, 32, 0);
	assert_array(&hw.guest[3], 4, 4, 0);
	assert_array(&hw.host[4], 2, 2, 0);
	assert_int_equal(hw.nested_tlb.entries, 0);
	assert_int_equal(hw.cache[HW_LLC].bytes, 16 * 1408 * 1024);
	assert_int_equal(hw.cache[HW_L1].latency, 4);
	assert_int_equal(hw.cost.exit[0], hw.cost.exit[48]);
}

static void test_others(void **state)
{
	struct hw hw;

	(void)state;
	load(&hw, "textbook");
	assert_int_equal(hw.walk_caches, HW_WALK_NONE);
	assert_array(&hw.l2d.array[0], 1536, 12, HW_4K | HW_2M);
	load(&hw, "zen");
	assert_int_equal(hw.walk_caches, HW_WALK_UNIFIED);
	assert_true(hw.l2_split && hw.unified_guest && hw.unified_host && !hw.unified_host_leaf);
	assert_array(&hw.l1d.array[0], 64, 64, HW_4K | HW_2M | HW_1G);
	assert_int_equal(hw.l2i.array[0].entries, 1024);
	load(&hw, "smallest");
	assert_int_equal(hw.l2d.arrays, 0);
	assert_int_equal(hw.cache[HW_L2].bytes, 0);
	load(&hw, "p4");
	assert_int_equal(hw.cost.entry, 2409);
	assert_int_equal(hw.cost.exit[0], 1931);
	assert_int_equal(hw.cost.vmread, 178);
	assert_int_equal(hw.cost.vmwrite, 171);
}

/* ---- what a file may say ---- */

#define CHANGED "base = \"skylake\"; name = \"t\";\n"

static void test_override(void **state)
{
	struct error err = {0};
	struct hw hw;

	(void)state;
	assert_int_equal(parse(&hw, CHANGED "nested_tlb = { entries = 16; ways = \"all\"; };\n"
				    "tlb = { l2 = ({ pages = [\"4k\"]; entries = 8; ways = 2; }, "
				    "{ pages = (\"2m\", \"1g\"); entries = 0; }); };\n"
				    "cost = { exit = { ept-violation = 1; i-o-instruction = 2; cpuid = 3; }; "
				    "instruction = 0.25; };", &err), 0);
	assert_array(&hw.nested_tlb, 16, 16, 0);
	assert_int_equal(hw.l2d.arrays, 1);
	assert_array(&hw.l2d.array[0], 8, 2, HW_4K);
	assert_array(&hw.l1d.array[0], 64, 4, HW_4K);
	assert_int_equal(hw.cost.exit[48], 1);
	assert_int_equal(hw.cost.exit[30], 2);
	assert_int_equal(hw.cost.exit[10], 3);
	assert_int_equal(hw.cost.exit[12], 730);
	assert_true(hw.cost.instruction > 0.2499 && hw.cost.instruction < 0.2501);
	assert_string_equal(hw.title, "changed from skylake");
	/* "default" is for all reasons, even behind one that is named. */
	assert_int_equal(parse(&hw, CHANGED "cost = { exit = { hlt = 9; default = 5; }; };", &err), 0);
	assert_int_equal(hw.cost.exit[12], 9);
	assert_int_equal(hw.cost.exit[69], 5);
}

static void test_kinds(void **state)
{
	struct error err = {0};
	struct hw hw;

	(void)state;
	assert_int_equal(parse(&hw, CHANGED "tlb = { l2d = (); l2i = (); };", &err), 0);
	assert_true(hw.l2_split);
	assert_int_equal(parse(&hw, "base = \"zen\"; name = \"t\"; tlb = { l2i = (); };", &err), 0);
	assert_true(hw.l2_split && hw.l2d.arrays == 1 && hw.l2i.arrays == 0);
	assert_int_equal(parse(&hw, "base = \"zen\"; name = \"t\"; tlb = { l2 = (); };", &err), 0);
	assert_true(!hw.l2_split && hw.l2i.arrays == 0);
	assert_int_equal(parse(&hw, CHANGED "walk_caches = { kind = \"unified\"; unified = { entries = 24; ways = \"all\"; "
					    "guest = true; host = true; host_leaf = true; }; };", &err), 0);
	assert_int_equal(hw.unified.ways, 24);
	assert_true(hw.unified_guest && hw.unified_host_leaf);
	assert_int_equal(parse(&hw, CHANGED "walk_caches = { guest = { pde = { entries = 0; }; }; };", &err), 0);
	assert_int_equal(hw.guest[2].entries, 0);
	assert_int_equal(hw.guest[3].entries, 4);
	assert_int_equal(parse(&hw, CHANGED "caches = { line = 128; l1 = { bytes = 4096; ways = \"all\"; latency = 1; }; };",
			       &err), 0);
	assert_int_equal(hw.cache[HW_L1].ways, 32);
}

/* ---- refusals ---- */

struct refusal {
	const char *text; /* put behind CHANGED, which is line 1 */
	const char *says; /* the whole message but for "t.hw:" */
};

#define L1D(members) "tlb = {\nl1d = ({ " members " }); };"

static const struct refusal refusals[] = {
	{"frob = 1;", "2: frob: unknown key"},
	{"\ntlb = { l3 = (); };", "3: tlb.l3: unknown key"},
	{"nested_tlb = { entries = 4; ways = 4; pages = [\"4k\"]; };", "2: nested_tlb.pages: unknown key"},
	{"caches = { l1 = { sets = 4; }; };", "2: caches.l1.sets: unknown key"},
	{"cost = { vmcall = 4; };", "2: cost.vmcall: unknown key"},
	{"cost = { exit = { teapot = 4; }; };", "2: cost.exit.teapot: no VM-exit reason of that name"},
	{"walk_caches = { guest = { pte = { entries = 0; }; }; };", "2: walk_caches.guest.pte: unknown key"},
	/* wrong types */
	{"tlb = 4;", "2: tlb: must be a group: { ... }"},
	{"tlb = { l1d = { entries = 4; }; };", "2: tlb.l1d: must be a list of arrays: ( { ... }, ... )"},
	{"tlb = { l1d = (4); };", "2: tlb.l1d[0]: must be a group: { ... }"},
	{"title = 4;", "2: title: must be a string"},
	{"cost = { entry = \"4\"; };", "2: cost.entry: must be a whole number"},
	{"cost = { entry = 4.5; };", "2: cost.entry: must be a whole number"},
	{"cost = { entry = true; };", "2: cost.entry: must be a whole number"},
	{"cost = { entry = 0x10; };", "2: cost.entry: must be a decimal number"},
	{"cost = { exit = 7; };", "2: cost.exit: must be a group: { ... }"},
	{"walk_caches = { kind = \"unified\"; unified = { guest = 1; }; };",
	 "2: walk_caches.unified.guest: must be true or false"},
	{"walk_caches = { kind = \"triple\"; };",
	 "2: walk_caches.kind: must be one of \"none\", \"split\", \"unified\""},
	{"walk_caches = { kind = 1; };", "2: walk_caches.kind: must be one of \"none\", \"split\", \"unified\""},
	{"walk_caches = { unified = { entries = 4; ways = 4; }; };",
	 "2: walk_caches.unified: belongs to another kind of walk caches"},
	{"walk_caches = { kind = \"none\";\n guest = {}; };",
	 "3: walk_caches.guest: belongs to another kind of walk caches"},
	/* arrays */
	{L1D("entries = 64; ways = 4;"), "3: tlb.l1d[0]: pages is missing"},
	{L1D("pages = [\"4k\"]; ways = 4;"), "3: tlb.l1d[0]: entries is missing"},
	{L1D("pages = [\"4k\"]; entries = 64;"), "3: tlb.l1d[0]: ways is missing"},
	{L1D("pages = [\"4k\"]; entries = 64;\nways = 0;"), "4: tlb.l1d[0].ways: must be at least 1, or \"all\""},
	{L1D("pages = [\"4k\"]; entries = 64; ways = \"some\";"), "3: tlb.l1d[0].ways: must be one of \"all\""},
	{L1D("pages = [\"4k\"]; entries = 64; ways = 3;"), "3: tlb.l1d[0].ways: 64 entries are no multiple of 3 ways"},
	{L1D("pages = [\"4k\"]; entries = 4; ways = 8;"), "3: tlb.l1d[0].ways: 4 entries are no multiple of 8 ways"},
	{L1D("pages = [\"4k\"]; entries = 48; ways = 4;"), "3: tlb.l1d[0].ways: 12 sets are no power of two"},
	{L1D("pages = [\"4k\"]; entries = 65537; ways = 1;"), "3: tlb.l1d[0].entries: 65537: must be from 0 to 65536"},
	{L1D("pages = [\"4k\"]; entries = -4; ways = 1;"), "3: tlb.l1d[0].entries: -4: must be from 0 to 65536"},
	{L1D("pages = [\"8k\"]; entries = 4; ways = 1;"),
	 "3: tlb.l1d[0].pages[0]: must be one of \"4k\", \"2m\", \"1g\""},
	{L1D("pages = [4]; entries = 4; ways = 1;"), "3: tlb.l1d[0].pages[0]: must be one of \"4k\", \"2m\", \"1g\""},
	{L1D("pages = [\"4k\", \"4k\"]; entries = 4; ways = 1;"), "3: tlb.l1d[0].pages[1]: \"4k\" is there twice"},
	{L1D("pages = []; entries = 4; ways = 1;"),
	 "3: tlb.l1d[0].pages: must be an array of page sizes: [\"4k\", \"2m\"]"},
	{L1D("pages = \"4k\"; entries = 4; ways = 1;"),
	 "3: tlb.l1d[0].pages: must be an array of page sizes: [\"4k\", \"2m\"]"},
	{"tlb = { l2 = (\n{ pages = [\"4k\"]; entries = 4; ways = 4; },\n{ pages = [\"2m\", \"4k\"]; entries = 4; ways = 4; }); };",
	 "4: tlb.l2[1].pages: a page size that another array of this TLB holds"},
	{"e = 1;", "2: e: unknown key"},
	{"tlb = { l1d = ({ pages = [\"4k\"]; entries = 0; }, { pages = [\"2m\"]; entries = 0; }, "
	 "{ pages = [\"1g\"]; entries = 0; }, { pages = [\"1g\"]; entries = 0; }); };",
	 "2: tlb.l1d: 4 arrays: at most 3"},
	{"tlb = { l2 = (); l2d = (); l2i = (); };", "2: tlb.l2: there is l2 (for all), or l2d and l2i, not both"},
	{"tlb = { l2d = (); };", "2: tlb.l2d: l2i is missing"},
	{"tlb = { l2i = (); };", "2: tlb.l2i: l2d is missing"},
	/* caches */
	{"caches = { line = 48; };", "2: caches.line: 48: must be a power of two from 8 to 4096"},
	{"caches = { line = 4; };", "2: caches.line: 4: must be a power of two from 8 to 4096"},
	{"caches = { line = 8192; };", "2: caches.line: 8192: must be from 0 to 4096"},
	{"caches = { line = 0; };", "2: caches.line: 0: must be a power of two from 8 to 4096"},
	{"caches = { l1 = { ways = 4; latency = 4; }; };", "2: caches.l1: bytes is missing"},
	{"caches = { l1 = { bytes = 4096; latency = 4; }; };", "2: caches.l1: ways is missing"},
	{"caches = { l1 = { bytes = 4096; ways = 4; }; };", "2: caches.l1: latency is missing"},
	{"caches = { l2 = { bytes = 4096; ways = 0; latency = 4; }; };",
	 "2: caches.l2.ways: must be at least 1, or \"all\""},
	{"caches = { l2 = { bytes = 49152; ways = 8; latency = 4; }; };", "2: caches.l2: l2 has 96 sets, which are no power of two"},
	{"caches = { l2 = { bytes = 1000; ways = 8; latency = 4; }; };",
	 "2: caches.l2: l2 has 1000 bytes, which are no multiple of 8 ways of 64-byte lines"},
	{"caches = { l2 = { bytes = 1000; ways = \"all\"; latency = 4; }; };",
	 "2: caches.l2: l2 has 1000 bytes, which are no multiple of 15 ways of 64-byte lines"},
	{"caches = { l2 = { bytes = 2147483648L; ways = 8; latency = 4; }; };",
	 "2: caches.l2.bytes: 2147483648: must be from 0 to 1073741824"},
	/* costs */
	{"cost = { entry = -1; };", "2: cost.entry: -1: must be from 0 to 1000000"},
	{"cost = { entry = 1000001; };", "2: cost.entry: 1000001: must be from 0 to 1000000"},
	{"cost = { exit = { default = -1; }; };", "2: cost.exit.default: -1: must be from 0 to 1000000"},
	{"cost = { exit = { hlt = \"x\"; }; };", "2: cost.exit.hlt: must be a whole number"},
	{"cost = { instruction = 0; };", "2: cost.instruction: 0: must be more than 0 and at most 1000"},
	{"cost = { instruction = -0.5; };", "2: cost.instruction: -0.5: must be more than 0 and at most 1000"},
	{"cost = { instruction = 1e9; };", "2: cost.instruction: 1e+09: must be more than 0 and at most 1000"},
	{"cost = { instruction = 2000; };", "2: cost.instruction: 2000: must be from 0 to 1000"},
	/* names and the text itself */
	{"title = \"\";", "2: title: must have from 1 to 95 bytes"},
	{"title = \"a\\nb\";", "2: title: must not hold control characters"},
	{"name = \"u\";", "2: duplicate setting name"},
	{"cost = { entry = 1; entry = 2; };", "2: duplicate setting name"},
	{"cost = {", "2: syntax error"},
	{"\n\n=", "4: syntax error"},
	{"  @include \"/etc/passwd\"", "2: @include: not supported; use base = \"NAME\";"},
};

static void assert_refused(const char *text, size_t bytes, const char *says)
{
	struct hw hw, before;
	struct error err = {0};

	memset(&hw, 0x5a, sizeof(hw));
	before = hw;
	assert_int_equal(hw_parse(&hw, text, bytes, "t.hw", &err), -EINVAL);
	assert_string_equal(err.text, says);
	assert_memory_equal(&hw, &before, sizeof(hw));
}

static void test_refusals(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(refusals); i++) {
		char text[1024], says[256];

		snprintf(text, sizeof(text), CHANGED "%s", refusals[i].text);
		snprintf(says, sizeof(says), "t.hw:%s", refusals[i].says);
		assert_refused(text, strlen(text), says);
	}
}

static void test_refused_texts(void **state)
{
	static const char nul[] = "name = \"t\";\n\0";
	static char large[70000];

	(void)state;
	assert_refused(nul, sizeof(nul), "t.hw:2: a NUL byte");
	memset(large, '\n', sizeof(large));
	assert_refused(large, sizeof(large), "t.hw:1: a file of more than 65535 bytes");
	assert_refused("", 0, "t.hw:1: name: missing");
	assert_refused("base = \"skylake\";", 17, "t.hw:1: name: missing");
	assert_refused("base = 4;", 9, "t.hw:1: base: must be a string");
	assert_refused("base = \"nowhere\";", 17,
		       "t.hw:1: base: 'nowhere': neither a built-in description nor a file: No such file or directory");
	assert_refused("name = \"a name that is longer than thirty-one bytes\";", 53,
		       "t.hw:1: name: must have from 1 to 31 bytes");
	assert_refused("base = \"p4\"; name = \"t\";\ncaches = { line = 4096; };", 50,
		       "t.hw:2: caches: l1 has 16384 bytes, which are no multiple of 8 ways of 4096-byte lines");
	/* Lists nested ten thousand deep end in a message, not in an overflow. */
	memset(large, '(', sizeof(large));
	memcpy(large, "a = ", 4);
	large[60000] = 0;
	assert_int_equal(hw_parse(&(struct hw){0}, large, 60000, "t.hw", NULL), -EINVAL);
}

/* Without a base everything that has no obvious value must be there. */
static void test_complete(void **state)
{
	static const char *const text[] = {
		"name = \"t\";", "title = \"T\";", "tlb = { l1d = ();", "l1i = (); };",
		"walk_caches = { kind = \"none\"; };", "caches = { line = 64;", "memory = 1; };",
		"cost = { instruction = 1; l2_tlb_hit = 0; l2_tlb_miss = 0; walk_cache_hit = 0; nested_tlb_hit = 0;",
		"exit = { default = 1; };", "entry = 0; dispatch = 0; vmread = 0; vmwrite = 0; invept = 0; invvpid = 0;",
		"emulated_instruction = 0; table_read = 0; table_write = 0;", "event_delivery = 0; };",
	};
	static const struct { unsigned left_out; const char *replaced, *says; } cases[] = {
		{0, "", "t.hw:1: name: missing"},
		{1, "", "title is missing"},
		{3, "};", "l1i is missing"},
		{4, "", "walk_caches is missing"},
		{6, "};", "memory is missing"},
		{8, "", "exit is missing"},
		{8, "exit = { hlt = 1; };", "default is missing"},
		{11, "};", "event_delivery is missing"},
	};

	(void)state;
	for (unsigned c = 0; c <= ARRAY_SIZE(cases); c++) {
		char all[1024] = "";
		struct error err = {0};
		struct hw hw;

		for (unsigned i = 0; i < ARRAY_SIZE(text); i++)
			strcat(all, c < ARRAY_SIZE(cases) && cases[c].left_out == i ? cases[c].replaced : text[i]);
		assert_int_equal(parse(&hw, all, &err), c < ARRAY_SIZE(cases) ? -EINVAL : 0);
		if (c < ARRAY_SIZE(cases))
			assert_non_null(strstr(err.text, cases[c].says));
	}
}

/* ---- files ---- */

struct dir {
	char path[64];
};

static void write_file(const struct dir *d, const char *name, const char *text)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", d->path, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static int load_in(const struct dir *d, const char *name, struct hw *hw, char *says)
{
	struct error err = {0};
	char path[128];
	int ret;

	snprintf(path, sizeof(path), "%s/%s", d->path, name);
	ret = hw_load(hw, path, &err);
	/* Messages name paths; the directory is different every time. */
	for (const char *p = err.text; *p; p++) {
		bool here = strncmp(p, d->path, strlen(d->path)) == 0;

		*says++ = here ? 'D' : *p;
		p += here ? strlen(d->path) - 1 : 0;
	}
	*says = 0;
	return ret;
}

static void test_files(void **state)
{
	struct dir d = {"/tmp/test-hw-XXXXXX"};
	char says[512], name[16], text[64], sub[128];
	struct hw hw;

	(void)state;
	assert_non_null(mkdtemp(d.path));
	snprintf(sub, sizeof(sub), "%s/sub", d.path);
	assert_int_equal(mkdir(sub, 0700), 0);
	write_file(&d, "one", "base = \"skylake\"; name = \"one\"; nested_tlb = { entries = 16; ways = 4; };");
	write_file(&d, "sub/two", "base = \"../one\"; name = \"two\"; cost = { entry = 7; };");
	assert_int_equal(load_in(&d, "sub/two", &hw, says), 0);
	assert_int_equal(hw.nested_tlb.entries, 16);
	assert_int_equal(hw.cost.entry, 7);
	assert_string_equal(hw.title, "changed from one");

	write_file(&d, "a", "\nbase = \"b\"; name = \"a\";");
	write_file(&d, "b", "\n\nbase = \"sub/../a\"; name = \"b\";");
	assert_int_equal(load_in(&d, "a", &hw, says), -EINVAL);
	assert_string_equal(says, "D/b:3: base: 'D/sub/../a' is based on itself");
	write_file(&d, "self", "base = \"self\"; name = \"a\";");
	assert_int_equal(load_in(&d, "self", &hw, says), -EINVAL);
	assert_string_equal(says, "D/self:1: base: 'D/self' is based on itself");

	for (unsigned i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "deep%u", i);
		snprintf(text, sizeof(text), i ? "base = \"deep%u\"; name = \"d\";" : "base = \"skylake\"; name = \"d\";", i - 1);
		write_file(&d, name, text);
	}
	assert_int_equal(load_in(&d, "deep7", &hw, says), 0);
	assert_int_equal(load_in(&d, "deep9", &hw, says), -EINVAL);
	assert_string_equal(says, "D/deep1:1: base: more than 8 descriptions based on each other");

	/* What is wrong with the base is said with its name and line. */
	write_file(&d, "bad", "base = \"skylake\"; name = \"x\";\ncost = { entry = -1; };");
	write_file(&d, "onbad", "base = \"bad\"; name = \"y\";");
	assert_int_equal(load_in(&d, "onbad", &hw, says), -EINVAL);
	assert_string_equal(says, "D/bad:2: cost.entry: -1: must be from 0 to 1000000");

	assert_int_equal(load_in(&d, "none", &hw, says), -ENOENT);
	assert_int_equal(load_in(&d, "sub", &hw, says), -EISDIR);
	assert_int_equal(hw_load(&hw, "/dev/zero", NULL), -EISDIR);
	snprintf(sub, sizeof(sub), "rm -r '%s'", d.path);
	assert_int_equal(system(sub), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_builtins), cmocka_unit_test(test_skylake), cmocka_unit_test(test_others),
		cmocka_unit_test(test_override), cmocka_unit_test(test_kinds), cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_refused_texts), cmocka_unit_test(test_complete), cmocka_unit_test(test_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
