/*
 * An image of a PC's firmware, as a chipset shows it after RESET: below 4 GiB, and its end below 1 MiB also, where it is
 * shadowed in RAM already. Left out: write protection.
 *
 * Where no firmware runs, the state in which it hands over to a boot loader, as far as a multiboot kernel that returns to
 * real mode can see it: a vector table whose entries return, with an end of interrupt where the PIC waits for one, the PIC at
 * vectors 8 and 0x70 with the timer's input open, the timer at 18.2 Hz, and those words of the BIOS data area by which
 * kernels find the end of low memory (Xen puts its start-up code for processors below it) and the serial port. Left out:
 * firmware services (INT 10h and the like return and do nothing), the rest of the BIOS data area.
 */
#include "vm/firmware.h"
#include "vm/memmap.h"

#include <errno.h>
#include <inttypes.h>

#define HANDLERS 0xfe000ull /* at the end of the ROM area, away from the ACPI tables */
#define VECTORS  256u
#define VECTOR_MASTER 8u
#define VECTOR_SLAVE  0x70u

static const uint8_t handlers[] = {
	0xcf,                                                 /* iret */
	0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf,             /* push ax; mov al, 20h; out 20h, al; pop ax; iret */
	0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf, /* the same with both controllers */
};
enum { HANDLER_IGNORE = 0, HANDLER_MASTER = 1, HANDLER_SLAVE = 8 };

#define BIOS_DATA   0x400ull
#define BIOS_COM1   0x00u /* port of the first serial port */
#define BIOS_EBDA   0x0eu /* segment of the extended BIOS data area */
#define BIOS_MEMORY 0x13u /* KiB of low memory, up to that area */
#define BIOS_BYTES  0x15u

static unsigned handler_of(unsigned vector)
{
	if (vector >= VECTOR_MASTER && vector < VECTOR_MASTER + 8)
		return HANDLER_MASTER;
	return vector >= VECTOR_SLAVE && vector < VECTOR_SLAVE + 8 ? HANDLER_SLAVE : HANDLER_IGNORE;
}

static void program_devices(struct platform *p)
{
	static const struct { uint16_t port; uint8_t v; } out[] = {
		{0x20, 0x11}, {0x21, VECTOR_MASTER}, {0x21, 4}, {0x21, 1}, /* edges, slave at input 2, 8086 mode */
		{0xa0, 0x11}, {0xa1, VECTOR_SLAVE}, {0xa1, 2}, {0xa1, 1},
		{0x21, 0xfa}, {0xa1, 0xff},                                /* open: timer, slave */
		{0x43, 0x34}, {0x40, 0}, {0x40, 0},                        /* channel 0: mode 2, 65536 */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(out); i++) {
		uint64_t v = out[i].v;

		platform_io(p, true, true, out[i].port, 1, &v, 0);
	}
}

static int write_bios_data(struct engine_vm *vm)
{
	uint8_t d[BIOS_BYTES] = {0};

	put_u16(d + BIOS_COM1, 0x3f8);
	put_u16(d + BIOS_EBDA, MEMMAP_LOW_END >> 4);
	put_u16(d + BIOS_MEMORY, MEMMAP_LOW_END >> 10);
	return engine_mem_write(vm, gpa(BIOS_DATA), d, sizeof(d));
}

int firmware_leave_behind(struct engine_vm *vm, struct platform *p, struct error *err)
{
	uint8_t table[4 * VECTORS];
	int ret;

	for (unsigned i = 0; i < VECTORS; i++)
		put_u32(table + 4 * i, (uint32_t)(HANDLERS >> 4) << 16 | handler_of(i));
	ret = engine_mem_write(vm, gpa(0), table, sizeof(table));
	if (ret == 0)
		ret = engine_mem_write(vm, gpa(HANDLERS), handlers, sizeof(handlers));
	if (ret == 0)
		ret = write_bios_data(vm);
	if (ret)
		return error_set(err, ret, "no memory for the interrupt vectors and BIOS data");
	program_devices(p);
	return 0;
}

/* ---- an image ---- */

#define IMAGE_UNIT   (64u << 10)
#define SHADOW_BYTES (128u << 10)

int firmware_load(struct engine_vm *vm, const struct blob *image, struct error *err)
{
	uint64_t shadow = min_u64(image->bytes, SHADOW_BYTES);
	int ret;

	if (image->bytes % IMAGE_UNIT || image->bytes > ENGINE_ROM_BYTES)
		return error_set(err, -ENOEXEC, "firmware '%s': %" PRIu64 " bytes: not a multiple of 64 KiB up to 1 MiB", image->name,
				 image->bytes);
	ret = engine_mem_write(vm, gpa(ENGINE_ROM_BASE + ENGINE_ROM_BYTES - image->bytes), image->data, image->bytes);
	if (ret == 0)
		ret = engine_mem_write(vm, gpa((1u << 20) - shadow), image->data + image->bytes - shadow, shadow);
	return ret ? error_set(err, ret, "firmware '%s': no memory for it", image->name) : 0;
}
