/*
 * Control-register accesses. CR3 loads of ordinary values and CR8 are done here;
 * everything else is left to the emulator, which has the checks of the real
 * instruction, and its effect on paging is then told to the backend.
 */
#include "hv/core.h"

static uint64_t operand(struct hv_vm *vm, unsigned gpr)
{
	return gpr == RSP ? hv_read(vm, VMCS_GUEST_RSP) : vmx_gprs(vm->cpu)[gpr];
}

static void set_operand(struct hv_vm *vm, unsigned gpr, uint64_t v)
{
	if (gpr == RSP)
		hv_write(vm, VMCS_GUEST_RSP, v);
	else
		vmx_gprs(vm->cpu)[gpr] = v;
}

/* May CR3 be loaded with @v with no check failing and no PDPTEs to load? */
static bool cr3_is_plain(const struct hv_vm *vm, uint64_t v)
{
	const struct hv_guest_regs *g = &vm->guest;

	if (g->cr4 & CR4_PCIDE)
		v &= ~CR3_NOFLUSH;
	if (!(g->efer & EFER_LMA))
		return !(g->cr0 & CR0_PG && g->cr4 & CR4_PAE) && !(v >> 32);
	return !(v >> vm->cfg.cpu.maxphyaddr);
}

static enum hv_verdict load_cr3(struct hv_vm *vm, uint64_t v)
{
	struct hv_core *core = hv_core(vm);
	bool pcide = vm->guest.cr4 & CR4_PCIDE;

	if (!cr3_is_plain(vm, v)) {
		core->cr3_written = true;
		return HV_EMULATE;
	}
	vm->guest.cr3 = pcide ? v & ~CR3_NOFLUSH : v;
	vm->mmu->load_cr3(vm, !pcide || !(v & CR3_NOFLUSH));
	hv_skip_insn(vm);
	return HV_RESUME;
}

static enum hv_verdict load_cr8(struct hv_vm *vm, uint64_t v)
{
	if (v > 15) {
		hv_inject_gp0(vm);
		return HV_RESUME;
	}
	lapic_set_cr8(&vm->emul->lapic, (uint8_t)v);
	hv_skip_insn(vm);
	return HV_RESUME;
}

static enum hv_verdict store(struct hv_vm *vm, unsigned gpr, uint64_t v)
{
	set_operand(vm, gpr, v);
	hv_skip_insn(vm);
	return HV_RESUME;
}

enum hv_verdict exit_cr(struct hv_vm *vm)
{
	uint64_t q = hv_core(vm)->qualification;
	unsigned cr = q & 15, type = q >> CR_QUAL_TYPE_SHIFT & 3, gpr = q >> CR_QUAL_GPR_SHIFT & 15;

	hv_sync_guest(vm);
	if (type == CR_QUAL_MOV_TO && cr == 3)
		return load_cr3(vm, operand(vm, gpr));
	if (type == CR_QUAL_MOV_TO && cr == 8)
		return load_cr8(vm, operand(vm, gpr));
	if (type == CR_QUAL_MOV_FROM)
		return store(vm, gpr, cr == 3 ? vm->guest.cr3 : lapic_cr8(&vm->emul->lapic));
	return HV_EMULATE;
}
