//! How many of the functions of the allocators found are seen, and which that free are not.

use std::collections::BTreeSet;

use leaktrace_ebpf::cookie::Kind;

use super::allocators::{self, display_name};
use super::plan::Plan;
use crate::model::{EntryPoints, ProbeFailure, ProbeInfo};

/// A failure of whole files rather than of one function.
pub const ALL_FUNCTIONS: &str = "all functions";

/// Of a plan, by the probes that came to be in place and the failures of all others.
pub fn entry_points(plan: &Plan, probes: &[ProbeInfo], failures: &[ProbeFailure]) -> EntryPoints {
    let probed: BTreeSet<(&str, &str)> =
        probes.iter().map(|probe| (probe.function.as_str(), probe.module.as_str())).collect();
    let failed: BTreeSet<(&str, &str)> = failures
        .iter()
        .filter(|failure| failure.function != ALL_FUNCTIONS)
        .map(|failure| (failure.function.as_str(), failure.module.as_str()))
        .filter(|function| !probed.contains(function))
        .collect();
    let covered = probed.len().saturating_add(plan.covered.len()) as u64;
    let unprobed_frees = failed
        .iter()
        .filter(|(function, module)| frees(plan, function, module))
        .map(|(function, module)| format!("{function} in {module}"))
        .collect();
    EntryPoints { found: covered.saturating_add(failed.len() as u64), covered, unprobed_frees }
}

/// Whether a function ends blocks: by what the plan knows of it, or the catalogue.
fn frees(plan: &Plan, function: &str, module: &str) -> bool {
    let ends = |kind: Kind| match kind {
        Kind::Allocate | Kind::Resize => false,
        Kind::Reallocate | Kind::Free | Kind::ReallocateOrFree => true,
    };
    let planned =
        plan.probes.iter().find(|probe| probe.function == function && probe.file.path == module);
    let known = || allocators::all().find(|entry| display_name(entry.name) == function);
    match planned {
        Some(probe) => ends(probe.signature.kind),
        None => known().is_some_and(|entry| ends(entry.signature.kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pid;
    use crate::target::{Image, PlanOptions};

    fn failure(function: &str, module: &str) -> ProbeFailure {
        let error = "the kernel refuses".to_owned();
        ProbeFailure { function: function.to_owned(), module: module.to_owned(), error }
    }

    #[test]
    fn what_has_no_probe_is_short_and_named_if_it_frees() {
        let image = Image::capture(Pid::new(std::process::id()).unwrap()).unwrap();
        let only_libc =
            PlanOptions { only: Some("libc.so.6".to_owned()), ..PlanOptions::default() };
        let plan = Plan::make(&image, "", &only_libc).unwrap();
        let probes: Vec<ProbeInfo> = plan.probes.iter().map(|probe| probe.info()).collect();
        let all = entry_points(&plan, &probes, &[]);
        assert!(all.found > 8 && all.found == all.covered, "{all:?}");
        assert!(all.unprobed_frees.is_empty(), "{all:?}");

        // The kernel refuses two, the plan a third in another file; whole files are none.
        let libc = plan.probes[0].file.path.clone();
        let left: Vec<ProbeInfo> = probes
            .into_iter()
            .filter(|probe| !["free", "calloc"].contains(&probe.function.as_str()))
            .collect();
        let failures = [
            failure("free", &libc),
            failure("calloc", &libc),
            failure("operator new(unsigned long)", "/a"),
            failure("operator delete(void*)", "/a"),
            failure(ALL_FUNCTIONS, "/b"),
        ];
        let short = entry_points(&plan, &left, &failures);
        assert_eq!((short.found, short.covered), (all.found + 2, all.found - 2));
        let frees = [format!("free in {libc}"), "operator delete(void*) in /a".to_owned()];
        assert_eq!(short.unprobed_frees, frees);
    }
}
