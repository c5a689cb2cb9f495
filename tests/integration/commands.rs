//! Do `--dry-run`, `doctor` and `demo` do what they promise?

use crate::processes::Target;
use crate::programs::program;
use crate::trace::{Trace, command};

/// The function that the demo's service leaks from.
const DEMO_LEAKING_FUNCTION: &str = "render_receipt";

const GLIBC_FUNCTIONS: [&str; 10] = [
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "memalign",
    "aligned_alloc",
    "posix_memalign",
    "valloc",
    "pvalloc",
    "free",
];

#[test]
fn a_dry_run_prints_the_plan_and_attaches_nothing() {
    let mut target = Target::start(&program("load.c"), &[counter().path()]);
    let places = [target.ready.get("malloc"), target.ready.get("free")];
    let before = places.map(|place| target.code_at(place));
    let ended = command(&["attach", "-p", &target.pid().to_string(), "--dry-run"]);
    ended.assert_code(0);
    for function in GLIBC_FUNCTIONS {
        let mut words = ended.stdout.split_whitespace();
        assert!(
            words.any(|word| word.split(['+', ',']).next() == Some(function)),
            "{}",
            ended.stdout
        );
    }
    for word in ["libc.so.6", "push", "alloc-entry", "alloc-return", "free"] {
        assert!(ended.stdout.contains(word), "{word}:\n{}", ended.stdout);
    }
    assert!(!ended.stderr.contains("tracing"), "{}", ended.stderr);
    assert_eq!(places.map(|place| target.code_at(place)), before);
    assert!(target.is_alive());
}

fn counter() -> tempfile::NamedTempFile {
    tempfile::NamedTempFile::new().unwrap()
}

/// A probe on any other instruction costs 40 times as much. Holds for Debian 12's glibc.
#[test]
fn every_probe_on_glibc_is_on_an_instruction_that_the_kernel_emulates() {
    let target = Target::start::<&str>(&program("leak_three.c"), &[]);
    let report = Trace::attach(&target, &[]).interrupt();
    let probes = report.at("/probes").as_array().unwrap();
    for function in GLIBC_FUNCTIONS {
        // glibc's reallocarray is a multiplication and a jump to realloc, whose probe sees it;
        // memalign is another name of aligned_alloc.
        let covered = ["reallocarray", "memalign"].contains(&function);
        let probed = probes.iter().any(|probe| probe["function"] == function);
        assert_eq!(probed, !covered, "{function}: {probes:?}");
    }
    let stepped: Vec<_> = probes.iter().filter(|probe| probe["emulated"] != true).collect();
    assert!(stepped.is_empty(), "{stepped:#?}");
}

#[test]
fn doctor_finds_nothing_wrong_as_root() {
    let ended = command(&["doctor"]);
    ended.assert_code(0);
    let says = ended.stdout.to_lowercase();
    for check in ["kernel", "btf", "uprobe", "capabilit", "ns"] {
        assert!(says.contains(check), "{check}:\n{}", ended.stdout);
    }
}

#[test]
fn doctor_names_a_processs_allocators() {
    let target = Target::start::<&str>(&program("leak_three.c"), &[]);
    let ended = command(&["doctor", "-p", &target.pid().to_string()]);
    ended.assert_code(0);
    assert!(ended.stdout.contains("libc"), "{}", ended.stdout);
}

#[test]
fn the_demo_says_which_function_leaks_and_writes_a_flame_graph() {
    let mut trace = Trace::start(&["demo"]);
    let ended = trace.ended();
    ended.assert_code(0);
    assert!(ended.stdout.contains(DEMO_LEAKING_FUNCTION), "{}", ended.stdout);
    let svg = std::fs::read_to_string(trace.file("leaktrace-demo.svg")).unwrap();
    assert!(svg.contains(DEMO_LEAKING_FUNCTION));
}

/// A strict filter would answer the system call by which a return probe comes back with a kill.
/// Kernels that lack the fix are refused with the reason; either way the target lives.
#[test]
fn a_target_under_a_seccomp_filter_lives() {
    let mut target = Target::start::<&str>(&program("seccomp.c"), &[]);
    let mut trace = Trace::attach(&target, &[]);
    target.work();
    let report = trace.interrupt();
    assert_eq!(report.held_by("leak_here").bytes, 12_288);
    assert!(target.end().success());
}
