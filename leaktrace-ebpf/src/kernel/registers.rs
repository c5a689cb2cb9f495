//! The registers of a probed thread, and its memory.

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{bpf_probe_read_user, generated as helpers},
};

use leaktrace_ebpf::{cookie::NO_ARGUMENT, family::Entered};

use crate::kernel::verifier::opaque;

/// How far the stack pointer moves from a function's entry to right after its return.
#[cfg(bpf_target_arch = "x86_64")]
pub(crate) const RETURN_POPS: u64 = 8;
/// See the x86-64 variant: here the return address is in a register.
#[cfg(bpf_target_arch = "aarch64")]
pub(crate) const RETURN_POPS: u64 = 0;

#[cfg(bpf_target_arch = "x86_64")]
pub(crate) mod arch {
    use super::*;

    /// The number of the system call `brk`.
    pub(crate) const SYS_BRK: u32 = 12;
    /// That of `mremap`.
    pub(crate) const SYS_MREMAP: u32 = 25;

    #[inline(always)]
    pub(crate) fn argument(regs: &pt_regs, index: u8) -> u64 {
        nth(index, [&regs.rdi, &regs.rsi, &regs.rdx, &regs.rcx, &regs.r8, &regs.r9])
    }

    /// Where the kernel keeps the arguments of a system call.
    #[inline(always)]
    pub(crate) fn system_call_arguments(regs: *const pt_regs) -> [*const u64; 4] {
        // SAFETY: places in the registers, which are not read here.
        unsafe {
            [
                &raw const (*regs).rdi,
                &raw const (*regs).rsi,
                &raw const (*regs).rdx,
                &raw const (*regs).r10,
            ]
        }
    }

    #[inline(always)]
    pub(crate) fn returned(regs: &pt_regs) -> u64 {
        regs.rax
    }

    #[inline(always)]
    pub(crate) fn stack_pointer(regs: &pt_regs) -> u64 {
        regs.rsp
    }

    #[inline(always)]
    pub(crate) fn frame_pointer(regs: &pt_regs) -> u64 {
        regs.rbp
    }

    /// rbx, which the dynamic loader's trampolines keep their frame in.
    #[inline(always)]
    pub(crate) fn saved_base(regs: &pt_regs) -> u64 {
        regs.rbx
    }

    #[inline(always)]
    pub(crate) fn instruction_pointer(regs: &pt_regs) -> u64 {
        regs.rip
    }

    /// The return address of a function whose frame is not set up yet; 0 if unreadable.
    #[inline(always)]
    pub(crate) fn return_address(regs: &pt_regs) -> u64 {
        read_u64(regs.rsp)
    }

    /// Whether a call has not returned, as far as its return address is still on the stack.
    #[inline(always)]
    pub(crate) fn stands(call: &Entered) -> bool {
        read_u64(call.sp) == call.return_address
    }
}

#[cfg(bpf_target_arch = "aarch64")]
pub(crate) mod arch {
    use super::*;

    /// The number of the system call `brk`.
    pub(crate) const SYS_BRK: u32 = 214;
    /// That of `mremap`.
    pub(crate) const SYS_MREMAP: u32 = 216;

    #[inline(always)]
    pub(crate) fn argument(regs: &pt_regs, index: u8) -> u64 {
        let r = &regs.regs;
        nth(index, [&r[0], &r[1], &r[2], &r[3], &r[4], &r[5]])
    }

    /// See the x86-64 variant.
    #[inline(always)]
    pub(crate) fn system_call_arguments(regs: *const pt_regs) -> [*const u64; 4] {
        // SAFETY: places in the registers, which are not read here.
        unsafe {
            [
                &raw const (*regs).regs[0],
                &raw const (*regs).regs[1],
                &raw const (*regs).regs[2],
                &raw const (*regs).regs[3],
            ]
        }
    }

    #[inline(always)]
    pub(crate) fn returned(regs: &pt_regs) -> u64 {
        regs.regs[0]
    }

    #[inline(always)]
    pub(crate) fn stack_pointer(regs: &pt_regs) -> u64 {
        regs.sp
    }

    #[inline(always)]
    pub(crate) fn frame_pointer(regs: &pt_regs) -> u64 {
        regs.regs[29]
    }

    /// See the x86-64 variant: there is no such register here.
    #[inline(always)]
    pub(crate) fn saved_base(_regs: &pt_regs) -> u64 {
        0
    }

    #[inline(always)]
    pub(crate) fn instruction_pointer(regs: &pt_regs) -> u64 {
        regs.pc
    }

    /// The return address of a function whose frame is not set up yet.
    #[inline(always)]
    pub(crate) fn return_address(regs: &pt_regs) -> u64 {
        regs.regs[30]
    }

    /// See the x86-64 variant: where the return address is saved is not known here.
    #[inline(always)]
    pub(crate) fn stands(_call: &Entered) -> bool {
        true
    }
}

/// The argument at `index`; 0 if there is none.
///
/// All are read, and then one is chosen: the verifier wants each register of the context to be
/// read at a fixed offset, and the compiler must not turn the choice into one of addresses.
#[inline(always)]
fn nth(index: u8, arguments: [&u64; 6]) -> u64 {
    // Most functions have few of the arguments that are asked for.
    if index == NO_ARGUMENT {
        return 0;
    }
    // SAFETY: references to fields of the context.
    let [a, b, c, d, e, f] =
        arguments.map(|argument| opaque(unsafe { core::ptr::read_volatile(argument) }));
    match index {
        0 => a,
        1 => b,
        2 => c,
        3 => d,
        4 => e,
        5 => f,
        _ => 0,
    }
}

/// Reads a word of the target; false if unreadable.
#[inline(always)]
pub(crate) fn try_read_u64(address: u64, word: &mut u64) -> bool {
    // SAFETY: the helper checks the address, and `word` is as long as said.
    unsafe {
        helpers::bpf_probe_read_user(core::ptr::from_mut(word).cast(), 8, address as *const _) == 0
    }
}

/// Reads a word of the target; 0 if unreadable.
#[inline(always)]
pub(crate) fn read_u64(address: u64) -> u64 {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(address as *const u64) }.unwrap_or(0)
}
