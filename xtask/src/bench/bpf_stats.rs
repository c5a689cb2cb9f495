//! The kernel's own accounting of the time that BPF programs run.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::fdinfo;
use crate::workspace::output;

/// What the kernel keeps of a program's name. `bpftool` may know the rest.
const NAME_CHARS: usize = 15;
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Nanoseconds and runs so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct RunTime {
    time_ns: f64,
    runs: f64,
}

impl RunTime {
    /// The time of one run since `before`; `None` when there was none.
    pub(crate) fn each_since(self, before: Self) -> Option<f64> {
        (self.runs > before.runs)
            .then(|| (self.time_ns - before.time_ns) / (self.runs - before.runs))
    }
}

/// The accounting of one process's programs. Switched off again when dropped, if it was off before.
pub(crate) struct BpfStats {
    before: String,
    programs: HashSet<u64>,
}

impl BpfStats {
    /// Switches it on for the programs that a process holds.
    pub(crate) fn switch_on(pid: u32) -> Result<Self> {
        let programs = fdinfo::by_id(pid, "prog_id", "prog_id")?.into_keys().collect();
        let before = fs::read_to_string(SWITCH).with_context(|| format!("cannot read {SWITCH}"))?;
        fs::write(SWITCH, "1").with_context(|| format!("cannot write {SWITCH}"))?;
        Ok(Self { before, programs })
    }

    /// The time of each program so far, by the first 15 characters of its name. A process may hold
    /// several of one name: leaktrace does while it measures what a probe costs.
    pub(crate) fn run_times(&self) -> Result<BTreeMap<String, RunTime>> {
        let listed = output(Command::new("bpftool").args(["prog", "show", "-j"]))?;
        let listed: Value = serde_json::from_str(&listed).context("bpftool talks nonsense")?;
        let mut times = BTreeMap::new();
        for program in listed.as_array().context("bpftool lists nothing")? {
            let number = |field: &str| program.get(field).and_then(Value::as_f64).unwrap_or(0.0);
            let id = program.get("id").and_then(Value::as_u64);
            let name = program.get("name").and_then(Value::as_str);
            if let (Some(id), Some(name)) = (id, name)
                && self.programs.contains(&id)
            {
                let time: &mut RunTime =
                    times.entry(name.chars().take(NAME_CHARS).collect()).or_default();
                time.time_ns += number("run_time_ns");
                time.runs += number("run_cnt");
            }
        }
        Ok(times)
    }
}

impl Drop for BpfStats {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SWITCH, &self.before) {
            eprintln!("xtask: {SWITCH} is left on: {error}");
        }
    }
}
