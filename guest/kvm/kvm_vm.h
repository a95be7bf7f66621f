/*
 * A virtual machine monitor for a guest that is a hypervisor: Debian's KVM executes, and everything around the
 * processor is what a VM of Gnomon's has: the loaders, ACPI tables and devices are compiled from ../../src. So a kernel
 * finds the same machine under KVM on Gnomon as directly on Gnomon, and the two can be compared.
 *
 * The local APIC is KVM's; PIC, I/O APIC and timers are ours ("split irqchip"), by the host's monotonic clock.
 *
 * struct engine_vm is what the loaders know a VM by (engine/engine.h); here it is KVM's file descriptors and a mapping
 * of memory. kvm_vm.c has the functions of engine.h that they use.
 */
#ifndef GUEST_KVM_VM_H
#define GUEST_KVM_VM_H

#include "engine/engine.h"
#include "vm/platform.h"

#include <linux/kvm.h>
#include <time.h>

#define KVM_VM_CPUIDS 256u
#define KVM_VM_MSRS   512u

/* KVM itself: asked once, for all VMs. */
struct kvm_host {
	int fd;
	size_t run_bytes; /* of struct kvm_run */
	struct kvm_cpuid2 *cpuid;     /* of our guests */
	struct kvm_msr_list *msrs;    /* that are saved */
};
/* -errno with @err: no /dev/kvm, or it lacks what is needed. */
int kvm_host_open(struct kvm_host *h, struct error *err);
void kvm_host_close(struct kvm_host *h);

struct engine_vm {
	const struct kvm_host *host;
	int fd, vcpu;
	struct kvm_run *run;
	uint64_t memory;               /* bytes */
	uint8_t *ram;                  /* all ranges, one after the other */
	struct machmem_range range[2];
	unsigned ranges;
	bool logging;                  /* KVM notes which pages are written */
};
/* A VM with zeroed memory and a vCPU after RESET. Nothing is left on error. */
int kvm_vm_create(struct engine_vm *vm, const struct kvm_host *h, uint64_t memory, struct error *err);
void kvm_vm_destroy(struct engine_vm *vm);

/* A hash of memory alone: struct engine_hash.memory (mem/page_hash.h). */
void kvm_vm_hash(const struct engine_vm *vm, uint64_t hash[2]);

/* ---- dirty logging and moving (kvm_move.c) ---- */

int kvm_vm_log(struct engine_vm *vm, bool on, struct error *err);
/*
 * Pages written since the last call or since logging began.
 * @bitmap: a bit a page of vm->ram, pages of both ranges in their order; overwritten
 */
int kvm_vm_dirty(struct engine_vm *vm, uint64_t *bitmap, struct error *err);
/* Everything of the vCPU goes from one to the other, which has not run. An access must not be half done. */
int kvm_vm_copy_vcpu(struct engine_vm *to, const struct engine_vm *from, struct error *err);

/* ---- running (kvm_run.c) ---- */

enum kvm_end { KVM_END_NONE, KVM_END_POWER_OFF, KVM_END_RESET, KVM_END_EXIT, KVM_END_SHUTDOWN, KVM_END_FAIL };

struct kvm_machine {
	struct engine_vm *vm;
	struct platform platform;
	struct timespec start;
	timer_t timer;
	uint64_t armed_ns;    /* what the timer is set to, UINT64_MAX: nothing */
	uint64_t exits[64];   /* from KVM, by reason */
	const char *watch;    /* a text: running stops when the console has shown it; NULL: none */
	bool seen;            /* it has */
	char line[256];       /* of the console, not yet printed */
	size_t in_line;
	const char *prefix;   /* of each line of it */
	uint64_t routes[IOAPIC_PINS]; /* of the I/O APIC, as KVM has been told */
	char failure[200];    /* KVM_END_FAIL: what KVM said */
};
int kvm_machine_init(struct kvm_machine *m, struct engine_vm *vm, const char *prefix, struct error *err);
void kvm_machine_fini(struct kvm_machine *m);
/* The machine goes on as @vm, which has the memory and the vCPU's state already. */
int kvm_machine_set_vm(struct kvm_machine *m, struct engine_vm *vm, struct error *err);
/* Nanoseconds since kvm_machine_init(). */
uint64_t kvm_machine_now(const struct kvm_machine *m);
/*
 * Runs the VM until @until_ns (UINT64_MAX: for ever), until m->watch has been seen (KVM_END_NONE, no access half done),
 * or to its end.
 */
enum kvm_end kvm_machine_run(struct kvm_machine *m, uint64_t until_ns);
/* Prints what stands in an unfinished line. */
void kvm_machine_flush(struct kvm_machine *m);

/* ---- migration to a second VM in this process (kvm_migrate.c) ---- */

struct kvm_migration {
	/* in */
	uint64_t bytes_per_second; /* that are sent */
	unsigned rounds;           /* at most, before the VM stops */
	uint64_t left_pages;       /* the VM stops when so few are left */
	/* out */
	uint64_t sent, dirty, differ; /* pages: sent; found written; not equal in both VMs */
	unsigned rounds_done;
	uint64_t total_ns, down_ns; /* from begin to end; what the link takes for the last round */
};
/*
 * Moves the running machine to the fresh VM @to; on success m->vm is @to. The VM may end on the way: then *end says how, and
 * nothing is moved.
 */
int kvm_migrate(struct kvm_machine *m, struct engine_vm *to, struct kvm_migration *g, enum kvm_end *end,
		struct error *err);

#endif
