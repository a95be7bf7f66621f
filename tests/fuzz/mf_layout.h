/*
 * Where things are in a fuzzed guest's memory: for the generator (C) and the
 * guest's handlers (assembler). Linear equals physical below MF_IDENTITY_END.
 */
#ifndef GNOMON_MF_LAYOUT_H
#define GNOMON_MF_LAYOUT_H

#define MF_GDT          0x1000
#define MF_LDT          0x1800
#define MF_IDT          0x2000
#define MF_TSS          0x3000
#define MF_TSS_OTHER    0x3800 /* of a second task; legacy modes */
#define MF_STUBS        0x4000
#define MF_STUBS_END    0x7000
#define MF_KSTACK       0xa000 /* top */
#define MF_IST          0xb000 /* top */
#define MF_USTACK_FRAME 0xb000 /* two pages: the user stack */
#define MF_VARS         0xd000
#define MF_COUNT        0xd000 /* entries of handlers so far */
#define MF_FLUSH        0xd004 /* how handlers flush: MF_FLUSH_* */
#define MF_SALT         0xd008
#define MF_CODE         0x10010 /* slots straddle page ends */
#define MF_CODE_PAGES   5
#define MF_SLOT         64
#define MF_SLOTS        256
#define MF_CODE_BYTES   0x4000
#define MF_TABLES       0x20000 /* page tables that guests do not store to at random */
#define MF_TABLES_END   0x60000
#define MF_SCRATCH      0x80000
#define MF_SCRATCH_END  0xb0000
#define MF_WINDOW       0x180000 /* writable aliases of those tables, a page each */
#define MF_WINDOWS      32
#define MF_APIC         0x1ff000 /* the local APIC's page */
#define MF_IDENTITY_END 0x200000

#define MF_PLAY_FRAME   0x200000 /* tables that may be stored to at random */
#define MF_PLAY_FRAMES  8
#define MF_DATA_FRAME   0x400000
#define MF_DATA_FRAMES  64
#define MF_MEMORY       0x480000

#define MF_PLAIN        0x400000 /* linear: 2 MiB of pages whose tables are kept in order */
#define MF_UCODE        0x410010 /* alias of the code, for user mode */
#define MF_USTACK       0x422000 /* top */
#define MF_PLAY         0x800000 /* linear: 2 MiB of pages with random entries */
#define MF_DEVICE       0xd0000000

#define MF_KCS 0x08
#define MF_KDS 0x10
#define MF_UCS32 0x1b
#define MF_UDS 0x23
#define MF_UCS64 0x2b
#define MF_KCS32 0x30
#define MF_TR 0x38
#define MF_LDTR 0x48
#define MF_CALL_GATE 0x58
#define MF_CS16 0x68
#define MF_DS16 0x70
#define MF_TR_OTHER 0x90
#define MF_GDT_BYTES 0x200

#define MF_FLUSH_NONE 0
#define MF_FLUSH_CR3  1
#define MF_FLUSH_PGE  2

#endif
