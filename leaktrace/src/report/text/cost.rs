//! The bill: what tracing cost the target, and what it cost beside that. And what its figures are
//! worth.

use super::{Ink, inked_lines};
use crate::model::{Cost, Mode, ProbeInfo, Report};
use crate::report::{Style, names, units};

/// Columns before an item, and of its name.
const LABEL: usize = 8;
const NAME: usize = 11;

/// What the figures are worth, for all formats that have a line for it.
pub(in crate::report) fn seen(report: &Report) -> String {
    let sample = format!("a sample every {} on average", units::bytes(report.trace.sample_bytes));
    let basis = match report.trace.mode {
        Mode::Exact if report.health.complete() => {
            return "every allocation; the figures are exact".to_owned();
        }
        Mode::Exact if report.health.trust.is_enough() => {
            return "every allocation but what was lost".to_owned();
        }
        Mode::Exact => return "every event but what was missed".to_owned(),
        Mode::Sampled => sample,
        Mode::Windowed if report.trace.sample_bytes == 0 => {
            "every allocation in windows of time".to_owned()
        }
        Mode::Windowed => format!("{sample}, in windows of time"),
    };
    format!("{basis}; figures are estimates")
}

/// The lines above the bill.
pub(super) fn seen_lines(report: &Report, style: Style) -> Vec<String> {
    let mut text = seen(report);
    if report.is_estimate() {
        text.push_str(" (~, with \u{b1} at 95 %)");
    }
    let indent = " ".repeat(LABEL);
    let mut lines = names::wrap(&text, style.width, "Seen:   ", &indent);
    if let Some(rate) = report.smallest_leak_bytes_per_s {
        let text = format!("a leak of {} or more would show", units::leak_rate(rate));
        lines.extend(names::wrap(&text, style.width, &indent, &indent));
    }
    lines
}

/// The one line that matters.
pub(super) fn total(report: &Report, style: Style) -> Vec<String> {
    let cost = &report.cost;
    let share = match cost.target_cpu_share {
        Some(share) => format!("{} of the target's CPU time", units::cost_share(share)),
        None => "an unknown share of the target's CPU time".to_owned(),
    };
    let is_over = is_over_budget(cost);
    let budget = match cost.budget_share {
        Some(budget) if is_over => format!(", OVER the budget of {}", units::budget(budget)),
        Some(budget) if cost.target_cpu_share.is_some_and(|share| seems_over(share, budget)) => {
            let credit = units::duration(ON_CREDIT_S);
            format!(", of a budget of {} + {credit} on credit", units::budget(budget))
        }
        Some(budget) => format!(", of a budget of {}", units::budget(budget)),
        None => ", without a budget".to_owned(),
    };
    let ink = if is_over { Ink::Alarm } else { Ink::Plain };
    let lines =
        names::wrap(&format!("{share}{budget}"), style.width, "Cost:   ", &" ".repeat(LABEL));
    inked_lines(&lines, ink, style)
}

/// What a trace may spend before the target has earned anything, in seconds.
const ON_CREDIT_S: f64 = 0.05;

/// By more than what a reader sees.
fn seems_over(share: f64, budget: f64) -> bool {
    share > budget * 1.01 + 0.0005
}

/// The same for what is not the credit that it begins with.
fn is_over_budget(cost: &Cost) -> bool {
    let spent = cost.probe_s.zip(cost.target_cpu_s);
    spent.zip(cost.budget_share).is_some_and(|((probe_s, cpu_s), budget)| {
        seems_over((probe_s - ON_CREDIT_S) / cpu_s, budget)
    })
}

/// What makes it up, an item each.
pub(super) fn items(report: &Report, style: Style) -> Vec<String> {
    let cost = &report.cost;
    let mut items = vec![("probes", probes(cost, &report.probes))];
    if let Some(windows) = cost.windows {
        let times = format!(
            "{} opened: {} open, {} draining, {} closed",
            units::count(windows.opened),
            units::duration(windows.open_s),
            units::duration(windows.draining_s),
            units::duration(windows.closed_s),
        );
        let work = units::cost_share(windows.work_seen);
        items.push(("windows", times));
        items.push(("", format!("{work} of the target's work was done in open ones")));
    }
    items.extend(own(cost).map(|line| ("leaktrace", line)));
    let indent = " ".repeat(LABEL + NAME);
    items
        .into_iter()
        .flat_map(|(name, line)| {
            let first = format!("{:LABEL$}{name:<NAME$}", "");
            // A narrow terminal has no room for a column.
            let rest = if style.width < 60 { "          " } else { indent.as_str() };
            names::wrap(&line, style.width, &first, rest)
        })
        .collect()
}

fn probes(cost: &Cost, probes: &[ProbeInfo]) -> String {
    let mut line = units::counted(cost.probe_hits, "hit");
    match cost.ns_per_hit {
        // A float becomes an integer by saturation, and 0 when it is no number.
        Some(ns) => {
            line.push_str(&format!(" at {} ns on this host", units::count(ns.round() as u64)))
        }
        None => line.push_str(", the time of each was not measured"),
    }
    match (cost.probe_s, cost.target_cpu_s) {
        (Some(spent), Some(all)) => {
            line.push_str(&format!(": {} of {} CPU", units::duration(spent), units::duration(all)))
        }
        (None, Some(all)) => {
            line.push_str(&format!("; the target used {} of CPU", units::duration(all)));
        }
        _ => {}
    }
    match probes.iter().filter(|probe| !probe.emulated).count() as u64 {
        0 => {}
        n => line.push_str(&format!(
            "; {} single-stepped by the kernel, which is slow",
            units::counted(n, "probe")
        )),
    }
    line
}

/// What leaktrace took itself; `None` when nothing is known of it.
fn own(cost: &Cost) -> Option<String> {
    let cpu = cost.own_cpu_s.map(|cpu| format!("{} of CPU", units::duration(cpu)));
    let memory = cost.own_memory_bytes.map(|bytes| format!("{} of memory", units::bytes(bytes)));
    let kernel =
        cost.kernel_memory_bytes.map(|bytes| format!("{} in the kernel", units::bytes(bytes)));
    let parts: Vec<String> = [cpu, memory, kernel].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}
