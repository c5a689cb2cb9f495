//! Is every format written, does it parse, and does nothing that a target names reach the terminal
//! as a command to it?

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::processes::Target;
use crate::programs::{program, variant};
use crate::report::Report;
use crate::trace::{Ended, Trace};

const ESCAPE: char = '\x1b';

/// The lines of a folded report: frames from the outermost on, and outstanding bytes.
fn parse_folded(text: &str) -> Vec<(Vec<&str>, u64)> {
    let line = |line| {
        let (stack, bytes) = str::rsplit_once(line, ' ').expect("a count behind the stack");
        (stack.split(';').collect(), bytes.parse().expect("a count"))
    };
    text.lines().map(line).collect()
}

/// The path and bytes of `leak_three.c` in folded form.
fn assert_folded_leak(text: &str) {
    let stacks = parse_folded(text);
    let leak: Vec<_> =
        stacks.iter().filter(|(frames, _)| frames.last() == Some(&"leak_here")).collect();
    let [(frames, bytes)] = leak[..] else { panic!("one stack:\n{text}") };
    assert_eq!(frames[frames.len() - 2], "main", "{text}");
    assert_eq!(*bytes, 12_288);
}

/// Every element that is opened is closed, in order, and attributes are quoted.
fn assert_well_formed(svg: &str) {
    assert!(svg.starts_with("<?xml"), "{}", &svg[..svg.len().min(200)]);
    let mut open = Vec::new();
    let mut rest = svg;
    while let Some((_, behind)) = rest.split_once('<') {
        let end = |mark| behind.find(mark).unwrap_or_else(|| panic!("no {mark} in {behind:.80}"));
        let length = if behind.starts_with("![CDATA[") {
            end("]]>") + 3
        } else if behind.starts_with("!--") {
            end("-->") + 3
        } else {
            let tag = &behind[..end(">")];
            let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "closed in order");
            } else if !tag.ends_with('/') && !tag.starts_with(['?', '!']) {
                open.push(name);
            }
            assert_eq!(tag.matches('"').count() % 2, 0, "<{tag}>");
            tag.len() + 1
        };
        rest = &behind[length..];
    }
    assert_eq!(open, Vec::<&str>::new(), "still open");
}

/// Traces three leaked blocks with `options`; the command and what it said.
fn trace_three(options: &[&str]) -> (Trace, Ended) {
    let mut target = Target::start::<&str>(&program("leak_three.c"), &[]);
    let mut trace = Trace::attach(&target, options);
    target.work();
    trace.signal(libc::SIGINT);
    let ended = trace.ended();
    ended.assert_code(0);
    (trace, ended)
}

#[test]
fn every_output_file_is_written_in_the_format_of_its_name() {
    let options = ["-o", "x.json", "-o", "x.txt", "-o", "x.folded", "-o", "x.svg"];
    let (trace, _) = trace_three(&options);
    let read = |name| fs::read_to_string(trace.file(name)).unwrap();
    assert_eq!(Report::parse(&read("x.json")).held_by("leak_here").bytes, 12_288);
    assert_folded_leak(&read("x.folded"));
    let svg = read("x.svg");
    assert_well_formed(&svg);
    assert!(svg.contains("leak_here") && svg.contains("12,288 bytes"), "{svg}");
    let text = read("x.txt");
    let bill =
        ["\nSeen:   every allocation", "\nCost:   ", "        leaktrace  ", " in the kernel\n"];
    for part in ["leak_here", "leak_three.c:", "12.0 KiB", "3 blocks"].into_iter().chain(bill) {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[test]
fn the_text_report_goes_to_standard_output_without_colours() {
    let (_, ended) = trace_three(&[]);
    assert!(ended.stdout.contains("leak_here"), "{}", ended.stdout);
    assert!(!ended.stdout.contains(ESCAPE), "standard output is no terminal: {}", ended.stdout);
}

#[test]
fn standard_output_is_folded_stacks_and_nothing_else() {
    let (_, ended) = trace_three(&["--format", "folded"]);
    assert_folded_leak(&ended.stdout);
}

#[test]
fn standard_output_is_one_json_object_and_nothing_else() {
    let (_, ended) = trace_three(&["--format", "json"]);
    assert_eq!(Report::parse(&ended.stdout).held_by("leak_here").bytes, 12_288);
}

#[test]
fn a_report_says_what_it_cost() {
    let mut target = Target::start::<&str>(&program("leak_three.c"), &[]);
    let mut trace = Trace::attach(&target, &["--sample", "0"]);
    // What a hit costs is measured meanwhile.
    trace.wait_for_hit_cost();
    target.work();
    let report = trace.interrupt();
    let cost = |field: &str| {
        report.at("/cost")[field].as_f64().unwrap_or_else(|| panic!("no {field}: {}", report.0))
    };
    assert!(cost("probe_hits") > 0.0 && cost("ns_per_hit") > 0.0);
    assert!((0.0..5.0).contains(&cost("target_cpu_s")) && cost("target_cpu_s") > 0.0);
    assert!((0.0..=cost("target_cpu_s")).contains(&cost("probe_s")) && cost("probe_s") > 0.0);
    let share = cost("probe_s") / cost("target_cpu_s");
    assert!((share - cost("target_cpu_share")).abs() < 1e-6, "{share}: {}", report.at("/cost"));
    // Loading the kernel half takes milliseconds at the least, and its maps megabytes.
    assert!((0.001..60.0).contains(&cost("own_cpu_s")), "{}", report.at("/cost"));
    assert!(cost("own_memory_bytes") > f64::from(1 << 20));
    assert!(cost("kernel_memory_bytes") > f64::from(1 << 20));
    assert!(report.at("/cost/budget_share").is_null() && report.at("/cost/windows").is_null());
    assert_eq!(report.text("/trace/mode"), "exact");
    assert_eq!(report.number("/trace/sample_bytes"), 0);
    assert!(report.at("/smallest_leak_bytes_per_s").is_null());
    assert!(report.at("/stacks/0/interval").is_null());
    for counted in ["sampled_out", "refuted_blocks", "unjudged_blocks"] {
        assert_eq!(report.number(&format!("/health/{counted}")), 0);
    }
}

#[test]
fn a_sample_size_that_was_rounded_is_told() {
    let (_, ended) = trace_three(&["--format", "json", "--sample", "1000"]);
    let report = Report::parse(&ended.stdout);
    let notes = report.at("/health/notes").to_string();
    assert!(notes.contains("--sample 1000 is rounded") && notes.contains("1024 bytes"), "{notes}");
}

#[test]
fn the_top_stacks_are_as_many_as_asked_for_and_sorted_as_asked() {
    let mut target = Target::start::<&str>(&program("entry_points.c"), &[]);
    let mut trace = Trace::start(&[
        "attach",
        "-p",
        &target.pid().to_string(),
        "--sort",
        "blocks",
        "-T",
        "2",
        "--exact",
        "-o",
        "report.json",
    ]);
    trace.wait_for_tracing();
    target.work();
    let report = trace.interrupt();
    let blocks: Vec<_> = report.stacks().iter().map(|it| &it["outstanding_blocks"]).collect();
    assert_eq!(blocks, [9, 8]);
    assert_eq!(report.totals().blocks, 45, "totals are over all stacks");
}

/// `hostile.c` with an escape sequence, a line feed and the folded format's own separator in the
/// name of its leaking function and in its path.
fn hostile_program(dir: &tempfile::TempDir) -> PathBuf {
    let sound = variant("hostile.c", "hostile_without_debug", &["-g0"]);
    let dir = dir.path().join("\x1b[31mred\n;dir");
    fs::create_dir(&dir).unwrap();
    let hostile = dir.join("\x1b[2Jprogram");
    let output = Command::new("objcopy")
        .arg("--redefine-sym")
        .arg("leak_to_be_renamed=leak\x1b[31m;\nred <b>&")
        .arg(sound)
        .arg(&hostile)
        .output()
        .expect("needs binutils");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    hostile
}

#[test]
fn no_escape_sequence_of_a_target_reaches_a_report_or_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let mut target = Target::start::<&str>(&hostile_program(&dir), &[]);
    let options = ["-v", "-o", "x.txt", "-o", "x.folded", "-o", "x.svg"];
    let mut trace = Trace::attach(&target, &options);
    target.work();
    trace.signal(libc::SIGINT);
    let ended = trace.ended();
    ended.assert_code(0);
    let read = |name| fs::read_to_string(trace.file(name)).unwrap();
    let (text, folded, svg, json) =
        (read("x.txt"), read("x.folded"), read("x.svg"), read("report.json"));
    for said in [&ended.stdout, &ended.stderr, &text, &folded, &svg, &json] {
        assert!(!said.contains(ESCAPE), "{said:?}");
    }
    assert_well_formed(&svg);
    let stacks = parse_folded(&folded);
    let [(frames, 12_288)] = &stacks[..] else { panic!("one stack of 12288: {folded:?}") };
    assert!(frames.iter().any(|frame| frame.starts_with("leak")), "{frames:?}");
    assert_eq!(Report::parse(&json).held_under("leak").bytes, 12_288);
}
