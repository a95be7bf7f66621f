/*
 * The stream in which the state of a VM leaves and comes: into files and over connections alike. It says what it is,
 * is made of named sections, each with its length and a checksum, and says where it ends. A reader believes nothing
 * of it: lengths are bounded before memory is asked for, and a section is given out only after its checksum was right.
 *
 *	"GNOMONST"  u32 version
 *	section:    u8 length of name, name, u64 length, payload, u64 XXH3 of all that
 *	...
 *	section "end": u64 number of sections before it
 *
 * Numbers are little-endian. docs/FORMATS.md says which sections there are.
 */
#ifndef GNOMON_VM_STREAM_H
#define GNOMON_VM_STREAM_H

#include "base/error.h"
#include "base/util.h"

#define STREAM_VERSION     1
#define STREAM_NAME_MAX    63
#define STREAM_SECTION_MAX ((uint64_t)16 << 20) /* bytes of a payload; no reader takes more */
#define STREAM_HEADER_BYTES 12

/* What it goes through. Both move all bytes or fail; read fails with -ENODATA if it ends before. */
struct stream_io {
	int (*write)(void *ctx, const void *data, size_t bytes, struct error *err);
	int (*read)(void *ctx, void *data, size_t bytes, struct error *err);
	void *ctx;
};

struct stream_writer {
	struct stream_io io;
	uint64_t sections;
	uint64_t at;       /* bytes written */
};

/* Writes the header. */
int stream_begin(struct stream_writer *w, const struct stream_io *io, struct error *err);
/*
 * Writes a section. @name: 1 to STREAM_NAME_MAX bytes; @bytes: at most STREAM_SECTION_MAX, else -EFBIG. The payload
 * may come in two pieces, one behind the other (@more: NULL if not).
 */
int stream_put(struct stream_writer *w, const char *name, const void *data, size_t bytes, struct error *err);
int stream_put2(struct stream_writer *w, const char *name, const void *data, size_t bytes, const void *more,
		size_t more_bytes, struct error *err);
/* Writes the last section. */
int stream_end(struct stream_writer *w, struct error *err);

struct stream_section {
	char name[STREAM_NAME_MAX + 1];
	uint8_t *data;   /* the reader's, until the next section is read */
	size_t bytes;
};

struct stream_reader {
	struct stream_io io;
	const char *what;  /* for messages: the file's name, the peer */
	uint64_t sections;
	uint64_t at;       /* bytes read */
	uint8_t *data;
	size_t room;
};

/*
 * Reads and checks the header. @what: lasts as long as the reader.
 * -EINVAL: no such stream; -ENOTSUP: of a version that is not known.
 */
int stream_open(struct stream_reader *r, const struct stream_io *io, const char *what, struct error *err);
/*
 * Reads the next section. 1; 0 after the last one, whose count was right; -EBADMSG: damaged; -EFBIG: lies;
 * -ENODATA: ends in the middle; -ENOMEM.
 */
int stream_get(struct stream_reader *r, struct stream_section *section, struct error *err);
/*
 * In two steps, for who knows how to pass over the payload by himself: reads name and length of the next section (as
 * stream_get() returns; 0 is not told before the payload of "end" is read); then its payload.
 */
struct stream_head {
	char name[STREAM_NAME_MAX + 1];
	uint64_t bytes;
};
int stream_get_head(struct stream_reader *r, struct stream_head *head, struct error *err);
int stream_get_payload(struct stream_reader *r, const struct stream_head *head, struct stream_section *section,
		       struct error *err);
void stream_close(struct stream_reader *r);

#endif
