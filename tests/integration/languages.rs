//! Do C++ and Rust programs show their own names for what leaks?

use crate::programs::program;
use crate::report::{Held, Report, frame};
use crate::trace::trace_program;

/// What passes through `function` is exactly so many bytes and blocks, with its place in `file`.
fn check(report: &Report, function: &str, file: &str, held: Held) {
    assert_eq!(report.held_under(function), held, "{function}: {:#}", report.0);
    if held.blocks > 0 {
        let frame = report.stacks().iter().find_map(|stack| frame(stack, function)).unwrap();
        assert!(frame["file"].as_str().unwrap().ends_with(file), "{frame}");
        assert!(frame["line"].as_u64().unwrap() > 0, "{frame}");
    }
}

#[test]
fn cxx_methods_are_demangled_and_exact() {
    let report = trace_program(&program("cxx_leak.cc"));
    let file = "cxx_leak.cc";
    check(&report, "shop::Cache<shop::Receipt>::remember", file, Held { bytes: 6000, blocks: 50 });
    check(&report, "shop::Ledger::pages", file, Held { bytes: 16_000, blocks: 20 });
    check(&report, "shop::Cache<shop::Receipt>::entry", file, Held { bytes: 6000, blocks: 50 });
    check(&report, "shop::Ledger::open_page", file, Held { bytes: 16_000, blocks: 20 });
    check(&report, "shop::leak_container", file, Held { bytes: 344, blocks: 2 });
    check(&report, "shop::grow_and_drop", file, Held::default());
    assert_eq!(report.totals(), Held { bytes: 22_344, blocks: 72 });
    report.assert_every_free_matched();
}

#[test]
fn a_forgotten_rust_vector_is_named_with_its_line() {
    let report = trace_program(&program("rust_leak.rs"));
    let held = Held { bytes: 75_025, blocks: 25 };
    check(&report, "billing::forget_invoice", "rust_leak.rs", held);
    check(&report, "billing::drop_invoice", "rust_leak.rs", Held::default());
}
