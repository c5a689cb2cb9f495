//! Does the budget hold, from before the attach to after the detach, and is the answer still right?

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;

use super::Effort;
use super::process::{BETWEEN_LOOKS, Process};
use super::programs::Programs;
use super::report::Report;
use super::steady::{Progress, Steady};
use super::table::{Cell, Section, median, quartile_range};
use super::tracing::Tracing;
use super::workloads::{LEAK, Subject, WORKLOADS, Workload};

const COLUMNS: [&str; 14] = [
    "workload",
    "mode",
    "windows",
    "open, s",
    "traced, s",
    "slowdown, CPU, %",
    "by the clock, %",
    "noise, CPU, ±%",
    "noise, clock, ±%",
    "leaktrace says, %",
    "leak on top",
    "rate, error, %",
    "verdict after, s",
    "others called growing",
];
/// How often a report is asked for while a leak is waited for.
const BETWEEN_REPORTS_S: f64 = 5.0;
/// How long a report may take.
const REPORT_PATIENCE: Duration = Duration::from_secs(20);
/// The untraced spells of which the noise is known, before and behind the trace.
const UNTRACED_SPELLS: usize = 5;

/// A trace under the budget, the workload's speed meanwhile, and what was reported.
struct Traced {
    progress: Progress,
    report: Report,
    /// When a report first had the leak on top, as growing: seconds from the start of leaktrace.
    found_s: Option<f64>,
}

pub(crate) fn measure(programs: &Programs, effort: Effort) -> Result<Section> {
    let mut section = Section::new("The budget: at most 5 % slower", &COLUMNS);
    let leaking = [Workload::Loop { threads: 1, leak: LEAK }, Workload::Server { leak: LEAK }];
    for workload in WORKLOADS.into_iter().chain(leaking) {
        eprintln!("xtask:   {}", workload.name());
        match row(programs, workload, effort) {
            Ok(cells) => section.row(cells),
            Err(error) => {
                let said = format!("{error:#}");
                section.row([Cell::text(workload.name()), Cell::text("-")]);
                section.note(format!("{}: {}", workload.name(), said.lines().last().unwrap_or("")));
            }
        }
    }
    section.note(
        "Only the compiler may have others: it keeps most of what it allocates until it ends, and does grow.",
    );
    section.note(format!(
        "Traced for {:.0} s, those with a leak for {:.0} s, with `--max-overhead 5%`; the slowdown is of \
         all that time, attaching and detaching included, to untraced spells before and after. The \
         noise is half the range between the quartiles of these. A leak is on top when the first \
         stack of the report is its own and is called growing; reports were asked for every \
         {BETWEEN_REPORTS_S:.0} s, and the rate is the last one's. The last column has the other \
         stacks that the last report calls growing, by their first function.",
        effort.budget_s, effort.leak_s
    ));
    Ok(section)
}

fn row(programs: &Programs, workload: Workload, effort: Effort) -> Result<Vec<Cell>> {
    let leaks = workload.leak() > 0;
    let seconds = if leaks { effort.leak_s } else { effort.budget_s };
    // A run of the compiler has to last as long as the others' trace.
    let types = (seconds / 0.3) as u32;
    let mut subject = Subject::start(programs, workload, types)?;
    let spell = (effort.budget_s / 2.0 / UNTRACED_SPELLS as f64).max(1.0);
    // The compiler's spells are whole runs.
    let spells = if matches!(workload, Workload::Compiler) { 1 } else { UNTRACED_SPELLS };
    let mut untraced = Vec::new();
    let mut watch = |subject: &mut Subject| -> Result<()> {
        for _ in 0..spells {
            untraced.push(subject.watch(spell)?);
        }
        Ok(())
    };
    watch(&mut subject)?;
    let path = programs.directory.join("budget.json");
    let traced = match &mut subject {
        Subject::Steady(steady) => trace_steady(programs, workload, steady, seconds, &path)?,
        Subject::Compiler(compiler) => {
            let mut process = compiler.start(&[])?;
            let mut tracer = start(programs, process.pid(), &path, &[])?;
            let progress = compiler.finish(&mut process)?;
            tracer.interrupt()?;
            Traced { progress, report: Report::read(&path)?, found_s: None }
        }
    };
    watch(&mut subject)?;
    subject.end()?;
    Ok(cells(workload, &untraced, &traced))
}

fn start(programs: &Programs, pid: u32, path: &Path, more: &[&str]) -> Result<Process> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    let path = path.to_string_lossy();
    let options: Vec<&str> =
        ["-i", "1s", "-o", &path].into_iter().chain(more.iter().copied()).collect();
    Tracing::Budget.start(programs, &pid.to_string(), &options)
}

fn trace_steady(
    programs: &Programs,
    workload: Workload,
    steady: &mut Steady,
    seconds: f64,
    path: &Path,
) -> Result<Traced> {
    let before = steady.progress()?;
    let started = Instant::now();
    let mut tracer = start(programs, steady.pid(), path, &["-d", &format!("{seconds}s")])?;
    let mut found_s = None;
    while workload.leak() > 0 && found_s.is_none() {
        let next = started.elapsed().as_secs_f64() + BETWEEN_REPORTS_S;
        if next + BETWEEN_REPORTS_S > seconds {
            break;
        }
        thread::sleep(Duration::from_secs_f64(BETWEEN_REPORTS_S));
        if is_found(&report_now(&tracer, path)?, workload) {
            found_s = Some(started.elapsed().as_secs_f64());
        }
    }
    tracer.wait()?;
    let progress = steady.progress()?.since(before);
    let report = Report::read(path)?;
    if found_s.is_none() && is_found(&report, workload) {
        found_s = Some(progress.wall_s);
    }
    Ok(Traced { progress, report, found_s })
}

/// Has leaktrace write its report anew.
fn report_now(tracer: &Process, path: &Path) -> Result<Report> {
    let written = || -> Option<SystemTime> { fs::metadata(path).ok()?.modified().ok() };
    let before = written();
    tracer.signal("USR1")?;
    let deadline = Instant::now() + REPORT_PATIENCE;
    loop {
        // It may be half written as yet.
        if written() != before
            && let Ok(report) = Report::read(path)
        {
            return Ok(report);
        }
        anyhow::ensure!(Instant::now() < deadline, "leaktrace writes no report on USR1");
        thread::sleep(20 * BETWEEN_LOOKS);
    }
}

fn is_found(report: &Report, workload: Workload) -> bool {
    report.stacks().next().is_some_and(|top| top.is_growing() && top.has(workload.culprit()))
}

fn cells(workload: Workload, untraced: &[Progress], traced: &Traced) -> Vec<Cell> {
    let Traced { progress, report, found_s } = traced;
    let by_cpu = |progress: &Progress| progress.units / progress.cpu_s;
    let by_clock = |progress: &Progress| progress.units / progress.wall_s;
    let speeds = |of: fn(&Progress) -> f64| untraced.iter().map(of).collect::<Vec<f64>>();
    let (cpu, clock) = (speeds(by_cpu), speeds(by_clock));
    let slowdown = |normal: &[f64], speed: f64| 100.0 * (median(normal) / speed - 1.0);
    let noise = |normal: &[f64]| 50.0 * quartile_range(normal) / median(normal);
    let percent = |share: Option<f64>| share.map_or(Cell::Empty, |s| Cell::Number(100.0 * s, 1));
    let leaks = workload.leak() > 0;
    let is_leak = |stack: &super::report::Stack<'_>| leaks && stack.has(workload.culprit());
    let wrong = report
        .stacks()
        .filter(|stack| stack.is_growing() && !is_leak(stack))
        .map(|stack| stack.leaf().to_owned())
        .collect();
    let rate: f64 = report.stacks().filter(is_leak).map(|s| s.number("growth_bytes_per_s")).sum();
    let leaked = progress.leaked_bytes / progress.wall_s;
    let of_leak = |cell: Cell| if leaks { cell } else { Cell::Empty };
    vec![
        Cell::text(workload.name()),
        Cell::text(report.mode()),
        Cell::Number(report.number("/cost/windows/opened").unwrap_or(0.0), 0),
        report.number("/cost/windows/open_s").map_or(Cell::Empty, |s| Cell::Number(s, 2)),
        Cell::Number(progress.wall_s, 0),
        Cell::Number(slowdown(&cpu, by_cpu(progress)), 1),
        Cell::Number(slowdown(&clock, by_clock(progress)), 1),
        Cell::Number(noise(&cpu), 1),
        Cell::Number(noise(&clock), 1),
        percent(report.number("/cost/target_cpu_share")),
        of_leak(Cell::text(if is_found(report, workload) { "yes" } else { "NO" })),
        of_leak(Cell::Number(100.0 * (rate / leaked - 1.0), 0)),
        of_leak(found_s.map_or(Cell::text("never"), |s| Cell::Number(s, 0))),
        Cell::text(named(wrong)),
    ]
}

/// How many, and what the first few are called.
fn named(functions: Vec<String>) -> String {
    let count = functions.len();
    let few: Vec<String> =
        functions.into_iter().collect::<BTreeSet<_>>().into_iter().take(3).collect();
    if count == 0 { "none".to_owned() } else { format!("{count} ({})", few.join(", ")) }
}
