//! How long do leaktrace's programs run in the kernel, without the trap that starts them?

use std::collections::BTreeMap;

use anyhow::Result;

use super::Effort;
use super::bpf_stats::BpfStats;
use super::pairs::{LONG, SHORT, TRACED_BATCH};
use super::programs::Programs;
use super::table::{Cell, Section, median};
use super::target::Target;

const COLUMNS: [&str; 3] = ["frames", "program", "ns/run"];
/// As the kernel names them. A session runs at the entry and at the return; kernels that have none
/// get two programs for them.
const PROGRAMS: [&str; 4] = ["allocation_sess", "allocation_entr", "allocation_retu", "free_entry"];

pub(crate) fn measure(programs: &Programs, effort: Effort) -> Result<Section> {
    let mut section = Section::new("Of that, leaktrace's programs in the kernel", &COLUMNS);
    for frames in [SHORT, LONG] {
        let mut target = Target::start(programs, frames)?;
        let mut tracer = target.trace_settled(programs, false)?;
        let stats = BpfStats::switch_on(tracer.pid())?;
        let mut found: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for _ in 0..effort.batches {
            let before = stats.run_times()?;
            target.run(TRACED_BATCH)?;
            for (name, time) in stats.run_times()? {
                let each = time.each_since(before.get(&name).copied().unwrap_or_default());
                found.entry(name).or_default().extend(each);
            }
        }
        drop(stats);
        tracer.interrupt()?;
        for program in PROGRAMS {
            let Some(times) = found.get(program).filter(|times| !times.is_empty()) else {
                continue;
            };
            section.row([
                Cell::Number(f64::from(frames), 0),
                Cell::text(program),
                Cell::Number(median(times), 0),
            ]);
        }
    }
    section.note(
        "The kernel's own accounting (`kernel.bpf_stats_enabled`), medians of batches; reading the \
         clock for it adds about 30 ns to each run. `allocation_sess` runs twice for each allocation, at \
         its entry and at its return; this is the mean of both.",
    );
    Ok(section)
}
