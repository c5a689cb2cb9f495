//! Do the books stay exact, and the target unharmed, when it allocates without pause?

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::processes::{DEADLINE, Target, wait_until};
use crate::programs::program;
use crate::report::{names, unix_ns};
use crate::trace::Trace;

/// One of these at a time: each wants the processors for itself.
fn alone() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The u64 at `offset` of a file that the target has mapped.
fn shared_u64(file: &File, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset).unwrap();
    u64::from_ne_bytes(bytes)
}

/// Bytes that `three_paths.c` had leaked at a time of day, by its own log.
fn leaked_until(log: &File, unix_ns: u64) -> u64 {
    let entries = (0..1 << 16).map(|index| index * 16);
    entries
        .map(|offset| (shared_u64(log, offset), shared_u64(log, offset + 8)))
        .take_while(|&(at_ns, _)| at_ns != 0 && at_ns <= unix_ns)
        .last()
        .map_or(0, |(_, leaked_bytes)| leaked_bytes)
}

#[test]
fn the_leaking_path_of_three_comes_first_with_its_bytes_within_a_percent() {
    let _alone = alone();
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut target = Target::start(&program("three_paths.c"), &[log.path()]);
    let mut trace = Trace::attach(&target, &["--duration", "10s"]);
    let report = trace.report();
    let pairs = target.work().get("pairs");
    report.assert_complete();
    assert_eq!(report.text("/trace/ended_by"), "duration");

    let top = &report.stacks()[0];
    assert_eq!(names(top)[..2], ["path_b", "handle_b"], "{top:#}");
    let began_ns = unix_ns(report.text("/trace/started_at"));
    let traced = Duration::from_secs_f64(report.at("/trace/duration_s").as_f64().unwrap());
    assert!((9.5..12.0).contains(&traced.as_secs_f64()), "{traced:?}");
    let ended_ns = began_ns + u64::try_from(traced.as_nanos()).unwrap();
    let leaked = leaked_until(log.as_file(), ended_ns) - leaked_until(log.as_file(), began_ns);
    assert!(leaked > 9 << 20, "the program fell behind its own pace: {leaked} bytes");
    let outstanding = top["outstanding_bytes"].as_u64().unwrap();
    assert!(
        outstanding.abs_diff(leaked) * 100 <= leaked,
        "outstanding {outstanding}, leaked {leaked} bytes; {pairs} pairs"
    );
    let growth = top["growth_bytes_per_s"].as_f64().unwrap();
    assert!((0.8..1.2).contains(&(growth / f64::from(1 << 20))), "1 MiB/s, not {growth} bytes/s");
    for path in ["path_a", "path_c", "churn"] {
        let held = report.held_by(path);
        assert!(held.blocks <= 2, "{path} holds nothing but what is in flight: {held:?}");
    }
    // The pace needs 50,000 pairs/s; a trace that slowed the target down would show here.
    let allocs = report.number("/health/allocs");
    assert!(allocs > 9 * 50_000, "{allocs} allocations in {traced:?}");
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
        let output = Command::new("bpftool")
            .args(["--json", kind, "show"])
            .output()
            .expect("needs bpftool: apt-get install bpftool");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        ids.extend(list.as_array().unwrap().iter().map(|it| (kind, it["id"].as_u64().unwrap())));
    }
    ids
}

/// The probes set up by name, if tracefs is mounted.
fn named_uprobes() -> String {
    fs::read_to_string("/sys/kernel/tracing/uprobe_events").unwrap_or_default()
}

/// How long the target takes for so many more pairs.
fn time_for_pairs(counter: &File, more: u64) -> Duration {
    let began = Instant::now();
    let goal = shared_u64(counter, 0) + more;
    wait_until(DEADLINE, "the target goes on counting", || shared_u64(counter, 0) >= goal);
    began.elapsed()
}

/// Starts the load; its counter in `file`.
fn start_load(file: &Path) -> (Target, File) {
    let target = Target::start(&program("load.c"), &[file]);
    (target, File::open(file).unwrap())
}

#[test]
fn a_killed_leaktrace_leaves_no_probe_behind_and_the_target_at_full_speed() {
    const PAIRS: u64 = 2_000_000;
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    let (mut target, counter) = start_load(file.path());
    let places = [target.ready.get("malloc"), target.ready.get("free")];
    let untouched = places.map(|place| target.code_at(place));
    let uprobes = named_uprobes();
    let before = time_for_pairs(&counter, PAIRS);
    for round in 0..20 {
        let mut trace = Trace::attach(&target, &[]);
        let ours = bpf_ids(trace.pid());
        assert!(ours.iter().any(|(kind, _)| *kind == "prog"), "no BPF program of leaktrace's seen");
        let traced = places.map(|place| target.code_at(place));
        assert!(
            std::iter::zip(traced, untouched).all(|(traced, untouched)| traced != untouched),
            "a probe in malloc and one in free"
        );
        time_for_pairs(&counter, 1000);
        trace.kill();
        wait_until(DEADLINE, "no program or link is left", || all_bpf_ids().is_disjoint(&ours));
        wait_until(DEADLINE, "malloc and free are as they were", || {
            places.map(|place| target.code_at(place)) == untouched
        });
        time_for_pairs(&counter, PAIRS);
        assert!(target.is_alive(), "after kill {round}");
    }
    assert_eq!(named_uprobes(), uprobes);
    // A probe left behind costs 50 times as much at least; a busy machine does not.
    let after = time_for_pairs(&counter, PAIRS);
    assert!(after < before * 10, "{PAIRS} pairs took {before:?} before, {after:?} after");
}

#[test]
fn a_clean_detach_under_load_leaves_no_probe_behind() {
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    let (mut target, counter) = start_load(file.path());
    let places = [target.ready.get("malloc"), target.ready.get("free")];
    let untouched = places.map(|place| target.code_at(place));
    for _ in 0..3 {
        let mut trace = Trace::attach(&target, &[]);
        let ours = bpf_ids(trace.pid());
        time_for_pairs(&counter, 100_000);
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
