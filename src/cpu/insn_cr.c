/*
 * Control and debug registers, and what goes with them: TLB invalidation, XCR0,
 * PKRU, the AC flag.
 *
 * Source: SDM volume 2, "MOV—Move to/from Control Registers" and its neighbours;
 * volume 3, "Control Registers", "Operations that Invalidate TLBs and
 * Paging-Structure Caches", "Debug Registers".
 */
#include "cpu/insn_system.h"

#include "cpu/cpuid.h"
#include "cpu/record.h"
#include "cpu/vmx.h"

/* ---- PAE paging: PDPTEs are loaded with CR3, not walked ---- */

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

int cpu_read_pdptes(struct cpu *cpu, uint64_t cr3, uint64_t pdpte[4])
{
	uint64_t reserved = BIT64(1) | BIT64(2) | (0xfull << 5) | ~((1ull << cpu->cfg.maxphyaddr) - 1);
	uint64_t at = cr3 & 0xffffffe0;
	hpa_t table = hpa(at);

	if (cpu->emul_ops || cpu->mmu.regs.nested) {
		struct xlate x = {0};
		enum xlate_event ev = cpu->emul_ops ? cpu->emul_ops->translate_gpa(cpu->emul_ctx, at, ACCESS_READ, &x)
						    : mmu_translate_gpa(&cpu->mmu, gpa(at), ACCESS_READ, &x);

		if (ev)
			return vmx_exit_ept(cpu, ev, &x, 0, false);
		table = hpa(x.page.v + (at & ~PAGE_MASK));
	}
	if (unlikely(cpu->recorder))
		record_table(cpu, table.v);
	for (unsigned i = 0; i < 4; i++) {
		pdpte[i] = machmem_read64(cpu->mmu.mem, hpa(table.v + 8 * i));
		if ((pdpte[i] & PTE_P) && (pdpte[i] & reserved))
			return raise_gp0(cpu);
	}
	return 0;
}

/* ---- what a write to a control register invalidates: docs/tags.md ---- */

/* Globals and all PCIDs, of the current VPID. */
static void flush_everything(struct cpu *cpu) { mmu_flush_vpid_all(&cpu->mmu, cpu->mmu.regs.vpid); }

static uint16_t current_pcid(const struct cpu *cpu)
{
	return cpu->cr4 & CR4_PCIDE ? (uint16_t)(cpu->cr3 & CR3_PCID_MASK) : 0;
}

/* Setting PCIDE, SMAP, PKE or LA57, or clearing SMEP, invalidates nothing. @changed: bits of CR4, now written */
static void flush_for_cr4(struct cpu *cpu, uint64_t changed)
{
	if (changed & (CR4_PGE | CR4_PAE | CR4_PSE) || (changed & ~cpu->cr4 & CR4_PCIDE))
		flush_everything(cpu);
	else if (changed & cpu->cr4 & CR4_SMEP)
		mmu_flush_pcid_all(&cpu->mmu, current_pcid(cpu));
}

/* ---- CR0 ---- */

static bool cr0_allowed(const struct cpu *cpu, uint64_t v)
{
	bool enables = (v & CR0_PG) && !(cpu->cr0 & CR0_PG), disables = !(v & CR0_PG) && (cpu->cr0 & CR0_PG);

	if (v >> 32 || ((v & CR0_PG) && !(v & CR0_PE)) || ((v & CR0_NW) && !(v & CR0_CD)))
		return false;
	if (enables && (cpu->efer & EFER_LME) && (!(cpu->cr4 & CR4_PAE) || (cpu->seg[SEG_CS].attr & SEG_AR_L)))
		return false;
	if (disables && (cpu->long_mode || (cpu->cr4 & CR4_PCIDE)))
		return false;
	return vmx_cr_fixed_ok(cpu, 0, v);
}

/* Loads CR0 with a value that has passed the intercepts. Returns 0 or EXEC_STOP. */
static int set_cr0(struct cpu *cpu, uint64_t v)
{
	uint64_t efer = cpu->efer & ~EFER_LMA, changed, pdpte[4];

	if (!cr0_allowed(cpu, v))
		return raise_gp0(cpu);
	v = (v & (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)) | CR0_ET;
	changed = v ^ cpu->cr0;
	if ((v & CR0_PG) && (efer & EFER_LME))
		efer |= EFER_LMA;
	if (pae_paging(v, cpu->cr4, efer) && (changed & (CR0_PG | CR0_CD | CR0_NW))) {
		if (cpu_read_pdptes(cpu, cpu->cr3, pdpte))
			return EXEC_STOP;
		memcpy(cpu->pdpte, pdpte, sizeof(pdpte));
	}
	cpu->cr0 = v;
	cpu->efer = efer;
	cpu_update_mode(cpu);
	if (changed & (CR0_PG | CR0_PE))
		flush_everything(cpu);
	return 0;
}

/* ---- CR3 ---- */

static int set_cr3(struct cpu *cpu, uint64_t v)
{
	bool pcide = cpu->cr4 & CR4_PCIDE, keep = pcide && (v & CR3_NOFLUSH);
	uint64_t pdpte[4];

	if (pcide)
		v &= ~CR3_NOFLUSH;
	if (cpu_lma(cpu) && v >> cpu->cfg.maxphyaddr)
		return raise_gp0(cpu);
	if (pae_paging(cpu->cr0, cpu->cr4, cpu->efer)) {
		if (cpu_read_pdptes(cpu, v, pdpte))
			return EXEC_STOP;
		memcpy(cpu->pdpte, pdpte, sizeof(pdpte));
	}
	cpu->cr3 = v;
	cpu_update_mode(cpu);
	if (!keep)
		mmu_flush_pcid(&cpu->mmu, current_pcid(cpu));
	return 0;
}

/* ---- CR4 ---- */

static uint64_t cr4_bits(const struct cpu *cpu)
{
	static const struct { uint8_t feature; uint64_t bit; } list[] = {
		{CPUF_TSC, CR4_TSD}, {CPUF_DE, CR4_DE}, {CPUF_PSE, CR4_PSE}, {CPUF_PAE, CR4_PAE},
		{CPUF_MCE, CR4_MCE}, {CPUF_PGE, CR4_PGE}, {CPUF_FXSR, CR4_OSFXSR}, {CPUF_SSE, CR4_OSXMMEXCPT},
		{CPUF_UMIP, CR4_UMIP}, {CPUF_LA57, CR4_LA57}, {CPUF_FSGSBASE, CR4_FSGSBASE},
		{CPUF_PCID, CR4_PCIDE}, {CPUF_XSAVE, CR4_OSXSAVE}, {CPUF_SMEP, CR4_SMEP},
		{CPUF_SMAP, CR4_SMAP}, {CPUF_PKU, CR4_PKE}, {CPUF_VMX, CR4_VMXE}, {CPUF_VME, CR4_VME | CR4_PVI},
	};
	uint64_t v = CR4_PCE;

	for (unsigned i = 0; i < ARRAY_SIZE(list); i++)
		if (cpu_has(cpu, (enum cpu_feature)list[i].feature))
			v |= list[i].bit;
	return v;
}

static bool cr4_allowed(const struct cpu *cpu, uint64_t v)
{
	uint64_t changed = v ^ cpu->cr4, may = cr4_bits(cpu);

	/* In VMX operation VMXE is set and stays so. */
	if (cpu->vmx.on)
		may |= cpu->cr4 & CR4_VMXE;
	if (v & ~may)
		return false;
	if (cpu_lma(cpu) && (!(v & CR4_PAE) || (changed & CR4_LA57)))
		return false;
	if ((changed & v & CR4_PCIDE) && (!cpu_lma(cpu) || (cpu->cr3 & CR3_PCID_MASK)))
		return false;
	return vmx_cr_fixed_ok(cpu, 4, v);
}

static int set_cr4(struct cpu *cpu, uint64_t v)
{
	uint64_t changed = v ^ cpu->cr4, pdpte[4];

	if (!cr4_allowed(cpu, v))
		return raise_gp0(cpu);
	if (pae_paging(cpu->cr0, v, cpu->efer) && (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP))) {
		if (cpu_read_pdptes(cpu, cpu->cr3, pdpte))
			return EXEC_STOP;
		memcpy(cpu->pdpte, pdpte, sizeof(pdpte));
	}
	cpu->cr4 = v;
	cpu_update_mode(cpu);
	flush_for_cr4(cpu, changed);
	return 0;
}

/* ---- MOV to and from control registers ---- */

static int set_cr8(struct cpu *cpu, uint64_t v)
{
	if (v >> 4)
		return raise_gp0(cpu);
	if (vmx_proc(cpu, PROC_TPR_SHADOW))
		vmx_set_virtual_cr8(cpu, (uint8_t)v);
	else
		lapic_set_cr8(&cpu->lapic, (uint8_t)v);
	return 0;
}

static void record_cr(struct cpu *cpu, unsigned cr, uint64_t v)
{
	static const enum trace_kind kind[] = {[0] = TRACE_CR0, [3] = TRACE_CR3, [4] = TRACE_CR4};

	if (cr < ARRAY_SIZE(kind) && kind[cr])
		record_register(cpu, kind[cr], 0, v);
}

int cpu_mov_to_cr(struct cpu *cpu, const struct uop *u, uint64_t v)
{
	unsigned cr = u->dst;
	int r;

	if (vmx_intercept_cr_write(cpu, u, cr, u->src / 8, v))
		return EXEC_STOP;
	if (unlikely(cpu->recorder))
		record_cr(cpu, cr, v);
	switch (cr) {
	case 0:
		r = set_cr0(cpu, vmx_cr_write_value(cpu, 0, cpu->cr0, v));
		break;
	case 2:
		cpu->cr2 = v;
		r = 0;
		break;
	case 3:
		r = set_cr3(cpu, v);
		break;
	case 4:
		r = set_cr4(cpu, vmx_cr_write_value(cpu, 4, cpu->cr4, v));
		break;
	default:
		r = set_cr8(cpu, v);
		break;
	}
	if (unlikely(r && cpu->recorder))
		record_fault(cpu);
	return r ? EXEC_STOP : EXEC_LEAVE;
}

static int x_mov_to_cr(struct cpu *cpu, const struct uop *u)
{
	uint64_t v = cpu->long_mode ? r64(cpu, u->src) : r32(cpu, u->src);

	return require_cpl0(cpu) ? EXEC_STOP : cpu_mov_to_cr(cpu, u, v);
}

static int x_mov_from_cr(struct cpu *cpu, const struct uop *u)
{
	unsigned cr = u->src;
	uint64_t v;

	if (require_cpl0(cpu) || vmx_intercept_cr_read(cpu, u, cr, u->dst / 8))
		return EXEC_STOP;
	switch (cr) {
	case 0: v = vmx_cr_read_value(cpu, 0, cpu->cr0); break;
	case 2: v = cpu->cr2; break;
	case 3: v = cpu->cr3; break;
	case 4: v = vmx_cr_read_value(cpu, 4, cpu->cr4); break;
	default: v = vmx_proc(cpu, PROC_TPR_SHADOW) ? vmx_virtual_cr8(cpu) : lapic_cr8(&cpu->lapic); break;
	}
	w64(cpu, u->dst, cpu->long_mode ? v : (uint32_t)v);
	return EXEC_NEXT;
}

static int x_clts(struct cpu *cpu, const struct uop *u)
{
	if (require_cpl0(cpu) || vmx_intercept_clts(cpu, u))
		return EXEC_STOP;
	cpu->cr0 = vmx_cr_write_value(cpu, 0, cpu->cr0, cpu->cr0 & ~CR0_TS);
	cpu_update_mode(cpu);
	if (unlikely(cpu->recorder))
		record_cr(cpu, 0, cpu->cr0);
	return EXEC_LEAVE;
}

static int x_lmsw(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin = 0, v;
	bool mem = u->flags & UOP_HAS_MEM;
	uint16_t msw = r16(cpu, u->dst);

	if (require_cpl0(cpu))
		return EXEC_STOP;
	if (mem && (ea(cpu, u, 2, ACCESS_READ, &lin) || ld16(cpu, lin, &msw)))
		return EXEC_STOP;
	if (vmx_intercept_lmsw(cpu, u, msw, mem, lin))
		return EXEC_STOP;
	/* PE can be set but not cleared. */
	v = (cpu->cr0 & ~(CR0_MP | CR0_EM | CR0_TS)) | (msw & 0xf);
	if (unlikely(cpu->recorder))
		record_cr(cpu, 0, v);
	return set_cr0(cpu, vmx_cr_write_value(cpu, 0, cpu->cr0, v)) ? EXEC_STOP : EXEC_LEAVE;
}

static int x_smsw(struct cpu *cpu, const struct uop *u)
{
	if ((cpu->cr4 & CR4_UMIP) && cpu->cpl)
		return raise_gp0(cpu);
	return store_rm16(cpu, u, vmx_cr_read_value(cpu, 0, cpu->cr0)) ? EXEC_STOP : EXEC_NEXT;
}

/* ---- debug registers ---- */

#define DR6_WRITABLE 0xe00full
#define DR7_WRITABLE 0xffff23ffull

/* What MOV to and from DR have in common. *dr: the register that DR4 and DR5 stand for. 0 or EXEC_STOP. */
static int dr_access(struct cpu *cpu, const struct uop *u, unsigned *dr, unsigned gpr, bool read)
{
	if (vmx_intercept_dr(cpu, u, *dr, gpr, read))
		return EXEC_STOP;
	if (*dr == 4 || *dr == 5) {
		if (cpu->cr4 & CR4_DE)
			return raise_ud(cpu);
		*dr += 2;
	}
	if (require_cpl0(cpu))
		return EXEC_STOP;
	if (cpu->dr7 & DR7_GD) {
		raise_exc(cpu, EXC_DB);
		cpu->stop.payload = DR6_BD;
		return EXEC_STOP;
	}
	return 0;
}

static int x_mov_to_dr(struct cpu *cpu, const struct uop *u)
{
	uint64_t v = cpu->long_mode ? r64(cpu, u->src) : r32(cpu, u->src);
	unsigned dr = u->dst;

	if (dr_access(cpu, u, &dr, u->src / 8, false))
		return EXEC_STOP;
	if (dr >= 6 && v >> 32)
		return raise_gp0(cpu);
	if (dr == 6)
		cpu->dr6 = (v & DR6_WRITABLE) | DR6_FIXED;
	else if (dr == 7)
		cpu->dr7 = (v & DR7_WRITABLE) | DR7_FIXED;
	else
		cpu->dr[dr] = v;
	cpu_update_mode(cpu);
	return EXEC_LEAVE;
}

static int x_mov_from_dr(struct cpu *cpu, const struct uop *u)
{
	unsigned dr = u->src;
	uint64_t v;

	if (dr_access(cpu, u, &dr, u->dst / 8, true))
		return EXEC_STOP;
	v = dr == 6 ? cpu->dr6 : dr == 7 ? cpu->dr7 : cpu->dr[dr];
	w64(cpu, u->dst, cpu->long_mode ? v : (uint32_t)v);
	return EXEC_NEXT;
}

/* ---- TLB ---- */

int cpu_invlpg(struct cpu *cpu, const struct uop *u, uint64_t lin)
{
	if (vmx_intercept(cpu, u, EXIT_REASON_INVLPG, lin))
		return EXEC_STOP;
	if (unlikely(cpu->recorder))
		record_invlpg(cpu, lin);
	if (!cpu->long_mode || cpu_canonical(cpu, lin))
		mmu_flush_page(&cpu->mmu, gva(lin));
	return EXEC_LEAVE;
}

static int x_invlpg(struct cpu *cpu, const struct uop *u)
{
	uint64_t lin = ea_offset(cpu, u) + cpu->seg_base_eff[u->seg];

	if (cpu_v86(cpu) || require_cpl0(cpu))
		return raise_gp0(cpu);
	if (!cpu->long_mode)
		lin = (uint32_t)lin;
	return cpu_invlpg(cpu, u, lin);
}

enum { INVPCID_ADDRESS, INVPCID_SINGLE, INVPCID_ALL_GLOBAL, INVPCID_ALL };

static bool invpcid_allowed(const struct cpu *cpu, uint64_t type, const struct u128 *d)
{
	if (type > INVPCID_ALL || d->lo >> 12)
		return false;
	if (type <= INVPCID_SINGLE && d->lo && !(cpu->cr4 & CR4_PCIDE))
		return false;
	return type != INVPCID_ADDRESS || cpu_canonical_base(cpu, d->hi);
}

int cpu_invpcid_intercept(struct cpu *cpu, const struct uop *u)
{
	return vmx_intercept_insn_info(cpu, u, EXIT_REASON_INVPCID, vmx_insn_displacement(cpu, u),
				       vmx_insn_info_mem(u) | (uint32_t)(u->dst / 8) << INSN_INFO_REG2_SHIFT);
}

int cpu_invpcid(struct cpu *cpu, uint64_t type, uint64_t pcid, uint64_t lin)
{
	const struct u128 d = {pcid, lin};

	if (!invpcid_allowed(cpu, type, &d))
		return raise_gp0(cpu);
	if (unlikely(cpu->recorder))
		record_invpcid(cpu, (unsigned)type, pcid, lin);
	switch (type) {
	case INVPCID_ADDRESS:
		mmu_flush_pcid_page(&cpu->mmu, (uint16_t)pcid, gva(lin));
		break;
	case INVPCID_SINGLE:
		mmu_flush_pcid(&cpu->mmu, (uint16_t)pcid);
		break;
	case INVPCID_ALL_GLOBAL:
		flush_everything(cpu);
		break;
	default:
		mmu_flush_nonglobal(&cpu->mmu);
		break;
	}
	return EXEC_LEAVE;
}

/* dst: the register with the type */
static int x_invpcid(struct cpu *cpu, const struct uop *u)
{
	uint64_t type = cpu->long_mode ? r64(cpu, u->dst) : r32(cpu, u->dst), lin;
	struct u128 d;

	if (!vmx_insn_enabled(cpu, PROC2_INVPCID) || cpu_v86(cpu))
		return raise_ud(cpu);
	if (require_cpl0(cpu) || cpu_invpcid_intercept(cpu, u))
		return EXEC_STOP;
	if (ea(cpu, u, 16, ACCESS_READ, &lin) || ld128(cpu, lin, &d))
		return EXEC_STOP;
	return cpu_invpcid(cpu, type, d.lo, d.hi);
}

/* ---- XCR0, PKRU, AC ---- */

static int x_xgetbv(struct cpu *cpu, const struct uop *u)
{
	(void)u;
	if (!(cpu->cr4 & CR4_OSXSAVE))
		return raise_ud(cpu);
	if ((uint32_t)cpu->gpr[RCX] != 0)
		return raise_gp0(cpu);
	cpu->gpr[RAX] = (uint32_t)cpu->xcr0;
	cpu->gpr[RDX] = cpu->xcr0 >> 32;
	return EXEC_NEXT;
}

static int x_xsetbv(struct cpu *cpu, const struct uop *u)
{
	uint64_t v = (uint32_t)cpu->gpr[RAX] | cpu->gpr[RDX] << 32;

	if (!(cpu->cr4 & CR4_OSXSAVE))
		return raise_ud(cpu);
	if (require_cpl0(cpu) || vmx_intercept(cpu, u, EXIT_REASON_XSETBV, 0))
		return EXEC_STOP;
	if ((uint32_t)cpu->gpr[RCX] != 0 || !(v & XCR0_X87) || (v & ~cpu_xcr0_bits(&cpu->cfg)) ||
	    (v & (XCR0_SSE | XCR0_AVX)) == XCR0_AVX)
		return raise_gp0(cpu);
	cpu->xcr0 = v;
	return EXEC_LEAVE;
}

static int x_rdpkru(struct cpu *cpu, const struct uop *u)
{
	(void)u;
	if (!(cpu->cr4 & CR4_PKE))
		return raise_ud(cpu);
	if ((uint32_t)cpu->gpr[RCX] != 0)
		return raise_gp0(cpu);
	cpu->gpr[RAX] = cpu->pkru;
	cpu->gpr[RDX] = 0;
	return EXEC_NEXT;
}

static int x_wrpkru(struct cpu *cpu, const struct uop *u)
{
	(void)u;
	if (!(cpu->cr4 & CR4_PKE))
		return raise_ud(cpu);
	if ((uint32_t)cpu->gpr[RCX] != 0 || (uint32_t)cpu->gpr[RDX] != 0)
		return raise_gp0(cpu);
	if (unlikely(cpu->recorder))
		record_register(cpu, TRACE_PKRU, 0, (uint32_t)cpu->gpr[RAX]);
	cpu->pkru = (uint32_t)cpu->gpr[RAX];
	cpu_update_mode(cpu);
	return EXEC_LEAVE;
}

/* CLAC, STAC: aux is the new AC. */
static int x_set_ac(struct cpu *cpu, const struct uop *u)
{
	if (cpu->cpl != 0)
		return raise_ud(cpu);
	cpu->rflags = (cpu->rflags & ~RF_AC) | (u->aux ? RF_AC : 0);
	cpu->mode = (uint8_t)cpu_access_mode(cpu, 0);
	return EXEC_NEXT;
}

static const struct sys_insn control_table[] = {
	{ZYDIS_MNEMONIC_CLTS, x_clts, SYS_ENDS, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_LMSW, x_lmsw, SYS_ENDS, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_SMSW, x_smsw, 0, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_INVLPG, x_invlpg, SYS_ENDS | SYS_MEM, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_INVPCID, x_invpcid, SYS_ENDS | SYS_MEM, CPUF_INVPCID, 0},
	{ZYDIS_MNEMONIC_XGETBV, x_xgetbv, 0, CPUF_XSAVE, 0},
	{ZYDIS_MNEMONIC_XSETBV, x_xsetbv, SYS_ENDS, CPUF_XSAVE, 0},
	{ZYDIS_MNEMONIC_RDPKRU, x_rdpkru, 0, CPUF_PKU, 0},
	{ZYDIS_MNEMONIC_WRPKRU, x_wrpkru, SYS_ENDS, CPUF_PKU, 0},
	{ZYDIS_MNEMONIC_CLAC, x_set_ac, 0, CPUF_SMAP, 0},
	{ZYDIS_MNEMONIC_STAC, x_set_ac, 0, CPUF_SMAP, 1},
};

/* MOV with a control or debug register: opcodes 0F 20-23. */
static const struct sys_insn mov_table[] = {
	{ZYDIS_MNEMONIC_MOV, x_mov_from_cr, SYS_REG, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_MOV, x_mov_from_dr, SYS_REG, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_MOV, x_mov_to_cr, SYS_REG | SYS_ENDS, NO_FEATURE, 0},
	{ZYDIS_MNEMONIC_MOV, x_mov_to_dr, SYS_REG | SYS_ENDS, NO_FEATURE, 0},
};

bool lower_control(struct insn *in, struct uop *u)
{
	if (in->z.mnemonic != ZYDIS_MNEMONIC_MOV)
		return lower_from_table(in, u, control_table, ARRAY_SIZE(control_table));
	if (in->z.opcode_map != ZYDIS_OPCODE_MAP_0F || (in->z.opcode & 0xfc) != 0x20)
		return false;
	return lower_from_table(in, u, &mov_table[in->z.opcode & 3], 1);
}
