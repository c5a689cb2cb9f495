//! What does leaktrace itself use, while its target allocates as fast as it can?

use std::time::Instant;

use anyhow::Result;

use super::programs::Programs;
use super::table::{Cell, Section};
use super::target::Target;
use super::{Effort, pairs::SHORT};

const COLUMNS: [&str; 4] =
    ["target's pairs/s", "leaktrace: % of one CPU", "peak RSS, MiB", "seconds watched"];
/// What a traced pair takes at least, to have the loop run for about the time that is wanted.
const TRACED_PAIR_NS: f64 = 3000.0;

pub(crate) fn measure(programs: &Programs, effort: Effort) -> Result<Section> {
    let mut section = Section::new("leaktrace's own use", &COLUMNS);
    let mut target = Target::start(programs, SHORT)?;
    let mut tracer = target.trace_settled(programs, false)?;
    let pairs = (effort.watched_s * 1e9 / TRACED_PAIR_NS) as u32;
    let (started, cpu_before) = (Instant::now(), tracer.cpu_seconds()?);
    target.run(pairs)?;
    let elapsed = started.elapsed().as_secs_f64();
    let cpu = tracer.cpu_seconds()? - cpu_before;
    section.row([
        Cell::Number(f64::from(pairs) / elapsed, 0),
        Cell::Number(100.0 * cpu / elapsed, 2),
        Cell::Number(tracer.status_kib("VmHWM")? / 1024.0, 1),
        Cell::Number(elapsed, 1),
    ]);
    tracer.interrupt()?;
    section.note(
        "User and system time of the process and of its children that have ended; the view \
         refreshes every 5 s. Its BPF programs run on the target's time.",
    );
    Ok(section)
}
