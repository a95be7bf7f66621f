/* What a VM is made of, as text: the "config" section of its state. Reading it is vm_config_from_section() of vm_state.h. */
#ifndef GNOMON_VM_VM_CONFIG_H
#define GNOMON_VM_VM_CONFIG_H

#include "vm/vm.h"

/* The JSON of docs/FORMATS.md for @cfg; *@out is the caller's to free. -ENOMEM; errors of finding the current directory. */
int vm_config_to_text(char **out, const struct vm_config *cfg, struct error *err);

#endif
