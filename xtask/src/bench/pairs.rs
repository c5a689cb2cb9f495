//! What does tracing cost a malloc+free pair, beside what the traps alone cost?

use anyhow::Result;

use super::Effort;
use super::programs::Programs;
use super::table::{Cell, Section, median};
use super::target::{Pair, Target};

/// Frames of the stacks: a short one, and one of a usual server.
pub(crate) const SHORT: u32 = 3;
pub(crate) const LONG: u32 = 20;
/// Pairs in a batch: so few that most batches are not interrupted by another program.
pub(crate) const TRACED_BATCH: u32 = 4000;
pub(crate) const UNTRACED_BATCH: u32 = 400_000;

const COLUMNS: [&str; 6] =
    ["frames", "probes", "ns/pair", "CPU ns/pair", "to untraced", "to empty probes"];

/// The medians of a kind of run.
pub(crate) fn medians(batches: &[Pair]) -> Pair {
    let of = |value: fn(&Pair) -> f64| median(&batches.iter().map(value).collect::<Vec<_>>());
    Pair { wall: of(|pair| pair.wall), cpu: of(|pair| pair.cpu) }
}

pub(crate) fn measure(programs: &Programs, effort: Effort) -> Result<Section> {
    let mut section = Section::new("One malloc+free pair", &COLUMNS);
    for frames in [SHORT, LONG] {
        let (mut untraced, mut empty, mut full) = (Vec::new(), Vec::new(), Vec::new());
        let mut target = Target::start(programs, frames)?;
        for _ in 0..effort.rounds {
            untraced.extend(target.run_batches(effort.batches, UNTRACED_BATCH)?);
            for (is_empty, found) in [(true, &mut empty), (false, &mut full)] {
                let mut tracer = target.trace_settled(programs, is_empty)?;
                found.extend(target.run_batches(effort.batches, TRACED_BATCH)?);
                tracer.interrupt()?;
                target.wait_until_unprobed()?;
            }
        }
        let [untraced, empty, full] = [&untraced, &empty, &full].map(|batches| medians(batches));
        for (name, pair) in [("none", untraced), ("empty", empty), ("full tracing", full)] {
            section.row([
                Cell::Number(f64::from(frames), 0),
                Cell::text(name),
                Cell::Number(pair.wall, 0),
                Cell::Number(pair.cpu, 0),
                Cell::Number(pair.cpu / untraced.cpu, 1),
                Cell::Number(pair.cpu / empty.cpu, 2),
            ]);
        }
    }
    section.note(format!(
        "Medians of {} batches of {TRACED_BATCH} pairs, in {} interleaved rounds. The ratios are of \
         the thread's own CPU time, which other programs disturb less; on an idle machine both \
         columns are equal. Aim: full tracing at most 1.5 times the empty probes for short stacks.",
        effort.rounds * effort.batches,
        effort.rounds
    ));
    Ok(section)
}
