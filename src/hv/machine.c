/*
 * The machine under the hypervisor: taking its processor into VMX operation, and
 * the world switch, by which one VM after the other has that processor.
 *
 * A VM's stream of instructions does not depend on who else is there: its virtual
 * time stands still while another VM has the processor (TSC_OFFSET takes out what
 * passed), and everything a guest can see is switched. What VMs share and can feel
 * in their speed, never in their results, are the TLBs and caches.
 *
 * Left out: giving back the frames of a destroyed VM's VMCS and bitmaps before the machine goes.
 */
#include "hv/core.h"

#include <assert.h>
#include <errno.h>

#define ROOM_FIXED ((uint64_t)128 << 20)

uint64_t hv_machine_memory(const struct engine_config *cfg)
{
	/* EPT or shadow tables, and what is lost to aligning runs of frames. */
	uint64_t room = ROOM_FIXED + cfg->memory / 64 + cfg->shadow_memory;

	if (cfg->host_pages == HOST_PAGES_1G)
		room += 2 * SIZE_1G;
	if (cfg->rom)
		room += ENGINE_ROM_BYTES;
	return (cfg->memory + room + SIZE_2M - 1) & ~(SIZE_2M - 1);
}

int hv_alloc_frame(struct hv_machine *m, hpa_t *out)
{
	mfn_t f;
	int r = machmem_alloc(m->mem, 0, OWNER_HYPERVISOR, &f);

	if (!r)
		*out = mfn_to_hpa(f);
	return r;
}

int hv_machine_init(struct hv_machine *m, struct machmem *mem, struct cpu *cpu, struct error *err)
{
	*m = (struct hv_machine){.mem = mem, .cpu = cpu};
	if (hv_alloc_frame(m, &m->root) || hv_alloc_frame(m, &m->vmxon))
		return error_set(err, -ENOMEM, "hypervisor: no machine memory for VMX operation");
	put_u32(machmem_ptr(mem, m->vmxon), VMCS_REVISION);
	vmx_setup_root(cpu, m->root);
	/* The machine's local APIC passes external interrupts on to the processor ("virtual wire mode"). */
	lapic_write(&cpu->lapic, 0xf0, 0x1ff, 0);
	lapic_write(&cpu->lapic, 0x350, 0x700, 0);
	if (vmx_vmxon(cpu, m->vmxon))
		return error_set(err, -ENODEV, "hypervisor: the processor refuses VMX operation");
	return 0;
}

void hv_machine_fini(struct hv_machine *m)
{
	assert(!m->current);
	vmx_vmxoff(m->cpu);
}

/* ---- the world switch ---- */

static void leave_world(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);

	vmx_save_live(vm->cpu, &core->live);
	vmx_save_counters(vm->cpu, &core->counters);
	core->left_tsc = cpu_tsc(vm->cpu);
	core->left_insns = vm->cpu->insns;
}

static void enter_world(struct hv_vm *vm)
{
	struct hv_core *core = hv_core(vm);
	enum vmx_result r = vmx_vmptrld(vm->cpu, hv_current_vmcs(vm));

	assert(r == VMX_SUCCEED);
	(void)r;
	vmx_load_live(vm->cpu, &core->live);
	vmx_load_counters(vm->cpu, &core->counters);
	core->away_tsc += cpu_tsc(vm->cpu) - core->left_tsc;
	core->away_insns += vm->cpu->insns - core->left_insns;
}

void hv_make_current(struct hv_vm *vm)
{
	struct hv_machine *m = vm->machine;

	if (m->current == vm)
		return;
	if (m->current)
		leave_world(m->current);
	enter_world(vm);
	m->current = vm;
}
