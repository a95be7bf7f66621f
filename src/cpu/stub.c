/*
 * Making and keeping host stubs. See stub.h for what they are.
 *
 * Both the code's memory (base/code_memory.h) and the table are
 * sized for the whole key space (every opcode, operand kind and immediate byte of
 * SSE to AVX2, MMX and x87); pages that are never used cost nothing. Nothing is
 * ever thrown away, so a decoded instruction may keep a pointer to its stub.
 *
 * Left out: relocation of RIP-relative operands (memory operands are always
 * presented in a buffer), and hosts other than x86-64.
 */
#include "cpu/stub.h"

#include <errno.h>
#include <stdlib.h>

#include "base/code_memory.h"

#define TABLE_SLOTS (2 * STUBS_MAX) /* power of two */
#define STUB_ALIGN  16u
#define STUB_MAX    128u   /* longest stub, in bytes */

struct stub_slot {
	uint64_t key;    /* 0: free */
	uint32_t offset; /* into the arena */
};

struct host_stubs {
	struct code_memory code;
	size_t used;
	unsigned count;
	struct stub_slot *table; /* [TABLE_SLOTS], open addressing */
};

/* A stub being written. */
struct emit {
	uint8_t code[STUB_MAX];
	unsigned n;
};

int stubs_create(struct host_stubs **out, struct error *err)
{
	struct host_stubs *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return error_set(err, -ENOMEM, "host stubs: out of memory");
	s->table = calloc(TABLE_SLOTS, sizeof(*s->table));
	rc = s->table ? code_memory_map(&s->code, STUBS_BYTES, "host stubs", err) : error_set(err, -ENOMEM, "host stubs: out of memory");
	if (rc < 0) {
		free(s->table);
		free(s);
		return rc;
	}
	*out = s;
	return 0;
}

void stubs_destroy(struct host_stubs *s)
{
	if (!s)
		return;
	code_memory_unmap(&s->code);
	free(s->table);
	free(s);
}

unsigned stubs_count(const struct host_stubs *s) { return s->count; }
size_t stubs_bytes(const struct host_stubs *s) { return s->used; }

/* ---- the table ---- */

static struct stub_slot *find_slot(struct host_stubs *s, uint64_t key)
{
	uint32_t i = (uint32_t)(key * 0x9e3779b97f4a7c15ull >> 40) & (TABLE_SLOTS - 1);

	while (s->table[i].key && s->table[i].key != key)
		i = (i + 1) & (TABLE_SLOTS - 1);
	return &s->table[i];
}

static const uint8_t *add_stub(struct host_stubs *s, struct stub_slot *slot, uint64_t key, const struct emit *e)
{
	if (s->used + STUB_MAX > STUBS_BYTES || s->count >= STUBS_MAX)
		return NULL;
	code_memory_reach(&s->code, s->used + STUB_MAX);
	memcpy(s->code.rw + s->used, e->code, e->n);
	slot->key = key;
	slot->offset = (uint32_t)s->used;
	s->used += (e->n + STUB_ALIGN - 1) & ~(size_t)(STUB_ALIGN - 1);
	s->count++;
	return s->code.rx + slot->offset;
}

/* ---- writing code ---- */

static void put(struct emit *e, const char *code, unsigned n)
{
	memcpy(e->code + e->n, code, n);
	e->n += n;
}
#define PUT(e, bytes) put(e, bytes, sizeof(bytes) - 1)
static void put_byte(struct emit *e, uint8_t b) { e->code[e->n++] = b; }

static void emit_entry(struct emit *e, const struct stub_desc *d)
{
	if (d->flags & STUB_STRING) {
		PUT(e, "\x49\x89\xd0");     /* mov r8, rdx */
		PUT(e, "\x49\x89\xc9");     /* mov r9, rcx */
		PUT(e, "\x49\x8b\x01");     /* mov rax, [r9] */
		PUT(e, "\x49\x8b\x51\x10"); /* mov rdx, [r9+16] */
	}
	if (d->flags & STUB_FP) {
		PUT(e, "\x0f\xae\x5c\x24\xf8"); /* stmxcsr [rsp-8] */
		PUT(e, "\x0f\xae\x52\x18");     /* ldmxcsr [rdx+24] */
	}
	switch (d->reg) {
	case STUB_XMM: PUT(e, "\x0f\x10\x17"); break; /* movups xmm2, [rdi] */
	case STUB_MM: PUT(e, "\x0f\x6f\x17"); break;  /* movq mm2, [rdi] */
	case STUB_GPR: PUT(e, "\x48\x8b\x07"); break; /* mov rax, [rdi] */
	default: break;
	}
	switch (d->rm) {
	case STUB_XMM: PUT(e, "\x0f\x10\x0e"); break; /* movups xmm1, [rsi] */
	case STUB_MM: PUT(e, "\x0f\x6f\x0e"); break;  /* movq mm1, [rsi] */
	case STUB_GPR: PUT(e, "\x48\x8b\x0e"); break; /* mov rcx, [rsi] */
	default: break;
	}
	if (d->flags & STUB_XMM0)
		PUT(e, "\x0f\x10\x82\xa0\x00\x00\x00"); /* movups xmm0, [rdx+160] */
}

/* The instruction itself, on the registers that emit_entry() loaded. */
static void emit_insn(struct emit *e, const struct stub_desc *d)
{
	unsigned reg = d->reg == STUB_NONE ? d->ext : d->reg == STUB_GPR ? 0 : 2;
	unsigned modrm = d->rm == STUB_MEM ? 0x06 /* [rsi] */ : 0xc1;

	if (d->opsize16)
		put_byte(e, 0x66);
	if (d->prefix)
		put_byte(e, d->prefix);
	if (d->rexw)
		put_byte(e, 0x48);
	put_byte(e, 0x0f);
	if (d->map != 1)
		put_byte(e, d->map == 2 ? 0x38 : 0x3a);
	put_byte(e, d->opcode);
	put_byte(e, (uint8_t)(modrm | reg << 3));
	if (d->has_imm)
		put_byte(e, d->imm);
}

static void emit_flags(struct emit *e) { PUT(e, "\x9f\x0f\x90\xc0\x0f\xb7\xc0"); /* lahf; seto al; movzx eax, ax */ }

static void emit_exit(struct emit *e, const struct stub_desc *d)
{
	if (d->flags & STUB_FLAGS)
		emit_flags(e);
	if (d->flags & STUB_FP) {
		PUT(e, "\x0f\xae\x5a\x18");     /* stmxcsr [rdx+24] */
		PUT(e, "\x0f\xae\x54\x24\xf8"); /* ldmxcsr [rsp-8] */
	}
	if (d->flags & STUB_WREG)
		switch (d->reg) {
		case STUB_XMM: PUT(e, "\x0f\x11\x17"); break; /* movups [rdi], xmm2 */
		case STUB_MM: PUT(e, "\x0f\x7f\x17"); break;  /* movq [rdi], mm2 */
		case STUB_GPR: PUT(e, "\x48\x89\x07"); break; /* mov [rdi], rax */
		default: break;
		}
	if (d->flags & STUB_WRM)
		switch (d->rm) {
		case STUB_XMM: PUT(e, "\x0f\x11\x0e"); break; /* movups [rsi], xmm1 */
		case STUB_MM: PUT(e, "\x0f\x7f\x0e"); break;  /* movq [rsi], mm1 */
		case STUB_GPR: PUT(e, "\x48\x89\x0e"); break; /* mov [rsi], rcx */
		default: break;
		}
	if (d->flags & STUB_STRING) {
		if (d->opcode & 1)
			PUT(e, "\x49\x89\x49\x08"); /* mov [r9+8], rcx: PCMPxSTRI */
		else
			PUT(e, "\x41\x0f\x11\x80\xa0\x00\x00\x00"); /* movups [r8+160], xmm0: PCMPxSTRM */
	}
	if (d->reg == STUB_MM || d->rm == STUB_MM)
		PUT(e, "\x0f\x77"); /* emms */
	put_byte(e, 0xc3);
}

static uint64_t vector_key(const struct stub_desc *d)
{
	uint64_t p = d->prefix == 0x66 ? 1 : d->prefix == 0xf2 ? 2 : d->prefix == 0xf3 ? 3 : 0;

	return 1 | p << 1 | (uint64_t)d->opsize16 << 3 | (uint64_t)d->rexw << 4 | (uint64_t)d->map << 5 |
	       (uint64_t)d->opcode << 8 | (uint64_t)d->ext << 16 | (uint64_t)d->reg << 20 |
	       (uint64_t)d->rm << 24 | (uint64_t)d->has_imm << 28 | (uint64_t)d->imm << 32 |
	       (uint64_t)d->flags << 40;
}

vec_stub_fn stub_vector(struct host_stubs *s, const struct stub_desc *d)
{
	uint64_t key = vector_key(d);
	struct stub_slot *slot = find_slot(s, key);
	struct emit e = { .n = 0 };

	if (slot->key)
		return (vec_stub_fn)(uintptr_t)(s->code.rx + slot->offset);
	emit_entry(&e, d);
	emit_insn(&e, d);
	emit_exit(&e, d);
	return (vec_stub_fn)(uintptr_t)add_stub(s, slot, key, &e);
}

/* ---- VEX: operands in ymm1 or rax (reg), ymm2 (vvvv), ymm3 or rdx (rm), ymm4; RDI is the frame ---- */

_Static_assert(offsetof(struct vex_frame, mxcsr) == 128 && offsetof(struct vex_frame, rcx) == 152,
	      "the code below has these offsets in it");

static void emit_vex_entry(struct emit *e, const struct vex_desc *d)
{
	if (d->flags & STUB_STRING) {
		PUT(e, "\x48\x8b\x87\x88\x00\x00\x00"); /* mov rax, [rdi+136] */
		PUT(e, "\x48\x8b\x97\x90\x00\x00\x00"); /* mov rdx, [rdi+144] */
	}
	if (d->flags & STUB_FP) {
		PUT(e, "\x0f\xae\x5c\x24\xf8");         /* stmxcsr [rsp-8] */
		PUT(e, "\x0f\xae\x97\x80\x00\x00\x00"); /* ldmxcsr [rdi+128] */
	}
	if (d->reg == STUB_XMM)
		PUT(e, "\xc5\xfc\x10\x0f"); /* vmovups ymm1, [rdi] */
	if (d->reg == STUB_GPR)
		PUT(e, "\x48\x8b\x07"); /* mov rax, [rdi] */
	if (d->v)
		PUT(e, "\xc5\xfc\x10\x57\x20"); /* vmovups ymm2, [rdi+32] */
	if (d->rm == STUB_XMM)
		PUT(e, "\xc5\xfc\x10\x5f\x40"); /* vmovups ymm3, [rdi+64] */
	if (d->rm == STUB_GPR)
		PUT(e, "\x48\x8b\x57\x40"); /* mov rdx, [rdi+64] */
	if (d->is4)
		PUT(e, "\xc5\xfc\x10\x67\x60"); /* vmovups ymm4, [rdi+96] */
}

static void emit_vex_insn(struct emit *e, const struct vex_desc *d)
{
	unsigned reg = d->reg == STUB_NONE ? d->ext : d->reg == STUB_GPR ? 0 : 1;

	put_byte(e, 0xc4);
	put_byte(e, 0xe0 | d->map);
	put_byte(e, (uint8_t)((unsigned)d->w << 7 | (d->v ? 13u : 15u) << 3 | (unsigned)d->l << 2 | d->pp));
	put_byte(e, d->opcode);
	if (d->rm == STUB_MEM) {
		put_byte(e, (uint8_t)(0x47 | reg << 3)); /* [rdi+64] */
		put_byte(e, 0x40);
	} else {
		put_byte(e, (uint8_t)(0xc0 | reg << 3 | (d->rm == STUB_GPR ? 2 : 3)));
	}
	if (d->is4)
		put_byte(e, 0x40);
	else if (d->has_imm)
		put_byte(e, d->imm);
}

static void emit_vex_exit(struct emit *e, const struct vex_desc *d)
{
	if (d->flags & STUB_FLAGS)
		emit_flags(e);
	if (d->flags & STUB_FP) {
		PUT(e, "\x0f\xae\x9f\x80\x00\x00\x00"); /* stmxcsr [rdi+128] */
		PUT(e, "\x0f\xae\x54\x24\xf8");         /* ldmxcsr [rsp-8] */
	}
	if (d->flags & STUB_WREG) {
		if (d->reg == STUB_GPR)
			PUT(e, "\x48\x89\x07"); /* mov [rdi], rax */
		else
			PUT(e, "\xc5\xfc\x11\x0f"); /* vmovups [rdi], ymm1 */
	}
	if (d->flags & STUB_WV)
		PUT(e, "\xc5\xfc\x11\x57\x20"); /* vmovups [rdi+32], ymm2 */
	if ((d->flags & STUB_WRM) && d->rm == STUB_GPR)
		PUT(e, "\x48\x89\x57\x40"); /* mov [rdi+64], rdx */
	if ((d->flags & STUB_WRM) && d->rm == STUB_XMM)
		PUT(e, "\xc5\xfc\x11\x5f\x40"); /* vmovups [rdi+64], ymm3 */
	if (d->flags & STUB_STRING) {
		PUT(e, "\x48\x89\x8f\x98\x00\x00\x00"); /* mov [rdi+152], rcx */
		PUT(e, "\xc5\xfc\x11\x47\x60");         /* vmovups [rdi+96], ymm0 */
	}
	PUT(e, "\xc5\xf8\x77\xc3"); /* vzeroupper; ret */
}

static uint64_t vex_key(const struct vex_desc *d)
{
	return 1ull << 62 | (uint64_t)d->pp | (uint64_t)d->w << 2 | (uint64_t)d->l << 3 | (uint64_t)d->map << 4 |
	       (uint64_t)d->opcode << 8 | (uint64_t)d->ext << 16 | (uint64_t)d->reg << 20 | (uint64_t)d->rm << 24 |
	       (uint64_t)d->v << 28 | (uint64_t)d->is4 << 29 | (uint64_t)d->has_imm << 30 |
	       (uint64_t)d->imm << 32 | (uint64_t)d->flags << 40;
}

vex_stub_fn stub_vex(struct host_stubs *s, const struct vex_desc *d)
{
	uint64_t key = vex_key(d);
	struct stub_slot *slot = find_slot(s, key);
	struct emit e = {.n = 0};

	if (slot->key)
		return (vex_stub_fn)(uintptr_t)(s->code.rx + slot->offset);
	emit_vex_entry(&e, d);
	emit_vex_insn(&e, d);
	emit_vex_exit(&e, d);
	return (vex_stub_fn)(uintptr_t)add_stub(s, slot, key, &e);
}

/*
 * The flags go in and come out of every x87 stub: FCMOVcc reads them, FCOMI
 * writes them, and on the others they cost nothing beside FXRSTOR.
 */
x87_stub_fn stub_x87(struct host_stubs *s, uint8_t escape, uint8_t modrm)
{
	uint8_t form = (modrm & 0xc0) == 0xc0 ? modrm : (uint8_t)((modrm & 0x38) | 0x06);
	uint64_t key = 1ull << 63 | (uint64_t)escape << 8 | form;
	struct stub_slot *slot = find_slot(s, key);
	struct emit e = { .n = 0 };

	if (slot->key)
		return (x87_stub_fn)(uintptr_t)(s->code.rx + slot->offset);
	PUT(&e, "\x0f\xae\x5c\x24\xf8"); /* stmxcsr [rsp-8] */
	PUT(&e, "\x48\x0f\xae\x0f");     /* fxrstor64 [rdi] */
	PUT(&e, "\x89\xd0\x04\x7f\x9e"); /* mov eax, edx; add al, 127; sahf */
	put_byte(&e, escape);
	put_byte(&e, form);
	emit_flags(&e);
	PUT(&e, "\x48\x0f\xae\x07");     /* fxsave64 [rdi] */
	PUT(&e, "\xdb\xe3");             /* fninit */
	PUT(&e, "\x0f\xae\x54\x24\xf8"); /* ldmxcsr [rsp-8] */
	put_byte(&e, 0xc3);
	return (x87_stub_fn)(uintptr_t)add_stub(s, slot, key, &e);
}
