//! What handlers cost, by those that were timed.

/// The most that is billed for a timed hit, in nanoseconds.
const LONGEST_NS: u64 = 100_000;

/// What is billed for a handler that was over after `took_ns`.
///
/// Most take a hundredth of the longest: one that takes longer was kept by the scheduler or the host, and
/// each timed hit stands for 64. It is not left out, or handlers that do take so long would seem to cost
/// nothing.
#[inline(always)]
pub const fn billed_ns(took_ns: u64) -> u64 {
    if took_ns > LONGEST_NS { LONGEST_NS } else { took_ns }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One stall of a tenth of a second was billed as 6 s of probes, and closed the window of a program that
    /// had done nothing.
    #[test]
    fn a_stall_is_not_billed_to_all_the_hits_that_a_timed_one_stands_for() {
        assert_eq!([0, 700, 100_000].map(billed_ns), [0, 700, 100_000]);
        assert_eq!(billed_ns(100_000_000), 100_000);
    }
}
