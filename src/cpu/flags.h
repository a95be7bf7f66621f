/*
 * Arithmetic flags.
 *
 * Guest and host are the same architecture, so an ALU operation is executed by the
 * host's own and its flags are kept in the form in which LAHF; SETO AL leave them
 * in AX: bit 0 OF, bit 8 CF, 10 PF, 12 AF, 14 ZF, 15 SF. That is exact, for
 * flags the manual leaves undefined too, and costs two host instructions.
 */
#ifndef GNOMON_CPU_FLAGS_H
#define GNOMON_CPU_FLAGS_H

#include <stdint.h>

#define CC_OF 0x0001u
#define CC_CF 0x0100u
#define CC_PF 0x0400u
#define CC_AF 0x1000u
#define CC_ZF 0x4000u
#define CC_SF 0x8000u

static inline uint64_t cc_to_rflags(uint16_t cc) { return (uint64_t)(cc >> 8 & 0xd5) | (uint64_t)(cc & 1) << 11; }
static inline uint16_t cc_from_rflags(uint64_t rf) { return (uint16_t)((rf & 0xd5) << 8 | (rf >> 11 & 1)); }

/* Evaluates condition code @n (the low four bits of a Jcc, SETcc or CMOVcc opcode). */
static inline int cc_test(uint16_t cc, unsigned n)
{
	int r;

	switch (n >> 1) {
	case 0: r = cc & CC_OF; break;
	case 1: r = cc & CC_CF; break;
	case 2: r = cc & CC_ZF; break;
	case 3: r = cc & (CC_CF | CC_ZF); break;
	case 4: r = cc & CC_SF; break;
	case 5: r = cc & CC_PF; break;
	case 6: r = (cc >> 15 ^ cc) & 1; break;
	default: r = (cc & CC_ZF) || ((cc >> 15 ^ cc) & 1); break;
	}
	return (r != 0) ^ (n & 1);
}

#endif
