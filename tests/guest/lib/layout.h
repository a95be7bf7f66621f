/* Numbers that the assembly and the C part of the bare-metal tests share. */
#ifndef GUEST_LAYOUT_H
#define GUEST_LAYOUT_H

#define USER_SLOT 0x40 /* PML4 slot of the user alias of low memory */

/* Offsets in struct trap. */
#define TRAP_VECTOR 0
#define TRAP_ERROR 8
#define TRAP_RIP 16
#define TRAP_CS 24
#define TRAP_RFLAGS 32
#define TRAP_RSP 40
#define TRAP_SS 48
#define TRAP_CR2 56
#define TRAP_RAX 64
#define TRAP_RBX 72
#define TRAP_RCX 80
#define TRAP_RDX 88
#define TRAP_RSI 96
#define TRAP_RDI 104
#define TRAP_RBP 112
#define TRAP_R8 120
#define TRAP_R11 128
#define TRAP_STACK 136
#define TRAP_NEW_SS 144

#endif
