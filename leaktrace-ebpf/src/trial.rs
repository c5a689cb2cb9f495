//! What is counted on a process of leaktrace's own to learn what this kernel's probes can do.

/// Indices into the map `TRIALS`, whose values are counts.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// Entries whose return was to be seen.
    Entry,
    /// Returns of those.
    Return,
    /// Entries whose return was to be skipped.
    EntryThatSkips,
    /// Returns of those, which should not be.
    SkippedReturn,
    /// Hits of a multi link that is no session.
    Multi,
}
/// How many there are.
pub const TRIAL_COUNT: usize = Trial::Multi as usize + 1;
