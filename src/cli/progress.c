/* See progress.h. */
#include "cli/progress.h"
#include "lab/compare.h"
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define REDRAW_SECONDS 0.25

void progress_begin(struct progress *p, const struct jobs *jobs, FILE *out)
{
	struct winsize w;

	*p = (struct progress){.out = out, .jobs = jobs, .live = isatty(fileno(out)), .columns = 80};
	if (p->live && ioctl(fileno(out), TIOCGWINSZ, &w) == 0 && w.ws_col > 20)
		p->columns = w.ws_col;
	for (unsigned i = 0; i < jobs->count; i++)
		if (strlen(jobs->job[i].title) > p->title)
			p->title = (unsigned)strlen(jobs->job[i].title);
}

/* Copies a line's printable ASCII, without terminal escape sequences. */
static void copy_printable(const char *from, const char *end, char *text, unsigned bytes)
{
	unsigned n = 0;

	while (from < end && n + 1 < bytes) {
		if (*from == 27 && from + 1 < end && from[1] == '[') {
			for (from += 2; from < end && (*from < '@' || *from > '~'); from++)
				;
			from++;
			continue;
		}
		if (*from >= ' ' && *from <= '~')
			text[n++] = *from;
		from++;
	}
	text[n] = 0;
}

void progress_last_line(const char *path, char *text, unsigned bytes)
{
	char tail[1024];
	ssize_t n = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t size;

	*text = 0;
	if (fd < 0)
		return;
	size = lseek(fd, 0, SEEK_END);
	if (size > 0)
		n = pread(fd, tail, sizeof(tail), size > (off_t)sizeof(tail) ? size - (off_t)sizeof(tail) : 0);
	close(fd);
	while (n > 0 && !*text) {
		ssize_t start;

		while (n > 0 && (tail[n - 1] == '\n' || tail[n - 1] == '\r'))
			n--;
		for (start = n; start > 0 && tail[start - 1] != '\n'; start--)
			;
		copy_printable(tail + start, tail + n, text, bytes);
		n = start;
	}
}

static void put_cut(struct progress *p, const char *text)
{
	fprintf(p->out, "%.*s\n", (int)p->columns - 1, text);
}

static void draw_job(struct progress *p, const struct job *j)
{
	double seconds = jobs_clock() - j->started;
	char text[512], last[256], digits[32];

	progress_last_line(j->log, last, sizeof(last));
	snprintf(text, sizeof(text), "%-7s %-*s %16s insns %6.1f MIPS  %s", j->mmu,
		 (int)p->title, j->title,
		 compare_group_digits(j->insns, digits), seconds > 0 ? (double)j->insns / seconds / 1e6 : 0.0, last);
	put_cut(p, text);
}

static void erase(struct progress *p)
{
	if (p->drawn)
		fprintf(p->out, "\033[%uA\033[J", p->drawn);
	p->drawn = 0;
}

static void draw(struct progress *p)
{
	unsigned waiting = 0;
	char text[64];

	for (unsigned i = 0; i < p->jobs->count; i++) {
		const struct job *j = &p->jobs->job[i];

		waiting += j->state == JOB_WAITING;
		if (j->state != JOB_RUNNING)
			continue;
		draw_job(p, j);
		p->drawn++;
	}
	if (waiting) {
		snprintf(text, sizeof(text), "%u more waiting", waiting);
		put_cut(p, text);
		p->drawn++;
	}
}

static void say(struct progress *p, const struct job *j)
{
	char last[256];

	if (j->state == JOB_RUNNING) {
		if (!p->live)
			fprintf(p->out, "%-7s %-*s started\n", j->mmu, (int)p->title, j->title);
		return;
	}
	progress_last_line(j->errors, last, sizeof(last));
	fprintf(p->out, "%-7s %-*s %s in %.1f s", j->mmu, (int)p->title, j->title,
		WIFEXITED(j->status) && WEXITSTATUS(j->status) != 127 ? "finished" : "failed", j->seconds);
	if (WIFEXITED(j->status) && WEXITSTATUS(j->status))
		fprintf(p->out, ", status %d: %s", WEXITSTATUS(j->status), last);
	if (WIFSIGNALED(j->status))
		fprintf(p->out, ", killed by signal %d (%s)", WTERMSIG(j->status), strsignal(WTERMSIG(j->status)));
	fputc('\n', p->out);
}

void progress_update(struct progress *p, const struct job *changed)
{
	if (!changed && (!p->live || jobs_clock() - p->drawn_at < REDRAW_SECONDS))
		return;
	p->drawn_at = jobs_clock();
	if (p->live)
		erase(p);
	if (changed)
		say(p, changed);
	if (p->live)
		draw(p);
	fflush(p->out);
}

void progress_end(struct progress *p)
{
	erase(p);
	fflush(p->out);
}
