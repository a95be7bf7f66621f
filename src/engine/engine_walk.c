/*
 * The hardware's translation of one of the guest's addresses, made for real and
 * written down step by step, between two runs. Under a hypervisor the processor is
 * in root operation then, so the registers that translation depends on are put
 * into the MMU as VM entry would, for one walk.
 */
#include "cpu/block.h"
#include "engine/engine_impl.h"

/* As VM entry without EPT loads the PDPTEs: from memory. */
static void load_pdptes(const struct engine_vm *vm, struct mmu_regs *r)
{
	for (unsigned i = 0; i < 4; i++)
		r->pdpte[i] = machmem_read64(vm->cpu->mmu.mem, hpa((r->cr3 & 0xffffffe0) + 8 * i));
}

static void entry_regs(struct engine_vm *vm, struct mmu_regs *r)
{
	struct hv_vm *hv = vm->hv;
	struct vmx_counts door;
	uint64_t proc2;

	hv_make_current(hv);
	door = *vmx_counts(vm->cpu); /* looking is not the hypervisor's work */
	proc2 = hv_read(hv, VMCS_PROC_CTL) & PROC_SECONDARY ? hv_read(hv, VMCS_PROC_CTL2) : 0;
	*r = (struct mmu_regs){
		.cr0 = hv_read(hv, VMCS_GUEST_CR0), .cr3 = hv_read(hv, VMCS_GUEST_CR3),
		.cr4 = hv_read(hv, VMCS_GUEST_CR4), .efer = hv_read(hv, VMCS_GUEST_EFER),
		.pkru = *vmx_pkru(vm->cpu), .nested = proc2 & PROC2_EPT,
		.vpid = proc2 & PROC2_VPID ? (uint16_t)hv_read(hv, VMCS_VPID) : 0,
		.eptp = proc2 & PROC2_EPT ? hv_read(hv, VMCS_EPTP) : 0,
	};
	if (r->nested) {
		r->agile = vm->cpu->vmx.walk.agile;
		r->shadow_root = r->agile ? vm->cpu->vmx.walk.shadow_root : 0;
		r->pdpte[0] = hv_read(hv, VMCS_GUEST_PDPTE0);
		r->pdpte[1] = hv_read(hv, VMCS_GUEST_PDPTE1);
		r->pdpte[2] = hv_read(hv, VMCS_GUEST_PDPTE2);
		r->pdpte[3] = hv_read(hv, VMCS_GUEST_PDPTE3);
	} else if (r->cr0 & CR0_PG && r->cr4 & CR4_PAE && !(r->efer & EFER_LMA)) {
		load_pdptes(vm, r);
	}
	*vmx_counts(vm->cpu) = door;
}

/* As at VM entry: dirty flags that the walk sets must not escape the log. */
static struct mmu_pml entry_pml(struct engine_vm *vm)
{
	struct hv_vm *hv = vm->hv;
	struct vmx_counts door = *vmx_counts(vm->cpu);
	struct mmu_pml pml = {.on = hv_read(hv, VMCS_PROC_CTL) & PROC_SECONDARY &&
				    hv_read(hv, VMCS_PROC_CTL2) & PROC2_PML && hv_read(hv, VMCS_EPTP) & EPTP_AD,
			      .index = (uint16_t)hv_read(hv, VMCS_GUEST_PML_INDEX),
			      .log = hv_read(hv, VMCS_PML_ADDRESS)};

	*vmx_counts(vm->cpu) = door;
	return pml;
}

static void exit_pml(struct engine_vm *vm)
{
	struct vmx_counts door = *vmx_counts(vm->cpu);

	if (vm->cpu->mmu.pml.on)
		hv_write(vm->hv, VMCS_GUEST_PML_INDEX, vm->cpu->mmu.pml.index);
	vm->cpu->mmu.pml.on = false;
	*vmx_counts(vm->cpu) = door;
}

static enum xlate_event walk_logged(struct cpu *c, gva_t a, enum access_kind kind, enum access_mode mode,
				    struct xlate *out, struct walk_log *log)
{
	enum xlate_event ev = mmu_translate_logged(&c->mmu, a, kind, mode, out, log);

	if (c->mmu.code_written) {
		blocks_note_write(c, c->mmu.code_written - 1, 1);
		c->mmu.code_written = 0;
	}
	return ev;
}

enum xlate_event engine_walk(struct engine_vm *vm, gva_t a, enum access_kind kind, enum access_mode mode,
			     struct xlate *out, struct walk_log *log)
{
	struct mmu_regs root = vm->cpu->mmu.regs, guest;
	enum xlate_event ev;

	*out = (struct xlate){0};
	*log = (struct walk_log){0};
	if (!vm->hv)
		return walk_logged(vm->cpu, a, kind, mode, out, log);
	hv_make_current(vm->hv);
	entry_regs(vm, &guest);
	mmu_set_regs(&vm->cpu->mmu, &guest);
	vm->cpu->mmu.pml = entry_pml(vm);
	ev = walk_logged(vm->cpu, a, kind, mode, out, log);
	exit_pml(vm);
	mmu_set_regs(&vm->cpu->mmu, &root);
	return ev;
}

void engine_watch_walks(struct engine_vm *vm, struct mmu_walks *walks) { vm->cpu->mmu.walks = walks; }

void engine_drop_translations(struct engine_vm *vm)
{
	mmu_flush_everything(&vm->cpu->mmu);
	mmu_flush_ept(&vm->cpu->mmu, 0, true);
}

enum engine_owner engine_owner(const struct engine_vm *vm, hpa_t a)
{
	uint16_t owner;

	if (!machmem_is_ram(vm->cpu->mmu.mem, a))
		return ENGINE_NOBODYS;
	if (!vm->hv)
		return ENGINE_THIS_VMS;
	owner = machmem_owner(vm->cpu->mmu.mem, hpa_to_mfn(a));
	if (owner == vm->hv->owner)
		return ENGINE_THIS_VMS;
	return owner >= OWNER_VM ? ENGINE_ANOTHER_VMS : ENGINE_HYPERVISORS;
}
