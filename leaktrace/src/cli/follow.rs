//! Children of the processes under trace, with `--follow`: which there are, which have ended, and what
//! becomes of one that calls exec.
//!
//! A forked child is a slot and nothing else here: its stacks are those of the *lineage* that it was
//! forked in, a [`Traced`] whose code it has at the same addresses. An exec begins a lineage. One is
//! kept until nobody is left that was forked in it or began in it: those have inherited its probes.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use leaktrace_ebpf::records::{CHILD_EXITED, CHILD_LIVES, Child, NO_SLOT};

use super::session::Session;
use super::traced::{Place, Traced};
use crate::collect::children::Children;
use crate::collect::messages::Exec;
use crate::model::{ChildrenSeen, Pid, Slot};
use crate::probe::followed::Anchors;
use crate::probe::hold;
use crate::target::{Process, TargetError, find, process};

/// Taking out the blocks of those that ended takes at most one part in so many of leaktrace's time.
const PURGE_SHARE: u32 = 20;
/// As many slots wait for that at the most.
const MOST_DEAD: usize = 256;
/// A child that has loaded libraries is looked at when it has loaded no more for so long: most that
/// load one end soon.
const SETTLED: Duration = Duration::from_millis(400);
/// Each holds the files open that it maps.
const MOST_LINEAGES: usize = 200;
/// More is not said of children that could not be traced.
const MOST_NOTES: usize = 20;

/// What is known of children.
pub struct Follow {
    pub(super) children: Children,
    /// The processes that were asked for and live.
    pub(super) roots: HashSet<Pid>,
    /// Where the kernel would have those that are followed exchange their events.
    anchors: Option<Anchors>,
    /// Slots of processes that have ended, whose blocks are still in the table.
    dead: HashSet<Slot>,
    /// Those whose blocks are gone, kept as lineages.
    buried: HashSet<Slot>,
    /// Those that have called exec and have no allocator mapped yet.
    awaiting: Vec<Began>,
    /// Forked children whose libraries have changed, and when.
    changed: HashMap<Slot, Instant>,
    execed: u64,
    /// Those that could not be traced after their exec.
    failed: u64,
    purged: Instant,
    purge_took: Duration,
}

/// An address space that an exec began.
#[derive(Clone, Copy, Debug)]
struct Began {
    pid: Pid,
    slot: Slot,
    origin: Slot,
    is_root: bool,
    /// It was forked, and has had the slot since then.
    was_forked: bool,
    /// It waits at its exec for its probes.
    is_held: bool,
    /// When it was looked at first.
    since: Instant,
}

/// So long is a program looked at again and again that has no allocator mapped.
const PATIENCE: Duration = Duration::from_secs(10);
/// One that ends sooner may still have been at its loading.
const LOADING: Duration = Duration::from_secs(1);

impl Follow {
    /// Takes note of a forked child whose libraries change: it is not like its parent any more.
    pub fn libraries_changed(&mut self, slot: Slot) {
        self.changed.insert(slot, Instant::now());
    }

    /// Nobody is followed yet.
    pub fn new(children: Children, anchors: Option<Anchors>) -> Self {
        Self {
            children,
            anchors,
            roots: HashSet::new(),
            dead: HashSet::new(),
            buried: HashSet::new(),
            awaiting: Vec::new(),
            changed: HashMap::new(),
            execed: 0,
            failed: 0,
            purged: Instant::now(),
            purge_took: Duration::ZERO,
        }
    }

    /// How often children have called exec.
    pub fn execed(&self) -> u64 {
        self.execed
    }

    /// Counts afresh.
    pub fn clear(&mut self) {
        (self.execed, self.failed) = (0, 0);
    }
}

impl Session {
    /// Has the children of a process followed from now on, and its execs.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn follow_root(&mut self, pid: Pid, slot: Slot) -> Result<()> {
        let Some(follow) = &mut self.follow else { return Ok(()) };
        follow.roots.insert(pid);
        follow.children.follow(pid, slot)
    }

    /// Figures of children, for the report; `forked` and `lost` are what the kernel half counted.
    pub(super) fn children_seen(&self, forked: u64, lost: u64) -> Option<ChildrenSeen> {
        let follow = self.follow.as_ref()?;
        let live = follow.children.all().unwrap_or_default().into_iter().filter(|(_, child)| {
            child.state == CHILD_LIVES
                && !Pid::new(child.pid).is_some_and(|pid| follow.roots.contains(&pid))
        });
        Some(ChildrenSeen {
            seen: forked,
            live: live.count() as u64,
            execed: follow.execed,
            missed: lost + follow.failed,
        })
    }

    /// Plans a process that was followed into its exec.
    pub(super) fn followed_exec(&mut self, exec: Exec) -> Result<()> {
        let Some(follow) = &mut self.follow else { return Ok(()) };
        let is_root = follow.roots.contains(&exec.pid);
        // It may have called exec once more, or have ended.
        let child = follow.children.get(exec.slot)?;
        if !is_root && child.parent == NO_SLOT {
            follow.execed += 1;
        }
        if child.state != CHILD_LIVES || child.pid != exec.pid.get() {
            return Ok(());
        }
        // Forked by one whose probes were not in: it may have some of them by now, or not.
        let parent = self.targets.iter().find(|target| u32::from(target.slot.0) == child.parent);
        if parent.is_some_and(|parent| !parent.places().is_empty()) {
            follow.failed += 1;
            self.maps.unwatch_if_in(exec.pid, exec.slot);
            return Ok(());
        }
        for before in self.targets.iter_mut().filter(|t| t.process.pid == exec.pid) {
            before.ended = true;
        }
        let is_held = exec.held && self.runs_to_libraries(exec.pid);
        let origin = Slot(u16::try_from(child.origin).context("no slot")?);
        let (pid, slot) = (exec.pid, exec.slot);
        let was_forked = false;
        self.begin_lineage(Began {
            pid,
            slot,
            origin,
            is_root,
            was_forked,
            is_held,
            since: Instant::now(),
        })
    }

    fn begin_lineage(&mut self, began: Began) -> Result<()> {
        let Began { pid, slot, origin, is_root, was_forked, is_held, since } = began;
        let inherited = self.inherited(origin);
        let depth = self.lineages_up(origin);
        let attached = Process::open(pid).map_err(anyhow::Error::from).and_then(|process| {
            let (maps, unwinding) = (&mut self.maps, &mut self.unwinding);
            Traced::attach_follower(&self.terms, process, slot, &inherited, depth, maps, unwinding)
        });
        match attached {
            Ok(mut traced) => {
                (traced.is_root, traced.origin) = (is_root, Some(origin));
                traced.was_forked = was_forked;
                traced.known.from_first = is_held;
                if was_forked {
                    traced.open_as_lineage(&mut self.maps)?;
                } else {
                    traced.open(&mut self.maps, &mut self.unwinding, &self.terms)?;
                }
                self.symbolizer.note(pid);
                if is_root {
                    self.announce(&traced);
                }
                self.targets.push(traced);
                self.open_mappings(self.targets.len() - 1);
            }
            Err(error) => {
                let Some(follow) = &mut self.follow else { return Ok(()) };
                if was_forked {
                    // It goes on as the copy of its parent that it was taken for.
                    log::info!("process {pid}: {error:#}");
                    return Ok(());
                }
                match error.downcast_ref::<TargetError>() {
                    // The dynamic loader is still at work.
                    Some(TargetError::NoAllocator { .. }) if since.elapsed() < PATIENCE => {
                        follow.awaiting.push(Began { is_held: false, ..began });
                    }
                    Some(TargetError::NoAllocator { .. }) if find::names_all_its_functions(pid) => {
                    }
                    Some(TargetError::Gone { .. } | TargetError::Zombie { .. }) => {}
                    _ => {
                        follow.failed += 1;
                        if follow.failed <= MOST_NOTES as u64 {
                            self.notes.push(format!(
                                "process {pid} called exec and is not traced any more: {error:#}"
                            ));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Plans those once more that had no allocator when they were looked at.
    pub(super) fn begin_awaited_lineages(&mut self) -> Result<()> {
        let Some(follow) = &mut self.follow else { return Ok(()) };
        for began in std::mem::take(&mut follow.awaiting) {
            let Some(follow) = &self.follow else { return Ok(()) };
            let child = follow.children.get(began.slot)?;
            if child.state == CHILD_LIVES && child.pid == began.pid.get() {
                self.begin_lineage(began)?;
            } else if began.since.elapsed() >= LOADING {
                self.was_untold(began.pid);
            }
        }
        Ok(())
    }

    /// A program has ended whose allocator was never found.
    fn was_untold(&mut self, pid: Pid) {
        let Some(follow) = &mut self.follow else { return };
        follow.failed += 1;
        if follow.failed <= MOST_NOTES as u64 {
            self.notes.push(format!(
                "process {pid} has called exec and ended, and no allocator was found in it: what it \
                 allocated is in no figure"
            ));
        }
    }

    /// Has forked children stand for themselves that have loaded libraries since, and go on.
    pub(super) fn begin_changed_lineages(&mut self) -> Result<()> {
        let lineages: HashSet<Slot> = self.targets.iter().map(|target| target.slot).collect();
        let Some(follow) = &mut self.follow else { return Ok(()) };
        let due = |_: &Slot, at: &mut Instant| at.elapsed() >= SETTLED;
        let due: Vec<Slot> = follow.changed.extract_if(due).map(|(slot, _)| slot).collect();
        for slot in due.into_iter().filter(|slot| !lineages.contains(slot)) {
            let Some(follow) = &self.follow else { return Ok(()) };
            let child = follow.children.get(slot)?;
            let origin = u16::try_from(child.origin).ok().map(Slot);
            let (Some(pid), Some(origin)) = (Pid::new(child.pid), origin) else { continue };
            let awaited = follow.awaiting.iter().any(|began| began.slot == slot);
            if child.state != CHILD_LIVES || awaited || self.targets.len() >= MOST_LINEAGES {
                continue;
            }
            self.begin_lineage(Began {
                pid,
                slot,
                origin,
                is_root: false,
                was_forked: true,
                is_held: false,
                since: Instant::now(),
            })?;
        }
        Ok(())
    }

    /// Lets those go on that are held by an exec, at the end of the trace.
    pub(super) fn release_held(&self) {
        let Some(follow) = self.follow.as_ref().filter(|_| self.hold) else { return };
        for (_, child) in follow.children.all().unwrap_or_default() {
            let pid = Pid::new(child.pid).filter(|_| child.state == CHILD_LIVES);
            if let Some(pid) = pid.filter(|pid| process::state(*pid) == Some('T')) {
                hold::resume(pid);
            }
        }
    }

    /// The probes that whoever begins in a lineage has inherited.
    fn inherited(&self, origin: Slot) -> HashSet<Place> {
        let mut places = HashSet::new();
        let mut next = Some(origin);
        while let Some(slot) = next {
            let Some(lineage) = self.targets.iter().find(|target| target.slot == slot) else {
                break;
            };
            places.extend(lineage.places());
            next = lineage.origin;
        }
        places
    }

    fn lineages_up(&self, origin: Slot) -> u16 {
        let mut depth = 0;
        let mut next = Some(origin);
        while let Some(slot) = next {
            depth += 1;
            next = self.targets.iter().find(|target| target.slot == slot).and_then(|t| t.origin);
        }
        depth
    }

    /// Takes account of those that have ended: what they held is freed, and their slots are given
    /// back; at once if `now`, else as time allows.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn bury(&mut self, now: bool) -> Result<()> {
        let Some(follow) = &mut self.follow else { return Ok(()) };
        let all = follow.children.all()?;
        if let Some(anchors) = &mut follow.anchors {
            let live = all.iter().filter(|(_, child)| child.state == CHILD_LIVES);
            anchors.hold(&live.filter_map(|(_, child)| Pid::new(child.pid)).collect());
        }
        let mut alive: HashSet<Slot> = HashSet::new();
        for (slot, child) in &all {
            let pid = Pid::new(child.pid);
            let is_root = self.targets.iter().any(|t| t.slot == *slot && t.is_root && !t.ended);
            let is_over = match child.state {
                CHILD_LIVES => false,
                CHILD_EXITED => pid.is_none_or(|pid| has_ended(pid, child)),
                _ => true,
            };
            // What a process held that was asked for is what the report is about.
            if !is_over || is_root || is_last_of_root(&self.targets, *slot) {
                alive.insert(*slot);
            } else if !follow.buried.contains(slot)
                && follow.dead.insert(*slot)
                && child.state == CHILD_EXITED
                && let Some(pid) = pid
            {
                self.maps.unwatch_if_in(pid, *slot);
            }
        }
        let due = now
            || follow.dead.len() >= MOST_DEAD
            || follow.purged.elapsed() >= follow.purge_took * PURGE_SHARE;
        if !follow.dead.is_empty() && due {
            self.purge_dead()?;
        }
        let lineages: HashSet<Slot> = self.targets.iter().map(|target| target.slot).collect();
        let Some(follow) = &self.follow else { return Ok(()) };
        // Blocks of those that ended may still have to be booked on the stacks of their lineage.
        let has_blocks = |slot| alive.contains(slot) || follow.dead.contains(slot);
        let forked = all.iter().filter(|(slot, _)| has_blocks(slot) && !lineages.contains(slot));
        let origins = forked.filter_map(|(_, child)| Some(Slot(u16::try_from(child.origin).ok()?)));
        self.end_lineages(&origins.collect())
    }

    /// Takes the blocks of those that have ended out of the table, and books them as freed.
    fn purge_dead(&mut self) -> Result<()> {
        let Some(follow) = &mut self.follow else { return Ok(()) };
        let begun = Instant::now();
        let dead = std::mem::take(&mut follow.dead);
        let mut gone = Vec::new();
        self.maps.for_each_block(|address, slot, _| {
            if dead.contains(&slot) {
                gone.push((slot, address));
            }
        })?;
        self.maps.remove_blocks(&gone)?;
        // A child that shares the memory of one that ended goes on uncounted, rather than as whoever
        // is given the slot.
        self.maps.unwatch_slots(&dead);
        for slot in dead {
            self.mappings.known.forget(slot);
            match self.targets.iter_mut().find(|target| target.slot == slot) {
                Some(lineage) => {
                    lineage.ended = true;
                    follow.buried.insert(slot);
                }
                None => follow.children.give_back(slot)?,
            }
        }
        follow.purge_took = begun.elapsed();
        follow.purged = Instant::now();
        Ok(())
    }

    /// Forgets lineages that nobody belongs to any more.
    fn end_lineages(&mut self, origins: &HashSet<Slot>) -> Result<()> {
        let Some(follow) = &mut self.follow else { return Ok(()) };
        let mut forgotten = Vec::new();
        let mut leaving = Vec::new();
        while let Some(index) = self.targets.iter().position(|target| {
            follow.buried.contains(&target.slot)
                && !origins.contains(&target.slot)
                // One that was forked has blocks on its stacks, any other only its probes.
                && !self.targets.iter().any(|other| {
                    other.origin == Some(target.slot)
                        && (other.was_forked || !target.places().is_empty())
                })
        }) {
            let mut target = self.targets.remove(index);
            // Those that began in it go on with what it had inherited.
            let heirs = self.targets.iter_mut().filter(|other| other.origin == Some(target.slot));
            heirs.for_each(|heir| heir.origin = target.origin);
            forgotten.extend(self.ledger.forget(target.slot));
            self.unwinding.give_back(target.space.take_chunk());
            leaving.extend(target.take_probes());
            follow.buried.remove(&target.slot);
            follow.children.give_back(target.slot)?;
        }
        if !forgotten.is_empty() {
            self.maps.forget_stacks(&forgotten)?;
        }
        if !leaving.is_empty() {
            // Nobody has to wait for that.
            let leave = std::thread::Builder::new().spawn(move || drop(leaving));
            drop(leave);
        }
        Ok(())
    }
}

/// Whether a slot is the last that a process had which was asked for: its blocks stay.
fn is_last_of_root(targets: &[Traced], slot: Slot) -> bool {
    let Some(target) = targets.iter().find(|target| target.slot == slot && target.is_root) else {
        return false;
    };
    let same = |other: &&Traced| other.is_root && other.process.pid == target.process.pid;
    targets.iter().rfind(same).is_some_and(|last| last.slot == slot)
}

/// Whether a process has ended whose main thread has: others may go on, and its id may be
/// another's by now.
fn has_ended(pid: Pid, child: &Child) -> bool {
    /// Start times are told in these: `USER_HZ`.
    const TICK_NS: u64 = 10_000_000;
    if process::start_time(pid).is_none_or(|start| start > child.exited_ns / TICK_NS) {
        return true;
    }
    process::all_threads_ended(pid)
}
