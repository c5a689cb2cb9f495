//! Does what cannot be traced get a clear error and the right exit code, and stay untouched?

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::processes::{DEADLINE, Target, need_root, wait_until};
use crate::programs::{copy, leaktrace, program, variant};
use crate::trace::{Ended, Trace, command};

/// `leaktrace ARGS` ends with `code` before it traces anything, and its message has all `words`.
fn check(args: &[&str], code: i32, words: &[&str]) {
    check_refused(&command(args), code, words);
}

fn check_refused(ended: &Ended, code: i32, words: &[&str]) {
    ended.assert_code(code);
    assert!(!ended.stderr.contains("leaktrace: tracing "), "{}", ended.stderr);
    assert_eq!(ended.stdout, "", "an error is not data");
    let says = ended.stderr.to_lowercase();
    for word in words {
        assert!(says.contains(word), "no {word:?} in:\n{}", ended.stderr);
    }
}

/// The same for an attach to `target`, which lives on.
fn check_target(mut target: Target, code: i32, words: &[&str]) {
    check(&["attach", "-p", &target.pid().to_string()], code, words);
    assert!(target.is_alive());
}

#[test]
fn a_process_that_does_not_exist_is_5() {
    // The kernel gives out no pid above its own limit, 2^22.
    check(&["attach", "-p", "4194305"], 5, &["4194305"]);
    check(&["-p", "4194305"], 5, &["4194305"]);
}

#[test]
fn a_process_that_has_ended_is_5() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let pid = child.id().to_string();
    check(&["attach", "-p", &pid], 5, &[&pid]);
}

#[test]
fn a_kernel_thread_is_3() {
    check(&["attach", "-p", "2"], 3, &["kernel thread"]);
}

#[test]
fn a_zombie_is_5() {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id().to_string();
    wait_until(DEADLINE, "a zombie", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('Z'))
    });
    check(&["attach", "-p", &pid], 5, &[&pid]);
    child.wait().unwrap();
}

#[test]
fn a_static_program_without_symbols_is_3() {
    let program = variant("leak_three.c", "leak_three_static", &["-static", "-s"]);
    check_target(Target::start::<&str>(&program, &[]), 3, &["static"]);
}

#[test]
fn a_32_bit_program_is_3() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("reads_a_byte");
    fs::write(&program, elf_32()).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    check_target(Target::spawn(&mut Command::new(program)), 3, &["32-bit"]);
}

/// A whole i386 program: writes "ready", reads a byte, and exits.
fn elf_32() -> Vec<u8> {
    const BASE: u32 = 0x1_0000;
    const HEADERS: u32 = 52 + 32;
    const TEXT: &[u8] = b"ready\n";
    let code_at = BASE + HEADERS + u32::try_from(TEXT.len()).unwrap();
    let [text_at, length] = [BASE + HEADERS, 6].map(u32::to_le_bytes);
    let code = [
        &[0xb8, 4, 0, 0, 0, 0xbb, 1, 0, 0, 0, 0xb9], // mov eax, write; mov ebx, 1; mov ecx, text
        &text_at[..],
        &[0xba], // mov edx, length
        &length[..],
        &[0xcd, 0x80],                               // int 0x80
        &[0xb8, 3, 0, 0, 0, 0x31, 0xdb],             // mov eax, read; xor ebx, ebx
        &[0x89, 0xe1, 0xba, 1, 0, 0, 0, 0xcd, 0x80], // mov ecx, esp; mov edx, 1; int 0x80
        &[0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80], // mov eax, exit; xor ebx, ebx; int 0x80
    ]
    .concat();
    let size = HEADERS + u32::try_from(TEXT.len() + code.len()).unwrap();
    let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec(); // ET_EXEC, EM_386
    for word in [1, code_at, 52, 0, 0] {
        elf.extend(u32::to_le_bytes(word)); // version, entry, program headers, sections, flags
    }
    for half in [52, 32, 1, 40, 0, 0] {
        elf.extend(u16::to_le_bytes(half)); // sizes and counts of the headers
    }
    for word in [1, 0, BASE, BASE, size, size, 5, 4096] {
        elf.extend(u32::to_le_bytes(word)); // PT_LOAD, the whole file, readable and executable
    }
    elf.extend(TEXT);
    elf.extend(code);
    elf
}

#[test]
fn an_output_file_that_cannot_be_written_is_2_before_tracing_begins() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut target = Target::start(&program("load.c"), &[file.path()]);
    let malloc = target.ready.get("malloc");
    let before = target.code_at(malloc);
    let pid = target.pid().to_string();
    for output in ["/nonexistent/report.json", "/proc/report.json", "/tmp/."] {
        check(&["attach", "-p", &pid, "-o", output], 2, &[output]);
        assert_eq!(target.code_at(malloc), before);
    }
    check(&["run", "-o", "/nonexistent/x.svg", "--", "true"], 2, &["/nonexistent/x.svg"]);
    assert!(target.is_alive());
}

#[test]
fn wrong_arguments_are_2() {
    for args in [
        &["attach"][..],
        &["attach", "-p", "0"],
        &["attach", "-p", "-1"],
        &["attach", "-p", "one"],
        &["attach", "-p", "1,"],
        &["attach", "-p", "1", "--duration", "yesterday"],
        &["attach", "-p", "1", "--duration", "0s"],
        &["attach", "-p", "1", "--sort", "colour"],
        &["attach", "-p", "1", "--format", "papyrus"],
        &["attach", "-p", "1", "-o", "report.papyrus"],
        &["attach", "-p", "1", "-o", "report"],
        &["attach", "-p", "1", "--min-size", "10", "--max-size", "9"],
        &["attach", "-p", "1", "--no-such-option"],
        &["run"],
        &["run", "--"],
        &["no-such-command"],
    ] {
        let ended = command(args);
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.stderr);
        assert_ne!(ended.stderr, "", "{args:?}: no word of what is wrong");
    }
}

/// A user without rights; the command is copied to where that user can reach it.
#[test]
fn without_privileges_it_is_3_with_advice() {
    need_root();
    const NOBODY: u32 = 65_534;
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let own_copy = dir.path().join("leaktrace");
    copy(leaktrace(), &own_copy);
    let mut target = Target::start::<&str>(&program("leak_three.c"), &[]);
    let roots = target.pid().to_string();
    let mut sleeper = Command::new("cat")
        .uid(NOBODY)
        .gid(NOBODY)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let own = sleeper.id().to_string();
    for pid in [&roots, &own] {
        let mut attach = Command::new("setpriv");
        attach.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "sh", "-c"]);
        attach.arg("cd / && exec \"$0\" \"$@\"").arg(&own_copy).args(["attach", "-p", pid]);
        check_refused(&Trace::spawn(&mut attach).ended(), 3, &["root"]);
    }
    assert!(target.is_alive());
    drop(sleeper.stdin.take());
    sleeper.wait().unwrap();
}

/// A target that goes away while leaktrace looks at it, plans, or attaches, is a result.
#[test]
fn a_target_that_ends_during_the_attach_is_5_or_a_report() {
    let cpu_ns = |trace: &Trace| {
        let ran =
            fs::read_to_string(format!("/proc/{}/schedstat", trace.pid())).unwrap_or_default();
        ran.split(' ').next().and_then(|ns| ns.parse::<u64>().ok())
    };
    // How far leaktrace came is read from the CPU time of its first thread: a kill at every stage.
    let whole = {
        let target = Target::start::<&str>(&program("leak_three.c"), &[]);
        cpu_ns(&Trace::attach(&target, &[])).unwrap()
    };
    for stage in 0..20 {
        let mut target = Target::start::<&str>(&program("leak_three.c"), &[]);
        let pid = target.pid().to_string();
        let mut trace = Trace::start(&["attach", "-p", &pid, "-o", "report.json"]);
        // This one may need less, and idles then.
        let begun = Instant::now();
        wait_until(DEADLINE, "leaktrace works, or has ended", || {
            cpu_ns(&trace).is_none_or(|ns| ns >= whole * stage / 20)
                || trace.has_ended()
                || begun.elapsed() > Duration::from_secs(20)
        });
        target.kill();
        let ended = trace.ended();
        assert!(matches!(ended.code, Some(0 | 5)), "{:?}: {}", ended.code, ended.stderr);
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
}
