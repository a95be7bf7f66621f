/*
 * The state hash: one number for everything the guest can know of itself. Two
 * runs that did the same work have equal hashes, whatever executed them, so
 * nothing in here may depend on the engine: only registers and memory contents.
 * Left out: host-side state, device models (their owner's), the local APIC's timers.
 */
#include "engine/engine_impl.h"

#define XXH_STATIC_LINKING_ONLY /* the state on the stack: nothing to allocate, nothing to fail */
#include "mem/page_hash.h"

/* x87 and SSE registers (the upper halves of YMM registers are hashed too); what follows in the FXSAVE image is reserved. */
#define FX_ARCHITECTURAL FX_XMM(16)

static void hash_seg(XXH3_state_t *h, const struct seg *s)
{
	/* Member by member: padding has no defined value. An unusable segment has only a selector. */
	uint64_t v[4] = {s->sel, s->attr & SEG_AR_UNUSABLE, 0, 0};

	if (!(s->attr & SEG_AR_UNUSABLE)) {
		v[1] = s->attr;
		v[2] = s->limit;
		v[3] = s->base;
	}
	XXH3_128bits_update(h, v, sizeof(v));
}

/* What a guest that uses direct translation has of it. One that does not has nothing. */
static void hash_dmt(struct engine_vm *vm, XXH3_state_t *h)
{
	struct engine_dmt d;

	memset(&d, 0, sizeof(d));
	vm->ops->get_dmt(vm, &d);
	if (d.load | d.request)
		XXH3_128bits_update(h, &d, sizeof(d));
}

/*
 * Of a guest with VMX: whether it may be used and is, and which VMCS is current. Controls and the rest of the VMCS are
 * in memory.
 */
static void hash_vmx(struct engine_vm *vm, XXH3_state_t *h)
{
	struct engine_vmx x;
	uint64_t v[4];

	memset(&x, 0, sizeof(x));
	vm->ops->get_vmx(vm, &x);
	if (!x.feature_control)
		return;
	v[0] = x.feature_control;
	v[1] = x.state.on | (uint64_t)x.state.nonroot << 1;
	v[2] = x.state.on ? x.state.vmxon.v : 0;
	v[3] = x.state.on ? x.state.current.v : 0;
	XXH3_128bits_update(h, v, sizeof(v));
}

static void hash_registers(struct engine_vm *vm, XXH3_state_t *h)
{
	struct engine_regs r;
	struct engine_sregs s;
	struct engine_msrs m;
	struct fpu fpu;

	engine_get_regs(vm, &r);
	engine_get_sregs(vm, &s);
	engine_get_fpu(vm, &fpu);
	vm->ops->get_msrs(vm, &m);
	XXH3_128bits_update(h, &r, sizeof(r));
	for (unsigned i = 0; i < SEG_COUNT; i++)
		hash_seg(h, &s.seg[i]);
	hash_seg(h, &s.tr);
	hash_seg(h, &s.ldt);
	uint64_t v[] = {s.gdt.base, s.gdt.limit, s.idt.base, s.idt.limit, s.cr0, s.cr2, s.cr3, s.cr4, s.cr8,
			s.efer, s.apic_base};
	XXH3_128bits_update(h, v, sizeof(v));
	XXH3_128bits_update(h, &m, sizeof(m));
	XXH3_128bits_update(h, fpu.fx, FX_ARCHITECTURAL);
	XXH3_128bits_update(h, fpu.ymm_hi, sizeof(fpu.ymm_hi));
	hash_dmt(vm, h);
	hash_vmx(vm, h);
}

struct memory_hashes {
	XXH3_state_t all, no_accessed, memory;
};

static void hash_memory(struct engine_vm *vm, struct memory_hashes *h)
{
	uint64_t masked[PAGE_SIZE / 8];

	for (unsigned i = 0; i < vm->rams; i++) {
		uint64_t first = vm->ram[i].base >> PAGE_SHIFT;

		for (uint64_t g = first; g < first + (vm->ram[i].bytes >> PAGE_SHIFT); g++) {
			const uint64_t *page = (const uint64_t *)vm->ops->page(vm, g, false);

			if (!page || page_is_zero(page))
				continue;
			page_hash_add(&h->all, g, page);
			page_hash_add(&h->memory, g, page);
			for (unsigned w = 0; w < PAGE_SIZE / 8; w++)
				masked[w] = page[w] & ~PTE_A;
			page_hash_add(&h->no_accessed, g, masked);
		}
	}
}

void engine_state_hash(struct engine_vm *vm, struct engine_hash *h)
{
	struct memory_hashes s;

	XXH3_128bits_reset(&s.all);
	XXH3_128bits_reset(&s.no_accessed);
	XXH3_128bits_reset(&s.memory);
	hash_registers(vm, &s.all);
	hash_registers(vm, &s.no_accessed);
	hash_memory(vm, &s);
	page_hash_end(&s.all, h->all);
	page_hash_end(&s.no_accessed, h->no_accessed);
	page_hash_end(&s.memory, h->memory);
}
