/*
 * Start of a bare-metal test: from the multiboot loader's 32-bit protected mode
 * to main() in 64-bit mode, and the entries of all 256 interrupt vectors.
 *
 * The address space: the first 4 GiB mapped one to one for the supervisor; the
 * first 1 GiB once more at USER_BASE for user mode. With the word "la57" on the
 * command line, and a processor that can, paging has five levels.
 */
#include "layout.h"

	.section .multiboot, "a"
	.balign 4
	.long 0x1badb002, 0x00000003, -(0x1badb002 + 0x00000003)

	.section .bss
	.balign 4096
	.global boot_pml5, boot_pml4
boot_pml5:	.skip 4096
boot_pml4:	.skip 4096
pdpt_low:	.skip 4096
pd_low:		.skip 4096 * 4
pdpt_user:	.skip 4096
pd_user:	.skip 4096
	.balign 16
	.skip 65536
boot_stack_top:
	.skip 16384
	.global trap_stack_top
trap_stack_top:
	.global gdt_pointer
gdt_pointer:	.skip 16

	.text
	.code32
	.global start
start:
	cli
	cld
	mov	$boot_stack_top, %esp
	mov	%ebx, %ebp			/* multiboot information */

	mov	$pd_low, %edi			/* 4 GiB of 2 MiB pages, supervisor */
	mov	$0x83, %eax
1:	mov	%eax, (%edi)
	movl	$0, 4(%edi)
	add	$0x200000, %eax
	add	$8, %edi
	cmp	$pd_low + 4096 * 4, %edi
	jne	1b
	mov	$pd_user, %edi			/* 1 GiB of 2 MiB pages, user */
	mov	$0x87, %eax
2:	mov	%eax, (%edi)
	add	$0x200000, %eax
	add	$8, %edi
	cmp	$pd_user + 4096, %edi
	jne	2b
	movl	$pd_low + 0x0003, pdpt_low
	movl	$pd_low + 0x1003, pdpt_low + 8
	movl	$pd_low + 0x2003, pdpt_low + 16
	movl	$pd_low + 0x3003, pdpt_low + 24
	movl	$pd_user + 7, pdpt_user
	movl	$pdpt_low + 3, boot_pml4
	movl	$pdpt_user + 7, boot_pml4 + USER_SLOT * 8
	movl	$boot_pml4 + 7, boot_pml5

	mov	$0x620, %esi			/* PAE, OSFXSR, OSXMMEXCPT */
	mov	$boot_pml4, %edi
	call	wants_la57
	jnz	3f
	or	$0x1000, %esi
	mov	$boot_pml5, %edi
3:	mov	%esi, %cr4
	mov	%edi, %cr3
	mov	$0xc0000080, %ecx		/* EFER: SCE, LME, and NXE where there is NX */
	rdmsr
	or	$0x101, %eax
	mov	%eax, %esi
	mov	$0x80000001, %eax
	cpuid
	bt	$20, %edx
	jnc	4f
	or	$0x800, %esi
4:	mov	%esi, %eax
	mov	$0xc0000080, %ecx
	xor	%edx, %edx
	wrmsr
	mov	$0x80010033, %eax		/* PG, WP, NE, ET, MP, PE */
	mov	%eax, %cr0
	lgdt	boot_gdt_pointer
	ljmp	$8, $start64

/* ZF set if the command line contains "la57" and CPUID shows it. Keeps ESI, EDI, EBP. */
wants_la57:
	push	%esi
	testl	$4, (%ebp)
	jz	7f
	mov	16(%ebp), %esi
5:	movzbl	(%esi), %eax
	test	%al, %al
	jz	7f
	cmpl	$0x3735616c, (%esi)		/* "la57" */
	je	6f
	inc	%esi
	jmp	5b
6:	xor	%eax, %eax
	cpuid
	cmp	$7, %eax
	jb	7f
	mov	$7, %eax
	xor	%ecx, %ecx
	cpuid
	not	%ecx
	test	$0x10000, %ecx
	pop	%esi
	ret
7:	pop	%esi
	or	$1, %eax			/* clears ZF */
	ret

	.balign 8
boot_gdt:
	.quad 0, 0x00af9b000000ffff
boot_gdt_pointer:
	.word 15
	.long boot_gdt

	.code64
start64:
	xor	%eax, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	%eax, %fs
	mov	%eax, %gs
	mov	$boot_stack_top, %esp
	fninit
	mov	%ebp, %edi
	call	guest_main
	ud2

/*
 * Vector entries: each pushes an error code if the processor did not, and its
 * number. trap_entry either goes back to run_code()'s caller with what happened,
 * or, when nothing was being tried, hands the frame to trap_handle().
 */
	.global vector_entries
	.balign 16
vector_entries:
	vector = 0
	.rept 256
	.balign 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
	push	$0
	.endif
	push	$vector
	jmp	trap_entry
	vector = vector + 1
	.endr

trap_entry:
	cmpq	$0, resume_rip
	je	trap_unexpected
	mov	%rax, last_trap + TRAP_RAX
	mov	%rbx, last_trap + TRAP_RBX
	mov	%rcx, last_trap + TRAP_RCX
	mov	%rdx, last_trap + TRAP_RDX
	mov	%rsi, last_trap + TRAP_RSI
	mov	%rdi, last_trap + TRAP_RDI
	mov	%rbp, last_trap + TRAP_RBP
	mov	%r8, last_trap + TRAP_R8
	mov	%r11, last_trap + TRAP_R11
	mov	%rsp, last_trap + TRAP_STACK
	mov	%cr2, %rax
	mov	%rax, last_trap + TRAP_CR2
	mov	%ss, %eax
	mov	%rax, last_trap + TRAP_NEW_SS
	pop	last_trap + TRAP_VECTOR
	pop	last_trap + TRAP_ERROR
	pop	last_trap + TRAP_RIP
	pop	last_trap + TRAP_CS
	pop	last_trap + TRAP_RFLAGS
	pop	last_trap + TRAP_RSP
	pop	last_trap + TRAP_SS
	.global resume
resume:
	mov	resume_rsp, %rsp
	push	$2
	popf
	mov	resume_rip, %rax
	movq	$0, resume_rip
	jmp	*%rax

trap_unexpected:
	push	%rax
	push	%rcx
	push	%rdx
	push	%rbx
	push	%rbp
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	cld
	lea	120(%rsp), %rdi
	call	trap_handle
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rdi
	pop	%rsi
	pop	%rbp
	pop	%rbx
	pop	%rdx
	pop	%rcx
	pop	%rax
	add	$16, %rsp
	iretq

/*
 * void run_frame(const struct start_frame *f, u64 rdi, u64 rsi, u64 rdx)
 * Starts code by IRET from the five quadwords at f, with the registers given (RCX
 * is the same as RDX), and returns when anything traps: last_trap says what. FS..GS keep what the code left.
 */
	.global run_frame
run_frame:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, resume_rsp
	movq	$1f, resume_rip
	mov	%rdi, %rax
	mov	%rsi, %rdi
	mov	%rdx, %rsi
	mov	%rcx, %rdx
	sub	$40, %rsp
	mov	(%rax), %r8
	mov	%r8, (%rsp)
	mov	8(%rax), %r8
	mov	%r8, 8(%rsp)
	mov	16(%rax), %r8
	mov	%r8, 16(%rsp)
	mov	24(%rax), %r8
	mov	%r8, 24(%rsp)
	mov	32(%rax), %r8
	mov	%r8, 32(%rsp)
	.global run_frame_iret
run_frame_iret:
	iretq
1:	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret

	.section .note.GNU-stack, "", @progbits
