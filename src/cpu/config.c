/*
 * The processor's configuration: which features it shows, how wide its physical
 * addresses are. A feature that is hidden takes with it those that make no sense
 * without it, so that CPUID is never a contradiction.
 */
#include "cpu/cpu.h"

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define SPEC_WORD_MAX 32

static const char *const feature_name[] = {
#define X(sym, name, leaf, sub, reg, bit) [CPUF_##sym] = name,
	CPU_FEATURES(X)
#undef X
};

/* {feature, what it needs} */
static const uint8_t needs[][2] = {
	{CPUF_PSE36, CPUF_PSE}, {CPUF_MMX, CPUF_FPU}, {CPUF_FXSR, CPUF_FPU}, {CPUF_SSE, CPUF_FXSR},
	{CPUF_SSE2, CPUF_SSE}, {CPUF_SSE3, CPUF_SSE2}, {CPUF_SSSE3, CPUF_SSE3}, {CPUF_SSE4_1, CPUF_SSSE3},
	{CPUF_SSE4_2, CPUF_SSE4_1}, {CPUF_XSAVE, CPUF_FXSR}, {CPUF_APIC, CPUF_MSR}, {CPUF_SEP, CPUF_MSR},
	{CPUF_MTRR, CPUF_MSR}, {CPUF_PAT, CPUF_MSR}, {CPUF_MCA, CPUF_MSR}, {CPUF_MCA, CPUF_MCE},
	{CPUF_X2APIC, CPUF_APIC}, {CPUF_TSC_DEADLINE, CPUF_APIC}, {CPUF_TSC_DEADLINE, CPUF_TSC},
	{CPUF_ARAT, CPUF_APIC}, {CPUF_TSC_ADJUST, CPUF_TSC}, {CPUF_TSC_ADJUST, CPUF_MSR}, {CPUF_RDTSCP, CPUF_TSC},
	{CPUF_RDTSCP, CPUF_MSR}, {CPUF_RDPID, CPUF_MSR}, {CPUF_INVARIANT_TSC, CPUF_TSC}, {CPUF_NX, CPUF_PAE},
	{CPUF_NX, CPUF_MSR}, {CPUF_LM, CPUF_PAE}, {CPUF_LM, CPUF_MSR}, {CPUF_SYSCALL, CPUF_LM},
	{CPUF_CX16, CPUF_LM}, {CPUF_CX16, CPUF_CX8}, {CPUF_PCID, CPUF_LM}, {CPUF_FSGSBASE, CPUF_LM},
	{CPUF_PDPE1GB, CPUF_LM}, {CPUF_LAHF_LM, CPUF_LM}, {CPUF_LA57, CPUF_LM}, {CPUF_PKU, CPUF_LM},
	{CPUF_PKU, CPUF_XSAVE}, {CPUF_ARCH_CAP, CPUF_MSR}, {CPUF_DMT, CPUF_LM}, {CPUF_DMT, CPUF_MSR},
	{CPUF_AVX, CPUF_XSAVE}, {CPUF_AVX, CPUF_SSE4_2}, {CPUF_AVX2, CPUF_AVX}, {CPUF_FMA, CPUF_AVX},
	{CPUF_F16C, CPUF_AVX}, {CPUF_VMX, CPUF_LM}, {CPUF_VMX, CPUF_MSR},
};

/* Where CPUID has it. */
static const struct { uint32_t leaf, sub; uint8_t reg, bit; } place[] = {
#define X(sym, name, leaf, sub, reg, bit) [CPUF_##sym] = {leaf, sub, reg, bit},
	CPU_FEATURES(X)
#undef X
};

/* Instructions that are the host's own: they can be shown only where the host has them. */
static bool runs_on_host(enum cpu_feature f)
{
	return f == CPUF_MOVBE || f == CPUF_BMI1 || f == CPUF_BMI2 || f == CPUF_LZCNT;
}

/* ... and for these its operating system must have enabled the registers too. */
static bool uses_ymm(enum cpu_feature f)
{
	return f == CPUF_AVX || f == CPUF_AVX2 || f == CPUF_FMA || f == CPUF_F16C;
}

static bool host_lacks(enum cpu_feature f)
{
	uint32_t r[4];

	if (!runs_on_host(f) && !uses_ymm(f))
		return false;
	if (uses_ymm(f) && !__builtin_cpu_supports("avx"))
		return true;
	return !__get_cpuid_count(place[f].leaf, place[f].sub, &r[0], &r[1], &r[2], &r[3]) ||
	       !(r[place[f].reg] >> place[f].bit & 1);
}

void cpu_config_default(struct cpu_config *cfg)
{
	*cfg = (struct cpu_config){.maxphyaddr = 46, .fast_path = true, .translate = true, .translate_after = 16,
				   .code_cache = 64u << 20};
	for (unsigned i = 0; i < CPUF_COUNT; i++)
		cfg->feature[i] = !host_lacks((enum cpu_feature)i);
	/*
	 * Software that finds 5-level paging or VMX uses it, and no processor has DMT: to be asked for. VME is of no use in
	 * 64-bit mode.
	 */
	cfg->feature[CPUF_VME] = false;
	cfg->feature[CPUF_LA57] = false;
	cfg->feature[CPUF_VMX] = false;
	cfg->feature[CPUF_DMT] = false;
	hw_default(&cfg->hw);
}

static void hide_dependants(struct cpu_config *cfg)
{
	bool changed;

	do {
		changed = false;
		for (unsigned i = 0; i < ARRAY_SIZE(needs); i++) {
			if (cfg->feature[needs[i][0]] && !cfg->feature[needs[i][1]]) {
				cfg->feature[needs[i][0]] = false;
				changed = true;
			}
		}
	} while (changed);
}

static int find_feature(const char *name)
{
	for (unsigned i = 0; i < CPUF_COUNT; i++)
		if (strcmp(feature_name[i], name) == 0)
			return (int)i;
	return -1;
}

static int parse_maxphyaddr(struct cpu_config *cfg, const char *text, struct error *err)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || v < 36 || v > 52)
		return error_set(err, -EINVAL, "maxphyaddr=%s: must be a number from 36 to 52", text);
	cfg->maxphyaddr = (unsigned)v;
	return 0;
}

static int parse_word(struct cpu_config *cfg, const char *word, struct error *err)
{
	bool sign = *word == '+' || *word == '-';
	int f;

	if (strncmp(word, "maxphyaddr=", 11) == 0)
		return parse_maxphyaddr(cfg, word + 11, err);
	f = find_feature(word + sign);
	if (f < 0)
		return error_set(err, -EINVAL, "unknown processor feature '%s'", word + sign);
	if (!sign)
		return error_set(err, -EINVAL, "processor feature '%s' needs + or - before it", word);
	if (*word == '+' && host_lacks((enum cpu_feature)f))
		return error_set(err, -EINVAL, "processor feature '%s': the host's processor executes it, and has it not",
				 word + 1);
	cfg->feature[f] = *word == '+';
	return 0;
}

int cpu_config_parse(struct cpu_config *cfg, const char *spec, struct error *err)
{
	struct cpu_config c = *cfg;
	char word[SPEC_WORD_MAX];

	while (*spec) {
		size_t n = strcspn(spec, ",");

		if (n >= sizeof(word))
			return error_set(err, -EINVAL, "unknown processor feature '%.*s...'", SPEC_WORD_MAX, spec);
		memcpy(word, spec, n);
		word[n] = 0;
		if (n == 0)
			return error_set(err, -EINVAL, "empty word in the list of processor features");
		if (parse_word(&c, word, err))
			return -EINVAL;
		spec += n + (spec[n] == ',');
	}
	hide_dependants(&c);
	*cfg = c;
	return 0;
}
