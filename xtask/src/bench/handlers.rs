//! What do leaktrace's handlers add to empty probes, when there are many live blocks, and how much of
//! a CPU does leaktrace itself use?

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Effort;
use super::programs::Programs;
use super::steady::Steady;
use super::table::{Cell, Section, median};
use super::tracing::Tracing;

const COLUMNS: [&str; 6] =
    ["live blocks", "untraced, CPU ns/pair", "empty probes", "exact", "to empty probes", "aim"];
const FRAMES: u32 = 26;
/// Live blocks, and what is aimed at with them.
const KINDS: [(u32, f64); 2] = [(10_000, 1.35), (1_000_000, 1.6)];
/// So many times its blocks are replaced before the ledger is taken to know most of them.
const REPLACED: f64 = 2.5;
const FILLS_WITHIN: Duration = Duration::from_secs(40);
/// Spells of half a second in each turn.
const SPELLS: u32 = 6;
const SPELL_S: f64 = 0.5;

/// Pairs a second, two events each, for leaktrace's own CPU time.
const PACE: u32 = 100_000;
const PACED_STACKS: u32 = 1000;
const OWN_AIM_PERCENT: f64 = 3.0;

pub(crate) fn measure(programs: &Programs, effort: Effort) -> Result<Section> {
    let mut section = Section::new("The handlers, 26 frames", &COLUMNS);
    for (live, aim) in KINDS {
        let mut load = start(programs, &[("live", live)])?;
        let (mut untraced, mut empty, mut exact) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..effort.turns {
            for _ in 0..SPELLS {
                untraced.push(load.watch(SPELL_S)?.cpu_ns());
            }
            for (tracing, found) in [(Tracing::Empty, &mut empty), (Tracing::Exact, &mut exact)] {
                let tracer = tracing.start_settled(programs, load.pid())?;
                if tracing == Tracing::Exact {
                    replace_blocks(&mut load, REPLACED * f64::from(live))?;
                }
                for _ in 0..SPELLS {
                    found.push(load.watch(SPELL_S)?.cpu_ns());
                }
                tracing.stop(tracer)?;
            }
        }
        load.end()?;
        section.row([
            Cell::Number(f64::from(live), 0),
            Cell::Number(median(&untraced), 0),
            Cell::Number(median(&empty), 0),
            Cell::Number(median(&exact), 0),
            Cell::Number(median(&exact) / median(&empty), 2),
            Cell::Number(aim, 2),
        ]);
    }
    section.note(
        "malloc and free of 16 to 511 bytes; each pair frees a block that was chosen at random, so the \
         ledger is searched all over. CPU time of the thread, medians of spells of half a second.",
    );
    section.note(own_use(programs, effort)?);
    Ok(section)
}

fn start(programs: &Programs, numbers: &[(&str, u32)]) -> Result<Steady> {
    let mut arguments = vec![format!("frames={FRAMES}")];
    arguments.extend(numbers.iter().map(|(name, number)| format!("{name}={number}")));
    Steady::load(programs, &arguments)
}

fn replace_blocks(load: &mut Steady, pairs: f64) -> Result<()> {
    let deadline = Instant::now() + FILLS_WITHIN;
    let before = load.progress()?;
    while load.watch(SPELL_S)?.units > 0.0 && Instant::now() < deadline {
        if load.progress()?.since(before).units > pairs {
            break;
        }
    }
    Ok(())
}

fn own_use(programs: &Programs, effort: Effort) -> Result<String> {
    let numbers = [("live", 10_000), ("stacks", PACED_STACKS), ("pace", PACE)];
    let mut load = start(programs, &numbers)?;
    let tracer = Tracing::Exact.start_settled(programs, load.pid())?;
    let before = tracer.cpu_seconds()?;
    let progress = load.watch(effort.watched_s)?;
    let cpu = tracer.cpu_seconds()? - before;
    let rss = tracer.status_kib("VmHWM")? / 1024.0;
    Tracing::Exact.stop(tracer)?;
    load.end()?;
    Ok(format!(
        "leaktrace itself used {:.2} % of a CPU (aim: {OWN_AIM_PERCENT:.0} %) and {rss:.1} MiB at {:.0} \
         events a second of {PACED_STACKS} stacks, over {:.0} s.",
        100.0 * cpu / progress.wall_s,
        2.0 * progress.units / progress.wall_s,
        progress.wall_s
    ))
}
