//! Does a report say how far it can be trusted, and refuse a verdict where it cannot?

use std::collections::HashSet;

use serde_json::Value;

use crate::processes::{DEADLINE, Target, wait_until};
use crate::programs::{linked, program};
use crate::report::{Held, Report, names};
use crate::trace::{Ended, Trace};

fn trust(report: &Report) -> &Value {
    report.at("/health/trust")
}

fn reasons(report: &Report) -> Vec<&str> {
    let reasons = trust(report)["reasons"].as_array().unwrap();
    reasons.iter().map(|reason| reason.as_str().unwrap()).collect()
}

/// Enough for a verdict, with every entry point covered.
#[track_caller]
fn assert_enough(report: &Report) {
    let trust = trust(report);
    assert_eq!(trust["verdict"], "enough", "{trust}");
    assert_eq!(reasons(report), Vec::<&str>::new());
    let entry_points = &trust["entry_points"];
    assert_eq!(entry_points["found"], entry_points["covered"]);
    assert!(entry_points["found"].as_u64().unwrap() >= 4, "{trust}");
}

/// Not enough, for one reason that has `why` in it.
#[track_caller]
fn assert_not_enough(report: &Report, why: &str) {
    assert_eq!(trust(report)["verdict"], "not_enough", "{}", trust(report));
    let [reason] = reasons(report)[..] else { panic!("one reason: {}", trust(report)) };
    assert!(reason.contains(why), "{reason}");
    assert_eq!(report.at("/health/complete"), false);
}

/// Waits until all that the targets had before is known, which is read beside the trace.
fn wait_for_heaps(trace: &Trace) {
    wait_until(DEADLINE, "what was there before is known", || {
        !trust(&trace.report_now())["bytes_before"].is_null()
    });
}

/// Attaches to a program that is ready, lets it work, and ends the trace.
fn attach(target: &mut Target, options: &[&str]) -> (Ended, Report) {
    let mut trace = Trace::attach(target, options);
    wait_for_heaps(&trace);
    target.work();
    trace.signal(libc::SIGINT);
    let ended = trace.ended();
    let report = Report::read(&trace.file("report.json"));
    assert!(target.end().success());
    (ended, report)
}

fn run(program: &std::path::Path) -> (Ended, Report) {
    let program = program.to_str().unwrap();
    let mut trace = Trace::start(&["run", "--exact", "-o", "report.json", "--", program, "0"]);
    let ended = trace.ended();
    (ended, Report::read(&trace.file("report.json")))
}

#[test]
fn what_a_process_had_before_is_told_and_is_no_reason_for_distrust() {
    let mut target = Target::start::<&str>(&program("held_before.c"), &[]);
    let before = target.ready.get("before") as f64;
    let (ended, report) = attach(&mut target, &[]);
    ended.assert_code(0);
    assert_enough(&report);
    report.assert_complete();
    let trust = trust(&report);
    let told = trust["bytes_before"].as_f64().unwrap();
    assert!((told - before).abs() < 0.1 * before, "{told} of {before}");
    assert_eq!(trust["before"], "in_use");
    assert_eq!(trust["bytes_tracked"], 300_000);
    assert_eq!(trust["matched_share"], 0.75);
    assert_eq!(trust["reappeared_share"], 0.0);
    assert_eq!(trust["from_first_allocation"], false);
    assert_eq!(report.number("/health/unknown_frees"), 50);
    let points = trust["entry_points"]["found"].as_u64().unwrap();
    assert_eq!(trust["entry_points"]["covered"], points);
    let line = format!(
        "Trust:  {points} of {points} entry points; 75.00 % of frees matched; 0 reappeared;"
    );
    assert!(ended.stdout.contains(&line), "{}", ended.stdout);
}

/// Traces the allocator with two ways to free, of which one is not known.
fn twin(way: &str) -> (Ended, Report) {
    let mut target = Target::start(&linked("twin_free.c", "liballoc_twin.c"), &[way]);
    // A small table of stacks is looked at often, on a slow machine too.
    attach(&mut target, &["-o", "report.svg", "--max-stacks", "1024"])
}

#[test]
fn a_leak_beside_frees_that_are_seen_is_blamed() {
    let (ended, report) = twin("seen");
    ended.assert_code(0);
    assert_enough(&report);
    assert_eq!(report.held_by("leak"), Held { bytes: 300_000, blocks: 300 });
    let leak = report.stacks().iter().find(|stack| names(stack)[0] == "leak").unwrap();
    assert_eq!(leak["verdict"]["kind"], "growing", "{leak}");
    assert!(ended.stdout.contains("\nThe leak: leak ("), "{}", ended.stdout);
    // Of an allocator that is not glibc's, only the memory is known.
    assert_eq!(trust(&report)["before"], "mapped");
}

#[test]
fn frees_in_an_unknown_way_are_counted_and_nothing_is_blamed_for_certain() {
    let (ended, report) = twin("unseen");
    ended.assert_code(4);
    // Each short-lived block but the first comes in the place of the one before.
    assert_eq!(report.number("/health/reappeared"), 1199);
    assert_eq!(report.totals(), Held { bytes: 300_100, blocks: 301 });
    assert_not_enough(&report, "1,199 blocks were handed out again without a free seen, of 1,500");
    let share = trust(&report)["reappeared_share"].as_f64().unwrap();
    assert!((share - 1199.0 / 1500.0).abs() < 1e-9, "{share}");
    // It looks as it looks, but that is no verdict.
    for stack in report.stacks() {
        assert_eq!(stack["verdict"]["kind"], "undecided", "{stack}");
    }
    let leak = report.stacks().iter().find(|stack| names(stack)[0] == "leak").unwrap();
    let evidence = leak["verdict"]["evidence"].as_str().unwrap();
    assert!(evidence.starts_with("looks growing, but too little was seen"), "{evidence}");
    let said = "leaktrace: not enough for a verdict: 1,199 blocks were handed out again";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    let text = &ended.stdout;
    assert!(text.contains("\nNot enough for a verdict: 1,199 blocks were handed out"), "{text}");
    assert!(text.contains("\nTrust:  NOT ENOUGH for a verdict; "), "{text}");
    assert!(!text.contains("The leak: "), "{text}");
}

/// The budget made every free look as if it could have been missed, and the leaks of this program
/// were blamed, though no window had ever closed.
#[test]
fn frees_in_an_unknown_way_are_counted_under_a_budget_that_is_never_used_up() {
    let program = linked("twin_free.c", "liballoc_twin.c");
    for (way, code) in [("unseen", 4), ("seen", 0)] {
        let mut target = Target::start(&program, &[way]);
        let options = ["--max-overhead", "50%", "--max-stacks", "1024"];
        let (ended, report) = attach(&mut target, &options);
        ended.assert_code(code);
        assert_eq!(report.text("/trace/mode"), "exact");
        assert!(!trust(&report)["reappeared_share"].is_null());
        if way == "seen" {
            assert_enough(&report);
            assert_eq!(trust(&report)["matched_share"], 1.0);
        } else {
            assert_not_enough(&report, "1,199 blocks were handed out again without a free seen");
            assert!(!ended.stdout.contains("The leak: "), "{}", ended.stdout);
        }
    }
}

#[test]
fn an_entry_point_that_cannot_be_probed_is_one_short() {
    let program = linked("jump_new.cc", "liballoc_jump.cc");
    let mut target = Target::start::<&str>(&program, &[]);
    let (ended, report) = attach(&mut target, &[]);
    // It only allocates: what is blamed holds what it is said to hold.
    ended.assert_code(0);
    let entry_points = &trust(&report)["entry_points"];
    let found = entry_points["found"].as_u64().unwrap();
    assert_eq!(entry_points["covered"], found - 1, "{entry_points}");
    assert_eq!(report.at("/health/complete"), false);
    let failures = report.at("/health/probe_failures").as_array().unwrap();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0]["function"], "operator new(size_t)");
    assert_eq!(report.number("/health/unknown_frees"), 100);
    assert_eq!(report.totals(), Held { bytes: 5000, blocks: 10 });
    let line = format!("Trust:  {} of {found} entry points;", found - 1);
    assert!(ended.stdout.contains(&line), "{}", ended.stdout);
}

#[test]
fn blocks_of_an_entry_point_that_cannot_be_probed_show_from_the_first_allocation_on() {
    let (ended, report) = run(&linked("jump_new.cc", "liballoc_jump.cc"));
    ended.assert_code(4);
    assert_not_enough(&report, "100 blocks were freed whose allocation was not seen, of 100 frees");
}

#[test]
fn a_clean_command_is_trusted_in_full() {
    let (ended, report) = run(&program("clean.c"));
    ended.assert_code(0);
    assert_enough(&report);
    report.assert_complete();
    let trust = trust(&report);
    assert_eq!(trust["matched_share"], 1.0);
    assert_eq!(trust["reappeared_share"], 0.0);
    assert_eq!(trust["bytes_before"], 0);
    assert_eq!(trust["bytes_tracked"], report.number("/totals/outstanding_bytes"));
    assert_eq!(trust["from_first_allocation"], true);
    let text = &ended.stdout;
    assert!(text.contains("; 100 % of frees matched; 0 reappeared; "), "{text}");
    assert!(text.contains("from the first allocation on"), "{text}");
}

#[test]
fn an_allocator_that_obj_leaves_out_is_told() {
    let program = linked("jump_new.cc", "liballoc_jump.cc");
    let mut target = Target::start::<&str>(&program, &[]);
    let (ended, report) = attach(&mut target, &["--obj", "libc.so.6"]);
    ended.assert_code(0);
    assert_enough(&report);
    let notes: Vec<&str> =
        report.at("/health/notes").as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let told =
        |note: &&&str| note.starts_with("--obj left out ") && note.contains("/liballoc_jump.so");
    assert_eq!(notes.iter().filter(told).count(), 1, "{notes:?}");
    assert!(ended.stdout.contains("--obj left out "), "{}", ended.stdout);
}

#[test]
fn several_targets_are_one_sum() {
    let program = program("held_before.c");
    let mut targets = [(); 2].map(|()| Target::start::<&str>(&program, &[]));
    let before = targets.iter().map(|target| target.ready.get("before") as f64).sum::<f64>();
    let [first, second] = &mut targets;
    let mut trace = Trace::attach_all(&[first, second], &[]);
    wait_for_heaps(&trace);
    first.work();
    second.work();
    let report = trace.interrupt();
    let told = trust(&report)["bytes_before"].as_f64().unwrap();
    assert!((told - before).abs() < 0.1 * before, "{told} of {before}");
    assert_eq!(trust(&report)["bytes_tracked"], 600_000);
    let names: HashSet<&str> = report
        .at("/probes")
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|probe| probe["function"].as_str())
        .collect();
    // Each process has all of them.
    let found = trust(&report)["entry_points"]["found"].as_u64().unwrap();
    assert!(found.is_multiple_of(2) && found / 2 >= names.len() as u64, "{found}, {names:?}");
    let notes = report.at("/health/notes").as_array().unwrap();
    for pid in [first.pid(), second.pid()] {
        let lead = format!("process {pid} held_before had ");
        let told = notes.iter().filter_map(Value::as_str).filter(|note| note.starts_with(&lead));
        assert_eq!(told.count(), 1, "{notes:?}");
    }
}
