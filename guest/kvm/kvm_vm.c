/*
 * KVM's VMs: making them, their memory, and what the loaders want of an engine. See kvm_vm.h.
 *
 * Source: the kernel's "The Definitive KVM (Kernel-based Virtual Machine) API Documentation".
 */
#include "kvm_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include "mem/page_hash.h"

/* Three pages for a TSS and one for a page table, which KVM needs for real mode on processors without unrestricted guests. */
#define TSS_GPA      0xfffbd000u
#define IDENTITY_GPA 0xfffbc000ull

static int fail(struct error *err, const char *what)
{
	int code = -errno;

	return error_set(err, code, "%s: %s", what, strerror(-code));
}

/* ---- the host ---- */

/* What KVM_GET_SUPPORTED_CPUID offers, and the deadline timer, which the local APIC in the kernel has. */
static int ask_cpuid(struct kvm_host *h, struct error *err)
{
	h->cpuid = calloc(1, sizeof(*h->cpuid) + KVM_VM_CPUIDS * sizeof(h->cpuid->entries[0]));
	if (!h->cpuid)
		return error_set(err, -ENOMEM, "out of memory");
	h->cpuid->nent = KVM_VM_CPUIDS;
	if (ioctl(h->fd, KVM_GET_SUPPORTED_CPUID, h->cpuid))
		return fail(err, "KVM_GET_SUPPORTED_CPUID");
	for (unsigned i = 0; i < h->cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = &h->cpuid->entries[i];

		if (e->function == 1) {
			e->ecx |= 1u << 24 | 1u << 31; /* TSC deadline; a hypervisor is present */
			e->ebx = (e->ebx & 0xffff) | 1u << 16; /* one processor, ID 0 */
		}
	}
	return 0;
}

static int ask_msrs(struct kvm_host *h, struct error *err)
{
	h->msrs = calloc(1, sizeof(*h->msrs) + KVM_VM_MSRS * sizeof(h->msrs->indices[0]));
	if (!h->msrs)
		return error_set(err, -ENOMEM, "out of memory");
	h->msrs->nmsrs = KVM_VM_MSRS;
	return ioctl(h->fd, KVM_GET_MSR_INDEX_LIST, h->msrs) ? fail(err, "KVM_GET_MSR_INDEX_LIST") : 0;
}

static int ask_host(struct kvm_host *h, struct error *err)
{
	static const struct { int cap; const char *name; } needed[] = {
		{KVM_CAP_SPLIT_IRQCHIP, "a split irqchip"}, {KVM_CAP_IMMEDIATE_EXIT, "immediate exits"},
		{KVM_CAP_VCPU_EVENTS, "events as state"}, {KVM_CAP_XCRS, "extended control registers as state"},
	};
	int ret = ioctl(h->fd, KVM_GET_API_VERSION, 0);

	if (ret != KVM_API_VERSION)
		return error_set(err, -ENOTSUP, "/dev/kvm: API version %d instead of %d", ret, KVM_API_VERSION);
	for (unsigned i = 0; i < ARRAY_SIZE(needed); i++)
		if (ioctl(h->fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
			return error_set(err, -ENOTSUP, "/dev/kvm: this KVM has not got %s", needed[i].name);
	ret = ioctl(h->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (ret < (int)sizeof(struct kvm_run))
		return error_set(err, -ENOTSUP, "/dev/kvm: vCPUs are mapped with %d bytes", ret);
	h->run_bytes = (size_t)ret;
	ret = ask_cpuid(h, err);
	return ret ? ret : ask_msrs(h, err);
}

int kvm_host_open(struct kvm_host *h, struct error *err)
{
	int ret;

	*h = (struct kvm_host){.fd = open("/dev/kvm", O_RDWR | O_CLOEXEC)};
	if (h->fd < 0)
		return fail(err, "/dev/kvm");
	ret = ask_host(h, err);
	if (ret)
		kvm_host_close(h);
	return ret;
}

void kvm_host_close(struct kvm_host *h)
{
	free(h->cpuid);
	free(h->msrs);
	close(h->fd);
}

/* ---- a VM ---- */

/* Slot @i is RAM range @i. */
static int set_slot(const struct engine_vm *vm, unsigned i, struct error *err)
{
	const struct kvm_userspace_memory_region r = {
		.slot = i,
		.flags = vm->logging ? KVM_MEM_LOG_DIRTY_PAGES : 0,
		.guest_phys_addr = vm->range[i].base,
		.memory_size = vm->range[i].bytes,
		.userspace_addr = (uintptr_t)vm->ram + (i ? vm->range[0].bytes : 0),
	};

	return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &r) ? fail(err, "KVM_SET_USER_MEMORY_REGION") : 0;
}

int kvm_vm_log(struct engine_vm *vm, bool on, struct error *err)
{
	int ret = 0;

	vm->logging = on;
	for (unsigned i = 0; i < vm->ranges && ret == 0; i++)
		ret = set_slot(vm, i, err);
	return ret;
}

static int make_memory(struct engine_vm *vm, struct error *err)
{
	int ret = 0;

	vm->ranges = engine_ram_layout(vm->memory, vm->range);
	vm->ram = mmap(NULL, vm->memory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (vm->ram == MAP_FAILED) {
		vm->ram = NULL;
		return fail(err, "memory of the guest");
	}
	for (unsigned i = 0; i < vm->ranges && ret == 0; i++)
		ret = set_slot(vm, i, err);
	return ret;
}

/* Local APIC in the kernel, the rest here. */
static int make_irqchip(struct engine_vm *vm, struct error *err)
{
	const struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {IOAPIC_PINS}};
	uint64_t identity = IDENTITY_GPA;

	if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity))
		return fail(err, "KVM_SET_IDENTITY_MAP_ADDR");
	if (ioctl(vm->fd, KVM_SET_TSS_ADDR, TSS_GPA))
		return fail(err, "KVM_SET_TSS_ADDR");
	return ioctl(vm->fd, KVM_ENABLE_CAP, &split) ? fail(err, "KVM_CAP_SPLIT_IRQCHIP") : 0;
}

/* What firmware sets: fast strings; memory is write-back where no MTRR says otherwise. */
static int set_firmware_msrs(const struct engine_vm *vm, struct error *err)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[2];
	} m = {.head.nmsrs = 2, .entry = {{.index = 0x1a0, .data = 1}, {.index = 0x2ff, .data = 1 << 11 | 6}}};

	return ioctl(vm->vcpu, KVM_SET_MSRS, &m) != 2 ? fail(err, "KVM_SET_MSRS") : 0;
}

static int make_vcpu(struct engine_vm *vm, struct error *err)
{
	vm->vcpu = ioctl(vm->fd, KVM_CREATE_VCPU, 0);
	if (vm->vcpu < 0)
		return fail(err, "KVM_CREATE_VCPU");
	vm->run = mmap(NULL, vm->host->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
	if (vm->run == MAP_FAILED) {
		vm->run = NULL;
		return fail(err, "struct kvm_run");
	}
	if (ioctl(vm->vcpu, KVM_SET_CPUID2, vm->host->cpuid))
		return fail(err, "KVM_SET_CPUID2");
	return set_firmware_msrs(vm, err);
}

int kvm_vm_create(struct engine_vm *vm, const struct kvm_host *h, uint64_t memory, struct error *err)
{
	int ret;

	*vm = (struct engine_vm){.host = h, .vcpu = -1, .memory = memory};
	vm->fd = ioctl(h->fd, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		return fail(err, "KVM_CREATE_VM");
	ret = make_irqchip(vm, err);
	if (ret == 0)
		ret = make_memory(vm, err);
	if (ret == 0)
		ret = make_vcpu(vm, err);
	if (ret)
		kvm_vm_destroy(vm);
	return ret;
}

void kvm_vm_destroy(struct engine_vm *vm)
{
	if (vm->run)
		munmap(vm->run, vm->host->run_bytes);
	if (vm->vcpu >= 0)
		close(vm->vcpu);
	close(vm->fd);
	if (vm->ram)
		munmap(vm->ram, vm->memory);
	vm->ram = NULL;
}

/* ---- what loaders use of engine/engine.h ---- */

/* Where [a, a + bytes) is in this process; NULL: not all RAM. */
static uint8_t *ram_at(const struct engine_vm *vm, uint64_t a, uint64_t bytes)
{
	uint8_t *ram = vm->ram;

	for (unsigned i = 0; i < vm->ranges; i++) {
		const struct machmem_range *r = &vm->range[i];

		if (a >= r->base && a - r->base <= r->bytes && bytes <= r->bytes - (a - r->base))
			return ram + (a - r->base);
		ram += r->bytes;
	}
	return NULL;
}

int engine_mem_write(struct engine_vm *vm, gpa_t a, const void *buf, uint64_t bytes)
{
	uint8_t *to = ram_at(vm, a.v, bytes);

	if (!to)
		return -EFAULT;
	memcpy(to, buf, bytes);
	return 0;
}

void engine_set_regs(struct engine_vm *vm, const struct engine_regs *r)
{
	const uint64_t *g = r->gpr;
	const struct kvm_regs k = {
		.rax = g[RAX], .rbx = g[RBX], .rcx = g[RCX], .rdx = g[RDX], .rsi = g[RSI], .rdi = g[RDI], .rsp = g[RSP],
		.rbp = g[RBP], .r8 = g[8], .r9 = g[9], .r10 = g[10], .r11 = g[11], .r12 = g[12], .r13 = g[13],
		.r14 = g[14], .r15 = g[15], .rip = r->rip, .rflags = r->rflags,
	};

	if (ioctl(vm->vcpu, KVM_SET_REGS, &k))
		perror("gnomon-kvm: KVM_SET_REGS");
}

static struct kvm_segment to_kvm(const struct seg *s)
{
	return (struct kvm_segment){
		.base = s->base, .limit = s->limit, .selector = s->sel, .type = s->attr & SEG_AR_TYPE,
		.s = !!(s->attr & SEG_AR_S), .dpl = s->attr >> SEG_AR_DPL_SHIFT & 3, .present = !!(s->attr & SEG_AR_P),
		.avl = !!(s->attr & SEG_AR_AVL), .l = !!(s->attr & SEG_AR_L), .db = !!(s->attr & SEG_AR_DB),
		.g = !!(s->attr & SEG_AR_G), .unusable = !!(s->attr & SEG_AR_UNUSABLE),
	};
}

/* Loaders set all of it; they ask only for what they leave: the base of the local APIC. */
void engine_get_sregs(struct engine_vm *vm, struct engine_sregs *s)
{
	struct kvm_sregs k;

	memset(s, 0, sizeof(*s));
	if (ioctl(vm->vcpu, KVM_GET_SREGS, &k))
		perror("gnomon-kvm: KVM_GET_SREGS");
	else
		s->apic_base = k.apic_base;
}

void engine_set_sregs(struct engine_vm *vm, const struct engine_sregs *s)
{
	struct kvm_sregs k = {
		.cs = to_kvm(&s->seg[SEG_CS]), .ds = to_kvm(&s->seg[SEG_DS]), .es = to_kvm(&s->seg[SEG_ES]),
		.fs = to_kvm(&s->seg[SEG_FS]), .gs = to_kvm(&s->seg[SEG_GS]), .ss = to_kvm(&s->seg[SEG_SS]),
		.tr = to_kvm(&s->tr), .ldt = to_kvm(&s->ldt),
		.gdt = {.base = s->gdt.base, .limit = s->gdt.limit}, .idt = {.base = s->idt.base, .limit = s->idt.limit},
		.cr0 = s->cr0, .cr2 = s->cr2, .cr3 = s->cr3, .cr4 = s->cr4, .cr8 = s->cr8, .efer = s->efer,
		.apic_base = s->apic_base,
	};

	if (ioctl(vm->vcpu, KVM_SET_SREGS, &k))
		perror("gnomon-kvm: KVM_SET_SREGS");
}

/* ---- the hash ---- */

void kvm_vm_hash(const struct engine_vm *vm, uint64_t hash[2])
{
	const uint8_t *ram = vm->ram;
	XXH3_state_t h;

	XXH3_128bits_reset(&h);
	for (unsigned i = 0; i < vm->ranges; i++) {
		uint64_t first = vm->range[i].base >> PAGE_SHIFT;

		for (uint64_t g = first; g < first + (vm->range[i].bytes >> PAGE_SHIFT); g++, ram += PAGE_SIZE)
			page_hash_add(&h, g, (const uint64_t *)ram);
	}
	page_hash_end(&h, hash);
}
