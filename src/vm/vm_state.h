/*
 * The state of a VM but for the contents of its memory, as named sections: saved from one VM, loaded into a fresh one
 * made of the same configuration, which then goes on bit for bit, whatever executes it (scheme, hardware
 * description, shadow options).
 *
 *	saving                                  loading
 *	vm_quiesce(vm)                          vm_config_from_section()   from "config"
 *	vm_save_state(vm, &sink, err)           set engine.mmu, hw, ...: they are no state
 *	copy the memory                         vm_create_empty(&vm, &cfg, err)
 *	                                        vm_load_section() for each of the others, and the memory
 *	                                        vm_load_finish(vm, err), vm_set_console(), vm_run_until() ...
 *
 * A disk's contents are not in the sections: they are in the image, flushed when vm_save_state() returns. The VM that
 * was saved has to let go of its images (vm_close_devices()) before another one can open them.
 *
 * What is not state: counters of reports, whether a console is connected, conditions to stop at. With a wall clock or
 * a network connected a run does not follow from its state alone, but it goes on where it was.
 */
#ifndef GNOMON_VM_VM_STATE_H
#define GNOMON_VM_VM_STATE_H

#include "base/state.h"
#include "vm/vm.h"

/* Sections are at most so long. */
#define VM_STATE_SECTION_MAX ((size_t)1 << 20)
#define VM_STATE_CONFIG      "config" /* the name of the section that comes first */

/*
 * Goes on, instruction by instruction, to the next boundary at which all state is architectural: no access half done,
 * no event half delivered. Usually that is where the VM stands. Between two calls of vm_run_until(), or from a ticker.
 * 0, or -ECANCELED if the guest ends first.
 */
int vm_quiesce(struct vm *vm);

/*
 * Gives all sections to @sink: "config", "vcpu", "lapic", "vm", "platform", and one or more a device. After
 * vm_quiesce(). The VM can go on afterwards. Waits for the host to do what disks have been asked for, and flushes them.
 * -EBUSY: not at such a boundary, or the guest has ended; -ENOTSUP: a device whose state cannot be taken along (a disk
 * with "snapshot"); -EIO and others: a disk cannot be flushed; what @sink returns.
 */
int vm_save_state(struct vm *vm, const struct state_sink *sink, struct error *err);

/* As vm_create(), without kernel and initrd: memory is zeros, the processor in its RESET state, devices as new. */
int vm_create_empty(struct vm **out, const struct vm_config *cfg, struct error *err);

/*
 * Loads a section other than "config" into a VM from vm_create_empty(), before it runs; in any order, each once.
 * -EINVAL with what is wrong in @err: the VM is then of no use but to be destroyed.
 */
int vm_load_section(struct vm *vm, const char *name, const void *bytes, size_t n, struct error *err);

/*
 * After the last section: are all there that the VM needs, and do they agree? -EINVAL if not. Memory may be written
 * before or after that.
 */
int vm_load_finish(struct vm *vm, struct error *err);

/* Strings that a configuration from a section points to. */
struct vm_config_strings {
	void *json;
};
/*
 * What "config" says, over vm_config_default(): memory, processor, clock, devices. Paths are absolute. @cfg, and a VM made
 * of it, need @keep: vm_config_strings_free() comes after vm_destroy(), and only after success. -EINVAL: @cfg and @keep
 * unchanged.
 * Files and networks that it names are those of whoever wrote it: a caller that does not trust him compares them with
 * what it expects.
 */
int vm_config_from_section(struct vm_config *cfg, struct vm_config_strings *keep, const void *bytes, size_t n,
			   struct error *err);
void vm_config_strings_free(struct vm_config_strings *keep);

#endif
