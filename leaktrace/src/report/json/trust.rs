//! How far a report can be trusted, as JSON.

use serde::Serialize;

use crate::model;
use crate::report::trust;

#[derive(Serialize)]
pub(super) struct Trust {
    verdict: &'static str,
    /// One sentence each; empty when it is enough.
    reasons: Vec<String>,
    entry_points: EntryPoints,
    /// Of frees, from 0 to 1; null without frees, in windows, and in a sample.
    matched_share: Option<f64>,
    /// Of allocations, from 0 to 1; null without allocations, and in windows.
    reappeared_share: Option<f64>,
    /// When tracing began; null when not known.
    bytes_before: Option<u64>,
    /// What `bytes_before` counts: `in_use` for blocks in use, `mapped` for all anonymous memory.
    before: Option<&'static str>,
    /// Outstanding of what was allocated since.
    bytes_tracked: u64,
    /// Whether it was traced from its first allocation on.
    from_first_allocation: bool,
}

#[derive(Serialize)]
struct EntryPoints {
    found: u64,
    covered: u64,
}

impl From<&model::Trust> for Trust {
    fn from(trust: &model::Trust) -> Self {
        let seen = &trust.evidence;
        Self {
            verdict: trust.verdict.name(),
            reasons: trust::reasons(trust),
            entry_points: EntryPoints {
                found: seen.entry_points.found,
                covered: seen.entry_points.covered,
            },
            matched_share: seen.matched_share(),
            reappeared_share: seen.reappeared_share(),
            bytes_before: seen.before.map(|before| before.bytes),
            before: seen.before.map(|b| if b.in_use { "in_use" } else { "mapped" }),
            bytes_tracked: seen.bytes_tracked,
            from_first_allocation: seen.from_first,
        }
    }
}
