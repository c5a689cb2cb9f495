//! Do `--dry-run`, `doctor` and `demo` do what they promise?

use crate::processes::Target;
use crate::programs::program;
use crate::trace::{Ended, Trace, command};

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
fn a_dry_run_prints_the_plan_and_leaves_nothing_attached() {
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

/// `leaktrace.plan/1` of a process.
fn dry_run(pid: u32, options: &[&str]) -> (Ended, serde_json::Value) {
    let pid = pid.to_string();
    let mut args = vec!["attach", "-p", &pid, "--dry-run", "--format", "json"];
    args.extend(options);
    let ended = command(&args);
    ended.assert_code(0);
    let plan = serde_json::from_str(&ended.stdout).unwrap();
    (ended, plan)
}

#[test]
fn a_dry_run_predicts_that_a_busy_program_is_traced_in_windows() {
    let mut target = Target::start(&program("load.c"), &[counter().path()]);
    let (ended, plan) = dry_run(target.pid(), &[]);
    let told = |field: &str| {
        plan["predicted"][field].as_f64().unwrap_or_else(|| panic!("no {field}: {ended:?}"))
    };
    // It does nothing else. The test machine may be slow, but not by that much.
    assert!(told("allocations_per_s") > 10_000.0 && told("frees_per_s") > 10_000.0, "{plan}");
    assert!((0.25..=1.0).contains(&told("target_cpu_share")), "{plan}");
    assert!((0.0..0.5).contains(&told("work_seen")) && told("work_seen") > 0.0, "{plan}");
    assert!(told("sampled_cpu_share") <= told("target_cpu_share"), "{plan}");
    assert!(told("ns_per_hit") > 50.0 && told("counted_s") > 0.0, "{plan}");
    assert_eq!((told("budget_share"), told("sample_bytes")), (0.05, 524_288.0));
    let (_, plan) = dry_run(target.pid(), &["--exact", "-s", "64KiB"]);
    assert!(plan["predicted"]["budget_share"].is_null(), "{plan}");
    assert!(plan["predicted"]["work_seen"].is_null(), "{plan}");
    assert_eq!(plan["predicted"]["sample_bytes"], 65_536);
    let text = command(&["attach", "-p", &target.pid().to_string(), "--dry-run"]).stdout;
    for part in ["\nPredicted cost, from its calls in ", "budget of 5 %", "traced in windows"] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    assert!(target.is_alive());
}

#[test]
fn a_dry_run_predicts_that_an_idle_program_is_traced_all_the_time() {
    let mut target = Target::start::<&str>(&program("leak_three.c"), &[]);
    let (_, plan) = dry_run(target.pid(), &[]);
    let predicted = &plan["predicted"];
    assert_eq!(predicted["allocations_per_s"], 0.0, "{plan}");
    assert_eq!(predicted["frees_per_s"], 0.0, "{plan}");
    assert_eq!(
        (&predicted["target_cpu_share"], &predicted["work_seen"]),
        (&0.0.into(), &1.0.into())
    );
    // It counted for as long as it may, and no longer than a loaded machine makes that.
    assert!((0.1..10.0).contains(&predicted["counted_s"].as_f64().unwrap()), "{plan}");
    assert!(target.is_alive());
}

#[test]
fn doctor_predicts_what_tracing_a_process_costs() {
    let target = Target::start(&program("load.c"), &[counter().path()]);
    let ended = command(&["doctor", "-p", &target.pid().to_string()]);
    ended.assert_code(0);
    let line = ended.stdout.lines().find(|line| line.starts_with("ok  predicted cost"));
    let line = line.unwrap_or_else(|| panic!("no prediction:\n{}", ended.stdout));
    assert!(line.contains("% of its CPU time") && line.contains("allocations/s"), "{line}");
    assert!(line.contains("in windows") && line.contains("under a budget of 5 %"), "{line}");
}

#[test]
fn a_budget_and_a_sample_that_make_no_sense_are_2() {
    let refused = |options: &[&str], says: &str| {
        let ended = command(&[&["-p", "1"], options].concat());
        ended.assert_code(2);
        assert!(ended.stderr.contains(says), "no {says:?} in:\n{}", ended.stderr);
        assert_eq!(ended.stdout, "");
    };
    refused(&["--max-overhead", "0"], "more than 0 %");
    refused(&["--max-overhead", "101%"], "at most 100 %");
    refused(&["--max-overhead", "little"], "is no percentage");
    refused(&["--max-overhead", "5%", "--exact"], "cannot be used with");
    refused(&["--sample", "often"], "is no size");
    refused(&["--sample", "8GiB"], "out of range");
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
    let words: Vec<&str> = ended.stdout.split_whitespace().collect();
    let blamed =
        words.windows(2).any(|two| two[0].contains(DEMO_LEAKING_FUNCTION) && two[1] == "leaks.");
    assert!(blamed, "{}", ended.stdout);
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
