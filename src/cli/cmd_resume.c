/* gnomon resume: a VM that was saved runs on. */
#include "cli/session.h"
#include "vm/saved.h"

#include <errno.h>

static struct {
	struct session session;
	struct saved *saved;
	bool force, verify, made;
	const char *disks; /* directory; NULL: none was given */
} resume;

static int set_force(void *ctx, const char *v, struct error *err)
{
	(void)ctx, (void)v, (void)err;
	resume.force = true;
	return 0;
}

static int set_verify(void *ctx, const char *v, struct error *err)
{
	(void)ctx, (void)v, (void)err;
	resume.verify = true;
	return 0;
}

static int set_disks(void *ctx, const char *v, struct error *err)
{
	(void)ctx, (void)err;
	resume.disks = v;
	return 0;
}

static const struct option_desc resume_options[] = {
	{"disks", "DIRECTORY", "a checkpoint with disks: the VM gets branches of them, made in DIRECTORY", set_disks},
	{"verify", NULL, "read and check all of the file first, instead of when the guest needs it", set_verify},
	{"force", NULL, "also if a disk was written since: the guest will find it changed under its feet", set_force},
	{0},
};

static void help(FILE *out)
{
	static struct option_desc machine[GUEST_OPTIONS_MAX];
	const struct option_group groups[] = {
		{.title = "Run", .table = vm_options},
		{.title = "Command", .table = session_options},
		{.title = "Resume", .table = resume_options},
		{.title = "Machine", .table = machine},
		{0},
	};

	guest_options_of_machine(machine);
	fputs("Usage: gnomon resume FILE [--mmu SCHEME] [OPTIONS]\n\n"
	      "Runs on a VM that was suspended (gnomon suspend) or a checkpoint of one (gnomon checkpoint), bit\n"
	      "for bit, under any scheme and on any hardware. Its memory is read from FILE when it is touched,\n"
	      "so FILE is to stay until the run is over. What the guest can see of its machine is as it was.\n",
	      out);
	options_help(out, groups);
	fputs(session_exit_help, out);
}

static int make(void *ctx, const struct vm_config *cfg, struct vm **out, struct error *err)
{
	int ret = saved_make_vm(resume.saved, cfg, out, err);

	(void)ctx;
	resume.made = !ret;
	return ret;
}

static const char *failure(void *ctx)
{
	(void)ctx;
	return saved_failure(resume.saved);
}

/* The configuration is the file's; options change the rest of it. */
static int open_file(const char *path, struct error *err)
{
	int ret = saved_open(&resume.saved, path, err);

	return ret ? ret : saved_config(resume.saved, &resume.session.guest.cfg, err);
}

/* What was frozen stays as it is: this VM writes branches of its own, and so can others. */
static int prepare_disks(struct error *err)
{
	bool frozen = saved_has_frozen_disks(resume.saved);

	if (frozen && !resume.disks)
		return error_set(err, -EINVAL, "the disks of a checkpoint are not written: --disks DIRECTORY for branches of them");
	if (!frozen && resume.disks)
		return error_set(err, -EINVAL, "--disks: no disk was frozen with this VM");
	return frozen ? saved_branch_disks(resume.saved, &resume.session.guest.cfg, resume.disks, err) : 0;
}

static int check(struct error *err)
{
	int ret = resume.force ? 0 : saved_check_disks(resume.saved, err);

	if (ret == -ESTALE)
		strncat(err->text, " (--force resumes it all the same)", sizeof(err->text) - strlen(err->text) - 1);
	if (!ret && resume.verify)
		ret = saved_verify(resume.saved, err);
	return ret ? ret : prepare_disks(err);
}

static int run_it(int argc, char **argv)
{
	static struct option_desc machine[GUEST_OPTIONS_MAX];
	struct session *s = &resume.session;
	const struct option_group groups[] = {
		{.title = "Run", .table = vm_options, .ctx = &s->guest},
		{.title = "Command", .table = session_options, .ctx = s},
		{.title = "Resume", .table = resume_options},
		{.title = "Machine", .table = machine, .ctx = &s->guest.cfg},
		{0},
	};
	struct error err = {0};
	int status;
	bool bad;

	guest_options_of_machine(machine);
	bad = open_file(argv[1], &err);
	if (!bad && options_parse(argc - 1, argv + 1, groups, &err) == OPTIONS_BAD) {
		strncat(err.text, " (see gnomon resume --help)", sizeof(err.text) - strlen(err.text) - 1);
		bad = true;
	}
	if (!bad)
		bad = check(&err);
	if (bad) {
		cli_error("resume", err.text);
		return CLI_USAGE;
	}
	s->make = make;
	s->failure = failure;
	status = session_run(s);
	if (!resume.made)
		saved_remove_branches(resume.saved);
	return status;
}

static bool wants_help(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return true;
	return false;
}

static int resume_command(int argc, char **argv)
{
	int status;

	if (wants_help(argc, argv)) {
		help(stdout);
		return CLI_OK;
	}
	if (argc < 2 || argv[1][0] == '-') {
		cli_error("resume", "the FILE is missing (see gnomon resume --help)");
		return CLI_USAGE;
	}
	session_init(&resume.session, "resume");
	status = run_it(argc, argv);
	saved_close(resume.saved);
	return status;
}

const struct command cmd_resume = {"resume", "run on a VM that was suspended, or a checkpoint", resume_command, help};
