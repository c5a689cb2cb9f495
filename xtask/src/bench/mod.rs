//! `cargo xtask bench`: what leaktrace costs its target, and itself. Numbers to read, never a test:
//! nothing here fails because something took long.

mod bpf_stats;
mod budget;
mod fdinfo;
mod growth;
mod handlers;
mod kernel_time;
mod killed;
mod memory;
mod own_use;
mod pairs;
mod peers;
mod process;
mod programs;
mod report;
mod startup;
mod steady;
mod table;
mod target;
mod tracing;
mod unwind_tables;
mod walk;
mod workloads;

use std::fs;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::workspace::output;
use programs::Programs;
use table::Section;

/// Arguments of `bench`.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Fewer rounds: minutes instead of half an hour, and rougher numbers.
    #[arg(long)]
    quick: bool,
    /// Answer only this question; repeatable.
    #[arg(long, value_name = "QUESTION")]
    only: Vec<Question>,
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Question {
    /// How fast real workloads run, traced in each way and by other tools.
    Workloads,
    /// Whether `--max-overhead 5%` is kept, and leaks are still found.
    Budget,
    /// What a malloc+free pair takes, untraced, with empty probes and traced.
    Pairs,
    /// How much of that is spent in leaktrace's BPF programs.
    KernelTime,
    /// What a walk by unwind tables takes, beside one by frame pointers.
    Walk,
    /// Time and memory for the unwind tables of large files.
    UnwindTables,
    /// The same pair under bpftrace, memleak, heaptrack and valgrind.
    Peers,
    /// Time to attach and to detach.
    Startup,
    /// leaktrace's own CPU time and memory.
    OwnUse,
    /// What the handlers add to empty probes with many live blocks, and leaktrace's CPU time.
    Handlers,
    /// How the cost grows with rate, frames, stacks and threads; as plots.
    Growth,
    /// Memory for each live block, and what becomes of the answer without room.
    Memory,
    /// The target's speed after leaktrace was killed.
    Killed,
}

/// How often things are repeated.
#[derive(Clone, Copy)]
struct Effort {
    /// Interleaved rounds.
    rounds: u32,
    /// Batches in a round.
    batches: u32,
    /// How often leaktrace is killed.
    kills: u32,
    /// Seconds for which its own use is watched.
    watched_s: f64,
    /// How often each way to trace gets its turn on each workload.
    turns: u32,
    /// Seconds of such a turn.
    spell_s: f64,
    /// Types in the file that a compiler run compiles.
    types: u32,
    /// Seconds traced under the budget, and where there is a leak to be found.
    budget_s: f64,
    leak_s: f64,
    /// Seconds for each point of a plot.
    glimpse_s: f64,
    /// Points of it that are left out after each.
    points_skipped: usize,
    /// How many numbers of live blocks are tried.
    sizes: usize,
}

const QUICK: Effort = Effort {
    rounds: 2,
    batches: 30,
    kills: 5,
    watched_s: 2.0,
    turns: 1,
    spell_s: 1.0,
    types: 1,
    budget_s: 10.0,
    leak_s: 20.0,
    glimpse_s: 0.4,
    points_skipped: 1,
    sizes: 1,
};
const THOROUGH: Effort = Effort {
    rounds: 5,
    batches: 50,
    kills: 20,
    watched_s: 10.0,
    turns: 3,
    spell_s: 2.5,
    types: 5,
    budget_s: 24.0,
    leak_s: 60.0,
    glimpse_s: 1.0,
    points_skipped: 0,
    sizes: 2,
};

/// Answers the questions, and writes `target/bench/bench.md` and `bench.json`.
pub(crate) fn main(args: &BenchArgs) -> Result<()> {
    let effort = if args.quick { QUICK } else { THOROUGH };
    let asked = |question: Question| args.only.is_empty() || args.only.contains(&question);
    peers::install()?;
    let programs = Programs::build()?;
    let host = host()?;
    println!("{host}\n");
    let (mut sections, mut unanswered) = (Vec::new(), Vec::new());
    for question in Question::value_variants().iter().filter(|question| asked(**question)) {
        let name = question.to_possible_value().context("a question without a name")?;
        eprintln!("xtask: {}", name.get_help().map(ToString::to_string).unwrap_or_default());
        match answer(*question, &programs, effort) {
            Ok(section) => {
                println!("{}", section.markdown());
                sections.push(section);
                // What is known is not lost if the rest is not waited for.
                write(&programs, &host, &sections)?;
            }
            Err(error) => {
                eprintln!("xtask: {}: {error:#}", name.get_name());
                unanswered.push(name.get_name().to_owned());
            }
        }
    }
    println!("{}", programs.directory.display());
    ensure!(unanswered.is_empty(), "not answered: {}", unanswered.join(", "));
    Ok(())
}

fn answer(question: Question, programs: &Programs, effort: Effort) -> Result<Section> {
    match question {
        Question::Workloads => workloads::measure(programs, effort),
        Question::Budget => budget::measure(programs, effort),
        Question::Pairs => pairs::measure(programs, effort),
        Question::KernelTime => kernel_time::measure(programs, effort),
        Question::Walk => walk::measure(programs, effort),
        Question::UnwindTables => unwind_tables::measure(programs, effort),
        Question::Peers => peers::measure(programs, effort),
        Question::Startup => startup::measure(programs, effort),
        Question::OwnUse => own_use::measure(programs, effort),
        Question::Handlers => handlers::measure(programs, effort),
        Question::Growth => growth::measure(programs, effort),
        Question::Memory => memory::measure(programs, effort),
        Question::Killed => killed::measure(programs, effort),
    }
}

/// One line on where this was measured.
fn host() -> Result<String> {
    let kernel = output(std::process::Command::new("uname").args(["-r", "-m"]))?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    Ok(format!("Linux {}, {cpus} CPUs, load {load} when the benchmark began", kernel.trim()))
}

fn write(programs: &Programs, host: &str, sections: &[Section]) -> Result<()> {
    let tables: Vec<String> = sections.iter().map(Section::markdown).collect();
    let values: Vec<Value> = sections.iter().map(Section::json).collect();
    let markdown = format!("# leaktrace's benchmark\n\n{host}\n\n{}", tables.join("\n"));
    let json = serde_json::to_string_pretty(&json!({ "host": host, "sections": values }))?;
    for (name, content) in [("bench.md", markdown), ("bench.json", json + "\n")] {
        let path = programs.directory.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
