//! Are allocators that a process loads while it is traced traced from then on, to the byte?

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::processes::Target;
use crate::programs::{Recipe, leaktrace, program};
use crate::report::{Held, Report};
use crate::trace::Trace;

/// A plugin with C++ operators of its own.
const OPERATORS: Recipe = Recipe {
    name: "libplugin_operators.so",
    compiler: "g++",
    flags: &["-O1", "-g", "-shared", "-fPIC", "-fno-builtin", "-w"],
    sources: &["liballoc_new.cc"],
};

/// A plugin with an allocator of its own, whose names it keeps to itself but for two.
const ALLOCATOR: Recipe = Recipe {
    name: "libplugin_allocator.so",
    compiler: "gcc",
    flags: &["-O1", "-g", "-shared", "-fPIC", "-fno-builtin", "-w", "-Wl,-Bsymbolic"],
    sources: &["liballoc_hook.c"],
};

/// A plugin whose allocator has names that no catalogue has.
const OWN: Recipe = Recipe {
    name: "libplugin_own.so",
    compiler: "gcc",
    flags: &[
        "-O1",
        "-g",
        "-shared",
        "-fPIC",
        "-fno-builtin",
        "-w",
        "-Dmalloc=plug_get",
        "-Dfree=plug_put",
        "-Dcalloc=plug_calloc",
        "-Drealloc=plug_realloc",
    ],
    sources: &["liballoc_twin.c"],
};

/// Debian's mimalloc.
fn mimalloc() -> PathBuf {
    "/usr/lib/x86_64-linux-gnu/libmimalloc.so.2".into()
}

/// Loads `library` while it is traced, and is exact from then on.
fn check(library: PathBuf, functions: [&str; 2], options: &[&str]) {
    let arguments = [library.to_str().unwrap(), functions[0], functions[1]];
    let mut target = Target::start(&program("loads_allocator.c"), &arguments);
    let mut trace = Trace::attach(&target, options);
    target.work();
    let said = trace.wait_to_say("leaktrace: process ");
    let file = library.canonicalize().unwrap();
    assert!(
        said.contains(&format!("has loaded {}", file.display()))
            && said.contains(", which is probed since"),
        "{said}"
    );
    target.work();
    let report = trace.interrupt();
    report.assert_complete();
    // What it had handed out before is not known.
    assert!(report.at("/health/trust/before").is_null(), "{}", report.at("/health/trust"));
    assert_eq!(report.held_by("leak_from_loaded"), Held { bytes: 40 * 333, blocks: 40 });
    assert_eq!(report.held_in("leak_from_libc"), Held { bytes: 5000, blocks: 5 });
    let probes = report.at("/probes").as_array().unwrap();
    let in_file = |probe: &&serde_json::Value| probe["module"] == file.to_str().unwrap();
    assert!(probes.iter().filter(in_file).count() >= 2, "{probes:?}");
    let notes = report.at("/health/notes").to_string();
    assert!(notes.contains("blocks that it handed out before are not known"), "{notes}");
    assert!(target.end().success());
}

#[test]
fn a_whole_allocator_loaded_later_is_traced() {
    check(mimalloc(), ["malloc", "free"], &["--exact"]);
}

#[test]
fn an_allocator_loaded_later_is_traced_under_a_budget() {
    check(mimalloc(), ["malloc", "free"], &["--max-overhead", "50%"]);
}

#[test]
fn what_libc_allocates_for_its_callers_still_counts_in_a_sample_then() {
    // All of the blocks are larger: they are sampled for sure.
    check(mimalloc(), ["malloc", "free"], &["--exact", "--sample", "256"]);
}

#[test]
fn a_plugin_with_an_allocator_of_its_own_is_traced() {
    check(ALLOCATOR.made(), ["malloc", "free"], &["--exact"]);
    check(ALLOCATOR.made(), ["malloc", "free"], &["--perf-links"]);
}

#[test]
fn a_plugin_with_operators_of_its_own_is_traced() {
    check(OPERATORS.made(), ["_Znwm", "_ZdlPv"], &["--exact"]);
}

#[test]
fn functions_named_with_a_files_whole_path_are_found_when_it_is_loaded() {
    let path = OWN.made().canonicalize().unwrap();
    let options = [("alloc", "plug_get", "size=0"), ("free", "plug_put", "ptr=0")]
        .map(|(kind, name, keys)| format!("--{kind}-fn={name}@{}:{keys}", path.display()));
    check(path, ["plug_get", "plug_put"], &[&options[0], &options[1], "--exact"]);
}

/// They were held against a command that was traced from its first allocation on.
#[test]
fn blocks_from_before_a_plugin_was_probed_are_no_sign_of_anything() {
    let library = ALLOCATOR.made();
    let (input, mut go_on) = std::io::pipe().unwrap();
    let mut run = Command::new(leaktrace());
    run.args(["run", "--exact", "-o", "report.json", "--"]);
    run.arg(program("loads_allocator.c")).arg(&library).args(["malloc", "free", "200"]);
    let mut trace = Trace::spawn_with_input(&mut run, input);
    trace.wait_for_tracing();
    // leaktrace has let it go on by then.
    trace.wait_to_print("ready");
    // It hands out some of its blocks before anybody knows that it is there.
    trace.signal(libc::SIGSTOP);
    go_on.write_all(b"\n").unwrap();
    trace.wait_to_print("done loaded=1");
    trace.signal(libc::SIGCONT);
    trace.wait_to_say("leaktrace: process ");
    go_on.write_all(b"\n\n").unwrap();
    trace.ended().assert_code(0);
    let report = Report::read(&trace.file("report.json"));
    let trust = report.at("/health/trust");
    assert_eq!(trust["verdict"], "enough", "{trust}");
    assert_eq!(trust["from_first_allocation"], false);
    assert!(trust["bytes_before"].is_null(), "{trust}");
    assert!(report.number("/health/unknown_frees") > 16, "{}", report.at("/health"));
}
