/* See odd_frames.h. */
    .text

    .globl odd_pushes
    .type odd_pushes, @function
odd_pushes:
    .cfi_startproc
    test %rdi, %rdi
    jz 1f
    push %rbp
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %rbp, 0
    sub $72, %rsp
    .cfi_adjust_cfa_offset 72
    push %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %rbx, 0
    push $0
    .cfi_adjust_cfa_offset 8
    push $1
    .cfi_adjust_cfa_offset 8
    cmpq $0, (%rsp)
    .cfi_remember_state
    jne 2f
    lea 88(%rsp), %rsp
    .cfi_adjust_cfa_offset -88
    .cfi_restore %rbx
    pop %rbp
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbp
1:  ret
2:  .cfi_restore_state
    mov $0xbad, %ebp
    mov $0xbad, %ebx
    call *%rdi
    pop %rax
    .cfi_adjust_cfa_offset -8
    pop %rax
    .cfi_adjust_cfa_offset -8
    pop %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbx
    add $72, %rsp
    .cfi_adjust_cfa_offset -72
    pop %rbp
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbp
    ret
    .cfi_endproc
    .size odd_pushes, . - odd_pushes

    .globl cfa_in_rbx
    .type cfa_in_rbx, @function
cfa_in_rbx:
    .cfi_startproc
    push %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %rbx, 0
    mov %rsp, %rbx
    .cfi_def_cfa_register %rbx
    sub $200, %rsp
    and $-64, %rsp
    call *%rdi
    mov %rbx, %rsp
    .cfi_def_cfa_register %rsp
    pop %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbx
    ret
    .cfi_endproc
    .size cfa_in_rbx, . - cfa_in_rbx

    .globl cfa_by_drap
    .type cfa_by_drap, @function
cfa_by_drap:
    .cfi_startproc
    lea 8(%rsp), %r10
    .cfi_def_cfa %r10, 0
    and $-64, %rsp
    push -8(%r10)
    push %rbp
    .cfi_escape 0x10, 0x06, 0x02, 0x76, 0x00        /* rbp: at (rbp) */
    mov %rsp, %rbp
    push %r10
    .cfi_escape 0x0f, 0x03, 0x76, 0x78, 0x06        /* CFA: what lies at rbp - 8 */
    sub $200, %rsp
    and $-64, %rsp
    call *%rdi
    mov -8(%rbp), %r10
    .cfi_def_cfa %r10, 0
    mov %rbp, %rsp
    pop %rbp
    .cfi_restore %rbp
    lea -8(%r10), %rsp
    .cfi_def_cfa %rsp, 8
    ret
    .cfi_endproc
    .size cfa_by_drap, . - cfa_by_drap

    .globl cfa_by_expression
    .type cfa_by_expression, @function
cfa_by_expression:
    .cfi_startproc
    mov %rsp, %rax
    .cfi_def_cfa_register %rax
    push %rbp
    .cfi_offset %rbp, -16
    sub $120, %rsp
    and $-64, %rsp
    mov %rax, 24(%rsp)
    .cfi_escape 0x0f, 0x05, 0x77, 0x18, 0x06, 0x23, 0x08 /* CFA: what lies at rsp + 24, plus 8 */
    mov $0xbad, %ebp
    call *%rdi
    mov 24(%rsp), %rax
    .cfi_def_cfa %rax, 8
    mov -8(%rax), %rbp
    .cfi_restore %rbp
    mov %rax, %rsp
    .cfi_def_cfa_register %rsp
    ret
    .cfi_endproc
    .size cfa_by_expression, . - cfa_by_expression

    .type never_run, @function
never_run:
    .cfi_startproc
    sub $1000, %rsp
    .cfi_adjust_cfa_offset 1000
    ud2
    .cfi_endproc
    .size never_run, . - never_run

    .globl spin_at_entry
    .type spin_at_entry, @function
spin_at_entry:
    .cfi_startproc
    .byte 0xeb, 0xfe                                    /* jmp to itself */
    ret
    .cfi_endproc
    .size spin_at_entry, . - spin_at_entry

    .section .note.GNU-stack, "", @progbits
