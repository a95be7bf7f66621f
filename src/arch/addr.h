/*
 * Address types of a virtualized x86-64 machine.
 *
 * A guest-virtual, guest-physical and host-physical address are three different
 * things; each is a one-member struct, so that mixing them does not compile.
 * They cost nothing at -O2.
 */
#ifndef GNOMON_ARCH_ADDR_H
#define GNOMON_ARCH_ADDR_H

#include <stdint.h>

typedef struct { uint64_t v; } gva_t; /* guest-virtual (linear) address */
typedef struct { uint64_t v; } gpa_t; /* guest-physical address */
typedef struct { uint64_t v; } hpa_t; /* host-physical (machine) address */
typedef struct { uint64_t v; } gfn_t; /* guest frame number: gpa >> 12 */
typedef struct { uint64_t v; } mfn_t; /* machine frame number: hpa >> 12 */

#define PAGE_SHIFT 12
#define PAGE_SIZE  ((uint64_t)1 << PAGE_SHIFT)
#define PAGE_MASK  (~(PAGE_SIZE - 1))

#define SIZE_2M ((uint64_t)2 << 20)
#define SIZE_1G ((uint64_t)1 << 30)

static inline gva_t gva(uint64_t v) { return (gva_t){v}; }
static inline gpa_t gpa(uint64_t v) { return (gpa_t){v}; }
static inline hpa_t hpa(uint64_t v) { return (hpa_t){v}; }
static inline gfn_t gfn(uint64_t v) { return (gfn_t){v}; }
static inline mfn_t mfn(uint64_t v) { return (mfn_t){v}; }

static inline gfn_t gpa_to_gfn(gpa_t a) { return gfn(a.v >> PAGE_SHIFT); }
static inline mfn_t hpa_to_mfn(hpa_t a) { return mfn(a.v >> PAGE_SHIFT); }
static inline gpa_t gfn_to_gpa(gfn_t f) { return gpa(f.v << PAGE_SHIFT); }
static inline hpa_t mfn_to_hpa(mfn_t f) { return hpa(f.v << PAGE_SHIFT); }

#endif
