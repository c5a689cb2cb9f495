//! The target of most questions: a process that allocates and frees as fast as it can when told
//! to, and leaktrace on it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::process::{BETWEEN_LOOKS, Process};
use super::programs::{Programs, Unwinding};
use super::tracing::{SETTLES_IN, Tracing};

/// How long probes may take to go when whoever placed them is gone.
const UNTIL_PROBES_ARE_GONE: Duration = Duration::from_secs(20);

/// A running `pairs`.
pub(crate) struct Target {
    pub(crate) process: Process,
    /// Where the allocation functions are, and their code without probes.
    code: Vec<(u64, [u8; 64])>,
}

/// What a pair took, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
}

impl Target {
    /// Starts it with a stack of `frames`.
    pub(crate) fn start(programs: &Programs, frames: u32) -> Result<Self> {
        Self::spawn(Command::new(&programs.pairs).arg(frames.to_string()))
    }

    /// The same with callers that are found in this way only.
    pub(crate) fn start_unwound_by(
        programs: &Programs,
        frames: u32,
        unwinding: Unwinding,
    ) -> Result<Self> {
        let program = programs.pairs_unwound_by(unwinding)?;
        Self::spawn(Command::new(program).arg(frames.to_string()))
    }

    /// The same with a library in its address space.
    pub(crate) fn start_with_library(programs: &Programs, library: &Path) -> Result<Self> {
        Self::spawn(Command::new(&programs.pairs).arg("3").env("LD_PRELOAD", library))
    }

    fn spawn(command: &mut Command) -> Result<Self> {
        let mut process = Process::start(command)?;
        let ready = process.wait_for_line("ready ")?;
        let mut this = Self { process, code: Vec::new() };
        for address in ready.split_whitespace() {
            let address = u64::from_str_radix(address, 16).context("the target talks nonsense")?;
            this.code.push((address, [0; 64]));
        }
        this.code = this.present_code()?;
        Ok(this)
    }

    fn present_code(&self) -> Result<Vec<(u64, [u8; 64])>> {
        let memory = File::open(format!("/proc/{}/mem", self.process.pid()))?;
        let read = |(address, _): &(u64, _)| {
            let mut code = [0; 64];
            memory.read_exact_at(&mut code, *address)?;
            Ok((*address, code))
        };
        self.code.iter().map(read).collect()
    }

    /// Whether there is any probe in an allocation function now.
    pub(crate) fn is_probed(&self) -> Result<bool> {
        Ok(self.present_code()? != self.code)
    }

    /// Waits until no probe is left.
    pub(crate) fn wait_until_unprobed(&self) -> Result<()> {
        let deadline = Instant::now() + UNTIL_PROBES_ARE_GONE;
        while self.is_probed()? {
            ensure!(Instant::now() < deadline, "probes are left in process {}", self.process.pid());
            thread::sleep(BETWEEN_LOOKS);
        }
        Ok(())
    }

    /// Has it allocate and free so often, and gives the time of one pair.
    pub(crate) fn run(&mut self, pairs: u32) -> Result<Pair> {
        run_pairs(&mut self.process, pairs)
    }

    /// The same several times over.
    pub(crate) fn run_batches(&mut self, batches: u32, pairs: u32) -> Result<Vec<Pair>> {
        (0..batches).map(|_| self.run(pairs)).collect()
    }

    /// Starts leaktrace on it, and waits until its probes are in. They may all be empty.
    pub(crate) fn trace(&self, programs: &Programs, empty: bool) -> Result<Process> {
        Self::trace_pid(programs, self.process.pid(), empty)
    }

    /// The same for whoever only knows its id.
    pub(crate) fn trace_pid(programs: &Programs, pid: u32, empty: bool) -> Result<Process> {
        let tracing = if empty { Tracing::Empty } else { Tracing::Exact };
        tracing.start(programs, &pid.to_string(), &[])
    }

    /// Starts one leaktrace on several, and waits until it does nothing else any more.
    pub(crate) fn trace_all_settled(programs: &Programs, pids: &[u32]) -> Result<Process> {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let tracer = Tracing::Exact.start(programs, &pids.join(","), &[])?;
        thread::sleep(SETTLES_IN);
        Ok(tracer)
    }

    /// The same, and waits until leaktrace does nothing else any more.
    pub(crate) fn trace_settled(&self, programs: &Programs, empty: bool) -> Result<Process> {
        let tracer = self.trace(programs, empty)?;
        thread::sleep(SETTLES_IN);
        Ok(tracer)
    }
}

/// Has a process that runs `pairs` do so many, and gives the time of one.
pub(crate) fn run_pairs(process: &mut Process, pairs: u32) -> Result<Pair> {
    process.say(&pairs.to_string())?;
    let (wall, cpu) = process.wait_for(|line| {
        let (wall, cpu) = line.split_once(' ')?;
        Some((wall.parse::<f64>().ok()?, cpu.parse::<f64>().ok()?))
    })?;
    Ok(Pair { wall: wall / f64::from(pairs), cpu: cpu / f64::from(pairs) })
}
