/* From bytes to one uop: what the block cache and the emulator ask of the decoder. */
#ifndef GNOMON_CPU_LOWER_H
#define GNOMON_CPU_LOWER_H

#include "cpu/cpu.h"

/* LAST: nothing may follow it. ALONE: nothing may come before it either, since it asks for the count of instructions. */
enum block_place { PLACE_ANY, PLACE_LAST, PLACE_ALONE };

/*
 * Decodes and lowers the instruction at @bytes.
 * @avail: bytes that may be looked at
 * @off: its offset from the block's start
 * @place: receives where in a block it may stand
 * Returns its length; an undefined or overlong one gives a uop that raises #UD or
 * #GP. 0 if more than @avail bytes are needed.
 */
int lower_one(struct cpu *cpu, const uint8_t *bytes, unsigned avail, unsigned bits, unsigned off, struct uop *u,
	      enum block_place *place);
/* The pseudo-uop that ends a block without a branch: RIP moves by @bytes. */
void lower_fallthrough(struct uop *u, unsigned bytes);

#endif
