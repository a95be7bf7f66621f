/* See jobs.h. */
#include "cli/jobs.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define JOBS_AT_ONCE_MAX 256
#define INTERVAL_MS      200
#define GRACE_SECONDS    5 /* between asking a child to end and killing it */
#define PROGRESS_FD      3 /* in the child; cmd_compare.c says so in its arguments */

unsigned jobs_processors(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0 ? (unsigned)CPU_COUNT(&set) : 1;
}

double jobs_clock(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* In the child: never returns. Only async-signal-safe calls. */
static void become(const struct job *j, int progress, pid_t parent)
{
	int null = open("/dev/null", O_RDWR), errors = open(j->errors, O_WRONLY | O_CREAT | O_TRUNC, 0666);

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent || null < 0 || errors < 0)
		_exit(127);
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(errors, STDERR_FILENO);
	if (progress == PROGRESS_FD)
		fcntl(progress, F_SETFD, 0);
	else
		dup2(progress, PROGRESS_FD);
	execv("/proc/self/exe", j->argv);
	_exit(127);
}

static int job_start(struct job *j, struct error *err)
{
	pid_t parent = getpid();
	int fd[2];

	if (pipe2(fd, O_CLOEXEC))
		return error_set(err, -errno, "pipe: %s", strerror(errno));
	j->pid = fork();
	if (j->pid == 0)
		become(j, fd[1], parent);
	close(fd[1]);
	if (j->pid < 0) {
		close(fd[0]);
		return error_set(err, -errno, "fork: %s", strerror(errno));
	}
	fcntl(fd[0], F_SETFL, O_NONBLOCK);
	j->progress = fd[0];
	j->state = JOB_RUNNING;
	j->started = jobs_clock();
	return 0;
}

static void take_progress(struct job *j, const char *data, ssize_t n)
{
	for (ssize_t i = 0; i < n; i++) {
		if (data[i] != '\n') {
			if (j->line_bytes < sizeof(j->line) - 1)
				j->line[j->line_bytes++] = data[i];
			continue;
		}
		j->line[j->line_bytes] = 0;
		j->insns = strtoull(j->line, NULL, 10);
		j->line_bytes = 0;
	}
}

/* Reads what there is. False once the child has closed its end: it is ending. */
static bool read_progress(struct job *j)
{
	char data[256];
	ssize_t n;

	while ((n = read(j->progress, data, sizeof(data))) > 0)
		take_progress(j, data, n);
	return n < 0 && (errno == EAGAIN || errno == EINTR);
}

static void job_finish(struct job *j)
{
	while (waitpid(j->pid, &j->status, 0) < 0 && errno == EINTR)
		;
	close(j->progress);
	j->progress = -1;
	j->state = JOB_DONE;
	j->seconds = jobs_clock() - j->started;
}

/* Waits at most an interval for the running jobs, and looks at each. Returns how many ended. */
static unsigned poll_running(struct jobs *js)
{
	struct pollfd p[JOBS_AT_ONCE_MAX];
	struct job *of[JOBS_AT_ONCE_MAX];
	unsigned n = 0, ended = 0;

	for (unsigned i = 0; i < js->count && n < JOBS_AT_ONCE_MAX; i++)
		if (js->job[i].state == JOB_RUNNING) {
			p[n] = (struct pollfd){.fd = js->job[i].progress, .events = POLLIN};
			of[n++] = &js->job[i];
		}
	if (poll(p, n, INTERVAL_MS) <= 0)
		return 0;
	for (unsigned i = 0; i < n; i++) {
		if (!p[i].revents || read_progress(of[i]))
			continue;
		job_finish(of[i]);
		js->changed(js->ctx, of[i]);
		ended++;
	}
	return ended;
}

static void signal_running(struct jobs *js, int sig)
{
	for (unsigned i = 0; i < js->count; i++)
		if (js->job[i].state == JOB_RUNNING)
			kill(js->job[i].pid, sig);
}

static unsigned count_state(const struct jobs *js, enum job_state s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < js->count; i++)
		n += js->job[i].state == s;
	return n;
}

static void end_all(struct jobs *js)
{
	double limit = jobs_clock() + GRACE_SECONDS;

	signal_running(js, SIGTERM);
	while (count_state(js, JOB_RUNNING)) {
		if (jobs_clock() > limit)
			signal_running(js, SIGKILL);
		poll_running(js);
	}
}

static int start_some(struct jobs *js, struct error *err)
{
	unsigned running = count_state(js, JOB_RUNNING);

	for (unsigned i = 0; i < js->count && running < js->limit && running < JOBS_AT_ONCE_MAX; i++) {
		int ret;

		if (js->job[i].state != JOB_WAITING)
			continue;
		ret = job_start(&js->job[i], err);
		if (ret)
			return ret;
		js->changed(js->ctx, &js->job[i]);
		running++;
	}
	return 0;
}

int jobs_run(struct jobs *js, struct error *err)
{
	while (count_state(js, JOB_DONE) < js->count) {
		int ret = start_some(js, err);

		if (ret == 0 && js->stop(js->ctx))
			ret = error_set(err, -EINTR, "interrupted");
		if (ret) {
			end_all(js);
			return ret;
		}
		poll_running(js);
		js->changed(js->ctx, NULL);
	}
	return 0;
}
