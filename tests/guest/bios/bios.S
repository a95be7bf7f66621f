/*
 * A disk to boot from: its first sector is loaded and entered by a PC's firmware in real mode, loads the rest with INT 13h,
 * and uses firmware as a boot loader does: reads and writes of the disk, text, memory map, timer, A20, moving memory above
 * 1 MiB; then protected mode and back, and segments of 4 GiB in real mode ("unreal"). What fails is named by a letter.
 * Sectors lie in memory as they lie on the disk, from 7c00 on.
 */
#define SECTOR(n)  (0x7c00 + 512 * (n))
#define SECTORS    8	/* of this program */
#define BUFFER     0xa000
#define BUFFER2    0xc000
#define SERIAL     0x3f8

	.macro	fail_unless condition, letter
	j\condition	1f
	movb	$\letter, %bl
	jmp	failed
1:
	.endm

	.code16
	.globl	start
start:
	ljmp	$0, $1f
1:	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$start, %sp
	sti
	cld
	movb	%dl, drive
	movw	$hello, %si
	call	print
	movb	$0x41, %ah		/* extensions for large disks */
	movw	$0x55aa, %bx
	movb	drive, %dl
	int	$0x13
	fail_unless nc, 'a'
	cmpw	$0xaa55, %bx
	fail_unless e, 'b'
	movw	$rest, %si
	movb	$0x42, %ah
	movb	drive, %dl
	int	$0x13
	fail_unless nc, 'c'
	jmp	second

/* Prints the text at SI with INT 10h. */
print:
	lodsb
	testb	%al, %al
	jz	1f
	pushw	%bx
	movw	$7, %bx
	movb	$0x0e, %ah
	int	$0x10
	popw	%bx
	jmp	print
1:	ret

/* BL: what failed; its code is the status, too */
failed:
	movb	%bl, what
	movw	$failure, %si
	call	print
	movzbl	%bl, %eax
	jmp	end

/* EAX: the status, 0 is well */
end:
	movw	$0xf4, %dx
	outl	%eax, %dx
1:	cli
	hlt
	jmp	1b

drive:	.byte	0
	.balign	4
rest:	.byte	16, 0			/* a "disk address packet" */
	.word	SECTORS - 1
	.word	SECTOR(1), 0
	.quad	1
hello:	.asciz	"\r\nboot sector\r\n"
failure:
	.ascii	"FAIL: "
what:	.asciz	"?\r\n"
	.org	510, 0
	.word	0xaa55

/* ---- the rest ---- */

second:
	movw	$loaded, %si
	call	print
	cmpl	$0x600df00d, last
	fail_unless e, 'd'

	/* The same sector by cylinder, head and sector, and by number; then what is written there is read. */
	movw	$0x0201, %ax
	movw	$SECTORS + 1, %cx	/* sectors count from 1 */
	movb	drive, %dl
	movb	$0, %dh
	movw	$BUFFER, %bx
	int	$0x13
	fail_unless nc, 'e'
	movw	$0x42, %ax
	call	transfer
	fail_unless nc, 'f'
	call	same
	fail_unless e, 'g'
	cmpl	$0xfeedbeef, BUFFER
	fail_unless e, 'h'
	movl	$0x12345678, BUFFER2 + 508
	movw	$0x43, %ax
	call	transfer
	fail_unless nc, 'i'
	movl	$0, BUFFER2 + 508
	movw	$0x42, %ax
	call	transfer
	fail_unless nc, 'j'
	cmpl	$0x12345678, BUFFER2 + 508
	fail_unless e, 'k'
	/* Past the end of the disk. */
	movl	$4000000, beyond + 8
	movw	$beyond, %si
	movb	$0x42, %ah
	movb	drive, %dl
	int	$0x13
	fail_unless c, 'l'

	/* Memory: below 640 KiB, and a map that begins at 0. */
	int	$0x12
	cmpw	$600, %ax
	fail_unless a, 'm'
	xorl	%ebx, %ebx
	movw	$BUFFER, %di
	movl	$0x534d4150, %edx
	movl	$20, %ecx
	movl	$0xe820, %eax
	int	$0x15
	fail_unless nc, 'n'
	cmpl	$0x534d4150, %eax
	fail_unless e, 'o'
	cmpl	$1, BUFFER + 16
	fail_unless e, 'p'

	/* The timer's interrupts come, into firmware's handler. */
	call	tick

	/* A20, and 1 MiB is another place than 0. */
	movw	$0x2401, %ax
	int	$0x15
	fail_unless nc, 'q'
	movw	$0xffff, %ax
	movw	%ax, %es
	movl	$0x11111111, 0x500
	movl	$0x22222222, %es:0x510
	cmpl	$0x11111111, 0x500
	fail_unless e, 'r'

	/* Firmware moves memory from and to above 1 MiB, in protected mode of its own. */
	xorw	%ax, %ax
	movw	%ax, %es
	movl	$0xcafe0001, BUFFER
	movl	$BUFFER, %eax
	movl	$0x200000, %edx
	call	move
	fail_unless nc, 's'
	movl	$0, BUFFER
	movl	$0x200000, %eax
	movl	$BUFFER, %edx
	call	move
	fail_unless nc, 't'
	cmpl	$0xcafe0001, BUFFER
	fail_unless e, 'u'

	/* Protected mode, 32-bit code, and back. */
	cli
	lgdt	gdt_pointer
	movl	%cr0, %eax
	orb	$1, %al
	movl	%eax, %cr0
	ljmp	$0x08, $flat
	.code32
flat:	movw	$0x10, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	%ax, %gs
	movzwl	%sp, %esp
	movl	$0x400000, %edi
	movl	$0x1000, %ecx
	movl	$0x5a5a1234, %eax
	rep stosl
	movl	$hello32, %esi
1:	lodsb
	testb	%al, %al
	jz	3f
	movb	%al, %ah
	movw	$SERIAL + 5, %dx
2:	inb	%dx, %al
	testb	$0x20, %al
	jz	2b
	movb	%ah, %al
	movw	$SERIAL, %dx
	outb	%al, %dx
	jmp	1b
3:	ljmp	$0x18, $back
	.code16
back:	movw	$0x20, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movl	%cr0, %eax
	andb	$0xfe, %al
	movl	%eax, %cr0
	ljmp	$0, $1f
1:	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	sti
	/* GS has kept its limit of 4 GiB. */
	movl	$0x400ffc, %ebx
	cmpl	$0x5a5a1234, %gs:(%ebx)
	fail_unless e, 'v'
	/*
	 * An INIT leads to firmware, which goes on where CMOS and the word pair at 467 say. The processor sends it itself, through
	 * the local APIC, which it then finds as after INIT.
	 */
	cli
	movl	$0xfee000f0, %ebx
	orl	$0x100, %gs:(%ebx)
	movw	$after_init, 0x467
	movw	$0, 0x469
	movb	$0x8f, %al
	outb	%al, $0x70
	movb	$0x0a, %al
	outb	%al, $0x71
	movl	$0x1badcafe, %ebp
	movl	$0xfee00020, %ebx
	movl	%gs:(%ebx), %eax
	movl	$0xfee00310, %ebx
	movl	%eax, %gs:(%ebx)
	movl	$0x4500, %gs:-0x10(%ebx)
	movb	$'w', %bl
	jmp	failed
after_init:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$start, %sp
	cmpl	$0x1badcafe, %ebp
	fail_unless ne, 'x'
	lgdt	gdt_pointer		/* 4 GiB for GS once more */
	movl	%cr0, %eax
	orb	$1, %al
	movl	%eax, %cr0
	movw	$0x10, %dx
	movw	%dx, %gs
	andb	$0xfe, %al
	movl	%eax, %cr0
	xorw	%dx, %dx
	movw	%dx, %gs
	movl	$0xfee000f0, %ebx
	cmpl	$0xff, %gs:(%ebx)
	fail_unless e, 'y'
	movl	$0x10f, %gs:(%ebx)	/* and as firmware had it */
	movl	$0xfee00350, %ebx
	movl	$0x700, %gs:(%ebx)
	sti
	movw	$well, %si
	call	print
	call	tick			/* at which firmware sends what it holds back of a serial screen */
	xorl	%eax, %eax
	jmp	end

/* INT 13h with AH from AL: the sector behind the program and BUFFER2. */
transfer:
	movb	%al, %ah
	movb	$0, %al
	movw	$behind, %si
	movb	drive, %dl
	int	$0x13
	ret

/* Are the buffers equal? */
same:
	movw	$BUFFER, %si
	movw	$BUFFER2, %di
	movw	$512, %cx
	repe cmpsb
	ret

/* Waits until the count of 55 ms since midnight changes; its low word comes in DX. */
tick:
	movb	$0, %ah
	int	$0x1a
	movw	%dx, %di
1:	sti
	hlt
	movb	$0, %ah
	int	$0x1a
	cmpw	%dx, %di
	je	1b
	ret

/* INT 15h, AH=87h: 512 bytes from EAX to EDX. */
move:
	movl	%eax, %ecx
	movw	%ax, move_from + 2
	shrl	$16, %ecx
	movb	%cl, move_from + 4
	movl	%edx, %ecx
	movw	%dx, move_to + 2
	shrl	$16, %ecx
	movb	%cl, move_to + 4
	movw	$256, %cx
	movw	$move_table, %si
	movb	$0x87, %ah
	int	$0x15
	ret

	.balign	8
move_table:
	.quad	0, 0
move_from:
	.quad	0x0000930000000000 + 511
move_to:
	.quad	0x0000930000000000 + 511
	.quad	0, 0
gdt:	.quad	0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00009b000000ffff, 0x000093000000ffff
gdt_pointer:
	.word	. - gdt - 1
	.long	gdt
	.balign	4
behind:	.byte	16, 0
	.word	1
	.word	BUFFER2, 0
	.quad	SECTORS
beyond:	.byte	16, 0
	.word	1
	.word	BUFFER, 0
	.quad	0
loaded:	.asciz	"loaded by INT 13h\r\n"
hello32:
	.asciz	"32-bit protected mode\r\n"
well:	.asciz	"real mode again: all well\r\n"
	.org	512 * SECTORS - 4, 0
last:	.long	0x600df00d
	.fill	128, 4, 0xfeedbeef
	.org	1 << 20, 0
