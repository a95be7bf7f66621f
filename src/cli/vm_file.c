/*
 * See vm_file.h. libconfig has the syntax; which keys there are and what values
 * they take is in the option tables. What it would do beyond reading one text
 * ("@include") is refused before it sees the text.
 */
#include "cli/vm_file.h"
#include "vm/file.h"
#include "vm/memmap.h"
#include <errno.h>
#include <inttypes.h>
#include <libconfig.h>
#include <stdlib.h>

/* ---- options ---- */

static int set_mmu(void *ctx, const char *v, struct error *err)
{
	return parse_mmu(v, strlen(v), &((struct vm_description *)ctx)->cfg.engine.mmu, err);
}

static int set_report(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct vm_description *)ctx)->report = v;
	return 0;
}

static int set_serial(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct vm_description *)ctx)->serial = v;
	return 0;
}

static int set_control(void *ctx, const char *v, struct error *err)
{
	if (!*v)
		return error_set(err, -EINVAL, "--control '': a path is wanted");
	((struct vm_description *)ctx)->control = v;
	return 0;
}

const struct option_desc vm_options[] = {
	{"mmu", "SCHEME", "native, brute, shadow, ept, hugegpt, dmt, pvdmt, agile, nested, nested-pvdmt or\n"
			  "native-dmt (default native)", set_mmu},
	{"report", "FILE", "write what was counted as JSON", set_report},
	{"serial", "FILE", "serial output to FILE, or 'none' (default: the terminal)", set_serial},
	{"control", "PATH", "a socket at PATH to ask and command the run by (gnomon control)", set_control},
	{0},
};

static int set_name(void *ctx, const char *v, struct error *err)
{
	size_t n = strspn(v, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

	if (!n || v[n] || n > VM_NAME_MAX)
		return error_set(err, -EINVAL, "--name '%s': from 1 to %u letters, digits, '.', '_' or '-'", v, VM_NAME_MAX);
	((struct vm_description *)ctx)->name = v;
	return 0;
}

/* Keys that are no options. */
static const struct option_desc file_options[] = {
	{"name", "TEXT", "what its output and messages are marked with", set_name},
	{0},
};

/* ---- refusing ---- */

/* One line, whatever a file had in its strings. */
static void make_printable(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 127)
			*text = '?';
}

/* @why: of an option's setter, which begins with the option: the key stands there already. */
static int refuse(const struct vm_file *f, unsigned line, const char *key, const char *why, struct error *err)
{
	char text[sizeof(err->text)];
	size_t n = strlen(key);

	if (strncmp(why, "--", 2) == 0 && strncmp(why + 2, key, n) == 0 && (why[n + 2] == ' ' || why[n + 2] == ':'))
		why += n + 3 + (why[n + 2] == ':');
	snprintf(text, sizeof(text), "%s", why); /* it may be err->text itself */
	error_set(err, -EINVAL, "%.200s:%u: %.60s%s%s", f->origin, line, key, *key ? ": " : "", text);
	make_printable(err->text);
	return -EINVAL;
}

/* The key of a value, which may be one of a list. */
static const char *key_of(const config_setting_t *s)
{
	const char *name = config_setting_name(s);

	return name ? name : config_setting_name(config_setting_parent(s));
}

static int refuse_at(const struct vm_file *f, const config_setting_t *s, const char *why, struct error *err)
{
	return refuse(f, (unsigned)config_setting_source_line(s), key_of(s), why, err);
}

/* ---- values ---- */

/* A copy that lives as long as the description. */
static const char *keep(struct vm_file *f, char *copy)
{
	if (!copy)
		return NULL;
	if (f->kept_count == ARRAY_SIZE(f->kept)) {
		free(copy);
		return NULL;
	}
	f->kept[f->kept_count++] = copy;
	return copy;
}

static bool takes_number(const struct option_desc *d)
{
	return d->value && (strcmp(d->value, "N") == 0 || strcmp(d->value, "SIZE") == 0);
}

/* The value as the command line would have it. *text is NULL for an option without one; *given: the option is set. */
static int value_text(struct vm_file *f, const config_setting_t *s, const struct option_desc *d, const char **text,
		      bool *given, struct error *err)
{
	int type = config_setting_type(s);
	char number[32];

	*text = NULL;
	*given = true;
	if (!d->value) {
		if (type != CONFIG_TYPE_BOOL)
			return refuse_at(f, s, "true or false is wanted", err);
		*given = config_setting_get_bool(s);
		return 0;
	}
	if (type == CONFIG_TYPE_STRING) {
		*text = keep(f, strdup(config_setting_get_string(s)));
	} else if (takes_number(d) && (type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64)) {
		int64_t v = type == CONFIG_TYPE_INT ? config_setting_get_int(s) : config_setting_get_int64(s);

		if (v < 0 && config_setting_get_format(s) != CONFIG_FORMAT_HEX)
			return refuse_at(f, s, "not below 0", err);
		/* A hexadecimal number of 32 bits comes as a negative one. */
		snprintf(number, sizeof(number), "%" PRIu64, type == CONFIG_TYPE_INT ? (uint32_t)v : (uint64_t)v);
		*text = keep(f, strdup(number));
	} else {
		return refuse_at(f, s, takes_number(d) ? "a number or a string is wanted" : "a string is wanted", err);
	}
	return *text ? 0 : error_set(err, -ENOMEM, "out of memory");
}

/* ---- keys ---- */

static const struct option_desc *find_option(const struct option_desc *table, const char *name)
{
	for (; table->name; table++)
		if (strcmp(table->name, name) == 0)
			return table;
	return NULL;
}

static const struct option_desc *find_key(struct vm_file *f, const char *name, void **ctx)
{
	const struct option_desc *d = find_option(guest_options, name);

	*ctx = &f->vm.cfg;
	if (d)
		return d;
	*ctx = &f->vm;
	d = find_option(vm_options, name);
	return d ? d : find_option(file_options, name);
}

static int read_value(struct vm_file *f, const config_setting_t *s, const struct option_desc *d, void *ctx,
		      struct error *err)
{
	struct error why = {0};
	const char *text;
	bool given;
	int ret = value_text(f, s, d, &text, &given, err);

	if (ret || !given)
		return ret;
	ret = d->set(ctx, text, &why);
	if (ret == 0 && ctx == &f->vm && engine_mmu_is_bare(f->vm.cfg.engine.mmu))
		return refuse_at(f, s, "native has no hypervisor to share the machine: brute, shadow or ept", err);
	if (ret == 0 && f->vm.cfg.clock != VM_CLOCK_ICOUNT)
		return refuse_at(f, s, "VMs on one processor have the clock icount", err);
	return ret ? refuse_at(f, s, why.text, err) : 0;
}

/* A list of values, for an option that can be given several times. */
static int read_values(struct vm_file *f, const config_setting_t *list, const struct option_desc *d, void *ctx,
		       struct error *err)
{
	int ret = 0;

	for (int i = 0; i < config_setting_length(list) && !ret; i++)
		ret = read_value(f, config_setting_get_elem(list, (unsigned)i), d, ctx, err);
	return ret;
}

static int read_key(struct vm_file *f, const config_setting_t *s, struct error *err)
{
	const char *name = config_setting_name(s);
	const struct option_desc *d;
	char line[128];
	void *ctx;

	d = find_key(f, name, &ctx);
	if (!d)
		return refuse_at(f, s, "no such key", err);
	if (guest_option_of_processor(d)) {
		snprintf(line, sizeof(line), "--%s belongs to the processor: give it on the command line", name);
		return refuse(f, (unsigned)config_setting_source_line(s), "", line, err);
	}
	if (guest_option_repeats(d) && (config_setting_is_array(s) || config_setting_is_list(s)))
		return read_values(f, s, d, ctx, err);
	return read_value(f, s, d, ctx, err);
}

static unsigned line_of(config_setting_t *root, const char *key)
{
	const config_setting_t *s = config_setting_get_member(root, key);

	return s ? (unsigned)config_setting_source_line(s) : 1;
}

static int read_keys(struct vm_file *f, config_t *cfg, struct error *err)
{
	config_setting_t *root = config_root_setting(cfg);
	struct error why = {0};

	for (int i = 0; i < config_setting_length(root); i++) {
		int ret = read_key(f, config_setting_get_elem(root, (unsigned)i), err);

		if (ret)
			return ret;
	}
	if (!f->vm.cfg.kernel && !f->vm.cfg.firmware)
		return refuse(f, 1, "kernel", "missing", err);
	if (memmap_check_memory(f->vm.cfg.engine.memory, f->vm.cfg.engine.cpu.maxphyaddr, &why))
		return refuse(f, line_of(root, "memory"), "memory", why.text, err);
	return 0;
}

/* ---- the text ---- */

/* What libconfig would not mind, or would do too much about. */
static int check_text(const struct vm_file *f, const char *text, size_t bytes, struct error *err)
{
	unsigned line = 1;

	if (bytes > VM_FILE_BYTES_MAX)
		return refuse(f, 1, "", "larger than any description of a VM (64 KiB)", err);
	for (size_t i = 0; i < bytes; line++) {
		size_t end = i;

		while (end < bytes && text[end] && text[end] != '\n')
			end++;
		if (end < bytes && !text[end])
			return refuse(f, line, "", "a NUL byte", err);
		while (i < end && strchr(" \t\r\f\v", text[i]))
			i++;
		if (end - i >= 8 && memcmp(text + i, "@include", 8) == 0)
			return refuse(f, line, "@include", "a VM is described in one file", err);
		i = end + 1;
	}
	return 0;
}

/* Relative paths are relative to where the file is. */
static int set_directory(struct vm_file *f, struct error *err)
{
	const char *slash = strrchr(f->origin, '/');

	if (!slash)
		return 0;
	f->vm.cfg.directory = keep(f, strndup(f->origin, (size_t)(slash - f->origin) + 1));
	return f->vm.cfg.directory ? 0 : error_set(err, -ENOMEM, "out of memory");
}

static int in_directory(struct vm_file *f, const char **path, struct error *err)
{
	char *joined;

	if (!*path || **path == '/' || !f->vm.cfg.directory)
		return 0;
	if (asprintf(&joined, "%s%s", f->vm.cfg.directory, *path) < 0)
		joined = NULL;
	*path = keep(f, joined);
	return *path ? 0 : error_set(err, -ENOMEM, "out of memory");
}

static int set_paths(struct vm_file *f, struct error *err)
{
	const char *serial = f->vm.serial;
	int ret = in_directory(f, &f->vm.report, err);

	if (ret == 0)
		ret = in_directory(f, &f->vm.control, err);
	if (ret || !serial || strcmp(serial, "none") == 0 || strcmp(serial, "stdio") == 0)
		return ret;
	return in_directory(f, &f->vm.serial, err);
}

/* Without a name it is called as its file, as far as that makes a name. */
static int set_default_name(struct vm_file *f, struct error *err)
{
	const char *slash = strrchr(f->origin, '/'), *base = slash ? slash + 1 : f->origin;
	const char *dot = strrchr(base, '.');
	struct error why = {0};
	const char *name;

	if (f->vm.name)
		return 0;
	name = keep(f, strndup(base, dot && dot != base ? (size_t)(dot - base) : strlen(base)));
	if (!name)
		return error_set(err, -ENOMEM, "out of memory");
	return set_name(&f->vm, name, &why) ? refuse(f, 1, "name", "missing, and the file's own does not do", err) : 0;
}

static int parse(struct vm_file *f, const char *text, struct error *err)
{
	config_t cfg;
	int ret;

	config_init(&cfg);
	if (config_read_string(&cfg, text)) {
		ret = read_keys(f, &cfg, err);
	} else {
		const char *why = config_error_text(&cfg);

		ret = refuse(f, (unsigned)config_error_line(&cfg), "", why ? why : "cannot be read", err);
	}
	config_destroy(&cfg);
	if (ret == 0)
		ret = set_paths(f, err);
	return ret ? ret : set_default_name(f, err);
}

int vm_file_parse(struct vm_file *f, const char *text, size_t bytes, const char *origin,
		  const struct vm_config *defaults, struct error *err)
{
	char *copy = NULL;
	int ret;

	*f = (struct vm_file){.origin = origin, .vm.cfg = *defaults};
	f->vm.cfg.engine.mmu = ENGINE_EPT;
	ret = check_text(f, text, bytes, err);
	if (ret == 0)
		ret = set_directory(f, err);
	if (ret == 0) {
		copy = strndup(text, bytes);
		ret = copy ? parse(f, copy, err) : error_set(err, -ENOMEM, "out of memory");
	}
	free(copy);
	if (ret)
		vm_file_free(f);
	return ret;
}

int vm_file_load(struct vm_file *f, const char *path, const struct vm_config *defaults, struct error *err)
{
	struct blob text;
	int ret = blob_read(&text, "VM description", path, VM_FILE_BYTES_MAX + 1, err);

	*f = (struct vm_file){.origin = path};
	if (ret == -EFBIG)
		return refuse(f, 1, "", "larger than any description of a VM (64 KiB)", err);
	if (ret)
		return ret;
	ret = vm_file_parse(f, (const char *)text.data, text.bytes, path, defaults, err);
	blob_free(&text);
	return ret;
}

void vm_file_free(struct vm_file *f)
{
	while (f->kept_count)
		free(f->kept[--f->kept_count]);
}
