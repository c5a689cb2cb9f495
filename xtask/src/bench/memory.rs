//! How much memory does a live block take, in the kernel and in leaktrace? And what becomes of the
//! answer when there are more blocks than room?

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::process::{Process, kib_of};
use super::programs::Programs;
use super::report::Report;
use super::table::{Cell, Section};
use super::tracing::Tracing;
use super::{Effort, fdinfo};

const COLUMNS: [&str; 6] = [
    "live blocks",
    "BPF maps, MiB",
    "bytes/block",
    "kernel slabs, bytes/block",
    "leaktrace's peak RSS meanwhile, MiB",
    "bytes/block",
];
/// Room for more than there are: the kernel hands entries to CPUs in batches.
const ROOM: f64 = 1.05;
/// As many as a trace has that looks for nothing.
const NO_BLOCKS: u32 = 1024;
/// leaktrace looks at every block when it refreshes its view: two refreshes, with a second each...
const UNTIL_REFRESHED: Duration = Duration::from_millis(2500);
/// ...and the time to look, for each block.
const LOOK: Duration = Duration::from_nanos(1500);

/// More blocks than room, and how often all but the oldest are replaced.
const TOO_MANY: u32 = 1_000_000;
const FITTING: u32 = 100_000;
const REPLACED: u32 = 3;

/// Bytes in use.
struct Usage {
    maps: f64,
    slabs: f64,
    rss: f64,
}

impl Usage {
    fn of(tracer: &Process) -> Result<Self> {
        let slabs = kib_of(&fs::read_to_string("/proc/meminfo")?, "SUnreclaim")? * 1024.0;
        let maps = fdinfo::by_id(tracer.pid(), "map_id", "memlock")?.into_values().sum();
        Ok(Self { maps, slabs, rss: tracer.status_kib("VmHWM")? * 1024.0 })
    }

    /// The same, and the peak begins anew: attaching has one of its own.
    fn before_blocks(tracer: &Process) -> Result<Self> {
        /// See proc(5).
        const RESET_PEAK: &str = "5";
        fs::write(format!("/proc/{}/clear_refs", tracer.pid()), RESET_PEAK)?;
        Self::of(tracer)
    }
}

pub(crate) fn measure(programs: &Programs, effort: Effort) -> Result<Section> {
    let mut section = Section::new("Memory for live blocks", &COLUMNS);
    let (without, _) = usage(programs, 1, NO_BLOCKS)?;
    let mib = |bytes: f64| Cell::Number(bytes / f64::from(1 << 20), 1);
    for blocks in [1_000_000, 10_000_000].into_iter().take(effort.sizes) {
        let (before, after) = usage(programs, blocks, (f64::from(blocks) * ROOM) as u32)?;
        let each = |bytes: f64| Cell::Number(bytes / f64::from(blocks), 1);
        section.row([
            Cell::Number(f64::from(blocks), 0),
            mib(after.maps),
            each(after.maps - without.maps),
            each(after.slabs - before.slabs),
            mib(after.rss),
            each(after.rss - before.rss),
        ]);
    }
    section.note(format!(
        "`--max-blocks` is {:.0} % more than there are. The maps are what the kernel accounts for, with \
         all that their capacity takes before the first block, less what they take with `--max-blocks \
         {NO_BLOCKS}` ({:.1} MiB); the slabs see every other program of the machine as well. \
         leaktrace's memory is what it grew by from before the first block ({:.1} MiB); its peak is \
         that after attaching. Aim: at most 100 bytes in the kernel and 50 in leaktrace.",
        100.0 * (ROOM - 1.0),
        without.maps / f64::from(1 << 20),
        without.rss / f64::from(1 << 20)
    ));
    section.note(when_full(programs)?);
    Ok(section)
}

/// What a tracer uses before and after so many blocks are there.
fn usage(programs: &Programs, blocks: u32, room: u32) -> Result<(Usage, Usage)> {
    let mut target = Process::start(Command::new(&programs.blocks).arg(blocks.to_string()))?;
    target.wait_for_line("ready")?;
    let room = room.to_string();
    let pid = target.pid().to_string();
    let mut tracer = Tracing::Exact.start(programs, &pid, &["-i", "1s", "--max-blocks", &room])?;
    thread::sleep(UNTIL_REFRESHED);
    let before = Usage::before_blocks(&tracer)?;
    target.say("go")?;
    target.wait_for_line("done")?;
    thread::sleep(UNTIL_REFRESHED + LOOK * blocks);
    let after = Usage::of(&tracer)?;
    tracer.interrupt()?;
    target.close_and_wait()?;
    Ok((before, after))
}

/// With less room than blocks: is the oldest kept, the loss counted, and nobody blamed?
fn when_full(programs: &Programs) -> Result<String> {
    let path = programs.directory.join("full.json");
    let mut target = Process::start(
        Command::new(&programs.blocks).args([TOO_MANY.to_string(), FITTING.to_string()]),
    )?;
    target.wait_for_line("ready")?;
    let mut tracer = Tracing::Exact.start(
        programs,
        &target.pid().to_string(),
        &["-i", "1s", "--max-blocks", &FITTING.to_string(), "-o", &path.to_string_lossy()],
    )?;
    for _ in 0..=REPLACED {
        target.say("go")?;
        target.wait_for_line("done")?;
        thread::sleep(UNTIL_REFRESHED);
    }
    tracer.interrupt()?;
    target.close_and_wait()?;
    let report = Report::read(&path)?;
    let of = |function: &str| {
        let stacks = report.stacks().filter(|stack| stack.has(function));
        stacks.fold(0.0, |sum, stack| sum + stack.number("outstanding_blocks"))
    };
    let growing: Vec<String> = report
        .stacks()
        .filter(super::report::Stack::is_growing)
        .map(|stack| stack.leaf().to_owned())
        .collect();
    Ok(format!(
        "With room for {FITTING} blocks and {TOO_MANY} there, of which all but the first {FITTING} are \
         freed and allocated anew {REPLACED} times: {:.0} of the first are known in the end and {:.0} of \
         the later ones; lost: {}; called growing: {}.",
        of("allocate_first"),
        of("allocate_later"),
        report.losses().join(", "),
        if growing.is_empty() { "none".to_owned() } else { growing.join(", ") }
    ))
}
