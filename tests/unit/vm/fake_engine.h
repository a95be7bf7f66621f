/* An engine that is nothing but RAM and registers: what loaders need of one. */
#ifndef GNOMON_TESTS_FAKE_ENGINE_H
#define GNOMON_TESTS_FAKE_ENGINE_H

#include "engine/engine.h"

/* RAM of the first @memory bytes is there; only @backed bytes from 0 can be read back (writes above are dropped). */
struct engine_vm *fake_engine_new(uint64_t memory, uint64_t backed);
void fake_engine_free(struct engine_vm *vm);
/* Pointer to backed memory. */
uint8_t *fake_engine_ram(struct engine_vm *vm, uint64_t a);

#endif
