/*
 * IN and OUT, and the permission to access ports.
 *
 * Source: SDM volume 1, "Input/Output" ("I/O Permission Bit Map"); volume 2. INS
 * and OUTS are with the string instructions.
 */
#include "cpu/insn_system.h"

#include "cpu/vmx.h"

#define TSS_IOMAP_BASE 102u

int io_check_permission(struct cpu *cpu, uint16_t port, unsigned bytes)
{
	uint16_t map, allowed;
	uint32_t at;

	if (cpu_real_mode(cpu) || (!cpu_v86(cpu) && cpu->cpl <= cpu_iopl(cpu)))
		return 0;
	if (((cpu->tr.attr & SEG_AR_TYPE) | DESC_TYPE_BUSY) != DESC_TSS32_BUSY || cpu->tr.limit < TSS_IOMAP_BASE + 1)
		return raise_gp0(cpu);
	if (table_read(cpu, cpu->tr.base + TSS_IOMAP_BASE, &map, 2))
		return EXEC_STOP;
	at = map + port / 8u;
	if (at + 1 > cpu->tr.limit)
		return raise_gp0(cpu);
	if (table_read(cpu, cpu->tr.base + at, &allowed, 2))
		return EXEC_STOP;
	return allowed >> (port & 7) & ((1u << bytes) - 1) ? raise_gp0(cpu) : 0;
}

void io_check_breakpoints(struct cpu *cpu, uint16_t port, unsigned bytes)
{
	static const uint8_t length[] = {1, 2, 8, 4};

	if (likely(!(cpu->dr7 & 0xff)) || !(cpu->cr4 & CR4_DE))
		return;
	for (unsigned n = 0; n < 4; n++) {
		unsigned len = length[cpu->dr7 >> (18 + 4 * n) & 3];
		uint64_t at = cpu->dr[n] & ~(uint64_t)(len - 1);

		if ((cpu->dr7 >> (2 * n) & 3) && (cpu->dr7 >> (16 + 4 * n) & 3) == 2 && port < at + len &&
		    at < (uint64_t)port + bytes)
			cpu->db_pending |= DR6_B0 << n;
	}
}

/* aux: the port number is an immediate */
static uint16_t port_of(const struct cpu *cpu, const struct uop *u)
{
	return u->aux ? (uint8_t)u->imm : (uint16_t)cpu->gpr[RDX];
}

static int may_access(struct cpu *cpu, const struct uop *u, uint16_t port, bool in)
{
	if (io_check_permission(cpu, port, u->opsize))
		return EXEC_STOP;
	return vmx_intercept_io(cpu, u, port, u->opsize, in, false, false, u->aux != 0, 0);
}

static int x_in(struct cpu *cpu, const struct uop *u)
{
	uint16_t port = port_of(cpu, u);
	uint32_t v;

	if (may_access(cpu, u, port, true) || port_read(cpu, port, u->opsize, &v))
		return EXEC_STOP;
	if (u->opsize == 1)
		w8(cpu, REG_OFF(RAX), (uint8_t)v);
	else if (u->opsize == 2)
		w16(cpu, REG_OFF(RAX), (uint16_t)v);
	else
		w32(cpu, REG_OFF(RAX), v);
	io_check_breakpoints(cpu, port, u->opsize);
	return EXEC_LEAVE;
}

static int x_out(struct cpu *cpu, const struct uop *u)
{
	uint16_t port = port_of(cpu, u);
	uint32_t v = (uint32_t)cpu->gpr[RAX];

	if (u->opsize < 4)
		v &= (1u << 8 * u->opsize) - 1;
	if (may_access(cpu, u, port, false) || port_write(cpu, port, u->opsize, v))
		return EXEC_STOP;
	io_check_breakpoints(cpu, port, u->opsize);
	return EXEC_LEAVE;
}

bool lower_io(struct insn *in, struct uop *u)
{
	bool is_in = in->z.mnemonic == ZYDIS_MNEMONIC_IN;

	if (!is_in && in->z.mnemonic != ZYDIS_MNEMONIC_OUT)
		return false;
	u->exec = is_in ? x_in : x_out;
	u->opsize = (uint8_t)(in->op[is_in ? 0 : 1].size / 8);
	u->aux = op_is_imm(in, is_in ? 1 : 0);
	if (u->aux)
		u->imm = in->op[is_in ? 1 : 0].imm.value.u;
	in->ends_block = true;
	return true;
}
