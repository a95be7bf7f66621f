/*
 * The VMX test program: a small hypervisor that goes down the manual's headings. This file is what its parts share:
 * names of the manual's numbers, the VMX instructions, a good virtual machine to start every case from, and the
 * checks. The numbers are written down here once more on purpose, not taken from the processor under test.
 *
 * A case starts with vm_good(), changes what it is about with vm_put(), enters with vm_run() or vm_enter() and looks
 * at the exit. Guest code is a GUEST() that shares this program's address space: linear addresses are physical ones.
 */
#ifndef GUEST_VMX_VMX_H
#define GUEST_VMX_VMX_H

#include "../lib/guest.h"

/* ---- VMCS fields ---- */

enum {
	F_VPID = 0x0000, F_POSTED_VECTOR = 0x0002, F_EPTP_INDEX = 0x0004,
	F_GUEST_ES_SEL = 0x0800, F_GUEST_CS_SEL = 0x0802, F_GUEST_SS_SEL = 0x0804, F_GUEST_DS_SEL = 0x0806,
	F_GUEST_FS_SEL = 0x0808, F_GUEST_GS_SEL = 0x080a, F_GUEST_LDTR_SEL = 0x080c, F_GUEST_TR_SEL = 0x080e,
	F_GUEST_PML_INDEX = 0x0812,
	F_HOST_ES_SEL = 0x0c00, F_HOST_CS_SEL = 0x0c02, F_HOST_SS_SEL = 0x0c04, F_HOST_DS_SEL = 0x0c06,
	F_HOST_FS_SEL = 0x0c08, F_HOST_GS_SEL = 0x0c0a, F_HOST_TR_SEL = 0x0c0c,
	F_IO_BITMAP_A = 0x2000, F_IO_BITMAP_B = 0x2002, F_MSR_BITMAP = 0x2004, F_EXIT_MSR_STORE = 0x2006,
	F_EXIT_MSR_LOAD = 0x2008, F_ENTRY_MSR_LOAD = 0x200a, F_PML_ADDRESS = 0x200e, F_TSC_OFFSET = 0x2010,
	F_VIRTUAL_APIC = 0x2012, F_APIC_ACCESS = 0x2014, F_VMFUNC_CTL = 0x2018, F_EPTP = 0x201a,
	F_EPTP_LIST = 0x2024, F_VMREAD_BITMAP = 0x2026, F_VMWRITE_BITMAP = 0x2028,
	F_GUEST_PHYSICAL = 0x2400,
	F_GUEST_LINK = 0x2800, F_GUEST_DEBUGCTL = 0x2802, F_GUEST_PAT = 0x2804, F_GUEST_EFER = 0x2806,
	F_GUEST_PDPTE0 = 0x280a, F_GUEST_PDPTE1 = 0x280c, F_GUEST_PDPTE2 = 0x280e, F_GUEST_PDPTE3 = 0x2810,
	F_HOST_PAT = 0x2c00, F_HOST_EFER = 0x2c02,
	F_PIN = 0x4000, F_PROC = 0x4002, F_EXCEPTIONS = 0x4004, F_PF_MASK = 0x4006, F_PF_MATCH = 0x4008,
	F_CR3_TARGETS = 0x400a, F_EXIT = 0x400c, F_EXIT_STORES = 0x400e, F_EXIT_LOADS = 0x4010, F_ENTRY = 0x4012,
	F_ENTRY_LOADS = 0x4014, F_INJECT = 0x4016, F_INJECT_ERROR = 0x4018, F_INJECT_LEN = 0x401a,
	F_TPR_THRESHOLD = 0x401c, F_PROC2 = 0x401e, F_PLE_GAP = 0x4020, F_PLE_WINDOW = 0x4022,
	F_INSN_ERROR = 0x4400, F_REASON = 0x4402, F_EXIT_INFO = 0x4404, F_EXIT_ERROR = 0x4406,
	F_VECTORING = 0x4408, F_VECTORING_ERROR = 0x440a, F_EXIT_LEN = 0x440c, F_INSN_INFO = 0x440e,
	F_GUEST_ES_LIMIT = 0x4800, F_GUEST_CS_LIMIT = 0x4802, F_GUEST_SS_LIMIT = 0x4804, F_GUEST_DS_LIMIT = 0x4806,
	F_GUEST_FS_LIMIT = 0x4808, F_GUEST_GS_LIMIT = 0x480a, F_GUEST_LDTR_LIMIT = 0x480c,
	F_GUEST_TR_LIMIT = 0x480e, F_GUEST_GDTR_LIMIT = 0x4810, F_GUEST_IDTR_LIMIT = 0x4812,
	F_GUEST_ES_AR = 0x4814, F_GUEST_CS_AR = 0x4816, F_GUEST_SS_AR = 0x4818, F_GUEST_DS_AR = 0x481a,
	F_GUEST_FS_AR = 0x481c, F_GUEST_GS_AR = 0x481e, F_GUEST_LDTR_AR = 0x4820, F_GUEST_TR_AR = 0x4822,
	F_INTERRUPTIBILITY = 0x4824, F_ACTIVITY = 0x4826, F_GUEST_SMBASE = 0x4828, F_GUEST_SYSENTER_CS = 0x482a,
	F_GUEST_TIMER = 0x482e,
	F_HOST_SYSENTER_CS = 0x4c00,
	F_CR0_MASK = 0x6000, F_CR4_MASK = 0x6002, F_CR0_SHADOW = 0x6004, F_CR4_SHADOW = 0x6006,
	F_CR3_TARGET0 = 0x6008, F_CR3_TARGET1 = 0x600a, F_CR3_TARGET2 = 0x600c, F_CR3_TARGET3 = 0x600e,
	F_QUALIFICATION = 0x6400, F_IO_RCX = 0x6402, F_GUEST_LINEAR = 0x640a,
	F_GUEST_CR0 = 0x6800, F_GUEST_CR3 = 0x6802, F_GUEST_CR4 = 0x6804, F_GUEST_ES_BASE = 0x6806,
	F_GUEST_CS_BASE = 0x6808, F_GUEST_SS_BASE = 0x680a, F_GUEST_DS_BASE = 0x680c, F_GUEST_FS_BASE = 0x680e,
	F_GUEST_GS_BASE = 0x6810, F_GUEST_LDTR_BASE = 0x6812, F_GUEST_TR_BASE = 0x6814,
	F_GUEST_GDTR_BASE = 0x6816, F_GUEST_IDTR_BASE = 0x6818, F_GUEST_DR7 = 0x681a, F_GUEST_RSP = 0x681c,
	F_GUEST_RIP = 0x681e, F_GUEST_RFLAGS = 0x6820, F_PENDING_DEBUG = 0x6822, F_GUEST_SYSENTER_ESP = 0x6824,
	F_GUEST_SYSENTER_EIP = 0x6826,
	F_HOST_CR0 = 0x6c00, F_HOST_CR3 = 0x6c02, F_HOST_CR4 = 0x6c04, F_HOST_FS_BASE = 0x6c06,
	F_HOST_GS_BASE = 0x6c08, F_HOST_TR_BASE = 0x6c0a, F_HOST_GDTR_BASE = 0x6c0c, F_HOST_IDTR_BASE = 0x6c0e,
	F_HOST_SYSENTER_ESP = 0x6c10, F_HOST_SYSENTER_EIP = 0x6c12, F_HOST_RSP = 0x6c14, F_HOST_RIP = 0x6c16,
};

/* ---- controls ---- */

enum { PIN_EXTINT = 1 << 0, PIN_NMI = 1 << 3, PIN_VNMI = 1 << 5, PIN_TIMER = 1 << 6, PIN_POSTED = 1 << 7 };
#define PROC_INTWIN (1u << 2)
#define PROC_TSC_OFFSET (1u << 3)
#define PROC_HLT (1u << 7)
#define PROC_INVLPG (1u << 9)
#define PROC_MWAIT (1u << 10)
#define PROC_RDPMC (1u << 11)
#define PROC_RDTSC (1u << 12)
#define PROC_CR3_LOAD (1u << 15)
#define PROC_CR3_STORE (1u << 16)
#define PROC_CR8_LOAD (1u << 19)
#define PROC_CR8_STORE (1u << 20)
#define PROC_TPR (1u << 21)
#define PROC_NMIWIN (1u << 22)
#define PROC_DR (1u << 23)
#define PROC_IO (1u << 24)
#define PROC_IO_BITMAPS (1u << 25)
#define PROC_MTF (1u << 27)
#define PROC_MSR_BITMAPS (1u << 28)
#define PROC_MONITOR (1u << 29)
#define PROC_PAUSE (1u << 30)
#define PROC_2ND (1u << 31)
enum {
	P2_APIC_ACCESS = 1 << 0, P2_EPT = 1 << 1, P2_TABLES = 1 << 2, P2_RDTSCP = 1 << 3, P2_X2APIC = 1 << 4,
	P2_VPID = 1 << 5, P2_WBINVD = 1 << 6, P2_UNRESTRICTED = 1 << 7, P2_APIC_REGISTERS = 1 << 8,
	P2_VID = 1 << 9, P2_PLE = 1 << 10, P2_RDRAND = 1 << 11, P2_INVPCID = 1 << 12, P2_VMFUNC = 1 << 13,
	P2_SHADOWING = 1 << 14, P2_RDSEED = 1 << 16, P2_PML = 1 << 17, P2_VE = 1 << 18, P2_XSAVES = 1 << 20,
};
enum {
	X_SAVE_DEBUG = 1 << 2, X_HOST64 = 1 << 9, X_ACK = 1 << 15, X_SAVE_PAT = 1 << 18, X_LOAD_PAT = 1 << 19,
	X_SAVE_EFER = 1 << 20, X_LOAD_EFER = 1 << 21, X_SAVE_TIMER = 1 << 22,
};
enum {
	N_LOAD_DEBUG = 1 << 2, N_IA32E = 1 << 9, N_SMM = 1 << 10, N_DUAL = 1 << 11, N_LOAD_PAT = 1 << 14,
	N_LOAD_EFER = 1 << 15,
};

/* ---- exits ---- */

enum {
	R_EXCEPTION = 0, R_EXTINT = 1, R_TRIPLE = 2, R_INTWIN = 7, R_NMIWIN = 8, R_TASK = 9, R_CPUID = 10,
		R_GETSEC = 11,
	R_HLT = 12, R_INVD = 13, R_INVLPG = 14, R_RDPMC = 15, R_RDTSC = 16, R_RSM = 17, R_VMCALL = 18, R_VMCLEAR = 19,
	R_VMLAUNCH = 20, R_VMPTRLD = 21, R_VMPTRST = 22, R_VMREAD = 23, R_VMRESUME = 24, R_VMWRITE = 25, R_VMXOFF = 26,
	R_VMXON = 27, R_CR = 28, R_DR = 29, R_IO = 30, R_RDMSR = 31, R_WRMSR = 32, R_BAD_GUEST = 33, R_BAD_MSR = 34,
	R_MWAIT = 36, R_MTF = 37, R_MONITOR = 39, R_PAUSE = 40, R_TPR = 43, R_APIC_ACCESS = 44, R_EOI = 45,
	R_GDTR_IDTR = 46, R_LDTR_TR = 47, R_EPT_VIOLATION = 48, R_EPT_MISCONFIG = 49, R_INVEPT = 50, R_RDTSCP = 51,
	R_TIMER = 52, R_INVVPID = 53, R_WBINVD = 54, R_XSETBV = 55, R_APIC_WRITE = 56, R_RDRAND = 57, R_INVPCID = 58,
	R_VMFUNC = 59, R_RDSEED = 61, R_PML_FULL = 62,
};
#define ENTRY_FAILED 0x80000000u

enum { /* VM-instruction error numbers */
	E_VMCALL_ROOT = 1, E_VMCLEAR_ADDRESS = 2, E_VMCLEAR_VMXON = 3, E_LAUNCH_NOT_CLEAR = 4,
		E_RESUME_NOT_LAUNCHED = 5,
	E_CONTROLS = 7, E_HOST = 8, E_VMPTRLD_ADDRESS = 9, E_VMPTRLD_VMXON = 10, E_VMPTRLD_REVISION = 11, E_FIELD = 12,
	E_READONLY = 13, E_VMXON_ROOT = 15, E_MOVSS = 26, E_INVALIDATE = 28,
};

/* Interruption information. */
#define INFO_VALID 0x80000000u
#define INFO_ERROR 0x800u
#define INFO_NMI_UNBLOCKED 0x1000u
enum { T_EXTERNAL = 0, T_NMI = 2, T_HARD = 3, T_SOFT_INT = 4, T_PRIV = 5, T_SOFT = 6, T_OTHER = 7 };
#define INFO(type, vector) (INFO_VALID | (u32)(type) << 8 | (u32)(vector))

enum { BLOCK_STI = 1, BLOCK_MOVSS = 2, BLOCK_SMI = 4, BLOCK_NMI = 8 };
enum { ACTIVE = 0, HALTED = 1, SHUT_DOWN = 2, WAIT_SIPI = 3 };

/* Instruction information of a memory operand: numbers of registers, or NO_REG. */
#define NO_REG 16u
#define MEM_INFO(scale, index, base, segment)                                                              \
	((u32)(scale) | 2u << 7 | (u32)(segment) << 15 | ((index) == NO_REG ? 1u << 22 : (u32)(index) << 18) | \
	 ((base) == NO_REG ? 1u << 27 : (u32)(base) << 23))

/* ---- capabilities ---- */

#define MSR_FEATURE_CONTROL 0x3au
#define MSR_DEBUGCTL 0x1d9u
#define CR4_VMXE (1u << 13)
enum {
	VMX_BASIC = 0x480, VMX_PIN = 0x481, VMX_PROC = 0x482, VMX_EXIT = 0x483, VMX_ENTRY = 0x484, VMX_MISC = 0x485,
	VMX_CR0_FIXED0 = 0x486, VMX_CR0_FIXED1 = 0x487, VMX_CR4_FIXED0 = 0x488, VMX_CR4_FIXED1 = 0x489,
		VMX_ENUM = 0x48a,
	VMX_PROC2 = 0x48b, VMX_EPT_VPID = 0x48c, VMX_TRUE_PIN = 0x48d, VMX_TRUE_PROC = 0x48e, VMX_TRUE_EXIT = 0x48f,
	VMX_TRUE_ENTRY = 0x490, VMX_VMFUNC = 0x491,
};
/* Of VMX_EPT_VPID. */
#define CAP_EXEC_ONLY (1ull << 0)
#define CAP_WALK5 (1ull << 7)
#define CAP_UC (1ull << 8)
#define CAP_WB (1ull << 14)
#define CAP_2M (1ull << 16)
#define CAP_1G (1ull << 17)
#define CAP_INVEPT (1ull << 20)
#define CAP_AD (1ull << 21)
#define CAP_ADVANCED (1ull << 22)
#define CAP_INVEPT_ONE (1ull << 25)
#define CAP_INVEPT_ALL (1ull << 26)
#define CAP_INVVPID (1ull << 32)
#define CAP_INVVPID_ADDRESS (1ull << 40)
#define CAP_INVVPID_ONE (1ull << 41)
#define CAP_INVVPID_ALL (1ull << 42)
#define CAP_INVVPID_KEEP (1ull << 43)
/* Of VMX_MISC. */
#define MISC_STORE_LMA (1ull << 5)
#define MISC_HLT (1ull << 6)
#define MISC_SHUTDOWN (1ull << 7)
#define MISC_SIPI (1ull << 8)
#define MISC_WRITE_ANY (1ull << 29)
#define MISC_ZERO_LEN (1ull << 30)

struct allowed { u32 must, may; };
struct capabilities {
	u64 basic, misc, ept_vpid, vmfunc;
	struct allowed pin, proc, proc2, exit, entry;
	u32 revision;
	unsigned physical; /* MAXPHYADDR */
	bool la57;
};
extern struct capabilities cap;

static inline bool can_pin(u32 b) { return (cap.pin.may & b) == b; }
static inline bool can_proc(u32 b) { return (cap.proc.may & b) == b; }
static inline bool can_proc2(u32 b) { return (cap.proc2.may & b) == b; }
static inline bool can_exit(u32 b) { return (cap.exit.may & b) == b; }
static inline bool can_entry(u32 b) { return (cap.entry.may & b) == b; }
static inline bool can_ept(u64 b) { return can_proc2(P2_EPT) && (cap.ept_vpid & b) == b; }
/* A line that says what is left out; false, for use in conditions. */
bool skip(const char *what);

/* ---- VMX instructions: 0, or how they failed ---- */

enum how { OK, FAIL_INVALID, FAIL_VALID };
#define VMX_MEMORY_OPERAND(name)                                                                                  \
	static inline enum how name(u64 address)                                                                  \
	{                                                                                                         \
		u8 c, z;                                                                                          \
		__asm__ volatile(#name " %2; setc %0; setz %1" : "=qm"(c), "=qm"(z) : "m"(address) : "cc", "memory"); \
		return c ? FAIL_INVALID : z ? FAIL_VALID : OK;                                                    \
	}
VMX_MEMORY_OPERAND(vmxon)
VMX_MEMORY_OPERAND(vmclear)
VMX_MEMORY_OPERAND(vmptrld)
static inline u64 vmptrst(void)
{
	u64 v;
	__asm__ volatile("vmptrst %0" : "=m"(v) : : "cc");
	return v;
}
#define VMX_NO_OPERAND(name)                                                                             \
	static inline enum how name(void)                                                                \
	{                                                                                                \
		u8 c, z;                                                                                 \
		__asm__ volatile(#name "; setc %0; setz %1" : "=qm"(c), "=qm"(z) : : "cc", "memory");     \
		return c ? FAIL_INVALID : z ? FAIL_VALID : OK;                                           \
	}
VMX_NO_OPERAND(vmxoff)
VMX_NO_OPERAND(vmcall)
VMX_NO_OPERAND(vmlaunch)
VMX_NO_OPERAND(vmresume)
static inline enum how vmread(u64 field, u64 *v)
{
	u8 c, z;
	__asm__ volatile("vmread %3, %2; setc %0; setz %1" : "=qm"(c), "=qm"(z), "+r"(*v) : "r"(field) : "cc");
	return c ? FAIL_INVALID : z ? FAIL_VALID : OK;
}
static inline enum how vmwrite(u64 field, u64 v)
{
	u8 c, z;
	__asm__ volatile("vmwrite %3, %2; setc %0; setz %1" : "=qm"(c), "=qm"(z) : "r"(field), "rm"(v) : "cc",
			 "memory");
	return c ? FAIL_INVALID : z ? FAIL_VALID : OK;
}
struct descriptor128 { u64 first, second; };
static inline enum how invept(u64 type, u64 eptp)
{
	struct descriptor128 d = { eptp, 0 };
	u8 c, z;
	__asm__ volatile("invept %2, %3; setc %0; setz %1" : "=qm"(c), "=qm"(z) : "m"(d), "r"(type) : "cc", "memory");
	return c ? FAIL_INVALID : z ? FAIL_VALID : OK;
}
static inline enum how invvpid(u64 type, u64 vpid, u64 linear)
{
	struct descriptor128 d = { vpid, linear };
	u8 c, z;
	__asm__ volatile("invvpid %2, %3; setc %0; setz %1" : "=qm"(c), "=qm"(z) : "m"(d), "r"(type) : "cc", "memory");
	return c ? FAIL_INVALID : z ? FAIL_VALID : OK;
}
enum { INVEPT_ONE = 1, INVEPT_ALL = 2, INVVPID_ADDRESS = 0, INVVPID_ONE = 1, INVVPID_ALL = 2, INVVPID_KEEP = 3 };

/* ---- the virtual machine ---- */

enum { G_RAX, G_RCX, G_RDX, G_RBX, G_RSP, G_RBP, G_RSI, G_RDI, G_R8, G_R9, G_R10, G_R11, G_R12, G_R13, G_R14, G_R15 };
extern u64 reg[16];    /* the guest's general registers but RSP, loaded and saved around each entry */
extern u64 host_rflags; /* as the last exit left them */

/* How the good guest runs. */
enum mode {
	LONG,  /* 64-bit, the address space of this program */
	COMPAT, /* 32-bit code segment in IA-32e mode */
	PAE,   /* 32-bit, PAE paging, one to one */
	FLAT,  /* 32-bit, 32-bit paging, one to one */
	V86,   /* virtual-8086, 32-bit paging */
	BARE,  /* 32-bit protected mode without paging (unrestricted guest) */
	REAL,  /* 16-bit real mode (unrestricted guest) */
};
bool vm_can(enum mode m);
/* Old code: 64 KiB of low memory, beginning with VMCALL; the handler of vector V at LOW_HANDLERS + 16 * V. */
#define LOW_BASE 0x60000ull
#define LOW_SELECTOR 0x6000
enum { LOW_CODE = 0x300, LOW_STACK = 0xf000, LOW_HANDLERS = 0x2000, LOW_IVT = 0x8000 };
/* Writes every field of the current VMCS: a guest that can be entered, under the fewest controls. */
void vm_good(enum mode m);
void vm_put(u32 field, u64 v);
u64 vm_get(u32 field);
static inline void vm_or(u32 field, u64 bits) { vm_put(field, vm_get(field) | bits); }
static inline void vm_clear(u32 field, u64 bits) { vm_put(field, vm_get(field) & ~bits); }
/* VMLAUNCH or VMRESUME as the VMCS needs; OK: there was an exit, which may tell of a failed entry. */
enum how vm_enter(void);
/* Enters at @code. Checks that the entry succeeded. */
bool vm_run(const char *what, const void *code);
/* Enters where the guest is. */
bool vm_go(const char *what);
/* Past the instruction that exited. */
void vm_skip(void);
/* The last exit's reason and qualification are these. */
bool expect_exit(const char *what, u32 reason, u64 qualification);
bool expect_reason(const char *what, u32 reason);
/* A field is this. */
bool expect_field(const char *what, const char *name, u32 field, u64 v);
/* The good 64-bit guest, but in user mode: code and data are at USER_BASE. */
void vm_user(void);
/* The guest did VMCALL at @at. */
bool expect_call(const char *what, const void *at);
/* The guest is in its handler of @vector, which did VMCALL. */
bool expect_event(const char *what, unsigned vector, u64 error);
/* What the processor pushed for the handler, and below it what the handler pushed. */
struct frame { u64 vector, error, rip, cs, rflags, rsp, ss; };
const struct frame *vm_frame(void);
/* The value of the guest's @field after the good state enters and exits by VMCALL. */
void expect_good(const char *after);

static inline u64 at(const volatile void *p) { return (u64)(uintptr_t)p; }

/* Guest code: NAME to NAME_next is what is tried; then it does VMCALL. */
#define GUEST(name, text)                                                                        \
	__asm__(".pushsection .text\n" #name ":\n" text "\n" #name "_next: vmcall\n\tjmp .\n.popsection"); \
	extern const char name[], name##_next[]
/* With instructions before: NAME_at is what is tried. */
#define GUEST_AT(name, before, text)                                                                  \
	__asm__(".pushsection .text\n" #name ":\n" before "\n" #name "_at:\n" text "\n" #name            \
		"_next: vmcall\n\tjmp .\n.popsection");                                                  \
	extern const char name[], name##_at[], name##_next[]
extern const char g_call[];   /* VMCALL, again and again */
extern const char g_return[]; /* the end of an event handler: IRETQ */
extern const char vm_exit_entry[], guest_vectors[], guest_vectors32[], guest_event[];
extern u8 guest_stack_top[];
struct guest_gate { u64 low, high; };
extern struct guest_gate guest_idt[256];
void guest_gate_set(unsigned vector, const void *handler);

#define PAGE_ALIGNED __attribute__((aligned(4096)))
extern u8 vmxon_region[], vmcs_region[], vmcs_other[], io_bitmaps[], msr_bitmap[];
extern u64 guest_pml4[512];
extern u32 guest_pd32[1024];
extern u64 guest_pdpt_pae[4];
void vmcs_current(u8 *region); /* clears the region and makes it the current VMCS */

/* ---- the guest's own pages for paging tests ---- */

#define TEST_LINEAR (0x50ull << 39)       /* guest-linear, mapped by test_pt[] of the guest */
extern u64 test_pdpt[512], test_pd[512], test_pt[512];
extern u8 test_pages[8 * 4096];           /* host-physical: what is behind */
#define TEST_PAGE(n) ((volatile u64 *)(test_pages + 4096 * (n)))

/* EPT. */
#define TEST_GPA (1ull << 39)             /* guest-physical: a path of EPT entries of its own */
extern u64 ept_pml4[512], ept_pdpt[512], ept_pd[4 * 512], ept_test_pdpt[512], ept_test_pd[512], ept_test_pt[512];
bool ept_testable(void);                  /* EPT, and guest-physical addresses wide enough; or a line that says no */
#define EPT_R 1ull
#define EPT_W 2ull
#define EPT_X 4ull
#define EPT_RWX 7ull
#define EPT_WB (6ull << 3)
#define EPT_LARGE (1ull << 7)
#define EPT_A (1ull << 8)
#define EPT_D (1ull << 9)
#define EPTP_AD (1ull << 6)
u64 eptp_of(const u64 *pml4, bool ad);
/* Identity for the low 4 GiB, test_pages at TEST_GPA; all flags clear. */
void ept_good(void);
/* A good guest of @m under EPT. */
void vm_good_ept(enum mode m, bool ad);

/* ---- groups ---- */

void group_capabilities(void);
void group_instructions(void);
void group_fields(void);
void group_entry_controls(void);
void group_entry_host(void);
void group_entry_guest(void);
void group_entry_msrs(void);
void group_host_state(void);
void group_guest_state(void);
void group_exits(void);
void group_registers(void);
void group_bitmaps(void);
void group_exceptions(void);
void group_events(void);
void group_injection(void);
void group_delivery(void);
void group_debug(void);
void group_interrupts(void);
void group_timers(void);
void group_modes(void);
void group_ept(void);
void group_ept_misconfig(void);
void group_ept_flags(void);
void group_pml(void);
void group_tags(void);
void group_tpr(void);
void group_shadowing(void);
void group_vmfunc(void);

#endif
