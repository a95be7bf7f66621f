/*
 * What a VM is made of, written as JSON beside its state and read again: docs/FORMATS.md, "State". Paths are made
 * absolute, since whoever reads it may stand elsewhere. What is read may be anybody's; it is checked here as far as it
 * is not where it is used.
 */
#include "vm/vm_config.h"

#include "vm/net.h"
#include "vm/vm_state.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SCHEMA "gnomon-vm-config/1"

static const char *const feature_name[] = {
#define X(sym, name, leaf, sub, reg, bit) [CPUF_##sym] = name,
	CPU_FEATURES(X)
#undef X
};

/* ---- writing ---- */

static int make_absolute(char *to, const struct vm_config *cfg, const char *path, struct error *err)
{
	const char *directory = *path == '/' || !cfg->directory ? "" : cfg->directory;
	char here[PATH_MAX] = "";
	bool relative = *path != '/' && *directory != '/';

	if (relative && !getcwd(here, sizeof(here)))
		return error_set(err, -errno, "the current directory: %s", strerror(errno));
	if (snprintf(to, PATH_MAX, "%s%s%s%s", here, relative ? "/" : "", directory, path) >= PATH_MAX)
		return error_set(err, -ENAMETOOLONG, "%.300s: %s", path, strerror(ENAMETOOLONG));
	return 0;
}

/* As --disk has it. */
static int put_disk(json_t *list, const struct vm_config *cfg, const char *text, struct error *err)
{
	char path[PATH_MAX], absolute[sizeof(struct devices_disk) + PATH_MAX];
	struct devices_disk disk;
	int ret = devices_parse_disk(text, &disk, err);

	if (!ret)
		ret = make_absolute(path, cfg, disk.path, err);
	if (ret)
		return ret;
	strcpy(disk.path, path);
	ret = devices_print_disk(&disk, absolute, sizeof(absolute), err);
	if (!ret)
		json_array_append_new(list, json_string(absolute));
	return ret;
}

static int put_net(json_t *list, const struct vm_config *cfg, const char *text, struct error *err)
{
	char path[PATH_MAX];
	struct net_config net;
	const char *mac = strrchr(text, ',');
	int ret = net_parse(text, &net, err);

	if (!ret && net.kind == NET_SOCKET)
		ret = make_absolute(path, cfg, net.name, err);
	if (ret)
		return ret;
	json_array_append_new(list, net.kind != NET_SOCKET ? json_string(text)
							   : json_sprintf("socket:%s%s", path, mac ? mac : ""));
	return 0;
}

static int put_devices(json_t *o, const struct vm_config *cfg, struct error *err)
{
	const struct devices_config *d = &cfg->devices;
	json_t *disks = json_array(), *nets = json_array();
	char path[PATH_MAX];
	int ret = 0;

	json_object_set_new(o, "disk", disks);
	json_object_set_new(o, "net", nets);
	for (unsigned i = 0; i < d->disks && !ret; i++)
		ret = put_disk(disks, cfg, d->disk[i], err);
	for (unsigned i = 0; i < d->nets && !ret; i++)
		ret = put_net(nets, cfg, d->net[i], err);
	json_object_set_new(o, "rng", json_boolean(d->rng));
	json_object_set_new(o, "packed", json_boolean(d->packed));
	json_object_set_new(o, "balloon_bytes", d->balloon ? json_integer((json_int_t)d->balloon_bytes) : json_null());
	if (!ret && d->console && strcmp(d->console, "-") != 0)
		ret = make_absolute(path, cfg, d->console, err);
	else if (!ret && d->console)
		strcpy(path, "-");
	json_object_set_new(o, "virtio_console", !ret && d->console ? json_string(path) : json_null());
	return ret;
}

static void put_processor(json_t *o, const struct cpu_config *c)
{
	json_t *features = json_array();

	json_object_set_new(o, "cpu_features", features);
	for (unsigned i = 0; i < CPUF_COUNT; i++)
		if (c->feature[i])
			json_array_append_new(features, json_string(feature_name[i]));
	json_object_set_new(o, "maxphyaddr", json_integer(c->maxphyaddr));
	json_object_set_new(o, "mitigations", json_boolean(c->mitigations));
	json_object_set_new(o, "seed", json_sprintf("%016" PRIx64, c->seed));
	json_object_set_new(o, "apic_id", json_integer(c->apic_id));
}

int vm_config_to_text(char **out, const struct vm_config *cfg, struct error *err)
{
	json_t *o = json_object();
	int ret;

	json_object_set_new(o, "schema", json_string(SCHEMA));
	json_object_set_new(o, "memory_bytes", json_integer((json_int_t)cfg->engine.memory));
	if (cfg->engine.rom)
		json_object_set_new(o, "rom", json_true());
	put_processor(o, &cfg->engine.cpu);
	json_object_set_new(o, "clock", json_string(cfg->clock == VM_CLOCK_WALL ? "wall" : "icount"));
	ret = put_devices(o, cfg, err);
	*out = ret ? NULL : json_dumps(o, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
	json_decref(o);
	return ret || *out ? ret : error_set(err, -ENOMEM, "saving state: out of memory");
}

/* ---- reading ---- */

static int wrong(struct error *err, const char *key)
{
	return error_set(err, -EINVAL, "state: config: '%s' is missing or not what it should be", key);
}

static int take_number(const json_t *o, const char *key, uint64_t max, uint64_t *v, struct error *err)
{
	const json_t *j = json_object_get(o, key);

	if (!json_is_integer(j) || json_integer_value(j) < 0 || (uint64_t)json_integer_value(j) > max)
		return wrong(err, key);
	*v = (uint64_t)json_integer_value(j);
	return 0;
}

static int take_bool(const json_t *o, const char *key, bool *v, struct error *err)
{
	const json_t *j = json_object_get(o, key);

	if (!json_is_boolean(j))
		return wrong(err, key);
	*v = json_is_true(j);
	return 0;
}

static int take_seed(const json_t *o, uint64_t *v, struct error *err)
{
	const char *text = json_string_value(json_object_get(o, "seed"));

	if (!text || strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
		return wrong(err, "seed");
	*v = strtoull(text, NULL, 16);
	return 0;
}

/* All at once, so that what needs another feature finds it. None may be there that the others exclude. */
static int take_features(const json_t *o, struct cpu_config *c, struct error *err)
{
	const json_t *list = json_object_get(o, "cpu_features"), *j;
	char spec[32 * CPUF_COUNT] = "";
	size_t i, n = 0, set = 0;

	if (!json_is_array(list) || json_array_size(list) > CPUF_COUNT)
		return wrong(err, "cpu_features");
	json_array_foreach(list, i, j) {
		const char *name = json_string_value(j);

		if (!name || strlen(name) > 29 || strpbrk(name, ",="))
			return wrong(err, "cpu_features");
		n += (size_t)snprintf(spec + n, sizeof(spec) - n, "%s+%s", i ? "," : "", name);
	}
	memset(c->feature, 0, sizeof(c->feature));
	if (cpu_config_parse(c, spec, err))
		return -EINVAL;
	for (i = 0; i < CPUF_COUNT; i++)
		set += c->feature[i];
	return set == json_array_size(list) ? 0 : wrong(err, "cpu_features");
}

static int take_processor(const json_t *o, struct cpu_config *c, struct error *err)
{
	uint64_t maxphyaddr = 0, apic_id = 0;
	int ret = take_features(o, c, err);

	if (!ret)
		ret = take_number(o, "maxphyaddr", 52, &maxphyaddr, err);
	if (!ret)
		ret = take_number(o, "apic_id", UINT32_MAX, &apic_id, err);
	if (!ret)
		ret = take_bool(o, "mitigations", &c->mitigations, err);
	if (!ret)
		ret = take_seed(o, &c->seed, err);
	if (ret)
		return ret;
	if (maxphyaddr < 36)
		return wrong(err, "maxphyaddr");
	c->maxphyaddr = (unsigned)maxphyaddr;
	c->apic_id = (uint32_t)apic_id;
	return 0;
}

static int take_strings(const json_t *o, const char *key, const char **to, unsigned max, unsigned *count,
			struct error *err)
{
	const json_t *list = json_object_get(o, key), *j;
	size_t i;

	if (!json_is_array(list) || json_array_size(list) > max)
		return wrong(err, key);
	json_array_foreach(list, i, j) {
		to[i] = json_string_value(j);
		if (!to[i])
			return wrong(err, key);
	}
	*count = (unsigned)json_array_size(list);
	return 0;
}

static int take_devices(const json_t *o, struct devices_config *d, struct error *err)
{
	const json_t *console = json_object_get(o, "virtio_console");
	int ret = take_strings(o, "disk", d->disk, DEVICES_DISKS_MAX, &d->disks, err);

	if (!ret)
		ret = take_strings(o, "net", d->net, DEVICES_NETS_MAX, &d->nets, err);
	if (!ret)
		ret = take_bool(o, "rng", &d->rng, err);
	if (!ret)
		ret = take_bool(o, "packed", &d->packed, err);
	if (ret)
		return ret;
	d->balloon = !json_is_null(json_object_get(o, "balloon_bytes"));
	if (d->balloon && take_number(o, "balloon_bytes", INT64_MAX, &d->balloon_bytes, err))
		return -EINVAL;
	d->console = json_string_value(console);
	return d->console || json_is_null(console) ? 0 : wrong(err, "virtio_console");
}

static int take_all(const json_t *o, struct vm_config *cfg, struct error *err)
{
	const char *schema = json_string_value(json_object_get(o, "schema"));
	const char *clock = json_string_value(json_object_get(o, "clock"));
	int ret;

	if (!schema || strcmp(schema, SCHEMA) != 0)
		return error_set(err, -EINVAL, "state: config: its schema is '%.60s', known is '%s'", schema ? schema : "",
				 SCHEMA);
	if (!clock || (strcmp(clock, "wall") != 0 && strcmp(clock, "icount") != 0))
		return wrong(err, "clock");
	cfg->clock = *clock == 'w' ? VM_CLOCK_WALL : VM_CLOCK_ICOUNT;
	ret = take_number(o, "memory_bytes", INT64_MAX, &cfg->engine.memory, err);
	if (!ret && json_object_get(o, "rom")) /* only with firmware */
		ret = take_bool(o, "rom", &cfg->engine.rom, err);
	if (!ret)
		ret = take_processor(o, &cfg->engine.cpu, err);
	return ret ? ret : take_devices(o, &cfg->devices, err);
}

int vm_config_from_section(struct vm_config *cfg, struct vm_config_strings *keep, const void *bytes, size_t n,
			   struct error *err)
{
	struct vm_config c;
	json_error_t why;
	json_t *o = n <= VM_STATE_SECTION_MAX ? json_loadb(bytes, n, JSON_REJECT_DUPLICATES, &why) : NULL;
	int ret;

	if (n > VM_STATE_SECTION_MAX)
		return error_set(err, -EINVAL, "state: config: %zu bytes are too many", n);
	if (!o)
		return error_set(err, -EINVAL, "state: config: line %d: %s", why.line, why.text);
	vm_config_default(&c);
	ret = take_all(o, &c, err);
	if (ret) {
		json_decref(o);
		return ret;
	}
	*cfg = c;
	keep->json = o;
	return 0;
}

void vm_config_strings_free(struct vm_config_strings *keep)
{
	json_decref(keep->json);
	keep->json = NULL;
}
