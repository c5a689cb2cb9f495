//! One program that leaks, and twins of it in C++ and Rust, with every allocator there is: is the
//! answer the same to the byte?

use std::ffi::OsString;

use super::programs::{Built, From};
use crate::processes::{Target, alone};
use crate::report::{Report, names};
use crate::trace::Trace;

/// What `programs/allocators/turns.h` does.
const LEAKED: u64 = 200;
const BORROWED: u64 = 200 * 5;
/// Two of ten blocks begin as half of what they become.
const GROWN: u64 = 40 + 200;

fn size_of(turn: u64, kind: u64) -> u64 {
    match kind {
        _ if turn % 49 == 48 => (1 << 20) + 4096,
        3 => 64 * (1 + turn % 40),
        4 => 4096 * (1 + turn % 3),
        _ => 16 * (1 + turn % 40),
    }
}

/// What leaktrace says of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    outstanding_bytes: u64,
    blocks: u64,
    allocs: u64,
    frees: u64,
    matched: u64,
    /// Frees of which nothing is known.
    unknown: u64,
    complete: bool,
}

impl Answer {
    fn expected() -> Self {
        Self {
            outstanding_bytes: (0..LEAKED).map(|turn| size_of(turn, turn % 5)).sum(),
            blocks: LEAKED,
            allocs: LEAKED + BORROWED + GROWN,
            frees: BORROWED + GROWN,
            matched: BORROWED + GROWN,
            unknown: 0,
            complete: true,
        }
    }

    /// What a trace saw beyond what another saw of the same program without a turn.
    fn of(report: &Report, without: Option<&Report>) -> Self {
        let leaks = report.stacks().iter().filter(|stack| names(stack).contains(&"leaks_here"));
        let leaked = |of: &str| leaks.clone().map(|stack| stack[of].as_u64().unwrap()).sum();
        let number = |of: &str| {
            let before = without.map_or(0, |without| without.number(of));
            report.number(of).saturating_sub(before)
        };
        Self {
            outstanding_bytes: leaked("outstanding_bytes"),
            blocks: leaked("outstanding_blocks"),
            allocs: number("/health/allocs"),
            frees: number("/health/frees"),
            matched: number("/health/matched_frees"),
            unknown: report.number("/health/unknown_frees"),
            complete: report.at("/health/complete") == true,
        }
    }
}

/// A line of the table: one program, traced in both ways.
struct Line {
    allocator: &'static str,
    how: &'static str,
    mode: &'static str,
    answer: Answer,
    probes: usize,
    /// What else is wrong with the report; empty if nothing is.
    wrong: String,
}

impl Line {
    fn new(row: &Row, mode: &'static str, report: &Report, answer: Answer) -> Self {
        let health = report.at("/health");
        let mut wrong = Vec::new();
        if !health["lost"].as_object().unwrap().values().all(|count| count == 0) {
            wrong.push(format!("lost: {}", health["lost"]));
        }
        if health["probe_failures"] != serde_json::json!([]) {
            wrong.push(format!("failures: {}", health["probe_failures"]));
        }
        for of in ["reappeared", "abandoned_calls", "failed_allocs"] {
            if health[of] != 0 {
                wrong.push(format!("{of}: {}", health[of]));
            }
        }
        let probes = report.at("/probes").as_array().unwrap().len();
        let wrong = wrong.join("; ");
        Self { allocator: row.allocator, how: row.how, mode, answer, probes, wrong }
    }

    fn is_right(&self) -> bool {
        self.answer == Answer::expected() && self.wrong.is_empty()
    }

    fn shown(&self) -> String {
        let Answer { outstanding_bytes, blocks, allocs, frees, matched, unknown, complete } =
            self.answer;
        let verdict =
            if self.is_right() { "ok".to_owned() } else { format!("WRONG {}", self.wrong) };
        format!(
            "{:<18} | {:<27} | {:<6} | {outstanding_bytes:>11} | {blocks:>6} | {allocs:>6} | \
             {frees:>6} | {matched:>7} | {unknown:>7} | {complete:<8} | {:>6} | {verdict}\n",
            self.allocator, self.how, self.mode, self.probes
        )
    }
}

fn header() -> String {
    format!(
        "{:<18} | {:<27} | {:<6} | {:>11} | {:>6} | {:>6} | {:>6} | {:>7} | {:>7} | complete | probes |\n",
        "allocator",
        "how",
        "mode",
        "outstanding",
        "blocks",
        "allocs",
        "frees",
        "matched",
        "unknown"
    )
}

/// An allocator, and how a program comes by it.
struct Row {
    allocator: &'static str,
    how: &'static str,
    name: &'static str,
    source: &'static str,
    from: From,
    /// For leaktrace.
    options: &'static [&'static str],
}

const fn row(
    allocator: &'static str,
    how: &'static str,
    name: &'static str,
    source: &'static str,
    from: From,
) -> Row {
    Row { allocator, how, name, source, from, options: &[] }
}

fn attached(row: &Row, built: &Built) -> Line {
    let mut target = Target::spawn(&mut built.command());
    let mut trace = Trace::attach(&target, row.options);
    target.work();
    let report = trace.interrupt();
    assert!(target.end().success(), "{}: tracing must not change how it ends", row.name);
    Line::new(row, "attach", &report, Answer::of(&report, None))
}

fn ran(row: &Row, built: &Built) -> Line {
    let run = |turns: &str| {
        let before = ["run", "-o", "report.json", "--top", "1000", "--exact"];
        let mut words: Vec<OsString> = before.iter().map(OsString::from).collect();
        words.extend(row.options.iter().map(OsString::from));
        words.push("--".into());
        words.extend(built.words());
        words.push(turns.into());
        Trace::start(&words).report()
    };
    let (without, report) = (run("0"), run("200"));
    Line::new(row, "run", &report, Answer::of(&report, Some(&without)))
}

/// Traces the program of each row in both ways, and prints what leaktrace says of all of them.
fn check(rows: &[Row]) {
    // Two leaktraces at once at processes that share a library: the kernel keeps the returns of one's
    // probes in the other's process, too, and a jump from there no longer tells who called.
    let _alone = alone();
    let mut table = header();
    let mut all_right = true;
    for row in rows {
        let built = Built::of(row.name, row.source, row.from);
        for line in [attached(row, &built), ran(row, &built)] {
            all_right &= line.is_right();
            table.push_str(&line.shown());
        }
    }
    println!("{table}");
    assert!(all_right, "expected {:?}:\n{table}", Answer::expected());
}

const IN_C: &str = "allocators/leak_by_turns.c";
const IN_CXX: &str = "allocators/leak_by_turns.cc";
const GCC: &str = "gcc";
const GXX: &str = "g++";

#[test]
fn c_programs_leak_the_same_whatever_their_allocator() {
    use From::{Linked, Preloaded};
    check(&[
        row("glibc", "linked", "turns_glibc", IN_C, Linked(GCC, &[])),
        row("glibc", "static", "turns_glibc_static", IN_C, Linked(GCC, &["-static"])),
        row("musl", "linked", "turns_musl", IN_C, Linked("musl-gcc", &[])),
        row("musl", "static", "turns_musl_static", IN_C, Linked("musl-gcc", &["-static"])),
        row("jemalloc", "linked", "turns_jemalloc", IN_C, Linked(GCC, &["-ljemalloc"])),
        row(
            "jemalloc",
            "static library",
            "turns_jemalloc_archive",
            IN_C,
            Linked(GCC, &["-l:libjemalloc.a", "-lstdc++", "-lm"]),
        ),
        row("jemalloc", "LD_PRELOAD", "turns_for_jemalloc", IN_C, Preloaded("libjemalloc.so.2")),
        row("tcmalloc", "linked", "turns_tcmalloc", IN_C, Linked(GCC, &["-ltcmalloc"])),
        row("tcmalloc", "LD_PRELOAD", "turns_for_tcmalloc", IN_C, Preloaded("libtcmalloc.so.4")),
        row("tcmalloc", "minimal", "turns_minimal", IN_C, Linked(GCC, &["-ltcmalloc_minimal"])),
        row(
            "tcmalloc",
            "minimal, static library",
            "turns_minimal_archive",
            IN_C,
            Linked(GCC, &["-l:libtcmalloc_minimal.a", "-lstdc++", "-lm"]),
        ),
        row("mimalloc", "linked", "turns_mimalloc", IN_C, Linked(GCC, &["-lmimalloc"])),
        row("mimalloc", "LD_PRELOAD", "turns_for_mimalloc", IN_C, Preloaded("libmimalloc.so.2")),
    ]);
}

#[test]
fn cxx_programs_leak_the_same_whatever_their_operators() {
    use From::{Linked, Preloaded};
    const SIZED: &str = "-fsized-deallocation";
    const UNSIZED: &str = "-fno-sized-deallocation";
    let rows = [
        row("libstdc++", "sized delete", "cxx_turns", IN_CXX, Linked(GXX, &[SIZED])),
        row("libstdc++", "unsized delete", "cxx_turns_unsized", IN_CXX, Linked(GXX, &[UNSIZED])),
        row("libstdc++", "static", "cxx_turns_static", IN_CXX, Linked(GXX, &["-static"])),
        row(
            "jemalloc",
            "C++, sized delete",
            "cxx_turns_jemalloc",
            IN_CXX,
            Linked(GXX, &[SIZED, "-ljemalloc"]),
        ),
        row(
            "jemalloc",
            "C++, unsized delete",
            "cxx_turns_jemalloc_unsized",
            IN_CXX,
            Linked(GXX, &[UNSIZED, "-ljemalloc"]),
        ),
        row(
            "jemalloc",
            "C++, LD_PRELOAD",
            "cxx_turns_for_jemalloc",
            IN_CXX,
            Preloaded("libjemalloc.so.2"),
        ),
        row(
            "tcmalloc",
            "C++, sized delete",
            "cxx_turns_tcmalloc",
            IN_CXX,
            Linked(GXX, &[SIZED, "-ltcmalloc"]),
        ),
        row(
            "tcmalloc",
            "C++, unsized, minimal",
            "cxx_turns_minimal_unsized",
            IN_CXX,
            Linked(GXX, &[UNSIZED, "-ltcmalloc_minimal"]),
        ),
        row(
            "mimalloc",
            "C++, sized delete",
            "cxx_turns_mimalloc",
            IN_CXX,
            Linked(GXX, &[SIZED, "-lmimalloc"]),
        ),
        row(
            "mimalloc",
            "C++, unsized delete",
            "cxx_turns_mimalloc_unsized",
            IN_CXX,
            Linked(GXX, &[UNSIZED, "-lmimalloc"]),
        ),
    ];
    check(&rows);
}

#[test]
fn rust_programs_leak_the_same_whatever_their_global_allocator() {
    use From::Cargo;
    check(&[
        row("Rust's System", "std", "turns_system", "", Cargo("turns_system")),
        row("tikv-jemallocator", "crate", "turns_jemallocator", "", Cargo("turns_jemalloc")),
        row("mimalloc", "crate", "turns_mimalloc_crate", "", Cargo("turns_mimalloc")),
    ]);
}

#[test]
fn a_pool_of_the_programs_own_is_traced_like_any_allocator() {
    let mut pool = row(
        "own pool",
        "--alloc-fn, --free-fn",
        "pool_turns",
        "allocators/pool_turns.c",
        From::Linked(GCC, &[]),
    );
    pool.options = &[
        "--alloc-fn",
        "pool_get:size=0,ret",
        "--alloc-fn",
        "pool_resize:ptr=0,size=1,ret",
        "--free-fn",
        "pool_put:ptr=0",
    ];
    check(&[pool]);
}
