/*
 * "Caching Translation Information": what has been changed may be seen old until it is invalidated, never after, and
 * what is cached under one VPID or EPTP does not serve another.
 */
#include "vmx.h"

GUEST(g_load, "mov (%rbx), %rax");
GUEST(g_invlpg, "invlpg (%rbx); mov (%rbx), %rax");
GUEST(g_cr3, "mov %cr3, %rax; mov %rax, %cr3; mov (%rbx), %rax");
GUEST(g_store, "mov %rax, (%rbx)");

#define VALUE(n) ((u64)0x1111111111111111 * (n))
static u64 other_pml4[512] PAGE_ALIGNED, other_pdpt[512] PAGE_ALIGNED, other_pd[512] PAGE_ALIGNED,
	other_pt[512] PAGE_ALIGNED;

/* A guest of VPID @vpid (0: none), with EPT if @eptp says so, about to read TEST_LINEAR. */
static void tag_begin(u16 vpid, u64 eptp)
{
	vm_good(LONG);
	if (vpid) {
		vm_or(F_PROC2, P2_VPID);
		vm_put(F_VPID, vpid);
	}
	if (eptp) {
		vm_or(F_PROC2, P2_EPT);
		vm_put(F_EPTP, eptp);
	}
	reg[G_RBX] = TEST_LINEAR;
	for (unsigned i = 0; i < 8; i++)
		TEST_PAGE(i)[0] = VALUE(i + 1);
}

static u64 run_load(const char *what, const char *code, const char *next)
{
	reg[G_RBX] = TEST_LINEAR;
	if (!vm_run(what, code) || !expect_call(what, next))
		return 0;
	return reg[G_RAX];
}

static u64 load(const char *what) { return run_load(what, g_load, g_load_next); }

static void sees(const char *what, u64 v) { check(v >= VALUE(1) && v <= VALUE(8), "%s: 0x%lx", what, v); }

static void is(const char *what, u64 v, unsigned n) { check(v == VALUE(n), "%s: sees 0x%lx, expected 0x%lx", what, v,
							    VALUE(n)); }

static void old_or(const char *what, u64 v, unsigned old, unsigned new)
{
	check(v == VALUE(old) || v == VALUE(new), "%s: sees 0x%lx, expected 0x%lx or 0x%lx", what, v, VALUE(old),
	      VALUE(new));
}

static void map(unsigned n, u64 flags) { test_pt[0] = (at(test_pages) + n * PAGE) | PTE_P | PTE_W | PTE_U | flags; }

/* ---- VPIDs ---- */

/* VPID 0 is flushed by every entry and exit. */
static void without_vpid(void)
{
	map(0, PTE_G);
	tag_begin(0, 0);
	is("no VPID", load("no VPID"), 1);
	map(1, PTE_G);
	is("no VPID, after a change", load("no VPID"), 2);
}

struct invalidation { const char *what; u64 capability, type; bool global_stays; };
static const struct invalidation vpid_types[] = {
	{ "INVVPID of an address", CAP_INVVPID_ADDRESS, INVVPID_ADDRESS, false },
	{ "INVVPID of a context", CAP_INVVPID_ONE, INVVPID_ONE, false },
	{ "INVVPID of all contexts", CAP_INVVPID_ALL, INVVPID_ALL, false },
	{ "INVVPID but for globals", CAP_INVVPID_KEEP, INVVPID_KEEP, true },
};

static void vpid_type(const struct invalidation *i, u64 global, u64 eptp)
{
	if (!(cap.ept_vpid & i->capability))
		return;
	map(0, global);
	invvpid(INVVPID_ALL, 0, 0);
	tag_begin(1, eptp);
	is(i->what, load(i->what), 1);
	map(1, global);
	old_or("a change without INVVPID", load(i->what), 1, 2);
	check(invvpid(i->type, 1, TEST_LINEAR) == OK, "%s", i->what);
	if (global && i->global_stays)
		old_or(i->what, load(i->what), 1, 2);
	else
		is(i->what, load(i->what), 2);
	/* Invalidation of another VPID is not enough; nor does it disturb. */
	map(2, global);
	if (i->type != INVVPID_ALL)
		check(invvpid(i->type, 2, TEST_LINEAR) == OK, "%s of another VPID", i->what);
	old_or("INVVPID of another VPID", load(i->what), 2, 3);
	/* What the guest does itself. */
	map(3, global);
	is("INVLPG in the guest", run_load(i->what, g_invlpg, g_invlpg_next), 4);
	map(4, global);
	if (vm_get(F_PROC) & PROC_CR3_LOAD)
		return;
	if (global)
		old_or("MOV to CR3 in the guest, a global page", run_load(i->what, g_cr3, g_cr3_next), 4, 5);
	else
		is("MOV to CR3 in the guest", run_load(i->what, g_cr3, g_cr3_next), 5);
}

/* What was cached under one VPID does not serve another. */
static void vpids_apart(u64 eptp)
{
	invvpid(INVVPID_ALL, 0, 0);
	map(0, PTE_G);
	tag_begin(1, eptp);
	is("VPID 1", load("VPID 1"), 1);
	map(1, PTE_G);
	tag_begin(2, eptp);
	is("VPID 2, a mapping of its own", load("VPID 2"), 2);
	map(2, PTE_G);
	tag_begin(0, eptp);
	is("no VPID, a mapping of its own", load("VPID 0"), 3);
	tag_begin(0xffff, eptp);
	is("VPID 65535, a mapping of its own", load("VPID 65535"), 3);
	tag_begin(1, eptp);
	old_or("VPID 1 again", load("VPID 1"), 1, 3);
	tag_begin(2, eptp);
	old_or("VPID 2 again", load("VPID 2"), 2, 3);
	invvpid(INVVPID_ALL, 0, 0);
	tag_begin(1, eptp);
	is("VPID 1 after INVVPID of all contexts", load("VPID 1"), 3);
	tag_begin(2, eptp);
	is("VPID 2 after INVVPID of all contexts", load("VPID 2"), 3);
}

/* The host's translations are its own: its page at the same linear address. */
static void host_apart(void)
{
	volatile u64 *linear = (volatile u64 *)TEST_LINEAR;

	boot_pml4[TEST_LINEAR >> 39 & 511] = at(other_pdpt) | PTE_P | PTE_W;
	other_pdpt[0] = at(other_pd) | PTE_P | PTE_W;
	other_pd[0] = at(other_pt) | PTE_P | PTE_W;
	other_pt[0] = (at(test_pages) + 7 * PAGE) | PTE_P | PTE_W;
	invlpg(TEST_LINEAR);
	map(0, 0);
	tag_begin(1, 0);
	is("the host", *linear, 8);
	is("the guest", load("the guest"), 1);
	is("the host after the guest", *linear, 8);
	is("the guest after the host", load("the guest"), 1);
	boot_pml4[TEST_LINEAR >> 39 & 511] = 0;
	invlpg(TEST_LINEAR);
	memset(other_pdpt, 0, sizeof(other_pdpt));
	memset(other_pd, 0, sizeof(other_pd));
	memset(other_pt, 0, sizeof(other_pt));
}

/* ---- EPTPs ---- */

static void ept_map(u64 *pt, unsigned n, u64 rights) { pt[0] = (at(test_pages) + n * PAGE) | rights | EPT_WB; }

static void ept_contexts(void)
{
	ept_good();
	memcpy(other_pml4, ept_pml4, sizeof(ept_pml4));
	other_pml4[1] = at(other_pdpt) | EPT_RWX;
	other_pdpt[0] = at(other_pd) | EPT_RWX;
	other_pd[0] = at(other_pt) | EPT_RWX;
	ept_map(ept_test_pt, 0, EPT_RWX);
	ept_map(other_pt, 1, EPT_RWX);
	test_pt[0] = TEST_GPA | 0x67;
	invvpid(INVVPID_ALL, 0, 0);
	invept(INVEPT_ALL, 0);
}

static void ept_changes(u16 vpid)
{
	static const struct { const char *what; u64 capability, type; } types[] = {
		{ "INVEPT of a context", CAP_INVEPT_ONE, INVEPT_ONE },
		  { "INVEPT of all contexts", CAP_INVEPT_ALL, INVEPT_ALL },
	};
	u64 first = eptp_of(ept_pml4, false), second = eptp_of(other_pml4, false);

	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		const char *what = types[i].what;

		if (!(cap.ept_vpid & types[i].capability))
			continue;
		ept_contexts();
		tag_begin(vpid, first);
		is(what, load(what), 1);
		ept_map(ept_test_pt, 2, EPT_RWX);
		old_or("a change without INVEPT", load(what), 1, 3);
		invept(types[i].type, first);
		is(what, load(what), 3);
		ept_map(ept_test_pt, 3, EPT_RWX);
		if (types[i].type == INVEPT_ONE)
			invept(INVEPT_ONE, second);
		old_or("INVEPT of another context", load(what), 3, 4);
		/* Bits of the EPTP that do not name the table do not matter. */
		invept(types[i].type, first | (cap.ept_vpid & CAP_AD ? EPTP_AD : 0));
		is(what, load(what), 4);
		/* INVEPT drops combined mappings whatever their VPID is. */
		test_pt[0] = (TEST_GPA + 5 * PAGE) | 0x67;
		invept(types[i].type, first);
		is("INVEPT and a change in the guest's table", load(what), 6);
		test_pt[0] = TEST_GPA | 0x67;
	}
}

/* One VPID, two EPTPs. */
static void eptps_apart(u16 vpid)
{
	u64 first = eptp_of(ept_pml4, false), second = eptp_of(other_pml4, false);

	ept_contexts();
	for (unsigned i = 0; i < 3; i++) {
		tag_begin(vpid, first);
		is("the first EPTP", load("the first EPTP"), 1);
		tag_begin(vpid, second);
		is("the second EPTP", load("the second EPTP"), 2);
	}
	/* And without EPT: the address is a physical one then, where nothing is. */
	tag_begin(vpid, 0);
	map(6, 0);
	if (vpid)
		invvpid(INVVPID_ALL, 0, 0);
	is("no EPTP", load("no EPTP"), 7);
	tag_begin(vpid, first);
	test_pt[0] = TEST_GPA | 0x67;
	if (vpid)
		invvpid(INVVPID_ALL, 0, 0);
	is("the first EPTP again", load("the first EPTP"), 1);
}

/* Rights taken away: until INVEPT they may serve, then not. */
static void rights_taken(void)
{
	ept_contexts();
	tag_begin(1, eptp_of(ept_pml4, false));
	reg[G_RAX] = VALUE(1);
	if (!vm_run("a write", g_store) || !expect_call("a write", g_store_next))
		return;
	ept_map(ept_test_pt, 0, EPT_R);
	invept(INVEPT_ONE, eptp_of(ept_pml4, false));
	if (vm_run("a write after the right was taken", g_store))
		expect_reason("a write after the right was taken", R_EPT_VIOLATION);
	ept_map(ept_test_pt, 0, EPT_RWX);
	if (vm_go("a write after the right was given back"))
		expect_call("a write after the right was given back", g_store_next);
	/* In the guest's table. */
	test_pt[0] = TEST_GPA | 0x65;
	invvpid(INVVPID_ONE, 1, 0);
	if (vm_run("a write after the guest's right was taken", g_store))
		expect_event("a write after the guest's right was taken", V_PF, 3);
}

void group_tags(void)
{
	without_vpid();
	if (can_proc2(P2_VPID) && cap.ept_vpid & CAP_INVVPID) {
		for (unsigned i = 0; i < ARRAY_SIZE(vpid_types); i++) {
			vpid_type(&vpid_types[i], 0, 0);
			vpid_type(&vpid_types[i], PTE_G, 0);
			if (!can_proc2(P2_EPT))
				continue;
			ept_good();
			vpid_type(&vpid_types[i], 0, eptp_of(ept_pml4, false));
			vpid_type(&vpid_types[i], PTE_G, eptp_of(ept_pml4, false));
		}
		vpids_apart(0);
		if (can_proc2(P2_EPT))
			vpids_apart(eptp_of(ept_pml4, false));
		host_apart();
	} else {
		skip("VPIDs");
	}
	if (ept_testable() && cap.ept_vpid & CAP_INVEPT_ALL) {
		ept_changes(0);
		eptps_apart(0);
		if (can_proc2(P2_VPID)) {
			ept_changes(1);
			eptps_apart(1);
			rights_taken();
		}
	}
	sees("the test pages", TEST_PAGE(7)[0]);
	test_pt[0] = 0;
	expect_good("tags");
}
