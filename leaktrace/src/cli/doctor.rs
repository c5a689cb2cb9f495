//! `leaktrace doctor`: can this host, and this process, be traced, at what cost, and what to do if
//! not.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;

use super::args::DoctorArgs;
use super::calibration::PracticeKernel;
use super::exit;
use super::predict;
use super::values::Share;
use crate::model::{Pid, printable};
use crate::probe::features::{self, Check};
use crate::probe::links::{Choice, LinkKind};
use crate::probe::{Kernel, Settings};
use crate::report;
use crate::target::{Image, Plan, PlanOptions, Process, unwind};

/// Prints a line for each thing that matters. Returns the exit code: 0 when tracing is possible.
///
/// # Errors
///
/// When standard output cannot be written, or there is no such process.
pub fn main(args: &DoctorArgs) -> Result<u8> {
    let options = PlanOptions { own: args.own.allocators()?, ..PlanOptions::default() };
    let mut out = std::io::stdout().lock();
    let mut possible = features::require().is_ok();
    let mut print = |check: &Check| -> Result<()> {
        let mark = if check.advice.is_some() { "!!" } else { "ok" };
        writeln!(out, "{mark}  {:<20} {}", check.name, printable(&check.found))?;
        if let Some(advice) = &check.advice {
            writeln!(out, "    {:<20} -> {}", "", printable(advice))?;
        }
        Ok(out.flush()?)
    };
    for check in features::checks() {
        print(&check)?;
    }
    print(&features::jit())?;
    if possible {
        let kernel_half = check_kernel_half();
        possible &= kernel_half.advice.is_none();
        print(&kernel_half)?;
        for check in check_probes() {
            possible &= check.advice.is_none() || check.name != "return probes";
            print(&check)?;
        }
    }
    if let Some(pid) = args.pid {
        for check in check_process(pid, &options, possible)? {
            possible &= check.advice.is_none() || !FATAL.contains(&check.name);
            print(&check)?;
        }
    }
    Ok(if possible { 0 } else { exit::IMPOSSIBLE })
}

/// What stands in the way of tracing a process.
const FATAL: [&str; 3] = ["process", "allocators", "seccomp"];

fn fine(name: &'static str, found: String) -> Check {
    Check { name, found, advice: None }
}

fn problem(name: &'static str, found: String, advice: &str) -> Check {
    Check { name, found, advice: Some(advice.to_owned()) }
}

fn check_kernel_half() -> Check {
    let started = Instant::now();
    let all = |mut kernel: Kernel| kernel.load_all().and_then(|()| kernel.watch_processes());
    match Kernel::load(&Settings::default()).and_then(all) {
        Ok(()) => fine(
            "kernel half",
            format!("loads and verifies in {:.0} ms", started.elapsed().as_secs_f64() * 1e3),
        ),
        Err(error) => problem("kernel half", format!("{error:#}"), "use Linux 5.15 or later"),
    }
}

/// Probes tried for real, on a child of leaktrace's own.
fn check_probes() -> Vec<Check> {
    let mut practice = match PracticeKernel::load(false) {
        Ok(practice) => practice,
        Err(error) => {
            return vec![problem("probes", format!("{error:#}"), "see the lines above")];
        }
    };
    let mut checks = vec![check_links(practice.kernel.links())];
    checks.push(match practice.measure() {
        Ok(cost) => fine(
            "cost of a probe",
            format!(
                "{:.0} ns empty, {:.0} ns in tracing (a malloc and free pair is three), {:.0} ns \
                 where the kernel has to single-step",
                cost.empty_ns, cost.traced_ns, cost.stepped_ns
            ),
        ),
        Err(error) => problem(
            "cost of a probe",
            format!("{error:#}"),
            "something forbids probes here: look for another tracer or a security module",
        ),
    });
    checks.push(match practice.return_probe_kills_under_seccomp() {
        Ok(false) => fine("seccomp", "return probes pass seccomp filters".to_owned()),
        Ok(true) => problem(
            "seccomp on this host",
            "return probes kill processes with a strict seccomp filter".to_owned(),
            "such processes are refused; Linux 6.14 and current stable kernels have the fix",
        ),
        Err(error) => problem("seccomp on this host", format!("{error:#}"), "could not be tried"),
    });
    checks
}

fn check_links(links: &Choice) -> Check {
    let kind = match links.kind {
        LinkKind::Multi => "uprobe sessions and multi links",
        // Slower, and no less right.
        LinkKind::Perf => "perf links, one for each probe",
    };
    fine("links", format!("{kind} ({})", links.why))
}

/// Whether all files that a process runs have unwind data.
fn check_stacks(image: &Image) -> Check {
    let files: Vec<_> = image.files().cloned().collect();
    let built = unwind::build_all(&files);
    let lacking: Vec<&str> = files
        .iter()
        .zip(&built)
        .filter(|(_, built)| built.is_err())
        .map(|(file, _)| file.name())
        .collect();
    let found =
        format!("{} of {} mapped files have unwind data", files.len() - lacking.len(), files.len());
    // Some have no code worth the name, others keep frame pointers: a trace will tell.
    fine(
        "stacks",
        match lacking[..] {
            [] => found,
            _ => format!("{found}, not {}", lacking.join(", ")),
        },
    )
}

/// What tracing a process would cost, by the options that `attach` has by default.
fn predicted_cost(process: &Process, plan: &Plan) -> Check {
    let name = "predicted cost";
    let budget = Some(Share::DEFAULT_BUDGET.get());
    match predict::predict(process, plan, budget, predict::USUAL_SAMPLE_BYTES) {
        Ok(predicted) => fine(name, report::plan::cost_line(&predicted)),
        Err(error) => problem(name, format!("unknown: {error:#}"), "`attach` says more"),
    }
}

fn check_process(pid: Pid, options: &PlanOptions, attachable: bool) -> Result<Vec<Check>> {
    let process = Process::open(pid)?;
    let mut checks = vec![fine("process", format!("{pid} {} ({})", process.comm, process.exe))];
    let image = Image::capture(pid);
    checks.extend(image.as_ref().ok().map(check_stacks));
    match image.and_then(|image| Plan::make(&image, &process.exe, options)) {
        Ok(plan) => {
            checks.push(fine("allocators", plan.allocators.join(", ")));
            let stepped: Vec<&str> =
                plan.probes.iter().filter(|p| !p.emulated).map(|p| p.function.as_str()).collect();
            let found = format!("{} probes, {} single-stepped", plan.probes.len(), stepped.len());
            checks.push(if stepped.is_empty() {
                fine("plan", found)
            } else {
                problem("plan", found, &format!("calls of {} cost more", stepped.join(", ")))
            });
            for failure in &plan.failures {
                let found =
                    format!("{} in {}: {}", failure.function, failure.module, failure.error);
                checks.push(problem("not probed", found, "its blocks will be missed"));
            }
            for note in &plan.notes {
                checks.push(fine("note", note.clone()));
            }
            if attachable {
                checks.push(predicted_cost(&process, &plan));
            }
        }
        Err(error) => checks.push(problem(
            "allocators",
            format!("{:#}", anyhow::Error::from(error)),
            "see above",
        )),
    }
    checks.push(match process.seccomp {
        0 => fine("seccomp", "no filter".to_owned()),
        _ if !attachable => fine("seccomp", "a filter is set".to_owned()),
        _ => {
            let kills = PracticeKernel::load(false)
                .and_then(|mut practice| practice.return_probe_kills_under_seccomp());
            match kills {
                Ok(false) => fine("seccomp", "a filter is set, return probes pass it".to_owned()),
                _ => problem(
                    "seccomp",
                    "a filter is set, and a return probe could kill the process".to_owned(),
                    "it will not be traced on this kernel",
                ),
            }
        }
    });
    Ok(checks)
}
