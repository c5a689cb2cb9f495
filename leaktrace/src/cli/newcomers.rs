//! Processes that were found rather than given: those that cannot be traced are left out, and those
//! that come to a control group are traced from then on.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::say::say;
use super::session::Session;
use crate::model::{Pid, ProbeFailure, Unprobed, printable};
use crate::target::cgroup::Cgroup;
use crate::target::entry_points::ALL_FUNCTIONS;
use crate::target::find::{self, Processes};
use crate::target::{Process, TargetError, process};

/// Attaching to newcomers takes at most so long in a row; the others wait for the next look.
const LONGEST_TAKING_UP: Duration = Duration::from_millis(250);
/// A process whose allocator is not mapped yet is tried again so often.
const MOST_TRIES: u8 = 4;
/// So many that are left out are said one by one.
const MOST_SAID: u64 = 20;

/// What is known of the processes that were found.
pub struct Newcomers {
    groups: Vec<Cgroup>,
    all: Processes,
    seen: HashMap<Pid, Seen>,
    left_out: u64,
    /// Allocations of those are missing in the figures, as far as is known.
    failures: Vec<ProbeFailure>,
}

/// A process that was looked at.
struct Seen {
    start_time: u64,
    /// It may be tried anew when it runs another.
    exe: String,
    /// How often it was tried in vain; [`MOST_TRIES`] when nothing more is to be done.
    tries: u8,
}

impl Newcomers {
    /// Follows no group.
    pub fn none() -> Self {
        let (groups, all) = (Vec::new(), Processes::of_host());
        Self { groups, all, seen: HashMap::new(), left_out: 0, failures: Vec::new() }
    }

    /// Processes that could not be traced although they may allocate.
    pub fn failures(&self) -> &[ProbeFailure] {
        &self.failures
    }

    /// What is to be said of those that were not said one by one.
    pub fn beyond(&self) -> Option<String> {
        let beyond = self.left_out.checked_sub(MOST_SAID).filter(|beyond| *beyond > 0)?;
        Some(format!("{beyond} more processes could not be traced"))
    }

    /// Takes note of a process. False if it was looked at before and nothing has changed.
    fn is_due(&mut self, pid: Pid) -> bool {
        let Some(start_time) = process::start_time(pid) else { return false };
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let exe = exe.to_string_lossy().into_owned();
        match self.seen.get(&pid) {
            Some(seen) if seen.start_time == start_time && seen.exe == exe => {
                seen.tries < MOST_TRIES
            }
            _ => {
                self.seen.insert(pid, Seen { start_time, exe, tries: 0 });
                true
            }
        }
    }

    /// Nothing more is to be done about it, as long as it stays what it is.
    fn settle(&mut self, pid: Pid) {
        if let Some(seen) = self.seen.get_mut(&pid) {
            seen.tries = MOST_TRIES;
        }
    }

    /// Whether another try is left.
    fn try_again(&mut self, pid: Pid) -> bool {
        self.seen.get_mut(&pid).is_some_and(|seen| {
            seen.tries = seen.tries.saturating_add(1);
            seen.tries < MOST_TRIES
        })
    }
}

impl Session {
    /// Adds processes that were found, and those that will come to these groups. One that cannot be
    /// traced is left out, and said to be.
    ///
    /// # Errors
    ///
    /// When none can be traced, what is in the way with the first.
    pub fn add_found(&mut self, found: &BTreeSet<Pid>, groups: Vec<Cgroup>) -> Result<()> {
        self.newcomers.groups = groups;
        let mut first_error = None;
        for pid in found.iter().copied() {
            if !self.newcomers.is_due(pid) {
                continue;
            }
            self.newcomers.settle(pid);
            if let Err(error) = self.add_one(pid) {
                if !is_gone(&error) {
                    self.leave_out(pid, &error);
                }
                first_error.get_or_insert(error);
            }
        }
        match first_error {
            Some(error) if self.targets.is_empty() => Err(error),
            None if self.targets.is_empty() => {
                let pid = found.first().copied();
                pid.map_or(Ok(()), |pid| Err(TargetError::Gone { pid }.into()))
            }
            _ => Ok(()),
        }
    }

    fn add_one(&mut self, pid: Pid) -> Result<()> {
        let process = Process::open(pid)?;
        self.add(process).inspect_err(|_| self.maps.unwatch(pid))
    }

    /// Traces processes that have come to the groups since the last look. Returns whether there are
    /// any that are traced now, or may be soon.
    ///
    /// # Errors
    ///
    /// When the kernel refuses what is not about one process.
    pub(super) fn take_up_newcomers(&mut self) -> Result<bool> {
        if self.newcomers.groups.is_empty() || self.ending {
            return Ok(false);
        }
        let mut inside = BTreeSet::new();
        for group in &self.newcomers.groups {
            inside.extend(group.processes(&self.newcomers.all));
        }
        self.newcomers.seen.retain(|pid, _| inside.contains(pid));
        let started = Instant::now();
        let mut any = false;
        for pid in inside {
            let is_traced = self.targets.iter().any(|t| t.process.pid == pid && !t.ended);
            if is_traced || !self.newcomers.is_due(pid) {
                continue;
            }
            if started.elapsed() >= LONGEST_TAKING_UP {
                return Ok(true);
            }
            any |= self.take_up(pid)?;
        }
        Ok(any)
    }

    fn take_up(&mut self, pid: Pid) -> Result<bool> {
        let Err(error) = self.add_one(pid) else {
            self.newcomers.settle(pid);
            if let Some(target) = self.targets.last_mut()
                && let Err(error) = target.open(&mut self.maps, &mut self.unwinding, &self.terms)
            {
                drop(target.take_probes());
                target.ended = true;
                self.maps.unwatch(pid);
                self.leave_out(pid, &error);
                return Ok(false);
            }
            self.open_mappings(self.targets.len() - 1);
            if let Some(target) = self.targets.last() {
                self.announce(target);
            }
            return Ok(true);
        };
        if is_gone(&error) {
            self.newcomers.seen.remove(&pid);
            return Ok(false);
        }
        // The dynamic loader may still be at work.
        let may_come = matches!(error.downcast_ref(), Some(TargetError::NoAllocator { .. }));
        if may_come && self.newcomers.try_again(pid) {
            return Ok(true);
        }
        self.newcomers.settle(pid);
        self.leave_out(pid, &error);
        Ok(false)
    }

    /// Says that a process is not traced.
    fn leave_out(&mut self, pid: Pid, error: &anyhow::Error) {
        self.newcomers.left_out += 1;
        if self.newcomers.left_out > MOST_SAID {
            return;
        }
        let why = printable(&format!("{error:#}"));
        if !self.outputs.is_quiet() {
            say(format_args!("leaktrace: left out: {why}"));
        }
        let no_allocator = matches!(error.downcast_ref(), Some(TargetError::NoAllocator { .. }));
        if no_allocator && find::names_all_its_functions(pid) {
            self.notes.push(format!("left out, and allocates nothing: {why}"));
        } else {
            let (function, module) = (ALL_FUNCTIONS.to_owned(), format!("process {pid}"));
            let about = Unprobed::Files;
            self.newcomers.failures.push(ProbeFailure { function, module, error: why, about });
        }
    }
}

fn is_gone(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(TargetError::Gone { .. } | TargetError::Zombie { .. }))
}
