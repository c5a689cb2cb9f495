//! What people and programs get to see.

use super::*;
use crate::model::{Interval, Mode, Prediction, ProbeInfo, Target, VerdictKind};

const FORMATS: [Format; 4] = [Format::Json, Format::Text, Format::Folded, Format::Flamegraph];

fn render(report: &Report, format: Format, style: Style) -> String {
    let mut out = Vec::new();
    write(report, format, style, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn plain(report: &Report, format: Format) -> String {
    render(report, format, Style::default())
}

fn plan_text(target: &Target, probes: &[ProbeInfo], predicted: Option<&Prediction>) -> String {
    let mut out = Vec::new();
    let failures = fixture::troubled().health.probe_failures;
    let covered = ["reallocarray".to_owned()];
    let planned =
        plan::Planned { target, probes, failures: &failures, covered: &covered, predicted };
    plan::write_text(&planned, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn server_text() {
    insta::assert_snapshot!(plain(&fixture::server(), Format::Text));
}

#[test]
fn server_json() {
    insta::assert_snapshot!(plain(&fixture::server(), Format::Json));
}

#[test]
fn server_folded() {
    insta::assert_snapshot!(plain(&fixture::server(), Format::Folded));
}

#[test]
fn troubled_text() {
    insta::assert_snapshot!(plain(&fixture::troubled(), Format::Text));
}

#[test]
fn troubled_folded() {
    insta::assert_snapshot!(plain(&fixture::troubled(), Format::Folded));
}

#[test]
fn troubled_json() {
    let json: serde_json::Value =
        serde_json::from_str(&plain(&fixture::troubled(), Format::Json)).unwrap();
    assert_eq!(json["target"]["pid"], 4242);
    assert_eq!(json["targets"][1]["pid"], 4343);
    assert_eq!(json["health"]["lost"]["too_deep"], 0);
    assert_eq!(json["health"]["complete"], false);
    assert_eq!(json["health"]["probe_failures"][0]["function"], "posix_memalign");
    assert!(json["trace"]["ended_by"].is_null());
    assert!(json["cost"]["ns_per_hit"].is_null());
}

#[test]
fn doubted_text() {
    let style = Style { top: 1, frames: 2, ..Style::default() };
    insta::assert_snapshot!(render(&fixture::doubted(), Format::Text, style));
}

#[test]
fn what_is_not_enough_is_said_in_every_format_that_says_anything_of_health() {
    let json: serde_json::Value =
        serde_json::from_str(&plain(&fixture::doubted(), Format::Json)).unwrap();
    let trust = &json["health"]["trust"];
    assert_eq!(json["health"]["complete"], false);
    assert_eq!(trust["verdict"], "not_enough");
    assert_eq!(
        trust["reasons"][0],
        "calls of free in /opt/shop/lib/libpool.so are not seen, and what they free looks leaked"
    );
    assert_eq!(trust["reasons"].as_array().unwrap().len(), 2);
    assert_eq!(trust["entry_points"], serde_json::json!({ "found": 11, "covered": 10 }));
    assert_eq!(trust["bytes_before"], 1_288_490_189_u64);
    assert_eq!(trust["before"], "in_use");
    let share = trust["reappeared_share"].as_f64().unwrap();
    assert!((share - 412_003.0 / 1_509_200.0).abs() < 1e-12, "{share}");

    let svg = plain(&fixture::doubted(), Format::Flamegraph);
    assert!(svg.contains("incomplete: not enough for a verdict; calls of free in "), "{svg}");
    let live = screen::fit(&fixture::doubted(), Style::default(), 22);
    assert!(live.contains("Not enough for a verdict: calls of free in /opt/"), "{live}");
    let live = screen::fit(&fixture::doubted(), Style::default(), 40);
    assert!(live.contains("\nTrust:  NOT ENOUGH for a verdict; 10 of 11"), "{live}");
    // In windows nothing is said of frees.
    let windowed: serde_json::Value =
        serde_json::from_str(&plain(&fixture::windowed(), Format::Json)).unwrap();
    assert_eq!(windowed["health"]["trust"]["verdict"], "enough");
    assert!(windowed["health"]["trust"]["matched_share"].is_null());
}

#[test]
fn empty_text() {
    insta::assert_snapshot!(plain(&fixture::empty(), Format::Text));
}

#[test]
fn empty_others() {
    assert_eq!(plain(&fixture::empty(), Format::Folded), "");
    let svg = plain(&fixture::empty(), Format::Flamegraph);
    assert!(svg.contains("Nothing outstanding: idle (1) after 10.0 s"), "{svg}");
    assert!(svg.ends_with("</svg>\n"));
}

#[test]
fn windowed_text() {
    insta::assert_snapshot!(plain(&fixture::windowed(), Format::Text));
}

#[test]
fn windowed_text_120() {
    let style = Style { width: 120, top: 1, frames: 4, ..Style::default() };
    insta::assert_snapshot!(render(&fixture::windowed(), Format::Text, style));
}

#[test]
fn windowed_json() {
    let json: serde_json::Value =
        serde_json::from_str(&plain(&fixture::windowed(), Format::Json)).unwrap();
    assert_eq!(json["trace"]["mode"], "windowed");
    assert_eq!(json["trace"]["sample_bytes"], 524_288);
    assert_eq!(json["cost"]["budget_share"], 0.05);
    assert_eq!(json["cost"]["windows"]["opened"], 29);
    assert_eq!(json["cost"]["windows"]["work_seen"], 0.0683);
    assert_eq!(json["stacks"][0]["interval"]["low_bytes"], 11_534_336);
    assert_eq!(json["stacks"][0]["interval"]["high_bytes"], 13_631_488);
    assert!((json["smallest_leak_bytes_per_s"].as_f64().unwrap() - 582.54).abs() < 0.01);
    assert_eq!(json["health"]["sampled_out"], 98_200);
    assert_eq!(json["health"]["refuted_blocks"], 410);
    assert_eq!(json["health"]["unjudged_blocks"], 1);
}

#[test]
fn a_sample_is_told_from_windows() {
    let mut report = fixture::windowed();
    report.trace.mode = Mode::Sampled;
    report.health.trust.evidence.is_sample = true;
    report.cost.windows = None;
    let text = plain(&report, Format::Text);
    assert!(text.contains("\nSeen:   a sample every 512.0 KiB on average; figures are"), "{text}");
    assert!(text.contains("\n        a leak of 2.0 MiB/h or more would show\n"), "{text}");
    assert!(!text.contains("        windows"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&plain(&report, Format::Json)).unwrap();
    assert_eq!(json["trace"]["mode"], "sampled");
    assert!(json["cost"]["windows"].is_null());
    // Of the frees outside of it nothing is known.
    report.health.trust.evidence.in_windows = false;
    let json: serde_json::Value = serde_json::from_str(&plain(&report, Format::Json)).unwrap();
    assert!(json["health"]["trust"]["matched_share"].is_null());
    assert_eq!(json["health"]["trust"]["reappeared_share"], 0.0);
    let svg = plain(&report, Format::Flamegraph);
    assert!(svg.contains("~43.7 MiB in ~8,470 blocks"), "{svg}");
    assert!(svg.contains("seen: a sample every 512.0 KiB on average; figures are estimates"));
    assert!(!plain(&fixture::server(), Format::Flamegraph).contains("estimates"));
}

#[test]
fn intervals_are_as_wide_as_they_are() {
    let headline = |low_bytes, high_bytes| {
        let mut report = fixture::windowed();
        report.stacks[0].outstanding_bytes = 10 << 20;
        report.stacks[0].interval = Some(Interval { low_bytes, high_bytes });
        let text = plain(&report, Format::Text);
        text.lines().find(|line| line.starts_with("#1")).unwrap().to_owned()
    };
    assert!(headline(9 << 20, 11 << 20).starts_with("#1 ~10.0 MiB \u{b1}1.0 MiB in ~345 blocks"));
    assert!(headline(9 << 20, 15 << 20).starts_with("#1 ~10.0 MiB (9.0 MiB to 15.0 MiB) in "));
    assert!(headline(11 << 20, 12 << 20).starts_with("#1 ~10.0 MiB (11.0 MiB to 12.0 MiB) in "));
}

#[test]
fn a_cost_over_the_budget_is_an_alarm() {
    let mut report = fixture::windowed();
    let color = Style { color: true, ..Style::default() };
    assert!(!render(&report, Format::Text, color).contains("OVER"));
    report.cost.target_cpu_share = Some(0.071);
    report.cost.probe_s = report.cost.target_cpu_s.map(|cpu_s| 0.071 * cpu_s);
    let text = render(&report, Format::Text, color);
    let line = "\x1b[1;31mCost:   7.1 % of the target's CPU time, OVER the budget of 5 %\x1b[0m\n";
    assert!(text.contains(line), "{text}");
}

/// A trace of seconds spends what it is lent at first.
#[test]
fn a_cost_within_the_credit_says_so() {
    let mut report = fixture::windowed();
    report.cost.target_cpu_s = Some(0.12);
    report.cost.probe_s = Some(0.018);
    report.cost.target_cpu_share = Some(0.15);
    let text = plain(&report, Format::Text);
    let line = "\nCost:   15.0 % of the target's CPU time, of a budget of 5 % + 50 ms on credit\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn plan_table() {
    let target = fixture::target(4242, "receipt-server");
    insta::assert_snapshot!(plan_text(&target, &fixture::probes(), Some(&fixture::prediction())));
}

#[test]
fn plan_without_probes() {
    let text = plan_text(&fixture::target(1, "idle"), &[], None);
    assert!(text.contains("0 probes"), "{text}");
    assert!(!text.contains("Predicted"), "{text}");
}

#[test]
fn predictions_say_what_they_know() {
    let told = |change: fn(&mut Prediction)| {
        let mut prediction = fixture::prediction();
        change(&mut prediction);
        plan::cost_line(&prediction)
    };
    let start = "13.1 % of its CPU time at 49,980 allocations/s and 49,712 frees/s; traced in \
                 windows, with about 33.2 % of its work under a budget of 5 %";
    assert_eq!(told(|_| ()), start);
    let line = told(|told| told.is_lower_bound = true);
    assert!(line.starts_with("13.1 % of its CPU time or more at 49,980"), "{line}");
    let line = told(|told| told.work_seen = Some(1.0));
    assert!(line.ends_with("; traced all the time under a budget of 5 %"), "{line}");
    let line = told(|told| (told.budget_share, told.work_seen) = (None, None));
    assert!(!line.contains("budget"), "{line}");
    let line = told(|told| (told.exact_share, told.sampled_share) = (None, None));
    assert!(line.starts_with("unknown, since it used no CPU time"), "{line}");
    let line = told(|told| (told.allocations_per_s, told.frees_per_s) = (0.0, 0.0));
    assert_eq!(line, "none: it allocated and freed nothing in 100 ms");
}

#[test]
fn plan_json() {
    let mut out = Vec::new();
    let (target, covered) = (fixture::target(4242, "receipt-server"), ["reallocarray".to_owned()]);
    let planned = plan::Planned {
        target: &target,
        probes: &fixture::probes()[2..],
        failures: &[],
        covered: &covered,
        predicted: Some(&fixture::prediction()),
    };
    plan::write_json(&planned, &mut out).unwrap();
    insta::assert_snapshot!(String::from_utf8(out).unwrap());
}

#[test]
fn flame_graphs_are_the_same_every_time() {
    let svg = plain(&fixture::server(), Format::Flamegraph);
    assert_eq!(svg, plain(&fixture::server(), Format::Flamegraph));
    let title = "Outstanding memory: receipt-server (4242), 43.7 MiB in 8,470 blocks after 10.0 s";
    assert!(svg.contains(title));
    assert!(svg.contains("render_receipt(Order const&amp;) (12,582,912 bytes"));
    assert!(svg.contains("the top 3 of 10 stacks"));
    let svg = plain(&fixture::troubled(), Format::Flamegraph);
    assert!(svg.contains("incomplete: 1,113 events lost, 1 probe not placed"));
}

#[test]
fn no_line_is_wider_than_asked() {
    let reports = [
        fixture::server(),
        fixture::windowed(),
        fixture::troubled(),
        fixture::empty(),
        fixture::weird(),
    ];
    for report in &reports {
        for width in [0, 40, 57, 80, 200] {
            for line in render(report, Format::Text, Style { width, ..Style::default() }).lines() {
                assert!(line.chars().count() <= width.max(40), "{width}: {line}");
            }
        }
    }
    let huge = Prediction {
        counted_s: f64::NAN,
        allocations_per_s: f64::MAX,
        frees_per_s: f64::INFINITY,
        ns_per_hit: f64::MAX,
        exact_share: Some(f64::NAN),
        sampled_share: Some(f64::MAX),
        work_seen: Some(f64::NAN),
        sample_bytes: u64::MAX,
        ..fixture::prediction()
    };
    for target in &reports[4].targets {
        for line in plan_text(target, &fixture::probes(), Some(&huge)).lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }
}

#[test]
fn weird_values_pass_every_writer_without_control_characters() {
    let weird = fixture::weird();
    for format in FORMATS {
        let text = plain(&weird, format);
        let bad = text.chars().find(|c| c.is_control() && !"\n\t\r".contains(*c));
        // JSON carries names as the model has them, C0 escaped.
        assert!(format == Format::Json || bad.is_none(), "{format:?} has {bad:?}");
        assert!(!text.contains('\x1b'), "{format:?}");
    }
    for line in plain(&weird, Format::Folded).lines() {
        let (stack, bytes) = line.rsplit_once(' ').unwrap();
        assert_eq!(bytes.parse(), Ok(u64::MAX));
        assert!(stack.split(';').all(|frame| !frame.is_empty()), "{line}");
    }
    let json: serde_json::Value = serde_json::from_str(&plain(&weird, Format::Json)).unwrap();
    assert!(json["stacks"][0]["growth_bytes_per_s"].is_null());
}

#[test]
fn colours_only_when_asked() {
    let server = fixture::server();
    assert!(!plain(&server, Format::Text).contains('\x1b'));
    let text = render(&server, Format::Text, Style { color: true, ..Style::default() });
    assert!(text.contains("\x1b[1;31mThe leak: render_receipt"), "{text}");
    let mut bare = text;
    for code in ["0", "1", "2", "1;31"] {
        bare = bare.replace(&format!("\x1b[{code}m"), "");
    }
    assert_eq!(bare, plain(&server, Format::Text));
}

#[test]
fn a_live_view_cuts_long_stacks_and_top_cuts_the_list() {
    let mut report = fixture::server();
    report.stacks_outstanding = 3;
    let deep = (0..40).map(|i| fixture::frame(i, "recurse(int)", "deep.cpp", 7));
    report.stacks[0].frames.extend(deep);
    let text = render(&report, Format::Text, Style { frames: 24, top: 1, ..Style::default() });
    assert!(text.contains("    ... 24 more frames\n"), "{text}");
    assert!(text.contains("\n2 more stacks hold 31.7 MiB.\n"), "{text}");
    let whole = plain(&report, Format::Text);
    assert!(!whole.contains("more frame"), "{whole}");
}

#[test]
fn the_conclusion_follows_the_verdicts() {
    let conclusion = |kinds: [VerdictKind; 3]| {
        let mut report = fixture::server();
        for (stack, kind) in report.stacks.iter_mut().zip(kinds) {
            stack.verdict.kind = kind;
        }
        plain(&report, Format::Text).lines().nth(3).unwrap().to_owned()
    };
    use VerdictKind::{Churning, Growing, Steady, Undecided};
    assert_eq!(conclusion([Steady, Steady, Churning]), "No stack keeps growing.");
    assert!(
        conclusion([Undecided, Steady, Churning]).starts_with("Undecided: traced for too short")
    );
    assert!(
        conclusion([Steady, Growing, Churning]).starts_with("The leak: shop::LruCache<…>::insert(")
    );
    assert!(conclusion([Growing, Growing, Churning]).starts_with("The leak: render_receipt("));
}

#[test]
fn formats_by_name() {
    assert_eq!(Format::from_file_name("a/b.json"), Ok(Format::Json));
    assert_eq!(Format::from_file_name("b.txt"), Ok(Format::Text));
    assert_eq!(Format::from_file_name("b.folded"), Ok(Format::Folded));
    assert_eq!(Format::from_file_name("b.svg"), Ok(Format::Flamegraph));
    for wrong in ["b.pb.gz", "b.html", "b.md", "b.lt", "b", "b.svgz", ""] {
        let error = Format::from_file_name(wrong).unwrap_err();
        assert!(error.contains(".json, .txt, .folded or .svg"), "{error}");
    }
    assert!(Format::from_file_name("b.pb.gz").unwrap_err().contains("a pprof profile yet"));
    assert_eq!(Format::from_name("text"), Ok(Format::Text));
    assert!(Format::from_name("svg").is_err());
}
