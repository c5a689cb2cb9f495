//! How the probes of a plan come into a process: at the start, after an exec, and beside those that it
//! has inherited.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result};

use super::address_space::AddressSpace;
use super::calibration::PracticeKernel;
use super::governed::lock;
use super::heap_look::HeapLook;
use super::later::Planned;
use super::traced::{Place, Probes, Terms, Traced, cpu_seconds};
use super::trust::Known;
use super::unwinding::Unwinding;
use super::windowed::Windowed;
use crate::collect::KernelMaps;
use crate::collect::live::{Exits, ProcessHandle};
use crate::model::{Pid, Slot};
use crate::probe::links::{Handler, LinkKind};
use crate::probe::{Attached, Kernel};
use crate::target::heap::ForeignMemory;
use crate::target::{
    Families, Image, MappingCallers, Plan, PlanOptions, Process, TargetError, loader, patched,
};

#[cfg(test)]
mod tests;

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
    pub fn attach(
        terms: &Terms,
        exits: &Exits,
        process: Process,
        slot: Slot,
        maps: &mut KernelMaps,
        unwinding: &mut Unwinding,
    ) -> Result<Self> {
        let pid = process.pid;
        let handle = ProcessHandle::open(pid)
            .map_err(|error| TargetError::from_io(pid, "open a handle", error))?;
        // The handle is of the process that was looked at, if that still lives.
        if !process.lives() {
            return Err(TargetError::Gone { pid }.into());
        }
        let (image, plan) = make_plan(&process, &terms.plan)?;
        let space = AddressSpace::new(image, unwinding);
        let this = Self::attach_planned(
            terms,
            process,
            plan,
            space,
            slot,
            &HashSet::new(),
            maps,
            unwinding,
        )?;
        exits.watch(handle);
        Ok(this)
    }

    /// Plans a process that was followed into its exec, and puts in the probes that it has not
    /// inherited. `depth`: so many lineages are above it.
    ///
    /// # Errors
    ///
    /// As [`Traced::attach`].
    pub fn attach_follower(
        terms: &Terms,
        process: Process,
        slot: Slot,
        inherited: &HashSet<Place>,
        depth: u16,
        maps: &mut KernelMaps,
        unwinding: &mut Unwinding,
    ) -> Result<Self> {
        let (image, mut plan) = make_plan(&process, &terms.plan)?;
        plan.renumber(depth);
        let inherited = those_in_place(&image, inherited);
        let space = AddressSpace::new(image, unwinding);
        Self::attach_planned(terms, process, plan, space, slot, &inherited, maps, unwinding)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "what all targets have in common is in five places"
    )]
    fn attach_planned(
        terms: &Terms,
        process: Process,
        plan: Plan,
        mut space: AddressSpace,
        slot: Slot,
        inherited: &HashSet<Place>,
        maps: &mut KernelMaps,
        unwinding: &mut Unwinding,
    ) -> Result<Self> {
        let pid = process.pid;
        // All that takes long comes first: from the moment that the probes are in, they cost.
        if let Err(error) = space.tell(slot, unwinding, maps, true) {
            unwinding.say(format!("the stacks of process {pid} may be cut: {error:#}"));
        }
        let windowed = windowed(&space.image, &plan, pid, terms);
        let callers = MappingCallers::find(&space.image, &plan);
        let attached = attach_plan(&mut lock(&terms.kernel), &plan, &process, slot, inherited);
        let attached = match attached {
            Ok(attached) => attached,
            Err(error) => {
                // Most of those that are gone by now were short-lived: there may be any number.
                space.retire(unwinding);
                return Err(error);
            }
        };
        let mut this = Self {
            slot,
            space,
            probes: Vec::new(),
            failures: Vec::new(),
            notes: Vec::new(),
            families: Families::default(),
            ended: false,
            is_root: true,
            origin: None,
            was_forked: false,
            awaits_probes: false,
            callers,
            allocator_code: Vec::new(),
            frees_nest: false,
            probes_in: Probes::None,
            planned: Planned::default(),
            windowed,
            known: Known::default(),
            cpu_at_start_s: cpu_seconds(pid),
            cpu_s: 0.0,
            anonymous_memory: 0,
            process,
        };
        this.adopt(plan, attached);
        // What was loaded since the mappings were read, the hook has not told of.
        this.space.libraries_changed();
        Ok(this)
    }

    /// Puts probes into the address space that an exec made, under a new slot. False when it has
    /// no allocator mapped yet.
    ///
    /// # Errors
    ///
    /// When the process can no longer be traced.
    pub fn attach_anew(
        &mut self,
        terms: &Terms,
        slot: Slot,
        patient: bool,
        unwinding: &mut Unwinding,
    ) -> Result<bool> {
        drop(self.take_probes());
        let pid = self.process.pid;
        for look in 0.. {
            let process = Process::open(pid)?;
            if process.start_time != self.process.start_time {
                return Err(TargetError::Gone { pid }.into());
            }
            match make_plan(&process, &terms.plan) {
                // The program itself is mapped, and its libraries may not be yet.
                Ok((_, plan)) if plan.is_only_own() && patient && look < LOOKS => {
                    std::thread::sleep(BETWEEN_LOOKS);
                }
                Ok((image, plan)) => {
                    self.callers = MappingCallers::find(&image, &plan);
                    let kernel = &mut lock(&terms.kernel);
                    let attached = attach_plan(kernel, &plan, &process, slot, &HashSet::new())?;
                    self.process = process;
                    self.space.replace(image, unwinding);
                    self.slot = slot;
                    self.awaits_probes = false;
                    self.windowed = windowed(&self.space.image, &plan, pid, terms);
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
}

/// Looks at a process, and plans what is to be probed in it.
///
/// # Errors
///
/// What makes it no target; of one that has ended meanwhile, that alone, since its files were not to be
/// opened any more.
pub fn make_plan(process: &Process, options: &PlanOptions) -> Result<(Image, Plan), TargetError> {
    let look = || {
        let image = Image::capture(process.pid)?;
        let plan = Plan::make(&image, &process.exe, options)?;
        Ok((image, plan))
    };
    let gone = TargetError::Gone { pid: process.pid };
    look().map_err(|error| if process.lives() { error } else { gone })
}

/// What is kept of a target that is traced in windows; nothing without a budget.
fn windowed(image: &Image, plan: &Plan, pid: Pid, terms: &Terms) -> Option<Windowed> {
    terms.budget.map(|_| Windowed::new(HeapLook::new(pid, image, plan)))
}

/// Those of the inherited probes that came with the process: an exec that changes the user or cannot be
/// looked at sheds them, and a child that was forked earlier never had those of libraries loaded later.
fn those_in_place(image: &Image, inherited: &HashSet<Place>) -> HashSet<Place> {
    let Ok(memory) = ForeignMemory::open(image.pid) else { return inherited.clone() };
    let is_missing = |(file, offset, _): &Place| {
        patched::is_patched(image, &memory, *file, *offset) == Some(false)
    };
    let missing = inherited.iter().filter(|place| is_missing(place)).count();
    if missing > 0 {
        log::info!("process {} has lost {missing} of the probes before it", image.pid);
    }
    inherited.iter().filter(|place| !is_missing(place)).copied().collect()
}

/// Puts the probes of a plan in, but for those that the process has inherited.
fn attach_plan(
    kernel: &mut Kernel,
    plan: &Plan,
    process: &Process,
    slot: Slot,
    inherited: &HashSet<Place>,
) -> Result<Attached> {
    let pid = process.pid;
    // At the attach and again after each exec: a filter may have come since.
    if process.seccomp != 0 {
        refuse_if_return_probes_kill(kernel, process)?;
    }
    let mut attached = Attached::attach_beside(kernel, plan, pid, slot, inherited);
    let hook = plan.loader_hook.as_ref().filter(|hook| {
        !inherited.contains(&(hook.file.id, hook.file_offset, Handler::LibrariesChanged))
    });
    if let (Ok(attached), Some(hook)) = (&mut attached, hook) {
        // Without it, the first stack that leads into a new library tells of it.
        attached.watch_libraries(kernel, hook, pid, slot).unwrap_or_else(|error| {
            log::info!("process {pid}: {} is not watched: {error:#}", loader::HOOK);
        });
    }
    // Whatever the kernel answered: if the process is gone, that is the reason.
    if process.lives() { attached } else { Err(TargetError::Gone { pid }.into()) }
}
/// A target under seccomp is traced only where a return probe is known not to kill it.
fn refuse_if_return_probes_kill(kernel: &Kernel, process: &Process) -> Result<()> {
    let kills = PracticeKernel::load(kernel.links().kind == LinkKind::Perf)
        .and_then(|mut practice| practice.return_probe_kills_under_seccomp())
        .context("cannot find out whether the target's seccomp filter lets return probes pass")?;
    if kills {
        return Err(
            TargetError::SeccompKills { pid: process.pid, comm: process.comm.clone() }.into()
        );
    }
    Ok(())
}
