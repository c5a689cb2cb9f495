//! What is kept for each thread of a target.
//!
//! Handlers can be preempted, so scratch space that is one per CPU would be shared by two
//! handlers; a thread's own is not.

use leaktrace_ebpf::{calls::OpenCalls, records::StackRecord};

use crate::kernel::unwind::frame_pointers::Walk;

/// The most bytes of stack that are copied at once.
pub(crate) const WINDOW_BYTES: usize = 4096;

#[repr(C)]
pub(crate) struct Thread {
    /// Calls entered and not yet returned.
    pub(crate) open: OpenCalls,
    /// The first address above the stack that could not be read; 0 when not known.
    pub(crate) stack_top: u64,
    /// How many bytes of stack recent walks needed: the next one copies so many at first.
    pub(crate) reach: u64,
    /// When the time was last read, in ticks of the kernel's clock; and the time, in nanoseconds.
    pub(crate) tick: u64,
    /// See `tick`.
    pub(crate) time_ns: u64,
    /// Where the walk stands.
    pub(crate) walk: Walk,
    /// The stack being walked, as the record that is sent.
    pub(crate) stack: StackRecord,
    /// A copy of a piece of the stack.
    pub(crate) window: [u64; WINDOW_BYTES / 8],
}
