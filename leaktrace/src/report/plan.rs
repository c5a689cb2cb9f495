//! The probe plan and what tracing by it would cost, as `--dry-run` prints them.

use std::io::{self, Write};

use super::{json, names, units};
use crate::model::{Prediction, ProbeFailure, ProbeInfo, Target, printable};

/// What a hit costs that the kernel cannot emulate, on a virtual machine.
const STEPPED_HIT: &str = "about 20 µs";
/// The widest line.
const WIDTH: usize = 100;
const GAP: &str = "  ";

/// What is planned for a process.
#[derive(Clone, Copy, Debug)]
pub struct Planned<'a> {
    /// The process.
    pub target: &'a Target,
    /// The probes.
    pub probes: &'a [ProbeInfo],
    /// The functions that cannot be probed.
    pub failures: &'a [ProbeFailure],
    /// The functions that need no probe, since the function they call has one.
    pub covered: &'a [String],
    /// What tracing it would cost; `None` when that could not be told.
    pub predicted: Option<&'a Prediction>,
}

/// Writes a table for people, at most 100 columns wide.
///
/// # Errors
///
/// Those of `out`.
pub fn write_text(planned: &Planned<'_>, out: &mut dyn Write) -> io::Result<()> {
    let &Planned { target, probes, failures, covered, predicted } = planned;
    let (comm, exe) = (printable(&target.comm), printable(&target.exe));
    let line = format!("{comm} (pid {}), {exe}", target.pid);
    writeln!(out, "{}", names::shorten_middle(&line, WIDTH))?;
    let header = ["function", "module", "at", "in file", "role", "instruction", "emulated"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(probes.iter().map(row));
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    if !probes.is_empty() {
        writeln!(out)?;
        for row in &rows {
            let cells: Vec<String> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(out, "{}", names::shorten_middle(cells.join(GAP).trim_end(), WIDTH))?;
        }
    }
    writeln!(out)?;
    let stepped = probes.iter().filter(|probe| !probe.emulated).count() as u64;
    let all = units::counted(probes.len() as u64, "probe");
    let summary = match stepped {
        _ if probes.is_empty() => "0 probes: there is no allocation function to trace".to_owned(),
        0 => format!("{all}, each on an instruction that the kernel emulates"),
        n => format!(
            "{all}, {} of which the kernel would single-step ({STEPPED_HIT} a hit on a virtual \
             machine, against less than 1 µs)",
            units::count(n)
        ),
    };
    for line in names::wrap(&summary, WIDTH, "", "") {
        writeln!(out, "{line}")?;
    }
    if !covered.is_empty() {
        let item = format!(
            "covered by a probe above, as another name of a function or a caller of it: {}",
            covered.join(", ")
        );
        for line in names::wrap(&item, WIDTH, "", "") {
            writeln!(out, "{line}")?;
        }
    }
    for failure in failures {
        let item =
            format!("no probe on {} in {}: {}", failure.function, failure.module, failure.error);
        for line in names::wrap(&item, WIDTH, "- ", "  ") {
            writeln!(out, "{line}")?;
        }
    }
    let Some(predicted) = predicted else { return Ok(()) };
    let counted = units::duration(predicted.counted_s);
    writeln!(out, "\nPredicted cost, from its calls in {counted}: {}", calls(predicted))?;
    for (what, cost) in costs(predicted) {
        for line in names::wrap(&cost, WIDTH, &format!("  {what:<WHAT$}"), &" ".repeat(WHAT + 2)) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

/// The column that says how it would be traced.
const WHAT: usize = 20;

/// What tracing would cost, in a line.
pub fn cost_line(predicted: &Prediction) -> String {
    if predicted.is_idle() {
        return format!("none: {} in {}", calls(predicted), units::duration(predicted.counted_s));
    }
    let mut parts = vec![format!("{} at {}", exact_share(predicted), calls(predicted))];
    if let (Some(budget), Some(seen)) = (predicted.budget_share, predicted.work_seen) {
        let how = match seen {
            seen if seen >= 1.0 => "all the time".to_owned(),
            seen => format!("in windows, with about {} of its work", units::cost_share(seen)),
        };
        parts.push(format!("traced {how} under a budget of {}", units::budget(budget)));
    }
    parts.join("; ")
}

/// Of tracing every allocation.
fn exact_share(predicted: &Prediction) -> String {
    match predicted.exact_share {
        Some(share) if predicted.is_lower_bound => {
            format!("{} of its CPU time or more", units::cost_share(share))
        }
        Some(share) => format!("{} of its CPU time", units::cost_share(share)),
        None => NO_CPU_TIME.to_owned(),
    }
}

const NO_CPU_TIME: &str = "unknown, since it used no CPU time that could be measured,";

fn calls(predicted: &Prediction) -> String {
    if predicted.is_idle() {
        return "it allocated and freed nothing".to_owned();
    }
    // A float becomes an integer by saturation, and 0 when it is no number.
    let count = |per_s: f64| units::short_count(per_s.round() as u64);
    let (allocations, frees) = (predicted.allocations_per_s, predicted.frees_per_s);
    format!("{} allocations/s and {} frees/s", count(allocations), count(frees))
}

/// How it could be traced, and for what.
fn costs(predicted: &Prediction) -> Vec<(String, String)> {
    let ns = units::count(predicted.ns_per_hit.round() as u64);
    let mut rows = vec![(
        "every allocation".to_owned(),
        format!("{} at {ns} ns for each hit of a probe", exact_share(predicted)),
    )];
    if let (Some(budget), Some(seen)) = (predicted.budget_share, predicted.work_seen) {
        let how = match seen {
            seen if seen >= 1.0 => "traced all the time: every allocation is seen".to_owned(),
            seen => {
                format!("traced in windows, with about {} of its work", units::cost_share(seen))
            }
        };
        rows.push((format!("budget of {}", units::budget(budget)), how));
    }
    // Of an idle process there is nothing to choose from.
    if predicted.sample_bytes > 0 && !predicted.is_idle() {
        let what = format!("sampled, {}", units::bytes(predicted.sample_bytes));
        let least = match predicted.sampled_share {
            Some(share) => format!("at least {} of its CPU time", units::cost_share(share)),
            None => NO_CPU_TIME.trim_end_matches(',').to_owned(),
        };
        rows.push((what, format!("{least}: the probes are hit all the same")));
    }
    rows
}

/// Writes the schema `leaktrace.plan/1`: the shapes of a report's `target` and `probes`,
/// `probe_failures` as in its `health`, `covered`: the functions that need no probe, since the
/// function they call has one, and `predicted`: what tracing would cost, or null.
///
/// # Errors
///
/// Those of `out`.
pub fn write_json(planned: &Planned<'_>, out: &mut dyn Write) -> io::Result<()> {
    json::write_plan(planned, out)
}

/// Where in a function; what it jumps to may lie in front of it.
fn within(offset: u64) -> String {
    let sign = if offset.cast_signed() < 0 { '-' } else { '+' };
    format!("{sign}{:#x}", offset.cast_signed().unsigned_abs())
}

fn row(probe: &ProbeInfo) -> [String; 7] {
    [
        names::shorten_function(&printable(&probe.function), 18),
        names::shorten_middle(&printable(names::file_name(&probe.module)), 16),
        within(probe.function_offset),
        format!("{:#x}", probe.file_offset),
        probe.role.to_owned(),
        names::shorten_middle(&printable(&probe.instruction), 14),
        if probe.emulated { "yes" } else { "NO (stepped)" }.to_owned(),
    ]
}
