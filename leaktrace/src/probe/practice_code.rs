//! The functions that [`super::practice`] puts probes on: in assembly, to know the instruction
//! under the probe. They only touch their argument registers, and return the second argument, or
//! nothing.

#![expect(unsafe_code, reason = "functions in assembly, and their code")]

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
    fn leaktrace_practice_allocate(size: usize, pointer: usize) -> usize;
    fn leaktrace_practice_free(pointer: usize);
    fn leaktrace_practice_stepped(pointer: usize);
}

/// Where they are: the one that allocates, the one that frees, the one that is single-stepped.
pub(super) fn addresses() -> [usize; 3] {
    [
        leaktrace_practice_allocate as *const () as usize,
        leaktrace_practice_free as *const () as usize,
        leaktrace_practice_stepped as *const () as usize,
    ]
}

/// What stands at those addresses in this process: a breakpoint would show.
pub(super) fn bytes() -> [u8; 3] {
    // SAFETY: each is the address of a function of this program, whose code may be read.
    addresses().map(|address| unsafe { std::ptr::read_volatile(address as *const u8) })
}

/// Allocates and frees, for the `number`th time.
pub(super) fn run_pair(number: usize) {
    // SAFETY: the functions above take any arguments and touch no memory.
    unsafe {
        let pointer = leaktrace_practice_allocate(64, 0x1000 + 16 * (number & 0xff));
        leaktrace_practice_free(pointer);
    }
}

/// Runs the one that is single-stepped.
pub(super) fn run_stepped(number: usize) {
    // SAFETY: as above.
    unsafe { leaktrace_practice_stepped(number) };
}
