//! For how much does a window stand, in which probes slow the target down?

/// What a calibrated hit may cost more or less in the target than it was measured to.
const HIT_COST_ERROR: f64 = 0.1;
/// Of each second in probes, at least this was the target's own: a hit costs 0.5 microseconds or
/// more, and what is hit takes some nanoseconds itself.
const LEAST_OWN_SHARE: f64 = 0.005;
/// A gap that is shorter says nothing about how busy the target is.
const TELLING_S: f64 = 0.05;
const LARGEST: f64 = 1e6;
/// A weight is doubtful when its ends are further apart.
const DOUBTFUL: f64 = 1.5;

/// A stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Span {
    /// How long it was.
    pub wall_s: f64,
    /// CPU time of the target in it, probes included.
    pub cpu_s: f64,
    /// Of that, the time in probes: hits by what a hit costs.
    pub spent_s: f64,
    /// Frees that were seen in it.
    pub frees: u64,
}

impl Span {
    /// Adds another stretch.
    pub fn add(&mut self, other: &Self) {
        self.wall_s += other.wall_s;
        self.cpu_s += other.cpu_s;
        self.spent_s += other.spent_s;
        self.frees += other.frees;
    }
}

/// How many times what was seen in a window happened, by the target's own work in the window and
/// in the gap before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weight {
    /// The best guess; 1 where nothing was missed.
    pub value: f64,
    /// If a hit costs less than was measured.
    pub low: f64,
    /// If it costs more.
    pub high: f64,
}

impl Weight {
    /// Nothing was missed.
    pub const ONE: Self = Self { value: 1.0, low: 1.0, high: 1.0 };

    /// Whether it is no more than an order of magnitude: probes took so much of the window's CPU
    /// time (about two thirds) that the rest, the target's own work, is not known well.
    pub fn is_doubtful(&self) -> bool {
        self.high > DOUBTFUL * self.low
    }
}

/// What a hit costs in the target, in units of what it was measured to: learnt from windows and
/// their drains, in which the same work carries different numbers of hits.
#[derive(Clone, Copy, Debug, Default)]
pub struct HitCost {
    open: Span,
    drains: Span,
}

impl HitCost {
    /// Takes a window and the drain before it.
    pub fn learn(&mut self, window: &Span, drain: &Span) {
        for (sum, span) in [(&mut self.open, window), (&mut self.drains, drain)] {
            // The past fades: what was learnt long ago may be about another phase.
            sum.cpu_s *= 0.9;
            sum.spent_s *= 0.9;
            sum.frees = sum.frees * 9 / 10;
            sum.add(span);
        }
    }

    /// The factor; 1 until enough was seen to tell.
    ///
    /// With a free goes a certain amount of own work, seen or not: cpu/free - factor * spent/free
    /// is the same in both. That is only asked where probes take much of the time; there the two
    /// differ clearly.
    pub fn factor(&self) -> f64 {
        let (open, drains) = (&self.open, &self.drains);
        let busy = open.spent_s > 0.4 * open.cpu_s;
        if !busy || open.frees.min(drains.frees) < 1000 || open.cpu_s.min(drains.cpu_s) < 0.02 {
            return 1.0;
        }
        let each = |seconds: f64, span: &Span| seconds / span.frees as f64;
        let cpu = each(open.cpu_s, open) - each(drains.cpu_s, drains);
        let spent = each(open.spent_s, open) - each(drains.spent_s, drains);
        // Hardly any difference, or the wrong way round: the target did something else meanwhile.
        if spent < 0.2 * each(open.spent_s, open) || cpu <= 0.0 {
            return 1.0;
        }
        (cpu / spent).clamp(0.5, 2.0)
    }
}

/// The weight of a window, and the target's own work in it, in seconds of CPU time.
///
/// `drain` and `closed` are the gap after it. Work is CPU time without probes: what a target
/// allocates goes by that, whether it computes without pause or serves requests.
pub fn of_window(window: &Span, drain: &Span, closed: &Span, hit_cost: f64) -> (Weight, f64) {
    let mut gap = *closed;
    gap.add(drain);
    if window.cpu_s <= 0.0 {
        // It did nothing, or its CPU time is not known.
        let own = window.wall_s.max(1e-6);
        let by_time = if gap.cpu_s > 0.0 { 1.0 } else { 1.0 + gap.wall_s / own };
        return (exactly(by_time), own);
    }
    let spent = window.spent_s * hit_cost;
    let least = LEAST_OWN_SHARE * window.spent_s + 1e-9;
    let own = |of_spent: f64| (window.cpu_s - of_spent * spent).max(least);
    let (low, high) = (own(1.0 + HIT_COST_ERROR), own(1.0 - HIT_COST_ERROR));
    let mut best = own(1.0);
    if closed.wall_s >= TELLING_S {
        // It hardly did more than when it was left alone, as far as that is in doubt.
        best = best.min(closed.cpu_s / closed.wall_s * window.wall_s).max(low);
    }
    let missed = (closed.cpu_s - closed.spent_s).max(0.0)
        + (drain.cpu_s - drain.spent_s * hit_cost).max(LEAST_OWN_SHARE * drain.spent_s);
    let weight = |own: f64| (1.0 + missed / own).min(LARGEST);
    (Weight { value: weight(best), low: weight(high), high: weight(low) }, best)
}

fn exactly(value: f64) -> Weight {
    let value = value.clamp(1.0, LARGEST);
    Weight { value, low: value, high: value }
}
