//! Sessions: one program that the kernel calls at a function's entry and at its return. And the
//! programs that try whether the kernel does so: they count where they are called, and how.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_attach_cookie, bpf_get_func_ip},
    macros::uprobe,
    programs::ProbeContext,
};
use leaktrace_ebpf::trial::Trial;

use crate::kernel::{maps::TRIALS, registers::arch};

/// What a session's program returns at an entry whose return it wants to see.
pub(crate) const AWAIT_RETURN: u32 = 0;
/// The opposite: the kernel leaves the return address alone.
pub(crate) const SKIP_RETURN: u32 = 1;

/// Whether a session's program is called at the entry.
///
/// The helper gives the address of the probe, at the return too.
#[inline(always)]
pub(crate) fn is_entry(ctx: &ProbeContext) -> bool {
    // SAFETY: the context is the one this program was called with, the thread's registers.
    unsafe { bpf_get_func_ip(ctx.as_ptr()) == arch::instruction_pointer(&*ctx.regs) }
}

/// Counts the entries and returns of a session; a cookie of 1 skips the returns.
#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
pub(crate) extern "C" fn try_session(ctx: *mut c_void) -> u32 {
    let ctx = ProbeContext::new(ctx);
    // SAFETY: the context is the one this program was called with.
    let skips = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } == 1;
    match (is_entry(&ctx), skips) {
        (true, false) => count(Trial::Entry),
        (true, true) => count(Trial::EntryThatSkips),
        (false, false) => count(Trial::Return),
        (false, true) => count(Trial::SkippedReturn),
    }
    if skips { SKIP_RETURN } else { AWAIT_RETURN }
}

/// Counts the hits of a multi link.
#[uprobe]
pub(crate) fn try_multi(_ctx: ProbeContext) -> u32 {
    count(Trial::Multi);
    0
}

/// Empty, at the entry and at the return.
#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
pub(crate) extern "C" fn empty_session(_ctx: *mut c_void) -> u32 {
    AWAIT_RETURN
}

#[inline(always)]
fn count(trial: Trial) {
    if let Some(counted) = TRIALS.get_ptr_mut(trial as u32) {
        // SAFETY: a pointer to a map value, good until the end of the program; the threads that it
        // counts in run one after another.
        unsafe { *counted += 1 };
    }
}
