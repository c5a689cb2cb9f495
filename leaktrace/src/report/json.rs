//! The schemas `leaktrace.report/1` and `leaktrace.plan/1`.
//!
//! Times are seconds, sizes and offsets are bytes, addresses and ids are strings of hex digits.
//! Fields may be added, never renamed or given another meaning.

use std::io::{self, Write};

use serde::Serialize;

mod cost;
mod health;
mod plan;
mod trust;
mod wrong_free;

use cost::Cost;
use health::{Health, ProbeFailure};
use wrong_free::WrongFree;

pub(super) use plan::write_plan;

use crate::model;

pub(super) fn write(report: &model::Report, out: &mut dyn Write) -> io::Result<()> {
    write_line(&Report::from(report), out)
}

fn write_line(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    /// The first one.
    target: Option<Target<'a>>,
    /// All, when there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    targets: Option<Vec<Target<'a>>>,
    trace: Trace<'a>,
    probes: Vec<Probe<'a>>,
    health: Health<'a>,
    cost: Cost,
    totals: Totals,
    stacks_outstanding: usize,
    stacks: Vec<Stack<'a>>,
    /// Null when every allocation was seen.
    smallest_leak_bytes_per_s: Option<f64>,
    wrong_frees: Vec<WrongFree<'a>>,
}

impl<'a> From<&'a model::Report> for Report<'a> {
    fn from(report: &'a model::Report) -> Self {
        Self {
            schema: "leaktrace.report/1",
            target: report.targets.first().map(Target::from),
            targets: several(&report.targets),
            trace: Trace::from(&report.trace),
            probes: report.probes.iter().map(Probe::from).collect(),
            health: Health::from(&report.health),
            cost: Cost::from(report.cost),
            totals: Totals {
                outstanding_bytes: report.totals.outstanding_bytes(),
                outstanding_blocks: report.totals.outstanding_blocks(),
                flow: Flow::from(report.totals),
            },
            stacks_outstanding: report.stacks_outstanding,
            stacks: report.stacks.iter().map(Stack::from).collect(),
            smallest_leak_bytes_per_s: report.smallest_leak_bytes_per_s,
            wrong_frees: report.wrong_frees.iter().map(WrongFree::from).collect(),
        }
    }
}

fn several(targets: &[model::Target]) -> Option<Vec<Target<'_>>> {
    (targets.len() > 1).then(|| targets.iter().map(Target::from).collect())
}

#[derive(Serialize)]
struct Target<'a> {
    pid: u32,
    comm: &'a str,
    exe: &'a str,
    /// Clock ticks since boot.
    start_time: u64,
}

impl<'a> From<&'a model::Target> for Target<'a> {
    fn from(target: &'a model::Target) -> Self {
        Self {
            pid: target.pid.get(),
            comm: &target.comm,
            exe: &target.exe,
            start_time: target.start_time,
        }
    }
}

#[derive(Serialize)]
struct Trace<'a> {
    started_at: &'a str,
    duration_s: f64,
    mode: &'static str,
    sample_bytes: u64,
    /// Null while it goes on.
    ended_by: Option<&'static str>,
}

impl<'a> From<&'a model::Trace> for Trace<'a> {
    fn from(trace: &'a model::Trace) -> Self {
        Self {
            started_at: &trace.started_at,
            duration_s: trace.duration_s,
            mode: match trace.mode {
                model::Mode::Exact => "exact",
                model::Mode::Sampled => "sampled",
                model::Mode::Windowed => "windowed",
            },
            sample_bytes: trace.sample_bytes,
            ended_by: trace.ended_by.map(|why| match why {
                model::EndedBy::Duration => "duration",
                model::EndedBy::Signal => "signal",
                model::EndedBy::TargetExit => "target-exit",
            }),
        }
    }
}

#[derive(Serialize)]
struct Probe<'a> {
    function: &'a str,
    module: &'a str,
    /// From the start of the file.
    offset: u64,
    /// Below 0 where the function goes on in front of itself.
    function_offset: i64,
    role: &'static str,
    instruction: &'a str,
    emulated: bool,
}

impl<'a> From<&'a model::ProbeInfo> for Probe<'a> {
    fn from(probe: &'a model::ProbeInfo) -> Self {
        Self {
            function: &probe.function,
            module: &probe.module,
            offset: probe.file_offset,
            function_offset: probe.function_offset.cast_signed(),
            role: probe.role,
            instruction: &probe.instruction,
            emulated: probe.emulated,
        }
    }
}

#[derive(Serialize)]
struct Totals {
    outstanding_bytes: u64,
    outstanding_blocks: u64,
    #[serde(flatten)]
    flow: Flow,
}

/// What went in and out.
#[derive(Serialize)]
struct Flow {
    allocated_bytes: u64,
    allocated_blocks: u64,
    freed_bytes: u64,
    freed_blocks: u64,
}

impl From<model::Totals> for Flow {
    fn from(totals: model::Totals) -> Self {
        Self {
            allocated_bytes: totals.allocated_bytes,
            allocated_blocks: totals.allocated_blocks,
            freed_bytes: totals.freed_bytes,
            freed_blocks: totals.freed_blocks,
        }
    }
}

#[derive(Serialize)]
struct Stack<'a> {
    id: String,
    pid: Option<u32>,
    outstanding_bytes: u64,
    outstanding_blocks: u64,
    #[serde(flatten)]
    flow: Flow,
    growth_bytes_per_s: f64,
    /// Null when every allocation was seen.
    interval: Option<Interval>,
    oldest_age_s: Option<f64>,
    verdict: Verdict<'a>,
    /// Null when no scan was asked for.
    reach: Option<()>,
    /// Whether it ends before the thread's start.
    truncated: bool,
    ending: &'static str,
    /// An index in `frames`: where the program itself begins.
    culprit: Option<usize>,
    frames: Vec<Frame<'a>>,
}

impl<'a> From<&'a model::StackReport> for Stack<'a> {
    fn from(stack: &'a model::StackReport) -> Self {
        Self {
            id: stack.id.to_string(),
            pid: stack.pid.map(model::Pid::get),
            outstanding_bytes: stack.outstanding_bytes,
            outstanding_blocks: stack.outstanding_blocks,
            flow: Flow::from(stack.totals),
            growth_bytes_per_s: stack.growth_bytes_per_s,
            interval: stack.interval.map(Interval::from),
            oldest_age_s: stack.oldest_age_s,
            verdict: Verdict { kind: stack.verdict.kind.name(), evidence: &stack.verdict.evidence },
            reach: None,
            truncated: stack.ending != model::Ending::Complete,
            ending: ending(stack.ending),
            culprit: stack.culprit,
            frames: stack.frames.iter().map(Frame::from).collect(),
        }
    }
}

fn ending(ending: model::Ending) -> &'static str {
    match ending {
        model::Ending::Complete => "complete",
        model::Ending::Depth => "cut_short",
        model::Ending::Lost | model::Ending::Unmapped => "lost",
    }
}

/// Of outstanding bytes, at 95 %.
#[derive(Serialize)]
struct Interval {
    low_bytes: u64,
    high_bytes: u64,
}

impl From<model::Interval> for Interval {
    fn from(interval: model::Interval) -> Self {
        Self { low_bytes: interval.low_bytes, high_bytes: interval.high_bytes }
    }
}

#[derive(Serialize)]
struct Verdict<'a> {
    kind: &'static str,
    evidence: &'a str,
}

#[derive(Serialize)]
struct Frame<'a> {
    ip: String,
    function: Option<&'a str>,
    module: Option<&'a str>,
    module_offset: Option<u64>,
    build_id: Option<&'a str>,
    file: Option<&'a str>,
    line: Option<u32>,
    column: Option<u32>,
    inlined: bool,
}

impl<'a> From<&'a model::Frame> for Frame<'a> {
    fn from(frame: &'a model::Frame) -> Self {
        Self {
            ip: frame.ip.to_string(),
            function: frame.function.as_deref(),
            module: frame.module.as_deref(),
            module_offset: frame.module_offset,
            build_id: frame.build_id.as_deref(),
            file: frame.file.as_deref(),
            line: frame.line,
            column: frame.column,
            inlined: frame.inlined,
        }
    }
}
