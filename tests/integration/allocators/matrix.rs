//! Every function of every allocator, in every odd case: does the ledger agree with the record that the
//! program itself keeps?

use std::collections::{BTreeMap, BTreeSet};

use super::programs::Built;
use crate::processes::{Target, Truth, alone};
use crate::report::Report;
use crate::trace::Trace;

/// An allocator, and how a program is built with it.
struct Column {
    allocator: &'static str,
    name: &'static str,
    compiler: &'static str,
    flags: &'static [&'static str],
    /// Whether there are C++ operators.
    operators: bool,
}

const COLUMNS: &[Column] = &[
    column("glibc", "calls_glibc", &["-lstdc++"]),
    column("glibc -static", "calls_glibc_static", &["-static", "-lstdc++", "-lm"]),
    Column { compiler: "musl-gcc", operators: false, ..column("musl", "calls_musl", &[]) },
    Column {
        compiler: "musl-gcc",
        operators: false,
        ..column(
            "musl -static",
            "calls_musl_static",
            // What is only asked for weakly is not looked for in an archive.
            &[
                "-static",
                "-Wl,-u,malloc,-u,calloc,-u,realloc,-u,reallocarray,-u,free,-u,strdup",
                "-Wl,-u,aligned_alloc,-u,memalign,-u,posix_memalign,-u,valloc",
            ],
        )
    },
    column("jemalloc", "calls_jemalloc", &["-ljemalloc", "-lstdc++"]),
    column("jemalloc.a", "calls_jemalloc_archive", &["-l:libjemalloc.a", "-lstdc++", "-lm"]),
    column("tcmalloc", "calls_tcmalloc", &["-ltcmalloc", "-lstdc++"]),
    column("tcmalloc_minimal", "calls_minimal", &["-ltcmalloc_minimal", "-lstdc++"]),
    column("mimalloc", "calls_mimalloc", &["-lmimalloc", "-lstdc++"]),
];

const fn column(
    allocator: &'static str,
    name: &'static str,
    flags: &'static [&'static str],
) -> Column {
    Column { allocator, name, compiler: "gcc", flags, operators: true }
}

/// What is wrong, by the program's function; nothing where an entry is empty.
type Verdicts = BTreeMap<String, String>;

/// The row of what belongs to no function.
const ALL: &str = "(all of them)";

fn differs(what: &str, is: u64, should_be: u64) -> Option<String> {
    (is != should_be).then(|| format!("{what} {is}, not {should_be}; "))
}

/// Compares the record of each function, and of all, with a report.
fn verdicts(record: &BTreeMap<String, Truth>, report: &Report) -> Verdicts {
    let mut verdicts: Verdicts = record
        .iter()
        .map(|(function, truth)| {
            let held = report.held_in(function);
            let blocks = truth.get("allocs") - truth.get("frees");
            let bytes = truth.get("bytes") - truth.get("freed_bytes");
            let wrong =
                [differs("blocks", held.blocks, blocks), differs("bytes", held.bytes, bytes)];
            (function.clone(), wrong.into_iter().flatten().collect())
        })
        .collect();
    let sum = |of: &str| record.values().map(|truth| truth.get(of)).sum::<u64>();
    let figures = [
        ("/health/allocs", sum("allocs")),
        ("/health/frees", sum("frees")),
        ("/health/matched_frees", sum("frees")),
        ("/health/unknown_frees", 0),
        ("/health/reappeared", 0),
        ("/totals/allocated_bytes", sum("bytes")),
        ("/totals/freed_bytes", sum("freed_bytes")),
        ("/totals/outstanding_blocks", sum("allocs") - sum("frees")),
    ];
    let mut wrong: String = figures
        .into_iter()
        .filter_map(|(of, should_be)| differs(of, report.number(of), should_be))
        .collect();
    // Of a failure that a function finds without a call of the one that has the probe, nobody hears.
    // One that throws has no return: its call counts as left.
    let left = report.number("/health/abandoned_calls");
    if left > sum("thrown") {
        wrong.push_str(&format!("left {left}, of {} thrown; ", sum("thrown")));
    }
    let failed = report.number("/health/failed_allocs") + left;
    let (least, most) = (sum("failed"), sum("failed") + sum("overflowed"));
    if failed < least || failed > most {
        wrong.push_str(&format!("failed {failed}, not {least} to {most}; "));
    }
    if report.at("/health/complete") != true {
        wrong.push_str(&format!("incomplete: {}; ", report.at("/health")));
    }
    verdicts.insert(ALL.to_owned(), wrong);
    verdicts
}

fn traced(column: &Column) -> Verdicts {
    let built = Built::that_calls_all(column.name, column.compiler, column.flags, column.operators);
    let mut target = Target::spawn(&mut built.command());
    let mut trace = Trace::attach(&target, &[]);
    target.work();
    let record: BTreeMap<String, Truth> = target
        .said("row ")
        .map(|line| {
            let function = line.split(' ').nth(1).unwrap().to_owned();
            (function, Truth::parse(line))
        })
        .collect();
    let report = trace.interrupt();
    assert!(target.end().success(), "{}: tracing must not change how it ends", column.name);
    verdicts(&record, &report)
}

/// As a table of functions and allocators, with the differences below it.
fn shown(columns: &[(&str, Verdicts)]) -> String {
    let functions: BTreeSet<&String> = columns.iter().flat_map(|(_, of)| of.keys()).collect();
    let mut table = format!("{:<44}", "function");
    for (allocator, _) in columns {
        table.push_str(&format!(" {allocator:>16}"));
    }
    table.push('\n');
    let mut wrong = String::new();
    for function in functions {
        table.push_str(&format!("{function:<44}"));
        for (allocator, verdicts) in columns {
            let cell = match verdicts.get(function) {
                None => "-",
                Some(differences) if differences.is_empty() => "ok",
                Some(differences) => {
                    wrong.push_str(&format!("{allocator}, {function}: {differences}\n"));
                    "WRONG"
                }
            };
            table.push_str(&format!(" {cell:>16}"));
        }
        table.push('\n');
    }
    table + &wrong
}

/// What the libraries have, and the record must therefore name.
const MUST_BE_THERE: &[(&str, &[&str])] = &[
    ("glibc", &["by_malloc", "by_reallocarray", "for_free", "by__Znwm", "for__ZdaPvm"]),
    ("musl -static", &["by_aligned_alloc", "by_posix_memalign", "for_free"]),
    ("jemalloc", &["by_mallocx", "by_xallocx", "for_sdallocx", "by__ZnwmSt11align_val_t"]),
    ("tcmalloc", &["by_tc_new", "for_tc_delete_sized", "by_tc_realloc"]),
    ("mimalloc", &["by_mi_expand", "by_mi_reallocf", "by_mi_heap_malloc", "for_mi_free_size"]),
    ("mimalloc", &["by_mi_strdup", "by_mi_heap_strndup", "by_mi_wcsdup", "by_mi_dupenv_s"]),
];

#[test]
fn every_function_of_every_allocator_is_booked_as_the_program_itself_does() {
    // As for the table: no other leaktrace at the same libraries.
    let _alone = alone();
    let columns: Vec<(&str, Verdicts)> =
        COLUMNS.iter().map(|column| (column.allocator, traced(column))).collect();
    let matrix = shown(&columns);
    println!("{matrix}");
    for (allocator, functions) in MUST_BE_THERE {
        let (_, verdicts) = columns.iter().find(|(name, _)| name == allocator).unwrap();
        for function in *functions {
            assert!(verdicts.contains_key(*function), "{allocator} was not asked for {function}");
        }
    }
    let wrong = columns.iter().flat_map(|(_, of)| of.values()).filter(|of| !of.is_empty()).count();
    assert_eq!(wrong, 0, "differences from the record:\n{matrix}");
}
