/* The options that describe a guest and its machine: the same for run and compare. */
#include "cli/cli.h"
#include "vm/memmap.h"
#include "vm/net.h"
#include <errno.h>

int parse_mmu(const char *text, size_t length, enum engine_mmu *mmu, struct error *err)
{
	char all[160] = "";

	for (unsigned i = 0; i < ENGINE_MMU_COUNT; i++)
		if (strlen(engine_mmu_name[i]) == length && memcmp(engine_mmu_name[i], text, length) == 0) {
			*mmu = (enum engine_mmu)i;
			return 0;
		}
	for (unsigned i = 0; i < ENGINE_MMU_COUNT; i++) {
		strncat(all, i ? ", " : "", sizeof(all) - strlen(all) - 1);
		strncat(all, engine_mmu_name[i], sizeof(all) - strlen(all) - 1);
	}
	return error_set(err, -EINVAL, "--mmu '%.*s': one of %s", (int)length, text, all);
}

/* Index of @text in @names; -EINVAL. */
static int choose(const char *option, const char *text, const char *const *names, unsigned count, struct error *err)
{
	char all[64] = "";

	for (unsigned i = 0; i < count; i++) {
		if (strcmp(names[i], text) == 0)
			return (int)i;
		strncat(all, i ? ", " : "", sizeof(all) - strlen(all) - 1);
		strncat(all, names[i], sizeof(all) - strlen(all) - 1);
	}
	return error_set(err, -EINVAL, "--%s '%s': one of %s", option, text, all);
}

static int set_kernel(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct vm_config *)ctx)->kernel = v;
	return 0;
}

static int set_firmware(void *ctx, const char *v, struct error *err)
{
	struct vm_config *cfg = ctx;

	(void)err;
	cfg->firmware = v;
	cfg->engine.rom = true;
	return 0;
}

static int set_firmware_log(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct vm_config *)ctx)->firmware_log = v;
	return 0;
}

static int set_initrd(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct vm_config *)ctx)->initrd = v;
	return 0;
}

static int set_append(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct vm_config *)ctx)->append = v;
	return 0;
}

static int set_memory(void *ctx, const char *v, struct error *err)
{
	return parse_size("memory", v, &((struct vm_config *)ctx)->engine.memory, err);
}

static int set_features(void *ctx, const char *v, struct error *err)
{
	return cpu_config_parse(&((struct vm_config *)ctx)->engine.cpu, v, err);
}

static int set_maxphyaddr(void *ctx, const char *v, struct error *err)
{
	uint64_t n;
	int ret = parse_count("maxphyaddr", v, &n, err);

	if (ret)
		return ret;
	if (n < 36 || n > 52)
		return error_set(err, -EINVAL, "--maxphyaddr '%s': from 36 to 52", v);
	((struct vm_config *)ctx)->engine.cpu.maxphyaddr = (unsigned)n;
	return 0;
}

static int set_mitigations(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct vm_config *)ctx)->engine.cpu.mitigations = true;
	return 0;
}

static int set_seed(void *ctx, const char *v, struct error *err)
{
	return parse_count("seed", v, &((struct vm_config *)ctx)->engine.cpu.seed, err);
}

static int set_clock(void *ctx, const char *v, struct error *err)
{
	static const char *const names[] = {[VM_CLOCK_ICOUNT] = "icount", [VM_CLOCK_WALL] = "wall"};
	int n = choose("clock", v, names, ARRAY_SIZE(names), err);

	if (n < 0)
		return n;
	((struct vm_config *)ctx)->clock = (enum vm_clock)n;
	return 0;
}

static int set_limit(void *ctx, const char *v, struct error *err)
{
	return parse_count("limit-insns", v, &((struct vm_config *)ctx)->limit_insns, err);
}

static int set_host_pages(void *ctx, const char *v, struct error *err)
{
	static const char *const names[] = {[HOST_PAGES_4K] = "4k", [HOST_PAGES_2M] = "2m", [HOST_PAGES_1G] = "1g"};
	int n = choose("host-pages", v, names, ARRAY_SIZE(names), err);

	if (n < 0)
		return n;
	((struct vm_config *)ctx)->engine.host_pages = (enum host_pages)n;
	return 0;
}

static int set_shadow_sync(void *ctx, const char *v, struct error *err)
{
	static const char *const names[] = {"lazy", "always"};
	int n = choose("shadow-sync", v, names, ARRAY_SIZE(names), err);

	if (n < 0)
		return n;
	((struct vm_config *)ctx)->engine.shadow_sync_always = n;
	return 0;
}

static int set_shadow_memory(void *ctx, const char *v, struct error *err)
{
	return parse_size("shadow-memory", v, &((struct vm_config *)ctx)->engine.shadow_memory, err);
}

static int set_audit(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct vm_config *)ctx)->engine.audit = true;
	return 0;
}

static int set_audit_registers(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct vm_config *)ctx)->engine.audit_registers = true;
	return 0;
}

static int set_audit_every(void *ctx, const char *v, struct error *err)
{
	struct engine_config *cfg = &((struct vm_config *)ctx)->engine;
	int ret = parse_count("audit-every", v, &cfg->audit_every, err);

	if (ret == 0 && cfg->audit_every == 0)
		ret = error_set(err, -EINVAL, "--audit-every '%s': at least 1", v);
	cfg->audit = ret == 0;
	return ret;
}

static int set_hw(void *ctx, const char *v, struct error *err)
{
	struct error why = {0};
	int ret = hw_load(&((struct vm_config *)ctx)->engine.cpu.hw, v, &why);

	return ret ? error_set(err, -EINVAL, "--hw: %.400s", why.text) : 0;
}

static int set_data_cache(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct vm_config *)ctx)->engine.cpu.data_cache = true;
	return 0;
}

static int set_no_vpid(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct vm_config *)ctx)->engine.no_vpid = true;
	return 0;
}

static int set_no_fast_path(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct vm_config *)ctx)->engine.cpu.fast_path = false;
	return 0;
}

static int set_cpu(void *ctx, const char *v, struct error *err)
{
	static const char *const names[] = {"interp", "translate"};
	int n = choose("cpu", v, names, ARRAY_SIZE(names), err);

	if (n < 0)
		return n;
	((struct vm_config *)ctx)->engine.cpu.translate = n;
	return 0;
}

static int set_code_cache(void *ctx, const char *v, struct error *err)
{
	return parse_size("code-cache", v, &((struct vm_config *)ctx)->engine.cpu.code_cache, err);
}

static int add_disk(void *ctx, const char *v, struct error *err)
{
	struct devices_config *d = &((struct vm_config *)ctx)->devices;
	struct devices_disk disk;
	int ret = devices_parse_disk(v, &disk, err);

	if (ret == 0 && d->disks == DEVICES_DISKS_MAX)
		ret = error_set(err, -EINVAL, "--disk: at most %d", DEVICES_DISKS_MAX);
	if (ret == 0)
		d->disk[d->disks++] = v;
	return ret;
}

static int set_rng(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct vm_config *)ctx)->devices.rng = true;
	return 0;
}

static int add_net(void *ctx, const char *v, struct error *err)
{
	struct devices_config *d = &((struct vm_config *)ctx)->devices;
	struct net_config net;
	int ret = net_parse(v, &net, err);

	if (ret == 0 && d->nets == DEVICES_NETS_MAX)
		ret = error_set(err, -EINVAL, "--net: at most %d", DEVICES_NETS_MAX);
	if (ret == 0)
		d->net[d->nets++] = v;
	return ret;
}

static int set_packed(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct vm_config *)ctx)->devices.packed = true;
	return 0;
}

static int set_balloon(void *ctx, const char *v, struct error *err)
{
	struct devices_config *d = &((struct vm_config *)ctx)->devices;

	d->balloon = true;
	return parse_size("balloon", v, &d->balloon_bytes, err);
}

static int set_virtio_console(void *ctx, const char *v, struct error *err)
{
	(void)err;
	((struct vm_config *)ctx)->devices.console = v;
	return 0;
}

const struct option_desc guest_options[] = {
	{"kernel", "FILE", "Linux bzImage, ELF with a PVH note (vmlinux), or multiboot 1", set_kernel},
	{"initrd", "FILE", "initial ramdisk; multiboot modules: FILE[ ARGS][,FILE...]", set_initrd},
	{"append", "TEXT", "kernel command line", set_append},
	{"firmware", "FILE", "instead of a kernel a PC's firmware, from RESET on (SeaBIOS, up to 1M);\n"
			     "its screen and keyboard are the serial port", set_firmware},
	{"firmware-log", "FILE", "what firmware writes to port 402", set_firmware_log},
	{"memory", "SIZE", "guest RAM, 4M to 64G (default 512M)", set_memory},
	{"disk", "FILE[,ro][,snapshot][,serial=X]",
	 "a virtio disk, raw or qcow2; give it again for more. ro: read-only;\n"
	 "snapshot: what the guest writes is thrown away at the end", add_disk},
	{"net", "KIND[,mac=M]", "a virtio network card; again for more. user: through this process's sockets;\n"
				"socket:PATH: to the VM that has the same; tap:NAME; none: the cable is out", add_net},
	{"rng", NULL, "a virtio entropy device; with --clock icount of numbers that follow from --seed", set_rng},
	{"balloon", "SIZE", "a virtio balloon: the guest is asked to give back SIZE of its memory", set_balloon},
	{"virtio-console", "FILE", "a virtio console (hvc0), its output to FILE. '-': it is on the terminal,\nwhere the serial port then has its output only", set_virtio_console},
	{"virtio-packed", NULL, "offer packed rings to the drivers of virtio devices", set_packed},
	{"cpu-features", "LIST", "hide or show features: -f,+f,... (-pcid,+la57; +vmx: VT-x for the guest itself)", set_features},
	{"maxphyaddr", "N", "physical-address bits, 36 to 52 (default 46)", set_maxphyaddr},
	{"mitigations", NULL, "report the processor as affected by speculation flaws", set_mitigations},
	{"seed", "N", "for RDRAND and RDSEED (default 0)", set_seed},
	{"clock", "KIND", "icount: time is instructions executed (default)\nwall: and keeps up with the host's clock",
	 set_clock},
	{"limit-insns", "N", "end the run after N instructions (k, M, G: powers of ten)", set_limit},
	{"host-pages", "SIZE", "largest host mapping: 4k, 2m, 1g (default 4k)", set_host_pages},
	{"shadow-sync", "KIND", "lazy: leaf tables may be out of sync (default); always", set_shadow_sync},
	{"shadow-memory", "SIZE", "limit of the shadow tables", set_shadow_memory},
	{"audit", NULL, "check the scheme's tables after every exit: slow", set_audit},
	{"audit-every", "N", "check them after every Nth exit", set_audit_every},
	{"audit-registers", NULL, "compare every translation by the guest's registers (DMT) with its tables: a guest whose "
	 "registers say otherwise ends the run", set_audit_registers},
	{"hw", "NAME|FILE", "translation hardware and its costs: a built-in description (default skylake;\n"
			    "gnomon hw list) or a file; what the guest does and sees stays the same", set_hw},
	{"data-cache", NULL, "data accesses go through the modelled caches too: slow", set_data_cache},
	{"no-vpid", NULL, "VM entries and exits flush the TLBs", set_no_vpid},
	{"cpu", "KIND", "translate: to host code (default); interp: slow, same result", set_cpu},
	{"code-cache", "SIZE", "memory for host code (default 64M)", set_code_cache},
	{"no-fast-path", NULL, "no shortcut past the modelled TLB: slow, same result", set_no_fast_path},
	{0},
};

bool guest_option_of_processor(const struct option_desc *d)
{
	static int (*const setters[])(void *, const char *, struct error *) = {
		set_features, set_maxphyaddr, set_mitigations, set_hw, set_data_cache, set_no_vpid, set_no_fast_path,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(setters); i++)
		if (d->set == setters[i])
			return true;
	return false;
}

bool guest_option_of_machine(const struct option_desc *d)
{
	static int (*const setters[])(void *, const char *, struct error *) = {
		set_limit, set_host_pages, set_shadow_sync, set_shadow_memory, set_audit, set_audit_every, set_audit_registers, set_hw,
		set_data_cache, set_no_vpid, set_cpu, set_code_cache, set_no_fast_path,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(setters); i++)
		if (d->set == setters[i])
			return true;
	return false;
}

void guest_options_of_machine(struct option_desc table[GUEST_OPTIONS_MAX])
{
	unsigned n = 0;

	for (const struct option_desc *d = guest_options; d->name; d++)
		if (guest_option_of_machine(d))
			table[n++] = *d;
	table[n] = (struct option_desc){0};
}

bool guest_option_repeats(const struct option_desc *d) { return d->set == add_disk || d->set == add_net; }

int guest_options_check(const struct vm_config *cfg, struct error *err)
{
	if (!cfg->kernel && !cfg->firmware)
		return error_set(err, -EINVAL, "--kernel FILE is missing");
	if (cfg->firmware && (cfg->kernel || cfg->initrd || *cfg->append))
		return error_set(err, -EINVAL, "--firmware: it finds what to boot on a disk: no kernel, initrd and command line");
	return memmap_check_memory(cfg->engine.memory, cfg->engine.cpu.maxphyaddr, err);
}
