//! The time that blocks are stamped with, and the time that handlers take.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};

use leaktrace_ebpf::records::{Counter, born};
use leaktrace_ebpf::timing::billed_ns;

use crate::kernel::{globals, store::count, thread::Thread};

/// When a block is born that is handed out now, see [`leaktrace_ebpf::records::born`]: as it was
/// at this thread's first call in the present tick of the kernel's clock (1 to 10 ms), since
/// reading the time costs 50 ns and an age is shown in seconds. Never before `first`.
#[inline(always)]
pub(crate) fn born_now(thread: &mut Thread, first: u32) -> u32 {
    // SAFETY: helpers without arguments; the first is one load.
    let tick = unsafe { bpf_jiffies64() };
    if thread.tick != tick {
        thread.tick = tick;
        // SAFETY: as above.
        thread.born = born(unsafe { bpf_ktime_get_ns() }, globals::start_ns()) as u64;
    }
    let born = thread.born as u32;
    if born > first { born } else { first }
}

/// What a handler costs in this very target, measured at every 64th hit or so.
#[derive(Clone, Copy)]
pub(crate) struct Timer(u64);

impl Timer {
    /// Begins to time a hit if its turn has come: so many there were before it.
    #[inline(always)]
    pub(crate) fn of_hit(hits: u64) -> Self {
        // Hits come in patterns of a few: by the golden ratio, every kind has its turn.
        if hits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58 != 0 {
            return Self(0);
        }
        // SAFETY: a helper without arguments.
        Self(unsafe { bpf_ktime_get_ns() })
    }

    /// The handler is over.
    #[inline(always)]
    pub(crate) fn stop(self) {
        if self.0 != 0 {
            count(Counter::TimedHits, 1);
            // SAFETY: a helper without arguments.
            let took = unsafe { bpf_ktime_get_ns() }.wrapping_sub(self.0);
            count(Counter::TimedNs, billed_ns(took));
        }
    }
}
