/*
 * A PC's firmware: its image, put where the processor begins; or, where none runs, what it leaves behind for programs that
 * look back. See firmware.c.
 */
#ifndef GNOMON_VM_FIRMWARE_H
#define GNOMON_VM_FIRMWARE_H

#include "engine/engine.h"
#include "vm/file.h"
#include "vm/platform.h"

/*
 * Puts the real-mode interrupt vectors and their handlers into guest memory and starts PIC and PIT as
 * firmware does. Before the kernel is loaded, which may overwrite the vectors.
 * Returns 0 or a negative errno with @err set.
 */
int firmware_leave_behind(struct engine_vm *vm, struct platform *p, struct error *err);

/*
 * Puts an image so that it ends at 4 GiB, and its last 128 KiB so that they end at 1 MiB. The VM, with a ROM, is as after
 * RESET and stays so: the first instruction is 16 bytes from the image's end.
 * -ENOEXEC: not whole multiples of 64 KiB, or more than there is room for; or as engine_mem_write().
 */
int firmware_load(struct engine_vm *vm, const struct blob *image, struct error *err);

#endif
