/*
 * VT-x written down: VMCS field encodings, control bits, exit reasons, error
 * numbers. Constants only. Source: SDM volume 3, appendices "Field Encoding in
 * VMCS", "VMX Basic Exit Reasons", "VMX Capability Reporting Facility".
 */
#ifndef GNOMON_ARCH_VMX_H
#define GNOMON_ARCH_VMX_H

#include <stdint.h>

/*
 * Every VMCS field of the processor.
 * X(symbol, encoding, writable by VMWRITE)
 */
#define VMCS_FIELDS(X)                          \
	/* 16-bit control */                    \
	X(VPID, 0x0000, 1)                      \
	/* 16-bit guest state */                \
	X(GUEST_ES_SEL, 0x0800, 1)              \
	X(GUEST_CS_SEL, 0x0802, 1)              \
	X(GUEST_SS_SEL, 0x0804, 1)              \
	X(GUEST_DS_SEL, 0x0806, 1)              \
	X(GUEST_FS_SEL, 0x0808, 1)              \
	X(GUEST_GS_SEL, 0x080a, 1)              \
	X(GUEST_LDTR_SEL, 0x080c, 1)            \
	X(GUEST_TR_SEL, 0x080e, 1)              \
	X(GUEST_PML_INDEX, 0x0812, 1)           \
	/* 16-bit host state */                 \
	X(HOST_ES_SEL, 0x0c00, 1)               \
	X(HOST_CS_SEL, 0x0c02, 1)               \
	X(HOST_SS_SEL, 0x0c04, 1)               \
	X(HOST_DS_SEL, 0x0c06, 1)               \
	X(HOST_FS_SEL, 0x0c08, 1)               \
	X(HOST_GS_SEL, 0x0c0a, 1)               \
	X(HOST_TR_SEL, 0x0c0c, 1)               \
	/* 64-bit control */                    \
	X(IO_BITMAP_A, 0x2000, 1)               \
	X(IO_BITMAP_B, 0x2002, 1)               \
	X(MSR_BITMAP, 0x2004, 1)                \
	X(EXIT_MSR_STORE_ADDR, 0x2006, 1)       \
	X(EXIT_MSR_LOAD_ADDR, 0x2008, 1)        \
	X(ENTRY_MSR_LOAD_ADDR, 0x200a, 1)       \
	X(PML_ADDRESS, 0x200e, 1)               \
	X(TSC_OFFSET, 0x2010, 1)                \
	X(VIRTUAL_APIC_ADDR, 0x2012, 1)         \
	X(VM_FUNCTION_CTL, 0x2018, 1)           \
	X(EPTP, 0x201a, 1)                      \
	X(EPTP_LIST, 0x2024, 1)                 \
	X(VMREAD_BITMAP, 0x2026, 1)             \
	X(VMWRITE_BITMAP, 0x2028, 1)            \
	/* 64-bit read-only data */             \
	X(GUEST_PHYSICAL, 0x2400, 0)            \
	/* 64-bit guest state */                \
	X(GUEST_VMCS_LINK, 0x2800, 1)           \
	X(GUEST_DEBUGCTL, 0x2802, 1)            \
	X(GUEST_PAT, 0x2804, 1)                 \
	X(GUEST_EFER, 0x2806, 1)                \
	X(GUEST_PDPTE0, 0x280a, 1)              \
	X(GUEST_PDPTE1, 0x280c, 1)              \
	X(GUEST_PDPTE2, 0x280e, 1)              \
	X(GUEST_PDPTE3, 0x2810, 1)              \
	/* 64-bit host state */                 \
	X(HOST_PAT, 0x2c00, 1)                  \
	X(HOST_EFER, 0x2c02, 1)                 \
	/* 32-bit control */                    \
	X(PIN_CTL, 0x4000, 1)                   \
	X(PROC_CTL, 0x4002, 1)                  \
	X(EXCEPTION_BITMAP, 0x4004, 1)          \
	X(PF_ERROR_MASK, 0x4006, 1)             \
	X(PF_ERROR_MATCH, 0x4008, 1)            \
	X(CR3_TARGET_COUNT, 0x400a, 1)          \
	X(EXIT_CTL, 0x400c, 1)                  \
	X(EXIT_MSR_STORE_COUNT, 0x400e, 1)      \
	X(EXIT_MSR_LOAD_COUNT, 0x4010, 1)       \
	X(ENTRY_CTL, 0x4012, 1)                 \
	X(ENTRY_MSR_LOAD_COUNT, 0x4014, 1)      \
	X(ENTRY_INTR_INFO, 0x4016, 1)           \
	X(ENTRY_EXCEPTION_ERROR, 0x4018, 1)     \
	X(ENTRY_INSN_LEN, 0x401a, 1)            \
	X(TPR_THRESHOLD, 0x401c, 1)             \
	X(PROC_CTL2, 0x401e, 1)                 \
	/* 32-bit read-only data */             \
	X(VM_INSTRUCTION_ERROR, 0x4400, 0)      \
	X(EXIT_REASON, 0x4402, 0)               \
	X(EXIT_INTR_INFO, 0x4404, 0)            \
	X(EXIT_INTR_ERROR, 0x4406, 0)           \
	X(IDT_VECTORING_INFO, 0x4408, 0)        \
	X(IDT_VECTORING_ERROR, 0x440a, 0)       \
	X(EXIT_INSN_LEN, 0x440c, 0)             \
	X(EXIT_INSN_INFO, 0x440e, 0)            \
	/* 32-bit guest state */                \
	X(GUEST_ES_LIMIT, 0x4800, 1)            \
	X(GUEST_CS_LIMIT, 0x4802, 1)            \
	X(GUEST_SS_LIMIT, 0x4804, 1)            \
	X(GUEST_DS_LIMIT, 0x4806, 1)            \
	X(GUEST_FS_LIMIT, 0x4808, 1)            \
	X(GUEST_GS_LIMIT, 0x480a, 1)            \
	X(GUEST_LDTR_LIMIT, 0x480c, 1)          \
	X(GUEST_TR_LIMIT, 0x480e, 1)            \
	X(GUEST_GDTR_LIMIT, 0x4810, 1)          \
	X(GUEST_IDTR_LIMIT, 0x4812, 1)          \
	X(GUEST_ES_AR, 0x4814, 1)               \
	X(GUEST_CS_AR, 0x4816, 1)               \
	X(GUEST_SS_AR, 0x4818, 1)               \
	X(GUEST_DS_AR, 0x481a, 1)               \
	X(GUEST_FS_AR, 0x481c, 1)               \
	X(GUEST_GS_AR, 0x481e, 1)               \
	X(GUEST_LDTR_AR, 0x4820, 1)             \
	X(GUEST_TR_AR, 0x4822, 1)               \
	X(GUEST_INTERRUPTIBILITY, 0x4824, 1)    \
	X(GUEST_ACTIVITY, 0x4826, 1)            \
	X(GUEST_SMBASE, 0x4828, 1)              \
	X(GUEST_SYSENTER_CS, 0x482a, 1)         \
	X(GUEST_PREEMPTION_TIMER, 0x482e, 1)    \
	/* 32-bit host state */                 \
	X(HOST_SYSENTER_CS, 0x4c00, 1)          \
	/* natural-width control */             \
	X(CR0_MASK, 0x6000, 1)                  \
	X(CR4_MASK, 0x6002, 1)                  \
	X(CR0_SHADOW, 0x6004, 1)                \
	X(CR4_SHADOW, 0x6006, 1)                \
	X(CR3_TARGET0, 0x6008, 1)               \
	X(CR3_TARGET1, 0x600a, 1)               \
	X(CR3_TARGET2, 0x600c, 1)               \
	X(CR3_TARGET3, 0x600e, 1)               \
	/* natural-width read-only data */      \
	X(EXIT_QUALIFICATION, 0x6400, 0)        \
	X(IO_RCX, 0x6402, 0)                    \
	X(IO_RSI, 0x6404, 0)                    \
	X(IO_RDI, 0x6406, 0)                    \
	X(IO_RIP, 0x6408, 0)                    \
	X(GUEST_LINEAR, 0x640a, 0)              \
	/* natural-width guest state */         \
	X(GUEST_CR0, 0x6800, 1)                 \
	X(GUEST_CR3, 0x6802, 1)                 \
	X(GUEST_CR4, 0x6804, 1)                 \
	X(GUEST_ES_BASE, 0x6806, 1)             \
	X(GUEST_CS_BASE, 0x6808, 1)             \
	X(GUEST_SS_BASE, 0x680a, 1)             \
	X(GUEST_DS_BASE, 0x680c, 1)             \
	X(GUEST_FS_BASE, 0x680e, 1)             \
	X(GUEST_GS_BASE, 0x6810, 1)             \
	X(GUEST_LDTR_BASE, 0x6812, 1)           \
	X(GUEST_TR_BASE, 0x6814, 1)             \
	X(GUEST_GDTR_BASE, 0x6816, 1)           \
	X(GUEST_IDTR_BASE, 0x6818, 1)           \
	X(GUEST_DR7, 0x681a, 1)                 \
	X(GUEST_RSP, 0x681c, 1)                 \
	X(GUEST_RIP, 0x681e, 1)                 \
	X(GUEST_RFLAGS, 0x6820, 1)              \
	X(GUEST_PENDING_DEBUG, 0x6822, 1)       \
	X(GUEST_SYSENTER_ESP, 0x6824, 1)        \
	X(GUEST_SYSENTER_EIP, 0x6826, 1)        \
	/* natural-width host state */          \
	X(HOST_CR0, 0x6c00, 1)                  \
	X(HOST_CR3, 0x6c02, 1)                  \
	X(HOST_CR4, 0x6c04, 1)                  \
	X(HOST_FS_BASE, 0x6c06, 1)              \
	X(HOST_GS_BASE, 0x6c08, 1)              \
	X(HOST_TR_BASE, 0x6c0a, 1)              \
	X(HOST_GDTR_BASE, 0x6c0c, 1)            \
	X(HOST_IDTR_BASE, 0x6c0e, 1)            \
	X(HOST_SYSENTER_ESP, 0x6c10, 1)         \
	X(HOST_SYSENTER_EIP, 0x6c12, 1)         \
	X(HOST_RSP, 0x6c14, 1)                  \
	X(HOST_RIP, 0x6c16, 1)

enum vmcs_field {
#define X(sym, encoding, writable) VMCS_##sym = encoding,
	VMCS_FIELDS(X)
#undef X
};

/* Basic exit reasons, with the SDM's names. X(symbol, number, "name") */
#define VMX_EXIT_REASONS(X)                                                     \
	X(EXCEPTION_NMI, 0, "Exception or NMI")                                 \
	X(EXTERNAL_INTERRUPT, 1, "External interrupt")                          \
	X(TRIPLE_FAULT, 2, "Triple fault")                                      \
	X(INIT, 3, "INIT signal")                                               \
	X(SIPI, 4, "Start-up IPI (SIPI)")                                       \
	X(INTERRUPT_WINDOW, 7, "Interrupt window")                              \
	X(NMI_WINDOW, 8, "NMI window")                                          \
	X(TASK_SWITCH, 9, "Task switch")                                        \
	X(CPUID, 10, "CPUID")                                                   \
	X(GETSEC, 11, "GETSEC")                                                 \
	X(HLT, 12, "HLT")                                                       \
	X(INVD, 13, "INVD")                                                     \
	X(INVLPG, 14, "INVLPG")                                                 \
	X(RDPMC, 15, "RDPMC")                                                   \
	X(RDTSC, 16, "RDTSC")                                                   \
	X(RSM, 17, "RSM")                                                       \
	X(VMCALL, 18, "VMCALL")                                                 \
	X(VMCLEAR, 19, "VMCLEAR")                                               \
	X(VMLAUNCH, 20, "VMLAUNCH")                                             \
	X(VMPTRLD, 21, "VMPTRLD")                                               \
	X(VMPTRST, 22, "VMPTRST")                                               \
	X(VMREAD, 23, "VMREAD")                                                 \
	X(VMRESUME, 24, "VMRESUME")                                             \
	X(VMWRITE, 25, "VMWRITE")                                               \
	X(VMXOFF, 26, "VMXOFF")                                                 \
	X(VMXON, 27, "VMXON")                                                   \
	X(CR_ACCESS, 28, "Control-register accesses")                           \
	X(DR_ACCESS, 29, "MOV DR")                                              \
	X(IO, 30, "I/O instruction")                                            \
	X(RDMSR, 31, "RDMSR")                                                   \
	X(WRMSR, 32, "WRMSR")                                                   \
	X(ENTRY_GUEST_STATE, 33, "VM-entry failure due to invalid guest state") \
	X(ENTRY_MSR_LOAD, 34, "VM-entry failure due to MSR loading")            \
	X(MWAIT, 36, "MWAIT")                                                   \
	X(MONITOR_TRAP, 37, "Monitor trap flag")                                \
	X(MONITOR, 39, "MONITOR")                                               \
	X(PAUSE, 40, "PAUSE")                                                   \
	X(ENTRY_MACHINE_CHECK, 41, "VM-entry failure due to machine-check event") \
	X(TPR_BELOW_THRESHOLD, 43, "TPR below threshold")                       \
	X(APIC_ACCESS, 44, "APIC access")                                       \
	X(GDTR_IDTR, 46, "Access to GDTR or IDTR")                              \
	X(LDTR_TR, 47, "Access to LDTR or TR")                                  \
	X(EPT_VIOLATION, 48, "EPT violation")                                   \
	X(EPT_MISCONFIG, 49, "EPT misconfiguration")                            \
	X(INVEPT, 50, "INVEPT")                                                 \
	X(RDTSCP, 51, "RDTSCP")                                                 \
	X(PREEMPTION_TIMER, 52, "VMX-preemption timer expired")                 \
	X(INVVPID, 53, "INVVPID")                                               \
	X(WBINVD, 54, "WBINVD or WBNOINVD")                                     \
	X(XSETBV, 55, "XSETBV")                                                 \
	X(RDRAND, 57, "RDRAND")                                                 \
	X(INVPCID, 58, "INVPCID")                                               \
	X(VMFUNC, 59, "VMFUNC")                                                 \
	X(RDSEED, 61, "RDSEED")                                                 \
	X(PML_FULL, 62, "Page-modification log full")

enum vmx_exit_reason {
#define X(sym, number, name) EXIT_REASON_##sym = number,
	VMX_EXIT_REASONS(X)
#undef X
};
#define EXIT_REASON_ENTRY_FAILURE 0x80000000u

/* Exit qualification of an entry that failed on guest state */
enum {
	ENTRY_FAIL_DEFAULT = 0, ENTRY_FAIL_PDPTE = 2, ENTRY_FAIL_NMI_STI = 3, ENTRY_FAIL_LINK_POINTER = 4,
};

/* VMX-abort indicator (SDM "VMX Aborts") */
enum { VMX_ABORT_SAVE_MSR = 1, VMX_ABORT_HOST_PDPTE = 2, VMX_ABORT_VMCS = 3, VMX_ABORT_LOAD_MSR = 4 };

/* Pin-based controls */
#define PIN_EXTERNAL_INTERRUPT (1u << 0)
#define PIN_NMI                (1u << 3)
#define PIN_VIRTUAL_NMI        (1u << 5)
#define PIN_PREEMPTION_TIMER   (1u << 6)

/* Primary processor-based controls */
#define PROC_INTERRUPT_WINDOW (1u << 2)
#define PROC_TSC_OFFSETTING   (1u << 3)
#define PROC_HLT              (1u << 7)
#define PROC_INVLPG           (1u << 9)
#define PROC_MWAIT            (1u << 10)
#define PROC_RDPMC            (1u << 11)
#define PROC_RDTSC            (1u << 12)
#define PROC_CR3_LOAD         (1u << 15)
#define PROC_CR3_STORE        (1u << 16)
#define PROC_CR8_LOAD         (1u << 19)
#define PROC_CR8_STORE        (1u << 20)
#define PROC_TPR_SHADOW       (1u << 21)
#define PROC_NMI_WINDOW       (1u << 22)
#define PROC_MOV_DR           (1u << 23)
#define PROC_UNCOND_IO        (1u << 24)
#define PROC_IO_BITMAPS       (1u << 25)
#define PROC_MTF              (1u << 27)
#define PROC_MSR_BITMAPS      (1u << 28)
#define PROC_MONITOR          (1u << 29)
#define PROC_PAUSE            (1u << 30)
#define PROC_SECONDARY        (1u << 31)

/* Secondary processor-based controls */
#define PROC2_EPT              (1u << 1)
#define PROC2_DESCRIPTOR_TABLE (1u << 2)
#define PROC2_RDTSCP           (1u << 3)
#define PROC2_VPID             (1u << 5)
#define PROC2_WBINVD           (1u << 6)
#define PROC2_UNRESTRICTED     (1u << 7)
#define PROC2_RDRAND           (1u << 11)
#define PROC2_INVPCID          (1u << 12)
#define PROC2_VM_FUNCTIONS     (1u << 13)
#define PROC2_SHADOW_VMCS      (1u << 14)
#define PROC2_RDSEED           (1u << 16)
#define PROC2_PML              (1u << 17)

/* VM-exit controls */
#define EXIT_SAVE_DEBUG      (1u << 2)
#define EXIT_HOST_64         (1u << 9)
#define EXIT_ACK_INTERRUPT   (1u << 15)
#define EXIT_SAVE_PAT        (1u << 18)
#define EXIT_LOAD_PAT        (1u << 19)
#define EXIT_SAVE_EFER       (1u << 20)
#define EXIT_LOAD_EFER       (1u << 21)
#define EXIT_SAVE_PREEMPTION (1u << 22)

/* VM-entry controls */
#define ENTRY_LOAD_DEBUG (1u << 2)
#define ENTRY_IA32E      (1u << 9)
#define ENTRY_LOAD_PAT   (1u << 14)
#define ENTRY_LOAD_EFER  (1u << 15)

/* Interruption information */
#define INTR_INFO_VECTOR      0xffu
#define INTR_INFO_TYPE_SHIFT  8
#define INTR_INFO_TYPE        0x700u
#define INTR_INFO_ERROR       (1u << 11)
#define INTR_INFO_NMI_UNBLOCK (1u << 12)
#define INTR_INFO_VALID       (1u << 31)

/* Type 7 of the VM-entry interruption information: not an event but a pending MTF exit (vector 0). */
#define INTR_TYPE_OTHER 7u

/* Exit qualification of control-register accesses */
enum { CR_QUAL_MOV_TO = 0, CR_QUAL_MOV_FROM = 1, CR_QUAL_CLTS = 2, CR_QUAL_LMSW = 3 };
#define CR_QUAL_TYPE_SHIFT   4
#define CR_QUAL_LMSW_MEM     (1ull << 6)
#define CR_QUAL_GPR_SHIFT    8
#define CR_QUAL_SOURCE_SHIFT 16 /* LMSW source data */

/* Exit qualification of MOV DR */
#define DR_QUAL_FROM      (1ull << 4)
#define DR_QUAL_GPR_SHIFT 8

/* Exit qualification of I/O instructions */
#define IO_QUAL_SIZE       7ull /* bytes - 1 */
#define IO_QUAL_IN         (1ull << 3)
#define IO_QUAL_STRING     (1ull << 4)
#define IO_QUAL_REP        (1ull << 5)
#define IO_QUAL_IMM        (1ull << 6)
#define IO_QUAL_PORT_SHIFT 16

/* Exit qualification of task switches: bits 31:30 */
enum { TASK_QUAL_CALL = 0, TASK_QUAL_IRET = 1, TASK_QUAL_JMP = 2, TASK_QUAL_GATE = 3 };
#define TASK_QUAL_SOURCE_SHIFT 30

/* VM-exit instruction information (SDM "Information for VM Exits Due to Instruction Execution") */
#define INSN_INFO_SCALE_SHIFT   0
#define INSN_INFO_REG1_SHIFT    3
#define INSN_INFO_ADDR_SHIFT    7          /* 0: 16 bits, 1: 32, 2: 64 */
#define INSN_INFO_REG_FORM      (1u << 10) /* the operand is a register, REG1 */
#define INSN_INFO_OPSIZE32      (1u << 11) /* LGDT, LIDT, SGDT, SIDT */
#define INSN_INFO_OPSIZE_SHIFT  11         /* RDRAND, RDSEED: 0: 16 bits, 1: 32, 2: 64 */
#define INSN_INFO_SEG_SHIFT     15
#define INSN_INFO_INDEX_SHIFT   18
#define INSN_INFO_INDEX_INVALID (1u << 22)
#define INSN_INFO_BASE_SHIFT    23
#define INSN_INFO_BASE_INVALID  (1u << 27)
#define INSN_INFO_REG2_SHIFT    28         /* VMREAD, VMWRITE, INVEPT, INVVPID, INVPCID */
#define INSN_INFO_IDENTITY_SHIFT 28
enum { INSN_ID_SGDT = 0, INSN_ID_SIDT = 1, INSN_ID_LGDT = 2, INSN_ID_LIDT = 3 };
enum { INSN_ID_SLDT = 0, INSN_ID_STR = 1, INSN_ID_LLDT = 2, INSN_ID_LTR = 3 };

/* Guest pending debug exceptions */
#define PENDING_DEBUG_B       0xfull
#define PENDING_DEBUG_ENABLED (1ull << 12) /* a breakpoint that DR7 enables was met */
#define PENDING_DEBUG_BS      (1ull << 14)

/* Interruptibility and activity states */
#define INTERRUPTIBILITY_STI    1u
#define INTERRUPTIBILITY_MOVSS  2u
#define INTERRUPTIBILITY_SMI    4u
#define INTERRUPTIBILITY_NMI    8u
enum { ACTIVITY_ACTIVE, ACTIVITY_HLT, ACTIVITY_SHUTDOWN, ACTIVITY_WAIT_SIPI };

/* EPT */
#define EPT_R        (1ull << 0)
#define EPT_W        (1ull << 1)
#define EPT_X        (1ull << 2)
#define EPT_MT_SHIFT 3
#define EPT_MT_UC    0ull
#define EPT_MT_WB    6ull
#define EPT_PS       (1ull << 7)
#define EPT_A        (1ull << 8)
#define EPT_D        (1ull << 9)
#define EPTP_MT      7ull       /* memory type of the tables */
#define EPTP_WALK_SHIFT 3       /* bits 5:3: levels - 1 */
#define EPTP_WALK_4  (3ull << EPTP_WALK_SHIFT)
#define EPTP_WALK_5  (4ull << EPTP_WALK_SHIFT)
#define EPTP_AD      (1ull << 6)
#define EPT_ADDR_MASK 0x000ffffffffff000ull

/* EPT-violation qualification */
#define EPT_VIOL_READ     (1ull << 0)
#define EPT_VIOL_WRITE    (1ull << 1)
#define EPT_VIOL_FETCH    (1ull << 2)
#define EPT_VIOL_RIGHTS_SHIFT 3 /* R, W, X of the mapping, ANDed over all levels */
#define EPT_VIOL_LINEAR   (1ull << 7)
#define EPT_VIOL_FINAL    (1ull << 8) /* set: the translation of the linear address; clear: a paging-structure access */
#define EPT_VIOL_NMI_UNBLOCK (1ull << 12)

/* Page-modification logging */
#define PML_ENTRIES          512u /* of 8 bytes, in one page; filled from the last to the first */
#define PML_QUAL_NMI_UNBLOCK (1ull << 12)

/* VM-instruction errors (SDM "VM-Instruction Error Numbers") */
enum {
	VMXERR_VMCALL_ROOT = 1, VMXERR_VMCLEAR_ADDRESS = 2, VMXERR_VMCLEAR_VMXON = 3, VMXERR_VMLAUNCH_NOT_CLEAR = 4,
	VMXERR_VMRESUME_NOT_LAUNCHED = 5, VMXERR_VMRESUME_AFTER_VMXOFF = 6, VMXERR_ENTRY_CONTROLS = 7,
	VMXERR_ENTRY_HOST_STATE = 8, VMXERR_VMPTRLD_ADDRESS = 9, VMXERR_VMPTRLD_VMXON = 10,
	VMXERR_VMPTRLD_REVISION = 11, VMXERR_VMREADWRITE_FIELD = 12, VMXERR_VMWRITE_READONLY = 13,
	VMXERR_VMXON_IN_ROOT = 15, VMXERR_ENTRY_MOVSS = 26, VMXERR_INV_OPERAND = 28,
};

/* Operand of INVEPT and INVVPID */
enum { INVEPT_SINGLE = 1, INVEPT_ALL = 2 };
enum { INVVPID_ADDRESS = 0, INVVPID_SINGLE = 1, INVVPID_ALL = 2, INVVPID_SINGLE_KEEP_GLOBALS = 3 };

/* Capability MSRs; MSR_VMX_BASIC is the first */
#define MSR_VMX_PINBASED_CTLS       0x481u
#define MSR_VMX_PROCBASED_CTLS      0x482u
#define MSR_VMX_EXIT_CTLS           0x483u
#define MSR_VMX_ENTRY_CTLS          0x484u
#define MSR_VMX_MISC                0x485u
#define MSR_VMX_CR0_FIXED0          0x486u
#define MSR_VMX_CR0_FIXED1          0x487u
#define MSR_VMX_CR4_FIXED0          0x488u
#define MSR_VMX_CR4_FIXED1          0x489u
#define MSR_VMX_VMCS_ENUM           0x48au
#define MSR_VMX_PROCBASED_CTLS2     0x48bu
#define MSR_VMX_EPT_VPID_CAP        0x48cu
#define MSR_VMX_TRUE_PINBASED_CTLS  0x48du
#define MSR_VMX_TRUE_PROCBASED_CTLS 0x48eu
#define MSR_VMX_TRUE_EXIT_CTLS      0x48fu
#define MSR_VMX_TRUE_ENTRY_CTLS     0x490u
#define MSR_VMX_VMFUNC              0x491u

/*
 * Control bits that must be 1 (the "default1 class"), as the TRUE MSRs report
 * them, and those that only the older MSRs report so.
 */
#define PIN_DEFAULT1        0x00000016u
#define PROC_DEFAULT1       0x04006172u
#define PROC_DEFAULT1_OLD   0x0401e172u
#define EXIT_DEFAULT1       0x00036dfbu
#define EXIT_DEFAULT1_OLD   0x00036dffu
#define ENTRY_DEFAULT1      0x000011fbu
#define ENTRY_DEFAULT1_OLD  0x000011ffu

/* IA32_VMX_BASIC */
#define VMX_BASIC_SIZE_SHIFT   32
#define VMX_BASIC_MEMTYPE_WB   (6ull << 50)
#define VMX_BASIC_INOUT_INFO   (1ull << 54)
#define VMX_BASIC_TRUE_CTLS    (1ull << 55)

/* IA32_VMX_MISC */
#define VMX_MISC_STORE_LMA        (1ull << 5)
#define VMX_MISC_ACTIVITY_HLT     (1ull << 6)
#define VMX_MISC_CR3_TARGET_SHIFT 16
#define VMX_MISC_WRITE_ANY        (1ull << 29) /* VMWRITE writes read-only fields, too */
#define VMX_MISC_ZERO_LEN         (1ull << 30) /* software events may be injected with length 0 */

/* IA32_VMX_EPT_VPID_CAP */
#define EPT_CAP_EXEC_ONLY         (1ull << 0)
#define EPT_CAP_WALK_4            (1ull << 6)
#define EPT_CAP_WALK_5            (1ull << 7)
#define EPT_CAP_UC                (1ull << 8)
#define EPT_CAP_WB                (1ull << 14)
#define EPT_CAP_2M                (1ull << 16)
#define EPT_CAP_1G                (1ull << 17)
#define EPT_CAP_INVEPT            (1ull << 20)
#define EPT_CAP_AD                (1ull << 21)
#define EPT_CAP_INVEPT_SINGLE     (1ull << 25)
#define EPT_CAP_INVEPT_ALL        (1ull << 26)
#define VPID_CAP_INVVPID          (1ull << 32)
#define VPID_CAP_ADDRESS          (1ull << 40)
#define VPID_CAP_SINGLE           (1ull << 41)
#define VPID_CAP_ALL              (1ull << 42)
#define VPID_CAP_SINGLE_GLOBALS   (1ull << 43)

/* IA32_FEATURE_CONTROL and IA32_DEBUGCTL, as far as VMX operation looks at them */
#define FEATURE_CONTROL_LOCK  (1ull << 0)
#define FEATURE_CONTROL_VMXON (1ull << 2) /* outside SMX */
#define DEBUGCTL_BTF          (1ull << 1)
#define DEBUGCTL_VALID        0xdfc3ull

#define VMCS_REVISION 0x474e4d31u /* arbitrary, bit 31 clear */
#define VMCS_SHADOW   (1u << 31)  /* beside it: a shadow VMCS */

/* VM functions */
#define VM_FUNCTION_EPTP_SWITCHING 0u
#define VM_FUNCTION_MAX            63u
#define EPTP_LIST_ENTRIES          512u

/* The virtual-APIC page: the task-priority register is all that is used of it. */
#define VIRTUAL_APIC_TPR 0x80u

#endif
