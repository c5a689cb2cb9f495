//! From what the cohorts hold of a stack to its figures, and how sure those are.

use super::fading::Fading;
use super::{Amount, Cohort, Estimate, Evidence, Holding, OLD_S, Weight};
use crate::analyse::interval;
use crate::model::Totals;

/// Sums over all cohorts, those included that hold nothing of a stack.
pub(super) struct Sums {
    /// Work that all cohorts stand for.
    work: f64,
    /// Of the squares of each cohort's work, by w (w - 1).
    squares: f64,
    /// Cohorts that stand for more than themselves.
    sampled: f64,
}

impl Sums {
    pub(super) fn of(cohorts: &[Cohort]) -> Self {
        let mut sums = Self { work: 0.0, squares: 0.0, sampled: 0.0 };
        for Cohort { weight: Weight { value, .. }, own, .. } in cohorts {
            sums.work += value * own;
            sums.squares += value * (value - 1.0) * own * own;
            sums.sampled += f64::from(u8::from(*value > 1.0));
        }
        sums
    }

    pub(super) fn estimate(
        &self,
        amount: Amount,
        held: &[(&Cohort, &Holding)],
        fading: &Fading,
        now_ns: u64,
    ) -> Estimate {
        let (mut bytes, mut blocks, mut low, mut high) = (0.0, 0.0, 0.0, 0.0);
        let (mut sampling, mut largest, mut presumed) = (0.0, 0.0f64, 0.0);
        let mut evidence = Evidence::default();
        for (cohort, Holding { kept, when_old }) in held {
            let Cohort { weight, old_since_ns, .. } = cohort;
            let live = fading.live(cohort.looks);
            bytes += weight.value * kept.bytes * live;
            blocks += weight.value * kept.blocks * live;
            low += weight.low * kept.bytes * live;
            presumed += weight.high * kept.bytes;
            high += weight.high * kept.bytes * live;
            sampling += weight.value * kept.variance;
            if kept.count > 0 && (weight.value > 1.0 || kept.variance > 0.0) {
                largest = largest.max(weight.value * kept.bytes / kept.count as f64);
            }
            let for_s = old_since_ns.map(|since| now_ns.saturating_sub(since) as f64 * 1e-9);
            if for_s.is_some_and(|seconds| seconds >= OLD_S) && *when_old > 0 {
                evidence.old_blocks += *when_old as f64;
                let since = live / fading.live(cohort.looks_when_old).max(1e-300);
                evidence.gone_since += *when_old as f64 - kept.count as f64 * since.min(1.0);
                evidence.cohorts += u64::from(kept.count > 0);
            }
        }
        let variance = self.between_windows(bytes, held) + sampling;
        let mut outstanding = interval::of_weighted(bytes, variance, largest);
        if bytes > 0.0 {
            outstanding.low *= low / bytes;
            outstanding.high *= high / bytes;
        }
        // Those that are presumed live may all be.
        outstanding.high = outstanding.high.max(presumed);
        if bytes <= 0.0 && presumed <= 0.0 {
            outstanding.high = 0.0;
        }
        let totals = totals(amount, bytes, blocks);
        Estimate { totals, outstanding, evidence }
    }

    /// The variance of a sum over windows: windows are what was drawn, not blocks. It goes by how
    /// far each one is from what its work would have it hold.
    fn between_windows(&self, bytes: f64, held: &[(&Cohort, &Holding)]) -> f64 {
        if self.sampled < 1.0 || self.work <= 0.0 {
            return 0.0;
        }
        let rate = bytes / self.work;
        let mut squares = rate * rate * self.squares;
        for (Cohort { weight: Weight { value, .. }, own, .. }, holding) in held {
            let expected = rate * own;
            let off = holding.kept.bytes - expected;
            squares += value * (value - 1.0) * (off * off - expected * expected);
        }
        let degrees = (self.sampled - 1.0).max(1.0);
        let wider = interval::student(degrees) / interval::student(f64::INFINITY);
        squares.max(0.0) * self.sampled / degrees * wider * wider
    }
}

fn totals(allocated: Amount, live_bytes: f64, live_blocks: f64) -> Totals {
    let (live_bytes, live_blocks) = (live_bytes.round() as u64, live_blocks.round() as u64);
    let allocated_bytes = (allocated.bytes.round() as u64).max(live_bytes);
    let allocated_blocks = (allocated.blocks.round() as u64).max(live_blocks);
    Totals {
        allocated_bytes,
        allocated_blocks,
        freed_bytes: allocated_bytes - live_bytes,
        freed_blocks: allocated_blocks - live_blocks,
    }
}
