//! leaktrace's kernel half: the BPF programs that run at each allocation of a target.
//!
//! The way of an allocation: [`kernel::allocation`] notes the call at its entry and books it at
//! its return, [`kernel::free`] books frees; [`kernel::unwind`] walks the stack; [`kernel::store`] keeps blocks and totals in
//! the maps of [`kernel::maps`]; frames of a stack not seen before go to userspace by the ring
//! buffer. On a host target this is an empty program, so that the workspace builds as a whole.

#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod kernel;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
