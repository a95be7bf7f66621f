/*
 * The hypervisor's private state and what its own files call in each other.
 * MMU backends need hv/hv.h only.
 */
#ifndef GNOMON_HV_CORE_H
#define GNOMON_HV_CORE_H

#include "hv/hv.h"

/* An event to inject at the next VM entry, in the format of the VM-entry interruption information. */
struct hv_event {
	uint32_t info; /* 0: none */
	uint32_t error;
	uint32_t insn_len;
};

/* What the guest's device access, once the platform has answered it, completes. */
enum hv_continuation { CONTINUE_NONE, CONTINUE_IO, CONTINUE_EMULATION };

struct hv_core {
	hpa_t io_bitmap_a, io_bitmap_b, msr_bitmap;
	bool launched;
	bool halted;              /* the guest executed HLT and nothing has woken it */
	bool shutdown;            /* triple fault */
	bool kicked;              /* engine_kick() ended the last stretch of guest execution */
	bool stopped;             /* ... or the guest arrived where the caller wants it to stop: */
	bool stop_armed;
	uint64_t stop_address;    /* linear */
	uint64_t stop_passed;     /* guest instructions at which it has stopped there already */
	bool sync_cr3, sync_efer; /* the guest changes these without an exit: read them from the VMCS */
	uint32_t proc;            /* primary controls as they stand in the VMCS */
	uint32_t entry_ctl;
	/* While another VM has the processor, what it does not switch */
	struct vmx_live live;
	struct vmx_counters counters;
	/*
	 * Time: virtual time is the physical TSC plus vm->emulated_insns, less what passed while others had the
	 * processor (away); left: TSC and count when it was taken away.
	 */
	uint64_t away_tsc, away_insns, left_tsc, left_insns;
	int64_t guest_tsc_base;   /* guest TSC minus virtual time: what the guest wrote */
	uint64_t tsc_offset;      /* as it stands in the VMCS */
	/* Events */
	struct hv_event inject;
	bool nmi_pending;
	bool extint;              /* the platform's interrupt controller is asking */
	bool extint_given;
	uint8_t extint_vector;
	/* What the last VM entry found: whether an event came with it, RF, DR7.GD, where the guest was */
	bool entered_event, entered_rf, entered_gd;
	uint64_t entered_rip, entered_insns;
	/* A device access on its way out */
	bool asking;              /* want is to be given to the caller */
	bool asked;               /* it was: the answer comes with the next run */
	struct bus_access want;
	enum hv_continuation continuation;
	unsigned max_iterations;  /* of the emulation that is being continued */
	bool was_sti, was_movss, was_rf, was_tf, was_monitored; /* in force at the instruction being emulated */
	bool completed;           /* the last emulated instruction is complete */
	bool cr3_written;         /* it loads CR3: the backend is to know even if the value is the same */
	bool cr3_followed;        /* a task switch loaded CR3: vm->guest has it, the backend does not know yet */
	bool paging_changed;      /* likewise for all registers that concern paging */
	bool by_emulation;        /* the processor cannot execute the guest as it is: see hv_emulate_guest() */
	uint64_t loaded_tsc_base; /* of the emulator's processor: WRMSR may move it */
	/* The exit being handled */
	uint32_t exit_reason;     /* as in the VMCS */
	uint64_t qualification;
	struct hv_event vectoring; /* event that was being delivered */
	/* Emulator: what was loaded, to write back only what changed */
	struct seg loaded_seg[SEG_COUNT], loaded_tr, loaded_ldtr;
	struct dtable loaded_gdtr, loaded_idtr;
};

static inline struct hv_core *hv_core(const struct hv_vm *vm) { return vm->priv; }

/* ---- what root software reaches with ordinary instructions: state that VMX does not switch ---- */

static inline uint32_t hv_guest_pkru(const struct hv_vm *vm) { return *vmx_pkru(vm->cpu); }
/* RDTSC: the machine's own time, of which the VM has had this much. */
static inline uint64_t hv_own_tsc(const struct hv_vm *vm)
{
	const struct hv_core *core = hv_core(vm);

	return (vm->machine->current == vm ? cpu_tsc(vm->cpu) : core->left_tsc) - core->away_tsc;
}
/* The performance counter of retired instructions: those that the guest executed itself. */
static inline uint64_t hv_own_insns(const struct hv_vm *vm)
{
	const struct hv_core *core = hv_core(vm);

	return (vm->machine->current == vm ? vm->cpu->insns : core->left_insns) - core->away_insns;
}


/*
 * What the hypervisor does to entries of guest, shadow and EPT tables is counted, for the cost account. An
 * entry that is looked at only to be replaced counts as written; copying or clearing a whole table is
 * done by cache lines and counts so.
 */
#define HV_TABLE_LINES 64u
static inline void hv_count_reads(struct hv_vm *vm, uint64_t n) { vm->obs.hypervisor.table_reads += n; }
static inline void hv_count_writes(struct hv_vm *vm, uint64_t n) { vm->obs.hypervisor.table_writes += n; }

/* ---- hv/nested*.c: the guest is a hypervisor (L1) and has a guest of its own (L2) ---- */
/* -ENOMEM, -EINVAL: not under this scheme. Nothing if the guest's processor has no VMX. Before the backend is made. */
int hv_nested_create(struct hv_vm *vm, struct error *err);
void hv_nested_destroy(struct hv_vm *vm);
/* The VMCS that is current while the VM has the processor. */
hpa_t hv_current_vmcs(const struct hv_vm *vm);
/*
 * The emulator's processor may have gone from L1 to L2 or back: the VMCS of where it is becomes current, and
 * hv_commit_paging() will tell the backend. True: all of its registers are to be stored.
 */
bool hv_nested_follow(struct hv_vm *vm);
void hv_nested_followed(struct hv_vm *vm);
/* For what concerns the VM whoever runs: VMCS01 is current. What it returns is for going back, with what changed there. */
bool hv_nested_outside(struct hv_vm *vm);
void hv_nested_inside_again(struct hv_vm *vm, bool inside);
/* An exit of L2. */
enum hv_verdict hv_nested_handle(struct hv_vm *vm, uint32_t reason);
/* L1's processor, which has L2's whole state, exits as emul->vmx.exit says. */
enum hv_verdict hv_nested_reflect(struct hv_vm *vm);
/* What L1's processor would do between two instructions of L2's. */
enum hv_boundary {
	HV_BOUNDARY_QUIET,  /* nothing */
	HV_BOUNDARY_EXITED, /* exit to L1: the verdict says how that went */
	HV_BOUNDARY_VECTOR, /* it waits for the platform's vector */
};
enum hv_boundary hv_nested_boundary(struct hv_vm *vm, enum hv_verdict *v);
/* Windows that L1 asked for; what L1 adds to the TSC; TSC (L1's) at which its preemption timer expires. */
uint32_t hv_nested_windows(const struct hv_vm *vm);
uint64_t hv_nested_tsc_offset(const struct hv_vm *vm);
/* Are NMIs L1's while L2 runs? */
bool hv_nested_takes_nmis(const struct hv_vm *vm);
uint64_t hv_nested_deadline(const struct hv_vm *vm);
/* Guest frames have moved. */
void hv_nested_moved(struct hv_vm *vm);

/* ---- hv/ownership.c ---- */
/* Do the tables that the VMCS names reach frames of this VM only? If not, a line in @buf and false. */
bool hv_audit_owners(struct hv_vm *vm, char *buf, size_t bytes);

/* ---- hv/machine.c ---- */
int hv_alloc_frame(struct hv_machine *m, hpa_t *out);

/* ---- hv/hv.c ---- */
static inline uint64_t hv_virtual_now(const struct hv_vm *vm) { return hv_own_tsc(vm) + vm->emulated_insns; }
static inline uint64_t hv_guest_tsc(const struct hv_vm *vm)
{
	return hv_virtual_now(vm) + (uint64_t)hv_core(vm)->guest_tsc_base;
}
/* Records why the hypervisor gives up. Returns HV_FAIL. */
enum hv_verdict hv_fail(struct hv_vm *vm, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The hypervisor wrote guest RAM at @gpa: the processor's caches of code see it. Within one page. */
void hv_snoop(struct hv_vm *vm, uint64_t gpa, unsigned bytes);
/* VM entry. *exited: it ended in an exit at once; otherwise the processor is the guest's. HV_RESUME or HV_FAIL. */
enum hv_verdict hv_enter(struct hv_vm *vm, const struct engine_run *run, bool *exited);
/* All that is done about an exit: HV_RESUME or HV_FAIL. */
enum hv_verdict hv_exited(struct hv_vm *vm);
/* What is looked at for the user's sake is not the hypervisor's work: its counters are put back to what they were. */
struct work {
	struct vmx_counts door;
	uint64_t table_reads, table_writes, l1_requests;
};
struct work hv_save_work(const struct hv_vm *vm);
void hv_restore_work(struct hv_vm *vm, const struct work *w);
/* Brings vm->guest up to date with what the guest changed without an exit. */
void hv_sync_guest(struct hv_vm *vm);
/* A guest instruction was completed by the hypervisor: time goes on by one, blocking by STI or MOV SS ends. */
void hv_count_insn(struct hv_vm *vm);
/* Completes the instruction that caused the exit: RIP goes to the next one. */
void hv_skip_insn(struct hv_vm *vm);
/* Primary controls: sets and clears bits. */
void hv_update_proc(struct hv_vm *vm, uint32_t set, uint32_t clear);
/* Handles what a backend or handler decided. */
enum hv_verdict hv_settle(struct hv_vm *vm, enum hv_verdict v);
/* Has the platform perform the access; @next says how the instruction goes on after that. */
enum hv_verdict hv_ask(struct hv_vm *vm, const struct bus_access *a, enum hv_continuation next);

/* ---- hv/exit_event.c ---- */
/* An IRET that unblocked NMIs faulted: it will be executed again, and NMIs are blocked until then. */
void hv_reblock_nmi(struct hv_vm *vm, bool unblocked_by_iret);
/* Is an NMI pending? */
bool hv_wants_nmi(struct hv_vm *vm);
void hv_inject_exception(struct hv_vm *vm, uint8_t vector, bool has_error, uint32_t error);
/* A triple fault: the guest runs no more. */
void hv_shut_down(struct hv_vm *vm);
/* #DB on entering a task whose T flag is set: VMX has no pending form of it. @dr6: all bits that it reports. */
void hv_inject_task_trap(struct hv_vm *vm, uint64_t dr6);
/* #PF for the guest, with CR2. */
void hv_inject_page_fault(struct hv_vm *vm, uint64_t address, uint32_t error);
static inline void hv_inject_gp0(struct hv_vm *vm) { hv_inject_exception(vm, EXC_GP, true, 0); }
static inline void hv_inject_ud(struct hv_vm *vm) { hv_inject_exception(vm, EXC_UD, false, 0); }
/* Takes over what the exit interrupted (IDT-vectoring information), to be injected again. */
void hv_take_vectoring(struct hv_vm *vm);
/*
 * Chooses what to inject at the next entry and which windows to ask for.
 * Returns true if the platform has to give the vector of an external interrupt first.
 */
bool hv_prepare_events(struct hv_vm *vm);
/* Would an interrupt or NMI wake the halted guest? */
bool hv_wakes(struct hv_vm *vm);

/* ---- hv/exit_*.c: handlers, and the list of them ---- */
typedef enum hv_verdict hv_exit_handler(struct hv_vm *vm);
extern hv_exit_handler *const hv_exit_handlers[OBS_EXIT_REASONS];
const char *hv_exit_name(uint32_t reason);

hv_exit_handler exit_exception, exit_external_interrupt, exit_triple_fault, exit_window, exit_task_switch;
hv_exit_handler exit_preemption_timer, exit_ept_violation, exit_ept_misconfig, exit_pml_full;
hv_exit_handler exit_cpuid, exit_hlt, exit_invd, exit_emulated, exit_undefined;
hv_exit_handler exit_invlpg, exit_invpcid;
hv_exit_handler exit_vmx;
hv_exit_handler exit_cr, exit_rdmsr, exit_wrmsr, exit_io;
/* Second half of exit_io(), once the platform has answered. */
enum hv_verdict exit_io_finish(struct hv_vm *vm);

/* Is a debug trap due at this boundary? */
static inline bool hv_debug_trap_due(struct hv_vm *vm)
{
	return hv_read(vm, VMCS_GUEST_PENDING_DEBUG) & (PENDING_DEBUG_BS | PENDING_DEBUG_ENABLED);
}

/* Pending #DB in the processor's form. */
static inline uint64_t hv_pending_traps(struct hv_vm *vm)
{
	return hv_read(vm, VMCS_GUEST_PENDING_DEBUG) & (PENDING_DEBUG_B | PENDING_DEBUG_BS);
}

/* Bits of pending #DB, from the processor's form (DR6) to the VMCS field's. */
static inline uint64_t hv_pending_debug(uint64_t dr6_bits)
{
	return (dr6_bits & (PENDING_DEBUG_B | PENDING_DEBUG_BS)) |
	       (dr6_bits & PENDING_DEBUG_B ? PENDING_DEBUG_ENABLED : 0);
}

/* ---- hv/emulate.c ---- */
/* The emulator's processor executed WRMSR: what it did to direct translation, and what the guest asked for, is taken over. */
void hv_settle_requests(struct hv_vm *vm);
/* The vCPU came from elsewhere: the backend is told of all that its guest has asked for and has still. */
void hv_repeat_requests(struct hv_vm *vm);
int hv_emulator_create(struct hv_vm *vm, struct error *err);
void hv_emulator_destroy(struct hv_vm *vm);
/* The vCPU's whole state, from VMCS and live registers into vm->emul; back is hv_put_state(). */
void hv_load_state(struct hv_vm *vm);
/* All registers in vm->emul become the vCPU's, PDPTEs included; nothing is pending. */
void hv_put_registers(struct hv_vm *vm);
/* Between two instructions: an INIT that the guest's local APIC has accepted is taken, outside VMX operation. */
void hv_take_init(struct hv_vm *vm);
/* Iterations of a REP instruction that are emulated at a time. */
#define HV_EMULATE_ITERATIONS 4096
/* Continues after the platform's answer in core->want. */
enum hv_verdict hv_emulate_continue(struct hv_vm *vm);
/* Delivers the event that the exit interrupted by emulation: when delivery itself needs a device or a traced page. */
enum hv_verdict hv_emulate_delivery(struct hv_vm *vm);
/* Delivers an exception by emulation; what comes of that may be an exit of L2's. @unblocked: by an IRET that caused it */
enum hv_verdict hv_deliver(struct hv_vm *vm, const struct event *ev, bool unblocked);
/* The emulator's processor exits as emul->vmx.exit says, and goes on as its host state has it. */
enum hv_verdict hv_emulated_exit(struct hv_vm *vm);
/*
 * Real-address mode without "unrestricted guest", and the first instructions after it, until no segment
 * register holds what VM entry refuses: executes one instruction, or delivers what is due.
 */
enum hv_verdict hv_emulate_guest(struct hv_vm *vm);
/*
 * Says in core->by_emulation whether the guest as it is has to be executed so. Before events are chosen: what is
 * injected has to meet the one who executes.
 */
void hv_choose_emulation(struct hv_vm *vm);
/* The paging-related registers, into vm->emul. */
void hv_load_paging(struct hv_vm *vm);
/*
 * Paging-related registers in vm->emul differ from vm->guest after the guest's
 * instruction was completed: takes them over and tells the backend.
 */
void hv_commit_paging(struct hv_vm *vm);
/* Reads guest RAM at a linear address as the guest would, without effects; false if it may not or it is no RAM. */
bool hv_read_linear(struct hv_vm *vm, uint64_t lin, void *buf, unsigned bytes);

uint64_t p2m_bytes(const struct hv_vm *vm);

#endif
