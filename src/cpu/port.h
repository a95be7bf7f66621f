/* The I/O permission check that IN, OUT, INS and OUTS share. */
#ifndef GNOMON_CPU_PORT_H
#define GNOMON_CPU_PORT_H

#include "cpu/cpu.h"

/*
 * May the current privilege level access these ports (IOPL, TSS permission bitmap;
 * SDM volume 1 "I/O Permission Bit Map")? 0, or EXEC_STOP with #GP(0).
 */
int port_check(struct cpu *cpu, uint16_t port, unsigned bytes);

#endif
