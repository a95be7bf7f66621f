/*
 * The run loop: finds blocks, executes their uops, keeps RIP, the instruction
 * count and the boundaries between instructions, where events are taken.
 *
 * Inside a block nothing is checked but each uop's status. Whatever may need
 * attention at the next boundary either ends the block (EXEC_LEAVE) or lies at a
 * known instruction count (the deadline), so that interrupts come after exactly
 * the same instruction in every run and under every scheme.
 */
#include "cpu/access.h"
#include "cpu/block.h"
#include "cpu/cpu.h"
#include "cpu/record.h"
#include "cpu/replay.h"
#include "cpu/segment.h"
#include "cpu/vmx.h"
#include "cpu/xlate.h"

/* ---- where the next block is ---- */

static uint64_t code_lin(const struct cpu *cpu)
{
	uint64_t rip = cpu->gpr[REG_RIP];

	return cpu->code_bits == 64 ? rip : (uint32_t)(cpu->seg[SEG_CS].base + rip);
}

static int fetch_fault(struct cpu *cpu, enum xlate_event ev, const struct xlate *x, uint64_t lin)
{
	if (ev != XLATE_PAGE_FAULT)
		return vmx_exit_ept(cpu, ev, x, lin, true);
	vmx_raise_page_fault(cpu, lin, x);
	if (unlikely(cpu->recorder))
		record_fault(cpu);
	return EXEC_STOP;
}

static bool canonical(const struct cpu *cpu, uint64_t lin)
{
	unsigned width = cpu->cr4 & CR4_LA57 ? 57 : 48;

	return (uint64_t)((int64_t)(lin << (64 - width)) >> (64 - width)) == lin;
}

/* Machine page of the code at linear page @page. 0 or EXEC_STOP. */
static int fetch_page(struct cpu *cpu, uint64_t lin, uint64_t *page)
{
	struct xlate x = {0};
	uint16_t rights;
	enum xlate_event ev;

	if (cpu->code_bits == 64 && !canonical(cpu, lin))
		return raise_gp0(cpu);
	if (unlikely(cpu->recorder))
		record_fetch(cpu, code_lin(cpu), lin);
	ev = mmu_translate(&cpu->mmu, gva(lin), ACCESS_FETCH, (enum access_mode)cpu->mode, &x, &rights);
	if (unlikely(cpu->mmu.code_written)) {
		uint64_t at = cpu->mmu.code_written - 1;

		cpu->mmu.code_written = 0;
		blocks_note_write(cpu, at, 1);
	}
	if (ev)
		return fetch_fault(cpu, ev, &x, lin);
	/* No device of this machine holds code. */
	if (rights & TLB_MMIO)
		return raise_ud(cpu);
	*page = x.page.v;
	return 0;
}

/* The same through the host-side lookup. */
static ALWAYS_INLINE int code_page(struct cpu *cpu, uint64_t lin, uint64_t *page)
{
	const struct fast_entry *e = mmu_fast_fetch(&cpu->mmu, lin, (enum access_mode)cpu->mode);

	if (likely(e)) {
		*page = (lin & PAGE_MASK) + e->addend;
		return 0;
	}
	return fetch_page(cpu, lin, page);
}

/* The block that begins within 14 bytes of its page's end and may need the next page. */
static int find_crossing(struct cpu *cpu, uint64_t lin, uint64_t at, struct block **out)
{
	struct block *b = blocks_find(cpu->blocks, at, cpu->code_bits);
	uint64_t next = (lin & PAGE_MASK) + PAGE_SIZE, page2;

	if (!b) {
		b = blocks_decode(cpu, at, BLOCK_NO_HPA, cpu->code_bits);
		if (b) {
			*out = b;
			return 0;
		}
	} else if (b->hpa2 == BLOCK_NO_HPA) {
		*out = b;
		return 0;
	}
	if (cpu->code_bits != 64)
		next = (uint32_t)next;
	if (code_page(cpu, next, &page2))
		return EXEC_STOP;
	if (!b || b->hpa2 != page2) {
		if (b)
			blocks_note_write(cpu, at, 1);
		b = blocks_decode(cpu, at, page2, cpu->code_bits);
	}
	*out = b;
	return 0;
}

/* Machine address of the code at RIP. 0 or EXEC_STOP. */
static ALWAYS_INLINE int locate(struct cpu *cpu, uint64_t *at)
{
	uint64_t lin = code_lin(cpu), page;

	if (unlikely((lin & PAGE_MASK) != cpu->fetch_page)) {
		if (code_page(cpu, lin, &page))
			return EXEC_STOP;
		cpu->fetch_page = lin & PAGE_MASK;
		cpu->fetch_hpa = page;
	}
	*at = cpu->fetch_hpa | (lin & ~PAGE_MASK);
	return 0;
}

/* The block at RIP, which is @at, by way of what ran after @prev last time. 0 or EXEC_STOP. */
static ALWAYS_INLINE int block_at(struct cpu *cpu, struct block *prev, uint64_t at, struct block **out)
{
	struct block **link = NULL, *b;

	if (unlikely((at & ~PAGE_MASK) > PAGE_SIZE - 15)) {
		/* The second page of the instruction may become the last one fetched from. */
		cpu->fetch_page = FAST_INVALID;
		return find_crossing(cpu, code_lin(cpu), at, out);
	}
	if (prev) {
		link = &prev->link[(at >> 1 ^ at >> 4) & (BLOCK_LINKS - 1)];
		b = *link;
		if (likely(b && b->hpa == at && b->bits == cpu->code_bits)) {
			*out = b;
			return 0;
		}
	}
	b = blocks_find(cpu->blocks, at, cpu->code_bits);
	if (b) {
		if (link)
			*link = b;
	} else {
		b = blocks_decode(cpu, at, BLOCK_NO_HPA, cpu->code_bits);
	}
	*out = b;
	return 0;
}

/* ---- executing ---- */

/* Executes uops until one reports something or @end is reached; *at is the one that did (or @end). */
static ALWAYS_INLINE int run_uops(struct cpu *cpu, const struct uop *u, const struct uop *end, const struct uop **at)
{
	int st;

	do {
		st = u->exec(cpu, u);
		if (unlikely(st))
			break;
		u++;
	} while (u != end);
	*at = u;
	return st;
}

/* The same, telling the recorder of each instruction. */
static NOINLINE int run_uops_recorded(struct cpu *cpu, const struct uop *u, const struct uop *end, const struct uop **at)
{
	uint64_t lin = code_lin(cpu);
	int st;

	do {
		if (!(u->flags & UOP_PSEUDO))
			record_insn(cpu, cpu->code_bits == 64 ? lin + u->off : (uint32_t)(lin + u->off), u->len);
		st = u->exec(cpu, u);
		if (st)
			break;
		u++;
	} while (u != end);
	*at = u;
	return st;
}

static void fold_rip(struct cpu *cpu, uint64_t off)
{
	uint64_t rip = cpu->gpr[REG_RIP] + off;

	cpu->gpr[REG_RIP] = cpu->code_bits == 64 ? rip : (uint32_t)rip;
}

/*
 * The uop @at of @b has reported @st, which is not EXEC_NEXT: counts the instructions up to it, and
 * makes RIP that of the instruction that is next. cpu->insns is as at the block's beginning.
 */
static int leave_block(struct cpu *cpu, const struct block *b, const struct uop *at, int st)
{
	cpu->insns += (uint64_t)(at - b->uop);
	switch (st) {
	case EXEC_LEAVE:
		cpu->insns++;
		if (!(at->flags & UOP_SETS_RIP))
			fold_rip(cpu, at->off + at->len);
		break;
	case EXEC_REPEAT:
		/* What interrupts it saves RF set (SDM "Instruction-Breakpoint Exception Condition"). */
		cpu->rflags |= RF_RF;
		cpu->insns += cpu->rep_counts;
		fold_rip(cpu, at->off);
		break;
	case EXEC_STOP:
		/* A non-canonical reference to the stack segment is #SS (SDM "Canonical Addressing"). */
		if (cpu->stop.noncanonical && (at->flags & UOP_SEG_STACK))
			cpu->stop.vector = EXC_SS;
		fold_rip(cpu, at->off);
		break;
	default: /* EXEC_STALE */
		fold_rip(cpu, at->off);
		break;
	}
	return st;
}

/*
 * Executes at most @most instructions of @b and accounts for them. Returns the
 * status: EXEC_NEXT if all went through, with RIP at the next instruction.
 */
static ALWAYS_INLINE int run_block(struct cpu *cpu, struct block *b, uint64_t most)
{
	const struct uop *at;
	bool whole = most >= b->insns;
	const struct uop *end = b->uop + (whole ? b->uops : most);
	int st = unlikely(cpu->recorder) ? run_uops_recorded(cpu, b->uop, end, &at) : run_uops(cpu, b->uop, end, &at);

	if (unlikely(st != EXEC_NEXT))
		return leave_block(cpu, b, at, st);
	if (likely(whole)) {
		cpu->insns += b->insns;
	} else {
		cpu->insns += most;
		if (!(at[-1].flags & UOP_SETS_RIP))
			fold_rip(cpu, at[-1].off + at[-1].len);
	}
	return EXEC_NEXT;
}

/* ---- what stopped an instruction ---- */

static const int run_on = -1;

/* What lift_sti() took away is put back if the instruction was not completed: a VM exit would show it. */
static void restore_sti(struct cpu *cpu)
{
	if (unlikely(cpu->insns == cpu->sti_lifted))
		cpu->shadow_sti = true;
	cpu->sti_lifted = UINT64_MAX;
}

/* Acts on cpu->stop. Returns run_on, or the status to leave the run loop with. */
static int handle_stop(struct cpu *cpu)
{
	struct stop s = cpu->stop;

	restore_sti(cpu);
	cpu->stop = (struct stop){0};
	if (s.kind == STOP_EXCEPTION) {
		struct event ev = {.vector = s.vector, .type = EVENT_HW_EXCEPTION, .has_error = s.has_error,
				   .error = s.error, .payload = s.payload};

		if (cpu_deliver_event(cpu, &ev) == EXEC_NEXT)
			return run_on;
		s = cpu->stop;
		cpu->stop = (struct stop){0};
	}
	switch (s.kind) {
	case STOP_VMEXIT:
		vmx_do_exit(cpu);
		return cpu->vmx.outside ? CPU_RUN_VMEXIT : run_on; /* after a VMX abort the loop finds the shutdown */
	case STOP_BUS:
		if (unlikely(cpu->recorder))
			record_stopped(cpu);
		return cpu_bus_internal(cpu) ? run_on : CPU_RUN_BUS;
	default:
		cpu->shutdown = true;
		return CPU_RUN_SHUTDOWN;
	}
}

static int deliver(struct cpu *cpu, const struct event *ev)
{
	return cpu_deliver_event(cpu, ev) == EXEC_NEXT ? run_on : handle_stop(cpu);
}

/* ---- between instructions ---- */

static int take_debug_trap(struct cpu *cpu)
{
	struct event ev = {.vector = EXC_DB, .type = EVENT_HW_EXCEPTION, .payload = cpu->db_pending};

	cpu->db_pending = 0;
	return deliver(cpu, &ev);
}

static int take_nmi(struct cpu *cpu)
{
	struct event ev = {.vector = EXC_NMI, .type = EVENT_NMI};

	cpu->nmi_pending = false;
	return deliver(cpu, &ev);
}

static int take_interrupt(struct cpu *cpu)
{
	struct event ev = {.vector = lapic_ack(&cpu->lapic), .type = EVENT_EXTERNAL};

	return deliver(cpu, &ev);
}

void cpu_give_extint(struct cpu *cpu, uint8_t vector)
{
	cpu->extint_ack = true;
	cpu->extint_vector = vector;
}

static void poll_lapic(struct cpu *cpu)
{
	if (vmx_outside_guest(&cpu->vmx))
		return;
	lapic_advance(&cpu->lapic, cpu_tsc(cpu));
	if (cpu->lapic.nmi) {
		cpu->lapic.nmi = false;
		cpu->nmi_pending = true;
	}
}

static bool interrupts_open(const struct cpu *cpu)
{
	return (cpu->rflags & RF_IF) && !cpu->shadow_sti && !cpu->shadow_movss;
}

/*
 * Takes what is due at this boundary, in the order of the SDM's "Priority Among
 * Concurrent Events". Returns run_on to look again or go on, or the status to leave with;
 * *took says whether something was taken.
 */
/* Held back in VMX root operation; in non-root operation it exits. */
static bool init_due(const struct cpu *cpu) { return unlikely(cpu->lapic.init) && !cpu->vmx.on; }

/* The processor is the bootstrap processor: it does not wait for a start-up IPI. */
static int take_init(struct cpu *cpu)
{
	cpu_init(cpu);
	if (unlikely(cpu->recorder)) {
		record_register(cpu, TRACE_CR0, 0, cpu->cr0);
		record_register(cpu, TRACE_CR4, 0, 0);
		record_register(cpu, TRACE_WRMSR, MSR_EFER, 0);
		record_register(cpu, TRACE_CR3, 0, 0);
	}
	return run_on;
}

static int take_events(struct cpu *cpu, bool *took)
{
	*took = true;
	if (init_due(cpu))
		return take_init(cpu);
	if (vmx_check_windows(cpu))
		return handle_stop(cpu);
	if (cpu->db_pending && !cpu->shadow_movss)
		return take_debug_trap(cpu);
	if (cpu->nmi_pending && !cpu->nmi_blocked && !cpu->shadow_movss && !cpu->shadow_sti)
		return take_nmi(cpu);
	if (cpu->extint_ack) {
		struct event ev = {.vector = cpu->extint_vector, .type = EVENT_EXTERNAL};

		cpu->extint_ack = false;
		return deliver(cpu, &ev);
	}
	if (vmx_wants_extint(cpu) && !cpu->vmx.outside)
		return CPU_RUN_EXTINT;
	if (!vmx_external_exits(cpu) && !vmx_outside_guest(&cpu->vmx) && interrupts_open(cpu)) {
		if (cpu->extint && lapic_accepts_extint(&cpu->lapic))
			return CPU_RUN_EXTINT;
		if (lapic_pending(&cpu->lapic) >= 0)
			return take_interrupt(cpu);
	}
	*took = false;
	return run_on;
}

/* The instruction count at which the TSC will read @tsc, if nobody writes it. UINT64_MAX is never, even when it reads that. */
static uint64_t insns_at(const struct cpu *cpu, uint64_t tsc)
{
	uint64_t now = cpu_tsc(cpu);

	if (tsc == UINT64_MAX)
		return UINT64_MAX;
	return tsc <= now ? cpu->insns : tsc - now > UINT64_MAX - cpu->insns ? UINT64_MAX : cpu->insns + (tsc - now);
}

uint64_t cpu_wake_tsc(const struct cpu *cpu)
{
	uint64_t apic = vmx_outside_guest(&cpu->vmx) ? UINT64_MAX : lapic_next_deadline(&cpu->lapic);

	return min_u64(apic, vmx_preemption_deadline(cpu));
}

/* The instruction count at which the loop must look up again. */
static uint64_t next_deadline(const struct cpu *cpu, uint64_t until)
{
	return min_u64(until, insns_at(cpu, cpu_wake_tsc(cpu)));
}

/* ---- one instruction, with everything that can happen around it ---- */

static bool needs_single(const struct cpu *cpu)
{
	return cpu->careful || cpu->mmu.data_watch || cpu->shadow_sti || cpu->shadow_movss || cpu->bus.done_count ||
	       (cpu->rflags & (RF_RF | RF_TF)) || vmx_proc(cpu, PROC_MTF);
}

static uint64_t code_breakpoints(const struct cpu *cpu)
{
	uint64_t hit = 0, lin = code_lin(cpu);

	for (unsigned n = 0; n < 4; n++)
		if ((cpu->dr7 >> (2 * n) & 3) && (cpu->dr7 >> (16 + 4 * n) & 3) == 0 && cpu->dr[n] == lin)
			hit |= DR6_B0 << n;
	return hit;
}

/*
 * STI blocks interrupts until the instruction after it is complete. Where nothing waits to be let
 * through that instruction need not be executed by itself: the blocking is lifted before it.
 */
static void lift_sti(struct cpu *cpu)
{
	if (!cpu->shadow_sti || cpu->extint || cpu->nmi_pending || vmx_proc(cpu, PROC_INTERRUPT_WINDOW | PROC_NMI_WINDOW) ||
	    (!vmx_outside_guest(&cpu->vmx) && lapic_pending(&cpu->lapic) >= 0))
		return;
	cpu->shadow_sti = false;
	if (needs_single(cpu))
		cpu->shadow_sti = true;
	else
		cpu->sti_lifted = cpu->insns;
}

bool cpu_boundary_quiet(struct cpu *cpu)
{
	if (cpu->kick || cpu->halted || cpu->shutdown || cpu->bus.done_count || cpu->db_pending || cpu->extint_ack ||
	    cpu->insns >= cpu->deadline)
		return false;
	poll_lapic(cpu);
	if (cpu->nmi_pending || init_due(cpu) || lapic_has_eoi(&cpu->lapic) || next_deadline(cpu, cpu->until) != cpu->deadline)
		return false;
	if (cpu->vmx.nonroot && (cpu->init_pending || cpu->lapic.init || cpu->vmx.mtf_pending || cpu->vmx.tpr_below ||
				 vmx_proc(cpu, PROC_INTERRUPT_WINDOW | PROC_NMI_WINDOW | PROC_MTF)))
		return false;
	if ((interrupts_open(cpu) || cpu->vmx.nonroot) && (cpu->extint || lapic_pending(&cpu->lapic) >= 0))
		return false;
	lift_sti(cpu);
	return !needs_single(cpu);
}

struct boundary {
	bool sti, movss, rf, tf;
};

/* Blocking by STI and MOV SS, and RF, last for one instruction: take them away before it runs. */
static struct boundary boundary_enter(struct cpu *cpu)
{
	struct boundary b = {cpu->shadow_sti, cpu->shadow_movss, cpu->rflags & RF_RF, cpu->rflags & RF_TF};

	cpu->shadow_sti = cpu->shadow_movss = false;
	cpu->behind_movss = b.movss;
	cpu->tf_after = false;
	if (b.rf) {
		cpu->rflags &= ~RF_RF;
		cpu_update_careful(cpu);
	}
	return b;
}

/* The instruction was not completed: they are still in force. */
static void boundary_restore(struct cpu *cpu, struct boundary b)
{
	cpu->shadow_sti = b.sti;
	cpu->shadow_movss = b.movss;
	if (b.rf)
		cpu->rflags |= RF_RF;
}

/*
 * An instruction was abandoned: breakpoints that it met will be met again. Traps that
 * MOV SS held back (@held) outlast a VM exit, but not an exception's delivery.
 */
static int abandon(struct cpu *cpu, uint64_t held)
{
	bool exception = cpu->stop.kind == STOP_EXCEPTION;
	int r;

	if (cpu->stop.kind != STOP_BUS)
		cpu->bus.done_count = 0;
	cpu->db_pending = held;
	r = handle_stop(cpu);
	if (exception && r == run_on)
		cpu->db_pending &= ~held; /* the rest was met by the delivery itself */
	return r;
}

static int step(struct cpu *cpu)
{
	struct boundary was;
	struct block *b;
	uint64_t hit, at, insns = cpu->insns, held = cpu->db_pending;
	bool monitored = vmx_proc(cpu, PROC_MTF);
	int st;

	if ((cpu->dr7 & 0xff) && !(cpu->rflags & RF_RF) && !cpu->bus.done_count) {
		hit = code_breakpoints(cpu);
		if (hit) {
			raise_exc(cpu, EXC_DB);
			cpu->stop.payload = hit;
			return handle_stop(cpu);
		}
	}
	cpu->bus.replay = 0;
	cpu->fetch_page = FAST_INVALID; /* the instruction before may have changed anything */
	if (locate(cpu, &at) || block_at(cpu, NULL, at, &b))
		return abandon(cpu, held);
	was = boundary_enter(cpu);
	st = run_block(cpu, b, 1);
	cpu->behind_movss = false;
	if (st == EXEC_STOP || st == EXEC_STALE) {
		boundary_restore(cpu, was);
		if (st == EXEC_STALE)
			return run_on;
		return abandon(cpu, held);
	}
	cpu->bus.done_count = 0;
	if (was.tf && !cpu->tf_after && (cpu->insns != insns || st == EXEC_REPEAT))
		cpu->db_pending |= DR6_BS;
	if (monitored) /* not if the instruction has just entered the guest */
		cpu->vmx.mtf_pending = true;
	cpu_update_careful(cpu);
	return run_on;
}

/* ---- blocks, until something needs looking at ---- */

static bool probe_due(const struct cpu *cpu)
{
	return cpu->probe.armed && code_lin(cpu) == cpu->probe.lin && cpu->insns != cpu->probe.passed;
}

static int probe_stop(struct cpu *cpu)
{
	cpu->probe.passed = cpu->insns;
	if (!cpu->vmx.nonroot)
		return CPU_RUN_STOP;
	cpu->probe.stopped = true;
	vmx_exit_probe(cpu);
	return handle_stop(cpu);
}

/* How many instructions of the block at RIP come before the one at the probe's address: all if it is not in it. */
static uint64_t before_probe(const struct cpu *cpu, const struct block *b)
{
	uint64_t ahead = cpu->probe.lin - code_lin(cpu);

	if (!cpu->probe.armed)
		return UINT64_MAX;
	if (cpu->code_bits != 64)
		ahead = (uint32_t)ahead;
	if (ahead == 0 || ahead >= b->bytes)
		return UINT64_MAX;
	for (unsigned i = 1; i < b->insns; i++)
		if (b->uop[i].off == ahead)
			return i;
	return UINT64_MAX;
}

/* Host code that begins with a block; the blocks it goes on to by itself are not seen here. */
static int run_host_code(struct cpu *cpu, const uint8_t *code)
{
	struct xexit out;
	int st = xlate_run(cpu, code, &out);

	return st == EXEC_NEXT ? st : leave_block(cpu, out.block, out.at, st);
}

/* @probe: blocks end before the instruction that the debugging probe waits for; host code knows nothing of it, nor of recorders. */
static ALWAYS_INLINE int run_blocks(struct cpu *cpu, bool probe)
{
	struct block *b = NULL;
	uint64_t resumed = UINT64_MAX; /* count at which host code was entered without looking for the block */
	int st;

	cpu->fetch_page = FAST_INVALID;
	cpu->xlink = NULL;
	do {
		struct block *prev = b;
		uint64_t most, at;
		const uint8_t *code;

		if (probe && probe_due(cpu))
			return run_on;
		if (unlikely(locate(cpu, &at)))
			return handle_stop(cpu);
		if (!probe && !prev && cpu->xlate && cpu->insns != resumed && (code = xlate_cached(cpu, at))) {
			resumed = cpu->insns;
			st = run_host_code(cpu, code);
			continue;
		}
		if (unlikely(block_at(cpu, prev, at, &b)))
			return handle_stop(cpu);
		most = cpu->deadline - cpu->insns;
		if (probe)
			most = min_u64(most, before_probe(cpu, b));
		if (unlikely(b->insns > most)) {
			st = run_block(cpu, b, most);
			if (st == EXEC_NEXT)
				return run_on;
		} else if (!probe && cpu->xlate && (code = xlate_code(cpu, b))) {
			st = run_host_code(cpu, code);
			b = NULL;
		} else {
			st = run_block(cpu, b, UINT64_MAX);
		}
	} while (likely(st == EXEC_NEXT && cpu->insns != cpu->deadline && !cpu->kick));
	return st == EXEC_STOP ? handle_stop(cpu) : run_on;
}

/* Apart, so that the loop without it is as if there were no probe. */
static NOINLINE int run_blocks_to_probe(struct cpu *cpu) { return run_blocks(cpu, true); }

enum cpu_run_status cpu_run(struct cpu *cpu, uint64_t until_tsc) { return cpu_run_to(cpu, insns_at(cpu, until_tsc)); }

enum cpu_run_status cpu_run_to(struct cpu *cpu, uint64_t until_insns)
{
	int r;

	cpu->until = until_insns;
	cpu->deadline = 0;
	cpu->sti_lifted = UINT64_MAX;
	while (!cpu->shutdown) {
		bool took = false;

		if (cpu->kick) {
			cpu->kick = 0;
			return CPU_RUN_KICKED;
		}
		if (!cpu->bus.done_count) {
			if (cpu->insns >= cpu->until && !cpu_debug_trap_due(cpu))
				return CPU_RUN_DEADLINE;
			poll_lapic(cpu);
			if (lapic_has_eoi(&cpu->lapic))
				return CPU_RUN_EOI;
			r = take_events(cpu, &took);
			if (r != run_on)
				return (enum cpu_run_status)r;
			if (took)
				continue;
			if (cpu->halted)
				return CPU_RUN_HALTED;
			if (unlikely(probe_due(cpu)))
				return (enum cpu_run_status)probe_stop(cpu);
		}
		cpu->deadline = next_deadline(cpu, cpu->until);
		lift_sti(cpu);
		if (needs_single(cpu))
			r = step(cpu);
		else
			r = cpu->probe.armed || cpu->recorder ? run_blocks_to_probe(cpu) : run_blocks(cpu, false);
		restore_sti(cpu);
		if (r != run_on)
			return (enum cpu_run_status)r;
	}
	return CPU_RUN_SHUTDOWN;
}
