/*
 * The qcow2 format as bytes: "The QCOW2 disk image format" of the QEMU project (docs/interop/qcow2),
 * whose section titles are cited. All numbers in an image are big-endian.
 */
#ifndef GNOMON_DISK_QCOW2_FORMAT_H
#define GNOMON_DISK_QCOW2_FORMAT_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define Q2_MAGIC "QFI\xfb"

/* Offsets in the header ("Header", "Additional fields"). */
enum {
	Q2_H_VERSION = 4,
	Q2_H_BACKING_AT = 8,
	Q2_H_BACKING_BYTES = 16,
	Q2_H_CLUSTER_BITS = 20,
	Q2_H_SIZE = 24,
	Q2_H_CRYPT = 32,
	Q2_H_L1_SIZE = 36,
	Q2_H_L1_AT = 40,
	Q2_H_RT_AT = 48,
	Q2_H_RT_CLUSTERS = 56,
	Q2_H_SNAPSHOTS = 60,
	Q2_H_SNAPSHOTS_AT = 64,
	Q2_H_V2_BYTES = 72,
	Q2_H_INCOMPATIBLE = 72,
	Q2_H_COMPATIBLE = 80,
	Q2_H_AUTOCLEAR = 88,
	Q2_H_REFCOUNT_ORDER = 96,
	Q2_H_LENGTH = 100,
	Q2_H_V3_BYTES = 104,
	Q2_H_COMPRESSION = 104,
	Q2_H_BYTES = 112,
};

#define Q2_DIRTY        (1ull << 0) /* incompatible features */
#define Q2_CORRUPT      (1ull << 1)
#define Q2_DATA_FILE    (1ull << 2)
#define Q2_COMPRESSION  (1ull << 3)
#define Q2_EXTENDED_L2  (1ull << 4)
#define Q2_LAZY         (1ull << 0) /* compatible features: lazy refcounts */
#define Q2_BITMAPS      (1ull << 0) /* autoclear features */

enum { Q2_ZLIB, Q2_ZSTD }; /* compression types */

#define Q2_EXT_END            0u /* header extensions */
#define Q2_EXT_BACKING_FORMAT 0xe2792acau
#define Q2_EXT_FEATURE_NAMES  0x6803f857u
#define Q2_EXT_BITMAPS        0x23852875u

/* Entries of L1 tables, L2 tables and the refcount table. */
#define Q2_COPIED     (1ull << 63) /* the refcount is exactly one: may be written in place */
#define Q2_COMPRESSED (1ull << 62)
#define Q2_ZERO_FLAG  (1ull << 0)  /* version 3 */
#define Q2_OFFSET     0x00fffffffffffe00ull
#define Q2_RT_OFFSET  0xfffffffffffffe00ull
#define Q2_SUBCLUSTERS 32          /* in a cluster, with extended L2 entries */

/* Offsets in an entry of the snapshot table ("Snapshots"). */
enum {
	Q2_S_L1_AT = 0,
	Q2_S_L1_SIZE = 8,
	Q2_S_ID_BYTES = 12,
	Q2_S_NAME_BYTES = 14,
	Q2_S_SECONDS = 16,
	Q2_S_NANOSECONDS = 20,
	Q2_S_CLOCK = 24,
	Q2_S_STATE_BYTES = 32,
	Q2_S_EXTRA_BYTES = 36,
	Q2_S_BYTES = 40,
	Q2_SX_STATE_BYTES = 0,
	Q2_SX_DISK_BYTES = 8,
	Q2_SX_ICOUNT = 16,
	Q2_SX_BYTES = 24, /* extra data */
};

/* What is believed of an image at most. */
#define Q2_CLUSTER_BITS_MIN    9
#define Q2_CLUSTER_BITS_MAX    21
#define Q2_L1_BYTES_MAX        (32u << 20)
#define Q2_RT_BYTES_MAX        (8u << 20)
#define Q2_SNAPSHOTS_MAX       65536u
#define Q2_SNAPSHOT_TABLE_MAX  (64u << 20)
#define Q2_EXTRA_MAX           1024u
#define Q2_NAME_MAX            1023u /* of a backing file */

static inline uint16_t be16_at(const void *p) { uint16_t v; memcpy(&v, p, 2); return be16toh(v); }
static inline uint32_t be32_at(const void *p) { uint32_t v; memcpy(&v, p, 4); return be32toh(v); }
static inline uint64_t be64_at(const void *p) { uint64_t v; memcpy(&v, p, 8); return be64toh(v); }
static inline void put_be16(void *p, uint16_t v) { v = htobe16(v); memcpy(p, &v, 2); }
static inline void put_be32(void *p, uint32_t v) { v = htobe32(v); memcpy(p, &v, 4); }
static inline void put_be64(void *p, uint64_t v) { v = htobe64(v); memcpy(p, &v, 8); }

#endif
