//! `leaktrace __empty-probes`: what the traps alone cost a process. Attaches programs that do
//! nothing wherever `attach` would attach its own, and traces nothing. For the benchmark, and to try
//! how probes come out and go back: a line `out`, `allocations out` or `in` on standard input says so.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::args::EmptyProbesArgs;
use super::attach::runtime;
use super::calibration::PracticeKernel;
use crate::probe::{Attached, Group};
use crate::target::{Image, Plan, PlanOptions, Process};

/// Attaches, and waits for a signal or the end of standard input. Returns the exit code.
///
/// # Errors
///
/// When the process cannot be probed.
pub fn main(args: &EmptyProbesArgs) -> Result<u8> {
    let process = Process::open(args.pid)?;
    let PracticeKernel { mut kernel, .. } = PracticeKernel::load(args.perf_links)?;
    let image = Image::capture(args.pid)?;
    let plan = Plan::make(&image, &process.exe, &PlanOptions::default())?;
    runtime()?.block_on(async {
        let catch = |kind| signal(kind).context("cannot catch signals");
        let mut interrupt = catch(SignalKind::interrupt())?;
        let mut terminate = catch(SignalKind::terminate())?;
        let started = Instant::now();
        let mut attached = Attached::attach_empty(&mut kernel, &plan, args.pid)?;
        let took = started.elapsed();
        let (pid, comm, probes) = (args.pid, &process.comm, attached.probes.len());
        eprintln!("leaktrace: tracing {pid} {comm} ({probes} probes, all empty); Ctrl-C ends it");
        tell("attached", took);
        let mut orders = orders()?;
        loop {
            let order = tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                order = orders.recv() => order,
            };
            let started = Instant::now();
            match order.as_deref() {
                None => break,
                Some("out") => tell("out", attached.take_out(Group::All).wait()),
                Some("allocations out") => {
                    tell("allocations out", attached.take_out(Group::Allocations).wait());
                }
                Some("in") => {
                    attached.put_back(&mut kernel)?;
                    tell("in", started.elapsed());
                }
                Some(_) => {}
            }
        }
        tell("detached", attached.detach());
        Ok(0)
    })
}

fn tell(what: &str, took: Duration) {
    eprintln!("leaktrace: {what} in {:.1} ms", took.as_secs_f64() * 1e3);
}

/// The lines of standard input; they end with it. The thread that waits for them ends with the
/// process.
fn orders() -> Result<mpsc::UnboundedReceiver<String>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::Builder::new()
        .spawn(move || {
            // An input that cannot be read has ended, too; and so has one that nobody listens to.
            for line in io::stdin().lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        })
        .context("no thread to be had")?;
    Ok(receiver)
}
