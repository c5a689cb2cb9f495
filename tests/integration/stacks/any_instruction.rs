//! Is a stack whole whatever instruction of a program a signal has interrupted?

use std::collections::BTreeSet;

use super::{address, frames, stacks_of};
use crate::processes::Target;
use crate::programs::Recipe;
use crate::report::names;
use crate::trace::Trace;

const STEPPED: Recipe = Recipe {
    name: "stepped",
    compiler: "gcc",
    flags: &["-g", "-O2", "-fno-builtin", "-fomit-frame-pointer", "-Wl,-z,lazy"],
    sources: &["stacks/stepped.c"],
};

/// gdb need not be asked: whatever was interrupted, what lies behind `step_through` is the same,
/// and reaches the program's start.
#[test]
fn a_stack_is_whole_behind_any_interrupted_instruction() {
    let mut target = Target::start::<&str>(&STEPPED.made(), &[]);
    let mut trace = Trace::attach(&target, &[]);
    let steps = target.work().get("steps");
    let report = trace.interrupt();
    let mut whole = 0;
    let mut beginnings = BTreeSet::new();
    let stacks = stacks_of(&report, target.ready.get("size"));
    for stack in &stacks {
        let frames = frames(stack);
        let behind = frames.iter().rposition(|frame| frame["function"] == "step_through");
        let (Some(behind), Some(last)) = (behind, frames.last()) else { continue };
        if last["function"] == "_start" {
            beginnings.insert(frames[behind + 1..].iter().map(address).collect::<Vec<u64>>());
            whole += stack["allocated_blocks"].as_u64().unwrap();
        }
    }
    let stacks: Vec<String> = stacks.iter().map(|stack| names(stack).join(" < ")).collect();
    assert_eq!(whole, steps, "not whole, or not behind step_through: {stacks:#?}");
    assert_eq!(beginnings.len(), 1, "{beginnings:#?}");
}
