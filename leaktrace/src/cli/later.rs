//! Allocators that a target loads while it is traced: they are planned, probed and said to be new.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Result;
use leaktrace_ebpf::cookie::Form;
use leaktrace_ebpf::records::MAX_ALLOCATOR_RANGES;

use super::governed::lock;
use super::heap_look::HeapLook;
use super::traced::{Probes, Terms, Traced};
use crate::collect::KernelMaps;
use crate::model::{Addr, ProbeFailure, ProbeInfo, Slot};
use crate::probe::{Attached, Kernel};
use crate::target::entry_points::{ALL_FUNCTIONS, entry_points};
use crate::target::maps::FileId;
use crate::target::{Budget, Families, Image, MappingCallers, Plan, PlanOptions, Role};

/// So many times, what was loaded is said.
const MOST_NOTES: usize = 20;

/// What an address space is probed for, and which of its files were looked into for that.
#[derive(Default)]
pub struct Planned {
    plan: Plan,
    looked_into: HashSet<FileId>,
    /// What may be read of all files that come later.
    budget: Option<Budget>,
    notes: usize,
}

/// What comes to the probes of a target.
pub struct Later<'a> {
    /// The probes.
    pub plan: &'a Plan,
    /// The target's slot.
    pub slot: Slot,
    /// Where all its allocators' code is mapped now.
    pub allocator_code: &'a [(Addr, Addr)],
    /// One of its functions that free may call another.
    pub frees_nest: bool,
}

/// Which probes are in place, and which are not.
#[derive(Default)]
pub struct Placed {
    probes: Vec<ProbeInfo>,
    failures: Vec<ProbeFailure>,
}

impl Placed {
    /// Puts probes in beside those that a process has.
    pub fn in_running(attached: &mut Attached, kernel: &mut Kernel, more: &Later<'_>) -> Self {
        let before = (attached.probes.len(), attached.failures.len());
        attached.add(kernel, more.plan, more.slot);
        let probes = attached.probes.iter().skip(before.0).cloned().collect();
        let failures = attached.failures.iter().skip(before.1).cloned().collect();
        Self { probes, failures }
    }
}

impl Planned {
    /// As of the plan for an address space.
    pub fn new(plan: Plan, image: &Image) -> Self {
        let looked_into = image.files().map(|file| file.id).collect();
        Self { plan, looked_into, budget: None, notes: 0 }
    }

    /// Plans the files that are new; gives what comes to the plan.
    fn extend(&mut self, image: &Image, options: &PlanOptions) -> Plan {
        let (plan, known) = (&mut self.plan, &self.looked_into);
        let budget = self.budget.get_or_insert_with(Budget::for_plan);
        let (probes, allocators) = (plan.probes.len(), plan.allocators.len());
        plan.failures.clear();
        plan.notes.clear();
        plan.add_later(image, options, budget, |id| !known.contains(&id));
        self.looked_into.extend(image.files().map(|file| file.id));
        Plan {
            // Blocks that an operator of theirs gave before are not known to be its.
            probes: plan
                .probes
                .iter()
                .skip(probes)
                .filter(|probe| probe.role != Role::Operator)
                .cloned()
                .collect(),
            allocators: plan.allocators.iter().skip(allocators).cloned().collect(),
            failures: plan.failures.clone(),
            notes: plan.notes.clone(),
            check_frees: plan.check_frees,
            ..Plan::default()
        }
    }
}

impl Traced {
    /// Probes the allocators among the files that were mapped since the last look. Returns what is to
    /// be said of them; `at` is the time since the trace began.
    pub fn pick_up(&mut self, maps: &KernelMaps, terms: &Terms, at: Duration) -> Option<String> {
        if !self.space.take_news() {
            return None;
        }
        let more = self.planned.extend(&self.space.image, &terms.plan);
        let mut code = self.planned.plan.code_in(&self.space.image);
        code.truncate(MAX_ALLOCATOR_RANGES);
        self.notes.extend(more.notes.iter().cloned());
        if more.probes.is_empty() && code == self.allocator_code {
            self.failures.extend(more.failures);
            return None;
        }
        self.allocator_code = code;
        self.frees_nest = self.planned.plan.frees_nest;
        self.families = Families::of(&self.planned.plan);
        self.callers = MappingCallers::find(&self.space.image, &self.planned.plan);
        let placed = self.add(maps, terms, &more).unwrap_or_else(|error| {
            let (function, module) = (ALL_FUNCTIONS.to_owned(), more.allocators.join(", "));
            let error = format!("they were loaded later, and could not be probed: {error:#}");
            Placed { probes: Vec::new(), failures: vec![ProbeFailure { function, module, error }] }
        });
        // A function of the user's own may have been in none of the files until now.
        let files: HashSet<&str> =
            self.space.image.files().map(|file| file.path.as_str()).collect();
        let is_found = |failure: &ProbeFailure| {
            !files.contains(failure.module.as_str())
                && more.probes.iter().any(|probe| {
                    probe.signature.form == Form::Own && probe.function == failure.function
                })
        };
        self.failures.retain(|failure| !is_found(failure));
        self.failures.extend(placed.failures);
        if placed.probes.is_empty() {
            return None;
        }
        self.probes.extend(placed.probes);
        let plan = &self.planned.plan;
        self.known.entry_points = entry_points(plan, &self.probes, &self.failures);
        if let Some(windowed) = &mut self.windowed {
            let image = &self.space.image;
            windowed.look_by(HeapLook::new(self.process.pid, image, &self.planned.plan));
        }
        let (pid, files) = (self.process.pid, more.allocators.join(", "));
        let note = format!(
            "process {pid} has loaded {files}, which is probed since {:.1} s: blocks that it handed \
             out before are not known",
            at.as_secs_f64()
        );
        self.planned.notes += 1;
        if self.planned.notes > MOST_NOTES {
            return None;
        }
        self.notes.push(note.clone());
        Some(note)
    }

    fn add(&mut self, maps: &KernelMaps, terms: &Terms, more: &Plan) -> Result<Placed> {
        let more = Later {
            plan: more,
            slot: self.slot,
            allocator_code: &self.allocator_code,
            frees_nest: self.frees_nest,
        };
        match &mut self.probes_in {
            Probes::None => Ok(Placed::default()),
            Probes::Exact(attached) => {
                maps.gauge(self.slot)?.set_allocators(more.allocator_code, more.frees_nest)?;
                Ok(Placed::in_running(attached, &mut lock(&terms.kernel), &more))
            }
            Probes::Governed(governed) => governed.state().add(&more),
        }
    }
}
