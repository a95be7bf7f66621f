/*
 * Reading hardware descriptions (docs/FORMATS.md, "Hardware description"). The
 * syntax is libconfig's; which keys there are, what they may be and where they go
 * stands in tables, a group of the file being a table here.
 *
 * A file is somebody's input: it is bounded, and whatever is odd about it is
 * refused with its line, its key and why. "@include" is not understood: "base" is
 * how descriptions build upon each other.
 */
#include "mmu/hw.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <libconfig.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "arch/vmx.h"
#include "base/util.h"

#define TEXT_MAX      65535u /* bytes; so libconfig's line numbers cannot overflow either */
#define BASE_DEPTH    8
#define CYCLES_MAX    1000000u
#define PATH_BYTES    96
#define CACHE_MAX     (1u << 30)
#define LINE_MIN      8u
#define LINE_MAX      4096u

/* Where a text comes from, and which description is based on it. */
struct source {
	const char *origin;
	bool file;      /* then: which, so that a cycle is noticed whatever it is called */
	dev_t device;
	ino_t inode;
	const struct source *wanted_by;
	unsigned depth;
};

struct reader {
	const struct source *source;
	struct error *err;
	bool based; /* there is a base: what is missing is taken from it */
};

/* A key of a group. */
struct key {
	const char *name;
	int (*read)(const struct reader *r, config_setting_t *s, const struct key *k, void *to);
	size_t offset;  /* where it goes in what its group goes to */
	uint32_t max;   /* numbers, lengths of strings */
	bool needed;    /* must be there if there is no base */
	/* Groups: their keys (ends with name == NULL), and what is to be looked at after those. */
	const struct key *members;
	int (*check)(const struct reader *r, config_setting_t *s, void *to);
};

static bool is_pow2(uint64_t n) { return n && !(n & (n - 1)); }

/* ---- refusing ---- */

/* "tlb.l1d[1].ways" of a setting. */
static void setting_path(const config_setting_t *s, char path[PATH_BYTES])
{
	const config_setting_t *parent = config_setting_parent(s);
	const char *name = config_setting_name(s);
	size_t used;

	path[0] = 0;
	if (!parent)
		return;
	setting_path(parent, path);
	used = strlen(path);
	if (name)
		snprintf(path + used, PATH_BYTES - used, "%s%.40s", used ? "." : "", name);
	else
		snprintf(path + used, PATH_BYTES - used, "[%d]", config_setting_index(s));
}

static int refuse(const struct reader *r, const config_setting_t *s, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static int refuse(const struct reader *r, const config_setting_t *s, const char *fmt, ...)
{
	char path[PATH_BYTES], why[160];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	setting_path(s, path);
	return error_set(r->err, -EINVAL, "%.200s:%u: %s%s%s", r->source->origin,
			 (unsigned)config_setting_source_line(s), path, *path ? ": " : "", why);
}

/* The member if it is there, else the group: where to point at. */
static config_setting_t *member_or(config_setting_t *group, const char *name)
{
	config_setting_t *m = config_setting_get_member(group, name);

	return m ? m : group;
}

/* ---- values ---- */

static int get_number(const struct reader *r, config_setting_t *s, uint32_t max, uint32_t *n)
{
	int type = config_setting_type(s);
	long long v;

	if (type != CONFIG_TYPE_INT && type != CONFIG_TYPE_INT64)
		return refuse(r, s, "must be a whole number");
	/* libconfig cuts long hexadecimal numbers off without a word. */
	if (config_setting_get_format(s) == CONFIG_FORMAT_HEX)
		return refuse(r, s, "must be a decimal number");
	v = type == CONFIG_TYPE_INT ? config_setting_get_int(s) : config_setting_get_int64(s);
	if (v < 0 || v > max)
		return refuse(r, s, "%lld: must be from 0 to %u", v, max);
	*n = (uint32_t)v;
	return 0;
}

static int read_u32(const struct reader *r, config_setting_t *s, const struct key *k, void *to)
{
	return get_number(r, s, k->max, to);
}

static int read_u64(const struct reader *r, config_setting_t *s, const struct key *k, void *to)
{
	uint32_t n = 0;
	int ret = get_number(r, s, k->max, &n);

	if (ret == 0)
		*(uint64_t *)to = n;
	return ret;
}

/* Cycles that need not be whole; more than none. */
static int read_fraction(const struct reader *r, config_setting_t *s, const struct key *k, void *to)
{
	uint32_t n = 0;
	double v;
	int ret;

	if (config_setting_type(s) == CONFIG_TYPE_FLOAT) {
		v = config_setting_get_float(s);
	} else {
		ret = get_number(r, s, k->max, &n);
		if (ret)
			return ret;
		v = n;
	}
	if (!(v > 0 && v <= k->max))
		return refuse(r, s, "%g: must be more than 0 and at most %u", v, k->max);
	*(double *)to = v;
	return 0;
}

static int read_bool(const struct reader *r, config_setting_t *s, const struct key *k, void *to)
{
	(void)k;
	if (config_setting_type(s) != CONFIG_TYPE_BOOL)
		return refuse(r, s, "must be true or false");
	*(bool *)to = config_setting_get_bool(s);
	return 0;
}

/* A string that stays within one line and one field; @max counts its NUL. */
static int read_string(const struct reader *r, config_setting_t *s, const struct key *k, void *to)
{
	const char *v = config_setting_get_string(s);

	if (config_setting_type(s) != CONFIG_TYPE_STRING || !v)
		return refuse(r, s, "must be a string");
	if (!*v || strlen(v) >= k->max)
		return refuse(r, s, "must have from 1 to %u bytes", k->max - 1);
	for (const char *p = v; *p; p++)
		if (iscntrl((unsigned char)*p))
			return refuse(r, s, "must not hold control characters");
	memset(to, 0, k->max);
	strcpy(to, v);
	return 0;
}

/* Index of the string in @choice; -EINVAL. */
static int get_choice(const struct reader *r, config_setting_t *s, const char *const *choice, unsigned count)
{
	const char *v = config_setting_type(s) == CONFIG_TYPE_STRING ? config_setting_get_string(s) : NULL;
	char all[80] = "";

	for (unsigned i = 0; i < count; i++) {
		size_t used = strlen(all);

		if (v && strcmp(v, choice[i]) == 0)
			return (int)i;
		snprintf(all + used, sizeof(all) - used, "%s\"%s\"", i ? ", " : "", choice[i]);
	}
	return refuse(r, s, "must be one of %s", all);
}

/* ---- groups ---- */

static const struct key *find_key(const struct key *members, const char *name)
{
	for (const struct key *k = members; k->name; k++)
		if (name && strcmp(k->name, name) == 0)
			return k;
	return NULL;
}

static int check_needed(const struct reader *r, config_setting_t *s, const struct key *members)
{
	for (const struct key *k = members; k->name; k++)
		if (k->needed && !config_setting_get_member(s, k->name))
			return refuse(r, s, "%s is missing, and there is no base to take it from", k->name);
	return 0;
}

static int read_members(const struct reader *r, config_setting_t *s, const struct key *members, void *to)
{
	for (int i = 0; i < config_setting_length(s); i++) {
		config_setting_t *m = config_setting_get_elem(s, (unsigned)i);
		const struct key *k = find_key(members, config_setting_name(m));
		int ret = k ? k->read(r, m, k, (char *)to + k->offset) : refuse(r, m, "unknown key");

		if (ret)
			return ret;
	}
	return r->based ? 0 : check_needed(r, s, members);
}

static int read_group(const struct reader *r, config_setting_t *s, const struct key *k, void *to)
{
	int ret;

	if (config_setting_type(s) != CONFIG_TYPE_GROUP)
		return refuse(r, s, "must be a group: { ... }");
	ret = read_members(r, s, k->members, to);
	return ret || !k->check ? ret : k->check(r, s, to);
}

/* ---- set-associative arrays ---- */

#define WAYS_ALL UINT32_MAX

static int read_ways(const struct reader *r, config_setting_t *s, const struct key *k, void *to)
{
	static const char *const all[] = {"all"};
	int ret;

	if (config_setting_type(s) == CONFIG_TYPE_STRING) {
		ret = get_choice(r, s, all, 1);
		*(uint32_t *)to = WAYS_ALL;
		return ret;
	}
	ret = get_number(r, s, k->max, to);
	if (ret == 0 && *(uint32_t *)to == 0)
		return refuse(r, s, "must be at least 1, or \"all\"");
	return ret;
}

static int check_geometry(const struct reader *r, config_setting_t *s, struct hw_array *a)
{
	if (!config_setting_get_member(s, "ways"))
		return refuse(r, s, "ways is missing");
	if (a->ways == WAYS_ALL)
		a->ways = a->entries;
	if (a->entries % a->ways)
		return refuse(r, member_or(s, "ways"), "%u entries are no multiple of %u ways", a->entries, a->ways);
	if (!is_pow2(hw_array_sets(a)))
		return refuse(r, member_or(s, "ways"), "%u sets are no power of two", hw_array_sets(a));
	return 0;
}

/* What a group describes is described as a whole: nothing of the base's array stays. */
static int check_array(const struct reader *r, config_setting_t *s, void *to)
{
	struct hw_array *a = to;

	if (!config_setting_get_member(s, "entries"))
		return refuse(r, s, "entries is missing");
	if (a->entries)
		return check_geometry(r, s, a);
	*a = (struct hw_array){0};
	return 0;
}

static int read_pages(const struct reader *r, config_setting_t *s, const struct key *k, void *to)
{
	static const char *const size[HW_PAGES] = {"4k", "2m", "1g"};
	uint8_t *pages = to;

	(void)k;
	if (!config_setting_is_aggregate(s) || config_setting_is_group(s) || !config_setting_length(s))
		return refuse(r, s, "must be an array of page sizes: [\"4k\", \"2m\"]");
	*pages = 0;
	for (int i = 0; i < config_setting_length(s); i++) {
		config_setting_t *m = config_setting_get_elem(s, (unsigned)i);
		int n = get_choice(r, m, size, HW_PAGES);

		if (n < 0)
			return n;
		if (*pages >> n & 1)
			return refuse(r, m, "\"%s\" is there twice", size[n]);
		*pages |= (uint8_t)(1u << n);
	}
	return 0;
}

#define ARRAY_KEYS                                                                                          \
	{.name = "entries", .read = read_u32, .offset = offsetof(struct hw_array, entries), .max = HW_ENTRIES_MAX}, \
	{.name = "ways", .read = read_ways, .offset = offsetof(struct hw_array, ways), .max = HW_ENTRIES_MAX}

static const struct key array_keys[] = {ARRAY_KEYS, {0}};
static const struct key tlb_array_keys[] = {
	ARRAY_KEYS,
	{.name = "pages", .read = read_pages, .offset = offsetof(struct hw_array, pages)},
	{0},
};

static int check_tlb_array(const struct reader *r, config_setting_t *s, void *to)
{
	struct hw_array *a = to;

	if (!config_setting_get_member(s, "pages"))
		return refuse(r, s, "pages is missing");
	return check_array(r, s, a);
}

/* ---- TLBs ---- */

static const struct key tlb_array_key = {.name = "", .members = tlb_array_keys, .check = check_tlb_array};

/* A list of arrays; those of size 0 are none. */
static int read_tlb(const struct reader *r, config_setting_t *s, const struct key *k, void *to)
{
	struct hw_tlb tlb = {0};
	uint8_t seen = 0;

	(void)k;
	if (config_setting_type(s) != CONFIG_TYPE_LIST)
		return refuse(r, s, "must be a list of arrays: ( { ... }, ... )");
	if (config_setting_length(s) > HW_ARRAYS_MAX)
		return refuse(r, s, "%d arrays: at most %d", config_setting_length(s), HW_ARRAYS_MAX);
	for (int i = 0; i < config_setting_length(s); i++) {
		config_setting_t *m = config_setting_get_elem(s, (unsigned)i);
		struct hw_array a = {0};
		int ret = read_group(r, m, &tlb_array_key, &a);

		if (ret)
			return ret;
		if (seen & a.pages)
			return refuse(r, member_or(m, "pages"), "a page size that another array of this TLB holds");
		seen |= a.pages;
		if (a.entries)
			tlb.array[tlb.arrays++] = a;
	}
	*(struct hw_tlb *)to = tlb;
	return 0;
}

/* One second-level TLB for all, or one for each kind of access. */
static int check_tlbs(const struct reader *r, config_setting_t *s, void *to)
{
	config_setting_t *both = config_setting_get_member(s, "l2");
	config_setting_t *d = config_setting_get_member(s, "l2d"), *i = config_setting_get_member(s, "l2i");
	struct hw *hw = to;

	if (both && (d || i))
		return refuse(r, both, "there is l2 (for all), or l2d and l2i, not both");
	if (!hw->l2_split && !!d != !!i)
		return refuse(r, d ? d : i, "%s is missing", d ? "l2i" : "l2d");
	if (both)
		hw->l2i = (struct hw_tlb){0};
	hw->l2_split = !both && (hw->l2_split || d);
	return 0;
}

static const struct key tlbs_keys[] = {
	{.name = "l1d", .read = read_tlb, .offset = offsetof(struct hw, l1d), .needed = true},
	{.name = "l1i", .read = read_tlb, .offset = offsetof(struct hw, l1i), .needed = true},
	{.name = "l2", .read = read_tlb, .offset = offsetof(struct hw, l2d)},
	{.name = "l2d", .read = read_tlb, .offset = offsetof(struct hw, l2d)},
	{.name = "l2i", .read = read_tlb, .offset = offsetof(struct hw, l2i)},
	{0},
};

/* ---- walk caches ---- */

static int read_kind(const struct reader *r, config_setting_t *s, const struct key *k, void *to)
{
	static const char *const kind[] = {[HW_WALK_NONE] = "none", [HW_WALK_SPLIT] = "split",
					   [HW_WALK_UNIFIED] = "unified"};
	int n = get_choice(r, s, kind, ARRAY_SIZE(kind));

	(void)k;
	if (n < 0)
		return n;
	*(enum hw_walk_caches *)to = (enum hw_walk_caches)n;
	return 0;
}

#define LEVEL_KEY(text, level)                                                                             \
	{.name = text, .read = read_group, .offset = (level) * sizeof(struct hw_array), .members = array_keys, \
	 .check = check_array}
static const struct key level_keys[] = {
	LEVEL_KEY("pml5e", 5), LEVEL_KEY("pml4e", 4), LEVEL_KEY("pdpte", 3), LEVEL_KEY("pde", 2), {0},
};

/* Offsets are those of struct hw: its array is not all that the group has. */
static const struct key unified_keys[] = {
	{.name = "entries", .read = read_u32, .offset = offsetof(struct hw, unified.entries), .max = HW_ENTRIES_MAX},
	{.name = "ways", .read = read_ways, .offset = offsetof(struct hw, unified.ways), .max = HW_ENTRIES_MAX},
	{.name = "guest", .read = read_bool, .offset = offsetof(struct hw, unified_guest)},
	{.name = "host", .read = read_bool, .offset = offsetof(struct hw, unified_host)},
	{.name = "host_leaf", .read = read_bool, .offset = offsetof(struct hw, unified_host_leaf)},
	{0},
};

static int check_unified(const struct reader *r, config_setting_t *s, void *to)
{
	struct hw *hw = to;

	return check_array(r, s, &hw->unified);
}

static int check_walk_caches(const struct reader *r, config_setting_t *s, void *to)
{
	static const struct { const char *key; enum hw_walk_caches kind; } of[] = {
		{"guest", HW_WALK_SPLIT}, {"host", HW_WALK_SPLIT}, {"unified", HW_WALK_UNIFIED},
	};
	const struct hw *hw = to;

	for (unsigned i = 0; i < ARRAY_SIZE(of); i++)
		if (config_setting_get_member(s, of[i].key) && hw->walk_caches != of[i].kind)
			return refuse(r, member_or(s, of[i].key), "belongs to another kind of walk caches");
	return 0;
}

static const struct key walk_keys[] = {
	{.name = "kind", .read = read_kind, .offset = offsetof(struct hw, walk_caches), .needed = true},
	{.name = "guest", .read = read_group, .offset = offsetof(struct hw, guest), .members = level_keys},
	{.name = "host", .read = read_group, .offset = offsetof(struct hw, host), .members = level_keys},
	{.name = "unified", .read = read_group, .members = unified_keys, .check = check_unified},
	{0},
};

/* ---- the memory hierarchy ---- */

static const struct key cache_keys[] = {
	{.name = "bytes", .read = read_u64, .offset = offsetof(struct hw_cache, bytes), .max = CACHE_MAX},
	{.name = "ways", .read = read_ways, .offset = offsetof(struct hw_cache, ways), .max = HW_ENTRIES_MAX},
	{.name = "latency", .read = read_u32, .offset = offsetof(struct hw_cache, latency), .max = CYCLES_MAX},
	{0},
};

static int check_cache(const struct reader *r, config_setting_t *s, void *to)
{
	struct hw_cache *c = to;

	if (!config_setting_get_member(s, "bytes"))
		return refuse(r, s, "bytes is missing");
	if (!c->bytes)
		*c = (struct hw_cache){0};
	else if (!config_setting_get_member(s, "ways"))
		return refuse(r, s, "ways is missing");
	else if (!config_setting_get_member(s, "latency"))
		return refuse(r, s, "latency is missing");
	return 0;
}

static int check_cache_geometry(const struct reader *r, config_setting_t *s, const char *name, struct hw_cache *c,
				uint32_t line)
{
	if (!c->bytes)
		return 0;
	if (c->ways == WAYS_ALL)
		c->ways = (uint32_t)max_u64(c->bytes / line, 1);
	if (c->bytes % ((uint64_t)c->ways * line))
		return refuse(r, s, "%s has %u bytes, which are no multiple of %u ways of %u-byte lines", name,
			      (unsigned)c->bytes, c->ways, line);
	if (!is_pow2(c->bytes / c->ways / line))
		return refuse(r, s, "%s has %u sets, which are no power of two", name,
			      (unsigned)(c->bytes / c->ways / line));
	return 0;
}

/* The line's size is common to all, so that caches are looked at when everything is known. */
static int check_caches(const struct reader *r, config_setting_t *s, void *to)
{
	static const char *const name[HW_MEMORY] = {[HW_L1] = "l1", [HW_L2] = "l2", [HW_LLC] = "llc"};
	struct hw *hw = to;
	int ret = 0;

	if (!is_pow2(hw->line) || hw->line < LINE_MIN || hw->line > LINE_MAX)
		return refuse(r, member_or(s, "line"), "%u: must be a power of two from %u to %u", hw->line, LINE_MIN,
			      LINE_MAX);
	for (unsigned i = 0; i < HW_MEMORY && ret == 0; i++)
		ret = check_cache_geometry(r, member_or(s, name[i]), name[i], &hw->cache[i], hw->line);
	return ret;
}

#define CACHE_KEY(text, place)                                                                            \
	{.name = text, .read = read_group, .offset = offsetof(struct hw, cache[place]), .members = cache_keys, \
	 .check = check_cache}
static const struct key caches_keys[] = {
	{.name = "line", .read = read_u32, .offset = offsetof(struct hw, line), .max = LINE_MAX, .needed = true},
	CACHE_KEY("l1", HW_L1),
	CACHE_KEY("l2", HW_L2),
	CACHE_KEY("llc", HW_LLC),
	{.name = "memory", .read = read_u32, .offset = offsetof(struct hw, memory_latency), .max = CYCLES_MAX,
	 .needed = true},
	{0},
};

/* ---- costs ---- */

/* A reason's key: its name in reports, small letters, what is no letter or digit one dash. */
static void exit_key(const char *name, char key[64])
{
	unsigned n = 0;

	for (; *name && n < 63; name++) {
		if (isalnum((unsigned char)*name))
			key[n++] = (char)tolower((unsigned char)*name);
		else if (n && key[n - 1] != '-')
			key[n++] = '-';
	}
	while (n && key[n - 1] == '-')
		n--;
	key[n] = 0;
}

static int find_exit(const char *wanted)
{
	static const struct { unsigned number; const char *name; } reason[] = {
#define X(sym, number, name) {number, name},
		VMX_EXIT_REASONS(X)
#undef X
	};
	char key[64];

	for (unsigned i = 0; i < ARRAY_SIZE(reason); i++) {
		exit_key(reason[i].name, key);
		if (strcmp(key, wanted) == 0)
			return (int)reason[i].number;
	}
	return -1;
}

/* "default" is for all reasons, wherever it stands; the others are for theirs. */
static int read_exits(const struct reader *r, config_setting_t *s, const struct key *k, void *to)
{
	uint32_t *cycles = to, n = 0;
	config_setting_t *common;
	int ret;

	if (config_setting_type(s) != CONFIG_TYPE_GROUP)
		return refuse(r, s, "must be a group: { ... }");
	common = config_setting_get_member(s, "default");
	if (!common && !r->based)
		return refuse(r, s, "default is missing, and there is no base to take it from");
	if (common) {
		ret = get_number(r, common, k->max, &n);
		if (ret)
			return ret;
		for (unsigned i = 0; i < HW_EXIT_REASONS; i++)
			cycles[i] = n;
	}
	for (int i = 0; i < config_setting_length(s); i++) {
		config_setting_t *m = config_setting_get_elem(s, (unsigned)i);
		int reason = m == common ? 0 : find_exit(config_setting_name(m));

		if (reason < 0)
			return refuse(r, m, "no VM-exit reason of that name");
		ret = m == common ? 0 : get_number(r, m, k->max, &cycles[reason]);
		if (ret)
			return ret;
	}
	return 0;
}

#define COST_KEY(text, field) \
	{.name = text, .read = read_u32, .offset = offsetof(struct hw_cost, field), .max = CYCLES_MAX, .needed = true}
static const struct key cost_keys[] = {
	{.name = "instruction", .read = read_fraction, .offset = offsetof(struct hw_cost, instruction), .max = 1000,
	 .needed = true},
	COST_KEY("l2_tlb_hit", l2_tlb_hit),
	COST_KEY("l2_tlb_miss", l2_tlb_miss),
	COST_KEY("walk_cache_hit", walk_cache_hit),
	COST_KEY("nested_tlb_hit", nested_tlb_hit),
	{.name = "register_lookup", .read = read_u32, .offset = offsetof(struct hw_cost, register_lookup), .max = CYCLES_MAX},
	{.name = "exit", .read = read_exits, .offset = offsetof(struct hw_cost, exit), .max = CYCLES_MAX,
	 .needed = true},
	COST_KEY("entry", entry),
	COST_KEY("dispatch", dispatch),
	COST_KEY("vmread", vmread),
	COST_KEY("vmwrite", vmwrite),
	COST_KEY("invept", invept),
	COST_KEY("invvpid", invvpid),
	COST_KEY("emulated_instruction", emulated_insn),
	COST_KEY("table_read", table_read),
	COST_KEY("table_write", table_write),
	COST_KEY("event_delivery", page_fault),
	{0},
};

/* ---- the whole ---- */

/* Taken care of before anything else. */
static int read_base(const struct reader *r, config_setting_t *s, const struct key *k, void *to)
{
	(void)r, (void)s, (void)k, (void)to;
	return 0;
}

static const struct key root_keys[] = {
	{.name = "base", .read = read_base},
	{.name = "name", .read = read_string, .offset = offsetof(struct hw, name),
	 .max = sizeof(((struct hw *)0)->name)},
	{.name = "title", .read = read_string, .offset = offsetof(struct hw, title),
	 .max = sizeof(((struct hw *)0)->title), .needed = true},
	{.name = "tlb", .read = read_group, .members = tlbs_keys, .check = check_tlbs, .needed = true},
	{.name = "walk_caches", .read = read_group, .members = walk_keys, .check = check_walk_caches, .needed = true},
	{.name = "nested_tlb", .read = read_group, .offset = offsetof(struct hw, nested_tlb), .members = array_keys,
	 .check = check_array},
	{.name = "caches", .read = read_group, .members = caches_keys, .check = check_caches, .needed = true},
	{.name = "cost", .read = read_group, .offset = offsetof(struct hw, cost), .members = cost_keys,
	 .needed = true},
	{0},
};

static int load_named(struct hw *hw, const char *name, const struct source *wanted_by, struct error *err);

/* Starts @hw from what "base" names. */
static int start_from_base(struct reader *r, config_setting_t *root, struct hw *hw)
{
	config_setting_t *s = config_setting_get_member(root, "base");
	struct error why = {0};
	char name[256] = "", from[sizeof(hw->name)];
	int ret;

	r->based = s != NULL;
	hw->cost.register_lookup = HW_REGISTER_LOOKUP;
	if (!s)
		return 0;
	ret = read_string(r, s, &(struct key){.max = sizeof(name)}, name);
	if (ret)
		return ret;
	if (r->source->depth >= BASE_DEPTH)
		return refuse(r, s, "more than %d descriptions based on each other", BASE_DEPTH);
	ret = load_named(hw, name, r->source, &why);
	/* What is wrong with another file is said with that file's name and line. */
	if (ret == -EINVAL)
		return error_set(r->err, ret, "%s", why.text);
	if (ret)
		return refuse(r, s, "%s", why.text);
	memcpy(from, hw->name, sizeof(from));
	snprintf(hw->title, sizeof(hw->title), "changed from %s", from);
	return 0;
}

static int read_root(struct reader *r, config_t *cfg, struct hw *hw)
{
	config_setting_t *root = config_root_setting(cfg);
	int ret = start_from_base(r, root, hw);

	if (ret)
		return ret;
	if (!config_setting_get_member(root, "name"))
		return error_set(r->err, -EINVAL, "%.200s:1: name: missing", r->source->origin);
	return read_members(r, root, root_keys, hw);
}

/* What libconfig would not mind, or would do too much about. */
static int check_text(const struct source *src, const char *text, size_t bytes, struct error *err)
{
	unsigned line = 1;

	if (bytes > TEXT_MAX)
		return error_set(err, -EINVAL, "%.200s:1: a file of more than %u bytes", src->origin, TEXT_MAX);
	for (size_t i = 0; i < bytes; line++) {
		size_t end = i;

		while (end < bytes && text[end] && text[end] != '\n')
			end++;
		if (end < bytes && !text[end])
			return error_set(err, -EINVAL, "%.200s:%u: a NUL byte", src->origin, line);
		while (i < end && (text[i] == ' ' || text[i] == '\t'))
			i++;
		if (end - i >= 8 && memcmp(text + i, "@include", 8) == 0)
			return error_set(err, -EINVAL, "%.200s:%u: @include: not supported; use base = \"NAME\";",
					 src->origin, line);
		i = end + 1;
	}
	return 0;
}

static int parse_text(struct hw *hw, const struct source *src, const char *text, size_t bytes, struct error *err)
{
	struct reader r = {.source = src, .err = err};
	struct hw made;
	config_t cfg;
	char *copy;
	int ret = check_text(src, text, bytes, err);

	if (ret)
		return ret;
	copy = strndup(text, bytes);
	if (!copy)
		return error_set(err, -ENOMEM, "%.200s: out of memory", src->origin);
	memset(&made, 0, sizeof(made));
	config_init(&cfg);
	if (config_read_string(&cfg, copy))
		ret = read_root(&r, &cfg, &made);
	else
		ret = error_set(err, -EINVAL, "%.200s:%d: %s", src->origin, config_error_line(&cfg),
				config_error_text(&cfg) ? config_error_text(&cfg) : "cannot be read");
	config_destroy(&cfg);
	free(copy);
	if (ret == 0)
		*hw = made;
	return ret;
}

/* ---- files and built-in descriptions ---- */

/* The whole file, at most TEXT_MAX + 1 bytes of it. */
static int read_file(int fd, char **text, size_t *bytes)
{
	char *buf = malloc(TEXT_MAX + 1);
	size_t n = 0;
	ssize_t got = buf ? 1 : 0;

	while (got > 0 && n < TEXT_MAX + 1) {
		got = read(fd, buf + n, TEXT_MAX + 1 - n);
		if (got < 0 && errno == EINTR)
			got = 1;
		else if (got > 0)
			n += (size_t)got;
	}
	if (!buf || got < 0) {
		int code = buf ? -errno : -ENOMEM;

		free(buf);
		return code;
	}
	*text = buf;
	*bytes = n;
	return 0;
}

static int check_cycle(const struct source *src, struct error *err)
{
	for (const struct source *s = src->wanted_by; s; s = s->wanted_by)
		if (s->file && s->device == src->device && s->inode == src->inode)
			return error_set(err, -ELOOP, "'%.100s' is based on itself", src->origin);
	return 0;
}

/* An open file: anything but a regular file is none, and opening it did not wait. */
static int load_fd(struct hw *hw, int fd, struct source *src, struct error *err)
{
	struct stat st;
	size_t bytes = 0;
	char *text = NULL;
	int ret;

	if (fstat(fd, &st))
		return error_set(err, -errno, "'%.200s': %s", src->origin, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return error_set(err, -EISDIR, "'%.200s': no regular file", src->origin);
	src->file = true;
	src->device = st.st_dev;
	src->inode = st.st_ino;
	ret = check_cycle(src, err);
	if (ret)
		return ret;
	ret = read_file(fd, &text, &bytes);
	if (ret)
		return error_set(err, ret, "'%.200s': %s", src->origin, strerror(-ret));
	ret = parse_text(hw, src, text, bytes, err);
	free(text);
	return ret;
}

static int load_file(struct hw *hw, struct source *src, struct error *err)
{
	int fd = open(src->origin, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), ret;

	if (fd < 0)
		return error_set(err, -errno, "'%.200s': neither a built-in description nor a file: %s", src->origin,
				 strerror(errno));
	ret = load_fd(hw, fd, src, err);
	close(fd);
	return ret;
}

/* Relative names are relative to the file that has them. */
static char *resolve(const char *name, const struct source *wanted_by)
{
	const char *slash = wanted_by && wanted_by->file ? strrchr(wanted_by->origin, '/') : NULL;
	char *path;

	if (*name == '/' || !slash)
		return strdup(name);
	return asprintf(&path, "%.*s/%s", (int)(slash - wanted_by->origin), wanted_by->origin, name) < 0 ? NULL : path;
}

static int load_named(struct hw *hw, const char *name, const struct source *wanted_by, struct error *err)
{
	struct source src = {.origin = name, .wanted_by = wanted_by, .depth = wanted_by ? wanted_by->depth + 1 : 0};
	char *path;
	int ret;

	for (const struct hw_builtin *b = hw_builtins; b->name; b++)
		if (strcmp(b->name, name) == 0)
			return parse_text(hw, &src, b->text, strlen(b->text), err);
	path = resolve(name, wanted_by);
	if (!path)
		return error_set(err, -ENOMEM, "out of memory");
	src.origin = path;
	ret = load_file(hw, &src, err);
	free(path);
	return ret;
}

int hw_load(struct hw *hw, const char *name_or_path, struct error *err)
{
	return load_named(hw, name_or_path, NULL, err);
}

int hw_parse(struct hw *hw, const char *text, size_t bytes, const char *origin, struct error *err)
{
	return parse_text(hw, &(struct source){.origin = origin}, text, bytes, err);
}

void hw_default(struct hw *hw)
{
	struct error err;
	int ret = hw_load(hw, "skylake", &err);

	assert(ret == 0);
	(void)ret;
}
