//! Does `leaktrace run` trace a command from its first allocation, and end as the command does?

use std::fs;

use crate::programs::program;
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
