//! What tracing cost, as JSON.

use serde::Serialize;

use crate::model;

/// Shares are from 0 to 1; null for what is not known.
#[derive(Serialize)]
pub(super) struct Cost {
    probe_hits: u64,
    ns_per_hit: Option<f64>,
    target_cpu_share: Option<f64>,
    /// Null without a budget.
    budget_share: Option<f64>,
    target_cpu_s: Option<f64>,
    probe_s: Option<f64>,
    /// Null when it was traced all the time.
    windows: Option<Windows>,
    own_cpu_s: Option<f64>,
    own_memory_bytes: Option<u64>,
    kernel_memory_bytes: Option<u64>,
}

impl From<model::Cost> for Cost {
    fn from(cost: model::Cost) -> Self {
        Self {
            probe_hits: cost.probe_hits,
            ns_per_hit: cost.ns_per_hit,
            target_cpu_share: cost.target_cpu_share,
            budget_share: cost.budget_share,
            target_cpu_s: cost.target_cpu_s,
            probe_s: cost.probe_s,
            windows: cost.windows.map(Windows::from),
            own_cpu_s: cost.own_cpu_s,
            own_memory_bytes: cost.own_memory_bytes,
            kernel_memory_bytes: cost.kernel_memory_bytes,
        }
    }
}

#[derive(Serialize)]
struct Windows {
    opened: u64,
    open_s: f64,
    draining_s: f64,
    closed_s: f64,
    work_seen: f64,
}

impl From<model::Windows> for Windows {
    fn from(windows: model::Windows) -> Self {
        Self {
            opened: windows.opened,
            open_s: windows.open_s,
            draining_s: windows.draining_s,
            closed_s: windows.closed_s,
            work_seen: windows.work_seen,
        }
    }
}
