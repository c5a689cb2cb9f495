//! The probes of one target, put in and taken out by a thread of its own: so the budget holds
//! whatever the rest of the program is busy with.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::hit_cost::HitCost;
use super::later::{Later, Placed};
use super::traced::Terms;
use crate::analyse::governor::{Governor, Phase, Reading};
use crate::collect::gauge::{Counts, Hits};
use crate::collect::{Gauge, clock};
use crate::model::Pid;
use crate::probe::{Attached, Group, Kernel, TakenOut};
use crate::target::process;

/// The governing aims at so much of the budget: in a server, a compiler and an interpreter
/// `cargo xtask bench --only budget` measures slowdowns of 1.0 to 1.4 times what hits are known to cost,
/// and the first window is on credit.
const KEPT_TO: f64 = 0.75;

/// So long before a window closes begins what stands for the time after it, in seconds.
const TAIL_S: f64 = 0.3;
/// What is shorter says nothing.
const LEAST_TAIL_S: f64 = 0.02;

/// How long the first window is at least: rates are not known from less.
const FIRST_LOOK: Duration = Duration::from_millis(5);

/// The object that all probes are of.
pub type SharedKernel = Arc<Mutex<Kernel>>;

/// A target's probes under a budget.
pub struct Governed {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

/// What the probes are doing.
pub struct State {
    pid: Pid,
    /// `None` once they were handed back.
    attached: Option<Attached>,
    gauge: Gauge,
    governor: Governor,
    kernel: SharedKernel,
    cost: Arc<HitCost>,
    started: Instant,
    at_start: Mark,
    /// The target's CPU time at the last look.
    last_cpu_s: f64,
    phase: Phase,
    /// What was counted when the present window opened.
    at_opening: Counts,
    most_cpus: f64,
    leaving: Option<JoinHandle<Duration>>,
    windows: Vec<Window>,
    present: Window,
    /// The looks of late at the open window.
    recent: Vec<Mark>,
    over: bool,
    /// Why it is not traced any more.
    failure: Option<String>,
    /// How things stood when the governing ended.
    ended_at: Option<Mark>,
    /// The hits at the last look, and what all until then have taken, in seconds.
    hits: Hits,
    spent_s: f64,
}

/// A moment in the life of a target.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark {
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub at_ns: u64,
    /// CPU time the target has used, in seconds.
    pub cpu_s: f64,
    /// Of that, what went into probes.
    pub spent_s: f64,
    /// Allocations and frees seen, of all targets.
    pub allocs: u64,
    /// See `allocs`.
    pub frees: u64,
}

/// A time in which the probes were in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// It opened.
    pub opened: Mark,
    /// Some moments before it closed: what happened from then on is what the time after it is likely
    /// to be like. `None` in a short window, for all of it.
    pub tail: Option<Mark>,
    /// Allocations were seen until then.
    pub closed: Option<Mark>,
    /// And frees until then.
    pub drained: Option<Mark>,
}

/// From when on the end of a window is told from the rest of it.
fn tail(looks: &[Mark], opened: &Mark, closed: &Mark) -> Option<Mark> {
    let before = |look: &&Mark| seconds(look, closed) >= LEAST_TAIL_S;
    let near = looks.iter().filter(before).find(|look| seconds(look, closed) <= TAIL_S);
    let tail = near.or(looks.iter().rfind(before))?;
    (seconds(opened, tail) >= TAIL_S).then_some(*tail)
}

fn seconds(from: &Mark, to: &Mark) -> f64 {
    to.at_ns.saturating_sub(from.at_ns) as f64 / 1e9
}

impl Governed {
    /// Begins to govern probes that are in, and counted from now on.
    ///
    /// # Errors
    ///
    /// When no thread is to be had, or the counts cannot be read.
    pub fn start(
        pid: Pid,
        attached: Attached,
        gauge: Gauge,
        terms: &Terms,
        budget: f64,
    ) -> Result<Self> {
        let mut state = State {
            pid,
            attached: Some(attached),
            gauge,
            governor: Governor::new(KEPT_TO * budget),
            kernel: Arc::clone(&terms.kernel),
            cost: Arc::clone(&terms.hit_cost),
            started: Instant::now(),
            at_start: Mark::default(),
            last_cpu_s: 0.0,
            phase: Phase::Open,
            at_opening: Counts::default(),
            most_cpus: 1.0,
            leaving: None,
            windows: Vec::new(),
            present: Window::default(),
            recent: Vec::new(),
            over: false,
            failure: None,
            ended_at: None,
            hits: Hits::default(),
            spent_s: 0.0,
        };
        state.window_opens(state.gauge.counts()?);
        state.at_start = state.present.opened;
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("budget".to_owned())
            .spawn(move || govern(&of_thread))
            .context("no thread to be had for the budget")?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What the probes are doing; nothing changes while the guard is held, so not for long.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }

    /// Ends the governing; gives the probes, in or out. What windows there were stays known.
    pub fn end(&mut self) -> Option<Attached> {
        self.halt();
        let mut state = self.state();
        state.freeze();
        state.wait_until_out();
        state.attached.take()
    }

    /// Leaves the probes as they are from now on.
    fn halt(&mut self) {
        self.state().over = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A thread that has panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Drop for Governed {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Locks what several threads share; what one that panicked left is as good as any.
pub fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks at the cost again and again, and moves the probes as the budget wants it.
fn govern(shared: &Shared) {
    let mut wait = FIRST_LOOK;
    let mut state = lock(&shared.state);
    loop {
        let waited = shared.wake.wait_timeout(state, wait);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if state.over {
            return;
        }
        wait = match state.look() {
            Ok(wait) => wait,
            Err(error) => {
                // Without an eye on the cost, there must be none.
                log::info!("process {}: {error:#}", state.pid);
                state.failure = Some(format!("{error:#}"));
                state.freeze();
                if let Err(error) = state.close() {
                    log::info!("process {}: {error:#}", state.pid);
                }
                return;
            }
        };
    }
}

impl State {
    /// Which probes are in.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When the present window opened: `CLOCK_MONOTONIC`, in nanoseconds.
    pub fn opened_ns(&self) -> u64 {
        self.present.opened.at_ns
    }

    /// Windows that have closed since the last call, and the present one, which may be open still.
    pub fn take_windows(&mut self) -> (Vec<Window>, Window) {
        (std::mem::take(&mut self.windows), self.present)
    }

    /// The target's CPU time and the probes' share of it, now.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn mark(&self) -> Result<Mark> {
        match self.ended_at {
            Some(mark) => Ok(mark),
            None => Ok(self.mark_at(&self.gauge.counts()?)),
        }
    }

    /// Nothing is traced from now on.
    fn freeze(&mut self) {
        if self.ended_at.is_none() {
            self.ended_at = self.mark().ok();
        }
    }

    /// Whether there is time that was not traced.
    pub fn has_closed(&self) -> bool {
        self.present.closed.is_some() || self.governor.windows_closed() > 0
    }

    /// Adds probes of functions that were planned later; they are in and out with the others. Returns
    /// which are in place and which are not.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn add(&mut self, more: &Later<'_>) -> Result<Placed> {
        self.gauge.set_allocators(more.allocator_code, more.frees_nest)?;
        let Some(attached) = &mut self.attached else { return Ok(Placed::default()) };
        let placed = Placed::in_running(attached, &mut lock(&self.kernel), more);
        match self.phase {
            Phase::Open => {}
            Phase::Draining => self.take_out(Group::Allocations),
            Phase::Closed => self.take_out(Group::All),
        }
        Ok(placed)
    }

    /// See [`Attached::spare_children`].
    pub fn spare_children(&mut self) -> bool {
        let Some(attached) = &mut self.attached else { return false };
        attached.spare_children(&mut lock(&self.kernel))
    }

    /// Why it is not traced any more.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn mark_at(&self, counts: &Counts) -> Mark {
        Mark {
            at_ns: clock::monotonic_ns(),
            // One that is gone uses no more.
            cpu_s: clock::process_cpu_s(self.pid).unwrap_or(self.last_cpu_s),
            spent_s: self.spent_s + self.spent_since(counts),
            allocs: counts.allocs,
            frees: counts.frees,
        }
    }

    /// What hits have taken since the last look. By increments: what a hit costs changes.
    fn spent_since(&self, counts: &Counts) -> f64 {
        self.cost.seconds(&counts.hits.since(&self.hits), counts.handler_ns)
    }

    /// Looks at the cost, moves the probes; returns when to look again.
    fn look(&mut self) -> Result<Duration> {
        let counts = self.gauge.counts()?;
        let mark = self.mark_at(&counts);
        let Mark { cpu_s, spent_s, .. } = mark;
        self.last_cpu_s = cpu_s;
        (self.hits, self.spent_s) = (counts.hits, spent_s);
        let (cpu_s, spent_s) = (cpu_s - self.at_start.cpu_s, spent_s - self.at_start.spent_s);
        let frees = counts.matched_frees.wrapping_sub(self.at_opening.matched_frees);
        let allocs = counts.allocs.wrapping_sub(self.at_opening.allocs);
        let decision = self.governor.look(&Reading {
            now_s: self.started.elapsed().as_secs_f64(),
            target_cpu_s: cpu_s,
            spent_s,
            most_cpus: self.most_cpus,
            frees_of_window: frees,
            survivors: allocs.saturating_sub(frees),
        });
        if self.phase == Phase::Open {
            self.recent.retain(|earlier| seconds(earlier, &mark) < 2.0 * TAIL_S);
            self.recent.push(mark);
        }
        if decision.phase != self.phase {
            log::debug!(
                "process {}: {:?} at {:.3} s, CPU {cpu_s:.3} s, in probes {spent_s:.4} s, credit {:.4} s",
                self.pid,
                decision.phase,
                self.started.elapsed().as_secs_f64(),
                self.governor.credit_s()
            );
            match decision.phase {
                Phase::Open => self.open()?,
                Phase::Draining => self.drain()?,
                Phase::Closed => self.close()?,
            }
        }
        Ok(Duration::try_from_secs_f64(decision.look_again_in_s).unwrap_or(FIRST_LOOK))
    }

    fn open(&mut self) -> Result<()> {
        self.wait_until_out();
        let mut kernel = lock(&self.kernel);
        if let Some(attached) = &mut self.attached {
            attached.put_back(&mut kernel)?;
        }
        drop(kernel);
        self.gauge.open()?;
        self.windows.push(self.present);
        let counts = self.gauge.counts()?;
        self.window_opens(counts);
        Ok(())
    }

    fn window_opens(&mut self, counts: Counts) {
        self.phase = Phase::Open;
        self.at_opening = counts;
        let threads = process::threads(self.pid).count().max(1);
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.most_cpus = threads.min(cpus) as f64;
        self.present = Window { opened: self.mark_at(&counts), ..Window::default() };
    }

    fn drain(&mut self) -> Result<()> {
        self.gauge.drain()?;
        self.closes(self.mark()?);
        self.phase = Phase::Draining;
        self.take_out(Group::Allocations);
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.phase = Phase::Closed;
        // Whatever fails, the probes come out.
        let closed = self.gauge.close();
        let mark = self.mark();
        self.take_out(Group::All);
        let now = closed.and(mark)?;
        self.closes(now);
        self.present.drained = Some(now);
        Ok(())
    }

    /// Allocations are seen until now.
    fn closes(&mut self, now: Mark) {
        if self.present.closed.is_none() {
            self.present.closed = Some(now);
            self.present.tail = tail(&self.recent, &self.present.opened, &now);
            self.recent.clear();
        }
    }

    /// The waiting is done in a thread of its own: the breakpoints are gone long before.
    fn take_out(&mut self, what: Group) {
        let Some(attached) = &mut self.attached else { return };
        let taken = attached.take_out(what);
        let before = self.leaving.take();
        let leave = move || {
            let took = TakenOut::wait(taken);
            if let Some(before) = before {
                // A thread that has panicked has said so.
                let _ = before.join();
            }
            took
        };
        // Where no thread can be had, what was moved into it is dropped: the probes come out here.
        self.leaving = std::thread::Builder::new().spawn(leave).ok();
    }

    fn wait_until_out(&mut self) {
        if let Some(leaving) = self.leaving.take() {
            // As above.
            let _ = leaving.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Mark {
        Mark { at_ns: (seconds * 1e9) as u64, ..Mark::default() }
    }

    #[test]
    fn the_end_of_a_long_window_stands_for_the_time_after_it() {
        let check = |looks: &[f64], opened: f64, closed: f64, expected: Option<f64>| {
            let looks: Vec<Mark> = looks.iter().map(|look| at(*look)).collect();
            let found = tail(&looks, &at(opened), &at(closed)).map(|mark| mark.at_ns);
            assert_eq!(found, expected.map(|seconds| at(seconds).at_ns), "{looks:?}");
        };
        check(&[9.0, 9.5, 9.75, 9.9, 10.0], 0.0, 10.0, Some(9.75));
        check(&[9.0, 9.5, 9.99, 10.0], 0.0, 10.0, Some(9.5));
        check(&[9.85, 9.9, 10.0], 9.8, 10.0, None);
        check(&[10.0], 0.0, 10.0, None);
    }
}
