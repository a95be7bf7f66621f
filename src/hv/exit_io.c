/*
 * Port accesses. The exit says all there is to know of IN and OUT; string
 * instructions are emulated. The guest's instruction is complete when the
 * platform has answered.
 */
#include "hv/core.h"

static struct bus_access describe(struct hv_vm *vm)
{
	uint64_t q = hv_core(vm)->qualification;
	struct bus_access a = {
		.pio = true,
		.write = !(q & IO_QUAL_IN),
		.size = (uint8_t)((q & IO_QUAL_SIZE) + 1),
		.addr = q >> IO_QUAL_PORT_SHIFT & 0xffff,
	};

	if (a.write)
		a.data = vmx_gprs(vm->cpu)[RAX] & (0xffffffff >> (32 - 8 * a.size));
	return a;
}

enum hv_verdict exit_io(struct hv_vm *vm)
{
	struct bus_access a = describe(vm);

	/* With breakpoints armed, one may be on the port: the emulator looks. */
	if (hv_core(vm)->qualification & IO_QUAL_STRING || hv_read(vm, VMCS_GUEST_DR7) & 0xff)
		return HV_EMULATE;
	return hv_ask(vm, &a, CONTINUE_IO);
}

enum hv_verdict exit_io_finish(struct hv_vm *vm)
{
	const struct bus_access *a = &hv_core(vm)->want;
	uint64_t *rax = &vmx_gprs(vm->cpu)[RAX];

	if (!a->write && a->size == 4)
		*rax = (uint32_t)a->data;
	else if (!a->write)
		*rax = a->size == 2 ? (*rax & ~0xffffull) | (uint16_t)a->data : (*rax & ~0xffull) | (uint8_t)a->data;
	hv_skip_insn(vm);
	return HV_RESUME;
}
