//! One process under trace: from its identity to the probes in it.

use std::time::Duration;

use anyhow::Result;

use crate::collect::live::ProcessHandle;
use crate::collect::{KernelMaps, Live, clock};
use crate::model::{Addr, Pid, ProbeFailure, ProbeInfo, Slot, Target};
use crate::probe::{Attached, Kernel};
use crate::target::{Image, Plan, Process, TargetError, process};

/// A process under trace.
pub struct Traced {
    /// The process, as it was when its present address space was planned.
    pub process: Process,
    /// Its address space's slot.
    pub slot: Slot,
    /// Its address space.
    pub image: Image,
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
    allocator_code: Vec<(Addr, Addr)>,
    attached: Option<Attached>,
    cpu_at_start_s: f64,
    cpu_s: f64,
}

/// How often a new address space is looked at, until its allocator is mapped, before the trace
/// goes on without it for now.
const LOOKS: u32 = 40;
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

impl Traced {
    /// Plans a process and puts the probes in; they count nothing yet.
    ///
    /// # Errors
    ///
    /// [`TargetError`] when it cannot be traced; what the kernel refuses.
    pub fn attach(kernel: &mut Kernel, live: &Live, process: Process, slot: Slot) -> Result<Self> {
        Self::attach_only(kernel, live, process, slot, None)
    }

    /// The same, restricted to files whose path ends with `only`.
    ///
    /// # Errors
    ///
    /// As [`Traced::attach`].
    pub fn attach_only(
        kernel: &mut Kernel,
        live: &Live,
        process: Process,
        slot: Slot,
        only: Option<&str>,
    ) -> Result<Self> {
        let pid = process.pid;
        let handle = ProcessHandle::open(pid)
            .map_err(|error| TargetError::from_io(pid, "open a handle", error))?;
        // The handle is of the process that was looked at, if that still lives.
        if !process.lives() {
            return Err(TargetError::Gone { pid }.into());
        }
        let image = Image::capture(pid)?;
        let plan = Plan::make(&image, &process.exe, only)?;
        let attached = attach_plan(kernel, &plan, &process, slot)?;
        live.watch_exit(handle);
        let mut this = Self {
            slot,
            image,
            probes: Vec::new(),
            failures: Vec::new(),
            notes: Vec::new(),
            ended: false,
            awaits_probes: false,
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

    /// Puts probes into the address space that an exec made, under a new slot. False when it has
    /// no allocator mapped yet.
    ///
    /// # Errors
    ///
    /// When the process can no longer be traced.
    pub fn attach_anew(&mut self, kernel: &mut Kernel, slot: Slot, patient: bool) -> Result<bool> {
        drop(self.attached.take());
        let pid = self.process.pid;
        for look in 0.. {
            let process = Process::open(pid)?;
            let image = Image::capture(pid)?;
            match Plan::make(&image, &process.exe, None) {
                Ok(plan) => {
                    let attached = attach_plan(kernel, &plan, &process, slot)?;
                    self.process = process;
                    self.image = image;
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
    pub fn open(&mut self, maps: &mut KernelMaps) -> Result<()> {
        self.cpu_at_start_s = cpu_seconds(self.process.pid);
        maps.open_target(self.slot, &self.allocator_code)
    }

    /// Looks at the process once more while it can be: libraries mapped since, CPU time used.
    pub fn look_again(&mut self) {
        if self.ended || self.awaits_probes {
            return;
        }
        if let Err(error) = self.image.refresh() {
            log::info!("process {}: {error}", self.process.pid);
        }
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
    Attached::attach(kernel, plan, pid, slot).map_err(|error| {
        // Whatever the kernel answered: if it is gone, that is the reason.
        if process.lives() { error } else { TargetError::Gone { pid }.into() }
    })
}

fn cpu_seconds(pid: Pid) -> f64 {
    process::cpu_seconds(pid, clock::ticks_per_second()).unwrap_or(0.0)
}
