/*
 * A wire between two sockets that breaks where a test says: after so many bytes in one direction it is cut, stops for
 * ever, turns a bit over, or lets one end believe that all is well.
 */
#ifndef GNOMON_TEST_FAULT_PROXY_H
#define GNOMON_TEST_FAULT_PROXY_H

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum fault_kind { FAULT_NONE, FAULT_CUT, FAULT_STALL, FAULT_CORRUPT, FAULT_HALF, FAULT_KINDS };

struct fault {
	enum fault_kind kind;
	unsigned from;   /* the bytes of which end are counted: 0 the left one's, 1 the right one's */
	uint64_t at;     /* ... after so many of them */
	_Atomic bool happened;
	uint64_t passed[2]; /* bytes of each end, in the end */
};

struct wire {
	int fd[2]; /* left, right */
	struct fault *fault;
	uint64_t passed[2];
	bool dead;   /* nothing passes any more */
	bool silent; /* FAULT_HALF: what comes from fault->from is swallowed */
};

/* What becomes of @n bytes from @from: how many may pass. */
static inline size_t wire_judge(struct wire *w, unsigned from, uint8_t *buf, size_t n)
{
	struct fault *f = w->fault;

	if (w->silent && f->from == from)
		return 0;
	if (f->kind == FAULT_NONE || f->happened || f->from != from || w->passed[from] + n <= f->at)
		return n;
	f->happened = true;
	switch (f->kind) {
	case FAULT_CORRUPT:
		buf[f->at - w->passed[from]] ^= 0x10;
		return n;
	case FAULT_HALF:
		w->silent = true;
		return (size_t)(f->at - w->passed[from]);
	case FAULT_CUT:
	case FAULT_STALL:
	case FAULT_NONE:
	case FAULT_KINDS:
		break;
	}
	w->dead = true;
	return (size_t)(f->at - w->passed[from]);
}

static inline bool wire_write(int fd, const uint8_t *buf, size_t n)
{
	while (n) {
		ssize_t done = send(fd, buf, n, MSG_NOSIGNAL);

		if (done < 0 && (errno == EAGAIN || errno == EINTR)) {
			struct pollfd p = {.fd = fd, .events = POLLOUT};

			poll(&p, 1, 1000);
			continue;
		}
		if (done <= 0)
			return false;
		buf += done;
		n -= (size_t)done;
	}
	return true;
}

/* Passes on what there is from one end. False when that is over. */
static inline bool wire_pass(struct wire *w, unsigned from)
{
	uint8_t buf[1 << 16];
	ssize_t n = recv(w->fd[from], buf, sizeof(buf), MSG_DONTWAIT);
	size_t may;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (n == 0)
		return false;
	may = wire_judge(w, from, buf, (size_t)n);
	w->passed[from] += may;
	return wire_write(w->fd[!from], buf, may);
}

static inline void *wire_run(void *ctx)
{
	struct wire *w = ctx;
	struct pollfd p[2] = {{.fd = w->fd[0], .events = POLLIN}, {.fd = w->fd[1], .events = POLLIN}};
	bool open = true;

	while (open && !w->dead) {
		if (poll(p, 2, -1) < 0)
			continue;
		for (unsigned i = 0; i < 2 && open && !w->dead; i++)
			if (p[i].revents)
				open = wire_pass(w, i);
	}
	/* Stalled: what comes is taken for ever, until somebody has enough. */
	while (w->dead && w->fault->kind == FAULT_STALL && poll(p, 2, -1) >= 0) {
		uint8_t buf[4096];

		if ((p[0].revents && recv(w->fd[0], buf, sizeof(buf), MSG_DONTWAIT) == 0) ||
		    (p[1].revents && recv(w->fd[1], buf, sizeof(buf), MSG_DONTWAIT) == 0))
			break;
	}
	close(w->fd[0]);
	close(w->fd[1]);
	w->fault->passed[0] = w->passed[0];
	w->fault->passed[1] = w->passed[1];
	free(w);
	return NULL;
}

/* Lets a thread carry what passes between the two, which become its own. @fault lasts as long as the thread. */
static inline void wire_start(int left, int right, struct fault *fault, pthread_t *thread)
{
	struct wire *w = calloc(1, sizeof(*w));

	if (!w)
		abort();
	w->fd[0] = left;
	w->fd[1] = right;
	w->fault = fault;
	if (pthread_create(thread, NULL, wire_run, w))
		abort();
}

#endif
