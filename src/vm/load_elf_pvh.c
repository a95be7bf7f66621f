/*
 * An ELF kernel with a PVH entry point (Xen "x86/HVM direct boot ABI"): loaded by
 * physical addresses, entered in 32-bit flat protected mode with EBX pointing at
 * struct hvm_start_info version 1. Linux's vmlinux is one.
 */
#include "vm/elf_image.h"
#include <errno.h>
#include <inttypes.h>

#define NOTE_PHYS32_ENTRY 18
#define START_INFO_MAGIC  0x336ec578u
#define START_INFO_BYTES  56
#define MODLIST_BYTES     32
#define MEMMAP_BYTES      24

/* Where things are in the page(s) that hold the start information. */
#define AT_GDT     0
#define AT_INFO    64
#define AT_MODLIST (AT_INFO + 64)
#define AT_MEMMAP  (AT_MODLIST + MODLIST_BYTES)
#define AT_END     (AT_MEMMAP + MEMMAP_MAX * MEMMAP_BYTES)

bool load_is_pvh(const struct blob *b)
{
	struct elf_image e;
	struct error ignored;
	uint64_t entry;

	if (!elf_is(b))
		return false;
	/* An ELF that cannot be parsed is ours too: its loader has the better message. */
	return elf_parse(&e, b, &ignored) || elf_find_note(&e, "Xen", NOTE_PHYS32_ENTRY, &entry);
}

struct placed {
	uint64_t info, initrd, cmdline;
};

static int place_initrd(const struct load_request *rq, struct load_space *s, uint64_t *base, struct error *err)
{
	const struct blob *initrd = &rq->module[0].file;
	const struct load_want want = {.bytes = initrd->bytes, .align = PAGE_SIZE, .min = MEMMAP_ROM_END,
				       .max = SIZE_1G * 2, .high = true, .what = "initrd"};
	int ret = load_space_find(s, &want, initrd->name, base, err);

	return ret ? ret : load_write(rq, *base, initrd->data, initrd->bytes, "initrd", err);
}

static int place_cmdline(const struct load_request *rq, struct load_space *s, uint64_t *base, struct error *err)
{
	const struct load_want want = {.bytes = strlen(rq->cmdline) + 1, .align = 16, .min = PAGE_SIZE,
				       .max = MEMMAP_LOW_END, .what = "command line"};
	int ret = load_space_find(s, &want, rq->kernel.name, base, err);

	return ret ? ret : load_write(rq, *base, rq->cmdline, want.bytes, "command line", err);
}

static void build_start_info(const struct load_request *rq, const struct load_space *s, const struct placed *at,
			     uint8_t *page)
{
	uint8_t *info = page + AT_INFO, *mod = page + AT_MODLIST;

	put_u32(info, START_INFO_MAGIC);
	put_u32(info + 4, 1); /* version */
	put_u64(info + 24, at->cmdline);
	put_u64(info + 32, rq->rsdp);
	put_u64(info + 40, at->info + AT_MEMMAP);
	put_u32(info + 48, s->map.count);
	for (unsigned i = 0; i < s->map.count; i++) {
		uint8_t *e = page + AT_MEMMAP + i * MEMMAP_BYTES;

		put_u64(e, s->map.entry[i].base);
		put_u64(e + 8, s->map.entry[i].bytes);
		put_u32(e + 16, s->map.entry[i].type);
	}
	if (!rq->modules)
		return;
	put_u32(info + 12, 1);
	put_u64(info + 16, at->info + AT_MODLIST);
	put_u64(mod, at->initrd);
	put_u64(mod + 8, rq->module[0].file.bytes);
}

static int enter(const struct load_request *rq, struct load_space *s, struct placed *at, uint64_t entry,
		 struct error *err)
{
	const struct load_want want = {.bytes = AT_END, .align = PAGE_SIZE, .min = PAGE_SIZE, .max = MEMMAP_LOW_END,
				       .what = "start information"};
	uint8_t page[AT_END] = {0};
	struct load_entry32 e;
	int ret = load_space_find(s, &want, rq->kernel.name, &at->info, err);

	if (ret)
		return ret;
	build_start_info(rq, s, at, page);
	ret = load_write(rq, at->info, page, sizeof(page), "start information", err);
	if (ret)
		return ret;
	e = (struct load_entry32){.eip = (uint32_t)entry, .ebx = (uint32_t)(at->info + AT_INFO),
				  .gdt = at->info + AT_GDT};
	return load_enter_flat32(rq, &e, err);
}

int load_elf_pvh(const struct load_request *rq, struct error *err)
{
	struct placed at = {0};
	struct load_space s;
	struct elf_image e;
	uint64_t entry = 0, end;
	int ret = elf_parse(&e, &rq->kernel, err);

	if (ret)
		return ret;
	if (!elf_find_note(&e, "Xen", NOTE_PHYS32_ENTRY, &entry) || entry > UINT32_MAX)
		return error_set(err, -ENOEXEC, "kernel '%s': ELF: the PVH entry point is not a 32-bit address",
				 rq->kernel.name);
	if (rq->modules > 1)
		return error_set(err, -EINVAL, "kernel '%s': a PVH kernel takes one initrd", rq->kernel.name);
	load_space_init(&s, rq->memory);
	ret = elf_load(&e, rq, &s, &end, err);
	if (ret == 0 && rq->modules)
		ret = place_initrd(rq, &s, &at.initrd, err);
	if (ret == 0)
		ret = place_cmdline(rq, &s, &at.cmdline, err);
	return ret ? ret : enter(rq, &s, &at, entry, err);
}
