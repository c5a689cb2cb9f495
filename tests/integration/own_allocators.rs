//! Are a project's own allocators traced to the byte, however the user names them, and are mistakes in
//! naming them told?

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::processes::Target;
use crate::programs::{copy, program, variant};
use crate::report::{Held, Report};
use crate::trace::{LINKS, Trace, command, trace_program_with};

/// The functions of `pool.c`: option, name, and how it is called.
const POOL: [(&str, &str, &str); 8] = [
    ("alloc", "pool_get", "size=1"),
    ("alloc", "pool_calloc", "out=1,count=2,size=3"),
    ("alloc", "pool_realloc", "ptr=1,size=2,ret"),
    ("alloc", "object_get", "bytes=48"),
    ("alloc", "xmalloc", "size=0"),
    ("free", "pool_put", "ptr=1"),
    ("free", "object_put", "ptr=0"),
    ("free", "xfree", "ptr=0"),
];

/// What it leaks by them, and by plain `malloc`.
const LEAKS: [(&str, u64, u64); 6] = [
    ("leak_by_get", 1000, 10),
    ("leak_by_calloc", 600, 4),
    ("leak_by_realloc", 1500, 5),
    ("leak_an_object", 336, 7),
    ("leak_by_xmalloc", 462, 6),
    ("leak_by_malloc", 2468, 2),
];

/// The options that name all of them, each at the place that `place` makes of its name.
fn options(place: impl Fn(&str) -> String) -> Vec<String> {
    let option =
        |&(kind, name, keys): &(&str, &str, &str)| format!("--{kind}-fn={}:{keys}", place(name));
    POOL.iter().map(option).collect()
}

fn strs(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

/// Every function holds exactly what is expected, and no other any.
fn check(report: &Report, expect: &[(&str, u64, u64)]) {
    let mut total = Held::default();
    for &(function, bytes, blocks) in expect {
        assert_eq!(report.held_by(function), Held { bytes, blocks }, "{function}: {:#}", report.0);
        total.bytes += bytes;
        total.blocks += blocks;
    }
    assert_eq!(report.totals(), total, "{:#}", report.0);
}

#[test]
fn a_pool_and_wrappers_of_malloc_count_to_the_byte_and_slabs_do_not() {
    let options = options(str::to_owned);
    for links in LINKS {
        let report = trace_program_with(&program("pool.c"), &[&strs(&options), links].concat());
        check(&report, &LEAKS);
        report.assert_every_free_matched();
        // Of each pair of a wrapper and its free, one counts; and what they pass on does not.
        assert_eq!(report.number("/totals/freed_blocks"), 5 + 20 * (40 + 1 + 3));
        assert_eq!(report.number("/totals/allocated_blocks"), 34 + 5 + 20 * 44);
    }
}

#[test]
fn a_file_names_them_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pool.toml");
    let specs = |kind: &str| {
        let of_kind = POOL.iter().filter(|(k, ..)| *k == kind);
        let specs: Vec<String> =
            of_kind.map(|(_, name, keys)| format!("    \"{name}:{keys}\",\n")).collect();
        format!("{kind} = [\n{}]\n", specs.concat())
    };
    let text = format!(
        "# Of the test.\n[[allocator]]\nname = \"the pool\"\nobject = \"/pool\"\n{}{}",
        specs("alloc"),
        specs("free")
    );
    std::fs::write(&file, text).unwrap();
    let report =
        trace_program_with(&program("pool.c"), &[&format!("--allocators={}", file.display())]);
    check(&report, &LEAKS);
    report.assert_every_free_matched();
}

/// `pool.c` built with more flags: the address of a symbol, and a stripped copy.
fn stripped(name: &str, flags: &[&str], directory: &Path) -> (impl Fn(&str) -> u64, PathBuf) {
    let whole = variant("pool.c", name, flags);
    let copy = directory.join(name);
    let mut strip = Command::new("strip");
    assert!(strip.arg("--strip-all").arg("-o").args([&copy, &whole]).status().unwrap().success());
    let symbols = Command::new("nm").arg(&whole).output().unwrap().stdout;
    let symbols = String::from_utf8(symbols).unwrap();
    let address = move |name: &str| {
        let line = symbols.lines().find(|line| line.ends_with(&format!(" T {name}"))).unwrap();
        u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap()
    };
    (address, copy)
}

/// What it leaks by its own allocators, in a program without names.
fn check_stripped(name: &str, flags: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let (address, copy) = stripped(name, flags, directory.path());
    let options = options(|function| format!("{name}+{:#x}", address(function)));
    let report = trace_program_with(&copy, &strs(&options));
    assert_eq!(report.totals(), Held { bytes: 3898, blocks: 32 }, "{:#}", report.0);
    // What it frees without the wrapper malloc hands out again at once, and the wrapper takes that.
    report.assert_every_free_matched();
}

#[test]
fn a_stripped_static_program_is_traced_by_addresses_alone() {
    check_stripped("pool_static", &["-static"]);
}

#[test]
fn an_address_without_symbol_and_unwind_data_is_known_by_the_calls_that_lead_there() {
    check_stripped("pool_bare", &["-static", "-fno-asynchronous-unwind-tables"]);
}

#[test]
fn an_address_within_a_function_is_refused_and_said() {
    let directory = tempfile::tempdir().unwrap();
    let (address, copy) = stripped("pool_stripped", &[], directory.path());
    let get = address("pool_get");
    let mut target = Target::start::<&str>(&copy, &[]);
    let option = format!("--alloc-fn=pool_stripped+{:#x}:size=1", get + 1);
    let mut trace = Trace::attach(&target, &[&option]);
    target.work();
    let report = trace.interrupt();
    assert_eq!(report.at("/health/complete"), false);
    let failure = report.at("/health/probe_failures/0");
    assert_eq!(failure["function"], format!("pool_stripped+{:#x}", get + 1));
    let error = failure["error"].as_str().unwrap();
    assert!(error.contains(&format!("begins at {get:#x}: give the start")), "{error}");
    assert!(target.end().success());
}

#[test]
fn a_name_that_no_file_has_is_said_with_those_that_come_close() {
    let mut target = Target::start::<&str>(&program("pool.c"), &[]);
    let options = ["--alloc-fn=pool_gte:size=1", "--free-fn=pool_put@libpool.so"];
    let mut trace = Trace::attach(&target, &options);
    target.work();
    let report = trace.interrupt();
    assert_eq!(report.at("/health/complete"), false);
    // Nothing allocates whose frees would be missed.
    assert_eq!(report.at("/health/trust/reasons").as_array().unwrap().len(), 0);
    let failures = report.at("/health/probe_failures").as_array().unwrap();
    let errors: Vec<&str> = failures.iter().map(|f| f["error"].as_str().unwrap()).collect();
    let [name, object] = errors[..] else { panic!("{failures:?}") };
    assert!(name.starts_with("no symbol has this name (near: `pool_get`"), "{name}");
    assert!(object.contains("no file whose path ends with `libpool.so`"), "{object}");
    assert_eq!(failures[0]["function"], "pool_gte");
    assert!(target.end().success());
    // Where there is nothing else, there is nothing to trace.
    let directory = tempfile::tempdir().unwrap();
    let (_, copy) = stripped("pool_static_2", &["-static"], directory.path());
    let target = Target::start::<&str>(&copy, &[]);
    let ended = command(&["-p", &target.pid().to_string(), "--alloc-fn=pool_get:size=1"]);
    ended.assert_code(3);
    for words in
        ["no allocation functions found", "pool_get in the one mapped file", "OBJECT+0xADDRESS"]
    {
        assert!(ended.stderr.contains(words), "no {words:?} in:\n{}", ended.stderr);
    }
}

#[test]
fn a_function_of_ones_own_that_frees_and_that_no_file_has_is_not_enough() {
    let mut target = Target::start::<&str>(&program("pool.c"), &[]);
    let options = ["--alloc-fn=pool_get:size=1", "--free-fn=pool_putt:ptr=1"];
    let mut trace = Trace::attach(&target, &options);
    target.work();
    trace.signal(libc::SIGINT);
    trace.ended().assert_code(4);
    let report = Report::read(&trace.file("report.json"));
    assert_eq!(report.at("/health/complete"), false);
    let reasons = report.at("/health/trust/reasons").as_array().unwrap();
    let is_named = |reason: &str| reason.starts_with("calls of pool_putt in any of the");
    assert!(reasons.iter().any(|reason| is_named(reason.as_str().unwrap())), "{reasons:?}");
    assert!(target.end().success());
}

#[test]
fn a_function_of_ones_own_that_frees_and_cannot_be_probed_is_not_enough() {
    let directory = tempfile::tempdir().unwrap();
    let (address, copy) = stripped("pool_stripped_free", &[], directory.path());
    let mut target = Target::start::<&str>(&copy, &[]);
    let within = address("pool_put") + 1;
    let check = |target: &mut Target, kind: &str, code: i32| {
        let option = format!("--{kind}-fn=pool_stripped_free+{within:#x}");
        let mut trace = Trace::attach(target, &[&option]);
        trace.signal(libc::SIGINT);
        trace.ended().assert_code(code);
        let report = Report::read(&trace.file("report.json"));
        assert_eq!(report.at("/health/complete"), false);
        report.at("/health/trust/reasons").to_string()
    };
    let reasons = check(&mut target, "free", 4);
    assert!(reasons.contains(&format!("calls of pool_stripped_free+{within:#x} in ")), "{reasons}");
    // What is blamed holds what it is said to hold where it only allocates.
    assert_eq!(check(&mut target, "alloc", 0), "[]");
    target.work();
    assert!(target.end().success());
}

#[test]
fn methods_of_cxx_go_by_their_names_and_exceptions_pass_through() {
    let report = trace_program_with(
        &program("arena.cc"),
        &[
            "--alloc-fn=shop::Arena::alloc:size=1,throws",
            "--free-fn=shop::Arena::release:ptr=1",
            "--alloc-fn=shop::Pool<long>::get:bytes=8",
        ],
    );
    check(&report, &[("leak_from_arena", 8 * 123, 8), ("leak_from_pool", 72, 9)]);
    assert_eq!(report.number("/totals/freed_blocks"), 3);
}

/// The address of a method in `arena.cc`'s program, and a copy of that without names.
fn arena(directory: &Path) -> (u64, PathBuf) {
    let whole = variant("arena.cc", "arena_to_strip", &[]);
    let copy = directory.join("arena");
    let mut strip = Command::new("strip");
    assert!(strip.arg("--strip-all").arg("-o").args([&copy, &whole]).status().unwrap().success());
    let symbols = String::from_utf8(Command::new("nm").arg(&whole).output().unwrap().stdout);
    let symbols = symbols.unwrap();
    let method = symbols.lines().find(|line| line.ends_with("_ZN4shop5Arena5allocEm")).unwrap();
    (u64::from_str_radix(method.split(' ').next().unwrap(), 16).unwrap(), copy)
}

/// A return probe would end the target.
#[test]
fn an_exception_passes_through_a_function_of_cxx_that_is_named_without_throws() {
    let on_return = |report: &Report, function: &str| {
        let probes = report.at("/probes").as_array().unwrap();
        let is_return = |p: &&serde_json::Value| {
            p["function"] == function && p["role"] == "alloc-return" && p["instruction"] == "ret"
        };
        probes.iter().filter(is_return).count()
    };
    for links in LINKS {
        let options = [
            "--alloc-fn=shop::Arena::alloc:size=1",
            "--free-fn=shop::Arena::release:ptr=1",
            "--alloc-fn=shop::Pool<long>::get:bytes=8",
        ];
        let report = trace_program_with(&program("arena.cc"), &[&options, links].concat());
        check(&report, &[("leak_from_arena", 8 * 123, 8), ("leak_from_pool", 72, 9)]);
        assert_eq!(report.number("/totals/freed_blocks"), 3);
        assert_eq!(on_return(&report, "shop::Arena::alloc"), 1, "{:#}", report.at("/probes"));
        assert_eq!(on_return(&report, "shop::Pool<long>::get"), 0, "it calls nothing");
    }
    // By its address the function has no name that tells.
    let directory = tempfile::tempdir().unwrap();
    let (address, copy) = arena(directory.path());
    let option = format!("--alloc-fn=arena+{address:#x}:size=1");
    let mut target = Target::start::<&str>(&copy, &[]);
    let mut trace = Trace::attach(&target, &[&option]);
    target.work();
    trace.signal(libc::SIGINT);
    // Nothing is said of how it frees, and it hands out addresses once more.
    trace.ended();
    let report = Report::read(&trace.file("report.json"));
    assert_eq!(report.number("/totals/allocated_bytes"), 8 * 123 + 3 * 50);
    assert_eq!(on_return(&report, &format!("arena+{address:#x}")), 1);
    assert!(target.end().success());
}

/// Its functions are in none of its own tables.
#[test]
fn a_stripped_program_s_functions_go_by_the_names_in_its_debug_symbols() {
    let options = options(str::to_owned);
    for script in [
        "objcopy --only-keep-debug whole pool.debug
         strip --strip-all -o pool whole
         objcopy --add-gnu-debuglink=pool.debug pool",
        "nm whole --format=posix --defined-only | awk '$2 ~ /[Tt]/ { print $1 }' | sort -u >kept
         objcopy --only-keep-debug whole debug
         objcopy -S --remove-section .comment --keep-symbols=kept debug mini
         xz mini
         strip --strip-all -o stripped whole
         objcopy --add-section .gnu_debugdata=mini.xz stripped pool",
    ] {
        let directory = tempfile::tempdir().unwrap();
        copy(program("pool.c"), directory.path().join("whole"));
        let mut shell = Command::new("sh");
        let status = shell.args(["-ec", script]).current_dir(directory.path()).status().unwrap();
        assert!(status.success(), "{script}");
        let report = trace_program_with(&directory.path().join("pool"), &strs(&options));
        let bytes = LEAKS.iter().map(|(_, bytes, _)| bytes).sum();
        let blocks = LEAKS.iter().map(|(.., blocks)| blocks).sum();
        assert_eq!(report.totals(), Held { bytes, blocks }, "{script}\n{:#}", report.0);
        report.assert_every_free_matched();
    }
}

#[test]
fn the_users_word_on_a_function_stands_over_the_catalogues() {
    let report = trace_program_with(
        &program("leak_three.c"),
        &["--alloc-fn=malloc@/libc.so.6:bytes=7", "--free-fn=free@/libc.so.6"],
    );
    check(&report, &[("leak_here", 21, 3)]);
    let probes = report.at("/probes").as_array().unwrap();
    let on = |name: &str, role: &str| {
        probes.iter().filter(|p| p["function"] == name && p["role"] == role).count()
    };
    assert_eq!(
        (on("malloc", "alloc-entry"), on("free", "free"), on("calloc", "alloc-entry")),
        (1, 1, 1)
    );
}

#[test]
fn blocks_without_a_size_count_as_a_byte_and_the_report_says_so() {
    let mut target = Target::start::<&str>(&program("pool.c"), &[]);
    let mut trace = Trace::attach(&target, &["--alloc-fn=object_get"]);
    target.work();
    trace.signal(libc::SIGINT);
    // Nothing is said of how they are freed, and they are handed out again: that is not to be trusted.
    trace.ended().assert_code(4);
    let report = Report::read(&trace.file("report.json"));
    assert_eq!(report.at("/health/trust/verdict"), "not_enough");
    let Held { bytes, blocks } = report.held_by("leak_an_object");
    assert_eq!((bytes, blocks), (7, 7));
    let notes = report.at("/health/notes").to_string();
    assert!(notes.contains("nothing says how large the blocks of object_get are"), "{notes}");
    assert!(notes.contains("no function of the user's own frees"), "{notes}");
}

#[test]
fn slabs_do_not_count_in_a_sample_either() {
    let options = options(str::to_owned);
    let report =
        trace_program_with(&program("pool.c"), &[&strs(&options), &["-s", "4KiB"][..]].concat());
    // A slab of 64 KiB would be kept for sure, were it counted.
    assert_eq!(report.held_under("slab_new"), Held::default());
    assert_eq!(report.held_by("pool_get"), Held::default());
    assert!(report.number("/health/sampled_out") > 0, "its small blocks were seen, and left out");
}

#[test]
fn a_dry_run_and_doctor_show_them() {
    let target = Target::start::<&str>(&program("pool.c"), &[]);
    let pid = target.pid().to_string();
    let options = options(str::to_owned);
    let planned = command(&[&["-p", &pid, "--dry-run"][..], &strs(&options)].concat());
    planned.assert_code(0);
    let healthy = command(&[&["doctor", "-p", &pid][..], &strs(&options)].concat());
    healthy.assert_code(0);
    for (_, name, _) in POOL {
        assert!(planned.stdout.contains(name), "{name}:\n{}", planned.stdout);
    }
    assert!(healthy.stdout.contains("/pool (your functions)"), "{}", healthy.stdout);
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("--allocators={}", path.display())
    };
    let unknown_key = file("key.toml", "[[allocator]]\nallocs = [\"f\"]\n");
    let wrong_spec = file("spec.toml", "[[allocator]]\n\nalloc = [\"f:size=7\"]\n");
    let twice = file("twice.toml", "[[allocator]]\nalloc = [\"f\"]\nfree = [\"f\"]\n");
    let cases: [(&str, &[&str]); 12] = [
        ("--alloc-fn=f:size=9", &["'--alloc-fn <SPEC>'", "from 0 for the first to 5"]),
        ("--alloc-fn=", &["--alloc-fn"]),
        ("--alloc-fn=f:sise=1", &["`sise=1`", "size=N, count=N"]),
        ("--alloc-fn=f:throws,nothrow", &["`throws` and `nothrow` exclude each other"]),
        ("--alloc-fn=app+0x12q", &["`0x12q` is no address"]),
        ("--alloc-fn=+0x12", &["needs its object in front"]),
        ("--free-fn=f:size=0", &["'--free-fn <SPEC>'", "ptr=N only"]),
        ("--free-fn=f:ptr", &["`ptr`: it takes the number"]),
        ("--allocators=/no/such/file", &["/no/such/file: No such file"]),
        (&unknown_key, &["key.toml:2: unknown field `allocs`"]),
        (&wrong_spec, &["spec.toml:3: `f:size=7`: `size=7`: it takes the number"]),
        (&twice, &["`f` is given twice"]),
    ];
    for (option, words) in cases {
        for before in [&["attach", "-p", "4194305"][..], &["-p", "4194305", "--dry-run"]] {
            let ended = command(&[before, &[option]].concat());
            ended.assert_code(2);
            for word in words {
                assert!(ended.stderr.contains(word), "no {word:?} in:\n{}", ended.stderr);
            }
        }
    }
}
