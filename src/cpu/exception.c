/*
 * Exceptions and interrupts: raising them, and delivering them through the IDT
 * (or the interrupt vector table of real mode), double and triple faults
 * included.
 *
 * Source: SDM volume 3, "Interrupt and Exception Handling" and "64-bit Mode
 * Exception and Interrupt Handling"; volume 2, "INT n/INTO/INT3/INT1"; for
 * virtual-8086 mode "Interrupt and Exception Handling in Virtual-8086 Mode" (INT n with
 * its extensions, CR4.VME: insn_event.c).
 */
#include "cpu/flags.h"
#include "cpu/record.h"
#include "cpu/replay.h"
#include "cpu/segment.h"
#include "cpu/vmx.h"

/* ---- raising ---- */

int raise_exc(struct cpu *cpu, uint8_t vector)
{
	cpu->stop = (struct stop){.kind = STOP_EXCEPTION, .vector = vector};
	return EXEC_STOP;
}

int raise_exc_err(struct cpu *cpu, uint8_t vector, uint32_t error)
{
	cpu->stop = (struct stop){.kind = STOP_EXCEPTION, .vector = vector,
				  .has_error = true, .error = error};
	return EXEC_STOP;
}

int raise_pf(struct cpu *cpu, uint64_t addr, uint32_t error)
{
	cpu->stop = (struct stop){.kind = STOP_EXCEPTION, .vector = EXC_PF,
				  .has_error = true, .error = error, .payload = addr};
	return EXEC_STOP;
}

/* ---- what an event is ---- */

static bool event_is_soft(const struct event *ev) { return ev->type >= EVENT_SOFT_INT; }
/* Gate DPL matters for INT n, INT3, INTO; not for INT1. */
static bool event_checks_dpl(const struct event *ev)
{
	return ev->type == EVENT_SOFT_INT || ev->type == EVENT_SOFT_EXCEPTION;
}
static bool event_is_exception(const struct event *ev)
{
	return ev->type == EVENT_HW_EXCEPTION || ev->type == EVENT_PRIV_SOFT_EXCEPTION ||
	       ev->type == EVENT_SOFT_EXCEPTION;
}
/* EXT bit of error codes: the event is external to the program. */
static unsigned event_ext(const struct event *ev) { return !event_checks_dpl(ev); }

/* RFLAGS to save: RF is set for faults (SDM "Instruction-Breakpoint Exception Condition"). */
static uint64_t saved_rflags(const struct cpu *cpu, const struct event *ev)
{
	uint64_t rf = cpu_get_rflags(cpu);

	if (cpu->vmx.injecting)
		return rf;
	/* What RF was before the faults that became a double fault, a hypervisor that intercepts them cannot know. */
	if (event_is_soft(ev) || (ev->type == EVENT_HW_EXCEPTION && ev->vector == EXC_DF))
		return rf & ~RF_RF;
	if (ev->type != EVENT_HW_EXCEPTION || ev->vector == EXC_MC)
		return rf;
	if (ev->vector == EXC_DB && !(ev->payload & DR6_BD))
		return rf;
	return rf | RF_RF;
}

static uint64_t saved_rip(const struct cpu *cpu, const struct event *ev)
{
	return cpu->gpr[REG_RIP] + (event_is_soft(ev) ? ev->insn_len : 0);
}

/* ---- entering the handler: the common end ---- */

/* Flags of the handler; @clear_if: interrupt gate. */
static void enter_flags(struct cpu *cpu, bool clear_if)
{
	cpu->rflags &= ~(RF_TF | RF_NT | RF_RF | RF_VM | (clear_if ? RF_IF : 0));
}

static int idt_error(struct cpu *cpu, uint8_t vector, const struct event *ev)
{
	return raise_exc_err(cpu, vector, ev->vector * 8u + 2 + event_ext(ev));
}

/* ---- long mode ---- */

static int read_gate64(struct cpu *cpu, const struct event *ev, struct desc *gate)
{
	uint64_t raw[2];

	if (ev->vector * 16u + 15 > cpu->idtr.limit)
		return idt_error(cpu, EXC_GP, ev);
	if (table_read(cpu, cpu->idtr.base + ev->vector * 16u, raw, 16))
		return EXEC_STOP;
	gate->lo = raw[0];
	gate->hi = raw[1];
	if (!desc_is_system(gate) || (desc_type(gate) & 0xe) != DESC_INT32)
		return idt_error(cpu, EXC_GP, ev);
	if (event_checks_dpl(ev) && desc_dpl(gate) < cpu->cpl)
		return idt_error(cpu, EXC_GP, ev);
	if (!desc_present(gate))
		return idt_error(cpu, EXC_NP, ev);
	return 0;
}

/* The handler's code segment. @cpl: receives the level it runs at. */
static int read_handler_cs(struct cpu *cpu, uint16_t sel, unsigned ext, struct desc *cs, unsigned *cpl)
{
	if (sel_is_null(sel))
		return raise_exc_err(cpu, EXC_GP, ext);
	if (desc_read(cpu, sel, EXC_GP, ext, cs))
		return EXEC_STOP;
	if (!desc_is_code(cs) || desc_dpl(cs) > cpu->cpl)
		return raise_sel(cpu, EXC_GP, sel, ext);
	if (!desc_present(cs))
		return raise_sel(cpu, EXC_NP, sel, ext);
	*cpl = desc_is_conforming(cs) ? cpu->cpl : desc_dpl(cs);
	return 0;
}

/* Writes the stack frame; by way of the fast lookup if that knows the page. */
static int write_frame(struct cpu *cpu, uint64_t lin, const uint64_t *frame, unsigned bytes, enum access_mode mode)
{
	uint8_t *host = mode < MODE_USER_ALIGN ? mmu_fast_data(&cpu->mmu, lin, bytes, ACCESS_WRITE, mode) : NULL;

	if (unlikely(!host))
		return mem_write_slow(cpu, lin, frame, bytes, mode);
	memcpy(host, frame, bytes);
	return 0;
}

static int choose_stack64(struct cpu *cpu, unsigned ist, unsigned cpl, unsigned ext, uint64_t *rsp)
{
	*rsp = cpu->gpr[RSP];
	if (ist)
		return tss_stack64(cpu, 28 + 8 * ist, ext, rsp);
	if (cpl < cpu->cpl)
		return tss_stack64(cpu, 4 + 8 * cpl, ext, rsp);
	return 0;
}

static int push_frame64(struct cpu *cpu, const struct event *ev, unsigned cpl, uint64_t *rsp)
{
	uint64_t frame[6] = {ev->error, saved_rip(cpu, ev), cpu->seg[SEG_CS].sel, saved_rflags(cpu, ev),
			     cpu->gpr[RSP], cpu->seg[SEG_SS].sel};
	unsigned first = ev->has_error ? 0 : 1, bytes = (6 - first) * 8;

	if (cpu->code_bits != 64)
		frame[1] = (uint32_t)frame[1];
	*rsp = (*rsp & ~15ull) - bytes;
	if (unlikely(!cpu_canonical(cpu, *rsp) || !cpu_canonical(cpu, *rsp + bytes - 1)))
		return raise_exc_err(cpu, EXC_SS, event_ext(ev));
	return write_frame(cpu, *rsp, frame + first, bytes, cpu_access_mode(cpu, cpl));
}

static int deliver_long(struct cpu *cpu, const struct event *ev)
{
	struct desc gate = {0}, cs;
	uint64_t rsp, rip;
	unsigned cpl, ext = event_ext(ev);
	uint16_t sel;

	if (read_gate64(cpu, ev, &gate))
		return EXEC_STOP;
	sel = gate_selector(&gate);
	if (read_handler_cs(cpu, sel, ext, &cs, &cpl))
		return EXEC_STOP;
	if (!desc_is_long_code(&cs) || (desc_attr(&cs) & SEG_AR_DB))
		return raise_sel(cpu, EXC_GP, sel, ext);
	if (choose_stack64(cpu, gate.lo >> 32 & 7, cpl, ext, &rsp))
		return EXEC_STOP;
	rip = gate_offset(&gate) | gate.hi << 32;
	if (!cpu_canonical(cpu, rip))
		return raise_exc_err(cpu, EXC_GP, ext);
	if (desc_set_accessed(cpu, &cs) || push_frame64(cpu, ev, cpl, &rsp))
		return EXEC_STOP;

	enter_flags(cpu, !(desc_type(&gate) & 1));
	desc_to_seg(&cs, (uint16_t)((sel & ~3u) | cpl), &cpu->seg[SEG_CS]);
	if (cpl != cpu->cpl) {
		cpu->cpl = (uint8_t)cpl;
		seg_load_null(cpu, SEG_SS, (uint16_t)cpl);
	}
	cpu->gpr[RSP] = rsp;
	cpu->gpr[REG_RIP] = rip;
	cpu_update_cpl(cpu);
	return 0;
}

/* ---- protected mode ---- */

static int read_gate32(struct cpu *cpu, const struct event *ev, struct desc *gate)
{
	unsigned type;

	gate->hi = 0;
	if (ev->vector * 8u + 7 > cpu->idtr.limit)
		return idt_error(cpu, EXC_GP, ev);
	if (table_read(cpu, (uint32_t)(cpu->idtr.base + ev->vector * 8u), &gate->lo, 8))
		return EXEC_STOP;
	type = desc_type(gate);
	if (!desc_is_system(gate) || (type != DESC_TASK_GATE && (type & 6) != DESC_INT16))
		return idt_error(cpu, EXC_GP, ev);
	if (event_checks_dpl(ev) && desc_dpl(gate) < cpu->cpl)
		return idt_error(cpu, EXC_GP, ev);
	if (!desc_present(gate))
		return idt_error(cpu, EXC_NP, ev);
	return 0;
}

static int deliver_task(struct cpu *cpu, const struct event *ev, const struct desc *gate)
{
	bool committed = false;
	uint64_t rflags = cpu->rflags;
	int r;

	/* The old task resumes with the flags the event would have pushed. */
	cpu->rflags = (saved_rflags(cpu, ev) & ~RF_ARITH) | RF_ONE;
	r = task_switch(cpu, gate_selector(gate), TASK_GATE, saved_rip(cpu, ev), event_is_soft(ev) ? ev->insn_len : 0,
			event_ext(ev), ev->has_error ? &ev->error : NULL, &committed);
	if (r && !committed)
		cpu->rflags = rflags;
	return r;
}

/* The stack that the handler at @cpl uses; @new_ss: its descriptor if it is another one. */
static int handler_stack(struct cpu *cpu, unsigned cpl, unsigned ext, struct fstack *st, struct desc *new_ss)
{
	uint16_t sel;
	uint32_t esp;

	if (cpl == cpu->cpl && !cpu_v86(cpu)) {
		fstack_current(cpu, st);
		st->error = ext;
		return 0;
	}
	if (tss_stack(cpu, cpl, ext, &sel, &esp) || seg_check_stack(cpu, sel, cpl, EXC_TS, ext, new_ss))
		return EXEC_STOP;
	if (desc_set_accessed(cpu, new_ss))
		return EXEC_STOP;
	desc_to_seg(new_ss, sel, &st->ss);
	st->flat = false;
	st->mask = st->ss.attr & SEG_AR_DB ? 0xffffffff : 0xffff;
	st->sp = esp & st->mask;
	st->mode = cpu_access_mode(cpu, cpl);
	st->error = (sel & 0xfffcu) | ext;
	return 0;
}

static int push_frame32(struct cpu *cpu, const struct event *ev, struct fstack *st, unsigned bytes, bool other)
{
	static const uint8_t v86_order[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};
	uint64_t v[10];
	unsigned n = 0;

	for (unsigned i = 0; cpu_v86(cpu) && i < 4; i++)
		v[n++] = cpu->seg[v86_order[i]].sel;
	if (other) {
		v[n++] = cpu->seg[SEG_SS].sel;
		v[n++] = cpu->gpr[RSP];
	}
	v[n++] = saved_rflags(cpu, ev);
	v[n++] = cpu->seg[SEG_CS].sel;
	v[n++] = saved_rip(cpu, ev);
	if (ev->has_error)
		v[n++] = ev->error;
	for (unsigned i = 0; i < n; i++)
		if (fstack_push(cpu, st, bytes, v[i]))
			return EXEC_STOP;
	return 0;
}

static void enter_handler32(struct cpu *cpu, const struct desc *cs, const struct desc *gate, unsigned cpl,
			    const struct fstack *st, bool other)
{
	bool v86 = cpu_v86(cpu);
	uint32_t off = gate_offset(gate);

	enter_flags(cpu, !(desc_type(gate) & 1));
	desc_to_seg(cs, (uint16_t)((gate_selector(gate) & ~3u) | cpl), &cpu->seg[SEG_CS]);
	if (other)
		cpu->seg[SEG_SS] = st->ss;
	cpu->cpl = (uint8_t)cpl;
	for (unsigned i = 0; v86 && i < SEG_COUNT; i++)
		if (i != SEG_CS && i != SEG_SS)
			seg_load_null(cpu, i, 0);
	fstack_commit(cpu, st);
	cpu->gpr[REG_RIP] = desc_type(gate) & 8 ? off : (uint16_t)off;
	cpu_update_mode(cpu);
}

static int deliver_protected(struct cpu *cpu, const struct event *ev)
{
	struct desc gate = {0}, cs, new_ss;
	struct fstack st;
	unsigned cpl, ext = event_ext(ev);
	bool other;

	if (read_gate32(cpu, ev, &gate))
		return EXEC_STOP;
	if (desc_type(&gate) == DESC_TASK_GATE)
		return deliver_task(cpu, ev, &gate);
	if (read_handler_cs(cpu, gate_selector(&gate), ext, &cs, &cpl))
		return EXEC_STOP;
	if (cpu_v86(cpu) && (desc_is_conforming(&cs) || cpl != 0))
		return raise_sel(cpu, EXC_GP, gate_selector(&gate), ext);
	other = cpl != cpu->cpl;
	if (handler_stack(cpu, cpl, ext, &st, &new_ss))
		return EXEC_STOP;
	if ((desc_type(&gate) & 8 ? gate_offset(&gate) : (uint16_t)gate_offset(&gate)) > desc_limit(&cs))
		return raise_exc_err(cpu, EXC_GP, ext);
	if (desc_set_accessed(cpu, &cs) || push_frame32(cpu, ev, &st, desc_type(&gate) & 8 ? 4 : 2, other))
		return EXEC_STOP;
	enter_handler32(cpu, &cs, &gate, cpl, &st, other);
	return 0;
}

/* ---- real mode ---- */

static int deliver_real(struct cpu *cpu, const struct event *ev)
{
	struct fstack st;
	uint32_t vector;

	if (ev->vector * 4u + 3 > cpu->idtr.limit)
		return idt_error(cpu, EXC_GP, ev);
	if (table_read(cpu, (uint32_t)(cpu->idtr.base + ev->vector * 4u), &vector, 4))
		return EXEC_STOP;
	fstack_current(cpu, &st);
	if (fstack_push(cpu, &st, 2, saved_rflags(cpu, ev)) || fstack_push(cpu, &st, 2, cpu->seg[SEG_CS].sel) ||
	    fstack_push(cpu, &st, 2, saved_rip(cpu, ev)))
		return EXEC_STOP;
	cpu->rflags &= ~(RF_IF | RF_TF | RF_AC | RF_RF);
	seg_load_real(cpu, SEG_CS, (uint16_t)(vector >> 16));
	fstack_commit(cpu, &st);
	cpu->gpr[REG_RIP] = (uint16_t)vector;
	cpu_update_cpl(cpu);
	return 0;
}

/* ---- combining exceptions ---- */

static int deliver_by_mode(struct cpu *cpu, const struct event *ev)
{
	if (likely(cpu_lma(cpu)))
		return deliver_long(cpu, ev);
	return cpu_real_mode(cpu) ? deliver_real(cpu, ev) : deliver_protected(cpu, ev);
}

/*
 * One attempt. A descriptor table or TSS in device memory reads as ones: there
 * is no instruction that could be executed again with the platform's answer.
 */
static int deliver_attempt(struct cpu *cpu, const struct event *ev)
{
	struct bus *bus = &cpu->bus;
	unsigned replay = bus->replay, done = bus->done_count;
	int r;

	if (unlikely(cpu->recorder))
		record_delivery(cpu, cpu->gpr[REG_RIP] + (cpu->long_mode ? 0 : cpu->seg[SEG_CS].base));
	for (;;) {
		r = deliver_by_mode(cpu, ev);
		if (likely(r == 0) || cpu->stop.kind != STOP_BUS || bus->done_count == BUS_QUEUE_MAX)
			break;
		bus->done[bus->done_count] = bus->want;
		bus->done[bus->done_count++].data = ~0ull;
		bus->replay = replay;
	}
	bus->done_count = done;
	bus->replay = replay;
	if (r && cpu->stop.kind == STOP_BUS)
		return raise_exc(cpu, EXC_DF);
	return r;
}

enum exc_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE_FAULT, CLASS_DOUBLE_FAULT };

/* SDM "Interrupt 8—Double Fault Exception", table "Interrupt and Exception Classes". */
static enum exc_class classify(const struct event *ev)
{
	if (ev->type != EVENT_HW_EXCEPTION)
		return CLASS_BENIGN;
	switch (ev->vector) {
	case EXC_DE: case EXC_TS: case EXC_NP: case EXC_SS: case EXC_GP:
		return CLASS_CONTRIBUTORY;
	case EXC_PF:
		return CLASS_PAGE_FAULT;
	case EXC_DF:
		return CLASS_DOUBLE_FAULT;
	default:
		return CLASS_BENIGN;
	}
}

static int triple_fault(struct cpu *cpu)
{
	vmx_vectoring_end(cpu);
	if (cpu->vmx.nonroot)
		return vmx_exit_triple_fault(cpu);
	cpu->rflags &= ~RF_RF; /* nobody can see it any more: the same however the faults came about */
	cpu->stop = (struct stop){.kind = STOP_SHUTDOWN};
	return EXEC_STOP;
}

/* What an exception changes before it reaches its handler (or fails to). */
static void exception_effects(struct cpu *cpu, const struct event *ev)
{
	if (ev->type != EVENT_HW_EXCEPTION)
		return;
	if (ev->vector == EXC_PF) {
		cpu->cr2 = ev->payload;
	} else if (ev->vector == EXC_DB) {
		cpu->dr6 = (cpu->dr6 & ~0xfull) | ev->payload | DR6_FIXED;
		cpu->dr7 &= ~DR7_GD;
	}
}

/* Accepts an exception: exits if it is intercepted, else its effects. */
static int accept(struct cpu *cpu, const struct event *ev)
{
	if (!event_is_exception(ev))
		return 0;
	if (vmx_intercept_exception(cpu, ev))
		return EXEC_STOP;
	exception_effects(cpu, ev);
	return 0;
}

/* A fault came up while @ev was being delivered: *ev becomes the event to deliver now. */
static int combine(struct cpu *cpu, struct event *ev)
{
	const struct stop *s = &cpu->stop;
	struct event second = {.vector = s->vector, .type = EVENT_HW_EXCEPTION, .has_error = s->has_error,
			       .error = s->error, .payload = s->payload};
	enum exc_class a = classify(ev), b = classify(&second);

	cpu->vmx.injecting = false;
	if (accept(cpu, &second))
		return EXEC_STOP;
	if (b == CLASS_DOUBLE_FAULT || (a == CLASS_DOUBLE_FAULT && b != CLASS_BENIGN))
		return triple_fault(cpu);
	if (b == CLASS_BENIGN || a == CLASS_BENIGN || (a == CLASS_CONTRIBUTORY && b == CLASS_PAGE_FAULT)) {
		*ev = second;
		return 0;
	}
	*ev = (struct event){.vector = EXC_DF, .type = EVENT_HW_EXCEPTION, .has_error = true};
	vmx_vectoring_end(cpu); /* an intercepted double fault is no exit during delivery */
	return accept(cpu, ev);
}

static void delivered(struct cpu *cpu, const struct event *ev)
{
	vmx_vectoring_end(cpu);
	cpu->vmx.injecting = false;
	cpu->vmx.nmi_unblocking_iret = false;
	cpu->shadow_sti = cpu->shadow_movss = false;
	cpu->halted = false;
	if (vmx_proc(cpu, PROC_MTF))
		cpu->vmx.mtf_pending = true; /* before the handler begins */
	if (event_is_soft(ev))
		cpu->insns++; /* the instruction is complete with this */
	if (ev->type == EVENT_HW_EXCEPTION) {
		cpu->stats.exceptions++;
		cpu->stats.page_faults += ev->vector == EXC_PF;
	} else if (!event_is_soft(ev)) {
		cpu->stats.interrupts++;
	}
}

static int deliver(struct cpu *cpu, struct event ev)
{
	for (;;) {
		vmx_vectoring_begin(cpu, &ev);
		if (likely(deliver_attempt(cpu, &ev) == 0)) {
			delivered(cpu, &ev);
			return EXEC_NEXT;
		}
		if (cpu->stop.kind != STOP_EXCEPTION || combine(cpu, &ev))
			return EXEC_STOP;
	}
}

/* Real mode pushes no error codes: deliver_real() never looks at has_error. */
int cpu_deliver_event(struct cpu *cpu, const struct event *ev)
{
	if (unlikely(cpu->replay))
		return replay_deliver(cpu);
	if (!cpu->vmx.injecting && accept(cpu, ev))
		return EXEC_STOP;
	if (ev->type == EVENT_NMI)
		cpu->nmi_blocked = true;
	return deliver(cpu, *ev);
}
