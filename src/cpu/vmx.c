/*
 * VMX instructions other than VM entry: VMXON, VMXOFF, VMCLEAR, VMPTRLD, VMREAD,
 * VMWRITE, INVEPT, INVVPID; the capability MSRs, from which software learns what this
 * processor implements and from which VM entry takes the allowed settings of
 * controls. Left out: SMM and the dual-monitor treatment.
 *
 * Source: SDM volume 3, "VMX Instruction Reference", "VMX Capability Reporting
 * Facility"; what each instruction checks before it gets here (CPL, mode, #UD) is the
 * execute function's business.
 */
#include "cpu/vmx_vmcs.h"

#include "cpu/dmt.h"

/* What is allowed of @group beside what the processor itself allows. */
#define LIMIT(cpu, group) ((cpu)->vmx_limits ? (cpu)->vmx_limits->group : ~(__typeof__((cpu)->vmx_limits->group))0)

/* ---- field encodings ---- */

#define FIELD_EXISTS   1u
#define FIELD_WRITABLE 2u

#define X(sym, encoding, writable)                                                                  \
	static_assert(((encoding) >> 1 & 0x1ff) < VMCS_GROUP_SLOTS, "VMCS_" #sym " has a slot");
VMCS_FIELDS(X)
#undef X

#define VMCS_INDEX_MAX 23u /* GUEST_PREEMPTION_TIMER: reported in IA32_VMX_VMCS_ENUM */
static_assert((VMCS_GUEST_PREEMPTION_TIMER >> 1 & 0x1ff) == VMCS_INDEX_MAX, "highest index");

static const uint8_t field_flags[VMCS_GROUPS][VMCS_GROUP_SLOTS] = {
#define X(sym, encoding, writable)                                       \
	[((encoding) >> 13 & 3) << 2 | ((encoding) >> 10 & 3)]           \
	[(encoding) >> 1 & 0x1ff] = FIELD_EXISTS | ((writable) ? FIELD_WRITABLE : 0),
	VMCS_FIELDS(X)
#undef X
};

/* Fields that there are only where a control may be set, by the appendix's notes. */
static bool field_offered(const struct cpu *cpu, uint32_t f)
{
	switch (f & ~1u) {
	case VMCS_VPID: return vmx_allowed_proc2(cpu).may & PROC2_VPID;
	case VMCS_EPTP: case VMCS_GUEST_PHYSICAL:
	case VMCS_GUEST_PDPTE0: case VMCS_GUEST_PDPTE1: case VMCS_GUEST_PDPTE2: case VMCS_GUEST_PDPTE3:
		return vmx_allowed_proc2(cpu).may & PROC2_EPT;
	case VMCS_VIRTUAL_APIC_ADDR: case VMCS_TPR_THRESHOLD: return vmx_allowed_proc(cpu).may & PROC_TPR_SHADOW;
	case VMCS_VM_FUNCTION_CTL: case VMCS_EPTP_LIST: return vmx_allowed_proc2(cpu).may & PROC2_VM_FUNCTIONS;
	case VMCS_VMREAD_BITMAP: case VMCS_VMWRITE_BITMAP: return vmx_allowed_proc2(cpu).may & PROC2_SHADOW_VMCS;
	case VMCS_PML_ADDRESS: case VMCS_GUEST_PML_INDEX: return vmx_allowed_proc2(cpu).may & PROC2_PML;
	case VMCS_PROC_CTL2: return vmx_allowed_proc(cpu).may & PROC_SECONDARY;
	case VMCS_MSR_BITMAP: return vmx_allowed_proc(cpu).may & PROC_MSR_BITMAPS;
	case VMCS_TSC_OFFSET: return vmx_allowed_proc(cpu).may & PROC_TSC_OFFSETTING;
	case VMCS_GUEST_PREEMPTION_TIMER: return vmx_allowed_pin(cpu).may & PIN_PREEMPTION_TIMER;
	case VMCS_GUEST_PAT: return vmx_allowed_entry(cpu).may & ENTRY_LOAD_PAT;
	case VMCS_GUEST_EFER: return vmx_allowed_entry(cpu).may & ENTRY_LOAD_EFER;
	case VMCS_HOST_PAT: return vmx_allowed_exit(cpu).may & EXIT_LOAD_PAT;
	case VMCS_HOST_EFER: return vmx_allowed_exit(cpu).may & EXIT_LOAD_EFER;
	default: return true;
	}
}

static uint64_t misc_cap(const struct cpu *cpu)
{
	return (VMX_MISC_STORE_LMA | VMX_MISC_ACTIVITY_HLT | 4ull << VMX_MISC_CR3_TARGET_SHIFT | VMX_MISC_WRITE_ANY |
		VMX_MISC_ZERO_LEN) & LIMIT(cpu, misc);
}

/* FIELD_* of an encoding as software gave it, 0 if there is no such field. */
static unsigned field_lookup(const struct cpu *cpu, uint32_t f)
{
	bool high = f & 1, wide = (f >> 13 & 3) == 1;

	if (f & 0xffff9000u || vmcs_field_index(f) >= VMCS_GROUP_SLOTS || (high && !wide) || !field_offered(cpu, f))
		return 0;
	return field_flags[vmcs_field_group(f)][vmcs_field_index(f)];
}

/* ---- results ---- */

enum vmx_result vmx_fail(struct cpu *cpu, uint32_t error)
{
	if (cpu->vmx.current.v == VMCS_NONE)
		return VMX_FAIL_INVALID;
	vmcs_put(vmcs_region(cpu), VMCS_VM_INSTRUCTION_ERROR, error);
	vmcs_wrote(cpu);
	return VMX_FAIL_VALID;
}

/* ---- what the processor has ---- */

uint64_t vmx_cr4_bits(const struct cpu *cpu)
{
	static const struct { uint8_t feature; uint64_t bit; } by_feature[] = {
		{CPUF_TSC, CR4_TSD}, {CPUF_DE, CR4_DE}, {CPUF_PSE, CR4_PSE}, {CPUF_PAE, CR4_PAE},
		{CPUF_MCE, CR4_MCE}, {CPUF_PGE, CR4_PGE}, {CPUF_FXSR, CR4_OSFXSR}, {CPUF_SSE, CR4_OSXMMEXCPT},
		{CPUF_UMIP, CR4_UMIP}, {CPUF_LA57, CR4_LA57}, {CPUF_FSGSBASE, CR4_FSGSBASE},
		{CPUF_PCID, CR4_PCIDE}, {CPUF_XSAVE, CR4_OSXSAVE}, {CPUF_SMEP, CR4_SMEP},
		{CPUF_SMAP, CR4_SMAP}, {CPUF_PKU, CR4_PKE}, {CPUF_VME, CR4_VME | CR4_PVI},
	};
	uint64_t v = CR4_PCE | CR4_VMXE;

	for (size_t i = 0; i < ARRAY_SIZE(by_feature); i++)
		if (cpu->cfg.feature[by_feature[i].feature])
			v |= by_feature[i].bit;
	return v;
}

uint64_t vmx_efer_bits(const struct cpu *cpu)
{
	return (cpu_has(cpu, CPUF_SYSCALL) ? EFER_SCE : 0) |
	       (cpu_has(cpu, CPUF_LM) ? EFER_LME | EFER_LMA : 0) | (cpu_has(cpu, CPUF_NX) ? EFER_NXE : 0);
}

bool vmx_canonical(const struct cpu *cpu, uint64_t a)
{
	unsigned unused = cpu_has(cpu, CPUF_LA57) ? 7 : 16;

	return (uint64_t)((int64_t)(a << unused) >> unused) == a;
}

/* Each byte is one of the memory types 0, 1, 4, 5, 6, 7. */
bool vmx_pat_ok(uint64_t pat)
{
	const uint64_t ones = 0x0101010101010101ull;

	return !(pat & 0xf8 * ones) && !((pat & 2 * ones) << 1 & ~pat);
}

#define CR0_FIXED0 (CR0_PE | CR0_NE | CR0_PG)
#define CR0_FIXED1 0xffffffffull

bool vmx_cr_fixed_ok(const struct cpu *cpu, unsigned cr, uint64_t value)
{
	uint64_t must = cr == 0 ? CR0_FIXED0 : CR4_VMXE;
	uint64_t may = cr == 0 ? CR0_FIXED1 : vmx_cr4_bits(cpu);

	if (!cpu->vmx.on)
		return true;
	if (cr == 0 && vmx_proc2(cpu, PROC2_UNRESTRICTED))
		must &= ~(CR0_PE | CR0_PG);
	return (value & must) == must && !(value & ~may);
}

static struct vmx_allowed allowed(uint32_t must, uint32_t may, uint32_t limit)
{
	return (struct vmx_allowed){must, must | (may & limit)};
}

struct vmx_allowed vmx_allowed_pin(const struct cpu *cpu)
{
	return allowed(PIN_DEFAULT1, PIN_EXTERNAL_INTERRUPT | PIN_NMI | PIN_VIRTUAL_NMI | PIN_PREEMPTION_TIMER,
		       LIMIT(cpu, pin));
}

struct vmx_allowed vmx_allowed_proc(const struct cpu *cpu)
{
	const uint32_t may = PROC_INTERRUPT_WINDOW | PROC_TSC_OFFSETTING | PROC_HLT | PROC_INVLPG | PROC_MWAIT | PROC_RDPMC |
			     PROC_RDTSC | PROC_CR3_LOAD | PROC_CR3_STORE | PROC_CR8_LOAD | PROC_CR8_STORE |
			     PROC_NMI_WINDOW | PROC_MOV_DR | PROC_UNCOND_IO | PROC_IO_BITMAPS | PROC_MTF |
			     PROC_MSR_BITMAPS | PROC_MONITOR | PROC_PAUSE | PROC_SECONDARY | PROC_TPR_SHADOW;
	struct vmx_allowed a = allowed(PROC_DEFAULT1, may, LIMIT(cpu, proc));

	a.may |= PROC_DEFAULT1_OLD;
	return a;
}

struct vmx_allowed vmx_allowed_proc2(const struct cpu *cpu)
{
	uint32_t may = PROC2_EPT | PROC2_DESCRIPTOR_TABLE | PROC2_VPID | PROC2_WBINVD | PROC2_UNRESTRICTED |
		       PROC2_PML | PROC2_VM_FUNCTIONS | PROC2_SHADOW_VMCS;

	may |= cpu_has(cpu, CPUF_RDTSCP) || cpu_has(cpu, CPUF_RDPID) ? PROC2_RDTSCP : 0;
	may |= cpu_has(cpu, CPUF_RDRAND) ? PROC2_RDRAND : 0;
	may |= cpu_has(cpu, CPUF_INVPCID) ? PROC2_INVPCID : 0;
	may |= cpu_has(cpu, CPUF_RDSEED) ? PROC2_RDSEED : 0;
	return allowed(0, may, LIMIT(cpu, proc2));
}

struct vmx_allowed vmx_allowed_exit(const struct cpu *cpu)
{
	const uint32_t may = EXIT_HOST_64 | EXIT_ACK_INTERRUPT | EXIT_SAVE_PAT | EXIT_LOAD_PAT | EXIT_SAVE_EFER |
			     EXIT_LOAD_EFER | EXIT_SAVE_PREEMPTION;
	struct vmx_allowed a = allowed(EXIT_DEFAULT1, may, LIMIT(cpu, exit));

	a.may |= EXIT_DEFAULT1_OLD | EXIT_SAVE_DEBUG;
	return a;
}

struct vmx_allowed vmx_allowed_entry(const struct cpu *cpu)
{
	struct vmx_allowed a = allowed(ENTRY_DEFAULT1, ENTRY_IA32E | ENTRY_LOAD_PAT | ENTRY_LOAD_EFER,
				       LIMIT(cpu, entry));

	a.may |= ENTRY_DEFAULT1_OLD | ENTRY_LOAD_DEBUG;
	return a;
}

/* As a capability MSR has it: bits that must be 1 below, bits that may be 1 above. */
static uint64_t allowed_msr(struct vmx_allowed a, uint32_t also_must)
{
	return (uint64_t)a.may << 32 | a.must | also_must;
}

static uint64_t ept_vpid_cap(const struct cpu *cpu)
{
	uint64_t cap = EPT_CAP_EXEC_ONLY | EPT_CAP_WALK_4 | EPT_CAP_UC | EPT_CAP_WB | EPT_CAP_2M |
		       (cpu_has(cpu, CPUF_LA57) ? EPT_CAP_WALK_5 : 0) | (cpu_has(cpu, CPUF_PDPE1GB) ? EPT_CAP_1G : 0) |
		       EPT_CAP_INVEPT | EPT_CAP_AD | EPT_CAP_INVEPT_SINGLE | EPT_CAP_INVEPT_ALL | VPID_CAP_INVVPID |
		       VPID_CAP_ADDRESS | VPID_CAP_SINGLE | VPID_CAP_ALL | VPID_CAP_SINGLE_GLOBALS;

	return cap & LIMIT(cpu, ept_vpid);
}

uint64_t vmx_function_bits(const struct cpu *cpu)
{
	return BIT64(VM_FUNCTION_EPTP_SWITCHING) & LIMIT(cpu, vmfunc);
}

int vmx_read_capability(const struct cpu *cpu, uint32_t msr, uint64_t *v)
{
	switch (msr) {
	case MSR_VMX_BASIC:
		*v = VMCS_REVISION | PAGE_SIZE << VMX_BASIC_SIZE_SHIFT | VMX_BASIC_MEMTYPE_WB |
		     VMX_BASIC_INOUT_INFO | VMX_BASIC_TRUE_CTLS;
		return 0;
	case MSR_VMX_PINBASED_CTLS:
	case MSR_VMX_TRUE_PINBASED_CTLS: *v = allowed_msr(vmx_allowed_pin(cpu), 0); return 0;
	case MSR_VMX_PROCBASED_CTLS: *v = allowed_msr(vmx_allowed_proc(cpu), PROC_DEFAULT1_OLD); return 0;
	case MSR_VMX_TRUE_PROCBASED_CTLS: *v = allowed_msr(vmx_allowed_proc(cpu), 0); return 0;
	case MSR_VMX_EXIT_CTLS: *v = allowed_msr(vmx_allowed_exit(cpu), EXIT_DEFAULT1_OLD); return 0;
	case MSR_VMX_TRUE_EXIT_CTLS: *v = allowed_msr(vmx_allowed_exit(cpu), 0); return 0;
	case MSR_VMX_ENTRY_CTLS: *v = allowed_msr(vmx_allowed_entry(cpu), ENTRY_DEFAULT1_OLD); return 0;
	case MSR_VMX_TRUE_ENTRY_CTLS: *v = allowed_msr(vmx_allowed_entry(cpu), 0); return 0;
	case MSR_VMX_MISC:
		*v = misc_cap(cpu);
		return 0;
	case MSR_VMX_CR0_FIXED0: *v = CR0_FIXED0; return 0;
	case MSR_VMX_CR0_FIXED1: *v = CR0_FIXED1; return 0;
	case MSR_VMX_CR4_FIXED0: *v = CR4_VMXE; return 0;
	case MSR_VMX_CR4_FIXED1: *v = vmx_cr4_bits(cpu); return 0;
	case MSR_VMX_VMCS_ENUM: *v = VMCS_INDEX_MAX << 1; return 0;
	case MSR_VMX_PROCBASED_CTLS2: *v = allowed_msr(vmx_allowed_proc2(cpu), 0); return 0;
	case MSR_VMX_EPT_VPID_CAP: *v = ept_vpid_cap(cpu); return 0;
	case MSR_VMX_VMFUNC:
		*v = vmx_function_bits(cpu);
		return vmx_allowed_proc2(cpu).may & PROC2_VM_FUNCTIONS ? 0 : -1;
	default: return -1;
	}
}

/* ---- entering and leaving VMX operation ---- */

static void load_flat(struct seg *s, uint16_t sel, uint32_t attr)
{
	*s = (struct seg){.sel = sel, .attr = attr, .limit = 0xffffffff, .base = 0};
}

void vmx_setup_root(struct cpu *cpu, hpa_t cr3)
{
	const uint32_t data = SEG_AR_P | SEG_AR_S | SEG_AR_RW | SEG_AR_A | SEG_AR_DB | SEG_AR_G;
	const uint32_t code = SEG_AR_P | SEG_AR_S | SEG_AR_CODE | SEG_AR_RW | SEG_AR_A | SEG_AR_L | SEG_AR_G;

	cpu->cr0 = CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_MP | CR0_PE;
	cpu->cr4 = CR4_PAE | CR4_VMXE;
	cpu->cr3 = cr3.v;
	cpu->efer = (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE) & vmx_efer_bits(cpu);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		load_flat(&cpu->seg[i], i == SEG_CS ? VMX_ROOT_CS : VMX_ROOT_DS, i == SEG_CS ? code : data);
	cpu->ldtr = (struct seg){.attr = SEG_AR_UNUSABLE};
	cpu->tr = (struct seg){.sel = VMX_ROOT_TR, .attr = SEG_AR_P | 11, .limit = 0x67};
	cpu->gdtr = cpu->idtr = (struct dtable){.base = 0, .limit = 0xffff};
	cpu->cpl = 0;
	cpu->dr7 = DR7_FIXED;
	cpu->msr.feature_control = FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMXON;
	cpu->halted = false;
	cpu->vmx.outside = true;
	cpu_set_rflags(cpu, RF_ONE);
	cpu_update_mode(cpu);
}

int vmx_vmxon_fault(const struct cpu *cpu)
{
	const uint64_t need = FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMXON;
	bool long_active = cpu->efer & EFER_LMA;

	if (!(cpu->cr4 & CR4_VMXE) || !(cpu->cr0 & CR0_PE) || cpu->rflags & RF_VM ||
	    (long_active && !cpu->long_mode))
		return EXC_UD;
	if (cpu->cpl)
		return EXC_GP;
	if (cpu->vmx.on)
		return -1;
	if ((cpu->cr0 & CR0_FIXED0) != CR0_FIXED0 || cpu->cr4 & ~vmx_cr4_bits(cpu))
		return EXC_GP;
	return (cpu->msr.feature_control & need) == need ? -1 : EXC_GP;
}

/* Alignment and width that every pointer to a VMX region must have. */
static bool region_pointer_ok(const struct cpu *cpu, hpa_t region)
{
	return !(region.v & ~PAGE_MASK) && vmx_physical_ok(cpu, region.v);
}

/* The revision identifier; bit 31 is the shadow-VMCS indicator. @shadow: it may be set */
static bool region_revision_ok(const struct cpu *cpu, hpa_t region, bool shadow)
{
	return (cpu_phys_read32(cpu, region.v) & ~(shadow ? VMCS_SHADOW : 0)) == VMCS_REVISION;
}

enum vmx_result vmx_vmxon(struct cpu *cpu, hpa_t region)
{
	if (vmx_vmxon_fault(cpu) >= 0)
		return VMX_FAIL_INVALID;
	if (cpu->vmx.on)
		return vmx_fail(cpu, VMXERR_VMXON_IN_ROOT);
	if (!region_pointer_ok(cpu, region) || !region_revision_ok(cpu, region, false))
		return VMX_FAIL_INVALID;
	cpu->vmx = (struct vmx_state){.on = true, .outside = cpu->vmx.outside, .vmxon = region,
				      .current = {VMCS_NONE}, .debugctl = cpu->vmx.debugctl,
				      .preemption_deadline = UINT64_MAX,
				      .counts = cpu->vmx.counts, .tally = cpu->vmx.tally};
	vmx_tell(cpu, VMX_EVENT_ON, 0, 0);
	return VMX_SUCCEED;
}

enum vmx_result vmx_vmxoff(struct cpu *cpu)
{
	if (!cpu->vmx.on || cpu->vmx.nonroot)
		return VMX_FAIL_INVALID;
	cpu->vmx.on = false;
	cpu->vmx.current.v = VMCS_NONE;
	vmx_tell(cpu, VMX_EVENT_OFF, 0, 0);
	return VMX_SUCCEED;
}

/* ---- VMCS management ---- */

enum vmx_result vmx_vmclear(struct cpu *cpu, hpa_t region)
{
	uint8_t *at;

	if (!cpu->vmx.on)
		return VMX_FAIL_INVALID;
	if (!region_pointer_ok(cpu, region))
		return vmx_fail(cpu, VMXERR_VMCLEAR_ADDRESS);
	if (region.v == cpu->vmx.vmxon.v)
		return vmx_fail(cpu, VMXERR_VMCLEAR_VMXON);
	at = cpu_phys_ptr(cpu, region.v);
	if (at) {
		put_u32(at + VMCS_OFF_LAUNCHED, 0);
		cpu_phys_wrote(cpu, region.v + VMCS_OFF_LAUNCHED, 4);
	}
	if (region.v == cpu->vmx.current.v)
		cpu->vmx.current.v = VMCS_NONE;
	vmx_tell(cpu, VMX_EVENT_CLEAR, region.v, 0);
	return VMX_SUCCEED;
}

enum vmx_result vmx_vmptrld(struct cpu *cpu, hpa_t region)
{
	if (!cpu->vmx.on)
		return VMX_FAIL_INVALID;
	if (!region_pointer_ok(cpu, region))
		return vmx_fail(cpu, VMXERR_VMPTRLD_ADDRESS);
	if (region.v == cpu->vmx.vmxon.v)
		return vmx_fail(cpu, VMXERR_VMPTRLD_VMXON);
	if (!region_revision_ok(cpu, region, vmx_allowed_proc2(cpu).may & PROC2_SHADOW_VMCS))
		return vmx_fail(cpu, VMXERR_VMPTRLD_REVISION);
	cpu->vmx.current = region;
	cpu->vmx.current_shadow = cpu_phys_read32(cpu, region.v) & VMCS_SHADOW;
	cpu->vmx.dirty = VMX_DIRTY_CONTROLS | VMX_DIRTY_HOST;
	vmx_tell(cpu, VMX_EVENT_PTRLD, region.v, 0);
	return VMX_SUCCEED;
}

enum vmx_result vmx_vmread(struct cpu *cpu, uint32_t field, uint64_t *v)
{
	uint64_t whole;

	if (cpu->vmx.current.v == VMCS_NONE)
		return VMX_FAIL_INVALID;
	if (!field_lookup(cpu, field))
		return vmx_fail(cpu, VMXERR_VMREADWRITE_FIELD);
	whole = vmcs_get(vmcs_region(cpu), field);
	*v = field & 1 ? whole >> 32 : whole;
	cpu->vmx.counts.vmreads++;
	return VMX_SUCCEED;
}

/* The three fields that describe an injected event are checked at every entry. */
static bool is_injection_field(uint32_t field)
{
	return field == VMCS_ENTRY_INTR_INFO || field == VMCS_ENTRY_EXCEPTION_ERROR ||
	       field == VMCS_ENTRY_INSN_LEN;
}

static void mark_dirty(struct cpu *cpu, uint32_t field)
{
	if (vmcs_field_type(field) == VMCS_TYPE_HOST)
		cpu->vmx.dirty |= VMX_DIRTY_HOST;
	else if (vmcs_field_type(field) == VMCS_TYPE_CONTROL && !is_injection_field(field))
		/* Some of the host-state checks depend on controls. */
		cpu->vmx.dirty |= VMX_DIRTY_CONTROLS | VMX_DIRTY_HOST;
}

enum vmx_result vmx_vmwrite(struct cpu *cpu, uint32_t field, uint64_t v)
{
	unsigned flags = field_lookup(cpu, field);
	uint8_t *region;

	if (cpu->vmx.current.v == VMCS_NONE)
		return VMX_FAIL_INVALID;
	if (!flags)
		return vmx_fail(cpu, VMXERR_VMREADWRITE_FIELD);
	if (!(flags & FIELD_WRITABLE) && !(misc_cap(cpu) & VMX_MISC_WRITE_ANY))
		return vmx_fail(cpu, VMXERR_VMWRITE_READONLY);
	region = vmcs_region(cpu);
	if (field & 1)
		v = v << 32 | (uint32_t)vmcs_get(region, field);
	vmcs_put(region, field, v);
	vmcs_wrote(cpu);
	mark_dirty(cpu, field);
	cpu->vmx.counts.vmwrites++;
	vmx_tell(cpu, VMX_EVENT_WRITE, field, v);
	return VMX_SUCCEED;
}

/* ---- in non-root operation: the shadow VMCS, VM functions ---- */

/* VMfail there: the error number is the shadow VMCS's. */
static enum vmx_result shadow_fail(struct cpu *cpu, uint8_t *region, uint32_t error)
{
	vmcs_put(region, VMCS_VM_INSTRUCTION_ERROR, error);
	cpu_phys_wrote(cpu, cpu->vmx.link, PAGE_SIZE);
	return VMX_FAIL_VALID;
}

static uint8_t *shadow_region(const struct cpu *cpu)
{
	return cpu->vmx.link == VMCS_NONE ? NULL : cpu_phys_ptr(cpu, cpu->vmx.link);
}

enum vmx_result vmx_shadow_read(struct cpu *cpu, uint32_t field, uint64_t *v)
{
	uint8_t *region = shadow_region(cpu);
	uint64_t whole;

	if (!region)
		return VMX_FAIL_INVALID;
	if (!field_lookup(cpu, field))
		return shadow_fail(cpu, region, VMXERR_VMREADWRITE_FIELD);
	whole = vmcs_get(region, field);
	*v = field & 1 ? whole >> 32 : whole;
	return VMX_SUCCEED;
}

enum vmx_result vmx_shadow_write(struct cpu *cpu, uint32_t field, uint64_t v)
{
	uint8_t *region = shadow_region(cpu);
	unsigned flags = field_lookup(cpu, field);

	if (!region)
		return VMX_FAIL_INVALID;
	if (!flags)
		return shadow_fail(cpu, region, VMXERR_VMREADWRITE_FIELD);
	if (!(flags & FIELD_WRITABLE) && !(misc_cap(cpu) & VMX_MISC_WRITE_ANY))
		return shadow_fail(cpu, region, VMXERR_VMWRITE_READONLY);
	if (field & 1)
		v = v << 32 | (uint32_t)vmcs_get(region, field);
	vmcs_put(region, field, v);
	cpu_phys_wrote(cpu, cpu->vmx.link, PAGE_SIZE);
	return VMX_SUCCEED;
}

static bool switch_eptp(struct cpu *cpu, uint32_t entry)
{
	struct vmx_state *x = &cpu->vmx;
	uint64_t eptp;

	if (entry >= EPTP_LIST_ENTRIES)
		return false;
	eptp = cpu_phys_read64(cpu, x->eptp_list + 8ull * entry);
	if (!vmx_eptp_ok(cpu, eptp))
		return false;
	vmcs_put(vmcs_region(cpu), VMCS_EPTP, eptp);
	vmcs_wrote(cpu);
	x->eptp = eptp;
	cpu->mmu.pml.on = x->proc2 & PROC2_PML && eptp & EPTP_AD;
	cpu_update_mode(cpu);
	return true;
}

bool vmx_function(struct cpu *cpu, uint32_t function, uint32_t argument)
{
	return function == VM_FUNCTION_EPTP_SWITCHING && cpu->vmx.vm_functions & BIT64(VM_FUNCTION_EPTP_SWITCHING) &&
	       switch_eptp(cpu, argument);
}

/* ---- in non-root operation: the virtual task priority ---- */

uint8_t vmx_virtual_cr8(const struct cpu *cpu)
{
	return (uint8_t)(cpu_phys_read32(cpu, cpu->vmx.virtual_apic + VIRTUAL_APIC_TPR) >> 4 & 15);
}

void vmx_set_virtual_cr8(struct cpu *cpu, uint8_t v)
{
	uint64_t at = cpu->vmx.virtual_apic + VIRTUAL_APIC_TPR;
	uint8_t *p = cpu_phys_ptr(cpu, at);

	if (p) {
		put_u32(p, (uint32_t)v << 4);
		cpu_phys_wrote(cpu, at, 4);
	}
	cpu->vmx.tpr_below = vmx_virtual_cr8(cpu) < (cpu->vmx.tpr_threshold & 15);
}

/* ---- direct translation, agile paging ---- */

void vmx_set_dmt_stages(struct cpu *cpu, unsigned stages)
{
	cpu->vmx.walk.stages = stages;
	mmu_dmt_set_stages(&cpu->mmu, stages);
}

void vmx_set_dmt(struct cpu *cpu, unsigned stage, const struct dmt_entry *e, unsigned n)
{
	struct vmx_walk *w = &cpu->vmx.walk;

	memset(w->host[stage], 0, sizeof(w->host[stage]));
	memcpy(w->host[stage], e, n * sizeof(*e));
	w->registers[stage] = n;
	mmu_dmt_load_host(&cpu->mmu, stage, w->host[stage], n);
}

void vmx_set_gteas(struct cpu *cpu, const struct dmt_gtea *gtea, unsigned n)
{
	cpu->vmx.walk.gtea = gtea;
	cpu->vmx.walk.gteas = n;
	mmu_dmt_set_gteas(&cpu->mmu, gtea, n);
}

void vmx_set_agile(struct cpu *cpu, bool on, uint64_t root)
{
	cpu->vmx.walk.agile = on;
	cpu->vmx.walk.shadow_root = root;
}

void vmx_set_walk(struct cpu *cpu, const struct vmx_walk *w)
{
	cpu->vmx.walk = *w;
	for (unsigned stage = 1; stage < DMT_STAGES; stage++)
		mmu_dmt_load_host(&cpu->mmu, stage, w->host[stage], w->registers[stage]);
	mmu_dmt_set_gteas(&cpu->mmu, w->gtea, w->gteas);
	mmu_dmt_set_stages(&cpu->mmu, w->stages);
}

void vmx_set_guest_dmt(struct cpu *cpu, uint64_t load, const struct dmt_entry *e) { cpu_set_dmt(cpu, load, e); }

/* ---- invalidation ---- */

bool vmx_eptp_ok(const struct cpu *cpu, uint64_t eptp)
{
	uint64_t type = eptp & EPTP_MT;
	uint64_t walk = eptp & 7ull << EPTP_WALK_SHIFT;

	return (type == EPT_MT_UC || type == EPT_MT_WB) &&
	       (walk == EPTP_WALK_4 || (walk == EPTP_WALK_5 && cpu_has(cpu, CPUF_LA57))) &&
	       !(eptp & 0xf80) && vmx_physical_ok(cpu, eptp);
}

enum vmx_result vmx_invept(struct cpu *cpu, uint64_t type, uint64_t eptp)
{
	if (!cpu->vmx.on)
		return VMX_FAIL_INVALID;
	if ((type != INVEPT_SINGLE && type != INVEPT_ALL) ||
	    (type == INVEPT_SINGLE && !vmx_eptp_ok(cpu, eptp)))
		return vmx_fail(cpu, VMXERR_INV_OPERAND);
	if (cpu->emul_ops)
		cpu->emul_ops->invept(cpu->emul_ctx, type, eptp);
	else
		mmu_flush_ept(&cpu->mmu, eptp, type == INVEPT_ALL);
	cpu->vmx.counts.invepts++;
	vmx_tell(cpu, VMX_EVENT_INVEPT, type, eptp);
	return VMX_SUCCEED;
}

static void flush_vpid(struct mmu *mmu, uint64_t type, uint16_t vpid, gva_t addr)
{
	switch (type) {
	case INVVPID_ADDRESS: mmu_flush_vpid_page(mmu, vpid, addr); break;
	case INVVPID_SINGLE: mmu_flush_vpid_all(mmu, vpid); break;
	case INVVPID_ALL: mmu_flush_all_vpids(mmu); break;
	default: mmu_flush_vpid_keep_globals(mmu, vpid); break;
	}
}

enum vmx_result vmx_invvpid(struct cpu *cpu, uint64_t type, uint16_t vpid, gva_t addr)
{
	if (!cpu->vmx.on)
		return VMX_FAIL_INVALID;
	if (type > INVVPID_SINGLE_KEEP_GLOBALS || (type != INVVPID_ALL && !vpid) ||
	    (type == INVVPID_ADDRESS && !vmx_canonical(cpu, addr.v)))
		return vmx_fail(cpu, VMXERR_INV_OPERAND);
	if (cpu->emul_ops)
		cpu->emul_ops->invvpid(cpu->emul_ctx, type, vpid, addr.v);
	else
		flush_vpid(&cpu->mmu, type, vpid, addr);
	cpu->vmx.counts.invvpids++;
	vmx_tell(cpu, VMX_EVENT_INVVPID, type, vpid);
	return VMX_SUCCEED;
}
