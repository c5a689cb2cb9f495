//! The schema `leaktrace.plan/1`.

use std::io::{self, Write};

use serde::Serialize;

use super::{Probe, ProbeFailure, Target, write_line};
use crate::model;
use crate::report::plan::Planned;

pub(in crate::report) fn write_plan(planned: &Planned<'_>, out: &mut dyn Write) -> io::Result<()> {
    let plan = Plan {
        schema: "leaktrace.plan/1",
        target: Target::from(planned.target),
        probes: planned.probes.iter().map(Probe::from).collect(),
        probe_failures: planned.failures.iter().map(ProbeFailure::from).collect(),
        covered: planned.covered,
        predicted: planned.predicted.map(Predicted::from),
    };
    write_line(&plan, out)
}

#[derive(Serialize)]
struct Plan<'a> {
    schema: &'static str,
    target: Target<'a>,
    probes: Vec<Probe<'a>>,
    probe_failures: Vec<ProbeFailure<'a>>,
    covered: &'a [String],
    /// Null when it could not be told.
    predicted: Option<Predicted>,
}

/// See [`model::Prediction`].
#[derive(Serialize)]
struct Predicted {
    counted_s: f64,
    allocations_per_s: f64,
    frees_per_s: f64,
    ns_per_hit: f64,
    target_cpu_share: Option<f64>,
    is_lower_bound: bool,
    budget_share: Option<f64>,
    work_seen: Option<f64>,
    sample_bytes: u64,
    sampled_cpu_share: Option<f64>,
}

impl From<&model::Prediction> for Predicted {
    fn from(predicted: &model::Prediction) -> Self {
        Self {
            counted_s: predicted.counted_s,
            allocations_per_s: predicted.allocations_per_s,
            frees_per_s: predicted.frees_per_s,
            ns_per_hit: predicted.ns_per_hit,
            target_cpu_share: predicted.exact_share,
            is_lower_bound: predicted.is_lower_bound,
            budget_share: predicted.budget_share,
            work_seen: predicted.work_seen,
            sample_bytes: predicted.sample_bytes,
            sampled_cpu_share: predicted.sampled_share,
        }
    }
}
