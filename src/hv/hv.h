/*
 * The hypervisor: host C code in the role of VMX root software. It reaches the
 * processor only through cpu/vmx.h (vmread, vmwrite, VM entry, INVEPT, INVVPID,
 * the registers that are live after an exit) and through tables it writes into
 * machine memory. It never looks at the guest's struct cpu or the TLB.
 *
 * This header is what the parts of the hypervisor know of each other: the VM,
 * its p2m, the guest-table walker, the emulator, and the MMU-backend interface.
 */
#ifndef GNOMON_HV_HV_H
#define GNOMON_HV_HV_H

#include "arch/dmt.h"
#include "base/obs.h"
#include "cpu/vmx.h"
#include "engine/engine.h"

struct hv_vm;
struct hv_nested; /* hv/nested.h */

/* What a backend decides about an exit. */
enum hv_verdict {
	HV_RESUME,   /* handled: enter the guest again */
	HV_EMULATE,  /* emulate the instruction at RIP with hv_emulate() */
	HV_REFLECT,  /* true fault: inject #PF with the error code and address in vm->fault */
	HV_FAIL,     /* give up: vm->fail_text says why */
};

/* How software asked to forget translations. */
enum hv_flush { HV_FLUSH_PCID, HV_FLUSH_NONGLOBAL, HV_FLUSH_ALL };

/*
 * What the hypervisor does about guest page tables: one implementation per
 * scheme, in hv/mmu_<x>.c and the list hv_mmu_backends[]. Every function may be
 * called with the guest in any paging mode (none, 32-bit, PAE, 4 and 5 levels).
 */
struct hv_mmu_ops {
	const char *name;
	int (*init)(struct hv_vm *vm, struct error *err);
	void (*destroy)(struct hv_vm *vm);
	/* Sets the VMCS controls the backend needs (EPT, exception bitmap, CR3 and INVLPG exiting ...). */
	void (*setup_vmcs)(struct hv_vm *vm);
	/* Intercepted #PF: gva in the exit qualification, hardware error code given. */
	enum hv_verdict (*page_fault)(struct hv_vm *vm, uint64_t lin, uint32_t error);
	enum hv_verdict (*ept_violation)(struct hv_vm *vm, uint64_t gpa, uint64_t qualification);
	/*
	 * Guest CR0, CR3, CR4 or EFER changed in a way that concerns paging: vm->guest
	 * holds the new values. @cr3_load: a CR3 load; @flush: it drops translations
	 * (CR3 bit 63 clear). Sets GUEST_CR0/3/4 in the VMCS as the backend runs them.
	 */
	void (*mode_changed)(struct hv_vm *vm);
	void (*load_cr3)(struct hv_vm *vm, bool flush);
	void (*invlpg)(struct hv_vm *vm, uint64_t lin);
	void (*flush)(struct hv_vm *vm, enum hv_flush kind, uint16_t pcid);
	/* The hypervisor or a device is about to write / has written guest RAM: tables made from it are stale. */
	void (*guest_wrote)(struct hv_vm *vm, uint64_t gpa, unsigned bytes);
	/* The emulator is going to access guest RAM: lets the backend count. */
	void (*emulated_access)(struct hv_vm *vm, uint64_t gpa, unsigned bytes, bool write);
	/* gfn got, lost or changed its frame. */
	void (*p2m_changed)(struct hv_vm *vm, gfn_t first, uint64_t frames);
	/* Some that had frames have others now; after p2m_changed(). NULL: nothing. */
	void (*p2m_moved)(struct hv_vm *vm);
	/*
	 * An exit begins that the guest's execution caused, with its basic reason; @before: what had been done at the door
	 * when it came. NULL: nothing.
	 */
	void (*exited)(struct hv_vm *vm, uint32_t reason, const struct vmx_counts *before);
	/* A request of the guest was served: what it asks of the host is to be done as far as it can be. NULL: nothing. */
	void (*pv_done)(struct hv_vm *vm, const struct pv_request *r);
	/*
	 * Tracking (hv/dirty.h). track(): a tracker was armed or disarmed, and all entries are made to follow it.
	 * retrack(): the same for pages whose rights or flags it takes away; @pages: a bitmap. scan(): looks for accessed
	 * and dirty flags in all leaf entries, notes and clears them. After each the TLB has nothing that says
	 * otherwise.
	 */
	void (*track)(struct hv_vm *vm);
	void (*retrack)(struct hv_vm *vm, const uint64_t *pages);
	void (*scan)(struct hv_vm *vm);
	/* Are the backend's tables equal to GPT o p2m, where they say anything? If not, a line in @buf and false. */
	bool (*audit)(struct hv_vm *vm, char *buf, size_t bytes);
	void (*observe)(const struct hv_vm *vm, struct obs *obs);
};
extern const struct hv_mmu_ops hv_mmu_brute, hv_mmu_shadow, hv_mmu_ept, hv_mmu_hugegpt, hv_mmu_dmt, hv_mmu_pvdmt;
extern const struct hv_mmu_ops hv_mmu_agile, hv_mmu_nested, hv_mmu_nested_pvdmt;
extern const struct hv_mmu_ops *const hv_mmu_backends[ENGINE_MMU_COUNT]; /* NULL for native */

/* Paging-related guest state as the guest believes it to be. */
struct hv_guest_regs {
	uint64_t cr0, cr3, cr4, efer;
	uint64_t pdpte[4]; /* PAE: as loaded */
};

/* The guest's physical map: gfn -> mfn, allocated on first use. */
struct p2m;

/*
 * What the hypervisor has once: the processor in VMX operation, and the machine's memory. Its VMs share
 * both; each has a VMCS, an owner number for its frames and a VPID of its own.
 */
struct hv_machine {
	struct machmem *mem;
	struct cpu *cpu;
	hpa_t root, vmxon;     /* the hypervisor's CR3; the VMXON region */
	unsigned vms;          /* made so far */
	struct hv_vm *current; /* whose VMCS and registers are in the processor; NULL: nobody's */
	struct hv_vm *last;    /* the last that ran */
};

struct hv_tracker;

/* Tracking of pages that are written. Bitmaps of pages of guest RAM, all NULL while no tracker is armed. */
struct hv_dirty {
	const struct hv_tracker *tracker; /* NULL: none is armed */
	uint64_t *written, *accessed;     /* found out, and not collected yet */
	uint64_t *may_access, *may_write; /* granted since the tracker began anew; PML: logged since then */
	uint64_t *again;                  /* room for one more */
	uint32_t *page_of_frame;          /* flags, without EPT: page number by machine frame */
	hpa_t log;                        /* PML: the page that the processor writes */
};

struct hv_vm {
	struct hv_machine *machine;
	struct engine_config cfg;
	struct machmem_range ram[ENGINE_RANGES_MAX]; /* guest RAM, guest-physical */
	unsigned rams;
	struct machmem *mem;
	struct cpu *cpu;          /* the physical processor: through cpu/vmx.h only */
	hpa_t vmcs;
	uint16_t owner;           /* frame owner number */
	uint16_t vpid;            /* 0: without, transitions flush */
	const struct hv_mmu_ops *mmu;
	void *mmu_state;
	struct p2m *p2m;
	struct hv_guest_regs guest;
	/*
	 * What else is in force between the guest's physical addresses and RAM: the EPT that a hypervisor in the guest gave to
	 * its own guest, as long as that is what runs. NULL: never anything. Says what @a is in RAM, and all that it allows (EPT_R |
	 * ...), or gives an event. @table: for an entry of page tables; @set: accessed and dirty flags are set
	 */
	enum xlate_event (*stage2)(struct hv_vm *vm, uint64_t a, enum access_kind kind, bool table, bool set, uint64_t *out,
				   uint64_t *rights, struct xlate *x);
	/*
	 * The emulator's processor. Between instructions it also holds what the
	 * hypervisor keeps of the guest itself: its local APIC (emul->lapic) and
	 * the MSRs that VMX does not switch.
	 */
	struct cpu *emul;
	struct { uint64_t address; uint32_t error; } fault; /* for HV_REFLECT */
	char fail_text[256];
	struct obs obs;           /* exits, faults; the rest is filled in by observe */
	struct hv_dirty dirty;
	const struct engine_log_watch *log_watch; /* of the page-modification log; NULL: nobody */
	uint64_t emulated_insns;  /* guest instructions completed by the hypervisor */
	struct hv_nested *nested; /* the guest may be a hypervisor; NULL: its processor has no VMX */
	void *priv;               /* hv/hv.c's own */
};

/* ---- the VM, for the engine (hv/hv.c) ---- */
/* RAM that a machine needs to run such a VM: the guest's, and room for tables. For several: the sum. */
uint64_t hv_machine_memory(const struct engine_config *cfg);
/* Turns the processor into a hypervisor's. @mem: with hv_machine_memory() bytes of RAM. -ENOMEM, -ENODEV. */
int hv_machine_init(struct hv_machine *m, struct machmem *mem, struct cpu *cpu, struct error *err);
/* After its VMs were destroyed. */
void hv_machine_fini(struct hv_machine *m);
/* Makes a VM with one vCPU in its RESET state. @ram, @rams: guest RAM. -ENOMEM, -EINVAL. */
int hv_create(struct hv_vm **out, struct hv_machine *machine, const struct engine_config *cfg,
	      const struct machmem_range *ram, unsigned rams, struct error *err);
/* The VM's frames go back to the machine, and those of the tables made for it; its VMCS goes with the machine. */
void hv_destroy(struct hv_vm *vm);
/*
 * The world switch: gives the processor to @vm, if another has it. The VMCS pointer is loaded, and what VMX does not
 * switch is saved and loaded. Every function below that needs the vCPU's registers does it by itself.
 */
void hv_make_current(struct hv_vm *vm);
/* engine_run() and its companions. */
void hv_run(struct hv_vm *vm, struct engine_run *run);
void hv_interrupt(struct hv_vm *vm, uint8_t vector);
void hv_nmi(struct hv_vm *vm);
uint64_t hv_now(const struct hv_vm *vm);
uint64_t hv_insns(const struct hv_vm *vm);
void hv_advance(struct hv_vm *vm, uint64_t to_ns);
/* The vCPU's state is in the returned processor; after changing it call hv_put_state(). */
struct cpu *hv_get_state(struct hv_vm *vm);
void hv_put_state(struct hv_vm *vm);
/* Is nothing of an instruction or an event half done? */
bool hv_at_rest(struct hv_vm *vm);
/* What the vCPU has beside the registers that hv_get_state() gives; those that block events are left alone. */
void hv_get_between(struct hv_vm *vm, struct engine_between *b);
/* A VM that has not run goes on as the vCPU whose registers are in its emulator's processor. */
void hv_put_vcpu(struct hv_vm *vm, const struct engine_between *b);
/*
 * All that backend and processor know of the guest's tables is forgotten, as if the VM had been made just now in the state that
 * it is in; and all of guest RAM gets frames, so that nothing depends on which has been touched. Between runs; the guest
 * cannot notice. -EBUSY: pages are tracked; -ENOMEM: the VM is of no use any more.
 */
int hv_forget(struct hv_vm *vm, struct error *err);
/* All of guest RAM gets frames. -ENOMEM. */
int hv_populate(struct hv_vm *vm, struct error *err);
/*
 * Takes the events that were fed to @r (cpu/replay.h), which its processor and emulator are attached to, as hv_run() executes
 * instructions. Afterwards the processor is in root operation. -EIO: the hypervisor gave up, with why in @err.
 */
int hv_replay(struct hv_vm *vm, struct replay *r, struct error *err);
/* Something other than the vCPU wrote guest RAM; within one page. */
void hv_ram_written(struct hv_vm *vm, uint64_t gpa, unsigned bytes);
/* engine_dirty_possible() and its companions. @written, @accessed: bitmaps that receive, or NULL. */
bool hv_dirty_possible(enum engine_mmu mmu, enum engine_dirty how);
int hv_dirty_arm(struct hv_vm *vm, enum engine_dirty how, struct error *err);
int hv_dirty_collect(struct hv_vm *vm, uint64_t *written, uint64_t *accessed);
void hv_dirty_disarm(struct hv_vm *vm);
void hv_observe(const struct hv_vm *vm, struct obs *obs);
void hv_describe(struct hv_vm *vm, char *buf, size_t bytes);

/* ---- VMCS access that cannot fail (fields are known to exist) ---- */
uint64_t hv_read(struct hv_vm *vm, enum vmcs_field f);
void hv_write(struct hv_vm *vm, enum vmcs_field f, uint64_t v);

/* ---- p2m (hv/p2m.c) ---- */
int p2m_init(struct hv_vm *vm, struct error *err);
void p2m_destroy(struct hv_vm *vm);
/* Is gpa guest RAM (allocated yet or not)? */
bool p2m_is_ram(const struct hv_vm *vm, uint64_t gpa);
/*
 * Machine frame of guest RAM; allocates (zeroed) if there is none yet.
 * @order: receives 0, 9 or 18: the largest naturally aligned run around gfn that is contiguous in machine memory
 * -EFAULT: no RAM there; -ENOMEM; -EIO: its contents cannot be had.
 */
int p2m_get(struct hv_vm *vm, gfn_t g, mfn_t *m, unsigned *order);
/* The same without allocating: -ENOENT if there is no frame yet. */
int p2m_peek(const struct hv_vm *vm, gfn_t g, mfn_t *m, unsigned *order);
/*
 * Where the contents of absent frames are. @fetch: fills @page, which is zeros; not 0: they cannot be had. Then what asked
 * for the frame fails with -EIO, and the guest does not run again: p2m_is_broken().
 */
struct p2m_source {
	int (*fetch)(void *ctx, gfn_t g, void *page);
	void *ctx;
};
void p2m_set_source(struct hv_vm *vm, const struct p2m_source *source);
/* Who has to know of frames whose contents move: told before each page moves (@done not set), and after. */
struct p2m_watch {
	void (*moves)(void *ctx, gfn_t g, bool done);
	void *ctx;
};
void p2m_set_watch(struct hv_vm *vm, const struct p2m_watch *watch);
/*
 * Gives guest frames from @first on one run of machine frames, *m and those after it; what they hold moves there, and who
 * has made something of the old frames is told: the backend, trackers, the processor's cache of code, the watch.
 * @order: 0, or 9: the run is one of 2 MiB pages, and the range one that such a page can map
 * -EFAULT: not all RAM; -ENOMEM: the machine has no such run left; -EIO: as p2m_get(). Nothing has changed then.
 */
int p2m_make_run(struct hv_vm *vm, gfn_t first, uint64_t frames, unsigned order, mfn_t *m);
bool p2m_is_broken(const struct hv_vm *vm);
/* What is in a page of guest RAM, fetched if it is absent; NULL: zeros, and no frame, or no RAM there. */
const void *p2m_contents(struct hv_vm *vm, gfn_t g);
/* The frame is absent from now on. -EFAULT: no RAM there; -EEXIST: there is one already. */
int p2m_set_absent(struct hv_vm *vm, gfn_t g);
/*
 * The contents of a frame as they are, from any thread, while the VM runs: NULL if it has no frame, and then whether it is
 * absent.
 */
const void *p2m_look(const struct hv_vm *vm, gfn_t g, bool *absent);
/* Host pointer to guest RAM (one page at most), NULL if it is none; allocates. */
void *p2m_ptr(struct hv_vm *vm, uint64_t gpa);

/* ---- the guest's own tables, walked by software (hv/guest_walk.c) ---- */
#define GUEST_LEVELS_MAX 5
struct guest_walk {
	unsigned levels;                     /* of the mode: 2, 3 (PAE, top from pdpte[]), 4, 5; 0 without paging */
	unsigned leaf_level;                 /* 1 = 4 KiB, 2 = 2 or 4 MiB, 3 = 1 GiB; where the walk ended */
	uint64_t table_gpa[GUEST_LEVELS_MAX + 1]; /* [level]: gpa of the table at that level */
	uint64_t entry_gpa[GUEST_LEVELS_MAX + 1];
	uint64_t entry[GUEST_LEVELS_MAX + 1];
	uint64_t gpa;                        /* translation of the address, through that EPT if there is one */
	bool writable, user, nx, global, dirty; /* combined rights; dirty of the leaf */
	uint8_t pkey;
	bool ok;
	/* If not ok: an event of the EPT that the guest's own hypervisor gave it, or XLATE_OK and a page-fault error code. */
	enum xlate_event event;
	struct xlate ept;
	uint32_t error;
};
/*
 * Walks the guest's tables for one access exactly as the processor would: same
 * faults, same error codes, same accessed and dirty updates.
 * @set_ad: set accessed (and for writes dirty) flags as hardware would
 */
void guest_walk(struct hv_vm *vm, uint64_t lin, enum access_kind kind, enum access_mode mode, bool set_ad,
		struct guest_walk *w);
/* The access mode of the guest's current privilege (CPL, AC) for data. */
enum access_mode hv_access_mode(struct hv_vm *vm);

/* ---- emulation (hv/emulate.c) ---- */
/*
 * Emulates the guest's instruction at RIP, with all effects (exceptions are
 * injected, device accesses leave through the engine, time counts it).
 * @max_iterations: for REP string instructions
 */
enum hv_verdict hv_emulate(struct hv_vm *vm, unsigned max_iterations);

#endif
