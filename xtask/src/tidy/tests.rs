//! Each rule on a source that breaks it and on one that nearly does; and on this very tree.

use super::*;

/// `expect` is a line for each finding: the line's number and words from the explanation.
#[track_caller]
fn check(file: &str, text: &str, expect: &[(usize, &str)]) {
    let mut verdict = Verdict::default();
    judge_file(file, text, &mut verdict);
    verdict.errors.sort();
    let found: Vec<String> = verdict.errors.iter().map(ToString::to_string).collect();
    let agrees = verdict.errors.len() == expect.len()
        && verdict.errors.iter().zip(expect).all(|(finding, (line, words))| {
            finding.file == file && finding.line == *line && finding.says.contains(words)
        });
    assert!(agrees, "expected {expect:?}, found {found:#?}");
}

#[test]
fn the_tree_is_tidy() {
    let errors = judge(&root()).unwrap().errors;
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

#[test]
fn every_room_is_looked_at() {
    let files = files::all(&root()).unwrap();
    for file in ["leaktrace/src/target/mod.rs", "xtask/src/tidy/tests.rs", "Cargo.toml"] {
        assert!(files.iter().any(|found| found == file), "{file} is not among {files:?}");
    }
}

#[test]
fn uses_stand_to_the_right() {
    for (index, room) in rooms::ROOMS.iter().enumerate() {
        for used in room.uses {
            let to_the_right = rooms::ROOMS.iter().skip(index + 1).any(|r| r.name == *used);
            assert!(to_the_right, "{} uses {used}, which stands to its left", room.name);
        }
    }
}

#[test]
fn an_import_along_the_arrows_passes() {
    check(
        "leaktrace/src/report/text.rs",
        "use crate::model::{Block, Pid};\nuse super::units;",
        &[],
    );
    check("leaktrace/src/symbolize/mod.rs", "use crate::{model::Pid, target::Image};", &[]);
    check("leaktrace/src/cli/run.rs", "use crate::{collect, probe, report::Format};", &[]);
}

#[test]
fn an_import_against_the_arrows_fails() {
    check("leaktrace/src/model/ids.rs", "\nuse crate::target::Image;", &[(2, "model -> nothing")]);
    check(
        "leaktrace/src/analyse/mod.rs",
        "use crate::report;",
        &[(1, "analyse must not use report")],
    );
    check(
        "leaktrace/src/target/plan.rs",
        "pub(crate) use crate::probe::Kernel as K;",
        &[(1, "probe")],
    );
}

#[test]
fn a_group_is_taken_apart() {
    check(
        "leaktrace/src/report/text.rs",
        "use crate::{\n    model::{self, Pid},\n    target::{maps::FileId, Image},\n};",
        &[(3, "report must not use target")],
    );
}

#[test]
fn super_leads_out_of_a_room() {
    check("leaktrace/src/report/text.rs", "use super::super::probe::Kernel;", &[(1, "probe")]);
    check("leaktrace/src/report/mod.rs", "use super::probe::Kernel;", &[(1, "probe")]);
    check("leaktrace/src/report/mod.rs", "use self::super::probe::Kernel;", &[(1, "probe")]);
    check("leaktrace/src/report/text.rs", "mod tests { use super::super::names; }", &[]);
    check(
        "leaktrace/src/report/text.rs",
        "mod tests {\n fn f() { super::super::super::collect::x() }\n}",
        &[(2, "report must not use collect")],
    );
}

#[test]
fn a_path_counts_where_it_is_named() {
    check("leaktrace/src/model/ids.rs", "fn f(x: Vec<crate::target::Image>) {}", &[(1, "target")]);
    check("leaktrace/src/model/ids.rs", "pub(in crate::model) fn f() {}", &[]);
    check(
        "leaktrace/src/model/ids.rs",
        "fn f() {\n    println!(\"{}\", crate::cli::x(1));\n}",
        &[(2, "model must not use cli")],
    );
}

#[test]
fn another_name_for_the_root_hides_nothing() {
    check(
        "leaktrace/src/model/ids.rs",
        "use crate as all;\nfn f() { all::cli::x() }",
        &[(2, "cli")],
    );
    check("leaktrace/src/model/ids.rs", "use crate::*;", &[(1, "crate::*")]);
    check("leaktrace/src/model/ids.rs", "use crate::Shared;", &[(1, "in no room")]);
}

#[test]
fn a_new_room_needs_its_arrows() {
    check(
        "leaktrace/src/wizardry/mod.rs",
        "use crate::model::Pid;",
        &[(1, "no room that tidy knows")],
    );
}

#[test]
fn comments_and_strings_import_nothing() {
    let text =
        "//! crate::cli unsafe\n/* use aya::maps; */\nconst X: &str = \"crate::cli, unsafe\";";
    check("leaktrace/src/model/ids.rs", text, &[]);
}

#[test]
fn the_doors_to_the_kernel_are_guarded() {
    check("leaktrace/src/probe/attach.rs", "use aya::{Ebpf, programs::UProbe};", &[]);
    check("leaktrace/src/collect/maps.rs", "use aya::maps::RingBuf;\nuse aya::Ebpf;", &[]);
    check(
        "leaktrace/src/cli/run.rs",
        "use aya::maps::RingBuf;",
        &[(1, "cli must not use aya::maps")],
    );
    check("leaktrace/src/collect/maps.rs", "use aya::programs::UProbe;", &[(1, "aya::programs")]);
    let collect = "leaktrace/src/collect/maps.rs";
    check(collect, "use aya::{programs as p, Ebpf};", &[(1, "aya::programs")]);
    check(collect, "use aya as a;\ntype T = a::programs::UProbe;", &[(2, "aya::programs")]);
    check(collect, "use aya::*;", &[(1, "aya::programs")]);
    check("leaktrace/src/target/elf.rs", "use aya::Ebpf;", &[(1, "doors to the kernel")]);
    check("xtask/src/bench.rs", "use aya::maps::RingBuf;", &[]);
}

#[test]
fn a_wrong_import_is_said_once() {
    let text = "use aya::maps::RingBuf;\nfn f(x: RingBuf, y: RingBuf) {}";
    check("leaktrace/src/cli/run.rs", text, &[(1, "cli must not use aya::maps")]);
}

#[test]
fn kernel_records_end_at_the_decoder() {
    check("leaktrace/src/target/plan.rs", "use leaktrace_ebpf::{cookie::Kind, records::X};", &[]);
    check("leaktrace/src/target/plan.rs", "use leaktrace_ebpf::calls::X;", &[(1, "decoder")]);
    check("leaktrace/src/report/json.rs", "use leaktrace_ebpf::records::Block;", &[(1, "decoder")]);
}

#[test]
fn reports_and_analyses_do_no_input() {
    check(
        "leaktrace/src/analyse/trend.rs",
        "use std::time::{Duration, Instant};\nuse std::fs;\nfn f() { std::env::var(\"X\"); }",
        &[(1, "std::time::Instant"), (2, "std::fs"), (3, "std::env")],
    );
    check(
        "leaktrace/src/report/text.rs",
        "use std::time;\nfn f() { time::SystemTime::now(); }",
        &[(2, "std::time::SystemTime")],
    );
    check("leaktrace/src/report/text.rs", "use std::time::*;", &[(1, "std::time::Instant")]);
    check(
        "leaktrace/src/report/text.rs",
        "/// Not /proc.\nfn f() { g(\"/proc/1\") }",
        &[(2, "/proc")],
    );
    check("leaktrace/src/report/text.rs", "fn f() { format!(r#\"/proc/{x}\"#) }", &[(1, "/proc")]);
    check("leaktrace/src/cli/run.rs", "use std::{env, fs};\nconst P: &str = \"/proc\";", &[]);
}

#[test]
fn unsafe_has_its_places() {
    let text = "fn f() {\n    unsafe { g() }\n}";
    check("leaktrace/src/probe/hold.rs", text, &[]);
    check("leaktrace-ebpf/src/main.rs", text, &[]);
    check("tests/integration/main.rs", text, &[]);
    check("leaktrace/src/cli/run.rs", text, &[(2, "unsafe")]);
    check("xtask/src/main.rs", "macro_rules! m { () => { unsafe {} } }", &[(1, "unsafe")]);
    check("xtask/src/main.rs", "#![deny(unsafe_code)]", &[]);
}

#[test]
fn lints_are_expected_not_allowed() {
    check("xtask/src/a.rs", "\n#[allow(dead_code)]\nfn f() {}", &[(2, "bare `allow`")]);
    check("xtask/src/a.rs", "#![cfg_attr(test, allow(dead_code))]", &[(1, "bare `allow`")]);
    check("xtask/src/a.rs", "#[expect(dead_code, reason = \"x\")]\nfn f() {}", &[]);
}

#[test]
fn no_test_is_ignored() {
    check("xtask/src/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}", &[(2, "ignored test")]);
    check("xtask/src/a.rs", "#[cfg_attr(x, ignore)]\nfn f() {}", &[(1, "ignored test")]);
}

#[test]
fn an_example_that_is_not_run_is_none() {
    check("xtask/src/a.rs", "/// So:\n/// ```\n/// f()\n/// ```\nfn f() {}", &[(2, "not run")]);
    check("xtask/src/a.rs", "/// ```text\n/// f\n/// ```\nfn f() {}", &[]);
}

#[test]
fn only_main_and_cli_exit() {
    let text = "use std::process;\nfn f() { process::exit(1) }";
    check("leaktrace/src/cli/exit.rs", text, &[]);
    check("xtask/src/main.rs", text, &[]);
    check("leaktrace/src/collect/live.rs", text, &[(2, "end the process")]);
    check("xtask/src/a.rs", "use std::process::exit;", &[(1, "end the process")]);
}

#[test]
fn names_say_what_is_inside() {
    check("xtask/src/utils.rs", "", &[(1, "`utils`")]);
    check("tests/common/mod.rs", "", &[(1, "`common`")]);
    check("xtask/src/a.rs", "mod helpers { fn f() {} }", &[(1, "`helpers`")]);
    check("xtask/build.rs", "fn main() {}", &[(1, "build.rs")]);
}

#[test]
fn nothing_is_left_for_later() {
    let marker = ["TO", "DO"].concat();
    check("xtask/src/a.rs", &format!("// one\n// {marker}: two"), &[(2, &marker)]);
    check("README.md", &format!("{marker}S"), &[]);
    check("LICENSE-MIT", &marker, &[]);
}

#[test]
fn a_file_has_an_end() {
    check("xtask/src/a.rs", &"//\n".repeat(500), &[]);
    check("xtask/src/a.rs", &"//\n".repeat(501), &[(1, "501 lines")]);
    let mut verdict = Verdict::default();
    judge_file("xtask/src/a.rs", &"//\n".repeat(351), &mut verdict);
    assert_eq!(verdict.warnings.len(), 1);
}

#[test]
fn what_is_not_rust_is_said() {
    check("xtask/src/a.rs", "fn f() {}\nfn {", &[(2, "not Rust")]);
}

#[test]
fn the_architecture_shows_the_arrows() {
    let lines = [
        "    cli/   arguments -> all",
        "| `report/` | formats | -> model |",
        "- `symbolize` → `target` (build ids), `model`",
        "- analyse/ -> model",
        "- recording/ -> model",
        "- collect/ -> model (and the shared records)",
        "    probe  -> target, model    how to collect what a report needs",
        "- target/ -> model",
        "- model/ -> nothing",
        "=> report/ is also mentioned here",
    ];
    let text = lines.join("\n");
    check("ARCHITECTURE.md", &text, &[]);
    let wrong = text.replace("probe  -> target, model", "probe  -> target, collect");
    check("ARCHITECTURE.md", &wrong, &[(7, "probe -> target, model")]);
    let gone = text.replace("- model/", "- it/");
    check("ARCHITECTURE.md", &gone, &[(1, "no arrow for the room model")]);
}
