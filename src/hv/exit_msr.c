/*
 * RDMSR and WRMSR of registers that the guest does not have to itself. The
 * emulator's processor holds the guest's values, so reading and writing them,
 * and the exceptions that causes, are the real processor's own.
 */
#include "hv/core.h"

#include "cpu/msr.h"

/* What the MSR functions look at, brought up to date in the emulator's processor. */
static void load_for_msr(struct hv_vm *vm)
{
	hv_load_paging(vm);
	vm->emul->tsc_base = hv_guest_tsc(vm) - vm->emul->insns;
}

enum hv_verdict exit_rdmsr(struct hv_vm *vm)
{
	uint64_t *gpr = vmx_gprs(vm->cpu), v = 0;

	load_for_msr(vm);
	if (cpu_rdmsr(vm->emul, (uint32_t)gpr[RCX], &v)) {
		hv_inject_gp0(vm);
		return HV_RESUME;
	}
	gpr[RAX] = (uint32_t)v;
	gpr[RDX] = v >> 32;
	hv_skip_insn(vm);
	return HV_RESUME;
}

/* What a WRMSR changed that the hardware or the backend has to know. */
static void apply_write(struct hv_vm *vm, uint32_t msr)
{
	switch (msr) {
	case MSR_EFER:
		hv_commit_paging(vm);
		break;
	case MSR_PAT:
		hv_write(vm, VMCS_GUEST_PAT, vm->emul->msr.pat);
		break;
	case MSR_TSC:
	case MSR_TSC_ADJUST:
		hv_core(vm)->guest_tsc_base = (int64_t)(cpu_tsc(vm->emul) - hv_virtual_now(vm));
		break;
	case MSR_DMT_LOAD:
	case MSR_PV_REQUEST:
		hv_settle_requests(vm);
		break;
	default:
		if (cpu_msr_is_mtrr(msr))
			vm->mmu->flush(vm, HV_FLUSH_ALL, 0);
		break;
	}
}

enum hv_verdict exit_wrmsr(struct hv_vm *vm)
{
	const uint64_t *gpr = vmx_gprs(vm->cpu);
	uint32_t msr = (uint32_t)gpr[RCX];

	load_for_msr(vm);
	if (cpu_wrmsr(vm->emul, msr, (uint32_t)gpr[RAX] | gpr[RDX] << 32)) {
		hv_inject_gp0(vm);
		return HV_RESUME;
	}
	apply_write(vm, msr);
	hv_skip_insn(vm);
	return HV_RESUME;
}
