//! What tracing a process would cost, told before it is done.

/// By how often a process called its allocator while nothing but those calls was counted.
///
/// Shares are of the process's CPU time, from 0 to 1, and `None` when it used none that could be
/// measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Seconds counted.
    pub counted_s: f64,
    /// Calls of functions that allocate, reallocations included, a second.
    pub allocations_per_s: f64,
    /// Calls of functions that free, a second.
    pub frees_per_s: f64,
    /// Nanoseconds for a hit of a probe that traces, as measured on this host.
    pub ns_per_hit: f64,
    /// The share that would be spent in probes if every allocation was traced.
    pub exact_share: Option<f64>,
    /// The process did hardly anything but allocate: the shares are so much at the least.
    pub is_lower_bound: bool,
    /// The budget asked for, from 0 to 1; `None` for none.
    pub budget_share: Option<f64>,
    /// The share of the process's own work that would be traced under that budget: 1 for all the
    /// time, less for windows.
    pub work_seen: Option<f64>,
    /// Mean bytes between samples of the next figure.
    pub sample_bytes: u64,
    /// The share that would be spent in probes at the least if only samples were recorded: the
    /// probes are hit all the same.
    pub sampled_share: Option<f64>,
}

impl Prediction {
    /// Whether the process called its allocator at all.
    pub fn is_idle(&self) -> bool {
        self.allocations_per_s + self.frees_per_s <= 0.0
    }
}
