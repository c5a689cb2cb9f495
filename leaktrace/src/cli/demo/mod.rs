//! `leaktrace demo`: a leaking service, load on it, and the leak found, with nothing to prepare.

pub mod load;
pub mod service;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use clap::Parser;

use super::args::{Arguments, DemoArgs};
use super::attach::runtime;
use super::say::say;
use super::session::Session;
use crate::model::{Pid, Report, VerdictKind};
use crate::probe::features;
use crate::report;
use crate::target::Process;
use load::Load;

/// Runs the demo. Returns the exit code.
///
/// # Errors
///
/// When this host cannot be traced, or the flame graph cannot be written.
pub fn main(args: &DemoArgs) -> Result<u8> {
    features::require()?;
    let service = Service::start()?;
    let load = Load::start(service.address);
    say(format_args!(
        "leaktrace demo: started a small web shop as process {} on {}, with {} customers;\n\
         somewhere it forgets to free memory. Tracing it for {:.0} s.",
        service.pid,
        service.address,
        load::CUSTOMERS,
        args.duration.as_secs_f64()
    ));
    let trace = attach_arguments(args, service.pid)?;
    let (code, found) = runtime()?.block_on(async {
        let mut session = Session::open(&trace.attach.trace)?;
        session.add(Process::open(service.pid)?)?;
        session.begin()?;
        session.run().await
    })?;
    let requests = load.stop();
    drop(service);
    let mut stdout = std::io::stdout().lock();
    for line in report::wrap(&conclusion(&found, requests, args), report::Style::default().width) {
        writeln!(stdout, "{line}")?;
    }
    Ok(code)
}

/// What a user would have typed.
fn attach_arguments(args: &DemoArgs, pid: Pid) -> Result<Arguments> {
    let mut line: Vec<std::ffi::OsString> = vec!["leaktrace".into(), "-p".into()];
    line.push(pid.to_string().into());
    line.push("--duration".into());
    line.push(format!("{}ms", args.duration.as_millis()).into());
    // Ten seconds are too short for a verdict under a budget.
    line.push("--exact".into());
    line.push("--output".into());
    line.push(args.output.clone().into_os_string());
    line.extend((0..args.verbose).map(|_| "-v".into()));
    Arguments::try_parse_from(line).context("the demo's own arguments")
}

fn conclusion(report: &Report, requests: u64, args: &DemoArgs) -> String {
    let leak = report.stacks.first().filter(|s| s.verdict.kind == VerdictKind::Growing);
    let culprit = leak.and_then(|stack| stack.frames.get(stack.culprit?));
    match culprit {
        Some(frame) => {
            let name = frame.function.as_deref().unwrap_or("a function without a name");
            let place = match (&frame.file, frame.line) {
                (Some(file), Some(line)) => format!("It is at {file}:{line}.\n"),
                _ => String::new(),
            };
            format!(
                "\nAfter {requests} requests: {name} leaks.\n{place}\
                 The flame graph is in {}. Now try `leaktrace -p PID` on a process of yours.",
                args.output.display()
            )
        }
        None => format!("\nAfter {requests} requests no leak was found: try a longer --duration."),
    }
}

/// The service's process; killed when dropped.
struct Service {
    child: Child,
    pid: Pid,
    address: SocketAddr,
}

impl Service {
    fn start() -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg("__demo-service")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the demo's service")?;
        let pid = Pid::new(child.id()).context("the service has no id")?;
        let output = child.stdout.take().context("the service has no output")?;
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut this = Self { child, pid, address: unknown };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).context("the demo's service is silent")?;
        this.address = line.trim().parse().context("the demo's service did not start")?;
        Ok(this)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It serves until it is killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
