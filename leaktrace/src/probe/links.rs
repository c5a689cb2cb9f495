//! How probes are held in place: one link for many of them, with the entry and the return of a
//! function as one session, where the kernel is known to do that right; else a perf event for each.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use aya::programs::uprobe::UProbeLink;

use super::bpf_call::AttachType;
use super::followed::Followed;
use super::keeper::{self, Kept};
use super::relinked::Relinked;
use crate::model::Pid;

/// What holds probes in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// uprobe sessions and multi links.
    Multi,
    /// A perf event for each probe.
    Perf,
}

/// The kind of link that is used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The kind.
    pub kind: LinkKind,
    /// Why it was chosen, for people.
    pub why: String,
}

/// What runs at a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Handler {
    /// Books what a function returns, at one of its return instructions.
    AllocationExit,
    /// Notes what a function is asked for, and books what it returns.
    Allocation,
    /// Notes what a function is asked for, at its entry alone.
    AllocationEntry,
    /// Books a free.
    Free,
    /// Tells of libraries that come and go.
    LibrariesChanged,
    /// Stops the process.
    HoldHere,
    /// Nothing, at the entry and at the return.
    EmptyPair,
    /// Nothing.
    Empty,
    /// Counts, and nothing else.
    Count,
    /// Books a free, and judges it.
    FreeChecked,
    /// Notes a call of an operator that only calls another function.
    Operator,
}

impl Handler {
    pub(super) const ALL: [Self; 11] = [
        Self::AllocationExit,
        Self::Allocation,
        Self::AllocationEntry,
        Self::Free,
        Self::LibrariesChanged,
        Self::HoldHere,
        Self::EmptyPair,
        Self::Empty,
        Self::Count,
        Self::FreeChecked,
        Self::Operator,
    ];

    /// The one that does nothing at the same place.
    pub(super) fn emptied(self) -> Self {
        if self == Self::Allocation { Self::EmptyPair } else { Self::Empty }
    }

    /// Its programs for perf events: the return comes first, since a return without an entry is
    /// harmless, and an entry without a return would leave its call open.
    pub(super) fn for_perf(self) -> &'static [&'static str] {
        match self {
            Self::AllocationExit => &["allocation_exit"],
            Self::Allocation => &["allocation_return", "allocation_entry"],
            Self::AllocationEntry => &["allocation_entry"],
            Self::Free => &["free_entry"],
            Self::LibrariesChanged => &["libraries_changed"],
            Self::HoldHere => &["hold_here"],
            Self::EmptyPair => &["empty_return", "empty"],
            Self::Empty => &["empty"],
            Self::Count => &["count_hit"],
            Self::FreeChecked => &["free_checked"],
            Self::Operator => &["operator_entry"],
        }
    }

    fn for_multi(self) -> (&'static str, AttachType) {
        match self {
            Self::AllocationExit => ("allocation_exit", AttachType::Multi),
            Self::Allocation => ("allocation_session", AttachType::Session),
            Self::AllocationEntry => ("allocation_entry", AttachType::Multi),
            Self::Free => ("free_entry", AttachType::Multi),
            Self::LibrariesChanged => ("libraries_changed", AttachType::Multi),
            Self::HoldHere => ("hold_here", AttachType::Multi),
            Self::EmptyPair => ("empty_session", AttachType::Session),
            Self::Empty => ("empty", AttachType::Multi),
            Self::Count => ("count_hit", AttachType::Multi),
            Self::FreeChecked => ("free_checked", AttachType::Multi),
            Self::Operator => ("operator_entry", AttachType::Multi),
        }
    }
}

/// Where a probe goes in a file, and what its handler is told.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// In bytes from the start of the file.
    pub file_offset: u64,
    /// The attach cookie.
    pub cookie: u64,
}

/// Holds probes in place. Dropping it takes them out, which takes some 10 to 100 ms.
pub enum Link {
    /// For one probe.
    Perf(UProbeLink),
    /// For any number.
    Multi(Kept),
    /// For one probe, in children, too.
    Followed(Followed),
}

/// The programs for multi links and sessions.
pub(super) struct MultiPrograms {
    relinked: Relinked,
    /// Those that are loaded.
    programs: HashMap<&'static str, OwnedFd>,
}

impl MultiPrograms {
    /// Loads those that every trace needs. The others are parts of these, and loaded at their first
    /// use: the verifier takes 50 ms for the larger ones.
    ///
    /// # Errors
    ///
    /// What the verifier refuses.
    pub(super) fn load(relinked: Relinked) -> Result<Self> {
        let mut this = Self { relinked, programs: HashMap::new() };
        this.load_for(Handler::Allocation)?;
        this.load_for(Handler::Free)?;
        Ok(this)
    }

    /// Loads the program of a handler, unless it is.
    ///
    /// # Errors
    ///
    /// What the verifier refuses.
    pub(super) fn load_for(&mut self, handler: Handler) -> Result<()> {
        let (name, attach_type) = handler.for_multi();
        if let Entry::Vacant(vacant) = self.programs.entry(name) {
            vacant.insert(self.relinked.load(name, attach_type)?);
        }
        Ok(())
    }

    /// Places probes of one handler in a file, for one process, with as few links as the kernel
    /// allows. Gives the links, and what the kernel refuses, by index.
    pub(super) fn place(
        &mut self,
        handler: Handler,
        path: &Path,
        points: &[Point],
        pid: Pid,
    ) -> (Vec<Link>, Vec<(usize, anyhow::Error)>) {
        let (mut links, mut refused) = (Vec::new(), Vec::new());
        if let Err(error) = self.load_for(handler) {
            let why = |index| (index, anyhow::anyhow!("{error:#}"));
            return (links, (0..points.len()).map(why).collect());
        }
        let mut rest = vec![(0, points.len())];
        while let Some((start, end)) = rest.pop() {
            let Some(some) = points.get(start..end).filter(|some| !some.is_empty()) else {
                continue;
            };
            let error = match self.link(handler, path, some, pid) {
                Ok(link) => {
                    links.push(Link::Multi(link));
                    continue;
                }
                Err(error) => error,
            };
            let gone = error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.raw_os_error() == Some(libc::ESRCH));
            if some.len() == 1 || gone {
                refused.extend((start..end).zip(some).map(|(index, point)| {
                    let offset = point.file_offset;
                    (index, anyhow::anyhow!("the kernel refuses a probe at {offset:#x}: {error:#}"))
                }));
            } else {
                // One of them is at fault: each half is tried by itself.
                let middle = start + some.len() / 2;
                rest.extend([(middle, end), (start, middle)]);
            }
        }
        (links, refused)
    }

    fn link(&self, handler: Handler, path: &Path, points: &[Point], pid: Pid) -> Result<Kept> {
        let (name, attach_type) = handler.for_multi();
        let program = self.programs.get(name);
        let program = program.with_context(|| format!("{name} is not loaded"))?;
        Ok(link(program, attach_type, path, points, pid)?)
    }
}

/// Puts a program on some points of a file, for one process.
pub(super) fn link(
    program: &OwnedFd,
    attach_type: AttachType,
    path: &Path,
    points: &[Point],
    pid: Pid,
) -> io::Result<Kept> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let offsets: Vec<u64> = points.iter().map(|point| point.file_offset).collect();
    let cookies: Vec<u64> = points.iter().map(|point| point.cookie).collect();
    keeper::link(program.as_fd(), attach_type, &path, &offsets, &cookies, pid.get())
}
