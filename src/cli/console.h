/*
 * The guest's serial line on the user's terminal: raw mode with escape keys, and
 * the terminal as it was on every way out. Input and output that are no terminal
 * work too, unfiltered.
 */
#ifndef GNOMON_CLI_CONSOLE_H
#define GNOMON_CLI_CONSOLE_H

#include "vm/vm.h"
#include <termios.h>

struct console {
	int in, out;         /* -1: none */
	bool own_out;        /* a file we opened */
	bool tty;            /* input is a terminal and in raw mode */
	bool escape;         /* Ctrl-A was typed */
	bool mid_line;       /* the last thing printed was no newline */
	bool quit;           /* Ctrl-A X */
	const char *label;   /* not NULL: output goes out in whole lines with this in front */
	char line[1024];     /* ... and this is the one that has begun */
	unsigned line_bytes;
	struct termios saved;
};

/*
 * @serial: NULL for the terminal or whatever standard input and output are; "none"; or a file for output only
 * -errno with @err if the file cannot be written.
 */
int console_open(struct console *c, const char *serial, struct error *err);
/* Standard output only, shared with others: whole lines, each after "@label| ". */
void console_open_labelled(struct console *c, const char *label);
/* On a terminal: makes what is printed next begin a line. */
void console_end_line(struct console *c);
/* Restores the terminal; async-signal-safe, may be repeated. */
void console_restore(struct console *c);
void console_close(struct console *c);
/* What a VM is given. */
struct vm_console console_for_vm(struct console *c);
/* Takes typed bytes, handles escapes, leaves in @data what is the guest's; returns how many. */
unsigned console_filter(struct console *c, uint8_t *data, unsigned bytes);

#endif
