//! Is every block that a program holds counted, once, and for the function that allocated it?

use crate::processes::Target;
use crate::programs::program;
use crate::report::{Held, Report};
use crate::trace::{LINKS, Trace, trace_program_with};

/// Traces the program built from `source`, with every kind of link: every function holds exactly
/// the bytes and blocks expected, and no other function holds any. Gives the last report.
fn check(source: &str, expect: &[(&str, u64, u64)]) -> Report {
    let [first, last] = LINKS.map(|links| check_with(links, source, expect));
    assert_eq!(first.totals(), last.totals());
    last
}

fn check_with(links: &[&str], source: &str, expect: &[(&str, u64, u64)]) -> Report {
    let report = trace_program_with(&program(source), links);
    let mut total = Held::default();
    for &(function, bytes, blocks) in expect {
        assert_eq!(report.held_by(function), Held { bytes, blocks }, "{function} {links:?}");
        total.bytes += bytes;
        total.blocks += blocks;
    }
    assert_eq!(report.totals(), total, "{:#}", report.0);
    report
}

#[test]
fn three_blocks_of_4096_are_12288_bytes_at_one_named_line() {
    let report = check("leak_three.c", &[("leak_here", 12_288, 3)]);
    report.assert_every_free_matched();
    let [stack] = report.stacks() else { panic!("one call site: {:#}", report.0) };
    assert_eq!(stack["allocated_bytes"], 12_288);
    assert_eq!(stack["freed_blocks"], 0);
    assert_eq!(crate::report::names(stack)[..2], ["leak_here", "main"]);
    let leaf = &stack["frames"][0];
    assert!(leaf["file"].as_str().unwrap().ends_with("leak_three.c"), "{leaf}");
    // The line of the call, or the one behind it: what a return address means.
    let source = include_str!("../programs/leak_three.c");
    let call = source.lines().position(|line| line.contains("keep(malloc(size))")).unwrap() + 1;
    assert_eq!(leaf["line"], call, "{leaf}");
    assert!(leaf["module"].as_str().unwrap().ends_with("leak_three"), "{leaf}");
    assert_eq!(report.text("/trace/mode"), "exact");
    assert_eq!(report.text("/target/comm"), "leak_three");
}

#[test]
fn every_entry_point_of_glibc_counts_what_was_asked_for() {
    let report = check(
        "entry_points.c",
        &[
            ("leak_by_malloc", 1001, 1),
            ("leak_by_calloc", 2 * 7 * 143, 2),
            ("leak_by_realloc", 3 * 1003, 3),
            ("leak_by_reallocarray", 4 * 5 * 201, 4),
            ("leak_by_memalign", 5 * 1007, 5),
            ("leak_by_aligned_alloc", 6 * 1009, 6),
            ("leak_by_posix_memalign", 7 * 1013, 7),
            ("leak_by_valloc", 8 * 1019, 8),
            ("leak_by_pvalloc", 9 * 8192, 9),
        ],
    );
    report.assert_every_free_matched();
    assert_eq!(report.number("/totals/freed_blocks"), 99);
    assert_eq!(report.number("/totals/allocated_blocks"), 45 + 99);
}

#[test]
fn realloc_keeps_a_block_or_hands_it_over_in_all_its_forms() {
    let report = check(
        "realloc_forms.c",
        &[
            ("from_null", 777, 1),
            ("made_for_in_place", 0, 0),
            ("in_place", 1500, 1),
            ("made_for_move", 0, 0),
            ("grown_and_moved", 65_536, 1),
            ("main", 16, 1),
            ("made_for_zero", 0, 0),
            ("to_zero", 0, 0),
            ("made_for_failure", 2222, 1),
            ("failed", 0, 0),
            ("made_for_overflow", 3333, 1),
            ("overflowed", 0, 0),
            ("grown_by_the_kernel", 8 << 20, 1),
        ],
    );
    report.assert_every_free_matched();
}

#[test]
fn failed_allocations_and_free_of_null_change_nothing_and_a_free_on_another_thread_counts() {
    let report =
        check("nothing_changes.c", &[("leak_in_thread", 321, 1), ("change_nothing", 0, 0)]);
    assert_eq!(report.number("/totals/allocated_blocks"), 1001);
    assert_eq!(report.number("/totals/freed_blocks"), 1000);
    assert_eq!(report.number("/health/allocs"), 1001);
}

#[test]
fn four_threads_that_free_one_anothers_blocks_leave_exactly_what_they_leak() {
    let report = check("crosswise.c", &[("leak_some", 33_300, 100), ("allocate", 0, 0)]);
    report.assert_every_free_matched();
    assert_eq!(report.number("/totals/allocated_blocks"), 80_100);
}

#[test]
fn stacks_that_take_turns_and_differ_in_one_frame_further_out_are_told_apart() {
    let report = check("one_leaf.c", &[("allocate", 100 * (60 + 30 + 20 + 60 + 15), 185)]);
    for (way, blocks) in [
        ("each_round", 60),
        ("every_second", 30),
        ("every_third", 20),
        ("small_frame", 60),
        ("large_frame", 15),
    ] {
        assert_eq!(report.held_under(way), Held { bytes: 100 * blocks, blocks }, "{way}");
    }
}

/// Traces `ages_sizes.c` with `option`; gives the report of the moment when the young blocks exist.
fn filtered(option: &[&str], ageing_s: &str) -> Report {
    let mut target = Target::start(&program("ages_sizes.c"), &[ageing_s]);
    let mut trace = Trace::attach(&target, option);
    assert_eq!(target.work().get("aged"), ageing_s.parse::<u64>().unwrap());
    assert_eq!(target.work().get("young"), 9);
    trace.interrupt()
}

#[test]
fn min_age_leaves_out_young_blocks() {
    let report = filtered(&["--min-age", "8s"], "10");
    assert_eq!(report.held_by("leak_old"), Held { bytes: 4200, blocks: 6 });
    assert_eq!(report.held_by("leak_young"), Held::default());
}

#[test]
fn min_size_and_max_size_leave_out_other_blocks() {
    let report = filtered(&["--min-size", "800"], "0");
    assert_eq!(report.held_by("leak_size"), Held { bytes: 111_000, blocks: 3 });
    assert_eq!(report.totals(), Held { bytes: 111_000, blocks: 3 });
    let report = filtered(&["-z", "700", "-Z", "1000"], "0");
    assert_eq!(report.held_by("leak_size"), Held { bytes: 1000, blocks: 1 });
    assert_eq!(report.totals(), Held { bytes: 1000 + 15 * 700, blocks: 16 });
}
