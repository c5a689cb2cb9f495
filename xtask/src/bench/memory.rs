//! How much memory does a live block take, in the kernel and in leaktrace?

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::fdinfo;
use super::process::{Process, kib_of};
use super::programs::Programs;
use super::table::{Cell, Section};

const BLOCKS: f64 = 1e6;
const COLUMNS: [&str; 4] =
    ["memory", "before, MiB", "with 1,000,000 live blocks, MiB", "bytes/block"];
/// leaktrace looks at every block when it refreshes its view: two refreshes, with a second each.
const UNTIL_REFRESHED: Duration = Duration::from_millis(2500);

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
}

pub(crate) fn measure(programs: &Programs) -> Result<Section> {
    let mut section = Section::new("Memory for live blocks", &COLUMNS);
    let mut target = Process::start(Command::new(&programs.blocks).arg(format!("{BLOCKS:.0}")))?;
    target.wait_for_line("ready")?;
    let pid = target.pid().to_string();
    let mut tracer =
        Process::start(Command::new(&programs.leaktrace).args(["-p", &pid, "-i", "1s"]))?;
    tracer.wait_for_line("leaktrace: tracing")?;
    thread::sleep(UNTIL_REFRESHED);
    let before = Usage::of(&tracer)?;
    target.say("go")?;
    target.wait_for_line("done")?;
    thread::sleep(UNTIL_REFRESHED);
    let after = Usage::of(&tracer)?;
    tracer.interrupt()?;
    target.close_and_wait()?;
    for (name, before, after) in [
        ("BPF maps, as the kernel accounts for them", before.maps, after.maps),
        ("the whole kernel's slabs (SUnreclaim)", before.slabs, after.slabs),
        ("leaktrace's peak RSS", before.rss, after.rss),
    ] {
        section.row([
            Cell::text(name),
            Cell::Number(before / f64::from(1 << 20), 1),
            Cell::Number(after / f64::from(1 << 20), 1),
            Cell::Number((after - before) / BLOCKS, 1),
        ]);
    }
    section.note(
        "The maps hold the key, the value and the kernel's head of an entry; the slabs round each \
         up, and see every other program of the machine as well. Before the first block, the maps \
         take what their capacity costs: with the default `--max-blocks`.",
    );
    Ok(section)
}
