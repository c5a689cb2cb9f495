//! What is kept for each thread of a target.
//!
//! Handlers can be preempted, so scratch space that is one per CPU would be shared by two
//! handlers; a thread's own is not.

use leaktrace_ebpf::{calls::OpenCalls, family::Entered, records::StackRecord};

use crate::kernel::checked::Checks;
use crate::kernel::unwind::{Walk, trail::Trail, window::Window};

#[repr(C)]
pub(crate) struct Thread {
    /// Calls entered and not yet returned.
    pub(crate) open: OpenCalls,
    /// 1: allocations may happen inside its open calls: it has got a signal, or that has happened.
    pub(crate) nests: u32,
    /// The window of its target ([`leaktrace_ebpf::records::Target`]) that `open` is of.
    pub(crate) of_window: u32,
    /// The block that it freed last, in a target whose frees nest; 0 for none.
    pub(crate) last_freed: u64,
    /// The free entered last, not from inside another, that others may be part of.
    pub(crate) outer_free: Entered,
    /// Its cookie.
    pub(crate) outer_free_cookie: u64,
    /// When the time was last read, in ticks of the kernel's clock; and the time, as blocks tell it.
    pub(crate) tick: u64,
    /// See `tick`.
    pub(crate) born: u64,
    /// Where the walk stands.
    pub(crate) walk: Walk,
    /// What led the last walk.
    pub(crate) trail: Trail,
    /// The stack being walked, as the record that is sent.
    pub(crate) stack: StackRecord,
    /// A copy of a piece of the stack.
    pub(crate) window: Window,
    /// What the checks of frees ask for.
    pub(crate) checks: Checks,
}
