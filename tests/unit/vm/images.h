/* Made-up kernel images: right ones, for tests to break. */
#ifndef GNOMON_TESTS_IMAGES_H
#define GNOMON_TESTS_IMAGES_H

#include <stdint.h>
#include <stdlib.h>

#define IMAGE_BYTES 16384

/* A bzImage of 16 KiB: protocol 2.15, preferred address 16 MiB, init_size 64 KiB, alignment 2 MiB. */
unsigned image_bzimage(uint8_t image[IMAGE_BYTES]);
/* An ELF64 with a PVH note: one segment at 2 MiB, entry 0x200010 by the note. */
unsigned image_pvh(uint8_t image[IMAGE_BYTES]);
/* A multiboot ELF32: one segment at 4 MiB with some bss, entry 0x400020. */
unsigned image_multiboot_elf32(uint8_t image[IMAGE_BYTES]);
/* ... ELF64, linked at 0xffffffff80400000, loaded at 4 MiB. */
unsigned image_multiboot_elf64(uint8_t image[IMAGE_BYTES]);
/* ... no ELF: address fields, loaded at 1 MiB, header at file offset 64. */
unsigned image_multiboot_flat(uint8_t image[IMAGE_BYTES]);

#endif
