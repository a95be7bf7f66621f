/*
 * Processor features that can be shown or hidden. The list drives the names of
 * --cpu-features, the CPUID leaves, and every check of cpu_has().
 * No processor has "dmt" (arch/dmt.h); its bit is one that both vendors leave reserved and no system interprets.
 * X(symbol, "name", leaf, subleaf, register (0 eax, 1 ebx, 2 ecx, 3 edx), bit)
 */
#ifndef GNOMON_CPU_FEATURES_H
#define GNOMON_CPU_FEATURES_H

#define CPU_FEATURES(X)                                      \
	X(FPU, "fpu", 1, 0, 3, 0)                            \
	X(VME, "vme", 1, 0, 3, 1)                            \
	X(DE, "de", 1, 0, 3, 2)                              \
	X(PSE, "pse", 1, 0, 3, 3)                            \
	X(TSC, "tsc", 1, 0, 3, 4)                            \
	X(MSR, "msr", 1, 0, 3, 5)                            \
	X(PAE, "pae", 1, 0, 3, 6)                            \
	X(MCE, "mce", 1, 0, 3, 7)                            \
	X(CX8, "cx8", 1, 0, 3, 8)                            \
	X(APIC, "apic", 1, 0, 3, 9)                          \
	X(SEP, "sep", 1, 0, 3, 11)                           \
	X(MTRR, "mtrr", 1, 0, 3, 12)                         \
	X(PGE, "pge", 1, 0, 3, 13)                           \
	X(MCA, "mca", 1, 0, 3, 14)                           \
	X(CMOV, "cmov", 1, 0, 3, 15)                         \
	X(PAT, "pat", 1, 0, 3, 16)                           \
	X(PSE36, "pse36", 1, 0, 3, 17)                       \
	X(CLFSH, "clflush", 1, 0, 3, 19)                     \
	X(MMX, "mmx", 1, 0, 3, 23)                           \
	X(FXSR, "fxsr", 1, 0, 3, 24)                         \
	X(SSE, "sse", 1, 0, 3, 25)                           \
	X(SSE2, "sse2", 1, 0, 3, 26)                         \
	X(SSE3, "sse3", 1, 0, 2, 0)                          \
	X(VMX, "vmx", 1, 0, 2, 5)                            \
	X(SSSE3, "ssse3", 1, 0, 2, 9)                        \
	X(FMA, "fma", 1, 0, 2, 12)                           \
	X(CX16, "cx16", 1, 0, 2, 13)                         \
	X(PCID, "pcid", 1, 0, 2, 17)                         \
	X(SSE4_1, "sse4.1", 1, 0, 2, 19)                     \
	X(SSE4_2, "sse4.2", 1, 0, 2, 20)                     \
	X(X2APIC, "x2apic", 1, 0, 2, 21)                     \
	X(MOVBE, "movbe", 1, 0, 2, 22)                       \
	X(POPCNT, "popcnt", 1, 0, 2, 23)                     \
	X(TSC_DEADLINE, "tsc-deadline", 1, 0, 2, 24)         \
	X(XSAVE, "xsave", 1, 0, 2, 26)                       \
	X(AVX, "avx", 1, 0, 2, 28)                           \
	X(F16C, "f16c", 1, 0, 2, 29)                         \
	X(RDRAND, "rdrand", 1, 0, 2, 30)                     \
	X(ARAT, "arat", 6, 0, 0, 2)                          \
	X(FSGSBASE, "fsgsbase", 7, 0, 1, 0)                  \
	X(TSC_ADJUST, "tsc-adjust", 7, 0, 1, 1)              \
	X(BMI1, "bmi1", 7, 0, 1, 3)                          \
	X(AVX2, "avx2", 7, 0, 1, 5)                          \
	X(SMEP, "smep", 7, 0, 1, 7)                          \
	X(BMI2, "bmi2", 7, 0, 1, 8)                          \
	X(ERMS, "erms", 7, 0, 1, 9)                          \
	X(INVPCID, "invpcid", 7, 0, 1, 10)                   \
	X(RDSEED, "rdseed", 7, 0, 1, 18)                     \
	X(SMAP, "smap", 7, 0, 1, 20)                         \
	X(UMIP, "umip", 7, 0, 2, 2)                          \
	X(PKU, "pku", 7, 0, 2, 3)                            \
	X(LA57, "la57", 7, 0, 2, 16)                         \
	X(RDPID, "rdpid", 7, 0, 2, 22)                       \
	X(ARCH_CAP, "arch-capabilities", 7, 0, 3, 29)        \
	X(LAHF_LM, "lahf-lm", 0x80000001, 0, 2, 0)           \
	X(LZCNT, "lzcnt", 0x80000001, 0, 2, 5)               \
	X(PREFETCHW, "3dnowprefetch", 0x80000001, 0, 2, 8)   \
	X(DMT, "dmt", 0x80000001, 0, 2, 31)                  \
	X(SYSCALL, "syscall", 0x80000001, 0, 3, 11)          \
	X(NX, "nx", 0x80000001, 0, 3, 20)                    \
	X(PDPE1GB, "pdpe1gb", 0x80000001, 0, 3, 26)          \
	X(RDTSCP, "rdtscp", 0x80000001, 0, 3, 27)            \
	X(LM, "lm", 0x80000001, 0, 3, 29)                    \
	X(INVARIANT_TSC, "invtsc", 0x80000007, 0, 3, 8)

enum cpu_feature {
#define X(sym, name, leaf, sub, reg, bit) CPUF_##sym,
	CPU_FEATURES(X)
#undef X
	CPUF_COUNT,
};

#endif
