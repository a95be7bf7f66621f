/* See console.h. */
#include "cli/console.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#define CTRL_A 1
#define WAIT_MAX_NS 100000000 /* so that a signal that came just before the wait is noticed */

static const char escape_help[] = "\r\nCtrl-A X  end the run\r\n"
				  "Ctrl-A H  this help\r\n"
				  "Ctrl-A Ctrl-A  send Ctrl-A\r\n";

static void write_all(int fd, const void *data, size_t bytes)
{
	const char *p = data;

	while (bytes) {
		ssize_t n = write(fd, p, bytes);

		if (n > 0) {
			p += n;
			bytes -= (size_t)n;
		} else if (n < 0 && errno == EAGAIN) {
			struct pollfd w = {.fd = fd, .events = POLLOUT};

			poll(&w, 1, 100);
		} else if (n == 0 || errno != EINTR) {
			return; /* nobody reads: what the guest prints is lost, the guest runs on */
		}
	}
}

/* In one piece, so that lines of several writers stay whole. */
static void put_line(struct console *c)
{
	char text[sizeof(c->line) + 64];
	int n = snprintf(text, sizeof(text), "%s| %.*s\n", c->label, (int)c->line_bytes, c->line);

	write_all(c->out, text, min_u64((uint64_t)n, sizeof(text) - 1));
	c->line_bytes = 0;
}

static void output_labelled(struct console *c, const uint8_t *data, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		if (data[i] == '\n' || c->line_bytes == sizeof(c->line))
			put_line(c);
		if (data[i] != '\n' && data[i] != '\r' && data[i])
			c->line[c->line_bytes++] = (char)data[i];
	}
}

static void output(void *ctx, const uint8_t *data, size_t bytes)
{
	struct console *c = ctx;

	if (c->out < 0 || bytes == 0)
		return;
	if (c->label) {
		output_labelled(c, data, bytes);
		return;
	}
	write_all(c->out, data, bytes);
	c->mid_line = data[bytes - 1] != '\n';
}

void console_end_line(struct console *c)
{
	if (c->label && c->line_bytes)
		put_line(c);
	if (c->out >= 0 && c->mid_line && isatty(c->out))
		write_all(c->out, (const uint8_t *)"\n", 1);
	c->mid_line = false;
}

/* One key after Ctrl-A. Returns the bytes it sends. */
static unsigned escape_key(struct console *c, uint8_t key, uint8_t *out)
{
	c->escape = false;
	switch (key) {
	case 'x':
	case 'X':
		c->quit = true;
		return 0;
	case 'h':
	case 'H':
	case '?':
		write_all(c->out, escape_help, sizeof(escape_help) - 1);
		return 0;
	case CTRL_A:
		*out = CTRL_A;
		return 1;
	}
	return 0;
}

unsigned console_filter(struct console *c, uint8_t *data, unsigned bytes)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < bytes && !c->quit; i++) {
		if (c->escape)
			kept += escape_key(c, data[i], data + kept);
		else if (data[i] == CTRL_A)
			c->escape = true;
		else
			data[kept++] = data[i];
	}
	return kept;
}

static int input(void *ctx, uint8_t *data, unsigned max, int64_t wait_ns)
{
	struct console *c = ctx;
	struct pollfd p = {.fd = c->in, .events = POLLIN};
	struct timespec t;
	ssize_t n;

	if (c->in < 0 || c->quit)
		return -1;
	if (wait_ns < 0 || wait_ns > WAIT_MAX_NS)
		wait_ns = WAIT_MAX_NS;
	t = (struct timespec){.tv_nsec = wait_ns};
	if (max == 0) { /* the guest's receiver is full: only wait */
		ppoll(NULL, 0, &t, NULL);
		return 0;
	}
	if (ppoll(&p, 1, &t, NULL) <= 0)
		return 0;
	n = read(c->in, data, max);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n <= 0) {
		c->in = -1;
		return -1;
	}
	return (int)(c->tty ? console_filter(c, data, (unsigned)n) : (unsigned)n);
}

static void make_raw(struct console *c)
{
	struct termios raw;

	if (c->in < 0 || !isatty(c->in) || tcgetattr(c->in, &c->saved))
		return;
	raw = c->saved;
	cfmakeraw(&raw);
	c->tty = tcsetattr(c->in, TCSANOW, &raw) == 0;
}

int console_open(struct console *c, const char *serial, struct error *err)
{
	*c = (struct console){.in = -1, .out = -1};
	if (!serial) {
		c->in = STDIN_FILENO;
		c->out = STDOUT_FILENO;
		make_raw(c);
		return 0;
	}
	if (strcmp(serial, "none") == 0)
		return 0;
	c->out = open(serial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (c->out < 0)
		return error_set(err, -errno, "--serial '%s': %s", serial, strerror(errno));
	c->own_out = true;
	return 0;
}

void console_open_labelled(struct console *c, const char *label)
{
	*c = (struct console){.in = -1, .out = STDOUT_FILENO, .label = label};
}

void console_restore(struct console *c)
{
	if (c->tty)
		tcsetattr(c->in < 0 ? STDIN_FILENO : c->in, TCSANOW, &c->saved);
}

void console_close(struct console *c)
{
	console_restore(c);
	c->tty = false;
	if (c->own_out)
		close(c->out);
	c->own_out = false;
	c->in = c->out = -1;
}

struct vm_console console_for_vm(struct console *c)
{
	return (struct vm_console){.ctx = c, .output = output, .input = c->in >= 0 ? input : NULL, .fd = c->in,
				   .live = c->tty};
}
