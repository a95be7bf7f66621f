/*
 * "The Extended Page Table Mechanism": rights at each level, violations and their qualification, misconfigurations,
 * accessed and dirty flags, page-modification logging.
 */
#include "vmx.h"

GUEST(a_read, "mov (%rbx), %al");
GUEST(a_write, "mov %al, (%rbx)");
GUEST(a_fetch, "jmp *%rbx"); /* to a VMCALL */
GUEST(a_modify, "incb (%rbx)");

enum { READ, WRITE, FETCH };
static const char *const access_code[] = { a_read, a_write, a_fetch };

#define LINEAR_VALID 0x80u
#define FINAL 0x100u
#define QUALIFICATION 0x1bfull /* the bits that are always defined */

/* Sizes of the page that is tried: how many levels its path has from the top. */
enum { LEAF_1G = 2, LEAF_2M = 3, LEAF_4K = 4 };
/* The page of test_pages[] whose path's entries are varied, by its place in the region. */
#define OFFSET 0x3123

static u64 *entry_at(unsigned level) /* 1: of the PML4, ... 4: of the page table */
{
	static const u64 gpa = TEST_GPA + OFFSET;

	switch (level) {
	case 1: return &ept_pml4[gpa >> 39 & 511];
	case 2: return &ept_test_pdpt[gpa >> 30 & 511];
	case 3: return &ept_test_pd[gpa >> 21 & 511];
	default: return &ept_test_pt[gpa >> 12 & 511];
	}
}

static bool size_offered(unsigned leaf)
{
	return leaf == LEAF_4K || (cap.ept_vpid & (leaf == LEAF_2M ? CAP_2M : CAP_1G));
}

/*
 * A guest whose linear TEST_LINEAR + OFFSET is guest-physical TEST_GPA + OFFSET, and that mapped with a page of the
 * size of @leaf. What a large page maps is memory where this program is: it is only read, or written as it was.
 */
static void ept_begin(unsigned leaf, bool ad)
{
	vm_good_ept(LONG, ad);
	for (unsigned i = 0; i < 8; i++)
		test_pt[i] = (TEST_GPA + i * PAGE) | PTE_P | PTE_W | PTE_U | PTE_A | PTE_D;
	memset(test_pages, 0, sizeof(test_pages));
	if (leaf == LEAF_2M)
		*entry_at(3) = (at(test_pages) & ~(MIB2 - 1)) | EPT_RWX | EPT_LARGE | EPT_WB;
	if (leaf == LEAF_1G)
		*entry_at(2) = EPT_RWX | EPT_LARGE | EPT_WB;
	if (leaf == LEAF_2M)
		test_pt[OFFSET >> 12] = (TEST_GPA + (at(test_pages) & (MIB2 - 1)) + (OFFSET & ~0xfff)) | 0x67;
	if (leaf == LEAF_1G)
		test_pt[OFFSET >> 12] = (TEST_GPA + at(test_pages) + (OFFSET & ~0xfff)) | 0x67;
	memcpy(test_pages + OFFSET, g_call, 3);
	reg[G_RBX] = TEST_LINEAR + OFFSET;
	reg[G_RAX] = 0x0f; /* the first byte of VMCALL: writing changes nothing */
}

static u64 gpa_tried(void) { return (test_pt[OFFSET >> 12] & ~0xfffull) | (OFFSET & 0xfff); }

/* The entry that maps the tried page, when large pages map it: not by the OFFSET's. */
static u64 *leaf_entry(unsigned leaf, unsigned level)
{
	u64 gpa = gpa_tried();

	(void)leaf;
	return level == 1 ? &ept_pml4[gpa >> 39 & 511] : level == 2 ? &ept_test_pdpt[gpa >> 30 & 511] :
	       level == 3 ? &ept_test_pd[gpa >> 21 & 511] : &ept_test_pt[gpa >> 12 & 511];
}

static void expect_violation(const char *what, u64 qualification, u64 gpa, u64 linear)
{
	if (!expect_reason(what, R_EPT_VIOLATION))
		return;
	check((vm_get(F_QUALIFICATION) & QUALIFICATION) == qualification, "%s: qualification 0x%lx, expected 0x%lx",
	      what,
	      vm_get(F_QUALIFICATION), qualification);
	expect_field(what, "guest-physical address", F_GUEST_PHYSICAL, gpa);
	if (qualification & LINEAR_VALID)
		expect_field(what, "guest-linear address", F_GUEST_LINEAR, linear);
	expect_field(what, "IDT-vectoring information", F_VECTORING, 0);
	check(vm_get(F_GUEST_RFLAGS) & FLAG_RF, "%s: RFLAGS.RF is saved as 0", what);
}

static const void *after(unsigned access)
{
	return access == READ ? (const void *)a_read_next : access == WRITE ? (const void *)a_write_next :
	       (const void *)(uintptr_t)(TEST_LINEAR + OFFSET);
}

/* ---- rights: one entry of the path has @rights, the others all ---- */

static void rights_case(const char *what, unsigned leaf, unsigned level, u64 rights, unsigned access, bool ad)
{
	bool wrong = rights == 2 || rights == 6 || (rights == 4 && !(cap.ept_vpid & CAP_EXEC_ONLY));
	u64 *entry;

	ept_begin(leaf, ad);
	entry = leaf_entry(leaf, level);
	*entry = (*entry & ~7ull) | rights;
	if (!vm_run(what, access_code[access]))
		return;
	if (wrong) {
		if (expect_reason(what, R_EPT_MISCONFIG)) {
			expect_field(what, "guest-physical address", F_GUEST_PHYSICAL, gpa_tried());
			check(vm_get(F_GUEST_RFLAGS) & FLAG_RF, "%s: RFLAGS.RF is saved as 0", what);
		}
	} else if (!(rights >> access & 1)) {
		expect_violation(what, 1u << access | rights << 3 | LINEAR_VALID | FINAL, gpa_tried(),
				 TEST_LINEAR + OFFSET);
		if (access != FETCH)
			expect_field(what, "RIP", F_GUEST_RIP, at(access_code[access]));
	} else {
		expect_call(what, after(access));
	}
	if (failure_shown())
		print("      (page of %d levels, level %d, rights %ld, access %d, flags %d)\n", leaf, level, rights,
		      access, ad);
	if (wrong || rights >> access & 1)
		return;
	/* Granting the right needs no INVEPT: the violation has dropped what there was. */
	*entry |= EPT_RWX;
	if (vm_go(what) && !expect_call(what, after(access)) && failure_shown())
		print("      (after all rights were given at level %d)\n", level);
}

static void all_rights(bool ad)
{
	for (unsigned leaf = LEAF_1G; leaf <= LEAF_4K; leaf++) {
		if (!size_offered(leaf)) {
			skip("a size of EPT's pages");
			continue;
		}
		for (unsigned level = 1; level <= leaf; level++)
			for (u64 rights = 0; rights < 8; rights++)
				for (unsigned access = READ; access <= FETCH; access++)
					rights_case(ad ? "EPT rights with A/D" : "EPT rights", leaf, level, rights,
						    access, ad);
	}
}

/* Rights of two levels: the qualification has their intersection. */
static void combined_rights(void)
{
	static const struct { u64 upper, lower; unsigned access; } list[] = {
		{ 1, 5, WRITE }, { 5, 1, FETCH }, { 5, 3, FETCH }, { 3, 5, WRITE }, { 7, 1, WRITE }, { 5, 0, READ },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		ept_begin(LEAF_4K, false);
		*entry_at(2) = (*entry_at(2) & ~7ull) | list[i].upper;
		*entry_at(4) = (*entry_at(4) & ~7ull) | list[i].lower;
		if (vm_run("EPT rights of two levels", access_code[list[i].access]))
			expect_violation("EPT rights of two levels",
					 1u << list[i].access | (list[i].lower ? (list[i].upper & list[i].lower) << 3 :
								 0) |
						 LINEAR_VALID | FINAL, gpa_tried(), TEST_LINEAR + OFFSET);
	}
	/* Reading and writing at once. */
	ept_begin(LEAF_4K, false);
	*entry_at(4) &= ~7ull;
	if (vm_run("EPT violation of a read-modify-write", a_modify) &&
	    expect_reason("EPT violation of a read-modify-write", R_EPT_VIOLATION))
		check((vm_get(F_QUALIFICATION) & 0x1ba) == (2 | LINEAR_VALID | FINAL),
		      "EPT violation of a read-modify-write: qualification 0x%lx", vm_get(F_QUALIFICATION));
	/* The guest's own rights come first. */
	ept_begin(LEAF_4K, false);
	*entry_at(4) &= ~7ull;
	test_pt[OFFSET >> 12] &= ~PTE_W;
	if (vm_run("guest's page fault before EPT violation", a_write))
		expect_event("guest's page fault before EPT violation", V_PF, 3);
}

/* ---- the guest's page tables: behind TEST_GPA, in page 1 of the test pages ---- */

#define TABLE_PAGE 1
#define TABLE_GPA (TEST_GPA + TABLE_PAGE * PAGE)

static void tables_begin(bool ad, u64 table_rights, u64 flags)
{
	ept_begin(LEAF_4K, ad);
	for (unsigned i = 0; i < 8; i++)
		TEST_PAGE(TABLE_PAGE)[i] = (TEST_GPA + i * PAGE) | PTE_P | PTE_W | PTE_U | flags;
	test_pd[0] = TABLE_GPA | PTE_P | PTE_W | PTE_U | PTE_A;
	ept_test_pt[TABLE_PAGE] = (ept_test_pt[TABLE_PAGE] & ~7ull) | table_rights;
}

static void tables_case(const char *what, bool ad, u64 rights, u64 flags, unsigned access, u64 expected)
{
	u64 pte_gpa = TABLE_GPA + (OFFSET >> 12) * 8;

	tables_begin(ad, rights, flags);
	if (!vm_run(what, access_code[access]))
		return;
	if (!expected)
		expect_call(what, after(access));
	else if (expect_reason(what, R_EPT_VIOLATION)) {
		u64 got = vm_get(F_QUALIFICATION), mask = QUALIFICATION;

		/* Setting a flag without EPT's flags: whether it reads as well is the processor's business. */
		if (!ad && expected & 2)
			mask &= ~1ull;
		check((got & mask) == (expected & mask), "%s: qualification 0x%lx, expected 0x%lx", what, got,
		      expected);
		expect_field(what, "guest-physical address", F_GUEST_PHYSICAL, pte_gpa);
		expect_field(what, "guest-linear address", F_GUEST_LINEAR, TEST_LINEAR + OFFSET);
	}
	if (failure_shown())
		print("      (A/D %d, rights of the table %ld, flags 0x%lx, access %d)\n", ad, rights, flags, access);
}

static void guest_tables(void)
{
	for (unsigned access = READ; access <= FETCH; access++) {
		u64 set = PTE_A | PTE_D;

		tables_case("guest table not there", false, 0, set, access, 1 | LINEAR_VALID);
		tables_case("guest table, read-only", false, 1, set, access, 0);
		tables_case("guest table, read-only, accessed flag to set", false, 1, 0, access,
			    2 | 1 << 3 | LINEAR_VALID);
		tables_case("guest table, read-only, dirty flag to set", false, 1, PTE_A, access,
			    access == WRITE ? 2 | 1 << 3 | LINEAR_VALID : 0);
		if (cap.ept_vpid & CAP_EXEC_ONLY)
			tables_case("guest table, execute-only", false, 4, set, access, 1 | 4 << 3 | LINEAR_VALID);
		if (!(cap.ept_vpid & CAP_AD))
			continue;
		tables_case("guest table not there, A/D", true, 0, set, access, 3 | LINEAR_VALID);
		tables_case("guest table, read-only, A/D", true, 1, set, access, 3 | 1 << 3 | LINEAR_VALID);
		tables_case("guest table, writable, A/D", true, 3, 0, access, 0);
	}
	test_pd[0] = at(test_pt) | PTE_P | PTE_W | PTE_U;
}

/* PDPTEs that MOV to CR3 loads: an access without a linear address. */
GUEST(a_cr3, "mov %rdx, %cr3");

static void pdpte_load(void)
{
	u64 gpa = TEST_GPA >> 39 ? GIB * 3 + 0x20 : 0, old = ept_pd[GIB * 3 / MIB2];

	vm_good_ept(PAE, false);
	ept_pd[GIB * 3 / MIB2] &= ~7ull;
	reg[G_RDX] = gpa;
	if (!(vm_get(F_PROC) & PROC_CR3_LOAD) && vm_run("loading PDPTEs", a_cr3) &&
	    expect_reason("loading PDPTEs", R_EPT_VIOLATION)) {
		check((vm_get(F_QUALIFICATION) & 0xbf) == 1, "loading PDPTEs: qualification 0x%lx",
		      vm_get(F_QUALIFICATION));
		check((vm_get(F_GUEST_PHYSICAL) & ~0x1full) == gpa, "loading PDPTEs: guest-physical address 0x%lx",
		      vm_get(F_GUEST_PHYSICAL));
		expect_field("loading PDPTEs", "RIP", F_GUEST_RIP, at(a_cr3));
		expect_field("loading PDPTEs", "CR3", F_GUEST_CR3, at(guest_pdpt_pae));
	}
	ept_pd[GIB * 3 / MIB2] = old;
	ept_good();
	/* Good ones are loaded, from guest-physical memory, and saved by the exit. */
	vm_good_ept(PAE, false);
	for (unsigned i = 0; i < 4; i++)
		((volatile u64 *)(test_pages + 0x40))[i] = guest_pdpt_pae[i] | (i + 1) << 9;
	reg[G_RDX] = at(test_pages) + 0x40;
	if (!(vm_get(F_PROC) & PROC_CR3_LOAD) && vm_run("loading PDPTEs", a_cr3) &&
	    expect_call("loading PDPTEs", a_cr3_next))
		for (unsigned i = 0; i < 4; i++)
			expect_field("loading PDPTEs", "PDPTE", F_GUEST_PDPTE0 + 2 * i,
				     guest_pdpt_pae[i] | (i + 1) << 9);
}

GUEST(a_bare, ".code32; mov (%ebx), %al; .code64");

/* Without paging linear addresses are guest-physical ones. */
static void without_paging(void)
{
	if (!vm_can(BARE))
		return;
	vm_good(BARE);
	ept_pd[GIB * 3 / MIB2] &= ~7ull;
	reg[G_RBX] = 3 * GIB + 0x1234;
	if (vm_run("EPT violation without paging", a_bare))
		expect_violation("EPT violation without paging", 1 | LINEAR_VALID | FINAL, 3 * GIB + 0x1234,
				 3 * GIB + 0x1234);
	ept_good();
}

GUEST(a_string, "rep movsb");
GUEST(a_across, "mov (%rbx), %rax");

/* A string instruction goes as far as it can; an access across two pages is refused for the one that is missing. */
static void in_the_midst(void)
{
	u64 second = ((OFFSET >> 12) + 1) * PAGE;

	ept_begin(LEAF_4K, false);
	ept_test_pt[second >> 12] = 0;
	reg[G_RSI] = at(guest_idt);
	reg[G_RDI] = TEST_LINEAR + second - 16;
	reg[G_RCX] = 64;
	if (vm_run("EPT violation in a string", a_string)) {
		expect_violation("EPT violation in a string", 2 | LINEAR_VALID | FINAL, TEST_GPA + second,
				 TEST_LINEAR + second);
		check(reg[G_RCX] == 48 && reg[G_RDI] == TEST_LINEAR + second,
		      "EPT violation in a string: RCX %ld RDI 0x%lx",
		      reg[G_RCX], reg[G_RDI]);
		ept_test_pt[second >> 12] = (at(test_pages) + second) | EPT_RWX | EPT_WB;
		if (vm_go("the rest of the string") && expect_call("the rest of the string", a_string_next))
			check(!memcmp(test_pages + second - 16, guest_idt, 64), "the string is copied");
	}
	ept_begin(LEAF_4K, false);
	ept_test_pt[second >> 12] = 0;
	reg[G_RBX] = TEST_LINEAR + second - 3;
	if (vm_run("EPT violation across pages", a_across))
		expect_violation("EPT violation across pages", 1 | LINEAR_VALID | FINAL, TEST_GPA + second,
				 TEST_LINEAR + second);
}

/* Addresses that the guest may not have: wider than EPT's walk. */
static void wide_addresses(void)
{
	if (cap.physical <= 48 || cap.ept_vpid & CAP_WALK5)
		return;
	ept_begin(LEAF_4K, false);
	test_pt[OFFSET >> 12] = 1ull << 48 | 0x67;
	if (vm_run("guest-physical address of 49 bits", a_read))
		expect_reason("guest-physical address of 49 bits", R_EPT_VIOLATION);
}

void group_ept(void)
{
	if (!ept_testable())
		return;
	all_rights(false);
	if (cap.ept_vpid & CAP_AD)
		all_rights(true);
	combined_rights();
	guest_tables();
	pdpte_load();
	without_paging();
	in_the_midst();
	wide_addresses();
	expect_good("EPT");
}

/* ---- "EPT Misconfigurations" ---- */

static void misconfig_case(const char *what, unsigned leaf, unsigned level, u64 bits, bool misconfigured)
{
	for (unsigned access = READ; access <= FETCH; access++) {
		u64 *entry;

		ept_begin(leaf, false);
		entry = leaf_entry(leaf, level);
		*entry ^= bits;
		if (!vm_run(what, access_code[access]))
			continue;
		if (misconfigured) {
			if (expect_reason(what, R_EPT_MISCONFIG)) {
				expect_field(what, "guest-physical address", F_GUEST_PHYSICAL, gpa_tried());
				expect_field(what, "IDT-vectoring information", F_VECTORING, 0);
			}
		} else {
			expect_call(what, after(access));
		}
		if (failure_shown())
			print("      (page of %d levels, level %d, bits 0x%lx, access %d)\n", leaf, level, bits,
			      access);
		/* An entry that is not present is none, whatever else it says. */
		if (!misconfigured || access == WRITE)
			continue;
		ept_begin(leaf, false);
		entry = leaf_entry(leaf, level);
		*entry = (*entry ^ bits) & ~7ull;
		if (vm_run(what, access_code[access]))
			expect_violation(what, 1u << access | LINEAR_VALID | FINAL, gpa_tried(), TEST_LINEAR + OFFSET);
	}
}

static void reserved_of_path(unsigned leaf)
{
	for (unsigned level = 1; level <= leaf; level++) {
		bool last = level == leaf;

		/* Address bits beyond MAXPHYADDR. */
		for (unsigned bit = cap.physical; bit < 52; bit++)
			misconfig_case("EPT entry too wide", leaf, level, 1ull << bit, true);
		/* Of entries that name tables, bits 6:3 are reserved; bit 7 too in the PML4. */
		for (unsigned bit = 3; !last && bit < 7; bit++)
			misconfig_case("EPT reserved bits of a table's entry", leaf, level, 1ull << bit, true);
		if (level == 1)
			misconfig_case("EPT bit 7 of the PML4", leaf, level, 1ull << 7, true);
		/* What the processor ignores. */
		misconfig_case("EPT ignored bits", leaf, level, 0x7ull << 52 | 1 << 11 | (last ? 0 : 1 << 9), false);
		misconfig_case("EPT flags that are off", leaf, level, EPT_A | (last ? EPT_D : 0), false);
	}
	if (leaf == LEAF_2M || leaf == LEAF_1G)
		for (unsigned bit = 12; bit < (leaf == LEAF_2M ? 21u : 30u); bit++)
			misconfig_case("EPT address bits of a large page", leaf, leaf, 1ull << bit, true);
	/* Memory types: what is there is write-back, 6. */
	for (u64 type = 0; type < 8; type++)
		misconfig_case("EPT memory type", leaf, leaf, (type ^ 6) << 3, type == 2 || type == 3 || type == 7);
	misconfig_case("EPT ignore-PAT bit", leaf, leaf, 1 << 6, false);
}

void group_ept_misconfig(void)
{
	if (!ept_testable())
		return;
	for (unsigned leaf = LEAF_1G; leaf <= LEAF_4K; leaf++)
		if (size_offered(leaf))
			reserved_of_path(leaf);
	if (!size_offered(LEAF_1G)) {
		ept_begin(LEAF_4K, false);
		*entry_at(2) |= EPT_LARGE;
		if (vm_run("EPT page of 1 GiB without them", a_read))
			expect_reason("EPT page of 1 GiB without them", R_EPT_MISCONFIG);
	}
	/* In an entry of the guest's tables' pages. */
	tables_begin(false, 2, PTE_A | PTE_D);
	if (vm_run("EPT misconfiguration at a guest table", a_read) &&
	    expect_reason("EPT misconfiguration at a guest table", R_EPT_MISCONFIG))
		expect_field("EPT misconfiguration at a guest table", "guest-physical address", F_GUEST_PHYSICAL,
			     TABLE_GPA + (OFFSET >> 12) * 8);
	test_pd[0] = at(test_pt) | PTE_P | PTE_W | PTE_U;
	expect_good("EPT misconfigurations");
}

/* ---- "Accessed and Dirty Flags for EPT" ---- */

static void flags_case(unsigned leaf, unsigned access, bool ad)
{
	ept_begin(leaf, ad);
	if (!vm_run("EPT flags", access_code[access]) || !expect_call("EPT flags", after(access)))
		return;
	for (unsigned level = 1; level <= leaf; level++) {
		u64 expected = ad ? EPT_A | (level == leaf && access == WRITE ? EPT_D : 0) : 0,
			*entry = leaf_entry(leaf, level);

		check((*entry & (EPT_A | EPT_D)) == expected,
		      "EPT flags: page of %d levels, access %d, level %d: 0x%lx, expected 0x%lx", leaf, access, level,
		      (u64)(*entry & (EPT_A | EPT_D)), expected);
		*entry &= ~(EPT_A | EPT_D);
	}
	/* Cleared, they are set again after INVEPT. */
	if (!ad)
		return;
	invept(INVEPT_ALL, 0);
	reg[G_RBX] = TEST_LINEAR + OFFSET;
	if (vm_run("EPT flags, cleared", a_write) && expect_call("EPT flags, cleared", a_write_next))
		check((*leaf_entry(leaf, leaf) & (EPT_A | EPT_D)) == (EPT_A | EPT_D), "EPT flags, cleared: 0x%lx",
		      *leaf_entry(leaf, leaf));
}

/* First read, then written: the dirty flag comes with the write, though the translation is cached. */
static void read_then_write(void)
{
	ept_begin(LEAF_4K, true);
	vm_run("EPT flags, read", a_read);
	check((*entry_at(4) & (EPT_A | EPT_D)) == EPT_A, "EPT flags, read: 0x%lx", *entry_at(4));
	if (vm_run("EPT flags, then written", a_write))
		check((*entry_at(4) & (EPT_A | EPT_D)) == (EPT_A | EPT_D), "EPT flags, then written: 0x%lx",
		      *entry_at(4));
}

/* Pages of the guest's tables: walking counts as writing. */
static void flags_of_tables(void)
{
	tables_begin(true, 7, PTE_A | PTE_D);
	if (vm_run("EPT flags of a guest table", a_read) && expect_call("EPT flags of a guest table", a_read_next))
		check((ept_test_pt[TABLE_PAGE] & (EPT_A | EPT_D)) == (EPT_A | EPT_D),
		      "EPT flags of a guest table: 0x%lx",
		      ept_test_pt[TABLE_PAGE]);
	check((*entry_at(4) & (EPT_A | EPT_D)) == EPT_A, "EPT flags of the page beside: 0x%lx", *entry_at(4));
	test_pd[0] = at(test_pt) | PTE_P | PTE_W | PTE_U;
}

void group_ept_flags(void)
{
	if (!ept_testable())
		return;
	if (!(cap.ept_vpid & CAP_AD)) {
		skip("accessed and dirty flags for EPT");
		return;
	}
	for (unsigned leaf = LEAF_1G; leaf <= LEAF_4K; leaf++)
		for (unsigned access = READ; size_offered(leaf) && access <= FETCH; access++) {
			flags_case(leaf, access, true);
			flags_case(leaf, access, false);
		}
	read_then_write();
	flags_of_tables();
	expect_good("accessed and dirty flags");
}

/* ---- "Page-Modification Logging" ---- */

static u64 pml_log[512] PAGE_ALIGNED;

static void pml_begin(u16 index, bool ad)
{
	ept_begin(LEAF_4K, ad);
	vm_or(F_PROC2, P2_PML);
	vm_put(F_PML_ADDRESS, at(pml_log));
	vm_put(F_GUEST_PML_INDEX, index);
	memset(pml_log, 0xee, sizeof(pml_log));
	/* The program's own pages are not what this is about: they are dirty already. */
	for (unsigned i = 0; i < 4 * 512; i++)
		ept_pd[i] |= EPT_A | EPT_D;
	for (unsigned i = 0; i < 4; i++)
		ept_pdpt[i] |= EPT_A;
	ept_pml4[0] |= EPT_A;
	invept(INVEPT_ALL, 0);
}

static bool pml_run(const char *what, const char *code, const char *next)
{
	return vm_run(what, code) && expect_call(what, next);
}

static void pml_index(const char *what, u16 index) { expect_field(what, "PML index", F_GUEST_PML_INDEX, index); }

static void pml_logging(void)
{
	pml_begin(511, true);
	pml_run("PML, a read", a_read, a_read_next);
	pml_index("PML, a read", 511);
	pml_run("PML, the first write", a_write, a_write_next);
	pml_index("PML, the first write", 510);
	check(pml_log[511] == ((TEST_GPA + OFFSET) & ~0xfffull), "PML: logged 0x%lx", pml_log[511]);
	pml_run("PML, the second write", a_write, a_write_next);
	pml_index("PML, the second write", 510);
	check(pml_log[510] == 0xeeeeeeeeeeeeeeee, "PML: the second write is not logged");
	*entry_at(4) &= ~EPT_D;
	invept(INVEPT_ALL, 0);
	pml_run("PML, a write after the flag was cleared", a_write, a_write_next);
	pml_index("PML, a write after the flag was cleared", 509);
	/* With the dirty flag set already. */
	pml_begin(511, true);
	*entry_at(4) |= EPT_D | EPT_A;
	pml_run("PML, a page that is dirty", a_write, a_write_next);
	pml_index("PML, a page that is dirty", 511);
	/* Without flags nothing is logged. */
	pml_begin(511, false);
	pml_run("PML without flags", a_write, a_write_next);
	pml_index("PML without flags", 511);
	pml_begin(700, false);
	pml_run("PML without flags, bad index", a_write, a_write_next);
}

static void pml_full(void)
{
	static const u16 bad[] = { 0xffff, 512, 0x8000 };

	pml_begin(0, true);
	pml_run("PML, the last entry", a_write, a_write_next);
	pml_index("PML, the last entry", 0xffff);
	check(pml_log[0] == ((TEST_GPA + OFFSET) & ~0xfffull), "PML: logged 0x%lx in the last entry", pml_log[0]);
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(bad); i++) {
		pml_begin(bad[i / 2], true);
		test_pages[OFFSET] = 0;
		if (i & 1)
			for (unsigned level = 1; level <= 4; level++)
				*entry_at(level) |= EPT_A;
		if (!vm_run("PML, full", a_write) || !expect_reason("PML, full", R_PML_FULL))
			continue;
		check(!(vm_get(F_QUALIFICATION) & 1 << 12), "PML, full: qualification 0x%lx", vm_get(F_QUALIFICATION));
		expect_field("PML, full", "RIP", F_GUEST_RIP, at(a_write));
		pml_index("PML, full", bad[i / 2]);
		check(test_pages[OFFSET] == 0, "PML, full: the write did not happen");
		check(!(*entry_at(4) & EPT_D), "PML, full: the dirty flag is not set");
		vm_put(F_GUEST_PML_INDEX, 511);
		if (vm_go("PML, emptied") && expect_call("PML, emptied", a_write_next)) {
			pml_index("PML, emptied", 510);
			check(test_pages[OFFSET] == 0x0f, "PML, emptied: the write happened");
		}
	}
	/* A read that needs an accessed flag looks at the index too; one that needs none does not. */
	pml_begin(0xffff, true);
	if (vm_run("PML, full, a read", a_read))
		expect_reason("PML, full, a read", R_PML_FULL);
	pml_begin(0xffff, true);
	for (unsigned level = 1; level <= 4; level++)
		*entry_at(level) |= EPT_A;
	pml_run("PML, full, a read of an accessed page", a_read, a_read_next);
	/* A violation comes before. */
	pml_begin(0xffff, true);
	*entry_at(4) &= ~EPT_W;
	for (unsigned level = 1; level <= 3; level++)
		*entry_at(level) |= EPT_A;
	if (vm_run("PML, full, and a violation", a_write))
		expect_reason("PML, full, and a violation", R_EPT_VIOLATION);
}

/* Walks are writes: the page of the guest's table is logged before that of the access. */
static void pml_tables(void)
{
	pml_begin(511, true);
	for (unsigned i = 0; i < 8; i++)
		TEST_PAGE(TABLE_PAGE)[i] = (TEST_GPA + i * PAGE) | 0x67;
	test_pd[0] = TABLE_GPA | PTE_P | PTE_W | PTE_U | PTE_A;
	pml_run("PML of a guest table", a_write, a_write_next);
	pml_index("PML of a guest table", 509);
	check(pml_log[511] == TABLE_GPA && pml_log[510] == ((TEST_GPA + OFFSET) & ~0xfffull),
	      "PML of a guest table: logged 0x%lx, 0x%lx", pml_log[511], pml_log[510]);
	test_pd[0] = at(test_pt) | PTE_P | PTE_W | PTE_U;
	if (!size_offered(LEAF_2M))
		return;
	/* A large page: the 4 KiB of it that were written. */
	pml_begin(511, true);
	*entry_at(3) = (at(test_pages) & ~(MIB2 - 1)) | EPT_RWX | EPT_LARGE | EPT_WB;
	test_pt[OFFSET >> 12] = (TEST_GPA + (at(test_pages) & (MIB2 - 1)) + (OFFSET & ~0xfff)) | 0x67;
	invept(INVEPT_ALL, 0);
	pml_run("PML of a large page", a_write, a_write_next);
	check(pml_log[511] == (gpa_tried() & ~0xfffull), "PML of a large page: logged 0x%lx", pml_log[511]);
}

void group_pml(void)
{
	if (!can_proc2(P2_PML) || !ept_testable()) {
		skip("page-modification logging");
		return;
	}
	pml_logging();
	pml_full();
	pml_tables();
	ept_good();
	expect_good("page-modification logging");
}
