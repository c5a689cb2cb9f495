//! How much of what happened was seen.

use std::collections::BTreeMap;

/// What a trace saw and what it missed. Every report carries it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// Successful allocations seen, reallocations included.
    pub allocs: u64,
    /// Frees of a non-null pointer seen, reallocations included.
    pub frees: u64,
    /// Frees whose block was known.
    pub matched_frees: u64,
    /// Frees of blocks that were not: allocated before the trace began, or missed.
    pub unknown_frees: u64,
    /// Allocations that failed.
    pub failed_allocs: u64,
    /// Blocks handed out again without a free of them having been seen.
    pub reappeared: u64,
    /// Calls left by `longjmp` or an exception.
    pub abandoned_calls: u64,
    /// Allocations outside `--min-size` and `--max-size`.
    pub filtered: u64,
    /// What was lost, by reason; reasons without a loss are 0, not missing.
    pub lost: BTreeMap<&'static str, u64>,
    /// Allocations whose stack has more frames than are kept.
    pub truncated_stacks: u64,
    /// Probes that could not be placed.
    pub probe_failures: Vec<ProbeFailure>,
    /// What else the reader of a report has to know: one sentence each.
    pub notes: Vec<String>,
}

/// A probe that could not be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFailure {
    /// The function.
    pub function: String,
    /// The file it is in.
    pub module: String,
    /// Why.
    pub error: String,
}

impl Health {
    /// Everything lost, over all reasons but those that count bytes.
    pub fn lost_events(&self) -> u64 {
        self.lost.iter().filter(|(reason, _)| !reason.ends_with("_bytes")).map(|(_, n)| n).sum()
    }

    /// Whether nothing was lost and every probe is in place.
    pub fn complete(&self) -> bool {
        self.lost_events() == 0 && self.probe_failures.is_empty()
    }
}
