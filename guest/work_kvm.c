/*
 * The workload of a guest that is a hypervisor itself: gnomon-work kvm PARAMETERS GUEST [MIB]. A name it does not know is
 * one of the ordinary workloads (work.c).
 *
 *   PARAMETERS  three digits, of kvm_intel's parameters ept, vpid and pml: 110 is "ept=1 vpid=1 pml=0". The module is
 *               loaded with them, anew if it was there.
 *   GUEST       linux: the kernel and initramfs in /kvm; another name: NAME.elf there, a multiboot kernel;
 *               none: no guest, only the module
 *   MIB         its memory
 *
 * Words that the kernel does not know are the first program's environment, so the kernel command line can say more:
 *
 *   kvm_append="..."    the inner kernel's command line
 *   kvm_module="..."    further parameters of kvm_intel
 *   kvm_options="..."   further options of gnomon-kvm (kvm/main.c), separated by blanks
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MODULE "/kvm/kvm-intel.ko"
#define OPTIONS_MAX 32

static int fail(const char *what)
{
	fprintf(stderr, "gnomon-work: %s: %s\n", what, strerror(errno));
	return 1;
}

static int load_module(const char *digits)
{
	const char *more = getenv("kvm_module");
	char text[256];
	int fd = open(MODULE, O_RDONLY | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return fail(MODULE);
	if (syscall(SYS_delete_module, "kvm_intel", O_NONBLOCK) && errno != ENOENT) {
		close(fd);
		return fail("unloading kvm_intel");
	}
	snprintf(text, sizeof(text), "ept=%c vpid=%c pml=%c %s", digits[0], digits[1], digits[2], more ? more : "");
	ret = syscall(SYS_finit_module, fd, text, 0) ? fail("loading kvm_intel") : 0;
	close(fd);
	return ret;
}

/* What the module made of what it was asked for: hardware may lack something. */
static void show_parameter(const char *name)
{
	char path[96], c = '?';
	int fd;

	snprintf(path, sizeof(path), "/sys/module/kvm_intel/parameters/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		if (read(fd, &c, 1) != 1)
			c = '?';
		close(fd);
	}
	printf(" %s=%c", name, c);
}

static void show_parameters(const char *guest)
{
	printf("KVM-BEGIN %s", guest);
	show_parameter("ept");
	show_parameter("vpid");
	show_parameter("pml");
	show_parameter("unrestricted_guest");
	printf("\n");
	fflush(stdout);
}

/* Cuts the blank-separated @text into words of @argv, from @n on, and ends it. */
static void add_words(char *argv[], unsigned n, char *text)
{
	char *save = NULL;

	for (char *w = text ? strtok_r(text, " ", &save) : NULL; w && n < OPTIONS_MAX - 1; w = strtok_r(NULL, " ", &save))
		argv[n++] = w;
	argv[n] = NULL;
}

static int run(char *argv[])
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		execv(argv[0], argv);
		_exit(fail(argv[0]));
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return fail("gnomon-kvm");
	status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	printf("KVM-STATUS %d\n", status);
	/* A test kernel that is content writes 0 to the debug exit port. */
	return status > 1;
}

static int run_guest(const char *guest, char *memory)
{
	char kernel[64], *append = getenv("kvm_append");
	char *argv[OPTIONS_MAX] = {"/bin/gnomon-kvm", "--memory", memory, "--kernel", kernel};
	unsigned n = 5;

	/* A multiboot kernel is told its file's name: one without a folder can be the same elsewhere. */
	if (chdir("/kvm"))
		return fail("/kvm");
	snprintf(kernel, sizeof(kernel), "%s.elf", guest);
	if (!strcmp(guest, "linux")) {
		snprintf(kernel, sizeof(kernel), "vmlinux");
		argv[n++] = "--initrd";
		argv[n++] = "initramfs.cpio";
		argv[n++] = "--append";
		argv[n++] = append ? append : "console=ttyS0 panic=-1 quiet cryptomgr.notests gnomon.work=none";
	}
	add_words(argv, n, getenv("kvm_options"));
	return run(argv);
}

int main(int argc, char **argv)
{
	const char *digits = argc > 2 ? argv[2] : "111", *guest = argc > 3 ? argv[3] : "linux";
	int ret;

	if (argc < 2 || strcmp(argv[1], "kvm")) {
		argv[0] = "/bin/gnomon-work-cpu";
		execv(argv[0], argv);
		return fail(argv[0]);
	}
	if (strspn(digits, "01") != 3 || digits[3]) {
		fprintf(stderr, "gnomon-work: kvm: '%s' is not three digits 0 or 1\n", digits);
		return 1;
	}
	ret = load_module(digits);
	if (ret)
		return ret;
	show_parameters(guest);
	return strcmp(guest, "none") ? run_guest(guest, argc > 4 ? argv[4] : "128") : 0;
}
