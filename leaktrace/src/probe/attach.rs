//! A plan, on its way into a process, and out again; for good, or for a while.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::links::{Handler, Link, LinkKind, Point};
use super::load::Kernel;
use super::seats::{Counting, Purpose, Seat, Wish, wishes};
use crate::model::{Pid, ProbeFailure, ProbeInfo, Slot, Unprobed};
use crate::target::maps::FileId;
use crate::target::{LoaderHook, Plan, PlannedProbe, Role, process};

/// A probe: the file, the offset in it, what runs there.
pub type Place = (FileId, u64, Handler);

/// The probes in one process. Dropping it detaches them.
pub struct Attached {
    pid: Pid,
    /// When the process started: a process id may come to mean another one.
    start_time: Option<u64>,
    seats: Vec<Seat>,
    /// The children that it had at the last look.
    children: HashSet<u32>,
    /// The probes in place.
    pub probes: Vec<ProbeInfo>,
    /// Those that could not be placed.
    pub failures: Vec<ProbeFailure>,
}

/// Probes that are taken out together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Those on functions that allocate; those on functions that reallocate stay, since these free.
    Allocations,
    /// All but the dynamic loader's hook.
    All,
}

impl Group {
    fn has(self, purpose: Purpose) -> bool {
        match self {
            Self::Allocations => purpose == Purpose::Allocations,
            Self::All => purpose != Purpose::Libraries,
        }
    }
}

/// Probes on their way out: they are gone once this is dropped, which takes some 30 to 100 ms of
/// waiting, in whatever thread.
#[must_use = "the probes come out when it is dropped, which takes time"]
pub struct TakenOut {
    links: Vec<Link>,
}

impl TakenOut {
    /// Waits until they are out; returns how long that took.
    pub fn wait(mut self) -> Duration {
        let started = Instant::now();
        detach_all(std::mem::take(&mut self.links));
        started.elapsed()
    }
}

impl Drop for TakenOut {
    fn drop(&mut self) {
        detach_all(std::mem::take(&mut self.links));
    }
}

impl Attached {
    /// Attaches the probes of a plan to a process. A probe that the kernel refuses is a failure to
    /// report, not an end; a function's entry and return go together.
    ///
    /// # Errors
    ///
    /// When no probe could be placed at all, or the process is gone.
    pub fn attach(kernel: &mut Kernel, plan: &Plan, pid: Pid, slot: Slot) -> Result<Self> {
        Self::attach_handlers(kernel, plan, pid, slot, &HashSet::new(), |handler| handler)
    }

    /// The same for a process that has inherited some of the probes.
    ///
    /// # Errors
    ///
    /// As [`Attached::attach`], if it has inherited none.
    pub fn attach_beside(
        kernel: &mut Kernel,
        plan: &Plan,
        pid: Pid,
        slot: Slot,
        inherited: &HashSet<Place>,
    ) -> Result<Self> {
        Self::attach_handlers(kernel, plan, pid, slot, inherited, |handler| handler)
    }

    /// Where its probes are.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.seats.iter().flat_map(|seat| {
            seat.points.iter().map(|point| (seat.file.id, point.file_offset, seat.handler))
        })
    }

    /// Attaches programs that do nothing where [`Attached::attach`] attaches those that trace.
    ///
    /// # Errors
    ///
    /// As [`Attached::attach`].
    pub fn attach_empty(kernel: &mut Kernel, plan: &Plan, pid: Pid) -> Result<Self> {
        Self::attach_handlers(kernel, plan, pid, Slot(0), &HashSet::new(), Handler::emptied)
    }

    /// Attaches programs that only count, to the entries and frees of a plan.
    ///
    /// # Errors
    ///
    /// As [`Attached::attach`].
    pub fn attach_counting(kernel: &mut Kernel, plan: &Plan, pid: Pid) -> Result<Self> {
        let entries = Plan {
            probes: plan.probes.iter().filter(|p| p.role != Role::AllocReturn).cloned().collect(),
            ..plan.clone()
        };
        Self::attach_handlers(kernel, &entries, pid, Slot(0), &HashSet::new(), |_| Handler::Count)
    }

    fn attach_handlers(
        kernel: &mut Kernel,
        plan: &Plan,
        pid: Pid,
        slot: Slot,
        inherited: &HashSet<Place>,
        chosen: fn(Handler) -> Handler,
    ) -> Result<Self> {
        // Any that is forked from now on may have probes.
        let children = process::children(pid);
        let Seated { seats, probes, failures } =
            Seated::place(kernel, plan, pid, slot, inherited, Counting::NotYet, chosen);
        if inherited.is_empty() && seats.iter().all(|seat| seat.links.is_empty()) {
            let why = failures.first().map_or("the plan is empty", |f| f.error.as_str());
            bail!("no probe could be placed in process {pid}: {why}");
        }
        let start_time = process::start_time(pid);
        Ok(Self { pid, start_time, seats, children, probes, failures })
    }

    /// Adds the probes of functions that were planned later. They are in then, whatever is out.
    pub fn add(&mut self, kernel: &mut Kernel, plan: &Plan, slot: Slot) {
        let (pid, none, counting) = (self.pid, HashSet::new(), Counting::Already);
        let seated = Seated::place(kernel, plan, pid, slot, &none, counting, |handler| handler);
        self.seats.extend(seated.seats);
        self.probes.extend(seated.probes);
        self.failures.extend(seated.failures);
    }

    /// Has the kernel half say when the process loads or unloads libraries.
    ///
    /// # Errors
    ///
    /// What the kernel refuses, and why.
    pub fn watch_libraries(
        &mut self,
        kernel: &mut Kernel,
        hook: &LoaderHook,
        pid: Pid,
        slot: Slot,
    ) -> Result<()> {
        let point = Point { file_offset: hook.file_offset, cookie: slot.0.into() };
        let (handler, path) = (Handler::LibrariesChanged, hook.file.proc_path());
        let links = attach_at(kernel, handler, &path, point, pid)?;
        let (purpose, file) = (Purpose::Libraries, Arc::clone(&hook.file));
        self.seats.push(Seat { purpose, handler, file, points: vec![point], links });
        Ok(())
    }

    /// Has the kernel take the probes out of the children that the process has forked since the last
    /// look. Returns whether there were any.
    ///
    /// A child begins with a copy of the process's code, and so with its probes. Perf links take a
    /// probe out of a child when it is hit there; multi links leave it, for nothing, for ever. When
    /// any link is closed, the kernel looks at all processes that have its probes, and takes them
    /// out where nobody wants them: so other links are made at the same places and closed again.
    pub fn spare_children(&mut self, kernel: &mut Kernel) -> bool {
        if kernel.links().kind == LinkKind::Perf {
            return false;
        }
        let now = process::children(self.pid);
        let before = std::mem::replace(&mut self.children, now);
        if self.children.is_subset(&before) {
            return false;
        }
        let mut links = Vec::new();
        for seat in self.seats.iter().filter(|seat| !seat.links.is_empty()) {
            let path = seat.file.proc_path();
            links.extend(kernel.place(Handler::Empty, &path, &seat.points, self.pid).0);
        }
        let taken_out = TakenOut { links };
        // Nobody has to wait for that.
        let closing = std::thread::Builder::new().spawn(move || drop(taken_out));
        drop(closing);
        true
    }

    /// Takes probes out, to be put back later.
    pub fn take_out(&mut self, what: Group) -> TakenOut {
        let seats = self.seats.iter_mut().filter(|seat| what.has(seat.purpose));
        TakenOut { links: seats.flat_map(|seat| seat.links.drain(..)).collect() }
    }

    /// Puts back whatever was taken out. What could be put back stays, whatever failed.
    ///
    /// # Errors
    ///
    /// When the process is gone, or the kernel refuses what it took before.
    pub fn put_back(&mut self, kernel: &mut Kernel) -> Result<()> {
        let pid = self.pid;
        // The kernel would place nothing, and not say so.
        let is_out = |seat: &Seat| seat.links.is_empty() && !seat.points.is_empty();
        ensure!(
            !self.seats.iter().any(is_out) || !process::main_thread_ended(pid),
            "the main thread of process {pid} has ended"
        );
        let mut result = Ok(());
        for seat in &mut self.seats {
            if !seat.links.is_empty() || seat.points.is_empty() {
                continue;
            }
            let path = seat.file.proc_path();
            let (links, refused) = kernel.place(seat.handler, &path, &seat.points, pid);
            if let Some((_, error)) = refused.into_iter().next() {
                result =
                    Err(error.context(format!("probes cannot be put back into process {pid}")));
            } else {
                seat.links = links;
            }
        }
        if process::start_time(pid).is_none() || process::start_time(pid) != self.start_time {
            drop(self.take_out(Group::All));
            bail!("process {pid} has ended");
        }
        result
    }

    /// Detaches all probes; returns how long it took.
    ///
    /// The kernel waits for running handlers at each link; the waits go on side by side.
    pub fn detach(mut self) -> Duration {
        let started = Instant::now();
        detach_all(self.all_links());
        started.elapsed()
    }

    fn all_links(&mut self) -> Vec<Link> {
        self.seats.iter_mut().flat_map(|seat| seat.links.drain(..)).collect()
    }
}

/// The probes of a plan, as far as the kernel takes them.
struct Seated {
    seats: Vec<Seat>,
    probes: Vec<ProbeInfo>,
    /// Those of the plan, and what the kernel refused.
    failures: Vec<ProbeFailure>,
}

impl Seated {
    fn place(
        kernel: &mut Kernel,
        plan: &Plan,
        pid: Pid,
        slot: Slot,
        inherited: &HashSet<Place>,
        counting: Counting,
        chosen: fn(Handler) -> Handler,
    ) -> Self {
        let mut seats = Vec::new();
        let mut failures = plan.failures.clone();
        let mut failed_functions = HashSet::new();
        for mut wishes in wishes(plan, slot, counting) {
            wishes.retain(|wish| !failed_functions.contains(&wish.probe.function_index));
            let place =
                |wish: &Wish<'_>| (wish.probe.file.id, wish.point.file_offset, wish.handler);
            wishes.retain(|wish| !inherited.contains(&place(wish)));
            let Some(first) = wishes.first() else { continue };
            let (handler, purpose) = (chosen(first.handler), first.purpose);
            let file = Arc::clone(&first.probe.file);
            let points: Vec<Point> = wishes.iter().map(|wish| wish.point).collect();
            let (links, refused) = kernel.place(handler, &file.proc_path(), &points, pid);
            let mut seated = vec![true; wishes.len()];
            for (index, error) in refused {
                let Some(wish) = wishes.get(index) else { continue };
                seated.iter_mut().skip(index).take(1).for_each(|seated| *seated = false);
                if failed_functions.insert(wish.probe.function_index) {
                    failures.push(ProbeFailure {
                        function: wish.probe.function.clone(),
                        module: wish.probe.file.path.clone(),
                        error: format!("{error:#}"),
                        about: Unprobed::Function { frees: wish.probe.frees() },
                    });
                }
            }
            let seated = points.into_iter().zip(seated);
            let points = seated.filter_map(|(point, is)| is.then_some(point)).collect();
            seats.push(Seat { purpose, handler, file, points, links });
        }
        let in_place = |index: u16| !failed_functions.contains(&index);
        let probes = plan.probes.iter().filter(|p| in_place(p.function_index));
        let probes = probes.map(PlannedProbe::info).collect();
        Self { seats, probes, failures }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        detach_all(self.all_links());
    }
}

fn detach_all(links: Vec<Link>) {
    std::thread::scope(|scope| {
        for link in links {
            // Where no thread can be had, the link is dropped here, one after another.
            let _ = std::thread::Builder::new()
                .stack_size(64 << 10)
                .spawn_scoped(scope, move || drop(link));
        }
    });
}

/// Places one handler at an offset of a file, for one process.
///
/// # Errors
///
/// What the kernel refuses, and why.
pub fn attach_at(
    kernel: &mut Kernel,
    handler: Handler,
    path: &std::path::Path,
    point: Point,
    pid: Pid,
) -> Result<Vec<Link>> {
    let (links, refused) = kernel.place(handler, path, &[point], pid);
    match refused.into_iter().next() {
        None => Some(links).filter(|links| !links.is_empty()).context("nothing holds the probe"),
        Some((_, error)) => Err(error),
    }
}
