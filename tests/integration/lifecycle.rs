//! Does a trace begin and end as its user asks, and as its target lives?

use std::fs;
use std::path::Path;

use crate::processes::{DEADLINE, Target, wait_until};
use crate::programs::program;
use crate::report::{Held, Report};
use crate::trace::Trace;

const THREE_BLOCKS: Held = Held { bytes: 12_288, blocks: 3 };

/// Lets three blocks leak, ends the trace by `end`, and looks at its report; the target lives on.
fn check_end(options: &[&str], ended_by: &str, end: impl FnOnce(&Trace)) {
    let mut target = Target::start::<&str>(&program("leak_three.c"), &[]);
    let mut trace = Trace::attach(&target, options);
    target.work();
    end(&trace);
    let report = trace.report();
    report.assert_complete();
    assert_eq!(report.text("/trace/ended_by"), ended_by);
    assert_eq!(report.held_by("leak_here"), THREE_BLOCKS);
    assert!(target.end().success());
}

#[test]
fn sigint_ends_a_trace_with_its_report() {
    check_end(&[], "signal", |trace| trace.signal(libc::SIGINT));
}

#[test]
fn sigterm_ends_a_trace_with_its_report() {
    check_end(&[], "signal", |trace| trace.signal(libc::SIGTERM));
}

#[test]
fn a_trace_ends_by_itself_when_its_time_is_up() {
    check_end(&["--duration", "3s"], "duration", |_| ());
}

#[test]
fn the_targets_end_is_the_end_of_the_trace() {
    let mut target = Target::start::<&str>(&program("leak_three.c"), &[]);
    let mut trace = Trace::attach(&target, &[]);
    target.work();
    assert!(target.end().success());
    let report = trace.report();
    report.assert_complete();
    assert_eq!(report.text("/trace/ended_by"), "target-exit");
    assert_eq!(report.held_by("leak_here"), THREE_BLOCKS, "named although the target is gone");
}

#[test]
fn a_killed_target_leaves_a_report() {
    let mut target = Target::start::<&str>(&program("leak_three.c"), &[]);
    let mut trace = Trace::attach(&target, &[]);
    target.work();
    target.kill();
    let report = trace.report();
    assert_eq!(report.text("/trace/ended_by"), "target-exit");
    assert_eq!(report.held_by("leak_here"), THREE_BLOCKS);
}

#[test]
fn a_target_that_execs_is_traced_on_in_its_new_image() {
    let mut target = Target::start::<&str>(&program("execs.c"), &[]);
    let mut trace = Trace::attach(&target, &[]);
    target.go();
    target.ready_again();
    trace.wait_for_tracing();
    target.work();
    let report = trace.interrupt();
    assert_eq!(report.held_by("leak_after_exec"), Held { bytes: 20_000, blocks: 4 });
    assert_eq!(report.held_by("leak_before_exec"), Held::default(), "that memory is gone");
    assert_eq!(report.totals(), Held { bytes: 20_000, blocks: 4 });
}

/// The outstanding bytes of the report at `path`, once there is one.
fn outstanding_at(path: &Path) -> Option<u64> {
    // An unfinished file is no report yet.
    let report = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    Some(Report(report).totals().bytes)
}

#[test]
fn sigusr1_writes_a_report_and_the_trace_goes_on() {
    let mut target = Target::start::<&str>(&program("phases.c"), &[]);
    let mut trace = Trace::attach(&target, &[]);
    target.work();
    trace.signal(libc::SIGUSR1);
    let path = trace.file("report.json");
    wait_until(DEADLINE, "a report with the first phase", || outstanding_at(&path) == Some(1000));
    target.work();
    assert_eq!(trace.interrupt().held_by("leak_phase"), Held { bytes: 2000, blocks: 2 });
}

#[test]
fn sigusr2_counts_afresh() {
    let mut target = Target::start::<&str>(&program("phases.c"), &[]);
    let mut trace = Trace::attach(&target, &[]);
    target.work();
    target.work();
    trace.signal(libc::SIGUSR2);
    let path = trace.file("report.json");
    wait_until(DEADLINE, "a report that begins at nothing", || {
        trace.signal(libc::SIGUSR1);
        outstanding_at(&path) == Some(0)
    });
    target.work();
    assert_eq!(trace.interrupt().held_by("leak_phase"), Held { bytes: 1000, blocks: 1 });
}

#[test]
fn two_processes_are_traced_at_once_and_told_apart() {
    let mut first = Target::start(&program("two_faces.c"), &["first"]);
    let mut second = Target::start(&program("two_faces.c"), &["second"]);
    let mut trace = Trace::attach_all(&[&first, &second], &[]);
    first.work();
    second.work();
    let report = trace.interrupt();
    report.assert_complete();
    let targets = report.at("/targets").as_array().unwrap();
    let mut pids: Vec<u64> = targets.iter().map(|it| it["pid"].as_u64().unwrap()).collect();
    pids.sort_unstable();
    let mut expected = [u64::from(first.pid()), u64::from(second.pid())];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    assert_eq!(report.held_by("first_path"), Held { bytes: 11_110, blocks: 10 });
    assert_eq!(report.held_by("second_path"), Held { bytes: 22_220, blocks: 10 });
    for stack in report.stacks() {
        let owner = match crate::report::names(stack)[0] {
            "first_path" => first.pid(),
            _ => second.pid(),
        };
        assert_eq!(stack["pid"], owner);
    }
}

#[test]
fn one_of_two_processes_may_end_before_the_other() {
    let mut first = Target::start(&program("two_faces.c"), &["first"]);
    let mut second = Target::start(&program("two_faces.c"), &["second"]);
    let mut trace = Trace::attach_all(&[&first, &second], &[]);
    first.work();
    assert!(first.end().success());
    second.work();
    let report = trace.interrupt();
    assert_eq!(report.text("/trace/ended_by"), "signal");
    assert_eq!(report.held_by("first_path"), Held { bytes: 11_110, blocks: 10 });
    assert_eq!(report.held_by("second_path"), Held { bytes: 22_220, blocks: 10 });
}
