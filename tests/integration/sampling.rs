//! Are the figures of a sample right, within what the report says of their error?

use crate::processes::Target;
use crate::programs::program;
use crate::report::{Held, Report, names};
use crate::trace::Trace;

/// What `sampled_sites.c` leaks: the function, bytes of a block, blocks.
const SITES: [(&str, u64, u64); 5] = [
    ("tiny", 16, 200_000),
    ("middling", 3000, 20_000),
    ("large", 70_000, 1000),
    ("huge", 1 << 20, 60),
    ("grown", 2000, 20_000),
];

/// `estimate` lies within five standard errors of `truth`, and half a unit of rounding.
fn assert_near(what: &str, estimate: u64, truth: u64, error: f64) {
    let off = estimate.abs_diff(truth) as f64;
    assert!(off <= 5.0 * error + 1.0, "{what}: {estimate}, not {truth} (error {error:.0})");
}

/// Traces with one sample for each `mean` bytes; gives how many intervals have the truth in them.
fn check(option: &str, mean: u64) -> usize {
    let mut target = Target::start::<&str>(&program("sampled_sites.c"), &[]);
    let mut trace = Trace::attach(&target, &["--sample", option]);
    target.work();
    let report = trace.interrupt();
    report.assert_complete();
    assert!(target.end().success());
    assert_eq!(report.text("/trace/mode"), "sampled");
    assert_eq!(report.number("/trace/sample_bytes"), mean);
    assert!(report.number("/health/sampled_out") > 0);
    assert!(report.at("/health/trust/matched_share").is_null());
    for gone in ["freed", "grown_and_freed", "to_be_grown"] {
        assert_eq!(report.held_by(gone), Held::default(), "{gone}: {:#}", report.0);
    }
    SITES.into_iter().filter(|site| check_site(&report, mean, *site)).count()
}

/// Whether the interval of a site has the truth in it; its figures are right in any case.
fn check_site(report: &Report, mean: u64, (function, size, blocks): (&str, u64, u64)) -> bool {
    let held = report.held_by(function);
    let chance = (size as f64 / mean as f64).min(1.0);
    // A kept block stands for 1 / chance blocks.
    let error = (blocks as f64 * (1.0 - chance) / chance).sqrt();
    assert_near(&format!("blocks of {function}"), held.blocks, blocks, error);
    let (bytes, error) = (size * blocks, size as f64 * error);
    assert_near(&format!("bytes of {function}"), held.bytes, bytes, error);
    // What is sampled out altogether has no stack, and no interval.
    report.stacks().iter().filter(|stack| names(stack).first() == Some(&function)).any(|stack| {
        let end = |end| stack["interval"][end].as_u64().unwrap();
        (end("low_bytes")..=end("high_bytes")).contains(&bytes)
    })
}

#[test]
fn a_sample_has_the_bytes_and_blocks_of_every_site_within_its_error() {
    // One in twenty may be outside; three of ten are so once in a hundred runs.
    let inside = check("4KiB", 4096) + check("512KiB", 512 << 10);
    assert!(inside >= 7, "{inside} of 10 intervals have the truth in them");
}
