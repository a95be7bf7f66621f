/*
 * gnomon run: boots one guest under one scheme, with the terminal as its serial
 * console; or several that VM files describe, one processor for all of them.
 */
#include "cli/session.h"
#include <errno.h>

static int set_vm(void *ctx, const char *v, struct error *err)
{
	struct session *s = ctx;

	if (s->files == ENGINE_VMS_MAX)
		return error_set(err, -EINVAL, "--vm '%s': more than %d VMs", v, ENGINE_VMS_MAX);
	s->vm_path[s->files++] = v;
	return 0;
}

static int set_slice(void *ctx, const char *v, struct error *err)
{
	struct session *s = ctx;
	int ret = parse_count("slice", v, &s->slice, err);

	if (ret == 0 && s->slice == 0)
		ret = error_set(err, -EINVAL, "--slice '%s': at least 1", v);
	return ret;
}

static const struct option_desc run_options[] = {
	{"vm", "FILE", "run the VM that FILE describes; give it again for more VMs", set_vm},
	{"slice", "N", "instructions a VM executes at a time (default 1M)", set_slice},
	{0},
};

/* What describes a guest is in its file if there are files. @ctx: the last such option that was given goes there */
static int note_given(void *ctx, const struct option_desc *d, const char *value, struct error *err)
{
	(void)value, (void)err;
	if (!guest_option_of_processor(d))
		*(const char **)ctx = d->name;
	return 0;
}

static int check_options(const struct session *s, const char *for_one, struct error *err)
{
	if (s->files && for_one)
		return error_set(err, -EINVAL, "option '--%s' describes a guest: with --vm its place is the VM file",
				 for_one);
	if (s->files && s->suspend)
		return error_set(err, -EINVAL, "option '--suspend' is for a run without --vm");
	if (!s->files && s->slice)
		return error_set(err, -EINVAL, "option '--slice' is for several VMs (--vm)");
	return s->files ? 0 : guest_options_check(&s->guest.cfg, err);
}

static void help(FILE *out)
{
	const struct option_group groups[] = {
		{.title = "Run", .table = vm_options},
		{.title = "Command", .table = session_options},
		{.title = "Several VMs", .table = run_options},
		{.title = "Guest and machine", .table = guest_options},
		{0},
	};

	fputs("Usage: gnomon run --kernel FILE|--firmware FILE [--mmu SCHEME] [OPTIONS]\n"
	      "       gnomon run --vm FILE [--vm FILE]... [--slice N] [OPTIONS OF THE PROCESSOR]\n\n"
	      "Boots one guest. Its serial port is the terminal: Ctrl-A X ends the run, Ctrl-A H helps.\n"
	      "With --vm: boots guests that files describe, with the options below as keys (docs/FORMATS.md),\n"
	      "on one processor that they take turns on. --hw, --data-cache, --no-vpid, --no-fast-path,\n"
	      "--cpu-features, --maxphyaddr and --mitigations belong to that processor: they stay on the\n"
	      "command line. What a guest prints appears as 'NAME| line' unless its file has a key serial.\n",
	      out);
	options_help(out, groups);
	fputs(session_exit_help, out);
}

static int run_command(int argc, char **argv)
{
	static struct session s;
	const char *for_one = NULL;
	const struct option_group groups[] = {
		{.title = "Run", .table = vm_options, .ctx = &s.guest, .given = note_given, .given_ctx = &for_one},
		{.title = "Command", .table = session_options, .ctx = &s},
		{.title = "Several VMs", .table = run_options, .ctx = &s},
		{.title = "Guest and machine", .table = guest_options, .ctx = &s.guest.cfg, .given = note_given,
		 .given_ctx = &for_one},
		{0},
	};
	struct error err = {0};

	session_init(&s, "run");
	switch (options_parse(argc, argv, groups, &err)) {
	case OPTIONS_HELP:
		help(stdout);
		return CLI_OK;
	case OPTIONS_BAD:
		strncat(err.text, " (see gnomon run --help)", sizeof(err.text) - strlen(err.text) - 1);
		cli_error("run", err.text);
		return CLI_USAGE;
	case OPTIONS_OK:
		break;
	}
	if (check_options(&s, for_one, &err)) {
		cli_error("run", err.text);
		return CLI_USAGE;
	}
	return session_run(&s);
}

const struct command cmd_run = {"run", "boot a guest under one scheme, or several on one machine", run_command, help};
