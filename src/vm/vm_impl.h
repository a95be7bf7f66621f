/* A VM from inside: for the files that make it, run it, save and load it. Nothing outside vm/ includes this. */
#ifndef GNOMON_VM_VM_IMPL_H
#define GNOMON_VM_VM_IMPL_H

#include "vm/platform.h"
#include "vm/vm.h"

#include <stdio.h>

#define INPUT_BYTES 64

struct vm {
	struct vm_config cfg;
	struct vm_console console;
	struct engine_machine *machine; /* NULL: one of its own */
	struct engine_vm *engine;
	struct platform platform;
	struct devices *devices;    /* NULL: none were asked for */
	char *disk_text[DEVICES_DISKS_MAX]; /* what cfg.devices.disk[] says of disks that were replaced; else NULL */
	FILE *firmware_log;         /* NULL: none is wanted */
	void (*say)(void *ctx, const char *line);
	void *say_ctx;
	struct engine_run run;
	enum vm_end end;
	uint64_t resumed_at;        /* instructions completed when its state was loaded */
	char message[sizeof(((struct vm_result *)0)->message)];
	int interrupted;            /* set by vm_interrupt(), perhaps in a signal handler or by another thread */
	int ticked;                 /* likewise by vm_tick() */
	int wake_fd;                /* eventfd: ends a wait, for either reason */
	struct vm_ticker *tickers;
	bool ticking;               /* one of them is at work */
	bool end_told;              /* they know that it has ended */
	bool paused;
	bool power_button;          /* to be pressed at the next boundary at which interrupts are carried */
	bool input_open;
	uint8_t input[INPUT_BYTES]; /* read, but the serial port had no room yet */
	unsigned input_count;
	uint64_t look_at;           /* virtual time of the next look at input and the host's clock */
	int64_t ran_ns;             /* host time of earlier calls of vm_run_until() */
	int64_t entered_ns;         /* host clock when the present one began; 0: none is running */
	/* Where it stops short of its end */
	struct vm_stop stop;
	bool cut;                   /* engine_run() ended for a stop: the next one goes on as if it had not */
	bool halt_pending;          /* stopped halted: idle time has yet to pass */
	size_t console_matched;     /* bytes of stop.console that were last put out */
	uint64_t console_insns;     /* count at which the instruction that completed it is over; UINT64_MAX: not found */
	unsigned idle_wakes;
	uint64_t idle_insns;        /* instruction count at the last of them */
	uint64_t quiesce_insns;     /* vm_quiesce() wants to look at this count of instructions; UINT64_MAX: it does not */
	/* State being loaded (vm_state.c): a vCPU to be, and a bit for each section that has come; NULL: none is */
	struct engine_vcpu *vcpu;
	uint64_t loaded;
};

/* How long the VM has been running on the host, in ns. */
int64_t vm_ran_ns(const struct vm *vm);

#endif
