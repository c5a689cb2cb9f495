//! Who traces a process that runs already, and how it is started, so that the rest of the benchmark
//! does not care.

use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::process::Process;
use super::programs::Programs;

/// leaktrace measures the cost of probes on this host in its first second, beside the trace.
pub(crate) const SETTLES_IN: Duration = Duration::from_millis(1200);
/// The kernel takes a killed tracer's probes out a little after its end.
const UNTIL_PROBES_ARE_GONE: Duration = Duration::from_millis(500);
/// So many blocks are enough for every workload; by default bpftrace knows 4,096.
const BPFTRACE_KEYS: &str = "1000000";
/// The library whose `malloc` a process calls, by preference.
const ALLOCATORS: [&str; 2] = ["libjemalloc.so.2", "libc.so.6"];

/// A way to trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracing {
    /// leaktrace's probes without handlers.
    Empty,
    /// Every allocation.
    Exact,
    /// One in 512 KiB, without a budget.
    Sampled,
    /// At most 5 % slower.
    Budget,
    /// bpftrace with the usual script.
    Bpftrace,
}

impl Tracing {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty probes",
            Self::Exact => "exact",
            Self::Sampled => "sampled 512 KiB",
            Self::Budget => "budget 5 %",
            Self::Bpftrace => "bpftrace",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Empty => &["__empty-probes"],
            Self::Exact => &["attach", "--exact"],
            Self::Sampled => &["attach", "--exact", "--sample", "512KiB"],
            Self::Budget => &["attach", "--max-overhead", "5%"],
            Self::Bpftrace => &[],
        }
    }

    /// Starts it on processes, with more options, and waits until its probes are in.
    pub(crate) fn start(
        self,
        programs: &Programs,
        pids: &str,
        options: &[&str],
    ) -> Result<Process> {
        if self == Self::Bpftrace {
            return start_bpftrace(pids);
        }
        let mut command = Command::new(&programs.leaktrace);
        let mut tracer =
            Process::start(command.args(self.arguments()).args(["-p", pids]).args(options))?;
        tracer.wait_for_line("leaktrace: tracing")?;
        Ok(tracer)
    }

    /// The same, and waits until it does nothing else any more.
    pub(crate) fn start_settled(self, programs: &Programs, pid: u32) -> Result<Process> {
        let tracer = self.start(programs, &pid.to_string(), &[])?;
        thread::sleep(SETTLES_IN);
        Ok(tracer)
    }

    /// Ends it.
    pub(crate) fn stop(self, mut tracer: Process) -> Result<()> {
        if self != Self::Bpftrace {
            return tracer.interrupt();
        }
        // On Ctrl-C it would name a million stacks.
        tracer.kill()?;
        thread::sleep(UNTIL_PROBES_ARE_GONE);
        Ok(())
    }
}

fn start_bpftrace(pid: &str) -> Result<Process> {
    let script = script(&allocator_of(pid)?, pid);
    let mut command = Command::new("bpftrace");
    command.env("BPFTRACE_MAP_KEYS_MAX", BPFTRACE_KEYS);
    let mut tracer = Process::start(command.args(["-B", "line", "-p", pid, "-e", &script]))?;
    tracer.wait_for_line("ticking")?;
    Ok(tracer)
}

/// The usual one: sizes by thread, then sizes and stacks by address. That it ticks shows that it
/// runs.
pub(crate) fn script(allocator: &str, pid: &str) -> String {
    format!(
        "uprobe:{allocator}:malloc /pid == {pid}/ {{ @size[tid] = arg0; }}
         uretprobe:{allocator}:malloc /@size[tid]/ {{
             @bytes[retval] = @size[tid]; @stack[retval] = ustack; delete(@size[tid]);
         }}
         uprobe:{allocator}:free /@bytes[arg0]/ {{ delete(@bytes[arg0]); delete(@stack[arg0]); }}
         interval:ms:200 /!@ticked/ {{ @ticked = 1; printf(\"ticking\\n\"); }}"
    )
}

/// Where the library lies whose functions the process calls.
pub(crate) fn allocator_of(pid: &str) -> Result<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let path = |name: &&str| {
        let line = maps.lines().find(|line| line.ends_with(*name))?;
        line.split_whitespace().last().map(str::to_owned)
    };
    ALLOCATORS.iter().find_map(path).context("the target maps no known allocator")
}
