# SPDX-License-Identifier: MIT
#
# A guest that does nothing but write: a boot sector that writes blocks to the disk it was booted from, one after the
# other, by the firmware's driver, and notes when each was done. Assembled by busy_guest.py, which gives FIRST (the first
# sector of its region), BLOCKS (how many there are in it), SECTORS (of each) and RESTS: 1 where it sleeps after each write until
# the timer ticks next, a hundred times a second, and leaves its CPU to others.
#
# The number of the write is at the beginning of each sector of a block; number N goes to block N mod BLOCKS.
    .code16
    .equ count, 0x8000              # writes that are done
    .equ errors, 0x8004             # and how many were refused; each is tried again
    .equ last, 0x8008               # time stamp of the last one
    .equ began, 0x8010              # and of the first
    .equ packet, 0x8020             # of INT 13h, AH=43h
    .equ drive, 0x8030
    .equ slots, 0x2000              # segment of 16384 numbers: the longest time from one write to the next
                                    # that ended in each slot of time, in units of 256 ticks
    .equ slot_shift, 26             # 2^26 ticks
    .equ buffer, 0x1000             # segment
    .equ timer, 0x40                # of the 8254: channel 0, and its mode
    .equ timer_mode, 0x43
    .equ timer_ticks, 11932         # of 1.193182 MHz: 10 ms
    .globl _start
_start:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7c00, %sp
    cld
    movw %ax, %es
    movw $0x8000, %di
    movw $0x40, %cx
    rep stosb
    movb %dl, drive
    movw $slots, %bx                # all slots are empty
    movw %bx, %es
    xorw %di, %di
    movw $0x8000, %cx
    rep stosw
    movw $buffer, %bx
    movw %bx, %es
    xorw %di, %di
    movw $0x8000, %cx
    movw $0x5a5a, %ax
    rep stosw
    movw $0x10, packet
    movw $SECTORS, packet + 2
    movw $buffer, packet + 6
    .if RESTS
    movb $0x34, %al
    outb %al, $timer_mode
    movb $(timer_ticks & 0xff), %al
    outb %al, $timer
    movb $(timer_ticks >> 8), %al
    outb %al, $timer
    .endif
next:
    movl count, %eax                # stamps each sector with the number of this write
    incl %eax
    movw $buffer, %bx
    movw %bx, %es
    xorw %di, %di
    movw $SECTORS, %cx
stamp:
    movl %eax, %es:(%di)
    addw $512, %di
    loop stamp
    xorl %edx, %edx
    movl $BLOCKS, %ebx
    divl %ebx
    movl %edx, %eax
    movl $SECTORS, %ebx
    mull %ebx
    addl $FIRST, %eax
    movl %eax, packet + 8
retry:
    movw $0x4300, %ax
    movb drive, %dl
    movw $packet, %si
    int $0x13
    jnc done
    incl errors
    jmp retry
done:
    rdtsc
    cmpl $0, count
    jne later
    movl %eax, began
    movl %edx, began + 4
    jmp noted
later:
    movl %eax, %ecx                 # the time since the one before, in units of 256 ticks
    movl %edx, %esi
    subl last, %ecx
    sbbl last + 4, %esi
    shrdl $8, %esi, %ecx
    movl %eax, %ebx                 # the slot that this moment is in
    movl %edx, %ebp
    subl began, %ebx
    sbbl began + 4, %ebp
    shrdl $slot_shift, %ebp, %ebx
    andl $0x3fff, %ebx
    shlw $2, %bx
    movw $slots, %di
    movw %di, %es
    cmpl %es:(%bx), %ecx
    jbe noted
    movl %ecx, %es:(%bx)
noted:
    movl %eax, last
    movl %edx, last + 4
    incl count
    .if RESTS
    sti
    hlt
    .endif
    jmp next
    .org 510
    .word 0xaa55
