/* A virtio device on the PCI bus, for drivers of version 1: see virtio_pci.c. */
#ifndef GNOMON_DEV_VIRTIO_PCI_H
#define GNOMON_DEV_VIRTIO_PCI_H

#include "dev/pci.h"
#include "dev/virtio.h"

struct virtio_pci {
	struct pci_function fn;
	struct virtio *v;
	uint32_t offered_select, accepted_select; /* which half of the features shows */
	uint16_t queue_select;
	uint16_t config_vector, queue_vector[VIRTIO_QUEUES_MAX];
	uint8_t isr;
	uint8_t cfg_cap;                          /* offset of the capability that leads to device memory */
};

extern const struct state_desc virtio_pci_desc; /* of struct virtio_pci without what it points to */

/* Makes the function of device @v; the owner puts t->fn on a bus. */
void virtio_pci_init(struct virtio_pci *t, struct virtio *v);
/* After the device did something by itself: passes on interrupts it asks for. */
void virtio_pci_collect(struct virtio_pci *t);

#endif
