//! The functions that [`super::practice`] puts probes on: in assembly, to know the instruction
//! under the probe. They only touch their argument registers, and return the second argument, or
//! nothing.

#![expect(unsafe_code, reason = "functions in assembly")]

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".p2align 4",
    ".globl leaktrace_practice_allocate",
    "leaktrace_practice_allocate:",
    "push rbp",
    "mov rax, rsi",
    "pop rbp",
    "ret",
    ".p2align 4",
    ".globl leaktrace_practice_free",
    "leaktrace_practice_free:",
    "push rbp",
    "pop rbp",
    "ret",
    ".p2align 4",
    ".globl leaktrace_practice_stepped",
    "leaktrace_practice_stepped:",
    "test rdi, rdi",
    "ret",
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".p2align 4",
    ".globl leaktrace_practice_allocate",
    "leaktrace_practice_allocate:",
    "b 1f",
    "1: mov x0, x1",
    "ret",
    ".p2align 4",
    ".globl leaktrace_practice_free",
    "leaktrace_practice_free:",
    "b 1f",
    "1: ret",
    ".p2align 4",
    ".globl leaktrace_practice_stepped",
    "leaktrace_practice_stepped:",
    "cmp x0, x0",
    "ret",
);

unsafe extern "C" {
    pub(super) fn leaktrace_practice_allocate(size: usize, pointer: usize) -> usize;
    pub(super) fn leaktrace_practice_free(pointer: usize);
    pub(super) fn leaktrace_practice_stepped(pointer: usize);
}
