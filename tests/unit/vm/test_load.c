/*
 * The kernel loaders on made-up images: what a right one leaves in memory and
 * registers, that every truncation and every lie is refused with a message, and
 * that nothing is written outside guest RAM (the fake engine would say so).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fake_engine.h"
#include "images.h"
#include "vm/load.h"
#include <errno.h>

#define MEMORY ((uint64_t)64 << 20)
#define RSDP   0xe0000ull

struct fixture {
	struct engine_vm *vm;
	uint8_t image[IMAGE_BYTES];
	struct load_request rq;
	struct load_module module[3];
	struct error err;
};

static void begin(struct fixture *f, unsigned (*make)(uint8_t[IMAGE_BYTES]), uint64_t memory)
{
	memset(f, 0, sizeof(*f));
	f->vm = fake_engine_new(memory, min_u64(memory, MEMORY));
	f->rq = (struct load_request){.vm = f->vm, .memory = memory, .cmdline = "console=ttyS0", .module = f->module,
				      .rsdp = RSDP, .long_mode = true};
	f->rq.kernel = (struct blob){.name = "k", .data = f->image, .bytes = make(f->image)};
}

static void end(struct fixture *f) { fake_engine_free(f->vm); }

static uint8_t initrd_bytes[5000];

static void add_module(struct fixture *f, const char *args)
{
	memset(initrd_bytes, 0xcd, sizeof(initrd_bytes));
	f->module[f->rq.modules++] =
		(struct load_module){.file = {.name = "i", .data = initrd_bytes, .bytes = sizeof(initrd_bytes)}, .args = args};
}

static void expect_error(struct fixture *f, int code)
{
	f->err.text[0] = 0;
	assert_int_equal(load_kernel(&f->rq, &f->err), code);
	assert_int_equal(f->err.code, code);
	assert_true(strlen(f->err.text) > 10);
	assert_null(strchr(f->err.text, '\n'));
}

/* ---- detection ---- */

static void test_detect(void **state)
{
	static const struct {
		unsigned (*make)(uint8_t[IMAGE_BYTES]);
		enum load_format format;
	} cases[] = {{image_bzimage, LOAD_BZIMAGE},
		     {image_pvh, LOAD_PVH},
		     {image_multiboot_elf32, LOAD_MULTIBOOT},
		     {image_multiboot_elf64, LOAD_MULTIBOOT},
		     {image_multiboot_flat, LOAD_MULTIBOOT}};
	uint8_t image[IMAGE_BYTES];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct blob b = {.name = "k", .data = image, .bytes = cases[i].make(image)};

		assert_int_equal(load_detect(&b), cases[i].format);
	}
}

/* As with qemu -kernel, a multiboot header wins over a PVH note. */
static void test_detect_both(void **state)
{
	uint8_t image[IMAGE_BYTES];
	struct blob b = {.name = "k", .data = image, .bytes = image_pvh(image)};

	(void)state;
	put_u32(image + 0x1000, 0x1badb002);
	put_u32(image + 0x1004, 0);
	put_u32(image + 0x1008, 0u - 0x1badb002u);
	assert_int_equal(load_detect(&b), LOAD_MULTIBOOT);
}

static void test_unknown(void **state)
{
	struct fixture f;

	(void)state;
	begin(&f, image_bzimage, MEMORY);
	memset(f.image, 0x5a, sizeof(f.image));
	expect_error(&f, -ENOEXEC);
	f.image[0] = 0x1f, f.image[1] = 0x8b;
	expect_error(&f, -ENOEXEC);
	assert_non_null(strstr(f.err.text, "gzip"));
	end(&f);
}

/* Every prefix of a right image is refused, but for those that only lack what nothing refers to. */
static void test_truncated(void **state)
{
	static const struct {
		unsigned (*make)(uint8_t[IMAGE_BYTES]);
		unsigned needed; /* bytes without which it cannot load */
	} cases[] = {{image_bzimage, IMAGE_BYTES},
		     {image_pvh, 0x2000},
		     {image_multiboot_elf32, 0x1800},
		     {image_multiboot_elf64, 0x1800},
		     {image_multiboot_flat, 0x400}};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct fixture f;

		begin(&f, cases[i].make, MEMORY);
		for (unsigned n = 1; n < cases[i].needed; n += n < 1024 ? 1 : 37) {
			uint8_t *exact = malloc(n); /* so that a sanitizer sees a read past the end */

			memcpy(exact, f.image, n);
			f.rq.kernel.data = exact;
			f.rq.kernel.bytes = n;
			expect_error(&f, -ENOEXEC);
			free(exact);
		}
		end(&f);
	}
}

/* ---- bzImage ---- */

static void check_e820(const uint8_t *zp, uint64_t memory)
{
	uint64_t usable = 0;
	unsigned n = zp[0x1e8];

	assert_true(n >= 4);
	for (unsigned i = 0; i < n; i++) {
		const uint8_t *e = zp + 0x2d0 + 20 * i;

		if (get_u32(e + 16) == 1)
			usable += get_u64(e + 8);
		if (i)
			assert_true(get_u64(e - 20) + get_u64(e - 12) <= get_u64(e));
	}
	assert_int_equal(usable, memory - (0x100000 - 0x9fc00));
}

static void check_long64(struct fixture *f, struct engine_regs *r)
{
	struct engine_sregs s;

	engine_get_regs(f->vm, r);
	engine_get_sregs(f->vm, &s);
	assert_int_equal(s.cr0, CR0_PE | CR0_ET | CR0_PG);
	assert_int_equal(s.cr4, CR4_PAE);
	assert_int_equal(s.efer, EFER_LME | EFER_LMA);
	assert_int_equal(s.seg[SEG_CS].sel, 0x10);
	assert_int_equal(s.seg[SEG_CS].attr, 0xa09b);
	assert_int_equal(s.seg[SEG_DS].sel, 0x18);
	assert_int_equal(s.seg[SEG_SS].attr, 0xc093);
	assert_int_equal(r->rflags, 2);
	/* The descriptors say what the segment registers hold. */
	assert_int_equal(get_u64(fake_engine_ram(f->vm, s.gdt.base + 0x10)), 0x00af9b000000ffff);
	assert_int_equal(get_u64(fake_engine_ram(f->vm, s.gdt.base + 0x18)), 0x00cf93000000ffff);
	/* The page tables are an identity map: walk to the last 2 MiB below 4 GiB. */
	uint64_t pdpt = get_u64(fake_engine_ram(f->vm, s.cr3)) & PTE_ADDR_MASK;
	uint64_t pd = get_u64(fake_engine_ram(f->vm, pdpt + 8 * 3)) & PTE_ADDR_MASK;
	assert_int_equal(get_u64(fake_engine_ram(f->vm, pd + 8 * 511)) & PTE_ADDR_MASK, 0xffe00000);
}

static void test_bzimage(void **state)
{
	struct engine_regs r;
	struct fixture f;
	uint8_t *zp;
	uint64_t initrd;

	(void)state;
	begin(&f, image_bzimage, MEMORY);
	add_module(&f, "");
	assert_int_equal(load_kernel(&f.rq, &f.err), 0);
	check_long64(&f, &r);
	assert_int_equal(r.rip, 0x1000200);
	assert_memory_equal(fake_engine_ram(f.vm, 0x1000000), f.image + 2560, IMAGE_BYTES - 2560);
	zp = fake_engine_ram(f.vm, r.gpr[RSI]);
	assert_memory_equal(zp + 0x202, "HdrS", 4);
	assert_int_equal(zp[0x210], 0xff);
	assert_int_equal(get_u64(zp + 0x70), RSDP);
	assert_string_equal(fake_engine_ram(f.vm, get_u32(zp + 0x228)), "console=ttyS0");
	initrd = get_u32(zp + 0x218);
	assert_int_equal(get_u32(zp + 0x21c), sizeof(initrd_bytes));
	assert_int_equal(initrd, MEMORY - 8192);
	assert_memory_equal(fake_engine_ram(f.vm, initrd), initrd_bytes, sizeof(initrd_bytes));
	check_e820(zp, MEMORY);
	end(&f);
}

/* More RAM than fits below the hole: the initrd stays below 2 GiB, as initrd_addr_max asks. */
static void test_bzimage_large(void **state)
{
	struct engine_regs r;
	struct fixture f;
	uint8_t *zp;

	(void)state;
	begin(&f, image_bzimage, (uint64_t)6 << 30);
	add_module(&f, "");
	assert_int_equal(load_kernel(&f.rq, &f.err), 0);
	engine_get_regs(f.vm, &r);
	zp = fake_engine_ram(f.vm, r.gpr[RSI]);
	assert_int_equal(get_u32(zp + 0x218), 0x80000000 - 8192);
	check_e820(zp, (uint64_t)6 << 30);
	end(&f);
}

/* RAM ends below the preferred address: a relocatable kernel moves down, another one is refused. */
static void test_bzimage_small(void **state)
{
	struct engine_regs r;
	struct fixture f;

	(void)state;
	begin(&f, image_bzimage, (uint64_t)8 << 20);
	assert_int_equal(load_kernel(&f.rq, &f.err), 0);
	engine_get_regs(f.vm, &r);
	assert_int_equal(r.rip, 0x200200);
	f.image[0x234] = 0;
	expect_error(&f, -ENOSPC);
	f.image[0x234] = 1;
	put_u32(f.image + 0x260, 0x7ff000);
	expect_error(&f, -ENOSPC);
	end(&f);
}

static void test_bzimage_lies(void **state)
{
	static const struct {
		unsigned at, bytes;
		uint64_t value;
		int error;
	} lies[] = {
		{0x1fe, 2, 0, -ENOEXEC},              /* boot flag */
		{0x206, 2, 0x20b, -ENOEXEC},          /* old protocol */
		{0x236, 2, 0, -ENOEXEC},              /* 32-bit only */
		{0x211, 1, 0, -ENOEXEC},              /* zImage */
		{0x201, 1, 0x10, -ENOEXEC},           /* header too short */
		{0x1f4, 4, 0xffffffff, -ENOEXEC},     /* syssize */
		{0x1f1, 1, 255, -ENOEXEC},            /* setup_sects */
		{0x230, 4, 0, -ENOEXEC},              /* kernel_alignment */
		{0x230, 4, 0x300000, -ENOEXEC},
		{0x230, 4, 0x80000000, -ENOEXEC},
		{0x260, 4, 0, -ENOEXEC},              /* init_size */
		{0x260, 4, 0xffffffff, -ENOSPC},
		{0x258, 8, 0, -ENOEXEC},              /* pref_address */
		{0x258, 8, 0xffffffffffff0000, -ENOEXEC},
		{0x238, 4, 3, -E2BIG},                /* cmdline_size */
		{0x22c, 4, 0, -ENOSPC},               /* initrd_addr_max */
		{0x22c, 4, 0x100fff, -ENOSPC},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
		struct fixture f;

		begin(&f, image_bzimage, MEMORY);
		add_module(&f, "");
		memcpy(f.image + lies[i].at, &lies[i].value, lies[i].bytes);
		expect_error(&f, lies[i].error);
		end(&f);
	}
}

static void test_bzimage_requests(void **state)
{
	struct fixture f;

	(void)state;
	begin(&f, image_bzimage, MEMORY);
	add_module(&f, "");
	add_module(&f, "");
	expect_error(&f, -EINVAL);
	f.rq.modules = 0;
	f.rq.long_mode = false;
	expect_error(&f, -EINVAL);
	f.rq.long_mode = true;
	f.rq.modules = 1;
	f.module[0].file.bytes = 1ull << 40; /* refused before a byte of it is looked at */
	expect_error(&f, -ENOSPC);
	end(&f);
}

/* ---- PVH ---- */

static void check_flat32(struct fixture *f, struct engine_regs *r)
{
	struct engine_sregs s;

	engine_get_regs(f->vm, r);
	engine_get_sregs(f->vm, &s);
	assert_int_equal(s.cr0, CR0_PE | CR0_ET);
	assert_int_equal(s.cr4, 0);
	assert_int_equal(s.efer, 0);
	assert_int_equal(s.seg[SEG_CS].attr, 0xc09b);
	assert_int_equal(s.seg[SEG_DS].attr, 0xc093);
	assert_int_equal(s.seg[SEG_CS].limit, 0xffffffff);
	assert_int_equal(s.tr.attr, 0x8b);
	assert_int_equal(r->rflags, 2);
}

static void test_pvh(void **state)
{
	struct engine_regs r;
	struct fixture f;
	uint8_t *info, *mod, *map;

	(void)state;
	begin(&f, image_pvh, MEMORY);
	add_module(&f, "");
	assert_int_equal(load_kernel(&f.rq, &f.err), 0);
	check_flat32(&f, &r);
	assert_int_equal(r.rip, 0x200010);
	assert_memory_equal(fake_engine_ram(f.vm, 0x200000), f.image + 0x1000, 0x1000);
	info = fake_engine_ram(f.vm, r.gpr[RBX]);
	assert_int_equal(get_u32(info), 0x336ec578);
	assert_int_equal(get_u32(info + 4), 1);
	assert_int_equal(get_u32(info + 12), 1);
	mod = fake_engine_ram(f.vm, get_u64(info + 16));
	assert_int_equal(get_u64(mod + 8), sizeof(initrd_bytes));
	assert_memory_equal(fake_engine_ram(f.vm, get_u64(mod)), initrd_bytes, sizeof(initrd_bytes));
	assert_string_equal(fake_engine_ram(f.vm, get_u64(info + 24)), "console=ttyS0");
	assert_int_equal(get_u64(info + 32), RSDP);
	map = fake_engine_ram(f.vm, get_u64(info + 40));
	assert_int_equal(get_u64(map), 0);
	assert_int_equal(get_u32(map + 16), 1);
	assert_in_range(get_u32(info + 48), 4, MEMMAP_MAX);
	end(&f);
}

static void set_phdr64(struct fixture *f, unsigned n, unsigned at, uint64_t v)
{
	put_u64(f->image + 64 + 56 * n + at, v);
}

static void test_pvh_lies(void **state)
{
	static const struct {
		unsigned phdr, at;
		uint64_t value;
		int error;
	} lies[] = {
		{0, 8, 0xfffffffffffff000, -ENOEXEC},  /* p_offset */
		{0, 32, 0xffffffffffffffff, -ENOEXEC}, /* p_filesz */
		{0, 40, 0x10, -ENOEXEC},               /* p_memsz below p_filesz */
		{0, 40, 0xffffffffffffffff, -ENOSPC},
		{0, 24, 0xfffffffffffff000, -ENOSPC},  /* p_paddr */
		{0, 24, 0xa0000, -ENOSPC},             /* no RAM */
		{0, 24, MEMORY - 0x1000, -ENOSPC},     /* over the end */
		{1, 8, 0xfffffffffffff000, -ENOEXEC},  /* the note */
		{1, 32, 20, -ENOEXEC},                 /* the note's segment ends before it */
		{1, 32, 33, -ENOEXEC},                 /* ... inside it */
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
		struct fixture f;

		begin(&f, image_pvh, MEMORY);
		set_phdr64(&f, lies[i].phdr, lies[i].at, lies[i].value);
		expect_error(&f, lies[i].error);
		end(&f);
	}
}

static void test_pvh_note_lies(void **state)
{
	static const uint32_t sizes[] = {0, 1, 3, 5, 0x7fffffff, 0xfffffffc, 0xffffffff};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(sizes) * 2; i++) {
		struct fixture f;

		begin(&f, image_pvh, MEMORY);
		put_u32(f.image + 0x200 + 20 + (i & 1) * 4, sizes[i / 2]);
		expect_error(&f, -ENOEXEC);
		end(&f);
	}
}

static void test_elf_header_lies(void **state)
{
	struct fixture f;

	(void)state;
	begin(&f, image_pvh, MEMORY);
	put_u16(f.image + 18, 40); /* e_machine: ARM */
	expect_error(&f, -ENOEXEC);
	image_pvh(f.image);
	put_u64(f.image + 32, 0xffffffffffffffff); /* e_phoff */
	expect_error(&f, -ENOEXEC);
	image_pvh(f.image);
	put_u16(f.image + 54, 8); /* e_phentsize */
	expect_error(&f, -ENOEXEC);
	image_pvh(f.image);
	put_u16(f.image + 56, 0xffff); /* e_phnum */
	expect_error(&f, -ENOEXEC);
	image_pvh(f.image);
	f.image[4] = 7; /* class */
	expect_error(&f, -ENOEXEC);
	end(&f);
}

/* Segments that overlap each other contradict themselves. */
static void test_elf_overlap(void **state)
{
	struct fixture f;

	(void)state;
	begin(&f, image_pvh, MEMORY);
	memcpy(f.image + 64 + 112, f.image + 64, 56);
	put_u16(f.image + 56, 3);
	expect_error(&f, -ENOSPC);
	set_phdr64(&f, 2, 24, 0x203000);
	assert_int_equal(load_kernel(&f.rq, &f.err), 0);
	end(&f);
}

/* ---- multiboot ---- */

static void check_modules(struct fixture *f, const uint8_t *info)
{
	const uint8_t *list = fake_engine_ram(f->vm, get_u32(info + 24));

	assert_int_equal(get_u32(info + 20), f->rq.modules);
	for (unsigned i = 0; i < f->rq.modules; i++, list += 16) {
		assert_int_equal(get_u32(list) & 0xfff, 0);
		assert_int_equal(get_u32(list + 4) - get_u32(list), sizeof(initrd_bytes));
		assert_memory_equal(fake_engine_ram(f->vm, get_u32(list)), initrd_bytes, sizeof(initrd_bytes));
		assert_string_equal(fake_engine_ram(f->vm, get_u32(list + 8)), f->module[i].args);
	}
}

static void check_multiboot(unsigned (*make)(uint8_t[IMAGE_BYTES]), uint64_t entry)
{
	struct engine_regs r;
	struct fixture f;
	uint8_t *info;

	begin(&f, make, MEMORY);
	add_module(&f, "a x=1");
	add_module(&f, "b");
	assert_int_equal(load_kernel(&f.rq, &f.err), 0);
	check_flat32(&f, &r);
	assert_int_equal(r.rip, entry);
	assert_int_equal(r.gpr[RAX], 0x2badb002);
	info = fake_engine_ram(f.vm, r.gpr[RBX]);
	assert_int_equal(get_u32(info) & 0x24d, 0x24d);
	assert_int_equal(get_u32(info + 4), 639);
	assert_int_equal(get_u32(info + 8), (MEMORY >> 10) - 1024);
	assert_string_equal(fake_engine_ram(f.vm, get_u32(info + 16)), "k console=ttyS0");
	assert_string_equal(fake_engine_ram(f.vm, get_u32(info + 64)), "gnomon");
	assert_int_equal(get_u32(info + 44) % 24, 0);
	assert_int_equal(get_u32(fake_engine_ram(f.vm, get_u32(info + 48))), 20);
	check_modules(&f, info);
	end(&f);
}

static void test_multiboot(void **state)
{
	(void)state;
	check_multiboot(image_multiboot_elf32, 0x400020);
	check_multiboot(image_multiboot_elf64, 0x400020);
	check_multiboot(image_multiboot_flat, 0x100200);
}

static void test_multiboot_lies(void **state)
{
	static const struct {
		unsigned at;
		uint32_t value;
		int error;
	} lies[] = {
		{76, 0, -ENOEXEC},           /* header_addr below load_addr */
		{76, 0xffffffff, -ENOEXEC},  /* the image would begin before the file */
		{84, 0x200000, -ENOEXEC},    /* load_end_addr past the file */
		{84, 0x80000, -ENOEXEC},     /* ... below load_addr */
		{88, 0xffffffff, -ENOSPC},   /* bss_end_addr past RAM */
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
		struct fixture f;

		begin(&f, image_multiboot_flat, MEMORY);
		put_u32(f.image + lies[i].at, lies[i].value);
		expect_error(&f, lies[i].error);
		end(&f);
	}
}

static void test_multiboot_requirements(void **state)
{
	struct fixture f;

	(void)state;
	begin(&f, image_multiboot_flat, MEMORY);
	put_u32(f.image + 68, 1u << 16 | 1u << 3);
	put_u32(f.image + 72, 0u - 0x1badb002u - (1u << 16 | 1u << 3));
	expect_error(&f, -ENOEXEC);
	image_multiboot_flat(f.image);
	put_u32(f.image + 68, 0); /* neither ELF nor address fields */
	put_u32(f.image + 72, 0u - 0x1badb002u);
	expect_error(&f, -ENOEXEC);
	end(&f);
}

/* A kernel that lies where the information would go: it goes elsewhere. */
static void test_multiboot_low(void **state)
{
	struct engine_regs r;
	struct fixture f;

	(void)state;
	begin(&f, image_multiboot_elf32, MEMORY);
	put_u32(f.image + 52 + 12, 0x4000); /* p_paddr */
	put_u32(f.image + 52 + 20, 0x20000); /* p_memsz */
	assert_int_equal(load_kernel(&f.rq, &f.err), 0);
	engine_get_regs(f.vm, &r);
	assert_true(r.gpr[RBX] >= 0x24000 && r.gpr[RBX] < 0x9fc00);
	end(&f);
}

/* ---- memory ---- */

static void test_memory_limits(void **state)
{
	struct error err;

	(void)state;
	assert_int_equal(memmap_check_memory((uint64_t)512 << 20, 46, &err), 0);
	assert_int_equal(memmap_check_memory((uint64_t)64 << 30, 46, &err), 0);
	assert_int_equal(memmap_check_memory((uint64_t)65 << 30, 46, &err), -EINVAL);
	assert_int_equal(memmap_check_memory((uint64_t)64 << 30, 36, &err), -EINVAL);
	assert_int_equal(memmap_check_memory((uint64_t)1 << 20, 46, &err), -EINVAL);
	assert_int_equal(memmap_check_memory(((uint64_t)512 << 20) + 1, 46, &err), -EINVAL);
	assert_int_equal(memmap_check_memory(0, 46, &err), -EINVAL);
}

static void test_space_find(void **state)
{
	const struct load_want low = {.bytes = 8192, .align = 4096, .min = 0x1000, .max = 0x9fc00, .what = "x"};
	const struct load_want high = {.bytes = 8192, .align = 0x100000, .min = 0, .max = UINT64_MAX, .high = true, .what = "y"};
	struct load_space s;
	struct error err;
	uint64_t base;

	(void)state;
	load_space_init(&s, MEMORY);
	assert_int_equal(load_space_take(&s, 0x2000, 1, "z", "n", &err), 0);
	assert_int_equal(load_space_find(&s, &low, "n", &base, &err), 0);
	assert_int_equal(base, 0x3000);
	assert_int_equal(load_space_find(&s, &high, "n", &base, &err), 0);
	assert_int_equal(base, MEMORY - 0x100000);
	assert_int_equal(load_space_find(&s, &high, "n", &base, &err), 0);
	assert_int_equal(base, MEMORY - 0x200000);
	assert_int_equal(load_space_take(&s, 0x3fff, 2, "z", "n", &err), -ENOSPC);
	assert_int_equal(load_space_take(&s, UINT64_MAX - 5, 100, "z", "n", &err), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_detect),
		cmocka_unit_test(test_detect_both),
		cmocka_unit_test(test_unknown),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_bzimage),
		cmocka_unit_test(test_bzimage_large),
		cmocka_unit_test(test_bzimage_small),
		cmocka_unit_test(test_bzimage_lies),
		cmocka_unit_test(test_bzimage_requests),
		cmocka_unit_test(test_pvh),
		cmocka_unit_test(test_pvh_lies),
		cmocka_unit_test(test_pvh_note_lies),
		cmocka_unit_test(test_elf_header_lies),
		cmocka_unit_test(test_elf_overlap),
		cmocka_unit_test(test_multiboot),
		cmocka_unit_test(test_multiboot_lies),
		cmocka_unit_test(test_multiboot_requirements),
		cmocka_unit_test(test_multiboot_low),
		cmocka_unit_test(test_memory_limits),
		cmocka_unit_test(test_space_find),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
