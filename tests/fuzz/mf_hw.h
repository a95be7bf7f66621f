/* Random translation hardware for machfuzz. */
#ifndef GNOMON_MF_HW_H
#define GNOMON_MF_HW_H

#include "mf_gen.h"
#include "mmu/hw.h"

/* The hardware of @seed. */
void mf_random_hw(struct hw *hw, uint64_t seed);

#endif
