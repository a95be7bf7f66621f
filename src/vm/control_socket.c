/*
 * The socket of vm/control.h and the thread that serves it: a poll loop over the listener, the clients and an eventfd
 * by which other threads say that there is something to send.
 *
 * The path is made under a lock on its directory, so that of two that find the same stale socket one replaces it, not
 * the other's new one. It is private from the beginning: the mode is set before bind().
 */
#include <signal.h>
#undef REG_RIP /* glibc's, of ucontext; ours is a register slot (cpu/uop.h) */

#include "vm/control_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG        64 /* connections that wait to be looked at */
#define CHUNK_BYTES    16384
#define LOCK_TRIES     100
#define LOCK_WAIT_NS   10000000
#define LAST_WORDS_MS  1000 /* for clients to read what they are still sent at the end */

/* ---- clients ---- */

/* Bytes that wait for it. Under the lock. */
static size_t pending(const struct control_peer *cl)
{
	const char *data;

	return control_link_pending(&cl->link, &data);
}

/* Sends what the socket takes. Under the lock: it does not wait. */
static void flush_client(struct control_peer *cl)
{
	const char *data;
	size_t bytes;

	while ((bytes = control_link_pending(&cl->link, &data)) > 0) {
		ssize_t n = send(cl->fd, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN) { /* nobody reads: but what it asked for is done */
			cl->hung_up = true;
			n = (ssize_t)bytes;
		}
		if (n < 0)
			return;
		control_link_sent(&cl->link, (size_t)n);
	}
}

/* Reads once, if its turn would otherwise find no line. */
static void read_client(struct control *c, struct control_peer *cl)
{
	char chunk[CHUNK_BYTES];
	ssize_t n;

	if (cl->eof || control_link_has_line(&cl->link))
		return;
	n = recv(cl->fd, chunk, sizeof(chunk), MSG_DONTWAIT);
	if (n > 0)
		control_peer_take(c, cl, chunk, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		cl->eof = true;
}

/* Is all done that is to be done for it? Under the lock. */
static bool is_over(struct control_peer *cl)
{
	if (cl->waiting)
		return false;
	if (cl->overrun || cl->closing)
		return true;
	return cl->eof && !control_link_has_line(&cl->link) && !pending(cl);
}

static void hang_up(struct control *c, struct control_peer *cl)
{
	close(cl->fd);
	control_peer_close(c, cl);
}

/* A client's share of a round. True if it wants another without waiting for anything. */
static bool serve_client(struct control *c, struct control_peer *cl)
{
	bool busy, over, again = false;

	control_lock(c);
	busy = cl->waiting || cl->closing || pending(cl) >= CONTROL_OUT_ENOUGH;
	control_unlock(c);
	if (!busy) {
		read_client(c, cl);
		again = control_peer_turn(c, cl);
	}
	control_lock(c);
	flush_client(cl);
	over = is_over(cl);
	again |= cl->hung_up && !cl->waiting; /* its last words are to be read: poll() does not report them any more */
	control_unlock(c);
	if (over)
		hang_up(c, cl);
	return again && !over;
}

static void refuse_client(int fd)
{
	static const char line[] =
		"{\"error\":{\"class\":\"NotNow\",\"desc\":\"as many clients as there may be are connected\"}}\n";

	send(fd, line, sizeof(line) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	close(fd);
}

static void accept_clients(struct control *c)
{
	int fd;

	while ((fd = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
		if (!control_peer_open(c, fd))
			refuse_client(fd);
}

/* ---- the thread ---- */

/* What to wait for from a client. */
static struct pollfd client_poll(struct control_peer *cl)
{
	struct pollfd p = {.fd = cl->used && !cl->hung_up ? cl->fd : -1};
	bool listen_to = !cl->waiting && !cl->eof && pending(cl) < CONTROL_OUT_ENOUGH;

	p.events = (short)((listen_to ? POLLIN : 0) | (pending(cl) ? POLLOUT : 0));
	return p;
}

static void drain(int fd)
{
	uint64_t n;

	if (read(fd, &n, sizeof(n)) < 0) {
		/* nothing there */
	}
}

/* One round: waits unless @again, then gives everybody a turn. False at the end. */
static bool serve_round(struct control *c, bool *again)
{
	struct pollfd p[CONTROL_CLIENTS + 2] = {{.fd = c->wake_fd, .events = POLLIN}, {.fd = c->listener, .events = POLLIN}};
	bool stopping;

	control_lock(c);
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++)
		p[i + 2] = client_poll(&c->peer[i]);
	stopping = c->stopping;
	control_unlock(c);
	if (stopping)
		return false;
	poll(p, ARRAY_SIZE(p), *again ? 0 : -1);
	if (p[0].revents)
		drain(c->wake_fd);
	if (p[1].revents)
		accept_clients(c);
	*again = false;
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++) {
		struct control_peer *cl = &c->peer[i];

		if (!cl->used)
			continue;
		if (p[i + 2].fd == cl->fd && p[i + 2].revents & (POLLHUP | POLLERR))
			cl->hung_up = true; /* poll() would report it for ever */
		*again |= serve_client(c, cl);
	}
	return true;
}

/* What is still to be sent goes out as far as it is read in time. */
static void say_last_words(struct control *c)
{
	struct pollfd p[CONTROL_CLIENTS];
	struct timespec from, now;
	int left = LAST_WORDS_MS;
	bool more = true;

	clock_gettime(CLOCK_MONOTONIC, &from);
	while (more && left > 0) {
		more = false;
		for (unsigned i = 0; i < CONTROL_CLIENTS; i++) {
			struct control_peer *cl = &c->peer[i];

			if (cl->used && !cl->overrun)
				flush_client(cl);
			p[i] = (struct pollfd){.fd = -1, .events = POLLOUT};
			if (cl->used && !cl->overrun && pending(cl))
				p[i].fd = cl->fd, more = true;
		}
		if (more)
			poll(p, CONTROL_CLIENTS, left);
		clock_gettime(CLOCK_MONOTONIC, &now);
		left = LAST_WORDS_MS - (int)((now.tv_sec - from.tv_sec) * 1000 + (now.tv_nsec - from.tv_nsec) / 1000000);
	}
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++)
		if (c->peer[i].used)
			hang_up(c, &c->peer[i]);
}

static void *serve(void *ctx)
{
	struct control *c = ctx;
	bool again = false;

	while (serve_round(c, &again))
		;
	return NULL;
}

/* Signals are for the main thread. */
static int start_thread(struct control *c)
{
	sigset_t all, was;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &was);
	ret = pthread_create(&c->thread, NULL, serve, c);
	pthread_sigmask(SIG_SETMASK, &was, NULL);
	c->running = ret == 0;
	return -ret;
}

/* ---- the path ---- */

static int path_error(const struct control *c, int code, const char *why, struct error *err)
{
	return error_set(err, code, "control socket '%s': %s", c->address.sun_path, why);
}

static int set_path(struct control *c, const char *path, struct error *err)
{
	c->address = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (!*path || strlen(path) >= sizeof(c->address.sun_path))
		return error_set(err, -ENAMETOOLONG, "control socket '%.200s': the path is %s", path,
				 *path ? "longer than 107 bytes" : "empty");
	memcpy(c->address.sun_path, path, strlen(path) + 1);
	return 0;
}

/* A descriptor that holds the lock on the path's directory until it is closed; -errno. */
static int lock_directory(const struct control *c)
{
	const struct timespec t = {.tv_nsec = LOCK_WAIT_NS};
	char path[sizeof(c->address.sun_path)];
	int fd, tries = LOCK_TRIES;

	memcpy(path, c->address.sun_path, sizeof(path));
	fd = open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while (flock(fd, LOCK_EX | LOCK_NB))
		if (errno != EWOULDBLOCK || tries-- == 0) {
			int ret = errno == EWOULDBLOCK ? -ETIMEDOUT : -errno;

			close(fd);
			return ret;
		} else {
			nanosleep(&t, NULL);
		}
	return fd;
}

/* Does somebody listen there? A full queue of connections is somebody, too. */
static bool is_live(const struct control *c)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	bool live = fd < 0 || connect(fd, (const struct sockaddr *)&c->address, sizeof(c->address)) == 0 ||
		    errno != ECONNREFUSED;

	if (fd >= 0)
		close(fd);
	return live;
}

/* Removes what a process that was killed left behind. */
static int remove_stale(struct control *c, struct error *err)
{
	struct stat st;

	if (lstat(c->address.sun_path, &st))
		return errno == ENOENT ? 0 : path_error(c, -errno, strerror(errno), err);
	if (!S_ISSOCK(st.st_mode))
		return path_error(c, -EEXIST, "there is something else, no socket", err);
	if (is_live(c))
		return path_error(c, -EADDRINUSE, "in use by another process", err);
	return unlink(c->address.sun_path) ? path_error(c, -errno, strerror(errno), err) : 0;
}

static int bind_path(struct control *c, struct error *err)
{
	struct stat st;

	c->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->listener < 0 || fchmod(c->listener, 0600))
		return path_error(c, -errno, strerror(errno), err);
	if (bind(c->listener, (const struct sockaddr *)&c->address, sizeof(c->address)))
		return path_error(c, -errno, strerror(errno), err);
	if (lstat(c->address.sun_path, &st) == 0) {
		c->dev = st.st_dev;
		c->ino = st.st_ino;
	}
	return listen(c->listener, BACKLOG) ? path_error(c, -errno, strerror(errno), err) : 0;
}

static int make_socket(struct control *c, struct error *err)
{
	int lock = lock_directory(c), ret;

	if (lock < 0)
		return path_error(c, lock, strerror(-lock), err);
	ret = remove_stale(c, err);
	if (ret == 0)
		ret = bind_path(c, err);
	close(lock);
	return ret;
}

void control_unlink(const struct control *c)
{
	struct stat st;

	if (c->ino && lstat(c->address.sun_path, &st) == 0 && st.st_dev == c->dev && st.st_ino == c->ino)
		unlink(c->address.sun_path);
}

static void close_listener(struct control *c)
{
	control_unlink(c);
	c->ino = 0;
	if (c->listener >= 0)
		close(c->listener);
	c->listener = -1;
}

int control_open(struct control *c, const char *path, struct error *err)
{
	int ret = set_path(c, path, err);

	if (ret == 0)
		ret = make_socket(c, err);
	if (ret == 0) {
		ret = start_thread(c);
		if (ret)
			path_error(c, ret, strerror(-ret), err);
	}
	if (ret)
		close_listener(c);
	return ret;
}

static void stop_thread(struct control *c)
{
	if (!c->running)
		return;
	control_lock(c);
	c->stopping = true;
	control_unlock(c);
	control_wake(c);
	pthread_join(c->thread, NULL);
	c->running = false;
	say_last_words(c);
}

void control_destroy(struct control *c)
{
	if (!c)
		return;
	control_detach(c);
	stop_thread(c);
	close_listener(c);
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++)
		control_link_free(&c->peer[i].link);
	for (unsigned i = 0; i < CONTROL_EVENTS_KEPT; i++)
		json_decref(c->event[i]);
	json_decref(c->last_status);
	if (c->wake_fd >= 0)
		close(c->wake_fd);
	pthread_cond_destroy(&c->errand_done);
	pthread_mutex_destroy(&c->lock);
	free(c->version);
	free(c->name);
	free(c);
}
