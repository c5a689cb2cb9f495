//! Are the allocators of a process found, all of them, wherever their names are; and does each block
//! count once where one is called through another?

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::processes::{Target, need_root};
use crate::programs::{copy, program, variant};
use crate::report::{Held, Report, names};
use crate::trace::{LINKS, Trace, command};

/// Debian's; `cargo xtask test` installs them.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";
const JEMALLOC: &str = "libjemalloc.so.2";
const OTHERS: [&str; 3] = ["libtcmalloc.so.4", "libtcmalloc_minimal.so.4", "libmimalloc.so.2"];

fn debians(library: &str) -> PathBuf {
    Path::new(LIBRARIES).join(library)
}

/// Traces `program` with a library preloaded: complete, and with every free matched.
fn preloaded(library: &Path, program: &Path, options: &[&str]) -> Report {
    assert!(library.is_file(), "no {}: `cargo xtask test` installs it", library.display());
    let mut target = Target::spawn(Command::new(program).env("LD_PRELOAD", library));
    let mut trace = Trace::attach(&target, options);
    target.work();
    let report = trace.interrupt();
    report.assert_complete();
    report.assert_every_free_matched();
    assert!(target.end().success(), "tracing must not change how the target ends");
    report
}

/// Each way of `any_allocator.c` holds its five blocks, and nothing else is held.
fn check_any_allocator(report: &Report, context: &str) {
    for (function, size) in [
        ("leak_by_malloc", 1001),
        ("leak_by_calloc", 1001),
        ("leak_by_realloc", 3003),
        ("leak_by_aligned_alloc", 1280),
        ("leak_by_posix_memalign", 1013),
    ] {
        let held = Held { bytes: 5 * size, blocks: 5 };
        assert_eq!(report.held_by(function), held, "{function} {context}");
    }
    assert_eq!(report.totals(), Held { bytes: 5 * 7298, blocks: 25 }, "{context}");
    assert_eq!(report.number("/totals/allocated_blocks"), 955, "{context}");
    assert_eq!(report.number("/totals/freed_blocks"), 930, "{context}");
}

#[test]
fn a_library_that_passes_on_to_the_next_allocator_counts_once() {
    let flags = ["-shared", "-fPIC"];
    let library = variant("interposer.c", "libinterposer.so", &flags);
    for links in LINKS {
        let report = preloaded(&library, &program("any_allocator.c"), links);
        check_any_allocator(&report, &format!("{links:?}"));
    }
}

#[test]
fn jemalloc_in_front_of_libc_is_exact() {
    for links in LINKS {
        let report = preloaded(&debians(JEMALLOC), &program("any_allocator.c"), links);
        check_any_allocator(&report, &format!("{links:?}"));
    }
}

#[test]
fn tcmalloc_and_mimalloc_in_front_of_libc_are_exact() {
    for library in OTHERS {
        let report = preloaded(&debians(library), &program("any_allocator.c"), &[]);
        check_any_allocator(&report, library);
    }
}

/// Four sizes, each once by each operator; exceptions pass through the throwing ones unharmed.
#[test]
fn operators_that_allocators_implement_themselves_are_exact() {
    let sizes = 100 + 3000 + 200_000 + 3_000_000;
    for library in [JEMALLOC, "libtcmalloc.so.4", "libtcmalloc_minimal.so.4"] {
        let report = preloaded(&debians(library), &program("operators.cc"), &[]);
        for (function, ways) in [("leak_by_new", 2), ("leak_by_nothrow", 2), ("leak_by_aligned", 4)]
        {
            let held = Held { bytes: ways * sizes, blocks: ways * 4 };
            assert_eq!(report.held_under(function), held, "{function} {library}");
        }
        assert_eq!(report.totals(), Held { bytes: 8 * sizes, blocks: 32 }, "{library}");
        assert_eq!(report.number("/totals/freed_blocks"), 4 * 300 * 12 + 3, "{library}");
    }
}

fn shell(dir: &Path, script: &str) {
    let output = Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
}

/// A static program after `script`, which finds it whole as `whole` and leaves it as `leaker`.
fn static_after(script: &str) -> Report {
    need_root();
    let dir = tempfile::tempdir().unwrap();
    let flags = ["-static", "-Wl,--build-id=sha1"];
    let whole = variant("any_allocator.c", "any_allocator_static", &flags);
    copy(whole, dir.path().join("whole"));
    shell(dir.path(), script);
    let mut target = Target::start::<&str>(&dir.path().join("leaker"), &[]);
    let mut trace = Trace::attach(&target, &[]);
    target.work();
    let report = trace.interrupt();
    report.assert_complete();
    report.assert_every_free_matched();
    assert!(target.end().success());
    report
}

#[test]
fn a_stripped_static_program_is_exact_by_its_debug_file() {
    for link in [
        // By build id.
        "objcopy --only-keep-debug whole leaker.debug
         strip --strip-all -o leaker whole
         objcopy --add-gnu-debuglink=leaker.debug leaker",
        // By name and CRC alone.
        "objcopy --remove-section .note.gnu.build-id whole bare
         objcopy --only-keep-debug bare leaker.debug
         strip --strip-all -o leaker bare
         objcopy --add-gnu-debuglink=leaker.debug leaker
         mkdir .debug && mv leaker.debug .debug",
    ] {
        check_any_allocator(&static_after(link), link);
    }
}

#[test]
fn a_stripped_static_program_is_exact_by_its_mini_debug_information() {
    let report = static_after(
        "nm whole --format=posix --defined-only | awk '$2 ~ /[TtWw]/ { print $1 }' | sort -u >kept
         objcopy --only-keep-debug whole debug
         objcopy -S --remove-section .comment --keep-symbols=kept debug mini
         xz mini
         strip --strip-all -o stripped whole
         objcopy --add-section .gnu_debugdata=mini.xz stripped leaker",
    );
    check_any_allocator(&report, "mini debug information");
}

#[test]
fn another_program_s_debug_file_is_not_believed() {
    need_root();
    let dir = tempfile::tempdir().unwrap();
    let flags = ["-static", "-Wl,--build-id=sha1"];
    for (source, name) in [("any_allocator.c", "whole"), ("leak_three.c", "other")] {
        let built = variant(source, &format!("{name}_for_debug_files"), &flags);
        copy(built, dir.path().join(name));
    }
    shell(
        dir.path(),
        "objcopy --only-keep-debug other leaker.debug
         strip --strip-all -o leaker whole
         objcopy --add-gnu-debuglink=leaker.debug leaker",
    );
    let mut target = Target::start::<&str>(&dir.path().join("leaker"), &[]);
    let ended = command(&["attach", "-p", &target.pid().to_string()]);
    ended.assert_code(3);
    assert!(ended.stderr.contains("--alloc-fn OBJECT+OFFSET"), "{}", ended.stderr);
    assert!(target.is_alive());
}

/// What is sampled are the calls of a program, also of one that has its allocator in itself, and what
/// libc allocates for it.
#[test]
fn a_sampled_static_program_and_what_libc_allocates_are_seen() {
    let whole =
        variant("any_allocator.c", "any_allocator_static", &["-static", "-Wl,--build-id=sha1"]);
    for (program, function, held) in [
        (whole, "leak_by_malloc", Held { bytes: 5 * 1001, blocks: 5 }),
        (program("callers.c"), "by_strdup", Held { bytes: 23, blocks: 1 }),
    ] {
        let mut target = Target::start::<&str>(&program, &[]);
        // Blocks as large as that are all kept.
        let mut trace = Trace::attach(&target, &["--sample", "16"]);
        target.work();
        let report = trace.interrupt();
        assert_eq!(report.held_under(function), held, "{:#}", report.0);
    }
}

/// The frame to blame is the program's, whatever of libc stands between it and the allocator.
#[test]
fn what_libc_allocates_for_its_caller_is_blamed_on_the_caller() {
    let mut target = Target::start::<&str>(&program("callers.c"), &[]);
    let mut trace = Trace::attach(&target, &["-o", "report.txt", "--color", "never"]);
    target.work();
    let report = trace.interrupt();
    report.assert_complete();
    let text = fs::read_to_string(trace.file("report.txt")).unwrap();
    for (function, held) in [
        ("by_strdup", Held { bytes: 23, blocks: 1 }),
        ("by_strndup", Held { bytes: 9, blocks: 1 }),
        ("by_asprintf", Held { bytes: 6, blocks: 1 }),
        ("by_vasprintf", Held { bytes: 8, blocks: 1 }),
    ] {
        assert_eq!(report.held_under(function), held, "{function}");
    }
    for function in [
        "by_strdup",
        "by_strndup",
        "by_asprintf",
        "format",
        "by_fopen",
        "by_getline",
        "by_realpath",
        "by_scandir",
    ] {
        let is_blamed = text.lines().any(|l| l.starts_with("  > ") && l.contains(function));
        let stack = report.stacks().iter().find(|s| names(s).contains(&function));
        assert!(is_blamed, "{function} is not blamed for {stack:?}:\n{text}");
    }
}
