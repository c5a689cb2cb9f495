//! Does a target run on at full speed after leaktrace was killed on it, again and again?

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};

use super::Effort;
use super::pairs::{SHORT, UNTRACED_BATCH, medians};
use super::programs::Programs;
use super::table::{Cell, Section};
use super::target::Target;

const COLUMNS: [&str; 6] = [
    "SIGKILLs under load",
    "CPU ns/pair before",
    "after",
    "a twin left alone, meanwhile",
    "speed, to the twin's",
    "probes left",
];
/// So few pairs that the load pauses for a moment only.
const BATCH_UNDER_LOAD: u32 = 20_000;

pub(crate) fn measure(programs: &Programs, effort: Effort) -> Result<Section> {
    let mut section = Section::new("After leaktrace was killed", &COLUMNS);
    let mut target = Target::start(programs, SHORT)?;
    let mut twin = Target::start(programs, SHORT)?;
    let (before, _) = in_turn(&mut target, &mut twin, effort)?;
    for _ in 0..effort.kills {
        kill_under_load(programs, &mut target)?;
    }
    target.wait_until_unprobed()?;
    let (after, twin_after) = in_turn(&mut target, &mut twin, effort)?;
    section.row([
        Cell::Number(f64::from(effort.kills), 0),
        Cell::Number(before, 2),
        Cell::Number(after, 2),
        Cell::Number(twin_after, 2),
        Cell::Number(twin_after / after, 2),
        Cell::text(if target.is_probed()? { "yes" } else { "none" }),
    ]);
    section.note("Medians of batches in turn with those of a process that was never traced.");
    Ok(section)
}

/// The CPU time of a pair in each, in nanoseconds.
fn in_turn(target: &mut Target, twin: &mut Target, effort: Effort) -> Result<(f64, f64)> {
    let (mut of_target, mut of_twin) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds * effort.batches {
        of_target.push(target.run(UNTRACED_BATCH)?);
        of_twin.push(twin.run(UNTRACED_BATCH)?);
    }
    Ok((medians(&of_target).cpu, medians(&of_twin).cpu))
}

/// Traces the target while it allocates, and kills leaktrace in the middle of that.
fn kill_under_load(programs: &Programs, target: &mut Target) -> Result<()> {
    let over = AtomicBool::new(false);
    let pid = target.process.pid();
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                target.run(BATCH_UNDER_LOAD)?;
            }
            anyhow::Ok(())
        });
        let killed = Target::trace_pid(programs, pid, false).and_then(|mut tracer| tracer.kill());
        over.store(true, Ordering::Relaxed);
        load.join().ok().context("the load's thread panicked")??;
        killed
    })
}
