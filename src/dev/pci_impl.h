/* What the bus and MSI-X know of each other. Nothing but pci*.c includes this. */
#ifndef GNOMON_DEV_PCI_IMPL_H
#define GNOMON_DEV_PCI_IMPL_H

#include "dev/pci.h"
#include <assert.h>

/* Takes a message of the function's that nothing masks. */
bool pci_msix_take(struct pci_function *fn, uint64_t *addr, uint32_t *data);
/* Accesses to the BAR with table and pending bits; all bytes within it. */
uint64_t pci_msix_read(const struct pci_function *fn, uint32_t offset, unsigned bytes);
void pci_msix_write(struct pci_function *fn, uint32_t offset, unsigned bytes, uint64_t v);

/* After loading: does the table hold nothing that software cannot write, and are only vectors pending that there are? */
int pci_msix_check(const struct pci_msix *m, struct error *err);

#endif
