/*
 * State that outlives a process: a struct is described by a table of its fields, and the table saves the struct as
 * bytes, loads it, and prints the bytes. The bytes describe themselves (docs/FORMATS.md): names, kinds and sizes of
 * fields beside their values, little-endian, without padding or pointers; equal structs give equal bytes.
 *
 * Bytes that are loaded may come from anybody. A field that is unknown, missing, twice there, of another kind or size,
 * or above its largest value is refused with its name; what concerns several fields together is the table's check().
 */
#ifndef GNOMON_BASE_STATE_H
#define GNOMON_BASE_STATE_H

#include "base/error.h"
#include "base/util.h"

#include <stdio.h>

enum state_kind {
	STATE_UINT,   /* an unsigned number (or an enum) of 1, 2, 4 or 8 bytes; signed ones as two's complement */
	STATE_BOOL,
	STATE_BYTES,  /* bytes without further meaning: always an array */
	STATE_STRUCT, /* described by a table of its own */
	STATE_KINDS,
};

struct state_desc;

/* One member of a struct. Made with the macros below. */
struct state_field {
	const char *name;             /* at most STATE_NAME_MAX bytes */
	enum state_kind kind;
	bool array;
	size_t offset, size;          /* in the struct; bytes of one element */
	unsigned count;               /* elements: 1, or those of the array */
	uint64_t max;                 /* STATE_UINT: the largest value that is accepted */
	const struct state_desc *sub; /* STATE_STRUCT */
	/* An array of which only the first elements are used: the member that says how many; used_size 0: all are. */
	size_t used, used_size;
};

struct state_desc {
	const char *name;
	unsigned version;             /* a struct saved as another version is refused */
	const struct state_field *field;
	unsigned fields;
	/*
	 * NULL if there is nothing to do. Before saving: brings the object into the one form in which it is saved;
	 * changes nothing that anybody can notice.
	 */
	void (*prepare)(void *object);
	/*
	 * After loading, the fields of its sub-tables included: do the fields agree with each other? 0, or -EINVAL
	 * with @err. May compute what is derived from them.
	 */
	int (*check)(void *object, struct error *err);
};

/* A table, from an array of fields; prepare and check follow as designated initializers. */
#define STATE_DESC(n, v, f, ...) {.name = (n), .version = (v), .field = (f), .fields = ARRAY_SIZE(f), ##__VA_ARGS__}

#define STATE_NAME_MAX  63
#define STATE_DEPTH_MAX 8 /* of structs in structs */

#define STATE_MEMBER_(T, m) .name = #m, .offset = offsetof(T, m)
#define STATE_SIZE_(T, m)   sizeof(((T *)0)->m)
/* A number, a number with a largest value, a boolean. */
#define STATE_U(T, m)       {STATE_MEMBER_(T, m), .kind = STATE_UINT, .size = STATE_SIZE_(T, m), .count = 1, .max = UINT64_MAX}
#define STATE_U_MAX(T, m, limit) \
	{STATE_MEMBER_(T, m), .kind = STATE_UINT, .size = STATE_SIZE_(T, m), .count = 1, .max = (limit)}
#define STATE_B(T, m)       {STATE_MEMBER_(T, m), .kind = STATE_BOOL, .size = sizeof(bool), .count = STATE_SIZE_(T, m)}
/* Arrays: of numbers, of booleans, of bytes. */
#define STATE_UV_MAX(T, m, limit)                                                                                    \
	{STATE_MEMBER_(T, m), .kind = STATE_UINT, .array = true, .size = STATE_SIZE_(T, m[0]),                       \
	 .count = STATE_SIZE_(T, m) / STATE_SIZE_(T, m[0]), .max = (limit)}
#define STATE_UV(T, m)      STATE_UV_MAX(T, m, UINT64_MAX)
#define STATE_BV(T, m)                                                                                               \
	{STATE_MEMBER_(T, m), .kind = STATE_BOOL, .array = true, .size = sizeof(bool), .count = STATE_SIZE_(T, m)}
#define STATE_DATA(T, m)                                                                                             \
	{STATE_MEMBER_(T, m), .kind = STATE_BYTES, .array = true, .size = 1, .count = STATE_SIZE_(T, m)}
/* Arrays of which the member @n says how many elements are used; @n is not saved by itself. */
#define STATE_USED_(T, n)   .used = offsetof(T, n), .used_size = STATE_SIZE_(T, n)
#define STATE_DATA_USED(T, m, n)                                                                                     \
	{STATE_MEMBER_(T, m), .kind = STATE_BYTES, .array = true, .size = 1, .count = STATE_SIZE_(T, m), STATE_USED_(T, n)}
#define STATE_UV_USED(T, m, n)                                                                                       \
	{STATE_MEMBER_(T, m), .kind = STATE_UINT, .array = true, .size = STATE_SIZE_(T, m[0]),                       \
	 .count = STATE_SIZE_(T, m) / STATE_SIZE_(T, m[0]), .max = UINT64_MAX, STATE_USED_(T, n)}
/* A struct, an array of structs; @d: their table. */
#define STATE_S(T, m, d)    {STATE_MEMBER_(T, m), .kind = STATE_STRUCT, .size = STATE_SIZE_(T, m), .count = 1, .sub = (d)}
#define STATE_SV(T, m, d)                                                                                            \
	{STATE_MEMBER_(T, m), .kind = STATE_STRUCT, .array = true, .size = STATE_SIZE_(T, m[0]),                     \
	 .count = STATE_SIZE_(T, m) / STATE_SIZE_(T, m[0]), .sub = (d)}

/* Bytes that grow. */
struct state_buffer {
	uint8_t *data;
	size_t bytes, room;
};
void state_buffer_free(struct state_buffer *b);

/* Saves @object into @out, behind what is there. -ENOMEM, -EOVERFLOW (more elements used than there are). */
int state_save(const struct state_desc *desc, void *object, struct state_buffer *out, struct error *err);

/*
 * Loads @object from all of the @n bytes. -EINVAL: they are not @desc's, with the field's name in @err; @object is then
 * partly loaded and of no use but to be destroyed: no member that is not in the table was touched, and no array is said
 * to use more elements than it has.
 */
int state_load(const struct state_desc *desc, void *object, const void *bytes, size_t n, struct error *err);

/* A struct that is saved under a name, as a section. */
struct state_object {
	const char *name;
	const struct state_desc *desc;
	void *object;
};

/* Who takes sections, one after the other. @bytes are the caller's and valid during the call only. 0 or negative errno. */
struct state_sink {
	void *ctx;
	int (*section)(void *ctx, const char *name, const void *bytes, size_t n, struct error *err);
};
/* Saves an object and gives it to @sink. Errors of state_save() and of the sink. */
int state_give(const struct state_sink *sink, const struct state_object *o, struct error *err);

/*
 * Prints saved bytes as text, a field a line, indented by @indent tabs and deeper in structs; no table is needed.
 * -EINVAL if they are not such bytes (what could be read was printed).
 */
int state_print(const void *bytes, size_t n, unsigned indent, FILE *out, struct error *err);

#endif
