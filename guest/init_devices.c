/*
 * The first program of a guest with devices. It loads the modules that the initramfs has, in the order of their
 * names, and goes on as the ordinary first program does (init.c), or with a system on a disk:
 *
 *   gnomon.root=/dev/vda    mount this ext4 file system and start its /sbin/init
 *   gnomon.init=/bin/sh     ... or this program of it
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CMDLINE_BYTES 4096
#define MODULES "/modules"
#define ROOT_WAIT_MS 5000

static void mount_one(const char *type, const char *where)
{
	if (mount(type, where, type, 0, NULL) && errno != EBUSY)
		fprintf(stderr, "init: cannot mount %s: %s\n", where, strerror(errno));
}

static void load_module(const char *name)
{
	char path[512];
	int fd;

	snprintf(path, sizeof(path), MODULES "/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
		fprintf(stderr, "init: cannot load %s: %s\n", name, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static int is_module(const struct dirent *e) { return e->d_name[0] != '.'; }

static void load_modules(void)
{
	struct dirent **list;
	int n = scandir(MODULES, &list, is_module, alphasort);

	for (int i = 0; i < n; i++) {
		load_module(list[i]->d_name);
		free(list[i]);
	}
	if (n >= 0)
		free(list);
}

/* The value of "@key=value" on the kernel command line, in @value; "" if it is not there. */
static void parameter(const char *key, char *value, size_t bytes)
{
	char line[CMDLINE_BYTES];
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);

	if (fd >= 0)
		close(fd);
	*value = '\0';
	line[n > 0 ? n : 0] = '\0';
	for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
		if (!strncmp(word, key, strlen(key)) && word[strlen(key)] == '=')
			snprintf(value, bytes, "%s", word + strlen(key) + 1);
}

/* A disk may be a moment late. */
static int mount_root(const char *device)
{
	struct stat st;

	for (int ms = 0; ms < ROOT_WAIT_MS && stat(device, &st); ms += 10)
		usleep(10000);
	return mount(device, "/mnt", "ext4", 0, NULL);
}

static void start_system(const char *device)
{
	char program[256];

	parameter("gnomon.init", program, sizeof(program));
	if (!*program)
		snprintf(program, sizeof(program), "/sbin/init");
	if (mount_root(device)) {
		fprintf(stderr, "init: cannot mount %s: %s\n", device, strerror(errno));
		return;
	}
	umount2("/proc", MNT_DETACH);
	umount2("/sys", MNT_DETACH);
	mount("/dev", "/mnt/dev", NULL, MS_MOVE, NULL);
	if (chdir("/mnt") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/")) {
		fprintf(stderr, "init: cannot change to %s: %s\n", device, strerror(errno));
		return;
	}
	execl(program, program, (char *)NULL);
	fprintf(stderr, "init: cannot run %s of %s: %s\n", program, device, strerror(errno));
}

int main(void)
{
	char root[256];

	mount_one("proc", "/proc");
	mount_one("sysfs", "/sys");
	mount_one("devtmpfs", "/dev");
	load_modules();
	parameter("gnomon.root", root, sizeof(root));
	if (*root)
		start_system(root);
	execl("/bin/gnomon-init", "/init", (char *)NULL);
	return 1;
}
