//! How long from starting leaktrace to its probes, and from Ctrl-C to its end?

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::process::BETWEEN_LOOKS;
use super::programs::Programs;
use super::table::{Cell, Section, median};
use super::target::Target;
use super::{Effort, pairs::SHORT};

const COLUMNS: [&str; 5] =
    ["target", "start to probes, ms", "aim, ms", "Ctrl-C to last probe out, ms", "to end, ms"];

/// The times of one trace, in milliseconds.
#[derive(Default)]
struct Times {
    attach: Vec<f64>,
    probes_out: Vec<f64>,
    end: Vec<f64>,
}

pub(crate) fn measure(programs: &Programs, effort: Effort) -> Result<Section> {
    let mut section = Section::new("Attaching and detaching", &COLUMNS);
    let library = programs.large_library()?;
    let size_mib = std::fs::metadata(&library)?.len() >> 20;
    let small = Target::start(programs, SHORT)?;
    let large = Target::start_with_library(programs, &library)?;
    let (mut small_times, mut large_times) = (Times::default(), Times::default());
    for _ in 0..effort.rounds {
        trace(programs, &small, &mut small_times)?;
        trace(programs, &large, &mut large_times)?;
    }
    let large_name = format!("the same with a {size_mib} MiB library");
    for (name, times, aim) in
        [("small C program", small_times, 1000.0), (&large_name, large_times, 3000.0)]
    {
        section.row([
            Cell::text(name),
            Cell::Number(median(&times.attach), 0),
            Cell::Number(aim, 0),
            Cell::Number(median(&times.probes_out), 0),
            Cell::Number(median(&times.end), 0),
        ]);
    }
    section.note(format!(
        "Medians of {} traces each, in turn, of an idle target. The library has 300,000 functions, \
         all of them in .symtab and in .dynsym.",
        effort.rounds
    ));
    Ok(section)
}

fn trace(programs: &Programs, target: &Target, times: &mut Times) -> Result<()> {
    let started = Instant::now();
    let mut tracer = target.trace(programs, false)?;
    times.attach.push(milliseconds(started.elapsed()));
    // Not in the middle of leaktrace's own measurement of what a probe costs.
    thread::sleep(Duration::from_millis(1200));
    let interrupted = Instant::now();
    tracer.signal("INT")?;
    let (mut probes_out, mut end) = (None, None);
    while probes_out.is_none() || end.is_none() {
        if probes_out.is_none() && !target.is_probed()? {
            probes_out = Some(interrupted.elapsed());
        }
        if end.is_none() && tracer.has_ended()? {
            end = Some(interrupted.elapsed());
        }
        anyhow::ensure!(interrupted.elapsed() < Duration::from_secs(60), "leaktrace does not end");
        thread::sleep(BETWEEN_LOOKS);
    }
    times.probes_out.extend(probes_out.map(milliseconds));
    times.end.extend(end.map(milliseconds));
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
