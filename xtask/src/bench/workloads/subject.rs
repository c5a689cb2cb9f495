//! The workloads: what is traced, in what unit it counts, and by which clock it is judged.

use std::process::Command;
use std::thread;

use anyhow::Result;

use super::compiler::Compiler;
use crate::bench::programs::Programs;
use crate::bench::steady::{Progress, Steady, wrapped};
use crate::bench::tracing::{SETTLES_IN, Tracing};

/// What a program leaks that leaks: a MiB a second.
pub(crate) const LEAK: u64 = 1 << 20;

/// Debian's: one earlier in the path may be a script that looks for another.
const PYTHON: &str = "/usr/bin/python3";

/// What runs.
#[derive(Clone, Copy)]
pub(crate) enum Workload {
    /// malloc and free, as fast as it can.
    Loop {
        threads: u32,
        leak: u64,
    },
    /// 50,000 allocations a second.
    Server {
        leak: u64,
    },
    Redis,
    Python,
    Compiler,
}

/// Those of the comparison.
pub(crate) const WORKLOADS: [Workload; 6] = [
    Workload::Loop { threads: 1, leak: 0 },
    Workload::Loop { threads: 2, leak: 0 },
    Workload::Server { leak: 0 },
    Workload::Redis,
    Workload::Python,
    Workload::Compiler,
];

impl Workload {
    pub(crate) fn name(self) -> String {
        let name = match self {
            Self::Loop { threads: 1, .. } => "malloc/free loop, 1 thread",
            Self::Loop { .. } => "malloc/free loop, 2 threads",
            Self::Server { .. } => "server, 50,000 alloc/s",
            Self::Redis => "redis under redis-benchmark",
            Self::Python => "python3: json, re, dicts",
            Self::Compiler => "g++ -O2 (cc1plus)",
        };
        format!("{name}{}", if self.leak() > 0 { ", leaking 1 MiB/s" } else { "" })
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Loop { .. } => "pairs",
            Self::Server { .. } | Self::Redis => "requests",
            Self::Python => "rounds",
            Self::Compiler => "runs",
        }
    }

    pub(crate) fn leak(self) -> u64 {
        match self {
            Self::Loop { leak, .. } | Self::Server { leak } => leak,
            Self::Redis | Self::Python | Self::Compiler => 0,
        }
    }

    /// The function that leaks, where one does.
    pub(crate) fn culprit(self) -> &'static str {
        if matches!(self, Self::Server { .. }) { "append_to_audit_log" } else { "leak_a_block" }
    }

    /// Whether its speed is what it gets done by the clock: the rest is judged by its CPU time, which
    /// other programs disturb less, and which is all that grows in one that is paced.
    pub(crate) fn by_clock(self) -> bool {
        matches!(self, Self::Redis)
    }

    /// Units a second.
    pub(crate) fn speed(self, progress: Progress) -> f64 {
        progress.units / if self.by_clock() { progress.wall_s } else { progress.cpu_s }
    }

    fn command(self, programs: &Programs) -> Command {
        let leak = self.leak();
        match self {
            Self::Loop { threads, .. } => {
                let mut command = Command::new(&programs.load);
                command.args([format!("threads={threads}"), format!("leak={leak}")]);
                command
            }
            Self::Python => {
                let mut command = Command::new(PYTHON);
                command.arg(&programs.python);
                command
            }
            Self::Server { .. } | Self::Redis | Self::Compiler => {
                let mut command = Command::new(&programs.server);
                command.arg(leak.to_string());
                command
            }
        }
    }
}

/// A workload that can be watched.
pub(crate) enum Subject {
    /// It works all the time.
    Steady(Steady),
    /// It is run each time.
    Compiler(Compiler),
}

impl Subject {
    /// Starts it; the compiler's file has so many types.
    pub(crate) fn start(programs: &Programs, workload: Workload, types: u32) -> Result<Self> {
        Self::start_under(programs, workload, types, &[])
    }

    /// The same under a tool, but for the compiler, which is started when it is watched.
    pub(crate) fn start_under(
        programs: &Programs,
        workload: Workload,
        types: u32,
        under: &[&str],
    ) -> Result<Self> {
        Ok(match workload {
            Workload::Compiler => Self::Compiler(Compiler::new(types)?),
            Workload::Redis => Self::Steady(Steady::redis(programs, under)?),
            Workload::Loop { .. } | Workload::Server { .. } | Workload::Python => {
                Self::Steady(Steady::start(&mut wrapped(under, workload.command(programs)))?)
            }
        })
    }

    /// What it does untraced in some seconds, or in one run.
    pub(crate) fn watch(&mut self, seconds: f64) -> Result<Progress> {
        match self {
            Self::Steady(steady) => steady.watch(seconds),
            Self::Compiler(compiler) => compiler.finish(&mut compiler.start(&[])?),
        }
    }

    /// The same while it is traced.
    pub(crate) fn watch_traced(
        &mut self,
        programs: &Programs,
        tracing: Tracing,
        seconds: f64,
    ) -> Result<Progress> {
        match self {
            Self::Steady(steady) => steady.watch_traced(programs, tracing, seconds),
            Self::Compiler(compiler) => {
                let mut process = compiler.start(&[])?;
                // Until its libraries are mapped.
                thread::sleep(SETTLES_IN / 4);
                let tracer = tracing.start_settled(programs, process.pid())?;
                let progress = compiler.finish(&mut process);
                tracing.stop(tracer)?;
                progress
            }
        }
    }

    /// What it does in some seconds under a tool that it was started under.
    pub(crate) fn watch_under(&mut self, under: &[&str], seconds: f64) -> Result<Progress> {
        match self {
            Self::Steady(steady) => steady.watch(seconds),
            Self::Compiler(compiler) => compiler.finish(&mut compiler.start(under)?),
        }
    }

    /// Ends it in good order.
    pub(crate) fn end(self) -> Result<()> {
        match self {
            Self::Steady(steady) => steady.end(),
            Self::Compiler(_) => Ok(()),
        }
    }
}
