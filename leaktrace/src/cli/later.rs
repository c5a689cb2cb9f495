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
use crate::model::{Addr, ProbeFailure, ProbeInfo, Slot, Unprobed};
use crate::probe::{Attached, Kernel};
use crate::target::entry_points::{ALL_FUNCTIONS, entry_points};
use crate::target::maps::FileId;
use crate::target::{Budget, Families, Image, MappingCallers, Plan, PlanOptions, PlannedProbe};

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
        // Blocks that an operator of theirs gave before are not known to be its: their forms are not told
        // apart where one function serves several.
        let check_frees = std::mem::replace(&mut plan.check_frees, false);
        plan.add_later(image, options, budget, |id| !known.contains(&id));
        plan.check_frees = check_frees;
        self.looked_into.extend(image.files().map(|file| file.id));
        Plan {
            probes: plan.probes.iter().skip(probes).cloned().collect(),
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
            self.take_in(&more, more.failures.clone());
            return None;
        }
        self.allocator_code = code;
        self.frees_nest = self.planned.plan.frees_nest;
        self.families = Families::of(&self.planned.plan);
        self.callers = MappingCallers::find(&self.space.image, &self.planned.plan);
        let placed = self.add(maps, terms, &more).unwrap_or_else(|error| {
            let (function, module) = (ALL_FUNCTIONS.to_owned(), more.allocators.join(", "));
            let error = format!("they were loaded later, and could not be probed: {error:#}");
            let about = Unprobed::Function { frees: more.probes.iter().any(PlannedProbe::frees) };
            let failure = ProbeFailure { function, module, error, about };
            Placed { probes: Vec::new(), failures: vec![failure] }
        });
        let is_probed = !placed.probes.is_empty();
        self.probes.extend(placed.probes);
        self.take_in(&more, placed.failures);
        if !is_probed {
            return None;
        }
        self.known.joined();
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

    /// Takes account of what could not be probed, and of the functions of the user's own that were
    /// in none of the files until now.
    fn take_in(&mut self, more: &Plan, failures: Vec<ProbeFailure>) {
        let probed = more.probes.iter().filter(|probe| probe.signature.form == Form::Own);
        let probed = probed.map(|probe| (probe.function.as_str(), probe.file.path.as_str()));
        let refused = failures.iter().filter(|f| matches!(f.about, Unprobed::Function { .. }));
        let refused = refused.map(|failure| (failure.function.as_str(), failure.module.as_str()));
        let found: Vec<(&str, &str)> = probed.chain(refused).collect();
        self.failures.retain(|failure| {
            !found.iter().any(|(function, path)| is_found(failure, function, path))
        });
        self.failures.extend(failures);
        let plan = &self.planned.plan;
        self.known.entry_points = entry_points(plan, &self.probes, &self.failures);
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

/// Whether it was said of this function, now found in the file at `path`, that no file has it.
fn is_found(failure: &ProbeFailure, function: &str, path: &str) -> bool {
    let Unprobed::Missing { object, .. } = &failure.about else { return false };
    let is_in = |object: &String| path.trim_end_matches(" (deleted)").ends_with(object);
    failure.function == function && object.as_ref().is_none_or(is_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_named_with_its_files_whole_path_is_missing_no_more_once_it_is_found() {
        let check = |object: Option<&str>, path: &str, found: bool| {
            let object = object.map(str::to_owned);
            let failure = ProbeFailure {
                function: "get".to_owned(),
                module: object.clone().unwrap_or("any of the 5 mapped files".to_owned()),
                error: "no symbol has this name".to_owned(),
                about: Unprobed::Missing { frees: false, object },
            };
            assert_eq!(is_found(&failure, "get", path), found, "{path}");
            assert!(!is_found(&failure, "put", path));
        };
        check(Some("/opt/app/libplug.so"), "/opt/app/libplug.so", true);
        check(Some("libplug.so"), "/opt/app/libplug.so (deleted)", true);
        check(None, "/opt/app/libplug.so", true);
        // One of the same name in another file.
        check(Some("libplug.so"), "/opt/app/libother.so", false);
    }

    #[test]
    fn what_cannot_be_probed_is_not_found_by_another_of_its_name() {
        let failure = ProbeFailure {
            function: "get".to_owned(),
            module: "/opt/app/libplug.so".to_owned(),
            error: "the kernel refuses".to_owned(),
            about: Unprobed::Function { frees: false },
        };
        assert!(!is_found(&failure, "get", "/opt/app/libplug.so"));
    }
}
