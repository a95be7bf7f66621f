/*
 * Loading a kernel: an image in a known format, its command line and modules go
 * to guest memory, and the processor gets the state the format's boot protocol
 * prescribes. Image, initrd and command line are hostile input: every offset and
 * size is checked against the bytes that are there and against guest RAM.
 */
#ifndef GNOMON_VM_LOAD_H
#define GNOMON_VM_LOAD_H

#include "engine/engine.h"
#include "vm/file.h"
#include "vm/memmap.h"

enum load_format {
	LOAD_UNKNOWN,
	LOAD_BZIMAGE,   /* Linux, 64-bit boot protocol (load_linux_bzimage.c) */
	LOAD_MULTIBOOT, /* multiboot 1 (load_multiboot.c) */
	LOAD_PVH,       /* ELF with a Xen PVH entry note (load_elf_pvh.c) */
};
extern const char *const load_format_name[];

/* A file for the guest beside its kernel: the initial ramdisk, or a multiboot module. */
struct load_module {
	struct blob file;
	const char *args; /* multiboot: the module's string; otherwise ignored */
};

struct load_request {
	struct engine_vm *vm;
	uint64_t memory;                 /* bytes of guest RAM, as the engine was created with */
	struct blob kernel;
	const char *cmdline;             /* "" if none */
	const struct load_module *module;
	unsigned modules;
	uint64_t rsdp;                   /* gpa of the ACPI RSDP, 0 if none */
	bool long_mode;                  /* the processor has it */
};

/*
 * The format of an image, in the order in which qemu -kernel looks: the Linux
 * setup header, then multiboot, then an ELF with a PVH note.
 */
enum load_format load_detect(const struct blob *kernel);

/*
 * Loads a guest into a VM fresh from engine_create() and sets its registers.
 * Returns 0, or with @err (one line: what, where, why)
 *  -ENOEXEC: no known format, or the image contradicts itself
 *  -ENOSPC: something does not fit in guest RAM
 *  -E2BIG: command line too long
 *  -EINVAL: the request does not suit the format
 *  other: engine failures.
 * Guest memory may have been partly written on error.
 */
int load_kernel(const struct load_request *rq, struct error *err);

/* ---- for the loaders ---- */

/* Guest RAM while it is being given out. */
#define LOAD_TAKEN_MAX 80
struct load_space {
	struct memmap map;
	struct load_taken {
		uint64_t base, bytes;
		const char *what;
	} taken[LOAD_TAKEN_MAX];
	unsigned takens;
};
void load_space_init(struct load_space *s, uint64_t memory);
/*
 * Takes [base, base + bytes) for @what (a string that outlives @s).
 * @name: of the image, opens the message
 * -ENOSPC: not all usable RAM, or taken by something else; @s is unchanged on error.
 */
int load_space_take(struct load_space *s, uint64_t base, uint64_t bytes, const char *what, const char *name,
		    struct error *err);
/*
 * Finds and takes a place.
 * @align: power of two; @min: lowest base; @max: the end may not lie above
 * @high: the highest such place, otherwise the lowest
 * -ENOSPC with sizes in @err.
 */
struct load_want {
	uint64_t bytes, align, min, max;
	bool high;
	const char *what;
};
int load_space_find(struct load_space *s, const struct load_want *w, const char *name, uint64_t *base,
		    struct error *err);

/* Writes guest memory that has been taken. */
int load_write(const struct load_request *rq, uint64_t base, const void *data, uint64_t bytes, const char *what,
	       struct error *err);

/* 32-bit flat protected mode, paging and interrupts off (PVH, multiboot); @gdt: gpa of 32 bytes for a GDT. */
struct load_entry32 {
	uint32_t eip, eax, ebx;
	uint64_t gdt;
};
int load_enter_flat32(const struct load_request *rq, const struct load_entry32 *e, struct error *err);
/*
 * 64-bit mode with the first 4 GiB identity-mapped in 2 MiB pages, CS 0x10, DS/ES/SS 0x18.
 * @boot: LOAD_LONG64_BYTES of page-aligned guest memory for page tables and GDT
 */
#define LOAD_LONG64_BYTES (7 * PAGE_SIZE)
int load_enter_long64(const struct load_request *rq, uint64_t rip, uint64_t rsi, uint64_t boot, struct error *err);

bool load_is_bzimage(const struct blob *b);
bool load_is_multiboot(const struct blob *b);
bool load_is_pvh(const struct blob *b);
int load_linux_bzimage(const struct load_request *rq, struct error *err);
int load_multiboot(const struct load_request *rq, struct error *err);
int load_elf_pvh(const struct load_request *rq, struct error *err);

/* Are bytes [offset, offset + bytes) in the blob? */
static inline bool blob_has(const struct blob *b, uint64_t offset, uint64_t bytes)
{
	return offset <= b->bytes && bytes <= b->bytes - offset;
}

#endif
