/* What the rights of a translation allow. SDM "Determination of Access Rights", "Protection Keys", "EPT Violations". */
#ifndef GNOMON_MMU_RIGHTS_H
#define GNOMON_MMU_RIGHTS_H

#include "arch/x86.h"
#include "mmu/mmu.h"

static inline bool mmu_is_long(const struct mmu *m) { return m->regs.efer >> 10 & 1; }

static inline bool mmu_has_pkeys(const struct mmu *m) { return (m->regs.cr4 & CR4_PKE) && mmu_is_long(m); }

/* What guest paging demands for such an access: user access, SMEP, SMAP, CR0.WP; not protection keys. */
static inline struct rights_rule rights_rule_of_paging(const struct mmu_regs *r, enum access_kind kind,
						       enum access_mode mode)
{
	bool user = mode_is_user(mode);
	struct rights_rule rule = {user ? TLB_U : 0, user ? TLB_U : 0};

	if (kind == ACCESS_FETCH) {
		rule.care |= TLB_NX;
		if (r->cr4 & CR4_SMEP)
			rule.care |= TLB_U;
		return rule;
	}
	if ((r->cr4 & CR4_SMAP) && mode != MODE_SUPER_AC)
		rule.care |= TLB_U;
	if (kind == ACCESS_WRITE && (user || (r->cr0 & CR0_WP))) {
		rule.care |= TLB_W;
		rule.want |= TLB_W;
	}
	return rule;
}

/* The same and what EPT and the dirty flags demand, which must be set before a store. */
static inline struct rights_rule rights_rule_of(const struct mmu *m, enum access_kind kind, enum access_mode mode)
{
	static const uint16_t need[] = {[ACCESS_READ] = TLB_EPT_R, [ACCESS_WRITE] = TLB_EPT_W | TLB_D,
					[ACCESS_FETCH] = TLB_EPT_X};
	struct rights_rule rule = {0, 0};

	if (mmu_paging(m))
		rule = rights_rule_of_paging(&m->regs, kind, mode);
	rule.care |= need[kind];
	rule.want |= need[kind];
	return rule;
}

static inline bool pkey_permits(const struct mmu *m, uint16_t rights, uint8_t pkey, enum access_kind kind, bool user)
{
	uint32_t key = m->regs.pkru >> (pkey * 2);

	if (!m->pkeys || !(rights & TLB_U) || !(key & 3))
		return true;
	if (key & 1)
		return false;
	return kind != ACCESS_WRITE || (!user && !(m->regs.cr0 & CR0_WP));
}

/* Does a translation with these rights allow the access? */
static ALWAYS_INLINE bool rights_serve(const struct mmu *m, uint16_t rights, uint8_t pkey, enum access_kind kind,
				       enum access_mode mode)
{
	struct rights_rule rule = m->rule[kind][mode];

	return (rights & rule.care) == rule.want &&
	       (kind == ACCESS_FETCH || pkey_permits(m, rights, pkey, kind, mode_is_user(mode)));
}

/* The same of guest paging only. */
static ALWAYS_INLINE bool rights_permit(const struct mmu *m, uint16_t rights, uint8_t pkey, enum access_kind kind,
					enum access_mode mode)
{
	return rights_serve(m, rights | TLB_EPT_RWX | TLB_D, pkey, kind, mode);
}

#endif
