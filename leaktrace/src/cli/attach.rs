//! `leaktrace attach`: traces processes that run already.

use std::io::Write;

use anyhow::Result;

use super::args::{AttachArgs, StdoutFormat};
use super::chosen::Chosen;
use super::placing::make_plan;
use super::predict;
use super::say::say;
use super::session::Session;
use super::values::Share;
use crate::model::{Pid, Prediction};
use crate::probe::limits;
use crate::report::{self, plan::Planned};
use crate::target::{Plan, PlannedProbe, Process, TargetError, loader};

/// Traces, or with `--dry-run` only says how it would. Returns the exit code.
///
/// # Errors
///
/// When a process cannot be traced, or a report not be written.
pub fn main(args: &AttachArgs) -> Result<u8> {
    if args.dry_run {
        return dry_run(args, &Chosen::find(&args.chosen)?);
    }
    // Before anything is loaded: most mistakes are found here.
    let chosen = Chosen::find(&args.chosen).and_then(|chosen| {
        let processes = chosen.named.iter().map(|pid| Process::open(*pid));
        Ok((processes.collect::<Result<Vec<_>, _>>()?, chosen))
    });
    runtime()?.block_on(async {
        let (processes, chosen) = match chosen {
            Ok(chosen) => chosen,
            Err(error) => {
                // A wrong file is the plainer mistake.
                super::output::Outputs::check(&args.trace)?;
                args.trace.plan_options()?;
                return Err(error);
            }
        };
        if chosen.named.len() + chosen.found.len() > 1 || !chosen.groups.is_empty() {
            limits::raise_open_files();
        }
        let mut session = Session::open(&args.trace)?;
        for process in processes {
            session.add(process)?;
        }
        session.add_found(&chosen.found, chosen.groups)?;
        session.begin()?;
        let (code, _) = session.run().await?;
        Ok(code)
    })
}

/// The one runtime: everything happens in one thread.
///
/// # Errors
///
/// When the kernel has no more descriptors.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn dry_run(args: &AttachArgs, chosen: &Chosen) -> Result<u8> {
    let options = args.trace.plan_options()?;
    let mut stdout = std::io::stdout().lock();
    let planned = |pid: &Pid| -> Result<(Process, Plan), TargetError> {
        let process = Process::open(*pid)?;
        let (_, plan) = make_plan(&process, &options)?;
        Ok((process, plan))
    };
    let mut plans: Vec<(Process, Plan)> =
        chosen.named.iter().map(&planned).collect::<Result<_, _>>()?;
    let mut first_error = None;
    // Of those that were found, one that cannot be traced is left out.
    for pid in &chosen.found {
        match planned(pid) {
            Ok(one) => plans.push(one),
            Err(error) => {
                say(format_args!("leaktrace: left out: {error}"));
                first_error.get_or_insert(error);
            }
        }
    }
    if let Some(error) = first_error.filter(|_| plans.is_empty()) {
        return Err(error.into());
    }
    for (process, plan) in &plans {
        let pid = process.pid;
        let target = crate::model::Target {
            pid,
            comm: process.comm.clone(),
            exe: process.exe.clone(),
            start_time: process.start_time,
        };
        let probes: Vec<_> = plan.probes.iter().map(PlannedProbe::info).collect();
        let predicted = predict(args, process, plan)
            .inspect_err(|error| say(format_args!("leaktrace: no cost predicted: {error:#}")))
            .ok();
        let planned = Planned {
            target: &target,
            probes: &probes,
            failures: &plan.failures,
            covered: &plan.covered,
            predicted: predicted.as_ref(),
        };
        if args.trace.format == StdoutFormat::Json {
            report::plan::write_json(&planned, &mut stdout)?;
        } else {
            report::plan::write_text(&planned, &mut stdout)?;
        }
        if let Some(hook) = &plan.loader_hook {
            say(format_args!(
                "leaktrace: and a probe on {} in {}, which tells of libraries loaded later",
                loader::HOOK,
                hook.file.name()
            ));
        }
        if args.trace.follow {
            say(format_args!(
                "leaktrace: and all of these in the processes that it forks from then on, exactly, \
                 without a budget"
            ));
        }
        for note in &plan.notes {
            say(format_args!("leaktrace: {note}"));
        }
    }
    stdout.flush()?;
    Ok(0)
}

/// What the trace that was asked for would cost.
fn predict(args: &AttachArgs, process: &Process, plan: &Plan) -> Result<Prediction> {
    let budget = args.trace.budget().map(Share::get);
    let sample_bytes = match args.trace.sample_bytes() {
        0 => predict::USUAL_SAMPLE_BYTES,
        bytes => bytes,
    };
    predict::predict(process, plan, budget, sample_bytes)
}
