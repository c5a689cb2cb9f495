//! What does walking a stack by unwind tables cost, beside following frame pointers?

use anyhow::{Context, Result};

use super::Effort;
use super::bpf_stats::BpfStats;
use super::pairs::{LONG, SHORT, TRACED_BATCH, medians};
use super::programs::{Programs, Unwinding};
use super::table::{Cell, Section, median};
use super::target::{Pair, Target};

const COLUMNS: [&str; 6] = [
    "frames",
    "callers are found by",
    "allocation's programs, ns",
    "ns/frame",
    "ns/pair",
    "CPU ns/pair",
];
/// What walks, as the kernel names it, and how often it runs for each allocation: a session at the
/// entry and at the return, or the program at the return alone.
const WALKS: [(&str, f64); 2] = [("allocation_sess", 2.0), ("allocation_retu", 1.0)];
/// How much longer the walk by tables may take.
const AIM: f64 = 2.0;

/// One kind of stack.
struct Stack {
    frames: u32,
    unwinding: Unwinding,
    target: Target,
    pairs: Vec<Pair>,
    runs: Vec<f64>,
}

impl Stack {
    fn start(programs: &Programs, frames: u32, unwinding: Unwinding) -> Result<Self> {
        let target = Target::start_unwound_by(programs, frames, unwinding)?;
        Ok(Self { frames, unwinding, target, pairs: Vec::new(), runs: Vec::new() })
    }
}

pub(crate) fn measure(programs: &Programs, effort: Effort) -> Result<Section> {
    use Unwinding::{FramePointers, Tables};
    let mut stacks = Vec::new();
    for frames in [SHORT, LONG] {
        for unwinding in [FramePointers, Tables] {
            stacks.push(Stack::start(programs, frames, unwinding)?);
        }
    }
    // All are traced at once, so that batches can alternate.
    let pids: Vec<u32> = stacks.iter().map(|stack| stack.target.process.pid()).collect();
    let mut tracer = Target::trace_all_settled(programs, &pids)?;
    for _ in 0..effort.rounds * effort.batches {
        for stack in &mut stacks {
            stack.pairs.push(stack.target.run(TRACED_BATCH)?);
        }
    }
    let stats = BpfStats::switch_on(tracer.pid())?;
    for _ in 0..effort.batches {
        for stack in &mut stacks {
            let before = stats.run_times()?;
            stack.target.run(TRACED_BATCH)?;
            let after = stats.run_times()?;
            let walk = WALKS.iter().find_map(|(name, runs)| {
                let before = before.get(*name).copied().unwrap_or_default();
                Some(runs * after.get(*name)?.each_since(before)?)
            });
            stack.runs.push(walk.context("the kernel accounts for no walk")?);
        }
    }
    drop(stats);
    tracer.interrupt()?;

    let run = |frames, unwinding| {
        let found = stacks.iter().find(|s| s.frames == frames && s.unwinding == unwinding);
        found.map_or(0.0, |stack| median(&stack.runs))
    };
    let each = |unwinding| (run(LONG, unwinding) - run(SHORT, unwinding)) / f64::from(LONG - SHORT);
    let mut section = Section::new("Walking a stack", &COLUMNS);
    for stack in &stacks {
        let pair = medians(&stack.pairs);
        section.row([
            Cell::Number(f64::from(stack.frames), 0),
            Cell::text(stack.unwinding.name()),
            Cell::Number(median(&stack.runs), 0),
            if stack.frames == LONG { Cell::Number(each(stack.unwinding), 1) } else { Cell::Empty },
            Cell::Number(pair.wall, 0),
            Cell::Number(pair.cpu, 0),
        ]);
    }
    section.note(format!(
        "A table walk of {LONG} frames costs {:.2} times the frame-pointer walk, by what each frame \
         beyond {SHORT} adds (aim: at most {AIM:.0}); with the rest of the program that it runs in, \
         {:.2} times.",
        each(Tables) / each(FramePointers),
        run(LONG, Tables) / run(LONG, FramePointers),
    ));
    section.note(
        "The same program, built without unwind tables and with frame pointers, and the other way \
         round; medians of alternating batches, all four traced at once. The program's time is the \
         kernel's accounting, which adds about 30 ns to each run and none to the pairs. Each stack has \
         two frames more, of the C library, which has tables and no frame pointers. To follow frame \
         pointers, the kernel half first looks up that there is no table. Rules are remembered by address here, as in any stack that \
         comes again; looking one up in a table is not measured.",
    );
    Ok(section)
}
