/*
 * Software in VMX root operation that lies: VMCSs of its own with fields changed at random, by VMWRITE and behind the processor's
 * back; page tables, EPT tables, bitmaps, MSR areas and logs that lie in each other; VMX instructions in any order, with any
 * operand, in root operation and in what it starts, whose exits lead back into the same program. On the bare machine, and as a
 * guest under a hypervisor, which checks its tables after its exits (--audit), with a neighbour on the same machine.
 *
 * Whatever it does ends in exceptions, VMfail, exits, an abort or a shutdown: nothing crashes, no VM comes to a failure of the
 * hypervisor, the neighbour's memory stays what it was, and none of it is found in the liar's. Under AddressSanitizer and UBSan
 * it finds the rest.
 *
 * Every second guest leaves tables of pages alone, so that no stale translation can show, and controls that the hypervisor does
 * not offer: under EPT it ends in the very state in which it ends on the bare machine.
 *
 * The guest is made of slots of code of SLOT bytes that go from one to the next. Each first says where an exception or a VM exit
 * has to go on: to the next one.
 */
#include "cpu/vmx_vmcs.h"
#include "engine/engine.h"
#include "fuzz_main.h"
#include "pick.h"

#include <string.h>

#define MEMORY    (8ull << 20)
#define NEIGHBOUR (4ull << 20)
#define SECRET    0x5ec2e75ec2e75ec2ull
#define INSNS     12000u
#define EXITS     4000u

/* Guest-physical places. Everything below POOL_END may be pointed to by anything. */
enum {
	GDT = 0x1000, IDT = 0x2000, PML4 = 0x3000, PDPT = 0x4000, PD = 0x5000, RESUME = 0x6000, OPERAND = 0x6100, TSS = 0x7000,
	STACK = 0xa000, VMXON = 0x10000, VMCS = 0x11000, VMCSS = 4, MSRS = 0x15000, IO_BITMAPS = 0x16000, MSR_BITMAP = 0x18000,
	LOG = 0x19000, APIC = 0x1a000, SHADOW_BITMAPS = 0x1b000, EPT_PML4 = 0x20000, EPT_PDPT = 0x21000, EPT_PD = 0x22000,
	EPT_PT = 0x23000, PDPTES = 0x24000, POOL_END = 0x30000, ROOT_CODE = 0x30000, GUEST_CODE = 0x38000, HANDLER = 0x3ff00, REAL_CODE = 0x40000,
	SLOT = 0x100, SLOTS = 96,
};
enum { SEL_CODE = 0x08, SEL_DATA = 0x10, SEL_TSS = 0x18 };

struct code { uint8_t *at, *end; };
static uint8_t memory[0x50000];

static bool tidy; /* it is to end in the same state everywhere */
static bool ept_flags; /* accessed and dirty flags: that they are in use is no part of a translation's tag */
static uint64_t exits_of[VMX_TALLY_REASONS]; /* what the liars' guests exited for, on the bare machine */

static void must(bool ok)
{
	if (!ok)
		abort();
}

static uint64_t any(void) { return next_random(&random_state); }

/* ---- numbers that nearly make sense ---- */

/* A physical address that somebody might look at. */
static uint64_t some_address(void)
{
	switch (pick(12)) {
	case 0: return any();
	case 1: return pick(POOL_END);
	case 2: return MEMORY - 8 + pick(16);
	case 3: return 0xfee00000 + pick(0x400) * 4;
	case 4: return pick64(1ull << 40) & ~0xfffull;
	case 5: return (uint64_t)pick(POOL_END >> 3) << 3;
	case 6: return ROOT_CODE + pick(SLOTS) * SLOT;
	default: return pick(POOL_END >> 12) << 12;
	}
}

static uint64_t some_region(void)
{
	if (tidy)
		return VMCS + pick(VMCSS + 1) * 0x1000u - 0x1000;
	return pick(4) ? VMCS + pick(VMCSS) * 0x1000u : pick(3) ? VMXON + pick(6) * 0x1000u : some_address();
}

static uint64_t some_number(void)
{
	switch (pick(8)) {
	case 0: return any();
	case 1: return 1ull << pick(64);
	case 2: return ~(1ull << pick(64));
	case 3: return 0;
	case 4: return ~0ull >> pick(64);
	case 5: return some_address();
	default: return pick(64);
	}
}

#define X(sym, encoding, writable) encoding,
static const uint32_t fields[] = {VMCS_FIELDS(X)};
#undef X

/* Fields that a tidy guest keeps away from: of controls that only the bare machine has, and those that lead to memory. */
static bool is_tidy(uint32_t f)
{
	static const uint32_t others[] = {
		0x0002, 0x0004, 0x2012, 0x2014, 0x2018, 0x2024, 0x2026, 0x2028, 0x401c, 0x4020, 0x4022, VMCS_PIN_CTL, VMCS_PROC_CTL,
		VMCS_PROC_CTL2, VMCS_EXIT_CTL, VMCS_ENTRY_CTL, VMCS_EXIT_MSR_STORE_ADDR, VMCS_EXIT_MSR_STORE_COUNT,
		VMCS_PML_ADDRESS, VMCS_EPTP, VMCS_GUEST_CR3, VMCS_HOST_CR3, VMCS_GUEST_CR4, VMCS_HOST_CR4, VMCS_GUEST_PDPTE0, VMCS_GUEST_PDPTE1,
		VMCS_GUEST_PDPTE2, VMCS_GUEST_PDPTE3, VMCS_GUEST_GDTR_BASE, VMCS_GUEST_IDTR_BASE, VMCS_HOST_RSP, VMCS_GUEST_RSP,
		VMCS_HOST_GDTR_BASE, VMCS_HOST_IDTR_BASE, VMCS_HOST_TR_BASE, VMCS_GUEST_TR_BASE, VMCS_GUEST_SS_BASE,
		VMCS_GUEST_ES_BASE, VMCS_GUEST_DS_BASE, VMCS_GUEST_CS_BASE,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
		if ((f & ~1u) == others[i])
			return false;
	return true;
}

static uint32_t known_field(void)
{
	uint32_t f;

	do
		f = fields[pick(ARRAY_SIZE(fields))];
	while (tidy && !is_tidy(f));
	return f;
}

static uint32_t some_field(void) { return tidy || pick(20) ? known_field() | !pick(16) : (uint32_t)any() >> pick(32); }

/* A changed value of a field that is @v: often one bit of it. */
static uint64_t changed(uint64_t v)
{
	unsigned way = pick(4);

	return way == 0 ? v ^ 1ull << pick(32) : way == 1 ? some_address() : some_number();
}

/* ---- memory ---- */

static void put64(uint32_t at, uint64_t v) { put_u64(memory + at, v); }

static void make_tables(void)
{
	/* Linear and physical addresses are the same in root operation, below 1 GiB. */
	put64(PML4, PDPT | 7);
	put64(PDPT, PD | 7);
	put64(PDPTES, PD | 1);
	for (uint32_t i = 0; i < 512; i++) {
		put64(PD + 8 * i, (uint64_t)i << 21 | 0xe7);
		put64(EPT_PD + 8 * i, (uint64_t)i << 21 | 7 | EPT_PS | EPT_MT_WB << EPT_MT_SHIFT);
		put64(EPT_PT + 8 * i, (uint64_t)i << 12 | 7 | EPT_MT_WB << EPT_MT_SHIFT);
	}
	put64(EPT_PML4, EPT_PDPT | 7);
	put64(EPT_PDPT, EPT_PD | 7);
	put64(EPT_PD, EPT_PT | 7);
	for (unsigned n = tidy ? 0 : pick(12); n > 0; n--)
		put64(EPT_PML4 + pick(0x4000 >> 3) * 8, pick(2) ? changed(get_u64(memory + EPT_PT)) : some_address() | pick(8));
	/* And entries that tell of a log, MSRs, and bitmaps. */
	for (unsigned i = 0; i < 64; i++) {
		static const uint32_t msrs[] = {MSR_EFER, MSR_PAT, MSR_STAR, MSR_LSTAR, MSR_KERNEL_GS_BASE, MSR_SYSENTER_EIP};

		put64(MSRS + 16 * i, pick(12) ? msrs[pick(ARRAY_SIZE(msrs))] : some_number());
		put64(MSRS + 16 * i + 8, pick(3) ? 0 : some_number());
	}
	for (uint32_t a = IO_BITMAPS; a < LOG; a += 8)
		put64(a, pick(3) ? 0 : any());
}

static void make_descriptors(void)
{
	put64(GDT + SEL_CODE, 0x00af9b000000ffff);
	put64(GDT + SEL_DATA, 0x00cf93000000ffff);
	put64(GDT + SEL_TSS, 0x00008b0000000067 | (uint64_t)TSS << 16);
	put64(TSS + 4, STACK);
	/* One handler for all: what it left on the stack does not matter. */
	for (unsigned v = 0; v < 256; v++) {
		put64(IDT + 16 * v, (HANDLER & 0xffff) | (uint64_t)SEL_CODE << 16 | 0x8eull << 40 | (uint64_t)HANDLER >> 16 << 48);
		put64(IDT + 16 * v + 8, 0);
	}
}

/* ---- VMCSs ---- */

static void set(uint8_t *v, uint32_t field, uint64_t value) { vmcs_put(v, field, value); }

static void set_segment(uint8_t *v, unsigned i, uint16_t sel, uint64_t base, uint32_t limit, uint32_t attr)
{
	set(v, VMCS_GUEST_ES_SEL + 2 * i, sel);
	set(v, VMCS_GUEST_ES_BASE + 2 * i, base);
	set(v, VMCS_GUEST_ES_LIMIT + 2 * i, limit);
	set(v, VMCS_GUEST_ES_AR + 2 * i, attr);
}

static void set_host(uint8_t *v)
{
	set(v, VMCS_HOST_CR0, CR0_PE | CR0_PG | CR0_NE | CR0_ET);
	set(v, VMCS_HOST_CR3, PML4);
	set(v, VMCS_HOST_CR4, CR4_PAE | CR4_VMXE);
	for (uint32_t f = VMCS_HOST_ES_SEL; f < VMCS_HOST_TR_SEL; f += 2)
		set(v, f, SEL_DATA);
	set(v, VMCS_HOST_CS_SEL, SEL_CODE);
	set(v, VMCS_HOST_TR_SEL, SEL_TSS);
	set(v, VMCS_HOST_TR_BASE, TSS);
	set(v, VMCS_HOST_GDTR_BASE, GDT);
	set(v, VMCS_HOST_IDTR_BASE, IDT);
	set(v, VMCS_HOST_EFER, EFER_LME | EFER_LMA);
	set(v, VMCS_HOST_PAT, 0x0007040600070406ull);
	set(v, VMCS_HOST_RSP, STACK);
	set(v, VMCS_HOST_RIP, ROOT_CODE);
}

static void set_controls(uint8_t *v, bool ept, bool real, bool long_mode)
{
	uint32_t proc2 = (ept ? PROC2_EPT : 0) | (real ? PROC2_UNRESTRICTED | PROC2_EPT : 0) | (pick(2) ? PROC2_VPID : 0) |
			 (ept && !pick(3) ? PROC2_PML : 0);

	set(v, VMCS_PIN_CTL, PIN_DEFAULT1 | (pick(3) ? 0 : PIN_EXTERNAL_INTERRUPT) | (pick(3) ? 0 : PIN_PREEMPTION_TIMER) |
				     (pick(3) ? 0 : PIN_NMI));
	set(v, VMCS_PROC_CTL, PROC_DEFAULT1 | PROC_SECONDARY | (pick(2) ? PROC_MSR_BITMAPS : 0) | (pick(2) ? PROC_IO_BITMAPS : 0) |
				      (pick(2) ? PROC_HLT : 0) | (pick(4) ? 0 : PROC_MTF) | (pick(4) ? 0 : PROC_TSC_OFFSETTING));
	set(v, VMCS_PROC_CTL2, proc2);
	set(v, VMCS_EXIT_CTL, EXIT_DEFAULT1 | EXIT_HOST_64 | EXIT_LOAD_EFER | EXIT_SAVE_EFER | (pick(3) ? 0 : EXIT_ACK_INTERRUPT));
	set(v, VMCS_ENTRY_CTL, ENTRY_DEFAULT1 | ENTRY_LOAD_EFER | (long_mode ? ENTRY_IA32E : 0));
	set(v, VMCS_VPID, 1 + pick(3));
	set(v, VMCS_EPTP, EPT_PML4 | EPTP_WALK_4 | EPT_MT_WB | (ept_flags ? EPTP_AD : 0));
	set(v, VMCS_IO_BITMAP_A, IO_BITMAPS);
	set(v, VMCS_IO_BITMAP_B, IO_BITMAPS + 0x1000);
	set(v, VMCS_MSR_BITMAP, MSR_BITMAP);
	set(v, VMCS_PML_ADDRESS, LOG);
	set(v, VMCS_GUEST_PML_INDEX, pick(513));
	set(v, VMCS_GUEST_PREEMPTION_TIMER, pick(400));
	set(v, VMCS_EXCEPTION_BITMAP, pick(3) ? 0 : any());
	if (!pick(3)) {
		set(v, VMCS_EXIT_MSR_STORE_ADDR, MSRS + pick(32) * 16);
		set(v, VMCS_EXIT_MSR_STORE_COUNT, pick(4));
		set(v, VMCS_ENTRY_MSR_LOAD_ADDR, MSRS + pick(32) * 16);
		set(v, VMCS_ENTRY_MSR_LOAD_COUNT, pick(4));
	}
}

static void set_guest(uint8_t *v, bool ept, bool real, bool long_mode)
{
	set(v, VMCS_GUEST_CR0, CR0_NE | CR0_ET | (real ? 0 : CR0_PE | CR0_PG));
	set(v, VMCS_GUEST_CR3, long_mode ? PML4 : PDPTES);
	set(v, VMCS_GUEST_CR4, CR4_VMXE | CR4_PAE);
	set(v, VMCS_GUEST_PDPTE0, ept ? PD | 1 : 0);
	set(v, VMCS_GUEST_EFER, long_mode ? EFER_LME | EFER_LMA : 0);
	set(v, VMCS_GUEST_PAT, 0x0007040600070406ull);
	set(v, VMCS_GUEST_DR7, DR7_FIXED);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		set_segment(v, i, SEL_DATA, 0, real ? 0xffff : 0xffffffff, real ? 0x93 : 0xc093);
	set_segment(v, SEG_CS, real ? REAL_CODE >> 4 : SEL_CODE, real ? REAL_CODE : 0, real ? 0xffff : 0xffffffff,
		    real ? 0x9b : long_mode ? 0xa09b : 0xc09b);
	set_segment(v, SEG_COUNT, 0, 0, 0, SEG_AR_UNUSABLE);
	set_segment(v, SEG_COUNT + 1, SEL_TSS, TSS, 0x67, 0x8b);
	set(v, VMCS_GUEST_GDTR_BASE, GDT);
	set(v, VMCS_GUEST_GDTR_LIMIT, 0xff);
	set(v, VMCS_GUEST_IDTR_BASE, IDT);
	set(v, VMCS_GUEST_IDTR_LIMIT, 0xfff);
	set(v, VMCS_GUEST_RSP, STACK - 0x400);
	set(v, VMCS_GUEST_RIP, real ? 0 : GUEST_CODE);
	set(v, VMCS_GUEST_RFLAGS, RF_ONE | (pick(2) ? RF_IF : 0));
	set(v, VMCS_GUEST_VMCS_LINK, pick(8) ? ~0ull : some_region());
}

static void make_vmcs(uint32_t at)
{
	bool real = pick(4) == 0, ept = real || pick(3), long_mode = !real && (tidy || pick(4));
	uint8_t *v = memory + at;

	memset(v, 0, 0x1000);
	put_u32(v, VMCS_REVISION);
	set_host(v);
	set_controls(v, ept, real, long_mode);
	set_guest(v, ept, real, long_mode);
	for (unsigned n = pick(2) ? pick(2) : pick(12); n > 0; n--) {
		uint32_t f = known_field();

		set(v, f, changed(vmcs_get(v, f)));
	}
}

/* ---- code ---- */

static void byte(struct code *c, unsigned b)
{
	if (c->at < c->end)
		*c->at++ = (uint8_t)b;
}

static void bytes(struct code *c, unsigned n, uint64_t v)
{
	for (; n > 0; n--, v >>= 8)
		byte(c, v & 0xff);
}

/* Encoded from the first byte on, most significant first. */
static void insn(struct code *c, unsigned n, uint64_t v)
{
	while (n-- > 0)
		byte(c, v >> 8 * n & 0xff);
}

static void load(struct code *c, unsigned reg, uint64_t v) /* MOV of 64 bits to RAX, RCX, RDX, RBX */
{
	insn(c, 2, 0x48b8 + reg);
	bytes(c, 8, v);
}

static void store(struct code *c, uint32_t at, uint64_t v)
{
	load(c, 0, v);
	insn(c, 4, 0x48890425); /* MOV [at], RAX */
	bytes(c, 4, at);
}

static void vmwrite(struct code *c, uint32_t field, uint64_t v)
{
	load(c, 0, field);
	load(c, 1, v);
	insn(c, 3, 0x0f79c1); /* VMWRITE RAX, RCX */
}

/* Where RDX points when an instruction takes a pointer from memory. */
static void operand(struct code *c, uint64_t low, uint64_t high)
{
	store(c, OPERAND, low);
	store(c, OPERAND + 8, high);
	load(c, 2, tidy || pick(40) ? OPERAND : some_address());
}

static void enter(struct code *c, uint32_t next, uint32_t target)
{
	vmwrite(c, VMCS_HOST_RIP, pick(60) ? next : any());
	vmwrite(c, VMCS_HOST_RSP, STACK);
	if (pick(3))
		vmwrite(c, VMCS_GUEST_RIP, target);
	if (pick(3) == 0)
		vmwrite(c, VMCS_ENTRY_INTR_INFO, pick(2) ? INTR_INFO_VALID | pick(8) << 8 | pick(256) : some_number());
	insn(c, 3, pick(2) ? 0x0f01c2 : 0x0f01c3);
	insn(c, 3, pick(2) ? 0x0f01c2 : 0x0f01c3);
}

static void invalidate(struct code *c)
{
	operand(c, pick(3) ? EPT_PML4 | EPTP_WALK_4 | EPT_MT_WB : some_number(), pick(2) ? 0 : some_number());
	load(c, 0, pick(8) ? pick(4) : any());
	insn(c, 5, pick(2) ? 0x660f388002 : 0x660f388102); /* INVEPT, INVVPID RAX, [RDX] */
}

static void vmx_insn(struct code *c)
{
	switch (pick(11)) {
	case 0: case 1:
		operand(c, some_region(), 0);
		insn(c, 3, 0x0fc732); /* VMPTRLD [RDX] */
		break;
	case 2:
		operand(c, some_region(), 0);
		insn(c, 4, 0x660fc732); /* VMCLEAR */
		break;
	case 3:
		load(c, 2, tidy || pick(4) ? OPERAND : some_address());
		insn(c, 3, 0x0fc73a); /* VMPTRST */
		break;
	case 4:
		operand(c, VMXON, 0);
		insn(c, 4, 0xf30fc732);
		break;
	case 5:
		if (pick(4) == 0) {
			insn(c, 3, 0x0f01c4); /* VMXOFF */
			operand(c, pick(4) ? VMXON : some_region(), 0);
			insn(c, 4, 0xf30fc732);
		}
		break;
	case 6:
		load(c, 0, some_field());
		load(c, 2, tidy ? OPERAND + 16 : some_address());
		insn(c, 3, pick(2) ? 0x0f7802 : 0x0f7902); /* VMREAD, VMWRITE with [RDX] */
		break;
	case 7:
		insn(c, 3, pick(2) ? 0x0f01c1 : 0x0f01d4); /* VMCALL, VMFUNC */
		break;
	case 8:
		invalidate(c);
		break;
	default:
		vmwrite(c, some_field(), some_number());
		break;
	}
}

static void memory_insn(struct code *c)
{
	bool table = !tidy && pick(2);

	load(c, 2, table   ? EPT_PML4 + pick(0x5000 >> 3) * 8
		   : tidy || pick(3) ? VMCS + pick(VMCSS) * 0x1000u + vmcs_field_offset(known_field())
			     : some_address());
	load(c, 0, table && pick(3) ? (pick(64) << 12) | pick(8) | (pick(3) ? 0x30 : 0) : some_number());
	insn(c, 3, pick(4) ? 0x488902 : 0x488b02); /* MOV [RDX], RAX and back */
}

static void system_insn(struct code *c)
{
	static const uint32_t msrs[] = {MSR_EFER, MSR_APIC_BASE, MSR_PAT, MSR_FEATURE_CONTROL, MSR_STAR, MSR_VMX_BASIC, MSR_TSC};
	static const uint16_t plain[] = {0x0fa2, 0x0f31, 0xfa90, 0xfb90, 0xcc90, 0xf390, 0x0f09, 0x0f08, 0xcd80, 0xf490, 0x0f0b};

	switch (pick(8)) {
	case 0:
		load(c, 0, pick(2) ? CR0_PE | CR0_PG | CR0_NE | (pick(4) ? 0 : CR0_TS | CR0_WP) : some_number());
		insn(c, 3, 0x0f22c0);
		break;
	case 1:
		load(c, 0, tidy || pick(2) ? PML4 : some_address());
		insn(c, 3, 0x0f22d8);
		break;
	case 2:
		load(c, 0, CR4_PAE | (pick(8) ? CR4_VMXE : 0) | (tidy || pick(4) ? 0 : some_number()));
		insn(c, 3, 0x0f22e0);
		break;
	case 3:
		load(c, 1, pick(8) ? msrs[pick(ARRAY_SIZE(msrs))] : some_number());
		load(c, 0, pick(2) ? EFER_LME | EFER_LMA : some_number());
		load(c, 2, 0);
		insn(c, 2, pick(2) ? 0x0f30 : 0x0f32);
		break;
	case 4:
		load(c, 2, some_address());
		insn(c, 3, 0x0f013a); /* INVLPG [RDX] */
		break;
	case 5:
		load(c, 2, pick(2) ? 0x3f8 : any());
		insn(c, 1, 0xec + pick(4));
		break;
	default:
		insn(c, 2, plain[pick(ARRAY_SIZE(plain))]);
		break;
	}
}

/* @next: where the slot after this one is */
static struct code begin_slot(uint32_t at, uint32_t next)
{
	struct code c = {memory + at, memory + at + SLOT - 5};

	store(&c, RESUME, tidy || pick(200) ? next : some_address());
	return c;
}

static void end_slot(struct code *c, uint32_t next)
{
	c->end += 5;
	byte(c, 0xe9);
	bytes(c, 4, next - (uint32_t)(c->at + 4 - memory));
}

static void make_slot(uint32_t at, uint32_t next, bool root)
{
	struct code c = begin_slot(at, next);
	unsigned what = pick(10);

	if (root && what < 5)
		enter(&c, next, GUEST_CODE + pick(SLOTS / 2) * SLOT);
	else if (what < 7)
		vmx_insn(&c);
	else if (what < 9)
		memory_insn(&c);
	else
		system_insn(&c);
	end_slot(&c, next);
}

static void make_code(void)
{
	static const uint8_t harmless[] = {0x90, 0x40, 0xf4, 0xec, 0xee, 0xfa, 0xfb, 0xf9, 0x98, 0x99};
	struct code handler = {memory + HANDLER, memory + REAL_CODE}, c;

	for (unsigned i = 0; i < SLOTS; i++)
		make_slot(ROOT_CODE + i * SLOT, ROOT_CODE + (i + 1 < SLOTS ? i + 1 : 1) * SLOT, true);
	for (unsigned i = 0; i < SLOTS / 2; i++)
		make_slot(GUEST_CODE + i * SLOT, GUEST_CODE + (i + 1 < SLOTS / 2 ? i + 1 : 0) * SLOT, false);
	for (uint32_t i = 0; i < 0x1000; i++)
		memory[REAL_CODE + i] = tidy ? harmless[pick(sizeof(harmless))] : (uint8_t)any();
	/* The first slot: into VMX operation, with a VMCS. */
	c = begin_slot(ROOT_CODE, ROOT_CODE + SLOT);
	load(&c, 0, FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMXON);
	load(&c, 1, MSR_FEATURE_CONTROL);
	load(&c, 2, 0);
	insn(&c, 2, 0x0f30);
	operand(&c, VMXON, 0);
	insn(&c, 4, 0xf30fc732);
	operand(&c, VMCS, 0);
	insn(&c, 3, 0x0fc732);
	end_slot(&c, ROOT_CODE + SLOT);
	/* Exceptions of root operation and of its guest: MOV RSP, STACK; JMP [RESUME] */
	insn(&handler, 3, 0x48c7c4);
	bytes(&handler, 4, STACK);
	insn(&handler, 3, 0xff2425);
	bytes(&handler, 4, RESUME);
}

static void make_guest(void)
{
	memset(memory, 0, sizeof(memory));
	ept_flags = pick(2);
	make_tables();
	make_descriptors();
	put_u32(memory + VMXON, VMCS_REVISION);
	for (unsigned i = 0; i < VMCSS; i++, ept_flags = tidy ? ept_flags : pick(2))
		make_vmcs(VMCS + i * 0x1000u);
	make_code();
}

/* ---- running it ---- */

static void start(struct engine_vm *vm)
{
	struct engine_regs r = {.rflags = RF_ONE, .rip = ROOT_CODE, .gpr[RSP] = STACK};
	struct engine_sregs s;

	must(!engine_mem_write(vm, gpa(0), memory, sizeof(memory)));
	engine_get_sregs(vm, &s);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s.seg[i] = (struct seg){.sel = SEL_DATA, .attr = 0xc093, .limit = 0xffffffff};
	s.seg[SEG_CS] = (struct seg){.sel = SEL_CODE, .attr = 0xa09b, .limit = 0xffffffff};
	s.tr = (struct seg){.sel = SEL_TSS, .attr = 0x8b, .limit = 0x67, .base = TSS};
	s.ldt = (struct seg){.attr = SEG_AR_UNUSABLE};
	s.gdt = (struct dtable){.base = GDT, .limit = 0xff};
	s.idt = (struct dtable){.base = IDT, .limit = 0xfff};
	s.cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_ET;
	s.cr3 = PML4;
	s.cr4 = CR4_PAE | CR4_VMXE;
	s.efer = EFER_LME | EFER_LMA;
	engine_set_sregs(vm, &s);
	engine_set_regs(vm, &r);
}

/* Something of the outside, at a count of instructions. */
static void outside(struct engine_vm *vm, uint64_t *dice)
{
	if (next_random(dice) % 8 == 0)
		engine_nmi(vm);
	else if (next_random(dice) % 3 == 0)
		engine_signal_msi(vm, 0xfee00000, 0x20 + (uint32_t)(next_random(dice) % 0xe0));
}

/* To its end; what goes wrong in the hypervisor is told. */
static enum engine_exit run(struct engine_vm *vm, uint64_t dice, const char *scheme)
{
	struct engine_run run = {.deadline_ns = 500, .insn_limit = INSNS};

	for (unsigned exits = 0; exits < EXITS; exits++) {
		engine_run(vm, &run);
		switch (run.exit) {
		case ENGINE_EXIT_IO: case ENGINE_EXIT_MMIO:
			run.io.data = run.io.write ? run.io.data : next_random(&dice);
			break;
		case ENGINE_EXIT_HLT:
			engine_advance(vm, min_u64(run.hlt.wake_ns, engine_now(vm) + 1000));
			outside(vm, &dice);
			break;
		case ENGINE_EXIT_DEADLINE:
			outside(vm, &dice);
			run.deadline_ns = engine_now(vm) + 100 + next_random(&dice) % 2000;
			break;
		case ENGINE_EXIT_FAIL:
			fprintf(stderr, "%s: %s\n", scheme, run.fail.text);
			abort();
		case ENGINE_EXIT_IRQ_WINDOW: case ENGINE_EXIT_IOAPIC_EOI: case ENGINE_EXIT_INTR: case ENGINE_EXIT_STOP:
			break;
		case ENGINE_EXIT_LIMIT: case ENGINE_EXIT_SHUTDOWN:
			return run.exit;
		}
	}
	return ENGINE_EXIT_LIMIT;
}

static void describe(struct engine_config *cfg, enum engine_mmu mmu, uint64_t bytes_of_memory)
{
	*cfg = (struct engine_config){.mmu = mmu, .memory = bytes_of_memory, .audit = true,
					.audit_every = 1 + pick(20)};
	cpu_config_default(&cfg->cpu);
	cfg->cpu.feature[CPUF_VMX] = true;
	cfg->cpu.translate = pick(2);
	cfg->cpu.translate_after = 2;
	cfg->cpu.code_cache = 1u << 20;
}

static void fill(struct engine_vm *vm)
{
	uint64_t page[PAGE_SIZE / 8];

	for (uint64_t a = 0; a < NEIGHBOUR; a += PAGE_SIZE) {
		for (unsigned i = 0; i < ARRAY_SIZE(page); i++)
			page[i] = SECRET;
		must(!engine_mem_write(vm, gpa(a), page, sizeof(page)));
	}
}

static void look(struct engine_vm *vm, uint64_t bytes_of_memory, bool secret)
{
	uint64_t page[PAGE_SIZE / 8];

	for (uint64_t a = 0; a < bytes_of_memory; a += PAGE_SIZE) {
		must(!engine_mem_read(vm, gpa(a), page, sizeof(page)));
		for (unsigned i = 0; i < ARRAY_SIZE(page); i++)
			must((page[i] == SECRET) == secret);
	}
}

static void on_the_bare_machine(uint64_t dice, struct engine_hash *hash)
{
	struct engine_config cfg;
	struct engine_vm *vm;
	struct error err = {0};
	struct obs obs;

	describe(&cfg, ENGINE_NATIVE, MEMORY);
	must(!engine_create(&vm, &cfg, &err));
	start(vm);
	run(vm, dice, "native");
	engine_observe(vm, &obs);
	engine_state_hash(vm, hash);
	for (unsigned i = 0; i < VMX_TALLY_REASONS; i++)
		exits_of[i] += obs.exits.by_reason[i];
	engine_destroy(vm);
}

static void beside_a_neighbour(enum engine_mmu mmu, uint64_t dice, struct engine_hash *hash)
{
	struct engine_machine *machine;
	struct engine_config cfg[2];
	struct engine_vm *vm[2];
	struct error err = {0};

	describe(&cfg[0], mmu, MEMORY);
	cfg[1] = cfg[0];
	cfg[1].memory = NEIGHBOUR;
	must(!engine_machine_create(&machine, cfg, 2, &err));
	for (unsigned i = 0; i < 2; i++)
		must(!engine_create_on(machine, &vm[i], &cfg[i], &err));
	/* Frames of the one lie between the other's. */
	must(!engine_mem_write(vm[0], gpa(MEMORY - PAGE_SIZE), memory, PAGE_SIZE));
	fill(vm[1]);
	start(vm[0]);
	run(vm[0], dice, engine_mmu_name[mmu]);
	engine_state_hash(vm[0], hash);
	look(vm[1], NEIGHBOUR, true);
	look(vm[0], MEMORY, false);
	for (unsigned i = 0; i < 2; i++)
		engine_destroy(vm[i]);
	engine_machine_destroy(machine);
}

static void one(uint64_t seed)
{
	static const enum engine_mmu mmu[] = {ENGINE_EPT, ENGINE_SHADOW, ENGINE_BRUTE};

	struct engine_hash bare, guest;

	random_state = seed * 0x9e3779b97f4a7c15ull | 1;
	for (unsigned i = 0; i < 8; i++)
		any();
	tidy = seed & 1;
	make_guest();
	on_the_bare_machine(seed | 1, &bare);
	beside_a_neighbour(tidy ? ENGINE_EPT : mmu[seed / 2 % ARRAY_SIZE(mmu)], seed | 1, &guest);
	if (tidy && memcmp(&bare, &guest, sizeof(bare))) {
		fprintf(stderr, "seed %llu: another state at the end\n", (unsigned long long)seed);
		abort();
	}
}

/* Eight bytes of a file are a seed. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size >= 8)
		one(get_u64(data));
	return 0;
}

static void fuzz(uint64_t rounds, uint64_t seed)
{
	unsigned reasons = 0;
	uint64_t exits = 0;

	for (uint64_t i = 0; i < rounds; i++) {
		if (getenv("FUZZ_VERBOSE"))
			fprintf(stderr, "seed %llu\n", (unsigned long long)(seed + i));
		one(seed + i);
	}
	for (unsigned i = 0; i < VMX_TALLY_REASONS; i++) {
		exits += exits_of[i];
		reasons += exits_of[i] != 0;
		if (getenv("FUZZ_VERBOSE") && exits_of[i])
			fprintf(stderr, "exit reason %u: %llu\n", i, (unsigned long long)exits_of[i]);
	}
	printf("%llu guests, %llu VM exits for %u reasons\n", (unsigned long long)rounds, (unsigned long long)exits, reasons);
	must(rounds < 50 || reasons > 10); /* it does get there */
}

int main(int argc, char **argv) { return fuzz_main(argc, argv, 200, 64, fuzz); }
