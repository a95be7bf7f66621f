#include "engine/host_faults.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int host_faults_open(struct host_faults *f, uint64_t features, const char *what, struct error *err)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};

	*f = (struct host_faults){.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY),
				  .quit = -1};
	if (f->fd >= 0)
		f->quit = eventfd(0, EFD_CLOEXEC);
	if (f->fd < 0 || f->quit < 0 || ioctl(f->fd, UFFDIO_API, &api))
		return error_set(err, -errno, "the host cannot %s (userfaultfd): %s", what, strerror(errno));
	return 0;
}

int host_faults_watch(const struct host_faults *f, const void *first, uint64_t bytes, uint64_t mode, struct error *err)
{
	struct uffdio_register r = {.range = {(uintptr_t)first, bytes}, .mode = mode};

	if (ioctl(f->fd, UFFDIO_REGISTER, &r))
		return error_set(err, -errno, "userfaultfd: cannot watch guest memory: %s", strerror(errno));
	return 0;
}

static void *serve_faults(void *arg)
{
	const struct host_faults *f = arg;
	struct pollfd p[2] = {{.fd = f->fd, .events = POLLIN}, {.fd = f->quit, .events = POLLIN}};

	for (;;) {
		struct uffd_msg m;

		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (p[1].revents)
			return NULL;
		if (read(f->fd, &m, sizeof(m)) == sizeof(m) && m.event == UFFD_EVENT_PAGEFAULT)
			f->serve(f->ctx, m.arg.pagefault.address);
	}
}

int host_faults_start(struct host_faults *f, void (*serve)(void *ctx, uint64_t address), void *ctx, struct error *err)
{
	int r;

	f->serve = serve;
	f->ctx = ctx;
	r = pthread_create(&f->thread, NULL, serve_faults, f);
	if (r)
		return error_set(err, -r, "cannot start a thread: %s", strerror(r));
	f->running = true;
	return 0;
}

void host_faults_close(struct host_faults *f)
{
	const uint64_t one = 1;

	if (f->running && write(f->quit, &one, sizeof(one)) == sizeof(one))
		pthread_join(f->thread, NULL);
	f->running = false;
	if (f->fd >= 0)
		close(f->fd);
	if (f->quit >= 0)
		close(f->quit);
	f->fd = f->quit = -1;
}
