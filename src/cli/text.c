/* Numbers, times and paths as people and other programs want them. */
#include "cli/cli.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

char *absolute_path(const char *path)
{
	char *cwd, *joined;

	if (*path == '/')
		return strdup(path);
	cwd = getcwd(NULL, 0);
	if (!cwd || asprintf(&joined, "%s/%s", cwd, path) < 0)
		joined = NULL;
	free(cwd);
	return joined;
}

void human_bytes(uint64_t v, char text[32])
{
	static const char unit[] = "BKMGTPE";
	double d = (double)v;
	unsigned u = 0;

	for (; d >= 1024 && u < 6; u++)
		d /= 1024;
	snprintf(text, 32, u ? "%.4g %ciB" : "%.4g bytes", d, unit[u]);
}

void human_time(int64_t seconds, char text[32])
{
	time_t t = seconds;
	struct tm tm;

	if (!gmtime_r(&t, &tm) || !strftime(text, 32, "%Y-%m-%d %H:%M:%S", &tm))
		snprintf(text, 32, "?");
}
