//! Looks into a target's memory for blocks that died without a free having been seen.

use std::sync::mpsc::channel;
use std::time::Duration;

use crate::model::{Addr, Pid};
use crate::target::heap::{ForeignMemory, HeapCheck, Judged};
use crate::target::{Image, Plan, maps};

/// How much of a target's heaps is read at a look, in bytes: a tenth of a second.
const MOST_BYTES: u64 = 256 << 20;
/// A target can make a reader of its memory wait for ever (by userfaultfd).
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks at one address space, time and again.
pub struct HeapLook {
    pid: Pid,
    /// `None` after a look that did not end.
    check: Option<HeapCheck>,
    /// Blocks of the last look that nothing could be said about.
    pub unjudged: u64,
}

impl HeapLook {
    /// For the address space of `image`.
    pub fn new(pid: Pid, image: &Image, plan: &Plan) -> Self {
        Self { pid, check: Some(HeapCheck::new(image, plan)), unjudged: 0 }
    }

    /// Which of these blocks, by address and size, ordered by address, are certainly dead.
    pub fn dead(&mut self, blocks: Vec<(Addr, u64)>) -> Vec<Addr> {
        self.unjudged = blocks.len() as u64;
        let Some(mut check) = self.check.take() else { return Vec::new() };
        let pid = self.pid;
        let (sender, judged) = channel();
        let looks = std::thread::Builder::new().name("heap".to_owned()).spawn(move || {
            let judged = judge(pid, &mut check, &blocks);
            // Nobody waits any more for one that took too long.
            let _ = sender.send((check, blocks, judged));
        });
        if looks.is_err() {
            return Vec::new();
        }
        let Ok((check, blocks, judged)) = judged.recv_timeout(PATIENCE) else {
            log::info!("process {pid} does not let its memory be read in time");
            return Vec::new();
        };
        self.check = Some(check);
        let Some(judged) = judged else { return Vec::new() };
        self.unjudged = judged.counts().2 as u64;
        let verdicts = blocks.iter().zip(&judged.verdicts);
        verdicts.filter(|(_, verdict)| verdict.is_dead()).map(|((block, _), _)| *block).collect()
    }
}

/// `None` if the address space is gone.
fn judge(pid: Pid, check: &mut HeapCheck, blocks: &[(Addr, u64)]) -> Option<Judged> {
    let memory = ForeignMemory::open(pid).ok()?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let mappings = maps::parse(&text);
    let known = mappings.iter().find(|mapping| mapping.executable)?.start.0;
    let judged = check.look(&memory, &mappings, blocks, MOST_BYTES);
    memory.is_still(known).then_some(judged)
}
