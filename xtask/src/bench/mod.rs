//! `cargo xtask bench`: what leaktrace costs its target, and itself. Numbers to read, never a test:
//! nothing here fails because something took long.

mod bpf_stats;
mod fdinfo;
mod kernel_time;
mod killed;
mod memory;
mod own_use;
mod pairs;
mod peers;
mod process;
mod programs;
mod startup;
mod table;
mod target;
mod unwind_tables;
mod walk;

use std::fs;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::workspace::output;
use programs::Programs;
use table::Section;

/// Arguments of `bench`.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Fewer rounds: a minute instead of several.
    #[arg(long)]
    quick: bool,
    /// Answer only this question; repeatable.
    #[arg(long, value_name = "QUESTION")]
    only: Vec<Question>,
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Question {
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
    /// Memory for each live block.
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
}

const QUICK: Effort = Effort { rounds: 2, batches: 30, kills: 5, watched_s: 2.0 };
const THOROUGH: Effort = Effort { rounds: 5, batches: 50, kills: 20, watched_s: 10.0 };

/// Answers the questions, and writes `target/bench/bench.md` and `bench.json`.
pub(crate) fn main(args: &BenchArgs) -> Result<()> {
    let effort = if args.quick { QUICK } else { THOROUGH };
    let asked = |question: Question| args.only.is_empty() || args.only.contains(&question);
    peers::install()?;
    let programs = Programs::build()?;
    let host = host()?;
    println!("{host}\n");
    let mut sections = Vec::new();
    for question in Question::value_variants().iter().filter(|question| asked(**question)) {
        let section = answer(*question, &programs, effort)?;
        println!("{}", section.markdown());
        sections.push(section);
    }
    write(&programs, &host, &sections)
}

fn answer(question: Question, programs: &Programs, effort: Effort) -> Result<Section> {
    match question {
        Question::Pairs => pairs::measure(programs, effort),
        Question::KernelTime => kernel_time::measure(programs, effort),
        Question::Walk => walk::measure(programs, effort),
        Question::UnwindTables => unwind_tables::measure(programs, effort),
        Question::Peers => peers::measure(programs, effort),
        Question::Startup => startup::measure(programs, effort),
        Question::OwnUse => own_use::measure(programs, effort),
        Question::Memory => memory::measure(programs),
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
        println!("{}", path.display());
    }
    Ok(())
}
