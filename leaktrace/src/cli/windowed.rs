//! The figures of a target that is traced in windows: which of its blocks nothing speaks against,
//! and what they stand for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::governed::{Governed, Mark, State, Window};
use super::heap_look::HeapLook;
use crate::analyse::governor::Phase;
use crate::analyse::interval::{Kept, Sampling};
use crate::analyse::windows::{self, Amount, Estimate, Live, Span, Windows};
use crate::collect::KernelMaps;
use crate::model::{Slot, StackId, Totals};

/// A window that stays open is taken account of in pieces as long as this.
const LONGEST_PIECE_S: f64 = 5.0;
/// A look at all blocks takes at most this share of leaktrace's time: one part in so many.
const LOOK_SHARE: u32 = 20;
/// The most blocks that are held against the target's memory at a look.
const MOST_BLOCKS: usize = 1 << 20;

/// What is known of a target by windows.
pub struct Windowed {
    windows: Windows,
    /// The window that is taken account of: when it opened.
    opened_ns: u64,
    /// From where on it is to be taken account of.
    from: Mark,
    /// What was taken account of, and waits for the end of the window.
    inside: Span,
    /// What of a long window is told from its end.
    head: Option<Head>,
    seen_closed: bool,
    seen_drained: bool,
    /// The drain of the window, which belongs to the gap behind it.
    drained: Span,
    drained_at: Mark,
    /// The gap before the window.
    gap_drain: Span,
    gap_closed: Span,
    /// What each stack had allocated when the last cohort ended.
    allocated_before: HashMap<StackId, Totals>,
    estimates: HashMap<StackId, Estimate>,
    heap: HeapLook,
    /// The blocks of later births are of a window that is not over.
    until_ns: u64,
    last_look: (Instant, Duration),
    /// All looks at the target's memory together.
    looking: Duration,
    times: Times,
    /// What the present window and the gap behind it add, so far.
    running: Times,
    refuted: u64,
    is_estimate: bool,
    /// Frees are counted over all targets: only where there is one do they say anything of it.
    is_alone: bool,
    /// The target has ended: its memory is nobody's, or another's.
    is_gone: bool,
}

/// A window but for its end.
#[derive(Clone, Copy, Debug)]
struct Head {
    to_ns: u64,
    inside: Span,
    /// Which share of what the window saw allocated it saw until then.
    share: f64,
}

/// How long the probes were in and out, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Windows that opened.
    pub opened: u64,
    /// All probes in.
    pub open_s: f64,
    /// Only those that see frees.
    pub draining_s: f64,
    /// None.
    pub closed_s: f64,
}

impl Windowed {
    /// For a target whose first window is open.
    pub fn new(heap: HeapLook) -> Self {
        Self {
            windows: Windows::default(),
            opened_ns: 0,
            from: Mark::default(),
            inside: Span::default(),
            head: None,
            seen_closed: true,
            seen_drained: true,
            drained: Span::default(),
            drained_at: Mark::default(),
            gap_drain: Span::default(),
            gap_closed: Span::default(),
            allocated_before: HashMap::new(),
            estimates: HashMap::new(),
            heap,
            until_ns: 0,
            last_look: (Instant::now(), Duration::ZERO),
            looking: Duration::ZERO,
            times: Times::default(),
            running: Times::default(),
            refuted: 0,
            is_estimate: false,
            is_alone: true,
            is_gone: false,
        }
    }

    /// The same target, of which nothing is known yet.
    pub fn afresh(self) -> Self {
        Self::new(self.heap)
    }

    /// Its allocators are others now.
    pub fn look_by(&mut self, heap: HeapLook) {
        self.heap = heap;
    }

    /// What happens around it: whether it is the only target, and whether it has ended.
    pub fn placed(&mut self, is_alone: bool, is_gone: bool) {
        (self.is_alone, self.is_gone) = (is_alone, is_gone);
    }

    /// Whether there was any window that closed: what was counted is not all then.
    pub fn is_estimate(&self) -> bool {
        self.is_estimate
    }

    /// What each stack is estimated to have allocated and to hold.
    pub fn estimates(&self) -> &HashMap<StackId, Estimate> {
        &self.estimates
    }

    /// The share of the target's own work that fell into windows, from 0 to 1.
    pub fn share_seen(&self) -> f64 {
        if self.is_estimate { self.windows.share_seen() } else { 1.0 }
    }

    /// The share of the figures, from 0 to 1, that is no more than an order of magnitude.
    pub fn share_doubtful(&self) -> f64 {
        if self.is_estimate { self.windows.share_doubtful() } else { 0.0 }
    }

    /// How long the probes were in and out so far.
    pub fn times(&self) -> Times {
        Times {
            opened: self.times.opened,
            open_s: self.times.open_s + self.running.open_s,
            draining_s: self.times.draining_s + self.running.draining_s,
            closed_s: self.times.closed_s + self.running.closed_s,
        }
    }

    /// What looks at the target's memory took so far; they keep to a share of their own.
    pub fn looking(&self) -> Duration {
        self.looking
    }

    /// Blocks that were found dead without a free of them having been seen.
    pub fn refuted(&self) -> u64 {
        self.refuted
    }

    /// Blocks that nothing could be said about at the last look.
    pub fn unjudged(&self) -> u64 {
        if self.is_estimate { self.heap.unjudged } else { 0 }
    }

    /// How many times a block stands for itself.
    pub fn weight_of(&self, born_ns: u64) -> f64 {
        match self.is_estimate {
            true if born_ns > self.until_ns => 0.0,
            true => self.windows.weight_of(self.windows.cohort_of(born_ns)),
            false => 1.0,
        }
    }

    /// Takes account of what has happened since the last call. Returns whether the estimates have
    /// changed. `last`: the governing has ended, and nothing more will come.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn follow(
        &mut self,
        governed: &Governed,
        maps: &mut KernelMaps,
        slot: Slot,
        counted: &HashMap<StackId, Totals>,
        last: bool,
    ) -> Result<bool> {
        let now = {
            let mut state = governed.state();
            let (windows, present) = state.take_windows();
            for window in windows.iter().chain([&present]) {
                self.take(window);
            }
            let now = state.mark()?;
            self.run_on(&present, now);
            if !self.is_estimate && present.closed.is_none() && self.times.opened < 2 {
                return Ok(false);
            }
            now
        };
        if self.seen_drained {
            self.windows.rest(&self.drained, &span(self.drained_at, now));
        }
        let over = self.seen_drained && self.inside.wall_s > 0.0;
        let long = !self.seen_closed && seconds(self.from, now) > LONGEST_PIECE_S;
        // The window, or the drain, that the trace ended in.
        let cut_short = last && !self.seen_drained;
        if over {
            self.end_cohort(self.drained_at.at_ns, counted);
        } else if long || cut_short {
            if !self.seen_closed {
                self.inside.add(&span(self.from, now));
                self.from = now;
            }
            self.end_cohort(now.at_ns, counted);
        } else if !last {
            return Ok(false);
        }
        if over || long || cut_short {
            self.windows.take(&self.live(maps, slot)?, now.at_ns);
        }
        let (at, took) = self.last_look;
        // A heap that takes long to look at does not keep the windows from being looked at.
        if last || at.elapsed() >= took * LOOK_SHARE {
            let started = Instant::now();
            self.refute(governed, maps, slot, last)?;
            self.windows.check(&self.live(maps, slot)?);
            self.last_look = (Instant::now(), started.elapsed());
            self.looking += self.last_look.1;
        }
        self.estimates = self.windows.estimates();
        // What was counted is the best there is until then.
        self.is_estimate = true;
        Ok(true)
    }

    /// Takes account of a window as far as it has come.
    fn take(&mut self, window: &Window) {
        if window.opened.at_ns != self.opened_ns {
            if self.times.opened > 0 {
                let closed = span(self.drained_at, window.opened);
                self.times.closed_s += closed.wall_s;
                self.gap_closed.add(&closed);
                self.gap_drain.add(&std::mem::take(&mut self.drained));
            }
            self.times.opened += 1;
            self.opened_ns = window.opened.at_ns;
            self.from = window.opened;
            (self.seen_closed, self.seen_drained) = (false, false);
        }
        if let Some(closed) = window.closed.filter(|_| !self.seen_closed) {
            self.seen_closed = true;
            if let Some(tail) = window.tail.filter(|tail| tail.at_ns > self.from.at_ns) {
                let mut inside = std::mem::take(&mut self.inside);
                inside.add(&span(self.from, tail));
                let allocs = |from: Mark, to: Mark| to.allocs.saturating_sub(from.allocs) as f64;
                let share = allocs(self.from, tail) / allocs(self.from, closed).max(1.0);
                self.head = Some(Head { to_ns: tail.at_ns, inside, share: share.min(1.0) });
                self.from = tail;
            }
            self.inside.add(&span(self.from, closed));
            self.times.open_s += seconds(window.opened, closed);
        }
        if let Some((closed, drained)) = window.closed.zip(window.drained)
            && !self.seen_drained
        {
            self.seen_drained = true;
            self.drained = span(closed, drained);
            self.drained_at = drained;
            self.times.draining_s += self.drained.wall_s;
        }
    }

    /// Counts the time since the last change.
    fn run_on(&mut self, present: &Window, now: Mark) {
        self.running = Times::default();
        match (present.closed, present.drained) {
            (None, _) => self.running.open_s = seconds(present.opened, now),
            (Some(closed), None) => self.running.draining_s = seconds(closed, now),
            (_, Some(drained)) => self.running.closed_s = seconds(drained, now),
        }
    }

    /// What was allocated since the last cohort is one.
    fn end_cohort(&mut self, to_ns: u64, counted: &HashMap<StackId, Totals>) {
        let mut allocated = HashMap::new();
        for (stack, totals) in counted {
            let before = self.allocated_before.insert(*stack, *totals).unwrap_or_default();
            let bytes = totals.allocated_bytes.saturating_sub(before.allocated_bytes) as f64;
            let blocks = totals.allocated_blocks.saturating_sub(before.allocated_blocks) as f64;
            if blocks > 0.0 {
                allocated.insert(*stack, Amount { bytes, blocks });
            }
        }
        if let Some(Head { to_ns, inside, share }) = self.head.take() {
            let part = |share: f64| {
                let of = |amount: &Amount| Amount {
                    bytes: share * amount.bytes,
                    blocks: share * amount.blocks,
                };
                allocated.iter().map(|(stack, amount)| (*stack, of(amount))).collect()
            };
            let (before, after): (HashMap<_, _>, _) = (part(share), part(1.0 - share));
            let window = windows::Window {
                to_ns,
                inside,
                drain: std::mem::take(&mut self.gap_drain),
                closed: std::mem::take(&mut self.gap_closed),
            };
            self.windows.close(&window, before);
            allocated = after;
        }
        let mut window = windows::Window {
            to_ns,
            inside: std::mem::take(&mut self.inside),
            drain: std::mem::take(&mut self.gap_drain),
            closed: std::mem::take(&mut self.gap_closed),
        };
        if !self.is_alone {
            (window.inside.frees, window.drain.frees) = (0, 0);
        }
        self.windows.close(&window, allocated);
        self.until_ns = to_ns;
    }

    /// Takes out the blocks that the target's memory says are free.
    fn refute(
        &mut self,
        governed: &Governed,
        maps: &mut KernelMaps,
        slot: Slot,
        last: bool,
    ) -> Result<()> {
        let closed =
            |state: &State| state.phase() == Phase::Closed && state.opened_ns() == self.opened_ns;
        if self.is_gone || (!last && !closed(&governed.state())) {
            return Ok(());
        }
        let mut blocks = Vec::new();
        maps.for_each_block(|address, of, block| {
            if of == slot && blocks.len() < MOST_BLOCKS {
                blocks.push((address, block.size));
            }
        })?;
        blocks.sort_unstable();
        let dead = self.heap.dead(blocks);
        // What a window that has opened meanwhile sees at the same address is another block.
        let state = governed.state();
        let is_closed = state.phase() == Phase::Closed && state.opened_ns() == self.opened_ns;
        if is_closed || last {
            let dead: Vec<_> = dead.into_iter().map(|address| (slot, address)).collect();
            self.refuted += maps.remove_blocks(&dead)?;
        }
        Ok(())
    }

    /// The blocks that nothing speaks against.
    fn live(&self, maps: &KernelMaps, slot: Slot) -> Result<Live> {
        let sampling = Sampling { mean_bytes: maps.terms().sampling.bytes };
        let mut live = Live::new();
        maps.for_each_block(|_, of, block| {
            if of == slot && block.born_ns <= self.until_ns {
                let cohort = self.windows.cohort_of(block.born_ns);
                let kept: &mut Kept = live.entry((block.stack, cohort)).or_default();
                kept.add(block.size, sampling);
            }
        })?;
        Ok(live)
    }
}

fn seconds(from: Mark, to: Mark) -> f64 {
    to.at_ns.saturating_sub(from.at_ns) as f64 / 1e9
}

fn span(from: Mark, to: Mark) -> Span {
    Span {
        wall_s: seconds(from, to),
        cpu_s: (to.cpu_s - from.cpu_s).max(0.0),
        spent_s: (to.spent_s - from.spent_s).max(0.0),
        frees: to.frees.saturating_sub(from.frees),
    }
}
