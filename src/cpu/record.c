/* See record.h. Left out: port I/O permissions and string I/O as exits (docs/replay.md). */
#include "cpu/record.h"

#include "arch/dmt.h"
#include "cpu/msr.h"

#include <errno.h>
#include <stdlib.h>

#define GROUP_MAX 512  /* no instruction makes so many accesses; what goes beyond is a group of its own */
#define OUT_MAX   1024
#define INSNS_APART 4096u /* instructions between two TRACE_INSNS, about */
#define NO_PAGE   1ull /* never equals a page address */

struct recorder {
	struct trace_sink sink;
	struct error err;
	int failed;              /* what the sink returned */
	uint64_t *tables;        /* a bit a frame */
	uint64_t frames;
	uint64_t insns;          /* that the trace accounts for */
	/* The group that is being made */
	struct trace_event group[GROUP_MAX];
	unsigned used;
	uint64_t pc;
	unsigned bytes;
	uint8_t first;           /* flags of its first access */
	bool fetching;           /* only its code has been looked up so far */
	uint64_t at[2];          /* where its last access went */
	unsigned at_first;
	/* An instruction that will be executed again: what its group began with */
	bool stopped;
	uint64_t stopped_pc;
	uint8_t stopped_first;
	/* The last page of code that was recorded: looking it up once more changes nothing, if nothing else happened */
	uint64_t fetched;
	uint8_t fetched_mode;
	struct trace_event out[OUT_MAX];
	unsigned outs;
};

/* ---- to the sink ---- */

static void give(struct recorder *r, const struct trace_event *ev, unsigned n)
{
	if (!r->failed && n)
		r->failed = r->sink.put(r->sink.ctx, ev, n, &r->err);
}

static void flush(struct recorder *r)
{
	give(r, r->out, r->outs);
	r->outs = 0;
}

static void emit(struct recorder *r, const struct trace_event *ev, unsigned n)
{
	if (r->outs + n > OUT_MAX)
		flush(r);
	memcpy(r->out + r->outs, ev, n * sizeof(*ev));
	r->outs += n;
}

static void emit_insns(struct recorder *r, const struct cpu *cpu)
{
	struct trace_event ev = {.kind = TRACE_INSNS, .value = cpu->insns - r->insns};

	if (!ev.value)
		return;
	emit(r, &ev, 1);
	r->insns = cpu->insns;
}

/* Stores in guest-physical memory, in pieces that events have room for. */
static void emit_stores(struct recorder *r, uint64_t gpa, const uint8_t *from, unsigned bytes)
{
	while (bytes) {
		unsigned n = bytes < 8 ? bytes : 8;
		struct trace_event ev = {.kind = TRACE_STORE, .addr = gpa};

		n = (unsigned)min_u64(n, PAGE_SIZE - (gpa & ~PAGE_MASK));
		ev.size = (uint8_t)n;
		memcpy(&ev.value, from, n);
		emit(r, &ev, 1);
		gpa += n;
		from += n;
		bytes -= n;
	}
}

/* ---- groups ---- */

/* An instruction that stopped is made again, and its group with it. */
static void group_end(struct recorder *r)
{
	if (!r->stopped)
		emit(r, r->group, r->used);
	r->used = 0;
	r->fetching = false;
}

static void group_begin(struct recorder *r, uint64_t pc, unsigned bytes, uint8_t first)
{
	group_end(r);
	r->pc = pc;
	r->bytes = bytes;
	r->first = first;
	if (r->stopped && pc == r->stopped_pc)
		r->first = r->stopped_first;
	r->stopped = false;
}

static void add(struct recorder *r, const struct trace_event *ev)
{
	struct trace_event *at;

	if (r->used == GROUP_MAX)
		group_end(r);
	at = &r->group[r->used];
	*at = *ev;
	if (r->used++ == 0 && trace_is_access(at))
		at->flags |= r->first;
}

static void add_access(struct recorder *r, uint8_t kind, uint64_t lin, unsigned bytes, uint8_t mode)
{
	struct trace_event ev = {.kind = kind, .size = (uint8_t)bytes, .mode = mode, .aux = r->bytes, .addr = lin,
				 .pc = r->pc};

	add(r, &ev);
}

static void add_fetch(struct recorder *r, const struct cpu *cpu, uint64_t lin)
{
	add_access(r, TRACE_FETCH, lin, 1, cpu->mode);
	r->fetched = lin & PAGE_MASK;
	r->fetched_mode = cpu->mode;
}

void record_insn(struct cpu *cpu, uint64_t pc, unsigned bytes)
{
	struct recorder *r = cpu->recorder;

	if (r->fetching && r->pc == pc) {
		for (unsigned i = 0; i < r->used; i++)
			r->group[i].aux = bytes;
		r->bytes = bytes;
		r->fetching = false;
	} else {
		group_begin(r, pc, bytes, TRACE_FIRST);
	}
	if (cpu->insns - r->insns >= INSNS_APART && r->used == 0)
		emit_insns(r, cpu);
}

void record_iteration(struct cpu *cpu)
{
	struct recorder *r = cpu->recorder;

	group_begin(r, r->pc, r->bytes, TRACE_FIRST | TRACE_AGAIN);
}

void record_delivery(struct cpu *cpu, uint64_t pc)
{
	struct recorder *r = cpu->recorder;

	/* An instruction that only raised it was fetched: who enters the guest there looks its code up. */
	if (!r->used && r->pc == pc && !(r->first & TRACE_DELIVERY))
		add_fetch(r, cpu, pc);
	group_begin(r, pc, 0, TRACE_FIRST | TRACE_DELIVERY);
	r->fetched = NO_PAGE;
}

void record_fetch(struct cpu *cpu, uint64_t pc, uint64_t lin)
{
	struct recorder *r = cpu->recorder;

	if (!r->fetching || r->pc != pc) {
		group_begin(r, pc, 0, TRACE_FIRST);
		r->fetching = true;
	}
	if (r->fetched != (lin & PAGE_MASK) || r->fetched_mode != cpu->mode)
		add_fetch(r, cpu, lin);
}

/* ---- accesses ---- */

void record_access(struct cpu *cpu, uint64_t lin, unsigned bytes, enum access_kind kind, enum access_mode mode)
{
	struct recorder *r = cpu->recorder;

	/* It may drop the translation that code is fetched by: the next lookup matters then. */
	if (((lin ^ r->fetched) & PAGE_MASK) == 0 || ((lin + bytes - 1) ^ r->fetched) < PAGE_SIZE)
		r->fetched = NO_PAGE;
	add_access(r, kind == ACCESS_WRITE ? TRACE_WRITE : TRACE_READ, lin, bytes, (uint8_t)mode);
}

/* What is refused before it is looked up is no access; and what a register refuses is no load. */
void record_fault(struct cpu *cpu)
{
	struct recorder *r = cpu->recorder;

	if (cpu->stop.kind != STOP_EXCEPTION || !r->used)
		return;
	if (cpu->stop.vector == EXC_PF)
		r->group[r->used - 1].flags |= TRACE_FAULTS;
	else
		r->used--;
	r->fetched = NO_PAGE;
}

static bool is_table(const struct recorder *r, uint64_t hpa_v)
{
	uint64_t frame = hpa_v >> PAGE_SHIFT;

	return frame < r->frames && r->tables[frame / 64] >> frame % 64 & 1;
}

/* The stores of one part of an access, with values if there is RAM. */
static void add_stores(struct recorder *r, const struct trace_event *whole, unsigned from, unsigned bytes, uint64_t hpa_v,
		       const uint8_t *data)
{
	struct trace_event ev = *whole;

	ev.flags = 0;
	ev.addr = whole->addr + from;
	ev.size = (uint8_t)bytes;
	if (hpa_v == RECORD_NO_RAM) {
		add(r, &ev);
		return;
	}
	for (unsigned done = 0; done < bytes; done += ev.size) {
		ev.flags = TRACE_VALUE;
		ev.size = (uint8_t)(bytes - done < 8 ? bytes - done : 8);
		ev.addr = whole->addr + from + done;
		ev.aux = trace_value_aux(hpa_v + done, r->bytes);
		ev.value = 0;
		memcpy(&ev.value, data + from + done, ev.size);
		add(r, &ev);
	}
}

void record_parts(struct cpu *cpu, const uint64_t hpa_v[2], unsigned first, const void *data)
{
	struct recorder *r = cpu->recorder;
	struct trace_event whole;
	unsigned second;

	r->at[0] = hpa_v[0];
	r->at[1] = hpa_v[1];
	r->at_first = first;
	if (!data || !r->used || !(is_table(r, hpa_v[0]) || is_table(r, hpa_v[1])))
		return;
	whole = r->group[--r->used];
	second = whole.size - first;
	add_stores(r, &whole, 0, first, hpa_v[0], data);
	if (second)
		add_stores(r, &whole, first, second, hpa_v[1], data);
}

/* Its group is made again when it is executed again; if nothing follows, this was all. */
void record_stopped(struct cpu *cpu)
{
	struct recorder *r = cpu->recorder;

	r->stopped = true;
	r->stopped_pc = r->pc;
	r->stopped_first = r->first;
	r->fetching = false;
	r->fetched = NO_PAGE;
}

/* ---- registers and invalidations: of an instruction whose pc a fetch tells ---- */

static void add_other(struct cpu *cpu, const struct trace_event *ev)
{
	struct recorder *r = cpu->recorder;

	if (!r->used)
		add_fetch(r, cpu, r->pc);
	add(r, ev);
	r->fetched = NO_PAGE;
}

void record_register(struct cpu *cpu, enum trace_kind kind, uint64_t addr, uint64_t value)
{
	struct trace_event ev = {.kind = (uint8_t)kind, .addr = addr, .value = value};

	/* Who follows the trace may look at the root before the processor does. */
	if (kind == TRACE_CR3)
		record_table(cpu, value & PTE_ADDR_MASK);
	add_other(cpu, &ev);
}

/* What the processor reads in memory when the register is loaded: the array of DMT entries, a request. */
static void record_operand(struct cpu *cpu, uint64_t gpa_v, unsigned bytes)
{
	record_table(cpu, gpa_v);
	record_table(cpu, gpa_v + bytes - 1);
}

void record_wrmsr(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	unsigned registers = msr == MSR_DMT_LOAD ? (unsigned)(value & DMT_COUNT_MASK) : 0;

	if (registers) /* a load of none reads nothing, and is a load all the same */
		record_operand(cpu, value & ~63ull, registers * (unsigned)sizeof(struct dmt_entry));
	else if (msr == MSR_PV_REQUEST)
		record_operand(cpu, value, (unsigned)sizeof(struct pv_request));
	else if (msr != MSR_DMT_LOAD && msr != MSR_EFER && !cpu_msr_is_mtrr(msr))
		return;
	record_register(cpu, TRACE_WRMSR, msr, value);
}

void record_invlpg(struct cpu *cpu, uint64_t lin)
{
	struct trace_event ev = {.kind = TRACE_INVLPG, .addr = lin};

	add_other(cpu, &ev);
}

/* @ev and, before it, a fetch, come before the access that was added last. */
static void insert_before_last(struct cpu *cpu, const struct trace_event *ev)
{
	struct recorder *r = cpu->recorder;
	struct trace_event last;

	if (!r->used)
		return;
	last = r->group[--r->used];
	last.flags &= (uint8_t)~TRACE_FIRST;
	if (!r->used)
		add_fetch(r, cpu, r->pc);
	add(r, ev);
	add(r, &last);
	r->fetched = NO_PAGE;
}

/*
 * The event comes before the load of the descriptor, because that is where a hypervisor may intercept; and as it reads
 * the descriptor itself, that is told before the group.
 */
void record_invpcid(struct cpu *cpu, unsigned type, uint64_t pcid, uint64_t lin)
{
	struct recorder *r = cpu->recorder;
	struct trace_event ev = {.kind = TRACE_INVPCID, .aux = type, .value = pcid, .addr = type ? 0 : lin};
	uint64_t d[2] = {pcid, lin};
	unsigned first = r->at_first < sizeof(d) ? r->at_first : (unsigned)sizeof(d);

	if (r->at[0] != RECORD_NO_RAM)
		emit_stores(r, r->at[0], (const uint8_t *)d, first);
	if (first < sizeof(d) && r->at[1] != RECORD_NO_RAM)
		emit_stores(r, r->at[1], (const uint8_t *)d + first, (unsigned)sizeof(d) - first);
	insert_before_last(cpu, &ev);
}

/* ---- tables ---- */

void record_table(struct cpu *cpu, uint64_t at)
{
	struct recorder *r = cpu->recorder;
	uint64_t frame = at >> PAGE_SHIFT;
	struct trace_event ev;

	if (is_table(r, at) || frame >= r->frames || !machmem_is_ram(cpu->mmu.mem, hpa(at)))
		return;
	r->tables[frame / 64] |= 1ull << frame % 64;
	/* Before the group that is being made, all of which is made again if a part of it is. */
	flush(r);
	ev = trace_page(at & PAGE_MASK, machmem_ptr(cpu->mmu.mem, hpa(at & PAGE_MASK)));
	give(r, &ev, 1);
}

static void table_read(void *ctx, uint64_t at) { record_table(ctx, at); }

void record_outside(struct cpu *cpu, uint64_t hpa_v, unsigned bytes)
{
	struct recorder *r = cpu->recorder;

	if (!is_table(r, hpa_v))
		return;
	group_end(r);
	emit_stores(r, hpa_v, machmem_ptr(cpu->mmu.mem, hpa(hpa_v)), bytes);
	r->fetched = NO_PAGE;
}

/* ---- beginning and end ---- */

static void initial(struct recorder *r, uint8_t kind, uint64_t addr, uint64_t value)
{
	struct trace_event ev = {.kind = kind, .flags = TRACE_INITIAL, .addr = addr, .value = value};

	emit(r, &ev, 1);
}

/* ... of a register whose load reads memory: that comes as it was then, and behind it as it is now. */
static void initial_load(struct recorder *r, struct cpu *cpu, uint32_t msr, uint64_t value, const void *read, unsigned bytes)
{
	uint64_t at = value & ~(uint64_t)(DMT_ALIGN - 1);

	if (bytes) {
		record_operand(cpu, at, bytes);
		emit_stores(r, at, read, bytes);
	}
	initial(r, TRACE_WRMSR, msr, value);
	if (bytes)
		emit_stores(r, at, machmem_ptr(cpu->mmu.mem, hpa(at)), bytes);
}

static void initial_request(struct recorder *r, struct cpu *cpu, uint32_t op, const struct pv_range *range, uint64_t id)
{
	const struct pv_request q = {.op = op, .gpa = range->gpa, .pages = range->pages, .id = id};

	initial_load(r, cpu, MSR_PV_REQUEST, cpu->pv.request, &q, sizeof(q));
}

/* The next page of RAM from *@at on that is in no gTEA, and *@at behind it. */
static struct pv_range next_free_page(const struct cpu *cpu, uint64_t *at)
{
	struct pv_range page = {0, 1};
	bool taken = true;

	while (taken) {
		page.gpa = *at;
		*at += PAGE_SIZE;
		taken = !machmem_is_ram(cpu->mmu.mem, hpa(page.gpa));
		for (unsigned i = 0; i < PV_TEAS_MAX && !taken; i++)
			taken = pv_overlap(&cpu->pv.state.tea[i], &page);
	}
	return page;
}

/*
 * Requests by which a hypervisor comes to know what the guest has. Identifiers are given from the smallest on, so
 * those that are free below others are taken by a page each, and given back.
 */
static void emit_requests(struct recorder *r, struct cpu *cpu)
{
	const struct pv_state *s = &cpu->pv.state;
	unsigned last = PV_TEAS_MAX;
	uint64_t at = 0;

	for (unsigned i = 0; i < PV_HUGE_MAX && s->huge[i].pages; i++)
		initial_request(r, cpu, PV_HUGE, &s->huge[i], 0);
	while (last && !s->tea[last - 1].pages)
		last--;
	for (unsigned i = 0; i < last; i++) {
		struct pv_range range = s->tea[i].pages ? s->tea[i] : next_free_page(cpu, &at);

		initial_request(r, cpu, PV_TEA_ALLOC, &range, 0);
	}
	for (unsigned i = 0; i < last; i++)
		if (!s->tea[i].pages)
			initial_request(r, cpu, PV_TEA_FREE, &s->tea[i], i + 1);
}

static void emit_registers(struct recorder *r, struct cpu *cpu)
{
	unsigned registers = (unsigned)(cpu->pv.load & DMT_COUNT_MASK);

	initial(r, TRACE_CR0, 0, cpu->cr0);
	initial(r, TRACE_CR4, 0, cpu->cr4);
	initial(r, TRACE_WRMSR, MSR_EFER, cpu->efer);
	initial(r, TRACE_PKRU, 0, cpu->pkru);
	for (unsigned i = 0; i < 4; i++)
		initial(r, TRACE_PDPTE, i, cpu->pdpte[i]);
	if (mmu_paging(&cpu->mmu))
		record_table(cpu, cpu->cr3 & PTE_ADDR_MASK);
	initial(r, TRACE_CR3, 0, cpu->cr3);
	emit_requests(r, cpu);
	if (cpu->pv.load)
		initial_load(r, cpu, MSR_DMT_LOAD, cpu->pv.load, cpu->mmu.dmt.loaded,
			     registers * (unsigned)sizeof(struct dmt_entry));
}

static void set_fast_path(struct cpu *cpu, bool on)
{
	cpu->mmu.fast_path = on;
	mmu_fast_flush(&cpu->mmu);
}

#define NO_VMX "recording: the guest is in VMX operation, and a trace has the tables of one machine only"

void record_vmxon(struct cpu *cpu)
{
	struct recorder *r = cpu->recorder;

	if (!r->failed)
		r->failed = error_set(&r->err, -EINVAL, NO_VMX);
}

int recorder_begin(struct cpu *cpu, const struct trace_sink *sink, struct error *err)
{
	struct recorder *r;

	if (cpu->vmx.on)
		return error_set(err, -EINVAL, NO_VMX);
	r = calloc(1, sizeof(*r));
	if (!r)
		return error_set(err, -ENOMEM, "recording: out of memory");
	r->frames = cpu->mmu.mem->span >> PAGE_SHIFT;
	r->tables = calloc(r->frames / 64 + 1, sizeof(*r->tables));
	if (!r->tables) {
		free(r);
		return error_set(err, -ENOMEM, "recording: out of memory");
	}
	r->sink = *sink;
	r->insns = cpu->insns;
	r->fetched = NO_PAGE;
	cpu->recorder = r;
	mmu_flush_everything(&cpu->mmu);
	set_fast_path(cpu, false);
	mmu_watch_tables(&cpu->mmu, table_read, cpu);
	emit_registers(r, cpu);
	flush(r);
	return r->failed ? recorder_end(cpu, err) : 0;
}

int recorder_end(struct cpu *cpu, struct error *err)
{
	struct recorder *r = cpu->recorder;
	int ret;

	if (!r)
		return 0;
	r->stopped = false;
	group_end(r);
	emit_insns(r, cpu);
	flush(r);
	mmu_watch_tables(&cpu->mmu, NULL, NULL);
	set_fast_path(cpu, cpu->cfg.fast_path);
	cpu->recorder = NULL;
	ret = r->failed;
	if (ret)
		*err = r->err;
	free(r->tables);
	free(r);
	return ret;
}

bool recorder_failed(const struct cpu *cpu) { return cpu->recorder && cpu->recorder->failed; }
