//! leaktrace's chores. `cargo xtask --help` lists them.

mod ebpf;
mod packages;
mod tidy;
mod toolchain;
mod workspace;

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
    /// Fail on an import against the arrows of ARCHITECTURE.md, or a file that grew too long.
    Tidy,
}

fn main() -> Result<()> {
    match Arguments::parse().chore {
        Chore::Ebpf { check: false, .. } => ebpf::build_and_lock(),
        Chore::Ebpf { check: true, rebuild: false } => ebpf::check(),
        Chore::Ebpf { check: true, rebuild: true } => ebpf::check_by_rebuilding(),
        Chore::Tidy => tidy::check(),
    }
}
