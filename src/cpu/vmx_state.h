/* The processor's VMX state: part of struct cpu. Operations are in cpu/vmx.h. */
#ifndef GNOMON_CPU_VMX_STATE_H
#define GNOMON_CPU_VMX_STATE_H

#include "arch/addr.h"
#include <stdbool.h>
#include <stdint.h>

/* An exit being prepared by an instruction or event; vmx_do_exit() writes it to the VMCS. */
struct vmx_exit {
	uint32_t reason;        /* basic reason */
	uint64_t qualification;
	uint64_t guest_linear;
	uint64_t guest_physical;
	uint32_t intr_info, intr_error;
	uint32_t insn_len;
	uint32_t insn_info;
	bool trap_like;         /* the instruction is complete: save the next RIP */
};

struct vmx_state {
	bool on;                /* VMXON executed */
	bool nonroot;           /* in VMX non-root operation */
	hpa_t vmxon;            /* VMXON region */
	hpa_t current;          /* current VMCS, or VMCS_NONE */
	/* Controls, loaded at VM entry from the current VMCS. */
	uint32_t pin, proc, proc2, exit_ctl, entry_ctl;
	uint32_t exception_bitmap, pf_mask, pf_match;
	uint64_t io_bitmap_a, io_bitmap_b, msr_bitmap;
	uint64_t cr0_mask, cr0_shadow, cr4_mask, cr4_shadow;
	uint64_t cr3_target[4];
	uint32_t cr3_target_count;
	uint64_t tsc_offset;
	uint64_t eptp;
	uint16_t vpid;
	uint64_t preemption_deadline; /* TSC value at which the preemption timer expires */
	bool mtf_pending;
	/* Event being delivered, for IDT-vectoring information. */
	bool vectoring;
	uint32_t vectoring_info, vectoring_error;
	uint32_t vectoring_insn_len;
	bool nmi_unblocking_iret;     /* the fault was caused by an IRET that unblocked NMIs */
	struct vmx_exit exit;
};
#define VMCS_NONE (~0ull)

#endif
