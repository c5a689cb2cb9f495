//! How fast do real workloads run, untraced, with empty probes, traced by leaktrace in each of its
//! ways, and under other tools?

mod compiler;
mod subject;

use std::collections::BTreeMap;

use anyhow::Result;

pub(crate) use subject::{LEAK, Subject, WORKLOADS, Workload};

use super::Effort;
use super::peers::reason;
use super::programs::Programs;
use super::table::{Cell, Section, median, quartile_range};
use super::tracing::Tracing;

const COLUMNS: [&str; 11] = [
    "workload",
    "unit",
    "untraced, unit/s",
    "noise, ±%",
    "empty probes",
    "exact",
    "sampled 512 KiB",
    "budget 5 %",
    "bpftrace",
    "heaptrack",
    "valgrind",
];
/// In the order of the columns.
const ATTACHED: [Tracing; 5] =
    [Tracing::Empty, Tracing::Exact, Tracing::Sampled, Tracing::Budget, Tracing::Bpftrace];
/// The compiler is so slow under tools that start it that it gets one header.
const TYPES_UNDER_A_TOOL: u32 = 0;
/// The budget's windows come seconds apart.
const LONGER_UNDER_A_BUDGET: f64 = 2.0;

/// The ratios of one way to trace, or why there are none.
type Outcome = Result<Vec<f64>, String>;

pub(crate) fn measure(programs: &Programs, effort: Effort) -> Result<Section> {
    let mut section = Section::new("Workloads: speed, as a share of the untraced one", &COLUMNS);
    // Why, and on what.
    let mut failures: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for workload in WORKLOADS {
        eprintln!("xtask:   {}", workload.name());
        let mut subject = Subject::start(programs, workload, effort.types)?;
        let mut untraced = vec![workload.speed(subject.watch(effort.spell_s)?)];
        let mut outcomes = ATTACHED.map(|tracing| (tracing.name(), Outcome::Ok(Vec::new())));
        for _ in 0..effort.turns {
            for (tracing, (_, outcome)) in ATTACHED.into_iter().zip(&mut outcomes) {
                let Ok(ratios) = outcome else { continue };
                let longer = if tracing == Tracing::Budget { LONGER_UNDER_A_BUDGET } else { 1.0 };
                let before = untraced.last().copied().unwrap_or_default();
                let traced = subject.watch_traced(programs, tracing, longer * effort.spell_s);
                let after = workload.speed(subject.watch(effort.spell_s)?);
                untraced.push(after);
                match traced {
                    Ok(traced) => ratios.push(2.0 * workload.speed(traced) / (before + after)),
                    Err(error) => *outcome = Err(why(&error)),
                }
            }
        }
        subject.end()?;
        let trace_file = programs.directory.join("heaptrack");
        let trace_file = trace_file.to_string_lossy();
        let started: [(&str, &[&str]); 2] = [
            ("heaptrack", &["heaptrack", "-o", &trace_file]),
            ("valgrind", &["valgrind", "--tool=memcheck", "--leak-check=no", "--fair-sched=try"]),
        ];
        let started = started.map(|(name, under)| {
            let ratio = from_its_start(programs, workload, under, effort);
            (name, ratio.map(|ratio| vec![ratio]).map_err(|error| why(&error)))
        });
        let mut cells = vec![
            Cell::text(workload.name()),
            Cell::text(format!(
                "{}{}",
                workload.unit(),
                if workload.by_clock() { "" } else { ", CPU" }
            )),
            Cell::rounded(median(&untraced)),
            Cell::Number(50.0 * quartile_range(&untraced) / median(&untraced), 1),
        ];
        for (name, outcome) in outcomes.into_iter().chain(started) {
            match outcome {
                Ok(ratios) => cells.push(Cell::rounded(median(&ratios))),
                Err(why) => {
                    cells.push(Cell::text("-"));
                    failures.entry(format!("{name}: {why}")).or_default().push(workload.name());
                }
            }
        }
        section.row(cells);
    }
    for (failure, workloads) in failures {
        section.note(format!("{failure} ({})", workloads.join("; ")));
    }
    section.note(format!(
        "Units a second of the target's own CPU time, or by the clock for redis. Each ratio is of a \
         spell of {} s (twice that under the budget; one whole run of the compiler) to the untraced \
         spells right before and after it; medians of {}. The noise is half the range between the \
         quartiles of all untraced spells.",
        effort.spell_s, effort.turns
    ));
    section.note(
        "bpftrace runs the usual script: sizes by thread, then sizes and stacks by address, with room \
         for a million. heaptrack and Valgrind start the program: by the clock (but for the server, \
         which is paced), once, and the compiler on one header only.",
    );
    Ok(section)
}

fn from_its_start(
    programs: &Programs,
    workload: Workload,
    under: &[&str],
    effort: Effort,
) -> Result<f64> {
    let mut speeds = Vec::new();
    for under in [&[], under] {
        let mut subject = Subject::start_under(programs, workload, TYPES_UNDER_A_TOOL, under)?;
        let progress = subject.watch_under(under, effort.spell_s)?;
        subject.end()?;
        let paced = matches!(workload, Workload::Server { .. });
        speeds.push(progress.units / if paced { progress.cpu_s } else { progress.wall_s });
    }
    let [alone, under] = speeds.as_slice() else { return Ok(f64::NAN) };
    Ok(under / alone)
}

/// The line that says why, of an error that may hold all that a tool printed.
fn why(error: &anyhow::Error) -> String {
    let said: Vec<String> = format!("{error:#}").lines().map(str::to_owned).collect();
    reason(said.get(1..).filter(|more| !more.is_empty()).unwrap_or(&said))
}
