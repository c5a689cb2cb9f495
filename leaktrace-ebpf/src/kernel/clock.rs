//! The time that blocks are stamped with.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};

use crate::kernel::thread::Thread;

/// `CLOCK_MONOTONIC` in nanoseconds, as it was at this thread's first call in the present tick of
/// the kernel's clock (1 to 10 ms): reading the time costs 50 ns and an age is shown in seconds.
/// Never before `earliest`, which is not in the future.
#[inline(always)]
pub(crate) fn time_of_tick(thread: &mut Thread, earliest: u64) -> u64 {
    // SAFETY: helpers without arguments; the first is one load.
    let tick = unsafe { bpf_jiffies64() };
    if thread.tick != tick {
        thread.tick = tick;
        // SAFETY: as above.
        thread.time_ns = unsafe { bpf_ktime_get_ns() };
    }
    if thread.time_ns > earliest { thread.time_ns } else { earliest }
}
