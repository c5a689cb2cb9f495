//! When are the probes in, so that a target is slowed down by no more than it was promised?
//!
//! A token bucket. The target earns credit by the CPU time that is its own, the budget's share of
//! it; each hit of a probe spends what a hit costs. While the credit lasts the window is open:
//! allocations, reallocations and frees are seen. A part of it is kept for the drain, in which
//! only frees are, until short-lived blocks have died. Then all probes are out until there is
//! credit for another window. Where the credit never runs short, the first window never closes.
//!
//! There is no clock here: whoever drives it says what time it is. What it cannot foresee (a rate
//! that jumps between two looks, probes that take long to go) becomes debt, which is paid before
//! the next window opens.

mod pace;
#[cfg(test)]
mod tests;

use pace::Pace;

/// What a trace may spend before the target has earned anything, in seconds of CPU time.
pub const INITIAL_CREDIT_S: f64 = 0.05;
/// From one window's opening to the next, where the budget allows it.
pub const PERIOD_S: f64 = 2.0;
/// A window that sees less than this is not worth its attaching.
pub const LEAST_OPEN_S: f64 = 0.02;

/// A target that uses less than this many CPUs is granted what this would earn: 1 ms a second at
/// 5 %. Else one that sleeps nearly always could be looked at nearly never.
const LEAST_CPUS: f64 = 0.02;
/// This share of a window's credit is kept for its drain.
const DRAIN_SHARE: f64 = 0.25;
/// And up to this one, where a drain would else be over before it begins.
const MOST_DRAIN_SHARE: f64 = 0.6;
/// A drain that has taken this long ends.
const LONGEST_DRAIN_S: f64 = 1.0;
/// A drain is over when fewer than this share of the survivors were freed in its last slice.
const DRAINED: f64 = 0.01;
const LEAST_SLICE_S: f64 = 0.02;
/// At most so many windows' worth of credit is saved up.
const SAVED_WINDOWS: f64 = 2.0;
/// Credit below which no window opens, however little it would cost.
const LEAST_CREDIT_S: f64 = 0.001;
/// What putting the probes in takes, in which some of them are hit already.
const ATTACHING_S: f64 = 0.02;
const SOONEST_LOOK_S: f64 = 0.005;
const LATEST_LOOK_S: f64 = 0.5;

/// Which probes are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All.
    Open,
    /// Those that see blocks go: frees, and reallocations as frees of their old blocks.
    Draining,
    /// None.
    Closed,
}

/// What is known at a look. The sums run from the beginning of the trace.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Seconds since tracing began.
    pub now_s: f64,
    /// CPU time of the target, its time in probes included.
    pub target_cpu_s: f64,
    /// Of that, the time in probes: hits by what a hit costs.
    pub spent_s: f64,
    /// The most CPUs that the target can use: its threads, or the machine's CPUs if fewer.
    pub most_cpus: f64,
    /// Frees seen of blocks that the present window saw allocated.
    pub frees_of_window: u64,
    /// Blocks that the present window saw allocated and not freed.
    pub survivors: u64,
}

/// What to do until the next look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// Which probes are to be in.
    pub phase: Phase,
    /// When to look again.
    pub look_again_in_s: f64,
}

/// Decides which probes are in.
#[derive(Clone, Debug)]
pub struct Governor {
    budget: f64,
    phase: Phase,
    /// Seconds of probe time that may be spent; negative when too much was.
    credit_s: f64,
    last: Reading,
    pace: Pace,
    opened_at_s: f64,
    phase_since_s: f64,
    /// What the drain of this window may use.
    drain_part_s: f64,
    slice: Slice,
    windows_closed: u64,
}

/// A part of a drain.
#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    since_s: f64,
    frees: u64,
}

impl Governor {
    /// `budget` is the promised slowdown: 0.05 for 5 %. The first window is open.
    pub fn new(budget: f64) -> Self {
        Self {
            budget: budget.clamp(1e-4, 1e3),
            phase: Phase::Open,
            credit_s: INITIAL_CREDIT_S,
            last: Reading::default(),
            pace: Pace::default(),
            opened_at_s: 0.0,
            phase_since_s: 0.0,
            drain_part_s: DRAIN_SHARE * INITIAL_CREDIT_S,
            slice: Slice::default(),
            windows_closed: 0,
        }
    }

    /// Which probes are in, by the last decision.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Windows that were closed so far; 0 means that the trace is exact.
    pub fn windows_closed(&self) -> u64 {
        self.windows_closed
    }

    /// Seconds of probe time that may still be spent.
    pub fn credit_s(&self) -> f64 {
        self.credit_s
    }

    /// Takes a reading and decides. A reading older than the last changes nothing.
    pub fn look(&mut self, reading: &Reading) -> Decision {
        self.book(reading);
        let phase = self.phase;
        match phase {
            Phase::Open if self.credit_s <= self.drain_part_s + self.closing_costs_s() => {
                self.windows_closed += 1;
                self.slice = Slice { since_s: reading.now_s, frees: reading.frees_of_window };
                let drains = self.credit_s > self.closing_costs_s();
                self.enter(if drains { Phase::Draining } else { Phase::Closed }, reading);
                self.pace.probes_go();
            }
            Phase::Draining if self.drained(reading) => {
                self.pace.probes_go();
                self.enter(Phase::Closed, reading);
            }
            Phase::Closed if self.may_open(reading) => {
                self.opened_at_s = reading.now_s;
                self.pace.window_begins();
                let switching_s = self.pace.burn() * self.pace.switching_s();
                let most_s = MOST_DRAIN_SHARE * self.credit_s;
                self.drain_part_s = (DRAIN_SHARE * self.credit_s).max(switching_s).min(most_s);
                self.enter(Phase::Open, reading);
            }
            Phase::Open | Phase::Draining | Phase::Closed => {}
        }
        let in_s = self.next_look_s(reading).clamp(SOONEST_LOOK_S, LATEST_LOOK_S);
        Decision { phase: self.phase, look_again_in_s: in_s }
    }

    fn enter(&mut self, phase: Phase, reading: &Reading) {
        self.phase = phase;
        self.phase_since_s = reading.now_s;
    }

    fn book(&mut self, reading: &Reading) {
        let seconds = reading.now_s - self.last.now_s;
        if seconds <= 0.0 || !seconds.is_finite() {
            return;
        }
        let cpu_s = (reading.target_cpu_s - self.last.target_cpu_s).max(0.0);
        let spent_s = (reading.spent_s - self.last.spent_s).max(0.0);
        self.last = *reading;
        let own_s = (cpu_s - spent_s).max(0.0);
        self.credit_s += self.budget * own_s.max(LEAST_CPUS * seconds) - spent_s;
        self.pace.take(self.phase, seconds, own_s, cpu_s, spent_s);
        let worth = self.budget * self.pace.own_cpus() * PERIOD_S * SAVED_WINDOWS;
        self.credit_s = self.credit_s.min(worth.max(INITIAL_CREDIT_S).max(1.2 * self.need_s()));
    }

    /// What the probes cost until they are gone, beyond what the target earns meanwhile.
    fn closing_costs_s(&self) -> f64 {
        let beyond = self.pace.burn() - self.budget * self.pace.own_of_late();
        beyond.max(0.0) * self.pace.leaving_s()
    }

    /// The credit that a window takes, by what the last one took.
    fn need_s(&self) -> f64 {
        let least_s = LEAST_OPEN_S + ATTACHING_S + self.pace.ending_s();
        (self.pace.expected_burn() * least_s).max(LEAST_CREDIT_S)
    }

    fn may_open(&self, reading: &Reading) -> bool {
        self.credit_s >= self.need_s() && reading.now_s - self.opened_at_s >= PERIOD_S
    }

    /// Whether the drain is over: nothing more to see, or no more credit.
    fn drained(&mut self, reading: &Reading) -> bool {
        let taken_s = reading.now_s - self.phase_since_s;
        if self.credit_s <= self.closing_costs_s() || taken_s >= LONGEST_DRAIN_S {
            return true;
        }
        if reading.now_s - self.slice.since_s < self.slice_s(taken_s) {
            return false;
        }
        let freed = reading.frees_of_window.saturating_sub(self.slice.frees) as f64;
        self.slice = Slice { since_s: reading.now_s, frees: reading.frees_of_window };
        freed <= DRAINED * (reading.survivors as f64 + freed)
    }

    /// Slices grow with the drain: what lives ten times as long is waited for ten times as long.
    fn slice_s(&self, taken_s: f64) -> f64 {
        LEAST_SLICE_S.max(taken_s / 3.0)
    }

    fn next_look_s(&self, reading: &Reading) -> f64 {
        match self.phase {
            Phase::Open => {
                let left_s = self.credit_s - self.drain_part_s - self.closing_costs_s();
                self.careful_s(left_s, reading)
            }
            Phase::Draining => {
                let left_s = self.credit_s - self.closing_costs_s();
                let slice_s = self.slice_s(reading.now_s - self.phase_since_s);
                self.careful_s(left_s, reading).min(slice_s)
            }
            Phase::Closed => {
                let due_s = self.opened_at_s + PERIOD_S - reading.now_s;
                let earning = self.budget * self.pace.own_cpus().max(LEAST_CPUS);
                due_s.max((self.need_s() - self.credit_s) / earning)
            }
        }
    }

    /// Half of what is left may go until the next look at the rate of late; and should the target
    /// begin to do nothing but allocate, on all its CPUs, half of it again, or what half a period
    /// pays for.
    fn careful_s(&self, left_s: f64, reading: &Reading) -> f64 {
        let by_rate = 0.5 * left_s / self.pace.burn().max(1e-9);
        let settled = reading.now_s - self.phase_since_s > 0.2;
        let payable_s = if settled { 0.5 * PERIOD_S * self.budget } else { 0.0 };
        by_rate.min((0.5 * left_s / reading.most_cpus.max(1.0)).max(payable_s))
    }
}
