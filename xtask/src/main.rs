//! leaktrace's chores. `cargo xtask --help` lists them.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test that cannot go on panics"))]

mod aarch64;
mod bench;
mod ebpf;
mod packages;
mod test;
mod tidy;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "leaktrace's chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build the BPF object and its lock file.
    Ebpf {
        /// Build nothing: fail if the committed object does not belong to the sources.
        #[arg(long)]
        check: bool,
        /// With --check: build the object anew and compare the bytes.
        #[arg(long, requires = "check")]
        rebuild: bool,
    },
    /// Measure what leaktrace costs its targets, beside empty probes and other tools, and whether its
    /// budget holds: tables and plots in target/bench.
    Bench(bench::BenchArgs),
    /// Run every test, as root: what this machine lacks for them is installed first.
    Test {
        /// Which tests: arguments of `cargo test`, such as a test's name.
        #[arg(allow_hyphen_values = true)]
        chosen: Vec<String>,
        /// How: arguments of the test programs, such as --nocapture.
        #[arg(last = true)]
        harness: Vec<String>,
    },
    /// Fail on an import against the arrows of ARCHITECTURE.md, or a file that grew too long.
    Tidy,
    /// Compile the command for arm64 as far as that shows errors, without linking.
    CheckAarch64,
}

fn main() -> ExitCode {
    match run(Arguments::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> Result<()> {
    match chore {
        Chore::Ebpf { check: false, .. } => ebpf::build_and_lock(),
        Chore::Ebpf { check: true, rebuild: false } => ebpf::check(),
        Chore::Ebpf { check: true, rebuild: true } => ebpf::check_by_rebuilding(),
        Chore::Bench(args) => bench::main(&args),
        Chore::Test { chosen, harness } => test::run_all(&chosen, &harness),
        Chore::Tidy => tidy::check(),
        Chore::CheckAarch64 => aarch64::check(),
    }
}
