/* See images.h. */
#include "images.h"
#include "base/util.h"
#include <elf.h>

unsigned image_bzimage(uint8_t d[IMAGE_BYTES])
{
	const unsigned payload = 5 * 512, bytes = IMAGE_BYTES;

	memset(d, 0, IMAGE_BYTES);
	d[0x1f1] = 4;
	put_u32(d + 0x1f4, (bytes - payload) / 16);
	put_u16(d + 0x1fe, 0xaa55);
	d[0x200] = 0xeb;
	d[0x201] = 0x6a;
	memcpy(d + 0x202, "HdrS", 4);
	put_u16(d + 0x206, 0x20f);
	d[0x211] = 1;
	put_u32(d + 0x22c, 0x7fffffff);
	put_u32(d + 0x230, 0x200000);
	d[0x234] = 1;
	put_u16(d + 0x236, 1);
	put_u32(d + 0x238, 2047);
	put_u64(d + 0x258, 0x1000000);
	put_u32(d + 0x260, 0x10000);
	for (unsigned i = payload; i < bytes; i++)
		d[i] = (uint8_t)i;
	return bytes;
}

static void elf64_header(uint8_t *d, unsigned segments, uint64_t entry)
{
	Elf64_Ehdr h = {.e_type = ET_EXEC, .e_machine = EM_X86_64, .e_version = EV_CURRENT, .e_entry = entry,
			.e_phoff = sizeof(h), .e_ehsize = sizeof(h), .e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = (Elf64_Half)segments};

	memcpy(h.e_ident, ELFMAG, SELFMAG);
	h.e_ident[EI_CLASS] = ELFCLASS64;
	h.e_ident[EI_DATA] = ELFDATA2LSB;
	h.e_ident[EI_VERSION] = EV_CURRENT;
	memcpy(d, &h, sizeof(h));
}

unsigned image_pvh(uint8_t d[IMAGE_BYTES])
{
	const Elf64_Phdr ph[2] = {
		{.p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_offset = 0x1000, .p_vaddr = 0xffffffff80200000,
		 .p_paddr = 0x200000, .p_filesz = 0x1000, .p_memsz = 0x3000},
		{.p_type = PT_NOTE, .p_offset = 0x200, .p_filesz = 44, .p_align = 4},
	};
	uint8_t *n = d + 0x200;

	memset(d, 0, IMAGE_BYTES);
	elf64_header(d, 2, 0xffffffff80200000);
	memcpy(d + sizeof(Elf64_Ehdr), ph, sizeof(ph));
	put_u32(n, 4), put_u32(n + 4, 4), put_u32(n + 8, 3); /* some other note, to be passed over */
	memcpy(n + 12, "GNU", 4);
	n += 20;
	put_u32(n, 4), put_u32(n + 4, 8), put_u32(n + 8, 18);
	memcpy(n + 12, "Xen", 4);
	put_u64(n + 16, 0x200010);
	memset(d + 0x1000, 0x90, 0x1000);
	return 0x2000;
}

static void multiboot_header(uint8_t *p, uint32_t flags)
{
	put_u32(p, 0x1badb002);
	put_u32(p + 4, flags);
	put_u32(p + 8, 0u - 0x1badb002u - flags);
}

unsigned image_multiboot_elf32(uint8_t d[IMAGE_BYTES])
{
	Elf32_Ehdr h = {.e_type = ET_EXEC, .e_machine = EM_386, .e_version = EV_CURRENT, .e_entry = 0x400020,
			.e_phoff = sizeof(h), .e_ehsize = sizeof(h), .e_phentsize = sizeof(Elf32_Phdr), .e_phnum = 1};
	const Elf32_Phdr ph = {.p_type = PT_LOAD, .p_flags = PF_R | PF_W | PF_X, .p_offset = 0x1000, .p_vaddr = 0x400000,
			       .p_paddr = 0x400000, .p_filesz = 0x800, .p_memsz = 0x2000};

	memset(d, 0, IMAGE_BYTES);
	memcpy(h.e_ident, ELFMAG, SELFMAG);
	h.e_ident[EI_CLASS] = ELFCLASS32;
	h.e_ident[EI_DATA] = ELFDATA2LSB;
	memcpy(d, &h, sizeof(h));
	memcpy(d + sizeof(h), &ph, sizeof(ph));
	multiboot_header(d + 0x1000, 3);
	memset(d + 0x1020, 0x90, 0x700);
	return 0x1800;
}

unsigned image_multiboot_elf64(uint8_t d[IMAGE_BYTES])
{
	const Elf64_Phdr ph = {.p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_offset = 0x1000,
			       .p_vaddr = 0xffffffff80400000, .p_paddr = 0x400000, .p_filesz = 0x800, .p_memsz = 0x800};

	memset(d, 0, IMAGE_BYTES);
	elf64_header(d, 1, 0xffffffff80400020);
	memcpy(d + sizeof(Elf64_Ehdr), &ph, sizeof(ph));
	multiboot_header(d + 0x1000, 0);
	return 0x1800;
}

unsigned image_multiboot_flat(uint8_t d[IMAGE_BYTES])
{
	memset(d, 0, IMAGE_BYTES);
	multiboot_header(d + 64, 1u << 16);
	put_u32(d + 76, 0x100040);  /* header_addr */
	put_u32(d + 80, 0x100000);  /* load_addr */
	put_u32(d + 84, 0x100400);  /* load_end_addr */
	put_u32(d + 88, 0x101000);  /* bss_end_addr */
	put_u32(d + 92, 0x100200);  /* entry_addr */
	memset(d + 0x200, 0x90, 0x200);
	return 0x400;
}
