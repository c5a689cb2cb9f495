//! Operators that a program has instead of the language's, and wrappers that keep a header before each
//! block: does each call count once, and nobody as freeing wrongly?

use crate::programs::variant;
use crate::report::Held;
use crate::trace::trace_program_with;

/// `bytes`: what one `new Thing` counts.
fn check(kind: &str, optimisation: &str, bytes: u64) {
    let name = format!("replaced_operators_{kind}_{optimisation}");
    let flags = [format!("-D{kind}"), format!("-{optimisation}")];
    let program =
        variant("replaced_operators.cc", &name, &flags.each_ref().map(|flag| flag.as_str()));
    let named = ["--alloc-fn", "xmalloc:size=0", "--free-fn", "xfree"];
    for checked in [&[][..], &["--check-frees"]] {
        let options = [&["--exact"][..], &named, checked].concat();
        let report = trace_program_with(&program, &options);
        let what = format!("{name} {checked:?}: {:#}", report.0);
        report.assert_complete();
        let held = report.held_under("leak_things");
        assert_eq!(held, Held { bytes: 20 * bytes, blocks: 20 }, "{what}");
        assert_eq!(report.held_under("leak_blocks"), Held { bytes: 700, blocks: 7 }, "{what}");
        assert_eq!(report.number("/health/allocs"), 520 + 307, "{what}");
        assert_eq!(report.number("/health/matched_frees"), 800, "{what}");
        for none in ["unknown_frees", "reappeared", "double_frees", "mismatched_frees"] {
            assert_eq!(report.0["health"][none].as_u64().unwrap_or(0), 0, "{none}: {what}");
        }
    }
}

#[test]
fn operators_that_count_their_calls_are_not_counted_twice() {
    check("COUNTING", "O2", 48);
    check("COUNTING", "O0", 48);
}

#[test]
fn blocks_behind_a_header_are_counted_once_and_their_frees_known() {
    check("HEADER", "O2", 48);
    check("HEADER", "O0", 48);
}

#[test]
fn operators_that_call_malloc_through_another_function_are_not_counted_twice() {
    check("HELPER", "O2", 48);
    check("HELPER", "O0", 48);
}

#[test]
fn blocks_out_of_a_thread_s_own_list_are_seen() {
    check("CACHE", "O2", 48);
    check("CACHE", "O0", 48);
}
