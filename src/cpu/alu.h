/*
 * Arithmetic on the host's own units. Each function performs the operation as the
 * processor would and leaves its flags in *cc in the form of cpu/flags.h.
 */
#ifndef GNOMON_CPU_ALU_H
#define GNOMON_CPU_ALU_H

#include <stdint.h>

/* Three operations sizes at a time: X(bits, type, asm suffix, register constraint) */
#define ALU_SIZES(X, ...)                    \
	X(8, uint8_t, "b", "q", __VA_ARGS__) \
	X(16, uint16_t, "w", "r", __VA_ARGS__) \
	X(32, uint32_t, "l", "r", __VA_ARGS__) \
	X(64, uint64_t, "q", "r", __VA_ARGS__)

/* a OP b, result returned, all flags set. */
#define ALU_BINARY(bits, T, S, C, name, insn)                                                           \
	static inline T alu_##name##bits(T a, T b, uint16_t *cc)                                        \
	{                                                                                               \
		uint16_t f;                                                                             \
		__asm__(insn S " %[b], %[a]\n\tlahf\n\tseto %%al" : [a] "+" C(a), "=a"(f) : [b] C(b) : "cc"); \
		*cc = f;                                                                                \
		return a;                                                                               \
	}
ALU_SIZES(ALU_BINARY, add, "add")
ALU_SIZES(ALU_BINARY, or, "or")
ALU_SIZES(ALU_BINARY, and, "and")
ALU_SIZES(ALU_BINARY, sub, "sub")
ALU_SIZES(ALU_BINARY, xor, "xor")

/* ADC and SBB take the carry from *cc. */
#define ALU_CARRY(bits, T, S, C, name, insn)                                                            \
	static inline T alu_##name##bits(T a, T b, uint16_t *cc)                                        \
	{                                                                                               \
		uint16_t f = *cc;                                                                       \
		__asm__("btw $8, %w[f]\n\t" insn S " %[b], %[a]\n\tlahf\n\tseto %%al"                   \
			: [a] "+&" C(a), [f] "+a"(f)                                                    \
			: [b] C(b)                                                                      \
			: "cc");                                                                        \
		*cc = f;                                                                                \
		return a;                                                                               \
	}
ALU_SIZES(ALU_CARRY, adc, "adc")
ALU_SIZES(ALU_CARRY, sbb, "sbb")

/* INC, DEC (carry kept), NEG. */
#define ALU_UNARY(bits, T, S, C, name, insn)                                                            \
	static inline T alu_##name##bits(T a, uint16_t *cc)                                             \
	{                                                                                               \
		uint16_t f = *cc;                                                                       \
		__asm__("btw $8, %w[f]\n\t" insn S " %[a]\n\tlahf\n\tseto %%al"                         \
			: [a] "+&" C(a), [f] "+a"(f)                                                    \
			:                                                                               \
			: "cc");                                                                        \
		*cc = f;                                                                                \
		return a;                                                                               \
	}
ALU_SIZES(ALU_UNARY, inc, "inc")
ALU_SIZES(ALU_UNARY, dec, "dec")
ALU_SIZES(ALU_UNARY, neg, "neg")

/*
 * Shifts and rotates by a count that is already masked and not zero. All flags
 * are loaded first, because rotates keep some; OF is loaded by an addition.
 */
#define ALU_SHIFT(bits, T, S, C, name, insn)                                                            \
	static inline T alu_##name##bits(T a, uint8_t count, uint16_t *cc)                              \
	{                                                                                               \
		uint16_t f = *cc;                                                                       \
		__asm__("addb $0x7f, %%al\n\tsahf\n\t" insn S " %%cl, %[a]\n\tlahf\n\tseto %%al"        \
			: [a] "+&" C(a), [f] "+a"(f)                                                    \
			: "c"(count)                                                                    \
			: "cc");                                                                        \
		*cc = f;                                                                                \
		return a;                                                                               \
	}
ALU_SIZES(ALU_SHIFT, rol, "rol")
ALU_SIZES(ALU_SHIFT, ror, "ror")
ALU_SIZES(ALU_SHIFT, rcl, "rcl")
ALU_SIZES(ALU_SHIFT, rcr, "rcr")
ALU_SIZES(ALU_SHIFT, shl, "shl")
ALU_SIZES(ALU_SHIFT, shr, "shr")
ALU_SIZES(ALU_SHIFT, sar, "sar")

/* Double shifts. */
#define ALU_DSHIFT(bits, T, S, name, insn)                                                              \
	static inline T alu_##name##bits(T a, T b, uint8_t count, uint16_t *cc)                         \
	{                                                                                               \
		uint16_t f = *cc;                                                                       \
		__asm__("addb $0x7f, %%al\n\tsahf\n\t" insn S " %%cl, %[b], %[a]\n\tlahf\n\tseto %%al"  \
			: [a] "+&r"(a), [f] "+a"(f)                                                     \
			: [b] "r"(b), "c"(count)                                                        \
			: "cc");                                                                        \
		*cc = f;                                                                                \
		return a;                                                                               \
	}
ALU_DSHIFT(16, uint16_t, "w", shld, "shld")
ALU_DSHIFT(32, uint32_t, "l", shld, "shld")
ALU_DSHIFT(64, uint64_t, "q", shld, "shld")
ALU_DSHIFT(16, uint16_t, "w", shrd, "shrd")
ALU_DSHIFT(32, uint32_t, "l", shrd, "shrd")
ALU_DSHIFT(64, uint64_t, "q", shrd, "shrd")

/*
 * Two-operand IMUL. Four of its flags are undefined: some processors compute them, some leave them alone. So all
 * flags are loaded first, here and below.
 */
#define ALU_IMUL(bits, T, S)                                                                            \
	static inline T alu_imul##bits(T a, T b, uint16_t *cc)                                          \
	{                                                                                               \
		uint16_t f = *cc;                                                                       \
		__asm__("addb $0x7f, %%al\n\tsahf\n\timul" S " %[b], %[a]\n\tlahf\n\tseto %%al"       \
			: [a] "+&r"(a), [f] "+a"(f)                                                     \
			: [b] "r"(b)                                                                    \
			: "cc");                                                                        \
		*cc = f;                                                                                \
		return a;                                                                               \
	}
ALU_IMUL(16, uint16_t, "w")
ALU_IMUL(32, uint32_t, "l")
ALU_IMUL(64, uint64_t, "q")

/* One-operand MUL and IMUL: rax * b into rdx:rax of the size; 8 bits: AX. */
#define ALU_WIDEMUL(bits, T, S, C, name, insn)                                                          \
	static inline void alu_##name##bits(T a, T b, T *lo, T *hi, uint16_t *cc)                       \
	{                                                                                               \
		uint64_t rax = *cc, rdx = 0, m = a;                                                     \
		uint8_t of;                                                                             \
		uint64_t fl;                                                                            \
		__asm__("addb $0x7f, %%al\n\tsahf\n\tmov %[m], %%rax\n\t" insn S                       \
			" %[b]\n\tseto %[of]\n\tpushfq\n\tpopq %[fl]"                                    \
			: "+&a"(rax), "+&d"(rdx), [of] "=&q"(of), [fl] "=&r"(fl)                         \
			: [b] C(b), [m] "r"(m)                                                          \
			: "cc", "memory");                                                              \
		*lo = (T)rax;                                                                           \
		*hi = (T)((bits) == 8 ? rax >> 8 : rdx);                                                \
		*cc = (uint16_t)((fl & 0xd5) << 8 | of);                                                \
	}
ALU_SIZES(ALU_WIDEMUL, mulw, "mul")
ALU_SIZES(ALU_WIDEMUL, imulw, "imul")

/* Bit scans and POPCNT. A zero source leaves the destination of BSF and BSR alone, as processors do; some flags too. */
#define ALU_SCAN(bits, T, M, name, insn)                                                                \
	static inline uint64_t alu_##name##bits(uint64_t old, T src, uint16_t *cc)                      \
	{                                                                                               \
		uint16_t f = *cc;                                                                       \
		__asm__("addb $0x7f, %%al\n\tsahf\n\t" insn " %" M "[s], %" M "[d]\n\tlahf\n\tseto %%al" \
			: [d] "+&r"(old), [f] "+&a"(f)                                                   \
			: [s] "r"(src)                                                                  \
			: "cc");                                                                        \
		*cc = f;                                                                                \
		return old;                                                                             \
	}
ALU_SCAN(16, uint16_t, "w", bsf, "bsf")
ALU_SCAN(32, uint32_t, "k", bsf, "bsf")
ALU_SCAN(64, uint64_t, "q", bsf, "bsf")
ALU_SCAN(16, uint16_t, "w", bsr, "bsr")
ALU_SCAN(32, uint32_t, "k", bsr, "bsr")
ALU_SCAN(64, uint64_t, "q", bsr, "bsr")
ALU_SCAN(16, uint16_t, "w", popcnt, "popcnt")
ALU_SCAN(32, uint32_t, "k", popcnt, "popcnt")
ALU_SCAN(64, uint64_t, "q", popcnt, "popcnt")

/* LZCNT, TZCNT: of a processor that has them only. All flags are loaded first: the manual leaves some undefined. */
#define ALU_COUNT(bits, T, M, name, insn)                                                               \
	static inline uint64_t alu_##name##bits(uint64_t old, T src, uint16_t *cc)                      \
	{                                                                                               \
		uint16_t f = *cc;                                                                       \
		__asm__("addb $0x7f, %%al\n\tsahf\n\t" insn " %" M "[s], %" M "[d]\n\tlahf\n\tseto %%al" \
			: [d] "+&r"(old), [f] "+&a"(f)                                                   \
			: [s] "r"(src)                                                                  \
			: "cc");                                                                        \
		*cc = f;                                                                                \
		return old;                                                                             \
	}
ALU_COUNT(16, uint16_t, "w", lzcnt, "lzcnt")
ALU_COUNT(32, uint32_t, "k", lzcnt, "lzcnt")
ALU_COUNT(64, uint64_t, "q", lzcnt, "lzcnt")
ALU_COUNT(16, uint16_t, "w", tzcnt, "tzcnt")
ALU_COUNT(32, uint32_t, "k", tzcnt, "tzcnt")
ALU_COUNT(64, uint64_t, "q", tzcnt, "tzcnt")

/*
 * BMI1 and BMI2, likewise. @m: the operand of ModRM.rm, @v: that of VEX.vvvv. The order in which an instruction
 * names them is said here.
 */
#define ALU_BMI(bits, T, name, text)                                                                    \
	static inline T alu_##name##bits(T m, T v, uint16_t *cc)                                        \
	{                                                                                               \
		uint16_t f = *cc;                                                                       \
		T d;                                                                                    \
		__asm__("addb $0x7f, %%al\n\tsahf\n\t" text ", %[d]\n\tlahf\n\tseto %%al"               \
			: [d] "=&r"(d), [f] "+&a"(f)                                                     \
			: [m] "r"(m), [v] "r"(v)                                                        \
			: "cc");                                                                        \
		*cc = f;                                                                                \
		return d;                                                                               \
	}
#define ALU_BMI_UNARY(bits, T, name, insn)                                                              \
	static inline T alu_##name##bits(T m, uint16_t *cc)                                             \
	{                                                                                               \
		uint16_t f = *cc;                                                                       \
		T d;                                                                                    \
		__asm__("addb $0x7f, %%al\n\tsahf\n\t" insn " %[m], %[d]\n\tlahf\n\tseto %%al"          \
			: [d] "=&r"(d), [f] "+&a"(f)                                                     \
			: [m] "r"(m)                                                                    \
			: "cc");                                                                        \
		*cc = f;                                                                                \
		return d;                                                                               \
	}
#define ALU_BMI_SIZES(X, name, text) X(32, uint32_t, name, text) X(64, uint64_t, name, text)
ALU_BMI_SIZES(ALU_BMI, andn, "andn %[m], %[v]")
ALU_BMI_SIZES(ALU_BMI, bextr, "bextr %[v], %[m]")
ALU_BMI_SIZES(ALU_BMI, bzhi, "bzhi %[v], %[m]")
ALU_BMI_SIZES(ALU_BMI, pdep, "pdep %[m], %[v]")
ALU_BMI_SIZES(ALU_BMI, pext, "pext %[m], %[v]")
ALU_BMI_SIZES(ALU_BMI_UNARY, blsi, "blsi")
ALU_BMI_SIZES(ALU_BMI_UNARY, blsmsk, "blsmsk")
ALU_BMI_SIZES(ALU_BMI_UNARY, blsr, "blsr")

/* Bit tests on a register value: CF = bit (index taken modulo the size); other flags kept. */
#define ALU_BITTEST(bits, T, S, name, insn)                                                             \
	static inline T alu_##name##bits(T a, T index, uint16_t *cc)                                    \
	{                                                                                               \
		uint16_t f = *cc;                                                                       \
		__asm__("addb $0x7f, %%al\n\tsahf\n\t" insn S " %[i], %[a]\n\tlahf\n\tseto %%al"        \
			: [a] "+&r"(a), [f] "+a"(f)                                                     \
			: [i] "r"(index)                                                                \
			: "cc");                                                                        \
		*cc = f;                                                                                \
		return a;                                                                               \
	}
#define ALU_BITTEST_SIZES(name, insn)           \
	ALU_BITTEST(16, uint16_t, "w", name, insn) \
	ALU_BITTEST(32, uint32_t, "l", name, insn) \
	ALU_BITTEST(64, uint64_t, "q", name, insn)
ALU_BITTEST_SIZES(bt, "bt")
ALU_BITTEST_SIZES(bts, "bts")
ALU_BITTEST_SIZES(btr, "btr")
ALU_BITTEST_SIZES(btc, "btc")

#endif
