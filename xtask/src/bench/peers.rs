//! What do the usual tools cost the same malloc+free pair, where they run at all?

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::pairs::{SHORT, TRACED_BATCH, UNTRACED_BATCH, medians};
use super::process::Process;
use super::programs::Programs;
use super::table::{Cell, Section};
use super::target::{Pair, Target, run_pairs};
use super::{Effort, tracing};
use crate::packages;

const COLUMNS: [&str; 4] = ["tool", "ns/pair", "CPU ns/pair", "to untraced"];
const PACKAGES: [&str; 8] = [
    "bpftrace",
    "bpfcc-tools",
    "heaptrack",
    "valgrind",
    "bpftool",
    "redis-tools",
    "python3",
    "g++",
];
/// Pairs in the one run of a tool that runs the whole program.
const WHOLE_RUN: u32 = 20_000;
/// A pair this much slower than an untraced one shows that a tool's probes are in.
const SLOWED_DOWN: f64 = 10.0;
/// How long a tool may take to place its probes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of a tool.
enum Outcome {
    Measured(Vec<Pair>),
    DoesNotRun(String),
}

/// Installs the tools.
pub(crate) fn install() -> Result<()> {
    packages::ensure(&PACKAGES, "what the benchmark traces, and compares leaktrace with")
}

pub(crate) fn measure(programs: &Programs, effort: Effort) -> Result<Section> {
    let mut section = Section::new("The same pair under other tools (3 frames)", &COLUMNS);
    let mut target = Target::start(programs, SHORT)?;
    let mut untraced = Vec::new();
    let mut outcomes: [(&str, Outcome); 5] =
        ["leaktrace", "bpftrace", "memleak-bpfcc", "heaptrack", "valgrind (memcheck)"]
            .map(|name| (name, Outcome::Measured(Vec::new())));
    for _ in 0..effort.rounds.div_ceil(2) {
        untraced.extend(target.run_batches(effort.batches, UNTRACED_BATCH)?);
        let normal = medians(&untraced).cpu;
        for (name, outcome) in &mut outcomes {
            let Outcome::Measured(batches) = outcome else { continue };
            match run_once(programs, name, &mut target, normal, effort.batches) {
                Ok(found) => batches.extend(found),
                Err(error) => *outcome = Outcome::DoesNotRun(format!("does not run: {error:#}")),
            }
        }
    }
    let normal = medians(&untraced);
    section.row(row("(untraced)", normal, normal));
    for (name, outcome) in outcomes {
        match outcome {
            Outcome::Measured(batches) => section.row(row(name, medians(&batches), normal)),
            Outcome::DoesNotRun(why) => {
                section.row([Cell::text(name), Cell::text(why), Cell::Empty, Cell::Empty]);
            }
        }
    }
    section.note(format!(
        "bpftrace runs the usual script: sizes by thread, then sizes and user stacks by address; its \
         probes trap in every process of the machine. heaptrack and valgrind start the program, \
         which does {WHOLE_RUN} pairs; under heaptrack it waits for the process at the other end of a pipe."
    ));
    Ok(section)
}

fn row(name: &str, pair: Pair, normal: Pair) -> [Cell; 4] {
    [
        Cell::text(name),
        Cell::Number(pair.wall, 0),
        Cell::Number(pair.cpu, 0),
        Cell::Number(pair.cpu / normal.cpu, 0),
    ]
}

fn run_once(
    programs: &Programs,
    name: &str,
    target: &mut Target,
    normal: f64,
    batches: u32,
) -> Result<Vec<Pair>> {
    let pid = target.process.pid().to_string();
    match name {
        "leaktrace" => {
            let mut tracer = target.trace_settled(programs, false)?;
            let found = target.run_batches(batches, TRACED_BATCH)?;
            tracer.interrupt()?;
            Ok(found)
        }
        "bpftrace" => {
            let script = tracing::script(&tracing::allocator_of(&pid)?, &pid);
            attached(
                Command::new("bpftrace").args(["-p", &pid, "-e", &script]),
                target,
                normal,
                batches,
            )
        }
        "memleak-bpfcc" => {
            let mut command = Command::new("memleak-bpfcc");
            attached(command.args(["-p", &pid, "3600"]), target, normal, batches)
        }
        "heaptrack" => {
            let output = programs.directory.join("heaptrack");
            let mut command = Command::new("heaptrack");
            whole_run(command.arg("-o").arg(output).arg(&programs.pairs))
        }
        _ => whole_run(Command::new("valgrind").arg("--tool=memcheck").arg(&programs.pairs)),
    }
}

/// A tool that attaches to the running program. What it prints differs, so that its probes are in
/// is seen by what they cost.
fn attached(
    command: &mut Command,
    target: &mut Target,
    normal: f64,
    batches: u32,
) -> Result<Vec<Pair>> {
    let mut tool = Process::start(command)?;
    let deadline = Instant::now() + PATIENCE;
    while target.run(TRACED_BATCH)?.cpu < SLOWED_DOWN * normal {
        if tool.has_ended()? {
            tool.wait()?;
            anyhow::bail!(reason(&tool.said));
        }
        anyhow::ensure!(Instant::now() < deadline, "it places no probes");
        thread::sleep(Duration::from_millis(20));
    }
    // The probe of a return may come last.
    thread::sleep(Duration::from_secs(1));
    let found = target.run_batches(batches, TRACED_BATCH);
    tool.interrupt()?;
    target.wait_until_unprobed()?;
    found
}

/// The line that says why, of all that a tool printed.
pub(super) fn reason(said: &[String]) -> String {
    let telling = |line: &&String| {
        let line = line.to_lowercase();
        ["unable", "cannot", "error", "failed"].iter().any(|word| line.contains(word))
    };
    let line = said.iter().find(telling).or(said.last()).map_or("it ended", String::as_str);
    line.split(". ").next().unwrap_or(line).to_owned()
}

fn whole_run(command: &mut Command) -> Result<Vec<Pair>> {
    let mut process = Process::start(command.arg(SHORT.to_string()))?;
    let pair = run_pairs(&mut process, WHOLE_RUN)?;
    process.close_and_wait()?;
    Ok(vec![pair])
}
