/*
 * Accesses to the host's memory that a thread is to know of before they happen: userfaultfd(2). The access, by whichever
 * thread, waits until it has been seen to.
 */
#ifndef GNOMON_ENGINE_HOST_FAULTS_H
#define GNOMON_ENGINE_HOST_FAULTS_H

#include "base/error.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct host_faults {
	int fd, quit; /* userfaultfd, eventfd; -1: none */
	pthread_t thread;
	bool running;
	void (*serve)(void *ctx, uint64_t address); /* the access to host address @address waits; wakes it */
	void *ctx;
};

/*
 * Nothing is watched yet.
 * @features: UFFD_FEATURE_*; @what: the host cannot do without it, for the message
 * -errno, as -ENOSYS or -EPERM: the host does not let us. host_faults_close() is allowed then, too.
 */
int host_faults_open(struct host_faults *f, uint64_t features, const char *what, struct error *err);
/* @mode: UFFDIO_REGISTER_MODE_*, of @bytes from @first on. -errno. */
int host_faults_watch(const struct host_faults *f, const void *first, uint64_t bytes, uint64_t mode, struct error *err);
/* From here on a thread serves them. -errno. */
int host_faults_start(struct host_faults *f, void (*serve)(void *ctx, uint64_t address), void *ctx, struct error *err);
/* The thread ends, nothing is watched or protected any more, and who waits goes on. */
void host_faults_close(struct host_faults *f);

#endif
