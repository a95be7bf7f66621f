/* From bytes to one uop: what the block cache and the emulator ask of the decoder. */
#ifndef GNOMON_CPU_LOWER_H
#define GNOMON_CPU_LOWER_H

#include "cpu/cpu.h"

/*
 * Decodes and lowers the instruction at @bytes.
 * @avail: bytes that may be looked at
 * @off: its offset from the block's start
 * @ends: set if nothing may follow it in a block
 * Returns its length; an undefined or overlong one gives a uop that raises #UD or
 * #GP. 0 if more than @avail bytes are needed.
 */
int lower_one(struct cpu *cpu, const uint8_t *bytes, unsigned avail, unsigned bits, unsigned off, struct uop *u,
	      bool *ends);
/* The pseudo-uop that ends a block without a branch: RIP moves by @bytes. */
void lower_fallthrough(struct uop *u, unsigned bytes);

#endif
