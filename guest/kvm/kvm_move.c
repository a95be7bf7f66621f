/*
 * Which pages the guest writes, and a vCPU's state from one VM to another: what KVM offers to those who migrate.
 */
#include "kvm_vm.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#define MSR_TSC_DEADLINE_KVM 0x6e0u /* to be set when the local APIC is there */

static int fail(struct error *err, const char *what)
{
	int code = -errno;

	return error_set(err, code, "%s: %s", what, strerror(-code));
}

int kvm_vm_dirty(struct engine_vm *vm, uint64_t *bitmap, struct error *err)
{
	for (unsigned i = 0; i < vm->ranges; i++) {
		const struct kvm_dirty_log log = {.slot = i, .dirty_bitmap = bitmap};

		if (ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log))
			return fail(err, "KVM_GET_DIRTY_LOG");
		/* The first range, if there is a second, ends at 3 GiB: whole words. */
		bitmap += vm->range[i].bytes >> PAGE_SHIFT >> 6;
	}
	return 0;
}

/* One structure after the other; a name is its ioctl without KVM_GET_ or KVM_SET_. */
#define COPY(name, type) \
	do { \
		type s; \
		memset(&s, 0, sizeof(s)); \
		if (ioctl(from->vcpu, KVM_GET_##name, &s)) \
			return fail(err, "KVM_GET_" #name); \
		if (ioctl(to->vcpu, KVM_SET_##name, &s)) \
			return fail(err, "KVM_SET_" #name); \
	} while (0)

static int copy_msr(const struct engine_vm *to, const struct engine_vm *from, uint32_t index, struct error *err)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[1];
	} m = {.head.nmsrs = 1, .entry = {{.index = index}}};

	/* The list has some that this vCPU, by its CPUID, has not. */
	if (ioctl(from->vcpu, KVM_GET_MSRS, &m) != 1)
		return 0;
	if (ioctl(to->vcpu, KVM_SET_MSRS, &m) == 1 || m.entry[0].data == 0)
		return 0;
	return error_set(err, -EIO, "KVM_SET_MSRS: MSR %#x does not take the value that it has", index);
}

static int copy_msrs(const struct engine_vm *to, const struct engine_vm *from, struct error *err)
{
	const struct kvm_msr_list *list = from->host->msrs;
	int ret = 0;

	for (unsigned i = 0; i < list->nmsrs && ret == 0; i++)
		if (list->indices[i] != MSR_TSC_DEADLINE_KVM)
			ret = copy_msr(to, from, list->indices[i], err);
	return ret;
}

/* KVM's paravirtual clock goes on from where it stood. */
static int copy_clock(const struct engine_vm *to, const struct engine_vm *from, struct error *err)
{
	struct kvm_clock_data clock;

	memset(&clock, 0, sizeof(clock));
	if (ioctl(from->fd, KVM_GET_CLOCK, &clock))
		return fail(err, "KVM_GET_CLOCK");
	clock.flags = 0;
	return ioctl(to->fd, KVM_SET_CLOCK, &clock) ? fail(err, "KVM_SET_CLOCK") : 0;
}

int kvm_vm_copy_vcpu(struct engine_vm *to, const struct engine_vm *from, struct error *err)
{
	int ret;

	COPY(REGS, struct kvm_regs);
	COPY(XSAVE, struct kvm_xsave);
	COPY(XCRS, struct kvm_xcrs);
	COPY(SREGS, struct kvm_sregs);
	ret = copy_clock(to, from, err);
	if (ret == 0)
		ret = copy_msrs(to, from, err);
	if (ret)
		return ret;
	COPY(LAPIC, struct kvm_lapic_state);
	ret = copy_msr(to, from, MSR_TSC_DEADLINE_KVM, err);
	if (ret)
		return ret;
	COPY(DEBUGREGS, struct kvm_debugregs);
	COPY(MP_STATE, struct kvm_mp_state);
	COPY(VCPU_EVENTS, struct kvm_vcpu_events);
	return 0;
}
