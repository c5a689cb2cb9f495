//! A report: what every format prints.

use super::health::Health;
use super::ids::{Addr, Pid, StackId};
use super::snapshot::{Ending, Totals};
use super::wrong_free::WrongFree;

/// What a trace found. Names in it are printable (see [`super::printable`]).
#[derive(Clone, Debug)]
pub struct Report {
    /// The processes traced, as they are at the time of the report.
    pub targets: Vec<Target>,
    /// When and how it was traced.
    pub trace: Trace,
    /// The probes in place.
    pub probes: Vec<ProbeInfo>,
    /// What was seen and missed.
    pub health: Health,
    /// What tracing costs the target.
    pub cost: Cost,
    /// Over all stacks.
    pub totals: Totals,
    /// The stacks, ranked as asked; only as many as were asked for are symbolised.
    pub stacks: Vec<StackReport>,
    /// How many stacks have outstanding blocks, those not in `stacks` included.
    pub stacks_outstanding: usize,
    /// The smallest leak that would have been seen, in bytes a second; `None` when every allocation
    /// was.
    pub smallest_leak_bytes_per_s: Option<f64>,
    /// Frees that are wrong, as far as they were checked; most frequent first.
    pub wrong_frees: Vec<WrongFree>,
}

impl Report {
    /// Whether its figures are estimates.
    pub fn is_estimate(&self) -> bool {
        self.trace.mode != Mode::Exact
    }
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its id.
    pub pid: Pid,
    /// Its command name (`/proc/PID/comm`).
    pub comm: String,
    /// Its executable.
    pub exe: String,
    /// When it started: clock ticks since boot, field 22 of `/proc/PID/stat`. With the pid it
    /// identifies a process.
    pub start_time: u64,
}

/// How it was traced.
#[derive(Clone, Debug)]
pub struct Trace {
    /// When tracing began (every probe in place): RFC 3339.
    pub started_at: String,
    /// Seconds traced.
    pub duration_s: f64,
    /// What was recorded.
    pub mode: Mode,
    /// Mean bytes between samples; 0 for every allocation.
    pub sample_bytes: u64,
    /// Why it ended; `None` while it goes on.
    pub ended_by: Option<EndedBy>,
}

/// What was recorded of the allocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every one.
    Exact,
    /// Some of them, chosen by their size; figures are scaled up.
    Sampled,
    /// Those that fell into windows of time (and of these some, when `Trace::sample_bytes` is not
    /// 0); figures are scaled up.
    Windowed,
}

/// Why a trace ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// Its time was up.
    Duration,
    /// INT or TERM.
    Signal,
    /// The last target ended.
    TargetExit,
}

/// A probe as the reports show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeInfo {
    /// The function it is on.
    pub function: String,
    /// The file that function is in.
    pub module: String,
    /// Where the probe sits, in bytes from the start of the file.
    pub file_offset: u64,
    /// And in bytes from the start of the function.
    pub function_offset: u64,
    /// `alloc-entry`, `alloc-return` or `free`.
    pub role: &'static str,
    /// The instruction under it.
    pub instruction: String,
    /// Whether the kernel emulates that instruction, or has to single-step it.
    pub emulated: bool,
}

/// What tracing costs the target.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Times a probe was hit.
    pub probe_hits: u64,
    /// Nanoseconds for a hit, handler included, as measured on this host; `None` when not measured.
    pub ns_per_hit: Option<f64>,
    /// The share of the target's CPU time that was spent in probes, from 0 to 1; `None` when not
    /// known.
    pub target_cpu_share: Option<f64>,
    /// What that share was to stay under, from 0 to 1; `None` without a budget.
    pub budget_share: Option<f64>,
    /// CPU seconds that the target used while it was traced, those in probes included.
    pub target_cpu_s: Option<f64>,
    /// CPU seconds of those that it spent in probes.
    pub probe_s: Option<f64>,
    /// The windows that it was traced in; `None` when it was traced all the time.
    pub windows: Option<Windows>,
    /// CPU seconds that leaktrace used itself.
    pub own_cpu_s: Option<f64>,
    /// The most memory that leaktrace had, in bytes.
    pub own_memory_bytes: Option<u64>,
    /// Memory that the kernel half's maps take, in bytes.
    pub kernel_memory_bytes: Option<u64>,
}

/// The windows that a target was traced in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Windows {
    /// How many were opened.
    pub opened: u64,
    /// Seconds in which allocations and frees were traced.
    pub open_s: f64,
    /// Seconds after those in which only frees were.
    pub draining_s: f64,
    /// Seconds in which nothing was.
    pub closed_s: f64,
    /// The share of the target's own work (its CPU time outside of probes) that was done in open
    /// windows, from 0 to 1.
    pub work_seen: f64,
}

/// A stack and what it holds.
#[derive(Clone, Debug)]
pub struct StackReport {
    /// Its id.
    pub id: StackId,
    /// The process.
    pub pid: Option<Pid>,
    /// What it allocated and freed.
    pub totals: Totals,
    /// Outstanding bytes; less than `totals` says with `--min-age`.
    pub outstanding_bytes: u64,
    /// Outstanding blocks; less than `totals` says with `--min-age`.
    pub outstanding_blocks: u64,
    /// How fast outstanding bytes grow at present, in bytes a second; may be negative.
    pub growth_bytes_per_s: f64,
    /// Where the true `outstanding_bytes` lies; `None` when every allocation was seen.
    pub interval: Option<Interval>,
    /// Age of the oldest outstanding block, in seconds; `None` when nothing is outstanding.
    pub oldest_age_s: Option<f64>,
    /// What it looks like.
    pub verdict: Verdict,
    /// Leaf first.
    pub frames: Vec<Frame>,
    /// The index in `frames` of the first that belongs to the program rather than to a language
    /// runtime's allocation plumbing.
    pub culprit: Option<usize>,
    /// Why there are no more frames.
    pub ending: Ending,
}

/// Where a true figure lies, with a probability of 95 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// At the least.
    pub low_bytes: u64,
    /// At the most.
    pub high_bytes: u64,
}

/// What a stack looks like, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The class.
    pub kind: VerdictKind,
    /// The figures that say so: one sentence.
    pub evidence: String,
}

/// Classes of verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictKind {
    /// Outstanding bytes keep growing.
    Growing,
    /// They grew and stay as they are, as a cache does.
    Steady,
    /// Whatever is allocated is freed again.
    Churning,
    /// Too little was seen to tell.
    Undecided,
}

impl VerdictKind {
    /// As the reports write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Growing => "growing",
            Self::Steady => "steady",
            Self::Churning => "churning",
            Self::Undecided => "undecided",
        }
    }
}

/// A frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The return address.
    pub ip: Addr,
    /// The function, demangled.
    pub function: Option<String>,
    /// The mapped file.
    pub module: Option<String>,
    /// The address's offset in that file.
    pub module_offset: Option<u64>,
    /// The file's build id, in hex.
    pub build_id: Option<String>,
    /// The source file.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
    /// The column in it.
    pub column: Option<u32>,
    /// Whether it was inlined into the frame after it.
    pub inlined: bool,
}
