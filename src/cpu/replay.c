/*
 * See replay.h. Left out: what instructions do that is not about translation. So exits for CPUID, ports, timers and
 * interrupts do not come about, nor those of a string instruction with ports.
 */
#include "cpu/replay.h"

#include "cpu/insn_system.h"
#include "cpu/msr.h"
#include "cpu/vmx.h"

#define REPLAY_VECTOR 32
#define FLAT_ATTR (SEG_AR_P | SEG_AR_S | SEG_AR_A | SEG_AR_RW | SEG_AR_DB | SEG_AR_G)

void replay_attach(struct replay *r, struct cpu *cpu)
{
	cpu->replay = r;
	cpu->mmu.no_data = true;
	r->applied = REPLAY_NO_MODE;
}

void replay_feed(struct replay *r, const struct trace_event *ev, unsigned n)
{
	r->ev = ev;
	r->n = n;
	r->at = 0;
}

/* ---- groups ---- */

/* A register's value where the trace begins. */
static bool is_initial(const struct trace_event *ev)
{
	switch (ev->kind) {
	case TRACE_PDPTE:
		return true;
	case TRACE_CR0:
	case TRACE_CR3:
	case TRACE_CR4:
	case TRACE_PKRU:
		return ev->flags & TRACE_INITIAL;
	case TRACE_WRMSR:
		return ev->flags & TRACE_INITIAL;
	default:
		return false;
	}
}

static bool is_outside(const struct trace_event *ev)
{
	switch (ev->kind) {
	case TRACE_PAGE:
	case TRACE_STORE:
		return true;
	default:
		return is_initial(ev);
	}
}

/* Does the event belong to the group of the event before it? */
static bool continues(const struct trace_event *ev)
{
	if (trace_is_access(ev))
		return !(ev->flags & TRACE_FIRST);
	return ev->kind >= TRACE_CR0 && ev->kind <= TRACE_INVPCID && !is_outside(ev);
}

static unsigned group_start(const struct replay *r, unsigned i)
{
	while (i && continues(&r->ev[i]))
		i--;
	return i;
}

static unsigned group_end(const struct replay *r, unsigned i)
{
	do
		i++;
	while (i < r->n && continues(&r->ev[i]));
	return i;
}

static bool is_delivery(const struct trace_event *ev) { return trace_begins_group(ev) && ev->flags & TRACE_DELIVERY; }

/* ---- the guest's privilege, for those who look at it ---- */

/* As VM entry would accept it: whatever the trace says. */
static uint64_t code_address(const struct cpu *cpu, uint64_t pc)
{
	unsigned width = cpu->cr4 & CR4_LA57 ? 57 : 48;

	return cpu_lma(cpu) ? (uint64_t)((int64_t)(pc << (64 - width)) >> (64 - width)) : (uint32_t)pc;
}

/* Flat segments for protected mode; real mode keeps those of RESET. @wide: 64-bit code */
static void set_segments(struct cpu *cpu, uint8_t mode, bool wide)
{
	uint16_t rpl = mode_is_user((enum access_mode)mode) ? 3 : 0;
	uint32_t dpl = (uint32_t)rpl << SEG_AR_DPL_SHIFT;

	if (!(cpu->cr0 & CR0_PE))
		return;
	cpu->seg[SEG_CS] = (struct seg){.sel = (uint16_t)(8 | rpl), .limit = 0xffffffff,
					.attr = (FLAT_ATTR ^ (wide ? SEG_AR_DB | SEG_AR_L : 0)) | SEG_AR_CODE | dpl};
	cpu->seg[SEG_SS] = (struct seg){.sel = (uint16_t)(16 | rpl), .limit = 0xffffffff, .attr = FLAT_ATTR | dpl};
}

static void apply_mode(struct cpu *cpu)
{
	struct replay *r = cpu->replay;
	bool ac = r->mode == MODE_SUPER_AC || r->mode == MODE_USER_ALIGN;

	if (r->applied == r->mode)
		return;
	r->applied = r->mode;
	set_segments(cpu, r->mode, cpu_lma(cpu));
	cpu->rflags = (cpu->rflags & ~RF_AC) | (ac ? RF_AC : 0);
	cpu_update_mode(cpu);
}

static bool is_initial_msr(const struct trace_event *ev)
{
	return ev->kind == TRACE_WRMSR && is_initial(ev) && ev->addr != MSR_EFER;
}

void replay_load_msr(struct cpu *cpu, const struct trace_event *ev)
{
	const struct cpu_stats stats = cpu->stats;
	const struct mmu_stats mmu = cpu->mmu.stats;

	cpu_wrmsr(cpu, (uint32_t)ev->addr, ev->value);
	cpu->stats = stats;
	cpu->mmu.stats = mmu;
}

/* Is it the initial value of a register? Then it has been noted. */
static bool note_register(struct replay *r, const struct trace_event *ev)
{
	if (!is_initial(ev) || is_initial_msr(ev))
		return false;
	if (ev->kind == TRACE_CR0)
		r->cr0 = ev->value;
	else if (ev->kind == TRACE_CR3)
		r->cr3 = ev->value & ~CR3_NOFLUSH;
	else if (ev->kind == TRACE_CR4)
		r->cr4 = ev->value;
	else if (ev->kind == TRACE_PKRU)
		r->pkru = (uint32_t)ev->value;
	else if (ev->kind == TRACE_PDPTE)
		r->pdpte[ev->addr & 3] = ev->value;
	else
		r->efer = ev->value;
	r->initial = true;
	return true;
}

void replay_registers(const struct replay *r, struct cpu *cpu)
{
	cpu->cr0 = r->cr0 | CR0_ET;
	cpu->cr3 = r->cr3;
	cpu->cr4 = r->cr4;
	cpu->efer = r->efer;
	cpu->pkru = r->pkru;
	memcpy(cpu->pdpte, r->pdpte, sizeof(cpu->pdpte));
	if (cpu->cr0 & CR0_PE) {
		set_segments(cpu, MODE_SUPER, cpu_lma(cpu));
		for (unsigned i = 0; i < SEG_COUNT; i++)
			if (i != SEG_CS && i != SEG_SS)
				cpu->seg[i] = (struct seg){.attr = SEG_AR_UNUSABLE};
		cpu->ldtr = (struct seg){.attr = SEG_AR_UNUSABLE};
		cpu->gpr[REG_RIP] = 0;
	}
	cpu_update_mode(cpu);
}

static void load_noted(struct replay *r, const struct replay_outside *to, void *ctx)
{
	if (r->initial)
		to->load_registers(ctx, r);
	r->initial = false;
}

int replay_take_outside(struct replay *r, const struct replay_outside *to, void *ctx, struct error *err)
{
	int ret = 0;

	for (; r->at < r->n && !ret; r->at++) {
		const struct trace_event *ev = &r->ev[r->at];

		if (ev->kind == TRACE_PAGE) {
			ret = to->write(ctx, ev->addr & PAGE_MASK, trace_event_page(ev), PAGE_SIZE, err);
		} else if (ev->kind == TRACE_STORE) {
			ret = to->write(ctx, ev->addr, &ev->value, ev->size, err);
		} else if (is_initial_msr(ev)) {
			load_noted(r, to, ctx);
			to->load_msr(ctx, ev);
		} else if (!note_register(r, ev)) {
			break;
		}
	}
	if (!ret && r->at < r->n)
		load_noted(r, to, ctx);
	return ret;
}

/* ---- one event ---- */

/* An instruction for the functions that look at its length for an exit. */
static struct uop insn_of(const struct trace_event *first)
{
	unsigned len = trace_is_access(first) ? trace_insn_bytes(first) : 0;

	return (struct uop){.len = (uint8_t)(len ? len : 1), .base = REG_OFF(REG_ZERO), .index = REG_OFF(REG_ZERO),
			    .seg = SEG_NONE, .addrsize = 8, .dst = REG_OFF(RCX), .src = REG_OFF(RAX)};
}

static int fetch(struct cpu *cpu, uint64_t lin, enum access_mode mode)
{
	struct xlate x = {0};
	uint16_t rights;
	enum xlate_event ev = mmu_translate(&cpu->mmu, gva(lin), ACCESS_FETCH, mode, &x, &rights);

	if (!ev)
		return 0;
	return ev == XLATE_PAGE_FAULT ? vmx_raise_page_fault(cpu, lin, &x) : vmx_exit_ept(cpu, ev, &x, lin, true);
}

static unsigned value_bytes(const struct trace_event *ev) { return ev->size < 8 ? ev->size : 8; }

/* @cpu: also the emulator's */
static int data(struct cpu *cpu, const struct trace_event *ev)
{
	enum access_mode mode = ev->mode == TRACE_IMPLICIT ? MODE_SUPER : (enum access_mode)ev->mode;
	int r;

	if (!(ev->flags & TRACE_VALUE))
		return mem_touch(cpu, ev->addr, ev->size, ev->kind == TRACE_WRITE ? ACCESS_WRITE : ACCESS_READ, mode);
	r = mem_write_slow(cpu, ev->addr, &ev->value, value_bytes(ev), mode);
	/* A device takes it. */
	return r && cpu->stop.kind == STOP_BUS ? 0 : r;
}

static int move_to_cr(struct cpu *cpu, struct uop *u, unsigned cr, uint64_t value)
{
	u->dst = (uint8_t)cr;
	cpu->gpr[RAX] = value;
	/* Paging is turned off by code that is not 64-bit code. */
	if (cr == 0 && !(value & CR0_PG) && cpu_lma(cpu)) {
		set_segments(cpu, MODE_SUPER, false);
		cpu_update_mode(cpu);
	}
	return cpu_mov_to_cr(cpu, u, value);
}

static int write_msr(struct cpu *cpu, const struct uop *u, const struct trace_event *ev)
{
	int r;

	cpu->gpr[RCX] = (uint32_t)ev->addr;
	cpu->gpr[RAX] = (uint32_t)ev->value;
	cpu->gpr[RDX] = ev->value >> 32;
	if (vmx_intercept_wrmsr(cpu, u, (uint32_t)ev->addr))
		return EXEC_STOP;
	r = cpu_wrmsr(cpu, (uint32_t)ev->addr, ev->value);
	return r < 0 ? raise_gp0(cpu) : r ? EXEC_STOP : 0;
}

/* The load of the descriptor is the event after it. */
static int invpcid(struct cpu *cpu, struct uop *u, unsigned i)
{
	struct replay *r = cpu->replay;
	const struct trace_event *ev = &r->ev[i], *load = i + 1 < r->n && continues(ev + 1) ? ev + 1 : NULL;

	cpu->gpr[RCX] = ev->aux;
	u->disp = (int64_t)(load ? load->addr : 0);
	r->accesses += load != NULL;
	if (cpu_invpcid_intercept(cpu, u) || (load && load->kind == TRACE_READ && data(cpu, load)))
		return EXEC_STOP;
	return cpu_invpcid(cpu, ev->aux, ev->value, ev->addr);
}

/* What the processor does about event @i of the group that begins with event @first. */
static int execute(struct cpu *cpu, unsigned first, unsigned i)
{
	struct replay *r = cpu->replay;
	const struct trace_event *ev = &r->ev[i];
	struct uop u = insn_of(&r->ev[first]);

	switch (ev->kind) {
	case TRACE_READ:
	case TRACE_WRITE:
		r->accesses++;
		return data(cpu, ev);
	case TRACE_FETCH:
		r->accesses++;
		return fetch(cpu, ev->addr, (enum access_mode)ev->mode);
	case TRACE_CR0:
		return move_to_cr(cpu, &u, 0, ev->value);
	case TRACE_CR3:
		return move_to_cr(cpu, &u, 3, ev->value);
	case TRACE_CR4:
		return move_to_cr(cpu, &u, 4, ev->value);
	case TRACE_PKRU:
		cpu->pkru = (uint32_t)ev->value;
		cpu_update_mode(cpu);
		return 0;
	case TRACE_WRMSR:
		return write_msr(cpu, &u, ev);
	case TRACE_INVLPG:
		return cpu_invlpg(cpu, &u, ev->addr);
	case TRACE_INVPCID:
		return invpcid(cpu, &u, i);
	case TRACE_INSNS:
		cpu->insns += ev->value;
		r->insns += ev->value;
		return 0;
	default:
		return 0; /* marks; what is meant for the model of an operating system */
	}
}

/* ---- exits and exceptions ---- */

static enum replay_status leave(struct cpu *cpu, bool ahead)
{
	struct replay *r = cpu->replay;

	cpu->stop = (struct stop){0};
	r->ahead = ahead;
	r->moved = false;
	r->exit_rip = cpu->gpr[REG_RIP];
	vmx_do_exit(cpu);
	return REPLAY_EXIT;
}

/* An exception: is it the hypervisor's? */
static bool exits(struct cpu *cpu)
{
	const struct stop s = cpu->stop;
	struct event ev = {.vector = s.vector, .type = EVENT_HW_EXCEPTION, .has_error = s.has_error, .error = s.error,
			   .payload = s.payload};

	if (s.kind == STOP_VMEXIT)
		return true;
	return s.kind == STOP_EXCEPTION && vmx_intercept_exception(cpu, &ev);
}

/* The guest got an exception, whoever found out: the rest of the group did not happen. Only faults of pages are foretold. */
static void abandon(struct replay *r, bool page_fault)
{
	bool expected = !page_fault;

	for (unsigned i = group_start(r, r->at), end = group_end(r, i); i < end; i++)
		expected |= trace_is_access(&r->ev[i]) && r->ev[i].flags & TRACE_FAULTS;
	r->faults++;
	r->unexpected += !expected;
	r->at = group_end(r, r->at);
}

/* After VM entry: the page of code. True: that exited. */
static bool look_up_code(struct cpu *cpu)
{
	struct replay *r = cpu->replay;
	const struct trace_event *ev = &r->ev[r->at];

	r->entered = false;
	if (is_delivery(ev))
		return false;
	if (!r->rip_known) {
		if (!trace_begins_group(ev) || ev->kind == TRACE_FETCH)
			return false;
		cpu->gpr[REG_RIP] = code_address(cpu, ev->pc);
	}
	apply_mode(cpu);
	if (!fetch(cpu, cpu->gpr[REG_RIP], (enum access_mode)r->mode))
		return false;
	return exits(cpu);
}

/* A hypervisor is told that an event was being delivered; which one does not matter, because it is never injected. */
static void apply_delivery(struct cpu *cpu, bool delivery)
{
	const struct event ev = {.vector = REPLAY_VECTOR, .type = EVENT_EXTERNAL};

	if (delivery)
		vmx_vectoring_begin(cpu, &ev);
	else
		vmx_vectoring_end(cpu);
}

/*
 * Fetches tell the privilege. EFLAGS.AC changes without one; that accesses tell, unless they are of another
 * privilege: the processor's own, to descriptor tables.
 */
static void follow_mode(struct replay *r, const struct trace_event *ev)
{
	bool user = mode_is_user((enum access_mode)r->mode);

	if (ev->kind == TRACE_FETCH ||
	    (trace_is_access(ev) && ev->mode < MODE_COUNT && mode_is_user((enum access_mode)ev->mode) == user))
		r->mode = ev->mode;
}

/* An event that the fast lookups do not serve. REPLAY_DRY: go on. */
static enum replay_status slow_event(struct cpu *cpu)
{
	struct replay *r = cpu->replay;
	unsigned first = group_start(r, r->at);
	const struct trace_event *ev = &r->ev[first];
	bool page_fault;

	if (r->entered && look_up_code(cpu))
		return leave(cpu, true);
	if (!is_delivery(ev))
		follow_mode(r, &r->ev[r->at]);
	/* On the bare machine nobody looks at the privilege; but whether code is 64-bit code says how addresses wrap. */
	if (cpu->vmx.nonroot || r->applied == REPLAY_NO_MODE)
		apply_mode(cpu);
	if (cpu->vmx.nonroot) {
		apply_delivery(cpu, is_delivery(ev));
		cpu->gpr[REG_RIP] = code_address(cpu, trace_is_access(ev) ? ev->pc : 0);
	}
	if (execute(cpu, first, r->at) != EXEC_STOP) {
		r->unexpected += trace_is_access(&r->ev[r->at]) && r->ev[r->at].flags & TRACE_FAULTS;
		r->at += 1 + (r->ev[r->at].kind == TRACE_INVPCID && r->at + 1 < r->n && continues(&r->ev[r->at + 1]));
		r->applied = trace_is_access(&r->ev[r->at - 1]) ? r->applied : REPLAY_NO_MODE;
		return REPLAY_DRY;
	}
	if (exits(cpu))
		return leave(cpu, false);
	page_fault = cpu->stop.vector == EXC_PF;
	cpu->stop = (struct stop){0};
	abandon(r, page_fault);
	return REPLAY_DRY;
}

void replay_entered(struct cpu *cpu, enum replay_entry how)
{
	struct replay *r = cpu->replay;

	if (how == REPLAY_ANEW)
		r->rip_known &= r->entered;
	else /* an exception is delivered before anything is fetched */
		r->rip_known = how == REPLAY_HANDLED && !(r->moved && r->jumped);
	if (how == REPLAY_ABANDONED && !r->ahead)
		abandon(r, trace_is_access(&r->ev[r->at]));
	else if (how == REPLAY_HANDLED && !r->moved && !r->ahead)
		r->at = cpu->gpr[REG_RIP] != r->exit_rip ? group_end(r, r->at) : group_start(r, r->at);
	r->applied = REPLAY_NO_MODE;
	r->entered = true;
}

void replay_abandon(struct replay *r)
{
	if (r->at < r->n)
		abandon(r, trace_is_access(&r->ev[r->at]));
}

void replay_leave(struct cpu *cpu)
{
	if (!cpu->vmx.nonroot)
		return;
	vmx_exit_probe(cpu);
	cpu->stop = (struct stop){0};
	vmx_do_exit(cpu);
}

/* ---- the loop ---- */

static ALWAYS_INLINE bool take_data(struct mmu *m, const struct trace_event *ev, enum access_kind kind)
{
	uint8_t *host;

	if (unlikely(ev->mode >= MODE_USER_ALIGN))
		return false;
	host = mmu_fast_data(m, ev->addr, ev->size, kind, (enum access_mode)ev->mode);
	if (unlikely(!host))
		return false;
	if (kind == ACCESS_WRITE && unlikely(ev->flags & TRACE_VALUE))
		memcpy(host, &ev->value, value_bytes(ev));
	return true;
}

static ALWAYS_INLINE bool take_fetch(struct replay *r, struct mmu *m, const struct trace_event *ev)
{
	r->mode = ev->mode;
	return ev->mode < MODE_USER_ALIGN && mmu_fast_fetch(m, ev->addr, (enum access_mode)ev->mode);
}

/* Takes events as long as the fast lookups serve them. */
static void take_fast(struct cpu *cpu)
{
	struct replay *r = cpu->replay;
	const struct trace_event *begin = r->ev + r->at, *end = r->ev + r->n, *ev = begin;
	struct mmu *m = &cpu->mmu;

	for (; ev < end && !(ev->flags & TRACE_FAULTS); ev++) {
		bool taken = false;

		if (likely(ev->kind == TRACE_READ))
			taken = take_data(m, ev, ACCESS_READ);
		else if (ev->kind == TRACE_WRITE)
			taken = take_data(m, ev, ACCESS_WRITE);
		else if (ev->kind == TRACE_FETCH)
			taken = take_fetch(r, m, ev);
		if (unlikely(!taken))
			break;
	}
	r->accesses += (uint64_t)(ev - begin);
	r->at = (unsigned)(ev - r->ev);
}

enum replay_status replay_run(struct cpu *cpu)
{
	struct replay *r = cpu->replay;
	enum replay_status s = REPLAY_DRY;

	while (s == REPLAY_DRY) {
		if (!r->entered)
			take_fast(cpu);
		if (r->at >= r->n)
			break;
		if (is_outside(&r->ev[r->at]) || r->initial)
			return REPLAY_OUTSIDE;
		s = slow_event(cpu);
	}
	return s;
}

/* ---- the emulator's role ---- */

static int emulate_register(struct cpu *cpu, const struct trace_event *ev, struct uop *u)
{
	switch (ev->kind) {
	case TRACE_CR0: return move_to_cr(cpu, u, 0, ev->value) == EXEC_STOP;
	case TRACE_CR3: return move_to_cr(cpu, u, 3, ev->value) == EXEC_STOP;
	case TRACE_CR4: return move_to_cr(cpu, u, 4, ev->value) == EXEC_STOP;
	case TRACE_WRMSR: return write_msr(cpu, u, ev);
	case TRACE_PKRU: cpu->pkru = (uint32_t)ev->value; return 0;
	default: return 0; /* the emulator has no TLB: its owner invalidates */
	}
}

/* Code is translated and not read. */
static int emulate_fetch(struct cpu *cpu, uint64_t lin, enum access_mode mode)
{
	struct xlate x = {0};
	uint64_t gpa_v;
	bool ram;
	enum xlate_event ev = cpu->emul_ops->translate(cpu->emul_ctx, cpu, lin, ACCESS_FETCH, mode, &x, &ram, &gpa_v);

	if (!ev)
		return 0;
	return ev == XLATE_PAGE_FAULT ? raise_pf(cpu, lin, x.error_code) : vmx_exit_ept(cpu, ev, &x, lin, true);
}

/* The group from event @i on. 0, or EXEC_STOP at event r->at. */
static int emulate_group(struct cpu *cpu, unsigned i)
{
	struct replay *r = cpu->replay;
	struct uop u = insn_of(&r->ev[i]);
	int st = 0;

	for (unsigned end = group_end(r, i); i < end && !st; i++) {
		const struct trace_event *ev = &r->ev[i];

		r->at = i;
		if (ev->kind == TRACE_FETCH)
			st = emulate_fetch(cpu, ev->addr, (enum access_mode)ev->mode);
		else if (trace_is_access(ev))
			st = data(cpu, ev);
		else
			st = emulate_register(cpu, ev, &u);
		r->accesses += trace_is_access(ev);
	}
	return st;
}

enum cpu_emul_result replay_emulate_one(struct cpu *cpu, unsigned max_iterations, unsigned *counted)
{
	struct replay *r = cpu->replay;
	unsigned i, iterations = 0;
	const struct trace_event *first;
	int st = 0;

	*counted = 0;
	if (r->at >= r->n)
		return EMUL_DONE;
	i = group_start(r, r->at);
	first = &r->ev[i];
	r->moved = true;
	r->ahead = r->jumped = false;
	if (trace_begins_group(first) && !is_delivery(first))
		st = emulate_fetch(cpu, code_address(cpu, first->pc), (enum access_mode)r->mode);
	for (; !st; i = r->at) {
		st = emulate_group(cpu, i);
		if (st)
			break;
		r->at = group_end(r, i);
		iterations++;
		if (r->at >= r->n || !trace_begins_group(&r->ev[r->at]) || !(r->ev[r->at].flags & TRACE_AGAIN))
			break;
		if (iterations == max_iterations)
			return EMUL_PARTIAL;
	}
	if (st)
		return cpu->stop.kind == STOP_EXCEPTION ? EMUL_EXCEPTION : EMUL_NESTED;
	cpu->gpr[REG_RIP] = code_address(cpu, cpu->gpr[REG_RIP] + insn_of(first).len);
	*counted = 1;
	return EMUL_DONE;
}

int replay_deliver(struct cpu *cpu)
{
	struct replay *r = cpu->replay;
	unsigned i = group_start(r, r->at);

	r->moved = r->jumped = true;
	r->ahead = false;
	/* If it faults, what comes of that is the next group. */
	if (emulate_group(cpu, i))
		cpu->stop = (struct stop){0};
	r->at = group_end(r, i);
	return EXEC_NEXT;
}
