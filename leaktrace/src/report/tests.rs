//! What people and programs get to see.

use super::*;
use crate::model::{Target, VerdictKind};

const FORMATS: [Format; 4] = [Format::Json, Format::Text, Format::Folded, Format::Flamegraph];

fn render(report: &Report, format: Format, style: Style) -> String {
    let mut out = Vec::new();
    write(report, format, style, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn plain(report: &Report, format: Format) -> String {
    render(report, format, Style::default())
}

fn plan_text(targets: &[Target], probes: &[crate::model::ProbeInfo]) -> String {
    let mut out = Vec::new();
    let failures = fixture::troubled().health.probe_failures;
    plan::write_text(targets, probes, &failures, &["reallocarray".to_owned()], &mut out).unwrap();
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
fn plan_table() {
    insta::assert_snapshot!(plan_text(
        &[fixture::target(4242, "receipt-server")],
        &fixture::probes()
    ));
}

#[test]
fn plan_without_probes() {
    let text = plan_text(&[], &[]);
    assert!(text.contains("0 probes"), "{text}");
}

#[test]
fn plan_json() {
    let mut out = Vec::new();
    let targets = [fixture::target(4242, "receipt-server")];
    plan::write_json(
        &targets,
        &fixture::probes()[2..],
        &[],
        &["reallocarray".to_owned()],
        &mut out,
    )
    .unwrap();
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
    let reports = [fixture::server(), fixture::troubled(), fixture::empty(), fixture::weird()];
    for report in &reports {
        for width in [0, 40, 57, 80, 200] {
            for line in render(report, Format::Text, Style { width, ..Style::default() }).lines() {
                assert!(line.chars().count() <= width.max(40), "{width}: {line}");
            }
        }
    }
    for line in plan_text(&reports[3].targets, &fixture::probes()).lines() {
        assert!(line.chars().count() <= 100, "{line}");
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
