/*
 * "Field Encoding in VMCS": which fields there are, and that each keeps what is written, to its width.
 */
#include "vmx.h"

enum { ALWAYS, PIN, PROC, PROC2, EXIT, ENTRY, FUNCTION, EITHER };

/* The fields that depend on a control; @n fields from @field on. */
static const struct { u32 field; u8 n, group; u32 bits; } conditional[] = {
	{ F_VPID, 1, PROC2, P2_VPID }, { F_POSTED_VECTOR, 1, PIN, PIN_POSTED }, { F_EPTP_INDEX, 1, PROC2, P2_VE },
	{ 0x0006, 1, PROC2, 1u << 31 }, { 0x0810, 1, PROC2, P2_VID }, { F_GUEST_PML_INDEX, 1, PROC2, P2_PML },
	{ 0x0814, 1, PROC2, 1u << 31 }, { F_MSR_BITMAP, 1, PROC, PROC_MSR_BITMAPS }, { 0x200c, 1, EITHER, 0 },
	{ F_PML_ADDRESS, 1, PROC2, P2_PML }, { F_TSC_OFFSET, 1, PROC, PROC_TSC_OFFSET },
	{ F_VIRTUAL_APIC, 1, PROC, PROC_TPR }, { F_APIC_ACCESS, 1, PROC2, P2_APIC_ACCESS },
	  { 0x2016, 1, PIN, PIN_POSTED },
	{ F_VMFUNC_CTL, 1, PROC2, P2_VMFUNC }, { F_EPTP, 1, PROC2, P2_EPT }, { 0x201c, 4, PROC2, P2_VID },
	{ F_EPTP_LIST, 1, FUNCTION, 1 }, { F_VMREAD_BITMAP, 2, PROC2, P2_SHADOWING }, { 0x202a, 1, PROC2, P2_VE },
	{ 0x202c, 1, PROC2, P2_XSAVES }, { F_GUEST_PHYSICAL, 1, PROC2, P2_EPT },
	{ F_GUEST_PAT, 1, ENTRY, N_LOAD_PAT }, { F_GUEST_EFER, 1, ENTRY, N_LOAD_EFER },
	{ F_GUEST_PDPTE0, 4, PROC2, P2_EPT }, { F_HOST_PAT, 1, EXIT, X_LOAD_PAT },
	  { F_HOST_EFER, 1, EXIT, X_LOAD_EFER },
	{ F_TPR_THRESHOLD, 1, PROC, PROC_TPR }, { F_PROC2, 1, PROC, PROC_2ND }, { F_PLE_GAP, 2, PROC2, P2_PLE },
	{ F_GUEST_TIMER, 1, PIN, PIN_TIMER },
};

/* The fields that every processor has: ranges of encodings, both ends included. */
static const struct { u16 first, last; } unconditional[] = {
	{ F_GUEST_ES_SEL, F_GUEST_TR_SEL }, { F_HOST_ES_SEL, F_HOST_TR_SEL }, { F_IO_BITMAP_A, F_IO_BITMAP_B },
	{ F_EXIT_MSR_STORE, F_ENTRY_MSR_LOAD }, { F_GUEST_LINK, F_GUEST_DEBUGCTL }, { F_PIN, F_INJECT_LEN },
	{ F_INSN_ERROR, F_INSN_INFO }, { F_GUEST_ES_LIMIT, F_GUEST_SYSENTER_CS },
	{ F_HOST_SYSENTER_CS, F_HOST_SYSENTER_CS }, { F_CR0_MASK, F_CR3_TARGET3 }, { F_QUALIFICATION, F_GUEST_LINEAR },
	{ F_GUEST_CR0, F_GUEST_SYSENTER_EIP }, { F_HOST_CR0, F_HOST_RIP },
};

static bool supported(unsigned group, u32 bits)
{
	switch (group) {
	case PIN: return can_pin(bits);
	case PROC: return can_proc(bits);
	case PROC2: return can_proc2(bits);
	case EXIT: return can_exit(bits);
	case ENTRY: return can_entry(bits);
	case FUNCTION: return cap.vmfunc & bits;
	default: return true;
	}
}

/* 1: it must exist; 0: it must not; -1: other fields, of controls that this program does not know. */
static int expected(u32 field)
{
	for (unsigned i = 0; i < ARRAY_SIZE(conditional); i++)
		if (field >= conditional[i].field && field < conditional[i].field + 2u * conditional[i].n)
			return conditional[i].group == EITHER ? -1 :
				supported(conditional[i].group, conditional[i].bits);
	for (unsigned i = 0; i < ARRAY_SIZE(unconditional); i++)
		if (field >= unconditional[i].first && field <= unconditional[i].last)
			return 1;
	return -1;
}

static unsigned width(u32 field) { return field >> 13 & 3; } /* 0: 16, 1: 64, 2: 32, 3: natural */

static u64 mask(u32 field) { return width(field) == 0 ? 0xffff : width(field) == 2 ? 0xffffffff : ~0ull; }

/* Both halves of a 64-bit field, and that writing leaves its neighbours alone. */
static void halves(u32 field)
{
	u64 high = 0;

	check(vmread(field | 1, &high) == OK && high == 0x01234567, "field 0x%x: the high half reads 0x%lx", field,
	      high);
	check(vmwrite(field | 1, 0xffffffff89abcdef) == OK, "field 0x%x: writing the high half", field);
	check(vm_get(field) == 0x89abcdef89abcdef, "field 0x%x: 0x%lx after writing the high half", field,
	      vm_get(field));
}

static void keeps(u32 field)
{
	const u64 pattern = 0x0123456789abcdef;
	u64 old = vm_get(field), value;

	if ((field >> 10 & 3) == 1 && !(cap.misc & MISC_WRITE_ANY)) {
		check(vmwrite(field, 0) == FAIL_VALID && vm_get(F_INSN_ERROR) == E_READONLY, "field 0x%x is read-only",
		      field);
		return;
	}
	check(vmwrite(field, pattern) == OK, "field 0x%x is writable", field);
	value = vm_get(field);
	check(value == (pattern & mask(field)), "field 0x%x keeps 0x%lx", field, value);
	if (width(field) == 1)
		halves(field);
	vmwrite(field, old);
}

void group_fields(void)
{
	unsigned highest = 0;

	vm_good(LONG);
	for (u32 field = 0; field < 0x8000; field += 2) {
		u64 value = 0;
		enum how how;
		int want;

		if ((field & 0x3ff) >= 0x80) /* indices beyond 63 */
			continue;
		if (field >> 12 & 1)
			continue;
		how = vmread(field, &value);
		want = expected(field);
		if (how == OK && (field >> 1 & 0x1ff) > highest)
			highest = field >> 1 & 0x1ff;
		if (want >= 0)
			check((how == OK) == want, "field 0x%x: VMREAD gives %d, expected to exist: %d", field, how,
			      want);
		if (how == OK)
			keeps(field);
		else
			check(vmwrite(field, 0) == FAIL_VALID && vm_get(F_INSN_ERROR) == E_FIELD,
			      "field 0x%x: VMWRITE fails as VMREAD does", field);
	}
	check((rdmsr(VMX_ENUM) >> 1 & 0x1ff) == highest, "highest index %d, IA32_VMX_VMCS_ENUM says %ld", highest,
	      rdmsr(VMX_ENUM) >> 1 & 0x1ff);
	expect_good("writing every field");
}
