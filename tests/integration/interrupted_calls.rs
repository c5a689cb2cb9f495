//! Are the books right when an allocator's call is interrupted, re-entered, or never returns?

use crate::programs::program;
use crate::report::Held;
use crate::trace::{LINKS, trace_program_with};

/// With every kind of link.
fn check(source: &str, expect: &[(&str, u64, u64)]) {
    LINKS.iter().for_each(|links| check_with(links, source, expect));
}

fn check_with(links: &[&str], source: &str, expect: &[(&str, u64, u64)]) {
    let report = trace_program_with(&program(source), links);
    for &(function, bytes, blocks) in expect {
        assert_eq!(report.held_by(function), Held { bytes, blocks }, "{function} {links:?}");
    }
    let held = |(bytes, blocks), &(_, more_bytes, more_blocks): &(&str, u64, u64)| {
        (bytes + more_bytes, blocks + more_blocks)
    };
    let (bytes, blocks) = expect.iter().fold((0, 0), held);
    assert_eq!(report.totals(), Held { bytes, blocks }, "{:#}", report.0);
}

#[test]
fn a_signal_handler_between_two_calls_counts_on_its_own_stack() {
    check("timer_signal.c", &[("allocate_in_handler", 200 * 1234, 200), ("churn", 0, 0)]);
}

#[test]
fn a_signal_handler_inside_a_call_counts_beside_the_call() {
    check(
        "signal_inside.c",
        &[
            ("interrupted_leak", 500 * 57, 500),
            ("interrupted_churn", 0, 0),
            ("handler_leaks", 1000 * 51, 1000),
            ("handler_churns", 0, 0),
        ],
    );
}

#[test]
fn a_call_left_by_longjmp_leaves_no_trace() {
    check(
        "longjmp_out.c",
        &[("leak_shallow", 200 * 61, 200), ("leak_deep", 200 * 67, 200), ("abandon_deep", 0, 0)],
    );
}

/// A return probe on a function that throws would end the target: the unwinder finds the probe's
/// trampoline in place of the return address.
#[test]
fn an_exception_passes_through_an_operator_new_and_the_target_lives() {
    check("throw_out.cc", &[("leak_shallow", 200 * 61, 200), ("leak_deep", 200 * 67, 200)]);
}
