/*
 * The processor: its architectural state, and how one makes and runs it.
 *
 * One struct cpu is one logical processor. The bare machine has one that guests
 * run on directly (native) or under a hypervisor (VMX). A hypervisor may make a
 * second, private one as its instruction emulator: see cpu_emulate_one().
 *
 * What the outside may do with a processor that runs a hypervisor's guest is in
 * cpu/vmx.h, the narrow door.
 */
#ifndef GNOMON_CPU_CPU_H
#define GNOMON_CPU_CPU_H

#include "arch/addr.h"
#include "arch/x86.h"
#include "base/error.h"
#include "base/util.h"
#include "cpu/features.h"
#include "cpu/lapic.h"
#include "cpu/uop.h"
#include "mem/machmem.h"
#include "mmu/mmu.h"
#include <stdatomic.h>

/* A segment register, or LDTR / TR. */
struct seg {
	uint16_t sel;
	uint32_t attr;  /* SEG_AR_*, the VMCS access-rights format */
	uint32_t limit; /* in bytes, granularity applied */
	uint64_t base;
};

struct dtable { /* GDTR, IDTR */
	uint64_t base;
	uint16_t limit;
};

/* The FXSAVE64 image is the x87, MMX and SSE state (SDM "FXSAVE"); beside it the upper halves of YMM0-15. */
struct fpu {
	_Alignas(64) uint8_t fx[512];
	uint8_t ymm_hi[16][16];
};
#define FX_FCW   0
#define FX_FSW   2
#define FX_FTW   4 /* abridged: 1 bit a register, 1 = not empty */
#define FX_FOP   6
#define FX_FIP   8
#define FX_FDP   16
#define FX_MXCSR 24
#define FX_ST(n) (32 + 16 * (n))  /* by stack position; MMn by physical number when TOP is 0 */
#define FX_XMM(n) (160 + 16 * (n))

/* Why an instruction was abandoned or the run loop must act (cpu->stop.kind). */
enum stop_kind {
	STOP_NONE,
	STOP_EXCEPTION, /* vector, error: to be delivered through the IDT (or intercepted) */
	STOP_VMEXIT,    /* non-root operation: the VM exit prepared in cpu->vmx.exit */
	STOP_BUS,       /* a port or device access that the platform has to answer: cpu->bus */
	STOP_SHUTDOWN,  /* triple fault outside VMX non-root operation */
};

struct stop {
	enum stop_kind kind;
	uint8_t vector;
	bool has_error;
	uint32_t error;
	uint64_t payload; /* #PF: address for CR2; #DB: bits for DR6 */
	bool noncanonical; /* #GP for a non-canonical address: #SS if the reference is to the stack segment */
};

/*
 * A port or device-memory access on its way to the platform. The processor stops
 * with STOP_BUS before the access, read or write; the platform performs it, appends
 * it to done[] (for a read with its data), and the instruction is executed again:
 * it finds the access done and goes on. No event is taken in between.
 */
struct bus_access {
	bool pio;        /* port; otherwise memory */
	bool write;
	uint8_t size;    /* bytes: 1, 2, 4, 8 */
	uint64_t addr;   /* port number, or hpa (in the emulator role: gpa) */
	uint64_t data;
};
#define BUS_QUEUE_MAX 128 /* accesses of one instruction: XSAVE makes the most, by eight bytes */
struct bus {
	struct bus_access want;                /* STOP_BUS: what to perform */
	struct bus_access done[BUS_QUEUE_MAX]; /* performed for the instruction being executed */
	unsigned done_count;
	unsigned replay;                       /* how many of them this execution has consumed */
};

struct blocks;       /* cpu/block.h: the decoded-block cache */
struct recorder;     /* cpu/record.h: what is done as a trace */
struct replay;       /* cpu/replay.h: events instead of instructions */
struct host_stubs;   /* cpu/stub.h: host code for SSE, MMX, x87 */
struct translator;   /* cpu/xlate.h: host code for blocks */
struct xlink;
struct xcache_entry;
struct block;

#include "cpu/vmx_state.h"

/* Counters the processor keeps of itself. */
struct cpu_stats {
	uint64_t blocks_decoded, insns_decoded, blocks_invalidated;
	uint64_t blocks_translated, code_flushes; /* host code: blocks made, times the buffer was full */
	uint64_t interrupts, exceptions, page_faults; /* delivered through the IDT */
	uint64_t halts;
	uint64_t requests, requests_refused; /* of MSR_PV_REQUEST, that this processor answered */
};

struct cpu_config {
	bool feature[CPUF_COUNT];
	unsigned maxphyaddr;    /* 36..52 */
	bool mitigations;       /* report the processor as affected: software then mitigates */
	uint64_t seed;          /* RDRAND / RDSEED */
	uint32_t apic_id;
	bool fast_path;         /* default on */
	bool translate;         /* blocks are translated to host code; otherwise all is interpreted */
	unsigned translate_after; /* ... when they have run so often */
	uint64_t code_cache;    /* bytes of host code, at most */
	bool data_cache;        /* data accesses go through the modelled caches too */
	struct hw hw;           /* the translation hardware */
};

struct cpu {
	/* -- hot: touched by every instruction -- */
	uint64_t gpr[REG_SLOTS];   /* by slot; gpr[REG_RIP] is the start of the running block */
	uint16_t cc;               /* arithmetic flags as LAHF;SETO leave AX: see cpu/flags.h */
	uint16_t code_bits;        /* 16, 32 or 64: how code is decoded */
	uint8_t cpl;
	uint8_t mode;              /* enum access_mode of ordinary data accesses */
	bool long_mode;            /* EFER.LMA and CS.L: 64-bit mode */
	uint64_t rflags;           /* everything but the arithmetic flags (those are in cc) */
	uint64_t seg_base_eff[SEG_NONE + 1]; /* bases that apply in this mode; [SEG_NONE] is 0 */
	uint64_t insns;            /* instructions completed: retired guest instructions */
	/* In host code (cpu/xlate.h) the clock of the TLB model counts instructions too: XTICKS to one. */
	uint64_t xlimit;           /* value of mmu.clock up to which instructions may be begun */
	uint64_t xbase, xinsns;    /* value that stands for so many instructions completed */
	struct xlink *xlink;       /* the jump through which host code was left, or NULL */
	uint64_t xtarget;          /* scratch */
	uint64_t xaddend;          /* host minus linear address, for the accesses of a group */
	struct xcache_entry *xcache[MODE_USER_ALIGN];
	bool xvec;                 /* the host's vector registers hold the guest's, and MXCSR */
	bool xvec_off;             /* the block at RIP cannot run on them: interpret it */
	uint32_t xmxcsr;           /* the host's own MXCSR meanwhile */
	struct block *xexit_block; /* what left host code with another status than EXEC_NEXT */
	const struct uop *xexit_at;
	struct mmu mmu;
	struct arena arena; /* has this struct */

	/* -- why the run loop was entered -- */
	struct stop stop;
	struct bus bus;

	/* -- architectural state -- */
	struct seg seg[SEG_COUNT], ldtr, tr;
	struct dtable gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4, xcr0;
	uint64_t efer;
	uint32_t pkru;
	uint64_t dr[4], dr6, dr7;
	uint64_t pdpte[4];
	struct fpu fpu;
	struct {
		uint64_t star, lstar, cstar, fmask, kernel_gs_base;
		uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
		uint64_t pat, tsc_aux, misc_enable, xss, feature_control, spec_ctrl;
		uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
		uint64_t tsc_adjust, mcg_status;
	} msr;
	struct lapic lapic;

	/* -- time: TSC = insns + tsc_base (1 GHz: one instruction is one nanosecond) -- */
	uint64_t tsc_base;         /* idle time skipped, WRMSR TSC */
	uint64_t deadline;         /* insns value at which the run loop must look up */
	uint64_t until;            /* ... and at which cpu_run() returns */

	/* -- between instructions -- */
	bool shadow_sti, shadow_movss; /* interrupts blocked for one instruction */
	bool behind_movss;         /* the instruction that is being executed is the one that MOV SS blocked them for */
	uint64_t sti_lifted;       /* insns value at which the run loop took shadow_sti away early, or ~0 */
	bool nmi_blocked;
	bool nmi_pending, init_pending;
	bool halted;               /* HLT activity state */
	bool shutdown;
	uint64_t db_pending;       /* trap-class #DB bits (DR6 form) waiting for the instruction to end */
	atomic_int kick;           /* set by signal handlers and other threads: leave the run loop at the next block */
	bool extint;               /* the platform's interrupt controller (INTR line) is asking */
	bool extint_ack;           /* ...and has given its vector: cpu_give_extint() */
	uint8_t extint_vector;
	bool careful;              /* TF, breakpoints, ...: one instruction at a time */
	bool tf_after;             /* INT n, SYSCALL, SYSRET decide on their single-step trap themselves, by the TF they leave */
	unsigned rep_limit;        /* iterations a REP instruction may do at a time, 0 = no limit (emulator) */
	bool rep_counts;           /* the REP stretch that returned EXEC_REPEAT counts as an instruction */

	/* -- instruction fetch: the page executed from last; a hit in it changes no TLB state -- */
	uint64_t fetch_page;       /* linear page address, or FAST_INVALID */
	uint64_t fetch_hpa;

	/* -- the machine's debugging probe: cpu_set_stop() -- */
	struct {
		bool armed, stopped;
		uint64_t lin;
		uint64_t passed;   /* count of instructions at which it has stopped here before */
	} probe;

	struct vmx_state vmx;

	struct cpu_config cfg;
	struct blocks *blocks;
	struct host_stubs *stubs;
	struct translator *xlate;  /* NULL: interpret */
	struct recorder *recorder; /* NULL: nobody records */
	struct replay *replay;     /* NULL: instructions are executed */
	struct cpu_stats stats;
	uint64_t rng;

	/* -- direct translation and requests (cpu/dmt.h); the registers themselves are in mmu.dmt -- */
	struct {
		uint64_t load, request;  /* MSR_DMT_LOAD, MSR_PV_REQUEST */
		bool loaded, answered;   /* either was written; who wants to know clears it */
		struct pv_request last;  /* the last request, answered */
		struct pv_state state;
	} pv;

	/* -- emulator role: see cpu_emulate_one() -- */
	const struct cpu_emul_ops *emul_ops;
	void *emul_ctx;
	const struct vmx_limits *vmx_limits; /* NULL: none */
	const struct vmx_watch *vmx_watch;   /* NULL: nobody follows what software in root operation does */
};

/* ---- making and running (cpu/cpu.c, cpu/run.c) ---- */

/* Every feature on that is implemented, 46 address bits, no mitigations. */
void cpu_config_default(struct cpu_config *cfg);
/* Parses "-f,+f,...". -EINVAL with @err naming the word; cfg unchanged on error. */
int cpu_config_parse(struct cpu_config *cfg, const char *spec, struct error *err);

/* A processor in its state after RESET. -ENOMEM, -EINVAL. */
int cpu_create(struct cpu **out, struct machmem *mem, const struct cpu_config *cfg, struct error *err);
void cpu_destroy(struct cpu *cpu);
void cpu_reset(struct cpu *cpu);
/*
 * INIT (SDM "Processor State After Reset"): the bootstrap processor begins where it does after RESET, and keeps what is in
 * MSRs other than EFER, in the x87 and SSE registers, in CR0's CD and NW and of time. Outside VMX operation.
 */
void cpu_init(struct cpu *cpu);

enum cpu_run_status {
	CPU_RUN_DEADLINE,   /* @until instructions/ticks reached */
	CPU_RUN_BUS,        /* perform cpu->bus.want, cpu_bus_done(), and run again */
	CPU_RUN_HALTED,     /* HLT and nothing deliverable: cpu_wake_tsc() says how long */
	CPU_RUN_EXTINT,     /* give the vector of the external interrupt controller */
	CPU_RUN_VMEXIT,     /* VMX: the processor is in root operation again, which is the caller's: vmx_setup_root() */
	CPU_RUN_SHUTDOWN,   /* triple fault */
	CPU_RUN_EOI,        /* lapic_take_eoi(): a level-triggered interrupt was ended */
	CPU_RUN_KICKED,     /* cpu->kick was set (it is cleared) */
	CPU_RUN_STOP,       /* cpu_set_stop(): about to execute the instruction there; not in non-root operation */
};

/*
 * Runs until something needs the outside.
 * @until_tsc: stop no later than this TSC value (exactly there unless halted)
 */
enum cpu_run_status cpu_run(struct cpu *cpu, uint64_t until_tsc);
/* The same up to a count of instructions completed: software may set the TSC to anything meanwhile. */
enum cpu_run_status cpu_run_to(struct cpu *cpu, uint64_t until_insns);

/*
 * Within cpu_run(), after an instruction that returned EXEC_LEAVE: would the run loop find nothing to do at this boundary
 * but go on with blocks up to the same deadline? Then blocking by STI has been lifted as it would.
 */
bool cpu_boundary_quiet(struct cpu *cpu);

/* A debug trap belongs to the instruction before it: it is taken before anybody stops at the boundary. */
static inline bool cpu_debug_trap_due(const struct cpu *cpu) { return cpu->db_pending && !cpu->shadow_movss; }
/* TSC value at which a halted processor has something to do by itself; UINT64_MAX: never. */
uint64_t cpu_wake_tsc(const struct cpu *cpu);
static inline uint64_t cpu_tsc(const struct cpu *cpu) { return cpu->insns + cpu->tsc_base; }
/* Idle: moves time forward to @tsc (no effect if that is past). */
void cpu_skip_time(struct cpu *cpu, uint64_t tsc);
/* Answers CPU_RUN_BUS and EMUL_BUS: the access is performed; @data is what a read gave. */
void cpu_bus_done(struct cpu *cpu, uint64_t data);
/*
 * A debugging facility of the machine, like a probe on its debug port and as invisible to software: stops before
 * the instruction at linear address @lin (CS base + RIP) is executed or even fetched, after the events that are due
 * at that boundary. Outside VMX non-root operation cpu_run() returns CPU_RUN_STOP; inside, the probe asks for the
 * processor: an external-interrupt exit that no blocking holds up, of which cpu_take_stop() knows.
 * @passed: do not stop while the count of completed instructions is this one: it has been stopped there already
 * (UINT64_MAX: it has not). A REP instruction stops again after each stretch that counts.
 */
static inline void cpu_set_stop(struct cpu *cpu, bool armed, uint64_t lin, uint64_t passed)
{
	cpu->probe.armed = armed;
	cpu->probe.lin = lin;
	cpu->probe.passed = passed;
}
/* Did the last exit come from cpu_set_stop()? Asking forgets it. */
static inline bool cpu_take_stop(struct cpu *cpu)
{
	bool stopped = cpu->probe.stopped;

	cpu->probe.stopped = false;
	return stopped;
}

/* cpu->bus.want is to the processor's own local APIC: performs it and returns true. */
bool cpu_bus_internal(struct cpu *cpu);
/* Answers CPU_RUN_EXTINT. */
void cpu_give_extint(struct cpu *cpu, uint8_t vector);

static inline bool cpu_has(const struct cpu *cpu, enum cpu_feature f) { return cpu->cfg.feature[f]; }

/* RFLAGS as software sees it, and loading it. */
uint64_t cpu_get_rflags(const struct cpu *cpu);
void cpu_set_rflags(struct cpu *cpu, uint64_t rflags);

/*
 * Recomputes what is derived from CR0, CR3, CR4, EFER, CS, SS, CPL, RFLAGS.AC, PKRU, segment
 * bases, DR7: call after changing any of them. Ends no block by itself: the
 * caller's execute function must return EXEC_LEAVE.
 */
void cpu_update_mode(struct cpu *cpu);

/* ---- raising exceptions: all return EXEC_STOP (cpu/exception.c) ---- */
int raise_exc(struct cpu *cpu, uint8_t vector);                    /* no error code */
int raise_exc_err(struct cpu *cpu, uint8_t vector, uint32_t error);
int raise_pf(struct cpu *cpu, uint64_t addr, uint32_t error);
static inline int raise_ud(struct cpu *cpu) { return raise_exc(cpu, EXC_UD); }
static inline int raise_nm(struct cpu *cpu) { return raise_exc(cpu, EXC_NM); }
static inline int raise_gp0(struct cpu *cpu) { return raise_exc_err(cpu, EXC_GP, 0); }

/*
 * Delivers an event through the IDT (SDM "Exception and Interrupt Handling",
 * double and triple faults included). gpr[REG_RIP] is the RIP to save.
 * Returns EXEC_NEXT when the handler's first instruction is next, or EXEC_STOP
 * with cpu->stop telling why not (VM exit, shutdown, bus).
 */
struct event {
	uint8_t vector;
	uint8_t type;      /* enum event_type */
	bool has_error;
	uint32_t error;
	uint64_t payload;  /* CR2 / DR6 */
	uint8_t insn_len;  /* software interrupts: RIP is advanced by this before it is saved */
};
enum event_type { /* VMX interruption types */
	EVENT_EXTERNAL = 0, EVENT_NMI = 2, EVENT_HW_EXCEPTION = 3, EVENT_SOFT_INT = 4,
	EVENT_PRIV_SOFT_EXCEPTION = 5, EVENT_SOFT_EXCEPTION = 6,
};
int cpu_deliver_event(struct cpu *cpu, const struct event *ev);

/* ---- the emulator role ----
 *
 * A hypervisor's instruction emulator is a processor of its own whose memory is
 * whatever the hypervisor says: every access is translated by emul_ops, nothing
 * is cached, and the instruction is executed exactly as the machine would.
 */
struct cpu_emul_ops {
	/* As mmu_translate(); the returned page is machine memory, or a device page if is_ram is false. */
	enum xlate_event (*translate)(void *ctx, struct cpu *cpu, uint64_t lin, enum access_kind kind,
				      enum access_mode mode, struct xlate *out, bool *is_ram, uint64_t *gpa);
	/* Machine address of physical @pa, as this processor has it in root operation; false: no RAM there. */
	bool (*physical)(void *ctx, uint64_t pa, hpa_t *out);
	/* As mmu_translate_gpa(), for what the processor reads by guest-physical address; no RAM: a page that is none. */
	enum xlate_event (*translate_gpa)(void *ctx, uint64_t gpa, enum access_kind kind, struct xlate *out);
	/* Is all of [@gpa, @gpa + @bytes) RAM? */
	bool (*holds)(void *ctx, uint64_t gpa, uint64_t bytes);
	/* A write of @bytes at physical @pa to RAM is complete. */
	void (*wrote)(void *ctx, uint64_t pa, unsigned bytes);
	/* INVEPT and INVVPID succeeded, with operands as vmx_invept() and vmx_invvpid() have them. */
	void (*invept)(void *ctx, uint64_t type, uint64_t eptp);
	void (*invvpid)(void *ctx, uint64_t type, uint16_t vpid, uint64_t addr);
};

enum cpu_emul_result {
	EMUL_DONE,      /* the instruction is complete; gpr[REG_RIP] is the next one's */
	EMUL_PARTIAL,   /* REP: @max_iterations done, RIP stays */
	EMUL_EXCEPTION, /* cpu->stop describes it; state as the manual has it for the fault */
	EMUL_BUS,       /* perform cpu->bus.want, cpu_bus_done() and call again */
	EMUL_NESTED,    /* translate() reported an EPT event: only if the caller's tables can */
};

/*
 * Executes the one instruction at CS:gpr[REG_RIP] on a processor with emul_ops.
 * Device accesses have as address what translate() gave as gpa. Never counts time.
 * @counted: how many completed instructions the instruction (or REP stretch) counts as
 */
enum cpu_emul_result cpu_emulate_one(struct cpu *cpu, unsigned max_iterations, unsigned *counted);
/* Forgets answered bus reads: before the first cpu_emulate_one() of another instruction. */
void cpu_emul_begin(struct cpu *cpu);

#endif
