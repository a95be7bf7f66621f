/*
 * The ACPI tables that describe the platform (vm/platform.h) to the guest: RSDP, RSDT
 * and XSDT, FADT, FACS, DSDT, MADT, and MCFG if there is a PCI bus.
 */
#ifndef GNOMON_VM_ACPI_H
#define GNOMON_VM_ACPI_H

#include "base/util.h"

/* A good place: the BIOS area, where software without a pointer scans for the RSDP. */
#define ACPI_LOAD_GPA 0xe0000ull

/*
 * Builds all tables.
 * @buf, @bytes: where, and the room there is (4 KiB is enough)
 * @pci: there is a PCI bus; without one nothing in the tables shows that there could be
 * @load_gpa: guest-physical address the buffer is going to have; multiple of 64, below 4 GiB
 * @rsdp_gpa: out: the RSDP's
 * Returns the number of bytes used; 0 if there is too little room or @load_gpa cannot be used.
 */
size_t acpi_build(uint8_t *buf, size_t bytes, bool pci, uint64_t load_gpa, uint64_t *rsdp_gpa);

#endif
