/*
 * Entering the guest and coming back, and the guest's interrupt handlers.
 */
	.text
/*
 * int vm_enter_asm(u64 reg[16], int resume)
 * VMLAUNCH or VMRESUME with the registers given; they are stored there at the exit. Returns 0 after an exit, else
 * 1 (VMfailInvalid) or 2 (VMfailValid).
 */
	.global vm_enter_asm
vm_enter_asm:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	push	%rdi
	mov	$0x6c14, %eax			/* host RSP */
	vmwrite	%rsp, %rax
	test	%esi, %esi
	mov	0(%rdi), %rax
	mov	8(%rdi), %rcx
	mov	16(%rdi), %rdx
	mov	24(%rdi), %rbx
	mov	40(%rdi), %rbp
	mov	48(%rdi), %rsi
	mov	64(%rdi), %r8
	mov	72(%rdi), %r9
	mov	80(%rdi), %r10
	mov	88(%rdi), %r11
	mov	96(%rdi), %r12
	mov	104(%rdi), %r13
	mov	112(%rdi), %r14
	mov	120(%rdi), %r15
	mov	56(%rdi), %rdi
	jnz	1f
	vmlaunch
	jmp	2f
1:	vmresume
2:	setz	%al
	movzbl	%al, %eax
	inc	%eax
	pop	%rdi
	jmp	3f

	.global vm_exit_entry
vm_exit_entry:
	pushfq
	popq	host_rflags
	xchg	%rdi, (%rsp)
	mov	%rax, 0(%rdi)
	mov	%rcx, 8(%rdi)
	mov	%rdx, 16(%rdi)
	mov	%rbx, 24(%rdi)
	mov	%rbp, 40(%rdi)
	mov	%rsi, 48(%rdi)
	mov	%r8, 64(%rdi)
	mov	%r9, 72(%rdi)
	mov	%r10, 80(%rdi)
	mov	%r11, 88(%rdi)
	mov	%r12, 96(%rdi)
	mov	%r13, 104(%rdi)
	mov	%r14, 112(%rdi)
	mov	%r15, 120(%rdi)
	pop	%rax
	mov	%rax, 56(%rdi)
	xor	%eax, %eax
3:	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret

/*
 * The guest's vector entries: an error code if the processor pushed none, the number, then VMCALL. What comes after
 * returns from the event.
 */
	.global guest_vectors, guest_event, g_return, g_call
	.balign 16
guest_vectors:
	vector = 0
	.rept 256
	.balign 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
	push	$0
	.endif
	push	$vector
	jmp	guest_event
	vector = vector + 1
	.endr
guest_event:
	vmcall
g_return:
	add	$16, %rsp
	iretq

/* Those of a 32-bit guest do VMCALL at once: which vector it was is where that is. */
	.global guest_vectors32
	.balign 16
guest_vectors32:
	.rept 256
	.balign 16
	vmcall
	.endr

g_call:	vmcall
	jmp	g_call

	.bss
	.balign	4096
	.skip	16384
	.global guest_stack_top
guest_stack_top:
	.skip	4096

	.section .note.GNU-stack, "", @progbits
