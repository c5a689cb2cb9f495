//! One process under trace: from its identity to the probes in it.

use std::time::Duration;

use anyhow::{Context, Result};

use super::address_space::AddressSpace;
use super::calibration::PracticeKernel;
use super::unwinding::Unwinding;
use crate::collect::live::ProcessHandle;
use crate::collect::{KernelMaps, Live, clock};
use crate::model::{Addr, Pid, ProbeFailure, ProbeInfo, Slot, Target};
use crate::probe::{Attached, Kernel};
use crate::target::{Image, Plan, Process, TargetError, loader, process};

/// A process under trace.
pub struct Traced {
    /// The process, as it was when its present address space was planned.
    pub process: Process,
    /// Its address space's slot.
    pub slot: Slot,
    /// Its address space.
    pub space: AddressSpace,
    /// The probes in it.
    pub probes: Vec<ProbeInfo>,
    /// Those that could not be placed.
    pub failures: Vec<ProbeFailure>,
    /// What else is to be said about the plan.
    pub notes: Vec<String>,
    /// Whether it has ended.
    pub ended: bool,
    /// It has called exec and its new address space has no probes yet.
    pub awaits_probes: bool,
    /// Only files whose path ends with this are probed (`-O`).
    only: Option<String>,
    allocator_code: Vec<(Addr, Addr)>,
    attached: Option<Attached>,
    cpu_at_start_s: f64,
    cpu_s: f64,
}

/// How often a new address space is looked at, until its allocator is mapped, before the trace
/// goes on without it for now.
const LOOKS: u32 = 40;
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

const MAIN_THREAD_ENDED: &str = "the main thread has ended while others run on, and with it the \
                                 probes: what happened since is in no figure";

impl Traced {
    /// Plans a process and puts the probes in; they count nothing yet. `only` restricts them to
    /// files whose path ends with it.
    ///
    /// # Errors
    ///
    /// [`TargetError`] when it cannot be traced; what the kernel refuses.
    pub fn attach(
        kernel: &mut Kernel,
        live: &Live,
        process: Process,
        slot: Slot,
        only: Option<&str>,
        unwinding: &mut Unwinding,
    ) -> Result<Self> {
        let pid = process.pid;
        let handle = ProcessHandle::open(pid)
            .map_err(|error| TargetError::from_io(pid, "open a handle", error))?;
        // The handle is of the process that was looked at, if that still lives.
        if !process.lives() {
            return Err(TargetError::Gone { pid }.into());
        }
        let space = AddressSpace::new(Image::capture(pid)?, unwinding);
        let plan = Plan::make(&space.image, &process.exe, only)?;
        let attached = attach_plan(kernel, &plan, &process, slot)?;
        live.watch_exit(handle);
        let mut this = Self {
            slot,
            space,
            probes: Vec::new(),
            failures: Vec::new(),
            notes: Vec::new(),
            ended: false,
            awaits_probes: false,
            only: only.map(str::to_owned),
            allocator_code: Vec::new(),
            attached: None,
            cpu_at_start_s: cpu_seconds(pid),
            cpu_s: 0.0,
            process,
        };
        this.adopt(plan, attached);
        Ok(this)
    }

    fn adopt(&mut self, plan: Plan, attached: Attached) {
        self.probes = attached.probes.clone();
        self.failures = attached.failures.clone();
        self.notes = plan.notes;
        self.allocator_code = plan.allocator_code;
        self.attached = Some(attached);
    }

    /// The kernel filters probes by the main thread's address space, and takes them out when that
    /// thread has ended while others run on.
    pub fn check_main_thread(&mut self) {
        let module = self.process.exe.clone();
        let function = "all functions".to_owned();
        let known = self.failures.iter().any(|failure| failure.error == MAIN_THREAD_ENDED);
        if !self.ended && !known && process::main_thread_ended(self.process.pid) {
            let error = MAIN_THREAD_ENDED.to_owned();
            self.failures.push(ProbeFailure { function, module, error });
        }
    }

    /// Puts probes into the address space that an exec made, under a new slot. False when it has
    /// no allocator mapped yet.
    ///
    /// # Errors
    ///
    /// When the process can no longer be traced.
    pub fn attach_anew(
        &mut self,
        kernel: &mut Kernel,
        slot: Slot,
        patient: bool,
        unwinding: &mut Unwinding,
    ) -> Result<bool> {
        drop(self.attached.take());
        let pid = self.process.pid;
        for look in 0.. {
            let process = Process::open(pid)?;
            if process.start_time != self.process.start_time {
                return Err(TargetError::Gone { pid }.into());
            }
            let image = Image::capture(pid)?;
            match Plan::make(&image, &process.exe, self.only.as_deref()) {
                Ok(plan) => {
                    let attached = attach_plan(kernel, &plan, &process, slot)?;
                    self.process = process;
                    self.space.replace(image, unwinding);
                    self.slot = slot;
                    self.awaits_probes = false;
                    self.adopt(plan, attached);
                    return Ok(true);
                }
                // The dynamic loader is still at work.
                Err(TargetError::NoAllocator { .. }) if patient && look < LOOKS => {
                    std::thread::sleep(BETWEEN_LOOKS);
                }
                Err(TargetError::NoAllocator { .. }) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Lets its events count.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn open(&mut self, maps: &mut KernelMaps, unwinding: &mut Unwinding) -> Result<()> {
        self.tell(maps, unwinding, true);
        self.cpu_at_start_s = cpu_seconds(self.process.pid);
        maps.open_target(self.slot, &self.allocator_code)
    }

    /// Tells the kernel half how the address space is unwound now. What the kernel refuses costs
    /// stacks, not the trace.
    pub fn tell(&mut self, maps: &mut KernelMaps, unwinding: &mut Unwinding, wait: bool) {
        if let Err(error) = self.space.tell(self.slot, unwinding, maps, wait) {
            unwinding
                .say(format!("the stacks of process {} may be cut: {error:#}", self.process.pid));
        }
    }

    /// Looks at the process once more while it can be: libraries mapped since, CPU time used.
    pub fn look_again(&mut self) {
        if self.ended || self.awaits_probes {
            return;
        }
        self.space.look();
        self.cpu_s = (cpu_seconds(self.process.pid) - self.cpu_at_start_s).max(self.cpu_s);
    }

    /// CPU seconds used since tracing began, as of the last look.
    pub fn cpu_s(&self) -> f64 {
        self.cpu_s
    }

    /// Gives up the probes, to be detached.
    pub fn take_probes(&mut self) -> Option<Attached> {
        self.attached.take()
    }

    /// As the reports show it.
    pub fn target(&self) -> Target {
        Target {
            pid: self.process.pid,
            comm: self.process.comm.clone(),
            exe: self.process.exe.clone(),
            start_time: self.process.start_time,
        }
    }
}

fn attach_plan(
    kernel: &mut Kernel,
    plan: &Plan,
    process: &Process,
    slot: Slot,
) -> Result<Attached> {
    let pid = process.pid;
    // At the attach and again after each exec: a filter may have come since.
    if process.seccomp != 0 {
        refuse_if_return_probes_kill(process)?;
    }
    let mut attached = Attached::attach(kernel, plan, pid, slot);
    if let (Ok(attached), Some(hook)) = (&mut attached, &plan.loader_hook) {
        // Without it, the first stack that leads into a new library tells of it.
        attached.watch_libraries(kernel, hook, pid, slot).unwrap_or_else(|error| {
            log::info!("process {pid}: {} is not watched: {error:#}", loader::HOOK);
        });
    }
    // Whatever the kernel answered: if the process is gone, that is the reason.
    if process.lives() { attached } else { Err(TargetError::Gone { pid }.into()) }
}

fn cpu_seconds(pid: Pid) -> f64 {
    process::cpu_seconds(pid, clock::ticks_per_second()).unwrap_or(0.0)
}

/// A target under seccomp is traced only where a return probe is known not to kill it.
fn refuse_if_return_probes_kill(process: &Process) -> Result<()> {
    let kills = PracticeKernel::load()
        .and_then(|mut practice| practice.return_probe_kills_under_seccomp())
        .context("cannot find out whether the target's seccomp filter lets return probes pass")?;
    if kills {
        return Err(
            TargetError::SeccompKills { pid: process.pid, comm: process.comm.clone() }.into()
        );
    }
    Ok(())
}
