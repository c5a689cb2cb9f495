//! What windows say about the time between them: from the blocks seen in windows to the figures of
//! a whole trace. `doc/windows.md` writes the estimator down, and where it can be fooled.
//!
//! The blocks that one window saw allocated are a cohort. Each cohort stands for its window and
//! the gap after it, in proportion to the target's own work in both ([`weight`]). The caller says
//! which blocks nothing speaks against as yet.

mod fading;
mod sums;
#[cfg(test)]
mod tests;
pub mod weight;

use std::collections::HashMap;

use super::interval::{Interval, Kept};
use crate::model::{StackId, Totals};
use fading::Fading;
use sums::Sums;
pub use weight::{HitCost, Span, Weight};

/// More cohorts are merged into coarser ones, the oldest first.
const MOST_COHORTS: usize = 256;
/// The same for what is kept of stacks in all cohorts together.
const MOST_HOLDINGS: usize = 1 << 18;
/// Blocks of this age should not die any more if they leaked.
pub const OLD_S: f64 = 10.0;

/// A window, and the gap before it. A block's time of birth says whose it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// When its probes were out again (`CLOCK_MONOTONIC`), or now.
    pub to_ns: u64,
    /// The window itself.
    pub inside: Span,
    /// The drain of the window before it.
    pub drain: Span,
    /// The time without probes.
    pub closed: Span,
}

/// What a stack allocated in a window; weights of sampling are in it already.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Amount {
    /// Bytes.
    pub bytes: f64,
    /// Blocks.
    pub blocks: f64,
}

/// The blocks presumed live, by stack and cohort (see [`Windows::cohort_of`]).
pub type Live = HashMap<(StackId, usize), Kept>;

/// What is known of a stack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// What it allocated and freed, in windows and between them.
    pub totals: Totals,
    /// The 95 % interval of its outstanding bytes.
    pub outstanding: Interval,
    /// What became of its older blocks.
    pub evidence: Evidence,
}

/// What became of blocks that were old when they were last looked at. What leaks stays; what was
/// only in use, or died unseen, is freed or handed out again sooner or later.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evidence {
    /// Blocks that were [`OLD_S`] old, as long ago again or longer.
    pub old_blocks: f64,
    /// Of them, those that are gone since, as far as windows let see.
    pub gone_since: f64,
    /// Cohorts that hold such blocks.
    pub cohorts: u64,
}

/// What a cohort holds of a stack.
#[derive(Clone, Copy, Debug, Default)]
struct Holding {
    kept: Kept,
    /// Kept blocks when the cohort had become old.
    when_old: u64,
}

#[derive(Clone, Debug)]
struct Cohort {
    to_ns: u64,
    weight: Weight,
    /// The target's own work in the window.
    own: f64,
    /// Since when it is old.
    old_since_ns: Option<u64>,
    /// Looks at it since it was closed.
    looks: u32,
    looks_when_old: u32,
    stacks: HashMap<StackId, Holding>,
}

/// A window, as long as its weight may change.
#[derive(Clone, Debug, Default)]
struct Seen {
    inside: Span,
    allocated: HashMap<StackId, Amount>,
}

fn add(sums: &mut HashMap<StackId, Amount>, seen: Option<&Seen>, weight: f64) {
    for (stack, amount) in seen.iter().flat_map(|seen| &seen.allocated) {
        let sum = sums.entry(*stack).or_default();
        sum.bytes += weight * amount.bytes;
        sum.blocks += weight * amount.blocks;
    }
}

/// All windows of a trace.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    cohorts: Vec<Cohort>,
    hit_cost: HitCost,
    /// Of windows whose gap is over too.
    allocated: HashMap<StackId, Amount>,
    /// The last window that is over.
    closed: Option<Seen>,
    /// The window after it, which is not; it has the last cohort.
    open: Option<Seen>,
    fading: HashMap<StackId, Fading>,
    now_ns: u64,
}

impl Windows {
    /// A window as it is at present: it replaces what was said of it before, until it is closed.
    pub fn show(&mut self, window: &Window, allocated: HashMap<StackId, Amount>) {
        let before = if self.open.take().is_some() { self.cohorts.pop() } else { None };
        self.rest(&window.drain, &window.closed);
        let own = window.inside.cpu_s - window.inside.spent_s * self.hit_cost.factor();
        self.cohorts.push(Cohort {
            to_ns: window.to_ns,
            weight: Weight::ONE,
            own: own.max(1e-9),
            old_since_ns: before.as_ref().and_then(|b| b.old_since_ns),
            looks: 0,
            looks_when_old: 0,
            stacks: before.map(|b| b.stacks).unwrap_or_default(),
        });
        self.open = Some(Seen { inside: window.inside, allocated });
    }

    /// A window that is over. One that stays open for long is best cut in pieces of some seconds,
    /// without a gap between them: then only the last stands for the gap that follows.
    pub fn close(&mut self, window: &Window, allocated: HashMap<StackId, Amount>) {
        self.hit_cost.learn(&window.inside, &window.drain);
        self.show(window, allocated);
        let closed = self.open.take();
        let before = std::mem::replace(&mut self.closed, closed);
        let weight = self.cohorts.iter().rev().nth(1).map_or(1.0, |cohort| cohort.weight.value);
        add(&mut self.allocated, before.as_ref(), weight);
        if self.cohorts.len() > MOST_COHORTS {
            self.merge_pairs();
        }
    }

    /// The gap since the last window, as it is at present: its drain, and the time without probes.
    pub fn rest(&mut self, drain: &Span, closed: &Span) {
        let factor = self.hit_cost.factor();
        if let (Some(cohort), Some(seen)) = (self.cohorts.last_mut(), &self.closed) {
            let (weight, own) = weight::of_window(&seen.inside, drain, closed, factor);
            cohort.weight = weight;
            cohort.own = own.max(1e-9);
        }
    }

    /// The cohort of a block, by its birth. Births are stamped up to a tick too early, so one
    /// between two windows belongs to the later.
    pub fn cohort_of(&self, born_ns: u64) -> usize {
        let at = self.cohorts.partition_point(|cohort| cohort.to_ns < born_ns);
        at.min(self.cohorts.len().saturating_sub(1))
    }

    /// How many times what a cohort saw happened.
    pub fn weight_of(&self, cohort: usize) -> f64 {
        self.cohorts.get(cohort).map_or(1.0, |cohort| cohort.weight.value)
    }

    /// All blocks that are presumed live, after a window and its drain: what went since the last
    /// look was seen to go.
    pub fn take(&mut self, live: &Live, now_ns: u64) {
        self.now_ns = now_ns;
        let still_open = usize::from(self.open.is_some());
        let closed = self.cohorts.len().saturating_sub(still_open);
        self.cohorts.iter_mut().take(closed).for_each(|cohort| cohort.looks += 1);
        // What goes in a window stands for what goes in the gap before it too.
        let gap = closed.checked_sub(2).map_or(1.0, |before| self.weight_of(before));
        self.replace(live, gap);
        self.grow_old();
    }

    /// The blocks that are still presumed live when the allocator's own memory was asked, which
    /// tells of blocks that died at any time.
    pub fn check(&mut self, live: &Live) {
        self.replace(live, 1.0);
    }

    fn replace(&mut self, live: &Live, weight: f64) {
        for (index, cohort) in self.cohorts.iter_mut().enumerate() {
            for (stack, holding) in &mut cohort.stacks {
                let now = live.get(&(*stack, index)).copied().unwrap_or_default();
                let before = std::mem::replace(&mut holding.kept, now).count;
                let gone = before.saturating_sub(now.count);
                if cohort.looks > 1 && before > 0 {
                    // Asking again is no second chance to go.
                    let at_risk = if weight > 1.0 { before } else { 0 };
                    let fading = self.fading.entry(*stack).or_default();
                    fading.saw(cohort.looks, at_risk, gone, weight);
                }
            }
        }
        for ((stack, index), kept) in live {
            if let Some(cohort) = self.cohorts.get_mut(*index) {
                cohort.stacks.entry(*stack).or_default().kept = *kept;
            }
        }
    }

    fn grow_old(&mut self) {
        let now_ns = self.now_ns;
        for cohort in &mut self.cohorts {
            let is_old = now_ns.saturating_sub(cohort.to_ns) as f64 * 1e-9 >= OLD_S;
            if is_old && cohort.old_since_ns.is_none() {
                cohort.old_since_ns = Some(now_ns);
                cohort.looks_when_old = cohort.looks;
                cohort.stacks.values_mut().for_each(|h| h.when_old = h.kept.count);
            }
            cohort.stacks.retain(|_, holding| holding.kept.count + holding.when_old > 0);
        }
        while self.cohorts.len() > 4 && self.holdings() > MOST_HOLDINGS {
            self.merge_pairs();
        }
    }

    /// The share of the target's own work that fell into windows.
    pub fn share_seen(&self) -> f64 {
        let seen: f64 = self.cohorts.iter().map(|cohort| cohort.own).sum();
        let all: f64 = self.cohorts.iter().map(|cohort| cohort.own * cohort.weight.value).sum();
        if all > 0.0 { seen / all } else { 1.0 }
    }

    /// The share of the figures that stands on weights which are no more than an order of
    /// magnitude.
    pub fn share_doubtful(&self) -> f64 {
        let work = |cohort: &Cohort| cohort.own * cohort.weight.value;
        let all: f64 = self.cohorts.iter().map(work).sum();
        let doubtful = self.cohorts.iter().filter(|cohort| cohort.weight.is_doubtful());
        if all > 0.0 { doubtful.map(work).sum::<f64>() / all } else { 0.0 }
    }

    /// Each stack's figures.
    pub fn estimates(&self) -> HashMap<StackId, Estimate> {
        let mut allocated = self.allocated.clone();
        let still_open = usize::from(self.open.is_some());
        let closed = self.cohorts.iter().rev().nth(still_open);
        add(&mut allocated, self.closed.as_ref(), closed.map_or(1.0, |cohort| cohort.weight.value));
        add(&mut allocated, self.open.as_ref(), 1.0);
        let mut holdings: HashMap<StackId, Vec<(&Cohort, &Holding)>> = HashMap::new();
        for cohort in &self.cohorts {
            for (stack, holding) in &cohort.stacks {
                allocated.entry(*stack).or_default();
                holdings.entry(*stack).or_default().push((cohort, holding));
            }
        }
        let sums = Sums::of(&self.cohorts);
        let of_stack = |(stack, amount): (StackId, Amount)| {
            let held = holdings.get(&stack).map_or(&[][..], Vec::as_slice);
            let fading = self.fading.get(&stack).copied().unwrap_or_default();
            (stack, sums.estimate(amount, held, &fading, self.now_ns))
        };
        allocated.into_iter().map(of_stack).collect()
    }

    fn holdings(&self) -> usize {
        self.cohorts.iter().map(|cohort| cohort.stacks.len()).sum()
    }

    /// Merges each two of the older half; what stands for more work counts for more.
    fn merge_pairs(&mut self) {
        let half = self.cohorts.len() / 2;
        let newer = self.cohorts.split_off(half);
        let mut merged: Vec<Cohort> = Vec::with_capacity(half / 2 + 1 + newer.len());
        for (index, cohort) in self.cohorts.drain(..).enumerate() {
            match merged.last_mut() {
                Some(last) if index % 2 == 1 => last.absorb(cohort),
                _ => merged.push(cohort),
            }
        }
        merged.extend(newer);
        self.cohorts = merged;
    }
}

impl Cohort {
    fn absorb(&mut self, later: Self) {
        let own = self.own + later.own;
        let mean = |a: f64, b: f64| (a * self.own + b * later.own) / own;
        self.weight = Weight {
            value: mean(self.weight.value, later.weight.value),
            low: mean(self.weight.low, later.weight.low),
            high: mean(self.weight.high, later.weight.high),
        };
        self.own = own;
        self.looks = later.looks;
        self.looks_when_old = later.looks_when_old;
        self.to_ns = later.to_ns;
        self.old_since_ns = self.old_since_ns.zip(later.old_since_ns).map(|(a, b)| a.max(b));
        for (stack, holding) in later.stacks {
            let mine = self.stacks.entry(stack).or_default();
            mine.kept.bytes += holding.kept.bytes;
            mine.kept.blocks += holding.kept.blocks;
            mine.kept.variance += holding.kept.variance;
            mine.kept.count += holding.kept.count;
            mine.when_old += holding.when_old;
        }
    }
}
