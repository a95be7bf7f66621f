/*
 * Handlers of a fuzzed guest. A fault is left behind by going on with the next slot
 * of code; from anywhere else with a slot chosen by a counter; every fourth entry
 * goes back to the kernel's own stack and privilege. Traps return as they came. In
 * strict guests each entry forgets all translations first.
 */
#include "mf_layout.h"

	.section .rodata
	.globl mf_stubs, mf_stubs_end
	.globl mf_fault64, mf_fault64_code, mf_trap64, mf_irq64, mf_syscall64
	.globl mf_fault32, mf_fault32_code, mf_trap32, mf_irq32, mf_syscall32
	.globl mf_fault16
	.balign 16
mf_stubs:

	.code64
mf_fault64:
	push	$0
mf_fault64_code:
	push	%rax
	push	%rcx
	push	%rdx
	call	enter64
	mov	32(%rsp), %rax
	mov	%rax, %rcx
	sub	$MF_CODE, %rcx
	cmp	$MF_CODE_BYTES, %rcx
	jb	1f
	mov	%rax, %rcx
	sub	$MF_UCODE, %rcx
	cmp	$MF_CODE_BYTES, %rcx
	jb	1f
	imul	$0x9e3779b1, MF_COUNT, %eax
	shr	$24, %eax
	imul	$MF_SLOT, %eax, %eax
	add	$MF_CODE - MF_SLOT, %eax
1:	add	$48, %rax
	and	$-64, %rax
	add	$16, %rax
	mov	%rax, 32(%rsp)
	testb	$3, MF_COUNT
	jnz	2f
	movq	$MF_KCS, 40(%rsp)
	movq	$0x202, 48(%rsp)
	movq	$MF_KSTACK, 56(%rsp)
	movq	$MF_KDS, 64(%rsp)
2:	pop	%rdx
	pop	%rcx
	pop	%rax
	add	$8, %rsp
	iretq

mf_trap64:
	push	%rax
	push	%rcx
	push	%rdx
	call	enter64
	pop	%rdx
	pop	%rcx
	pop	%rax
	iretq

mf_irq64:
	push	%rax
	push	%rcx
	push	%rdx
	call	enter64
	call	eoi64
	pop	%rdx
	pop	%rcx
	pop	%rax
	iretq

/* SYSCALL and SYSENTER arrive here; goes on in the kernel. */
mf_syscall64:
	mov	$MF_KSTACK, %esp
	call	enter64
	imul	$0x9e3779b1, MF_COUNT, %eax
	shr	$24, %eax
	imul	$MF_SLOT, %eax, %eax
	add	$MF_CODE, %eax
	jmp	*%rax

enter64:
	cld
	incl	MF_COUNT
	cmpb	$MF_FLUSH_CR3, MF_FLUSH
	jb	4f
	ja	3f
	mov	%cr3, %rax
	mov	%rax, %cr3
	ret
3:	mov	%cr4, %rax
	xor	$0x80, %al
	mov	%rax, %cr4
	xor	$0x80, %al
	mov	%rax, %cr4
4:	ret

eoi64:
	mov	$0x1b, %ecx
	rdmsr
	test	$0x400, %eax
	jnz	5f
	movl	$0, MF_APIC + 0xb0
	ret
5:	mov	$0x80b, %ecx
	xor	%eax, %eax
	xor	%edx, %edx
	wrmsr
	ret

	.code32
mf_fault32:
	push	$0
mf_fault32_code:
	push	%eax
	push	%ecx
	push	%edx
	call	enter32
	mov	16(%esp), %eax
	mov	%eax, %ecx
	sub	$MF_CODE, %ecx
	cmp	$MF_CODE_BYTES, %ecx
	jb	1f
	mov	%eax, %ecx
	sub	$MF_UCODE, %ecx
	cmp	$MF_CODE_BYTES, %ecx
	jb	1f
	imul	$0x9e3779b1, %ss:MF_COUNT, %eax
	shr	$24, %eax
	imul	$MF_SLOT, %eax, %eax
	add	$MF_CODE - MF_SLOT, %eax
1:	add	$48, %eax
	and	$-64, %eax
	add	$16, %eax
	mov	%eax, 16(%esp)
	testb	$3, %ss:MF_COUNT
	jnz	2f
	movl	$MF_KCS, 20(%esp)
	movl	$0x202, 24(%esp)
	mov	$MF_KDS, %eax
	mov	%eax, %ds
	mov	%eax, %es
2:	pop	%edx
	pop	%ecx
	pop	%eax
	add	$4, %esp
	iret

mf_trap32:
	push	%eax
	push	%ecx
	push	%edx
	call	enter32
	pop	%edx
	pop	%ecx
	pop	%eax
	iret

mf_irq32:
	push	%eax
	push	%ecx
	push	%edx
	call	enter32
	call	eoi32
	pop	%edx
	pop	%ecx
	pop	%eax
	iret

mf_syscall32:
	mov	$MF_KSTACK, %esp
	call	enter32
	imul	$0x9e3779b1, %ss:MF_COUNT, %eax
	shr	$24, %eax
	imul	$MF_SLOT, %eax, %eax
	add	$MF_CODE, %eax
	jmp	*%eax

enter32:
	cld
	incl	%ss:MF_COUNT
	cmpb	$MF_FLUSH_CR3, %ss:MF_FLUSH
	jb	4f
	ja	3f
	mov	%cr3, %eax
	mov	%eax, %cr3
	ret
3:	mov	%cr4, %eax
	xor	$0x80, %al
	mov	%eax, %cr4
	xor	$0x80, %al
	mov	%eax, %cr4
4:	ret

eoi32:
	mov	$0x1b, %ecx
	rdmsr
	test	$0x400, %eax
	jnz	5f
	movl	$0, %ss:MF_APIC + 0xb0
	ret
5:	mov	$0x80b, %ecx
	xor	%eax, %eax
	xor	%edx, %edx
	wrmsr
	ret

	.code16
mf_fault16:
	push	%bp
	mov	%sp, %bp
	push	%ax
	incw	%cs:MF_COUNT
	mov	2(%bp), %ax
	add	$48, %ax
	and	$-64, %ax
	add	$16, %ax
	and	$0x3fff, %ax
	mov	%ax, 2(%bp)
	pop	%ax
	pop	%bp
	iret
mf_stubs_end:
	.section .note.GNU-stack,"",@progbits
