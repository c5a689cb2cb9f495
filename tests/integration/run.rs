//! Does `leaktrace run` trace a command from its first allocation, and end as the command does?

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::processes::{DEADLINE, Target, wait_until};
use crate::programs::{leaktrace, program};
use crate::report::{Held, Report};
use crate::trace::{Trace, command};

#[test]
fn the_first_allocation_counts_and_the_exit_code_is_passed_on() {
    let program = program("leak_three.c");
    let args = ["run", "-o", "out.json", "-T", "100", "--", program.to_str().unwrap(), "7"];
    let mut trace = Trace::start(&args);
    trace.ended().assert_code(7);
    let report = Report::read(&trace.file("out.json"));
    report.assert_complete();
    assert_eq!(report.held_by("leak_before_main"), Held { bytes: 1777, blocks: 1 });
    assert_eq!(report.held_by("leak_here"), Held { bytes: 12_288, blocks: 3 });
    assert_eq!(report.text("/trace/ended_by"), "target-exit");
    assert_eq!(report.text("/target/comm"), "leak_three");
}

#[test]
fn a_command_that_does_well_ends_with_0() {
    command(&["run", "--", program("leak_three.c").to_str().unwrap(), "0"]).assert_code(0);
}

#[test]
fn a_command_is_looked_up_in_the_path() {
    command(&["run", "--", "true"]).assert_code(0);
    command(&["run", "--", "false"]).assert_code(1);
}

#[test]
fn a_command_that_does_not_exist_ends_with_127() {
    let ended = command(&["run", "--", "/nonexistent/command"]);
    ended.assert_code(127);
    assert!(ended.stderr.contains("/nonexistent/command"), "{}", ended.stderr);
}

#[test]
fn a_file_that_is_no_program_ends_with_126() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes.txt");
    fs::write(&file, "no program").unwrap();
    let ended = command(&["run", "--", file.to_str().unwrap()]);
    ended.assert_code(126);
    assert!(ended.stderr.contains("notes.txt"), "{}", ended.stderr);
}

/// Each exec stops the command until its probes are in: the last of them, too, must let it go on.
#[test]
fn a_command_that_execs_all_the_time_goes_on_when_the_trace_ends() {
    let program = program("exec_loop.c");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ended");
    let args = ["run", "-q", "-d", "1s", "--", program.to_str().unwrap(), "300"];
    let mut args: Vec<&std::ffi::OsStr> = args.iter().map(std::ffi::OsStr::new).collect();
    args.push(file.as_os_str());
    Trace::start(&args).ended().assert_code(7);
    assert!(file.exists());
}

/// While the ring buffer is full, nobody hears of an exec, and so nobody would let go on who waits there.
#[test]
fn a_command_is_not_held_at_an_exec_that_finds_the_ring_buffer_full() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.json");
    for (options, lost) in
        [(&[][..], "/health/lost/exec"), (&["--follow"], "/health/lost/children")]
    {
        let mut run = Command::new(leaktrace());
        run.args(["run", "-q", "-o"]).arg(&path).args(options).arg("--");
        // The command talks through what leaktrace was given.
        let mut target = Target::spawn(run.arg(program("floods.c")).arg("exec"));
        target.signal(libc::SIGSTOP);
        target.work();
        target.signal(libc::SIGCONT);
        target.end();
        let report = Report::read(&path);
        assert!(report.number(lost) > 0, "{options:?}: {:#}", report.0);
        assert_eq!(report.at("/health/complete"), false);
    }
}

/// Killed in whatever moment, leaktrace leaves no command behind that stays stopped.
#[test]
fn a_command_goes_on_when_leaktrace_is_killed_while_it_is_held() {
    let program = program("exec_loop.c");
    let dir = tempfile::tempdir().unwrap();
    for round in 0..20u64 {
        let file = dir.path().join(format!("ended-{round}"));
        let args = ["run", "-q", "--", program.to_str().unwrap(), "20"];
        let mut args: Vec<&std::ffi::OsStr> = args.iter().map(std::ffi::OsStr::new).collect();
        args.push(file.as_os_str());
        let name = file.file_name().unwrap().to_owned();
        let mut trace = Trace::start(&args);
        // From its first moment, when it is stopped, to long after it.
        let line_of = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_command = |pid: &u32| {
            parent_of(*pid) == Some(trace.pid()) && line_of(*pid) != line_of(trace.pid())
        };
        wait_until(DEADLINE, "the command is there", || running_with(&name).iter().any(is_command));
        let begun = Instant::now();
        wait_until(DEADLINE, "the moment has come", || {
            begun.elapsed() > Duration::from_millis(20 * round)
        });
        trace.kill();
        wait_until(DEADLINE, "the command has ended, or never began", || {
            file.exists() || running_with(&name).is_empty()
        });
    }
}

/// The processes that have `word` in their command line.
fn running_with(word: &std::ffi::OsStr) -> Vec<u32> {
    let word = word.as_encoded_bytes();
    let has_word = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.windows(word.len()).any(|part| part == word))
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(has_word).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
