/*
 * "VM Entries": the checks on controls, host state and guest state. From a good state one thing is made wrong, the
 * entry must fail in the manual's way, and then the good state must enter again. Rows that expect success stand
 * beside those that differ from them by a bit.
 */
#include "vmx.h"

enum op { END, SET, OR, CLEAR, WIDE /* OR of the first bit that no physical address has */ };

enum expectation {
	ENTERS,        /* and does VMCALL where it was to begin */
	ANY_EXIT,      /* enters; what comes then does not matter */
	BAD_CONTROLS, BAD_HOST,
	BAD_GUEST, BAD_PDPTE, BAD_NMI_STI, BAD_LINK, /* exit reason 33 with qualification 0, 2, 3, 4 */
};

struct change { u32 field; u8 op; u64 v; };
struct row { const char *what; struct change c[6]; u8 expect; };

#define NOT_CANONICAL (1ull << 63)
#define WITH_2ND(bits) { F_PROC2, OR, bits }

static u64 changed(const struct change *c)
{
	switch (c->op) {
	case OR: return vm_get(c->field) | c->v;
	case CLEAR: return vm_get(c->field) & ~c->v;
	case WIDE: return vm_get(c->field) | 1ull << cap.physical;
	default: return c->v;
	}
}

static bool allowed(struct allowed a, u64 v) { return !(v & ~(u64)a.may) && (v & a.must) == a.must; }

static bool controls_offered(void)
{
	u64 secondary = vm_get(F_PROC) & PROC_2ND ? vm_get(F_PROC2) : 0;

	return allowed(cap.pin, vm_get(F_PIN)) && allowed(cap.proc, vm_get(F_PROC)) && allowed(cap.proc2, secondary) &&
	       allowed(cap.exit, vm_get(F_EXIT)) && allowed(cap.entry, vm_get(F_ENTRY));
}

/* False: a field or control of the row is not offered. */
static bool apply(const struct row *r)
{
	u64 v = 0;

	for (const struct change *c = r->c; c < r->c + ARRAY_SIZE(r->c) && c->op != END; c++) {
		if (vmread(c->field, &v) != OK || (c->op == WIDE && cap.physical == 52))
			return false;
		vm_put(c->field, changed(c));
	}
	return controls_offered();
}

static bool failed_entry(const char *what, u64 qualification)
{
	return expect_exit(what, ENTRY_FAILED | R_BAD_GUEST, qualification);
}

static void check_outcome(const char *what, unsigned expect, enum how how)
{
	static const u64 qualification[] = { [BAD_GUEST] = 0, [BAD_PDPTE] = 2, [BAD_NMI_STI] = 3, [BAD_LINK] = 4 };
	u64 rip = vm_get(F_GUEST_RIP);

	if (expect == BAD_CONTROLS || expect == BAD_HOST) {
		u64 error = expect == BAD_CONTROLS ? E_CONTROLS : E_HOST;

		check(how == FAIL_VALID && vm_get(F_INSN_ERROR) == error,
		      "%s: outcome %d, error %ld reason 0x%lx; expected error %ld",
		      what, how, how == FAIL_VALID ? vm_get(F_INSN_ERROR) : 0, how == OK ? vm_get(F_REASON) : 0, error);
		return;
	}
	if (!check(how == OK, "%s: VMfail %d, error %ld", what, how, vm_get(F_INSN_ERROR)))
		return;
	if (expect >= BAD_GUEST)
		failed_entry(what, qualification[expect]);
	else if (expect == ANY_EXIT)
		check(!(vm_get(F_REASON) & ENTRY_FAILED), "%s: not entered: reason 0x%lx, qualification 0x%lx", what,
		      vm_get(F_REASON), vm_get(F_QUALIFICATION));
	else
		expect_call(what, (const void *)(uintptr_t)rip);
}

static unsigned left_out;

static void try_row(enum mode m, const struct row *r)
{
	if (option("verbose"))
		print("%s\n", r->what);
	vm_good(m);
	if (apply(r)) {
		check_outcome(r->what, r->expect, vm_enter());
		expect_good(r->what);
	} else {
		left_out++;
	}
}

static void try_rows(enum mode m, const struct row *r, unsigned n)
{
	if (!vm_can(m)) {
		skip("a mode of the guest");
		return;
	}
	left_out = 0;
	for (; n; n--, r++)
		try_row(m, r);
	if (left_out)
		print("  not offered: what %d cases need\n", left_out);
}
#define TRY(m, rows) try_rows(m, rows, ARRAY_SIZE(rows))

/* ---- "Checks on VMX Controls" ---- */

/* Every bit that the capability MSRs forbid, and every one that they demand. */
static void reserved_control_bits(const char *name, u32 field, struct allowed a)
{
	for (unsigned bit = 0; bit < 32; bit++) {
		u32 b = 1u << bit;

		if (a.may & b && !(a.must & b))
			continue;
		vm_good(LONG);
		vm_put(field, vm_get(field) ^ b);
		check_outcome(name, BAD_CONTROLS, vm_enter());
	}
	expect_good(name);
}

static const struct row execution_rows[] = {
	{ "secondary controls without their control are ignored",
	  { { F_PROC2, SET, 0xffffffff }, { F_PROC, CLEAR, PROC_2ND } }, ENTERS },
	{ "I/O bitmap A not aligned", { { F_PROC, OR, PROC_IO_BITMAPS }, { F_IO_BITMAP_A, OR, 0x800 } }, BAD_CONTROLS },
	{ "I/O bitmap B not aligned", { { F_PROC, OR, PROC_IO_BITMAPS }, { F_IO_BITMAP_B, OR, 1 } }, BAD_CONTROLS },
	{ "I/O bitmap A too wide", { { F_PROC, OR, PROC_IO_BITMAPS }, { F_IO_BITMAP_A, WIDE, 0 } }, BAD_CONTROLS },
	{ "I/O bitmap B too wide", { { F_PROC, OR, PROC_IO_BITMAPS }, { F_IO_BITMAP_B, OR, 1ull << 63 } },
	  BAD_CONTROLS },
	{ "I/O bitmaps", { { F_PROC, OR, PROC_IO_BITMAPS } }, ENTERS },
	{ "bad I/O bitmaps without their control", { { F_IO_BITMAP_A, SET, ~0ull }, { F_IO_BITMAP_B, SET, 5 } },
	  ENTERS },
	{ "MSR bitmap not aligned", { { F_PROC, OR, PROC_MSR_BITMAPS }, { F_MSR_BITMAP, OR, 0x400 } }, BAD_CONTROLS },
	{ "MSR bitmap too wide", { { F_PROC, OR, PROC_MSR_BITMAPS }, { F_MSR_BITMAP, WIDE, 0 } }, BAD_CONTROLS },
	{ "bad MSR bitmap without its control", { { F_MSR_BITMAP, SET, 1 } }, ENTERS },
	{ "TPR shadow: virtual-APIC page not aligned",
	  { { F_PROC, OR, PROC_TPR }, { F_VIRTUAL_APIC, SET, 0x1010 } }, BAD_CONTROLS },
	{ "TPR shadow: virtual-APIC page too wide",
	  { { F_PROC, OR, PROC_TPR }, { F_VIRTUAL_APIC, SET, 1ull << 63 } }, BAD_CONTROLS },
	{ "TPR threshold: reserved bits",
	  { { F_PROC, OR, PROC_TPR }, { F_VIRTUAL_APIC, SET, (u64)test_pages }, { F_TPR_THRESHOLD, SET, 0x10 } },
	  BAD_CONTROLS },
	{ "TPR threshold above the virtual TPR",
	  { { F_PROC, OR, PROC_TPR }, { F_VIRTUAL_APIC, SET, (u64)test_pages }, { F_TPR_THRESHOLD, SET, 1 } },
	  BAD_CONTROLS },
	{ "TPR threshold 0",
	  { { F_PROC, OR, PROC_TPR }, { F_VIRTUAL_APIC, SET, (u64)test_pages }, { F_TPR_THRESHOLD, SET, 0 } }, ENTERS },
	{ "TPR threshold without the shadow", { { F_TPR_THRESHOLD, SET, 0xff } }, ENTERS },
	{ "x2APIC mode without the TPR shadow", { WITH_2ND(P2_X2APIC) }, BAD_CONTROLS },
	{ "APIC registers without the TPR shadow", { WITH_2ND(P2_APIC_REGISTERS) }, BAD_CONTROLS },
	{ "virtual-interrupt delivery without the TPR shadow", { { F_PIN, OR, PIN_EXTINT }, WITH_2ND(P2_VID) },
	  BAD_CONTROLS },
	{ "virtual NMIs without NMI exiting", { { F_PIN, OR, PIN_VNMI } }, BAD_CONTROLS },
	{ "virtual NMIs", { { F_PIN, OR, PIN_VNMI | PIN_NMI } }, ENTERS },
	{ "NMI window without virtual NMIs", { { F_PIN, OR, PIN_NMI }, { F_PROC, OR, PROC_NMIWIN } }, BAD_CONTROLS },
	{ "NMI window", { { F_PIN, OR, PIN_NMI | PIN_VNMI }, { F_PROC, OR, PROC_NMIWIN } }, ANY_EXIT },
	{ "APIC-access page not aligned", { WITH_2ND(P2_APIC_ACCESS), { F_APIC_ACCESS, SET, 0x800 } }, BAD_CONTROLS },
	{ "APIC-access page too wide", { WITH_2ND(P2_APIC_ACCESS), { F_APIC_ACCESS, SET, 1ull << 63 } }, BAD_CONTROLS },
	{ "APIC-access page and x2APIC mode",
	  { { F_PROC, OR, PROC_TPR }, { F_VIRTUAL_APIC, SET, (u64)test_pages }, WITH_2ND(P2_APIC_ACCESS | P2_X2APIC),
	    { F_APIC_ACCESS, SET, 0xfee00000 } }, BAD_CONTROLS },
	{ "virtual-interrupt delivery without external-interrupt exiting",
	  { { F_PROC, OR, PROC_TPR }, { F_VIRTUAL_APIC, SET, (u64)test_pages }, WITH_2ND(P2_VID) }, BAD_CONTROLS },
	{ "posted interrupts without virtual-interrupt delivery", { { F_PIN, OR, PIN_POSTED } }, BAD_CONTROLS },
	{ "VPID 0", { WITH_2ND(P2_VPID), { F_VPID, SET, 0 } }, BAD_CONTROLS },
	{ "VPID 1", { WITH_2ND(P2_VPID), { F_VPID, SET, 1 } }, ENTERS },
	{ "VPID 0xffff", { WITH_2ND(P2_VPID), { F_VPID, SET, 0xffff } }, ENTERS },
	{ "PML without EPT", { WITH_2ND(P2_PML), { F_PML_ADDRESS, SET, 0x1000 } }, BAD_CONTROLS },
	{ "PML log not aligned", { WITH_2ND(P2_PML | P2_EPT), { F_PML_ADDRESS, SET, 0x1008 } }, BAD_CONTROLS },
	{ "PML log too wide", { WITH_2ND(P2_PML | P2_EPT), { F_PML_ADDRESS, SET, 1ull << 63 } }, BAD_CONTROLS },
	{ "PML", { WITH_2ND(P2_PML | P2_EPT), { F_PML_ADDRESS, SET, (u64)test_pages } }, ENTERS },
	{ "unrestricted guest without EPT", { WITH_2ND(P2_UNRESTRICTED) }, BAD_CONTROLS },
	{ "unrestricted guest", { WITH_2ND(P2_UNRESTRICTED | P2_EPT) }, ENTERS },
	{ "VMREAD bitmap not aligned", { WITH_2ND(P2_SHADOWING), { F_VMREAD_BITMAP, SET, 1 } }, BAD_CONTROLS },
	{ "VMREAD bitmap too wide", { WITH_2ND(P2_SHADOWING), { F_VMREAD_BITMAP, SET, 1ull << 63 } }, BAD_CONTROLS },
	{ "VMWRITE bitmap not aligned", { WITH_2ND(P2_SHADOWING), { F_VMWRITE_BITMAP, SET, 0x800 } }, BAD_CONTROLS },
	{ "VMWRITE bitmap too wide", { WITH_2ND(P2_SHADOWING), { F_VMWRITE_BITMAP, SET, 1ull << 63 } }, BAD_CONTROLS },
	{ "bad VMREAD bitmap without its control", { { F_VMREAD_BITMAP, SET, 1 } }, ENTERS },
	{ "VM functions that are none", { WITH_2ND(P2_VMFUNC | P2_EPT), { F_VMFUNC_CTL, SET, 1ull << 63 } },
	  BAD_CONTROLS },
	{ "VM functions: none", { WITH_2ND(P2_VMFUNC), { F_VMFUNC_CTL, SET, 0 } }, ENTERS },
	{ "EPTP switching without EPT",
	  { WITH_2ND(P2_VMFUNC), { F_VMFUNC_CTL, SET, 1 }, { F_EPTP_LIST, SET, 0x1000 } }, BAD_CONTROLS },
	{ "EPTP list not aligned",
	  { WITH_2ND(P2_VMFUNC | P2_EPT), { F_VMFUNC_CTL, SET, 1 }, { F_EPTP_LIST, SET, 0x1008 } }, BAD_CONTROLS },
	{ "EPTP list too wide",
	  { WITH_2ND(P2_VMFUNC | P2_EPT), { F_VMFUNC_CTL, SET, 1 }, { F_EPTP_LIST, SET, 1ull << 63 } }, BAD_CONTROLS },
};

static void cr3_target_count(void)
{
	u64 n = cap.misc >> 16 & 0x1ff;

	vm_good(LONG);
	vm_put(F_CR3_TARGETS, n);
	check_outcome("as many CR3 targets as there are", ENTERS, vm_enter());
	vm_good(LONG);
	vm_put(F_CR3_TARGETS, n + 1);
	check_outcome("one CR3 target too many", BAD_CONTROLS, vm_enter());
	vm_good(LONG);
	vm_put(F_CR3_TARGETS, 0xffffffff);
	check_outcome("2^32 - 1 CR3 targets", BAD_CONTROLS, vm_enter());
	expect_good("CR3 targets");
}

static void eptp_case(const char *what, u64 eptp, bool ok)
{
	vm_good(LONG);
	ept_good();
	vm_or(F_PROC2, P2_EPT);
	vm_put(F_EPTP, eptp);
	check_outcome(what, ok ? ENTERS : BAD_CONTROLS, vm_enter());
}

static void eptp_checks(void)
{
	u64 good = eptp_of(ept_pml4, false);

	if (!can_proc2(P2_EPT)) {
		skip("EPT");
		return;
	}
	for (u64 type = 0; type < 8; type++)
		eptp_case("EPTP, memory type", (good & ~7ull) | type,
			  (type == 6 && cap.ept_vpid & CAP_WB) || (type == 0 && cap.ept_vpid & CAP_UC));
	for (u64 length = 0; length < 8; length++)
		if (length != 3 && !(length == 4 && cap.ept_vpid & CAP_WALK5))
			eptp_case("EPTP, length of walks", (good & ~0x38ull) | length << 3, false);
	eptp_case("EPTP, accessed and dirty flags", good | EPTP_AD, cap.ept_vpid & CAP_AD);
	for (unsigned bit = 7; bit < 12; bit++)
		eptp_case("EPTP, reserved bits", good | 1ull << bit, false);
	for (unsigned bit = cap.physical; bit < 64; bit++)
		eptp_case("EPTP too wide", good | 1ull << bit, false);
	expect_good("EPTP");
	/* Without EPT it is not looked at. */
	vm_good(LONG);
	vm_put(F_EPTP, ~0ull);
	check_outcome("bad EPTP without EPT", ENTERS, vm_enter());
}

/* ---- MSR areas ---- */

static void msr_area(const char *what, u32 address, u32 count)
{
	u64 end = 1ull << cap.physical;
	const struct { u64 address, count; bool ok; } cases[] = {
		{ at(test_pages) | 8, 1, false }, { at(test_pages) | 1, 1, false }, { end, 1, false },
		{ 1ull << 63, 1, false }, { end - 16, 2, false }, { end - 32, 3, false }, { 15, 0, true },
		  { ~0ull, 0, true },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		vm_good(LONG);
		vm_put(address, cases[i].address);
		vm_put(count, cases[i].count);
		check_outcome(what, cases[i].ok ? ENTERS : BAD_CONTROLS, vm_enter());
	}
	expect_good(what);
}

static const struct row exit_control_rows[] = {
	{ "saving the preemption timer without it", { { F_EXIT, OR, X_SAVE_TIMER } }, BAD_CONTROLS },
	{ "saving the preemption timer",
	  { { F_PIN, OR, PIN_TIMER }, { F_EXIT, OR, X_SAVE_TIMER }, { F_GUEST_TIMER, SET, 0xffffffff } }, ENTERS },
};

/* ---- event injection ---- */

static const struct row injection_rows[] = {
	{ "an event that is not valid", { { F_INJECT, SET, 0x7fffffff }, { F_INJECT_ERROR, SET, ~0u },
	  { F_INJECT_LEN, SET, ~0u } },
	  ENTERS },
	{ "injection of type 1", { { F_INJECT, SET, INFO(1, 3) } }, BAD_CONTROLS },
	{ "injection of an NMI with vector 3", { { F_INJECT, SET, INFO(T_NMI, 3) } }, BAD_CONTROLS },
	{ "injection of exception 32", { { F_INJECT, SET, INFO(T_HARD, 32) } }, BAD_CONTROLS },
	{ "injection of exception 255", { { F_INJECT, SET, INFO(T_HARD, 255) } }, BAD_CONTROLS },
	{ "injection of another event, vector 1", { { F_INJECT, SET, INFO(T_OTHER, 1) } }, BAD_CONTROLS },
	{ "injection: reserved bit 12", { { F_INJECT, SET, INFO(T_HARD, 6) | 1 << 12 } }, BAD_CONTROLS },
	{ "injection: reserved bit 30", { { F_INJECT, SET, INFO(T_HARD, 6) | 1 << 30 } }, BAD_CONTROLS },
	{ "#UD with an error code", { { F_INJECT, SET, INFO(T_HARD, 6) | INFO_ERROR } }, BAD_CONTROLS },
	{ "#DB with an error code", { { F_INJECT, SET, INFO(T_HARD, 1) | INFO_ERROR } }, BAD_CONTROLS },
	{ "#MF with an error code", { { F_INJECT, SET, INFO(T_HARD, 16) | INFO_ERROR } }, BAD_CONTROLS },
	{ "#DF without an error code", { { F_INJECT, SET, INFO(T_HARD, 8) } }, BAD_CONTROLS },
	{ "#TS without an error code", { { F_INJECT, SET, INFO(T_HARD, 10) } }, BAD_CONTROLS },
	{ "#NP without an error code", { { F_INJECT, SET, INFO(T_HARD, 11) } }, BAD_CONTROLS },
	{ "#SS without an error code", { { F_INJECT, SET, INFO(T_HARD, 12) } }, BAD_CONTROLS },
	{ "#GP without an error code", { { F_INJECT, SET, INFO(T_HARD, 13) } }, BAD_CONTROLS },
	{ "#PF without an error code", { { F_INJECT, SET, INFO(T_HARD, 14) } }, BAD_CONTROLS },
	{ "#AC without an error code", { { F_INJECT, SET, INFO(T_HARD, 17) } }, BAD_CONTROLS },
	{ "external interrupt with an error code",
	  { { F_GUEST_RFLAGS, OR, FLAG_IF }, { F_INJECT, SET, INFO(T_EXTERNAL, 14) | INFO_ERROR } },
	  BAD_CONTROLS },
	{ "NMI with an error code", { { F_INJECT, SET, INFO(T_NMI, 2) | INFO_ERROR } }, BAD_CONTROLS },
	{ "software interrupt with an error code",
	  { { F_INJECT, SET, INFO(T_SOFT_INT, 14) | INFO_ERROR }, { F_INJECT_LEN, SET, 2 } }, BAD_CONTROLS },
	{ "software exception with an error code",
	  { { F_INJECT, SET, INFO(T_SOFT, 3) | INFO_ERROR }, { F_INJECT_LEN, SET, 1 } }, BAD_CONTROLS },
	{ "error code of 17 bits", { { F_INJECT, SET, INFO(T_HARD, 13) | INFO_ERROR },
	  { F_INJECT_ERROR, SET, 0x10000 } },
	  BAD_CONTROLS },
	{ "error code of 32 bits", { { F_INJECT, SET, INFO(T_HARD, 13) | INFO_ERROR },
	  { F_INJECT_ERROR, SET, 0x80000000 } },
	  BAD_CONTROLS },
	{ "an error code that is not delivered", { { F_INJECT, SET, INFO(T_HARD, 6) }, { F_INJECT_ERROR, SET, ~0u } },
	  ANY_EXIT },
	{ "software interrupt of 16 bytes", { { F_INJECT, SET, INFO(T_SOFT_INT, 0x80) }, { F_INJECT_LEN, SET, 16 } },
	  BAD_CONTROLS },
	{ "software interrupt of 15 bytes", { { F_INJECT, SET, INFO(T_SOFT_INT, 0x80) }, { F_INJECT_LEN, SET, 15 } },
	  ANY_EXIT },
	{ "software exception of 2^31 bytes", { { F_INJECT, SET, INFO(T_SOFT, 3) }, { F_INJECT_LEN, SET, 1u << 31 } },
	  BAD_CONTROLS },
	{ "INT1 of 16 bytes", { { F_INJECT, SET, INFO(T_PRIV, 1) }, { F_INJECT_LEN, SET, 16 } }, BAD_CONTROLS },
	{ "length of an exception is ignored", { { F_INJECT, SET, INFO(T_HARD, 6) }, { F_INJECT_LEN, SET, 99 } },
	  ANY_EXIT },
	{ "entry to SMM", { { F_ENTRY, OR, N_SMM } }, BAD_CONTROLS },
	{ "deactivating the dual-monitor treatment", { { F_ENTRY, OR, N_DUAL } }, BAD_CONTROLS },
};

static void injection_by_capability(void)
{
	static const u8 soft[] = { T_SOFT_INT, T_PRIV, T_SOFT };

	for (unsigned i = 0; i < ARRAY_SIZE(soft); i++) {
		vm_good(LONG);
		vm_put(F_INJECT, INFO(soft[i], i ? 3 : 0x80));
		vm_put(F_INJECT_LEN, 0);
		check_outcome("injection of length 0", cap.misc & MISC_ZERO_LEN ? ANY_EXIT : BAD_CONTROLS, vm_enter());
	}
	vm_good(LONG);
	vm_put(F_INJECT, INFO(T_OTHER, 0));
	check_outcome("injection of a pending MTF exit", can_proc(PROC_MTF) ? ANY_EXIT : BAD_CONTROLS, vm_enter());
	if (!vm_can(REAL))
		return;
	vm_good(REAL);
	vm_put(F_INJECT, INFO(T_HARD, 13) | INFO_ERROR);
	check_outcome("an error code in real mode", BAD_CONTROLS, vm_enter());
	vm_good(BARE);
	vm_put(F_INJECT, INFO(T_HARD, 13));
	check_outcome("no error code in protected mode without paging", BAD_CONTROLS, vm_enter());
}

void group_entry_controls(void)
{
	reserved_control_bits("pin-based controls", F_PIN, cap.pin);
	reserved_control_bits("processor-based controls", F_PROC, cap.proc);
	if (can_proc(PROC_2ND))
		reserved_control_bits("secondary controls", F_PROC2, cap.proc2);
	reserved_control_bits("exit controls", F_EXIT, cap.exit);
	reserved_control_bits("entry controls", F_ENTRY, cap.entry);
	memset(test_pages, 0, PAGE);
	if (can_proc2(P2_EPT))
		ept_good();
	TRY(LONG, execution_rows);
	cr3_target_count();
	eptp_checks();
	TRY(LONG, exit_control_rows);
	msr_area("exit MSR-store area", F_EXIT_MSR_STORE, F_EXIT_STORES);
	msr_area("exit MSR-load area", F_EXIT_MSR_LOAD, F_EXIT_LOADS);
	msr_area("entry MSR-load area", F_ENTRY_MSR_LOAD, F_ENTRY_LOADS);
	TRY(LONG, injection_rows);
	injection_by_capability();
	expect_good("the checks on controls");
}

/* ---- "Checks on Host Control Registers, MSRs, and SSP", "... Segment and Descriptor-Table Registers" ---- */

static const struct row host_rows[] = {
	{ "host CR0.PE clear", { { F_HOST_CR0, CLEAR, CR0_PE } }, BAD_HOST },
	{ "host CR0.NE clear", { { F_HOST_CR0, CLEAR, CR0_NE } }, BAD_HOST },
	{ "host CR0.PG clear", { { F_HOST_CR0, CLEAR, CR0_PG } }, BAD_HOST },
	{ "host CR0, bit 32", { { F_HOST_CR0, OR, 1ull << 32 } }, BAD_HOST },
	{ "host CR0, bit 63", { { F_HOST_CR0, OR, 1ull << 63 } }, BAD_HOST },
	{ "host CR0.TS set", { { F_HOST_CR0, OR, CR0_TS } }, ENTERS },
	{ "host CR4.VMXE clear", { { F_HOST_CR4, CLEAR, CR4_VMXE } }, BAD_HOST },
	{ "host CR4.PAE clear", { { F_HOST_CR4, CLEAR, CR4_PAE } }, BAD_HOST },
	{ "host CR4, bit 31", { { F_HOST_CR4, OR, 1ull << 31 } }, BAD_HOST },
	{ "host CR4, bit 63", { { F_HOST_CR4, OR, 1ull << 63 } }, BAD_HOST },
	{ "host CR3 too wide", { { F_HOST_CR3, WIDE, 0 } }, BAD_HOST },
	{ "host CR3, bit 63", { { F_HOST_CR3, OR, 1ull << 63 } }, BAD_HOST },
	{ "host SYSENTER_ESP not canonical", { { F_HOST_SYSENTER_ESP, SET, NOT_CANONICAL } }, BAD_HOST },
	{ "host SYSENTER_EIP not canonical", { { F_HOST_SYSENTER_EIP, SET, NOT_CANONICAL } }, BAD_HOST },
	{ "host SYSENTER_EIP canonical", { { F_HOST_SYSENTER_EIP, SET, 0xffff800000000000 } }, ENTERS },
	{ "host PAT, type 2", { { F_EXIT, OR, X_LOAD_PAT }, { F_HOST_PAT, SET, 0x0606060606060602 } }, BAD_HOST },
	{ "host PAT, type 3", { { F_EXIT, OR, X_LOAD_PAT }, { F_HOST_PAT, SET, 0x0306060606060606 } }, BAD_HOST },
	{ "host PAT, type 8", { { F_EXIT, OR, X_LOAD_PAT }, { F_HOST_PAT, SET, 0x0606080606060606 } }, BAD_HOST },
	{ "host PAT, type 0x80", { { F_EXIT, OR, X_LOAD_PAT }, { F_HOST_PAT, SET, 0x8006060606060606 } }, BAD_HOST },
	{ "bad host PAT, not loaded", { { F_HOST_PAT, SET, ~0ull } }, ENTERS },
	{ "host PAT", { { F_EXIT, OR, X_LOAD_PAT } }, ENTERS },
	{ "host EFER, bit 1", { { F_EXIT, OR, X_LOAD_EFER }, { F_HOST_EFER, OR, 2 } }, BAD_HOST },
	{ "host EFER, bit 63", { { F_EXIT, OR, X_LOAD_EFER }, { F_HOST_EFER, OR, 1ull << 63 } }, BAD_HOST },
	{ "host EFER.LMA clear", { { F_EXIT, OR, X_LOAD_EFER }, { F_HOST_EFER, CLEAR, EFER_LMA } }, BAD_HOST },
	{ "host EFER.LME clear", { { F_EXIT, OR, X_LOAD_EFER }, { F_HOST_EFER, CLEAR, EFER_LME } }, BAD_HOST },
	{ "bad host EFER, not loaded", { { F_EXIT, CLEAR, X_LOAD_EFER }, { F_HOST_EFER, SET, ~0ull } }, ENTERS },
	{ "host CS: RPL", { { F_HOST_CS_SEL, OR, 1 } }, BAD_HOST },
	{ "host CS: TI", { { F_HOST_CS_SEL, OR, 4 } }, BAD_HOST },
	{ "host SS: RPL", { { F_HOST_SS_SEL, OR, 3 } }, BAD_HOST },
	{ "host SS: TI", { { F_HOST_SS_SEL, OR, 4 } }, BAD_HOST },
	{ "host DS: RPL", { { F_HOST_DS_SEL, OR, 2 } }, BAD_HOST },
	{ "host DS: TI", { { F_HOST_DS_SEL, OR, 4 } }, BAD_HOST },
	{ "host ES: RPL", { { F_HOST_ES_SEL, OR, 1 } }, BAD_HOST },
	{ "host ES: TI", { { F_HOST_ES_SEL, OR, 4 } }, BAD_HOST },
	{ "host FS: RPL", { { F_HOST_FS_SEL, OR, 1 } }, BAD_HOST },
	{ "host FS: TI", { { F_HOST_FS_SEL, OR, 4 } }, BAD_HOST },
	{ "host GS: RPL", { { F_HOST_GS_SEL, OR, 3 } }, BAD_HOST },
	{ "host GS: TI", { { F_HOST_GS_SEL, OR, 4 } }, BAD_HOST },
	{ "host TR: RPL", { { F_HOST_TR_SEL, OR, 3 } }, BAD_HOST },
	{ "host TR: TI", { { F_HOST_TR_SEL, OR, 4 } }, BAD_HOST },
	{ "host CS null", { { F_HOST_CS_SEL, SET, 0 } }, BAD_HOST },
	{ "host TR null", { { F_HOST_TR_SEL, SET, 0 } }, BAD_HOST },
	{ "host DS null", { { F_HOST_DS_SEL, SET, 0 } }, ENTERS },
	{ "host SS null, 64-bit host", { { F_HOST_SS_SEL, SET, 0 } }, ENTERS },
	{ "host FS base", { { F_HOST_FS_BASE, SET, NOT_CANONICAL } }, BAD_HOST },
	{ "host GS base", { { F_HOST_GS_BASE, SET, NOT_CANONICAL } }, BAD_HOST },
	{ "host TR base", { { F_HOST_TR_BASE, SET, NOT_CANONICAL } }, BAD_HOST },
	{ "host GDTR base", { { F_HOST_GDTR_BASE, SET, NOT_CANONICAL } }, BAD_HOST },
	{ "host IDTR base", { { F_HOST_IDTR_BASE, SET, NOT_CANONICAL } }, BAD_HOST },
	/* "Checks Related to Address-Space Size" */
	{ "a 32-bit host of a 64-bit processor", { { F_EXIT, CLEAR, X_HOST64 } }, BAD_HOST },
	{ "a 32-bit host of a 64-bit processor, 32-bit guest",
	  { { F_EXIT, CLEAR, X_HOST64 | X_LOAD_EFER }, { F_ENTRY, CLEAR, N_IA32E } }, BAD_HOST },
	{ "host RIP not canonical", { { F_HOST_RIP, SET, NOT_CANONICAL } }, BAD_HOST },
};

void group_entry_host(void)
{
	TRY(LONG, host_rows);
	if (!cap.la57) {
		static const struct row narrow[] = {
			{ "host RIP beyond 48 bits", { { F_HOST_RIP, SET, 1ull << 47 } }, BAD_HOST },
			{ "host FS base beyond 48 bits", { { F_HOST_FS_BASE, SET, 0xff00000000000000 } }, BAD_HOST },
		};

		TRY(LONG, narrow);
	}
}

/* ---- "Checks on the Guest-State Area" ---- */

static const struct row guest_register_rows[] = {
	{ "guest CR0.NE clear", { { F_GUEST_CR0, CLEAR, CR0_NE } }, BAD_GUEST },
	{ "guest CR0.PE clear", { { F_GUEST_CR0, CLEAR, CR0_PE } }, BAD_GUEST },
	{ "guest CR0.PG clear", { { F_GUEST_CR0, CLEAR, CR0_PG } }, BAD_GUEST },
	{ "guest CR0, bit 32", { { F_GUEST_CR0, OR, 1ull << 32 } }, BAD_GUEST },
	{ "guest CR0.CD and NW", { { F_GUEST_CR0, OR, CR0_CD | CR0_NW } }, ENTERS },
	{ "guest CR0.NW alone", { { F_GUEST_CR0, OR, CR0_NW } }, ENTERS },
	{ "guest CR0.TS", { { F_GUEST_CR0, OR, CR0_TS } }, ENTERS },
	{ "guest CR4.VMXE clear", { { F_GUEST_CR4, CLEAR, CR4_VMXE } }, BAD_GUEST },
	{ "guest CR4, bit 31", { { F_GUEST_CR4, OR, 1ull << 31 } }, BAD_GUEST },
	{ "guest CR4, bit 32", { { F_GUEST_CR4, OR, 1ull << 32 } }, BAD_GUEST },
	{ "guest CR4.PAE clear in IA-32e mode", { { F_GUEST_CR4, CLEAR, CR4_PAE } }, BAD_GUEST },
	{ "guest CR3 too wide", { { F_GUEST_CR3, WIDE, 0 } }, BAD_GUEST },
	{ "guest CR3, bit 63", { { F_GUEST_CR3, OR, 1ull << 63 } }, BAD_GUEST },
	{ "guest DR7, bit 32", { { F_ENTRY, OR, N_LOAD_DEBUG }, { F_GUEST_DR7, OR, 1ull << 32 } }, BAD_GUEST },
	{ "guest DR7, bit 63", { { F_ENTRY, OR, N_LOAD_DEBUG }, { F_GUEST_DR7, OR, 1ull << 63 } }, BAD_GUEST },
	{ "guest DR7, not loaded", { { F_ENTRY, CLEAR, N_LOAD_DEBUG }, { F_GUEST_DR7, OR, 1ull << 63 } }, ENTERS },
	{ "guest DEBUGCTL, bit 2", { { F_ENTRY, OR, N_LOAD_DEBUG }, { F_GUEST_DEBUGCTL, SET, 4 } }, BAD_GUEST },
	{ "guest DEBUGCTL, bit 63", { { F_ENTRY, OR, N_LOAD_DEBUG }, { F_GUEST_DEBUGCTL, SET, 1ull << 63 } },
	  BAD_GUEST },
	{ "guest DEBUGCTL, not loaded", { { F_ENTRY, CLEAR, N_LOAD_DEBUG }, { F_GUEST_DEBUGCTL, SET, ~0ull } },
	  ENTERS },
	{ "guest SYSENTER_ESP", { { F_GUEST_SYSENTER_ESP, SET, NOT_CANONICAL } }, BAD_GUEST },
	{ "guest SYSENTER_EIP", { { F_GUEST_SYSENTER_EIP, SET, NOT_CANONICAL } }, BAD_GUEST },
	{ "guest PAT, type 2", { { F_ENTRY, OR, N_LOAD_PAT }, { F_GUEST_PAT, SET, 0x0606060606060206 } }, BAD_GUEST },
	{ "guest PAT, type 8", { { F_ENTRY, OR, N_LOAD_PAT }, { F_GUEST_PAT, SET, 0x0806060606060606 } }, BAD_GUEST },
	{ "guest PAT, type 7", { { F_ENTRY, OR, N_LOAD_PAT }, { F_GUEST_PAT, SET, 0x0706060606060606 } }, ENTERS },
	{ "guest PAT, not loaded", { { F_GUEST_PAT, SET, ~0ull } }, ENTERS },
	{ "guest EFER, bit 1", { { F_ENTRY, OR, N_LOAD_EFER }, { F_GUEST_EFER, OR, 2 } }, BAD_GUEST },
	{ "guest EFER, bit 63", { { F_ENTRY, OR, N_LOAD_EFER }, { F_GUEST_EFER, OR, 1ull << 63 } }, BAD_GUEST },
	{ "guest EFER.LMA clear in IA-32e mode", { { F_ENTRY, OR, N_LOAD_EFER }, { F_GUEST_EFER, CLEAR, EFER_LMA } },
	  BAD_GUEST },
	{ "guest EFER.LME clear in IA-32e mode", { { F_ENTRY, OR, N_LOAD_EFER }, { F_GUEST_EFER, CLEAR, EFER_LME } },
	  BAD_GUEST },
	{ "guest EFER.SCE clear", { { F_ENTRY, OR, N_LOAD_EFER }, { F_GUEST_EFER, CLEAR, EFER_SCE } }, ENTERS },
	{ "guest EFER, not loaded", { { F_ENTRY, CLEAR, N_LOAD_EFER }, { F_GUEST_EFER, SET, ~0ull } }, ENTERS },
	{ "guest TR: TI", { { F_GUEST_TR_SEL, OR, 4 } }, BAD_GUEST },
	{ "guest LDTR: TI", { { F_GUEST_LDTR_SEL, SET, 4 }, { F_GUEST_LDTR_AR, SET, 0x82 } }, BAD_GUEST },
	{ "guest LDTR unusable: TI", { { F_GUEST_LDTR_SEL, SET, 4 } }, ENTERS },
	{ "guest SS: RPL is not that of CS", { { F_GUEST_SS_SEL, OR, 1 } }, BAD_GUEST },
	{ "guest CS: RPL is not that of SS", { { F_GUEST_CS_SEL, OR, 3 } }, BAD_GUEST },
	{ "guest TR base", { { F_GUEST_TR_BASE, SET, NOT_CANONICAL } }, BAD_GUEST },
	{ "guest FS base", { { F_GUEST_FS_BASE, SET, NOT_CANONICAL } }, BAD_GUEST },
	{ "guest GS base", { { F_GUEST_GS_BASE, SET, NOT_CANONICAL } }, BAD_GUEST },
	{ "guest FS base, unusable", { { F_GUEST_FS_BASE, SET, NOT_CANONICAL }, { F_GUEST_FS_AR, SET, 0x10000 } },
	  BAD_GUEST },
	{ "guest FS base of 64 bits", { { F_GUEST_FS_BASE, SET, 0xffff800000000000 } }, ENTERS },
	{ "guest LDTR base", { { F_GUEST_LDTR_BASE, SET, NOT_CANONICAL }, { F_GUEST_LDTR_AR, SET, 0x82 } }, BAD_GUEST },
	{ "guest LDTR base, unusable", { { F_GUEST_LDTR_BASE, SET, NOT_CANONICAL } }, ENTERS },
	{ "guest CS base of 33 bits", { { F_GUEST_CS_BASE, SET, 1ull << 32 } }, BAD_GUEST },
	{ "guest SS base of 33 bits", { { F_GUEST_SS_BASE, SET, 1ull << 32 } }, BAD_GUEST },
	{ "guest DS base of 33 bits", { { F_GUEST_DS_BASE, SET, 1ull << 32 } }, BAD_GUEST },
	{ "guest ES base of 33 bits", { { F_GUEST_ES_BASE, SET, 1ull << 63 } }, BAD_GUEST },
	{ "guest ES base of 33 bits, unusable",
	  { { F_GUEST_ES_BASE, SET, 1ull << 32 }, { F_GUEST_ES_AR, SET, 0x10000 } }, ENTERS },
	{ "guest SS base of 33 bits, unusable",
	  { { F_GUEST_SS_BASE, SET, 1ull << 32 }, { F_GUEST_SS_AR, SET, 0x10000 } }, ENTERS },
	{ "guest GDTR base", { { F_GUEST_GDTR_BASE, SET, NOT_CANONICAL } }, BAD_GUEST },
	{ "guest IDTR base", { { F_GUEST_IDTR_BASE, SET, NOT_CANONICAL } }, BAD_GUEST },
	{ "guest GDTR limit", { { F_GUEST_GDTR_LIMIT, SET, 0x10000 } }, BAD_GUEST },
	{ "guest IDTR limit", { { F_GUEST_IDTR_LIMIT, SET, 0x80000000 } }, BAD_GUEST },
	{ "guest RIP not canonical", { { F_GUEST_RIP, SET, NOT_CANONICAL } }, BAD_GUEST },
	{ "guest RFLAGS, bit 1 clear", { { F_GUEST_RFLAGS, CLEAR, 2 } }, BAD_GUEST },
	{ "guest RFLAGS, bit 3", { { F_GUEST_RFLAGS, OR, 8 } }, BAD_GUEST },
	{ "guest RFLAGS, bit 5", { { F_GUEST_RFLAGS, OR, 0x20 } }, BAD_GUEST },
	{ "guest RFLAGS, bit 15", { { F_GUEST_RFLAGS, OR, 0x8000 } }, BAD_GUEST },
	{ "guest RFLAGS, bit 22", { { F_GUEST_RFLAGS, OR, 1 << 22 } }, BAD_GUEST },
	{ "guest RFLAGS, bit 63", { { F_GUEST_RFLAGS, OR, 1ull << 63 } }, BAD_GUEST },
	{ "guest RFLAGS.VM in IA-32e mode", { { F_GUEST_RFLAGS, OR, 1 << 17 } }, BAD_GUEST },
	{ "guest RFLAGS, ID, NT and the arithmetic flags", { { F_GUEST_RFLAGS, OR, 0x2048d5 } }, ENTERS },
	{ "external interrupt with RFLAGS.IF clear", { { F_INJECT, SET, INFO(T_EXTERNAL, 0x40) } }, BAD_GUEST },
	{ "external interrupt", { { F_GUEST_RFLAGS, OR, FLAG_IF }, { F_INJECT, SET, INFO(T_EXTERNAL, 0x40) } },
	  ANY_EXIT },
};

/* CS.L and D/B, code of 32 bits in IA-32e mode, guests without IA-32e mode. */
static const struct row compat_rows[] = {
	{ "RIP of 33 bits in compatibility mode", { { F_GUEST_RIP, SET, 1ull << 32 } }, BAD_GUEST },
	{ "compatibility mode", { { F_GUEST_RFLAGS, OR, 1 } }, ENTERS },
	{ "CS.L and CS.D", { { F_GUEST_CS_AR, SET, 0xe09b } }, BAD_GUEST },
};
static const struct row pae_rows[] = {
	{ "32-bit guest, PAE", { { F_GUEST_RFLAGS, OR, 1 } }, ENTERS },
	{ "CR4.PCIDE without IA-32e mode", { { F_GUEST_CR4, OR, CR4_PCIDE } }, BAD_GUEST },
	{ "RIP of 33 bits", { { F_GUEST_RIP, SET, 1ull << 32 } }, BAD_GUEST },
	{ "CS.L without IA-32e mode is ignored", { { F_GUEST_CS_AR, OR, 0x2000 } }, ANY_EXIT },
	{ "EFER.LMA without IA-32e mode", { { F_ENTRY, OR, N_LOAD_EFER }, { F_GUEST_EFER, SET, EFER_LMA | EFER_LME } },
	  BAD_GUEST },
	{ "EFER.LME with paging, not in IA-32e mode", { { F_ENTRY, OR, N_LOAD_EFER }, { F_GUEST_EFER, SET, EFER_LME } },
	  BAD_GUEST },
	{ "TR of 16 bits", { { F_GUEST_TR_AR, SET, 0x83 } }, ENTERS },
	{ "CR3 with low bits", { { F_GUEST_CR3, OR, 0x1f } }, ENTERS },
};
static const struct row v86_rows[] = {
	{ "virtual-8086 mode", { { F_GUEST_RFLAGS, OR, 1 } }, ENTERS },
	{ "virtual-8086: CS base", { { F_GUEST_CS_BASE, SET, 0x10 } }, BAD_GUEST },
	{ "virtual-8086: SS base", { { F_GUEST_SS_SEL, SET, 0x10 } }, BAD_GUEST },
	{ "virtual-8086: SS base that fits", { { F_GUEST_SS_SEL, SET, 0x10 }, { F_GUEST_SS_BASE, SET, 0x100 } },
	  ENTERS },
	{ "virtual-8086: selectors differ in RPL", { { F_GUEST_SS_SEL, SET, 0x13 }, { F_GUEST_SS_BASE, SET, 0x130 } },
	  ENTERS },
	{ "virtual-8086: DS limit", { { F_GUEST_DS_LIMIT, SET, 0xfffff } }, BAD_GUEST },
	{ "virtual-8086: ES limit", { { F_GUEST_ES_LIMIT, SET, 0xfffe } }, BAD_GUEST },
	{ "virtual-8086: FS rights", { { F_GUEST_FS_AR, SET, 0x93 } }, BAD_GUEST },
	{ "virtual-8086: GS unusable", { { F_GUEST_GS_AR, SET, 0x100f3 } }, BAD_GUEST },
	{ "virtual-8086: CS rights", { { F_GUEST_CS_AR, SET, 0xfb } }, BAD_GUEST },
	{ "virtual-8086: TR is checked", { { F_GUEST_TR_AR, SET, 0x82 } }, BAD_GUEST },
};
static const struct row real_rows[] = {
	{ "real mode", { { F_GUEST_RFLAGS, OR, 1 } }, ENTERS },
	{ "real mode, IA-32e control", { { F_ENTRY, OR, N_IA32E } }, BAD_GUEST },
	{ "PG without PE", { { F_GUEST_CR0, OR, CR0_PG } }, BAD_GUEST },
	{ "NE clear", { { F_GUEST_CR0, CLEAR, CR0_NE } }, BAD_GUEST },
	{ "real mode: SS.DPL", { { F_GUEST_SS_AR, OR, 0x60 } }, BAD_GUEST },
	{ "real mode: RFLAGS.VM", { { F_GUEST_RFLAGS, OR, 1 << 17 } }, BAD_GUEST },
	{ "real mode: EFER.LME", { { F_ENTRY, OR, N_LOAD_EFER }, { F_GUEST_EFER, SET, EFER_LME } }, ENTERS },
	{ "real mode: EFER.LMA", { { F_ENTRY, OR, N_LOAD_EFER }, { F_GUEST_EFER, SET, EFER_LMA | EFER_LME } },
	  BAD_GUEST },
	{ "real mode: CS of type 3", { { F_GUEST_CS_AR, SET, 0x93 } }, ENTERS },
	{ "real mode: CS of type 3, DPL 3", { { F_GUEST_CS_AR, SET, 0xf3 } }, BAD_GUEST },
	{ "real mode: CS of type 7", { { F_GUEST_CS_AR, SET, 0x97 } }, BAD_GUEST },
	{ "real mode: RPLs differ", { { F_GUEST_SS_SEL, SET, 0x13 }, { F_GUEST_SS_BASE, SET, 0x130 } }, ENTERS },
	{ "real mode: base that is not 16 times the selector", { { F_GUEST_CS_BASE, SET, (u64)g_call } }, ENTERS },
	{ "real mode: big limit", { { F_GUEST_DS_LIMIT, SET, 0xffffffff }, { F_GUEST_DS_AR, SET, 0x8093 } }, ENTERS },
	{ "real mode: external interrupt with IF clear", { { F_INJECT, SET, INFO(T_EXTERNAL, 0x40) } }, BAD_GUEST },
};
static const struct row bare_rows[] = {
	{ "protected mode without paging", { { F_GUEST_RFLAGS, OR, 1 } }, ENTERS },
	{ "without paging, IA-32e control", { { F_ENTRY, OR, N_IA32E } }, BAD_GUEST },
	{ "unrestricted: data segment's RPL above its DPL", { { F_GUEST_DS_SEL, SET, SEL_DATA | 3 } }, ENTERS },
	{ "unrestricted: SS.DPL is not its RPL", { { F_GUEST_SS_SEL, SET, SEL_DATA | 3 } }, ENTERS },
	{ "unrestricted: CS of type 3 with SS.DPL 1",
	  { { F_GUEST_CS_AR, SET, 0xc093 }, { F_GUEST_SS_AR, SET, 0xc0b3 } }, BAD_GUEST },
};

/* ---- access rights, by rule ---- */

struct rights_case { u32 sel_field; const char *name; };

static bool type_ok(u32 sel_field, unsigned type, enum mode m)
{
	switch (sel_field) {
	case F_GUEST_CS_SEL: return type == 9 || type == 11 || type == 13 || type == 15;
	case F_GUEST_SS_SEL: return type == 3 || type == 7;
	case F_GUEST_LDTR_SEL: return type == 2;
	case F_GUEST_TR_SEL: return type == 11 || (type == 3 && m != LONG && m != COMPAT);
	default: return type & 1 && (type < 8 || type & 2);
	}
}

static void rights(const char *name, u32 sel_field, enum mode m, u64 v, bool ok)
{
	vm_good(m);
	vm_put(sel_field - F_GUEST_ES_SEL + F_GUEST_ES_AR, v);
	check_outcome(name, ok ? ANY_EXIT : BAD_GUEST, vm_enter());
	if (failure_shown())
		print("      (rights 0x%lx, mode %d)\n", v, m);
}

/* Types, S, P and the reserved bits of one segment register. */
static void segment_rights(const char *name, u32 sel_field, enum mode m, u32 good)
{
	bool system = sel_field >= F_GUEST_LDTR_SEL;

	for (unsigned type = 0; type < 16; type++)
		rights(name, sel_field, m, (good & ~15u) | type, type_ok(sel_field, type, m));
	rights(name, sel_field, m, good ^ 0x10, false);
	rights(name, sel_field, m, good & ~0x80u, false);
	for (unsigned bit = 8; bit < 32; bit++)
		if (bit < 12 || bit > 16)
			rights(name, sel_field, m, good | 1u << bit, false);
	rights(name, sel_field, m, good | 1u << 12, true);
	if (sel_field == F_GUEST_CS_SEL || sel_field == F_GUEST_TR_SEL)
		rights(name, sel_field, m, sel_field == F_GUEST_TR_SEL ? good | 0x10000 : good,
		       sel_field != F_GUEST_TR_SEL);
	else
		rights(name, sel_field, m, 0x10000, true);
	if (!system && sel_field != F_GUEST_CS_SEL)
		rights(name, sel_field, m, 0x1ff00, true); /* unusable: nothing is checked */
	expect_good(name);
}

static void granularity(void)
{
	static const struct { u32 limit; bool g, ok; } cases[] = {
		{ 0xffffffff, true, true }, { 0xfff, true, true }, { 0xfffff, true, true },
		  { 0xffffffff, false, false },
		{ 0xfffff, false, true }, { 0x100fff, false, false }, { 0xffffeffe, true, false },
		  { 0xfffff7ff, true, false },
		{ 0, true, false }, { 0, false, true },
	};
	static const u32 fields[] = { F_GUEST_CS_SEL, F_GUEST_SS_SEL, F_GUEST_DS_SEL, F_GUEST_FS_SEL, F_GUEST_TR_SEL,
				      F_GUEST_LDTR_SEL };

	for (unsigned i = 0; i < ARRAY_SIZE(fields); i++)
		for (unsigned j = 0; j < ARRAY_SIZE(cases); j++) {
			u32 field = fields[i] - F_GUEST_ES_SEL;

			vm_good(LONG);
			if (fields[i] == F_GUEST_LDTR_SEL)
				vm_put(F_GUEST_LDTR_AR, 0x82);
			vm_put(F_GUEST_ES_LIMIT + field, cases[j].limit);
			vm_put(F_GUEST_ES_AR + field, (vm_get(F_GUEST_ES_AR + field) & ~0x8000ull) | cases[j].g << 15);
			check_outcome("granularity and limit", cases[j].ok ? ANY_EXIT : BAD_GUEST, vm_enter());
			if (failure_shown())
				print("      (selector field 0x%x, limit 0x%x, G %d)\n", fields[i], cases[j].limit,
				      cases[j].g);
		}
}

/* Privilege levels of CS, SS and the data segments. */
static void levels(void)
{
	for (unsigned cs_type = 9; cs_type < 16; cs_type += 2)
		for (unsigned cs = 0; cs < 4; cs++)
			for (unsigned ss = 0; ss < 4; ss++) {
				bool ok = cs_type < 12 ? cs == ss : cs <= ss;

				vm_good(LONG);
				vm_put(F_GUEST_CS_SEL, SEL_CODE | ss);
				vm_put(F_GUEST_SS_SEL, SEL_DATA | ss);
				for (u32 f = F_GUEST_ES_AR; f <= F_GUEST_GS_AR; f += 2)
					vm_put(f, 0xc0f3);
				vm_put(F_GUEST_CS_AR, 0xa090 | cs << 5 | cs_type);
				vm_put(F_GUEST_SS_AR, 0xc093 | ss << 5);
				check_outcome("DPLs of CS and SS", ok ? ANY_EXIT : BAD_GUEST, vm_enter());
				if (failure_shown())
					print("      (type %d, CS %d, SS %d)\n", cs_type, cs, ss);
			}
	for (unsigned rpl = 0; rpl < 4; rpl++)
		for (unsigned dpl = 0; dpl < 4; dpl++) {
			vm_good(LONG);
			vm_put(F_GUEST_DS_SEL, SEL_DATA | rpl);
			vm_put(F_GUEST_DS_AR, 0xc093 | dpl << 5);
			check_outcome("DPL and RPL of DS", dpl >= rpl ? ANY_EXIT : BAD_GUEST, vm_enter());
			vm_good(LONG);
			vm_put(F_GUEST_GS_SEL, SEL_CODE | rpl);
			vm_put(F_GUEST_GS_AR, 0xa09f | dpl << 5); /* conforming code: no matter */
			check_outcome("DPL and RPL of GS, conforming", ANY_EXIT, vm_enter());
			vm_good(LONG);
			vm_put(F_GUEST_FS_SEL, SEL_CODE | rpl);
			vm_put(F_GUEST_FS_AR, 0xa09b | dpl << 5);
			check_outcome("DPL and RPL of FS, code", dpl >= rpl ? ANY_EXIT : BAD_GUEST, vm_enter());
			vm_good(LONG);
			vm_put(F_GUEST_SS_SEL, SEL_DATA | rpl);
			vm_put(F_GUEST_CS_SEL, SEL_CODE | rpl);
			vm_put(F_GUEST_CS_AR, 0xa09f);
			vm_put(F_GUEST_SS_AR, 0x10000 | dpl << 5);
			check_outcome("DPL and RPL of an unusable SS", dpl == rpl ? ANY_EXIT : BAD_GUEST, vm_enter());
		}
	expect_good("privilege levels");
}

static void all_rights(void)
{
	static const struct { const char *name; u32 field; u32 rights; } segments[] = {
		{ "rights of CS", F_GUEST_CS_SEL, 0xa09b }, { "rights of SS", F_GUEST_SS_SEL, 0xc093 },
		{ "rights of DS", F_GUEST_DS_SEL, 0xc093 }, { "rights of ES", F_GUEST_ES_SEL, 0xc093 },
		{ "rights of FS", F_GUEST_FS_SEL, 0xc093 }, { "rights of GS", F_GUEST_GS_SEL, 0xc093 },
		{ "rights of LDTR", F_GUEST_LDTR_SEL, 0x82 }, { "rights of TR", F_GUEST_TR_SEL, 0x8b },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(segments); i++)
		segment_rights(segments[i].name, segments[i].field, LONG, segments[i].rights);
	segment_rights("rights of CS, 32-bit", F_GUEST_CS_SEL, PAE, 0xc09b);
	segment_rights("rights of TR, 32-bit", F_GUEST_TR_SEL, PAE, 0x8b);
	granularity();
	levels();
}

/* ---- "Checks on Guest Non-Register State" ---- */

static const struct row state_rows[] = {
	{ "activity state 4", { { F_ACTIVITY, SET, 4 } }, BAD_GUEST },
	{ "activity state 2^31", { { F_ACTIVITY, SET, 1u << 31 } }, BAD_GUEST },
	{ "HLT with SS.DPL 3",
	  { { F_ACTIVITY, SET, HALTED }, { F_GUEST_SS_SEL, OR, 3 }, { F_GUEST_CS_SEL, OR, 3 },
	    { F_GUEST_SS_AR, OR, 0x60 },
	    { F_GUEST_CS_AR, OR, 0x60 } }, BAD_GUEST },
	{ "HLT with blocking by STI",
	  { { F_ACTIVITY, SET, HALTED }, { F_GUEST_RFLAGS, OR, FLAG_IF }, { F_INTERRUPTIBILITY, SET, BLOCK_STI } },
	    BAD_GUEST },
	{ "HLT with blocking by MOV SS", { { F_ACTIVITY, SET, HALTED }, { F_INTERRUPTIBILITY, SET, BLOCK_MOVSS } },
	  BAD_GUEST },
	{ "HLT and an external interrupt",
	  { { F_ACTIVITY, SET, HALTED }, { F_GUEST_RFLAGS, OR, FLAG_IF }, { F_INJECT, SET, INFO(T_EXTERNAL, 0x40) } },
	    ANY_EXIT },
	{ "HLT and an NMI", { { F_ACTIVITY, SET, HALTED }, { F_INJECT, SET, INFO(T_NMI, 2) } }, ANY_EXIT },
	{ "HLT and #DB", { { F_ACTIVITY, SET, HALTED }, { F_INJECT, SET, INFO(T_HARD, 1) } }, ANY_EXIT },
	{ "HLT and #MC", { { F_ACTIVITY, SET, HALTED }, { F_INJECT, SET, INFO(T_HARD, 18) } }, ANY_EXIT },
	{ "HLT and #UD", { { F_ACTIVITY, SET, HALTED }, { F_INJECT, SET, INFO(T_HARD, 6) } }, BAD_GUEST },
	{ "HLT and a software interrupt",
	  { { F_ACTIVITY, SET, HALTED }, { F_INJECT, SET, INFO(T_SOFT_INT, 0x40) }, { F_INJECT_LEN, SET, 2 } },
	    BAD_GUEST },
	{ "HLT and a software exception",
	  { { F_ACTIVITY, SET, HALTED }, { F_INJECT, SET, INFO(T_SOFT, 3) }, { F_INJECT_LEN, SET, 1 } }, BAD_GUEST },
	{ "HLT and INT1", { { F_ACTIVITY, SET, HALTED }, { F_INJECT, SET, INFO(T_PRIV, 1) }, { F_INJECT_LEN, SET, 1 } },
	  BAD_GUEST },
	{ "interruptibility, bit 5", { { F_INTERRUPTIBILITY, SET, 1 << 5 } }, BAD_GUEST },
	{ "interruptibility, bit 31", { { F_INTERRUPTIBILITY, SET, 1u << 31 } }, BAD_GUEST },
	{ "blocking by STI and MOV SS", { { F_GUEST_RFLAGS, OR, FLAG_IF },
	  { F_INTERRUPTIBILITY, SET, BLOCK_STI | BLOCK_MOVSS } },
	  BAD_GUEST },
	{ "blocking by STI with RFLAGS.IF clear", { { F_INTERRUPTIBILITY, SET, BLOCK_STI } }, BAD_GUEST },
	{ "blocking by STI", { { F_GUEST_RFLAGS, OR, FLAG_IF }, { F_INTERRUPTIBILITY, SET, BLOCK_STI } }, ENTERS },
	{ "blocking by MOV SS", { { F_INTERRUPTIBILITY, SET, BLOCK_MOVSS } }, ENTERS },
	{ "blocking by NMI", { { F_INTERRUPTIBILITY, SET, BLOCK_NMI } }, ENTERS },
	{ "blocking by SMI", { { F_INTERRUPTIBILITY, SET, BLOCK_SMI } }, BAD_GUEST },
	{ "external interrupt with blocking by STI",
	  { { F_GUEST_RFLAGS, OR, FLAG_IF }, { F_INTERRUPTIBILITY, SET, BLOCK_STI },
	    { F_INJECT, SET, INFO(T_EXTERNAL, 0x40) } },
	  BAD_GUEST },
	{ "external interrupt with blocking by MOV SS",
	  { { F_GUEST_RFLAGS, OR, FLAG_IF }, { F_INTERRUPTIBILITY, SET, BLOCK_MOVSS },
	    { F_INJECT, SET, INFO(T_EXTERNAL, 0x40) } },
	  BAD_GUEST },
	{ "NMI with blocking by MOV SS", { { F_INTERRUPTIBILITY, SET, BLOCK_MOVSS },
	  { F_INJECT, SET, INFO(T_NMI, 2) } }, BAD_GUEST },
	{ "NMI with blocking by NMI, virtual NMIs",
	  { { F_PIN, OR, PIN_NMI | PIN_VNMI }, { F_INTERRUPTIBILITY, SET, BLOCK_NMI },
	    { F_INJECT, SET, INFO(T_NMI, 2) } }, BAD_GUEST },
	{ "NMI with blocking by NMI, real NMIs",
	  { { F_INTERRUPTIBILITY, SET, BLOCK_NMI }, { F_INJECT, SET, INFO(T_NMI, 2) } }, ANY_EXIT },
	{ "pending debug exceptions, bit 4", { { F_PENDING_DEBUG, SET, 1 << 4 } }, BAD_GUEST },
	{ "pending debug exceptions, bit 11", { { F_PENDING_DEBUG, SET, 1 << 11 } }, BAD_GUEST },
	{ "pending debug exceptions, bit 13", { { F_PENDING_DEBUG, SET, 1 << 13 } }, BAD_GUEST },
	{ "pending debug exceptions, bit 15", { { F_PENDING_DEBUG, SET, 1 << 15 } }, BAD_GUEST },
	{ "pending debug exceptions, bit 17", { { F_PENDING_DEBUG, SET, 1 << 17 } }, BAD_GUEST },
	{ "pending debug exceptions, bit 63", { { F_PENDING_DEBUG, SET, 1ull << 63 } }, BAD_GUEST },
	{ "pending debug exceptions, B0-B3", { { F_PENDING_DEBUG, SET, 0xf } }, ANY_EXIT },
	{ "blocking by STI, TF, no BS",
	  { { F_GUEST_RFLAGS, OR, FLAG_IF | FLAG_TF }, { F_INTERRUPTIBILITY, SET, BLOCK_STI } }, BAD_GUEST },
	{ "blocking by STI, TF, BS",
	  { { F_GUEST_RFLAGS, OR, FLAG_IF | FLAG_TF }, { F_INTERRUPTIBILITY, SET, BLOCK_STI },
	    { F_PENDING_DEBUG, SET, 1 << 14 } }, ANY_EXIT },
	{ "blocking by MOV SS, TF, no BS",
	  { { F_GUEST_RFLAGS, OR, FLAG_TF }, { F_INTERRUPTIBILITY, SET, BLOCK_MOVSS } }, BAD_GUEST },
	{ "blocking by MOV SS, no TF, BS",
	  { { F_INTERRUPTIBILITY, SET, BLOCK_MOVSS }, { F_PENDING_DEBUG, SET, 1 << 14 } }, BAD_GUEST },
	{ "blocking by MOV SS, TF and BTF, BS",
	  { { F_ENTRY, OR, N_LOAD_DEBUG }, { F_GUEST_DEBUGCTL, SET, 2 }, { F_GUEST_RFLAGS, OR, FLAG_TF },
	    { F_INTERRUPTIBILITY, SET, BLOCK_MOVSS },
	    { F_PENDING_DEBUG, SET, 1 << 14 } }, BAD_GUEST },
	{ "blocking by MOV SS, TF and BTF, no BS",
	  { { F_ENTRY, OR, N_LOAD_DEBUG }, { F_GUEST_DEBUGCTL, SET, 2 }, { F_GUEST_RFLAGS, OR, FLAG_TF },
	    { F_INTERRUPTIBILITY, SET, BLOCK_MOVSS } },
	  ANY_EXIT },
	{ "HLT, TF, no BS", { { F_ACTIVITY, SET, HALTED }, { F_GUEST_RFLAGS, OR, FLAG_TF } }, BAD_GUEST },
	{ "link pointer not aligned", { { F_GUEST_LINK, SET, (u64)(test_pages + 0x10) } }, BAD_LINK },
	{ "link pointer too wide", { { F_GUEST_LINK, SET, 1ull << 63 } }, BAD_LINK },
	{ "link pointer to itself", { { F_GUEST_LINK, SET, (u64)vmcs_region } }, BAD_LINK },
	{ "link pointer, wrong revision", { { F_GUEST_LINK, SET, (u64)test_pages } }, BAD_LINK },
	{ "link pointer to an ordinary VMCS", { { F_GUEST_LINK, SET, (u64)vmcs_other } }, ENTERS },
};

/* An NMI in the shadow of STI: some processors let it in, the others have a qualification of their own. */
static void nmi_after_sti(void)
{
	vm_good(LONG);
	vm_or(F_GUEST_RFLAGS, FLAG_IF);
	vm_put(F_INTERRUPTIBILITY, BLOCK_STI);
	vm_put(F_INJECT, INFO(T_NMI, 2));
	check(vm_enter() == OK, "NMI with blocking by STI: VMfail");
	if (vm_get(F_REASON) & ENTRY_FAILED)
		failed_entry("NMI with blocking by STI", 3);
	expect_good("NMI with blocking by STI");
}

static void activity_by_capability(void)
{
	static const struct { const char *what; u32 state; u64 bit; } states[] = {
		{ "the shutdown state", SHUT_DOWN, MISC_SHUTDOWN }, { "the wait-for-SIPI state", WAIT_SIPI, MISC_SIPI },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(states); i++) {
		vm_good(LONG);
		vm_put(F_ACTIVITY, states[i].state);
		if (cap.misc & states[i].bit)
			vm_put(F_INJECT, INFO(T_HARD, 6)); /* not in that state */
		check_outcome(states[i].what, BAD_GUEST, vm_enter());
	}
	expect_good("activity states");
}

/* "Checks on Guest Page-Directory-Pointer-Table Entries" */
static void pdptes(bool ept)
{
	static const struct { u64 v; bool ok; } cases[] = {
		{ 0, true }, { 2, true }, { 0xfffffffffffffffe, true }, { 1 | 2, false }, { 1 | 4, false },
		  { 1 | 0x20, false },
		{ 1 | 0x40, false }, { 1 | 0x80, false }, { 1 | 0x100, false }, { 1 | 1ull << 63, false },
		  { 1 | 8, true },
		{ 1 | 0xe00, true },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
		for (unsigned n = 0; n < 4; n++) {
			u64 old = guest_pdpt_pae[n], v = cases[i].v;

			if (v & 1)
				v |= old;
			guest_pdpt_pae[n] = ept ? old : v;
			if (ept)
				vm_good_ept(PAE, false);
			else
				vm_good(PAE);
			if (ept)
				vm_put(F_GUEST_PDPTE0 + 2 * n, v);
			/* The first gigabyte holds the program: without it the guest ends in a triple fault. */
			check_outcome(ept ? "PDPTEs of the VMCS" : "PDPTEs", cases[i].ok ? ANY_EXIT : BAD_PDPTE,
				      vm_enter());
			if (failure_shown())
				print("      (PDPTE %d, 0x%lx)\n", n, v);
			guest_pdpt_pae[n] = old;
		}
	/* With EPT the table in memory does not matter, without EPT the fields do not. */
	if (ept) {
		u64 old = guest_pdpt_pae[1];

		vm_good_ept(PAE, false);
		guest_pdpt_pae[1] = ~0ull;
		check_outcome("PDPTEs in memory under EPT", ENTERS, vm_enter());
		guest_pdpt_pae[1] = old;
	} else if (can_proc2(P2_EPT)) {
		vm_good(PAE);
		vm_put(F_GUEST_PDPTE0, ~0ull);
		check_outcome("PDPTEs of the VMCS without EPT", ENTERS, vm_enter());
	}
	expect_good("PDPTEs");
}

/*
 * RIP need only be a sign extension of as many bits as the processor has linear ones, which is one more than
 * canonical: an instruction may end at the last canonical address. What comes is #GP.
 */
static void rip_behind_the_last(void)
{
	vm_good(LONG);
	vm_put(F_GUEST_RIP, cap.la57 ? 1ull << 56 : 1ull << 47);
	check(vm_enter() == OK, "RIP behind the last canonical address: VMfail");
	expect_event("RIP behind the last canonical address", V_GP, 0);
	expect_good("RIP behind the last canonical address");
}

/* An entry that fails for guest state is no launch, keeps the guest's state, and loads the host's. */
static void failed_entry_effects(void)
{
	u64 info;

	vmcs_current(vmcs_region);
	vm_good(LONG);
	info = vm_get(F_EXIT_LEN);
	vm_put(F_GUEST_RFLAGS, 0);
	vm_put(F_INJECT, INFO(T_HARD, 6));
	reg[G_RBX] = 0x77;
	check(vm_enter() == OK, "an entry with bad guest state is an exit");
	failed_entry("bad guest state", 0);
	expect_field("a failed entry", "the event to inject", F_INJECT, INFO(T_HARD, 6));
	expect_field("a failed entry", "RIP", F_GUEST_RIP, at(g_call));
	expect_field("a failed entry", "RFLAGS", F_GUEST_RFLAGS, 0);
	expect_field("a failed entry", "exit instruction length", F_EXIT_LEN, info);
	check(reg[G_RBX] == 0x77, "a failed entry keeps the general registers");
	check(host_rflags == 2, "a failed entry loads RFLAGS: 0x%lx", host_rflags);
	check(vmresume() == FAIL_VALID && vm_get(F_INSN_ERROR) == E_RESUME_NOT_LAUNCHED, "a failed entry is no launch");
	expect_good("a failed entry");
}

void group_entry_guest(void)
{
	memset(test_pages, 0, PAGE);
	*(volatile u32 *)vmcs_other = cap.revision;
	TRY(LONG, guest_register_rows);
	TRY(COMPAT, compat_rows);
	TRY(PAE, pae_rows);
	TRY(V86, v86_rows);
	TRY(REAL, real_rows);
	TRY(BARE, bare_rows);
	rip_behind_the_last();
	all_rights();
	TRY(LONG, state_rows);
	nmi_after_sti();
	activity_by_capability();
	pdptes(false);
	if (can_proc2(P2_EPT))
		pdptes(true);
	failed_entry_effects();
}
