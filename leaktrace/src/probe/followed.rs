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

use std::collections::HashSet;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::bpf_call;
use super::janitor::Definitions;
use super::keeper::{self, Kept};
use super::links::Point;
use crate::model::Pid;
use crate::target::process;

/// A probe in a process and in all that it forks from now on. Dropping it takes it out everywhere.
pub struct Followed {
    /// One for each thread that there was.
    heirs: Vec<Kept>,
    /// The program on its event.
    carrier: Option<(OwnedFd, Kept)>,
    name: String,
    definitions: Arc<Definitions>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.heirs.clear();
        drop(self.carrier.take());
        self.definitions.remove(&self.name);
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
    definitions: &Arc<Definitions>,
    program: BorrowedFd<'_>,
    at: At,
    path: &Path,
    point: Point,
    pid: Pid,
) -> Result<Followed> {
    let (name, id) = definitions.add(at == At::Return, path, point.file_offset)?;
    let definitions = Arc::clone(definitions);
    let mut placed = Followed { heirs: Vec::new(), carrier: None, name, definitions };
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
                let Some(event) = open(id, thread, false)? else { continue };
                let fd = event.fd().context("the event is closed")?;
                let link = bpf_call::link_event(program, fd, point.cookie)
                    .context("the kernel lets no program run at the event")?;
                placed.carrier = Some((link, event));
            }
            placed.heirs.extend(open(id, thread, true)?);
        }
    }
    if placed.heirs.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::ESRCH).into());
    }
    Ok(placed)
}

/// An event of a thread; `None` if that has ended.
fn open(id: u64, thread: u32, inherits: bool) -> Result<Option<Kept>> {
    match keeper::open_event(id, thread, inherits) {
        Ok(event) => Ok(Some(event)),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("no event for thread {thread}")),
    }
}
