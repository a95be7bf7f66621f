#include "cli/vm_client.h"
#include "cli/cli.h"
#include "vm/control.h"
#include "vm/control_link.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

const char vm_client_exit_help[] =
	"\nExit status:\n"
	"  0    done\n"
	"  2    bad options, or nothing to talk to at SOCKET\n"
	"  10   the VM hung up before it answered, or what it said makes no sense; failure of the host\n"
	"  18   the VM refused or failed to do it: it says why\n"
	"  130  interrupted\n";

int vm_client_status(int ret)
{
	switch (ret) {
	case 0:
		return CLI_OK;
	case -EREMOTEIO:
		return CLI_REFUSED;
	case -EINTR:
		return CLI_INTERRUPTED;
	case -EPIPE:
	case -EPROTO:
	case -ENOMEM:
		return CLI_HOST_FAILED;
	default:
		return CLI_USAGE;
	}
}

static int complain(const struct vm_client *c, int code, const char *what, struct error *err)
{
	return error_set(err, code, "'%.200s': %s", c->path, what);
}

static int connect_to(struct vm_client *c, struct error *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	if (strlen(c->path) >= sizeof(a.sun_path))
		return complain(c, -EINVAL, "longer than the path of a socket can be", err);
	memcpy(a.sun_path, c->path, strlen(c->path) + 1);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || connect(c->fd, (const struct sockaddr *)&a, sizeof(a)))
		return complain(c, -EINVAL, errno == ECONNREFUSED ? "nobody listens there (any more)" : strerror(errno), err);
	return 0;
}

json_t *vm_client_receive(struct vm_client *c, struct error *err)
{
	char chunk[4096];
	const char *line;
	size_t bytes;
	json_t *o;

	while (!control_link_line(c->link, &line, &bytes)) {
		ssize_t n = recv(c->fd, chunk, sizeof(chunk), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			complain(c, -EPIPE, "the VM hung up", err);
			return NULL;
		}
		if (control_link_take(c->link, chunk, (size_t)n)) {
			complain(c, -EPROTO, "a line that is too long", err);
			return NULL;
		}
	}
	o = json_loadb(line, bytes, 0, NULL);
	if (!json_is_object(o)) {
		json_decref(o);
		complain(c, -EPROTO, "a line that is no JSON object: no control socket of gnomon's?", err);
		return NULL;
	}
	return o;
}

static int send_all(struct vm_client *c, const char *text, struct error *err)
{
	for (size_t left = strlen(text); left;) {
		ssize_t n = send(c->fd, text, left, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return complain(c, -EPIPE, "the VM hung up", err);
		text += n;
		left -= (size_t)n;
	}
	return 0;
}

static int send_request(struct vm_client *c, const char *command, json_t *args, struct error *err)
{
	json_t *o = json_pack("{s:s, s:o*, s:i}", "execute", command, "arguments", args, "id", 1);
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	int ret = text ? send_all(c, text, err) : error_set(err, -EINVAL, "'%.60s': no command is called so", command);

	free(text);
	json_decref(o);
	return ret ? ret : send_all(c, "\n", err);
}

/* The error that an answer or a refusal to talk is; 0 if it is none. */
static int take_error(const json_t *o, struct error *err)
{
	const json_t *e = json_object_get(o, "error");
	const char *desc = json_string_value(json_object_get(e, "desc"));

	if (!e)
		return 0;
	return error_set(err, -EREMOTEIO, "%.400s", desc ? desc : "an error without a description");
}

static int take_greeting(struct vm_client *c, struct error *err)
{
	json_t *o = vm_client_receive(c, err);
	int ret = o ? take_error(o, err) : err->code;
	const json_t *protocol = json_object_get(json_object_get(o, "gnomon"), "protocol");

	if (ret == 0 && !json_is_integer(protocol))
		ret = complain(c, -EPROTO, "no greeting: no control socket of gnomon's?", err);
	else if (ret == 0 && json_integer_value(protocol) != CONTROL_PROTOCOL)
		ret = complain(c, -EPROTO, "it speaks another version of the protocol", err);
	json_decref(o);
	return ret;
}

int vm_client_open(struct vm_client *c, const char *path, struct error *err)
{
	int ret;

	*c = (struct vm_client){.path = path, .fd = -1};
	c->link = calloc(1, sizeof(*c->link));
	ret = c->link ? connect_to(c, err) : error_set(err, -ENOMEM, "out of memory");
	if (!ret)
		ret = take_greeting(c, err);
	if (ret)
		vm_client_close(c);
	return ret;
}

void vm_client_close(struct vm_client *c)
{
	if (c->link)
		control_link_free(c->link);
	free(c->link);
	c->link = NULL;
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

int vm_client_call(struct vm_client *c, const char *command, json_t *args, json_t **answer, struct error *err)
{
	int ret = send_request(c, command, args, err);

	*answer = NULL;
	while (!ret && !*answer) {
		json_t *o = vm_client_receive(c, err);

		if (!o)
			return err->code;
		if (json_object_get(o, "event") && c->event)
			c->event(c->event_ctx, o);
		*answer = json_incref(json_object_get(o, "return"));
		ret = take_error(o, err);
		json_decref(o);
	}
	return ret;
}

int vm_client_once(const char *path, const char *command, json_t *args, json_t **answer, struct error *err)
{
	struct vm_client c;
	int ret = vm_client_open(&c, path, err);

	if (ret) {
		json_decref(args);
		return ret;
	}
	ret = vm_client_call(&c, command, args, answer, err);
	vm_client_close(&c);
	return ret;
}
