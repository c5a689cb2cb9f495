//! `leaktrace __empty-probes`: what the traps alone cost a process. Attaches programs that do
//! nothing wherever `attach` would attach its own, and traces nothing. For the benchmark.

use std::io;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::args::EmptyProbesArgs;
use super::attach::runtime;
use super::calibration::PracticeKernel;
use crate::probe::Attached;
use crate::target::{Image, Plan, Process};

/// Attaches, and waits for a signal or the end of standard input. Returns the exit code.
///
/// # Errors
///
/// When the process cannot be probed.
pub fn main(args: &EmptyProbesArgs) -> Result<u8> {
    let process = Process::open(args.pid)?;
    let PracticeKernel { mut kernel, .. } = PracticeKernel::load()?;
    let image = Image::capture(args.pid)?;
    let plan = Plan::make(&image, &process.exe, None)?;
    runtime()?.block_on(async {
        let catch = |kind| signal(kind).context("cannot catch signals");
        let mut interrupt = catch(SignalKind::interrupt())?;
        let mut terminate = catch(SignalKind::terminate())?;
        let attached = Attached::attach_empty(&mut kernel, &plan, args.pid)?;
        let (pid, comm, probes) = (args.pid, &process.comm, attached.probes.len());
        eprintln!("leaktrace: tracing {pid} {comm} ({probes} probes, all empty); Ctrl-C ends it");
        let mut end_of_input = end_of_input()?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = &mut end_of_input => {}
        }
        attached.detach();
        Ok(0)
    })
}

/// Completes at the end of standard input. The thread that waits for it ends with the process.
fn end_of_input() -> Result<oneshot::Receiver<()>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .spawn(move || {
            // An input that cannot be read has ended, too.
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            // Nobody listens any more when a signal came first.
            let _ = sender.send(());
        })
        .context("no thread to be had")?;
    Ok(receiver)
}
