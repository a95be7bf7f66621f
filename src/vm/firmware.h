/*
 * What a PC's firmware leaves behind for programs that look back: see firmware.c.
 */
#ifndef GNOMON_VM_FIRMWARE_H
#define GNOMON_VM_FIRMWARE_H

#include "engine/engine.h"
#include "vm/platform.h"

/*
 * Puts the real-mode interrupt vectors and their handlers into guest memory and starts PIC and PIT as
 * firmware does. Before the kernel is loaded, which may overwrite the vectors.
 * Returns 0 or a negative errno with @err set.
 */
int firmware_leave_behind(struct engine_vm *vm, struct platform *p, struct error *err);

#endif
