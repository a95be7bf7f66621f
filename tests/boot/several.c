/*
 * VMs on one machine end as they do alone: runs each guest on a machine of its own, then
 * all of them together with the slices given, and compares what came out.
 *
 *	several SLICE[,SLICE...] OPTIONS KERNEL INITRD VM...
 *
 * VM is SCHEME:MIB:SEED:COMMAND LINE; OPTIONS a list of no-vpid, 2m, audit, or "none".
 */
#include "vm/schedule.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define MISSING 77 /* meson: skipped */
#define VMS_MAX 8

struct guest {
	struct vm_config cfg;
	struct vm_result alone;
	struct vm *vm;
};

static void die(const char *text)
{
	fprintf(stderr, "several: %s\n", text);
	exit(1);
}

static void parse_guest(struct guest *g, char *text, const char *options, char **file)
{
	char *scheme = strtok(text, ":"), *mib = strtok(NULL, ":"), *seed = strtok(NULL, ":"), *append = strtok(NULL, "");

	if (!append)
		die("a VM is SCHEME:MIB:SEED:COMMAND LINE");
	vm_config_default(&g->cfg);
	g->cfg.kernel = file[0];
	g->cfg.initrd = *file[1] ? file[1] : NULL;
	g->cfg.append = append;
	g->cfg.engine.memory = strtoull(mib, NULL, 0) << 20;
	g->cfg.engine.cpu.seed = strtoull(seed, NULL, 0);
	g->cfg.engine.no_vpid = strstr(options, "no-vpid");
	g->cfg.engine.audit = strstr(options, "audit");
	g->cfg.engine.audit_every = 64;
	if (strstr(options, "2m"))
		g->cfg.engine.host_pages = HOST_PAGES_2M;
	for (unsigned m = 0; m < ENGINE_MMU_COUNT; m++)
		if (!strcmp(scheme, engine_mmu_name[m]))
			g->cfg.engine.mmu = (enum engine_mmu)m;
}

static void run_alone(struct guest *g)
{
	struct error err = {0};

	if (vm_create(&g->vm, &g->cfg, &err))
		die(err.text);
	vm_run(g->vm, &g->alone);
	vm_destroy(g->vm);
	printf("%-6s alone: %s after %llu instructions, state %016llx\n", engine_mmu_name[g->cfg.engine.mmu],
	       vm_end_name[g->alone.end], (unsigned long long)g->alone.insns, (unsigned long long)g->alone.hash.all[0]);
}

static bool same(const struct guest *g, const struct vm_result *r)
{
	const struct vm_result *a = &g->alone;
	bool ok = a->end == r->end && a->debug_exit == r->debug_exit && a->insns == r->insns &&
		  a->virtual_ns == r->virtual_ns && !memcmp(&a->hash, &r->hash, sizeof(a->hash));

	printf("  %-6s %s after %llu instructions, state %016llx, %llu world switches: %s\n",
	       engine_mmu_name[g->cfg.engine.mmu], vm_end_name[r->end], (unsigned long long)r->insns,
	       (unsigned long long)r->hash.all[0], (unsigned long long)r->obs.hypervisor.world_switches,
	       ok ? "as alone" : "NOT as alone");
	if (!ok)
		printf("%s", r->message);
	return ok;
}

static bool run_together(struct guest *guests, unsigned count, uint64_t slice)
{
	struct engine_config cfg[VMS_MAX] = {0};
	static struct vm_result result;
	struct engine_machine *machine;
	struct schedule_result all;
	struct vm *vms[VMS_MAX];
	struct error err = {0};
	uint64_t switches = 0;
	bool ok = true;

	for (unsigned i = 0; i < count; i++)
		cfg[i] = guests[i].cfg.engine;
	if (engine_machine_create(&machine, cfg, count, &err))
		die(err.text);
	for (unsigned i = 0; i < count; i++)
		if (vm_create_on(&vms[i], &guests[i].cfg, machine, &err))
			die(err.text);
	schedule_run(vms, count, slice, &all);
	printf("slices of %llu: %llu turns, %llu switches\n", (unsigned long long)slice,
	       (unsigned long long)all.slices, (unsigned long long)all.switches);
	for (unsigned i = 0; i < count; i++) {
		vm_result(vms[i], &result);
		switches += result.obs.hypervisor.world_switches;
		ok &= same(&guests[i], &result);
	}
	if (switches != all.switches) {
		printf("  the VMs count %llu switches\n", (unsigned long long)switches);
		ok = false;
	}
	for (unsigned i = 0; i < count; i++)
		vm_destroy(vms[i]);
	engine_machine_destroy(machine);
	return ok;
}

int main(int argc, char **argv)
{
	static struct guest guests[VMS_MAX];
	unsigned count = 0;
	struct stat st;
	bool ok = true;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 6 || argc > 5 + VMS_MAX)
		return 2;
	if (stat(argv[3], &st))
		return MISSING;
	for (int i = 5; i < argc; i++)
		parse_guest(&guests[count++], argv[i], argv[2], argv + 3);
	for (unsigned i = 0; i < count; i++)
		run_alone(&guests[i]);
	for (char *s = strtok(argv[1], ","); s; s = strtok(NULL, ","))
		ok &= run_together(guests, count, strtoull(s, NULL, 0));
	return !ok;
}
