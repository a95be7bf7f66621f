/* The processor's VMX state: part of struct cpu. Operations are in cpu/vmx.h. */
#ifndef GNOMON_CPU_VMX_STATE_H
#define GNOMON_CPU_VMX_STATE_H

#include "mmu/dmt.h"
#include <stdbool.h>
#include <stdint.h>

/* What becomes of RFLAGS.RF in the saved state (SDM "Saving RIP, RSP, RFLAGS, and SSP"). */
enum vmx_rf { VMX_RF_KEEP, VMX_RF_CLEAR, VMX_RF_SET };

/* An exit being prepared by an instruction or event; vmx_do_exit() writes it to the VMCS. */
struct vmx_exit {
	uint32_t reason;        /* basic reason */
	enum vmx_rf rf;
	uint64_t qualification;
	uint64_t guest_linear;
	uint64_t guest_physical;
	uint32_t intr_info, intr_error;
	uint32_t insn_len;
	uint32_t insn_info;
};

/*
 * What software in root operation did at the door, and succeeded with: as performance counters would count
 * it. Kept together, so that who multiplexes the processor can give each guest its own.
 */
struct vmx_counts {
	uint64_t entries, vmreads, vmwrites, invepts, invvpids;
};

/* What became of the guests of software in root operation, counted from the processor's making on. */
#define VMX_TALLY_REASONS 70
struct vmx_tally {
	uint64_t exits[VMX_TALLY_REASONS]; /* by basic reason; entries that failed on guest state or an MSR are exits, too */
	uint64_t pml_logged;               /* entries made in page-modification logs */
};

/* What software in root operation does, for who follows it: vmx_watch. */
enum vmx_event {
	VMX_EVENT_ON, VMX_EVENT_OFF,
	VMX_EVENT_PTRLD, VMX_EVENT_CLEAR, /* a: the region's physical address */
	VMX_EVENT_WRITE,                  /* a: field, b: value */
	VMX_EVENT_ENTRY,                  /* a: the guest's RIP, b: VM-entry interruption information */
	VMX_EVENT_EXIT,                   /* a: exit reason, b: qualification; the VMCS has the rest */
	VMX_EVENT_INVEPT,                 /* a: type, b: EPTP */
	VMX_EVENT_INVVPID,                /* a: type, b: VPID */
};
struct vmx_watch {
	void (*seen)(void *ctx, enum vmx_event what, uint64_t a, uint64_t b); /* after it succeeded */
	void *ctx;
};

/* Groups of fields written since the last entry that passed the checks on them. */
#define VMX_DIRTY_CONTROLS 1u
#define VMX_DIRTY_HOST     2u

/*
 * How addresses of non-root operation are translated beside what the VMCS says: fields of a VMCS, had the processor been
 * built with them. docs/dmt.md, docs/agile-paging.md
 */
struct vmx_walk {
	unsigned stages;                             /* of direct translation: 0, 2, 3 */
	unsigned registers[DMT_STAGES];              /* of each host stage; [0] unused */
	struct dmt_entry host[DMT_STAGES][DMT_REGISTERS];
	const struct dmt_gtea *gtea;                 /* NULL: no table of gTEAs */
	unsigned gteas;
	bool agile;
	uint64_t shadow_root;                        /* machine address, PTE_SWITCH, PTE_SWITCH_W */
};

/*
 * A processor in the emulator role stands for one that has less of VMX than it executes: what is allowed of each group of
 * controls, and of IA32_VMX_EPT_VPID_CAP, IA32_VMX_MISC and IA32_VMX_VMFUNC, beside what the processor itself allows.
 */
struct vmx_limits {
	uint32_t pin, proc, proc2, exit, entry;
	uint64_t ept_vpid, misc, vmfunc;
};

struct vmx_state {
	bool on;                /* VMXON executed */
	bool outside;           /* root operation is host C's (vmx_setup_root()): a VM exit ends cpu_run() */
	bool nonroot;           /* in VMX non-root operation */
	uint8_t dirty;          /* VMX_DIRTY_* */
	hpa_t vmxon;            /* VMXON region */
	hpa_t current;          /* current VMCS, or VMCS_NONE */
	bool current_shadow;    /* ... was a shadow VMCS when it was loaded */
	/*
	 * Controls, loaded from the current VMCS by the first VM entry after they were
	 * written. In force in non-root operation only, except that vpid and eptp
	 * are 0 whenever their controls are off.
	 */
	uint32_t pin, proc, proc2, exit_ctl, entry_ctl;
	uint32_t exception_bitmap, pf_mask, pf_match;
	uint64_t io_bitmap_a, io_bitmap_b, msr_bitmap;
	uint64_t cr0_mask, cr0_shadow, cr4_mask, cr4_shadow;
	uint64_t cr3_target[4];
	uint32_t cr3_target_count;
	uint64_t tsc_offset;    /* 0 if the control is off */
	uint64_t eptp;
	uint64_t pml_log;       /* 0 if the control is off */
	uint64_t virtual_apic, vmread_bitmap, vmwrite_bitmap, vm_functions, eptp_list; /* likewise */
	uint32_t tpr_threshold; /* likewise */
	uint64_t link;          /* non-root operation with VMCS shadowing: the shadow VMCS, or VMCS_NONE */
	uint16_t vpid;
	uint64_t preemption_deadline; /* TSC value when the preemption timer expires; UINT64_MAX: it is off */
	bool mtf_pending;
	bool tpr_below;         /* a MOV to CR8 has made the virtual TPR less than its threshold: a VM exit is due */
	uint64_t debugctl;      /* IA32_DEBUGCTL: loaded, saved and cleared; its functions are not modelled */
	/*
	 * Event being delivered, for IDT-vectoring information: set by
	 * vmx_vectoring_begin(), cleared by vmx_vectoring_end() or the exit.
	 */
	bool vectoring;
	bool injecting; /* by VM entry: not intercepted, RFLAGS.RF pushed as it is, CR2 and DR6 unchanged */
	uint32_t vectoring_info, vectoring_error;
	uint32_t vectoring_insn_len;
	bool vectoring_detect;        /* #DB for an access to a debug register: a fault, unlike its others */
	bool nmi_unblocking_iret;     /* the fault was caused by an IRET that unblocked NMIs */
	struct vmx_walk walk;
	struct vmx_exit exit;
	struct vmx_counts counts;
	struct vmx_tally tally;
	uint16_t pml_from;            /* the log's index at VM entry */
};
#define VMCS_NONE (~0ull)

/* The processor executes a guest of host C, which has the machine's own local APIC and its time to itself. */
static inline bool vmx_outside_guest(const struct vmx_state *x) { return x->nonroot && x->outside; }

#endif
