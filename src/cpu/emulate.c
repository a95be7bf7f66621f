/*
 * The emulator role: one instruction on a processor whose memory is what its
 * owner says. It is decoded afresh each time (the owner's memory may be anything)
 * and executed by the very functions that the machine itself uses.
 */
#include "cpu/access.h"
#include "cpu/cpu.h"
#include "cpu/lower.h"
#include "cpu/replay.h"
#include "cpu/vmx.h"

#define INSN_BYTES_MAX 15u

void cpu_emul_begin(struct cpu *cpu)
{
	cpu->bus.done_count = cpu->bus.replay = 0;
	cpu->stop = (struct stop){0};
}

/* Fetches what is there of the instruction at @lin: up to the page's end, or on into the next if @second. */
static int fetch(struct cpu *cpu, uint64_t lin, uint8_t *bytes, unsigned *got)
{
	unsigned n = (unsigned)min_u64(INSN_BYTES_MAX - *got, PAGE_SIZE - (lin & ~PAGE_MASK));
	struct xlate x = {0};
	uint64_t gpa_v;
	bool ram;
	enum xlate_event ev = cpu->emul_ops->translate(cpu->emul_ctx, cpu, lin, ACCESS_FETCH,
						       (enum access_mode)cpu->mode, &x, &ram, &gpa_v);

	if (ev == XLATE_PAGE_FAULT)
		return raise_pf(cpu, lin, x.error_code);
	if (ev)
		return vmx_exit_ept(cpu, ev, &x, lin, true);
	if (!ram)
		return raise_ud(cpu);
	memcpy(bytes + *got, (uint8_t *)machmem_ptr(cpu->mmu.mem, x.page) + (lin & ~PAGE_MASK), n);
	*got += n;
	return 0;
}

static int decode_at_rip(struct cpu *cpu, struct uop *u)
{
	uint64_t rip = cpu->gpr[REG_RIP];
	uint64_t lin = cpu->code_bits == 64 ? rip : (uint32_t)(cpu->seg[SEG_CS].base + rip);
	uint8_t bytes[INSN_BYTES_MAX];
	unsigned got = 0;
	enum block_place place;

	if (fetch(cpu, lin, bytes, &got))
		return EXEC_STOP;
	if (lower_one(cpu, bytes, got, cpu->code_bits, 0, u, &place))
		return 0;
	/* It goes on in the next page. */
	lin += got;
	if (fetch(cpu, cpu->code_bits == 64 ? lin : (uint32_t)lin, bytes, &got))
		return EXEC_STOP;
	return lower_one(cpu, bytes, got, cpu->code_bits, 0, u, &place) ? 0 : raise_ud(cpu);
}

static enum cpu_emul_result stopped(struct cpu *cpu, const struct uop *u)
{
	if (cpu->stop.kind == STOP_BUS)
		return EMUL_BUS;
	if (cpu->stop.kind != STOP_EXCEPTION)
		return EMUL_NESTED;
	if (u && cpu->stop.noncanonical && (u->flags & UOP_SEG_STACK))
		cpu->stop.vector = EXC_SS;
	return EMUL_EXCEPTION;
}

enum cpu_emul_result cpu_emulate_one(struct cpu *cpu, unsigned max_iterations, unsigned *counted)
{
	uint64_t insns = cpu->insns;
	struct uop u;
	int st;

	if (cpu->replay)
		return replay_emulate_one(cpu, max_iterations, counted);
	*counted = 0;
	cpu->bus.replay = 0;
	if (decode_at_rip(cpu, &u))
		return stopped(cpu, NULL);
	cpu->rep_limit = max_iterations;
	st = u.exec(cpu, &u);
	if (st == EXEC_STOP)
		return stopped(cpu, &u);
	cpu->bus.done_count = 0;
	if (st == EXEC_REPEAT) {
		cpu->rflags |= RF_RF; /* as the run loop has it */
		*counted = cpu->rep_counts;
		return EMUL_PARTIAL;
	}
	if (!(u.flags & UOP_SETS_RIP)) {
		uint64_t next = cpu->gpr[REG_RIP] + u.len;

		cpu->gpr[REG_RIP] = cpu->code_bits == 64 ? next : (uint32_t)next;
	}
	/* An INT n that faulted on the way to its handler takes back one, a VM entry that injects one completes it as well. */
	*counted = (unsigned)(cpu->insns - insns + 1);
	cpu->insns = insns;
	return EMUL_DONE;
}
