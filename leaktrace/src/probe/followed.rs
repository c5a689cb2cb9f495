//! Probes that children inherit: uprobe events of tracefs, opened as perf events with inheritance.
//!
//! The kernel gives a forked child such an event before its first instruction, and keeps it across an
//! exec; the breakpoints are only in those processes (`trace_uprobe_filter_add` of
//! `kernel/trace/trace_uprobe.c`). Two things make that work:
//!
//! - The program must not be held by an event that is inherited: each child's copy would take it off
//!   for all when it ends (`perf_event_detach_bpf_prog`). So an event of its own, which nobody
//!   inherits, carries it.
//! - The events stay disabled: the program runs all the same, and context switches cost nothing.
//! - No two tasks may exchange their events, as the kernel has those do that have inherited the same ones
//!   where it switches from one to the other (`perf_event_context_sched_out`): it goes on to take the
//!   events for those of the task that they began with, and when that ends, the breakpoints are gone from
//!   the other one. Linux 6.12 leaves that if asked to; for older ones there are [`Anchors`].

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::bpf_call::{self, Whose};
use super::janitor::Definitions;
use super::keeper::{self, Kept};
use super::links::Point;
use crate::model::Pid;
use crate::target::process;

/// What probes that are inherited are made of.
pub(super) struct Following {
    pub(super) definitions: Definitions,
    /// The kernel is asked to leave everybody its own events.
    stay: bool,
}

impl Following {
    /// Nothing is defined yet. `anchored`: as on kernels before 6.12.
    ///
    /// # Errors
    ///
    /// As [`Definitions::open`].
    pub(super) fn open(anchored: bool) -> Result<Self> {
        let thread = std::process::id();
        let stay = !anchored && bpf_call::open_dummy(Whose::Family { thread, stay: true }).is_ok();
        Ok(Self { definitions: Definitions::open()?, stay })
    }

    /// See [`Anchors`]; `None` where nobody needs them.
    pub(super) fn anchors(&self) -> Option<Anchors> {
        (!self.stay).then(Anchors::default)
    }
}

/// Events of single threads, which nobody inherits: no other task is like one that has such an event,
/// and so none exchanges its events with it.
#[derive(Default)]
pub struct Anchors {
    of: HashMap<Pid, HashMap<u32, OwnedFd>>,
}

impl Anchors {
    /// So many at the most.
    const MOST: usize = 1 << 14;

    /// Gives one to each thread of these processes, and takes back those of all others.
    pub fn hold(&mut self, processes: &HashSet<Pid>) {
        self.of.retain(|pid, _| processes.contains(pid));
        let mut held: usize = self.of.values().map(HashMap::len).sum();
        for pid in processes {
            let anchored = self.of.entry(*pid).or_default();
            let threads: HashSet<u32> = process::threads(*pid).collect();
            anchored.retain(|thread, _| threads.contains(thread));
            for thread in threads {
                if held < Self::MOST && !anchored.contains_key(&thread) {
                    // One that has ended needs none.
                    let event = bpf_call::open_dummy(Whose::Thread(thread)).ok();
                    held += usize::from(event.is_some());
                    anchored.extend(event.map(|event| (thread, event)));
                }
            }
        }
    }
}

/// A probe in a process and in all that it forks from now on. Dropping it takes it out everywhere.
pub struct Followed {
    /// One for each thread that there was.
    heirs: Vec<Kept>,
    /// The program on its event.
    carrier: Option<(OwnedFd, Kept)>,
    name: String,
    following: Arc<Following>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.heirs.clear();
        drop(self.carrier.take());
        self.following.definitions.remove(&self.name);
    }
}

/// When a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Entry,
    Return,
}

/// Puts a program on a point of a file, for a process and its children to come.
///
/// # Errors
///
/// What the kernel refuses; `ESRCH` when the process is gone.
pub(super) fn place(
    following: &Arc<Following>,
    program: BorrowedFd<'_>,
    at: At,
    path: &Path,
    point: Point,
    pid: Pid,
) -> Result<Followed> {
    let (name, id) = following.definitions.add(at == At::Return, path, point.file_offset)?;
    let (following, stay) = (Arc::clone(following), following.stay);
    let mut placed = Followed { heirs: Vec::new(), carrier: None, name, following };
    let mut covered = HashSet::new();
    // A thread that one begins which has the event has it, too; others may have begun meanwhile.
    loop {
        let threads = process::threads(pid).filter(|thread| !covered.contains(thread));
        let new: Vec<u32> = threads.collect();
        if new.is_empty() {
            break;
        }
        for thread in new {
            covered.insert(thread);
            if placed.carrier.is_none() {
                let Some(event) = open(id, Whose::Thread(thread))? else { continue };
                let fd = event.fd().context("the event is closed")?;
                let link = bpf_call::link_event(program, fd, point.cookie)
                    .context("the kernel lets no program run at the event")?;
                placed.carrier = Some((link, event));
            }
            placed.heirs.extend(open(id, Whose::Family { thread, stay })?);
        }
    }
    if placed.heirs.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::ESRCH).into());
    }
    Ok(placed)
}

/// An event of a thread; `None` if that has ended.
fn open(id: u64, whose: Whose) -> Result<Option<Kept>> {
    match keeper::open_event(id, whose) {
        Ok(event) => Ok(Some(event)),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error).context("the kernel gives no event for it"),
    }
}
