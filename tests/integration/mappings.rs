//! Is memory that is mapped past the allocator counted to the byte, for whoever mapped it, and
//! nothing that allocators map for themselves?

use std::fs;
use std::process::Command;

use crate::processes::{DEADLINE, Target, wait_until};
use crate::programs::{Recipe, program, variant};
use crate::report::{Held, Report};
use crate::trace::{LINKS, Trace};

const PAGE: u64 = 4096;

/// What is left of what each function maps: pages, mappings.
const LEFT: [(&str, u64, u64); 26] = [
    ("leaks", 15, 3),
    ("leaks_shared", 7, 1),
    ("leaks_a_part_of_a_page", 2, 1),
    ("leaks_by_system_call", 11, 1),
    ("leaks_nothing", 0, 0),
    ("cut_at_the_start", 5, 1),
    ("cut_in_the_middle", 6, 1),
    ("cut_at_the_end", 7, 1),
    ("cut_across_two", 11, 2),
    ("for_a_fixed_one", 6, 1),
    ("fixed_over_it", 4, 1),
    ("for_a_file", 6, 1),
    ("file_over_it", 0, 0),
    ("made_to_grow", 0, 0),
    ("grown_in_place", 9, 1),
    ("moved", 21, 2),
    ("shrunk", 2, 1),
    ("made_to_be_replaced", 3, 1),
    ("moved_over", 3, 1),
    ("made_to_stay", 5, 1),
    ("moved_and_left", 5, 1),
    ("made_to_split", 8, 1),
    ("grown_from_a_part", 30, 1),
    ("made_to_fail", 4, 1),
    ("at_the_limit", 3, 1),
    ("grown_heap", 4, 1),
];
/// Four threads, each of which leaves a page of each 200th of its 2,000 mappings.
const BY_THREADS: (u64, u64) = (4 * 10, 4 * 10);

/// What the stacks hold whose first frame in the program is `function`, past the three that only
/// pass a call on.
fn held_by(report: &Report, function: &str) -> Held {
    let mut held = Held::default();
    for stack in report.stacks() {
        let frames = stack["frames"].as_array().unwrap();
        let own = frames.iter().find_map(|frame| {
            let name = frame["function"].as_str()?;
            let is_own = frame["module"].as_str()?.contains("/mappings");
            let passes_on = ["mapped", "mapped_at", "move_heap_end"].contains(&name);
            (is_own && !passes_on).then_some(name)
        });
        if own == Some(function) {
            held.bytes += stack["outstanding_bytes"].as_u64().unwrap();
            held.blocks += stack["outstanding_blocks"].as_u64().unwrap();
        }
    }
    held
}

/// Every mapping that the program has left is the report's, and nothing else is.
fn assert_all_of_it(report: &Report) {
    let (mut pages, mut mappings) = BY_THREADS;
    for (function, left, count) in LEFT {
        let expected = Held { bytes: left * PAGE, blocks: count };
        assert_eq!(held_by(report, function), expected, "{function}: {:#}", report.0);
        pages += left;
        mappings += count;
    }
    let expected = Held { bytes: BY_THREADS.0 * PAGE, blocks: BY_THREADS.1 };
    assert_eq!(held_by(report, "in_a_thread"), expected, "{:#}", report.0);
    let all = Held { bytes: pages * PAGE, blocks: mappings };
    assert_eq!(report.totals(), all, "{:#}", report.0);
    assert_eq!(report.at("/health/mappings/traced"), true);
    let left =
        report.number("/health/mappings/mapped") - report.number("/health/mappings/unmapped");
    assert_eq!(left, mappings);
}

#[test]
fn what_is_mapped_and_not_unmapped_is_counted_to_the_byte_in_all_its_forms() {
    for links in LINKS {
        let mut target = Target::start::<&str>(&program("mappings.c"), &[]);
        let mut trace = Trace::attach(&target, links);
        target.work();
        let report = trace.interrupt();
        report.assert_complete();
        assert_all_of_it(&report);
        target.work();
        assert!(target.end().success());
    }
}

/// `munmap` of nothing, say, which programs do with empty files: its failure is about no earlier call.
#[test]
fn what_was_unmapped_does_not_come_back_when_the_next_call_fails() {
    let mut target = Target::start::<&str>(&program("mappings.c"), &[]);
    let mut trace = Trace::attach(&target, &[]);
    target.work();
    let report = trace.interrupt();
    for function in [
        "unmaps_then_nothing",
        "unmaps_then_amiss",
        "unmaps_then_too_much",
        "unmaps_then_to_nothing",
        "unmaps_then_moves_amiss",
        "unmaps_then_moves_none",
    ] {
        assert_eq!(held_by(&report, function), Held::default(), "{function}");
    }
    assert_eq!(held_by(&report, "made_to_fail"), Held { bytes: 4 * PAGE, blocks: 1 });
}

#[test]
fn mappings_are_exact_where_the_allocations_are_sampled_or_under_a_budget() {
    for options in [&["--sample=1M"][..], &["--max-overhead=1%"]] {
        let mut target = Target::start::<&str>(&program("mappings.c"), &[]);
        let mut trace = Trace::attach(&target, options);
        target.work();
        let report = trace.interrupt();
        for (function, left, count) in LEFT {
            let expected = Held { bytes: left * PAGE, blocks: count };
            assert_eq!(held_by(&report, function), expected, "{options:?} {function}");
        }
        let of_threads = Held { bytes: BY_THREADS.0 * PAGE, blocks: BY_THREADS.1 };
        assert_eq!(held_by(&report, "in_a_thread"), of_threads, "{options:?}");
    }
}

#[test]
fn counting_afresh_forgets_what_was_mapped_and_still_knows_what_is_unmapped() {
    let mut target = Target::start::<&str>(&program("mappings.c"), &[]);
    let mut trace = Trace::attach(&target, &[]);
    target.work();
    trace.signal(libc::SIGUSR2);
    trace.wait_for_tracing();
    target.work();
    let report = trace.interrupt();
    report.assert_complete();
    assert_eq!(report.totals(), Held { bytes: 5 << 20, blocks: 1 }, "{:#}", report.0);
    assert_eq!(report.number("/health/mappings/mapped"), 0);
}

/// Two huge pages of the kernel's, while it lasts.
struct HugePages {
    before: u64,
}

const NR_HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    fn reserve() -> Self {
        let count = || fs::read_to_string(NR_HUGE_PAGES).unwrap().trim().parse::<u64>().unwrap();
        let reserved = Self { before: count() };
        wait_until(DEADLINE, "the kernel has two huge pages to spare", || {
            fs::write("/proc/sys/vm/compact_memory", "1").unwrap();
            fs::write(NR_HUGE_PAGES, (reserved.before + 2).to_string()).unwrap();
            count() == reserved.before + 2
        });
        reserved
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        fs::write(NR_HUGE_PAGES, self.before.to_string()).unwrap();
    }
}

/// To `/proc/PID/maps`, which is asked then, they have a file.
#[test]
fn huge_pages_stay_in_the_figures_when_other_mappings_were_lost() {
    let _reserved = HugePages::reserve();
    let mut target = Target::start::<&str>(&program("floods.c"), &[]);
    let mut trace = Trace::attach(&target, &[]);
    trace.signal(libc::SIGSTOP);
    target.work();
    trace.signal(libc::SIGCONT);
    trace.signal(libc::SIGINT);
    trace.ended().assert_code(4);
    let report = Report::read(&trace.file("report.json"));
    assert!(report.number("/health/lost/mappings") > 0, "{:#}", report.0);
    assert_eq!(report.held_under("maps_huge_pages"), Held { bytes: 4 << 20, blocks: 1 });
    assert!(target.end().success());
}

/// The allocator's own mappings are in nobody's figures: only its blocks are.
fn assert_only_blocks(command: &mut Command, options: &[&str]) -> Report {
    let mut target = Target::spawn(command);
    target.work();
    let mut trace = Trace::attach(&target, options);
    target.work();
    let report = trace.interrupt();
    // Not every operator of every allocator can be probed; this program calls none.
    let lost = report.at("/health/lost").as_object().unwrap();
    assert!(lost.values().all(|count| count == 0), "{lost:?}");
    assert_eq!(report.at("/health/mappings/traced"), true);
    assert_eq!(report.number("/health/mappings/mapped"), 0, "{:#}", report.0);
    assert!(target.end().success());
    report
}

#[test]
fn what_allocators_map_for_themselves_is_nobodys() {
    let one_block = Held { bytes: 5 << 20, blocks: 1 };
    let of_glibc = assert_only_blocks(&mut Command::new(program("mappings.c")), &[]);
    assert_eq!(of_glibc.totals(), one_block, "{:#}", of_glibc.0);
    assert!(of_glibc.number("/health/mappings/allocator_bytes") >= 5 << 20);
    for library in ["libjemalloc.so.2", "libmimalloc.so.2.0", "libtcmalloc_minimal.so.4"] {
        let path = format!("/usr/lib/x86_64-linux-gnu/{library}");
        assert!(fs::exists(&path).unwrap(), "{path} (cargo xtask test installs it)");
        let mut command = Command::new(program("mappings.c"));
        let report = assert_only_blocks(command.env("LD_PRELOAD", &path), &[]);
        assert_eq!(report.totals(), one_block, "{library} {:#}", report.0);
    }
}

#[test]
fn nor_where_its_calls_are_left_out_by_sampling() {
    assert_only_blocks(&mut Command::new(program("mappings.c")), &["--sample=1G"]);
}

#[test]
fn nor_where_the_allocator_is_a_part_of_a_static_program() {
    let of_glibc = variant("mappings.c", "mappings_static", &["-static"]);
    for program in [of_glibc, STATIC_MUSL.made()] {
        let report = assert_only_blocks(&mut Command::new(program), &[]);
        assert_eq!(report.totals(), Held { bytes: 5 << 20, blocks: 1 }, "{:#}", report.0);
    }
}

const STATIC_MUSL: Recipe = Recipe {
    name: "mappings_musl",
    compiler: "musl-gcc",
    flags: &["-O1", "-g", "-w", "-static", "-fno-builtin", "-fno-optimize-sibling-calls"],
    sources: &["mappings.c"],
};
