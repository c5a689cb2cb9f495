//! How many of the functions of the allocators found are seen, and which that free are not.

use std::collections::BTreeSet;

use leaktrace_ebpf::cookie::{Form, Kind};

use super::plan::Plan;
use crate::model::{EntryPoints, ProbeFailure, ProbeInfo, Unprobed};

/// A failure of whole files rather than of one function.
pub const ALL_FUNCTIONS: &str = "all functions";

/// Of a plan, by the probes that came to be in place and the failures of all others.
pub fn entry_points(plan: &Plan, probes: &[ProbeInfo], failures: &[ProbeFailure]) -> EntryPoints {
    let probed: BTreeSet<(&str, &str)> =
        probes.iter().map(|probe| (probe.function.as_str(), probe.module.as_str())).collect();
    let failed: BTreeSet<(&str, &str)> = failures
        .iter()
        .filter(|failure| failure.about != Unprobed::Files)
        .map(|failure| (failure.function.as_str(), failure.module.as_str()))
        .filter(|function| !probed.contains(function))
        .collect();
    let covered = probed.len().saturating_add(plan.covered.len()) as u64;
    let gives_own_blocks = |object: Option<&str>| {
        plan.probes.iter().any(|probe| {
            probe.signature.form == Form::Own
                && probe.signature.kind != Kind::Free
                && object.is_none_or(|object| probe.file.path.ends_with(object))
        })
    };
    EntryPoints {
        found: covered.saturating_add(failed.len() as u64),
        covered,
        unprobed_frees: unprobed_frees(failures, gives_own_blocks),
    }
}

/// Functions that free and are not seen. One that is nowhere in the process is none where nothing
/// `gives_own_blocks` of its object either: a file that names the allocators of many programs.
fn unprobed_frees(
    failures: &[ProbeFailure],
    gives_own_blocks: impl Fn(Option<&str>) -> bool,
) -> Vec<String> {
    let misleads = |about: &Unprobed| match about {
        Unprobed::Missing { frees, object } => *frees && gives_own_blocks(object.as_deref()),
        // Even where another of the same name is probed: calls of this one are not seen.
        other => other.frees(),
    };
    let unprobed = failures.iter().filter(|failure| misleads(&failure.about));
    let named: BTreeSet<String> =
        unprobed.map(|failure| format!("{} in {}", failure.function, failure.module)).collect();
    named.into_iter().collect()
}

/// Whether a function ends blocks.
pub fn frees(kind: Kind) -> bool {
    match kind {
        Kind::Allocate | Kind::Resize => false,
        Kind::Reallocate | Kind::Free | Kind::ReallocateOrFree => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pid;
    use crate::target::{Image, PlanOptions};

    fn failure(function: &str, module: &str, about: Unprobed) -> ProbeFailure {
        let error = "the kernel refuses".to_owned();
        ProbeFailure { function: function.to_owned(), module: module.to_owned(), error, about }
    }

    fn function(function: &str, module: &str, frees: bool) -> ProbeFailure {
        failure(function, module, Unprobed::Function { frees })
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
            function("free", &libc, true),
            function("calloc", &libc, false),
            function("operator new(unsigned long)", "/a", false),
            function("operator delete(void*)", "/a", true),
            failure(ALL_FUNCTIONS, "/b", Unprobed::Files),
        ];
        let short = entry_points(&plan, &left, &failures);
        assert_eq!((short.found, short.covered), (all.found + 2, all.found - 2));
        let frees = [format!("free in {libc}"), "operator delete(void*) in /a".to_owned()];
        assert_eq!(short.unprobed_frees, frees);
    }
    #[test]
    fn an_own_function_that_frees_and_was_not_found_or_cannot_be_probed_is_named() {
        let missing =
            |name, module, frees| failure(name, module, Unprobed::Missing { frees, object: None });
        let failures = [
            missing("pool_put", "any of the 5 mapped files", true),
            missing("pool_get", "any of the 5 mapped files", false),
            function("arena_drop", "/opt/app", true),
            function("arena_make", "/opt/app", false),
        ];
        let short = entry_points(&Plan::default(), &[], &failures);
        assert_eq!((short.found, short.covered), (4, 0));
        let frees = ["arena_drop in /opt/app", "pool_put in any of the 5 mapped files"];
        assert_eq!(unprobed_frees(&failures, |_| true), frees);
    }

    #[test]
    fn an_allocator_that_the_process_has_nothing_of_is_none_that_frees_unseen() {
        let missing = |object: &str| {
            let object = Some(object.to_owned());
            failure("put", "/any", Unprobed::Missing { frees: true, object })
        };
        let failures = [missing("libpool.so"), missing("libgpu.so")];
        let of_pool = |object: Option<&str>| object == Some("libpool.so");
        assert_eq!(unprobed_frees(&failures, of_pool), ["put in /any"]);
        assert_eq!(unprobed_frees(&failures[1..], of_pool), [""; 0]);
    }

    #[test]
    fn one_of_two_functions_of_a_name_that_cannot_be_probed_is_named() {
        let probe = ProbeInfo {
            function: "shop::Arena::release".to_owned(),
            module: "/opt/app".to_owned(),
            file_offset: 0x1000,
            function_offset: 0,
            role: "free",
            instruction: "push rbp".to_owned(),
            emulated: true,
        };
        let failures = [function("shop::Arena::release", "/opt/app", true)];
        let short = entry_points(&Plan::default(), &[probe], &failures);
        assert_eq!(short.unprobed_frees, ["shop::Arena::release in /opt/app"]);
    }
}
