/*
 * Segment descriptors and what loads them; also the parts of delivery and far
 * transfers that several files need (stacks, canonical checks, task switches).
 */
#ifndef GNOMON_CPU_SEGMENT_H
#define GNOMON_CPU_SEGMENT_H

#include "cpu/access.h"

/* A descriptor or gate as read from a descriptor table. */
struct desc {
	uint64_t lo, hi; /* hi: second half of a 16-byte one */
	uint64_t lin;    /* where it stands */
};

/* Types of system descriptors (SDM "System-Segment and Gate-Descriptor Types"). */
enum {
	DESC_TSS16 = 1, DESC_LDT = 2, DESC_TSS16_BUSY = 3, DESC_CALL16 = 4, DESC_TASK_GATE = 5, DESC_INT16 = 6,
	DESC_TRAP16 = 7, DESC_TSS32 = 9, DESC_TSS32_BUSY = 11, DESC_CALL32 = 12, DESC_INT32 = 14, DESC_TRAP32 = 15,
};
#define DESC_TYPE_BUSY 2u

static inline uint32_t desc_attr(const struct desc *d) { return (uint32_t)(d->lo >> 40) & 0xf0ff; }
static inline unsigned desc_type(const struct desc *d) { return (unsigned)(d->lo >> 40) & 15; }
static inline unsigned desc_dpl(const struct desc *d) { return (unsigned)(d->lo >> 45) & 3; }
static inline bool desc_present(const struct desc *d) { return d->lo >> 47 & 1; }
static inline bool desc_is_system(const struct desc *d) { return !(d->lo >> 44 & 1); }
static inline bool desc_is_code(const struct desc *d) { return (desc_attr(d) & 0x18) == 0x18; }
static inline bool desc_is_conforming(const struct desc *d) { return desc_attr(d) & SEG_AR_CE; }
static inline bool desc_is_writable_data(const struct desc *d) { return (desc_attr(d) & 0x1a) == 0x12; }
static inline bool desc_is_long_code(const struct desc *d) { return desc_attr(d) & SEG_AR_L; }
uint32_t desc_limit(const struct desc *d);
/* Gates */
static inline uint16_t gate_selector(const struct desc *d) { return (uint16_t)(d->lo >> 16); }
static inline uint32_t gate_offset(const struct desc *d)
{
	return (uint32_t)(d->lo & 0xffff) | (uint32_t)(d->lo >> 32 & 0xffff0000);
}
/* System descriptors are 16 bytes in IA-32e mode. */
static inline unsigned desc_system_bytes(const struct cpu *cpu) { return cpu->efer & EFER_LMA ? 16 : 8; }

static inline unsigned seg_dpl(const struct seg *s) { return s->attr >> SEG_AR_DPL_SHIFT & 3; }
static inline bool sel_is_null(uint16_t sel) { return sel < 4; }

static inline bool cpu_real_mode(const struct cpu *cpu) { return !(cpu->cr0 & CR0_PE); }
static inline bool cpu_v86(const struct cpu *cpu) { return cpu->rflags & RF_VM; }
static inline bool cpu_real_or_v86(const struct cpu *cpu) { return cpu_real_mode(cpu) || cpu_v86(cpu); }
static inline bool cpu_lma(const struct cpu *cpu) { return cpu->efer & EFER_LMA; }
/* Virtual-8086 mode with its extensions. */
static inline bool cpu_vme(const struct cpu *cpu) { return cpu_v86(cpu) && cpu->cr4 & CR4_VME; }
static inline unsigned cpu_iopl(const struct cpu *cpu) { return (unsigned)(cpu->rflags >> 12) & 3; }

static inline bool canonical_width(uint64_t a, unsigned width)
{
	return (uint64_t)((int64_t)(a << (64 - width)) >> (64 - width)) == a;
}
/* Canonical for the paging mode in force: code and stack addresses. */
static inline bool cpu_canonical(const struct cpu *cpu, uint64_t a)
{
	return canonical_width(a, cpu->cr4 & CR4_LA57 ? 57 : 48);
}
/* Canonical for the widest linear addresses the processor has: bases in MSRs and descriptors. */
static inline bool cpu_canonical_base(const struct cpu *cpu, uint64_t a)
{
	return canonical_width(a, cpu_has(cpu, CPUF_LA57) ? 57 : 48);
}

/* A fault whose error code is a selector: @ext is the EXT bit (or 0). Returns EXEC_STOP. */
static inline int raise_sel(struct cpu *cpu, uint8_t vector, uint16_t sel, unsigned ext)
{
	return raise_exc_err(cpu, vector, (sel & 0xfffcu) | ext);
}

/* Supervisor read of a descriptor table or TSS, by way of the fast lookup if that knows the page. */
static ALWAYS_INLINE int table_read(struct cpu *cpu, uint64_t lin, void *buf, unsigned bytes)
{
	const uint8_t *host = mmu_fast_data(&cpu->mmu, lin, bytes, ACCESS_READ, MODE_SUPER);

	if (unlikely(!host))
		return sys_read(cpu, lin, buf, bytes);
	memcpy(buf, host, bytes);
	return 0;
}

/* As which data accesses of code at @cpl with the present flags are made. */
enum access_mode cpu_access_mode(const struct cpu *cpu, unsigned cpl);

/*
 * Where the descriptor of @sel stands. False if the index is outside its table,
 * or the LDT is unusable. @bytes: 8 or 16.
 */
bool desc_locate(const struct cpu *cpu, uint16_t sel, unsigned bytes, uint64_t *lin);
/* Reads the 8-byte descriptor; @vector(sel | ext) if it is outside the table. Returns 0 or EXEC_STOP. */
int desc_read(struct cpu *cpu, uint16_t sel, uint8_t vector, unsigned ext, struct desc *d);
/* Reads on: the second half of a 16-byte descriptor. */
int desc_read_high(struct cpu *cpu, uint16_t sel, uint8_t vector, unsigned ext, struct desc *d);
/* Sets the accessed bit of a code or data descriptor, in memory and in @d. */
int desc_set_accessed(struct cpu *cpu, struct desc *d);
/* Sets or clears the busy bit of a TSS descriptor in memory. */
int desc_set_busy(struct cpu *cpu, struct desc *d, bool busy);
void desc_to_seg(const struct desc *d, uint16_t sel, struct seg *s);

/*
 * MOV / POP to ES, SS, DS, FS or GS (SDM "MOV—Move"), in every mode; the caller
 * handles CS and blocking by MOV SS. Returns 0 or EXEC_STOP with nothing changed.
 */
int seg_load(struct cpu *cpu, unsigned reg, uint16_t sel);
void seg_load_null(struct cpu *cpu, unsigned reg, uint16_t sel);
/* Real mode and virtual-8086 mode: base = selector * 16. */
void seg_load_real(struct cpu *cpu, unsigned reg, uint16_t sel);
/* Flat segments as SYSCALL and SYSENTER and their returns load them. */
void seg_load_flat_cs(struct cpu *cpu, uint16_t sel, unsigned dpl, bool long_code);
void seg_load_flat_ss(struct cpu *cpu, uint16_t sel, unsigned dpl);
/* After a return to an outer level: data segments that it may not use become null. */
void seg_drop_inaccessible(struct cpu *cpu, unsigned cpl);

/*
 * Checks a stack-segment selector that comes from a TSS or is popped by a return
 * to @cpl. @vector: #TS or #GP for everything but a missing segment (#SS).
 */
int seg_check_stack(struct cpu *cpu, uint16_t sel, unsigned cpl, uint8_t vector, unsigned ext, struct desc *d);

/* SS:RSP of level @cpl from the TSS (SDM "Stack Switching"). @tss_vector errors carry the TSS selector. */
int tss_stack(struct cpu *cpu, unsigned cpl, unsigned ext, uint16_t *ss, uint32_t *esp);
int tss_stack64(struct cpu *cpu, unsigned slot_offset, unsigned ext, uint64_t *rsp);

/* Is [off, off+bytes) inside the segment? Expand-down ones included. */
bool seg_contains(const struct seg *s, uint32_t off, unsigned bytes);

/*
 * A far transfer's view of a stack: being pushed to or popped from before anything is committed. sp wraps
 * at the stack's address size.
 */
struct fstack {
	struct seg ss;
	uint64_t sp;
	uint64_t mask;           /* of the stack pointer */
	bool flat;               /* 64-bit mode: no segment */
	enum access_mode mode;
	uint32_t error;          /* of the #SS it raises */
};
/* The stack in force. */
void fstack_current(const struct cpu *cpu, struct fstack *s);
int fstack_push(struct cpu *cpu, struct fstack *s, unsigned bytes, uint64_t v);
int fstack_pop(struct cpu *cpu, struct fstack *s, unsigned bytes, uint64_t *v);
/* Loads RSP from it: only the part that its address size covers changes. */
void fstack_commit(struct cpu *cpu, const struct fstack *s);

/* ---- privilege of ports (insn_io.c) ---- */

/*
 * May software access @bytes ports from @port: IOPL and the I/O permission bit map
 * of the TSS. Returns 0, or EXEC_STOP (#GP(0), or a fault of reading the TSS).
 */
int io_check_permission(struct cpu *cpu, uint16_t port, unsigned bytes);
/* I/O breakpoints: notes in db_pending those that an access matched. */
void io_check_breakpoints(struct cpu *cpu, uint16_t port, unsigned bytes);

/* ---- virtual-8086 mode with VME and IOPL below 3: 16-bit images of flags (insn_event.c) ---- */

/* FLAGS as the program sees it: VIF in the place of IF, and IOPL 3. */
static inline uint64_t cpu_virtual_flags(uint64_t rflags)
{
	return (rflags & ~RF_IF) | RF_IOPL | (rflags & RF_VIF ? RF_IF : 0);
}
/*
 * The other way, for POPF and IRET: makes of *@image and of the *@mask of flags that may change those for RFLAGS.
 * Returns 0, or EXEC_STOP: #GP(0) if the image has TF set, or IF with an interrupt pending (VIP).
 */
int cpu_take_virtual_flags(struct cpu *cpu, uint64_t *image, uint64_t *mask);

/* ---- task switches (task.c) ---- */

enum task_cause { TASK_CALL, TASK_IRET, TASK_JMP, TASK_GATE /* by an event, through the IDT */ };
/*
 * Switches to the task of TSS selector @sel (SDM "Task Switching"). A VM exit in
 * non-root operation.
 * @next_rip: to save in the old TSS
 * @insn_len: for the VM exit; 0 if no instruction causes it
 * @ext: EXT bit of error codes
 * @error: error code to push on the new stack (events), or NULL
 * Returns 0 with gpr[REG_RIP] the full new EIP, or EXEC_STOP. A fault after the
 * commit point belongs to the new task: then gpr[REG_RIP] is its EIP too, and
 * *committed is set.
 */
int task_switch(struct cpu *cpu, uint16_t sel, enum task_cause cause, uint64_t next_rip, unsigned insn_len,
		unsigned ext, const uint32_t *error, bool *committed);

/*
 * Reads the four PDPTEs that a load of CR3 with @cr3 brings (insn_cr.c). Returns 0,
 * or EXEC_STOP: #GP(0) if a present one has reserved bits set. No register changes.
 */
int cpu_read_pdptes(struct cpu *cpu, uint64_t cr3, uint64_t pdpte[4]);

/* Recomputes what depends on CPL, RFLAGS and the code size only: cheaper than cpu_update_mode(). */
void cpu_update_cpl(struct cpu *cpu);
/* Recomputes cpu->careful. */
void cpu_update_careful(struct cpu *cpu);

#endif
