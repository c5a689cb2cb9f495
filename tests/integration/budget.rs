//! Is a budget kept, and what the report says right, when probes are in for a while and out for a
//! while? On live processes; how far estimates are off on recorded ones is asked in `windows`.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::processes::{DEADLINE, Target, alone, wait_until};
use crate::programs::program;
use crate::report::{Held, Report, names};
use crate::shared::{Pairs, leaked_in, start_load};
use crate::trace::Trace;

const BUDGET: &[&str] = &["--max-overhead", "5%"];

/// What the budget may be exceeded by: the first window is on credit, and two looks are 5 ms apart
/// at the least.
const TOLERANCE: f64 = 0.015;

/// CPU time that a process has used.
fn cpu_ns(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads
        .map(|thread| fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap())
        .map(|stat| stat.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

fn kind(stack: &Value) -> &str {
    stack["verdict"]["kind"].as_str().unwrap()
}

/// The functions that allocate on stacks with the verdict `growing`.
fn growing(report: &Report) -> Vec<&str> {
    let stacks = report.stacks().iter().filter(|stack| kind(stack) == "growing");
    stacks.map(|stack| names(stack).first().copied().unwrap_or("?")).collect()
}

/// What a report says, without its frames.
fn brief(report: &Report) -> String {
    let mut text = format!("{}\n{}\n", report.at("/cost"), report.at("/health"));
    for stack in report.stacks() {
        let mut figures = stack.as_object().unwrap().clone();
        figures.remove("frames");
        text += &format!("{:?} {}\n", names(stack), Value::Object(figures));
    }
    text
}

/// A 0-to-1 figure of the bill.
fn share(report: &Report, pointer: &str) -> f64 {
    report.at(pointer).as_f64().unwrap_or_else(|| panic!("no {pointer}: {}", report.at("/cost")))
}

fn assert_budget_kept(report: &Report) {
    assert!((share(report, "/cost/budget_share") - 0.05).abs() < 1e-9);
    let spent = share(report, "/cost/target_cpu_share");
    assert!(spent <= 0.05 + TOLERANCE, "{spent} in probes: {:#}", report.at("/cost"));
    let windows = report.at("/cost/windows");
    assert!(windows["opened"].as_u64().unwrap() > 1, "{windows}");
    assert!(windows["closed_s"].as_f64().unwrap() > 0.0, "{windows}");
}

/// The function of a target whose code tells whether probes are in.
struct Probed {
    place: u64,
    untouched: [u8; 64],
}

impl Probed {
    fn malloc(target: &Target) -> Self {
        let place = target.ready.get("malloc");
        Self { place, untouched: target.code_at(place) }
    }

    fn is_in(&self, target: &Target) -> bool {
        target.code_at(self.place) != self.untouched
    }

    fn wait(&self, target: &Target, is_in: bool) {
        let what = if is_in { "a window opens" } else { "the window closes" };
        wait_until(DEADLINE, what, || self.is_in(target) == is_in);
    }
}

#[test]
fn a_quiet_program_is_traced_exactly_under_the_default_budget() {
    let mut target = Target::start::<&str>(&program("leak_three.c"), &[]);
    let args = ["attach", "-p", &target.pid().to_string(), "-o", "report.json"];
    let mut trace = Trace::start(&args);
    trace.wait_for_tracing();
    target.work();
    let report = trace.interrupt();
    report.assert_complete();
    report.assert_every_free_matched();
    assert_eq!(report.text("/trace/mode"), "exact");
    assert_eq!(report.held_by("leak_here"), Held { bytes: 12_288, blocks: 3 });
    assert_eq!(report.totals(), Held { bytes: 12_288, blocks: 3 });
    assert!((share(&report, "/cost/budget_share") - 0.05).abs() < 1e-9);
    assert_eq!(report.number("/cost/windows/opened"), 1);
    assert_eq!(report.at("/stacks/0/interval"), &Value::Null);
}

/// Traces the server for so long, and looks at everything that the report says of its leak.
fn check_server(threads: &str, requests_per_s: &str, leak_per_s: u64, trace_for: &str) {
    let _alone = alone();
    let log = tempfile::NamedTempFile::new().unwrap();
    let threads_leak = leak_per_s / threads.parse::<u64>().unwrap();
    let file = log.path().to_str().unwrap();
    let args = [file, threads, requests_per_s, &threads_leak.to_string()];
    let mut target = Target::start(&program("small_server.c"), &args);
    let mut trace = Trace::attach(&target, &[BUDGET, &["--duration", trace_for]].concat());
    let report = trace.report();
    let requests = target.work().get("requests");
    report.assert_complete();
    assert_eq!(report.text("/trace/mode"), "windowed");
    assert_budget_kept(&report);

    let leaked = leaked_in(log.as_file(), &report);
    let seconds = report.at("/trace/duration_s").as_f64().unwrap();
    let says = format!("leaked {leaked} in {seconds} s, {requests} requests; {}", brief(&report));
    let top = &report.stacks()[0];
    assert_eq!(names(top)[..2], ["append_to_log", "handle"], "{says}");
    assert_eq!(growing(&report), ["append_to_log"], "{says}");
    let rate = leaked as f64 / seconds;
    let growth = top["growth_bytes_per_s"].as_f64().unwrap();
    assert!((0.8..1.2).contains(&(growth / rate)), "{growth} bytes/s of {rate}: {says}");
    let outstanding = top["outstanding_bytes"].as_u64().unwrap();
    let [low, high] = ["low_bytes", "high_bytes"].map(|end| top["interval"][end].as_u64().unwrap());
    assert!(low <= outstanding && outstanding <= high, "{says}");
    assert!(
        (low..=high).contains(&leaked) || outstanding.abs_diff(leaked) * 5 <= leaked,
        "{low} to {high}: {says}"
    );
    assert!(target.end().success());
}

#[test]
fn a_leak_in_a_busy_server_is_on_top_with_its_rate() {
    check_server("1", "2000", 1 << 20, "45s");
}

#[test]
fn a_leak_that_eight_threads_share_is_on_top_with_its_rate() {
    check_server("8", "500", 2 << 20, "40s");
}

/// Pairs that a target completes in a second of its CPU time while `during` goes on.
fn pace(target: &Target, pairs: &Pairs, during: impl FnOnce()) -> f64 {
    let before = (pairs.done(), cpu_ns(target.pid()));
    during();
    let after = (pairs.done(), cpu_ns(target.pid()));
    (after.0 - before.0) as f64 / (after.1 - before.1) as f64 * 1e9
}

fn middle(mut of_three: [f64; 3]) -> f64 {
    of_three.sort_by(f64::total_cmp);
    of_three[1]
}

/// Lets the target use so much CPU time.
fn let_run(target: &Target, cpu: Duration) {
    let end = cpu_ns(target.pid()) + u64::try_from(cpu.as_nanos()).unwrap();
    wait_until(DEADLINE, "the target uses CPU time", || cpu_ns(target.pid()) >= end);
}

#[test]
fn a_program_that_does_nothing_but_allocate_keeps_its_pace() {
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    let (mut target, pairs) = start_load(file.path());
    let malloc = Probed::malloc(&target);
    let (mut untraced, mut traced) = ([0.0; 3], [0.0; 3]);
    for round in 0..3 {
        untraced[round] = pace(&target, &pairs, || let_run(&target, Duration::from_secs(4)));
        let mut report = None;
        // Its beginning and its end are part of what a trace costs.
        traced[round] = pace(&target, &pairs, || {
            let mut trace = Trace::attach(&target, BUDGET);
            for _ in 0..3 {
                malloc.wait(&target, false);
                malloc.wait(&target, true);
            }
            let_run(&target, Duration::from_secs(10));
            report = Some(trace.interrupt());
        });
        let report = report.unwrap();
        report.assert_complete();
        assert_eq!(report.text("/trace/mode"), "windowed");
        assert_budget_kept(&report);
        assert_eq!(growing(&report), [""; 0], "{}", brief(&report));
        assert!(!malloc.is_in(&target), "a probe is left behind");
    }
    let kept = middle(traced) / middle(untraced);
    // The machine's own pace may change meanwhile, with what else runs on it.
    let lowest = untraced.into_iter().fold(f64::INFINITY, f64::min);
    let steady = lowest / untraced.into_iter().fold(0.0, f64::max);
    assert!(
        kept >= 0.85 * steady,
        "{kept} of its pace: {traced:?} of {untraced:?} pairs per CPU second"
    );
    assert!(target.is_alive());
}

#[test]
fn windows_stay_open_again_when_a_busy_time_is_over() {
    let _alone = alone();
    let mut target = Target::start::<&str>(&program("busy_for_a_while.c"), &[]);
    let malloc = Probed::malloc(&target);
    let mut trace = Trace::attach(&target, BUDGET);
    assert_eq!(target.work().get("leaked_blocks"), 5);
    assert!(malloc.is_in(&target), "nothing costs anything yet");
    target.go();
    malloc.wait(&target, false);
    target.done();
    // Open for twice as long as a period is: not one window of many.
    let mut open_since = Instant::now();
    // What the busy time overdrew is earned again by a program that rests.
    wait_until(DEADLINE * 2, "a window stays open", || {
        if !malloc.is_in(&target) {
            open_since = Instant::now();
        }
        open_since.elapsed() > Duration::from_secs(7)
    });
    assert_eq!(target.work().get("leaked_blocks"), 7);
    let report = trace.interrupt();
    report.assert_complete();
    assert_eq!(report.text("/trace/mode"), "windowed");
    assert_eq!(report.held_by("leak_afterwards"), Held { bytes: 7000, blocks: 7 });
    assert_eq!(growing(&report), [""; 0], "{}", brief(&report));
    assert!(target.end().success());
}

#[test]
fn a_killed_leaktrace_leaves_no_probe_behind_in_any_phase_of_a_window() {
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    let (mut target, pairs) = start_load(file.path());
    let places = [target.ready.get("malloc"), target.ready.get("free")];
    let untouched = places.map(|place| target.code_at(place));
    for round in 0..20 {
        let mut trace = Trace::attach(&target, BUDGET);
        // Some moment of the first three seconds; a period is two. No rhythm is kept with it.
        thread::sleep(Duration::from_millis(round * 1379 % 3000));
        trace.kill();
        wait_until(DEADLINE, "malloc and free are as they were", || {
            places.map(|place| target.code_at(place)) == untouched
        });
        let goal = pairs.done() + 100_000;
        wait_until(DEADLINE, "the target goes on", || pairs.done() >= goal);
        assert!(target.is_alive(), "after kill {round}");
    }
}

#[test]
fn reports_and_counting_afresh_work_in_any_phase_of_a_window() {
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    let (target, _pairs) = start_load(file.path());
    let malloc = Probed::malloc(&target);
    let mut trace = Trace::attach(&target, BUDGET);
    for round in 0..12 {
        malloc.wait(&target, round % 2 == 0);
        thread::sleep(Duration::from_millis(round * 7));
        trace.report_now();
        if round % 4 < 2 {
            trace.signal(libc::SIGUSR2);
        }
    }
    // Counted afresh, and governed again.
    malloc.wait(&target, false);
    malloc.wait(&target, true);
    malloc.wait(&target, false);
    let report = trace.interrupt();
    report.assert_complete();
    assert_eq!(report.text("/trace/mode"), "windowed");
    assert_eq!(growing(&report), [""; 0], "{}", brief(&report));
    assert!(!malloc.is_in(&target), "a probe is left behind");
}

/// The target calls exec while its probes are in, or out; it is quiet afterwards.
fn check_exec(is_in: bool) {
    let _alone = alone();
    let mut target = Target::start::<&str>(&program("hot_until_exec.c"), &[]);
    let malloc = Probed::malloc(&target);
    let mut trace = Trace::attach(&target, BUDGET);
    malloc.wait(&target, false);
    malloc.wait(&target, true);
    malloc.wait(&target, false);
    malloc.wait(&target, is_in);
    target.go();
    target.ready_again();
    trace.wait_for_tracing();
    target.work();
    let report = trace.interrupt();
    assert_eq!(report.held_by("leak_after_exec"), Held { bytes: 20_000, blocks: 4 });
    assert_eq!(report.totals(), Held { bytes: 20_000, blocks: 4 }, "{}", brief(&report));
    assert!(target.end().success());
}

#[test]
fn a_target_that_execs_while_its_probes_are_out_is_traced_on() {
    check_exec(false);
}

#[test]
fn a_target_that_execs_while_its_probes_are_in_is_traced_on() {
    check_exec(true);
}

#[test]
fn a_target_that_ends_in_any_phase_of_a_window_leaves_a_report() {
    let _alone = alone();
    for round in 0..6 {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (mut target, _pairs) = start_load(file.path());
        let malloc = Probed::malloc(&target);
        let mut trace = Trace::attach(&target, BUDGET);
        malloc.wait(&target, false);
        malloc.wait(&target, round % 2 == 0);
        thread::sleep(Duration::from_millis(round * 5));
        if round < 3 {
            target.kill();
        } else {
            assert!(target.end().success());
        }
        let report = trace.report();
        assert_eq!(report.text("/trace/ended_by"), "target-exit");
        assert_eq!(report.text("/trace/mode"), "windowed");
        assert_eq!(growing(&report), [""; 0], "{}", brief(&report));
    }
}

#[test]
fn a_quiet_target_stays_exact_beside_a_busy_one() {
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    let (busy, _pairs) = start_load(file.path());
    let malloc = Probed::malloc(&busy);
    let mut quiet = Target::start(&program("two_faces.c"), &["first"]);
    let mut trace = Trace::attach_all(&[&busy, &quiet], BUDGET);
    malloc.wait(&busy, false);
    quiet.work();
    malloc.wait(&busy, true);
    malloc.wait(&busy, false);
    let report = trace.interrupt();
    report.assert_complete();
    assert_eq!(report.text("/trace/mode"), "windowed");
    assert_eq!(report.held_by("first_path"), Held { bytes: 11_110, blocks: 10 });
    let own = report.stacks().iter().filter(|stack| stack["pid"] == quiet.pid());
    assert!(own.into_iter().all(|stack| stack["interval"].is_null()), "{}", brief(&report));
    assert!(quiet.end().success());
}

#[test]
fn buffers_that_grow_by_realloc_and_are_all_freed_are_no_leak() {
    let _alone = alone();
    let target = Target::start::<&str>(&program("growing_buffers.c"), &[]);
    let mut trace = Trace::attach(&target, &[BUDGET, &["--duration", "40s"]].concat());
    let report = trace.report();
    report.assert_complete();
    assert_eq!(report.text("/trace/mode"), "windowed");
    assert_budget_kept(&report);
    assert_eq!(growing(&report), [""; 0], "{}", brief(&report));
    drop(target);
}
