//! Does `--check-frees` tell every wrong free, with where the block came from and went, and no right
//! one?

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use serde_json::Value;

use crate::processes::Target;
use crate::programs::{Recipe, program};
use crate::report::{Report, names};
use crate::trace::{LINKS, Trace};

const PASS_ON: Recipe = Recipe {
    name: "libpass_on.so",
    compiler: "gcc",
    flags: &["-O1", "-g", "-shared", "-fPIC", "-fno-builtin"],
    sources: &["libpass_on.c"],
};

const OWN_HEAP: Recipe = Recipe {
    name: "libown_heap.so",
    compiler: "gcc",
    flags: &["-O1", "-g", "-shared", "-fPIC", "-fno-builtin"],
    sources: &["libown_heap.c"],
};

/// The program, about to do what `what` says.
fn target(what: &str, environment: &[(&str, &str)]) -> Target {
    let mut command = Command::new(program("wrong_frees.cc"));
    command.arg(what).envs(environment.iter().copied());
    Target::spawn(&mut command)
}

/// Traces it through its work.
fn traced(mut target: Target, links: &[&str]) -> Report {
    let mut trace = Trace::attach(&target, &[&["--check-frees"], links].concat());
    target.work();
    let report = trace.interrupt();
    assert!(target.end().success(), "tracing must not change how the target ends");
    report
}

fn wrong_frees(report: &Report) -> &[Value] {
    report.at("/wrong_frees").as_array().unwrap()
}

fn assert_none(report: &Report) {
    assert!(wrong_frees(report).is_empty(), "{:#}", report.at("/wrong_frees"));
    assert_eq!(report.number("/health/double_frees"), 0);
    assert_eq!(report.number("/health/mismatched_frees"), 0);
}

/// Those whose free was called by `caller`: more than one where a loop was unrolled.
fn freed_in<'a>(report: &'a Report, caller: &str) -> Vec<&'a Value> {
    let is_it = |wrong: &&Value| called_by(&wrong["freed"]) == caller;
    wrong_frees(report).iter().filter(is_it).collect()
}

fn sum(of: &[&Value], field: &str) -> u64 {
    of.iter().map(|wrong| wrong[field].as_u64().unwrap()).sum()
}

/// Who called the function of a call site: the first frame that is no operator.
fn called_by(site: &Value) -> &str {
    let names = names(site);
    let caller = names.into_iter().find(|name| !name.starts_with("operator"));
    caller.and_then(|name| name.split('(').next()).unwrap_or_default()
}

fn function(site: &Value) -> &str {
    site["function"].as_str().unwrap().split('(').next().unwrap()
}

#[test]
fn a_block_freed_twice_is_told_with_its_three_stacks() {
    for links in LINKS {
        // Without its cache, and with a block freed in between, glibc does not notice.
        let target = target("twice", &[("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")]);
        let report = traced(target, links);
        report.assert_complete();
        let [wrong] = wrong_frees(&report) else { panic!("{:#}", report.at("/wrong_frees")) };
        assert_eq!(wrong["kind"], "double_free");
        assert_eq!((&wrong["count"], &wrong["bytes"]), (&5.into(), &280.into()), "{wrong:#}");
        for (site, by, caller) in [
            ("allocated", "malloc", "make_two"),
            ("freed", "free", "free_once"),
            ("freed_again", "free", "free_twice"),
        ] {
            assert_eq!((function(&wrong[site]), called_by(&wrong[site])), (by, caller));
            assert!(names(&wrong[site]).contains(&"main"), "the whole stack: {wrong:#}");
        }
        assert_eq!(report.number("/health/double_frees"), 5);
        assert_eq!(report.number("/health/mismatched_frees"), 0);
    }
}

/// The two frees are one line, in a loop: nothing but a return lies between.
#[test]
fn the_report_of_a_double_free_comes_though_glibc_aborts_the_process() {
    for (what, by, allocator, allocated_in, freed_in, bytes) in [
        ("aborts", "free", "malloc", "aborts", "free_in_a_loop", 33),
        ("d", "operator delete", "operator new", "aborts_in_delete", "delete_in_a_loop", 44),
    ] {
        let mut target = target(what, &[]);
        let mut trace = Trace::attach(&target, &["--check-frees"]);
        target.go();
        let report = trace.report();
        assert_eq!(report.text("/trace/ended_by"), "target-exit");
        let [wrong] = wrong_frees(&report) else { panic!("{:#}", report.at("/wrong_frees")) };
        assert_eq!((&wrong["count"], &wrong["bytes"]), (&1.into(), &bytes.into()));
        assert_eq!(wrong["kind"], "double_free");
        for site in ["freed", "freed_again"] {
            assert_eq!((function(&wrong[site]), called_by(&wrong[site])), (by, freed_in));
        }
        let allocated = &wrong["allocated"];
        assert_eq!((function(allocated), called_by(allocated)), (allocator, allocated_in));
        assert_eq!(target.ended().signal(), Some(libc::SIGABRT));
    }
}

#[test]
fn run_passes_on_that_a_double_free_aborted_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    std::fs::write(&input, "go\n").unwrap();
    let program = program("wrong_frees.cc");
    let shell = format!("exec {} aborts <{}", program.display(), input.display());
    let args = ["run", "--check-frees", "-o", "out.json", "--", "sh", "-c", &shell];
    let mut trace = Trace::start(&args);
    trace.ended().assert_code(134);
    let report = Report::read(&trace.file("out.json"));
    assert_eq!(report.number("/health/double_frees"), 1);
    assert_eq!(called_by(&wrong_frees(&report)[0]["freed_again"]), "free_in_a_loop");
}

#[test]
fn a_block_of_another_family_is_told_with_both_stacks() {
    for links in LINKS {
        let report = traced(target("mismatched", &[]), links);
        report.assert_complete();
        for (freed_by, caller, allocator, allocated_in, count, bytes) in [
            ("free", "free_new", "operator new", "by_new", 2, 80),
            ("operator delete", "delete_malloc", "malloc", "by_malloc", 3, 150),
            ("operator delete", "delete_new_array", "operator new[]", "by_new_array", 4, 240),
            ("operator delete[]", "array_delete_new", "operator new", "by_new", 5, 200),
            ("free", "free_new_array", "operator new[]", "by_new_array", 6, 360),
            ("realloc", "realloc_new", "operator new", "by_new", 7, 280),
            ("free", "free_aligned_new", "operator new", "by_aligned_new", 8, 1024),
            ("operator delete[]", "array_delete_nothrow", "operator new", "by_nothrow_new", 9, 630),
        ] {
            let found = freed_in(&report, caller);
            assert_eq!((sum(&found, "count"), sum(&found, "bytes")), (count, bytes), "{caller}");
            for wrong in found {
                assert_eq!(wrong["kind"], "mismatched_free", "{wrong:#}");
                assert_eq!(function(&wrong["freed"]), freed_by);
                let allocated = &wrong["allocated"];
                assert_eq!((function(allocated), called_by(allocated)), (allocator, allocated_in));
                assert_eq!(wrong["freed_again"], Value::Null);
                let verdict = format!("allocated by {allocator}, but freed by {freed_by}");
                assert_eq!(wrong["verdict"], verdict.as_str());
            }
        }
        assert_eq!(report.number("/health/mismatched_frees"), 44);
        assert_eq!(report.number("/health/double_frees"), 0);
        report.assert_every_free_matched();
    }
}

#[test]
fn a_block_given_to_the_free_of_another_allocator_is_told() {
    let library = OWN_HEAP.made();
    let mut command = Command::new(program("wrong_frees.cc"));
    command.args(["x", library.to_str().unwrap()]);
    let report = traced(Target::spawn(&mut command), &[]);
    report.assert_complete();
    let [wrong] = wrong_frees(&report) else { panic!("{:#}", report.at("/wrong_frees")) };
    assert_eq!((&wrong["count"], &wrong["bytes"]), (&3.into(), &150.into()));
    assert_eq!(
        wrong["verdict"],
        "allocated by malloc of libc.so.6, but freed by free of libown_heap.so"
    );
    assert_eq!(called_by(&wrong["allocated"]), "by_malloc");
    assert_eq!(called_by(&wrong["freed"]), "free_by_other");
}

#[test]
fn a_block_of_the_programs_own_allocator_given_to_free_is_told() {
    let own = ["--alloc-fn", "pool_get:size=0", "--free-fn", "pool_put:ptr=0"];
    let report = traced(target("pool", &[]), &own);
    report.assert_complete();
    let found = freed_in(&report, "free_pool");
    assert_eq!((sum(&found, "count"), sum(&found, "bytes")), (12, 132));
    for wrong in found {
        assert_eq!(wrong["kind"], "mismatched_free");
        assert_eq!(
            (function(&wrong["allocated"]), function(&wrong["freed"])),
            ("pool_get", "free")
        );
        assert_eq!(called_by(&wrong["allocated"]), "by_pool");
    }
    assert_eq!(report.number("/health/mismatched_frees"), 12);
    assert_eq!(report.number("/health/double_frees"), 0);
}

#[test]
fn what_is_freed_right_is_not_told_in_any_form() {
    for links in LINKS {
        let report = traced(target("clean", &[]), links);
        report.assert_complete();
        assert_none(&report);
        assert!(report.number("/health/allocs") > 3000);
    }
}

#[test]
fn what_a_library_passes_on_is_freed_right() {
    let library = PASS_ON.made();
    let report = traced(target("clean", &[("LD_PRELOAD", library.to_str().unwrap())]), &[]);
    report.assert_complete();
    assert_none(&report);
    assert!(report.number("/health/allocs") > 3000);
}

#[test]
fn under_jemalloc_nothing_is_wrong_either() {
    let report = traced(target("clean", &[("LD_PRELOAD", "libjemalloc.so.2")]), &[]);
    assert_none(&report);
    assert!(report.number("/health/allocs") > 1000);
}

#[test]
fn under_mimalloc_nothing_is_wrong_either() {
    let mut command = Command::new(program("cxx_leak.cc"));
    command.env("LD_PRELOAD", "libmimalloc.so.2");
    let report = traced(Target::spawn(&mut command), &[]);
    assert_none(&report);
    assert!(report.number("/health/matched_frees") > 0);
    // By its own names, with no operator that is one function with them.
    let report = traced(Target::start::<&str>(&program("mi_new.c"), &[]), &[]);
    assert_none(&report);
    assert_eq!(report.number("/health/matched_frees"), 14);
}

#[test]
fn python_frees_right() {
    let script = "import json, re, collections\n\
                  for i in range(300):\n\
                  \x20   d = collections.OrderedDict((str(k), [k] * k) for k in range(50))\n\
                  \x20   json.loads(json.dumps(d)); re.sub('a+', str(i), 'aab' * 200)";
    let args = ["run", "--check-frees", "-o", "out.json", "--", "python3", "-c", script];
    let mut trace = Trace::start(&args);
    trace.ended().assert_code(0);
    let report = Report::read(&trace.file("out.json"));
    report.assert_complete();
    assert_none(&report);
    assert!(report.number("/health/frees") > 1000, "{}", report.at("/health"));
}

#[test]
fn the_text_report_shows_where_the_block_came_from_and_went() {
    let mut target = target("twice", &[("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")]);
    let mut trace = Trace::attach(&target, &["--check-frees"]);
    target.work();
    trace.signal(libc::SIGINT);
    let ended = trace.ended();
    ended.assert_code(0);
    let says = |line: &str| assert!(ended.stdout.contains(line), "{line}:\n{}", ended.stdout);
    says("DOUBLE FREE: 5 blocks, 280 B: freed by free, and freed again by free");
    says("  allocated by malloc\n  > make_two");
    says("  freed by free\n  > free_once");
    says("  freed again by free\n  > free_twice");
    says("5 blocks freed twice");
}

#[test]
fn without_the_option_nothing_is_told() {
    let mut target = target("mismatched", &[]);
    let mut trace = Trace::attach(&target, &[]);
    target.work();
    let report = trace.interrupt();
    report.assert_complete();
    assert_none(&report);
    report.assert_every_free_matched();
}

#[test]
fn checks_do_not_go_with_a_budget_or_a_sample() {
    for option in [["--max-overhead", "5%"], ["--sample", "64K"]] {
        let args = [&["attach", "-p", "1", "--check-frees"], &option[..]].concat();
        let ended = crate::trace::command(&args);
        ended.assert_code(2);
        assert!(ended.stderr.contains("--check-frees"), "{}", ended.stderr);
    }
}
