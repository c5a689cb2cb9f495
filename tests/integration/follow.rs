//! With `--follow`: are the children of a target traced from their first allocation, each for itself,
//! and does nothing of it stay?

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::processes::{DEADLINE, Target, wait_for, wait_until};
use crate::programs::{copy, leaktrace, program};
use crate::report::{Held, Report};
use crate::trace::Trace;

fn start(args: &[&str]) -> Target {
    Target::start(&program("fork_storm.c"), args)
}

fn follow(target: &Target, options: &[&str]) -> Trace {
    let mut all = vec!["--follow"];
    all.extend(options);
    Trace::attach(target, &all)
}

/// What the report says of children: seen, live, execed, missed.
fn children(report: &Report) -> [u64; 4] {
    ["seen", "live", "execed", "missed"].map(|of| report.number(&format!("/health/children/{of}")))
}

/// The definitions of uprobe events, as tracefs lists them.
fn uprobe_events() -> String {
    const FSCONFIG_CMD_CREATE: u32 = 6;
    // SAFETY: a string that outlives the calls, and descriptors that these make.
    let mount = unsafe {
        let context = libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), 1);
        assert!(context >= 0, "{}", io::Error::last_os_error());
        let context = OwnedFd::from_raw_fd(i32::try_from(context).unwrap());
        let fd = context.as_raw_fd();
        assert_eq!(
            libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, 0usize, 0usize, 0),
            0
        );
        let mount = libc::syscall(libc::SYS_fsmount, fd, 1, 0);
        assert!(mount >= 0, "{}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(i32::try_from(mount).unwrap())
    };
    fs::read_to_string(format!("/proc/self/fd/{}/uprobe_events", mount.as_raw_fd())).unwrap()
}

fn has_definitions(leaktrace: u32) -> bool {
    uprobe_events().contains(&format!("leaktrace_{leaktrace}_"))
}

#[test]
fn each_worker_s_blocks_are_its_own() {
    let mut target = start(&["workers"]);
    let mut trace = follow(&target, &[]);
    assert!(has_definitions(trace.pid()));
    target.work();
    let report = trace.interrupt();
    report.assert_complete();
    assert_eq!(report.held_under("parent_leaks"), Held { bytes: 300, blocks: 3 });
    assert_eq!(report.held_under("worker_leaks"), Held { bytes: 22_000, blocks: 22 });
    assert_eq!(report.totals(), Held { bytes: 22_300, blocks: 25 });
    assert_eq!(children(&report), [2, 2, 0, 0]);
    assert_eq!(report.number("/health/allocs"), 25);
    assert_eq!(report.number("/target/pid"), u64::from(target.pid()), "children are no targets");
    assert!(!has_definitions(trace.pid()));
    assert!(target.end().success());
}

#[test]
fn what_workers_held_is_gone_when_they_end() {
    let mut target = start(&["workers"]);
    let mut trace = follow(&target, &[]);
    target.work();
    assert!(target.end().success());
    let report = trace.report();
    report.assert_complete();
    assert_eq!(report.text("/trace/ended_by"), "target-exit");
    assert_eq!(report.totals(), Held { bytes: 300, blocks: 3 });
    assert_eq!(report.number("/totals/allocated_blocks"), 25);
    assert_eq!(report.number("/totals/freed_blocks"), 22);
    assert_eq!(children(&report), [2, 0, 0, 0]);
}

#[test]
fn a_child_that_frees_what_it_began_with_takes_nothing_from_its_parent() {
    let mut target = start(&["inherit"]);
    let mut trace = follow(&target, &[]);
    target.work();
    let report = trace.interrupt();
    report.assert_complete();
    assert_eq!(report.held_under("parent_keeps"), Held { bytes: 1000, blocks: 5 });
    assert_eq!(report.held_under("worker_leaks"), Held { bytes: 2000, blocks: 2 });
    assert_eq!(report.number("/health/inherited_frees"), 5);
    assert_eq!(report.number("/health/unknown_frees"), 0);
    assert_eq!(report.number("/health/frees"), 5);
}

#[test]
fn grandchildren_are_followed_when_their_parent_is_gone() {
    let mut target = start(&["grandchildren"]);
    let mut trace = follow(&target, &[]);
    target.work();
    let report = trace.interrupt();
    report.assert_complete();
    assert_eq!(report.held_under("grandchild_leaks"), Held { bytes: 1000, blocks: 20 });
    assert_eq!(report.held_under("worker_leaks"), Held::default());
    assert_eq!(report.number("/totals/allocated_blocks"), 30);
    assert_eq!(children(&report), [2, 1, 0, 0]);
}

/// The kernel has two tasks that are alike exchange their perf events, and takes the breakpoints of one
/// that ends out of the other then. The option holds events as before Linux 6.12.
#[test]
fn a_worker_keeps_its_probes_when_helpers_that_it_forked_end_on_another_cpu() {
    for options in [&[][..], &["--perf-links"]] {
        let mut target = start(&["helpers"]);
        let mut trace = follow(&target, options);
        target.work();
        // Each report looks which children there are.
        assert_eq!(children(&trace.report_now()), [1, 1, 0, 0]);
        target.work();
        let report = trace.interrupt();
        report.assert_complete();
        let held = report.held_under("outlive_helpers");
        assert_eq!(held, Held { bytes: 30_000, blocks: 30 }, "{options:?}");
        assert_eq!(children(&report), [11, 1, 0, 0]);
    }
}

#[test]
fn any_thread_may_fork() {
    let mut target = start(&["thread"]);
    let mut trace = follow(&target, &[]);
    target.work();
    let report = trace.interrupt();
    report.assert_complete();
    assert_eq!(report.held_under("of_thread_leaks"), Held { bytes: 490, blocks: 7 });
    assert_eq!(children(&report), [1, 1, 0, 0]);
}

/// A command under `run` whose children exec, and what the report says of it.
fn execs_of_run(program: &Path, args: &[&OsStr]) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.json");
    let mut run = Command::new(leaktrace());
    run.args(["run", "--follow", "-q", "--top", "1000", "-o"]).arg(&path);
    run.arg("--").arg(program).arg("exec").args(args);
    // The command talks through what leaktrace was given.
    let mut target = Target::spawn(&mut run);
    target.work();
    let pid = i32::try_from(target.pid()).unwrap();
    // SAFETY: no pointers; the process is a child that was not waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGUSR1) }, 0);
    let written = || fs::read_to_string(&path).is_ok_and(|text| text.trim_end().ends_with('}'));
    wait_until(DEADLINE, "a report", written);
    let report = Report::read(&path);
    assert!(target.end().success());
    report
}

#[test]
fn what_a_child_of_run_executes_is_traced_from_its_first_allocation() {
    let report = execs_of_run(&program("fork_storm.c"), &[]);
    report.assert_complete();
    assert_eq!(report.held_under("leaf_leaks"), Held { bytes: 49 * 40, blocks: 49 });
    assert_eq!(children(&report), [3, 3, 3, 0]);
}

/// The kernel takes all events from a process that becomes another user by its exec.
#[test]
fn a_program_that_changes_its_user_is_traced_from_its_first_allocation_too() {
    const NOBODY: u32 = 65534;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let other = dir.path().join("other_user");
    copy(program("fork_storm.c"), &other);
    std::os::unix::fs::chown(&other, Some(NOBODY), None).unwrap();
    fs::set_permissions(&other, Permissions::from_mode(0o4755)).unwrap();
    let report = execs_of_run(&program("fork_storm.c"), &[other.as_os_str()]);
    report.assert_complete();
    assert_eq!(report.held_under("leaf_leaks"), Held { bytes: 49 * 40, blocks: 49 });
    assert_eq!(children(&report), [3, 3, 3, 0]);
}

/// Each exec stops a child until its probes are in: whenever leaktrace is killed, it goes on.
#[test]
fn no_child_stays_held_when_leaktrace_is_killed() {
    for tenths in [6, 10, 14] {
        let mut run = Command::new(leaktrace());
        run.args(["run", "--follow", "-q", "--"])
            .arg(program("fork_storm.c"))
            .args(["execs", "12"]);
        let mut target = Target::spawn(&mut run);
        target.go();
        let begun = Instant::now();
        let moment = Duration::from_millis(100 * tenths);
        wait_until(DEADLINE, "the moment has come", || begun.elapsed() > moment);
        let leaktrace = target.pid();
        target.kill();
        assert_eq!(target.done().get("children"), 12);
        wait_until(DEADLINE, "the definitions are gone", || !has_definitions(leaktrace));
    }
}

/// A child that loads a library is not like its parent any more.
#[test]
fn the_stacks_of_a_child_lead_through_the_libraries_that_it_has_loaded() {
    let mut target = start(&["dlopen"]);
    let mut trace = follow(&target, &[]);
    let under = |report: &Report| report.held_under("child_demangles").blocks;
    let known = wait_for(DEADLINE, "a whole stack", || {
        target.work();
        Some(under(&trace.report_now())).filter(|blocks| *blocks > 0)
    });
    for _ in 0..5 {
        target.work();
    }
    let report = trace.interrupt();
    assert_eq!(under(&report), known + 5);
    assert_eq!(children(&report), [1, 1, 0, 0]);
}

/// The resident memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// 200 children a second for half a minute: none is missed, and nothing grows or stays.
#[test]
fn a_storm_of_short_lived_children_is_counted_to_the_block() {
    let mut target = start(&["storm", "200", "30"]);
    let places = [target.ready.get("malloc"), target.ready.get("free")];
    let untouched = places.map(|place| target.code_at(place));
    let mut trace = follow(&target, &[]);
    // What a hit costs is measured at first, which takes memory.
    trace.wait_for_hit_cost();
    target.go();
    let begun = Instant::now();
    wait_until(DEADLINE, "five seconds of it", || begun.elapsed() > Duration::from_secs(5));
    let early = resident(trace.pid());
    let made = target.done().get("children");
    let late = resident(trace.pid());
    let report = trace.interrupt();
    report.assert_complete();
    assert_eq!(made, 6000);
    assert_eq!(children(&report), [6000, 0, 0, 0]);
    assert_eq!(report.number("/health/allocs"), 3 * made);
    assert_eq!(report.number("/health/frees"), made);
    assert_eq!(report.number("/health/matched_frees"), made);
    assert_eq!(report.number("/totals/allocated_bytes"), 700 * made);
    assert_eq!(report.totals(), Held::default(), "they have all ended");
    assert!(late < early + (8 << 20), "{early} bytes became {late}");
    assert_eq!(places.map(|place| target.code_at(place)), untouched);
    assert!(!has_definitions(trace.pid()));
    assert!(target.end().success());
}

/// Has the kernel copy the value of a BPF map, again and again, until it is dropped: programs on perf
/// events are left out meanwhile, on the CPU where that is done.
struct BusyMaps {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl BusyMaps {
    const THREADS: usize = 2;
    const VALUE: usize = 16 << 20;

    fn start() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let threads = (0..Self::THREADS).map(|_| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || Self::copy_until(&over))
        });
        Self { threads: threads.collect(), over }
    }

    fn copy_until(over: &AtomicBool) {
        const BPF_MAP_CREATE: libc::c_long = 0;
        const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
        const BPF_MAP_TYPE_ARRAY: u32 = 2;
        let value = u32::try_from(Self::VALUE).unwrap();
        let create = [BPF_MAP_TYPE_ARRAY, 4, value, 1];
        // SAFETY: a record of so many bytes, and a descriptor that the call makes.
        let map = unsafe {
            let map = libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, create.as_ptr(), 16);
            assert!(map >= 0, "{}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(i32::try_from(map).unwrap())
        };
        let (key, mut copy) = (0_u32, vec![0_u8; Self::VALUE]);
        let fd = u64::try_from(map.as_raw_fd()).unwrap();
        let look = [fd, &raw const key as u64, copy.as_mut_ptr() as u64, 0];
        while !over.load(Ordering::Relaxed) {
            // SAFETY: a record of so many bytes; the key and the value are as long as the map's.
            let found =
                unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_ELEM, look.as_ptr(), 32) };
            assert_eq!(found, 0, "{}", io::Error::last_os_error());
        }
    }
}

impl Drop for BusyMaps {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// Only where the kernel gives way inside of such work can anything be missed by it.
#[test]
fn no_child_is_missed_while_the_kernel_is_at_work_on_maps() {
    let mut target = start(&["storm", "100", "5"]);
    let mut trace = follow(&target, &["--no-mappings"]);
    let busy = BusyMaps::start();
    let made = target.work().get("children");
    drop(busy);
    let report = trace.interrupt();
    report.assert_complete();
    assert_eq!(children(&report), [made, 0, 0, 0]);
    assert_eq!(report.number("/health/allocs"), 3 * made);
}

#[test]
fn nothing_stays_when_leaktrace_is_killed_in_the_middle() {
    let mut target = start(&["storm", "200", "6"]);
    let places = [target.ready.get("malloc"), target.ready.get("free")];
    let untouched = places.map(|place| target.code_at(place));
    let mut bystander = start(&["workers"]);
    let its = [bystander.ready.get("malloc"), bystander.ready.get("free")];
    let of_bystander = its.map(|place| bystander.code_at(place));
    let mut trace = follow(&target, &[]);
    assert_ne!(places.map(|place| target.code_at(place)), untouched, "probes");
    assert_eq!(its.map(|place| bystander.code_at(place)), of_bystander, "no probes");
    target.go();
    let begun = Instant::now();
    wait_until(DEADLINE, "two seconds of it", || begun.elapsed() > Duration::from_secs(2));
    let pid = trace.pid();
    trace.kill();
    wait_until(DEADLINE, "the definitions are gone", || !has_definitions(pid));
    wait_until(DEADLINE, "the probes are out", || {
        places.map(|place| target.code_at(place)) == untouched
    });
    assert_eq!(target.done().get("children"), 1200);
    assert!(target.end().success());
    assert!(bystander.work().get("children") == 2 && bystander.end().success());
}
