/*
 * Registers between struct cpu and the structs of the seam: the same whether the
 * processor is the bare machine's or one that holds the state of a hypervisor's vCPU.
 */
#include "engine/engine_impl.h"

void engine_cpu_get_regs(const struct cpu *c, struct engine_regs *r)
{
	memcpy(r->gpr, c->gpr, sizeof(r->gpr));
	r->rip = c->gpr[REG_RIP];
	r->rflags = cpu_get_rflags(c);
}

void engine_cpu_set_regs(struct cpu *c, const struct engine_regs *r)
{
	memcpy(c->gpr, r->gpr, sizeof(r->gpr));
	c->gpr[REG_RIP] = r->rip;
	cpu_set_rflags(c, r->rflags);
	cpu_update_mode(c);
}

void engine_cpu_get_sregs(const struct cpu *c, struct engine_sregs *s)
{
	memcpy(s->seg, c->seg, sizeof(s->seg));
	s->tr = c->tr;
	s->ldt = c->ldtr;
	s->gdt = c->gdtr;
	s->idt = c->idtr;
	s->cr0 = c->cr0;
	s->cr2 = c->cr2;
	s->cr3 = c->cr3;
	s->cr4 = c->cr4;
	s->cr8 = lapic_cr8(&c->lapic);
	s->efer = c->efer;
	s->apic_base = c->lapic.base;
}

void engine_cpu_set_sregs(struct cpu *c, const struct engine_sregs *s)
{
	memcpy(c->seg, s->seg, sizeof(c->seg));
	c->tr = s->tr;
	c->ldtr = s->ldt;
	c->gdtr = s->gdt;
	c->idtr = s->idt;
	c->cr0 = s->cr0;
	c->cr2 = s->cr2;
	c->cr3 = s->cr3;
	c->cr4 = s->cr4;
	c->efer = s->efer;
	c->lapic.base = s->apic_base;
	lapic_set_cr8(&c->lapic, (uint8_t)s->cr8);
	cpu_update_mode(c);
}

void engine_cpu_get_msrs(const struct cpu *c, struct engine_msrs *m)
{
	*m = (struct engine_msrs){
		.star = c->msr.star, .lstar = c->msr.lstar, .cstar = c->msr.cstar, .fmask = c->msr.fmask,
		.kernel_gs_base = c->msr.kernel_gs_base, .sysenter_cs = c->msr.sysenter_cs,
		.sysenter_esp = c->msr.sysenter_esp, .sysenter_eip = c->msr.sysenter_eip, .pat = c->msr.pat,
		.tsc_aux = c->msr.tsc_aux, .xcr0 = c->xcr0, .pkru = c->pkru, .dr6 = c->dr6, .dr7 = c->dr7,
	};
	memcpy(m->dr, c->dr, sizeof(m->dr));
}
