/* What the engines and the code they share know of each other. Nothing outside engine/ includes this. */
#ifndef GNOMON_ENGINE_ENGINE_IMPL_H
#define GNOMON_ENGINE_ENGINE_IMPL_H

#include "engine/engine.h"
#include "hv/hv.h"

#include <pthread.h>

/* Registers beyond engine_regs and engine_sregs that the state hash covers. */
struct engine_msrs {
	uint64_t star, lstar, cstar, fmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, tsc_aux, xcr0, pkru;
	uint64_t dr[4], dr6, dr7;
};

struct engine_machine {
	struct machmem mem;
	struct cpu *cpu;
	struct hv_machine hv;
	struct cpu_config processor;
	unsigned vms_max;
};

struct engine_vm {
	struct engine_config cfg;
	const struct engine_ops *ops;
	struct machmem_range ram[ENGINE_RANGES_MAX]; /* guest-physical */
	unsigned rams;
	struct cpu *cpu;             /* the (physical) processor */
	/* under a hypervisor */
	struct engine_machine *machine;
	bool own_machine;            /* it goes with the VM */
	struct hv_vm *hv;
	/* native */
	struct machmem mem;          /* the machine's memory and the guest's */
	const struct engine_watch *watch; /* NULL: nobody watches */
	struct engine_source source; /* hypervisor; fetch is NULL: all memory is there */
	struct lazy_memory *lazy;    /* native: NULL likewise */
	struct engine_snapshot *snapshot; /* hypervisor: NULL if there is none; under the lock */
	pthread_mutex_t snapshot_lock;
	struct engine_replay *replay; /* NULL: it executes instructions */
	bool lost;                   /* native: contents could not be had, see engine_source.fetch */
	uint64_t skipped;            /* ns of idle time: virtual time is cpu->insns + skipped */
	bool bus_pending;            /* the last exit was a device access, not yet told to the processor */
};

/* One way to execute a VM. Each function is the engine_<name>() of engine.h. */
struct engine_ops {
	int (*create)(struct engine_vm *vm, struct error *err);
	void (*destroy)(struct engine_vm *vm);
	/* Host address of one page of guest RAM; NULL if it was never touched and @touch is not set, or -ENOMEM. */
	uint8_t *(*page)(struct engine_vm *vm, uint64_t gfn, bool touch);
	/*
	 * Its contents, from any thread; NULL: it was never touched, or with *absent set the source has them.
	 */
	const uint8_t *(*look)(const struct engine_vm *vm, uint64_t gfn, bool *absent);
	int (*set_source)(struct engine_vm *vm, const uint64_t *absent, struct error *err);
	/* Could contents that somebody asked for not be had? The guest executes nothing further then. */
	bool (*lost)(const struct engine_vm *vm);
	/* The page is about to be / was written from outside. */
	void (*wrote)(struct engine_vm *vm, uint64_t gpa, unsigned bytes);
	void (*get_regs)(struct engine_vm *vm, struct engine_regs *r);
	void (*set_regs)(struct engine_vm *vm, const struct engine_regs *r);
	void (*get_sregs)(struct engine_vm *vm, struct engine_sregs *s);
	void (*set_sregs)(struct engine_vm *vm, const struct engine_sregs *s);
	void (*get_fpu)(struct engine_vm *vm, struct fpu *fpu);
	void (*get_msrs)(struct engine_vm *vm, struct engine_msrs *m);
	void (*get_dmt)(struct engine_vm *vm, struct engine_dmt *d); /* zeroed by the caller */
	void (*get_vmx)(struct engine_vm *vm, struct engine_vmx *x); /* likewise */
	bool (*at_rest)(struct engine_vm *vm);
	void (*get_vcpu)(struct engine_vm *vm, struct engine_vcpu *v);
	void (*set_vcpu)(struct engine_vm *vm, const struct engine_vcpu *v); /* which is possible */
	void (*run)(struct engine_vm *vm, struct engine_run *run);
	void (*kick)(struct engine_vm *vm);
	uint64_t (*now)(const struct engine_vm *vm);
	void (*advance)(struct engine_vm *vm, uint64_t to_ns);
	uint64_t (*insns)(const struct engine_vm *vm);
	void (*signal_msi)(struct engine_vm *vm, uint64_t address, uint32_t data);
	struct lapic *(*lapic)(const struct engine_vm *vm); /* the guest's */
	void (*interrupt)(struct engine_vm *vm, uint8_t vector);
	void (*nmi)(struct engine_vm *vm);
	void (*observe)(const struct engine_vm *vm, struct obs *obs);
	void (*describe)(struct engine_vm *vm, char *buf, size_t bytes);
};
extern const struct engine_ops engine_native_ops, engine_hv_ops;

/*
 * Guest RAM was written from outside the vCPU; within one page. The one place all such writes pass, whoever made
 * them: whatever follows guest memory from outside hangs on here.
 */
void engine_written(struct engine_vm *vm, uint64_t gpa, unsigned bytes);

/* ---- the bare machine's absent memory (engine_lazy.c) ---- */
int lazy_create(struct engine_vm *vm, const uint64_t *absent, struct error *err); /* sets vm->lazy */
void lazy_destroy(struct lazy_memory *l);
/* The page is to be zeros if it is absent still. @l: NULL is fine */
void lazy_forget(struct lazy_memory *l, uint64_t page);

/* engine_replay.c: NULL is fine */
void replay_destroy(struct engine_replay *r);

/* The page is going to be changed behind the back of the host's page tables. */
void snapshot_keep(struct engine_vm *vm, uint64_t page);

/* -EINVAL: bad size or scheme. */
int engine_config_check(const struct engine_config *cfg, struct error *err);
/* May this VM be one of the machine's? -EINVAL. */
int engine_machine_admit(struct engine_machine *machine, const struct engine_config *cfg, struct error *err);

/* What the processor counted, into the parts of @obs that are its own. */
void engine_observe_cpu(const struct cpu *cpu, struct obs *obs);

void engine_cpu_get_regs(const struct cpu *c, struct engine_regs *r);
void engine_cpu_set_regs(struct cpu *c, const struct engine_regs *r);
void engine_cpu_get_sregs(const struct cpu *c, struct engine_sregs *s);
void engine_cpu_set_sregs(struct cpu *c, const struct engine_sregs *s); /* PDPTEs and TLBs are the caller's */
void engine_cpu_get_msrs(const struct cpu *c, struct engine_msrs *m);
/* @d is zeroed by the caller. */
void engine_cpu_get_dmt(const struct cpu *c, struct engine_dmt *d);
void engine_cpu_get_vmx(const struct cpu *c, struct engine_vmx *x); /* likewise */
/* All but engine_between, of which the processor has only what blocks events. Setting leaves the TLBs to the caller. */
void engine_cpu_get_vcpu(const struct cpu *c, struct engine_vcpu *v);
void engine_cpu_set_vcpu(struct cpu *c, const struct engine_vcpu *v);
/* The registers, in a few lines. */
void engine_describe_regs(struct engine_vm *vm, char *buf, size_t bytes);

#endif
