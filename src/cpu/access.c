/*
 * Memory and port accesses that the inline lookup does not serve: TLB model,
 * page crossings, devices, breakpoints, alignment checks, writes to pages that
 * code was decoded from; and effective addresses outside 64-bit mode.
 */
#include "cpu/access.h"

#include "cpu/block.h"
#include "cpu/record.h"
#include "cpu/vmx.h"

/* ---- the platform's answers ---- */

/*
 * One device access: done already in this execution of the instruction, or the
 * reason to stop.
 */
static int bus_access(struct cpu *cpu, const struct bus_access *a, uint64_t *data)
{
	struct bus *b = &cpu->bus;

	if (b->replay < b->done_count) {
		const struct bus_access *d = &b->done[b->replay++];

		*data = d->data;
		return 0;
	}
	if (b->done_count == BUS_QUEUE_MAX) {
		/* No instruction makes so many; a defined end all the same. */
		*data = ~0ull;
		return 0;
	}
	b->want = *a;
	cpu->stop.kind = STOP_BUS;
	return EXEC_STOP;
}

void cpu_bus_done(struct cpu *cpu, uint64_t data)
{
	struct bus *b = &cpu->bus;

	if (b->done_count < BUS_QUEUE_MAX) {
		b->done[b->done_count] = b->want;
		b->done[b->done_count++].data = data;
	}
}

int port_read(struct cpu *cpu, uint16_t port, unsigned bytes, uint32_t *out)
{
	struct bus_access a = {.pio = true, .size = (uint8_t)bytes, .addr = port};
	uint64_t v = 0;
	int r = bus_access(cpu, &a, &v);

	*out = (uint32_t)v;
	return r;
}

int port_write(struct cpu *cpu, uint16_t port, unsigned bytes, uint32_t v)
{
	struct bus_access a = {.pio = true, .write = true, .size = (uint8_t)bytes, .addr = port, .data = v};
	uint64_t ignored;

	return bus_access(cpu, &a, &ignored);
}

/* ---- device memory ---- */

static bool is_lapic_page(const struct cpu *cpu, uint64_t addr)
{
	uint64_t base = cpu->lapic.base;

	return !cpu->emul_ops && (base & (APIC_BASE_EN | APIC_BASE_EXTD)) == APIC_BASE_EN &&
	       ((base ^ addr) & PAGE_MASK) == 0;
}

/*
 * A write to the local APIC may make an interrupt deliverable or move the timer,
 * so events must be looked at right after its instruction; and a read of the
 * timer needs the exact time. Both stop like device accesses and are answered
 * here, which makes the instruction run by itself.
 */
bool cpu_bus_internal(struct cpu *cpu)
{
	const struct bus_access *a = &cpu->bus.want;
	unsigned offset = (unsigned)(a->addr & ~PAGE_MASK);
	uint64_t data = 0;

	if (a->pio || !is_lapic_page(cpu, a->addr))
		return false;
	if (a->write)
		lapic_page_write(&cpu->lapic, offset, a->size, a->data, cpu_tsc(cpu));
	else
		data = lapic_page_read(&cpu->lapic, offset, cpu_tsc(cpu));
	cpu_bus_done(cpu, data);
	return true;
}

static unsigned chunk_size(uint64_t addr, unsigned left)
{
	unsigned n = 8;

	while (n > left || (addr & (n - 1)))
		n /= 2;
	return n;
}

static int device_read(struct cpu *cpu, uint64_t addr, uint8_t *buf, unsigned bytes)
{
	while (bytes) {
		unsigned n = chunk_size(addr, bytes);
		struct bus_access a = {.size = (uint8_t)n, .addr = addr};
		uint64_t v;

		if (bus_access(cpu, &a, &v))
			return EXEC_STOP;
		memcpy(buf, &v, n);
		addr += n;
		buf += n;
		bytes -= n;
	}
	return 0;
}

static int device_write(struct cpu *cpu, uint64_t addr, const uint8_t *buf, unsigned bytes)
{
	while (bytes) {
		unsigned n = chunk_size(addr, bytes);
		struct bus_access a = {.write = true, .size = (uint8_t)n, .addr = addr};
		uint64_t ignored;

		memcpy(&a.data, buf, n);
		if (bus_access(cpu, &a, &ignored))
			return EXEC_STOP;
		addr += n;
		buf += n;
		bytes -= n;
	}
	return 0;
}

/* ---- translation of one access within a page ---- */

struct part {
	uint64_t hpa;   /* machine address, or device address */
	uint64_t gpa;   /* emulator role: what the owner calls it */
	unsigned bytes;
	bool ram;
};

static bool canonical(const struct cpu *cpu, uint64_t lin)
{
	unsigned width = cpu->cr4 & CR4_LA57 ? 57 : 48;

	return (uint64_t)((int64_t)(lin << (64 - width)) >> (64 - width)) == lin;
}

static int translation_failed(struct cpu *cpu, enum xlate_event ev, const struct xlate *x, uint64_t lin)
{
	if (ev == XLATE_PAGE_FAULT)
		return vmx_raise_page_fault(cpu, lin, x);
	return vmx_exit_ept(cpu, ev, x, lin, true);
}

static int translate_emulated(struct cpu *cpu, uint64_t lin, enum access_kind kind, enum access_mode mode,
			      struct part *p)
{
	struct xlate x = {0};
	enum xlate_event ev = cpu->emul_ops->translate(cpu->emul_ctx, cpu, lin, kind, mode, &x, &p->ram, &p->gpa);

	if (ev)
		return translation_failed(cpu, ev, &x, lin);
	p->hpa = x.page.v + (lin & ~PAGE_MASK);
	if (!p->ram)
		p->hpa = p->gpa;
	return 0;
}

static int translate_part(struct cpu *cpu, uint64_t lin, enum access_kind kind, enum access_mode mode, struct part *p)
{
	struct xlate x = {0};
	uint16_t rights = 0;
	enum xlate_event ev;

	if (cpu->emul_ops)
		return translate_emulated(cpu, lin, kind, mode, p);
	ev = mmu_translate(&cpu->mmu, gva(lin), kind, mode, &x, &rights);
	if (unlikely(cpu->mmu.code_written)) {
		uint64_t at = cpu->mmu.code_written - 1;

		cpu->mmu.code_written = 0;
		blocks_note_write(cpu, at, 1);
	}
	if (unlikely(ev))
		return translation_failed(cpu, ev, &x, lin);
	p->ram = !(rights & TLB_MMIO);
	p->hpa = x.page.v + (lin & ~PAGE_MASK);
	return 0;
}

/* #AC: CPL 3, CR0.AM, EFLAGS.AC (SDM "Interrupt 17"); operands of up to 8 bytes, and 16 as one of 16. */
static bool misaligned(uint64_t lin, unsigned bytes, enum access_mode mode)
{
	return mode == MODE_USER_ALIGN && bytes <= 8 && (bytes & (bytes - 1)) == 0 && (lin & (bytes - 1));
}

/* Splits the access at the page boundary, translates both parts. Returns the number of parts, or -1: stopped. */
static int translate_parts(struct cpu *cpu, uint64_t lin, unsigned bytes, enum access_kind kind,
			    enum access_mode mode, struct part part[2])
{
	unsigned first = (unsigned)(PAGE_SIZE - (lin & ~PAGE_MASK));

	if (cpu->efer & EFER_LMA && (!canonical(cpu, lin) || !canonical(cpu, lin + bytes - 1))) {
		raise_gp0(cpu);
		cpu->stop.noncanonical = true;
		return -1;
	}
	if (unlikely(misaligned(lin, bytes, mode))) {
		raise_exc_err(cpu, EXC_AC, 0); /* before the page is looked up, as hardware does */
		return -1;
	}
	if (!(cpu->efer & EFER_LMA))
		lin = (uint32_t)lin;
	part[0].bytes = bytes <= first ? bytes : first;
	if (translate_part(cpu, lin, kind, mode, &part[0]))
		return -1;
	if (bytes <= first)
		return 1;
	part[1].bytes = bytes - first;
	lin += first;
	if (!cpu->long_mode)
		lin = (uint32_t)lin;
	return translate_part(cpu, lin, kind, mode, &part[1]) ? -1 : 2;
}

static void record_translated(struct cpu *cpu, const struct part part[2], int parts, const void *data)
{
	const uint64_t at[2] = {part[0].ram ? part[0].hpa : RECORD_NO_RAM,
				parts == 2 && part[1].ram ? part[1].hpa : RECORD_NO_RAM};

	record_parts(cpu, at, part[0].bytes, data);
}

/* @data: what is going to be stored; NULL: nothing */
static int translate_access(struct cpu *cpu, uint64_t lin, unsigned bytes, enum access_kind kind,
			    enum access_mode mode, struct part part[2], const void *data)
{
	int parts;

	if (unlikely(cpu->recorder))
		record_access(cpu, lin, bytes, kind, mode);
	parts = translate_parts(cpu, lin, bytes, kind, mode, part);
	if (unlikely(cpu->recorder)) {
		if (parts < 0)
			record_fault(cpu);
		else
			record_translated(cpu, part, parts, data);
	}
	return parts;
}

/* ---- data breakpoints ---- */

static void check_watch(struct cpu *cpu, uint64_t lin, unsigned bytes, bool write)
{
	static const uint8_t length[] = {1, 2, 8, 4};

	for (unsigned n = 0; n < 4; n++) {
		unsigned rw = (unsigned)(cpu->dr7 >> (16 + 4 * n) & 3), len = length[cpu->dr7 >> (18 + 4 * n) & 3];
		uint64_t at = cpu->dr[n] & ~(uint64_t)(len - 1);

		if (!(cpu->dr7 >> (2 * n) & 3) || !(rw == 3 || (rw == 1 && write)))
			continue;
		if (lin < at + len && at < lin + bytes)
			cpu->db_pending |= DR6_B0 << n;
	}
}

/* ---- slow paths ---- */

/* Host address of an access that the fast lookup serves; NULL: the long way. */
static uint8_t *served(struct cpu *cpu, uint64_t lin, unsigned bytes, enum access_kind kind, enum access_mode mode)
{
	return mode < MODE_USER_ALIGN ? mmu_fast_data(&cpu->mmu, lin, bytes, kind, mode) : NULL;
}

/* What the hypervisor's emulator does is not the processor's. */
static void count_access(struct cpu *cpu, const struct part *p, bool write)
{
	if (!cpu->emul_ops)
		mmu_data_access(&cpu->mmu, p->hpa, p->bytes, write);
}

static void load_part(struct cpu *cpu, const struct part *p, uint8_t *to)
{
	count_access(cpu, p, false);
	memcpy(to, machmem_ptr(cpu->mmu.mem, hpa(p->hpa)), p->bytes);
}

/* Reads, with the rights that @kind asks for. */
static int load_parts(struct cpu *cpu, uint64_t lin, uint8_t *to, unsigned bytes, enum access_kind kind,
		      enum access_mode mode)
{
	const uint8_t *host = served(cpu, lin, bytes, kind, mode);
	struct part part[2];
	int parts;

	if (likely(host)) {
		memcpy(to, host, bytes);
		return 0;
	}
	parts = translate_access(cpu, lin, bytes, kind, mode, part, NULL);
	if (parts < 0)
		return EXEC_STOP;
	for (int i = 0; i < parts; i++) {
		if (part[i].ram)
			load_part(cpu, &part[i], to);
		else if (device_read(cpu, part[i].hpa, to, part[i].bytes))
			return EXEC_STOP;
		to += part[i].bytes;
	}
	return 0;
}

int mem_read_slow(struct cpu *cpu, uint64_t lin, void *buf, unsigned bytes, enum access_mode mode)
{
	if (load_parts(cpu, lin, buf, bytes, ACCESS_READ, mode))
		return EXEC_STOP;
	if (unlikely(cpu->mmu.data_watch))
		check_watch(cpu, lin, bytes, false);
	return 0;
}

/* The write that follows is what a breakpoint sees. */
int mem_rmw_slow(struct cpu *cpu, uint64_t lin, void *buf, unsigned bytes, enum access_mode mode)
{
	return load_parts(cpu, lin, buf, bytes, ACCESS_WRITE, mode);
}

static int store_part(struct cpu *cpu, const struct part *p, const uint8_t *from)
{
	if (!p->ram)
		return device_write(cpu, p->hpa, from, p->bytes);
	count_access(cpu, p, true);
	/* The emulator has no blocks; those of the machine's processor are its owner's business. */
	if (cpu->mmu.mem->code_map[p->hpa >> PAGE_SHIFT] && !cpu->emul_ops)
		blocks_note_write(cpu, p->hpa, p->bytes);
	memcpy(machmem_ptr(cpu->mmu.mem, hpa(p->hpa)), from, p->bytes);
	return 0;
}

int mem_write_slow(struct cpu *cpu, uint64_t lin, const void *buf, unsigned bytes, enum access_mode mode)
{
	struct part part[2];
	const uint8_t *from = buf;
	uint8_t *host = served(cpu, lin, bytes, ACCESS_WRITE, mode);
	int parts;

	if (likely(host)) {
		memcpy(host, buf, bytes);
		return 0;
	}
	parts = translate_access(cpu, lin, bytes, ACCESS_WRITE, mode, part, buf);
	if (parts < 0)
		return EXEC_STOP;
	for (int i = 0; i < parts; i++) {
		if (store_part(cpu, &part[i], from))
			return EXEC_STOP;
		from += part[i].bytes;
	}
	for (int i = 0; cpu->emul_ops && i < parts; i++)
		if (part[i].ram)
			cpu->emul_ops->wrote(cpu->emul_ctx, part[i].gpa, part[i].bytes);
	if (unlikely(cpu->mmu.data_watch))
		check_watch(cpu, lin, bytes, true);
	return 0;
}

int mem_probe_write(struct cpu *cpu, uint64_t lin, unsigned bytes, enum access_mode mode)
{
	struct part part[2];

	return translate_access(cpu, lin, bytes, ACCESS_WRITE, mode, part, NULL) < 0 ? EXEC_STOP : 0;
}

int mem_touch(struct cpu *cpu, uint64_t lin, unsigned bytes, enum access_kind kind, enum access_mode mode)
{
	struct part part[2];
	int parts = translate_access(cpu, lin, bytes, kind, mode, part, NULL);

	for (int i = 0; i < parts; i++)
		if (part[i].ram)
			count_access(cpu, &part[i], kind == ACCESS_WRITE);
	return parts < 0 ? EXEC_STOP : 0;
}

int sys_read(struct cpu *cpu, uint64_t lin, void *buf, unsigned bytes)
{
	return mem_read_slow(cpu, lin, buf, bytes, MODE_SUPER);
}

int sys_write(struct cpu *cpu, uint64_t lin, const void *buf, unsigned bytes)
{
	return mem_write_slow(cpu, lin, buf, bytes, MODE_SUPER);
}

/* ---- segmentation ---- */

static int segment_violation(struct cpu *cpu, unsigned seg)
{
	return raise_exc_err(cpu, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
}

/* Is [off, off+bytes) inside the segment (SDM "Limit Checking")? */
static bool within_limit(const struct seg *s, uint64_t off, unsigned bytes)
{
	uint64_t last = off + bytes - 1;

	if ((s->attr & (SEG_AR_S | SEG_AR_CODE | SEG_AR_CE)) == (SEG_AR_S | SEG_AR_CE)) {
		uint64_t top = s->attr & SEG_AR_DB ? 0xffffffff : 0xffff;

		return off > s->limit && last <= top;
	}
	/* An access that wraps at 4 GiB is left to the processor (SDM "Limit Checking"); Intel's let it pass. */
	return last <= s->limit || s->limit == 0xffffffff;
}

static bool type_allows(const struct cpu *cpu, const struct seg *s, enum access_kind kind)
{
	if (!(cpu->cr0 & CR0_PE) || (cpu->rflags & RF_VM))
		return true;
	if (s->attr & SEG_AR_UNUSABLE)
		return false;
	if (kind == ACCESS_WRITE)
		return (s->attr & (SEG_AR_CODE | SEG_AR_RW)) == SEG_AR_RW;
	return !(s->attr & SEG_AR_CODE) || (s->attr & SEG_AR_RW);
}

int seg_lin(struct cpu *cpu, unsigned seg, uint64_t off, unsigned bytes, enum access_kind kind, uint64_t *lin)
{
	if (cpu->long_mode) {
		*lin = off + (seg == SEG_FS || seg == SEG_GS ? cpu->seg[seg].base : 0);
		return 0;
	}
	if (!type_allows(cpu, &cpu->seg[seg], kind) || !within_limit(&cpu->seg[seg], (uint32_t)off, bytes))
		return segment_violation(cpu, seg);
	*lin = (uint32_t)(cpu->seg[seg].base + off);
	return 0;
}

int ea_slow(struct cpu *cpu, const struct uop *u, unsigned bytes, enum access_kind kind, uint64_t *lin)
{
	return seg_lin(cpu, u->seg, ea_offset(cpu, u), bytes, kind, lin);
}
