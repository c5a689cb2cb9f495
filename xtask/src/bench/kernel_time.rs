//! How long do leaktrace's programs run in the kernel, without the trap that starts them?

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::pairs::{LONG, SHORT, TRACED_BATCH};
use super::programs::Programs;
use super::table::{Cell, Section, median};
use super::target::Target;
use super::{Effort, fdinfo};
use crate::workspace::output;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";
const COLUMNS: [&str; 3] = ["frames", "program", "ns/run"];
/// `bpftool` cuts names to 15 characters.
const PROGRAMS: [&str; 3] = ["allocation_entr", "allocation_retu", "free_entry"];

/// The kernel's accounting of BPF programs, as it was before.
struct Accounting {
    before: String,
}

impl Accounting {
    fn switch_on() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).with_context(|| format!("cannot read {SWITCH}"))?;
        fs::write(SWITCH, "1").with_context(|| format!("cannot write {SWITCH}"))?;
        Ok(Self { before })
    }
}

impl Drop for Accounting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SWITCH, &self.before) {
            eprintln!("xtask: {SWITCH} is left on: {error}");
        }
    }
}

pub(crate) fn measure(programs: &Programs, effort: Effort) -> Result<Section> {
    let mut section = Section::new("Of that, leaktrace's programs in the kernel", &COLUMNS);
    let accounting = Accounting::switch_on()?;
    for frames in [SHORT, LONG] {
        let mut target = Target::start(programs, frames)?;
        let mut tracer = target.trace_settled(programs, false)?;
        let mine = fdinfo::by_id(tracer.pid(), "prog_id", "prog_id")?.into_keys().collect();
        let mut found: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for _ in 0..effort.batches {
            let before = run_times(&mine)?;
            target.run(TRACED_BATCH)?;
            for (name, (time, runs)) in run_times(&mine)? {
                let (time_before, runs_before) = before.get(&name).copied().unwrap_or_default();
                if runs > runs_before {
                    let each = (time - time_before) / (runs - runs_before);
                    found.entry(name).or_default().push(each);
                }
            }
        }
        tracer.interrupt()?;
        for program in PROGRAMS {
            let times = found.get(program).map_or(&[][..], Vec::as_slice);
            section.row([
                Cell::Number(f64::from(frames), 0),
                Cell::text(program),
                Cell::Number(median(times), 0),
            ]);
        }
    }
    drop(accounting);
    section.note(
        "The kernel's own accounting (`kernel.bpf_stats_enabled`), medians of batches; reading the \
         clock for it adds about 30 ns to each run.",
    );
    Ok(section)
}

/// Nanoseconds and runs of each program so far, by name.
fn run_times(ids: &HashSet<u64>) -> Result<BTreeMap<String, (f64, f64)>> {
    let listed = output(Command::new("bpftool").args(["prog", "show", "-j"]))?;
    let listed: Value = serde_json::from_str(&listed).context("bpftool talks nonsense")?;
    let mut times = BTreeMap::new();
    for program in listed.as_array().context("bpftool lists nothing")? {
        let number = |field: &str| program.get(field).and_then(Value::as_f64).unwrap_or(0.0);
        let id = program.get("id").and_then(Value::as_u64);
        let name = program.get("name").and_then(Value::as_str);
        if let (Some(id), Some(name)) = (id, name)
            && ids.contains(&id)
        {
            times.insert(name.to_owned(), (number("run_time_ns"), number("run_cnt")));
        }
    }
    Ok(times)
}
