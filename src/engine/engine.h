/*
 * The seam between a VM and what executes it, in the terms of the KVM API:
 * a VM has memory slots and vCPUs; a vCPU runs until it exits with a reason;
 * the caller (vm/, dev/) emulates devices and runs it again. Local APICs live
 * behind the seam; PIC, IOAPIC and timers in front of it (KVM's "split irqchip").
 *
 * Differences from <linux/kvm.h>, each for a reason:
 *  - guest memory is machine memory, handed out frame by frame, so slots name
 *    sizes and contents are reached through engine_mem_read() / _write();
 *  - time is virtual: engine_run() takes the time of the caller's next event and
 *    stops exactly there, and an idle vCPU is moved forward by engine_advance();
 *  - failures carry a struct error.
 *
 * Two kinds stand behind it: the bare machine (native), and a hypervisor that
 * runs the guest in VMX non-root operation with one of its MMU backends.
 */
#ifndef GNOMON_ENGINE_ENGINE_H
#define GNOMON_ENGINE_ENGINE_H

#include "arch/addr.h"
#include "base/error.h"
#include "base/obs.h"
#include "base/util.h"
#include "cpu/cpu.h" /* struct cpu_config: the processor the user describes */
#include "trace/event.h"

enum engine_mmu {
	ENGINE_NATIVE,
	ENGINE_BRUTE,
	ENGINE_SHADOW,
	ENGINE_EPT,
	ENGINE_HUGEGPT,
	ENGINE_DMT,
	ENGINE_PVDMT,
	ENGINE_AGILE,
	ENGINE_NESTED,
	ENGINE_NESTED_PVDMT,
	ENGINE_NATIVE_DMT,
	ENGINE_MMU_COUNT
};
extern const char *const engine_mmu_name[ENGINE_MMU_COUNT];
/* The bare machine, where no hypervisor is. ENGINE_NATIVE_DMT: it translates by the guest's registers (docs/dmt.md). */
static inline bool engine_mmu_is_bare(enum engine_mmu mmu) { return mmu == ENGINE_NATIVE || mmu == ENGINE_NATIVE_DMT; }
/* Schemes under which the processor walks the guest's own tables, nested in an EPT. */
#define ENGINE_NESTS                                                                                               \
	(1u << ENGINE_EPT |                                                                                        \
	 1u << ENGINE_HUGEGPT |                                                                                    \
	 1u << ENGINE_DMT |                                                                                        \
	 1u << ENGINE_PVDMT |                                                                                      \
	 1u << ENGINE_AGILE |                                                                                      \
	 1u << ENGINE_NESTED |                                                                                     \
	 1u << ENGINE_NESTED_PVDMT)
static inline bool engine_mmu_nests(enum engine_mmu mmu) { return ENGINE_NESTS >> mmu & 1; }

enum host_pages { HOST_PAGES_4K, HOST_PAGES_2M, HOST_PAGES_1G };

struct engine_config {
	enum engine_mmu mmu;
	struct cpu_config cpu;
	uint64_t memory;            /* guest RAM in bytes, page multiple; laid out by engine_ram_layout() */
	bool rom;                   /* the last ENGINE_ROM_BYTES below 4 GiB are memory, too: firmware goes there */
	/* hypervisor options; ignored by native */
	enum host_pages host_pages; /* largest EPT (and p2m) mapping */
	bool shadow_sync_always;    /* no out-of-sync leaf tables */
	bool no_vpid;               /* transitions flush */
	uint64_t shadow_memory;     /* limit of shadow tables in bytes, 0 = default */
	bool audit;                 /* check the backend's tables after exits: slow */
	uint64_t audit_every;       /* ... after every one (0 or 1), or every so many */
	bool audit_registers;       /* compare translations by registers (mmu/dmt.h) with the tables: slow */
};

/* RAM of a PC with @memory bytes: below the device hole at 3 GiB, the rest from 4 GiB. Returns the number of ranges. */
#define ENGINE_HOLE_START (3 * SIZE_1G)
#define ENGINE_HOLE_END   (4 * SIZE_1G)
static inline unsigned engine_ram_layout(uint64_t memory, struct machmem_range range[2])
{
	range[0] = (struct machmem_range){0, min_u64(memory, ENGINE_HOLE_START)};
	range[1] = (struct machmem_range){ENGINE_HOLE_END, memory - range[0].bytes};
	return range[1].bytes ? 2 : 1;
}
/*
 * Where firmware is: the end of it is what a processor executes first after RESET. Memory like the rest, in the numbering
 * of pages also; that it can be overwritten is up to the guest.
 */
#define ENGINE_ROM_BYTES ((uint64_t)1 << 20)
#define ENGINE_ROM_BASE  (((uint64_t)4 << 30) - ENGINE_ROM_BYTES)
/* All memory of a guest. */
#define ENGINE_RANGES_MAX 3
unsigned engine_guest_layout(const struct engine_config *cfg, struct machmem_range range[ENGINE_RANGES_MAX]);

struct engine_vm; /* one VM with one vCPU */

/* A machine of its own for one VM. */
int engine_create(struct engine_vm **out, const struct engine_config *cfg, struct error *err);

/*
 * One machine for several VMs: one physical processor, whose TLBs and caches they share, and one memory, of
 * which each VM gets frames of its own. All VMs are created before the first one runs; engine_run() of
 * another VM than the last one switches the processor. Needs a hypervisor: -EINVAL for native.
 * @cfg: of all VMs that are to be created on it, to size its memory; the processor is that of cfg[0], and
 * configurations whose processor hardware differs are -EINVAL
 */
struct engine_machine;
#define ENGINE_VMS_MAX 64
int engine_machine_create(struct engine_machine **out, const struct engine_config *cfg, unsigned vms,
			  struct error *err);
/* After its VMs were destroyed. */
void engine_machine_destroy(struct engine_machine *machine);
int engine_create_on(struct engine_machine *machine, struct engine_vm **out, const struct engine_config *cfg,
		     struct error *err);
void engine_destroy(struct engine_vm *vm);

/*
 * Guest-physical memory. -EFAULT if any byte is no RAM (what lies before it may have been copied). Reading: -EIO if
 * there are contents that could not be had (engine_source), these or others: the guest does not run again.
 */
int engine_mem_read(struct engine_vm *vm, gpa_t a, void *buf, uint64_t bytes);
int engine_mem_write(struct engine_vm *vm, gpa_t a, const void *buf, uint64_t bytes);

/*
 * A device's way to guest memory, between two runs. Code decoded from what is written and tables made from it are
 * seen to; a range that is not RAM throughout is -EFAULT, and nothing of it was touched. -ENOMEM as above.
 */
bool engine_dma_is_ram(const struct engine_vm *vm, gpa_t a, uint64_t bytes);
int engine_dma_read(struct engine_vm *vm, gpa_t a, void *buf, uint64_t bytes);
int engine_dma_write(struct engine_vm *vm, gpa_t a, const void *buf, uint64_t bytes);
/* The whole pages in the range become zeros, and the host gets their memory back until they are used again. */
int engine_dma_release(struct engine_vm *vm, gpa_t a, uint64_t bytes);

/*
 * Guest RAM as a sequence of pages, numbered in the order of their addresses, the hole between two ranges left out.
 * Bitmaps of pages are words of 64: page n is bit n % 64 of word n / 64.
 */
uint64_t engine_pages(const struct engine_vm *vm);                    /* how many: those of both ranges */
gpa_t engine_page_gpa(const struct engine_vm *vm, uint64_t page);     /* @page: below engine_pages() */
uint64_t engine_page_of(const struct engine_vm *vm, gpa_t a);         /* UINT64_MAX: no RAM */

/*
 * Which pages does the guest write? A tracker is armed, tells from time to time, is disarmed; all between runs. The
 * guest cannot notice, but for what more flushes of TLBs show to a guest that omits its own.
 */
enum engine_dirty {
	ENGINE_DIRTY_WP,      /* pages are write-protected, and the first write to each exits */
	ENGINE_DIRTY_PRESENT, /* ... are not present, and the first access exits */
	ENGINE_DIRTY_AD,      /* accessed and dirty flags of the tables that the hardware walks are looked through */
	ENGINE_DIRTY_PML,     /* page-modification logging */
	ENGINE_DIRTY_COUNT,
};
extern const char *const engine_dirty_name[ENGINE_DIRTY_COUNT]; /* "wp", "present", "ad", "pml" */
/* Has the scheme such a tracker? The bare machine has none. */
bool engine_dirty_possible(enum engine_mmu mmu, enum engine_dirty how);
/* From here on writes are found out about. -EINVAL: not possible, or one is armed already; -ENOMEM. */
int engine_dirty_arm(struct engine_vm *vm, enum engine_dirty how, struct error *err);
/*
 * Adds to @bitmap the pages that were written since engine_dirty_arm() or the last call, by the processor, the
 * hypervisor, devices or the VM's owner, and goes on. -EINVAL: no tracker is armed.
 */
int engine_dirty_collect(struct engine_vm *vm, uint64_t *bitmap);
/*
 * Likewise the pages that the processor or the hypervisor accessed. -EINVAL also if the tracker does not know
 * (it must be "present" or "ad").
 */
int engine_accessed_collect(struct engine_vm *vm, uint64_t *bitmap);
/* Nothing if none is armed. */
void engine_dirty_disarm(struct engine_vm *vm);

/* Somebody who is told what was in the page-modification log, each time it is emptied and was not empty. */
#define ENGINE_LOG_ENTRIES   512u
#define ENGINE_LOG_COLLECTED UINT32_MAX
struct engine_log {
	uint32_t reason;   /* of the VM exit at which it was emptied; ENGINE_LOG_COLLECTED: by engine_dirty_collect() */
	uint64_t cr3;      /* the guest's, at that time */
	unsigned entries;
	gpa_t entry[ENGINE_LOG_ENTRIES]; /* in the order in which the processor wrote them */
};
struct engine_log_watch {
	void (*emptied)(void *ctx, const struct engine_log *log); /* may look at the VM, and changes nothing in it */
	void *ctx;
};
/*
 * Between two runs. Whether a log is kept is up to engine_dirty_arm(); to be watched costs the guest nothing and is not
 * in the counters. @watch lasts until another one, or NULL, is given. The bare machine keeps no log.
 */
void engine_dirty_watch(struct engine_vm *vm, const struct engine_log_watch *watch);

/*
 * Follows what a hypervisor in the guest does with VMX, on the bare machine: @watch is told from within engine_run(), and
 * may look at time and counters then. Between two runs; it lasts until another one, or NULL, is given. Costs the guest
 * nothing. -ENOTSUP with another scheme than native.
 */
struct vmx_watch;
int engine_watch_vmx(struct engine_vm *vm, const struct vmx_watch *watch);

/*
 * Memory that is not there yet: the contents of some pages are elsewhere, in a file or at another host, and are brought
 * when the page is first looked at, by whomever. Pages have the numbers of engine_page_gpa().
 */
struct engine_source {
	/*
	 * Fills @data with the contents of @page, waiting for them if need be; 0, or not 0 if they cannot be had: then the
	 * guest executes nothing further, and engine_run() ends with ENGINE_EXIT_FAIL. From any thread, several at once.
	 */
	int (*fetch)(void *ctx, uint64_t page, uint8_t data[PAGE_SIZE]);
	void *ctx;
};
/*
 * Before the first run, once.
 * @absent: a bit a page; all of them were never touched. What the guest has beyond them is zeros. Not kept.
 * -ENOMEM; -EEXIST: a page was touched; of userfaultfd(2), which the bare machine needs: -ENOSYS, -EPERM.
 */
int engine_set_source(struct engine_vm *vm, const struct engine_source *source, const uint64_t *absent,
		      struct error *err);
/*
 * A copy of a page of guest RAM, from any thread, also while the VM runs: then what is being written may be torn.
 * 1; 0: it was never touched, is zeros, and @data was left alone; -EIO: its contents cannot be had.
 */
int engine_page_read(struct engine_vm *vm, uint64_t page, uint8_t data[PAGE_SIZE]);

/*
 * The contents that some pages have now, to be read while the VM runs on: a page that is about to be overwritten is
 * copied before. The host's page tables see to that (userfaultfd), not the modelled machine's: a snapshot costs the guest
 * no exit. One at a time.
 */
struct engine_snapshot;
/*
 * Between two runs. @pages: which ones, a bit a page; not kept
 * @room: bytes of copies at most; when they are used up a guest that writes waits for the reader
 * -ENOTSUP: the bare machine, whose memory nobody stands in front of; -EBUSY: there is one; -ENOMEM; of userfaultfd(2):
 * -ENOSYS, -EPERM.
 */
int engine_snapshot_begin(struct engine_vm *vm, const uint64_t *pages, uint64_t room, struct engine_snapshot **out,
			  struct error *err);
/*
 * The next of them, in no particular order, from any one thread. 1 with @data; 2: it is zeros, and @data was left alone;
 * 0: that was all; -EIO: its contents could not be had (engine_source).
 */
int engine_snapshot_next(struct engine_snapshot *s, uint64_t *page, uint8_t data[PAGE_SIZE]);
/* Also before all were read; from any thread, when nobody reads. NULL is fine. */
void engine_snapshot_end(struct engine_snapshot *s);

/*
 * Somebody who is told of every access to one page of guest RAM, in their order: the processor's data accesses and the
 * devices' (not walks of page tables, fetches of code, or what a hypervisor's emulator does). Changes nothing in the
 * guest.
 */
struct engine_watch {
	gpa_t page;
	void (*seen)(void *ctx, bool device, uint64_t offset, unsigned bytes, bool write); /* @offset in the page */
	void *ctx;
};
/*
 * Between two runs; the VM was made with cpu.data_cache, which lets every access be seen. @watch lasts as long as the
 * VM; NULL ends it. Of the VMs on a machine one at a time can be watched. -EINVAL: without data_cache; -EFAULT: no
 * page of RAM; -ENOMEM. What was watched before stays on error.
 */
int engine_watch_page(struct engine_vm *vm, const struct engine_watch *watch);

struct engine_regs { /* struct kvm_regs */
	uint64_t gpr[16];
	uint64_t rip, rflags;
};
struct engine_sregs { /* struct kvm_sregs */
	struct seg seg[SEG_COUNT], tr, ldt;
	struct dtable gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base;
};
void engine_get_regs(struct engine_vm *vm, struct engine_regs *r);
void engine_set_regs(struct engine_vm *vm, const struct engine_regs *r);
void engine_get_sregs(struct engine_vm *vm, struct engine_sregs *s);
void engine_set_sregs(struct engine_vm *vm, const struct engine_sregs *s);
void engine_get_fpu(struct engine_vm *vm, struct fpu *fpu);

/*
 * Everything of the vCPU that its future depends on, whatever executes it, in the form in which it is saved. Segment
 * registers, MSRs and flags are as software sees them.
 */
struct engine_msr_state {
	uint64_t star, lstar, cstar, fmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, tsc_aux, misc_enable, spec_ctrl, debugctl, mcg_status, tsc_adjust;
	uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
};
/* VMX operation of the vCPU's own: all of struct vmx_state that its future depends on. */
struct engine_vmx {
	uint64_t feature_control;
	struct vmx_state state;
	struct mmu_pml pml;
};
struct engine_between { /* what there is between two instructions beside registers */
	uint64_t insns, now_ns;  /* completed so far; virtual time */
	uint64_t tsc;            /* what RDTSC gives now */
	uint64_t db_pending;     /* debug traps that have yet to be delivered, in the form of DR6 */
	bool shadow_sti, shadow_movss, nmi_blocked;
	bool nmi_pending, halted;
	bool extint_given;       /* the PIC's interrupt has been acknowledged and not been delivered: */
	uint8_t extint_vector;
};
/* Direct translation and requests (arch/dmt.h): the two MSRs, the registers, and what was asked for. */
struct engine_dmt {
	uint64_t load, request;
	uint32_t register_words, gtea_words, huge_words; /* used of: */
	uint64_t registers[4 * DMT_REGISTERS]; /* start, end, tea, info */
	uint64_t gteas[2 * PV_TEAS_MAX];       /* gpa, pages; by identifier - 1; no pages: that one is free */
	uint64_t huge[2 * PV_HUGE_MAX];        /* gpa, pages */
};
struct engine_vcpu {
	uint64_t gpr[16], rip, rflags;
	struct seg seg[SEG_COUNT], ldtr, tr;
	struct dtable gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4, xcr0, efer;
	uint32_t pkru;
	uint64_t dr[4], dr6, dr7;
	uint64_t pdpte[4];       /* with PAE paging, otherwise 0 */
	uint8_t fx[FX_XMM(16)];  /* of the FXSAVE image what the processor uses */
	uint8_t ymm_hi[16][16];
	struct engine_msr_state msr;
	struct engine_dmt dmt;
	struct engine_vmx vmx;   /* zeros without the feature */
	uint64_t rng;            /* of RDRAND and RDSEED */
	struct engine_between between;
	struct lapic lapic;      /* has its own table, lapic_desc */
};
extern const struct state_desc engine_vcpu_desc; /* of struct engine_vcpu without lapic */
/* Is the vCPU between two instructions, with no access of it half done and no event half delivered? */
bool engine_at_rest(struct engine_vm *vm);
/* The vCPU's state; engine_at_rest(). Changes nothing in the guest. */
void engine_get_vcpu(struct engine_vm *vm, struct engine_vcpu *v);
/*
 * Gives a VM that has not run a vCPU's state: it goes on from there, with that many instructions completed at that
 * time. @v may come from anywhere; its lapic has been loaded by lapic_desc. -EINVAL with what is impossible in @err:
 * the VM is then of no use but to be destroyed.
 */
int engine_set_vcpu(struct engine_vm *vm, const struct engine_vcpu *v, struct error *err);

enum engine_exit {
	ENGINE_EXIT_IO,          /* port access: io; a read is answered in io.data before the next run */
	ENGINE_EXIT_MMIO,        /* likewise for device memory */
	ENGINE_EXIT_HLT,         /* halted; hlt.wake_ns: the local APIC timer, UINT64_MAX if none */
	ENGINE_EXIT_IRQ_WINDOW,  /* an external (PIC) interrupt can be taken: engine_interrupt() */
	ENGINE_EXIT_IOAPIC_EOI,  /* eoi.vector */
	ENGINE_EXIT_DEADLINE,    /* deadline_ns reached */
	ENGINE_EXIT_LIMIT,       /* insn_limit reached */
	ENGINE_EXIT_STOP,        /* about to execute the instruction at stop_address */
	ENGINE_EXIT_INTR,        /* engine_kick() */
	ENGINE_EXIT_SHUTDOWN,    /* triple fault */
	ENGINE_EXIT_FAIL,        /* VM entry failed or the hypervisor gave up: fail.text */
};

struct engine_run {
	/* in */
	uint64_t deadline_ns;    /* stop at this virtual time */
	uint64_t insn_limit;     /* stop at this count of instructions, UINT64_MAX for none */
	bool request_irq_window; /* the PIC's output is high */
	bool stop_at_address;    /* stop before the instruction at linear address stop_address; slow */
	uint64_t stop_address;
	/* out */
	enum engine_exit exit;
	union {
		struct { bool write; uint8_t size; uint64_t addr; uint64_t data; } io; /* IO and MMIO */
		struct { uint64_t wake_ns; } hlt;
		struct { uint8_t vector; } eoi;
		struct { char text[256]; } fail;
	};
};

/* Runs until an exit. */
void engine_run(struct engine_vm *vm, struct engine_run *run);
/* Makes engine_run() return soon. For signal handlers and other threads, too. */
void engine_kick(struct engine_vm *vm);

uint64_t engine_now(const struct engine_vm *vm);             /* virtual time in ns (= TSC ticks) */
void engine_advance(struct engine_vm *vm, uint64_t to_ns);   /* idle: moves virtual time forward */
uint64_t engine_insns(const struct engine_vm *vm);           /* guest instructions completed */

void engine_signal_msi(struct engine_vm *vm, uint64_t address, uint32_t data);
bool engine_accepts_extint(const struct engine_vm *vm);      /* LINT0 is programmed for the PIC */
void engine_interrupt(struct engine_vm *vm, uint8_t vector); /* after ENGINE_EXIT_IRQ_WINDOW */
void engine_nmi(struct engine_vm *vm);

/* Everything counted so far. */
void engine_observe(const struct engine_vm *vm, struct obs *obs);

/*
 * Hashes of the guest's registers and memory, 128 bits each. The second leaves
 * out bit 5 of every aligned quadword of memory, where page tables have their
 * accessed flag: the one thing a guest that does not flush may see differ.
 */
struct engine_hash { uint64_t all[2], no_accessed[2], memory[2]; };
void engine_state_hash(struct engine_vm *vm, struct engine_hash *h);

/* A few lines on the state of the vCPU (and, under a hypervisor, of the last exit), for messages. */
void engine_describe(struct engine_vm *vm, char *buf, size_t bytes);

/*
 * The hardware's translation of the guest's linear address @a under the scheme as it stands now, for one
 * access with the rights of @mode, recorded in @log (mmu_translate_logged()). Between runs only.
 * Returns the hardware's event: under a hypervisor a fault may be one that it would resolve.
 */
enum xlate_event engine_walk(struct engine_vm *vm, gva_t a, enum access_kind kind, enum access_mode mode,
			     struct xlate *out, struct walk_log *log);

/*
 * From now on @walks is told of each walk of the processor for an access, whichever guest's, that found a translation; NULL:
 * nobody. It outlives that. Counts stay what they are; speed does not.
 */
void engine_watch_walks(struct engine_vm *vm, struct mmu_walks *walks);

/* Forgets what the processor has cached of translations (of all guests), not what its memory caches hold. */
void engine_drop_translations(struct engine_vm *vm);

/*
 * An interval begins whose counts are to be compared: all translations are forgotten, and what the scheme's backend knows of
 * the guest's tables; all of guest memory gets machine memory, so that nothing depends on what was touched before. Between
 * two runs; the guest cannot notice. -EBUSY: a tracker is armed; -ENOMEM: the VM is of no use any more.
 */
int engine_begin_interval(struct engine_vm *vm, struct error *err);

/* ---- traces (trace/event.h; docs/replay.md) ---- */

/*
 * From here on, what the guest does goes to @sink as a machine trace, beginning with its registers. Between two runs.
 * Nothing changes in the guest. -ENOTSUP: the VM is not on the bare machine; -EBUSY: somebody records already; -ENOMEM; errors
 * of the sink.
 */
int engine_record(struct engine_vm *vm, const struct trace_sink *sink, struct error *err);
/* Has the sink failed since? Then nothing is recorded any more, and engine_record_end() has its error. */
bool engine_record_failed(const struct engine_vm *vm);
/* Ends that. The first error that the sink had. Nothing if nobody records. */
int engine_record_end(struct engine_vm *vm, struct error *err);

/*
 * The VM, which has not run, is going to be a guest that is a trace: its processor takes events instead of instructions, its
 * memory is what the trace says, and all else is as if it ran.
 * @populate: all of guest memory has machine memory from the beginning, as with engine_begin_interval()
 * -ENOMEM. After that the VM may only be given events, observed and destroyed.
 */
int engine_replay_begin(struct engine_vm *vm, bool populate, struct error *err);
/*
 * The next events. They are as trace_event_check() wants them; what cannot be is refused by the processor as it would be.
 * -EIO: the hypervisor gave up, with why in @err; -EINVAL: the trace writes memory that the guest does not have; -ENOMEM.
 * After an error no more are taken.
 */
int engine_replay(struct engine_vm *vm, const struct trace_event *ev, unsigned n, struct error *err);
/* Takes what was held back of an instruction that might have gone on. Same errors. */
int engine_replay_finish(struct engine_vm *vm, struct error *err);
/* What was taken so far. */
struct engine_replayed {
	uint64_t accesses;   /* reads, writes and fetches, repetitions after exits included */
	uint64_t insns;      /* that the trace accounts for */
	uint64_t faults;     /* exceptions that accesses raised in the guest */
	uint64_t unexpected; /* accesses that faulted and had not when they were recorded, or the other way round */
};
struct engine_replayed engine_replayed(const struct engine_vm *vm);

/* The guest's own view of a linear address, for one access: its tables as memory has them, read without effects. */
struct engine_view {
	unsigned levels;     /* of its paging mode: 2 (32-bit), 3 (PAE), 4, 5; 0: no paging */
	unsigned entries;    /* that were read, from the root: */
	struct { uint8_t level, bytes; uint64_t at, value; } entry[5]; /* at: guest-physical */
	bool reserved;       /* the last of them has reserved bits set */
	bool mapped;         /* they lead to a page, and what follows is valid */
	gpa_t gpa;           /* of the address */
	uint8_t shift;       /* of the page: log2 of bytes */
	uint16_t rights;     /* TLB_W, TLB_U, TLB_NX */
	uint8_t pkey;
	bool permits;        /* the access is allowed */
};
void engine_view(struct engine_vm *vm, gva_t a, enum access_kind kind, enum access_mode mode, struct engine_view *v);
/* Is there guest RAM at a guest-physical address? */
bool engine_is_ram(const struct engine_vm *vm, gpa_t a);

/* Whose a frame of the machine is: nobody's means that there is no RAM. */
enum engine_owner { ENGINE_NOBODYS, ENGINE_HYPERVISORS, ENGINE_THIS_VMS, ENGINE_ANOTHER_VMS };
enum engine_owner engine_owner(const struct engine_vm *vm, hpa_t a);

/* The guest's own translation of a linear address, without side effects: true if mapped to RAM or a device. */
bool engine_translate(struct engine_vm *vm, gva_t a, gpa_t *out);

#endif
