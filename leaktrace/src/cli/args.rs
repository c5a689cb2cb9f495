//! The command line's shape.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use super::chosen::ChosenArgs;
use super::exit::UsageError;
use super::own_allocators::OwnArgs;
use super::values::{SampleSize, Share, percent, positive_time, sample_size, size, time};
use crate::analyse::SortKey;
use crate::model::Pid;
use crate::target::PlanOptions;

/// Names the code path that leaks memory in a live process.
#[derive(Debug, Parser)]
#[command(
    name = "leaktrace",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "`leaktrace -p PID` is short for `leaktrace attach -p PID`.\n\
                  Exit codes: 0 done; 2 the arguments make no sense, or an output file cannot be \
                  written; 3 not permitted, or the kernel or the process lacks what is needed; 4 too \
                  much was missed for a verdict; 5 no such process, or it ended before tracing \
                  began; 126, 127 `run` could not start the command, whose own code it passes on \
                  otherwise."
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// `attach` without its name.
    #[command(flatten)]
    pub attach: AttachArgs,
}

impl Arguments {
    /// How often `-v` was given.
    pub fn verbosity(&self) -> u8 {
        match &self.command {
            None => self.attach.trace.verbose,
            Some(Command::Attach(attach)) => attach.trace.verbose,
            Some(Command::Run(run)) => run.trace.verbose,
            Some(Command::Demo(demo)) => demo.verbose,
            Some(_) => 0,
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trace a running process
    Attach(AttachArgs),
    /// Start a command, traced from its first allocation
    Run(RunArgs),
    /// Find the leak in a bundled leaking service: nothing to prepare
    Demo(DemoArgs),
    /// Can this host, and this process, be traced, at what cost, and what to do if not
    Doctor(DoctorArgs),
    /// Stops itself, then becomes a command: the child of `run`
    #[command(name = "__exec", hide = true)]
    Exec(ExecArgs),
    /// Lets a held child go on if leaktrace dies
    #[command(name = "__guard", hide = true)]
    Guard {
        /// The child.
        pid: Pid,
        /// The map of all others that may be held, as an open descriptor.
        #[arg(long)]
        watched: Option<i32>,
    },
    /// Removes the definitions of leaktrace's probes when it ends, however it does
    #[command(name = "__janitor", hide = true)]
    Janitor {
        /// What they are called.
        group: String,
    },
    /// The child that probes are tried on
    #[command(name = "__practice", hide = true)]
    Practice {
        /// Installs a seccomp filter first.
        #[arg(long)]
        seccomp: bool,
    },
    /// Probes that do nothing, where `attach` would put its own: what the benchmark compares with
    #[command(name = "__empty-probes", hide = true)]
    EmptyProbes(EmptyProbesArgs),
    /// What the unwind tables of files take: what the benchmark measures
    #[command(name = "__unwind-tables", hide = true)]
    UnwindTables {
        /// ELF files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// The worker that reads the target's debug information
    #[command(name = "__symbolize", hide = true)]
    Symbolize,
    /// The service that `demo` traces
    #[command(name = "__demo-service", hide = true)]
    DemoService {
        /// Where to write the port instead of standard output.
        #[arg(long)]
        port_file: Option<PathBuf>,
    },
}

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Whom to trace.
    #[command(flatten)]
    pub chosen: ChosenArgs,
    /// How to trace.
    #[command(flatten)]
    pub trace: TraceArgs,
    /// Print the probe plan and what tracing would cost, from a count of 0.1 s; trace nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// How to trace.
    #[command(flatten)]
    pub trace: TraceArgs,
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    pub command: Vec<std::ffi::OsString>,
}

/// Arguments that `attach` and `run` share.
#[derive(Clone, Debug, Args)]
pub struct TraceArgs {
    /// Stop by itself after this time, e.g. 30s or 5m [default: until Ctrl-C or the target's end]
    #[arg(short, long, value_name = "TIME", value_parser = positive_time)]
    pub duration: Option<Duration>,
    /// How often the view refreshes
    #[arg(short, long, value_name = "TIME", value_parser = positive_time, default_value = "5s")]
    pub interval: Duration,
    /// Stacks shown [default: 10 in text, all in files]
    #[arg(short = 'T', long, value_name = "N")]
    pub top: Option<usize>,
    /// Write a report on the way out: .json, .txt, .folded or .svg (flame graph); repeatable
    #[arg(short, long, value_name = "FILE")]
    pub output: Vec<PathBuf>,
    /// What goes to standard output
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: StdoutFormat,
    /// What stacks are ranked by
    #[arg(long, value_name = "KEY", default_value = "growth")]
    pub sort: SortArg,
    /// Count only blocks at least this old
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub min_age: Option<Duration>,
    /// Record only blocks of at least this size
    #[arg(short = 'z', long, value_name = "BYTES", value_parser = size)]
    pub min_size: Option<u64>,
    /// Record only blocks of at most this size
    #[arg(short = 'Z', long, value_name = "BYTES", value_parser = size)]
    pub max_size: Option<u64>,
    /// Mean bytes between samples, e.g. 512KiB; 0: every allocation
    #[arg(short, long, value_name = "BYTES", value_parser = sample_size)]
    pub sample: Option<SampleSize>,
    /// The most that tracing may slow the target down [default: 5%]
    #[arg(long, value_name = "PCT", value_parser = percent, conflicts_with = "exact")]
    pub max_overhead: Option<Share>,
    /// No budget: trace all the time, whatever that costs
    #[arg(long)]
    pub exact: bool,
    /// Also tell blocks that are freed twice, or by another family than they were allocated by
    /// (`new` and `free`); implies --exact, and costs a stack for each free
    #[arg(long, conflicts_with_all = ["max_overhead", "sample", "follow"])]
    pub check_frees: bool,
    /// Trace the processes that it forks, too, and what those execute: exactly, without a budget
    #[arg(long, conflicts_with = "max_overhead")]
    pub follow: bool,
    /// Leave out memory that is mapped past the allocators: seeing it costs each system call of
    /// each process on this host some 0.09 µs
    #[arg(long)]
    pub no_mappings: bool,
    /// Only probe allocation functions in this file
    #[arg(short = 'O', long, value_name = "FILE")]
    pub obj: Option<String>,
    /// The target's own allocators.
    #[command(flatten)]
    pub own: OwnArgs,
    /// The most live blocks that are remembered (32 bytes of kernel memory each)
    #[arg(long, value_name = "N", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    pub max_blocks: u32,
    /// The most distinct stacks that are remembered (96 bytes of kernel memory each)
    #[arg(long, value_name = "N", default_value_t = 1 << 17, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub max_stacks: u32,
    /// Hold each probe by a perf event even where the kernel has better: to compare
    #[arg(long, hide = true)]
    pub perf_links: bool,
    /// Print the last report only, and no progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Say what is done; twice: also what happens in the kernel
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Colours (`NO_COLOR` is respected)
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
}

impl TraceArgs {
    /// What tracing may cost the target; `None` without a budget.
    pub fn budget(&self) -> Option<Share> {
        (!self.exact && !self.check_frees && !self.follow)
            .then(|| self.max_overhead.unwrap_or(Share::DEFAULT_BUDGET))
    }

    /// What to probe.
    ///
    /// # Errors
    ///
    /// What is wrong with the user's own allocators.
    pub fn plan_options(&self) -> Result<PlanOptions, UsageError> {
        let own = self.own.allocators()?;
        Ok(PlanOptions { only: self.obj.clone(), own, check_frees: self.check_frees })
    }

    /// Mean bytes between samples: a power of two, or 0 for every allocation.
    pub fn sample_bytes(&self) -> u64 {
        self.sample.map_or(0, SampleSize::bytes)
    }
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How long the service is traced
    #[arg(short, long, value_name = "TIME", value_parser = positive_time, default_value = "10s")]
    pub duration: Duration,
    /// Where the flame graph goes
    #[arg(short, long, value_name = "FILE", default_value = "leaktrace-demo.svg")]
    pub output: PathBuf,
    /// Say what is done; twice: also what happens in the kernel
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Also look at this process
    #[arg(short, long, value_name = "PID")]
    pub pid: Option<Pid>,
    /// Its own allocators.
    #[command(flatten)]
    pub own: OwnArgs,
}

/// Arguments of the hidden `__exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// leaktrace's process id.
    #[arg(long)]
    pub parent: u32,
    /// The signals to ignore, as a mask.
    #[arg(long)]
    pub ignored_signals: u64,
    /// The limit on open files to set; 0 for none.
    #[arg(long)]
    pub open_files: u64,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<std::ffi::OsString>,
}

/// Arguments of the hidden `__empty-probes`.
#[derive(Debug, Args)]
pub struct EmptyProbesArgs {
    /// The process
    #[arg(short, long, value_name = "PID")]
    pub pid: Pid,
    /// Hold each probe by a perf event even where the kernel has better
    #[arg(long)]
    pub perf_links: bool,
}

/// Formats for standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StdoutFormat {
    /// For people.
    Text,
    /// One object, at the end.
    Json,
    /// One line a stack, at the end: for flame graph tools.
    Folded,
}

/// What stacks are ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SortArg {
    /// Growth of outstanding bytes.
    Growth,
    /// Outstanding bytes.
    Bytes,
    /// Outstanding blocks.
    Blocks,
}

impl SortArg {
    /// As the user wrote it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Growth => "growth",
            Self::Bytes => "bytes",
            Self::Blocks => "blocks",
        }
    }
}

impl From<SortArg> for SortKey {
    fn from(key: SortArg) -> Self {
        match key {
            SortArg::Growth => Self::Growth,
            SortArg::Bytes => Self::Bytes,
            SortArg::Blocks => Self::Blocks,
        }
    }
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn attach_may_be_left_out() {
        let parsed = Arguments::try_parse_from(["leaktrace", "-p", "1,2", "-d", "5s"]).unwrap();
        assert!(parsed.command.is_none());
        assert_eq!(parsed.attach.chosen.pids.len(), 2);
        assert_eq!(parsed.attach.trace.duration, Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_command_keeps_its_own_options() {
        let parsed =
            Arguments::try_parse_from(["leaktrace", "run", "-q", "--", "ls", "-l", "-p"]).unwrap();
        let Some(Command::Run(run)) = parsed.command else { panic!("not run") };
        assert_eq!(run.command, ["ls", "-l", "-p"]);
        assert!(run.trace.quiet);
    }

    #[test]
    fn a_trace_has_a_budget_unless_it_is_exact() {
        let trace = |options: &[&str]| {
            let args = ["leaktrace", "-p", "1"].iter().chain(options);
            Arguments::try_parse_from(args).unwrap().attach.trace
        };
        let budget = |options| trace(options).budget().map(Share::get);
        assert_eq!(budget(&[]), Some(0.05));
        assert_eq!(budget(&["--max-overhead", "0.5%"]), Some(0.005));
        assert_eq!(budget(&["--max-overhead=20"]), Some(0.2));
        assert_eq!(budget(&["--exact"]), None);
        assert_eq!(budget(&["--check-frees"]), None);
        assert_eq!(trace(&[]).sample_bytes(), 0);
        assert_eq!(trace(&["-s", "512KiB"]).sample_bytes(), 512 << 10);
        let sampled = trace(&["--exact", "--sample", "64K"]);
        assert_eq!((sampled.budget(), sampled.sample_bytes()), (None, 64 << 10));
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in [
            &["leaktrace"][..],
            &["leaktrace", "-p", "0"],
            &["leaktrace", "-p", "x"],
            &["leaktrace", "attach"],
            &["leaktrace", "-p", "1", "-d", "0s"],
            &["leaktrace", "-p", "1", "--format", "svg"],
            &["leaktrace", "-p", "1", "--exact", "--max-overhead", "5%"],
            &["leaktrace", "-p", "1", "--max-overhead", "0"],
            &["leaktrace", "-p", "1", "--check-frees", "--max-overhead", "5%"],
            &["leaktrace", "-p", "1", "--check-frees", "--sample", "64K"],
            &["leaktrace", "-p", "1", "--max-overhead", "200%"],
            &["leaktrace", "-p", "1", "--sample", "many"],
            &["leaktrace", "run"],
        ] {
            assert!(Arguments::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
    }
}
