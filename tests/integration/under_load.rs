//! Do the books stay exact, and the target unharmed, when it allocates without pause?

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::processes::{DEADLINE, Target, alone, wait_for, wait_until};
use crate::programs::program;
use crate::report::{Report, names};
use crate::shared::{Pairs, leaked_in, start_load};
use crate::trace::Trace;

/// Outstanding bytes of the stack on top.
fn outstanding(report: &Report) -> u64 {
    report.number("/stacks/0/outstanding_bytes")
}

#[test]
fn the_leaking_path_of_three_comes_first_with_its_bytes_within_a_percent() {
    let _alone = alone();
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut target = Target::start(&program("three_paths.c"), &[log.path()]);
    // The log and the trace tell the time of their ends apart from what they count: where the machine
    // stands still between the two, another trace is to be.
    let (report, leaked) = (0..3)
        .map(|_| {
            let report = Trace::attach(&target, &["--duration", "10s"]).report();
            report.assert_complete();
            let leaked = leaked_in(log.as_file(), &report);
            println!("{} bytes outstanding, {leaked} leaked", outstanding(&report));
            (report, leaked)
        })
        .find(|(report, leaked)| outstanding(report).abs_diff(*leaked) * 100 <= *leaked)
        .expect("outstanding bytes within 1 % of what was leaked, in one of three traces");
    target.work();
    assert_eq!(report.text("/trace/ended_by"), "duration");

    let top = &report.stacks()[0];
    assert_eq!(names(top)[..2], ["path_b", "handle_b"], "{top:#}");
    let traced_s = report.at("/trace/duration_s").as_f64().unwrap();
    assert!((9.5..20.0).contains(&traced_s), "{traced_s}");
    assert!(leaked > 5 << 20, "the program fell behind its own pace: {leaked} bytes");
    let growth = top["growth_bytes_per_s"].as_f64().unwrap();
    assert!((0.8..1.2).contains(&(growth / f64::from(1 << 20))), "1 MiB/s, not {growth} bytes/s");
    for path in ["path_a", "path_c", "churn"] {
        let held = report.held_by(path);
        assert!(held.blocks <= 2, "{path} holds nothing but what is in flight: {held:?}");
    }
    // The pace needs 50,000 pairs/s; a trace that slowed the target down would show here, and so does
    // a machine that is half as fast.
    let allocs = report.number("/health/allocs");
    assert!(allocs as f64 > 0.5 * 50_000.0 * traced_s, "{allocs} allocations in {traced_s} s");
}

/// Ids of the BPF programs and links that a process holds open.
fn bpf_ids(pid: u32) -> BTreeSet<(&'static str, u64)> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap() {
        let info = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        for line in info.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let kind = match key {
                "prog_id" => "prog",
                "link_id" => "link",
                _ => continue,
            };
            ids.insert((kind, value.trim().parse().unwrap()));
        }
    }
    ids
}

/// Ids of all BPF programs and links there are.
fn all_bpf_ids() -> BTreeSet<(&'static str, u64)> {
    let mut ids = BTreeSet::new();
    for kind in ["prog", "link"] {
        // It fails while a link of another test's is half made.
        let list: Value = wait_for(DEADLINE, "a list of BPF objects", || {
            let output = Command::new("bpftool")
                .args(["--json", kind, "show"])
                .output()
                .expect("needs bpftool: apt-get install bpftool");
            print!("{}", String::from_utf8_lossy(&output.stderr));
            output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
        });
        ids.extend(list.as_array().unwrap().iter().map(|it| (kind, it["id"].as_u64().unwrap())));
    }
    ids
}

/// How long the target takes for so many more pairs.
fn time_for_pairs(pairs: &Pairs, more: u64) -> Duration {
    let began = Instant::now();
    let goal = pairs.done() + more;
    wait_until(DEADLINE, "the target goes on counting", || pairs.done() >= goal);
    began.elapsed()
}

#[test]
fn a_killed_leaktrace_leaves_no_probe_behind_and_the_target_at_full_speed() {
    const PAIRS: u64 = 2_000_000;
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    let (mut target, pairs) = start_load(file.path());
    let places = [target.ready.get("malloc"), target.ready.get("free")];
    let untouched = places.map(|place| target.code_at(place));
    let before = time_for_pairs(&pairs, PAIRS);
    for round in 0..20 {
        let mut trace = Trace::attach(&target, &[]);
        let ours = bpf_ids(trace.pid());
        assert!(ours.iter().any(|(kind, _)| *kind == "prog"), "no BPF program of leaktrace's seen");
        let traced = places.map(|place| target.code_at(place));
        assert!(
            std::iter::zip(traced, untouched).all(|(traced, untouched)| traced != untouched),
            "a probe in malloc and one in free"
        );
        time_for_pairs(&pairs, 1000);
        trace.kill();
        wait_until(DEADLINE, "no program or link is left", || all_bpf_ids().is_disjoint(&ours));
        wait_until(DEADLINE, "malloc and free are as they were", || {
            places.map(|place| target.code_at(place)) == untouched
        });
        time_for_pairs(&pairs, PAIRS);
        assert!(target.is_alive(), "after kill {round}");
    }
    // A probe left behind costs 50 times as much at least, each time; a busy machine does not.
    let after = (0..5).map(|_| time_for_pairs(&pairs, PAIRS)).min().unwrap();
    assert!(after < before * 10, "{PAIRS} pairs took {before:?} before, {after:?} after");
}

#[test]
fn a_clean_detach_under_load_leaves_no_probe_behind() {
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    let (mut target, pairs) = start_load(file.path());
    let places = [target.ready.get("malloc"), target.ready.get("free")];
    let untouched = places.map(|place| target.code_at(place));
    for _ in 0..3 {
        let mut trace = Trace::attach(&target, &[]);
        let ours = bpf_ids(trace.pid());
        time_for_pairs(&pairs, 100_000);
        let report = trace.interrupt();
        report.assert_complete();
        // Two threads, one block each at most.
        assert!(report.held_by("pair").blocks <= 2, "{:?}", report.held_by("pair"));
        assert!(report.number("/health/allocs") >= 50_000);
        // The code is as it was when leaktrace ends; the kernel frees programs and maps later.
        assert_eq!(places.map(|place| target.code_at(place)), untouched);
        wait_until(DEADLINE, "leaktrace's BPF objects are gone", || {
            all_bpf_ids().is_disjoint(&ours)
        });
    }
    assert!(target.is_alive());
}
