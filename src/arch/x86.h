/*
 * x86-64 written down: control-register bits, flags, exceptions, page-table
 * entry bits, MSR numbers. Constants only. Source: Intel SDM volume 3
 * ("Control Registers", "Paging", "Exception and Interrupt Reference") and
 * volume 4 (MSRs).
 */
#ifndef GNOMON_ARCH_X86_H
#define GNOMON_ARCH_X86_H

#include <stdint.h>

#define BIT64(n) ((uint64_t)1 << (n))

/* General-purpose registers, in encoding order. */
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

/* Segment registers, in encoding order. */
enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

/* RFLAGS */
#define RF_CF   BIT64(0)
#define RF_ONE  BIT64(1)
#define RF_PF   BIT64(2)
#define RF_AF   BIT64(4)
#define RF_ZF   BIT64(6)
#define RF_SF   BIT64(7)
#define RF_TF   BIT64(8)
#define RF_IF   BIT64(9)
#define RF_DF   BIT64(10)
#define RF_OF   BIT64(11)
#define RF_IOPL (BIT64(12) | BIT64(13))
#define RF_NT   BIT64(14)
#define RF_RF   BIT64(16)
#define RF_VM   BIT64(17)
#define RF_AC   BIT64(18)
#define RF_VIF  BIT64(19)
#define RF_VIP  BIT64(20)
#define RF_ID   BIT64(21)
#define RF_ARITH (RF_CF | RF_PF | RF_AF | RF_ZF | RF_SF | RF_OF)

/* CR0 */
#define CR0_PE BIT64(0)
#define CR0_MP BIT64(1)
#define CR0_EM BIT64(2)
#define CR0_TS BIT64(3)
#define CR0_ET BIT64(4)
#define CR0_NE BIT64(5)
#define CR0_WP BIT64(16)
#define CR0_AM BIT64(18)
#define CR0_NW BIT64(29)
#define CR0_CD BIT64(30)
#define CR0_PG BIT64(31)

/* CR4 */
#define CR4_VME        BIT64(0)
#define CR4_PVI        BIT64(1)
#define CR4_TSD        BIT64(2)
#define CR4_DE         BIT64(3)
#define CR4_PSE        BIT64(4)
#define CR4_PAE        BIT64(5)
#define CR4_MCE        BIT64(6)
#define CR4_PGE        BIT64(7)
#define CR4_PCE        BIT64(8)
#define CR4_OSFXSR     BIT64(9)
#define CR4_OSXMMEXCPT BIT64(10)
#define CR4_UMIP       BIT64(11)
#define CR4_LA57       BIT64(12)
#define CR4_VMXE       BIT64(13)
#define CR4_SMXE       BIT64(14)
#define CR4_FSGSBASE   BIT64(16)
#define CR4_PCIDE      BIT64(17)
#define CR4_OSXSAVE    BIT64(18)
#define CR4_SMEP       BIT64(20)
#define CR4_SMAP       BIT64(21)
#define CR4_PKE        BIT64(22)

/* CR3 with CR4.PCIDE */
#define CR3_PCID_MASK  0xfffull
#define CR3_NOFLUSH    BIT64(63)

/* IA32_EFER */
#define EFER_SCE BIT64(0)
#define EFER_LME BIT64(8)
#define EFER_LMA BIT64(10)
#define EFER_NXE BIT64(11)

/* XCR0 */
#define XCR0_X87  BIT64(0)
#define XCR0_SSE  BIT64(1)
#define XCR0_AVX  BIT64(2)
#define XCR0_PKRU BIT64(9)

/* Exception vectors */
enum {
	EXC_DE = 0, EXC_DB = 1, EXC_NMI = 2, EXC_BP = 3, EXC_OF = 4, EXC_BR = 5, EXC_UD = 6, EXC_NM = 7,
	EXC_DF = 8, EXC_TS = 10, EXC_NP = 11, EXC_SS = 12, EXC_GP = 13, EXC_PF = 14, EXC_MF = 16,
	EXC_AC = 17, EXC_MC = 18, EXC_XM = 19,
};

/* Page-fault error code */
#define PF_P    1u    /* protection violation, not a missing page */
#define PF_W    2u
#define PF_U    4u
#define PF_RSVD 8u
#define PF_I    0x10u
#define PF_PK   0x20u

/* Page-table entries, every level */
#define PTE_P   BIT64(0)
#define PTE_W   BIT64(1)
#define PTE_U   BIT64(2)
#define PTE_PWT BIT64(3)
#define PTE_PCD BIT64(4)
#define PTE_A   BIT64(5)
#define PTE_D   BIT64(6)
#define PTE_PS  BIT64(7)
#define PTE_PAT BIT64(7)  /* in a 4 KiB leaf */
#define PTE_G   BIT64(8)
#define PTE_NX  BIT64(63)
#define PTE_PKEY_SHIFT 59
#define PTE_ADDR_MASK  0x000ffffffffff000ull

/* Debug registers */
#define DR6_B0    BIT64(0)
#define DR6_BD    BIT64(13)
#define DR6_BS    BIT64(14)
#define DR6_BT    BIT64(15)
#define DR6_FIXED 0xffff0ff0ull /* bits that read as one */
#define DR7_FIXED 0x400ull
#define DR7_GD    BIT64(13)

/* MSRs */
#define MSR_TSC                0x10u
#define MSR_PLATFORM_ID        0x17u
#define MSR_APIC_BASE          0x1bu
#define MSR_FEATURE_CONTROL    0x3au
#define MSR_TSC_ADJUST         0x3bu
#define MSR_SPEC_CTRL          0x48u
#define MSR_PRED_CMD           0x49u
#define MSR_BIOS_SIGN_ID       0x8bu
#define MSR_PLATFORM_INFO      0xceu
#define MSR_MPERF              0xe7u
#define MSR_APERF              0xe8u
#define MSR_MTRRCAP            0xfeu
#define MSR_ARCH_CAPABILITIES  0x10au
#define MSR_FLUSH_CMD          0x10bu
#define MSR_SYSENTER_CS        0x174u
#define MSR_SYSENTER_ESP       0x175u
#define MSR_SYSENTER_EIP       0x176u
#define MSR_MCG_CAP            0x179u
#define MSR_MCG_STATUS         0x17au
#define MSR_MISC_ENABLE        0x1a0u
#define MSR_DEBUGCTL           0x1d9u
#define MSR_MTRR_PHYSBASE0     0x200u
#define MSR_MTRR_FIX64K_00000  0x250u
#define MSR_MTRR_FIX16K_80000  0x258u
#define MSR_MTRR_FIX16K_A0000  0x259u
#define MSR_MTRR_FIX4K_C0000   0x268u
#define MSR_PAT                0x277u
#define MSR_MTRR_DEF_TYPE      0x2ffu
#define MSR_VMX_BASIC          0x480u
#define MSR_TSC_DEADLINE       0x6e0u
#define MSR_X2APIC_FIRST       0x800u
#define MSR_X2APIC_LAST        0x8ffu
#define MSR_XSS                0xda0u
#define MSR_EFER               0xc0000080u
#define MSR_STAR               0xc0000081u
#define MSR_LSTAR              0xc0000082u
#define MSR_CSTAR              0xc0000083u
#define MSR_FMASK              0xc0000084u
#define MSR_FS_BASE            0xc0000100u
#define MSR_GS_BASE            0xc0000101u
#define MSR_KERNEL_GS_BASE     0xc0000102u
#define MSR_TSC_AUX            0xc0000103u

/*
 * Segment attributes in the VMCS access-rights format (SDM "Guest Register
 * State"), used for every segment register of the processor.
 */
#define SEG_AR_TYPE     0xfu
#define SEG_AR_A        0x1u   /* accessed */
#define SEG_AR_RW       0x2u   /* data: writable; code: readable */
#define SEG_AR_CE       0x4u   /* data: expand-down; code: conforming */
#define SEG_AR_CODE     0x8u
#define SEG_AR_S        0x10u  /* code or data, not system */
#define SEG_AR_DPL_SHIFT 5
#define SEG_AR_DPL      0x60u
#define SEG_AR_P        0x80u
#define SEG_AR_AVL      0x1000u
#define SEG_AR_L        0x2000u
#define SEG_AR_DB       0x4000u
#define SEG_AR_G        0x8000u
#define SEG_AR_UNUSABLE 0x10000u

#endif
