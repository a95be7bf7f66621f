/*
 * The first program of the guest. It mounts what Linux programs expect, prints
 * the marker GNOMON-INIT, runs the workloads that the kernel command line names
 * and powers the machine off. Without a workload it offers a shell on the
 * console and powers off when that ends.
 *
 *   gnomon.work=NAME[:N[:M[:huge]]][,NAME...]   run these; "none" runs nothing
 *
 * It leaves out everything a real init does for a system that lives longer.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CMDLINE_BYTES = 4096, MAX_FIELDS = 4 };

/* Writes straight to the console: no buffer may hold a line back when the machine goes off. */
static void say(const char *text)
{
	size_t left = strlen(text);

	while (left) {
		ssize_t n = write(STDOUT_FILENO, text, left);

		if (n < 0 && errno != EINTR)
			return;
		if (n > 0) {
			text += n;
			left -= (size_t)n;
		}
	}
}

static void mount_one(const char *type, const char *where)
{
	mkdir(where, 0755);
	if (mount(type, where, type, 0, NULL) && errno != EBUSY)
		fprintf(stderr, "init: cannot mount %s: %s\n", where, strerror(errno));
}

/* Finds "@key=value" on the kernel command line @line and cuts the value out of it; NULL if there is none. */
static char *parameter(char *line, const char *key)
{
	size_t length = strlen(key);

	for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
		if (!strncmp(word, key, length) && word[length] == '=')
			return word + length + 1;
	return NULL;
}

static char *read_work(char *buf, size_t bytes)
{
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, bytes - 1);

	if (fd >= 0)
		close(fd);
	if (n < 0)
		return NULL;
	buf[n] = '\0';
	return parameter(buf, "gnomon.work");
}

/* Runs @argv and waits for it; true if it exited with 0. */
static bool run(char *const argv[])
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		execv(argv[0], argv);
		fprintf(stderr, "init: cannot run %s: %s\n", argv[0], strerror(errno));
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return false;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Runs one "NAME[:N[:M[:huge]]]" and reports it on a line of its own. */
static bool run_work(char *item)
{
	char program[] = "/bin/gnomon-work", line[160];
	char *argv[MAX_FIELDS + 2] = { program };
	char *save = NULL;
	unsigned n = 1;
	bool ok;

	for (char *f = strtok_r(item, ":", &save); f && n <= MAX_FIELDS; f = strtok_r(NULL, ":", &save))
		argv[n++] = f;
	if (n == 1 || !strcmp(argv[1], "none"))
		return true;
	ok = run(argv);
	snprintf(line, sizeof(line), "GNOMON-WORK %.60s %.30s %s\n", argv[1], argv[2] ? argv[2] : "-",
		 ok ? "done" : "FAILED");
	say(line);
	return ok;
}

static bool run_all(char *list)
{
	char *save = NULL;
	bool ok = true;

	for (char *item = strtok_r(list, ",", &save); item; item = strtok_r(NULL, ",", &save))
		ok &= run_work(item);
	return ok;
}

/* What a kernel that can place page tables (guest/linux) has to say of it. */
static void show_tables(void)
{
	char buf[2048];
	int fd = open("/proc/gnomon_tables", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return;
	buf[n] = '\0';
	say("GNOMON-TABLES\n");
	say(buf);
}

static void run_shell(void)
{
	static char *const install[] = { "/bin/busybox", "--install", "-s", "/bin", NULL };
	static char *const shell[] = { "/bin/busybox", "setsid", "/bin/busybox", "cttyhack", "/bin/sh", NULL };

	setenv("PATH", "/bin", 1);
	setenv("HOME", "/root", 1);
	setenv("PS1", "gnomon# ", 1);
	run(install);
	say("A shell of the guest; 'gnomon-work' lists the workloads, 'exit' powers off.\n");
	run(shell);
}

int main(void)
{
	char cmdline[CMDLINE_BYTES];
	char *work;
	bool ok = true;

	say("GNOMON-INIT\n");
	mount_one("proc", "/proc");
	mount_one("sysfs", "/sys");
	mount_one("devtmpfs", "/dev");
	work = read_work(cmdline, sizeof(cmdline));
	if (work)
		ok = run_all(work);
	else
		run_shell();
	show_tables();
	say(ok ? "GNOMON-DONE ok\n" : "GNOMON-DONE failed\n");
	sync();
	reboot(RB_POWER_OFF);
	say("init: power-off failed\n");
	return 1;
}
