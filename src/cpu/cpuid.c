/*
 * CPUID: an Intel server processor of family 6, model 85 with one core, that
 * has what struct cpu_config says.
 *
 * Source: SDM volume 2, "CPUID—CPU Identification". Left out: leaves of features
 * the processor does not have read as zero.
 */
#include "cpu/cpuid.h"

#define MAX_BASIC    0x16u
#define MAX_EXTENDED 0x80000008u

#define SIGNATURE 0x00050654u /* family 6, model 0x55, stepping 4 */

struct regs { uint32_t *a, *b, *c, *d; };

/* Query: what the dynamic bits depend on. */
struct query {
	const struct cpu_config *cfg;
	uint64_t cr4, xcr0;
	uint32_t apic_id, sub;
	bool apic_enabled;
};

static bool has(const struct query *q, enum cpu_feature f) { return q->cfg->feature[f]; }

uint64_t cpu_xcr0_bits(const struct cpu_config *cfg)
{
	uint64_t v = XCR0_X87;

	if (cfg->feature[CPUF_SSE])
		v |= XCR0_SSE;
	if (cfg->feature[CPUF_AVX])
		v |= XCR0_AVX;
	if (cfg->feature[CPUF_PKU])
		v |= XCR0_PKRU;
	return v;
}

bool cpu_has_spec_ctrl(const struct cpu_config *cfg) { return cfg->feature[CPUF_ARCH_CAP] && !cfg->mitigations; }

uint64_t cpu_arch_capabilities(const struct cpu_config *cfg)
{
	/* "Not affected" by: */
	static const uint8_t bits_set[] = {
		0,  /* RDCL_NO: Meltdown, L1TF */
		1,  /* IBRS_ALL: enhanced IBRS */
		3,  /* SKIP_L1DFL_VMENTRY */
		4,  /* SSB_NO */
		5,  /* MDS_NO */
		6,  /* IF_PSCHANGE_MC_NO */
		8,  /* TAA_NO */
		13, /* SBDR_SSDP_NO */
		14, /* FBSDP_NO */
		15, /* PSDP_NO */
		20, /* BHI_NO */
		24, /* PBRSB_NO */
		26, /* GDS_NO */
		27, /* RFDS_NO */
		62, /* ITS_NO */
	};
	uint64_t v = 0;

	if (!cpu_has_spec_ctrl(cfg))
		return 0;
	for (unsigned i = 0; i < ARRAY_SIZE(bits_set); i++)
		v |= BIT64(bits_set[i]);
	return v;
}

/* The bits of the feature list that stand in one register. */
static uint32_t feature_bits(const struct query *q, uint32_t leaf, unsigned reg)
{
	static const struct { uint32_t leaf; uint8_t reg, bit, feature; } list[] = {
#define X(sym, name, leaf, sub, reg, bit) {leaf, reg, bit, CPUF_##sym},
		CPU_FEATURES(X)
#undef X
	};
	uint32_t v = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(list); i++)
		if (list[i].leaf == leaf && list[i].reg == reg && q->cfg->feature[list[i].feature])
			v |= 1u << list[i].bit;
	return v;
}

static void put_string(struct regs r, const char s[16])
{
	*r.a = get_u32(s);
	*r.b = get_u32(s + 4);
	*r.c = get_u32(s + 8);
	*r.d = get_u32(s + 12);
}

static void leaf_1(const struct query *q, struct regs r)
{
	*r.a = SIGNATURE;
	*r.b = (has(q, CPUF_CLFSH) ? 8u << 8 : 0) | 1u << 16 | q->apic_id << 24;
	*r.c = feature_bits(q, 1, 2);
	*r.d = feature_bits(q, 1, 3);
	if (q->cr4 & CR4_OSXSAVE)
		*r.c |= 1u << 27;
	if (!q->apic_enabled)
		*r.d &= ~(1u << 9);
}

static void leaf_4(const struct query *q, struct regs r)
{
	static const struct { uint8_t type, level, ways; uint32_t sets; } cache[] = {
		{1, 1, 8, 64},     /* L1 data, 32 KiB */
		{2, 1, 8, 64},     /* L1 instructions, 32 KiB */
		{3, 2, 16, 1024},  /* L2, 1 MiB */
		{3, 3, 11, 32768}, /* L3, 22 MiB */
	};

	if (q->sub >= ARRAY_SIZE(cache))
		return;
	*r.a = cache[q->sub].type | (uint32_t)cache[q->sub].level << 5 | 1u << 8;
	*r.b = 63u | (uint32_t)(cache[q->sub].ways - 1) << 22;
	*r.c = cache[q->sub].sets - 1;
}

static void leaf_7(const struct query *q, struct regs r)
{
	/* BHI_DIS_S: branch-history injection is stopped by a bit of IA32_SPEC_CTRL, not by loops of software. */
	if (q->sub == 2 && cpu_has_spec_ctrl(q->cfg))
		*r.d = 1u << 4;
	if (q->sub)
		return;
	*r.a = 2; /* last subleaf */
	/* The x87 data pointer is updated on exceptions only; FCS and FDS are deprecated. */
	*r.b = feature_bits(q, 7, 1) | 1u << 6 | 1u << 13;
	*r.c = feature_bits(q, 7, 2);
	*r.d = feature_bits(q, 7, 3);
	if (q->cr4 & CR4_PKE)
		*r.c |= 1u << 4; /* OSPKE */
	if (cpu_has_spec_ctrl(q->cfg))
		*r.d |= 1u << 26;
	if (q->cfg->mitigations)
		*r.d &= ~(1u << 29);
}

/* Extended topology: one thread in one core. */
static void leaf_b(const struct query *q, struct regs r)
{
	*r.c = q->sub & 0xff;
	*r.d = q->apic_id;
	if (q->sub < 2) {
		*r.b = 1;
		*r.c |= (q->sub + 1) << 8;
	}
}

static uint32_t xsave_bytes(uint64_t xcr0)
{
	if (xcr0 & XCR0_PKRU)
		return XSAVE_PKRU_OFFSET + XSAVE_PKRU_BYTES;
	return xcr0 & XCR0_AVX ? XSAVE_AVX_OFFSET + XSAVE_AVX_BYTES : XSAVE_LEGACY_BYTES;
}

static void leaf_d(const struct query *q, struct regs r)
{
	uint64_t all = cpu_xcr0_bits(q->cfg);

	if (!has(q, CPUF_XSAVE))
		return;
	if (q->sub == 0) {
		*r.a = (uint32_t)all;
		*r.b = xsave_bytes(q->xcr0);
		*r.c = xsave_bytes(all);
	} else if (q->sub == 2 && (all & XCR0_AVX)) {
		*r.a = XSAVE_AVX_BYTES;
		*r.b = XSAVE_AVX_OFFSET;
	} else if (q->sub == 9 && (all & XCR0_PKRU)) {
		*r.a = XSAVE_PKRU_BYTES;
		*r.b = XSAVE_PKRU_OFFSET;
	}
}

static void basic_leaf(const struct query *q, uint32_t leaf, struct regs r)
{
	switch (leaf) {
	case 0:
		put_string(r, "\x16\0\0\0" "Genu" "ntel" "ineI");
		break;
	case 1:
		leaf_1(q, r);
		break;
	case 2: /* TLB descriptors; caches are in leaf 4 */
		*r.a = 0x76036301;
		*r.b = 0x00f0b5ff;
		*r.d = 0x00c30000;
		break;
	case 4:
		leaf_4(q, r);
		break;
	case 6:
		*r.a = feature_bits(q, 6, 0);
		break;
	case 7:
		leaf_7(q, r);
		break;
	case 0xb:
		leaf_b(q, r);
		break;
	case 0xd:
		leaf_d(q, r);
		break;
	case 0x15: /* TSC: the crystal's frequency times b / a */
		if (has(q, CPUF_TSC)) {
			*r.a = 1;
			*r.b = LAPIC_TSC_PER_CRYSTAL;
			*r.c = 1000000000u / LAPIC_TSC_PER_CRYSTAL;
		}
		break;
	case 0x16: /* base and maximum frequency in MHz, bus */
		*r.a = *r.b = 1000;
		*r.c = 100;
		break;
	default:
		break;
	}
}

static void extended_leaf(const struct query *q, uint32_t leaf, struct regs r)
{
	static const char brand[3][17] = {"Gnomon software ", "processor @ 1.00", "GHz\0\0\0\0\0\0\0\0\0\0\0\0\0"};

	switch (leaf) {
	case 0x80000000:
		*r.a = MAX_EXTENDED;
		break;
	case 0x80000001:
		*r.c = feature_bits(q, leaf, 2);
		*r.d = feature_bits(q, leaf, 3);
		break;
	case 0x80000002: case 0x80000003: case 0x80000004:
		put_string(r, brand[leaf - 0x80000002]);
		break;
	case 0x80000006: /* L2: 1 MiB, 16 ways, lines of 64 bytes */
		*r.c = 1024u << 16 | 8u << 12 | 64;
		break;
	case 0x80000007:
		*r.d = feature_bits(q, leaf, 3);
		break;
	case 0x80000008:
		if (has(q, CPUF_LM))
			*r.a = q->cfg->maxphyaddr | (has(q, CPUF_LA57) ? 57u : 48u) << 8;
		else
			*r.a = q->cfg->maxphyaddr | 32u << 8;
		break;
	default:
		break;
	}
}

void cpu_cpuid(const struct cpu_config *cfg, uint64_t cr4, uint64_t xcr0, uint32_t apic_id, bool apic_enabled,
	       uint32_t leaf, uint32_t sub, uint32_t out[4])
{
	struct query q = {.cfg = cfg, .cr4 = cr4, .xcr0 = xcr0, .apic_id = apic_id, .sub = sub,
			  .apic_enabled = apic_enabled};
	struct regs r = {&out[0], &out[1], &out[2], &out[3]};

	memset(out, 0, 4 * sizeof(out[0]));
	if (leaf >= 0x80000000 && leaf <= MAX_EXTENDED)
		extended_leaf(&q, leaf, r);
	else /* an unknown leaf reads as the highest basic one */
		basic_leaf(&q, leaf <= MAX_BASIC ? leaf : MAX_BASIC, r);
}
