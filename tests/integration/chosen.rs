//! Are the processes traced that the user means, by name, by control group, by container; and do those
//! that cannot be traced stand in nobody's way?

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::groups::Group;
use crate::processes::{DEADLINE, Target, wait_until};
use crate::programs::{copy, program, source};
use crate::report::{Held, Report};
use crate::trace::{Trace, command};

const FIRST: Held = Held { bytes: 11_110, blocks: 10 };
const SECOND: Held = Held { bytes: 22_220, blocks: 10 };

/// Traces what `options` choose, all of it, and waits until so many processes are traced.
fn chosen(options: &[&str], processes: usize) -> Trace {
    let mut args = options.to_vec();
    args.extend(["-o", "report.json", "--top", "1000", "--exact"]);
    let mut trace = Trace::start(&args);
    for _ in 0..processes {
        trace.wait_for_tracing();
    }
    trace
}

fn two_faces() -> [Target; 2] {
    ["first", "second"].map(|which| Target::start(&program("two_faces.c"), &[which]))
}

fn assert_two_faces(report: &Report) {
    assert_eq!((report.held_by("first_path"), report.held_by("second_path")), (FIRST, SECOND));
}

fn end_all(targets: &mut [Target]) {
    for target in targets {
        assert!(target.end().success());
    }
}

/// A copy of a program under another name.
fn copy_as(program: &Path, folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    copy(program, &path);
    path
}

#[test]
fn all_processes_of_a_name_are_traced() {
    let folder = tempfile::tempdir().unwrap();
    // Longer than what the kernel keeps of a command's name.
    let name = format!("two-faces-by-their-name-{}", std::process::id());
    let copy = copy_as(&program("two_faces.c"), folder.path(), &name);
    let other = Target::start(&program("two_faces.c"), &["first"]);
    let mut targets = ["first", "second"].map(|which| Target::start(&copy, &[which]));
    let mut trace = chosen(&["-n", &name], 2);
    targets.iter_mut().for_each(|target| drop(target.work()));
    let report = trace.interrupt();
    report.assert_complete();
    assert_two_faces(&report);
    let pids: Vec<u64> = report
        .at("/targets")
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["pid"].as_u64().unwrap())
        .collect();
    assert!(!pids.contains(&u64::from(other.pid())), "{pids:?}");
    end_all(&mut targets);
}

#[test]
fn a_name_that_nobody_has_is_an_error() {
    let ended = command(&["-n", "nobody-is-called-this"]);
    ended.assert_code(5);
    assert!(
        ended.stderr.contains("no process is called `nobody-is-called-this`"),
        "{}",
        ended.stderr
    );
    command(&["--cgroup", "/no/such/group"]).assert_code(5);
    command(&["--container", "0123456789abcdef"]).assert_code(5);
    command(&["attach"]).assert_code(2);
}

#[test]
fn a_group_is_traced_with_those_below_it_and_those_that_come() {
    let name = Group::name("comes");
    let group = Group::new(&name);
    let below = Group::new(&format!("{name}/below"));
    let mut targets = two_faces();
    group.add(targets[0].pid());
    below.add(targets[1].pid());
    let mut trace = chosen(&["--cgroup", group.directory().to_str().unwrap()], 2);
    targets.iter_mut().for_each(|target| drop(target.work()));
    // One that comes to be while the trace is under way.
    let mut late = Target::start::<&str>(&program("leak_three.c"), &[]);
    below.add(late.pid());
    let line = trace.wait_for_tracing();
    assert!(line.contains(&format!("tracing {} leak_three", late.pid())), "{line}");
    late.work();
    // The trace ends when all have.
    end_all(&mut targets);
    assert!(!trace.has_ended());
    assert!(late.end().success());
    let report = trace.report();
    report.assert_complete();
    assert_two_faces(&report);
    assert_eq!(report.held_by("leak_here"), Held { bytes: 12_288, blocks: 3 });
    assert_eq!(report.text("/trace/ended_by"), "target-exit");
    drop((below, group));
}

#[test]
fn a_container_is_found_by_its_id() {
    let id = format!("{:064x}", 0xfeed_0000_0000_u64 + u64::from(std::process::id()))
        .chars()
        .rev()
        .collect::<String>();
    let group = Group::new(&format!("docker-{id}.scope"));
    let mut targets = two_faces();
    targets.iter().for_each(|target| group.add(target.pid()));
    for given in [id.clone(), id[..12].to_owned(), format!("docker://{id}")] {
        let mut trace = chosen(&["--container", &given], 2);
        drop(trace.interrupt());
    }
    let mut trace = chosen(&["--container", &id[..12]], 2);
    targets.iter_mut().for_each(|target| drop(target.work()));
    let report = trace.interrupt();
    report.assert_complete();
    assert_two_faces(&report);
    // Another that begins alike.
    let mut alike = id.clone();
    alike.replace_range(20.., &"f".repeat(44));
    let other = Group::new(&format!("libpod-{alike}.scope"));
    let ended = command(&["--container", &id[..12]]);
    ended.assert_code(2);
    assert!(ended.stderr.contains(&id) && ended.stderr.contains(&alike), "{}", ended.stderr);
    // It is there, and nobody is in it.
    let ended = command(&["--container", &alike]);
    ended.assert_code(5);
    assert!(ended.stderr.contains("no process is in the control group"), "{}", ended.stderr);
    end_all(&mut targets);
    drop((other, group));
}

/// A program without a C library, for the machine that `assembler` and `linker` are told.
fn without_libc(file: &str, name: &str, assembler: &str, linker: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
    fs::create_dir_all(&folder).unwrap();
    let made = |extension: &str| folder.join(format!("{name}.{extension}{}", std::process::id()));
    let run = |tool: &str, args: &[OsString]| {
        let ended = Command::new(tool).args(args).output().unwrap();
        assert!(ended.status.success(), "{tool}: {}", String::from_utf8_lossy(&ended.stderr));
    };
    let object = made("o");
    run("as", &[assembler.into(), "-o".into(), (&object).into(), source(file).into()]);
    let program = made("x");
    run("ld", &["-m".into(), linker.into(), "-o".into(), (&program).into(), (&object).into()]);
    program
}

/// A group of one that can be traced and one that `program` is; what of the latter is said, and
/// whether the report still is complete.
fn check_set(which: &str, program_of_other: &Path, says: &str, complete: bool) {
    let group = Group::new(&Group::name(which));
    let mut other = Target::start::<&str>(program_of_other, &[]);
    let mut target = Target::start::<&str>(&program("leak_three.c"), &[]);
    group.add(other.pid());
    group.add(target.pid());
    let mut trace = chosen(&["--cgroup", group.directory().to_str().unwrap()], 1);
    target.work();
    let report = trace.interrupt();
    assert_eq!(report.held_by("leak_here"), Held { bytes: 12_288, blocks: 3 });
    assert_eq!(report.at("/health/complete"), complete, "{}", report.at("/health"));
    let said = report.at("/health").to_string();
    assert!(said.contains(says) && said.contains(&other.pid().to_string()), "{said}");
    assert!(target.end().success());
    // Nobody is left that can be traced.
    let ended = command(&["--cgroup", group.directory().to_str().unwrap(), "-d", "1s"]);
    ended.assert_code(3);
    assert!(ended.stderr.contains(says), "{}", ended.stderr);
    assert!(other.is_alive(), "it is left alone");
    assert!(other.end().success());
}

#[test]
fn a_32_bit_program_is_refused_and_is_in_nobodys_way() {
    let i386 = without_libc("without_libc_32.S", "without_libc_32", "--32", "elf_i386");
    let mut target = Target::start::<&str>(&i386, &[]);
    let ended = command(&["-p", &target.pid().to_string()]);
    ended.assert_code(3);
    assert!(ended.stderr.contains("a 32-bit program"), "{}", ended.stderr);
    assert!(target.end().success());
    check_set("i386", &i386, "a 32-bit program", false);
    fs::remove_file(i386).unwrap();
}

#[test]
fn a_program_that_has_no_allocator_takes_nothing_from_a_set() {
    let bare = without_libc("without_libc.S", "without_libc", "--64", "elf_x86_64");
    check_set("bare", &bare, "no allocation functions found", true);
    fs::remove_file(bare).unwrap();
}

#[test]
fn any_number_of_processes_may_come_and_go() {
    const MANY: usize = 68;
    let group = Group::new(&Group::name("many"));
    let three = || Target::start::<&str>(&program("leak_three.c"), &[]);
    let mut first: Vec<Target> = (0..MANY).map(|_| three()).collect();
    first.iter().for_each(|target| group.add(target.pid()));
    // They are announced in part.
    let mut trace = chosen(&["--cgroup", group.directory().to_str().unwrap()], 21);
    let mut one_more = three();
    group.add(one_more.pid());
    trace.wait_for_tracing();
    first.iter_mut().for_each(|target| drop(target.work()));
    end_all(&mut first);
    wait_until(DEADLINE, "leaktrace knows that they have ended", || {
        trace.report_now().at("/health/notes").to_string().contains("4 of the processes that")
    });
    // Those that end make room: this one has the place of one of them.
    let mut last = three();
    group.add(last.pid());
    trace.wait_for_tracing();
    last.work();
    let report = trace.interrupt();
    let kept = 64 + 1;
    let expected = Held { bytes: kept * 12_288, blocks: kept * 3 };
    assert_eq!(report.held_by("leak_here"), expected);
    let notes = report.at("/health/notes").to_string();
    assert!(notes.contains("4 of the processes that have ended"), "{notes}");
    report.assert_complete();
    one_more.work();
    assert!(last.end().success() && one_more.end().success());
}
