#include "lab/lab_state.h"
#include "base/bitmap.h"
#include "vm/pages.h"
#include <errno.h>
#include <stdlib.h>

int lab_state_init(struct lab_state *s, uint64_t pages, struct error *err)
{
	*s = (struct lab_state){.pages = pages};
	s->memory = calloc(pages, PAGE_SIZE);
	s->filled = calloc(bitmap_words(pages), sizeof(*s->filled));
	if (s->memory && s->filled)
		return 0;
	lab_state_fini(s);
	return error_set(err, -ENOMEM, "out of memory");
}

static void drop_sections(struct lab_state *s)
{
	while (s->sections)
		free(s->section[--s->sections].bytes);
	s->bytes = 0;
}

void lab_state_fini(struct lab_state *s)
{
	drop_sections(s);
	free(s->section);
	free(s->memory);
	free(s->filled);
	*s = (struct lab_state){.pages = 0};
}

/* ---- taking ---- */

int lab_state_page(struct lab_state *s, struct engine_vm *engine, uint64_t page)
{
	uint8_t data[PAGE_SIZE] __attribute__((aligned(8)));
	int ret = engine_page_read(engine, page, data);

	if (ret < 0)
		return ret;
	if (ret == 0 || pages_is_zero(data)) {
		if (bitmap_has(s->filled, page))
			memset(s->memory + page * PAGE_SIZE, 0, PAGE_SIZE);
		bitmap_clear(s->filled, page);
		return 0;
	}
	memcpy(s->memory + page * PAGE_SIZE, data, PAGE_SIZE);
	bitmap_set(s->filled, page);
	return 1;
}

static int keep_section(void *ctx, const char *name, const void *bytes, size_t n, struct error *err)
{
	struct lab_state *s = ctx;
	struct lab_section *one = s->section;

	if (s->sections == s->room) {
		s->room = s->room ? 2 * s->room : 16;
		one = realloc(s->section, s->room * sizeof(*one));
		if (!one) {
			s->room = s->sections;
			return error_set(err, -ENOMEM, "out of memory");
		}
		s->section = one;
	}
	one = &s->section[s->sections];
	if (strlen(name) >= sizeof(one->name))
		return error_set(err, -EINVAL, "the name of section '%.100s' is too long", name);
	strcpy(one->name, name);
	one->n = n;
	one->bytes = malloc(max_u64(n, 1));
	if (!one->bytes)
		return error_set(err, -ENOMEM, "out of memory");
	memcpy(one->bytes, bytes, n);
	s->sections++;
	s->bytes += n;
	return 0;
}

int lab_state_sections(struct lab_state *s, struct vm *vm, struct error *err)
{
	const struct state_sink sink = {s, keep_section};

	drop_sections(s);
	return vm_save_state(vm, &sink, err);
}

int lab_state_take(struct lab_state *s, struct vm *vm, struct error *err)
{
	for (uint64_t page = 0; page < s->pages; page++)
		if (lab_state_page(s, vm_engine(vm), page) < 0)
			return error_set(err, -EIO, "a page of the guest's memory cannot be read");
	return lab_state_sections(s, vm, err);
}

/* ---- making ---- */

static int load(const struct lab_state *s, struct vm *vm, struct error *err)
{
	struct engine_vm *engine = vm_engine(vm);
	int ret = 0;

	if (engine_pages(engine) != s->pages)
		return error_set(err, -EINVAL, "the VM has another number of pages");
	for (unsigned i = 1; i < s->sections && ret == 0; i++)
		ret = vm_load_section(vm, s->section[i].name, s->section[i].bytes, s->section[i].n, err);
	for (uint64_t page = 0; ret == 0; page++) {
		page = bitmap_next(s->filled, page, s->pages);
		if (page == s->pages)
			break;
		if (engine_mem_write(engine, engine_page_gpa(engine, page), s->memory + page * PAGE_SIZE, PAGE_SIZE))
			ret = error_set(err, -ENOMEM, "the guest's memory cannot be written");
	}
	return ret ? ret : vm_load_finish(vm, err);
}

int lab_state_make(const struct lab_state *s, const struct hw *hw, enum engine_mmu mmu, struct vm **out,
		   struct vm_config_strings *keep, struct error *err)
{
	struct vm_config cfg;
	struct vm *vm;
	int ret;

	if (!s->sections || strcmp(s->section[0].name, VM_STATE_CONFIG) != 0)
		return error_set(err, -EINVAL, "there is no state to make a VM of");
	ret = vm_config_from_section(&cfg, keep, s->section[0].bytes, s->section[0].n, err);
	if (ret)
		return ret;
	cfg.engine.mmu = mmu;
	cfg.engine.cpu.hw = *hw;
	ret = vm_create_empty(&vm, &cfg, err);
	if (ret == 0) {
		ret = load(s, vm, err);
		if (ret)
			vm_destroy(vm);
	}
	if (ret)
		vm_config_strings_free(keep);
	else
		*out = vm;
	return ret;
}
