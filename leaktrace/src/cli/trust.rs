//! How whole a trace is: what each target had when tracing began, which functions are seen, and what
//! the counters say of events that were missed. `analyse::trust` judges it.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::Result;
use leaktrace_ebpf::records::Counter;

use super::few_threads::FewThreads;
use super::session::Session;
use super::traced::Traced;
use crate::analyse::trust;
use crate::collect::maps::CounterValues;
use crate::model::{
    Before, EntryPoints, Health, Mode, Pid, Snapshot, Totals, Trust, TrustEvidence,
};
use crate::probe::Attached;
use crate::report::units;
use crate::target::entry_points::entry_points;
use crate::target::heap::{ForeignMemory, HeapCheck, InUse};
use crate::target::{Image, Plan, PlanOptions, maps, process};

/// No allocator has smaller blocks, in bytes.
const SMALLEST_BLOCK: u64 = 8;
/// How much of a target's heaps is read to know what is in use, in bytes: a tenth of a second.
const MOST_BYTES: u64 = 256 << 20;
/// The last report waits so long for that, of all targets.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who reads that.
static READERS: FewThreads = FewThreads::idle();

/// What is known of one target, from the moment that its probes are in.
#[derive(Default)]
pub struct Known {
    /// It is traced from its first allocation on.
    pub from_first: bool,
    /// It has replaced an address space, or was joined by allocators, whose events are in the
    /// counters, too, and of which nobody knows what was there before.
    pub came_later: bool,
    /// The address space that it has replaced was not traced all the time, for the budget's sake.
    pub was_out: bool,
    /// The functions of its allocators.
    pub entry_points: EntryPoints,
    /// Why all its probes are out while it runs on.
    pub probes_out: Vec<String>,
    /// Allocators of it that `-O` leaves out.
    pub(super) elsewhere: Vec<String>,
    check: Option<HeapCheck>,
    /// Bytes that no file backs, when tracing began.
    anonymous: Option<u64>,
    in_use: Option<(InUse, u64)>,
    coming: Option<Receiver<Option<InUse>>>,
}

impl Known {
    /// Of a target whose probes are in; nothing counts yet.
    pub fn planned(image: &Image, plan: &Plan, attached: &Attached) -> Self {
        Self {
            entry_points: entry_points(plan, &attached.probes, &attached.failures),
            check: Some(HeapCheck::new(image, plan)),
            ..Self::default()
        }
    }

    /// Looks which allocators of a target `-O` leaves out: what they allocate is in no figure.
    pub fn look_elsewhere(&mut self, image: &Image, exe: &str, only: &str) {
        let Ok(all) = Plan::make(image, exe, &PlanOptions::default()) else { return };
        let is_chosen = |path: &String| path.trim_end_matches(" (deleted)").ends_with(only);
        self.elsewhere = all.allocators.into_iter().filter(|path| !is_chosen(path)).collect();
    }

    /// Allocators have joined it that are probed from now on: what they had handed out before is not
    /// known.
    pub fn joined(&mut self) {
        (self.from_first, self.came_later) = (false, true);
    }

    /// Events count from now on: what the target has had before that is looked at, in another
    /// thread as far as it takes time.
    pub fn begin(&mut self, pid: Pid) {
        (self.anonymous, self.in_use, self.coming) = (None, None, None);
        if self.from_first {
            return;
        }
        self.anonymous = process::anonymous_memory(pid);
        let Some(mut check) = self.check.clone() else { return };
        let (sender, receiver) = channel();
        READERS.give(move || {
            // Nobody waits any more for a target that does not let its memory be read.
            let _ = sender.send(in_use(pid, &mut check));
        });
        self.coming = Some(receiver);
    }

    /// Takes what was found in use, when it is there. `freed` are the frees until now of blocks from
    /// before: those may be in it no longer.
    fn look(&mut self, freed: u64, until: Instant) {
        let Some(coming) = &self.coming else { return };
        let found = match coming.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => return,
            Err(RecvTimeoutError::Disconnected) => None,
            Ok(found) => found,
        };
        self.in_use = found.map(|in_use| (in_use, freed));
        self.coming = None;
    }

    /// What was there before; `None` when nobody knows.
    fn before(&self) -> Option<Before> {
        if self.from_first {
            return Some(Before { in_use: true, ..Before::default() });
        }
        if self.came_later {
            return None;
        }
        if let Some((found, _)) = self.in_use {
            return Some(Before { bytes: found.bytes, in_use: true, most_blocks: found.blocks });
        }
        let bytes = self.anonymous?;
        Some(Before { bytes, in_use: false, most_blocks: bytes / SMALLEST_BLOCK })
    }
}

/// `None` if that cannot be said, or the address space is gone.
fn in_use(pid: Pid, check: &mut HeapCheck) -> Option<InUse> {
    let memory = ForeignMemory::open(pid).ok()?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let mappings = maps::parse(&text);
    let known = mappings.iter().find(|mapping| mapping.executable)?.start.0;
    let in_use = check.in_use(&memory, &mappings, MOST_BYTES)?;
    memory.is_still(known).then_some(in_use)
}

/// Takes what has been found out meanwhile.
///
/// # Errors
///
/// When the kernel refuses.
pub fn look(session: &mut Session, patience: Duration) -> Result<()> {
    if session.targets.iter().all(|target| target.known.coming.is_none()) {
        return Ok(());
    }
    let counters = session.maps.counters()?.since(&session.counters_before);
    let freed = counters.get(Counter::UnknownFrees);
    look_at_all(session.targets.iter_mut().map(|target| &mut target.known), freed, patience);
    Ok(())
}

fn look_at_all<'a>(all: impl Iterator<Item = &'a mut Known>, freed: u64, patience: Duration) {
    let until = Instant::now() + patience;
    all.for_each(|known| known.look(freed, until));
}

/// The same for a report, the last of which waits for it.
///
/// # Errors
///
/// When the kernel refuses.
pub fn look_for_report(session: &mut Session, last: bool) -> Result<()> {
    look(session, if last { PATIENCE } else { Duration::ZERO })
}

/// How far a report with this health can be trusted.
pub fn judge(
    session: &Session,
    snapshot: &Snapshot,
    counters: &CounterValues,
    health: &Health,
    mode: Mode,
) -> Trust {
    let was_out = |target: &Traced| target.was_out() || target.known.was_out;
    let mut totals = Totals::default();
    snapshot.stacks.values().for_each(|stack| totals += *stack);
    let known = || session.targets.iter().map(|target| &target.known);
    let mut entry_points = EntryPoints::default();
    for of_one in known().map(|known| &known.entry_points) {
        entry_points.found += of_one.found;
        entry_points.covered += of_one.covered;
        entry_points.unprobed_frees.extend(of_one.unprobed_frees.iter().cloned());
    }
    entry_points.unprobed_frees.sort_unstable();
    entry_points.unprobed_frees.dedup();
    let before = known().map(Known::before).reduce(|sum, one| Some(sum?.and(one?))).flatten();
    // Of those that are not there any more, frees were counted and what they had is forgotten.
    let before = before.filter(|_| session.retired.is_none());
    // Those that were freed before all targets had been looked at, of any of them.
    let freed = known().filter_map(|known| known.in_use.as_ref()).map(|(_, freed)| *freed).max();
    let before = before.map(|before| Before {
        most_blocks: before.most_blocks.saturating_add(freed.unwrap_or(0)),
        ..before
    });
    trust::judge(TrustEvidence {
        entry_points,
        probes_out: known().flat_map(|known| known.probes_out.iter().cloned()).collect(),
        in_windows: session.targets.iter().any(was_out) || session.retired.were_out(),
        is_sample: session.sampling().mean_bytes > 0,
        from_first: known().all(|known| known.from_first && known.elsewhere.is_empty()),
        allocs: health.allocs,
        matched_frees: health.matched_frees,
        unknown_frees: counters.get(Counter::UnknownFrees),
        left_out: health.filtered.saturating_add(health.lost_events()),
        reappeared: health.reappeared,
        outstanding_blocks: totals.outstanding_blocks(),
        lost: lost(health, mode, session.follow.as_ref().is_some_and(|f| f.execed() > 0)),
        before,
        bytes_tracked: totals.outstanding_bytes(),
    })
}

/// Lost events that speak against the figures: what an exec cost is counted in full, and
/// allocations only as far as they were looked at; and where children are followed, it is their
/// programs' and says nothing of the others.
fn lost(health: &Health, mode: Mode, follows: bool) -> u64 {
    let in_part = mode != Mode::Exact || follows;
    let by_exec = health.lost.get("exec").copied().filter(|_| in_part).unwrap_or(0);
    health.lost_events().saturating_sub(by_exec)
}

/// What is to be said beside the judgement: of each target where there are several, and of what
/// `-O` leaves out.
pub fn notes(session: &Session) -> Vec<String> {
    let alone = session.targets.len() == 1;
    session.targets.iter().flat_map(|target| notes_of(target, alone)).collect()
}

fn notes_of(target: &Traced, alone: bool) -> Vec<String> {
    let (pid, known) = (target.process.pid, &target.known);
    let mut notes = Vec::new();
    if !known.elsewhere.is_empty() {
        notes.push(format!(
            "--obj left out {} of process {pid}: what is allocated there is in no figure, and a \
             block that is freed there looks leaked",
            known.elsewhere.join(", ")
        ));
    }
    if let Some(before) = known.before().filter(|_| !alone && !known.from_first) {
        let how = if before.in_use { "in use" } else { "of memory" };
        let (bytes, comm) = (units::bytes(before.bytes), &target.process.comm);
        notes.push(format!("process {pid} {comm} had {bytes} {how} before it was traced"));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_report_waits_for_all_targets_together_no_longer_than_for_one() {
        let patience = Duration::from_millis(100);
        let mut senders = Vec::new();
        let mut waits = || {
            let (sender, receiver) = channel();
            senders.push(sender);
            Known { coming: Some(receiver), ..Known::default() }
        };
        let mut all: Vec<Known> = (0..100).map(|_| waits()).collect();
        let found = InUse { bytes: 4096, blocks: 16 };
        senders[99].send(Some(found)).unwrap();
        let started = Instant::now();
        look_at_all(all.iter_mut(), 7, patience);
        // Ten seconds if each were waited for.
        assert!((patience..80 * patience).contains(&started.elapsed()));
        // What is there is taken all the same, and what may still come is not given up.
        assert_eq!(all[99].before().map(|before| before.most_blocks), Some(16));
        assert!(all[..99].iter().all(|known| known.coming.is_some()));
        senders[0].send(Some(found)).unwrap();
        look_at_all(all.iter_mut(), 7, Duration::ZERO);
        assert!(all[0].in_use.is_some() && all[1].in_use.is_none());
    }

    #[test]
    fn blocks_from_before_an_allocator_was_loaded_are_not_held_against_a_command() {
        let mut known = Known { from_first: true, ..Known::default() };
        assert_eq!(known.before().map(|before| before.most_blocks), Some(0));
        known.joined();
        assert!(!known.from_first && known.before().is_none());
    }
}
