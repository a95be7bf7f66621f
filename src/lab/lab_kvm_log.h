/*
 * What Debian's KVM, on the bare machine, does with page-modification logging while it moves a guest, and what its monitor
 * (guest/kvm) says of it on the console: for the lab "kvm".
 */
#ifndef GNOMON_LAB_LAB_KVM_LOG_H
#define GNOMON_LAB_LAB_KVM_LOG_H

#include "cpu/cpu.h"
#include "lab/lab_vm.h"

struct lab_kvm_log {
	struct vm *vm;
	struct vmx_watch watch;
	/* What the monitor said */
	char line[256];
	size_t used;
	bool moving, moved;
	unsigned rounds;
	uint64_t round[LAB_ROUNDS_MAX + 1]; /* pages to send in each; the last: at last */
	uint64_t sent, dirty, differ;       /* pages: sent, found written, not equal in the end */
	uint64_t total_us, down_us;
	/* What KVM did meanwhile */
	uint64_t drained, drained_full;     /* times that it emptied the log; of them when it was full */
	uint64_t entries;                   /* that were in it */
	uint32_t reason;                    /* of the last VM exit */
	uint64_t logged;                    /* entries made so far */
	/* What is told of it */
	struct {
		unsigned exits;             /* at which the log was emptied, one after the other for the same reason */
		uint32_t reason;
		uint64_t entries, insns, ns;
	} part;
	uint64_t begun_ns;
	unsigned limit;                     /* lines at most; 0: nothing is told */
	unsigned beyond;                    /* parts that had none */
	json_t *events;
};

/* Follows @vm, which has not run; @l stays where it is while @vm runs. -ENOMEM, -ENOTSUP. */
int lab_kvm_log_begin(struct lab_kvm_log *l, struct vm *vm, unsigned limit, struct error *err);
/* After @vm is gone, too. */
void lab_kvm_log_fini(struct lab_kvm_log *l);

#endif
