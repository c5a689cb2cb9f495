//! One process under trace: from its identity to the probes in it.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;

use super::address_space::AddressSpace;
use super::governed::{Governed, SharedKernel, lock};
use super::hit_cost::HitCost;
use super::later::Planned;
use super::trust::Known;
use super::unwinding::Unwinding;
use super::windowed::Windowed;
use crate::collect::{KernelMaps, clock};
use crate::model::{Addr, Pid, ProbeFailure, ProbeInfo, Slot, StackId, Target, Totals, Unprobed};
use crate::probe::Attached;
pub use crate::probe::attach::Place;
use crate::probe::links::LinkKind;
use crate::target::entry_points::ALL_FUNCTIONS;
use crate::target::{Families, MappingCallers, Plan, PlanOptions, Process, process};

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
    /// The names of its functions, for wrong frees.
    pub families: Families,
    /// Whether it has ended.
    pub ended: bool,
    /// Whether it was asked for, rather than found among the children of one that was.
    pub is_root: bool,
    /// The lineage that its exec was called in, see [`super::follow`].
    pub origin: Option<Slot>,
    /// It began as a copy of a process of that lineage, and has blocks on its stacks.
    pub was_forked: bool,
    /// It has called exec and its new address space has no probes yet.
    pub awaits_probes: bool,
    /// Who maps memory in it.
    pub callers: MappingCallers,
    pub(super) allocator_code: Vec<(Addr, Addr)>,
    /// One of its functions that free may call another.
    pub(super) frees_nest: bool,
    pub(super) probes_in: Probes,
    pub(super) planned: Planned,
    /// What windows say about it; `None` without a budget.
    pub windowed: Option<Windowed>,
    /// How whole its trace is.
    pub known: Known,
    pub(super) cpu_at_start_s: f64,
    pub(super) cpu_s: f64,
    pub(super) anonymous_memory: u64,
}

/// Its probes.
pub(super) enum Probes {
    None,
    /// In until the end.
    Exact(Attached),
    /// Under a budget.
    Governed(Governed),
}

/// What the probes of a trace have in common.
pub struct Terms {
    /// The object that they are of.
    pub kernel: SharedKernel,
    /// What a hit costs.
    pub hit_cost: Arc<HitCost>,
    /// The most that they may slow a target down: 0.05 for 5 %.
    pub budget: Option<f64>,
    /// What the user wants probed.
    pub plan: PlanOptions,
    /// Children are followed.
    pub follow: bool,
}

const NOT_GOVERNED: &str = "what the probes cost could not be kept within the budget, and so they are \
                            out: what happened since is in no figure";

const MAIN_THREAD_ENDED: &str = "the main thread has ended while others run on, and with it the \
                                 probes: what happened since is in no figure";

impl Traced {
    /// Takes in the plan of its address space, and the probes that it has of it.
    pub(super) fn adopt(&mut self, mut plan: Plan, attached: Attached) {
        // What the counters missed before an exec stays missed.
        let was_out = self.was_out() || self.known.was_out;
        self.known = Known::planned(&self.space.image, &plan, &attached);
        self.known.was_out = was_out;
        self.probes = attached.probes.clone();
        self.failures = attached.failures.clone();
        self.families = Families::of(&plan);
        self.notes = std::mem::take(&mut plan.notes);
        self.allocator_code = std::mem::take(&mut plan.allocator_code);
        self.frees_nest = plan.frees_nest;
        self.probes_in = Probes::Exact(attached);
        self.planned = Planned::new(plan, &self.space.image);
    }

    /// Takes the probes out of children that it has forked: they are traced by nobody.
    pub fn spare_children(&mut self, terms: &Terms) {
        // The kernel's lock is taken last, everywhere.
        let spared = match &mut self.probes_in {
            _ if self.ended => false,
            Probes::Exact(attached) => attached.spare_children(&mut lock(&terms.kernel)),
            Probes::Governed(governed) => governed.state().spare_children(),
            Probes::None => false,
        };
        if spared {
            log::info!("process {} has forked: its children lose their probes", self.process.pid);
        }
    }

    /// With perf links, the kernel filters probes by the main thread's address space at each hit,
    /// and takes them out when that thread has ended while others run on.
    pub fn check_main_thread(&mut self, terms: &Terms) {
        // Where children are followed, each thread has its own.
        if terms.follow || lock(&terms.kernel).links().kind == LinkKind::Multi {
            return;
        }
        if !self.ended && process::main_thread_ended(self.process.pid) {
            self.all_failed(MAIN_THREAD_ENDED.to_owned());
        }
    }

    /// Says, once, what befell all its probes.
    fn all_failed(&mut self, error: String) {
        if self.failures.iter().all(|failure| failure.error != error) {
            self.known.probes_out.push(error.clone());
            let (function, module) = (ALL_FUNCTIONS.to_owned(), self.process.exe.clone());
            let about = Unprobed::Files;
            self.failures.push(ProbeFailure { function, module, error, about });
        }
    }

    /// Lets its events count.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn open(
        &mut self,
        maps: &mut KernelMaps,
        unwinding: &mut Unwinding,
        terms: &Terms,
    ) -> Result<()> {
        self.tell(maps, unwinding, true);
        self.cpu_at_start_s = cpu_seconds(self.process.pid);
        if let Some(only) = &terms.plan.only {
            self.known.look_elsewhere(&self.space.image, &self.process.exe, only);
        }
        maps.open_target(self.slot, &self.allocator_code, self.frees_nest)?;
        self.known.begin(self.process.pid);
        self.govern(maps, terms)
    }

    /// Puts its probes under the budget, if there is one.
    fn govern(&mut self, maps: &KernelMaps, terms: &Terms) -> Result<()> {
        let Some(budget) = terms.budget else { return Ok(()) };
        let gauge = maps.gauge(self.slot)?;
        self.probes_in = match std::mem::replace(&mut self.probes_in, Probes::None) {
            Probes::Exact(attached) => {
                let pid = self.process.pid;
                Probes::Governed(Governed::start(pid, attached, gauge, terms, budget)?)
            }
            other => other,
        };
        Ok(())
    }

    /// Puts all its probes in, under no budget; what windows said is forgotten.
    /// Where that fails, it is said in the report.
    pub fn ungovern(&mut self, terms: &Terms) {
        if let Probes::Governed(governed) = &mut self.probes_in
            && let Some(mut attached) = governed.end()
        {
            let back = attached.put_back(&mut lock(&terms.kernel));
            self.probes_in = Probes::Exact(attached);
            if let Err(error) = back {
                self.all_failed(format!("not all of them could be put back: {error:#}"));
            }
        }
        if let Some(windowed) = self.windowed.take() {
            self.windowed = Some(windowed.afresh());
        }
    }

    /// Takes account of the windows since the last call. Returns whether what they say has changed.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn follow_windows(
        &mut self,
        maps: &mut KernelMaps,
        counted: &HashMap<StackId, Totals>,
        is_alone: bool,
        last: bool,
    ) -> Result<bool> {
        let Some(windowed) = &mut self.windowed else { return Ok(false) };
        windowed.placed(is_alone, self.ended);
        let Probes::Governed(governed) = &self.probes_in else { return Ok(false) };
        windowed.follow(governed, maps, self.slot, counted, last)
    }

    /// Whether its figures are estimates, since it is traced in windows.
    pub fn is_estimate(&self) -> bool {
        self.windowed.as_ref().is_some_and(Windowed::is_estimate)
    }

    /// Whether there is time that was not traced, for the budget's sake.
    pub fn was_out(&self) -> bool {
        match &self.probes_in {
            Probes::Governed(governed) => governed.state().has_closed(),
            _ => self.is_estimate(),
        }
    }

    /// Where the budget could not be kept, there are no probes in it any more.
    pub fn check_governing(&mut self) {
        let Probes::Governed(governed) = &self.probes_in else { return };
        let Some(why) = governed.state().failure().map(str::to_owned) else { return };
        // A process that is gone is none to trace.
        if !self.ended && !process::has_ended(self.process.pid) {
            self.all_failed(format!("{NOT_GOVERNED}: {why}"));
        }
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
        self.look_at_memory();
        self.look_at_cpu();
    }

    /// Looks how much CPU time it has used, while it can be.
    pub fn look_at_cpu(&mut self) {
        self.cpu_s = (cpu_seconds(self.process.pid) - self.cpu_at_start_s).max(self.cpu_s);
    }

    /// Looks how much memory it has, while it can be.
    pub fn look_at_memory(&mut self) {
        if let Some(bytes) = process::anonymous_memory(self.process.pid) {
            self.anonymous_memory = bytes;
        }
    }

    /// Bytes of memory that no file backs, as of the last look.
    pub fn anonymous_memory(&self) -> u64 {
        self.anonymous_memory
    }

    /// CPU seconds used since tracing began, as of the last look.
    pub fn cpu_s(&self) -> f64 {
        self.cpu_s
    }

    /// Gives up the probes, to be detached.
    pub fn take_probes(&mut self) -> Option<Attached> {
        if let Probes::Governed(governed) = &mut self.probes_in {
            return governed.end();
        }
        match std::mem::replace(&mut self.probes_in, Probes::None) {
            Probes::Exact(attached) => Some(attached),
            Probes::None | Probes::Governed(_) => None,
        }
    }

    /// Has it stand for itself, under the slot that it had as a copy of its parent.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn open_as_lineage(&mut self, maps: &mut KernelMaps) -> Result<()> {
        self.cpu_at_start_s = cpu_seconds(self.process.pid);
        self.known.begin(self.process.pid);
        maps.make_lineage(self.slot, &self.allocator_code, self.frees_nest)
    }

    /// Where its own probes are.
    pub fn places(&self) -> Vec<Place> {
        match &self.probes_in {
            Probes::Exact(attached) => attached.places().collect(),
            Probes::None | Probes::Governed(_) => Vec::new(),
        }
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

/// CPU seconds that a process has used; 0 when it is gone.
pub(super) fn cpu_seconds(pid: Pid) -> f64 {
    clock::process_cpu_s(pid).unwrap_or(0.0)
}
