//! A plan, on its way into a process, and out again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use leaktrace_ebpf::cookie::Cookie;

use super::load::Kernel;
use crate::model::{Pid, ProbeFailure, ProbeInfo, Slot};
use crate::target::{LoaderHook, Plan, PlannedProbe, Role};

/// The probes in one process. Dropping it detaches them.
pub struct Attached {
    links: Vec<UProbeLink>,
    /// The probes in place.
    pub probes: Vec<ProbeInfo>,
    /// Those that could not be placed.
    pub failures: Vec<ProbeFailure>,
}

impl Attached {
    /// Attaches the probes of a plan to a process. A probe that the kernel refuses is a failure to
    /// report, not an end; a function's entry and return go together.
    ///
    /// # Errors
    ///
    /// When no probe could be placed at all, or the process is gone.
    pub fn attach(kernel: &mut Kernel, plan: &Plan, pid: Pid, slot: Slot) -> Result<Self> {
        Self::attach_programs(kernel, plan, pid, slot, tracing_program)
    }

    /// Attaches programs that do nothing where [`Attached::attach`] attaches those that trace.
    ///
    /// # Errors
    ///
    /// As [`Attached::attach`].
    pub fn attach_empty(kernel: &mut Kernel, plan: &Plan, pid: Pid) -> Result<Self> {
        Self::attach_programs(kernel, plan, pid, Slot(0), empty_program)
    }

    fn attach_programs(
        kernel: &mut Kernel,
        plan: &Plan,
        pid: Pid,
        slot: Slot,
        program: fn(&PlannedProbe) -> &'static str,
    ) -> Result<Self> {
        let mut this =
            Self { links: Vec::new(), probes: Vec::new(), failures: plan.failures.clone() };
        let mut failed_function = None;
        for probe in &plan.probes {
            // Returns come first in a plan: a return without an entry is harmless, an entry
            // without a return would leave its call open.
            if failed_function == Some(probe.function_index) {
                continue;
            }
            match attach_one(kernel, program(probe), probe, pid, slot) {
                Ok(link) => {
                    this.links.push(link);
                    this.probes.push(probe.info());
                }
                Err(error) => {
                    failed_function = Some(probe.function_index);
                    this.failures.push(ProbeFailure {
                        function: probe.function.clone(),
                        module: probe.file.path.clone(),
                        error: format!("{error:#}"),
                    });
                }
            }
        }
        if this.links.is_empty() {
            let why = this.failures.first().map_or("the plan is empty", |f| f.error.as_str());
            bail!("no probe could be placed in process {pid}: {why}");
        }
        Ok(this)
    }

    /// Has the kernel half say when the process loads or unloads libraries.
    ///
    /// # Errors
    ///
    /// What the kernel refuses, and why.
    pub fn watch_libraries(
        &mut self,
        kernel: &mut Kernel,
        hook: &LoaderHook,
        pid: Pid,
        slot: Slot,
    ) -> Result<()> {
        let (path, offset) = (hook.file.proc_path(), hook.file_offset);
        let link = attach_at(kernel, "libraries_changed", &path, offset, slot.0.into(), pid)?;
        self.links.push(link);
        Ok(())
    }

    /// Detaches all probes; returns how long it took.
    ///
    /// The kernel waits for running handlers at each probe; the waits go on side by side.
    pub fn detach(mut self) -> Duration {
        let started = Instant::now();
        detach_all(std::mem::take(&mut self.links));
        started.elapsed()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        detach_all(std::mem::take(&mut self.links));
    }
}

fn detach_all(links: Vec<UProbeLink>) {
    std::thread::scope(|scope| {
        for link in links {
            // Where no thread can be had, the link is dropped here, one after another.
            let _ = std::thread::Builder::new()
                .stack_size(64 << 10)
                .spawn_scoped(scope, move || drop(link));
        }
    });
}

fn tracing_program(probe: &PlannedProbe) -> &'static str {
    match probe.role {
        Role::AllocEntry => "allocation_entry",
        Role::AllocReturn if probe.on_return_instruction => "allocation_exit",
        Role::AllocReturn => "allocation_return",
        Role::Free => "free_entry",
    }
}

fn empty_program(probe: &PlannedProbe) -> &'static str {
    match probe.role {
        Role::AllocReturn if !probe.on_return_instruction => "empty_return",
        Role::AllocEntry | Role::AllocReturn | Role::Free => "empty",
    }
}

fn attach_one(
    kernel: &mut Kernel,
    program: &str,
    probe: &PlannedProbe,
    pid: Pid,
    slot: Slot,
) -> Result<UProbeLink> {
    let cookie = Cookie::new(probe.signature, probe.function_index, slot.0, !probe.emulated);
    attach_at(kernel, program, &probe.file.proc_path(), probe.file_offset, cookie.0, pid)
}

/// Attaches one program at an offset of a file, for one process.
///
/// # Errors
///
/// What the kernel refuses, and why.
pub fn attach_at(
    kernel: &mut Kernel,
    program: &str,
    path: &std::path::Path,
    file_offset: u64,
    cookie: u64,
    pid: Pid,
) -> Result<UProbeLink> {
    let program = kernel.uprobe(program)?;
    let point = UProbeAttachPoint {
        location: UProbeAttachLocation::AbsoluteOffset(file_offset),
        cookie: Some(cookie),
    };
    let id = program
        .attach(point, path, UProbeScope::OneProcess(pid.non_zero()))
        .with_context(|| format!("the kernel refuses a probe at {file_offset:#x}"))?;
    program.take_link(id).context("the link is gone")
}
