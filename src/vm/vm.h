/*
 * A virtual machine as its owner sees it: what to boot and how, one run to its
 * end, and what came out. Everything below is reached through engine/engine.h;
 * devices are those of vm/platform.h.
 */
#ifndef GNOMON_VM_VM_H
#define GNOMON_VM_VM_H

#include "engine/engine.h"
#include "vm/devices.h"

enum vm_clock {
	VM_CLOCK_ICOUNT, /* time is instructions executed, and idle time is skipped */
	VM_CLOCK_WALL,   /* ... but never falls behind the host's time */
};

/* The other end of the guest's serial line. Functions are called by vm_run() only. */
struct vm_console {
	void *ctx;
	void (*output)(void *ctx, const uint8_t *data, size_t bytes);
	/*
	 * Input, NULL if there is none. Waits at most @wait_ns (negative: for ever, 0: not at all) for the
	 * first byte and returns how many of at most @max were read; -1: no more will ever come.
	 */
	int (*input)(void *ctx, uint8_t *data, unsigned max, int64_t wait_ns);
	int fd;    /* what input waits on, -1 if there is nothing; only to wait for it together with others */
	bool live; /* somebody sits there: while the guest is idle, time passes as on the host */
};

struct vm_config {
	struct engine_config engine;
	const char *kernel;     /* path; with an image in memory just what it is called */
	const void *kernel_image; /* NULL: read the file; else kernel_bytes of it, needed while vm_create() runs */
	uint64_t kernel_bytes;
	/*
	 * Instead of a kernel: the image of a PC's firmware, which the processor executes from RESET on; a path. The engine's
	 * rom is set then. The log is a file, NULL if none is wanted.
	 */
	const char *firmware, *firmware_log;
	const char *initrd;     /* path; multiboot: "file args,file args,..."; NULL if none */
	const char *append;     /* kernel command line, "" if none */
	const char *directory;  /* of kernel and initrd, if their paths are relative, with a slash; NULL: the current one */
	struct devices_config devices; /* files relative to @directory, too */
	enum vm_clock clock;
	uint64_t limit_insns;   /* UINT64_MAX: none */
};
void vm_config_default(struct vm_config *cfg);

enum vm_end { /* why a run ended; order of vm_end_name[] */
	VM_END_NONE, /* it has not */
	VM_END_POWER_OFF,
	VM_END_RESET,
	VM_END_DEBUG_EXIT,
	VM_END_TRIPLE_FAULT,
	VM_END_HALTED,
	VM_END_LIMIT,
	VM_END_INTERRUPTED,
	VM_END_FAILED,
	VM_END_SUSPENDED, /* its state is in a file: vm/saved.h */
	VM_END_MIGRATED,  /* it runs elsewhere */
	VM_END_COUNT,
};
extern const char *const vm_end_name[VM_END_COUNT];

struct vm_result {
	enum vm_end end;
	uint8_t debug_exit;     /* VM_END_DEBUG_EXIT: (value written << 1 | 1) & 0xff, as QEMU exits */
	char message[2048];     /* for people: why, with registers; "" after an ordinary end */
	uint64_t insns;         /* guest instructions completed */
	uint64_t resumed_at;    /* of them those before its state was loaded; nothing is counted of their costs */
	uint64_t virtual_ns;
	struct engine_hash hash;
	struct obs obs;
	double wall_seconds;    /* of the host, while it ran */
};

struct vm;

/*
 * Makes a VM and loads its kernel.
 * Errors: those of reading files, of load_kernel(), of engine_create(); -EINVAL for an unusable amount of memory.
 */
int vm_create(struct vm **out, const struct vm_config *cfg, struct error *err);
/* The same on a machine that it shares with other VMs: cfg->engine is one of those the machine was made for. */
int vm_create_on(struct vm **out, const struct vm_config *cfg, struct engine_machine *machine, struct error *err);
void vm_destroy(struct vm *vm);
/*
 * Flushes and closes what its devices use, after its last run: so that failures are known before vm_destroy(), which
 * does it too. Returns the first one with @err.
 */
int vm_close_devices(struct vm *vm, struct error *err);
/* See devices_freeze_disks(). On the thread that runs it, between two calls of vm_run_until() or from a ticker. */
int vm_freeze_disks(struct vm *vm, const char *id, struct devices_frozen *out, struct error *err);
/*
 * Closes the images of its disks so that another process can open them, and opens them (again). Between two runs or from a
 * ticker; in between it may not run. Errors: see vm/devices.h.
 */
int vm_close_disks(struct vm *vm, struct error *err);
int vm_open_disks(struct vm *vm, struct error *err);
/* A line on what its devices did, for the end of a run, before they are closed; "" if there is nothing to say. */
void vm_describe_devices(const struct vm *vm, char *buf, size_t bytes);
/*
 * See devices_start_mirror() and those after it. On the thread that runs it, between two calls of vm_run_until() or from a
 * ticker. After vm_pivot() the configuration has the path of @to, which should be absolute.
 */
uint64_t vm_disk_bytes(const struct vm *vm, unsigned i);
int vm_start_mirror(struct vm *vm, unsigned i, struct disk_mirror *m, struct error *err);
int vm_complete_mirror(struct vm *vm, unsigned i, struct disk_mirror *m, struct error *err);
int vm_pivot(struct vm *vm, unsigned i, struct disk_mirror *m, struct disk *to, struct error *err);
void vm_stop_mirror(struct vm *vm, unsigned i, struct disk_mirror *m);
/* As devices_disk(). */
const char *vm_disk(const struct vm *vm, unsigned i, bool *read_only);
/* Lines that devices have for the user go to @say, from within vm_run_until(). Without one they are dropped. */
void vm_set_messages(struct vm *vm, void (*say)(void *ctx, const char *line), void *ctx);
/* Connects its serial line; without one output is dropped and there is no input. */
void vm_set_console(struct vm *vm, struct vm_console console);
/* Runs it to its end. */
void vm_run(struct vm *vm, struct vm_result *result);

/* Where vm_run_until() stops short of the guest's end; VM_STOP_NONE for nowhere. */
struct vm_stop {
	uint64_t insns;        /* when so many guest instructions are complete in all; UINT64_MAX: no matter */
	const char *console;   /* after a byte of output that completes this text; NULL: no matter */
	bool at_address;       /* ... before the instruction at linear address @address is executed */
	uint64_t address;
	bool on_halt;          /* when the guest halts: its idle time then passes at the next call */
};
#define VM_STOP_NONE ((struct vm_stop){.insns = UINT64_MAX})
enum vm_stopped {
	VM_STOPPED_END, VM_STOPPED_INSNS, VM_STOPPED_CONSOLE, VM_STOPPED_ADDRESS, VM_STOPPED_HALT,
	VM_STOPPED_PAUSED, /* only one that shares its machine: see vm_pause() */
};
/*
 * Runs it until one of the conditions holds or it ends, at a boundary between instructions. May be called
 * again until it has returned VM_STOPPED_END; how a run is cut into pieces changes nothing in the guest.
 */
enum vm_stopped vm_run_until(struct vm *vm, const struct vm_stop *stop);
/* What came out so far, or in all once it ended. */
void vm_result(struct vm *vm, struct vm_result *result);
/* The same without the hash, which takes a while: for looking at a VM while it runs. */
void vm_progress(struct vm *vm, struct vm_result *result);
/* Everything counted so far. */
void vm_observe(const struct vm *vm, struct obs *obs);
/* The engine underneath, for looking at the guest between runs. */
struct engine_vm *vm_engine(struct vm *vm);
/* Asks a running vm_run() to end with VM_END_INTERRUPTED. Async-signal-safe; from any thread. */
void vm_interrupt(struct vm *vm);

/*
 * Looking at a VM while it runs. @tick is called from within vm_run_until(), on its thread, some time after every
 * vm_tick(): at a boundary between two engine_run(), at once if the VM waits or is paused. It may observe the VM and call
 * vm_pause(), vm_continue(), vm_press_power_button(), and by itself changes nothing in the guest. No other ticker is called
 * meanwhile.
 */
struct vm_ticker {
	void (*tick)(void *ctx);
	void (*ended)(void *ctx); /* the VM has ended: called once, before vm_run_until() says so; may be NULL */
	void *ctx;
	int due;                /* vm.c's */
	struct vm_ticker *next; /* likewise */
};
/* @t is the caller's, and stays until vm_remove_ticker(). Both: while the VM does not run, or from a tick. */
void vm_add_ticker(struct vm *vm, struct vm_ticker *t);
void vm_remove_ticker(struct vm *vm, struct vm_ticker *t);
/* Async-signal-safe; from any thread. */
void vm_tick(struct vm *vm, struct vm_ticker *t);

/*
 * Holds the VM where it is, and lets it go on; on the VM's thread only. While it is paused vm_run_until() does not
 * return, unless the VM shares its machine, but serves tickers and heeds vm_interrupt(). No virtual time passes; with
 * VM_CLOCK_WALL the time spent so is not made up for. What the guest does is not changed by it.
 */
void vm_pause(struct vm *vm);
void vm_continue(struct vm *vm);
bool vm_is_paused(const struct vm *vm);
/* The user presses the power button; on the VM's thread only. */
void vm_press_power_button(struct vm *vm);
/*
 * The VM goes on elsewhere: here it has ended, with VM_END_SUSPENDED or VM_END_MIGRATED. Between two runs, or from a tick;
 * nothing happens if it has ended.
 */
void vm_leave(struct vm *vm, enum vm_end how);
/* VM_END_NONE if it has not ended. */
enum vm_end vm_why_ended(const struct vm *vm);
/* For people: why, with registers; "" before it has ended and after an ordinary end. */
const char *vm_end_message(const struct vm *vm);
const struct vm_config *vm_get_config(const struct vm *vm);
/* Instructions completed so far. Async-signal-safe; may lag. */
uint64_t vm_insns(const struct vm *vm);

#endif
