//! What was seen and missed, as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::trust::Trust;
use crate::model;

#[derive(Serialize)]
pub(super) struct Health<'a> {
    allocs: u64,
    frees: u64,
    matched_frees: u64,
    unknown_frees: u64,
    failed_allocs: u64,
    reappeared: u64,
    abandoned_calls: u64,
    filtered: u64,
    sampled_out: u64,
    refuted_blocks: u64,
    unjudged_blocks: u64,
    lost: &'a BTreeMap<&'static str, u64>,
    truncated_stacks: u64,
    stacks: StackQuality<'a>,
    probe_failures: Vec<ProbeFailure<'a>>,
    notes: &'a [String],
    complete: bool,
    double_frees: u64,
    mismatched_frees: u64,
    inherited_frees: u64,
    children: Option<Children>,
    mappings: MappedMemory,
    trust: Trust,
}

#[derive(Serialize)]
struct Children {
    seen: u64,
    live: u64,
    execed: u64,
    missed: u64,
}

impl<'a> From<&'a model::Health> for Health<'a> {
    fn from(health: &'a model::Health) -> Self {
        Self {
            allocs: health.allocs,
            frees: health.frees,
            matched_frees: health.matched_frees,
            unknown_frees: health.unknown_frees,
            failed_allocs: health.failed_allocs,
            reappeared: health.reappeared,
            abandoned_calls: health.abandoned_calls,
            filtered: health.filtered,
            sampled_out: health.sampled_out,
            refuted_blocks: health.refuted_blocks,
            unjudged_blocks: health.unjudged_blocks,
            lost: &health.lost,
            truncated_stacks: health.truncated_stacks,
            stacks: StackQuality::from(&health.stacks),
            probe_failures: health.probe_failures.iter().map(ProbeFailure::from).collect(),
            notes: &health.notes,
            complete: health.complete(),
            double_frees: health.double_frees,
            mismatched_frees: health.mismatched_frees,
            inherited_frees: health.inherited_frees,
            children: health.children.map(|it| Children {
                seen: it.seen,
                live: it.live,
                execed: it.execed,
                missed: it.missed,
            }),
            mappings: MappedMemory::from(&health.mappings),
            trust: Trust::from(&health.trust),
        }
    }
}

#[derive(Serialize)]
struct MappedMemory {
    traced: bool,
    mapped: u64,
    unmapped: u64,
    allocator_bytes: u64,
    missed: u64,
}

impl From<&model::MappedMemory> for MappedMemory {
    fn from(mappings: &model::MappedMemory) -> Self {
        let model::MappedMemory { traced, mapped, unmapped, allocator_bytes, missed } = *mappings;
        Self { traced, mapped, unmapped, allocator_bytes, missed }
    }
}

/// Counts allocations.
#[derive(Serialize)]
struct StackQuality<'a> {
    complete: u64,
    cut_short: u64,
    lost: u64,
    lost_at: Vec<LostAt<'a>>,
}

#[derive(Serialize)]
struct LostAt<'a> {
    module: &'a str,
    reason: &'static str,
    allocations: u64,
}

impl<'a> From<&'a model::StackQuality> for StackQuality<'a> {
    fn from(stacks: &'a model::StackQuality) -> Self {
        let lost_at = stacks.lost_at.iter().map(|at| LostAt {
            module: &at.module,
            reason: at.reason.name(),
            allocations: at.allocations,
        });
        Self {
            complete: stacks.complete,
            cut_short: stacks.cut_short,
            lost: stacks.lost(),
            lost_at: lost_at.collect(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct ProbeFailure<'a> {
    function: &'a str,
    module: &'a str,
    error: &'a str,
}

impl<'a> From<&'a model::ProbeFailure> for ProbeFailure<'a> {
    fn from(failure: &'a model::ProbeFailure) -> Self {
        Self { function: &failure.function, module: &failure.module, error: &failure.error }
    }
}
