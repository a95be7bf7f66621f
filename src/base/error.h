/*
 * Host failures as values: a negative errno together with a line that says
 * what failed, where and why. Architectural faults are never reported so, and
 * broken invariants use assert(): three channels that do not mix.
 */
#ifndef GNOMON_BASE_ERROR_H
#define GNOMON_BASE_ERROR_H

struct error {
	int code;       /* negative errno, 0 if none */
	char text[512]; /* one line, without a newline */
};

/*
 * Records a failure.
 * @err: where to; may be NULL, then only the code is returned
 * @code: negative errno
 * @fmt: printf format of the line; control characters in it become question marks
 * Returns @code, so that "return error_set(...)" reads well.
 */
int error_set(struct error *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
