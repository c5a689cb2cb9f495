//! Is what is loaded while tracing is under way noticed, and are its stacks whole then?

use serde_json::Value;

use super::recipes::{LIBRARY, LOADS_LATER};
use super::{Expect, compare, gdb, stacks_of};
use crate::processes::{DEADLINE, Target, wait_for};
use crate::programs::variant;
use crate::report::{Report, names};
use crate::trace::Trace;

/// The stack of the allocations of `size` bytes that reaches `main`.
fn whole(report: &Report, size: u64) -> Option<&Value> {
    let mut stacks = stacks_of(report, size).into_iter();
    stacks.find(|stack| names(stack).contains(&"main"))
}

/// The library's first allocation may come before anyone can have noticed it. So the target goes on
/// allocating until a stack is whole; and that one is whole to the last address.
#[test]
fn a_library_loaded_later_has_whole_stacks() {
    let mut target = Target::start(&LOADS_LATER.recipe.made(), &[LIBRARY.made()]);
    let size = target.ready.get("dlopened");
    let mut trace = Trace::attach(&target, &[]);
    wait_for(DEADLINE, "a stack from the library to main", || {
        target.work();
        whole(&trace.report_now(), size).map(|_| ())
    });
    let report = trace.interrupt();
    let gdb = gdb::stacks(&mut target);
    compare(whole(&report, size).unwrap(), &gdb[&size], Expect::Whole);
}

/// Everything that a command consists of is loaded under way.
#[test]
fn a_command_has_whole_stacks_from_its_first_allocation() {
    let flags = ["-O2", "-fomit-frame-pointer"];
    let program = variant("leak_three.c", "leak_three_omit", &flags);
    let program = program.to_str().unwrap();
    let mut trace = Trace::start(&["run", "-o", "report.json", "--", program, "0"]);
    let report = trace.report();
    for (size, function) in [(1777, "leak_before_main"), (4096, "leak_here")] {
        for stack in stacks_of(&report, size) {
            let names = names(stack);
            assert_eq!(names.first(), Some(&function), "{names:?}");
            assert_eq!(names.last(), Some(&"_start"), "{names:?}");
        }
        assert!(!stacks_of(&report, size).is_empty(), "nothing of {function}");
    }
}
