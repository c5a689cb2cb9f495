//! Are the stacks of allocations those that gdb sees, frame by frame?
//!
//! leaktrace traces a program while it does its work; then gdb attaches to the same process, lets it
//! do the same work, and stops at each call. The addresses must be equal, in order, from the
//! allocation's caller to the thread's start.
//!
//! A program has many *shapes* (`programs/stacks/`): each a way for a call to lie on a stack, and
//! each with a size of allocation of its own. It is run once for all of them. A row of the matrix is
//! a shape of a program, built by a recipe.

mod any_instruction;
mod gdb;
mod recipes;
mod rows;
mod under_way;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::Value;

use self::gdb::Kind;
use self::recipes::Subject;
use crate::processes::Target;
use crate::programs::Recipe;
use crate::report::{Report, names};
use crate::trace::Trace;

/// The most frames that leaktrace keeps.
const MOST_FRAMES: usize = 127;

/// What is known to be true of a row beyond its addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// The stack is whole.
    Whole,
    /// It has more frames than leaktrace keeps: the innermost are there, and it is said to be cut.
    CutShort,
    /// It is whole, and has gdb's functions, lines and inlined frames wherever the code is the
    /// program's own.
    WholeAndNamed,
    /// It is whole to where `main` returns to. What lies behind it has no unwinding information, so
    /// gdb guesses: musl's own code.
    ToMain,
}

/// What both saw of a program's work.
struct Seen {
    sizes: BTreeMap<String, u64>,
    report: Report,
    gdb: BTreeMap<u64, gdb::Stack>,
}

/// The stack of `shape` in a program is as expected.
#[track_caller]
fn check(subject: &'static Subject, shape: &str, expect: Expect) {
    let seen = seen(subject);
    let size = *seen.sizes.get(shape).unwrap_or_else(|| panic!("there is no shape {shape}"));
    let gdb = seen.gdb.get(&size).unwrap_or_else(|| panic!("gdb saw no malloc({size})"));
    let stacks = stacks_of(&seen.report, size);
    let [stack] = stacks[..] else {
        panic!(
            "{} stacks for one malloc({size}); stacks that look the same are one:\n{}",
            stacks.len(),
            stacks_and_calls(&seen.report)
        );
    };
    compare(stack, gdb, expect);
}

/// The health of the report says how many of a program's stacks are cut short, and, where the others
/// are whole, that all of them are: no allocation beside those of the shapes has another.
#[track_caller]
fn check_counts(subject: &'static Subject, cut_short: u64, others: Expect) {
    let report = &seen(subject).report;
    assert_eq!(report.number("/health/stacks/cut_short"), cut_short, "{}", report.at("/health"));
    if others == Expect::Whole {
        // Rust's threads map the stacks of their signal handlers themselves.
        let mapped = report.number("/health/mappings/mapped");
        let whole = report.number("/health/allocs") + mapped - cut_short;
        assert_eq!(report.number("/health/stacks/complete"), whole, "{}", report.at("/health"));
        assert_eq!(report.number("/health/stacks/lost"), 0, "{}", report.at("/health"));
        assert_eq!(report.at("/health/stacks/lost_at"), &serde_json::json!([]));
    }
}

/// leaktrace's `stack` against gdb's.
#[track_caller]
fn compare(stack: &Value, gdb: &gdb::Stack, expect: Expect) {
    let mut wanted: Vec<u64> = gdb
        .frames
        .iter()
        .filter(|frame| matches!(frame.kind, Kind::Normal | Kind::Signal))
        .map(|frame| frame.pc)
        .collect();
    let mut found = addresses(stack);
    match expect {
        Expect::Whole | Expect::WholeAndNamed => {
            assert!(gdb.outermost, "gdb lost its way:\n{}", side_by_side(stack, gdb));
        }
        Expect::CutShort => {
            assert!(wanted.len() > MOST_FRAMES, "not deep enough: {} frames", wanted.len());
            wanted.truncate(MOST_FRAMES);
        }
        Expect::ToMain => {
            let frames = gdb.frames.iter().filter(|frame| frame.kind == Kind::Normal);
            let main = frames.clone().position(|frame| frame.function.as_deref() == Some("main"));
            wanted.truncate(main.expect("gdb did not reach main") + 2);
            found.truncate(wanted.len());
        }
    }
    assert!(found == wanted, "not the same frames:\n{}", side_by_side(stack, gdb));
    assert_eq!(stack["truncated"], expect == Expect::CutShort, "is it cut short?");
    if expect == Expect::WholeAndNamed {
        let (found, wanted) = (own_names(stack), own_names_by_gdb(gdb));
        assert_eq!(found, wanted, "not the same names");
        assert!(found.iter().any(|name| name.inlined), "nothing is inlined here: {found:#?}");
    }
}

/// What there is to see of a program: it is run once for all rows that ask. Should that fail, the
/// first of them says why.
fn seen(subject: &'static Subject) -> &'static Seen {
    static SEEN: Mutex<BTreeMap<&'static str, &'static OnceLock<Option<Seen>>>> =
        Mutex::new(BTreeMap::new());
    let name = subject.recipe.name;
    let mut all = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = *all.entry(name).or_insert_with(|| Box::leak(Box::default()));
    drop(all);
    let look = || catch_unwind(AssertUnwindSafe(|| look(subject))).ok();
    let seen = seen.get_or_init(look).as_ref();
    seen.unwrap_or_else(|| panic!("{name} could not be looked at: another row says why"))
}

fn look(subject: &Subject) -> Seen {
    let library = subject.library.map(Recipe::made);
    let mut target = Target::start(&subject.recipe.made(), library.as_slice());
    let mut trace = Trace::attach(&target, &[]);
    target.work();
    let report = trace.interrupt();
    let gdb = gdb::stacks(&mut target);
    Seen { sizes: target.ready.all().clone(), report, gdb }
}

/// The stacks of a report on which all blocks have `size`.
fn stacks_of(report: &Report, size: u64) -> Vec<&Value> {
    let count = |stack: &Value, key: &str| stack[key].as_u64().unwrap();
    let all_have_it =
        |stack: &&Value| count(stack, "allocated_bytes") == size * count(stack, "allocated_blocks");
    report.stacks().iter().filter(all_have_it).collect()
}

/// All stacks, leaf first, with what was allocated on each.
fn stacks_and_calls(report: &Report) -> String {
    let line = |stack: &Value| {
        let (bytes, blocks) = (&stack["allocated_bytes"], &stack["allocated_blocks"]);
        format!("  {bytes} bytes in {blocks} blocks: {}\n", names(stack).join(" < "))
    };
    report.stacks().iter().map(line).collect()
}

fn frames(stack: &Value) -> &[Value] {
    stack["frames"].as_array().unwrap()
}

fn address(frame: &Value) -> u64 {
    let digits = frame["ip"].as_str().and_then(|ip| ip.strip_prefix("0x")).unwrap();
    u64::from_str_radix(digits, 16).unwrap()
}

/// The addresses of what lies on the stack; inlined functions share their caller's.
fn addresses(stack: &Value) -> Vec<u64> {
    frames(stack).iter().filter(|frame| frame["inlined"] == false).map(address).collect()
}

/// How a reader knows a frame.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    function: String,
    file: String,
    line: u64,
    inlined: bool,
}

impl Name {
    /// Of a frame whose code is in a source in `programs/stacks/`; of others, none.
    fn own(function: Option<&str>, file: Option<&str>, line: u64, inlined: bool) -> Option<Self> {
        let file = Path::new(file?).file_name()?.to_str()?.to_owned();
        let own = file.starts_with("shapes.");
        // gdb writes C++ functions without their parameters.
        let function = function?.split('(').next()?.to_owned();
        own.then_some(Self { function, file, line, inlined })
    }
}

fn own_names(stack: &Value) -> Vec<Name> {
    let name = |frame: &Value| {
        let line = frame["line"].as_u64().unwrap_or(0);
        let inlined = frame["inlined"] == true;
        Name::own(frame["function"].as_str(), frame["file"].as_str(), line, inlined)
    };
    frames(stack).iter().filter_map(name).collect()
}

fn own_names_by_gdb(stack: &gdb::Stack) -> Vec<Name> {
    let on_stack = stack.frames.iter().filter(|frame| frame.kind != Kind::TailCall);
    let name = |frame: &gdb::Frame| {
        let inlined = frame.kind == Kind::Inline;
        Name::own(frame.function.as_deref(), frame.file.as_deref(), frame.line, inlined)
    };
    on_stack.filter_map(name).collect()
}

/// Both stacks, for whoever has to find out why they differ.
fn side_by_side(stack: &Value, gdb: &gdb::Stack) -> String {
    let mut text = "leaktrace:\n".to_owned();
    for frame in frames(stack) {
        let inlined = if frame["inlined"] == true { "inline" } else { "" };
        let (function, module) = (&frame["function"], &frame["module"]);
        writeln!(text, "  {:#014x} {inlined:8} {function} {module}", address(frame)).unwrap();
    }
    text.push_str("gdb:\n");
    for frame in &gdb.frames {
        let kind = match frame.kind {
            Kind::Normal => "",
            Kind::Inline => "inline",
            Kind::TailCall => "tailcall",
            Kind::Signal => "signal",
        };
        writeln!(text, "  {:#014x} {kind:8} {:?}", frame.pc, frame.function).unwrap();
    }
    text
}
