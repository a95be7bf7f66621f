/* gnomon suspend: a running VM goes into a file, by its control socket. */
#include "cli/cli.h"
#include "cli/vm_client.h"

#include <errno.h>
#include <stdlib.h>

struct suspend_command {
	bool replace;
	uint64_t compress;
};

static int set_replace(void *ctx, const char *v, struct error *err)
{
	(void)v, (void)err;
	((struct suspend_command *)ctx)->replace = true;
	return 0;
}

static int set_compress(void *ctx, const char *v, struct error *err)
{
	return parse_count("compress", v, &((struct suspend_command *)ctx)->compress, err);
}

static const struct option_desc options[] = {
	{"replace", NULL, "FILE may exist: it is replaced when the VM is wholly saved", set_replace},
	{"compress", "N", "compress memory with zstd at level N, 1 to 19 (default: not)", set_compress},
	{0},
};

static void help(FILE *out)
{
	const struct option_group groups[] = {{.title = "Options", .table = options}, {0}};

	fputs("Usage: gnomon suspend SOCKET FILE [OPTIONS]\n\n"
	      "Writes a running VM into FILE and ends the run. SOCKET is what the run was given as --control.\n"
	      "gnomon resume FILE runs on, bit for bit. If the file cannot be written the VM goes on.\n",
	      out);
	options_help(out, groups);
	fputs(vm_client_exit_help, out);
}

static int suspend_it(const char *socket, const char *file, const struct suspend_command *c, struct error *err)
{
	json_t *answer, *args;
	char *path = absolute_path(file);
	int ret;

	if (!path)
		return error_set(err, -ENOMEM, "out of memory");
	args = json_pack("{s:s, s:b, s:I}", "file", path, "replace", c->replace, "compress", (json_int_t)c->compress);
	free(path);
	if (!args)
		return error_set(err, -EINVAL, "the name of FILE is not text in UTF-8");
	ret = vm_client_once(socket, "suspend", args, &answer, err);
	if (ret)
		return ret;
	printf("suspended into %s after %lld instructions\n", file,
	       (long long)json_integer_value(json_object_get(answer, "instructions")));
	json_decref(answer);
	return 0;
}

static int suspend_command(int argc, char **argv)
{
	struct suspend_command c = {.replace = false};
	const struct option_group groups[] = {{.title = "Options", .table = options, .ctx = &c}, {0}};
	struct error err = {0};
	const char *arg[2];
	unsigned args = options_take_arguments(&argc, argv, groups, arg, ARRAY_SIZE(arg));
	enum options_result parsed = options_parse(argc, argv, groups, &err);
	int ret = -EINVAL;

	if (parsed == OPTIONS_HELP) {
		help(stdout);
		return CLI_OK;
	}
	if (parsed == OPTIONS_OK && args != ARRAY_SIZE(arg))
		error_set(&err, ret, "SOCKET and FILE are wanted (see gnomon suspend --help)");
	else if (parsed == OPTIONS_OK)
		ret = suspend_it(arg[0], arg[1], &c, &err);
	if (ret)
		cli_error("suspend", err.text);
	return vm_client_status(ret);
}

const struct command cmd_suspend = {"suspend", "write a running VM into a file, and end the run", suspend_command, help};
